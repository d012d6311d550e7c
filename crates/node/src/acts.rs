//! Carries out a pod's actions on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use schema::api::core::v1::{LifecycleHandler, Pod, PodStatus, ResourceRequirements};
use schema::api::node::v1::RuntimeClass;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::container::{self, Parts};
use crate::env::Sources;
use crate::memory::Failure;
use crate::metrics::Count;
use crate::objects::{Named, Wake, lock};
use crate::plan::Action;
use crate::pod::{Desired, Kind, Member, pull_policy};
use crate::ports::{Container, ContainerState, Error, Image, Nanos, PortMapping, Resources, Sandbox};
use crate::shared::Shared;
use crate::volumes::Round;
use crate::{etc, hooks, publish, resources, users};

/// How an action ended.
pub enum Outcome {
    /// The sandbox, and what became of its network.
    Sandbox(Result<Result<Vec<IpAddr>, String>, String>),
    /// The pod's addresses.
    Network(Result<Vec<IpAddr>, String>),
    /// When volumes must be made again.
    Volumes(Result<Option<Nanos>, Failure>),
    /// `name` is the image's as it was asked for.
    Image { container: String, name: String, result: Result<Image, Failure> },
    /// The new container's id, or reason and message.
    Started { container: String, after: Option<Nanos>, result: Result<String, (String, String)> },
    /// Why the container must be killed, if its hook failed.
    PostStarted { container: String, id: String, failed: Option<String> },
    /// The hook of the container of this id is done.
    PreStopped(String),
    /// What containers have by now, by id.
    Resized(Vec<(String, ResourceRequirements)>, Result<(), String>),
    /// It is out of its network, and stopped.
    SandboxStopped(Result<(), String>),
    /// Its volumes and its cgroup are gone.
    Released(Result<(), String>),
    /// Nothing is left of it here.
    TornDown(Result<(), String>),
    /// Whether the API has it no more.
    Finished(bool),
    /// A step that needs no remembering.
    Done(Result<(), String>),
}

/// What the worker knows when it starts an action.
pub struct Known {
    pub image: Option<Image>,
    pub addresses: Vec<String>,
    pub status: PodStatus,
}

pub struct Acts {
    shared: Arc<Shared>,
    written: watch::Receiver<Option<PodStatus>>,
    wake: Arc<Wake>,
    pods: watch::Receiver<Arc<Pod>>,
}

/// What the API has may be this long behind a pod that is deleted.
const LAST_STATUS_WAIT: Duration = Duration::from_secs(5);

impl Acts {
    pub fn new(
        shared: Arc<Shared>,
        written: watch::Receiver<Option<PodStatus>>,
        wake: Arc<Wake>,
        pods: watch::Receiver<Arc<Pod>>,
    ) -> Self {
        Self { shared, written, wake, pods }
    }

    pub async fn run(&self, action: Action, desired: &Arc<Desired>, named: &Arc<Named>, known: Known) -> Outcome {
        let operation = match &action {
            Action::Sandbox { .. } => "run_podsandbox",
            Action::StopSandbox => "stop_podsandbox",
            Action::Start { .. } => "start_container",
            Action::Stop { .. } => "stop_container",
            Action::Remove { .. } => "remove_container",
            Action::Image { .. } => "pull_image",
            Action::Resize { .. } => "update_container",
            _ => "",
        };
        let kind = match &action {
            Action::Start { container, .. } => desired.member(container).map_or("", |member| match member.kind {
                Kind::App => "container",
                Kind::Ephemeral => "ephemeral_container",
                Kind::Init | Kind::Sidecar => "init_container",
            }),
            _ => "",
        };
        let begun = Instant::now();
        let outcome = self.act(action, desired, named, known).await;
        if operation.is_empty() {
            return outcome;
        }
        let metrics = &self.shared.metrics;
        let failed = match &outcome {
            Outcome::Sandbox(made) => {
                metrics.count(Count::StartedPods, String::new());
                if made.is_err() {
                    metrics.count(Count::StartedPodsErrors, String::new());
                }
                if desired.pod.spec.host_users == Some(false) {
                    metrics.count(Count::StartedUserNamespacedPods, String::new());
                    if made.is_err() {
                        metrics.count(Count::StartedUserNamespacedPodsErrors, String::new());
                    }
                }
                made.is_err()
            }
            Outcome::Started { result, .. } => {
                metrics.count(Count::StartedContainers, format!("container_type=\"{kind}\""));
                if let Err((reason, _)) = result {
                    let labels = format!("code=\"{reason}\",container_type=\"{kind}\"");
                    metrics.count(Count::StartedContainersErrors, labels);
                }
                result.is_err()
            }
            Outcome::Image { result, .. } => result.is_err(),
            Outcome::SandboxStopped(result) | Outcome::Done(result) | Outcome::Resized(_, result) => result.is_err(),
            _ => false,
        };
        metrics.operation(operation, failed, begun.elapsed());
        outcome
    }

