//! Priority: a pod's class becomes its number; one class at most is the default.

use std::sync::Arc;

use schema::Value;

use super::AdmissionRequest;
use super::rule::{Cx, Rule};
use crate::Status;
use crate::view::{self, PRIORITY_CLASSES, View};

pub const RULE: Rule =
    Rule { name: "Priority", of: &[("", "pods"), ("scheduling.k8s.io", "priorityclasses")], mutate, validate };

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if request.resource != "pods" {
        return Ok(());
    }
    if request.is_update() {
        for field in ["priority", "preemptionPolicy"] {
            let held = request.old.as_deref().and_then(|old| old.get(&["spec", field])).cloned();
            if let Some(held) = held.filter(|_| request.object.get(&["spec", field]).is_none_or(Value::is_null)) {
                request.object.set(&["spec", field], held);
            }
        }
    }
    if !request.is_create() {
        return Ok(());
    }
    let name = request.object.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        default_class(cx.view)
    } else {
        let found = cx.view.get(PRIORITY_CLASSES, "", &name);
        Some(found.ok_or_else(|| request.forbidden(&format!("no PriorityClass with name {name} was found")))?)
    };
    let value = class.as_ref().and_then(|c| c.i64_at(&["value"])).unwrap_or(0);
    let policy = class.as_ref().map_or("PreemptLowerPriority", |c| c.str_at(&["preemptionPolicy"]));
    if let Some(class) = class.as_ref().filter(|_| name.is_empty()) {
        request.object.set(&["spec", "priorityClassName"], view::name(class));
    }
    if let Some(given) = request.object.i64_at(&["spec", "priority"]).filter(|given| *given != value) {
        return request.refuse(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
             controller computed {value} from the given PriorityClass name"
        ));
    }
    request.object.set(&["spec", "priority"], value);
    if policy.is_empty() {
        return Ok(());
    }
    let given = request.object.get(&["spec", "preemptionPolicy"]).and_then(Value::as_str);
    if let Some(given) = given.filter(|given| *given != policy) {
        return request.refuse(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    request.object.set(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let is_write = request.is_create() || request.is_update();
    if request.resource != "priorityclasses" || !is_write || !request.object.bool_at(&["globalDefault"]) {
        return Ok(());
    }
    match default_class(cx.view) {
        Some(class) if request.is_create() || view::name(&class) != view::name(&request.object) => request.refuse(
            format!("PriorityClass {} is already marked as default. Only one default can exist", view::name(&class)),
        ),
        _ => Ok(()),
    }
}

/// The default class; the lowest, if there are several.
fn default_class(view: &dyn View) -> Option<Arc<Value>> {
    let classes = view.list(PRIORITY_CLASSES, "");
    classes.into_iter().filter(|c| c.bool_at(&["globalDefault"])).min_by_key(|c| c.i64_at(&["value"]))
}
