//! Whether a schema is structural, in upstream's words.

use super::{members, values::type_name};
use crate::Value;
use crate::validate::{ErrorKind, FieldError};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

pub fn structural(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    generic(schema, Level::Root, path, &mut errors);
    complete(schema, path, &mut errors);
    if path.is_empty() {
        for error in &mut errors {
            error.field = error.field.trim_start_matches('.').to_owned();
        }
    }
    errors.sort_by_key(ToString::to_string);
    errors
}

fn is_int_or_string_pattern(any_of: &[Value]) -> bool {
    let is = |at: usize, kind: &str| {
        any_of[at].as_object().is_some_and(|o| o.len() == 1) && any_of[at].str_at(&["type"]) == kind
    };
    any_of.len() == 2 && is(0, "integer") && is(1, "string")
}

fn generic(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    let kind = schema.str_at(&["type"]);
    let flag = |name: &str| schema.bool_at(&[name]);
    let (int_or_string, preserve, embedded) = (
        flag("x-kubernetes-int-or-string"),
        flag("x-kubernetes-preserve-unknown-fields"),
        flag("x-kubernetes-embedded-resource"),
    );
    match schema.member("items") {
        Some(items @ Value::Object(_)) => generic(items, Level::Item, &at("items"), errors),
        Some(Value::List(_)) => {
            errors.push(FieldError::forbidden(at("items"), "items must be a schema object and not an array"));
        }
        _ if kind == "array" => errors.push(FieldError::required(at("items"), "must be specified")),
        _ => {}
    }
    for (name, inner) in members(schema, "properties") {
        generic(inner, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(additional) = schema.member("additionalProperties").filter(|a| !a.is_null()) {
        if level == Level::Root {
            errors.push(FieldError::forbidden(at("additionalProperties"), "must not be used at the root"));
        }
        if members(schema, "properties").next().is_some() && !additional.is_null() {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(at("additionalProperties"), detail));
        }
        if matches!(additional, Value::Object(_)) {
            generic(additional, Level::Field, &at("additionalProperties"), errors);
        }
        if embedded {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(at("additionalProperties"), detail));
        }
    }
    let off = "must be false if x-kubernetes-int-or-string is true";
    for (set, name) in
        [(preserve, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if int_or_string && set {
            errors.push(FieldError::invalid(at(name), true, off));
        }
    }
    values(schema, path, errors);

    let must_be_object = "must be object if x-kubernetes-embedded-resource is true";
    match kind {
        "object" => {}
        "" if embedded => errors.push(FieldError::required(at("type"), must_be_object)),
        _ if embedded => errors.push(FieldError::invalid(at("type"), kind, must_be_object)),
        "" if !int_or_string && !preserve => {
            let detail = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            errors.push(FieldError::required(at("type"), detail));
        }
        _ => {}
    }
    if level == Level::Root && !matches!(kind, "" | "object") {
        errors.push(FieldError::invalid(at("type"), kind, "must be object at the root"));
    }
    const KINDS: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    if !kind.is_empty() && !KINDS.contains(&kind) {
        errors.push(FieldError::not_supported(at("type"), kind, &KINDS));
        // No value is of such a type.
        if let Some(default) = schema.member("default") {
            let given = type_name(default);
            let detail = format!(" in body must be of type {kind}: {given:?}");
            errors.push(FieldError::new(ErrorKind::TypeInvalid, at("default"), given, detail));
        }
    }
    let check_metadata = level == Level::Root || embedded;
    if check_metadata {
        for name in ["kind", "apiVersion"] {
            if let Some(inner) = schema.get(&["properties", name])
                && inner.str_at(&["type"]) != "string"
            {
                let detail = "must be string";
                errors.push(FieldError::invalid(
                    format!("{path}.properties[{name}].type"),
                    inner.str_at(&["type"]),
                    detail,
                ));
            }
        }
        if let Some(meta) = schema.get(&["properties", "metadata"]) {
            metadata(meta, level, &format!("{path}.properties[metadata]"), errors);
        }
    }
    if embedded && !preserve && members(schema, "properties").next().is_none() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(at("properties"), detail));
    }
    for (field, wanted, known) in [
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"][..]),
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
    ] {
        let Some(given) = schema.member(field).and_then(Value::as_str) else { continue };
        if kind != wanted {
            let detail = format!("must be {wanted} if {field} is specified");
            errors.push(match kind {
                "" => FieldError::required(at("type"), detail),
                _ => FieldError::invalid(at("type"), kind, detail),
            });
        }
        if !known.contains(&given) {
            errors.push(FieldError::not_supported(at(field), given, known));
        }
    }
    let list_type = schema.str_at(&["x-kubernetes-list-type"]);
    let keys = schema.list_at(&["x-kubernetes-list-map-keys"]);
    match (list_type, keys.is_empty()) {
        ("map", true) => {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(at("x-kubernetes-list-map-keys"), detail));
        }
        ("map", false) | (_, true) => {}
        (other, false) => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::invalid(at("x-kubernetes-list-type"), other, detail));
        }
    }
    if flag("uniqueItems") {
        errors.push(FieldError::forbidden(
            at("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
}

/// At the root, metadata is implied; its schema may only restrict the names.
fn metadata(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    if schema.str_at(&["type"]) != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), schema.str_at(&["type"]), "must be object"));
    }
    let allowed = |key: &str| matches!(key, "type" | "default" | "description" | "title");
    let others = schema.as_object().into_iter().flatten().any(|(key, value)| {
        let names_only =
            || value.as_object().is_some_and(|p| p.keys().all(|k| matches!(k.as_str(), "name" | "generateName")));
        !(allowed(key) || key == "properties" && names_only() || value.is_empty())
    });
    if level == Level::Root && others {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn pattern(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let pattern = schema.str_at(&["pattern"]);
    if !pattern.is_empty()
        && let Err(error) = regex::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, detail));
    }
}

