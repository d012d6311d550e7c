//! A world that reflectors keep up to date, and whoever looks at it again when it has changed.

use std::sync::{Arc, Mutex, MutexGuard};

use reconcile::{Key, World, io::reflector::Sink};
use schema::api::Object;
use tokio::sync::Notify;

#[derive(Default)]
pub struct Watched {
    world: Mutex<World>,
    pub changed: Notify,
}

impl Watched {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where a reflector of any kind puts what it learns.
pub struct Feed(pub Arc<Watched>);

impl<K: Object> Sink<K> for Feed {
    fn replace(&mut self, items: Vec<K>, revision: u64) {
        self.0.world().of_mut::<K>().replace(items, revision);
        self.0.changed.notify_one();
    }

    fn put(&mut self, object: K) {
        if self.0.world().of_mut::<K>().put(object).is_some() {
            self.0.changed.notify_one();
        }
    }

    fn remove(&mut self, object: K) {
        let meta = object.metadata();
        let revision = meta.resource_version.parse().unwrap_or(u64::MAX);
        if self.0.world().of_mut::<K>().remove(&Key::of(&object), &meta.uid, revision).is_some() {
            self.0.changed.notify_one();
        }
    }
}
