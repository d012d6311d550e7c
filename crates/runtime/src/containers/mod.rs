//! Pods and containers on this machine. [`Runtime`] is the entry.
//!
//! Each pod has a keeper process ([`holder`]); `resolve` turns what is asked into what the keeper's helper does,
//! `cgroups` accounts it, `state` keeps on disk what a later Sampan must know. Nothing here is needed for a container to
//! go on: a killed and restarted Sampan finds the keepers in the run directory and the configs in the state directory.
#![allow(unsafe_code)] // descriptors beside packets, memory files, ioctls, umount: what std lacks

pub mod apparmor;
pub mod caps;
pub mod cgroups;
pub mod config;
mod device_filter;
pub mod error;
mod exec;
mod holder;
mod lifecycle;
mod packets;
mod resolve;
pub mod seccomp;
#[allow(dead_code)] // the keeper reads what this side writes
#[path = "../../../keeper/src/spec.rs"]
mod spec;
mod state;
mod streams;
#[allow(dead_code)]
#[path = "../../../keeper/src/wire.rs"]
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{broadcast, oneshot, watch};

pub use cgroups::{CgroupStats, Cgroups, DeviceRule, DiskIo, Waited, waited};
pub use config::*;
pub use error::{Error, Result};
pub use exec::{ExecOutput, ExecRequest, Process};
pub use lifecycle::signal_number;
pub use resolve::{MASKED_PATHS, READONLY_PATHS};
pub use streams::{Input, Output, Terminal};

use holder::{Ended, Holder, Program};

use crate::lock;

/// How many events a slow listener may be behind before it must ask for the list.
const EVENT_BACKLOG: usize = 1024;

/// The container runtime of this machine. Clones are the same runtime; dropping it ends no container.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    options: Options,
    cgroups: Cgroups,
    program: Arc<Program>,
    /// v1 files to enter, v2 directory to be born in.
    keeper_cgroups: (Vec<PathBuf>, Option<PathBuf>),
    boot_id: String,
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    execs: Mutex<HashMap<String, oneshot::Sender<Ended>>>,
    filters: resolve::Filters,
    user_namespaces: std::sync::OnceLock<std::result::Result<(), String>>,
    events: broadcast::Sender<Event>,
}

struct Pod {
    id: String,
    config: Arc<SandboxConfig>,
    created_at: u64,
    holder: Mutex<Option<Arc<Holder>>>,
    /// Somebody ends it: its keeper's end is no surprise.
    stopping: AtomicBool,
}

struct Container {
    id: String,
    pod: Arc<Pod>,
    config: Mutex<Arc<ContainerConfig>>,
    created_at: u64,
    live: watch::Sender<Live>,
    /// Known once it was seen running.
    user: OnceLock<Ids>,
    /// One start, stop or removal at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Live {
    state: ContainerState,
    pid: u32,
    started_at: u64,
    exit: Option<Exit>,
}

/// What `net/dev` says of each link but `lo`: bytes, packets, errors and drops, in and then out.
pub fn link_counts(text: &str) -> Vec<(String, [u64; 8])> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
        (name.trim() != "lo").then(|| (name.trim().to_owned(), [0, 1, 2, 3, 8, 9, 10, 11].map(number)))
    };
    text.lines().filter_map(line).collect()
}

/// A container's id: 64 hex digits.
pub(crate) fn new_id() -> String {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // SAFETY: the kernel fills the slice.
        let n = unsafe { libc::getrandom(bytes[filled..].as_mut_ptr().cast(), bytes.len() - filled, 0) };
        filled += n.max(0) as usize;
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

impl Pod {
    fn ready(&self) -> bool {
        lock(&self.holder).is_some() && !self.stopping.load(Ordering::Acquire)
    }

    fn holder(&self) -> Result<Arc<Holder>> {
        lock(&self.holder).clone().ok_or_else(|| Error::SandboxNotReady(self.id.clone()))
    }
}

impl Container {
    fn config(&self) -> Arc<ContainerConfig> {
        lock(&self.config).clone()
    }

    fn cgroup(&self) -> String {
        format!("{}/{}", self.pod.config.cgroup_parent.trim_end_matches('/'), self.id)
    }

    fn log_path(&self) -> PathBuf {
        let config = self.config();
        if config.log_path.is_empty() { PathBuf::new() } else { self.pod.config.log_directory.join(&config.log_path) }
    }
}

impl Inner {
    fn pod_dir(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("pods").join(id)
    }
    fn pod_run_dir(&self, id: &str) -> PathBuf {
        self.options.run_dir.join("pods").join(id)
    }
    fn container_dir(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("containers").join(id)
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        lock(&self.pods).get(id).cloned().ok_or_else(|| Error::NoSandbox(id.to_string()))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers).get(id).cloned().ok_or_else(|| Error::NoContainer(id.to_string()))
    }

    fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        lock(&self.containers).values().filter(|c| c.pod.id == pod).cloned().collect()
    }

    fn emit(&self, event: Event) {
        let _ = self.events.send(event); // nobody listens: nobody misses it
    }

    /// A keeper says that something has ended.
    fn ended(&self, pod: &Pod, ended: Ended) {
        if let Some(waiter) = lock(&self.execs).remove(&ended.id) {
            let _ = waiter.send(ended);
            return;
        }
        if let Ok(container) = self.container(&ended.id) {
            let exit = exit_of(ended.code, ended.signal, ended.oom, ended.finished_at);
            container.live.send_modify(|live| {
                live.state = ContainerState::Exited;
                live.exit = Some(exit.clone());
            });
            self.emit(Event::ContainerExited { sandbox_id: pod.id.clone(), container_id: ended.id, exit });
        }
    }
}

