//! Requests and limits as the kernel takes them: QoS classes, cgroups, OOM scores.

use std::collections::BTreeMap;

use schema::api::Quantity as Text;
use schema::api::core::v1::{Container, Pod, ResourceRequirements};
use schema::quantity::Quantity;

use crate::pod::{Desired, Kind, Member, is_critical};
use crate::ports::Resources;

pub type List = BTreeMap<String, Text>;

const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// What of the machine and the configuration a cgroup's size depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    pub memory_bytes: u64,
    /// Which containers of Burstable pods share by what they ask for; 0: none may swap.
    pub swap_bytes: u64,
    /// Over which time CPU limits are enforced; 0: they are not.
    pub cpu_period_us: u64,
    /// 0: none but the kernel's.
    pub pod_pids: u64,
    /// Whether a container that is out of memory dies as a whole.
    pub oom_group: bool,
    /// `hugepages-2Mi`: those of the machine, which are had for the asking alone.
    pub hugepages: Vec<String>,
}

pub fn amount(list: &List, name: &str) -> Option<Quantity> {
    Quantity::parse(&list.get(name)?.0).ok()
}

fn value(list: &List, name: &str) -> u64 {
    amount(list, name).map_or(0, |amount| u64::try_from(amount.value()).unwrap_or(0))
}

fn milli(list: &List, name: &str) -> u64 {
    amount(list, name).map_or(0, |amount| u64::try_from(amount.milli_value()).unwrap_or(0))
}

/// The API's answer if it gave one, else upstream's rule.
pub fn qos(pod: &Pod) -> String {
    if !pod.status.qos_class.is_empty() {
        return pod.status.qos_class.clone();
    }
    let of = |resources: &ResourceRequirements| {
        let positive = |list: &List, name| amount(list, name).is_some_and(|amount| amount.nanos > 0);
        let any = ["cpu", "memory"]
            .iter()
            .any(|name| positive(&resources.requests, name) || positive(&resources.limits, name));
        let all = ["cpu", "memory"].iter().all(|name| {
            positive(&resources.limits, name)
                && amount(&resources.requests, name)
                    .is_none_or(|request| amount(&resources.limits, name) == Some(request))
        });
        (any, all)
    };
    let each: Vec<(bool, bool)> = match &pod.spec.resources {
        Some(resources) if of(resources).0 => vec![of(resources)],
        _ => pod
            .spec
            .containers
            .iter()
            .chain(&pod.spec.init_containers)
            .map(|container| of(&container.resources))
            .collect(),
    };
    let class = match (each.iter().any(|(any, _)| *any), each.iter().all(|(_, all)| *all)) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    };
    class.to_owned()
}

/// Below the root: `kubepods/burstable/pod<uid>`.
pub fn cgroup(pod: &Pod) -> String {
    let uid = &pod.metadata.uid;
    match &*qos(pod) {
        "Guaranteed" => format!("kubepods/pod{uid}"),
        class => format!("kubepods/{}/pod{uid}", class.to_ascii_lowercase()),
    }
}

/// Adds `more` to `sum`, or with `max` takes the greater of each.
fn merge(sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>, max: bool) {
    for (name, quantity) in more {
        let entry = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = if !max {
            entry.plus(*quantity)
        } else if entry.compare(*quantity).is_lt() {
            *quantity
        } else {
            *entry
        };
    }
}

fn parsed(list: &List) -> BTreeMap<String, Quantity> {
    list.iter().filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
}

/// What a pod asks for (`of` picks requests or limits): apps and sidecars together, or the greatest init container with
/// the sidecars before it; then overhead. Pod-level resources stand above.
pub fn of_pod(pod: &Pod, of: fn(&ResourceRequirements) -> &List) -> BTreeMap<String, Quantity> {
    let mut sum = BTreeMap::new();
    for container in &pod.spec.containers {
        merge(&mut sum, &parsed(of(&container.resources)), false);
    }
    let (mut sidecars, mut init) = (BTreeMap::new(), BTreeMap::new());
    for container in &pod.spec.init_containers {
        let own = parsed(of(&container.resources));
        if container.restart_policy.as_deref() == Some("Always") {
            merge(&mut sidecars, &own, false);
            merge(&mut sum, &own, false);
            merge(&mut init, &sidecars, true);
        } else {
            let mut with = sidecars.clone();
            merge(&mut with, &own, false);
            merge(&mut init, &with, true);
        }
    }
    merge(&mut sum, &init, true);
    if let Some(resources) = &pod.spec.resources {
        for (name, quantity) in parsed(of(resources)) {
            sum.insert(name, quantity);
        }
    }
    merge(&mut sum, &parsed(&pod.spec.overhead), false);
    sum
}

pub fn requests(pod: &Pod) -> BTreeMap<String, Quantity> {
    of_pod(pod, |resources| &resources.requests)
}

pub fn limits(pod: &Pod) -> BTreeMap<String, Quantity> {
    of_pod(pod, |resources| &resources.limits)
}

pub fn shares(milli: u64) -> u64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(milli: u64, period_us: u64) -> i64 {
    match milli * period_us {
        0 => 0,
        product => i64::try_from(product / 1000).unwrap_or(i64::MAX).max(MIN_QUOTA_US),
    }
}

fn hugepages<'a>(sizing: &'a Sizing, asked: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let none = sizing.hugepages.iter().map(|name| (name.as_str(), 0));
    let sizes = none.chain(asked).filter_map(|(name, bytes)| {
        // The kernel names sizes in MB and GB.
        let size = name.strip_prefix("hugepages-")?;
        Some((size.replace("Ki", "KB").replace("Mi", "MB").replace("Gi", "GB"), bytes))
    });
    sizes.collect()
}

