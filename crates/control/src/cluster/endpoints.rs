//! Endpoints: the older form of EndpointSlices, for Services with a selector.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::Object;
use schema::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use schema::api::meta::v1::ObjectMeta;

use super::endpoint_slices::{HEADLESS, families, is_headless, number, protocol, services_of, target};
use crate::support::{Matcher, is_ready, is_terminal};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Service>(),
        Trigger::on::<Pod>(services_of),
        Trigger::on::<Endpoints>(|_, old, new| {
            // One made by hand may come before its Service.
            let ours =
                |endpoints: &Endpoints| endpoints.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
            new.or(old).filter(|endpoints| new.is_none() || ours(endpoints)).map(Key::of).into_iter().collect()
        }),
    ];
    Row::new("endpoints", "endpoint-controller", 5, triggers, reconcile)
}

pub fn reconcile(world: &World, key: &Key, _: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let known = world.get::<Endpoints>(key);
    let Some(service) = world.get::<Service>(key) else {
        plan.actions.extend(
            known.filter(|known| known.metadata.deletion_timestamp.is_none()).map(|known| Action::delete(&**known)),
        );
        return plan;
    };
    if service.spec.r#type == "ExternalName"
        || service.spec.selector.is_empty()
        || service.metadata.deletion_timestamp.is_some()
    {
        return plan;
    }
    let (subsets, truncated) = subsets(world, service);
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut wanted = known.map_or_else(
        || Endpoints {
            metadata: ObjectMeta {
                name: key.name.to_string(),
                namespace: key.namespace.to_string(),
                ..ObjectMeta::default()
            },
            ..Endpoints::default()
        },
        |known| (**known).clone(),
    );
    wanted.subsets = subsets;
    wanted.metadata.labels = labels;
    if truncated {
        wanted.metadata.annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        wanted.metadata.annotations.remove(OVER_CAPACITY);
    }
    match known {
        None => plan.push(Action::create(wanted)),
        Some(known) if **known != wanted => plan.push(Action::update(wanted)),
        Some(_) => {}
    }
    plan
}

type Port = (String, i32, String, Option<String>);

/// Addresses by the ports that they serve, in order; whether some had to be left out.
fn subsets(world: &World, service: &Service) -> (Vec<EndpointSubset>, bool) {
    let matcher = Matcher::labels(&service.spec.selector);
    let family = families(service).first().copied().unwrap_or("IPv4");
    let unready_too = service.spec.publish_not_ready_addresses;
    // Address → (address, ready, ports)
    let mut served: BTreeMap<(String, String), (EndpointAddress, bool, BTreeSet<Port>)> = BTreeMap::new();
    for pod in world.of::<Pod>().in_namespace(service.namespace()).filter(|pod| matcher.matches(&pod.metadata.labels)) {
        if is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && !unready_too) {
            continue;
        }
        let Some(address) = address(service, pod, family) else { continue };
        let ports: BTreeSet<Port> = service
            .spec
            .ports
            .iter()
            .filter_map(|port| {
                Some((
                    port.name.clone(),
                    number(port, pod)?,
                    protocol(&port.protocol).to_owned(),
                    port.app_protocol.clone(),
                ))
            })
            .collect();
        if ports.is_empty() && !(service.spec.ports.is_empty() && is_headless(service)) {
            continue;
        }
        served.insert((address.ip.clone(), pod.metadata.uid.clone()), (address, unready_too || is_ready(pod), ports));
    }
    let truncated = served.len() > MAX_ADDRESSES;
    let mut kept: Vec<_> = served.into_values().collect();
    if truncated {
        kept.sort_by_key(|(address, ready, _)| (!ready, address.ip.clone()));
        kept.truncate(MAX_ADDRESSES);
        kept.sort_by_key(|(address, _, _)| address.ip.clone());
    }
    let mut by_ports: BTreeMap<BTreeSet<Port>, EndpointSubset> = BTreeMap::new();
    for (address, ready, ports) in kept {
        let subset = by_ports.entry(ports.clone()).or_insert_with(|| EndpointSubset {
            ports: ports.into_iter().map(port).collect(),
            ..EndpointSubset::default()
        });
        if ready { subset.addresses.push(address) } else { subset.not_ready_addresses.push(address) }
    }
    (by_ports.into_values().collect(), truncated)
}

fn port((name, port, protocol, app_protocol): Port) -> EndpointPort {
    EndpointPort { name, port, protocol, app_protocol, ..EndpointPort::default() }
}

fn address(service: &Service, pod: &Pod, family: &str) -> Option<EndpointAddress> {
    let of_family = |ip: &&str| ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
    let ip = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).find(of_family)?;
    Some(EndpointAddress {
        ip: ip.to_owned(),
        hostname: if pod.spec.subdomain == service.name() { pod.spec.hostname.clone() } else { String::new() },
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        target_ref: Some(target(pod)),
        ..EndpointAddress::default()
    })
}
