//! What the runtime is asked for: sandboxes and containers in CRI's terms. Kept as JSON beside each of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroups::Cgroups;

/// Where the runtime keeps things.
#[derive(Clone, Debug)]
pub struct Options {
    /// On disk: container layers, configs, exits. `/var/lib/sampan/runtime`.
    pub state_dir: PathBuf,
    /// Gone with the boot: keeper sockets, pinned namespaces, shm. `/run/sampan`.
    pub run_dir: PathBuf,
    /// `/var/log/pods`: where a sandbox without a log directory of its own gets one.
    pub log_dir: PathBuf,
    /// Absolute cgroup for keepers, outside of Sampan's own service: `/sampan-keepers`.
    pub keeper_cgroup: String,
    /// Bytes of a log file before it is rotated (kubelet's `containerLogMaxSize`); 0 never.
    pub log_max_bytes: u64,
    /// Log files of a container, the current one included (`containerLogMaxFiles`).
    pub log_max_files: u32,
    /// Instead of what this host has mounted.
    pub cgroups: Option<Cgroups>,
    /// Directory of `seccompProfile.localhostProfile` (`/var/lib/kubelet/seccomp`).
    pub seccomp_dir: PathBuf,
}

impl Options {
    /// Defaults of an installation.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Options {
        Options {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            log_dir: "/var/log/pods".into(),
            keeper_cgroup: "/sampan-keepers".into(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            cgroups: None,
            seccomp_dir: "/var/lib/kubelet/seccomp".into(),
        }
    }
}

/// Handlers that a RuntimeClass may name: there is one runtime.
pub const HANDLERS: [&str; 3] = ["", "runc", "sampan"];

/// What is wrong with a handler that is none of them.
pub fn check_handler(name: &str) -> std::result::Result<(), String> {
    if HANDLERS.contains(&name) { Ok(()) } else { Err(format!("no runtime for {name:?} is configured")) }
}

/// A pod's frame: namespaces, name and logs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub attempt: u32,
    pub hostname: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Empty: `log_dir/namespace_name_uid`.
    pub log_directory: PathBuf,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// One PID namespace for all containers.
    pub share_process_namespace: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Absolute cgroup of the pod, `/kubepods/burstable/podUID`; made if missing.
    pub cgroup_parent: String,
    /// A user namespace: the first of its ids on the host, and how many they are.
    pub user_namespace: Option<(u32, u32)>,
    /// Content of `/etc/resolv.conf`; the host's if none.
    pub resolv_conf: Option<String>,
    /// As it was asked for by CRI.
    pub runtime_handler: String,
    /// hostPorts, for whoever sets up the network.
    pub ports: Vec<PortMapping>,
}

/// A port of the host that leads to one of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub container_port: u16,
    pub host_port: u16,
    /// Empty: all of the host's addresses.
    pub host_ip: String,
}

/// An unpacked image, as `images` gives it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Its layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// What it was asked for by (`docker.io/library/nginx:latest`), and its digest.
    pub reference: String,
    pub digest: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub stop_signal: String,
    /// Directories that stay writable in a read-only root.
    pub volumes: Vec<String>,
}

