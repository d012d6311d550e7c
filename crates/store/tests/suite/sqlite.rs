//! The embedded store keeps the contract, and what it promises beside it: one owner, versions, private files, volatile
//! keys, backups, and how much it writes.

use std::{cell::RefCell, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use store::sqlite::{OpenError, Options, SCHEMA_VERSION, Sqlite, restore};
use store::{Error, Store};

use crate::common::{Directory, Random, delete, put};
use crate::{contract, vfs};

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn keep(options: Options) {
    let directories = RefCell::new(Vec::new());
    let fresh = || {
        let directory = Directory::new();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(directory.database(), options.clone()).unwrap());
        directories.borrow_mut().push(directory);
        store
    };
    runtime().block_on(contract::keep(&fresh));
}

#[test]
fn contract_without_volatile_keys() {
    keep(Options { volatile: Vec::new(), ..Options::default() });
}

#[test]
fn contract_with_volatile_keys() {
    keep(Options::default());
}

#[test]
fn contract_while_volatile_keys_are_persisted_all_the_time() {
    keep(Options { volatile_interval: Duration::ZERO, ..Options::default() });
}

#[test]
fn one_process_and_private_files() {
    let directory = Directory::new();
    let store = Sqlite::open(directory.database(), Options::default()).unwrap();
    let Err(OpenError::Locked { holder, .. }) = Sqlite::open(directory.database(), Options::default()) else {
        panic!("opened twice")
    };
    assert_eq!(holder, Some(std::process::id()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["state.db", "state.db-ballast", "state.db-lock", "state.db-shm", "state.db-wal"]);
    drop(store);
    Sqlite::open(directory.database(), Options::default()).unwrap();
}

#[test]
fn files_that_are_not_ours_stay_as_they_are() {
    let ours = Directory::new();
    drop(Sqlite::open(ours.database(), Options::default()).unwrap());
    let database = std::fs::read(ours.database()).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = database.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let cases: [(&str, Vec<u8>, &str); 5] = [
        (
            "newer",
            with(60, &(SCHEMA_VERSION + 1).to_be_bytes()),
            "has schema version 2; this program knows versions up to 1",
        ),
        ("another's", with(68, &[0, 0, 0, 9]), "another program's"),
        ("text", b"hello\n".to_vec(), "does not start like an SQLite database"),
        ("noise", Random(7).bytes(5000).to_vec(), "does not start like an SQLite database"),
        ("cut off", database[..99].to_vec(), "does not start like an SQLite database"),
    ];
    for (name, contents, message) in cases {
        let directory = Directory::new();
        std::fs::write(directory.database(), &contents).unwrap();
        let Err(error) = Sqlite::open(directory.database(), Options::default()) else { panic!("{name}: opened") };
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert_eq!(std::fs::read(directory.database()).unwrap(), contents, "{name}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "{name}");
    }
    // Ours, but broken further in: an error, no panic.
    let directory = Directory::new();
    std::fs::write(directory.database(), with(100, &[0xff; 4000])).unwrap();
    assert!(matches!(Sqlite::open(directory.database(), Options::default()), Err(OpenError::Sql { .. })));
    assert!(matches!(Sqlite::open("/nowhere/state.db", Options::default()), Err(OpenError::File { .. })));
}

#[test]
fn volatile_keys_survive_a_clean_end_with_their_history() {
    let directory = Directory::new();
    runtime().block_on(async {
        let store = Sqlite::open(directory.database(), Options::default()).unwrap();
        for n in 0..20 {
            let event = format!("/registry/events/{}", n % 7);
            let write = if n % 5 == 4 { delete(&event) } else { put(&event, [n]) };
            store.commit(vec![], vec![write, put("/registry/a", [n])]).await.unwrap();
        }
        let changes = store.changes(0, 100).await.unwrap();
        let list = store.range("", None, "", 0).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.commit(vec![], vec![]).await, Err(Error::Closed)));
        drop(store);
        let store = Sqlite::open(directory.database(), Options::default()).unwrap();
        assert_eq!(store.volatile_since(), 0);
        assert_eq!(store.changes(0, 100).await.unwrap(), changes);
        let again = store.range("", None, "", 0).await.unwrap();
        assert_eq!((again.revision, again.items), (list.revision, list.items));
        // No revision was lost for it.
        let next = store.commit(vec![], vec![put("/registry/a", "")]).await.unwrap()[0];
        assert_eq!(next, list.revision + 1);
    });
}

