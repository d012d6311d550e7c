//! What a node needs from its machine, in the node's own words. The shapes follow CRI where CRI has them.
//!
//! Everything here may be called at any time and from many pods at once. Dropping a future never leaves a half-made
//! thing behind that a later call of the same kind would not take over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reconcile::io::BoxFuture;
use tokio::sync::{broadcast, watch};

pub use streams::{Reader, Stdio, Writer};

/// Nanoseconds since the Unix epoch.
pub type Nanos = i64;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error("timed out after {} s", .0.as_secs())]
    Timeout(Duration),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Time, for deciding and for objects; timers use tokio's clock, which tests hold.
pub trait Clock: Send + Sync {
    fn now(&self) -> Nanos;
}

/// A pod as the runtime has it: its sandbox (namespaces, cgroup, keeper) and containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodState {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// `None`: no sandbox, or a dead one (whose containers are dead, too).
    pub sandbox: Option<Sandbox>,
    /// All that are not removed, dead ones included; in order of creation.
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    pub id: String,
    /// Counts the sandboxes of this pod.
    pub attempt: u32,
    pub created_at: Nanos,
    /// Where the network is attached; `None` with the host's network.
    pub netns: Option<PathBuf>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// As in the pod's spec.
    pub name: String,
    /// Counts the runs of this container in this pod, over restarts of the node, too.
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at: Nanos,
    /// What the spec asked for, and the digest that it became.
    pub image: String,
    pub image_id: String,
    /// Hash of the spec that it was made from ([`ContainerConfig::spec_hash`]).
    pub spec_hash: u64,
    pub log_path: PathBuf,
    /// Of its first process, once that runs.
    pub user: Option<User>,
}

/// `containerStatuses[].user.linux`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ContainerState {
    /// It was not started yet.
    #[default]
    Created,
    /// Its process lives.
    Running { started_at: Nanos },
    /// Its process has ended, or never came to be.
    Exited(Exit),
    /// It was there before, and nothing is known of its end.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exit {
    /// 128 + signal if a signal ended it.
    pub code: i32,
    pub oom_killed: bool,
    pub started_at: Nanos,
    pub finished_at: Nanos,
    /// What could not be done, if it never ran (`StartError`).
    pub error: Option<String>,
}

/// Something happened to a pod: look at it again ([`Runtime::pod`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodChanged {
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxConfig {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub attempt: u32,
    /// That of the pod's RuntimeClass; the runtime refuses those that it does not know.
    pub handler: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    /// A user namespace: the first of its ids on the host, and how many they are.
    pub user_namespace: Option<(u32, u32)>,
    pub sysctls: BTreeMap<String, String>,
    /// hostPorts, for a runtime that sets up the network itself.
    pub ports: Vec<PortMapping>,
    /// The pod's cgroup, below the root: `kubepods/burstable/pod<uid>`. Made by [`Cgroups::set`].
    pub cgroup: String,
    /// `/var/log/pods/<namespace>_<name>_<uid>`.
    pub log_directory: PathBuf,
}

/// A way of the runtime to run pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    pub name: String,
    pub user_namespaces: bool,
    pub recursive_read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub spec_hash: u64,
    /// As in the spec; and the image id that [`Images::pull`] or [`Images::find`] gave.
    pub image: String,
    pub image_id: String,
    /// Empty: the image's entrypoint and arguments.
    pub command: Vec<String>,
    /// Empty with an empty `command`: the image's.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    /// After the image's own.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Fully qualified names, `vendor.com/class=name`, of what CDI specifications on this machine describe.
    pub cdi_devices: Vec<String>,
    pub resources: Resources,
    pub security: Security,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Relative to the sandbox's log directory: `<container>/<attempt>.log`.
    pub log_path: PathBuf,
    /// Signal instead of the image's or SIGTERM: `SIGUSR1`.
    pub stop_signal: Option<String>,
    /// Id of the container whose process namespace it joins (ephemeral containers); empty: the pod's rule.
    pub target_id: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mount {
    pub host_path: PathBuf,
    /// In place of a host's path.
    pub image: Option<ImageMount>,
    pub container_path: PathBuf,
    pub readonly: bool,
    /// Read-only below mounts in it, too.
    pub recursive_readonly: bool,
    pub propagation: Propagation,
}

