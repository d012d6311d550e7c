//! The node's own objects: its Node, registered and kept up to date, and its Lease.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reconcile::io::{Client, Error};
use reconcile::{Key, Patch};
use schema::api::coordination::v1::{Lease, LeaseSpec};
use schema::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use schema::api::meta::v1::ObjectMeta;
use schema::api::{MicroTime, Quantity as Text, Time};
use schema::quantity::{Format, Quantity};
use serde_json::json;
use tokio::time::Instant;

use crate::config::Config;
use crate::eviction::Signal;
use crate::memory::SECOND;
use crate::ports::{Clock, FsStats, Handler, Image, Machine, Nanos};
use crate::shared::Shared;

const LEASE_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
/// How long it is not tried again at most.
const LOOK: Duration = Duration::from_secs(10);
/// … or this soon again while it is not ready, and then more and more rarely.
const SOON: Duration = Duration::from_millis(50);
const MAX_NAMES: usize = 5;

type Amounts = BTreeMap<String, Quantity>;

/// What a node has, before and after what is kept from pods.
pub fn capacity(config: &Config, machine: &Machine, fs: &FsStats) -> (Amounts, Amounts) {
    let int = |value: u64, format| Quantity::from_int(i64::try_from(value).unwrap_or(i64::MAX), format);
    let pods = match config.pods_per_core {
        0 => config.max_pods.into(),
        per_core => (u64::from(per_core) * machine.cpus).min(config.max_pods.into()),
    };
    let mut capacity: Amounts = [
        ("cpu".to_owned(), int(machine.cpus, Format::DecimalSI)),
        ("memory".to_owned(), int(machine.memory_bytes, Format::BinarySI)),
        ("pods".to_owned(), int(pods, Format::DecimalSI)),
        ("ephemeral-storage".to_owned(), int(fs.capacity_bytes, Format::BinarySI)),
    ]
    .into();
    for (size, bytes) in &machine.hugepages {
        capacity.insert(format!("hugepages-{size}"), int(*bytes, Format::BinarySI));
    }
    let mut allocatable = capacity.clone();
    let reserved = &config.reserved;
    let huge: u64 = machine.hugepages.values().sum();
    let memory = reserved.memory_bytes + config.evictions.hard_memory(machine.memory_bytes) + huge;
    let storage = reserved.ephemeral_storage_bytes + config.evictions.hard(Signal::NodeFs, fs.capacity_bytes);
    let kept = [
        ("cpu", Quantity::from_milli(i64::try_from(reserved.cpu_milli).unwrap_or(0), Format::DecimalSI)),
        ("memory", int(memory, Format::BinarySI)),
        ("ephemeral-storage", int(storage, Format::BinarySI)),
    ];
    for (name, amount) in kept {
        if let Some(entry) = allocatable.get_mut(name) {
            *entry = Quantity { nanos: entry.minus(amount).nanos.max(0), format: entry.format };
        }
    }
    (capacity, allocatable)
}

/// Pressure and readiness, as the node sees them now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The machine goes down.
    pub shutting_down: bool,
}