/// What a schema combines: how, at which place of its list, the schema and its path.
fn combined<'a>(
    schema: &'a Value,
    path: &'a str,
) -> impl Iterator<Item = (&'static str, usize, &'a Value, String)> + 'a {
    let lists = ["anyOf", "allOf", "oneOf"].into_iter().flat_map(move |name| {
        let list = schema.list_at(&[name]).iter().enumerate();
        list.map(move |(i, inner)| (name, i, inner, format!("{path}.{name}[{i}]")))
    });
    let not = schema.member("not").filter(|inner| !inner.is_null());
    lists.chain(not.map(|inner| ("not", 0, inner, format!("{path}.not"))))
}

/// The logical combinations, which may hold value validation only.
fn values(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let int_or_string = schema.bool_at(&["x-kubernetes-int-or-string"]);
    let is_pattern = |schema: &Value| int_or_string && is_int_or_string_pattern(schema.list_at(&["anyOf"]));
    for (name, i, inner, at) in combined(schema, path) {
        if name != "anyOf" || !is_pattern(schema) {
            nested(inner, name == "allOf" && i == 0 && is_pattern(inner), &at, errors);
        }
    }
    pattern(schema, path, errors);
}

fn nested(schema: &Value, spare_any_of: bool, path: &str, errors: &mut Vec<FieldError>) {
    for (name, _, inner, at) in combined(schema, path) {
        if name != "anyOf" || !spare_any_of {
            nested(inner, false, &at, errors);
        }
    }
    pattern(schema, path, errors);
    if let Some(items @ Value::Object(_)) = schema.member("items") {
        nested(items, false, &format!("{path}.items"), errors);
    }
    for (name, inner) in members(schema, "properties") {
        nested(inner, false, &format!("{path}.properties[{name}]"), errors);
    }
    for (name, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if schema.member(name).is_some_and(|v| !v.is_empty()) {
            errors.push(FieldError::forbidden(format!("{path}.{name}"), detail));
        }
    }
    if schema.get(&["properties", "metadata"]).is_some() {
        let detail = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), detail));
    }
}

/// What a combination at the root speaks of must be specified outside of it too.
fn complete(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (.., inner, at) in combined(schema, path) {
        covered(schema, inner, &at, path, errors);
    }
}

fn covered(outer: &Value, inner: &Value, path: &str, outer_path: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in members(inner, "properties") {
        match outer.get(&["properties", name]) {
            Some(known) => {
                let at = format!("{outer_path}.properties[{name}]");
                covered(known, value, &format!("{path}.properties[{name}]"), &at, errors);
            }
            None => {
                let detail = format!("because it is defined in {path}.properties[{name}]");
                errors.push(FieldError::required(format!("{outer_path}.properties[{name}]"), detail));
            }
        }
    }
    if let Some(items @ Value::Object(_)) = inner.member("items") {
        match outer.member("items") {
            Some(known @ Value::Object(_)) => {
                covered(known, items, &format!("{path}.items"), &format!("{outer_path}.items"), errors);
            }
            _ => {
                let detail = format!("because it is defined in {path}.items");
                errors.push(FieldError::required(format!("{outer_path}.items"), detail));
            }
        }
    }
    for (.., nested, at) in combined(inner, path) {
        covered(outer, nested, &at, outer_path, errors);
    }
}