/// An image whose files the runtime mounts itself, all or those at a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageMount {
    pub id: String,
    /// As in the spec.
    pub reference: String,
    pub sub_path: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// cgroup settings; 0 and `None` are not set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu_shares: u64,
    /// Microseconds per `cpu_period_us`; negative: unlimited.
    pub cpu_quota_us: i64,
    pub cpu_period_us: u64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub memory_limit_bytes: u64,
    pub pids_limit: u64,
    /// How much beyond its memory; `None`: as much as the kernel lets it.
    pub swap_bytes: Option<u64>,
    pub oom_score_adj: Option<i32>,
    /// Whether the kernel ends all of the cgroup's processes where memory for one is lacking; version 2 alone can.
    pub oom_group: bool,
    /// Page size (`2MB`) → bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Security {
    pub privileged: bool,
    /// `None`: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// Refuse a user 0, whoever chose it; the message names it.
    pub run_as_non_root: bool,
    pub supplemental_groups: Vec<i64>,
    /// `Strict`: leave out the groups which the image's /etc/group gives.
    pub supplemental_groups_strict: bool,
    /// With or without `CAP_`; `ALL`.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub readonly_root: bool,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
    pub seccomp: Profile,
    pub apparmor: Profile,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

/// The output of a command that was run to its end; each stream cut at [`ExecOutput::LIMIT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl ExecOutput {
    pub const LIMIT: usize = 16 << 20;
}

/// Cgroups of pods (`kubepods/burstable/pod<uid>`), of QoS classes (`kubepods/besteffort`) and of all pods (`kubepods`),
/// by path below the root.
pub trait Cgroups: Send + Sync + 'static {
    /// Creates or updates one.
    fn set(&self, cgroup: &str, resources: &Resources) -> Result<()>;

    /// Removes an empty one and those below it; what is left in them is killed.
    fn remove(&self, cgroup: &str) -> Result<()>;

    /// Those of pods that exist: for the clean-up of orphans.
    fn of_pods(&self) -> Vec<String>;

    /// What all in one use.
    fn usage(&self, cgroup: &str) -> Usage;
}

