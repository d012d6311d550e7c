//! From `run_sandbox` to `remove_sandbox`, and the containers between.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{At, Error, Result};
use super::resolve::{self, Places};
use super::spec::Field;
use super::state::{ContainerRecord, PodRecord, release, write_record};
use super::*;

/// How long a killed container may take to end before it is called stuck (a dead disk or NFS server).
const KILL_PATIENCE: Duration = Duration::from_secs(30);
const SHM_BYTES: u64 = 64 << 20;

impl Runtime {
    /// Makes a pod's namespaces and its keeper. The network is still to be set up, in the namespace of the status.
    pub async fn run_sandbox(&self, mut config: SandboxConfig) -> Result<SandboxStatus> {
        let inner = self.0.clone();
        let id = new_id();
        if config.log_directory.as_os_str().is_empty() {
            let name = format!("{}_{}_{}", config.namespace, config.name, config.uid);
            config.log_directory = inner.options.log_dir.join(name);
        }
        if config.hostname.is_empty() {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            // Linux takes 64 bytes.
            let is_host = config.host_network || config.name.is_empty() || config.name.len() > 64;
            config.hostname = if is_host { host.trim().to_string() } else { config.name.clone() };
        }
        if config.cgroup_parent.is_empty() {
            config.cgroup_parent = "/kubepods/besteffort".into();
        }
        let pod = Arc::new(Pod {
            id: id.clone(),
            config: Arc::new(config),
            created_at: now_ns(),
            holder: Mutex::new(None),
            stopping: AtomicBool::new(false),
        });
        let (started, owner) = (inner.clone(), pod.clone());
        let result = blocking(move || start_keeper(&started, &owner)).await;
        let run_dir = inner.pod_run_dir(&id);
        let connected =
            result.and_then(|()| holder::Holder::connect(&run_dir).at("connect to the keeper in", &run_dir));
        match connected {
            Ok(holder) => {
                lock(&inner.pods).insert(id.clone(), pod.clone());
                self.listen(&pod, &holder);
                inner.emit(Event::SandboxStarted { sandbox_id: id });
                Ok(self.sandbox_of(&pod))
            }
            Err(e) => {
                release(&run_dir);
                let _ = (fs::remove_dir_all(&run_dir), fs::remove_dir_all(inner.pod_dir(&id)));
                Err(e)
            }
        }
    }

