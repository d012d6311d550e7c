//! ServiceLB: which node addresses a Service of type LoadBalancer has, with k3s' labels. No pods are needed, for
//! every node's rules serve every load balancer address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use schema::api::core::v1::{LoadBalancerIngress, Node, Pod, Service, ServicePort};
use schema::api::discovery::v1::EndpointSlice;
use schema::api::meta::v1::Condition;

use crate::ruleset::Protocol;

/// Only nodes with this label (`true`) serve, as soon as one node has it.
const ENABLE: &str = "svccontroller.k3s.cattle.io/enablelb";
/// A Service with this label is served by the nodes with the same value.
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The condition of a Service whose ports are taken.
pub const PORTS_ERROR: &str = "LoadBalancerPortsError";
const TAKEN: &str = "PortAlreadyInUse";
const FREE: &str = "PortsAvailable";

#[derive(Clone, Copy)]
pub struct Objects<'a> {
    pub services: &'a [Arc<Service>],
    pub nodes: &'a [Arc<Node>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// For their hostPorts.
    pub pods: &'a [Arc<Pod>],
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Services of this class are ours beside those without one.
    pub class: Option<String>,
    /// Ports on which nodes serve themselves (6443, 10250, …).
    pub reserved: BTreeSet<u16>,
}

/// A new status for a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub ingress: Vec<LoadBalancerIngress>,
    /// All conditions of the Service as they shall be; times are left to the caller where the status turned
    /// (`last_transition_time` zero).
    pub conditions: Vec<Condition>,
}

/// Who has a port of an address: older Services first, then by name.
type Claims = BTreeMap<(IpAddr, Protocol, u16), String>;

/// The Services whose status must change.
pub fn plan(objects: Objects<'_>, options: &Options) -> Vec<StatusPlan> {
    let mut services: Vec<&Arc<Service>> = objects.services.iter().collect();
    services.sort_by_key(|s| (s.metadata.creation_timestamp, s.metadata.namespace.clone(), s.metadata.name.clone()));
    let mut claims = host_port_claims(objects);
    let mut plans = Vec::new();
    for service in services {
        let wanted = if is_ours(service, options) {
            balance(service, objects, options, &mut claims)
        } else if service.spec.r#type != "LoadBalancer" && has_leftovers(service) {
            Wanted::default()
        } else {
            continue;
        };
        let ingress: Vec<LoadBalancerIngress> = wanted.ips.iter().map(ingress).collect();
        let conditions = conditions(service, &wanted);
        let status = &service.status;
        let same = status.load_balancer.ingress == ingress && status.conditions == conditions;
        if !same {
            let meta = &service.metadata;
            plans.push(StatusPlan {
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                ingress,
                conditions,
            });
        }
    }
    plans
}

#[derive(Default)]
struct Wanted {
    ips: Vec<IpAddr>,
    /// In words, one per taken port.
    taken: Vec<String>,
}

fn ingress(ip: &IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress { ip: ip.to_string(), ip_mode: Some("VIP".into()), ..LoadBalancerIngress::default() }
}

fn is_ours(service: &Service, options: &Options) -> bool {
    let class = service.spec.load_balancer_class.as_deref().filter(|class| !class.is_empty());
    service.spec.r#type == "LoadBalancer"
        && service.metadata.deletion_timestamp.is_none()
        && (class.is_none() || class == options.class.as_deref())
}

/// It was a load balancer once.
fn has_leftovers(service: &Service) -> bool {
    !service.status.load_balancer.ingress.is_empty()
        || service.status.conditions.iter().any(|c| c.r#type == PORTS_ERROR)
}

fn is_ready(node: &Node) -> bool {
    node.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
}

/// The nodes that serve a Service.
fn nodes_of<'a>(service: &Service, objects: Objects<'a>) -> Vec<&'a Arc<Node>> {
    let chosen = objects.nodes.iter().any(|node| node.metadata.labels.contains_key(ENABLE));
    let pool = service.metadata.labels.get(POOL);
    let local =
        (service.spec.external_traffic_policy == "Local").then(|| nodes_with_endpoints(service, objects.slices));
    let serves = |node: &&Arc<Node>| {
        let labels = &node.metadata.labels;
        let enabled = labels.get(ENABLE).map(String::as_str) == Some("true");
        is_ready(node)
            && (!chosen || enabled)
            && (pool.is_none() || labels.get(POOL) == pool)
            && (enabled || !labels.contains_key(EXCLUDE))
            && local.as_ref().is_none_or(|names| names.contains(node.metadata.name.as_str()))
    };
    objects.nodes.iter().filter(serves).collect()
}

