//! Values seen through their types as apply sees them: comparing, merging, removing, and the set of their fields.

use std::collections::{HashMap, HashSet};

use super::set::{Node, Set, display, field};
use crate::patch::go_print;
use crate::{Form, ListKind, MapKind, Object, Scalar, Table, Type, Value};

/// A type, and whether its field makes it one value.
#[derive(Clone, Copy)]
pub struct Typed<'t> {
    pub table: &'t Table,
    pub ty: &'t Type,
    /// What the field says, over its type.
    pub atomic: Option<bool>,
}

/// Where a walk stands; the nodes live on the call stack, and become a path only where one is recorded.
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    Field(&'p str),
    /// An element of a list by its name in `FieldsV1`.
    Item(&'p str),
}

impl<'p> Path<'p> {
    const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    fn field(&'p self, name: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    fn item(&'p self, name: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Item(name) }
    }

    fn elements(&self) -> Vec<Box<str>> {
        let mut elements = self.parent.map(Path::elements).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Field(name) => elements.push(field(name)),
            Step::Item(name) => elements.push(name.into()),
        }
        elements
    }
}

/// How apply treats a value.
enum Shape<'t> {
    /// Owned and replaced as a whole.
    Leaf,
    /// A struct, or a map whose members are owned one by one.
    Members,
    Set(&'t Type),
    Keyed(&'t Type, &'t [Box<str>]),
}

static ANY: Type = Type::Any;
static EMPTY_MAP: Object = Object::new();

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::List(list)) => list.is_empty(),
        Some(Value::Object(object)) => object.is_empty(),
        Some(_) => false,
    }
}

fn members(value: Option<&Value>) -> &Object {
    value.and_then(Value::as_object).unwrap_or(&EMPTY_MAP)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_list).unwrap_or_default()
}

