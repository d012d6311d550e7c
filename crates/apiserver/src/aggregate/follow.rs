//! Whether the services of remote APIServices can be reached, and what they tell: looked at when an APIService or its
//! endpoints change, and again and again as long as there is one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, header};
use schema::Value;
use tokio::{task::JoinSet, time::Instant};

use super::documents::{self, AGGREGATOR};
use super::{GROUP, forward, remote};
use crate::connect::endpoints;
use crate::{Server, User, body};

const INTERVAL: Duration = Duration::from_secs(30);
/// As long as a service cannot be reached.
const INTERVAL_UNAVAILABLE: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");

/// What can be seen of a service without asking it.
#[derive(PartialEq)]
struct Seen {
    spec: Value,
    endpoints: BTreeSet<SocketAddr>,
    missing: Option<Condition>,
}

struct Look {
    seen: Seen,
    next: Instant,
}

/// Follows the remote APIServices.
pub async fn follow(server: Server) {
    let storages =
        [(GROUP, "apiservices"), ("", "services"), SLICES].map(|(group, plural)| server.storage(group, plural));
    let [Some(own), Some(services), Some(slices)] = storages else { return };
    let (mut changed, mut services, mut slices) = (own.subscribe(), services.subscribe(), slices.subscribe());
    let mut looks: HashMap<String, Look> = HashMap::new();
    // Each service has its own time: a slow one delays none of the others.
    let mut looking: JoinSet<(String, Look)> = JoinSet::new();
    let mut busy: HashSet<String> = HashSet::new();
    loop {
        for news in [&mut changed, &mut services, &mut slices] {
            news.mark_unchanged();
        }
        let all = remote(&server);
        let named = |name: &str| all.iter().any(|service| service.str_at(&["metadata", "name"]) == name);
        server.inner.remotes.retain(named);
        looks.retain(|name, _| named(name));
        let now = Instant::now();
        for service in &all {
            let name = service.str_at(&["metadata", "name"]);
            let seen = see(&server, service);
            let is_due = looks.get(name).is_none_or(|look| look.next <= now || look.seen != seen);
            if is_due && busy.insert(name.to_owned()) {
                let (server, service) = (server.clone(), service.clone());
                looking.spawn(async move { look(&server, &service, seen).await });
            }
        }
        let idle = looks.iter().filter(|(name, _)| !busy.contains(*name));
        let next = idle.map(|(_, look)| look.next).min();
        let any = !all.is_empty();
        // Only as long as there is a remote one does anything else than its own change matter.
        let woken = tokio::select! {
            woken = changed.changed() => woken,
            woken = services.changed(), if any => woken,
            woken = slices.changed(), if any => woken,
            Some(looked) = looking.join_next() => {
                if let Ok((name, look)) = looked {
                    busy.remove(&name);
                    looks.insert(name, look);
                }
                Ok(())
            }
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => Ok(()),
        };
        if woken.is_err() {
            return;
        }
    }
}

async fn look(server: &Server, service: &Value, seen: Seen) -> (String, Look) {
    let (status, reason, message) = match &seen.missing {
        Some(missing) => missing.clone(),
        None => ask(server, service).await,
    };
    let is_available = status == "True";
    // Those who see it available shall find it in discovery.
    documents::refresh(server, service, is_available).await;
    write_condition(server, service, status, reason, &message).await;
    let interval = if is_available { INTERVAL } else { INTERVAL_UNAVAILABLE };
    let name = service.str_at(&["metadata", "name"]).to_owned();
    (name, Look { seen, next: Instant::now() + interval })
}

/// `spec.service`
struct Reference<'a> {
    namespace: &'a str,
    name: &'a str,
    port: i64,
}

fn reference(service: &Value) -> Reference<'_> {
    let reference = &service["spec"]["service"];
    let (namespace, name) = (reference.str_at(&["namespace"]), reference.str_at(&["name"]));
    Reference { namespace, name, port: reference.i64_at(&["port"]).unwrap_or(443) }
}

/// Status, reason and message.
type Condition = (&'static str, &'static str, String);

fn see(server: &Server, service: &Value) -> Seen {
    let reference = reference(service);
    let Reference { namespace, name, port } = reference;
    let found = endpoints(server, namespace, name, &port.to_string()).unwrap_or_default();
    let missing = missing(server, &reference, found.is_empty());
    Seen { spec: service["spec"].clone(), endpoints: found.into_iter().collect(), missing }
}

/// What keeps a service from being asked, as upstream's availability controller has it.
fn missing(server: &Server, reference: &Reference<'_>, no_endpoints: bool) -> Option<Condition> {
    let Reference { namespace, name, port } = reference;
    let no = |reason, message| Some(("False", reason, message));
    let Some(service) = server.read("", "services", namespace, name) else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    if !matches!(service.str_at(&["spec", "type"]), "" | "ClusterIP") {
        return None;
    }
    let Some(listening) = service.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(*port))
    else {
        return no("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}"));
    };
    let (group, plural) = SLICES;
    let of = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() == Some(name);
    if no_endpoints && !server.read_all(group, plural, namespace).iter().any(of) {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return no("EndpointsNotFound", message);
    }
    let port = listening.str_at(&["name"]);
    let message =
        format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}");
    no_endpoints.then_some(("False", "MissingEndpoints", message))
}

/// Asks a service for its version's discovery.
async fn ask(server: &Server, service: &Value) -> Condition {
    let Reference { namespace, name, port } = reference(service);
    let path = format!("/apis/{}/{}", service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
    let url = format!("https://{name}.{namespace}.svc:{port}{path}");
    let mut request = http::Request::new(body::empty());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let (parts, body) = request.into_parts();
    let user = User::new(AGGREGATOR, &["system:masters"]);
    let why = match tokio::time::timeout(TIMEOUT, forward(server, &user, service, parts, body)).await {
        Ok(Ok(reply)) if reply.status().is_success() => return ("True", "Passed", "all checks passed".to_owned()),
        Ok(Ok(reply)) => format!("bad status from {url}: {}", reply.status().as_u16()),
        Ok(Err(status)) => status.message.trim_start_matches("Internal error occurred: ").to_owned(),
        Err(_) => "context deadline exceeded".to_owned(),
    };
    ("False", "FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
}

async fn write_condition(server: &Server, service: &Value, status: &str, reason: &str, message: &str) {
    let mut told = service.clone();
    crate::meta::set_condition(&mut told, "Available", status, reason, message, &server.now_text());
    let conditions = told["status"]["conditions"].clone();
    if conditions == service["status"]["conditions"] {
        return;
    }
    let patch = Value::object([("status", Value::object([("conditions", conditions)]))]);
    let path = format!("/apis/{GROUP}/v1/apiservices/{}/status", service.str_at(&["metadata", "name"]));
    let mut request = http::Request::new(body::full(patch.to_string()));
    *request.method_mut() = http::Method::PATCH;
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/merge-patch+json"));
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("kube-apiserver"));
    request.extensions_mut().insert(User::new("system:apiserver", &["system:masters"]));
    let reply = server.handle(request).await;
    if !reply.status().is_success() {
        tracing::debug!(code = reply.status().as_u16(), "cannot write an APIService's status");
    }
}
