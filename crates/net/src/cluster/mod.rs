//! From the cluster's objects to what rules, DNS and routes are computed from.
//!
//! [`Cluster`] keeps the join of each Service with its EndpointSlices and redoes only those whose objects changed
//! (by identity of the shared objects, as a watch cache replaces them).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use schema::api::core::v1::{Namespace, Node, Pod, Service};
use schema::api::discovery::v1::EndpointSlice;
use schema::api::networking::v1::NetworkPolicy;

use crate::dns::{Host, Zone, ZoneService};
use crate::io::Peer;
use crate::ruleset::{self, Cidr, HostPort, Inputs, PodFacts, Policy, Protocol};

mod pods;
mod services;
#[cfg(test)]
mod tests;

/// The cluster as a node sees it.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: Vec<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    /// All pods if there are NetworkPolicies; this node's suffice without.
    pub pods: Vec<Arc<Pod>>,
    pub namespaces: Vec<Arc<Namespace>>,
    pub policies: Vec<Arc<NetworkPolicy>>,
    pub nodes: Vec<Arc<Node>>,
    /// What [`crate::io::Net::attached`] says, so that rules hold for a pod before its status is written.
    pub attached: Attached,
}

/// Addresses by pod uid.
pub type Attached = BTreeMap<String, Vec<IpAddr>>;

/// A Service with its slices, and what was made of them.
struct Joined {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    /// `None`: nothing for the proxy (headless, ExternalName, another proxy's).
    rules: Option<Arc<ruleset::Service>>,
    zone: Arc<ZoneService>,
}

/// The joins that were made so far.
#[derive(Default)]
pub struct Cluster {
    node: ruleset::Node,
    joined: BTreeMap<(String, String), Joined>,
    serial: u32,
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

impl Cluster {
    /// For the node `node`; its zone is taken from its Node object.
    pub fn new(node: ruleset::Node) -> Self {
        Cluster { node, ..Cluster::default() }
    }

    /// Takes the present objects in; true if a Service or its endpoints differ from the last time.
    pub fn update(&mut self, objects: &Objects) -> bool {
        let label = "topology.kubernetes.io/zone";
        let own = objects.nodes.iter().find(|node| node.metadata.name == self.node.name);
        if let Some(node) = own {
            self.node.zone = node.metadata.labels.get(label).cloned().unwrap_or_default();
        }
        let mut slices: HashMap<(&str, &str), Vec<Arc<EndpointSlice>>> = HashMap::with_capacity(objects.services.len());
        for slice in &objects.slices {
            if let Some(service) = slice.metadata.labels.get("kubernetes.io/service-name") {
                slices.entry((&slice.metadata.namespace, service)).or_default().push(slice.clone());
            }
        }
        let mut old = std::mem::take(&mut self.joined);
        let count = old.len();
        let mut changed = false;
        for service in &objects.services {
            let meta = &service.metadata;
            let ours = slices.remove(&(meta.namespace.as_str(), meta.name.as_str())).unwrap_or_default();
            let key = (meta.namespace.clone(), meta.name.clone());
            let kept = old.remove(&key).filter(|j| Arc::ptr_eq(&j.service, service) && same(&j.slices, &ours));
            let joined = kept.unwrap_or_else(|| {
                changed = true;
                let rules = services::rules(service, &ours, &self.node.name).map(Arc::new);
                let zone = Arc::new(services::zone(service, &ours));
                Joined { service: service.clone(), slices: ours, rules, zone }
            });
            self.joined.insert(key, joined);
        }
        changed |= count != self.joined.len();
        self.serial = self.serial.wrapping_add(u32::from(changed));
        changed
    }

