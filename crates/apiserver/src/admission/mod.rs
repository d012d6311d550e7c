//! Admission: plugins that change or refuse an object between decoding and validation. One file a plugin.

mod certificates;
mod chosen;
mod claim_resize;
mod default_class;
mod default_toleration_seconds;
mod escalation;
pub(crate) mod expressions;
mod in_use_protection;
mod limit_ranger;
pub(crate) mod matching;
mod namespace_lifecycle;
mod node_certificates;
mod node_restriction;
mod pod_resize;
mod pod_security;
mod pod_security_checks;
mod pod_topology_labels;
pub mod policies;
mod priority;
mod quota_usage;
pub mod registry;
mod resource_quota;
mod rule;
mod runtime_class;
mod service_account;
mod taint_nodes;
#[cfg(test)]
mod tests;
mod token_secret;
mod turns;

use std::sync::Arc;

use schema::Value;
use tokio::time::Instant;

pub(crate) use certificates::may_use_signer;
pub(crate) use resource_quota::give_back;
pub use turns::Turns;

use crate::{Server, Status, User, kind::Kind, reply::Warnings, request::GroupResource, seams::BoxFuture};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As webhooks and policies spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What plugins see of a request. Objects are in the version of the request.
#[derive(Debug)]
pub struct AdmissionRequest {
    pub user: User,
    pub operation: Operation,
    pub group: String,
    pub version: String,
    /// Of the object: the resource's, or a subresource's own (`autoscaling/v1`, `Scale`).
    pub api_version: String,
    pub kind: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    /// Empty on creation with `generateName` only until the name is made.
    pub name: String,
    /// The new object; `Null` for a deletion; the options object for a connection.
    pub object: Value,
    /// The stored object, for updates and deletions (`None` in deletecollection's first call).
    pub old: Option<Arc<Value>>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: Value,
    pub dry_run: bool,
    /// `Warning` headers for the client, and annotations for the audit log.
    pub warnings: Warnings,
    /// When the time of the request is over.
    pub deadline: Instant,
    pub turns: Turns,
}

impl AdmissionRequest {
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.resource)
    }

    /// The kind of the object, unless it is a subresource's own (`Scale`).
    pub fn served(&self, server: &Server) -> Option<Arc<Kind>> {
        let registry = server.registry();
        let own = registry.get(&self.group, &self.version, &self.resource);
        own.filter(|k| k.kind() == self.kind && *k.api_version == *self.api_version).cloned()
    }

    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// Upstream's refusal by an admission plugin: 403 with `RESOURCE "NAME" is forbidden: WHY`.
    pub fn forbidden(&self, why: &str) -> Status {
        // The name may not be made yet.
        let in_object = |field| self.object.str_at(&["metadata", field]);
        let names = [&self.name, in_object("name"), in_object("generateName"), "Unknown"];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        Status::forbidden(&self.group_resource(), name, why)
    }
}

/// Whether a request may go on.
pub type Judged<'a> = BoxFuture<'a, Result<(), Status>>;

/// One admission plugin. Order is the registry's; mutation runs before defaults are final and validation of the object,
/// `validate` after it, just before the commit.
pub trait Plugin: Send + Sync {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    fn mutate<'a>(&'a self, _server: &'a Server, _request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn validate<'a>(&'a self, _server: &'a Server, _request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}