impl From<&crate::images::Rootfs> for Image {
    fn from(rootfs: &crate::images::Rootfs) -> Image {
        let config = &rootfs.config;
        Image {
            lower: rootfs.lower.clone(),
            reference: rootfs.repo_tags.first().cloned().unwrap_or_default(),
            digest: rootfs.id.to_string(),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            stop_signal: config.stop_signal.clone(),
            volumes: config.volumes.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub image: Image,
    /// Instead of the image's entrypoint.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub resources: Resources,
    pub security: Security,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Relative to the sandbox's log directory; empty for no log.
    pub log_path: String,
    /// Instead of the image's; a name or a number.
    pub stop_signal: String,
    /// The container whose processes it sees and lives with, if the pod's do not share theirs anyway.
    pub pid_of: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Made as a directory if it is missing.
    pub host_path: PathBuf,
    pub container_path: String,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: Propagation,
    /// Of an image volume: the image whose files these are.
    pub image: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// Limits; what is `None` or empty is left alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds in each period; negative for no limit.
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes; negative for no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together.
    pub memory_swap: Option<i64>,
    /// Page size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// 0 or negative for no limit.
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    /// cgroup v2 files and what to write to them.
    pub unified: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A file beneath `seccomp_dir`, or an absolute path.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AppArmor {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile that the machine's administrator has loaded.
    Localhost(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    pub privileged: bool,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_username: String,
    pub supplemental_groups: Vec<u32>,
    /// `supplementalGroupsPolicy: Strict`.
    pub strict_groups: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub readonly_rootfs: bool,
    /// The usual ones if none are given.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub seccomp: Seccomp,
    /// Not by its first name, under which older records have a word.
    #[serde(rename = "app_armor")]
    pub apparmor: AppArmor,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    /// 0 if it ended by itself.
    pub signal: i32,
    pub oom_killed: bool,
    /// Nanoseconds since 1970, 0 if unknown.
    pub finished_at: u64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
}

/// A container as it is now.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub config: std::sync::Arc<ContainerConfig>,
    pub state: ContainerState,
    pub pid: Option<u32>,
    /// Who its first process was when it was first seen.
    pub user: Option<Ids>,
    /// Nanoseconds since 1970; 0 for not yet.
    pub created_at: u64,
    pub started_at: u64,
    pub exit: Option<Exit>,
    /// Absolute; empty for none.
    pub log_path: PathBuf,
}

/// User, group and further groups of a process, as it sees them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Ids {
    /// `first` is the host's id of its user namespace's 0.
    pub(super) fn of(pid: u32, first: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let numbers = |name: &str| {
            line(name)
                .into_iter()
                .flat_map(str::split_whitespace)
                .filter_map(|id| id.parse::<u32>().ok()?.checked_sub(first))
        };
        // Of the real, effective, saved and file system's, the real.
        Some(Self { uid: numbers("Uid:").next()?, gid: numbers("Gid:").next()?, groups: numbers("Groups:").collect() })
    }
}

#[derive(Clone, Debug)]
pub struct SandboxStatus {
    pub id: String,
    pub config: std::sync::Arc<SandboxConfig>,
    /// Its keeper lives.
    pub ready: bool,
    pub created_at: u64,
    /// A file that is the pod's network namespace; `None` on the host's network.
    pub netns: Option<PathBuf>,
    pub keeper_pid: Option<u32>,
}

/// Something has happened. Whoever misses some asks for the list.
#[derive(Clone, Debug)]
pub enum Event {
    /// It has namespaces, and no network yet.
    SandboxStarted { sandbox_id: String },
    /// It is there, not yet running.
    ContainerCreated { sandbox_id: String, container_id: String },
    /// Its process lives.
    ContainerStarted { sandbox_id: String, container_id: String },
    /// Its process has ended.
    ContainerExited { sandbox_id: String, container_id: String, exit: Exit },
    /// It is forgotten.
    ContainerRemoved { sandbox_id: String, container_id: String },
    /// Its keeper has ended; unasked for if `unexpected`.
    SandboxStopped { sandbox_id: String, unexpected: bool },
    /// It is forgotten.
    SandboxRemoved { sandbox_id: String },
}

impl Event {
    pub fn sandbox_id(&self) -> &str {
        match self {
            Event::SandboxStarted { sandbox_id }
            | Event::ContainerCreated { sandbox_id, .. }
            | Event::ContainerStarted { sandbox_id, .. }
            | Event::ContainerExited { sandbox_id, .. }
            | Event::ContainerRemoved { sandbox_id, .. }
            | Event::SandboxStopped { sandbox_id, .. }
            | Event::SandboxRemoved { sandbox_id } => sandbox_id,
        }
    }
}