    async fn act(&self, action: Action, desired: &Arc<Desired>, named: &Arc<Named>, known: Known) -> Outcome {
        let uid = desired.uid();
        let runtime = &self.shared.ports.runtime;
        match action {
            Action::Sandbox { attempt } => Outcome::Sandbox(self.sandbox(desired, attempt).await),
            Action::Network => Outcome::Network(self.network(desired).await),
            Action::Volumes => Outcome::Volumes(self.volumes(desired, named, &known).await),
            Action::Image { container } => {
                let Some(member) = desired.member(&container) else { return Outcome::Done(Ok(())) };
                let secrets = desired.pod.spec.image_pull_secrets.iter().map(|secret| &*secret.name);
                let objects = named.secrets(secrets).await;
                let (name, path) = (member.container.image.clone(), member.field_path());
                let policy = pull_policy(&member.container.image_pull_policy, &name);
                let result = self.shared.puller.ensure(desired, &name, policy, &path, &objects).await;
                Outcome::Image { container, name, result }
            }
            Action::Start { container, attempt, after } => {
                let result = match desired.member(&container) {
                    Some(member) => self.start(desired, named, member, attempt, &known).await,
                    None => Err(("CreateContainerError".into(), "the pod has no such container".into())),
                };
                // Only a run that came to be counts towards the back-off.
                let after = after.filter(|_| !matches!(&result, Err((reason, _)) if reason != "RunContainerError"));
                Outcome::Started { container, after, result }
            }
            Action::PreStop { id, container, grace, .. } => {
                let hook =
                    desired.member(&container).and_then(|member| member.container.lifecycle.as_ref()?.pre_stop.clone());
                if let (Some(hook), Some(member)) = (hook, desired.member(&container)) {
                    let addresses: Vec<IpAddr> = known.addresses.iter().filter_map(|ip| ip.parse().ok()).collect();
                    let done =
                        tokio::time::timeout(grace, hooks::run(&self.shared, desired, member, &id, &hook, &addresses))
                            .await;
                    // A hook that is cut off is no event.
                    if matches!(done, Ok(Err(_))) {
                        let path = member.field_path();
                        self.shared.events.note(&*desired.pod, &path, true, "FailedPreStopHook", "PreStopHook failed");
                    }
                }
                Outcome::PreStopped(id)
            }
            Action::Resize { containers } => {
                let mut done = Vec::new();
                let result = self.resize(desired, &containers, &mut done).await;
                Outcome::Resized(done, result)
            }
            Action::Stop { id, grace, .. } => {
                Outcome::Done(gone_is_fine(runtime.stop_container(uid, &id, grace, None).await))
            }
            Action::Remove { id, container } => {
                Outcome::Done(remove_container(&self.shared, desired, &container, &id).await)
            }
            Action::StopSandbox => {
                if !desired.pod.spec.host_network
                    && let Err(error) = self.shared.ports.network.detach(uid).await
                {
                    return Outcome::SandboxStopped(Err(error.to_string()));
                }
                Outcome::SandboxStopped(gone_is_fine(runtime.stop_sandbox(uid).await))
            }
            Action::Release => Outcome::Released(self.release(desired).await.map(drop)),
            Action::Teardown => Outcome::TornDown(self.tear_down(desired).await),
            Action::Finish => {
                let mut written = self.written.clone();
                let last = written.wait_for(|written| written.as_ref() == Some(&known.status));
                let _ = tokio::time::timeout(LAST_STATUS_WAIT, last).await;
                let done = publish::finish(&self.shared.client, &desired.pod).await;
                Outcome::Finished(done)
            }
        }
    }

