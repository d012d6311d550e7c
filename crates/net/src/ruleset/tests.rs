//! Packets traced through computed rules, and differences as transactions.

use std::{collections::BTreeMap, net::IpAddr};

use super::*;
use trace::{Fate, Packet, Trace, endpoint_of, trace};

pub(crate) mod trace;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// `10.42.0.2:8080 remote terminating zone=a node=n1`
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let address: std::net::SocketAddr = words.next().unwrap().parse().unwrap();
    let mut endpoint = Endpoint {
        address: address.ip(),
        port: address.port(),
        local: true,
        ready: true,
        serving: true,
        terminating: false,
        for_zones: vec![],
        for_nodes: vec![],
    };
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => endpoint.for_zones.push(zone.into()),
            Some(("node", node)) => endpoint.for_nodes.push(node.into()),
            _ if word == "remote" => endpoint.local = false,
            _ if word == "unready" => (endpoint.ready, endpoint.serving) = (false, false),
            _ if word == "terminating" => (endpoint.ready, endpoint.terminating) = (false, true),
            _ => panic!("{word}"),
        }
    }
    endpoint
}

fn service(name: &str, cluster_ip: &str, endpoints: &[&str]) -> Service {
    Service {
        name: name.into(),
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![ServicePort {
            name: "p".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        }],
        ..Service::default()
    }
}

fn inputs(services: Vec<Service>) -> Inputs {
    Inputs {
        node: Node {
            name: "n1".into(),
            zone: "a".into(),
            cluster_cidrs: vec![cidr("10.42.0.0/16"), cidr("fd00:42::/56")],
            service_cidrs: vec![cidr("10.43.0.0/16")],
            ..Node::default()
        },
        services: services.into_iter().map(Into::into).collect(),
        ..Inputs::default()
    }
}

fn packet(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        source: ip(source),
        destination: ip(destination),
        protocol: Protocol::Tcp,
        port,
        from_node: source == "192.0.2.1",
        random: 0,
    }
}

fn follow(packet: &Packet, rules: &Ruleset) -> String {
    let node = |address: IpAddr| [ip("192.0.2.1"), ip("127.0.0.1"), ip("2001:db8::1")].contains(&address);
    let Trace { fate, destination, masqueraded } = trace(packet, rules, &node);
    let masqueraded = if masqueraded { " masqueraded" } else { "" };
    match fate {
        Fate::Dropped => "dropped".into(),
        Fate::Rejected => "rejected".into(),
        Fate::Input => "input".into(),
        Fate::Forwarded => format!("{}:{}{masqueraded}", destination.0, destination.1),
    }
}

const POD: &str = "10.42.0.9";
const NODE: &str = "192.0.2.1";
const CLIENT: &str = "198.51.100.1";

fn check(service: Service, rows: &[(&str, &str, u16, &str)]) {
    let rules = ruleset(&inputs(vec![service])).ruleset;
    for (source, destination, port, wanted) in rows {
        let found = follow(&packet(source, destination, *port), &rules);
        assert_eq!(found, *wanted, "{source} -> {destination}:{port}");
    }
    check_references(&rules);
}

/// Every chain and set that is named is there.
fn check_references(rules: &Ruleset) {
    let chain = |verdict: &Verdict| match verdict {
        Verdict::Jump(name) | Verdict::Goto(name) => assert!(rules.chains.contains_key(name), "no chain {name}"),
        _ => {}
    };
    for set in rules.sets.values() {
        for (key, data) in &set.elements {
            let bytes: usize = set.kind.key.iter().map(KeyField::bytes).sum();
            assert!(key.from.len() == bytes && key.to.as_ref().is_none_or(|to| to.len() == bytes));
            match data {
                Data::Verdict(verdict) => chain(verdict),
                Data::Endpoint(bytes) => assert!(endpoint_of(bytes).is_some()),
                Data::Nothing => {}
            }
        }
    }
    for rule in rules.chains.values().flat_map(|chain| &chain.rules) {
        for action in &rule.then {
            match action {
                Action::Verdict(verdict) => chain(verdict),
                Action::Map(_, set) | Action::Dnat { map: set, .. } => assert!(rules.sets.contains_key(set)),
                _ => {}
            }
        }
    }
}

