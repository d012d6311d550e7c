//! Writers whose every commit follows from a seed, a task and a number, and what must be left of them after a crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use store::{KeyValue, Revision, Store, Write};

use crate::common::{Random, delete, put};

pub const TASKS: u64 = 6;

/// What was acknowledged: per task its newest commit, and the newest revision of all.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    pub commits: [u64; TASKS as usize],
    /// More than these cannot have been sent; 0 if that is not known.
    pub at_most: [u64; TASKS as usize],
    pub newest: Revision,
    /// Revision and key of some acknowledged writes.
    pub writes: Vec<(Revision, String)>,
    /// The newest acknowledged write of a volatile key.
    pub newest_volatile: Revision,
}

/// The `n`th commit of a task; from 1.
pub fn writes(seed: u64, task: u64, n: u64) -> Vec<Write> {
    let mut random = Random(seed ^ (task << 48) ^ n);
    let mut writes = vec![put(&format!("/registry/last/{task}"), n.to_string())];
    for _ in 0..random.below(4) {
        let key = format!("/registry/w/{task}/{}", random.below(8));
        let len = [0, 20, 900, 5000][random.below(4) as usize];
        writes.push(if random.one_in(4) { delete(&key) } else { put(&key, random.bytes(len)) });
    }
    writes
}

/// Writes until told to stop or refused; `acknowledge` hears of each commit.
pub async fn run(
    store: &dyn Store,
    seed: u64,
    task: u64,
    from: u64,
    acknowledge: impl Fn(u64, &[(Revision, String)], Revision),
) {
    for n in from.. {
        let writes = writes(seed, task, n);
        let keys: Vec<String> = writes.iter().map(key).collect();
        let Ok(revisions) = store.commit(vec![], writes).await else { return };
        let acknowledged: Vec<_> = revisions.into_iter().zip(keys).filter(|(revision, _)| *revision > 0).collect();
        acknowledge(n, &acknowledged, 0);
        if n % 3 == task % 3 {
            let event = put(&format!("/registry/events/{task}"), n.to_string());
            let Ok(revisions) = store.commit(vec![], vec![event]).await else { return };
            acknowledge(n, &[], revisions[0]);
        }
        if n % 64 == 0 {
            let newest = *store.watermark().borrow();
            let _ = store.compact(newest.saturating_sub(300)).await;
        }
    }
}

fn key(write: &Write) -> String {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key.to_string(),
    }
}

impl Acknowledged {
    pub fn note(&mut self, task: u64, n: u64, writes: &[(Revision, String)], volatile: Revision) {
        self.commits[task as usize] = n;
        self.writes.extend_from_slice(writes);
        self.newest_volatile = self.newest_volatile.max(volatile);
        let newest = writes.iter().map(|(revision, _)| *revision).max().unwrap_or(0).max(volatile);
        self.newest = self.newest.max(newest);
    }
}

/// Whether a reopened store holds every acknowledged write, nothing out of order and nothing twice; returns the newest
/// commit of each task.
pub async fn verify(
    store: &dyn Store,
    seed: u64,
    acknowledged: &Acknowledged,
) -> Result<[u64; TASKS as usize], String> {
    let text = |error: store::Error| error.to_string();
    let newest = store.revision().await.map_err(text)?;
    if newest < acknowledged.newest {
        return Err(format!("revision went back from {} to {newest}", acknowledged.newest));
    }
    if acknowledged.newest_volatile > 0 && store.volatile_since() < acknowledged.newest_volatile {
        return Err(format!("lost volatile history is not owned up to: {}", store.volatile_since()));
    }
    let floor = match store.changes(0, 1).await {
        Err(store::Error::Compacted { oldest, .. }) => oldest,
        _ => 0,
    };
    let list = store.range("/registry/", None, "", 0).await.map_err(text)?.items;
    let durable: Vec<&KeyValue> = list.iter().filter(|item| !item.key.starts_with("/registry/events/")).collect();

    // From the oldest readable state, change by change, to the newest.
    let mut state: BTreeMap<Arc<str>, KeyValue> = BTreeMap::new();
    for prefix in ["/registry/w/", "/registry/last/"] {
        let oldest = store.range(prefix, Some(floor), "", 0).await.map_err(text)?;
        state.extend(oldest.items.into_iter().map(|item| (item.key.clone(), item)));
    }
    let changes = store.changes(floor, usize::MAX).await.map_err(text)?;
    let mut before = floor;
    let mut by_revision = BTreeMap::new();
    for change in changes.iter().filter(|change| !change.key.starts_with("/registry/events/")) {
        if change.revision <= before {
            return Err(format!("revision {} after {before}", change.revision));
        }
        before = change.revision;
        let old = match &change.value {
            Some(value) => state.insert(
                change.key.clone(),
                KeyValue {
                    key: change.key.clone(),
                    value: value.clone(),
                    created: change.created,
                    modified: change.revision,
                },
            ),
            None => state.remove(&change.key),
        };
        if change.previous != old.map(|old| (old.modified, old.value)) {
            return Err(format!("revision {} does not follow from what was there", change.revision));
        }
        by_revision.insert(change.revision, &change.key);
    }
    if !state.values().eq(durable.iter().copied()) {
        return Err("the history does not lead to the state".into());
    }
    for (revision, key) in acknowledged.writes.iter().filter(|(revision, _)| *revision > floor) {
        if by_revision.get(revision).is_none_or(|found| &***found != key) {
            return Err(format!("acknowledged revision {revision} of {key} is gone"));
        }
    }

    // Each task's commits are there up to one, whole, and none is missing.
    let mut last = [0; TASKS as usize];
    for task in 0..TASKS {
        let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let found = list.iter().find(|item| *item.key == *format!("/registry/last/{task}"));
        let n = found.map_or(0, |item| std::str::from_utf8(&item.value).unwrap().parse::<u64>().unwrap());
        let known = acknowledged.commits[task as usize];
        let at_most = acknowledged.at_most[task as usize];
        if n < known || (at_most > 0 && n > at_most) {
            return Err(format!("task {task} is at commit {n}; {known} was acknowledged, {at_most} sent"));
        }
        for write in (1..=n).flat_map(|n| writes(seed, task, n)) {
            match write {
                Write::Put { key, value } => expected.insert(key.to_string(), value.to_vec()),
                Write::Delete { key } => expected.remove(&*key),
            };
        }
        let own = |item: &&KeyValue| {
            item.key.starts_with(&format!("/registry/w/{task}/")) || *item.key == *format!("/registry/last/{task}")
        };
        let got: BTreeMap<_, _> =
            list.iter().filter(own).map(|item| (item.key.to_string(), item.value.to_vec())).collect();
        if got != expected {
            return Err(format!("task {task} left something else than its {n} commits"));
        }
        last[task as usize] = n;
    }
    Ok(last)
}

/// Runs all tasks in the background, each from its next commit on.
pub fn spawn(
    store: &Arc<store::sqlite::Sqlite>,
    seed: u64,
    last: [u64; TASKS as usize],
    acknowledged: &Arc<Mutex<Acknowledged>>,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..TASKS)
        .map(|task| {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let note = |n, writes: &[(Revision, String)], volatile| {
                    acknowledged.lock().unwrap().note(task, n, writes, volatile);
                };
                run(&*store, seed, task, last[task as usize] + 1, note).await;
            })
        })
        .collect()
}
