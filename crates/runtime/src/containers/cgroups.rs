//! Control groups as kubelet lays them out: absolute paths such as `/kubepods/burstable/podUID/CONTAINER`, on a unified
//! (v2) host or in v1 hierarchies, also where a v2 tree stands beside them without controllers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::Resources;
use super::device_filter;
use super::error::{At, Error, Result};
use crate::containers::spec;

/// Controllers of v1 that containers are accounted by. `freezer` is left out: nothing here freezes.
const V1_CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "pids", "blkio"];

#[derive(Clone, Debug)]
pub struct Cgroups {
    /// v1: controller to mount point, with `hugetlb` where it exists. Empty on a unified host.
    v1: Vec<(String, PathBuf)>,
    /// The v2 mount point, on a unified or a hybrid host.
    v2: Option<PathBuf>,
    /// v1's named hierarchy, where systemd keeps its services.
    named: Option<PathBuf>,
    /// Further v1 hierarchies, that only other runtimes make cgroups in: freezer, perf_event and such.
    others: Vec<PathBuf>,
}

/// One allowed class of devices: type `a`, `b` or `c`; `None` is any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

/// What a cgroup has used. Bytes, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupStats {
    pub cpu_usage_ns: u64,
    pub memory_usage: u64,
    /// Usage without the inactive file cache: what kubelet evicts by.
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub memory_limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap_usage: u64,
    pub pids: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Periods of the CPU quota, those that were used up, and how long was waited then.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub cache: u64,
    pub mapped: u64,
    pub memory_max_usage: u64,
    /// How often the memory's limit was hit.
    pub memory_failures: u64,
    /// Of the kernel on behalf of the cgroup.
    pub kernel_memory: u64,
    pub oom_kills: u64,
    /// 0: no limit of its own.
    pub pids_limit: u64,
    pub io: Vec<DiskIo>,
    /// `cpu`, `memory`, `io`: how some and all tasks have waited; version 2 alone tells.
    pub pressure: Vec<(&'static str, [Waited; 2])>,
}

/// For a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waited {
    pub total_us: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same for `full`, which older kernels do not tell of CPUs.
pub fn waited(text: &str) -> Option<[Waited; 2]> {
    let of = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let average = |name| value(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let total_us = value("total")?.parse().ok()?;
        Some(Waited { total_us, averages: [average("avg10"), average("avg60"), average("avg300")] })
    };
    Some([of("some ")?, of("full ").unwrap_or_default()])
}

/// Of one block device, by its number (`8:0`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskIo {
    pub device: String,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// `8:0 rbytes=1 wbytes=2 …` of version 2.
