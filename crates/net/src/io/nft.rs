//! Our nftables table in the kernel: what it has, and transactions on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::link::octets;
use super::netlink::{Attributes, Message, Socket};
use super::{Error, Result};
use crate::ruleset::{
    Action, Batch, ChainState, Change, Content, Data, Family, Field, Hook, HookPoint, Key, Match, Name, Remember, Rule,
    SetKind, SetState, Shape, Side, State, TABLE, Verdict,
};

const SUBSYSTEM: u8 = 10;
const INET: u8 = 1;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

mod msg {
    pub const NEW_TABLE: u16 = 0;
    pub const GET_TABLE: u16 = 1;
    pub const DEL_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const DEL_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const DEL_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const GET_SET: u16 = 10;
    pub const DEL_SET: u16 = 11;
    pub const NEW_ELEMENTS: u16 = 12;
    pub const GET_ELEMENTS: u16 = 13;
    pub const DEL_ELEMENTS: u16 = 14;
}

/// An attribute's length has 16 bits; an IPv6 element takes about 120 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

fn message(kind: u16, flags: u16) -> Message {
    Message::new(u16::from(SUBSYSTEM) << 8 | kind, flags, &[INET, 0, 0, 0])
}

/// About our table.
fn of_table(kind: u16, flags: u16) -> Message {
    let mut m = message(kind, flags);
    m.text(1, TABLE);
    m
}

/// About something in our table, whose name is this attribute.
fn named(kind: u16, flags: u16, attribute: u16, name: &str) -> Message {
    let mut m = of_table(kind, flags);
    m.text(attribute, name);
    m
}

/// The registers of 32 bits: keys from the first one, an endpoint's data at the end.
const KEY: u32 = 8;
fn data_register(family: Family) -> u32 {
    KEY + 16 - (family.bytes() as u32 / 4 + 1)
}

/// Somebody's chain at a hook.
pub(super) struct BaseChain {
    pub family: u8,
    pub table: String,
    pub chain: String,
    pub hook: Hook,
    /// By default.
    pub drops: bool,
}