/// The conditions in upstream's order and words; times of those that stay are kept.
pub fn conditions(health: &Health, old: &[NodeCondition], now: Nanos) -> Vec<NodeCondition> {
    let at = Time { seconds: now.div_euclid(SECOND) };
    let pressure = |kind: &str, is: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if is { yes } else { no };
        (kind.to_owned(), is, reason.to_owned(), message.to_owned())
    };
    let down = health.shutting_down.then(|| "node is shutting down".to_owned());
    let not_ready = match (&health.not_ready, down) {
        (Some(why), Some(down)) => Some(format!("[{why}, {down}]")),
        (why, down) => why.clone().or(down),
    };
    let ready = match not_ready {
        None => ("Ready".to_owned(), true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(why) => ("Ready".to_owned(), false, "KubeletNotReady".to_owned(), why),
    };
    let rows = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ];
    let mut made: Vec<NodeCondition> = rows
        .into_iter()
        .map(|(kind, is, reason, message)| {
            let status = if is { "True" } else { "False" };
            let before = old.iter().find(|old| old.r#type == kind && old.status == status);
            NodeCondition {
                last_transition_time: before.map_or(at, |before| before.last_transition_time),
                last_heartbeat_time: at,
                r#type: kind,
                status: status.into(),
                reason,
                message,
                ..NodeCondition::default()
            }
        })
        .collect();
    let others = old.iter().filter(|old| !made.iter().any(|new| new.r#type == old.r#type)).cloned().collect::<Vec<_>>();
    made.extend(others);
    made
}

/// Tells by events what has become of the node.
fn announce(shared: &Shared, old: &NodeStatus, new: &NodeStatus) {
    let name = &shared.config.node_name;
    let (before, now) = (&old.node_info.boot_id, &new.node_info.boot_id);
    if !before.is_empty() && before != now {
        let message = format!("Node {name} has been rebooted, boot id: {now}");
        shared.events.node(name, true, "Rebooted", message);
    }
    for reason in news(&old.conditions, &new.conditions) {
        shared.events.node(name, false, reason, format!("Node {name} status is now: {reason}"));
    }
}

/// Reasons of the events about conditions that have changed.
pub fn news(old: &[NodeCondition], new: &[NodeCondition]) -> Vec<&'static str> {
    let changed = new.iter().filter(|new| {
        let before = old.iter().find(|old| old.r#type == new.r#type);
        before.map_or(new.r#type != "Ready", |before| before.status != new.status)
    });
    let reason = |of: &NodeCondition| match (&*of.r#type, &*of.status) {
        ("MemoryPressure", "True") => Some("NodeHasInsufficientMemory"),
        ("MemoryPressure", _) => Some("NodeHasSufficientMemory"),
        ("DiskPressure", "True") => Some("NodeHasDiskPressure"),
        ("DiskPressure", _) => Some("NodeHasNoDiskPressure"),
        ("PIDPressure", "True") => Some("NodeHasInsufficientPID"),
        ("PIDPressure", _) => Some("NodeHasSufficientPID"),
        ("Ready", "True") => Some("NodeReady"),
        ("Ready", _) => Some("NodeNotReady"),
        _ => None,
    };
    changed.filter_map(reason).collect()
}

/// Labels that every node carries.
pub fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.hostname()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", &machine.architecture),
        ("node.kubernetes.io/instance-type", "sampan"),
        ("beta.kubernetes.io/instance-type", "sampan"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(config.labels.clone());
    labels
}

/// What the status says besides conditions.
pub fn fill(status: &mut NodeStatus, shared: &Shared, fs: &FsStats, images: &[Image]) {
    let (config, machine) = (&shared.config, &shared.machine);
    let (mut capacity, mut allocatable) = capacity(config, machine, fs);
    let text = |list: Amounts| {
        list.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect::<BTreeMap<_, _>>()
    };
    for (name, (all, healthy)) in shared.devices.counts() {
        let int = |count: usize| Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI);
        capacity.insert(name.clone(), int(all));
        allocatable.insert(name, int(healthy));
    }
    status.volumes_in_use = shared.csi.in_use.borrow().iter().cloned().collect();
    // Extended resources of which no device plugin knows are somebody else's.
    for (kept, new) in [(&mut status.capacity, text(capacity)), (&mut status.allocatable, text(allocatable))] {
        kept.retain(|name, _| name.contains('/') && !new.contains_key(name));
        kept.extend(new);
    }
    let address = |kind: &str, address: String| NodeAddress { r#type: kind.into(), address, ..NodeAddress::default() };
    status.addresses = config.addresses.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    status.addresses.extend(config.external_addresses.iter().map(|ip| address("ExternalIP", ip.to_string())));
    status.addresses.push(address("Hostname", config.hostname().to_owned()));
    status.daemon_endpoints = NodeDaemonEndpoints {
        kubelet_endpoint: DaemonEndpoint { port: config.kubelet_port.into(), ..DaemonEndpoint::default() },
        ..NodeDaemonEndpoints::default()
    };
    let (runtime, version) = shared.ports.runtime.version();
    status.node_info = NodeSystemInfo {
        machine_id: machine.machine_id.clone(),
        system_uuid: machine.system_uuid.clone(),
        boot_id: machine.boot_id.clone(),
        kernel_version: machine.kernel_version.clone(),
        os_image: machine.os_image.clone(),
        container_runtime_version: format!("{runtime}://{version}"),
        kubelet_version: config.version.clone(),
        operating_system: "linux".into(),
        architecture: machine.architecture.clone(),
        swap: Some(machine.swap_bytes)
            .filter(|bytes| *bytes > 0)
            .map(|bytes| NodeSwapStatus { capacity: i64::try_from(bytes).ok(), ..NodeSwapStatus::default() }),
        ..NodeSystemInfo::default()
    };
    status.features = Some(NodeFeatures { supplemental_groups_policy: Some(true), ..NodeFeatures::default() });
    let handler = |of: Handler| NodeRuntimeHandler {
        name: of.name,
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(of.recursive_read_only),
            user_namespaces: Some(of.user_namespaces),
            ..NodeRuntimeHandlerFeatures::default()
        }),
        ..NodeRuntimeHandler::default()
    };
    status.runtime_handlers = shared.ports.runtime.handlers().into_iter().map(handler).collect();
    let mut by_size: Vec<&Image> = images.iter().collect();
    by_size.sort_by_key(|image| (std::cmp::Reverse(image.size_bytes), image.id.clone()));
    status.images = by_size
        .into_iter()
        .take(usize::try_from(config.status_max_images).unwrap_or(usize::MAX))
        .map(|image| ContainerImage {
            names: image.digests.iter().chain(&image.tags).take(MAX_NAMES).cloned().collect(),
            size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
            ..ContainerImage::default()
        })
        .collect();
}

fn new_node(shared: &Shared) -> Node {
    let config = &shared.config;
    let mut node = Node {
        metadata: ObjectMeta {
            name: config.node_name.clone(),
            labels: labels(config, &shared.machine),
            annotations: [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]
                .into(),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    node.spec.taints.clone_from(&config.taints);
    node.spec.provider_id.clone_from(&config.provider_id);
    node
}

/// Registers the node and keeps its status for as long as it is polled.
pub async fn keep_status(shared: Arc<Shared>, health: impl Fn() -> Health + Send + Sync) {
    let client = &shared.client;
    let config = &shared.config;
    let report_every = Duration::from_nanos(config.report_every.unsigned_abs());
    let mut reported: Option<(NodeStatus, Instant)> = None;
    let mut known: Option<Node> = None;
    let mut retry = Duration::from_millis(50);
    // A node that was told to be not ready yet may be any moment.
    let mut soon = SOON;
    let (mut in_use, mut devices) = (shared.csi.in_use.subscribe(), shared.devices.changes());
    let pause = |soon: &mut Duration, told: Option<&Node>| {
        *soon = if told.is_some_and(is_ready) { SOON } else { (*soon * 2).min(LOOK) };
        if *soon == SOON { config.status_every } else { *soon / 2 }
    };
    loop {
        let now = shared.ports.clock.now();
        let fs = shared.ports.host.fs(&shared.config.root_dir).unwrap_or_default();
        let images = shared.ports.images.list().await.unwrap_or_default();
        let fresh = |old: &NodeStatus| {
            let mut status = old.clone();
            fill(&mut status, &shared, &fs, &images);
            status.conditions = conditions(&health(), &old.conditions, now);
            status
        };
        let outcome = match &known {
            None => register(&shared, &fresh).await.map(Some),
            Some(node) => {
                let status = fresh(&node.status);
                let old = |(last, at): &(NodeStatus, Instant)| !same(last, &status) || at.elapsed() >= report_every;
                let due = reported.as_ref().is_none_or(old);
                match due {
                    true => write_status(client, node, status, &fresh).await.map(|written| {
                        announce(&shared, &node.status, &written.status);
                        Some(written)
                    }),
                    false => Ok(None),
                }
            }
        };
        let pause = match outcome {
            Ok(Some(node)) => {
                shared.csi.reported.send_replace(node.status.volumes_in_use.iter().cloned().collect());
                reported = Some((node.status.clone(), Instant::now()));
                known = Some(node);
                retry = Duration::from_millis(50);
                pause(&mut soon, known.as_ref())
            }
            Ok(None) => pause(&mut soon, known.as_ref()),
            Err(error) => {
                tracing::debug!(%error, "the node's status was not written");
                if error.is_not_found() {
                    known = None;
                }
                retry = (retry * 2).min(LOOK);
                retry / 2
            }
        };
        // Volumes and devices that come and go are told at once.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = in_use.changed() => {}
            _ = devices.changed() => {}
            () = shared.health_changed.notified() => {}
        }
    }
}

fn is_ready(node: &Node) -> bool {
    node.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

/// Equal but for heartbeats.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.last_heartbeat_time = Time::default();
        }
        status
    };
    plain(a) == plain(b)
}

