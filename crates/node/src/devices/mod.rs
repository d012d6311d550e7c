//! Device plugins (v1beta1): which devices there are, which of them containers have, and what containers get with them.
//!
//! Plugins register at `<root>/device-plugins/kubelet.sock` or as other plugins do. Allocations are kept in upstream's
//! `kubelet_internal_checkpoint`, which others read, too.

mod choose;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc::deviceplugin::device_plugin_client::DevicePluginClient;
use rpc::deviceplugin::registration_server::{Registration, RegistrationServer};
use rpc::deviceplugin::{
    ContainerAllocateResponse, DevicePluginOptions, Empty, PreStartContainerRequest, RegisterRequest,
};
use rpc::{Channel, Request, Response, Status};
use schema::api::core::v1::{ContainerStatus, ResourceHealth, ResourceStatus};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::objects::lock;
use crate::plugins::{DIAL, call, told};
use crate::ports::{ContainerConfig, Device as Node, Mount};
pub use kept::Given;

const VERSION: &str = "v1beta1";
/// Devices of a plugin that went away are counted for so long.
const FORGET: Duration = Duration::from_secs(300);
/// What a plugin is given to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
const PRE_START: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Device {
    healthy: bool,
    /// Where it lies, if that matters.
    numa: Vec<i64>,
}

#[derive(Default)]
struct Resource {
    devices: BTreeMap<String, Device>,
    plugin: Option<Plugin>,
    /// Counts the plugins that stood for it.
    generation: u64,
}

#[derive(Clone)]
struct Plugin {
    client: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
}

#[derive(Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    given: Vec<Given>,
}

/// A plugin that wants to be listened to.
struct Joined {
    resource: String,
    plugin: Plugin,
    generation: u64,
}

pub struct Devices {
    dir: PathBuf,
    numa: BTreeSet<u32>,
    state: Mutex<State>,
    joins: mpsc::UnboundedSender<Joined>,
    joined: Mutex<Option<mpsc::UnboundedReceiver<Joined>>>,
    changed: watch::Sender<u64>,
}

/// Why a plugin cannot be taken.
pub fn check(resource: &str, versions: &[String]) -> Result<(), String> {
    if !versions.iter().any(|version| version == VERSION) {
        return Err(format!(
            "requested API version {:?} is not supported by kubelet. Supported version is [{VERSION:?}]",
            versions.join(",")
        ));
    }
    let part = |text: &str, more: &[u8]| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        ends(text.bytes().next())
            && ends(text.bytes().last())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let extended = resource.split_once('/').is_some_and(|(domain, name)| {
        part(domain, b"-.")
            && domain == domain.to_ascii_lowercase()
            && name.len() <= 63
            && part(name, b"-_.")
            && !domain.ends_with("kubernetes.io")
            && !domain.starts_with("requests.")
    });
    if extended { Ok(()) } else { Err(format!("the ResourceName {resource:?} is invalid")) }
}

impl Devices {
    pub fn new(dir: PathBuf, numa: BTreeSet<u32>) -> Self {
        let (joins, joined) = mpsc::unbounded_channel();
        let (given, registered) = kept::load(&dir);
        // Who registered before will again: until then there are none of its devices.
        let resources = registered.into_iter().map(|name| (name, Resource::default())).collect();
        Self {
            dir,
            numa,
            state: Mutex::new(State { resources, given }),
            joins,
            joined: Mutex::new(Some(joined)),
            changed: watch::channel(0).0,
        }
    }

    /// Learns when devices come, go, or change their health.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// All devices and the healthy ones, by resource.
    pub fn counts(&self) -> BTreeMap<String, (usize, usize)> {
        let healthy = |of: &Resource| of.devices.values().filter(|device| device.healthy).count();
        let state = lock(&self.state);
        state.resources.iter().map(|(name, of)| (name.clone(), (of.devices.len(), healthy(of)))).collect()
    }

    /// Pods that have devices.
    pub fn users(&self) -> BTreeSet<String> {
        lock(&self.state).given.iter().map(|given| given.pod.clone()).collect()
    }

    /// What containers have, and where on the machine all devices lie.
    pub fn given(&self) -> Vec<Given> {
        lock(&self.state).given.clone()
    }

