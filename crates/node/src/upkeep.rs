//! What keeps a node usable: eviction under pressure, limits of what pods write, and collecting images and containers.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schema::quantity::Quantity;
use tokio::time::Instant;

use crate::config::ImageGc;
use crate::eviction::{self, Candidate, Manager, Observation, Observations, Part, Pressure, Signal, Threshold};
use crate::images::pulling::Room;
use crate::kubelet::{Kubelet, LOOK};
use crate::memory::SECOND;
use crate::metrics::Count;
use crate::objects::lock;
use crate::plan::{is_running, is_terminal};
use crate::pod::is_critical;
use crate::ports::{FsStats, Image, Nanos, PodStats};
use crate::worker::View;
use crate::{acts, resources};

/// Images are looked at this often.
const IMAGES_EVERY: Nanos = 300 * SECOND;
/// Grace of a pod that must go at once.
const AT_ONCE_SECONDS: i64 = 1;

/// What the rounds remember. Its times are nanoseconds since it began, which no setting of the clock changes.
struct Rounds {
    begun: Instant,
    evictions: Manager,
    images_at: Nanos,
    seen: Seen,
}

impl Rounds {
    fn now(&self) -> Nanos {
        i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

pub async fn run(kubelet: &Kubelet) {
    let host = &kubelet.shared.ports.host;
    let mut rounds = Rounds { begun: Instant::now(), evictions: Manager::default(), images_at: 0, seen: Seen::new() };
    let mut rooms = kubelet.shared.puller.rooms.lock().await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = host.memory_pressure() => {}
            Some(Room { least, likely, made }) = rooms.recv() => {
                let now = rounds.now();
                collect_images(kubelet, Goal::Room { least, likely }, now, &mut rounds.seen).await;
                let _ = made.send(());
                continue;
            }
        }
        let evicted = round(kubelet, &mut rounds).await;
        if !evicted.is_empty() {
            gone(kubelet, &evicted).await;
        }
    }
}

