//! Services: cluster IPs and node ports, handed out from memory and repaired from the cache at start.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use schema::Value;
use schema::cidr::{Cidr, Family};
use schema::validate::{ErrorKind, FieldError, names};

use super::{Cx, PLAIN, Strategy, keep};
use crate::Server;
use crate::seams::Random;
use crate::status::{Result, Status, field_error};

pub static SERVICE: Strategy = Strategy {
    warnings: |service, _| super::warnings::service(service),
    create_on_update: true,
    returns_deleted: true,
    name_rule: schema::validate::NameRule::Label,
    prepare_create,
    prepare_update,
    validate: |_, new, old| {
        let mut errors = Vec::new();
        let is_balanced = |service: &Value| service.str_at(&["spec", "type"]) == "LoadBalancer";
        let (class, port) = (&new["spec"]["loadBalancerClass"], &new["spec"]["healthCheckNodePort"]);
        if old.is_some_and(|old| is_balanced(old) && is_balanced(new) && old["spec"]["loadBalancerClass"] != *class) {
            errors.push(invalid("spec.loadBalancerClass", class.clone(), "may not change once set"));
        }
        let stays = |old: &Value| !needs_health_port(old) || old["spec"]["healthCheckNodePort"] == *port;
        if needs_health_port(new) && !old.is_none_or(stays) {
            errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
        }
        if !is_balanced(new) && !new["status"]["loadBalancer"]["ingress"].is_empty() {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden("status.loadBalancer.ingress", detail));
        }
        errors
    },
    abandon: Some(release),
    updated: |cx, new, old| release(cx, old, Some(new)),
    deleted: |cx, service| release(cx, service, None),
    ..PLAIN
};

pub struct Allocators {
    /// Ranges in which services live.
    cidrs: Vec<Cidr>,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

/// Addresses and ports that services hold.
#[derive(Default)]
struct Taken {
    ips: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

impl Taken {
    fn by(service: &Value) -> Self {
        let ips = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
        let ips = ips.chain([service.str_at(&["spec", "clusterIP"])]).filter_map(|ip| ip.parse().ok()).collect();
        let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|port| port_at(port, "nodePort"));
        Self { ips, ports: ports.chain(port_at(&service["spec"], "healthCheckNodePort")).collect() }
    }

