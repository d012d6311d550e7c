//! The audit log: what its sink is told of requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::admission::Plugin;
use apiserver::audit::{Audit, Backend, Backends, Event, Mode, Policy, Sink, Webhook};
use apiserver::outside::Endpoint;
use apiserver::seams::{BoxFuture, NodeProxy, Peer, Target};
use apiserver::{Body, Server, Status, User};
use http::{Method, Request};
use http_body_util::BodyExt;
use schema::{Value, json};

use crate::harness::{Fixture, config};

type Answer = http::Response<Body>;

/// Keeps what it is told; loses what comes from `lost`.
#[derive(Default)]
struct Kept(Mutex<Vec<Value>>);

impl Sink for Kept {
    fn process<'a>(&'a self, _: &'a Server, event: Arc<Event>) -> BoxFuture<'a, bool> {
        let event = json::parse(&event.json()).expect("JSON");
        let takes = event.str_at(&["user", "username"]) != "lost";
        self.0.lock().expect("a lock").push(event);
        Box::pin(std::future::ready(takes))
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        vec![("log", 3)]
    }
}

impl Kept {
    fn held(&self, stage: &str) -> Option<Vec<Value>> {
        let mut events = self.0.lock().expect("a lock");
        let is_there = events.last().is_some_and(|event| event.str_at(&["stage"]) == stage);
        is_there.then(|| std::mem::take(&mut *events))
    }

