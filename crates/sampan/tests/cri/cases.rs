//! Conversations: lifecycles, lists, errors, streams, images, numbers, events.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_cri::v1::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::world::{Bench, IMAGE};
use crate::{Case, case};

fn image(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.into(), ..Default::default() })
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn pods(bench: &Bench, filter: PodSandboxFilter) -> Vec<PodSandbox> {
    let request = ListPodSandboxRequest { filter: Some(filter) };
    bench.runtime().await.list_pod_sandbox(request).await.unwrap().into_inner().items
}

async fn containers(bench: &Bench, filter: ContainerFilter) -> Vec<Container> {
    let request = ListContainersRequest { filter: Some(filter) };
    bench.runtime().await.list_containers(request).await.unwrap().into_inner().containers
}

async fn find_image(bench: &Bench, name: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: image(name), verbose: false };
    bench.peer.images().await.image_status(request).await.unwrap().into_inner().image
}

/// Connects to a streaming URL.
async fn dial(url: &str, protocol: &str) -> Result<TcpStream, String> {
    let rest = url.strip_prefix("http://").expect(url);
    let (host, path) = rest.split_once('/').unwrap();
    let stream = TcpStream::connect(host).await.map_err(|error| error.to_string())?;
    streams::client::upgrade(stream, host, &format!("/{path}"), protocol).await.map_err(|error| error.to_string())
}

