//! What an object is: one table of types, and everything that reads it.
//!
//! [`Table`] holds every message, field and resource. The built-in one ([`Table::builtin`]) comes from
//! `schema-data/` at build time; a custom resource makes a small one of its own from its OpenAPI schema,
//! and the same code serves both. This crate is pure: bytes and values in, bytes and values out.

mod table;
mod value;

pub use table::{
    Column, Field, Form, ListKind, MapKind, Message, MessageId, PatchStrategy, Resource, Scalar, Subresource, Table,
    Type,
};
pub use value::{Object, Value};
