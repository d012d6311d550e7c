//! What a node does with containers and images: OCI images, overlayfs, cgroups, keepers. Asynchronous callers, blocking kernel.

pub mod containers;
pub mod images;
