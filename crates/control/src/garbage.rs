//! Who owns whom, across all kinds, and what has to be looked at when that changes. Pure: [`crate::io::garbage`]
//! feeds it and carries out what [`decide`] says.
//!
//! Only objects that can matter are kept: those with owners, and those that wait for their dependents. An owner is
//! just a uid that others name.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use schema::api::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// How many uids of deleted objects are remembered against checks that were under way.
const REMEMBERED: usize = 4096;

pub type Uid = Arc<str>;
/// Which resource an object is of: its place in the caller's table.
pub type ResourceId = u32;

/// What is known of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub resource: ResourceId,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    /// It stays until its dependents are gone.
    pub foreground: bool,
    /// Its dependents stay, without it.
    pub orphan: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub uid: Uid,
    pub blocks: bool,
}

impl Node {
    pub fn new(resource: ResourceId, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().any(|finalizer| finalizer == name);
        let owners = meta.owner_references.iter();
        Self {
            resource,
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
            owners: owners
                .map(|owner| Owner { uid: owner.uid.as_str().into(), blocks: owner.block_owner_deletion == Some(true) })
                .collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    pub fn matters(&self) -> bool {
        !self.owners.is_empty() || self.waits() || self.orphans()
    }

    /// It waits for the deletion of its dependents.
    pub fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    /// It waits for its dependents to be let go.
    pub fn orphans(&self) -> bool {
        self.deleting && self.orphan
    }

    fn owned_by(&self, uid: &str) -> Option<&Owner> {
        self.owners.iter().find(|owner| &*owner.uid == uid)
    }
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    /// Owner → those that name it.
    owned: HashMap<Uid, BTreeSet<Uid>>,
    /// Owners that were there when last asked for, and have not been deleted since.
    present: HashSet<Uid>,
    gone: HashSet<Uid>,
    gone_order: VecDeque<Uid>,
    /// To be looked at, in the order of the news.
    pending: VecDeque<Uid>,
    queued: HashSet<Uid>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Uid, &Node)> {
        self.owned.get(uid).into_iter().flatten().filter_map(|uid| Some((uid, self.nodes.get(uid)?)))
    }

    /// Those that keep their owner from going in a foreground deletion.
    pub fn blocking<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a Uid, &'a Node)> {
        self.dependents(uid).filter(|(_, node)| node.owned_by(uid).is_some_and(|owner| owner.blocks))
    }

    pub fn enqueue(&mut self, uid: &Uid) {
        if self.nodes.contains_key(uid) && self.queued.insert(uid.clone()) {
            self.pending.push_back(uid.clone());
        }
    }

    /// The next object to look at.
    pub fn take(&mut self) -> Option<Uid> {
        let uid = self.pending.pop_front()?;
        self.queued.remove(&uid);
        Some(uid)
    }

    /// The owner was there at a moment after its last deletion event that had been seen when asking.
    pub fn found(&mut self, owner: &str) {
        if !self.gone.contains(owner) && self.owned.contains_key(owner) {
            self.present.insert(owner.into());
        }
    }

    /// Takes the present state of an object.
    pub fn observe(&mut self, uid: &str, node: Node) {
        let old = self.nodes.get(uid);
        if old == Some(&node) || (old.is_none() && !node.matters()) {
            return;
        }
        let uid: Uid = self.nodes.get_key_value(uid).map_or_else(|| uid.into(), |(known, _)| known.clone());
        let old = self.nodes.remove(&uid);
        self.unlink(&uid, old.as_ref(), Some(&node));
        let (mut look, mut waiting) = (false, false);
        for owner in &node.owners {
            let known = old.as_ref().and_then(|old| old.owned_by(&owner.uid));
            self.owned.entry(owner.uid.clone()).or_default().insert(uid.clone());
            // A new owner may not exist; one that waits wants its dependents looked at.
            look |= known.is_none()
                && (!self.present.contains(&owner.uid) || self.nodes.get(&owner.uid).is_some_and(Node::waits));
            if known.is_some_and(|known| known.blocks) && !owner.blocks {
                self.reconsider(&owner.uid.clone());
            }
        }
        if node.waits() && !old.as_ref().is_some_and(Node::waits) {
            waiting = true;
        }
        look |= waiting || (node.orphans() && !old.as_ref().is_some_and(Node::orphans));
        if node.matters() {
            self.nodes.insert(uid.clone(), node);
        }
        if waiting {
            self.enqueue_dependents(&uid);
        }
        if look {
            self.enqueue(&uid);
        }
    }

