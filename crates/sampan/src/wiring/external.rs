//! Another container runtime as a node's [`ports`], over CRI v1 (`--container-runtime-endpoint`). Its own network gives
//! pods their addresses; pods' and classes' cgroups stay the kubelet's.

mod asked;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node::ports::{
    self, Container, ContainerConfig, ContainerState, Credentials, Error, ExecOutput, Exit, Image, PodChanged,
    PodState, PodStats, PullError, Pulled, Pulling, Resources, Result, Sandbox, SandboxConfig, Stdio, Usage,
};
use reconcile::io::BoxFuture;
use rpc::cri;
use rpc::cri::image_service_client::ImageServiceClient;
use rpc::cri::runtime_service_client::RuntimeServiceClient;
use rpc::{Channel, Code, Status};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use super::runtime::{BACKLOG, PodCgroups, SPEC_HASH, fits};
use asked::{container_config, made_from, resources, sandbox_config};

/// Of a message: kubelet's limit for CRI.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
const DIAL: Duration = Duration::from_secs(10);
/// Between looks at a runtime that is away, or that tells no events.
const RETRY: Duration = Duration::from_secs(1);
const UID: &str = "io.kubernetes.pod.uid";

pub struct External {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    version: (String, String),
    handlers: Vec<ports::Handler>,
    cgroups: Arc<PodCgroups>,
    node_ips: Vec<IpAddr>,
    changes: broadcast::Sender<PodChanged>,
    /// Why pods cannot be attached, as the runtime last said.
    network: Mutex<std::result::Result<(), String>>,
}

fn failed(status: Status) -> Error {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => Error::NotFound(text),
        _ => Error::Failed(text),
    }
}

fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() })
}

