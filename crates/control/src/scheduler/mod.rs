//! The scheduler: which node a pod goes to.
//!
//! [`schedule`] is a pure function of a pod and a [`Snapshot`]; plugins have upstream's names and messages ([`filters`],
//! [`scores`], [`preemption`], [`volumes`]). Pods that were decided but are not yet seen as bound are assumed to be where
//! they go ([`Memory`]).

pub mod filters;
mod preemption;
mod resources;
mod scores;
mod snapshot;
mod volumes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reconcile::{Action, Ctx, Key, Plan, Reference, Row, Trigger, World};
use schema::api::Object;
use schema::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use schema::api::meta::v1::ObjectMeta;
use schema::api::policy::v1::PodDisruptionBudget;
use schema::api::storage::v1::{CSINode, StorageClass};
use serde_json::json;

use self::filters::{Check, Cluster, Wanted};
use self::preemption::Preemption;
pub use self::resources::Resources;
use self::snapshot::priority;
pub use self::snapshot::{NodeInfo, Snapshot};
use crate::support::{disrupt, event, is_terminal, time};

pub const NAME: &str = "default-scheduler";
/// Volumes that are not bound by then are tried anew, maybe elsewhere.
const BINDING: Duration = Duration::from_secs(600);

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It fits there best.
    Bind { node: String },
    /// Nowhere yet: on `node` there is room once these are gone.
    Preempt { node: String, victims: Vec<Arc<Pod>>, message: String },
    /// In upstream's words: `0/2 nodes are available: 1 Insufficient cpu, …`.
    Unschedulable {
        message: String,
        /// A node that it was promised still is.
        stays_nominated: bool,
    },
}

/// What is decided and not seen in the world yet.
#[derive(Default)]
struct Known {
    /// Pods by uid, with their nodes set.
    assumed: HashMap<String, Arc<Pod>>,
    /// Of those, which wait for their volumes, and since when (seconds).
    binding: HashMap<String, i64>,
    /// Nodes by the uid of the pod for which there will be room.
    nominated: HashMap<String, String>,
    /// The last look, of which the next one takes what is the same.
    snapshot: Snapshot,
}

