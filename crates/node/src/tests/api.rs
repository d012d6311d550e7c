//! An API server in memory: enough for a node, in protobuf.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use reconcile::io::{Body, BoxError, BoxFuture, Transport};
use schema::api::authentication::v1::TokenRequest;
use schema::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use schema::api::coordination::v1::Lease;
use schema::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use schema::api::meta::v1::Status;
use schema::api::node::v1::RuntimeClass;
use schema::api::resource::v1::ResourceClaim;
use schema::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use schema::api::{Kind, Message, Object, Time};
use tokio::sync::broadcast;

use crate::objects::lock;

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Bytes>,
    revision: u64,
}

#[derive(Clone)]
struct Change {
    collection: String,
    name: String,
    kind: &'static str,
    node: String,
    raw: Bytes,
}

pub struct Api {
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
    /// Nobody answers.
    pub down: std::sync::atomic::AtomicBool,
}

fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

fn envelope(raw: &[u8]) -> Vec<u8> {
    let mut out = b"k8s\0".to_vec();
    field(1, b"", &mut out);
    field(2, raw, &mut out);
    out
}

fn open(body: &Bytes) -> Bytes {
    // Skips the type: tag, length, bytes; then tag 2 and a varint.
    let mut at = 4;
    loop {
        let tag = body[at] >> 3;
        at += 1;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = body[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        if tag == 2 {
            return body.slice(at..at + length);
        }
        at += length;
    }
}

fn answer(code: StatusCode, raw: &[u8]) -> Response<Body> {
    let body = Full::new(Bytes::from(envelope(raw))).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).expect("a response")
}

fn refuse(code: StatusCode, reason: &str) -> Response<Body> {
    let status = Status { reason: reason.into(), code: code.as_u16().into(), ..Status::default() };
    answer(code, &status.to_vec())
}

/// Does `f` with the kind of a path.
macro_rules! with_kind {
    ($path:expr, $f:ident($($arg:expr),*)) => {
        match $path {
            path if path.contains("/pods") => $f::<Pod>($($arg),*),
            path if path.contains("/configmaps") => $f::<ConfigMap>($($arg),*),
            path if path.contains("/secrets") => $f::<Secret>($($arg),*),
            path if path.contains("/services") => $f::<Service>($($arg),*),
            path if path.contains("/nodes") => $f::<Node>($($arg),*),
            path if path.contains("/leases") => $f::<Lease>($($arg),*),
            path if path.contains("/persistentvolumeclaims") => $f::<PersistentVolumeClaim>($($arg),*),
            path if path.contains("/persistentvolumes") => $f::<PersistentVolume>($($arg),*),
            path if path.contains("/events") => $f::<Event>($($arg),*),
            path if path.contains("/serviceaccounts") => $f::<ServiceAccount>($($arg),*),
            path if path.contains("/podcertificaterequests") => $f::<PodCertificateRequest>($($arg),*),
            path if path.contains("/clustertrustbundles") => $f::<ClusterTrustBundle>($($arg),*),
            path if path.contains("/csinodes") => $f::<CSINode>($($arg),*),
            path if path.contains("/csidrivers") => $f::<CSIDriver>($($arg),*),
            path if path.contains("/volumeattachments") => $f::<VolumeAttachment>($($arg),*),
            path if path.contains("/resourceclaims") => $f::<ResourceClaim>($($arg),*),
            path if path.contains("/runtimeclasses") => $f::<RuntimeClass>($($arg),*),
            path => panic!("no kind at {path}"),
        }
    };
}

fn stamped<K: Object>(raw: &Bytes, revision: u64) -> (String, String, Bytes) {
    let mut object = K::decode(raw).expect("an object");
    let meta = object.metadata_mut();
    meta.resource_version = revision.to_string();
    if meta.name.is_empty() {
        meta.name = format!("{}{revision}", meta.generate_name);
    }
    if meta.uid.is_empty() {
        meta.uid = format!("uid-{}", meta.name);
    }
    (meta.namespace.clone(), meta.name.clone(), object.to_vec().into())
}

fn version<K: Object>(raw: &Bytes) -> String {
    K::decode(raw).expect("an object").metadata().resource_version.clone()
}

