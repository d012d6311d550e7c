//! Filters: NodeName, NodeUnschedulable, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit, VolumeRestrictions,
//! VolumeBinding, PodTopologySpread and InterPodAffinity, in upstream's order; the first plugin that objects names its
//! reasons.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::World;
use schema::api::core::v1::{
    Namespace, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration,
    TopologySpreadConstraint,
};

use super::{NodeInfo, Resources, volumes::Claims};
use crate::support::Matcher;

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reasons: Vec<String>,
    /// It could if fewer pods were there (upstream: Unschedulable, not UnschedulableAndUnresolvable).
    pub by_pods: bool,
}

pub type Check = Result<(), Refusal>;

/// Whatever pods leave.
pub fn never(reason: impl Into<String>) -> Check {
    Err(Refusal { reasons: vec![reason.into()], by_pods: false })
}

pub fn not_now(reason: impl Into<String>) -> Check {
    Err(Refusal { reasons: vec![reason.into()], by_pods: true })
}

/// What several nodes together decide.
pub struct Cluster {
    /// Per term of the pod's affinity: the values of the topology key where pods match all of the terms.
    affine: Vec<BTreeSet<String>>,
    /// The same of each term of its anti-affinity alone.
    repelled: Vec<BTreeSet<String>>,
    /// (key, value) of which pods there repel this pod.
    repelling: BTreeSet<(String, String)>,
    /// Per constraint: matching pods by value of the topology key, eligible values only.
    spread: Vec<BTreeMap<String, i64>>,
    /// Another pod has a claim that only one pod may have.
    taken: bool,
}

impl Cluster {
    pub fn new(wanted: &Wanted<'_>, nodes: &[NodeInfo]) -> Self {
        let (world, pod) = (wanted.world, wanted.pod);
        let taken = nodes.iter().flat_map(|info| &info.pods).any(|other| wanted.claims.are_taken_by(pod, other));
        let (near, far) = (affinity_terms(pod), anti_affinity_terms(pod));
        let domains = |term: &PodAffinityTerm, matches: &dyn Fn(&Pod) -> bool| -> BTreeSet<String> {
            let hosts = nodes.iter().filter(|info| info.pods.iter().any(|other| matches(other)));
            hosts.filter_map(|info| info.node.metadata.labels.get(&term.topology_key).cloned()).collect()
        };
        let all = |other: &Pod| near.iter().all(|term| term_matches(world, term, pod, other));
        let mut repelling = BTreeSet::new();
        for info in nodes {
            for other in &info.pods {
                for term in anti_affinity_terms(other) {
                    if let Some(value) = info.node.metadata.labels.get(&term.topology_key)
                        && term_matches(world, term, other, pod)
                    {
                        repelling.insert((term.topology_key.clone(), value.clone()));
                    }
                }
            }
        }
        Self {
            affine: near.iter().map(|term| domains(term, &all)).collect(),
            repelled: far.iter().map(|term| domains(term, &|other| term_matches(world, term, pod, other))).collect(),
            repelling,
            spread: hard_spread(pod)
                .map(|constraint| spread_counts(constraint, pod, nodes, hard_spread(pod)))
                .collect(),
            taken,
        }
    }
}

/// Everything about a pod that does not depend on the node.
pub struct Wanted<'a> {
    pub world: &'a World,
    pub pod: &'a Pod,
    pub resources: Resources,
    pub claims: Claims<'a>,
}

pub fn check(wanted: &Wanted<'_>, info: &NodeInfo, cluster: &Cluster) -> Check {
    let (node, pod) = (&info.node, wanted.pod);
    if !pod.spec.node_name.is_empty() && pod.spec.node_name != node.metadata.name {
        return never("node(s) didn't match the requested node name");
    }
    unschedulable(pod, node)?;
    taints(pod, node)?;
    if !matches_node_affinity(pod, node) {
        return never("node(s) didn't match Pod's node affinity/selector");
    }
    ports(pod, info)?;
    fits(&wanted.resources, info)?;
    if cluster.taken {
        return not_now(
            "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
        );
    }
    wanted.claims.check(wanted.world, node)?;
    wanted.claims.limits(wanted.world, info)?;
    spread(pod, node, cluster)?;
    inter_pod(wanted.world, pod, node, cluster)
}

/// The nodes that a pod names by its affinity, as DaemonSets' pods do; `None`: it names none.
pub fn named_nodes(pod: &Pod) -> Option<BTreeSet<&str>> {
    let affinity = pod.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut all = BTreeSet::new();
    for term in terms {
        let fields = term.match_fields.iter().filter(|field| field.key == "metadata.name" && field.operator == "In");
        let names = fields.map(|field| field.values.iter().map(String::as_str).collect::<BTreeSet<_>>());
        all.extend(names.reduce(|all, more| all.intersection(&more).copied().collect())?);
    }
    (!terms.is_empty()).then_some(all)
}

fn unschedulable(pod: &Pod, node: &Node) -> Check {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.spec.unschedulable && !tolerated(&pod.spec.tolerations, &taint) {
        return never("node(s) were unschedulable");
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
        Some(_) => never("node(s) had untolerated taint(s)"),
        None => Ok(()),
    }
}

/// `spec.nodeSelector` and the required node affinity.
pub fn matches_node_affinity(pod: &Pod, node: &Node) -> bool {
    let by_labels = pod.spec.node_selector.iter().all(|(key, value)| node.metadata.labels.get(key) == Some(value));
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
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
    if taken { not_now("node(s) didn't have free ports for the requested pod ports") } else { Ok(()) }
}

