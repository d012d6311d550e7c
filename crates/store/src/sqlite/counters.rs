//! What the store has done, in numbers that tests may only tighten.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub $name: AtomicU64),* }

        /// A snapshot of the counters since the store was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            pub fn stats(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Commits that happened.
    commits,
    /// Commits whose guards did not hold.
    conflicts,
    /// Writes with a revision, volatile ones included.
    writes,
    /// Groups of commits that the writer took at once.
    batches,
    /// Transactions that were made durable: one fsync of the log each.
    syncs,
    /// Pages that went into the log.
    log_pages,
    /// Checkpoint passes: at most two fsyncs each.
    checkpoints,
    /// Reads answered from the file.
    reads,
    /// Commits refused for want of space or permission.
    refused,
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
