//! Strategic merge patch: lists merge by their merge keys, and `$` directives say what else to do.

use std::cmp::Ordering;

use super::{PatchError, Result};
use crate::value::Key;
use crate::{Field, Form, Object, Table, Type, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Strategic merge by the schema's patch strategies and merge keys, with all `$` directives.
pub fn strategic(table: &Table, ty: &Type, original: Value, patch: Value) -> Result<Value> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    Merger { table }.object(Some(original), patch, ty).map(Value::Object)
}

struct Merger<'t> {
    table: &'t Table,
}

fn malformed(message: &str) -> PatchError {
    PatchError::Malformed(message.to_owned())
}

fn expected(wanted: &str, found: &Value) -> PatchError {
    let found = match found {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "slice",
        Value::Object(_) => "map",
    };
    PatchError::Failed(format!("expected a {wanted}, but received a {found}"))
}

fn no_merge_key(item: &Object, key: &str) -> PatchError {
    PatchError::Failed(format!("map: {} does not contain declared merge key: {key}", go_map(item)))
}

/// Go's `%v`.
pub fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::List(list) => format!("[{}]", list.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => go_map(object),
        other => other.to_string(),
    }
}

fn go_map(object: &Object) -> String {
    let members: Vec<_> = object.iter().map(|(k, v)| format!("{k}:{}", go_print(v))).collect();
    format!("map[{}]", members.join(" "))
}

