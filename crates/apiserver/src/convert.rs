//! Conversion between served versions whose fields differ: events and HorizontalPodAutoscaler. All others differ in name only.

use std::borrow::Cow;

use schema::{Value, json};

/// Converts in place; apiVersion is set, unknown pairs keep their fields.
pub fn convert(value: &mut Value, from: &str, to: &str) {
    match (from, to) {
        ("v1", "events.k8s.io/v1") => event_to_new(value),
        ("events.k8s.io/v1", "v1") => event_to_core(value),
        ("autoscaling/v2", "autoscaling/v1") => autoscaler_to_v1(value),
        ("autoscaling/v1", "autoscaling/v2") => autoscaler_to_v2(value),
        _ => {}
    }
    value.set(&["apiVersion"], to);
}

/// Old and new names of an Event's fields.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A field of an Event by its name in the stored version, `v1`.
pub fn stored_event_field(path: &str) -> Cow<'_, str> {
    let (head, rest) = path.split_once('.').map_or((path, ""), |(head, _)| (head, &path[head.len()..]));
    let old = EVENT_FIELDS.iter().find(|(_, new)| *new == head);
    old.map_or(path.into(), |(core, _)| format!("{core}{rest}").into())
}

fn rename(value: &mut Value, from: &str, to: &str) {
    if let Some(moved) = value.remove(&[from]) {
        value.set(&[to], moved);
    }
}

fn event_to_new(value: &mut Value) {
    for (core, new) in EVENT_FIELDS {
        rename(value, core, new);
    }
}

fn event_to_core(value: &mut Value) {
    for (core, new) in EVENT_FIELDS {
        rename(value, new, core);
    }
}

/// Where v2 has its metrics, what v1 has of them, the annotation with the rest, and a metric's member with the numbers.
const METRICS: [([&str; 2], [&str; 2], &str, &str); 2] = [
    (
        ["spec", "metrics"],
        ["spec", "targetCPUUtilizationPercentage"],
        "autoscaling.alpha.kubernetes.io/metrics",
        "target",
    ),
    (
        ["status", "currentMetrics"],
        ["status", "currentCPUUtilizationPercentage"],
        "autoscaling.alpha.kubernetes.io/current-metrics",
        "current",
    ),
];
const KEPT: [([&str; 2], &str); 2] = [
    (["spec", "behavior"], "autoscaling.alpha.kubernetes.io/behavior"),
    (["status", "conditions"], "autoscaling.alpha.kubernetes.io/conditions"),
];

fn is_cpu_utilization(metric: &Value) -> bool {
    metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu"
}

fn to_annotation(value: &mut Value, name: &str, content: Value) {
    if !content.is_empty() {
        value.set(&["metadata", "annotations", name], content.to_string());
    }
}

fn from_annotation(value: &mut Value, name: &str) -> Option<Value> {
    let text = value.remove(&["metadata", "annotations", name])?;
    json::parse(text.as_str()?.as_bytes()).ok()
}

/// v1 has CPU utilisation only; the rest is kept in annotations.
fn autoscaler_to_v1(value: &mut Value) {
    for (list, percentage, rest, numbers) in METRICS {
        let Some(Value::List(metrics)) = value.remove(&list) else { continue };
        let mut others = Vec::new();
        for metric in metrics {
            match metric.i64_at(&["resource", numbers, "averageUtilization"]) {
                Some(percent) if is_cpu_utilization(&metric) => value.set(&percentage, percent),
                _ => others.push(metric),
            }
        }
        to_annotation(value, rest, Value::List(others));
    }
    for (path, name) in KEPT {
        if let Some(content) = value.remove(&path) {
            to_annotation(value, name, content);
        }
    }
}

fn autoscaler_to_v2(value: &mut Value) {
    for (list, percentage, rest, numbers) in METRICS {
        let mut metrics = match from_annotation(value, rest) {
            Some(Value::List(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(percent) = value.remove(&percentage).and_then(|p| p.as_i64()) {
            let mut metric = Value::object([("type", "Resource".into())]);
            metric.set(&["resource", "name"], "cpu");
            metric.set(&["resource", numbers, "averageUtilization"], percent);
            if numbers == "target" {
                metric.set(&["resource", numbers, "type"], "Utilization");
            }
            metrics.insert(0, metric);
        }
        if !metrics.is_empty() {
            value.set(&list, Value::List(metrics));
        }
    }
    for (path, name) in KEPT {
        if let Some(content) = from_annotation(value, name) {
            value.set(&path, content);
        }
    }
    if value.object_at(&["metadata", "annotations"]).is_some_and(|a| a.is_empty()) {
        value.remove(&["metadata", "annotations"]);
    }
}