    /// The events since the last look; waits for the last one to have this stage.
    async fn take(&self, stage: &str) -> Vec<Value> {
        for _ in 0..1000 {
            if let Some(events) = self.held(stage) {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("no {stage}");
    }
}

async fn fixture(rules: &str) -> (Fixture, Arc<Kept>) {
    made(rules, Vec::new()).await
}

async fn with_admission(rules: &str) -> (Fixture, Arc<Kept>) {
    let authorizer = Arc::new(apiserver::authz::Authorizer::default());
    made(rules, apiserver::admission::registry::plugins(authorizer, &[])).await
}

async fn made(rules: &str, admission: Vec<Box<dyn Plugin>>) -> (Fixture, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let policy = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}");
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    let audit = Some(Arc::new(Audit::new(policy, kept.clone())));
    (Fixture::with(|store| apiserver::Config { audit, admission, ..config(store) }).await, kept)
}

#[track_caller]
fn has(event: &Value, wanted: &[(&str, &str)]) {
    for (path, text) in wanted {
        let found = event.pointer(path).map_or("-".to_owned(), |value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        assert_eq!(found, *text, "{path} in {event}");
    }
}

const NAMESPACES: &str = "/api/v1/namespaces";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn levels_tell_more_and_more() {
    let (f, kept) = fixture("[{level: Metadata, verbs: [delete, get]}, {level: Request, verbs: [create, patch]}, {level: RequestResponse, verbs: [update, list], omitManagedFields: true}]").await;
    f.post(NAMESPACES, "{metadata: {name: default}}").await.is(201);
    let made = kept.take("ResponseComplete").await;
    assert_eq!(made.len(), 2);
    has(
        &made[0],
        &[
            ("/kind", "Event"),
            ("/apiVersion", "audit.k8s.io/v1"),
            ("/level", "Request"),
            ("/stage", "RequestReceived"),
            ("/requestURI", NAMESPACES),
            ("/verb", "create"),
            ("/user/username", "admin"),
            ("/user/groups/0", "system:masters"),
            ("/userAgent", "tests/1"),
            ("/objectRef", "{\"apiVersion\":\"v1\",\"resource\":\"namespaces\"}"),
            ("/responseStatus", "-"),
            ("/requestReceivedTimestamp", "2027-01-15T08:00:00.000000Z"),
            ("/stageTimestamp", "2027-01-15T08:00:00.000000Z"),
            ("/annotations", "-"),
        ],
    );
    has(
        &made[1],
        &[
            ("/objectRef/name", "default"),
            ("/responseStatus", "{\"code\":201,\"metadata\":{}}"),
            ("/requestObject/kind", "Namespace"),
            ("/requestObject/status", "{\"phase\":\"Active\"}"),
            ("/responseObject", "-"),
            ("/annotations/authorization.k8s.io~1decision", "allow"),
        ],
    );
    let id = made[0].str_at(&["auditID"]);
    assert_eq!((id.len(), id), (36, made[1].str_at(&["auditID"])));

    f.post(MAPS, "{metadata: {name: m}, data: {a: b}}").await.is(201);
    kept.take("ResponseComplete").await;
    f.patch(&format!("{MAPS}/m"), "merge-patch", "{data: {c: d}}").await.is(200);
    let patched = kept.take("ResponseComplete").await;
    has(&patched[1], &[("/requestObject", "{\"data\":{\"c\":\"d\"}}"), ("/objectRef/name", "m")]);
    f.put(&format!("{MAPS}/m"), "{metadata: {name: m}, data: {a: c}}").await.is(200);
    let updated = kept.take("ResponseComplete").await;
    has(
        &updated[1],
        &[
            ("/requestObject/data/a", "c"),
            ("/responseObject/kind", "ConfigMap"),
            ("/responseObject/data/a", "c"),
            ("/responseObject/metadata/managedFields", "-"),
        ],
    );
    // In whatever form the client wants it, the log has JSON.
    for accept in ["application/vnd.kubernetes.protobuf", "application/json", "application/yaml"] {
        let mut request = Fixture::request(Method::GET, MAPS, "", "");
        request.headers_mut().insert("accept", accept.parse().expect("a type"));
        f.raw(request).await.is(200);
        let listed = kept.take("ResponseComplete").await;
        let first = ("/responseObject/items/0/metadata/managedFields", "-");
        has(&listed[1], &[("/responseObject/kind", "ConfigMapList"), ("/responseObject/items/0/data/a", "c"), first]);
    }
    f.delete(&format!("{MAPS}/m")).await.is(200);
    let deleted = kept.take("ResponseComplete").await;
    has(
        &deleted[1],
        &[
            ("/responseStatus/status", "Success"),
            ("/responseStatus/details/name", "m"),
            ("/responseStatus/code", "200"),
            ("/responseObject", "-"),
        ],
    );
    f.get(&format!("{MAPS}/m")).await.is(404);
    let missing = kept.take("ResponseComplete").await;
    has(&missing[1], &[("/responseStatus/reason", "NotFound"), ("/responseStatus/code", "404")]);
    f.get("/metrics").await.is(200);
    let text = f.get("/metrics").await.text();
    for line in ["apiserver_audit_level_total{level=\"Request\"} 3", "apiserver_audit_error_total{plugin=\"log\"} 3"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn who_asks_and_where_from() {
    let (f, kept) = fixture("[{level: Metadata}]").await;
    let mut request = Fixture::request(Method::GET, "/version?a=b", "", "");
    for (name, value) in [
        ("audit-id", "mine"),
        ("x-forwarded-for", "1.2.3.4, 5.6.7.8"),
        ("impersonate-user", "jane"),
        ("user-agent", &"x".repeat(2000)),
    ] {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    request.extensions_mut().insert(Peer { address: Some(([10, 0, 0, 1], 1).into()), ..Peer::default() });
    let reply = f.raw(request).await.is(200);
    assert_eq!(reply.headers["audit-id"], "mine");
    let events = kept.take("ResponseComplete").await;
    has(
        &events[1],
        &[
            ("/auditID", "mine"),
            ("/requestURI", "/version?a=b"),
            ("/verb", "get"),
            ("/sourceIPs", "[\"1.2.3.4\",\"5.6.7.8\",\"10.0.0.1\"]"),
            ("/impersonatedUser/username", "jane"),
            ("/objectRef", "-"),
        ],
    );
    assert_eq!(events[1].str_at(&["userAgent"]).len(), 1024 + "...TRUNCATED".len());

    let ask = |token: &str| {
        let mut request = Fixture::request(Method::GET, NAMESPACES, "", "");
        request.extensions_mut().remove::<User>();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        request
    };
    f.raw(ask("bad")).await.is(401);
    let refused = kept.take("ResponseStarted").await;
    assert_eq!(refused.len(), 1);
    has(&refused[0], &[("/responseStatus/code", "401"), ("/user", "{}"), ("/responseStatus/reason", "Unauthorized")]);
    f.raw(ask("nobody")).await.is(403);
    let forbidden = kept.take("ResponseComplete").await;
    has(&forbidden[1], &[("/annotations/authorization.k8s.io~1decision", "forbid"), ("/responseStatus/code", "403")]);
    // What must be audited and cannot be is not done.
    f.raw(ask("lost")).await.is(500);
    assert_eq!(kept.take("RequestReceived").await.len(), 1);
}

#[tokio::test]
async fn what_lasts_is_told_when_it_begins_and_when_it_ends() {
    let (f, kept) = fixture("[{level: RequestResponse}]").await;
    let request = Fixture::request(Method::GET, &format!("{NAMESPACES}?watch=1"), "", "");
    let watch = f.server.handle(request).await;
    let begun = kept.take("ResponseStarted").await;
    has(
        begun.last().expect("an event"),
        &[("/verb", "watch"), ("/responseStatus/code", "200"), ("/responseObject", "-")],
    );
    drop(watch);
    assert_eq!(kept.take("ResponseComplete").await.len(), 1);
    // A client that leaves before there is an answer: the sink's first wait is where it is left.
    let request = http::Request::post(NAMESPACES).extension(User::new("admin", &["system:masters"]));
    let never = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(futures_util::stream::pending()));
    let asked = f.server.handle(request.header("content-type", "application/json").body(never).expect("a request"));
    let _ = tokio::time::timeout(std::time::Duration::from_millis(20), asked).await;
    let left = kept.take("ResponseComplete").await;
    has(&left[1], &[("/responseStatus/message", "Connection closed early")]);
}

#[tokio::test]
async fn pod_security_tells_what_it_found() {
    let (f, kept) = with_admission(
        "[{level: Metadata, verbs: [create], resources: [{resources: [pods, deployments]}, {group: apps}]}]",
    )
    .await;
    let labels = "pod-security.kubernetes.io/enforce: baseline, pod-security.kubernetes.io/audit: restricted";
    f.post(NAMESPACES, "{metadata: {name: free}}").await.is(201);
    f.post(NAMESPACES, &format!("{{metadata: {{name: bound, labels: {{{labels}}}}}}}")).await.is(201);
    for namespace in ["free", "bound"] {
        f.post(&format!("{NAMESPACES}/{namespace}/serviceaccounts"), "{metadata: {name: default}}").await.is(201);
    }
    let pod = "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";
    f.post(&format!("{NAMESPACES}/free/pods"), pod).await.is(201);
    let free = kept.take("ResponseComplete").await;
    let at = |key: &str| format!("/annotations/pod-security.kubernetes.io~1{key}");
    has(&free[1], &[(&at("enforce-policy"), "privileged:latest"), (&at("audit-violations"), "-")]);
    f.post(&format!("{NAMESPACES}/bound/pods"), pod).await.is(201);
    let bound = kept.take("ResponseComplete").await;
    has(&bound[1], &[(&at("enforce-policy"), "baseline:latest")]);
    let text = bound[1].pointer(&at("audit-violations")).and_then(Value::as_str).unwrap_or("");
    assert!(text.starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"), "{text}");
}

/// The other end of a webhook: it fails once and keeps what it is told then, or never answers.
#[derive(Default)]
struct Outside {
    told: Mutex<Vec<Value>>,
    asked: AtomicUsize,
    hangs: bool,
}

impl NodeProxy for Outside {
    fn to_node<'a>(&'a self, _: &'a Server, _: &'a str, _: Request<Body>) -> BoxFuture<'a, Result<Answer, Status>> {
        Box::pin(std::future::pending())
    }

    fn to_address<'a>(
        &'a self,
        _: &'a Server,
        _: &'a str,
        _: std::net::SocketAddr,
        _: Request<Body>,
    ) -> BoxFuture<'a, Result<Answer, Status>> {
        Box::pin(std::future::pending())
    }

    fn to_url<'a>(
        &'a self,
        _: &'a Server,
        target: Target<'a>,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Answer, Status>> {
        assert_eq!(target.url, "https://audit.example/log");
        assert_eq!(request.headers()["authorization"], "Bearer secret");
        Box::pin(async move {
            let is_first = self.asked.fetch_add(1, Ordering::Relaxed) == 0;
            if self.hangs {
                return std::future::pending().await;
            }
            if is_first {
                return Err(Status::unavailable("not yet"));
            }
            let bytes = request.into_body().collect().await.expect("a body").to_bytes();
            self.told.lock().expect("a lock").push(json::parse(&bytes).expect("JSON"));
            Ok(http::Response::new(apiserver::body::empty()))
        })
    }
}

