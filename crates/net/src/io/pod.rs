//! A pod's link: a veth pair, one address per family, routes on both sides. No bridge.
//!
//! The pod's gateway is a link-local address that nobody has: a permanent neighbour entry leads to the host's
//! end, whose hardware address is the same for all pods. So neither side ever asks for the other.

use std::net::IpAddr;

use super::link::{End, Links, Mac, Route};
use super::netns::Netns;
use super::{Result, sysctl};
use crate::ruleset::{Cidr, digest};

pub const GATEWAY4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1));
pub const GATEWAY6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const HOST_MAC: Mac = [0xee; 6];
const POD_LINK: &str = "eth0";
const PREFIX: &str = "spn";

/// The host's end of the veth of the pod `uid`.
pub fn link_name(uid: &str) -> String {
    format!("{PREFIX}{:012x}", digest(&uid) & 0xffff_ffff_ffff)
}

pub fn is_pod_link(name: &str) -> bool {
    name.len() == 15 && name.starts_with(PREFIX) && name[3..].bytes().all(|b| b.is_ascii_hexdigit())
}

/// Made from the address, so that both sides know it without asking.
fn pod_mac(ips: &[IpAddr]) -> Mac {
    let bytes = match ips.first() {
        Some(IpAddr::V4(ip)) => ip.octets(),
        other => (digest(&other) as u32).to_be_bytes(),
    };
    [0x0a, 0x58, bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn gateway(ip: &IpAddr) -> IpAddr {
    if ip.is_ipv4() { GATEWAY4 } else { GATEWAY6 }
}

fn everything(ip: &IpAddr) -> Cidr {
    let zero: IpAddr = if ip.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    Cidr::new(zero, 0)
}

/// Links the pod in `netns` to the host with these addresses. Whatever an earlier try left is used or replaced.
///
/// `sources` are the node's own addresses, from which it speaks to the pod.
pub fn attach(host: &mut Links, netns: &Netns, uid: &str, ips: &[IpAddr], mtu: u32, sources: &[IpAddr]) -> Result<()> {
    let name = link_name(uid);
    let mac = pod_mac(ips);
    let ends = (End { name: &name, mac: HOST_MAC }, End { name: POD_LINK, mac });
    if !host.add_veth(ends.0, ends.1, netns.fd(), mtu)? && !holds(netns, mac)? {
        host.delete(&name)?;
        host.add_veth(ends.0, ends.1, netns.fd(), mtu)?;
    }
    let Some(link) = host.named(&name)? else {
        return Err(super::Error::Kernel {
            action: format!("find link {name}"),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    // A pod can't send from an address that isn't its own.
    sysctl::set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    host.up(link.index, true)?;
    netns.run(|| configure_inside(ips, mtu))?;
    // The end that came up first starts to send when the kernel's link watch has run, up to a second later;
    // asking for the link runs it now.
    host.named(&name)?;
    for ip in ips {
        host.set_neighbour(link.index, *ip, mac)?;
        host.replace_route(&Route {
            to: Cidr::new(*ip, 128),
            via: None,
            link: Some(link.index),
            on_link: false,
            source: sources.iter().find(|source| source.is_ipv4() == ip.is_ipv4()).copied(),
        })?;
    }
    Ok(())
}

/// The pod's namespace has the other end already.
fn holds(netns: &Netns, mac: Mac) -> Result<bool> {
    netns.run(|| Ok(Links::open()?.named(POD_LINK)?.is_some_and(|link| link.mac == Some(mac) && link.kind == "veth")))
}

fn configure_inside(ips: &[IpAddr], mtu: u32) -> Result<()> {
    let mut links = Links::open()?;
    if let Some(lo) = links.named("lo")? {
        links.up(lo.index, false)?;
    }
    let Some(link) = links.named(POD_LINK)? else {
        return Err(super::Error::Kernel {
            action: format!("find link {POD_LINK} in the pod"),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    if link.mtu != mtu {
        links.set_mtu(link.index, mtu)?;
    }
    let six = ips.iter().any(IpAddr::is_ipv6);
    if six {
        sysctl::set_if_there(&format!("ipv6/conf/{POD_LINK}/disable_ipv6"), "0")?;
        sysctl::set_if_there(&format!("ipv6/conf/{POD_LINK}/accept_ra"), "0")?;
        // Nobody else is on this link, so no second is spent on looking for duplicates.
        sysctl::set_if_there(&format!("ipv6/conf/{POD_LINK}/accept_dad"), "0")?;
    }
    links.up(link.index, !six)?;
    for ip in ips {
        let via = gateway(ip);
        links.add_address(link.index, *ip)?;
        links.set_neighbour(link.index, via, HOST_MAC)?;
        let route = Route { to: everything(ip), via: Some(via), link: Some(link.index), on_link: true, source: None };
        links.replace_route(&route)?;
    }
    // See `attach`: the same for this end.
    links.named(POD_LINK)?;
    Ok(())
}

/// Takes the pod's link away, from outside; nothing there is fine. Routes and neighbours go with it.
pub fn detach(host: &mut Links, uid: &str) -> Result<()> {
    host.delete(&link_name(uid))
}

/// Hosts' ends whose pod is none of `living`.
pub fn strays(host: &mut Links, living: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let links = host.all()?;
    Ok(links.into_iter().map(|l| l.name).filter(|name| is_pod_link(name) && !living(name)).collect())
}
