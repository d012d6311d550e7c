//! Controllers of workloads: what makes pods.

mod deployment;
mod pods;
mod replicaset;

/// Rows of this folder.
pub fn rows() -> Vec<reconcile::Row> {
    vec![replicaset::row(), deployment::row()]
}

#[cfg(test)]
mod tests;