/// Creates the Node with its status, or takes over the one that is there.
async fn register(shared: &Shared, fresh: &(impl Fn(&NodeStatus) -> NodeStatus + Sync)) -> Result<Node, Error> {
    let client = &shared.client;
    let mut node = new_node(shared);
    node.status = fresh(&node.status);
    match client.create(&node).await {
        Ok(created) => {
            announce(shared, &NodeStatus::default(), &created.status);
            return write_status(client, &created, fresh(&created.status), fresh).await;
        }
        Err(error) if error.code() == 409 => {}
        Err(error) => return Err(error),
    }
    let found: Node = client.get("", &shared.config.node_name).await?;
    let wanted = node.metadata.labels.iter().filter(|(key, value)| found.metadata.labels.get(*key) != Some(value));
    let labels: serde_json::Map<String, serde_json::Value> =
        wanted.map(|(key, value)| (key.clone(), json!(value))).collect();
    let found = if labels.is_empty() {
        found
    } else {
        client.patch::<Node>(&Key::of(&found), None, &Patch::Merge(json!({"metadata": {"labels": labels}}))).await?
    };
    let written = write_status(client, &found, fresh(&found.status), fresh).await?;
    announce(shared, &found.status, &written.status);
    Ok(written)
}

/// What others have written meanwhile stays as they wrote it.
async fn write_status(
    client: &Client,
    node: &Node,
    status: NodeStatus,
    fresh: &(impl Fn(&NodeStatus) -> NodeStatus + Sync),
) -> Result<Node, Error> {
    let wanted = Node { status, ..node.clone() };
    match client.update_status(&wanted).await {
        Err(error) if error.code() == 409 => {
            let current: Node = client.get("", &node.metadata.name).await?;
            client.update_status(&Node { status: fresh(&current.status), ..current }).await
        }
        other => other,
    }
}

