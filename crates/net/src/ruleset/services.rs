//! Services and hostPorts as elements of maps.

use std::net::IpAddr;

use super::base::{FIREWALL, REJECT};
use super::build::{Builder, Pick};
use super::endpoints::choose;
use super::{
    Data, Endpoint, Family, FrontendKind, Inputs, Key, KeyBytes, Protocol, Service, ServicePort, TrafficPolicy,
    Verdict, endpoint_bytes,
};

/// Where a frontend is: an address, or (`None`) every local one.
fn frontend(family: Family, address: Option<IpAddr>, protocol: Protocol, port: u16) -> KeyBytes {
    match address {
        Some(address) => KeyBytes::default().address(address),
        None => KeyBytes::default().any(family),
    }
    .protocol(protocol)
    .port(port)
}

struct Frontend {
    kind: FrontendKind,
    address: Option<IpAddr>,
    port: u16,
}

pub fn write(builder: &mut Builder, inputs: &Inputs) {
    // A hostPort beats a NodePort, as the portmap plugin's chains come first.
    for host_port in &inputs.host_ports {
        write_host_port(builder, host_port);
    }
    for service in &inputs.services {
        write_service(builder, inputs, service);
    }
}

fn write_host_port(builder: &mut Builder, host_port: &super::HostPort) {
    let family = Family::of(&host_port.pod_ip);
    let names = builder.names(family);
    let key = frontend(family, host_port.host_ip, host_port.protocol, host_port.host_port);
    let pick = builder.pick(Pick {
        family,
        any_address: host_port.host_ip.is_none(),
        local: false,
        masquerade: false,
        count: 1,
        sticky_seconds: None,
    });
    if !builder.element(&names.services, key.key(), pick) {
        builder.conflicts.push(format!("hostPort {} of {} is taken", host_port.host_port, host_port.pod_ip));
        return;
    }
    let endpoint = Data::Endpoint(endpoint_bytes(host_port.pod_ip, host_port.container_port));
    builder.element(&names.endpoints, key.index(0).key(), endpoint);
    let pair = KeyBytes::default().address(host_port.pod_ip).address(host_port.pod_ip);
    builder.element(&names.hairpin, pair.key(), Data::Nothing);
}

fn write_service(builder: &mut Builder, inputs: &Inputs, service: &Service) {
    for family in Family::ALL {
        let ours = |ips: &[IpAddr]| -> Vec<IpAddr> {
            let free = |ip: &&IpAddr| Family::of(ip) == family && !inputs.node.own_service_ips.contains(ip);
            ips.iter().filter(free).copied().collect()
        };
        let cluster_ips = ours(&service.cluster_ips);
        if cluster_ips.is_empty() {
            continue;
        }
        let names = builder.names(family);
        for ip in &cluster_ips {
            builder.element(&names.cluster_ips, KeyBytes::default().address(*ip).key(), Data::Nothing);
        }
        let load_balancer_ips = ours(&service.load_balancer_ips);
        let mut external = ours(&service.external_ips);
        external.extend(&load_balancer_ips);
        external.sort_unstable();
        external.dedup();
        for port in &service.ports {
            let at = |kind, address| Frontend { kind, address, port: port.port };
            let mut frontends: Vec<Frontend> =
                cluster_ips.iter().map(|ip| at(FrontendKind::ClusterIp, Some(*ip))).collect();
            frontends.extend(external.iter().map(|ip| at(FrontendKind::External, Some(*ip))));
            let node_port = port.node_port.map(|port| Frontend { kind: FrontendKind::NodePort, address: None, port });
            frontends.extend(node_port);
            write_port(builder, inputs, service, family, port, &frontends);
            if !service.source_ranges.is_empty() {
                for ip in &load_balancer_ips {
                    write_firewall(builder, service, family, *ip, port);
                }
            }
        }
    }
}

fn write_port(
    builder: &mut Builder,
    inputs: &Inputs,
    service: &Service,
    family: Family,
    port: &ServicePort,
    frontends: &[Frontend],
) {
    let names = builder.names(family);
    let chosen = choose(&port.endpoints, family, &inputs.node.name, &inputs.node.zone);
    for endpoint in chosen.cluster.iter().chain(&chosen.local).filter(|e| e.local) {
        let pair = KeyBytes::default().address(endpoint.address).address(endpoint.address);
        builder.element(&names.hairpin, pair.key(), Data::Nothing);
    }
    let drop = Data::Verdict(Verdict::Drop);
    // Refusing works in filter chains only, and those come later.
    let refuse_later = Data::Verdict(Verdict::Return);
    let reject = Data::Verdict(Verdict::Goto(REJECT.into()));
    for Frontend { kind, address, port: number } in frontends {
        let key = frontend(family, *address, port.protocol, *number);
        let pick = |local: bool, masquerade: bool, endpoints: &[&Endpoint]| Pick {
            family,
            any_address: address.is_none(),
            local,
            masquerade,
            count: endpoints.len() as u32,
            sticky_seconds: service.affinity_seconds,
        };
        let internal_local =
            *kind == FrontendKind::ClusterIp && service.internal_traffic_policy == TrafficPolicy::Local;
        let external_local =
            *kind != FrontendKind::ClusterIp && service.external_traffic_policy == TrafficPolicy::Local;

        // Everyone's way; for an external address with the Local policy, the way of pods and of the node itself.
        let (list, from_local) = if internal_local { (&chosen.local, true) } else { (&chosen.cluster, false) };
        let unserved = list.is_empty() && !chosen.any();
        let verdict = match (list.is_empty(), unserved) {
            (false, _) => builder.pick(pick(from_local, true, list)),
            (true, false) => drop.clone(),
            (true, true) => refuse_later.clone(),
        };
        if !builder.element(&names.services, key.key(), verdict) {
            let at = address.map_or("every node address".to_owned(), |ip| ip.to_string());
            let protocol = port.protocol;
            builder.conflicts.push(format!("{}: {at} {protocol:?} {number} is taken", service.name));
            continue;
        }
        if unserved {
            builder.element(&names.unserved, key.key(), reject.clone());
            continue;
        }
        let mut write = |map: &super::Name, endpoints: &[&Endpoint]| {
            for (index, endpoint) in (0..).zip(endpoints) {
                let data = Data::Endpoint(endpoint_bytes(endpoint.address, endpoint.port));
                builder.element(map, key.index(index).key(), data);
            }
        };
        if internal_local {
            write(&names.local_endpoints, &chosen.local);
        } else {
            write(&names.endpoints, &chosen.cluster);
        }
        if external_local {
            write(&names.local_endpoints, &chosen.local);
            let verdict =
                if chosen.local.is_empty() { drop.clone() } else { builder.pick(pick(true, false, &chosen.local)) };
            builder.element(&names.external, key.key(), verdict);
        }
    }
}

fn write_firewall(builder: &mut Builder, service: &Service, family: Family, ip: IpAddr, port: &ServicePort) {
    let names = builder.names(family);
    let key = KeyBytes::default().address(ip).protocol(port.protocol).port(port.port);
    let chain = Data::Verdict(Verdict::Goto(format!("{FIREWALL}{}", family.digit()).into()));
    builder.element(&names.firewalled, key.key(), chain);
    let blocks: Vec<_> = service.source_ranges.iter().map(|cidr| (*cidr, Vec::new())).collect();
    for (from, to) in super::spans(family, &blocks) {
        let range = Key { from: key.address(from).bytes(), to: Some(key.address(to).bytes()) };
        builder.element(&names.sources, range, Data::Nothing);
    }
}
