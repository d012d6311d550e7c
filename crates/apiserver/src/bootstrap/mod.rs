//! Objects a cluster has from its first start, and has again after they were lost.
//!
//! [`plan`] says what is missing or outdated, [`run`] does it: at each start, and again whenever [`keep`] sees that
//! one of them may have gone. What an operator took over (`autoupdate: "false"`) is left alone.

pub(crate) mod flow;
pub mod identity;
mod rbac;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use http::{Method, StatusCode};
use schema::Value;

pub use rbac::node_rules;

use crate::kind::builtin;
use crate::view::{NAMESPACES, Of, PRIORITY_CLASSES, View};
use crate::{Server, cluster};

const API_SERVICES: Of = Of("apiregistration.k8s.io", "apiservices");
const CONFIG_MAPS: Of = Of("", "configmaps");
const ENDPOINTS: Of = Of("", "endpoints");
const ENDPOINT_SLICES: Of = Of("discovery.k8s.io", "endpointslices");
const SERVICES: Of = Of("", "services");
const SERVICE_CIDRS: Of = Of("networking.k8s.io", "servicecidrs");

const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// What differs between clusters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Where clients inside the cluster reach the servers, and on which port.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// Service ranges, the primary one first.
    pub service_cidrs: Vec<String>,
    pub client_ca_pem: String,
    pub request_header_ca_pem: String,
    pub request_header_names: Vec<String>,
}

/// One write. Updates carry the resourceVersion of what they are based on.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(Of, Value),
    Update(Of, Value),
    UpdateStatus(Of, Value),
    /// Kind, namespace, name.
    Delete(Of, String, String),
}

/// What has to be written, in an order that works. `now` is RFC 3339.
pub fn plan(view: &dyn View, facts: &Facts, now: &str) -> Vec<Action> {
    let mut actions = guarded(view, facts, now);
    for (of, expected) in rbac::objects() {
        actions.extend(rbac::reconcile(of, &expected, stored(view, of, &expected).as_ref()));
    }
    actions.extend(flow_control(view));
    for (name, value, description) in PRIORITIES {
        let mut class = named("scheduling.k8s.io/v1", "PriorityClass", "", name);
        class.set(&["value"], value);
        class.set(&["description"], description);
        actions.extend(create_if_missing(view, PRIORITY_CLASSES, class));
    }
    actions.extend(api_services().filter_map(|service| create_if_missing(view, API_SERVICES, service)));
    actions
}

fn flow_control(view: &dyn View) -> Vec<Action> {
    let reconcile = |(of, expected)| flow::reconcile(of, &expected, stored(view, of, &expected).as_ref());
    flow::objects().into_iter().flat_map(reconcile).collect()
}

/// Upstream's priorities of the built-in groups.
const GROUP_PRIORITIES: [(&str, i64); 21] = [
    ("", 18_000),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("apps", 17_800),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("coordination.k8s.io", 16_500),
    ("discovery.k8s.io", 16_200),
    ("events.k8s.io", 17_750),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("networking.k8s.io", 17_200),
    ("node.k8s.io", 16_300),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("resource.k8s.io", 16_200),
    ("scheduling.k8s.io", 16_600),
    ("storage.k8s.io", 16_800),
    ("storagemigration.k8s.io", 15_800),
];

/// The versions that this server serves by itself, as objects; the registration of APIServices is not one of them.
fn api_services() -> impl Iterator<Item = Value> {
    let served = builtin().resources.iter().filter(|r| r.enabled).map(|r| (&*r.group, &*r.version));
    let served: std::collections::BTreeSet<_> = served.collect();
    served.into_iter().filter_map(|(group, version)| {
        let (_, priority) = GROUP_PRIORITIES.iter().find(|(name, _)| *name == group)?;
        let within = match (group, version) {
            ("", _) => 1,
            ("autoscaling", "v2") => 30,
            ("flowcontrol.apiserver.k8s.io" | "resource.k8s.io", _) => 21,
            _ => 15,
        };
        let mut service = named("apiregistration.k8s.io/v1", "APIService", "", &format!("{version}.{group}"));
        service.set(&["metadata", "labels", "kube-aggregator.kubernetes.io/automanaged"], "onstart");
        if !group.is_empty() {
            service.set(&["spec", "group"], group);
        }
        service.set(&["spec", "version"], version);
        service.set(&["spec", "groupPriorityMinimum"], *priority);
        service.set(&["spec", "versionPriority"], i64::from(within));
        Some(service)
    })
}

