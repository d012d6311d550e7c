//! Where things lie: every directory of a node, from `--data-dir` alone.
//!
//! The default data dir belongs to the machine, so its run directory and its pods' logs lie where tools look for them;
//! any other one holds everything below itself, so that several nodes can share a machine.

use std::path::{Path, PathBuf};

use runtime::containers::Options;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/sampan";
/// Where upstream's kubelet keeps its things, and where CSI drivers and device plugins expect them.
const KUBELET_DIR: &str = "/var/lib/kubelet";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub data_dir: PathBuf,
    /// Gone with the boot.
    pub run_dir: PathBuf,
    pub pod_logs: PathBuf,
}

impl Places {
    pub fn new(data_dir: &Path) -> Self {
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let (run_dir, pod_logs) = if data_dir == Path::new(DEFAULT_DATA_DIR) {
            ("/run/sampan".into(), "/var/log/pods".into())
        } else {
            (data_dir.join("run"), data_dir.join("log/pods"))
        };
        Self { data_dir, run_dir, pod_logs }
    }

    pub fn server(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    pub fn agent(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    /// Containers' states and writable layers.
    pub fn containers(&self) -> PathBuf {
        self.agent().join("containers")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.agent().join("images")
    }

    /// Where a running node takes orders about its images.
    pub fn images_socket(&self) -> PathBuf {
        self.agent().join("images.sock")
    }

    /// Where the runtime is spoken to in CRI.
    pub fn cri_socket(&self) -> PathBuf {
        self.run_dir.join("cri.sock")
    }

    /// Archives in it are imported at start and when they appear.
    pub fn dropped_images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Manifests in it are applied by the server.
    pub fn manifests(&self) -> PathBuf {
        self.data_dir.join("manifests")
    }

    /// In front of `kubepods`: a second node on a machine must not take the first one's pods for orphans.
    pub fn cgroup_root(&self) -> String {
        if self.data_dir == Path::new(DEFAULT_DATA_DIR) {
            return String::new();
        }
        let name: String =
            self.data_dir.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("/sampan{name}")
    }

    /// Volumes and what else the kubelet keeps per pod: where drivers and plugins look for it, if the machine is ours.
    pub fn kubelet(&self) -> PathBuf {
        let own = self.agent().join("kubelet");
        if self.data_dir == Path::new(DEFAULT_DATA_DIR) && !own.exists() { KUBELET_DIR.into() } else { own }
    }

    /// Moves what an earlier version kept in the data dir to where drivers look for it, mounts and all; where that
    /// cannot be, all stays as it was.
    pub fn settle_kubelet(&self) {
        let (own, common) = (self.agent().join("kubelet"), Path::new(KUBELET_DIR));
        if self.data_dir != Path::new(DEFAULT_DATA_DIR) || !own.exists() {
            return;
        }
        // An empty directory gives way, one that is used does not.
        if let Err(error) = std::fs::create_dir_all(common).and_then(|()| std::fs::rename(&own, common)) {
            tracing::warn!(%error, from = %own.display(), to = KUBELET_DIR, "drivers will not find the kubelet's directory");
        }
    }

    /// Pods in it run on this node without anybody's asking.
    pub fn static_pods(&self) -> PathBuf {
        self.agent().join("pod-manifests")
    }

    /// Which pod has which address.
    pub fn network(&self) -> PathBuf {
        self.agent().join("network")
    }

    /// The runtime of this node, as the server, the agent and `killall` open it.
    pub fn runtime(&self) -> Options {
        Options {
            log_dir: self.pod_logs.clone(),
            keeper_cgroup: format!("{}/sampan-keepers", self.cgroup_root()),
            seccomp_dir: self.kubelet().join("seccomp"),
            ..Options::new(self.containers(), &self.run_dir)
        }
    }
}
