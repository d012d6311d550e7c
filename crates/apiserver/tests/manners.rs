//! How the server stops, how long it waits, what it says of itself, and what becomes of clients that behave badly.

use std::time::{Duration, Instant};

use apiserver::{Body, Config, seams::Peer};
use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};

use crate::harness::{Fixture, Reply, config};
use crate::watches::Watch;
use crate::webhooks::{SERVICES, SLICES, hook};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// As if it came from a socket.
fn outside(method: Method, path: &str) -> Request<Body> {
    let mut request = Fixture::request(method, path, "application/json", "");
    request.extensions_mut().insert(Peer::default());
    request
}

async fn with(change: impl FnOnce(&mut Config)) -> Fixture {
    let f = Fixture::with(|store| {
        let mut config = config(store);
        change(&mut config);
        config
    })
    .await;
    f.post("/api/v1/namespaces", "{metadata: {name: default}}").await.is(201);
    f
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn checks_tell_upstreams_names_and_the_truth() {
    let f = Fixture::new().await;
    let ready = f.get("/readyz?verbose").await.is(200).text();
    assert!(ready.starts_with("[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n"));
    assert!(ready.ends_with("[+]shutdown ok\nreadyz check passed\n"), "{ready}");
    assert!(!f.get("/livez?verbose").await.is(200).text().contains("]informer-sync"));
    let excluded = f.get("/livez?verbose&exclude=etcd&exclude=nope").await.is(200).text();
    for wanted in
        ["[+]etcd excluded: ok\n", "warn: some health checks cannot be excluded: no matches for \"nope\"\nlivez"]
    {
        assert!(excluded.contains(wanted), "{excluded}");
    }
    assert_eq!(f.get("/readyz/poststarthook/rbac/bootstrap-roles").await.is(200).text(), "ok");
    assert!(
        f.get("/metrics/slis").await.is(200).text().contains("kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 1")
    );

    f.server.begin_stop();
    let stopping = f.get("/readyz").await.is(500).text();
    assert!(stopping.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{stopping}");
    let alone = f.get("/readyz/shutdown").await.is(500).text();
    assert_eq!(alone, "internal server error: process is shutting down\n");
    f.get("/readyz?exclude=shutdown").await.is(200);
    f.get("/livez").await.is(200);
    f.get(MAPS).await.is(200);
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began() {
    let f = Fixture::new().await;
    let mut watch = f.server.handle(outside(Method::GET, &format!("{MAPS}?watch=1"))).await.into_body();
    // Its body is still to come.
    let (mut body, coming) = tokio::io::duplex(64);
    let mut slow = outside(Method::POST, MAPS);
    let frames = futures_util::stream::unfold(coming, |mut coming| async move {
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut coming, &mut text).await.expect("a body");
        (!text.is_empty()).then(|| (Ok(http_body::Frame::data(text.into())), coming))
    });
    *slow.body_mut() = StreamBody::new(frames).boxed_unsync();
    let server = f.server.clone();
    let slow = tokio::spawn(async move { server.handle(slow).await.status() });
    tokio::time::sleep(Duration::from_millis(50)).await;

    f.server.begin_stop();
    let server = f.server.clone();
    let draining = tokio::spawn(async move { server.drain(false, Duration::from_secs(10)).await });
    while let Some(frame) = watch.frame().await {
        frame.expect("a frame");
    }
    let late = f.raw(outside(Method::GET, MAPS)).await.is(503);
    assert_eq!((header(&late, "retry-after"), header(&late, "connection")), ("1", "close"));
    assert_eq!(late.at("/message"), "apiserver is shutting down");
    f.raw(outside(Method::GET, "/livez")).await.is(200);
    assert!(!draining.is_finished());
    tokio::io::AsyncWriteExt::write_all(&mut body, b"{\"metadata\": {\"name\": \"late\"}}").await.expect("a pipe");
    drop(body);
    draining.await.expect("a drain");
    assert_eq!(slow.await.expect("an answer"), 201);

    f.server.drain(true, Duration::ZERO).await;
    let late = f.raw(outside(Method::GET, MAPS)).await.is(429);
    assert_eq!(late.text(), "The apiserver is shutting down, please try again later.\n");
    assert_eq!(header(&late, "retry-after"), "5");
}

#[tokio::test]
async fn requests_have_limits() {
    let f = Fixture::new().await;
    for (text, why) in [("bad", "invalid duration"), ("10", "missing unit in duration")] {
        f.get(&format!("{MAPS}?timeout={text}"))
            .await
            .is(400)
            .has(&[("/message", &format!("invalid timeout specified in the request URL - time: {why} \"{text}\""))]);
    }
    f.get(&format!("{MAPS}?timeout=-1s")).await.is(200);
    let mut stuck = Fixture::request(Method::POST, &format!("{MAPS}?timeout=50ms"), "application/json", "");
    *stuck.body_mut() = StreamBody::new(futures_util::stream::pending()).boxed_unsync();
    let late = f.raw(stuck).await.is(504);
    assert_eq!(header(&late, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(
        late.text(),
        "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"Timeout: request did not complete within the allotted timeout\",\"reason\":\"Timeout\",\"details\":{},\"code\":504}\n"
    );
    let large = "x".repeat((3 << 20) + 1);
    f.raw(Fixture::request(Method::POST, MAPS, "application/json", large))
        .await
        .is(413)
        .has(&[("/message", "Request entity too large: limit is 3145728"), ("/reason", "RequestEntityTooLarge")]);
}

#[tokio::test]
async fn metrics_have_upstreams_names_and_labels() {
    let f = Fixture::new().await;
    f.post(MAPS, "{metadata: {name: a}}").await.is(201);
    f.post(MAPS, "{metadata: {name: a}}").await.is(409);
    f.get(MAPS).await.is(200);
    f.get("/api/v1/namespaces/default/endpoints").await.is(200);
    f.get("/apis/made.up/v1/things").await.is(404);
    let watch = Watch::open(&f, &format!("{MAPS}?watch=1")).await;
    let labels = "group=\"\",resource=\"configmaps\"";
    let text = f.get("/metrics").await.text();
    for wanted in [
        format!("apiserver_request_total{{code=\"201\",component=\"apiserver\",dry_run=\"\",{labels},scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"}} 1"),
        format!("apiserver_request_total{{code=\"409\",component=\"apiserver\",dry_run=\"\",{labels},scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"}} 1"),
        format!("apiserver_request_duration_seconds_count{{component=\"apiserver\",dry_run=\"\",{labels},scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"}} 1"),
        format!("apiserver_longrunning_requests{{component=\"apiserver\",{labels},scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}} 1"),
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1".into(),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1".into(),
        format!("apiserver_resource_objects{{{labels}}} 1"),
    ] {
        assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("made.up") && !text.contains("things"));
    drop(watch);
    assert!(!f.get("/metrics").await.text().contains("apiserver_longrunning_requests{"));
}

/// Nobody waits for those who do nothing: they cost no seat, and a change reaches each of them.
#[tokio::test]
async fn ten_thousand_idle_watches() {
    const WATCHES: usize = 10_000;
    let f = with(|config| config.seats = 20).await;
    let revision = f.get(MAPS).await.revision();
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}&fieldSelector=metadata.name=last");
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(tokio::spawn({
            let mut watch = Watch::open(&f, &path).await;
            async move { watch.event().await }
        }));
    }
    let began = Instant::now();
    f.post(MAPS, "{metadata: {name: other}}").await.is(201);
    f.get(MAPS).await.is(200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    f.post(MAPS, "{metadata: {name: last}}").await.is(201);
    for watch in watches {
        assert_eq!(watch.await.expect("an event"), "ADDED last");
    }
}

