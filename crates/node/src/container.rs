//! From a container's spec to what the runtime makes of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use schema::api::core::v1::{Container, FileKeySelector, PodSecurityContext, SecurityContext, VolumeMount};

use crate::config::Config;
use crate::pod::{Desired, Member};
use crate::ports::{ContainerConfig, Device, Image, ImageMount, Mount, Profile, Propagation, SandboxConfig, Security};
use crate::volumes::{self, Set};
use crate::{env, resources};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Env(#[from] env::Error),
    #[error(transparent)]
    Volume(#[from] volumes::Error),
    #[error("volume \"{0}\" is not mounted")]
    NoVolume(String),
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RootUser { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RootImage { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

pub struct Parts<'a> {
    pub config: &'a Config,
    pub sources: &'a env::Sources<'a>,
    pub volumes: &'a Set,
    pub image: &'a Image,
    pub sizing: &'a resources::Sizing,
    /// Of the container that an ephemeral one looks at.
    pub target_id: String,
}

/// What the pod's UTS namespace and /etc/hostname say.
pub fn hostname(config: &Config, desired: &Desired) -> String {
    let spec = &desired.pod.spec;
    match (spec.host_network, spec.set_hostname_as_fqdn, desired.fqdn(&config.cluster_domain)) {
        (true, _, _) => config.hostname().to_owned(),
        (_, Some(true), Some(fqdn)) => fqdn,
        _ => desired.hostname(),
    }
}

/// What a kernel takes.
const MAX_HOSTNAME: usize = 64;

/// The sandbox of a pod, or why it cannot be.
pub fn sandbox(config: &Config, desired: &Desired, attempt: u32) -> Result<SandboxConfig, String> {
    let (meta, spec) = (&desired.pod.metadata, &desired.pod.spec);
    let hostname = hostname(config, desired);
    if hostname.len() > MAX_HOSTNAME {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long ({MAX_HOSTNAME} characters is the max, {} characters requested)",
            hostname.len()
        ));
    }
    let security = spec.security_context.as_ref();
    Ok(SandboxConfig {
        uid: meta.uid.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        attempt,
        handler: String::new(),
        hostname,
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_process_namespace: spec.share_process_namespace == Some(true),
        user_namespace: None,
        sysctls: security
            .into_iter()
            .flat_map(|of| &of.sysctls)
            .map(|of| (of.name.clone(), of.value.clone()))
            .collect(),
        ports: crate::acts::mappings(desired),
        cgroup: resources::cgroup(&desired.pod),
        log_directory: config.log_dir(&meta.namespace, &meta.name, &meta.uid),
    })
}

pub fn make(parts: &Parts<'_>, member: &Member, attempt: u32) -> Result<ContainerConfig, Error> {
    let desired = parts.sources.desired;
    let container = &member.container;
    let read = |of: &FileKeySelector| {
        let volume = parts.volumes.get(&of.volume_name).ok_or_else(|| env::Error::NoVolume(of.volume_name.clone()))?;
        volumes::read_beneath(&volume.host_path, &of.path).map_err(|_| env::Error::EnvFile)
    };
    let env = env::make(parts.sources, container, read)?;
    let lookup = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded = |list: &[String]| list.iter().map(|text| env::expand(text, lookup)).collect::<Vec<_>>();
    let security = security(parts.config, desired, container);
    verify_user(desired, container, &security, parts.image)?;
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        mounts.push(volume_mount(parts, desired, container, index, mount, &lookup)?);
    }
    mounts.extend(managed(parts, desired, container, attempt)?);
    let mut devices = Vec::new();
    for device in &container.volume_devices {
        let volume = parts.volumes.get(&device.name).ok_or_else(|| Error::NoVolume(device.name.clone()))?;
        let permissions = if volume.readonly { "r" } else { "mrw" }.into();
        let (host_path, container_path) = (volume.host_path.clone(), device.device_path.clone().into());
        devices.push(Device { host_path, container_path, permissions });
    }
    let stop_signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt,
        spec_hash: member.hash,
        image: container.image.clone(),
        image_id: parts.image.id.clone(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone(),
        mounts,
        devices,
        cdi_devices: Vec::new(),
        resources: resources::of_container(desired, member, parts.sizing),
        security,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        log_path: PathBuf::from(&container.name).join(format!("{attempt}.log")),
        stop_signal: stop_signal.filter(|signal| !signal.is_empty()),
        env,
        target_id: parts.target_id.clone(),
    })
}

