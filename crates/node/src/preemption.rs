//! Which pods make room for a critical one: as few, as small and of as low a class as can be; upstream's rules.

use schema::api::core::v1::Pod;

use crate::admission::Lack;
use crate::pod::is_critical;
use crate::resources;

/// What is still missing of each resource.
type Needs = Vec<(String, i64)>;

fn request(pod: &Pod, name: &str) -> i64 {
    match name {
        "pods" => 1,
        "cpu" => resources::requests(pod).get(name).map_or(0, |amount| amount.milli_value()),
        _ => resources::requests(pod).get(name).map_or(0, |amount| amount.value()),
    }
}

fn less(needs: &Needs, pods: &[&Pod]) -> Needs {
    let left = |(name, amount): &(String, i64)| {
        let freed: i64 = pods.iter().map(|pod| request(pod, name)).sum();
        (name.clone(), amount - freed)
    };
    needs.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

/// How far a pod is from giving all that is needed.
fn distance(needs: &Needs, pod: &Pod) -> f64 {
    let part = |(name, amount): &(String, i64)| {
        let left = (*amount - request(pod, name)).max(0) as f64;
        (left / *amount as f64).powi(2)
    };
    needs.iter().map(part).sum()
}

fn nearest(mut pods: Vec<&Pod>, mut needs: Needs) -> Result<Vec<&Pod>, String> {
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let size = |pod: &Pod| (request(pod, "memory"), request(pod, "cpu"));
        let best = (0..pods.len()).min_by(|a, b| {
            let far = distance(&needs, pods[*a]).total_cmp(&distance(&needs, pods[*b]));
            far.then_with(|| size(pods[*a]).cmp(&size(pods[*b])))
        });
        let best = best.ok_or_else(|| none(&needs))?;
        let pod = pods.swap_remove(best);
        needs = less(&needs, &[pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

fn none(needs: &Needs) -> String {
    let list: String = needs.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!(
        "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{list}]"
    )
}

/// Those of the lower classes first: a Guaranteed pod goes only for what all others together do not give.
pub fn victims<'a>(pod: &Pod, others: &[&'a Pod], lacking: &[Lack]) -> Result<Vec<&'a Pod>, String> {
    let yields = |other: &Pod| !is_critical(other) || pod.spec.priority > other.spec.priority;
    let class = |class: &str| -> Vec<&'a Pod> {
        others.iter().copied().filter(|other| yields(other) && resources::qos(other) == class).collect()
    };
    let [best_effort, burstable, guaranteed] = ["BestEffort", "Burstable", "Guaranteed"].map(class);
    let needs: Needs = lacking.iter().map(|of| (of.name.clone(), of.requested - (of.capacity - of.used))).collect();
    let all: Vec<&Pod> = best_effort.iter().chain(&burstable).chain(&guaranteed).copied().collect();
    let missing = less(&needs, &all);
    if !missing.is_empty() {
        return Err(none(&missing));
    }
    let lower: Vec<&Pod> = best_effort.iter().chain(&burstable).copied().collect();
    let guaranteed = nearest(guaranteed, less(&needs, &lower))?;
    let rest: Vec<&Pod> = best_effort.iter().chain(&guaranteed).copied().collect();
    let burstable = nearest(burstable, less(&needs, &rest))?;
    let rest: Vec<&Pod> = burstable.iter().chain(&guaranteed).copied().collect();
    let best_effort = nearest(best_effort, less(&needs, &rest))?;
    Ok(best_effort.into_iter().chain(burstable).chain(guaranteed).collect())
}
