//! VolumeAttachments: volumes of CSI drivers that must be attached to a node before its pods can use them, and detached
//! once the node says that it uses them no longer (upstream's attachdetach-controller).
//!
//! A key is a node. What it is to have follows from its pods; what it has are its VolumeAttachments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::Object;
use schema::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use schema::api::meta::v1::ObjectMeta;
use schema::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::volumes::claims_of;
use crate::support::{event, is_terminal};

const COMPONENT: &str = "attachdetach-controller";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// After this long a node that is not Ready has its volumes taken away.
const MAX_WAIT_SECONDS: i64 = 360;

/// What passes remember: since when an attachment is not wanted, and the errors that were told, by attachment.
#[derive(Default)]
pub struct Memory {
    unwanted: BTreeMap<String, i64>,
    told: BTreeMap<String, String>,
}

pub fn row() -> Row {
    let memory = Mutex::default();
    let triggers = vec![
        Trigger::on::<Node>(|_, old, new| {
            let read = |node: &Node| {
                let status = &node.status;
                (status.volumes_in_use.clone(), status.volumes_attached.clone(), is_ready(node), is_out(node))
            };
            let changed = old.map(read) != new.map(read);
            new.or(old).filter(|_| changed).map(Key::of).into_iter().collect()
        }),
        Trigger::on::<Pod>(|_, old, new| {
            let concerns = |pod: &&Pod| !pod.spec.node_name.is_empty() && claims_of(pod).next().is_some();
            let read = |pod: &Pod| (pod.spec.node_name.clone(), is_terminal(pod));
            let changed = old.map(read) != new.map(read);
            let pod = new.or(old).filter(concerns).filter(|_| changed);
            pod.map(|pod| Key::new("", &pod.spec.node_name)).into_iter().collect()
        }),
        Trigger::on::<PersistentVolumeClaim>(|world, _, new| {
            let bound = new.filter(|claim| !claim.spec.volume_name.is_empty());
            bound.map_or_else(Vec::new, |claim| nodes_of(world, claim.namespace(), claim.name()))
        }),
        Trigger::on::<PersistentVolume>(|world, _, new| {
            let of = new.filter(|volume| volume.spec.persistent_volume_source.csi.is_some());
            let of = of.and_then(|volume| volume.spec.claim_ref.as_ref());
            of.map_or_else(Vec::new, |of| nodes_of(world, &of.namespace, &of.name))
        }),
        Trigger::on::<VolumeAttachment>(|world, old, new| {
            let mut keys: Vec<Key> = new.or(old).map(|of| Key::new("", &of.spec.node_name)).into_iter().collect();
            // Another node may wait for the volume.
            if let Some(gone) = old.filter(|_| new.is_none()) {
                let volume = gone.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
                let volume = world.of::<PersistentVolume>().named("", volume);
                let of = volume.and_then(|volume| volume.spec.claim_ref.as_ref());
                keys.extend(of.into_iter().flat_map(|of| nodes_of(world, &of.namespace, &of.name)));
            }
            keys
        }),
        Trigger::on::<CSIDriver>(|world, _, _| world.of::<Node>().iter().map(|(key, _)| key.clone()).collect()),
    ];
    // No two nodes get a volume that only one may have.
    Row::new("attach-detach", COMPONENT, 1, triggers, move |world, key, ctx| reconcile(world, key, ctx, &memory))
}