/// Waits for evicted pods to give back what they had, but not for ever.
async fn gone(kubelet: &Kubelet, uids: &[String]) {
    let lives = |view: &Arc<View>| uids.iter().any(|uid| uid == view.desired.uid());
    let runs = |view: &Arc<View>| view.observed.sandbox.is_some() || view.observed.containers.iter().any(is_running);
    let until = Instant::now() + Duration::from_nanos(eviction::CLEANUP.unsigned_abs());
    while Instant::now() < until && kubelet.views().iter().any(|view| lives(view) && runs(view)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One look at the node; the pods that go.
async fn round(kubelet: &Kubelet, rounds: &mut Rounds) -> Vec<String> {
    let config = &kubelet.shared.config;
    let thresholds = &config.evictions.thresholds;
    let now = rounds.now();
    let observed = observe(kubelet).await;
    let found = rounds.evictions.round(thresholds, &observed, config.evictions.transition, now);
    {
        let has = |pressure| found.pressures.contains(&pressure);
        let mut health = lock(&kubelet.health);
        let before = health.clone();
        health.memory_pressure = has(Pressure::Memory);
        health.disk_pressure = has(Pressure::Disk);
        health.pid_pressure = has(Pressure::Pid);
        if *health != before {
            kubelet.shared.health_changed.notify_one();
        }
    }
    if now - rounds.images_at >= IMAGES_EVERY {
        rounds.images_at = now;
        collect_images(kubelet, Goal::Thresholds, now, &mut rounds.seen).await;
    }
    collect_dead(kubelet, config.dead_containers).await;
    let evicted = enforce_limits(kubelet).await;
    let Some(first) = found.crossed.first().filter(|_| evicted.is_empty()) else { return evicted };
    let message = format!("Attempting to reclaim {}", first.signal.resource());
    kubelet.shared.events.node(&config.node_name, true, "EvictionThresholdMet", message);
    if reclaim(kubelet, first.signal, now, &mut rounds.seen).await {
        let observed = observe(kubelet).await;
        if !thresholds.iter().any(|threshold| threshold.is_crossed(&observed, true)) {
            return Vec::new();
        }
    }
    evict_one(kubelet, first, &observed).await.into_iter().collect()
}

async fn observe(kubelet: &Kubelet) -> Observations {
    let shared = &kubelet.shared;
    let (host, config) = (&shared.ports.host, &shared.config);
    let usage = host.usage();
    let mut seen = Observations::new();
    let mut see = |signal, available, capacity| {
        seen.insert(signal, Observation { available, capacity });
    };
    if usage.memory_available_bytes > 0 {
        see(Signal::Memory, usage.memory_available_bytes, shared.machine.memory_bytes);
    }
    if config.enforce_allocatable {
        let all = shared.ports.cgroups.usage("kubepods");
        let limit = shared.machine.memory_bytes.saturating_sub(config.reserved.memory_bytes);
        see(Signal::AllocatableMemory, limit.saturating_sub(all.memory_working_set_bytes), limit);
    }
    let mut disk = |bytes, inodes, path: &Path| {
        let Ok(fs) = host.fs(path) else { return };
        see(bytes, fs.available_bytes, fs.capacity_bytes);
        see(inodes, fs.inodes_free, fs.inodes);
    };
    disk(Signal::NodeFs, Signal::NodeFsInodes, &config.root_dir);
    disk(Signal::ImageFs, Signal::ImageFsInodes, image_path(kubelet));
    let pids = shared.machine.pids_limit;
    see(Signal::Pids, pids.saturating_sub(usage.processes), pids);
    seen
}

fn image_path(kubelet: &Kubelet) -> &Path {
    let config = &kubelet.shared.config;
    if config.image_dir.as_os_str().is_empty() { &config.root_dir } else { &config.image_dir }
}

/// Whether images lie on a disk of their own.
fn images_apart(kubelet: &Kubelet) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    device(image_path(kubelet)) != device(&kubelet.shared.config.root_dir)
}

/// Frees what the node itself holds of it; whether there was anything to try.
async fn reclaim(kubelet: &Kubelet, signal: Signal, now: Nanos, seen: &mut Seen) -> bool {
    if signal.pressure() != Pressure::Disk {
        return false;
    }
    let (apart, of_images) = (images_apart(kubelet), matches!(signal, Signal::ImageFs | Signal::ImageFsInodes));
    if !apart || !of_images {
        collect_dead(kubelet, 0).await;
    }
    if !apart || of_images {
        collect_images(kubelet, Goal::Reclaim, now, seen).await;
    }
    true
}

/// Bytes and inodes below a directory, on its own file system.
fn disk_usage(dir: &Path) -> (u64, u64) {
    let Ok(own) = std::fs::symlink_metadata(dir) else { return (0, 0) };
    let (mut bytes, mut inodes) = (own.blocks() * 512, 1);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && meta.dev() == own.dev() {
            let (more, nodes) = disk_usage(&entry.path());
            bytes += more;
            inodes += nodes;
        } else if !meta.is_dir() {
            bytes += meta.blocks() * 512;
            inodes += 1;
        }
    }
    (bytes, inodes)
}

async fn measure(dir: PathBuf) -> (u64, u64) {
    tokio::task::spawn_blocking(move || disk_usage(&dir)).await.unwrap_or_default()
}

/// What a pod has on the node's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// By container: its writable layers and its logs.
    pub layers: BTreeMap<String, (u64, u64)>,
    pub logs: BTreeMap<String, (u64, u64)>,
    pub volumes: (u64, u64),
}

impl Disk {
    pub fn total(&self) -> (u64, u64) {
        let all = self.layers.values().chain(self.logs.values()).chain([&self.volumes]);
        all.fold((0, 0), |sum, (bytes, inodes)| (sum.0 + bytes, sum.1 + inodes))
    }

    fn of(&self, container: &str) -> u64 {
        [&self.layers, &self.logs].iter().filter_map(|list| list.get(container)).map(|(bytes, _)| bytes).sum()
    }

