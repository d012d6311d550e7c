//! Which CPUs a container has to itself: upstream's static CPU manager policy over a machine's topology.
//!
//! [`Static::take`] picks; [`Cpus`] remembers who has what, and keeps it in upstream's checkpoint (`cpu_manager_state`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use schema::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::{Allocated, Hint, HintProvider, Hints, Numa, Refusal, state};
use crate::objects::lock;
use crate::resources;

pub type CpuSet = BTreeSet<u32>;

/// One logical CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    pub id: u32,
    /// The lowest of the CPUs that share it.
    pub core: u32,
    pub socket: u32,
    pub numa: u32,
    /// The last level of cache that CPUs share.
    pub uncore: u32,
}

/// `0-3,8`, as the kernel writes sets of CPUs or nodes.
pub fn format(set: &CpuSet) -> String {
    let mut out = String::new();
    let mut ids = set.iter().copied().peekable();
    while let Some(first) = ids.next() {
        let mut last = first;
        while let Some(next) = ids.next_if_eq(&(last + 1)) {
            last = next;
        }
        let comma = if out.is_empty() { "" } else { "," };
        out += &if first == last { format!("{comma}{first}") } else { format!("{comma}{first}-{last}") };
    }
    out
}

pub fn parse(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 1 << 16 {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub full_pcpus_only: bool,
    pub distribute_across_numa: bool,
    pub distribute_across_cores: bool,
    pub align_by_socket: bool,
    pub strict_reservation: bool,
    pub prefer_uncore: bool,
}

/// The policy over a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Static {
    pub cpus: Vec<Cpu>,
    pub options: Options,
    pub reserved: CpuSet,
}

type Level = fn(&Cpu) -> u32;
const CORE: Level = |cpu| cpu.core;
const UNCORE: Level = |cpu| cpu.uncore;
const NUMA: Level = |cpu| cpu.numa;
const SOCKET: Level = |cpu| cpu.socket;

