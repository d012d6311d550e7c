//! The members of an object, in the order in which Go's encoder writes a map: by key bytes.
//!
//! Most objects have few members, and most keys are short or come from the schema's table: so they stand in a sorted
//! vector with keys that are stored in place or shared, where a tree would allocate a node and a string each.
//! An object of many members is a tree, so that no order of insertion costs more than it should.
//! Where a schema says otherwise (struct fields), the encoder follows the schema.

use std::borrow::Borrow;
use std::collections::{BTreeMap, btree_map};

use super::Value;

/// A member's name: up to 23 bytes in place, longer ones shared.
pub type Key = smol_str::SmolStr;

/// More members than this stand in a tree.
const FEW: usize = 48;

#[derive(Clone)]
enum Members {
    Few(Vec<(Key, Value)>),
    Many(BTreeMap<Key, Value>),
}

/// The members of an object: keys to values, sorted by key.
#[derive(Clone)]
pub struct Object(Members);

impl Object {
    pub const fn new() -> Self {
        Object(Members::Few(Vec::new()))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Members::Few(few) => few.len(),
            Members::Many(many) => many.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        match &self.0 {
            Members::Few(few) => Some(&few[find(few, key).ok()?].1),
            Members::Many(many) => many.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        match &mut self.0 {
            Members::Few(few) => {
                let at = find(few, key).ok()?;
                Some(&mut few[at].1)
            }
            Members::Many(many) => many.get_mut(key),
        }
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets a member, and gives back the value that it had.
    pub fn insert(&mut self, key: impl Into<Key>, value: Value) -> Option<Value> {
        let key = key.into();
        match &mut self.0 {
            Members::Few(few) => match find(few, &key) {
                Ok(at) => return Some(std::mem::replace(&mut few[at].1, value)),
                Err(at) if few.len() < FEW => few.insert(at, (key, value)),
                Err(_) => {
                    let mut many: BTreeMap<_, _> = std::mem::take(few).into_iter().collect();
                    many.insert(key, value);
                    self.0 = Members::Many(many);
                }
            },
            Members::Many(many) => return many.insert(key, value),
        }
        None
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        match &mut self.0 {
            Members::Few(few) => Some(few.remove(find(few, key).ok()?).1),
            Members::Many(many) => many.remove(key),
        }
    }

    /// The member of that name, to be made if it is not there.
    pub fn entry(&mut self, key: impl Into<Key>) -> Entry<'_> {
        Entry { object: self, key: key.into() }
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter(match &self.0 {
            Members::Few(few) => Either::Few(few.iter()),
            Members::Many(many) => Either::Many(many.iter()),
        })
    }

    pub fn iter_mut(&mut self) -> IterMut<'_> {
        IterMut(match &mut self.0 {
            Members::Few(few) => Either::Few(few.iter_mut()),
            Members::Many(many) => Either::Many(many.iter_mut()),
        })
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.iter_mut().map(|(_, value)| value)
    }

    pub fn into_keys(self) -> impl Iterator<Item = Key> {
        self.into_iter().map(|(key, _)| key)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        match &mut self.0 {
            Members::Few(few) => few.retain_mut(|(key, value)| keep(key, value)),
            Members::Many(many) => many.retain(keep),
        }
    }
}

/// Where a key stands, or would stand. Decoders add members in nearly the order of their keys.
fn find(few: &[(Key, Value)], key: &str) -> Result<usize, usize> {
    match few.last() {
        None => Err(0),
        Some((last, _)) if last.as_str() < key => Err(few.len()),
        Some(_) => few.binary_search_by(|(known, _)| known.as_str().cmp(key)),
    }
}

/// A member that is there, or will be.
pub struct Entry<'a> {
    object: &'a mut Object,
    key: Key,
}

