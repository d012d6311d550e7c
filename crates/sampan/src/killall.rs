//! `sampan killall`: ends every pod of this node and takes back what the node made on this machine: processes, links,
//! rules, mounts, cgroups. What users would miss stays: the cluster's data, images, volumes' contents, logs.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use net::io::{link::Links, nft::Nft, pod};
use runtime::containers::{self, Cgroups, Runtime};

use crate::places::Places;

const OVERLAY: &str = "sampan-vx";
/// Made for all pods, and only ever removed when nothing is in them.
const SHARED_CGROUPS: [&str; 5] = ["/kubepods/besteffort", "/kubepods/burstable", "/kubepods", "/sampan-keepers", ""];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Sampan runs with this data dir and would start its pods again: stop it first")]
    Running,
    #[error("cannot start tokio: {0}")]
    Tokio(io::Error),
    #[error("cannot read the mounts: {0}")]
    Mounts(io::Error),
    #[error("not everything could be taken back:\n  {}", .0.join("\n  "))]
    Left(Vec<String>),
}

pub fn run(data_dir: &Path) -> Result<(), Error> {
    let places = Places::new(data_dir);
    if UnixStream::connect(places.images_socket()).is_ok() {
        return Err(Error::Running);
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Tokio)?;
    let mut left = Vec::new();
    tokio.block_on(pods(&places, &mut left));
    network(&places, &mut left);
    mounts(&places, &mut left)?;
    cgroups(&places);
    if left.is_empty() { Ok(()) } else { Err(Error::Left(left)) }
}

async fn pods(places: &Places, left: &mut Vec<String>) {
    if !places.containers().exists() {
        return;
    }
    let runtime = match Runtime::open(places.runtime()).await {
        Ok(runtime) => runtime,
        Err(error) => return left.push(format!("the container runtime: {error}")),
    };
    let sandboxes = runtime.sandboxes();
    println!("{} pods", sandboxes.len());
    for sandbox in sandboxes {
        let outcome: containers::Result<()> = async {
            runtime.stop_sandbox(&sandbox.id).await?;
            runtime.remove_sandbox(&sandbox.id).await?;
            runtime.cgroups().kill(&sandbox.config.cgroup_parent);
            runtime.cgroups().remove(&sandbox.config.cgroup_parent)
        }
        .await;
        let name = format!("{}/{}", sandbox.config.namespace, sandbox.config.name);
        match outcome {
            Ok(()) => println!("  {name}"),
            Err(error) => left.push(format!("pod {name}: {error}")),
        }
    }
}

/// Of the network namespace that this runs in, as the node did.
fn network(places: &Places, left: &mut Vec<String>) {
    let outcome = (|| {
        Nft::open()?.remove()?;
        let mut links = Links::open()?;
        let ours: Vec<String> = links
            .all()?
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name == OVERLAY || pod::is_pod_link(name))
            .collect();
        for name in &ours {
            links.delete(name)?;
        }
        for route in links.our_routes()? {
            links.delete_route(&route)?;
        }
        Ok::<_, net::io::Error>(ours.len())
    })();
    match outcome {
        Ok(count) => println!("{count} links and table inet sampan"),
        Err(error) => left.push(format!("the network: {error}")),
    }
    // The pods are gone, and their addresses free.
    let _ = std::fs::remove_dir_all(places.network());
    let _ = std::fs::remove_dir_all(places.agent().join("addresses"));
}

fn mounts(places: &Places, left: &mut Vec<String>) -> Result<(), Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::Mounts)?;
    // Not the whole data dir: a disk that the administrator mounted for images stays.
    let (containers, kubelet) = (places.containers(), places.kubelet());
    let ours = mounts_below(&table, &[&containers, &kubelet, &places.run_dir]);
    println!("{} mounts", ours.len());
    for path in ours {
        if let Err(error) = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH) {
            left.push(format!("{} is still mounted: {error}", path.display()));
        }
    }
    Ok(())
}

/// Mount points strictly below these directories, the latest first.
fn mounts_below(mountinfo: &str, directories: &[&Path]) -> Vec<PathBuf> {
    let points =
        mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    let mut ours: Vec<PathBuf> = points
        .filter(|point| directories.iter().any(|directory| point.starts_with(directory) && point != directory))
        .collect();
    ours.reverse();
    ours
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Those that other nodes of this machine still use refuse to go, which is right.
fn cgroups(places: &Places) {
    let Ok(cgroups) = Cgroups::detect() else { return };
    let root = places.cgroup_root();
    for path in SHARED_CGROUPS.map(|path| format!("{root}{path}")).iter().filter(|path| !path.is_empty()) {
        for directory in cgroups.dirs(path) {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests;
