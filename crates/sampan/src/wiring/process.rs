//! What this process and its datastore take, as metrics.

use std::path::PathBuf;
use std::time::SystemTime;

use apiserver::Page;

/// The kernel's unit of times that it shows, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes `process_*` and the size of the datastore.
pub fn metrics(database: PathBuf) -> impl Fn(&mut Page) {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    move |page| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let status = read("status");
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
        };
        // Behind the name, which may have spaces: state is the third field, the times are the 14th and 15th.
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
        let limits = read("limits");
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let mut gauge = |name, help, value: f64| page.family(name, "gauge", help).sample(&[], value);
        let most = files.and_then(|n| n.parse().ok()).unwrap_or(0.0);
        gauge("process_max_fds", "Maximum number of open file descriptors.", most);
        gauge("process_open_fds", "Number of open file descriptors.", open as f64);
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", kilobytes("VmRSS") as f64);
        gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started);
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", kilobytes("VmSize") as f64);
        let help = "Total user and system CPU time spent in seconds.";
        page.family("process_cpu_seconds_total", "counter", help).sample(&[], ticks / TICKS_PER_SECOND);
        let bytes = std::fs::metadata(&database).map_or(0, |file| file.len());
        let help = "[STABLE] Size of the storage database file physically allocated in bytes.";
        page.family("apiserver_storage_size_bytes", "gauge", help).sample(&[("storage_cluster_id", "etcd-0")], bytes);
    }
}
