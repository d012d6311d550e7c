//! Configuration files of the group `apiserver.config.k8s.io`: YAML of known fields, with every mistake told.

use schema::{Value, yaml};

const GROUP: &str = "apiserver.config.k8s.io";

/// What may stand in a field.
pub enum Shape {
    Text,
    Flag,
    Texts,
    Object(Fields),
    Objects(Fields),
}

pub type Fields = &'static [(&'static str, Shape)];

/// Reads a file of a kind.
///
/// # Errors
/// Everything that is wrong with its form, each with its place.
pub fn parse(text: &str, kind: &str, fields: Fields) -> Result<Value, Vec<String>> {
    if text.trim().is_empty() {
        return Err(vec!["empty config data".into()]);
    }
    let decoded = yaml::parse(text.as_bytes()).map_err(|error| vec![error.to_string()])?;
    let mut problems: Vec<String> = decoded.problems.iter().map(ToString::to_string).collect();
    let value = decoded.value;
    let (version, found) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let versions = ["v1", "v1beta1", "v1alpha1"];
    if found != kind || !versions.iter().any(|v| version == format!("{GROUP}/{v}")) {
        problems.push(format!("expected kind {kind:?} of {GROUP}/v1, got {found:?} of {version:?}"));
    }
    let Some(members) = value.as_object() else { return Err(problems) };
    for (name, member) in members.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind")) {
        check_member(name, member, name, fields, &mut problems);
    }
    if problems.is_empty() { Ok(value) } else { Err(problems) }
}

fn check_member(name: &str, value: &Value, path: &str, fields: Fields, problems: &mut Vec<String>) {
    match fields.iter().find(|(known, _)| *known == name) {
        Some((_, shape)) => check(value, path, shape, problems),
        None => problems.push(format!("strict decoding error: unknown field {path:?}")),
    }
}

fn check(value: &Value, path: &str, shape: &Shape, problems: &mut Vec<String>) {
    let mut wrong = |wanted: &str| problems.push(format!("{path}: expected {wanted}, got {}", value.kind_name()));
    match (shape, value) {
        (_, Value::Null) | (Shape::Text, Value::String(_)) | (Shape::Flag, Value::Bool(_)) => {}
        (Shape::Text, _) => wrong("a string"),
        (Shape::Flag, _) => wrong("true or false"),
        (Shape::Texts, Value::List(items)) => {
            for (at, item) in items.iter().enumerate() {
                check(item, &format!("{path}[{at}]"), &Shape::Text, problems);
            }
        }
        (Shape::Object(fields), Value::Object(members)) => {
            for (name, member) in members {
                check_member(name, member, &format!("{path}.{name}"), fields, problems);
            }
        }
        (Shape::Objects(fields), Value::List(items)) => {
            for (at, item) in items.iter().enumerate() {
                check(item, &format!("{path}[{at}]"), &Shape::Object(fields), problems);
            }
        }
        (Shape::Object(_), _) => wrong("an object"),
        (Shape::Texts | Shape::Objects(_), _) => wrong("a list"),
    }
}