impl External {
    /// Asks who is there, and follows what happens from now on.
    pub async fn connect(
        endpoint: &Path,
        images: &Path,
        cgroups: Arc<PodCgroups>,
        node_ips: Vec<IpAddr>,
    ) -> std::result::Result<Arc<Self>, String> {
        let dial = async |path: &Path| rpc::connect(path, DIAL).await.map_err(|error| error.to_string());
        let mut runtime = RuntimeServiceClient::new(dial(endpoint).await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let images = ImageServiceClient::new(dial(images).await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let words = |status: Status| status.message().to_owned();
        let version = runtime.version(cri::VersionRequest::default()).await.map_err(words)?.into_inner();
        let status = runtime.status(cri::StatusRequest::default()).await.map_err(words)?.into_inner();
        let handler = |of: &cri::RuntimeHandler| ports::Handler {
            name: of.name.clone(),
            user_namespaces: of.features.is_some_and(|has| has.user_namespaces),
            recursive_read_only: of.features.is_some_and(|has| has.recursive_read_only_mounts),
        };
        let external = Arc::new(Self {
            handlers: status.runtime_handlers.iter().map(handler).collect(),
            network: Mutex::new(network_ready(status)),
            runtime,
            images,
            version: (version.runtime_name, version.runtime_version),
            cgroups,
            node_ips,
            changes: broadcast::channel(BACKLOG).0,
        });
        tokio::spawn(external.clone().follow());
        tokio::spawn(external.clone().watch_network());
        Ok(external)
    }

    /// Turns events into pods that changed; after a gap every pod may have.
    async fn follow(self: Arc<Self>) {
        loop {
            if let Ok(pods) = self.states(None).await {
                pods.into_iter().for_each(|pod| drop(self.changes.send(PodChanged { uid: pod.uid })));
            }
            let mut runtime = self.runtime.clone();
            if let Ok(events) = runtime.get_container_events(cri::GetEventsRequest {}).await {
                let mut events = events.into_inner();
                while let Ok(Some(event)) = events.message().await {
                    let uid = event.pod_sandbox_status.and_then(|pod| pod.metadata).map(|metadata| metadata.uid);
                    if let Some(uid) = uid {
                        let _ = self.changes.send(PodChanged { uid });
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn watch_network(self: Arc<Self>) {
        loop {
            tokio::time::sleep(5 * RETRY).await;
            let state = match self.runtime.clone().status(cri::StatusRequest::default()).await {
                Ok(status) => network_ready(status.into_inner()),
                Err(status) => Err(format!("the container runtime is away: {}", status.message())),
            };
            *self.network.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = state;
        }
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let label_selector = uid.map(|uid| (UID.to_owned(), uid.to_owned())).into_iter().collect();
        let filter = Some(cri::PodSandboxFilter { label_selector, ..Default::default() });
        let list = self.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest { filter }).await;
        let mut all = list.map_err(failed)?.into_inner().items;
        all.sort_by_key(|pod| (pod.metadata.as_ref().map_or(0, |metadata| metadata.attempt), pod.created_at));
        Ok(all)
    }

    async fn pod_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await.map_err(failed)?;
        answer.into_inner().status.ok_or_else(|| Error::Failed("the runtime tells no status".into()))
    }

    /// The newest sandbox of a pod.
    async fn newest(&self, uid: &str) -> Result<cri::PodSandboxStatus> {
        let newest = self.sandboxes(Some(uid)).await?.pop();
        let newest = newest.ok_or_else(|| Error::NotFound(format!("pod {uid} has no sandbox")))?;
        self.pod_status(&newest.id).await
    }

    async fn states(&self, uid: Option<&str>) -> Result<Vec<PodState>> {
        let mut runtime = self.runtime.clone();
        let mut pods: BTreeMap<String, PodState> = BTreeMap::new();
        let mut pod_of: HashMap<String, String> = HashMap::new();
        for sandbox in self.sandboxes(uid).await? {
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            let pod = pods.entry(metadata.uid.clone()).or_insert_with(|| PodState {
                uid: metadata.uid.clone(),
                namespace: metadata.namespace,
                name: metadata.name,
                ..PodState::default()
            });
            pod.sandbox = match sandbox.state() {
                cri::PodSandboxState::SandboxReady => {
                    let status = self.pod_status(&sandbox.id).await?;
                    Some(Sandbox {
                        id: sandbox.id.clone(),
                        attempt: metadata.attempt,
                        created_at: sandbox.created_at,
                        netns: None,
                        addresses: addresses(&status),
                    })
                }
                cri::PodSandboxState::SandboxNotready => None,
            };
            pod_of.insert(sandbox.id, metadata.uid);
        }
        let label_selector = uid.map(|uid| (UID.to_owned(), uid.to_owned())).into_iter().collect();
        let filter = Some(cri::ContainerFilter { label_selector, ..Default::default() });
        let list = runtime.list_containers(cri::ListContainersRequest { filter }).await.map_err(failed)?;
        let mut all = list.into_inner().containers;
        all.sort_by_key(|made| made.created_at);
        for made in all {
            let Some(pod) = pod_of.get(&made.pod_sandbox_id).and_then(|uid| pods.get_mut(uid)) else { continue };
            let request = cri::ContainerStatusRequest { container_id: made.id, verbose: false };
            match runtime.container_status(request).await {
                Ok(answer) => pod.containers.extend(answer.into_inner().status.map(container)),
                Err(status) if status.code() == Code::NotFound => {} // removed meanwhile
                Err(status) => return Err(failed(status)),
            }
        }
        Ok(pods.into_values().collect())
    }

    /// Runs a session at a streaming URL.
    async fn session(&self, url: String, stdio: Stdio) -> Result<i32> {
        let stream = dial(&url, "v4.channel.k8s.io").await?;
        streams::client::command(stream, stdio).await.map_err(Error::Failed)
    }
}

fn network_ready(status: cri::StatusResponse) -> std::result::Result<(), String> {
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    match conditions.into_iter().find(|condition| condition.r#type == "NetworkReady") {
        Some(condition) if !condition.status => Err(condition.message),
        _ => Ok(()),
    }
}

async fn dial(url: &str, protocol: &str) -> Result<TcpStream> {
    let wrong = |why: &dyn std::fmt::Display| Error::Failed(format!("the runtime's streaming URL {url}: {why}"));
    let parsed: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
    let (Some("http"), Some(host)) = (parsed.scheme_str(), parsed.authority()) else { return Err(wrong(&"not http")) };
    let connect = TcpStream::connect((host.host(), host.port_u16().unwrap_or(80)));
    let stream = tokio::time::timeout(DIAL, connect).await.map_err(|_| Error::Timeout(DIAL))?;
    let stream = stream.map_err(|error| wrong(&error))?;
    let path = parsed.path_and_query().map_or("/", |path| path.as_str());
    streams::client::upgrade(stream, host.as_str(), path, protocol).await.map_err(|error| wrong(&error))
}

fn addresses(status: &cri::PodSandboxStatus) -> Vec<IpAddr> {
    let network = status.network.iter();
    let texts = network.flat_map(|network| {
        std::iter::once(network.ip.as_str()).chain(network.additional_ips.iter().map(|more| more.ip.as_str()))
    });
    texts.filter_map(|ip| ip.parse().ok()).collect()
}

fn container(status: cri::ContainerStatus) -> Container {
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => ContainerState::Running { started_at: status.started_at },
        cri::ContainerState::ContainerExited => ContainerState::Exited(Exit {
            code: status.exit_code,
            oom_killed: status.reason == "OOMKilled",
            started_at: status.started_at,
            finished_at: status.finished_at,
            error: (status.reason == "StartError").then(|| status.message.clone()),
        }),
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    let user = status.user.and_then(|user| user.linux);
    Container {
        id: status.id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        created_at: status.created_at,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: if status.image_id.is_empty() { status.image_ref } else { status.image_id },
        spec_hash: status.annotations.get(SPEC_HASH).and_then(|hash| hash.parse().ok()).unwrap_or(0),
        log_path: status.log_path.into(),
        user: user.map(|user| ports::User {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups,
        }),
    }
}

/// One call that answers nothing.
macro_rules! call {
    ($self:ident.$client:ident.$method:ident($request:expr)) => {
        $self.$client.clone().$method($request).await.map_err(failed).map(rpc::Response::into_inner)
    };
}

impl ports::Runtime for External {
    fn version(&self) -> (String, String) {
        self.version.clone()
    }

    fn handlers(&self) -> Vec<ports::Handler> {
        self.handlers.clone()
    }

    fn pods(&self) -> BoxFuture<'_, Result<Vec<PodState>>> {
        Box::pin(self.states(None))
    }

    fn pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<PodState>> {
        Box::pin(async move {
            let found = self.states(Some(uid)).await?.into_iter().next();
            Ok(found.unwrap_or_else(|| PodState { uid: uid.to_owned(), ..PodState::default() }))
        })
    }

    fn changes(&self) -> broadcast::Receiver<PodChanged> {
        self.changes.subscribe()
    }

    fn run_sandbox<'a>(&'a self, asked: &'a SandboxConfig) -> BoxFuture<'a, Result<Sandbox>> {
        Box::pin(async move {
            let config = sandbox_config(asked, self.cgroups.path(&asked.cgroup));
            let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: asked.handler.clone() };
            let id = call!(self.runtime.run_pod_sandbox(request))?.pod_sandbox_id;
            let status = self.pod_status(&id).await?;
            let (attempt, created_at) = (asked.attempt, status.created_at);
            Ok(Sandbox { id, attempt, created_at, netns: None, addresses: addresses(&status) })
        })
    }

    /// The runtime knows them.
    fn set_addresses<'a>(&'a self, _: &'a str, _: &'a [IpAddr]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn stop_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for sandbox in self.sandboxes(Some(uid)).await? {
                call!(self.runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id }))?;
            }
            Ok(())
        })
    }

    fn remove_pod<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for sandbox in self.sandboxes(Some(uid)).await? {
                call!(self.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id }))?;
            }
            Ok(())
        })
    }

    fn create_container<'a>(&'a self, pod: &'a str, config: &'a ContainerConfig) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let of = self.newest(pod).await?;
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: of.id.clone(),
                config: Some(container_config(config, &of)),
                sandbox_config: Some(made_from(&of)),
            };
            Ok(call!(self.runtime.create_container(request))?.container_id)
        })
    }

    fn start_container<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            call!(self.runtime.start_container(cri::StartContainerRequest { container_id: id.to_owned() })).map(drop)
        })
    }

    /// The signal was told when it was created.
    fn stop_container<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        grace: Duration,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
            call!(self.runtime.stop_container(request)).map(drop)
        })
    }

    fn remove_container<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            call!(self.runtime.remove_container(cri::RemoveContainerRequest { container_id: id.to_owned() })).map(drop)
        })
    }

    fn update_resources<'a>(&'a self, _: &'a str, id: &'a str, asked: &'a Resources) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let linux = Some(resources(asked));
            let request =
                cri::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux, ..Default::default() };
            call!(self.runtime.update_container_resources(request)).map(drop)
        })
    }

    fn reopen_log<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
            call!(self.runtime.reopen_container_log(request)).map(drop)
        })
    }

    fn exec_sync<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        command: &'a [String],
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput>> {
        Box::pin(async move {
            // CRI has whole seconds, and 0 for none.
            let seconds = timeout.map_or(0, |limit| i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX));
            let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
            match self.runtime.clone().exec_sync(request).await {
                Ok(answer) => {
                    let cri::ExecSyncResponse { stdout, stderr, exit_code } = answer.into_inner();
                    Ok(ExecOutput { code: exit_code, stdout, stderr })
                }
                Err(status) if status.code() == Code::DeadlineExceeded => {
                    Err(Error::Timeout(timeout.unwrap_or_default()))
                }
                Err(status) => Err(failed(status)),
            }
        })
    }

    fn exec<'a>(&'a self, _: &'a str, id: &'a str, command: &'a [String], stdio: Stdio) -> BoxFuture<'a, Result<i32>> {
        Box::pin(async move {
            let url = call!(self.runtime.exec(cri::ExecRequest {
                container_id: id.to_owned(),
                cmd: command.to_vec(),
                tty: stdio.tty,
                stdin: stdio.stdin.is_some(),
                stdout: stdio.stdout.is_some(),
                stderr: stdio.stderr.is_some() && !stdio.tty,
            }))?
            .url;
            self.session(url, stdio).await
        })
    }

    fn attach<'a>(&'a self, _: &'a str, id: &'a str, stdio: Stdio) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let url = call!(self.runtime.attach(cri::AttachRequest {
                container_id: id.to_owned(),
                tty: stdio.tty,
                stdin: stdio.stdin.is_some(),
                stdout: stdio.stdout.is_some(),
                stderr: stdio.stderr.is_some() && !stdio.tty,
            }))?
            .url;
            self.session(url, stdio).await.map(drop)
        })
    }

    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<(ports::Reader, ports::Writer)>> {
        Box::pin(async move {
            let of = self.newest(pod).await?;
            let request = cri::PortForwardRequest { pod_sandbox_id: of.id, port: vec![port.into()] };
            let url = call!(self.runtime.port_forward(request))?.url;
            let stream = dial(&url, "portforward.k8s.io").await?;
            let (data, mut error) =
                streams::client::forward(stream, port).await.map_err(|error| Error::Failed(error.to_string()))?;
            tokio::spawn(async move {
                let mut why = String::new();
                if error.read_to_string(&mut why).await.is_ok() && !why.is_empty() {
                    tracing::debug!(why, "a forwarded port");
                }
            });
            let (reader, writer) = tokio::io::split(data);
            Ok((Box::new(reader) as ports::Reader, Box::new(writer) as ports::Writer))
        })
    }

    fn stats<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<PodStats>> {
        Box::pin(async move {
            let of = self.newest(pod).await?;
            let request = cri::PodSandboxStatsRequest { pod_sandbox_id: of.id };
            let stats = call!(self.runtime.pod_sandbox_stats(request))?.stats.and_then(|stats| stats.linux);
            let stats = stats.unwrap_or_default();
            let number = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
            let mut told = PodStats { pod: usage(stats.cpu, stats.memory, stats.io), ..PodStats::default() };
            told.pod.processes = number(stats.process.and_then(|process| process.process_count));
            for made in stats.containers {
                let mut used = usage(made.cpu, made.memory, made.io);
                let layer = made.writable_layer.unwrap_or_default();
                used.root_fs_used_bytes = number(layer.used_bytes);
                used.root_fs_inodes = number(layer.inodes_used);
                told.containers.insert(made.attributes.unwrap_or_default().id, used);
            }
            let network = stats.network.unwrap_or_default();
            let interfaces = network.default_interface.into_iter().chain(network.interfaces);
            told.network = interfaces
                .map(|link| ports::InterfaceStats {
                    name: link.name,
                    rx_bytes: number(link.rx_bytes),
                    rx_errors: number(link.rx_errors),
                    tx_bytes: number(link.tx_bytes),
                    tx_errors: number(link.tx_errors),
                    ..ports::InterfaceStats::default()
                })
                .collect();
            Ok(told)
        })
    }
}