impl Static {
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    fn of(&self, level: Level, id: u32) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(move |cpu| level(cpu) == id)
    }

    fn count(&self, level: Level) -> usize {
        self.cpus.iter().map(level).collect::<BTreeSet<u32>>().len()
    }

    pub fn per_core(&self) -> usize {
        self.cpus.len() / self.count(CORE).max(1)
    }

    /// CPUs of a set that lie in some nodes, or in their whole sockets.
    fn aligned(&self, numa: Numa, set: &CpuSet) -> CpuSet {
        let inside = |cpu: &&Cpu| numa.has(cpu.numa);
        let sockets: BTreeSet<u32> = self.cpus.iter().filter(inside).map(|cpu| cpu.socket).collect();
        let counts = |cpu: &&Cpu| match self.options.align_by_socket {
            true => sockets.contains(&cpu.socket),
            false => numa.has(cpu.numa),
        };
        self.cpus.iter().filter(counts).map(|cpu| cpu.id).filter(|id| set.contains(id)).collect()
    }

    /// Picks `needed` of the free CPUs, those that are near to each other first.
    pub fn take(&self, free: &CpuSet, needed: usize) -> Result<CpuSet, String> {
        if needed > free.len() {
            let have = free.len();
            return Err(format!("not enough cpus available to satisfy request: requested={needed}, available={have}"));
        }
        let options = &self.options;
        let group = if options.full_pcpus_only { self.per_core() } else { 1 };
        if options.distribute_across_numa
            && needed.is_multiple_of(group)
            && let Some(taken) = self.distributed(free, needed, group)
        {
            return Ok(taken);
        }
        Ok(self.packed(free, needed, options.prefer_uncore && !options.distribute_across_numa))
    }

    fn packed(&self, free: &CpuSet, needed: usize, by_uncore: bool) -> CpuSet {
        let mut taking = Taking { of: self, free: free.clone(), needed, taken: CpuSet::new() };
        let (sockets, nodes) = (self.count(SOCKET), self.count(NUMA));
        let order: [Level; 2] = if sockets >= nodes { [NUMA, SOCKET] } else { [SOCKET, NUMA] };
        for level in order {
            taking.take_whole(level);
        }
        if by_uncore {
            taking.take_uncore();
        }
        if !self.options.distribute_across_cores {
            taking.take_whole(CORE);
        }
        for cpu in taking.cpus() {
            taking.take([cpu].into());
        }
        taking.taken
    }

    /// As evenly as can be over the fewest nodes that have enough.
    fn distributed(&self, free: &CpuSet, needed: usize, group: usize) -> Option<CpuSet> {
        if needed == 0 {
            return Some(CpuSet::new());
        }
        let taking = Taking { of: self, free: free.clone(), needed, taken: CpuSet::new() };
        let nodes = taking.sorted(NUMA);
        let has: BTreeMap<u32, usize> = nodes.iter().map(|node| (*node, taking.free_in(NUMA, *node).len())).collect();
        let groups_per_node = self.cpus.len().div_ceil(group).div_ceil(self.count(NUMA).max(1));
        let groups = needed.div_ceil(group);
        for size in groups.div_ceil(groups_per_node.max(1))..=groups.min(nodes.len()) {
            let best = combinations(&nodes, size).into_iter().fold(None, |best: Option<Spread>, nodes| {
                let Some(new) = self.spread(&has, nodes, needed, group) else { return best };
                match best {
                    Some(best) if !new.is_better(&best, self.options.align_by_socket) => Some(best),
                    _ => Some(new),
                }
            });
            let Some(best) = best else { continue };
            let mut left = free.clone();
            let mut taken = CpuSet::new();
            let mut take = |node: u32, count: usize| {
                let inside = left.iter().copied().filter(|id| self.of(NUMA, node).any(|cpu| cpu.id == *id)).collect();
                let some = self.packed(&inside, count, false);
                left.retain(|id| !some.contains(id));
                taken.extend(some);
            };
            for (node, count) in &best.shares {
                take(*node, *count);
            }
            return Some(taken);
        }
        None
    }

    /// How much each of these nodes gives, if they give enough.
    fn spread(&self, has: &BTreeMap<u32, usize>, nodes: Vec<u32>, needed: usize, group: usize) -> Option<Spread> {
        let of = |node: &u32| has.get(node).copied().unwrap_or(0);
        if nodes.iter().map(|node| of(node) / group * group).sum::<usize>() < needed {
            return None;
        }
        let mut each = needed / nodes.len() / group * group;
        if self.options.align_by_socket {
            each = nodes.iter().map(|node| of(node) / group * group).fold(each, usize::min);
        }
        if nodes.iter().any(|node| of(node) < each) {
            return None;
        }
        let mut after = has.clone();
        for node in &nodes {
            after.entry(*node).and_modify(|left| *left -= each);
        }
        let rest = needed - each * nodes.len();
        let able: Vec<u32> = nodes.iter().copied().filter(|node| after[node] >= group).collect();
        let mut best: Option<(u64, BTreeMap<u32, usize>)> = (rest == 0).then(|| (deviation(&after), after.clone()));
        for size in (1..=able.len()).rev().filter(|_| rest > 0) {
            for some in combinations(&able, size) {
                let mut after = after.clone();
                if some.iter().map(|node| after[node] / group * group).sum::<usize>() < rest {
                    continue;
                }
                let mut rest = rest;
                for node in some.iter().cycle() {
                    if rest == 0 {
                        break;
                    }
                    if after[node] >= group {
                        after.entry(*node).and_modify(|left| *left -= group);
                        rest = rest.saturating_sub(group);
                    }
                }
                let balance = deviation(&after);
                if best.as_ref().is_none_or(|(known, _)| balance < *known) {
                    best = Some((balance, after));
                }
            }
        }
        let (balance, after) = best?;
        let sockets: BTreeSet<u32> =
            self.cpus.iter().filter(|cpu| nodes.contains(&cpu.numa)).map(|cpu| cpu.socket).collect();
        let shares = nodes.iter().map(|node| (*node, of(node) - after[node])).collect();
        Some(Spread { balance, in_one_socket: sockets.len() <= 1, shares })
    }

    /// Hints at the sets of nodes which have as many free CPUs.
    pub fn hints(&self, free: &CpuSet, reusable: &CpuSet, needed: usize) -> Vec<Hint> {
        let nodes = Numa::of(self.cpus.iter().map(|cpu| cpu.numa));
        let node_of: BTreeMap<u32, u32> = self.cpus.iter().map(|cpu| (cpu.id, cpu.numa)).collect();
        let mut smallest = nodes.count();
        let mut found = Vec::new();
        for numa in nodes.subsets() {
            let inside = |id: &&u32| node_of.get(id).is_some_and(|node| numa.has(*node));
            if self.cpus.iter().filter(|cpu| numa.has(cpu.numa)).count() >= needed {
                smallest = smallest.min(numa.count());
            }
            if reusable.iter().all(|id| inside(&id)) && reusable.len() + free.iter().filter(inside).count() >= needed {
                found.push(numa);
            }
        }
        let (sockets, all) = (self.count(SOCKET).max(1), self.count(NUMA));
        let preferred = |numa: Numa| {
            let per_socket = u32::try_from(all / sockets).unwrap_or(0);
            let touched: BTreeSet<u32> =
                self.cpus.iter().filter(|cpu| numa.has(cpu.numa)).map(|cpu| cpu.socket).collect();
            let by_socket = self.options.align_by_socket
                && per_socket > 0
                && touched.len() == smallest.div_ceil(per_socket) as usize;
            by_socket || numa.count() == smallest
        };
        found.into_iter().map(|numa| Hint { numa: Some(numa), preferred: preferred(numa) }).collect()
    }
}

