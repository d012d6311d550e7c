//! What an object uses of a quota's resources, and which quotas count it.

use schema::Value;
use schema::quantity::{Format, Quantity};

use super::{AdmissionRequest, Operation};
use crate::pods::{self, Resources};
use crate::view;

/// Resources of core kinds that quotas also know by their plain plural.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "secrets", "resourcequotas", "replicationcontrollers"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// What a claim for all devices of a class may get at most.
const DEVICES_MAX: i64 = 32;

/// What the quota controller counts anew when objects go; of all else, that one went is booked here.
const RECOUNTED: [&str; 16] = [
    "count/configmaps", "count/secrets", "count/resourcequotas", "count/replicationcontrollers", "count/pods",
    "count/services", "count/serviceaccounts", "count/persistentvolumeclaims", "count/endpoints",
    "count/deployments.apps", "count/replicasets.apps", "count/statefulsets.apps", "count/daemonsets.apps",
    "count/jobs.batch", "count/cronjobs.batch", "count/endpointslices.discovery.k8s.io",
];

/// Whether somebody else sees that an object of the request's kind is gone.
pub fn is_recounted(request: &AdmissionRequest) -> bool {
    RECOUNTED.contains(&&*object_count(request))
}

/// Whether the request may change what quotas count.
pub fn is_counted(request: &AdmissionRequest) -> bool {
    let is_core = |resource: &str| request.is("", resource);
    // Quotas do not count themselves' bookings, nor what is too frequent and short-lived.
    if is_core("events") || request.is("events.k8s.io", "events") || is_core("bindings") {
        return false;
    }
    match (request.operation, request.subresource.as_str()) {
        (Operation::Create, "") => true,
        (Operation::Update, "resize") => is_core("pods"),
        (Operation::Update, "") if is_core("pods") => {
            request.old.as_deref().is_some_and(|old| has_deadline(old) != has_deadline(&request.object))
        }
        (Operation::Update, "") => is_core("services") || is_core("persistentvolumeclaims") || is_claim(request),
        (Operation::Update, "status") => is_core("persistentvolumeclaims"),
        _ => false,
    }
}

fn is_claim(request: &AdmissionRequest) -> bool {
    request.is("resource.k8s.io", "resourceclaims")
}

fn object_count(request: &AdmissionRequest) -> String {
    format!("count/{}", request.group_resource())
}

/// Whether a quota's resource is one that objects of this kind use.
pub fn counts(request: &AdmissionRequest, name: &str) -> bool {
    if name == object_count(request) {
        return true;
    }
    if is_claim(request) {
        return name.ends_with(DEVICES);
    }
    if !request.group.is_empty() {
        return false;
    }
    match request.resource.as_str() {
        "pods" => {
            const NAMES: [&str; 10] = [
                "pods", "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory",
                "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage",
            ];
            let bare = name.strip_prefix("requests.").unwrap_or(name);
            NAMES.contains(&name) || bare.starts_with("hugepages-") || bare != name && is_extended(bare)
        }
        "services" => matches!(name, "services" | "services.loadbalancers" | "services.nodeports"),
        "persistentvolumeclaims" => {
            let own = name.split_once(BY_CLASS).map_or(name, |(_, resource)| resource);
            matches!(own, "persistentvolumeclaims" | "requests.storage")
        }
        plain => PLAIN_COUNTS.contains(&plain) && name == plain,
    }
}

/// A resource with a domain that is not Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| !(domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")))
}

