//! Scores from 0 to 100, weighted as upstream's default profile: TaintToleration 3, NodeAffinity 2, PodTopologySpread 2,
//! InterPodAffinity 2, NodeResourcesFit (least allocated) 1, NodeResourcesBalancedAllocation 1, ImageLocality 1.

use std::collections::BTreeMap;

use schema::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};

use super::filters::{Wanted, affinity_terms, matches_term, spread_counts, term_matches, tolerated};
use super::snapshot::LEAST;
use super::{NodeInfo, Resources};
use crate::support::controller_of;

const MAX: i64 = 100;
/// One total per feasible node of `nodes`, in their order; `all` are those that do not fit, too.
pub fn totals(wanted: &Wanted<'_>, nodes: &[&NodeInfo], all: &[NodeInfo]) -> Vec<i64> {
    let pod = wanted.pod;
    let filled = Resources::of_pod_at_least(pod, &LEAST);
    let mut totals = vec![0; nodes.len()];
    let mut add = |scores: Vec<i64>, weight: i64| {
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * weight)
    };
    let each = |of: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|node| of(node)).collect::<Vec<_>>();
    add(normalized(each(&|node| intolerable(pod, node)), true), 3);
    add(normalized(each(&|node| preferred(pod, node)), false), 2);
    add(spread(pod, nodes, all), 2);
    add(near(wanted, nodes, all), 2);
    add(each(&|node| least_allocated(&filled, node)), 1);
    add(each(&|node| balanced(&wanted.resources, node)), 1);
    add(each(&|node| images(pod, node, all.len())), 1);
    totals
}

/// Scales to 0…100; `reverse`: the least is the best.
fn normalized(raw: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter()
        .map(|value| {
            let scaled = if most == 0 { 0 } else { value * MAX / most };
            if reverse { MAX - scaled } else { scaled }
        })
        .collect()
}

fn intolerable(pod: &Pod, info: &NodeInfo) -> i64 {
    let soft = info.node.spec.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !tolerated(&pod.spec.tolerations, taint)).count()).unwrap_or(i64::MAX)
}

fn preferred(pod: &Pod, info: &NodeInfo) -> i64 {
    let affinity = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.map_or(&[][..], |affinity| &affinity.preferred_during_scheduling_ignored_during_execution);
    terms.iter().filter(|term| matches_term(&term.preference, &info.node)).map(|term| i64::from(term.weight)).sum()
}

fn least_allocated(filled: &Resources, info: &NodeInfo) -> i64 {
    let score = |name: &str| {
        let (capacity, used) = (info.allocatable.get(name), info.filled.get(name) + filled.get(name));
        if capacity == 0 || used > capacity { 0 } else { (capacity - used) * MAX / capacity }
    };
    (score("cpu") + score("memory")) / 2
}

fn balanced(wanted: &Resources, info: &NodeInfo) -> i64 {
    let fraction = |name: &str| {
        let capacity = info.allocatable.get(name);
        if capacity == 0 {
            1.0
        } else {
            ((info.requested.get(name) + wanted.get(name)) as f64 / capacity as f64).min(1.0)
        }
    };
    let deviation = (fraction("cpu") - fraction("memory")).abs() / 2.0;
    ((1.0 - deviation) * MAX as f64) as i64
}

/// Images of 23 MB to 1 GB per container that are there already count, less so if few nodes have them.
fn images(pod: &Pod, info: &NodeInfo, nodes: usize) -> i64 {
    const LEAST: i64 = 23 << 20;
    let containers = i64::try_from(pod.spec.containers.len()).unwrap_or(1).max(1);
    let most = (1000 << 20) * containers;
    let here: i64 = pod
        .spec
        .containers
        .iter()
        .filter_map(|container| {
            let image = info.node.status.images.iter().find(|image| image.names.contains(&container.image))?;
            Some(image.size_bytes / i64::try_from(nodes).unwrap_or(1).max(1))
        })
        .sum();
    (here.clamp(LEAST, most) - LEAST) * MAX / (most - LEAST)
}

