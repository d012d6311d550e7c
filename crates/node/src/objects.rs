//! Objects that pods name, each followed by one watch, however many pods name it and only for as long as one does.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use reconcile::{
    Key,
    io::{
        Client,
        reflector::{self, Scope, Sink},
    },
};
use schema::api::{Object, core::v1::ConfigMap, core::v1::Secret};
use tokio::sync::{Notify, watch};

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
        let mut state = self.state.clone();
        let seen = state.wait_for(|seen| !matches!(seen, Seen::Unknown)).await;
        match seen.as_deref() {
            Ok(Seen::Present(object)) => Some(object.clone()),
            _ => None,
        }
    }
}

struct Feed<K> {
    state: watch::Sender<Seen<K>>,
    wakes: Arc<Mutex<Vec<Weak<Wake>>>>,
}

impl<K: Object> Feed<K> {
    fn set(&self, seen: Seen<K>) {
        let version = |seen: &Seen<K>| match seen {
            Seen::Present(object) => Some(object.metadata().resource_version.clone()),
            _ => None,
        };
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
    entries: Mutex<HashMap<Key, Weak<Entry<K>>>>,
}

impl<K: Object> Cache<K> {
    pub fn new(client: Client) -> Self {
        Self { client, entries: Mutex::default() }
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
        let feed = Feed { state: sender, wakes: wakes.clone() };
        let scope = Scope { namespace: namespace.to_owned(), query: format!("fieldSelector=metadata.name%3D{name}") };
        let task = tokio::spawn(reflector::run::<K>(self.client.clone(), scope, feed)).abort_handle();
        let entry = Arc::new(Entry { state, wakes, task });
        entries.insert(key, Arc::downgrade(&entry));
        entry
    }
}

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
    pub async fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, entry) in &self.config_maps {
            if let Some(object) = entry.known().await {
                snapshot.config_maps.insert(name.clone(), object);
            }
        }
        for (name, entry) in &self.secrets {
            if let Some(object) = entry.known().await {
                snapshot.secrets.insert(name.clone(), object);
            }
        }
        snapshot
    }
}
