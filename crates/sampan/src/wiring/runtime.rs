//! The embedded runtime and image store as a node's [`ports`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use node::ports::{
    self, Container, ContainerConfig, ContainerState, Credentials, Error, ExecOutput, Exit, Handler, Image, PodChanged,
    PodState, PodStats, Profile, Propagation, PullError, Pulled, Pulling, Resources, Result, Sandbox, SandboxConfig,
    Stdio, Usage,
};
use reconcile::io::BoxFuture;
use runtime::containers::{self as containers, Cgroups, Runtime, SandboxStatus};
use runtime::images::reference::Reference;
use runtime::images::registries::Registries;
use runtime::images::{self, Event, EventSink, Images, Kind, LayerState, PullOptions, Rootfs};
use tokio::sync::broadcast;

use crate::credentials::Providers;

pub(super) const SPEC_HASH: &str = "sampan.io/spec-hash";
/// Who lags behind this many changes lists all pods.
pub(super) const BACKLOG: usize = 1024;

/// Both stores, since a container needs its image's layers.
pub struct Containers {
    runtime: Runtime,
    images: Images,
    /// Addresses by pod, as files of this directory and in memory.
    addresses: PathBuf,
    cgroups: Arc<PodCgroups>,
    known: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Keeps the layers of living containers, by id, and of mounted images, by pod and directory.
    held: Mutex<HashMap<String, Rootfs>>,
    changes: broadcast::Sender<PodChanged>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn failed(error: containers::Error) -> Error {
    use containers::Error as E;
    let text = error.to_string();
    match error {
        E::NoSandbox(_) | E::NoContainer(_) => Error::NotFound(text),
        E::Timeout { seconds, .. } => Error::Timeout(Duration::from_secs(seconds)),
        _ => Error::Failed(text),
    }
}

fn nanos(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

pub fn waited(of: containers::Waited) -> ports::Waited {
    ports::Waited { nanoseconds: of.total_us * 1000, averages: of.averages }
}

/// Cgroups of pods and their classes, which are the kubelet's, whoever runs the containers.
pub struct PodCgroups {
    pub cgroups: Cgroups,
    /// In front of every one: empty for the machine's own node, one of its own for any other.
    pub root: String,
}

impl PodCgroups {
    pub fn path(&self, cgroup: &str) -> String {
        format!("{}/{cgroup}", self.root)
    }
}

impl ports::Cgroups for PodCgroups {
    fn set(&self, cgroup: &str, asked: &Resources) -> Result<()> {
        let cgroup = self.path(cgroup);
        self.cgroups.create(&cgroup).map_err(failed)?;
        self.cgroups.apply(&cgroup, &resources(asked)).map_err(failed)
    }

    fn remove(&self, cgroup: &str) -> Result<()> {
        let cgroup = self.path(cgroup);
        self.cgroups.kill(&cgroup);
        self.cgroups.remove(&cgroup).map_err(failed)
    }

    fn usage(&self, cgroup: &str) -> Usage {
        usage(&self.cgroups.stats(&self.path(cgroup)))
    }

    fn of_pods(&self) -> Vec<String> {
        let mut found = Vec::new();
        for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            let Some(dir) = self.cgroups.dirs(&self.path(class)).into_iter().next() else { continue };
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            found.extend(names.filter(|name| name.starts_with("pod")).map(|name| format!("{class}/{name}")));
        }
        found.sort();
        found.dedup();
        found
    }
}

impl Containers {
    pub fn new(
        runtime: Runtime,
        images: Images,
        addresses: PathBuf,
        cgroups: Arc<PodCgroups>,
    ) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(&addresses)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(&addresses)?.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let ips = text.lines().filter_map(|line| line.parse().ok()).collect();
            known.insert(entry.file_name().to_string_lossy().into_owned(), ips);
        }
        let (changes, _) = broadcast::channel(BACKLOG);
        let containers = Arc::new(Self {
            runtime,
            images,
            addresses,
            cgroups,
            known: Mutex::new(known),
            held: Mutex::default(),
            changes,
        });
        tokio::spawn(containers.clone().forward());
        tokio::spawn(containers.clone().hold_living());
        Ok(containers)
    }

    /// Turns the runtime's events into pods that changed.
    async fn forward(self: Arc<Self>) {
        let mut events = self.runtime.events();
        loop {
            let sandbox = match events.recv().await {
                Ok(event) => Some(event.sandbox_id().to_owned()),
                Err(broadcast::error::RecvError::Lagged(_)) => None,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let pods = self.runtime.sandboxes();
            for status in pods.iter().filter(|status| sandbox.as_ref().is_none_or(|id| *id == status.id)) {
                let _ = self.changes.send(PodChanged { uid: status.config.uid.clone() });
            }
        }
    }

    /// After a restart: containers that run keep their images from being collected.
    async fn hold_living(self: Arc<Self>) {
        for status in self.runtime.containers() {
            if let Ok(rootfs) = self.images.resolve(&status.config.image.digest).await {
                lock(&self.held).insert(status.id, rootfs);
            }
        }
    }

    /// What a pod was given by [`ports::Runtime::set_addresses`].
    pub fn addresses(&self, uid: &str) -> Vec<IpAddr> {
        lock(&self.known).get(uid).cloned().unwrap_or_default()
    }

    /// The newest sandbox of a pod.
    fn sandbox(&self, uid: &str) -> Result<SandboxStatus> {
        self.runtime
            .sandboxes()
            .into_iter()
            .filter(|status| status.config.uid == uid)
            .max_by_key(|status| (status.config.attempt, status.created_at))
            .ok_or_else(|| Error::NotFound(format!("pod {uid} has no sandbox")))
    }

    fn states(&self, only: Option<&str>) -> Vec<PodState> {
        let mut sandboxes = self.runtime.sandboxes();
        sandboxes.retain(|status| only.is_none_or(|uid| status.config.uid == uid));
        sandboxes.sort_by_key(|status| (status.config.attempt, status.created_at));
        let mut pods: HashMap<String, PodState> = HashMap::new();
        let mut pod_of: HashMap<String, String> = HashMap::new();
        for status in &sandboxes {
            let config = &status.config;
            pod_of.insert(status.id.clone(), config.uid.clone());
            let pod = pods.entry(config.uid.clone()).or_insert_with(|| PodState {
                uid: config.uid.clone(),
                namespace: config.namespace.clone(),
                name: config.name.clone(),
                ..PodState::default()
            });
            pod.sandbox = status.ready.then(|| Sandbox {
                id: status.id.clone(),
                attempt: config.attempt,
                created_at: nanos(status.created_at),
                netns: status.netns.clone(),
                addresses: lock(&self.known).get(&config.uid).cloned().unwrap_or_default(),
            });
        }
        let mut all = self.runtime.containers();
        all.sort_by_key(|status| (status.created_at, status.config.attempt));
        for status in all {
            let Some(pod) = pod_of.get(&status.sandbox_id).and_then(|uid| pods.get_mut(uid)) else { continue };
            pod.containers.push(container(&status));
        }
        let mut pods: Vec<_> = pods.into_values().collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        pods
    }

    /// Layers that containers stand on.
    fn layers_in_use(&self) -> Vec<PathBuf> {
        self.runtime.containers().iter().flat_map(|status| status.config.image.lower.clone()).collect()
    }
}