/// What an object of the request's kind uses.
pub fn of(request: &AdmissionRequest, object: &Value, now: i64) -> Resources {
    let mut usage = Resources::default();
    let count = |n: usize| Quantity::from_int(n as i64, Format::DecimalSI);
    usage.0.insert(object_count(request), count(1));
    if is_claim(request) {
        for asked in object.list_at(&["spec", "devices", "requests"]) {
            usage.add(&devices(asked));
        }
        return usage;
    }
    if !request.group.is_empty() {
        return usage;
    }
    match request.resource.as_str() {
        "pods" if !is_over(object, now) => {
            usage.0.insert("pods".into(), count(1));
            let mut requests = pods::total(&object["spec"], "requests");
            let mut limits = pods::total(&object["spec"], "limits");
            let overhead = Resources::of(&object["spec"], "overhead");
            requests.add(&overhead);
            let limited: Vec<String> = limits.0.keys().cloned().collect();
            for name in limited {
                if let (Some(limit), Some(more)) = (limits.get(&name), overhead.get(&name)) {
                    limits.0.insert(name, limit.plus(more));
                }
            }
            usage.0.extend(of_compute(&requests, &limits));
        }
        "services" => {
            let ports = object.list_at(&["spec", "ports"]);
            let allocates = object.get(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool);
            let is_balanced = object.str_at(&["spec", "type"]) == "LoadBalancer";
            let node_ports = match object.str_at(&["spec", "type"]) {
                "NodePort" => ports.len(),
                "LoadBalancer" if allocates == Some(false) => {
                    ports.iter().filter(|p| p.i64_at(&["nodePort"]).is_some_and(|n| n != 0)).count()
                }
                "LoadBalancer" => ports.len(),
                _ => 0,
            };
            usage.0.insert("services".into(), count(1));
            usage.0.insert("services.loadbalancers".into(), count(usize::from(is_balanced)));
            usage.0.insert("services.nodeports".into(), count(node_ports));
        }
        "persistentvolumeclaims" => {
            let beta = view::annotation(object, "volume.beta.kubernetes.io/storage-class");
            let class = beta.unwrap_or(object.str_at(&["spec", "storageClassName"]));
            let mut add = |name: &str, quantity: Quantity| {
                usage.0.insert(name.to_owned(), quantity);
                if !class.is_empty() {
                    usage.0.insert(format!("{class}{BY_CLASS}{name}"), quantity);
                }
            };
            add("persistentvolumeclaims", count(1));
            let asked = Resources::of(&object["spec"]["resources"], "requests").get("storage");
            let given = Resources::of(&object["status"], "allocatedResources").get("storage");
            if let Some(asked) = asked {
                add("requests.storage", given.filter(|g| g.compare(asked).is_gt()).unwrap_or(asked));
            }
        }
        plain if PLAIN_COUNTS.contains(&plain) => drop(usage.0.insert(plain.to_owned(), count(1))),
        _ => {}
    }
    usage
}

/// The devices of each class that one request of a claim may get: of alternatives, the most.
fn devices(request: &Value) -> Resources {
    let alternatives = request.list_at(&["firstAvailable"]);
    let exactly = request.get(&["exactly"]).filter(|exactly| !exactly.is_null());
    let mut most = Resources::default();
    for asked in
        if alternatives.is_empty() { exactly.map(std::slice::from_ref).unwrap_or_default() } else { alternatives }
    {
        let number = match asked.str_at(&["allocationMode"]) {
            "ExactCount" => asked.i64_at(&["count"]).unwrap_or(0),
            "All" => DEVICES_MAX,
            _ => 0,
        };
        let number = Quantity::from_int(number, Format::DecimalSI);
        let name = format!("{}{DEVICES}", asked.str_at(&["deviceClassName"]));
        if most.get(&name).is_none_or(|held| held.compare(number).is_lt()) {
            most.0.insert(name, number);
        }
    }
    most
}

fn of_compute(requests: &Resources, limits: &Resources) -> Vec<(String, Quantity)> {
    let mut usage = Vec::new();
    for (name, quantity) in &requests.0 {
        let is_plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if is_plain {
            usage.push((name.clone(), *quantity));
        }
        if is_plain || is_extended(name) {
            usage.push((format!("requests.{name}"), *quantity));
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        usage.extend(limits.get(name).map(|quantity| (format!("limits.{name}"), quantity)));
    }
    usage
}

/// A pod that ended, or that should be gone, uses nothing.
fn is_over(pod: &Value, now: i64) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return true;
    }
    let deletion = schema::time::parse(pod.str_at(&["metadata", "deletionTimestamp"])).map(|(at, _)| at);
    let grace = pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]);
    matches!((deletion, grace), (Some(at), Some(grace)) if now > at.saturating_add(grace))
}

