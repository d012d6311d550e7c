//! A disk that is full, or fails: commits are refused, reads and deletions go on, and all is well again by itself.

use std::time::Duration;

use store::sqlite::{Options, Sqlite};
use store::{Error, Store};

use crate::common::{Directory, delete, guard, put};
use crate::sqlite::runtime;
use crate::vfs;

fn open(directory: &Directory) -> Sqlite {
    vfs::register();
    let options = Options { vfs: Some(vfs::NAME.into()), ballast_bytes: 1 << 20, ..Options::default() };
    Sqlite::open(directory.database(), options).unwrap()
}

/// Tries until the store accepts writes again.
async fn recovered(store: &Sqlite) {
    for _ in 0..200 {
        match store.commit(vec![], vec![put("/registry/probe", "")]).await {
            Ok(_) => return,
            Err(Error::ReadOnly(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store still refuses writes");
}

#[test]
fn a_full_disk_refuses_writes_but_not_deletions() {
    let directory = Directory::new();
    runtime().block_on(async {
        let store = open(&directory);
        vfs::behave(directory.path(), |disk| disk.capacity = Some(6 << 20));
        let mut stored = 0;
        let refused = loop {
            match store.commit(vec![], vec![put(&format!("/registry/a/{stored:05}"), vec![7; 3000])]).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::ReadOnly(_)), "{refused}");
        assert!(stored > 100);
        let newest = store.revision().await.unwrap();
        assert_eq!(newest, stored);
        // Too large for a page cache, so that the disk is full in the middle of it.
        let large =
            vec![put("/registry/b", "small"), put("/registry/c", vec![3; 7 << 20]), delete("/registry/a/00001")];
        assert!(matches!(store.commit(vec![], large).await, Err(Error::ReadOnly(_))));
        assert_eq!(store.get("/registry/b").await.unwrap(), None);
        assert!(store.get("/registry/a/00001").await.unwrap().is_some());
        // Reads, questions and what is only in memory go on.
        assert_eq!(store.range("/registry/a/", None, "", 0).await.unwrap().items.len() as u64, stored);
        store.commit(vec![guard("/registry/a/00001", 2)], vec![]).await.unwrap();
        assert!(store.commit(vec![guard("/registry/a/00001", 1)], vec![]).await.is_err());
        // So do deletions, although the disk stays full.
        for n in 0..stored {
            store.commit(vec![], vec![delete(&format!("/registry/a/{n:05}"))]).await.unwrap();
            if n % 50 == 0 {
                let refused = store.commit(vec![], vec![put("/registry/b", vec![1; 100_000])]).await;
                assert!(matches!(refused, Err(Error::ReadOnly(_))), "{n}: {refused:?}");
            }
        }
        store.commit(vec![], vec![put("/registry/events/e", "volatile")]).await.unwrap();
        let before = store.revision().await.unwrap();
        store.compact(before).await.unwrap();
        assert_eq!(store.changes(before, 10).await.unwrap(), []);
        // The space that the deletions made is enough to go on; the disk itself has no more than before.
        recovered(&store).await;
        store.commit(vec![], vec![put("/registry/b", vec![1; 100_000])]).await.unwrap();
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        assert_eq!(store.range("/registry/a/", None, "", 0).await.unwrap().items.len(), 0);
    });
    vfs::forget(directory.path());
}

#[test]
fn a_disk_that_fails_to_sync_acknowledges_nothing() {
    let directory = Directory::new();
    let (elsewhere, crashed) = (Directory::new(), Directory::new());
    runtime().block_on(async {
        let store = open(&directory);
        let first = store.commit(vec![], vec![put("/registry/a", "1")]).await.unwrap()[0];
        let reserved = store.commit(vec![], vec![put("/registry/events/e", "1")]).await.unwrap()[0];
        assert_eq!(reserved, first + 1);
        vfs::behave(directory.path(), |disk| disk.syncs_fail = true);
        for _ in 0..3 {
            let refused = store.commit(vec![guard("/registry/a", first)], vec![put("/registry/a", "2")]).await;
            assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
        }
        assert_eq!(&store.get("/registry/a").await.unwrap().unwrap().value[..], b"1");
        // What was refused may stand in the log all the same, and turn up after a crash; but never at a revision that
        // was given to something else meanwhile.
        let event = store.commit(vec![], vec![put("/registry/events/e", "2")]).await.unwrap()[0];
        vfs::freeze(directory.path()).kill(crashed.path());
        let after = open(&crashed);
        assert!(after.revision().await.unwrap() > event);
        for change in after.changes(first, 10).await.unwrap() {
            assert!(change.revision != event && change.revision != reserved, "{change:?}");
        }
        vfs::behave(directory.path(), |disk| disk.syncs_fail = false);
        recovered(&store).await;
        let third = store.commit(vec![guard("/registry/a", first)], vec![put("/registry/a", "3")]).await.unwrap()[0];
        // What was refused left no trace in history, in memory or after a crash.
        vfs::freeze(directory.path()).kill(elsewhere.path());
        for store in [store, open(&elsewhere)] {
            let changes = store.changes(first, 10).await.unwrap();
            let of_a: Vec<_> = changes.iter().filter(|change| &*change.key == "/registry/a").collect();
            assert_eq!(of_a.len(), 1);
            assert_eq!((of_a[0].revision, of_a[0].value.as_deref()), (third, Some(&b"3"[..])));
            assert_eq!(of_a[0].previous.as_ref().map(|(revision, _)| *revision), Some(first));
        }
    });
    vfs::forget(directory.path());
    vfs::forget(elsewhere.path());
    vfs::forget(crashed.path());
}