fn container(status: &containers::ContainerStatus) -> Container {
    let state = match (status.state, &status.exit) {
        (containers::ContainerState::Created, _) => ContainerState::Created,
        (containers::ContainerState::Running, _) => ContainerState::Running { started_at: nanos(status.started_at) },
        (containers::ContainerState::Exited, Some(exit)) if exit.reason != "Unknown" => ContainerState::Exited(Exit {
            code: exit.code,
            oom_killed: exit.oom_killed,
            started_at: nanos(status.started_at),
            finished_at: nanos(exit.finished_at),
            error: (exit.reason == "StartError").then(|| exit.message.clone()),
        }),
        (containers::ContainerState::Exited, _) => ContainerState::Unknown,
    };
    Container {
        id: status.id.clone(),
        name: status.config.name.clone(),
        attempt: status.config.attempt,
        state,
        created_at: nanos(status.created_at),
        image: status.config.image.reference.clone(),
        image_id: status.config.image.digest.clone(),
        spec_hash: status.config.annotations.get(SPEC_HASH).and_then(|hash| hash.parse().ok()).unwrap_or(0),
        log_path: status.log_path.clone(),
        user: status.user.as_ref().map(|ids| ports::User {
            uid: ids.uid.into(),
            gid: ids.gid.into(),
            supplemental_groups: ids.groups.iter().map(|group| (*group).into()).collect(),
        }),
    }
}

