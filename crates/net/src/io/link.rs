//! Links, addresses, routes and neighbours through rtnetlink.
//!
//! Everything is said so that saying it twice changes nothing.

use std::{io, net::IpAddr};

use super::netlink::{Attributes, Message, Socket};
use super::{Error, Result};
use crate::ruleset::{Cidr, Family};

pub type Mac = [u8; 6];

/// Marks routes as ours (`proto 83` in `ip route`).
const ROUTE_PROTOCOL: u8 = 83;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    pub kind: String,
    /// A VXLAN's number, port and own address.
    pub vxlan: Option<(u32, u16, Option<IpAddr>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: Cidr,
    pub via: Option<IpAddr>,
    pub link: Option<u32>,
    /// The gateway is on the link though no route says so.
    pub on_link: bool,
    pub source: Option<IpAddr>,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub name: &'a str,
    pub mac: Mac,
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

pub(super) fn af(address: &IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn neighbour(family: u8, link: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut fixed = vec![family, 0, 0, 0];
    fixed.extend_from_slice(&link.to_ne_bytes());
    fixed.extend_from_slice(&state.to_ne_bytes());
    fixed.extend_from_slice(&[flags, 0]);
    fixed
}

/// Runs requests in the network namespace where it was opened.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    pub fn open() -> Result<Self> {
        Ok(Links { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    fn ask(&mut self, message: Message, fine: &[i32], action: impl FnOnce() -> String) -> Result<()> {
        match self.socket.request(message) {
            Err(source) if !source.raw_os_error().is_some_and(|code| fine.contains(&code)) => {
                Err(Error::Kernel { action: action(), source })
            }
            _ => Ok(()),
        }
    }

    pub fn all(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        let request = Message::new(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0));
        self.socket
            .dump(request, |_, payload| links.extend(parse_link(payload)))
            .map_err(|source| Error::Kernel { action: "list links".into(), source })?;
        Ok(links)
    }

    pub fn named(&mut self, name: &str) -> Result<Option<Link>> {
        let mut request = Message::new(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        let mut found = None;
        match self.socket.ask_one(request, |payload| found = parse_link(payload)) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(Error::Kernel { action: format!("look for link {name}"), source }),
            Ok(()) => Ok(found),
        }
    }

    /// Makes a veth pair whose peer is born in the namespace behind `netns`; false if `host.name` is taken.
    pub fn add_veth(&mut self, host: End<'_>, peer: End<'_>, netns: i32, mtu: u32) -> Result<bool> {
        const VETH_INFO_PEER: u16 = 1;
        const IFLA_NET_NS_FD: u16 = 28;
        let mut m = Message::new(libc::RTM_NEWLINK, CREATE, &ifinfo(0, 0, 0));
        m.text(libc::IFLA_IFNAME, host.name);
        m.attr(libc::IFLA_ADDRESS, &host.mac);
        m.ne32(libc::IFLA_MTU, mtu);
        m.nest(IFLA_LINKINFO, |m| {
            m.text(1, "veth");
            m.nest(2, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0, 0));
                    m.text(libc::IFLA_IFNAME, peer.name);
                    m.attr(libc::IFLA_ADDRESS, &peer.mac);
                    m.ne32(libc::IFLA_MTU, mtu);
                    m.ne32(IFLA_NET_NS_FD, netns as u32);
                });
            });
        });
        match self.socket.request(m) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(source) => Err(Error::Kernel { action: format!("create veth {}", host.name), source }),
        }
    }

    /// Makes a VXLAN device that learns nothing: its peers are told to it.
    pub fn add_vxlan(&mut self, end: End<'_>, vni: u32, port: u16, local: IpAddr, mtu: u32) -> Result<()> {
        const ID: u16 = 1;
        const LOCAL: u16 = 4;
        const LEARNING: u16 = 7;
        const PORT: u16 = 15;
        const LOCAL6: u16 = 17;
        let mut m = Message::new(libc::RTM_NEWLINK, CREATE, &ifinfo(0, 0, 0));
        m.text(libc::IFLA_IFNAME, end.name);
        m.attr(libc::IFLA_ADDRESS, &end.mac);
        m.ne32(libc::IFLA_MTU, mtu);
        m.nest(IFLA_LINKINFO, |m| {
            m.text(1, "vxlan");
            m.nest(2, |m| {
                m.ne32(ID, vni);
                m.attr(if local.is_ipv4() { LOCAL } else { LOCAL6 }, &octets(local));
                m.attr(LEARNING, &[0]);
                m.attr(PORT, &port.to_be_bytes());
            });
        });
        self.ask(m, &[], || format!("create VXLAN device {} on port {port}", end.name))
    }

    pub fn delete(&mut self, name: &str) -> Result<()> {
        let mut m = Message::new(libc::RTM_DELLINK, 0, &ifinfo(0, 0, 0));
        m.text(libc::IFLA_IFNAME, name);
        self.ask(m, &[libc::ENODEV], || format!("delete link {name}"))
    }

    /// Brings a link up; `quiet` makes no IPv6 link-local address on it.
    pub fn up(&mut self, index: u32, quiet: bool) -> Result<()> {
        let flag = libc::IFF_UP as u32;
        if quiet {
            const ADDR_GEN_MODE: u16 = 8;
            const NONE: u8 = 1;
            let mut m = Message::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
            m.nest(IFLA_AF_SPEC, |m| m.nest(libc::AF_INET6 as u16, |m| m.attr(ADDR_GEN_MODE, &[NONE])));
            // Refused where IPv6 is switched off, which is quiet too.
            self.ask(m, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL], || format!("quieten link {index}"))?;
        }
        let m = Message::new(libc::RTM_NEWLINK, 0, &ifinfo(index, flag, flag));
        self.ask(m, &[], || format!("bring link {index} up"))
    }

    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
        m.ne32(libc::IFLA_MTU, mtu);
        self.ask(m, &[], || format!("set the MTU of link {index} to {mtu}"))
    }

    fn address_message(kind: u16, flags: u16, link: u32, ip: IpAddr, scope: u8) -> Message {
        const NODAD: u8 = 2;
        let bits = Family::of(&ip).bytes() as u8 * 8;
        let address_flags = if ip.is_ipv6() { NODAD } else { 0 };
        let mut fixed = vec![af(&ip), bits, address_flags, scope];
        fixed.extend_from_slice(&link.to_ne_bytes());
        let mut m = Message::new(kind, flags, &fixed);
        m.attr(libc::IFA_LOCAL, &octets(ip));
        m.attr(libc::IFA_ADDRESS, &octets(ip));
        m
    }

    /// Gives a link one address without a network (/32 or /128).
    pub fn add_address(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let m = Self::address_message(libc::RTM_NEWADDR, REPLACE, link, ip, libc::RT_SCOPE_UNIVERSE);
        self.ask(m, &[libc::EEXIST], || format!("add address {ip} to link {link}"))
    }

    /// Gives a link an address that packets may come to but that nothing is sent from by choice.
    pub fn add_service_address(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let mut m = Self::address_message(libc::RTM_NEWADDR, REPLACE, link, ip, libc::RT_SCOPE_HOST);
        if ip.is_ipv6() {
            // IPv6 has no scope to say it with: a deprecated address is chosen last.
            const PREFERRED: u32 = 0;
            const VALID: u32 = u32::MAX;
            let cache = [PREFERRED, VALID, 0, 0].map(u32::to_ne_bytes).concat();
            m.attr(libc::IFA_CACHEINFO, &cache);
        }
        self.ask(m, &[libc::EEXIST], || format!("add service address {ip} to link {link}"))
    }

    pub fn delete_address(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let m = Self::address_message(libc::RTM_DELADDR, 0, link, ip, 0);
        self.ask(m, &[libc::EADDRNOTAVAIL, libc::ENODEV], || format!("delete address {ip} of link {link}"))
    }

    /// Every address with its link.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let mut all = Vec::new();
        let request = Message::new(libc::RTM_GETADDR, 0, &[0; 8]);
        self.socket
            .dump(request, |_, payload| {
                let Some((fixed, rest)) = payload.split_first_chunk::<8>() else { return };
                let link = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                let attributes = Attributes(rest);
                let own = attributes.find(libc::IFA_LOCAL).or(attributes.find(libc::IFA_ADDRESS));
                all.extend(own.and_then(address).map(|ip| (link, ip)));
            })
            .map_err(|source| Error::Kernel { action: "list addresses".into(), source })?;
        Ok(all)
    }

    fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
        const ONLINK: u32 = 4;
        let scope = match route.via {
            None if route.to.address().is_ipv4() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let table = libc::RT_TABLE_MAIN;
        let mut fixed =
            vec![af(&route.to.address()), route.to.prefix(), 0, 0, table, ROUTE_PROTOCOL, scope, libc::RTN_UNICAST];
        fixed.extend_from_slice(&if route.on_link { ONLINK } else { 0 }.to_ne_bytes());
        let mut m = Message::new(kind, flags, &fixed);
        m.attr(libc::RTA_DST, &octets(route.to.address()));
        if let Some(via) = route.via {
            m.attr(libc::RTA_GATEWAY, &octets(via));
        }
        if let Some(link) = route.link {
            m.ne32(libc::RTA_OIF, link);
        }
        if let Some(source) = route.source {
            m.attr(libc::RTA_PREFSRC, &octets(source));
        }
        m
    }

    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let m = Self::route_message(libc::RTM_NEWROUTE, REPLACE, route);
        self.ask(m, &[], || format!("set the route to {}", route.to))
    }

    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let m = Self::route_message(libc::RTM_DELROUTE, 0, route);
        self.ask(m, &[libc::ESRCH, libc::ENODEV], || format!("delete the route to {}", route.to))
    }

    /// The routes that we made.
    pub fn our_routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        let request = Message::new(libc::RTM_GETROUTE, 0, &[0; 12]);
        self.socket
            .dump(request, |_, payload| routes.extend(parse_route(payload)))
            .map_err(|source| Error::Kernel { action: "list routes".into(), source })?;
        Ok(routes)
    }

    /// A neighbour that needs no asking.
    pub fn set_neighbour(&mut self, link: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut m = Message::new(libc::RTM_NEWNEIGH, REPLACE, &neighbour(af(&ip), link, libc::NUD_PERMANENT, 0));
        m.attr(libc::NDA_DST, &octets(ip));
        m.attr(libc::NDA_LLADDR, &mac);
        self.ask(m, &[], || format!("set neighbour {ip} of link {link}"))
    }

    pub fn delete_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let mut m = Message::new(libc::RTM_DELNEIGH, 0, &neighbour(af(&ip), link, 0, 0));
        m.attr(libc::NDA_DST, &octets(ip));
        self.ask(m, &[libc::ENOENT, libc::ENODEV], || format!("delete neighbour {ip} of link {link}"))
    }

    fn forwarding_message(kind: u16, flags: u16, link: u32, mac: Mac, to: IpAddr) -> Message {
        const SELF: u8 = 2;
        let state = libc::NUD_PERMANENT | libc::NUD_NOARP;
        let mut m = Message::new(kind, flags, &neighbour(libc::AF_BRIDGE as u8, link, state, SELF));
        m.attr(libc::NDA_LLADDR, &mac);
        m.attr(libc::NDA_DST, &octets(to));
        m
    }

    /// Tells a VXLAN device where a peer's frames go.
    pub fn set_forwarding(&mut self, link: u32, mac: Mac, to: IpAddr) -> Result<()> {
        let m = Self::forwarding_message(libc::RTM_NEWNEIGH, REPLACE, link, mac, to);
        self.ask(m, &[], || format!("forward to {to} on link {link}"))
    }

    pub fn delete_forwarding(&mut self, link: u32, mac: Mac, to: IpAddr) -> Result<()> {
        let m = Self::forwarding_message(libc::RTM_DELNEIGH, 0, link, mac, to);
        self.ask(m, &[libc::ENOENT, libc::ENODEV], || format!("stop forwarding to {to} on link {link}"))
    }

    /// Where a VXLAN device sends frames to.
    pub fn forwardings(&mut self, link: u32) -> Result<Vec<(Mac, IpAddr)>> {
        let mut all = Vec::new();
        self.dump_neighbours(libc::AF_BRIDGE as u8, link, |attributes| {
            all.extend(mac_of(attributes).zip(attributes.find(libc::NDA_DST).and_then(address)));
        })?;
        Ok(all)
    }

    /// The permanent neighbours of a link.
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<(IpAddr, Mac)>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump_neighbours(family as u8, link, |attributes| {
                all.extend(attributes.find(libc::NDA_DST).and_then(address).zip(mac_of(attributes)));
            })?;
        }
        Ok(all)
    }

    fn dump_neighbours(&mut self, family: u8, link: u32, mut each: impl FnMut(Attributes<'_>)) -> Result<()> {
        let request = Message::new(libc::RTM_GETNEIGH, 0, &neighbour(family, 0, 0, 0));
        self.socket
            .dump(request, |_, payload| {
                let Some((fixed, rest)) = payload.split_first_chunk::<12>() else { return };
                let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                let state = u16::from_ne_bytes([fixed[8], fixed[9]]);
                if index == link && state & libc::NUD_PERMANENT != 0 {
                    each(Attributes(rest));
                }
            })
            .map_err(|source: io::Error| Error::Kernel { action: format!("list neighbours of link {link}"), source })
    }
}

