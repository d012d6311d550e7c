//! The environment of a container: services, envFrom, env with its references, `$(VAR)`.

use std::collections::BTreeMap;

use schema::api::core::v1::{Container, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector, Service};
use schema::quantity::Quantity;

use crate::{objects::Snapshot, pod::Desired, resources};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("{0} is not UTF-8")]
    Text(String),
    #[error("cannot find the volume \"{0}\" referenced by FileKeyRef")]
    NoVolume(String),
    #[error("couldn't parse env file")]
    EnvFile,
    #[error("environment variable key \"{key}\" not found in file \"{path}\"")]
    NoFileKey { key: String, path: String },
}

/// What a container's environment is made from.
pub struct Sources<'a> {
    pub desired: &'a Desired,
    pub objects: &'a Snapshot,
    /// Variables of services.
    pub links: &'a BTreeMap<String, String>,
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    /// Allocatable of the node: a limit that is not set.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// In order; a later name replaces an earlier one. `read` gives files of volumes.
pub fn make(
    sources: &Sources<'_>,
    container: &Container,
    read: impl Fn(&FileKeySelector) -> Result<String, Error>,
) -> Result<Vec<(String, String)>, Error> {
    let namespace = &sources.desired.pod.metadata.namespace;
    let mut env: Vec<(String, String)> = Vec::new();
    let set = |env: &mut Vec<(String, String)>, name: String, value: String| match env
        .iter_mut()
        .find(|(known, _)| *known == name)
    {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    };
    for from in &container.env_from {
        let valid = |key: &str| !key.is_empty() && key.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
        if let Some(of) = &from.config_map_ref {
            let name = &of.local_object_reference.name;
            match sources.objects.config_maps.get(name) {
                Some(map) => {
                    for (key, value) in map.data.iter().filter(|(key, _)| valid(key)) {
                        set(&mut env, format!("{}{key}", from.prefix), value.clone());
                    }
                }
                None if of.optional == Some(true) => {}
                None => return Err(Error::NoObject { kind: "configmap", name: name.clone() }),
            }
        }
        if let Some(of) = &from.secret_ref {
            let name = &of.local_object_reference.name;
            match sources.objects.secrets.get(name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().filter(|(key, _)| valid(key)) {
                        let value =
                            String::from_utf8(value.clone()).map_err(|_| Error::Text(format!("{name}/{key}")))?;
                        set(&mut env, format!("{}{key}", from.prefix), value);
                    }
                }
                None if of.optional == Some(true) => {}
                None => return Err(Error::NoObject { kind: "secret", name: name.clone() }),
            }
        }
    }
    for var in &container.env {
        let value = match &var.value_from {
            None => {
                let lookup = |name: &str| {
                    env.iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.clone())
                        .or_else(|| sources.links.get(name).cloned())
                };
                Some(expand(&var.value, lookup))
            }
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    Some(field_value(sources, field)?)
                } else if let Some(resource) = &source.resource_field_ref {
                    Some(resource_value(sources, resource, container)?)
                } else if let Some(of) = &source.config_map_key_ref {
                    let name = &of.local_object_reference.name;
                    let map = sources.objects.config_maps.get(name);
                    match (map, map.and_then(|map| map.data.get(&of.key))) {
                        (_, Some(value)) => Some(value.clone()),
                        _ if of.optional == Some(true) => None,
                        (None, _) => return Err(Error::NoObject { kind: "configmap", name: name.clone() }),
                        _ => return Err(no_key("ConfigMap", namespace, name, &of.key)),
                    }
                } else if let Some(of) = &source.secret_key_ref {
                    let name = &of.local_object_reference.name;
                    let secret = sources.objects.secrets.get(name);
                    match (secret, secret.and_then(|secret| secret.data.get(&of.key))) {
                        (_, Some(value)) => Some(
                            String::from_utf8(value.clone()).map_err(|_| Error::Text(format!("{name}/{}", of.key)))?,
                        ),
                        _ if of.optional == Some(true) => None,
                        (None, _) => return Err(Error::NoObject { kind: "secret", name: name.clone() }),
                        _ => return Err(no_key("Secret", namespace, name, &of.key)),
                    }
                } else if let Some(of) = &source.file_key_ref {
                    let value = in_file(&read(of)?, &of.key).ok_or(Error::EnvFile)?;
                    match (value.is_empty(), of.optional) {
                        (false, _) => Some(value),
                        (true, Some(true)) => None,
                        _ => return Err(Error::NoFileKey { key: of.key.clone(), path: of.path.clone() }),
                    }
                } else {
                    None
                }
            }
        };
        if let Some(value) = value {
            set(&mut env, var.name.clone(), value);
        }
    }
    for (name, value) in sources.links {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    Ok(env)
}

fn no_key(kind: &'static str, namespace: &str, name: &str, key: &str) -> Error {
    Error::NoKey { kind, namespace: namespace.into(), name: name.into(), key: key.into() }
}

