//! What a query is answered with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::{
    self, A, AAAA, ANY, CNAME, Data, FORMAT_ERROR, IN, NAME_ERROR, NO_ERROR, NOT_IMPLEMENTED, NS, Query, Record,
    Refusal, SERVER_FAILURE, SOA, SRV, Sections,
};
use super::zone::{Zone, ZonePort, ZoneService};
use super::{HOST_TTL, TTL};
use crate::ruleset::Protocol;

/// The way a query came, which limits its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The whole message.
    Reply(Vec<u8>),
    /// Not ours: another resolver's business.
    Forward(Query),
    /// An ExternalName: `target`'s records of the query's type are to be added ([`finish_chase`]).
    Chase { query: Query, target: String },
    /// Nothing is sent back.
    Ignore,
}

impl Query {
    fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(size)) => usize::from(size.clamp(512, wire::UDP_SIZE)),
        }
    }
}

/// Answers a query from `zone`. `turn` rotates the order of addresses.
pub fn answer(zone: &Zone, message: &[u8], transport: Transport, turn: u32) -> Answer {
    let query = match wire::read_query(message) {
        Ok(query) => query,
        Err(Refusal::Ignore) => return Answer::Ignore,
        Err(Refusal::Malformed) => return Answer::Reply(wire::write_refusal(message, FORMAT_ERROR)),
    };
    if query.opcode != 0 {
        return Answer::Reply(wire::write_refusal(message, NOT_IMPLEMENTED));
    }
    let Some(name) = query.name.clone().filter(|_| matches!(query.class, IN | ANY)) else {
        return Answer::Forward(query);
    };
    let mut seen = 0;
    let mut name = name;
    let mut cnames: Vec<Record> = Vec::new();
    let mut sections = loop {
        match resolve(zone, &name, query.kind) {
            Found::Elsewhere if cnames.is_empty() => return Answer::Forward(query),
            Found::Elsewhere => {
                return Answer::Chase { query, target: name };
            }
            Found::Sections(sections) => break sections,
            Found::Alias(target) => {
                let owner = if cnames.is_empty() { String::new() } else { name };
                cnames.push(Record { name: owner, ttl: TTL, data: Data::Cname(target.clone()) });
                name = target;
                seen += 1;
                if query.kind == CNAME || seen > 8 {
                    break Sections { authoritative: true, ..Sections::default() };
                }
            }
        }
    };
    if !cnames.is_empty() {
        sections.answers.iter_mut().filter(|r| r.name.is_empty()).for_each(|r| r.name.clone_from(&name));
        sections.answers.splice(0..0, cnames);
    } else if !sections.answers.is_empty() {
        let by = turn as usize % sections.answers.len();
        sections.answers.rotate_left(by);
    }
    Answer::Reply(wire::write_reply(message, &query, &sections, query.limit(transport)))
}

/// The reply when nobody could be asked.
pub fn failure(message: &[u8], query: &Query) -> Vec<u8> {
    let sections = Sections { code: SERVER_FAILURE, ..Sections::default() };
    wire::write_reply(message, query, &sections, 512)
}

/// The reply to a query for an ExternalName: an alias to `target`, then the records of `response`, which is
/// another resolver's message about it.
pub fn finish_chase(message: &[u8], query: &Query, transport: Transport, target: &str, response: &[u8]) -> Vec<u8> {
    let Some(read) = wire::read_response(response) else { return failure(message, query) };
    let alias = Record { name: String::new(), ttl: TTL, data: Data::Cname(target.to_owned()) };
    let mut sections = Sections { code: read.code, answers: vec![alias], authoritative: true, ..Sections::default() };
    for record in &read.records[..read.answers] {
        let bytes = &response[record.data..record.end];
        let data = match record.kind {
            A => <[u8; 4]>::try_from(bytes).ok().map(|b| Data::Address(b.into())),
            AAAA => <[u8; 16]>::try_from(bytes).ok().map(|b| Data::Address(b.into())),
            CNAME => wire::read_name(response, record.data).map(|(name, _)| Data::Cname(name)),
            _ => None,
        };
        if let (Some(data), Some((name, _))) = (data, wire::read_name(response, record.name)) {
            sections.answers.push(Record { name, ttl: record.ttl.min(TTL), data });
        }
    }
    wire::write_reply(message, query, &sections, query.limit(transport))
}

enum Found {
    Sections(Sections),
    Alias(String),
    /// Outside of our zones.
    Elsewhere,
}

