//! One node's network: what the program wires up.
//!
//! All methods block for kernel round trips (tens of microseconds to milliseconds) and may be called from several threads;
//! pods and the table have locks of their own. Nothing here needs a clean end: [`Net::open`] finds what the last life left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::conntrack::Conntrack;
use super::foreign::{ForeignDrop, foreign_drops};
use super::ipam::Ipam;
use super::link::{Links, Route};
use super::netns::Netns;
use super::nft::Nft;
use super::overlay::{self, Backend, Peer};
use super::{Error, Result, pod, sysctl};
use crate::ruleset::{
    Batch, Change, Cidr, Family, Ruleset, State, choices_map, diff, stale_choices, stale_flows, takes_endpoints,
    touches_udp,
};

#[derive(Clone, Debug)]
pub struct Options {
    /// Where allocated addresses are noted.
    pub address_directory: PathBuf,
    /// This node's podCIDRs, at most one per family.
    pub pod_cidrs: Vec<Cidr>,
    pub service_cidrs: Vec<Cidr>,
    /// The node's own addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    pub backend: Backend,
    /// Of pods' links; `None`: the uplink's, less the overlay's overhead.
    pub mtu: Option<u32>,
    /// Service addresses that this node answers itself: they are put on its loopback link.
    pub own_service_ips: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodAddress {
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
}

impl PodAddress {
    fn new(ips: &[IpAddr]) -> Self {
        PodAddress {
            ipv4: ips.iter().find(|ip| ip.is_ipv4()).copied(),
            ipv6: ips.iter().find(|ip| ip.is_ipv6()).copied(),
        }
    }

    /// In the order of `status.podIPs` where IPv4 is primary.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.into_iter().chain(self.ipv6)
    }
}

/// What an [`Net::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Steps of the transaction; 0: nothing differed and nothing was sent.
    pub changes: usize,
    /// UDP flows and remembered choices that were forgotten.
    pub forgotten: usize,
}

#[derive(Debug)]
struct Pods {
    links: Links,
    ipam: Ipam,
}

#[derive(Debug)]
struct Table {
    nft: Nft,
    conntrack: Conntrack,
    /// What the kernel has; `None`: unknown, to be read.
    state: Option<State>,
    /// Nothing was applied in this life yet.
    first: bool,
}