async fn exec_url(bench: &Bench, id: &str, script: &str, tty: bool, stdin: bool) -> String {
    let request = ExecRequest {
        container_id: id.into(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    bench.runtime().await.exec(request).await.unwrap().into_inner().url
}

/// Speaks through a session: what it answered, and how it ended.
async fn talk(url: &str, input: Option<&str>, tty: bool) -> (Result<i32, String>, String, String) {
    let connection = dial(url, "v4.channel.k8s.io").await.unwrap();
    let ((mut to, from), (out, mut out_of), (err, mut err_of)) =
        (tokio::io::duplex(4096), tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
    if let Some(input) = input {
        to.write_all(input.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
    }
    let stdio = streams::Stdio {
        stdin: input.map(|_| Box::new(from) as streams::Reader),
        stdout: Some(Box::new(out)),
        stderr: (!tty).then(|| Box::new(err) as streams::Writer),
        tty,
        resize: None,
    };
    let code = streams::client::command(connection, stdio).await;
    let (mut said, mut wrong) = (String::new(), String::new());
    out_of.read_to_string(&mut said).await.unwrap();
    if !tty {
        err_of.read_to_string(&mut wrong).await.unwrap();
    }
    (code, said, wrong)
}

/// A small HTTP server in a container: what it serves on a port.
fn serving(port: u16, word: &str) -> String {
    format!("while true; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\n{word}' | nc -l -p {port}; done")
}

async fn get(address: &str) -> String {
    for _ in 0..100 {
        if let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
            let mut text = String::new();
            let read = tokio::time::timeout(Duration::from_secs(2), stream.read_to_string(&mut text)).await;
            if text.contains("200 OK") {
                return text;
            }
            drop(read);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody answers at {address}");
}

pub fn all() -> Vec<Case> {
    let mut all = vec![
        case("version", |bench| async move {
            let version = bench.runtime().await.version(VersionRequest::default()).await.unwrap().into_inner();
            assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
            assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
        }),
        case("status and configuration", |bench| async move {
            let mut runtime = bench.runtime().await;
            let status = runtime.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
            for name in ["RuntimeReady", "NetworkReady"] {
                assert!(
                    status.status.as_ref().unwrap().conditions.iter().any(|c| c.r#type == name && c.status),
                    "{name}"
                );
            }
            assert!(!status.info.is_empty());
            assert!(status.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
            assert!(status.features.unwrap().supplemental_groups_policy);
            let config = runtime.runtime_config(RuntimeConfigRequest {}).await.unwrap().into_inner();
            assert_eq!(config.linux.unwrap().cgroup_driver(), CgroupDriver::Cgroupfs);
            let runtime_config =
                Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr: "10.0.0.0/24".into() }) });
            runtime.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await.unwrap();
        }),
        case("life of a sandbox", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let status = bench.pod_status(&pod).await.unwrap();
            assert_eq!((status.state(), status.id.as_str()), (PodSandboxState::SandboxReady, pod.as_str()));
            assert_eq!(
                (status.metadata, &status.labels, &status.annotations),
                (of.metadata.clone(), &of.labels, &of.annotations)
            );
            assert!(status.created_at > 0 && status.network.unwrap().ip.starts_with("10.7"));
            let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
            assert_eq!((options.network(), options.pid()), (NamespaceMode::Pod, NamespaceMode::Container));
            bench.stop_pod(&pod).await.unwrap();
            assert_eq!(bench.pod_status(&pod).await.unwrap().state(), PodSandboxState::SandboxNotready);
            bench.stop_pod(&pod).await.unwrap();
            bench.remove_pod(&pod).await.unwrap();
            bench.remove_pod(&pod).await.unwrap();
            bench.stop_pod(&pod).await.unwrap();
            assert_eq!(bench.pod_status(&pod).await.unwrap_err().code(), Code::NotFound);
        }),
        case("verbose statuses", |bench| async move {
            let (pod, id) = bench.running("sleep 1000").await;
            let mut runtime = bench.runtime().await;
            let of_pod = PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
            assert!(runtime.pod_sandbox_status(of_pod).await.unwrap().into_inner().info.contains_key("info"));
            let of_container = ContainerStatusRequest { container_id: id, verbose: true };
            let info = runtime.container_status(of_container).await.unwrap().into_inner().info;
            let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
            assert!(info["pid"].as_u64().unwrap() > 0);
        }),
        case("life of a container", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let asked = bench.container("c", "echo up; sleep 1000");
            let id = bench.create(&pod, &of, asked.clone()).await.unwrap();
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.state(), status.started_at), (ContainerState::ContainerCreated, 0));
            assert_eq!(
                (status.metadata, &status.labels, &status.annotations),
                (asked.metadata, &asked.labels, &asked.annotations)
            );
            assert_eq!(status.image.unwrap().image, IMAGE);
            assert!(status.image_id.starts_with("sha256:") && !status.image_ref.is_empty());
            assert_eq!(status.log_path, bench.logs().join("c.log").to_string_lossy());
            bench.start(&id).await.unwrap();
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.state(), status.finished_at), (ContainerState::ContainerRunning, 0));
            assert!(status.started_at >= status.created_at);
            bench.until("it speaks", async || bench.log("c") == "up\n").await;
            assert!(bench.start(&id).await.is_err(), "it runs already");
            bench.stop(&id, 0).await.unwrap();
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
            assert!(status.finished_at >= status.started_at);
            assert!(bench.start(&id).await.is_err(), "it has ended");
            bench.stop(&id, 0).await.unwrap();
            bench.remove(&id).await.unwrap();
            bench.remove(&id).await.unwrap();
            bench.stop(&id, 0).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
        }),
        case("a running container is removed", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            bench.remove(&id).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
        }),
        case("a created container is removed", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let id = bench.create(&pod, &of, bench.container("c", "true")).await.unwrap();
            bench.remove(&id).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
        }),
        case("a sandbox takes its containers along", |bench| async move {
            let (pod, id) = bench.running("sleep 1000").await;
            bench.stop_pod(&pod).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap().state(), ContainerState::ContainerExited);
            bench.remove_pod(&pod).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound);
        }),
        case("a stopped sandbox takes no containers", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            bench.stop_pod(&pod).await.unwrap();
            assert!(bench.create(&pod, &of, bench.container("c", "true")).await.is_err());
        }),
        case("what is not there", |bench| async move {
            let none = "0123456789abcdef";
            let mut runtime = bench.runtime().await;
            let of = bench.pod();
            assert_eq!(bench.create(none, &of, bench.container("c", "")).await.unwrap_err().code(), Code::NotFound);
            assert_eq!(bench.start(none).await.unwrap_err().code(), Code::NotFound);
            assert_eq!(bench.exec(none, "true", 1).await.unwrap_err().code(), Code::NotFound);
            let stats = ContainerStatsRequest { container_id: none.into() };
            assert_eq!(runtime.container_stats(stats).await.unwrap_err().code(), Code::NotFound);
            let reopen = ReopenContainerLogRequest { container_id: none.into() };
            assert_eq!(runtime.reopen_container_log(reopen).await.unwrap_err().code(), Code::NotFound);
            let forward = PortForwardRequest { pod_sandbox_id: none.into(), port: vec![80] };
            assert_eq!(runtime.port_forward(forward).await.unwrap_err().code(), Code::NotFound);
            let pod = bench.run_pod(&of).await;
            let mut lacking = bench.container("c", "true");
            lacking.image = image("localhost/none:1");
            assert_eq!(bench.create(&pod, &of, lacking).await.unwrap_err().code(), Code::NotFound);
        }),
        case("what cannot be", |bench| async move {
            let of = bench.pod();
            let mut runtime = bench.runtime().await;
            assert!(runtime.run_pod_sandbox(RunPodSandboxRequest::default()).await.is_err());
            let request = RunPodSandboxRequest { config: Some(of.clone()), runtime_handler: "no-such".into() };
            assert!(runtime.run_pod_sandbox(request).await.is_err());
            let pod = bench.run_pod(&of).await;
            let mut group = bench.container("c", "true");
            let security = group.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_group = Some(Int64Value { value: 1000 });
            assert!(bench.create(&pod, &of, group).await.is_err(), "a group without a user");
            let mut nameless = bench.container("c", "true");
            nameless.metadata = None;
            assert!(bench.create(&pod, &of, nameless).await.is_err());
            let mut attach = AttachRequest { container_id: "x".into(), ..Default::default() };
            assert!(runtime.attach(attach.clone()).await.is_err(), "no stream");
            attach = AttachRequest { tty: true, stdout: true, stderr: true, ..attach };
            assert!(runtime.attach(attach).await.is_err(), "a terminal with stderr");
        }),
        case("names are taken once", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let request = RunPodSandboxRequest { config: Some(of.clone()), ..Default::default() };
            assert!(bench.runtime().await.run_pod_sandbox(request).await.is_err());
            let id = bench.create(&pod, &of, bench.container("c", "true")).await.unwrap();
            assert!(bench.create(&pod, &of, bench.container("c", "true")).await.is_err());
            let mut again = bench.container("c", "true");
            again.metadata.as_mut().unwrap().attempt = 2;
            bench.create(&pod, &of, again).await.unwrap();
            bench.remove(&id).await.unwrap();
            bench.create(&pod, &of, bench.container("c", "true")).await.unwrap();
        }),
        case("what cannot start", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "");
            asked.command = vec!["/no/such/program".into()];
            let id = bench.create(&pod, &of, asked).await.unwrap();
            let error = bench.start(&id).await.unwrap_err();
            assert!(error.message().contains("no such file or directory"), "{error:?}");
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.state(), status.reason.as_str()), (ContainerState::ContainerExited, "StartError"));
            assert_eq!(status.exit_code, 128);
        }),
        case("lists of sandboxes", |bench| async move {
            let mut one = bench.pod();
            one.labels.insert("which".into(), "one".into());
            let mut two = bench.pod();
            two.labels.insert("which".into(), "two".into());
            let (first, second) = (bench.run_pod(&one).await, bench.run_pod(&two).await);
            bench.stop_pod(&second).await.unwrap();
            let own = labels(&[("case", &bench.name)]);
            let ids = async |filter: PodSandboxFilter| -> Vec<String> {
                let mut ids: Vec<String> = pods(&bench, filter).await.into_iter().map(|pod| pod.id).collect();
                ids.sort();
                ids
            };
            let by = |label_selector| PodSandboxFilter { label_selector, ..Default::default() };
            let mut both = vec![first.clone(), second.clone()];
            both.sort();
            assert_eq!(ids(by(own.clone())).await, both);
            assert_eq!(ids(by(labels(&[("case", &bench.name), ("which", "two")]))).await, [second.clone()]);
            assert!(ids(by(labels(&[("case", &bench.name), ("which", "three")]))).await.is_empty());
            let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
            let ready = PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..by(own.clone()) };
            assert_eq!(ids(ready).await, [first.clone()]);
            assert_eq!(ids(PodSandboxFilter { id: first.clone(), ..Default::default() }).await, [first.clone()]);
            assert_eq!(ids(PodSandboxFilter { id: first[..13].into(), ..Default::default() }).await, [first.clone()]);
            let shown = pods(&bench, PodSandboxFilter { id: first.clone(), ..Default::default() }).await.remove(0);
            assert_eq!((shown.metadata, shown.labels, shown.annotations), (one.metadata, one.labels, one.annotations));
        }),
        case("lists of containers", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let running = bench.create(&pod, &of, bench.container("a", "sleep 1000")).await.unwrap();
            let created = bench.create(&pod, &of, bench.container("b", "sleep 1000")).await.unwrap();
            bench.start(&running).await.unwrap();
            let ids = async |filter: ContainerFilter| -> Vec<String> {
                let mut ids: Vec<String> = containers(&bench, filter).await.into_iter().map(|made| made.id).collect();
                ids.sort();
                ids
            };
            let mut both = vec![running.clone(), created.clone()];
            both.sort();
            assert_eq!(ids(ContainerFilter { pod_sandbox_id: pod.clone(), ..Default::default() }).await, both);
            let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
            assert_eq!(
                ids(ContainerFilter { pod_sandbox_id: pod.clone(), state, ..Default::default() }).await,
                [running.clone()]
            );
            let label_selector = labels(&[("case", &bench.name), ("name", "b")]);
            assert_eq!(ids(ContainerFilter { label_selector, ..Default::default() }).await, [created.clone()]);
            assert_eq!(
                ids(ContainerFilter { id: running[..13].into(), ..Default::default() }).await,
                [running.clone()]
            );
            let shown =
                containers(&bench, ContainerFilter { id: running.clone(), ..Default::default() }).await.remove(0);
            assert_eq!((shown.pod_sandbox_id, shown.image.unwrap().image.is_empty()), (pod, false));
            assert!(shown.image_ref.starts_with("sha256:"), "{}", shown.image_ref);
        }),
        case("short ids", |bench| async move {
            let (pod, id) = bench.running("sleep 1000").await;
            assert_eq!(bench.pod_status(&pod[..13]).await.unwrap().id, pod);
            assert_eq!(bench.status(&id[..13]).await.unwrap().id, id);
            bench.stop(&id[..13], 0).await.unwrap();
        }),
        case("ExecSync", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            let output = bench.exec(&id, "echo out; echo err >&2; exit 3", 10).await.unwrap();
            assert_eq!((&output.stdout[..], &output.stderr[..], output.exit_code), (&b"out\n"[..], &b"err\n"[..], 3));
            let output = bench.exec(&id, "head -c 300000 /dev/zero", 10).await.unwrap();
            assert_eq!(output.stdout.len(), 300_000);
            let empty = ExecSyncRequest { container_id: id.clone(), ..Default::default() };
            assert!(bench.runtime().await.exec_sync(empty).await.is_err());
            let none = ExecSyncRequest { container_id: id.clone(), cmd: vec!["/no/such".into()], timeout: 5 };
            assert!(bench.runtime().await.exec_sync(none).await.is_err());
            bench.stop(&id, 0).await.unwrap();
            assert!(bench.exec(&id, "true", 5).await.is_err(), "it has ended");
        }),
        case("stopping within the grace", |bench| async move {
            let (_, id) =
                bench.running("trap 'echo bye; exit 4' TERM; echo ready; while true; do sleep 0.1; done").await;
            bench.until("it is ready", async || bench.log("c").contains("ready")).await;
            let started = Instant::now();
            bench.stop(&id, 30).await.unwrap();
            assert!(started.elapsed() < Duration::from_secs(10));
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.exit_code, bench.log("c").contains("bye")), (4, true));
        }),
        case("killed after the grace", |bench| async move {
            let (_, id) = bench.running("trap '' TERM; echo ready; while true; do sleep 0.1; done").await;
            bench.until("it is ready", async || bench.log("c").contains("ready")).await;
            let started = Instant::now();
            bench.stop(&id, 2).await.unwrap();
            assert!(
                (Duration::from_secs(2)..Duration::from_secs(8)).contains(&started.elapsed()),
                "{:?}",
                started.elapsed()
            );
            assert_eq!(bench.status(&id).await.unwrap().exit_code, 137);
        }),
        case("stop signal of the image", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "trap 'exit 6' USR1; echo ready; while true; do sleep 0.1; done");
            asked.image = image("localhost/named:1");
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            bench.until("it is ready", async || bench.log("c").contains("ready")).await;
            bench.stop(&id, 20).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap().exit_code, 6);
        }),
        case("the image's command by default", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "");
            asked.command.clear();
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            bench.until("it speaks", async || bench.log("c") == "by default\n").await;
        }),
        case("who a container is", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "sleep 1000");
            asked.image = image("localhost/uid:1");
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            let user = bench.status(&id).await.unwrap().user.unwrap().linux.unwrap();
            assert_eq!((user.uid, user.gid), (33, 34));
            assert!(user.supplemental_groups.contains(&60), "{user:?}");
        }),
        case("log lines have times, streams and tags", |bench| async move {
            let (_, id) = bench.running("echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo").await;
            bench.ended(&id).await;
            let text = fs::read_to_string(bench.logs().join("c.log")).unwrap();
            let mut long = String::new();
            let mut seen = Vec::new();
            for line in text.lines() {
                let [time, stream, tag, words] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
                    panic!("{line:?}")
                };
                assert!(time.len() >= 20 && time.contains('T'), "{time}");
                assert!(["stdout", "stderr"].contains(&stream) && ["P", "F"].contains(&tag), "{line:?}");
                if words.starts_with('x') {
                    long += words;
                    seen.push(tag.to_owned());
                }
            }
            assert_eq!((long.len(), seen.first().map(String::as_str)), (20_000, Some("P")));
            assert_eq!(seen.last().map(String::as_str), Some("F"));
        }),
        case("a log goes on in a new file", |bench| async move {
            let (_, id) = bench.running("i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done").await;
            bench.until("it speaks", async || bench.log("c").contains("3\n")).await;
            fs::rename(bench.logs().join("c.log"), bench.logs().join("c.old")).unwrap();
            bench
                .runtime()
                .await
                .reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() })
                .await
                .unwrap();
            bench.until("the new file is written", async || bench.log("c").lines().count() > 2).await;
            bench.stop(&id, 0).await.unwrap();
            let reopen = ReopenContainerLogRequest { container_id: id };
            assert!(bench.runtime().await.reopen_container_log(reopen).await.is_err(), "it has ended");
        }),
        case("limits are changed", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            let linux = Some(LinuxContainerResources {
                memory_limit_in_bytes: 100 << 20,
                cpu_shares: 512,
                cpu_period: 100_000,
                cpu_quota: 50_000,
                ..Default::default()
            });
            let request = UpdateContainerResourcesRequest { container_id: id.clone(), linux, ..Default::default() };
            bench.runtime().await.update_container_resources(request).await.unwrap();
            let read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
            assert_eq!(bench.exec(&id, read, 5).await.unwrap().stdout, b"104857600\n");
            let set = bench.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
            assert_eq!((set.memory_limit_in_bytes, set.cpu_quota, set.cpu_shares), (100 << 20, 50_000, 512));
        }),
        case("containers of a pod share its network and IPC", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let server = bench.create(&pod, &of, bench.container("server", &serving(8080, "hello"))).await.unwrap();
            let other = bench.create(&pod, &of, bench.container("other", "sleep 1000")).await.unwrap();
            bench.start(&server).await.unwrap();
            bench.start(&other).await.unwrap();
            bench
                .until("one reaches the other", async || {
                    let output = bench.exec(&other, "echo | nc 127.0.0.1 8080", 5).await.unwrap();
                    output.stdout.ends_with(b"hello")
                })
                .await;
            for kind in ["net", "ipc", "uts"] {
                let link = format!("readlink /proc/self/ns/{kind}");
                let (one, two) =
                    (bench.exec(&server, &link, 5).await.unwrap(), bench.exec(&other, &link, 5).await.unwrap());
                assert_eq!(one.stdout, two.stdout, "{kind}");
            }
        }),
        case("processes of another container", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let target = bench.create(&pod, &of, bench.container("target", "sleep 1234")).await.unwrap();
            bench.start(&target).await.unwrap();
            let mut asked = bench.container("debugger", "ps; echo ended");
            let security = asked.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.namespace_options =
                Some(NamespaceOption { pid: NamespaceMode::Target.into(), target_id: target, ..Default::default() });
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            bench.ended(&id).await;
            bench.until("its log is there", async || bench.log("debugger").contains("ended")).await;
            assert!(bench.log("debugger").contains("sleep 1234"), "{}", bench.log("debugger"));
        }),
        case("pods reach each other", |bench| async move {
            let (one, _) = bench.running(&serving(8080, "hello")).await;
            let (_, other) = bench.running("sleep 1000").await;
            let ip = bench.pod_status(&one).await.unwrap().network.unwrap().ip;
            assert!(get(&format!("{ip}:8080")).await.ends_with("hello"));
            bench
                .until("from a pod", async || {
                    let output = bench.exec(&other, &format!("echo | nc {ip} 8080"), 5).await.unwrap();
                    output.stdout.ends_with(b"hello")
                })
                .await;
        }),
        case("a port of the host", |bench| async move {
            let mut of = bench.pod();
            of.port_mappings = vec![PortMapping { container_port: 8080, host_port: 18_080, ..Default::default() }];
            let pod = bench.run_pod(&of).await;
            let id = bench.create(&pod, &of, bench.container("c", &serving(8080, "hello"))).await.unwrap();
            bench.start(&id).await.unwrap();
            assert!(get("127.0.0.1:18080").await.ends_with("hello"));
            bench.stop_pod(&pod).await.unwrap();
            assert!(TcpStream::connect("127.0.0.1:18080").await.is_err(), "it is closed with the pod");
        }),
        case("the host's network has no address of its own", |bench| async move {
            let mut of = bench.pod();
            of.hostname.clear();
            let security = of.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
            let pod = bench.run_pod(&of).await;
            let status = bench.pod_status(&pod).await.unwrap();
            assert_eq!(status.network.map(|network| network.ip).unwrap_or_default(), "");
            assert_eq!(status.linux.unwrap().namespaces.unwrap().options.unwrap().network(), NamespaceMode::Node);
        }),
        case("devices by CDI", |bench| async move {
            let spec = "cdiVersion: 0.6.0\nkind: example.com/suite\ndevices:\n- name: one\n  containerEdits:\n    env: [GIVEN=one]\n    deviceNodes: [{path: /dev/given, hostPath: /dev/zero}]\n";
            std::fs::write("/var/run/cdi/suite.yaml", spec).unwrap();
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "echo $GIVEN; head -c 4 /dev/given | wc -c");
            asked.cdi_devices = vec![CdiDevice { name: "example.com/suite=one".into() }];
            let id = bench.create(&pod, &of, asked.clone()).await.unwrap();
            bench.start(&id).await.unwrap();
            bench.ended(&id).await;
            bench.until("it has both", async || bench.log("c") == "one\n4\n").await;
            asked.metadata.as_mut().unwrap().name = "other".into();
            asked.cdi_devices[0].name = "example.com/suite=two".into();
            let error = bench.create(&pod, &of, asked).await.unwrap_err();
            assert!(error.message().contains("unresolvable CDI devices example.com/suite=two"), "{error:?}");
        }),
        case("exec streams", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            let url = exec_url(&bench, &id, "cat; echo err >&2; exit 5", false, true).await;
            let (code, out, err) = talk(&url, Some("through"), false).await;
            assert_eq!((code, out.as_str(), err.as_str()), (Ok(5), "through", "err\n"));
            assert!(dial(&url, "v4.channel.k8s.io").await.is_err(), "a URL is good once");
            let url = exec_url(&bench, &id, "test -t 1 && echo terminal", true, false).await;
            let (code, out, _) = talk(&url, None, true).await;
            assert_eq!((code, out.trim()), (Ok(0), "terminal"));
            let url = exec_url(&bench, &id, "head -c 900000 /dev/zero", false, false).await;
            assert_eq!(talk(&url, None, false).await.1.len(), 900_000);
        }),
        case("attach streams", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "read line; echo got $line; exit 3");
            (asked.stdin, asked.stdin_once) = (true, true);
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            let request =
                AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
            let url = bench.runtime().await.attach(request).await.unwrap().into_inner().url;
            let (_, out, _) = talk(&url, Some("words\n"), false).await;
            assert_eq!(out, "got words\n");
            assert_eq!(bench.ended(&id).await.exit_code, 3);
            bench.until("it is logged, too", async || bench.log("c") == "got words\n").await;
        }),
        case("a port of a pod", |bench| async move {
            let (pod, _) = bench.running(&serving(8080, "hello")).await;
            let url = async || {
                let request = PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![8080] };
                bench.runtime().await.port_forward(request).await.unwrap().into_inner().url
            };
            bench
                .until("it answers", async || {
                    let connection = dial(&url().await, "portforward.k8s.io").await.unwrap();
                    let (mut data, _error) = streams::client::forward(connection, 8080).await.unwrap();
                    let _ = data.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
                    let mut text = String::new();
                    let _ = tokio::time::timeout(Duration::from_secs(5), data.read_to_string(&mut text)).await;
                    text.ends_with("hello")
                })
                .await;
            let connection = dial(&url().await, "portforward.k8s.io").await.unwrap();
            let (_data, mut error) = streams::client::forward(connection, 1).await.unwrap();
            let mut why = String::new();
            let _ = tokio::time::timeout(Duration::from_secs(5), error.read_to_string(&mut why)).await;
            assert!(why.contains("refused"), "{why:?}");
        }),
        case("numbers of containers and pods", |bench| async move {
            let (pod, id) = bench.running("head -c 1000000 /dev/zero > /file; while true; do :; done").await;
            let mut runtime = bench.runtime().await;
            let one = ContainerStatsRequest { container_id: id.clone() };
            let mut stats = runtime.container_stats(one.clone()).await.unwrap().into_inner().stats.unwrap();
            for _ in 0..100 {
                let used = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |used| used.value);
                let disk =
                    stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes).map_or(0, |used| used.value);
                if used > 50_000_000 && disk > 900_000 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                stats = runtime.container_stats(one.clone()).await.unwrap().into_inner().stats.unwrap();
            }
            assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 50_000_000);
            assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
            assert!(stats.writable_layer.unwrap().used_bytes.unwrap().value > 900_000);
            assert_eq!(stats.attributes.unwrap().metadata.unwrap().name, "c");
            let label_selector = labels(&[("case", &bench.name)]);
            let filter = Some(ContainerStatsFilter { label_selector: label_selector.clone(), ..Default::default() });
            let listed = runtime.list_container_stats(ListContainerStatsRequest { filter }).await.unwrap().into_inner();
            assert_eq!(listed.stats.len(), 1);
            let of_pod = PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
            let of_pod = runtime.pod_sandbox_stats(of_pod).await.unwrap().into_inner().stats.unwrap();
            let linux = of_pod.linux.unwrap();
            assert_eq!((of_pod.attributes.unwrap().id, linux.containers.len()), (pod, 1));
            assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
            let filter = Some(PodSandboxStatsFilter { label_selector, ..Default::default() });
            let listed =
                runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter }).await.unwrap().into_inner();
            assert_eq!(listed.stats.len(), 1);
        }),
        case("metrics are as described", |bench| async move {
            let (pod, id) = bench.running("sleep 1000").await;
            let mut runtime = bench.runtime().await;
            let described =
                runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner();
            let described: HashMap<String, usize> =
                described.descriptors.into_iter().map(|row| (row.name, row.label_keys.len())).collect();
            for name in [
                "container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
                "container_network_receive_bytes_total", "container_fs_usage_bytes",
            ] {
                assert!(described.contains_key(name), "{name}");
            }
            let metrics = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
            let own = metrics.pod_metrics.into_iter().find(|metrics| metrics.pod_sandbox_id == pod).unwrap();
            let of = own.container_metrics.into_iter().find(|metrics| metrics.container_id == id).unwrap();
            assert!(of.metrics.iter().any(|metric| metric.name == "container_memory_working_set_bytes"));
            for metric in own.metrics.iter().chain(&of.metrics) {
                assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
            }
        }),
        case("events", |bench| async move {
            let mut events =
                bench.runtime().await.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (pod, id) = bench.running("exit 3").await;
            bench.ended(&id).await;
            bench.remove(&id).await.unwrap();
            bench.stop_pod(&pod).await.unwrap();
            bench.remove_pod(&pod).await.unwrap();
            let mut seen: Vec<(bool, ContainerEventType)> = Vec::new();
            while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_secs(5), events.message()).await {
                if event.container_id != id && event.container_id != pod {
                    continue;
                }
                if event.container_id == id && event.container_event_type() == ContainerEventType::ContainerStoppedEvent
                {
                    let status = event.containers_statuses.iter().find(|status| status.id == id).unwrap();
                    assert_eq!(status.exit_code, 3);
                    assert_eq!(event.pod_sandbox_status.as_ref().unwrap().id, pod);
                }
                let last = event.container_id == pod
                    && event.container_event_type() == ContainerEventType::ContainerDeletedEvent;
                seen.push((event.container_id == pod, event.container_event_type()));
                if last {
                    break;
                }
            }
            use ContainerEventType::*;
            for wanted in [
                (true, ContainerStartedEvent),
                (false, ContainerCreatedEvent),
                (false, ContainerStartedEvent),
                (false, ContainerStoppedEvent),
                (false, ContainerDeletedEvent),
                (true, ContainerStoppedEvent),
                (true, ContainerDeletedEvent),
            ] {
                assert_eq!(seen.iter().filter(|event| **event == wanted).count(), 1, "{wanted:?} in {seen:?}");
            }
        }),
        case("what is not offered says so", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            let request = CheckpointContainerRequest { container_id: id, location: "/tmp/none".into(), timeout: 1 };
            let error = bench.runtime().await.checkpoint_container(request).await.unwrap_err();
            assert_eq!(error.code(), Code::Unimplemented);
        }),
        case("lists in pieces", |bench| async move {
            // Newer than k8s-cri: by the messages of our own facts.
            let (pod, id) = bench.running("sleep 1000").await;
            let channel = rpc::connect(&bench.peer.socket, Duration::from_secs(5)).await.unwrap();
            let mut runtime = rpc::cri::runtime_service_client::RuntimeServiceClient::new(channel.clone());
            let filter = |id: &str| rpc::cri::PodSandboxFilter { id: id.into(), ..Default::default() };
            let request = rpc::cri::StreamPodSandboxesRequest { filter: Some(filter(&pod)) };
            let mut pods = runtime.stream_pod_sandboxes(request).await.unwrap().into_inner();
            assert_eq!(pods.message().await.unwrap().unwrap().pod_sandboxes[0].id, pod);
            let filter = rpc::cri::ContainerFilter { id: id.clone(), ..Default::default() };
            let request = rpc::cri::StreamContainersRequest { filter: Some(filter) };
            let mut containers = runtime.stream_containers(request).await.unwrap().into_inner();
            assert_eq!(containers.message().await.unwrap().unwrap().containers[0].id, id);
            let mut stats = runtime
                .stream_container_stats(rpc::cri::StreamContainerStatsRequest::default())
                .await
                .unwrap()
                .into_inner();
            assert!(stats.message().await.unwrap().is_some());
            let mut images = rpc::cri::image_service_client::ImageServiceClient::new(channel);
            let mut images = images.stream_images(rpc::cri::StreamImagesRequest::default()).await.unwrap().into_inner();
            assert!(!images.message().await.unwrap().unwrap().images.is_empty());
            let request = rpc::cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod, ..Default::default() };
            runtime.update_pod_sandbox_resources(request).await.unwrap();
        }),
    ];
    all.extend(of_images());
    all.extend(propagation());
    all
}

