//! ReplicaSets and ReplicationControllers: as many pods of a template as asked for.

use std::time::Duration;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use schema::api::core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerStatus};
use schema::api::{Message, Object};

use super::{adopters, pods};
use crate::support::{Matcher, availability, claim, controller_of, event, is_active, is_ready, is_terminal, time};

/// Creations or deletions of one look.
const BURST: usize = 500;

/// A kind that is a number of pods of a template.
pub trait Replicated: Object {
    const NAME: &'static str;
    const COMPONENT: &'static str;
    const USER: &'static str;

    fn matcher(&self) -> Matcher;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> ReplicaSetStatus;
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    const USER: &'static str = "replicaset-controller";

    fn matcher(&self) -> Matcher {
        Matcher::new(self.spec.selector.as_ref())
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        Some(&self.spec.template)
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status, ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";
    const USER: &'static str = "replication-controller";

    fn matcher(&self) -> Matcher {
        Matcher::labels(&self.spec.selector)
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    // The messages of both kinds have the same fields.
    fn status(&self) -> ReplicaSetStatus {
        ReplicaSetStatus::decode(&self.status.to_vec()).unwrap_or_default()
    }

    /// It does not tell how many pods are on their way out.
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let told = ReplicaSetStatus { terminating_replicas: None, ..status };
        Self { status: ReplicationControllerStatus::decode(&told.to_vec()).unwrap_or_default(), ..self.clone() }
    }
}

pub fn row<K: Replicated>() -> Row {
    let triggers = vec![
        Trigger::itself::<K>(),
        Trigger::controller::<K, Pod>(),
        Trigger::on::<Pod>(|world, _, new| adopters(world, new, K::matcher)),
    ];
    Row::new(<K as Replicated>::NAME, K::USER, 5, triggers, reconcile::<K>)
}

pub fn reconcile<K: Replicated>(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(set) = world.get::<K>(key) else { return plan };
    let set = &**set;
    let claimed = claim(set, &set.matcher(), world.of::<Pod>(), is_active, &mut plan.actions);
    let active: Vec<&Pod> = claimed.iter().copied().filter(|pod| is_active(pod)).collect();

    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    let failure = ctx.failure.take();
    let mut writes = Vec::new();
    if let Some(template) = set.template().filter(|_| set.metadata().deletion_timestamp.is_none()) {
        if let Some(failure) = &failure {
            plan.push(event(ctx, set, K::COMPONENT, "Warning", "FailedCreate", format!("Error creating: {failure}")));
        }
        let made =
            (active.len()..wanted.min(active.len() + BURST)).map(|_| pods::from_template(set, template, ctx)).collect();
        writes = pods::create(set, K::COMPONENT, made, ctx);
        if active.len() > wanted {
            let related = related_pods(world, set);
            let mut surplus = pods::deletion_order(active.clone(), &related, ctx.now_seconds());
            surplus.truncate((active.len() - wanted).min(BURST));
            writes.extend(pods::delete(set, K::COMPONENT, &surplus, ctx));
        }
    }

    let (status, again) = status(set, &claimed, failure.as_deref(), ctx);
    let changed = set.with_status(status);
    if changed != *set {
        plan.push(Action::update_status(changed));
    }
    plan.actions.extend(writes);
    if let Some(seconds) = again {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

/// Pods of all sets with the same controller, which share nodes with ours.
fn related_pods<'a, K: Replicated>(world: &'a World, set: &'a K) -> Vec<&'a Pod> {
    let meta = set.metadata();
    let Some(owner) = controller_of(meta) else {
        return pods::owned(world, &meta.uid).filter(|pod| is_active(pod)).collect();
    };
    let siblings = world.of::<K>().owned_by(&owner.uid);
    siblings.flat_map(|sibling| pods::owned(world, &sibling.metadata().uid)).filter(|pod| is_active(pod)).collect()
}

fn status<K: Replicated>(
    set: &K,
    claimed: &[&Pod],
    failure: Option<&str>,
    ctx: &Ctx,
) -> (ReplicaSetStatus, Option<i64>) {
    let mut status = ReplicaSetStatus { observed_generation: set.metadata().generation, ..set.status() };
    (status.replicas, status.ready_replicas, status.available_replicas, status.fully_labeled_replicas) = (0, 0, 0, 0);
    let (mut terminating, mut again) = (0, None);
    for pod in claimed.iter().filter(|pod| !is_terminal(pod)) {
        if pod.metadata.deletion_timestamp.is_some() {
            terminating += 1;
            continue;
        }
        status.replicas += 1;
        let wears = |template: &PodTemplateSpec| {
            template.metadata.labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
        };
        status.fully_labeled_replicas += i32::from(set.template().is_some_and(wears));
        status.ready_replicas += i32::from(is_ready(pod));
        match availability(pod, set.min_ready_seconds(), ctx.now_seconds()) {
            Ok(()) => status.available_replicas += 1,
            Err(Some(seconds)) => again = Some(again.map_or(seconds, |sooner: i64| sooner.min(seconds))),
            Err(None) => {}
        }
    }
    status.terminating_replicas = Some(terminating);
    let wanted = set.replicas();
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
