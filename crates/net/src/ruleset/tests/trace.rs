//! Follows one packet through a ruleset, as the kernel would.

use std::net::IpAddr;

use super::super::{
    Action, Chain, Data, Family, Field, HookPoint, Key, KeyBytes, Match, NEW, Name, Protocol, Ruleset, Set, Side,
    Verdict,
};

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// Sent by the node itself.
    pub from_node: bool,
    /// Stands for every random number.
    pub random: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To a process in the node's own network namespace.
    Input,
    Forwarded,
    Dropped,
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub fate: Fate,
    /// After translation.
    pub destination: (IpAddr, u16),
    pub masqueraded: bool,
}

enum Outcome {
    /// The end of a chain: on with the caller's next rule.
    Return,
    Accept,
    Drop,
    Reject,
}

struct Walk<'a> {
    rules: &'a Ruleset,
    packet: Packet,
    local: &'a dyn Fn(IpAddr) -> bool,
    mark: u32,
    translated: bool,
    masqueraded: bool,
    /// Sticky choices are not remembered between packets; chains deeper than the kernel allows end the walk.
    depth: u32,
}

/// Follows `packet`; `local` says which addresses are the node's own.
pub fn trace(packet: &Packet, rules: &Ruleset, local: &dyn Fn(IpAddr) -> bool) -> Trace {
    let mut walk =
        Walk { rules, packet: packet.clone(), local, mark: 0, translated: false, masqueraded: false, depth: 0 };
    let fate = walk.route();
    Trace { fate, destination: (walk.packet.destination, walk.packet.port), masqueraded: walk.masqueraded }
}

impl Walk<'_> {
    fn route(&mut self) -> Fate {
        let first = if self.packet.from_node { HookPoint::Output } else { HookPoint::Prerouting };
        if let Some(fate) = self.hook(first) {
            return fate;
        }
        let (fate, rest): (_, &[HookPoint]) = match ((self.local)(self.packet.destination), self.packet.from_node) {
            (true, _) => (Fate::Input, &[HookPoint::Input]),
            (false, true) => (Fate::Forwarded, &[HookPoint::Postrouting]),
            (false, false) => (Fate::Forwarded, &[HookPoint::Forward, HookPoint::Postrouting]),
        };
        rest.iter().find_map(|point| self.hook(*point)).unwrap_or(fate)
    }

    /// What ends the packet's way at this hook.
    fn hook(&mut self, point: HookPoint) -> Option<Fate> {
        let rules = self.rules;
        let mut chains: Vec<(i32, &Chain)> = rules
            .chains
            .values()
            .filter_map(|chain| chain.hook.filter(|h| h.point == point).map(|h| (h.priority, chain)))
            .collect();
        chains.sort_by_key(|(priority, _)| *priority);
        chains.into_iter().find_map(|(_, chain)| match self.chain(chain) {
            Outcome::Return | Outcome::Accept => None,
            Outcome::Drop => Some(Fate::Dropped),
            Outcome::Reject => Some(Fate::Rejected),
        })
    }

    fn chain(&mut self, chain: &Chain) -> Outcome {
        self.depth += 1;
        if self.depth > 16 {
            return Outcome::Drop;
        }
        let outcome = self.rules_of(chain);
        self.depth -= 1;
        outcome
    }

    fn rules_of(&mut self, chain: &Chain) -> Outcome {
        'rules: for rule in &chain.rules {
            if !rule.when.iter().all(|condition| self.holds(condition)) {
                continue;
            }
            for action in &rule.then {
                let verdict = match action {
                    Action::Verdict(verdict) => verdict.clone(),
                    Action::Map(key, map) => match self.look_up(key, map) {
                        Some(Data::Verdict(verdict)) => verdict,
                        _ => continue 'rules,
                    },
                    Action::Dnat { key, map, .. } => {
                        let Some(Data::Endpoint(bytes)) = self.look_up(key, map) else { continue 'rules };
                        let Some((address, port)) = endpoint_of(&bytes) else { continue 'rules };
                        (self.packet.destination, self.packet.port) = (address, port);
                        self.translated = true;
                        return Outcome::Accept;
                    }
                    Action::Mark(bits) => {
                        self.mark |= bits;
                        continue;
                    }
                    Action::Unmark(bits) => {
                        self.mark &= !bits;
                        continue;
                    }
                    Action::Masquerade => {
                        self.masqueraded = true;
                        return Outcome::Accept;
                    }
                    Action::Reject => return Outcome::Reject,
                };
                match verdict {
                    Verdict::Accept => return Outcome::Accept,
                    Verdict::Drop => return Outcome::Drop,
                    Verdict::Return => return Outcome::Return,
                    Verdict::Goto(name) => return self.named(&name),
                    Verdict::Jump(name) => match self.named(&name) {
                        Outcome::Return => {}
                        other => return other,
                    },
                }
            }
        }
        Outcome::Return
    }

    fn named(&mut self, name: &Name) -> Outcome {
        let rules = self.rules;
        // The kernel refuses a verdict without its chain; here it is a visible drop.
        rules.chains.get(name).map_or(Outcome::Drop, |chain| self.chain(chain))
    }

    fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Source => self.packet.source,
            Side::Destination => self.packet.destination,
        }
    }

    fn holds(&self, condition: &Match) -> bool {
        match condition {
            Match::Family(family) => Family::of(&self.packet.destination) == *family,
            // No packet of a trace comes in through the loopback link.
            Match::Iif(name, is) => (&**name == "lo") != *is,
            Match::State(bits) => bits & NEW != 0,
            Match::Translated => self.translated,
            Match::Local(side, is) => (self.local)(self.address(*side)) == *is,
            Match::Within(side, cidr, is) => cidr.contains(self.address(*side)) == *is,
            Match::Protocol(protocol) => self.packet.protocol == *protocol,
            Match::Ports(from, to) => (*from..=*to).contains(&self.packet.port),
            Match::Marked(bits) => self.mark & bits != 0,
            Match::In(key, set) => self.look_up(key, set).is_some(),
            Match::NotIn(key, set) => self.look_up(key, set).is_none(),
        }
    }

    fn look_up(&self, key: &[Field], set: &Name) -> Option<Data> {
        let Set { kind, elements } = self.rules.sets.get(set)?;
        let bytes = key.iter().fold(KeyBytes::default(), |bytes, field| match field {
            Field::Address(_, side) => bytes.address(self.address(*side)),
            Field::Protocol => bytes.protocol(self.packet.protocol),
            Field::Port => bytes.port(self.packet.port),
            Field::Random(below) => bytes.index(self.packet.random % below),
            Field::Zeros(n) => bytes.zeros(*n),
        });
        let from = bytes.bytes();
        if !kind.ranges {
            return elements.get(&Key { from, to: None }).cloned();
        }
        // Every field of a range is compared by itself.
        let inside = |range: &Key| {
            let mut at = 0;
            kind.key.iter().all(|field| {
                let part = at..at + field.bytes();
                at = part.end;
                let to = range.to.as_ref().unwrap_or(&range.from);
                match (range.from.get(part.clone()), from.get(part.clone()), to.get(part)) {
                    (Some(low), Some(value), Some(high)) => low <= value && value <= high,
                    _ => false,
                }
            })
        };
        elements.iter().find(|(range, _)| inside(range)).map(|(_, data)| data.clone())
    }
}

/// The reverse of [`endpoint_bytes`].
pub fn endpoint_of(bytes: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some((address, u16::from_be_bytes([port[0], port[1]])))
}