fn volume_mount(
    parts: &Parts<'_>,
    desired: &Desired,
    container: &Container,
    index: usize,
    mount: &VolumeMount,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Mount, Error> {
    let volume = parts.volumes.get(&mount.name).ok_or_else(|| Error::NoVolume(mount.name.clone()))?;
    let sub_path =
        if mount.sub_path_expr.is_empty() { mount.sub_path.clone() } else { env::expand(&mount.sub_path_expr, lookup) };
    let host_path = if sub_path.is_empty() || volume.image.is_some() {
        volume.host_path.clone()
    } else {
        let target = parts
            .config
            .pod_dir(desired.uid())
            .join("volume-subpaths")
            .join(&mount.name)
            .join(&container.name)
            .join(index.to_string());
        volumes::bind_subpath(&volume.host_path, &sub_path, &target)?;
        target
    };
    let readonly = mount.read_only || volume.readonly;
    Ok(Mount {
        host_path,
        image: volume.image.clone().map(|image| ImageMount { sub_path, ..image }),
        container_path: absolute(&mount.mount_path),
        readonly,
        recursive_readonly: readonly && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// Where the termination message of a run is written.
pub fn termination_log(config: &Config, uid: &str, container: &str, attempt: u32) -> PathBuf {
    config.pod_dir(uid).join("containers").join(container).join(format!("{attempt:08x}"))
}

/// /etc/hosts, /etc/hostname, /etc/resolv.conf and the termination log, unless a volume stands there.
fn managed(parts: &Parts<'_>, desired: &Desired, container: &Container, attempt: u32) -> Result<Vec<Mount>, Error> {
    let dir = parts.config.pod_dir(desired.uid());
    let mut mounts = Vec::new();
    let taken = |path: &str| container.volume_mounts.iter().any(|mount| absolute(&mount.mount_path) == Path::new(path));
    for (name, path) in
        [("etc-hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
    {
        let host_path = dir.join(name);
        if !taken(path) && host_path.exists() {
            mounts.push(Mount { host_path, container_path: path.into(), ..Mount::default() });
        }
    }
    let path = if container.termination_message_path.is_empty() {
        "/dev/termination-log"
    } else {
        &container.termination_message_path
    };
    if !taken(path) {
        let host_path = termination_log(parts.config, desired.uid(), &container.name, attempt);
        let failed = |source| Error::Io { what: "make the termination log", path: host_path.clone(), source };
        if let Some(parent) = host_path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&host_path, b"").map_err(failed)?;
        // Any user of the container may write it.
        fs::set_permissions(&host_path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        mounts.push(Mount { host_path, container_path: absolute(path), ..Mount::default() });
    }
    Ok(mounts)
}

/// Pod and container security contexts as one; the container's stands above.
pub fn security(config: &Config, desired: &Desired, container: &Container) -> Security {
    let none = SecurityContext::default();
    let no_pod = PodSecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let pod = desired.pod.spec.security_context.as_ref().unwrap_or(&no_pod);
    let privileged = own.privileged == Some(true);
    let profile = |kind: &str, name: Option<&String>| match kind {
        "Unconfined" => Profile::Unconfined,
        "Localhost" => Profile::Localhost(name.cloned().unwrap_or_default()),
        _ => Profile::RuntimeDefault,
    };
    let seccomp = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let apparmor = own.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref());
    // Without a word about it a container is unconfined, as upstream's.
    let without = if config.seccomp_default && !privileged { Profile::RuntimeDefault } else { Profile::Unconfined };
    let mut supplemental_groups = pod.supplemental_groups.clone();
    supplemental_groups.extend(pod.fs_group);
    let capabilities = own.capabilities.as_ref();
    Security {
        privileged,
        run_as_user: own.run_as_user.or(pod.run_as_user),
        run_as_group: own.run_as_group.or(pod.run_as_group),
        run_as_non_root: own.run_as_non_root.or(pod.run_as_non_root) == Some(true),
        supplemental_groups,
        supplemental_groups_strict: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        add_capabilities: capabilities.map(|of| of.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.map(|of| of.drop.clone()).unwrap_or_default(),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        readonly_root: own.read_only_root_filesystem == Some(true),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        seccomp: seccomp.map_or(without, |of| profile(&of.r#type, of.localhost_profile.as_ref())),
        apparmor: match apparmor {
            Some(of) => profile(&of.r#type, of.localhost_profile.as_ref()),
            None if privileged => Profile::Unconfined,
            None => Profile::RuntimeDefault,
        },
    }
}

fn verify_user(desired: &Desired, container: &Container, security: &Security, image: &Image) -> Result<(), Error> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let (pod, container) = (desired.label(), container.name.clone());
    let user = image.user.split(':').next().unwrap_or_default();
    match security.run_as_user {
        Some(0) => Err(Error::RootUser { pod, container }),
        Some(_) => Ok(()),
        None => match user.parse::<i64>() {
            Ok(0) => Err(Error::RootImage { pod, container }),
            Ok(_) => Ok(()),
            Err(_) if user.is_empty() => Err(Error::RootImage { pod, container }),
            Err(_) => Err(Error::NamedUser { user: user.to_owned(), pod, container }),
        },
    }
}

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`.
pub fn log_link(config: &Config, desired: &Desired, container: &str, id: &str) -> PathBuf {
    let meta = &desired.pod.metadata;
    let head = format!("{}_{}_{container}", meta.name, meta.namespace);
    // A file name has at most 255 bytes.
    let head = head.get(..255 - id.len() - 5).unwrap_or(&head);
    config.log_links.join(format!("{head}-{id}.log"))
}
