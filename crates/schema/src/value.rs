//! A decoded object: what JSON, YAML and protobuf have in common.

mod object;

pub use object::{Key, Object};

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

static NULL: Value = Value::Null;

impl Value {
    /// An object of these members: `Value::object([("kind", "Pod".into())])`.
    pub fn object<K: Into<Key>>(members: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Object(members.into_iter().collect())
    }

    /// A list of anything that is a value.
    pub fn list<V: Into<Value>>(items: impl IntoIterator<Item = V>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(b) = self { Some(*b) } else { None }
    }

    /// An integer, or a float that is one (`1.0`).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Float(f) if f.fract() == 0.0 && f.abs() < 9.0e18 => Some(*f as i64),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(s) = self { Some(s) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(l) = self { Some(l) } else { None }
    }

    pub fn as_list_mut(&mut self) -> Option<&mut Vec<Value>> {
        if let Value::List(l) = self { Some(l) } else { None }
    }

    pub fn as_object(&self) -> Option<&Object> {
        if let Value::Object(o) = self { Some(o) } else { None }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        if let Value::Object(o) = self { Some(o) } else { None }
    }

    /// `null`, `""`, `0`, `false`, `[]` and `{}`: what Go's `omitempty` leaves out.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Int(i) => *i == 0,
            Value::Float(f) => *f == 0.0,
            Value::String(s) => s.is_empty(),
            Value::List(l) => l.is_empty(),
            Value::Object(o) => o.is_empty(),
        }
    }

    /// Objects and lists stand in each other more than `levels` deep.
    pub fn is_deeper_than(&self, levels: usize) -> bool {
        match self {
            Value::List(l) => levels == 0 || l.iter().any(|v| v.is_deeper_than(levels - 1)),
            Value::Object(o) => levels == 0 || o.values().any(|v| v.is_deeper_than(levels - 1)),
            _ => false,
        }
    }

    /// Go's `encoding/json` name of this value in its errors.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::List(_) => "array",
            Value::Object(_) => "object",
        }
    }

    /// The Go type of this value where it is unstructured.
    pub fn go_type(&self) -> &'static str {
        match self {
            Value::Null => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int64",
            Value::Float(_) => "float64",
            Value::String(_) => "string",
            Value::List(_) => "[]interface {}",
            Value::Object(_) => "map[string]interface {}",
        }
    }

    /// The member of that name, if this is an object which has it.
    pub fn member(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// Walks object members: `pod.get(&["metadata", "name"])`. Absent is `None`, a `null` is `Some(Null)`.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |v, key| v.member(key))
    }

    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |v, key| v.as_object_mut()?.get_mut(key))
    }

    /// The string there, or `""`.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or("")
    }

    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.get(path)?.as_i64()
    }

    /// The boolean there, or false.
    pub fn bool_at(&self, path: &[&str]) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The list there, or an empty one.
    pub fn list_at(&self, path: &[&str]) -> &[Value] {
        self.get(path).and_then(Value::as_list).unwrap_or(&[])
    }

    /// The strings of a list; what is no list has none.
    pub fn texts(&self) -> Vec<String> {
        self.as_list().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub fn object_at(&self, path: &[&str]) -> Option<&Object> {
        self.get(path)?.as_object()
    }

    /// Sets a member, making objects of everything on the way that is not one.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, parents)) = path.split_last() else {
            *self = value.into();
            return;
        };
        self.make_object(parents).insert(*last, value.into());
    }

    /// The object at that path, made if it is not there.
    pub fn make_object(&mut self, path: &[&str]) -> &mut Object {
        let mut here = self.force_object();
        for key in path {
            here = here.entry(*key).or_default().force_object();
        }
        here
    }

    fn force_object(&mut self) -> &mut Object {
        if !matches!(self, Value::Object(_)) {
            *self = Value::Object(Object::new());
        }
        match self {
            Value::Object(o) => o,
            _ => unreachable!("made an object just now"),
        }
    }

    /// The list at that path, made if it is not there.
    pub fn make_list(&mut self, path: &[&str]) -> &mut Vec<Value> {
        let slot = match path.split_last() {
            None => self,
            Some((last, parents)) => self.make_object(parents).entry(*last).or_default(),
        };
        if !matches!(slot, Value::List(_)) {
            *slot = Value::List(Vec::new());
        }
        match slot {
            Value::List(l) => l,
            _ => unreachable!("made a list just now"),
        }
    }

    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.get_mut(parents)?.as_object_mut()?.remove(last)
    }

    /// RFC 6901: `/spec/containers/0/image`, with `~1` for a slash and `~0` for a tilde.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |v, token| match v {
            Value::Object(o) => o.get(unescape(token).as_ref()),
            Value::List(l) => l.get(token.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// A dotted path as field selectors and printer columns have it (`spec.nodeName`, `.status.phase`).
    pub fn dotted(&self, path: &str) -> Option<&Value> {
        path.trim_start_matches('.').split('.').try_fold(self, |v, key| v.member(key))
    }
}

/// Undoes RFC 6901's escapes in one reference token.
pub fn unescape(token: &str) -> std::borrow::Cow<'_, str> {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~").into() } else { token.into() }
}

/// `object["key"]`, null where it is absent: for reading in tests and printers.
impl std::ops::Index<&str> for Value {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        self.member(key).unwrap_or(&NULL)
    }
}

impl std::ops::Index<usize> for Value {
    type Output = Value;
    fn index(&self, at: usize) -> &Value {
        self.as_list().and_then(|l| l.get(at)).unwrap_or(&NULL)
    }
}

/// Compact JSON with sorted keys.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Vec::new();
        crate::json::encode_untyped(self, &mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

macro_rules! from {
    ($($t:ty => |$v:ident| $e:expr),* $(,)?) => {
        $(impl From<$t> for Value { fn from($v: $t) -> Value { $e } })*
    };
}
from! {
    bool => |v| Value::Bool(v),
    i64 => |v| Value::Int(v),
    i32 => |v| Value::Int(v.into()),
    u32 => |v| Value::Int(v.into()),
    u16 => |v| Value::Int(v.into()),
    f64 => |v| Value::Float(v),
    &str => |v| Value::String(v.to_owned()),
    String => |v| Value::String(v),
    Key => |v| Value::String(v.into()),
    Box<str> => |v| Value::String(v.into()),
    Object => |v| Value::Object(v),
}
impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(v: Vec<V>) -> Value {
        Value::list(v)
    }
}
impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(v: Option<V>) -> Value {
        v.map_or(Value::Null, Into::into)
    }
}
