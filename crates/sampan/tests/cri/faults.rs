//! What goes wrong in between: callers that vanish, deadlines, two at once, a runtime that is killed.

use std::time::{Duration, Instant};

use k8s_cri::v1::*;
use tonic::Code;

use crate::{Case, case};

pub fn all() -> Vec<Case> {
    vec![
        case("a dropped call leaves nothing half-made", |bench| async move {
            let of = bench.pod();
            for patience_ms in [1, 5, 20, 60] {
                let mut runtime = bench.runtime().await;
                let request = RunPodSandboxRequest { config: Some(of.clone()), ..Default::default() };
                let call = runtime.run_pod_sandbox(request);
                let _ = tokio::time::timeout(Duration::from_millis(patience_ms), call).await;
                // The connection goes with the client. A pod that came to be is whole, or gone.
                drop(runtime);
                tokio::time::sleep(Duration::from_millis(1500)).await;
                let filter = Some(PodSandboxFilter {
                    label_selector: [("case".to_owned(), bench.name.clone())].into(),
                    ..Default::default()
                });
                let mut runtime = bench.runtime().await;
                let left = runtime.list_pod_sandbox(ListPodSandboxRequest { filter }).await.unwrap().into_inner().items;
                for pod in left {
                    let status = bench.pod_status(&pod.id).await.unwrap();
                    assert_eq!(status.state(), PodSandboxState::SandboxReady);
                    assert!(!status.network.unwrap().ip.is_empty());
                    bench.stop_pod(&pod.id).await.unwrap();
                    bench.remove_pod(&pod.id).await.unwrap();
                }
                let pod = bench.run_pod(&of).await;
                bench.stop_pod(&pod).await.unwrap();
                bench.remove_pod(&pod).await.unwrap();
            }
        }),
        case("ExecSync ends at its deadline", |bench| async move {
            let (_, id) = bench.running("sleep 1000").await;
            let started = Instant::now();
            let late = bench.exec(&id, "echo begun > /tmp/late; sleep 500.25", 1).await.unwrap_err();
            assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
            assert!(started.elapsed() < Duration::from_secs(10));
            bench
                .until("its process is gone", async || {
                    let seen = bench.exec(&id, "ps | grep -c '[5]00.25'", 5).await.unwrap();
                    seen.stdout.starts_with(b"0")
                })
                .await;
            assert_eq!(bench.status(&id).await.unwrap().state(), ContainerState::ContainerRunning);
        }),
        case("a caller's own deadline", |bench| async move {
            let (_, id) = bench.running("trap '' TERM; while true; do sleep 1; done").await;
            let mut runtime = bench.runtime().await;
            let mut request = tonic::Request::new(StopContainerRequest { container_id: id.clone(), timeout: 3 });
            request.set_timeout(Duration::from_millis(300));
            let late = runtime.stop_container(request).await.unwrap_err();
            assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&late.code()), "{late:?}");
            // Asked again, it is stopped.
            bench.stop(&id, 0).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap().state(), ContainerState::ContainerExited);
        }),
        case("stopped and removed by many at once", |bench| async move {
            let (pod, id) = bench.running("sleep 1000").await;
            let mut calls = Vec::new();
            for number in 0..12 {
                let (bench, pod, id) = (bench.clone(), pod.clone(), id.clone());
                calls.push(tokio::spawn(async move {
                    match number % 4 {
                        0 => bench.stop(&id, 0).await,
                        1 => bench.remove(&id).await,
                        2 => bench.stop_pod(&pod).await,
                        _ => bench.exec(&id, "true", 5).await.map(drop).or(Ok(())),
                    }
                }));
            }
            let mut refused = Vec::new();
            for call in calls {
                refused.extend(call.await.unwrap().err());
            }
            // Who came between two others may be told so; nobody hangs, and in the end all is gone.
            bench.stop_pod(&pod).await.unwrap();
            bench.remove_pod(&pod).await.unwrap();
            assert_eq!(bench.status(&id).await.unwrap_err().code(), Code::NotFound, "{refused:?}");
        }),
        case("one name is made once", |bench| async move {
            let of = bench.pod();
            let mut calls = Vec::new();
            for _ in 0..6 {
                let (bench, of) = (bench.clone(), of.clone());
                calls.push(tokio::spawn(async move {
                    let request = RunPodSandboxRequest { config: Some(of), ..Default::default() };
                    bench.runtime().await.run_pod_sandbox(request).await.is_ok()
                }));
            }
            let mut made = 0;
            for call in calls {
                made += usize::from(call.await.unwrap());
            }
            assert_eq!(made, 1);
        }),
        case("killed between create and start", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let id = bench.create(&pod, &of, bench.container("c", "echo alive; sleep 1000")).await.unwrap();
            bench.peer.kill();
            bench.peer.start().await.unwrap();
            let status = bench.pod_status(&pod).await.unwrap();
            assert_eq!(status.state(), PodSandboxState::SandboxReady);
            assert!(!status.network.unwrap().ip.is_empty(), "its addresses are known");
            assert_eq!(bench.status(&id).await.unwrap().state(), ContainerState::ContainerCreated);
            bench.start(&id).await.unwrap();
            bench.until("it speaks", async || bench.log("c") == "alive\n").await;
        }),
        case("killed while containers run and end", |bench| async move {
            let of = bench.pod();
            let pod = bench.run_pod(&of).await;
            let script = "i=0; while test $i -lt 30; do echo $i; i=$((i+1)); sleep 0.1; done; exit 5";
            let counting = bench.create(&pod, &of, bench.container("counting", script)).await.unwrap();
            let staying = bench.create(&pod, &of, bench.container("staying", "sleep 1000")).await.unwrap();
            bench.start(&counting).await.unwrap();
            bench.start(&staying).await.unwrap();
            bench.peer.kill();
            tokio::time::sleep(Duration::from_secs(4)).await;
            bench.peer.start().await.unwrap();
            let ended = bench.ended(&counting).await;
            assert_eq!((ended.exit_code, ended.reason.as_str()), (5, "Error"));
            assert!(ended.finished_at > ended.started_at && ended.started_at > 0);
            assert_eq!(bench.status(&staying).await.unwrap().state(), ContainerState::ContainerRunning);
            let output = bench.exec(&staying, "echo here", 5).await.unwrap();
            assert_eq!(output.stdout, b"here\n");
            let wanted: String = (0..30).map(|number| format!("{number}\n")).collect();
            assert_eq!(bench.log("counting"), wanted, "no line of the log is lost");
        }),
    ]
}
