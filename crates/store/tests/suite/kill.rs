//! kill -9 of a process that tells over a pipe what was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use store::sqlite::{Options, Sqlite};
use store::{Change, Store};

use crate::common::{Directory, Random, seed};
use crate::sqlite::runtime;
use crate::workload::{self, Acknowledged, TASKS};

const DATABASE: &str = "STORE_TEST_DATABASE";

/// Not a test: what the other one kills. It prints a line per acknowledgement until it dies.
#[test]
#[ignore = "run by acknowledged_writes_survive_kill"]
fn victim() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let seed: u64 = std::env::var("STORE_SEED").unwrap().parse().unwrap();
    let last: Vec<u64> = std::env::var("STORE_TEST_LAST").unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    runtime().block_on(async {
        let store = Arc::new(Sqlite::open(database, Options { ballast_bytes: 0, ..Options::default() }).unwrap());
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (store, from) = (store.clone(), last[task as usize] + 1);
                tokio::spawn(async move {
                    let tell = |n: u64, writes: &[(u64, String)], volatile: u64| {
                        let writes: Vec<_> = writes.iter().map(|(revision, key)| format!("{revision}={key}")).collect();
                        let line = format!("\nack {task} {n} {volatile} {}\n", writes.join(","));
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    };
                    workload::run(&*store, seed, task, from, tell).await;
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn heard(line: &str, acknowledged: &mut Acknowledged) {
    let Some(rest) = line.strip_prefix("ack ") else { return };
    let words: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let writes: Vec<(u64, String)> = words[3]
        .split(',')
        .filter_map(|write| write.split_once('='))
        .map(|(revision, key)| (revision.parse().unwrap(), key.to_owned()))
        .collect();
    acknowledged.note(number(0), number(1), &writes, number(2));
}

#[test]
fn acknowledged_writes_survive_kill() {
    let seed = seed("kill");
    let mut random = Random(seed);
    let directory = Directory::new();
    let mut last = [0; TASKS as usize];
    let mut known: Vec<Change> = Vec::new();
    let mut newest = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DATABASE, directory.database())
            .env("STORE_SEED", seed.to_string())
            .env("STORE_TEST_LAST", last.map(|n| n.to_string()).join(","))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = Arc::new(Mutex::new(Acknowledged { commits: last, newest, ..Acknowledged::default() }));
        let listener = {
            let (out, acknowledged) = (child.stdout.take().unwrap(), acknowledged.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(out).split(b'\n') {
                    heard(std::str::from_utf8(&line.unwrap()).unwrap(), &mut acknowledged.lock().unwrap());
                }
            })
        };
        // Some die while they open the database.
        std::thread::sleep(Duration::from_micros(random.below(250_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        listener.join().unwrap();
        let mut acknowledged = acknowledged.lock().unwrap().clone();
        acknowledged.at_most = acknowledged.commits.map(|n| n + 1);
        runtime().block_on(async {
            let store = Sqlite::open(directory.database(), Options { ballast_bytes: 0, ..Options::default() }).unwrap();
            assert_eq!(store.check().await.unwrap(), Vec::<String>::new(), "seed {seed}, round {round}");
            last = workload::verify(&store, seed, &acknowledged)
                .await
                .unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
            // A watch from any earlier round resumes as if nothing had happened.
            if let Some(middle) = known.get(known.len() / 2) {
                match store.changes(middle.revision, usize::MAX).await {
                    Ok(changes) => {
                        let durable: Vec<_> =
                            changes.into_iter().filter(|change| !change.key.starts_with("/registry/events/")).collect();
                        let rest = &known[known.len() / 2 + 1..];
                        assert_eq!(&durable[..rest.len()], rest, "seed {seed}, round {round}");
                    }
                    Err(store::Error::Compacted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let floor = match store.changes(0, 1).await {
                Err(store::Error::Compacted { oldest, .. }) => oldest,
                _ => 0,
            };
            known = store.changes(floor, usize::MAX).await.unwrap();
            known.retain(|change| !change.key.starts_with("/registry/events/"));
            newest = store.revision().await.unwrap();
        });
    }
    assert!(last.iter().sum::<u64>() > 0, "no process lived long enough to write");
}
