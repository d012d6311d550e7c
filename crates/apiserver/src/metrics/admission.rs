//! What admission takes and refuses: by step, by plugin, by webhook and by policy.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{Histogram, Page, SERIES_MAX, lock};
use crate::Server;
use crate::admission::{Operation, Plugin};

const STEPS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOKS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const CHECKS: &[f64] = &[0.0000005, 0.001, 0.01, 0.1, 1.0];

/// Operation, whether it was refused, and `admit`, `validate` or, for webhooks, `validating`.
type Step = (&'static str, &'static str, &'static str);
/// The names of a policy and of its binding, what went wrong, and what was done about it.
type Check = (String, String, &'static str, &'static str);

#[derive(Default)]
struct Tables {
    steps: BTreeMap<Step, Histogram>,
    plugins: BTreeMap<(&'static str, Step), Histogram>,
    webhooks: BTreeMap<(String, Step), Histogram>,
    /// By status code too.
    requests: BTreeMap<(String, Step, u16), u64>,
    /// By what kind of error it was, and its code.
    rejections: BTreeMap<(String, Step, &'static str, u16), u64>,
    failed_open: BTreeMap<(String, &'static str), u64>,
    checks: BTreeMap<Check, Histogram>,
}

/// How long the plugins of a step took.
pub struct Times {
    started: Instant,
    last: Instant,
    plugins: Vec<(&'static str, Duration)>,
}

impl Times {
    pub fn new(plugins: &[Box<dyn Plugin>]) -> Times {
        let now = Instant::now();
        Times { started: now, last: now, plugins: Vec::with_capacity(plugins.len()) }
    }

    pub fn add(&mut self, plugin: &'static str) {
        let now = Instant::now();
        self.plugins.push((plugin, now - std::mem::replace(&mut self.last, now)));
    }

    pub fn tell(&self, server: &Server, operation: Operation, step: &'static str, is_rejected: bool) {
        server.inner.metrics.admission.step(operation, step, self.last - self.started, &self.plugins, is_rejected);
    }
}

#[derive(Default)]
pub struct Admission(Mutex<Tables>);

/// What came of asking a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Allowed,
    /// It said no, with this code.
    Denied(u16),
    /// It could not be asked or gave no sensible answer; whether that is ignored.
    Failed {
        is_ignored: bool,
    },
    /// It is this server that cannot go on.
    Broken,
}

fn flag(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

fn check_labels((policy, binding, error, action): &Check) -> [(&'static str, &str); 4] {
    [("enforcement_action", action), ("error_type", error), ("policy", policy), ("policy_binding", binding)]
}

/// What is told apart by names that users give does not grow without end.
fn entry<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, new: impl FnOnce() -> V) -> Option<&mut V> {
    if table.len() >= SERIES_MAX && !table.contains_key(&key) {
        return None;
    }
    Some(table.entry(key).or_insert_with(new))
}

fn count<K: Ord>(table: &mut BTreeMap<K, u64>, key: K) {
    if let Some(count) = entry(table, key, || 0) {
        *count += 1;
    }
}

impl Admission {
    /// A step, and how long each of its plugins took; the last one refused if it was refused.
    pub fn step(
        &self,
        operation: Operation,
        step: &'static str,
        took: Duration,
        plugins: &[(&'static str, Duration)],
        is_rejected: bool,
    ) {
        let labels = |is_rejected| (operation.as_str(), flag(is_rejected), step);
        let mut tables = lock(&self.0);
        let new = || Histogram::new(STEPS);
        tables.steps.entry(labels(is_rejected)).or_insert_with(new).observe(took.as_secs_f64());
        for (at, (name, took)) in plugins.iter().enumerate() {
            let key = (*name, labels(is_rejected && at + 1 == plugins.len()));
            tables.plugins.entry(key).or_insert_with(new).observe(took.as_secs_f64());
        }
    }

    pub fn webhook(&self, name: &str, operation: Operation, step: &'static str, took: Duration, asked: Asked) {
        let (code, error, is_rejected) = match asked {
            Asked::Allowed => (200, None, false),
            Asked::Denied(code) => (code.min(600), Some("no_error"), true),
            Asked::Failed { is_ignored } => (0, (!is_ignored).then_some("calling_webhook_error"), !is_ignored),
            Asked::Broken => (0, Some("apiserver_internal_error"), true),
        };
        let labels = (operation.as_str(), flag(is_rejected), step);
        let mut tables = lock(&self.0);
        if let Some(histogram) = entry(&mut tables.webhooks, (name.to_owned(), labels), || Histogram::new(WEBHOOKS)) {
            histogram.observe(took.as_secs_f64());
        }
        count(&mut tables.requests, (name.to_owned(), labels, code));
        if let Some(error) = error {
            count(&mut tables.rejections, (name.to_owned(), labels, error, code));
        }
        if asked == (Asked::Failed { is_ignored: true }) {
            count(&mut tables.failed_open, (name.to_owned(), step));
        }
    }

    /// A policy was evaluated for a binding.
    pub fn check(&self, policy: &str, binding: &str, error: &'static str, action: &'static str, took: Duration) {
        let key = (policy.to_owned(), binding.to_owned(), error, action);
        if let Some(histogram) = entry(&mut lock(&self.0).checks, key, || Histogram::new(CHECKS)) {
            histogram.observe(took.as_secs_f64());
        }
    }

    pub fn write(&self, page: &mut Page) {
        let tables = lock(&self.0);
        let help = "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).";
        page.family("apiserver_admission_step_admission_duration_seconds", "histogram", help);
        for ((operation, rejected, step), histogram) in &tables.steps {
            page.histogram(&[("operation", operation), ("rejected", rejected), ("type", step)], histogram);
        }
        let help = "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).";
        page.family("apiserver_admission_controller_admission_duration_seconds", "histogram", help);
        for ((name, (operation, rejected, step)), histogram) in &tables.plugins {
            let labels = [("name", *name), ("operation", operation), ("rejected", rejected), ("type", step)];
            page.histogram(&labels, histogram);
        }
        let help = "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).";
        page.family("apiserver_admission_webhook_admission_duration_seconds", "histogram", help);
        for ((name, (operation, rejected, step)), histogram) in &tables.webhooks {
            let labels = [("name", name.as_str()), ("operation", operation), ("rejected", rejected), ("type", step)];
            page.histogram(&labels, histogram);
        }
        let help = "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).";
        page.family("apiserver_admission_webhook_fail_open_count", "counter", help);
        for ((name, step), count) in &tables.failed_open {
            page.sample(&[("name", name), ("type", step)], count);
        }
        let help = "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation.";
        page.family("apiserver_admission_webhook_rejection_count", "counter", help);
        for ((name, (operation, _, step), error, code), count) in &tables.rejections {
            let code = code.to_string();
            let (error, code) = (("error_type", *error), ("rejection_code", code.as_str()));
            page.sample(&[error, ("name", name), ("operation", operation), code, ("type", step)], count);
        }
        let help = "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation.";
        page.family("apiserver_admission_webhook_request_total", "counter", help);
        for ((name, (operation, rejected, step), code), count) in &tables.requests {
            let (code, name) = (code.to_string(), ("name", name.as_str()));
            let (operation, rejected) = (("operation", *operation), ("rejected", *rejected));
            page.sample(&[("code", &code), name, operation, rejected, ("type", step)], count);
        }
        let help = "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.";
        page.family("apiserver_validating_admission_policy_check_duration_seconds", "histogram", help);
        for (check, histogram) in &tables.checks {
            page.histogram(&check_labels(check), histogram);
        }
        let help = "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.";
        page.family("apiserver_validating_admission_policy_check_total", "counter", help);
        for (check, histogram) in &tables.checks {
            page.sample(&check_labels(check), histogram.count());
        }
    }
}
