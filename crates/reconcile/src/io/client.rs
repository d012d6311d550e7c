//! Typed requests: protobuf in, protobuf out.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use schema::api::Object;
use schema::api::meta::v1::Status;
use schema::proto;
use serde_json::{Value as Json, json};

use super::{Error, Frames, Identity, Transport, frames};
use crate::plan::{self, Action, AnyObject, DeleteOptions, Patch, Reference};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// No answer to a single request is larger.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A client of one component. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    identity: Identity,
}

/// A list, and the revision it is of.
pub struct List<K> {
    pub items: Vec<K>,
    pub resource_version: String,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>, identity: Identity) -> Self {
        Self { transport, identity }
    }

    /// The same connection for another component.
    pub fn with_identity(&self, identity: Identity) -> Self {
        Self { transport: self.transport.clone(), identity }
    }

    /// Any request; a status of 400 and above is an [`Error::Api`].
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<http::Response<super::Body>, Error> {
        let method = method_name(request.method());
        let path = request.uri().to_string();
        request.headers_mut().entry(header::ACCEPT).or_insert(header::HeaderValue::from_static(PROTOBUF));
        if let Ok(agent) = header::HeaderValue::from_str(&self.identity.0) {
            request.headers_mut().insert(header::USER_AGENT, agent);
        }
        request.extensions_mut().insert(self.identity.clone());
        let failed = |source| Error::Transport { method, path: path.clone(), source };
        let response = self.transport.call(request).await.map_err(failed)?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let raw = collect(response.into_body(), MAX_ANSWER_BYTES).await.map_err(failed)?;
        let status = decode_status(&raw);
        Err(Error::Api {
            method,
            path,
            code,
            retry_after_seconds: status
                .details
                .as_ref()
                .and_then(|details| u64::try_from(details.retry_after_seconds).ok())
                .filter(|s| *s > 0),
            reason: status.reason,
            message: status.message,
        })
    }

    /// A request whose answer is one object: its protobuf without the envelope.
    pub async fn request_raw(&self, request: Request<Bytes>) -> Result<Bytes, Error> {
        let (method, path) = (method_name(request.method()), request.uri().to_string());
        let response = self.send(request).await?;
        let body = collect(response.into_body(), MAX_ANSWER_BYTES).await.map_err(|source| Error::Transport {
            method,
            path: path.clone(),
            source,
        })?;
        frames::open(&body).ok_or(Error::Decode { path, expected: "protobuf object" })
    }

    async fn request<K: Object>(&self, request: Request<Bytes>) -> Result<K, Error> {
        let path = request.uri().to_string();
        let raw = self.request_raw(request).await?;
        K::decode(&raw).map_err(|_| Error::Decode { path, expected: K::KIND })
    }

    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        let path = plan::path(K::GROUP, K::VERSION, K::PLURAL, K::NAMESPACED.then_some(namespace), Some(name));
        self.request(build(Method::GET, path, None, Bytes::new())).await
    }

    /// `query` without its question mark: `fieldSelector=…&limit=…`; namespace `""` for all.
    pub async fn list<K: Object>(&self, namespace: &str, query: &str) -> Result<List<K>, Error> {
        self.list_as(namespace, query, |raw| K::decode(raw).ok()).await
    }

    /// As [`Client::list`], by who reads an object's protobuf in another way.
    pub(super) async fn list_as<K: Object>(
        &self,
        namespace: &str,
        query: &str,
        decode: impl Fn(&Bytes) -> Option<K>,
    ) -> Result<List<K>, Error> {
        let path = with_query(plan::path(K::GROUP, K::VERSION, K::PLURAL, Some(namespace), None), query);
        let raw = self.request_raw(build(Method::GET, path.clone(), None, Bytes::new())).await?;
        let mut list = List { items: Vec::new(), resource_version: String::new() };
        for (tag, value) in frames::fields(&raw) {
            match tag {
                1 => {
                    list.resource_version = frames::fields(&value)
                        .find(|(tag, _)| *tag == 2)
                        .and_then(|(_, version)| String::from_utf8(version.to_vec()).ok())
                        .unwrap_or_default();
                }
                // One object that cannot be read never spoils a list.
                2 => match decode(&value) {
                    Some(object) => list.items.push(object),
                    None => tracing::warn!(%path, "an object in a list cannot be decoded"),
                },
                _ => {}
            }
        }
        Ok(list)
    }

    /// Opens a watch after `resource_version`; ended by the server after a while.
    pub async fn watch(&self, path: String, query: &str, resource_version: &str) -> Result<Frames, Error> {
        self.watch_as(path, query, resource_version, "application/vnd.kubernetes.protobuf;stream=watch").await
    }

    pub(super) async fn watch_as(
        &self,
        path: String,
        query: &str,
        resource_version: &str,
        accept: &'static str,
    ) -> Result<Frames, Error> {
        let mut query = query.to_owned();
        for part in ["watch=true", "allowWatchBookmarks=true", &format!("resourceVersion={resource_version}")] {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(part);
        }
        let mut request = build(Method::GET, with_query(path, &query), None, Bytes::new());
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        Ok(Frames::new(self.send(request).await?.into_body()))
    }

    pub async fn create<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.request(create(object)).await
    }

    pub async fn update<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.request(update(object, None)).await
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.request(update(object, Some("status"))).await
    }

    /// PUT of a subresource such as `finalize` or `approval`.
    pub async fn put<K: Object>(&self, key: &crate::Key, subresource: &'static str, body: &K) -> Result<K, Error> {
        let path = with_subresource(Reference::named::<K>(key.clone(), "").path(true), Some(subresource));
        self.request(build(Method::PUT, path, Some(PROTOBUF), enclose(body))).await
    }

    pub async fn patch<K: Object>(
        &self,
        key: &crate::Key,
        subresource: Option<&'static str>,
        body: &Patch,
    ) -> Result<K, Error> {
        self.request(patch(&Reference::named::<K>(key.clone(), ""), subresource, body)).await
    }

    pub async fn delete<K: Object>(&self, object: &K, options: &DeleteOptions) -> Result<(), Error> {
        self.request_raw(delete(&Reference::to(object), options)).await.map(drop)
    }

    /// Carries out an action and lets the world know what the API answered.
    pub(crate) async fn execute(&self, action: &Action) -> Result<Effect, Error> {
        Ok(match action {
            Action::Create(object) => Effect::Now(object.reference(), self.request_raw(create(&**object)).await?),
            Action::Update(object) => Effect::Now(object.reference(), self.request_raw(update(&**object, None)).await?),
            Action::UpdateStatus(object) => {
                Effect::Now(object.reference(), self.request_raw(update(&**object, Some("status"))).await?)
            }
            Action::Patch { of, subresource, patch: body } => {
                let raw = self.request_raw(patch(of, *subresource, body)).await?;
                if subresource.is_none_or(|name| name == "status") {
                    Effect::Now(of.clone(), raw)
                } else {
                    Effect::Elsewhere
                }
            }
            Action::Delete { of, options } => {
                let path = of.path(true);
                let response = self.send(delete(of, options)).await?;
                let source = |source| Error::Transport { method: "DELETE", path: path.clone(), source };
                let envelope = collect(response.into_body(), MAX_ANSWER_BYTES).await.map_err(source)?;
                match proto::open(&envelope) {
                    Ok(answer) if !matches!(answer.kind, "" | "Status") => {
                        Effect::Deleting(of.clone(), envelope.slice_ref(answer.raw))
                    }
                    _ => Effect::Gone(of.clone()),
                }
            }
            Action::Post { of, subresource, body } => {
                self.request_raw(post(of, subresource, &**body)).await?;
                Effect::Elsewhere
            }
        })
    }
}

