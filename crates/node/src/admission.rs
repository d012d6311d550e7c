//! Whether a pod may run here at all: what the scheduler checked is checked again, for it may have been wrong or bypassed.

use std::collections::{BTreeMap, BTreeSet};

use schema::api::core::v1::{AppArmorProfile, Container, Node, NodeSelectorTerm, Pod};
use schema::api::meta::v1::LabelSelector;
use schema::quantity::Quantity;

use crate::memory::End;
use crate::pod::{is_critical, is_static};
use crate::resources;

/// The end of a pod that was never let in.
pub fn rejected(reason: &str, message: &str) -> End {
    End { reason: reason.into(), message: format!("Pod was rejected: {message}"), rejected: true, ..End::default() }
}

/// Whether a pod may come to a node that is short of something: critical ones may, and where memory alone is short all
/// that ask for some, or tolerate it.
pub fn bears(pod: &Pod, pressures: &[&str]) -> bool {
    let tolerates = || {
        pod.spec.tolerations.iter().any(|toleration| {
            let key = "node.kubernetes.io/memory-pressure";
            (toleration.effect.is_empty() || toleration.effect == "NoSchedule")
                && (toleration.key == key || (toleration.key.is_empty() && toleration.operator == "Exists"))
                && (toleration.operator == "Exists" || toleration.value.is_empty())
        })
    };
    let memory_alone = pressures == ["MemoryPressure"];
    pressures.is_empty() || is_critical(pod) || (memory_alone && (resources::qos(pod) != "BestEffort" || tolerates()))
}

/// Whether a profile of AppArmor is named, which only a kernel with it enforces.
pub fn wants_apparmor(pod: &Pod) -> bool {
    let named = |of: Option<&AppArmorProfile>| of.is_some_and(|profile| profile.r#type != "Unconfined");
    let own = |container: &Container| {
        named(container.security_context.as_ref().and_then(|security| security.app_armor_profile.as_ref()))
    };
    named(pod.spec.security_context.as_ref().and_then(|security| security.app_armor_profile.as_ref()))
        || pod.spec.containers.iter().chain(&pod.spec.init_containers).any(own)
}

/// Upstream's reasons, in upstream's words.
pub fn admit(
    pod: &Pod,
    others: &[&Pod],
    node: Option<&Node>,
    allocatable: &BTreeMap<String, Quantity>,
    allowed_sysctls: &[String],
) -> Result<(), End> {
    let failed = |name: &str, why: &str| Err(rejected(name, &format!("Predicate {name} failed: node(s) {why}")));
    if let Some(of) = pod.spec.os.as_ref().filter(|of| of.name != "linux") {
        let message = format!("Failed to admit pod as the OS field doesn't match node OS: {}", of.name);
        return Err(End { rejected: true, ..End::new("PodOSNotSupported", message) });
    }
    if let Some(forbidden) = forbidden_sysctl(pod, allowed_sysctls) {
        return Err(rejected("SysctlForbidden", &format!("forbidden sysctl: {forbidden}")));
    }
    if let Err((name, message)) = fits(pod, others, allocatable) {
        return Err(rejected(&format!("OutOf{name}"), &message));
    }
    if let Some(node) = node {
        if !matches_node(pod, node) {
            return failed("NodeAffinity", "didn't match Pod's node affinity/selector");
        }
        let untolerated = node.spec.taints.iter().find(|taint| {
            taint.effect == "NoExecute"
                && !pod.spec.tolerations.iter().any(|toleration| {
                    (toleration.effect.is_empty() || toleration.effect == taint.effect)
                        && (toleration.key.is_empty() || toleration.key == taint.key)
                        && (toleration.operator == "Exists" || toleration.value == taint.value)
                })
        });
        if untolerated.is_some() && !is_static(pod) {
            return failed("TaintToleration", "had taints that the pod didn't tolerate");
        }
    }
    let taken: BTreeSet<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    for (ip, protocol, port) in host_ports(pod) {
        let clash = taken.iter().any(|(other_ip, other_protocol, other_port)| {
            *other_port == port
                && *other_protocol == protocol
                && (*other_ip == ip || ip == "0.0.0.0" || other_ip == "0.0.0.0")
        });
        if clash {
            return failed("NodePorts", "didn't have free ports for the requested pod ports");
        }
    }
    Ok(())
}

/// What a pod asks for beyond what is free.
pub struct Lack {
    pub name: String,
    pub requested: i64,
    pub used: i64,
    pub capacity: i64,
}

/// Of every resource that is too little for the pod beside the others.
pub fn lacking(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(pods) = allocatable.get("pods").filter(|pods| count >= pods.value()) {
        lacks.push(Lack { name: "pods".into(), requested: 1, used: count, capacity: pods.value() });
    }
    let mut taken: BTreeMap<String, Quantity> = BTreeMap::new();
    for other in others {
        for (name, quantity) in resources::requests(other) {
            let entry = taken.entry(name).or_insert(Quantity::ZERO);
            *entry = entry.plus(quantity);
        }
    }
    for (name, quantity) in resources::requests(pod).into_iter().filter(|(_, quantity)| !quantity.is_zero()) {
        // Extended resources of which only the cluster knows are the scheduler's business.
        let extended = name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"));
        let have = match allocatable.get(&name) {
            Some(have) => *have,
            None if extended => continue,
            None => Quantity::ZERO,
        };
        let used = taken.get(&name).copied().unwrap_or(Quantity::ZERO);
        if used.plus(quantity).compare(have).is_gt() {
            let scale = |quantity: Quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            let (requested, used, capacity) = (scale(quantity), scale(used), scale(have));
            lacks.push(Lack { name, requested, used, capacity });
        }
    }
    lacks
}

/// Whether what the pod asks for is free beside the others; the resource that is not, and upstream's words.
pub fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Result<(), (String, String)> {
    match lacking(pod, others, allocatable).into_iter().next() {
        Some(of) => Err((of.name.clone(), lack(&of.name, of.requested, of.used, of.capacity))),
        None => Ok(()),
    }
}

fn lack(name: &str, requested: i64, used: i64, capacity: i64) -> String {
    format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}")
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let ports = pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|container| &container.ports);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let asked = ports.filter(|port| port.host_port > 0);
    asked.map(|port| (or(&port.host_ip, "0.0.0.0"), or(&port.protocol, "TCP"), port.host_port)).collect()
}

