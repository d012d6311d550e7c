//! The runtimes under test, and what each case works with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use tonic::transport::{Channel, Endpoint};

pub const IMAGE: &str = "localhost/suite:1";

pub struct Peer {
    pub name: &'static str,
    pub dir: PathBuf,
    pub socket: PathBuf,
    start: Box<dyn Fn() -> Command + Send + Sync>,
    child: Mutex<Option<Child>>,
    import: Box<dyn Fn(&Path) -> Command + Send + Sync>,
}

impl Peer {
    /// With its own network, or with one by CNI plugins that are in a directory.
    pub async fn ours(dir: &Path, plugins: Option<&Path>) -> Result<Peer, String> {
        let (data, socket) = (dir.to_owned(), dir.join("cri.sock"));
        fs::create_dir_all(dir.join("cni")).unwrap();
        let mut network = vec!["--cluster-cidr".to_owned(), "10.77.0.0/24".to_owned()];
        if let Some(plugins) = plugins {
            fs::write(dir.join("cni/10-suite.conflist"), conflist("cni1", "10.79.0.0/24", dir)).unwrap();
            let text = |path: &Path| path.to_string_lossy().into_owned();
            network = vec!["--cni-conf-dir".into(), text(&dir.join("cni")), "--cni-bin-dir".into(), text(plugins)];
        }
        let program = env!("CARGO_BIN_EXE_sampan");
        let (start_data, address) = (data.clone(), format!("unix://{}", socket.display()));
        let peer = Peer {
            name: if plugins.is_some() { "ours with CNI" } else { "ours" },
            dir: dir.to_owned(),
            socket,
            start: Box::new(move || {
                let mut command = Command::new(program);
                command.arg("cri").arg("--data-dir").arg(&start_data);
                command.args(["--address", &address]).args(&network);
                command
            }),
            child: Mutex::new(None),
            import: Box::new(move |archive| {
                let mut command = Command::new(program);
                command.args(["images", "--data-dir"]).arg(&data).arg("import").arg(archive);
                command
            }),
        };
        peer.start().await?;
        Ok(peer)
    }

    pub async fn containerd(dir: &Path, bin: &Path) -> Result<Peer, String> {
        fs::create_dir_all(dir.join("cni")).unwrap();
        let (root, bins) = (dir.display(), bin.display());
        let plugins = bin.parent().unwrap().join("cni/bin");
        let config = format!(
            "version = 3\nroot = '{root}/root'\nstate = '{root}/state'\n[grpc]\n address = '{root}/cri.sock'\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n sandbox = 'localhost/pause:1'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n restrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n bin_dirs = ['{}']\n conf_dir = '{root}/cni'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd]\n default_runtime_name = 'runc'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n runtime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n BinaryName = '{bins}/runc'\n",
            plugins.display()
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        fs::write(dir.join("cni/10-suite.conflist"), conflist("cni0", "10.78.0.0/24", dir)).unwrap();
        let (own, owner, binaries, ctr) = (dir.to_owned(), dir.to_owned(), bin.to_owned(), bin.join("ctr"));
        let peer = Peer {
            name: "containerd",
            dir: dir.to_owned(),
            socket: dir.join("cri.sock"),
            start: Box::new(move || {
                let mut command = Command::new(binaries.join("containerd"));
                let path = std::env::var("PATH").unwrap_or_default();
                command.arg("--config").arg(own.join("config.toml"));
                command.env("PATH", format!("{}:{path}", binaries.display()));
                command
            }),
            child: Mutex::new(None),
            import: Box::new(move |archive| {
                let mut command = Command::new(&ctr);
                command.arg("-a").arg(owner.join("cri.sock")).args(["-n", "k8s.io", "images", "import"]).arg(archive);
                command
            }),
        };
        peer.start().await?;
        Ok(peer)
    }

    /// Starts the runtime and waits until it answers.
    pub async fn start(&self) -> Result<(), String> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let mut command = (self.start)();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        *self.child.lock().unwrap() = Some(child.map_err(|error| error.to_string())?);
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if let Ok(channel) = self.try_channel().await
                && let Ok(answer) = RuntimeServiceClient::new(channel).status(StatusRequest::default()).await
                && ready(&answer.into_inner())
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("does not answer: {}", fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()))
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub async fn stop(&self) {
        let mut runtime = self.runtime().await;
        let pods = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        for pod in pods {
            let _ = runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).await;
            let _ = runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id }).await;
        }
        self.kill();
    }

    pub async fn import(&self, archive: &Path) {
        let output = (self.import)(archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // containerd's CRI hears of images by events.
        let mut images = self.images().await;
        for _ in 0..100 {
            let image = Some(ImageSpec { image: "localhost/named:1".into(), ..Default::default() });
            let status = images.image_status(ImageStatusRequest { image, verbose: false }).await.unwrap().into_inner();
            if status.image.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: the images do not appear", self.name);
    }

    async fn try_channel(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.socket.clone();
        let connect = tower_service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }

    pub async fn channel(&self) -> Channel {
        self.try_channel().await.unwrap()
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await)
    }

    pub async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await)
    }
}

