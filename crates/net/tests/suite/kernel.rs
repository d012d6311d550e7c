//! Pods, services and policies between real sockets.

use std::net::IpAddr;

use net::{
    io::{Backend, Net, Options},
    ruleset::{Cidr, Endpoint, Inputs, Node, Protocol, Service, ServicePort, ruleset},
};

use crate::lab::{Directory, Space, root};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// A node 192.0.2.1 (2001:db8::1) with pods, and a client 192.0.2.2 on its network.
pub struct Lab {
    pub client: Space,
    pub node: Space,
    pub pods: Vec<Space>,
    pub net: Net,
    directory: Directory,
}

pub fn options(directory: &Directory) -> Options {
    Options {
        address_directory: directory.0.join("ips"),
        pod_cidrs: vec![cidr("10.42.0.0/24"), cidr("fd00:42::/64")],
        service_cidrs: vec![cidr("10.43.0.0/16"), cidr("fd00:43::/112")],
        node_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        backend: Backend::None,
        mtu: None,
        own_service_ips: vec![ip("10.43.0.10")],
    }
}

impl Lab {
    pub fn new(pods: usize) -> Lab {
        let directory = Directory::new();
        let (client, node) = (Space::new(&directory, "client"), Space::new(&directory, "node"));
        node.run(|| {
            let mut links = net::io::link::Links::open().unwrap();
            let other = net::io::netns::Netns::open(&client.path).unwrap();
            let end = |mac| net::io::link::End { name: "up0", mac };
            assert!(links.add_veth(end([2, 0, 0, 0, 0, 1]), end([2, 0, 0, 0, 0, 2]), other.fd(), 1500).unwrap());
        });
        node.command("ip addr add 192.0.2.1/24 dev up0; ip -6 addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up; ip link set lo up");
        client.command(
            "ip addr add 192.0.2.2/24 dev up0; ip -6 addr add 2001:db8::2/64 dev up0 nodad; ip link set up0 up; ip link set lo up; \
             ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1",
        );
        let net = node.run(|| Net::open(options(&directory)).unwrap());
        let pods: Vec<Space> = (0..pods).map(|n| Space::new(&directory, &format!("pod{n}"))).collect();
        let lab = Lab { client, node, pods, net, directory };
        for n in 0..lab.pods.len() {
            let address = lab.attach(n);
            assert_eq!((address.ipv4, address.ipv6), (Some(lab.pod_ip(n)), Some(lab.pod_ip6(n))));
        }
        lab
    }

    pub fn attach(&self, n: usize) -> net::io::PodAddress {
        self.node.run(|| self.net.attach_pod(&self.pods[n].path, &format!("uid-{n}")).unwrap())
    }

    pub fn pod_ip(&self, n: usize) -> IpAddr {
        ip(&format!("10.42.0.{}", n + 2))
    }

    pub fn pod_ip6(&self, n: usize) -> IpAddr {
        ip(&format!("fd00:42::{}", n + 2))
    }

    pub fn reopen(&mut self) {
        self.net = self.node.run(|| Net::open(options(&self.directory)).unwrap());
    }
}

pub fn inputs() -> Inputs {
    Inputs {
        node: Node {
            name: "node".into(),
            cluster_cidrs: vec![cidr("10.42.0.0/16"), cidr("fd00:42::/56")],
            service_cidrs: vec![cidr("10.43.0.0/16"), cidr("fd00:43::/112")],
            own_service_ips: vec![ip("10.43.0.10")],
            ..Node::default()
        },
        ..Inputs::default()
    }
}

pub fn endpoint(address: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        address,
        port,
        local: true,
        ready: true,
        serving: true,
        terminating: false,
        for_zones: vec![],
        for_nodes: vec![],
    }
}

pub fn service(name: &str, ips: &[&str], protocol: Protocol, endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: name.into(),
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: vec![ServicePort { name: "p".into(), protocol, port: 80, node_port: None, endpoints }],
        ..Service::default()
    }
}

#[test]
fn pods_reach_each_other_and_cluster_ips() {
    if !root() {
        return;
    }
    let lab = Lab::new(2);
    for n in 0..2 {
        lab.pods[n].serve_tcp((ip("0.0.0.0"), 8080), &format!("pod{n}"));
        lab.pods[n].serve_tcp((lab.pod_ip6(n), 8080), &format!("pod{n}"));
    }
    assert_eq!(lab.pods[0].tcp((lab.pod_ip(1), 8080)), "pod1 10.42.0.2");
    assert_eq!(lab.pods[0].tcp((lab.pod_ip6(1), 8080)), "pod1 fd00:42::2");
    assert_eq!(lab.client.tcp((lab.pod_ip(1), 8080)), "pod1 192.0.2.2");
    let mut inputs = inputs();
    let endpoints = vec![endpoint(lab.pod_ip(1), 8080), endpoint(lab.pod_ip6(1), 8080)];
    inputs.services.push(service("d/a", &["10.43.0.1", "fd00:43::1"], Protocol::Tcp, endpoints).into());
    let rules = ruleset(&inputs).ruleset;
    lab.net.apply(&rules).unwrap();
    println!("{}", lab.node.command("nft list ruleset"));
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.1"), 80)), "pod1 10.42.0.2");
    assert_eq!(lab.pods[0].tcp((ip("fd00:43::1"), 80)), "pod1 fd00:42::2");
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.1"), 81)), "refused");
}
