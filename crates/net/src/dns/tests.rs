//! Answers, read by another library.

use std::{net::IpAddr, sync::Arc};

use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, RCODE, TYPE, rdata::RData};

use super::*;
use crate::ruleset::Protocol;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, protocol: Protocol, port: u16) -> ZonePort {
    ZonePort { name: name.into(), protocol, port }
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", 7);
    zone.namespaces.extend(["d".into(), "default".into(), "kube-system".into()]);
    let mut add = |namespace: &str, name: &str, service| {
        zone.services.insert((namespace.into(), name.into()), Arc::new(service));
    };
    let https = vec![port("https", Protocol::Tcp, 443)];
    add(
        "default",
        "kubernetes",
        ZoneService { cluster_ips: vec![ip("10.43.0.1")], ports: https, ..ZoneService::default() },
    );
    add("d", "dual", ZoneService { cluster_ips: vec![ip("10.43.0.2"), ip("fd00:43::2")], ..ZoneService::default() });
    let endpoint = |address: &str, hostname: Option<&str>| ZoneEndpoint {
        address: ip(address),
        hostname: hostname.map(Into::into),
        ports: vec![port("peer", Protocol::Tcp, 2380), port("", Protocol::Udp, 9)],
    };
    let endpoints =
        vec![endpoint("10.42.0.5", Some("Web-0")), endpoint("10.42.0.6", None), endpoint("fd00:42::6", None)];
    let ports = vec![port("peer", Protocol::Tcp, 2380)];
    add("d", "headless", ZoneService { endpoints, ports, ..ZoneService::default() });
    add("d", "empty", ZoneService::default());
    let alias = |target: &str| ZoneService { external_name: Some(target.into()), ..ZoneService::default() };
    add("d", "out", alias("Example.com."));
    add("d", "in", alias("kubernetes.default.svc.cluster.local"));
    add("d", "loop", alias("loop.d.svc.cluster.local"));
    let many = (0..200).map(|n| endpoint(&format!("10.42.1.{n}"), None)).collect();
    add("d", "many", ZoneService { endpoints: many, ..ZoneService::default() });
    zone.hosts.insert("node-1".into(), Host { ips: vec![ip("192.0.2.1")] });
    zone.index()
}

fn query(name: &str, kind: TYPE, edns: Option<u16>) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    packet.set_flags(simple_dns::PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new(name).unwrap(), QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    if let Some(udp_packet_size) = edns {
        *packet.opt_mut() = Some(simple_dns::rdata::OPT { opt_codes: vec![], udp_packet_size, version: 0 });
    }
    packet.build_bytes_vec().unwrap()
}

fn show(data: &RData<'_>) -> String {
    match data {
        RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
        RData::CNAME(n) => format!("cname {}", n.0),
        RData::PTR(n) => format!("ptr {}", n.0),
        RData::NS(n) => format!("ns {}", n.0),
        RData::SRV(s) => format!("srv {} {} {} {}", s.priority, s.weight, s.port, s.target),
        RData::SOA(s) => format!("soa {} {} {}", s.mname, s.serial, s.minimum),
        RData::TXT(t) => format!("txt {}", t.attributes().keys().next().cloned().unwrap_or_default()),
        other => format!("{other:?}"),
    }
}

fn ask(name: &str, kind: TYPE) -> String {
    match answer(&zone(), &query(name, kind, None), Transport::Udp, 0) {
        Answer::Forward(_) => "forward".into(),
        Answer::Ignore => "ignore".into(),
        Answer::Chase { target, .. } => format!("chase {target}"),
        Answer::Reply(bytes) => {
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.id(), packet.questions.len()), (77, 1));
            assert_eq!(
                packet.questions[0].qname.to_string(),
                name.trim_end_matches('.'),
                "the question comes back as it was"
            );
            let records = |list: &[simple_dns::ResourceRecord<'_>]| -> Vec<String> {
                list.iter().map(|r| show(&r.rdata)).collect()
            };
            let answers = records(&packet.answers).join(", ");
            match (packet.rcode(), answers.is_empty()) {
                (RCODE::NoError, false) => {
                    let more = records(&packet.additional_records);
                    if more.is_empty() { answers } else { format!("{answers} + {}", more.join(", ")) }
                }
                (code, _) => {
                    assert_eq!(records(&packet.name_servers), ["soa ns.dns.cluster.local 7 5"], "{name}");
                    if code == RCODE::NoError { "nodata".into() } else { format!("{code:?}") }
                }
            }
        }
    }
}

