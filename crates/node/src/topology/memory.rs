//! On which NUMA nodes a container's memory lies: upstream's static memory manager policy.
//!
//! [`Nodes`] is the bookkeeping, a value; [`MemoryManager`] keeps it in upstream's checkpoint (`memory_manager_state`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use schema::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::cpus::{CpuSet, format, is_sidecar};
use super::{Allocated, Hint, HintProvider, Hints, Numa, Refusal, state};
use crate::objects::lock;
use crate::resources;

/// Bytes by resource: `memory`, `hugepages-2Mi`.
pub type Amounts = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Table {
    total: u64,
    system_reserved: u64,
    allocatable: u64,
    reserved: u64,
    free: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    assignments: u64,
    /// The nodes that are given away together with this one, itself among them.
    cells: Numa,
    tables: BTreeMap<String, Table>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    numa: Numa,
    kind: String,
    size: u64,
}

/// The memory of all nodes, and who has what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    nodes: BTreeMap<u32, Node>,
    /// By pod and container.
    given: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// What the container of a Guaranteed pod asks for.
fn asked(pod: &Pod, container: &Container) -> Amounts {
    let by_pod = pod.spec.resources.as_ref().is_some_and(|of| !of.requests.is_empty() || !of.limits.is_empty());
    if by_pod || resources::qos(pod) != "Guaranteed" {
        return Amounts::new();
    }
    let requests = &container.resources.requests;
    let names = requests.keys().filter(|name| *name == "memory" || name.starts_with("hugepages-"));
    let amount = |name: &String| Some((name.clone(), u64::try_from(resources::amount(requests, name)?.value()).ok()?));
    names.filter_map(amount).collect()
}

fn asked_by_pod(pod: &Pod) -> Amounts {
    let (mut sidecars, mut init, mut sum) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in &pod.spec.init_containers {
        for (name, bytes) in asked(pod, container) {
            let before = sidecars.entry(name.clone()).or_insert(0);
            if is_sidecar(container) {
                *before += bytes;
            } else {
                let most = init.entry(name).or_insert(0);
                *most = (*most).max(*before + bytes);
            }
        }
    }
    for container in &pod.spec.containers {
        for (name, bytes) in asked(pod, container) {
            *sum.entry(name).or_insert(0) += bytes;
        }
    }
    let most = |(name, bytes): (String, u64)| {
        let long = bytes + sidecars.get(&name).copied().unwrap_or(0);
        let bytes = long.max(init.get(&name).copied().unwrap_or(0));
        (name, bytes)
    };
    sum.into_iter().map(most).collect()
}

impl Nodes {
    /// Of each node's memory and hugepages, less what the system keeps.
    pub fn new(sizes: &BTreeMap<u32, Amounts>, reserved: &BTreeMap<u32, Amounts>) -> Self {
        let node = |(id, amounts): (&u32, &Amounts)| {
            let kept = |name: &str| reserved.get(id).and_then(|of| of.get(name)).copied().unwrap_or(0);
            let pages: u64 = amounts.iter().filter(|(name, _)| *name != "memory").map(|(_, bytes)| bytes).sum();
            let table = |(name, bytes): (&String, &u64)| {
                let system_reserved = kept(name);
                let own = if name == "memory" { bytes.saturating_sub(pages) } else { *bytes };
                let free = own.saturating_sub(system_reserved);
                (name.clone(), Table { total: *bytes, system_reserved, allocatable: free, reserved: 0, free })
            };
            let tables = amounts.iter().map(table).collect();
            (*id, Node { assignments: 0, cells: Numa::of([*id]), tables })
        };
        Self { nodes: sizes.iter().map(node).collect(), given: BTreeMap::new() }
    }

    fn sum(&self, numa: Numa, name: &str, of: fn(&Table) -> u64) -> u64 {
        let tables = numa.ids().filter_map(|id| self.nodes.get(&id)?.tables.get(name));
        tables.map(of).fold(0, u64::saturating_add)
    }

    /// What regular init containers of a pod leave on these nodes to those that come after them.
    fn reusable(&self, pod: &Pod, numa: Numa, name: &str) -> u64 {
        let Some(given) = self.given.get(&pod.metadata.uid) else { return 0 };
        let init = pod.spec.init_containers.iter().filter(|init| !is_sidecar(init));
        let blocks = init.filter_map(|init| given.get(&init.name)).flatten();
        blocks.filter(|block| block.numa == numa && block.kind == name).map(|block| block.size).sum()
    }

