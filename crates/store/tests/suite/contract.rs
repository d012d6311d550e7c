//! The contract of [`store::Store`], written against the trait. [`keep`] runs all of it on fresh stores that a factory
//! makes; an implementation's own test file calls it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::{Change, Error, Guard, KeyValue, Revision, Store, Write};

use crate::common::{Random, delete, guard, put, seed};
use crate::model::Model;

/// Makes an empty store.
pub type Fresh<'a> = &'a dyn Fn() -> Arc<dyn Store>;

pub async fn keep(fresh: Fresh<'_>) {
    first_steps(&*fresh()).await;
    all_or_nothing(&*fresh()).await;
    fixed_revision_pages(&*fresh()).await;
    compaction(&*fresh()).await;
    for _ in 0..8 {
        random_history(&*fresh(), seed("history")).await;
    }
    counters_lose_nothing(fresh()).await;
    watchers_see_everything_once(fresh()).await;
    dropped_futures(fresh()).await;
}

async fn first_steps(store: &dyn Store) {
    assert_eq!(store.revision().await.unwrap(), 0);
    assert_eq!(store.get("/registry/a").await.unwrap(), None);
    assert_eq!(store.changes(0, 10).await.unwrap(), []);
    let page = store.range("", None, "", 0).await.unwrap();
    assert_eq!((page.revision, page.items.len(), page.more, page.remaining), (0, 0, false, 0));
    assert!(matches!(store.changes(1, 1).await, Err(Error::Future { asked: 1, newest: 0 })));

    assert_eq!(store.commit(vec![], vec![]).await.unwrap(), []);
    assert_eq!(store.commit(vec![], vec![delete("/registry/a")]).await.unwrap(), [0]);
    assert_eq!(store.revision().await.unwrap(), 0);
    // Empty values are values; several writes of one commit see each other.
    let writes = vec![put("/registry/a", ""), put("/registry/a", "2"), delete("/registry/b"), delete("/registry/a")];
    assert_eq!(store.commit(vec![guard("/registry/a", 0)], writes).await.unwrap(), [1, 2, 0, 3]);
    let changes = store.changes(0, 10).await.unwrap();
    let short: Vec<_> = changes
        .iter()
        .map(|c| (c.revision, c.created, c.value.as_deref(), c.previous.as_ref().map(|(r, v)| (*r, &v[..]))))
        .collect();
    let empty: &[u8] = b"";
    assert_eq!(
        short,
        [(1, 1, Some(empty), None), (2, 1, Some(&b"2"[..]), Some((1, empty))), (3, 1, None, Some((2, &b"2"[..]))),]
    );
    // A new life.
    assert_eq!(store.commit(vec![guard("/registry/a", 0)], vec![put("/registry/a", "3")]).await.unwrap(), [4]);
    let again = store.get("/registry/a").await.unwrap().unwrap();
    assert_eq!((again.created, again.modified, &again.value[..]), (4, 4, &b"3"[..]));
    assert_eq!(store.changes(3, 10).await.unwrap()[0].previous, None);
    assert_eq!(*store.watermark().borrow(), 4);
}

async fn all_or_nothing(store: &dyn Store) {
    store.commit(vec![], vec![put("/registry/a", "1"), put("/registry/b", "1")]).await.unwrap();
    // Guards hold before the commit's own writes; one that fails fails all.
    let refused = store
        .commit(
            vec![guard("/registry/a", 1), guard("/registry/b", 1)],
            vec![put("/registry/a", "2"), put("/registry/c", "2")],
        )
        .await;
    let Err(Error::Conflict { key, expected: 1, found: Some(found) }) = refused else { panic!("{refused:?}") };
    assert_eq!((&*key, found.modified, &found.value[..]), ("/registry/b", 2, &b"1"[..]));
    let refused = store.commit(vec![guard("/registry/z", 7)], vec![put("/registry/z", "")]).await;
    assert!(matches!(refused, Err(Error::Conflict { expected: 7, found: None, .. })), "{refused:?}");
    assert_eq!(store.revision().await.unwrap(), 2);
    assert_eq!(store.get("/registry/c").await.unwrap(), None);
    // A guard alone is a question.
    assert_eq!(store.commit(vec![guard("/registry/b", 2)], vec![]).await.unwrap(), []);
    // After a deletion a key is as if it had never been.
    store.commit(vec![guard("/registry/b", 2)], vec![delete("/registry/b")]).await.unwrap();
    assert!(store.commit(vec![guard("/registry/b", 3)], vec![]).await.is_err());
    assert_eq!(store.commit(vec![guard("/registry/b", 0)], vec![]).await.unwrap(), []);
}