struct Spread {
    balance: u64,
    in_one_socket: bool,
    shares: Vec<(u32, usize)>,
}

impl Spread {
    fn is_better(&self, than: &Self, by_socket: bool) -> bool {
        match by_socket && self.in_one_socket != than.in_one_socket {
            true => self.in_one_socket,
            false => self.balance < than.balance,
        }
    }
}

/// The standard deviation in thousandths.
fn deviation(of: &BTreeMap<u32, usize>) -> u64 {
    let count = of.len().max(1) as f64;
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let mean = round(of.values().map(|value| *value as f64).sum::<f64>() / count);
    let squares: f64 = of.values().map(|value| (*value as f64 - mean).powi(2)).sum();
    ((squares / count).sqrt() * 1000.0).round() as u64
}

fn combinations(of: &[u32], size: usize) -> Vec<Vec<u32>> {
    match (size, of.split_first()) {
        (0, _) => vec![Vec::new()],
        (_, None) => Vec::new(),
        (_, Some((first, rest))) => {
            let with = combinations(rest, size - 1).into_iter().map(|mut some| {
                some.insert(0, *first);
                some
            });
            with.chain(combinations(rest, size)).collect()
        }
    }
}

struct Taking<'a> {
    of: &'a Static,
    free: CpuSet,
    needed: usize,
    taken: CpuSet,
}

