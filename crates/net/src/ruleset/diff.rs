//! The difference between the table in the kernel and the one that is wanted, as one transaction.

use std::collections::BTreeMap;

use super::{Content, Data, Family, Hook, Key, KeyField, Name, Rule, Ruleset, Set, SetKind};

/// One step of a transaction; the order in a [`Batch`] is one that the kernel accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    AddTable,
    AddChain(Name, Option<Hook>),
    FlushChain(Name),
    DeleteChain(Name),
    AddSet(Name, SetKind),
    DeleteSet(Name),
    AddElements(Name, Shape, Vec<(Key, Data)>),
    DeleteElements(Name, Shape, Vec<Key>),
    AddRule(Name, Rule),
}

/// Happens as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(pub Vec<Change>);

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The kernel's numbers for a set's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub key_type: u32,
    pub key_bytes: u32,
    /// 0: a set.
    pub data_type: u32,
    pub data_bytes: u32,
    pub flags: u32,
}

impl SetKind {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    const VERDICT: u32 = 0xffff_ff00;

    /// Types are those of the nft command, so that it can print our table; `mark` is its plain number.
    pub fn shape(&self) -> Shape {
        let number = |field: &KeyField| match field {
            KeyField::Address(Family::V4) => 7,
            KeyField::Address(Family::V6) => 8,
            KeyField::Protocol => 12,
            KeyField::Port => 13,
            KeyField::Index => 19,
        };
        let key_type = self.key.iter().fold(0, |all, field| all << 6 | number(field));
        let (data_type, data_bytes) = match self.content {
            Content::Nothing => (0, 0),
            Content::Verdicts => (Self::VERDICT, 0),
            Content::Endpoints(Family::V4) => (7 << 6 | 13, 8),
            Content::Endpoints(Family::V6) => (8 << 6 | 13, 20),
        };
        let flags = [
            (self.ranges, Self::INTERVAL),
            (self.ranges && self.key.len() > 1, Self::CONCAT),
            (self.content != Content::Nothing, Self::MAP),
            (self.dynamic, Self::TIMEOUT | Self::EVAL),
        ];
        Shape {
            key_type,
            key_bytes: self.key.iter().map(|field| field.bytes() as u32).sum(),
            data_type,
            data_bytes,
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum(),
        }
    }
}

impl Shape {
    pub fn is_dynamic(&self) -> bool {
        self.flags & SetKind::EVAL != 0
    }

    pub fn holds_verdicts(&self) -> bool {
        self.data_type == SetKind::VERDICT
    }

    /// Ranges of one field, which the kernel keeps in another way than those of several.
    pub fn is_single_range(&self) -> bool {
        self.flags & SetKind::INTERVAL != 0 && self.flags & SetKind::CONCAT == 0
    }
}

