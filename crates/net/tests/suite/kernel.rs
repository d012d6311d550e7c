//! Pods, services and policies between real sockets.

use std::net::IpAddr;

use net::io::{Backend, Net, Options};
use net::ruleset::{
    Cidr, Endpoint, HostPort, Inputs, Node, Peer as PolicyPeer, PodFacts, Policy, PolicyPort, PolicyRule, PortMatch,
    Protocol, Selector, Service, ServicePort, State, TrafficPolicy, ruleset,
};

use crate::lab::{Directory, Space, ask, root};

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
        own_service_ips: vec![ip("10.43.0.10"), ip("fd00:43::a")],
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
        for space in [&client, &node] {
            space.wait_for("ip link show up0 | grep -q 'state UP'");
        }
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
            own_service_ips: vec![ip("10.43.0.10"), ip("fd00:43::a")],
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
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.1"), 80)), "pod1 10.42.0.2");
    assert_eq!(lab.pods[0].tcp((ip("fd00:43::1"), 80)), "pod1 fd00:42::2");
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.1"), 81)), "refused");
    // The node's own service address, as DNS has it.
    for own in ["10.43.0.10", "fd00:43::a"] {
        lab.node.serve_udp((ip(own), 53), "dns");
    }
    assert_eq!(ask(&lab.pods[0].udp_socket(), (ip("10.43.0.10"), 53)), "dns 10.42.0.2");
    assert_eq!(ask(&lab.node.udp_socket(), (ip("10.43.0.10"), 53)), "dns 10.43.0.10");
    let socket = lab.pods[0].run(|| std::net::UdpSocket::bind("[::]:0").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    assert_eq!(ask(&socket, (ip("fd00:43::a"), 53)), "dns fd00:42::2");
}

fn apply(lab: &Lab, inputs: &Inputs) -> usize {
    let built = ruleset(inputs);
    assert_eq!(built.conflicts, Vec::<String>::new());
    lab.net.apply(&built.ruleset).unwrap().changes
}

#[test]
fn every_kind_of_frontend() {
    if !root() {
        return;
    }
    let lab = Lab::new(2);
    for n in 0..2 {
        lab.pods[n].serve_tcp((ip("0.0.0.0"), 8080), &format!("pod{n}"));
    }
    let mut inputs = inputs();
    let both = [endpoint(lab.pod_ip(0), 8080), endpoint(lab.pod_ip(1), 8080)];
    let mut web = service("d/web", &["10.43.0.1"], Protocol::Tcp, both[1..].to_vec());
    web.ports[0].node_port = Some(30080);
    web.external_ips = vec![ip("203.0.113.1")];
    web.load_balancer_ips = vec![ip("192.0.2.1")];
    let mut local = service("d/local", &["10.43.0.2"], Protocol::Tcp, both[1..].to_vec());
    local.ports[0].node_port = Some(30081);
    local.external_traffic_policy = TrafficPolicy::Local;
    let mut far = service("d/far", &["10.43.0.3"], Protocol::Tcp, vec![Endpoint { local: false, ..both[1].clone() }]);
    far.ports[0].node_port = Some(30082);
    far.external_traffic_policy = TrafficPolicy::Local;
    let mut ranged = service("d/ranged", &["10.43.0.4"], Protocol::Tcp, both[1..].to_vec());
    ranged.load_balancer_ips = vec![ip("203.0.113.2")];
    ranged.source_ranges = vec![cidr("198.51.100.0/24"), cidr("10.42.0.2/32")];
    let mut empty = service("d/empty", &["10.43.0.5"], Protocol::Tcp, vec![]);
    empty.ports[0].node_port = Some(30083);
    let itself = service("d/self", &["10.43.0.6"], Protocol::Tcp, both[..1].to_vec());
    inputs.services = [web, local, far, ranged, empty, itself].map(Into::into).to_vec();
    inputs.host_ports = vec![HostPort {
        host_ip: None,
        host_port: 9090,
        protocol: Protocol::Tcp,
        pod_ip: lab.pod_ip(1),
        container_port: 8080,
    }];
    apply(&lab, &inputs);

    let (pod, client, node) = (&lab.pods[0], &lab.client, &lab.node);
    for (name, from, to, wanted) in [
        ("ClusterIP from a pod", pod, ("10.43.0.1", 80), "pod1 10.42.0.2"),
        ("ClusterIP from outside", client, ("10.43.0.1", 80), "pod1 192.0.2.1"),
        ("ClusterIP from the node", node, ("10.43.0.1", 80), "pod1 192.0.2.1"),
        ("NodePort from outside", client, ("192.0.2.1", 30080), "pod1 192.0.2.1"),
        ("NodePort from a pod", pod, ("192.0.2.1", 30080), "pod1 10.42.0.2"),
        ("NodePort on localhost", node, ("127.0.0.1", 30080), "pod1 192.0.2.1"),
        ("externalIP", client, ("203.0.113.1", 80), "pod1 192.0.2.1"),
        ("node address as load balancer", client, ("192.0.2.1", 80), "pod1 192.0.2.1"),
        ("Local keeps the client's address", client, ("192.0.2.1", 30081), "pod1 192.0.2.2"),
        ("Local without local endpoints", client, ("192.0.2.1", 30082), "timeout"),
        ("Local from a pod goes anywhere", pod, ("192.0.2.1", 30082), "pod1 10.42.0.2"),
        ("outside of the source ranges", client, ("203.0.113.2", 80), "timeout"),
        ("inside of the source ranges", pod, ("203.0.113.2", 80), "pod1 10.42.0.2"),
        ("no endpoints, pod", pod, ("10.43.0.5", 80), "refused"),
        ("no endpoints, node", node, ("10.43.0.5", 80), "refused"),
        ("no endpoints, outside", client, ("192.0.2.1", 30083), "refused"),
        ("no such port", node, ("10.43.0.5", 81), "refused"),
        ("unused ClusterIP", pod, ("10.43.9.9", 80), "timeout"),
        ("hairpin", pod, ("10.43.0.6", 80), "pod0 192.0.2.1"),
        ("hostPort from outside", client, ("192.0.2.1", 9090), "pod1 192.0.2.2"),
        ("hostPort on localhost", node, ("127.0.0.1", 9090), "pod1 192.0.2.1"),
        ("127.0.0.1 from a wire", client, ("127.0.0.1", 30080), "refused"),
    ] {
        assert_eq!(from.tcp((ip(to.0), to.1)), wanted, "{name}");
    }
    // A pod to the world is masqueraded.
    lab.client.serve_tcp((ip("192.0.2.2"), 7070), "client");
    assert_eq!(pod.tcp((ip("192.0.2.2"), 7070)), "client 192.0.2.1");
}

