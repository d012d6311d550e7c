//! Reading and touching up stored bodies (enveloped protobuf, or JSON for custom resources) without decoding them.

use std::borrow::Cow;

use crate::{MessageId, Table, proto::WireError};

/// What the cache and the watch path need of an object's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta<'a> {
    pub name: Cow<'a, str>,
    pub namespace: Cow<'a, str>,
    pub uid: Cow<'a, str>,
    pub resource_version: Cow<'a, str>,
    pub deleting: bool,
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Reads metadata straight from the bytes.
pub fn meta(body: &[u8]) -> Result<Meta<'_>, WireError> {
    let _ = body;
    todo!()
}

/// A scalar at a dotted JSON path, as the string a field selector compares (`""` if absent).
pub fn field<'a>(table: &Table, id: MessageId, body: &'a [u8], path: &str) -> Result<Cow<'a, str>, WireError> {
    let _ = (table, id, body, path);
    todo!()
}

/// The same body with `metadata.resourceVersion` set: the rest is copied, not decoded.
pub fn set_resource_version(body: &[u8], resource_version: &str) -> Result<Vec<u8>, WireError> {
    let _ = (body, resource_version);
    todo!()
}
