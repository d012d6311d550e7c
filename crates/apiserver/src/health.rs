//! `/healthz`, `/livez` and `/readyz`: upstream's checks, each of which can be asked for by itself.

use std::time::Duration;

use crate::Server;
use crate::nonresource::not_found;
use crate::reply::{self, Reply};
use crate::request::Query;

/// A datastore that takes longer is none.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// What upstream does after its start and this server has done before it answers anybody.
const HOOKS: [&str; 31] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// The endpoints.
pub const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The names of an endpoint's checks, in upstream's order.
pub fn checks(endpoint: &str) -> impl Iterator<Item = &'static str> {
    let is_ready = endpoint == "readyz";
    let ready = |names: &'static [&'static str]| if is_ready { names } else { &[] };
    let names = ["ping", "log", "etcd"].iter().chain(ready(&["etcd-readiness", "informer-sync"]));
    names.chain(&HOOKS).chain(ready(&["shutdown"])).copied()
}

/// # Errors
/// Why a check fails.
async fn check(server: &Server, name: &str) -> Result<(), &'static str> {
    match name {
        "etcd" | "etcd-readiness" => {
            let asked = tokio::time::timeout(STORE_WAIT, server.config().store.revision()).await;
            asked.is_ok_and(|revision| revision.is_ok()).then_some(()).ok_or("the datastore does not answer")
        }
        "informer-sync" => {
            let is_loaded = server.registry().storages().all(|storage| storage.is_loaded());
            is_loaded.then_some(()).ok_or("informers not started yet")
        }
        "shutdown" if server.is_stopping() => Err("process is shutting down"),
        _ => Ok(()),
    }
}

pub async fn serve(server: &Server, endpoint: &str, name: &str, query: &Query) -> Reply {
    if !name.is_empty() {
        let Some(known) = checks(endpoint).find(|known| *known == name) else { return not_found() };
        return match check(server, known).await {
            Ok(()) => reply::bytes(200, "text/plain; charset=utf-8", "ok"),
            Err(why) => reply::text(500, format!("internal server error: {why}\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut text = String::new();
    let mut is_failed = false;
    for name in checks(endpoint) {
        let (sign, outcome) = match check(server, name).await {
            _ if excluded.contains(&name) => ('+', "excluded: ok"),
            Ok(()) => ('+', "ok"),
            Err(why) => {
                tracing::info!(endpoint, name, why, "a health check failed");
                is_failed = true;
                ('-', "failed: reason withheld")
            }
        };
        text.push_str(&format!("[{sign}]{name} {outcome}\n"));
    }
    let mut unknown: Vec<_> =
        excluded.into_iter().filter(|name| !checks(endpoint).any(|known| known == *name)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let unknown: Vec<_> = unknown.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", ")));
    }
    if is_failed {
        return reply::text(500, format!("{text}{endpoint} check failed\n"));
    }
    if query.get("verbose").is_none() {
        return reply::text(200, "ok");
    }
    reply::text(200, format!("{text}{endpoint} check passed\n"))
}

/// `/metrics/slis`: what the checks say, as numbers.
pub async fn slis(server: &Server) -> String {
    let mut page = crate::metrics::Page::default();
    let help = "[STABLE] This metric records the result of a single healthcheck.";
    page.family("kubernetes_healthcheck", "gauge", help);
    for endpoint in ENDPOINTS {
        for name in checks(endpoint) {
            let is_well = check(server, name).await.is_ok();
            page.sample(&[("name", name), ("type", endpoint)], u8::from(is_well));
        }
    }
    page.text
}
