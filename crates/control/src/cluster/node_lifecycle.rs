//! Nodes whose kubelet fell silent become Unknown; their conditions become taints; their pods are no longer Ready.
//!
//! Silence is measured from when *we* saw the last change of the node's Lease or heartbeat, so that a board without a
//! clock is not taken for dead.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reconcile::{Action, Ctx, Key, Patch, Plan, Reference, Row, Trigger, World};
use schema::api::coordination::v1::Lease;
use schema::api::core::v1::{Node, NodeCondition, Pod, Taint};
use schema::api::{MicroTime, Object, Time};
use schema::time::format;
use serde_json::json;

use crate::support::{event, pod_condition, time};

const USER: &str = "node-controller";
const COMPONENT: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// Silence after which a node is Unknown, and how long a new one may take to say its first word.
const GRACE_SECONDS: i64 = 50;
const STARTUP_GRACE_SECONDS: i64 = 60;
/// One node of a zone is evicted per this time, so that a network that is down does not empty the cluster.
const BETWEEN_EVICTIONS_SECONDS: i64 = 10;
/// From this share of a zone's nodes on (in percent), it is the zone that is unwell and not the nodes.
const UNHEALTHY_ZONE_PERCENT: usize = 55;
const ZONES: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// (condition, status, taint)
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

pub fn row() -> Row {
    let memory = Mutex::default();
    let triggers = vec![
        Trigger::on::<Node>(|world, old, new| match (old, new) {
            // How well the others are decides whether a node is evicted.
            (old, new) if old.map(ready) != new.map(ready) => {
                world.of::<Node>().iter().map(|(key, _)| key.clone()).chain(old.map(Key::of)).collect()
            }
            (_, new) => new.map(Key::of).into_iter().collect(),
        }),
        Trigger::on::<Lease>(|_, old, new| {
            let lease = new.or(old).filter(|lease| lease.metadata.namespace == LEASES);
            lease.map(|lease| Key::new("", lease.name())).into_iter().collect()
        }),
    ];
    Row::new("node-lifecycle", USER, 4, triggers, move |world, key, ctx| reconcile(world, key, ctx, &memory))
}

/// What a pass remembers for the next one.
#[derive(Default)]
pub struct Memory {
    heard: HashMap<String, Heard>,
    /// Zone → when a node of it was last given a NoExecute taint.
    evicted: HashMap<String, i64>,
}

#[derive(Clone, PartialEq)]
struct Heard {
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
    at_seconds: i64,
}

fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |condition| &condition.status)
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.conditions.iter().find(|condition| condition.r#type == kind)
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, memory: &Mutex<Memory>) -> Plan {
    let mut plan = Plan::nothing();
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(node) = world.get::<Node>(key) else {
        memory.heard.remove(&*key.name);
        return plan;
    };
    let now = ctx.now_seconds();
    let lease = world.of::<Lease>().named(LEASES, &key.name);
    let said = (
        lease.and_then(|lease| lease.spec.renew_time),
        condition(node, "Ready").map(|condition| condition.last_heartbeat_time),
    );
    let heard = memory.heard.entry(key.name.to_string()).or_insert(Heard {
        renewed: said.0,
        heartbeat: said.1,
        at_seconds: now,
    });
    if (heard.renewed, heard.heartbeat) != said {
        *heard = Heard { renewed: said.0, heartbeat: said.1, at_seconds: now };
    }
    let grace = if said.1.is_some() { GRACE_SECONDS } else { STARTUP_GRACE_SECONDS };
    let left = heard.at_seconds + grace - now;
    if left > 0 {
        plan.requeue(Duration::from_secs(left.unsigned_abs()));
    } else if let Some(silent) = fallen_silent(node, ctx) {
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        plan.push(event(ctx, &**node, COMPONENT, "Normal", "NodeNotReady", message));
        plan.actions.insert(0, Action::update_status(silent));
        return plan;
    }
    taint(world, node, ctx, &mut memory, &mut plan);
    plan
}

/// The node with Unknown conditions, if they are not yet.
fn fallen_silent(node: &Node, ctx: &Ctx) -> Option<Node> {
    let now = time(ctx);
    let mut silent = node.clone();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match silent.status.conditions.iter_mut().find(|condition| condition.r#type == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = "NodeStatusUnknown".to_owned();
                known.message = "Kubelet stopped posting node status.".to_owned();
                known.last_transition_time = now;
            }
            None => silent.status.conditions.push(NodeCondition {
                r#type: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: "NodeStatusNeverUpdated".to_owned(),
                message: "Kubelet never posted node status.".to_owned(),
                last_heartbeat_time: node.metadata.creation_timestamp,
                last_transition_time: now,
                ..NodeCondition::default()
            }),
        }
    }
    (silent.status != node.status).then_some(silent)
}

