//! The base chains, and how services and policies hang in them.

use super::build::{Builder, Names};
use super::{
    Action, Chain, ESTABLISHED, Family, Field, Hook, HookPoint, Inputs, Match, NEW, RELATED, Rule, Ruleset, Side,
    Verdict, policies, services,
};

/// Mark of packets to masquerade; the bit that upstream uses.
pub const MASQUERADE: u32 = 0x4000;

pub const REJECT: &str = "reject";
pub const FIREWALL: &str = "firewall-";

/// A computed table, and what could not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltRules {
    pub ruleset: Ruleset,
    /// Addresses and ports that two objects claim, in words; for events.
    pub conflicts: Vec<String>,
}

/// The whole table of a node.
pub fn ruleset(inputs: &Inputs) -> BuiltRules {
    let mut builder = Builder::new();
    services::write(&mut builder, inputs);
    policies::write(&mut builder, inputs);
    base(&mut builder, inputs);
    let (ruleset, conflicts) = builder.finish(&inputs.node.cluster_cidrs);
    BuiltRules { ruleset, conflicts }
}

fn accept() -> Action {
    Action::Verdict(Verdict::Accept)
}

fn jump(chain: &str) -> Action {
    Action::Verdict(Verdict::Jump(chain.into()))
}

/// Destination address, protocol and port.
fn frontend(family: Family) -> Vec<Field> {
    vec![Field::Address(family, Side::Destination), Field::Protocol, Field::Port]
}

/// [`frontend`] where any address of the node will do.
fn any_frontend(family: Family) -> Vec<Field> {
    vec![Field::Zeros(family.bytes() as u8), Field::Protocol, Field::Port]
}

fn pair(family: Family) -> Vec<Field> {
    [Side::Source, Side::Destination].map(|side| Field::Address(family, side)).to_vec()
}

fn base(builder: &mut Builder, inputs: &Inputs) {
    let mut hook = |name: &str, point, priority, nat, rules: Vec<Rule>| {
        builder.chain(name, Chain { hook: Some(Hook { point, priority, nat }), rules });
    };
    let each = |make: &dyn Fn(Family, Names) -> Vec<Rule>| -> Vec<Rule> {
        Family::ALL.into_iter().flat_map(|family| make(family, Names::of(family))).collect()
    };
    let jumps =
        |chain: fn(&Names) -> &str| each(&|f, names| vec![Rule::new([Match::Family(f)], [jump(chain(&names))])]);
    let loopback = super::Cidr::new(std::net::Ipv4Addr::LOCALHOST.into(), 8);

    // Before translation (and before upstream's -110): what must not reach it.
    let firewalls = each(&|family, names| {
        vec![Rule::new(
            [Match::Family(family), Match::State(NEW)],
            [Action::Map(frontend(family), names.firewalled.clone())],
        )]
    });
    // With route_localnet a neighbour could send to 127.0.0.1; nothing from a wire may.
    let martian = Rule::new(
        [Match::Family(Family::V4), Match::Iif("lo".into(), false), Match::Within(Side::Destination, loopback, true)],
        [Action::Verdict(Verdict::Drop)],
    );
    let guard = [vec![martian], firewalls.clone()].concat();
    hook("guard", HookPoint::Prerouting, -150, false, guard);
    hook("guard-output", HookPoint::Output, -150, false, firewalls);

    hook("nat-prerouting", HookPoint::Prerouting, -100, true, jumps(|names| &names.nat));
    hook("nat-output", HookPoint::Output, -100, true, jumps(|names| &names.nat));

    // Policies see connections once, after translation, with the client's own address.
    let established = Rule::new([Match::State(ESTABLISHED | RELATED)], [accept()]);
    let leaving = each(&|family, names| {
        let key = vec![Field::Address(family, Side::Source)];
        vec![Rule::new([Match::Family(family)], [Action::Map(key, names.egress)])]
    });
    let coming = each(&|family, names| {
        let key = vec![Field::Address(family, Side::Destination)];
        vec![Rule::new([Match::Family(family)], [Action::Map(key, names.ingress)])]
    });
    // A pod is never cut off from itself; that it is reached through a service makes no difference.
    let itself = each(&|family, names| {
        let when = [Match::Family(family), Match::Translated, Match::In(pair(family), names.hairpin)];
        vec![Rule::new(when, [accept()])]
    });
    let established = vec![established];
    let refused = jumps(|names| &names.refuse);
    let forward = [established.clone(), refused.clone(), itself, leaving.clone(), coming].concat();
    hook("forward", HookPoint::Forward, 0, false, forward);
    hook("input", HookPoint::Input, 0, false, [established.clone(), refused.clone(), leaving].concat());
    hook("output", HookPoint::Output, 0, false, [established, refused].concat());

    hook("nat-postrouting", HookPoint::Postrouting, 100, true, masquerade(inputs));

    for family in Family::ALL {
        let names = Names::of(family);
        builder.chain(&names.nat, Chain { hook: None, rules: translate(family, &names, inputs) });
        builder.chain(&names.refuse, Chain { hook: None, rules: refuse(family, &names, inputs) });
        builder.chain(&names.node_ports, Chain { hook: None, rules: translate_port(family, &names, inputs) });
        let key = [frontend(family), vec![Field::Address(family, Side::Source)]].concat();
        let rules = vec![
            Rule::new([Match::In(key, names.sources.clone())], [Action::Verdict(Verdict::Return)]),
            Rule::new([], [Action::Verdict(Verdict::Drop)]),
        ];
        builder.chain(&names.firewall, Chain { hook: None, rules });
    }
    builder.chain(REJECT, Chain { hook: None, rules: vec![Rule::new([], [Action::Reject])] });
}