/// Renews the node's Lease for as long as it is polled.
pub async fn keep_lease(client: Client, node: String, clock: Arc<dyn Clock>) {
    let mut known: Option<Lease> = None;
    let mut retry = Duration::from_millis(200);
    loop {
        let now = clock.now();
        let stamp = MicroTime {
            seconds: now.div_euclid(SECOND),
            nanos: u32::try_from(now.rem_euclid(SECOND)).unwrap_or(0) / 1000 * 1000,
        };
        let spec = LeaseSpec {
            holder_identity: Some(node.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(stamp),
            ..LeaseSpec::default()
        };
        let outcome = match &known {
            Some(lease) => client.update(&Lease { spec, ..lease.clone() }).await,
            None => match client.get::<Lease>("kube-node-lease", &node).await {
                Ok(lease) => client.update(&Lease { spec, ..lease }).await,
                Err(error) if error.is_not_found() => create_lease(&client, &node, spec).await,
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(lease) => {
                known = Some(lease);
                retry = Duration::from_millis(200);
                tokio::time::sleep(RENEW).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                known = None;
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(Duration::from_secs(7));
            }
        }
    }
}

async fn create_lease(client: &Client, node: &str, spec: LeaseSpec) -> Result<Lease, Error> {
    // Owned by its node, so that it goes with it.
    let owner: Node = client.get("", node).await?;
    let metadata = ObjectMeta {
        name: node.to_owned(),
        namespace: "kube-node-lease".into(),
        owner_references: vec![reconcile::owner(&owner)],
        ..ObjectMeta::default()
    };
    client.create(&Lease { metadata, spec, ..Lease::default() }).await
}
