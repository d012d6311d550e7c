//! What a remote API server tells of itself: the resources of its version, and its part of OpenAPI.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schema::{Value, json};

use super::forward;
use crate::call::read_limited;
use crate::openapi::part;
use crate::{Server, User, body};

pub const AGGREGATOR: &str = "system:kube-aggregator";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream's own OpenAPI v2 document has half of it.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What was heard of one group's version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// `APIResourceDiscovery`s of apidiscovery.k8s.io/v2: the last that were heard.
    pub resources: Vec<Value>,
    pub is_current: bool,
    /// Where the version's OpenAPI v3 document is: `/openapi/v3/apis/GROUP/VERSION?hash=…`
    pub open_api_v3: Option<String>,
    /// The version's paths and definitions of OpenAPI v2, as JSON.
    pub open_api_v2: Bytes,
    pub(super) discovery_etag: String,
    pub(super) open_api_v2_etag: String,
}

/// Asks a service anew; what it does not tell stays as it was, and resources become stale.
pub async fn refresh(server: &Server, service: &Value, is_available: bool) {
    let name = service.str_at(&["metadata", "name"]);
    let mut told = server.inner.remotes.get(name).map(|told| (*told).clone()).unwrap_or_default();
    told.is_current = false;
    if is_available {
        let remote = Remote::new(server, service);
        match remote.discovery(&mut told).await {
            Ok(()) => told.is_current = true,
            Err(why) => tracing::debug!(name, why, "no discovery of an APIService"),
        }
        if let Err(why) = remote.open_api(&mut told).await {
            tracing::debug!(name, why, "no OpenAPI of an APIService");
        }
    }
    server.inner.remotes.set(name, told);
}

struct Remote<'a> {
    server: &'a Server,
    service: &'a Value,
    group: &'a str,
    version: &'a str,
}

type Answer = (StatusCode, HeaderMap, Bytes);

impl<'a> Remote<'a> {
    fn new(server: &'a Server, service: &'a Value) -> Self {
        let (group, version) = (service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
        Remote { server, service, group, version }
    }

    async fn get(&self, path: &str, accept: &'static str, etag: &str) -> Result<Answer, String> {
        let mut request = http::Request::new(body::empty());
        *request.uri_mut() = path.parse().map_err(|error| format!("{path}: {error}"))?;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(etag) = HeaderValue::from_str(etag).ok().filter(|etag| !etag.is_empty()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let (parts, body) = request.into_parts();
        let user = User::new(AGGREGATOR, &["system:masters"]);
        let asked = async {
            let reply = forward(self.server, &user, self.service, parts, body).await?;
            let (head, body) = reply.into_parts();
            Ok((head.status, head.headers, read_limited(body, DOCUMENT_BYTES_MAX).await?))
        };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|status: crate::Status| status.message),
            Err(_) => Err("context deadline exceeded".into()),
        }
    }

    /// Aggregated discovery if the server speaks it, else the version's own list.
    async fn discovery(&self, told: &mut Told) -> Result<(), String> {
        let (code, headers, body) = self.get("/apis", AGGREGATED, &told.discovery_etag).await?;
        if code == StatusCode::NOT_MODIFIED && !told.discovery_etag.is_empty() {
            return Ok(());
        }
        let content_type = text(&headers, header::CONTENT_TYPE);
        let is_aggregated = ["as=APIGroupDiscoveryList", "v=v2"]
            .iter()
            .all(|wanted| content_type.split(';').any(|part| part.trim() == *wanted));
        if code == StatusCode::OK && is_aggregated {
            told.resources = from_aggregated(&parse(&body)?, self.group, self.version);
            told.discovery_etag = text(&headers, header::ETAG).to_owned();
            return Ok(());
        }
        if code == StatusCode::SERVICE_UNAVAILABLE {
            return Err(format!("status {code}"));
        }
        let path = format!("/apis/{}/{}", self.group, self.version);
        let (code, _, body) = self.get(&path, "application/json", "").await?;
        if code != StatusCode::OK {
            return Err(format!("status {code} of {path}"));
        }
        told.resources = from_legacy(&parse(&body)?);
        told.discovery_etag.clear();
        Ok(())
    }

