//! A Service and its EndpointSlices, as the proxy and DNS see them.

use std::{net::IpAddr, sync::Arc};

use schema::api::core::v1::Service;
use schema::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};

use crate::dns::{ZoneEndpoint, ZonePort, ZoneService};
use crate::ruleset::{self, Endpoint, Protocol, ServicePort, TrafficPolicy};

/// How long a client stays with its endpoint where the Service does not say.
const AFFINITY_SECONDS: i32 = 10_800;

const HEADLESS: &str = "service.kubernetes.io/headless";

fn parse<'a, T: std::str::FromStr + 'a>(texts: impl IntoIterator<Item = &'a String> + 'a) -> Vec<T> {
    texts.into_iter().filter_map(|text| text.trim().parse().ok()).collect()
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = &service.spec;
    match spec.cluster_ips.as_slice() {
        [] => parse([&spec.cluster_ip]),
        all => parse(all),
    }
}

fn policy(text: &str) -> TrafficPolicy {
    if text == "Local" { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// The Service for the rules; `None` where the proxy has nothing to do.
pub fn rules(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Option<ruleset::Service> {
    let (meta, spec) = (&service.metadata, &service.spec);
    let cluster_ips = cluster_ips(service);
    let not_ours = meta.labels.contains_key("service.kubernetes.io/service-proxy-name");
    if spec.r#type == "ExternalName" || cluster_ips.is_empty() || not_ours {
        return None;
    }
    let ingress = service.status.load_balancer.ingress.iter();
    let virtual_ips = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.parse().ok());
    let is_balanced = spec.r#type == "LoadBalancer";
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let affinity = client_ip.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    let port = |port: &schema::api::core::v1::ServicePort| {
        let protocol = Protocol::parse(&port.protocol)?;
        // What is marked headless is for names only.
        let proxied = slices.iter().filter(|slice| !slice.metadata.labels.contains_key(HEADLESS));
        let endpoints = proxied.flat_map(|slice| endpoints(slice, &port.name, protocol, node)).collect();
        Some(ServicePort {
            name: port.name.clone(),
            protocol,
            port: number(port.port)?,
            node_port: number(port.node_port),
            endpoints,
        })
    };
    Some(ruleset::Service {
        name: format!("{}/{}", meta.namespace, meta.name),
        cluster_ips,
        external_ips: parse(&spec.external_ips),
        load_balancer_ips: if is_balanced { virtual_ips.collect() } else { Vec::new() },
        source_ranges: if is_balanced { source_ranges(service) } else { Vec::new() },
        external_traffic_policy: policy(&spec.external_traffic_policy),
        internal_traffic_policy: policy(spec.internal_traffic_policy.as_deref().unwrap_or_default()),
        affinity_seconds: (spec.session_affinity == "ClientIP").then_some(affinity.max(1) as u32),
        ports: spec.ports.iter().filter_map(port).collect(),
    })
}

/// The field, or the annotation that it replaced.
fn source_ranges(service: &Service) -> Vec<ruleset::Cidr> {
    let annotation = service.metadata.annotations.get("service.beta.kubernetes.io/load-balancer-source-ranges");
    match (service.spec.load_balancer_source_ranges.as_slice(), annotation) {
        ([], Some(text)) => text.split(',').filter_map(|range| range.trim().parse().ok()).collect(),
        (ranges, _) => parse(ranges),
    }
}

fn protocol_of(port: &EndpointPort) -> Option<Protocol> {
    Protocol::parse(port.protocol.as_deref().unwrap_or_default())
}

/// The slice is one of addresses (not of names).
fn has_addresses(slice: &EndpointSlice) -> bool {
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6")
}

/// All of an endpoint's addresses are the same endpoint; consumers take the first.
fn address(endpoint: &SliceEndpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn endpoints<'a>(
    slice: &'a EndpointSlice,
    port: &'a str,
    protocol: Protocol,
    node: &'a str,
) -> impl Iterator<Item = Endpoint> + 'a {
    let named = |p: &&EndpointPort| p.name.as_deref().unwrap_or_default() == port && protocol_of(p) == Some(protocol);
    let target = slice.ports.iter().filter(|_| has_addresses(slice)).find(named).and_then(|p| number(p.port?));
    slice.endpoints.iter().filter_map(move |endpoint| {
        let ready = endpoint.conditions.ready.unwrap_or(true);
        let hints = endpoint.hints.as_ref();
        Some(Endpoint {
            address: address(endpoint)?,
            port: target?,
            local: endpoint.node_name.as_deref() == Some(node),
            ready,
            serving: endpoint.conditions.serving.unwrap_or(ready),
            terminating: endpoint.conditions.terminating.unwrap_or(false),
            for_zones: hints.iter().flat_map(|h| &h.for_zones).map(|zone| zone.name.clone()).collect(),
            for_nodes: hints.iter().flat_map(|h| &h.for_nodes).map(|node| node.name.clone()).collect(),
        })
    })
}

/// The Service for DNS.
pub fn zone(service: &Service, slices: &[Arc<EndpointSlice>]) -> ZoneService {
    let spec = &service.spec;
    let port = |port: &schema::api::core::v1::ServicePort| {
        let (protocol, number) = (Protocol::parse(&port.protocol)?, number(port.port)?);
        Some(ZonePort { name: port.name.clone(), protocol, port: number })
    };
    let mut endpoints: Vec<ZoneEndpoint> =
        slices.iter().filter(|slice| has_addresses(slice)).flat_map(|slice| zone_endpoints(slice)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup();
    ZoneService {
        cluster_ips: cluster_ips(service),
        external_name: (spec.r#type == "ExternalName").then(|| spec.external_name.clone()),
        ports: spec.ports.iter().filter_map(port).collect(),
        endpoints,
    }
}

fn zone_endpoints(slice: &EndpointSlice) -> Vec<ZoneEndpoint> {
    let port = |port: &EndpointPort| {
        let (protocol, number) = (protocol_of(port)?, number(port.port?)?);
        Some(ZonePort { name: port.name.clone().unwrap_or_default(), protocol, port: number })
    };
    let ports: Vec<ZonePort> = slice.ports.iter().filter_map(port).collect();
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
    let record = |endpoint: &SliceEndpoint| {
        let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
        Some(ZoneEndpoint { address: address(endpoint)?, hostname, ports: ports.clone() })
    };
    ready.filter_map(record).collect()
}
