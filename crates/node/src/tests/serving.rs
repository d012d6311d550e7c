//! The kubelet's API over real HTTP connections in memory.

use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::objects::lock;
use crate::ports::{PodStats, PullError, Usage, Waited};

/// A connection to the kubelet's API.
fn connect(kubelet: &Arc<Kubelet>) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let kubelet = kubelet.clone();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let kubelet = kubelet.clone();
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                Ok::<_, std::convert::Infallible>(kubelet.handle(request).await)
            }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades()
            .await;
    });
    client
}

async fn get(kubelet: &Arc<Kubelet>, path: &str) -> String {
    let mut connection = connect(kubelet);
    connection
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .expect("sends");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(start_paused = true)]
async fn pods_stats_and_errors() {
    let world = World::new("http");
    world.api.put(&pod("web", vec![container("app")]));
    world.until("web", "ready", is_ready).await;
    let mut done = pod("done", vec![container("app")]);
    done.spec.restart_policy = "Never".into();
    world.api.put(&done);
    world.until("done", "ready", is_ready).await;
    std::fs::write(world.path("logs/default_done_uid-done/app/0.log"), "2026-01-01T00:00:00.1Z stdout F last words\n")
        .expect("a log");
    world.machine.exit("uid-done", "app", 0);
    world.until("done", "succeeded", |pod| pod.status.phase == "Succeeded").await;
    let some = Waited { nanoseconds: 42, averages: [1.5, 0.25, 0.0] };
    let usage = Usage { stalled: vec![("io", [some, Waited::default()])], ..Usage::default() };
    lock(&world.machine.state).stats.insert("uid-web".into(), PodStats { pod: usage, ..PodStats::default() });
    let rows = [
        ("/healthz", "200 OK", "ok"),
        ("/stats/summary", "200 OK", "\"some\":{\"avg10\":1.5,\"avg300\":0.0,\"avg60\":0.25,\"total\":42}"),
        ("/pods", "200 OK", "\"podIP\":\"10.42.0.7\""),
        ("/stats/summary", "200 OK", "\"nodeName\":\"one\""),
        ("/metrics", "200 OK", "kubelet_running_pods 1"),
        ("/metrics/resource", "200 OK", "resource_scrape_error 0"),
        ("/configz", "200 OK", "\"maxPods\":110"),
        ("/containerLogs/default/web/none", "404", "container \"none\" not found in pod \"web\""),
        ("/containerLogs/default/gone/app", "404", "pod \"gone\" not found"),
        (
            "/containerLogs/default/web/app?previous=true",
            "400",
            "previous terminated container \"app\" in pod \"web\" not found",
        ),
        ("/containerLogs/default/done/app", "200", "last words"),
        (
            "/containerLogs/default/done/app?previous=true",
            "400",
            "previous terminated container \"app\" in pod \"done\" not found",
        ),
        ("/exec/default/web/app?command=ls&output=1", "400", "unable to upgrade"),
        ("/nothing", "404", "404 page not found"),
    ];
    for (path, code, text) in rows {
        let answer = get(&world.kubelet, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(text), "{path}: {answer}");
    }
    for (error, reason, said) in [
        ("never", "ErrImagePull", "image can't be pulled"),
        ("always", "ImagePullBackOff", "trying and failing to pull image"),
        ("unnamed", "InvalidImageName", "InvalidImageName"),
    ] {
        let error_of =
            |why: String| if error == "unnamed" { PullError::InvalidName(why) } else { PullError::Failed(why) };
        lock(&world.machine.state).broken.insert(format!("{error}:1"), error_of("it is not there".into()));
        world.api.put(&pod(error, vec![Container { image: format!("{error}:1"), ..container("app") }]));
        let waits = |pod: &Pod| {
            let status = pod.status.container_statuses.first();
            status.and_then(|status| status.state.waiting.as_ref()).is_some_and(|waiting| waiting.reason == reason)
        };
        world.until(error, reason, waits).await;
        let answer = get(&world.kubelet, &format!("/containerLogs/default/{error}/app")).await;
        let whole = format!("container \"app\" in pod \"{error}\" is waiting to start: {said}");
        assert!(answer.ends_with(&whole), "{answer}");
    }
    std::fs::write(world.path("logs/default_web_uid-web/app/0.log"), "2026-01-01T00:00:00.1Z stdout F hello\n")
        .expect("a log");
    let answer = get(&world.kubelet, "/containerLogs/default/web/app?tailLines=1").await;
    assert!(answer.contains("hello\n"), "{answer}");
}

/// One message of a client, with a mask of zeros.
fn message(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).expect("short"), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(start_paused = true)]
async fn exec_over_websocket() {
    let world = World::new("exec");
    world.api.put(&pod("web", vec![container("app")]));
    world.until("web", "ready", is_ready).await;
    let mut connection = connect(&world.kubelet);
    let request = "GET /exec/default/web/app?command=cat&command=7&input=1&output=1&error=1 HTTP/1.1\r\nhost: node\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
    connection.write_all(request.as_bytes()).await.expect("sends");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    connection.write_all(&message(b"\0hello")).await.expect("stdin");
    connection.write_all(&message(&[255, 0])).await.expect("the end of stdin");
    let mut got: Vec<Vec<u8>> = Vec::new();
    loop {
        let kind = connection.read_u8().await.expect("a frame");
        let mut length = usize::from(connection.read_u8().await.expect("a length"));
        if length == 126 {
            length = usize::from(connection.read_u16().await.expect("a length"));
        }
        let mut payload = vec![0; length];
        connection.read_exact(&mut payload).await.expect("a payload");
        if kind == 0x88 {
            break;
        }
        got.push(payload);
    }
    assert_eq!(got[0], b"\x01hello");
    let status: serde_json::Value = serde_json::from_slice(&got[1][1..]).expect("a status");
    assert_eq!(
        (got[1][0], status["reason"].as_str(), status["details"]["causes"][0]["message"].as_str()),
        (3, Some("NonZeroExitCode"), Some("7"))
    );
}
