//! The node part of a server or an agent: runtime, images, network, kubelet, and the kubelet's port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::io::Backend;
use node::{Config, Kubelet, Ports, ports, settings};
use reconcile::io::Client;
use runtime::containers::{Cgroups, Options, Runtime};
use runtime::images::{Images, registries::Registries};

use crate::cli::{self, NodeArgs};
use crate::identity::Pair;
use crate::join::Cluster;
use crate::listen;
use crate::places::Places;
use crate::server::KUBERNETES_VERSION;
use crate::wiring;
use crate::wiring::external::External;
use crate::wiring::host::{LocalHost, LocalKeys, SystemClock};
use crate::wiring::kubelet::{Door, Local};
use crate::wiring::network::{Network, Settings};
use crate::wiring::remote::{self, Trust};
use crate::wiring::runtime::{Containers, PodCgroups, image_store, providers};

pub const KUBELET_PORT: u16 = 10250;
/// flannel's numbers, so that firewalls which let k3s through let Sampan through.
const VXLAN: Backend = Backend::Vxlan { vni: 1, port: 8472 };

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] listen::Error),
    #[error("{0}")]
    Registries(String),
    #[error("cannot open the image store: {0}")]
    Images(String),
    #[error("--kubelet-arg: {}", .0.join("; "))]
    Settings(Vec<String>),
    #[error("cannot start the container runtime")]
    Runtime(#[from] runtime::containers::Error),
    #[error("cannot start the kubelet: {0}")]
    Kubelet(String),
    #[error("cannot use the container runtime: {0}")]
    External(String),
    #[error("cannot prepare the node's directories: {0}")]
    Directories(std::io::Error),
    #[error("cannot read the client CA")]
    Pki(#[from] pki::Error),
    #[error(transparent)]
    Tls(#[from] remote::Error),
}

/// What a node needs to run.
pub struct Setup<'a> {
    pub args: &'a NodeArgs,
    pub name: &'a str,
    pub addresses: &'a [IpAddr],
    pub cluster: &'a Cluster,
    pub places: &'a Places,
    /// As `system:node:<name>`.
    pub client: Client,
    /// As [`crate::join::NETWORK_USER`].
    pub network_client: Client,
    pub registries: Registries,
    pub kubelet: &'a settings::Settings,
    pub serving: &'a Pair,
    pub client_ca: &'a str,
}

/// A running node.
pub struct Machine {
    pub kubelet: Arc<Kubelet>,
    /// The embedded runtime's.
    images: Option<Images>,
}

impl Machine {
    /// Says that all images are on the disk.
    pub fn close(&self) {
        if let Some(Err(error)) = self.images.as_ref().map(Images::close) {
            tracing::warn!(error = %error.chain(), "the image store did not close cleanly; it will be looked at");
        }
    }
}

/// Containers, images and the network of pods.
pub type RuntimePorts = (Arc<dyn ports::Runtime>, Arc<dyn ports::Images>, Arc<dyn ports::Network>);

/// What the node's `registries.yaml` says: read before anything is started.
pub fn registries(args: &NodeArgs) -> Result<Registries, Error> {
    crate::wiring::runtime::registries(&args.private_registry).map_err(Error::Registries)
}

/// What the kubelet is told: read before anything is started.
pub fn kubelet_settings(args: &NodeArgs) -> Result<settings::Settings, Error> {
    let settings = settings::Settings::read(&args.kubelet_arg, &settings::Disk).map_err(Error::Settings)?;
    settings.apply(&mut Config::default()).map_err(Error::Settings)?;
    Ok(settings)
}

pub async fn start(setup: Setup<'_>) -> Result<Machine, Error> {
    let Setup { args, name, addresses, cluster, places, registries, .. } = &setup;
    let listener = listen::bind(SocketAddr::new(listen_ip(addresses), KUBELET_PORT)).await?;
    places.settle_kubelet();
    let mut config = Config {
        node_name: (*name).to_owned(),
        hostname: (*name).to_owned(),
        addresses: addresses.to_vec(),
        external_addresses: args.node_external_ip.clone(),
        cluster_dns: cluster.cluster_dns.into_iter().collect(),
        cluster_domain: cluster.cluster_domain.clone(),
        root_dir: places.kubelet(),
        log_root: places.pod_logs.clone(),
        log_links: places.pod_logs.with_file_name("containers"),
        labels: args.node_label.iter().cloned().collect(),
        taints: args.node_taint.clone(),
        resolv_conf: args.resolv_conf.clone().unwrap_or_else(|| "/etc/resolv.conf".into()),
        image_dir: places.images(),
        static_pods: places.static_pods(),
        kubelet_port: KUBELET_PORT,
        version: format!("{KUBERNETES_VERSION}+sampan"),
        ..Config::default()
    };
    setup.kubelet.apply(&mut config).map_err(Error::Settings)?;
    let network = Network::new(Settings {
        node: (*name).to_owned(),
        node_ips: addresses.to_vec(),
        cluster_cidrs: cluster.cluster_cidrs.clone(),
        service_cidrs: cluster.service_cidrs.clone(),
        cluster_dns: cluster.cluster_dns.filter(|_| !cluster.disable.iter().any(|part| part == "dns")),
        domain: cluster.cluster_domain.clone(),
        backend: match args.flannel_backend {
            cli::Backend::Vxlan => VXLAN,
            cli::Backend::HostGw => Backend::HostGw,
            cli::Backend::None => Backend::None,
        },
        resolv_conf: config.resolv_conf.clone(),
        directory: places.network(),
        policies: !cluster.disable.iter().any(|part| part == "network-policy"),
    });
    tokio::spawn(network.clone().run(setup.network_client.clone()));
    let cgroups = Arc::new(PodCgroups { cgroups: Cgroups::detect()?, root: places.cgroup_root() });
    let (machine, images) = match &args.container_runtime_endpoint {
        Some(endpoint) => {
            let service = args.image_service_endpoint.as_ref().unwrap_or(endpoint);
            let external = External::connect(endpoint, service, cgroups.clone(), addresses.to_vec());
            let external = external.await.map_err(Error::External)?;
            let ports: RuntimePorts = (external.clone(), external.clone(), external);
            (ports, None)
        }
        None => {
            let (containers, images) = embedded(places, registries.clone(), &network, &config, cgroups.clone()).await?;
            let ports: RuntimePorts = (containers.clone(), containers, network);
            (ports, Some(images))
        }
    };
    let (runtime, image_service, network) = machine;
    let plugins = &args.image_credential_provider_config;
    let plugins = providers(plugins.as_deref(), args.image_credential_provider_bin_dir.as_deref());
    let ports = Ports {
        runtime,
        cgroups,
        images: image_service,
        providers: plugins.map_err(Error::Registries)?,
        network,
        host: Arc::new(LocalHost::new()),
        keys: Arc::new(LocalKeys),
        clock: Arc::new(SystemClock),
        tls: remote::tls(&Trust::Anyone, None, &[])?,
    };
    let kubelet = Kubelet::new(config, ports, setup.client.clone()).map_err(Error::Kubelet)?;
    tokio::spawn(kubelet.clone().run());
    let door = Door::new(name, Arc::new(Local(kubelet.clone())), setup.client.clone(), setup.client_ca)?;
    let (_tls, tls) = tokio::sync::watch::channel(listen::tls(setup.serving)?);
    let (_stop, stop) = tokio::sync::watch::channel(false);
    tokio::spawn(listen::serve(listener, tls, Arc::new(door), stop, listen::STREAMS));
    Ok(Machine { kubelet, images })
}

/// The embedded runtime and image store, with those who ask them from outside.
async fn embedded(
    places: &Places,
    registries: Registries,
    network: &Arc<Network>,
    config: &Config,
    cgroups: Arc<PodCgroups>,
) -> Result<(Arc<Containers>, Images), Error> {
    let images = image_store(&places.images(), registries).map_err(Error::Images)?;
    let (log_max_bytes, log_max_files) = (config.log_max_bytes, config.log_max_files);
    let runtime = Runtime::open(Options { log_max_bytes, log_max_files, ..places.runtime() }).await?;
    let (served, inbox) = (images.clone(), images.clone());
    let (socket, dropped) = (places.images_socket(), places.dropped_images());
    tokio::spawn(async move {
        if let Err(error) = crate::images::serve(served, &socket).await {
            tracing::warn!(%error, socket = %socket.display(), "`sampan images` cannot reach this node");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = crate::images::import_directory(inbox, &dropped).await {
            tracing::warn!(%error, directory = %dropped.display(), "images dropped there are not imported");
        }
    });
    let addresses = places.agent().join("addresses");
    let containers =
        Containers::new(runtime.clone(), images.clone(), addresses, cgroups).map_err(Error::Directories)?;
    let seen = Arc::new(wiring::cri::OfNode { containers: containers.clone(), network: network.clone() });
    let socket = places.cri_socket();
    if let Err(error) = crate::cri::serve(places, &socket, runtime, images.clone(), seen).await {
        tracing::warn!(%error, socket = %socket.display(), "crictl cannot reach this node");
    }
    Ok((containers, images))
}

/// All addresses: metrics are scraped on any of them.
fn listen_ip(addresses: &[IpAddr]) -> IpAddr {
    match addresses.first() {
        Some(IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
        _ => IpAddr::from([0u8; 4]),
    }
}