#[test]
fn cluster_policy() {
    let mut service = service("d/a", "10.43.0.1", &["10.42.0.2:8080 unready", "10.42.1.2:8080 remote"]);
    service.external_ips = vec![ip("203.0.113.1")];
    check(
        service,
        &[
            (POD, "10.43.0.1", 80, "10.42.1.2:8080"),
            (NODE, "10.43.0.1", 80, "10.42.1.2:8080 masqueraded"),
            (CLIENT, "10.43.0.1", 80, "10.42.1.2:8080 masqueraded"),
            (POD, "10.43.0.1", 81, "rejected"),
            (POD, "10.43.0.2", 80, "dropped"),
            (CLIENT, "203.0.113.1", 80, "10.42.1.2:8080 masqueraded"),
            (POD, "203.0.113.1", 80, "10.42.1.2:8080"),
            (CLIENT, NODE, 30080, "10.42.1.2:8080 masqueraded"),
            (POD, NODE, 30080, "10.42.1.2:8080"),
            (CLIENT, NODE, 80, "input"),
            (POD, "198.51.100.7", 443, "198.51.100.7:443 masqueraded"),
            (POD, "10.42.1.7", 443, "10.42.1.7:443"),
        ],
    );
}

#[test]
fn local_policies() {
    let local = |endpoints: &[&str]| {
        let mut service = service("d/a", "10.43.0.1", endpoints);
        service.external_traffic_policy = TrafficPolicy::Local;
        service.internal_traffic_policy = TrafficPolicy::Local;
        service.load_balancer_ips = vec![ip("203.0.113.1")];
        service
    };
    check(
        local(&["10.42.0.2:8080", "10.42.1.2:8080 remote"]),
        &[
            (POD, "10.43.0.1", 80, "10.42.0.2:8080"),
            (CLIENT, "203.0.113.1", 80, "10.42.0.2:8080"),
            (CLIENT, NODE, 30080, "10.42.0.2:8080"),
            (NODE, "10.43.0.1", 80, "10.42.0.2:8080 masqueraded"),
        ],
    );
    check(
        local(&["10.42.1.2:8080 remote"]),
        &[
            (POD, "10.43.0.1", 80, "dropped"),
            (CLIENT, "203.0.113.1", 80, "dropped"),
            (CLIENT, NODE, 30080, "dropped"),
            // Those of the cluster are not held to the external policy.
            (POD, "203.0.113.1", 80, "10.42.1.2:8080"),
            (NODE, "203.0.113.1", 80, "10.42.1.2:8080 masqueraded"),
        ],
    );
    check(
        local(&[]),
        &[
            (POD, "10.43.0.1", 80, "rejected"),
            (CLIENT, "203.0.113.1", 80, "rejected"),
            (CLIENT, NODE, 30080, "rejected"),
        ],
    );
    check(local(&["10.42.0.2:8080 terminating"]), &[(CLIENT, NODE, 30080, "10.42.0.2:8080")]);
}

