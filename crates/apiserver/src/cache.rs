//! The cache: what is stored of one kind, as encoded bytes, once; and a ring of its recent changes.
//!
//! [`Storage`] is filled at start and then changed only by [`Storage::apply`], in revision order. Readers take
//! `Arc`s out under a short lock; a list at an older revision is rewound through the ring.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use schema::{MessageId, Table};
use store::Revision;
use tokio::sync::watch;

use crate::frames::Frames;

/// A stored object.
#[derive(Debug)]
pub struct Entry {
    pub key: Arc<str>,
    pub revision: Revision,
    /// Complete, resourceVersion included, in the stored encoding.
    pub body: Bytes,
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

impl Entry {
    /// From stored bytes, which lack the resourceVersion. A body that cannot be read is kept as it is:
    /// one broken object never spoils a list.
    pub fn new(key: Arc<str>, revision: Revision, stored: &[u8]) -> Entry {
        let body = match schema::stored::set_resource_version(stored, &revision.to_string()) {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%key, revision, %error, "unreadable object");
                stored.to_vec()
            }
        };
        Entry::complete(key, revision, body.into())
    }

    fn complete(key: Arc<str>, revision: Revision, body: Bytes) -> Entry {
        let labels = schema::stored::meta(&body)
            .map(|m| m.labels.into_iter().map(|(k, v)| (k.as_ref().into(), v.as_ref().into())).collect())
            .unwrap_or_default();
        Entry { key, revision, body, labels }
    }

    /// The same object with another resourceVersion, as DELETED events carry it.
    pub fn at(&self, revision: Revision) -> Entry {
        Entry::new(self.key.clone(), revision, &self.body)
    }

    /// Whether exactly this is stored.
    pub fn holds(&self, stored: &[u8]) -> bool {
        schema::stored::set_resource_version(stored, &self.revision.to_string()).is_ok_and(|body| body == *self.body)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == name).map(|(_, v)| &**v)
    }

    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// What the object costs in memory, roughly.
    fn bytes(&self) -> u64 {
        self.body.len() as u64 + 160
    }
}

/// One change of one object.
pub struct Event {
    pub revision: Revision,
    pub new: Option<Arc<Entry>>,
    pub old: Option<Arc<Entry>>,
    /// The old object at this revision, for those who see it leave.
    gone: OnceLock<Arc<Entry>>,
    /// Encoded once, whoever watches.
    pub frames: Frames,
}

impl Event {
    pub fn new(revision: Revision, new: Option<Arc<Entry>>, old: Option<Arc<Entry>>) -> Event {
        Event { revision, new, old, gone: OnceLock::new(), frames: Frames::default() }
    }

    pub fn gone(&self) -> Option<&Arc<Entry>> {
        let old = self.old.as_ref()?;
        Some(self.gone.get_or_init(|| Arc::new(old.at(self.revision))))
    }

    pub fn key(&self) -> &str {
        self.new.as_ref().or(self.old.as_ref()).map_or("", |e| &e.key)
    }
}

/// All objects of one kind, whatever the version they are asked for.
pub struct Storage {
    /// Store key prefix without a slash at the end.
    pub prefix: Box<str>,
    pub namespaced: bool,
    pub custom: bool,
    /// Schema of the stored version (nothing for custom resources, which are stored as JSON).
    pub table: &'static Table,
    pub message: MessageId,
    pub api_version: Box<str>,
    pub kind: Box<str>,
    /// How often one of its objects was decoded into a value: a list needs none.
    pub decodes: AtomicU64,
    /// Changes that were sent to watchers.
    pub sent: AtomicU64,
    state: RwLock<State>,
    changed: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    object_bytes: u64,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: u64,
    /// The ring holds every change after this revision.
    floor: Revision,
    /// Newest change, or where the cache began.
    revision: Revision,
    /// Changes that came while the first objects were being read.
    loading: Option<Vec<Arc<Event>>>,
}