fn resources(asked: &Resources) -> containers::Resources {
    containers::Resources {
        cpu_shares: (asked.cpu_shares > 0).then_some(asked.cpu_shares),
        cpu_quota: (asked.cpu_quota_us != 0).then_some(asked.cpu_quota_us),
        cpu_period: (asked.cpu_period_us > 0).then_some(asked.cpu_period_us),
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        memory_limit: (asked.memory_limit_bytes > 0)
            .then(|| i64::try_from(asked.memory_limit_bytes).unwrap_or(i64::MAX)),
        // Version 1 counts swap as more memory; version 2 by itself, below. A pod as a whole leaves it to its containers.
        memory_swap: (asked.memory_limit_bytes > 0 && asked.swap_bytes == Some(0))
            .then(|| i64::try_from(asked.memory_limit_bytes).unwrap_or(i64::MAX)),
        hugepages: asked.hugepage_limits.iter().map(|(size, bytes)| (size.clone(), *bytes)).collect(),
        pids_limit: (asked.pids_limit > 0).then(|| i64::try_from(asked.pids_limit).unwrap_or(i64::MAX)),
        oom_score_adj: asked.oom_score_adj,
        unified: [
            asked.swap_bytes.map(|bytes| ("memory.swap.max".to_owned(), bytes.to_string())),
            asked.oom_group.then(|| ("memory.oom.group".to_owned(), "1".to_owned())),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

fn id32(id: i64) -> Option<u32> {
    u32::try_from(id).ok()
}

fn security(asked: &ports::Security) -> containers::Security {
    containers::Security {
        privileged: asked.privileged,
        run_as_user: asked.run_as_user.and_then(id32),
        run_as_group: asked.run_as_group.and_then(id32),
        run_as_username: String::new(),
        supplemental_groups: asked.supplemental_groups.iter().copied().filter_map(id32).collect(),
        strict_groups: asked.supplemental_groups_strict,
        add_capabilities: asked.add_capabilities.clone(),
        drop_capabilities: asked.drop_capabilities.clone(),
        no_new_privileges: asked.no_new_privileges,
        readonly_rootfs: asked.readonly_root,
        masked_paths: (asked.unmasked_proc || asked.privileged).then(Vec::new),
        readonly_paths: (asked.unmasked_proc || asked.privileged).then(Vec::new),
        seccomp: match &asked.seccomp {
            Profile::RuntimeDefault => containers::Seccomp::RuntimeDefault,
            Profile::Unconfined => containers::Seccomp::Unconfined,
            Profile::Localhost(name) => containers::Seccomp::Localhost(name.into()),
        },
        apparmor: match &asked.apparmor {
            Profile::RuntimeDefault => containers::AppArmor::RuntimeDefault,
            Profile::Unconfined => containers::AppArmor::Unconfined,
            Profile::Localhost(name) => containers::AppArmor::Localhost(name.clone()),
        },
    }
}

/// By what `crictl` and log collectors find a pod's parts.
pub(super) fn labels(name: &str, namespace: &str, uid: &str) -> impl Iterator<Item = (String, String)> {
    [("name", name), ("namespace", namespace), ("uid", uid)]
        .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned()))
        .into_iter()
}

fn container_config(
    asked: &ContainerConfig,
    pod: &containers::SandboxConfig,
    rootfs: &Rootfs,
) -> containers::ContainerConfig {
    containers::ContainerConfig {
        name: asked.name.clone(),
        attempt: asked.attempt,
        labels: labels(&pod.name, &pod.namespace, &pod.uid)
            .chain([("io.kubernetes.container.name".to_owned(), asked.name.clone())])
            .collect(),
        annotations: [
            (SPEC_HASH.to_owned(), asked.spec_hash.to_string()),
            ("io.kubernetes.container.restartCount".to_owned(), asked.attempt.to_string()),
        ]
        .into(),
        image: containers::Image { reference: asked.image.clone(), ..containers::Image::from(rootfs) },
        command: asked.command.clone(),
        args: asked.args.clone(),
        env: asked.env.clone(),
        working_dir: asked.working_dir.clone(),
        mounts: asked
            .mounts
            .iter()
            .map(|mount| containers::Mount {
                host_path: mount.host_path.clone(),
                container_path: mount.container_path.to_string_lossy().into_owned(),
                readonly: mount.readonly,
                recursive_readonly: mount.recursive_readonly,
                propagation: match mount.propagation {
                    Propagation::Private => containers::Propagation::Private,
                    Propagation::HostToContainer => containers::Propagation::HostToContainer,
                    Propagation::Bidirectional => containers::Propagation::Bidirectional,
                },
                image: String::new(),
            })
            .collect(),
        devices: asked
            .devices
            .iter()
            .map(|device| containers::Device {
                host_path: device.host_path.clone(),
                container_path: device.container_path.to_string_lossy().into_owned(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        resources: resources(&asked.resources),
        security: security(&asked.security),
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        log_path: asked.log_path.to_string_lossy().into_owned(),
        pid_of: asked.target_id.clone(),
        stop_signal: asked.stop_signal.clone().unwrap_or_default(),
    }
}

fn disk(of: &containers::DiskIo) -> ports::DiskIo {
    let told = std::fs::read_to_string(format!("/sys/dev/block/{}/uevent", of.device)).unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let device = format!("/dev/{}", name.unwrap_or(&of.device));
    let (read_bytes, written_bytes) = (of.read_bytes, of.written_bytes);
    ports::DiskIo { device, read_bytes, written_bytes, reads: of.reads, writes: of.writes }
}

fn usage(stats: &containers::CgroupStats) -> Usage {
    Usage {
        at: super::host::now_ns(),
        cpu_nanoseconds: stats.cpu_usage_ns,
        memory_usage_bytes: stats.memory_usage,
        memory_working_set_bytes: stats.memory_working_set,
        memory_rss_bytes: stats.memory_rss,
        page_faults: stats.page_faults,
        major_page_faults: stats.major_page_faults,
        processes: stats.pids,
        cpu_user_nanoseconds: stats.cpu_user_ns,
        cpu_system_nanoseconds: stats.cpu_system_ns,
        cfs_periods: stats.periods,
        cfs_throttled_periods: stats.throttled_periods,
        cfs_throttled_nanoseconds: stats.throttled_ns,
        memory_cache_bytes: stats.cache,
        memory_mapped_bytes: stats.mapped,
        memory_swap_bytes: stats.swap_usage,
        memory_max_bytes: stats.memory_max_usage,
        memory_failures: stats.memory_failures,
        memory_limit_bytes: stats.memory_limit.unwrap_or(0),
        io: stats.io.iter().map(disk).collect(),
        stalled: stats.pressure.iter().map(|(of, both)| (*of, both.map(waited))).collect(),
        ..Usage::default()
    }
}

impl ports::Runtime for Containers {
    fn version(&self) -> (String, String) {
        ("sampan".into(), env!("CARGO_PKG_VERSION").into())
    }

    fn handlers(&self) -> Vec<Handler> {
        let probed = self.runtime.user_namespaces();
        let user_namespaces =
            probed.as_ref().inspect_err(|why| tracing::debug!(why, "no user namespaces here")).is_ok();
        let handler = |name: &str| Handler { name: name.into(), user_namespaces, recursive_read_only: true };
        containers::HANDLERS.map(handler).into()
    }

    fn pods(&self) -> BoxFuture<'_, Result<Vec<PodState>>> {
        Box::pin(async { Ok(self.states(None)) })
    }

    fn pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<PodState>> {
        Box::pin(async move {
            let found = self.states(Some(uid)).into_iter().next();
            Ok(found.unwrap_or_else(|| PodState { uid: uid.to_owned(), ..PodState::default() }))
        })
    }

    fn changes(&self) -> broadcast::Receiver<PodChanged> {
        self.changes.subscribe()
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<Sandbox>> {
        Box::pin(async move {
            containers::check_handler(&config.handler)
                .map_err(|why| Error::Failed(format!("failed to get sandbox runtime: {why}")))?;
            let mut asked = containers::SandboxConfig {
                runtime_handler: config.handler.clone(),
                uid: config.uid.clone(),
                name: config.name.clone(),
                namespace: config.namespace.clone(),
                attempt: config.attempt,
                hostname: config.hostname.clone(),
                log_directory: config.log_directory.clone(),
                host_network: config.host_network,
                host_pid: config.host_pid,
                host_ipc: config.host_ipc,
                share_process_namespace: config.share_process_namespace,
                user_namespace: config.user_namespace,
                sysctls: config.sysctls.clone(),
                cgroup_parent: self.cgroups.path(&config.cgroup),
                ..containers::SandboxConfig::default()
            };
            asked.labels = labels(&config.name, &config.namespace, &config.uid).collect();
            let status = self.runtime.run_sandbox(asked).await.map_err(failed)?;
            Ok(Sandbox {
                id: status.id,
                attempt: config.attempt,
                created_at: nanos(status.created_at),
                netns: status.netns,
                addresses: Vec::new(),
            })
        })
    }

    fn set_addresses<'a>(&'a self, uid: &'a str, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
            let path = self.addresses.join(uid);
            std::fs::write(&path, text)
                .map_err(|error| Error::Failed(format!("cannot write {}: {error}", path.display())))?;
            lock(&self.known).insert(uid.to_owned(), addresses.to_vec());
            Ok(())
        })
    }

    fn stop_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for status in self.runtime.sandboxes().into_iter().filter(|status| status.config.uid == uid) {
                self.runtime.stop_sandbox(&status.id).await.map_err(failed)?;
            }
            Ok(())
        })
    }

    fn remove_pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for status in self.runtime.sandboxes().into_iter().filter(|status| status.config.uid == uid) {
                for container in
                    self.runtime.containers().into_iter().filter(|container| container.sandbox_id == status.id)
                {
                    lock(&self.held).remove(&container.id);
                }
                lock(&self.held).retain(|key, _| key.strip_prefix(uid).is_none_or(|rest| !rest.starts_with('/')));
                self.runtime.remove_sandbox(&status.id).await.map_err(failed)?;
            }
            lock(&self.known).remove(uid);
            let _ = std::fs::remove_file(self.addresses.join(uid));
            Ok(())
        })
    }

    fn create_container<'a>(&'a self, pod: &'a str, config: &'a ContainerConfig) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let sandbox = self.sandbox(pod)?;
            let rootfs = self.images.resolve(&config.image_id).await.map_err(|error| Error::Failed(error.chain()))?;
            let mut made = container_config(config, &sandbox.config, &rootfs);
            super::cdi::inject(&config.cdi_devices, &mut made).map_err(Error::Failed)?;
            let id = self.runtime.create_container(&sandbox.id, made).await.map_err(failed)?;
            lock(&self.held).insert(id.clone(), rootfs);
            Ok(id)
        })
    }

    fn start_container<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.runtime.start_container(id).await.map_err(failed) })
    }

    fn stop_container<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        grace: Duration,
        signal: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let signal = signal.and_then(containers::signal_number);
            self.runtime.stop_container(id, grace, signal).await.map_err(failed)
        })
    }

    fn remove_container<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.runtime.remove_container(id).await.map_err(failed)?;
            lock(&self.held).remove(id);
            Ok(())
        })
    }

    fn update_resources<'a>(&'a self, _: &'a str, id: &'a str, asked: &'a Resources) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.runtime.update_container(id, resources(asked)).await.map_err(failed) })
    }

    fn reopen_log<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.runtime.reopen_log(id).await.map_err(failed) })
    }

    fn exec_sync<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        command: &'a [String],
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>> {
        Box::pin(async move {
            let output = self.runtime.exec_sync(id, command, timeout).await.map_err(failed)?;
            Ok(ExecOutput { code: output.code, stdout: output.stdout, stderr: output.stderr })
        })
    }

    fn exec<'a>(&'a self, _: &'a str, id: &'a str, command: &'a [String], stdio: Stdio) -> BoxFuture<'a, Result<i32>> {
        Box::pin(async move {
            let request = containers::ExecRequest {
                command: command.to_vec(),
                tty: stdio.tty,
                stdin: stdio.stdin.is_some(),
                stdout: stdio.stdout.is_some(),
                stderr: stdio.stderr.is_some(),
            };
            let mut process = self.runtime.exec(id, request).await.map_err(failed)?;
            process.join(stdio, true).await.map_err(failed)
        })
    }

    fn attach<'a>(&'a self, _: &'a str, id: &'a str, stdio: Stdio) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (stdin, stdout, stderr) = (stdio.stdin.is_some(), stdio.stdout.is_some(), stdio.stderr.is_some());
            let mut process = self.runtime.attach(id, stdin, stdout, stderr).await.map_err(failed)?;
            process.join(stdio, false).await.map(drop).map_err(failed)
        })
    }

    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<(ports::Reader, ports::Writer)>> {
        Box::pin(async move {
            let sandbox = self.sandbox(pod)?;
            let stream = self.runtime.port_forward(&sandbox.id, port).await.map_err(failed)?;
            let (reader, writer) = stream.into_split();
            Ok((Box::new(reader) as ports::Reader, Box::new(writer) as ports::Writer))
        })
    }

    fn stats<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<PodStats>> {
        Box::pin(async move {
            let sandbox = self.sandbox(pod)?;
            let mut stats = PodStats {
                pod: usage(&self.runtime.cgroups().stats(&sandbox.config.cgroup_parent)),
                ..PodStats::default()
            };
            if let (Some(pid), false) = (sandbox.keeper_pid, sandbox.config.host_network) {
                stats.network = super::host::interfaces(&format!("/proc/{pid}/net/dev"));
            }
            for status in self.runtime.containers().into_iter().filter(|status| status.sandbox_id == sandbox.id) {
                let Ok(of_container) = self.runtime.container_stats(&status.id).await else { continue };
                let mut of_container = usage(&of_container);
                if let Ok((bytes, inodes)) = self.runtime.container_disk_usage(&status.id).await {
                    (of_container.root_fs_used_bytes, of_container.root_fs_inodes) = (bytes, inodes);
                }
                stats.containers.insert(status.id, of_container);
            }
            Ok(stats)
        })
    }
}

