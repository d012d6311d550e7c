//! Objects that pods name, each followed by one watch, however many pods name it and only for as long as one does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use reconcile::Key;
use reconcile::io::Client;
use reconcile::io::reflector::{self, Scope, Sink};
use schema::api::{Object, core::v1::ConfigMap, core::v1::Secret};
use tokio::sync::{Notify, watch};

use crate::store::{self, Behind};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Wakes a pod's worker.
#[derive(Default)]
pub struct Wake {
    notify: Notify,
    objects: AtomicBool,
}

impl Wake {
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// An object that the pod names has changed.
    pub fn objects_changed(&self) {
        self.objects.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    pub fn take_objects_changed(&self) -> bool {
        self.objects.swap(false, Ordering::AcqRel)
    }
}

/// What is known of one object.
#[derive(Debug)]
pub enum Seen<K> {
    /// The API has not answered yet.
    Unknown,
    Absent,
    Present(Arc<K>),
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Absent => Self::Absent,
            Self::Present(object) => Self::Present(object.clone()),
        }
    }
}

pub struct Entry<K> {
    state: watch::Receiver<Seen<K>>,
    wakes: Arc<Mutex<Vec<Weak<Wake>>>>,
    task: tokio::task::AbortHandle,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Entry<K> {
    /// The object, once the API has said whether there is one.
    pub async fn known(&self) -> Option<Arc<K>> {
        match self.until(|seen| !matches!(seen, Seen::Unknown)).await {
            Seen::Present(object) => Some(object),
            _ => None,
        }
    }

    /// What is known, once it is as wanted.
    pub async fn until(&self, wanted: impl FnMut(&Seen<K>) -> bool) -> Seen<K> {
        let mut state = self.state.clone();
        let seen = state.wait_for(wanted).await;
        seen.map_or(Seen::Absent, |seen| seen.clone())
    }
}

struct Feed<K> {
    /// Where it is kept for a start without the API.
    kept: Option<(PathBuf, Behind)>,
    state: watch::Sender<Seen<K>>,
    wakes: Arc<Mutex<Vec<Weak<Wake>>>>,
}

impl<K: Object> Feed<K> {
    fn set(&self, seen: Seen<K>) {
        let version = |seen: &Seen<K>| match seen {
            Seen::Present(object) => Some(object.metadata().resource_version.clone()),
            _ => None,
        };
        match (&seen, &self.kept) {
            (Seen::Present(object), Some((path, behind))) => behind.put(path.clone(), Some(object.to_vec())),
            (Seen::Absent, Some((path, behind))) => behind.put(path.clone(), None),
            _ => {}
        }
        let first = matches!(*self.state.borrow(), Seen::Unknown);
        let changed = first || version(&self.state.borrow()) != version(&seen);
        self.state.send_replace(seen);
        if changed && !first {
            lock(&self.wakes).retain(|wake| wake.upgrade().map(|wake| wake.objects_changed()).is_some());
        }
    }
}

impl<K: Object> Sink<K> for Feed<K> {
    fn replace(&mut self, items: Vec<K>, _: u64) {
        self.set(items.into_iter().next().map_or(Seen::Absent, |object| Seen::Present(Arc::new(object))));
    }

    fn put(&mut self, object: K) {
        self.set(Seen::Present(Arc::new(object)));
    }

    fn remove(&mut self, _: K) {
        self.set(Seen::Absent);
    }
}

/// All followed objects of a kind.
pub struct Cache<K> {
    client: Client,
    kept: Option<Kept>,
    /// Further terms of the field selector.
    terms: String,
    entries: Mutex<HashMap<Key, Weak<Entry<K>>>>,
}

/// For a start without the API: what is followed stands in `dir`, and is read from there once `offline` is true.
struct Kept {
    dir: PathBuf,
    offline: watch::Receiver<bool>,
    behind: Behind,
}

impl<K: Object> Cache<K> {
    /// `dir` keeps what is followed; once `offline` is true, what the API has not told is read from there.
    pub fn new(client: Client, dir: PathBuf, offline: watch::Receiver<bool>, behind: Behind) -> Self {
        Self { client, kept: Some(Kept { dir, offline, behind }), terms: String::new(), entries: Mutex::default() }
    }

