//! Controllers of pods: generations, selectors, and what of them is fixed once they exist.

use schema::Value;
use schema::checks::same;
use schema::selector::LabelSelector;
use schema::validate::{FieldError, NameRule, label_selector, names};

use super::{
    Cx, Dependents, PLAIN, Strategy, bump_generation, keep, keep_for_status, keep_for_update, keep_in_containers,
    wipe_for_create,
};
use crate::meta;
use crate::status::Result;

pub static WORKLOAD: Strategy =
    Strategy { generation: true, validate: selector_and_template, warnings: template_warnings, ..PLAIN };

/// Of a template that comes or changes.
fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old["spec"]["template"] == new["spec"]["template"]) {
        return Vec::new();
    }
    super::warnings::pod(&new["spec"]["template"]["spec"], "spec.template.spec")
}

pub static REPLICATION_CONTROLLER: Strategy =
    Strategy { dependents: Dependents::Orphan, name_rule: NameRule::LongName, ..WORKLOAD };

pub static DEPLOYMENT: Strategy = Strategy {
    prepare_update: |_, new, old| {
        bump_generation(new, old);
        // A change of annotations is one too: rollbacks and pauses are told from it.
        if meta::generation(new) == meta::generation(old)
            && new["metadata"]["annotations"] != old["metadata"]["annotations"]
        {
            meta::set_generation(new, meta::generation(old) + 1);
        }
        Ok(())
    },
    keep_for_status: |kind, new, old| {
        keep_for_status(kind, new, old);
        keep(new, old, &["metadata", "labels"]);
    },
    ..WORKLOAD
};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub static DAEMON_SET: Strategy = Strategy {
    wipe_for_create: |cx, set| {
        wipe_for_create(cx, set);
        set.set(&["metadata", "annotations", TEMPLATE_GENERATION], "1");
    },
    keep_for_update: |kind, new, old| {
        keep_for_update(kind, new, old);
        let path = ["metadata", "annotations", TEMPLATE_GENERATION];
        let before = old.get(&path).cloned().unwrap_or_else(|| "1".into());
        new.set(&path, before);
    },
    prepare_update: |_, new, old| {
        bump_generation(new, old);
        let before = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|t| t.parse::<i64>().ok());
        let before = before.unwrap_or(1);
        let changed = new["spec"]["template"] != old["spec"]["template"];
        new.set(&["metadata", "annotations", TEMPLATE_GENERATION], (before + i64::from(changed)).to_string());
        Ok(())
    },
    ..WORKLOAD
};

