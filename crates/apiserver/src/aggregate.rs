//! APIServices that are served elsewhere: their groups stand in discovery, and requests for them go on to their service.

use http::{HeaderValue, header, request::Parts};
use schema::Value;

use crate::{
    Attributes, Body, Server, Status, User, connect::endpoint, meta, reply::Reply, seams::Target, status::Result,
};

const GROUP: &str = "apiregistration.k8s.io";

fn remote(server: &Server) -> Vec<Value> {
    if server.storage(GROUP, "apiservices").is_none_or(|s| s.is_empty()) {
        return Vec::new();
    }
    let mut all = server.read_all(GROUP, "apiservices", "");
    all.retain(|s| !s["spec"]["service"].is_null() && !meta::is_deleting(s));
    all
}

/// Groups and versions of remote APIServices, the preferred version first.
pub fn groups(server: &Server) -> Vec<(String, Vec<String>)> {
    let registry = server.registry();
    let mut out: Vec<(String, Vec<(i64, String)>)> = Vec::new();
    for service in remote(server) {
        let (group, version) =
            (service.str_at(&["spec", "group"]).to_owned(), service.str_at(&["spec", "version"]).to_owned());
        if !registry.of_version(&group, &version).is_empty() {
            continue;
        }
        let row = (-service.i64_at(&["spec", "versionPriority"]).unwrap_or(0), version);
        match out.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) => versions.push(row),
            None => out.push((group, vec![row])),
        }
    }
    out.into_iter()
        .map(|(group, mut versions)| {
            versions.sort();
            (group, versions.into_iter().map(|(_, v)| v).collect())
        })
        .collect()
}

/// Forwards a request for a group's version that is served elsewhere; `None` if nobody serves it.
pub async fn proxy(server: &Server, user: &User, info: &Attributes, parts: Parts, body: Body) -> Option<Result<Reply>> {
    let group = if info.api_group.is_empty() {
        group_of(&info.path)
    } else {
        (info.api_group.clone(), info.api_version.clone())
    };
    let all = remote(server);
    let service =
        all.iter().find(|s| s.str_at(&["spec", "group"]) == group.0 && s.str_at(&["spec", "version"]) == group.1)?;
    Some(forward(server, user, service, parts, body).await)
}

/// `/apis/GROUP/VERSION` as discovery asks for it.
fn group_of(path: &str) -> (String, String) {
    let mut parts = path.trim_matches('/').split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("apis"), Some(group), Some(version)) => (group.to_owned(), version.to_owned()),
        _ => Default::default(),
    }
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
        front_proxy: true,
    };
    server.config().node_proxy.to_url(server, target, http::Request::from_parts(parts, body)).await
}

/// Follows the remote APIServices and says whether their services can be reached.
pub async fn follow(server: Server) {
    const CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);
    let Some(storage) = server.storage(GROUP, "apiservices") else { return };
    let (mut changed, slices) = (storage.subscribe(), server.storage("discovery.k8s.io", "endpointslices"));
    let mut slices = slices.map(|s| s.subscribe());
    loop {
        changed.mark_unchanged();
        let all = remote(&server);
        let mut unavailable = false;
        for service in &all {
            unavailable |= !check(&server, service).await;
        }
        let woken = match (&mut slices, all.is_empty()) {
            // Only as long as there is a remote one does anything else than its own change matter.
            (Some(slices), false) => {
                slices.mark_unchanged();
                let interval = if unavailable { CHECK_INTERVAL / 10 } else { CHECK_INTERVAL };
                tokio::select! {
                    woken = changed.changed() => woken,
                    woken = slices.changed() => woken,
                    () = tokio::time::sleep(interval) => Ok(()),
                }
            }
            _ => changed.changed().await,
        };
        if woken.is_err() {
            return;
        }
    }
}

/// Asks a remote API server for its version's discovery, and writes what came of it.
async fn check(server: &Server, service: &Value) -> bool {
    let (group, version) = (service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
    let reference = &service["spec"]["service"];
    let (name, namespace) = (reference.str_at(&["name"]), reference.str_at(&["namespace"]));
    let found = server.read("", "services", namespace, name).is_some();
    let (status, reason, message) = if !found {
        ("False", "ServiceNotFound", format!("service/{name} in {namespace:?} is not present"))
    } else {
        let mut request = http::Request::new(crate::body::empty());
        *request.uri_mut() = format!("/apis/{group}/{version}").parse().unwrap_or_default();
        let (parts, body) = request.into_parts();
        let user = User::new("system:kube-aggregator", &["system:masters"]);
        let limit = std::time::Duration::from_secs(5);
        match tokio::time::timeout(limit, forward(server, &user, service, parts, body)).await {
            Ok(Ok(reply)) if reply.status().is_success() => ("True", "Passed", "all checks passed".to_owned()),
            Ok(Ok(reply)) => (
                "False",
                "FailedDiscoveryCheck",
                format!(
                    "failing or missing response from https://{name}.{namespace}.svc/apis/{group}/{version}: bad status: {}",
                    reply.status().as_u16()
                ),
            ),
            Ok(Err(status)) if status.message.contains("no endpoints") => (
                "False",
                "MissingEndpoints",
                format!("endpoints for service/{name} in {namespace:?} have no addresses"),
            ),
            Ok(Err(status)) => ("False", "FailedDiscoveryCheck", status.message),
            Err(_) => ("False", "FailedDiscoveryCheck", "context deadline exceeded".to_owned()),
        }
    };
    let mut told = service.clone();
    crate::meta::set_condition(&mut told, "Available", status, reason, &message, &server.now_text());
    let conditions = told["status"]["conditions"].clone();
    if conditions != service["status"]["conditions"] {
        let patch = Value::object([("status", Value::object([("conditions", conditions)]))]);
        let path = format!("/apis/{GROUP}/v1/apiservices/{}/status", service.str_at(&["metadata", "name"]));
        let mut request = http::Request::new(crate::body::full(patch.to_string()));
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
    status == "True"
}
