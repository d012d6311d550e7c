//! From what was asked to what the keeper does: every default of a container, as containerd's CRI gives them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::cgroups::{Cgroups, DeviceRule};
use super::config::{ContainerConfig, Options, Propagation, SandboxConfig, Seccomp};
use super::error::{At, Error, Result};
use super::spec::{self, Bytes};
use super::{apparmor, caps, seccomp};

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
const STRICTATIME: u64 = 0x20;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Character devices of every container: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Default seccomp filters by capabilities: a machine's containers share very few.
#[derive(Default)]
pub struct Filters(Mutex<HashMap<u64, Bytes>>);

impl Filters {
    fn runtime_default(&self, capabilities: u64) -> Result<Bytes, seccomp::Error> {
        let mut filters = crate::lock(&self.0);
        if let Some(filter) = filters.get(&capabilities) {
            return Ok(filter.clone());
        }
        let filter = seccomp::compile(&seccomp::runtime_default(capabilities))?;
        filters.insert(capabilities, filter.clone());
        Ok(filter)
    }
}

/// A container's directories and what it shares with its pod.
pub struct Places<'a> {
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory, the same for all: each mounts on it in a namespace of its own.
    pub root: PathBuf,
    /// The layer beneath the image's.
    pub base: PathBuf,
    pub cgroup: &'a str,
    /// The pod's shm, `hostname` and `resolv.conf`.
    pub shm: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

/// What a container becomes.
pub struct Resolved {
    pub spec: spec::Create,
    pub devices: Vec<DeviceRule>,
}

pub fn container(
    options: &Options,
    filters: &Filters,
    cgroups: &Cgroups,
    pod: &SandboxConfig,
    c: &ContainerConfig,
    places: &Places<'_>,
) -> Result<Resolved> {
    let refuse = |what: String| Error::Config { container: c.name.clone(), what };
    if c.image.lower.is_empty() {
        return Err(refuse("its image has no layers".into()));
    }
    let process = process(options, filters, pod, c, &exec_args(c), c.tty).map_err(|e| match e {
        Error::Config { what, .. } => refuse(what),
        other => other,
    })?;
    let (devices, rules) = devices(c)?;
    let security = &c.security;
    let paths = |given: &Option<Vec<String>>, usual: &[&str]| match (security.privileged, given) {
        (true, _) => Vec::new(),
        (_, Some(list)) => list.iter().map(bytes).collect(),
        (_, None) => usual.iter().map(bytes).collect(),
    };
    let spec = spec::Create {
        cgroup: cgroups.entry(places.cgroup),
        oom_score_adj: Some(oom_score_adj(c)),
        new_pid: !pod.host_pid && !pod.share_process_namespace && c.pid_of.is_empty(),
        shared_pid: !pod.host_pid && (pod.share_process_namespace || !c.pid_of.is_empty()),
        root: spec::Root {
            lower: c.image.lower.iter().chain([&places.base]).map(path).collect(),
            upper: path(&places.upper),
            work: path(&places.work),
            target: path(&places.root),
            readonly: security.readonly_rootfs,
            writable: match security.readonly_rootfs {
                true => c.image.volumes.iter().map(|v| bytes(clean(v))).filter(|v| v != b"/").collect(),
                false => vec![],
            },
        },
        mounts: mounts(cgroups, pod, c, places).map_err(refuse)?,
        devices,
        masked_paths: paths(&security.masked_paths, &MASKED_PATHS),
        readonly_paths: paths(&security.readonly_paths, &READONLY_PATHS),
        process,
    };
    Ok(Resolved { spec, devices: rules })
}

/// Never the keeper's own, which is protected.
pub fn oom_score_adj(c: &ContainerConfig) -> i32 {
    c.resources.oom_score_adj.unwrap_or(0)
}

/// The image's and the container's words together.
fn exec_args(c: &ContainerConfig) -> Vec<String> {
    let image = &c.image;
    let command = if c.command.is_empty() { &image.entrypoint } else { &c.command };
    let args = if c.command.is_empty() && c.args.is_empty() { &image.cmd } else { &c.args };
    command.iter().chain(args).cloned().collect()
}

