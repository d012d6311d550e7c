//! What keeps a node usable: eviction under pressure, and collecting images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use schema::quantity::{Format, Quantity};

use crate::config::Thresholds;
use crate::kubelet::{Kubelet, LOOK};
use crate::memory::SECOND;
use crate::objects::lock;
use crate::plan::is_terminal;
use crate::ports::{FsStats, Image, Nanos, NodeUsage};
use crate::resources;
use crate::worker::View;

/// A pressure stays for this long after its signal has gone.
const TRANSITION: Nanos = 300 * SECOND;
/// Images are looked at this often.
const IMAGES_EVERY: Nanos = 300 * SECOND;

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    Memory,
    Disk,
    Inodes,
}

pub fn shortage(thresholds: &Thresholds, usage: &NodeUsage, fs: &FsStats) -> Vec<Short> {
    let mut short = Vec::new();
    if usage.memory_available_bytes > 0 && usage.memory_available_bytes < thresholds.memory_available_bytes {
        short.push(Short::Memory);
    }
    if fs.capacity_bytes > 0 && fs.available_bytes < fs.capacity_bytes / 100 * thresholds.nodefs_available_percent {
        short.push(Short::Disk);
    }
    if fs.inodes > 0 && fs.inodes_free < fs.inodes / 100 * thresholds.nodefs_inodes_free_percent {
        short.push(Short::Inodes);
    }
    short
}

/// Which pod goes first: one that uses more than it asked for, then the lowest priority, then the greatest excess.
pub fn rank(views: &[Arc<View>], used: &BTreeMap<String, u64>) -> Option<Arc<View>> {
    let candidates = views.iter().filter(|view| {
        let critical = view.desired.pod.spec.priority.is_some_and(|priority| priority >= 2_000_000_000);
        !critical && !view.gone && !is_terminal(&view.status.phase) && !view.desired.is_deleted()
    });
    candidates
        .max_by_key(|view| {
            let used = used.get(view.desired.uid()).copied().unwrap_or(0);
            let asked = resources::requests(&view.desired.pod).get("memory").map_or(0, |amount| amount.value());
            let excess = i64::try_from(used).unwrap_or(i64::MAX) - asked;
            (excess > 0, std::cmp::Reverse(view.desired.pod.spec.priority.unwrap_or(0)), excess)
        })
        .cloned()
}

pub async fn run(kubelet: &Kubelet) {
    let shared = &kubelet.shared;
    let thresholds = &shared.config.thresholds;
    let mut last: BTreeMap<&'static str, Nanos> = BTreeMap::new();
    let mut images_at = shared.ports.clock.now();
    let mut seen = Seen::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = shared.ports.clock.now();
        let usage = shared.ports.host.usage();
        let fs = shared.ports.host.fs(&shared.config.root_dir).unwrap_or_default();
        let short = shortage(thresholds, &usage, &fs);
        let disk = short.iter().any(|short| *short != Short::Memory);
        let pids_limit = shared.machine.pids_limit;
        let signals = [
            ("memory", short.contains(&Short::Memory)),
            ("disk", disk),
            ("pid", pids_limit > 0 && usage.processes + thresholds.pids_available > pids_limit),
        ];
        for (name, is) in signals {
            if is {
                last.insert(name, now);
            }
        }
        let held = |name: &str| last.get(name).is_some_and(|at| now - at < TRANSITION);
        {
            let mut health = lock(&kubelet.health);
            health.memory_pressure = held("memory");
            health.disk_pressure = held("disk");
            health.pid_pressure = held("pid");
        }
        if disk || now - images_at >= IMAGES_EVERY {
            images_at = now;
            collect_images(kubelet, &fs, disk, now, &mut seen).await;
        }
        enforce_limits(kubelet).await;
        let still = !shortage(thresholds, &usage, &shared.ports.host.fs(&shared.config.root_dir).unwrap_or_default())
            .is_empty();
        if let Some(short) = short.first().filter(|_| still) {
            evict_one(kubelet, *short, &usage, &fs).await;
        }
    }
}

/// Bytes below a directory, on its own file system.
fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(own) = std::fs::symlink_metadata(dir) else { return 0 };
    let mut bytes = own.blocks() * 512;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && meta.dev() == own.dev() {
            bytes += disk_usage(&entry.path());
        } else if !meta.is_dir() {
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}

/// Why a pod that outgrew what it was given on disk must go.
async fn outgrown(kubelet: &Kubelet, view: &View) -> Option<String> {
    let pod = &view.desired.pod;
    let uid = view.desired.uid();
    for volume in &pod.spec.volumes {
        let Some(of) = volume.volume_source.empty_dir.as_ref().filter(|of| of.medium.is_empty()) else { continue };
        let Some(limit) =
            of.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()).filter(|limit| limit.nanos > 0)
        else {
            continue;
        };
        let dir = kubelet.shared.volumes.dir(uid, "empty-dir", &volume.name);
        let used = tokio::task::spawn_blocking(move || disk_usage(&dir)).await.unwrap_or(0);
        if i64::try_from(used).is_ok_and(|used| used > limit.value()) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ", volume.name));
        }
    }
    let limited = |member: &&crate::pod::Member| member.container.resources.limits.contains_key("ephemeral-storage");
    if !view.desired.members.iter().any(|member| limited(&member)) {
        return None;
    }
    let stats = kubelet.shared.ports.runtime.stats(uid).await.ok()?;
    let meta = &pod.metadata;
    let logs = kubelet.shared.config.log_dir(&meta.namespace, &meta.name, uid);
    for member in view.desired.members.iter().filter(limited) {
        let limit = resources::amount(&member.container.resources.limits, "ephemeral-storage")?;
        let name = &member.container.name;
        let runs = view.observed.containers.iter().filter(|container| container.name == *name);
        let usages = runs.filter_map(|container| stats.containers.get(&container.id));
        let written: u64 = usages.map(|usage| usage.root_fs_used_bytes).sum();
        let logs = logs.join(name);
        let used = written + tokio::task::spawn_blocking(move || disk_usage(&logs)).await.unwrap_or(0);
        if i64::try_from(used).is_ok_and(|used| used > limit.value()) {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "));
        }
    }
    None
}