fn exit_of(code: i32, signal: i32, oom_killed: bool, finished_at: u64) -> Exit {
    let reason = match (oom_killed, code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    };
    Exit { code, signal, oom_killed, finished_at, reason: reason.into(), message: String::new() }
}

impl Runtime {
    /// Whether pods may have user namespaces here; else what this kernel or its file system refuses.
    pub fn user_namespaces(&self) -> &std::result::Result<(), String> {
        self.0.user_namespaces.get_or_init(|| holder::probe(&self.0.program, &self.0.options.state_dir))
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// This machine's cgroups, also for pod and QoS levels.
    pub fn cgroups(&self) -> &Cgroups {
        &self.0.cgroups
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        let pods: Vec<Arc<Pod>> = lock(&self.0.pods).values().cloned().collect();
        pods.iter().map(|pod| self.sandbox_of(pod)).collect()
    }

    pub fn sandbox(&self, id: &str) -> Result<SandboxStatus> {
        self.0.pod(id).map(|pod| self.sandbox_of(&pod))
    }

    pub fn containers(&self) -> Vec<ContainerStatus> {
        let containers: Vec<Arc<Container>> = lock(&self.0.containers).values().cloned().collect();
        containers.iter().map(|c| self.status_of(c)).collect()
    }

    pub fn container(&self, id: &str) -> Result<ContainerStatus> {
        self.0.container(id).map(|c| self.status_of(&c))
    }

    /// Layers that containers stand on: what the image store's garbage collection must leave.
    pub fn layers_in_use(&self) -> Vec<PathBuf> {
        let mut layers: Vec<PathBuf> =
            lock(&self.0.containers).values().flat_map(|c| c.config().image.lower.clone()).collect();
        layers.sort();
        layers.dedup();
        layers
    }

    /// Waits until the container has ended; one that has not started yet too.
    pub async fn wait(&self, id: &str) -> Result<Exit> {
        let container = self.0.container(id)?;
        let mut live = container.live.subscribe();
        let ended = live.wait_for(|live| live.exit.is_some()).await;
        ended.ok().and_then(|live| live.exit.clone()).ok_or_else(|| Error::NoContainer(id.to_string()))
    }

    fn sandbox_of(&self, pod: &Arc<Pod>) -> SandboxStatus {
        let pid = lock(&pod.holder).as_ref().map(|h| h.pid.load(Ordering::Relaxed));
        SandboxStatus {
            id: pod.id.clone(),
            config: pod.config.clone(),
            ready: pod.ready(),
            created_at: pod.created_at,
            netns: if pod.config.host_network { None } else { Some(self.0.pod_run_dir(&pod.id).join("net")) },
            keeper_pid: pid,
        }
    }

    fn status_of(&self, c: &Container) -> ContainerStatus {
        let live = c.live.borrow().clone();
        let is_running = live.state == ContainerState::Running;
        if is_running && c.user.get().is_none() {
            let first = c.pod.config.user_namespace.map_or(0, |(first, _)| first);
            let _ = Ids::of(live.pid, first).map(|ids| c.user.set(ids));
        }
        ContainerStatus {
            id: c.id.clone(),
            sandbox_id: c.pod.id.clone(),
            config: c.config(),
            state: live.state,
            pid: is_running.then_some(live.pid),
            user: c.user.get().cloned(),
            created_at: c.created_at,
            started_at: live.started_at,
            exit: live.exit,
            log_path: c.log_path(),
        }
    }
}
