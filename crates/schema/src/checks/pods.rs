//! Pods: containers, their ports, environment, probes and resources, and where they may run.

use std::cmp::Ordering;

use super::{Check, quantity};
use crate::Value;
use crate::validate::{ErrorKind, annotations as meta_annotations, labels as meta_labels, names};

pub fn container_port(c: &mut Check<'_>) {
    match c.value.i64_at(&["containerPort"]) {
        None | Some(0) => c.required("containerPort", ""),
        Some(port) => c.problems("containerPort", port, names::port_number(port)),
    }
    if let Some(port) = c.value.i64_at(&["hostPort"]).filter(|p| *p != 0) {
        c.problems("hostPort", port, names::port_number(port));
    }
}

pub fn container(c: &mut Check<'_>) {
    let image = c.text("image").to_owned();
    if image.trim() != image {
        c.invalid("image", image, "must not have leading or trailing whitespace");
    }
    c.unique("ports", "name");
    let policies = c.value.list_at(&["resizePolicy"]);
    for (i, policy) in policies.iter().enumerate() {
        for (field, known) in
            [("resourceName", ["cpu", "memory"]), ("restartPolicy", ["NotRequired", "RestartContainer"])]
        {
            match policy.str_at(&[field]) {
                "" => c.required("resizePolicy", ""),
                given if !known.contains(&given) => c.not_supported("resizePolicy", given, &known),
                _ => {}
            }
        }
        let name = policy.str_at(&["resourceName"]);
        if policies[..i].iter().any(|other| other.str_at(&["resourceName"]) == name) {
            c.push(ErrorKind::Duplicate, &format!("resizePolicy[{i}]"), name, "");
        }
    }
    for source in c.value.list_at(&["envFrom"]) {
        let detail = match (!source["configMapRef"].is_null(), !source["secretRef"].is_null()) {
            (false, false) => "must specify one of: `configMapRef` or `secretRef`",
            (true, true) => "may not have more than one field specified at a time",
            _ => continue,
        };
        c.invalid("envFrom", "", detail);
    }
    let mounts = c.value.list_at(&["volumeMounts"]);
    for (i, mount) in mounts.iter().enumerate() {
        for (field, known) in [
            ("recursiveReadOnly", ["Disabled", "Enabled", "IfPossible"]),
            ("mountPropagation", ["Bidirectional", "HostToContainer", "None"]),
        ] {
            if let Some(given) = mount.member(field).and_then(Value::as_str).filter(|given| !known.contains(given)) {
                c.not_supported(&format!("volumeMounts.{field}"), given, &known);
            }
        }
        let path = mount.str_at(&["mountPath"]);
        if !path.is_empty() && mounts[..i].iter().any(|m| m.str_at(&["mountPath"]) == path) {
            c.invalid(&format!("volumeMounts[{i}].mountPath"), path, "must be unique");
        }
        if !mount.str_at(&["subPath"]).is_empty() && !mount.str_at(&["subPathExpr"]).is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            c.invalid(&format!("volumeMounts[{i}].subPathExpr"), mount.str_at(&["subPathExpr"]), detail);
        }
    }
}

pub fn env_var(c: &mut Check<'_>) {
    let Some(source) = c.value.member("valueFrom").and_then(Value::as_object) else { return };
    const PATHS: [&str; 9] = [
        "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
        "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
    ];
    field_ref(c, "valueFrom.fieldRef", &c.value["valueFrom"]["fieldRef"], &PATHS);
    resource_ref(c, "valueFrom.resourceFieldRef", &c.value["valueFrom"]["resourceFieldRef"], false);
    let sources = source.values().filter(|v| !v.is_null()).count();
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !c.text("value").is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    c.invalid("valueFrom", "", detail);
}

