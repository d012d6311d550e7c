//! Pods as their controllers make and choose them.

use std::cmp::Reverse;

use reconcile::{Action, Ctx, World};
use schema::api::Object;
use schema::api::core::v1::{Pod, PodTemplateSpec};
use schema::api::meta::v1::ObjectMeta;

use crate::support::{controller_ref, event, is_ready, pod_condition};

/// As many bytes of a prefix as a generated name keeps.
const MAX_PREFIX: usize = 58;

/// A pod of a template, owned by `owner`, with a generated name: made here, so that events can tell it.
pub fn from_template<O: Object>(owner: &O, template: &PodTemplateSpec, ctx: &mut Ctx) -> Pod {
    generated(owner, template, format!("{}-", owner.name()), ctx)
}

/// The same with a prefix of its own.
pub fn generated<O: Object>(owner: &O, template: &PodTemplateSpec, prefix: String, ctx: &mut Ctx) -> Pod {
    let name = format!("{}{}", prefix.get(..MAX_PREFIX).unwrap_or(&prefix), ctx.suffix(5));
    let mut pod = named(owner, template, &name);
    pod.metadata.generate_name = prefix;
    pod
}

/// Makes pods, then says so.
pub fn create<O: Object>(owner: &O, component: &str, pods: Vec<Pod>, ctx: &mut Ctx) -> Vec<Action> {
    let events: Vec<Action> = pods
        .iter()
        .map(|pod| {
            event(ctx, owner, component, "Normal", "SuccessfulCreate", format!("Created pod: {}", pod.metadata.name))
        })
        .collect();
    pods.into_iter().map(Action::create).chain(events).collect()
}

/// Deletes pods, then says so.
pub fn delete<O: Object>(owner: &O, component: &str, pods: &[&Pod], ctx: &mut Ctx) -> Vec<Action> {
    let events: Vec<Action> = pods
        .iter()
        .map(|pod| {
            event(ctx, owner, component, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name))
        })
        .collect();
    pods.iter().map(|pod| Action::delete(*pod)).chain(events).collect()
}

/// A pod of a template, owned by `owner`, of this name.
pub fn named<O: Object>(owner: &O, template: &PodTemplateSpec, name: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: name.to_owned(),
            namespace: owner.namespace().to_owned(),
            labels: template.metadata.labels.clone(),
            annotations: template.metadata.annotations.clone(),
            finalizers: template.metadata.finalizers.clone(),
            owner_references: vec![controller_ref(owner)],
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Pod::default()
    }
}

/// The order in which surplus pods go, first first (upstream's ActivePodsWithRanks): unassigned, pending, not ready,
/// cheap, doubled on a node, young in readiness, restarted often, young.
pub fn deletion_order<'a>(mut pods: Vec<&'a Pod>, related: &[&Pod], now_seconds: i64) -> Vec<&'a Pod> {
    let rank = |pod: &Pod| {
        let node = &pod.spec.node_name;
        if node.is_empty() { 0 } else { related.iter().filter(|other| other.spec.node_name == *node).count() }
    };
    let phase = |pod: &Pod| match &*pod.status.phase {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| -> i32 {
        let given = pod.metadata.annotations.get("controller.kubernetes.io/pod-deletion-cost");
        given.and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    // Ages are compared by order of magnitude, so that who is oldest by seconds does not always stay.
    let magnitude = |since: i64| {
        let age = now_seconds - since;
        if age <= 0 { 0 } else { 64 - age.leading_zeros() }
    };
    let ready_since = |pod: &Pod| pod_condition(pod, "Ready").map_or(0, |(_, since)| since.seconds);
    let restarts =
        |pod: &Pod| pod.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or(0);
    pods.sort_by_cached_key(|pod| {
        let assigned = !pod.spec.node_name.is_empty();
        let ready = is_ready(pod);
        (
            assigned,
            phase(pod),
            ready,
            cost(pod),
            Reverse(rank(pod)),
            if ready { magnitude(ready_since(pod)) } else { 0 },
            Reverse(restarts(pod)),
            magnitude(pod.metadata.creation_timestamp.seconds),
            pod.metadata.uid.clone(),
        )
    });
    pods
}

/// All pods of a namespace that an index by owner finds.
pub fn owned<'a>(world: &'a World, uid: &'a str) -> impl Iterator<Item = &'a Pod> {
    world.of::<Pod>().owned_by(uid).map(|pod| &**pod)
}
