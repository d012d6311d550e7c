//! Volumes, claims and their classes; secrets and config maps.

use super::{Check, quantity, same};
use crate::Value;
use crate::validate::{ErrorKind, names};

/// `MaxSecretSize`, of the values of one object together.
const MAX_DATA: usize = 1 << 20;

pub fn revision_data(c: &mut Check<'_>) {
    if c.value.as_object().is_none() {
        c.required("", "data must be a valid JSON object");
    }
}

pub fn config_map(c: &mut Check<'_>) {
    let value = c.value;
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, content) in value.object_at(&[field]).into_iter().flatten() {
            let path = format!("{field}[{key}]");
            c.problems(&path, key.as_str(), names::config_map_key(key));
            if field == "data" && value.get(&["binaryData", key]).is_some() {
                c.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
            }
            size += decoded_len(content, field == "binaryData");
        }
    }
    if size > MAX_DATA {
        c.push(ErrorKind::TooLong, "", "<value omitted>", format!("may not be more than {MAX_DATA} bytes"));
    }
}

fn decoded_len(content: &Value, base64: bool) -> usize {
    let len = content.as_str().map_or(0, str::len);
    if base64 { len / 4 * 3 } else { len }
}

pub fn secret(c: &mut Check<'_>) {
    let value = c.value;
    let mut size = 0;
    for (key, content) in value.object_at(&["data"]).into_iter().flatten() {
        c.problems(&format!("data[{key}]"), key.as_str(), names::config_map_key(key));
        size += decoded_len(content, true);
    }
    if size > MAX_DATA {
        c.push(ErrorKind::TooLong, "data", "<value omitted>", format!("may not be more than {MAX_DATA} bytes"));
    }
    let has = |key: &str| value.get(&["data", key]).is_some();
    let wanted: &[&str] = match c.text("type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/service-account-token" => {
            if value.str_at(&["metadata", "annotations", "kubernetes.io/service-account.name"]).is_empty() {
                c.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
            &[]
        }
        _ => &[],
    };
    for key in wanted.iter().filter(|k| !has(k)) {
        c.required(&format!("data[{key}]"), "");
    }
}

/// A volume has exactly one source; [`crate::presets`] has made an emptyDir of none.
pub fn volume_source(c: &mut Check<'_>) {
    let value = c.value;
    let sources = value.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null());
    let given: Vec<&str> = sources.map(|(k, _)| k.as_str()).collect();
    if given.is_empty() {
        c.required("", "must specify a volume type");
    }
    for extra in given.iter().skip(1) {
        c.forbidden(extra, "may not specify more than 1 volume type");
    }
}

/// Each source is of one kind, and no two of them show the same file.
pub fn projected(c: &mut Check<'_>) {
    let value = c.value;
    let mut paths: Vec<&str> = Vec::new();
    for (i, source) in value.list_at(&["sources"]).iter().enumerate() {
        let kinds: Vec<(&str, &Value)> = source
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, of)| !of.is_null())
            .map(|(k, of)| (k.as_str(), of))
            .collect();
        if kinds.len() > 1 {
            c.forbidden(&format!("sources[{i}]"), "may not specify more than 1 volume type per source");
        }
        if let Some(token) = source.member("serviceAccountToken").filter(|token| !token.is_null()) {
            match token.str_at(&["path"]) {
                "" => c.required("path", ""),
                path => c.problems("path", path, names::relative_path(path)),
            }
        }
        for (kind, of) in kinds {
            let items = of.list_at(&["items"]).iter().map(|item| item.str_at(&["path"]));
            // Upstream does not look at the paths of tokens.
            let own = if kind == "serviceAccountToken" { "" } else { of.str_at(&["path"]) };
            for path in CERTIFICATE_PATHS.iter().map(|name| of.str_at(&[name])).chain([own]).chain(items) {
                if !path.is_empty() && paths.contains(&path) {
                    c.invalid("", path, "conflicting duplicate paths");
                }
                paths.push(path);
            }
        }
    }
}

const CERTIFICATE_PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];