fn of_images() -> Vec<Case> {
    vec![
        case("images are found and listed", |bench| async move {
            let found = find_image(&bench, IMAGE).await.unwrap();
            assert!(found.id.starts_with("sha256:") && found.size > 0);
            assert!(found.repo_tags.contains(&IMAGE.to_owned()), "{:?}", found.repo_tags);
            assert_eq!(find_image(&bench, &found.id).await.unwrap().id, found.id);
            assert!(find_image(&bench, "localhost/none:1").await.is_none());
            let mut images = bench.peer.images().await;
            let all = images.list_images(ListImagesRequest { filter: None }).await.unwrap().into_inner().images;
            assert!(all.len() >= 4);
            let filter = Some(ImageFilter { image: image(IMAGE) });
            let some = images.list_images(ListImagesRequest { filter }).await.unwrap().into_inner().images;
            assert_eq!(some.iter().map(|image| &image.id).collect::<Vec<_>>(), [&found.id]);
            let none = Some(ImageFilter { image: image("localhost/none:1") });
            assert!(
                images.list_images(ListImagesRequest { filter: none }).await.unwrap().into_inner().images.is_empty()
            );
            assert!(images.image_status(ImageStatusRequest::default()).await.is_err());
        }),
        case("users of images", |bench| async move {
            let uid = find_image(&bench, "localhost/uid:1").await.unwrap();
            assert_eq!((uid.uid.map(|uid| uid.value), uid.username.as_str()), (Some(33), ""));
            let named = find_image(&bench, "localhost/named:1").await.unwrap();
            assert_eq!((named.uid, named.username.as_str()), (None, "web"));
        }),
        case("an image is pulled, used and removed", |bench| async move {
            let name = format!("{}/pulled:1", bench.registry);
            let mut images = bench.peer.images().await;
            let pull = PullImageRequest { image: image(&name), ..Default::default() };
            let reference = images.pull_image(pull.clone()).await.unwrap().into_inner().image_ref;
            let found = find_image(&bench, &name).await.unwrap();
            assert!(reference == found.id || found.repo_digests.contains(&reference), "{reference}");
            assert!(found.repo_tags.contains(&name) && found.repo_digests[0].starts_with(&bench.registry));
            assert_eq!(find_image(&bench, &found.repo_digests[0]).await.unwrap().id, found.id);
            images.pull_image(pull).await.unwrap();
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "echo pulled");
            asked.image = image(&found.id);
            let id = bench.create(&pod, &of, asked).await.unwrap();
            let status = bench.status(&id).await.unwrap();
            assert_eq!((status.image_id, status.image_ref), (found.id.clone(), found.repo_digests[0].clone()));
            let remove = RemoveImageRequest { image: image(&found.id) };
            images.remove_image(remove.clone()).await.unwrap();
            assert!(find_image(&bench, &name).await.is_none());
            images.remove_image(remove).await.unwrap();
            bench.start(&id).await.unwrap();
            assert_eq!(bench.ended(&id).await.exit_code, 0, "its layers stay as long as its containers");
            let by_digest = PullImageRequest { image: image(&found.repo_digests[0]), ..Default::default() };
            images.pull_image(by_digest).await.unwrap();
            assert_eq!(find_image(&bench, &found.repo_digests[0]).await.unwrap().id, found.id);
            images.remove_image(RemoveImageRequest { image: image(&found.id) }).await.unwrap();
        }),
        case("images that are nowhere", |bench| async move {
            let mut images = bench.peer.images().await;
            let pull = |name: String| PullImageRequest { image: image(&name), ..Default::default() };
            let missing = images.pull_image(pull(format!("{}/none:1", bench.registry))).await.unwrap_err();
            assert_eq!(missing.code(), Code::NotFound, "{missing:?}");
            assert!(images.pull_image(pull("Not/A/Name::".into())).await.is_err());
            assert!(images.pull_image(pull("127.0.0.1:1/x:1".into())).await.is_err());
        }),
        case("what images take", |bench| async move {
            let info = bench.peer.images().await.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
            let first = &info.image_filesystems[0];
            assert!(first.used_bytes.as_ref().unwrap().value > 0 && first.timestamp > 0);
            assert!(fs::metadata(&first.fs_id.as_ref().unwrap().mountpoint).is_ok());
        }),
        case("many pulls of one image", |bench| async move {
            let name = format!("{}/pulled:1", bench.registry);
            let mut pulls = Vec::new();
            for _ in 0..5 {
                let (bench, name) = (bench.clone(), name.clone());
                pulls.push(tokio::spawn(async move {
                    let pull = PullImageRequest { image: image(&name), ..Default::default() };
                    bench.peer.images().await.pull_image(pull).await.unwrap().into_inner().image_ref
                }));
            }
            let mut references = Vec::new();
            for pull in pulls {
                references.push(pull.await.unwrap());
            }
            references.dedup();
            assert_eq!(references.len(), 1);
            bench.peer.images().await.remove_image(RemoveImageRequest { image: image(&name) }).await.unwrap();
        }),
    ]
}

