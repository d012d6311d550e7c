//! RuntimeClass: a pod gets the overhead, node selector and tolerations of its runtime class.

use std::sync::Arc;

use schema::Value;

use super::AdmissionRequest;
use super::rule::{Cx, PODS, Rule};
use crate::{Status, pods::Resources, view::RUNTIME_CLASSES};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

pub const RULE: Rule = Rule { name: "RuntimeClass", of: PODS, mutate, validate };

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let Some(class) = class(cx, request)? else { return Ok(()) };
    let fixed = Resources::of(&class["overhead"], "podFixed");
    if !fixed.0.is_empty() {
        let given = Resources::of(&request.object["spec"], "overhead");
        if !given.0.is_empty() && !same(&given, &fixed) {
            return request.refuse(MISMATCH);
        }
        request.object.set(&["spec", "overhead"], class["overhead"]["podFixed"].clone());
    }
    for (key, value) in class.object_at(&["scheduling", "nodeSelector"]).into_iter().flatten() {
        let held = request.object.get(&["spec", "nodeSelector", key]).cloned();
        match held {
            Some(held) if held != *value => {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                return request.refuse(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(&held)
                ));
            }
            _ => request.object.set(&["spec", "nodeSelector", key], value.clone()),
        }
    }
    for toleration in class.list_at(&["scheduling", "tolerations"]) {
        let tolerations = request.object.make_list(&["spec", "tolerations"]);
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !request.is_create() {
        return Ok(());
    }
    let class = class(cx, request)?;
    let fixed = class.map(|c| Resources::of(&c["overhead"], "podFixed")).unwrap_or_default();
    let given = Resources::of(&request.object["spec"], "overhead");
    match (fixed.0.is_empty(), given.0.is_empty()) {
        (true, false) => {
            request.refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
        }
        _ if !same(&fixed, &given) => request.refuse(MISMATCH),
        _ => Ok(()),
    }
}

fn same(a: &Resources, b: &Resources) -> bool {
    a.0.len() == b.0.len() && a.0.iter().all(|(name, q)| b.get(name).is_some_and(|other| q.compare(other).is_eq()))
}

fn class(cx: &Cx<'_>, request: &AdmissionRequest) -> Result<Option<Arc<Value>>, Status> {
    let name = request.object.str_at(&["spec", "runtimeClassName"]);
    if !request.is_create() || name.is_empty() {
        return Ok(None);
    }
    let found = cx.view.get(RUNTIME_CLASSES, "", name);
    found.map(Some).ok_or_else(|| request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))
}
