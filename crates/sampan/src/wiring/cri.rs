//! Networks of pods that come by CRI: the node's own, or one that has nothing but pods and their hostPorts.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use net::cluster::Objects;
use net::io::{Agent, Backend, Net, Options};
use net::ruleset;
use node::ports::{self, Network as _, Runtime as _};
use runtime::containers::{Runtime, SandboxStatus};
use runtime::cri::{BoxFuture, Network};
use schema::api::core::v1::{Container, ContainerPort, Node, Pod};
use schema::api::meta::v1::ObjectMeta;

use super::network;
use super::runtime::Containers;

/// Beside a kubelet of this process: its pods are seen, and others get addresses of the same network.
pub struct OfNode {
    pub containers: Arc<Containers>,
    pub network: Arc<network::Network>,
}

impl Network for OfNode {
    fn ready(&self) -> Result<(), String> {
        self.network.ready()
    }

    fn attach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let known = ports::Sandbox { netns: sandbox.netns.clone(), ..ports::Sandbox::default() };
            let uid = &sandbox.config.uid;
            let words = |error: ports::Error| error.to_string();
            let addresses = self.network.attach(&known, uid, &[]).await.map_err(words)?;
            self.containers.set_addresses(uid, &addresses).await.map_err(words)
        })
    }

    fn detach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.network.detach(&sandbox.config.uid).await.map_err(|error| error.to_string()) })
    }

    fn addresses(&self, sandbox: &SandboxStatus) -> Vec<IpAddr> {
        if sandbox.netns.is_none() { Vec::new() } else { self.containers.addresses(&sandbox.config.uid) }
    }
}

/// Links, addresses and hostPorts without a cluster.
pub struct Alone {
    net: Arc<Net>,
    agent: Mutex<Agent>,
    runtime: Runtime,
}

const NODE: &str = "this";

fn words(error: net::io::Error) -> String {
    let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
    format!("{error}{source}")
}

impl Alone {
    /// Takes up the pods that live; blocks for kernel round trips.
    pub fn open(directory: &Path, cluster_cidrs: &[String], runtime: Runtime) -> Result<Self, String> {
        let cidrs: Vec<_> = cluster_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        let options = Options {
            address_directory: directory.to_owned(),
            pod_cidrs: cidrs.clone(),
            service_cidrs: Vec::new(),
            node_ips: vec![crate::facts::default_address().unwrap_or(IpAddr::from([127, 0, 0, 1]))],
            backend: Backend::None,
            mtu: None,
            own_service_ips: Vec::new(),
        };
        let net = Arc::new(Net::open(options).map_err(words)?);
        let living: Vec<String> =
            runtime.sandboxes().into_iter().filter(|pod| pod.ready && pod.netns.is_some()).map(|pod| pod.id).collect();
        net.reconcile(&living).map_err(words)?;
        let node = ruleset::Node { name: NODE.into(), cluster_cidrs: cidrs, ..ruleset::Node::default() };
        let (agent, _zone) = Agent::new(net.clone(), node, "");
        let alone = Self { net, agent: Mutex::new(agent), runtime };
        alone.apply()?;
        Ok(alone)
    }

    /// The rules for what is attached now.
    fn apply(&self) -> Result<(), String> {
        let mut agent = self.agent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let attached = self.net.attached();
        let pods = self.runtime.sandboxes().into_iter().filter(|pod| attached.contains_key(&pod.id));
        let objects = Objects {
            pods: pods.map(|pod| Arc::new(as_object(&pod))).collect(),
            nodes: vec![Arc::new(Node { metadata: named(NODE), ..Node::default() })],
            attached,
            ..Objects::default()
        };
        agent.step(&objects).map(drop).map_err(words)
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() }
}

/// As much of a Pod as hostPorts need.
fn as_object(sandbox: &SandboxStatus) -> Pod {
    let config = &sandbox.config;
    let mut pod = Pod { metadata: named(&config.name), ..Pod::default() };
    pod.metadata.namespace = config.namespace.clone();
    pod.metadata.uid = sandbox.id.clone();
    pod.spec.node_name = NODE.to_owned();
    let port = |port: &runtime::containers::PortMapping| ContainerPort {
        protocol: port.protocol.clone(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.clone(),
        ..ContainerPort::default()
    };
    pod.spec.containers = vec![Container { ports: config.ports.iter().map(port).collect(), ..Container::default() }];
    pod
}

impl Network for Alone {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn attach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(netns) = &sandbox.netns else { return Ok(()) };
            tokio::task::block_in_place(|| {
                self.net.attach_pod(netns, &sandbox.id).map_err(words)?;
                if sandbox.config.ports.is_empty() { Ok(()) } else { self.apply() }
            })
        })
    }

    fn detach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            tokio::task::block_in_place(|| {
                self.net.detach_pod(&sandbox.id).map_err(words)?;
                if sandbox.config.ports.is_empty() { Ok(()) } else { self.apply() }
            })
        })
    }

    fn addresses(&self, sandbox: &SandboxStatus) -> Vec<IpAddr> {
        self.net.attached().remove(&sandbox.id).unwrap_or_default()
    }
}