fn usage(cpu: Option<cri::CpuUsage>, memory: Option<cri::MemoryUsage>, io: Option<cri::IoUsage>) -> Usage {
    let number = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
    let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
    Usage {
        at: cpu.timestamp,
        cpu_nanoseconds: number(cpu.usage_core_nano_seconds),
        memory_usage_bytes: number(memory.usage_bytes),
        memory_working_set_bytes: number(memory.working_set_bytes),
        memory_rss_bytes: number(memory.rss_bytes),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        stalled: [("cpu", cpu.psi), ("memory", memory.psi), ("io", io.and_then(|io| io.psi))]
            .into_iter()
            .filter_map(|(of, psi)| psi.map(|psi| (of, [waited(psi.some), waited(psi.full)])))
            .collect(),
        ..Usage::default()
    }
}

fn waited(of: Option<cri::PsiData>) -> ports::Waited {
    let of = of.unwrap_or_default();
    ports::Waited { nanoseconds: of.total, averages: [of.avg10, of.avg60, of.avg300] }
}

fn image(found: cri::Image) -> Image {
    Image {
        user: found.uid.map_or(found.username, |uid| uid.value.to_string()),
        id: found.id,
        tags: found.repo_tags,
        digests: found.repo_digests,
        size_bytes: found.size,
        pinned: found.pinned,
    }
}

