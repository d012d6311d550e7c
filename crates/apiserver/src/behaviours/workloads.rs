//! Controllers of pods: generations, selectors, and what of them is fixed once they exist.

use schema::Value;
use schema::checks::same;
use schema::selector::LabelSelector;
use schema::validate::{ErrorKind, FieldError, label_selector};

use super::{
    Cx, Dependents, PLAIN, Strategy, bump_generation, keep, keep_for_status, keep_for_update, wipe_for_create,
};
use crate::meta;
use crate::status::{Result, field_error};

pub static WORKLOAD: Strategy =
    Strategy { generation: true, validate: selector_and_template, warnings: template_warnings, ..PLAIN };

/// Of a template that comes or changes.
fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old["spec"]["template"] == new["spec"]["template"]) {
        return Vec::new();
    }
    super::warnings::pod(&new["spec"]["template"]["spec"], "spec.template.spec")
}

pub static REPLICATION_CONTROLLER: Strategy = Strategy { dependents: Dependents::Orphan, ..WORKLOAD };

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
    validate: |cx, new, old| {
        let mut errors = selector_and_template(cx, new, old);
        let Some(old) = old else { return errors };
        let mut munged = new["spec"].clone();
        for field in [
            "replicas", "template", "updateStrategy", "minReadySeconds", "ordinals", "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
        ] {
            keep(&mut munged, &old["spec"], &[field]);
        }
        if !same(&munged, &old["spec"]) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.retain(|e| e.field != "spec.selector");
            errors.push(field_error(ErrorKind::Forbidden, "spec", Value::Null, detail));
        }
        errors
    },
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

pub static CRON_JOB: Strategy = Strategy { generation: true, ..PLAIN };

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
    if job["metadata"]["labels"].is_empty() {
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        job.set(&["metadata", "labels"], labels);
    }
    Ok(())
}

fn immutable(field: &str, value: &Value) -> FieldError {
    field_error(ErrorKind::Invalid, field, value.clone(), "field is immutable")
}

fn job_validate(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(old) = old else { return Vec::new() };
    if cx.subresource == "status" {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let selector = &new["spec"]["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    }
    let labels = &new["spec"]["template"]["metadata"]["labels"];
    let selects =
        |parsed: LabelSelector| !parsed.nothing && parsed.matches(|name| labels.get(&[name]).and_then(Value::as_str));
    if !LabelSelector::from_value(selector).is_ok_and(selects) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), detail));
    }
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "selector"]
    {
        if !same(&new["spec"][field], &old["spec"][field]) {
            errors.push(immutable(&format!("spec.{field}"), &new["spec"][field]));
        }
    }
    let indexed = new.str_at(&["spec", "completionMode"]) == "Indexed";
    let elastic = indexed && new["spec"]["completions"] == new["spec"]["parallelism"];
    if !elastic && !same(&new["spec"]["completions"], &old["spec"]["completions"]) {
        errors.push(immutable("spec.completions", &new["spec"]["completions"]));
    }
    let mut template = new["spec"]["template"].clone();
    // While it is suspended and has not run, its scheduling directives may still change.
    if old.bool_at(&["spec", "suspend"]) && old["status"]["startTime"].is_null() {
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            keep(&mut template, &old["spec"]["template"], &["spec", field]);
        }
        keep(&mut template, &old["spec"]["template"], &["metadata", "annotations"]);
        keep(&mut template, &old["spec"]["template"], &["metadata", "labels"]);
    }
    if !same(&template, &old["spec"]["template"]) {
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
    } else if !simple && empty {
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