pub fn pod_certificate(c: &mut Check<'_>) {
    let (min, max) = super::cluster::certificate_seconds(c.text("signerName"));
    if let Some(seconds) = c.value.i64_at(&["maxExpirationSeconds"]) {
        if seconds < min {
            c.invalid("maxExpirationSeconds", seconds, format!("if provided, maxExpirationSeconds must be >= {min}"));
        }
        if seconds > max {
            c.invalid("maxExpirationSeconds", seconds, format!("if provided, maxExpirationSeconds must be <= {max}"));
        }
    }
    if CERTIFICATE_PATHS.iter().all(|name| c.text(name).is_empty()) {
        c.required("", "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}

pub fn host_path(c: &mut Check<'_>) {
    if c.text("path").split('/').any(|part| part == "..") {
        let path = c.text("path").to_owned();
        c.invalid("path", path, "must not contain '..'");
    }
}

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(c: &mut Check<'_>, missing: &str) {
    const PATH: &str = "spec.accessModes";
    let value = c.value;
    let modes: Vec<&str> = value.list_at(&["spec", "accessModes"]).iter().filter_map(Value::as_str).collect();
    if modes.is_empty() {
        c.required(PATH, missing);
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(m)) {
        c.not_supported(PATH, *mode, &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod") {
        c.forbidden(PATH, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Fields of a PersistentVolumeSpec beside its source.
const VOLUME_FIELDS: [&str; 9] = [
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
    "storageClassName", "volumeAttributesClassName", "volumeMode",
];

pub fn persistent_volume(c: &mut Check<'_>) {
    access_modes(c, "");
    let value = c.value;
    let spec = &value["spec"];
    let capacity = spec.object_at(&["capacity"]);
    if capacity.is_none_or(|m| m.is_empty()) {
        c.required("spec.capacity", "");
    }
    if capacity.is_none_or(|m| m.len() != 1 || !m.contains_key("storage")) {
        c.not_supported("spec.capacity", spec["capacity"].clone(), &["storage"]);
    }
    for (name, amount) in capacity.into_iter().flatten() {
        if quantity(amount).is_some_and(|q| q.nanos <= 0) {
            c.invalid(&format!("spec.capacity[{name}]"), amount.clone(), "must be greater than zero");
        }
    }
    let members = spec.as_object().into_iter().flatten();
    let sources: Vec<&str> = members
        .filter(|(k, v)| !v.is_null() && !VOLUME_FIELDS.contains(&k.as_str()))
        .map(|(k, _)| k.as_str())
        .collect();
    if sources.is_empty() {
        c.required("spec", "must specify a volume type");
    }
    if sources.contains(&"local") && spec["nodeAffinity"].is_null() {
        c.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
    for extra in sources.iter().skip(1) {
        c.forbidden(&format!("spec.{extra}"), "may not specify more than 1 volume type");
    }
    if spec.str_at(&["hostPath", "path"]) == "/" && spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
        c.forbidden("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'");
    }
    let Some(old) = c.old else { return };
    let source_of = |spec: &Value| {
        let mut source = spec.clone();
        VOLUME_FIELDS.iter().for_each(|name| drop(source.remove(&[name])));
        source
    };
    let (mut source, before) = (source_of(spec), source_of(&old["spec"]));
    let secret = ["csi", "controllerExpandSecretRef"];
    if before.get(&secret).is_none_or(Value::is_null) {
        source.remove(&secret);
    }
    if !same(&source, &before) {
        c.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
    }
    mode_is_fixed(c, old);
    let (node, before) = (&spec["nodeAffinity"], &old["spec"]["nodeAffinity"]);
    if !before.is_null() && !same(node, before) {
        let detail = "field is immutable, except for updating from beta label to GA";
        c.invalid("nodeAffinity", node.clone(), detail);
    }
}

fn mode_is_fixed(c: &mut Check<'_>, old: &Value) {
    let mode = &c.value["spec"]["volumeMode"];
    if *mode != old["spec"]["volumeMode"] {
        c.invalid("volumeMode", mode.clone(), "field is immutable");
    }
}

pub fn claim(c: &mut Check<'_>) {
    // A template of one may change as what it stands in may.
    if !c.path.is_empty() && c.old.is_some() {
        return;
    }
    access_modes(c, "at least 1 access mode is required");
    for source in ["dataSource", "dataSourceRef"] {
        let reference = &c.value["spec"][source];
        for field in ["kind", "name"] {
            if !reference.is_null() && reference.str_at(&[field]).is_empty() {
                c.required(&format!("spec.{source}.{field}"), "");
            }
        }
        let kind = reference.str_at(&["kind"]);
        if !matches!(kind, "" | "PersistentVolumeClaim") && reference.str_at(&["apiGroup"]).is_empty() {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            c.invalid(&format!("spec.{source}"), kind, detail);
        }
    }
    let value = c.value;
    let requests = &value["spec"]["resources"]["requests"];
    match requests.member("storage") {
        None => c.required("spec.resources[storage]", ""),
        Some(size) if quantity(size).is_some_and(|q| q.nanos <= 0) => {
            c.invalid("spec.resources[storage]", size.clone(), "must be greater than zero");
        }
        Some(_) => {}
    }
    let Some(old) = c.old else { return };
    let bound = value.str_at(&["status", "phase"]) == "Bound" || old.str_at(&["status", "phase"]) == "Bound";
    let (mut new_spec, old_spec) = (value["spec"].clone(), &old["spec"]);
    let mut free = vec![];
    if old_spec.str_at(&["volumeName"]).is_empty() {
        free.push("volumeName");
    }
    if old_spec["storageClassName"].is_null() {
        free.push("storageClassName");
    }
    if bound {
        free.push("volumeAttributesClassName");
        if let Some(size) = old_spec.get(&["resources", "requests", "storage"]) {
            new_spec.set(&["resources", "requests", "storage"], size.clone());
        }
    }
    for field in free {
        match old_spec.member(field) {
            Some(v) => new_spec.set(&[field], v.clone()),
            None => drop(new_spec.remove(&[field])),
        }
    }
    if !same(&new_spec, old_spec) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        c.forbidden("spec", detail);
    }
    let size = |object: &Value, path: &[&str]| object.get(path).and_then(quantity).map_or(0, |q| q.nanos);
    let asked = |object: &Value| size(object, &["spec", "resources", "requests", "storage"]);
    if asked(value) < asked(old) && asked(value) <= size(old, &["status", "capacity", "storage"]) {
        c.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    mode_is_fixed(c, old);
}

pub fn storage_class(c: &mut Check<'_>) {
    let value = c.value;
    let parameters = value.object_at(&["parameters"]);
    if parameters.is_some_and(|p| p.contains_key("")) {
        c.invalid("parameters", "", "field can not be empty.");
    }
    if parameters.is_some_and(|p| p.len() > 512) {
        c.push(
            ErrorKind::TooLong,
            "parameters",
            "Provisioner Parameters exceeded max allowed",
            "may not be more than 512 bytes",
        );
    }
    c.one_of("reclaimPolicy", &["Delete", "Retain"]);
    driver_name(c, "provisioner");
    let terms = value.list_at(&["allowedTopologies"]);
    let is_twin = |i: usize, term: &Value| term["matchLabelExpressions"].is_empty() || terms[..i].contains(term);
    for (i, _) in terms.iter().enumerate().filter(|(i, term)| is_twin(*i, term)) {
        c.push(ErrorKind::Duplicate, &format!("allowedTopologies[{i}].matchLabelExpressions"), "", "");
    }
}

fn driver_name(c: &mut Check<'_>, field: &str) {
    let name = c.text(field).to_lowercase();
    if !name.is_empty() {
        let problems = names::label_key(&name);
        c.problems(field, name, problems);
    }
}

pub fn volume_attributes_class(c: &mut Check<'_>) {
    driver_name(c, "driverName");
    for field in ["driverName", "parameters"] {
        if c.changed(field) {
            c.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
}

pub fn csi_driver(c: &mut Check<'_>) {
    let value = c.value;
    const MODES: [&str; 2] = ["Persistent", "Ephemeral"];
    for mode in value.list_at(&["volumeLifecycleModes"]).iter().filter_map(Value::as_str).filter(|m| !MODES.contains(m))
    {
        c.not_supported("volumeLifecycleModes", mode, &MODES);
    }
    c.immutable("attachRequired");
    c.immutable("volumeLifecycleModes");
}

pub fn csi_node_driver(c: &mut Check<'_>) {
    if c.text("nodeID").is_empty() {
        c.required("nodeID", "");
    }
    let value = c.value;
    let keys: Vec<&str> = value.list_at(&["topologyKeys"]).iter().filter_map(Value::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        if key.is_empty() {
            c.required("", "");
        }
        c.problems("", *key, names::label_key(key));
        if keys[..i].contains(key) {
            c.push(ErrorKind::Duplicate, "", *key, "");
        }
    }
    if value.i64_at(&["allocatable", "count"]).is_some_and(|n| n < 0) {
        let count = value["allocatable"]["count"].clone();
        c.invalid("allocatable.count", count, "must be greater than or equal to 0");
    }
}

pub fn volume_attachment_source(c: &mut Check<'_>) {
    match (c.has("inlineVolumeSpec"), c.has("persistentVolumeName")) {
        (false, false) => c.required("", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => c.forbidden("", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        _ => {}
    }
}
