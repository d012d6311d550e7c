//! A machine in memory: runtime, images, network, host and a clock that follows tokio's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reconcile::io::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::{config::Ports, objects::lock, ports::*};

pub struct FakeClock(Instant, AtomicI64);

impl Clock for FakeClock {
    fn now(&self) -> Nanos {
        super::EPOCH + self.1.load(Ordering::Relaxed) + i64::try_from(self.0.elapsed().as_nanos()).expect("short tests")
    }
}

#[derive(Default)]
pub struct State {
    pub pods: BTreeMap<String, PodState>,
    pub configs: BTreeMap<String, ContainerConfig>,
    pub cgroups: BTreeSet<String>,
    pub images: BTreeMap<String, Image>,
    /// Images that cannot be pulled: name → why.
    pub broken: BTreeMap<String, PullError>,
    /// Passwords that a registry takes for an image, if it wants any.
    pub private: BTreeMap<String, Vec<String>>,
    /// How many seconds a pull takes, one a MiB, and how many bytes it wants room for.
    pub slow_pulls: u64,
    pub pull_needs: (u64, u64),
    /// Exit codes of commands run in containers; 0 if not named.
    pub commands: BTreeMap<String, i32>,
    /// Containers (by name) that ignore the stop signal.
    pub stubborn: BTreeSet<String>,
    pub refuse_start: BTreeSet<String>,
    /// Commands that do not end, and such as cannot be run.
    pub endless: BTreeSet<String>,
    pub no_commands: BTreeSet<String>,
    /// Cgroups and containers as they were last sized.
    pub sizes: BTreeMap<String, Resources>,
    /// What the machine has left, if not enough.
    pub memory_available: Option<u64>,
    pub disk_available: Option<u64>,
    /// What pods use, by uid.
    pub stats: BTreeMap<String, PodStats>,
    /// What was done, in order.
    pub log: Vec<String>,
    next: u64,
    keys: u64,
}

pub struct Machine_ {
    pub state: Mutex<State>,
    changes: broadcast::Sender<PodChanged>,
    clock: Arc<FakeClock>,
    exits: Notify,
    /// Memory is short.
    pub pressure: Notify,
    /// The machine goes down, and may.
    pub down: tokio::sync::watch::Sender<bool>,
    pub released: Arc<AtomicBool>,
}

pub type Fake = Arc<Machine_>;

impl Machine_ {
    pub fn new() -> Fake {
        Arc::new(Self {
            state: Mutex::default(),
            changes: broadcast::channel(256).0,
            clock: Arc::new(FakeClock(Instant::now(), AtomicI64::new(0))),
            exits: Notify::new(),
            pressure: Notify::new(),
            down: tokio::sync::watch::channel(false).0,
            released: Arc::default(),
        })
    }

    pub fn ports(self: &Arc<Self>) -> Ports {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let trust = versions.expect("versions").with_root_certificates(rustls::RootCertStore::empty());
        let tls = trust.with_no_client_auth();
        Ports {
            runtime: self.clone(),
            cgroups: self.clone(),
            images: self.clone(),
            providers: Some(self.clone()),
            network: self.clone(),
            host: self.clone(),
            keys: self.clone(),
            clock: self.clock.clone(),
            tls: Arc::new(tls),
        }
    }

    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Somebody sets the clock.
    pub fn jump(&self, by: Nanos) {
        self.clock.1.fetch_add(by, Ordering::Relaxed);
    }

    pub fn with_image(self: Arc<Self>, name: &str) -> Arc<Self> {
        lock(&self.state).images.insert(name.into(), image(name));
        self
    }

    fn changed(&self, uid: &str) {
        let _ = self.changes.send(PodChanged { uid: uid.into() });
        self.exits.notify_waiters();
    }

    fn say(&self, what: String) {
        lock(&self.state).log.push(what);
    }

    pub fn log(&self) -> Vec<String> {
        lock(&self.state).log.clone()
    }

    /// Ends the newest run of a container.
    pub fn exit(&self, uid: &str, name: &str, code: i32) {
        let now = self.now();
        {
            let mut state = lock(&self.state);
            let pod = state.pods.get_mut(uid).expect("a pod");
            let container = pod.containers.iter_mut().rev().find(|c| c.name == name).expect("a container");
            end(container, code, now);
        }
        self.changed(uid);
    }

    pub fn config(&self, name: &str) -> Option<ContainerConfig> {
        lock(&self.state)
            .configs
            .values()
            .filter(|config| config.name == name)
            .max_by_key(|config| config.attempt)
            .cloned()
    }
}