    fn give_back(&mut self, what: &Taken) {
        for ip in &what.ips {
            self.ips.remove(ip);
        }
        for port in &what.ports {
            self.ports.remove(port);
        }
    }
}

/// A port that was named; 0 is none.
fn port_at(value: &Value, field: &str) -> Option<u16> {
    value.i64_at(&[field]).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}

impl Allocators {
    pub fn new(cidrs: &[String], ports: RangeInclusive<u16>) -> std::result::Result<Self, (String, &'static str)> {
        // More than 2^112 addresses have never been of use.
        let usable = |c: &Cidr| c.last_offset() >> 112 == 0;
        let parse = |c: &String| c.parse().ok().filter(usable).ok_or((c.clone(), "not an address range"));
        let cidrs = cidrs.iter().map(parse).collect::<std::result::Result<Vec<_>, _>>()?;
        if cidrs.is_empty() {
            return Err((String::new(), "at least one is needed"));
        }
        Ok(Allocators { cidrs, ports, taken: Mutex::default() })
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_family(&self, family: &str) -> Option<&Cidr> {
        self.cidrs.iter().find(|c| c.family().name() == family)
    }

    /// Ranges that exist besides those of the command line, as ServiceCIDR objects.
    fn take_ip(&self, ip: IpAddr, dry_run: bool) -> std::result::Result<(), String> {
        let range = self.of_family(Family::of(&ip).name());
        if !range.is_some_and(|c| c.contains(ip) && ip != c.address() && !(has_broadcast(c) && ip == c.last())) {
            let range = range.map(ToString::to_string).unwrap_or_default();
            return Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"));
        }
        // As upstream, a dry run does not look at what others have.
        if !dry_run && !self.taken().ips.insert(ip) {
            return Err("provided IP is already allocated".into());
        }
        Ok(())
    }

    /// A free address; the lower part of the range is left to those who ask for a certain one while it can be.
    fn next_ip(&self, family: &str, random: &dyn Random, dry_run: bool) -> Option<IpAddr> {
        let cidr = self.of_family(family)?;
        let size = cidr.last_offset() + 1;
        let (first, end) = (1, if has_broadcast(cidr) { size - 1 } else { size });
        let reserved = (size / 16).clamp(16, 256);
        let split = if end > first + reserved { first + reserved } else { first };
        let mut taken = self.taken();
        let free = |offset| cidr.nth(offset).is_some_and(|ip| !taken.ips.contains(&ip));
        let found = pick(split, end, random, free).or_else(|| pick(first, split, random, free))?;
        let ip = cidr.nth(found)?;
        if !dry_run {
            taken.ips.insert(ip);
        }
        Some(ip)
    }

    fn take_port(&self, port: u16, dry_run: bool) -> std::result::Result<(), String> {
        if dry_run {
            return Ok(());
        }
        if !self.ports.contains(&port) {
            return Err(self.port_range());
        }
        if !self.taken().ports.insert(port) {
            return Err("provided port is already allocated".into());
        }
        Ok(())
    }

    fn port_range(&self) -> String {
        let (low, high) = (self.ports.start(), self.ports.end());
        format!("provided port is not in the valid range. The range of valid ports is {low}-{high}")
    }

    fn next_port(&self, random: &dyn Random, dry_run: bool) -> Option<u16> {
        let (first, end) = (u128::from(*self.ports.start()), u128::from(*self.ports.end()) + 1);
        let reserved = ((end - first) / 32).clamp(16, 128);
        let split = if end > first + reserved { first + reserved } else { first };
        let mut taken = self.taken();
        let free = |port: u128| !taken.ports.contains(&(port as u16));
        let found = pick(split, end, random, free).or_else(|| pick(first, split, random, free))? as u16;
        if !dry_run {
            taken.ports.insert(found);
        }
        Some(found)
    }
}

/// The last address of an IPv4 network of any size is its broadcast address.
fn has_broadcast(cidr: &Cidr) -> bool {
    cidr.family() == Family::V4 && cidr.last_offset() > 1
}

/// Something free in a range, beginning at a random place.
fn pick(first: u128, end: u128, random: &dyn Random, free: impl Fn(u128) -> bool) -> Option<u128> {
    let size = end.checked_sub(first).filter(|&s| s > 0)?;
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    let start = u128::from_le_bytes(bytes) % size;
    // What is taken is far less than what is looked at.
    const TRIES_MAX: u128 = 1 << 20;
    (0..size.min(TRIES_MAX)).map(|i| first + (start + i) % size).find(|&o| free(o))
}

/// Gives back what `service` holds and `kept` does not.
fn release(cx: &Cx<'_>, service: &Value, kept: Option<&Value>) {
    if cx.dry_run {
        return;
    }
    let mut gone = Taken::by(service);
    gone.give_back(&kept.map(Taken::by).unwrap_or_default());
    cx.server.inner.allocators.taken().give_back(&gone);
}

pub fn repair(server: &Server) {
    let services = server.read_all("", "services", "");
    let mut taken = server.inner.allocators.taken();
    for service in &services {
        let Taken { ips, ports } = Taken::by(service);
        taken.ips.extend(ips);
        taken.ports.extend(ports);
    }
}

fn refuse(service: &Value, errors: Vec<FieldError>) -> Status {
    Status::invalid("", "Service", service.str_at(&["metadata", "name"]), errors)
}

fn invalid(field: &str, value: impl Into<Value>, detail: &str) -> FieldError {
    field_error(ErrorKind::Invalid, field, value.into(), detail)
}

/// `clusterIP` and `clusterIPs[0]` are one thing: whichever the client set, both say it.
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let ip = service.str_at(&["spec", "clusterIP"]).to_owned();
    let ips = service["spec"]["clusterIPs"].texts();
    let set = |service: &mut Value, ips: Vec<String>| {
        if ips.is_empty() {
            service.remove(&["spec", "clusterIPs"]);
        } else {
            service.set(&["spec", "clusterIPs"], ips);
        }
    };
    let Some(old) = old else {
        // A creation from an old client, which knows the singular only.
        if !ip.is_empty() && ips.is_empty() {
            set(service, vec![ip]);
        } else if ip.is_empty() && !ips.is_empty() {
            service.set(&["spec", "clusterIP"], ips[0].as_str());
        }
        return;
    };
    let old_ip = old.str_at(&["spec", "clusterIP"]);
    let old_ips = old["spec"]["clusterIPs"].texts();
    if old_ip != ip {
        if !old_ip.is_empty() && ip.is_empty() && ips == old_ips {
            // The singular was cleared: so is the list.
            set(service, Vec::new());
        } else if ips == old_ips && !ip.is_empty() {
            set(service, vec![ip]);
        }
    }
    // Of a changed list, which is the newer client's word, validation sees to it that it agrees with the singular.
}

/// What an update that does not mention it keeps.
fn keep_allocated(new: &mut Value, old: &Value) {
    let (new_type, old_type) = (new.str_at(&["spec", "type"]).to_owned(), old.str_at(&["spec", "type"]));
    let has_ip = |t: &str| t != "ExternalName" && !t.is_empty();
    let has_ports = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    if has_ip(old_type) && has_ip(&new_type) {
        if new["spec"]["clusterIP"].is_empty() {
            keep(new, old, &["spec", "clusterIP"]);
        }
        if new["spec"]["clusterIPs"].is_empty() {
            keep(new, old, &["spec", "clusterIPs"]);
        }
    }
    if has_ports(old_type) && has_ports(&new_type) {
        let mut used: HashSet<i64> = HashSet::new();
        for port in new.list_at(&["spec", "ports"]) {
            used.extend(port.i64_at(&["nodePort"]).filter(|&p| p != 0));
        }
        let before = old.list_at(&["spec", "ports"]).to_vec();
        for port in new.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut).into_iter().flatten() {
            if port.i64_at(&["nodePort"]).unwrap_or(0) != 0 {
                continue;
            }
            let same = |o: &&Value| o["port"] == port["port"] && o.str_at(&["protocol"]) == port.str_at(&["protocol"]);
            let number = before.iter().find(same).and_then(|o| o.i64_at(&["nodePort"])).filter(|&p| p != 0);
            if let Some(number) = number.filter(|n| used.insert(*n)) {
                port.set(&["nodePort"], number);
            }
        }
    }
    if needs_health_port(new) && needs_health_port(old) && new["spec"]["healthCheckNodePort"].is_empty() {
        keep(new, old, &["spec", "healthCheckNodePort"]);
    }
}