#[derive(Default)]
pub struct Memory(Mutex<Known>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Known {
    /// What is seen as bound, or gone, is no assumption any more.
    fn refresh(&mut self, world: &World) {
        let pods = world.of::<Pod>();
        self.assumed.retain(|uid, pod| {
            pods.get(&Key::of(&**pod)).is_some_and(|seen| seen.metadata.uid == *uid && seen.spec.node_name.is_empty())
        });
        self.binding.retain(|uid, _| self.assumed.contains_key(uid));
        if !self.nominated.is_empty() {
            let said: HashMap<&str, &str> = pods
                .values()
                .filter(|pod| is_ours(pod))
                .map(|pod| (pod.metadata.uid.as_str(), pod.status.nominated_node_name.as_str()))
                .collect();
            self.nominated.retain(|uid, node| said.get(uid.as_str()).is_some_and(|said| said != node));
        }
    }

    fn forget(&mut self, uid: &str) {
        self.assumed.remove(uid);
        self.binding.remove(uid);
        self.nominated.remove(uid);
    }
}

pub fn row() -> Row {
    let memory = Memory::default();
    let triggers = vec![
        Trigger::on::<Pod>(concerned_by_pod),
        Trigger::on::<Node>(concerned_by_node),
        Trigger::on::<PersistentVolumeClaim>(|world, _, _| waiting(world, volumes::has_claims)),
        Trigger::on::<PersistentVolume>(|world, _, _| waiting(world, volumes::has_claims)),
        Trigger::on::<StorageClass>(|world, _, _| waiting(world, volumes::has_claims)),
        Trigger::on::<CSINode>(|world, _, _| waiting(world, volumes::has_claims)),
        Trigger::reads::<Namespace>(),
        Trigger::reads::<PodDisruptionBudget>(),
    ];
    Row::new("scheduler", "system:kube-scheduler", 64, triggers, move |world, key, ctx| {
        reconcile(world, key, ctx, &memory)
    })
}

fn is_ours(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && !is_terminal(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && (pod.spec.scheduler_name == NAME || pod.spec.scheduler_name.is_empty())
}

/// The most important first, then who has waited longest.
fn waiting(world: &World, which: impl Fn(&Pod) -> bool) -> Vec<Key> {
    let mut pods: Vec<&Arc<Pod>> = world.of::<Pod>().values().filter(|pod| is_ours(pod) && which(pod)).collect();
    pods.sort_by_key(|pod| (Reverse(priority(pod)), pod.metadata.creation_timestamp));
    pods.into_iter().map(|pod| Key::of(&**pod)).collect()
}

fn concerned_by_pod(world: &World, old: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    match (old, new) {
        (None, Some(new)) if is_ours(new) => vec![Key::of(new)],
        // Its own condition is no news, a change of what it asks for is.
        (Some(old), Some(new))
            if is_ours(new) && (old.spec != new.spec || old.metadata.labels != new.metadata.labels) =>
        {
            vec![Key::of(new)]
        }
        // Room was made, or is no longer kept for somebody.
        (Some(old), new)
            if new.is_none_or(|new| is_terminal(new) && !is_terminal(old))
                && !(old.spec.node_name.is_empty() && old.status.nominated_node_name.is_empty()) =>
        {
            waiting(world, |_| true)
        }
        // It takes less now, or others see it with other eyes.
        (Some(old), Some(new))
            if !old.spec.node_name.is_empty()
                && (old.spec != new.spec || old.metadata.labels != new.metadata.labels) =>
        {
            waiting(world, |_| true)
        }
        // Somebody arrived where affinity may want to be near.
        (Some(old), Some(new)) if old.spec.node_name.is_empty() && !new.spec.node_name.is_empty() => {
            waiting(world, |pod| pod.spec.affinity.as_ref().is_some_and(|affinity| affinity.pod_affinity.is_some()))
        }
        _ => Vec::new(),
    }
}

fn concerned_by_node(world: &World, old: Option<&Node>, new: Option<&Node>) -> Vec<Key> {
    let facts = |node: &Node| (node.spec.clone(), node.metadata.labels.clone(), node.status.allocatable.clone());
    if old.map(facts) == new.map(facts) { Vec::new() } else { waiting(world, |_| true) }
}

fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, memory: &Memory) -> Plan {
    let mut plan = Plan::nothing();
    let mut known = memory.lock();
    known.refresh(world);
    let Some(pod) = world.get::<Pod>(key).filter(|pod| is_ours(pod)) else { return plan };
    let uid = &pod.metadata.uid;
    if ctx.failure.is_some() {
        known.forget(uid);
    }
    if let Some(there) = known.assumed.get(uid).cloned() {
        return finish(world, &there, ctx, &mut known, false);
    }
    if !pod.spec.scheduling_gates.is_empty() {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        plan.actions.extend(say(ctx, pod, "SchedulingGated", message, "", false));
        return plan;
    }
    let last = std::mem::take(&mut known.snapshot);
    let snapshot = Snapshot::new(world, &known.assumed, &known.nominated, last);
    let decision = schedule(world, pod, &snapshot, ctx.random());
    let nominated = snapshot.nominated.clone();
    known.snapshot = snapshot;
    match decision {
        Decision::Bind { node } => {
            let mut there = (**pod).clone();
            there.spec.node_name.clone_from(&node);
            let there = Arc::new(there);
            known.nominated.remove(uid);
            known.assumed.insert(uid.clone(), there.clone());
            known.binding.insert(uid.clone(), ctx.now_seconds());
            return finish(world, &there, ctx, &mut known, true);
        }
        Decision::Preempt { node, victims, message } => {
            known.nominated.insert(uid.clone(), node.clone());
            plan.actions.extend(say(ctx, pod, "Unschedulable", &message, &node, true));
            for (other, _) in nominated.iter().filter(|(other, at)| *at == node && priority(other) < priority(pod)) {
                known.nominated.remove(&other.metadata.uid);
                let nobody = json!({"status": {"nominatedNodeName": null}});
                plan.push(Action::merge(&**other, Some("status"), nobody));
            }
            plan.actions.extend(victims.iter().flat_map(|victim| send_away(ctx, pod, victim, &node)));
        }
        Decision::Unschedulable { message, stays_nominated } => {
            let node = if stays_nominated { pod.status.nominated_node_name.as_str() } else { "" };
            if !stays_nominated {
                known.nominated.remove(uid);
            }
            plan.actions.extend(say(ctx, pod, "Unschedulable", &message, node, true));
        }
    }
    plan
}

/// Asks (at first) for the volumes of a pod that has a place, and binds it once they are bound.
fn finish(world: &World, there: &Arc<Pod>, ctx: &mut Ctx, known: &mut Known, first: bool) -> Plan {
    let mut plan = Plan::nothing();
    let uid = &there.metadata.uid;
    let Some(since) = known.binding.get(uid).copied() else { return plan };
    let node = world.of::<Node>().named("", &there.spec.node_name);
    let claims = volumes::Claims::of(world, there).ok();
    let (Some(node), Some(claims)) = (node, claims) else {
        known.forget(uid);
        plan.requeue(Duration::ZERO);
        return plan;
    };
    if claims.all_bound() {
        known.binding.remove(uid);
        plan.push(bind(there, node.name()));
        let message = format!("Successfully assigned {}/{} to {}", there.namespace(), there.name(), node.name());
        plan.push(event(ctx, &**there, NAME, "Normal", "Scheduled", message));
        return plan;
    }
    let left = since + BINDING.as_secs().cast_signed() - ctx.now_seconds();
    let writes = claims.bind(world, node);
    // What must be asked for again was refused by a provisioner, or taken by somebody else.
    if left <= 0 || !(first || writes.is_empty()) || claims.check(world, node).is_err() {
        known.forget(uid);
        plan.requeue(Duration::from_secs(1));
        return plan;
    }
    plan.actions = writes;
    plan.requeue(Duration::from_secs(left.unsigned_abs()));
    plan
}

/// Deletes a pod that has to make room, and says why.
fn send_away(ctx: &mut Ctx, pod: &Pod, victim: &Pod, node: &str) -> Vec<Action> {
    let message = format!("{NAME}: preempting to accommodate a higher priority pod");
    let mut actions = Vec::new();
    let held = victim.status.conditions.iter().find(|condition| condition.r#type == "DisruptionTarget");
    if held.is_none_or(|held| held.status != "True" || held.reason != preemption::REASON) {
        actions.push(disrupt(victim, ctx, preemption::REASON, &message, false));
    }
    if victim.metadata.deletion_timestamp.is_none() {
        actions.push(Action::delete(victim));
    }
    let message = format!("Preempted by pod {} on node {node}", pod.metadata.uid);
    actions.push(event(ctx, victim, NAME, "Normal", "Preempted", message));
    actions
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

/// The condition PodScheduled=False, the node that was promised, and an event, if they say something new.
fn say(ctx: &mut Ctx, pod: &Pod, reason: &str, message: &str, nominated: &str, with_event: bool) -> Vec<Action> {
    let held = pod.status.conditions.iter().find(|condition| condition.r#type == "PodScheduled");
    let told = held.is_some_and(|held| held.status == "False" && held.reason == reason && held.message == message);
    if told && pod.status.nominated_node_name == nominated {
        return Vec::new();
    }
    let since =
        held.filter(|held| held.status == "False").map(|held| held.last_transition_time).unwrap_or_else(|| time(ctx));
    let mut changed = pod.clone();
    changed.status.nominated_node_name = nominated.to_owned();
    let condition = PodCondition {
        r#type: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    match changed.status.conditions.iter_mut().find(|condition| condition.r#type == "PodScheduled") {
        Some(held) => *held = condition,
        None => changed.status.conditions.push(condition),
    }
    let mut actions = vec![Action::update_status(changed)];
    if with_event && !told {
        actions.push(event(ctx, pod, NAME, "Warning", "FailedScheduling", message));
    }
    actions
}

/// `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.`
fn unfit<'a>(verdicts: impl ExactSizeIterator<Item = &'a Check>) -> String {
    let total = verdicts.len();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in verdicts.filter_map(|verdict| verdict.as_ref().err()).flat_map(|refusal| &refusal.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut listed: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    listed.sort();
    format!("0/{total} nodes are available: {}.", listed.join(", "))
}

/// Decides; `tie` chooses among nodes of the same score.
pub fn schedule(world: &World, pod: &Pod, snapshot: &Snapshot, tie: u64) -> Decision {
    let nodes = &snapshot.nodes;
    if nodes.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Unschedulable { message, stays_nominated: false };
    }
    let named = filters::named_nodes(pod);
    let claims = match &named {
        Some(none) if none.is_empty() => Err("pod affinity terms conflict".to_owned()),
        _ => volumes::Claims::of(world, pod),
    };
    let (claims, hopeless) = claims.map_or_else(|why| (volumes::Claims::default(), Some(why)), |claims| (claims, None));
    let wanted = Wanted { world, pod, resources: Resources::of_pod(pod), claims };
    let with_nominated = snapshot.with_nominated(pod);
    let expected = with_nominated.as_deref().map(|nodes| (nodes, Cluster::new(&wanted, nodes)));
    let cluster = Cluster::new(&wanted, nodes);
    let verdict = |at: usize| {
        let info = &nodes[at];
        if let Some(why) = &hopeless {
            return filters::never(why);
        }
        if named.as_ref().is_some_and(|named| !named.contains(info.node.name())) {
            return filters::never("node(s) didn't satisfy plugin(s) [NodeAffinity]");
        }
        if let Some((nodes, cluster)) = &expected {
            filters::check(&wanted, &nodes[at], cluster)?;
        }
        filters::check(&wanted, info, &cluster)
    };
    let verdicts: Vec<Check> = (0..nodes.len()).map(verdict).collect();
    let mut feasible: Vec<&NodeInfo> =
        nodes.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(info, _)| info).collect();
    if feasible.is_empty() {
        let why = match &hopeless {
            Some(why) => format!("0/{} nodes are available: {why}.", nodes.len()),
            None => unfit(verdicts.iter()),
        };
        let message = |what: &str| format!("{why} preemption: {what}");
        return match preemption::preempt(&wanted, with_nominated.as_ref().unwrap_or(nodes), &verdicts, tie) {
            Preemption::Candidate { node, victims } => {
                let count = victims.len();
                let what = format!("found a potential placement for pod on node {node}, preempting {count} victims");
                Decision::Preempt { message: message(&what), node, victims }
            }
            Preemption::NotEligible(what) => Decision::Unschedulable { message: message(what), stays_nominated: true },
            Preemption::NotHelpful(what) => Decision::Unschedulable { message: message(&what), stays_nominated: false },
        };
    }
    if let Some(promised) = feasible.iter().position(|info| info.node.metadata.name == pod.status.nominated_node_name) {
        feasible = vec![feasible[promised]];
    }
    let totals = scores::totals(&wanted, &feasible, nodes);
    let best = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<&&NodeInfo> =
        feasible.iter().zip(&totals).filter(|(_, total)| **total == best).map(|(node, _)| node).collect();
    let chosen = ties[(tie % ties.len() as u64) as usize];
    Decision::Bind { node: chosen.node.metadata.name.clone() }
}

#[cfg(test)]
mod tests;
