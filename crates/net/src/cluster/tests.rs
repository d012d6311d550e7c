//! Objects as the API has them, joined.

use schema::api::IntOrString;
use schema::api::core::v1::{Container, ContainerPort, NodeAddress, PodIP, ServicePort};
use schema::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use schema::api::meta::v1::LabelSelector;
use schema::api::networking::v1::{IPBlock, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort};

use super::*;
use crate::ruleset::tests::trace::{Fate, Packet, trace};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn objects() -> Objects {
    let mut service = Service::default();
    (service.metadata.namespace, service.metadata.name) = ("d".into(), "web".into());
    service.spec.cluster_ips = vec!["10.43.0.7".into()];
    service.spec.r#type = "LoadBalancer".into();
    service.spec.session_affinity = "ClientIP".into();
    service.spec.health_check_node_port = 31000;
    let port = ServicePort {
        name: "http".into(),
        protocol: "TCP".into(),
        port: 80,
        node_port: 30080,
        ..ServicePort::default()
    };
    service.spec.ports.push(port);
    let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
    slice.metadata.namespace = "d".into();
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), "web".into());
    slice.ports.push(EndpointPort { name: Some("http".into()), port: Some(8080), ..EndpointPort::default() });
    let endpoint = |address: &str, node: &str, ready| Endpoint {
        addresses: vec![address.into()],
        node_name: Some(node.into()),
        hostname: Some("web-0".into()),
        conditions: EndpointConditions { ready, ..EndpointConditions::default() },
        ..Endpoint::default()
    };
    slice.endpoints = vec![endpoint("10.42.0.2", "n1", None), endpoint("10.42.0.3", "n1", Some(false))];
    let node = |name: &str, address: &str, cidr: &str| {
        let mut node = Node::default();
        node.metadata.name = name.into();
        node.spec.pod_cidrs = vec![cidr.into()];
        let address = NodeAddress { r#type: "InternalIP".into(), address: address.into(), ..NodeAddress::default() };
        node.status.addresses = vec![address];
        Arc::new(node)
    };
    let mut pod = Pod::default();
    (pod.metadata.namespace, pod.metadata.name) = ("d".into(), "web".into());
    pod.metadata.labels.insert("app".into(), "web".into());
    pod.spec.node_name = "n1".into();
    pod.status.pod_ips = vec![PodIP { ip: "10.42.0.2".into(), ..PodIP::default() }];
    let container_port =
        ContainerPort { host_port: 9000, container_port: 8080, protocol: "TCP".into(), ..ContainerPort::default() };
    pod.spec.containers.push(Container { ports: vec![container_port], ..Container::default() });
    let mut namespace = Namespace::default();
    namespace.metadata.name = "d".into();
    Objects {
        services: vec![service.into()],
        slices: vec![slice.into()],
        pods: vec![pod.into()],
        namespaces: vec![namespace.into()],
        policies: vec![],
        attached: Attached::new(),
        nodes: vec![node("n1", "192.0.2.1", "10.42.0.0/24"), node("n2", "192.0.2.2", "10.42.1.0/24")],
    }
}

fn cluster() -> Cluster {
    let own_service_ips = vec![ip("10.43.0.10")];
    Cluster::new(ruleset::Node { name: "n1".into(), own_service_ips, ..ruleset::Node::default() })
}

