//! Controllers of workloads: what makes pods.

mod cron;
mod cronjob;
mod daemonset;
mod deployment;
mod failures;
mod history;
mod indexes;
mod job;
mod pods;
mod replicaset;
mod statefulset;
mod ttl;

use reconcile::{Key, World};
use schema::api::{Object, apps::v1::ReplicaSet, core::v1::ReplicationController};

use crate::support::{Matcher, controller_of};

/// Rows of this folder.
pub fn rows() -> Vec<reconcile::Row> {
    vec![
        replicaset::row::<ReplicaSet>(),
        replicaset::row::<ReplicationController>(),
        deployment::row(),
        statefulset::row(),
        daemonset::row(),
        job::row(),
        job::orphans_row(),
        cronjob::row(),
        ttl::row(),
    ]
}

/// An orphan concerns every owner that would adopt it.
fn adopters<O: Object, K: Object>(world: &World, orphan: Option<&K>, matcher: fn(&O) -> Matcher) -> Vec<Key> {
    let Some(meta) = orphan.map(K::metadata).filter(|meta| controller_of(meta).is_none()) else { return Vec::new() };
    let owners = world.of::<O>().in_namespace(&meta.namespace);
    owners.filter(|owner| matcher(owner).matches(&meta.labels)).map(|owner| Key::of(&**owner)).collect()
}

#[cfg(test)]
mod tests;