    fn hints(&self, pod: &Pod, asked: &Amounts) -> Vec<Hint> {
        let all = Numa::of(self.nodes.keys().copied());
        let mut smallest = all.count();
        let mut found = Vec::new();
        for numa in all.subsets() {
            if asked.iter().any(|(name, bytes)| self.sum(numa, name, |table| table.allocatable) < *bytes) {
                continue;
            }
            smallest = smallest.min(numa.count());
            let alone = numa.count() == 1;
            let nodes = || numa.ids().filter_map(|id| self.nodes.get(&id));
            let taken = nodes().any(|node| match alone {
                true => node.cells.count() > 1,
                false => node.assignments > 0 && node.cells != numa,
            });
            let short = asked.iter().any(|(name, bytes)| {
                self.sum(numa, name, |table| table.free).saturating_add(self.reusable(pod, numa, name)) < *bytes
            });
            if !taken && !short {
                found.push(numa);
            }
        }
        found.into_iter().map(|numa| Hint { numa: Some(numa), preferred: numa.count() == smallest }).collect()
    }

    fn best(hints: impl Iterator<Item = Hint>) -> Option<(Numa, bool)> {
        let narrow = |hint: &Hint| (!hint.preferred, hint.numa.map(|numa| (numa.count(), numa.0)));
        hints.min_by_key(narrow).and_then(|hint| Some((hint.numa?, hint.preferred)))
    }

    /// Gives a container's memory on the hinted nodes, or on more of them if those have too little.
    fn give(&mut self, pod: &Pod, container: &Container, hint: Hint) -> Result<(), &'static str> {
        let asked = asked(pod, container);
        let known = self.given.get(&pod.metadata.uid).is_some_and(|given| given.contains_key(&container.name));
        if asked.is_empty() || known {
            return Ok(());
        }
        let numa = match hint.numa {
            Some(numa) => numa,
            None => {
                let best = Self::best(self.hints(pod, &asked).into_iter());
                let (numa, preferred) = best
                    .ok_or("failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")?;
                if hint.preferred && !preferred {
                    return Err("failed to find the default preferred hint");
                }
                numa
            }
        };
        let enough = |numa: Numa| asked.iter().all(|(name, bytes)| self.sum(numa, name, |table| table.free) >= *bytes);
        let numa = match enough(numa) {
            true => numa,
            false => {
                let wider = self.hints(pod, &asked).into_iter();
                let wider = wider.filter(|hint| hint.numa.is_some_and(|wider| wider.0 & numa.0 == numa.0));
                let (wider, preferred) =
                    Self::best(wider).ok_or("failed to find NUMA nodes to extend the current topology hint")?;
                if hint.preferred && !preferred {
                    return Err("failed to find the extended preferred hint");
                }
                wider
            }
        };
        let mut nodes = numa.ids().filter_map(|id| self.nodes.get(&id));
        if numa.count() > 1 && nodes.any(|node| node.assignments > 0 && node.cells != numa) {
            return Err("preferred hint violates NUMA node allocation");
        }
        let mut blocks = Vec::new();
        for (kind, size) in asked {
            let fresh = size.saturating_sub(self.reusable(pod, numa, &kind));
            self.reserve(numa, &kind, fresh);
            blocks.push(Block { numa, kind, size });
        }
        self.shrink_init(pod, container, &blocks);
        self.given.entry(pod.metadata.uid.clone()).or_default().insert(container.name.clone(), blocks);
        Ok(())
    }

    fn reserve(&mut self, numa: Numa, kind: &str, mut bytes: u64) {
        for id in numa.ids() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.assignments += 1;
            node.cells = numa;
            if let Some(table) = node.tables.get_mut(kind) {
                let part = bytes.min(table.free);
                table.free -= part;
                table.reserved += part;
                bytes -= part;
            }
        }
    }

    /// What a container takes over from init containers before it is not theirs any more.
    fn shrink_init(&mut self, pod: &Pod, container: &Container, blocks: &[Block]) {
        let Some(given) = self.given.get_mut(&pod.metadata.uid) else { return };
        for block in blocks {
            let mut left = block.size;
            for init in pod.spec.init_containers.iter().take_while(|init| init.name != container.name) {
                if is_sidecar(init) {
                    continue;
                }
                for own in given.get_mut(&init.name).into_iter().flatten() {
                    if own.kind == block.kind && own.numa == block.numa {
                        let part = left.min(own.size);
                        own.size -= part;
                        left -= part;
                    }
                }
            }
        }
    }

    fn release(&mut self, uid: &str) -> bool {
        let Some(given) = self.given.remove(uid) else { return false };
        for block in given.into_values().flatten() {
            let mut bytes = block.size;
            for id in block.numa.ids() {
                let Some(node) = self.nodes.get_mut(&id) else { continue };
                node.assignments = node.assignments.saturating_sub(1);
                if node.assignments == 0 {
                    node.cells = Numa::of([id]);
                }
                if let Some(table) = node.tables.get_mut(&block.kind) {
                    let part = bytes.min(table.reserved);
                    table.reserved -= part;
                    table.free += part;
                    bytes -= part;
                }
            }
        }
        true
    }

    fn to_json(&self) -> Value {
        let ids = |numa: Numa| numa.ids().collect::<Vec<u32>>();
        let table = |of: &Table| {
            json!({
                "total": of.total, "systemReserved": of.system_reserved, "allocatable": of.allocatable,
                "reserved": of.reserved, "free": of.free,
            })
        };
        let node = |(id, node): (&u32, &Node)| {
            let map: serde_json::Map<_, _> = node.tables.iter().map(|(name, of)| (name.clone(), table(of))).collect();
            let said = json!({"numberOfAssignments": node.assignments, "memoryMap": map, "cells": ids(node.cells)});
            (id.to_string(), said)
        };
        let machine: serde_json::Map<_, _> = self.nodes.iter().map(node).collect();
        let block = |of: &Block| json!({"numaAffinity": ids(of.numa), "type": of.kind, "size": of.size});
        let mut data = json!({"policyName": "Static", "machineState": machine});
        for (uid, given) in &self.given {
            for (name, blocks) in given {
                data["entries"][uid][name] = blocks.iter().map(block).collect();
            }
        }
        data
    }

    /// Notes what a checkpoint says was given; whether the machine is still the one of the checkpoint.
    fn restore(&mut self, data: &Value) -> bool {
        let numa = |of: &Value| {
            let ids = of.as_array().into_iter().flatten().filter_map(Value::as_u64);
            Numa::of(ids.filter_map(|id| u32::try_from(id).ok()))
        };
        for (uid, given) in data["entries"].as_object().into_iter().flatten() {
            for (name, blocks) in given.as_object().into_iter().flatten() {
                let blocks = blocks.as_array().into_iter().flatten().map(|of| Block {
                    numa: numa(&of["numaAffinity"]),
                    kind: of["type"].as_str().unwrap_or_default().to_owned(),
                    size: of["size"].as_u64().unwrap_or(0),
                });
                let blocks: Vec<Block> = blocks.collect();
                for block in &blocks {
                    self.reserve(block.numa, &block.kind, block.size);
                }
                self.given.entry(uid.clone()).or_default().insert(name.clone(), blocks);
            }
        }
        let said = |value: &Value, id: &u32, name: &str| {
            let table = &value["machineState"][id.to_string()]["memoryMap"][name];
            (table["total"].as_u64(), table["systemReserved"].as_u64(), table["allocatable"].as_u64())
        };
        let own = self.to_json();
        let mut tables = self.nodes.iter().flat_map(|(id, node)| node.tables.keys().map(move |name| (id, name)));
        tables.all(|(id, name)| said(data, id, name) == said(&own, id, name))
    }
}

