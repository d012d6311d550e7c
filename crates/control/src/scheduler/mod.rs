//! The scheduler: which node a pod goes to.
//!
//! [`schedule`] is a pure function of a pod and the nodes; plugins have upstream's names and messages ([`filters`],
//! [`scores`]). Pods that were decided but are not yet seen as bound are assumed to be where they go ([`Assumed`]).

pub mod filters;
mod resources;
mod scores;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use reconcile::{Action, Ctx, Key, Plan, Reference, Row, Trigger, World};
use schema::api::{
    Object,
    core::v1::{Binding, Node, ObjectReference, Pod, PodCondition},
    meta::v1::ObjectMeta,
};

pub use resources::Resources;

use crate::support::{event, is_terminal, time};

pub const NAME: &str = "default-scheduler";

/// A node with what runs on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub pods: Vec<Arc<Pod>>,
    pub allocatable: Resources,
    pub requested: Resources,
}

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Bind {
        node: String,
    },
    /// In upstream's words: `0/2 nodes are available: 1 Insufficient cpu, …`.
    Unschedulable {
        message: String,
    },
}

/// Decisions whose binding is not seen yet: pod uid → pod with its node set.
#[derive(Default)]
pub struct Assumed(Mutex<HashMap<String, Arc<Pod>>>);

impl Assumed {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub fn row() -> Row {
    let assumed = Assumed::default();
    Row {
        name: "scheduler",
        user: "system:kube-scheduler",
        triggers: vec![Trigger::on::<Pod>(concerned_by_pod), Trigger::on::<Node>(concerned_by_node)],
        reconcile: Box::new(move |world, key, ctx| reconcile(world, key, ctx, &assumed)),
        parallel: 64,
    }
}

fn is_ours(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && !is_terminal(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && (pod.spec.scheduler_name == NAME || pod.spec.scheduler_name.is_empty())
}

fn waiting(world: &World) -> Vec<Key> {
    world.of::<Pod>().values().filter(|pod| is_ours(pod)).map(|pod| Key::of(&**pod)).collect()
}

fn concerned_by_pod(world: &World, old: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    match (old, new) {
        (None, Some(new)) if is_ours(new) => vec![Key::of(new)],
        // Its own condition is no news, a change of what it asks for is.
        (Some(old), Some(new)) if is_ours(new) && old.spec != new.spec => vec![Key::of(new)],
        // Room was made.
        (Some(old), new)
            if !old.spec.node_name.is_empty() && new.is_none_or(|new| is_terminal(new) && !is_terminal(old)) =>
        {
            waiting(world)
        }
        // Somebody arrived where affinity may want to be near.
        (Some(old), Some(new)) if old.spec.node_name.is_empty() && !new.spec.node_name.is_empty() => {
            let by_affinity =
                |pod: &Pod| pod.spec.affinity.as_ref().is_some_and(|affinity| affinity.pod_affinity.is_some());
            let pods = world.of::<Pod>().values().filter(|pod| is_ours(pod) && by_affinity(pod));
            pods.map(|pod| Key::of(&**pod)).collect()
        }
        _ => Vec::new(),
    }
}

fn concerned_by_node(world: &World, old: Option<&Node>, new: Option<&Node>) -> Vec<Key> {
    let facts = |node: &Node| (node.spec.clone(), node.metadata.labels.clone(), node.status.allocatable.clone());
    if old.map(facts) == new.map(facts) { Vec::new() } else { waiting(world) }
}

fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, assumed: &Assumed) -> Plan {
    let mut plan = Plan::nothing();
    let mut assumed = assumed.lock();
    let pods = world.of::<Pod>();
    // What is seen as bound, or gone, is no assumption any more. A failed binding takes its pod out, too.
    assumed.retain(|uid, pod| {
        pods.get(&Key::of(&**pod)).is_some_and(|seen| seen.metadata.uid == *uid && seen.spec.node_name.is_empty())
    });
    let Some(pod) = pods.get(key).filter(|pod| is_ours(pod)) else { return plan };
    if ctx.failure.is_some() {
        assumed.remove(&pod.metadata.uid);
    }
    if assumed.contains_key(&pod.metadata.uid) {
        return plan;
    }
    if !pod.spec.scheduling_gates.is_empty() {
        plan.actions.extend(say(
            ctx,
            pod,
            "SchedulingGated",
            "Scheduling is blocked due to non-empty scheduling gates",
            false,
        ));
        return plan;
    }
    let nodes = snapshot(world, &assumed);
    match schedule(pod, &nodes, ctx.random()) {
        Decision::Bind { node } => {
            let mut there = (**pod).clone();
            there.spec.node_name.clone_from(&node);
            assumed.insert(pod.metadata.uid.clone(), Arc::new(there));
            plan.push(bind(pod, &node));
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            plan.push(event(ctx, &**pod, NAME, "Normal", "Scheduled", message));
        }
        Decision::Unschedulable { message } => plan.actions.extend(say(ctx, pod, "Unschedulable", &message, true)),
    }
    plan
}

fn bind(pod: &Pod, node: &str) -> Action {
    let body = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: "Node".to_owned(), name: node.to_owned(), ..ObjectReference::default() },
        ..Binding::default()
    };
    Action::Post { of: Reference::to(pod), subresource: "binding", body: Box::new(body) }
}

