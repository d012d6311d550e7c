//! When a node is short of something, and which pod goes: upstream's eviction manager as values.
//!
//! Entry point: [`Manager::round`]. Times are of a clock that never jumps.

use std::collections::BTreeMap;

use schema::quantity::{Format, Quantity};

use crate::memory::SECOND;
use crate::ports::Nanos;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    AllocatableMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    ContainerFs,
    ContainerFsInodes,
    Pids,
}

/// What a node's condition says is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Disk,
    Memory,
    Pid,
}

impl Pressure {
    /// As node conditions are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "DiskPressure",
            Self::Memory => "MemoryPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Memory, "memory.available"),
        (Self::AllocatableMemory, "allocatableMemory.available"),
        (Self::NodeFs, "nodefs.available"),
        (Self::NodeFsInodes, "nodefs.inodesFree"),
        (Self::ImageFs, "imagefs.available"),
        (Self::ImageFsInodes, "imagefs.inodesFree"),
        (Self::ContainerFs, "containerfs.available"),
        (Self::ContainerFsInodes, "containerfs.inodesFree"),
        (Self::Pids, "pid.available"),
    ];

    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, known)| *known == name).map(|(signal, _)| signal)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// As messages call it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "memory",
            Self::NodeFs | Self::ImageFs | Self::ContainerFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes | Self::ContainerFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    pub fn pressure(self) -> Pressure {
        match self {
            Self::Memory | Self::AllocatableMemory => Pressure::Memory,
            Self::Pids => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }
}

/// An amount, or a share of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Units(Quantity),
    Percent(f64),
}

impl Amount {
    /// `100Mi`, `5%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(number) => number.parse().ok().filter(|part| (0.0..=100.0).contains(part)).map(Self::Percent),
            None => Quantity::parse(text).ok().filter(|amount| amount.nanos >= 0).map(Self::Units),
        }
    }

    pub fn of(self, capacity: u64) -> Quantity {
        match self {
            Self::Units(amount) => amount,
            // As upstream, whose shares are 32-bit floats.
            Self::Percent(part) => {
                let part = f64::from((part as f32) / 100.0);
                Quantity::from_int((capacity as f64 * part) as i64, Format::BinarySI)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub at: Amount,
    /// How long it may be crossed; 0: not at all.
    pub grace: Nanos,
    /// It counts as crossed until there is so much more than it.
    pub reclaim: Option<Amount>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub available: u64,
    pub capacity: u64,
}

pub type Observations = BTreeMap<Signal, Observation>;

fn amount(of: u64, format: Format) -> Quantity {
    Quantity::from_int(i64::try_from(of).unwrap_or(i64::MAX), format)
}

impl Threshold {
    pub fn is_crossed(&self, observed: &Observations, with_reclaim: bool) -> bool {
        let Some(seen) = observed.get(&self.signal).filter(|seen| seen.capacity > 0) else { return false };
        let mut at = self.at.of(seen.capacity);
        if let Some(more) = self.reclaim.filter(|_| with_reclaim) {
            at = at.plus(more.of(seen.capacity));
        }
        at.compare(amount(seen.available, Format::BinarySI)).is_gt()
    }
}

/// What was seen in earlier rounds.
#[derive(Debug, Default)]
pub struct Manager {
    /// By place in the list of thresholds: since when it is crossed.
    since: BTreeMap<usize, Nanos>,
    /// Those that were crossed beyond their grace in the last round.
    met: Vec<usize>,
    /// When each pressure was seen last.
    seen: BTreeMap<Pressure, Nanos>,
}

/// What a round finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    pub pressures: Vec<Pressure>,
    /// What must be reclaimed, the most urgent first.
    pub crossed: Vec<Threshold>,
}

impl Manager {
    pub fn round(&mut self, all: &[Threshold], observed: &Observations, transition: Nanos, now: Nanos) -> Round {
        let crossed = |at: usize| {
            let before = self.met.contains(&at);
            all[at].is_crossed(observed, false) || (before && all[at].is_crossed(observed, true))
        };
        let crossed: Vec<usize> = (0..all.len()).filter(|at| crossed(*at)).collect();
        self.since.retain(|at, _| crossed.contains(at));
        for at in &crossed {
            self.since.entry(*at).or_insert(now);
            self.seen.insert(all[*at].signal.pressure(), now);
        }
        self.seen.retain(|_, at| *at == now || now - *at < transition);
        self.met = crossed.into_iter().filter(|at| now - self.since[at] >= all[*at].grace).collect();
        let mut crossed: Vec<Threshold> = self.met.iter().map(|at| all[*at]).collect();
        crossed.sort_by_key(|threshold| threshold.signal.pressure() != Pressure::Memory);
        Round { pressures: self.seen.keys().copied().collect(), crossed }
    }
}

/// A pod's part in what is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub used: u64,
    pub requested: u64,
}