#[test]
fn answers() {
    for (name, kind, wanted) in [
        ("kubernetes.default.svc.cluster.local", TYPE::A, "10.43.0.1"),
        ("KuberNetes.default.SVC.cluster.local", TYPE::A, "10.43.0.1"),
        ("kubernetes.default.svc.cluster.local", TYPE::AAAA, "nodata"),
        ("kubernetes.default.svc.cluster.local", TYPE::TXT, "nodata"),
        ("dual.d.svc.cluster.local", TYPE::AAAA, "fd00:43::2"),
        ("nothing.d.svc.cluster.local", TYPE::A, "NameError"),
        ("kubernetes.nothing.svc.cluster.local", TYPE::A, "NameError"),
        ("kubernetes.default.svc.cluster.local.d.svc.cluster.local", TYPE::A, "NameError"),
        ("headless.d.svc.cluster.local", TYPE::A, "10.42.0.5, 10.42.0.6"),
        ("headless.d.svc.cluster.local", TYPE::AAAA, "fd00:42::6"),
        ("empty.d.svc.cluster.local", TYPE::A, "NameError"),
        ("web-0.headless.d.svc.cluster.local", TYPE::A, "10.42.0.5"),
        ("10-42-0-6.headless.d.svc.cluster.local", TYPE::A, "10.42.0.6"),
        ("web-1.headless.d.svc.cluster.local", TYPE::A, "NameError"),
        (
            "_peer._tcp.headless.d.svc.cluster.local",
            TYPE::SRV,
            "srv 0 33 2380 web-0.headless.d.svc.cluster.local, srv 0 33 2380 10-42-0-6.headless.d.svc.cluster.local, \
             srv 0 33 2380 fd00-42--6.headless.d.svc.cluster.local + 10.42.0.5, 10.42.0.6, fd00:42::6",
        ),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local",
            TYPE::SRV,
            "srv 0 100 443 kubernetes.default.svc.cluster.local + 10.43.0.1",
        ),
        (
            "kubernetes.default.svc.cluster.local",
            TYPE::SRV,
            "srv 0 100 443 kubernetes.default.svc.cluster.local + 10.43.0.1",
        ),
        ("_https._tcp.kubernetes.default.svc.cluster.local", TYPE::A, "nodata"),
        ("_https._udp.kubernetes.default.svc.cluster.local", TYPE::SRV, "NameError"),
        ("_http._tcp.kubernetes.default.svc.cluster.local", TYPE::SRV, "NameError"),
        ("out.d.svc.cluster.local", TYPE::A, "chase example.com"),
        ("out.d.svc.cluster.local", TYPE::CNAME, "cname example.com"),
        ("in.d.svc.cluster.local", TYPE::A, "cname kubernetes.default.svc.cluster.local, 10.43.0.1"),
        ("1-2-3-4.d.pod.cluster.local", TYPE::A, "1.2.3.4"),
        ("fd00--1.d.pod.cluster.local", TYPE::AAAA, "fd00::1"),
        ("1-2-3-4.d.pod.cluster.local", TYPE::AAAA, "nodata"),
        ("1-2-3-4.nothing.pod.cluster.local", TYPE::A, "NameError"),
        ("1-2-3-400.d.pod.cluster.local", TYPE::A, "NameError"),
        ("d.svc.cluster.local", TYPE::A, "nodata"),
        ("nothing.svc.cluster.local", TYPE::A, "NameError"),
        ("svc.cluster.local", TYPE::A, "nodata"),
        ("cluster.local", TYPE::A, "nodata"),
        ("cluster.local", TYPE::SOA, "soa ns.dns.cluster.local 7 5"),
        ("cluster.local", TYPE::NS, "ns ns.dns.cluster.local"),
        ("dns-version.cluster.local", TYPE::TXT, "txt 1.1.0"),
        ("example.com.cluster.local", TYPE::A, "NameError"),
        ("1.0.43.10.in-addr.arpa", TYPE::PTR, "ptr kubernetes.default.svc.cluster.local"),
        ("5.0.42.10.in-addr.arpa", TYPE::PTR, "ptr web-0.headless.d.svc.cluster.local"),
        ("1.2.0.192.in-addr.arpa", TYPE::PTR, "ptr node-1"),
        ("8.8.8.8.in-addr.arpa", TYPE::PTR, "forward"),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa",
            TYPE::PTR,
            "ptr dual.d.svc.cluster.local",
        ),
        ("node-1", TYPE::A, "192.0.2.1"),
        ("node-1", TYPE::AAAA, "nodata"),
        ("example.com", TYPE::A, "forward"),
        ("notcluster.local", TYPE::A, "forward"),
    ] {
        assert_eq!(ask(name, kind), wanted, "{name} {kind:?}");
    }
}