/// Old bodies that a quiet kind's ring may hold.
const RING_BYTES_MIN: u64 = 256 << 10;
const RING_EVENTS_MAX: usize = 100_000;
/// Events this far back no longer keep their encoded frames.
const FRAMES_KEPT: usize = 64;

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Keys start with this (`/registry/pods/default/`).
    pub prefix: String,
    /// First key, inclusive; empty for the beginning.
    pub start: String,
}

/// The ring no longer reaches back to the revision asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Behind {
    pub floor: Revision,
}

impl Storage {
    pub fn new(
        prefix: &str,
        namespaced: bool,
        stored: Option<(&'static Table, MessageId)>,
        api_version: &str,
        kind: &str,
    ) -> Self {
        static NO_TABLE: OnceLock<Table> = OnceLock::new();
        let custom = stored.is_none();
        let (table, message) = stored.unwrap_or_else(|| (NO_TABLE.get_or_init(Table::default), MessageId(0)));
        Storage {
            prefix: prefix.into(),
            namespaced,
            custom,
            table,
            message,
            api_version: api_version.into(),
            kind: kind.into(),
            decodes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            state: RwLock::new(State { loading: Some(Vec::new()), ..State::default() }),
            changed: watch::channel(0).0,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{}/{namespace}/{name}", self.prefix) } else { format!("{}/{name}", self.prefix) }
    }

    pub fn namespace_of<'a>(&self, entry: &'a Entry) -> &'a str {
        if !self.namespaced {
            return "";
        }
        entry.key.get(self.prefix.len() + 1..).and_then(|rest| rest.split_once('/')).map_or("", |(ns, _)| ns)
    }

    /// All keys, or those of a namespace.
    pub fn span(&self, namespace: &str) -> Span {
        let prefix = if self.namespaced && !namespace.is_empty() {
            format!("{}/{namespace}/", self.prefix)
        } else {
            format!("{}/", self.prefix)
        };
        Span { prefix, start: String::new() }
    }

    /// Fills the cache with the objects of one revision, and what happened since.
    pub fn load(&self, objects: impl IntoIterator<Item = Entry>, revision: Revision) {
        let mut state = self.write();
        for entry in objects {
            state.object_bytes += entry.bytes();
            state.objects.insert(entry.key.clone(), Arc::new(entry));
        }
        state.floor = revision;
        state.revision = revision;
        for event in state.loading.take().unwrap_or_default() {
            if event.revision > revision {
                state.apply(event);
            }
        }
        let newest = state.revision;
        drop(state);
        self.changed.send_replace(newest);
    }

    pub fn is_loaded(&self) -> bool {
        self.read().loading.is_none()
    }

    /// Waits until the first objects are there.
    pub async fn loaded(&self) {
        let mut changed = self.subscribe();
        while !self.is_loaded() && changed.changed().await.is_ok() {}
    }

    /// The next change of this kind: the caller keeps revision order.
    pub fn apply(&self, key: &Arc<str>, revision: Revision, new: Option<Entry>) {
        let mut state = self.write();
        let new = new.map(Arc::new);
        if let Some(waiting) = &mut state.loading {
            let old = waiting.iter().rev().find(|e| e.key() == &**key).and_then(|e| e.new.clone());
            waiting.push(Arc::new(Event::new(revision, new.clone(), old.or_else(|| placeholder(key, new.is_none())))));
            return;
        }
        let old = state.objects.get(key).cloned();
        if new.is_none() && old.is_none() {
            return;
        }
        state.apply(Arc::new(Event::new(revision, new, old)));
        drop(state);
        self.changed.send_replace(revision);
    }

    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> u64 {
        self.read().objects.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects, and their bytes.
    pub fn size(&self) -> (u64, u64) {
        let state = self.read();
        (state.objects.len() as u64, state.object_bytes)
    }

    /// Revision of the newest change.
    pub fn revision(&self) -> Revision {
        self.read().revision
    }

    /// Wakes when something of this kind changes.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Wakes those who wait for changes, without one.
    pub fn wake(&self) {
        self.changed.send_modify(|_| {});
    }

    /// The newest objects of a span in key order, and the newest revision they include.
    pub fn newest(&self, span: &Span) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.read();
        (state.span(span).map(|(_, e)| e.clone()).collect(), state.revision)
    }