    async fn sandbox(&self, desired: &Desired, attempt: u32) -> Result<Result<Vec<IpAddr>, String>, String> {
        let (runtime, config) = (&self.shared.ports.runtime, &self.shared.config);
        let text = |error: Error| error.to_string();
        let mut wanted = container::sandbox(config, desired, attempt)?;
        wanted.handler = self.handler(desired).await?;
        make_dir(&wanted.log_directory).map_err(|error| error.to_string())?;
        make_dir(&config.pod_dir(desired.uid())).map_err(|error| error.to_string())?;
        if desired.pod.spec.host_users == Some(false) {
            let handlers = runtime.handlers();
            if !handlers.iter().any(|handler| handler.name == wanted.handler && handler.user_namespaces) {
                return Err(users::UNSUPPORTED.into());
            }
            let ids = users::allocate(&config.root_dir.join("pods"), desired.uid(), users::floor());
            wanted.user_namespace = Some(ids.map_err(|error| error.to_string())?);
        }
        let size = resources::pod_cgroup(&desired.pod, &self.shared.sizing);
        self.shared.ports.cgroups.set(&wanted.cgroup, &size).map_err(text)?;
        if attempt > 0 {
            // What is left of the sandbox before this one.
            runtime.stop_sandbox(desired.uid()).await.or_else(ignore_missing).map_err(text)?;
        }
        let sandbox = runtime.run_sandbox(&wanted).await.map_err(text)?;
        if wanted.host_network {
            return Ok(Ok(Vec::new()));
        }
        Ok(self.attach(desired, &sandbox).await)
    }

    /// The runtime's handler that the pod's RuntimeClass names.
    async fn handler(&self, desired: &Desired) -> Result<String, String> {
        let Some(name) = desired.pod.spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let class = self.shared.recall.get::<RuntimeClass>(&desired.pod, "", name).await;
        class.map(|class| class.handler).map_err(|error| format!("failed to look up RuntimeClass {name}: {error}"))
    }

    /// Limits that were changed in place: the pod's cgroup as well as its containers'.
    async fn resize(
        &self,
        desired: &Desired,
        containers: &[(String, String)],
        done: &mut Vec<(String, ResourceRequirements)>,
    ) -> Result<(), String> {
        let (runtime, cgroups) = (&self.shared.ports.runtime, &self.shared.ports.cgroups);
        let pod = resources::pod_cgroup(&desired.pod, &self.shared.sizing);
        let cgroup = resources::cgroup(&desired.pod);
        self.check_usage(desired, &pod, containers).await?;
        // A pod that shrinks cannot be less than its containers yet: its turn is after theirs.
        let grown = cgroups.set(&cgroup, &pod);
        for (id, name) in containers {
            let Some(member) = desired.member(name) else { continue };
            let mut own = resources::of_container(desired, member, &self.shared.sizing);
            self.shared.managers.place(desired.uid(), name, &mut own);
            runtime.update_resources(desired.uid(), id, &own).await.map_err(|error| error.to_string())?;
            done.push((id.clone(), member.container.resources.clone()));
        }
        match grown {
            Ok(()) => Ok(()),
            Err(_) => cgroups.set(&cgroup, &pod).map_err(|error| error.to_string()),
        }
    }