impl<'a> Entry<'a> {
    pub fn or_insert_with(self, make: impl FnOnce() -> Value) -> &'a mut Value {
        if !self.object.contains_key(&self.key) {
            self.object.insert(self.key.clone(), make());
        }
        match &mut self.object.0 {
            Members::Few(few) => {
                let at = find(few, &self.key).unwrap_or_default();
                &mut few[at].1
            }
            Members::Many(many) => many.entry(self.key).or_default(),
        }
    }

    pub fn or_insert(self, value: Value) -> &'a mut Value {
        self.or_insert_with(|| value)
    }

    pub fn or_default(self) -> &'a mut Value {
        self.or_insert_with(Value::default)
    }
}

impl Default for Object {
    fn default() -> Self {
        Object::new()
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<Key>> FromIterator<(K, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(members: I) -> Self {
        let mut object = Object::new();
        object.extend(members);
        object
    }
}

impl<K: Into<Key>> Extend<(K, Value)> for Object {
    fn extend<I: IntoIterator<Item = (K, Value)>>(&mut self, members: I) {
        for (key, value) in members {
            self.insert(key, value);
        }
    }
}

impl<K: Into<Key>, const N: usize> From<[(K, Value); N]> for Object {
    fn from(members: [(K, Value); N]) -> Self {
        members.into_iter().collect()
    }
}

impl<Q: Borrow<str> + ?Sized> std::ops::Index<&Q> for Object {
    type Output = Value;
    /// The member, null where it is absent.
    fn index(&self, key: &Q) -> &Value {
        self.get(key.borrow()).unwrap_or(&super::NULL)
    }
}

enum Either<F, M> {
    Few(F),
    Many(M),
}

macro_rules! iterators {
    ($($(#[$doc:meta])* $name:ident$(<$life:lifetime>)?: $few:ty, $many:ty => $item:ty, |$member:ident| $split:expr;)*) => {
        $(
            $(#[$doc])*
            pub struct $name$(<$life>)?(Either<$few, $many>);

            impl$(<$life>)? Iterator for $name$(<$life>)? {
                type Item = $item;
                fn next(&mut self) -> Option<Self::Item> {
                    match &mut self.0 {
                        Either::Few(few) => few.next().map(|$member| $split),
                        Either::Many(many) => many.next(),
                    }
                }
                fn size_hint(&self) -> (usize, Option<usize>) {
                    match &self.0 {
                        Either::Few(few) => few.size_hint(),
                        Either::Many(many) => many.size_hint(),
                    }
                }
            }

            impl$(<$life>)? DoubleEndedIterator for $name$(<$life>)? {
                fn next_back(&mut self) -> Option<Self::Item> {
                    match &mut self.0 {
                        Either::Few(few) => few.next_back().map(|$member| $split),
                        Either::Many(many) => many.next_back(),
                    }
                }
            }

            impl$(<$life>)? ExactSizeIterator for $name$(<$life>)? {}
        )*
    };
}
iterators! {
    /// Members in order.
    Iter<'a>: std::slice::Iter<'a, (Key, Value)>, btree_map::Iter<'a, Key, Value> => (&'a Key, &'a Value), |m| (&m.0, &m.1);
    /// Members in order, their values to be changed.
    IterMut<'a>: std::slice::IterMut<'a, (Key, Value)>, btree_map::IterMut<'a, Key, Value> => (&'a Key, &'a mut Value), |m| (&m.0, &mut m.1);
    /// Members in order, taken out.
    IntoIter: std::vec::IntoIter<(Key, Value)>, btree_map::IntoIter<Key, Value> => (Key, Value), |m| m;
}

impl IntoIterator for Object {
    type Item = (Key, Value);
    type IntoIter = IntoIter;
    fn into_iter(self) -> IntoIter {
        IntoIter(match self.0 {
            Members::Few(few) => Either::Few(few.into_iter()),
            Members::Many(many) => Either::Many(many.into_iter()),
        })
    }
}

impl<'a> IntoIterator for &'a Object {
    type Item = (&'a Key, &'a Value);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Object {
    type Item = (&'a Key, &'a mut Value);
    type IntoIter = IterMut<'a>;
    fn into_iter(self) -> IterMut<'a> {
        self.iter_mut()
    }
}
