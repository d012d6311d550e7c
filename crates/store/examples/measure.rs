//! Measures the embedded store on the disk of the given directory: `cargo run --release -p store --example measure DIR`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::sqlite::{Options, Sqlite};
use store::{Store, Write};

fn value(n: u64, len: usize) -> Bytes {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn put(key: String, value: Bytes) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value }]
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn size(path: &Path, suffix: &str) -> u64 {
    std::fs::metadata(format!("{}{suffix}", path.display())).map_or(0, |meta| meta.len() >> 20)
}

fn percentile(times: &mut [Duration], of_100: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * of_100 / 100]
}

/// `writers` tasks write `each` values of 1 KiB.
async fn writers(store: &Arc<Sqlite>, kind: &str, writers: u64, each: u64) {
    let before = store.stats();
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, kind) = (store.clone(), kind.to_owned());
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..each {
                    let start = Instant::now();
                    let key = format!("/registry/{kind}/default/{writer}-{n:06}");
                    store.commit(vec![], put(key, value(n, 1024))).await.unwrap();
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let (took, after) = (start.elapsed(), store.stats());
    let commits = writers * each;
    println!(
        "{kind}: {writers:3} writers: {:6.0} commits/s, p50 {:?}, p99 {:?}, {:.3} syncs and {:.1} pages per commit",
        commits as f64 / took.as_secs_f64(),
        percentile(&mut times, 50),
        percentile(&mut times, 99),
        (after.syncs - before.syncs) as f64 / commits as f64,
        (after.log_pages - before.log_pages) as f64 / commits as f64,
    );
}

async fn reads(store: &Sqlite, keys: u64) {
    let mut times = Vec::new();
    for n in 0..5000 {
        let key = format!("/registry/big/{:05}", n * 7919 % keys);
        let start = Instant::now();
        store.get(&key).await.unwrap().unwrap();
        times.push(start.elapsed());
    }
    println!("get: p50 {:?}, p99 {:?}", percentile(&mut times, 50), percentile(&mut times, 99));
    for (what, limit) in [("all", 0), ("500", 500)] {
        let start = Instant::now();
        let page = store.range("/registry/big/", None, "", limit).await.unwrap();
        println!("range of {what}: {} items in {:?}, {} remain", page.items.len(), start.elapsed(), page.remaining);
    }
    let newest = store.revision().await.unwrap();
    let start = Instant::now();
    let changes = store.changes(newest - 1000, 1000).await.unwrap();
    println!("changes: {} in {:?}", changes.len(), start.elapsed());
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let directory = std::env::args().nth(1).expect("a directory");
    let path = Path::new(&directory).join(format!("measure-{}.db", std::process::id()));
    println!("before opening: {} KiB resident", status("VmRSS:"));
    let start = Instant::now();
    let store = Arc::new(Sqlite::open(&path, Options::default()).unwrap());
    println!("opened a new database in {:?}: {} KiB resident", start.elapsed(), status("VmRSS:"));
    writers(&store, "pods", 1, 2000).await;
    writers(&store, "pods2", 16, 1000).await;
    writers(&store, "pods3", 64, 500).await;
    println!("after writing: {} KiB resident", status("VmRSS:"));
    for n in 0..10_000 {
        store.commit(vec![], put(format!("/registry/big/{n:05}"), value(n, 4096))).await.unwrap();
        if n % 500 == 0 {
            store.compact(store.revision().await.unwrap().saturating_sub(2000)).await.unwrap();
        }
    }
    println!("with 10,000 x 4 KiB: {} KiB resident, {} MiB file", status("VmRSS:"), size(&path, ""));
    reads(&store, 10_000).await;
    println!("after reading: {} KiB resident", status("VmRSS:"));

    drop(store);
    let start = Instant::now();
    let store = Arc::new(Sqlite::open(&path, Options::default()).unwrap());
    println!("opened again in {:?}", start.elapsed());
    let start = Instant::now();
    let mut mib = Vec::new();
    for round in 0..10_u64 {
        let tasks: Vec<_> = (0..16)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..625 {
                        let key = format!("/registry/big/{:05}", (n * 16 + writer) * 7 % 1000);
                        store.commit(vec![], put(key, value(n + round, 4096))).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        store.compact(store.revision().await.unwrap().saturating_sub(5000)).await.unwrap();
        mib.push((size(&path, ""), size(&path, "-wal")));
    }
    println!("100,000 updates of 4 KiB in {:?}; MiB of file and log after each 10,000: {mib:?}", start.elapsed());
    println!("at the end: {} KiB resident, {:?}", status("VmRSS:"), store.stats());
    writers(&store, "events", 16, 1000).await;
    println!("with 16,000 volatile keys of 1 KiB: {} KiB resident", status("VmRSS:"));
    let start = Instant::now();
    drop(store);
    println!("closed in {:?}", start.elapsed());
    let start = Instant::now();
    let store = Sqlite::open(&path, Options::default()).unwrap();
    println!("opened again in {:?}", start.elapsed());
    drop(store);
    for suffix in ["", "-wal", "-shm", "-lock", "-ballast"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}
