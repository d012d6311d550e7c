//! The server as its own stages see it: [`View`] over the caches, and requests from inside.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use schema::Value;

use crate::cache::{Entry, Storage};
use crate::kind::Kind;
use crate::view::{Changed, Of, View};
use crate::{Server, User, body, encode};

/// How many changes are worth applying one by one; beyond it everything is read anew.
const CHANGES_MAX: usize = 10_000;

fn find(server: &Server, of: Of) -> Option<(Arc<Kind>, Arc<Storage>)> {
    let registry = server.registry();
    let kind = registry.preferred(of.0, of.1)?;
    Some((kind.clone(), kind.storage.clone()?))
}

/// What cannot be decoded is as if it were not there: the log has its key since it was read.
fn decode(kind: &Kind, entry: &Entry) -> Option<Arc<Value>> {
    encode::decode(kind, &entry.body).ok().map(Arc::new)
}

impl View for Server {
    fn get(&self, of: Of, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let (kind, storage) = find(self, of)?;
        decode(&kind, &*storage.get(&storage.key(namespace, name))?)
    }

    fn each(&self, of: Of, namespace: &str, visit: &mut dyn FnMut(&Arc<Value>)) -> u64 {
        let Some((kind, storage)) = find(self, of) else { return 0 };
        let (entries, revision) = storage.newest(&storage.span(namespace));
        for entry in entries {
            if let Some(value) = decode(&kind, &entry) {
                visit(&value);
            }
        }
        revision
    }

    fn revision(&self, of: Of) -> u64 {
        find(self, of).map_or(0, |(_, storage)| storage.revision())
    }

    fn news(&self, of: Of) -> Option<tokio::sync::watch::Receiver<u64>> {
        find(self, of).map(|(_, storage)| storage.subscribe())
    }

    fn changes(&self, of: Of, after: u64) -> Option<(Vec<Changed>, u64)> {
        let (kind, storage) = find(self, of)?;
        let events = storage.changes(after, CHANGES_MAX).ok().filter(|events| events.len() < CHANGES_MAX)?;
        let revision = events.last().map_or(after, |event| event.revision);
        let value = |entry: &Option<Arc<Entry>>| entry.as_ref().and_then(|e| decode(&kind, e));
        let changes = events.iter().map(|event| Changed { old: value(&event.old), new: value(&event.new) });
        Some((changes.collect(), revision))
    }
}

/// Whether there is nothing of the kind in a namespace; decodes nothing.
pub(crate) fn is_empty(server: &Server, of: Of, namespace: &str) -> bool {
    find(server, of).is_none_or(|(_, storage)| storage.newest(&storage.span(namespace)).0.is_empty())
}

/// A request of the server to itself; the answer's code and body.
pub(crate) async fn send(server: &Server, method: Method, path: &str, object: Option<&Value>) -> (StatusCode, Bytes) {
    let mut request = http::Request::new(object.map_or_else(body::empty, |o| body::full(o.to_string())));
    *request.method_mut() = method;
    match path.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return (StatusCode::BAD_REQUEST, Bytes::from(format!("{path}: {error}"))),
    }
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(http::header::CONTENT_TYPE, json);
    request.headers_mut().insert(http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver/sampan"));
    request.extensions_mut().insert(User::new("system:apiserver", &["system:masters", "system:authenticated"]));
    let response = server.handle(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (status, body)
}
