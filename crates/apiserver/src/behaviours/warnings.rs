//! What upstream warns of in pods and in templates of them: it is allowed, and hardly meant.

use schema::Value;

/// `GetWarningsForPod` of a specification at a path (`spec`, `spec.template.spec`).
pub fn pod(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    if spec.i64_at(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        let detail = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{path}.terminationGracePeriodSeconds: {detail}"));
    }
    for (list, key, name) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let items = spec.list_at(&[list]);
        for (i, item) in items.iter().enumerate() {
            let text = item.str_at(&[key]);
            if text.is_empty() && list == "imagePullSecrets" {
                out.push(format!("{path}.{list}[{i}].{key}: invalid empty name {text:?}"));
            } else if items[..i].iter().any(|other| other.str_at(&[key]) == text) {
                out.push(format!("{path}.{list}[{i}].{key}: duplicate {name} {text:?}"));
            }
        }
    }
    for volume in spec.list_at(&["volumes"]) {
        volume_warnings(volume, &mut out);
    }
    for group in ["initContainers", "containers"] {
        for (i, container) in spec.list_at(&[group]).iter().enumerate() {
            container_warnings(container, &format!("{path}.{group}[{i}]"), &mut out);
        }
    }
    null_selectors(spec, path, &mut out);
    out
}

fn container_warnings(container: &Value, path: &str, out: &mut Vec<String>) {
    let env = container.list_at(&["env"]);
    for (i, variable) in env.iter().enumerate() {
        let name = variable.str_at(&["name"]);
        // One that refers to an earlier one of its name adds to it.
        let refers = variable.str_at(&["value"]).contains(&format!("$({name})"));
        if !refers && env[..i].iter().any(|other| other.str_at(&["name"]) == name) {
            let detail = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{path}.env[{i}]: {detail}"));
        }
    }
    for (i, port) in container.list_at(&["ports"]).iter().enumerate() {
        if !port.str_at(&["hostIP"]).is_empty() && port.i64_at(&["hostPort"]).unwrap_or(0) == 0 {
            let number = port.i64_at(&["containerPort"]).unwrap_or(0);
            let (name, protocol, ip) = (port.str_at(&["name"]), port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            let shown = format!("{{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}");
            out.push(format!("{path}.ports[{i}]: hostIP set without hostPort: {shown}"));
        }
    }
}

fn volume_warnings(volume: &Value, out: &mut Vec<String>) {
    let name = volume.str_at(&["name"]);
    if volume.member("projected").is_some_and(|of| !of.is_null() && of.list_at(&["sources"]).is_empty()) {
        out.push(format!("volume {name:?} (Projected) has no sources provided"));
    }
    for (source, kind, key) in
        [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "DownwardAPI", "")]
    {
        let paths: Vec<&str> = volume[source].list_at(&["items"]).iter().map(|item| item.str_at(&["path"])).collect();
        let of = volume[source].str_at(&[key]);
        let of = if key.is_empty() { kind.to_owned() } else { format!("{kind} {of:?}") };
        for (_, path) in paths.iter().enumerate().filter(|(i, path)| paths[..*i].contains(path)) {
            out.push(format!("volume {name:?} ({of}): overlapping paths: {path:?} with {path:?}"));
        }
    }
}

fn null_selectors(spec: &Value, path: &str, out: &mut Vec<String>) {
    let mut warn = |holder: &Value, at: String| {
        if holder["labelSelector"].is_null() {
            out.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
        }
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = &spec["affinity"][kind];
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in affinity.list_at(&[required]).iter().enumerate() {
            warn(term, format!("{path}.affinity.{kind}.{required}[{i}]"));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, weighted) in affinity.list_at(&[preferred]).iter().enumerate() {
            warn(&weighted["podAffinityTerm"], format!("{path}.affinity.{kind}.{preferred}[{i}].podAffinityTerm"));
        }
    }
    for (i, constraint) in spec.list_at(&["topologySpreadConstraints"]).iter().enumerate() {
        warn(constraint, format!("{path}.topologySpreadConstraints[{i}]"));
    }
}

/// `GetWarningsForService`
pub fn service(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut out = Vec::new();
    if !spec["externalIPs"].is_empty() {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if spec.str_at(&["trafficDistribution"]) == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}
