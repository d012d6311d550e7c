//! JSON: parsing with limits, typed decoding as Go's strict decoder does it, and encoding in Go's order.

mod normal;
mod reader;
mod typed;
mod write;

use crate::{MessageId, Table, Type, Value};

pub(crate) use reader::Reader;
pub use write::{encode, encode_untyped, write_string};
pub(crate) use write::{write_f32, write_f64, write_i64};

/// Deeper nesting than this is refused (upstream: 10,000, on a stack that grows).
pub const MAX_DEPTH: usize = 128;

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
    /// Repeated keys of a YAML document, a line each: `line 9: key "foo" already set in map`.
    #[error("yaml: unmarshal errors:\n  {}", .0.join("\n  "))]
    Yaml(Vec<String>),
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
    parse_strict(bytes).map(|d| d.value)
}

/// As [`parse`], and reports duplicate members with their paths.
pub fn parse_strict(bytes: &[u8]) -> Result<Decoded, SyntaxError> {
    let mut reader = Reader::new(bytes);
    let value = reader.value(&reader::Path::ROOT)?;
    reader.end()?;
    Ok(Decoded { value, problems: reader.problems })
}

/// Decodes a versioned object: unknown fields are dropped and reported, mistyped ones are an error.
pub fn decode(table: &Table, id: MessageId, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    typed::decode(table, &Type::Message(id), bytes)
}

/// Decodes a value of any type of the table.
pub fn decode_type(table: &Table, ty: &Type, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    typed::decode(table, ty, bytes)
}

/// The same for a value that is parsed already (from YAML, or the result of a patch).
pub fn typed(table: &Table, id: MessageId, value: Value) -> Result<Decoded, DecodeError> {
    if table.is_normal(&Type::Message(id), &value) {
        return Ok(Decoded { value, problems: Vec::new() });
    }
    let mut bytes = Vec::with_capacity(1024);
    encode_untyped(&value, &mut bytes);
    decode(table, id, &bytes)
}
