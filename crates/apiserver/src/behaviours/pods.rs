//! Pods: what the server decides at creation, what may change afterwards, and grace.

use schema::Value;
use schema::checks::same;
use schema::quantity::Quantity;
use schema::validate::{ErrorKind, FieldError};

use super::{Cx, PLAIN, Strategy, bump_generation, keep, keep_for_status};
use crate::meta;
use crate::status::{Result, field_error};

pub static POD: Strategy = Strategy {
    generation: true,
    returns_deleted: true,
    wipe_for_create: |_, pod| {
        pod.remove(&["status"]);
    },
    keep_for_status: |kind, pod, old| {
        keep_for_status(kind, pod, old);
        keep(pod, old, &["metadata", "ownerReferences"]);
        keep(pod, old, &["metadata", "deletionTimestamp"]);
    },
    prepare_create,
    prepare_update: |_, new, old| {
        bump_generation(new, old);
        Ok(())
    },
    keep_for_other,
    prepare_other: |_, new, old| {
        bump_generation(new, old);
        Ok(())
    },
    prepare_status,
    validate,
    warnings,
    grace: |pod, asked| {
        let own = pod.i64_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(0);
        let finished = matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded");
        let seconds = asked.unwrap_or(own);
        Some(if pod.str_at(&["spec", "nodeName"]).is_empty() || finished {
            0
        } else if seconds < 0 {
            1
        } else {
            seconds
        })
    },
    ..PLAIN
};

fn prepare_create(cx: &Cx<'_>, pod: &mut Value) -> Result<()> {
    meta::set_generation(pod, 1);
    pod.set(&["status"], Value::object([("phase", "Pending".into())]));
    if !pod["spec"]["schedulingGates"].is_empty() {
        let condition = Value::object([
            ("type", "PodScheduled".into()),
            ("status", "False".into()),
            ("reason", "SchedulingGated".into()),
            ("message", "Scheduling is blocked due to non-empty scheduling gates".into()),
            ("lastTransitionTime", cx.server.now_text().into()),
        ]);
        pod.set(&["status", "conditions"], Value::List(vec![condition]));
    }
    match_label_keys(pod);
    pod.set(&["status", "qosClass"], qos_class(pod));
    Ok(())
}

/// `matchLabelKeys` and `mismatchLabelKeys` become part of their selectors, as the scheduler reads them.
fn match_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let merge = |term: &mut Value| {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term[field].texts() {
                let Some(value) = labels.get(&[&key]).and_then(Value::as_str) else { continue };
                let requirement = Value::object([
                    ("key", key.as_str().into()),
                    ("operator", operator.into()),
                    ("values", Value::list([value])),
                ]);
                if term["labelSelector"].is_null() {
                    continue;
                }
                let list = term.make_list(&["labelSelector", "matchExpressions"]);
                if !list.contains(&requirement) {
                    list.push(requirement);
                }
            }
        }
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = ["spec", "affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"];
        pod.get_mut(&required).and_then(Value::as_list_mut).into_iter().flatten().for_each(merge);
        let preferred = ["spec", "affinity", kind, "preferredDuringSchedulingIgnoredDuringExecution"];
        for weighted in pod.get_mut(&preferred).and_then(Value::as_list_mut).into_iter().flatten() {
            if let Some(term) = weighted.get_mut(&["podAffinityTerm"]) {
                merge(term);
            }
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from CPU and memory alone.
pub fn qos_class(pod: &Value) -> &'static str {
    let positive = |v: &Value| v.as_str().and_then(|t| Quantity::parse(t).ok()).filter(|q| q.nanos > 0);
    if !pod["spec"]["resources"].is_empty() {
        let resources = &pod["spec"]["resources"];
        let of = |side: &str, name: &str| positive(&resources[side][name]);
        let any = ["cpu", "memory"].iter().any(|n| of("requests", n).is_some() || of("limits", n).is_some());
        let all = ["cpu", "memory"].iter().all(|n| match (of("requests", n), of("limits", n)) {
            (Some(r), Some(l)) => r.nanos == l.nanos,
            _ => false,
        });
        return if !any {
            "BestEffort"
        } else if all {
            "Guaranteed"
        } else {
            "Burstable"
        };
    }
    let containers = || pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    let mut any = false;
    let mut guaranteed = true;
    let mut sums = [[0i128; 2]; 2];
    for container in containers() {
        let mut limits = 0;
        for (n, name) in ["cpu", "memory"].iter().enumerate() {
            let request = positive(&container["resources"]["requests"][*name]);
            let limit = positive(&container["resources"]["limits"][*name]);
            any |= request.is_some() || limit.is_some();
            limits += usize::from(limit.is_some());
            sums[n][0] += request.map_or(0, |q| q.nanos);
            sums[n][1] += limit.map_or(0, |q| q.nanos);
        }
        guaranteed &= limits == 2;
    }
    if !any {
        return "BestEffort";
    }
    if guaranteed && sums.iter().all(|[request, limit]| request == limit) { "Guaranteed" } else { "Burstable" }
}