/// Soft constraints, or upstream's defaults for pods of a controller: few of them on a node and in a zone.
fn spread(pod: &Pod, nodes: &[&NodeInfo], all: &[NodeInfo]) -> Vec<i64> {
    let constraints = pod.spec.topology_spread_constraints.iter();
    let soft: Vec<_> = constraints.filter(|constraint| constraint.when_unsatisfiable == "ScheduleAnyway").collect();
    let mut raw = vec![0i64; nodes.len()];
    if !soft.is_empty() {
        for constraint in &soft {
            let counts = spread_counts(constraint, pod, all, soft.iter().copied());
            for (raw, info) in raw.iter_mut().zip(nodes) {
                let value = info.node.metadata.labels.get(&constraint.topology_key);
                *raw += value.and_then(|value| counts.get(value)).copied().unwrap_or(0);
            }
        }
    } else if pod.spec.topology_spread_constraints.is_empty()
        && let Some(owner) = controller_of(&pod.metadata)
    {
        let mut zones: BTreeMap<&String, i64> = BTreeMap::new();
        let here = |info: &NodeInfo| {
            let is_sibling = |other: &Pod| controller_of(&other.metadata).is_some_and(|other| other.uid == owner.uid);
            let siblings = info.pods.iter().filter(|other| is_sibling(other));
            i64::try_from(siblings.count()).unwrap_or(i64::MAX)
        };
        let zone = |info: &'_ NodeInfo| info.node.metadata.labels.get("topology.kubernetes.io/zone").cloned();
        let zone_names: Vec<Option<String>> = nodes.iter().map(|info| zone(info)).collect();
        for (info, zone) in nodes.iter().zip(&zone_names) {
            if let Some(zone) = zone {
                *zones.entry(zone).or_insert(0) += here(info);
            }
        }
        for ((raw, info), zone) in raw.iter_mut().zip(nodes).zip(&zone_names) {
            *raw = here(info) * 5 + zone.as_ref().and_then(|zone| zones.get(zone)).copied().unwrap_or(0) * 3;
        }
    }
    normalized(raw, true)
}

/// Preferred affinity and anti-affinity of this pod and of those that are there; what those require counts a little.
fn near(wanted: &Wanted<'_>, nodes: &[&NodeInfo], all: &[NodeInfo]) -> Vec<i64> {
    let mut weights: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for info in all {
        let mut count = |term: &'_ PodAffinityTerm, owner: &Pod, meant: &Pod, weight: i64| {
            if let Some((key, value)) = info.node.metadata.labels.get_key_value(&term.topology_key)
                && term_matches(wanted.world, term, owner, meant)
            {
                *weights.entry((key.as_str(), value.as_str())).or_insert(0) += weight;
            }
        };
        for other in &info.pods {
            for (owner, meant) in [(wanted.pod, &**other), (&**other, wanted.pod)] {
                let (attracted, repelled) = preferences(owner);
                for (terms, sign) in [(attracted, 1), (repelled, -1)] {
                    for term in terms {
                        count(&term.pod_affinity_term, owner, meant, sign * i64::from(term.weight));
                    }
                }
            }
            affinity_terms(other).iter().for_each(|term| count(term, other, wanted.pod, 1));
        }
    }
    let raw: Vec<i64> = nodes
        .iter()
        .map(|info| {
            weights
                .iter()
                .filter(|((key, value), _)| info.node.metadata.labels.get(*key).is_some_and(|held| held == value))
                .map(|(_, weight)| weight)
                .sum()
        })
        .collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    raw.into_iter().map(|value| if most == least { 0 } else { (value - least) * MAX / (most - least) }).collect()
}

fn preferences(pod: &Pod) -> (&[WeightedPodAffinityTerm], &[WeightedPodAffinityTerm]) {
    let affinity = pod.spec.affinity.as_ref();
    let wanted = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let unwanted = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    (
        wanted.map_or(&[], |affinity| &affinity.preferred_during_scheduling_ignored_during_execution),
        unwanted.map_or(&[], |affinity| &affinity.preferred_during_scheduling_ignored_during_execution),
    )
}