    /// The kernel would reclaim what is in use, or kill for it.
    async fn check_usage(&self, desired: &Desired, pod: &Resources, list: &[(String, String)]) -> Result<(), String> {
        let stats = self.shared.ports.runtime.stats(desired.uid()).await.map_err(|error| error.to_string())?;
        let below = |what: &str, limit: u64, usage: u64| {
            let too_low = limit > 0 && usage > limit;
            too_low.then(|| format!("attempting to set {what} memory limit ({limit}) below current usage ({usage})"))
        };
        let whole = below("pod", pod.memory_limit_bytes, stats.pod.memory_usage_bytes);
        let each = list.iter().filter_map(|(id, name)| {
            let own = resources::of_container(desired, desired.member(name)?, &self.shared.sizing);
            below(&format!("container {name:?}"), own.memory_limit_bytes, stats.containers.get(id)?.memory_usage_bytes)
        });
        let errors: Vec<String> = whole.into_iter().chain(each).collect();
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    async fn network(&self, desired: &Desired) -> Result<Vec<IpAddr>, String> {
        let state = self.shared.ports.runtime.pod(desired.uid()).await.map_err(|error| error.to_string())?;
        let sandbox = state.sandbox.ok_or("the sandbox is gone")?;
        self.attach(desired, &sandbox).await
    }

    async fn attach(&self, desired: &Desired, sandbox: &Sandbox) -> Result<Vec<IpAddr>, String> {
        let ports = &self.shared.ports;
        ports.network.ready().map_err(|reason| format!("network is not ready: {reason}"))?;
        let attached = ports.network.attach(sandbox, desired.uid(), &mappings(desired)).await;
        let addresses = attached.map_err(|error| error.to_string())?;
        ports.runtime.set_addresses(desired.uid(), &addresses).await.map_err(|error| error.to_string())?;
        Ok(addresses)
    }

    async fn volumes(&self, desired: &Arc<Desired>, named: &Named, known: &Known) -> Result<Option<Nanos>, Failure> {
        let failed = |message: String| Failure { reason: "FailedMount".into(), message, retry_at: 0 };
        let snapshot = named.snapshot().await;
        let objects = snapshot.map_err(|what| failed(format!("MountVolume.SetUp failed: {what}")))?;
        self.shared.dra.prepare(&desired.pod).await.map_err(|why| Failure {
            reason: "FailedPrepareDynamicResources".into(),
            message: format!("Failed to prepare dynamic resources: prepare dynamic resources: {why}"),
            retry_at: 0,
        })?;
        let mut images = BTreeMap::new();
        for volume in &desired.pod.spec.volumes {
            let Some(of) = &volume.volume_source.image else { continue };
            let (policy, path) = (pull_policy(&of.pull_policy, &of.reference), String::new());
            let image = self.shared.puller.ensure(desired, &of.reference, policy, &path, &objects).await?;
            images.insert(volume.name.clone(), image.id);
        }
        let links = BTreeMap::new();
        let sources = Sources {
            desired,
            objects: &objects,
            links: &links,
            pod_ips: &known.addresses,
            host_ips: &self.shared.host_ips,
            allocatable: &self.shared.allocatable,
        };
        let (ports, now) = (&self.shared.ports, self.shared.ports.clock.now());
        let known = lock(&self.shared.mounted).get(desired.uid()).cloned().unwrap_or_default();
        let (wake, gone) = (&self.wake, self.pods.clone());
        let round = Round { sources: &sources, images: &*ports.images, ids: &images, now, wake, known, gone };
        let mounted = self.shared.volumes.mount(&round).await;
        let done = mounted.map_err(|error| failed(error.to_string()))?;
        lock(&self.shared.mounted).insert(desired.uid().to_owned(), done.set);
        Ok(done.refresh_at)
    }

    async fn start(
        &self,
        desired: &Arc<Desired>,
        named: &Named,
        member: &Member,
        attempt: u32,
        known: &Known,
    ) -> Result<String, (String, String)> {
        let shared = &self.shared;
        let (uid, pod, path) = (desired.uid(), &*desired.pod, member.field_path());
        let failed = |reason: &str, event: &'static str, message: String| {
            shared.events.note(pod, &path, true, event, format!("Error: {message}"));
            (reason.to_owned(), message)
        };
        if !crate::pod::is_static(pod) {
            let _ = shared.services_known.subscribe().wait_for(|known| *known).await;
        }
        let objects = named.snapshot().await.map_err(|what| failed("CreateContainerConfigError", "Failed", what))?;
        let links = pod.spec.enable_service_links != Some(false);
        let links = crate::env::service_env(&shared.services(), &pod.metadata.namespace, links);
        let links = shared.recall.links(pod, links);
        let pod_ips = if pod.spec.host_network { shared.host_ips.clone() } else { known.addresses.clone() };
        let sources = Sources {
            desired,
            objects: &objects,
            links: &links,
            pod_ips: &pod_ips,
            host_ips: &shared.host_ips,
            allocatable: &shared.allocatable,
        };
        let image = known.image.as_ref().ok_or_else(|| ("ImageGone".to_owned(), String::new()))?;
        let volumes = lock(&shared.mounted).get(uid).cloned().unwrap_or_default();
        let cut = write_etc(&shared.config, desired, &pod_ips).map_err(|error| {
            failed("CreateContainerConfigError", "Failed", format!("cannot write the pod's files of /etc: {error}"))
        })?;
        for message in cut {
            shared.events.note(pod, "", true, "DNSConfigForming", message);
        }
        let target_id = match &*member.target {
            "" => String::new(),
            target => {
                let state = shared.ports.runtime.pod(uid).await;
                let state = state.map_err(|error| failed("CreateContainerError", "Failed", error.to_string()))?;
                let mut runs = state.containers.into_iter().rev();
                let found = runs.find(|container| container.name == target && crate::plan::is_running(container));
                found.map(|container| container.id).ok_or_else(|| {
                    failed("CreateContainerError", "Failed", format!("unable to find target container {target}"))
                })?
            }
        };
        let parts = Parts {
            config: &shared.config,
            sources: &sources,
            volumes: &volumes,
            image,
            sizing: &shared.sizing,
            target_id,
        };
        let mut config = container::make(&parts, member, attempt)
            .map_err(|error| failed("CreateContainerConfigError", "Failed", error.to_string()))?;
        shared.managers.place(uid, &member.container.name, &mut config.resources);
        for (_, _, device) in shared.dra.devices(pod, &member.container) {
            config.cdi_devices.extend(device.cdi);
        }
        let equipped = shared.devices.equip(uid, &member.container.name, &mut config).await;
        equipped.map_err(|error| failed("CreateContainerConfigError", "Failed", error))?;
        let _ = fs::create_dir_all(
            shared.config.log_dir(&pod.metadata.namespace, &pod.metadata.name, uid).join(&member.container.name),
        );
        let runtime = &shared.ports.runtime;
        // A resize that restarts its containers finds the pod's own limits here.
        if attempt > 0 {
            let whole = resources::pod_cgroup(pod, &shared.sizing);
            if let Err(error) = shared.ports.cgroups.set(&resources::cgroup(pod), &whole) {
                tracing::debug!(pod = %desired.label(), %error, "the pod's cgroup keeps its limits while others need them");
            }
        }
        let id = match runtime.create_container(uid, &config).await {
            Ok(id) => id,
            Err(Error::NotFound(message))
                if shared.ports.images.find(&image.id).await.is_ok_and(|found| found.is_none()) =>
            {
                return Err(("ImageGone".to_owned(), message));
            }
            Err(error) => return Err(failed("CreateContainerError", "Failed", error.to_string())),
        };
        shared.events.note(pod, &path, false, "Created", "Container created");
        if let Err(error) = runtime.start_container(uid, &id).await {
            return Err(failed("RunContainerError", "Failed", error.to_string()));
        }
        shared.events.note(pod, &path, false, "Started", "Container started");
        let log = shared.config.log_dir(&pod.metadata.namespace, &pod.metadata.name, uid).join(&config.log_path);
        let link = container::log_link(&shared.config, desired, &member.container.name, &id);
        if let Err(error) = make_dir(&shared.config.log_links).and_then(|()| std::os::unix::fs::symlink(&log, &link)) {
            tracing::debug!(%error, link = %link.display(), "no link to a log");
        }
        Ok(id)
    }