    /// Ends what is left of the pod: containers by SIGKILL, then the keeper and with it the namespaces.
    /// Its network must have been torn down before.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let pod = self.0.pod(id)?;
        let mut stops = Vec::new();
        for container in self.0.containers_of(id) {
            let runtime = self.clone();
            stops.push(tokio::spawn(async move { runtime.stop_container(&container.id, Duration::ZERO, None).await }));
        }
        for stop in stops {
            stop.await.map_err(std::io::Error::other).at("stop the containers of", id)??;
        }
        pod.stopping.store(true, Ordering::Release);
        let holder = lock(&pod.holder).clone();
        if let Some(holder) = holder {
            match holder.ask("quit", &[], &[]).await {
                Err(Error::Gone(_)) | Ok(_) => {}
                Err(e) => return Err(e),
            }
            *lock(&pod.holder) = None;
        }
        release(&self.0.pod_run_dir(id));
        Ok(())
    }

    /// Forgets a pod; stops it before if it runs, and removes its containers.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Ok(pod) = self.0.pod(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.0.containers_of(id) {
            self.remove_container(&container.id).await?;
        }
        lock(&self.0.pods).remove(&pod.id);
        self.0.emit(Event::SandboxRemoved { sandbox_id: pod.id.clone() });
        let (dir, run_dir) = (self.0.pod_dir(id), self.0.pod_run_dir(id));
        blocking(move || {
            let _ = fs::remove_dir_all(&run_dir);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", dir),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Makes a container, not yet running.
    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String> {
        let pod = self.0.pod(sandbox)?;
        if !pod.ready() {
            return Err(Error::SandboxNotReady(sandbox.to_string()));
        }
        let id = new_id();
        let container = Arc::new(Container {
            id: id.clone(),
            pod,
            config: Mutex::new(Arc::new(config)),
            created_at: now_ns(),
            live: watch::Sender::new(Live { state: ContainerState::Created, pid: 0, started_at: 0, exit: None }),
            user: OnceLock::new(),
            turn: Default::default(),
        });
        let (inner, made) = (self.0.clone(), container.clone());
        blocking(move || {
            // Wrong configs are told now, not at the start.
            resolve_container(&inner, &made)?;
            let dir = inner.container_dir(&made.id);
            for part in ["fs", "work"] {
                make_dir(&dir.join(part), if part == "fs" { 0o755 } else { 0o700 })?;
            }
            if let Some((root, _)) = made.pod.config.user_namespace {
                std::os::unix::fs::chown(dir.join("fs"), Some(root), Some(root))
                    .at("give to the user namespace", &dir)?;
            }
            for mount in &made.config().mounts {
                if !mount.host_path.exists() {
                    make_dir(&mount.host_path, 0o755)?;
                }
            }
            save(&inner, &made)
        })
        .await
        .inspect_err(|_| self.discard(&id))?;
        lock(&self.0.containers).insert(id.clone(), container);
        self.0.emit(Event::ContainerCreated { sandbox_id: sandbox.to_string(), container_id: id.clone() });
        Ok(id)
    }

    /// Starts a created container; returns when its program runs. One that cannot start has ended, with 128.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.0.container(id)?;
        let _turn = container.turn.lock().await;
        expect_state(&container, ContainerState::Created)?;
        let holder = container.pod.holder()?;
        let (inner, made) = (self.0.clone(), container.clone());
        let started = async {
            let target = container.config().pid_of.clone();
            let shared = container.pod.config.host_pid || container.pod.config.share_process_namespace;
            let target = if target.is_empty() || shared { None } else { Some(self.pid_namespace(&target)?) };
            let (spec, fields) = blocking(move || prepare_start(&inner, &made)).await?;
            let fields: Vec<&[u8]> = fields.iter().map(|f| &f[..]).collect();
            let own = [self.0.program.fd(), spec.as_raw_fd()].into_iter();
            let fds: Vec<_> = own.chain(target.as_ref().map(AsRawFd::as_raw_fd)).collect();
            holder.ask("start", &fields, &fds).await
        };
        match started.await {
            Ok(reply) => {
                container.live.send_modify(|live| {
                    live.pid = reply.number(0);
                    live.started_at = reply.number(1);
                    if live.exit.is_none() {
                        live.state = ContainerState::Running; // else it was quicker than its reply
                    }
                });
                self.0.emit(Event::ContainerStarted {
                    sandbox_id: container.pod.id.clone(),
                    container_id: id.to_string(),
                });
                Ok(())
            }
            Err(e) => {
                let message = match e {
                    Error::Refused { message, .. } => message,
                    other => other.to_string(),
                };
                let exit =
                    Exit { reason: "StartError".into(), message: message.clone(), ..exit_of(128, 0, false, now_ns()) };
                container.live.send_modify(|live| {
                    live.state = ContainerState::Exited;
                    live.exit = Some(exit.clone());
                });
                let (inner, made) = (self.0.clone(), container.clone());
                blocking(move || {
                    let _ = inner.cgroups.remove(&made.cgroup());
                    save(&inner, &made)
                })
                .await?;
                Err(Error::Start(message))
            }
        }
    }

    /// Where a running container's processes are.
    fn pid_namespace(&self, id: &str) -> Result<fs::File> {
        let target = self.0.container(id)?;
        let pid = target.live.borrow().pid;
        let path = format!("/proc/{pid}/ns/pid");
        let file = fs::File::open(&path).at("open", path)?;
        // It still runs: the number is still its own.
        expect_state(&target, ContainerState::Running)?;
        Ok(file)
    }

    /// Asks a container to end and kills it after `grace`; returns when it has ended.
    pub async fn stop_container(&self, id: &str, grace: Duration, signal: Option<i32>) -> Result<()> {
        let container = self.0.container(id)?;
        let mut live = container.live.subscribe();
        if container.live.borrow().state != ContainerState::Running {
            return Ok(());
        }
        let holder = container.pod.holder()?;
        let ended = |live: &Live| live.state != ContainerState::Running;
        if !grace.is_zero() {
            let signal = signal.unwrap_or_else(|| stop_signal(&container.config()));
            match holder.ask("signal", &[id.as_bytes(), signal.to_string().as_bytes()], &[]).await {
                Ok(_) | Err(Error::Refused { .. }) => {}
                Err(e) => return Err(e),
            }
            if tokio::time::timeout(grace, live.wait_for(ended)).await.is_ok() {
                return Ok(());
            }
        }
        let _ = holder.ask("signal", &[id.as_bytes(), b"9"], &[]).await;
        let pod = &container.pod.config;
        if pod.host_pid || pod.share_process_namespace || !container.config().pid_of.is_empty() {
            let (inner, path) = (self.0.clone(), container.cgroup());
            blocking(move || Ok(inner.cgroups.kill(&path))).await?;
        }
        match tokio::time::timeout(KILL_PATIENCE, live.wait_for(ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::WrongState { id: id.to_string(), state: "running despite SIGKILL", wanted: "ended" }),
        }
    }

    /// Forgets a container, its layer and its cgroup; kills it before if it runs. Its logs stay.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.0.container(id) else { return Ok(()) };
        self.stop_container(id, Duration::ZERO, None).await?;
        let _turn = container.turn.lock().await;
        let holder = lock(&container.pod.holder).clone();
        if let Some(holder) = holder {
            match holder.ask("forget", &[id.as_bytes()], &[]).await {
                Ok(_) | Err(Error::Refused { .. }) | Err(Error::Gone(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let (inner, path) = (self.0.clone(), container.cgroup());
        blocking(move || {
            inner.cgroups.kill(&path);
            remove_cgroup(&inner.cgroups, &path)
        })
        .await?;
        self.discard(id);
        lock(&self.0.containers).remove(id);
        self.0.emit(Event::ContainerRemoved { sandbox_id: container.pod.id.clone(), container_id: id.to_string() });
        Ok(())
    }

    /// Changes a running container's limits; what `resources` does not name stays.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<()> {
        let container = self.0.container(id)?;
        let _turn = container.turn.lock().await;
        let (inner, made) = (self.0.clone(), container.clone());
        blocking(move || {
            if made.live.borrow().state == ContainerState::Running {
                inner.cgroups.apply(&made.cgroup(), &resources)?;
            }
            {
                let mut config = lock(&made.config);
                merge(&mut Arc::make_mut(&mut config).resources, resources);
            }
            save(&inner, &made)
        })
        .await
    }

    /// Opens the log file anew after somebody else has moved it.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.0.container(id)?;
        container.pod.holder()?.ask("reopen-log", &[id.as_bytes()], &[]).await.map(drop)
    }

    pub fn container_cgroup(&self, id: &str) -> Result<String> {
        Ok(self.0.container(id)?.cgroup())
    }

    /// What a container uses now.
    pub async fn container_stats(&self, id: &str) -> Result<CgroupStats> {
        let container = self.0.container(id)?;
        let inner = self.0.clone();
        blocking(move || Ok(inner.cgroups.stats(&container.cgroup()))).await
    }

    /// Bytes and inodes of a container's writable layer.
    pub async fn container_disk_usage(&self, id: &str) -> Result<(u64, u64)> {
        let container = self.0.container(id)?;
        let dir = self.0.container_dir(&container.id).join("fs");
        blocking(move || Ok(disk_usage(&dir))).await
    }
}

/// Runs what may block for milliseconds away from the event loop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).at("run", "blocking task")?
}