#[test]
fn affinity_balance_and_udp() {
    if !root() {
        return;
    }
    let lab = Lab::new(3);
    for n in 0..3 {
        lab.pods[n].serve_tcp((ip("0.0.0.0"), 8080), &format!("pod{n}"));
        lab.pods[n].serve_udp((ip("0.0.0.0"), 5353), &format!("pod{n}"));
    }
    let all = |port: u16| (0..3).map(|n| endpoint(lab.pod_ip(n), port)).collect::<Vec<_>>();
    let mut inputs = inputs();
    let mut sticky = service("d/sticky", &["10.43.0.2"], Protocol::Tcp, all(8080));
    sticky.affinity_seconds = Some(600);
    let spread = service("d/spread", &["10.43.0.3"], Protocol::Tcp, all(8080));
    let udp = service("d/udp", &["10.43.0.4"], Protocol::Udp, all(5353)[..1].to_vec());
    inputs.services = [sticky.clone(), spread, udp.clone()].map(Into::into).to_vec();
    apply(&lab, &inputs);

    let names: std::collections::BTreeSet<String> = (0..40).map(|_| lab.client.tcp((ip("10.43.0.3"), 80))).collect();
    assert_eq!(names.len(), 3, "{names:?}");

    let first = lab.client.tcp((ip("10.43.0.2"), 80));
    for _ in 0..10 {
        assert_eq!(lab.client.tcp((ip("10.43.0.2"), 80)), first);
    }
    // Its endpoint goes: another one is chosen, and kept.
    let gone: usize = first[3..4].parse().unwrap();
    sticky.ports[0].endpoints.remove(gone);
    inputs.services[0] = sticky.into();
    apply(&lab, &inputs);
    let second = lab.client.tcp((ip("10.43.0.2"), 80));
    assert!(second.starts_with("pod") && second != first, "{second}");
    for _ in 0..10 {
        assert_eq!(lab.client.tcp((ip("10.43.0.2"), 80)), second);
    }

    // A client that keeps its socket moves with the endpoint.
    let socket = lab.client.udp_socket();
    assert_eq!(ask(&socket, (ip("10.43.0.4"), 80)), "pod0 192.0.2.1");
    let mut moved = udp;
    moved.ports[0].endpoints = all(5353)[2..].to_vec();
    inputs.services[2] = moved.into();
    let applied = lab.net.apply(&ruleset(&inputs).ruleset).unwrap();
    assert_eq!(applied.forgotten, 1);
    assert_eq!(ask(&socket, (ip("10.43.0.4"), 80)), "pod2 192.0.2.1");
}

