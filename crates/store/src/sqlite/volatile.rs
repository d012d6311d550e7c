//! Volatile keys: their newest values and a bounded log of changes, in memory, ordered by the store's revisions.
//!
//! The writer alone changes it, a published batch at a time; readers see it under a lock together with the watermark.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::{Change, Error, KeyValue, Result, Revision};

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub created: Revision,
    pub modified: Revision,
    pub value: Bytes,
}

impl Entry {
    pub fn key_value(&self, key: &Arc<str>) -> KeyValue {
        KeyValue { key: key.clone(), value: self.value.clone(), created: self.created, modified: self.modified }
    }
}

/// A page, and how many keys follow it.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub items: Vec<KeyValue>,
    pub remaining: u64,
}

pub(super) struct Volatile {
    prefixes: Vec<String>,
    pub entries: BTreeMap<Arc<str>, Entry>,
    pub log: VecDeque<Change>,
    log_bytes: usize,
    log_limit_bytes: usize,
    /// The log is complete after this.
    pub since: Revision,
}

impl Volatile {
    pub fn new(prefixes: Vec<String>, log_limit_bytes: usize) -> Self {
        Self { prefixes, entries: BTreeMap::new(), log: VecDeque::new(), log_bytes: 0, log_limit_bytes, since: 0 }
    }

    pub fn contains(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Whether a range of `prefix` has volatile keys, and whether it has others.
    pub fn covers(&self, prefix: &str) -> (bool, bool) {
        let all = self.contains(prefix);
        (all || self.prefixes.iter().any(|volatile| volatile.starts_with(prefix)), !all)
    }

    /// Takes over a change that is ordered after all others.
    pub fn apply(&mut self, change: Change) {
        match &change.value {
            Some(value) => {
                let entry = Entry { created: change.created, modified: change.revision, value: value.clone() };
                self.entries.insert(change.key.clone(), entry);
            }
            None => {
                self.entries.remove(&change.key);
            }
        }
        self.log_bytes += size(&change);
        self.log.push_back(change);
        while self.log_bytes > self.log_limit_bytes {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_bytes -= size(&oldest);
            self.since = oldest.revision;
        }
    }

    /// Puts back a change that was persisted with its log.
    pub fn restore(&mut self, change: Change) {
        self.log_bytes += size(&change);
        self.log.push_back(change);
    }

    pub fn compact(&mut self, before: Revision) {
        while self.log.front().is_some_and(|oldest| oldest.revision <= before) {
            self.log_bytes -= self.log.pop_front().as_ref().map_or(0, size);
        }
        self.since = self.since.max(before);
    }

    pub fn changes(&self, after: Revision, until: Revision, limit: usize) -> Vec<Change> {
        let from = self.log.partition_point(|change| change.revision <= after);
        self.log.range(from..).take_while(|change| change.revision <= until).take(limit).cloned().collect()
    }

    /// Keys from `start` with `prefix` as of `at`: the newest state with the log's later changes undone.
    pub fn range(&self, prefix: &str, at: Revision, start: &str, limit: usize) -> Result<Page> {
        if at < self.since {
            return Err(Error::Compacted { asked: at, oldest: self.since });
        }
        let first = prefix.max(start);
        let from = self.log.partition_point(|change| change.revision <= at);
        let mut undone: BTreeMap<&Arc<str>, Option<KeyValue>> = BTreeMap::new();
        for change in self.log.range(from..) {
            if &*change.key >= first && change.key.starts_with(prefix) {
                undone.entry(&change.key).or_insert_with(|| before(change));
            }
        }
        let bounds = (std::ops::Bound::Included(first), std::ops::Bound::Unbounded);
        let mut newest = self
            .entries
            .range::<str, _>(bounds)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| !undone.contains_key(key))
            .peekable();
        let mut older = undone.values().flatten().peekable();
        let mut page = Page::default();
        loop {
            let take_older = match (newest.peek(), older.peek()) {
                (None, None) => return Ok(page),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((key, _)), Some(old)) => old.key < **key,
            };
            let room = limit == 0 || page.items.len() < limit;
            if take_older {
                page.items.extend(older.next().filter(|_| room).cloned());
            } else {
                page.items.extend(newest.next().filter(|_| room).map(|(key, entry)| entry.key_value(key)));
            }
            page.remaining += u64::from(!room);
        }
    }
}

/// The state that `change` replaced.
fn before(change: &Change) -> Option<KeyValue> {
    let (modified, value) = change.previous.clone()?;
    // A previous value is of the same life: a deletion ends it, a creation has none.
    Some(KeyValue { key: change.key.clone(), value, created: change.created, modified })
}

/// What a logged change keeps alive, roughly.
fn size(change: &Change) -> usize {
    128 + change.key.len()
        + change.value.as_ref().map_or(0, Bytes::len)
        + change.previous.as_ref().map_or(0, |(_, value)| value.len())
}
