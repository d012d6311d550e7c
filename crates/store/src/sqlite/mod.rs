//! The embedded datastore: SQLite with one writer.
//!
//! [`Sqlite::open`] starts two threads: the writer (writer.rs: group commit, revisions, compaction) and the
//! checkpointer (checkpoint.rs). Reads run in snapshots on a few connections (readers.rs, tables.rs). Volatile keys
//! live in memory (volatile.rs). An acknowledged write of any other key has been synced to disk.

mod backup;
mod ballast;
mod checkpoint;
mod counters;
mod open;
mod readers;
mod tables;
mod volatile;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

pub use self::backup::{BackupError, restore};
pub use self::counters::Stats;
use self::counters::{Counters, add};
use self::open::Database;
pub use self::open::{OpenError, SCHEMA_VERSION};
use self::readers::Readers;
use self::volatile::{Page, Volatile};
use self::writer::{Commit, Job, Writer};
use crate::{BoxFuture, Change, Error, Guard, KeyValue, Range, Result, Revision, Store, Write};

/// Commits that may wait in the queue; more wait for a place.
const QUEUE_COMMITS: usize = 4096;

#[derive(Clone, Debug)]
pub struct Options {
    /// Prefixes of the keys that are kept in memory and persisted rarely.
    pub volatile: Vec<String>,
    /// Age from which unpersisted volatile keys ride with the next durable commit. Nothing is ever written for their
    /// sake alone, except when the store is closed.
    pub volatile_interval: Duration,
    /// Bytes written to volatile keys from which they ride without waiting for their time.
    pub volatile_dirty_bytes: usize,
    /// Bytes of history kept for watches of volatile keys.
    pub volatile_log_bytes: usize,
    /// Space kept back for deletions on a full disk; 0 for none.
    pub ballast_bytes: u64,
    /// Read-only connections at most.
    pub readers: usize,
    /// The SQLite VFS to use instead of the default one.
    pub vfs: Option<String>,
    #[doc(hidden)]
    pub synchronous: Synchronous,
}

/// What a commit waits for. The crash suite proves itself with the one that loses writes.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    #[default]
    Full,
    NormalForTests,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            volatile: vec!["/registry/events/".into(), "/registry/leases/kube-node-lease/".into()],
            volatile_interval: Duration::from_secs(600),
            volatile_dirty_bytes: 16 << 20,
            volatile_log_bytes: 2 << 20,
            ballast_bytes: 4 << 20,
            readers: 4,
            vfs: None,
            synchronous: Synchronous::Full,
        }
    }
}

/// The embedded [`Store`]. Dropping it closes it and waits for that; [`Sqlite::close`] also tells how it went.
pub struct Sqlite {
    shared: Arc<Shared>,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    places: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
struct Shared {
    options: Options,
    volatile: RwLock<Volatile>,
    /// Moves inside `volatile`'s write lock.
    watermark: watch::Sender<Revision>,
    counters: Arc<Counters>,
    readers: Arc<Readers>,
}

impl Shared {
    fn is_volatile(&self, key: &str) -> bool {
        self.options.volatile.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn volatile(&self) -> RwLockReadGuard<'_, Volatile> {
        self.volatile.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, changes: Vec<Change>, newest: Revision) {
        let mut volatile = self.volatile.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            volatile.apply(change);
        }
        self.watermark.send_replace(newest);
    }

    fn compact_volatile(&self, before: Revision) {
        self.volatile.write().unwrap_or_else(PoisonError::into_inner).compact(before);
    }
}

impl Sqlite {
    /// Opens the database at `path`, or creates it with mode 0600 in a directory that exists. Beside it stand
    /// SQLite's `-wal` and `-shm`, `-lock` and `-ballast`. One process at a time has it open.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let sql = |action| move |source| OpenError::Sql { action, path: path.to_owned(), source };
        let (database, lock, connection) = Database::open(path, &options)?;
        let state = |action| tables::meta(&connection).map_err(sql(action));
        let meta = state("read the state")?;
        let newest = tables::newest(&connection).map_err(sql("read the newest revision"))?;
        let newest = newest.max(meta.ceiling).max(meta.compacted);
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| tables::settle(&connection, newest, &options.volatile))
            .and_then(|settled| connection.execute_batch(if settled { "COMMIT" } else { "ROLLBACK" }))
            .map_err(sql("move the volatile keys"))?;
        let meta = state("read the state again")?;

        let mut volatile = Volatile::new(options.volatile.clone(), options.volatile_log_bytes);
        for item in tables::volatile(&connection).map_err(sql("read the volatile keys"))? {
            let entry = volatile::Entry { created: item.created, modified: item.modified, value: item.value };
            volatile.entries.insert(item.key, entry);
        }
        volatile.since = if meta.clean { meta.volatile_since } else { newest };
        if meta.clean {
            for change in tables::volatile_log(&connection).map_err(sql("read the volatile keys' history"))? {
                volatile.restore(change);
            }
            // The history may have been compacted further than these.
            volatile.compact(meta.compacted);
        }

        let shared = Arc::new(Shared {
            volatile: RwLock::new(volatile),
            watermark: watch::Sender::new(newest),
            counters: Arc::default(),
            readers: Arc::new(Readers::new(database.clone(), options.readers)),
            options,
        });
        let writer =
            Writer::new(connection, &database, lock, shared.clone(), meta).map_err(sql("prepare the writer"))?;
        let (queue, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(|source| OpenError::File { action: "start the writer of", path: path.to_owned(), source })?;
        Ok(Self {
            shared,
            queue: Mutex::new(Some(queue)),
            places: Arc::new(Semaphore::new(QUEUE_COMMITS)),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// What was done since it was opened.
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// Finishes what is queued, persists the volatile keys with their recent history and lets go of the files.
    /// Everything that is asked afterwards fails. Not needed for any other key's sake.
    pub async fn close(&self) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.send(Job::Close { reply })?;
        lock(&self.queue).take();
        done.await.map_err(|_| Error::Closed)?
    }

    /// What SQLite finds wrong with the file; empty if nothing. Reads all of it.
    pub async fn check(&self) -> Result<Vec<String>> {
        self.shared
            .readers
            .snapshot("check the datastore", |db| {
                tables::problems(db).map_err(|error| io_error("check the datastore", error))
            })
            .await
    }

    /// Writes a copy of the durable keys as of now to `to`, a new file with mode 0600. Writes go on meanwhile.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<(), BackupError> {
        self.shared.readers.backup(to.as_ref().to_owned()).await
    }

    fn send(&self, job: Job) -> Result<()> {
        let sent = lock(&self.queue).as_ref().is_some_and(|queue| queue.send(job).is_ok());
        if sent { Ok(()) } else { Err(Error::Closed) }
    }

    async fn newest(&self) -> Revision {
        *self.shared.watermark.borrow()
    }

    async fn range_at(&self, prefix: &str, at: Revision, start: &str, limit: usize) -> Result<Range> {
        let (some_volatile, others) = self.shared.volatile().covers(prefix);
        let volatile =
            if some_volatile { self.shared.volatile().range(prefix, at, start, limit)? } else { Page::default() };
        let (items, remaining) = if others {
            add(&self.shared.counters.reads, 1);
            let (prefix, start) = (prefix.to_owned(), start.to_owned());
            self.shared
                .readers
                .snapshot("read a range", move |db| {
                    let failed = |error| io_error("read a range", error);
                    available(db, at)?;
                    tables::range(db, &prefix, at, &start, limit).map_err(failed)
                })
                .await?
        } else {
            Default::default()
        };
        Ok(merge(Page { items, remaining }, volatile, at, limit))
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        lock(&self.queue).take();
        if let Some(writer) = lock(&self.writer).take() {
            let _ = writer.join();
        }
    }
}