/// The part of the plan that is kept true while the server runs.
fn guarded(view: &dyn View, facts: &Facts, now: &str) -> Vec<Action> {
    let namespaces = SYSTEM_NAMESPACES.into_iter().map(|name| named("v1", "Namespace", "", name));
    let mut actions: Vec<Action> = namespaces.filter_map(|n| create_if_missing(view, NAMESPACES, n)).collect();
    actions.extend(authentication_config(view, facts));
    actions.extend(service_cidr(view, facts, now));
    actions.extend(kubernetes_service(view, facts));
    actions
}

/// Name, value and description of upstream's two priority classes.
pub(crate) const PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

fn named(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = Value::object([("apiVersion", api_version.into()), ("kind", kind.into())]);
    object.set(&["metadata", "name"], name);
    if !namespace.is_empty() {
        object.set(&["metadata", "namespace"], namespace);
    }
    object
}

fn stored(view: &dyn View, of: Of, expected: &Value) -> Option<Value> {
    view.get(of, crate::view::namespace(expected), crate::view::name(expected)).map(|v| (*v).clone())
}

fn create_if_missing(view: &dyn View, of: Of, expected: Value) -> Option<Action> {
    stored(view, of, &expected).is_none().then_some(Action::Create(of, expected))
}

/// Creates the object, or puts these members of it right.
fn ensure(view: &dyn View, of: Of, expected: Value, members: &[&[&str]]) -> Option<Action> {
    let Some(mut object) = stored(view, of, &expected) else { return Some(Action::Create(of, expected)) };
    let before = object.clone();
    for path in members {
        match expected.get(path) {
            Some(wanted) if object.get(path).is_some_and(|held| contains(held, wanted)) => {}
            Some(wanted) => object.set(path, wanted.clone()),
            None => drop(object.remove(path)),
        }
    }
    (object != before).then_some(Action::Update(of, object))
}

/// Whether `held` says everything that `wanted` says; defaults that were added do not matter.
pub(crate) fn contains(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match held.get(key) {
            Some(held) => contains(held, wanted),
            None => wanted.is_empty(),
        }),
        (Value::List(held), Value::List(wanted)) => {
            held.len() == wanted.len() && held.iter().zip(wanted).all(|(held, wanted)| contains(held, wanted))
        }
        _ => held == wanted,
    }
}

/// What extension API servers need to know to trust our front proxy.
fn authentication_config(view: &dyn View, facts: &Facts) -> Option<Action> {
    let mut config = named("v1", "ConfigMap", "kube-system", "extension-apiserver-authentication");
    let json = |list: &[&str]| Value::list(list.iter().copied()).to_string();
    let names: Vec<&str> = facts.request_header_names.iter().map(String::as_str).collect();
    let mut data = vec![];
    if !facts.client_ca_pem.is_empty() {
        data.push(("client-ca-file", facts.client_ca_pem.clone()));
    }
    if !facts.request_header_ca_pem.is_empty() {
        data.extend([
            ("requestheader-allowed-names", json(&names)),
            ("requestheader-client-ca-file", facts.request_header_ca_pem.clone()),
            ("requestheader-extra-headers-prefix", json(&["X-Remote-Extra-"])),
            ("requestheader-group-headers", json(&["X-Remote-Group"])),
            ("requestheader-uid-headers", json(&["X-Remote-Uid"])),
            ("requestheader-username-headers", json(&["X-Remote-User"])),
        ]);
    }
    config.set(&["data"], Value::object(data.into_iter().map(|(key, text)| (key, text.into()))));
    ensure(view, CONFIG_MAPS, config, &[&["data"]])
}

