//! Numbers: what containers and pods use, and the same as metrics with cadvisor's names (KEP-2371).

use rpc::cri::{self, MetricType};

use super::{Inner, now, shown};
use crate::containers::{
    CgroupStats, ContainerState, ContainerStatus, DiskIo, Runtime, SandboxStatus, Waited, link_counts,
};
use crate::lock;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn psi(stats: &CgroupStats, resource: &str) -> Option<cri::PsiStats> {
    let (_, [some, full]) = stats.pressure.iter().find(|(of, _)| *of == resource)?;
    let data = |of: &Waited| {
        let [avg10, avg60, avg300] = of.averages;
        Some(cri::PsiData { total: of.total_us * 1000, avg10, avg60, avg300 })
    };
    Some(cri::PsiStats { full: data(full), some: data(some) })
}

fn io(stats: &CgroupStats) -> Option<cri::IoUsage> {
    psi(stats, "io").map(|psi| cri::IoUsage { timestamp: now(), psi: Some(psi) })
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
            psi: psi(stats, "cpu"),
        };
        let memory = cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(stats.memory_working_set),
            available_bytes: stats.memory_limit.and_then(|limit| value(limit.saturating_sub(stats.memory_working_set))),
            usage_bytes: value(stats.memory_usage),
            rss_bytes: value(stats.memory_rss),
            page_faults: value(stats.page_faults),
            major_page_faults: value(stats.major_page_faults),
            psi: psi(stats, "memory"),
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
            io: io(&stats),
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
                io: io(&used),
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
            for made in self.containers_of(&pod.id).into_iter().filter(|made| made.state == ContainerState::Running) {
                let (id, common) = (made.id.clone(), labels(&made.config.name, &made.id, &made.config.image.reference));
                let disk = self.runtime.container_disk_usage(&made.id).await.unwrap_or_default();
                let Ok(cgroup) = self.runtime.container_cgroup(&made.id) else { continue };
                let runtime = self.runtime.clone();
                let look = tokio::task::spawn_blocking(move || Look::at(&runtime, &cgroup, made, disk));
                let Ok(look) = look.await else { continue };
                let mut metrics = Vec::new();
                for (name, _, kind, _, read) in METRICS {
                    for (more, value) in read(&look) {
                        metrics.push(metric(name, *kind, [common.clone(), more].concat(), value));
                    }
                }
                container_metrics.push(cri::ContainerMetrics { container_id: id, metrics });
            }
            let mut metrics = Vec::new();
            for (interface, counts) in links(&pod) {
                for ((name, _), value) in NETWORK.iter().zip(counts) {
                    let mut labels = labels("", &pod.id, "");
                    labels.push(interface.clone());
                    metrics.push(metric(name, MetricType::Counter, labels, value));
                }
            }
            all.push(cri::PodSandboxMetrics { pod_sandbox_id: pod.id.clone(), metrics, container_metrics });
        }
        all
    }
}

/// Everything that a container's metrics are read from.
struct Look {
    made: ContainerStatus,
    used: CgroupStats,
    /// Bytes and inodes of its writable layer, and the file system's: bytes, inodes, free ones.
    disk: (u64, u64),
    fs: (u64, u64, u64),
    threads: u64,
    files: u64,
    sockets: u64,
}

impl Look {
    fn at(runtime: &Runtime, cgroup: &str, made: ContainerStatus, disk: (u64, u64)) -> Look {
        let stat = rustix::fs::statvfs(&runtime.options().state_dir).ok();
        let (mut threads, mut files, mut sockets) = (0, 0, 0);
        for pid in runtime.cgroups().pids(cgroup) {
            threads += std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count() as u64);
            for file in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                files += 1;
                let is_socket = |link: std::path::PathBuf| link.to_string_lossy().starts_with("socket:");
                sockets += u64::from(std::fs::read_link(file.path()).is_ok_and(is_socket));
            }
        }
        Look {
            made,
            used: runtime.cgroups().stats(cgroup),
            disk,
            fs: stat.map_or((0, 0, 0), |stat| (stat.f_blocks * stat.f_frsize, stat.f_files, stat.f_ffree)),
            threads,
            files,
            sockets,
        }
    }

    fn limit(&self, of: impl Fn(&crate::containers::Resources) -> Option<i64>) -> u64 {
        of(&self.made.config.resources).and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0)
    }
}

