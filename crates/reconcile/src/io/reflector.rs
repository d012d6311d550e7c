//! Keeps a copy of a kind: a list, then a watch that resumes where it ended.

use std::time::Duration;

use bytes::Bytes;
use schema::api::Object;

use super::{Client, Error, Event, EventKind, frames};
use crate::plan;

/// What to copy.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// `""` for all.
    pub namespace: String,
    /// `fieldSelector=spec.nodeName%3Da` and the like.
    pub query: String,
}

/// Where a reflector puts what it learns.
pub trait Sink<K: Object>: Send + Sync {
    /// Reads an object's protobuf, or as much of it as is wanted; [`without_managed_fields`] is all that anybody wants.
    fn decode(&self, raw: &Bytes) -> Option<K> {
        without_managed_fields(raw)
    }
    fn replace(&mut self, items: Vec<K>, revision: u64);
    fn put(&mut self, object: K);
    fn remove(&mut self, object: K);
}

/// Whole but for its managedFields, which only the API server reads: an update without them leaves them as they are.
pub fn without_managed_fields<K: Object>(raw: &Bytes) -> Option<K> {
    let mut object = K::decode(raw).ok()?;
    object.metadata_mut().managed_fields = Vec::new();
    Some(object)
}

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Runs until its task is dropped. A server that is away is tried again, at most every ten seconds;
/// a watch continues after the last revision seen, and only an expired one (410) lists again.
pub async fn run<K: Object>(client: Client, scope: Scope, mut sink: impl Sink<K>) {
    let mut revision: Option<String> = None;
    let mut retry = FIRST_RETRY;
    loop {
        match follow(&client, &scope, &mut sink, &mut revision).await {
            Ok(()) => retry = FIRST_RETRY,
            Err(error) if error.code() == 410 => revision = None,
            Err(error) => {
                tracing::debug!(kind = K::KIND, %error, "a watch ended");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn follow<K: Object>(
    client: &Client,
    scope: &Scope,
    sink: &mut impl Sink<K>,
    revision: &mut Option<String>,
) -> Result<(), Error> {
    let at = match revision.clone() {
        Some(at) => at,
        None => {
            let list = client.list_as(&scope.namespace, &scope.query, |raw| sink.decode(raw)).await?;
            sink.replace(list.items, list.resource_version.parse().unwrap_or(0));
            revision.insert(list.resource_version).clone()
        }
    };
    let path = plan::path(K::GROUP, K::VERSION, K::PLURAL, Some(&scope.namespace), None);
    let mut events = client.watch(path.clone(), &scope.query, &at).await?;
    let ended = |source| Error::Transport { method: "GET", path: path.clone(), source };
    while let Some(Event { kind, raw }) = events.next().await.map_err(ended)? {
        if kind == EventKind::Error {
            return Err(watch_error(&path, &raw));
        }
        let object = sink.decode(&raw).ok_or_else(|| Error::Decode { path: path.clone(), expected: K::KIND })?;
        *revision = Some(object.metadata().resource_version.clone());
        match kind {
            EventKind::Added | EventKind::Modified => sink.put(object),
            EventKind::Deleted => sink.remove(object),
            EventKind::Bookmark | EventKind::Error => {}
        }
    }
    Ok(())
}

fn watch_error(path: &str, raw: &Bytes) -> Error {
    use schema::api::{Message, meta::v1::Status};
    let status = Status::decode(raw).unwrap_or_default();
    Error::Api {
        method: "GET",
        path: path.to_owned(),
        code: u16::try_from(status.code).unwrap_or(500),
        reason: status.reason,
        message: status.message,
        retry_after_seconds: None,
    }
}

/// Reads any kind as `(metadata protobuf)`: for those who follow all kinds, such as the garbage collector.
pub fn metadata_of(raw: &Bytes) -> Option<Bytes> {
    frames::fields(raw).find(|(tag, _)| *tag == 1).map(|(_, metadata)| metadata)
}
