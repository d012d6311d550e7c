//! EndpointSlice: where the pods behind a Service are, at most a hundred to a slice.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use schema::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use schema::api::meta::v1::ObjectMeta;
use schema::api::{IntOrString, Object};

use crate::support::{Matcher, controller_ref, is_ready, is_terminal, living};

const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const MAX_ENDPOINTS: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Service>(),
        Trigger::on::<Pod>(services_of),
        Trigger::on::<EndpointSlice>(|_, old, new| {
            let ours =
                old.or(new).filter(|slice| slice.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER));
            let name = ours
                .and_then(|slice| Some(Key::new(&slice.metadata.namespace, slice.metadata.labels.get(SERVICE_NAME)?)));
            name.into_iter().collect()
        }),
        Trigger::reads::<Node>(),
    ];
    Row::new("endpointslice", "endpointslice-controller", 5, triggers, reconcile)
}

/// Services whose endpoints a pod's change can alter.
pub fn services_of(world: &World, old: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    let Some(any) = new.or(old) else { return Vec::new() };
    if let (Some(old), Some(new)) = (old, new) {
        let facts = |pod: &Pod| {
            (
                pod.status.pod_ips.clone(),
                pod.status.phase.clone(),
                is_ready(pod),
                pod.metadata.deletion_timestamp,
                pod.metadata.labels.clone(),
                pod.spec.node_name.clone(),
            )
        };
        if facts(old) == facts(new) {
            return Vec::new();
        }
    }
    let selects = |service: &Service| {
        let matcher = Matcher::labels(&service.spec.selector);
        old.into_iter().chain(new).any(|pod| matcher.matches(&pod.metadata.labels))
    };
    let services = world.of::<Service>().in_namespace(&any.metadata.namespace).filter(|service| selects(service));
    services.map(|service| Key::of(&**service)).collect()
}

pub fn reconcile(world: &World, key: &Key, _: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let held = world.of::<EndpointSlice>().in_namespace(&key.namespace).filter(|slice| {
        let labels = &slice.metadata.labels;
        labels.get(SERVICE_NAME).is_some_and(|name| **name == *key.name)
            && labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
    });
    let held: Vec<&EndpointSlice> =
        held.map(|slice| &**slice).filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    let ours = |service: &&Arc<Service>| !service.spec.selector.is_empty() && service.spec.r#type != "ExternalName";
    let Some(service) = living::<Service>(world, key).filter(ours) else {
        // A Service without a selector has slices of others; ours of its earlier days go.
        plan.actions.extend(held.into_iter().map(Action::delete));
        return plan;
    };
    let mut kept: Vec<&str> = Vec::new();
    for (family, groups) in wanted(world, service) {
        for (ports, mut endpoints) in groups {
            let same: Vec<&EndpointSlice> =
                held.iter().copied().filter(|slice| slice.address_type == family && slice.ports == ports).collect();
            kept.extend(same.iter().map(|slice| slice.name()));
            fit(service, family, &ports, &mut endpoints, &same, &mut plan);
        }
    }
    plan.actions.extend(held.iter().filter(|slice| !kept.contains(&slice.name())).map(|slice| Action::delete(*slice)));
    plan
}

/// Puts endpoints into the slices that are there, changing as few as possible, and makes new ones for the rest.
fn fit(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: &mut BTreeMap<String, Endpoint>,
    held: &[&EndpointSlice],
    plan: &mut Plan,
) {
    let mut slices: Vec<EndpointSlice> = Vec::new();
    for slice in held {
        let mut changed = (*slice).clone();
        changed.endpoints =
            slice.endpoints.iter().filter_map(|endpoint| endpoints.remove(identity(endpoint))).collect();
        changed.metadata.labels = labels(service);
        slices.push(changed);
    }
    let mut rest = std::mem::take(endpoints).into_values();
    for slice in &mut slices {
        let room = MAX_ENDPOINTS.saturating_sub(slice.endpoints.len());
        slice.endpoints.extend(rest.by_ref().take(room));
    }
    for (slice, before) in slices.iter().zip(held) {
        // A Service without endpoints keeps one empty slice.
        if slice.endpoints.is_empty() && slices.len() > 1 && slices.iter().any(|other| !other.endpoints.is_empty()) {
            plan.push(Action::delete(slice));
        } else if slice != *before {
            plan.push(Action::update(slice.clone()));
        }
    }
    let mut rest: Vec<Endpoint> = rest.collect();
    while !rest.is_empty() || (slices.is_empty() && held.is_empty()) {
        let after = rest.split_off(rest.len().min(MAX_ENDPOINTS));
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: format!("{}-", service.name()),
                namespace: service.namespace().to_owned(),
                labels: labels(service),
                owner_references: vec![controller_ref(service)],
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            endpoints: std::mem::replace(&mut rest, after),
            ports: ports.to_vec(),
            ..EndpointSlice::default()
        };
        plan.push(Action::create(slice.clone()));
        slices.push(slice);
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None" || service.spec.cluster_ip.is_empty()
}