    async fn open_api(&self, told: &mut Told) -> Result<(), String> {
        let path = format!("apis/{}/{}", self.group, self.version);
        let (code, _, body) = self.get("/openapi/v3", "application/json", "").await?;
        told.open_api_v3 = if code == StatusCode::OK {
            let index = parse(&body)?;
            let url = index["paths"][path.as_str()].str_at(&["serverRelativeURL"]);
            url.starts_with(&format!("/openapi/v3/{path}")).then(|| url.to_owned())
        } else {
            None
        };
        let (code, headers, body) = self.get("/openapi/v2", "application/json", &told.open_api_v2_etag).await?;
        if code == StatusCode::OK {
            told.open_api_v2 = part::of(parse(&body)?, &format!("/{path}")).to_string().into();
            told.open_api_v2_etag = text(&headers, header::ETAG).to_owned();
        } else if code != StatusCode::NOT_MODIFIED {
            (told.open_api_v2, told.open_api_v2_etag) = Default::default();
        }
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn parse(body: &[u8]) -> Result<Value, String> {
    json::parse(body).map_err(|error| error.message)
}

/// A version's resources in an `APIGroupDiscoveryList`; nothing if it does not name the version.
pub fn from_aggregated(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let groups = list.list_at(&["items"]).iter().filter(|g| g.str_at(&["metadata", "name"]) == group);
    let mut versions = groups.flat_map(|g| g.list_at(&["versions"])).filter(|v| v.str_at(&["version"]) == version);
    let mut resources = versions.next().map_or(&[][..], |v| v.list_at(&["resources"])).to_vec();
    for resource in &mut resources {
        let subresources = resource.get_mut(&["subresources"]).and_then(Value::as_list_mut);
        subresources.into_iter().flatten().for_each(fill_kind);
        fill_kind(resource);
    }
    resources
}

/// Clients take it for granted that there is a kind.
fn fill_kind(resource: &mut Value) {
    if resource["responseKind"].as_object().is_none() {
        resource.set(&["responseKind"], Value::object::<&str>([]));
    }
}

/// The resources of an `APIResourceList`, each with its subresources.
pub fn from_legacy(list: &Value) -> Vec<Value> {
    // Without a group and a version it is of those of the list, as clients know.
    let kind_of = |resource: &Value| {
        Value::object(["group", "version", "kind"].map(|field| (field, resource.str_at(&[field]).into())))
    };
    let scope = |resource: &Value| if resource.bool_at(&["namespaced"]) { "Namespaced" } else { "Cluster" };
    let mut out: Vec<Value> = Vec::new();
    let all = list.list_at(&["resources"]);
    for resource in all.iter().filter(|r| !r.str_at(&["name"]).contains('/')) {
        let mut row = Value::object([
            ("resource", resource["name"].clone()),
            ("responseKind", kind_of(resource)),
            ("scope", scope(resource).into()),
            ("singularResource", resource.str_at(&["singularName"]).into()),
            ("verbs", resource["verbs"].clone()),
        ]);
        for field in ["shortNames", "categories"] {
            if !resource[field].is_null() {
                row.set(&[field], resource[field].clone());
            }
        }
        out.push(row);
    }
    for sub in all {
        let Some((main, name)) = sub.str_at(&["name"]).split_once('/') else { continue };
        let row = Value::object([
            ("subresource", name.into()),
            ("responseKind", kind_of(sub)),
            ("verbs", sub["verbs"].clone()),
        ]);
        match out.iter_mut().find(|r| r.str_at(&["resource"]) == main) {
            Some(parent) => parent.make_list(&["subresources"]).push(row),
            // Some subresources stand alone.
            None => out.push(Value::object([
                ("resource", main.into()),
                ("responseKind", Value::object::<&str>([])),
                ("scope", scope(sub).into()),
                ("singularResource", "".into()),
                ("verbs", Value::List(Vec::new())),
                ("subresources", Value::List(vec![row])),
            ])),
        }
    }
    out
}
