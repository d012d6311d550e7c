//! OpenAPI v2 and v3: produced from the table when somebody asks, known by hashes that do not need the documents.

pub mod part;
mod paths;
mod proto;
mod schemas;

use http::{HeaderValue, header, request::Parts};
use schema::{Value, json};
use sha2::{Digest, Sha512};

use crate::discovery::hex_upper;
use crate::kind::Registry;
use crate::negotiate::{JSON, accepts_gzip, clauses, join_header};
use crate::nonresource::{VERSION, unchanged};
use crate::reply::{self, Reply};
use crate::request::Query;
use crate::status::Result;
use crate::{Server, Status, aggregate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Dialect::V2 => format!("#/definitions/{name}"),
            Dialect::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Changes whenever the document of a version would.
fn hash(registry: &Registry, versions: &[(String, String)]) -> String {
    let mut digest = Sha512::new();
    digest.update(VERSION);
    digest.update(env!("CARGO_PKG_VERSION"));
    for (group, version) in versions {
        digest.update(path_of(group, version));
        for kind in registry.of_version(group, version) {
            digest.update(&*kind.resource.kind);
            if let Some(custom) = &kind.custom {
                digest.update(custom.open_api.to_string());
                kind.resource.selectable.iter().for_each(|path| digest.update(&**path));
                digest.update([u8::from(custom.has_status), u8::from(custom.scale.is_some())]);
            }
        }
    }
    hex_upper(&digest.finalize())
}

fn info() -> Value {
    let (version, _) = VERSION.trim_start_matches('v').rsplit_once('.').unwrap_or_default();
    Value::object([("title", "Kubernetes".into()), ("version", version.into())])
}

/// How a client says who it is.
fn bearer() -> Value {
    Value::object([("type", "apiKey".into()), ("name", "authorization".into()), ("in", "header".into())])
}

fn document(parts: &Parts, dialect: Dialect, value: &Value, etag: &str) -> Result<Reply> {
    let (out, content_type) = if wants_protobuf(parts, dialect)? {
        (proto::encode(dialect, value), protobuf(dialect)[0])
    } else {
        let mut out = Vec::new();
        json::encode_untyped(value, &mut out);
        (out, JSON)
    };
    let hint = out.len() as u64;
    let mut response = reply::chunks(content_type, hint, accepts_gzip(&parts.headers), [Ok(out.into())].into_iter())?;
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    if dialect == Dialect::V2 {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// The media type of a dialect in protobuf, and what it was called once.
const fn protobuf(dialect: Dialect) -> [&'static str; 2] {
    match dialect {
        Dialect::V2 => [
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        ],
        Dialect::V3 => [
            "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
            "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
        ],
    }
}

/// Whether the first media type that can be served is a protobuf one.
fn wants_protobuf(parts: &Parts, dialect: Dialect) -> Result<bool> {
    let accept = join_header(&parts.headers, header::ACCEPT);
    let accept = if accept.is_empty() { "*/*" } else { accept.as_str() };
    let known = clauses(accept).iter().find_map(|clause| match clause.media {
        "application/json" | "application/*" | "*/*" => Some(false),
        other => protobuf(dialect).contains(&other).then_some(true),
    });
    known.ok_or_else(|| Status::not_acceptable(&["application/json"]))
}

/// The whole API in one document.
pub fn v2(server: &Server, parts: &Parts) -> Result<Reply> {
    wants_protobuf(parts, Dialect::V2)?;
    let registry = server.registry();
    let versions: Vec<(String, String)> =
        registry.groups().iter().flat_map(|(g, vs)| vs.iter().map(|v| (g.clone(), v.clone()))).collect();
    let remote = aggregate::versions(server);
    let told = || remote.iter().filter_map(|v| v.told.as_deref()).map(|told| &told.open_api_v2);
    let mut digest = Sha512::new_with_prefix(hash(&registry, &versions));
    told().for_each(|part| digest.update(part));
    let etag = format!("\"{}\"", hex_upper(&digest.finalize()));
    if unchanged(parts, &etag) {
        return Ok(not_modified(&etag));
    }
    let mut schemas = schemas::Schemas::new(Dialect::V2);
    let mut all_paths = schema::Object::new();
    for (group, version) in &versions {
        for kind in registry.of_version(group, version) {
            schemas.add_kind(kind);
            paths::add(Dialect::V2, kind, &mut all_paths);
        }
    }
    let mut value = Value::object([
        ("swagger", "2.0".into()),
        ("info", info()),
        ("paths", all_paths.into()),
        ("definitions", schemas.finish().into()),
        ("securityDefinitions", Value::object([("BearerToken", bearer())])),
        ("security", Value::List(vec![Value::object([("BearerToken", Value::List(Vec::new()))])])),
    ]);
    for part in told().filter_map(|part| json::parse(part).ok()) {
        part::join(&mut value, part);
    }
    document(parts, Dialect::V2, &value, &etag)
}

fn not_modified(etag: &str) -> Reply {
    let mut response = reply::bytes(304, "application/json", "");
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The index, and one document a group's version.
pub fn v3(server: &Server, parts: &Parts, rest: &[&str], query: &Query) -> Result<Reply> {
    let registry = server.registry();
    let versions: Vec<(String, String)> =
        registry.groups().iter().flat_map(|(g, vs)| vs.iter().map(|v| (g.clone(), v.clone()))).collect();
    if rest.is_empty() {
        let rows = versions.iter().map(|(group, version)| {
            let path = path_of(group, version);
            let hash = hash(&registry, &[(group.clone(), version.clone())]);
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, Value::object([("serverRelativeURL", url.into())]))
        });
        let told = aggregate::versions(server).into_iter().filter_map(|v| {
            let url = v.told?.open_api_v3.clone()?;
            Some((path_of(&v.group, &v.version), Value::object([("serverRelativeURL", url.into())])))
        });
        let value = Value::object([("paths", Value::Object(rows.chain(told).collect()))]);
        // Upstream lets its library guess from the beginning of the text.
        return Ok(reply::bytes(200, "text/plain; charset=utf-8", value.to_string()));
    }
    let asked = rest.join("/");
    let Some((group, version)) = versions.iter().find(|(g, v)| path_of(g, v) == asked) else {
        let mut response = reply::bytes(404, JSON, "");
        response.headers_mut().remove(header::CONTENT_TYPE);
        return Ok(response);
    };
    wants_protobuf(parts, Dialect::V3)?;
    let hash = hash(&registry, &[(group.clone(), version.clone())]);
    if query.get("hash").is_some_and(|given| given != hash) {
        // A stale hash is sent on to the current one, as upstream does.
        let mut response = reply::bytes(301, "text/plain", "");
        if let Ok(location) = HeaderValue::from_str(&format!("/openapi/v3/{asked}?hash={hash}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(response);
    }
    let etag = format!("\"{hash}\"");
    if unchanged(parts, &etag) {
        return Ok(not_modified(&etag));
    }
    let mut schemas = schemas::Schemas::new(Dialect::V3);
    let mut all_paths = schema::Object::new();
    for kind in registry.of_version(group, version) {
        schemas.add_kind(kind);
        paths::add(Dialect::V3, kind, &mut all_paths);
    }
    let mut value = Value::object([("openapi", "3.0.0".into()), ("info", info()), ("paths", all_paths.into())]);
    value.set(&["components", "schemas"], schemas.finish());
    value.set(&["components", "securitySchemes", "BearerToken"], bearer());
    let mut response = document(parts, Dialect::V3, &value, &etag)?;
    if query.get("hash").is_some() {
        // The document of a hash never changes.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}