/// `nodeSelector` and required node affinity.
pub fn matches_node(pod: &Pod, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    if !pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    match affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref()) {
        Some(required) => required.node_selector_terms.iter().any(|term| term_matches(term, node)),
        None => true,
    }
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let by_label = term
        .match_expressions
        .iter()
        .all(|of| holds(&of.operator, &of.values, node.metadata.labels.get(&of.key).map(String::as_str)));
    by_label
        && term
            .match_fields
            .iter()
            .all(|of| of.key == "metadata.name" && holds(&of.operator, &of.values, Some(&node.metadata.name)))
}

/// Whether a selector picks these labels; an empty one picks all.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector
            .match_expressions
            .iter()
            .all(|of| holds(&of.operator, &of.values, labels.get(&of.key).map(String::as_str)))
}

fn holds(operator: &str, values: &[String], own: Option<&str>) -> bool {
    match operator {
        "In" => own.is_some_and(|own| values.iter().any(|value| value == own)),
        "NotIn" => own.is_none_or(|own| values.iter().all(|value| value != own)),
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        "Gt" | "Lt" => {
            let parse = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
            match (parse(own), parse(values.first().map(String::as_str))) {
                (Some(own), Some(value)) if operator == "Gt" => own > value,
                (Some(own), Some(value)) => own < value,
                _ => false,
            }
        }
        _ => false,
    }
}

/// Sysctls that concern the pod alone.
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
];

/// What is wrong with the first sysctl that may not be set; `allowed` are names, or beginnings that end in `*`.
fn forbidden_sysctl(pod: &Pod, allowed: &[String]) -> Option<String> {
    pod.spec.security_context.as_ref()?.sysctls.iter().find_map(|of| {
        // `net/ipv4/x` is `net.ipv4.x`.
        let slashed = of.name.find(['.', '/']).is_some_and(|at| of.name.as_bytes()[at] == b'/');
        let swapped = |c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        let name: String = if slashed { of.name.chars().map(swapped).collect() } else { of.name.clone() };
        let listed = |pattern: &str| match pattern.strip_suffix('*') {
            Some(head) => name.starts_with(head),
            None => name == pattern,
        };
        if !SAFE_SYSCTLS.iter().any(|safe| *safe == name) && !allowed.iter().any(|pattern| listed(pattern)) {
            return Some(format!("\"{name}\" not allowlisted"));
        }
        let space = match name.starts_with("net.") {
            true => pod.spec.host_network.then_some("Net"),
            false => pod.spec.host_ipc.then_some("IPC"),
        };
        space.map(|space| format!("\"{name}\" not allowed with host {space} enabled"))
    })
}