/// A process of the container: its own, or an exec's with other `args`.
pub fn process(
    options: &Options,
    filters: &Filters,
    pod: &SandboxConfig,
    c: &ContainerConfig,
    args: &[String],
    terminal: bool,
) -> Result<spec::Process> {
    let refuse = |what: String| Error::Config { container: c.name.clone(), what };
    let security = &c.security;
    let capabilities = caps::resolve(security.privileged, &security.add_capabilities, &security.drop_capabilities)
        .map_err(|name| refuse(format!("unknown capability {name}")))?;
    if args.is_empty() {
        return Err(refuse("no command specified".into()));
    }
    let seccomp_error = |source| Error::Seccomp { container: c.name.clone(), source };
    let filter = match &security.seccomp {
        _ if security.privileged => vec![],
        Seccomp::Unconfined => vec![],
        Seccomp::RuntimeDefault => filters.runtime_default(capabilities).map_err(seccomp_error)?,
        Seccomp::Localhost(file) => {
            let file = options.seccomp_dir.join(file);
            let json = fs::read(&file).at("read the seccomp profile", &file)?;
            seccomp::compile(&seccomp::localhost(&json).map_err(seccomp_error)?).map_err(seccomp_error)?
        }
    };
    let mut env: Vec<String> = vec![DEFAULT_PATH.into(), format!("HOSTNAME={}", pod.hostname)];
    if terminal {
        env.push("TERM=xterm".into());
    }
    // The last word about a name counts, in the place of the first. An image's may be many, and no names at all.
    let name_of = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty());
    let mut at: HashMap<String, usize> = env.iter().enumerate().filter_map(|(n, e)| Some((name_of(e)?, n))).collect();
    let set = c.image.env.iter().cloned().chain(c.env.iter().map(|(name, value)| format!("{name}={value}")));
    for entry in set {
        let Some(name) = name_of(&entry) else { continue };
        match at.get(&name) {
            Some(n) => env[*n] = entry,
            None => {
                at.insert(name, env.len());
                env.push(entry);
            }
        }
    }
    let name = match (&security.run_as_username, security.run_as_user) {
        (name, None) if !name.is_empty() => name.clone(),
        (_, Some(_)) => String::new(),
        _ => c.image.user.clone(),
    };
    Ok(spec::Process {
        args: args.iter().map(bytes).collect(),
        env: env.iter().map(bytes).collect(),
        cwd: bytes(clean(
            [&c.working_dir, &c.image.working_dir].into_iter().find(|d| !d.is_empty()).map_or("/", |d| d),
        )),
        terminal,
        user: spec::User {
            name: bytes(name),
            uid: security.run_as_user,
            gid: security.run_as_group,
            supplemental: security.supplemental_groups.clone(),
            strict: security.strict_groups,
        },
        capabilities,
        no_new_privileges: security.no_new_privileges,
        seccomp: filter,
        apparmor: bytes(
            apparmor::profile(&security.apparmor, security.privileged)
                .map_err(|why| Error::AppArmor { container: c.name.clone(), why })?,
        ),
        rlimits: vec![],
        first_id: pod.user_namespace.map(|(first, _)| first),
    })
}

fn mounts(
    cgroups: &Cgroups,
    pod: &SandboxConfig,
    c: &ContainerConfig,
    places: &Places<'_>,
) -> Result<Vec<spec::Mount>, String> {
    let fs = |fstype: &str, target: &str, options: &[&str], attributes| spec::Mount {
        fstype: bytes(fstype),
        source: bytes(fstype),
        target: bytes(target),
        options: options.iter().map(bytes).collect(),
        attributes,
        ..spec::Mount::default()
    };
    let bind = |source: &Path, target: &str, attributes| spec::Mount {
        source: path(source),
        target: bytes(target),
        attributes,
        mapped: true,
        ..spec::Mount::default()
    };
    let writable_sys = if c.security.privileged { 0 } else { RDONLY };
    let base = NOSUID | NOEXEC | NODEV;
    let root = pod.user_namespace.map_or(0, |(first, _)| first);
    let (owner, group) = (format!("uid={root}"), format!("gid={root}"));
    let tty = format!("gid={}", root + 5);
    let mut all = vec![
        fs("proc", "/proc", &[], base),
        fs("tmpfs", "/dev", &["mode=755", "size=65536k", &owner, &group], NOSUID | STRICTATIME),
        fs("devpts", "/dev/pts", &["newinstance", "ptmxmode=0666", "mode=0620", &tty], NOSUID | NOEXEC),
        fs("sysfs", "/sys", &[], base | writable_sys),
    ];
    if pod.host_ipc {
        all.push(spec::Mount { optional: true, ..bind(Path::new("/dev/mqueue"), "/dev/mqueue", 0) });
        all.push(bind(Path::new("/dev/shm"), "/dev/shm", 0));
    } else {
        all.push(spec::Mount { optional: true, ..fs("mqueue", "/dev/mqueue", &[], base) });
        all.push(spec::Mount { mapped: false, ..bind(&places.shm, "/dev/shm", 0) });
    }
    if cgroups.unified() {
        all.push(fs("cgroup2", "/sys/fs/cgroup", &[], base | writable_sys));
    } else {
        all.push(fs("tmpfs", "/sys/fs/cgroup", &["mode=755"], base));
        let own = cgroups.v1_mounts(places.cgroup);
        all.extend(own.iter().map(|(name, dir)| spec::Mount {
            mapped: false,
            ..bind(dir, &format!("/sys/fs/cgroup/{name}"), base | writable_sys)
        }));
    }
    all.push(bind(&places.hostname, "/etc/hostname", if c.security.readonly_rootfs { RDONLY } else { 0 }));
    all.push(bind(&places.resolv_conf, "/etc/resolv.conf", if c.security.readonly_rootfs { RDONLY } else { 0 }));
    let depth = |target: &[u8]| target.split(|b| *b == b'/').filter(|p| !p.is_empty()).count();
    let mut own: Vec<spec::Mount> = Vec::new();
    for m in &c.mounts {
        let target = clean(&m.container_path);
        if !m.container_path.starts_with('/') || target == "/" {
            return Err(format!("mount path {:?} is not an absolute path below the root", m.container_path));
        }
        if target == "/proc" || target.starts_with("/proc/") {
            return Err(format!("mount path {target} is inside /proc"));
        }
        own.push(spec::Mount {
            propagation: match m.propagation {
                Propagation::Private => 0,
                Propagation::HostToContainer => 1,
                Propagation::Bidirectional => 2,
            },
            recursive: m.recursive_readonly,
            ..bind(&m.host_path, &target, if m.readonly { RDONLY } else { 0 })
        });
    }
    // What the pod mounts itself goes in place of a default.
    all.retain(|d| !own.iter().any(|m| m.target == d.target));
    own.sort_by_key(|m| depth(&m.target));
    // A volume on /dev or /sys comes before the defaults that stand in it.
    let at = |own: &spec::Mount| {
        all.iter().position(|d| d.target.starts_with(&own.target) && depth(&d.target) > depth(&own.target))
    };
    let mut before: Vec<(usize, spec::Mount)> = Vec::new();
    let mut after = Vec::new();
    for m in own {
        match at(&m) {
            Some(index) => before.push((index, m)),
            None => after.push(m),
        }
    }
    for (index, m) in before.into_iter().rev() {
        all.insert(index, m);
    }
    all.extend(after);
    Ok(all)
}