/// `$(NAME)` becomes its value, `$$(NAME)` stays `$(NAME)`, and a name that is not known stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('(') {
            match inner.find(')') {
                Some(end) => {
                    let name = &inner[..end];
                    out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
                    rest = &inner[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = inner;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The value of a key in a file of `NAME='value'` lines, where a value may have several lines: upstream's subset of a
/// shell's. Empty if it is not there, `None` if the file (as far as it was read) is none of these.
fn in_file(text: &str, key: &str) -> Option<String> {
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            rest = after;
            continue;
        }
        let (name, value) = line.split_once('=')?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return None;
        }
        if value.starts_with([' ', '\t']) {
            // `NAME= 'value'` sets nothing.
            if name == key {
                return Some(String::new());
            }
            rest = after;
            continue;
        }
        let (_, value) = rest.split_once('=')?;
        let (value, behind) = value.strip_prefix('\'')?.split_once('\'')?;
        let (end, after) = behind.split_once('\n').unwrap_or((behind, ""));
        let end = end.trim_start_matches([' ', '\t']);
        if !end.is_empty() && !end.starts_with('#') {
            return None;
        }
        if name == key {
            return Some(value.to_owned());
        }
        rest = after;
    }
    Some(String::new())
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, rest) = path.split_once("['")?;
    Some((field, rest.strip_suffix("']")?))
}

pub fn field_value(sources: &Sources<'_>, field: &ObjectFieldSelector) -> Result<String, Error> {
    let pod = &sources.desired.pod;
    if let Some((of, key)) = subscript(&field.field_path) {
        let list = match of {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(Error::Field(field.field_path.clone())),
        };
        return Ok(list.get(key).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Ok(match &*field.field_path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "metadata.labels" => listed(&pod.metadata.labels),
        "metadata.annotations" => listed(&pod.metadata.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(sources.host_ips),
        "status.hostIPs" => sources.host_ips.join(","),
        "status.podIP" => first(sources.pod_ips),
        "status.podIPs" => sources.pod_ips.join(","),
        other => return Err(Error::Field(other.to_owned())),
    })
}

/// `key="value"` lines, values quoted as Go's `%q`.
fn listed(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub fn resource_value(sources: &Sources<'_>, of: &ResourceFieldSelector, own: &Container) -> Result<String, Error> {
    let container = if of.container_name.is_empty() {
        own
    } else {
        &sources
            .desired
            .member(&of.container_name)
            .ok_or_else(|| Error::NoContainer(of.container_name.clone()))?
            .container
    };
    let (list, name) = of.resource.split_once('.').ok_or_else(|| Error::Resource(of.resource.clone()))?;
    let is_known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let list = match list {
        "limits" => &container.resources.limits,
        "requests" => &container.resources.requests,
        _ => return Err(Error::Resource(of.resource.clone())),
    };
    if !is_known {
        return Err(Error::Resource(of.resource.clone()));
    }
    let amount = resources::amount(list, name).filter(|amount| !amount.is_zero());
    let is_limit = of.resource.starts_with("limits");
    // Without a limit of its own it may take what the pod may, or else the node has.
    let pod = sources.desired.pod.spec.resources.as_ref();
    let whole = || pod.and_then(|pod| resources::amount(&pod.limits, name)).filter(|amount| !amount.is_zero());
    let largest = || whole().or_else(|| sources.allocatable.get(name).copied());
    let amount = amount.or_else(|| is_limit.then(largest).flatten()).unwrap_or(Quantity::ZERO);
    let divisor = Quantity::parse(&of.divisor.0)
        .ok()
        .filter(|divisor| divisor.nanos > 0)
        .map_or(1_000_000_000, |divisor| divisor.nanos);
    // Rounded up, as upstream.
    Ok(((amount.nanos + divisor - 1) / divisor).to_string())
}

/// Variables for the services of a namespace, and always for `kubernetes`.
pub fn service_env(services: &[std::sync::Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let has_ip = |service: &&std::sync::Arc<Service>| !matches!(&*service.spec.cluster_ip, "" | "None");
    let is_master =
        |service: &Service| service.metadata.namespace == "default" && service.metadata.name == "kubernetes";
    let of_namespace = |service: &&std::sync::Arc<Service>| links && service.metadata.namespace == namespace;
    let wanted = services.iter().filter(has_ip).filter(|service| of_namespace(service) || is_master(service));
    // One of the pod's own namespace stands above the API's of the same name.
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort_by_key(|service| service.metadata.namespace == namespace);
    for service in wanted {
        let prefix = service.metadata.name.to_ascii_uppercase().replace('-', "_");
        let ip = &service.spec.cluster_ip;
        let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        env.insert(format!("{prefix}_SERVICE_HOST"), ip.clone());
        for (index, port) in service.spec.ports.iter().enumerate() {
            let number = port.port.to_string();
            if index == 0 {
                env.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
            }
            if !port.name.is_empty() {
                let name = port.name.to_ascii_uppercase().replace('-', "_");
                env.insert(format!("{prefix}_SERVICE_PORT_{name}"), number.clone());
            }
            let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
            let url = format!("{}://{bracketed}:{number}", protocol.to_ascii_lowercase());
            if index == 0 {
                env.insert(format!("{prefix}_PORT"), url.clone());
            }
            let port_prefix = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
            env.insert(format!("{port_prefix}_PROTO"), protocol.to_ascii_lowercase());
            env.insert(format!("{port_prefix}_PORT"), number.clone());
            env.insert(format!("{port_prefix}_ADDR"), ip.clone());
            env.insert(port_prefix, url);
        }
    }
    env
}