async fn with_webhook(outside: Arc<Outside>, mode: Mode, buffer: usize) -> (Fixture, Arc<Backends>) {
    let kubeconfig = "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: 'https://audit.example/log'}}], users: [{name: u, user: {token: secret}}]}";
    let webhook = Webhook {
        endpoint: Endpoint::from_kubeconfig(std::path::Path::new("/k"), &|_| Ok(kubeconfig.into())).expect("one"),
        batch_size_max: 2,
        batch_wait: Duration::from_secs(60),
        throttle: Some((1000.0, 1.0)),
        initial_backoff: Duration::from_millis(1),
    };
    let backends = Arc::new(Backends(vec![Backend::webhook(mode, Some(2000), buffer, webhook)]));
    let policy =
        "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: RequestResponse}]}";
    let audit = Audit::new(Policy::parse(policy.as_bytes()).expect("a policy"), backends.clone());
    let config = |store| apiserver::Config { audit: Some(Arc::new(audit)), node_proxy: outside, ..config(store) };
    (Fixture::with(config).await, backends)
}

#[tokio::test]
async fn a_webhook_is_told_in_batches_and_keeps_nobody() {
    let outside = Arc::new(Outside::default());
    let (f, backends) = with_webhook(outside.clone(), Mode::Batch, 100).await;
    f.post(NAMESPACES, "{metadata: {name: default}}").await.is(201);
    f.post(MAPS, &format!("{{metadata: {{name: m}}, data: {{a: \"{}\"}}}}", "x".repeat(2000))).await.is(201);
    for _ in 0..1000 {
        if !outside.told.lock().expect("a lock").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = outside.told.lock().expect("a lock").pop().expect("a batch");
    has(
        &list,
        &[
            ("/kind", "EventList"),
            ("/items/0/objectRef/name", "default"),
            ("/items/0/responseObject/kind", "Namespace"),
            ("/items/1/objectRef/name", "m"),
            ("/items/1/responseObject", "-"),
            ("/items/1/annotations/audit.k8s.io~1truncated", "true"),
        ],
    );
    assert!(backends.lost().iter().all(|(_, events)| *events == 0));

    // A server that stops does not wait for a batch to fill.
    outside.told.lock().expect("a lock").clear();
    f.get(NAMESPACES).await.is(200);
    f.server.drain(false, Duration::from_secs(1)).await;
    assert_eq!(outside.told.lock().expect("a lock").len(), 1);

    let (f, backends) = with_webhook(Arc::new(Outside { hangs: true, ..Outside::default() }), Mode::Batch, 1).await;
    for _ in 0..100 {
        f.get(NAMESPACES).await.is(200);
    }
    let buffered = backends.lost().into_iter().find(|(plugin, _)| *plugin == "buffered");
    assert!(buffered.is_some_and(|(_, events)| events > 50), "{buffered:?}");

    let outside = Arc::new(Outside::default());
    let (f, _backends) = with_webhook(outside.clone(), Mode::BlockingStrict, 1).await;
    f.get(NAMESPACES).await.is(200);
    assert_eq!(outside.told.lock().expect("a lock").len(), 1);
}