impl Api {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changes: broadcast::channel(1024).0, down: Default::default() })
    }

    fn path<K: Object>(namespace: &str, name: &str) -> String {
        let group = if K::GROUP.is_empty() {
            format!("/api/{}", K::VERSION)
        } else {
            format!("/apis/{}/{}", K::GROUP, K::VERSION)
        };
        let namespace =
            if K::NAMESPACED && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{group}{namespace}/{}{name}", K::PLURAL)
    }

    fn store(&self, path: &str, raw: &Bytes) -> Bytes {
        let mut state = lock(&self.state);
        state.revision += 1;
        let revision = state.revision;
        let (_, name, stored) = with_kind!(path, stamped(raw, revision));
        let kind = if state.objects.insert(path.to_owned(), stored.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(path, &name, kind, &stored);
        stored
    }

    fn tell(&self, path: &str, name: &str, kind: &'static str, raw: &Bytes) {
        let collection = path.rsplit_once('/').map(|(collection, _)| collection.to_owned()).unwrap_or_default();
        let node = if path.contains("/pods") { Pod::decode(raw).expect("a pod").spec.node_name } else { String::new() };
        let _ = self.changes.send(Change { collection, name: name.into(), kind, node, raw: raw.clone() });
    }

    /// Creates or replaces.
    pub fn put<K: Object>(&self, object: &K) {
        let meta = object.metadata();
        self.store(&Self::path::<K>(&meta.namespace, &meta.name), &object.to_vec().into());
    }

    pub fn get<K: Object>(&self, namespace: &str, name: &str) -> Option<K> {
        let state = lock(&self.state);
        state.objects.get(&Self::path::<K>(namespace, name)).map(|raw| K::decode(raw).expect("an object"))
    }

    pub fn all<K: Object>(&self) -> Vec<K> {
        let end = format!("/{}/", K::PLURAL);
        let state = lock(&self.state);
        state
            .objects
            .iter()
            .filter(|(path, _)| path.contains(&end))
            .map(|(_, raw)| K::decode(raw).expect("an object"))
            .collect()
    }

    /// As `kubectl delete` does: a graceful deletion of a pod of a node.
    pub fn delete_pod(&self, namespace: &str, name: &str, grace: i64, now_seconds: i64) {
        let mut pod: Pod = self.get(namespace, name).expect("a pod");
        pod.metadata.deletion_timestamp = Some(Time { seconds: now_seconds + grace });
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.put(&pod);
    }

    pub fn remove(&self, path: &str) {
        let mut state = lock(&self.state);
        let Some(raw) = state.objects.remove(path) else { return };
        state.revision += 1;
        let revision = state.revision;
        let (_, name, stored) = with_kind!(path, stamped(&raw, revision));
        self.tell(path, &name, "DELETED", &stored);
    }

    fn list(&self, path: &str, selector: &dyn Fn(&str, &str) -> bool) -> Vec<u8> {
        let state = lock(&self.state);
        let mut meta = Vec::new();
        field(2, state.revision.to_string().as_bytes(), &mut meta);
        let mut list = Vec::new();
        field(1, &meta, &mut list);
        for (of, raw) in &state.objects {
            let (collection, name) = of.rsplit_once('/').expect("a path");
            let node =
                if of.contains("/pods/") { Pod::decode(raw).expect("a pod").spec.node_name } else { String::new() };
            if under(collection, path) && selector(name, &node) {
                field(2, raw, &mut list);
            }
        }
        list
    }
}

/// A collection, or the same in all namespaces.
fn under(collection: &str, asked: &str) -> bool {
    let plural = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    collection == asked || (!asked.contains("/namespaces/") && plural(collection) == plural(asked))
}