impl Taking<'_> {
    fn free_in(&self, level: Level, id: u32) -> CpuSet {
        self.of.of(level, id).map(|cpu| cpu.id).filter(|id| self.free.contains(id)).collect()
    }

    fn take(&mut self, cpus: CpuSet) {
        if self.needed >= cpus.len() {
            self.needed -= cpus.len();
            self.free.retain(|id| !cpus.contains(id));
            self.taken.extend(cpus);
        }
    }

    /// Groups of a level in the order in which they are taken: the emptiest first, within groups of the level above.
    fn sorted(&self, level: Level) -> Vec<u32> {
        let within = |ids: Vec<Option<(Level, u32)>>, level: Level| -> Vec<u32> {
            let mut out = Vec::new();
            for parent in ids {
                let inside = |cpu: &&Cpu| parent.is_none_or(|(level, id)| level(cpu) == id);
                let free = self.of.cpus.iter().filter(|cpu| self.free.contains(&cpu.id));
                let found: BTreeSet<u32> = free.filter(inside).map(level).collect();
                let mut found: Vec<u32> = found.into_iter().collect();
                found.sort_by_key(|id| (self.free_in(level, *id).len(), *id));
                out.extend(found);
            }
            out
        };
        let below = |level: Level, ids: Vec<u32>| ids.into_iter().map(|id| Some((level, id))).collect::<Vec<_>>();
        let numa_first = self.of.count(SOCKET) >= self.of.count(NUMA);
        let (outer, inner) = if numa_first { (NUMA, SOCKET) } else { (SOCKET, NUMA) };
        let outers = within(vec![None], outer);
        let inners = within(below(outer, outers.clone()), inner);
        let same = |a: Level, b: Level| std::ptr::fn_addr_eq(a, b);
        if same(level, outer) {
            outers
        } else if same(level, inner) {
            inners
        } else if same(level, UNCORE) {
            within(below(NUMA, if numa_first { outers } else { inners }), UNCORE)
        } else {
            within(below(inner, inners), CORE)
        }
    }

    /// Single CPUs: core by core, or with `distribute-cpus-across-cores` socket by socket.
    fn cpus(&self) -> Vec<u32> {
        let level = if self.of.options.distribute_across_cores { SOCKET } else { CORE };
        self.sorted(level).into_iter().flat_map(|id| self.free_in(level, id)).collect()
    }

    /// Groups of a level that nobody has any CPU of.
    fn take_whole(&mut self, level: Level) {
        for id in self.sorted(level) {
            let whole: CpuSet = self.of.of(level, id).map(|cpu| cpu.id).collect();
            if self.free_in(level, id).len() == whole.len() {
                self.take(whole);
            }
        }
    }

    fn take_uncore(&mut self) {
        let per_uncore = self.of.cpus.len() / self.of.count(UNCORE).max(1);
        for id in self.sorted(UNCORE) {
            if self.needed >= per_uncore {
                self.take_whole(UNCORE);
            }
            if self.needed == 0 {
                return;
            }
            let per_core = self.of.per_core().max(1);
            let inside = self.of.of(UNCORE, id).filter(|cpu| self.free.contains(&cpu.id));
            let cores: BTreeSet<u32> = inside.map(CORE).collect();
            let cores: Vec<u32> = cores.into_iter().take(self.needed.div_ceil(per_core)).collect();
            let mut cpus: CpuSet = cores.iter().flat_map(|core| self.free_in(CORE, *core)).collect();
            if !self.needed.is_multiple_of(2) && per_core > 1 && cpus.len() > self.needed {
                cpus.pop_last();
            }
            if cpus.len() == self.needed {
                self.take(cpus);
                return;
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    /// What is nobody's own.
    shared: CpuSet,
    /// By pod and container.
    own: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// The CPU manager: [`Static`] and what it has given.
pub struct Cpus {
    policy: Static,
    path: PathBuf,
    given: Mutex<Given>,
}

/// Whole CPUs that a container has to itself: such of a Guaranteed pod that asks for them by container.
pub fn exclusive(pod: &Pod, container: &Container) -> usize {
    let by_pod = pod.spec.resources.as_ref().is_some_and(|of| !of.requests.is_empty() || !of.limits.is_empty());
    if by_pod || resources::qos(pod) != "Guaranteed" {
        return 0;
    }
    let milli = resources::amount(&container.resources.requests, "cpu").map_or(0, |amount| amount.milli_value());
    if milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

/// What apps, or init containers with the sidecars before them, ask for together.
fn exclusive_of_pod(pod: &Pod) -> usize {
    let (mut sidecars, mut init) = (0, 0);
    for container in &pod.spec.init_containers {
        let own = exclusive(pod, container);
        if is_sidecar(container) {
            sidecars += own;
        } else {
            init = init.max(sidecars + own);
        }
    }
    init.max(sidecars + pod.spec.containers.iter().map(|container| exclusive(pod, container)).sum::<usize>())
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

impl Cpus {
    /// Goes on with what the checkpoint at `path` says; an error is one that needs a drained node.
    pub fn new(mut policy: Static, reserved_milli: u64, reserved: &CpuSet, path: PathBuf) -> Result<Self, String> {
        let all = policy.all();
        let count = usize::try_from(reserved_milli.div_ceil(1000)).unwrap_or(usize::MAX);
        if count == 0 {
            return Err(
                "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero".into()
            );
        }
        policy.reserved = if reserved.is_empty() { policy.take(&all, count)? } else { reserved.clone() };
        let strict = policy.options.strict_reservation;
        let whole: CpuSet = if strict { all.difference(&policy.reserved).copied().collect() } else { all };
        let fresh = Given { shared: whole.clone(), ..Given::default() };
        let given = match state::load(&path, "static")? {
            Some(data) => restored(&data).ok_or_else(|| format!("{} is garbled", path.display()))?,
            None => fresh.clone(),
        };
        let mut known = given.shared.clone();
        known.extend(given.own.values().flat_map(BTreeMap::values).flatten());
        if known != whole {
            return Err(format!(
                "current set of available CPUs \"{}\" doesn't match with CPUs in state \"{}\"",
                format(&whole),
                format(&known)
            ));
        }
        let cpus = Self { policy, path, given: Mutex::new(given) };
        cpus.save(&lock(&cpus.given));
        Ok(cpus)
    }

    fn save(&self, given: &Given) {
        let entries: BTreeMap<&String, BTreeMap<&String, String>> = given
            .own
            .iter()
            .map(|(uid, own)| (uid, own.iter().map(|(name, cpus)| (name, format(cpus))).collect()))
            .collect();
        let mut data = json!({"policyName": "static", "defaultCpuSet": format(&given.shared)});
        if !entries.is_empty() {
            data["entries"] = json!(entries);
        }
        state::save(&self.path, &data);
    }

    /// The CPUs of a container: its own, or those that all others share.
    pub fn of(&self, uid: &str, container: &str) -> String {
        let given = lock(&self.given);
        format(given.own.get(uid).and_then(|own| own.get(container)).unwrap_or(&given.shared))
    }

    pub fn has_own(&self, uid: &str, container: &str) -> bool {
        lock(&self.given).own.get(uid).is_some_and(|own| own.contains_key(container))
    }

    pub fn shared(&self) -> String {
        format(&lock(&self.given).shared)
    }

    /// Pods that have CPUs.
    pub fn pods(&self) -> Vec<String> {
        lock(&self.given).own.keys().cloned().collect()
    }

    fn free(&self, given: &Given) -> CpuSet {
        given.shared.difference(&self.policy.reserved).copied().collect()
    }

    /// What init containers of the pod leave to those that come after them.
    fn reusable(given: &Given, pod: &Pod) -> CpuSet {
        let Some(own) = given.own.get(&pod.metadata.uid) else { return CpuSet::new() };
        let is_init = |name: &str| pod.spec.init_containers.iter().any(|of| of.name == name && !is_sidecar(of));
        let of = |init: bool| own.iter().filter(move |(name, _)| is_init(name) == init).flat_map(|(_, cpus)| cpus);
        let kept: CpuSet = of(false).copied().collect();
        of(true).copied().filter(|id| !kept.contains(id)).collect()
    }

    fn give(&self, pod: &Pod, container: &Container, hint: Hint) -> Result<(), Refusal> {
        let needed = exclusive(pod, container);
        let (uid, name) = (&pod.metadata.uid, &container.name);
        let mut given = lock(&self.given);
        if needed == 0 || given.own.get(uid).is_some_and(|own| own.contains_key(name)) {
            return Ok(());
        }
        if self.policy.options.full_pcpus_only {
            let refuse = |message: String| Refusal { reason: "SMTAlignmentError".into(), message };
            let per_core = self.policy.per_core();
            if !needed.is_multiple_of(per_core) {
                return Err(refuse(format!(
                    "SMT Alignment Error: requested {needed} cpus not multiple cpus per core = {per_core}"
                )));
            }
            let cores: BTreeSet<u32> = self.cores(&self.policy.reserved);
            let whole = self.policy.cpus.iter().filter(|cpu| !cores.contains(&cpu.core));
            let free = whole.filter(|cpu| given.shared.contains(&cpu.id)).count();
            if needed > free {
                return Err(refuse(format!(
                    "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {needed}, CPUs per core = {per_core}"
                )));
            }
        }
        let mut free = self.free(&given);
        free.extend(Self::reusable(&given, pod));
        let mut taken = CpuSet::new();
        if let Some(numa) = hint.numa {
            let aligned = self.policy.aligned(numa, &free);
            taken = self.policy.take(&aligned, needed.min(aligned.len())).map_err(Refusal::unexpected)?;
            free.retain(|id| !taken.contains(id));
        }
        taken.extend(self.policy.take(&free, needed - taken.len()).map_err(Refusal::unexpected)?);
        given.shared.retain(|id| !taken.contains(id));
        given.own.entry(uid.clone()).or_default().insert(name.clone(), taken);
        self.save(&given);
        Ok(())
    }

    fn cores(&self, of: &CpuSet) -> BTreeSet<u32> {
        self.policy.cpus.iter().filter(|cpu| of.contains(&cpu.id)).map(|cpu| cpu.core).collect()
    }
}

fn restored(data: &Value) -> Option<Given> {
    let mut given = Given { shared: parse(data["defaultCpuSet"].as_str()?)?, ..Given::default() };
    for (uid, own) in data["entries"].as_object().into_iter().flatten() {
        for (name, cpus) in own.as_object()? {
            given.own.entry(uid.clone()).or_default().insert(name.clone(), parse(cpus.as_str()?)?);
        }
    }
    Some(given)
}

impl HintProvider for Cpus {
    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let needed = container.map_or_else(|| exclusive_of_pod(pod), |container| exclusive(pod, container));
        if needed == 0 {
            return Hints::new();
        }
        let given = lock(&self.given);
        let hints = self.policy.hints(&self.free(&given), &Self::reusable(&given, pod), needed);
        [("cpu".to_owned(), hints)].into()
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, hint: Hint) -> Allocated<'a> {
        Box::pin(async move { self.give(pod, container, hint) })
    }

    fn release(&self, uid: &str) {
        let mut given = lock(&self.given);
        if let Some(own) = given.own.remove(uid) {
            given.shared.extend(own.into_values().flatten());
            self.save(&given);
        }
    }
}