    /// Healthy devices with their NUMA nodes, by resource.
    pub fn healthy(&self) -> Vec<(String, String, Vec<i64>)> {
        let state = lock(&self.state);
        let all = state.resources.iter().flat_map(|(name, of)| of.devices.iter().map(move |device| (name, device)));
        let healthy = all.filter(|(_, (_, device))| device.healthy);
        healthy.map(|(name, (id, device))| (name.clone(), id.clone(), device.numa.clone())).collect()
    }

    /// Listens to plugins for as long as it is polled.
    pub async fn run(self: &Arc<Self>) {
        let Some(mut joined) = lock(&self.joined).take() else { return };
        let mut listening = JoinSet::new();
        let server = async {
            match self.bind() {
                Ok(listener) => {
                    let door = RegistrationServer::new(Door(self.clone()));
                    rpc::serve(listener, rpc::Routes::default().with(door)).await;
                }
                Err(error) => tracing::warn!(directory = %self.dir.display(), %error, "device plugins cannot register"),
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(server);
        loop {
            tokio::select! {
                () = &mut server => {}
                Some(plugin) = joined.recv() => drop(listening.spawn(self.clone().listen(plugin))),
                Some(_) = listening.join_next() => {}
            }
        }
    }

    /// Plugins watch for the socket being made anew, and register again.
    fn bind(&self) -> std::io::Result<UnixListener> {
        std::fs::create_dir_all(&self.dir)?;
        let path = self.dir.join("kubelet.sock");
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path)
    }

    /// Takes a plugin whose socket is `endpoint`; one that stood for the resource before is let go.
    pub async fn take(
        &self,
        resource: &str,
        endpoint: &Path,
        options: Option<DevicePluginOptions>,
    ) -> Result<(), String> {
        let channel = rpc::connect(endpoint, DIAL).await;
        let channel = channel.map_err(|error| format!("failed to dial device plugin: {error}"))?;
        let mut client = DevicePluginClient::new(channel);
        let options = match options {
            Some(options) => options,
            None => {
                let answer = call(DIAL, client.get_device_plugin_options(Empty {})).await;
                answer.map_err(|status| format!("failed to get device plugin options: {}", told(&status)))?
            }
        };
        let plugin = Plugin { client, options };
        let generation = {
            let mut state = lock(&self.state);
            let known = state.resources.entry(resource.to_owned()).or_default();
            known.plugin = Some(plugin.clone());
            known.generation += 1;
            known.generation
        };
        let _ = self.joins.send(Joined { resource: resource.to_owned(), plugin, generation });
        Ok(())
    }

    /// Follows a plugin's devices to its end.
    async fn listen(self: Arc<Self>, joined: Joined) {
        let Joined { resource, mut plugin, generation } = joined;
        let stream = call(TIMEOUT, plugin.client.list_and_watch(Empty {})).await;
        match stream {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(list)) => {
                        let devices = list.devices.into_iter().map(|device| {
                            let nodes = device.topology.into_iter().flat_map(|of| of.nodes).map(|node| node.id);
                            (device.id, Device { healthy: device.health == "Healthy", numa: nodes.collect() })
                        });
                        if !self.replace(&resource, generation, devices.collect()) {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(status) => {
                        tracing::info!(resource, error = told(&status), "a device plugin has ended");
                        break;
                    }
                }
            },
            Err(status) => tracing::warn!(resource, error = told(&status), "a device plugin lists no devices"),
        }
        self.lose(&resource, generation, |of| {
            of.plugin = None;
            of.devices.values_mut().for_each(|device| device.healthy = false);
        });
        tokio::time::sleep(FORGET).await;
        self.lose(&resource, generation, |of| of.devices.clear());
    }

    /// False: another plugin stands for the resource by now.
    fn replace(&self, resource: &str, generation: u64, devices: BTreeMap<String, Device>) -> bool {
        let (changed, first) = {
            let mut state = lock(&self.state);
            let Some(of) = state.resources.get_mut(resource).filter(|of| of.generation == generation) else {
                return false;
            };
            let changed = of.devices != devices;
            let first = of.devices.keys().ne(devices.keys());
            of.devices = devices;
            if first {
                kept::save(&self.dir, &state);
            }
            (changed, first)
        };
        if changed || first {
            self.tell();
        }
        true
    }

