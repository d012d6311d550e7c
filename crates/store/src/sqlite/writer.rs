//! The one thread that writes. It takes everything that waits in the queue as one batch and one transaction, gives
//! each write its revision, and once the batch is durable publishes it and answers.
//!
//! Guards are checked inside the open transaction, which sees the batch's earlier commits; volatile keys are checked
//! against the batch's own changes first. A batch either happens as a whole or is run again one commit at a time.
//! Compaction and the persisting of volatile keys ride along in small steps.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::ballast::Ballast;
use super::checkpoint::Checkpoints;
use super::counters::add;
use super::open::{Database, Lock};
use super::tables::{self, Head, Meta};
use super::volatile::Entry;
use super::{Shared, io_error};
use crate::{Change, Error, Guard, KeyValue, Result, Revision, Write};

/// A batch ends at this many commits or bytes.
const BATCH_COMMITS: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// Volatile revisions given out per durable reservation.
const RESERVE: Revision = 1 << 16;
/// Steps of compaction and persisting: alone, and riding with a batch.
const STEP: usize = 1024;
const RIDING_STEP: usize = 128;
/// Pages given back to the file system per transaction.
const SHRINK_STEP: u32 = 128;
/// So often per try to find space for the reserve.
const REFUSING_SHRINK_STEPS: u32 = 16;
/// How long a refusing store answers without trying.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Commit {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
    pub reply: oneshot::Sender<Result<Vec<Revision>>>,
    /// Its place in the queue.
    pub _slot: OwnedSemaphorePermit,
}

pub(super) enum Job {
    Commit(Commit),
    Compact { before: Revision, reply: oneshot::Sender<Result<()>> },
    Close { reply: oneshot::Sender<Result<()>> },
}

impl Commit {
    fn bytes(&self) -> usize {
        self.writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value } => key.len() + value.len(),
                Write::Delete { key } => key.len(),
            })
            .sum()
    }
}

pub(super) struct Writer {
    db: Connection,
    shared: Arc<Shared>,
    checkpoints: Checkpoints,
    ballast: Ballast,
    /// Pages in the log after the last commit, as SQLite reports them.
    frames: Arc<std::sync::atomic::AtomicU64>,
    last_frames: u64,
    meta: Meta,
    /// The newest revision given out.
    last: Revision,
    /// Volatile keys whose newest state is not persisted, since when, and about how many bytes were written to them.
    dirty: BTreeSet<Arc<str>>,
    dirty_since: Option<Instant>,
    dirty_bytes: usize,
    /// Those that were dirty when their time came, on their way to the file.
    leaving: BTreeSet<Arc<str>>,
    compaction: Option<Compaction>,
    /// Most of the file is free: pages are given back to the file system while nothing else waits.
    shrinking: bool,
    /// Space or permission was missing: until then, writes that need more are refused without trying.
    refusing: Option<Instant>,
    /// Why, in the words of whoever found out.
    refusal: String,
    /// Since the last transaction the log was moved to make space.
    log_reused: bool,
    /// Dropped last.
    _lock: Lock,
}

struct Compaction {
    until: Revision,
    replies: Vec<oneshot::Sender<Result<()>>>,
}

/// What a batch has done so far, beside the transaction.
#[derive(Default)]
struct Batch {
    answers: Vec<Result<Vec<Revision>>>,
    /// Changes of volatile keys, and their newest state by key.
    volatile: Vec<Change>,
    overlay: HashMap<Arc<str>, Option<Entry>>,
    writes: u64,
    in_transaction: bool,
}

/// Why a batch did not happen.
struct Failure {
    error: rusqlite::Error,
    /// The transaction may have reached the disk although it was not committed.
    at_commit: bool,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self { error, at_commit: false }
    }
}