fn devices(c: &ContainerConfig) -> Result<(Vec<spec::Device>, Vec<DeviceRule>)> {
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.into() };
    let node = |name: &str, major, minor| spec::Device {
        path: bytes(format!("/dev/{name}")),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    if c.security.privileged {
        return Ok((host_devices(Path::new("/dev"), 0), vec![rule('a', None, None, "rwm")]));
    }
    let mut nodes: Vec<spec::Device> = DEVICES.iter().map(|(name, major, minor)| node(name, *major, *minor)).collect();
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    rules.extend(DEVICES.iter().map(|(_, major, minor)| rule('c', Some(*major), Some(*minor), "rwm")));
    rules.extend([
        rule('c', Some(5), Some(1), "rwm"),
        rule('c', Some(5), Some(2), "rwm"),
        rule('c', Some(136), None, "rwm"),
    ]);
    for device in &c.devices {
        let target = if device.container_path.is_empty() {
            device.host_path.clone()
        } else {
            PathBuf::from(&device.container_path)
        };
        // A directory stands for the devices in it.
        let found = match device_node(&device.host_path, &target).at("look at device", &device.host_path)? {
            Some(found) => vec![found],
            None => host_devices(&device.host_path, 0),
        };
        if found.is_empty() {
            return Err(Error::Config {
                container: c.name.clone(),
                what: format!("{} is not a device", device.host_path.display()),
            });
        }
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        for node in found {
            let kind = if node.mode & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
            rules.push(rule(kind, Some(node.major), Some(node.minor), access));
            nodes.push(node);
        }
    }
    Ok((nodes, rules))
}

fn device_node(host: &Path, target: &Path) -> std::io::Result<Option<spec::Device>> {
    let meta = fs::metadata(host)?;
    if !meta.file_type().is_char_device() && !meta.file_type().is_block_device() {
        return Ok(None);
    }
    let (major, minor) = (libc::major(meta.rdev() as _) as u32, libc::minor(meta.rdev() as _) as u32);
    Ok(Some(spec::Device { path: path(target), mode: meta.mode(), major, minor, uid: meta.uid(), gid: meta.gid() }))
}

/// The devices below a host directory, without those that a container has of its own.
fn host_devices(dir: &Path, depth: u32) -> Vec<spec::Device> {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", "hugepages"];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| entry.file_name() == *own) || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() && depth < 8 {
            found.extend(host_devices(&entry.path(), depth + 1));
        } else if let Ok(Some(node)) = device_node(&entry.path(), &entry.path()) {
            found.push(node);
        }
    }
    found
}

/// Without `.`, `..` and double slashes.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn bytes(text: impl AsRef<str>) -> Bytes {
    text.as_ref().as_bytes().to_vec()
}

fn path(path: impl AsRef<Path>) -> Bytes {
    path.as_ref().as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests;