fn service_cidr(view: &dyn View, facts: &Facts, now: &str) -> Option<Action> {
    let mut cidr = named("networking.k8s.io/v1", "ServiceCIDR", "", "kubernetes");
    let wanted = Value::list(facts.service_cidrs.iter().map(String::as_str));
    cidr.set(&["spec", "cidrs"], wanted.clone());
    let ready = |cidr: &mut Value| {
        let condition = Value::object([
            ("type", "Ready".into()),
            ("status", "True".into()),
            ("reason", "".into()),
            ("message", "Kubernetes default Service CIDR is ready".into()),
            ("lastTransitionTime", now.into()),
        ]);
        cidr.set(&["status", "conditions"], Value::list([condition]));
    };
    let Some(mut held) = stored(view, SERVICE_CIDRS, &cidr) else { return Some(Action::Create(SERVICE_CIDRS, cidr)) };
    let cidrs = held.list_at(&["spec", "cidrs"]);
    if cidrs.len() == 1 && facts.service_cidrs.len() == 2 && wanted[0] == cidrs[0] {
        // One family became two.
        held.set(&["spec", "cidrs"], wanted);
        return Some(Action::Update(SERVICE_CIDRS, held));
    }
    let is_ours = held.get(&["spec", "cidrs"]) == Some(&wanted) && !crate::view::is_deleting(&held);
    let is_known = held.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == "Ready");
    if !is_ours || is_known {
        return None;
    }
    ready(&mut held);
    Some(Action::UpdateStatus(SERVICE_CIDRS, held))
}

/// `default/kubernetes` and where it leads.
fn kubernetes_service(view: &dyn View, facts: &Facts) -> Vec<Action> {
    let Some(cluster_ip) = facts.service_cidrs.first().and_then(|cidr| first_address(cidr)) else { return Vec::new() };
    let mut service = named("v1", "Service", "default", "kubernetes");
    service.set(
        &["metadata", "labels"],
        Value::object([("component", "apiserver".into()), ("provider", "kubernetes".into())]),
    );
    let port = Value::object([
        ("name", "https".into()),
        ("port", 443.into()),
        ("protocol", "TCP".into()),
        ("targetPort", i64::from(facts.port).into()),
    ]);
    service.set(&["spec", "ports"], Value::list([port]));
    service.set(&["spec", "clusterIP"], cluster_ip.to_string());
    service.set(&["spec", "ipFamilyPolicy"], "SingleStack");
    service.set(&["spec", "sessionAffinity"], "None");
    service.set(&["spec", "type"], "ClusterIP");
    let mut actions: Vec<Action> = ensure(view, SERVICES, service, &[&["spec", "ports"]]).into_iter().collect();

    // The primary family is the service's.
    // A loopback address leads no pod anywhere, and is not valid there.
    let is_usable = |a: &IpAddr| a.is_ipv4() == cluster_ip.is_ipv4() && !a.is_loopback() && !a.is_unspecified();
    let mut addresses: Vec<IpAddr> = facts.addresses.iter().copied().filter(is_usable).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return actions;
    }
    let port =
        Value::object([("name", "https".into()), ("port", i64::from(facts.port).into()), ("protocol", "TCP".into())]);
    let mut endpoints = named("v1", "Endpoints", "default", "kubernetes");
    endpoints.set(&["metadata", "labels", "endpointslice.kubernetes.io/skip-mirror"], "true");
    let ips = addresses.iter().map(|a| Value::object([("ip", a.to_string().into())]));
    let subset = Value::object([("addresses", Value::list(ips)), ("ports", Value::list([port.clone()]))]);
    endpoints.set(&["subsets"], Value::list([subset]));
    actions.extend(ensure(view, ENDPOINTS, endpoints, &[&["metadata", "labels"], &["subsets"]]));

    let mut slice = named("discovery.k8s.io/v1", "EndpointSlice", "default", "kubernetes");
    slice.set(&["metadata", "labels", "kubernetes.io/service-name"], "kubernetes");
    slice.set(&["addressType"], if cluster_ip.is_ipv4() { "IPv4" } else { "IPv6" });
    let endpoint = |address: &IpAddr| {
        let conditions = Value::object([("ready", true.into())]);
        Value::object([("addresses", Value::list([address.to_string()])), ("conditions", conditions)])
    };
    slice.set(&["endpoints"], Value::list(addresses.iter().map(endpoint)));
    slice.set(&["ports"], Value::list([port]));
    actions.extend(ensure(view, ENDPOINT_SLICES, slice, &[&["endpoints"], &["ports"]]));
    actions
}

/// The address of `default/kubernetes`: the first of the range that may be given out.
pub fn first_address(cidr: &str) -> Option<IpAddr> {
    cidr.parse::<schema::cidr::Cidr>().ok()?.nth(1)
}

/// Why the cluster's own objects could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {method} {path}: {status} {message}")]
pub struct Error {
    pub method: Method,
    pub path: String,
    pub status: StatusCode,
    pub message: String,
}

