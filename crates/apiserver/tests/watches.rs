//! Watches: from the ring, from the store, with selectors, bookmarks and errors.

use http::Method;
use http_body_util::BodyExt;
use schema::{Value, json};

use crate::harness::Fixture;

pub struct Watch {
    body: apiserver::Body,
    buffer: Vec<u8>,
}

impl Watch {
    pub async fn open(f: &Fixture, path: &str) -> Watch {
        let response = f.server.handle(Fixture::request(Method::GET, path, "", "")).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), buffer: Vec::new() }
    }

    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(json::parse(&line).expect("an event"));
            }
            let frame = self.body.frame().await?.expect("a frame");
            self.buffer.extend_from_slice(&frame.into_data().expect("data"));
        }
    }

    /// The next event as `TYPE name`.
    pub async fn event(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!("{} {}", event.str_at(&["type"]), event.str_at(&["object", "metadata", "name"]))
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn events_in_order() {
    let f = Fixture::new().await;
    f.post(MAPS, "{metadata: {name: old}}").await.is(201);
    let mut fresh = Watch::open(&f, &format!("{MAPS}?watch=1")).await;
    assert_eq!(fresh.event().await, "ADDED old");
    let revision = f.get(MAPS).await.revision();
    let mut watch = Watch::open(&f, &format!("{MAPS}?watch=true&resourceVersion={revision}")).await;
    f.post(MAPS, "{metadata: {name: m}}").await.is(201);
    f.patch(&format!("{MAPS}/m"), "merge-patch", "{data: {a: b}}").await.is(200);
    f.delete(&format!("{MAPS}/m")).await.is(200);
    f.post("/api/v1/namespaces", "{metadata: {name: other}}").await.is(201);
    f.post("/api/v1/namespaces/other/configmaps", "{metadata: {name: unseen}}").await.is(201);
    f.post(MAPS, "{metadata: {name: n}}").await.is(201);
    for want in ["ADDED m", "MODIFIED m"] {
        assert_eq!(watch.event().await, want);
        assert_eq!(fresh.event().await, want);
    }
    let gone = watch.next().await.expect("an event");
    assert_eq!(gone.str_at(&["type"]), "DELETED");
    let at: u64 = gone.str_at(&["object", "metadata", "resourceVersion"]).parse().expect("a revision");
    assert_eq!(at, revision + 3, "a deletion carries its own revision");
    assert_eq!(watch.event().await, "ADDED n");
}

/// What was permitted is that object, whatever else is asked for.
#[tokio::test]
async fn a_watch_of_one_object_shows_no_other() {
    let f = Fixture::new().await;
    let one = "/api/v1/watch/namespaces/default/configmaps/m";
    for selector in ["metadata.name!=z", "metadata.name=n", "metadata.namespace=default", "metadata.name!=m"] {
        f.get(&format!("{one}?fieldSelector={selector}"))
            .await
            .is(400)
            .has(&[("/message", "fieldSelector metadata.name doesn't match requested name")]);
    }
}

#[tokio::test]
async fn leaving_a_selector_is_a_deletion() {
    let f = Fixture::new().await;
    f.post(MAPS, "{metadata: {name: m, labels: {app: web}}, data: {a: old}}").await.is(201);
    let revision = f.get(MAPS).await.revision();
    let mut watch =
        Watch::open(&f, &format!("{MAPS}?watch=1&resourceVersion={revision}&labelSelector=app%3Dweb")).await;
    f.patch(&format!("{MAPS}/m"), "merge-patch", "{metadata: {labels: {app: db}}, data: {a: new}}").await.is(200);
    f.patch(&format!("{MAPS}/m"), "merge-patch", "{metadata: {labels: {app: web}}}").await.is(200);
    let left = watch.next().await.expect("an event");
    assert_eq!(left.str_at(&["type"]), "DELETED");
    assert_eq!(left.str_at(&["object", "data", "a"]), "old");
    assert_eq!(left.str_at(&["object", "metadata", "resourceVersion"]), (revision + 1).to_string());
    assert_eq!(watch.event().await, "ADDED m");
}

#[tokio::test]
async fn a_pod_without_grace_is_marked_and_gone() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, "{metadata: {name: p}, spec: {containers: [{name: c, image: nginx}]}}").await.is(201);
    let revision = f.get(pods).await.revision();
    let mut watch = Watch::open(&f, &format!("{pods}?watch=1&resourceVersion={revision}")).await;
    f.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await.is(200);
    for (at, wanted) in [(revision + 1, "MODIFIED"), (revision + 2, "DELETED")] {
        let event = watch.next().await.expect("an event");
        assert_eq!(event.str_at(&["type"]), wanted);
        let metadata = &event["object"]["metadata"];
        assert_eq!(metadata.str_at(&["resourceVersion"]), at.to_string());
        assert_eq!(metadata["deletionGracePeriodSeconds"].as_i64(), Some(0));
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let f = Fixture::new().await;
    f.post(MAPS, "{metadata: {name: m}}").await.is(201);
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = Watch::open(&f, &format!("{MAPS}?{query}")).await;
    assert_eq!(watch.event().await, "ADDED m");
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark.str_at(&["type"]), "BOOKMARK");
    assert_eq!(bookmark.str_at(&["object", "kind"]), "ConfigMap");
    assert_eq!(bookmark.str_at(&["object", "metadata", "annotations", "k8s.io/initial-events-end"]), "true");
    f.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.is(422);
}

