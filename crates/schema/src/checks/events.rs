//! Events, as the old group takes them and as the new one demands more.

use super::{Check, same};
use crate::Value;
use crate::validate::names;

/// `legacyValidateEvent`: an event lives beside what it tells of, and one with a time says who tells it.
fn told(c: &mut Check<'_>, involved: &str, controller: &str, note: &str) {
    let (own, other) = (c.value.str_at(&["metadata", "namespace"]), c.value.str_at(&[involved, "namespace"]));
    let timed = !c.value["eventTime"].is_empty();
    let strange =
        if other.is_empty() { own != "default" && !(timed && own == "kube-system") } else { !timed && own != other };
    if strange {
        c.invalid("involvedObject.namespace", other, "does not match event.namespace");
    }
    if !timed {
        return;
    }
    c.problems(controller, c.text(controller), names::label_key(c.text(controller)));
    if c.text(controller).is_empty() {
        c.required(controller, "");
    }
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
    told(c, "involvedObject", "reportingComponent", "message");
}

/// `events.k8s.io/v1`; upstream names its fields as the old group does.
pub fn new_event(c: &mut Check<'_>) {
    told(c, "regarding", "reportingController", "note");
    let old = c.old.filter(|old| !old.is_null());
    let series = &c.value["series"];
    if !series.is_null() && old.is_none_or(|old| old["series"] != *series) {
        if series.i64_at(&["count"]).unwrap_or(0) < 2 {
            c.invalid("series.count", "", "should be at least 2");
        }
        if series["lastObservedTime"].is_empty() {
            c.required("series.lastObservedTime", "");
        }
    }
    let Some(old) = old else {
        if c.value["eventTime"].is_empty() {
            c.required("eventTime", "");
        }
        let ty = c.text("type");
        if !matches!(ty, "Normal" | "Warning") {
            c.invalid("type", "", format!("has invalid value: {ty}"));
        }
        for (field, told) in DEPRECATED {
            if !c.value[field].is_empty() {
                c.invalid(told, "", "needs to be unset");
            }
        }
        return;
    };
    for (field, told) in FIXED.into_iter().chain(DEPRECATED) {
        if !same(&c.value[field], &old[field]) {
            let text = !matches!(told, "involvedObject" | "related" | "eventTime");
            let shown = if text { Value::from(c.text(field)) } else { c.value[field].clone() };
            c.invalid(told, shown, "field is immutable");
        }
    }
}

const FIXED: [(&str, &str); 9] = [
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];
const DEPRECATED: [(&str, &str); 4] = [
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("deprecatedSource", "source"),
];
