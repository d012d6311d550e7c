//! Pods: what the server decides at creation, what may change afterwards, and grace.

use schema::Value;
use schema::checks::same;
use schema::quantity::Quantity;
use schema::validate::{ErrorKind, FieldError, names};

use super::{Cx, PLAIN, Strategy, bump_generation, keep, keep_for_status, keep_in_containers};
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
    if !pod["spec"]["resources"].is_empty() {
        return class_of(&pod["spec"]["resources"]);
    }
    let containers = pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    all_alike(containers.map(|container| class_of(&container["resources"])))
}

fn class_of(resources: &Value) -> &'static str {
    let amount = |side: &str, name: &str| {
        resources[side][name].as_str().and_then(|text| Quantity::parse(text).ok()).map_or(0, |q| q.nanos)
    };
    all_alike(["cpu", "memory"].into_iter().map(|name| match (amount("requests", name), amount("limits", name)) {
        (0, 0) => "BestEffort",
        (request, limit) if request == limit => "Guaranteed",
        _ => "Burstable",
    }))
}

/// The class of all of them, if it is one.
fn all_alike(mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    let first = classes.next().unwrap_or("BestEffort");
    if classes.all(|class| class == first) { first } else { "Burstable" }
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
    let Some(old) = old else { return wrong_volumes(new) };
    match cx.subresource {
        "" => errors.extend(wrong_volumes(new)),
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
        let mut refuse = |shown: Value, detail: &str| {
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", shown, detail));
        };
        match deadline(new) {
            Some(after) if after > before => {
                refuse(after.into(), "must be less than or equal to previous value");
                return errors;
            }
            None => refuse(Value::Null, "must not update from a positive integer to nil value"),
            _ => {}
        }
    }
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove(&["tolerationSeconds"]);
        toleration
    };
    let given: Vec<Value> = new.list_at(&["spec", "tolerations"]).iter().map(timeless).collect();
    if old.list_at(&["spec", "tolerations"]).iter().any(|toleration| !given.contains(&timeless(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
    let gates_before = old.list_at(&["spec", "schedulingGates"]);
    let gated = !gates_before.is_empty();
    for (at, gate) in new.list_at(&["spec", "schedulingGates"]).iter().enumerate() {
        if !gates_before.contains(gate) {
            let name = gate.str_at(&["name"]);
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{at}].name"), detail));
        }
    }
    let (wanted, before) = (&new["spec"]["nodeSelector"], &old["spec"]["nodeSelector"]);
    if gated && before.as_object().into_iter().flatten().any(|(key, value)| wanted.get(&[key]) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", wanted.clone(), detail));
    }
    if gated {
        errors.extend(narrowed(new, old));
    }
    // All that may change is made equal; what still differs may not.
    let mut munged = new["spec"].clone();
    let mut free = vec![&["activeDeadlineSeconds"][..], &["tolerations"], &["schedulingGates"]];
    if gated {
        free.extend([&["nodeSelector"][..], &["affinity", "nodeAffinity"]]);
    }
    let grace = |pod: &Value| pod.i64_at(&["spec", "terminationGracePeriodSeconds"]);
    if grace(old).is_some_and(|s| s < 0) && grace(new) == Some(1) {
        free.push(&["terminationGracePeriodSeconds"]);
    }
    for path in free {
        keep(&mut munged, &old["spec"], path);
    }
    keep_in_containers(&mut munged, &old["spec"], "image");
    if !same(&munged, &old["spec"]) {
        errors.push(field_error(ErrorKind::Forbidden, "spec", Value::Null, UPDATE_FORBIDDEN));
    }
    errors
}

/// The claims of a pod's ephemeral volumes are called after both, and without an account there are no tokens.
fn wrong_volumes(pod: &Value) -> Vec<FieldError> {
    let name = pod.str_at(&["metadata", "name"]);
    let mut errors = Vec::new();
    for (at, volume) in pod.list_at(&["spec", "volumes"]).iter().enumerate() {
        let (own, path) = (volume.str_at(&["name"]), format!("spec.volumes[{at}]"));
        let claim = format!("{name}-{own}");
        let problems = if volume["ephemeral"].is_null() || !names::dns1123_label(own).is_empty() {
            Vec::new()
        } else {
            names::dns1123_subdomain(&claim)
        };
        errors.extend(
            problems.into_iter().map(|problem| {
                FieldError::invalid(format!("{path}.name"), own, format!("PVC name {claim:?}: {problem}"))
            }),
        );
        for (source, _) in volume.list_at(&["projected", "sources"]).iter().enumerate().filter(|(_, source)| {
            pod.str_at(&["spec", "serviceAccountName"]).is_empty() && !source["serviceAccountToken"].is_null()
        }) {
            let field = format!("{path}.projected.sources[{source}].serviceAccountToken");
            errors.push(FieldError::forbidden(field, "must not be specified when serviceAccountName is not set"));
        }
    }
    errors
}

/// `validateNodeAffinityMutation`: each of the terms by which a node is chosen may only get narrower.
fn narrowed(new: &Value, old: &Value) -> Vec<FieldError> {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let path = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    let (terms, before, field) = (new.list_at(&path), old.list_at(&path), path.join("."));
    if before.is_empty() {
        return Vec::new();
    }
    if terms.len() != before.len() {
        let shown = new.get(&path).cloned().unwrap_or_default();
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return vec![FieldError::invalid(field, shown, detail)];
    }
    let kept = |term: &Value, was: &Value| {
        let lists = ["matchExpressions", "matchFields"].map(|name| (term.list_at(&[name]), was.list_at(&[name])));
        lists.iter().all(|(list, was)| list.starts_with(was))
            && (!was.is_empty() || lists.iter().all(|(list, _)| list.is_empty()))
    };
    let wrong = terms.iter().zip(before).enumerate().filter(|(_, (term, was))| !kept(term, was));
    let detail = "only additions are allowed (no mutations or deletions)";
    wrong.map(|(at, (term, _))| FieldError::invalid(format!("{field}[{at}]"), term.clone(), detail)).collect()
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
        let after = new.list_at(&["spec", field]);
        if before.len() != after.len() {
            let detail = format!("{field} may not be added or removed on resize");
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        }
        let moved = before.iter().zip(after).enumerate().filter(|(_, (a, b))| a["name"] != b["name"]);
        for (at, _) in moved.filter(|_| before.len() == after.len()) {
            let detail = format!("{field} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(format!("spec.{field}[{at}].name"), detail));
        }
        for (at, container) in new.list_at(&["spec", field]).iter().enumerate() {
            let Some(before) = before.iter().find(|c| c["name"] == container["name"]) else { continue };
            let mut munged = container.clone();
            for side in ["limits", "requests"] {
                let (after, before) = (&container["resources"][side], &before["resources"]);
                if before[side].as_object().into_iter().flatten().any(|(name, _)| after[name.as_str()].is_null()) {
                    let path = format!("spec.{field}[{at}].resources.{side}");
                    errors.push(FieldError::forbidden(path, format!("resource {side} cannot be removed")));
                }
                for name in ["cpu", "memory"] {
                    keep(&mut munged, &Value::object([("resources", before.clone())]), &["resources", side, name]);
                }
            }
            if !same(&munged, before) {
                let (path, what) = match field {
                    "containers" => ("spec".to_owned(), "resources"),
                    _ => (format!("spec.{field}[{at}]"), "resources for init or sidecar containers"),
                };
                errors.push(FieldError::forbidden(path, format!("only cpu and memory {what} are mutable")));
            }
        }
    }
    // A node that can do it says what its containers have.
    let statuses = old.list_at(&["status", "containerStatuses"]);
    if statuses.iter().find(|c| !c["state"]["running"].is_null()).is_some_and(|c| c["resources"].is_null()) {
        errors.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    if qos_class(new) != qos_class(old) {
        let (class, detail) =
            (new["status"]["qosClass"].clone(), "Pod QOS Class may not change as a result of resizing");
        errors.push(FieldError::invalid("spec", class, detail));
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
        // Which there are, and in which order, is looked at afterwards.
        let mut list = asked.list_at(&[field]).to_vec();
        for container in &mut list {
            let Some(before) = old.list_at(&["spec", field]).iter().find(|c| c["name"] == container["name"]) else {
                continue;
            };
            let wanted = std::mem::replace(container, before.clone());
            keep(container, &wanted, &["resources"]);
            keep(container, &wanted, &["resizePolicy"]);
        }
        if !list.is_empty() || !old["spec"][field].is_null() {
            new.set(&["spec", field], Value::List(list));
        }
    }
    keep(new, &Value::object([("spec", asked)]), &["spec", "resources"]);
}
