//! NetworkPolicies: which chain a pod's packets go through, and what that chain lets pass.
//!
//! A local pod that policies isolate has an element in `ingress` or `egress` that jumps to the chain of its
//! group (the policies that select it). The chain returns for what is allowed and ends in a drop. Peers are
//! sets of addresses, so that pods come and go by elements alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::build::{Builder, kind};
use super::{
    Action, Chain, Cidr, Content, Data, Direction, Family, Field, Inputs, Key, KeyBytes, KeyField, Match, Name, Peer,
    PodFacts, Policy, PolicyPort, PolicyRule, PortMatch, Rule, SetKind, Side, Verdict, digest, spans,
};

type Labels = BTreeMap<String, String>;

pub fn write(builder: &mut Builder, inputs: &Inputs) {
    for direction in [Direction::Ingress, Direction::Egress] {
        let policies: Vec<&Policy> =
            inputs.policies.iter().map(AsRef::as_ref).filter(|p| rules_of(p, direction).is_some()).collect();
        if !policies.is_empty() {
            write_direction(builder, inputs, direction, &policies);
        }
    }
}

fn rules_of(policy: &Policy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

fn selects(policy: &Policy, pod: &PodFacts) -> bool {
    pod.namespace == policy.namespace && policy.pod_selector.matches(&pod.labels)
}

fn write_direction(builder: &mut Builder, inputs: &Inputs, direction: Direction, policies: &[&Policy]) {
    let mut groups: BTreeSet<Vec<usize>> = BTreeSet::new();
    for pod in inputs.pods.iter().filter(|pod| pod.local) {
        let group: Vec<usize> = (0..policies.len()).filter(|i| selects(policies[*i], pod)).collect();
        if group.is_empty() {
            continue;
        }
        let chain = chain_name(direction, policies, &group);
        for ip in &pod.ips {
            let names = builder.names(Family::of(ip));
            let map = if direction == Direction::Ingress { &names.ingress } else { &names.egress };
            let verdict = Data::Verdict(Verdict::Jump(chain.clone()));
            builder.element(map, KeyBytes::default().address(*ip).key(), verdict);
        }
        groups.insert(group);
    }
    let mut written: BTreeMap<usize, Vec<Rule>> = BTreeMap::new();
    for group in groups {
        let mut rules = Vec::new();
        for index in &group {
            let policy = policies[*index];
            let compile = || {
                let rules = rules_of(policy, direction).unwrap_or_default().iter().zip(0u32..);
                rules.flat_map(|(rule, n)| write_rule(builder, inputs, policy, direction, rule, n)).collect()
            };
            rules.extend(written.entry(*index).or_insert_with(compile).iter().cloned());
        }
        rules.push(Rule::new([], [Action::Verdict(Verdict::Drop)]));
        builder.chain(&chain_name(direction, policies, &group), Chain { hook: None, rules });
    }
}

fn chain_name(direction: Direction, policies: &[&Policy], group: &[usize]) -> Name {
    let of: Vec<(&str, &str)> = group.iter().map(|i| (&*policies[*i].namespace, &*policies[*i].name)).collect();
    let stem = if direction == Direction::Ingress { "to" } else { "from" };
    format!("{stem}-{:016x}", digest(&of)).into()
}

/// The pods of other rooms that a rule names.
fn peers<'a>(inputs: &'a Inputs, policy: &Policy, rule: &PolicyRule) -> Vec<&'a PodFacts> {
    let none = Labels::new();
    let selected = |pod: &&PodFacts| {
        rule.peers.iter().any(|peer| match peer {
            Peer::Block { .. } => false,
            Peer::Pods { namespaces, pods } => {
                let labels = inputs.namespaces.get(&pod.namespace).unwrap_or(&none);
                let namespace = match namespaces {
                    None => pod.namespace == policy.namespace,
                    Some(selector) => selector.matches(labels),
                };
                namespace && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
            }
        })
    };
    inputs.pods.iter().map(AsRef::as_ref).filter(selected).collect()
}

fn write_rule(
    builder: &mut Builder,
    inputs: &Inputs,
    policy: &Policy,
    direction: Direction,
    rule: &PolicyRule,
    number: u32,
) -> Vec<Rule> {
    let pass = [Action::Verdict(Verdict::Return)];
    if rule.peers.is_empty() && rule.ports.is_empty() {
        return vec![Rule::new([], pass)];
    }
    let id = digest(&(&policy.namespace, &policy.name, direction, number));
    let context = Context { inputs, policy, direction, rule, matched: peers(inputs, policy, rule), id };
    let mut rules = Vec::new();
    for family in Family::ALL {
        let who = context.write_peers(builder, family);
        let ports = context.write_ports(builder, family);
        for peer in &who {
            for port in &ports {
                let when = [vec![Match::Family(family)], peer.clone(), port.clone()].concat();
                rules.push(Rule::new(when, pass.clone()));
            }
        }
    }
    rules
}

