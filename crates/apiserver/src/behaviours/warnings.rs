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
    for (source, kind, key) in SOURCES {
        let of = told(kind, volume[source].str_at(&[key]));
        let paths = volume[source].list_at(&["items"]).iter().map(|item| (item.str_at(&["path"]), String::new()));
        overlaps(&format!("volume {name:?} ({of})"), paths.collect(), out);
    }
    let mut paths = Vec::new();
    for source in volume["projected"].list_at(&["sources"]) {
        if source.is_empty() {
            out.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
        for (field, kind, key) in SOURCES {
            let key = if key == "secretName" { "name" } else { key };
            let of = told(kind, source[field].str_at(&[key]));
            paths.extend(
                source[field].list_at(&["items"]).iter().map(|item| (item.str_at(&["path"]), format!(" ({of})"))),
            );
        }
        let bundle = &source["clusterTrustBundle"];
        let signer = if bundle["name"].is_null() { "signerName" } else { "name" };
        let certificate = &source["podCertificate"];
        for (of, path, kind) in [
            (&source["serviceAccountToken"], "path", "ServiceAccountToken".to_owned()),
            (bundle, "path", told("ClusterTrustBundle", bundle.str_at(&[signer]))),
            (certificate, "certificateChainPath", "PodCertificate chain".to_owned()),
            (certificate, "keyPath", "PodCertificate key".to_owned()),
            (certificate, "credentialBundlePath", "PodCertificate credential bundle".to_owned()),
        ] {
            paths.push((of.str_at(&[path]), format!(" ({kind})")));
        }
    }
    overlaps(&format!("volume {name:?} (Projected)"), paths, out);
}

const SOURCES: [(&str, &str, &str); 3] =
    [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "DownwardAPI", "")];

fn told(kind: &str, name: &str) -> String {
    if kind == "DownwardAPI" { kind.to_owned() } else { format!("{kind} {name:?}") }
}

/// Files that are the same, or stand where another's directory is; each path with where it comes from.
fn overlaps(place: &str, paths: Vec<(&str, String)>, out: &mut Vec<String>) {
    let paths: Vec<_> = paths.iter().map(|(path, of)| (path.trim_end_matches('/'), of)).collect();
    for (i, (path, of)) in paths.iter().enumerate() {
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let others = paths[..i].iter().filter(|(other, _)| !other.is_empty() && !path.is_empty());
        for (other, its) in others.filter(|(other, _)| below(path, other) || below(other, path)) {
            out.push(format!("{place}: overlapping paths: {path:?}{of} with {other:?}{its}"));
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
