//! The kernel's tracked connections.

use std::net::IpAddr;

use super::link::{address, af, octets};
use super::netlink::{Attributes, Message, Socket};
use super::{Error, Result};
use crate::ruleset::{Flow, Protocol};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;

#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// In the thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Conntrack { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Every UDP flow.
    pub fn udp(&mut self) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = Message::new(SUBSYSTEM << 8 | GET, 0, &[family as u8, 0, 0, 0]);
            self.socket
                .dump(request, |_, payload| {
                    let attributes = Attributes(payload.get(4..).unwrap_or_default());
                    let original = tuple(attributes.nest(TUPLE_ORIG));
                    let reply = tuple(attributes.nest(TUPLE_REPLY));
                    if let (Some((source, destination)), Some((answers, _))) = (original, reply) {
                        flows.push(Flow { source, destination, answers });
                    }
                })
                .map_err(|source| Error::Kernel { action: "list tracked connections".into(), source })?;
        }
        Ok(flows)
    }

    /// Forgets a UDP flow; one that is gone already is fine.
    pub fn forget(&mut self, flow: &Flow) -> Result<()> {
        let mut request = Message::new(SUBSYSTEM << 8 | DELETE, 0, &[af(&flow.source.0), 0, 0, 0]);
        request.nest(TUPLE_ORIG, |m| {
            m.nest(1, |m| {
                let (from, to) = if flow.source.0.is_ipv4() { (1, 2) } else { (3, 4) };
                m.attr(from, &octets(flow.source.0));
                m.attr(to, &octets(flow.destination.0));
            });
            m.nest(2, |m| {
                m.attr(1, &[Protocol::Udp as u8]);
                m.attr(2, &flow.source.1.to_be_bytes());
                m.attr(3, &flow.destination.1.to_be_bytes());
            });
        });
        match self.socket.request(request) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(Error::Kernel {
                action: format!("forget the flow from {:?} to {:?}", flow.source, flow.destination),
                source: e,
            }),
            _ => Ok(()),
        }
    }
}

type Ends = ((IpAddr, u16), (IpAddr, u16));

/// Source and destination of one direction, if it is UDP.
fn tuple(tuple: Attributes<'_>) -> Option<Ends> {
    let (ip, proto) = (tuple.nest(1), tuple.nest(2));
    if proto.find(1)? != [Protocol::Udp as u8] {
        return None;
    }
    let ip = |v4, v6| ip.find(v4).or(ip.find(v6)).and_then(address);
    let port = |kind| Some(u16::from_be_bytes(proto.find(kind)?.try_into().ok()?));
    Some(((ip(1, 3)?, port(2)?), (ip(2, 4)?, port(3)?)))
}
