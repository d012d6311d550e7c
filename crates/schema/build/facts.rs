//! Reads `schema-data/kubernetes-*.txt` (its head explains the lines).

use std::collections::BTreeMap;

/// A line that does not read as its place demands.
pub type Result<T> = std::result::Result<T, String>;

#[derive(Default)]
pub struct Facts {
    pub messages: Vec<Message>,
    pub by_name: BTreeMap<String, usize>,
    pub kinds: Vec<Kind>,
    /// Name → its JSON list of values.
    pub enums: BTreeMap<String, String>,
}

pub struct Kind {
    /// `apps/v1`, `v1`
    pub api_version: String,
    pub kind: String,
    /// `namespaced`, `cluster` or `-`
    pub scope: String,
    pub message: String,
}

pub struct Message {
    pub name: String,
    pub form: String,
    pub atomic: bool,
    pub fields: Vec<Field>,
}

pub struct Field {
    pub name: String,
    pub tag: u32,
    pub pointer: bool,
    pub ty: Type,
    /// `omitempty`, `list=set`, `default={"a":1}`, as the file has them.
    pub flags: Vec<String>,
    pub markers: Vec<String>,
}

pub enum Type {
    Scalar(String),
    Message(String),
    List(Box<Type>),
    Map(Box<Type>),
}

impl Field {
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Type {
    fn parse(text: &str) -> Type {
        if let Some(rest) = text.strip_prefix("[]") {
            Type::List(Box::new(Type::parse(rest)))
        } else if let Some(rest) = text.strip_prefix("{}") {
            Type::Map(Box::new(Type::parse(rest)))
        } else if text.contains('.') {
            Type::Message(text.to_owned())
        } else {
            Type::Scalar(text.to_owned())
        }
    }

    /// The message that this type is, lists or maps.
    pub fn message(&self) -> Option<&str> {
        match self {
            Type::Scalar(_) => None,
            Type::Message(name) => Some(name),
            Type::List(inner) | Type::Map(inner) => inner.message(),
        }
    }
}

impl Facts {
    pub fn parse(text: &str) -> Result<Facts> {
        let mut facts = Facts::default();
        for (i, line) in text.lines().enumerate() {
            facts.line(line).map_err(|e| format!("facts, line {}: {e}: {line}", i + 1))?;
        }
        for (i, m) in facts.messages.iter().enumerate() {
            facts.by_name.insert(m.name.clone(), i);
        }
        Ok(facts)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(marker) = line.strip_prefix("  + ") {
            let field = self.messages.last_mut().and_then(|m| m.fields.last_mut()).ok_or("no field to mark")?;
            field.markers.push(marker.to_owned());
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix(' ') {
            // A default is last and may hold spaces.
            let (rest, default) = match rest.split_once(" default=") {
                Some((rest, d)) => (rest, Some(format!("default={d}"))),
                None => (rest, None),
            };
            let mut words = rest.split(' ');
            let (name, tag, ty) = three(&mut words)?;
            let (pointer, ty) = ty.strip_prefix('*').map_or((false, ty), |t| (true, t));
            let field = Field {
                name: name.to_owned(),
                tag: tag.parse().map_err(|e| format!("tag: {e}"))?,
                pointer,
                ty: Type::parse(ty),
                flags: words.map(str::to_owned).chain(default).collect(),
                markers: Vec::new(),
            };
            self.messages.last_mut().ok_or("a field before any message")?.fields.push(field);
            return Ok(());
        }
        let mut words = line.split(' ');
        match words.next() {
            Some("message") => {
                let name = words.next().ok_or("name missing")?.to_owned();
                let form = words.next().ok_or("form missing")?.to_owned();
                self.messages.push(Message { name, form, atomic: words.next() == Some("atomic"), fields: Vec::new() });
            }
            Some("kind") => {
                let (api_version, kind, scope) = three(&mut words)?;
                let message = words.next().ok_or("message missing")?.to_owned();
                let (api_version, kind, scope) = (api_version.to_owned(), kind.to_owned(), scope.to_owned());
                self.kinds.push(Kind { api_version, kind, scope, message });
            }
            Some("enum") => {
                let (name, values) = line["enum ".len()..].split_once(' ').ok_or("values missing")?;
                self.enums.insert(name.to_owned(), values.to_owned());
            }
            Some("#") => {}
            _ => return Err("unknown line".into()),
        }
        Ok(())
    }

    pub fn message(&self, name: &str) -> Result<&Message> {
        let i = self.by_name.get(name).ok_or_else(|| format!("facts have no message {name}"))?;
        Ok(&self.messages[*i])
    }

    /// A field by its JSON name, inlined structs searched.
    pub fn field(&self, message: &str, name: &str) -> Result<&Field> {
        let fields = &self.message(message)?.fields;
        let inlined =
            || fields.iter().filter(|f| f.has("inline")).filter_map(|f| self.field(f.ty.message()?, name).ok()).next();
        let found = fields.iter().find(|f| f.name == name && !f.has("inline")).or_else(inlined);
        found.ok_or_else(|| format!("{message} has no field {name}"))
    }

    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.kinds.iter().find(|k| k.api_version == api_version && k.kind == kind)
    }
}

fn three<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<(&'a str, &'a str, &'a str)> {
    match (words.next(), words.next(), words.next()) {
        (Some(a), Some(b), Some(c)) => Ok((a, b, c)),
        _ => Err("too few words".into()),
    }
}
