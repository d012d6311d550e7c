//! What a node is told about itself, and the machine that it stands on.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use schema::api::core::v1::Taint;

use crate::ports::{Clock, Host, Images, Keys, Network, Runtime};

/// The machine's parts.
#[derive(Clone)]
pub struct Ports {
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
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
}

/// When pods are evicted and images collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `memory.available` below this evicts.
    pub memory_available_bytes: u64,
    /// `nodefs.available` below this many percent evicts.
    pub nodefs_available_percent: u64,
    pub nodefs_inodes_free_percent: u64,
    /// Free processes below this many are PIDPressure.
    pub pids_available: u64,
    /// Disk usage in percent above which unused images go, down to `image_gc_low_percent`.
    pub image_gc_high_percent: u64,
    pub image_gc_low_percent: u64,
    /// No image younger than this goes.
    pub image_minimum_age: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_available_bytes: 100 << 20,
            nodefs_available_percent: 5,
            nodefs_inodes_free_percent: 5,
            pids_available: 100,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_minimum_age: Duration::from_secs(120),
        }
    }
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
    /// `<data-dir>/agent/kubelet`: pods' volumes and what the node remembers.
    pub root_dir: PathBuf,
    /// `/var/log/pods`.
    pub log_root: PathBuf,
    /// `/var/log/containers`.
    pub log_links: PathBuf,
    pub max_pods: u32,
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
    pub thresholds: Thresholds,
    pub managers: crate::topology::Settings,
    /// How long a start waits for the API before the pods that were here last start.
    pub offline_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            hostname: String::new(),
            addresses: Vec::new(),
            external_addresses: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            root_dir: "/var/lib/kubelet".into(),
            log_root: "/var/log/pods".into(),
            log_links: "/var/log/containers".into(),
            max_pods: 110,
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
            thresholds: Thresholds::default(),
            managers: Default::default(),
            offline_after: Duration::from_secs(5),
        }
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