#[tokio::test]
async fn a_watch_that_names_no_version_is_told_when_it_knows_all() {
    let f = Fixture::new().await;
    f.post(MAPS, "{metadata: {name: m}}").await.is(201);
    for version in ["", "&resourceVersion=0"] {
        let mut watch = Watch::open(&f, &format!("{MAPS}?watch=1&allowWatchBookmarks=true{version}")).await;
        assert_eq!(watch.event().await, "ADDED m");
        let bookmark = watch.next().await.expect("a bookmark");
        assert_eq!(bookmark.str_at(&["object", "metadata", "annotations", "k8s.io/initial-events-end"]), "true");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_says_farewell() {
    let f = Fixture::new().await;
    let revision = f.get(MAPS).await.revision();
    let query = format!("watch=1&timeoutSeconds=30&resourceVersion={revision}");
    let mut watch = Watch::open(&f, &format!("{MAPS}?allowWatchBookmarks=true&{query}")).await;
    assert_eq!(watch.event().await, "BOOKMARK ");
    assert_eq!(watch.next().await, None);
    let mut watch = Watch::open(&f, &format!("{MAPS}?{query}")).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn history_from_the_store_and_its_end() {
    let f = Fixture::new().await;
    let start = f.post(MAPS, "{metadata: {name: m}}").await.revision();
    for i in 0..20 {
        f.patch(&format!("{MAPS}/m"), "merge-patch", &format!("{{data: {{a: \"{i}\"}}}}")).await.is(200);
    }
    // A second server on the same store has an empty ring.
    let again = apiserver::Server::start(crate::harness::config(f.store.clone())).await.expect("a server");
    let request = Fixture::request(Method::GET, &format!("{MAPS}?watch=1&resourceVersion={start}"), "", "");
    let mut watch = Watch { body: again.handle(request).await.into_body(), buffer: Vec::new() };
    for i in 0..20 {
        let event = watch.next().await.expect("an event");
        assert_eq!(event.str_at(&["object", "data", "a"]), i.to_string());
    }
    // It follows what the other one writes.
    f.delete(&format!("{MAPS}/m")).await.is(200);
    assert_eq!(watch.event().await, "DELETED m");

    use store::Store;
    f.store.compact(start + 5).await.expect("compaction");
    let request = Fixture::request(Method::GET, &format!("{MAPS}?watch=1&resourceVersion={start}"), "", "");
    let mut old = Watch { body: again.handle(request).await.into_body(), buffer: Vec::new() };
    let error = old.next().await.expect("an error");
    assert_eq!(error.str_at(&["type"]), "ERROR");
    assert_eq!(error["object"]["code"].as_i64(), Some(410));
    assert_eq!(error.str_at(&["object", "reason"]), "Expired");
    assert!(old.next().await.is_none(), "an error ends the stream");
}

#[tokio::test]
async fn timeouts_end_a_watch() {
    let f = Fixture::new().await;
    let mut watch = Watch::open(&f, &format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}