const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// Values with what they have beside [`LABELS`].
type Values = Vec<(Vec<String>, u64)>;

fn one(value: u64) -> Values {
    vec![(Vec::new(), value)]
}

/// Of each disk.
fn disks(look: &Look, read: fn(&DiskIo) -> u64) -> Values {
    look.used.io.iter().map(|disk| (vec![disk.device.clone()], read(disk))).collect()
}

fn on_root(value: u64) -> Values {
    vec![(vec![String::new()], value)]
}

fn seconds(nanoseconds: u64) -> Values {
    one(nanoseconds / 1_000_000_000)
}

type Row = (&'static str, &'static str, MetricType, &'static [&'static str], fn(&Look) -> Values);

const COUNTER: MetricType = MetricType::Counter;
const GAUGE: MetricType = MetricType::Gauge;
const DEVICE: &[&str] = &["device"];

/// One row a metric: name, help, kind, further labels, and where it comes from.
#[rustfmt::skip]
const METRICS: &[Row] = &[
    ("container_cpu_usage_seconds_total", "Cumulative CPU time consumed in seconds.", COUNTER, &[], |l| seconds(l.used.cpu_usage_ns)),
    ("container_cpu_user_seconds_total", "Cumulative user CPU time consumed in seconds.", COUNTER, &[], |l| seconds(l.used.cpu_user_ns)),
    ("container_cpu_system_seconds_total", "Cumulative system CPU time consumed in seconds.", COUNTER, &[], |l| seconds(l.used.cpu_system_ns)),
    ("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", COUNTER, &[], |l| one(l.used.periods)),
    ("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", COUNTER, &[], |l| one(l.used.throttled_periods)),
    ("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", COUNTER, &[], |l| seconds(l.used.throttled_ns)),
    ("container_memory_usage_bytes", "Current memory usage in bytes, whenever it was accessed.", GAUGE, &[], |l| one(l.used.memory_usage)),
    ("container_memory_working_set_bytes", "Current working set in bytes.", GAUGE, &[], |l| one(l.used.memory_working_set)),
    ("container_memory_rss", "Size of RSS in bytes.", GAUGE, &[], |l| one(l.used.memory_rss)),
    ("container_memory_cache", "Number of bytes of page cache memory.", GAUGE, &[], |l| one(l.used.cache)),
    ("container_memory_swap", "Container swap usage in bytes.", GAUGE, &[], |l| one(l.used.swap_usage)),
    ("container_memory_mapped_file", "Size of memory mapped files in bytes.", GAUGE, &[], |l| one(l.used.mapped)),
    ("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", GAUGE, &[], |l| one(l.used.memory_max_usage)),
    ("container_memory_failcnt", "Number of times that the memory limit was hit.", COUNTER, &[], |l| one(l.used.memory_failures)),
    ("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", GAUGE, &[], |l| one(l.used.kernel_memory)),
    ("container_memory_failures_total", "Cumulative count of memory allocation failures.", COUNTER, &["failure_type", "scope"], |l| {
        let kind = |name: &str, value| (vec![name.to_owned(), "hierarchy".to_owned()], value);
        vec![kind("pgfault", l.used.page_faults), kind("pgmajfault", l.used.major_page_faults)]
    }),
    ("container_oom_events_total", "Count of out of memory events observed for the container.", COUNTER, &[], |l| one(l.used.oom_kills)),
    ("container_fs_usage_bytes", "Bytes of the writable layer.", GAUGE, DEVICE, |l| on_root(l.disk.0)),
    ("container_fs_limit_bytes", "Bytes that the container may consume on its file system.", GAUGE, DEVICE, |l| on_root(l.fs.0)),
    ("container_fs_inodes_total", "Number of inodes of the file system.", GAUGE, DEVICE, |l| on_root(l.fs.1)),
    ("container_fs_inodes_free", "Number of available inodes.", GAUGE, DEVICE, |l| on_root(l.fs.2)),
    ("container_fs_reads_total", "Cumulative count of reads completed.", COUNTER, DEVICE, |l| disks(l, |disk| disk.reads)),
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read.", COUNTER, DEVICE, |l| disks(l, |disk| disk.read_bytes)),
    ("container_fs_writes_total", "Cumulative count of writes completed.", COUNTER, DEVICE, |l| disks(l, |disk| disk.writes)),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written.", COUNTER, DEVICE, |l| disks(l, |disk| disk.written_bytes)),
    ("container_blkio_device_usage_total", "Blkio device bytes usage.", COUNTER, &["device", "operation"], |l| {
        let of = |disk: &DiskIo, name: &str, value| (vec![disk.device.clone(), name.to_owned()], value);
        l.used.io.iter().flat_map(|disk| [of(disk, "Read", disk.read_bytes), of(disk, "Write", disk.written_bytes)]).collect()
    }),
    ("container_processes", "Number of processes running inside the container.", GAUGE, &[], |l| one(l.used.pids)),
    ("container_threads", "Number of threads running inside the container.", GAUGE, &[], |l| one(l.threads)),
    ("container_threads_max", "Maximum number of threads allowed inside the container, 0 for no limit.", GAUGE, &[], |l| one(l.used.pids_limit)),
    ("container_file_descriptors", "Number of open file descriptors for the container.", GAUGE, &[], |l| one(l.files)),
    ("container_sockets", "Number of open sockets for the container.", GAUGE, &[], |l| one(l.sockets)),
    ("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", GAUGE, &[], |l| seconds(l.made.started_at)),
    ("container_last_seen", "Last time a container was seen by the exporter.", GAUGE, &[], |_| seconds(now() as u64)),
    ("container_spec_cpu_shares", "CPU share of the container.", GAUGE, &[], |l| one(l.made.config.resources.cpu_shares.unwrap_or(0))),
    ("container_spec_cpu_period", "CPU period of the container.", GAUGE, &[], |l| one(l.made.config.resources.cpu_period.unwrap_or(0))),
    ("container_spec_memory_limit_bytes", "Memory limit for the container.", GAUGE, &[], |l| one(l.limit(|of| of.memory_limit))),
    ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", GAUGE, &[], |l| one(l.limit(|of| of.memory_swap))),
];

/// Of each interface, in the order of [`links`].
const NETWORK: [(&str, &str); 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received"),
    ("container_network_receive_packets_total", "Cumulative count of packets received"),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted"),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"),
];

pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    let row = |name: &str, help: &str, more: &[&str]| cri::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: LABELS.iter().chain(more).map(|label| (*label).to_owned()).collect(),
    };
    let network = NETWORK.iter().map(|(name, help)| row(name, help, &["interface"]));
    METRICS.iter().map(|(name, help, _, more, _)| row(name, help, more)).chain(network).collect()
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
fn links(pod: &SandboxStatus) -> Vec<(String, [u64; 8])> {
    let Some(pid) = pod.keeper_pid.filter(|_| pod.netns.is_some()) else { return Vec::new() };
    link_counts(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn interfaces(pod: &SandboxStatus) -> Vec<cri::NetworkInterfaceUsage> {
    let usage = |(name, [rx, _, rx_errors, _, tx, _, tx_errors, _]): (String, [u64; 8])| cri::NetworkInterfaceUsage {
        name,
        rx_bytes: value(rx),
        rx_errors: value(rx_errors),
        tx_bytes: value(tx),
        tx_errors: value(tx_errors),
    };
    links(pod).into_iter().map(usage).collect()
}
