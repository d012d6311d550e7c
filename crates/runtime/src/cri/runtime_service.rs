//! `runtime.v1.RuntimeService`, but for numbers (`stats`).

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use rpc::cri::{runtime_service_server::RuntimeService, *};
use rpc::{Request, Response, Status, async_trait};
use tokio::sync::broadcast::error::RecvError;

use super::streaming::Ask;
use super::{Answer, Inner, Service, Stream, asked, now, pieces, refused, shown, stats, store_refused, whole};
use crate::containers::{ContainerState, Event, HANDLERS, SandboxStatus};

fn fits(selector: &HashMap<String, String>, labels: &std::collections::BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A beginning of an id stands for it where it is the only one.
fn named(filter: &str, id: &str) -> bool {
    filter.is_empty() || id.starts_with(filter)
}

impl Inner {
    fn pods(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let mut all = self.runtime.sandboxes();
        all.retain(|pod| {
            named(&filter.id, &pod.id)
                && filter.state.is_none_or(|state| state.state() == shown::pod_state(pod))
                && fits(&filter.label_selector, &pod.config.labels)
        });
        all.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
        all.iter().map(shown::pod).collect()
    }

    fn containers(&self, filter: Option<ContainerFilter>) -> Vec<Container> {
        let filter = filter.unwrap_or_default();
        let mut all = self.runtime.containers();
        all.retain(|made| {
            named(&filter.id, &made.id)
                && named(&filter.pod_sandbox_id, &made.sandbox_id)
                && filter.state.is_none_or(|state| state.state() == shown::state(made))
                && fits(&filter.label_selector, &made.config.labels)
        });
        all.sort_by_key(|made| std::cmp::Reverse(made.created_at));
        all.iter().map(shown::container).collect()
    }

    async fn run_pod(&self, request: RunPodSandboxRequest) -> Answer<RunPodSandboxResponse> {
        let asked = request.config.ok_or_else(|| Status::invalid_argument("sandbox config is missing"))?;
        let config = asked::sandbox(asked, request.runtime_handler, &self.settings.cgroup_parent)?;
        let name = format!("{}_{}_{}_{}", config.name, config.namespace, config.uid, config.attempt);
        let _reserved = self.reserve(name.clone())?;
        let key = |config: &crate::containers::SandboxConfig| {
            (config.name.clone(), config.namespace.clone(), config.uid.clone(), config.attempt)
        };
        if let Some(old) = self.runtime.sandboxes().iter().find(|pod| key(&pod.config) == key(&config)) {
            return Err(Status::already_exists(format!("sandbox name {name:?} is reserved for {:?}", old.id)));
        }
        let pod = self.runtime.run_sandbox(config).await.map_err(refused)?;
        if pod.netns.is_some()
            && let Err(why) = self.network.attach(&pod).await
        {
            let _ = self.network.detach(&pod).await;
            let _ = self.runtime.remove_sandbox(&pod.id).await;
            return Err(Status::unknown(format!("failed to setup network for sandbox {:?}: {why}", pod.id)));
        }
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: pod.id }))
    }

    async fn stop_pod(&self, pod: &SandboxStatus) -> Result<(), Status> {
        self.network.detach(pod).await.map_err(|why| {
            Status::unknown(format!("failed to tear down the network of sandbox {:?}: {why}", pod.id))
        })?;
        match self.runtime.stop_sandbox(&pod.id).await {
            // Somebody else has removed it meanwhile.
            Err(crate::containers::Error::NoSandbox(_)) => Ok(()),
            done => done.map_err(refused),
        }
    }

    async fn create(&self, request: CreateContainerRequest) -> Answer<CreateContainerResponse> {
        let pod = self.sandbox(&request.pod_sandbox_id)?;
        let asked = request.config.ok_or_else(|| Status::invalid_argument("container config is missing"))?;
        let metadata = asked.metadata.clone().unwrap_or_default();
        let name = format!("{}/{}_{}", pod.id, metadata.name, metadata.attempt);
        let _reserved = self.reserve(name)?;
        let same = |made: &crate::containers::ContainerStatus| {
            made.config.name == metadata.name && made.config.attempt == metadata.attempt
        };
        if let Some(old) = self.containers_of(&pod.id).into_iter().find(same) {
            let name = format!("{}_{}", metadata.name, metadata.attempt);
            return Err(Status::already_exists(format!("container name {name:?} is reserved for {:?}", old.id)));
        }
        let made = self.create_as(&pod, asked).await;
        if made.is_err() {
            self.hide_images(&pod.id, &metadata.name, metadata.attempt);
        }
        Ok(Response::new(CreateContainerResponse { container_id: made? }))
    }

    async fn create_as(&self, pod: &SandboxStatus, mut asked: ContainerConfig) -> Result<String, Status> {
        let image = asked.image.clone().unwrap_or_default().image;
        let rootfs = self.images.resolve(&image).await.map_err(store_refused)?;
        self.show_images(&pod.id, &mut asked).await?;
        let devices: Vec<String> = asked.cdi_devices.iter().map(|device| device.name.clone()).collect();
        let mut config = asked::container(asked, &pod.config, &rootfs)?;
        (self.settings.cdi)(&devices, &mut config).map_err(Status::unknown)?;
        if !config.pid_of.is_empty() {
            let target = self.container(&config.pid_of)?;
            if target.sandbox_id != pod.id || target.state != ContainerState::Running {
                return Err(Status::invalid_argument(format!("invalid target container {:?}", config.pid_of)));
            }
        }
        self.runtime.create_container(&pod.id, config).await.map_err(refused)
    }

    async fn image_ref(&self, digest: &str) -> Option<String> {
        self.images.get(digest).await.ok().flatten()?.repo_digests.into_iter().next()
    }

    async fn event(&self, event: Event) -> ContainerEventResponse {
        use ContainerEventType as Type;
        let sandbox = event.sandbox_id().to_owned();
        let (kind, id) = match event {
            Event::SandboxStarted { .. } => (Type::ContainerStartedEvent, sandbox.clone()),
            Event::ContainerCreated { container_id, .. } => (Type::ContainerCreatedEvent, container_id),
            Event::ContainerStarted { container_id, .. } => (Type::ContainerStartedEvent, container_id),
            Event::ContainerExited { container_id, .. } => (Type::ContainerStoppedEvent, container_id),
            Event::ContainerRemoved { container_id, .. } => (Type::ContainerDeletedEvent, container_id),
            Event::SandboxStopped { .. } => (Type::ContainerStoppedEvent, sandbox.clone()),
            Event::SandboxRemoved { .. } => (Type::ContainerDeletedEvent, sandbox.clone()),
        };
        ContainerEventResponse {
            container_id: id,
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: self.runtime.sandbox(&sandbox).ok().map(|pod| shown::pod_status(self, &pod)),
            containers_statuses: self.statuses(&sandbox).await,
        }
    }

    async fn statuses(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let mut statuses = Vec::new();
        for made in self.containers_of(sandbox) {
            let image_ref = self.image_ref(&made.config.image.digest).await;
            statuses.push(shown::container_status(&made, image_ref));
        }
        statuses
    }

    fn running(&self, id: &str) -> Result<String, Status> {
        let made = self.container(id)?;
        match made.state {
            ContainerState::Running => Ok(made.id),
            state => Err(Status::failed_precondition(format!("container {:?} is {state:?}, not running", made.id))),
        }
    }
}