/// The condition PodScheduled=False, and an event, if they say something new.
fn say(ctx: &mut Ctx, pod: &Pod, reason: &str, message: &str, with_event: bool) -> Vec<Action> {
    let held = pod.status.conditions.iter().find(|condition| condition.r#type == "PodScheduled");
    if held.is_some_and(|held| held.status == "False" && held.reason == reason && held.message == message) {
        return Vec::new();
    }
    let since =
        held.filter(|held| held.status == "False").map(|held| held.last_transition_time).unwrap_or_else(|| time(ctx));
    let mut changed = pod.clone();
    changed.status.conditions.retain(|condition| condition.r#type != "PodScheduled");
    changed.status.conditions.push(PodCondition {
        r#type: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    let mut actions = vec![Action::update_status(changed)];
    if with_event {
        actions.push(event(ctx, pod, NAME, "Warning", "FailedScheduling", message));
    }
    actions
}

/// All nodes with their pods, assumed ones included.
pub fn snapshot(world: &World, assumed: &HashMap<String, Arc<Pod>>) -> Vec<NodeInfo> {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in world.of::<Pod>().values() {
        let pod = assumed.get(&pod.metadata.uid).unwrap_or(pod);
        if !pod.spec.node_name.is_empty() && !is_terminal(pod) {
            let node = if pod.spec.node_name.is_empty() { continue } else { pod };
            by_node.entry(borrow(world, node)).or_default().push(pod.clone());
        }
    }
    world
        .of::<Node>()
        .values()
        .map(|node| {
            let pods = by_node.remove(node.name()).unwrap_or_default();
            let requested = pods.iter().map(|pod| Resources::of_pod(pod)).fold(Resources::default(), Resources::plus);
            NodeInfo { node: node.clone(), allocatable: Resources::of_list(&node.status.allocatable), requested, pods }
        })
        .collect()
}

/// The world's own copy of a node's name, which outlives an assumed pod.
fn borrow<'a>(world: &'a World, pod: &Pod) -> &'a str {
    world.of::<Node>().named("", &pod.spec.node_name).map_or("", |node| node.name())
}

/// Decides; `tie` chooses among nodes of the same score.
pub fn schedule(pod: &Pod, nodes: &[NodeInfo], tie: u64) -> Decision {
    let wanted = Resources::of_pod(pod);
    let cluster = filters::Cluster::new(pod, nodes);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    for node in nodes {
        match filters::check(pod, &wanted, node, &cluster) {
            Ok(()) => feasible.push(node),
            Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
    }
    if feasible.is_empty() {
        if nodes.is_empty() {
            return Decision::Unschedulable { message: "no nodes available to schedule pods".to_owned() };
        }
        let listed: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let preemption = format!(
            "preemption: 0/{} nodes are available: {} Preemption is not helpful for scheduling.",
            nodes.len(),
            nodes.len()
        );
        let message = format!("0/{} nodes are available: {}. {preemption}", nodes.len(), listed.join(", "));
        return Decision::Unschedulable { message };
    }
    let totals = scores::totals(pod, &wanted, &feasible, &cluster);
    let best = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<&&NodeInfo> =
        feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(node, _)| node).collect();
    let chosen = ties[(tie % ties.len() as u64) as usize];
    Decision::Bind { node: chosen.node.metadata.name.clone() }
}

#[cfg(test)]
mod tests;
