//! `ObjectMeta`: names, what the server fills in, and upstream's common validation.

use schema::{
    Value, time,
    validate::{ErrorKind, FieldError},
};

use crate::status::field_error;

/// Which names a kind takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    Subdomain,
    Label,
    /// Anything that fits between two slashes.
    PathSegment,
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn label_shape(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&a), Some(&z)) => inner(a) && inner(z) && bytes.iter().all(|&b| inner(b) || b == b'-'),
        _ => false,
    }
}

pub fn is_dns_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 characters".into());
    }
    if !label_shape(text) {
        out.push(LABEL.into());
    }
    out
}

pub fn is_dns_subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if !text.split('.').all(label_shape) {
        out.push(SUBDOMAIN.into());
    }
    out
}

fn is_path_segment(text: &str, prefix: bool) -> Vec<String> {
    if !prefix && (text == "." || text == "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn qualified_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(a), Some(z)) => {
            a.is_ascii_alphanumeric()
                && z.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// `prefix/name`, as label keys and finalizers are.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => {
            let shape = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![shape.into()];
        }
        Some(("", _)) => {
            out.push("prefix part must be non-empty".into());
            return out;
        }
        Some((prefix, name)) => {
            out.extend(is_dns_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            name
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 characters".into());
    }
    if !qualified_shape(name) {
        out.push(format!("name part {QUALIFIED}"));
    }
    out
}

pub fn is_label_value(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 characters".into());
    }
    if !text.is_empty() && !qualified_shape(text) {
        out.push(LABEL_VALUE.into());
    }
    out
}

impl NameRule {
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        // A generateName may end in a dash: what follows is generated.
        let masked = if prefix && name.ends_with('-') { format!("{}a", &name[..name.len() - 1]) } else { name.into() };
        match self {
            NameRule::Subdomain => is_dns_subdomain(&masked),
            NameRule::Label => is_dns_label(&masked),
            NameRule::PathSegment => is_path_segment(name, prefix),
        }
    }
}

/// Upstream's common validation of an object's metadata.
pub fn validate(value: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let meta = &value["metadata"];
    let mut errors = Vec::new();
    let invalid = |field: &str, value: Value, detail: &str| field_error(ErrorKind::Invalid, field, value, detail);
    let generate = meta.str_at(&["generateName"]);
    if !generate.is_empty() {
        errors.extend(
            rule.check(generate, true).iter().map(|m| invalid("metadata.generateName", generate.into(), m)),
        );
    }
    let name = meta.str_at(&["name"]);
    if name.is_empty() {
        let detail = "name or generateName is required";
        errors.push(field_error(ErrorKind::Required, "metadata.name", Value::Null, detail));
    } else {
        errors.extend(rule.check(name, false).iter().map(|m| invalid("metadata.name", name.into(), m)));
    }
    let namespace = meta.str_at(&["namespace"]);
    if namespaced {
        if namespace.is_empty() {
            errors.push(field_error(ErrorKind::Required, "metadata.namespace", Value::Null, ""));
        } else {
            errors.extend(
                is_dns_label(namespace).iter().map(|m| invalid("metadata.namespace", namespace.into(), m)),
            );
        }
    } else if !namespace.is_empty() {
        let detail = "not allowed on this type";
        errors.push(field_error(ErrorKind::Forbidden, "metadata.namespace", Value::Null, detail));
    }
    if meta.i64_at(&["generation"]).is_some_and(|g| g < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(invalid("metadata.generation", meta["generation"].clone(), detail));
    }
    labels(&meta["labels"], "metadata.labels", &mut errors);
    annotations(&meta["annotations"], &mut errors);
    owners(&meta["ownerReferences"], &mut errors);
    finalizers(meta, &mut errors);
    errors
}

pub fn labels(labels: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(
            is_qualified_name(key).iter().map(|m| field_error(ErrorKind::Invalid, field, key.as_str().into(), m)),
        );
        let value = value.as_str().unwrap_or("");
        errors.extend(is_label_value(value).iter().map(|m| field_error(ErrorKind::Invalid, field, value.into(), m)));
    }
}

const ANNOTATION_BYTES_MAX: usize = 256 << 10;

fn annotations(annotations: &Value, errors: &mut Vec<FieldError>) {
    let field = "metadata.annotations";
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        total += key.len() + value.as_str().map_or(0, str::len);
        let problems = is_qualified_name(&key.to_lowercase());
        errors.extend(problems.iter().map(|m| field_error(ErrorKind::Invalid, field, key.as_str().into(), m)));
    }
    if total > ANNOTATION_BYTES_MAX {
        let detail = format!("may not be more than {ANNOTATION_BYTES_MAX} bytes");
        errors.push(field_error(ErrorKind::TooLong, field, Value::Null, &detail));
    }
}

