//! ObjectMeta's own rules, on create and on update.

use super::{FieldError, names};
use crate::Value;

const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
const MANAGER_MAX_BYTES: usize = 128;
const SUBRESOURCE_MAX_BYTES: usize = 256;

/// What the names of a kind may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NameRule {
    /// `NameIsDNSSubdomain`: most kinds.
    #[default]
    Subdomain,
    /// The same, as the marker `k8s-long-name` says it.
    LongName,
    /// `NameIsDNSLabel`: namespaces and the like.
    Label,
    /// `NameIsDNS1035Label`: services.
    Dns1035,
    /// `path.ValidatePathSegmentName`: RBAC.
    PathSegment,
    /// The same, of kinds that are not asked for it unless all else is well: the old events.
    Late,
    /// `ValidateIPAddressName`: IPAddresses, in canonical form.
    Ip,
    /// A rule that depends on the object: its kind's own affair.
    Own,
}

impl NameRule {
    /// What is wrong with a name, or with the prefix of a generated one.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = match name.strip_suffix('-') {
            Some(_) if prefix && name.len() > 1 && self != NameRule::PathSegment && self != NameRule::Ip => {
                format!("{}a", name.get(..name.len() - 2).unwrap_or_default())
            }
            _ => name.to_owned(),
        };
        match self {
            NameRule::Subdomain => names::dns1123_subdomain(&masked),
            NameRule::LongName => names::long_name(&masked),
            NameRule::Label => names::dns1123_label(&masked),
            NameRule::Dns1035 => names::dns1035_label(&masked),
            NameRule::PathSegment | NameRule::Late if prefix => {
                names::path_segment(name).into_iter().filter(|p| p.starts_with("may not contain")).collect()
            }
            NameRule::PathSegment | NameRule::Late => names::path_segment(name),
            NameRule::Own => Vec::new(),
            NameRule::Ip => match name.parse::<std::net::IpAddr>() {
                Ok(ip) if names::ip(name).is_empty() && ip.to_string() != name => {
                    vec![format!("must be in canonical form ({:?})", ip.to_string())]
                }
                _ => names::ip(name),
            },
        }
    }
}

