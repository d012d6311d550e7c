//! Where on the machine a pod's resources lie: those who give resources hint at NUMA nodes, and a policy picks, as
//! upstream's topology manager does.
//!
//! Entry point: [`Manager::admit`]. Who gives resources that lie somewhere (CPUs, memory, devices) is a [`HintProvider`].

pub mod cpus;
pub mod memory;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use reconcile::io::BoxFuture;
use schema::api::core::v1::{Container, Pod};

use crate::objects::lock;
use crate::ports::Resources;
use cpus::{Cpu, CpuSet, Cpus, Static};
use memory::{Amounts, MemoryManager, Nodes};

#[cfg(test)]
mod tests;

/// A set of NUMA nodes, each the bit of its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Numa(pub u64);

impl Numa {
    pub fn of(ids: impl IntoIterator<Item = u32>) -> Self {
        Self(ids.into_iter().fold(0, |bits, id| bits | 1u64.checked_shl(id).unwrap_or(0)))
    }

    pub fn ids(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |id| self.has(*id))
    }

    pub fn has(self, id: u32) -> bool {
        id < 64 && self.0 >> id & 1 == 1
    }

    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub fn is_narrower(self, than: Self) -> bool {
        (self.count(), self.0) < (than.count(), than.0)
    }

    /// Every set of these nodes that is not empty, the small ones first.
    pub fn subsets(self) -> Vec<Self> {
        let mut all = vec![Self(0)];
        for id in self.ids() {
            let with: Vec<Self> = all.iter().map(|set| Self(set.0 | 1 << id)).collect();
            all.extend(with);
        }
        // In the order of upstream's combinations: by size, then by the lowest members.
        all.sort_by_key(|set| (set.count(), std::cmp::Reverse(set.0.reverse_bits())));
        all.split_off(1)
    }
}

/// Where a resource can be had; without `numa` it is all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub numa: Option<Numa>,
    pub preferred: bool,
}

/// By resource. One that is not named may be anywhere; one without hints cannot be had.
pub type Hints = BTreeMap<String, Vec<Hint>>;

/// Why a pod is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    pub fn unexpected(why: impl std::fmt::Display) -> Self {
        let message = format!("Allocate failed due to {why}, which is unexpected");
        Self { reason: "UnexpectedAdmissionError".into(), message }
    }
}

/// Whether a container was given what it asks for.
pub type Allocated<'a> = BoxFuture<'a, Result<(), Refusal>>;

/// Gives containers resources that lie somewhere, before their pod is let in.
pub trait HintProvider: Send + Sync {
    /// For one container, or for the pod as a whole.
    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints;

    /// Gives a container what it asks for, in `hint` where that can be; again for the same container changes nothing.
    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, hint: Hint) -> Allocated<'a>;

    /// Takes back all that a pod was given.
    fn release(&self, uid: &str);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    None,
    BestEffort,
    Restricted,
    SingleNumaNode,
}

/// How resources come together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub policy: Policy,
    /// One hint for all containers of a pod, instead of one for each.
    pub pod_scope: bool,
    /// Of equally many nodes, those that are near to each other.
    pub closest: bool,
    /// All nodes of the machine.
    pub nodes: Numa,
    /// From node to node, as the kernel tells.
    pub distances: BTreeMap<(u32, u32), u32>,
}

impl Rules {
    /// The hint that stands for all, and whether the pod may come in with it.
    pub fn merge(&self, providers: &[Hints]) -> (Hint, bool) {
        let anywhere = Hint { numa: None, preferred: true };
        let mut lists: Vec<Vec<Hint>> = Vec::new();
        for hints in providers {
            if hints.is_empty() {
                lists.push(vec![anywhere]);
            }
            lists.extend(hints.values().map(|list| match list.is_empty() {
                true => vec![Hint { preferred: false, ..anywhere }],
                false => list.clone(),
            }));
        }
        let single = self.policy == Policy::SingleNumaNode;
        if single {
            let fits = |hint: &Hint| hint.preferred && hint.numa.is_none_or(|numa| numa.count() == 1);
            lists.iter_mut().for_each(|list| list.retain(fits));
        }
        let narrowest = |list: &Vec<Hint>| list.iter().filter_map(|hint| hint.numa).map(Numa::count).min();
        let goal = lists.iter().filter_map(narrowest).max().unwrap_or(0);
        let mut best: Option<(Numa, bool)> = None;
        self.each(&lists, self.nodes, None, true, &mut |numa, preferred| {
            best = self.better(best, (numa, preferred), goal);
        });
        let (numa, preferred) = best.unwrap_or((self.nodes, false));
        let hint = Hint { numa: (!single || numa != self.nodes).then_some(numa), preferred };
        let admits = matches!(self.policy, Policy::None | Policy::BestEffort) || preferred;
        (hint, admits)
    }

