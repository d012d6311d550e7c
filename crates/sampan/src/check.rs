//! `sampan check`: what this machine offers and lacks, in plain words. What can be tried is tried (in namespaces of its
//! own, which leave nothing); a lack says what would not work and what to do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{fmt, fs, io};

use net::io::conntrack::Conntrack;
use net::io::foreign::foreign_drops;
use net::io::link::{End, Links};
use net::io::netns::{Netns, in_fresh};
use net::io::nft::Nft;

use crate::places::Places;

const MIB: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
#[error("this machine lacks what Sampan needs: {} of {} points", missing, points)]
pub struct Error {
    missing: usize,
    points: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Good,
    /// Something will be slower, or missing.
    Weak,
    /// Sampan does not work here.
    Missing,
}

struct Finding {
    level: Level,
    what: &'static str,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.level {
            Level::Good => "ok     ",
            Level::Weak => "weak   ",
            Level::Missing => "MISSING",
        };
        write!(f, "{mark} {:<18} {}", self.what, self.text)
    }
}

fn good(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Good, what, text: text.into() }
}

fn weak(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Weak, what, text: text.into() }
}

fn missing(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Missing, what, text: text.into() }
}

pub fn run(data_dir: &Path) -> Result<(), Error> {
    let places = Places::new(data_dir);
    let mut findings = vec![user(), kernel(), memory()];
    findings.extend(cgroups());
    findings.extend([namespaces(), seccomp(), overlay(&places), disk(&places)]);
    findings.extend(network());
    findings.extend(foreign());
    findings.extend([forwarding(), watches()]);
    findings.extend(ports(&places));
    findings.iter().for_each(|finding| println!("{finding}"));
    let missing = findings.iter().filter(|finding| finding.level == Level::Missing).count();
    if missing == 0 { Ok(()) } else { Err(Error { missing, points: findings.len() }) }
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

fn user() -> Finding {
    let status = text("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    match effective {
        Some("0") => good("user", "root"),
        _ => missing("user", "not root: pods, links and rules need it; try sudo"),
    }
}

fn kernel() -> Finding {
    let release = text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < (5, 4) => {
            weak("kernel", format!("Linux {release}; 5.4 and newer are tested"))
        }
        (Some(_), _) => good("kernel", format!("Linux {release}")),
        _ => missing("kernel", "no Linux release in /proc/sys/kernel/osrelease: is /proc mounted?"),
    }
}

fn memory() -> Finding {
    let info = text("/proc/meminfo").unwrap_or_default();
    let kib =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let mib = kib.unwrap_or(0) / 1024;
    if mib < 256 {
        weak("memory", format!("{mib} MiB; pods will have little room"))
    } else {
        good("memory", format!("{mib} MiB"))
    }
}

fn cgroups() -> Vec<Finding> {
    let found = match runtime::containers::Cgroups::detect() {
        Ok(found) => found,
        Err(error) => {
            let hint = "mount cgroup2 at /sys/fs/cgroup (systemd does)";
            return vec![missing("cgroups", format!("{error}; limits of pods need them: {hint}"))];
        }
    };
    let has = |controller: &str| {
        if found.unified() {
            let listed = found.dirs("/").iter().any(|root| {
                let listed = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                listed.split_whitespace().any(|one| one == controller)
            });
            // Without a controller of its own: v2 does devices by BPF.
            listed || controller == "devices"
        } else {
            found.v1_mounts("/").iter().any(|(name, _)| name == controller)
        }
    };
    let version = if found.unified() { "v2" } else { "v1" };
    let lacks = |wanted: &[&str]| wanted.iter().copied().filter(|one| !has(one)).collect::<Vec<_>>().join(", ");
    let needed = lacks(&["cpu", "memory", "pids", "devices"]);
    let wished = lacks(&["cpuset", "hugetlb"]);
    if !needed.is_empty() {
        let hint = "on a Raspberry Pi: add `cgroup_enable=memory cgroup_memory=1` to /boot/firmware/cmdline.txt";
        return vec![missing("cgroups", format!("{version} without {needed}: limits of pods would not hold ({hint})"))];
    }
    let mut findings = vec![good("cgroups", format!("{version} with cpu, memory, pids, devices"))];
    if !wished.is_empty() {
        findings.push(weak("cgroups", format!("no {wished}: pods cannot ask for what needs them")));
    }
    findings
}

