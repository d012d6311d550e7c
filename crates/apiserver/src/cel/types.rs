//! CEL's types, and how declarations spell them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// The type of types.
    Meta(Arc<Type>),
    /// A type that is not known yet.
    Var(usize),
    /// A library's type without fields: `kubernetes.Quantity`.
    Named(&'static str),
    Object(Arc<ObjectType>),
}

/// An object whose fields are known.
#[derive(Debug, PartialEq)]
pub struct ObjectType {
    pub name: String,
    /// By the name that expressions use.
    pub fields: BTreeMap<String, Field>,
}

#[derive(Debug, PartialEq)]
pub struct Field {
    /// As it is in the object: expressions may spell it otherwise (`__namespace__`).
    pub name: String,
    pub ty: Type,
}

/// The names of types which a library brings.
pub const NAMED: [&str; 11] = [
    "kubernetes.URL", "net.IP", "net.CIDR", "kubernetes.Quantity", "kubernetes.Semver", "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer", "kubernetes.authorization.PathCheck", "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck", "kubernetes.authorization.Decision",
];

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub fn user_info() -> Type {
        let texts = || Type::list(Type::String);
        let extra = Type::map(Type::String, texts());
        let fields = [("username", Type::String), ("uid", Type::String), ("groups", texts()), ("extra", extra)];
        Type::object("kubernetes.UserInfo", fields)
    }

    /// An object of fields whose names are identifiers.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let field = |(name, ty): (&str, Type)| (name.to_owned(), Field { name: name.to_owned(), ty });
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: fields.into_iter().map(field).collect() }))
    }

    /// A type by its name in expressions: `type(x) == int`.
    pub fn by_name(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "null_type" => Type::Null,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::Meta(Arc::new(Type::Dyn)),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            _ => Type::Named(NAMED.into_iter().find(|n| *n == name)?),
        })
    }

    /// Reads a declaration's type: `list<A>`, `map<string,int>`, a short name (`Quantity`) or a variable (`A`).
    pub fn parse(text: &str) -> Type {
        let inside = |prefix: &str| text.strip_prefix(prefix).and_then(|t| t.strip_suffix('>'));
        if let Some(element) = inside("list<") {
            return Type::list(Type::parse(element));
        }
        if let Some(inner) = inside("opt<") {
            return Type::optional(Type::parse(inner));
        }
        if let Some(inner) = inside("type<") {
            return Type::Meta(Arc::new(Type::parse(inner)));
        }
        if let Some((key, value)) = inside("map<").and_then(|t| t.split_once(',')) {
            return Type::map(Type::parse(key.trim()), Type::parse(value.trim()));
        }
        match text {
            "A" => Type::Var(0),
            "B" => Type::Var(1),
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            _ => {
                let named = NAMED.into_iter().find(|n| n.rsplit('.').next() == Some(text)).map(Type::Named);
                named.or_else(|| Type::by_name(text)).unwrap_or(Type::Dyn)
            }
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn | Type::Var(_) => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::List(element) => write!(f, "list({element})"),
            Type::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Meta(inner) => write!(f, "type({inner})"),
            Type::Named(name) => f.write_str(name),
            Type::Object(object) => f.write_str(&object.name),
        }
    }
}

/// No identifier is spelled like these.
const RESERVED: [&str; 21] = [
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
    "let", "loop", "package", "namespace", "return", "var", "void", "while",
];

pub fn is_identifier(name: &str) -> bool {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_plain && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

/// How expressions spell a property, if they can: `foo-bar` is `foo__dash__bar`, `namespace` is `__namespace__`.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b)) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__");
    Some(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

/// What [`escape`] made of a name; `None` if that is not what it made.
pub fn unescape(name: &str) -> Option<String> {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__")).filter(|n| RESERVED.contains(n)) {
        return Some(word.to_owned());
    }
    let (mut out, mut rest) = (String::new(), name);
    while let Some((before, after)) = rest.split_once("__") {
        let (word, after) = after.split_once("__")?;
        out.push_str(before);
        out.push_str(match word {
            "underscores" => "__",
            "dot" => ".",
            "dash" => "-",
            "slash" => "/",
            _ => return None,
        });
        rest = after;
    }
    out.push_str(rest);
    (out != name).then_some(out)
}
