//! Server-side apply and managed fields, after sigs.k8s.io/structured-merge-diff and apimachinery's managedfields.

use crate::{Table, Type, Value};

/// Who writes, as what, and when (RFC 3339 seconds): nothing here reads a clock.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// The version of the object in hand: `apps/v1`.
    pub api_version: &'a str,
    /// Empty for the main resource, else `status`, `scale`, …
    pub subresource: &'a str,
    pub now: &'a str,
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// `conflict with "kubectl" using apps/v1`: the cause's message.
    pub message: String,
    /// `.spec.replicas`: the cause's field.
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409, reason Conflict, one cause each; the message is upstream's.
    #[error("{}", conflicts_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: managedFields in the applied object.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsSet,
    /// 500 upstream: the object does not fit its schema, or its keys are duplicate.
    #[error("{0}")]
    Invalid(String),
}

fn conflicts_message(conflicts: &[Conflict]) -> String {
    let _ = conflicts;
    todo!()
}

/// Records the ownership of a create, update or patch in `new.metadata.managedFields`.
pub fn update(table: &Table, ty: &Type, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let _ = (table, ty, old, new, writer);
    todo!()
}

/// Server-side apply of `config` onto `live` (`None`: create). The result carries its managedFields;
/// `Ok(None)`: nothing changed, keep the live object.
pub fn apply(
    table: &Table,
    ty: &Type,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Option<Value>, ApplyError> {
    let _ = (table, ty, live, config, writer, force);
    todo!()
}