impl<'t> Typed<'t> {
    pub fn new(table: &'t Table, ty: &'t Type) -> Typed<'t> {
        Typed { table, ty, atomic: None }
    }

    /// Whether this is a Go type with protobuf tags, and no custom resource.
    pub fn is_built_in(self) -> bool {
        matches!(self.ty, Type::Message(id) if self.table.message(*id).fields.iter().any(|f| f.tag != 0))
    }

    /// What an object of this type is before anything is set.
    pub fn empty(self) -> Value {
        if self.is_built_in() { self.table.zero(self.ty) } else { Value::Object(Object::new()) }
    }

    fn of(self, ty: &'t Type) -> Typed<'t> {
        Typed { ty, atomic: None, ..self }
    }

    /// The type of a member; what is unknown is deduced from the value.
    fn member(self, name: &str) -> Typed<'t> {
        match self.ty {
            Type::Message(id) => {
                let message = self.table.message(*id);
                match self.table.field(message, name) {
                    Some(field) => Typed { ty: &field.ty, atomic: field.patch.atomic, ..self },
                    None => self.of(message.rest().map_or(&ANY, |rest| &rest.ty)),
                }
            }
            Type::Map { value, .. } => self.of(value),
            _ => self.of(&ANY),
        }
    }

    /// Whether a struct of this type has a field of that name (and is no map).
    fn has_field(self, name: &str) -> bool {
        // The root's apiVersion and kind are fields whether the table lists them or not.
        matches!(self.ty, Type::Message(id) if {
            let message = self.table.message(*id);
            message.form == Form::Struct && self.table.field(message, name).is_some_and(|f| !f.name.is_empty())
        })
    }

    fn shape(self, value: Option<&Value>) -> Shape<'t> {
        if self.atomic == Some(true) {
            return Shape::Leaf;
        }
        match self.ty {
            Type::Scalar(_) => Shape::Leaf,
            Type::Message(id) => match self.table.message(*id) {
                message if message.atomic && self.atomic.is_none() || message.form != Form::Struct => Shape::Leaf,
                _ => Shape::Members,
            },
            Type::List { kind: ListKind::Atomic, .. } | Type::Map { kind: MapKind::Atomic, .. } => Shape::Leaf,
            Type::List { element, kind: ListKind::Set } => Shape::Set(element),
            Type::List { element, kind: ListKind::Map { keys } } => Shape::Keyed(element, keys),
            Type::Map { .. } => Shape::Members,
            Type::Any => match value {
                Some(Value::Object(_)) => Shape::Members,
                _ => Shape::Leaf,
            },
        }
    }

    /// How an element of an associative list is called; or why it cannot be.
    fn element(self, keys: Option<&[Box<str>]>, element: &'t Type, item: &Value) -> Result<Box<str>, String> {
        let Some(keys) = keys else {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::List(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(format!("v:{scalar}").into()),
            };
        };
        let object = match item {
            Value::Object(object) => object,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        // A plain field which is always printed has its zero value for a default, as OpenAPI says.
        let default = |key: &str| match element {
            Type::Message(id) => {
                let field = self.table.field(self.table.message(*id), key)?;
                let plain = !field.pointer && !field.omitempty;
                field.default.clone().or_else(|| plain.then(|| self.table.zero(&field.ty)))
            }
            _ => None,
        };
        let named = keys.iter().filter_map(|k| Some((k.to_string(), object.get(k).cloned().or_else(|| default(k))?)));
        let key: Object = named.collect();
        if key.is_empty() {
            let keys: Vec<_> = keys.iter().map(|k| format!("{k:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ));
        }
        Ok(format!("k:{}", Value::Object(key)).into())
    }

    /// The elements of a list by name, in order; those which have none are left out.
    fn named<'v>(self, keys: Option<&[Box<str>]>, element: &'t Type, list: &'v [Value]) -> Vec<(Box<str>, &'v Value)> {
        list.iter().filter_map(|item| Some((self.element(keys, element, item).ok()?, item))).collect()
    }

    /// What is wrong with a value that is to be applied: unknown fields, wrong kinds, duplicate keys.
    pub fn validate(self, value: &Value, path: &str, errors: &mut Vec<String>) {
        let wrong = |what: &str| format!("{path}: expected {what}, got {}", go_value(value));
        if value.is_null() {
            return;
        }
        match (self.ty, value) {
            (Type::Any, _) => {}
            (Type::Scalar(scalar), _) => {
                let fits = match scalar {
                    Scalar::Bool => matches!(value, Value::Bool(_)),
                    Scalar::String | Scalar::Bytes => matches!(value, Value::String(_)),
                    _ => matches!(value, Value::Int(_) | Value::Float(_)),
                };
                if !fits {
                    errors.push(match scalar {
                        Scalar::Bool => wrong("boolean"),
                        Scalar::String | Scalar::Bytes => {
                            format!(
                                "{path}: expected string, got &value.valueUnstructured{{Value:{}}}",
                                go_syntax(value)
                            )
                        }
                        _ => format!("{path}: expected numeric (int or float), got {}", value.go_type()),
                    });
                }
            }
            (Type::Message(id), _) => {
                let message = self.table.message(*id);
                match (message.form, value) {
                    (Form::Struct, Value::Object(object)) => {
                        for (key, member) in object {
                            let below = format!("{path}.{key}");
                            let type_meta = path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind");
                            if self.has_field(key) || message.rest().is_some() {
                                self.member(key).validate(member, &below, errors);
                            } else if !type_meta {
                                errors.push(format!("{below}: field not declared in schema"));
                                break;
                            }
                        }
                    }
                    (Form::Struct, _) => errors.push(wrong("map")),
                    _ => {}
                }
            }
            (Type::Map { value: ty, .. }, Value::Object(object)) => {
                for (key, member) in object {
                    self.of(ty).validate(member, &format!("{path}.{key}"), errors);
                }
            }
            (Type::Map { .. }, _) => errors.push(wrong("map")),
            (Type::List { element, kind }, Value::List(list)) => {
                let mut seen: HashSet<Box<str>> = HashSet::new();
                for (i, item) in list.iter().enumerate() {
                    let keys = match kind {
                        ListKind::Atomic => {
                            self.of(element).validate(item, &format!("{path}[{i}]"), errors);
                            continue;
                        }
                        ListKind::Set => None,
                        ListKind::Map { keys } => Some(keys.as_slice()),
                    };
                    match self.element(keys, element, item) {
                        Err(problem) => {
                            errors.push(format!("{path}: element {i}: {problem}"));
                            return;
                        }
                        Ok(name) => {
                            let shown = display(&name);
                            if !seen.insert(name) {
                                errors.push(format!("{path}: duplicate entries for key {shown}"));
                            }
                            self.of(element).validate(item, &format!("{path}{shown}"), errors);
                        }
                    }
                }
            }
            (Type::List { .. }, _) => errors.push(wrong("list")),
        }
    }

    /// The paths of all that a value says.
    pub fn field_set(self, value: &Value) -> Set {
        let mut set = Set::default();
        self.collect(value, &Path::ROOT, &mut set);
        set
    }

    fn collect(self, value: &Value, path: &Path<'_>, set: &mut Set) {
        match self.shape(Some(value)) {
            Shape::Leaf => set.insert(&path.elements()),
            Shape::Members => {
                for (key, member) in members(Some(value)) {
                    let path = &path.field(key);
                    self.member(key).collect(member, path, set);
                    let empty = member.is_null() || matches!(member, Value::Object(o) if o.is_empty());
                    if empty || !self.has_field(key) {
                        set.insert(&path.elements());
                    }
                }
            }
            Shape::Set(element) => self.collect_items(None, element, value, path, set),
            Shape::Keyed(element, keys) => self.collect_items(Some(keys), element, value, path, set),
        }
    }

    /// The paths of lists, maps and structs in a value that would replace what is there as a whole.
    pub fn atomics(self, value: &Value, path: &str, found: &mut Vec<String>) {
        match self.shape(Some(value)) {
            Shape::Leaf => {
                if matches!(value, Value::List(_) | Value::Object(_)) {
                    found.push(path.to_owned());
                }
            }
            Shape::Members => {
                for (key, member) in members(Some(value)) {
                    self.member(key).atomics(member, &format!("{path}.{key}"), found);
                }
            }
            Shape::Set(element) | Shape::Keyed(element, _) => {
                for (at, item) in items(Some(value)).iter().enumerate() {
                    self.of(element).atomics(item, &format!("{path}[{at}]"), found);
                }
            }
        }
    }

    fn collect_items(
        self,
        keys: Option<&[Box<str>]>,
        element: &'t Type,
        value: &Value,
        path: &Path<'_>,
        set: &mut Set,
    ) {
        let named = self.named(keys, element, items(Some(value)));
        let index = index(&named);
        for (name, item) in &named {
            let path = &path.item(name);
            if index[&**name].1 == 1 {
                self.of(element).collect(item, path, set);
            }
            set.insert(&path.elements());
        }
    }

    /// What was removed, modified and added from one value to the other.
    pub fn compare(self, old: &Value, new: &Value) -> Comparison {
        let mut comparison = Comparison::default();
        self.difference(Some(old), Some(new), &Path::ROOT, &mut comparison);
        comparison
    }

    fn difference(self, old: Option<&Value>, new: Option<&Value>, path: &Path<'_>, out: &mut Comparison) {
        // Most of an object stays as it is, and is cheaper to compare than to name.
        if old.is_some() && old == new {
            return;
        }
        let leaf = |out: &mut Comparison| match (old, new) {
            (None, _) => out.added.insert(&path.elements()),
            (_, None) => out.removed.insert(&path.elements()),
            (Some(old), Some(new)) if !equal(old, new) => out.modified.insert(&path.elements()),
            _ => {}
        };
        // Where nothing is declared, the kinds of the two values may differ.
        let (was, is) = (self.shape(old.or(new)), self.shape(new.or(old)));
        if matches!(self.ty, Type::Any) && matches!(was, Shape::Leaf) != matches!(is, Shape::Leaf) {
            leaf(out);
            let (old, new) = (members(old), members(new));
            for (key, (old, new)) in zip(old, new) {
                self.of(&ANY).difference(old, new, &path.field(key), out);
            }
            return;
        }
        let both_empty = is_empty(old) && is_empty(new);
        match is {
            Shape::Leaf => return leaf(out),
            _ if both_empty => return leaf(out),
            Shape::Members => {
                for (key, (old, new)) in zip(members(old), members(new)) {
                    self.member(key).difference(old, new, &path.field(key), out);
                }
            }
            Shape::Set(element) => self.difference_items(None, element, items(old), items(new), path, out),
            Shape::Keyed(element, keys) => {
                self.difference_items(Some(keys), element, items(old), items(new), path, out);
            }
        }
        match (old, new) {
            (None, _) => out.added.insert(&path.elements()),
            (_, None) => out.removed.insert(&path.elements()),
            _ => {}
        }
    }

    fn difference_items(
        self,
        keys: Option<&[Box<str>]>,
        element: &'t Type,
        old: &[Value],
        new: &[Value],
        path: &Path<'_>,
        out: &mut Comparison,
    ) {
        let (old, count) = (self.named(keys, element, old), new.len());
        let new = self.named(keys, element, new);
        out.nameless |= new.len() < count;
        let (olds, news) = (index(&old), index(&new));
        let mut seen = HashSet::with_capacity(old.len().max(new.len()));
        for (name, _) in old.iter().chain(&new).filter(|(name, _)| seen.insert(&**name)) {
            let (was, is) = (olds.get(&**name), news.get(&**name));
            let (a, b) = (was.map(|w| w.0), is.map(|i| i.0));
            let path = &path.item(name);
            match (was.map_or(0, |w| w.1), is.map_or(0, |i| i.1)) {
                (0 | 1, 0 | 1) => self.of(element).difference(a, b, path, out),
                (2.., 2..) => {
                    let all = |list: &[(Box<str>, &Value)]| -> Vec<Value> {
                        list.iter().filter(|(n, _)| n == name).map(|(_, v)| (*v).clone()).collect()
                    };
                    if all(&old) != all(&new) {
                        out.modified.insert(&path.elements());
                    }
                }
                (2.., _) => {
                    if b.is_some() {
                        self.of(element).difference(None, b, path, out);
                    }
                    out.removed.insert(&path.elements());
                }
                (_, _) => {
                    if a.is_some() {
                        self.of(element).difference(a, None, path, out);
                    }
                    out.added.insert(&path.elements());
                }
            }
        }
    }

    /// `config` laid over `live`: what config does not say stays.
    pub fn merge(self, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
        let keep = || config.or(live).cloned();
        let shape = self.shape(config.or(live));
        if matches!(shape, Shape::Leaf) || is_empty(live) && is_empty(config) {
            return keep();
        }
        match shape {
            Shape::Leaf => keep(),
            Shape::Members => {
                let mut out = Object::new();
                for (key, (live, config)) in zip(members(live), members(config)) {
                    if let Some(merged) = self.member(key).merge(live, config) {
                        out.insert(key.to_owned(), merged);
                    }
                }
                (!out.is_empty()).then_some(Value::Object(out))
            }
            Shape::Set(element) => self.merge_items(None, element, items(live), items(config)),
            Shape::Keyed(element, keys) => self.merge_items(Some(keys), element, items(live), items(config)),
        }
    }

    /// Config's elements in config's order, with live's own ones left where they stand between the shared ones.
    fn merge_items(
        self,
        keys: Option<&[Box<str>]>,
        element: &'t Type,
        live: &[Value],
        config: &[Value],
    ) -> Option<Value> {
        let (live, config) = (self.named(keys, element, live), self.named(keys, element, config));
        let (lives, configs) = (index(&live), index(&config));
        // A name that live has twice has no value there to merge with.
        let observed = |name: &str| lives.get(name).filter(|(_, count)| *count == 1).map(|(value, _)| *value);
        let mut shared = config.iter().map(|(n, _)| &**n).filter(|n| lives.contains_key(n));
        let mut next_shared = shared.next();
        let mut merged: HashSet<&str> = HashSet::new();
        let mut out = Vec::with_capacity(live.len().max(config.len()));
        let inner = self.of(element);
        let (mut l, mut r) = (0, 0);
        while l < live.len() || r < config.len() {
            if let (Some((name, _)), Some((other, item))) = (live.get(l), config.get(r)) {
                if name == other {
                    merged.insert(name);
                    out.extend(inner.merge(observed(name), Some(item)));
                    l += 1;
                    r += 1;
                    next_shared = shared.next();
                    continue;
                }
                if configs.contains_key(&**name) && next_shared.is_some_and(|s| *s != **name) {
                    l += 1;
                    continue;
                }
            }
            if let Some((name, item)) = live.get(l) {
                if !configs.contains_key(&**name) {
                    out.extend(inner.merge(Some(item), None));
                    l += 1;
                    continue;
                } else if merged.contains(&**name) {
                    l += 1;
                }
            }
            if let Some((name, item)) = config.get(r) {
                merged.insert(name);
                out.extend(inner.merge(observed(name), Some(item)));
                r += 1;
                if next_shared == Some(&**name) {
                    next_shared = shared.next();
                }
            }
        }
        (!out.is_empty()).then_some(Value::List(out))
    }

    /// The value without the items of the set; null if nothing is left.
    pub fn remove(self, value: &Value, set: &Set) -> Value {
        match self.shape(Some(value)) {
            Shape::Leaf if matches!(self.ty, Type::Scalar(_) | Type::Any) => value.clone(),
            Shape::Leaf => Value::Null,
            Shape::Members => {
                let mut out = Object::new();
                for (key, member) in members(Some(value)) {
                    let kept = match set.get(&field(key)) {
                        Some(node) if node.member => continue,
                        Some(node) => self.member(key).remove(member, &node.children),
                        None => member.clone(),
                    };
                    out.insert(key.clone(), kept);
                }
                if out.is_empty() { Value::Null } else { Value::Object(out) }
            }
            Shape::Set(element) => self.remove_items(None, element, value, set),
            Shape::Keyed(element, keys) => self.remove_items(Some(keys), element, value, set),
        }
    }

    fn remove_items(self, keys: Option<&[Box<str>]>, element: &'t Type, value: &Value, set: &Set) -> Value {
        let mut out = Vec::new();
        for item in items(Some(value)) {
            let name = self.element(keys, element, item).unwrap_or_default();
            match set.get(&name) {
                Some(node) if node.member => {}
                Some(node) => out.push(self.of(element).remove(item, &node.children)),
                None => out.push(item.clone()),
            }
        }
        if out.is_empty() { Value::Null } else { Value::List(out) }
    }

    /// The set with every struct field on the way to a member made a member itself.
    pub fn with_named_fields(self, set: &Set) -> Set {
        let mut out = Set::default();
        for (element, node) in set.iter() {
            let (below, named) = match element.strip_prefix("f:") {
                Some(name) => (self.member(name), self.has_field(name)),
                None => (
                    self.of(match self.ty {
                        Type::List { element, .. } => element,
                        _ => &ANY,
                    }),
                    false,
                ),
            };
            let member = node.member || named && !node.children.is_empty();
            out.insert_node(element, Node { member, children: below.with_named_fields(&node.children) });
        }
        out
    }
}

/// The elements of a list by name: the first of that name, and how many there are.
fn index<'i, 'v>(named: &'i [(Box<str>, &'v Value)]) -> HashMap<&'i str, (&'v Value, u32)> {
    let mut index = HashMap::with_capacity(named.len());
    for (name, value) in named {
        index.entry(&**name).or_insert((*value, 0)).1 += 1;
    }
    index
}

