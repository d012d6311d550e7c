//! Usage of the node and its pods: `/stats/summary` and the metrics endpoints.

use serde_json::{Value, json};

use crate::kubelet::Kubelet;
use crate::memory::SECOND;
use crate::metrics::{self, family};
use crate::objects::lock;
use crate::ports::{Container, ContainerState, DiskIo, FsStats, InterfaceStats, Nanos, PodStats, Usage, Waited};
use crate::status::bare_id;

fn time(nanos: Nanos) -> String {
    schema::time::format(nanos.div_euclid(SECOND))
}

/// With how long tasks have waited for the resource, if the kernel tells.
fn psi(mut of: Value, usage: &Usage, resource: &str) -> Value {
    if let Some((_, [some, full])) = usage.stalled.iter().find(|(of, _)| *of == resource) {
        let data = |of: &Waited| {
            let [avg10, avg60, avg300] = of.averages;
            json!({"total": of.nanoseconds, "avg10": avg10, "avg60": avg60, "avg300": avg300})
        };
        of["psi"] = json!({"full": data(full), "some": data(some)});
    }
    of
}

/// Of who has been asked for everything.
fn io(of: &mut Value, usage: &Usage) {
    if usage.stalled.iter().any(|(of, _)| *of == "io") {
        of["io"] = psi(json!({"time": time(usage.at)}), usage, "io");
    }
}

fn cpu(usage: &Usage) -> Value {
    psi(json!({"time": time(usage.at), "usageCoreNanoSeconds": usage.cpu_nanoseconds}), usage, "cpu")
}

