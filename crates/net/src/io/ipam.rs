//! Host-local addresses: which pod has which, from the node's podCIDRs.
//!
//! One file per address, named after it, holding the owner; next to each other in a directory. The files live
//! as long as the pods' network namespaces need them to: they are not synced, for a power cut ends the pods too,
//! and [`Ipam::keep`] drops at start what no living pod owns. An empty file (cut before its content) is free.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{Error, Result};
use crate::ruleset::Cidr;

/// The first address is the node's own on the overlay, the second is kept free as upstream's networks have a gateway there.
const FIRST_OFFSET: u128 = 2;

#[derive(Debug)]
pub struct Ipam {
    directory: PathBuf,
    cidrs: Vec<Cidr>,
    owners: BTreeMap<IpAddr, String>,
    /// Offset of the next try, by network: an address is not given again at once.
    next: Vec<u128>,
}

impl Ipam {
    /// Opens the directory, making it if there is none, and reads who owns what.
    pub fn open(directory: &Path, cidrs: Vec<Cidr>) -> Result<Self> {
        let failed = |action| move |source| Error::File { action, path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed("create"))?;
        let mut owners = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            let Some(ip) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<IpAddr>().ok()) else {
                continue;
            };
            match fs::read_to_string(&path) {
                Ok(owner) if !owner.is_empty() => {
                    owners.insert(ip, owner);
                }
                _ => remove(&path)?,
            }
        }
        let after_last = |cidr: &Cidr| owners.keys().filter_map(|ip| cidr.offset(*ip)).max().unwrap_or(0) + 1;
        let next = cidrs.iter().map(|cidr| after_last(cidr).max(FIRST_OFFSET)).collect();
        Ok(Ipam { directory: directory.to_owned(), cidrs, owners, next })
    }

    pub fn of<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        self.owners.iter().filter(move |(_, o)| *o == owner).map(|(ip, _)| *ip)
    }

    pub fn owners(&self) -> &BTreeMap<IpAddr, String> {
        &self.owners
    }

    /// One address from each network for `owner`; the ones it has already, if any.
    pub fn allocate(&mut self, owner: &str) -> Result<Vec<IpAddr>> {
        let mut all = Vec::with_capacity(self.cidrs.len());
        for at in 0..self.cidrs.len() {
            let cidr = self.cidrs[at];
            let has = self.of(owner).find(|ip| cidr.contains(*ip));
            let ip = match has {
                Some(ip) => ip,
                None => self.take(at, owner)?,
            };
            all.push(ip);
        }
        Ok(all)
    }

    fn take(&mut self, at: usize, owner: &str) -> Result<IpAddr> {
        let cidr = self.cidrs[at];
        // The last address of an IPv4 network is its broadcast.
        let last = cidr.last_offset().saturating_sub(u128::from(cidr.address().is_ipv4()));
        let first = FIRST_OFFSET.min(last);
        let start = if (first..=last).contains(&self.next[at]) { self.next[at] } else { first };
        let offsets = (start..=last).chain(first..start).take(self.owners.len() + 1);
        let mut ips = offsets.filter_map(|offset| Some((offset, cidr.nth(offset)?)));
        let free = ips.find(|(_, ip)| !self.owners.contains_key(ip));
        let Some((offset, ip)) = free else { return Err(Error::Exhausted { cidr: cidr.to_string() }) };
        let path = self.directory.join(ip.to_string());
        fs::write(&path, owner).map_err(|source| Error::File { action: "write", path, source })?;
        self.owners.insert(ip, owner.to_owned());
        self.next[at] = offset + 1;
        Ok(ip)
    }

    /// Frees what `owner` has; nothing is fine.
    pub fn release(&mut self, owner: &str) -> Result<Vec<IpAddr>> {
        let ips: Vec<IpAddr> = self.of(owner).collect();
        for ip in &ips {
            remove(&self.directory.join(ip.to_string()))?;
            self.owners.remove(ip);
        }
        Ok(ips)
    }

    /// Frees what none of `living` owns; returns the owners that were forgotten.
    pub fn keep(&mut self, living: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut gone: Vec<String> = self.owners.values().filter(|owner| !living(owner)).cloned().collect();
        gone.sort_unstable();
        gone.dedup();
        for owner in &gone {
            self.release(owner)?;
        }
        Ok(gone)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
