//! The world as reconcilers see it: typed objects by namespace and name, with an index by owner.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use schema::api::Object;

/// An object's namespace (empty if cluster-scoped) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Object>(object: &K) -> Self {
        let meta = object.metadata();
        Self::new(&meta.namespace, &meta.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// All objects of one kind.
#[derive(Debug)]
pub struct Objects<K> {
    items: BTreeMap<Key, Arc<K>>,
    /// Controller's or owner's uid → the objects that name it in their ownerReferences.
    owned: BTreeMap<String, BTreeSet<Key>>,
    /// Deleted by us, but an older event may still arrive.
    dead: BTreeSet<String>,
    /// Uids that went last: the answer to a write of ours may come after the news that the object is gone.
    gone: VecDeque<String>,
    synced: bool,
}

/// How many of them are remembered: many more than there are writes under way.
const REMEMBERED: usize = 128;

impl<K: 'static> Objects<K> {
    const EMPTY: &'static Self = &Self::new();
}

impl<K> Objects<K> {
    const fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            owned: BTreeMap::new(),
            dead: BTreeSet::new(),
            gone: VecDeque::new(),
            synced: false,
        }
    }
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a write to the world did: states before and after.
pub struct Transition<K> {
    pub key: Key,
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

fn revision<K: Object>(object: &K) -> u64 {
    object.metadata().resource_version.parse().unwrap_or(0)
}

impl<K: Object> Objects<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.items.get(key)
    }

    pub fn named(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.items.get(&Key::new(namespace, name))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.items.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<K>> {
        self.items.values()
    }

    pub fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let from = Key::new(namespace, "");
        let namespace = from.namespace.clone();
        self.items.range(from..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// Objects that name `uid` among their owners.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<K>> {
        self.owned.get(uid).into_iter().flatten().filter_map(|key| self.items.get(key))
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first list has arrived.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Takes a state that the API told (an event, or the answer to a write); older ones than what is known are dropped.
    pub fn put(&mut self, object: K) -> Option<Transition<K>> {
        let key = Key::of(&object);
        if self.dead.contains(&object.metadata().uid) {
            return None;
        }
        match self.items.get(&key) {
            Some(known) if revision(&**known) >= revision(&object) => return None,
            None if self.gone.contains(&object.metadata().uid) => return None,
            _ => {}
        }
        let new = Arc::new(object);
        let old = self.items.insert(key.clone(), new.clone());
        self.reindex(&key, old.as_deref(), Some(&new));
        Some(Transition { key, old, new: Some(new) })
    }

    /// Takes a deletion at `at` (the revision of the DELETED event).
    pub fn remove(&mut self, key: &Key, uid: &str, at: u64) -> Option<Transition<K>> {
        self.dead.remove(uid);
        self.remember(uid);
        let known = self.items.get(key)?;
        if known.metadata().uid != uid || revision(&**known) > at {
            return None;
        }
        self.drop_item(key)
    }

    fn remember(&mut self, uid: &str) {
        if uid.is_empty() {
            return;
        }
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back(uid.to_owned());
    }

    /// We deleted it and the API said it is gone: its older events are not news.
    pub fn bury(&mut self, key: &Key, uid: &str) -> Option<Transition<K>> {
        if self.items.get(key)?.metadata().uid != uid {
            return None;
        }
        self.dead.insert(uid.to_owned());
        self.drop_item(key)
    }

    /// Takes a complete list of revision `at`; what is newer here stays.
    pub fn replace(&mut self, list: Vec<K>, at: u64) -> Vec<Transition<K>> {
        let listed: BTreeSet<Key> = list.iter().map(Key::of).collect();
        let gone: Vec<Key> = self
            .items
            .iter()
            .filter(|(key, object)| !listed.contains(*key) && revision(&***object) <= at)
            .map(|(key, _)| key.clone())
            .collect();
        let uids: BTreeSet<&str> = list.iter().map(|object| object.metadata().uid.as_str()).collect();
        self.dead.retain(|uid| uids.contains(uid.as_str()));
        self.synced = true;
        let mut transitions: Vec<_> = gone.iter().filter_map(|key| self.drop_item(key)).collect();
        transitions.iter().flat_map(|of| &of.old).for_each(|old| self.remember(&old.metadata().uid));
        transitions.extend(list.into_iter().filter_map(|object| self.put(object)));
        transitions
    }

    fn drop_item(&mut self, key: &Key) -> Option<Transition<K>> {
        let old = self.items.remove(key)?;
        self.reindex(key, Some(&old), None);
        Some(Transition { key: key.clone(), old: Some(old), new: None })
    }

    fn reindex(&mut self, key: &Key, old: Option<&K>, new: Option<&K>) {
        for owner in old.into_iter().flat_map(|object| &object.metadata().owner_references) {
            if let Some(keys) = self.owned.get_mut(&owner.uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.owned.remove(&owner.uid);
                }
            }
        }
        for owner in new.into_iter().flat_map(|object| &object.metadata().owner_references) {
            self.owned.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
    }
}

/// Every kind that somebody reads.
#[derive(Default)]
pub struct World {
    kinds: HashMap<TypeId, Box<dyn Kind>>,
}

/// What is the same for all kinds.
trait Kind: Any + Send + Sync {
    fn synced(&self) -> bool;
}

impl<K: Object> Kind for Objects<K> {
    fn synced(&self) -> bool {
        self.synced
    }
}

impl World {
    /// Makes room for a kind; reading one that has no room yields nothing.
    pub fn add<K: Object>(&mut self) {
        self.kinds.entry(TypeId::of::<K>()).or_insert_with(|| Box::new(Objects::<K>::default()));
    }

    /// The objects of a kind, or `None` if nobody registered it.
    pub fn try_of<K: Object>(&self) -> Option<&Objects<K>> {
        (self.kinds.get(&TypeId::of::<K>())?.as_ref() as &dyn Any).downcast_ref()
    }

    /// The objects of a kind. A row reads only the kinds that it names; one that it forgot reads as empty.
    pub fn of<K: Object>(&self) -> &Objects<K> {
        self.try_of().unwrap_or(Objects::EMPTY)
    }

    /// The first list of this kind has arrived.
    pub(crate) fn synced(&self, kind: TypeId) -> bool {
        self.kinds.get(&kind).is_some_and(|kind| kind.synced())
    }

    pub fn get<K: Object>(&self, key: &Key) -> Option<&Arc<K>> {
        self.of::<K>().get(key)
    }

    /// For the runner, and for tests which build a world by hand.
    pub fn of_mut<K: Object>(&mut self) -> &mut Objects<K> {
        self.add::<K>();
        match self.kinds.get_mut(&TypeId::of::<K>()).and_then(|kind| (kind.as_mut() as &mut dyn Any).downcast_mut()) {
            Some(objects) => objects,
            None => unreachable!("a kind is stored under its own type"),
        }
    }
}