fn nodes_with_endpoints<'a>(service: &Service, slices: &'a [Arc<EndpointSlice>]) -> BTreeSet<&'a str> {
    let meta = &service.metadata;
    let ours = slices.iter().filter(|slice| {
        slice.metadata.namespace == meta.namespace
            && slice.metadata.labels.get("kubernetes.io/service-name") == Some(&meta.name)
    });
    let endpoints = ours.flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}

fn addresses(nodes: &[&Arc<Node>], kind: &str, families: &[String]) -> BTreeSet<IpAddr> {
    let family = |ip: &IpAddr| {
        let name = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        families.is_empty() || families.iter().any(|family| family == name)
    };
    let all = nodes.iter().flat_map(|node| &node.status.addresses).filter(|address| address.r#type == kind);
    all.filter_map(|address| address.address.parse().ok()).filter(family).collect()
}

fn balance(service: &Service, objects: Objects<'_>, options: &Options, claims: &mut Claims) -> Wanted {
    let nodes = nodes_of(service, objects);
    let families = &service.spec.ip_families;
    let external = addresses(&nodes, "ExternalIP", families);
    let ips = if external.is_empty() { addresses(&nodes, "InternalIP", families) } else { external };
    let number = |port: &ServicePort| Some((Protocol::parse(&port.protocol)?, u16::try_from(port.port).ok()?));
    let ports: Vec<(Protocol, u16)> = service.spec.ports.iter().filter_map(number).collect();
    let name = format!("{}/{}", service.metadata.namespace, service.metadata.name);
    let mut wanted = Wanted::default();
    for ip in ips {
        let mut free = true;
        for (protocol, port) in &ports {
            let owner = if *protocol == Protocol::Tcp && options.reserved.contains(port) {
                Some("the node itself")
            } else {
                claims.get(&(ip, *protocol, *port)).map(String::as_str)
            };
            if let Some(owner) = owner {
                free = false;
                let protocol = format!("{protocol:?}").to_uppercase();
                wanted.taken.push(format!("{protocol} port {port} of {ip} is in use by {owner}"));
            }
        }
        if free {
            claims.extend(ports.iter().map(|(protocol, port)| ((ip, *protocol, *port), name.clone())));
            wanted.ips.push(ip);
        }
    }
    wanted
}

/// Pods' hostPorts take ports of their node's addresses.
fn host_port_claims(objects: Objects<'_>) -> Claims {
    let mut claims = Claims::new();
    for pod in objects.pods {
        let ended = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let mut ports = pod.spec.containers.iter().flat_map(|c| &c.ports).filter(|p| p.host_port > 0).peekable();
        if ended || ports.peek().is_none() {
            continue;
        }
        let node: Vec<&Arc<Node>> = objects.nodes.iter().filter(|n| n.metadata.name == pod.spec.node_name).collect();
        let mut ips = addresses(&node, "InternalIP", &[]);
        ips.extend(addresses(&node, "ExternalIP", &[]));
        for port in ports {
            let (Some(protocol), Ok(number)) = (Protocol::parse(&port.protocol), u16::try_from(port.host_port)) else {
                continue;
            };
            let bound: Option<IpAddr> = port.host_ip.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
            for ip in ips.iter().filter(|ip| bound.is_none_or(|bound| bound == **ip)) {
                let owner = format!("pod {}/{}", pod.metadata.namespace, pod.metadata.name);
                claims.insert((*ip, protocol, number), owner);
            }
        }
    }
    claims
}

/// The Service's conditions with ours as it shall be: present while a port is taken, and false once it was.
fn conditions(service: &Service, wanted: &Wanted) -> Vec<Condition> {
    let mut conditions = service.status.conditions.clone();
    let at = conditions.iter().position(|c| c.r#type == PORTS_ERROR);
    if service.spec.r#type != "LoadBalancer" {
        conditions.retain(|c| c.r#type != PORTS_ERROR);
        return conditions;
    }
    let (status, reason) = if wanted.taken.is_empty() { ("False", FREE) } else { ("True", TAKEN) };
    match at.and_then(|at| conditions.get_mut(at)) {
        None if wanted.taken.is_empty() => {}
        None => conditions.push(Condition {
            r#type: PORTS_ERROR.into(),
            status: status.into(),
            observed_generation: service.metadata.generation,
            reason: reason.into(),
            message: wanted.taken.join("; "),
            ..Condition::default()
        }),
        Some(condition) => {
            if condition.status != status {
                condition.last_transition_time = Default::default();
                condition.observed_generation = service.metadata.generation;
            }
            condition.status = status.into();
            condition.reason = reason.into();
            condition.message = wanted.taken.join("; ");
        }
    }
    conditions
}

#[cfg(test)]
mod tests;