fn mac_of(attributes: Attributes<'_>) -> Option<Mac> {
    attributes.find(libc::NDA_LLADDR)?.try_into().ok()
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let (fixed, rest) = payload.split_first_chunk::<16>()?;
    let attributes = Attributes(rest);
    let info = attributes.nest(IFLA_LINKINFO);
    let kind = info.text(1).unwrap_or_default().to_owned();
    let vxlan = (kind == "vxlan").then(|| {
        let data = info.nest(2);
        let port = data.find(15).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes);
        (data.ne32(1).unwrap_or(0), port, data.find(4).or(data.find(17)).and_then(address))
    });
    Some(Link {
        index: u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        up: u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) & libc::IFF_UP as u32 != 0,
        name: attributes.text(libc::IFLA_IFNAME)?.to_owned(),
        mac: attributes.find(libc::IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        mtu: attributes.ne32(libc::IFLA_MTU).unwrap_or(0),
        kind,
        vxlan,
    })
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let (fixed, rest) = payload.split_first_chunk::<12>()?;
    if fixed[5] != ROUTE_PROTOCOL {
        return None;
    }
    let attributes = Attributes(rest);
    let unspecified = match i32::from(fixed[0]) {
        libc::AF_INET => IpAddr::from([0u8; 4]),
        libc::AF_INET6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let to = attributes.find(libc::RTA_DST).and_then(address).unwrap_or(unspecified);
    Some(Route {
        to: Cidr::new(to, fixed[1]),
        via: attributes.find(libc::RTA_GATEWAY).and_then(address),
        link: attributes.ne32(libc::RTA_OIF),
        on_link: u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) & 4 != 0,
        source: attributes.find(libc::RTA_PREFSRC).and_then(address),
    })
}