#[test]
fn policies() {
    if !root() {
        return;
    }
    let lab = Lab::new(3);
    for n in 0..3 {
        lab.pods[n].serve_tcp((ip("0.0.0.0"), 8080), &format!("pod{n}"));
        lab.pods[n].serve_tcp((ip("0.0.0.0"), 8081), &format!("pod{n}"));
    }
    lab.node.serve_tcp((ip("192.0.2.1"), 6443), "node");
    let pod = |n: usize| PodFacts {
        namespace: "d".into(),
        name: format!("pod{n}"),
        labels: [("n".to_owned(), n.to_string())].into(),
        ips: vec![lab.pod_ip(n)],
        local: true,
        named_ports: vec![("http".into(), Protocol::Tcp, 8080)],
    };
    let select = |n: usize| {
        Selector(vec![net::ruleset::Requirement {
            key: "n".into(),
            operator: net::ruleset::Operator::In,
            values: vec![n.to_string()],
        }])
    };
    let mut inputs = inputs();
    inputs.pods = (0..3).map(|n| pod(n).into()).collect();
    inputs.namespaces = [("d".to_owned(), Default::default())].into();
    inputs.policies.push(
        Policy {
            namespace: "d".into(),
            name: "to-1".into(),
            pod_selector: select(1),
            ingress: Some(vec![
                PolicyRule {
                    peers: vec![PolicyPeer::Pods { namespaces: None, pods: Some(select(0)) }],
                    ports: vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Named("http".into()) }],
                },
                PolicyRule {
                    peers: vec![PolicyPeer::Block { cidr: cidr("192.0.2.0/24"), except: vec![cidr("192.0.2.3/32")] }],
                    ports: vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Range(8081, 8090) }],
                },
            ]),
            egress: Some(vec![]),
        }
        .into(),
    );
    apply(&lab, &inputs);
    for (name, from, to, wanted) in [
        ("allowed pod and port", &lab.pods[0], (lab.pod_ip(1), 8080), "pod1 10.42.0.2"),
        ("allowed pod, another port", &lab.pods[0], (lab.pod_ip(1), 8081), "timeout"),
        ("another pod", &lab.pods[2], (lab.pod_ip(1), 8080), "timeout"),
        ("allowed block", &lab.client, (lab.pod_ip(1), 8081), "pod1 192.0.2.2"),
        ("allowed block, another port", &lab.client, (lab.pod_ip(1), 8080), "timeout"),
        ("the node itself", &lab.node, (lab.pod_ip(1), 8081), "pod1 192.0.2.1"),
        ("no way out", &lab.pods[1], (lab.pod_ip(0), 8080), "timeout"),
        ("no way out to the node", &lab.pods[1], (ip("192.0.2.1"), 6443), "timeout"),
        ("unselected pods are free", &lab.pods[0], (lab.pod_ip(2), 8080), "pod2 10.42.0.2"),
    ] {
        assert_eq!(from.tcp(to), wanted, "{name}");
    }
    inputs.policies.clear();
    apply(&lab, &inputs);
    assert_eq!(lab.pods[1].tcp((lab.pod_ip(2), 8080)), "pod2 10.42.0.3");
}