/// A field of the pod itself.
fn field_ref(c: &mut Check<'_>, path: &str, given: &Value, supported: &[&str]) {
    const LABELS: [&str; 14] = [
        "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
        "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "status.phase",
        "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
    ];
    if given.is_null() {
        return;
    }
    let at = format!("{path}.fieldPath");
    let (version, field) = (given.str_at(&["apiVersion"]), given.str_at(&["fieldPath"]));
    let subscript = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    let why = match (version, field, subscript) {
        ("", ..) => return c.required(&format!("{path}.apiVersion"), ""),
        (_, "", _) => return c.required(&at, ""),
        ("v1", _, Some(("metadata.annotations", key))) => {
            return c.problems(path, key.to_lowercase(), names::label_key(&key.to_lowercase()));
        }
        ("v1", _, Some(("metadata.labels", key))) => return c.problems(path, key, names::label_key(key)),
        ("v1", _, Some(_)) => format!("field label does not support subscript: {field}"),
        ("v1", _, None) if supported.contains(&field) || field == "spec.host" => return,
        ("v1", _, None) if LABELS.contains(&field) => return c.not_supported(&at, field, supported),
        ("v1", ..) => format!("field label not supported: {field}"),
        _ => format!("unsupported pod version: {version}"),
    };
    c.invalid(&at, field, format!("error converting fieldPath: {why}"));
}

