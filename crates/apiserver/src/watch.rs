//! `watch`: pulled by revision from the kind's ring, and from the store where the ring no longer reaches. Nothing buffers per watcher.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::header;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use store::Revision;
use tokio::{sync::watch, time::Instant};

use crate::body::BodyError;
use crate::cache::{Entry, Event, Storage};
use crate::call::Call;
use crate::encode::View;
use crate::frames::FrameKey;
use crate::negotiate::{Encoding, Shape};
use crate::options::ListOptions;
use crate::read::{self, matches};
use crate::reply::{self, Reply};
use crate::status::Result;
use crate::{Server, Status};

/// Upstream's `--min-request-timeout`; a watch without a timeout ends between once and twice this.
const MIN_TIMEOUT_SECONDS: u64 = 1800;
const FAREWELL: Duration = Duration::from_secs(2);
const EVENTS_PER_PULL: usize = 100;
const FRAME_BATCH_BYTES: usize = 64 << 10;

/// Kinds of which the embedded store keeps objects in memory first.
const VOLATILE: [&str; 2] = ["/registry/events", "/registry/leases"];

struct Watch {
    server: Server,
    storage: Arc<Storage>,
    view: View,
    options: ListOptions,
    namespace: String,
    /// Everything up to here was sent.
    at: Revision,
    /// Objects of the beginning, still to be sent.
    initial: VecDeque<Arc<Entry>>,
    /// The initial list's end is announced with a bookmark at this revision.
    announce: Option<Revision>,
    changed: watch::Receiver<Revision>,
    bookmarks: watch::Receiver<Revision>,
    /// When the last bookmark is due, so that who comes again after the end begins where this one ended.
    farewell: Option<Instant>,
    deadline: Instant,
    first: bool,
    done: bool,
    is_local: bool,
}

pub async fn watch(call: &Call) -> Result<Reply> {
    let storage = call.kind.storage()?.clone();
    let options = ListOptions::parse(&call.query, &call.kind, &call.info.name, true)?;
    if call.accepted.encoding == Encoding::Yaml {
        return Err(Status::not_acceptable(&[
            "application/json;stream=watch",
            "application/vnd.kubernetes.protobuf;stream=watch",
        ]));
    }
    let server = call.server.clone();
    let seconds = options.timeout_seconds.filter(|&s| s > 0).unwrap_or_else(|| {
        let mut byte = [0; 2];
        server.inner.config.random.fill(&mut byte);
        MIN_TIMEOUT_SECONDS + u64::from(u16::from_le_bytes(byte)) * MIN_TIMEOUT_SECONDS / 65_536
    });
    let deadline = Instant::now() + Duration::from_secs(seconds.min(86_400 * 30));
    let changed = storage.subscribe();
    let bookmarks = server.inner.bookmark.subscribe();
    let send_initial = options.send_initial_events.unwrap_or(false);
    // Only lists call this a bad request.
    let asked = options
        .revision()
        .map_err(|status| Status::plain_internal(status.message.trim_start_matches("invalid resource version: ")))?;
    let mut watch = Watch {
        view: call.view(),
        namespace: call.info.namespace.clone(),
        at: 0,
        initial: VecDeque::new(),
        announce: None,
        changed,
        bookmarks,
        farewell: deadline.checked_sub(FAREWELL).filter(|at| options.bookmarks && *at > Instant::now()),
        deadline,
        first: true,
        done: false,
        is_local: call.is_local,
        server,
        storage,
        options,
    };
    match asked {
        // From the present, the present included.
        None | Some(0) if watch.options.send_initial_events != Some(false) => {
            watch.begin_with_list(asked.is_none() || send_initial).await?;
            watch.announce = watch.options.bookmarks.then_some(watch.at);
        }
        None | Some(0) => watch.at = watch.server.inner.publisher.applied(),
        Some(revision) if send_initial => {
            watch.server.fresh(revision).await?;
            watch.begin_with_list(false).await?;
            watch.announce = watch.options.bookmarks.then_some(watch.at);
        }
        Some(revision) => watch.at = revision,
    }
    Ok(watch.into_reply())
}

