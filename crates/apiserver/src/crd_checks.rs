//! What is wrong with a CustomResourceDefinition. Upstream moves what all versions have alike to where it once stood,
//! in the specification itself, and so do its field paths.

use schema::Value;
use schema::structural::Schema;
use schema::validate::{FieldError, names};

use crate::behaviours::{Cx, named};
use crate::crd_rules::Rules;
use crate::{conversion, crd};

pub fn validate(cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !cx.subresource.is_empty() {
        return errors;
    }
    let spec = &new["spec"];
    let (group, plural) = (spec.str_at(&["group"]), spec.str_at(&["names", "plural"]));
    // A name is looked at when it comes.
    errors.extend(named(new, |name, _| {
        let is_wrong = old.is_none() && name != format!("{plural}.{group}");
        is_wrong.then(|| "must be spec.names.plural+\".\"+spec.group".to_owned()).into_iter().collect()
    }));
    let problems = names::dns1123_subdomain(group).join(",");
    if !group.is_empty() && !problems.is_empty() {
        errors.push(FieldError::invalid("spec.group", group, problems));
    } else if !group.is_empty() && !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    let kind = spec.str_at(&["names", "kind"]);
    if kind == spec.str_at(&["names", "listKind"]) && !kind.is_empty() {
        errors.push(FieldError::invalid("spec.names.listKind", kind, "kind and listKind may not be the same"));
    }
    if spec.bool_at(&["preserveUnknownFields"]) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, detail));
    }
    versions(spec, old, &mut errors);
    errors.extend(conversion::validate(new, old));
    stored(new, &mut errors);
    let Some(old) = old else { return errors };
    let fixed: &[&str] = match crd::is_established(old) {
        true => &["spec.group", "spec.names.plural", "spec.names.kind", "spec.scope"],
        false => &["spec.group", "spec.names.plural"],
    };
    for path in fixed {
        let (before, after) = (old.dotted(path), new.dotted(path));
        if before != after {
            let shown = after.cloned().unwrap_or_default();
            errors.push(FieldError::invalid(*path, shown, "field is immutable"));
        }
    }
    errors
}

/// The storage version has been one, and no other that has been one is missing.
fn stored(new: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "status.storedVersions";
    let list = new.list_at(&["status", "storedVersions"]);
    if list.is_empty() {
        return errors.push(FieldError::invalid(PATH, Value::Null, "must have at least one stored version"));
    }
    let mut left: Vec<(usize, &Value)> = list.iter().enumerate().collect();
    for version in new.list_at(&["spec", "versions"]) {
        let known = left.len();
        left.retain(|(_, name)| **name != version["name"]);
        if left.len() == known && version.bool_at(&["storage"]) {
            let detail = format!("must have the storage version {}", version.str_at(&["name"]));
            errors.push(FieldError::invalid(PATH, Value::List(list.to_vec()), detail));
        }
    }
    for (at, name) in left {
        let shown = name.as_str().unwrap_or("");
        let detail = format!(
            "missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {shown} and removes {shown} from status.storedVersions"
        );
        errors.push(FieldError::invalid(format!("{PATH}[{at}]"), name.clone(), detail));
    }
}

fn versions(spec: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let versions = spec.list_at(&["versions"]);
    let mut wrong = |detail: &str| errors.push(FieldError::invalid("spec.versions", spec["versions"].clone(), detail));
    if (1..versions.len()).any(|at| versions[..at].iter().any(|other| other["name"] == versions[at]["name"])) {
        wrong("must contain unique version names");
    }
    if versions.iter().filter(|version| version.bool_at(&["storage"])).count() != 1 {
        wrong("must have exactly one version marked as storage version");
    }
    let alike = |field: &str| versions.windows(2).all(|two| two[0][field] == two[1][field]);
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = version.str_at(&["name"]);
        let problems = names::dns1035_label(name).join(",");
        if !problems.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.name"), name, &*problems));
            if at == 0 && !name.is_empty() {
                errors.push(FieldError::invalid("spec.version", name, problems));
            }
        }
        if let Some(warning) = version.member("deprecationWarning").and_then(Value::as_str) {
            let wrong = deprecation(version.bool_at(&["deprecated"]), warning);
            let field = format!("{path}.deprecationWarning");
            errors.extend(wrong.into_iter().map(|detail| FieldError::invalid(&*field, warning, detail)));
        }
        if version["schema"]["openAPIV3Schema"].is_null() {
            errors.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), ""));
        }
        // What is alike is looked at once.
        let place = |field: &str, above: &str| match alike(field) {
            true if at > 0 => None,
            true => Some(format!("spec.{above}")),
            false => Some(format!("{path}.{field}")),
        };
        let has_status = |version: &Value| !version["subresources"]["status"].is_null();
        let (schema, fields) = (place("schema", "validation"), place("selectableFields", "selectableFields"));
        let fields = fields.filter(|_| !version["selectableFields"].is_empty());
        let parsed =
            (schema.is_some() || fields.is_some()).then(|| Schema::parse(&version["schema"]["openAPIV3Schema"]));
        if let Some((place, parsed)) = schema.zip(parsed.as_ref()) {
            let has_status = if alike("schema") { versions.iter().any(has_status) } else { has_status(version) };
            let path = format!("{place}.openAPIV3Schema");
            check_schema(spec, version, parsed, old, &path, has_status, errors);
        }
        if let Some(place) = place("subresources", "subresources") {
            scale(&version["subresources"]["scale"], &place, errors);
        }
        for (column, of) in version.list_at(&["additionalPrinterColumns"]).iter().enumerate() {
            if let Some(place) = place("additionalPrinterColumns", "additionalPrinterColumns") {
                check_column(of, &format!("{place}[{column}]"), errors);
            }
        }
        if let Some((place, parsed)) = fields.zip(parsed) {
            if !version["schema"].is_null() {
                errors.extend(selectable(version, &parsed, &place));
                continue;
            }
            let detail = match alike("selectableFields") {
                true => "may only be set when validations.schema is included",
                false => "may only be set when `version.schema.openAPIV3Schema` is not included",
            };
            errors.push(FieldError::invalid(place, "", detail));
        }
    }
}