/// Writes what is missing. Fails on the first refusal that is not another writer's doing; may be called again.
pub async fn run(server: &Server, facts: &Facts) -> Result<(), Error> {
    carry_out(server, facts, plan).await
}

async fn carry_out(
    server: &Server,
    facts: &Facts,
    plan: impl Fn(&dyn View, &Facts, &str) -> Vec<Action>,
) -> Result<(), Error> {
    // A second round sees what the first one created (a status needs its object).
    for _ in 0..3 {
        let now = server.now_text();
        let actions = plan(server, facts, &now);
        if actions.is_empty() {
            return Ok(());
        }
        let (first, then): (Vec<Action>, Vec<Action>) =
            actions.into_iter().partition(|a| matches!(a, Action::Create(NAMESPACES, _) | Action::Delete(..)));
        for stage in [first, then] {
            let writes = stage.into_iter().map(|action| execute(server, action));
            for done in futures_util::future::join_all(writes).await {
                done?;
            }
        }
    }
    Ok(())
}

/// Runs once, and keeps the system's namespaces, `default/kubernetes` and their like whenever one of those kinds
/// changed; ends with the sender of the facts.
pub async fn keep(server: Server, facts: tokio::sync::watch::Receiver<Facts>) {
    let mut facts = facts;
    let mut is_first = true;
    let mut flow_seen = 0;
    loop {
        let mut watched: Vec<_> =
            [NAMESPACES, SERVICES, ENDPOINTS, ENDPOINT_SLICES, SERVICE_CIDRS, CONFIG_MAPS, flow::LEVELS, flow::SCHEMAS]
                .into_iter()
                .filter_map(|of| server.news(of))
                .collect();
        let current = facts.borrow_and_update().clone();
        let flow_now = View::revision(&server, flow::LEVELS).max(View::revision(&server, flow::SCHEMAS));
        let is_flow_seen = flow_now == flow_seen;
        let wanted = |view: &dyn View, facts: &Facts, now: &str| match (is_first, is_flow_seen) {
            (true, _) => plan(view, facts, now),
            (_, true) => guarded(view, facts, now),
            (_, false) => [guarded(view, facts, now), flow_control(view)].concat(),
        };
        if let Err(error) = carry_out(&server, &current, wanted).await {
            tracing::warn!(%error, "objects of the cluster itself");
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            continue;
        }
        (is_first, flow_seen) = (false, flow_now);
        let changes = watched.iter_mut().map(|receiver| Box::pin(receiver.changed()));
        tokio::select! {
            _ = futures_util::future::select_all(changes) => {}
            changed = facts.changed() => if changed.is_err() { return },
        }
    }
}

async fn execute(server: &Server, action: Action) -> Result<(), Error> {
    let (method, of, namespace, name, object, status) = match action {
        Action::Create(of, object) => (Method::POST, of, ns(&object), String::new(), object, ""),
        Action::Update(of, object) => (Method::PUT, of, ns(&object), name_of(&object), object, ""),
        Action::UpdateStatus(of, object) => (Method::PUT, of, ns(&object), name_of(&object), object, "/status"),
        Action::Delete(of, namespace, name) => (Method::DELETE, of, namespace, name, Value::Null, ""),
    };
    let Of(group, resource) = of;
    let root = if group.is_empty() { "/api/v1".into() } else { format!("/apis/{group}/v1") };
    let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let name = if name.is_empty() { name } else { format!("/{name}") };
    // Upstream's fairness writes its own objects.
    let manager = if group.starts_with("flowcontrol") { "api-priority-and-fairness-config-producer-v1" } else { "" };
    let path = format!("{root}{scope}/{resource}{name}{status}?fieldManager={manager}");
    let sent = Some(&object).filter(|object| !object.is_null());
    let (status, body) = cluster::send(server, method.clone(), &path, sent).await;
    // Another server was faster: the next round looks again.
    if status.is_success() || matches!(status, StatusCode::CONFLICT | StatusCode::NOT_FOUND) {
        return Ok(());
    }
    Err(Error { method, path, status, message: String::from_utf8_lossy(&body).into_owned() })
}

fn ns(object: &Value) -> String {
    crate::view::namespace(object).into()
}

fn name_of(object: &Value) -> String {
    crate::view::name(object).into()
}