#[derive(Debug)]
pub struct Net {
    options: Options,
    mtu: u32,
    device: Option<u32>,
    /// The node's addresses that are really on its links: what it sends to its pods from.
    sources: Vec<IpAddr>,
    pods: Mutex<Pods>,
    table: Mutex<Table>,
    changed: Vec<sysctl::Changed>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is compared with the kernel anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Net {
    /// Prepares the thread's network namespace: kernel settings, overlay device, service addresses; reads the table.
    pub fn open(options: Options) -> Result<Self> {
        let changed = settings(&options)?;
        let mut links = Links::open()?;
        let primary = options.node_ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let mtu = match options.mtu {
            Some(mtu) => mtu,
            None => {
                uplink_mtu(&mut links, primary)?.saturating_sub(overlay::overhead(options.backend, primary)).max(1280)
            }
        };
        let device = overlay::ensure_device(&mut links, options.backend, primary, &options.pod_cidrs, mtu)?;
        own_addresses(&mut links, &options)?;
        let local = links.addresses()?;
        let sources: Vec<IpAddr> =
            options.node_ips.iter().filter(|ip| local.iter().any(|(_, l)| l == *ip)).copied().collect();
        service_routes(&mut links, &options.service_cidrs, &sources, device, &local)?;
        let ipam = Ipam::open(&options.address_directory, options.pod_cidrs.clone())?;
        let table = Table { nft: Nft::open()?, conntrack: Conntrack::open()?, state: None, first: true };
        Ok(Net {
            options,
            mtu,
            device,
            sources,
            pods: Mutex::new(Pods { links, ipam }),
            table: Mutex::new(table),
            changed,
        })
    }

    /// Kernel settings that [`Net::open`] changed.
    pub fn changed_settings(&self) -> &[sysctl::Changed] {
        &self.changed
    }

    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Links the pod whose network namespace is pinned at `netns` and returns its addresses. Saying it again
    /// gives the same addresses, and completes what a crash cut short.
    pub fn attach_pod(&self, netns: &Path, uid: &str) -> Result<PodAddress> {
        let netns = Netns::open(netns)?;
        let mut pods = lock(&self.pods);
        let Pods { links, ipam } = &mut *pods;
        let ips = ipam.allocate(uid)?;
        pod::attach(links, &netns, uid, &ips, self.mtu, &self.sources)?;
        Ok(PodAddress::new(&ips))
    }

    /// Removes the pod's link and frees its addresses; its namespace may be gone. Nothing there is fine.
    pub fn detach_pod(&self, uid: &str) -> Result<()> {
        let mut pods = lock(&self.pods);
        pod::detach(&mut pods.links, uid)?;
        pods.ipam.release(uid)?;
        Ok(())
    }

    /// The addresses of every attached pod, by uid.
    pub fn attached(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (ip, owner) in lock(&self.pods).ipam.owners() {
            all.entry(owner.clone()).or_default().push(*ip);
        }
        all
    }

    /// At start: takes away links and addresses of pods that are not among `living` uids; returns how many.
    pub fn reconcile(&self, living: &[String]) -> Result<usize> {
        let mut pods = lock(&self.pods);
        let names: Vec<String> = living.iter().map(|uid| pod::link_name(uid)).collect();
        let Pods { links, ipam } = &mut *pods;
        let strays = pod::strays(links, &|name| names.iter().any(|n| n == name))?;
        for name in &strays {
            links.delete(name)?;
        }
        let forgotten = ipam.keep(&|owner| living.iter().any(|uid| uid == owner))?;
        Ok(strays.len().max(forgotten.len()))
    }

    /// Brings the kernel's table to `wanted` in one transaction of only what differs, then forgets UDP flows
    /// and remembered choices that lead to endpoints which are gone.
    pub fn apply(&self, wanted: &Ruleset) -> Result<Applied> {
        let mut table = lock(&self.table);
        let table = &mut *table;
        let known = table.state.is_some();
        let mut batch = table.commit(wanted);
        if batch.is_err() && known {
            // Somebody changed our table: see what is there now.
            table.state = None;
            batch = table.commit(wanted);
        }
        let batch = batch?;
        let mut applied = Applied { changes: batch.0.len(), forgotten: 0 };
        if std::mem::take(&mut table.first) || touches_udp(&batch) {
            let flows = table.conntrack.udp()?;
            for flow in stale_flows(&flows, wanted) {
                table.conntrack.forget(flow)?;
                applied.forgotten += 1;
            }
        }
        if takes_endpoints(&batch) {
            for family in Family::ALL {
                let map = choices_map(family);
                let stale = stale_choices(family, table.nft.remembered(&map)?, wanted);
                let Some(shape) = table.state.as_ref().and_then(|state| state.sets.get(&map)).map(|set| set.shape)
                else {
                    continue;
                };
                for key in stale {
                    // One by one: a choice may time out in between.
                    match table.nft.commit(&Batch(vec![Change::DeleteElements(map.clone(), shape, vec![key])])) {
                        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                        result => result?,
                    }
                    applied.forgotten += 1;
                }
            }
        }
        Ok(applied)
    }

    /// Reads the table anew at the next [`Net::apply`], so that what others did to it is repaired.
    pub fn distrust(&self) {
        lock(&self.table).state = None;
    }

    /// Removes our table and, with it, every rule of ours.
    pub fn remove_table(&self) -> Result<()> {
        let mut table = lock(&self.table);
        table.state = None;
        table.nft.remove()
    }

    /// The other nodes, all of them: routes to their pods come and go by difference.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<()> {
        let Some(own) = self.options.node_ips.first() else { return Ok(()) };
        let plan = overlay::plan(self.options.backend, *own, self.device, peers);
        overlay::apply(&mut lock(&self.pods).links, self.device, &plan)
    }

    /// Other people's chains that may drop our packets.
    pub fn foreign_drops(&self) -> Result<Vec<ForeignDrop>> {
        foreign_drops(&mut lock(&self.table).nft)
    }
}

impl Table {
    fn commit(&mut self, wanted: &Ruleset) -> Result<Batch> {
        let state = match self.state.take() {
            Some(state) => state,
            None => self.nft.read()?,
        };
        let batch = diff(&state, wanted);
        self.nft.commit(&batch)?;
        let mut state = state;
        state.advance(batch.clone());
        self.state = Some(state);
        Ok(batch)
    }
}

