//! Field errors in upstream's words, and the rules that make them.

use crate::{MessageId, Table, Value};

/// `field.Error`: one cause of a 422.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// `spec.containers[0].name`
    pub field: String,
    pub bad_value: Value,
    pub detail: String,
}

/// `field.ErrorType`; its reason strings are those of `metav1.CauseType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

/// Rules by message and field path, from the overlay.
#[derive(Debug, Default)]
pub struct RuleBook {
    _rows: (),
}

/// Everything wrong with an object by the rules of its kind (`old` on update, for immutability).
pub fn object(
    table: &Table,
    rules: &RuleBook,
    id: MessageId,
    new: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let _ = (table, rules, id, new, old);
    todo!()
}