impl KeyField {
    pub fn bytes(&self) -> usize {
        match self {
            KeyField::Address(family) => family.bytes(),
            _ => 4,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    pub hook: Option<Hook>,
    /// Digests; 0 for a rule that is not ours.
    pub rules: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    pub shape: Shape,
    pub dynamic: bool,
    pub elements: BTreeMap<Key, Data>,
}

/// What the kernel has of our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub table: bool,
    pub chains: BTreeMap<Name, ChainState>,
    pub sets: BTreeMap<Name, SetState>,
}

impl From<&Ruleset> for State {
    fn from(rules: &Ruleset) -> Self {
        State {
            table: true,
            chains: rules
                .chains
                .iter()
                .map(|(name, chain)| {
                    let rules = chain.rules.iter().map(Rule::digest).collect();
                    (name.clone(), ChainState { hook: chain.hook, rules })
                })
                .collect(),
            sets: rules
                .sets
                .iter()
                .map(|(name, Set { kind, elements })| {
                    let elements = elements.clone();
                    (name.clone(), SetState { shape: kind.shape(), dynamic: kind.dynamic, elements })
                })
                .collect(),
        }
    }
}

/// What brings `current` to `wanted`; empty if nothing differs.
///
/// Rules go chain by chain (a changed chain is flushed and written again), elements one by one.
pub fn diff(current: &State, wanted: &Ruleset) -> Batch {
    let mut flush = Vec::new();
    let mut delete_elements = Vec::new();
    let mut delete_sets = Vec::new();
    let mut delete_chains = Vec::new();
    let mut add_chains = Vec::new();
    let mut add_sets = Vec::new();
    let mut add_elements = Vec::new();
    let mut add_rules = Vec::new();

    for (name, state) in &current.chains {
        let kept = wanted.chains.get(name).filter(|chain| chain.hook == state.hook);
        if kept.is_none() {
            delete_chains.push(Change::DeleteChain(name.clone()));
        }
        let same = kept.is_some_and(|chain| chain.rules.iter().map(Rule::digest).eq(state.rules.iter().copied()));
        if !same && !state.rules.is_empty() {
            flush.push(Change::FlushChain(name.clone()));
        }
    }
    for (name, chain) in &wanted.chains {
        let there = current.chains.get(name).filter(|state| state.hook == chain.hook);
        if there.is_none() {
            add_chains.push(Change::AddChain(name.clone(), chain.hook));
        }
        let digests = chain.rules.iter().map(Rule::digest);
        if !there.is_some_and(|state| digests.eq(state.rules.iter().copied())) {
            add_rules.extend(chain.rules.iter().map(|rule| Change::AddRule(name.clone(), rule.clone())));
        }
    }
    for name in current.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
        delete_sets.push(Change::DeleteSet(name.clone()));
    }
    for (name, set) in &wanted.sets {
        let there = match current.sets.get(name) {
            Some(state) if state.shape == set.kind.shape() => Some(state),
            Some(_) => {
                delete_sets.push(Change::DeleteSet(name.clone()));
                None
            }
            None => None,
        };
        let Some(state) = there else {
            add_sets.push(Change::AddSet(name.clone(), set.kind.clone()));
            if !set.elements.is_empty() {
                let all = set.elements.iter().map(|(key, data)| (key.clone(), data.clone())).collect();
                add_elements.push(Change::AddElements(name.clone(), set.kind.shape(), all));
            }
            continue;
        };
        if set.kind.dynamic {
            continue;
        }
        let (gone, new) = compare(&state.elements, &set.elements);
        if !gone.is_empty() {
            delete_elements.push(Change::DeleteElements(name.clone(), state.shape, gone));
        }
        if !new.is_empty() {
            add_elements.push(Change::AddElements(name.clone(), state.shape, new));
        }
    }
    let table = if current.table { vec![] } else { vec![Change::AddTable] };
    let order =
        [table, flush, delete_elements, delete_sets, delete_chains, add_chains, add_sets, add_elements, add_rules];
    Batch(order.into_iter().flatten().collect())
}

/// Walks both maps at once: which keys go, which elements come (a changed one does both).
fn compare(current: &BTreeMap<Key, Data>, wanted: &BTreeMap<Key, Data>) -> (Vec<Key>, Vec<(Key, Data)>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let (mut old, mut want) = (current.iter().peekable(), wanted.iter().peekable());
    loop {
        let order = match (old.peek(), want.peek()) {
            (None, None) => return (gone, new),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = order.is_le().then(|| old.next()).flatten();
        let right = order.is_ge().then(|| want.next()).flatten();
        if left != right {
            gone.extend(left.map(|(key, _)| key.clone()));
            new.extend(right.map(|(key, data)| (key.clone(), data.clone())));
        }
    }
}

impl State {
    /// The state after `batch`; what the kernel does, for bookkeeping after a commit.
    pub fn advance(&mut self, batch: Batch) {
        for change in batch.0 {
            match change {
                Change::AddTable => self.table = true,
                Change::AddChain(name, hook) => {
                    self.chains.insert(name, ChainState { hook, rules: Vec::new() });
                }
                Change::FlushChain(name) => {
                    if let Some(chain) = self.chains.get_mut(&name) {
                        chain.rules.clear();
                    }
                }
                Change::DeleteChain(name) => {
                    self.chains.remove(&name);
                }
                Change::AddSet(name, kind) => {
                    let state = SetState { shape: kind.shape(), dynamic: kind.dynamic, elements: BTreeMap::new() };
                    self.sets.insert(name, state);
                }
                Change::DeleteSet(name) => {
                    self.sets.remove(&name);
                }
                Change::AddElements(name, _, elements) => {
                    if let Some(set) = self.sets.get_mut(&name) {
                        set.elements.extend(elements);
                    }
                }
                Change::DeleteElements(name, _, keys) => {
                    if let Some(set) = self.sets.get_mut(&name) {
                        keys.iter().for_each(|key| {
                            set.elements.remove(key);
                        });
                    }
                }
                Change::AddRule(name, rule) => {
                    if let Some(chain) = self.chains.get_mut(&name) {
                        chain.rules.push(rule.digest());
                    }
                }
            }
        }
    }
}
