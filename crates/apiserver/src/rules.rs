//! Validation of built-in kinds by the schema's rules.

use schema::{Value, validate::FieldError};

use crate::kind::Kind;

pub fn check(_kind: &Kind, _new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}