fn image(found: images::Image) -> Image {
    Image {
        id: found.id.as_str().to_owned(),
        tags: found.repo_tags,
        digests: found.repo_digests,
        size_bytes: found.size,
        pinned: found.pinned,
        user: found.user,
    }
}

fn store_failed(error: images::Error) -> Error {
    Error::Failed(error.chain())
}

impl ports::Images for Containers {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(async move { Ok(self.images.get(name).await.map_err(store_failed)?.map(image)) })
    }

    fn pull<'a>(&'a self, name: &'a str, credentials: &'a [Credentials], pulling: Arc<dyn Pulling>) -> ports::Pull<'a> {
        Box::pin(async move {
            let all: Vec<_> = credentials.iter().map(login).collect();
            let logins = all.clone();
            let asks = pulling.clone();
            let make_room: images::MakeRoom = Arc::new(move |need| asks.make_room(need.least, need.likely));
            let options = PullOptions { logins, events: Some(told(pulling)), make_room: Some(make_room) };
            let (pulled, used) = self.images.pull_by(name, options).await.map_err(|error| match error.kind() {
                Kind::InvalidName => PullError::InvalidName(error.chain()),
                Kind::Signature => PullError::Signature(error.chain()),
                _ => PullError::Failed(error.chain()),
            })?;
            let login = used.and_then(|used| all.iter().position(|(_, login)| *login == used));
            Ok(Pulled { image: image(pulled), login })
        })
    }

    fn fits(&self, registry: &str, name: &str) -> bool {
        fits(registry, name)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        Box::pin(async { Ok(self.images.list().await.map_err(store_failed)?.into_iter().map(image).collect()) })
    }

    fn mount<'a>(&'a self, id: &'a str, pod: &'a str, target: &'a Path) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let rootfs = self.images.resolve(id).await.map_err(store_failed)?;
            let failed = |error: std::io::Error| Error::Failed(format!("mount it on {}: {error}", target.display()));
            self.images.show(&rootfs, target).map_err(failed)?;
            lock(&self.held).insert(format!("{pod}/{}", target.display()), rootfs);
            Ok(true)
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.images.remove(id, &self.layers_in_use()).await.map(drop).map_err(store_failed) })
    }

    fn usage(&self) -> BoxFuture<'_, Result<(u64, u64)>> {
        Box::pin(async {
            let usage = self.images.usage().await.map_err(store_failed)?;
            Ok((usage.bytes, usage.inodes))
        })
    }
}