pub(super) fn expect_state(container: &Container, wanted: ContainerState) -> Result<()> {
    let name = |state| match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
    };
    let state = container.live.borrow().state;
    if state == wanted {
        Ok(())
    } else {
        Err(Error::WrongState { id: container.id.clone(), state: name(state), wanted: name(wanted) })
    }
}

fn start_keeper(inner: &Inner, pod: &Pod) -> Result<()> {
    let config = &pod.config;
    let (dir, run_dir) = (inner.pod_dir(&pod.id), inner.pod_run_dir(&pod.id));
    for dir in [&dir, &run_dir] {
        make_dir(dir, 0o700)?;
    }
    let hostname = run_dir.join("hostname");
    fs::write(&hostname, format!("{}\n", config.hostname)).at("write", hostname)?;
    let resolv_conf = run_dir.join("resolv.conf");
    match &config.resolv_conf {
        Some(text) => fs::write(&resolv_conf, text).at("write", &resolv_conf)?,
        None => match fs::read("/etc/resolv.conf") {
            Ok(text) => fs::write(&resolv_conf, text).at("write", &resolv_conf)?,
            Err(_) => fs::write(&resolv_conf, "").at("write", &resolv_conf)?,
        },
    }
    inner.cgroups.create(&config.cgroup_parent)?;
    // The record first: a keeper without one would be ended at the next start.
    let record = PodRecord {
        id: pod.id.clone(),
        boot_id: inner.boot_id.clone(),
        created_at: pod.created_at,
        config: (**config).clone(),
    };
    write_record(&dir, "sandbox.json", &record)?;
    let mut options = vec![format!("dir={}", run_dir.display()), format!("hostname={}", config.hostname)];
    let mut flag = |on: bool, name: &str| on.then(|| options.push(format!("{name}=1")));
    flag(!config.host_network, "net");
    flag(!config.host_ipc, "ipc");
    flag(!config.host_network, "uts");
    flag(config.share_process_namespace && !config.host_pid, "pid");
    if !config.host_ipc {
        options.push(format!("shm={SHM_BYTES}"));
    }
    options.extend(config.user_namespace.map(|(first, count)| format!("users={first}:{count}")));
    if !config.host_network {
        // As containerd: no port is privileged and ping needs no capability in a namespace of one's own.
        let groups = config.user_namespace.map_or(i32::MAX as u32, |(_, count)| count - 1);
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", &format!("0 {groups}"))]
        {
            if !config.sysctls.contains_key(name) {
                options.push(format!("sysctl={name}={value}"));
            }
        }
    }
    options.extend(config.sysctls.iter().map(|(name, value)| format!("sysctl={name}={value}")));
    let (enter, born_in) = &inner.keeper_cgroups;
    options.extend(enter.iter().map(|file| format!("cgroup={}", file.display())));
    options.extend(born_in.iter().map(|dir| format!("cgroup2={}", dir.display())));
    holder::launch(&inner.program, &pod.id, &options)
}

