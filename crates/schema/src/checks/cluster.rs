//! Services and their endpoints, ingresses and policies, roles, quotas and the other kinds of the cluster.

use super::{Check, quantity, same};
use crate::Value;
use crate::cidr::Cidr;
use crate::selector::LabelSelector;
use crate::validate::{ErrorKind, names};

pub fn service(c: &mut Check<'_>) {
    let value = c.value;
    let (ty, ip) = (c.text("type"), c.text("clusterIP"));
    let ports = value.list_at(&["ports"]);
    if ports.is_empty() && ip != "None" && ty != "ExternalName" {
        c.required("ports", "");
    }
    if ty == "ExternalName" {
        let name = c.text("externalName").trim_end_matches('.').to_owned();
        if name.is_empty() {
            c.required("externalName", "");
        } else {
            c.problems("externalName", name.as_str(), names::dns1123_subdomain(&name));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("ports[{i}].{field}");
        let name = port.str_at(&["name"]);
        if ports.len() > 1 && name.is_empty() {
            c.required(&at("name"), "");
        }
        if !name.is_empty() && ports[..i].iter().any(|p| p.str_at(&["name"]) == name) {
            c.push(ErrorKind::Duplicate, &at("name"), name, "");
        }
        let key = |p: &Value| (p["protocol"].clone(), p["port"].clone());
        if ports[..i].iter().any(|p| key(p) == key(port)) {
            c.push(ErrorKind::Duplicate, &format!("ports[{i}]"), port.clone(), "");
        }
        let node = port.i64_at(&["nodePort"]).filter(|node| *node != 0);
        let is_twin = |p: &Value| p["protocol"] == port["protocol"] && p.i64_at(&["nodePort"]) == node;
        if let Some(node) = node.filter(|_| ports[..i].iter().any(is_twin)) {
            c.push(ErrorKind::Duplicate, &at("nodePort"), node, "");
        }
        if node.is_some() && ty == "ClusterIP" {
            c.forbidden(&at("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    const BALANCED_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let ranges = value.list_at(&["loadBalancerSourceRanges"]);
    if !ranges.is_empty() && ty != "LoadBalancer" {
        c.forbidden("LoadBalancerSourceRanges", BALANCED_ONLY);
    }
    for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        c.problems(&format!("LoadBalancerSourceRanges[{i}]"), range, names::cidr(range.trim()));
    }
    for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        if c.has(field) && ty != "LoadBalancer" {
            c.forbidden(field, BALANCED_ONLY);
        }
    }
    let addresses = value.list_at(&["externalIPs"]);
    for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        special_ip(c, &format!("externalIPs[{i}]"), address);
    }
    let outside = matches!(ty, "LoadBalancer" | "NodePort") || ty == "ClusterIP" && !addresses.is_empty();
    let policy = c.text("externalTrafficPolicy");
    if !policy.is_empty() && !outside {
        c.invalid("externalTrafficPolicy", policy, "may only be set for externally-accessible services");
    }
    let local = ty == "LoadBalancer" && c.text("externalTrafficPolicy") == "Local";
    if let Some(port) = value.i64_at(&["healthCheckNodePort"]).filter(|port| *port != 0 && !local) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        c.invalid("healthCheckNodePort", port, detail);
    }
    if ip == "None" && matches!(ty, "LoadBalancer" | "NodePort") {
        let detail = format!("may not be set to 'None' for {ty} services");
        c.invalid("clusterIPs[0]", "None", detail);
    }
}

pub fn endpoint_subset(c: &mut Check<'_>) {
    let value = c.value;
    let (ready, waiting) = (value.list_at(&["addresses"]), value.list_at(&["notReadyAddresses"]));
    if ready.is_empty() && waiting.is_empty() {
        c.required("", "must specify `addresses` or `notReadyAddresses`");
    }
    for (list, items) in [("addresses", ready), ("notReadyAddresses", waiting)] {
        for (i, address) in items.iter().enumerate() {
            let ip = address.str_at(&["ip"]);
            let path = format!("{list}[{i}].ip");
            let mut problems = names::ip(ip);
            if problems.is_empty() {
                special_ip(c, &path, ip);
            } else {
                problems.push("must be a valid IP address".to_owned());
            }
            c.problems(&path, ip, problems);
        }
    }
    let ports = value.list_at(&["ports"]);
    for (i, port) in ports.iter().enumerate() {
        let name = port.str_at(&["name"]);
        if ports.len() > 1 && name.is_empty() {
            c.required(&format!("ports[{i}].name"), "");
        } else if !name.is_empty() {
            c.problems(&format!("ports[{i}].name"), name, names::dns1123_label(name));
        }
    }
}

/// `ValidateEndpointIP`: addresses that no other node can reach.
fn special_ip(c: &mut Check<'_>, path: &str, text: &str) {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else { return };
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let detail = if ip.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if ip.is_multicast() {
        "may not be in the multicast range (224.0.0.0/4, ff00::/10)"
    } else {
        return;
    };
    c.invalid(path, text, detail);
}

/// Of an EndpointSlice: addresses of its type.
pub fn endpoint_slice(c: &mut Check<'_>) {
    let value = c.value;
    let family = c.text("addressType");
    for (i, endpoint) in value.list_at(&["endpoints"]).iter().enumerate() {
        let addresses = endpoint.list_at(&["addresses"]);
        for (j, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            let path = format!("endpoints[{i}].addresses[{j}]");
            let problems = match family {
                "IPv4" | "IPv6" if address.parse::<std::net::IpAddr>().is_err() => names::ip(address),
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => vec!["must be an IPv4 address".to_owned()],
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => vec!["must be an IPv6 address".to_owned()],
                "IPv4" | "IPv6" => {
                    special_ip(c, &path, address);
                    Vec::new()
                }
                "FQDN" => names::dns1123_subdomain(address),
                _ => Vec::new(),
            };
            c.problems(&path, address, problems);
        }
    }
    let ports = value.list_at(&["ports"]);
    for (i, port) in ports.iter().enumerate() {
        let name = port.str_at(&["name"]);
        let path = format!("ports[{i}].name");
        if !name.is_empty() {
            c.problems(&path, name, names::dns1123_label(name));
        }
        if ports[..i].iter().any(|p| p.str_at(&["name"]) == name) {
            c.push(ErrorKind::Duplicate, &path, name, "");
        }
    }
}

/// A range stays as it is; one of the other family may be added.
pub fn service_cidrs(c: &mut Check<'_>) {
    let value = c.value;
    let ranges = value.list_at(&["cidrs"]);
    if let Some(old) = c.old.map(|old| old.list_at(&["cidrs"])) {
        if ranges.len() != old.len() && (old.len(), ranges.len()) != (1, 2) {
            return c.immutable("cidrs");
        }
        for (i, (range, _)) in ranges.iter().zip(old).enumerate().filter(|(_, (range, old))| range != old) {
            c.invalid(&format!("cidrs[{i}]"), range.clone(), "field is immutable");
        }
        if ranges.len() == old.len() {
            return;
        }
    }
    for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        c.problems(&format!("cidrs[{i}]"), range, names::cidr(range));
    }
    let families: Vec<bool> = ranges.iter().filter_map(Value::as_str).map(|range| range.contains(':')).collect();
    if matches!(families[..], [one, other] if one == other) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        c.invalid("cidrs", value["cidrs"].clone(), detail);
    }
}