async fn fixed_revision_pages(store: &dyn Store) {
    for n in 0..30 {
        store.commit(vec![], vec![put(&format!("/registry/pods/{n:02}"), vec![n])]).await.unwrap();
    }
    store.commit(vec![], vec![put("/registry/pods0", "not of the prefix")]).await.unwrap();
    let mut seen = Vec::new();
    let mut start = String::new();
    let mut at = None;
    loop {
        let page = store.range("/registry/pods/", at, &start, 7).await.unwrap();
        assert_eq!(page.revision, at.unwrap_or(31));
        at = Some(page.revision);
        seen.extend(page.items);
        assert_eq!(page.remaining, 30 - seen.len() as u64);
        assert_eq!(page.more, page.remaining > 0);
        if !page.more {
            break;
        }
        start = format!("{}\0", seen.last().unwrap().key);
        // Between the pages everything changes.
        let n = seen.len();
        store
            .commit(
                vec![],
                vec![
                    delete(&format!("/registry/pods/{:02}", n + 1)),
                    put(&format!("/registry/pods/{:02}", n + 2), "changed"),
                    put(&format!("/registry/pods/{:02}x", n + 2), "new"),
                    put("/registry/pods/00", "again"),
                ],
            )
            .await
            .unwrap();
        store.commit(vec![], vec![put(&format!("/registry/pods/{:02}", n + 1), "reborn")]).await.unwrap();
    }
    let plain: Vec<_> = seen.iter().map(|item| (item.created, item.modified, item.value.to_vec())).collect();
    assert_eq!(plain, (0..30).map(|n| (u64::from(n) + 1, u64::from(n) + 1, vec![n])).collect::<Vec<_>>());
}

async fn compaction(store: &dyn Store) {
    for n in 0..10_u8 {
        store.commit(vec![], vec![put("/registry/a", [n]), put("/registry/b", [n])]).await.unwrap();
    }
    store.commit(vec![], vec![delete("/registry/b")]).await.unwrap();
    assert!(matches!(store.compact(22).await, Err(Error::Future { asked: 22, newest: 21 })));
    store.compact(11).await.unwrap();
    store.compact(5).await.unwrap();
    assert!(matches!(store.changes(10, 1).await, Err(Error::Compacted { asked: 10, oldest: 11 })));
    assert!(matches!(store.range("", Some(10), "", 0).await, Err(Error::Compacted { .. })));
    // Exactly at the edge all is there, values that were replaced later included.
    let edge = store.range("", Some(11), "", 0).await.unwrap();
    let values: Vec<_> = edge.items.iter().map(|item| (&*item.key, item.modified, item.value[0])).collect();
    assert_eq!(values, [("/registry/a", 11, 5), ("/registry/b", 10, 4)]);
    let next = &store.changes(11, 1).await.unwrap()[0];
    assert_eq!(next.previous.as_ref().map(|(revision, value)| (*revision, value[0])), Some((10, 4)));
    // Everything that is not alive may go; revisions go on.
    store.compact(21).await.unwrap();
    assert_eq!(store.changes(21, 10).await.unwrap(), []);
    assert_eq!(store.range("", None, "", 0).await.unwrap().items.len(), 1);
    assert_eq!(store.commit(vec![guard("/registry/b", 0)], vec![put("/registry/b", "")]).await.unwrap(), [22]);
}

