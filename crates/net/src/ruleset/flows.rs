//! Connections of UDP that the kernel still sends to endpoints which a service no longer has.

use std::net::IpAddr;

use super::{Batch, Change, Data, Family, Key, KeyBytes, Name, Protocol, Ruleset, build::Names, endpoint_bytes};

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: (IpAddr, u16),
    /// Where the client sent to.
    pub destination: (IpAddr, u16),
    /// Who answers.
    pub answers: (IpAddr, u16),
}

/// The UDP flows to forget, so that the next packet picks an endpoint anew.
///
/// A flow to a service's address must be answered by one of its endpoints; one to a NodePort only if it was translated.
pub fn stale_flows<'a>(flows: &'a [Flow], rules: &Ruleset) -> Vec<&'a Flow> {
    let stale = |flow: &&Flow| {
        let (address, port) = flow.destination;
        let family = Family::of(&address);
        let names = Names::of(family);
        let tail = |key: KeyBytes| key.protocol(Protocol::Udp).port(port);
        let exact = tail(KeyBytes::default().address(address));
        let by_port = tail(KeyBytes::default().any(family));
        let Some(services) = rules.sets.get(&names.services) else { return false };
        let key = if services.elements.contains_key(&exact.key()) {
            exact
        } else if flow.answers != flow.destination && services.elements.contains_key(&by_port.key()) {
            by_port
        } else {
            return false;
        };
        let answers = Data::Endpoint(endpoint_bytes(flow.answers.0, flow.answers.1));
        !serves(rules, &names, &key, &answers)
    };
    flows.iter().filter(stale).collect()
}

/// `endpoint` is one of those that the frontend `key` picks from.
fn serves(rules: &Ruleset, names: &Names, key: &KeyBytes, endpoint: &Data) -> bool {
    [&names.endpoints, &names.local_endpoints].into_iter().any(|map| {
        let elements = rules.sets.get(map).map(|set| &set.elements);
        (0..).map_while(|index| elements?.get(&key.index(index).key())).any(|found| found == endpoint)
    })
}

/// The remembered choices of session affinity that lead to an endpoint which its service no longer has.
pub fn stale_choices(family: Family, remembered: Vec<(Key, Data)>, rules: &Ruleset) -> Vec<Key> {
    let names = Names::of(family);
    let stale = |(key, data): &(Key, Data)| {
        // The client's address comes first, then the frontend.
        key.from.get(family.bytes()..).is_none_or(|frontend| !serves(rules, &names, &KeyBytes::from(frontend), data))
    };
    remembered.into_iter().filter(stale).map(|(key, _)| key).collect()
}

/// The map of session affinity's choices.
pub fn choices_map(family: Family) -> Name {
    Names::of(family).sticky
}

/// The batch changes where UDP packets go, so tracked flows may be stale.
pub fn touches_udp(batch: &Batch) -> bool {
    let maps: Vec<(Family, Names)> = Family::ALL.into_iter().map(|family| (family, Names::of(family))).collect();
    let udp = |name: &Name, key: &Key| {
        maps.iter().any(|(family, names)| {
            [&names.services, &names.external, &names.endpoints, &names.local_endpoints].contains(&name)
                && key.from.get(family.bytes()) == Some(&(Protocol::Udp as u8))
        })
    };
    batch.0.iter().any(|change| match change {
        Change::AddElements(name, _, elements) => elements.iter().any(|(key, _)| udp(name, key)),
        Change::DeleteElements(name, _, keys) => keys.iter().any(|key| udp(name, key)),
        _ => false,
    })
}

/// The batch takes endpoints away, so remembered choices may be stale.
pub fn takes_endpoints(batch: &Batch) -> bool {
    let maps: Vec<Names> = Family::ALL.into_iter().map(Names::of).collect();
    batch.0.iter().any(|change| match change {
        Change::DeleteElements(name, ..) => {
            maps.iter().any(|names| [&names.endpoints, &names.local_endpoints].contains(&name))
        }
        _ => false,
    })
}