#[test]
fn endpoints_are_chosen_as_upstream_does() {
    for (endpoints, wanted) in [
        (&["10.42.0.2:1", "10.42.0.3:1 unready"][..], &["10.42.0.2"][..]),
        (&["10.42.0.2:1 terminating", "10.42.0.3:1 unready"], &["10.42.0.2"]),
        (&["10.42.0.2:1 terminating", "10.42.0.3:1"], &["10.42.0.3"]),
        (&["10.42.0.2:1 zone=a", "10.42.0.3:1 zone=b"], &["10.42.0.2"]),
        (&["10.42.0.2:1 zone=a", "10.42.0.3:1"], &["10.42.0.2", "10.42.0.3"]),
        (&["10.42.0.2:1 zone=b", "10.42.0.3:1 zone=b"], &["10.42.0.2", "10.42.0.3"]),
        (&["10.42.0.2:1 zone=a node=n1", "10.42.0.3:1 zone=a node=n2"], &["10.42.0.2"]),
        (&["10.42.0.2:1 zone=a node=n3", "10.42.0.3:1 zone=b node=n2"], &["10.42.0.2"]),
        (&["10.42.0.2:1 unready zone=b", "10.42.0.3:1 zone=a"], &["10.42.0.3"]),
    ] {
        let rules = ruleset(&inputs(vec![service("d/a", "10.43.0.1", endpoints)])).ruleset;
        let found: Vec<String> = (0..wanted.len() as u32)
            .map(|random| follow(&Packet { random, ..packet(POD, "10.43.0.1", 80) }, &rules))
            .collect();
        let wanted: Vec<String> = wanted.iter().map(|ip| format!("{ip}:1")).collect();
        assert_eq!(found, wanted, "{endpoints:?}");
        let again = Packet { random: wanted.len() as u32, ..packet(POD, "10.43.0.1", 80) };
        assert_eq!(follow(&again, &rules), wanted[0], "{endpoints:?}: no more than those");
    }
}

#[test]
fn firewall_hairpin_host_ports_and_conflicts() {
    let mut ranged = service("d/a", "10.43.0.1", &["10.42.0.9:8080"]);
    ranged.load_balancer_ips = vec![ip("203.0.113.1")];
    ranged.source_ranges = vec![cidr("198.51.100.0/24"), cidr("2001:db8::/32")];
    check(
        ranged.clone(),
        &[
            (CLIENT, "203.0.113.1", 80, "10.42.0.9:8080 masqueraded"),
            ("198.51.101.1", "203.0.113.1", 80, "dropped"),
            ("198.51.101.1", "10.43.0.1", 80, "10.42.0.9:8080 masqueraded"),
            (POD, "10.43.0.1", 80, "10.42.0.9:8080 masqueraded"),
        ],
    );
    let mut inputs = inputs(vec![ranged.clone(), Service { name: "d/b".into(), ..ranged }]);
    inputs.host_ports = vec![
        HostPort { host_ip: None, host_port: 30080, protocol: Protocol::Tcp, pod_ip: ip(POD), container_port: 1 },
        HostPort {
            host_ip: Some(ip(NODE)),
            host_port: 443,
            protocol: Protocol::Tcp,
            pod_ip: ip(POD),
            container_port: 2,
        },
    ];
    inputs.node.own_service_ips = vec![ip("10.43.0.10")];
    let built = ruleset(&inputs);
    check_references(&built.ruleset);
    assert_eq!(follow(&packet(CLIENT, NODE, 30080), &built.ruleset), "10.42.0.9:1");
    assert_eq!(follow(&packet(CLIENT, NODE, 443), &built.ruleset), "10.42.0.9:2");
    assert_eq!(
        built.conflicts,
        [
            "d/a: every node address Tcp 30080 is taken",
            "d/b: 10.43.0.1 Tcp 80 is taken",
            "d/b: 203.0.113.1 Tcp 80 is taken",
            "d/b: every node address Tcp 30080 is taken",
        ]
    );
}

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(' ').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn select(text: &str) -> Selector {
    let requirement = |(key, value): (String, String)| Requirement { key, operator: Operator::In, values: vec![value] };
    Selector(labels(text).into_iter().map(requirement).collect())
}