fn needs_health_port(service: &Value) -> bool {
    service.str_at(&["spec", "type"]) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

fn family_of(ip: &str) -> Option<&'static str> {
    Some(Family::of(&ip.parse().ok()?).name())
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// What nothing can be settled by.
fn unknown_families(service: &Value) -> Vec<FieldError> {
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    let (policy, families) = (service.str_at(&["spec", "ipFamilyPolicy"]), service["spec"]["ipFamilies"].texts());
    let wrong = !POLICIES.contains(&policy);
    let wrong = wrong.then(|| FieldError::not_supported("spec.ipFamilyPolicy", policy, &POLICIES));
    let families = families.iter().enumerate().filter_map(|(i, family)| {
        let field = format!("spec.ipFamilies[{i}]");
        match family.as_str() {
            name if families[..i].iter().any(|other| other == name) => Some(FieldError::duplicate(field, name)),
            "IPv4" | "IPv6" => None,
            name => Some(FieldError::not_supported(field, name, &["IPv4", "IPv6"])),
        }
    });
    wrong.into_iter().chain(families).collect()
}

/// Settles `ipFamilyPolicy` and `ipFamilies` by what the cluster has.
fn init_families(allocators: &Allocators, service: &mut Value, old: Option<&Value>) -> Result<()> {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return Ok(());
    }
    let headless = service.str_at(&["spec", "clusterIP"]) == "None";
    let selectorless = service["spec"]["selector"].is_empty();
    if service["spec"]["ipFamilyPolicy"].is_null() {
        let before = old.map(|o| o.str_at(&["spec", "ipFamilyPolicy"]).to_owned()).filter(|p| !p.is_empty());
        let policy = before
            .unwrap_or_else(|| if headless && selectorless { "RequireDualStack" } else { "SingleStack" }.to_owned());
        service.set(&["spec", "ipFamilyPolicy"], policy);
    }
    let errors = unknown_families(service);
    if !errors.is_empty() {
        return Err(refuse(service, errors));
    }
    let single = service.str_at(&["spec", "ipFamilyPolicy"]) == "SingleStack";
    let mut ips = service["spec"]["clusterIPs"].texts();
    let mut families = service["spec"]["ipFamilies"].texts();
    let mut errors = Vec::new();
    let policy = service["spec"]["ipFamilyPolicy"].clone();
    if let Some(old) = old.filter(|o| o.str_at(&["spec", "type"]) != "ExternalName") {
        let (old_ips, old_families) = (old["spec"]["clusterIPs"].texts(), old["spec"]["ipFamilies"].texts());
        if single {
            if ips == old_ips {
                ips.truncate(1);
            }
            if families == old_families {
                families.truncate(1);
            }
        } else {
            if ips.len() < old_ips.len() && !ips.is_empty() {
                let detail = "must be 'SingleStack' to release the secondary cluster IP";
                errors.push(invalid("spec.ipFamilyPolicy", policy.clone(), detail));
            }
            if families.len() < old_families.len() && !families.is_empty() {
                let detail = "must be 'SingleStack' to release the secondary IP family";
                errors.push(invalid("spec.ipFamilyPolicy", policy.clone(), detail));
            }
        }
    }
    if single && ips.len() == 2 {
        let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
        errors.push(invalid("spec.ipFamilyPolicy", policy.clone(), detail));
    }
    if single && families.len() == 2 {
        let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        errors.push(invalid("spec.ipFamilyPolicy", policy.clone(), detail));
    }
    for (at, ip) in ips.iter().enumerate() {
        if ip == "None" {
            break;
        }
        let Some(family) = family_of(ip) else {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(invalid(&format!("spec.clusterIPs[{at}]"), ip.as_str(), detail));
            continue;
        };
        match families.get(at) {
            None if allocators.of_family(family).is_none() => {
                let detail = format!("{family} is not configured on this cluster");
                errors.push(invalid(
                    &format!("spec.clusterIPs[{at}]"),
                    Value::list(ips.iter().map(String::as_str)),
                    &detail,
                ));
            }
            None => families.push(family.into()),
            Some(given) if given != family => {
                let detail = format!("expected an {given} value as indicated by `ipFamilies[{at}]`");
                errors.push(invalid(&format!("spec.clusterIPs[{at}]"), ip.as_str(), &detail));
            }
            Some(_) => {}
        }
    }
    if !errors.is_empty() {
        return Err(refuse(service, errors));
    }
    let default = allocators.cidrs.first().map_or("IPv4", |cidr| cidr.family().name());
    if headless && selectorless {
        if families.is_empty() {
            families.push(default.into());
        }
        if families.len() < 2 && !single {
            families.push(other(&families[0]).into());
        }
    } else {
        if service.str_at(&["spec", "ipFamilyPolicy"]) == "RequireDualStack" && allocators.cidrs.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(invalid("spec.ipFamilyPolicy", policy, detail));
        }
        for (at, family) in families.iter().enumerate() {
            if allocators.of_family(family).is_none() {
                let detail = "not configured on this cluster";
                errors.push(invalid(&format!("spec.ipFamilies[{at}]"), family.as_str(), detail));
            }
        }
        if !errors.is_empty() {
            return Err(refuse(service, errors));
        }
        if families.is_empty() {
            families.push(default.into());
        }
        if !single && families.len() == 1 && allocators.cidrs.len() == 2 {
            families.push(other(&families[0]).into());
        }
    }
    service.set(&["spec", "ipFamilies"], families);
    if !ips.is_empty() {
        service.set(&["spec", "clusterIPs"], ips);
    }
    Ok(())
}