/// What a container asks for or may have; a volume says of which container.
fn resource_ref(c: &mut Check<'_>, path: &str, given: &Value, volume: bool) {
    const RESOURCES: [&str; 6] = [
        "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = given.str_at(&["resource"]);
    let huge = ["requests.hugepages-", "limits.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if given.is_null() {
        return;
    }
    if volume && given.str_at(&["containerName"]).is_empty() {
        c.required(&format!("{path}.containerName"), "");
    } else if resource.is_empty() {
        c.required(&format!("{path}.resource"), "");
    } else if !huge && !RESOURCES.contains(&resource) {
        c.not_supported(&format!("{path}.resource"), resource, &RESOURCES);
    }
}

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Files of the downward API: upstream says not which of them.
pub fn downward_files(c: &mut Check<'_>) {
    const PATHS: [&str; 5] =
        ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    let value = c.value;
    for file in value.list_at(&["items"]) {
        let (path, of_pod, of_container) = (file.str_at(&["path"]), &file["fieldRef"], &file["resourceFieldRef"]);
        if path.is_empty() {
            c.required("path", "");
        }
        c.problems("path", path, names::relative_path(path));
        match (of_pod.is_null(), of_container.is_null()) {
            (true, true) => c.required("", "one of fieldRef and resourceFieldRef is required"),
            (true, false) => resource_ref(c, "resourceFieldRef", of_container, true),
            (false, _) => field_ref(c, "fieldRef", of_pod, &PATHS),
        }
        if !of_pod.is_null() && !of_container.is_null() {
            c.invalid("", "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
        if let Some(mode) = file.i64_at(&["mode"]).filter(|mode| !(0..=0o777).contains(mode)) {
            c.invalid("mode", mode, MODE);
        }
    }
}

pub fn http_get(c: &mut Check<'_>) {
    for header in c.value.list_at(&["httpHeaders"]) {
        let name = header.str_at(&["name"]);
        c.problems("httpHeaders", name, names::http_header_name(name));
    }
}

pub fn pod_affinity_term(c: &mut Check<'_>) {
    for namespace in c.value.list_at(&["namespaces"]).iter().filter_map(Value::as_str) {
        c.problems("namespace", namespace, names::dns1123_label(namespace));
    }
}

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub fn handler(c: &mut Check<'_>) {
    let given: Vec<&str> = HANDLERS.into_iter().filter(|h| c.has(h)).collect();
    if given.is_empty() {
        c.required("", "must specify a handler type");
    }
    for extra in given.iter().skip(1) {
        c.forbidden(extra, "may not specify more than 1 handler type");
    }
}

pub fn probe(c: &mut Check<'_>) {
    handler(c);
    if let Some(seconds) = c.value.i64_at(&["terminationGracePeriodSeconds"]).filter(|s| *s <= 0) {
        c.invalid("terminationGracePeriodSeconds", seconds, "must be greater than 0");
    }
}

/// What a container may ask for: something of the standard, or of somebody's domain.
pub fn resource_name(c: &mut Check<'_>, path: &str, name: &str) {
    let problems = names::label_key(name);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        if problems.is_empty() {
            c.invalid(path, name, "must be a standard resource type or fully qualified");
        }
        c.invalid(path, name, "must be a standard resource for containers");
    }
    c.problems(path, name, problems);
}

/// What no node may promise twice: requests and limits are the same.
fn overcommits(resource: &str) -> bool {
    !resource.contains('/') && !resource.starts_with("hugepages-") || resource.contains("kubernetes.io/")
}

pub fn resources(c: &mut Check<'_>) {
    let value = c.value;
    let empty = Default::default();
    let limits = value.object_at(&["limits"]).unwrap_or(&empty);
    let requests = value.object_at(&["requests"]).unwrap_or(&empty);
    for (list, items) in [("limits", limits), ("requests", requests)] {
        for (name, amount) in items {
            let path = format!("{list}[{name}]");
            resource_name(c, &path, name);
            let Some(q) = quantity(amount) else { continue };
            if q.nanos < 0 {
                c.invalid(&path, amount.clone(), "must be greater than or equal to 0");
            } else if name.contains('/') && q.nanos % 1_000_000_000 != 0 {
                c.invalid(&path, amount.clone(), "must be an integer");
            }
        }
    }
    for (name, limit) in limits {
        let Some(request) = requests.get(name) else {
            continue;
        };
        let (Some(l), Some(r)) = (quantity(limit), quantity(request)) else { continue };
        let shown = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        if l.compare(r) != Ordering::Equal && !overcommits(name) {
            c.invalid("requests", request.clone(), format!("must be equal to {name} limit of {}", shown(limit)));
        } else if r.compare(l) == Ordering::Greater {
            let detail = format!("must be less than or equal to {name} limit of {}", shown(limit));
            c.invalid("requests", request.clone(), detail);
        }
    }
    for _ in requests.keys().filter(|n| !limits.contains_key(n) && !overcommits(n)) {
        c.required("limits", "Limit must be set for non overcommitable resources");
    }
}

pub fn security_context(c: &mut Check<'_>) {
    let escalates = c.value.member("allowPrivilegeEscalation").and_then(Value::as_bool);
    if escalates != Some(false) {
        return;
    }
    let shown = c.value.clone();
    if c.value.bool_at(&["privileged"]) {
        c.invalid("", shown.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    let added = c.value.list_at(&["capabilities", "add"]);
    if added.iter().any(|a| a.as_str() == Some("CAP_SYS_ADMIN")) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        c.invalid("", shown, detail);
    }
}

pub fn pod_spec(c: &mut Check<'_>) {
    let value = c.value;
    c.unique("volumes", "name");
    let mut seen: Vec<&str> = Vec::new();
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in value.list_at(&[group]).iter().enumerate() {
            let name = container.str_at(&["name"]);
            if !name.is_empty() && seen.contains(&name) {
                c.push(ErrorKind::Duplicate, &format!("{group}[{i}].name"), name, "");
            }
            seen.push(name);
        }
    }
    for (i, container) in value.list_at(&["initContainers"]).iter().enumerate() {
        if container.str_at(&["restartPolicy"]) == "Always" {
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.member(name).is_some_and(|v| !v.is_null()) {
                c.forbidden(
                    &format!("initContainers[{i}].{name}"),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
    }
    let spreads = value.list_at(&["topologySpreadConstraints"]);
    let key =
        |spread: &Value| format!("{{{}, {}}}", spread.str_at(&["topologyKey"]), spread.str_at(&["whenUnsatisfiable"]));
    for (i, spread) in spreads.iter().enumerate() {
        if spreads[i + 1..].iter().any(|other| key(other) == key(spread)) {
            let path = format!("topologySpreadConstraints[{i}].{{topologyKey, whenUnsatisfiable}}");
            c.push(ErrorKind::Duplicate, &path, key(spread), "");
        }
    }
    if value.bool_at(&["hostNetwork"]) {
        for group in ["containers", "initContainers"] {
            for (i, container) in value.list_at(&[group]).iter().enumerate() {
                for (j, port) in container.list_at(&["ports"]).iter().enumerate() {
                    let (inside, host) = (port.i64_at(&["containerPort"]), port.i64_at(&["hostPort"]).unwrap_or(0));
                    if host != 0 && inside != Some(host) {
                        let detail = "must match `hostPort` when `hostNetwork` is true";
                        c.invalid(&format!("{group}[{i}].ports[{j}].containerPort"), inside.unwrap_or(0), detail);
                    }
                }
            }
        }
    }
    let mut ports: Vec<String> = Vec::new();
    for (i, container) in value.list_at(&["containers"]).iter().enumerate() {
        for (j, port) in container.list_at(&["ports"]).iter().enumerate() {
            let host = port.i64_at(&["hostPort"]).unwrap_or(0);
            let shown = format!("{}/{}/{host}", port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            if host != 0 && ports.contains(&shown) {
                c.push(ErrorKind::Duplicate, &format!("containers[{i}].ports[{j}].hostPort"), &*shown, "");
            }
            ports.push(shown);
        }
    }
    // What is negative counts as 1.
    let grace = value.i64_at(&["terminationGracePeriodSeconds"]).map(|grace| if grace < 0 { 1 } else { grace });
    for group in ["initContainers", "containers"] {
        for (i, container) in value.list_at(&[group]).iter().enumerate() {
            for hook in ["postStart", "preStop"] {
                let seconds = container.i64_at(&["lifecycle", hook, "sleep", "seconds"]);
                if let (Some(seconds), Some(grace)) = (seconds, grace)
                    && !(0..=grace).contains(&seconds)
                {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    c.invalid(&format!("{group}[{i}].lifecycle.{hook}.sleep"), seconds, detail);
                }
            }
        }
    }
    hostname_override(c);
    env_files(c);
    const SYSTEMS: [&str; 2] = ["linux", "windows"];
    let system = value["os"].str_at(&["name"]);
    if !system.is_empty() && !SYSTEMS.contains(&system) {
        c.not_supported("os", system, &SYSTEMS);
    }
    let dns = &value["dnsConfig"];
    if c.text("dnsPolicy") == "None" && dns.is_null() {
        c.required("dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None");
    } else if c.text("dnsPolicy") == "None" && dns["nameservers"].is_empty() {
        c.required("dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    for (i, _) in dns.list_at(&["options"]).iter().enumerate().filter(|(_, of)| of.str_at(&["name"]).is_empty()) {
        c.required(&format!("dnsConfig.options[{i}]"), "must not be empty");
    }
}

fn hostname_override(c: &mut Check<'_>) {
    let value = c.value;
    let Some(name) = value.member("hostnameOverride").and_then(Value::as_str) else { return };
    for other in ["setHostnameAsFQDN", "hostNetwork"] {
        if value.bool_at(&[other]) {
            c.forbidden("hostnameOverride", &format!("may not be specified when {other} is true"));
        }
    }
    if name.len() > 64 {
        c.push(ErrorKind::TooLong, "hostnameOverride", "<value omitted>", "may not be more than 64 bytes");
    }
    c.problems("hostnameOverride", name, names::dns1123_subdomain(name));
}

/// Files with variables are read from emptyDirs only.
fn env_files(c: &mut Check<'_>) {
    let value = c.value;
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in value.list_at(&[group]).iter().enumerate() {
            for (j, env) in container.list_at(&["env"]).iter().enumerate() {
                let name = env["valueFrom"]["fileKeyRef"].str_at(&["volumeName"]);
                let path = format!("{group}[{i}].env[{j}].valueFrom.fileKeyRef.volumeName");
                match value.list_at(&["volumes"]).iter().find(|volume| volume.str_at(&["name"]) == name) {
                    _ if env["valueFrom"]["fileKeyRef"].is_null() => {}
                    None => c.push(ErrorKind::NotFound, &path, name, ""),
                    Some(volume) if volume["emptyDir"].is_null() => {
                        c.invalid(&path, name, "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Upstream names a template's metadata by what holds it: `spec.template.labels`.
pub fn pod_template(c: &mut Check<'_>) {
    let metadata = &c.value["metadata"];
    let (labels, annotations) = (c.at("labels"), c.at("annotations"));
    c.errors.extend(meta_labels(metadata.member("labels"), &labels));
    c.errors.extend(meta_annotations(metadata.member("annotations"), &annotations));
}

pub fn seccomp_profile(c: &mut Check<'_>) {
    match (c.text("type"), c.has("localhostProfile")) {
        ("Localhost", false) => c.required("localhostProfile", "must be set when seccomp type is Localhost"),
        ("Localhost", true) | (_, false) => {}
        _ => {
            c.invalid("localhostProfile", c.value.clone(), "can only be set when seccomp type is Localhost");
        }
    }
}

pub fn scheduling_gates(c: &mut Check<'_>) {
    let value = c.value;
    let gates = value.as_list().unwrap_or_default();
    for (i, gate) in gates.iter().enumerate() {
        let name = gate.str_at(&["name"]);
        c.problems(&format!("[{i}]"), name, names::label_key(name));
    }
    for (i, gate) in gates.iter().enumerate().filter(|(i, gate)| gates[..*i].contains(gate)) {
        c.push(ErrorKind::Duplicate, &format!("[{i}]"), gate.str_at(&["name"]), "");
    }
}

pub fn pod_mounts(c: &mut Check<'_>) {
    let value = c.value;
    let pod = value.str_at(&["metadata", "name"]);
    for (i, volume) in value.list_at(&["spec", "volumes"]).iter().enumerate() {
        let name = volume.str_at(&["name"]);
        let claim = format!("{pod}-{name}");
        if !volume["ephemeral"].is_null() && !name.is_empty() && !pod.is_empty() {
            let problems = names::dns1123_subdomain(&claim).into_iter().map(|p| format!("PVC name {claim:?}: {p}"));
            c.problems(&format!("spec.volumes[{i}].name"), name, problems.collect());
        }
    }
    mounts(c, "spec", &value["spec"], &[]);
}

/// Of anything with a pod template. A StatefulSet's claims are volumes of its pods.
pub fn template_mounts(c: &mut Check<'_>) {
    let value = c.value;
    mounts(c, "template.spec", &value["template"]["spec"], value.list_at(&["volumeClaimTemplates"]));
}

/// What containers mount is there, and nothing is wrong with it.
fn mounts(c: &mut Check<'_>, path: &str, spec: &Value, claims: &[Value]) {
    let is_good = |i: usize| {
        let place = c.at(&format!("{path}.volumes[{i}]"));
        !c.errors.iter().any(|error| error.field.starts_with(&place))
    };
    let volumes = spec.list_at(&["volumes"]).iter().enumerate();
    let volumes: Vec<&Value> = volumes.filter(|(i, _)| is_good(*i)).map(|(_, volume)| volume).collect();
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.list_at(&[group]).iter().enumerate() {
            for (list, block) in [("volumeMounts", false), ("volumeDevices", true)] {
                for (j, mount) in container.list_at(&[list]).iter().enumerate() {
                    let wanted = mount.str_at(&["name"]);
                    let path = format!("{path}.{group}[{i}].{list}[{j}].name");
                    if claims.iter().any(|claim| claim.str_at(&["metadata", "name"]) == wanted) {
                        continue;
                    }
                    let claimed = |v: &Value| !v["persistentVolumeClaim"].is_null() || !v["ephemeral"].is_null();
                    match volumes.iter().find(|v| v.str_at(&["name"]) == wanted) {
                        None => c.push(ErrorKind::NotFound, &path, wanted, ""),
                        Some(volume) if block && !claimed(volume) => {
                            let detail =
                                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                            c.invalid(&path, wanted, detail);
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }
}

pub fn toleration(c: &mut Check<'_>) {
    let (key, operator, effect) =
        (c.text("key").to_owned(), c.text("operator").to_owned(), c.text("effect").to_owned());
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        c.invalid("operator", operator.as_str(), detail);
    }
    c.one_of("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    if c.has("tolerationSeconds") && effect != "NoExecute" {
        c.invalid("effect", effect.as_str(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    let value = c.text("value").to_owned();
    match operator.as_str() {
        "Equal" | "" => {
            let problems = names::label_value(&value);
            if !problems.is_empty() {
                c.invalid("operator", value, problems.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            c.invalid("operator", value, "value must be empty when `operator` is 'Exists'")
        }
        "Exists" | "Lt" | "Gt" => {}
        _ => c.not_supported("operator", operator, &["Equal", "Exists"]),
    }
}

pub fn node_selector_requirement(c: &mut Check<'_>) {
    let operator = c.text("operator").to_owned();
    let values: Vec<&str> = c.value.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
    let count = values.len();
    let each = |c: &mut Check<'_>, check: fn(&str) -> Vec<String>| {
        values.iter().enumerate().for_each(|(i, text)| c.problems(&format!("values[{i}]"), *text, check(text)));
    };
    // Of a node's fields there is but its name.
    if c.path.contains(".matchFields[") {
        match &*operator {
            "In" | "NotIn" if count != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                c.required("values", detail);
            }
            "In" | "NotIn" => {}
            _ => c.invalid("operator", operator, "not a valid selector operator"),
        }
        return match c.text("key") {
            "metadata.name" => each(c, names::dns1123_subdomain),
            key => c.invalid("key", key, "not a valid field selector key"),
        };
    }
    // A preference that nothing fulfils does no harm.
    if !c.path.contains(".preference.") && c.old.is_none_or(|old| old != c.value) {
        each(c, names::label_value);
    }
    match operator.as_str() {
        "In" | "NotIn" if count == 0 => c.required("values", "must be specified when `operator` is 'In' or 'NotIn'"),
        "Exists" | "DoesNotExist" if count > 0 => {
            c.forbidden("values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if count != 1 => {
            c.required("values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => c.invalid("operator", operator, "not a valid selector operator"),
    }
    let key = c.text("key").to_owned();
    c.problems("key", key.as_str(), names::label_key(&key));
}

pub fn sysctl(c: &mut Check<'_>) {
    let name = c.text("name");
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        bytes.first().is_some_and(|b| lower(*b))
            && bytes.last().is_some_and(|b| lower(*b))
            && bytes.iter().all(|b| lower(*b) || matches!(b, b'-' | b'_'))
    };
    if !name.is_empty() && (name.len() > 253 || !name.split(['.', '/']).all(segment)) {
        let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
        c.invalid("name", name, detail);
    }
}

pub fn topology_spread(c: &mut Check<'_>) {
    if !c.has("labelSelector") && !c.value["matchLabelKeys"].is_empty() {
        c.forbidden("matchLabelKeys", "must not be specified when labelSelector is not set");
    }
    let skew = c.value.i64_at(&["maxSkew"]).unwrap_or(0);
    if skew <= 0 {
        c.invalid("maxSkew", skew, "must be greater than zero");
    }
    if let Some(domains) = c.value.i64_at(&["minDomains"]) {
        if domains <= 0 {
            c.invalid("minDomains", domains, "must be greater than zero");
        } else if c.text("whenUnsatisfiable") != "DoNotSchedule" {
            let detail = format!(
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                c.text("whenUnsatisfiable")
            );
            c.invalid("minDomains", domains, detail);
        }
    }
}
