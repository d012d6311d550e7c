//! What can be counted, and may only become less: allocations of reads and writes, syncs and pages of the store.

use allocation_counter::measure;
use http::Method;

use crate::harness::Fixture;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request, and the allocations that answering it took on this thread.
fn allocations(runtime: &tokio::runtime::Runtime, fixture: &Fixture, method: Method, path: &str, body: &str) -> u64 {
    let request = || {
        let mut request = Fixture::request(method.clone(), path, "application/json", body.to_owned());
        request.headers_mut().insert("accept", PROTOBUF.parse().expect("a type"));
        request
    };
    let (request, mut code) = (request(), 0);
    let info = measure(|| code = runtime.block_on(fixture.raw(request)).code);
    assert!((200..300).contains(&code), "{method} {path}: {code}");
    info.count_total
}

fn config_map(name: &str) -> String {
    format!(r#"{{"metadata": {{"name": "{name}"}}, "data": {{"key": "{}"}}}}"#, "v".repeat(1024))
}

#[test]
fn counts_only_tighten() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fixture = runtime.block_on(Fixture::new());
    let path = "/api/v1/namespaces/default/configmaps";
    let create = |from: usize, to: usize| {
        let before = fixture.store.stats();
        let mut most = 0;
        for n in from..to {
            let body = config_map(&format!("a-{n:04}"));
            most = allocations(&runtime, &fixture, Method::POST, path, &body);
        }
        let after = fixture.store.stats();
        let of = |count: u64| count as f64 / (to - from) as f64;
        (most, of(after.syncs - before.syncs), of(after.log_pages - before.log_pages))
    };
    create(0, 100);
    let get = |n: usize| allocations(&runtime, &fixture, Method::GET, &format!("{path}/a-{n:04}"), "");
    let list = || allocations(&runtime, &fixture, Method::GET, path, "");
    let update = |n: usize| {
        let name = format!("a-{n:04}");
        allocations(&runtime, &fixture, Method::PUT, &format!("{path}/{name}"), &config_map(&name))
    };
    get(0);
    list();
    update(0); // What is made once is not counted.
    let (one, hundred) = (get(1), list());
    let (created, syncs, pages) = create(100, 400);
    let four_hundred = list();
    let updated = update(1);
    println!(
        "allocations: get {one}, create {created}, update {updated}, list of 100 {hundred}, of 400 {four_hundred}; \
         syncs per create {syncs}, pages {pages:.1}"
    );
    let within =
        |what: &str, count: f64, limit: f64| assert!(count <= limit, "{what}: {count}, at most {limit} before");
    within("allocations of a get", one as f64, 80.0);
    within("allocations of a create", created as f64, 400.0);
    within("allocations of an update", updated as f64, 460.0);
    // Nothing is decoded: a list costs what its buffers cost.
    within("allocations of 300 more objects in a list", four_hundred as f64 - hundred as f64, 20.0);
    within("syncs of a create", syncs, 1.0);
    within("pages of a create", pages, 4.0);
}
