//! Loads the built-in [`Table`] from the lines that `build/table.rs` wrote.

use std::sync::LazyLock;

use crate::presets::{Preset, conditional};
use crate::table::{
    Column, Field, Form, Kind, ListKind, MapKind, Message, MessageId, PatchStrategy, Resource, Scalar, Subresource,
    Table, Type,
};
use crate::validate::{Rule, RuleBook};
use crate::value::Value;

#[cfg(test)]
mod tests;

static TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/table.txt"));

/// A malformed line would be a fault of this crate's own build; a test loads all of them.
static BUILTIN: LazyLock<Table> = LazyLock::new(|| load(TEXT).unwrap_or_default());

impl Table {
    /// All types and resources of Kubernetes 1.37. Made at first use, in about a millisecond.
    pub fn builtin() -> &'static Table {
        &BUILTIN
    }
}

static RULES: LazyLock<RuleBook> =
    LazyLock::new(|| rules(include_str!(concat!(env!("OUT_DIR"), "/rules.txt"))).unwrap_or_default());

impl RuleBook {
    /// The rules of the built-in kinds: upstream's declarative markers and the overlay's rows.
    pub fn builtin() -> &'static RuleBook {
        &RULES
    }
}

/// A marker that is no rule of ours is passed over (its check is a function of the API server), an overlay's row is not.
fn rules(text: &str) -> Result<RuleBook, String> {
    let mut book = RuleBook::default();
    for line in text.lines() {
        let mut words = line.splitn(4, '\t');
        let mut next = || words.next().unwrap_or_default();
        let (origin, id, path, rule) = (next(), next(), next(), next());
        let id = MessageId(id.parse().map_err(|_| line.to_owned())?);
        let message = Table::builtin().message(id);
        let refers = message.position(path).is_some_and(|at| message.fields[at].pointer);
        match Rule::parse(rule) {
            Some(Rule::Required(detail)) if origin == "v" && refers => book.add(id, path, Rule::Present(detail)),
            Some(rule) if origin == "v" && refers => book.add(id, path, rule.given()),
            Some(rule) => book.add(id, path, rule),
            None if origin == "v" => {}
            None => return Err(line.to_owned()),
        }
    }
    Ok(book)
}

/// `None` names no line: this reads only what this crate's build has written.
pub(crate) fn load(text: &str) -> Option<Table> {
    let mut messages: Vec<Message> = Vec::new();
    let mut resources: Vec<Resource> = Vec::new();
    let mut kinds: Vec<Kind> = Vec::new();
    let mut enums: Vec<Vec<Box<str>>> = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    let mut open: Option<(&str, Form, bool)> = None;
    for line in text.lines() {
        let mut words = line.split('\t');
        let kind = words.next()?;
        if kind != "f"
            && let Some((name, form, atomic)) = open.take()
        {
            messages.push(Message::new(name, form, take(&mut fields)).with_atomic(atomic));
        }
        let mut next = || words.next().unwrap_or_default();
        match kind {
            "e" => enums.push(list_of_strings(next())),
            "m" => open = Some((next(), form(next())?, next() == "1")),
            "f" => fields.push(field(&mut next, &enums)?),
            "k" => {
                let (group, version) = split_version(next());
                let (kind, message) = (next().into(), MessageId(next().parse().ok()?));
                kinds.push(Kind { group: group.into(), version: version.into(), kind, message });
            }
            "r" => resources.push(resource(&mut next)?),
            "s" => {
                let (name, api_version, kind) = (next().into(), next().into(), next().into());
                resources.last_mut()?.subresources.push(Subresource { name, api_version, kind, verbs: list(next()) });
            }
            "c" => {
                let (name, ty, format) = (next().into(), next().into(), next().into());
                let (priority, source) = (next().parse().ok()?, next().into());
                resources.last_mut()?.columns.push(Column { name, ty, format, priority, source });
            }
            "d" => {
                let message = messages.get_mut(next().parse::<usize>().ok()?)?;
                let (path, pointer) = (next().split('.').map(Into::into).collect(), next() == "p");
                message.presets.push(Preset { path, pointer, value: value(next())? });
            }
            "x" => {
                let message = messages.get_mut(next().parse::<usize>().ok()?)?;
                message.conditional = Some(conditional(next())?);
            }
            _ => return None,
        }
    }
    if let Some((name, form, atomic)) = open {
        messages.push(Message::new(name, form, take(&mut fields)).with_atomic(atomic));
    }
    Some(Table { kinds, ..Table::new(messages, resources) })
}

/// The fields so far, without the room that they grew into.
fn take(fields: &mut Vec<Field>) -> Vec<Field> {
    let mut taken = std::mem::take(fields);
    taken.shrink_to_fit();
    taken
}

