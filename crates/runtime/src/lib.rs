//! What a node does with containers and images: OCI images, overlayfs, cgroups, keepers. Asynchronous callers, blocking kernel.

pub mod containers;
pub mod cri;
pub mod images;
mod removal;

/// What a lock guards is whole between two statements of its holder: one that panicked spoils nothing.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
