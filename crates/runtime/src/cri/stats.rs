//! Numbers: what containers and pods use, and the same as metrics with cadvisor's names (KEP-2371).

use rpc::cri::{self, MetricType};

use super::{Inner, now, shown};
use crate::containers::{CgroupStats, ContainerState, ContainerStatus, SandboxStatus};
use crate::lock;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

impl Inner {
    /// Billionths of a core, since the last look.
    fn nano_cores(&self, id: &str, at: i64, used: u64) -> u64 {
        match lock(&self.cpu).insert(id.to_owned(), (at, used)) {
            Some((before, by_then)) if at > before => {
                let rate = u128::from(used.saturating_sub(by_then)) * 1_000_000_000 / (at - before) as u128;
                u64::try_from(rate).unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn usage(&self, id: &str, stats: &CgroupStats) -> (cri::CpuUsage, cri::MemoryUsage) {
        let timestamp = now();
        let cpu = cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(stats.cpu_usage_ns),
            usage_nano_cores: value(self.nano_cores(id, timestamp, stats.cpu_usage_ns)),
            psi: None,
        };
        let memory = cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(stats.memory_working_set),
            available_bytes: stats.memory_limit.and_then(|limit| value(limit.saturating_sub(stats.memory_working_set))),
            usage_bytes: value(stats.memory_usage),
            rss_bytes: value(stats.memory_rss),
            page_faults: value(stats.page_faults),
            major_page_faults: value(stats.major_page_faults),
            psi: None,
        };
        (cpu, memory)
    }

    pub async fn container_stats(&self, made: &ContainerStatus) -> cri::ContainerStats {
        let stats = self.runtime.container_stats(&made.id).await.unwrap_or_default();
        let (bytes, inodes) = self.runtime.container_disk_usage(&made.id).await.unwrap_or_default();
        let (cpu, memory) = self.usage(&made.id, &stats);
        let layers = self.runtime.options().state_dir.join("containers");
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: made.id.clone(),
                metadata: shown::metadata(&made.config),
                labels: shown::map(&made.config.labels),
                annotations: shown::map(&made.config.annotations),
            }),
            cpu: Some(cpu),
            memory: Some(memory),
            writable_layer: Some(cri::FilesystemUsage {
                timestamp: now(),
                fs_id: Some(cri::FilesystemIdentifier { mountpoint: layers.to_string_lossy().into_owned() }),
                used_bytes: value(bytes),
                inodes_used: value(inodes),
            }),
            swap: Some(cri::SwapUsage {
                timestamp: now(),
                swap_available_bytes: None,
                swap_usage_bytes: value(stats.swap_usage),
            }),
            io: None,
        }
    }

    pub async fn all_container_stats(&self, filter: Option<cri::ContainerStatsFilter>) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let mut stats = Vec::new();
        for made in self.runtime.containers() {
            if made.state == ContainerState::Running
                && made.id.starts_with(&filter.id)
                && made.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.label_selector.iter().all(|(key, value)| made.config.labels.get(key) == Some(value))
            {
                stats.push(self.container_stats(&made).await);
            }
        }
        let known = self.runtime.containers().into_iter().map(|made| made.id);
        let known: std::collections::HashSet<String> =
            known.chain(self.runtime.sandboxes().into_iter().map(|pod| pod.id)).collect();
        lock(&self.cpu).retain(|id, _| known.contains(id));
        stats
    }

    pub async fn pod_stats(&self, pod: &SandboxStatus) -> cri::PodSandboxStats {
        let used = self.runtime.cgroups().stats(&pod.config.cgroup_parent);
        let (cpu, memory) = self.usage(&pod.id, &used);
        let filter = cri::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let mut interfaces = interfaces(pod);
        let first = interfaces.iter().position(|interface| interface.name == "eth0").map(|at| interfaces.remove(at));
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: shown::pod_metadata(&pod.config),
                labels: shown::map(&pod.config.labels),
                annotations: shown::map(&pod.config.annotations),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cpu),
                memory: Some(memory),
                network: Some(cri::NetworkUsage { timestamp: now(), default_interface: first, interfaces }),
                process: Some(cri::ProcessUsage { timestamp: now(), process_count: value(used.pids) }),
                containers: self.all_container_stats(Some(filter)).await,
                io: None,
            }),
            windows: None,
        }
    }

    pub async fn all_pod_stats(&self, filter: Option<cri::PodSandboxStatsFilter>) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let mut stats = Vec::new();
        for pod in self.runtime.sandboxes() {
            if pod.ready
                && pod.id.starts_with(&filter.id)
                && filter.label_selector.iter().all(|(key, value)| pod.config.labels.get(key) == Some(value))
            {
                stats.push(self.pod_stats(&pod).await);
            }
        }
        stats
    }

    pub async fn all_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let mut all = Vec::new();
        for pod in self.runtime.sandboxes().into_iter().filter(|pod| pod.ready) {
            let labels = |container: &str, id: &str, image: &str| {
                [&pod.config.name, &pod.config.namespace, container, id, image].map(str::to_owned).to_vec()
            };
            let mut container_metrics = Vec::new();
            for made in self.containers_of(&pod.id).iter().filter(|made| made.state == ContainerState::Running) {
                let stats = self.container_stats(made).await;
                let labels = labels(&made.config.name, &made.id, &made.config.image.reference);
                let metrics = METRICS.iter().filter_map(|(name, _, kind, read)| {
                    read(made, &stats).map(|value| metric(name, *kind, labels.clone(), value))
                });
                container_metrics
                    .push(cri::ContainerMetrics { container_id: made.id.clone(), metrics: metrics.collect() });
            }
            let mut metrics = Vec::new();
            for interface in interfaces(&pod) {
                let values = [&interface.rx_bytes, &interface.rx_errors, &interface.tx_bytes, &interface.tx_errors];
                for ((name, _), value) in NETWORK.iter().zip(values) {
                    let mut labels = labels("", &pod.id, "");
                    labels.push(interface.name.clone());
                    metrics.push(metric(name, MetricType::Counter, labels, value.map_or(0, |value| value.value)));
                }
            }
            all.push(cri::PodSandboxMetrics { pod_sandbox_id: pod.id.clone(), metrics, container_metrics });
        }
        all
    }
}