fn resolve_container(inner: &Inner, container: &Container) -> Result<resolve::Resolved> {
    let (dir, run_dir) = (inner.container_dir(&container.id), inner.pod_run_dir(&container.pod.id));
    let places = Places {
        upper: dir.join("fs"),
        work: dir.join("work"),
        root: inner.options.state_dir.join("root"),
        base: inner.options.state_dir.join("base"),
        cgroup: &container.cgroup(),
        shm: run_dir.join("shm"),
        hostname: run_dir.join("hostname"),
        resolv_conf: run_dir.join("resolv.conf"),
    };
    resolve::container(
        &inner.options,
        &inner.filters,
        &inner.cgroups,
        &container.pod.config,
        &container.config(),
        &places,
    )
}

/// The cgroup, the spec in memory, and the words of the request.
fn prepare_start(inner: &Inner, container: &Container) -> Result<(std::os::fd::OwnedFd, Vec<Vec<u8>>)> {
    let resolved = resolve_container(inner, container)?;
    let (config, pod, path) = (container.config(), &container.pod.config, container.cgroup());
    inner.cgroups.create(&path)?;
    inner.cgroups.apply(&path, &config.resources)?;
    inner.cgroups.allow_devices(&path, &resolved.devices)?;
    let mut encoded = Vec::new();
    resolved.spec.put(&mut encoded);
    let spec = packets::memory_file(&encoded).at("make", "memory file of the spec")?;
    let mut fields = vec![container.id.clone().into_bytes()];
    let mut field = |key: &str, value: &[u8]| fields.push([key.as_bytes(), b"=", value].concat());
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    field("exit", &bytes(&inner.container_dir(&container.id).join("exit")));
    if let Some(file) = inner.cgroups.oom_file(&path) {
        field("oom", &bytes(&file));
    }
    let no_own_pids = pod.host_pid || pod.share_process_namespace || !config.pid_of.is_empty();
    if let (true, Some(dir)) = (no_own_pids, inner.cgroups.dirs(&path).first()) {
        field("sweep", &bytes(&dir.join("cgroup.procs")));
    }
    let log = container.log_path();
    if !log.as_os_str().is_empty() {
        if let Some(parent) = log.parent() {
            make_dir(parent, 0o755)?;
        }
        field("log", &bytes(&log));
        field("log-max", inner.options.log_max_bytes.to_string().as_bytes());
        field("log-files", inner.options.log_max_files.to_string().as_bytes());
    }
    for (key, on) in [("tty", config.tty), ("stdin", config.stdin), ("stdin-once", config.stdin_once)] {
        if on {
            field(key, b"1");
        }
    }
    Ok((spec, fields))
}