    /// Why the container must be killed, if the hook failed.
    pub async fn post_start(
        &self,
        desired: &Arc<Desired>,
        container: &str,
        id: &str,
        hook: &LifecycleHandler,
        addresses: &[IpAddr],
    ) -> Option<String> {
        let member = desired.member(container)?;
        match hooks::run(&self.shared, desired, member, id, hook, addresses).await {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!(pod = %desired.label(), container, %error, "a postStart hook failed");
                let path = member.field_path();
                self.shared.events.note(&*desired.pod, &path, true, "FailedPostStartHook", "PostStartHook failed");
                Some("FailedPostStartHook".into())
            }
        }
    }

    async fn release(&self, desired: &Desired) -> Result<(), String> {
        let uid = desired.uid();
        lock(&self.shared.mounted).remove(uid);
        self.shared.puller.forget(uid);
        self.shared.managers.release(uid);
        self.shared.metrics.forget(uid);
        self.shared.volumes.unmount(uid).await.map_err(|error| error.to_string())?;
        self.shared.dra.release(uid).await.map_err(|why| format!("unprepare dynamic resources: {why}"))?;
        let cgroups = &self.shared.ports.cgroups;
        // Of a pod that is known by its containers only, the QoS class is not.
        let name = format!("/pod{uid}");
        for cgroup in cgroups.of_pods().iter().filter(|cgroup| cgroup.ends_with(&name)) {
            gone_is_fine(cgroups.remove(cgroup))?;
        }
        Ok(())
    }

    async fn tear_down(&self, desired: &Desired) -> Result<(), String> {
        let uid = desired.uid();
        let runtime = &self.shared.ports.runtime;
        let meta = &desired.pod.metadata;
        if let Ok(state) = runtime.pod(uid).await {
            for container in &state.containers {
                let _ =
                    fs::remove_file(container::log_link(&self.shared.config, desired, &container.name, &container.id));
            }
        }
        if !desired.pod.spec.host_network {
            gone_is_fine(self.shared.ports.network.detach(uid).await)?;
        }
        gone_is_fine(runtime.remove_pod(uid).await)?;
        self.release(desired).await?;
        let logs = self.shared.config.log_dir(&meta.namespace, &meta.name, uid);
        match fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", logs.display()))
            }
            _ => Ok(()),
        }
    }
}