/// Tells how far a pull is.
fn told(pulling: Arc<dyn Pulling>) -> EventSink {
    #[derive(Default)]
    struct Known {
        total: u64,
        resumed: u64,
        blobs: HashMap<String, u64>,
    }
    let known: Mutex<Known> = Mutex::default();
    Arc::new(move |event| {
        let mut known = lock(&known);
        match event {
            Event::Resolved { size, .. } => known.total = size,
            Event::Resuming { from, .. } => known.resumed += from,
            Event::Layer { blob, state, done, size, .. } => {
                let here = if state == LayerState::Downloading { done } else { size };
                known.blobs.insert(blob.to_string(), here);
            }
            _ => return,
        }
        pulling.progress(known.blobs.values().sum(), known.total, known.resumed);
    })
}

pub(super) fn fits(registry: &str, name: &str) -> bool {
    let repository = Reference::parse(name).map(|reference| reference.repository());
    repository.is_ok_and(|repository| images::credentials::matches(registry, &repository).is_some())
}

fn login(given: &Credentials) -> images::credentials::Login {
    use images::credentials::Credentials as As;
    let given = given.clone();
    let login = if !given.identity_token.is_empty() {
        As::IdentityToken(given.identity_token)
    } else if !given.registry_token.is_empty() {
        As::RegistryToken(given.registry_token)
    } else {
        As::Basic { username: given.username, password: given.password }
    };
    (given.registry, login)
}

