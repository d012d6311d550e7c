//! The node part of a server or an agent: runtime, images, network, kubelet, and the kubelet's port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::io::Backend;
use node::{Config, Kubelet, Ports};
use reconcile::io::Client;
use runtime::containers::Runtime;
use runtime::images::{Images, registries::Registries};

use crate::cli::{self, NodeArgs};
use crate::flags::KubeletArg;
use crate::identity::Pair;
use crate::join::Cluster;
use crate::listen;
use crate::places::Places;
use crate::server::KUBERNETES_VERSION;
use crate::wiring::host::{LocalHost, LocalKeys, SystemClock};
use crate::wiring::kubelet::{Door, Local};
use crate::wiring::network::{Network, Settings};
use crate::wiring::remote::{self, Trust};
use crate::wiring::runtime::{Containers, image_store};

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
    #[error("cannot start the container runtime")]
    Runtime(#[from] runtime::containers::Error),
    #[error("cannot start the kubelet: {0}")]
    Kubelet(String),
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
    pub serving: &'a Pair,
    pub client_ca: &'a str,
}

/// A running node.
pub struct Machine {
    pub kubelet: Arc<Kubelet>,
    pub images: Images,
}

/// What the node's `registries.yaml` says: read before anything is started.
pub fn registries(args: &NodeArgs) -> Result<Registries, Error> {
    crate::wiring::runtime::registries(&args.private_registry).map_err(Error::Registries)
}

pub async fn start(setup: Setup<'_>) -> Result<Machine, Error> {
    let Setup { args, name, addresses, cluster, places, registries, .. } = &setup;
    let listener = listen::bind(SocketAddr::new(listen_ip(addresses), KUBELET_PORT)).await?;
    let images = image_store(&places.images(), registries.clone()).map_err(Error::Images)?;
    let runtime = Runtime::open(places.runtime()).await?;
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
    let containers = Containers::new(runtime, images.clone(), places.agent().join("addresses"), places.cgroup_root())
        .map_err(Error::Directories)?;
    let resolv_conf = args.resolv_conf.clone().unwrap_or_else(|| "/etc/resolv.conf".into());
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
        resolv_conf: resolv_conf.clone(),
        directory: places.network(),
        policies: !cluster.disable.iter().any(|part| part == "network-policy"),
    });
    tokio::spawn(network.clone().run(setup.network_client.clone()));
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
        resolv_conf,
        kubelet_port: KUBELET_PORT,
        version: format!("{KUBERNETES_VERSION}+sampan"),
        ..Config::default()
    };
    for arg in &args.kubelet_arg {
        match arg {
            KubeletArg::MaxPods(pods) => config.max_pods = *pods,
            KubeletArg::PodMaxPids(pids) => config.pod_pids_limit = *pids,
            KubeletArg::AllowedUnsafeSysctls(names) => config.allowed_sysctls.extend_from_slice(names),
            KubeletArg::Reserve(more) => {
                config.reserved.cpu_milli += more.cpu_milli;
                config.reserved.memory_bytes += more.memory_bytes;
                config.reserved.ephemeral_storage_bytes += more.ephemeral_storage_bytes;
            }
        }
    }
    let ports = Ports {
        runtime: containers.clone(),
        images: containers,
        network,
        host: Arc::new(LocalHost),
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

/// All addresses: metrics are scraped on any of them.
fn listen_ip(addresses: &[IpAddr]) -> IpAddr {
    match addresses.first() {
        Some(IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
        _ => IpAddr::from([0u8; 4]),
    }
}
