//! LimitRanger: defaults and bounds of what containers, pods and claims ask for, from the namespace's LimitRanges.

use schema::{Object, Value, quantity::Quantity};

use super::rule::{Cx, Rule};
use super::{AdmissionRequest, Operation};
use crate::Status;
use crate::pods::{self, Resources};
use crate::view::{self, LIMIT_RANGES};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub const RULE: Rule =
    Rule { name: "LimitRanger", of: &[("", "pods"), ("", "persistentvolumeclaims")], mutate, validate };

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if is_limited(request) && request.resource == "pods" {
        for range in cx.view.list(LIMIT_RANGES, &request.namespace) {
            set_defaults(&range, &mut request.object);
        }
    }
    Ok(())
}

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !is_limited(request) {
        return Ok(());
    }
    for range in cx.view.list(LIMIT_RANGES, &request.namespace) {
        let wrong = match request.resource.as_str() {
            "pods" => of_pod(&range, &request.object),
            _ => of_claim(&range, &request.object),
        };
        match wrong.as_slice() {
            [] => {}
            [one] => return request.refuse(one),
            many => return request.refuse(format!("[{}]", many.join(", "))),
        }
    }
    Ok(())
}

fn is_limited(request: &AdmissionRequest) -> bool {
    let is_asked = matches!(
        (request.resource.as_str(), request.subresource.as_str(), request.operation),
        ("pods", "resize", Operation::Update)
            | (_, "", Operation::Create)
            | ("persistentvolumeclaims", "", Operation::Update)
    );
    is_asked && !request.old.as_deref().is_some_and(view::is_deleting)
}

fn set_defaults(range: &Value, pod: &mut Value) {
    let mut defaults: [Object; 2] = Default::default();
    for limit in range.list_at(&["spec", "limits"]).iter().filter(|l| l.str_at(&["type"]) == "Container") {
        for (into, from) in defaults.iter_mut().zip(["defaultRequest", "default"]) {
            into.extend(limit.object_at(&[from]).cloned().unwrap_or_default());
        }
    }
    let mut notes = Vec::new();
    for (field, kind) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod.get_mut(&["spec", field]).and_then(Value::as_list_mut).into_iter().flatten() {
            let name = container.str_at(&["name"]).to_owned();
            for (defaults, (list, word)) in defaults.iter().zip([("requests", "request"), ("limits", "limit")]) {
                let held = container.object_at(&["resources", list]).cloned().unwrap_or_default();
                let missing: Vec<_> = defaults.iter().filter(|(name, _)| !held.contains_key(name)).collect();
                if missing.is_empty() {
                    continue;
                }
                let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
                notes.push(format!("{} {word} for {kind} {name}", names.join(", ")));
                let resources = container.make_object(&["resources", list]);
                resources.extend(missing.into_iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.set(&["metadata", "annotations", ANNOTATION], note);
    }
}

fn of_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for limit in range.list_at(&["spec", "limits"]) {
        match limit.str_at(&["type"]) {
            "Container" => {
                let fields = ["containers", "initContainers"];
                for container in fields.iter().flat_map(|field| pod.list_at(&["spec", field])) {
                    let asked = [
                        Resources::of(&container["resources"], "requests"),
                        Resources::of(&container["resources"], "limits"),
                    ];
                    check(limit, "Container", &asked, &mut wrong);
                }
            }
            "Pod" => {
                let asked = [pods::total(&pod["spec"], "requests"), pods::total(&pod["spec"], "limits")];
                check(limit, "Pod", &asked, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

fn of_claim(range: &Value, claim: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let mut wrong = Vec::new();
    let requests = Resources::of(&claim["spec"]["resources"], "requests");
    for limit in range.list_at(&["spec", "limits"]).iter().filter(|l| l.str_at(&["type"]) == KIND) {
        for (name, bound) in &Resources::of(limit, "min").0 {
            wrong.extend(below(KIND, name, *bound, (requests.get(name), None)));
        }
        for (name, bound) in &Resources::of(limit, "max").0 {
            let asked = requests.get(name);
            let head = format!("maximum {name} usage per {KIND} is {bound}");
            match asked {
                None => wrong.push(format!("{head}.  No request is specified")),
                Some(asked) if asked.compare(*bound).is_gt() => wrong.push(format!("{head}, but request is {asked}")),
                _ => {}
            }
        }
    }
    wrong
}

/// What is requested, and its limit.
type Asked = (Option<Quantity>, Option<Quantity>);

fn below(kind: &str, name: &str, bound: Quantity, (request, limit): Asked) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(asked), _) if asked.compare(bound).is_lt() => Some(format!("{head}, but request is {asked}")),
        (_, Some(limit)) if limit.compare(bound).is_lt() => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn above(kind: &str, name: &str, bound: Quantity, (request, limit): Asked) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (_, None) => Some(format!("{head}.  No limit is specified")),
        (_, Some(limit)) if limit.compare(bound).is_gt() => Some(format!("{head}, but limit is {limit}")),
        (Some(asked), _) if asked.compare(bound).is_gt() => Some(format!("{head}, but request is {asked}")),
        _ => None,
    }
}

fn ratio(kind: &str, name: &str, bound: Quantity, (request, limit): Asked) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {bound}");
    let exact = |q: Quantity| q.milli_value() as f64 / 1000.0;
    match (request.filter(|q| !q.is_zero()), limit.filter(|q| !q.is_zero())) {
        (None, _) => Some(format!("{head}, but no request is specified or request is 0")),
        (_, None) => Some(format!("{head}, but no limit is specified or limit is 0")),
        (Some(request), Some(limit)) => {
            let found = exact(limit) / exact(request);
            (found > exact(bound)).then(|| format!("{head}, but provided ratio is {found:.6}"))
        }
    }
}

fn check(limit: &Value, kind: &str, [requests, limits]: &[Resources; 2], wrong: &mut Vec<String>) {
    type Bound = fn(&str, &str, Quantity, Asked) -> Option<String>;
    let bounds: [(&str, Bound); 3] = [("min", below), ("max", above), ("maxLimitRequestRatio", ratio)];
    for (field, bound) in bounds {
        for (name, quantity) in &Resources::of(limit, field).0 {
            wrong.extend(bound(kind, name, *quantity, (requests.get(name), limits.get(name))));
        }
    }
}