fn resolve(zone: &Zone, name: &str, kind: u16) -> Found {
    if let Some(address) = reverse_address(name) {
        let names = zone.names_of(address);
        if names.is_empty() {
            return Found::Elsewhere;
        }
        let records = names.iter().map(|n| Data::Ptr(n.clone())).collect();
        return positive(zone, records, kind, TTL);
    }
    let relative = match name.strip_suffix(zone.domain.as_str()) {
        Some("") => Some(""),
        Some(rest) => rest.strip_suffix('.'),
        None => None,
    };
    if let Some(relative) = relative {
        return in_cluster(zone, name, relative, kind);
    }
    match zone.hosts.get(name) {
        Some(host) => positive(zone, host.ips.iter().map(|ip| Data::Address(*ip)).collect(), kind, HOST_TTL),
        None => Found::Elsewhere,
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut parts = rest.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0;
    for nibble in rest.split('.').collect::<Vec<_>>().into_iter().rev() {
        if nibble.len() != 1 {
            return None;
        }
        bits = bits << 4 | u128::from_str_radix(nibble, 16).ok()?;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

fn soa(zone: &Zone) -> Record {
    let data = Data::Soa {
        primary: format!("ns.dns.{}", zone.domain),
        contact: format!("hostmaster.{}", zone.domain),
        serial: zone.serial,
    };
    Record { name: zone.domain.clone(), ttl: TTL, data }
}

fn denial(zone: &Zone, code: u8) -> Found {
    Found::Sections(Sections { code, authority: vec![soa(zone)], authoritative: true, ..Sections::default() })
}

/// The name exists: its records of this kind, or none.
fn positive(zone: &Zone, all: Vec<Data>, kind: u16, ttl: u32) -> Found {
    let asked = all.into_iter().filter(|data| kind == ANY || data.kind() == kind);
    let answers: Vec<Record> = asked.map(|data| Record { name: String::new(), ttl, data }).collect();
    if answers.is_empty() {
        return denial(zone, NO_ERROR);
    }
    Found::Sections(Sections { answers, authoritative: true, ..Sections::default() })
}

fn in_cluster(zone: &Zone, name: &str, relative: &str, kind: u16) -> Found {
    let labels: Vec<&str> = if relative.is_empty() { vec![] } else { relative.split('.').collect() };
    match labels.as_slice() {
        [] if kind == SOA => {
            let answers = vec![soa(zone)];
            Found::Sections(Sections { answers, authoritative: true, ..Sections::default() })
        }
        [] if kind == NS => positive(zone, vec![Data::Ns(format!("ns.dns.{}", zone.domain))], kind, TTL),
        [] | ["svc" | "pod"] => denial(zone, NO_ERROR),
        ["dns-version"] => positive(zone, vec![Data::Txt("1.1.0".into())], kind, TTL),
        ["ns", "dns"] => positive(zone, own_addresses(zone), kind, TTL),
        ["dns"] => denial(zone, NO_ERROR),
        [namespace, "svc" | "pod"] if zone.namespaces.contains(*namespace) => denial(zone, NO_ERROR),
        [address, namespace, "pod"] if zone.namespaces.contains(*namespace) => match dashed(address) {
            Some(ip) => positive(zone, vec![Data::Address(ip)], kind, TTL),
            None => denial(zone, NAME_ERROR),
        },
        [rest @ .., service, namespace, "svc"] => {
            match zone.services.get(&((*namespace).to_owned(), (*service).to_owned())) {
                Some(found) => in_service(zone, found, &zone.service_name(namespace, service), name, rest, kind),
                None => denial(zone, NAME_ERROR),
            }
        }
        _ => denial(zone, NAME_ERROR),
    }
}

/// The addresses of whoever serves DNS in this cluster.
fn own_addresses(zone: &Zone) -> Vec<Data> {
    let key = ("kube-system".to_owned(), "kube-dns".to_owned());
    zone.services.get(&key).map(|s| s.cluster_ips.iter().map(|ip| Data::Address(*ip)).collect()).unwrap_or_default()
}

/// `1-2-3-4`, `fd00--1`
fn dashed(label: &str) -> Option<IpAddr> {
    let v4: Option<Ipv4Addr> = label.replace('-', ".").parse().ok();
    v4.map(IpAddr::from).or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from))
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

fn in_service(zone: &Zone, service: &ZoneService, full: &str, name: &str, rest: &[&str], kind: u16) -> Found {
    if let Some(target) = &service.external_name {
        return if rest.is_empty() {
            Found::Alias(target.trim_end_matches('.').to_ascii_lowercase())
        } else {
            denial(zone, NAME_ERROR)
        };
    }
    let addresses = |ips: &mut dyn Iterator<Item = IpAddr>| -> Vec<Data> { ips.map(Data::Address).collect() };
    match rest {
        [] => {
            let ips = if service.headless() {
                addresses(&mut service.endpoints.iter().map(|e| e.address))
            } else {
                addresses(&mut service.cluster_ips.iter().copied())
            };
            match (ips.is_empty(), kind) {
                (true, _) => denial(zone, NAME_ERROR),
                (false, SRV) => srv(zone, service, full, &|_| true),
                (false, _) => positive(zone, ips, kind, TTL),
            }
        }
        [endpoint] if !endpoint.starts_with('_') => {
            let ours: Vec<_> = service.endpoints.iter().filter(|e| e.label() == *endpoint).collect();
            if ours.is_empty() {
                return denial(zone, NAME_ERROR);
            }
            if kind == SRV {
                let of = |data: &Data| matches!(data, Data::Srv { target, .. } if target == name);
                return match srv_of_endpoints(zone, service, full, &|_| true) {
                    Found::Sections(mut sections) => {
                        sections.answers.retain(|record| of(&record.data));
                        sections.additional.retain(|record| record.name == name);
                        Found::Sections(sections)
                    }
                    other => other,
                };
            }
            positive(zone, addresses(&mut ours.iter().map(|e| e.address)), kind, TTL)
        }
        [port, protocol] => {
            let wanted = |p: &ZonePort| {
                port.strip_prefix('_').is_some_and(|n| p.name.eq_ignore_ascii_case(n))
                    && protocol_label(p.protocol) == *protocol
            };
            let exists =
                service.ports.iter().any(wanted) || service.endpoints.iter().any(|e| e.ports.iter().any(wanted));
            match (exists, kind) {
                (false, _) => denial(zone, NAME_ERROR),
                (true, SRV | ANY) => srv(zone, service, full, &wanted),
                (true, _) => denial(zone, NO_ERROR),
            }
        }
        _ => denial(zone, NAME_ERROR),
    }
}

fn srv(zone: &Zone, service: &ZoneService, full: &str, wanted: &dyn Fn(&ZonePort) -> bool) -> Found {
    if service.headless() {
        return srv_of_endpoints(zone, service, full, wanted);
    }
    let ports: Vec<&ZonePort> = service.ports.iter().filter(|p| wanted(p)).collect();
    let answers = srv_records(ports.iter().map(|p| (p.port, full.to_owned())).collect());
    let address = |ip: &IpAddr| Record { name: full.to_owned(), ttl: TTL, data: Data::Address(*ip) };
    let additional = service.cluster_ips.iter().map(address).collect();
    found_srv(zone, answers, additional)
}

fn srv_of_endpoints(zone: &Zone, service: &ZoneService, full: &str, wanted: &dyn Fn(&ZonePort) -> bool) -> Found {
    let mut targets = Vec::new();
    let mut additional = Vec::new();
    for endpoint in &service.endpoints {
        let target = format!("{}.{full}", endpoint.label());
        let before = targets.len();
        targets.extend(endpoint.ports.iter().filter(|p| wanted(p)).map(|p| (p.port, target.clone())));
        if targets.len() > before {
            additional.push(Record { name: target, ttl: TTL, data: Data::Address(endpoint.address) });
        }
    }
    targets.dedup();
    found_srv(zone, srv_records(targets), additional)
}

/// The weight is shared out, as CoreDNS does.
fn srv_records(targets: Vec<(u16, String)>) -> Vec<Record> {
    let weight = (100 / targets.len().max(1)).max(1) as u16;
    let record = |(port, target)| Record {
        name: String::new(),
        ttl: TTL,
        data: Data::Srv { priority: 0, weight, port, target },
    };
    targets.into_iter().map(record).collect()
}

fn found_srv(zone: &Zone, answers: Vec<Record>, additional: Vec<Record>) -> Found {
    if answers.is_empty() {
        return denial(zone, NAME_ERROR);
    }
    Found::Sections(Sections { answers, additional, authoritative: true, ..Sections::default() })
}
