//! What a node wants of a pod and a container, as CRI's messages say it.

use node::ports::{self, ContainerConfig, Profile, Propagation, Resources, SandboxConfig};
use rpc::cri::{self, NamespaceMode};

use super::super::runtime::{SPEC_HASH, labels};

/// What a later start must know of a sandbox, kept by the runtime as annotations.
const LOG_DIRECTORY: &str = "sampan.io/log-directory";
const HOSTNAME: &str = "sampan.io/hostname";
const CGROUP: &str = "sampan.io/cgroup-parent";

pub fn resources(asked: &Resources) -> cri::LinuxContainerResources {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    cri::LinuxContainerResources {
        cpu_period: signed(asked.cpu_period_us),
        cpu_quota: asked.cpu_quota_us,
        cpu_shares: signed(asked.cpu_shares),
        memory_limit_in_bytes: signed(asked.memory_limit_bytes),
        memory_swap_limit_in_bytes: signed(asked.memory_limit_bytes),
        oom_score_adj: asked.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|(size, limit)| cri::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        unified: asked.oom_group.then(|| ("memory.oom.group".to_owned(), "1".to_owned())).into_iter().collect(),
    }
}

fn profile(asked: &Profile) -> Option<cri::SecurityProfile> {
    use cri::security_profile::ProfileType;
    let (kind, file) = match asked {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        Profile::Unconfined => (ProfileType::Unconfined, ""),
        Profile::Localhost(file) => (ProfileType::Localhost, file.as_str()),
    };
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.to_owned() })
}

fn security(asked: &ports::Security, namespaces: Option<cri::NamespaceOption>) -> cri::LinuxContainerSecurityContext {
    let id = |id: Option<i64>| id.map(|value| cri::Int64Value { value });
    let hidden = !asked.unmasked_proc && !asked.privileged;
    let paths = |usual: &[&str]| usual.iter().filter(|_| hidden).map(|path| (*path).to_owned()).collect();
    let policy = if asked.supplemental_groups_strict {
        cri::SupplementalGroupsPolicy::Strict
    } else {
        cri::SupplementalGroupsPolicy::Merge
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: asked.add_capabilities.clone(),
            drop_capabilities: asked.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: asked.privileged,
        namespace_options: namespaces,
        run_as_user: id(asked.run_as_user),
        // A group alone has no meaning in CRI.
        run_as_group: id(asked.run_as_group.filter(|_| asked.run_as_user.is_some())),
        readonly_rootfs: asked.readonly_root,
        supplemental_groups: asked.supplemental_groups.clone(),
        supplemental_groups_policy: policy.into(),
        no_new_privs: asked.no_new_privileges,
        masked_paths: paths(&runtime::containers::MASKED_PATHS),
        readonly_paths: paths(&runtime::containers::READONLY_PATHS),
        seccomp: profile(&asked.seccomp),
        apparmor: profile(&asked.apparmor).filter(|_| !matches!(asked.apparmor, Profile::RuntimeDefault)),
        ..Default::default()
    }
}

pub fn sandbox_config(asked: &SandboxConfig, parent: String) -> cri::PodSandboxConfig {
    let mode = |host| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (asked.host_pid, asked.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    let users = asked.user_namespace.map(|(host_id, length)| {
        let ids = vec![cri::IdMapping { host_id, container_id: 0, length }];
        cri::UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids }
    });
    let namespaces = cri::NamespaceOption {
        network: mode(asked.host_network).into(),
        pid: pid.into(),
        ipc: mode(asked.host_ipc).into(),
        userns_options: users,
        ..Default::default()
    };
    let log_directory = asked.log_directory.to_string_lossy().into_owned();
    let port = |port: &ports::PortMapping| cri::PortMapping {
        protocol: cri::Protocol::from_str_name(&port.protocol).unwrap_or_default().into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map_or(String::new(), |ip| ip.to_string()),
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: asked.name.clone(),
            uid: asked.uid.clone(),
            namespace: asked.namespace.clone(),
            attempt: asked.attempt,
        }),
        hostname: if asked.host_network { String::new() } else { asked.hostname.clone() },
        labels: labels(&asked.name, &asked.namespace, &asked.uid).collect(),
        annotations: [
            (LOG_DIRECTORY.to_owned(), log_directory.clone()),
            (CGROUP.to_owned(), parent.clone()),
            (HOSTNAME.to_owned(), asked.hostname.clone()),
        ]
        .into(),
        log_directory,
        port_mappings: asked.ports.iter().map(port).collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: parent,
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                seccomp: profile(&Profile::RuntimeDefault),
                ..Default::default()
            }),
            sysctls: asked.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a sandbox was made from, as far as its containers need it.
pub fn made_from(status: &cri::PodSandboxStatus) -> cri::PodSandboxConfig {
    let note = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    cri::PodSandboxConfig {
        metadata: status.metadata.clone(),
        hostname: note(HOSTNAME),
        log_directory: note(LOG_DIRECTORY),
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: note(CGROUP),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: namespaces(status),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn namespaces(status: &cri::PodSandboxStatus) -> Option<cri::NamespaceOption> {
    status.linux.as_ref()?.namespaces.as_ref()?.options.clone()
}

pub fn container_config(asked: &ContainerConfig, of: &cri::PodSandboxStatus) -> cri::ContainerConfig {
    let metadata = of.metadata.clone().unwrap_or_default();
    let own = labels(&metadata.name, &metadata.namespace, &metadata.uid);
    let mut namespaces = namespaces(of);
    if let Some(own) = namespaces.as_mut().filter(|_| !asked.target_id.is_empty()) {
        own.pid = NamespaceMode::Target.into();
        own.target_id = asked.target_id.clone();
    }
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: asked.name.clone(), attempt: asked.attempt }),
        image: Some(cri::ImageSpec {
            image: asked.image_id.clone(),
            user_specified_image: asked.image.clone(),
            ..Default::default()
        }),
        command: asked.command.clone(),
        args: asked.args.clone(),
        working_dir: asked.working_dir.clone(),
        envs: asked
            .env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: asked
            .mounts
            .iter()
            .map(|mount| cri::Mount {
                host_path: mount.host_path.to_string_lossy().into_owned(),
                image: mount.image.as_ref().map(|image| cri::ImageSpec {
                    image: image.id.clone(),
                    user_specified_image: image.reference.clone(),
                    ..Default::default()
                }),
                image_sub_path: mount.image.as_ref().map_or(String::new(), |image| image.sub_path.clone()),
                container_path: mount.container_path.to_string_lossy().into_owned(),
                readonly: mount.readonly,
                recursive_read_only: mount.recursive_readonly,
                propagation: match mount.propagation {
                    Propagation::Private => cri::MountPropagation::PropagationPrivate,
                    Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
                    Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
                }
                .into(),
                ..Default::default()
            })
            .collect(),
        devices: asked
            .devices
            .iter()
            .map(|device| cri::Device {
                host_path: device.host_path.to_string_lossy().into_owned(),
                container_path: device.container_path.to_string_lossy().into_owned(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        cdi_devices: asked.cdi_devices.iter().map(|name| cri::CdiDevice { name: name.clone() }).collect(),
        labels: own.chain([("io.kubernetes.container.name".to_owned(), asked.name.clone())]).collect(),
        annotations: [(SPEC_HASH.to_owned(), asked.spec_hash.to_string())].into(),
        log_path: asked.log_path.to_string_lossy().into_owned(),
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&asked.resources)),
            security_context: Some(security(&asked.security, namespaces)),
        }),
        stop_signal: asked.stop_signal.as_deref().map_or(0, runtime::cri::signal),
        ..Default::default()
    }
}