/// One caller, a few keys, everything random: each answer must be the model's.
async fn random_history(store: &dyn Store, seed: u64) {
    let mut random = Random(seed);
    let mut model = Model::default();
    // Some keys where the embedded store has its volatile ones.
    let prefixes = ["/registry/a/", "/registry/events/x/", "/registry/events/", "/registry/", "/registry/b", ""];
    let key = |random: &mut Random| {
        let folder = ["/registry/a/", "/registry/a/", "/registry/b", "/registry/events/x/"][random.below(4) as usize];
        format!("{folder}{}", ["k", "k0", "kk", "ü", "z"][random.below(5) as usize])
    };
    for step in 0..250 {
        let context = || format!("seed {seed}, step {step}");
        match random.below(10) {
            0..5 => {
                let guards: Vec<Guard> = (0..random.below(3))
                    .map(|_| {
                        let key = key(&mut random);
                        let modified = model.state(Revision::MAX).get(&*key).map_or(0, |item| item.modified);
                        guard(&key, if random.one_in(8) { modified + 1 } else { modified })
                    })
                    .collect();
                let writes: Vec<Write> = (0..random.below(4))
                    .map(|_| {
                        let key = key(&mut random);
                        let len = [0, 3, 300, 6000][random.below(4) as usize];
                        if random.one_in(3) { delete(&key) } else { put(&key, random.bytes(len)) }
                    })
                    .collect();
                let expected = model.commit(&guards, &writes);
                same(store.commit(guards, writes).await, expected, context);
            }
            5 => {
                let key = key(&mut random);
                let expected = model.state(Revision::MAX).get(&*key).cloned();
                assert_eq!(store.get(&key).await.unwrap(), expected, "{}", context());
            }
            6 | 7 => {
                let prefix = prefixes[random.below(6) as usize];
                let at = model.newest().saturating_sub(random.below(30));
                let start = if random.one_in(2) { key(&mut random) } else { String::new() };
                let limit = random.below(6) as usize;
                let newest = random.one_in(3);
                let (asked, at) = if newest { (None, model.newest()) } else { (Some(at), at) };
                let got = store.range(prefix, asked, &start, limit).await;
                let expected = model.range(prefix, at, &start, limit);
                let tuple = |r: store::Range| (r.revision, r.items, r.more, r.remaining);
                same(got.map(tuple), expected.map(tuple), context);
            }
            8 => {
                let after = model.newest().saturating_sub(random.below(30));
                let limit = random.below(40) as usize;
                same(store.changes(after, limit).await, model.changes(after, limit), context);
            }
            _ => {
                let before = model.newest().saturating_sub(random.below(20));
                store.compact(before).await.unwrap();
                model.compacted = model.compacted.max(before);
            }
        }
        assert_eq!(store.revision().await.unwrap(), model.newest(), "{}", context());
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: store::Result<T>, want: store::Result<T>, context: impl Fn() -> String) {
    match (got, want) {
        (Ok(got), Ok(want)) => assert_eq!(got, want, "{}", context()),
        (Err(got), Err(want)) => assert_eq!(format!("{got:?}"), format!("{want:?}"), "{}", context()),
        (got, want) => panic!("{}: got {got:?}, want {want:?}", context()),
    }
}

/// Read, add one, write with a guard, from many tasks: the sum tells whether a guard was ever ignored.
async fn counters_lose_nothing(store: Arc<dyn Store>) {
    const TASKS: u64 = 16;
    const ROUNDS: u64 = 25;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = ["/registry/counter", "/registry/events/counter"][(task % 2) as usize];
                for _ in 0..ROUNDS {
                    let mut current = store.get(key).await.unwrap();
                    loop {
                        let (modified, value) = current.as_ref().map_or((0, 0), |item| (item.modified, number(item)));
                        let next = (value + 1).to_be_bytes();
                        match store.commit(vec![guard(key, modified)], vec![put(key, next)]).await {
                            Ok(revisions) => {
                                // One's own write is read back, or something newer.
                                let read = store.get(key).await.unwrap().unwrap();
                                assert!(read.modified >= revisions[0] && number(&read) > value);
                                break;
                            }
                            Err(Error::Conflict { found, .. }) => current = found,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for key in ["/registry/counter", "/registry/events/counter"] {
        assert_eq!(number(&store.get(key).await.unwrap().unwrap()), TASKS / 2 * ROUNDS);
    }
    assert_eq!(store.revision().await.unwrap(), TASKS * ROUNDS);
}

fn number(item: &KeyValue) -> u64 {
    u64::from_be_bytes(item.value[..].try_into().unwrap())
}

/// Watchers that pull by revision while many write: each sees every change once, in order, and ends with the state
/// that a list shows; a list in between is the state that its revision names.
async fn watchers_see_everything_once(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    let seed = seed("watchers");
    let done = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..4)
        .map(|n| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                let mut watermark = store.watermark();
                let mut state: BTreeMap<Arc<str>, KeyValue> = BTreeMap::new();
                let mut seen: Vec<Change> = Vec::new();
                loop {
                    let finished = done.load(Ordering::SeqCst);
                    watermark.mark_unchanged();
                    let after = seen.last().map_or(0, |change| change.revision);
                    let changes = store.changes(after, 5 + n).await.unwrap();
                    for change in &changes {
                        let old = match &change.value {
                            Some(value) => state.insert(
                                change.key.clone(),
                                KeyValue {
                                    key: change.key.clone(),
                                    value: value.clone(),
                                    created: change.created,
                                    modified: change.revision,
                                },
                            ),
                            None => state.remove(&change.key),
                        };
                        assert_eq!(change.previous, old.map(|old| (old.modified, old.value)), "seed {seed}");
                    }
                    let idle = changes.is_empty();
                    seen.extend(changes);
                    let at = seen.last().map_or(0, |change| change.revision);
                    if n == 0 {
                        let list = store.range("/registry/", Some(at), "", 0).await.unwrap();
                        assert_eq!(list.items, state.values().cloned().collect::<Vec<_>>(), "seed {seed} at {at}");
                    }
                    if idle && finished {
                        break;
                    }
                    if idle {
                        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), watermark.changed()).await;
                    }
                }
                let revisions: Vec<_> = seen.iter().map(|change| change.revision).collect();
                assert_eq!(revisions, (1..=store.revision().await.unwrap()).collect::<Vec<_>>(), "seed {seed}");
                let list = store.range("", None, "", 0).await.unwrap();
                assert_eq!(list.items, state.into_values().collect::<Vec<_>>(), "seed {seed}");
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            let mut random = Random(seed ^ writer);
            tokio::spawn(async move {
                for _ in 0..60 {
                    let kind = ["pods", "events"][random.below(2) as usize];
                    let key = format!("/registry/{kind}/{}", random.below(6));
                    let write = if random.one_in(3) { delete(&key) } else { put(&key, random.bytes(40)) };
                    let other = put(&format!("/registry/own/{writer}"), random.bytes(10));
                    let revisions = store.commit(vec![], vec![write, other]).await.unwrap();
                    assert!(revisions[0] == 0 || revisions[0] + 1 == revisions[1]);
                    assert!(store.revision().await.unwrap() >= revisions[1]);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let mut histories = Vec::new();
    for watcher in watchers {
        histories.push(watcher.await.unwrap());
    }
    assert!(histories.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
}

/// A future that is dropped half-way leaves its whole commit or nothing of it.
async fn dropped_futures(store: Arc<dyn Store>) {
    let seed = seed("dropped");
    let mut random = Random(seed);
    for n in 0..200_u64 {
        let (a, b) = (format!("/registry/a/{n}"), format!("/registry/b/{n}"));
        let commit = store.commit(vec![guard(&a, 0)], vec![put(&a, "x"), put(&b, "x")]);
        let patience = std::time::Duration::from_micros(random.below(400));
        let _ = tokio::time::timeout(patience, commit).await;
    }
    store.commit(vec![], vec![put("/registry/last", "")]).await.unwrap();
    let a = store.range("/registry/a/", None, "", 0).await.unwrap().items;
    let b = store.range("/registry/b/", None, "", 0).await.unwrap().items;
    let names = |items: &[KeyValue]| items.iter().map(|item| item.key[12..].to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "seed {seed}");
    let newest = store.revision().await.unwrap();
    assert_eq!(newest, 2 * a.len() as u64 + 1);
    assert_eq!(store.changes(0, usize::MAX).await.unwrap().len() as u64, newest);
}
