//! The contract of CRI v1, asked by a client that is not ours (k8s-cri over tonic): of `sampan cri` always, of containerd
//! where its binaries are at hand (`$SAMPAN_CRI_PEERS`, or `~/.cache/sampan-peers/bin`). What has to do with networks is
//! asked of `sampan cri` with CNI plugins once more, where these are at hand.
//!
//! `rows` are containers with what they must say; `cases` are conversations; `faults` are what goes wrong in between.
//! `differences.txt` lists what containerd does otherwise, with reasons. As root, in namespaces of its own, which take
//! every process, link and mount with them. Arguments choose cases by parts of their names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cloned_ref_to_slice_refs)] // tests

mod cases;
mod faults;
mod image;
mod rows;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use world::{Bench, Peer};

pub type Case = (String, Box<dyn Fn(Arc<Bench>) -> LocalBoxFuture<'static, ()>>);

/// Cases in which a network takes part.
const NETWORKED: [&str; 8] = [
    "life of a sandbox",
    "pods reach each other",
    "a port of the host",
    "a port of a pod",
    "the host's network has no address of its own",
    "numbers of containers and pods",
    "stopped and removed by many at once",
    "killed while containers run and end",
];
const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root || !Path::new("/bin/busybox").exists() {
        println!("cri: skipped: needs root and /bin/busybox");
        return ExitCode::SUCCESS;
    }
    match std::env::var_os("SAMPAN_CRI_DIR") {
        Some(dir) => inside(Path::new(&dir)),
        None => outside(),
    }
}

/// Runs this program again in namespaces of its own, and clears up.
fn outside() -> ExitCode {
    let dir = tempfile::Builder::new().prefix("cri").tempdir_in("/tmp").unwrap();
    let made = std::fs::create_dir(world::CDI).is_ok();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env("SAMPAN_CRI_DIR", dir.path())
        .status();
    world::remove_cgroups(dir.path());
    if made {
        let _ = std::fs::remove_dir(world::CDI);
    }
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn inside(dir: &Path) -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failed = runtime.block_on(tokio::task::LocalSet::new().run_until(suite(dir, &wanted)));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many failed that were not known to.
async fn suite(dir: &Path, wanted: &[String]) -> usize {
    std::panic::set_hook(Box::new(|_| {}));
    world::network();
    let registry = image::Registry::start(dir).await;
    let archive = image::archive(dir);
    let ours = Peer::ours(&dir.join("ours"), None).await.unwrap();
    let mut peers = vec![Arc::new(ours)];
    let mut skipped = Vec::new();
    match plugins() {
        Some(plugins) => peers.push(Arc::new(Peer::ours(&dir.join("cni"), Some(&plugins)).await.unwrap())),
        None => skipped.push("ours with CNI: no plugins".into()),
    }
    match containerd() {
        Ok(bin) => match Peer::containerd(&dir.join("peer"), &bin).await {
            Ok(peer) => peers.push(Arc::new(peer)),
            Err(why) => skipped.push(format!("containerd: {why}")),
        },
        Err(why) => skipped.push(format!("containerd: {why}")),
    }
    let known = differences();
    let mut failed = 0;
    let mut totals = Vec::new();
    for peer in &peers {
        peer.import(&archive).await;
        let (mut passed, mut differs) = (0, 0);
        for (name, case) in rows::all().into_iter().chain(cases::all()).chain(faults::all()) {
            let networked = peer.name != "ours with CNI" || NETWORKED.contains(&name.as_str());
            if !networked || !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
                continue;
            }
            let bench = Arc::new(Bench::new(peer.clone(), &name, registry.address.clone()));
            let work = tokio::task::spawn_local(tokio::time::timeout(PATIENCE, case(bench.clone())));
            let outcome = match work.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("it takes too long".to_owned()),
                Err(panicked) => Err(message(panicked)),
            };
            bench.clear().await;
            let expected = known.get(&name).filter(|_| peer.name == "containerd");
            match (outcome, expected) {
                (Ok(()), None) => passed += 1,
                (Ok(()), Some(_)) => {
                    failed += 1;
                    println!("{}: {name}: passes by now: take it out of differences.txt", peer.name);
                }
                (Err(why), Some(reason)) => {
                    differs += 1;
                    println!("{}: {name}: differs: {reason} ({})", peer.name, why.lines().next().unwrap_or_default());
                }
                (Err(why), None) if why.starts_with("skip: ") => skipped.push(format!("{}: {name}: {why}", peer.name)),
                (Err(why), None) => {
                    failed += 1;
                    println!("{}: {name}: FAILED: {why}", peer.name);
                }
            }
        }
        totals.push((peer.name, passed, differs));
        peer.stop().await;
    }
    skipped.iter().for_each(|why| println!("skipped: {why}"));
    let words: Vec<String> =
        totals.iter().map(|(name, passed, differs)| format!("{name}: {passed} passed, {differs} differ")).collect();
    println!("cri: {}, {} skipped, {failed} failed", words.join(", "), skipped.len());
    let passed: usize = totals.iter().map(|(_, passed, _)| passed).sum();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed; {} ignored; 0 measured", skipped.len());
    failed
}

fn message(panicked: tokio::task::JoinError) -> String {
    match panicked.try_into_panic().map(|value| value.downcast::<String>()) {
        Ok(Ok(text)) => *text,
        Ok(Err(value)) => value.downcast_ref::<&str>().map_or("panicked".to_owned(), |text| (*text).to_owned()),
        Err(error) => error.to_string(),
    }
}

/// Debian's, or those of containerd.
fn plugins() -> Option<PathBuf> {
    let of_peer = containerd().ok().map(|bin| bin.with_file_name("cni").join("bin"));
    let mut all = [Some(PathBuf::from("/usr/lib/cni")), of_peer].into_iter().flatten();
    all.find(|dir| ["bridge", "host-local", "portmap"].iter().all(|name| dir.join(name).exists()))
}

fn containerd() -> Result<PathBuf, String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let bin = std::env::var("SAMPAN_CRI_PEERS").unwrap_or(format!("{home}/.cache/sampan-peers/bin"));
    let bin = PathBuf::from(bin);
    let lacks =
        ["containerd", "containerd-shim-runc-v2", "runc", "ctr"].into_iter().find(|name| !bin.join(name).exists());
    match lacks {
        Some(name) => Err(format!("no {name} in {}", bin.display())),
        None => Ok(bin),
    }
}

/// `case: reason`, one a line.
fn differences() -> BTreeMap<String, String> {
    let lines = include_str!("differences.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(": ")).map(|(name, why)| (name.to_owned(), why.to_owned())).collect()
}

/// A named conversation.
pub fn case<F>(name: &str, work: impl Fn(Arc<Bench>) -> F + 'static) -> Case
where
    F: Future<Output = ()> + 'static,
{
    (name.to_owned(), Box::new(move |bench| work(bench).boxed_local()))
}