const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

type Read = fn(&ContainerStatus, &cri::ContainerStats) -> Option<u64>;

fn memory(stats: &cri::ContainerStats, field: fn(&cri::MemoryUsage) -> Option<cri::UInt64Value>) -> Option<u64> {
    stats.memory.as_ref().and_then(field).map(|value| value.value)
}

/// One row a metric: name, help, kind, and where it comes from.
const METRICS: &[(&str, &str, MetricType, Read)] = &[
    (
        "container_cpu_usage_seconds_total",
        "Cumulative CPU time consumed in seconds.",
        MetricType::Counter,
        |_, stats| stats.cpu.as_ref()?.usage_core_nano_seconds.map(|used| used.value / 1_000_000_000),
    ),
    (
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        MetricType::Gauge,
        |_, stats| memory(stats, |memory| memory.usage_bytes),
    ),
    (
        "container_memory_working_set_bytes",
        "Amount of memory that is actively used by the container, excluding cached memory.",
        MetricType::Gauge,
        |_, stats| memory(stats, |memory| memory.working_set_bytes),
    ),
    ("container_memory_rss", "Anonymous memory in bytes.", MetricType::Gauge, |_, stats| {
        memory(stats, |memory| memory.rss_bytes)
    }),
    ("container_memory_swap", "Container swap usage in bytes.", MetricType::Gauge, |_, stats| {
        stats.swap.as_ref()?.swap_usage_bytes.map(|swap| swap.value)
    }),
    ("container_fs_usage_bytes", "Bytes of the writable layer.", MetricType::Gauge, |_, stats| {
        stats.writable_layer.as_ref()?.used_bytes.map(|used| used.value)
    }),
    (
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds",
        MetricType::Gauge,
        |made, _| Some(made.started_at / 1_000_000_000),
    ),
    ("container_last_seen", "Last time a container was seen by the exporter", MetricType::Gauge, |_, _| {
        Some((now() / 1_000_000_000) as u64)
    }),
    ("container_spec_cpu_shares", "CPU share of the container", MetricType::Gauge, |made, _| {
        made.config.resources.cpu_shares
    }),
    ("container_spec_cpu_period", "CPU period of the container", MetricType::Gauge, |made, _| {
        made.config.resources.cpu_period
    }),
    ("container_spec_memory_limit_bytes", "Memory limit for the container", MetricType::Gauge, |made, _| {
        u64::try_from(made.config.resources.memory_limit.unwrap_or(0)).ok()
    }),
];

/// Of each interface, in the order of `NetworkInterfaceUsage`.
const NETWORK: [(&str, &str); 4] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received"),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"),
];

pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    let row = |name: &str, help: &str, more: &[&str]| cri::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: LABELS.iter().chain(more).map(|label| (*label).to_owned()).collect(),
    };
    let network = NETWORK.iter().map(|(name, help)| row(name, help, &["interface"]));
    METRICS.iter().map(|(name, help, ..)| row(name, help, &[])).chain(network).collect()
}

fn metric(name: &str, kind: MetricType, label_values: Vec<String>, number: u64) -> cri::Metric {
    cri::Metric {
        name: name.to_owned(),
        timestamp: now(),
        metric_type: kind.into(),
        label_values,
        value: value(number),
    }
}

/// What went over a pod's links, from its keeper's view; none on the host's network.
fn interfaces(pod: &SandboxStatus) -> Vec<cri::NetworkInterfaceUsage> {
    let Some(pid) = pod.keeper_pid.filter(|_| pod.netns.is_some()) else { return Vec::new() };
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let number = |at: usize| numbers.get(at).copied().and_then(value);
        (name.trim() != "lo").then(|| cri::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: number(0),
            rx_errors: number(2),
            tx_bytes: number(8),
            tx_errors: number(10),
        })
    };
    text.lines().filter_map(line).collect()
}