fn end(container: &mut Container, code: i32, now: Nanos) {
    if let ContainerState::Running { started_at } = container.state {
        container.state = ContainerState::Exited(Exit { code, started_at, finished_at: now, ..Exit::default() });
    }
}

fn image(name: &str) -> Image {
    Image {
        id: format!("sha256:{name}"),
        tags: vec![name.into()],
        digests: vec![format!("{name}@sha256:d1")],
        size_bytes: 42,
        ..Image::default()
    }
}

impl Runtime for Machine_ {
    fn version(&self) -> (String, String) {
        ("sampan".into(), "0".into())
    }

    fn handlers(&self) -> Vec<Handler> {
        ["", "runc"].map(|name| Handler { name: name.into(), ..Handler::default() }).into()
    }

    fn pods(&self) -> BoxFuture<'_, Result<Vec<PodState>>> {
        Box::pin(async { Ok(lock(&self.state).pods.values().cloned().collect()) })
    }

    fn pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<PodState>> {
        Box::pin(async move {
            let found = lock(&self.state).pods.get(uid).cloned();
            Ok(found.unwrap_or_else(|| PodState { uid: uid.into(), ..PodState::default() }))
        })
    }

    fn changes(&self) -> broadcast::Receiver<PodChanged> {
        self.changes.subscribe()
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<Sandbox>> {
        Box::pin(async move {
            if !self.handlers().iter().any(|handler| handler.name == config.handler) {
                return Err(Error::Failed(format!("no runtime for {:?} is configured", config.handler)));
            }
            let now = self.now();
            self.say(format!("sandbox {} {}", config.name, config.attempt));
            let sandbox = Sandbox {
                id: format!("s-{}-{}", config.uid, config.attempt),
                attempt: config.attempt,
                created_at: now,
                netns: None,
                addresses: Vec::new(),
            };
            let mut state = lock(&self.state);
            let pod = state.pods.entry(config.uid.clone()).or_insert_with(|| PodState {
                uid: config.uid.clone(),
                namespace: config.namespace.clone(),
                name: config.name.clone(),
                ..PodState::default()
            });
            pod.sandbox = Some(sandbox.clone());
            Ok(sandbox)
        })
    }

    fn set_addresses<'a>(&'a self, uid: &'a str, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Some(sandbox) = lock(&self.state).pods.get_mut(uid).and_then(|pod| pod.sandbox.as_mut()) {
                sandbox.addresses = addresses.to_vec();
            }
            Ok(())
        })
    }

    fn stop_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let now = self.now();
            self.say(format!("stop sandbox {uid}"));
            if let Some(pod) = lock(&self.state).pods.get_mut(uid) {
                pod.sandbox = None;
                pod.containers.iter_mut().for_each(|container| end(container, 137, now));
            }
            self.changed(uid);
            Ok(())
        })
    }

    fn remove_pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.say(format!("remove {uid}"));
            lock(&self.state).pods.remove(uid);
            self.changed(uid);
            Ok(())
        })
    }

    fn create_container<'a>(&'a self, pod: &'a str, config: &'a ContainerConfig) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let now = self.now();
            self.say(format!("create {} {}", config.name, config.attempt));
            let mut state = lock(&self.state);
            state.next += 1;
            let id = format!("{:064x}", state.next);
            state.configs.insert(id.clone(), config.clone());
            let pod = state.pods.get_mut(pod).ok_or_else(|| Error::NotFound("no sandbox".into()))?;
            pod.containers.push(Container {
                id: id.clone(),
                name: config.name.clone(),
                attempt: config.attempt,
                state: ContainerState::Created,
                created_at: now,
                image: config.image.clone(),
                image_id: config.image_id.clone(),
                spec_hash: config.spec_hash,
                log_path: config.log_path.clone(),
                user: None,
            });
            Ok(id)
        })
    }

    fn start_container<'a>(&'a self, pod: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let now = self.now();
            let refused = {
                let mut state = lock(&self.state);
                let refuse = state.refuse_start.clone();
                let container = state
                    .pods
                    .get_mut(pod)
                    .and_then(|pod| pod.containers.iter_mut().find(|c| c.id == id))
                    .expect("a container");
                if refuse.contains(&container.name) {
                    let error = Some("exec: \"nothing\": executable file not found in $PATH".to_owned());
                    container.state = ContainerState::Exited(Exit {
                        code: 128,
                        started_at: now,
                        finished_at: now,
                        error: error.clone(),
                        ..Exit::default()
                    });
                    error
                } else {
                    container.state = ContainerState::Running { started_at: now };
                    None
                }
            };
            self.changed(pod);
            match refused {
                Some(error) => Err(Error::Failed(error)),
                None => Ok(()),
            }
        })
    }

    fn stop_container<'a>(
        &'a self,
        pod: &'a str,
        id: &'a str,
        grace: Duration,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let name = lock(&self.state)
                .pods
                .get(pod)
                .and_then(|pod| pod.containers.iter().find(|c| c.id == id))
                .map(|c| c.name.clone());
            let Some(name) = name else { return Err(Error::NotFound(id.into())) };
            self.say(format!("stop {name} {}", grace.as_secs()));
            let stubborn = lock(&self.state).stubborn.contains(&name);
            if stubborn {
                tokio::time::sleep(grace).await;
            }
            let now = self.now();
            if let Some(container) =
                lock(&self.state).pods.get_mut(pod).and_then(|pod| pod.containers.iter_mut().find(|c| c.id == id))
            {
                end(container, if stubborn { 137 } else { 143 }, now);
            }
            self.changed(pod);
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, pod: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Some(pod) = lock(&self.state).pods.get_mut(pod) {
                pod.containers.retain(|container| container.id != id);
            }
            self.changed(pod);
            Ok(())
        })
    }

    fn update_resources<'a>(&'a self, _: &'a str, id: &'a str, size: &'a Resources) -> BoxFuture<'a, Result<()>> {
        let mut state = lock(&self.state);
        let name = state.configs.get(id).map(|config| config.name.clone()).unwrap_or_default();
        state.sizes.insert(name, size.clone());
        Box::pin(async { Ok(()) })
    }

    fn reopen_log<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn exec_sync<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        command: &'a [String],
        _: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>> {
        Box::pin(async move {
            let line = command.join(" ");
            let name = lock(&self.state).configs.get(id).map(|config| config.name.clone()).unwrap_or_default();
            self.say(format!("exec {name} {line}"));
            if lock(&self.state).no_commands.contains(&line) {
                return Err(Error::Failed(format!("exec: {line:?}: executable file not found in $PATH")));
            }
            while lock(&self.state).endless.contains(&line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let code = lock(&self.state).commands.get(&line).copied().unwrap_or(0);
            Ok(ExecOutput { code, stdout: line.into_bytes(), stderr: Vec::new() })
        })
    }

    fn exec<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        command: &'a [String],
        mut stdio: Stdio,
    ) -> BoxFuture<'a, Result<i32>> {
        Box::pin(async move {
            // `cat`, then what the command says as its exit code.
            let mut input = Vec::new();
            if let Some(stdin) = &mut stdio.stdin {
                let _ = stdin.read_to_end(&mut input).await;
            }
            if let Some(stdout) = &mut stdio.stdout {
                let _ = stdout.write_all(&input).await;
                let _ = stdout.flush().await;
            }
            Ok(command.last().and_then(|last| last.parse().ok()).unwrap_or(0))
        })
    }

    fn attach<'a>(&'a self, _: &'a str, _: &'a str, _: Stdio) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn connect<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, Result<(Reader, Writer)>> {
        Box::pin(async {
            // An echo.
            let (ours, theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(theirs);
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
            let (from, to) = tokio::io::split(ours);
            Ok((Box::new(from) as Reader, Box::new(to) as Writer))
        })
    }

    fn stats<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<PodStats>> {
        Box::pin(async move { Ok(lock(&self.state).stats.get(uid).cloned().unwrap_or_default()) })
    }
}

