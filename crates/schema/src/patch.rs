//! The three patches: RFC 6902, RFC 7386 and strategic merge.

use crate::{Table, Type, Value};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// 422: the patch does not fit the object (`test` failed, path not there).
    #[error("{0}")]
    Unprocessable(String),
    /// 413: more operations than upstream allows.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {got}")]
    TooManyOperations { max: usize, got: usize },
}

/// RFC 6902, at most 10,000 operations.
pub fn json_patch(original: Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (original, patch);
    todo!()
}

/// RFC 7386.
pub fn merge_patch(original: Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (original, patch);
    todo!()
}

/// Strategic merge by the schema's patch strategies and merge keys, with all `$` directives.
pub fn strategic(table: &Table, ty: &Type, original: Value, patch: Value) -> Result<Value, PatchError> {
    let _ = (table, ty, original, patch);
    todo!()
}
