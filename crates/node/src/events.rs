//! Events about pods and the node, written aside: counted when they repeat, merged when they are alike, and limited.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use reconcile::{Key, Patch, io::Client};
use schema::api::core::v1::{Event, EventSource, Node, ObjectReference};
use schema::api::meta::v1::ObjectMeta;
use schema::api::{Kind, MicroTime, Object, Time};
use serde_json::json;
use tokio::sync::mpsc;

use crate::memory::SECOND;
use crate::ports::{Clock, Nanos};

/// What happened to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// It says more of what the last one of its kind has said, and takes its place.
    pub goes_on: bool,
}

#[derive(Clone)]
pub struct Recorder {
    to: mpsc::Sender<Note>,
}

const QUEUE: usize = 1000;
/// Remembered events; the oldest are forgotten.
const MEMORY: usize = 4096;
/// Alike but for their message within ten minutes: from here on they are combined.
const ALIKE: u32 = 10;
const ALIKE_WINDOW: Nanos = 600 * SECOND;
/// Per object: a burst, then one in five minutes.
const BURST: f64 = 25.0;
const PER_SECOND: f64 = 1.0 / 300.0;

impl Recorder {
    pub fn new() -> (Self, mpsc::Receiver<Note>) {
        let (to, from) = mpsc::channel(QUEUE);
        (Self { to }, from)
    }

    /// Never waits; a full queue loses the event.
    pub fn note<K: Object>(
        &self,
        object: &K,
        field_path: &str,
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let about = Self::about(object, field_path);
        self.send(Note { about, warning, reason, message: message.into(), goes_on: false });
    }

    /// How far something is: one event that changes.
    pub fn progress<K: Object>(&self, object: &K, field_path: &str, reason: &'static str, message: String) {
        let about = Self::about(object, field_path);
        self.send(Note { about, warning: false, reason, message, goes_on: true });
    }

    fn about<K: Object>(object: &K, field_path: &str) -> ObjectReference {
        ObjectReference { field_path: field_path.to_owned(), ..reconcile::reference(object) }
    }

    /// About the node, which is named by its name instead of a uid, as kubelets do.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: impl Into<String>) {
        let (kind, uid) = (Node::KIND.into(), name.into());
        let about = ObjectReference { kind, name: name.into(), uid, ..ObjectReference::default() };
        self.send(Note { about, warning, reason, message: message.into(), goes_on: false });
    }

    fn send(&self, note: Note) {
        if let Err(lost) = self.to.try_send(note) {
            let note = lost.into_inner();
            tracing::debug!(reason = note.reason, "an event was lost: the queue is full");
        }
    }
}

#[derive(Default)]
struct Alike {
    count: u32,
    since: Nanos,
}

struct Bucket {
    tokens: f64,
    at: Nanos,
}

/// What is known of one event that was written.
struct Written {
    key: Key,
    count: i32,
}

/// Writes events until all recorders are gone.
pub async fn write(client: Client, clock: Arc<dyn Clock>, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut written: HashMap<(String, String, String, String), Written> = HashMap::new();
    let mut order: VecDeque<(String, String, String, String)> = VecDeque::new();
    let mut alike: HashMap<(String, &'static str), Alike> = HashMap::new();
    let mut buckets: HashMap<String, Bucket> = HashMap::new();
    let mut serial: u64 = 0;
    while let Some(mut note) = notes.recv().await {
        let now = clock.now();
        let bucket = buckets.entry(note.about.uid.clone()).or_insert(Bucket { tokens: BURST, at: now });
        bucket.tokens = (bucket.tokens + (now - bucket.at).max(0) as f64 / SECOND as f64 * PER_SECOND).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            continue;
        }
        bucket.tokens -= 1.0;
        let identity = |note: &Note| {
            (note.about.uid.clone(), note.about.field_path.clone(), note.reason.to_owned(), note.message.clone())
        };
        if !note.goes_on && !written.contains_key(&identity(&note)) {
            let like = alike.entry((note.about.uid.clone(), note.reason)).or_default();
            if (now - like.since).abs() > ALIKE_WINDOW {
                *like = Alike { count: 0, since: now };
            }
            like.count += 1;
            if like.count >= ALIKE {
                note.message = format!("(combined from similar events): {}", note.message);
            }
        }
        let id = identity(&note);
        // Combined events count on one object, whatever their message, and so do those that go on.
        let id = match &note {
            Note { goes_on: true, .. } => (id.0, id.1, id.2, String::new()),
            _ if note.message.starts_with("(combined") => (id.0, id.1, id.2, "(combined)".to_owned()),
            _ => id,
        };
        let at = Time { seconds: now.div_euclid(SECOND) };
        if let Some(known) = written.get_mut(&id) {
            known.count += 1;
            let stamp = schema::time::format(at.seconds);
            let patch = Patch::Merge(json!({"count": known.count, "lastTimestamp": stamp, "message": note.message}));
            match client.patch::<Event>(&known.key, None, &patch).await {
                Ok(_) => continue,
                Err(error) if error.is_not_found() => {
                    written.remove(&id);
                }
                Err(error) => {
                    tracing::debug!(%error, "an event was not counted");
                    continue;
                }
            }
        }
        serial += 1;
        let event = object(&note, at, &node, now.unsigned_abs() ^ (serial << 8));
        let key = Key::of(&event);
        match client.create(&event).await {
            Ok(_) => {
                written.insert(id.clone(), Written { key, count: 1 });
                order.push_back(id);
            }
            Err(error) => tracing::debug!(%error, "an event was not written"),
        }
        if order.len() > MEMORY {
            if let Some(oldest) = order.pop_front() {
                written.remove(&oldest);
            }
            alike.retain(|_, like| now - like.since <= ALIKE_WINDOW);
            buckets.retain(|_, bucket| bucket.tokens < BURST - 1.0);
        }
    }
}

fn object(note: &Note, at: Time, node: &str, unique: u64) -> Event {
    let namespace = if note.about.namespace.is_empty() { "default" } else { &note.about.namespace };
    Event {
        metadata: ObjectMeta {
            name: format!("{}.{unique:x}", note.about.name),
            namespace: namespace.to_owned(),
            ..ObjectMeta::default()
        },
        involved_object: note.about.clone(),
        reason: note.reason.to_owned(),
        message: note.message.clone(),
        source: EventSource { component: "kubelet".into(), host: node.to_owned(), ..EventSource::default() },
        first_timestamp: at,
        last_timestamp: at,
        count: 1,
        r#type: if note.warning { "Warning" } else { "Normal" }.to_owned(),
        event_time: MicroTime::default(),
        reporting_component: "kubelet".into(),
        reporting_instance: node.to_owned(),
        ..Event::default()
    }
}