#[test]
fn a_restart_finds_everything_and_repairs_what_others_did() {
    if !root() {
        return;
    }
    let mut lab = Lab::new(2);
    lab.pods[1].serve_tcp((ip("0.0.0.0"), 8080), "pod1");
    let mut inputs = inputs();
    let mut web = service("d/a", &["10.43.0.1"], Protocol::Tcp, vec![endpoint(lab.pod_ip(1), 8080)]);
    web.affinity_seconds = Some(60);
    web.load_balancer_ips = vec![ip("203.0.113.2")];
    web.source_ranges = vec![cidr("198.51.100.0/24")];
    inputs.services.push(web.into());
    inputs.namespaces = [("d".to_owned(), Default::default())].into();
    let pod = PodFacts { namespace: "d".into(), ips: vec![lab.pod_ip(0)], local: true, ..PodFacts::default() };
    inputs.pods.push(pod.into());
    inputs.policies.push(
        Policy {
            namespace: "d".into(),
            name: "p".into(),
            pod_selector: Selector::default(),
            ingress: Some(vec![PolicyRule {
                peers: vec![PolicyPeer::Block { cidr: cidr("0.0.0.0/0"), except: vec![cidr("10.0.0.0/9")] }],
                ports: vec![],
            }]),
            egress: None,
        }
        .into(),
    );
    assert!(apply(&lab, &inputs) > 0);
    let rules = ruleset(&inputs).ruleset;
    let read = lab.node.run(|| net::io::nft::Nft::open().unwrap().read().unwrap());
    assert_eq!(net::ruleset::diff(&read, &rules).0, []);
    assert!(read.sets == State::from(&rules).sets && read.chains == State::from(&rules).chains);

    lab.node.command(
        "nft add table inet other; nft 'add chain inet other f { type filter hook forward priority 10; policy drop; }'; nft 'add chain inet other i { type filter hook input priority 10; }'; \
         nft add rule inet other i ct state established accept; nft add rule inet other i counter reject with icmpx admin-prohibited; \
         nft 'add chain inet other ok { type filter hook input priority 20; }'; nft add rule inet other ok tcp dport 9 drop",
    );
    lab.reopen();
    assert_eq!(lab.net.reconcile(&["uid-0".into(), "uid-1".into()]).unwrap(), 0);
    assert_eq!(lab.attach(0).ipv4, Some(lab.pod_ip(0)));
    assert_eq!(apply(&lab, &inputs), 0, "nothing differs");
    let drops: Vec<String> = lab.net.foreign_drops().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        drops,
        [
            "chain f of nftables table inet other drops by default at hook forward",
            "chain i of nftables table inet other drops by a rule for everything at hook input",
        ]
    );
    lab.node.command("nft delete table inet other");

    lab.node.command("nft flush chain inet sampan service-4; nft delete element inet sampan endpoints4 '{ 10.43.0.1 . tcp . 80 . 0x0 }'");
    assert_ne!(lab.pods[0].tcp((ip("10.43.0.1"), 80)), "pod1 10.42.0.2");
    lab.net.distrust();
    assert!(apply(&lab, &inputs) > 0);
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.1"), 80)), "pod1 10.42.0.2");
    // Even without being told: what fails is looked at and done again.
    lab.node.command("nft delete table inet sampan");
    inputs.services.push(service("d/b", &["10.43.0.2"], Protocol::Tcp, vec![endpoint(lab.pod_ip(1), 8080)]).into());
    assert!(apply(&lab, &inputs) > 0);
    assert_eq!(lab.pods[0].tcp((ip("10.43.0.2"), 80)), "pod1 10.42.0.2");

    // A pod that is gone leaves nothing.
    assert_eq!(lab.net.reconcile(&["uid-1".into()]).unwrap(), 1);
    assert!(!lab.net.attached().contains_key("uid-0"));
    assert!(!lab.node.command("ip link; ip route").contains("10.42.0.2"));
    lab.net.detach_pod("uid-1").unwrap();
    lab.net.detach_pod("uid-1").unwrap();
    assert!(!lab.node.command("ip -6 route; ip route").contains("spn"));
    lab.net.remove_table().unwrap();
    lab.net.remove_table().unwrap();
    assert_eq!(lab.node.command("nft list ruleset"), "");
}