/// Members of two objects, side by side.
fn zip<'v>(a: &'v Object, b: &'v Object) -> impl Iterator<Item = (&'v str, (Option<&'v Value>, Option<&'v Value>))> {
    let left = a.iter().map(|(k, v)| (k.as_str(), (Some(v), b.get(k))));
    let right = b.iter().filter(|(k, _)| !a.contains_key(k)).map(|(k, v)| (k.as_str(), (None, Some(v))));
    left.chain(right)
}

/// Equal as apply sees it: `1` and `1.0` are.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(i), Value::Float(f)) | (Value::Float(f), Value::Int(i)) => *i as f64 == *f,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && equal(a, b))
        }
        _ => a == b,
    }
}

#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
    /// The new value has elements that nothing tells from each other.
    pub nameless: bool,
}

impl Comparison {
    /// Without the fields that the request may not set.
    pub fn without(self, ignored: &Set) -> Comparison {
        Comparison {
            nameless: self.nameless,
            removed: self.removed.without(ignored),
            modified: self.modified.without(ignored),
            added: self.added.without(ignored),
        }
    }
}

/// Go's `%v` of a `value.Value`.
fn go_value(value: &Value) -> String {
    format!("&{{{}}}", go_print(value))
}

/// Go's `%#v` of what is in an unstructured value.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Object(o) => {
            let members: Vec<_> = o.iter().map(|(k, v)| format!("{k:?}:{}", go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        Value::List(l) => {
            format!("[]interface {{}}{{{}}}", l.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
