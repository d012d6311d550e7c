//! The way to other nodes' pods: VXLAN, or plain routes where all nodes share a network.

use std::{collections::BTreeSet, net::IpAddr};

use super::Result;
use super::link::{End, Links, Mac, Route};
use crate::ruleset::{Cidr, Family, digest};

pub const DEVICE: &str = "sampan-vx";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// flannel's numbers on Linux are VNI 1 and port 8472.
    Vxlan { vni: u32, port: u16 },
    /// Routes through the other nodes, which are on the same link.
    HostGw,
    /// Somebody else routes between nodes.
    None,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// Its addresses; the first one of a family is used.
    pub node_ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<Cidr>,
}

/// What the kernel shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: BTreeSet<Route>,
    pub neighbours: BTreeSet<(IpAddr, Mac)>,
    pub forwardings: BTreeSet<(Mac, IpAddr)>,
}

/// A node's hardware address on the overlay follows from its address, so nobody has to publish it.
pub fn mac(node_ip: IpAddr) -> Mac {
    let bytes = match node_ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => (digest(&node_ip) as u32).to_be_bytes(),
    };
    [0x02, 0x5a, bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// Bytes that the overlay adds to each packet.
pub fn overhead(backend: Backend, node_ip: IpAddr) -> u32 {
    match (backend, node_ip) {
        (Backend::Vxlan { .. }, IpAddr::V4(_)) => 50,
        (Backend::Vxlan { .. }, IpAddr::V6(_)) => 70,
        _ => 0,
    }
}

/// Routes, neighbours and forwardings to `peers`; `device` is the VXLAN's link. Peers without an address of the
/// needed family are left out.
pub fn plan(backend: Backend, own: IpAddr, device: Option<u32>, peers: &[Peer]) -> Plan {
    let mut plan = Plan::default();
    for peer in peers {
        let of_family = |family| peer.node_ips.iter().find(|ip| Family::of(ip) == family).copied();
        match (backend, device) {
            (Backend::Vxlan { .. }, Some(link)) => {
                let Some(node_ip) = of_family(Family::of(&own)) else { continue };
                let mac = mac(node_ip);
                plan.forwardings.insert((mac, node_ip));
                for cidr in &peer.pod_cidrs {
                    let via = cidr.address();
                    plan.neighbours.insert((via, mac));
                    plan.routes.insert(Route {
                        to: *cidr,
                        via: Some(via),
                        link: Some(link),
                        on_link: true,
                        source: None,
                    });
                }
            }
            (Backend::HostGw, _) => {
                for cidr in &peer.pod_cidrs {
                    let Some(via) = of_family(cidr.family()) else { continue };
                    plan.routes.insert(Route { to: *cidr, via: Some(via), link: None, on_link: false, source: None });
                }
            }
            _ => {}
        }
    }
    plan
}

/// Makes or keeps the VXLAN device, with this node's overlay addresses; returns its link. Removes it for other backends.
pub fn ensure_device(
    links: &mut Links,
    backend: Backend,
    own: IpAddr,
    pod_cidrs: &[Cidr],
    mtu: u32,
) -> Result<Option<u32>> {
    let there = links.named(DEVICE)?;
    let Backend::Vxlan { vni, port } = backend else {
        if there.is_some() {
            links.delete(DEVICE)?;
        }
        return Ok(None);
    };
    let mac = mac(own);
    let fits = there.as_ref().is_some_and(|l| l.mac == Some(mac) && l.vxlan == Some((vni, port, Some(own))));
    if !fits {
        if there.is_some() {
            links.delete(DEVICE)?;
        }
        links.add_vxlan(End { name: DEVICE, mac }, vni, port, own, mtu)?;
    }
    let Some(link) = links.named(DEVICE)? else { return Ok(None) };
    if link.mtu != mtu {
        links.set_mtu(link.index, mtu)?;
    }
    links.up(link.index, true)?;
    let has: Vec<IpAddr> = links.addresses()?.into_iter().filter(|(l, _)| *l == link.index).map(|(_, ip)| ip).collect();
    let wanted: Vec<IpAddr> = pod_cidrs.iter().map(Cidr::address).collect();
    for ip in has.iter().filter(|ip| !wanted.contains(ip)) {
        links.delete_address(link.index, *ip)?;
    }
    for ip in wanted.iter().filter(|ip| !has.contains(ip)) {
        links.add_address(link.index, *ip)?;
    }
    Ok(Some(link.index))
}

/// Brings the kernel to `wanted`; one peer's failure does not stop the others'.
pub fn apply(links: &mut Links, device: Option<u32>, wanted: &Plan) -> Result<()> {
    let mut outcome = Ok(());
    let mut keep_first = |result: Result<()>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    // A kernel's route to a gateway names its link even if we did not.
    let same = |has: &Route, want: &Route| {
        has.to == want.to && has.via == want.via && (want.link.is_none() || has.link == want.link)
    };
    let routes: Vec<Route> = links.our_routes()?.into_iter().filter(|route| route.via.is_some()).collect();
    for route in routes.iter().filter(|has| !wanted.routes.iter().any(|want| want.to == has.to)) {
        keep_first(links.delete_route(route));
    }
    if let Some(link) = device {
        let forwardings: BTreeSet<_> = links.forwardings(link)?.into_iter().collect();
        let neighbours: BTreeSet<_> = links.neighbours(link)?.into_iter().collect();
        for (mac, to) in forwardings.difference(&wanted.forwardings) {
            keep_first(links.delete_forwarding(link, *mac, *to));
        }
        for (ip, _) in neighbours.iter().filter(|(ip, _)| !wanted.neighbours.iter().any(|(want, _)| want == ip)) {
            keep_first(links.delete_neighbour(link, *ip));
        }
        for (mac, to) in wanted.forwardings.difference(&forwardings) {
            keep_first(links.set_forwarding(link, *mac, *to));
        }
        for (ip, mac) in wanted.neighbours.difference(&neighbours) {
            keep_first(links.set_neighbour(link, *ip, *mac));
        }
    }
    for route in wanted.routes.iter().filter(|want| !routes.iter().any(|has| same(has, want))) {
        keep_first(links.replace_route(route));
    }
    outcome
}
