//! APIServices that are served elsewhere: requests for their groups go on to their service, and what it tells of
//! itself stands in discovery and OpenAPI. [`follow`] asks the services; nothing here waits for them.

mod documents;
mod follow;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderValue, header, request::Parts};
use schema::Value;

use crate::request::Query;
use crate::{
    Body, Server, Status, User, connect::endpoint, meta, reply, reply::Reply, seams::Shows, seams::Target,
    status::Result,
};
pub use documents::Told;
pub use follow::follow;

const GROUP: &str = "apiregistration.k8s.io";

/// What remote API servers have told of themselves, by APIService.
#[derive(Default)]
pub struct Remotes {
    told: RwLock<HashMap<String, Arc<Told>>>,
    /// Grows with every change.
    generation: AtomicU64,
}

impl Remotes {
    pub fn get(&self, name: &str) -> Option<Arc<Told>> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn set(&self, name: &str, told: Told) {
        let mut all = self.told.write().unwrap_or_else(PoisonError::into_inner);
        if all.get(name).is_none_or(|before| **before != told) {
            all.insert(name.to_owned(), Arc::new(told));
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.told.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(name));
    }
}

fn remote(server: &Server) -> Vec<Value> {
    if server.storage(GROUP, "apiservices").is_none_or(|s| s.is_empty()) {
        return Vec::new();
    }
    let mut all = server.read_all(GROUP, "apiservices", "");
    all.retain(|s| !s["spec"]["service"].is_null() && !meta::is_deleting(s));
    all
}

/// A group's version that is served elsewhere.
pub struct Version {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub told: Option<Arc<Told>>,
}

/// The versions that are served elsewhere, and not here.
pub fn versions(server: &Server) -> Vec<Version> {
    let registry = server.registry();
    let version = |service: &Value| {
        let (group, version) = (service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
        registry.of_version(group, version).is_empty().then(|| Version {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority: service.i64_at(&["spec", "groupPriorityMinimum"]).unwrap_or(0),
            version_priority: service.i64_at(&["spec", "versionPriority"]).unwrap_or(0),
            told: server.inner.remotes.get(service.str_at(&["metadata", "name"])),
        })
    };
    remote(server).iter().filter_map(version).collect()
}

/// Changes whenever [`versions`] do.
pub fn generation(server: &Server) -> u64 {
    let services = server.storage(GROUP, "apiservices").map_or(0, |storage| storage.revision());
    services + server.inner.remotes.generation.load(Ordering::Relaxed)
}

/// Forwards a request for a group's version that is served elsewhere; `None` if nobody serves it.
pub async fn proxy(
    server: &Server,
    user: &User,
    (group, version): (&str, &str),
    parts: Parts,
    body: Body,
) -> Option<Result<Reply>> {
    let all = remote(server);
    let service =
        all.iter().find(|s| s.str_at(&["spec", "group"]) == group && s.str_at(&["spec", "version"]) == version)?;
    let conditions = service.list_at(&["status", "conditions"]);
    if !conditions.iter().any(|c| c.str_at(&["type"]) == "Available" && c.str_at(&["status"]) == "True") {
        return Some(Ok(reply::text(503, "service unavailable\n")));
    }
    Some(forward(server, user, service, parts, body).await)
}

async fn forward(server: &Server, user: &User, service: &Value, mut parts: Parts, body: Body) -> Result<Reply> {
    let reference = &service["spec"]["service"];
    let (name, namespace) = (reference.str_at(&["name"]), reference.str_at(&["namespace"]));
    let port = reference.i64_at(&["port"]).unwrap_or(443).to_string();
    let address = endpoint(server, namespace, name, &port)
        .map_err(|s| Status::unavailable(format!("error trying to reach service: {}", s.message)))?;
    let bundle =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, service.str_at(&["spec", "caBundle"]));
    // Who asks is told by the front proxy's headers, which only our client certificate makes credible.
    let headers = &mut parts.headers;
    headers.remove(header::AUTHORIZATION);
    let stale: Vec<_> = headers.keys().filter(|k| k.as_str().starts_with("x-remote-")).cloned().collect();
    stale.into_iter().for_each(|k| {
        headers.remove(k);
    });
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| Status::bad_request("a user name that no header can carry"))
    };
    headers.insert("x-remote-user", value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let escaped: String = key
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') {
                    (b as char).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        let Ok(name) = format!("x-remote-extra-{escaped}").parse::<http::HeaderName>() else { continue };
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    let host = format!("{name}.{namespace}.svc");
    headers.insert(header::HOST, value(&format!("{host}:{port}"))?);
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    parts.uri = path.parse().map_err(|e| Status::bad_request(format!("{path}: {e}")))?;
    let target = Target {
        url: &format!("https://{host}:{port}{path}"),
        address: Some(address),
        ca_bundle: &bundle.unwrap_or_default(),
        insecure: service.bool_at(&["spec", "insecureSkipTLSVerify"]),
        server_name: "",
        shows: Shows::FrontProxy,
    };
    let lasts =
        parts.headers.contains_key(header::UPGRADE) || Query::parse(parts.uri.query().unwrap_or("")).flag("watch");
    let answer = server.config().node_proxy.to_url(server, target, http::Request::from_parts(parts, body));
    let answer = match lasts {
        true => answer.await?,
        false => {
            let most = server.request_time();
            let late = |_| Status::timeout(&format!("{host} did not answer within {} seconds", most.as_secs()), 1);
            tokio::time::timeout(most, answer).await.map_err(late)??
        }
    };
    // Who follows a redirection would give its credentials to a host of the remote server's choice.
    if answer.status().is_redirection() && answer.status() != http::StatusCode::NOT_MODIFIED {
        return Err(Status::bad_gateway("the backend attempted to redirect this request, which is not permitted"));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
