//! In-place resizes: what a pod was given stands until what it asks for fits; pure.

use std::sync::Arc;

use schema::api::core::v1::{Container, Pod, ResourceRequirements};
use serde_json::{Map, Value, json};

use crate::{pod::Member, resources::amount};

/// A resize that waits for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferred {
    pub message: String,
    /// Of the pod's spec that asks for it.
    pub generation: i64,
}

/// One that the containers do not have yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InProgress {
    pub generation: i64,
    /// Why the last try failed.
    pub error: Option<String>,
}

fn resizable(spec: &Pod) -> impl Iterator<Item = &Container> {
    spec.spec.init_containers.iter().chain(&spec.spec.containers)
}

fn same_of(name: &str, a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let nanos = |list| amount(list, name).map_or(0, |amount| amount.nanos);
    nanos(&a.requests) == nanos(&b.requests) && nanos(&a.limits) == nanos(&b.limits)
}

/// Equal in cpu and memory, which are all that can be resized.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    same_of("cpu", a, b) && same_of("memory", a, b)
}

pub fn differs(asked: &Pod, given: &Pod) -> bool {
    let none = ResourceRequirements::default();
    let whole = |pod: &Pod| pod.spec.resources.clone().unwrap_or_default();
    !same(&whole(asked), &whole(given))
        || resizable(asked).any(|container| {
            let before = resizable(given).find(|before| before.name == container.name);
            !same(&container.resources, before.map_or(&none, |before| &before.resources))
        })
}

/// `asked` with the resources of `given`.
pub fn with_given(asked: &Pod, given: &Pod) -> Arc<Pod> {
    let mut pod = asked.clone();
    pod.spec.resources.clone_from(&given.spec.resources);
    for container in pod.spec.init_containers.iter_mut().chain(&mut pod.spec.containers) {
        if let Some(before) = resizable(given).find(|before| before.name == container.name) {
            container.resources.clone_from(&before.resources);
        }
    }
    Arc::new(pod)
}

/// Whether going from one to the other takes a new container.
pub fn restarts(member: &Member, from: &ResourceRequirements) -> bool {
    let to = &member.container.resources;
    let policies = member.container.resize_policy.iter().filter(|policy| policy.restart_policy == "RestartContainer");
    policies.into_iter().any(|policy| !same_of(&policy.resource_name, from, to))
}

/// What an event about a resize says: `Pod resize started: {"containers":…,"generation":2}`.
pub fn message(what: &str, pod: &Pod, generation: i64, error: &str) -> String {
    let list = |containers: &[Container]| -> Value {
        let lists = |of: &ResourceRequirements| {
            let mut out = Map::new();
            for (name, list) in [("limits", &of.limits), ("requests", &of.requests)] {
                if !list.is_empty() {
                    out.insert(name.into(), list.iter().map(|(name, text)| (name.clone(), json!(text.0))).collect());
                }
            }
            Value::Object(out)
        };
        containers.iter().map(|of| json!({"name": of.name, "resources": lists(&of.resources)})).collect()
    };
    let mut summary = Map::new();
    for (name, containers) in [("initContainers", &pod.spec.init_containers), ("containers", &pod.spec.containers)] {
        if !containers.is_empty() {
            summary.insert(name.into(), list(containers));
        }
    }
    summary.insert("generation".into(), json!(generation));
    if !error.is_empty() {
        summary.insert("error".into(), json!(error));
    }
    format!("Pod resize {what}: {}", Value::Object(summary))
}
