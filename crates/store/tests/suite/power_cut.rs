//! Power cuts at random instants: whatever the disk had not synced may be lost, torn and reordered, and still every
//! acknowledged write is there, the database sound, and history leads to the state. The suite must notice a store that
//! does not wait for the disk.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use store::sqlite::{Options, Sqlite, Synchronous};

use crate::common::{Directory, Random, seed};
use crate::sqlite::runtime;
use crate::vfs;
use crate::workload::{self, Acknowledged, TASKS};

/// Instants frozen while one store runs, and possible outcomes tried of each.
const INSTANTS: usize = 3;
const OUTCOMES: usize = 3;

/// Cuts the power `rounds` times, each time going on from what was left. Returns how many outcomes were examined.
async fn cut_power(rounds: usize, synchronous: Synchronous, seed: u64) -> Result<usize, String> {
    vfs::register();
    let options = Options { vfs: Some(vfs::NAME.into()), synchronous, ballast_bytes: 0, ..Options::default() };
    let mut random = Random(seed);
    let mut directory = Directory::new();
    let mut acknowledged = Acknowledged::default();
    let mut last = [0; TASKS as usize];
    let mut examined = 0;
    for round in 0..rounds {
        let interval = Duration::from_millis([0, 10, 600_000][round % 3]);
        let options = Options { volatile_interval: interval, ..options.clone() };
        let store = Arc::new(Sqlite::open(directory.database(), options.clone()).map_err(|error| error.to_string())?);
        let shared = Arc::new(Mutex::new(acknowledged.clone()));
        let tasks = workload::spawn(&store, seed, last, &shared);
        let mut frozen = Vec::new();
        for _ in 0..INSTANTS {
            tokio::time::sleep(Duration::from_micros(random.below(25_000))).await;
            // What was known before the instant must be in it.
            let mut known = shared.lock().unwrap().clone();
            let instant = vfs::freeze(directory.path());
            known.at_most = shared.lock().unwrap().commits.map(|n| n + 1);
            frozen.push((known, instant));
        }
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let mut next = None;
        for (known, instant) in &frozen {
            for _ in 0..OUTCOMES {
                let place = Directory::new();
                let before = random.clone();
                instant.cut(place.path(), &mut random);
                let context = |error: &dyn std::fmt::Display| format!("seed {seed}, round {round}: {error}");
                let reopened = Sqlite::open(place.database(), options.clone()).map_err(|error| context(&error))?;
                let problems = reopened.check().await.map_err(|error| context(&error))?;
                if let Some(problem) = problems.first() {
                    return Err(context(problem));
                }
                let left = workload::verify(&reopened, seed, known).await.map_err(|error| context(&error))?;
                let newest = store::Store::revision(&reopened).await.map_err(|error| context(&error))?;
                drop(reopened);
                vfs::forget(place.path());
                examined += 1;
                if next.is_none() || random.one_in(4) {
                    // The same outcome once more, for nobody may have closed it when the next round opens it.
                    let place = Directory::new();
                    instant.cut(place.path(), &mut before.clone());
                    next = Some((place, left, Acknowledged { commits: left, newest, ..Acknowledged::default() }));
                }
            }
        }
        drop(store);
        vfs::forget(directory.path());
        (directory, last, acknowledged) = next.unwrap();
    }
    vfs::forget(directory.path());
    Ok(examined)
}

#[test]
fn acknowledged_writes_survive_power_cuts() {
    let seed = seed("power cuts");
    let examined = runtime().block_on(cut_power(12, Synchronous::Full, seed)).unwrap();
    assert_eq!(examined, 12 * INSTANTS * OUTCOMES);
}

/// The power fails while the database is made, too.
#[test]
fn a_database_is_made_whole_or_not_at_all() {
    vfs::register();
    let seed = seed("making");
    let mut random = Random(seed);
    let options = Options { vfs: Some(vfs::NAME.into()), ballast_bytes: 0, ..Options::default() };
    let mut made = 0;
    for _ in 0..40 {
        let (directory, elsewhere) = (Directory::new(), Directory::new());
        let opening = {
            let (database, options) = (directory.database(), options.clone());
            std::thread::spawn(move || Sqlite::open(database, options))
        };
        std::thread::sleep(Duration::from_micros(random.below(6000)));
        vfs::freeze(directory.path()).cut(elsewhere.path(), &mut random);
        opening.join().unwrap().unwrap();
        made += u64::from(elsewhere.database().exists());
        let store =
            Sqlite::open(elsewhere.database(), options.clone()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(runtime().block_on(store.check()).unwrap(), Vec::<String>::new(), "seed {seed}");
        drop(store);
        vfs::forget(directory.path());
        vfs::forget(elsewhere.path());
    }
    eprintln!("{made} of 40 cuts came after the database was made");
}

#[test]
fn a_store_that_does_not_wait_for_the_disk_is_found_out() {
    let seed = seed("mutant");
    let found = runtime().block_on(cut_power(12, Synchronous::NormalForTests, seed));
    let Err(found) = found else { panic!("seed {seed}: lost writes went unnoticed") };
    eprintln!("as it should: {found}");
}
