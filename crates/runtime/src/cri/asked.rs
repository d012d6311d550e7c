//! From CRI's messages to the runtime's configurations. Pure but for names of signals.

use std::path::PathBuf;

use rpc::Status;
use rpc::cri::{self, NamespaceMode, security_profile::ProfileType};

use crate::containers::{
    AppArmor, ContainerConfig, Device, Image, Mount, PortMapping, Propagation, Resources, SandboxConfig, Seccomp,
    Security, check_handler, signal_number,
};
use crate::images::Rootfs;

fn invalid(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

pub fn sandbox(asked: cri::PodSandboxConfig, handler: String, parent: &str) -> Result<SandboxConfig, Status> {
    let metadata = asked.metadata.ok_or_else(|| invalid("sandbox config must include metadata"))?;
    check_handler(&handler).map_err(invalid)?;
    let linux = asked.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    group_needs_user(security.run_as_group, security.run_as_user)?;
    let namespaces = security.namespace_options.unwrap_or_default();
    let user_namespace = users(&namespaces)?;
    if namespaces.pid() == NamespaceMode::Target || namespaces.network() == NamespaceMode::Container {
        return Err(invalid("a sandbox has no such namespaces"));
    }
    let cgroup_parent =
        if linux.cgroup_parent.is_empty() { format!("{parent}/{}", metadata.uid) } else { linux.cgroup_parent };
    let port = |port: i32| u16::try_from(port).map_err(|_| invalid(format!("port {port} is out of range")));
    let ports = asked.port_mappings.iter().filter(|mapping| mapping.host_port > 0).map(|mapping| {
        Ok(PortMapping {
            protocol: mapping.protocol().as_str_name().to_owned(),
            container_port: port(mapping.container_port)?,
            host_port: port(mapping.host_port)?,
            host_ip: mapping.host_ip.clone(),
        })
    });
    Ok(SandboxConfig {
        ports: ports.collect::<Result<_, Status>>()?,
        uid: metadata.uid,
        name: metadata.name,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
        hostname: asked.hostname,
        labels: asked.labels.into_iter().collect(),
        annotations: asked.annotations.into_iter().collect(),
        log_directory: asked.log_directory.into(),
        host_network: namespaces.network() == NamespaceMode::Node,
        host_pid: namespaces.pid() == NamespaceMode::Node,
        host_ipc: namespaces.ipc() == NamespaceMode::Node,
        share_process_namespace: namespaces.pid() == NamespaceMode::Pod,
        sysctls: linux.sysctls.into_iter().collect(),
        cgroup_parent: format!("/{}", cgroup_parent.trim_matches('/')),
        user_namespace,
        resolv_conf: asked.dns_config.map(resolv_conf),
        runtime_handler: handler,
    })
}

fn resolv_conf(dns: cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    dns.servers.iter().for_each(|server| text += &format!("nameserver {server}\n"));
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

fn group_needs_user(group: Option<cri::Int64Value>, user: Option<cri::Int64Value>) -> Result<(), Status> {
    match (group, user) {
        (Some(_), None) => Err(invalid("user group is specified without user")),
        _ => Ok(()),
    }
}

/// A pod's own ids: the first on the host, and how many. One range from 0, the same for users and groups.
fn users(namespaces: &cri::NamespaceOption) -> Result<Option<(u32, u32)>, Status> {
    let Some(users) = namespaces.userns_options.as_ref().filter(|users| users.mode() != NamespaceMode::Node) else {
        return Ok(None);
    };
    match (users.mode(), users.uids.as_slice()) {
        (NamespaceMode::Pod, [one]) if one.container_id == 0 && one.length > 0 && users.uids == users.gids => {
            Ok(Some((one.host_id, one.length)))
        }
        _ => Err(invalid("user namespaces are a pod's, with one mapping from 0 that is the same for users and groups")),
    }
}

/// `image`, and where each `mounts[].image` was laid open.
pub fn container(asked: cri::ContainerConfig, pod: &SandboxConfig, rootfs: &Rootfs) -> Result<ContainerConfig, Status> {
    let metadata = asked.metadata.clone().ok_or_else(|| invalid("container config must include metadata"))?;
    let linux = asked.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let reference = asked.image.as_ref().map_or("", |image| &image.user_specified_image);
    let mut image = Image::from(rootfs);
    if !reference.is_empty() {
        image.reference = reference.to_owned();
    }
    let namespaces = context.namespace_options.clone().unwrap_or_default();
    let envs = asked.envs.iter().map(|pair| {
        let value = String::from_utf8(pair.value.clone());
        value.map(|value| (pair.key.clone(), value)).map_err(|_| invalid(format!("{} is not UTF-8", pair.key)))
    });
    Ok(ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        env: envs.collect::<Result<_, Status>>()?,
        stop_signal: stop_signal(asked.stop_signal()),
        labels: asked.labels.into_iter().collect(),
        annotations: asked.annotations.into_iter().collect(),
        image,
        command: asked.command,
        args: asked.args,
        working_dir: asked.working_dir,
        mounts: asked.mounts.into_iter().map(mount).collect::<Result<_, Status>>()?,
        devices: asked
            .devices
            .into_iter()
            .map(|device| Device {
                host_path: device.host_path.into(),
                container_path: device.container_path,
                permissions: device.permissions,
            })
            .collect(),
        resources: resources(linux.resources.unwrap_or_default()),
        security: security(context)?,
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        log_path: if pod.log_directory.as_os_str().is_empty() { String::new() } else { asked.log_path },
        pid_of: if namespaces.pid() == NamespaceMode::Target { namespaces.target_id } else { String::new() },
    })
}

fn mount(asked: cri::Mount) -> Result<Mount, Status> {
    let propagation = match asked.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if asked.recursive_read_only && (!asked.readonly || propagation != Propagation::Private) {
        return Err(invalid(format!(
            "recursive read-only mount {} must be read-only and private",
            asked.container_path
        )));
    }
    if asked.host_path.is_empty() {
        return Err(invalid(format!("mount {} has no host path", asked.container_path)));
    }
    Ok(Mount {
        host_path: asked.host_path.into(),
        container_path: asked.container_path,
        readonly: asked.readonly,
        recursive_readonly: asked.recursive_read_only,
        propagation,
        image: asked.image.unwrap_or_default().image,
    })
}

fn id(asked: i64) -> Result<u32, Status> {
    u32::try_from(asked).map_err(|_| invalid(format!("{asked} is no user or group id")))
}

fn security(asked: cri::LinuxContainerSecurityContext) -> Result<Security, Status> {
    if asked.run_as_group.is_some() && asked.run_as_user.is_none() && asked.run_as_username.is_empty() {
        return Err(invalid("user group is specified without user"));
    }
    let capabilities = asked.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged: asked.privileged,
        run_as_user: asked.run_as_user.map(|user| id(user.value)).transpose()?,
        run_as_group: asked.run_as_group.map(|group| id(group.value)).transpose()?,
        supplemental_groups: asked.supplemental_groups.iter().map(|group| id(*group)).collect::<Result<_, _>>()?,
        strict_groups: asked.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict,
        run_as_username: asked.run_as_username,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        no_new_privileges: asked.no_new_privs,
        readonly_rootfs: asked.readonly_rootfs,
        masked_paths: Some(asked.masked_paths),
        readonly_paths: Some(asked.readonly_paths),
        seccomp: match asked.seccomp {
            None => Seccomp::Unconfined,
            Some(profile) => match profile.profile_type() {
                ProfileType::RuntimeDefault => Seccomp::RuntimeDefault,
                ProfileType::Unconfined => Seccomp::Unconfined,
                ProfileType::Localhost => Seccomp::Localhost(PathBuf::from(profile.localhost_ref)),
            },
        },
        apparmor: match asked.apparmor {
            None => AppArmor::RuntimeDefault,
            Some(profile) => match profile.profile_type() {
                ProfileType::RuntimeDefault => AppArmor::RuntimeDefault,
                ProfileType::Unconfined => AppArmor::Unconfined,
                ProfileType::Localhost => {
                    AppArmor::Localhost(profile.localhost_ref.trim_start_matches("localhost/").to_owned())
                }
            },
        },
    })
}