    /// Calls with what each choice of one hint a list has in common.
    fn each(
        &self,
        lists: &[Vec<Hint>],
        numa: Numa,
        first: Option<Numa>,
        preferred: bool,
        call: &mut impl FnMut(Numa, bool),
    ) {
        let Some((list, rest)) = lists.split_first() else { return call(numa, preferred) };
        for hint in list {
            let first = first.or(hint.numa);
            let same = hint.numa.is_none() || hint.numa == first;
            let common = Numa(numa.0 & hint.numa.unwrap_or(numa).0);
            self.each(rest, common, first, preferred && hint.preferred && same, call);
        }
    }

    /// Upstream's order: preferred ones before others; among those that are not, as many nodes as the neediest resource
    /// needs, rather than more or fewer.
    fn better(&self, best: Option<(Numa, bool)>, other: (Numa, bool), goal: u32) -> Option<(Numa, bool)> {
        if other.0.count() == 0 {
            return best;
        }
        let Some(best) = best else { return Some(other) };
        let fitter = if self.fits_better(other.0, best.0) { other } else { best };
        Some(match (best.1, other.1) {
            (false, true) => other,
            (true, false) => best,
            (true, true) => fitter,
            (false, false) => match (best.0.count(), other.0.count()) {
                (own, _) if own > goal => fitter,
                (own, new) if own == new => fitter,
                (own, _) if own == goal => best,
                (_, new) if new > goal => best,
                (own, new) if new > own => other,
                _ => best,
            },
        })
    }

    fn fits_better(&self, other: Numa, best: Numa) -> bool {
        if self.closest && self.policy != Policy::SingleNumaNode && other.count() == best.count() {
            let sum = |numa: Numa| -> u64 {
                let pairs = numa.ids().flat_map(|a| numa.ids().map(move |b| (a, b)));
                pairs.map(|pair| u64::from(self.distances.get(&pair).copied().unwrap_or(0))).sum()
            };
            if sum(other) != sum(best) {
                return sum(other) < sum(best);
            }
        }
        other.is_narrower(best)
    }
}

/// The machine's parts, and which are near to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub cpus: Vec<Cpu>,
    /// Memory and hugepages of each NUMA node.
    pub nodes: BTreeMap<u32, Amounts>,
    pub distances: BTreeMap<(u32, u32), u32>,
}

/// What the kubelet is told about its managers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `cpuManagerPolicy: static`, with its options.
    pub cpus: Option<cpus::Options>,
    /// `reservedSystemCPUs`.
    pub reserved_cpus: CpuSet,
    /// `memoryManagerPolicy: Static`.
    pub memory: bool,
    /// `reservedMemory` by NUMA node.
    pub reserved_memory: BTreeMap<u32, Amounts>,
    pub policy: Policy,
    pub pod_scope: bool,
    pub closest: bool,
}

/// Gives pods resources that lie somewhere, together as the rules want it.
#[derive(Default)]
pub struct Managers {
    rules: Rules,
    providers: RwLock<Vec<Arc<dyn HintProvider>>>,
    cpus: Option<Arc<Cpus>>,
    memory: Option<Arc<MemoryManager>>,
    /// The CPUs that containers without own ones have, as they were last told.
    pool: Mutex<String>,
}