#[test]
fn services_are_joined_once() {
    let (mut cluster, mut objects) = (cluster(), objects());
    assert!(cluster.update(&objects));
    assert!(!cluster.update(&objects), "nothing changed");
    let inputs = cluster.inputs(&objects);
    let service = &inputs.services[0];
    assert_eq!((service.name.as_str(), service.affinity_seconds), ("d/web", Some(10_800)));
    let endpoints: Vec<_> = service.ports[0].endpoints.iter().map(|e| (e.address, e.port, e.local, e.ready)).collect();
    assert_eq!(endpoints, [(ip("10.42.0.2"), 8080, true, true), (ip("10.42.0.3"), 8080, true, false)]);
    assert_eq!(inputs.host_ports.len(), 1);
    assert_eq!(cluster.health_checks(), [(31000, "d/web".to_owned(), 1)]);
    let peers = cluster.peers(&objects);
    assert_eq!((peers.len(), peers[0].name.as_str()), (1, "n2"));
    let zone = cluster.zone("cluster.local", &objects);
    assert_eq!(zone.names_of(ip("10.43.0.7")), ["web.d.svc.cluster.local"]);
    assert_eq!(zone.names_of(ip("10.42.0.2")), ["web-0.web.d.svc.cluster.local"]);
    assert_eq!(zone.hosts.len(), 2);

    // What is marked headless has names, but is not proxied to.
    let mut headless = (*objects.slices[0]).clone();
    headless.metadata.labels.insert("service.kubernetes.io/headless".into(), String::new());
    objects.slices = vec![headless.into()];
    assert!(cluster.update(&objects));
    assert!(cluster.inputs(&objects).services[0].ports[0].endpoints.is_empty());
    assert!(!cluster.zone("cluster.local", &objects).names_of(ip("10.42.0.2")).is_empty());

    objects.slices.clear();
    assert!(cluster.update(&objects));
    assert!(cluster.inputs(&objects).services[0].ports[0].endpoints.is_empty());
    for odd in ["None", "", "rubbish"] {
        let mut service = Service::clone(&objects.services[0]);
        service.spec.cluster_ips = vec![odd.into()];
        objects.services = vec![service.into()];
        assert!(cluster.update(&objects));
        assert!(cluster.inputs(&objects).services.is_empty(), "{odd}");
    }
    objects.services.clear();
    assert!(cluster.update(&objects));
}

/// What a policy with these peers and ports lets in to the pod, from 10.42.1.9 to port 80.
fn lets_in(peers: Vec<NetworkPolicyPeer>, ports: Vec<NetworkPolicyPort>) -> bool {
    let (mut cluster, mut objects) = (cluster(), objects());
    let mut policy = NetworkPolicy::default();
    (policy.metadata.namespace, policy.metadata.name) = ("d".into(), "p".into());
    policy.spec.ingress = vec![NetworkPolicyIngressRule { from: peers, ports, ..NetworkPolicyIngressRule::default() }];
    objects.policies.push(policy.into());
    cluster.update(&objects);
    let packet = Packet {
        source: ip("10.42.1.9"),
        destination: ip("10.42.0.2"),
        protocol: Protocol::Tcp,
        port: 80,
        from_node: false,
        random: 0,
    };
    let found = trace(&packet, &ruleset::ruleset(&cluster.inputs(&objects)).ruleset, &|_| false);
    found.fate == Fate::Forwarded
}

#[test]
fn policies_that_are_not_understood_let_nobody_in() {
    let block = |cidr: &str| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.into(), ..IPBlock::default() }),
        ..NetworkPolicyPeer::default()
    };
    let port = |protocol: &str, port, end_port| NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port,
        end_port,
        ..NetworkPolicyPort::default()
    };
    let mut expression = LabelSelector::default();
    expression.match_expressions.push(schema::api::meta::v1::LabelSelectorRequirement {
        key: "app".into(),
        operator: "Sometimes".into(),
        values: vec!["web".into()],
        ..Default::default()
    });
    let pods = |selector| NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() };
    let int = |n| Some(IntOrString::Int(n));
    for (name, peers, ports, wanted) in [
        ("everyone", vec![], vec![], true),
        ("a block", vec![block("10.42.0.0/16")], vec![], true),
        ("a broken block", vec![block("10.42.0.0")], vec![], false),
        ("a peer of nothing", vec![NetworkPolicyPeer::default()], vec![], false),
        ("an unknown operator", vec![pods(expression)], vec![], false),
        ("pods, of which it is none", vec![pods(LabelSelector::default())], vec![], false),
        ("the port", vec![], vec![port("TCP", int(80), None)], true),
        ("a range", vec![], vec![port("TCP", int(79), Some(81))], true),
        ("every port", vec![], vec![port("TCP", None, None)], true),
        ("another protocol", vec![], vec![port("UDP", int(80), None)], false),
        ("an unknown protocol", vec![], vec![port("X", int(80), None)], false),
    ] {
        assert_eq!(lets_in(peers, ports), wanted, "{name}");
    }
}
