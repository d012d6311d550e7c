//! Writing a ruleset: names, sets, and the chains that pick an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Action, Chain, Cidr, Content, Data, Family, Field, Key, KeyField, MASQUERADE, Match, Name, Remember, Rule, Ruleset,
    Set, SetKind, Side, Verdict,
};

/// The names of one family's sets and chains.
#[derive(Clone, Debug)]
pub struct Names {
    pub services: Name,
    pub external: Name,
    pub endpoints: Name,
    pub local_endpoints: Name,
    pub sticky: Name,
    pub hairpin: Name,
    pub cluster_ips: Name,
    pub unserved: Name,
    pub firewalled: Name,
    pub sources: Name,
    pub ingress: Name,
    pub egress: Name,
    pub firewall: Name,
    pub nat: Name,
    pub node_ports: Name,
    pub refuse: Name,
}

impl Names {
    pub fn of(family: Family) -> Self {
        let name = |stem: &str| Name::from(format!("{stem}{}", family.digit()));
        Names {
            services: name("services"),
            external: name("external"),
            endpoints: name("endpoints"),
            local_endpoints: name("local-endpoints"),
            sticky: name("sticky"),
            hairpin: name("hairpin"),
            cluster_ips: name("cluster-ips"),
            unserved: name("unserved"),
            firewalled: name("firewalled"),
            sources: name("sources"),
            ingress: name("ingress"),
            egress: name("egress"),
            firewall: name("firewall-"),
            nat: name("service-"),
            node_ports: name("node-ports-"),
            refuse: name("refuse-"),
        }
    }
}

/// How an endpoint is picked: there is one chain per way, not per service, so that services are only elements of maps.
///
/// The chain looks the original destination and a random number below `count` up in the endpoints' map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub family: Family,
    /// Reached by port alone, on any address of the node.
    pub any_address: bool,
    /// From the map of this node's endpoints, as the `Local` policies want.
    pub local: bool,
    /// Clients from outside of the pods' networks are masqueraded.
    pub masquerade: bool,
    pub count: u32,
    pub sticky_seconds: Option<u32>,
}

impl Pick {
    pub fn name(&self) -> Name {
        let flag = |on: bool, text: &'static str| if on { text } else { "" };
        let sticky = self.sticky_seconds.map(|seconds| format!("-for-{seconds}s")).unwrap_or_default();
        Name::from(format!(
            "pick{}{}{}{}-{}{sticky}",
            self.family.digit(),
            flag(self.any_address, "-port"),
            flag(self.local, "-local"),
            flag(self.masquerade, "-masq"),
            self.count
        ))
    }

    fn rules(&self, names: &Names, cluster_cidrs: &[Cidr]) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.masquerade {
            let own = cluster_cidrs.iter().filter(|cidr| cidr.family() == self.family);
            let outside: Vec<Match> = own.map(|cidr| Match::Within(Side::Source, *cidr, false)).collect();
            rules.push(Rule::new(outside, [Action::Mark(MASQUERADE)]));
        }
        let destination = if self.any_address {
            Field::Zeros(self.family.bytes() as u8)
        } else {
            Field::Address(self.family, Side::Destination)
        };
        let remember = self.sticky_seconds.map(|timeout_seconds| Remember {
            key: vec![Field::Address(self.family, Side::Source), destination, Field::Protocol, Field::Port],
            map: names.sticky.clone(),
            timeout_seconds,
        });
        let dnat =
            |key, map: &Name| Action::Dnat { family: self.family, key, map: map.clone(), remember: remember.clone() };
        if let Some(remember) = &remember {
            rules.push(Rule::new([], [dnat(remember.key.clone(), &remember.map)]));
        }
        let index = if self.count == 1 { Field::Zeros(4) } else { Field::Random(self.count) };
        let map = if self.local { &names.local_endpoints } else { &names.endpoints };
        rules.push(Rule::new([], [dnat(vec![destination, Field::Protocol, Field::Port, index], map)]));
        rules
    }
}

