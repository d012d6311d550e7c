//! What a reconciler decided: actions as values, so that tests compare them and a runner executes them.

use std::{any::Any, fmt::Debug, time::Duration};

use schema::api::Object;
use serde_json::Value as Json;

use crate::{Key, runner::Shared};

/// The outcome of one reconciliation.
///
/// Actions run in order; neighbours that are both creations or both deletions run side by side. The first failure
/// ends the plan: a conflict is news and the key is looked at again, anything else backs off.
#[derive(Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Look at the key again after this time even if nothing happens.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    pub fn nothing() -> Self {
        Self::default()
    }

    pub fn requeue(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |sooner| sooner.min(after)));
    }

    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }
}

impl From<Vec<Action>> for Plan {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, requeue_after: None }
    }
}

/// One write to the API.
#[derive(Debug)]
pub enum Action {
    /// POST to the collection.
    Create(Box<dyn AnyObject>),
    /// PUT of the whole object; its resourceVersion is the precondition.
    Update(Box<dyn AnyObject>),
    /// PUT of `/status`.
    UpdateStatus(Box<dyn AnyObject>),
    /// PATCH, of a subresource perhaps.
    Patch { of: Reference, subresource: Option<&'static str>, patch: Patch },
    /// DELETE, with its preconditions.
    Delete { of: Reference, options: DeleteOptions },
    /// POST to a subresource: `binding`, `eviction`, `token`.
    Post { of: Reference, subresource: &'static str, body: Box<dyn AnyObject> },
}

impl Action {
    pub fn create(object: impl Object) -> Self {
        Self::Create(Box::new(object))
    }

    pub fn update(object: impl Object) -> Self {
        Self::Update(Box::new(object))
    }

    pub fn update_status(object: impl Object) -> Self {
        Self::UpdateStatus(Box::new(object))
    }

    /// Deletes this very object (its uid is a precondition), in the background.
    pub fn delete<K: Object>(object: &K) -> Self {
        Self::Delete { of: Reference::to(object), options: DeleteOptions::default() }
    }

    /// A JSON merge patch of this very object, whatever its resourceVersion is by now.
    pub fn merge<K: Object>(object: &K, subresource: Option<&'static str>, patch: Json) -> Self {
        Self::Patch { of: Reference::to(object), subresource, patch: Patch::Merge(patch) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Json),
    /// RFC 7386.
    Merge(Json),
    /// Upstream's own: lists merge by their keys.
    Strategic(Json),
    /// Server-side apply, forced.
    Apply { manager: &'static str, object: Json },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteOptions {
    /// `None`: the kind's default.
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    /// Only at this resourceVersion.
    pub resource_version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

/// Which object an action is about.
#[derive(Clone)]
pub struct Reference {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    pub key: Key,
    /// Empty: any object of this name.
    pub uid: String,
    /// How the world learns of it, since its type is forgotten here.
    pub(crate) absorb: fn(&Shared, &[u8]),
    pub(crate) bury: fn(&Shared, &Key, &str),
}

impl Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.plural, self.key, self.uid)
    }
}

impl Reference {
    pub fn to<K: Object>(object: &K) -> Self {
        Self::named::<K>(Key::of(object), &object.metadata().uid)
    }

    pub fn named<K: Object>(key: Key, uid: &str) -> Self {
        Self {
            group: K::GROUP,
            version: K::VERSION,
            plural: K::PLURAL,
            namespaced: K::NAMESPACED,
            key,
            uid: uid.to_owned(),
            absorb: Shared::absorb::<K>,
            bury: Shared::bury::<K>,
        }
    }

    /// The collection's path, or with `name` the object's.
    pub(crate) fn path(&self, name: bool) -> String {
        let (namespace, name) = (self.namespaced.then_some(&*self.key.namespace), name.then_some(&*self.key.name));
        path(self.group, self.version, self.plural, namespace, name)
    }
}

/// `/api/v1/…` or `/apis/GROUP/VERSION/…`.
pub fn path(group: &str, version: &str, plural: &str, namespace: Option<&str>, name: Option<&str>) -> String {
    let mut path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        path.push_str("/namespaces/");
        path.push_str(namespace);
    }
    path.push('/');
    path.push_str(plural);
    if let Some(name) = name {
        path.push('/');
        path.push_str(name);
    }
    path
}

/// A typed object whose type is forgotten until it is sent.
pub trait AnyObject: Any + Debug + Send + Sync {
    fn reference(&self) -> Reference;
    fn api_version(&self) -> String;
    fn kind(&self) -> &'static str;
    /// Protobuf of the object itself, without an envelope.
    fn body(&self) -> Vec<u8>;
    /// For tests: `plan.actions[0].object::<Pod>()`.
    fn as_any(&self) -> &dyn Any;
}

impl<K: Object> AnyObject for K {
    fn reference(&self) -> Reference {
        Reference::to(self)
    }

    fn api_version(&self) -> String {
        K::api_version()
    }

    fn kind(&self) -> &'static str {
        K::KIND
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.encode(&mut body);
        body
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Action {
    /// The object that is created, updated or posted, if it is a `K`.
    pub fn object<K: Object>(&self) -> Option<&K> {
        match self {
            Self::Create(object) | Self::Update(object) | Self::UpdateStatus(object) => {
                (**object).as_any().downcast_ref()
            }
            Self::Post { body, .. } => (**body).as_any().downcast_ref(),
            Self::Patch { .. } | Self::Delete { .. } => None,
        }
    }
}