/// Containers and their sandboxes.
pub trait Runtime: Send + Sync + 'static {
    /// `sampan`, and its version.
    fn version(&self) -> (String, String);

    /// What RuntimeClasses may name; none if the runtime does not tell. The one without a name is for all other pods.
    fn handlers(&self) -> Vec<Handler>;

    /// Every pod that has a sandbox or containers, whoever made them.
    fn pods(&self) -> BoxFuture<'_, Result<Vec<PodState>>>;

    /// One pod; an empty state if there is nothing of it.
    fn pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<PodState>>;

    /// A receiver that lags asks [`Runtime::pods`] again.
    fn changes(&self) -> broadcast::Receiver<PodChanged>;

    /// Makes the sandbox, without a network of its own yet.
    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<Sandbox>>;

    /// Notes the addresses that the network gave, so that they are found again.
    fn set_addresses<'a>(&'a self, uid: &'a str, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<()>>;

    /// Kills what runs in the sandbox and ends it; containers stay to be looked at.
    fn stop_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes a stopped pod's containers and files; logs are the caller's.
    fn remove_pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>>;

    /// The new container's id.
    fn create_container<'a>(&'a self, pod: &'a str, config: &'a ContainerConfig) -> BoxFuture<'a, Result<String>>;

    fn start_container<'a>(&'a self, pod: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Sends the stop signal (`signal` instead of the container's own), SIGKILL after `grace`, and returns at its end.
    fn stop_container<'a>(
        &'a self,
        pod: &'a str,
        id: &'a str,
        grace: Duration,
        signal: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>>;

    fn remove_container<'a>(&'a self, pod: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>>;

    fn update_resources<'a>(&'a self, pod: &'a str, id: &'a str, resources: &'a Resources)
    -> BoxFuture<'a, Result<()>>;

    /// Makes the log go on in a new file.
    fn reopen_log<'a>(&'a self, pod: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Runs a command to its end, or kills it at `timeout`.
    fn exec_sync<'a>(
        &'a self,
        pod: &'a str,
        id: &'a str,
        command: &'a [String],
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>>;

    /// Runs a command with streams; its exit code.
    fn exec<'a>(&'a self, pod: &'a str, id: &'a str, command: &'a [String], stdio: Stdio)
    -> BoxFuture<'a, Result<i32>>;

    /// Joins a running container's streams until it ends or the caller hangs up.
    fn attach<'a>(&'a self, pod: &'a str, id: &'a str, stdio: Stdio) -> BoxFuture<'a, Result<()>>;

    /// Connects to a port inside the pod's network, on its loopback.
    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<(Reader, Writer)>>;

    fn stats<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<PodStats>>;
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStats {
    pub pod: Usage,
    /// By container id.
    pub containers: BTreeMap<String, Usage>,
    pub network: Vec<InterfaceStats>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    pub at: Nanos,
    pub cpu_nanoseconds: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub processes: u64,
    pub cpu_user_nanoseconds: u64,
    pub cpu_system_nanoseconds: u64,
    /// Periods of its CPU quota, those in which it ran into it, and for how long together.
    pub cfs_periods: u64,
    pub cfs_throttled_periods: u64,
    pub cfs_throttled_nanoseconds: u64,
    pub memory_cache_bytes: u64,
    pub memory_mapped_bytes: u64,
    pub memory_swap_bytes: u64,
    pub memory_max_bytes: u64,
    pub memory_failures: u64,
    /// 0: none.
    pub memory_limit_bytes: u64,
    pub io: Vec<DiskIo>,
    /// How some and all of its tasks have waited for `cpu`, `memory` and `io`; empty where the kernel does not tell.
    pub stalled: Vec<(&'static str, [Waited; 2])>,
    /// Writable layer.
    pub root_fs_used_bytes: u64,
    pub root_fs_inodes: u64,
}

/// For a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waited {
    pub nanoseconds: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// What was read of a disk and written to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskIo {
    /// `/dev/sda`.
    pub device: String,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceStats {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub pinned: bool,
    /// The user of its configuration, numeric or a name; empty: root.
    pub user: String,
}

/// A registry's login, as a pull secret has it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Host, with a path prefix perhaps: `registry.example.com/team`.
    pub registry: String,
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PullError {
    /// `InvalidImageName`.
    #[error("{0}")]
    InvalidName(String),
    /// `SignatureValidationFailed`.
    #[error("{0}")]
    Signature(String),
    /// `ErrImagePull`.
    #[error("{0}")]
    Failed(String),
}

/// A pod's service account, as credential provider plugins may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub annotations: BTreeMap<String, String>,
    /// By audience; none that could not be had.
    pub tokens: BTreeMap<String, String>,
}

/// The node's credential provider plugins.
pub trait Providers: Send + Sync + 'static {
    /// Of the tokens that they want for an image's logins.
    fn audiences(&self, image: &str) -> Vec<String>;

    /// An image's logins, and whether they are for this service account alone.
    fn logins<'a>(&'a self, image: &'a str, account: Option<&'a Account>) -> BoxFuture<'a, Vec<(Credentials, bool)>>;
}

/// What a pull gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulled {
    pub image: Image,
    /// Which of the logins the registry has accepted; `None`: it wanted none of them.
    pub login: Option<usize>,
}

pub type Pull<'a> = BoxFuture<'a, std::result::Result<Pulled, PullError>>;