#[test]
fn volatile_keys_own_up_to_what_a_crash_lost() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    vfs::register();
    let options = Options {
        vfs: Some(vfs::NAME.into()),
        volatile_interval: Duration::ZERO,
        volatile_log_bytes: 2000,
        ..Options::default()
    };
    runtime().block_on(async {
        let store = Sqlite::open(directory.database(), options.clone()).unwrap();
        for n in 0..20_u8 {
            store.commit(vec![], vec![put(&format!("/registry/events/{}", n % 4), [n])]).await.unwrap();
        }
        // Rides with a durable commit; what comes later is in memory only.
        let durable = store.commit(vec![], vec![put("/registry/a", "1")]).await.unwrap()[0];
        let lost = store.commit(vec![], vec![put("/registry/events/0", "lost")]).await.unwrap()[0];
        // The log of changes is bounded: what fell out of it is owned up to as well.
        let since = store.volatile_since();
        assert!(since > 0 && since < durable, "{since}");
        assert!(matches!(store.range("/registry/events/", Some(since - 1), "", 0).await, Err(Error::Compacted { .. })));
        let kept = store.changes(since, 100).await.unwrap();
        assert_eq!(kept.len() as u64, lost - since);
        vfs::freeze(directory.path()).kill(elsewhere.path());

        let store = Sqlite::open(elsewhere.database(), options).unwrap();
        let newest = store.revision().await.unwrap();
        assert!(newest > lost && store.volatile_since() == newest);
        assert_eq!(&store.get("/registry/events/0").await.unwrap().unwrap().value[..], [16]);
        assert_eq!(store.range("/registry/events/", None, "", 0).await.unwrap().items.len(), 4);
        let changes = store.changes(durable - 1, 100).await.unwrap();
        assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [durable]);
        assert_eq!(store.commit(vec![], vec![put("/registry/a", "2")]).await.unwrap()[0], newest + 1);
    });
    vfs::forget(directory.path());
    vfs::forget(elsewhere.path());
}

#[test]
fn what_is_volatile_may_change() {
    let directory = Directory::new();
    let list = |store: Sqlite| async move {
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        let range = store.range("/registry/", None, "", 0).await.unwrap();
        (range.revision, range.items)
    };
    runtime().block_on(async {
        let none = Options { volatile: vec![], ..Options::default() };
        let store = Sqlite::open(directory.database(), Options::default()).unwrap();
        for n in 0..6 {
            store
                .commit(vec![], vec![put(&format!("/registry/events/{n}"), [n]), put("/registry/a", [n])])
                .await
                .unwrap();
        }
        store.commit(vec![], vec![delete("/registry/events/3")]).await.unwrap();
        let before = list(store).await;
        for options in [&none, &Options::default(), &none] {
            let store = Sqlite::open(directory.database(), options.clone()).unwrap();
            let newest = store.revision().await.unwrap();
            assert_eq!(store.changes(newest, 1).await.unwrap(), []);
            assert!(matches!(store.changes(newest - 1, 1).await, Err(Error::Compacted { .. })));
            assert_eq!(list(store).await, before);
        }
        let store = Sqlite::open(directory.database(), none).unwrap();
        let next =
            store.commit(vec![], vec![delete("/registry/events/2"), put("/registry/events/1", "")]).await.unwrap();
        assert_eq!(next, [before.0 + 1, before.0 + 2]);
    });
}

#[test]
fn a_backup_is_a_database_and_restoring_goes_ahead() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    let copy = elsewhere.path().join("copy.db");
    runtime().block_on(async {
        let store = Sqlite::open(directory.database(), Options::default()).unwrap();
        for n in 0..50 {
            store.commit(vec![], vec![put(&format!("/registry/a/{}", n % 9), vec![n; 2000])]).await.unwrap();
        }
        store.backup(&copy).await.unwrap();
        assert!(store.backup(&copy).await.is_err(), "overwrote a file");
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let list = store.range("", None, "", 0).await.unwrap();

        let newest = restore(&copy, &elsewhere.database(), 1000).unwrap();
        assert!(restore(&copy, &elsewhere.database(), 1000).is_err(), "overwrote a database");
        let restored = Sqlite::open(elsewhere.database(), Options::default()).unwrap();
        assert_eq!(newest, list.revision + 1000);
        assert_eq!(restored.revision().await.unwrap(), newest);
        assert_eq!(restored.check().await.unwrap(), Vec::<String>::new());
        assert_eq!(restored.range("", None, "", 0).await.unwrap().items, list.items);
        assert!(matches!(restored.changes(list.revision, 1).await, Err(Error::Compacted { .. })));
        assert_eq!(restored.commit(vec![], vec![put("/registry/a/0", "")]).await.unwrap(), [newest + 1]);
    });
}