impl Store for Sqlite {
    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async { Ok(self.newest().await) })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>>> {
        Box::pin(async move {
            if self.shared.is_volatile(key) {
                let volatile = self.shared.volatile();
                return Ok(volatile.entries.get_key_value(key).map(|(key, entry)| entry.key_value(key)));
            }
            add(&self.shared.counters.reads, 1);
            let key = key.to_owned();
            let found = self
                .shared
                .readers
                .snapshot("read a key", move |db| tables::get(db, &key).map_err(|error| io_error("read a key", error)))
                .await?;
            // The file may be a moment ahead of what is published; nobody may see that.
            let modified = found.as_ref().map_or(0, |item| item.modified);
            let mut watermark = self.watermark();
            watermark.wait_for(|newest| *newest >= modified).await.map_err(|_| Error::Closed)?;
            Ok(found)
        })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
        start: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range>> {
        Box::pin(async move {
            let newest = self.newest().await;
            match at {
                Some(asked) if asked > newest => Err(Error::Future { asked, newest }),
                Some(at) => self.range_at(prefix, at, start, limit).await,
                // Compaction may pass the newest revision between asking for it and reading there.
                None => loop {
                    let at = self.newest().await;
                    match self.range_at(prefix, at, start, limit).await {
                        Err(Error::Compacted { .. }) if self.newest().await > at => {}
                        result => return result,
                    }
                },
            }
        })
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        Box::pin(async move {
            let newest = self.newest().await;
            if after > newest {
                return Err(Error::Future { asked: after, newest });
            }
            if after == newest {
                return Ok(Vec::new());
            }
            let volatile = self.shared.volatile().changes(after, newest, limit);
            add(&self.shared.counters.reads, 1);
            let mut changes = self
                .shared
                .readers
                .snapshot("read changes", move |db| {
                    available(db, after)?;
                    tables::changes(db, after, newest, limit).map_err(|error| io_error("read changes", error))
                })
                .await?;
            if !volatile.is_empty() {
                changes.extend(volatile);
                changes.sort_unstable_by_key(|change| change.revision);
                changes.truncate(limit);
            }
            Ok(changes)
        })
    }

    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Revision>>> {
        Box::pin(async move {
            let _slot = self.places.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
            let (reply, answer) = oneshot::channel();
            self.send(Job::Commit(Commit { guards, writes, reply, _slot }))?;
            answer.await.map_err(|_| Error::Closed)?
        })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.send(Job::Compact { before, reply })?;
            answer.await.map_err(|_| Error::Closed)?
        })
    }

    fn watermark(&self) -> watch::Receiver<Revision> {
        self.shared.watermark.subscribe()
    }

    fn volatile_since(&self) -> Revision {
        self.shared.volatile().since
    }
}

/// Two sorted pages as one.
fn merge(mut a: Page, b: Page, revision: Revision, limit: usize) -> Range {
    let total = (a.items.len() + b.items.len()) as u64 + a.remaining + b.remaining;
    if !b.items.is_empty() {
        a.items.extend(b.items);
        a.items.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if limit > 0 {
        a.items.truncate(limit);
    }
    let remaining = total - a.items.len() as u64;
    Range { revision, items: a.items, more: remaining > 0, remaining }
}

/// Whether history reaches back to `asked` in this snapshot.
fn available(db: &rusqlite::Connection, asked: Revision) -> Result<()> {
    let oldest = tables::meta(db).map_err(|error| io_error("read the state", error))?.compacted;
    if asked < oldest { Err(Error::Compacted { asked, oldest }) } else { Ok(()) }
}

fn io_error(action: &str, error: rusqlite::Error) -> Error {
    Error::Io { action: action.into(), source: error.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