/// Who waits for a pull.
pub trait Pulling: Send + Sync + 'static {
    /// How many bytes of how many are here, and how many were before it began.
    fn progress(&self, done: u64, total: u64, resumed: u64);

    /// Returns when what may go has gone for as many bytes as it likely takes; they may not be free even so. Nothing goes
    /// if not even the least can be had.
    fn make_room(&self, least: u64, likely: u64) -> BoxFuture<'static, ()>;
}

pub trait Images: Send + Sync + 'static {
    /// An image that is here, by name, digest or id.
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>>>;

    /// Whether a registry, as a pull secret names it, is the one of an image.
    fn fits(&self, registry: &str, name: &str) -> bool;

    /// Fetches what is missing; asks the registry in any case, which may refuse what is here already. The logins fit.
    fn pull<'a>(&'a self, name: &'a str, credentials: &'a [Credentials], pulling: Arc<dyn Pulling>) -> Pull<'a>;

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>>;

    /// Shows an image's files at a directory below the pod's own, read-only, until that is unmounted; its layers stay
    /// until the pod is removed. `false`: not here, the runtime does it for each container ([`Mount::image`]).
    fn mount<'a>(&'a self, id: &'a str, pod: &'a str, target: &'a Path) -> BoxFuture<'a, Result<bool>>;

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Bytes and inodes that images take.
    fn usage(&self) -> BoxFuture<'_, Result<(u64, u64)>>;
}

/// A hostPort of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub container_port: u16,
    pub host_port: u16,
    /// `None`: all of the host's addresses.
    pub host_ip: Option<IpAddr>,
}

/// The addresses that a sandbox was given.
pub type Attached<'a> = BoxFuture<'a, Result<Vec<IpAddr>>>;

pub trait Network: Send + Sync + 'static {
    /// Whether pods can be attached; the reason if not (`NetworkReady` of the node).
    fn ready(&self) -> std::result::Result<(), String>;

    /// Gives the sandbox an interface and addresses; again for the same pod gives the same ones.
    fn attach<'a>(&'a self, sandbox: &'a Sandbox, pod_uid: &'a str, ports: &'a [PortMapping]) -> Attached<'a>;

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>>;

    /// At start: these pods live; whatever others hold is free.
    fn keep_only<'a>(&'a self, living: &'a [(String, Sandbox)]) -> BoxFuture<'a, Result<()>>;
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
    pub cpus: u64,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    /// One hierarchy of cgroups, version 2.
    pub unified_cgroups: bool,
    pub apparmor: bool,
    /// Page size (`2Mi`) → bytes reserved.
    pub hugepages: BTreeMap<String, u64>,
    pub pids_limit: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUsage {
    pub usage: Usage,
    pub memory_available_bytes: u64,
    pub processes: u64,
    pub network: Vec<InterfaceStats>,
}

/// Whether the machine goes down, and how to say that it may.
pub type Shutdowns = (watch::Receiver<bool>, Box<dyn Fn() + Send + Sync>);

pub trait Host: Send + Sync + 'static {
    fn machine(&self) -> Machine;
    fn topology(&self) -> crate::topology::Topology;
    fn usage(&self) -> NodeUsage;
    /// Whether the machine goes down, which waits until it is told that it may, and for `time` at least; `None` where
    /// nobody announces it.
    fn shutdowns(&self, time: Duration) -> Option<Shutdowns>;
    /// Ends when the kernel tells that memory is short; never where it cannot.
    fn memory_pressure(&self) -> BoxFuture<'_, ()>;
    /// Of the file system which holds a path.
    fn fs(&self, path: &Path) -> Result<FsStats>;
}

/// A private key as PKCS#8 in PEM, and a PKCS#10 request in DER that says nothing but which key it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    pub pem: String,
    pub request: Vec<u8>,
}

pub trait Keys: Send + Sync + 'static {
    /// Of a pod certificate's `keyType`: `ECDSAP256`.
    fn make(&self, kind: &str) -> Result<NewKey>;
}