/// An endpoint is the same as long as it is of the same pod.
fn identity(endpoint: &Endpoint) -> &str {
    endpoint.target_ref.as_ref().map_or("", |target| &target.uid)
}

type Groups = Vec<(Vec<EndpointPort>, BTreeMap<String, Endpoint>)>;

/// Per address family: endpoints by the numbers that the Service's ports have in their pods.
fn wanted(world: &World, service: &Service) -> Vec<(&'static str, Groups)> {
    let matcher = Matcher::labels(&service.spec.selector);
    families(service)
        .into_iter()
        .map(|family| {
            let mut groups: Groups = Vec::new();
            for pod in world.of::<Pod>().in_namespace(service.namespace()) {
                if pod.status.pod_ips.is_empty() || is_terminal(pod) || !matcher.matches(&pod.metadata.labels) {
                    continue;
                }
                let Some(endpoint) = endpoint(world, service, pod, family) else { continue };
                let ports = ports(service, pod);
                let uid = pod.metadata.uid.clone();
                match groups.iter_mut().find(|(known, _)| *known == ports) {
                    Some((_, endpoints)) => drop(endpoints.insert(uid, endpoint)),
                    None => groups.push((ports, [(uid, endpoint)].into())),
                }
            }
            if groups.is_empty() {
                groups.push((Vec::new(), BTreeMap::new()));
            }
            (family, groups)
        })
        .collect()
}

pub fn families(service: &Service) -> Vec<&'static str> {
    match &service.spec.ip_families[..] {
        [] => vec!["IPv4"],
        all => all.iter().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect(),
    }
}

fn endpoint(world: &World, service: &Service, pod: &Pod, family: &str) -> Option<Endpoint> {
    let of_family = |ip: &&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
    let address = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).find(of_family)?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let zone =
        world.of::<Node>().named("", &pod.spec.node_name).and_then(|node| node.metadata.labels.get(ZONE)).cloned();
    // A hostname counts only where DNS gives the pod a name: with the Service as its subdomain.
    let hostname =
        (!pod.spec.hostname.is_empty() && pod.spec.subdomain == service.name()).then(|| pod.spec.hostname.clone());
    let node_name = (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone());
    let hints = hints(service, zone.as_ref(), node_name.as_ref()).filter(|_| ready);
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
            ..EndpointConditions::default()
        },
        hostname,
        target_ref: Some(target(pod)),
        node_name,
        zone,
        hints,
        ..Endpoint::default()
    })
}

/// As endpoints name their pod.
pub fn target(pod: &Pod) -> ObjectReference {
    let (api_version, resource_version) = Default::default();
    ObjectReference { api_version, resource_version, ..reconcile::reference(pod) }
}

/// For whom an endpoint is, by the Service's `trafficDistribution`.
fn hints(service: &Service, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let wanted = service.spec.traffic_distribution.as_deref()?;
    let by_node = wanted == "PreferSameNode";
    if !by_node && !matches!(wanted, "PreferClose" | "PreferSameZone") {
        return None;
    }
    let for_zones: Vec<ForZone> =
        zone.map(|name| ForZone { name: name.clone(), ..ForZone::default() }).into_iter().collect();
    let for_nodes: Vec<ForNode> =
        node.filter(|_| by_node).map(|name| ForNode { name: name.clone(), ..ForNode::default() }).into_iter().collect();
    let any = !for_zones.is_empty() || !for_nodes.is_empty();
    any.then(|| EndpointHints { for_zones, for_nodes, ..EndpointHints::default() })
}

/// The number that a Service's port has in a pod.
pub fn number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        IntOrString::Int(0) => Some(port.port),
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let init = pod.spec.init_containers.iter();
            let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut declared = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
            declared
                .find(|declared| declared.name == *name && protocol(&declared.protocol) == protocol(&port.protocol))
                .map(|declared| declared.container_port)
        }
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone()),
                protocol: Some(protocol(&port.protocol).to_owned()),
                port: Some(number(port, pod)?),
                app_protocol: port.app_protocol.clone(),
                ..EndpointPort::default()
            })
        })
        .collect()
}

pub fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}
