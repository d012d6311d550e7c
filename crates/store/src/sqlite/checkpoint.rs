//! Moving committed pages from the log into the database, apart from commits.
//!
//! A thread with a connection of its own does the long passes (passive: neither readers nor the writer wait). The log
//! starts over only when a pass has reached its very end while nobody writes, which under load never happens by
//! itself; so once the log is long and a pass has left only a short tail, the writer moves that tail between two
//! batches. This bounds the log, and what a commit ever waits for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::{counters::Counters, open::Database};

/// A pass starts at this many frames not yet moved (6 MiB): often enough for a short recovery, and rarely enough that
/// few commits share the disk with one.
const PASS_FRAMES: u64 = 1536;
/// From here on the log should start over (12 MiB).
const LONG_FRAMES: u64 = 3072;
/// What the writer moves by itself for that, at most.
const TAIL_FRAMES: u64 = 256;
/// Longer than this (24 MiB) it gets only by a batch, or while a reader stays in an old snapshot: the writer waits.
const MOST_FRAMES: u64 = 6144;
const RUNNING: u64 = u64::MAX;

pub(super) struct Checkpoints {
    wake: Option<mpsc::SyncSender<()>>,
    /// How many frames of the log the last pass had moved, or [`RUNNING`].
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    last_frames: u64,
    /// The length of the log at which the writer tries again to reach its end.
    next_try: u64,
}

impl Checkpoints {
    pub fn start(database: &Database, counters: Arc<Counters>) -> rusqlite::Result<Self> {
        let connection = database.checkpointer()?;
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let done = Arc::new(AtomicU64::new(0));
        let moved = done.clone();
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || {
                while woken.recv().is_ok() {
                    moved.store(pass(&connection, &counters).unwrap_or(0), Ordering::Release);
                }
            })
            .ok();
        Ok(Self { wake: thread.is_some().then_some(wake), done, thread, last_frames: 0, next_try: 0 })
    }

    /// To be called by the writer after a commit that left `frames` in the log.
    pub fn committed(&mut self, frames: u64, writer: &Connection, counters: &Counters) {
        let started_over = frames < self.last_frames;
        self.last_frames = frames;
        if started_over {
            self.next_try = 0;
        }
        if frames >= MOST_FRAMES && frames >= self.next_try {
            self.next_try = frames + TAIL_FRAMES;
            self.move_all(writer, counters);
            return;
        }
        let done = self.done.load(Ordering::Acquire);
        if done == RUNNING {
            return;
        }
        let done = if started_over || done > frames { 0 } else { done };
        let tail = frames - done;
        let long = frames >= LONG_FRAMES;
        if long && tail < TAIL_FRAMES {
            // A reader in an old snapshot may hold it up.
            if tail > 0 && frames >= self.next_try {
                self.next_try = frames + TAIL_FRAMES;
                self.done.store(pass(writer, counters).unwrap_or(0), Ordering::Release);
            }
        } else if tail >= PASS_FRAMES || long {
            self.done.store(RUNNING, Ordering::Release);
            if self.wake.as_ref().is_none_or(|wake| wake.try_send(()).is_err()) {
                self.done.store(pass(writer, counters).unwrap_or(0), Ordering::Release);
            }
        } else if started_over {
            self.done.store(0, Ordering::Release);
        }
    }

    /// Moves everything, so that the log's own space can be used again: for the writer, when the disk is full.
    /// `false`: there was no space to move it to.
    pub fn move_all(&mut self, writer: &Connection, counters: &Counters) -> bool {
        // The thread's pass fails as fast as ours would.
        while self.done.load(Ordering::Acquire) == RUNNING {
            std::thread::sleep(Duration::from_millis(1));
        }
        let moved = pass(writer, counters);
        self.done.store(moved.unwrap_or(0), Ordering::Release);
        moved.is_some()
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One passive checkpoint; returns how many frames of the log are moved. Errors (a full disk) leave the log longer,
/// which is all they do: the next pass tries again.
fn pass(connection: &Connection, counters: &Counters) -> Option<u64> {
    let result = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2));
    match result {
        Ok(moved) => {
            counters.checkpoints.fetch_add(1, Ordering::Relaxed);
            Some(moved.max(0) as u64)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot checkpoint the datastore");
            None
        }
    }
}
