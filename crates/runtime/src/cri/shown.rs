//! From what the runtime and the image store know to CRI's messages.

use std::collections::{BTreeMap, HashMap};

use rpc::cri::{self, NamespaceMode};

use super::{Inner, asked};
use crate::containers::{
    ContainerConfig, ContainerState, ContainerStatus, Propagation, Resources, SandboxConfig, SandboxStatus,
};
use crate::images;

pub fn map(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub fn pod_metadata(config: &SandboxConfig) -> Option<cri::PodSandboxMetadata> {
    Some(cri::PodSandboxMetadata {
        name: config.name.clone(),
        uid: config.uid.clone(),
        namespace: config.namespace.clone(),
        attempt: config.attempt,
    })
}

pub fn metadata(config: &ContainerConfig) -> Option<cri::ContainerMetadata> {
    Some(cri::ContainerMetadata { name: config.name.clone(), attempt: config.attempt })
}

pub fn pod_state(pod: &SandboxStatus) -> cri::PodSandboxState {
    if pod.ready { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready }
}

pub fn pod(pod: &SandboxStatus) -> cri::PodSandbox {
    cri::PodSandbox {
        id: pod.id.clone(),
        metadata: pod_metadata(&pod.config),
        state: pod_state(pod).into(),
        created_at: pod.created_at as i64,
        labels: map(&pod.config.labels),
        annotations: map(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

fn namespaces(config: &SandboxConfig) -> cri::NamespaceOption {
    let mode = |host| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (config.host_pid, config.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: mode(config.host_network).into(),
        pid: pid.into(),
        ipc: mode(config.host_ipc).into(),
        ..Default::default()
    }
}

pub fn pod_status(inner: &Inner, pod: &SandboxStatus) -> cri::PodSandboxStatus {
    let mut addresses = inner.network.addresses(pod).into_iter().map(|ip| ip.to_string());
    cri::PodSandboxStatus {
        id: pod.id.clone(),
        metadata: pod_metadata(&pod.config),
        state: pod_state(pod).into(),
        created_at: pod.created_at as i64,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(namespaces(&pod.config)) }),
        }),
        labels: map(&pod.config.labels),
        annotations: map(&pod.config.annotations),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

pub fn state(made: &ContainerStatus) -> cri::ContainerState {
    match made.state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
    }
}

fn image_spec(config: &ContainerConfig) -> Option<cri::ImageSpec> {
    let image = if config.image.reference.is_empty() { &config.image.digest } else { &config.image.reference };
    Some(cri::ImageSpec { image: image.clone(), ..Default::default() })
}

pub fn container(made: &ContainerStatus) -> cri::Container {
    cri::Container {
        id: made.id.clone(),
        pod_sandbox_id: made.sandbox_id.clone(),
        metadata: metadata(&made.config),
        image: image_spec(&made.config),
        image_ref: made.config.image.digest.clone(),
        state: state(made).into(),
        created_at: made.created_at as i64,
        labels: map(&made.config.labels),
        annotations: map(&made.config.annotations),
        image_id: made.config.image.digest.clone(),
    }
}

/// `image_ref` is the image's name by digest, if it has one.
pub fn container_status(made: &ContainerStatus, image_ref: Option<String>) -> cri::ContainerStatus {
    let config = &made.config;
    let exit = made.exit.as_ref();
    let stop = if config.stop_signal.is_empty() { &config.image.stop_signal } else { &config.stop_signal };
    cri::ContainerStatus {
        id: made.id.clone(),
        metadata: metadata(config),
        state: state(made).into(),
        created_at: made.created_at as i64,
        started_at: made.started_at as i64,
        finished_at: exit.map_or(0, |exit| exit.finished_at as i64),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: image_spec(config),
        image_ref: image_ref.unwrap_or_else(|| config.image.digest.clone()),
        image_id: config.image.digest.clone(),
        reason: exit.map_or(String::new(), |exit| exit.reason.clone()),
        message: exit.map_or(String::new(), |exit| exit.message.clone()),
        labels: map(&config.labels),
        annotations: map(&config.annotations),
        mounts: config
            .mounts
            .iter()
            .map(|mount| cri::Mount {
                container_path: mount.container_path.clone(),
                host_path: mount.host_path.to_string_lossy().into_owned(),
                readonly: mount.readonly,
                recursive_read_only: mount.recursive_readonly,
                propagation: match mount.propagation {
                    Propagation::Private => cri::MountPropagation::PropagationPrivate,
                    Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
                    Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
                }
                .into(),
                image: (!mount.image.is_empty()).then(|| cri::ImageSpec {
                    image: mount.image.clone(),
                    image_ref: mount.image.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            })
            .collect(),
        log_path: made.log_path.to_string_lossy().into_owned(),
        resources: Some(cri::ContainerResources { linux: Some(resources(&config.resources)), windows: None }),
        user: made.user.as_ref().map(|ids| cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: ids.uid.into(),
                gid: ids.gid.into(),
                supplemental_groups: ids.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: asked::signal(stop),
    }
}

pub fn resources(set: &Resources) -> cri::LinuxContainerResources {
    let unsigned = |n: Option<u64>| n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
    cri::LinuxContainerResources {
        cpu_period: unsigned(set.cpu_period),
        cpu_quota: set.cpu_quota.unwrap_or(0),
        cpu_shares: unsigned(set.cpu_shares),
        memory_limit_in_bytes: set.memory_limit.unwrap_or(0),
        oom_score_adj: set.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: set.cpuset_cpus.clone(),
        cpuset_mems: set.cpuset_mems.clone(),
        hugepage_limits: set
            .hugepages
            .iter()
            .map(|(size, limit)| cri::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        unified: map(&set.unified),
        memory_swap_limit_in_bytes: set.memory_swap.unwrap_or(0),
    }
}

pub fn image(known: images::Image) -> cri::Image {
    // `1002:users`, `www-data`, or nothing.
    let user = known.user.split(':').next().unwrap_or_default();
    let (uid, username) = match user.parse::<i64>() {
        Ok(uid) => (Some(cri::Int64Value { value: uid }), String::new()),
        Err(_) => (None, user.to_owned()),
    };
    cri::Image {
        id: known.id.to_string(),
        repo_tags: known.repo_tags,
        repo_digests: known.repo_digests,
        size: known.size,
        uid,
        username,
        spec: None,
        pinned: known.pinned,
    }
}
