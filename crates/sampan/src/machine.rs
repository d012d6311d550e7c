//! The node part of a server or an agent: runtime, images, network, kubelet, and the kubelet's port.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::io::Backend;
use node::{Config, Kubelet, Ports, Reservation};
use reconcile::io::Client;
use runtime::{containers::Runtime, images::Images};
use schema::api::core::v1::Taint;

use crate::cli::{self, NodeArgs};
use crate::identity::Pair;
use crate::join::Cluster;
use crate::places::Places;
use crate::server::KUBERNETES_VERSION;
use crate::wiring::host::{LocalHost, SystemClock};
use crate::wiring::kubelet::{Door, Local};
use crate::wiring::network::{Network, Settings};
use crate::wiring::runtime::{Containers, image_store};
use crate::{facts, listen};

pub const KUBELET_PORT: u16 = 10250;
/// flannel's numbers, so that firewalls which let k3s through let Sampan through.
const VXLAN: Backend = Backend::Vxlan { vni: 1, port: 8472 };

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] listen::Error),
    #[error("cannot open the image store: {0}")]
    Images(String),
    #[error("cannot start the container runtime")]
    Runtime(#[from] runtime::containers::Error),
    #[error("cannot prepare the node's directories: {0}")]
    Directories(std::io::Error),
    #[error("cannot read the client CA")]
    Pki(#[from] pki::Error),
    #[error(transparent)]
    Facts(#[from] facts::Error),
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
    pub serving: &'a Pair,
    pub client_ca: &'a str,
}

/// A running node.
pub struct Machine {
    pub kubelet: Arc<Kubelet>,
    pub images: Images,
}

pub async fn start(setup: Setup<'_>) -> Result<Machine, Error> {
    let Setup { args, name, addresses, cluster, places, .. } = &setup;
    let listener = listen::bind(SocketAddr::new(listen_ip(addresses), KUBELET_PORT)).await?;
    let images = image_store(&places.images(), &args.private_registry).map_err(Error::Images)?;
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
    let kubelet_args = KubeletArgs::parse(&args.kubelet_arg)?;
    let config = Config {
        max_pods: kubelet_args.max_pods,
        pod_pids_limit: kubelet_args.pod_max_pids,
        reserved: kubelet_args.reserved,
        node_name: (*name).to_owned(),
        hostname: (*name).to_owned(),
        addresses: addresses.to_vec(),
        external_addresses: args.node_external_ip.clone(),
        cluster_dns: cluster.cluster_dns.into_iter().collect(),
        cluster_domain: cluster.cluster_domain.clone(),
        root_dir: places.kubelet(),
        log_root: places.pod_logs.clone(),
        log_links: places.pod_logs.with_file_name("containers"),
        labels: labels(&args.node_label)?,
        taints: args.node_taint.iter().map(|text| taint(text)).collect::<Result<_, _>>()?,
        resolv_conf,
        kubelet_port: KUBELET_PORT,
        version: format!("{KUBERNETES_VERSION}+sampan"),
        ..Config::default()
    };
    let ports = Ports {
        runtime: containers.clone(),
        images: containers,
        network,
        host: Arc::new(LocalHost),
        clock: Arc::new(SystemClock),
    };
    let kubelet = Kubelet::new(config, ports, setup.client.clone());
    tokio::spawn(kubelet.clone().run());
    let door = Door::new(name, Arc::new(Local(kubelet.clone())), setup.client.clone(), setup.client_ca)?;
    let (_tls, tls) = tokio::sync::watch::channel(listen::tls(setup.serving)?);
    tokio::spawn(listen::serve(listener, tls, Arc::new(door)));
    Ok(Machine { kubelet, images })
}

/// What `--kubelet-arg` sets, of what kubelet's own flags set.
#[derive(Debug, PartialEq, Eq)]
struct KubeletArgs {
    max_pods: u32,
    pod_max_pids: u64,
    /// `system-reserved` and `kube-reserved` together.
    reserved: Reservation,
}

impl KubeletArgs {
    fn parse(words: &[String]) -> Result<Self, facts::Error> {
        let mut args = Self { max_pods: 110, pod_max_pids: 0, reserved: Reservation::default() };
        for word in words {
            let bad = |why| facts::Error::Flag { flag: "--kubelet-arg", value: word.clone(), why };
            let number = "expected a number";
            match word.trim_start_matches('-').split_once('=') {
                Some(("max-pods", value)) => args.max_pods = value.parse().map_err(|_| bad(number))?,
                Some(("pod-max-pids", value)) => args.pod_max_pids = value.parse().map_err(|_| bad(number))?,
                Some(("system-reserved" | "kube-reserved", value)) => {
                    reserve(value, &mut args.reserved)
                        .ok_or_else(|| bad("expected amounts, such as cpu=100m,memory=200Mi"))?;
                }
                _ => return Err(bad("known are max-pods, pod-max-pids, system-reserved and kube-reserved")),
            }
        }
        Ok(args)
    }
}

fn reserve(text: &str, reserved: &mut Reservation) -> Option<()> {
    for part in text.split(',') {
        let (name, amount) = part.split_once('=')?;
        let amount = schema::quantity::Quantity::parse(amount).ok()?;
        let units = u64::try_from(amount.value()).ok()?;
        match name {
            "cpu" => reserved.cpu_milli += u64::try_from(amount.milli_value()).ok()?,
            "memory" => reserved.memory_bytes += units,
            "ephemeral-storage" => reserved.ephemeral_storage_bytes += units,
            _ => return None,
        }
    }
    Some(())
}

/// All addresses: metrics are scraped on any of them.
fn listen_ip(addresses: &[IpAddr]) -> IpAddr {
    match addresses.first() {
        Some(IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
        _ => IpAddr::from([0u8; 4]),
    }
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, facts::Error> {
    let parse = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            facts::Error::Flag { flag: "--node-label", value: text.clone(), why: "expected KEY=VALUE" }
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(parse).collect()
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> Result<Taint, facts::Error> {
    let bad = || facts::Error::Flag {
        flag: "--node-taint",
        value: text.to_owned(),
        why: "expected KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute",
    };
    let (pair, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(bad());
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned(), ..Taint::default() })
}

#[cfg(test)]
mod tests;