fn namespaces() -> Finding {
    let lacks: Vec<&str> = ["mnt", "pid", "net", "uts", "ipc"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if !lacks.is_empty() {
        return missing("namespaces", format!("the kernel has no {} namespaces", lacks.join(", ")));
    }
    let user = Path::new("/proc/self/ns/user").exists() && number("/proc/sys/user/max_user_namespaces") != Some(0);
    let more = if user { ", user" } else { "; without user namespaces `hostUsers: false` is refused" };
    good("namespaces", format!("mount, pid, network, uts, ipc{more}"))
}

fn seccomp() -> Finding {
    match text("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.contains("errno") => good("seccomp", "filters"),
        _ => missing(
            "seccomp",
            "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER); pods' default profile needs them",
        ),
    }
}

/// By a mount in the data dir: some file systems cannot be a layer.
fn overlay(places: &Places) -> Finding {
    let failed = |error: io::Error| {
        let text =
            format!("cannot mount overlayfs below {}: {error}; containers' roots need it", places.data_dir.display());
        missing("overlayfs", text)
    };
    let existed = places.data_dir.exists();
    let directory = places.data_dir.join(format!("check-{}", std::process::id()));
    let attempt = || -> io::Result<()> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(directory.join(name))?;
        }
        let merged = directory.join("merged");
        let of = |name: &str| directory.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", of("lower"), of("upper"), of("work"));
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("overlay", &merged, "overlay", rustix::mount::MountFlags::empty(), options.as_c_str())?;
        let written = fs::write(merged.join("file"), "text");
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH)?;
        written
    };
    let outcome = attempt();
    let _ = fs::remove_dir_all(&directory);
    if !existed {
        let _ = fs::remove_dir(&places.data_dir);
    }
    outcome.map_or_else(failed, |()| good("overlayfs", format!("mounts below {}", places.data_dir.display())))
}

fn disk(places: &Places) -> Finding {
    let existing = places.data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} free at {}", crate::images::size(free), existing.display());
            if free < 500 * MIB { weak("disk", format!("{text}; images will not fit")) } else { good("disk", text) }
        }
        Err(error) => weak("disk", format!("cannot ask {}: {error}", existing.display())),
    }
}

/// Everything is really made, in a network namespace that goes away again.
fn network() -> Vec<Finding> {
    type Attempt = fn() -> net::io::Result<()>;
    let attempts: [(&'static str, &'static str, Attempt); 4] = [
        ("veth", "pods' links need it (CONFIG_VETH)", || {
            let own = Netns::open(Path::new("/proc/thread-self/ns/net"))?;
            let ends =
                (End { name: "check0", mac: [2, 0, 0, 0, 0, 1] }, End { name: "check1", mac: [2, 0, 0, 0, 0, 2] });
            Links::open()?.add_veth(ends.0, ends.1, own.fd(), 1500).map(drop)
        }),
        ("nftables", "Services and network policies need it (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)", || {
            Nft::open()?.remove()
        }),
        ("conntrack", "Services need it (CONFIG_NF_CONNTRACK, CONFIG_NF_CT_NETLINK)", || {
            Conntrack::open()?.udp().map(drop)
        }),
        (
            "vxlan",
            "pods of other nodes are reached by it (CONFIG_VXLAN), or run all nodes with --flannel-backend host-gw",
            || {
                let end = End { name: "check2", mac: [2, 0, 0, 0, 0, 3] };
                Links::open()?.add_vxlan(end, 1, 8472, Ipv4Addr::LOCALHOST.into(), 1450)
            },
        ),
    ];
    let findings = attempts.into_iter().map(|(what, need, attempt)| match in_fresh(attempt) {
        Ok(()) => good(what, "works"),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            let text = format!("{error}{cause}; {need}");
            if what == "vxlan" { weak(what, text) } else { missing(what, text) }
        }
    });
    findings.collect()
}

fn foreign() -> Vec<Finding> {
    let drops = match Nft::open().and_then(|mut nft| foreign_drops(&mut nft)) {
        Ok(drops) => drops,
        Err(error) => return vec![weak("other rules", format!("cannot be read: {error}"))],
    };
    if drops.is_empty() {
        return vec![good("other rules", "none drops what it does not know")];
    }
    let advice = "let 10.42.0.0/16 and 10.43.0.0/16 pass in it, or pods will not be reached";
    drops.iter().map(|drop| weak("other rules", format!("{drop}; {advice}"))).collect()
}

fn forwarding() -> Finding {
    match text("/proc/sys/net/ipv4/ip_forward").as_deref() {
        Some("1") => good("ip_forward", "on"),
        Some(_) => good("ip_forward", "off; a node switches it on"),
        None => missing("ip_forward", "/proc/sys/net/ipv4/ip_forward cannot be read"),
    }
}

/// Programs in pods share the machine's limits.
fn watches() -> Finding {
    let instances = number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0);
    let text = format!("{instances} instances");
    if instances < 256 {
        weak("inotify", format!("{text}; raise fs.inotify.max_user_instances for many pods"))
    } else {
        good("inotify", text)
    }
}

fn ports(places: &Places) -> Vec<Finding> {
    if UnixStream::connect(places.images_socket()).is_ok() {
        return vec![good("ports", "in use by Sampan, which runs")];
    }
    let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let tcp = |port| TcpListener::bind(SocketAddr::new(any, port)).err();
    let udp = |port| UdpSocket::bind(SocketAddr::new(any, port)).err();
    let wanted = [
        ("6443/tcp", tcp(6443), "the API"),
        ("10250/tcp", tcp(10250), "the kubelet"),
        ("8472/udp", udp(8472), "VXLAN"),
    ];
    let taken: Vec<Finding> = wanted
        .iter()
        .filter_map(|(port, error, what)| Some(weak("ports", format!("{port} ({what}): {}", error.as_ref()?))))
        .collect();
    if taken.is_empty() { vec![good("ports", "6443/tcp, 10250/tcp and 8472/udp are free")] } else { taken }
}