/// [`Nodes`], kept.
pub struct MemoryManager {
    path: PathBuf,
    nodes: Mutex<Nodes>,
}

impl MemoryManager {
    pub fn new(mut nodes: Nodes, path: PathBuf) -> Result<Self, String> {
        if nodes.nodes.values().all(|node| node.tables.get("memory").is_none_or(|of| of.system_reserved == 0)) {
            return Err("you should specify the system reserved memory".into());
        }
        if let Some(data) = state::load(&path, "Static")?
            && !nodes.restore(&data)
        {
            return Err("the expected machine state is different from the real one".into());
        }
        state::save(&path, &nodes.to_json());
        Ok(Self { path, nodes: Mutex::new(nodes) })
    }

    /// The nodes of a container's memory, as a cgroup takes them; empty: all.
    pub fn of(&self, uid: &str, container: &str) -> String {
        let nodes = lock(&self.nodes);
        let blocks = nodes.given.get(uid).and_then(|given| given.get(container));
        let ids: CpuSet = blocks.into_iter().flatten().flat_map(|block| block.numa.ids()).collect();
        format(&ids)
    }

    pub fn pods(&self) -> Vec<String> {
        lock(&self.nodes).given.keys().cloned().collect()
    }
}

impl HintProvider for MemoryManager {
    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let asked = container.map_or_else(|| asked_by_pod(pod), |container| asked(pod, container));
        if asked.is_empty() {
            return Hints::new();
        }
        let hints = lock(&self.nodes).hints(pod, &asked);
        asked.into_keys().map(|name| (name, hints.clone())).collect()
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, hint: Hint) -> Allocated<'a> {
        Box::pin(async move {
            let mut nodes = lock(&self.nodes);
            let given = nodes.give(pod, container, hint);
            state::save(&self.path, &nodes.to_json());
            given.map_err(|why| Refusal::unexpected(format_args!("[memorymanager] {why}")))
        })
    }

    fn release(&self, uid: &str) {
        let mut nodes = lock(&self.nodes);
        if nodes.release(uid) {
            state::save(&self.path, &nodes.to_json());
        }
    }
}