/// Neither a pod nor this node: who the Local traffic policy of external addresses is for.
fn from_outside(family: Family, inputs: &Inputs) -> Vec<Match> {
    let mut outside = vec![Match::Local(Side::Source, false)];
    let pods = inputs.node.cluster_cidrs.iter().filter(|cidr| cidr.family() == family);
    outside.extend(pods.map(|cidr| Match::Within(Side::Source, *cidr, false)));
    outside
}

fn translate(family: Family, names: &Names, inputs: &Inputs) -> Vec<Rule> {
    vec![
        Rule::new(from_outside(family, inputs), [Action::Map(frontend(family), names.external.clone())]),
        Rule::new([], [Action::Map(frontend(family), names.services.clone())]),
        Rule::new([Match::Local(Side::Destination, true)], [Action::Verdict(Verdict::Goto(names.node_ports.clone()))]),
    ]
}

/// What was not translated though it was meant for a service.
fn refuse(family: Family, names: &Names, inputs: &Inputs) -> Vec<Rule> {
    let reject = || [Action::Verdict(Verdict::Goto(REJECT.into()))];
    let elsewhere = Match::Local(Side::Destination, false);
    let to_cluster_ip = Match::In(vec![Field::Address(family, Side::Destination)], names.cluster_ips.clone());
    let mut rules = vec![
        Rule::new([], [Action::Map(frontend(family), names.unserved.clone())]),
        Rule::new([Match::Local(Side::Destination, true)], [Action::Map(any_frontend(family), names.unserved.clone())]),
        // A port that its service doesn't have.
        Rule::new([elsewhere.clone(), to_cluster_ip], reject()),
    ];
    // A cluster IP that no service has.
    let unused = inputs.node.service_cidrs.iter().filter(|cidr| cidr.family() == family);
    rules.extend(unused.map(|cidr| {
        let when = [Match::Within(Side::Destination, *cidr, true), elsewhere.clone()];
        Rule::new(when, [Action::Verdict(Verdict::Drop)])
    }));
    rules
}

fn translate_port(family: Family, names: &Names, inputs: &Inputs) -> Vec<Rule> {
    let key = any_frontend(family);
    let at: Vec<Vec<Match>> = match inputs.node.node_port_addresses.as_slice() {
        [] => vec![vec![]],
        all => {
            let ours = all.iter().filter(|cidr| cidr.family() == family);
            ours.map(|cidr| vec![Match::Within(Side::Destination, *cidr, true)]).collect()
        }
    };
    at.into_iter()
        .flat_map(|at| {
            let outside = [at.clone(), from_outside(family, inputs)].concat();
            [
                Rule::new(outside, [Action::Map(key.clone(), names.external.clone())]),
                Rule::new(at, [Action::Map(key.clone(), names.services.clone())]),
            ]
        })
        .collect()
}

fn masquerade(inputs: &Inputs) -> Vec<Rule> {
    let masquerade = [Action::Masquerade];
    let mut rules = vec![Rule::new([Match::Marked(MASQUERADE)], [Action::Unmark(MASQUERADE), Action::Masquerade])];
    let loopback = super::Cidr::new(std::net::Ipv4Addr::LOCALHOST.into(), 8);
    for family in Family::ALL {
        let names = Names::of(family);
        // A pod that reaches itself through a service must not see its own address as the client's.
        rules.push(Rule::new(
            [Match::Family(family), Match::Translated, Match::In(pair(family), names.hairpin)],
            masquerade.clone(),
        ));
    }
    let local = [Match::Family(Family::V4), Match::Translated, Match::Within(Side::Source, loopback, true)];
    rules.push(Rule::new(local, masquerade.clone()));
    // From a pod to anything that is not a pod; multicast stays as it is.
    for family in Family::ALL {
        let ours: Vec<_> = inputs.node.cluster_cidrs.iter().filter(|cidr| cidr.family() == family).collect();
        let multicast = match family {
            Family::V4 => super::Cidr::new(std::net::Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            Family::V6 => super::Cidr::new(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        };
        for from in &ours {
            let mut when = vec![Match::Family(family), Match::Within(Side::Source, **from, true)];
            when.extend(ours.iter().map(|cidr| Match::Within(Side::Destination, **cidr, false)));
            when.push(Match::Within(Side::Destination, multicast, false));
            rules.push(Rule::new(when, masquerade.clone()));
        }
    }
    rules
}
