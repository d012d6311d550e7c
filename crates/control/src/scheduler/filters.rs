//! Filters: NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit,
//! InterPodAffinity and PodTopologySpread, in upstream's order; the first plugin that objects names its reasons.

use std::collections::{BTreeMap, BTreeSet};

use schema::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration, TopologySpreadConstraint,
};

use super::{NodeInfo, Resources};
use crate::support::Matcher;

type Check = Result<(), Vec<String>>;

fn no(reason: impl Into<String>) -> Check {
    Err(vec![reason.into()])
}

/// What several nodes together decide.
pub struct Cluster {
    /// (topology key, value) → pods there that each own term matches, by the term's index.
    affine: Vec<BTreeSet<String>>,
    repelled: Vec<BTreeSet<String>>,
    /// Whether any pod anywhere matches an affinity term: the first of a group may go anywhere.
    anybody: Vec<bool>,
    /// (key, value) of which pods there repel this pod.
    repelling: BTreeSet<(String, String)>,
    /// Per constraint: matching pods by value of the topology key, eligible values only.
    spread: Vec<BTreeMap<String, i64>>,
}

impl Cluster {
    pub fn new(pod: &Pod, nodes: &[NodeInfo]) -> Self {
        let affine_terms = affinity_terms(pod);
        let repelled_terms = anti_affinity_terms(pod);
        let domains = |term: &PodAffinityTerm| -> BTreeSet<String> {
            let hosts = nodes.iter().filter(|info| info.pods.iter().any(|other| term_matches(term, pod, other)));
            hosts.filter_map(|info| info.node.metadata.labels.get(&term.topology_key).cloned()).collect()
        };
        let mut repelling = BTreeSet::new();
        for info in nodes {
            for other in &info.pods {
                for term in anti_affinity_terms(other) {
                    if let Some(value) = info.node.metadata.labels.get(&term.topology_key)
                        && term_matches(term, other, pod)
                    {
                        repelling.insert((term.topology_key.clone(), value.clone()));
                    }
                }
            }
        }
        Self {
            anybody: affine_terms
                .iter()
                .map(|term| nodes.iter().any(|info| info.pods.iter().any(|other| term_matches(term, pod, other))))
                .collect(),
            affine: affine_terms.iter().map(&domains).collect(),
            repelled: repelled_terms.iter().map(&domains).collect(),
            repelling,
            spread: hard_spread(pod).map(|constraint| spread_counts(constraint, pod, nodes)).collect(),
        }
    }
}

pub fn check(pod: &Pod, wanted: &Resources, info: &NodeInfo, cluster: &Cluster) -> Check {
    let node = &info.node;
    unschedulable(pod, node)?;
    if !pod.spec.node_name.is_empty() && pod.spec.node_name != node.metadata.name {
        return no("node(s) didn't match the requested node name");
    }
    taints(pod, node)?;
    if !matches_node_affinity(pod, node) {
        return no("node(s) didn't match Pod's node affinity/selector");
    }
    ports(pod, info)?;
    fits(wanted, info)?;
    spread(pod, node, cluster)?;
    inter_pod(pod, node, cluster)
}

fn unschedulable(pod: &Pod, node: &Node) -> Check {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.spec.unschedulable && !tolerated(&pod.spec.tolerations, &taint) {
        return no("node(s) were unschedulable");
    }
    Ok(())
}

pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        (toleration.effect.is_empty() || toleration.effect == taint.effect)
            && (toleration.key.is_empty() && toleration.operator == "Exists" || toleration.key == taint.key)
            && match &*toleration.operator {
                "Exists" => true,
                "Lt" | "Gt" => compare(&taint.value, &toleration.value, toleration.operator == "Gt"),
                _ => toleration.value == taint.value,
            }
    })
}

fn compare(taint: &str, toleration: &str, greater: bool) -> bool {
    match (taint.parse::<i64>(), toleration.parse::<i64>()) {
        (Ok(taint), Ok(toleration)) => {
            if greater {
                taint > toleration
            } else {
                taint < toleration
            }
        }
        _ => false,
    }
}

fn taints(pod: &Pod, node: &Node) -> Check {
    let hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    match node.spec.taints.iter().filter(hard).find(|taint| !tolerated(&pod.spec.tolerations, taint)) {
        Some(_) => no("node(s) had untolerated taint(s)"),
        None => Ok(()),
    }
}

