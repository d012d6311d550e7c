//! How the machine's CPUs and memory lie to each other, from /sys.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use node::topology::Topology;
use node::topology::cpus::{Cpu, parse};

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `root` is /sys/devices/system; what it does not tell is one core, one socket, one node.
pub fn read(root: &Path, memory_bytes: u64) -> Topology {
    let list = |path: &str| parse(&text(&root.join(path))).unwrap_or_default();
    let mut made = Topology::default();
    let mut node_of = BTreeMap::new();
    for node in list("node/online") {
        let dir = root.join(format!("node/node{node}"));
        node_of.extend(list(&format!("node/node{node}/cpulist")).into_iter().map(|cpu| (cpu, node)));
        // `Node 0 MemTotal:       65536 kB`
        let info = text(&dir.join("meminfo"));
        let total =
            info.lines().find_map(|line| line.split_once("MemTotal:")?.1.split_whitespace().next()?.parse().ok());
        let mut amounts = BTreeMap::from([("memory".to_owned(), total.unwrap_or(0u64) << 10)]);
        for entry in fs::read_dir(dir.join("hugepages")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = name.strip_prefix("hugepages-").and_then(|name| name.strip_suffix("kB")?.parse::<u64>().ok());
            if let (Some(kib), Ok(pages)) = (size, text(&entry.path().join("nr_hugepages")).parse::<u64>()) {
                amounts.insert(format!("hugepages-{}", super::host::page_size(kib)), pages * (kib << 10));
            }
        }
        made.nodes.insert(node, amounts);
        let distances = text(&dir.join("distance"));
        let others = list("node/online").into_iter().zip(distances.split_whitespace());
        made.distances.extend(others.filter_map(|(other, far)| Some(((node, other), far.parse().ok()?))));
    }
    if made.nodes.is_empty() {
        made.nodes.insert(0, [("memory".to_owned(), memory_bytes)].into());
    }
    let mut cpus = list("cpu/online");
    if cpus.is_empty() {
        cpus.extend(0..std::thread::available_parallelism().map_or(1, |count| count.get() as u32));
    }
    for id in cpus {
        let dir = root.join(format!("cpu/cpu{id}"));
        let first = |path: &str| parse(&text(&dir.join(path))).and_then(|set| set.first().copied());
        let socket = text(&dir.join("topology/physical_package_id")).parse().unwrap_or(0);
        made.cpus.push(Cpu {
            id,
            core: first("topology/thread_siblings_list").unwrap_or(id),
            socket,
            numa: node_of.get(&id).copied().unwrap_or(0),
            uncore: first("cache/index3/shared_cpu_list").unwrap_or(socket),
        });
    }
    made
}