/// Takes what the service asks for and does not hold by `old`. On failure nothing stays taken.
fn allocate(cx: &Cx<'_>, service: &mut Value, old: Option<&Value>) -> Result<()> {
    let mut attempt = Attempt { cx, held: old.map(Taken::by).unwrap_or_default(), got: Taken::default() };
    let result = attempt.all(service);
    if result.is_err() && !cx.dry_run {
        cx.server.inner.allocators.taken().give_back(&attempt.got);
    }
    result
}

struct Attempt<'a> {
    cx: &'a Cx<'a>,
    held: Taken,
    got: Taken,
}

impl Attempt<'_> {
    fn all(&mut self, service: &mut Value) -> Result<()> {
        let ty = service.str_at(&["spec", "type"]).to_owned();
        if ty == "ExternalName" {
            return Ok(());
        }
        self.addresses(service)?;
        if matches!(ty.as_str(), "NodePort" | "LoadBalancer") {
            let automatic = service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true);
            self.node_ports(service, automatic || ty == "NodePort")?;
        }
        if needs_health_port(service) {
            self.health_port(service)?;
        }
        Ok(())
    }

    fn take_port(&mut self, port: u16) -> std::result::Result<(), String> {
        self.cx.server.inner.allocators.take_port(port, self.cx.dry_run)?;
        self.got.ports.insert(port);
        Ok(())
    }

    fn next_port(&mut self, what: &str) -> Result<u16> {
        let inner = &self.cx.server.inner;
        let port = inner.allocators.next_port(&*inner.config.random, self.cx.dry_run);
        let port = port.ok_or_else(|| Status::internal(format_args!("failed to allocate a {what}: range is full")))?;
        self.got.ports.insert(port);
        Ok(port)
    }

    fn addresses(&mut self, service: &mut Value) -> Result<()> {
        let mut ips = service["spec"]["clusterIPs"].texts();
        if ips.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        let inner = &self.cx.server.inner;
        let name = service.str_at(&["metadata", "name"]);
        let wrong = match names::path_segment(name).first() {
            _ if self.cx.dry_run || !self.held.ips.is_empty() => None,
            _ if name.is_empty() => Some("spec.parentRef.name: Required value".to_owned()),
            problem => problem.map(|problem| format!("spec.parentRef.name: Invalid value: {name:?}: {problem}")),
        };
        for (at, family) in service["spec"]["ipFamilies"].texts().iter().enumerate() {
            if let Some(wrong) = &wrong {
                // Upstream gives an address in an object that names the service.
                let given = ips.get(at).map(|ip| format!(" {ip}")).unwrap_or_default();
                let free = || inner.allocators.next_ip(family, &*inner.config.random, true).map(|ip| ip.to_string());
                let ip = ips.get(at).cloned().or_else(free).unwrap_or_default();
                let why =
                    format!("failed to allocate IP{given}: IPAddress.networking.k8s.io {ip:?} is invalid: {wrong}");
                let all = if ips.is_empty() { vec![String::new()] } else { ips };
                return Err(refuse(service, vec![invalid("spec.clusterIPs", all, &why)]));
            }
            let Some(text) = ips.get(at) else {
                let ip = inner.allocators.next_ip(family, &*inner.config.random, self.cx.dry_run).ok_or_else(|| {
                    let name = service.str_at(&["metadata", "name"]);
                    Status::internal(format_args!("failed to allocate a serviceIP for Service {name:?}: range is full"))
                })?;
                self.got.ips.insert(ip);
                ips.push(ip.to_string());
                continue;
            };
            let ip: IpAddr =
                text.parse().map_err(|_| Status::internal(format_args!("failed to parse service IP {text:?}")))?;
            if self.held.ips.contains(&ip) {
                continue;
            }
            if let Err(why) = inner.allocators.take_ip(ip, self.cx.dry_run) {
                let detail = format!("failed to allocate IP {text}: {why}");
                let all = Value::list(ips.iter().map(String::as_str));
                return Err(refuse(service, vec![invalid("spec.clusterIPs", all, &detail)]));
            }
            self.got.ips.insert(ip);
        }
        if let Some(first) = ips.first().cloned() {
            service.set(&["spec", "clusterIP"], first);
            service.set(&["spec", "clusterIPs"], ips);
        }
        Ok(())
    }

    fn node_ports(&mut self, service: &mut Value, automatic: bool) -> Result<()> {
        let ports = service.list_at(&["spec", "ports"]).to_vec();
        let mut by_port: Vec<(i64, u16)> = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let number = port.i64_at(&["port"]).unwrap_or(0);
            if let Some(given) = port.i64_at(&["nodePort"]).filter(|given| u16::try_from(*given).is_err()) {
                if self.cx.dry_run {
                    continue;
                }
                let why = self.cx.server.inner.allocators.port_range();
                return Err(refuse(service, vec![invalid(&format!("spec.ports[{at}].nodePort"), given, &why)]));
            }
            // Ports of the same number in other protocols share one.
            let shared = || by_port.iter().find(|(other, _)| *other == number).map(|(_, chosen)| *chosen);
            let later = || {
                let same = ports[at + 1..].iter().filter(|other| other.i64_at(&["port"]) == Some(number));
                same.filter_map(|other| port_at(other, "nodePort")).next()
            };
            let chosen = match port_at(port, "nodePort").or_else(shared).or_else(later) {
                Some(port) => {
                    if !self.got.ports.contains(&port) && !self.held.ports.contains(&port) {
                        self.take_port(port).map_err(|why| {
                            let field = format!("spec.ports[{at}].nodePort");
                            refuse(service, vec![invalid(&field, i64::from(port), &why)])
                        })?;
                    }
                    port
                }
                None if automatic => self.next_port("nodePort")?,
                None => continue,
            };
            by_port.push((number, chosen));
            if let Some(list) = service.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut) {
                list[at].set(&["nodePort"], chosen);
            }
        }
        Ok(())
    }

    fn health_port(&mut self, service: &mut Value) -> Result<()> {
        match port_at(&service["spec"], "healthCheckNodePort") {
            // What is no port at all is left to validation.
            None if !service["spec"]["healthCheckNodePort"].is_empty() => Ok(()),
            Some(port) if self.held.ports.contains(&port) => Ok(()),
            Some(port) => self.take_port(port).map_err(|why| {
                Status::internal(format_args!("failed to allocate requested HealthCheck NodePort {port}: {why}"))
            }),
            None => {
                let port = self.next_port("HealthCheck NodePort")?;
                service.set(&["spec", "healthCheckNodePort"], port);
                Ok(())
            }
        }
    }
}

