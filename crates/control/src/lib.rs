//! What the cluster does next: reconcilers as pure functions, each a [`reconcile::Row`] of [`rows`].

pub mod support;
pub mod workloads;

/// Every reconciler.
pub fn rows() -> Vec<reconcile::Row> {
    workloads::rows()
}
