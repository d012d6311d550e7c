//! Protobuf as gogo writes it, both directions, and the `k8s\0` envelope.

pub(crate) mod read;
pub mod wire;
mod write;

use crate::{MessageId, Table, Value};
pub use read::find;
use wire::{Cursor, LEN};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("protobuf: {what} is cut off at byte {offset}")]
    Truncated { what: &'static str, offset: u64 },
    #[error("protobuf: wire type {wire} does not fit field {field} of {message}")]
    WireType { message: String, field: u32, wire: u8 },
    #[error("protobuf: nested deeper than {0} messages")]
    TooDeep(usize),
    #[error("protobuf: {message} holds JSON that does not parse")]
    Json { message: String },
    #[error("protobuf: {message} holds {text:?}, which does not parse")]
    Text { message: String, text: String },
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoEnvelope,
}

/// `runtime.Unknown`: what stands around every stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
    pub content_encoding: &'a str,
    pub content_type: &'a str,
}

/// Nested messages; a level of JSON takes up to two of them.
pub(crate) const MAX_DEPTH: usize = 2 * crate::json::MAX_DEPTH;

pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Decodes a message into its normal form, the same as its JSON would give.
pub fn decode(table: &Table, id: MessageId, bytes: &[u8]) -> Result<Value, WireError> {
    read::message(table, table.message(id), bytes, 0)
}

/// Appends a message as gogo marshals it: fields by number, plain fields always, maps sorted.
pub fn encode(table: &Table, id: MessageId, value: &Value, out: &mut Vec<u8>) {
    write::message(table, table.message(id), value, out);
}

/// `k8s\0` and a `runtime.Unknown` around an encoded message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    envelope_head(api_version, kind, raw.len(), &mut out);
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_TAIL);
    out
}

/// What stands before `length` bytes of an enveloped message.
pub fn envelope_head(api_version: &str, kind: &str, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    wire::write_nested(1, out, |out| {
        wire::write_bytes(1, api_version.as_bytes(), out);
        wire::write_bytes(2, kind.as_bytes(), out);
    });
    wire::write_tag(2, LEN, out);
    wire::write_varint(length as u64, out);
}

/// What stands after it: `contentEncoding` and `contentType`, both empty.
pub const ENVELOPE_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// Takes the envelope off.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, WireError> {
    let mut cursor = Cursor::new(bytes.strip_prefix(MAGIC).ok_or(WireError::NoEnvelope)?);
    let mut envelope = Envelope::default();
    while let Some((tag, wire)) = cursor.tag()? {
        match (tag, wire) {
            (1, LEN) => {
                let mut meta = Cursor::new(cursor.bytes()?);
                while let Some((tag, wire)) = meta.tag()? {
                    match (tag, wire) {
                        (1, LEN) => envelope.api_version = text(meta.bytes()?)?,
                        (2, LEN) => envelope.kind = text(meta.bytes()?)?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            (2, LEN) => envelope.raw = cursor.bytes()?,
            (3, LEN) => envelope.content_encoding = text(cursor.bytes()?)?,
            (4, LEN) => envelope.content_type = text(cursor.bytes()?)?,
            _ => cursor.skip(wire)?,
        }
    }
    Ok(envelope)
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Text {
        message: "runtime.Unknown".to_owned(),
        text: String::from_utf8_lossy(bytes).into_owned(),
    })
}
