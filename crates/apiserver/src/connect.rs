//! `log`, `exec`, `attach`, `portforward` and `proxy`: to a kubelet, a pod, a service or a node.

mod rewrite;

use std::net::{IpAddr, SocketAddr};

use http::{Method, Uri, header, request::Parts};
use schema::Value;
use schema::validate::FieldError;

use crate::admission::Operation;
use crate::body::empty;
use crate::call::{Call, read_body};
use crate::reply::{self, Reply};
use crate::request::GroupResource;
use crate::status::Result;
use crate::{Attributes, Body, Server, Status};
use rewrite::Place;

pub async fn serve(call: Call, parts: Parts, body: Body) -> Result<Reply> {
    let subresource = call.info.subresource.clone();
    let kind = call.kind.clone();
    let is_options = subresource == "proxy" && parts.method == Method::OPTIONS;
    let allowed = kind.subresource(&subresource).is_some_and(|s| s.verbs.iter().any(|v| **v == call.info.verb));
    let allowed = allowed || is_options;
    if !allowed || call.info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if subresource != "log" {
        let (name, namespace) = (call.info.name.clone(), call.info.namespace.clone());
        let options = connect_options(&call, &subresource);
        let mut request =
            call.admission(&kind, Operation::Connect, &name, &namespace, &subresource, Value::Null, false);
        request.kind = options.str_at(&["kind"]).to_owned();
        request.object = options;
        call.server.mutate(&mut request).await?;
        call.server.validate(&mut request).await?;
    }
    // By WebSockets these are GETs, and whoever may only look must not act.
    if matches!(subresource.as_str(), "exec" | "attach" | "portforward") && call.info.verb != "create" {
        let attributes = Attributes { verb: "create".into(), ..call.info.clone() };
        call.server.check(&call.user, &attributes).await?;
    }
    match (&*kind.resource.plural, subresource.as_str()) {
        ("pods", "log") => log(&call, parts, body).await,
        ("pods", "exec" | "attach") => {
            let pod = pod(&call)?;
            let container = container(&call, &pod)?;
            let node = node_of(&call, &pod)?;
            let query = call.query.iter().filter(|(name, _)| *name != "container").map(|(name, value)| {
                let name = match name {
                    "stdin" => "input",
                    "stdout" => "output",
                    "stderr" => "error",
                    other => other,
                };
                let on = value == "true" || value == "1";
                let value = if matches!(name, "input" | "output" | "error" | "tty") {
                    if on { "1" } else { "" }
                } else {
                    value
                };
                (name, value)
            });
            let query: Vec<(&str, &str)> = query.filter(|(n, v)| *n == "command" || !v.is_empty()).collect();
            let (namespace, name) = (&call.info.namespace, &call.info.name);
            let path = format!("/{subresource}/{namespace}/{name}/{container}");
            to_node(&call, &node, parts, body, &path, &query).await
        }
        ("pods", "portforward") => {
            let pod = pod(&call)?;
            let node = node_of(&call, &pod)?;
            let query: Vec<(&str, &str)> =
                call.query.iter().map(|(n, v)| (if n == "ports" { "port" } else { n }, v)).collect();
            let path = format!("/portForward/{}/{}", call.info.namespace, call.info.name);
            to_node(&call, &node, parts, body, &path, &query).await
        }
        ("pods", "proxy") => {
            let (scheme, name, port) = split(&call.info.name, "pod")?;
            let pod = call.server.read("", "pods", &call.info.namespace, name);
            let pod = pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))?;
            let port = if port.is_empty() {
                let ports = pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"]));
                ports.filter_map(|p| p.i64_at(&["containerPort"])).next().unwrap_or(80).to_string()
            } else {
                port.to_owned()
            };
            let ip = pod.str_at(&["status", "podIP"]);
            if ip.is_empty() {
                return Err(Status::bad_request(format!("address not allowed: pod {name:?} has no IP address")));
            }
            let parsed = ip.parse().ok().filter(is_elsewhere).zip(port.parse().ok());
            let address = parsed.map(|(ip, port)| SocketAddr::new(ip, port));
            let refused = || Status::bad_request(format!("address not allowed: {ip}:{port}"));
            to_address(&call, parts, body, scheme, address.ok_or_else(refused)?).await
        }
        ("services", "proxy") => {
            let (scheme, name, port) = split(&call.info.name, "service")?;
            let address = endpoint(&call.server, &call.info.namespace, name, port)?;
            to_address(&call, parts, body, scheme, address).await
        }
        ("nodes", "proxy") => {
            let (_, name, _) = split(&call.info.name, "node")?;
            let path = format!("/{}", rest(&parts, &call));
            let query: Vec<(&str, &str)> = call.query.iter().collect();
            to_node(&call, name, parts, body, &path, &query).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Not an address that means this machine or its surroundings: who reports a pod's status could choose it.
fn is_elsewhere(ip: &IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| !is_elsewhere(&ip.into())),
    };
    !(is_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// `PodExecOptions` and its kin, as admission sees them.
fn connect_options(call: &Call, subresource: &str) -> Value {
    let kind = match (&*call.kind.resource.plural, subresource) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut out = Value::object([("apiVersion", "v1".into()), ("kind", kind.into())]);
    if kind.ends_with("ProxyOptions") {
        out.set(&["path"], format!("/{}", call.info.rest));
        return out;
    }
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(name) {
            out.set(&[name], true);
        }
    }
    if let Some(container) = call.query.get("container") {
        out.set(&["container"], container);
    }
    let commands: Vec<&str> = call.query.all("command").collect();
    if !commands.is_empty() {
        out.set(&["command"], Value::list(commands));
    }
    out
}

