//! PodResizeValidator: a running pod grows no larger than its node.

use super::rule::{Cx, NOTHING, PODS, Rule};
use super::{AdmissionRequest, Operation};
use crate::Status;
use crate::pods::{self, Resources};
use crate::view::NODES;

pub const RULE: Rule = Rule { name: "PodResizeValidator", of: PODS, validate, ..NOTHING };

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let node = request.object.str_at(&["spec", "nodeName"]);
    let is_resize = request.operation == Operation::Update && request.subresource == "resize";
    let old = request.old.as_deref();
    if !is_resize || node.is_empty() || old.is_some_and(|old| old["spec"] == request.object["spec"]) {
        return Ok(());
    }
    let Some(held) = cx.view.get(NODES, "", node) else {
        return request.refuse(format!("node {node:?} not found"));
    };
    let os = held.str_at(&["metadata", "labels", "kubernetes.io/os"]);
    if !matches!(os, "" | "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {node:?} is {os:?}");
        return Err(request.forbidden(&why).with_cause("UnsupportedPlatform", "", ""));
    }
    let allocatable = Resources::of(&held["status"], "allocatable");
    let mut requests = pods::total(&request.object["spec"], "requests");
    requests.add(&Resources::of(&request.object["spec"], "overhead"));
    let mut lacking = Vec::new();
    for name in ["cpu", "memory"] {
        let (asked, there) = (requests.get(name).unwrap_or_default(), allocatable.get(name).unwrap_or_default());
        if asked.compare(there).is_gt() {
            let shown = |q: schema::quantity::Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
            lacking.push(format!("{name}, requested: {}, allocatable: {}", shown(asked), shown(there)));
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let why = format!("node didn't have enough allocatable resources: {}", lacking.join("; "));
    Err(request.forbidden(&why).with_cause("NodeCapacity", "", ""))
}