pub fn resources(asked: cri::LinuxContainerResources) -> Resources {
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let set = |n: i64| (n != 0).then_some(n);
    let memory_limit = set(asked.memory_limit_in_bytes);
    Resources {
        cpu_shares: positive(asked.cpu_shares),
        cpu_quota: set(asked.cpu_quota),
        cpu_period: positive(asked.cpu_period),
        cpuset_cpus: asked.cpuset_cpus,
        cpuset_mems: asked.cpuset_mems,
        memory_limit,
        // Without a word about swap there is none beyond the memory.
        memory_swap: set(asked.memory_swap_limit_in_bytes).or(memory_limit),
        hugepages: asked.hugepage_limits.into_iter().map(|limit| (limit.page_size, limit.limit)).collect(),
        pids_limit: None,
        oom_score_adj: i32::try_from(asked.oom_score_adj).ok().filter(|adjustment| *adjustment != 0),
        unified: asked.unified.into_iter().collect(),
    }
}

/// `SIGNAL_SIGRTMINPLUS3` is `SIGRTMIN+3`; empty for the image's.
fn stop_signal(asked: cri::Signal) -> String {
    let name = asked.as_str_name().trim_start_matches("SIGNAL_");
    match name {
        "RUNTIME_DEFAULT" => String::new(),
        "SIGCLD" => "SIGCHLD".into(),
        "SIGIOT" => "SIGABRT".into(),
        "SIGPOLL" => "SIGIO".into(),
        _ => name.replace("PLUS", "+").replace("MINUS", "-"),
    }
}

/// The other way: CRI's number for a name or a number.
pub fn signal(name: &str) -> i32 {
    let Some(wanted) = signal_number(if name.is_empty() { "TERM" } else { name }) else { return 0 };
    let is = |number: &i32| {
        cri::Signal::try_from(*number).is_ok_and(|signal| signal_number(&stop_signal(signal)) == Some(wanted))
    };
    (1..=65).find(is).unwrap_or(0)
}