/// If a quota counts compute resources, every container must say what it needs of them: what is missing, as a message.
pub fn unspecified(request: &AdmissionRequest, counted: &[&String]) -> Option<String> {
    const MUST: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    if !request.is("", "pods") || !request.object["spec"]["resources"].is_empty() {
        return None;
    }
    let mut messages = Vec::new();
    for must in MUST.into_iter().filter(|must| counted.iter().any(|c| c == must)) {
        let mut lacking: Vec<&str> = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|field| request.object.list_at(&["spec", field]))
            .filter(|container| {
                let resources = &container["resources"];
                let said = of_compute(&Resources::of(resources, "requests"), &Resources::of(resources, "limits"));
                said.iter().all(|(name, _)| name != must)
            })
            .map(|container| container.str_at(&["name"]))
            .collect();
        lacking.sort_unstable();
        lacking.dedup();
        if !lacking.is_empty() {
            messages.push(format!("{must} for: {}", lacking.join(",")));
        }
    }
    (!messages.is_empty()).then(|| format!("must specify {}", messages.join("; ")))
}

/// Whether all scopes of a quota take the object in.
pub fn is_in_scope(quota: &Value, request: &AdmissionRequest, object: &Value) -> bool {
    let plain = quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(|scope| (scope, None));
    let chosen = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]);
    let chosen = chosen.iter().map(|e| (e.str_at(&["scopeName"]), Some(e)));
    plain.chain(chosen).all(|(scope, expression)| matches_scope(scope, expression, request, object))
}

fn matches_scope(scope: &str, expression: Option<&Value>, request: &AdmissionRequest, object: &Value) -> bool {
    let by_name = |names: &[&str]| {
        let operator = expression.map_or("Exists", |e| e.str_at(&["operator"]));
        let values = expression.map_or(&[][..], |e| e.list_at(&["values"]));
        let listed = names.iter().any(|name| values.iter().any(|v| v.as_str() == Some(name)));
        match operator {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => names.is_empty(),
            _ => !names.is_empty(),
        }
    };
    if request.is("", "persistentvolumeclaims") && scope == "VolumeAttributesClass" {
        let mut names = vec![object.str_at(&["spec", "volumeAttributesClassName"])];
        names.push(object.str_at(&["status", "currentVolumeAttributesClassName"]));
        names.push(object.str_at(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]));
        names.retain(|name| !name.is_empty());
        return by_name(&names);
    }
    if !request.is("", "pods") {
        return false;
    }
    match scope {
        "Terminating" => has_deadline(object),
        "NotTerminating" => !has_deadline(object),
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        "PriorityClass" => {
            let class = object.str_at(&["spec", "priorityClassName"]);
            by_name(if class.is_empty() { &[] } else { std::slice::from_ref(&class) })
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
            let affinity = &object["spec"]["affinity"][*kind];
            let crosses =
                |term: &Value| !term.list_at(&["namespaces"]).is_empty() || !term["namespaceSelector"].is_null();
            affinity.list_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
                || affinity
                    .list_at(&["preferredDuringSchedulingIgnoredDuringExecution"])
                    .iter()
                    .any(|weighted| crosses(&weighted["podAffinityTerm"]))
        }),
        _ => false,
    }
}

fn has_deadline(pod: &Value) -> bool {
    pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

/// No container asks for processor or memory.
fn is_best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|list| {
            let list = Resources::of(resources, list);
            ["cpu", "memory"].iter().any(|name| list.get(name).is_some_and(|q| !q.is_zero()))
        })
    };
    let spec = &pod["spec"];
    let fields = ["containers", "initContainers"];
    !asks(&spec["resources"]) && !fields.iter().flat_map(|f| spec.list_at(&[f])).any(|c| asks(&c["resources"]))
}