fn pods(namespaces: Option<&str>, pods: Option<&str>) -> Peer {
    Peer::Pods { namespaces: namespaces.map(select), pods: pods.map(select) }
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> PolicyRule {
    PolicyRule { peers, ports: ports.into_iter().map(|port| PolicyPort { protocol: Protocol::Tcp, port }).collect() }
}

/// Pods: web 10.42.0.2 and db 10.42.0.3 in `d` here, db 10.42.1.3 in `e` elsewhere.
fn check_policy(ingress: Option<Vec<PolicyRule>>, egress: Option<Vec<PolicyRule>>, rows: &[(&str, &str, u16, bool)]) {
    let mut inputs = inputs(vec![]);
    let pod = |namespace: &str, app: &str, address: &str, local| PodFacts {
        namespace: namespace.into(),
        name: app.into(),
        labels: labels(&format!("app={app}")),
        ips: vec![ip(address)],
        local,
        named_ports: vec![("http".into(), Protocol::Tcp, if local { 80 } else { 8080 })],
    };
    inputs.pods = vec![
        pod("d", "web", "10.42.0.2", true).into(),
        pod("d", "db", "10.42.0.3", true).into(),
        pod("e", "db", "10.42.1.3", false).into(),
    ];
    inputs.namespaces = [("d".into(), labels("team=d")), ("e".into(), labels("team=e"))].into();
    let policy = Policy { namespace: "d".into(), name: "p".into(), pod_selector: select("app=web"), ingress, egress };
    inputs.policies = vec![policy.into()];
    let rules = ruleset(&inputs).ruleset;
    check_references(&rules);
    for (source, destination, port, allowed) in rows {
        let found = follow(&packet(source, destination, *port), &rules);
        assert_eq!(found != "dropped", *allowed, "{source} -> {destination}:{port}: {found}");
    }
}

const WEB: &str = "10.42.0.2";
const DB: &str = "10.42.0.3";
const FAR: &str = "10.42.1.3";

#[test]
fn policies_let_pass_what_they_name() {
    check_policy(
        Some(vec![]),
        None,
        &[(DB, WEB, 80, false), (WEB, DB, 80, true), (NODE, WEB, 80, true), (DB, FAR, 1, true)],
    );
    check_policy(None, Some(vec![]), &[(DB, WEB, 80, true), (WEB, DB, 80, false), (WEB, NODE, 22, false)]);
    check_policy(Some(vec![PolicyRule::default()]), None, &[(CLIENT, WEB, 80, true)]);
    let own = || pods(None, Some("app=db"));
    check_policy(Some(vec![rule(vec![own()], vec![])]), None, &[(DB, WEB, 1, true), (FAR, WEB, 1, false)]);
    let all_of_e = pods(Some("team=e"), None);
    check_policy(Some(vec![rule(vec![all_of_e], vec![])]), None, &[(DB, WEB, 1, false), (FAR, WEB, 1, true)]);
    let db_anywhere = pods(Some(""), Some("app=db"));
    check_policy(Some(vec![rule(vec![db_anywhere.clone()], vec![])]), None, &[(DB, WEB, 1, true), (FAR, WEB, 1, true)]);
    check_policy(
        Some(vec![rule(vec![own()], vec![PortMatch::Range(80, 90), PortMatch::Range(443, 443)])]),
        None,
        &[(DB, WEB, 80, true), (DB, WEB, 90, true), (DB, WEB, 91, false), (DB, WEB, 443, true), (DB, WEB, 79, false)],
    );
    check_policy(
        Some(vec![rule(vec![own()], vec![PortMatch::Named("http".into())])]),
        None,
        &[(DB, WEB, 80, true), (DB, WEB, 8080, false)],
    );
    check_policy(
        None,
        Some(vec![rule(vec![db_anywhere], vec![PortMatch::Named("http".into())])]),
        &[(WEB, FAR, 8080, true), (WEB, FAR, 80, false), (WEB, DB, 80, true)],
    );
    let block = Peer::Block { cidr: cidr("198.51.100.0/24"), except: vec![cidr("198.51.100.128/25")] };
    check_policy(
        Some(vec![rule(vec![block], vec![PortMatch::All])]),
        None,
        &[(CLIENT, WEB, 1, true), ("198.51.100.200", WEB, 1, false), ("198.51.101.1", WEB, 1, false)],
    );
}

#[test]
fn spans_of_blocks() {
    for (blocks, wanted) in [
        (&[("10.0.0.0/8", &[][..])][..], "10.0.0.0-10.255.255.255"),
        (&[("10.0.0.0/8", &["10.0.0.0/9"][..])], "10.128.0.0-10.255.255.255"),
        (
            &[("10.0.0.0/8", &["10.1.0.0/16", "10.3.0.0/16"])],
            "10.0.0.0-10.0.255.255 10.2.0.0-10.2.255.255 10.4.0.0-10.255.255.255",
        ),
        (&[("10.0.0.0/9", &[]), ("10.128.0.0/9", &[])], "10.0.0.0-10.255.255.255"),
        (&[("10.0.0.0/8", &["10.0.0.0/8"])], ""),
        (&[("0.0.0.0/0", &["0.0.0.0/1"])], "128.0.0.0-255.255.255.255"),
        (&[("10.0.0.0/8", &["11.0.0.0/8", "fd00::/8"]), ("fd00::/8", &[])], "10.0.0.0-10.255.255.255"),
    ] {
        let blocks: Vec<(Cidr, Vec<Cidr>)> =
            blocks.iter().map(|(block, cut)| (cidr(block), cut.iter().map(|c| cidr(c)).collect())).collect();
        let found: Vec<String> = spans(Family::V4, &blocks).iter().map(|(a, b)| format!("{a}-{b}")).collect();
        assert_eq!(found.join(" "), wanted);
    }
    for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
}

#[test]
fn a_difference_leads_to_what_is_wanted_and_touches_only_it() {
    let services = |n: usize, moved: usize| {
        let all = (0..n).map(|i| {
            let port = if i == moved { 2 } else { 1 };
            let mut s = service(
                &format!("d/{i:04}"),
                &format!("10.43.{}.{}", i / 250, i % 250 + 1),
                &[&format!("10.42.0.2:{port}")],
            );
            s.ports[0].node_port = None;
            s
        });
        ruleset(&inputs(all.collect())).ruleset
    };
    let (empty, one, many, moved) = (Ruleset::default(), services(1, 9), services(300, 999), services(300, 7));
    for (from, to) in [(&empty, &one), (&one, &many), (&many, &one), (&many, &moved), (&one, &empty), (&many, &many)] {
        let mut state = if from.chains.is_empty() { State::default() } else { State::from(from) };
        state.advance(diff(&state, to));
        assert_eq!(state, State::from(to));
        assert_eq!(diff(&state, to), Batch::default());
    }
    let batch = diff(&State::from(&many), &moved);
    let counts: Vec<usize> = batch
        .0
        .iter()
        .map(|change| match change {
            Change::AddElements(_, _, elements) => elements.len(),
            Change::DeleteElements(_, _, keys) => keys.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn flows_to_forget() {
    let mut service = service("d/a", "10.43.0.1", &["10.42.0.2:53", "10.42.0.3:53"]);
    service.ports[0].protocol = Protocol::Udp;
    let rules = ruleset(&inputs(vec![service])).ruleset;
    for (destination, answers, stale) in [
        (("10.43.0.1", 80), ("10.42.0.2", 53), false),
        (("10.43.0.1", 80), ("10.42.0.3", 53), false),
        (("10.43.0.1", 80), ("10.42.0.4", 53), true),
        (("10.43.0.1", 80), ("10.43.0.1", 80), true),
        (("10.43.0.1", 81), ("10.42.0.4", 53), false),
        ((NODE, 30080), ("10.42.0.2", 53), false),
        ((NODE, 30080), ("10.42.0.4", 53), true),
        ((NODE, 30080), (NODE, 30080), false),
        (("8.8.8.8", 53), ("8.8.8.8", 53), false),
    ] {
        let at = |(address, port): (&str, u16)| (ip(address), port);
        let flow = Flow { source: (ip(POD), 9), destination: at(destination), answers: at(answers) };
        assert_eq!(!stale_flows(std::slice::from_ref(&flow), &rules).is_empty(), stale, "{flow:?}");
    }
    let key =
        |address| KeyBytes::default().address(ip(POD)).address(ip(address)).protocol(Protocol::Udp).port(80).key();
    let to = |address| Data::Endpoint(endpoint_bytes(ip(address), 53));
    let remembered = vec![
        (key("10.43.0.1"), to("10.42.0.2")),
        (key("10.43.0.1"), to("10.42.0.9")),
        (key("10.43.0.7"), to("10.42.0.2")),
    ];
    assert_eq!(stale_choices(Family::V4, remembered, &rules), [key("10.43.0.1"), key("10.43.0.7")]);
}