    pub async fn measure(kubelet: &Kubelet, view: &View, stats: &PodStats) -> Self {
        let (config, meta) = (&kubelet.shared.config, &view.desired.pod.metadata);
        let mut disk = Self::default();
        for run in &view.observed.containers {
            let usage = stats.containers.get(&run.id);
            let entry = disk.layers.entry(run.name.clone()).or_default();
            entry.0 += usage.map_or(0, |usage| usage.root_fs_used_bytes);
            entry.1 += usage.map_or(0, |usage| usage.root_fs_inodes);
        }
        let logs = config.log_dir(&meta.namespace, &meta.name, &meta.uid);
        for member in &view.desired.members {
            let name = &member.container.name;
            disk.logs.insert(name.clone(), measure(logs.join(name)).await);
        }
        disk.volumes = measure(config.pod_dir(&meta.uid).join("volumes")).await;
        disk
    }
}

/// Why a pod that outgrew what it was given on disk must go.
async fn outgrown(kubelet: &Kubelet, view: &View) -> Option<String> {
    let pod = &view.desired.pod;
    for volume in &pod.spec.volumes {
        let Some(of) = volume.volume_source.empty_dir.as_ref().filter(|of| of.medium.is_empty()) else { continue };
        let limit = of.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok());
        let Some(limit) = limit.filter(|limit| limit.nanos > 0) else { continue };
        let (used, _) = measure(kubelet.shared.volumes.dir(view.desired.uid(), "empty-dir", &volume.name)).await;
        if exceeds(used, limit) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ", volume.name));
        }
    }
    const STORAGE: &str = "ephemeral-storage";
    let whole = resources::limits(pod).get(STORAGE).copied();
    whole?;
    let stats = kubelet.shared.ports.runtime.stats(view.desired.uid()).await.ok()?;
    let disk = Disk::measure(kubelet, view, &stats).await;
    if let Some(limit) = whole.filter(|limit| exceeds(disk.total().0, *limit)) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    for member in &view.desired.members {
        let name = &member.container.name;
        let limit = resources::amount(&member.container.resources.limits, STORAGE).filter(|limit| !limit.is_zero());
        if let Some(limit) = limit.filter(|limit| exceeds(disk.of(name), *limit)) {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "));
        }
    }
    None
}

fn exceeds(used: u64, limit: Quantity) -> bool {
    i64::try_from(used).is_ok_and(|used| used > limit.value())
}

fn active(kubelet: &Kubelet) -> Vec<Arc<View>> {
    let mut views = kubelet.views();
    views.retain(|view| !is_terminal(&view.status.phase) && !view.desired.is_deleted());
    views
}

async fn enforce_limits(kubelet: &Kubelet) -> Vec<String> {
    let mut evicted = Vec::new();
    for view in active(kubelet).into_iter().filter(|view| !is_critical(&view.desired.pod)) {
        if let Some(message) = outgrown(kubelet, &view).await
            && kubelet.evict(&view, message, AT_ONCE_SECONDS, false)
        {
            kubelet.shared.metrics.count(Count::Evictions, "eviction_signal=\"ephemeralcontainerfs.limit\"".into());
            evicted.push(view.desired.uid().to_owned());
        }
    }
    evicted
}

