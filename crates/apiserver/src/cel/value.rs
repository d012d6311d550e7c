//! Values in evaluation: borrowed from the request's objects wherever they can be.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use schema::quantity::Quantity;
use schema::{Object, Value};

use super::eval::Cx;
use super::types::Type;

/// Computes a function on its arguments (a method's target comes first).
pub type Run = for<'v, 'c> fn(&'c mut Cx<'v>, &'c [Val<'v>]) -> Result<Val<'v>, Fault>;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Failed(String),
    /// Nothing may go on after it.
    #[error("operation cancelled: actual cost limit exceeded")]
    OutOfBudget,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Fault {
        Fault::Failed(message.into())
    }

    pub fn no_such_overload() -> Fault {
        Fault::new("no such overload")
    }

    pub fn no_such_key(key: &str) -> Fault {
        Fault::Failed(format!("no such key: {key}"))
    }
}

pub type Evaluated<T> = Result<T, Fault>;

#[derive(Clone, Debug)]
pub enum Text<'v> {
    Borrowed(&'v str),
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'v>),
    Bytes(Rc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// Nanoseconds since 1970.
    Timestamp(i128),
    List(Rc<Vec<Val<'v>>>),
    Map(Rc<BTreeMap<Key<'v>, Val<'v>>>),
    /// A list of an object.
    JsonList(&'v [Value]),
    /// An object or a part of it.
    Json(&'v Object),
    Optional(Option<Rc<Val<'v>>>),
    Type(Rc<str>),
    /// `Object.spec{…}`: its type's name and its fields.
    Struct(&'v str, Rc<BTreeMap<&'v str, Val<'v>>>),
    /// `variables`: each is evaluated when it is asked for.
    Variables,
    Library(Rc<Library>),
}

/// Values of the libraries' own types.
#[derive(Debug, PartialEq)]
pub enum Library {
    Url(Url),
    Ip(IpAddr),
    /// The address as it was written, and the prefix's length.
    Cidr(IpAddr, u8),
    Quantity(Quantity),
    Semver(super::kube::Semver),
    Format(&'static super::kube::Format),
    Check(super::authz::Check),
    Decision {
        allowed: bool,
        reason: String,
        error: String,
    },
}

#[derive(Debug, PartialEq)]
pub struct Url {
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: String,
}

/// A map's key.
#[derive(Clone, Debug)]
pub enum Key<'v> {
    Bool(bool),
    Number(i128),
    String(Text<'v>),
}

impl Key<'_> {
    fn rank(&self) -> u8 {
        match self {
            Key::Bool(_) => 0,
            Key::Number(_) => 1,
            Key::String(_) => 2,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::Number(a), Key::Number(b)) => a.cmp(b),
            (Key::String(a), Key::String(b)) => (**a).cmp(&**b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key<'_> {}

impl<'v> Key<'v> {
    pub fn of(value: &Val<'v>) -> Evaluated<Key<'v>> {
        Ok(match value {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(i) => Key::Number((*i).into()),
            Val::Uint(u) => Key::Number((*u).into()),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 1e18 => Key::Number(*d as i128),
            Val::String(text) => Key::String(text.clone()),
            other => return Err(Fault::Failed(format!("unsupported key type: {}", other.type_name()))),
        })
    }

    pub fn value(&self) -> Val<'v> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Number(n) => i64::try_from(*n).map_or_else(|_| Val::Uint(*n as u64), Val::Int),
            Key::String(text) => Val::String(text.clone()),
        }
    }
}

impl<'v> From<&'v Value> for Val<'v> {
    fn from(value: &'v Value) -> Val<'v> {
        match value {
            Value::Null => Val::Null,
            Value::Bool(b) => Val::Bool(*b),
            Value::Int(i) => Val::Int(*i),
            Value::Float(f) => Val::Double(*f),
            Value::String(s) => Val::borrowed(s),
            Value::List(list) => Val::JsonList(list),
            Value::Object(object) => Val::Json(object),
        }
    }
}

impl<'v> Val<'v> {
    pub fn borrowed(text: &'v str) -> Val<'v> {
        Val::String(Text::Borrowed(text))
    }

    pub fn text(text: impl Into<Rc<str>>) -> Val<'v> {
        Val::String(Text::Shared(text.into()))
    }

    pub fn list(items: Vec<Val<'v>>) -> Val<'v> {
        Val::List(Rc::new(items))
    }

    pub fn some(value: Val<'v>) -> Val<'v> {
        Val::Optional(Some(Rc::new(value)))
    }

    pub fn library(value: Library) -> Val<'v> {
        Val::Library(Rc::new(value))
    }

    pub fn as_str(&self) -> Evaluated<&str> {
        if let Val::String(text) = self { Ok(text) } else { Err(Fault::no_such_overload()) }
    }

    pub fn as_bool(&self) -> Evaluated<bool> {
        if let Val::Bool(b) = self { Ok(*b) } else { Err(Fault::no_such_overload()) }
    }

    pub fn as_int(&self) -> Evaluated<i64> {
        if let Val::Int(i) = self { Ok(*i) } else { Err(Fault::no_such_overload()) }
    }

    pub fn type_name(&self) -> &str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::String(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::List(_) | Val::JsonList(_) => "list",
            Val::Map(_) | Val::Json(_) | Val::Variables => "map",
            Val::Optional(_) => "optional_type",
            Val::Type(_) => "type",
            Val::Struct(name, _) => name,
            Val::Library(library) => match &**library {
                Library::Url(_) => "kubernetes.URL",
                Library::Ip(_) => "net.IP",
                Library::Cidr(..) => "net.CIDR",
                Library::Quantity(_) => "kubernetes.Quantity",
                Library::Semver(_) => "kubernetes.Semver",
                Library::Format(_) => "kubernetes.NamedFormat",
                Library::Check(check) => check.type_name(),
                Library::Decision { .. } => "kubernetes.authorization.Decision",
            },
        }
    }

    /// Characters, bytes, elements or entries; 1 of what has no size.
    pub fn size(&self) -> u64 {
        let count = match self {
            Val::String(text) => text.chars().count(),
            Val::Bytes(bytes) => bytes.len(),
            Val::List(list) => list.len(),
            Val::JsonList(list) => list.len(),
            Val::Map(map) => map.len(),
            Val::Json(object) => object.len(),
            Val::Optional(Some(inner)) => return inner.size(),
            Val::Library(library) => match &**library {
                Library::Ip(ip) | Library::Cidr(ip, _) => {
                    if ip.is_ipv4() {
                        4
                    } else {
                        16
                    }
                }
                _ => 1,
            },
            _ => 1,
        };
        count as u64
    }

    /// The elements of a list.
    pub fn items(&self) -> Evaluated<Items<'_, 'v>> {
        match self {
            Val::List(list) => Ok(Items::Vals(list)),
            Val::JsonList(list) => Ok(Items::Json(list)),
            _ => Err(Fault::no_such_overload()),
        }
    }

    /// What a map or an object has under a key; an error if this is neither.
    pub fn find(&self, key: &Key<'v>) -> Evaluated<Option<Val<'v>>> {
        match (self, key) {
            (Val::Json(object), Key::String(text)) => Ok(object.get(text).map(Val::from)),
            (Val::Json(_), _) => Ok(None),
            (Val::Map(map), key) => Ok(map.get(key).cloned()),
            (Val::Struct(_, fields), Key::String(text)) => Ok(fields.get(&**text).cloned()),
            _ => Err(Fault::no_such_overload()),
        }
    }

    /// Brings a field into the type that its schema says: JSON has no timestamps, and writes `1.0` as `1`.
    pub fn of_type(self, ty: &Type) -> Val<'v> {
        match (ty, &self) {
            (Type::Double, Val::Int(i)) => Val::Double(*i as f64),
            (Type::Timestamp, Val::String(text)) => super::time::parse_timestamp(text).map_or(self, Val::Timestamp),
            (Type::Duration, Val::String(text)) => super::time::parse_duration(text).map_or(self, Val::Duration),
            (Type::Bytes, Val::String(text)) => {
                use base64::Engine;
                let decoded = base64::engine::general_purpose::STANDARD.decode(&**text);
                decoded.map_or(self, |bytes| Val::Bytes(bytes.into()))
            }
            _ => self,
        }
    }

    /// Whether `Object.spec{…}` and its like stand where their names say.
    ///
    /// # Errors
    /// The first one that does not.
    pub fn check_places(&self, place: &str) -> Evaluated<()> {
        match self {
            Val::Struct(name, _) if *name != place => Err(Fault::Failed(format!(
                "type mismatch: unexpected type name {name:?}, expected {place:?}, which matches field name path from root Object type"
            ))),
            Val::Struct(_, fields) => {
                fields.iter().try_for_each(|(field, value)| value.check_places(&format!("{place}.{field}")))
            }
            Val::List(list) => list.iter().try_for_each(|value| value.check_places(place)),
            Val::Map(map) => map.values().try_for_each(|value| value.check_places(place)),
            _ => Ok(()),
        }
    }

    /// Back into an object; nothing that has no JSON form is in it.
    pub fn to_json(&self) -> Evaluated<Value> {
        Ok(match self {
            Val::Null => Value::Null,
            Val::Bool(b) => Value::Bool(*b),
            Val::Int(i) => Value::Int(*i),
            Val::Uint(u) => i64::try_from(*u).map_or(Value::Float(*u as f64), Value::Int),
            Val::Double(d) => Value::Float(*d),
            Val::String(text) => Value::String(text.to_string()),
            Val::Bytes(bytes) => {
                use base64::Engine;
                Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Val::Duration(nanos) => Value::String(super::time::format_duration(*nanos)),
            Val::Timestamp(nanos) => Value::String(super::time::format_timestamp(*nanos)),
            Val::List(list) => Value::List(list.iter().map(Val::to_json).collect::<Evaluated<_>>()?),
            Val::JsonList(list) => Value::List(list.to_vec()),
            Val::Map(map) => {
                let entry = |(key, value): (&Key<'_>, &Val<'_>)| match key {
                    Key::String(text) => Ok((text.to_string(), value.to_json()?)),
                    other => Err(Fault::Failed(format!("unsupported key type: {}", other.value().type_name()))),
                };
                Value::Object(map.iter().map(entry).collect::<Evaluated<_>>()?)
            }
            Val::Json(object) => Value::Object((*object).clone()),
            Val::Struct(_, fields) => {
                let entry = |(name, value): (&&str, &Val<'_>)| Ok(((*name).to_owned(), value.to_json()?));
                Value::Object(fields.iter().map(entry).collect::<Evaluated<_>>()?)
            }
            Val::Optional(Some(inner)) => inner.to_json()?,
            Val::Library(library) => match &**library {
                Library::Quantity(quantity) => Value::String(quantity.to_string()),
                _ => return Err(Fault::Failed(format!("unsupported type: {}", self.type_name()))),
            },
            other => return Err(Fault::Failed(format!("unsupported type: {}", other.type_name()))),
        })
    }
}

/// A list's elements, whichever form it has.
#[derive(Clone, Copy)]
pub enum Items<'a, 'v> {
    Vals(&'a [Val<'v>]),
    Json(&'v [Value]),
}

impl<'v> Items<'_, 'v> {
    pub fn len(&self) -> usize {
        match self {
            Items::Vals(list) => list.len(),
            Items::Json(list) => list.len(),
        }
    }

    pub fn get(&self, at: usize) -> Option<Val<'v>> {
        match self {
            Items::Vals(list) => list.get(at).cloned(),
            Items::Json(list) => list.get(at).map(Val::from),
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Val<'v>> + '_ {
        (0..self.len()).map(|at| self.get(at).unwrap_or(Val::Null))
    }
}