#[test]
fn revisions_go_on_when_nothing_is_left() {
    let directory = Directory::new();
    runtime().block_on(async {
        for round in 0..3 {
            let store = Sqlite::open(directory.database(), Options::default()).unwrap();
            let writes = vec![put("/registry/a", "1"), put("/registry/a", "2"), delete("/registry/a")];
            let at = 3 * round;
            assert_eq!(store.commit(vec![], writes).await.unwrap(), [at + 1, at + 2, at + 3]);
            store.compact(at + 3).await.unwrap();
            assert_eq!(store.range("", None, "", 0).await.unwrap().items, []);
            assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        }
    });
}

/// What a create costs the disk, counted where SQLite writes. Numbers here only ever get smaller.
#[test]
fn how_much_a_create_writes() {
    const CREATES: u64 = 200;
    let directory = Directory::new();
    vfs::register();
    let options = Options { vfs: Some(vfs::NAME.into()), ballast_bytes: 0, ..Options::default() };
    runtime().block_on(async {
        let store = Arc::new(Sqlite::open(directory.database(), options).unwrap());
        let disk = || vfs::behave(directory.path(), |_| ());
        let value = Random(1).bytes(1000);
        let before = disk();
        for n in 0..CREATES {
            store.commit(vec![], vec![put(&format!("/registry/pods/default/{n:05}"), &value[..])]).await.unwrap();
        }
        let alone = disk();
        let syncs = (alone.syncs - before.syncs) as f64 / CREATES as f64;
        let bytes = (alone.written_bytes - before.written_bytes) as f64 / CREATES as f64;
        eprintln!("alone: {syncs:.2} syncs and {bytes:.0} bytes per create");
        assert!(syncs <= 1.05 && bytes <= 12_600.0, "{syncs} syncs, {bytes} bytes per create");

        // Many at once share the syncs; a volatile one needs none.
        let together = async |kind: &'static str| {
            let before = disk();
            let tasks: Vec<_> = (0..64)
                .map(|task| {
                    let (store, value) = (store.clone(), value.clone());
                    tokio::spawn(async move {
                        for n in 0..10 {
                            let key = format!("/registry/{kind}/{task}-{n}");
                            store.commit(vec![], vec![put(&key, &value[..])]).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            (disk().syncs - before.syncs) as f64 / 640.0
        };
        let shared = together("pods").await;
        eprintln!("together: {shared:.3} syncs per create");
        assert!(shared < 0.5, "{shared}");
        let reservation = together("events").await;
        assert!(reservation * 640.0 <= 1.0, "{reservation}");
    });
    vfs::forget(directory.path());
}

/// Updates for a long time: the file stays as large as the window, and the log as long as its bound.
#[test]
fn space_is_reused() {
    let directory = Directory::new();
    vfs::register();
    let options = Options { vfs: Some(vfs::NAME.into()), ballast_bytes: 0, ..Options::default() };
    runtime().block_on(async {
        let store = Arc::new(Sqlite::open(directory.database(), options).unwrap());
        let size =
            |suffix: &str| std::fs::metadata(format!("{}{suffix}", directory.database().display())).unwrap().len();
        let mut sizes = Vec::new();
        for round in 0..8_u64 {
            let tasks: Vec<_> = (0..16_u64)
                .map(|task| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        let mut random = Random(round * 100 + task);
                        for _ in 0..60 {
                            let key = format!("/registry/pods/{}", random.below(40) * 16 + task);
                            let value = random.bytes(3000);
                            store.commit(vec![], vec![put(&key, &value[..])]).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let newest = store.revision().await.unwrap();
            store.compact(newest.saturating_sub(1000)).await.unwrap();
            sizes.push((size("") >> 10, size("-wal") >> 10));
        }
        eprintln!("KiB of database and log: {sizes:?}");
        let settled = sizes[3].0;
        assert!(sizes[7].0 <= settled + settled / 4, "{sizes:?}");
        assert!(sizes.iter().all(|(_, log)| *log <= 32 << 10), "{sizes:?}");
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    });
    vfs::forget(directory.path());
}
