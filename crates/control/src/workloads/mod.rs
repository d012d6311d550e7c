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

use schema::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};

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

#[cfg(test)]
mod tests;
