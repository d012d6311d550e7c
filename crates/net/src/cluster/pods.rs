//! Pods and NetworkPolicies, as the rules see them.

use std::net::IpAddr;

use schema::api::IntOrString;
use schema::api::core::v1::{Container, Pod};
use schema::api::meta::v1::LabelSelector;
use schema::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};

use super::Attached;
use crate::ruleset::{
    Cidr, HostPort, Operator, Peer, PodFacts, Policy, PolicyPort, PolicyRule, PortMatch, Protocol, Requirement,
    Selector,
};

/// The addresses of a pod that has its own network and has not ended; `attached` has those that its status
/// does not tell yet.
fn ips(pod: &Pod, attached: &Attached) -> Vec<IpAddr> {
    let ended = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    if pod.spec.host_network || ended {
        return Vec::new();
    }
    match pod.status.pod_ips.as_slice() {
        [] => match pod.status.pod_ip.parse() {
            Ok(ip) => vec![ip],
            Err(_) => attached.get(&pod.metadata.uid).cloned().unwrap_or_default(),
        },
        all => all.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
    }
}

/// Containers that run as long as the pod does.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    sidecars.chain(&pod.spec.containers)
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// `None`: the pod has no address that a rule could name.
pub fn facts(pod: &Pod, node: &str, attached: &Attached) -> Option<PodFacts> {
    let ips = ips(pod, attached);
    if ips.is_empty() {
        return None;
    }
    let named = containers(pod).flat_map(|c| &c.ports).filter(|port| !port.name.is_empty());
    Some(PodFacts {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        labels: pod.metadata.labels.clone(),
        ips,
        local: pod.spec.node_name == node,
        named_ports: named
            .filter_map(|port| {
                Some((port.name.clone(), Protocol::parse(&port.protocol)?, number(port.container_port)?))
            })
            .collect(),
    })
}

/// The hostPorts of a pod on this node.
pub fn host_ports(pod: &Pod, node: &str, attached: &Attached) -> Vec<HostPort> {
    let wanted = containers(pod).flat_map(|c| &c.ports).filter(|port| port.host_port > 0);
    if pod.spec.node_name != node {
        return Vec::new();
    }
    let ips = ips(pod, attached);
    let mut all = Vec::new();
    for port in wanted {
        let host_ip: Option<IpAddr> = port.host_ip.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
        let numbers = number(port.host_port).zip(number(port.container_port));
        let (Some(protocol), Some((host_port, container_port))) = (Protocol::parse(&port.protocol), numbers) else {
            continue;
        };
        for pod_ip in ips.iter().filter(|ip| host_ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4())) {
            all.push(HostPort { host_ip, host_port, protocol, pod_ip: *pod_ip, container_port });
        }
    }
    all
}

pub fn selector(selector: &LabelSelector) -> Selector {
    let labels = selector.match_labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    });
    let expressions = selector.match_expressions.iter().map(|expression| {
        let operator = match expression.operator.as_str() {
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => Operator::In,
        };
        // An operator that we don't know matches nothing: `In` without values.
        let values =
            if expression.operator == "In" || operator == Operator::NotIn { expression.values.clone() } else { vec![] };
        Requirement { key: expression.key.clone(), operator, values }
    });
    Selector(labels.chain(expressions).collect())
}

pub fn policy(policy: &NetworkPolicy) -> Policy {
    let spec = &policy.spec;
    let isolates = |direction: &str| spec.policy_types.iter().any(|kind| kind == direction);
    // What the API server fills in where nothing is said.
    let ingress = isolates("Ingress") || spec.policy_types.is_empty();
    let egress = isolates("Egress") || spec.policy_types.is_empty() && !spec.egress.is_empty();
    Policy {
        namespace: policy.metadata.namespace.clone(),
        name: policy.metadata.name.clone(),
        pod_selector: selector(&spec.pod_selector),
        ingress: ingress.then(|| spec.ingress.iter().map(|r| rule(&r.from, &r.ports)).collect()),
        egress: egress.then(|| spec.egress.iter().map(|r| rule(&r.to, &r.ports)).collect()),
    }
}

fn rule(peers: &[NetworkPolicyPeer], ports: &[NetworkPolicyPort]) -> PolicyRule {
    let mut rule =
        PolicyRule { peers: peers.iter().map(peer).collect(), ports: ports.iter().filter_map(port).collect() };
    if rule.ports.is_empty() && !ports.is_empty() {
        // None that we understand: no port, never every one.
        rule.peers = vec![nobody()];
    }
    rule
}

fn nobody() -> Peer {
    let never = Requirement { key: String::new(), operator: Operator::In, values: vec![] };
    Peer::Pods { namespaces: None, pods: Some(Selector(vec![never])) }
}

/// A peer that says nothing we understand is nobody (never everybody).
fn peer(peer: &NetworkPolicyPeer) -> Peer {
    if let Some(block) = &peer.ip_block
        && let Ok(cidr) = block.cidr.parse::<Cidr>()
    {
        return Peer::Block { cidr, except: block.except.iter().filter_map(|text| text.parse().ok()).collect() };
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return nobody();
    }
    Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(selector),
        pods: peer.pod_selector.as_ref().map(selector),
    }
}

fn port(port: &NetworkPolicyPort) -> Option<PolicyPort> {
    let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or_default())?;
    let port = match (&port.port, port.end_port) {
        (None, _) => PortMatch::All,
        (Some(IntOrString::String(name)), _) => PortMatch::Named(name.clone()),
        (Some(IntOrString::Int(from)), end) => {
            let from = u16::try_from(*from).ok()?;
            PortMatch::Range(from, end.and_then(|end| u16::try_from(end).ok()).unwrap_or(from).max(from))
        }
    };
    Some(PolicyPort { protocol, port })
}
