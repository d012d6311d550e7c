//! Pods that nobody else ends: evicted by NoExecute taints, left behind by nodes, terminated in great number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Reference, Row, Trigger, World};
use schema::api::Object;
use schema::api::core::v1::{Node, Pod, Taint};

use crate::scheduler::filters::tolerated;
use crate::support::{disrupt, event, is_terminal, living};

/// How long a pod's node may be missing: nodes are created anew, and come to us by another stream than pods.
const QUARANTINE_SECONDS: i64 = 40;
/// Terminated pods beyond this number go, the oldest first.
const MAX_TERMINATED: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

type Since = Mutex<HashMap<String, i64>>;

/// When the thing of this name was first seen.
fn since(memory: &Since, name: &str, now: i64) -> i64 {
    *memory.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_insert(now)
}

fn forget(memory: &Since, name: &str) {
    memory.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
}

fn pods_of(world: &World, node: &str) -> Vec<Key> {
    world.of::<Pod>().iter().filter(|(_, pod)| pod.spec.node_name == node).map(|(key, _)| key.clone()).collect()
}

/// Taint eviction: upstream's taint-eviction-controller.
pub fn eviction_row() -> Row {
    let memory = Since::default();
    let triggers = vec![
        Trigger::on::<Pod>(|_, old, new| match (old, new) {
            (Some(old), Some(new))
                if old.spec.node_name == new.spec.node_name && old.spec.tolerations == new.spec.tolerations =>
            {
                Vec::new()
            }
            (old, new) => new.or(old).map(Key::of).into_iter().collect(),
        }),
        Trigger::on::<Node>(|world, old, new| {
            let taints =
                |node: Option<&Node>| node.map_or_else(Vec::new, |node| no_execute(node).cloned().collect::<Vec<_>>());
            let node = new.or(old).filter(|_| taints(old) != taints(new));
            node.map_or_else(Vec::new, |node| pods_of(world, node.name()))
        }),
    ];
    Row::new("taint-eviction", "node-controller", 8, triggers, move |world, key, ctx| evict(world, key, ctx, &memory))
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute")
}

pub fn evict(world: &World, key: &Key, ctx: &mut Ctx, memory: &Since) -> Plan {
    let mut plan = Plan::nothing();
    let name = key.to_string();
    let pod = living::<Pod>(world, key);
    let bound = pod.filter(|pod| !pod.spec.node_name.is_empty());
    let node = bound.and_then(|pod| world.of::<Node>().named("", &pod.spec.node_name));
    let (Some(pod), Some(node)) = (pod, node.filter(|node| no_execute(node).next().is_some())) else {
        forget(memory, &name);
        return plan;
    };
    // The shortest time that any toleration of any of the taints gives; `None`: forever.
    let mut allowed: Option<i64> = None;
    for taint in no_execute(node) {
        if !tolerated(&pod.spec.tolerations, taint) {
            allowed = Some(0);
            break;
        }
        for toleration in
            pod.spec.tolerations.iter().filter(|toleration| tolerated(std::slice::from_ref(toleration), taint))
        {
            if let Some(seconds) = toleration.toleration_seconds {
                allowed = Some(allowed.map_or(seconds, |least| least.min(seconds)).max(0));
            }
        }
    }
    let Some(allowed) = allowed else {
        forget(memory, &name);
        return plan;
    };
    let now = ctx.now_seconds();
    let began = no_execute(node).filter_map(|taint| taint.time_added).map(|added| added.seconds).max();
    let left = began.map_or_else(|| since(memory, &name, now), |began| began.min(now)) + allowed - now;
    if left > 0 {
        plan.requeue(Duration::from_secs(left.unsigned_abs()));
        return plan;
    }
    forget(memory, &name);
    let message = format!("Marking for deletion Pod {key}");
    plan.push(event(ctx, &**pod, "taint-eviction-controller", "Normal", "TaintManagerEviction", message));
    plan.push(disrupt(pod, ctx, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", false));
    plan.push(Action::delete(&**pod));
    plan
}

/// Pod garbage collection: upstream's podgc.
pub fn row() -> Row {
    let memory = Since::default();
    let triggers = vec![
        Trigger::on::<Pod>(|world, old, new| {
            let Some(new) = new else { return Vec::new() };
            let facts =
                |pod: &Pod| (pod.spec.node_name.clone(), is_terminal(pod), pod.metadata.deletion_timestamp.is_some());
            let looked = old.is_none_or(|old| facts(old) != facts(new));
            let lost = !new.spec.node_name.is_empty() && world.of::<Node>().named("", &new.spec.node_name).is_none();
            let concerned = new.metadata.deletion_timestamp.is_some() || is_terminal(new) || lost;
            (looked && concerned).then(|| Key::of(new)).into_iter().collect()
        }),
        Trigger::on::<Node>(|world, old, new| {
            let tainted = new.is_some_and(|node| node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE));
            let node = new.or(old).filter(|_| new.is_none() || tainted);
            node.map_or_else(Vec::new, |node| pods_of(world, node.name()))
        }),
    ];
    Row::new("pod-garbage-collector", "pod-garbage-collector", 4, triggers, move |world, key, ctx| {
        collect(world, key, ctx, &memory)
    })
}

pub fn collect(world: &World, key: &Key, ctx: &mut Ctx, memory: &Since) -> Plan {
    let mut plan = Plan::nothing();
    let Some(pod) = world.get::<Pod>(key) else { return plan };
    let now = ctx.now_seconds();
    let node = world.of::<Node>().named("", &pod.spec.node_name);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let end = |plan: &mut Plan, why: Option<&str>| {
        if let Some(message) = why.filter(|_| !is_terminal(pod)) {
            plan.push(disrupt(pod, ctx, "DeletionByPodGC", message, true));
        }
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        plan.push(Action::Delete { of: Reference::to(&**pod), options });
    };
    match node {
        None if pod.spec.node_name.is_empty() => {
            if terminating {
                end(&mut plan, None);
            }
        }
        None => {
            let left = since(memory, &pod.spec.node_name, now) + QUARANTINE_SECONDS - now;
            if left > 0 {
                plan.requeue(Duration::from_secs(left.unsigned_abs()));
            } else {
                end(&mut plan, Some("PodGC: node no longer exists"));
            }
        }
        Some(node) => {
            forget(memory, &pod.spec.node_name);
            let mut conditions = node.status.conditions.iter();
            let ready = conditions.any(|condition| condition.r#type == "Ready" && condition.status == "True");
            if terminating && !ready && node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) {
                end(&mut plan, Some("PodGC: node is out of service"));
            }
        }
    }
    if plan.actions.is_empty()
        && is_terminal(pod)
        && !terminating
        && world.of::<Pod>().len() > MAX_TERMINATED
        && is_surplus(world, pod)
    {
        end(&mut plan, None);
    }
    plan
}

/// More than [`MAX_TERMINATED`] ended pods are younger than this one or as old.
fn is_surplus(world: &World, pod: &Pod) -> bool {
    let order = |pod: &Pod| (pod.metadata.creation_timestamp, pod.metadata.name.clone());
    let mine = order(pod);
    let ended = world.of::<Pod>().values().filter(|other| is_terminal(other));
    let younger = ended.filter(|other| other.metadata.deletion_timestamp.is_none() && order(other) > mine);
    younger.count() >= MAX_TERMINATED
}