fn fits(wanted: &Resources, info: &NodeInfo) -> Check {
    let (mut reasons, mut by_pods) = (Vec::new(), true);
    for (name, amount) in &wanted.0 {
        if *amount > 0 && *amount > info.allocatable.get(name) - info.requested.get(name) {
            by_pods &= name == "pods" || *amount <= info.allocatable.get(name);
            reasons.push(if name == "pods" { "Too many pods".to_owned() } else { format!("Insufficient {name}") });
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, by_pods }) }
}

pub fn affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity.map_or(&[], |affinity| &affinity.required_during_scheduling_ignored_during_execution)
}

pub fn anti_affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity.map_or(&[], |affinity| &affinity.required_during_scheduling_ignored_during_execution)
}

/// Whether a term of `owner` means `other`.
pub fn term_matches(world: &World, term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let namespace = &other.metadata.namespace;
    let selected = |selector| {
        let found = world.of::<Namespace>().named("", namespace);
        Matcher::new(Some(selector)).matches(found.map_or(&BTreeMap::new(), |found| &found.metadata.labels))
    };
    let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
    let in_scope = (own && owner.metadata.namespace == *namespace)
        || term.namespaces.contains(namespace)
        || term.namespace_selector.as_ref().is_some_and(selected);
    let keys = |keys: &[String], equal: bool| {
        keys.iter()
            .filter_map(|key| owner.metadata.labels.get(key).map(|value| (key, value)))
            .all(|(key, value)| (other.metadata.labels.get(key) == Some(value)) == equal)
    };
    in_scope
        && Matcher::new(term.label_selector.as_ref()).matches(&other.metadata.labels)
        && keys(&term.match_label_keys, true)
        && keys(&term.mismatch_label_keys, false)
}

fn inter_pod(world: &World, pod: &Pod, node: &Node, cluster: &Cluster) -> Check {
    let labels = &node.metadata.labels;
    let terms = affinity_terms(pod);
    let near = |(term, values): (&PodAffinityTerm, &BTreeSet<String>)| {
        labels.get(&term.topology_key).is_some_and(|value| values.contains(value))
    };
    // The first of a group may go wherever the keys are.
    let first = || {
        cluster.affine.iter().all(BTreeSet::is_empty)
            && terms.iter().all(|term| term_matches(world, term, pod, pod) && labels.contains_key(&term.topology_key))
    };
    if !terms.iter().zip(&cluster.affine).all(near) && !first() {
        return never("node(s) didn't match pod affinity rules");
    }
    if anti_affinity_terms(pod).iter().zip(&cluster.repelled).any(near) {
        return not_now("node(s) didn't match pod anti-affinity rules");
    }
    if cluster.repelling.iter().any(|(key, value)| labels.get(key) == Some(value)) {
        return not_now("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}

fn hard_spread(pod: &Pod) -> impl Iterator<Item = &TopologySpreadConstraint> + Clone {
    pod.spec.topology_spread_constraints.iter().filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
}

/// What a constraint selects; `None`: nothing is counted.
fn spread_matcher(constraint: &TopologySpreadConstraint, pod: &Pod) -> Option<Matcher> {
    let mut selector = constraint.label_selector.clone()?;
    for key in &constraint.match_label_keys {
        if let Some(value) = pod.metadata.labels.get(key) {
            selector.match_labels.insert(key.clone(), value.clone());
        }
    }
    let empty = selector.match_labels.is_empty() && selector.match_expressions.is_empty();
    (!empty).then(|| Matcher::new(Some(&selector)))
}

/// Matching pods by the values of the topology key, on nodes that have the keys of all constraints of the kind.
pub fn spread_counts<'a>(
    constraint: &TopologySpreadConstraint,
    pod: &Pod,
    nodes: &[NodeInfo],
    alike: impl Iterator<Item = &'a TopologySpreadConstraint> + Clone,
) -> BTreeMap<String, i64> {
    let honour = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |policy| policy == "Honor");
    let matcher = spread_matcher(constraint, pod);
    let mut counts = BTreeMap::new();
    for info in nodes {
        let labels = &info.node.metadata.labels;
        let Some(value) = labels.get(&constraint.topology_key) else { continue };
        let eligible = alike.clone().all(|other| labels.contains_key(&other.topology_key))
            && (!honour(&constraint.node_affinity_policy, true) || matches_node_affinity(pod, &info.node))
            && (!honour(&constraint.node_taints_policy, false) || taints(pod, &info.node).is_ok());
        if eligible {
            let counted = |other: &&std::sync::Arc<Pod>| {
                other.metadata.namespace == pod.metadata.namespace
                    && other.metadata.deletion_timestamp.is_none()
                    && matcher.as_ref().is_some_and(|matcher| matcher.matches(&other.metadata.labels))
            };
            let here = info.pods.iter().filter(counted).count();
            *counts.entry(value.clone()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
        }
    }
    counts
}

fn spread(pod: &Pod, node: &Node, cluster: &Cluster) -> Check {
    for (constraint, counts) in hard_spread(pod).zip(&cluster.spread) {
        let Some(value) = node.metadata.labels.get(&constraint.topology_key) else {
            return never("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let few_domains =
            constraint.min_domains.is_some_and(|least| counts.len() < usize::try_from(least).unwrap_or(0));
        let least = if few_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let itself = Matcher::new(constraint.label_selector.as_ref()).matches(&pod.metadata.labels);
        if counts.get(value).copied().unwrap_or(0) + i64::from(itself) - least > i64::from(constraint.max_skew) {
            return not_now("node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}
