//! What upstream's `SetDefaults_…` functions do: the overlay's values for types, then one named function of a type
//! where a default depends on another field. Both see an object with its inlined structs flattened, as JSON has it.

#[cfg(test)]
mod tests;

use crate::value::{Object, Value};

/// A value that the overlay gives a field of a type.
#[derive(Debug)]
pub struct Preset {
    /// `["spec", "type"]`: objects on the way are made.
    pub path: Box<[Box<str>]>,
    /// A pointer's explicit zero stays; a plain field's zero is as good as absent.
    pub pointer: bool,
    pub value: Value,
}

/// Sets the defaults that depend on other fields of the same object.
pub type Conditional = fn(&mut Object);

impl Preset {
    pub fn apply(&self, object: &mut Object) {
        let Some((last, parents)) = self.path.split_last() else { return };
        let mut here = object;
        for name in parents {
            here = child(here, name);
        }
        let absent = here.get(last).is_none_or(|v| if self.pointer { v.is_null() } else { v.is_empty() });
        if absent {
            here.insert(last.to_string(), self.value.clone());
        }
    }
}

/// The function of a name in the overlay.
pub fn conditional(name: &str) -> Option<Conditional> {
    CONDITIONALS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

pub(crate) static CONDITIONALS: &[(&str, Conditional)] = &[
    ("container", container),
    ("customResourceDefinition", custom_resource_definition),
    ("daemonSetUpdateStrategy", daemon_set_update_strategy),
    ("deploymentStrategy", deployment_strategy),
    ("deviceRequest", device_request),
    ("horizontalPodAutoscaler", horizontal_pod_autoscaler),
    ("job", job),
    ("limitRangeItem", limit_range_item),
    ("namespace", namespace),
    ("networkPolicy", network_policy),
    ("nodeStatus", node_status),
    ("pod", pod),
    ("podSpec", pod_spec),
    ("podStatus", pod_status),
    ("replicationController", replication_controller),
    ("service", service),
    ("servicePort", service_port),
    ("statefulSetUpdateStrategy", stateful_set_update_strategy),
    ("subject", subject),
    ("volume", volume),
];

fn child<'o>(object: &'o mut Object, name: &str) -> &'o mut Object {
    let slot = object.entry(name.to_owned()).or_default();
    if !matches!(slot, Value::Object(_)) {
        *slot = Value::Object(Object::new());
    }
    match slot {
        Value::Object(inner) => inner,
        _ => unreachable!("made an object just now"),
    }
}

fn str<'o>(object: &'o Object, name: &str) -> &'o str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn empty(object: &Object, name: &str) -> bool {
    object.get(name).is_none_or(Value::is_empty)
}

fn absent(object: &Object, name: &str) -> bool {
    object.get(name).is_none_or(Value::is_null)
}

fn set_absent(object: &mut Object, name: &str, value: impl Into<Value>) {
    if absent(object, name) {
        object.insert(name.to_owned(), value.into());
    }
}

fn objects<'o>(object: &'o mut Object, name: &str) -> impl Iterator<Item = &'o mut Object> {
    object.get_mut(name).and_then(Value::as_list_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// `Always` for an image tagged `latest` (also where neither tag nor digest is given), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest || name.is_empty() || last.chars().any(char::is_uppercase) => "",
        None => "latest",
    };
    if tag == "latest" { "Always" } else { "IfNotPresent" }
}

fn container(c: &mut Object) {
    if empty(c, "imagePullPolicy") {
        let policy = pull_policy(str(c, "image"));
        c.insert("imagePullPolicy", policy.into());
    }
}

fn volume(v: &mut Object) {
    if !v.iter().any(|(name, source)| name != "name" && !source.is_null()) {
        v.insert("emptyDir", Value::Object(Object::new()));
    }
    if let Some(image) = v.get_mut("image").and_then(Value::as_object_mut)
        && empty(image, "pullPolicy")
    {
        let policy = pull_policy(str(image, "reference"));
        image.insert("pullPolicy", policy.into());
    }
}