fn deprecation(deprecated: bool, warning: &str) -> Vec<String> {
    if !deprecated {
        return vec!["can only be set for deprecated versions".to_owned()];
    }
    const CONTROL: &str = "must only contain printable UTF-8 characters; non-printable character found at index";
    let control = warning.char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| format!("{CONTROL} {at}"));
    let long = (warning.len() > 256).then(|| "must be <= 256 characters long".to_owned());
    let empty = warning.is_empty().then(|| "must not be an empty string".to_owned());
    long.into_iter().chain(empty).chain(control).collect()
}

fn check_schema(
    spec: &Value,
    version: &Value,
    parsed: &Schema,
    old: Option<&Value>,
    path: &str,
    has_status: bool,
    errors: &mut Vec<FieldError>,
) {
    let schema = &version["schema"]["openAPIV3Schema"];
    if schema.is_null() {
        return;
    }
    let kind = schema.str_at(&["type"]);
    if has_status && !matches!(kind, "" | "object") {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
    }
    if parsed.has_defaults() && spec.bool_at(&["preserveUnknownFields"]) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, detail));
    }
    let wrong = parsed.check(schema, path);
    // What was taken once stays: rules do not keep a definition from being changed elsewhere.
    if !old.is_some_and(|old| is_known(old, version.str_at(&["name"]), schema)) {
        errors.extend(Rules::new(parsed, path, wrong.is_empty()).1);
    }
    errors.extend(wrong);
}

fn scale(scale: &Value, place: &str, errors: &mut Vec<FieldError>) {
    for (field, below, must, word) in [
        ("specReplicasPath", [".spec."; 2], true, ".spec"),
        ("statusReplicasPath", [".status."; 2], true, ".status"),
        ("labelSelectorPath", [".spec.", ".status."], false, "either .spec or .status"),
    ] {
        let (path, given) = (format!("{place}.scale.{field}"), scale.str_at(&[field]));
        let is_below = below.iter().any(|root| given.starts_with(root));
        if !given.is_empty() && given.starts_with('.') && !is_below {
            errors.push(FieldError::invalid(path, given, format!("should be a json path under {word}")));
        } else if !given.is_empty() || must && !scale.is_null() {
            simple_path(given, path, errors);
        }
    }
}

fn simple_path(given: &str, path: String, errors: &mut Vec<FieldError>) {
    if given.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !given.starts_with('.') {
        errors.push(FieldError::invalid(path, given, "must be a simple json path starting with ."));
    }
}

fn check_column(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if column.str_at(&["name"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    for (field, known, must) in [("type", TYPES, true), ("format", FORMATS, false)] {
        let (given, detail) = (column.str_at(&[field]), format!("must be one of {}", known.join(",")));
        if given.is_empty() && must {
            errors.push(FieldError::required(format!("{path}.{field}"), detail));
        } else if !given.is_empty() && !known.contains(&given) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), given, detail));
        }
    }
    simple_path(column.str_at(&["jsonPath"]), format!("{path}.JSONPath"), errors);
}

/// What is wrong with a version's `selectableFields`.
fn selectable(version: &Value, schema: &Schema, path: &str) -> Vec<FieldError> {
    const FIELDS_MAX: usize = 8;
    const SCALARS: [&str; 3] = ["string", "boolean", "integer"];
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (at, field) in version.list_at(&["selectableFields"]).iter().enumerate() {
        let (path, given) = (format!("{path}[{at}].jsonPath"), field.str_at(&["jsonPath"]));
        if given.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let ty = match schema.type_at(given) {
            Ok(ty) => ty,
            Err(why) => {
                errors.push(FieldError::invalid(path, given, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if given.split('.').nth(1) == Some("metadata") {
            errors.push(FieldError::invalid(&*path, given, "must not point to fields in metadata"));
        }
        if ty.is_none_or(|ty| !SCALARS.contains(&ty)) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(&*path, given, detail));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(path, given));
        } else {
            seen.push(given);
        }
    }
    if seen.len() > FIELDS_MAX {
        errors.push(FieldError::too_many(path, seen.len(), FIELDS_MAX));
    }
    errors
}

/// Whether a version had the same schema before.
fn is_known(old: &Value, version: &str, schema: &Value) -> bool {
    let mut versions = old.list_at(&["spec", "versions"]).iter();
    versions.any(|v| v.str_at(&["name"]) == version && v["schema"]["openAPIV3Schema"] == *schema)
}