    /// The objects of a span as they were at `revision`, in key order.
    pub fn at(&self, span: &Span, revision: Revision) -> Result<Vec<Arc<Entry>>, Behind> {
        let state = self.read();
        if revision >= state.revision {
            return Ok(state.span(span).map(|(_, e)| e.clone()).collect());
        }
        if revision < state.floor {
            return Err(Behind { floor: state.floor });
        }
        let since = state.after(revision);
        let mut then: HashMap<&str, Option<&Arc<Entry>>> = HashMap::new();
        for event in state.ring.range(since..) {
            let key = event.key();
            if key.starts_with(&span.prefix) && key >= span.start.as_str() {
                then.entry(key).or_insert(event.old.as_ref());
            }
        }
        let mut out: BTreeMap<&str, &Arc<Entry>> = BTreeMap::new();
        for (key, entry) in state.span(span) {
            if !then.contains_key(&**key) {
                out.insert(key, entry);
            }
        }
        out.extend(then.into_iter().filter_map(|(key, old)| Some((key, old?))));
        Ok(out.into_values().cloned().collect())
    }

    /// At most `limit` changes after a revision.
    pub fn changes(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Event>>, Behind> {
        let state = self.read();
        if after < state.floor {
            return Err(Behind { floor: state.floor });
        }
        let since = state.after(after);
        Ok(state.ring.range(since..).take(limit).cloned().collect())
    }

    /// A field as field selectors compare it.
    pub fn field(&self, entry: &Entry, path: &str) -> String {
        let is_event = &*self.kind == "Event" && !self.custom;
        let path = if is_event { crate::convert::stored_event_field(path) } else { path.into() };
        match &*path {
            "metadata.name" => entry.name().into(),
            "metadata.namespace" => self.namespace_of(entry).into(),
            // Who reported an event, in its old or its new place.
            "source" if is_event => {
                let component = self.field(entry, "source.component");
                if component.is_empty() { self.field(entry, "reportingComponent") } else { component }
            }
            path => schema::stored::field(self.table, self.message, &entry.body, path)
                .map(|f| f.into_owned())
                .unwrap_or_default(),
        }
    }
}

/// While loading, a deletion of what is about to be read must not get lost.
fn placeholder(key: &Arc<str>, wanted: bool) -> Option<Arc<Entry>> {
    wanted.then(|| Arc::new(Entry { key: key.clone(), revision: 0, body: Bytes::new(), labels: Box::default() }))
}

impl State {
    fn span<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Entry>)> {
        let start = if span.start.as_str() > span.prefix.as_str() { &span.start } else { &span.prefix };
        self.objects
            .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(&span.prefix))
    }

    /// Place in the ring of the first change after a revision.
    fn after(&self, revision: Revision) -> usize {
        self.ring.partition_point(|event| event.revision <= revision)
    }

    fn apply(&mut self, event: Arc<Event>) {
        let key = match (&event.new, &event.old) {
            (Some(entry), _) | (None, Some(entry)) => entry.key.clone(),
            (None, None) => return,
        };
        let before = match &event.new {
            Some(entry) => {
                self.object_bytes += entry.bytes();
                self.objects.insert(key, entry.clone())
            }
            None => self.objects.remove(&key),
        };
        if let Some(before) = &before {
            self.object_bytes = self.object_bytes.saturating_sub(before.bytes());
        }
        self.revision = event.revision;
        self.ring_bytes += cost(&event);
        if let Some(old) = self.ring.len().checked_sub(FRAMES_KEPT).and_then(|at| self.ring.get(at)) {
            old.frames.clear();
        }
        self.ring.push_back(event);
        let budget = RING_BYTES_MIN.max(self.object_bytes / 4);
        while self.ring_bytes > budget || self.ring.len() > RING_EVENTS_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes = self.ring_bytes.saturating_sub(cost(&oldest));
            self.floor = oldest.revision;
        }
    }
}

/// What a change keeps alive that the cache would not.
fn cost(event: &Event) -> u64 {
    event.old.as_ref().map_or(0, |old| old.bytes()) + 128
}
