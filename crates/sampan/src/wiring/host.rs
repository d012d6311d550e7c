//! The machine, from /proc, /sys and statvfs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use node::ports::{
    Clock, Error, FsStats, Host, InterfaceStats, Keys, Machine, Nanos, NewKey, NodeUsage, Shutdowns, Usage, Waited,
};
use pki::{Algorithm, CertificateRequest, KeyPair, Names, Subject, SystemRandom};
use reconcile::io::BoxFuture;
use tokio::sync::Notify;

/// The wall clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        now_ns()
    }
}

impl apiserver::seams::Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

pub fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Keys of pods, of the kinds that ring makes.
pub struct LocalKeys;

impl Keys for LocalKeys {
    fn make(&self, kind: &str) -> Result<NewKey, Error> {
        let algorithm = match kind {
            "ECDSAP256" => Algorithm::P256,
            "ECDSAP384" => Algorithm::P384,
            "ED25519" => Algorithm::Ed25519,
            _ => {
                let made = "ECDSAP256, ECDSAP384 and ED25519";
                return Err(Error::Failed(format!("this node makes no keys of type {kind}, but of {made}")));
            }
        };
        let random = SystemRandom::new();
        let failed = |error: pki::Error| Error::Failed(error.to_string());
        let key = KeyPair::generate_as(algorithm, &random).map_err(failed)?;
        let request = CertificateRequest::create_der(&key, &Subject::default(), &Names::default(), &random);
        Ok(NewKey { pem: key.to_pem(), request: request.map_err(failed)? })
    }
}

pub struct LocalHost {
    pressure: Arc<Notify>,
}

impl LocalHost {
    pub fn new() -> Self {
        let pressure = Arc::default();
        if let Err(error) = watch_memory(Arc::clone(&pressure)) {
            // Old kernels, and such as were told not to watch: memory is looked at from time to time only.
            tracing::debug!(%error, "the kernel does not tell when memory is short");
        }
        Self { pressure }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `Name:  123 kB` lines, in bytes.
fn meminfo() -> BTreeMap<String, u64> {
    text("/proc/meminfo")
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let mut words = rest.split_whitespace();
            let number: u64 = words.next()?.parse().ok()?;
            Some((name.to_owned(), if words.next() == Some("kB") { number * 1024 } else { number }))
        })
        .collect()
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn os_image() -> String {
    text("/etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// `2Mi`, as resources are named.
pub fn page_size(kib: u64) -> String {
    match kib {
        ..1024 => format!("{kib}Ki"),
        1024..1_048_576 => format!("{}Mi", kib >> 10),
        _ => format!("{}Gi", kib >> 20),
    }
}

fn hugepages() -> BTreeMap<String, u64> {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeMap::new() };
    sizes
        .flatten()
        .filter_map(|entry| {
            let kib: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages: u64 = text(entry.path().join("nr_hugepages").to_str()?).parse().ok()?;
            Some((page_size(kib), pages * kib * 1024))
        })
        .collect()
}

impl Host for LocalHost {
    fn machine(&self) -> Machine {
        let memory = meminfo();
        let machine_id = Some(text("/etc/machine-id"))
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| text("/var/lib/dbus/machine-id"));
        let system_uuid = text("/sys/class/dmi/id/product_uuid").to_lowercase();
        Machine {
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel_version: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(),
            architecture: architecture().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
            memory_bytes: memory.get("MemTotal").copied().unwrap_or(0),
            unified_cgroups: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            apparmor: runtime::containers::apparmor::enabled(),
            swap_bytes: memory.get("SwapTotal").copied().unwrap_or(0),
            hugepages: hugepages(),
            pids_limit: text("/proc/sys/kernel/pid_max").parse().unwrap_or(32768),
        }
    }

    fn topology(&self) -> node::topology::Topology {
        let bytes = meminfo().get("MemTotal").copied().unwrap_or(0);
        super::topology::read(Path::new("/sys/devices/system"), bytes)
    }

    fn usage(&self) -> NodeUsage {
        let memory = meminfo();
        let of = |name: &str| memory.get(name).copied().unwrap_or(0);
        let available = of("MemAvailable");
        let used = of("MemTotal").saturating_sub(of("MemFree"));
        NodeUsage {
            usage: Usage {
                at: now_ns(),
                cpu_nanoseconds: cpu_nanoseconds(),
                memory_usage_bytes: used,
                memory_working_set_bytes: of("MemTotal").saturating_sub(available),
                memory_rss_bytes: of("AnonPages"),
                stalled: stalled(),
                memory_swap_bytes: of("SwapTotal").saturating_sub(of("SwapFree")),
                ..Usage::default()
            },
            memory_available_bytes: available,
            processes: text("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|count| count.parse().ok()).unwrap_or(0),
            network: interfaces("/proc/net/dev"),
        }
    }

    fn shutdowns(&self, time: Duration) -> Option<Shutdowns> {
        super::logind::follow(Path::new("/run/dbus/system_bus_socket"), time).ok()
    }

    fn memory_pressure(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pressure.notified())
    }

    fn fs(&self, path: &Path) -> node::ports::Result<FsStats> {
        let stats = rustix::fs::statvfs(path)
            .map_err(|error| Error::Failed(format!("cannot look at the file system of {}: {error}", path.display())))?;
        Ok(FsStats {
            capacity_bytes: stats.f_blocks * stats.f_frsize,
            available_bytes: stats.f_bavail * stats.f_frsize,
            inodes: stats.f_files,
            inodes_free: stats.f_ffree,
        })
    }
}

/// All tasks of the machine.
fn stalled() -> Vec<(&'static str, [Waited; 2])> {
    let of = |resource| {
        let both = runtime::containers::waited(&text(&format!("/proc/pressure/{resource}")))?;
        Some((resource, both.map(super::runtime::waited)))
    };
    ["cpu", "memory", "io"].into_iter().filter_map(of).collect()
}

const STACK_BYTES: usize = 64 << 10;

/// Tells whenever tasks have stalled for want of memory for a tenth of a second within two: for as long as the process
/// lives, in a thread of its own, which sleeps in the kernel.
fn watch_memory(tell: Arc<Notify>) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    use std::io::Write;
    let mut file = fs::OpenOptions::new().read(true).write(true).open("/proc/pressure/memory")?;
    file.write_all(b"some 100000 2000000\0")?;
    let watch = move || {
        loop {
            let mut asked = [PollFd::new(&file, PollFlags::PRI)];
            match poll(&mut asked, None) {
                Ok(_) if asked[0].revents().contains(PollFlags::ERR) => return,
                Ok(_) => tell.notify_one(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::warn!(%error, "the kernel tells no more that memory is short"),
            }
        }
    };
    std::thread::Builder::new().name("pressure".into()).stack_size(STACK_BYTES).spawn(watch).map(drop)
}

/// Busy time of all CPUs since boot: every column of `cpu` but idle and iowait, in ticks of 10 ms.
fn cpu_nanoseconds() -> u64 {
    let stat = text("/proc/stat");
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).enumerate();
    ticks.filter(|(column, _)| !matches!(column, 3 | 4)).filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>()
        * 10_000_000
}

/// Counters of a network namespace, from its `net/dev`.
pub fn interfaces(path: &str) -> Vec<InterfaceStats> {
    let stats = |(name, counts): (String, [u64; 8])| {
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped] = counts;
        InterfaceStats {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        }
    };
    runtime::containers::link_counts(&text(path)).into_iter().map(stats).collect()
}