fn replication_controller(rc: &mut Object) {
    let labels = rc.get("spec").and_then(|s| s.get(&["template", "metadata", "labels"])).cloned();
    let Some(labels) = labels.filter(|l| !l.is_null()) else { return };
    for (parent, name) in [("spec", "selector"), ("metadata", "labels")] {
        let here = child(rc, parent);
        if empty(here, name) {
            here.insert(name, labels.clone());
        }
    }
}

fn service(s: &mut Object) {
    let balanced = {
        let spec = child(s, "spec");
        if str(spec, "sessionAffinity") == "None" {
            spec.remove("sessionAffinityConfig");
        }
        if str(spec, "sessionAffinity") == "ClientIP" {
            let config = spec.entry("sessionAffinityConfig").or_default();
            if config.get(&["clientIP", "timeoutSeconds"]).is_none_or(Value::is_null) {
                *config = Value::default();
                config.set(&["clientIP", "timeoutSeconds"], 10_800);
            }
        }
        let ty = str(spec, "type").to_owned();
        let external =
            matches!(ty.as_str(), "NodePort" | "LoadBalancer") || ty == "ClusterIP" && !empty(spec, "externalIPs");
        if external && empty(spec, "externalTrafficPolicy") {
            spec.insert("externalTrafficPolicy", "Cluster".into());
        }
        if matches!(ty.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set_absent(spec, "internalTrafficPolicy", "Cluster");
        }
        if ty == "LoadBalancer" {
            set_absent(spec, "allocateLoadBalancerNodePorts", true);
        }
        ty == "LoadBalancer"
    };
    if balanced && let Some(Value::Object(balancer)) = s.get_mut("status").and_then(|s| s.get_mut(&["loadBalancer"])) {
        for ingress in objects(balancer, "ingress").filter(|i| !empty(i, "ip")) {
            set_absent(ingress, "ipMode", "VIP");
        }
    }
}

fn service_port(p: &mut Object) {
    if empty(p, "targetPort") {
        let port = p.get("port").cloned().unwrap_or(Value::Int(0));
        p.insert("targetPort", port);
    }
}

fn pod(p: &mut Object) {
    let spec = child(p, "spec");
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        spec.insert("terminationGracePeriodSeconds", Value::Int(1));
    }
    let host = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for group in ["containers", "initContainers"] {
        for container in objects(spec, group) {
            requests_from_limits(container);
            for port in objects(container, "ports").filter(|p| host && empty(p, "hostPort")) {
                let number = port.get("containerPort").cloned().unwrap_or(Value::Int(0));
                port.insert("hostPort", number);
            }
        }
    }
}

/// A limit is a request too, in pods but not in templates.
fn requests_from_limits(container: &mut Object) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = child(resources, "requests");
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
}

/// `serviceAccount` is an old name of `serviceAccountName`.
fn pod_spec(spec: &mut Object) {
    if empty(spec, "serviceAccountName")
        && let Some(old) = spec.get("serviceAccount").cloned()
    {
        spec.insert("serviceAccountName", old);
    }
    match spec.get("serviceAccountName").cloned().filter(|n| !n.is_empty()) {
        Some(name) => drop(spec.insert("serviceAccount", name)),
        None => drop(spec.remove("serviceAccount")),
    }
}

/// `podIP` and `podIPs[0]` are the same; `podIP` wins.
fn pod_status(status: &mut Object) {
    let one = str(status, "podIP").to_owned();
    let first = status.get("podIPs").map(|ips| ips[0].str_at(&["ip"]).to_owned()).unwrap_or_default();
    if one.is_empty() && !first.is_empty() {
        status.insert("podIP", first.into());
    } else if !one.is_empty() && one != first {
        status.insert("podIPs", Value::list([Value::object([("ip", one.into())])]));
    }
}

fn namespace(ns: &mut Object) {
    let name = ns.get("metadata").map(|m| m.str_at(&["name"]).to_owned()).unwrap_or_default();
    if !name.is_empty() {
        child(child(ns, "metadata"), "labels").insert("kubernetes.io/metadata.name", name.into());
    }
}

fn node_status(status: &mut Object) {
    if absent(status, "allocatable")
        && let Some(capacity) = status.get("capacity").filter(|c| !c.is_null()).cloned()
    {
        status.insert("allocatable", capacity);
    }
}