    /// What [`ruleset::ruleset`] wants to know.
    pub fn inputs(&self, objects: &Objects) -> Inputs {
        let mut pods = Vec::new();
        let mut namespaces = BTreeMap::new();
        if !objects.policies.is_empty() {
            let (node, attached) = (&self.node.name, &objects.attached);
            pods.extend(objects.pods.iter().filter_map(|pod| pods::facts(pod, node, attached)).map(Arc::new));
            pods.extend(self.dns_pod().map(Arc::new));
            let metas = objects.namespaces.iter().map(|namespace| &namespace.metadata);
            namespaces = metas.map(|meta| (meta.name.clone(), meta.labels.clone())).collect();
        }
        let policies: Vec<Arc<Policy>> = objects.policies.iter().map(|policy| Arc::new(pods::policy(policy))).collect();
        let mut host_ports: Vec<HostPort> =
            objects.pods.iter().flat_map(|pod| pods::host_ports(pod, &self.node.name, &objects.attached)).collect();
        host_ports.sort_unstable();
        Inputs {
            node: self.node.clone(),
            services: self.joined.values().filter_map(|joined| joined.rules.clone()).collect(),
            host_ports,
            policies,
            pods,
            namespaces,
        }
    }

    /// Policies allow DNS by the labels of upstream's DNS pods, which the node's own server has none of:
    /// it counts as such a pod.
    fn dns_pod(&self) -> Option<PodFacts> {
        let ips = self.node.own_service_ips.clone();
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let port = |name: &str, protocol| (name.to_owned(), protocol, 53);
        (!ips.is_empty()).then(|| PodFacts {
            namespace: "kube-system".into(),
            name: "sampan-dns".into(),
            labels: [label("k8s-app", "kube-dns"), label("app.kubernetes.io/name", "coredns")].into(),
            ips,
            local: false,
            named_ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        })
    }

    /// What DNS answers from.
    pub fn zone(&self, domain: &str, objects: &Objects) -> Zone {
        let mut zone = Zone::new(domain, self.serial);
        zone.namespaces = objects.namespaces.iter().map(|namespace| namespace.metadata.name.clone()).collect();
        zone.services = self.joined.iter().map(|(key, joined)| (key.clone(), joined.zone.clone())).collect();
        for node in &objects.nodes {
            let ips = node_ips(node);
            if !ips.is_empty() {
                zone.hosts.insert(node.metadata.name.to_ascii_lowercase(), Host { ips });
            }
        }
        zone.index()
    }

    /// The other nodes that have a podCIDR and an address.
    pub fn peers(&self, objects: &Objects) -> Vec<Peer> {
        let peer = |node: &Arc<Node>| {
            let cidrs = match node.spec.pod_cidrs.as_slice() {
                [] => std::slice::from_ref(&node.spec.pod_cidr),
                all => all,
            };
            let pod_cidrs: Vec<Cidr> = cidrs.iter().filter_map(|text| text.parse().ok()).collect();
            let node_ips = node_ips(node);
            let complete = !pod_cidrs.is_empty() && !node_ips.is_empty() && node.metadata.name != self.node.name;
            complete.then(|| Peer { name: node.metadata.name.clone(), node_ips, pod_cidrs })
        };
        objects.nodes.iter().filter_map(peer).collect()
    }

    /// Services whose `healthCheckNodePort` this node answers: port, name, and how many endpoints are here.
    pub fn health_checks(&self) -> Vec<(u16, String, usize)> {
        let check = |joined: &Joined| {
            let rules = joined.rules.as_ref()?;
            let port = u16::try_from(joined.service.spec.health_check_node_port).ok().filter(|port| *port > 0)?;
            let endpoints = rules.ports.iter().flat_map(|port| &port.endpoints);
            let serving = endpoints.filter(|endpoint| endpoint.local && endpoint.ready);
            let mut local: Vec<IpAddr> = serving.map(|endpoint| endpoint.address).collect();
            local.sort_unstable();
            local.dedup();
            Some((port, rules.name.clone(), local.len()))
        };
        self.joined.values().filter_map(check).collect()
    }
}

/// A node's InternalIPs, in its own order.
pub fn node_ips(node: &Node) -> Vec<IpAddr> {
    let internal = node.status.addresses.iter().filter(|address| address.r#type == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}
