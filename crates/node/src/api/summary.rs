//! Usage of the node and its pods: `/stats/summary` and the metrics endpoints.

use std::fmt::{Display, Write};

use serde_json::{Value, json};

use super::bare_id;
use crate::kubelet::Kubelet;
use crate::memory::SECOND;
use crate::objects::lock;
use crate::ports::{FsStats, InterfaceStats, Nanos, PodStats, Usage};

fn time(nanos: Nanos) -> String {
    schema::time::format(nanos.div_euclid(SECOND))
}

fn cpu(usage: &Usage) -> Value {
    json!({"time": time(usage.at), "usageCoreNanoSeconds": usage.cpu_nanoseconds})
}

fn memory(usage: &Usage) -> Value {
    json!({
        "time": time(usage.at),
        "usageBytes": usage.memory_usage_bytes,
        "workingSetBytes": usage.memory_working_set_bytes,
        "rssBytes": usage.memory_rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    })
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
                        of["rootfs"] = fs(usage.at, &disk, usage.root_fs_used_bytes, usage.root_fs_inodes);
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
                of["network"] = network(stats.pod.at, &stats.network);
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
            own["network"] = network(at, &node.network);
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
        let (mut containers, mut interfaces) = (Vec::new(), Vec::new());
        for (view, stats) in &all {
            let (namespace, pod) = (&view.desired.pod.metadata.namespace, &view.desired.pod.metadata.name);
            for container in &view.observed.containers {
                let Some(usage) = stats.containers.get(&container.id) else { continue };
                let (name, id, image) = (&container.name, &container.id, &container.image);
                let labels = format!("container=\"{name}\",id=\"{id}\",image=\"{image}\",name=\"{id}\"");
                containers.push((format!("{{{labels},namespace=\"{namespace}\",pod=\"{pod}\"}}"), usage));
            }
            for interface in &stats.network {
                let labels = format!("interface=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"", interface.name);
                interfaces.push((format!("{{{labels}}}"), interface));
            }
        }
        const MEMORY: &str = "Current memory usage in bytes, including all memory regardless of when it was accessed";
        const DISK: &str = "Number of bytes that are consumed by the container on this filesystem.";
        let gauges: [(&str, &str, fn(&Usage) -> u64); 5] = [
            ("container_memory_usage_bytes", MEMORY, |usage| usage.memory_usage_bytes),
            ("container_memory_working_set_bytes", "Current working set in bytes.", |usage| {
                usage.memory_working_set_bytes
            }),
            ("container_memory_rss", "Size of RSS in bytes.", |usage| usage.memory_rss_bytes),
            ("container_processes", "Number of processes running inside the container.", |usage| usage.processes),
            ("container_fs_usage_bytes", DISK, |usage| usage.root_fs_used_bytes),
        ];
        let counters: [(&str, &str, fn(&InterfaceStats) -> u64); 2] = [
            ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
            ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ];
        let mut text = String::new();
        let samples = containers.iter().map(|(labels, usage)| (labels, seconds(usage.cpu_nanoseconds)));
        let help = "Cumulative cpu time consumed in seconds.";
        family(&mut text, "container_cpu_usage_seconds_total", "counter", help, samples);
        for (name, help, of) in gauges {
            family(&mut text, name, "gauge", help, containers.iter().map(|(labels, usage)| (labels, of(usage))));
        }
        for (name, help, of) in counters {
            family(&mut text, name, "counter", help, interfaces.iter().map(|(labels, of_link)| (labels, of(of_link))));
        }
        let machine = &self.shared.machine;
        family(&mut text, "machine_cpu_cores", "gauge", "Number of logical CPU cores.", [("", machine.cpus)]);
        let help = "Amount of memory installed on the machine.";
        family(&mut text, "machine_memory_bytes", "gauge", help, [("", machine.memory_bytes)]);
        text
    }

    pub(super) fn own_metrics(&self) -> String {
        let views = self.views();
        let running = views.iter().filter(|view| view.observed.sandbox.is_some()).count();
        let containers = views.iter().flat_map(|view| &view.observed.containers);
        let containers = containers.filter(|container| crate::plan::is_running(container)).count();
        let not_ready = usize::from(lock(&self.health).not_ready.is_some());
        let name = format!("{{node=\"{}\"}}", self.shared.config.node_name);
        let state = "{container_state=\"running\"}";
        let mut text = String::new();
        for (metric, labels, help, value) in [
            ("kubelet_running_pods", "", "Number of pods that have a running pod sandbox", running),
            ("kubelet_running_containers", state, "Number of containers currently running", containers),
            ("kubelet_node_name", name.as_str(), "The node's name. The count is always 1.", 1),
            ("kubelet_node_not_ready", "", "Whether the node is not ready", not_ready),
        ] {
            family(&mut text, metric, "gauge", help, [(labels, value)]);
        }
        text
    }
}

/// Appends a metric in the text format; a sample is its labels, braces and all, and its value.
pub(super) fn family<L: Display, V: Display>(
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

fn seconds(nanoseconds: u64) -> String {
    format!("{}", nanoseconds as f64 / 1e9)
}
