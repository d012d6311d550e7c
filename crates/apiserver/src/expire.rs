//! Events end an hour after their last write, as upstream's `--event-ttl` has it. Without events nothing wakes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use store::{Guard, Revision, Write};
use tokio::time::Instant;

use crate::Server;

const TTL: Duration = Duration::from_secs(3600);
/// Ends are gathered: an event may live so much longer.
const GRANULARITY: Duration = Duration::from_secs(60);
const CHANGES_PER_READ: usize = 1000;
const DELETES_PER_COMMIT: usize = 256;

struct Due {
    at: Instant,
    key: Arc<str>,
    /// A later write has a row of its own.
    revision: Revision,
}

pub async fn expire_events(server: Server) {
    let Some(storage) = server.storage("", "events") else { return };
    let mut changed = storage.subscribe();
    let mut due: VecDeque<Due> = VecDeque::new();
    let mut seen = 0;
    loop {
        changed.mark_unchanged();
        let at = Instant::now() + TTL;
        match storage.changes(seen, CHANGES_PER_READ) {
            Ok(changes) if seen > 0 => {
                let more = changes.len() == CHANGES_PER_READ;
                for change in changes {
                    seen = change.revision;
                    if let Some(entry) = &change.new {
                        due.push_back(Due { at, key: entry.key.clone(), revision: entry.revision });
                    }
                }
                if more {
                    continue;
                }
            }
            // At start, or if the ring was faster: from now on for all that are there.
            _ => {
                let (entries, newest) = storage.newest(&storage.span(""));
                due.extend(entries.iter().map(|e| Due { at, key: e.key.clone(), revision: e.revision }));
                seen = newest;
            }
        }
        let next = due.front().map(|d| d.at + GRANULARITY);
        let woken = match next {
            None => changed.changed().await,
            Some(next) => tokio::time::timeout_at(next, gather(&mut changed)).await.unwrap_or(Ok(())),
        };
        if woken.is_err() {
            return;
        }
        let now = Instant::now();
        while due.front().is_some_and(|d| d.at <= now) {
            let (mut guards, mut writes) = (Vec::new(), Vec::new());
            while guards.len() < DELETES_PER_COMMIT && due.front().is_some_and(|d| d.at <= now) {
                let Some(d) = due.pop_front() else { break };
                if storage.get(&d.key).is_some_and(|e| e.revision == d.revision) {
                    guards.push(Guard { key: d.key.clone(), modified: d.revision });
                    writes.push(Write::Delete { key: d.key });
                }
            }
            if writes.is_empty() {
                continue;
            }
            // One that was just written again spoils its batch; the others then go one by one.
            if server.commit(guards.clone(), writes.clone()).await.is_err() {
                for (guard, write) in guards.into_iter().zip(writes) {
                    if let Err(error) = server.commit(vec![guard], vec![write]).await {
                        tracing::debug!(%error, "an event stays");
                    }
                }
            }
        }
    }
}

/// New events need no attention before the ring could forget them.
async fn gather(
    changed: &mut tokio::sync::watch::Receiver<Revision>,
) -> Result<(), tokio::sync::watch::error::RecvError> {
    changed.changed().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}