#[test]
fn two_nodes_over_vxlan_and_plain_routes() {
    if !root() {
        return;
    }
    let directory = Directory::new();
    let spaces = [Space::new(&directory, "a"), Space::new(&directory, "b")];
    let pods = [Space::new(&directory, "pa"), Space::new(&directory, "pb")];
    spaces[0].run(|| {
        let mut links = net::io::link::Links::open().unwrap();
        let other = net::io::netns::Netns::open(&spaces[1].path).unwrap();
        let end = |mac| net::io::link::End { name: "up0", mac };
        links.add_veth(end([2, 0, 0, 0, 0, 1]), end([2, 0, 0, 0, 0, 2]), other.fd(), 1500).unwrap();
    });
    for (n, space) in spaces.iter().enumerate() {
        space.command(&format!(
            "ip addr add 192.0.2.{0}/24 dev up0; ip -6 addr add 2001:db8::{0}/64 dev up0 nodad; echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad; ip link set up0 up",
            n + 1
        ));
    }
    for space in &spaces {
        // Neighbours are asked for from a link-local address.
        space.wait_for("ip -6 addr show dev up0 scope link -tentative | grep -q fe80");
    }
    let node_ips = |n: usize| vec![ip(&format!("192.0.2.{}", n + 1)), ip(&format!("2001:db8::{}", n + 1))];
    let cidrs = |n: usize| vec![cidr(&format!("10.42.{n}.0/24")), cidr(&format!("fd00:42:0:{n}::/64"))];
    for (backend, mtu) in [(Backend::Vxlan { vni: 1, port: 8472 }, 1450), (Backend::HostGw, 1500)] {
        let nets: Vec<Net> = (0..2)
            .map(|n| {
                let options = Options {
                    address_directory: directory.0.join(format!("ips{n}")),
                    pod_cidrs: cidrs(n),
                    node_ips: node_ips(n),
                    backend,
                    own_service_ips: vec![],
                    ..options(&directory)
                };
                spaces[n].run(|| Net::open(options).unwrap())
            })
            .collect();
        for (n, net) in nets.iter().enumerate() {
            assert_eq!(net.mtu(), mtu);
            let peer = net::io::Peer { name: "x".into(), node_ips: node_ips(1 - n), pod_cidrs: cidrs(1 - n) };
            net.set_peers(std::slice::from_ref(&peer)).unwrap();
            net.set_peers(&[peer]).unwrap();
            spaces[n].run(|| net.attach_pod(&pods[n].path, "p").unwrap());
        }
        if backend != Backend::HostGw {
            pods[1].serve_tcp((ip("10.42.1.2"), 80), "there");
            pods[1].serve_tcp((ip("fd00:42:0:1::2"), 80), "there");
        }
        assert_eq!(pods[0].tcp((ip("10.42.1.2"), 80)), "there 10.42.0.2", "{backend:?}");
        assert_eq!(pods[0].tcp((ip("fd00:42:0:1::2"), 80)), "there fd00:42::2", "{backend:?}");
        assert!(spaces[0].tcp((ip("10.42.1.2"), 80)).starts_with("there "), "{backend:?}");
        for net in &nets {
            net.set_peers(&[]).unwrap();
        }
        assert_eq!(pods[0].tcp((ip("10.42.1.2"), 80)).split(' ').next(), Some("Network"), "{backend:?}");
    }
}

#[test]
fn an_agent_follows_the_objects() {
    if !root() {
        return;
    }
    use schema::api::{
        core::v1::{Namespace, ServicePort as ApiPort},
        discovery::v1::{Endpoint as ApiEndpoint, EndpointPort, EndpointSlice},
    };
    let lab = Lab::new(2);
    lab.pods[1].serve_tcp((ip("0.0.0.0"), 8080), "pod1");
    let Lab { client, node: space, pods, net, directory } = lab;
    let net = std::sync::Arc::new(net);
    let node = Node { name: "n".into(), ..inputs().node };
    let (mut agent, zone) = net::io::Agent::new(net.clone(), node, "cluster.local");
    assert!(zone.borrow().is_none());
    let mut objects = net::cluster::Objects { attached: net.attached(), ..net::cluster::Objects::default() };
    let mut service = schema::api::core::v1::Service::default();
    (service.metadata.namespace, service.metadata.name) = ("d".into(), "web".into());
    service.spec.cluster_ips = vec!["10.43.0.7".into()];
    service.spec.ports.push(ApiPort { protocol: "TCP".into(), port: 80, ..ApiPort::default() });
    objects.services.push(service.into());
    let mut namespace = Namespace::default();
    namespace.metadata.name = "d".into();
    objects.namespaces.push(namespace.into());
    assert!(agent.step(&objects).unwrap().applied.changes > 0);
    assert_eq!(pods[0].tcp((ip("10.43.0.7"), 80)), "refused");
    assert!(zone.borrow().as_ref().unwrap().names_of(ip("10.43.0.7")) == ["web.d.svc.cluster.local"]);

    let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
    slice.metadata.namespace = "d".into();
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), "web".into());
    slice.ports.push(EndpointPort { port: Some(8080), ..EndpointPort::default() });
    slice.endpoints.push(ApiEndpoint { addresses: vec!["10.42.0.3".into()], ..ApiEndpoint::default() });
    objects.slices.push(slice.into());
    assert!(agent.step(&objects).unwrap().applied.changes > 0);
    assert_eq!(pods[0].tcp((ip("10.43.0.7"), 80)), "pod1 10.42.0.2");
    assert_eq!(agent.step(&objects).unwrap().applied.changes, 0);
    space.command("nft delete table inet sampan");
    agent.distrust();
    assert!(agent.step(&objects).unwrap().applied.changes > 0);
    assert_eq!(pods[0].tcp((ip("10.43.0.7"), 80)), "pod1 10.42.0.2");
    drop((client, space, pods, directory));
}