fn is_ready(node: &Node) -> bool {
    node.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

fn is_out(node: &Node) -> bool {
    node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Nodes of the pods that use a claim.
fn nodes_of(world: &World, namespace: &str, claim: &str) -> Vec<Key> {
    let pods = world.of::<Pod>().in_namespace(namespace);
    let users = pods.filter(|pod| !pod.spec.node_name.is_empty() && claims_of(pod).any(|(name, _)| name == claim));
    let names: BTreeSet<&str> = users.map(|pod| &*pod.spec.node_name).collect();
    names.into_iter().map(|name| Key::new("", name)).collect()
}

/// As upstream names them: what a driver's attacher and the kubelet look for.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{:x}", Sha256::digest(format!("{handle}{driver}{node}")))
}

/// Others may make attachments, too, and name them as they like.
fn is_ours(name: &str) -> bool {
    let digest = name.strip_prefix("csi-").unwrap_or_default();
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether the driver attaches at all; one that nobody knows does.
fn attaches(world: &World, driver: &str) -> bool {
    world.of::<CSIDriver>().named("", driver).is_none_or(|driver| driver.spec.attach_required != Some(false))
}

/// A volume that a node is to have, and the pods for which.
struct Wanted<'a> {
    volume: &'a PersistentVolume,
    driver: &'a str,
    handle: &'a str,
    pods: Vec<&'a Pod>,
}

fn wanted<'a>(world: &'a World, node: &str) -> BTreeMap<String, Wanted<'a>> {
    let mut all: BTreeMap<String, Wanted<'a>> = BTreeMap::new();
    let pods = world.of::<Pod>().values().filter(|pod| pod.spec.node_name == node && !is_terminal(pod));
    for pod in pods {
        for (name, _) in claims_of(pod) {
            let claim = world.of::<PersistentVolumeClaim>().named(pod.namespace(), &name);
            let Some(claim) = claim.filter(|claim| claim.status.phase == "Bound") else { continue };
            let volume = world.of::<PersistentVolume>().named("", &claim.spec.volume_name);
            let Some(volume) =
                volume.filter(|volume| volume.spec.claim_ref.as_ref().is_some_and(|of| of.uid == claim.metadata.uid))
            else {
                continue;
            };
            let Some(csi) = &volume.spec.persistent_volume_source.csi else { continue };
            if !attaches(world, &csi.driver) {
                continue;
            }
            let (driver, handle) = (&*csi.driver, &*csi.volume_handle);
            let entry = all.entry(attachment_name(handle, driver, node));
            entry.or_insert_with(|| Wanted { volume, driver, handle, pods: Vec::new() }).pods.push(pod);
        }
    }
    all
}

/// A node's name for a volume, as in its status.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, memory: &Mutex<Memory>) -> Plan {
    let mut plan = Plan::nothing();
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let node = world.get::<Node>(key);
    let wanted = if node.is_some() { wanted(world, &key.name) } else { BTreeMap::new() };
    let ours = |of: &&std::sync::Arc<VolumeAttachment>| {
        *of.spec.node_name == *key.name && is_ours(of.name()) && of.spec.source.persistent_volume_name.is_some()
    };
    let have: Vec<_> = world.of::<VolumeAttachment>().values().filter(ours).collect();
    let now = ctx.now_seconds();
    let mut attached = BTreeSet::new();
    let mut doomed = Vec::new();
    for of in &have {
        let name = of.name();
        let volume = of.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let handle = world.of::<PersistentVolume>().named("", volume);
        let handle = handle.and_then(|volume| volume.spec.persistent_volume_source.csi.as_ref());
        let unique = handle.map(|csi| unique_name(&csi.driver, &csi.volume_handle)).unwrap_or_default();
        if of.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Some(wanted) = wanted.get(name) {
            memory.unwanted.remove(name);
            tell(of, wanted, node.is_some_and(|node| is_attached(node, &unique)), ctx, &mut memory, &mut plan);
        } else {
            let since = *memory.unwanted.entry(name.to_owned()).or_insert(now);
            let left = since + MAX_WAIT_SECONDS - now;
            let in_use = node.is_some_and(|node| node.status.volumes_in_use.contains(&unique));
            let lost = node.is_none_or(|node| is_out(node) || (left <= 0 && !is_ready(node)));
            if !in_use || lost {
                doomed.push(Action::delete(&***of));
                memory.told.remove(name);
                memory.unwanted.remove(name);
                continue;
            }
            plan.requeue(Duration::from_secs(left.max(MAX_WAIT_SECONDS / 6).unsigned_abs()));
        }
        if of.status.attached && !unique.is_empty() {
            attached.insert(unique);
        }
    }
    if let Some(node) = node {
        report(node, &attached, &mut plan);
    }
    // A volume is no longer said to be attached before it is detached.
    plan.actions.extend(doomed);
    for (name, wanted) in &wanted {
        if !have.iter().any(|of| of.name() == name) {
            attach(world, key, name, wanted, ctx, &mut memory, &mut plan);
        }
    }
    plan
}