/// What an action did to the object that it names.
pub(crate) enum Effect {
    /// This is its state now.
    Now(Reference, Bytes),
    /// The answer to a deletion: with a deletionTimestamp it lives on, else it was its last state.
    Deleting(Reference, Bytes),
    Gone(Reference),
    /// It will be seen by the watch.
    Elsewhere,
}

fn create(object: &dyn AnyObject) -> Request<Bytes> {
    build(Method::POST, object.reference().path(false), Some(PROTOBUF), enclose(object))
}

fn update(object: &dyn AnyObject, subresource: Option<&str>) -> Request<Bytes> {
    build(Method::PUT, with_subresource(object.reference().path(true), subresource), Some(PROTOBUF), enclose(object))
}

fn post(of: &Reference, subresource: &str, body: &dyn AnyObject) -> Request<Bytes> {
    build(Method::POST, with_subresource(of.path(true), Some(subresource)), Some(PROTOBUF), enclose(body))
}

fn patch(of: &Reference, subresource: Option<&str>, patch: &Patch) -> Request<Bytes> {
    let mut path = with_subresource(of.path(true), subresource);
    let (content_type, mut body) = match patch {
        Patch::Json(body) => ("application/json-patch+json", body.clone()),
        Patch::Merge(body) => ("application/merge-patch+json", body.clone()),
        Patch::Strategic(body) => ("application/strategic-merge-patch+json", body.clone()),
        Patch::Apply { manager, object } => {
            path = format!("{path}?fieldManager={manager}&force=true");
            ("application/apply-patch+yaml", object.clone())
        }
    };
    // The uid in a patch is a precondition: another object of this name answers 409.
    if !of.uid.is_empty() && matches!(patch, Patch::Merge(_) | Patch::Strategic(_)) && body.is_object() {
        body["metadata"]["uid"] = json!(of.uid);
    }
    build(Method::PATCH, path, Some(content_type), body.to_string().into())
}