/// The cgroup of a pod as a whole.
pub fn pod_cgroup(pod: &Pod, sizing: &Sizing) -> Resources {
    let (requests, limits) = (requests(pod), limits(pod));
    let milli = |list: &BTreeMap<String, Quantity>, name: &str| {
        list.get(name).map_or(0, |amount| u64::try_from(amount.milli_value()).unwrap_or(0))
    };
    let bytes = |quantity: &Quantity| u64::try_from(quantity.value()).unwrap_or(0);
    // A sum of limits bounds the pod only if every container has one.
    let all_limited = |name: &str| {
        let own =
            |container: &Container| amount(&container.resources.limits, name).is_some_and(|limit| limit.nanos > 0);
        pod.spec.resources.as_ref().is_some_and(|resources| resources.limits.contains_key(name))
            || pod.spec.containers.iter().chain(&pod.spec.init_containers).all(own)
    };
    let best_effort = qos(pod) == "BestEffort";
    Resources {
        cpu_shares: if best_effort { MIN_SHARES } else { shares(milli(&requests, "cpu")) },
        cpu_quota_us: if all_limited("cpu") { quota(milli(&limits, "cpu"), sizing.cpu_period_us) } else { 0 },
        cpu_period_us: sizing.cpu_period_us,
        memory_limit_bytes: if all_limited("memory") { limits.get("memory").map_or(0, bytes) } else { 0 },
        pids_limit: sizing.pod_pids,
        hugepage_limits: hugepages(sizing, limits.iter().map(|(name, quantity)| (name.as_str(), bytes(quantity)))),
        ..Resources::default()
    }
}

/// The cgroup of one container.
pub fn of_container(desired: &Desired, member: &Member, sizing: &Sizing) -> Resources {
    let own = &member.container.resources;
    let cpu = if own.requests.contains_key("cpu") { milli(&own.requests, "cpu") } else { milli(&own.limits, "cpu") };
    let pod_limits = desired.pod.spec.resources.as_ref().map(|resources| &resources.limits);
    let limited = |name: &str| if own.limits.contains_key(name) { Some(&own.limits) } else { pod_limits };
    let pages = pod_limits.into_iter().chain([&own.limits]);
    Resources {
        cpu_shares: shares(cpu),
        cpu_quota_us: quota(limited("cpu").map_or(0, |list| milli(list, "cpu")), sizing.cpu_period_us),
        cpu_period_us: sizing.cpu_period_us,
        memory_limit_bytes: limited("memory").map_or(0, |list| value(list, "memory")),
        swap_bytes: Some(swap(desired, member, sizing)),
        oom_score_adj: Some(oom_score_adj(desired, member, sizing.memory_bytes)),
        oom_group: sizing.oom_group,
        hugepage_limits: hugepages(
            sizing,
            pages.flat_map(|list| list.keys().map(|name| (name.as_str(), value(list, name)))),
        ),
        ..Resources::default()
    }
}

/// `LimitedSwap`: as much of the machine's swap as the container asks for of its memory.
fn swap(desired: &Desired, member: &Member, sizing: &Sizing) -> u64 {
    let own = &member.container.resources;
    let [asked, limit] = [&own.requests, &own.limits].map(|list| value(list, "memory"));
    let swaps = qos(&desired.pod) == "Burstable" && !is_critical(&desired.pod) && asked > 0 && asked != limit;
    if !swaps || sizing.memory_bytes == 0 {
        return 0;
    }
    (asked as f64 / sizing.memory_bytes as f64 * sizing.swap_bytes as f64) as u64
}

/// A QoS class' own cgroup: `cpu_shares` follow the requests of its pods.
pub fn class_cgroup(pods: &[&Pod], class: &str) -> Resources {
    let cpu = |pod: &Pod| requests(pod).get("cpu").map_or(0, |cpu| u64::try_from(cpu.milli_value()).unwrap_or(0));
    let milli: u64 = pods.iter().filter(|pod| qos(pod) == class).map(|pod| cpu(pod)).sum();
    Resources { cpu_shares: if class == "BestEffort" { MIN_SHARES } else { shares(milli) }, ..Resources::default() }
}

/// Upstream's formula (`qos.GetContainerOOMScoreAdjust`): the larger the request, the safer.
pub fn oom_score_adj(desired: &Desired, member: &Member, memory_capacity: u64) -> i32 {
    let pod = &desired.pod;
    if pod.spec.priority.is_some_and(|priority| priority >= SYSTEM_NODE_CRITICAL) {
        return -997;
    }
    match &*qos(pod) {
        "Guaranteed" => return -997,
        "BestEffort" => return 1000,
        _ => {}
    }
    // What the pod asks for beyond its containers is theirs in equal parts.
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sharing = || pod.spec.containers.iter().chain(pod.spec.init_containers.iter().filter(sidecar));
    let whole = pod.spec.resources.as_ref().map_or(0, |resources| value(&resources.requests, "memory"));
    let asked: u64 = sharing().map(|container| value(&container.resources.requests, "memory")).sum();
    let share = whole.saturating_sub(asked) / sharing().count().max(1) as u64;
    let of = |container: &Container| {
        let asked = value(&container.resources.requests, "memory") + share;
        let score = 1000 - (u128::from(asked) * 1000 / u128::from(memory_capacity.max(1))).min(1000) as i32;
        match score {
            ..3 => 3,
            1000 => 999,
            score => score,
        }
    };
    let own = of(&member.container);
    if member.kind == Kind::Sidecar {
        // A sidecar is not killed before the apps that it serves.
        return pod.spec.containers.iter().map(of).fold(own, i32::min);
    }
    own
}
