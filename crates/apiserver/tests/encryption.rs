//! Encryption at rest: what the datastore holds, before and after keys change.

use std::sync::Arc;

use apiserver::Server;
use apiserver::encryption::{Configuration, Encrypted};
use store::Store;

use crate::harness::{Counter, Fixture, config};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const KEY: &str = "/registry/secrets/default/s";

fn configuration(providers: &str) -> Configuration {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, things.example.com]\n  providers: [{providers}]\n"
    );
    Configuration::parse(text.as_bytes()).expect("a configuration")
}

fn before(store: Arc<dyn Store>, providers: &str) -> Arc<Encrypted> {
    Arc::new(Encrypted::new(store, Arc::new(Counter::default()), configuration(providers)))
}

const ONE: &str = "aescbc: {keys: [{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}";
const TWO: &str = "aesgcm: {keys: [{name: two, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}";

async fn stored(f: &Fixture, key: &str) -> (String, u64) {
    let held = f.store.get(key).await.expect("a store").expect("a value");
    (String::from_utf8_lossy(&held.value[..24.min(held.value.len())]).into_owned(), held.modified)
}

#[tokio::test]
async fn secrets_are_stored_sealed_and_anew_under_the_next_key() {
    let mut encrypted = None;
    let f = Fixture::with(|store| {
        let made = encrypted.insert(before(store.clone(), &format!("{{{ONE}}}, {{identity: {{}}}}"))).clone();
        apiserver::Config { store: made, ..config(store) }
    })
    .await;
    let encrypted = encrypted.expect("a store");
    f.post("/api/v1/namespaces", "{metadata: {name: default}}").await.is(201);
    let made = f.post(SECRETS, "{metadata: {name: s}, data: {a: Yg==}}").await.is(201);
    f.post("/api/v1/namespaces/default/configmaps", "{metadata: {name: c}, data: {a: b}}").await.is(201);
    assert!(stored(&f, KEY).await.0.starts_with("k8s:enc:aescbc:v1:one:"));
    assert!(stored(&f, "/registry/configmaps/default/c").await.0.starts_with("k8s\0"));
    let first = made.revision();
    // Nothing changes, nothing is stored.
    assert_eq!(
        f.put(&format!("{SECRETS}/s"), "{metadata: {name: s}, data: {a: Yg==}}").await.is(200).revision(),
        first
    );

    encrypted.replace(configuration(&format!("{{{TWO}}}, {{{ONE}}}")));
    f.get(&format!("{SECRETS}/s")).await.is(200).has(&[("/data/a", "Yg==")]);
    let dry = f.put(&format!("{SECRETS}/s?dryRun=All"), "{metadata: {name: s}, data: {a: Yg==}}").await.is(200);
    assert_eq!(dry.revision(), first);
    let again = f.put(&format!("{SECRETS}/s"), "{metadata: {name: s}, data: {a: Yg==}}").await.is(200);
    let (form, revision) = stored(&f, KEY).await;
    assert!(form.starts_with("k8s:enc:aesgcm:v1:two:") && revision == again.revision() && revision > first, "{form}");
    let patched = f.patch(&format!("{SECRETS}/s"), "merge-patch", "{}").await.is(200);
    assert_eq!(patched.revision(), revision);

    // A server that knows both keys reads what either has written; one that knows neither says so of this object only.
    f.post(SECRETS, "{metadata: {name: t}, data: {c: ZA==}}").await.is(201);
    let store: Arc<dyn Store> = f.store.clone();
    let restarted = |providers: &str| {
        let config = apiserver::Config { store: before(store.clone(), providers), ..config(f.store.clone()) };
        Server::start(config)
    };
    let server = restarted(&format!("{{{ONE}}}, {{{TWO}}}")).await.expect("a server");
    let list = Fixture::request(http::Method::GET, SECRETS, "", "");
    let reply = server.handle(list).await;
    assert_eq!(reply.status(), 200);
    let server = restarted("{identity: {}}").await.expect("a server");
    let get = |path: &str| Fixture::request(http::Method::GET, path, "", "");
    assert_eq!(server.handle(get(&format!("{SECRETS}/s"))).await.status(), 500);
    assert_eq!(server.handle(get("/api/v1/namespaces/default/configmaps/c")).await.status(), 200);
}