fn limit_range_item(item: &mut Object) {
    if str(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let source = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        if source.is_empty() {
            continue;
        }
        let target = child(item, to);
        for (name, quantity) in source {
            target.entry(name).or_insert(quantity);
        }
    }
}

fn deployment_strategy(s: &mut Object) {
    if str(s, "type") == "RollingUpdate" {
        let rolling = child(s, "rollingUpdate");
        set_absent(rolling, "maxUnavailable", "25%");
        set_absent(rolling, "maxSurge", "25%");
    }
}

fn daemon_set_update_strategy(s: &mut Object) {
    if str(s, "type") == "RollingUpdate" {
        let rolling = child(s, "rollingUpdate");
        set_absent(rolling, "maxUnavailable", 1);
        set_absent(rolling, "maxSurge", 0);
    }
}

fn stateful_set_update_strategy(s: &mut Object) {
    if empty(s, "type") {
        s.insert("type", "RollingUpdate".into());
        child(s, "rollingUpdate");
    }
    if str(s, "type") == "RollingUpdate"
        && let Some(rolling) = s.get_mut("rollingUpdate").and_then(Value::as_object_mut)
    {
        set_absent(rolling, "partition", 0);
        set_absent(rolling, "maxUnavailable", 1);
    }
}

fn job(job: &mut Object) {
    let labels = job.get("spec").and_then(|s| s.get(&["template", "metadata", "labels"])).cloned();
    let spec = child(job, "spec");
    if absent(spec, "parallelism") {
        set_absent(spec, "completions", 1);
        // With completions given, only parallelism was missing.
        spec.insert("parallelism", Value::Int(1));
    }
    let backoff = if absent(spec, "backoffLimitPerIndex") { 6 } else { i64::from(i32::MAX) };
    set_absent(spec, "backoffLimit", backoff);
    let replacement = if absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set_absent(spec, "podReplacementPolicy", replacement);
    if let Some(labels) = labels.filter(|l| !l.is_null()) {
        let meta = child(job, "metadata");
        if empty(meta, "labels") {
            meta.insert("labels", labels);
        }
    }
}

fn horizontal_pod_autoscaler(spec: &mut Object) {
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    let policy = |ty: &str, value: i64| {
        Value::object([("type", ty.into()), ("value", value.into()), ("periodSeconds", Value::Int(15))])
    };
    let up = child(behavior, "scaleUp");
    set_absent(up, "stabilizationWindowSeconds", 0);
    set_absent(up, "selectPolicy", "Max");
    set_absent(up, "policies", Value::list([policy("Pods", 4), policy("Percent", 100)]));
    let down = child(behavior, "scaleDown");
    set_absent(down, "selectPolicy", "Max");
    set_absent(down, "policies", Value::list([policy("Percent", 100)]));
}

fn network_policy(spec: &mut Object) {
    if empty(spec, "policyTypes") {
        let egress = (!empty(spec, "egress")).then_some("Egress");
        spec.insert("policyTypes", Value::list(["Ingress"].into_iter().chain(egress)));
    }
}

fn subject(s: &mut Object) {
    if empty(s, "apiGroup") && matches!(str(s, "kind"), "User" | "Group") {
        s.insert("apiGroup", "rbac.authorization.k8s.io".into());
    }
}

fn device_request(r: &mut Object) {
    if str(r, "allocationMode") == "ExactCount" && empty(r, "count") {
        r.insert("count", Value::Int(1));
    }
}

fn custom_resource_definition(crd: &mut Object) {
    let spec = child(crd, "spec");
    let storage = spec.get("versions").and_then(Value::as_list).unwrap_or_default().iter();
    let storage = storage.filter(|v| v.bool_at(&["storage"])).map(|v| v["name"].clone()).next();
    let names = child(spec, "names");
    let kind = str(names, "kind").to_owned();
    if empty(names, "singular") {
        names.insert("singular", kind.to_lowercase().into());
    }
    if empty(names, "listKind") && !kind.is_empty() {
        names.insert("listKind", format!("{kind}List").into());
    }
    if let Some(version) = storage {
        let status = child(crd, "status");
        if empty(status, "storedVersions") {
            status.insert("storedVersions", Value::list([version]));
        }
    }
}
