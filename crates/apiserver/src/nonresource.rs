//! Paths that are no resources: health, version, discovery, OpenAPI, metrics.

use http::{Method, header, request::Parts};
use schema::{Value, json};

use crate::encode::indent;
use crate::negotiate::Encoding;
use crate::reply::{self, Reply};
use crate::request::Query;
use crate::status::Result;
use crate::{Body, Server, Status, User, discovery, health, openapi};

/// The version of Kubernetes whose API this is.
pub const VERSION: &str = "v1.37.2";

pub fn not_found() -> Reply {
    reply::text(404, "404 page not found\n")
}

pub async fn serve(server: &Server, parts: Parts, query: &Query, user: &User, body: Body) -> Result<Reply> {
    let path = parts.uri.path().to_owned();
    // Discovery and OpenAPI of a version that is served elsewhere.
    if let ["apis", group, version] | ["openapi", "v3", "apis", group, version] =
        path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice()
        && server.registry().of_version(group, version).is_empty()
    {
        let known = path.starts_with("/apis") && server.registry().has_builtin(group);
        return crate::aggregate::proxy(server, user, (*group, *version), parts, body)
            .await
            .unwrap_or_else(|| if known { Err(Status::no_such_resource()) } else { Ok(not_found()) });
    }
    let parts = &parts;
    let trimmed = path.trim_end_matches('/');
    let segments: Vec<&str> = trimmed.split('/').skip(1).collect();
    // Other paths do not look at the method.
    let only_got = matches!(segments.first(), Some(&("api" | "apis" | "version" | ".well-known" | "openid")));
    if only_got && parts.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    match segments.as_slice() {
        [] => Ok(root(server)),
        ["version"] => Ok(version()),
        [endpoint @ ("healthz" | "livez" | "readyz"), name @ ..] => {
            Ok(health::serve(server, endpoint, &name.join("/"), query).await)
        }
        ["metrics", "slis"] => {
            Ok(reply::bytes(200, "text/plain; version=0.0.4; charset=utf-8", health::slis(server).await))
        }
        ["metrics"] => {
            let text = server.inner.metrics.text(server);
            Ok(reply::bytes(200, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        ["debug", "api_priority_and_fairness", table] => {
            let details = query.get("includeRequestDetails").is_some_and(|value| !value.is_empty());
            let dumped = server.inner.fairness.dump(table, details, server.config().clock.now());
            Ok(dumped.map_or_else(not_found, |text| reply::bytes(200, "text/plain; charset=utf-8", text)))
        }
        ["api" | "apis", ..] => discovery::serve(server, parts, &segments),
        ["openapi", "v2"] => openapi::v2(server, parts),
        ["openapi", "v3", rest @ ..] => openapi::v3(server, parts, rest, query),
        [".well-known", "openid-configuration"] => match server.config().issue_token.configuration() {
            Some(document) => Ok(published("application/json", document)),
            None => Ok(not_found()),
        },
        ["openid", "v1", "jwks"] => match server.config().issue_token.key_set() {
            Some(document) => Ok(published("application/jwk-set+json", document)),
            None => Ok(not_found()),
        },
        _ => Ok(not_found()),
    }
}

/// What verifiers of tokens may keep for an hour.
fn published(media_type: &'static str, document: String) -> Reply {
    let mut reply = reply::bytes(200, media_type, document);
    reply.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("public, max-age=3600"));
    reply
}

fn pretty(value: &Value) -> Reply {
    let mut out = Vec::new();
    json::encode_untyped(value, &mut out);
    reply::bytes(200, "application/json", indent(&out))
}

fn root(server: &Server) -> Reply {
    let mut paths: Vec<String> = vec![
        "/.well-known/openid-configuration".into(),
        "/api".into(),
        "/api/v1".into(),
        "/apis".into(),
        "/apis/".into(),
    ];
    for (group, versions) in discovery::groups(server, &server.registry()).iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    for path in ["/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"] {
        paths.push(path.into());
    }
    for endpoint in health::ENDPOINTS {
        paths.push(format!("/{endpoint}"));
        paths.extend(health::checks(endpoint).map(|name| format!("/{endpoint}/{name}")));
    }
    paths.sort();
    pretty(&Value::object([("paths", Value::list(paths))]))
}

fn version() -> Reply {
    let value = Value::object([
        ("major", "1".into()),
        ("minor", "37".into()),
        ("emulationMajor", "1".into()),
        ("emulationMinor", "37".into()),
        ("minCompatibilityMajor", "1".into()),
        ("minCompatibilityMinor", "36".into()),
        ("gitVersion", format!("{VERSION}+sampan").into()),
        ("gitCommit", "".into()),
        ("gitTreeState", "clean".into()),
        ("buildDate", "1970-01-01T00:00:00Z".into()),
        ("goVersion", "".into()),
        ("compiler", "rustc".into()),
        ("platform", format!("{}/{}", std::env::consts::OS, go_arch()).into()),
    ]);
    pretty(&value)
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Does a conditional request name this ETag?
pub fn unchanged(parts: &Parts, etag: &str) -> bool {
    parts
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|t| t.trim().trim_start_matches("W/") == etag))
}

/// The encoding of a discovery answer.
pub fn plain_encoding(parts: &Parts) -> Encoding {
    crate::negotiate::accept(&parts.headers, &Query::default(), false, true).map_or(Encoding::Json, |a| a.encoding)
}