    /// Takes the end of an object, known or not.
    pub fn remove(&mut self, uid: &str) {
        let uid: Uid = uid.into();
        self.present.remove(&uid);
        if self.gone.insert(uid.clone()) {
            self.gone_order.push_back(uid.clone());
            if self.gone_order.len() > REMEMBERED
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
        if let Some(old) = self.nodes.remove(&uid) {
            self.unlink(&uid, Some(&old), None);
        }
        self.enqueue_dependents(&uid);
    }

    /// Takes all objects of a resource. Those of an earlier list that are missing are gone; owners may be, too.
    pub fn replace(&mut self, resource: ResourceId, listed: Vec<(Uid, Node)>) {
        let uids: HashSet<&Uid> = listed.iter().map(|(uid, _)| uid).collect();
        let ended = self.nodes.iter().filter(|(uid, node)| node.resource == resource && !uids.contains(uid));
        let missing: Vec<Uid> = ended.map(|(uid, _)| uid.clone()).collect();
        missing.iter().for_each(|uid| self.remove(uid));
        for (uid, node) in listed {
            self.observe(&uid, node);
        }
    }

    /// Events were missed: whoever is an owner has to be asked for again.
    pub fn doubt_owners(&mut self) {
        self.present.clear();
        let dependents: Vec<Uid> =
            self.nodes.iter().filter(|(_, node)| !node.owners.is_empty()).map(|(uid, _)| uid.clone()).collect();
        dependents.iter().for_each(|uid| self.enqueue(uid));
    }

    /// A resource that is no longer served has no objects.
    pub fn drop_resource(&mut self, resource: ResourceId) {
        self.replace(resource, Vec::new());
    }

    fn unlink(&mut self, uid: &Uid, old: Option<&Node>, new: Option<&Node>) {
        let owners = old.into_iter().flat_map(|old| &old.owners);
        for owner in owners.filter(|owner| new.is_none_or(|new| new.owned_by(&owner.uid).is_none())) {
            if let Some(dependents) = self.owned.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.owned.remove(&owner.uid);
                    self.present.remove(&owner.uid);
                }
            }
            self.reconsider(&owner.uid);
        }
    }

    /// An owner that waits may have one dependent less to wait for.
    fn reconsider(&mut self, owner: &Uid) {
        if self.nodes.get(owner).is_some_and(Node::waits) {
            self.enqueue(owner);
        }
    }

    pub fn enqueue_dependents(&mut self, uid: &str) {
        let dependents: Vec<Uid> = self.dependents(uid).map(|(uid, _)| uid.clone()).collect();
        dependents.iter().for_each(|uid| self.enqueue(uid));
    }
}

/// What a live look at an owner showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Solid,
    /// There is no such object, or another of its name.
    Dangling,
    /// It is being deleted in the foreground.
    Waiting,
}

impl Standing {
    /// Of a reference, given what is there under its name.
    pub fn of(reference: &OwnerReference, live: Option<&ObjectMeta>) -> Self {
        match live {
            Some(meta) if meta.uid != reference.uid => Self::Dangling,
            None => Self::Dangling,
            Some(meta)
                if meta.deletion_timestamp.is_some()
                    && meta.finalizers.iter().any(|finalizer| finalizer == FOREGROUND) =>
            {
                Self::Waiting
            }
            Some(_) => Self::Solid,
        }
    }
}

/// What becomes of an object with owners.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// An owner is there, or it has none.
    Keep,
    /// It stays, without these owners.
    Release(Vec<String>),
    /// First its references stop blocking (a circle would wait forever), if `unblock`.
    DeleteForeground { unblock: bool },
    /// Its dependents stay.
    DeleteOrphaning,
    /// Its dependents go after it.
    DeleteBackground,
}

/// `dependents`: who names the object as an owner; whether each waits for dependents of its own.
pub fn decide(live: &ObjectMeta, standings: &[(String, Standing)], dependents: &[bool]) -> Verdict {
    let any = |wanted: Standing| standings.iter().any(|(_, standing)| *standing == wanted);
    let has = |name: &str| live.finalizers.iter().any(|finalizer| finalizer == name);
    if standings.is_empty() {
        return Verdict::Keep;
    }
    if any(Standing::Solid) {
        let others: Vec<String> =
            standings.iter().filter(|(_, standing)| *standing != Standing::Solid).map(|(uid, _)| uid.clone()).collect();
        return if others.is_empty() { Verdict::Keep } else { Verdict::Release(others) };
    }
    if any(Standing::Waiting) && !dependents.is_empty() {
        return Verdict::DeleteForeground { unblock: dependents.iter().any(|waits| *waits) };
    }
    match () {
        () if has(ORPHAN) => Verdict::DeleteOrphaning,
        () if has(FOREGROUND) => Verdict::DeleteForeground { unblock: false },
        () => Verdict::DeleteBackground,
    }
}

#[cfg(test)]
mod tests;
