//! Structural schemas of custom resources: OpenAPI v3 to a [`Table`], pruning, defaulting and validation.

use crate::{FieldProblem, MessageId, Table, Value, validate::FieldError};

/// One CRD version's schema, ready for use.
#[derive(Debug)]
pub struct Schema {
    pub table: Table,
    pub root: MessageId,
}

impl Schema {
    /// `spec.versions[].schema.openAPIV3Schema`; what is wrong with it comes as field errors below `path`.
    pub fn new(open_api_v3: &Value, path: &str) -> Result<Schema, Vec<FieldError>> {
        let _ = (open_api_v3, path);
        todo!()
    }

    /// Drops unknown fields and reports them.
    pub fn prune(&self, value: &mut Value) -> Vec<FieldProblem> {
        let _ = value;
        todo!()
    }

    pub fn default(&self, value: &mut Value) {
        let _ = value;
        todo!()
    }

    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        let _ = value;
        todo!()
    }
}
