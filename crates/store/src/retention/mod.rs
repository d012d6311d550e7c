//! How long history stays: turns "five minutes of changes" into the revision to compact to.
//!
//! Pure: the caller says what time it is, and calls only when something was written.

use std::{collections::VecDeque, time::Duration};

use crate::Revision;

/// Remembers which revision was newest when.
#[derive(Clone, Debug)]
pub struct Retention {
    window: Duration,
    /// At most this many changes stay, however young.
    limit: u64,
    /// Oldest first, strictly increasing in both.
    marks: VecDeque<(Duration, Revision)>,
}

/// Marks per window: compaction is this fine.
const MARKS: u32 = 10;

impl Retention {
    pub fn new(window: Duration, limit: u64) -> Self {
        Self { window, limit, marks: VecDeque::new() }
    }

    /// At `now` (of any monotonic clock) the newest revision is `newest`. Returns what [`crate::Store::compact`]
    /// should be called with, if anything.
    pub fn observe(&mut self, now: Duration, newest: Revision) -> Option<Revision> {
        let spaced = self
            .marks
            .back()
            .is_none_or(|&(at, revision)| revision < newest && now.saturating_sub(at) >= self.window / MARKS);
        if spaced {
            self.marks.push_back((now, newest));
        }
        let mut before = newest.saturating_sub(self.limit);
        while let Some(&(at, revision)) = self.marks.front()
            && now.saturating_sub(at) >= self.window
        {
            before = before.max(revision);
            self.marks.pop_front();
        }
        (before > 0).then_some(before)
    }
}

#[cfg(test)]
mod tests;