/// Of mounts that are made after the container has begun, on either side.
fn propagation() -> Vec<Case> {
    let kinds = [
        ("private", MountPropagation::PropagationPrivate, false, false),
        ("from the host", MountPropagation::PropagationHostToContainer, true, false),
        ("both ways", MountPropagation::PropagationBidirectional, true, true),
    ];
    let one = |(name, kind, into, out): (&'static str, MountPropagation, bool, bool)| {
        case(&format!("mount propagation {name}"), move |bench: Arc<Bench>| async move {
            let host = bench.peer.dir.join("shared").join(&bench.name);
            fs::create_dir_all(host.join("late")).unwrap();
            fs::create_dir_all(host.join("own")).unwrap();
            let mount = |words: &[&str]| {
                assert!(std::process::Command::new("mount").args(words).arg(&host).status().unwrap().success());
            };
            mount(&["--bind", host.to_str().unwrap()]);
            mount(&["--make-shared"]);
            let mut of = bench.pod();
            of.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
            let pod = bench.run_pod(&of).await;
            let mut asked = bench.container("c", "sleep 1000");
            asked.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
            asked.mounts = vec![Mount {
                host_path: host.to_string_lossy().into_owned(),
                container_path: "/data".into(),
                propagation: kind.into(),
                ..Default::default()
            }];
            let id = bench.create(&pod, &of, asked).await.unwrap();
            bench.start(&id).await.unwrap();
            let tmpfs =
                std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(host.join("late")).status();
            assert!(tmpfs.unwrap().success());
            fs::write(host.join("late/file"), "x").unwrap();
            let seen = bench.exec(&id, "ls /data/late", 5).await.unwrap();
            assert_eq!(seen.stdout == b"file\n", into, "from the host: {seen:?}");
            let script = "mount -t tmpfs none /data/own && touch /data/own/file";
            assert_eq!(bench.exec(&id, script, 5).await.unwrap().exit_code, 0);
            assert_eq!(host.join("own/file").exists(), out, "to the host");
            bench.stop_pod(&pod).await.unwrap();
            for point in [host.join("own"), host.join("late"), host.clone()] {
                let _ = std::process::Command::new("umount").arg("-q").arg(point).status();
            }
        })
    };
    kinds.into_iter().map(one).collect()
}
