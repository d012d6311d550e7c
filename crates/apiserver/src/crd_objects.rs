//! What is wrong with a custom resource, beyond what is asked of all objects' metadata.

use schema::Value;
use schema::validate::{ErrorKind, FieldError, names};

use crate::kind::{Custom, ScalePaths};

/// Errors, and what the client is warned of.
pub fn problems(
    custom: &Custom,
    new: &Value,
    old: Option<&Value>,
    subresource: &str,
) -> (Vec<FieldError>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut errors = match old.filter(|_| subresource == "status") {
        Some(old) => custom.schema.validate_status(new, old),
        None => custom.schema.validate(new, old),
    };
    if let Some(paths) = &custom.scale {
        scale(paths, new, subresource == "status", &mut errors);
    }
    if custom.schema.has_rules() {
        // Rules are written for objects of which these hold.
        let blocks = |error: &FieldError| {
            use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Value::Null, why));
        } else {
            errors.extend(custom.rules.evaluate(&custom.schema, new, old, &mut warnings));
        }
    }
    (errors, warnings)
}

/// What the paths of the scale subresource lead to.
fn scale(paths: &ScalePaths, object: &Value, only_status: bool, errors: &mut Vec<FieldError>) {
    let replicas = [(&paths.spec, only_status), (&paths.status, false)];
    for (path, _) in replicas.into_iter().filter(|(_, skip)| !skip) {
        let detail = match at(object, path) {
            Ok(None) => continue,
            Ok(Some(Value::Int(n))) if *n < 0 => (*n, "should be a non-negative integer".to_owned()),
            Ok(Some(Value::Int(n))) if *n > i64::from(i32::MAX) => {
                (*n, format!("should be less than or equal to {}", i32::MAX))
            }
            Ok(Some(Value::Int(_))) => continue,
            Ok(Some(other)) => (0, wrong_type(path, other, "int64")),
            Err(why) => (0, why),
        };
        errors.push(FieldError::invalid(path.as_str(), detail.0, detail.1));
    }
    let selector = &paths.selector;
    if selector.is_empty() {
        return;
    }
    let wrong = match at(object, selector) {
        Ok(None | Some(Value::String(_))) => return,
        Ok(Some(other)) => wrong_type(selector, other, "string"),
        Err(why) => why,
    };
    errors.push(FieldError::invalid(selector.as_str(), "", wrong));
}

fn at<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let mut value = object;
    for step in path.trim_start_matches('.').split('.') {
        value = match value {
            Value::Object(_) => match value.member(step) {
                Some(inner) => inner,
                None => return Ok(None),
            },
            other => return Err(wrong_type(path, other, "map[string]interface{}")),
        };
    }
    Ok(Some(value))
}

/// In the words of upstream's accessors of unstructured objects.
fn wrong_type(path: &str, value: &Value, wanted: &str) -> String {
    let shown = match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    };
    format!("{path} accessor error: {shown} is of the type {}, expected {wanted}", value.go_type())
}

/// Finalizers that are new and may be somebody else's.
pub fn finalizers(new: &Value, old: Option<&Value>) -> Vec<String> {
    const STANDARD: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];
    let listed = |object: &Value| -> Vec<String> {
        let list = object.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str);
        list.map(str::to_owned).collect()
    };
    let known = old.map(listed).unwrap_or_default();
    let mut added = listed(new);
    added.retain(|name| !known.contains(name));
    added.sort();
    let mut warnings = Vec::new();
    for name in added {
        let mut warn = |why: &str| warnings.push(format!("metadata.finalizers: {name:?}: {why}"));
        names::label_key(&name).iter().for_each(|why| warn(why));
        if !name.contains('/') && !STANDARD.contains(&name.as_str()) {
            let path = if name.contains('.') { " including a path (/)" } else { "" };
            warn(&format!(
                "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
            ));
        }
    }
    warnings
}
