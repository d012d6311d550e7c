//! Typed structs of the built-in kinds, for code that reads and writes objects field by field.
//!
//! `build.rs` generates them from the facts for the kinds of `schema-data/typed.txt`: `api::core::v1::Pod`,
//! `api::meta::v1::ObjectMeta`. They are plain data. [`Message`] reads and writes protobuf with upstream's presence
//! rules and order, so that the bytes are those of Go's `Marshal`; fields that this table does not know survive in
//! `unknown`. A field that is no pointer in Go is a plain value here and always written; a pointer is an `Option`.

mod codec;
#[cfg(test)]
mod tests;

pub use codec::{Message, Unknown};
pub use generated::*;

/// What is wrong with the bytes of a message.
pub use crate::proto::WireError as DecodeError;

#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

/// A registered kind of a group and version.
pub trait Kind: Message {
    /// Empty for the core group.
    const GROUP: &'static str;
    const VERSION: &'static str;
    const KIND: &'static str;

    /// `apps/v1`, or `v1` in the core group.
    fn api_version() -> String {
        if Self::GROUP.is_empty() { Self::VERSION.to_owned() } else { format!("{}/{}", Self::GROUP, Self::VERSION) }
    }
}

/// A kind that is served as a resource.
pub trait Object: Kind {
    const PLURAL: &'static str;
    const NAMESPACED: bool;

    fn metadata(&self) -> &meta::v1::ObjectMeta;
    fn metadata_mut(&mut self) -> &mut meta::v1::ObjectMeta;

    fn name(&self) -> &str {
        &self.metadata().name
    }

    /// Empty for a kind of the cluster.
    fn namespace(&self) -> &str {
        &self.metadata().namespace
    }

    /// `namespace/name`, or `name` where there is no namespace.
    fn key(&self) -> String {
        let meta = self.metadata();
        if meta.namespace.is_empty() { meta.name.clone() } else { format!("{}/{}", meta.namespace, meta.name) }
    }
}

/// The list of an [`Object`].
pub trait List: Kind {
    type Item: Object;
    fn metadata(&self) -> &meta::v1::ListMeta;
    fn items(&self) -> &[Self::Item];
    fn into_items(self) -> Vec<Self::Item>;
}

/// `resource.Quantity`, as its canonical string; [`crate::quantity`] calculates with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub String);

impl From<&str> for Quantity {
    fn from(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }
}

/// `intstr.IntOrString`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

impl Default for IntOrString {
    fn default() -> IntOrString {
        IntOrString::Int(0)
    }
}

/// Seconds since 1970 of Go's zero time, 0001-01-01T00:00:00Z.
const ZERO_SECONDS: i64 = -62_135_596_800;

/// `meta/v1.Time`: seconds since 1970. The default is Go's zero time, which is written as `null` or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub seconds: i64,
}

impl Time {
    pub fn is_zero(self) -> bool {
        self.seconds == ZERO_SECONDS
    }
}

impl Default for Time {
    fn default() -> Time {
        Time { seconds: ZERO_SECONDS }
    }
}

/// `meta/v1.MicroTime`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroTime {
    pub seconds: i64,
    /// A multiple of 1,000 once it has been written: the form has microseconds.
    pub nanos: u32,
}

impl MicroTime {
    pub fn is_zero(self) -> bool {
        self.seconds == ZERO_SECONDS && self.nanos == 0
    }
}

impl Default for MicroTime {
    fn default() -> MicroTime {
        MicroTime { seconds: ZERO_SECONDS, nanos: 0 }
    }
}

/// `meta/v1.Duration`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    pub nanos: i64,
}

/// `runtime.RawExtension`: the bytes of an object in any encoding, mostly JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawExtension {
    pub raw: Vec<u8>,
}

/// `meta/v1.FieldsV1`: a set of field paths as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldsV1 {
    pub raw: Vec<u8>,
}

/// `apiextensions/v1.JSON`: any JSON value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json {
    pub raw: Vec<u8>,
}