impl Watch {
    async fn begin_with_list(&mut self, consistent: bool) -> Result<()> {
        let mut list = self.options.clone();
        list.resource_version = if consistent { String::new() } else { "0".into() };
        list.version_match = None;
        list.limit = 0;
        list.continue_token = String::new();
        let selected = read::select(&self.server, &self.view.kind, &self.namespace, &list).await?;
        self.initial = selected.entries.into();
        self.at = selected.meta.revision;
        Ok(())
    }

    fn into_reply(self) -> Reply {
        let content_type = self.view.accepted.encoding.stream_type();
        let frames = stream::unfold(self, |mut watch| async move {
            let bytes = watch.next().await?;
            Some((Ok::<_, BodyError>(Frame::data(bytes)), watch))
        });
        let mut response = reply::bytes(200, content_type, Bytes::new());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        response
    }

    /// The next bytes of the stream; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        match self.pull().await {
            Ok(bytes) => bytes,
            Err(status) => {
                self.done = true;
                Some(self.view.error(&status))
            }
        }
    }

    async fn pull(&mut self) -> Result<Option<Bytes>> {
        if !self.initial.is_empty() {
            let mut out = Vec::new();
            while out.len() < FRAME_BATCH_BYTES {
                let Some(entry) = self.initial.pop_front() else { break };
                out.extend_from_slice(&self.view.frame("ADDED", &entry, self.first)?);
                self.first = false;
            }
            return Ok(Some(out.into()));
        }
        if let Some(revision) = self.announce.take() {
            return Ok(Some(self.view.bookmark(revision, true)));
        }
        loop {
            // Seen before the pull, so that nothing is missed between the pull and the wait.
            self.changed.mark_unchanged();
            let out = match self.storage.changes(self.at, EVENTS_PER_PULL) {
                Ok(events) => {
                    let more = events.len() == EVENTS_PER_PULL;
                    let newest = events.last().map_or(0, |event| event.revision);
                    let out = self.frames(events).await?;
                    self.at = self.at.max(newest);
                    if out.is_empty() && more {
                        continue;
                    }
                    out
                }
                Err(behind) => {
                    let out = self.history(behind.floor).await?;
                    if out.is_empty() {
                        continue;
                    }
                    out
                }
            };
            match out.len() {
                0 if !self.is_served() => return Ok(None),
                0 => {}
                1 => return Ok(out.into_iter().next()),
                _ => return Ok(Some(out.concat().into())),
            }
            tokio::select! {
                biased;
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                _ = self.bookmarks.changed(), if self.options.bookmarks => {
                    let revision = *self.bookmarks.borrow_and_update();
                    if let Some(bookmark) = self.pass_over(revision) {
                        return Ok(Some(bookmark));
                    }
                }
                () = tokio::time::sleep_until(self.farewell.unwrap_or(self.deadline)) => {
                    if self.farewell.take().is_none() {
                        return Ok(None);
                    }
                    let revision = self.server.inner.publisher.applied();
                    if let Some(bookmark) = self.pass_over(revision) {
                        return Ok(Some(bookmark));
                    }
                }
            }
        }
    }

    /// A bookmark, if nothing up to there is still to be sent.
    fn pass_over(&mut self, revision: Revision) -> Option<Bytes> {
        (revision >= self.at && self.storage.revision() <= self.at).then(|| {
            self.at = revision;
            self.view.bookmark(revision, false)
        })
    }

    /// Whether a custom resource's definition is still what it was when this began; with another one, clients begin anew.
    /// And the server does not stop.
    fn is_served(&self) -> bool {
        if self.server.is_draining() && !self.is_local {
            return false;
        }
        let Some(own) = &self.view.kind.custom else { return true };
        let r = &self.view.kind.resource;
        let now = self.server.registry().get(&r.group, &r.version, &r.plural).and_then(|kind| kind.custom.clone());
        now.is_some_and(|now| now.state == own.state)
    }

    /// Changes that the ring has forgotten, from the store's log.
    async fn history(&mut self, floor: Revision) -> Result<Vec<Bytes>> {
        const CHANGES_PER_READ: usize = 1000;
        let mut out = Vec::new();
        let mut bytes = 0;
        while self.at < floor && bytes < FRAME_BATCH_BYTES {
            let changes = match self.server.inner.config.store.changes(self.at, CHANGES_PER_READ).await {
                Ok(changes) => changes,
                Err(store::Error::Compacted { oldest, .. }) => {
                    let message = format!("too old resource version: {} ({oldest})", self.at);
                    return Err(Status::expired(message));
                }
                Err(error) => return Err(read::store_error(error)),
            };
            // What was only in memory did not survive an unclean stop: such a watch must begin anew.
            let since = self.server.inner.config.store.volatile_since();
            if self.at < since && VOLATILE.contains(&&*self.storage.prefix) {
                return Err(Status::expired(format!("too old resource version: {} ({since})", self.at)));
            }
            if changes.is_empty() {
                self.at = floor;
                break;
            }
            let mut events = Vec::new();
            for change in changes {
                if change.revision > floor {
                    self.at = floor;
                    break;
                }
                self.at = change.revision;
                if !change.key.strip_prefix(&*self.storage.prefix).is_some_and(|rest| rest.starts_with('/')) {
                    continue;
                }
                let entry = |revision, value: &Bytes| Arc::new(Entry::new(change.key.clone(), revision, value));
                let new = change.value.as_ref().map(|v| entry(change.revision, v));
                let old = change.previous.as_ref().map(|(revision, v)| entry(*revision, v));
                events.push(Arc::new(Event::new(change.revision, new, old)));
            }
            for frame in self.frames(events).await? {
                bytes += frame.len();
                out.push(frame);
            }
        }
        Ok(out)
    }

    /// What this watcher sees of changes.
    async fn frames(&mut self, mut events: Vec<Arc<Event>>) -> Result<Vec<Bytes>> {
        if !self.namespace.is_empty() && self.storage.namespaced {
            events.retain(|event| {
                let entry = event.new.as_ref().or(event.old.as_ref());
                entry.is_some_and(|e| self.storage.namespace_of(e) == self.namespace)
            });
        }
        let events = self.server.events_in_version(&self.view.kind, events).await?;
        let frames: Vec<Bytes> =
            events.iter().filter_map(|event| self.frame(event).transpose()).collect::<Result<_>>()?;
        self.storage.sent.fetch_add(frames.len() as u64, Ordering::Relaxed);
        Ok(frames)
    }

    /// How this watcher sees a change, if it does.
    fn frame(&mut self, event: &Event) -> Result<Option<Bytes>> {
        let fits = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|e| self.selects(e));
        let (event_type, code) = match (fits(&event.old), fits(&event.new)) {
            (false, false) => return Ok(None),
            (false, true) => ("ADDED", 0),
            (true, true) => ("MODIFIED", 1),
            (true, false) => ("DELETED", 2),
        };
        let entry = if code == 2 { event.gone() } else { event.new.as_ref() };
        let Some(entry) = entry else { return Ok(None) };
        if self.view.accepted.shape == Shape::Table {
            let first = std::mem::replace(&mut self.first, false);
            return self.view.frame(event_type, entry, first).map(Some);
        }
        let encoding = self.view.accepted.encoding as u16 | (self.view.accepted.shape as u16) << 8;
        let key = FrameKey { kind: self.view.kind.number, encoding, event_type: code };
        event.frames.get_or_encode(key, || self.view.frame(event_type, entry, false)).map(Some)
    }

    fn selects(&self, entry: &Entry) -> bool {
        self.options.selects_everything() || matches(&self.storage, entry, &self.options)
    }
}
