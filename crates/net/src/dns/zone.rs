//! The snapshot that answers come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::ruleset::Protocol;

/// The cluster's names. Built anew (cheaply: services are shared) when something changes.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// `cluster.local`
    pub domain: String,
    pub namespaces: BTreeSet<String>,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), Arc<ZoneService>>,
    /// Nodes by name, and whatever else k3s has in NodeHosts.
    pub hosts: BTreeMap<String, Host>,
    /// Names by address, made by [`Zone::index`].
    reverse: BTreeMap<IpAddr, Vec<String>>,
    /// Grows with each change.
    pub serial: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneService {
    /// Empty for a headless service and for an ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    pub external_name: Option<String>,
    pub ports: Vec<ZonePort>,
    /// Ready ones only (those of `publishNotReadyAddresses` are ready in their EndpointSlices).
    pub endpoints: Vec<ZoneEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZonePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneEndpoint {
    pub address: IpAddr,
    pub hostname: Option<String>,
    pub ports: Vec<ZonePort>,
}

impl ZoneEndpoint {
    /// Its label below the service's name: the hostname, or the address with dashes.
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.to_ascii_lowercase(),
            None => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}

impl ZoneService {
    pub fn headless(&self) -> bool {
        self.cluster_ips.is_empty() && self.external_name.is_none()
    }
}

impl Zone {
    /// An empty zone; [`Zone::index`] finishes it once it is filled.
    pub fn new(domain: &str, serial: u32) -> Self {
        Zone { domain: domain.trim_end_matches('.').to_ascii_lowercase(), serial, ..Zone::default() }
    }

    /// `name.namespace.svc.domain`
    pub fn service_name(&self, namespace: &str, name: &str) -> String {
        format!("{name}.{namespace}.svc.{}", self.domain)
    }

    /// Must be called once after the public fields were filled.
    pub fn index(mut self) -> Self {
        let mut reverse: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for ((namespace, name), service) in &self.services {
            let full = self.service_name(namespace, name);
            for ip in &service.cluster_ips {
                reverse.entry(*ip).or_default().push(full.clone());
            }
        }
        let cluster_ips: BTreeSet<IpAddr> = reverse.keys().copied().collect();
        for ((namespace, name), service) in &self.services {
            let full = self.service_name(namespace, name);
            for endpoint in service.endpoints.iter().filter(|e| !cluster_ips.contains(&e.address)) {
                // Other services' endpoints have no name of their own; a headless one's do.
                if service.headless() || endpoint.hostname.is_some() {
                    reverse.entry(endpoint.address).or_default().push(format!("{}.{full}", endpoint.label()));
                }
            }
        }
        for (name, host) in &self.hosts {
            for ip in &host.ips {
                reverse.entry(*ip).or_default().push(name.clone());
            }
        }
        reverse.values_mut().for_each(|names| names.dedup());
        self.reverse = reverse;
        self
    }

    pub fn names_of(&self, ip: IpAddr) -> &[String] {
        self.reverse.get(&ip).map(Vec::as_slice).unwrap_or_default()
    }
}
