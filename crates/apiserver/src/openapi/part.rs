//! Parts of OpenAPI v2 documents: what of a remote server's document belongs to one version, and how it joins ours.

use std::collections::{BTreeMap, BTreeSet};

use schema::{Key, Object, Value};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const INLINED_BYTES_MAX: usize = 8 << 20;

fn each_reference(value: &mut Value, visit: &mut dyn FnMut(&mut String)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(reference) if name == "$ref" => visit(reference),
                    _ => each_reference(member, visit),
                }
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| each_reference(item, visit)),
        _ => {}
    }
}

/// Puts shared parameters where they are referred to: our documents share none. A parameter comes with its size as
/// JSON; what would exceed the budget stays a reference.
fn inline_parameters(value: &mut Value, shared: &BTreeMap<&str, (&Value, usize)>, budget: &mut usize) {
    let named = value.str_at(&["$ref"]).strip_prefix(PARAMETERS).and_then(|name| shared.get(name));
    match (named, value) {
        (Some((parameter, bytes)), value) if bytes <= budget => {
            *budget -= bytes;
            *value = (*parameter).clone();
        }
        (_, Value::Object(members)) => {
            members.values_mut().for_each(|member| inline_parameters(member, shared, budget));
        }
        (_, Value::List(items)) => items.iter_mut().for_each(|item| inline_parameters(item, shared, budget)),
        _ => {}
    }
}

/// The paths at and below a prefix, with the definitions that they refer to.
pub fn of(mut document: Value, prefix: &str) -> Value {
    let mut take = |section: &str| match document.remove(&[section]) {
        Some(Value::Object(members)) => members,
        _ => Object::new(),
    };
    let (mut paths, mut all, shared) = (take("paths"), take("definitions"), take("parameters"));
    paths.retain(|path, _| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    let mut paths = Value::Object(paths);
    let shared = shared.iter().map(|(name, parameter)| (name.as_str(), (parameter, parameter.to_string().len())));
    inline_parameters(&mut paths, &shared.collect(), &mut INLINED_BYTES_MAX.clone());
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    each_reference(&mut paths, &mut |reference| wanted.extend([reference.clone()]));
    let mut definitions = Object::new();
    while let Some(reference) = wanted.pop_first() {
        let Some(name) = reference.strip_prefix(DEFINITIONS) else { continue };
        if let Some(mut definition) = all.remove(name) {
            each_reference(&mut definition, &mut |reference| wanted.extend([reference.clone()]));
            definitions.insert(name.to_owned(), definition);
        }
    }
    Value::object([("paths", paths), ("definitions", definitions.into())])
}

/// Adds a part to a document. A definition that differs from ours of its name gets another one; paths that are there stay.
pub fn join(document: &mut Value, mut part: Value) {
    let mut renamed: BTreeMap<Key, Key> = BTreeMap::new();
    let ours = document.make_object(&["definitions"]);
    for (name, definition) in part.object_at(&["definitions"]).into_iter().flatten() {
        let is_taken = |name: &str| ours.get(name).is_some_and(|known| known != definition);
        if is_taken(name) {
            let mut number = 2;
            while is_taken(&format!("{name}_v{number}")) {
                number += 1;
            }
            renamed.insert(name.clone(), format!("{name}_v{number}").into());
        }
    }
    each_reference(&mut part, &mut |reference| {
        if let Some(new) = reference.strip_prefix(DEFINITIONS).and_then(|name| renamed.get(name)) {
            *reference = format!("{DEFINITIONS}{new}");
        }
    });
    for section in ["definitions", "paths"] {
        let Some(Value::Object(members)) = part.remove(&[section]) else { continue };
        let ours = document.make_object(&[section]);
        for (name, member) in members {
            let name = renamed.get(&name).filter(|_| section == "definitions").cloned().unwrap_or(name);
            ours.entry(name).or_insert(member);
        }
    }
}

#[cfg(test)]
mod tests;
