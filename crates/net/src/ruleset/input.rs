//! What packet rules are computed from: the cluster's objects, parsed and joined.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Cidr, Protocol};

/// Everything that a node's rules follow from. Shared parts are `Arc`s, so that a change copies little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    pub node: Node,
    /// Sorted by name: of two that claim the same address and port the first one gets it.
    pub services: Vec<Arc<Service>>,
    pub host_ports: Vec<HostPort>,
    pub policies: Vec<Arc<Policy>>,
    /// Every pod with an address of its own that has not ended; host-network pods are not among them.
    pub pods: Vec<Arc<PodFacts>>,
    /// Labels of every namespace.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// `topology.kubernetes.io/zone`; empty if the node has none.
    pub zone: String,
    /// Where pods have their addresses (`--cluster-cidr`).
    pub cluster_cidrs: Vec<Cidr>,
    /// Where services have theirs (`--service-cidr`).
    pub service_cidrs: Vec<Cidr>,
    /// Service addresses that this node answers itself (DNS): no rule translates them.
    pub own_service_ips: Vec<IpAddr>,
    /// Networks whose local addresses accept NodePorts; empty means all local addresses.
    pub node_port_addresses: Vec<Cidr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// A Service that has cluster IPs, with its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` whose `ipMode` is VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty: everyone.
    pub source_ranges: Vec<Cidr>,
    pub external_traffic_policy: TrafficPolicy,
    pub internal_traffic_policy: TrafficPolicy,
    /// `ClientIP` affinity for this long.
    pub affinity_seconds: Option<u32>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// On this node.
    pub local: bool,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Hints; empty: none.
    pub for_zones: Vec<String>,
    pub for_nodes: Vec<String>,
}

/// One kind of address under which a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontendKind {
    ClusterIp,
    External,
    NodePort,
}

/// A container's hostPort on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `None`: every local address.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub pod_ip: IpAddr,
    pub container_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub ips: Vec<IpAddr>,
    /// On this node.
    pub local: bool,
    pub named_ports: Vec<(String, Protocol, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A `metav1.LabelSelector`: every requirement must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match requirement.operator {
                Operator::In => value.is_some_and(|v| requirement.values.contains(v)),
                Operator::NotIn => !value.is_some_and(|v| requirement.values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    pub pod_selector: Selector,
    /// `None`: the policy does not isolate in this direction.
    pub ingress: Option<Vec<PolicyRule>>,
    pub egress: Option<Vec<PolicyRule>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Empty: everyone.
    pub peers: Vec<Peer>,
    /// Empty: every port and protocol.
    pub ports: Vec<PolicyPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An `ipBlock`.
    Block { cidr: Cidr, except: Vec<Cidr> },
    /// `namespaces: None`: the policy's own namespace. `pods: None`: all of them.
    Pods { namespaces: Option<Selector>, pods: Option<Selector> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    pub protocol: Protocol,
    pub port: PortMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    All,
    /// Both ends included.
    Range(u16, u16),
    Named(String),
}