fn pod(call: &Call) -> Result<Value> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let pod = call.server.read("", "pods", namespace, name);
    pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
}

fn node_of(call: &Call, pod: &Value) -> Result<String> {
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
    }
    Ok(node.to_owned())
}

/// The container that is meant.
fn container(call: &Call, pod: &Value) -> Result<String> {
    let name = &call.info.name;
    let names = |field: &str| -> Vec<String> {
        pod.list_at(&["spec", field]).iter().map(|c| c.str_at(&["name"]).to_owned()).collect()
    };
    let (init, regular, ephemeral) = (names("initContainers"), names("containers"), names("ephemeralContainers"));
    match call.query.get("container").filter(|c| !c.is_empty()) {
        None => match regular.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
            many => {
                let mut text =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        },
        Some(wanted) => {
            if [&init, &regular, &ephemeral].iter().any(|list| list.iter().any(|n| n == wanted)) {
                Ok(wanted.to_owned())
            } else {
                Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
            }
        }
    }
}

async fn log(call: &Call, parts: Parts, body: Body) -> Result<Reply> {
    const PASSED: [&str; 8] =
        ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
    let pod = pod(call)?;
    let container = container(call, &pod)?;
    let mut errors = Vec::new();
    for (name, least, detail) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(text) = call.query.get(name).filter(|t| !t.is_empty()) {
            let number: i64 = text
                .parse()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
            if number < least {
                errors.push(FieldError::invalid(name, number, detail));
            }
        }
    }
    if call.query.get("sinceSeconds").is_some() && call.query.get("sinceTime").is_some() {
        errors.push(FieldError::forbidden("[]", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", &call.info.name, errors));
    }
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Ok(reply::text(200, ""));
    }
    let query: Vec<(&str, &str)> = call.query.iter().filter(|(n, _)| PASSED.contains(n)).collect();
    let path = format!("/containerLogs/{}/{}/{container}", call.info.namespace, call.info.name);
    let name = call.info.name.clone();
    let reply = to_node(call, node, parts, body, &path, &query).await?;
    if reply.status().is_success() { Ok(reply) } else { Err(refused(reply, name).await) }
}

/// A kubelet refuses in plain words, which become a Status.
async fn refused(reply: Reply, name: String) -> Status {
    let code = reply.status().as_u16();
    let said = read_body(reply.into_body()).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    match code {
        400 => Status::bad_request(said),
        500 => Status::internal(said),
        404 => {
            let message = format!("the server could not find the requested resource ( pods/log {name})");
            Status::relayed(404, "NotFound", message)
        }
        code => Status::relayed(code, "", said),
    }
}

fn encode_query(query: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
                b => format!("%{b:02X}"),
            })
            .collect()
    };
    query.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect::<Vec<_>>().join("&")
}

fn rebuild(mut parts: Parts, body: Body, path: &str, query: &str) -> Result<http::Request<Body>> {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    parts.uri = text.parse::<Uri>().map_err(|e| Status::bad_request(format!("{text}: {e}")))?;
    parts.headers.remove(header::AUTHORIZATION);
    Ok(http::Request::from_parts(parts, body))
}

async fn to_node(
    call: &Call,
    node: &str,
    parts: Parts,
    body: Body,
    path: &str,
    query: &[(&str, &str)],
) -> Result<Reply> {
    if call.server.read("", "nodes", "", node).is_none() {
        return Err(Status::not_found(&call.kind.group_resource(), node));
    }
    let request = rebuild(parts, body, path, &encode_query(query))?;
    call.server.config().node_proxy.to_node(&call.server, node, request).await
}

/// What follows `/proxy`, as it was sent.
fn rest(parts: &Parts, call: &Call) -> String {
    // A prefix of two or three parts, the namespace, the resource, the name and the subresource.
    let before =
        if call.info.api_group.is_empty() { 5 } else { 6 } + if call.info.namespace.is_empty() { 0 } else { 2 };
    let tail = parts.uri.path().trim_start_matches('/').splitn(before + 1, '/').nth(before).unwrap_or_default();
    let tail = tail.trim_start_matches('/');
    if tail.is_empty() { call.info.rest.clone() } else { tail.to_owned() }
}

