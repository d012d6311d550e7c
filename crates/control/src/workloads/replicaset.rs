//! ReplicaSet: as many pods of a template as asked for.

use std::time::Duration;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    core::v1::Pod,
};

use super::pods;
use crate::support::{Matcher, availability, claim, controller_of, event, is_active, is_ready, is_terminal, time};

const COMPONENT: &str = "replicaset-controller";
/// Creations or deletions of one look.
const BURST: usize = 500;

pub fn row() -> Row {
    Row {
        name: "replicaset",
        user: "system:serviceaccount:kube-system:replicaset-controller",
        triggers: vec![Trigger::itself::<ReplicaSet>(), Trigger::controller::<ReplicaSet, Pod>(), Trigger::on::<Pod>(adopters)],
        reconcile: Box::new(reconcile),
        parallel: 5,
    }
}

/// An orphan concerns every set that would adopt it.
fn adopters(world: &World, _: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    let Some(pod) = new.filter(|pod| controller_of(&pod.metadata).is_none()) else { return Vec::new() };
    let sets = world.of::<ReplicaSet>().in_namespace(&pod.metadata.namespace);
    sets.filter(|set| Matcher::new(set.spec.selector.as_ref()).matches(&pod.metadata.labels)).map(|set| Key::of(&**set)).collect()
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(set) = world.get::<ReplicaSet>(key) else { return plan };
    let set = &**set;
    let matcher = Matcher::new(set.spec.selector.as_ref());
    let claimed = claim(set, &matcher, world.of::<Pod>(), is_active, &mut plan.actions);
    let active: Vec<&Pod> = claimed.iter().copied().filter(|pod| is_active(pod)).collect();

    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let failure = ctx.failure.take();
    let mut writes = Vec::new();
    if set.metadata.deletion_timestamp.is_none() {
        if let Some(failure) = &failure {
            plan.push(event(ctx, set, COMPONENT, "Warning", "FailedCreate", format!("Error creating: {failure}")));
        }
        for _ in active.len()..wanted.min(active.len() + BURST) {
            writes.push(Action::create(pods::from_template(set, &set.spec.template, ctx)));
        }
        if active.len() > wanted {
            let related = related_pods(world, set);
            let order = pods::deletion_order(active.clone(), &related, ctx.now_seconds());
            writes.extend(order.into_iter().take((active.len() - wanted).min(BURST)).map(Action::delete));
        }
    }

    let (status, again) = status(set, &claimed, failure.as_deref(), ctx);
    if status != set.status {
        plan.push(Action::update_status(ReplicaSet { status, ..set.clone() }));
    }
    plan.actions.extend(writes);
    if let Some(seconds) = again {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

/// Pods of all sets with the same controller, which share nodes with ours.
fn related_pods<'a>(world: &'a World, set: &'a ReplicaSet) -> Vec<&'a Pod> {
    let Some(owner) = controller_of(&set.metadata) else { return pods::owned(world, &set.metadata.uid).filter(|pod| is_active(pod)).collect() };
    let siblings = world.of::<ReplicaSet>().owned_by(&owner.uid);
    siblings.flat_map(|sibling| pods::owned(world, &sibling.metadata.uid)).filter(|pod| is_active(pod)).collect()
}

fn status(set: &ReplicaSet, claimed: &[&Pod], failure: Option<&str>, ctx: &Ctx) -> (ReplicaSetStatus, Option<i64>) {
    let mut status = ReplicaSetStatus { observed_generation: set.metadata.generation, ..set.status.clone() };
    (status.replicas, status.ready_replicas, status.available_replicas, status.fully_labeled_replicas) = (0, 0, 0, 0);
    let (mut terminating, mut again) = (0, None);
    for pod in claimed.iter().filter(|pod| !is_terminal(pod)) {
        if pod.metadata.deletion_timestamp.is_some() {
            terminating += 1;
            continue;
        }
        status.replicas += 1;
        let labels = &set.spec.template.metadata.labels;
        if labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value)) {
            status.fully_labeled_replicas += 1;
        }
        status.ready_replicas += i32::from(is_ready(pod));
        match availability(pod, set.spec.min_ready_seconds, ctx.now_seconds()) {
            Ok(()) => status.available_replicas += 1,
            Err(Some(seconds)) => again = Some(again.map_or(seconds, |sooner: i64| sooner.min(seconds))),
            Err(None) => {}
        }
    }
    status.terminating_replicas = Some(terminating);
    let wanted = set.spec.replicas.unwrap_or(1);
    let existing = status.conditions.iter().any(|condition| condition.r#type == "ReplicaFailure");
    match failure {
        Some(message) if !existing => status.conditions.push(ReplicaSetCondition {
            r#type: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            last_transition_time: time(ctx),
            reason: if status.replicas < wanted { "FailedCreate" } else { "FailedDelete" }.to_owned(),
            message: message.to_owned(),
            ..ReplicaSetCondition::default()
        }),
        None if status.replicas == wanted => status.conditions.retain(|condition| condition.r#type != "ReplicaFailure"),
        _ => {}
    }
    (status, again)
}
