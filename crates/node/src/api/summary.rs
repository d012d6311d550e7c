//! Usage of the node and its pods: `/stats/summary` and the metrics endpoints.

use std::fmt::Write;

use serde_json::{Value, json};

use super::bare_id;
use crate::{
    kubelet::Kubelet,
    memory::SECOND,
    objects::lock,
    ports::{FsStats, InterfaceStats, Nanos, PodStats, Usage},
};

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

fn fs(at: Nanos, stats: &FsStats, used_bytes: u64, used_inodes: u64) -> Value {
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
        let node = self.shared.ports.host.usage().usage;
        let mut text = String::new();
        let mut rows: Vec<(&str, &str, &str, Vec<String>)> = vec![
            (
                "node_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the node in core-seconds",
                vec![format!(" {}", seconds(node.cpu_nanoseconds))],
            ),
            (
                "node_memory_working_set_bytes",
                "gauge",
                "Current working set of the node in bytes",
                vec![format!(" {}", node.memory_working_set_bytes)],
            ),
            (
                "container_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the container in core-seconds",
                Vec::new(),
            ),
            (
                "container_memory_working_set_bytes",
                "gauge",
                "Current working set of the container in bytes",
                Vec::new(),
            ),
            (
                "container_start_time_seconds",
                "gauge",
                "Start time of the container since unix epoch in seconds",
                Vec::new(),
            ),
            (
                "pod_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the pod in core-seconds",
                Vec::new(),
            ),
            ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", Vec::new()),
        ];
        for (view, stats) in self.usages().await {
            let meta = &view.desired.pod.metadata;
            for container in &view.observed.containers {
                let Some(usage) = stats.containers.get(&container.id) else { continue };
                let labels = format!(
                    "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                    container.name, meta.namespace, meta.name
                );
                rows[2].3.push(format!("{labels} {}", seconds(usage.cpu_nanoseconds)));
                rows[3].3.push(format!("{labels} {}", usage.memory_working_set_bytes));
                rows[4].3.push(format!("{labels} {}", container.created_at as f64 / SECOND as f64));
            }
            let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", meta.namespace, meta.name);
            rows[5].3.push(format!("{labels} {}", seconds(stats.pod.cpu_nanoseconds)));
            rows[6].3.push(format!("{labels} {}", stats.pod.memory_working_set_bytes));
        }
        for (name, kind, help, samples) in rows {
            let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
            for sample in samples {
                let _ = writeln!(text, "{name}{sample}");
            }
        }
        text.push_str("# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
        text
    }

    pub(super) async fn cadvisor_metrics(&self) -> String {
        type Of = fn(&Usage) -> String;
        let rows: [(&str, &str, &str, Of); 6] = [
            ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |usage| {
                seconds(usage.cpu_nanoseconds)
            }),
            (
                "container_memory_usage_bytes",
                "gauge",
                "Current memory usage in bytes, including all memory regardless of when it was accessed",
                |usage| usage.memory_usage_bytes.to_string(),
            ),
            ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |usage| {
                usage.memory_working_set_bytes.to_string()
            }),
            ("container_memory_rss", "gauge", "Size of RSS in bytes.", |usage| usage.memory_rss_bytes.to_string()),
            ("container_processes", "gauge", "Number of processes running inside the container.", |usage| {
                usage.processes.to_string()
            }),
            (
                "container_fs_usage_bytes",
                "gauge",
                "Number of bytes that are consumed by the container on this filesystem.",
                |usage| usage.root_fs_used_bytes.to_string(),
            ),
        ];
        let all = self.usages().await;
        let mut text = String::new();
        for (name, kind, help, of) in rows {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (view, stats) in &all {
                let meta = &view.desired.pod.metadata;
                for container in &view.observed.containers {
                    let Some(usage) = stats.containers.get(&container.id) else { continue };
                    let _ = writeln!(
                        text,
                        "{name}{{container=\"{}\",id=\"{}\",image=\"{}\",name=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}",
                        container.name,
                        container.id,
                        container.image,
                        container.id,
                        meta.namespace,
                        meta.name,
                        of(usage)
                    );
                }
            }
        }
        for (name, help, of) in [
            (
                "container_network_receive_bytes_total",
                "Cumulative count of bytes received",
                (|i| i.rx_bytes) as fn(&InterfaceStats) -> u64,
            ),
            ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (view, stats) in &all {
                let meta = &view.desired.pod.metadata;
                for interface in &stats.network {
                    let _ = writeln!(
                        text,
                        "{name}{{interface=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}",
                        interface.name,
                        meta.namespace,
                        meta.name,
                        of(interface)
                    );
                }
            }
        }
        let machine = &self.shared.machine;
        let _ = writeln!(
            text,
            "# HELP machine_cpu_cores Number of logical CPU cores.\n# TYPE machine_cpu_cores gauge\nmachine_cpu_cores {}",
            machine.cpus
        );
        let _ = writeln!(
            text,
            "# HELP machine_memory_bytes Amount of memory installed on the machine.\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {}",
            machine.memory_bytes
        );
        text
    }

    pub(super) fn own_metrics(&self) -> String {
        let views = self.views();
        let running = views.iter().filter(|view| view.observed.sandbox.is_some()).count();
        let containers: usize = views
            .iter()
            .map(|view| view.observed.containers.iter().filter(|c| crate::plan::is_running(c)).count())
            .sum();
        let pressed = lock(&self.health).not_ready.is_some();
        let name = &self.shared.config.node_name;
        let mut text = String::new();
        for (metric, help, value) in [
            ("kubelet_running_pods".to_owned(), "Number of pods that have a running pod sandbox", running),
            (
                "kubelet_running_containers{container_state=\"running\"}".to_owned(),
                "Number of containers currently running",
                containers,
            ),
            (format!("kubelet_node_name{{node=\"{name}\"}}"), "The node's name. The count is always 1.", 1),
            ("kubelet_node_not_ready".to_owned(), "Whether the node is not ready", usize::from(pressed)),
        ] {
            let bare = metric.split('{').next().unwrap_or_default();
            let _ = writeln!(text, "# HELP {bare} {help}\n# TYPE {bare} gauge\n{metric} {value}");
        }
        text
    }
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}", nanoseconds as f64 / 1e9)
}
