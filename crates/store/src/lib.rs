//! Bytes by key and revision: what the API server needs from a datastore, and nothing of Kubernetes.
//!
//! [`Store`] is the contract; [`sqlite`] the embedded implementation. Every write has a revision of its own,
//! revisions never go backwards, and a change stays readable by [`Store::changes`] until compaction passes it.

pub mod retention;
pub mod sqlite;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

/// Position in the history of the whole store; 0 is before the first write.
pub type Revision = u64;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stored value with its history's ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision of the write that created the key.
    pub created: Revision,
    /// Revision of the write that made this value.
    pub modified: Revision,
}

/// A page of a range read, all of it as of `revision`.
#[derive(Clone, Debug)]
pub struct Range {
    pub revision: Revision,
    pub items: Vec<KeyValue>,
    /// More keys follow the last item.
    pub more: bool,
    /// How many keys of the prefix follow the last item.
    pub remaining: u64,
}

/// One write of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub key: Arc<str>,
    /// `None`: the key was deleted at this revision.
    pub value: Option<Bytes>,
    /// Revision that created the key (of the life that this change belongs to).
    pub created: Revision,
    /// What stood there before, with its revision; `None` for a creation.
    pub previous: Option<(Revision, Bytes)>,
}

/// What must hold for a commit to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    pub key: Arc<str>,
    /// The key's `modified`; 0: the key must not exist.
    pub modified: Revision,
}

#[derive(Clone, Debug)]
pub enum Write {
    Put {
        key: Arc<str>,
        value: Bytes,
    },
    /// Deleting what is not there is a no-op without a revision.
    Delete {
        key: Arc<str>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guard did not hold; nothing was written.
    #[error("{key} is at revision {}, not {expected}", .found.as_ref().map_or(0, |kv| kv.modified))]
    Conflict { key: Arc<str>, expected: Revision, found: Option<KeyValue> },
    #[error("revision {asked} is compacted; the oldest available is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
    /// No space or no permission to write, or the disk failed: nothing was published, and reads go on. (After a failed
    /// sync, what was refused may still turn up after a crash, at revisions that nothing else has.)
    #[error("the datastore refuses writes: {0}")]
    ReadOnly(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its server stops.
    #[error("the datastore is closed")]
    Closed,
    #[error("cannot {action}: {source}")]
    Io {
        action: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A datastore. All futures may be dropped at any time; a commit that was sent may still happen.
pub trait Store: Send + Sync + 'static {
    /// The newest revision that every read from now on will include (a linearizable barrier).
    fn revision(&self) -> BoxFuture<'_, Result<Revision>>;

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>>>;

    /// Keys with `prefix`, in byte order, from `start` (inclusive; `""` for the first), as of `at` (`None`: newest).
    /// `limit` 0 means all.
    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
        start: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range>>;

    /// Changes of all keys after `after`, oldest first, at most `limit`; empty if there are none yet.
    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>>;

    /// Applies all writes or none. Returns once they are durable, with the revision of each write
    /// (0 for a deletion of nothing), consecutive in their order.
    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Revision>>>;

    /// Forgets history before `before`: older `at` and `after` answer [`Error::Compacted`].
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>>;

    /// Wakes when the newest revision moves.
    fn watermark(&self) -> tokio::sync::watch::Receiver<Revision>;

    /// Volatile keys (memory first, persisted rarely): their changes are complete only after this revision.
    /// A watch of such keys that resumes from an older one must be told that its history is gone; ask after
    /// reading [`Store::changes`], for this moves forward. 0: nothing was ever lost. All other keys are exact.
    fn volatile_since(&self) -> Revision {
        0
    }

    /// Whether the key's value would be stored in another form today: writing it again is worth a revision, even if
    /// nothing else changes.
    fn is_stale<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }
}
