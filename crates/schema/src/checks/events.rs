//! Events, as the old group takes them and as the new one demands more.

use super::{Check, same};
use crate::Value;
use crate::validate::names;

/// An event lives beside what it tells of, and in `default` if that has no namespace.
fn place(c: &mut Check<'_>, involved: &str) {
    let (own, other) = (c.value.str_at(&["metadata", "namespace"]), c.value.str_at(&[involved, "namespace"]));
    if own != if other.is_empty() { "default" } else { other } {
        c.invalid("involvedObject.namespace", other, "does not match event.namespace");
    }
}

pub fn event(c: &mut Check<'_>) {
    place(c, "involvedObject");
}

/// `events.k8s.io/v1`; upstream names its fields as the old group does.
pub fn new_event(c: &mut Check<'_>) {
    place(c, "regarding");
    if c.value["eventTime"].is_empty() {
        c.required("eventTime", "");
    }
    let controller = c.text("reportingController");
    c.problems("reportingController", controller, names::label_key(controller));
    for field in ["reportingInstance", "action", "reason"] {
        match c.text(field).len() {
            0 => c.required(field, ""),
            1..=128 => {}
            _ => c.invalid(field, "", "can have at most 128 characters"),
        }
    }
    if c.text("note").len() > 1024 {
        c.invalid("message", "", "can have at most 1024 characters");
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