fn prepare_status(_: &Cx<'_>, new: &mut Value, old: &Value) -> Result<()> {
    for field in ["qosClass", "resourceClaimStatuses", "extendedResourceClaimStatus"] {
        if new["status"][field].is_null() && !old["status"][field].is_null() {
            keep(new, old, &["status", field]);
        }
    }
    if new["status"]["observedGeneration"].is_empty() && !old["status"]["observedGeneration"].is_empty() {
        keep(new, old, &["status", "observedGeneration"]);
    }
    let before = old.list_at(&["status", "conditions"]).to_vec();
    for condition in new.get_mut(&["status", "conditions"]).and_then(Value::as_list_mut).into_iter().flatten() {
        if !condition["observedGeneration"].is_empty() {
            continue;
        }
        let same = before.iter().find(|c| c["type"] == condition["type"]).map(|c| c["observedGeneration"].clone());
        if let Some(generation) = same.filter(|g| !g.is_empty()) {
            condition.set(&["observedGeneration"], generation);
        }
    }
    Ok(())
}

const UPDATE_FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(old) = old else { return errors };
    match cx.subresource {
        "" => {}
        "ephemeralcontainers" => return ephemeral_containers(new, old),
        "resize" => return resize(new, old),
        "status" => {
            let (class, before) = (new.str_at(&["status", "qosClass"]), old.str_at(&["status", "qosClass"]));
            if !before.is_empty() && class != before {
                errors.push(FieldError::invalid("status.qosClass", class, "field is immutable"));
            }
            return errors;
        }
        _ => return errors,
    }
    for field in ["containers", "initContainers"] {
        let (after, before) = (new.list_at(&["spec", field]), old.list_at(&["spec", field]));
        if after.len() != before.len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(field_error(ErrorKind::Forbidden, &format!("spec.{field}"), Value::Null, detail));
            return errors;
        }
        for (at, container) in after.iter().enumerate() {
            if container.str_at(&["image"]).is_empty() {
                let field = format!("spec.{field}[{at}].image");
                errors.push(field_error(ErrorKind::Required, &field, Value::Null, ""));
            }
        }
    }
    let deadline = |pod: &Value| pod.i64_at(&["spec", "activeDeadlineSeconds"]);
    if let Some(before) = deadline(old) {
        let field = "spec.activeDeadlineSeconds";
        match deadline(new) {
            Some(after) if after > before => {
                let detail = format!("must be less than or equal to previous value `{before}`");
                errors.push(field_error(ErrorKind::Invalid, field, after.into(), &detail));
            }
            None => {
                let detail = "must not update from a positive integer to nil value";
                errors.push(field_error(ErrorKind::Invalid, field, Value::Null, detail));
            }
            _ => {}
        }
    }
    for (at, toleration) in old.list_at(&["spec", "tolerations"]).iter().enumerate() {
        let kept = new.list_at(&["spec", "tolerations"]).iter().any(|t| {
            let strip = |v: &Value| {
                let mut v = v.clone();
                v.remove(&["tolerationSeconds"]);
                v
            };
            strip(t) == strip(toleration)
        });
        if !kept {
            let _ = at;
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(field_error(ErrorKind::Forbidden, "spec.tolerations", Value::Null, detail));
            break;
        }
    }
    let gated = !old["spec"]["schedulingGates"].is_empty();
    let gates_before = old.list_at(&["spec", "schedulingGates"]);
    for gate in new.list_at(&["spec", "schedulingGates"]).iter().filter(|g| !gates_before.contains(g)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.str_at(&["name"]));
        errors.push(field_error(ErrorKind::Forbidden, "spec.schedulingGates", Value::Null, &detail));
    }
    let (wanted, before) = (&new["spec"]["nodeSelector"], &old["spec"]["nodeSelector"]);
    if gated && before.as_object().into_iter().flatten().any(|(key, value)| wanted.get(&[key]) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", wanted.clone(), detail));
    }
    // All that may change is made equal; what still differs may not.
    let mut munged = new["spec"].clone();
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if gated {
        free.extend(["nodeSelector", "affinity"]);
    }
    if old.i64_at(&["spec", "terminationGracePeriodSeconds"]).is_some_and(|s| s < 0) {
        free.push("terminationGracePeriodSeconds");
    }
    for field in free {
        keep(&mut munged, &old["spec"], &[field]);
    }
    for field in ["containers", "initContainers"] {
        let before = old.list_at(&["spec", field]);
        for (container, before) in
            munged.get_mut(&[field]).and_then(Value::as_list_mut).into_iter().flatten().zip(before)
        {
            keep(container, before, &["image"]);
        }
    }
    if !same(&munged, &old["spec"]) {
        errors.push(field_error(ErrorKind::Forbidden, "spec", Value::Null, UPDATE_FORBIDDEN));
    }
    errors
}

