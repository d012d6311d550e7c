//! Whole objects inside of custom resources (`x-kubernetes-embedded-resource`): what they are and their metadata.

use super::node::{Additional, Node};
use super::{decode_metadata, join};
use crate::validate::{FieldError, NameRule, metadata, names};
use crate::{FieldProblem, Value};

/// The root is not one of them: the server has looked at its metadata.
pub fn validate(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(object) => {
            if node.embedded && !path.is_empty() {
                embedded(value, path, errors);
            }
            for (key, member) in object {
                match (node.properties.get(key), &node.additional) {
                    (Some(inner), _) => validate(inner, member, &join(path, key), errors),
                    (None, Additional::Of(inner)) => validate(inner, member, &format!("{path}[{key}]"), errors),
                    _ => {}
                }
            }
        }
        Value::List(list) => {
            for (i, item) in list.iter().enumerate() {
                if let Some(inner) = &node.items {
                    validate(inner, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// Metadata of embedded objects in the normal form of its type.
pub fn coerce(node: &Node, value: &mut Value, path: &str, unknown: &mut Vec<FieldProblem>) -> Result<(), FieldError> {
    match value {
        Value::Object(object) => {
            if let Some(meta) = object.get_mut("metadata").filter(|_| node.embedded && !path.is_empty()) {
                let at = join(path, "metadata");
                let decoded =
                    decode_metadata(meta).map_err(|why| FieldError::invalid(&*at, meta.clone(), why.to_string()))?;
                *meta = decoded.value;
                unknown.extend(decoded.problems.into_iter().filter_map(|problem| match problem {
                    FieldProblem::Unknown(path) => Some(FieldProblem::Unknown(format!("{at}.{path}"))),
                    _ => None,
                }));
            }
            for (key, member) in object {
                if let Some(Some(inner)) = node.member(key) {
                    coerce(inner, member, &join(path, key), unknown)?;
                }
            }
        }
        Value::List(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                if let Some(inner) = &node.items {
                    coerce(inner, item, &format!("{path}[{i}]"), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn embedded(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["apiVersion", "kind"] {
        let at = join(path, field);
        let Some(given) = value.member(field) else {
            errors.push(FieldError::required(at, ""));
            continue;
        };
        let Some(text) = given.as_str() else {
            errors.push(FieldError::invalid(at, given.clone(), "must be a string"));
            continue;
        };
        if text.is_empty() {
            errors.push(FieldError::invalid(at, text, "must not be empty"));
        } else if field == "apiVersion" {
            if text.matches('/').count() > 1 {
                errors.push(FieldError::invalid(at, text, format!("unexpected GroupVersion string: {text}")));
            }
        } else {
            let problems = names::dns1035_label(&text.to_lowercase());
            if !problems.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                errors.push(FieldError::invalid(at, text, detail));
            }
        }
    }
    let Some(meta) = value.member("metadata") else { return };
    let at = join(path, "metadata");
    match decode_metadata(meta) {
        Err(why) => errors.push(FieldError::invalid(at, meta.clone(), why.to_string())),
        Ok(decoded) => {
            let mut meta = decoded.value;
            if meta.str_at(&["name"]).is_empty() {
                // An embedded object need not have one.
                meta.set(&["name"], "fakename");
            }
            let namespaced = !meta.str_at(&["namespace"]).is_empty();
            errors.extend(metadata(&meta, namespaced, NameRule::PathSegment, &at));
        }
    }
}