impl Cgroups for Machine_ {
    fn set(&self, cgroup: &str, size: &Resources) -> Result<()> {
        lock(&self.state).cgroups.insert(cgroup.into());
        lock(&self.state).sizes.insert(cgroup.into(), size.clone());
        Ok(())
    }

    fn remove(&self, cgroup: &str) -> Result<()> {
        lock(&self.state).cgroups.remove(cgroup);
        Ok(())
    }

    fn of_pods(&self) -> Vec<String> {
        lock(&self.state).cgroups.iter().filter(|path| path.contains("/pod")).cloned().collect()
    }

    fn usage(&self, _: &str) -> Usage {
        Usage::default()
    }
}

impl Images for Machine_ {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(async move { Ok(lock(&self.state).images.get(name).cloned()) })
    }

    fn fits(&self, registry: &str, name: &str) -> bool {
        name.starts_with(registry)
    }

    fn pull<'a>(
        &'a self,
        name: &'a str,
        logins: &'a [Credentials],
        pulling: Arc<dyn Pulling>,
    ) -> BoxFuture<'a, std::result::Result<Pulled, PullError>> {
        Box::pin(async move {
            self.say(format!("pull {name}"));
            let (slow, needs) = {
                let state = lock(&self.state);
                (state.slow_pulls, state.pull_needs)
            };
            if needs.1 > 0 {
                pulling.make_room(needs.0, needs.1).await;
            }
            if slow > 0 {
                // Never at the moment at which somebody looks.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            for second in 0..slow {
                pulling.progress(second << 20, slow << 20, 1 << 20);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let mut state = lock(&self.state);
            if let Some(error) = state.broken.get(name) {
                return Err(error.clone());
            }
            let wanted = state.private.get(name);
            let login = wanted.map(|wanted| logins.iter().position(|login| wanted.contains(&login.password)));
            if login == Some(None) {
                return Err(PullError::Failed(format!("{name}: access denied")));
            }
            state.images.insert(name.into(), image(name));
            Ok(Pulled { image: image(name), login: login.flatten() })
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        Box::pin(async { Ok(lock(&self.state).images.values().cloned().collect()) })
    }

    fn mount<'a>(&'a self, id: &'a str, pod: &'a str, target: &'a Path) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.say(format!("mount {id} for {pod} at {}", target.ends_with("volumes/kubernetes.io~image/data")));
            Ok(!id.starts_with("sha256:theirs"))
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.say(format!("remove image {id}"));
            let mut state = lock(&self.state);
            state.images.retain(|_, image| image.id != id);
            // Each is a GiB of the disk.
            state.disk_available = state.disk_available.map(|free| free + (1 << 30));
            Ok(())
        })
    }

    fn usage(&self) -> BoxFuture<'_, Result<(u64, u64)>> {
        Box::pin(async { Ok(((lock(&self.state).images.len() as u64) << 30, 0)) })
    }
}