pub fn taints(c: &mut Check<'_>) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let value = c.value;
    let taints = value.list_at(&["taints"]);
    for (i, taint) in taints.iter().enumerate() {
        let at = |field: &str| format!("taints[{i}].{field}");
        let (key, text, effect) = (taint.str_at(&["key"]), taint.str_at(&["value"]), taint.str_at(&["effect"]));
        c.problems(&at("key"), key, names::label_key(key));
        let problems = names::label_value(text);
        if !problems.is_empty() {
            c.invalid(&at("value"), text, problems.join(";"));
        }
        if effect.is_empty() {
            c.required(&at("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            c.not_supported(&at("effect"), effect, &EFFECTS);
        }
        let id = |t: &Value| (t["key"].clone(), t["effect"].clone());
        if taints[..i].iter().any(|t| id(t) == id(taint)) {
            let detail = "taints must be unique by key and effect pair";
            c.push(ErrorKind::Duplicate, &format!("taints[{i}]"), taint.clone(), detail);
        }
    }
}

/// A finalizer is `kubernetes` or has a domain.
pub fn namespace(c: &mut Check<'_>) {
    let value = c.value;
    for (i, name) in value.list_at(&["finalizers"]).iter().filter_map(Value::as_str).enumerate() {
        let path = if c.old.is_some() { format!("finalizers[{i}]") } else { "finalizers".to_owned() };
        c.problems(&path, name, names::label_key(name));
        if !name.contains('/') && name != "kubernetes" {
            c.invalid(&path, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

pub fn limit_range_item(c: &mut Check<'_>) {
    let value = c.value;
    let ty = c.text("type").to_owned();
    let problems = names::label_key(&ty);
    if !problems.is_empty() {
        c.problems("type", ty.as_str(), problems);
    } else if !["Pod", "Container", "PersistentVolumeClaim"].contains(&ty.as_str()) && !ty.contains('/') {
        c.invalid("type", ty.as_str(), "must be a standard limit type or fully qualified");
    }
    if ty == "Pod" {
        for field in ["default", "defaultRequest"] {
            if value.object_at(&[field]).is_some_and(|m| !m.is_empty()) {
                c.forbidden(field, "may not be specified when `type` is 'Pod'");
            }
        }
    }
    // Two of a limit's amounts and what they are called, the field that is wrong, and the amount that is shown.
    const PAIRS: [(&str, &str, &str, &str, &str, &str); 6] = [
        ("min", "min", "max", "max", "min", "min"),
        ("min", "min", "defaultRequest", "default request", "defaultRequest", "defaultRequest"),
        ("min", "min", "default", "default", "default", "min"),
        ("defaultRequest", "default request", "max", "max", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "default request", "default", "default limit", "defaultRequest", "defaultRequest"),
        ("default", "default", "max", "max", "default", "max"),
    ];
    let amount = |field: &str, name: &str| value.get(&[field, name]).and_then(quantity).map(|amount| amount.nanos);
    let show = |field: &str, name: &str| value.str_at(&[field, name]);
    for (low, low_word, high, high_word, field, shown) in PAIRS {
        for name in value.object_at(&[low]).into_iter().flatten().map(|(name, _)| name.as_str()) {
            if amount(low, name).zip(amount(high, name)).is_some_and(|(low, high)| low > high) {
                let (low, high) = (show(low, name), show(high, name));
                let detail = format!("{low_word} value {low} is greater than {high_word} value {high}");
                c.invalid(&format!("{field}[{name}]"), show(shown, name), detail);
            }
        }
    }
    for name in value.object_at(&["maxLimitRequestRatio"]).into_iter().flatten().map(|(name, _)| name.as_str()) {
        let (at, shown) = (format!("maxLimitRequestRatio[{name}]"), show("maxLimitRequestRatio", name));
        let ratio = amount("maxLimitRequestRatio", name).unwrap_or(0) as f64 / 1e9;
        if ratio < 1.0 {
            c.invalid(&at, shown, format!("ratio {shown} is less than 1"));
        }
        let most = amount("max", name).zip(amount("min", name)).map(|(max, min)| max as f64 / min as f64);
        if let Some(most) = most.filter(|most| ratio > *most) {
            c.invalid(&at, shown, format!("ratio {shown} is greater than max/min = {most:.6}"));
        }
    }
}

pub fn quota_spec(c: &mut Check<'_>) {
    let value = c.value;
    for (name, amount) in value.object_at(&["hard"]).into_iter().flatten() {
        let path = format!("hard[{name}]");
        let Some(q) = quantity(amount) else { continue };
        let whole = ["pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps"]
            .contains(&name.as_str())
            || name == "persistentvolumeclaims"
            || name.starts_with("count/")
            || name.starts_with("services.");
        if q.nanos < 0 {
            c.invalid(&path, amount.clone(), "must be greater than or equal to 0");
        } else if whole && q.nanos % 1_000_000_000 != 0 {
            c.invalid(&path, amount.clone(), "must be an integer");
        }
    }
    let scopes: Vec<&str> = value.list_at(&["scopes"]).iter().filter_map(Value::as_str).collect();
    let known = [
        "Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    for _ in scopes.iter().filter(|s| !known.contains(s)) {
        c.invalid("scopes", value["scopes"].clone(), "unsupported scope");
    }
    let mut selected: Vec<&str> = Vec::new();
    for requirement in value.list_at(&["scopeSelector", "matchExpressions"]) {
        let at = |field: &str| format!("scopeSelector.matchExpressions.{field}");
        let (scope, operator) = (requirement.str_at(&["scopeName"]), requirement.str_at(&["operator"]));
        selected.push(scope);
        if !known.contains(&scope) {
            c.invalid(&at("scopeName"), scope, "unsupported scope");
        } else if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            c.invalid(&at("operator"), operator, detail);
        }
        let (values, none) = (&requirement["values"], requirement["values"].is_empty());
        match operator {
            "In" | "NotIn" if none => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                c.required(&at("values"), detail);
            }
            "Exists" | "DoesNotExist" if !none => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                c.invalid(&at("values"), values.clone(), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => c.invalid(&at("operator"), operator, "not a valid selector operator"),
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        for (list, path) in [(&scopes, "scopes"), (&selected, "scopeSelector.matchExpressions")] {
            if list.contains(&a) && list.contains(&b) {
                c.invalid(path, value["scopes"].clone(), "conflicting scopes");
            }
        }
    }
    c.immutable("scopes");
}

pub fn network_policy_port(c: &mut Check<'_>) {
    let value = c.value;
    let port = value.member("port").filter(|p| !p.is_null());
    let Some(end) = value.i64_at(&["endPort"]) else { return };
    match port {
        None => c.invalid("endPort", end, "may not be specified when `port` is not specified"),
        Some(Value::String(_)) => c.invalid("endPort", end, "may not be specified when `port` is non-numeric"),
        Some(port) => {
            if port.as_i64().is_some_and(|port| end < port) {
                c.invalid("endPort", end, "must be greater than or equal to `port`");
            }
            c.problems("endPort", end, names::port_number(end));
        }
    }
}

pub fn network_policy_peer(c: &mut Check<'_>) {
    let (block, pods, namespaces) = (c.has("ipBlock"), c.has("podSelector"), c.has("namespaceSelector"));
    if !block && !pods && !namespaces {
        c.required("", "must specify a peer");
    } else if block && (pods || namespaces) {
        c.forbidden("", "may not specify both ipBlock and another peer");
    }
}

pub fn network_policy(c: &mut Check<'_>) {
    let types = &c.value["policyTypes"];
    if types.as_list().is_some_and(|types| types.len() > 2) {
        c.invalid("policyTypes", types.clone(), "may not specify more than two policyTypes");
    }
}

pub fn ingress(c: &mut Check<'_>) {
    if c.has("defaultBackend") {
        ingress_backend(c, "defaultBackend");
    }
    if c.value["rules"].is_empty() && !c.has("defaultBackend") {
        c.invalid("", Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
}

pub fn validating_policy(c: &mut Check<'_>) {
    if c.value["validations"].is_empty() && c.value["auditAnnotations"].is_empty() {
        for field in ["validations", "auditAnnotations"] {
            c.required(field, "validations or auditAnnotations must contain at least one item");
        }
    }
}

/// Of an admission rule: `*` stands for all resources or subresources, which are then not named.
pub fn rule_resources(c: &mut Check<'_>) {
    let value = c.value;
    let names: Vec<&str> = value.as_list().into_iter().flatten().filter_map(Value::as_str).collect();
    for (i, name) in names.iter().enumerate() {
        let at = format!("[{i}]");
        if name.is_empty() {
            c.required(&at, "");
        }
        let Some((resource, sub)) = name.split_once('/') else { continue };
        for all in [format!("{resource}/*"), format!("*/{sub}")] {
            if names[..i].contains(&&*all) {
                c.invalid(&at, *name, format!("if '{all}' is present, must not specify {name}"));
            }
        }
    }
    if names.len() > 1 && names.contains(&"*/*") {
        c.invalid("", value.clone(), "if '*/*' is present, must not specify other resources");
    }
    if names.contains(&"*") && names.iter().any(|name| *name != "*" && !name.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        c.invalid("", value.clone(), detail);
    }
}

pub fn storage_migration(c: &mut Check<'_>) {
    let (group, resource) = (c.value.str_at(&["resource", "group"]), c.value.str_at(&["resource", "resource"]));
    if !group.is_empty() {
        c.problems("resource.group", group, names::dns1123_subdomain(group));
    }
    if !resource.is_empty() {
        c.problems("resource.resource", resource, names::dns1035_label(resource));
    }
    if c.value.str_at(&["resource", "resource"]).is_empty() {
        c.required("resource.resource", "resource is required to be set");
    }
    if c.old.is_some_and(|old| old != c.value) {
        let value = c.value.clone();
        c.invalid("", value, "field is immutable");
    }
}

pub fn ingress_rule(c: &mut Check<'_>) {
    let host = c.text("host").to_owned();
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        return c.invalid("host", host, "must be a DNS name, not an IP address");
    }
    let problems =
        if host.contains('*') { names::wildcard_dns1123_subdomain(&host) } else { names::dns1123_subdomain(&host) };
    c.problems("host", host, problems);
}

pub fn ingress_path(c: &mut Check<'_>) {
    if !c.has("pathType") {
        return c.required("pathType", "pathType must be specified");
    }
    ingress_backend(c, "backend");
    let path = c.text("path").to_owned();
    match c.text("pathType") {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                c.invalid("path", path.as_str(), "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(bad) {
                    c.invalid("path", path.as_str(), format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if path.ends_with(bad) {
                    c.invalid("path", path.as_str(), format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                c.invalid("path", path, "must be an absolute path");
            }
        }
        other => {
            let other = other.to_owned();
            c.not_supported("pathType", other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
}

fn ingress_backend(c: &mut Check<'_>, path: &str) {
    let value = &c.value[path];
    match (!value["service"].is_null(), !value["resource"].is_null()) {
        (true, true) => c.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => c.invalid(path, "", "resource or service backend is required"),
        (false, true) => {}
        (true, false) => {
            let name = value.str_at(&["service", "name"]);
            let at = |field: &str| format!("{path}.service.{field}");
            if name.is_empty() {
                c.required(&at("name"), "");
            } else {
                c.problems(&at("name"), name, names::dns1123_label(name));
            }
            let (port, number) =
                (value.str_at(&["service", "port", "name"]), value.i64_at(&["service", "port", "number"]).unwrap_or(0));
            match (port.is_empty(), number) {
                (true, 0) => c.required(path, "port name or number is required"),
                (false, 0) => c.problems(&at("port.name"), port, names::port_name(port)),
                (true, number) => c.problems(&at("port.number"), number, names::port_number(number)),
                _ => c.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

pub fn ingress_class(c: &mut Check<'_>) {
    let controller = c.text("controller").to_owned();
    if controller.len() > 250 {
        c.push(ErrorKind::TooLong, "controller", "<value omitted>", "may not be more than 250 bytes");
    }
    if controller.is_empty() {
        c.required("controller", "");
    } else {
        let problems = names::domain_path(&controller);
        c.problems("controller", controller, problems);
    }
    c.immutable("controller");
    let value = c.value;
    let Some(parameters) = value.member("parameters").filter(|p| !p.is_null()) else { return };
    for field in ["kind", "name"] {
        let text = parameters.str_at(&[field]);
        let path = format!("parameters.{field}");
        c.problems(&path, text, names::path_segment(text));
    }
    let unset = parameters["namespace"].is_null();
    match parameters.str_at(&["scope"]) {
        "Namespace" if unset => c.required("parameters.namespace", "`parameters.scope` is set to 'Namespace'"),
        "Cluster" if !unset => {
            c.forbidden("parameters.namespace", "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}

pub fn policy_rule(c: &mut Check<'_>) {
    let value = c.value;
    let count = |field: &str| value.list_at(&[field]).len();
    if count("nonResourceURLs") > 0 {
        if count("apiGroups") > 0 || count("resources") > 0 || count("resourceNames") > 0 {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            c.invalid("nonResourceURLs", value["nonResourceURLs"].clone(), detail);
        }
        return;
    }
    if count("apiGroups") == 0 {
        c.required("apiGroups", "resource rules must supply at least one api group");
    }
    if count("resources") == 0 {
        c.required("resources", "resource rules must supply at least one resource");
    }
}

/// Of what is aggregated, selectors that select nothing at all.
pub fn cluster_role(c: &mut Check<'_>) {
    for (i, selector) in c.value.list_at(&["aggregationRule", "clusterRoleSelectors"]).iter().enumerate() {
        if LabelSelector::from_value(selector).is_err() {
            let path = format!("aggregationRule.clusterRoleSelectors[{i}]");
            c.invalid(&path, Value::Null, "invalid label selector.");
        }
    }
}

/// Of a range at most one for each family.
pub fn families(c: &mut Check<'_>) {
    let value = c.value;
    let cidrs = value.as_list().into_iter().flatten().filter_map(|cidr| cidr.as_str()?.parse::<Cidr>().ok());
    let families: Vec<_> = cidrs.map(|cidr| cidr.family()).collect();
    if (1..families.len()).any(|i| families[..i].contains(&families[i])) {
        c.invalid("", value.clone(), "");
    }
}

/// A namespace has no URLs of its own.
pub fn role(c: &mut Check<'_>) {
    let value = c.value;
    for (i, rule) in value.list_at(&["rules"]).iter().enumerate() {
        let urls = &rule["nonResourceURLs"];
        if !urls.is_empty() {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            c.invalid(&format!("rules[{i}].nonResourceURLs"), urls.clone(), detail);
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

pub fn role_binding(c: &mut Check<'_>) {
    binding(c, true);
}

pub fn cluster_role_binding(c: &mut Check<'_>) {
    binding(c, false);
}

fn binding(c: &mut Check<'_>, namespaced: bool) {
    let value = c.value;
    let reference = &value["roleRef"];
    let (group, kind, name) =
        (reference.str_at(&["apiGroup"]), reference.str_at(&["kind"]), reference.str_at(&["name"]));
    if group != RBAC {
        c.not_supported("roleRef.apiGroup", group, &[RBAC]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind) {
        c.not_supported("roleRef.kind", kind, kinds);
    }
    c.problems("roleRef.name", name, names::path_segment(name));
    c.immutable("roleRef");
    for (i, subject) in value.list_at(&["subjects"]).iter().enumerate() {
        if !namespaced && subject.str_at(&["kind"]) == "ServiceAccount" && subject.str_at(&["namespace"]).is_empty() {
            c.required(&format!("subjects[{i}].namespace"), "");
        }
    }
}

pub fn subject(c: &mut Check<'_>) {
    let (kind, name, group) = (c.text("kind"), c.text("name"), c.text("apiGroup"));
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                c.problems("name", name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                c.not_supported("apiGroup", group, &[""]);
            }
        }
        "User" | "Group" => {
            if group != RBAC {
                c.not_supported("apiGroup", group, &[RBAC]);
            }
        }
        _ => c.not_supported("kind", kind, &["ServiceAccount", "User", "Group"]),
    }
}

pub fn priority_class(c: &mut Check<'_>) {
    /// `HighestUserDefinablePriority`; those above it are the system's.
    const HIGHEST: i64 = 1_000_000_000;
    const SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];
    let name = c.value.str_at(&["metadata", "name"]).to_owned();
    let value = c.value.i64_at(&["value"]).unwrap_or(0);
    if name.starts_with("system-") {
        if !SYSTEM.contains(&name.as_str()) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            c.forbidden("metadata.name", &format!("{detail}{name} is not a known system priority class"));
        }
    } else if value > HIGHEST {
        c.forbidden("value", &format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    if c.changed("value") {
        c.forbidden("value", "may not be changed in an update.");
    }
    c.immutable("preemptionPolicy");
}

pub fn lease(c: &mut Check<'_>) {
    if let Some(seconds) = c.value.i64_at(&["leaseDurationSeconds"]).filter(|s| *s <= 0) {
        c.invalid("leaseDurationSeconds", seconds, "must be greater than 0");
    }
    if let Some(count) = c.value.i64_at(&["leaseTransitions"]).filter(|s| *s < 0) {
        c.invalid("leaseTransitions", count, "must be greater than or equal to 0");
    }
}

pub fn certificate_signing_request(c: &mut Check<'_>) {
    for field in ["request", "signerName", "usages", "expirationSeconds"] {
        c.immutable(field);
    }
}

/// The bounds of `maxExpirationSeconds`: Kubernetes' own signers give a day at most.
pub fn certificate_seconds(signer: &str) -> (i64, i64) {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let is_kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    (3600, if is_kubernetes { 86_400 } else { 91 * 86_400 })
}

/// The specification of a PodCertificateRequest but for its key, which is the server's to check.
pub fn pod_certificate_request(c: &mut Check<'_>) {
    let signer = c.text("signerName");
    for name in ["podName", "serviceAccountName", "nodeName"] {
        c.problems(name, c.text(name), names::dns1123_subdomain(c.text(name)));
    }
    for uid in ["podUID", "serviceAccountUID", "nodeUID"] {
        match c.text(uid).len() {
            0 => c.invalid(uid, "", "must not be empty"),
            1..=128 => {}
            _ => c.push(ErrorKind::TooLong, uid, "<value omitted>", "may not be more than 128 bytes"),
        }
    }
    let (min, max) = certificate_seconds(signer);
    match c.value.i64_at(&["maxExpirationSeconds"]) {
        None => c.required("maxExpirationSeconds", "must be set"),
        Some(seconds) if !(min..=max).contains(&seconds) => {
            c.invalid("maxExpirationSeconds", seconds, format!("must be in the range [{min}, {max}]"));
        }
        Some(_) => {}
    }
    if let Some(old) = c.old.filter(|old| !same(old, c.value)) {
        c.invalid("", old.clone(), "field is immutable");
    }
}
