//! From commit to cache: every revision is published once, in order, whoever wrote it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::{Guard, Revision, Store, Write};
use tokio::sync::watch;

use crate::{Server, cache::Entry, kind::Registry};

/// What a commit hands over.
struct Pending {
    key: Arc<str>,
    new: Option<Entry>,
}

/// Publishes changes in revision order.
pub struct Publisher {
    state: Mutex<State>,
    applied: watch::Sender<Revision>,
}

struct State {
    applied: Revision,
    waiting: BTreeMap<Revision, Pending>,
}

impl Publisher {
    pub fn new(at: Revision) -> Self {
        Publisher { state: Mutex::new(State { applied: at, waiting: BTreeMap::new() }), applied: watch::channel(at).0 }
    }

    /// The revision up to which every cache is complete.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// Waits until the caches include a revision.
    pub async fn reach(&self, revision: Revision) {
        if self.applied() < revision {
            let _ = self.applied.subscribe().wait_for(|&at| at >= revision).await;
        }
    }

    fn publish(&self, registry: &Registry, revision: Revision, key: Arc<str>, new: Option<Entry>) {
        self.advance(registry, [(revision, Pending { key, new })], 0);
    }

    /// Publishes all that is known without a gap, and all up to `complete`, below which nothing is missing: what has no
    /// change there was never written (a disk that fails at the end of a transaction costs revisions).
    fn advance(&self, registry: &Registry, changes: impl IntoIterator<Item = (Revision, Pending)>, complete: Revision) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let before = state.applied;
        state.waiting.extend(changes.into_iter().filter(|(revision, _)| *revision > before));
        while let Some(first) = state.waiting.first_entry() {
            if *first.key() > complete.max(state.applied + 1) {
                break;
            }
            let (revision, Pending { key, new }) = first.remove_entry();
            if let Some(storage) = registry.storage_of_key(&key) {
                storage.apply(&key, revision, new);
            }
            state.applied = revision;
        }
        state.applied = state.applied.max(complete);
        if state.applied != before {
            self.applied.send_replace(state.applied);
        }
    }
}

/// How long a commit of our own may take from the store's watermark to its publication before the log is read instead.
const OWN_COMMIT_GRACE: Duration = Duration::from_millis(3);
const CHANGES_PER_READ: usize = 1000;

impl Server {
    /// Commits and publishes; returns once the caches show it. Goes on to the end if the caller is dropped.
    pub(crate) async fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> store::Result<Vec<Revision>> {
        let server = self.clone();
        let task = tokio::spawn(async move {
            let revisions = server.inner.config.store.commit(guards, writes.clone()).await?;
            let registry = server.registry();
            for (write, &revision) in writes.into_iter().zip(&revisions) {
                if revision == 0 {
                    continue;
                }
                let (key, new) = match write {
                    Write::Put { key, value } => (key.clone(), Some(Entry::new(key, revision, &value))),
                    Write::Delete { key } => (key, None),
                };
                server.inner.publisher.publish(&registry, revision, key, new);
            }
            if let Some(&last) = revisions.iter().max() {
                server.inner.publisher.reach(last).await;
            }
            Ok(revisions)
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(store::Error::Closed),
            Err(error) => Err(store::Error::Io { action: "commit".into(), source: Box::new(error) }),
        }
    }

    /// Publishes what others write to the store, until the store ends.
    pub(crate) async fn follow(self) {
        let mut watermark = self.inner.config.store.watermark();
        loop {
            let target = *watermark.borrow_and_update();
            let publisher = &self.inner.publisher;
            if publisher.applied() < target
                && tokio::time::timeout(OWN_COMMIT_GRACE, publisher.reach(target)).await.is_err()
            {
                self.catch_up(target).await;
            }
            if watermark.changed().await.is_err() {
                return;
            }
        }
    }

    async fn catch_up(&self, target: Revision) {
        let publisher = &self.inner.publisher;
        while publisher.applied() < target {
            match self.inner.config.store.changes(publisher.applied(), CHANGES_PER_READ).await {
                Ok(changes) => {
                    let last = changes.last().map_or(0, |change| change.revision);
                    let complete = if changes.len() < CHANGES_PER_READ { target.max(last) } else { last };
                    let changes = changes.into_iter().map(|change| {
                        let new = change.value.map(|v| Entry::new(change.key.clone(), change.revision, &v));
                        (change.revision, Pending { key: change.key, new })
                    });
                    publisher.advance(&self.registry(), changes, complete);
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read changes of the datastore");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Reads everything under a prefix.
pub(crate) async fn read_all(
    store: &dyn Store,
    prefix: &str,
    at: Option<Revision>,
) -> store::Result<(Vec<Entry>, Revision)> {
    let range = store.range(&format!("{prefix}/"), at, "", 0).await?;
    let entries = range.items.into_iter().map(|kv| Entry::new(kv.key, kv.modified, &kv.value)).collect();
    Ok((entries, range.revision))
}

#[cfg(test)]
mod tests;