/// A handle on the tables of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// In the thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Nft { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Does all of `batch` or nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        let mut origin = Vec::new();
        for (index, change) in batch.0.iter().enumerate() {
            encode(change, &mut messages);
            origin.resize(messages.len(), index);
        }
        self.socket.batch(SUBSYSTEM, messages).map_err(|(at, source)| {
            let what = origin.get(at).and_then(|index| batch.0.get(*index)).map_or_else(String::new, describe);
            Error::Kernel { action: format!("change table inet {TABLE}: {what}"), source }
        })
    }

    /// Removes the table, if there is one.
    pub fn remove(&mut self) -> Result<()> {
        self.socket
            .batch(SUBSYSTEM, vec![of_table(msg::NEW_TABLE, CREATE), of_table(msg::DEL_TABLE, 0)])
            .map_err(|(_, source)| Error::Kernel { action: format!("remove table inet {TABLE}"), source })
    }

    fn dump(&mut self, kind: u16, set: Option<&str>, each: impl FnMut(Attributes<'_>)) -> Result<()> {
        let mut request = of_table(kind, 0);
        if let Some(set) = set {
            request.text(2, set);
        }
        self.dump_raw(request, each)
            .map_err(|source| Error::Kernel { action: format!("read table inet {TABLE}"), source })
    }

    fn dump_raw(&mut self, request: Message, mut each: impl FnMut(Attributes<'_>)) -> io::Result<()> {
        self.socket.dump(request, |_, payload| each(Attributes(payload.get(4..).unwrap_or_default())))
    }

    /// Things of one kind of every table; `each` gets their table's family and name.
    fn dump_all(&mut self, kind: u16, mut each: impl FnMut(u8, &str, Attributes<'_>)) -> io::Result<()> {
        let request = Message::new(u16::from(SUBSYSTEM) << 8 | kind, 0, &[0, 0, 0, 0]);
        self.socket.dump(request, |_, payload| {
            let attributes = Attributes(payload.get(4..).unwrap_or_default());
            if let (Some(family), Some(table)) = (payload.first(), attributes.text(1)) {
                each(*family, table, attributes);
            }
        })
    }

    /// Every base chain of every table.
    pub(super) fn base_chains(&mut self) -> Result<Vec<BaseChain>> {
        let mut found = Vec::new();
        self.dump_all(msg::GET_CHAIN, |family, table, a| {
            if let (Some(chain), Some(hook)) = (a.text(3), hook_of(a)) {
                let drops = a.be32(5) == Some(0);
                found.push(BaseChain { family, table: table.to_owned(), chain: chain.to_owned(), hook, drops });
            }
        })
        .map_err(|source| Error::Kernel { action: "list nftables chains".into(), source })?;
        Ok(found)
    }

    /// Chains with a rule that drops or rejects whatever reaches it: (family, table, chain).
    pub(super) fn closed_chains(&mut self) -> Result<BTreeSet<(u8, String, String)>> {
        let mut found = BTreeSet::new();
        self.dump_all(msg::GET_RULE, |family, table, a| {
            if let Some(chain) = a.text(2).filter(|_| closes(a.nest(4))) {
                found.insert((family, table.to_owned(), chain.to_owned()));
            }
        })
        .map_err(|source| Error::Kernel { action: "list nftables rules".into(), source })?;
        Ok(found)
    }

    /// What the kernel has of our table.
    pub fn read(&mut self) -> Result<State> {
        let mut state = State::default();
        // Dumping tables ignores the name, so the right one is looked for.
        let request = message(msg::GET_TABLE, 0);
        let mut table = false;
        self.dump_raw(request, |a| table |= a.text(1) == Some(TABLE))
            .map_err(|source| Error::Kernel { action: "list nftables tables".into(), source })?;
        if !table {
            return Ok(state);
        }
        state.table = true;
        self.dump(msg::GET_CHAIN, None, |a| {
            if let (Some(TABLE), Some(name)) = (a.text(1), a.text(3)) {
                state.chains.insert(name.into(), ChainState { hook: hook_of(a), rules: Vec::new() });
            }
        })?;
        self.dump(msg::GET_RULE, None, |a| {
            let chain = a.text(2).filter(|_| a.text(1) == Some(TABLE)).and_then(|name| state.chains.get_mut(name));
            if let Some(chain) = chain {
                chain.rules.push(a.find(7).and_then(digest_of).unwrap_or(0));
            }
        })?;
        self.dump(msg::GET_SET, None, |a| {
            if let (Some(TABLE), Some(name)) = (a.text(1), a.text(2)) {
                let number = |kind| a.be32(kind).unwrap_or(0);
                let mut shape = Shape {
                    flags: number(3),
                    key_type: number(4),
                    key_bytes: number(5),
                    data_type: number(6),
                    data_bytes: number(7),
                };
                // A verdict's size is the kernel's own business.
                if shape.holds_verdicts() {
                    shape.data_bytes = 0;
                }
                let dynamic = shape.is_dynamic();
                state.sets.insert(name.into(), SetState { shape, dynamic, elements: BTreeMap::new() });
            }
        })?;
        let names: Vec<Name> =
            state.sets.iter().filter(|(_, set)| !set.dynamic).map(|(name, _)| name.clone()).collect();
        for name in names {
            let elements = self.elements(&name)?;
            if let Some(set) = state.sets.get_mut(&name) {
                set.elements = join_ranges(elements, set.shape);
            }
        }
        Ok(state)
    }

    fn elements(&mut self, set: &str) -> Result<Vec<RawElement>> {
        let mut all = Vec::new();
        self.dump(msg::GET_ELEMENTS, Some(set), |a| {
            for (_, element) in a.nest(3) {
                let element = Attributes(element);
                if let Some(key) = element.nest(1).find(1) {
                    let to = element.nest(10).find(1).map(Box::from);
                    let end = element.be32(3).unwrap_or(0) & INTERVAL_END != 0;
                    all.push(RawElement { key: key.into(), to, end, data: data_of(element.nest(2)) });
                }
            }
        })?;
        Ok(all)
    }

    /// Elements of a map that packets fill: key and endpoint.
    pub fn remembered(&mut self, map: &str) -> Result<Vec<(Key, Data)>> {
        let elements = self.elements(map)?;
        Ok(elements.into_iter().map(|e| (Key { from: e.key, to: None }, e.data)).collect())
    }
}

/// The rule has no condition and ends in a drop or a rejection.
fn closes(expressions: Attributes<'_>) -> bool {
    let mut ends = false;
    for (_, expression) in expressions {
        let expression = Attributes(expression);
        match expression.text(1) {
            Some("counter" | "log") => {}
            Some("reject") => ends = true,
            Some("immediate") => ends |= data_of(expression.nest(2).nest(2)) == Data::Verdict(Verdict::Drop),
            _ => return false,
        }
    }
    ends
}

struct RawElement {
    key: Box<[u8]>,
    to: Option<Box<[u8]>>,
    end: bool,
    data: Data,
}

const INTERVAL_END: u32 = 1;

/// A set of single ranges holds starts and (exclusive) ends as elements of their own.
fn join_ranges(mut elements: Vec<RawElement>, shape: Shape) -> BTreeMap<Key, Data> {
    if !shape.is_single_range() {
        return elements.into_iter().map(|e| (Key { from: e.key, to: e.to }, e.data)).collect();
    }
    elements.sort_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)));
    let mut ranges = BTreeMap::new();
    let mut open: Option<Box<[u8]>> = None;
    for element in elements {
        match (element.end, open.take()) {
            (true, Some(from)) => {
                ranges.insert(Key { from, to: Some(step(&element.key, false)) }, Data::Nothing);
            }
            (true, None) => {}
            (false, _) => open = Some(element.key),
        }
    }
    if let Some(from) = open {
        let to = vec![0xff; from.len()].into();
        ranges.insert(Key { from, to: Some(to) }, Data::Nothing);
    }
    ranges
}

