//! What the kubelet counts of its own doing, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Mutex;
use std::time::Duration;

use crate::objects::lock;

/// Bounds of durations, in seconds: of what is mostly quick, of pods' starts, and of pulls.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const STARTS: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const PULLS: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];

/// A metric that is counted where something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    EnsureImage,
    Evictions,
    ImagesCollected,
    MustPullChecks,
    Preemptions,
    Probes,
    RuntimeOperations,
    RuntimeErrors,
    StartedContainers,
    StartedContainersErrors,
    StartedPods,
    StartedPodsErrors,
    StartedUserNamespacedPods,
    StartedUserNamespacedPodsErrors,
    TerminatedContainers,
}

impl Count {
    #[rustfmt::skip]
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::EnsureImage => ("kubelet_image_manager_ensure_image_requests_total", "Number of ensure-image requests processed by the kubelet."),
            Self::ImagesCollected => ("kubelet_image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age."),
            Self::MustPullChecks => ("kubelet_imagemanager_image_mustpull_checks_total", "Counter for how many times kubelet checked whether credentials need to be re-verified to access an image"),
            Self::Evictions => ("kubelet_evictions", "Cumulative number of pod evictions by eviction signal"),
            Self::Preemptions => ("kubelet_preemptions", "Cumulative number of pod preemptions by preemption resource"),
            Self::Probes => ("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result."),
            Self::RuntimeOperations => ("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type."),
            Self::RuntimeErrors => ("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type."),
            Self::StartedContainers => ("kubelet_started_containers_total", "Cumulative number of containers started"),
            Self::StartedContainersErrors => ("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers"),
            Self::StartedPods => ("kubelet_started_pods_total", "Cumulative number of pods started"),
            Self::StartedPodsErrors => ("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods"),
            Self::StartedUserNamespacedPods => ("kubelet_started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."),
            Self::StartedUserNamespacedPodsErrors => ("kubelet_started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."),
            Self::TerminatedContainers => ("kubelet_terminated_containers_total", "Cumulative number of container terminations."),
        }
    }
}

/// A duration that is measured where something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Time {
    ImagePull,
    PodStart,
    Relist,
    RuntimeOperation,
}

impl Time {
    #[rustfmt::skip]
    fn row(self) -> (&'static str, &'static str, &'static [f64]) {
        match self {
            Self::ImagePull => ("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.", &PULLS),
            Self::PodStart => ("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", &STARTS),
            Self::Relist => ("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.", &BUCKETS),
            Self::RuntimeOperation => ("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", &BUCKETS),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

/// By metric and labels, which are as they are printed, without braces.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<BTreeMap<(Count, String), u64>>,
    times: Mutex<BTreeMap<(Time, String), Histogram>>,
}

impl Metrics {
    pub fn count(&self, what: Count, labels: String) {
        *lock(&self.counts).entry((what, labels)).or_insert(0) += 1;
    }

    pub fn took(&self, what: Time, labels: String, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut times = lock(&self.times);
        let histogram = times.entry((what, labels)).or_default();
        histogram.buckets.resize(what.row().2.len(), 0);
        histogram.count += 1;
        histogram.sum += seconds;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(what.row().2) {
            *bucket += u64::from(seconds <= *bound);
        }
    }

    /// One runtime operation of upstream's name.
    pub fn operation(&self, name: &str, failed: bool, took: Duration) {
        let labels = || format!("operation_type=\"{name}\"");
        self.count(Count::RuntimeOperations, labels());
        if failed {
            self.count(Count::RuntimeErrors, labels());
        }
        self.took(Time::RuntimeOperation, labels(), took);
    }

    /// Forgets what was counted of a pod's probes.
    pub fn forget(&self, uid: &str) {
        let mark = format!("pod_uid=\"{uid}\"");
        lock(&self.counts).retain(|(what, labels), _| *what != Count::Probes || !labels.contains(&mark));
    }

    /// Appends those counts and times of which `only` is true, or of all others.
    pub fn text(&self, out: &mut String, probes: bool) {
        let counts = lock(&self.counts);
        let mut kinds: Vec<Count> = counts.keys().map(|(what, _)| *what).collect();
        kinds.dedup();
        for kind in kinds.into_iter().filter(|kind| (*kind == Count::Probes) == probes) {
            let (name, help) = kind.row();
            let own = counts.iter().filter(|((what, _), _)| *what == kind);
            family(out, name, "counter", help, own.map(|((_, labels), count)| (braced(labels), count)));
        }
        drop(counts);
        if probes {
            return;
        }
        let times = lock(&self.times);
        let mut kinds: Vec<Time> = times.keys().map(|(what, _)| *what).collect();
        kinds.dedup();
        for kind in kinds {
            let (name, help, bounds) = kind.row();
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            for ((_, labels), histogram) in times.iter().filter(|((what, _), _)| *what == kind) {
                let comma = if labels.is_empty() { "" } else { "," };
                let end = (&f64::INFINITY, &histogram.count);
                for (bound, count) in bounds.iter().zip(&histogram.buckets).chain([end]) {
                    let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
                }
                let (labels, sum, count) = (braced(labels), histogram.sum, histogram.count);
                let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
            }
        }
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// Appends a metric; a sample is its labels, braces and all, and its value.
pub fn family<L: Display, V: Display>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, V)>,
) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// Of this process, as every exporter of Prometheus tells of its own: name, kind, help, value.
pub fn process() -> [(&'static str, &'static str, &'static str, f64); 6] {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let (tick, page) = (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok()).unwrap_or(0.0);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64;
    let limits = read("limits");
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok());
    let (cpu, started) = ((field(11) + field(12)) / tick, boot + field(19) / tick);
    [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(21) * page),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(20)),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", started),
        ("process_open_fds", "gauge", "Number of open file descriptors.", open),
        ("process_max_fds", "gauge", "Maximum number of open file descriptors.", most.unwrap_or(0.0)),
    ]
}
