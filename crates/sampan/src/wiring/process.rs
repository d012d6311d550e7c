//! What this process and its datastore take, as metrics.

use std::path::PathBuf;

use apiserver::Page;

/// Writes `process_*` and the size of the datastore.
pub fn metrics(database: PathBuf) -> impl Fn(&mut Page) {
    move |page| {
        for (name, kind, help, value) in node::process_metrics() {
            page.family(name, kind, help).sample(&[], value);
        }
        let bytes = std::fs::metadata(&database).map_or(0, |file| file.len());
        let help = "[STABLE] Size of the storage database file physically allocated in bytes.";
        page.family("apiserver_storage_size_bytes", "gauge", help).sample(&[("storage_cluster_id", "etcd-0")], bytes);
    }
}