fn command(cmd: Vec<String>) -> Result<Vec<String>, Status> {
    if cmd.is_empty() { Err(Status::invalid_argument("command is empty")) } else { Ok(cmd) }
}

/// At least one stream; a terminal has no standard error of its own.
fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<streams::Streams, Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    Ok(streams::Streams { stdin, stdout, stderr, tty })
}

fn seconds(timeout: i64) -> Duration {
    Duration::from_secs(u64::try_from(timeout).unwrap_or(0))
}

#[async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Stream<StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = Stream<ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Stream<StreamPodSandboxMetricsResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "sampan".into(),
            runtime_version: self.0.settings.version.clone(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let service = self.clone();
        whole(async move { service.0.run_pod(request.into_inner()).await }).await
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let service = self.clone();
        whole(async move {
            if let Ok(pod) = service.0.sandbox(&request.into_inner().pod_sandbox_id) {
                service.0.stop_pod(&pod).await?;
            }
            Ok(Response::new(StopPodSandboxResponse {}))
        })
        .await
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let service = self.clone();
        whole(async move {
            let inner = &service.0;
            if let Ok(pod) = inner.sandbox(&request.into_inner().pod_sandbox_id) {
                inner.stop_pod(&pod).await?;
                let made = inner.containers_of(&pod.id);
                inner.runtime.remove_sandbox(&pod.id).await.map_err(refused)?;
                made.iter().for_each(|made| inner.hide_images(&pod.id, &made.config.name, made.config.attempt));
                // Of a sandbox that named no parent it was made here.
                if pod.config.cgroup_parent.starts_with(&format!("{}/", inner.settings.cgroup_parent)) {
                    let _ = inner.runtime.cgroups().remove(&pod.config.cgroup_parent);
                }
            }
            Ok(Response::new(RemovePodSandboxResponse {}))
        })
        .await
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.0.sandbox(&request.pod_sandbox_id)?;
        let about = serde_json::json!({"pid": pod.keeper_pid, "config": &*pod.config});
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(shown::pod_status(&self.0, &pod)),
            info: verbose(request.verbose, &about),
            containers_statuses: self.0.statuses(&pod.id).await,
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        Ok(Response::new(ListPodSandboxResponse { items: self.0.pods(request.into_inner().filter) }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let pods = self.0.pods(request.into_inner().filter);
        pieces(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let service = self.clone();
        whole(async move { service.0.create(request.into_inner()).await }).await
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let service = self.clone();
        whole(async move {
            let made = service.0.container(&request.into_inner().container_id)?;
            service.0.runtime.start_container(&made.id).await.map_err(refused)?;
            Ok(Response::new(StartContainerResponse {}))
        })
        .await
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let (service, request) = (self.clone(), request.into_inner());
        whole(async move {
            if let Ok(made) = service.0.container(&request.container_id) {
                match service.0.runtime.stop_container(&made.id, seconds(request.timeout), None).await {
                    Err(crate::containers::Error::NoContainer(_)) => {}
                    done => done.map_err(refused)?,
                }
            }
            Ok(Response::new(StopContainerResponse {}))
        })
        .await
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let service = self.clone();
        whole(async move {
            if let Ok(made) = service.0.container(&request.into_inner().container_id) {
                service.0.runtime.remove_container(&made.id).await.map_err(refused)?;
                service.0.hide_images(&made.sandbox_id, &made.config.name, made.config.attempt);
            }
            Ok(Response::new(RemoveContainerResponse {}))
        })
        .await
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        Ok(Response::new(ListContainersResponse { containers: self.0.containers(request.into_inner().filter) }))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.0.containers(request.into_inner().filter);
        pieces(containers, |containers| StreamContainersResponse { containers })
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let made = self.0.container(&request.container_id)?;
        let image_ref = self.0.image_ref(&made.config.image.digest).await;
        let about = serde_json::json!({"sandboxID": &made.sandbox_id, "pid": made.pid, "config": &*made.config});
        Ok(Response::new(ContainerStatusResponse {
            status: Some(shown::container_status(&made, image_ref)),
            info: verbose(request.verbose, &about),
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let made = self.0.container(&request.container_id)?;
        if made.state == ContainerState::Exited {
            return Err(Status::failed_precondition(format!("container {:?} has ended", made.id)));
        }
        let resources = asked::resources(request.linux.unwrap_or_default());
        self.0.runtime.update_container(&made.id, resources).await.map_err(refused)?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = self.0.running(&request.into_inner().container_id)?;
        self.0.runtime.reopen_log(&id).await.map_err(refused)?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let (id, cmd) = (self.0.running(&request.container_id)?, command(request.cmd)?);
        let timeout = (request.timeout > 0).then(|| seconds(request.timeout));
        let output = self.0.runtime.exec_sync(&id, &cmd, timeout).await.map_err(refused)?;
        Ok(Response::new(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.code }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let id = self.0.running(&request.container_id)?;
        let url = self.0.streaming.url(Ask::Exec { id, command: command(request.cmd)?, streams })?;
        Ok(Response::new(ExecResponse { url }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let id = self.0.running(&request.container_id)?;
        Ok(Response::new(AttachResponse { url: self.0.streaming.url(Ask::Attach { id, streams })? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        let pod = self.0.sandbox(&request.pod_sandbox_id)?;
        if !pod.ready {
            return Err(Status::failed_precondition(format!("sandbox {:?} is not running", pod.id)));
        }
        let ports = request.port.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
        Ok(Response::new(PortForwardResponse { url: self.0.streaming.url(Ask::PortForward { id: pod.id, ports })? }))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let made = self.0.container(&request.into_inner().container_id)?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(self.0.container_stats(&made).await) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = self.0.all_container_stats(request.into_inner().filter).await;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.0.all_container_stats(request.into_inner().filter).await;
        pieces(stats, |container_stats| StreamContainerStatsResponse { container_stats })
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let pod = self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(self.0.pod_stats(&pod).await) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = self.0.all_pod_stats(request.into_inner().filter).await;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.0.all_pod_stats(request.into_inner().filter).await;
        pieces(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    /// The network has its addresses from elsewhere.
    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |name: &str, state: Result<(), String>, reason: &str| RuntimeCondition {
            r#type: name.into(),
            status: state.is_ok(),
            reason: if state.is_ok() { String::new() } else { reason.into() },
            message: state.err().unwrap_or_default(),
        };
        let users = self.0.runtime.user_namespaces().is_ok();
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: users };
        let about = serde_json::json!({"sandboxes": self.0.runtime.sandboxes().len()});
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", Ok(()), ""),
                    condition("NetworkReady", self.0.network.ready(), "NetworkPluginNotReady"),
                ],
            }),
            info: verbose(request.into_inner().verbose, &about),
            runtime_handlers: HANDLERS
                .iter()
                .map(|name| RuntimeHandler { name: (*name).into(), features: Some(features) })
                .collect(),
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        }))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(Status::unimplemented("method CheckpointContainer not implemented"))
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        Err(Status::unimplemented("method CheckpointPod not implemented"))
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        Err(Status::unimplemented("method RestorePod not implemented"))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let events = self.0.runtime.events();
        let stream = stream::unfold((self.clone(), events), |(service, mut events)| async move {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        let message = service.0.event(event).await;
                        return Some((Ok(message), (service, events)));
                    }
                    // Who is slow lists again: kubelets do so once in a while anyway.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors: stats::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics: self.0.all_metrics().await }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        pieces(self.0.all_metrics().await, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        // The pod's cgroup is the kubelet's; the sandbox itself has no processes to be limited.
        self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }
}

fn verbose(wanted: bool, about: &serde_json::Value) -> HashMap<String, String> {
    if wanted { HashMap::from([("info".to_owned(), about.to_string())]) } else { HashMap::new() }
}
