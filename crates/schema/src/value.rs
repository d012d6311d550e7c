//! A decoded object: what JSON, YAML and protobuf have in common.

use std::collections::BTreeMap;

/// The members of an object, in the order in which Go's encoder writes a map: by key bytes.
/// Where a schema says otherwise (struct fields), the encoder follows the schema.
pub type Object = BTreeMap<String, Value>;

/// A JSON value which keeps integers and floats apart, as Kubernetes does (`1` and `1.0` differ).
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Value>),
    Object(Object),
}