impl Writer {
    pub fn new(
        mut db: Connection,
        database: &Database,
        lock: Lock,
        shared: Arc<Shared>,
        meta: Meta,
    ) -> rusqlite::Result<Self> {
        let frames = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let seen = frames.clone();
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            seen.store(pages.max(0) as u64, Ordering::Relaxed);
            Ok(())
        }))?;
        let ballast = Ballast::new(super::open::sibling(&database.path, "-ballast"), shared.options.ballast_bytes);
        if !ballast.refill() {
            tracing::warn!(path = %database.path.display(), "no space for the datastore's reserve");
        }
        let last = *shared.watermark.borrow();
        Ok(Self {
            checkpoints: Checkpoints::start(database, shared.counters.clone())?,
            last,
            db,
            shared,
            ballast,
            frames,
            last_frames: 0,
            meta,
            dirty: BTreeSet::new(),
            dirty_since: None,
            dirty_bytes: 0,
            leaving: BTreeSet::new(),
            compaction: None,
            shrinking: false,
            refusing: None,
            refusal: String::new(),
            log_reused: false,
            _lock: lock,
        })
    }

    /// Runs until the store is closed or dropped.
    pub fn run(mut self, queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        let mut closing = None;
        while closing.is_none() {
            let first = if self.compaction.is_some() || self.shrinking {
                match queue.try_recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::TryRecvError::Empty) => None,
                    Err(mpsc::TryRecvError::Disconnected) => break,
                }
            } else {
                match queue.recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::RecvError) => break,
                }
            };
            let mut bytes = 0;
            let mut next = first;
            while let Some(job) = next {
                match job {
                    Job::Commit(commit) => {
                        bytes += commit.bytes();
                        batch.push(commit);
                    }
                    Job::Compact { before, reply } => self.plan_compaction(before, reply),
                    Job::Close { reply } => {
                        closing = Some(reply);
                        break;
                    }
                }
                let full = batch.len() >= BATCH_COMMITS || bytes >= BATCH_BYTES;
                next = if full { None } else { queue.try_recv().ok() };
            }
            if !batch.is_empty() {
                self.take(std::mem::take(&mut batch));
            } else if self.compaction.is_some() {
                self.compact_alone();
            } else if self.shrinking {
                self.shrinking = self.shrink().unwrap_or(false);
            }
            // Nobody waits for this but the next batch.
            self.checkpoints.committed(self.last_frames, &self.db, &self.shared.counters);
        }
        let result = self.persist_all().map_err(|failure| io_error("close the datastore", failure.error));
        if let Err(error) = &result {
            tracing::warn!(%error, "volatile keys were not persisted");
        }
        self.shared.readers.close();
        drop(self);
        if let Some(reply) = closing {
            let _ = reply.send(result);
        }
    }

    fn take(&mut self, commits: Vec<Commit>) {
        add(&self.shared.counters.batches, 1);
        if !self.tries() {
            return commits.into_iter().for_each(|commit| self.take_one(commit, false));
        }
        let mut batch = Batch::default();
        match self.attempt(&commits, &mut batch) {
            Ok(()) => {
                if self.refusing.is_some() && batch.in_transaction {
                    tracing::info!("the datastore accepts writes again");
                    self.refusing = None;
                }
                self.publish(&mut batch);
                for (commit, answer) in commits.into_iter().zip(batch.answers) {
                    self.answer(commit, answer);
                }
            }
            Err(failure) => {
                self.undo(&failure);
                for commit in commits {
                    let tries = self.refusing.is_none();
                    self.take_one(commit, tries);
                }
            }
        }
    }

    /// Whether writes that need space are tried: always, but once refused only now and then, and with the reserve
    /// whole again.
    fn tries(&mut self) -> bool {
        let Some(until) = self.refusing else { return true };
        let now = Instant::now();
        if now < until {
            return false;
        }
        let whole = self.ballast.refill() || (self.give_back() && self.ballast.refill());
        if !whole {
            self.refusing = Some(Instant::now() + PROBE_INTERVAL);
        }
        whole
    }

    /// Returns free pages of the file to the full disk, so that the reserve finds space again. `false`: none.
    fn give_back(&mut self) -> bool {
        let mut steps = 0;
        while steps < REFUSING_SHRINK_STEPS && tables::size(&self.db).is_ok_and(|size| size.free > 0) {
            if self.shrink().is_err() && !self.find_space() {
                break;
            }
            steps += 1;
        }
        // The file gets shorter once the log is moved.
        steps > 0 && self.checkpoints.move_all(&self.db, &self.shared.counters)
    }

    /// Makes space for a little more: the log's own, if all of it can be moved, else a piece of the reserve.
    /// `false`: nothing is left.
    fn find_space(&mut self) -> bool {
        if self.reuse_log() {
            return true;
        }
        // Without space to move the log to, nothing else helps: until it is moved, or nothing is left.
        while self.ballast.release() {
            if self.checkpoints.move_all(&self.db, &self.shared.counters) {
                return true;
            }
        }
        false
    }

    /// Moves the log so that it can start over in its own space; once between two transactions.
    fn reuse_log(&mut self) -> bool {
        !std::mem::replace(&mut self.log_reused, true) && self.checkpoints.move_all(&self.db, &self.shared.counters)
    }

    /// A commit for itself, after its batch has failed or while writes are refused. What makes room is tried anyway,
    /// at the reserve's expense.
    fn take_one(&mut self, commit: Commit, tries: bool) {
        let grows = |write: &Write| match write {
            Write::Put { key, .. } => !self.shared.is_volatile(key),
            Write::Delete { .. } => false,
        };
        let makes_room = !commit.writes.iter().any(grows);
        if !tries && !makes_room {
            add(&self.shared.counters.refused, 1);
            let _ = commit.reply.send(Err(Error::ReadOnly(self.refusal.as_str().into())));
            return;
        }
        loop {
            let mut batch = Batch::default();
            let failure = match self.attempt(std::slice::from_ref(&commit), &mut batch) {
                Ok(()) => {
                    self.publish(&mut batch);
                    let answer = batch.answers.pop().unwrap_or_else(|| Ok(Vec::new()));
                    return self.answer(commit, answer);
                }
                Err(failure) => failure,
            };
            self.undo(&failure);
            if !is_refusal(&failure.error) {
                let _ = commit.reply.send(Err(io_error("commit", failure.error)));
                return;
            }
            let found = if makes_room { self.find_space() } else { self.reuse_log() };
            if found {
                continue;
            }
            add(&self.shared.counters.refused, 1);
            if self.refusing.is_none() {
                tracing::error!(error = %failure.error, "the datastore refuses writes");
            }
            self.refusing = Some(Instant::now() + PROBE_INTERVAL);
            self.refusal = failure.error.to_string();
            let _ = commit.reply.send(Err(Error::ReadOnly(failure.error.into())));
            return;
        }
    }

    /// Shows the readers what is durable.
    fn publish(&mut self, batch: &mut Batch) {
        add(&self.shared.counters.writes, batch.writes);
        if *self.shared.watermark.borrow() == self.last {
            return;
        }
        for change in &batch.volatile {
            self.dirty_bytes += change.value.as_ref().map_or(0, |value| value.len()) + change.key.len();
            self.dirty.insert(change.key.clone());
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        self.shared.publish(std::mem::take(&mut batch.volatile), self.last);
    }

    fn answer(&self, commit: Commit, answer: Result<Vec<Revision>>) {
        let counters = &self.shared.counters;
        add(if answer.is_ok() { &counters.commits } else { &counters.conflicts }, 1);
        let _ = commit.reply.send(answer);
    }

    fn undo(&mut self, failure: &Failure) {
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
        // Should a transaction that failed only at its end turn up after a power cut, then its revisions must not
        // have been given to anything else that was published.
        if !failure.at_commit {
            self.last = *self.shared.watermark.borrow();
        }
    }

    /// Runs the commits in one transaction, if they need one.
    fn attempt(&mut self, commits: &[Commit], batch: &mut Batch) -> Result<(), Failure> {
        for commit in commits {
            let answer = match self.unmet(&commit.guards, batch)? {
                Some(conflict) => Err(conflict),
                None => {
                    let revisions: Result<_, Failure> =
                        commit.writes.iter().map(|write| self.write(write, batch)).collect();
                    Ok(revisions?)
                }
            };
            batch.answers.push(answer);
        }
        let mut meta = self.meta;
        if !batch.volatile.is_empty() && (self.last > meta.ceiling || meta.clean) {
            self.begin(batch)?;
            if meta.clean {
                tables::forget_volatile_log(&self.db)?;
            }
            meta = Meta { ceiling: self.last + RESERVE, clean: false, ..meta };
        }
        if !batch.in_transaction {
            return Ok(());
        }
        if self.leaving.is_empty() && self.due() {
            self.retire();
        }
        let persisted = self.persist(RIDING_STEP)?;
        meta.compacted = match &self.compaction {
            Some(compaction) => tables::compact(&self.db, meta.compacted, compaction.until, RIDING_STEP)?,
            None => meta.compacted,
        };
        self.finish(meta)?;
        self.persisted(persisted);
        Ok(())
    }

    fn begin(&self, batch: &mut Batch) -> rusqlite::Result<()> {
        if !batch.in_transaction {
            self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            batch.in_transaction = true;
        }
        Ok(())
    }

    /// Commits the open transaction with the new `meta`.
    fn finish(&mut self, meta: Meta) -> Result<(), Failure> {
        if meta != self.meta {
            tables::set_meta(&self.db, meta)?;
        }
        self.db.prepare_cached("COMMIT")?.execute([]).map_err(|error| Failure { error, at_commit: true })?;
        self.meta = meta;
        self.log_reused = false;
        let counters = &self.shared.counters;
        let frames = self.frames.load(Ordering::Relaxed);
        add(&counters.syncs, 1);
        add(&counters.log_pages, if frames < self.last_frames { frames } else { frames - self.last_frames });
        self.last_frames = frames;
        self.compacted();
        Ok(())
    }

    fn unmet(&self, guards: &[Guard], batch: &Batch) -> Result<Option<Error>, Failure> {
        for guard in guards {
            let found = self.head(&guard.key, batch)?.filter(|head| head.created > 0);
            if found.map_or(0, |head| head.revision) != guard.modified {
                let (key, expected) = (guard.key.clone(), guard.modified);
                return Ok(Some(Error::Conflict { key, expected, found: self.current(&guard.key, batch)? }));
            }
        }
        Ok(None)
    }

    /// Where a key stands, the batch's earlier writes included.
    fn head(&self, key: &Arc<str>, batch: &Batch) -> rusqlite::Result<Option<Head>> {
        if !self.shared.is_volatile(key) {
            return tables::head(&self.db, key);
        }
        let entry = match batch.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => self.shared.volatile().entries.get(key).cloned(),
        };
        Ok(entry.map(|entry| Head { revision: entry.modified, created: entry.created }))
    }

    fn current(&self, key: &Arc<str>, batch: &Batch) -> rusqlite::Result<Option<KeyValue>> {
        if !self.shared.is_volatile(key) {
            return tables::get(&self.db, key);
        }
        Ok(match batch.overlay.get(key) {
            Some(entry) => entry.as_ref().map(|entry| entry.key_value(key)),
            None => self.shared.volatile().entries.get(key).map(|entry| entry.key_value(key)),
        })
    }

    fn write(&mut self, write: &Write, batch: &mut Batch) -> Result<Revision, Failure> {
        let (key, value) = match write {
            Write::Put { key, value } => (key, Some(value)),
            Write::Delete { key } => (key, None),
        };
        let head = self.head(key, batch)?;
        let alive = head.filter(|head| head.created > 0);
        if value.is_none() && alive.is_none() {
            return Ok(0);
        }
        let at = self.last + 1;
        let created = alive.map_or(at, |head| head.created);
        if self.shared.is_volatile(key) {
            let old = self.current(key, batch)?;
            let entry = value.map(|value| Entry { created, modified: at, value: value.clone() });
            batch.overlay.insert(key.clone(), entry);
            batch.volatile.push(Change {
                revision: at,
                key: key.clone(),
                value: value.cloned(),
                created,
                previous: old.map(|old| (old.modified, old.value)),
            });
        } else {
            self.begin(batch)?;
            tables::write(&self.db, key, at, head, created, value.map(|value| &value[..]))?;
        }
        self.last = at;
        batch.writes += 1;
        Ok(at)
    }

    fn plan_compaction(&mut self, before: Revision, reply: oneshot::Sender<Result<()>>) {
        let newest = *self.shared.watermark.borrow();
        if before > newest {
            let _ = reply.send(Err(Error::Future { asked: before, newest }));
        } else if before <= self.meta.compacted {
            let _ = reply.send(Ok(()));
        } else {
            self.shared.compact_volatile(before);
            let compaction = self.compaction.get_or_insert_with(|| Compaction { until: before, replies: Vec::new() });
            compaction.until = compaction.until.max(before);
            compaction.replies.push(reply);
        }
    }

    /// Answers a compaction that has come to its end.
    fn compacted(&mut self) {
        if self.compaction.as_ref().is_some_and(|compaction| self.meta.compacted >= compaction.until) {
            for reply in self.compaction.take().into_iter().flat_map(|compaction| compaction.replies) {
                let _ = reply.send(Ok(()));
            }
            self.shrinking = tables::size(&self.db).is_ok_and(|size| size.wasteful());
        }
    }

    /// Gives some pages back; whether there is more to do.
    fn shrink(&mut self) -> Result<bool, Failure> {
        let mut batch = Batch::default();
        self.begin(&mut batch)?;
        let result = tables::shrink(&self.db, SHRINK_STEP).map_err(Failure::from).and_then(|()| self.finish(self.meta));
        if let Err(failure) = &result {
            self.undo(failure);
        }
        result.map(|()| tables::size(&self.db).is_ok_and(|size| size.roomy()))
    }

    fn compact_alone(&mut self) {
        while let Some(until) = self.compaction.as_ref().map(|compaction| compaction.until) {
            let mut batch = Batch::default();
            let mut step = || -> Result<(), Failure> {
                self.begin(&mut batch)?;
                let compacted = tables::compact(&self.db, self.meta.compacted, until, STEP)?;
                self.finish(Meta { compacted, ..self.meta })
            };
            let Err(failure) = step() else { return };
            self.undo(&failure);
            if is_refusal(&failure.error) && self.find_space() {
                continue;
            }
            if let Some(compaction) = self.compaction.take() {
                let text = failure.error.to_string();
                for reply in compaction.replies {
                    let _ = reply.send(Err(Error::Io { action: "compact".into(), source: text.clone().into() }));
                }
            }
        }
    }

    /// Whether volatile keys should ride with the next durable commit. An idle store never writes for their sake.
    fn due(&self) -> bool {
        self.dirty_since.is_some_and(|since| since.elapsed() >= self.shared.options.volatile_interval)
            || self.dirty_bytes >= self.shared.options.volatile_dirty_bytes
    }

    fn retire(&mut self) {
        self.leaving.append(&mut self.dirty);
        self.dirty_since = None;
        self.dirty_bytes = 0;
    }

    /// Writes the newest state of some keys that are leaving; says which.
    fn persist(&self, limit: usize) -> rusqlite::Result<Vec<Arc<str>>> {
        let keys: Vec<Arc<str>> = self.leaving.iter().take(limit).cloned().collect();
        let volatile = self.shared.volatile();
        for key in &keys {
            tables::set_volatile(&self.db, key, volatile.entries.get(key))?;
        }
        Ok(keys)
    }

    fn persisted(&mut self, keys: Vec<Arc<str>>) {
        for key in &keys {
            self.leaving.remove(key);
        }
    }

    /// At a clean end: everything volatile with its recent history, and the exact revision.
    fn persist_all(&mut self) -> Result<(), Failure> {
        if self.meta.clean {
            return Ok(());
        }
        let mut batch = Batch::default();
        self.begin(&mut batch)?;
        self.retire();
        let keys = self.persist(usize::MAX)?;
        tables::forget_volatile_log(&self.db)?;
        let volatile_since = {
            let volatile = self.shared.volatile();
            for change in &volatile.log {
                tables::log_volatile(&self.db, change)?;
            }
            volatile.since
        };
        self.finish(Meta { ceiling: self.last, clean: true, volatile_since, ..self.meta })?;
        self.persisted(keys);
        Ok(())
    }
}

/// Whether it is the disk that does not want to be written, as opposed to a broken database.
fn is_refusal(error: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
    matches!(
        error.sqlite_error_code(),
        Some(DiskFull | SystemIoFailure | ReadOnly | CannotOpen | PermissionDenied | DatabaseBusy | DatabaseLocked)
    )
}
