//! PodDisruptionBudget: how many of its pods may be evicted now.

use std::{collections::BTreeMap, time::Duration};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::IntOrString;
use schema::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use schema::api::core::v1::{Pod, ReplicationController};
use schema::api::meta::v1::Condition;
use schema::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};

use crate::support::{Matcher, controller_of, event, is_ready, key, scaled, time};

const COMPONENT: &str = "controllermanager";
/// An evicted pod that is not deleted by then was not evicted.
const DELETION_TIMEOUT_SECONDS: i64 = 120;

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<PodDisruptionBudget>(),
        Trigger::on::<Pod>(|world, old, new| {
            let facts = |pod: &Pod| {
                (
                    is_ready(pod),
                    pod.metadata.deletion_timestamp.is_some(),
                    pod.metadata.labels.clone(),
                    pod.metadata.owner_references.clone(),
                )
            };
            let Some(any) = new.or(old).filter(|_| old.map(facts) != new.map(facts)) else { return Vec::new() };
            let budgets = world.of::<PodDisruptionBudget>().in_namespace(&any.metadata.namespace);
            let selects = |budget: &PodDisruptionBudget| {
                let matcher = Matcher::new(budget.spec.selector.as_ref());
                old.into_iter().chain(new).any(|pod| matcher.matches(&pod.metadata.labels))
            };
            budgets.filter(|budget| selects(budget)).map(|budget| Key::of(&**budget)).collect()
        }),
        Trigger::reads::<ReplicaSet>(),
        Trigger::reads::<Deployment>(),
        Trigger::reads::<StatefulSet>(),
        Trigger::reads::<ReplicationController>(),
    ];
    Row::new("disruption", "disruption-controller", 2, triggers, reconcile)
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(budget) = world.get::<PodDisruptionBudget>(key) else { return plan };
    let matcher = Matcher::new(budget.spec.selector.as_ref());
    let all = world.of::<Pod>().in_namespace(&key.namespace).map(|pod| &**pod);
    let pods: Vec<&Pod> = all.filter(|pod| matcher.matches(&pod.metadata.labels)).collect();
    let now = ctx.now_seconds();
    let mut status = budget.status.clone();
    match expected(world, budget, &pods) {
        Ok((expected, desired)) => {
            let living = || pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            // Those that the eviction API promised to delete and that are not deleted yet.
            status.disrupted_pods.retain(|name, at| {
                living().any(|pod| pod.metadata.name == *name) && at.seconds + DELETION_TIMEOUT_SECONDS > now
            });
            let healthy =
                living().filter(|pod| !status.disrupted_pods.contains_key(&pod.metadata.name) && is_ready(pod)).count();
            if let Some(until) = status.disrupted_pods.values().map(|at| at.seconds + DELETION_TIMEOUT_SECONDS).min() {
                plan.requeue(Duration::from_secs((until - now).max(1).unsigned_abs()));
            }
            status.current_healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
            (status.expected_pods, status.desired_healthy) = (expected, desired);
            status.disruptions_allowed = if expected > 0 { (status.current_healthy - desired).max(0) } else { 0 };
            status.observed_generation = budget.metadata.generation;
            let reason = if status.disruptions_allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            set_condition(&mut status, ctx, reason, String::new());
            if pods.is_empty() && status != budget.status {
                plan.push(event(ctx, &**budget, COMPONENT, "Normal", "NoPods", "No matching pods found"));
            }
        }
        // Nothing may be evicted that cannot be counted.
        Err(message) => {
            status.disruptions_allowed = 0;
            set_condition(&mut status, ctx, "SyncFailed", message.clone());
            if status != budget.status {
                let message = format!("Failed to calculate the number of expected pods: {message}");
                plan.push(event(ctx, &**budget, COMPONENT, "Warning", "CalculateExpectedPodCountFailed", message));
            }
        }
    }
    if status != budget.status {
        plan.actions.insert(0, Action::update_status(PodDisruptionBudget { status, ..(**budget).clone() }));
    }
    plan
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, ctx: &Ctx, reason: &str, message: String) {
    let text = if status.disruptions_allowed > 0 { "True" } else { "False" };
    let generation = status.observed_generation;
    let known = status.conditions.iter().position(|condition| condition.r#type == "DisruptionAllowed");
    let before = known.and_then(|at| status.conditions.get(at)).filter(|known| known.status == text);
    let since = before.map_or(time(ctx), |known| known.last_transition_time);
    let condition = Condition {
        r#type: "DisruptionAllowed".to_owned(),
        status: text.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
        reason: reason.to_owned(),
        message,
        ..Condition::default()
    };
    match known.and_then(|at| status.conditions.get_mut(at)) {
        Some(known) => *known = condition,
        None => status.conditions.push(condition),
    }
}

/// (expected pods, how many of them have to be healthy)
fn expected(world: &World, budget: &PodDisruptionBudget, pods: &[&Pod]) -> Result<(i32, i32), String> {
    match (&budget.spec.max_unavailable, &budget.spec.min_available) {
        (Some(most), _) => {
            let total = scale(world, pods)?;
            Ok((total, (total - scaled(Some(most), total, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), *least)),
        (None, Some(least)) => {
            let total = scale(world, pods)?;
            Ok((total, scaled(Some(least), total, true)))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// How many pods the controllers of these pods want in sum.
fn scale(world: &World, pods: &[&Pod]) -> Result<i32, String> {
    let mut scales: BTreeMap<String, i32> = BTreeMap::new();
    for pod in pods {
        let Some(owner) = controller_of(&pod.metadata) else { continue };
        let namespace = &pod.metadata.namespace;
        let of = key(namespace, &owner.name);
        let group = owner.api_version.split('/').next().unwrap_or_default();
        let found = match (group, &*owner.kind) {
            ("apps", "ReplicaSet") => {
                world.get::<ReplicaSet>(&of).filter(|set| set.metadata.uid == owner.uid).map(|set| {
                    let deployment = controller_of(&set.metadata).and_then(|owner| {
                        world
                            .get::<Deployment>(&key(namespace, &owner.name))
                            .filter(|deployment| deployment.metadata.uid == owner.uid)
                    });
                    match deployment {
                        Some(deployment) => (deployment.metadata.uid.clone(), deployment.spec.replicas),
                        None => (set.metadata.uid.clone(), set.spec.replicas),
                    }
                })
            }
            ("apps", "StatefulSet") => world
                .get::<StatefulSet>(&of)
                .filter(|set| set.metadata.uid == owner.uid)
                .map(|set| (set.metadata.uid.clone(), set.spec.replicas)),
            ("v1", "ReplicationController") => world
                .get::<ReplicationController>(&of)
                .filter(|rc| rc.metadata.uid == owner.uid)
                .map(|rc| (rc.metadata.uid.clone(), rc.spec.replicas)),
            _ => None,
        };
        let (uid, replicas) = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.metadata.name))?;
        scales.insert(uid, replicas.unwrap_or(1));
    }
    Ok(scales.values().sum())
}