/// `ValidateObjectMeta`: `meta` is the object's metadata, `path` mostly `metadata`.
pub fn metadata(meta: &Value, namespaced: bool, rule: NameRule, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |name: &str| format!("{path}.{name}");
    let prefix = meta.str_at(&["generateName"]);
    if !prefix.is_empty() {
        errors.extend(rule.check(prefix, true).into_iter().map(|p| FieldError::invalid(at("generateName"), prefix, p)));
    }
    let name = meta.str_at(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(at("name"), "name or generateName is required"));
    } else {
        errors.extend(rule.check(name, false).into_iter().map(|p| FieldError::invalid(at("name"), name, p)));
    }
    let namespace = meta.str_at(&["namespace"]);
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(at("namespace"), "")),
        (true, false) => {
            let problems = names::dns1123_label(namespace);
            errors.extend(problems.into_iter().map(|p| FieldError::invalid(at("namespace"), namespace, p)));
        }
        (false, false) => errors.push(FieldError::forbidden(at("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    errors.extend(generation(meta, path));
    errors.extend(labels(meta.get(&["labels"]), &at("labels")));
    errors.extend(annotations(meta.get(&["annotations"]), &at("annotations")));
    errors.extend(owners(meta.list_at(&["ownerReferences"]), &at("ownerReferences")));
    errors.extend(finalizers(meta.list_at(&["finalizers"]), &at("finalizers")));
    errors.extend(managed_fields(meta.list_at(&["managedFields"]), &at("managedFields")));
    errors
}

/// `ValidateObjectMetaUpdate`
pub fn metadata_update(new: &Value, old: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |name: &str| format!("{path}.{name}");
    if !old.str_at(&["deletionTimestamp"]).is_empty() {
        let known = old.list_at(&["finalizers"]);
        let mut added: Vec<&str> =
            new.list_at(&["finalizers"]).iter().filter(|f| !known.contains(f)).filter_map(Value::as_str).collect();
        added.sort_unstable();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(FieldError::forbidden(
                at("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if new.str_at(&["resourceVersion"]).is_empty() {
        errors.push(FieldError::invalid(at("resourceVersion"), "", "must be specified for an update"));
    }
    errors.extend(generation(new, path));
    let (newer, older) = (new.i64_at(&["generation"]).unwrap_or(0), old.i64_at(&["generation"]).unwrap_or(0));
    if newer < older {
        errors.push(FieldError::invalid(at("generation"), Value::Int(newer), "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (newer, older) = (new.member(name).unwrap_or(&Value::Null), old.member(name).unwrap_or(&Value::Null));
        if newer != older && !(newer.is_empty() && older.is_empty()) {
            let text = matches!(name, "name" | "namespace" | "uid");
            let shown = if text && newer.is_null() { Value::from("") } else { newer.clone() };
            errors.push(FieldError::invalid(at(name), shown, "field is immutable"));
        }
    }
    errors.extend(labels(new.get(&["labels"]), &at("labels")));
    errors.extend(annotations(new.get(&["annotations"]), &at("annotations")));
    errors.extend(owners(new.list_at(&["ownerReferences"]), &at("ownerReferences")));
    errors.extend(managed_fields(new.list_at(&["managedFields"]), &at("managedFields")));
    errors
}

fn generation(meta: &Value, path: &str) -> Option<FieldError> {
    let generation = meta.i64_at(&["generation"]).filter(|g| *g < 0)?;
    let detail = "must be greater than or equal to 0";
    Some(FieldError::invalid(format!("{path}.generation"), Value::Int(generation), detail))
}

/// `ValidateLabels`: of metadata and of every selector and template.
pub fn labels(labels: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.extend(names::label_key(key).into_iter().map(|p| FieldError::invalid(path, key.as_str(), p)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(names::label_value(value).into_iter().map(|p| FieldError::invalid(path, value, p)));
    }
    errors
}

/// `ValidateAnnotations`.
pub fn annotations(annotations: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        let problems = names::label_key(&key.to_lowercase());
        errors.extend(problems.into_iter().map(|p| FieldError::invalid(path, key.as_str(), p)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
    errors
}

fn owners(references: &[Value], path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller = String::new();
    for (i, owner) in references.iter().enumerate() {
        let at = |name: &str| format!("{path}[{i}].{name}");
        let version = owner.str_at(&["apiVersion"]);
        if version.is_empty() {
            errors.push(FieldError::required(at("apiVersion"), "must not be empty"));
        } else if version.matches('/').count() > 1 || version.ends_with('/') {
            errors.push(FieldError::invalid(at("apiVersion"), version, "must be <group>/<version> or <version>"));
        }
        for name in ["kind", "name", "uid"] {
            if owner.str_at(&[name]).is_empty() {
                errors.push(FieldError::required(at(name), "must not be empty"));
            }
        }
        let (kind, name) = (owner.str_at(&["kind"]), owner.str_at(&["name"]));
        if (version, kind) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(format!("{path}[{i}]"), owner.clone(), detail));
        }
        if owner.bool_at(&["controller"]) {
            if controller.is_empty() {
                controller = format!("{kind}/{name}");
            } else {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {controller} and {kind}/{name}"
                );
                errors.push(FieldError::invalid(path, Value::List(references.to_vec()), detail));
            }
        }
    }
    errors
}

fn finalizers(finalizers: &[Value], path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(names::label_key(finalizer).into_iter().map(|p| FieldError::invalid(path, finalizer, p)));
    }
    let has = |name: &str| finalizers.iter().any(|f| f.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, Value::List(finalizers.to_vec()), detail));
    }
    errors
}

fn managed_fields(entries: &[Value], path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let at = |name: &str| format!("{path}[{i}].{name}");
        match entry.str_at(&["operation"]) {
            "" => errors.push(FieldError::required(at("operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => errors.push(FieldError::not_supported(at("operation"), other, &["Apply", "Update"])),
        }
        let fields_type = entry.str_at(&["fieldsType"]);
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(FieldError::invalid(at("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(entry.str_at(&["manager"]), &at("manager")));
        if entry.str_at(&["subresource"]).len() > SUBRESOURCE_MAX_BYTES {
            errors.push(FieldError::too_long(at("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    errors
}

/// `ValidateFieldManager`: of the query parameter too.
pub fn field_manager(manager: &str, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MANAGER_MAX_BYTES {
        errors.push(FieldError::too_long(path, MANAGER_MAX_BYTES));
    }
    if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(FieldError::invalid(path, manager, detail));
    }
    errors
}
