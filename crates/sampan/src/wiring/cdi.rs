//! CDI: what a name such as `vendor.com/class=device` stands for in a container, from the specifications that vendors
//! put into `/etc/cdi` and `/var/run/cdi`. Environment, devices and mounts are read; hooks are not run.

use std::collections::BTreeMap;
use std::path::Path;

use runtime::containers::{ContainerConfig, Device, Mount};
use schema::Value;

/// The later ones stand above the earlier ones.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Makes the container as the CDI devices of these names have it.
pub fn inject(names: &[String], config: &mut ContainerConfig) -> Result<(), String> {
    inject_from(names, config, &DIRECTORIES.map(Path::new))
}

fn inject_from(names: &[String], config: &mut ContainerConfig, directories: &[&Path]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let known = read(directories);
    let unknown: Vec<&str> = names.iter().filter(|name| !known.contains_key(*name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("CDI device injection failed: unresolvable CDI devices {}", unknown.join(", ")));
    }
    let mut specs = Vec::new();
    for (spec, device) in names.iter().filter_map(|name| known.get(name)) {
        // What all devices of a specification share is given once.
        if !specs.contains(&spec) {
            specs.push(spec);
            edit(spec.get(&["containerEdits"]), config);
        }
        edit(device.get(&["containerEdits"]), config);
    }
    Ok(())
}

/// Specification and device by full name; a file that cannot be read takes nothing from the others.
fn read(directories: &[&Path]) -> BTreeMap<String, (Value, Value)> {
    let mut known = BTreeMap::new();
    for directory in directories {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_spec = |path: &std::path::PathBuf| {
            path.extension().is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml")
        };
        let mut paths: Vec<_> = entries.filter(is_spec).collect();
        paths.sort();
        for path in paths {
            // JSON is YAML.
            let text = std::fs::read(&path).unwrap_or_default();
            let Ok(spec) = schema::yaml::parse(&text) else {
                tracing::warn!(path = %path.display(), "a CDI specification cannot be read");
                continue;
            };
            let spec = spec.value;
            let kind = spec.str_at(&["kind"]).to_owned();
            for device in spec.list_at(&["devices"]) {
                let name = format!("{kind}={}", device.str_at(&["name"]));
                known.insert(name, (spec.clone(), device.clone()));
            }
        }
    }
    known
}

fn edit(edits: Option<&Value>, to: &mut ContainerConfig) {
    let Some(edits) = edits else { return };
    for pair in edits.list_at(&["env"]).iter().filter_map(Value::as_str) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        to.env.retain(|(known, _)| known != name);
        to.env.push((name.to_owned(), value.to_owned()));
    }
    for node in edits.list_at(&["deviceNodes"]) {
        let path = node.str_at(&["path"]);
        let host = Some(node.str_at(&["hostPath"])).filter(|host| !host.is_empty()).unwrap_or(path);
        let permissions = Some(node.str_at(&["permissions"])).filter(|of| !of.is_empty()).unwrap_or("rwm");
        to.devices.push(Device {
            host_path: host.into(),
            container_path: path.to_owned(),
            permissions: permissions.to_owned(),
        });
    }
    for mount in edits.list_at(&["mounts"]) {
        let readonly = mount.list_at(&["options"]).iter().any(|option| option.as_str() == Some("ro"));
        to.mounts.push(Mount {
            host_path: mount.str_at(&["hostPath"]).into(),
            container_path: mount.str_at(&["containerPath"]).to_owned(),
            readonly,
            ..Mount::default()
        });
    }
}

#[cfg(test)]
mod tests;
