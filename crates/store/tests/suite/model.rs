//! The reference: the whole history in a vector, every answer computed from it in the plainest way.

use std::{collections::BTreeMap, sync::Arc};

use store::{Change, Error, Guard, KeyValue, Range, Result, Revision, Write};

#[derive(Default)]
pub struct Model {
    pub history: Vec<Change>,
    pub compacted: Revision,
}

impl Model {
    pub fn newest(&self) -> Revision {
        self.history.last().map_or(0, |change| change.revision)
    }

    pub fn state(&self, at: Revision) -> BTreeMap<Arc<str>, KeyValue> {
        let mut state = BTreeMap::new();
        for change in self.history.iter().take_while(|change| change.revision <= at) {
            match &change.value {
                Some(value) => {
                    let item = KeyValue {
                        key: change.key.clone(),
                        value: value.clone(),
                        created: change.created,
                        modified: change.revision,
                    };
                    state.insert(change.key.clone(), item);
                }
                None => {
                    state.remove(&change.key);
                }
            }
        }
        state
    }

    /// Applies a commit whose revisions the store chose, and returns what it should have answered.
    pub fn commit(&mut self, guards: &[Guard], writes: &[Write]) -> Result<Vec<Revision>> {
        let mut state = self.state(Revision::MAX);
        for guard in guards {
            let found = state.get(&guard.key).cloned();
            if found.as_ref().map_or(0, |item| item.modified) != guard.modified {
                return Err(Error::Conflict { key: guard.key.clone(), expected: guard.modified, found });
            }
        }
        let mut revisions = Vec::new();
        for write in writes {
            let (key, value) = match write {
                Write::Put { key, value } => (key, Some(value.clone())),
                Write::Delete { key } => (key, None),
            };
            let old = state.remove(key);
            if value.is_none() && old.is_none() {
                revisions.push(0);
                continue;
            }
            let revision = self.newest() + 1;
            let created = old.as_ref().map_or(revision, |old| old.created);
            if let Some(value) = value.clone() {
                state.insert(key.clone(), KeyValue { key: key.clone(), value, created, modified: revision });
            }
            let previous = old.map(|old| (old.modified, old.value));
            self.history.push(Change { revision, key: key.clone(), value, created, previous });
            revisions.push(revision);
        }
        Ok(revisions)
    }

    pub fn range(&self, prefix: &str, at: Revision, start: &str, limit: usize) -> Result<Range> {
        if at < self.compacted {
            return Err(Error::Compacted { asked: at, oldest: self.compacted });
        }
        let matching: Vec<KeyValue> =
            self.state(at).into_values().filter(|item| item.key.starts_with(prefix) && &*item.key >= start).collect();
        let taken = if limit == 0 { matching.len() } else { limit.min(matching.len()) };
        let remaining = (matching.len() - taken) as u64;
        let items = matching.into_iter().take(taken).collect();
        Ok(Range { revision: at, items, more: remaining > 0, remaining })
    }

    pub fn changes(&self, after: Revision, limit: usize) -> Result<Vec<Change>> {
        if after < self.compacted {
            return Err(Error::Compacted { asked: after, oldest: self.compacted });
        }
        Ok(self.history.iter().filter(|change| change.revision > after).take(limit).cloned().collect())
    }
}
