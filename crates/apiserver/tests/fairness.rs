//! Priority and fairness as clients see it: what is configured is applied at once, and nobody starves others.

use std::time::Duration;

use apiserver::{Body, User};
use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};

use crate::harness::{Fixture, Reply, config};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn level(name: &str, shares: u32, response: &str) -> String {
    format!(
        "{{metadata: {{name: {name}}}, spec: {{type: Limited, limited: {{nominalConcurrencyShares: {shares}, borrowingLimitPercent: 0, limitResponse: {response}}}}}}}"
    )
}

fn schema(name: &str, level: &str, user: &str) -> String {
    let rules = "resourceRules: [{verbs: [\"*\"], apiGroups: [\"*\"], resources: [\"*\"], namespaces: [\"*\"], clusterScope: true}], nonResourceRules: [{verbs: [\"*\"], nonResourceURLs: [\"*\"]}]";
    format!(
        "{{metadata: {{name: {name}}}, spec: {{matchingPrecedence: 50, distinguisherMethod: {{type: ByUser}}, priorityLevelConfiguration: {{name: {level}}}, rules: [{{subjects: [{{kind: User, user: {{name: {user}}}}}], {rules}}}]}}}}"
    )
}

fn request(user: &str, groups: &[&str], method: Method, path: &str, body: &'static str) -> Request<Body> {
    let mut request = Fixture::request(method, path, "application/json", body);
    request.extensions_mut().insert(User::new(user, groups));
    request
}

/// A body of which nothing comes.
fn stuck(user: &str, groups: &[&str]) -> Request<Body> {
    let mut request = request(user, groups, Method::POST, MAPS, "");
    *request.body_mut() = StreamBody::new(futures_util::stream::pending()).boxed_unsync();
    request
}

async fn as_jane(f: &Fixture) -> Reply {
    f.raw(request("jane", &["system:authenticated"], Method::GET, MAPS, "")).await
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().expect("text"))
}

/// Asks until the answer is right: configuration is followed, not awaited.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn objects_are_honoured_as_they_come_and_go() {
    let f = Fixture::new().await;
    let reject = "{type: Reject}";
    let path = format!("{GROUP}/flowschemas/of-jane");
    f.post(&format!("{GROUP}/flowschemas"), &schema("of-jane", "tiny", "jane")).await.is(201);
    let condition = async |wanted: [&str; 3]| {
        until(wanted[2], async || {
            let stored = f.get(&path).await;
            let at = |field: &str| stored.at(&format!("/status/conditions/0/{field}"));
            [at("status"), at("reason"), at("message")] == wanted
        })
        .await;
    };
    let named = "This FlowSchema references the PriorityLevelConfiguration object named \"tiny\"";
    condition(["True", "NotFound", &format!("{named} but there is no such object")]).await;
    assert_eq!(header(&as_jane(&f).await.is(200), "x-kubernetes-pf-flowschema-uid"), "");
    let made = f.post(&format!("{GROUP}/prioritylevelconfigurations"), &level("tiny", 1, reject)).await.is(201);
    condition(["False", "Found", &format!("{named} and it exists")]).await;
    let told = as_jane(&f).await.is(200);
    assert_eq!(header(&told, "x-kubernetes-pf-flowschema-uid"), f.get(&path).await.at("/metadata/uid"));
    assert_eq!(header(&told, "x-kubernetes-pf-prioritylevel-uid"), made.at("/metadata/uid"));

    // One share of so few is a handful of seats: those that hang have them all.
    let limit = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"tiny\"} ";
    let metrics = f.get("/metrics").await.text();
    let seats: usize = metrics.lines().find_map(|line| line.strip_prefix(limit)).expect("a limit").parse().expect("");
    let hanging: Vec<_> = (0..seats)
        .map(|_| {
            let server = f.server.clone();
            tokio::spawn(async move { server.handle(stuck("jane", &[])).await.status() })
        })
        .collect();
    until("a refusal", async || as_jane(&f).await.code == 429).await;
    let refused = as_jane(&f).await.is(429);
    assert_eq!(refused.text(), "Too many requests, please try again later.\n");
    assert_eq!(header(&refused, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(header(&refused, "x-kubernetes-pf-prioritylevel-uid"), made.at("/metadata/uid"));
    f.get(MAPS).await.is(200);
    let dump = f.get("/debug/api_priority_and_fairness/dump_priority_levels").await.is(200).text();
    let row = dump.lines().find(|line| line.starts_with("tiny,")).expect("a row");
    let cells: Vec<_> = row.split(',').map(str::trim).collect();
    assert_eq!(cells[2..6], ["false", "false", "0", &*seats.to_string()], "{row}");
    for task in &hanging {
        task.abort();
    }
    until("seats again", async || as_jane(&f).await.code == 200).await;

    f.delete(&path).await.is(200);
    until("no schema", async || header(&as_jane(&f).await, "x-kubernetes-pf-flowschema-uid").is_empty()).await;
}

/// A tenant with everything it can send at once, in the level of another: the other is served all the same, and so are
/// the system's own clients.
#[tokio::test]
async fn a_noisy_tenant_starves_nobody() {
    let f = Fixture::with(|store| apiserver::Config { seats: 30, ..config(store) }).await;
    f.post("/api/v1/namespaces", "{metadata: {name: default}}").await.is(201);
    let queue = "{type: Queue, queuing: {queues: 64, handSize: 4, queueLengthLimit: 50}}";
    for (name, user) in [("system", "system:kube-controller-manager"), ("tenants", "quiet")] {
        f.post(&format!("{GROUP}/prioritylevelconfigurations"), &level(name, 30, queue)).await.is(201);
        f.post(&format!("{GROUP}/flowschemas"), &schema(name, name, &format!("\"{user}\""))).await.is(201);
    }
    f.post(&format!("{GROUP}/flowschemas"), &schema("noisy", "tenants", "noisy")).await.is(201);
    let groups = &["system:authenticated"];
    let ask = async |user| f.raw(request(user, groups, Method::GET, MAPS, "")).await;
    for user in ["system:kube-controller-manager", "quiet", "noisy"] {
        until("its level", async || !header(&ask(user).await, "x-kubernetes-pf-prioritylevel-uid").is_empty()).await;
    }
    // Bodies that do not come have no seats for long, and whole ones take their turns.
    let mut noise: Vec<_> = (0..40)
        .map(|_| {
            let server = f.server.clone();
            tokio::spawn(async move { drop(server.handle(stuck("noisy", groups)).await) })
        })
        .collect();
    noise.extend((0..50).map(|_| {
        let server = f.server.clone();
        tokio::spawn(async move {
            loop {
                let reply = server.handle(request("noisy", groups, Method::GET, MAPS, "")).await;
                drop(reply.into_body().collect().await);
            }
        })
    }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (user, most) in [("system:kube-controller-manager", 10), ("quiet", 20)] {
        let began = std::time::Instant::now();
        for _ in 0..50 {
            ask(user).await.is(200);
        }
        assert!(began.elapsed() < Duration::from_secs(most), "{user}: {:?}", began.elapsed());
    }
    noise.iter().for_each(|task| task.abort());
}
