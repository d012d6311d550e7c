//! JSON: parsing with limits, typed decoding as Go's strict decoder does it, and encoding in Go's order.

use crate::{MessageId, Table, Type, Value};

/// The bytes are not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    pub offset: u64,
    /// Go's words: `invalid character 'x' looking for beginning of value`.
    pub message: String,
}

/// What strict field validation reports and lenient validation warns of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FieldProblem {
    #[error("unknown field {0:?}")]
    Unknown(String),
    #[error("duplicate field {0:?}")]
    Duplicate(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// `json: cannot unmarshal string into Go struct field PodSpec.spec.x of type int32`, and what Quantity and the like say.
    #[error("{0}")]
    Mistyped(String),
}

/// A value in its schema's normal form: absent is absent, zero values stand where upstream prints them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Decoded {
    pub value: Value,
    pub problems: Vec<FieldProblem>,
}

/// Parses any JSON; of duplicate members the last wins.
pub fn parse(bytes: &[u8]) -> Result<Value, SyntaxError> {
    let _ = bytes;
    todo!()
}

/// As [`parse`], and reports duplicate members with their paths.
pub fn parse_strict(bytes: &[u8]) -> Result<Decoded, SyntaxError> {
    let _ = bytes;
    todo!()
}

/// Decodes a versioned object: unknown fields are dropped and reported, mistyped ones are an error.
pub fn decode(table: &Table, id: MessageId, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let _ = (table, id, bytes);
    todo!()
}

/// The same for a value that is parsed already (from YAML, or the result of a patch).
pub fn typed(table: &Table, id: MessageId, value: Value) -> Result<Decoded, DecodeError> {
    let _ = (table, id, value);
    todo!()
}

/// Writes a value as upstream's Go struct prints. `kind` and `apiVersion` of the root come first.
pub fn encode(table: &Table, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    let _ = (table, ty, value, out);
    todo!()
}

/// Writes a value as Go prints a `map[string]any`: keys sorted.
pub fn encode_untyped(value: &Value, out: &mut Vec<u8>) {
    let _ = (value, out);
    todo!()
}