fn memory(usage: &Usage) -> Value {
    let mut of = json!({
        "time": time(usage.at),
        "usageBytes": usage.memory_usage_bytes,
        "workingSetBytes": usage.memory_working_set_bytes,
        "rssBytes": usage.memory_rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if usage.memory_limit_bytes > 0 {
        of["availableBytes"] = json!(usage.memory_limit_bytes.saturating_sub(usage.memory_working_set_bytes));
    }
    psi(of, usage, "memory")
}

fn swap(usage: &Usage) -> Value {
    json!({"time": time(usage.at), "swapUsageBytes": usage.memory_swap_bytes})
}

fn network(at: Nanos, all: &[InterfaceStats]) -> Value {
    let of = |interface: &InterfaceStats| {
        json!({
            "name": interface.name,
            "rxBytes": interface.rx_bytes,
            "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes,
            "txErrors": interface.tx_errors,
        })
    };
    let mut value = all.first().map_or_else(|| json!({}), of);
    value["time"] = json!(time(at));
    value["interfaces"] = all.iter().map(of).collect();
    value
}

pub(super) fn fs(at: Nanos, stats: &FsStats, used_bytes: u64, used_inodes: u64) -> Value {
    json!({
        "time": time(at),
        "availableBytes": stats.available_bytes,
        "capacityBytes": stats.capacity_bytes,
        "usedBytes": used_bytes,
        "inodesFree": stats.inodes_free,
        "inodes": stats.inodes,
        "inodesUsed": used_inodes,
    })
}

impl Kubelet {
    /// All pods' usage, with the container names in place of ids.
    async fn usages(&self) -> Vec<(std::sync::Arc<crate::worker::View>, PodStats)> {
        let mut all = Vec::new();
        for view in self.views() {
            if let Ok(stats) = self.shared.ports.runtime.stats(view.desired.uid()).await {
                all.push((view, stats));
            }
        }
        all
    }

    pub(super) async fn summary(&self, only_cpu_and_memory: bool) -> String {
        let shared = &self.shared;
        let node = shared.ports.host.usage();
        let disk = shared.ports.host.fs(&shared.config.root_dir).unwrap_or_default();
        let (image_bytes, image_inodes) = shared.ports.images.usage().await.unwrap_or_default();
        let at = node.usage.at;
        let mut pods = Vec::new();
        for (view, stats) in self.usages().await {
            let meta = &view.desired.pod.metadata;
            let containers: Vec<Value> = view
                .observed
                .containers
                .iter()
                .filter_map(|container| {
                    let usage = stats.containers.get(bare_id(&container.id))?;
                    let mut of = json!({
                        "name": container.name,
                        "startTime": time(container.created_at),
                        "cpu": cpu(usage),
                        "memory": memory(usage),
                    });
                    if !only_cpu_and_memory {
                        of["swap"] = swap(usage);
                        of["rootfs"] = fs(usage.at, &disk, usage.root_fs_used_bytes, usage.root_fs_inodes);
                        io(&mut of, usage);
                    }
                    Some(of)
                })
                .collect();
            let mut of = json!({
                "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
                "startTime": view.status.start_time.map(|time| schema::time::format(time.seconds)),
                "containers": containers,
                "cpu": cpu(&stats.pod),
                "memory": memory(&stats.pod),
            });
            if !only_cpu_and_memory {
                of["swap"] = swap(&stats.pod);
                of["network"] = network(stats.pod.at, &stats.network);
                io(&mut of, &stats.pod);
                let volumes = self.volume_stats(&view).await;
                if !volumes.is_empty() {
                    of["volume"] = volumes.iter().map(|volume| volume.json(at, &meta.namespace)).collect();
                }
                of["process_stats"] = json!({"process_count": stats.pod.processes});
                let used = stats.containers.values().map(|usage| usage.root_fs_used_bytes).sum();
                of["ephemeral-storage"] =
                    fs(at, &disk, used, stats.containers.values().map(|usage| usage.root_fs_inodes).sum());
            }
            pods.push(of);
        }
        let mut node_memory = memory(&node.usage);
        node_memory["availableBytes"] = json!(node.memory_available_bytes);
        let mut own = json!({
            "nodeName": shared.config.node_name,
            "cpu": cpu(&node.usage),
            "memory": node_memory,
        });
        if !only_cpu_and_memory {
            own["swap"] = swap(&node.usage);
            own["swap"]["swapAvailableBytes"] =
                json!(shared.machine.swap_bytes.saturating_sub(node.usage.memory_swap_bytes));
            own["network"] = network(at, &node.network);
            io(&mut own, &node.usage);
            own["fs"] = fs(
                at,
                &disk,
                disk.capacity_bytes.saturating_sub(disk.available_bytes),
                disk.inodes.saturating_sub(disk.inodes_free),
            );
            own["runtime"] = json!({"imageFs": fs(at, &disk, image_bytes, image_inodes)});
            own["rlimit"] = json!({"time": time(at), "maxpid": shared.machine.pids_limit, "curproc": node.processes});
        }
        json!({"node": own, "pods": pods}).to_string()
    }

    pub(super) async fn resource_metrics(&self) -> String {
        let (mut containers, mut starts, mut pods) = (Vec::new(), Vec::new(), Vec::new());
        for (view, stats) in self.usages().await {
            let (namespace, pod) = (&view.desired.pod.metadata.namespace, &view.desired.pod.metadata.name);
            for container in &view.observed.containers {
                let Some(usage) = stats.containers.get(&container.id) else { continue };
                let labels = format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", container.name);
                starts.push((labels.clone(), container.created_at as f64 / SECOND as f64));
                containers.push((labels, usage.clone()));
            }
            pods.push((format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}"), stats.pod));
        }
        let node = vec![(String::new(), self.shared.ports.host.usage().usage)];
        let mut text = String::new();
        for (scope, all) in [("node", node), ("container", containers), ("pod", pods)] {
            let help = format!("[STABLE] Cumulative cpu time consumed by the {scope} in core-seconds");
            let samples = all.iter().map(|(labels, usage)| (labels, seconds(usage.cpu_nanoseconds)));
            family(&mut text, &format!("{scope}_cpu_usage_seconds_total"), "counter", &help, samples);
            let help = format!("[STABLE] Current working set of the {scope} in bytes");
            let samples = all.iter().map(|(labels, usage)| (labels, usage.memory_working_set_bytes));
            family(&mut text, &format!("{scope}_memory_working_set_bytes"), "gauge", &help, samples);
            if scope == "container" {
                let help = "[STABLE] Start time of the container since unix epoch in seconds";
                family(&mut text, "container_start_time_seconds", "gauge", help, starts.drain(..));
            }
        }
        let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
        family(&mut text, "resource_scrape_error", "gauge", help, [("", 0)]);
        text
    }

    pub(super) async fn cadvisor_metrics(&self) -> String {
        let all = self.usages().await;
        // With its labels: containers, and pods as a whole, which have neither name nor image.
        let (mut rows, mut interfaces, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for (view, stats) in &all {
            let pod = &view.desired.pod;
            let group = format!("/{}", crate::resources::cgroup(pod));
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            let tail = format!("namespace=\"{namespace}\",pod=\"{name}\"");
            for container in &view.observed.containers {
                let Some(usage) = stats.containers.get(&container.id) else { continue };
                let (own, id, image) = (&container.name, &container.id, &container.image);
                let head = format!("container=\"{own}\",id=\"{group}/{id}\",image=\"{image}\"");
                starts.push((format!("{{{head},name=\"{id}\",{tail}}}"), container.created_at / SECOND));
                rows.push((head, format!("name=\"{id}\",{tail}"), usage));
            }
            let head = format!("container=\"\",id=\"{group}\",image=\"\"");
            for link in &stats.network {
                let labels = format!("{{{head},interface=\"{}\",name=\"\",{tail}}}", link.name);
                interfaces.push((labels, link));
            }
            rows.push((head, format!("name=\"\",{tail}"), &stats.pod));
        }
        let mut text = String::new();
        let plain = |of: fn(&Usage) -> u64| {
            rows.iter().map(move |(head, tail, usage)| (format!("{{{head},{tail}}}"), of(usage)))
        };
        let timed = |of: fn(&Usage) -> u64, label: &'static str| {
            rows.iter().map(move |(head, tail, usage)| (format!("{{{head},{label}{tail}}}"), seconds(of(usage))))
        };
        for (name, label, help, of) in SECONDS {
            family(&mut text, name, "counter", help, timed(of, label));
        }
        for (name, kind, help, of) in FIGURES {
            family(&mut text, name, kind, help, plain(of));
        }
        for (name, help, of) in IO {
            let samples = rows.iter().flat_map(|(head, tail, usage)| {
                usage.io.iter().map(move |io| {
                    let labels = format!("{{{head},device=\"{}\",{tail}}}", io.device);
                    (labels, of(io))
                })
            });
            family(&mut text, name, "counter", help, samples);
        }
        for resource in ["cpu", "memory", "io"] {
            for (of_all, kind) in [(false, "waiting"), (true, "stalled")] {
                let name = format!("container_pressure_{resource}_{kind}_seconds_total");
                let help = format!(
                    "Total time duration tasks in the container have been {kind} due to {resource} congestion."
                );
                let samples = rows.iter().filter_map(|(head, tail, usage)| {
                    let (_, both) = usage.stalled.iter().find(|(of, _)| *of == resource)?;
                    Some((format!("{{{head},{tail}}}"), seconds(both[usize::from(of_all)].nanoseconds)))
                });
                family(&mut text, &name, "counter", &help, samples);
            }
        }
        for (name, help, of) in LINKS {
            family(&mut text, name, "counter", help, interfaces.iter().map(|(labels, link)| (labels, of(link))));
        }
        let help = "Start time of the container since unix epoch in seconds.";
        family(&mut text, "container_start_time_seconds", "gauge", help, starts);
        let machine = &self.shared.machine;
        let topology = self.shared.ports.host.topology();
        let count = |of: fn(&crate::topology::cpus::Cpu) -> u32| {
            topology.cpus.iter().map(of).collect::<std::collections::BTreeSet<u32>>().len() as u64
        };
        let (boot, id, uuid) = (&machine.boot_id, &machine.machine_id, &machine.system_uuid);
        let labels = format!("{{boot_id=\"{boot}\",machine_id=\"{id}\",system_uuid=\"{uuid}\"}}");
        for (name, help, value) in [
            ("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus),
            ("machine_cpu_physical_cores", "Number of physical CPU cores.", count(|cpu| cpu.core)),
            ("machine_cpu_sockets", "Number of CPU sockets.", count(|cpu| cpu.socket)),
            ("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes),
            ("machine_swap_bytes", "Amount of swap memory available on the machine.", machine.swap_bytes),
        ] {
            family(&mut text, name, "gauge", help, [(&labels, value)]);
        }
        text
    }

    pub(crate) fn own_metrics(&self) -> String {
        let views = self.views();
        let running = views.iter().filter(|view| view.observed.sandbox.is_some()).count();
        let of = |is: fn(&Container) -> bool| {
            views.iter().flat_map(|view| &view.observed.containers).filter(|container| is(container)).count()
        };
        let not_ready = usize::from(lock(&self.health).not_ready.is_some());
        let name = format!("{{node=\"{}\"}}", self.shared.config.node_name);
        let mut text = String::new();
        let help = "Number of containers currently running";
        let states = [
            ("{container_state=\"created\"}", of(|container| container.state == ContainerState::Created)),
            ("{container_state=\"exited\"}", of(|container| matches!(container.state, ContainerState::Exited(_)))),
            ("{container_state=\"running\"}", of(crate::plan::is_running)),
            ("{container_state=\"unknown\"}", of(|container| container.state == ContainerState::Unknown)),
        ];
        family(&mut text, "kubelet_running_containers", "gauge", help, states);
        for (metric, labels, help, value) in [
            ("kubelet_running_pods", "", "Number of pods that have a running pod sandbox", running),
            ("kubelet_node_name", name.as_str(), "The node's name. The count is always 1.", 1),
            ("kubelet_node_not_ready", "", "Whether the node is not ready", not_ready),
        ] {
            family(&mut text, metric, "gauge", help, [(labels, value)]);
        }
        let version = &self.shared.config.version;
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let labels = format!(
            "{{git_version=\"{version}\",major=\"{major}\",minor=\"{minor}\",platform=\"linux/{}\"}}",
            self.shared.machine.architecture
        );
        let help = "A metric with a constant '1' value labeled by the version from which Kubernetes was built";
        family(&mut text, "kubernetes_build_info", "gauge", help, [(labels, 1)]);
        self.shared.metrics.text(&mut text, false);
        self.shared.puller.metrics(&mut text);
        for (name, kind, help, value) in metrics::process() {
            family(&mut text, name, kind, help, [("", value)]);
        }
        text
    }
}

type Figure = (&'static str, &'static str, &'static str, fn(&Usage) -> u64);

/// Times: name, a label of its own, help, nanoseconds.
#[rustfmt::skip]
const SECONDS: [Figure; 4] = [
    ("container_cpu_usage_seconds_total", "cpu=\"total\",", "Cumulative cpu time consumed in seconds.", |of| of.cpu_nanoseconds),
    ("container_cpu_user_seconds_total", "", "Cumulative user cpu time consumed in seconds.", |of| of.cpu_user_nanoseconds),
    ("container_cpu_system_seconds_total", "", "Cumulative system cpu time consumed in seconds.", |of| of.cpu_system_nanoseconds),
    ("container_cpu_cfs_throttled_seconds_total", "", "Total time duration the container has been throttled.", |of| of.cfs_throttled_nanoseconds),
];

/// Others: name, kind, help, value.
#[rustfmt::skip]
const FIGURES: [Figure; 13] = [
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |of| of.cfs_periods),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |of| of.cfs_throttled_periods),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", |of| of.memory_usage_bytes),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |of| of.memory_working_set_bytes),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |of| of.memory_rss_bytes),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |of| of.memory_cache_bytes),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |of| of.memory_swap_bytes),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |of| of.memory_mapped_bytes),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |of| of.memory_max_bytes),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |of| of.memory_failures),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |of| of.memory_limit_bytes),
    ("container_processes", "gauge", "Number of processes running inside the container.", |of| of.processes),
    ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |of| of.root_fs_used_bytes),
];

type Io = (&'static str, &'static str, fn(&DiskIo) -> u64);

const IO: [Io; 4] = [
    ("container_fs_reads_total", "Cumulative count of reads completed", |io| io.reads),
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |io| io.read_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |io| io.writes),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |io| io.written_bytes),
];

type Link = (&'static str, &'static str, fn(&InterfaceStats) -> u64);

#[rustfmt::skip]
const LINKS: [Link; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |link| link.rx_bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |link| link.rx_packets),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |link| link.rx_errors),
    ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", |link| link.rx_dropped),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |link| link.tx_bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |link| link.tx_packets),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |link| link.tx_errors),
    ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", |link| link.tx_dropped),
];

fn seconds(nanoseconds: u64) -> String {
    format!("{}", nanoseconds as f64 / 1e9)
}