/// What `registries.yaml` says; nothing where there is no such file.
pub fn registries(path: &Path) -> std::result::Result<Registries, String> {
    let Some(text) = crate::files::read(path).map_err(|error| error.to_string())? else {
        return Ok(Registries::default());
    };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let json = yaml_as_json(&text).map_err(|error| named(&error))?;
    let value = serde_json::from_slice(&json).map_err(|error| named(&error))?;
    Registries::from_value(value).map_err(|error| named(&error))
}

/// kubelet's credential provider plugins; none unless both are given.
pub fn providers(
    config: Option<&Path>,
    dir: Option<&Path>,
) -> std::result::Result<Option<Arc<dyn ports::Providers>>, String> {
    let (Some(path), Some(dir)) = (config, dir) else { return Ok(None) };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    let json = yaml_as_json(&text).map_err(|error| named(&error))?;
    Ok(Some(Arc::new(Providers::new(&json, dir).map_err(|error| named(&error))?)))
}

fn yaml_as_json(text: &str) -> std::result::Result<Vec<u8>, String> {
    let parsed = schema::yaml::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut json = Vec::new();
    schema::json::encode_untyped(&parsed.value, &mut json);
    Ok(json)
}

/// The image store of a node.
pub fn image_store(dir: &Path, registries: Registries) -> std::result::Result<Images, String> {
    let machine = std::fs::read_to_string("/proc/sys/kernel/arch")
        .map_or_else(|_| std::env::consts::ARCH.to_owned(), |arch| arch.trim().to_owned());
    let mut options = images::Options::new(images::platform::Platform::host(&machine));
    options.registries = registries;
    let policy = Path::new("/etc/sampan/policy.json");
    if let Some(text) = crate::files::read(policy).map_err(|error| error.to_string())? {
        let parsed = images::signatures::Policy::parse(text.as_bytes());
        options.policy = parsed.map_err(|error| format!("{}: {error}", policy.display()))?;
    }
    Images::open(dir, options).map_err(|error| error.chain())
}