pub static STATEFUL_SET: Strategy = Strategy {
    warnings: |new, old| {
        let mut warnings = template_warnings(new, old);
        if new.i64_at(&["spec", "revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
            let detail = "a negative value retains all historical revisions; a value >= 0 is recommended";
            warnings.push(format!("spec.revisionHistoryLimit: {detail}"));
        }
        warnings
    },
    name_rule: NameRule::Label,
    ..WORKLOAD
};

pub static JOB: Strategy = Strategy {
    generation: true,
    dependents: Dependents::Orphan,
    prepare_create: |cx, job| {
        super::prepare_create(cx, job)?;
        generate_selector(job)
    },
    validate: job_validate,
    warnings: template_warnings,
    ..PLAIN
};

pub static CRON_JOB: Strategy = Strategy {
    generation: true,
    // Its jobs' names are longer by eleven characters.
    validate: |_, new, old| match new.str_at(&["metadata", "name"]) {
        name if old.is_none() && name.len() > 52 => {
            vec![FieldError::invalid("metadata.name", name, "must be no more than 52 characters")]
        }
        _ => Vec::new(),
    },
    ..PLAIN
};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// A job selects its pods by its own uid unless it says that it knows better.
fn generate_selector(job: &mut Value) -> Result<()> {
    if job.bool_at(&["spec", "manualSelector"]) {
        return Ok(());
    }
    let uid = job.str_at(&["metadata", "uid"]).to_owned();
    let name = job.str_at(&["metadata", "name"]).to_owned();
    for (label, value) in [("controller-uid", &uid), (CONTROLLER_UID, &uid), ("job-name", &name), (JOB_NAME, &name)] {
        job.set(&["spec", "template", "metadata", "labels", label], value.as_str());
    }
    if job["spec"]["selector"]["matchLabels"][CONTROLLER_UID].is_empty() {
        job.set(&["spec", "selector", "matchLabels", CONTROLLER_UID], uid);
    }
    // Defaulting had no labels to copy yet.
    if job["metadata"]["labels"].is_empty() && names::label_value(&name).is_empty() {
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        job.set(&["metadata", "labels"], labels);
    }
    Ok(())
}

fn immutable(field: &str, value: &Value) -> FieldError {
    FieldError::invalid(field, value.clone(), "field is immutable")
}

fn job_validate(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = selector_and_template(cx, new, old);
    if cx.subresource == "status" {
        return errors;
    }
    let indexed = new.str_at(&["spec", "completionMode"]) == "Indexed";
    let completions = new.i64_at(&["spec", "completions"]);
    if let Some(last) = completions.filter(|n| indexed && *n > 0) {
        let name = new.str_at(&["metadata", "name"]);
        let host = format!("{name}-{}", last - 1);
        if !names::dns1123_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid("metadata.name", name, detail));
        }
    }
    let Some(old) = old else { return errors };
    let changed = |field: &str| !same(&new["spec"][field], &old["spec"][field]);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        if changed(field) {
            errors.push(immutable(&format!("spec.{field}"), &new["spec"][field]));
        }
    }
    match completions {
        _ if !changed("completions") => {}
        Some(wanted) if indexed && new.i64_at(&["spec", "parallelism"]) != completions => {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(FieldError::invalid("spec.completions", wanted, detail));
        }
        _ if indexed => {}
        _ => errors.push(immutable("spec.completions", &new["spec"]["completions"])),
    }
    let (mut template, before) = (new["spec"]["template"].clone(), &old["spec"]["template"]);
    let status = &old["status"];
    let is_suspended = |c: &Value| c.str_at(&["type"]) == "Suspended" && c.str_at(&["status"]) == "True";
    let idle = status["startTime"].is_null() || status.list_at(&["conditions"]).iter().any(is_suspended);
    // While it is suspended and nothing of it runs, what its pods ask for and where they may run can still change.
    if old.bool_at(&["spec", "suspend"]) && idle && status["active"].is_empty() {
        for path in [&["nodeSelector"][..], &["affinity", "nodeAffinity"], &["tolerations"], &["schedulingGates"]] {
            keep(&mut template, before, &[&["spec"], path].concat());
        }
        if let Some(spec) = template.get_mut(&["spec"]) {
            keep_in_containers(spec, &before["spec"], "resources");
        }
        if !same(&template["spec"], &before["spec"]) {
            errors.push(immutable("spec.template.spec", &new["spec"]["template"]["spec"]));
        }
    } else if !same(&template, before) {
        errors.push(immutable("spec.template", &new["spec"]["template"]));
    }
    errors
}

/// The selector is there, never changes and selects the template's pods.
fn selector_and_template(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        return errors;
    }
    let (kind, field) = (cx.kind.kind(), "spec.selector");
    let simple = kind == "ReplicationController";
    let selector = &new["spec"]["selector"];
    let empty = selector["matchLabels"].is_empty() && selector["matchExpressions"].is_empty();
    if selector.is_null() || simple && selector.is_empty() {
        if kind != "DaemonSet" {
            errors.push(FieldError::required(field, ""));
        }
    } else if !simple && empty && kind != "Job" {
        let called = if kind == "ReplicaSet" { "deployment" } else { &*kind.to_lowercase() };
        let detail = format!("empty selector is invalid for {called}");
        errors.push(FieldError::invalid(field, selector.clone(), detail));
    }
    let parsed = if simple {
        LabelSelector::from_value(&Value::object([("matchLabels", selector.clone())]))
    } else {
        LabelSelector::from_value(selector)
    };
    if simple && new["spec"]["template"].is_null() {
        errors.push(FieldError::required("spec.template", ""));
        return errors;
    }
    let labels = &new["spec"]["template"]["metadata"]["labels"];
    match parsed {
        Err(_) if !simple => {
            errors.extend(label_selector(selector, field));
            match kind {
                "Deployment" | "ReplicaSet" => {
                    errors.push(FieldError::invalid(field, selector.clone(), "invalid label selector"));
                }
                "StatefulSet" => errors.push(FieldError::invalid(field, selector.clone(), "")),
                _ => {}
            }
        }
        parsed => {
            let selects = |parsed: LabelSelector| {
                !parsed.nothing && parsed.matches(|name| labels.get(&[name]).and_then(Value::as_str))
            };
            if !(parsed.is_ok_and(selects) || simple && selector.is_empty()) {
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), detail));
            }
        }
    }
    if old.is_some_and(|o| !simple && !same(&o["spec"]["selector"], selector)) {
        errors.push(immutable(field, selector));
    }
    errors
}