    fn lose(&self, resource: &str, generation: u64, change: impl Fn(&mut Resource)) {
        if let Some(of) = lock(&self.state).resources.get_mut(resource).filter(|of| of.generation == generation) {
            change(of);
        }
        self.tell();
    }

    /// What a container gets with its devices; plugins that want to know of its start are told.
    pub async fn equip(&self, uid: &str, container: &str, to: &mut ContainerConfig) -> Result<(), String> {
        let given: Vec<Given> = {
            let state = lock(&self.state);
            state.given.iter().filter(|of| of.pod == uid && of.container == container).cloned().collect()
        };
        for of in given {
            let plugin = lock(&self.state).resources.get(&of.resource).and_then(|resource| resource.plugin.clone());
            if let Some(mut plugin) = plugin.filter(|plugin| plugin.options.pre_start_required) {
                let request = PreStartContainerRequest { devices_ids: of.ids().into_iter().collect() };
                let answer = call(PRE_START, plugin.client.pre_start_container(request)).await;
                answer.map_err(|status| {
                    format!("device plugin PreStartContainer rpc failed with err: {}", told(&status))
                })?;
            }
            let ContainerAllocateResponse { envs, mounts, devices, annotations: _, cdi_devices } = of.response;
            to.env.retain(|(name, _)| !envs.contains_key(name));
            to.env.extend(envs);
            to.mounts.extend(mounts.into_iter().map(|mount| Mount {
                host_path: mount.host_path.into(),
                container_path: mount.container_path.into(),
                readonly: mount.read_only,
                ..Mount::default()
            }));
            to.devices.extend(devices.into_iter().map(|device| Node {
                host_path: device.host_path.into(),
                container_path: device.container_path.into(),
                permissions: device.permissions,
            }));
            to.cdi_devices.extend(cdi_devices.into_iter().map(|device| device.name));
        }
        Ok(())
    }

    /// Says how the devices of a pod's containers are, in `allocatedResourcesStatus`.
    pub fn tell_health(&self, uid: &str, statuses: &mut [ContainerStatus]) {
        let state = lock(&self.state);
        for given in state.given.iter().filter(|given| given.pod == uid) {
            let Some(status) = statuses.iter_mut().find(|status| status.name == given.container) else { continue };
            let known = state.resources.get(&given.resource);
            let health = |id: &String| match known.and_then(|of| of.devices.get(id)) {
                Some(device) if device.healthy => "Healthy",
                Some(_) => "Unhealthy",
                None => "Unknown",
            };
            let of = |id: &String| ResourceHealth {
                resource_id: id.clone(),
                health: health(id).into(),
                ..ResourceHealth::default()
            };
            let resources = given.ids().iter().map(of).collect();
            status.allocated_resources_status.retain(|of| of.name != given.resource);
            status.allocated_resources_status.push(ResourceStatus {
                name: given.resource.clone(),
                resources,
                ..ResourceStatus::default()
            });
        }
    }
}

/// Where plugins knock.
struct Door(Arc<Devices>);

#[rpc::async_trait]
impl Registration for Door {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let refused = |why: String| {
            tracing::warn!(resource = request.resource_name, why, "a device plugin was refused");
            Status::unknown(why)
        };
        check(&request.resource_name, std::slice::from_ref(&request.version)).map_err(refused)?;
        let endpoint = Path::new(&request.endpoint);
        if endpoint.components().count() == 0 || endpoint.components().any(|part| !matches!(part, Component::Normal(_)))
        {
            let why = "is not below the directory of device plugins";
            return Err(refused(format!("bad socketPath, {:?} {why}", request.endpoint)));
        }
        let devices = self.0.clone();
        let endpoint = devices.dir.join(endpoint);
        // A plugin may well serve only once it was let in.
        tokio::spawn(async move {
            let options = request.options.unwrap_or_default();
            if let Err(error) = devices.take(&request.resource_name, &endpoint, Some(options)).await {
                tracing::warn!(resource = request.resource_name, error, "a device plugin was not reached");
            }
        });
        Ok(Response::new(Empty {}))
    }
}