fn ignore_missing(error: Error) -> Result<(), Error> {
    if matches!(error, Error::NotFound(_)) { Ok(()) } else { Err(error) }
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), String> {
    result.or_else(ignore_missing).map_err(|error| error.to_string())
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// A dead container with its logs.
pub async fn remove_container(shared: &Shared, desired: &Desired, name: &str, id: &str) -> Result<(), String> {
    let (runtime, uid) = (&shared.ports.runtime, desired.uid());
    let _ = fs::remove_file(container::log_link(&shared.config, desired, name, id));
    let containers = runtime.pod(uid).await.map(|pod| pod.containers).unwrap_or_default();
    let log = containers.into_iter().find(|c| c.id == id).map(|c| c.log_path);
    let removed = gone_is_fine(runtime.remove_container(uid, id).await);
    if let (Ok(()), Some(log)) = (&removed, log) {
        remove_logs(&log);
    }
    removed
}

/// A log and what was rotated out of it.
fn remove_logs(log: &Path) {
    let Some((dir, name)) = log.parent().zip(log.file_name().and_then(|name| name.to_str())) else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let own = entry.file_name();
        if own
            .to_str()
            .is_some_and(|own| own == name || own.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// hostPorts of all containers.
pub fn mappings(desired: &Desired) -> Vec<PortMapping> {
    let ports = desired.members.iter().flat_map(|member| &member.container.ports);
    let mut seen = BTreeSet::new();
    ports
        .filter(|port| port.host_port > 0)
        .filter_map(|port| {
            Some(PortMapping {
                protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
                container_port: u16::try_from(port.container_port).ok()?,
                host_port: u16::try_from(port.host_port).ok()?,
                host_ip: port.host_ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified()),
            })
        })
        .filter(|mapping| seen.insert((mapping.protocol.clone(), mapping.host_port, mapping.host_ip)))
        .collect()
}

/// hosts, hostname and resolv.conf of a pod; a file that says the right thing is left alone. What was left out of a
/// resolv.conf that is new.
fn write_etc(config: &Config, desired: &Desired, pod_ips: &[String]) -> io::Result<Vec<String>> {
    let dir = config.pod_dir(desired.uid());
    make_dir(&dir)?;
    let own_hosts = desired.pod.spec.host_network.then(|| fs::read_to_string(&config.hosts).unwrap_or_default());
    let host = etc::Resolver::parse(&fs::read_to_string(&config.resolv_conf).unwrap_or_default());
    let hostname = container::hostname(config, desired);
    let (resolver, mut cut) = etc::resolver(&desired.pod, &config.cluster_dns, &config.cluster_domain, &host);
    let files = [
        ("etc-hosts", etc::hosts(desired, pod_ips, &config.cluster_domain, own_hosts.as_deref())),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolver.text()),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            if name == "resolv.conf" {
                cut.clear();
            }
            continue;
        }
        fs::write(&path, text)?;
        std::os::unix::fs::chown(&path, Some(0), Some(0))
            .or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    Ok(cut)
}

const MAX_MESSAGE_BYTES: u64 = 4096;
/// Of all containers of a pod together.
const MAX_MESSAGES_BYTES: usize = 12 << 10;
const MAX_MESSAGE_LINES: usize = 80;
const MAX_LOG_MESSAGE_BYTES: usize = 2048;

/// What a container left behind as its last words: its termination log, or with `FallbackToLogsOnError` its log's end.
pub fn termination_message(config: &Config, desired: &Desired, container: &Container) -> String {
    let mut message = last_words(config, desired, container);
    let share = MAX_MESSAGES_BYTES / desired.members.len().max(1);
    message.truncate(message.floor_char_boundary(share));
    message
}

fn last_words(config: &Config, desired: &Desired, container: &Container) -> String {
    let ContainerState::Exited(exit) = &container.state else { return String::new() };
    let path = container::termination_log(config, desired.uid(), &container.name, container.attempt);
    let text = read_end(&path, MAX_MESSAGE_BYTES);
    let falls_back = desired
        .member(&container.name)
        .is_some_and(|member| member.container.termination_message_policy == "FallbackToLogsOnError");
    if text.is_empty() {
        if falls_back && exit.code != 0 {
            return crate::logs::tail(&container.log_path, MAX_MESSAGE_LINES, MAX_LOG_MESSAGE_BYTES);
        }
        return exit.error.clone().unwrap_or_default();
    }
    text
}

/// The last bytes of a file; a file that is not there is empty.
fn read_end(path: &Path, limit: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        let mut file = fs::File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(limit);
        file.seek(SeekFrom::Start(from))?;
        file.take(limit).read_to_end(&mut raw)?;
        Ok(raw)
    };
    match read() {
        Ok(raw) => String::from_utf8_lossy(&raw).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("Error on reading termination log {}: {error}", path.display()),
    }
}
