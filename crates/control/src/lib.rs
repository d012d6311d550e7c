//! What the cluster does next: reconcilers as pure functions, each a [`reconcile::Row`].
//!
//! What works on every kind there is cannot be a row: [`io::namespaces::run`] and [`io::garbage::run`] are tasks of
//! their own beside the runner.

pub mod cluster;
pub mod garbage;
pub mod io;
pub mod scheduler;
pub mod support;
pub mod workloads;

/// Every reconciler but the scheduler.
pub fn controllers(config: &cluster::Config) -> Vec<reconcile::Row> {
    let mut rows = workloads::rows();
    rows.extend(cluster::rows(config));
    rows
}

#[cfg(test)]
mod tests;