async fn to_address(call: &Call, mut parts: Parts, body: Body, scheme: &str, address: SocketAddr) -> Result<Reply> {
    // Browsers are sent to the directory form, so that relative links work.
    if call.info.rest.is_empty()
        && !parts.uri.path().ends_with('/')
        && matches!(parts.method, Method::GET | Method::HEAD)
    {
        let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
        let mut response = reply::bytes(301, "text/plain", "");
        if let Ok(location) = http::HeaderValue::from_str(&format!("{}/{query}", parts.uri.path())) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        *response.body_mut() = empty();
        return Ok(response);
    }
    let path = format!("/{}", rest(&parts, call));
    let query = parts.uri.query().unwrap_or("").to_owned();
    let place = place(&mut parts, &path, address.to_string());
    parts.headers.remove(header::HOST);
    let request = rebuild(parts, body, &path, &query)?;
    let reply = call.server.config().node_proxy.to_address(&call.server, scheme, address, request).await?;
    Ok(place.rewrite(reply).await)
}

/// Where an answer from `inside` is read; a request's headers tell it to whoever answers.
fn place(parts: &mut Parts, path: &str, inside: String) -> Place {
    let asked = parts.uri.path();
    let prefix = asked.strip_suffix(path).unwrap_or(asked).trim_end_matches('/').to_owned();
    if let Ok(uri) = http::HeaderValue::from_str(asked) {
        parts.headers.insert("x-forwarded-uri", uri);
    }
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let outside = host.or(parts.uri.authority().map(|host| host.as_str())).unwrap_or_default().to_owned();
    Place { prefix, inside, outside }
}

/// `[SCHEME:]NAME[:PORT]`
fn split<'a>(text: &'a str, what: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("http", name, "")),
        [name, port] => Ok(("http", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => {
            Ok((if scheme.is_empty() { "http" } else { scheme }, name, port))
        }
        _ => Err(Status::bad_request(format!("invalid {what} request {text:?}"))),
    }
}

/// The ready endpoints of a service's port (by name or number; empty: its only one).
pub fn endpoints(server: &Server, namespace: &str, name: &str, port: &str) -> Result<Vec<SocketAddr>> {
    let port_name = match port.parse::<i64>() {
        Err(_) => port.to_owned(),
        Ok(number) => {
            let gr = GroupResource::new("", "services");
            let service = server.read("", "services", namespace, name).ok_or_else(|| Status::not_found(&gr, name))?;
            let found = service.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(number));
            let unknown = || Status::unavailable(format!("no service port {number} found for service {name:?}"));
            found.ok_or_else(unknown)?.str_at(&["name"]).to_owned()
        }
    };
    let mut candidates = Vec::new();
    for slice in server.read_all("discovery.k8s.io", "endpointslices", namespace) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() != Some(name) {
            continue;
        }
        let ports = slice.list_at(&["ports"]);
        let only = port.is_empty() && ports.len() == 1;
        let port = ports.iter().find(|p| only || p.str_at(&["name"]) == port_name);
        let Some(port) = port.and_then(|p| u16::try_from(p.i64_at(&["port"])?).ok()) else { continue };
        for endpoint in slice.list_at(&["endpoints"]) {
            let ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            let ip = endpoint["addresses"][0].as_str().and_then(|address| address.parse().ok());
            candidates.extend(ip.filter(|_| ready).map(|ip| SocketAddr::new(ip, port)));
        }
    }
    Ok(candidates)
}

/// One of a service's ready endpoints.
pub fn endpoint(server: &Server, namespace: &str, name: &str, port: &str) -> Result<SocketAddr> {
    let candidates = endpoints(server, namespace, name, port)?;
    let mut byte = [0u8; 4];
    server.config().random.fill(&mut byte);
    let at = u32::from_le_bytes(byte) as usize % candidates.len().max(1);
    candidates
        .into_iter()
        .nth(at)
        .ok_or_else(|| Status::unavailable(format!("no endpoints available for service {name:?}")))
}

/// The same for the service that a webhook is, with errors as upstream's clients of webhooks have them.
pub fn webhook_endpoint(
    server: &Server,
    namespace: &str,
    name: &str,
    port: i64,
) -> std::result::Result<SocketAddr, String> {
    let service = server.read("", "services", namespace, name).ok_or_else(|| format!("service {name:?} not found"))?;
    let (ty, ports) = (service.str_at(&["spec", "type"]), service.list_at(&["spec", "ports"]));
    if ty == "ExternalName" {
        return Err(format!("unsupported service type {ty:?}"));
    }
    if !ports.iter().any(|p| p.i64_at(&["port"]) == Some(port)) {
        return Err(format!("no service port {port} found for service {name:?}"));
    }
    endpoint(server, namespace, name, &port.to_string()).map_err(|status| status.message)
}

#[cfg(test)]
mod tests;