/// One rule of a policy, and the pods that it names.
struct Context<'a> {
    inputs: &'a Inputs,
    policy: &'a Policy,
    direction: Direction,
    rule: &'a PolicyRule,
    matched: Vec<&'a PodFacts>,
    /// Of its sets.
    id: u64,
}

fn addresses<'a>(pods: &'a [&PodFacts], family: Family) -> impl Iterator<Item = IpAddr> + 'a {
    pods.iter().flat_map(|pod| &pod.ips).copied().filter(move |ip| Family::of(ip) == family)
}

impl Context<'_> {
    /// The ways in which a packet's other end can be one of the rule's peers.
    fn write_peers(&self, builder: &mut Builder, family: Family) -> Vec<Vec<Match>> {
        if self.rule.peers.is_empty() {
            return vec![vec![]];
        }
        let side = if self.direction == Direction::Ingress { Side::Source } else { Side::Destination };
        let key = vec![Field::Address(family, side)];
        let mut ways = Vec::new();
        if self.rule.peers.iter().any(|peer| matches!(peer, Peer::Pods { .. })) {
            let name: Name = format!("pods{}-{:016x}", family.digit(), self.id).into();
            let set = builder.set(&name, kind(vec![KeyField::Address(family)], Content::Nothing));
            set.extend(
                addresses(&self.matched, family).map(|ip| (KeyBytes::default().address(ip).key(), Data::Nothing)),
            );
            ways.push(vec![Match::In(key.clone(), name)]);
        }
        let block = |peer: &Peer| match peer {
            Peer::Block { cidr, except } => Some((*cidr, except.clone())),
            Peer::Pods { .. } => None,
        };
        let blocks: Vec<(Cidr, Vec<Cidr>)> = self.rule.peers.iter().filter_map(block).collect();
        let spans = spans(family, &blocks);
        if !spans.is_empty() {
            // Named after its content: ranges are replaced as a whole.
            let name: Name = format!("nets{}-{:016x}", family.digit(), digest(&spans)).into();
            let ranges = SetKind { ranges: true, ..kind(vec![KeyField::Address(family)], Content::Nothing) };
            let range = |(from, to): (IpAddr, IpAddr)| Key {
                from: KeyBytes::default().address(from).bytes(),
                to: Some(KeyBytes::default().address(to).bytes()),
            };
            builder.set(&name, ranges).extend(spans.into_iter().map(|span| (range(span), Data::Nothing)));
            ways.push(vec![Match::In(key, name)]);
        }
        ways
    }

    /// The ways in which a packet's port can be one of the rule's.
    fn write_ports(&self, builder: &mut Builder, family: Family) -> Vec<Vec<Match>> {
        if self.rule.ports.is_empty() {
            return vec![vec![]];
        }
        let mut ways = Vec::new();
        let mut named: Vec<(&str, super::Protocol)> = Vec::new();
        for PolicyPort { protocol, port } in &self.rule.ports {
            match port {
                PortMatch::All => ways.push(vec![Match::Protocol(*protocol)]),
                PortMatch::Range(from, to) => ways.push(vec![Match::Protocol(*protocol), Match::Ports(*from, *to)]),
                PortMatch::Named(name) => named.push((name, *protocol)),
            }
        }
        if named.is_empty() {
            return ways;
        }
        let name: Name = format!("ports{}-{:016x}", family.digit(), self.id).into();
        let fields = vec![KeyField::Address(family), KeyField::Protocol, KeyField::Port];
        let set = builder.set(&name, kind(fields, Content::Nothing));
        for pod in self.receivers() {
            let ours = |(name, protocol, _): &&(String, super::Protocol, u16)| named.contains(&(name, *protocol));
            for (_, protocol, port) in pod.named_ports.iter().filter(ours) {
                for ip in addresses(&[pod], family) {
                    set.insert(KeyBytes::default().address(ip).protocol(*protocol).port(*port).key(), Data::Nothing);
                }
            }
        }
        let key = vec![Field::Address(family, Side::Destination), Field::Protocol, Field::Port];
        ways.push(vec![Match::In(key, name)]);
        ways
    }

    /// Whose port a name means: that of the pod at the receiving end.
    fn receivers(&self) -> Vec<&PodFacts> {
        let all = self.inputs.pods.iter().map(AsRef::as_ref);
        match self.direction {
            Direction::Ingress => all.filter(|pod| pod.local && selects(self.policy, pod)).collect(),
            Direction::Egress if self.rule.peers.is_empty() => all.collect(),
            Direction::Egress => self.matched.clone(),
        }
    }
}
