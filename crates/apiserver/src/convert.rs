//! Conversion between served versions whose fields differ: events and HorizontalPodAutoscaler. All others differ in name only.

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

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

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
    let metrics = match value.remove(&["spec", "metrics"]) {
        Some(Value::List(metrics)) => metrics,
        _ => Vec::new(),
    };
    let mut others = Vec::new();
    for metric in metrics {
        let utilization = metric.i64_at(&["resource", "target", "averageUtilization"]);
        match utilization {
            Some(percent) if is_cpu_utilization(&metric) => {
                value.set(&["spec", "targetCPUUtilizationPercentage"], percent);
            }
            _ => others.push(metric),
        }
    }
    to_annotation(value, METRICS, Value::List(others));
    let current = match value.remove(&["status", "currentMetrics"]) {
        Some(Value::List(current)) => current,
        _ => Vec::new(),
    };
    let mut others = Vec::new();
    for metric in current {
        match metric.i64_at(&["resource", "current", "averageUtilization"]) {
            Some(percent) if is_cpu_utilization(&metric) => {
                value.set(&["status", "currentCPUUtilizationPercentage"], percent);
            }
            _ => others.push(metric),
        }
    }
    to_annotation(value, CURRENT_METRICS, Value::List(others));
    for (path, name) in [(["spec", "behavior"], BEHAVIOR), (["status", "conditions"], CONDITIONS)] {
        if let Some(content) = value.remove(&path) {
            to_annotation(value, name, content);
        }
    }
}

fn autoscaler_to_v2(value: &mut Value) {
    let mut metrics = match from_annotation(value, METRICS) {
        Some(Value::List(metrics)) => metrics,
        _ => Vec::new(),
    };
    if let Some(percent) = value.remove(&["spec", "targetCPUUtilizationPercentage"]).and_then(|p| p.as_i64()) {
        let mut metric = Value::object([("type", "Resource".into())]);
        metric.set(&["resource", "name"], "cpu");
        metric.set(&["resource", "target", "type"], "Utilization");
        metric.set(&["resource", "target", "averageUtilization"], percent);
        metrics.insert(0, metric);
    }
    if !metrics.is_empty() {
        value.set(&["spec", "metrics"], Value::List(metrics));
    }
    let mut current = match from_annotation(value, CURRENT_METRICS) {
        Some(Value::List(current)) => current,
        _ => Vec::new(),
    };
    if let Some(percent) = value.remove(&["status", "currentCPUUtilizationPercentage"]).and_then(|p| p.as_i64()) {
        let mut metric = Value::object([("type", "Resource".into())]);
        metric.set(&["resource", "name"], "cpu");
        metric.set(&["resource", "current", "averageUtilization"], percent);
        current.insert(0, metric);
    }
    if !current.is_empty() {
        value.set(&["status", "currentMetrics"], Value::List(current));
    }
    for (path, name) in [(["spec", "behavior"], BEHAVIOR), (["status", "conditions"], CONDITIONS)] {
        if let Some(content) = from_annotation(value, name) {
            value.set(&path, content);
        }
    }
    if value.object_at(&["metadata", "annotations"]).is_some_and(|a| a.is_empty()) {
        value.remove(&["metadata", "annotations"]);
    }
}