fn conflist(bridge: &str, subnet: &str, dir: &Path) -> String {
    let ipam = serde_json::json!({"type": "host-local", "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}], "dataDir": dir.join("leases")});
    let plugins = serde_json::json!([
        {"type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]);
    serde_json::json!({"cniVersion": "1.0.0", "name": bridge, "plugins": plugins}).to_string()
}

/// A function as a connector, without another crate.
#[derive(Clone)]
struct Connector<F>(F);

fn tower_service_fn<F>(connect: F) -> Connector<F> {
    Connector(connect)
}

impl<F, Fut, R, E> tower_service::Service<http::Uri> for Connector<F>
where
    F: FnMut(http::Uri) -> Fut,
    Fut: Future<Output = Result<R, E>>,
{
    type Response = R;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), E>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Fut {
        (self.0)(uri)
    }
}

/// What one case works with; whatever it makes carries its name.
pub struct Bench {
    pub peer: Arc<Peer>,
    pub name: String,
    pub registry: String,
}

impl Bench {
    pub fn new(peer: Arc<Peer>, name: &str, registry: String) -> Bench {
        Bench { peer, name: name.replace([' ', ','], "-"), registry }
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.peer.runtime().await
    }

    pub fn logs(&self) -> PathBuf {
        self.peer.dir.join("podlogs").join(&self.name)
    }

    /// A pod with a network of its own, each container with its own processes.
    pub fn pod(&self) -> PodSandboxConfig {
        fs::create_dir_all(self.logs()).unwrap();
        let namespaces = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        let uid = format!("{}-{}", self.name, fastrand());
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: uid.clone(),
                namespace: "suite".into(),
                attempt: 1,
            }),
            hostname: "suite".into(),
            log_directory: self.logs().to_string_lossy().into_owned(),
            labels: [("case".to_owned(), self.name.clone())].into(),
            annotations: [("note".to_owned(), "kept".to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}/{uid}", cgroup_root(self.peer.dir.parent().unwrap())),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub fn container(&self, name: &str, script: &str) -> ContainerConfig {
        let namespaces = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 1 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            labels: [("case".to_owned(), self.name.clone()), ("name".to_owned(), name.to_owned())].into(),
            annotations: [("note".to_owned(), "kept".to_owned())].into(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources::default()),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    pub async fn run_pod(&self, config: &PodSandboxConfig) -> String {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.runtime().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(
        &self,
        pod: &str,
        of: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(of.clone()),
        };
        Ok(self.runtime().await.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&self, id: &str) -> Result<(), tonic::Status> {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime().await.start_container(request).await.map(drop)
    }

    /// A pod with one running container.
    pub async fn running(&self, script: &str) -> (String, String) {
        let of = self.pod();
        let pod = self.run_pod(&of).await;
        let id = self.create(&pod, &of, self.container("c", script)).await.unwrap();
        self.start(&id).await.unwrap();
        (pod, id)
    }

    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), tonic::Status> {
        let request = StopContainerRequest { container_id: id.into(), timeout };
        self.runtime().await.stop_container(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        let request = RemoveContainerRequest { container_id: id.into() };
        self.runtime().await.remove_container(request).await.map(drop)
    }

    pub async fn stop_pod(&self, id: &str) -> Result<(), tonic::Status> {
        self.runtime().await.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub async fn remove_pod(&self, id: &str) -> Result<(), tonic::Status> {
        self.runtime().await.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus, tonic::Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.runtime().await.pod_sandbox_status(request).await?.into_inner().status.unwrap())
    }

    pub async fn status(&self, id: &str) -> Result<ContainerStatus, tonic::Status> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.runtime().await.container_status(request).await?.into_inner().status.unwrap())
    }

    pub async fn ended(&self, id: &str) -> ContainerStatus {
        for _ in 0..600 {
            let status = self.status(id).await.unwrap();
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} does not end");
    }

    pub async fn exec(&self, id: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, tonic::Status> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        Ok(self.runtime().await.exec_sync(request).await?.into_inner())
    }

    /// What a container has written, without times and tags.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.logs().join(format!("{name}.log"))).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    pub async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        for _ in 0..400 {
            if done().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not within 10 s: {what}");
    }

    /// Removes what the case has left.
    pub async fn clear(&self) {
        let mut runtime = self.runtime().await;
        let label_selector = [("case".to_owned(), self.name.clone())].into();
        let filter = Some(PodSandboxFilter { label_selector, ..Default::default() });
        let Ok(left) = runtime.list_pod_sandbox(ListPodSandboxRequest { filter }).await else { return };
        for pod in left.into_inner().items {
            let _ = self.stop_pod(&pod.id).await;
            let _ = self.remove_pod(&pod.id).await;
        }
    }
}

/// Different at each call.
fn fastrand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Others than these are a runtime's own.
fn ready(status: &StatusResponse) -> bool {
    let conditions = &status.status.as_ref().unwrap().conditions;
    ["RuntimeReady", "NetworkReady"].iter().all(|name| conditions.iter().any(|is| is.r#type == *name && is.status))
}

/// Where vendors put their specifications; the suite's namespace has its own.
pub const CDI: &str = "/var/run/cdi";

/// Gives the namespace what every host has: a loopback, and an address by which it would reach the world.
pub fn network() {
    for words in [
        "link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up",
        "addr add 192.168.77.2/24 dev up0", "route add default via 192.168.77.1",
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    }
    assert!(Command::new("mount").args(["-t", "tmpfs", "cdi", CDI]).status().unwrap().success());
}

fn cgroup_root(dir: &Path) -> String {
    format!("suite-{}", dir.file_name().unwrap().to_string_lossy())
}

/// Cgroups outlive their namespaces.
pub fn remove_cgroups(dir: &Path) {
    let name: String = dir.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let ours = [format!("sampan{name}"), cgroup_root(dir)];
    fn remove(dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(dir);
    }
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in info.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4)) {
        for entry in fs::read_dir(point).into_iter().flatten().flatten() {
            if ours.iter().any(|own| entry.file_name().to_string_lossy().starts_with(own.as_str())) {
                remove(&entry.path());
            }
        }
    }
}