impl Managers {
    /// From where the checkpoints in `dir` say; an error is one with which no node may start.
    pub fn new(of: &Settings, machine: &Topology, reserved_cpu_milli: u64, dir: &Path) -> Result<Self, String> {
        let cpus = match of.cpus {
            None => None,
            Some(options) => {
                let policy = Static { cpus: machine.cpus.clone(), options, reserved: CpuSet::new() };
                let path = dir.join("cpu_manager_state");
                let made = Cpus::new(policy, reserved_cpu_milli, &of.reserved_cpus, path);
                Some(Arc::new(made.map_err(|why| format!("[cpumanager] {why}"))?))
            }
        };
        let memory = match of.memory {
            false => None,
            true => {
                let nodes = Nodes::new(&machine.nodes, &of.reserved_memory);
                let made = MemoryManager::new(nodes, dir.join("memory_manager_state"));
                Some(Arc::new(made.map_err(|why| format!("[memorymanager] {why}"))?))
            }
        };
        let (policy, pod_scope, closest) = (of.policy, of.pod_scope, of.closest);
        let nodes = Numa::of(machine.nodes.keys().copied());
        let rules = Rules { policy, pod_scope, closest, nodes, distances: machine.distances.clone() };
        let pool = Mutex::new(cpus.as_ref().map(|cpus| cpus.shared()).unwrap_or_default());
        let managers = Self { rules, cpus: cpus.clone(), memory: memory.clone(), pool, ..Self::default() };
        if let Some(cpus) = cpus {
            managers.add(cpus);
        }
        if let Some(memory) = memory {
            managers.add(memory);
        }
        Ok(managers)
    }

    /// From now on this one is asked, too.
    pub fn add(&self, provider: Arc<dyn HintProvider>) {
        self.providers.write().unwrap_or_else(|poisoned| poisoned.into_inner()).push(provider);
    }

    fn providers(&self) -> Vec<Arc<dyn HintProvider>> {
        self.providers.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Gives every container of a pod its resources, or gives nothing and says why.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let given = self.give(pod).await;
        if given.is_err() {
            self.release(&pod.metadata.uid);
        }
        given
    }

    async fn give(&self, pod: &Pod) -> Result<(), Refusal> {
        let providers = self.providers();
        let hint = |container: Option<&Container>| {
            if self.rules.policy == Policy::None {
                return Ok(Hint { numa: None, preferred: false });
            }
            let hints: Vec<Hints> = providers.iter().map(|provider| provider.hints(pod, container)).collect();
            match self.rules.merge(&hints) {
                (hint, true) => Ok(hint),
                _ => Err(Refusal {
                    reason: "TopologyAffinityError".into(),
                    message: "Resources cannot be allocated with Topology locality".into(),
                }),
            }
        };
        let whole = if self.rules.pod_scope { Some(hint(None)?) } else { None };
        for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
            let hint = match whole {
                Some(hint) => hint,
                None => hint(Some(container))?,
            };
            for provider in &providers {
                provider.allocate(pod, container, hint).await?;
            }
        }
        Ok(())
    }

    pub fn release(&self, uid: &str) {
        self.providers().iter().for_each(|provider| provider.release(uid));
    }

    /// Takes back what pods have that are no more.
    pub fn keep_only(&self, lives: impl Fn(&str) -> bool) {
        let of_cpus = self.cpus.iter().flat_map(|cpus| cpus.pods());
        let of_memory = self.memory.iter().flat_map(|memory| memory.pods());
        of_cpus.chain(of_memory).filter(|uid| !lives(uid)).for_each(|uid| self.release(&uid));
    }

    /// Adds where a container's CPUs and memory are.
    pub fn place(&self, uid: &str, container: &str, to: &mut Resources) {
        if let Some(cpus) = &self.cpus {
            to.cpuset_cpus = cpus.of(uid, container);
        }
        if let Some(memory) = &self.memory {
            to.cpuset_mems = memory.of(uid, container);
        }
    }

    /// Whether containers without own CPUs have others than when this was last asked.
    pub fn pool_changed(&self) -> bool {
        let Some(cpus) = &self.cpus else { return false };
        let now = cpus.shared();
        std::mem::replace(&mut *lock(&self.pool), now.clone()) != now
    }

    pub fn has_own_cpus(&self, uid: &str, container: &str) -> bool {
        self.cpus.as_ref().is_some_and(|cpus| cpus.has_own(uid, container))
    }
}