impl Transport for Api {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, BoxError>> {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Box::pin(async { Err("connection refused".into()) });
        }
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let part = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)).map(|value| value.replace("%3D", "="))
        };
        let wanted = part("fieldSelector=").unwrap_or_default();
        let first = wanted.split(',').next().unwrap_or_default().to_owned();
        let selector = move |name: &str, node: &str| match first.split_once('=') {
            Some(("metadata.name", value)) => name == value,
            Some(("spec.nodeName", value)) => node == value,
            _ => true,
        };
        let body = request.body().clone();
        let is_name = |path: &str| {
            let parts = path.split('/').skip(if path.starts_with("/apis") { 4 } else { 3 }).count();
            if path.contains("/namespaces/") { parts == 4 } else { parts == 2 }
        };
        let response = match *request.method() {
            Method::GET if query.contains("watch=true") => {
                // Whatever is newer than the list is replayed from the state, as objects that were modified.
                let since: u64 = part("resourceVersion=").and_then(|version| version.parse().ok()).unwrap_or(0);
                let (changes, missed) = {
                    let state = lock(&self.state);
                    let missed: Vec<Change> = state
                        .objects
                        .iter()
                        .filter(|(of, raw)| {
                            with_kind!(of.as_str(), version(raw)).parse::<u64>().is_ok_and(|at| at > since)
                        })
                        .map(|(of, raw)| Change {
                            collection: of.rsplit_once('/').expect("a path").0.to_owned(),
                            name: of.rsplit('/').next().expect("a name").to_owned(),
                            kind: "MODIFIED",
                            node: if of.contains("/pods/") {
                                Pod::decode(raw).expect("a pod").spec.node_name
                            } else {
                                String::new()
                            },
                            raw: raw.clone(),
                        })
                        .collect();
                    (self.changes.subscribe(), missed)
                };
                let stream = futures_util::stream::unfold(
                    (changes, missed, path, selector),
                    |(mut changes, mut missed, path, selector)| async move {
                        loop {
                            let change = match missed.pop() {
                                Some(change) => change,
                                None => changes.recv().await.ok()?,
                            };
                            if !under(&change.collection, &path) || !selector(&change.name, &change.node) {
                                continue;
                            }
                            let (mut extension, mut event) = (Vec::new(), Vec::new());
                            field(1, &envelope(&change.raw), &mut extension);
                            field(1, change.kind.as_bytes(), &mut event);
                            field(2, &extension, &mut event);
                            let mut frame = (event.len() as u32).to_be_bytes().to_vec();
                            frame.extend(event);
                            return Some((Ok(Frame::data(Bytes::from(frame))), (changes, missed, path, selector)));
                        }
                    },
                );
                Response::new(StreamBody::new(stream).boxed_unsync())
            }
            Method::GET if is_name(&path) => match lock(&self.state).objects.get(&path) {
                Some(raw) => answer(StatusCode::OK, raw),
                None => refuse(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::GET => answer(StatusCode::OK, &self.list(&path, &selector)),
            Method::POST if path.ends_with("/token") => {
                let mut token = TokenRequest::default();
                token.status.token = format!("token-{}", lock(&self.state).revision);
                token.status.expiration_timestamp = Time { seconds: super::EPOCH / 1_000_000_000 + 3600 };
                answer(StatusCode::CREATED, &token.to_vec())
            }
            Method::POST => {
                let raw = open(&body);
                let next = lock(&self.state).revision + 1;
                let (_, name, _) = with_kind!(path.as_str(), stamped(&raw, next));
                let path = format!("{path}/{name}");
                if lock(&self.state).objects.contains_key(&path) {
                    refuse(StatusCode::CONFLICT, "AlreadyExists")
                } else {
                    answer(StatusCode::CREATED, &self.store(&path, &raw))
                }
            }
            Method::PUT => {
                let raw = open(&body);
                let of = path.trim_end_matches("/status");
                let known = lock(&self.state).objects.get(of).cloned();
                match known {
                    None => refuse(StatusCode::NOT_FOUND, "NotFound"),
                    Some(known) if with_kind!(of, version(&known)) != with_kind!(of, version(&raw)) => {
                        refuse(StatusCode::CONFLICT, "Conflict")
                    }
                    Some(known) if of != path && of.contains("/pods/") => {
                        // Of a pod nothing but its status is taken.
                        let status = Pod::decode(&raw).expect("a pod").status;
                        let pod = Pod { status, ..Pod::decode(&known).expect("a pod") };
                        answer(StatusCode::OK, &self.store(of, &pod.to_vec().into()))
                    }
                    Some(_) => answer(StatusCode::OK, &self.store(of, &raw)),
                }
            }
            Method::PATCH => {
                let known = lock(&self.state).objects.get(path.trim_end_matches("/status")).cloned();
                match known {
                    None => refuse(StatusCode::NOT_FOUND, "NotFound"),
                    Some(raw) if path.contains("/events/") => {
                        let patch: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                        let mut event = Event::decode(&raw).expect("an event");
                        event.message = patch["message"].as_str().unwrap_or_default().to_owned();
                        event.count = i32::try_from(patch["count"].as_i64().unwrap_or(0)).unwrap_or(0);
                        answer(StatusCode::OK, &self.store(&path, &event.to_vec().into()))
                    }
                    Some(raw) => answer(StatusCode::OK, &raw),
                }
            }
            Method::DELETE => {
                if !path.ends_with("/resourceslices") {
                    self.remove(&path);
                }
                answer(StatusCode::OK, &Status::default().to_vec())
            }
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        };
        let _ = Status::KIND;
        Box::pin(async move { Ok(response) })
    }
}