fn owners(references: &Value, errors: &mut Vec<FieldError>) {
    let mut controller = String::new();
    for (at, reference) in references.as_list().into_iter().flatten().enumerate() {
        let field = format!("metadata.ownerReferences[{at}]");
        for member in ["apiVersion", "kind", "name", "uid"] {
            if reference.str_at(&[member]).is_empty() {
                let field = format!("{field}.{member}");
                errors.push(field_error(ErrorKind::Required, &field, Value::Null, "must not be empty"));
            }
        }
        if reference.str_at(&["apiVersion"]) == "v1" && reference.str_at(&["kind"]) == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(field_error(ErrorKind::Invalid, &field, reference.clone(), detail));
        }
        if reference.bool_at(&["controller"]) {
            let this = format!("{}/{}", reference.str_at(&["kind"]), reference.str_at(&["name"]));
            if controller.is_empty() {
                controller = this;
            } else {
                let detail = format!("Only one reference can have Controller set to true. Found \"true\" in references for {controller} and {this}");
                let field = "metadata.ownerReferences";
                errors.push(field_error(ErrorKind::Invalid, field, references.clone(), &detail));
            }
        }
    }
}

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

fn finalizers(meta: &Value, errors: &mut Vec<FieldError>) {
    let field = "metadata.finalizers";
    let list = meta.list_at(&["finalizers"]);
    for finalizer in list.iter().filter_map(Value::as_str) {
        let problems = is_qualified_name(finalizer);
        errors.extend(problems.iter().map(|m| field_error(ErrorKind::Invalid, field, finalizer.into(), m)));
    }
    let has = |name: &str| list.iter().any(|f| f.as_str() == Some(name));
    if has(ORPHAN) && has(FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(field_error(ErrorKind::Invalid, field, Value::List(list.to_vec()), &detail));
    }
}

/// What of metadata an update may not change.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let before = old.list_at(&["metadata", "finalizers"]);
        let mut extra: Vec<&str> = new
            .list_at(&["metadata", "finalizers"])
            .iter()
            .filter(|f| !before.contains(f))
            .filter_map(Value::as_str)
            .collect();
        extra.sort_unstable();
        if !extra.is_empty() {
            let shown: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            errors.push(field_error(ErrorKind::Forbidden, "metadata.finalizers", Value::Null, &detail));
        }
    }
    let meta = |v: &Value, name: &str| v["metadata"][name].clone();
    if meta(new, "resourceVersion").is_empty() {
        let value = meta(new, "resourceVersion");
        let value = if value.is_null() { "".into() } else { value };
        errors.push(field_error(ErrorKind::Invalid, "metadata.resourceVersion", value, "must be specified for an update"));
    }
    let (before, after) = (old.i64_at(&["metadata", "generation"]), new.i64_at(&["metadata", "generation"]));
    if after.unwrap_or(0) < before.unwrap_or(0) {
        let value = meta(new, "generation");
        errors.push(field_error(ErrorKind::Invalid, "metadata.generation", value, "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (after, before) = (meta(new, name), meta(old, name));
        if after != before && !(after.is_empty() && before.is_empty()) {
            let field = format!("metadata.{name}");
            errors.push(field_error(ErrorKind::Invalid, &field, after, "field is immutable"));
        }
    }
    errors
}

/// Takes away what only the server sets.
pub fn wipe_system_fields(value: &mut Value) {
    let meta = value.make_object(&["metadata"]);
    for name in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(name);
    }
}

pub fn set_generation(value: &mut Value, generation: i64) {
    value.set(&["metadata", "generation"], generation);
}

pub fn generation(value: &Value) -> i64 {
    value.i64_at(&["metadata", "generation"]).unwrap_or(0)
}

pub fn is_deleting(value: &Value) -> bool {
    !value["metadata"]["deletionTimestamp"].is_null()
}

pub fn has_finalizers(value: &Value) -> bool {
    !value.list_at(&["metadata", "finalizers"]).is_empty()
}

/// Seconds of an RFC 3339 time in a value.
pub fn seconds_at(value: &Value, path: &[&str]) -> Option<i64> {
    time::parse(value.str_at(path)).map(|(seconds, _)| seconds)
}

/// Upstream's alphabet for generated names: no vowels, no look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_NAME_BASE_MAX: usize = 58;

/// `base` and five random characters.
pub fn generated_name(base: &str, random: &dyn crate::seams::Random) -> String {
    let mut end = base.len().min(GENERATED_NAME_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0; 5];
    random.fill(&mut bytes);
    let suffix = bytes.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char);
    base[..end].chars().chain(suffix).collect()
}

/// A random (version 4) UUID.
pub fn uid(random: &dyn crate::seams::Random) -> String {
    let mut b = [0u8; 16];
    random.fill(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = |r: &[u8]| r.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(&b[..4]), hex(&b[4..6]), hex(&b[6..8]), hex(&b[8..10]), hex(&b[10..]))
}

/// Drops repeated owner references; true if there were any.
pub fn dedup_owners(value: &mut Value) -> bool {
    let Some(list) = value.get_mut(&["metadata", "ownerReferences"]).and_then(Value::as_list_mut) else { return false };
    let before = list.len();
    let mut seen: Vec<Value> = Vec::with_capacity(before);
    list.retain(|owner| {
        let fresh = !seen.contains(owner);
        if fresh {
            seen.push(owner.clone());
        }
        fresh
    });
    list.len() != before
}
