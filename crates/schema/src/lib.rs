//! What an object is: one table of types, and everything that reads it.
//!
//! [`Table`] holds every message, field and resource. The built-in one ([`Table::builtin`]) comes from
//! `schema-data/` at build time; a custom resource makes a small one of its own from its OpenAPI schema,
//! and the same code serves both. This crate is pure: bytes and values in, bytes and values out.

pub mod api;
pub mod apply;
mod builtin;
pub mod checks;
pub mod cidr;
pub mod defaults;
pub mod json;
mod lookup;
pub mod patch;
mod plan;
mod presets;
pub mod proto;
pub mod quantity;
pub mod selector;
pub mod stored;
pub mod structural;
mod table;
pub mod time;
pub mod transcode;
pub mod validate;
mod value;
pub mod yaml;

pub use json::{DecodeError, Decoded, FieldProblem, SyntaxError};
pub use presets::{Conditional, Preset};
pub use table::{
    Column, Field, Form, Kind, ListKind, MapKind, Message, MessageId, PatchStrategy, Resource, Scalar, Subresource,
    Table, Type,
};
pub use value::{Key, Object, Value};
