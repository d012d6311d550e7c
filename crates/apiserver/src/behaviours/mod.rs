//! What a kind does that no table can say: small named functions, chosen by resource.
//!
//! [`Strategy`] lists the places where a kind may differ; [`PLAIN`] is what all others do, and a kind's row
//! (`..PLAIN`) names only its differences.

mod devices;
mod objects;
mod pod_certificates;
pub mod pods;
mod services;
mod warnings;
mod workloads;

pub(crate) use objects::named;

use schema::validate::{FieldError, NameRule};
use schema::{Resource, Value};

pub use self::services::{Allocators, repair};

use crate::{Server, User, kind::Kind, meta, status::Result};

/// What a behaviour may look at.
pub struct Cx<'a> {
    pub server: &'a Server,
    pub user: &'a User,
    pub kind: &'a Kind,
    pub subresource: &'a str,
    pub dry_run: bool,
}

/// Whose dependents go with an object if nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    Delete,
    /// They stay, with the `orphan` finalizer, as it was before there was a garbage collector.
    Orphan,
    /// Nobody may own through it (events).
    Unsupported,
}

pub struct Strategy {
    /// Counts changes of the specification in metadata.generation.
    pub generation: bool,
    pub create_on_update: bool,
    /// Updates without a resourceVersion are taken.
    pub unconditional_update: bool,
    /// A deletion answers with the object, not with a Status.
    pub returns_deleted: bool,
    pub dependents: Dependents,
    pub name_rule: NameRule,
    /// Defaults that depend on other fields.
    pub default: fn(&mut Value),
    /// Resets what a creator may not set: before managers are recorded and after admission.
    pub wipe_for_create: fn(&Cx<'_>, &mut Value),
    pub keep_for_update: fn(&Kind, &mut Value, &Value),
    pub keep_for_status: fn(&Kind, &mut Value, &Value),
    /// For subresources that take the whole object but mean a part of it.
    pub keep_for_other: fn(&str, &mut Value, &Value),
    pub prepare_create: fn(&Cx<'_>, &mut Value) -> Result<()>,
    pub prepare_update: fn(&Cx<'_>, &mut Value, &Value) -> Result<()>,
    pub prepare_status: fn(&Cx<'_>, &mut Value, &Value) -> Result<()>,
    pub prepare_other: fn(&Cx<'_>, &mut Value, &Value) -> Result<()>,
    pub validate: fn(&Cx<'_>, &Value, Option<&Value>) -> Vec<FieldError>,
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// A prepared object is not stored after all, as the new form of another or by itself; if the kind reserves anything.
    pub abandon: Option<fn(&Cx<'_>, &Value, Option<&Value>)>,
    pub updated: fn(&Cx<'_>, &Value, &Value),
    pub deleted: fn(&Cx<'_>, &Value),
    /// Seconds of grace for a deletion; `None`: the kind has no graceful deletion.
    pub grace: fn(&Value, Option<i64>) -> Option<i64>,
    /// May a deletion remove the object at once, if it has neither finalizers nor grace?
    pub may_remove: fn(&Value) -> bool,
    /// A deletion has marked the object instead of removing it.
    pub marked: fn(&mut Value),
    /// Beyond finalizers in metadata: may an update remove the object?
    pub may_delete_on_update: fn(&Value) -> bool,
}

pub const PLAIN: Strategy = Strategy {
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    returns_deleted: false,
    dependents: Dependents::Delete,
    name_rule: NameRule::Subdomain,
    default: |_| {},
    wipe_for_create,
    keep_for_update,
    keep_for_status,
    keep_for_other: |_, _, _| {},
    prepare_create,
    prepare_update,
    prepare_status: |_, _, _| Ok(()),
    prepare_other: |_, _, _| Ok(()),
    validate: |_, _, _| Vec::new(),
    warnings: |_, _| Vec::new(),
    abandon: None,
    updated: |_, _, _| {},
    deleted: |_, _| {},
    grace: |_, _| None,
    may_remove: |_| true,
    marked: |_| {},
    may_delete_on_update: |_| true,
};

fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// Status is not the creator's business.
pub fn wipe_for_create(cx: &Cx<'_>, object: &mut Value) {
    if has_status(cx.kind) {
        object.remove(&["status"]);
    }
}

pub fn keep(object: &mut Value, old: &Value, path: &[&str]) {
    match old.get(path) {
        Some(value) => object.set(path, value.clone()),
        None => {
            object.remove(path);
        }
    }
}

/// As [`keep`], of a member of every container in a pod's specification that is still the same one.
pub fn keep_in_containers(spec: &mut Value, old: &Value, member: &str) {
    for field in ["containers", "initContainers"] {
        let before = old.list_at(&[field]);
        let containers = spec.get_mut(&[field]).and_then(Value::as_list_mut).filter(|list| list.len() == before.len());
        for (container, before) in containers.into_iter().flatten().zip(before) {
            if container["name"] == before["name"] {
                keep(container, before, &[member]);
            }
        }
    }
}

/// Updates of the main resource leave the status alone.
pub fn keep_for_update(kind: &Kind, object: &mut Value, old: &Value) {
    if has_status(kind) {
        keep(object, old, &["status"]);
    }
}

/// Younger kinds, whose status updates leave metadata alone too.
fn keeps_metadata(kind: &Kind) -> bool {
    matches!(
        (&*kind.resource.group, &*kind.resource.plural),
        ("apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" | "resource.k8s.io" | "storage.k8s.io", _)
            | ("storagemigration.k8s.io" | "admissionregistration.k8s.io", _)
            | ("networking.k8s.io", "servicecidrs")
            | ("certificates.k8s.io", "podcertificaterequests")
    )
}

/// Updates of the status leave all else alone.
pub fn keep_for_status(kind: &Kind, object: &mut Value, old: &Value) {
    if keeps_metadata(kind) {
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            keep(object, old, &["metadata", field]);
        }
    }
    let members: Vec<schema::Key> = old
        .as_object()
        .into_iter()
        .chain(object.as_object())
        .flat_map(|o| o.keys().cloned())
        .filter(|k| k != "metadata" && k != "status")
        .collect();
    for member in members {
        keep(object, old, &[&member]);
    }
}

pub fn prepare_create(cx: &Cx<'_>, object: &mut Value) -> Result<()> {
    if cx.kind.strategy.generation {
        meta::set_generation(object, 1);
    }
    Ok(())
}

/// Everything but metadata and status.
pub fn differs_in_content(new: &Value, old: &Value) -> bool {
    fn content(object: &Value) -> impl Iterator<Item = (&schema::Key, &Value)> {
        let members = object.as_object().into_iter().flatten();
        members.filter(|(k, v)| *k != "metadata" && *k != "status" && !v.is_empty())
    }
    content(new).ne(content(old))
}

pub fn bump_generation(new: &mut Value, old: &Value) {
    if differs_in_content(new, old) {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

pub fn prepare_update(cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<()> {
    if cx.kind.strategy.generation {
        bump_generation(new, old);
    }
    Ok(())
}

/// Custom resources.
pub static CUSTOM: Strategy = Strategy {
    generation: true,
    keep_for_status: |kind, object, old| {
        let written = |field: &str| object.get(&["metadata", field]).cloned();
        let kept = [("managedFields", written("managedFields")), ("resourceVersion", written("resourceVersion"))];
        keep_for_status(kind, object, old);
        keep(object, old, &["metadata"]);
        for (field, value) in kept {
            match value {
                Some(value) => object.set(&["metadata", field], value),
                None => drop(object.remove(&["metadata", field])),
            }
        }
    },
    unconditional_update: false,
    warnings: crate::crd_objects::finalizers,
    prepare_update: |cx, new, old| {
        bump_generation(new, old);
        // Without a status subresource the status is content like any other.
        if !has_status(cx.kind) && meta::generation(new) == meta::generation(old) && new["status"] != old["status"] {
            meta::set_generation(new, meta::generation(old) + 1);
        }
        Ok(())
    },
    ..PLAIN
};

/// The strategy of a built-in resource.
pub fn find(resource: &Resource) -> &'static Strategy {
    use objects as o;
    use workloads as w;
    static DEFAULT: Strategy = PLAIN;
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => &pods::POD,
        ("", "services") => &services::SERVICE,
        ("", "namespaces") => &o::NAMESPACE,
        ("", "nodes") => &o::NODE,
        ("", "persistentvolumes") => &o::PERSISTENT_VOLUME,
        ("", "persistentvolumeclaims") => &o::PERSISTENT_VOLUME_CLAIM,
        ("", "secrets") => &o::SECRET,
        ("", "configmaps") => &o::CONFIG_MAP,
        ("", "events") => &o::EVENT,
        ("events.k8s.io", "events") => &o::NEW_EVENT,
        ("", "endpoints") => &o::CREATE_ON_UPDATE,
        ("", "limitranges") => &o::LIMIT_RANGE,
        ("", "serviceaccounts" | "resourcequotas") => &o::RETURNS,
        ("", "podtemplates") => &o::RETURNS_COUNTED,
        ("", "replicationcontrollers") => &w::REPLICATION_CONTROLLER,
        ("apps", "replicasets") => &w::WORKLOAD,
        ("apps", "deployments") => &w::DEPLOYMENT,
        ("apps", "daemonsets") => &w::DAEMON_SET,
        ("apps", "statefulsets") => &w::STATEFUL_SET,
        ("batch", "jobs") => &w::JOB,
        ("batch", "cronjobs") => &w::CRON_JOB,
        ("rbac.authorization.k8s.io", _) => &o::ROLE,
        ("networking.k8s.io", "ipaddresses") => &o::IP_ADDRESS,
        ("node.k8s.io", "runtimeclasses") => &o::RUNTIME_CLASS,
        ("coordination.k8s.io", _) => &o::LEASE,
        ("certificates.k8s.io", "clustertrustbundles") => &o::CLUSTER_TRUST_BUNDLE,
        ("certificates.k8s.io", "certificatesigningrequests") => &o::CERTIFICATE_SIGNING_REQUEST,
        ("certificates.k8s.io", "podcertificaterequests") => &pod_certificates::POD_CERTIFICATE_REQUEST,
        ("apiregistration.k8s.io", "apiservices") => &o::API_SERVICE,
        ("apiextensions.k8s.io", "customresourcedefinitions") => &o::DEFINITION,
        ("policy", "poddisruptionbudgets") => &o::DISRUPTION_BUDGET,
        ("discovery.k8s.io", _) => &o::ENDPOINT_SLICE,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            &o::WEBHOOKS
        }
        ("admissionregistration.k8s.io", _) => &o::POLICIES,
        ("storagemigration.k8s.io", _) => &o::STRICT,
        ("storage.k8s.io", "csidrivers") => &o::CSI_DRIVER,
        ("storage.k8s.io", "csinodes" | "volumeattachments") => &o::RETURNS_STRICT,
        ("storage.k8s.io", "csistoragecapacities") => &o::STRICT,
        ("storage.k8s.io", _) => &o::RETURNS,
        ("resource.k8s.io", "resourceslices") => &devices::SLICE,
        ("resource.k8s.io", "deviceclasses") => &devices::CLASS,
        ("resource.k8s.io", "devicetaintrules") => &devices::TAINT_RULE,
        ("resource.k8s.io", "resourceclaims" | "resourceclaimtemplates") => &devices::CLAIM,
        ("resource.k8s.io", _) => &o::RETURNS,
        ("scheduling.k8s.io", "priorityclasses")
        | ("networking.k8s.io", "ingresses" | "ingressclasses" | "networkpolicies")
        | ("flowcontrol.apiserver.k8s.io", _) => &o::COUNTED,
        ("autoscaling", _) => &o::AUTOSCALER,
        _ => &DEFAULT,
    }
}