fn delete(of: &Reference, options: &DeleteOptions) -> Request<Bytes> {
    build(Method::DELETE, of.path(true), Some("application/json"), delete_body(&of.uid, options))
}

pub(super) fn delete_body(uid: &str, options: &DeleteOptions) -> Bytes {
    let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(grace) = options.grace_period_seconds {
        body["gracePeriodSeconds"] = json!(grace);
    }
    if let Some(propagation) = options.propagation {
        body["propagationPolicy"] = json!(propagation.as_str());
    }
    if !uid.is_empty() {
        body["preconditions"]["uid"] = json!(uid);
    }
    if let Some(version) = &options.resource_version {
        body["preconditions"]["resourceVersion"] = json!(version);
    }
    Json::to_string(&body).into()
}

fn enclose(object: &dyn AnyObject) -> Bytes {
    proto::envelope(&object.api_version(), object.kind(), &object.body()).into()
}

pub(super) fn build(method: Method, path: String, content_type: Option<&'static str>, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    match path.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => tracing::error!(%path, %error, "no URI"),
    }
    if let Some(content_type) = content_type {
        request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    }
    request
}

fn with_subresource(path: String, subresource: Option<&str>) -> String {
    subresource.map_or(path.clone(), |name| format!("{path}/{name}"))
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "request",
    }
}

/// All of a body, or an error if it is longer than `limit` bytes.
pub async fn collect(mut body: super::Body, limit: usize) -> Result<Bytes, super::BoxError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if all.is_empty() && body.is_end_stream() && data.len() <= limit => return Ok(data),
            Ok(Ok(data)) => all.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(error) => return Err(error),
        }
        if all.len() > limit {
            return Err(format!("a body of more than {limit} bytes").into());
        }
    }
    Ok(all.freeze())
}

/// A Status in protobuf or JSON (a proxy in between speaks JSON, or neither).
fn decode_status(raw: &Bytes) -> Status {
    use schema::api::Message;
    if let Some(status) = frames::open(raw).and_then(|raw| Status::decode(&raw).ok()) {
        return status;
    }
    let json: Json = serde_json::from_slice(raw).unwrap_or_default();
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let message = if json.is_object() {
        text("message")
    } else {
        String::from_utf8_lossy(&raw[..raw.len().min(300)]).into_owned()
    };
    Status { reason: text("reason"), message, ..Status::default() }
}
