//! What authentication, authorization, admission and the objects of the first start read of the cluster: decoded
//! objects by kind and name, and what changed since a revision. [`crate::Server`] is one; tests have their own.

use std::sync::Arc;

use schema::Value;
use tokio::sync::watch;

/// A kind, as `group` and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Of(pub &'static str, pub &'static str);

pub const CLUSTER_ROLES: Of = Of("rbac.authorization.k8s.io", "clusterroles");
pub const CLUSTER_ROLE_BINDINGS: Of = Of("rbac.authorization.k8s.io", "clusterrolebindings");
pub const INGRESS_CLASSES: Of = Of("networking.k8s.io", "ingressclasses");
pub const LIMIT_RANGES: Of = Of("", "limitranges");
pub const NAMESPACES: Of = Of("", "namespaces");
pub const NODES: Of = Of("", "nodes");
pub const PERSISTENT_VOLUMES: Of = Of("", "persistentvolumes");
pub const PERSISTENT_VOLUME_CLAIMS: Of = Of("", "persistentvolumeclaims");
pub const POD_CERTIFICATE_REQUESTS: Of = Of("certificates.k8s.io", "podcertificaterequests");
pub const PODS: Of = Of("", "pods");
pub const PRIORITY_CLASSES: Of = Of("scheduling.k8s.io", "priorityclasses");
pub const RESOURCE_QUOTAS: Of = Of("", "resourcequotas");
pub const RESOURCE_SLICES: Of = Of("resource.k8s.io", "resourceslices");
pub const ROLES: Of = Of("rbac.authorization.k8s.io", "roles");
pub const ROLE_BINDINGS: Of = Of("rbac.authorization.k8s.io", "rolebindings");
pub const RUNTIME_CLASSES: Of = Of("node.k8s.io", "runtimeclasses");
pub const SECRETS: Of = Of("", "secrets");
pub const SERVICE_ACCOUNTS: Of = Of("", "serviceaccounts");
pub const STORAGE_CLASSES: Of = Of("storage.k8s.io", "storageclasses");
pub const VOLUME_ATTACHMENTS: Of = Of("storage.k8s.io", "volumeattachments");

/// One change of one object: created (no old), changed, or deleted (no new).
#[derive(Clone, Debug)]
pub struct Changed {
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

pub trait View: Sync {
    fn get(&self, of: Of, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// Visits all objects, or those of a namespace, decoding one at a time; returns the revision they are of.
    fn each(&self, of: Of, namespace: &str, visit: &mut dyn FnMut(&Arc<Value>)) -> u64;

    /// Revision of the newest change of this kind.
    fn revision(&self, of: Of) -> u64;

    /// Wakes when something of the kind changes, for those who look often; nothing if there is only [`Self::revision`].
    fn news(&self, of: Of) -> Option<watch::Receiver<u64>> {
        let _ = of;
        None
    }

    /// The changes after a revision and the revision they lead to; `None` if they are no longer known.
    fn changes(&self, of: Of, after: u64) -> Option<(Vec<Changed>, u64)>;

    fn list(&self, of: Of, namespace: &str) -> Vec<Arc<Value>> {
        let mut all = Vec::new();
        self.each(of, namespace, &mut |value| all.push(value.clone()));
        all
    }
}

/// The position of something that is derived from one kind and brought up to date when it is read.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Nothing was read before the first catching up.
    at: Option<u64>,
    /// Asked instead of the revision: it costs one atomic load.
    news: Option<watch::Receiver<u64>>,
}

impl Cursor {
    pub fn is_current(&self, view: &dyn View, of: Of) -> bool {
        let Some(at) = self.at else { return false };
        match self.news.as_ref().map(watch::Receiver::has_changed) {
            Some(Ok(has_changed)) => !has_changed,
            _ => at >= view.revision(of),
        }
    }

    /// Calls `reset` and then `apply` for everything, or `apply` for what is new.
    pub fn catch_up<T>(
        &mut self,
        view: &dyn View,
        of: Of,
        derived: &mut T,
        reset: impl FnOnce(&mut T),
        apply: fn(&mut T, old: Option<&Value>, new: Option<&Value>),
    ) {
        if self.is_current(view, of) {
            return;
        }
        if self.news.is_none() {
            self.news = view.news(of);
        }
        // Seen before it is read: what comes in between is read again.
        if let Some(news) = &mut self.news {
            news.mark_unchanged();
        }
        if let Some((changes, revision)) = self.at.and_then(|at| view.changes(of, at)) {
            for change in changes {
                apply(derived, change.old.as_deref(), change.new.as_deref());
            }
            self.at = Some(revision);
            return;
        }
        reset(derived);
        self.at = Some(view.each(of, "", &mut |value| apply(derived, None, Some(value))));
    }
}

/// `metadata.name` and `metadata.namespace`.
pub fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

pub fn namespace(object: &Value) -> &str {
    object.str_at(&["metadata", "namespace"])
}

pub fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(&["metadata", "annotations", key])?.as_str()
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(&["metadata", "labels", key])?.as_str()
}

pub fn is_deleting(object: &Value) -> bool {
    object.get(&["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null())
}

#[cfg(test)]
#[path = "view/fake_tests.rs"]
pub mod fake;