fn prepare_create(cx: &Cx<'_>, service: &mut Value) -> Result<()> {
    super::prepare_create(cx, service)?;
    service.set(&["status", "loadBalancer"], Value::object::<&str>([]));
    normalize_cluster_ips(service, None);
    init_families(&cx.server.inner.allocators, service, None)?;
    allocate(cx, service, None)
}

fn prepare_update(cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<()> {
    keep_allocated(new, old);
    drop_type_dependent(new, old);
    if new.str_at(&["spec", "type"]) != "LoadBalancer" {
        new.set(&["status", "loadBalancer"], Value::object::<&str>([]));
    }
    normalize_cluster_ips(new, Some(old));
    init_families(&cx.server.inner.allocators, new, Some(old))?;
    let errors = immutable(new, old);
    if !errors.is_empty() {
        return Err(refuse(new, errors));
    }
    allocate(cx, new, Some(old))
}

/// The address of a service that has one does not change.
fn immutable(new: &Value, old: &Value) -> Vec<FieldError> {
    let has_ip = |s: &Value| s.str_at(&["spec", "type"]) != "ExternalName";
    let mut errors = Vec::new();
    if has_ip(new) && has_ip(old) {
        let (before, after) = (old.str_at(&["spec", "clusterIP"]), new.str_at(&["spec", "clusterIP"]));
        let first = new["spec"]["clusterIPs"][0].as_str().unwrap_or("");
        if !before.is_empty() && (after != before || first != before) {
            let list = new["spec"]["clusterIPs"].clone();
            errors.push(invalid("spec.clusterIPs[0]", list, "may not change once set"));
        }
    }
    errors
}

/// What the new type does not have and the client did not touch.
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let ty = new.str_at(&["spec", "type"]).to_owned();
    let old_type = old.str_at(&["spec", "type"]);
    let mut drop_if_same = |path: &[&str]| {
        if new.get(path) == old.get(path) {
            new.remove(path);
        }
    };
    if old_type != "ExternalName" && ty == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            drop_if_same(&["spec", field]);
        }
    }
    if ty != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop_if_same(&["spec", field]);
        }
    }
    let external = match ty.as_str() {
        "ClusterIP" => !new["spec"]["externalIPs"].is_empty(),
        other => matches!(other, "NodePort" | "LoadBalancer"),
    };
    if !external && new["spec"]["externalTrafficPolicy"] == old["spec"]["externalTrafficPolicy"] {
        new.remove(&["spec", "externalTrafficPolicy"]);
    }
    if needs_health_port(old)
        && !needs_health_port(new)
        && new["spec"]["healthCheckNodePort"] == old["spec"]["healthCheckNodePort"]
    {
        new.remove(&["spec", "healthCheckNodePort"]);
    }
    if matches!(old_type, "NodePort" | "LoadBalancer") && !matches!(&*ty, "NodePort" | "LoadBalancer") {
        let before: Vec<Value> = old.list_at(&["spec", "ports"]).iter().map(|p| p["nodePort"].clone()).collect();
        let after: Vec<Value> = new.list_at(&["spec", "ports"]).iter().map(|p| p["nodePort"].clone()).collect();
        if after.iter().all(|p| before.contains(p) || p.is_empty()) {
            for port in new.get_mut(&["spec", "ports"]).and_then(Value::as_list_mut).into_iter().flatten() {
                port.remove(&["nodePort"]);
            }
        }
    }
}