fn save(inner: &Inner, container: &Container) -> Result<()> {
    let live = container.live.borrow().clone();
    let record = ContainerRecord {
        id: container.id.clone(),
        sandbox_id: container.pod.id.clone(),
        boot_id: inner.boot_id.clone(),
        created_at: container.created_at,
        started_at: live.started_at,
        exit: live.exit,
        config: (*container.config()).clone(),
    };
    write_record(&inner.container_dir(&container.id), "container.json", &record)
}

fn merge(old: &mut Resources, new: Resources) {
    let Resources {
        cpu_shares,
        cpu_quota,
        cpu_period,
        cpuset_cpus,
        cpuset_mems,
        memory_limit,
        memory_swap,
        hugepages,
        pids_limit,
        oom_score_adj,
        unified,
    } = new;
    old.cpu_shares = cpu_shares.or(old.cpu_shares);
    old.cpu_quota = cpu_quota.or(old.cpu_quota);
    old.cpu_period = cpu_period.or(old.cpu_period);
    old.memory_limit = memory_limit.or(old.memory_limit);
    old.memory_swap = memory_swap.or(old.memory_swap);
    old.pids_limit = pids_limit.or(old.pids_limit);
    old.oom_score_adj = oom_score_adj.or(old.oom_score_adj);
    if !cpuset_cpus.is_empty() {
        old.cpuset_cpus = cpuset_cpus;
    }
    if !cpuset_mems.is_empty() {
        old.cpuset_mems = cpuset_mems;
    }
    if !hugepages.is_empty() {
        old.hugepages = hugepages;
    }
    old.unified.extend(unified);
}

/// The last process has ended but the kernel may still hold the directory for an instant.
fn remove_cgroup(cgroups: &Cgroups, path: &str) -> Result<()> {
    for patience_ms in [1, 2, 4, 8, 16, 32, 64, 128] {
        if cgroups.remove(path).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(patience_ms));
    }
    cgroups.remove(path)
}

fn stop_signal(config: &ContainerConfig) -> i32 {
    let wanted = if config.stop_signal.is_empty() { &config.image.stop_signal } else { &config.stop_signal };
    signal_number(wanted).unwrap_or(libc::SIGTERM)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, base: i32, sign: i32| {
        let offset = if rest.is_empty() { 0 } else { rest[1..].parse::<i32>().ok()? };
        (0..=30).contains(&offset).then_some(base + sign * offset)
    };
    if let Some(rest) = short.strip_prefix("RTMIN") {
        return real_time(rest, 34, 1);
    }
    if let Some(rest) = short.strip_prefix("RTMAX") {
        return real_time(rest, 64, -1);
    }
    NAMES.iter().position(|n| *n == short).map(|n| n as i32 + 1)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).at("make", path)
}

/// Bytes and inodes beneath a directory, hard links counted once.
fn disk_usage(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    let mut links = std::collections::HashSet::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() > 1 && !meta.is_dir() && !links.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests;
