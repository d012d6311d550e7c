//! Events, as the old group takes them and as the new one demands more.

use super::{Check, same};
use crate::Value;
use crate::validate::names;

/// What all events are: beside what they tell of, and, if they have a time of their own, by somebody.
fn any_event(c: &mut Check<'_>, involved: &str, controller: &str, note: &str) {
    let (own, other) = (c.value.str_at(&["metadata", "namespace"]), c.value.str_at(&[involved, "namespace"]));
    let timed = !c.value["eventTime"].is_empty();
    let misplaced = match other {
        "" => own != "default" && !(timed && own == "kube-system"),
        other => !timed && own != other,
    };
    if misplaced {
        c.invalid("involvedObject.namespace", other, "does not match event.namespace");
    }
    if !timed {
        return;
    }
    let name = c.text(controller);
    if name.is_empty() {
        c.required(controller, "");
    }
    c.problems(controller, name, names::label_key(name));
    for field in ["reportingInstance", "action", "reason"] {
        match c.text(field).len() {
            0 => c.required(field, ""),
            1..=128 => {}
            _ => c.invalid(field, "", "can have at most 128 characters"),
        }
    }
    if c.text(note).len() > 1024 {
        c.invalid("message", "", "can have at most 1024 characters");
    }
}

pub fn event(c: &mut Check<'_>) {
    any_event(c, "involvedObject", "reportingComponent", "message");
}

/// `events.k8s.io/v1`; upstream names its fields as the old group does.
pub fn new_event(c: &mut Check<'_>) {
    any_event(c, "regarding", "reportingController", "note");
    if c.value["eventTime"].is_empty() {
        c.required("eventTime", "");
    }
    let ty = c.text("type");
    if !matches!(ty, "Normal" | "Warning") {
        c.invalid("type", "", format!("has invalid value: {ty}"));
    }
    let series = &c.value["series"];
    if !series.is_null() {
        if series.i64_at(&["count"]).unwrap_or(0) < 2 {
            c.invalid("series.count", "", "should be at least 2");
        }
        if series["lastObservedTime"].is_empty() {
            c.required("series.lastObservedTime", "");
        }
    }
    let Some(old) = c.old.filter(|old| !old.is_null()) else { return };
    for (field, told) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if !same(&c.value[field], &old[field]) {
            let text = !matches!(field, "regarding" | "related" | "eventTime");
            let shown = if text { Value::from(c.text(field)) } else { c.value[field].clone() };
            c.invalid(told, shown, "field is immutable");
        }
    }
}