async fn enforce_limits(kubelet: &Kubelet) {
    let lives = |view: &Arc<View>| !is_terminal(&view.status.phase) && !view.desired.is_deleted();
    for view in kubelet.views().into_iter().filter(lives) {
        if let Some(message) = outgrown(kubelet, &view).await {
            kubelet.evict(&view, message);
        }
    }
}

async fn evict_one(kubelet: &Kubelet, short: Short, usage: &NodeUsage, fs: &FsStats) {
    let shared = &kubelet.shared;
    let views = kubelet.views();
    let mut used = BTreeMap::new();
    for view in &views {
        if let Ok(stats) = shared.ports.runtime.stats(view.desired.uid()).await {
            let bytes = match short {
                Short::Memory => stats.pod.memory_working_set_bytes,
                Short::Disk => stats.containers.values().map(|usage| usage.root_fs_used_bytes).sum(),
                Short::Inodes => stats.containers.values().map(|usage| usage.root_fs_inodes).sum(),
            };
            used.insert(view.desired.uid().to_owned(), bytes);
        }
    }
    let Some(view) = rank(&views, &used) else { return };
    let of = &shared.config.thresholds;
    let (resource, available, threshold) = match short {
        Short::Memory => ("memory", usage.memory_available_bytes, of.memory_available_bytes),
        Short::Disk => ("ephemeral-storage", fs.available_bytes, fs.capacity_bytes / 100 * of.nodefs_available_percent),
        Short::Inodes => ("inodes", fs.inodes_free, fs.inodes / 100 * of.nodefs_inodes_free_percent),
    };
    let shown = |amount| Quantity::from_int(i64::try_from(amount).unwrap_or(i64::MAX), Format::BinarySI);
    let (threshold, available) = (shown(threshold), shown(available));
    let message =
        format!("The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. ");
    kubelet.evict(&view, message);
}

/// Which images go so that `bytes` are freed: unused ones, the longest unused first.
pub fn doomed<'a>(images: &'a [Image], used: &BTreeSet<String>, seen: &Seen, bytes: u64) -> Vec<&'a Image> {
    let mut free: Vec<&Image> = images.iter().filter(|image| !image.pinned && !used.contains(&image.id)).collect();
    free.sort_by_key(|image| seen.get(&image.id).copied().unwrap_or(0));
    let mut freed = 0;
    free.into_iter()
        .take_while(|image| {
            let more = freed < bytes;
            freed += image.size_bytes;
            more
        })
        .collect()
}

type Seen = BTreeMap<String, Nanos>;

async fn collect_images(kubelet: &Kubelet, fs: &FsStats, pressed: bool, now: Nanos, seen: &mut Seen) {
    let shared = &kubelet.shared;
    let thresholds = &shared.config.thresholds;
    let Ok(images) = shared.ports.images.list().await else { return };
    let containers = shared.ports.runtime.pods().await.unwrap_or_default().into_iter().flat_map(|pod| pod.containers);
    let mut used: BTreeSet<String> = containers.map(|container| container.image_id).collect();
    for view in kubelet.views().into_iter().filter(|view| !is_terminal(&view.status.phase)) {
        for of in view.desired.pod.spec.volumes.iter().filter_map(|volume| volume.volume_source.image.as_ref()) {
            used.extend(shared.ports.images.find(&of.reference).await.ok().flatten().map(|image| image.id));
        }
    }
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let entry = seen.entry(image.id.clone()).or_insert(now);
        if used.contains(&image.id) {
            *entry = now;
        }
    }
    if fs.capacity_bytes == 0 {
        return;
    }
    let taken = fs.capacity_bytes - fs.available_bytes;
    let percent = taken * 100 / fs.capacity_bytes;
    if !pressed && percent < thresholds.image_gc_high_percent {
        return;
    }
    let goal = fs.capacity_bytes / 100 * thresholds.image_gc_low_percent;
    let bytes = if pressed { u64::MAX } else { taken.saturating_sub(goal) };
    let age = i64::try_from(thresholds.image_minimum_age.as_nanos()).unwrap_or(i64::MAX);
    let mut freed = 0;
    for image in doomed(&images, &used, seen, bytes) {
        if !pressed && now - seen.get(&image.id).copied().unwrap_or(now) < age {
            continue;
        }
        match shared.ports.images.remove(&image.id).await {
            Ok(()) => freed += image.size_bytes,
            Err(error) => tracing::debug!(image = %image.id, %error, "an image was not removed"),
        }
    }
    if !pressed && freed < bytes {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
        );
        shared.events.node(&shared.config.node_name, true, "FreeDiskSpaceFailed", message);
    }
}