/// `spec.nodeSelector` and the required node affinity.
pub fn matches_node_affinity(pod: &Pod, node: &Node) -> bool {
    let by_labels = pod.spec.node_selector.iter().all(|(key, value)| node.metadata.labels.get(key) == Some(value));
    let required = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// A term without requirements matches nothing.
pub fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    term.match_expressions
        .iter()
        .all(|requirement| matches_requirement(requirement, node.metadata.labels.get(&requirement.key)))
        && term.match_fields.iter().all(|requirement| {
            requirement.key == "metadata.name" && matches_requirement(requirement, Some(&node.metadata.name))
        })
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    match &*requirement.operator {
        "In" => value.is_some_and(|value| requirement.values.contains(value)),
        "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value
            .and_then(number)
            .zip(requirement.values.first().and_then(number))
            .is_some_and(|(value, bound)| value > bound),
        "Lt" => value
            .and_then(number)
            .zip(requirement.values.first().and_then(number))
            .is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Ports on the host: (protocol, port, address).
fn host_ports(pod: &Pod) -> impl Iterator<Item = (&str, i32, &str)> {
    let sidecars =
        pod.spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = pod.spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| &container.ports).filter(|port| port.host_port > 0).map(|port| {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        (protocol, port.host_port, if port.host_ip.is_empty() { "0.0.0.0" } else { &port.host_ip })
    })
}

fn ports(pod: &Pod, info: &NodeInfo) -> Check {
    let any = |ip: &str| matches!(ip, "0.0.0.0" | "::");
    let taken = info.pods.iter().flat_map(|other| host_ports(other)).any(|(protocol, port, ip)| {
        host_ports(pod)
            .any(|(wanted, number, own)| wanted == protocol && number == port && (ip == own || any(ip) || any(own)))
    });
    if taken { no("node(s) didn't have free ports for the requested pod ports") } else { Ok(()) }
}

fn fits(wanted: &Resources, info: &NodeInfo) -> Check {
    let mut lacking = Vec::new();
    for (name, amount) in &wanted.0 {
        if *amount > 0 && *amount > info.allocatable.get(name) - info.requested.get(name) {
            lacking.push(if name == "pods" { "Too many pods".to_owned() } else { format!("Insufficient {name}") });
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(lacking) }
}

pub fn affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity.map_or(&[], |affinity| &affinity.required_during_scheduling_ignored_during_execution)
}

pub fn anti_affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity.map_or(&[], |affinity| &affinity.required_during_scheduling_ignored_during_execution)
}

/// Whether a term of `owner` means `other`. Namespaces by label are taken as all of them when the selector is empty.
pub fn term_matches(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let all = term
        .namespace_selector
        .as_ref()
        .is_some_and(|selector| selector.match_labels.is_empty() && selector.match_expressions.is_empty());
    let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
    let namespace = all
        || (own && owner.metadata.namespace == other.metadata.namespace)
        || term.namespaces.contains(&other.metadata.namespace);
    let keys = |keys: &[String], equal: bool| {
        keys.iter()
            .filter_map(|key| owner.metadata.labels.get(key).map(|value| (key, value)))
            .all(|(key, value)| (other.metadata.labels.get(key) == Some(value)) == equal)
    };
    namespace
        && other.metadata.deletion_timestamp.is_none()
        && Matcher::new(term.label_selector.as_ref()).matches(&other.metadata.labels)
        && keys(&term.match_label_keys, true)
        && keys(&term.mismatch_label_keys, false)
}

fn inter_pod(pod: &Pod, node: &Node, cluster: &Cluster) -> Check {
    let labels = &node.metadata.labels;
    for (index, term) in affinity_terms(pod).iter().enumerate() {
        let near = labels.get(&term.topology_key).is_some_and(|value| cluster.affine[index].contains(value));
        let first = !cluster.anybody[index] && term_matches(term, pod, pod) && labels.contains_key(&term.topology_key);
        if !near && !first {
            return no("node(s) didn't match pod affinity rules");
        }
    }
    for (index, term) in anti_affinity_terms(pod).iter().enumerate() {
        if labels.get(&term.topology_key).is_some_and(|value| cluster.repelled[index].contains(value)) {
            return no("node(s) didn't match pod anti-affinity rules");
        }
    }
    if cluster.repelling.iter().any(|(key, value)| labels.get(key) == Some(value)) {
        return no("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}

fn hard_spread(pod: &Pod) -> impl Iterator<Item = &TopologySpreadConstraint> {
    pod.spec.topology_spread_constraints.iter().filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
}

/// Whether the pods that a constraint counts include `other`.
pub fn spread_matches(constraint: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    other.metadata.namespace == pod.metadata.namespace
        && other.metadata.deletion_timestamp.is_none()
        && Matcher::new(constraint.label_selector.as_ref()).matches(&other.metadata.labels)
        && constraint
            .match_label_keys
            .iter()
            .all(|key| pod.metadata.labels.get(key).is_none_or(|value| other.metadata.labels.get(key) == Some(value)))
}

pub fn spread_counts(constraint: &TopologySpreadConstraint, pod: &Pod, nodes: &[NodeInfo]) -> BTreeMap<String, i64> {
    let honour = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |policy| policy == "Honor");
    let mut counts = BTreeMap::new();
    for info in nodes {
        let Some(value) = info.node.metadata.labels.get(&constraint.topology_key) else { continue };
        let eligible = (!honour(&constraint.node_affinity_policy, true) || matches_node_affinity(pod, &info.node))
            && (!honour(&constraint.node_taints_policy, false) || taints(pod, &info.node).is_ok());
        if eligible {
            let here = info.pods.iter().filter(|other| spread_matches(constraint, pod, other)).count();
            *counts.entry(value.clone()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
        }
    }
    counts
}

fn spread(pod: &Pod, node: &Node, cluster: &Cluster) -> Check {
    for (index, constraint) in hard_spread(pod).enumerate() {
        let Some(value) = node.metadata.labels.get(&constraint.topology_key) else {
            return no("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let counts = &cluster.spread[index];
        let few_domains =
            constraint.min_domains.is_some_and(|least| counts.len() < usize::try_from(least).unwrap_or(0));
        let least = if few_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let own = i64::from(spread_matches(constraint, pod, pod));
        if counts.get(value).copied().unwrap_or(0) + own - least > i64::from(constraint.max_skew) {
            return no("node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}