fn taint(world: &World, node: &Node, ctx: &mut Ctx, memory: &mut Memory, plan: &mut Plan) {
    let is_wanted =
        |kind: &str, status: &str| condition(node, kind).is_some_and(|condition| condition.status == status);
    let due = TAINTS.iter().filter(|(kind, status, _)| is_wanted(kind, status));
    let mut wanted: Vec<(&str, &str)> = due.map(|(_, _, taint)| (*taint, "NoSchedule")).collect();
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let has = |key: &str, effect: &str| node.spec.taints.iter().any(|taint| taint.key == key && taint.effect == effect);
    let evicted = [NOT_READY, UNREACHABLE].iter().any(|key| has(key, "NoExecute"));
    let evict = match ready(node) {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = evict {
        let zone = zone(node);
        let since = memory.evicted.get(&zone).map_or(i64::MAX, |last| ctx.now_seconds() - last);
        match health(world, &zone) {
            // Nobody can be reached: it is us.
            Health::AllDown => {}
            _ if evicted => wanted.push((key, "NoExecute")),
            Health::ZoneDown => {}
            Health::Fine if since < BETWEEN_EVICTIONS_SECONDS => {
                plan.requeue(Duration::from_secs((BETWEEN_EVICTIONS_SECONDS - since).unsigned_abs()))
            }
            Health::Fine => {
                memory.evicted.insert(zone, ctx.now_seconds());
                wanted.push((key, "NoExecute"));
            }
        }
    }
    let ours = |taint: &Taint| match &*taint.effect {
        "NoSchedule" => taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| taint.key == *key),
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&&*taint.key),
        _ => false,
    };
    let kept = node.spec.taints.iter().filter(|taint| !ours(taint) || wanted.contains(&(&taint.key, &taint.effect)));
    let mut taints: Vec<Taint> = kept.cloned().collect();
    for (key, effect) in wanted {
        if !has(key, effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(time(ctx)),
                ..Taint::default()
            });
        }
    }
    if taints != node.spec.taints {
        let taints: Vec<_> = taints.iter().map(taint_json).collect();
        let version = &node.metadata.resource_version;
        let changes = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        plan.push(Action::merge(node, None, changes));
    }
}

fn taint_json(taint: &Taint) -> serde_json::Value {
    let mut json = json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.is_empty() {
        json["value"] = json!(taint.value);
    }
    if let Some(added) = taint.time_added {
        json["timeAdded"] = json!(format(added.seconds));
    }
    json
}

fn zone(node: &Node) -> String {
    ZONES.map(|label| node.metadata.labels.get(label).map_or("", String::as_str)).join(":")
}

enum Health {
    Fine,
    /// Too many of the zone's nodes are down at once.
    ZoneDown,
    /// No zone has a node that is Ready.
    AllDown,
}

fn health(world: &World, of: &str) -> Health {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in world.of::<Node>().values() {
        let (up, down) = zones.entry(zone(node)).or_default();
        *(if ready(node) == "True" { up } else { down }) += 1;
    }
    if zones.values().all(|(up, _)| *up == 0) {
        return Health::AllDown;
    }
    let (up, down) = zones.get(of).copied().unwrap_or_default();
    let is_down = up == 0 || (down > 2 && down * 100 >= (up + down) * UNHEALTHY_ZONE_PERCENT);
    // A whole zone that is down while others are up is evicted; half of one is a network that is torn.
    if is_down && up > 0 { Health::ZoneDown } else { Health::Fine }
}

/// Pods of a node that stopped being Ready are not Ready either: endpoints must not wait for an eviction.
pub fn pods_row() -> Row {
    let triggers = vec![
        Trigger::on::<Node>(|_, old, new| {
            let Some(new) = new.filter(|new| matches!(ready(new), "False" | "Unknown")) else { return Vec::new() };
            let turned = match old {
                Some(old) => ready(old) == "True" || (ready(old) != "Unknown" && ready(new) == "Unknown"),
                // Of a node that says itself that it is not ready, the kubelet speaks for its pods.
                None => ready(new) == "Unknown",
            };
            turned.then(|| Key::of(new)).into_iter().collect()
        }),
        Trigger::reads::<Pod>(),
    ];
    Row::new("node-pods", USER, 4, triggers, mark_pods)
}

pub fn mark_pods(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    if !world.get::<Node>(key).is_some_and(|node| matches!(ready(node), "False" | "Unknown")) {
        return plan;
    }
    let here = world.of::<Pod>().values().filter(|pod| *pod.spec.node_name == *key.name);
    for pod in here.filter(|pod| pod_condition(pod, "Ready").is_some_and(|(status, _)| status == "True")) {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": format(ctx.now_seconds())});
        plan.push(Action::Patch {
            of: Reference::to(&**pod),
            subresource: Some("status"),
            patch: Patch::Strategic(json!({"status": {"conditions": [condition]}})),
        });
        plan.push(event(ctx, &**pod, COMPONENT, "Warning", "NodeNotReady", "Node is not ready"));
    }
    plan
}