/// The number after (or before) this one, both in network order; wraps.
fn step(bytes: &[u8], up: bool) -> Box<[u8]> {
    let mut bytes: Box<[u8]> = bytes.into();
    for byte in bytes.iter_mut().rev() {
        let (next, carry) = if up { byte.overflowing_add(1) } else { byte.overflowing_sub(1) };
        *byte = next;
        if !carry {
            break;
        }
    }
    bytes
}

fn hook_of(chain: Attributes<'_>) -> Option<Hook> {
    let hook = chain.nest(4);
    let point = match hook.be32(1)? {
        0 => HookPoint::Prerouting,
        1 => HookPoint::Input,
        2 => HookPoint::Forward,
        3 => HookPoint::Output,
        4 => HookPoint::Postrouting,
        _ => return None,
    };
    Some(Hook { point, priority: hook.be32(2)? as i32, nat: chain.text(7) == Some("nat") })
}

const COMMENT: &str = "sampan ";

fn digest_of(userdata: &[u8]) -> Option<u64> {
    let text = super::netlink::text(userdata.get(2..)?)?;
    u64::from_str_radix(text.strip_prefix(COMMENT)?, 16).ok()
}

fn data_of(data: Attributes<'_>) -> Data {
    if let Some(value) = data.find(1) {
        return Data::Endpoint(value.into());
    }
    let verdict = data.nest(2);
    let chain = || verdict.text(2).map(Name::from);
    let verdict = match (verdict.be32(1).map(|code| code as i32), chain()) {
        (Some(0), _) => Verdict::Drop,
        (Some(1), _) => Verdict::Accept,
        (Some(-5), _) => Verdict::Return,
        (Some(-3), Some(chain)) => Verdict::Jump(chain),
        (Some(-4), Some(chain)) => Verdict::Goto(chain),
        _ => return Data::Nothing,
    };
    Data::Verdict(verdict)
}

fn describe(change: &Change) -> String {
    match change {
        Change::AddTable => "add table".into(),
        Change::AddChain(name, _) => format!("add chain {name}"),
        Change::FlushChain(name) => format!("flush chain {name}"),
        Change::DeleteChain(name) => format!("delete chain {name}"),
        Change::AddSet(name, _) => format!("add set {name}"),
        Change::DeleteSet(name) => format!("delete set {name}"),
        Change::AddElements(name, _, all) => format!("add {} elements to {name}", all.len()),
        Change::DeleteElements(name, _, all) => format!("delete {} elements of {name}", all.len()),
        Change::AddRule(name, rule) => format!("add rule to {name}: {rule:?}"),
    }
}