fn list(text: &str) -> Vec<Box<str>> {
    text.split(',').filter(|w| !w.is_empty()).map(Into::into).collect()
}

/// `["a","b"]`, without escapes.
fn list_of_strings(json: &str) -> Vec<Box<str>> {
    let inner = json.trim_start_matches("[\"").trim_end_matches("\"]");
    if json == "[]" { Vec::new() } else { inner.split("\",\"").map(Into::into).collect() }
}

fn form(text: &str) -> Option<Form> {
    Some(match text {
        "struct" => Form::Struct,
        "time" => Form::Time,
        "microtime" => Form::MicroTime,
        "duration" => Form::Duration,
        "quantity" => Form::Quantity,
        "intorstring" => Form::IntOrString,
        "rawextension" => Form::RawExtension,
        "fieldsv1" => Form::FieldsV1,
        "json" => Form::Json,
        "schemaorbool" => Form::JsonSchemaPropsOrBool,
        "schemaorarray" => Form::JsonSchemaPropsOrArray,
        "schemaorstrings" => Form::JsonSchemaPropsOrStringArray,
        "items" => Form::Items,
        _ => return None,
    })
}

fn field<'a>(next: &mut impl FnMut() -> &'a str, enums: &[Vec<Box<str>>]) -> Option<Field> {
    let (name, tag, ty, flags) = (next().into(), next().parse().ok()?, ty(next())?, next());
    let (patch, key, values, default) = (next(), next(), next(), next());
    Some(Field {
        name,
        tag,
        ty,
        pointer: flags.contains('p'),
        omitempty: flags.contains('e'),
        omitzero: flags.contains('z'),
        inline: flags.contains('i'),
        required: flags.contains('r'),
        default: if default.is_empty() { None } else { Some(value(default)?) },
        enumeration: values.parse().ok().and_then(|i: usize| enums.get(i)).cloned().unwrap_or_default(),
        patch: PatchStrategy {
            merge: patch.contains("merge"),
            replace: patch.contains("replace"),
            retain_keys: patch.contains("retainKeys"),
            merge_key: (!key.is_empty()).then(|| key.into()),
            atomic: [('a', true), ('g', false)]
                .iter()
                .find(|(flag, _)| flags.contains(*flag))
                .map(|(_, atomic)| *atomic),
        },
    })
}

fn value(json: &str) -> Option<Value> {
    crate::json::parse(json.as_bytes()).ok()
}

/// See `spell` in `build/table.rs`.
fn ty(text: &str) -> Option<Type> {
    let rest = text.get(1..)?;
    let scalar = |s| Some(Type::Scalar(s));
    match text.as_bytes()[0] {
        b's' => scalar(Scalar::String),
        b'y' => scalar(Scalar::Bytes),
        b'b' => scalar(Scalar::Bool),
        b'i' => scalar(Scalar::Int32),
        b'l' => scalar(Scalar::Int64),
        b'u' => scalar(Scalar::Uint32),
        b'v' => scalar(Scalar::Uint64),
        b'g' => scalar(Scalar::Float),
        b'd' => scalar(Scalar::Double),
        b'*' => Some(Type::Any),
        b'L' => Some(Type::List { element: Box::new(ty(rest)?), kind: ListKind::Atomic }),
        b'S' => Some(Type::List { element: Box::new(ty(rest)?), kind: ListKind::Set }),
        b'M' => {
            let (keys, rest) = rest.split_once(';')?;
            Some(Type::List { element: Box::new(ty(rest)?), kind: ListKind::Map { keys: list(keys) } })
        }
        b'G' => Some(Type::Map { value: Box::new(ty(rest)?), kind: MapKind::Granular }),
        b'A' => Some(Type::Map { value: Box::new(ty(rest)?), kind: MapKind::Atomic }),
        _ => text.parse().ok().map(|id| Type::Message(MessageId(id))),
    }
}

fn split_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn resource<'a>(next: &mut impl FnMut() -> &'a str) -> Option<Resource> {
    let (group, version) = split_version(next());
    Some(Resource {
        group: group.into(),
        version: version.into(),
        kind: next().into(),
        plural: next().into(),
        singular: next().into(),
        namespaced: next() == "1",
        message: MessageId(next().parse().ok()?),
        storage: next().into(),
        prefix: next().into(),
        short_names: list(next()),
        categories: list(next()),
        verbs: list(next()),
        selectable: list(next()),
        behaviours: list(next()),
        enabled: next() == "1",
        subresources: Vec::new(),
        columns: Vec::new(),
    })
}