fn is_attached(node: &Node, unique: &str) -> bool {
    node.status.volumes_attached.iter().any(|of| of.name == unique)
}

/// Events about what became of an attachment, once each.
fn tell(
    of: &VolumeAttachment,
    wanted: &Wanted<'_>,
    reported: bool,
    ctx: &mut Ctx,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let volume = wanted.volume.name();
    let (kind, reason, message) = match &of.status.attach_error {
        _ if of.status.attached && reported => return,
        _ if of.status.attached => {
            ("Normal", "SuccessfulAttachVolume", format!("AttachVolume.Attach succeeded for volume \"{volume}\" "))
        }
        Some(error) => {
            let why = &error.message;
            ("Warning", "FailedAttachVolume", format!("AttachVolume.Attach failed for volume \"{volume}\" : {why}"))
        }
        None => return,
    };
    if memory.told.insert(of.name().to_owned(), message.clone()).as_ref() != Some(&message) {
        let events = wanted.pods.iter().map(|pod| event(ctx, *pod, COMPONENT, kind, reason, message.clone()));
        plan.actions.extend(events);
    }
}

/// `status.volumesAttached` of the node.
fn report(node: &Node, attached: &BTreeSet<String>, plan: &mut Plan) {
    let told: BTreeSet<&str> = node.status.volumes_attached.iter().map(|of| &*of.name).collect();
    if told != attached.iter().map(|name| &**name).collect() {
        let list: Vec<_> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        plan.push(Action::merge(node, Some("status"), json!({"status": {"volumesAttached": list}})));
    }
}

fn attach(
    world: &World,
    key: &Key,
    name: &str,
    wanted: &Wanted<'_>,
    ctx: &mut Ctx,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let volume = wanted.volume;
    let shared = volume.spec.access_modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
    let elsewhere = |of: &VolumeAttachment| {
        *of.spec.node_name != *key.name && of.spec.source.persistent_volume_name.as_deref() == Some(volume.name())
    };
    if !shared && world.of::<VolumeAttachment>().values().any(|of| elsewhere(of)) {
        if memory.told.insert(name.to_owned(), "Multi-Attach".to_owned()).is_none() {
            for pod in &wanted.pods {
                let message = multi_attach(world, volume, pod);
                plan.push(event(ctx, *pod, COMPONENT, "Warning", "FailedAttachVolume", message));
            }
        }
        return;
    }
    plan.push(Action::create(VolumeAttachment {
        metadata: ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: wanted.driver.to_owned(),
            node_name: key.name.to_string(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(volume.name().to_owned()),
                ..VolumeAttachmentSource::default()
            },
            ..VolumeAttachmentSpec::default()
        },
        ..VolumeAttachment::default()
    }));
    tracing::debug!(volume = wanted.handle, node = %key.name, "attaching");
}

fn multi_attach(world: &World, volume: &PersistentVolume, pod: &Pod) -> String {
    let claim = volume.spec.claim_ref.as_ref();
    let users = world.of::<Pod>().in_namespace(pod.namespace()).filter(|other| {
        other.metadata.uid != pod.metadata.uid
            && !other.spec.node_name.is_empty()
            && !is_terminal(other)
            && claim.is_some_and(|of| claims_of(other).any(|(name, _)| name == of.name))
    });
    let names: Vec<&str> = users.map(|other| other.name()).collect();
    let why = match names.is_empty() {
        true => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        false => format!("Volume is already used by pod(s) {}", names.join(", ")),
    };
    format!("Multi-Attach error for volume \"{}\" {why}", volume.name())
}

#[cfg(test)]
mod tests;