impl Network for Machine_ {
    fn ready(&self) -> std::result::Result<(), String> {
        Ok(())
    }

    fn attach<'a>(&'a self, _: &'a Sandbox, uid: &'a str, _: &'a [PortMapping]) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        Box::pin(async move {
            self.say(format!("attach {uid}"));
            Ok(vec![IpAddr::V4(Ipv4Addr::new(10, 42, 0, 7))])
        })
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        self.say(format!("detach {uid}"));
        Box::pin(async { Ok(()) })
    }

    fn keep_only<'a>(&'a self, _: &'a [(String, Sandbox)]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl Host for Machine_ {
    fn machine(&self) -> Machine {
        Machine {
            cpus: 4,
            memory_bytes: 8 << 30,
            architecture: "amd64".into(),
            pids_limit: 32768,
            ..Machine::default()
        }
    }

    fn topology(&self) -> crate::topology::Topology {
        let cpu = |id| crate::topology::cpus::Cpu { id, core: id, ..Default::default() };
        let nodes = [(0, [("memory".to_owned(), 8 << 30)].into())].into();
        crate::topology::Topology { cpus: (0..4).map(cpu).collect(), nodes, ..Default::default() }
    }

    fn usage(&self) -> NodeUsage {
        let short = lock(&self.state).memory_available;
        NodeUsage { memory_available_bytes: short.unwrap_or(4 << 30), ..NodeUsage::default() }
    }

    fn shutdowns(&self, _: Duration) -> Option<Shutdowns> {
        let released = self.released.clone();
        Some((self.down.subscribe(), Box::new(move || released.store(true, Ordering::Relaxed))))
    }

    fn memory_pressure(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pressure.notified())
    }

    fn fs(&self, _: &Path) -> Result<FsStats> {
        let free = lock(&self.state).disk_available.unwrap_or(50 << 30);
        Ok(FsStats { capacity_bytes: 100 << 30, available_bytes: free, inodes: 1000, inodes_free: 900 })
    }
}

impl Keys for Machine_ {
    fn make(&self, kind: &str) -> Result<NewKey> {
        if kind == "RSA4096" {
            return Err(Error::Failed("no RSA4096".into()));
        }
        let mut state = lock(&self.state);
        state.keys += 1;
        Ok(NewKey { pem: format!("key {}\n", state.keys), request: kind.into() })
    }
}

/// A directory that goes with its test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("node-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = crate::volumes::unmount_below(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A plugin for `plug.test`, whose password is the account's role.
impl Providers for Machine_ {
    fn audiences(&self, image: &str) -> Vec<String> {
        image.starts_with("plug.test/").then(|| "plug".to_owned()).into_iter().collect()
    }

    fn logins<'a>(&'a self, image: &'a str, account: Option<&'a Account>) -> BoxFuture<'a, Vec<(Credentials, bool)>> {
        let known = account.filter(|of| image.starts_with("plug.test/") && of.tokens.contains_key("plug"));
        let password = known.map(|of| format!("of {}", of.annotations["role"]));
        let login = |password| (Credentials { registry: "plug.test".into(), password, ..Default::default() }, true);
        Box::pin(async move { password.map(login).into_iter().collect() })
    }
}
