//! The DaemonSet controller: one pod on every node that may run it, replaced as its template changes.
