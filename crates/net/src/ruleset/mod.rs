//! The packet rules of a node, as one value.
//!
//! [`Ruleset`] is a small language: named chains of rules, sets and maps of one nftables table `inet sampan`.
//! [`services`] and [`policies`] write in it, [`diff`] compares it with what the kernel has, [`trace`] follows
//! a packet through it, and `io::nft` translates it. Nothing here does I/O.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

mod base;
mod build;
mod diff;
mod endpoints;
mod flows;
mod input;
mod policies;
mod services;
#[cfg(test)]
pub(crate) mod tests;

pub use base::{BuiltRules, MASQUERADE, ruleset};
pub use diff::{Batch, ChainState, Change, SetState, Shape, State, diff};
pub use flows::{Flow, choices_map, stale_choices, stale_flows, takes_endpoints, touches_udp};
pub use input::{
    Direction, Endpoint, FrontendKind, HostPort, Inputs, Node, Operator, Peer, PodFacts, Policy, PolicyPort,
    PolicyRule, PortMatch, Requirement, Selector, Service, ServicePort, TrafficPolicy,
};
pub use schema::cidr::{Cidr, CidrError, Family, spans};

/// The table that is ours; no other one is ever touched.
pub const TABLE: &str = "sampan";

pub type Name = Arc<str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Source,
    Destination,
}

/// What a rule can put into a lookup's key; each field takes a multiple of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Address(Family, Side),
    Protocol,
    /// The transport's destination port.
    Port,
    /// A random number below the given one.
    Random(u32),
    /// Zero bytes: where a key of another kind has an address or an index.
    Zeros(u8),
}

/// A condition; a rule whose condition fails ends there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    Family(Family),
    /// Came in through this link, or (`false`) through any other.
    Iif(Name, bool),
    /// The connection's state is one of these bits.
    State(u32),
    /// The connection's destination was translated.
    Translated,
    /// The address belongs to this node, or (`false`) does not.
    Local(Side, bool),
    /// The address is in this network, or (`false`) is not.
    Within(Side, Cidr, bool),
    Protocol(Protocol),
    /// Destination port, both ends included.
    Ports(u16, u16),
    /// One of these bits of the packet's mark is set.
    Marked(u32),
    In(Vec<Field>, Name),
    NotIn(Vec<Field>, Name),
}

/// Connection states, as the kernel's bits.
pub const ESTABLISHED: u32 = 2;
pub const RELATED: u32 = 4;
pub const NEW: u32 = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Name),
    Goto(Name),
}

/// Remembers a chosen endpoint for a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remember {
    pub key: Vec<Field>,
    pub map: Name,
    pub timeout_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Where the packet goes from here.
    Verdict(Verdict),
    /// The verdict of a map; absent: the next rule.
    Map(Vec<Field>, Name),
    /// Translates the destination to a map's address and port; absent: the next rule.
    Dnat { family: Family, key: Vec<Field>, map: Name, remember: Option<Remember> },
    /// Sets these bits of the packet's mark.
    Mark(u32),
    /// Clears these bits of the packet's mark.
    Unmark(u32),
    /// The source becomes the address of the link that the packet leaves by.
    Masquerade,
    /// ICMP port unreachable, which a connecting TCP client sees as refused.
    Reject,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub when: Vec<Match>,
    pub then: Vec<Action>,
}

impl Rule {
    pub fn new(when: impl Into<Vec<Match>>, then: impl Into<Vec<Action>>) -> Self {
        Rule { when: when.into(), then: then.into() }
    }

    /// What stands beside the rule in the kernel, to know it again. Equal rules of one version have equal digests.
    pub fn digest(&self) -> u64 {
        /// Grows whenever the translation of a rule changes.
        const TRANSLATION: u64 = 1;
        digest(&(TRANSLATION, self))
    }
}

/// FNV-1a: the same on every machine and in every version.
pub fn digest(value: &impl Hash) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        fn write_usize(&mut self, n: usize) {
            self.write(&(n as u64).to_le_bytes());
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut fnv);
    fnv.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Where a base chain stands; a lower priority comes earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    pub point: HookPoint,
    pub priority: i32,
    pub nat: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyField {
    Address(Family),
    Protocol,
    Port,
    /// A 32-bit number in the machine's order.
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A set.
    Nothing,
    Verdicts,
    /// Address and port.
    Endpoints(Family),
}

/// What a set or map holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetKind {
    pub key: Vec<KeyField>,
    pub content: Content,
    /// Elements are ranges.
    pub ranges: bool,
    /// Packets add elements; ours are none.
    pub dynamic: bool,
}

/// A key, or a range of keys with both ends included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub from: Box<[u8]>,
    pub to: Option<Box<[u8]>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    Nothing,
    Verdict(Verdict),
    Endpoint(Box<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub kind: SetKind,
    pub elements: BTreeMap<Key, Data>,
}

/// All of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub chains: BTreeMap<Name, Chain>,
    pub sets: BTreeMap<Name, Set>,
}

/// Writes key bytes field by field.
#[derive(Clone, Copy, Debug)]
pub struct KeyBytes {
    bytes: [u8; KeyBytes::LONGEST],
    used: usize,
}

impl Default for KeyBytes {
    fn default() -> Self {
        KeyBytes { bytes: [0; KeyBytes::LONGEST], used: 0 }
    }
}

impl From<&[u8]> for KeyBytes {
    fn from(bytes: &[u8]) -> Self {
        KeyBytes::default().push(bytes)
    }
}

impl KeyBytes {
    /// Two IPv6 addresses, protocol and port; the kernel's registers hold 64 bytes.
    const LONGEST: usize = 40;

    /// What is longer than any key of ours is cut.
    fn push(mut self, bytes: &[u8]) -> Self {
        let end = (self.used + bytes.len()).min(Self::LONGEST);
        self.bytes[self.used..end].copy_from_slice(&bytes[..end - self.used]);
        self.used = end;
        self
    }

    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => self.push(&a.octets()),
            IpAddr::V6(a) => self.push(&a.octets()),
        }
    }

    pub fn any(self, family: Family) -> Self {
        self.zeros(family.bytes() as u8)
    }

    pub fn zeros(self, n: u8) -> Self {
        self.push(&[0; Self::LONGEST][..usize::from(n).min(Self::LONGEST)])
    }

    pub fn protocol(self, protocol: Protocol) -> Self {
        self.push(&[protocol as u8, 0, 0, 0])
    }

    pub fn port(self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.push(&[high, low, 0, 0])
    }

    pub fn index(self, index: u32) -> Self {
        self.push(&index.to_ne_bytes())
    }

    pub fn bytes(self) -> Box<[u8]> {
        self.bytes[..self.used].into()
    }

    pub fn key(self) -> Key {
        Key { from: self.bytes(), to: None }
    }
}

/// An address and port as [`Content::Endpoints`] holds them.
pub fn endpoint_bytes(address: IpAddr, port: u16) -> Box<[u8]> {
    KeyBytes::default().address(address).port(port).bytes()
}
