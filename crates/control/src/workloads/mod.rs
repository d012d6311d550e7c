//! Controllers of workloads: what makes pods.

mod daemonset;
mod deployment;
mod history;
mod pods;
mod replicaset;
mod statefulset;

/// Rows of this folder.
pub fn rows() -> Vec<reconcile::Row> {
    vec![replicaset::row(), deployment::row(), statefulset::row(), daemonset::row()]
}

#[cfg(test)]
mod tests;