impl<'t> Merger<'t> {
    /// The field that a member of a value of this type is; an error if a struct has none, as upstream's lookup.
    fn field(&self, ty: &'t Type, key: &str) -> Result<&'t Field> {
        let Type::Message(id) = ty else {
            let kind = match ty {
                Type::Map { .. } => "map",
                Type::List { .. } => "slice",
                _ => "interface",
            };
            let message = format!("merging an object in json but data type is not struct, instead is: {kind}");
            return Err(PatchError::Failed(message));
        };
        let message = self.table.message(*id);
        let found = if message.form == Form::Struct { self.table.field(message, key) } else { None };
        found.ok_or_else(|| {
            let name = message.short_name();
            PatchError::Failed(format!("unable to find api field in struct {name} for the json field {key:?}"))
        })
    }

    fn object(&self, original: Option<Object>, mut patch: Object, ty: &'t Type) -> Result<Object> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(DIRECTIVE);
                    Ok(patch)
                }
                Some("delete") => Ok(Object::new()),
                _ => Err(bad_directive(directive, &patch)),
            };
        }
        let mut original = original.unwrap_or_default();
        retain_keys(&mut original, &mut patch)?;
        self.set_element_orders(&mut original, &mut patch, ty)?;
        for (key, value) in patch {
            let deleting = key.strip_prefix(DELETE_FROM).map(Key::from);
            let is_delete = deleting.is_some();
            let key = match deleting {
                Some(key) => key,
                None if key.starts_with("$deleteFromPrimitiveList") => {
                    return Err(malformed("invalid patch format of primitive list"));
                }
                None => key,
            };
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let same_kind = |a: &Value, b: &Value| std::mem::discriminant(a) == std::mem::discriminant(b);
            match (original.remove(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let field = self.field(ty, &key)?;
                    let merged = if field.patch.replace { new } else { self.object(Some(old), new, &field.ty)? };
                    original.insert(key, Value::Object(merged));
                }
                (Some(Value::List(old)), Value::List(new)) => {
                    let (element, field) = self.slice(ty, &key)?;
                    let merged = self.list_of(old, new, element, field, is_delete)?;
                    original.insert(key, Value::List(merged));
                }
                (Some(old), new) if is_delete && !same_kind(&old, &new) => drop(original.insert(key, old)),
                (None, _) if is_delete => {}
                (old, mut new) => {
                    if !old.is_some_and(|old| same_kind(&old, &new)) {
                        discard_nulls(&mut new);
                    }
                    if let Some(kept) = without_directives(new) {
                        original.insert(key, kept);
                    }
                }
            }
        }
        Ok(original)
    }

    /// The element type of a list member, and its field.
    fn slice(&self, ty: &'t Type, key: &str) -> Result<(&'t Type, &'t Field)> {
        let field = self.field(ty, key)?;
        match &field.ty {
            Type::List { element, .. } => Ok((element, field)),
            _ => Err(PatchError::Failed("expected slice or array type, but got: struct".to_owned())),
        }
    }

    fn list_of(
        &self,
        old: Vec<Value>,
        new: Vec<Value>,
        ty: &'t Type,
        field: &Field,
        delete: bool,
    ) -> Result<Vec<Value>> {
        if !(field.patch.merge || delete) {
            return Ok(new);
        }
        self.list(old, new, ty, field.patch.merge_key.as_deref().unwrap_or(""), delete)
    }

    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        ty: &'t Type,
        key: &str,
        delete: bool,
    ) -> Result<Vec<Value>> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        let maps = holds_maps(&original, &patch)?;
        let (merged, original, patch) = if !maps {
            if delete {
                return Ok(original.into_iter().filter(|v| !patch.contains(v)).collect());
            }
            let mut both = original.clone();
            both.extend(patch.iter().cloned());
            (deduplicate(both), original, patch)
        } else {
            if key.is_empty() {
                let name = self.table.go_type(ty);
                let name = name.rsplit('.').next().unwrap_or_default();
                return Err(PatchError::Failed(format!("cannot merge lists without merge key for {name}")));
            }
            let (original, patch) = special_elements(original, patch, key)?;
            let mut merged = original.clone();
            for item in &patch {
                let Value::Object(item) = item else { return Err(expected("map", item)) };
                let id = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
                match position(&merged, key, id)? {
                    Some(at) => {
                        let Value::Object(known) = std::mem::take(&mut merged[at]) else { continue };
                        merged[at] = Value::Object(self.object(Some(known), item.clone(), ty)?);
                    }
                    None => merged.push(Value::Object(item.clone())),
                }
            }
            (merged, original, patch)
        };
        let (patched, server_only) = partition(merged, &patch, key, maps)?;
        in_order(patched, server_only, &patch, &original, key, maps)
    }

    /// Applies the `$setElementOrder` lists, merging the lists which they order.
    fn set_element_orders(&self, original: &mut Object, patch: &mut Object, ty: &'t Type) -> Result<()> {
        let directives: Vec<Key> = patch.keys().filter(|k| k.starts_with("$setElementOrder")).cloned().collect();
        for directive in directives {
            let bad_format = || malformed("invalid patch format of setElementOrder list");
            let order = match patch.remove(&directive) {
                Some(Value::List(order)) => order,
                other => return Err(expected("slice", &other.unwrap_or_default())),
            };
            let name = directive.strip_prefix(SET_ORDER).ok_or_else(bad_format)?;
            let take = |object: &mut Object| match object.remove(name) {
                None => Ok(None),
                Some(Value::List(list)) => Ok(Some(list)),
                Some(other) => Err(expected("slice", &other)),
            };
            let (old, new) = (take(original)?, take(patch)?);
            let (element, field) = self.slice(ty, name)?;
            let key = field.patch.merge_key.as_deref().unwrap_or("");
            check_order(new.as_deref().unwrap_or(&[]), &order, key)?;
            let known = old.clone().unwrap_or_default();
            let sample = new.clone().unwrap_or_default();
            let merged = match (old, new) {
                (Some(old), None) => old,
                (None, Some(new)) => match without_directives(Value::List(new)) {
                    Some(Value::List(list)) => list,
                    _ => continue,
                },
                (Some(old), Some(new)) => self.list_of(old, new, element, field, false)?,
                (None, None) => continue,
            };
            let maps = match holds_maps(&known, &sample) {
                Ok(maps) => maps,
                // Two empty lists have no order.
                Err(_) if known.is_empty() && sample.is_empty() => {
                    original.insert(name.to_owned(), Value::List(merged));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (patched, server_only) = partition(merged, &order, key, !key.is_empty())?;
            let both = in_order(patched, server_only, &order, &known, key, maps)?;
            original.insert(name.to_owned(), Value::List(both));
        }
        Ok(())
    }
}

fn bad_directive(directive: &Value, object: &Object) -> PatchError {
    PatchError::Failed(format!("unknown patch type: {} in map: {}", go_print(directive), go_map(object)))
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad_format = || malformed("invalid patch format of retainKeys");
    let Value::List(keys) = keys else { return Err(bad_format()) };
    let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    for (key, value) in &*patch {
        let directive = key.starts_with("$deleteFromPrimitiveList") || key.starts_with("$setElementOrder");
        if !value.is_null() && !directive && !kept(key) {
            return Err(bad_format());
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, v| !v.is_null());
            object.values_mut().for_each(discard_nulls);
        }
        Value::List(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A new value without its directives; nothing is left of an object that carries `$patch`.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) => (!object.contains_key(DIRECTIVE)).then(|| {
            Value::Object(object.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?))).collect())
        }),
        Value::List(list) => Some(Value::List(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// Whether the lists hold objects (or else scalars); mixtures and lists of lists are errors.
fn holds_maps(a: &[Value], b: &[Value]) -> Result<bool> {
    let mut items = a.iter().chain(b);
    let Some(first) = items.next() else {
        return Err(PatchError::Failed("no elements in any of the given slices".to_owned()));
    };
    if matches!(first, Value::List(_)) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned()));
    }
    if items.any(|item| std::mem::discriminant(item) != std::mem::discriminant(first)) {
        let print = |l: &[Value]| go_print(&Value::List(l.to_vec()));
        let message = format!("list element types are not identical: [{} {}]", print(a), print(b));
        return Err(PatchError::Failed(message));
    }
    Ok(matches!(first, Value::Object(_)))
}

