//! What a kind does that no table can say: small named functions, chosen by resource.
//!
//! [`Strategy`] lists the places where a kind may differ; [`PLAIN`] is what all others do, and a kind's row
//! (`..PLAIN`) names only its differences.

use schema::{Resource, Value, validate::FieldError};

use crate::{Server, User, kind::Kind, meta::{self, NameRule}, status::Result};

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
    pub name_rule: fn(&Kind) -> NameRule,
    /// Defaults that depend on other fields.
    pub default: fn(&mut Value),
    /// Resets what a creator may not set: before managers are recorded and after admission.
    pub wipe_for_create: fn(&Kind, &mut Value),
    pub keep_for_update: fn(&Kind, &mut Value, &Value),
    pub keep_for_status: fn(&Kind, &mut Value, &Value),
    pub prepare_create: fn(&Cx<'_>, &mut Value) -> Result<()>,
    pub prepare_update: fn(&Cx<'_>, &mut Value, &Value) -> Result<()>,
    pub prepare_status: fn(&Cx<'_>, &mut Value, &Value) -> Result<()>,
    pub validate: fn(&Cx<'_>, &Value, Option<&Value>) -> Vec<FieldError>,
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// A prepared object is not stored after all.
    pub abandon: fn(&Cx<'_>, &Value),
    pub abandon_update: fn(&Cx<'_>, &Value, &Value),
    pub updated: fn(&Cx<'_>, &Value, &Value),
    pub deleted: fn(&Cx<'_>, &Value),
    /// Seconds of grace for a deletion; `None`: the kind has no graceful deletion.
    pub grace: fn(&Value, Option<i64>) -> Option<i64>,
    /// Beyond finalizers in metadata: may an update remove the object?
    pub may_delete_on_update: fn(&Value) -> bool,
}

pub const PLAIN: Strategy = Strategy {
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    returns_deleted: false,
    dependents: Dependents::Delete,
    name_rule: |_| NameRule::Subdomain,
    default: |_| {},
    wipe_for_create,
    keep_for_update,
    keep_for_status,
    prepare_create,
    prepare_update,
    prepare_status: |_, _, _| Ok(()),
    validate: |_, _, _| Vec::new(),
    warnings: |_, _| Vec::new(),
    abandon: |_, _| {},
    abandon_update: |_, _, _| {},
    updated: |_, _, _| {},
    deleted: |_, _| {},
    grace: |_, _| None,
    may_delete_on_update: |_| true,
};

fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// Status is not the creator's business.
pub fn wipe_for_create(kind: &Kind, object: &mut Value) {
    if has_status(kind) {
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

/// Updates of the main resource leave the status alone.
pub fn keep_for_update(kind: &Kind, object: &mut Value, old: &Value) {
    if has_status(kind) {
        keep(object, old, &["status"]);
    }
}

/// Updates of the status leave all else alone.
pub fn keep_for_status(_: &Kind, object: &mut Value, old: &Value) {
    let members: Vec<String> = old
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

/// For kinds whose status updates may not touch metadata either.
pub fn keep_meta_for_status(kind: &Kind, object: &mut Value, old: &Value) {
    keep_for_status(kind, object, old);
    for name in ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation"] {
        keep(object, old, &["metadata", name]);
    }
}

pub fn prepare_create(cx: &Cx<'_>, object: &mut Value) -> Result<()> {
    if cx.kind.strategy.generation {
        meta::set_generation(object, 1);
    } else {
        object.remove(&["metadata", "generation"]);
    }
    Ok(())
}

/// Everything but metadata and status.
pub fn differs_in_content(new: &Value, old: &Value) -> bool {
    let content = |v: &Value| -> Vec<(String, Value)> {
        let members = v.as_object().into_iter().flatten();
        members.filter(|(k, v)| *k != "metadata" && *k != "status" && !v.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    content(new) != content(old)
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
pub static CUSTOM: Strategy = Strategy { generation: true, unconditional_update: false, ..PLAIN };

/// The strategy of a built-in resource.
pub fn find(resource: &Resource) -> &'static Strategy {
    static DEFAULT: Strategy = PLAIN;
    let _ = resource;
    &DEFAULT
}

/// What is handed out from memory: cluster IPs and node ports.
#[derive(Default)]
pub struct Allocators {}

impl Allocators {
    pub fn new(
        _cidrs: &[String],
        _ports: std::ops::RangeInclusive<u16>,
    ) -> std::result::Result<Self, (String, &'static str)> {
        Ok(Allocators::default())
    }
}

/// Reads from the caches what is handed out already.
pub fn repair(_server: &Server) {}