fn encode(change: &Change, out: &mut Vec<Message>) {
    match change {
        Change::AddTable => {
            let mut m = of_table(msg::NEW_TABLE, CREATE);
            m.be32(2, 0);
            out.push(m);
        }
        Change::AddChain(name, hook) => {
            let mut m = named(msg::NEW_CHAIN, CREATE, 3, name);
            if let Some(hook) = hook {
                m.nest(4, |m| m.be32s(&[(1, hook.point as u32), (2, hook.priority as u32)]));
                m.text(7, if hook.nat { "nat" } else { "filter" });
                m.be32(5, 1);
            }
            out.push(m);
        }
        Change::FlushChain(name) => out.push(named(msg::DEL_RULE, 0, 2, name)),
        Change::DeleteChain(name) => out.push(named(msg::DEL_CHAIN, 0, 3, name)),
        Change::AddSet(name, kind) => out.push(encode_set(name, kind)),
        Change::DeleteSet(name) => out.push(named(msg::DEL_SET, 0, 2, name)),
        Change::AddElements(name, shape, elements) => {
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let mut m = named(msg::NEW_ELEMENTS, CREATE, 2, name);
                m.nest(3, |m| chunk.iter().for_each(|(key, data)| encode_element(m, *shape, key, data)));
                out.push(m);
            }
        }
        Change::DeleteElements(name, shape, keys) => {
            for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
                let mut m = named(msg::DEL_ELEMENTS, 0, 2, name);
                m.nest(3, |m| chunk.iter().for_each(|key| encode_element(m, *shape, key, &Data::Nothing)));
                out.push(m);
            }
        }
        Change::AddRule(chain, rule) => {
            let mut m = named(msg::NEW_RULE, CREATE | APPEND, 2, chain);
            m.nest(4, |m| encode_rule(&mut Expressions(m), rule));
            let comment = format!("{COMMENT}{:016x}\0", rule.digest());
            let mut userdata = vec![0, comment.len() as u8];
            userdata.extend_from_slice(comment.as_bytes());
            m.attr(7, &userdata);
            out.push(m);
        }
    }
}

fn encode_set(name: &str, kind: &SetKind) -> Message {
    let shape = kind.shape();
    let mut m = named(msg::NEW_SET, CREATE, 2, name);
    m.be32s(&[(3, shape.flags), (4, shape.key_type), (5, shape.key_bytes)]);
    if kind.content != Content::Nothing {
        m.be32(6, shape.data_type);
        if shape.data_bytes > 0 {
            m.be32(7, shape.data_bytes);
        }
    }
    m.nest(9, |m| {
        // Without a size the kernel's packet path adds nothing.
        if kind.dynamic {
            m.be32(1, 262_144);
        }
        if kind.ranges && kind.key.len() > 1 {
            m.nest(2, |m| {
                for field in &kind.key {
                    m.nest(1, |m| m.be32(1, field.bytes() as u32));
                }
            });
        }
    });
    // Unused within a batch that names sets, but mandatory.
    m.be32(10, 1);
    m
}

fn encode_element(m: &mut Message, shape: Shape, key: &Key, data: &Data) {
    let single_range = shape.is_single_range();
    m.nest(1, |m| {
        m.nest(1, |m| m.attr(1, &key.from));
        match data {
            Data::Nothing => {}
            Data::Verdict(verdict) => m.nest(2, |m| encode_verdict(m, verdict)),
            Data::Endpoint(bytes) => m.nest(2, |m| m.attr(1, bytes)),
        }
        if let (Some(to), false) = (&key.to, single_range) {
            m.nest(10, |m| m.attr(1, to));
        }
    });
    if let (Some(to), true) = (&key.to, single_range)
        && to.iter().any(|byte| *byte != 0xff)
    {
        m.nest(1, |m| {
            m.nest(1, |m| m.attr(1, &step(to, true)));
            m.be32(3, INTERVAL_END);
        });
    }
}

