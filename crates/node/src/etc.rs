//! Files of /etc that the node makes for a pod: hosts and resolv.conf.

use std::net::IpAddr;

use schema::api::core::v1::{HostAlias, Pod};

use crate::pod::Desired;

/// `/etc/hosts`; `host` is the node's own for pods on its network.
pub fn hosts(desired: &Desired, pod_ips: &[String], domain: &str, host: Option<&str>) -> String {
    let mut text = match host {
        Some(own) => format!("# Kubernetes-managed hosts file (host network).\n{own}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            for ip in pod_ips {
                match desired.fqdn(domain) {
                    Some(fqdn) => text.push_str(&format!("{ip}\t{fqdn}\t{}\n", desired.hostname())),
                    None => text.push_str(&format!("{ip}\t{}\n", desired.hostname())),
                }
            }
            text
        }
    };
    text.push_str(&aliases(&desired.pod.spec.host_aliases));
    text
}

fn aliases(list: &[HostAlias]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in list {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 253;
const MAX_SEARCH_LINE_BYTES: usize = 2048;

impl Resolver {
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    let words = words.filter(|word| *word != ".");
                    resolver.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect()
                }
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// By `dnsPolicy` and `dnsConfig`; and what events say about that which has no room.
pub fn resolver(pod: &Pod, cluster_dns: &[IpAddr], domain: &str, host: &Resolver) -> (Resolver, Vec<String>) {
    let in_cluster = match &*pod.spec.dns_policy {
        "Default" | "None" => false,
        "ClusterFirst" | "" => !pod.spec.host_network,
        _ => true,
    };
    let mut resolver = if pod.spec.dns_policy == "None" {
        Resolver::default()
    } else if in_cluster && !cluster_dns.is_empty() {
        let namespace = &pod.metadata.namespace;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(host.searches.iter().cloned());
        Resolver {
            nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        host.clone()
    };
    if let Some(config) = &pod.spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().cloned());
        resolver.searches.extend(config.searches.iter().cloned());
        for option in &config.options {
            let name = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
            resolver.options.retain(|known| name(known) != option.name);
            resolver.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{}:{value}", option.name),
                _ => option.name.clone(),
            });
        }
    }
    dedup(&mut resolver.nameservers);
    dedup(&mut resolver.searches);
    let mut cut = Vec::new();
    if resolver.nameservers.len() > MAX_NAMESERVERS {
        resolver.nameservers.truncate(MAX_NAMESERVERS);
        cut.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.nameservers.join(" ")
        ));
    }
    let all = resolver.searches.len();
    resolver.searches.truncate(MAX_SEARCHES);
    resolver.searches.retain(|search| search.len() <= MAX_SEARCH_BYTES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_LINE_BYTES {
        resolver.searches.pop();
    }
    if resolver.searches.len() < all {
        cut.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    (resolver, cut)
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}
