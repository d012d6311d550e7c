//! Reconcilers of what belongs to the cluster rather than to a workload.

pub mod attach_detach;
mod certificates;
mod disruption;
pub mod endpoint_slices;
mod endpoints;
mod mirror;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod quotas;
mod roles;
mod root_ca;
mod service_accounts;
pub mod volumes;

pub use certificates::Signer;
use reconcile::{Key, World};
use schema::api::{Object, core::v1::Namespace};

/// What differs between clusters.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// PEM of who signed the API server's certificate.
    pub server_ca: String,
    /// Ranges of pods, at most one per family: `10.42.0.0/16`.
    pub cluster_cidrs: Vec<String>,
    pub signer: Signer,
}

/// Rows of this folder.
pub fn rows(config: &Config) -> Vec<reconcile::Row> {
    vec![
        service_accounts::row(),
        root_ca::row(config.server_ca.clone()),
        certificates::signer_row(config.signer.clone()),
        certificates::cleaner_row(),
        certificates::pod_cleaner_row(),
        node_ipam::row(config.cluster_cidrs.clone()),
        endpoint_slices::row(),
        node_lifecycle::row(),
        node_lifecycle::pods_row(),
        pod_gc::eviction_row(),
        pod_gc::row(),
        disruption::row(),
        endpoints::row(),
        mirror::row(),
        roles::row(),
        quotas::row(),
        volumes::ephemeral_row(),
        volumes::claims_row(),
        volumes::volumes_row(),
        volumes::claim_protection_row(),
        volumes::volume_protection_row(),
        volumes::attributes_protection_row(),
        attach_detach::row(),
    ]
}

/// A namespace that takes new objects.
fn is_active(world: &World, key: &Key) -> bool {
    world.get::<Namespace>(key).is_some_and(|namespace| {
        namespace.metadata.deletion_timestamp.is_none() && namespace.status.phase != "Terminating"
    })
}

/// The namespace in which an object of this name is gone.
fn namespace_of_lost<K: Object>(old: Option<&K>, new: Option<&K>, name: &str) -> Vec<Key> {
    let lost = old.filter(|object| new.is_none() && object.name() == name);
    lost.map(|object| Key::new("", object.namespace())).into_iter().collect()
}

#[cfg(test)]
mod tests;