/// Kernel settings that routing between pods needs. Those that limit tracked connections are raised as kube-proxy
/// does where the kernel lets us.
fn settings(options: &Options) -> Result<Vec<sysctl::Changed>> {
    let mut changed = Vec::new();
    changed.extend(sysctl::set("ipv4/ip_forward", "1")?);
    // NodePorts on 127.0.0.1; the table drops what comes for it from a wire.
    changed.extend(sysctl::set("ipv4/conf/all/route_localnet", "1")?);
    if options.pod_cidrs.iter().any(|cidr| cidr.family() == Family::V6) {
        // Forwarding ends the acceptance of router advertisements unless it is 2.
        let uplinks = Links::open()?.all()?;
        for link in uplinks.iter().filter(|link| link.vxlan.is_none() && !pod::is_pod_link(&link.name)) {
            let name = format!("ipv6/conf/{}/accept_ra", link.name);
            if sysctl::get(&name).as_deref() == Some("1") {
                changed.extend(sysctl::set(&name, "2")?);
            }
        }
        changed.extend(sysctl::set_if_there("ipv6/conf/all/forwarding", "1")?);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let limits = [
        ("netfilter/nf_conntrack_max", 131_072.max(cores * 32_768), true),
        ("netfilter/nf_conntrack_tcp_timeout_established", 86_400, false),
        ("netfilter/nf_conntrack_tcp_timeout_close_wait", 3_600, false),
    ];
    for (name, value, only_raise) in limits {
        let is: Option<u64> = sysctl::get(name).and_then(|text| text.parse().ok());
        if is.is_some_and(|is| is != value && !(only_raise && is > value)) {
            match sysctl::set(name, &value.to_string()) {
                Ok(change) => changed.extend(change),
                Err(error) => tracing::debug!(%error, "leaving a limit of tracked connections as it is"),
            }
        }
    }
    Ok(changed)
}

fn uplink_mtu(links: &mut Links, node_ip: IpAddr) -> Result<u32> {
    let index = links.addresses()?.into_iter().find(|(_, ip)| *ip == node_ip).map(|(index, _)| index);
    let uplink = links.all()?.into_iter().find(|link| Some(link.index) == index && link.name != "lo");
    Ok(uplink.map_or(1500, |link| link.mtu.min(65_000)))
}

/// Puts the service addresses that this node answers on its loopback link, and takes others of theirs away.
fn own_addresses(links: &mut Links, options: &Options) -> Result<()> {
    let Some(lo) = links.named("lo")? else { return Ok(()) };
    if !lo.up {
        links.up(lo.index, false)?;
    }
    let on_lo: Vec<IpAddr> = links.addresses()?.into_iter().filter(|(l, _)| *l == lo.index).map(|(_, ip)| ip).collect();
    let service = |ip: &IpAddr| options.service_cidrs.iter().any(|cidr| cidr.contains(*ip));
    for ip in on_lo.iter().filter(|ip| service(ip) && !options.own_service_ips.contains(ip)) {
        links.delete_address(lo.index, *ip)?;
    }
    for ip in options.own_service_ips.iter().filter(|ip| !on_lo.contains(ip)) {
        links.add_service_address(lo.index, *ip)?;
    }
    Ok(())
}

/// Lets the node reach services even if it has no default route: translation comes after a first routing, which
/// only has to succeed. By the overlay's device, which is always up, or by the link of the node's address
/// (by the loopback link nothing could be refused).
fn service_routes(
    links: &mut Links,
    cidrs: &[Cidr],
    sources: &[IpAddr],
    device: Option<u32>,
    local: &[(u32, IpAddr)],
) -> Result<()> {
    for cidr in cidrs {
        let source = sources.iter().find(|ip| Family::of(ip) == cidr.family()).copied();
        let uplink = local.iter().find(|(_, ip)| Some(*ip) == source).map(|(link, _)| *link);
        if let (Some(source), Some(link)) = (source, device.or(uplink)) {
            let route = Route { to: *cidr, via: None, link: Some(link), on_link: false, source: Some(source) };
            links.replace_route(&route)?;
        }
    }
    Ok(())
}