/// A list that is not read is let go of at its time's end, whether its client asks for more or not.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_not_kept() {
    let f = with(|config| config.request_timeout = Duration::from_millis(400)).await;
    let data = "x".repeat(40_000);
    for name in ["a", "b", "c", "d", "e", "f"] {
        f.post(MAPS, &format!("{{metadata: {{name: {name}}}, data: {{text: {data}}}}}")).await.is(201);
    }
    let mut body = f.server.handle(Fixture::request(Method::GET, MAPS, "", "")).await.into_body();
    body.frame().await.expect("a frame").expect("its data");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(body.frame().await.expect("an end").is_err());
    f.get(MAPS).await.is(200);
}

#[tokio::test]
async fn a_webhook_that_hangs_delays_only_what_it_is_asked_of() {
    let f = with(|config| config.admission = vec![Box::<apiserver::webhooks::Validating>::default()]).await;
    let hanging = hook("hangs", "https://hangs/", "Fail").replace("failurePolicy", "timeoutSeconds: 1, failurePolicy");
    f.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &hanging).await.is(201);
    let began = Instant::now();
    let asked = f.post(MAPS, "{metadata: {name: a}}");
    let others = async {
        for at in 0..20 {
            f.post("/api/v1/namespaces/default/secrets", &format!("{{metadata: {{name: s{at}}}}}")).await.is(201);
            f.get(MAPS).await.is(200);
        }
        began.elapsed()
    };
    let (asked, others) = tokio::join!(asked, others);
    assert!(asked.is(500).text().contains("context deadline exceeded"));
    assert!(others < Duration::from_millis(900) && began.elapsed() >= Duration::from_secs(1), "{others:?}");
}

/// One remote API server does not answer: another one is seen to all the same.
#[tokio::test]
async fn a_remote_server_that_hangs_delays_no_other() {
    let f = Fixture::new().await;
    for name in ["hangs", "sample"] {
        f.post(
            "/api/v1/namespaces/default/services",
            &format!("{{metadata: {{name: {name}}}, spec: {{ports: [{{port: 443, name: https}}]}}}}"),
        )
        .await
        .is(201);
        f.post(SLICES, &format!("{{metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, endpoints: [{{addresses: [\"10.42.0.9\"]}}], ports: [{{port: 8443, name: https}}]}}")).await.is(201);
    }
    let service = |name: &str, group: &str| {
        format!(
            "{{metadata: {{name: v1.{group}}}, spec: {{group: {group}, version: v1, groupPriorityMinimum: 2000, versionPriority: 200, insecureSkipTLSVerify: true, service: {{name: {name}, namespace: default}}}}}}"
        )
    };
    f.post(SERVICES, &service("hangs", "slow.example.com")).await.is(201);
    tokio::time::sleep(Duration::from_millis(100)).await;
    f.post(SERVICES, &service("sample", "wardle.example.com")).await.is(201);
    let began = Instant::now();
    while f.get(&format!("{SERVICES}/v1.wardle.example.com")).await.at("/status/conditions/0/reason") != "Passed" {
        assert!(began.elapsed() < Duration::from_secs(3), "the slow one is waited for");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
