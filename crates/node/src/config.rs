//! What a node is told about itself, and the machine that it stands on.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use schema::api::core::v1::Taint;

use crate::eviction::{Signal, Threshold};
use crate::ports::{Cgroups, Clock, Host, Images, Keys, Nanos, Network, Providers, Runtime};
use crate::settings::Settings;

/// The machine's parts.
#[derive(Clone)]
pub struct Ports {
    pub runtime: Arc<dyn Runtime>,
    pub cgroups: Arc<dyn Cgroups>,
    pub images: Arc<dyn Images>,
    pub providers: Option<Arc<dyn Providers>>,
    pub network: Arc<dyn Network>,
    pub host: Arc<dyn Host>,
    pub keys: Arc<dyn Keys>,
    pub clock: Arc<dyn Clock>,
    /// Of probes and hooks, which ask whether a server answers and not who it is.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Amounts kept from pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub ephemeral_storage_bytes: u64,
    pub pids: u64,
}

/// When pods are evicted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evictions {
    pub thresholds: Vec<Threshold>,
    /// A pressure stays for this long after its signal has gone.
    pub transition: Nanos,
    /// Of pods that go because of a threshold with a grace of its own.
    pub max_grace_seconds: i64,
}

impl Evictions {
    /// What of the machine's memory pods may not come near to.
    pub fn hard_memory(&self, capacity: u64) -> u64 {
        self.hard(Signal::Memory, capacity)
    }

    pub fn hard(&self, signal: Signal, capacity: u64) -> u64 {
        let found = self.thresholds.iter().find(|threshold| threshold.signal == signal && threshold.grace == 0);
        found.map_or(0, |threshold| u64::try_from(threshold.at.of(capacity).value()).unwrap_or(0))
    }
}

/// When images are collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageGc {
    /// Disk usage above which unused images go, down to `low_percent`.
    pub high_percent: u64,
    pub low_percent: u64,
    /// No image younger than this goes.
    pub minimum_age: Nanos,
    /// One that was unused for longer goes anyway; 0: never.
    pub maximum_age: Nanos,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// `kubernetes.io/hostname` and the node's address of type Hostname.
    pub hostname: String,
    /// Of type InternalIP; the first is `status.hostIP`.
    pub addresses: Vec<IpAddr>,
    pub external_addresses: Vec<IpAddr>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// `/var/lib/kubelet`, or below another data dir `agent/kubelet`: pods' volumes and what the node remembers.
    pub root_dir: PathBuf,
    /// `/var/log/pods`.
    pub log_root: PathBuf,
    /// `/var/log/containers`.
    pub log_links: PathBuf,
    /// Where images lie, which may be another disk.
    pub image_dir: PathBuf,
    /// A directory (or a file) with pods that run without anybody's asking; empty: none.
    pub static_pods: PathBuf,
    pub max_pods: u32,
    /// 0: `max_pods` alone counts.
    pub pods_per_core: u32,
    pub reserved: Reservation,
    pub labels: BTreeMap<String, String>,
    /// Put on the node when it registers.
    pub taints: Vec<Taint>,
    /// The host's, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    /// Where the kubelet's API is served.
    pub kubelet_port: u16,
    pub provider_id: String,
    /// `v1.37.2+sampan1`.
    pub version: String,
    /// 0: none but the kernel's.
    pub pod_pids_limit: u64,
    /// Beside the safe ones: names, or beginnings that end in `*`.
    pub allowed_sysctls: Vec<String>,
    pub evictions: Evictions,
    pub image_gc: ImageGc,
    /// Which images a pod has to show its secrets for though they are here.
    pub image_verification: crate::images::verify::Policy,
    /// Of a container's log before it is rotated.
    pub log_max_bytes: u64,
    pub log_max_files: u32,
    /// Containers without a word about it have the runtime's profile.
    pub seccomp_default: bool,
    /// Whether a machine with swap is refused.
    pub fail_on_swap: bool,
    /// `LimitedSwap`, where the kernel can.
    pub limited_swap: bool,
    /// Where the kernel can end a container that is out of memory as a whole: whether it does not.
    pub single_process_oom_kill: bool,
    /// Whether CPU limits are enforced, and over which time.
    pub cpu_quota: bool,
    pub cpu_period_us: u64,
    /// Whether pods together have no more than is allocatable.
    pub enforce_allocatable: bool,
    pub crash_backoff_max: Nanos,
    /// Phases of a shutdown: pods from this priority on have so long. None: pods are not waited for.
    pub shutdown: Vec<(i32, Duration)>,
    /// How often the node's status is looked at, and how old it may get in the API.
    pub status_every: Duration,
    pub report_every: Nanos,
    /// -1: all.
    pub status_max_images: i64,
    /// Dead containers that are kept, of all pods and of each container; -1: any number.
    pub dead_containers: i64,
    pub dead_per_container: i64,
    /// What `/configz` shows.
    pub configz: serde_json::Value,
    pub managers: crate::topology::Settings,
    /// How long a start waits for the API before the pods that were here last start.
    pub offline_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            node_name: String::new(),
            hostname: String::new(),
            addresses: Vec::new(),
            external_addresses: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            root_dir: "/var/lib/kubelet".into(),
            log_root: "/var/log/pods".into(),
            log_links: "/var/log/containers".into(),
            image_dir: PathBuf::new(),
            static_pods: PathBuf::new(),
            max_pods: 0,
            pods_per_core: 0,
            reserved: Reservation::default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            kubelet_port: 10250,
            provider_id: String::new(),
            version: "v1.37.2+sampan1".into(),
            pod_pids_limit: 0,
            allowed_sysctls: Vec::new(),
            evictions: Evictions::default(),
            image_gc: ImageGc::default(),
            image_verification: Default::default(),
            log_max_bytes: 0,
            log_max_files: 0,
            seccomp_default: false,
            fail_on_swap: false,
            limited_swap: false,
            single_process_oom_kill: false,
            cpu_quota: true,
            cpu_period_us: 0,
            enforce_allocatable: true,
            crash_backoff_max: 0,
            shutdown: Vec::new(),
            status_every: Duration::ZERO,
            report_every: 0,
            status_max_images: 0,
            dead_containers: 0,
            dead_per_container: 0,
            configz: serde_json::Value::Null,
            managers: Default::default(),
            offline_after: Duration::from_secs(5),
        };
        // The table has the defaults, which fit.
        let _ = Settings::default().apply(&mut config);
        config
    }
}

impl Config {
    pub fn hostname(&self) -> &str {
        if self.hostname.is_empty() { &self.node_name } else { &self.hostname }
    }

    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    pub(crate) fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_root.join(format!("{namespace}_{name}_{uid}"))
    }
}
