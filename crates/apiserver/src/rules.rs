//! Validation of built-in kinds by the schema's rules.

use schema::Value;
use schema::validate::{FieldError, RuleBook, object};

use crate::kind::Kind;

pub fn check(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    object(kind.table(), RuleBook::builtin(), kind.message(), new, old)
}