#[test]
fn an_alias_to_itself_ends() {
    assert!(ask("loop.d.svc.cluster.local", TYPE::A).starts_with("cname loop.d.svc.cluster.local, cname"));
}

#[test]
fn sizes() {
    for (edns, transport, fits) in [
        (None, Transport::Udp, 512),
        (Some(100), Transport::Udp, 512),
        (Some(800), Transport::Udp, 800),
        (Some(65535), Transport::Udp, 1232),
        (None, Transport::Tcp, 65535),
    ] {
        let Answer::Reply(bytes) = answer(&zone(), &query("many.d.svc.cluster.local", TYPE::A, edns), transport, 3)
        else {
            panic!("no reply");
        };
        let packet = Packet::parse(&bytes).unwrap();
        let all = packet.answers.len() == 200;
        assert!(bytes.len() <= fits && (all || bytes.len() > fits - 28), "{edns:?} {}", bytes.len());
        assert_eq!(packet.has_flags(simple_dns::PacketFlag::TRUNCATION), !all);
        assert_eq!(packet.opt().is_some(), edns.is_some());
        assert_eq!(show(&packet.answers[0].rdata), "10.42.1.3", "turned by three");
    }
}

#[test]
fn a_chase_is_finished_with_what_another_resolver_says() {
    let asked = query("out.d.svc.cluster.local", TYPE::A, None);
    let Answer::Chase { query, target } = answer(&zone(), &asked, Transport::Udp, 0) else { panic!("no chase") };
    let mut response = Packet::new_reply(1);
    response.questions.push(Question::new(
        Name::new("example.com").unwrap(),
        QTYPE::TYPE(TYPE::A),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    let record = |name, rdata| simple_dns::ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 900, rdata);
    response
        .answers
        .push(record("example.com", RData::CNAME(simple_dns::rdata::CNAME(Name::new("www.example.com").unwrap()))));
    response.answers.push(record("www.example.com", RData::A(simple_dns::rdata::A { address: 0x0102_0304 })));
    let response = response.build_bytes_vec_compressed().unwrap();
    let reply = finish_chase(&asked, &query, Transport::Udp, &target, &response);
    let packet = Packet::parse(&reply).unwrap();
    let found: Vec<String> =
        packet.answers.iter().map(|r| format!("{} {} {}", r.name, r.ttl, show(&r.rdata))).collect();
    assert_eq!(
        found,
        [
            "out.d.svc.cluster.local 5 cname example.com",
            "example.com 5 cname www.example.com",
            "www.example.com 5 1.2.3.4",
        ]
    );
    let broken = finish_chase(&asked, &query, Transport::Udp, &target, &response[..20]);
    assert_eq!(Packet::parse(&broken).unwrap().rcode(), RCODE::ServerFailure);
}

/// Every way to cut or change a message is survived, and what is answered can be read.
#[test]
fn broken_messages() {
    let zone = zone();
    let good = query("web-0.headless.d.svc.cluster.local", TYPE::A, Some(1232));
    let check = |bytes: &[u8]| {
        if let Answer::Reply(reply) = answer(&zone, bytes, Transport::Udp, 1) {
            assert!(wire::read_response(&reply).is_some() || reply.len() == wire::HEADER, "{bytes:?}");
        }
        let _ = wire::read_response(bytes);
    };
    for end in 0..good.len() {
        check(&good[..end]);
    }
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = value;
            check(&bytes);
        }
    }
    // A pointer to itself, and one forwards.
    for pointer in [[0xc0, 12], [0xc0, 14], [0xff, 0xff]] {
        let mut bytes = good[..12].to_vec();
        bytes.extend_from_slice(&pointer);
        bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0]);
        check(&bytes);
        assert_eq!(wire::read_name(&bytes, 12), None);
    }
}