impl ports::Images for External {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(async move {
            let request = cri::ImageStatusRequest { image: spec(name), verbose: false };
            Ok(call!(self.images.image_status(request))?.image.map(image))
        })
    }

    fn fits(&self, registry: &str, name: &str) -> bool {
        fits(registry, name)
    }

    fn pull<'a>(
        &'a self,
        name: &'a str,
        credentials: &'a [Credentials],
        _: Arc<dyn Pulling>,
    ) -> BoxFuture<'a, std::result::Result<Pulled, PullError>> {
        Box::pin(async move {
            let logins = credentials.iter().map(|login| {
                Some(cri::AuthConfig {
                    username: login.username.clone(),
                    password: login.password.clone(),
                    // Without an address it is for the image's registry, which it fits.
                    identity_token: login.identity_token.clone(),
                    registry_token: login.registry_token.clone(),
                    ..Default::default()
                })
            });
            let mut last = PullError::Failed(format!("no login for {name}"));
            // One login a call; without any, once as nobody.
            let anybody = credentials.is_empty().then_some(None);
            for (at, auth) in logins.chain(anybody).enumerate() {
                let login = auth.is_some().then_some(at);
                let request = cri::PullImageRequest { image: spec(name), auth, sandbox_config: None };
                match self.images.clone().pull_image(request).await {
                    Ok(answer) => {
                        let reference = answer.into_inner().image_ref;
                        let found =
                            self.find(&reference).await.map_err(|error| PullError::Failed(error.to_string()))?;
                        let gone = || PullError::Failed(format!("{reference} is gone again"));
                        return found.map(|image| Pulled { image, login }).ok_or_else(gone);
                    }
                    Err(status) => {
                        let text = status.message().to_owned();
                        last = match status.code() {
                            Code::InvalidArgument => PullError::InvalidName(text),
                            _ if text.starts_with("SignatureValidationFailed") => PullError::Signature(text),
                            _ => PullError::Failed(text),
                        };
                    }
                }
            }
            Err(last)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        Box::pin(async {
            let images = call!(self.images.list_images(cri::ListImagesRequest { filter: None }))?.images;
            Ok(images.into_iter().map(image).collect())
        })
    }

    fn mount<'a>(&'a self, _: &'a str, _: &'a str, _: &'a Path) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async { Ok(false) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { call!(self.images.remove_image(cri::RemoveImageRequest { image: spec(id) })).map(drop) })
    }

    fn usage(&self) -> BoxFuture<'_, Result<(u64, u64)>> {
        Box::pin(async {
            let all = call!(self.images.image_fs_info(cri::ImageFsInfoRequest {}))?.image_filesystems;
            let number = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
            let sum =
                |field: fn(&cri::FilesystemUsage) -> Option<cri::UInt64Value>| all.iter().map(field).map(number).sum();
            Ok((sum(|used| used.used_bytes), sum(|used| used.inodes_used)))
        })
    }
}

/// The runtime has attached its sandboxes itself.
impl ports::Network for External {
    fn ready(&self) -> std::result::Result<(), String> {
        self.network.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn attach<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        _: &'a str,
        _: &'a [ports::PortMapping],
    ) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let known = addresses(&self.pod_status(&sandbox.id).await?);
            Ok(if known.is_empty() { self.node_ips.clone() } else { known })
        })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn keep_only<'a>(&'a self, _: &'a [(String, Sandbox)]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