/// The order in which pods go: those that use more than they asked for, then by priority, then by how much more.
pub fn rank(signal: Signal, mut pods: Vec<Candidate>) -> Vec<Candidate> {
    pods.sort_by_key(|pod| {
        // Nobody asks for processes.
        let within = signal != Signal::Pids && pod.used <= pod.requested;
        (within, pod.priority, i128::from(pod.requested) - i128::from(pod.used))
    });
    pods
}

/// What a container that is named in a message uses, and asked for.
pub struct Part {
    pub name: String,
    pub used: u64,
    pub requested: Quantity,
}

/// Why a pod was evicted, in upstream's words.
pub fn message(threshold: &Threshold, observed: &Observations, parts: &[Part]) -> String {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observed.get(&threshold.signal) {
        let inodes_or_pids = matches!(resource, "inodes" | "pids");
        let format = if inodes_or_pids { Format::DecimalSI } else { Format::BinarySI };
        let (at, left) = (threshold.at.of(seen.capacity), amount(seen.available, format));
        text += &format!("Threshold quantity: {at}, available: {left}. ");
    }
    for part in parts {
        let used = amount(part.used, Format::BinarySI);
        if used.compare(part.requested).is_gt() {
            let (name, request) = (&part.name, part.requested);
            text += &format!(
                "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "
            );
        }
    }
    text
}

/// Parses `evictionHard` and its companions; all that is wrong with them.
pub fn thresholds(
    hard: &BTreeMap<String, String>,
    soft: &BTreeMap<String, String>,
    graces: &BTreeMap<String, String>,
    reclaims: &BTreeMap<String, String>,
    allocatable: bool,
) -> Result<Vec<Threshold>, Vec<String>> {
    let mut problems = Vec::new();
    for name in hard.keys().chain(soft.keys()).chain(graces.keys()).chain(reclaims.keys()) {
        if Signal::parse(name).is_none() {
            problems.push(format!("unsupported eviction signal {name}"));
        }
    }
    let mut made = Vec::new();
    for (list, is_soft) in [(hard, false), (soft, true)] {
        for (name, text) in list {
            let Some(signal) = Signal::parse(name) else { continue };
            let at = match Amount::parse(text) {
                // Upstream: such a threshold is none.
                Some(Amount::Percent(part)) if part == 0.0 || part == 100.0 => continue,
                Some(Amount::Units(amount)) if amount.is_zero() => {
                    problems.push(format!("eviction threshold {name} must be positive: {text}"));
                    continue;
                }
                Some(at) => at,
                None => {
                    problems.push(format!("eviction threshold {name} must be an amount or 0% to 100%: {text}"));
                    continue;
                }
            };
            let grace = match graces.get(name).map(|text| (text, schema::time::parse_duration(text))) {
                _ if !is_soft => 0,
                Some((_, Some(grace))) if grace >= 0 => grace,
                Some((text, _)) => {
                    problems.push(format!("invalid eviction grace period specified: {text}, must be a positive value"));
                    continue;
                }
                None => {
                    problems.push(format!("grace period must be specified for the soft eviction threshold {name}"));
                    continue;
                }
            };
            let reclaim = reclaims.get(name).and_then(|text| Amount::parse(text));
            if let (Some(text), None) = (reclaims.get(name), &reclaim) {
                problems.push(format!("eviction minimum reclaim {name} must be an amount or a percentage: {text}"));
            }
            made.push(Threshold { signal, at, grace, reclaim });
            if signal == Signal::Memory && !is_soft && allocatable {
                made.push(Threshold { signal: Signal::AllocatableMemory, at, grace, reclaim });
            }
        }
    }
    // Writable layers lie where the node's file system is: its thresholds stand for theirs.
    made.retain(|threshold| !matches!(threshold.signal, Signal::ContainerFs | Signal::ContainerFsInodes));
    if problems.is_empty() { Ok(made) } else { Err(problems) }
}

/// How long an evicted pod is waited for before another one goes.
pub const CLEANUP: Nanos = 30 * SECOND;