/// A ruleset in the making.
pub struct Builder {
    pub rules: Ruleset,
    names: [Arc<Names>; 2],
    picks: BTreeMap<Pick, Name>,
    /// Keys that two objects claim; the first one has them.
    pub conflicts: Vec<String>,
}

impl Builder {
    pub fn new() -> Self {
        let names = Family::ALL.map(|family| Arc::new(Names::of(family)));
        let mut builder = Builder { rules: Ruleset::default(), names, picks: BTreeMap::new(), conflicts: Vec::new() };
        for family in Family::ALL {
            let names = builder.names(family);
            let address = KeyField::Address(family);
            let frontend = vec![address, KeyField::Protocol, KeyField::Port];
            let with = |more: KeyField| [frontend.clone(), vec![more]].concat();
            builder.add_set(&names.services, frontend.clone(), Content::Verdicts);
            builder.add_set(&names.external, frontend.clone(), Content::Verdicts);
            builder.add_set(&names.unserved, frontend.clone(), Content::Verdicts);
            builder.add_set(&names.firewalled, frontend.clone(), Content::Verdicts);
            builder.add_set(&names.endpoints, with(KeyField::Index), Content::Endpoints(family));
            builder.add_set(&names.local_endpoints, with(KeyField::Index), Content::Endpoints(family));
            builder.add_set(&names.hairpin, vec![address, address], Content::Nothing);
            builder.add_set(&names.cluster_ips, vec![address], Content::Nothing);
            builder.add_set(&names.ingress, vec![address], Content::Verdicts);
            builder.add_set(&names.egress, vec![address], Content::Verdicts);
            let sources = SetKind { ranges: true, ..kind(with(address), Content::Nothing) };
            builder.set(&names.sources, sources);
            let sticky = [vec![address], frontend].concat();
            let sticky = SetKind { dynamic: true, ..kind(sticky, Content::Endpoints(family)) };
            builder.set(&names.sticky, sticky);
        }
        builder
    }

    pub fn names(&self, family: Family) -> Arc<Names> {
        let [v4, v6] = &self.names;
        if family == Family::V4 { v4.clone() } else { v6.clone() }
    }

    pub fn set(&mut self, name: &Name, kind: SetKind) -> &mut BTreeMap<Key, Data> {
        let fresh = || Set { kind, elements: BTreeMap::new() };
        &mut self.rules.sets.entry(name.clone()).or_insert_with(fresh).elements
    }

    pub fn add_set(&mut self, name: &Name, key: Vec<KeyField>, content: Content) {
        self.set(name, kind(key, content));
    }

    /// Adds an element to a set that exists; false if another one has its key.
    pub fn element(&mut self, set: &Name, key: Key, data: Data) -> bool {
        let Some(set) = self.rules.sets.get_mut(set) else { return false };
        match set.elements.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(data);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    pub fn pick(&mut self, pick: Pick) -> Data {
        let name = self.picks.entry(pick).or_insert_with_key(Pick::name).clone();
        Data::Verdict(Verdict::Goto(name))
    }

    pub fn chain(&mut self, name: &str, chain: Chain) {
        self.rules.chains.insert(Arc::from(name), chain);
    }

    pub fn finish(mut self, cluster_cidrs: &[Cidr]) -> (Ruleset, Vec<String>) {
        for (pick, name) in std::mem::take(&mut self.picks) {
            let rules = pick.rules(&self.names(pick.family), cluster_cidrs);
            self.rules.chains.insert(name, Chain { hook: None, rules });
        }
        let conflicts: BTreeSet<String> = self.conflicts.into_iter().collect();
        (self.rules, conflicts.into_iter().collect())
    }
}

pub fn kind(key: Vec<KeyField>, content: Content) -> SetKind {
    SetKind { key, content, ranges: false, dynamic: false }
}
