//! DefaultPreemption: which less important pods must go so that a pod finds room.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use schema::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};

use super::filters::{Check, Cluster, Refusal, Wanted, check, never};
use super::snapshot::{NodeInfo, priority};
use super::unfit;
use crate::support::Matcher;

/// Of so many nodes, or of a tenth of them, the best is taken.
const CANDIDATES: usize = 100;
pub const REASON: &str = "PreemptionByScheduler";

#[derive(Clone, Debug, PartialEq)]
pub enum Preemption {
    /// Once these are gone it fits there.
    Candidate { node: String, victims: Vec<Arc<Pod>> },
    /// It has to wait, or may not ask.
    NotEligible(&'static str),
    /// No pod's end would help; upstream's words.
    NotHelpful(String),
}

struct Candidate {
    node: String,
    /// The most important first.
    victims: Vec<Arc<Pod>>,
    violations: usize,
}

/// `nodes`: with those pods that were promised room; `verdicts`: what filters said of each; `offset`: where to begin.
pub fn preempt(wanted: &Wanted<'_>, nodes: &[NodeInfo], verdicts: &[Check], offset: u64) -> Preemption {
    let pod = wanted.pod;
    if pod.spec.preemption_policy.as_deref() == Some("Never") {
        return Preemption::NotEligible("not eligible due to preemptionPolicy=Never.");
    }
    let resolvable = |verdict: &Check| matches!(verdict, Err(Refusal { by_pods: true, .. }));
    let nominated =
        nodes.iter().zip(verdicts).find(|(info, _)| info.node.metadata.name == pod.status.nominated_node_name);
    let leaving = |other: &Arc<Pod>| priority(other) < priority(pod) && is_preempted(other);
    if nominated.is_some_and(|(info, verdict)| resolvable(verdict) && info.pods.iter().any(leaving)) {
        return Preemption::NotEligible("not eligible due to a terminating pod on the nominated node.");
    }
    let possible: Vec<usize> = (0..nodes.len()).filter(|at| resolvable(&verdicts[*at])).collect();
    let enough = (possible.len() / 10).max(CANDIDATES);
    let budgets: Vec<_> = wanted.world.of::<PodDisruptionBudget>().values().collect();
    let mut nodes = nodes.to_vec();
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut refusals: BTreeMap<usize, Check> = BTreeMap::new();
    for step in 0..possible.len() {
        let at = possible[(offset as usize).wrapping_add(step) % possible.len()];
        let whole = nodes[at].clone();
        match victims(wanted, &mut nodes, at, &budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(refusal) => drop(refusals.insert(at, Err(refusal))),
        }
        nodes[at] = whole;
        if candidates.len() >= enough && candidates.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(Candidate { node, victims, .. }) => Preemption::Candidate { node, victims },
        None => {
            let absent = never("Preemption is not helpful for scheduling");
            Preemption::NotHelpful(unfit((0..nodes.len()).map(|at| refusals.get(&at).unwrap_or(&absent))))
        }
    }
}

/// Whether the scheduler sent a pod away that has not gone yet.
fn is_preempted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && pod.status.conditions.iter().any(|condition| {
            condition.r#type == "DisruptionTarget" && condition.status == "True" && condition.reason == REASON
        })
}

/// The older of two that are alike is the more important one; what has not started is the youngest.
fn importance(pod: &Arc<Pod>) -> (Reverse<i32>, i64) {
    (Reverse(priority(pod)), started(pod))
}

fn started(pod: &Pod) -> i64 {
    pod.status.start_time.map_or(i64::MAX, |at| at.seconds)
}

/// The fewest pods of a node that must go; leaves the node without them.
fn victims(
    wanted: &Wanted<'_>,
    nodes: &mut [NodeInfo],
    at: usize,
    budgets: &[&Arc<PodDisruptionBudget>],
) -> Result<Candidate, Refusal> {
    let fits = |nodes: &[NodeInfo]| check(wanted, &nodes[at], &Cluster::new(wanted, nodes));
    let (mut potential, stay): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) =
        nodes[at].pods.iter().cloned().partition(|other| priority(other) < priority(wanted.pod));
    if potential.is_empty() {
        never("No preemption victims found for incoming pod")?;
    }
    nodes[at] = nodes[at].with(stay);
    fits(nodes)?;
    potential.sort_by_key(importance);
    let (protected, free) = by_budgets(potential, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    // Protected ones are the first to be let off.
    for (pod, protected) in protected.into_iter().map(|pod| (pod, 1)).chain(free.into_iter().map(|pod| (pod, 0))) {
        let without = nodes[at].clone();
        nodes[at] = without.with(without.pods.iter().cloned().chain([pod.clone()]));
        if fits(nodes).is_err() {
            nodes[at] = without;
            victims.push(pod);
            violations += protected;
        }
    }
    victims.sort_by_key(importance);
    Ok(Candidate { node: nodes[at].node.metadata.name.clone(), victims, violations })
}

/// (pods whose end their budgets forbid, all others), as if the first were gone when the second is looked at.
fn by_budgets(pods: Vec<Arc<Pod>>, budgets: &[&Arc<PodDisruptionBudget>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.status.disruptions_allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violated = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let selector = budget.spec.selector.as_ref();
            let empty = selector.is_none_or(|all| all.match_labels.is_empty() && all.match_expressions.is_empty());
            let counts = budget.metadata.namespace == pod.metadata.namespace
                && !empty
                && !pod.metadata.labels.is_empty()
                && Matcher::new(selector).matches(&pod.metadata.labels)
                && !budget.status.disrupted_pods.contains_key(&pod.metadata.name);
            if counts {
                *left -= 1;
                violated |= *left < 0;
            }
        }
        violated
    })
}

/// Upstream's order: few violations, a low highest priority, a low sum of them, few pods, the youngest of the highest.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<i64>) {
    let highest = candidate.victims.first().map_or(i32::MIN, |pod| priority(pod));
    let sum = candidate.victims.iter().map(|pod| i64::from(priority(pod)) + (1 << 31)).sum();
    let most = candidate.victims.iter().filter(|pod| priority(pod) == highest);
    let earliest = most.map(|pod| started(pod)).min().unwrap_or(i64::MAX);
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}