    /// Keeps nothing; `terms`, `,spec.nodeName%3Da` for one, is what the API demands of the field selector.
    pub fn unkept(client: Client, terms: String) -> Self {
        Self { client, kept: None, terms, entries: Mutex::default() }
    }

    /// Follows an object for as long as the entry is held; `wake` learns of changes.
    pub fn follow(&self, namespace: &str, name: &str, wake: &Arc<Wake>) -> Arc<Entry<K>> {
        let key = Key::new(namespace, name);
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            lock(&entry.wakes).push(Arc::downgrade(wake));
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let (sender, state) = watch::channel(Seen::Unknown);
        let wakes = Arc::new(Mutex::new(vec![Arc::downgrade(wake)]));
        let file = format!("{}-{namespace}-{}", K::PLURAL, store::part(name));
        let kept = self.kept.as_ref().map(|kept| (kept.dir.join(file), kept));
        let last_known = kept.as_ref().map(|(path, kept)| (path.clone(), kept.offline.clone()));
        let feed = Feed {
            kept: kept.map(|(path, kept)| (path, kept.behind.clone())),
            state: sender.clone(),
            wakes: wakes.clone(),
        };
        let query = format!("fieldSelector=metadata.name%3D{name}{}", self.terms);
        let scope = Scope { namespace: namespace.to_owned(), query };
        let client = self.client.clone();
        let task = tokio::spawn(async move {
            let last_known = async {
                if let Some((path, mut offline)) = last_known
                    && offline.wait_for(|offline| *offline).await.is_ok()
                    && let Some(object) = std::fs::read(&path).ok().and_then(|raw| K::decode(&raw).ok())
                {
                    sender.send_if_modified(|seen| {
                        let unknown = matches!(seen, Seen::Unknown);
                        if unknown {
                            *seen = Seen::Present(Arc::new(object));
                        }
                        unknown
                    });
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = reflector::run::<K>(client, scope, feed) => {}
                () = last_known => {}
            }
        })
        .abort_handle();
        let entry = Arc::new(Entry { state, wakes, task });
        entries.insert(key, Arc::downgrade(&entry));
        entry
    }
}

/// As long does a pod wait for an object before it says so.
pub const FIRST_WORD: Duration = Duration::from_secs(5);

/// ConfigMaps and Secrets that one pod names.
#[derive(Default)]
pub struct Named {
    pub config_maps: HashMap<String, Arc<Entry<ConfigMap>>>,
    pub secrets: HashMap<String, Arc<Entry<Secret>>>,
}

/// Their states at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub config_maps: HashMap<String, Arc<ConfigMap>>,
    pub secrets: HashMap<String, Arc<Secret>>,
}

impl Named {
    /// Waits for the API's first word about each, but not for ever.
    pub async fn snapshot(&self) -> Result<Snapshot, String> {
        let timed_out = |kind: &str| format!("failed to sync {kind} cache: timed out waiting for the condition");
        let mut snapshot = Snapshot::default();
        for (name, entry) in &self.config_maps {
            let known = tokio::time::timeout(FIRST_WORD, entry.known()).await;
            if let Some(object) = known.map_err(|_| timed_out("configmap"))? {
                snapshot.config_maps.insert(name.clone(), object);
            }
        }
        for (name, entry) in &self.secrets {
            let known = tokio::time::timeout(FIRST_WORD, entry.known()).await;
            if let Some(object) = known.map_err(|_| timed_out("secret"))? {
                snapshot.secrets.insert(name.clone(), object);
            }
        }
        Ok(snapshot)
    }

    /// The secrets of these names that there are; one that the API does not tell of in time is as good as none.
    pub async fn secrets(&self, names: impl Iterator<Item = &str>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in names {
            let Some(entry) = self.secrets.get(name) else { continue };
            if let Ok(Some(secret)) = tokio::time::timeout(FIRST_WORD, entry.known()).await {
                snapshot.secrets.insert(name.to_owned(), secret);
            }
        }
        snapshot
    }
}