fn deduplicate(list: Vec<Value>) -> Vec<Value> {
    let mut unique: Vec<Value> = Vec::with_capacity(list.len());
    for item in list {
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}

/// Takes `$patch: delete` and `$patch: replace` items out of a patch list and does what they say.
fn special_elements(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(object) = &item else { return Err(expected("map", &item)) };
        match object.get(DIRECTIVE) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let id = object.get(key).ok_or_else(|| no_merge_key(object, key))?;
                    while let Some(at) = position(&original, key, id)? {
                        original.remove(at);
                    }
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(PatchError::Failed("merging lists cannot yet be specified in the patch".to_owned()));
                }
                _ => return Err(bad_directive(directive, object)),
            },
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}

fn position(list: &[Value], key: &str, id: &Value) -> Result<Option<usize>> {
    for (at, item) in list.iter().enumerate() {
        match item {
            Value::Object(object) if object.get(key) == Some(id) => return Ok(Some(at)),
            Value::Object(_) => {}
            _ => return Err(PatchError::Failed(format!("value for key {at} is not a map"))),
        }
    }
    Ok(None)
}

/// What an item of a list is known by.
fn identity<'v>(item: &'v Value, key: &str, maps: bool) -> &'v Value {
    static NULL: Value = Value::Null;
    if maps { item.member(key).unwrap_or(&NULL) } else { item }
}

fn place(list: &[Value], item: &Value, key: &str, maps: bool) -> Option<usize> {
    list.iter().position(|other| identity(other, key, maps) == identity(item, key, maps))
}

/// The items which the order names, and those which only the server has.
fn partition(list: Vec<Value>, by: &[Value], key: &str, maps: bool) -> Result<(Vec<Value>, Vec<Value>)> {
    if maps {
        for item in list.iter() {
            let Value::Object(object) = item else { return Err(expected("map", item)) };
            if !object.contains_key(key) {
                return Err(no_merge_key(object, key));
            }
        }
    }
    Ok(list.into_iter().partition(|item| place(by, item, key, maps).is_some()))
}

fn in_order(
    mut patch: Vec<Value>,
    mut server_only: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: &str,
    maps: bool,
) -> Result<Vec<Value>> {
    if maps {
        for item in patch_order.iter().chain(server_order) {
            let Value::Object(object) = item else { return Err(expected("map", item)) };
            if !object.contains_key(key) {
                return Err(no_merge_key(object, key));
            }
        }
    }
    let sort = |list: &mut Vec<Value>, order: &[Value]| {
        list.sort_by(|a, b| match (place(order, a, key, maps), place(order, b, key, maps)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => Ordering::Equal,
        });
    };
    sort(&mut patch, patch_order);
    sort(&mut server_only, server_order);
    let mut all = Vec::with_capacity(patch.len() + server_only.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), patch.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => {
                let (l, r) = (place(server_order, l, key, maps), place(server_order, r, key, maps));
                matches!((l, r), (Some(l), Some(r)) if l < r)
            }
        };
        all.extend(if take_left { left.next() } else { right.next() });
    }
    Ok(all)
}

/// The patch's items must stand in the order that it asks for.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let maps = !key.is_empty();
    let mut wanted = order.iter();
    for item in patch.iter().filter(|i| i.member(DIRECTIVE).is_none()) {
        if maps && item.member(key).is_none() {
            return Err(match item {
                Value::Object(object) => no_merge_key(object, key),
                other => expected("map", other),
            });
        }
        if !wanted.any(|w| identity(w, key, maps) == identity(item, key, maps)) {
            let print = |l: &[Value]| go_print(&Value::List(l.to_vec()));
            return Err(PatchError::Failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                print(patch),
                print(order)
            )));
        }
    }
    Ok(())
}
