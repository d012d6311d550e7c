//! EndpointSlices of Endpoints that somebody wrote by hand, for Services without a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::{EndpointAddress, Endpoints, Service};
use schema::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use schema::api::meta::v1::ObjectMeta;

use super::endpoint_slices::{MANAGED_BY, SERVICE_NAME};
use crate::support::{controller_ref, event};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the Endpoints that their slices do not take over.
const OWN: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset.
const MOST: usize = 1000;

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Endpoints>(),
        Trigger::itself::<Service>(),
        Trigger::on::<EndpointSlice>(|_, old, new| {
            let labels = |slice: &EndpointSlice| slice.metadata.labels.clone();
            let name = new.or(old).map(labels).filter(is_ours).and_then(|mut labels| labels.remove(SERVICE_NAME));
            let namespace = new.or(old).map(|slice| slice.metadata.namespace.as_str()).unwrap_or_default();
            name.map(|name| Key::new(namespace, &name)).into_iter().collect()
        }),
    ];
    Row::new("endpointslice-mirroring", "endpointslicemirroring-controller", 5, triggers, reconcile)
}

fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let slices = world.of::<EndpointSlice>().in_namespace(&key.namespace).filter(|slice| {
        let labels = &slice.metadata.labels;
        is_ours(labels) && labels.get(SERVICE_NAME).is_some_and(|name| **name == *key.name)
    });
    let mut held: Vec<&EndpointSlice> = slices.map(|slice| &**slice).collect();
    let mirrored = world.get::<Endpoints>(key).filter(|endpoints| {
        let meta = &endpoints.metadata;
        let skipped = meta.labels.get(SKIP).is_some_and(|skip| skip == "true");
        !skipped && !meta.annotations.contains_key(LEADER) && meta.deletion_timestamp.is_none()
    });
    let by_hand = |service: &Service| service.spec.selector.is_empty();
    if let Some(endpoints) = mirrored.filter(|_| world.get::<Service>(key).is_some_and(|service| by_hand(service))) {
        let (groups, invalid) = groups(endpoints);
        if invalid > 0 {
            let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            plan.push(event(
                ctx, &**endpoints, "endpoint-slice-mirroring-controller", "Warning", "InvalidIPAddress", message,
            ));
        }
        for ((family, ports), addresses) in groups {
            let at = held.iter().position(|slice| slice.address_type == family && slice.ports == ports);
            let known = at.map(|at| held.remove(at));
            let wanted = slice(endpoints, known, family, ports, addresses);
            match known {
                None => plan.push(Action::create(wanted)),
                Some(known) if *known != wanted => plan.push(Action::update(wanted)),
                Some(_) => {}
            }
        }
    }
    let surplus = held.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none());
    plan.actions.extend(surplus.map(Action::delete));
    plan
}

/// Endpoints by family and ports, and how many addresses are none.
type Groups = Vec<((&'static str, Vec<EndpointPort>), BTreeMap<String, Endpoint>)>;

fn groups(endpoints: &Endpoints) -> (Groups, usize) {
    let (mut groups, mut invalid): (Groups, usize) = (Vec::new(), 0);
    for subset in &endpoints.subsets {
        let port = |port: &schema::api::core::v1::EndpointPort| EndpointPort {
            name: Some(port.name.clone()),
            protocol: Some(super::endpoint_slices::protocol(&port.protocol).to_owned()),
            port: Some(port.port),
            app_protocol: port.app_protocol.clone(),
            ..EndpointPort::default()
        };
        let ports: Vec<EndpointPort> = subset.ports.iter().map(port).collect();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|address| (address, false)));
        for (address, ready) in all.take(MOST) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            let group = (if ip.is_ipv4() { "IPv4" } else { "IPv6" }, ports.clone());
            let at = groups.iter().position(|(known, _)| *known == group).unwrap_or_else(|| {
                groups.push((group, BTreeMap::new()));
                groups.len() - 1
            });
            groups[at].1.insert(ip.to_string(), endpoint(address, ip, ready));
        }
    }
    (groups, invalid)
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: Some(address.hostname.clone()).filter(|name| !name.is_empty()),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    known: Option<&EndpointSlice>,
    family: &str,
    ports: Vec<EndpointPort>,
    addresses: BTreeMap<String, Endpoint>,
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let mut slice = known.cloned().unwrap_or_else(|| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: format!("{}-", meta.name),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports,
        ..EndpointSlice::default()
    });
    slice.metadata.owner_references = vec![controller_ref(endpoints)];
    slice.metadata.labels.clone_from(&meta.labels);
    slice.metadata.labels.insert(SERVICE_NAME.to_owned(), meta.name.clone());
    slice.metadata.labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    slice.metadata.annotations.clone_from(&meta.annotations);
    slice.metadata.annotations.retain(|name, _| !OWN.contains(&&**name));
    slice.endpoints = addresses.into_values().collect();
    slice
}