async fn evict_one(kubelet: &Kubelet, crossed: &Threshold, observed: &Observations) -> Option<String> {
    let (shared, signal) = (&kubelet.shared, crossed.signal);
    let views = active(kubelet);
    let mut all = BTreeMap::new();
    let mut candidates = Vec::new();
    for view in &views {
        let uid = view.desired.uid();
        let Ok(stats) = shared.ports.runtime.stats(uid).await else { continue };
        let disk = match signal.pressure() {
            Pressure::Disk => Disk::measure(kubelet, view, &stats).await,
            _ => Disk::default(),
        };
        let used = match signal.resource() {
            "memory" => stats.pod.memory_working_set_bytes,
            "pids" => stats.pod.processes,
            "inodes" => disk.total().1,
            _ => disk.total().0,
        };
        let pod = &view.desired.pod;
        let requested = resources::requests(pod).get(signal.resource()).map_or(0, |amount| amount.value());
        let priority = pod.spec.priority.unwrap_or(0);
        let requested = u64::try_from(requested).unwrap_or(0);
        candidates.push(Candidate { uid: uid.to_owned(), priority, used, requested });
        all.insert(uid.to_owned(), (view, stats, disk));
    }
    for candidate in eviction::rank(signal, candidates) {
        let Some((view, stats, disk)) = all.get(&candidate.uid) else { continue };
        if is_critical(&view.desired.pod) {
            continue;
        }
        let parts: Vec<Part> = view
            .observed
            .containers
            .iter()
            .filter_map(|run| {
                let member = view.desired.member(&run.name)?;
                let used = match signal.resource() {
                    "memory" => stats.containers.get(&run.id)?.memory_working_set_bytes,
                    "ephemeral-storage" => disk.of(&run.name),
                    _ => return None,
                };
                let requested = resources::amount(&member.container.resources.requests, signal.resource());
                Some(Part { name: run.name.clone(), used, requested: requested.unwrap_or_default() })
            })
            .collect();
        let own = view.desired.pod.spec.termination_grace_period_seconds.unwrap_or(i64::MAX);
        let grace = match crossed.grace {
            0 => AT_ONCE_SECONDS,
            _ => shared.config.evictions.max_grace_seconds.min(own),
        };
        if kubelet.evict(view, eviction::message(crossed, observed, &parts), grace, true) {
            shared.metrics.count(Count::Evictions, format!("eviction_signal=\"{}\"", signal.name()));
            return Some(candidate.uid);
        }
    }
    None
}

/// Dead containers that nothing stands on: former runs, and those of pods that have ended; the oldest first.
fn dead(views: &[Arc<View>]) -> Vec<(Arc<View>, String, String)> {
    let mut found = Vec::new();
    for view in views {
        let runs = &view.observed.containers;
        for run in runs.iter().filter(|run| !is_running(run)) {
            let newer = runs.iter().any(|other| other.name == run.name && other.attempt > run.attempt);
            if newer || is_terminal(&view.status.phase) {
                found.push((run.created_at, view.clone(), run.name.clone(), run.id.clone()));
            }
        }
    }
    found.sort_by_key(|(created_at, ..)| *created_at);
    found.into_iter().map(|(_, view, name, id)| (view, name, id)).collect()
}

/// Leaves so many of them; -1: all.
async fn collect_dead(kubelet: &Kubelet, kept: i64) {
    let Ok(kept) = usize::try_from(kept) else { return };
    let dead = dead(&kubelet.views());
    let surplus = dead.len().saturating_sub(kept);
    for (view, name, id) in dead.into_iter().take(surplus) {
        if let Err(error) = acts::remove_container(&kubelet.shared, &view.desired, &name, &id).await {
            tracing::debug!(pod = %view.desired.label(), %error, "a dead container was not removed");
        }
    }
}

/// When each image was first seen, and last seen in use.
pub type Seen = BTreeMap<String, (Nanos, Nanos)>;

/// Which images go so that `bytes` are freed: unused ones that are old enough, the longest unused first; and whatever
/// was unused for too long.
pub fn doomed<'a>(
    images: &'a [Image],
    used: &BTreeSet<String>,
    seen: &Seen,
    bytes: u64,
    rules: &ImageGc,
    now: Nanos,
) -> Vec<&'a Image> {
    let mut free: Vec<&Image> = images.iter().filter(|image| !image.pinned && !used.contains(&image.id)).collect();
    let times = |image: &Image| seen.get(&image.id).copied().unwrap_or((now, now));
    free.sort_by_key(|image| (times(image).1, times(image).0));
    let mut freed = 0;
    free.retain(|image| {
        let (first, last) = times(image);
        let needed = freed < bytes && now - first >= rules.minimum_age;
        let goes = needed || (rules.maximum_age > 0 && now - last > rules.maximum_age);
        freed += if goes { image.size_bytes } else { 0 };
        goes
    });
    free
}