fn disks(text: &str) -> Vec<DiskIo> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let value = |name: &str| {
            let found = rest.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let (read_bytes, written_bytes) = (value("rbytes"), value("wbytes"));
        Some(DiskIo { device: device.into(), read_bytes, written_bytes, reads: value("rios"), writes: value("wios") })
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 Read 1` of version 1, for bytes and for operations.
fn disks_v1(bytes: &str, operations: &str) -> Vec<DiskIo> {
    let mut found: Vec<DiskIo> = Vec::new();
    for (text, counts) in [(bytes, false), (operations, true)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(what), Some(Ok(value))) =
                (words.next(), words.next(), words.next().map(str::parse::<u64>))
            else {
                continue;
            };
            let at = found.iter().position(|disk| disk.device == device).unwrap_or_else(|| {
                found.push(DiskIo { device: device.into(), ..DiskIo::default() });
                found.len() - 1
            });
            match (what, counts) {
                ("Read", false) => found[at].read_bytes = value,
                ("Write", false) => found[at].written_bytes = value,
                ("Read", true) => found[at].reads = value,
                ("Write", true) => found[at].writes = value,
                _ => {}
            }
        }
    }
    found
}

impl Cgroups {
    /// Finds what this host has mounted.
    pub fn detect() -> Result<Cgroups> {
        let info = fs::read_to_string("/proc/self/mountinfo").at("read", "/proc/self/mountinfo")?;
        Self::from_mountinfo(&info)
    }

    /// As a v2 host whose hierarchy is mounted here.
    pub fn unified_at(mount_point: impl Into<PathBuf>) -> Cgroups {
        Cgroups { v1: Vec::new(), v2: Some(mount_point.into()), named: None, others: Vec::new() }
    }

    fn from_mountinfo(info: &str) -> Result<Cgroups> {
        let mut found = Cgroups { v1: Vec::new(), v2: None, named: None, others: Vec::new() };
        for line in info.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), Some(fstype)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
            let options = right.split(' ').nth(2).unwrap_or("");
            match fstype {
                "cgroup2" => {
                    found.v2.get_or_insert_with(|| point.into());
                }
                "cgroup" => {
                    for option in options.split(',') {
                        if (V1_CONTROLLERS.contains(&option) || option == "hugetlb")
                            && !found.v1.iter().any(|(c, _)| c == option)
                        {
                            found.v1.push((option.to_string(), point.into()));
                        } else if option == "name=systemd" {
                            found.named = Some(point.into());
                        } else if matches!(option, "freezer" | "perf_event" | "net_cls" | "net_prio" | "rdma" | "misc")
                        {
                            found.others.push(point.into());
                        }
                    }
                }
                _ => {}
            }
        }
        if !found.v1.iter().any(|(c, _)| c == "memory") {
            found.v1.clear();
            if found.v2.is_none() {
                return Err(Error::NoCgroups);
            }
        }
        Ok(found)
    }

    /// Whether this is a v2 host.
    pub fn unified(&self) -> bool {
        self.v1.is_empty()
    }

    /// The directories that a cgroup is, one on v2, one for each different hierarchy on v1.
    pub fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for root in self.roots() {
            let dir = join(root, path);
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    fn roots(&self) -> Vec<&Path> {
        if self.unified() {
            self.v2.iter().map(PathBuf::as_path).collect()
        } else {
            self.v1.iter().map(|(_, p)| p.as_path()).collect()
        }
    }

    /// The directory that holds a controller's files.
    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let root = if self.unified() {
            self.v2.as_ref()
        } else {
            self.v1.iter().find(|(c, _)| c == controller).map(|(_, p)| p)
        };
        root.map(|root| join(root, path))
    }

    /// v1's controllers with the host directory of each for `path`, for mounting them into a container.
    pub fn v1_mounts(&self, path: &str) -> Vec<(String, PathBuf)> {
        let name = |root: &Path| root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut out: BTreeMap<PathBuf, String> = BTreeMap::new();
        for (_, root) in &self.v1 {
            out.insert(join(root, path), name(root));
        }
        out.into_iter().map(|(dir, name)| (name, dir)).collect()
    }

    /// Makes the cgroup and its parents; one that exists is fine.
    pub fn create(&self, path: &str) -> Result<()> {
        for root in self.roots() {
            let dir = join(root, path);
            if dir.is_dir() {
                continue;
            }
            let mut at = root.to_path_buf();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                if self.unified() {
                    enable_controllers(&at);
                }
                at.push(part);
                match fs::create_dir(&at) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).at("make cgroup", at),
                    _ => {}
                }
                if root.ends_with("cpuset") || self.v1.iter().any(|(c, p)| c == "cpuset" && p == root) {
                    inherit_cpuset(&at)?;
                }
            }
        }
        Ok(())
    }

    /// Writes limits.
    pub fn apply(&self, path: &str, r: &Resources) -> Result<()> {
        let mut files: Vec<(&str, String, String)> = Vec::new();
        let mut set = |controller, file: &str, value: String| files.push((controller, file.to_string(), value));
        let limit = |n: i64| if n < 0 { "max".to_string() } else { n.to_string() };
        if self.unified() {
            if let Some(shares) = r.cpu_shares.filter(|s| *s > 0) {
                set("cpu", "cpu.weight", weight(shares).to_string());
            }
            if r.cpu_quota.is_some() || r.cpu_period.is_some() {
                let quota = r.cpu_quota.filter(|q| *q > 0).map_or("max".to_string(), |q| q.to_string());
                set("cpu", "cpu.max", format!("{quota} {}", r.cpu_period.filter(|p| *p > 0).unwrap_or(100_000)));
            }
            if let Some(memory) = r.memory_limit.filter(|m| *m != 0) {
                set("memory", "memory.max", limit(memory));
                if let Some(swap) = r.memory_swap.filter(|s| *s != 0) {
                    set("memory", "memory.swap.max?", limit(if swap < 0 { -1 } else { (swap - memory.max(0)).max(0) }));
                }
            }
            if let Some(pids) = r.pids_limit {
                set("pids", "pids.max", if pids <= 0 { "max".into() } else { pids.to_string() });
            }
            for (size, bytes) in &r.hugepages {
                set("hugetlb", &format!("hugetlb.{size}.max?"), bytes.to_string());
            }
            for (file, value) in &r.unified {
                set("", &format!("{file}?"), value.clone());
            }
        } else {
            if let Some(shares) = r.cpu_shares.filter(|s| *s > 0) {
                set("cpu", "cpu.shares", shares.to_string());
            }
            if let Some(period) = r.cpu_period.filter(|p| *p > 0) {
                set("cpu", "cpu.cfs_period_us?", period.to_string());
            }
            if let Some(quota) = r.cpu_quota.filter(|q| *q != 0) {
                set("cpu", "cpu.cfs_quota_us?", quota.to_string());
            }
            if let Some(memory) = r.memory_limit.filter(|m| *m != 0) {
                set("memory", "memory.limit_in_bytes", memory.to_string());
                if let Some(swap) = r.memory_swap.filter(|s| *s != 0) {
                    set("memory", "memory.memsw.limit_in_bytes?", swap.to_string());
                }
            }
            if let Some(pids) = r.pids_limit {
                set("pids", "pids.max", if pids <= 0 { "max".into() } else { pids.to_string() });
            }
            for (size, bytes) in &r.hugepages {
                set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes?"), bytes.to_string());
            }
        }
        if !r.cpuset_cpus.is_empty() {
            set("cpuset", "cpuset.cpus", r.cpuset_cpus.clone());
        }
        if !r.cpuset_mems.is_empty() {
            set("cpuset", "cpuset.mems", r.cpuset_mems.clone());
        }
        for (controller, file, value) in files {
            // `?`: a kernel may be built without it.
            let (file, optional) = file.strip_suffix('?').map_or((file.as_str(), false), |f| (f, true));
            let Some(dir) = self.dir(controller, path) else { continue };
            let file = dir.join(file);
            match fs::write(&file, &value) {
                Err(e) if optional && e.kind() == io::ErrorKind::NotFound => {}
                // Growing memory and swap together, the second may have to go first.
                Err(_) if file.ends_with("memory.limit_in_bytes") && r.memory_swap.is_some() => {
                    let swap = dir.join("memory.memsw.limit_in_bytes");
                    let _ = fs::write(&swap, r.memory_swap.unwrap_or(-1).to_string());
                    fs::write(&file, &value).at("set", file)?;
                }
                done => done.at("set", file)?,
            }
        }
        Ok(())
    }

    /// Allows these devices and no others.
    pub fn allow_devices(&self, path: &str, rules: &[DeviceRule]) -> Result<()> {
        if self.unified() {
            let Some(dir) = self.dir("devices", path) else { return Ok(()) };
            return device_filter::attach(&dir, rules).at("attach the device filter to", dir);
        }
        let Some(dir) = self.dir("devices", path) else { return Ok(()) };
        fs::write(dir.join("devices.deny"), "a").at("deny devices in", &dir)?;
        for rule in rules {
            let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
            let line = match rule.kind {
                'a' => "a".to_string(),
                kind => format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access),
            };
            fs::write(dir.join("devices.allow"), line).at("allow devices in", &dir)?;
        }
        Ok(())
    }

    /// Removes the cgroup and what is beneath it, in all hierarchies, whoever made it; it must be empty of processes.
    /// One that is gone is fine.
    pub fn remove(&self, path: &str) -> Result<()> {
        if path.trim_matches('/').is_empty() {
            return Ok(());
        }
        let others = self.others.iter().chain(&self.named).chain(&self.v2).map(|root| join(root, path));
        for dir in self.dirs(path).into_iter().chain(others) {
            remove_tree(&dir).at("remove cgroup", dir)?;
        }
        Ok(())
    }

    /// Processes in the cgroup and beneath it.
    pub fn pids(&self, path: &str) -> Vec<i32> {
        // v1: any hierarchy tells; memory is there always.
        let mut pids = Vec::new();
        let mut todo: Vec<PathBuf> = self.dir("memory", path).into_iter().collect();
        while let Some(dir) = todo.pop() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        pids
    }

    /// Sends SIGKILL to everything in the cgroup, forks that race with it included. Returns whether it is empty by then.
    pub fn kill(&self, path: &str) -> bool {
        for _ in 0..16 {
            let pids = self.pids(path);
            if pids.is_empty() {
                return true;
            }
            for pid in pids.into_iter().filter(|pid| *pid > 0) {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        self.pids(path).is_empty()
    }

    /// How a process enters the cgroup.
    pub(crate) fn entry(&self, path: &str) -> spec::Cgroup {
        let bytes = |p: PathBuf| p.into_os_string().into_encoded_bytes();
        match self.unified() {
            true => spec::Cgroup {
                unified: self.dirs(path).pop().map(bytes).unwrap_or_default(),
                procs: vec![],
                namespace: true,
            },
            false => spec::Cgroup {
                unified: vec![],
                procs: self.dirs(path).into_iter().map(|d| bytes(d.join("cgroup.procs"))).collect(),
                namespace: false,
            },
        }
    }

    /// How a keeper gets out of our own service: v1's `cgroup.procs` files to enter, and v2's directory to be born in.
    /// Where we are in the root there is nothing to get out of: entering a v1 cgroup stalls everybody for ~10 ms.
    pub(crate) fn outside(&self, path: &str) -> (Vec<PathBuf>, Option<PathBuf>) {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let inside = |controller: &str| {
            own.lines().any(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let names = fields.next().unwrap_or_default();
                names.split(',').any(|name| name == controller) && fields.next() != Some("/")
            })
        };
        let mut roots: Vec<&PathBuf> = self.v1.iter().filter(|(c, _)| inside(c)).map(|(_, root)| root).collect();
        roots.extend(self.named.iter().filter(|_| inside("name=systemd")));
        roots.sort();
        roots.dedup();
        let make = |root: &PathBuf| {
            let dir = join(root, path);
            fs::create_dir_all(&dir).is_ok().then_some(dir)
        };
        let enter = |root: &&PathBuf| {
            let dir = make(root)?;
            if root.ends_with("cpuset") {
                let _ = inherit_cpuset(&dir);
            }
            Some(dir.join("cgroup.procs"))
        };
        (roots.iter().filter_map(enter).collect(), self.v2.as_ref().filter(|_| inside("")).and_then(make))
    }

    /// The file whose `oom_kill` line counts kills for memory.
    pub fn oom_file(&self, path: &str) -> Option<PathBuf> {
        let name = if self.unified() { "memory.events" } else { "memory.oom_control" };
        self.dir("memory", path).map(|d| d.join(name))
    }

    /// What has been used; zero where the kernel does not tell.
    pub fn stats(&self, path: &str) -> CgroupStats {
        let read = |controller: &str, file: &str| {
            self.dir(controller, path).and_then(|d| fs::read_to_string(d.join(file)).ok()).unwrap_or_default()
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let memory_stat = read("memory", "memory.stat");
        let field = |text: &str, name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok()).unwrap_or(0)
        };
        // v1 says 2^63 less a page for none.
        let limit = |text: String| text.trim().parse::<u64>().ok().filter(|n| *n < 1 << 62);
        let (usage, inactive, cpu, rss, swap, max);
        if self.unified() {
            usage = number(read("memory", "memory.current"));
            inactive = field(&memory_stat, "inactive_file");
            cpu = field(&read("cpu", "cpu.stat"), "usage_usec") * 1000;
            rss = field(&memory_stat, "anon");
            swap = number(read("memory", "memory.swap.current"));
            max = limit(read("memory", "memory.max"));
        } else {
            usage = number(read("memory", "memory.usage_in_bytes"));
            inactive = field(&memory_stat, "total_inactive_file");
            cpu = number(read("cpuacct", "cpuacct.usage"));
            rss = field(&memory_stat, "total_rss");
            swap = field(&memory_stat, "total_swap");
            max = limit(read("memory", "memory.limit_in_bytes"));
        }
        let unified = self.unified();
        let total = if unified { "" } else { "total_" };
        let cpu_stat = read("cpu", "cpu.stat");
        let spent = if unified { String::new() } else { read("cpuacct", "cpuacct.stat") };
        // v1 counts in hundredths of a second.
        let cpu_of = |name: &str| match unified {
            true => field(&cpu_stat, &format!("{name}_usec")) * 1000,
            false => field(&spent, name) * 10_000_000,
        };
        let pressure =
            |resource: &'static str| Some((resource, waited(&read(resource, &format!("{resource}.pressure")))?));
        CgroupStats {
            cpu_user_ns: cpu_of("user"),
            cpu_system_ns: cpu_of("system"),
            periods: field(&cpu_stat, "nr_periods"),
            throttled_periods: field(&cpu_stat, "nr_throttled"),
            throttled_ns: match unified {
                true => field(&cpu_stat, "throttled_usec") * 1000,
                false => field(&cpu_stat, "throttled_time"),
            },
            cache: field(&memory_stat, if unified { "file" } else { "total_cache" }),
            mapped: field(&memory_stat, if unified { "file_mapped" } else { "total_mapped_file" }),
            memory_max_usage: match unified {
                true => number(read("memory", "memory.peak")),
                false => number(read("memory", "memory.max_usage_in_bytes")),
            },
            memory_failures: match unified {
                true => field(&read("memory", "memory.events"), "max"),
                false => number(read("memory", "memory.failcnt")),
            },
            kernel_memory: match unified {
                true => field(&memory_stat, "kernel"),
                false => number(read("memory", "memory.kmem.usage_in_bytes")),
            },
            oom_kills: field(
                &self.oom_file(path).and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default(),
                "oom_kill",
            ),
            pids_limit: number(read("pids", "pids.max")),
            io: match unified {
                true => disks(&read("io", "io.stat")),
                false => disks_v1(
                    &read("blkio", "blkio.throttle.io_service_bytes_recursive"),
                    &read("blkio", "blkio.throttle.io_serviced_recursive"),
                ),
            },
            pressure: match unified {
                true => ["cpu", "memory", "io"].into_iter().filter_map(pressure).collect(),
                false => Vec::new(),
            },
            cpu_usage_ns: cpu,
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(inactive),
            memory_rss: rss,
            memory_limit: max,
            page_faults: field(&memory_stat, &format!("{total}pgfault")),
            major_page_faults: field(&memory_stat, &format!("{total}pgmajfault")),
            swap_usage: swap,
            pids: number(read("pids", "pids.current")),
        }
    }
}

fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_matches('/'))
}

/// Hands a v2 cgroup's controllers on to its children. The kernel may refuse single ones.
fn enable_controllers(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    for controller in available.split_whitespace().filter(|c| !enabled.contains(c)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// v1: a new cpuset is empty, and an empty one takes no process.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
        if own.trim().is_empty() {
            let parent = dir.parent().map(|p| fs::read_to_string(p.join(file)).unwrap_or_default()).unwrap_or_default();
            fs::write(dir.join(file), parent.trim()).at("set", dir.join(file))?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// v1's shares (2 to 262144) as v2's weight (1 to 10000), with 1024 as 100: the quadratic curve of runc and crun.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests;