/// Ephemeral containers come, and stay as they came.
fn ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    const NEVER: [&str; 7] =
        ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"];
    let list = |pod| Value::list_at(pod, &["spec", "ephemeralContainers"]);
    let set = list(new).iter().enumerate().flat_map(|(i, container)| {
        NEVER.iter().filter(|name| !container[**name].is_empty()).map(move |name| {
            let field = format!("spec.ephemeralContainers[{i}].{name}");
            FieldError::forbidden(field, "cannot be set for an Ephemeral Container")
        })
    });
    let wrong = list(old).iter().filter_map(|before| {
        let name = before.str_at(&["name"]);
        let what = match list(new).iter().find(|c| c.str_at(&["name"]) == name) {
            None => "removed",
            Some(after) if !same(after, before) => "changed",
            Some(_) => return None,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {what}\n");
        Some(field_error(ErrorKind::Forbidden, "spec.ephemeralContainers", Value::Null, &detail))
    });
    set.chain(wrong).collect()
}

/// What a container asks for may change, but not away, and not so that the pod is of another class.
fn resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["containers", "initContainers"] {
        let before = old.list_at(&["spec", field]);
        for (at, container) in new.list_at(&["spec", field]).iter().enumerate() {
            let Some(before) = before.iter().find(|c| c["name"] == container["name"]) else { continue };
            for side in ["limits", "requests"] {
                let (after, before) = (&container["resources"][side], &before["resources"][side]);
                if before.as_object().into_iter().flatten().any(|(name, _)| after[name.as_str()].is_null()) {
                    let path = format!("spec.{field}[{at}].resources.{side}");
                    let detail = format!("resource {side} cannot be removed");
                    errors.push(field_error(ErrorKind::Forbidden, &path, Value::Null, &detail));
                }
            }
        }
    }
    let class = qos_class(old);
    if qos_class(new) != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(field_error(ErrorKind::Invalid, "spec", class.into(), detail));
    }
    errors
}

fn warnings(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut out = super::warnings::pod(&pod["spec"], "spec");
    let name = pod.str_at(&["metadata", "name"]);
    let problems = schema::validate::names::dns1123_label(name);
    if !problems.is_empty() {
        out.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]", problems.join(" ")));
    }
    out
}

/// `ephemeralcontainers` adds containers for debugging, `resize` changes resources; all else stays.
fn keep_for_other(subresource: &str, new: &mut Value, old: &Value) {
    let asked = std::mem::take(new.make_object(&[]).entry("spec").or_default());
    keep(new, old, &["spec"]);
    keep(new, old, &["status"]);
    for name in ["labels", "annotations", "finalizers", "ownerReferences"] {
        keep(new, old, &["metadata", name]);
    }
    if subresource == "ephemeralcontainers" {
        keep(new, &Value::object([("spec", asked)]), &["spec", "ephemeralContainers"]);
        return;
    }
    for field in ["containers", "initContainers"] {
        let wanted = asked.list_at(&[field]).to_vec();
        for container in new.get_mut(&["spec", field]).and_then(Value::as_list_mut).into_iter().flatten() {
            let Some(wanted) = wanted.iter().find(|w| w["name"] == container["name"]) else { continue };
            keep(container, wanted, &["resources"]);
            keep(container, wanted, &["resizePolicy"]);
        }
    }
    keep(new, &Value::object([("spec", asked)]), &["spec", "resources"]);
}
