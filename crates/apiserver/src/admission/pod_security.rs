//! PodSecurity: namespaces choose by label what their pods may ask of the host (`privileged`, `baseline`, `restricted`).

use std::collections::BTreeMap;

use schema::Value;
use schema::validate::{FieldError, aggregate};

use super::pod_security_checks::{self, LATEST_MINOR, Violation};
use super::rule::{Cx, NOTHING, Rule};
use super::{AdmissionRequest, Operation};
use crate::Status;
use crate::view::{self, NAMESPACES, PODS, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

const LEVELS: [(&str, Level); 3] =
    [("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];

/// A level as of a version; no version is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub level: Level,
    pub minor: Option<u32>,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = LEVELS.iter().find(|(_, level)| *level == self.level).map_or("", |(name, _)| name);
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl Standard {
    fn violations(self, pod: &Value) -> Vec<Violation> {
        pod_security_checks::run(pod, self.level, self.minor.unwrap_or(LATEST_MINOR).min(LATEST_MINOR))
    }
}

/// What a namespace's labels ask for.
pub(super) struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

/// Reads the labels; what cannot be read is the latest version and, to enforce, `restricted`.
pub(super) fn policy(namespace: &Value) -> (Policy, Vec<FieldError>) {
    const DEFAULT: Standard = Standard { level: Level::Privileged, minor: None };
    let mut errors = Vec::new();
    let mut wrong = |label: &str, text: &str, why: &str| {
        let field = format!("metadata.labels[{PREFIX}{label}]");
        errors.push(FieldError::invalid(field, Value::from(text), why));
    };
    let label = |name: &str| view::label(namespace, &format!("{PREFIX}{name}"));
    let mut read = |mode: &str, fallback: Level| {
        let mut standard = DEFAULT;
        let mut level_is_good = false;
        if let Some(text) = label(mode) {
            match LEVELS.iter().find(|(name, _)| *name == text) {
                Some((_, level)) => {
                    standard.level = *level;
                    level_is_good = true;
                }
                None => {
                    wrong(mode, text, "must be one of privileged, baseline, restricted");
                    standard.level = fallback;
                }
            }
        }
        let version = format!("{mode}-version");
        if let Some(text) = label(&version) {
            let minor = text.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0'));
            match minor.and_then(|m| m.parse().ok()) {
                Some(minor) => standard.minor = Some(minor),
                None if text == "latest" => {}
                None => wrong(&version, text, "must be \"latest\" or \"v1.x\""),
            }
        }
        (standard, level_is_good)
    };
    let (enforce, enforce_is_good) = read("enforce", Level::Restricted);
    let (audit, _) = read("audit", Level::Privileged);
    let (mut warn, _) = read("warn", Level::Privileged);
    if label("warn").is_none() && enforce_is_good && enforce.level > warn.level {
        warn.level = enforce.level;
        if label("warn-version").is_none() {
            warn.minor = enforce.minor;
        }
    }
    (Policy { enforce, audit, warn }, errors)
}

/// `reason (detail), reason (detail)`.
fn describe(violations: &[Violation]) -> String {
    let parts = violations.iter().map(|v| format!("{} ({})", v.reason, v.detail));
    parts.collect::<Vec<_>>().join(", ")
}

pub const RULE: Rule = Rule {
    name: "PodSecurity",
    of: &[
        ("", "pods"),
        ("", "namespaces"),
        ("", "replicationcontrollers"),
        ("", "podtemplates"),
        ("apps", "replicasets"),
        ("apps", "deployments"),
        ("apps", "statefulsets"),
        ("apps", "daemonsets"),
        ("batch", "jobs"),
        ("batch", "cronjobs"),
    ],
    validate,
    ..NOTHING
};

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if request.resource == "namespaces" {
        return if request.subresource.is_empty() { of_namespace(cx, request) } else { Ok(()) };
    }
    let is_pod = request.resource == "pods";
    let concerns = if is_pod {
        matches!(request.subresource.as_str(), "" | "ephemeralcontainers" | "resize")
    } else {
        request.subresource.is_empty()
    };
    if !concerns {
        return Ok(());
    }
    let Some(namespace) = cx.view.get(NAMESPACES, "", &request.namespace) else { return Ok(()) };
    let (policy, errors) = policy(&namespace);
    let all = [policy.enforce, policy.audit, policy.warn];
    if errors.is_empty() && all.iter().all(|standard| standard.level == Level::Privileged) {
        if is_pod {
            annotate(request, "enforce-policy", policy.enforce);
        }
        return Ok(());
    }
    if !is_pod {
        let template = match request.resource.as_str() {
            "podtemplates" => &request.object["template"],
            "cronjobs" => &request.object["spec"]["jobTemplate"]["spec"]["template"],
            _ => &request.object["spec"]["template"],
        };
        if !template.is_null() {
            tell_audit(request, &policy, &errors, template);
            request.warnings.extend(warning(policy.warn, template));
        }
        return Ok(());
    }
    if request.old.as_deref().is_some_and(|old| !is_significant(&request.object, old)) {
        return Ok(());
    }
    annotate(request, "enforce-policy", policy.enforce);
    tell_audit(request, &policy, &errors, &request.object);
    let violations = policy.enforce.violations(&request.object);
    if !violations.is_empty() {
        let standard = policy.enforce.to_string();
        return request.refuse(format!("violates PodSecurity {standard:?}: {}", describe(&violations)));
    }
    request.warnings.extend(warning(policy.warn, &request.object));
    Ok(())
}

fn warning(standard: Standard, pod: &Value) -> Option<String> {
    let (name, violations) = (standard.to_string(), standard.violations(pod));
    (!violations.is_empty()).then(|| format!("would violate PodSecurity {name:?}: {}", describe(&violations)))
}

fn annotate(request: &AdmissionRequest, key: &str, value: impl std::fmt::Display) {
    if request.warnings.trail.is_some() {
        request.warnings.annotate(format!("{PREFIX}{key}"), value.to_string());
    }
}

fn tell_audit(request: &AdmissionRequest, policy: &Policy, errors: &[FieldError], pod: &Value) {
    if request.warnings.trail.is_none() {
        return;
    }
    if !errors.is_empty() {
        annotate(request, "error", format_args!("Failed to parse policy: {}", aggregate(errors)));
    }
    if let Some(violations) = warning(policy.audit, pod) {
        annotate(request, "audit-violations", violations);
    }
}

/// Of a pod's update only new containers and images matter.
fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, field| -> Vec<String> {
        pod.list_at(&["spec", field]).iter().map(|c| c.str_at(&["image"]).to_owned()).collect()
    };
    if ["containers", "initContainers"].iter().any(|field| images(new, field) != images(old, field)) {
        return true;
    }
    let held: BTreeMap<&str, &str> = old
        .list_at(&["spec", "ephemeralContainers"])
        .iter()
        .map(|c| (c.str_at(&["name"]), c.str_at(&["image"])))
        .collect();
    let mut ephemeral = new.list_at(&["spec", "ephemeralContainers"]).iter();
    ephemeral.any(|c| held.get(c.str_at(&["name"])) != Some(&c.str_at(&["image"])))
}

fn of_namespace(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let (wanted, errors) = policy(&request.object);
    let Some(old) = request.old.as_deref() else {
        return if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Namespace", &request.name, errors)) };
    };
    let (held, old_errors) = policy(old);
    let told = |errors: &[FieldError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    if !errors.is_empty() && told(&errors) != told(&old_errors) {
        return Err(Status::invalid("", "Namespace", &request.name, errors));
    }
    let is_stricter = wanted.enforce != held.enforce
        && wanted.enforce.level != Level::Privileged
        && (wanted.enforce.minor != held.enforce.minor || wanted.enforce.level > held.enforce.level);
    if is_stricter {
        let warnings = of_pods(cx.view, &request.name, wanted.enforce);
        request.warnings.extend(warnings);
    }
    Ok(())
}

/// Warnings about pods that a new level would not let in. Of a controller's pods one speaks for all before others are looked at.
fn of_pods(view: &dyn View, namespace: &str, standard: Standard) -> Vec<String> {
    const CHECKED_MAX: usize = 3000;
    let mut first = Vec::new();
    let mut more = Vec::new();
    let mut controllers = std::collections::HashSet::new();
    for pod in view.list(PODS, namespace) {
        let owners = pod.list_at(&["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|o| o.bool_at(&["controller"])).map(|o| o.str_at(&["uid"]).to_owned());
        let is_new = controller.is_none_or(|uid| controllers.insert(uid));
        if is_new { first.push(pod) } else { more.push(pod) }
    }
    first.append(&mut more);
    let total = first.len();
    let mut found: BTreeMap<String, (String, u64)> = BTreeMap::new();
    for pod in first.iter().take(CHECKED_MAX) {
        let violations = standard.violations(pod);
        if violations.is_empty() {
            continue;
        }
        let reasons = violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ");
        let entry = found.entry(reasons).or_insert_with(|| (view::name(pod).to_owned(), 0));
        entry.0 = entry.0.clone().min(view::name(pod).to_owned());
        entry.1 += 1;
    }
    let mut warnings = Vec::new();
    if total > CHECKED_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {CHECKED_MAX} of {total} existing pods"
        ));
    }
    if !found.is_empty() {
        let standard = standard.to_string();
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {standard:?}"
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}