/// What images are collected for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Disk usage as the thresholds want it.
    Thresholds,
    /// Pressure: all that may go, however young.
    Reclaim,
    /// A pull that is to leave free what evictions begin at; nothing goes if not even the least can be had.
    Room { least: u64, likely: u64 },
}

/// Images that pods have, or will have: those of containers and volumes, and for a pull's sake those of containers that
/// are still to come.
async fn used_images(kubelet: &Kubelet, goal: Goal) -> BTreeSet<String> {
    let (runtime, images) = (&kubelet.shared.ports.runtime, &kubelet.shared.ports.images);
    let containers = runtime.pods().await.unwrap_or_default().into_iter().flat_map(|pod| pod.containers);
    let mut used: BTreeSet<String> = containers.map(|container| container.image_id).collect();
    let mut names = BTreeSet::new();
    for view in kubelet.views().into_iter().filter(|view| !is_terminal(&view.status.phase)) {
        let volumes = view.desired.pod.spec.volumes.iter().filter_map(|volume| volume.volume_source.image.as_ref());
        names.extend(volumes.map(|of| of.reference.clone()));
        if matches!(goal, Goal::Room { .. }) {
            names.extend(view.desired.members.iter().map(|member| member.container.image.clone()));
        }
    }
    for name in names {
        used.extend(images.find(&name).await.ok().flatten().map(|image| image.id));
    }
    used
}

async fn collect_images(kubelet: &Kubelet, goal: Goal, now: Nanos, seen: &mut Seen) {
    let shared = &kubelet.shared;
    let rules = &shared.config.image_gc;
    let fs = || -> FsStats { shared.ports.host.fs(image_path(kubelet)).unwrap_or_default() };
    let FsStats { capacity_bytes: capacity, available_bytes: available, .. } = fs();
    let mut room = 0;
    if let Goal::Room { least, likely } = goal {
        let kept = shared.config.evictions.hard(Signal::ImageFs, capacity);
        room = likely.saturating_add(kept);
        if available >= room {
            return;
        }
        let (taken, _) = shared.ports.images.usage().await.unwrap_or_default();
        if available.saturating_add(taken) < least.saturating_add(kept) {
            return;
        }
    }
    let Ok(images) = shared.ports.images.list().await else { return };
    let used = used_images(kubelet, goal).await;
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let entry = seen.entry(image.id.clone()).or_insert((now, now));
        if used.contains(&image.id) {
            entry.1 = now;
        }
    }
    let taken = capacity.saturating_sub(available);
    let over = taken * 100 / capacity.max(1) >= rules.high_percent && capacity > 0;
    let wanted = match goal {
        Goal::Thresholds if over => taken.saturating_sub(capacity / 100 * rules.low_percent),
        Goal::Thresholds => 0,
        Goal::Reclaim | Goal::Room { .. } => u64::MAX,
    };
    // What somebody needs the room of is not asked how old it is.
    let rules = ImageGc { minimum_age: if goal == Goal::Thresholds { rules.minimum_age } else { 0 }, ..*rules };
    let reason = if wanted == 0 { "age" } else { "space" };
    let mut freed = 0;
    for image in doomed(&images, &used, seen, wanted, &rules, now) {
        // Layers may be others' too: what is free tells how much a removal gave.
        if matches!(goal, Goal::Room { .. }) && fs().available_bytes >= room {
            break;
        }
        match shared.ports.images.remove(&image.id).await {
            Ok(()) => {
                freed += image.size_bytes;
                shared.metrics.count(Count::ImagesCollected, format!("reason=\"{reason}\""));
            }
            Err(error) => tracing::debug!(image = %image.id, %error, "an image was not removed"),
        }
    }
    shared.puller.tidy().await;
    if goal == Goal::Thresholds && freed < wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        shared.events.node(&shared.config.node_name, true, "FreeDiskSpaceFailed", message);
    }
}