fn encode_verdict(m: &mut Message, verdict: &Verdict) {
    let (code, chain): (i32, Option<&Name>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    m.nest(2, |m| {
        m.be32(1, code as u32);
        if let Some(chain) = chain {
            m.text(2, chain);
        }
    });
}

/// The list of a rule's expressions.
struct Expressions<'a>(&'a mut Message);

impl Expressions<'_> {
    fn push(&mut self, name: &str, fill: impl FnOnce(&mut Message)) {
        self.0.nest(1, |m| {
            m.text(1, name);
            m.nest(2, fill);
        });
    }

    fn numbers(&mut self, name: &str, attributes: &[(u16, u32)]) {
        self.push(name, |m| m.be32s(attributes));
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.numbers("meta", &[(2, key), (1, register)]);
    }

    fn ct(&mut self, key: u32) {
        self.numbers("ct", &[(2, key), (1, KEY)]);
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.numbers("payload", &[(1, register), (2, base), (3, offset), (4, length)]);
    }

    fn address(&mut self, family: Family, side: Side, register: u32) {
        let offset = match (family, side) {
            (Family::V4, Side::Source) => 12,
            (Family::V4, Side::Destination) => 16,
            (Family::V6, Side::Source) => 8,
            (Family::V6, Side::Destination) => 24,
        };
        self.payload(register, 1, offset, family.bytes() as u32);
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.push("immediate", |m| {
            m.be32(1, register);
            m.nest(2, |m| m.attr(1, value));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.push("cmp", |m| {
            m.be32s(&[(1, KEY), (2, operator)]);
            m.nest(3, |m| m.attr(1, value));
        });
    }

    /// `register = register & mask ^ flip`
    fn bits(&mut self, mask: &[u8], flip: &[u8]) {
        self.push("bitwise", |m| {
            m.be32s(&[(1, KEY), (2, KEY), (3, mask.len() as u32)]);
            m.nest(4, |m| m.attr(1, mask));
            m.nest(5, |m| m.attr(1, flip));
        });
    }

    /// Loads a key into consecutive registers.
    fn key(&mut self, fields: &[Field]) {
        let mut register = KEY;
        for field in fields {
            match *field {
                Field::Address(family, side) => {
                    self.address(family, side, register);
                    register += family.bytes() as u32 / 4;
                    continue;
                }
                Field::Protocol => self.meta(16, register),
                Field::Port => self.payload(register, 2, 2, 2),
                Field::Random(below) => self.numbers("numgen", &[(1, register), (2, below.max(1)), (3, 1), (4, 0)]),
                Field::Zeros(n) => {
                    self.immediate(register, &vec![0; usize::from(n)]);
                    register += u32::from(n) / 4;
                    continue;
                }
            }
            register += 1;
        }
    }

    fn look_up(&mut self, set: &str, into: Option<u32>, inverted: bool) {
        self.push("lookup", |m| {
            m.text(1, set);
            m.be32(2, KEY);
            if let Some(register) = into {
                m.be32(3, register);
            }
            if inverted {
                m.be32(5, 1);
            }
        });
    }
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
/// The register that a verdict goes to.
const VERDICT: u32 = 0;

fn address_family(family: Family) -> u8 {
    if family == Family::V4 { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn operator(is: bool) -> u32 {
    if is { EQUAL } else { NOT_EQUAL }
}

fn encode_rule(e: &mut Expressions<'_>, rule: &Rule) {
    rule.when.iter().for_each(|condition| encode_match(e, condition));
    rule.then.iter().for_each(|action| encode_action(e, action));
}

fn encode_match(e: &mut Expressions<'_>, condition: &Match) {
    let any_bit = |e: &mut Expressions<'_>, bits: u32| {
        e.bits(&bits.to_ne_bytes(), &[0; 4]);
        e.compare(NOT_EQUAL, &[0; 4]);
    };
    match condition {
        Match::Family(family) => {
            e.meta(15, KEY);
            e.compare(EQUAL, &[address_family(*family)]);
        }
        Match::Iif(name, is) => {
            e.meta(6, KEY);
            let mut bytes = [0; 16];
            name.bytes().take(15).zip(&mut bytes).for_each(|(from, to)| *to = from);
            e.compare(operator(*is), &bytes);
        }
        Match::State(bits) => {
            e.ct(0);
            any_bit(e, *bits);
        }
        Match::Translated => {
            const DST_NAT: u32 = 0x20;
            e.ct(2);
            any_bit(e, DST_NAT);
        }
        Match::Local(side, is) => {
            const ADDRESS_TYPE: u32 = 3;
            const RTN_LOCAL: u32 = 2;
            let of = if *side == Side::Source { 1 } else { 2 };
            e.numbers("fib", &[(1, KEY), (2, ADDRESS_TYPE), (3, of)]);
            e.compare(operator(*is), &RTN_LOCAL.to_ne_bytes());
        }
        Match::Within(side, cidr, is) => {
            e.address(cidr.family(), *side, KEY);
            let mask = octets(cidr.mask());
            e.bits(&mask, &vec![0; mask.len()]);
            e.compare(operator(*is), &octets(cidr.address()));
        }
        Match::Protocol(protocol) => {
            e.meta(16, KEY);
            e.compare(EQUAL, &[*protocol as u8]);
        }
        Match::Ports(from, to) => {
            e.payload(KEY, 2, 2, 2);
            if from == to {
                e.compare(EQUAL, &from.to_be_bytes());
            } else {
                e.compare(AT_LEAST, &from.to_be_bytes());
                e.compare(AT_MOST, &to.to_be_bytes());
            }
        }
        Match::Marked(bits) => {
            e.meta(3, KEY);
            any_bit(e, *bits);
        }
        Match::In(key, set) => {
            e.key(key);
            e.look_up(set, None, false);
        }
        Match::NotIn(key, set) => {
            e.key(key);
            e.look_up(set, None, true);
        }
    }
}

fn encode_action(e: &mut Expressions<'_>, action: &Action) {
    let set_mark = |e: &mut Expressions<'_>, mask: u32, flip: u32| {
        e.meta(3, KEY);
        e.bits(&mask.to_ne_bytes(), &flip.to_ne_bytes());
        e.numbers("meta", &[(2, 3), (3, KEY)]);
    };
    match action {
        Action::Verdict(verdict) => e.push("immediate", |m| {
            m.be32(1, VERDICT);
            m.nest(2, |m| encode_verdict(m, verdict));
        }),
        Action::Map(key, map) => {
            e.key(key);
            e.look_up(map, Some(VERDICT), false);
        }
        Action::Dnat { family, key, map, remember } => {
            let data = data_register(*family);
            e.key(key);
            e.look_up(map, Some(data), false);
            if let Some(Remember { key, map, timeout_seconds }) = remember {
                const UPDATE: u32 = 1;
                e.key(key);
                e.push("dynset", |m| {
                    m.text(1, map);
                    m.be32s(&[(3, UPDATE), (4, KEY), (5, data)]);
                    m.attr(6, &(u64::from(*timeout_seconds) * 1000).to_be_bytes());
                });
            }
            const DNAT: u32 = 1;
            let port = data + family.bytes() as u32 / 4;
            e.numbers("nat", &[(1, DNAT), (2, address_family(*family).into()), (3, data), (5, port)]);
        }
        Action::Mark(bits) => set_mark(e, !bits, *bits),
        Action::Unmark(bits) => set_mark(e, !bits, 0),
        Action::Masquerade => {
            // Random ports: two clients' flows must not race for one (as upstream's fully-random).
            const FULLY_RANDOM: u32 = 16;
            e.numbers("masq", &[(1, FULLY_RANDOM)]);
        }
        Action::Reject => {
            // A reset for TCP and ICMP for the rest need two rules; port unreachable serves both, as upstream's plain reject.
            const ICMPX: u32 = 2;
            const PORT_UNREACHABLE: u8 = 1;
            e.push("reject", |m| {
                m.be32(1, ICMPX);
                m.attr(2, &[PORT_UNREACHABLE]);
            });
        }
    }
}
