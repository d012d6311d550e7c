use schema::api::core::v1::{ExecAction, Lifecycle, LifecycleHandler, Probe, ProbeHandler};

use super::*;
use crate::{objects::lock, ports::PullError};

fn waiting(pod: &Pod) -> String {
    pod.status
        .container_statuses
        .first()
        .and_then(|status| status.state.waiting.as_ref())
        .map(|waiting| waiting.reason.clone())
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_ends() {
    let world = World::new("runs");
    world.api.put(&pod("web", vec![container("app")]));
    let ready = world.until("web", "ready", is_ready).await;
    assert_eq!(ready.status.phase, "Running");
    assert_eq!(ready.status.pod_ip, "10.42.0.7");
    assert_eq!(ready.status.host_ip, "192.0.2.1");
    let status = &ready.status.container_statuses[0];
    assert!(status.container_id.starts_with("sampan://"), "{}", status.container_id);
    assert_eq!(
        (status.started, status.ready, status.restart_count, &*status.image_id),
        (Some(true), true, 0, "app:1@sha256:d1")
    );
    let types: Vec<&str> = ready.status.conditions.iter().map(|condition| &*condition.r#type).collect();
    assert_eq!(types, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
    let hosts = std::fs::read_to_string(world.path("kubelet/pods/uid-web/etc-hosts")).expect("a file");
    assert!(hosts.ends_with("10.42.0.7\tweb\n"), "{hosts}");
    world.settle().await;
    assert_eq!(world.reasons(), ["Pulled", "Created", "Started"]);
    let asked = world.machine.now();
    world.api.delete_pod("default", "web", 30, EPOCH / 1_000_000_000);
    world.until_gone("web").await;
    assert!(world.machine.now() - asked < 1_000_000_000, "no step waits for a timer");
    world.settle().await;
    assert_eq!(world.machine.log().last().map(String::as_str), Some("remove uid-web"));
    assert!(!world.path("kubelet/pods/uid-web").exists() && !world.path("logs/default_web_uid-web").exists());
    assert!(lock(&world.machine.state).cgroups.iter().all(|cgroup| !cgroup.contains("uid-web")));
    assert_eq!(world.kubelet.pods(), 0, "no worker stays");
}

#[tokio::test(start_paused = true)]
async fn crashes_are_backed_off_and_counted() {
    let world = World::new("crashes");
    world.api.put(&pod("web", vec![container("app")]));
    world.until("web", "ready", is_ready).await;
    world.machine.exit("uid-web", "app", 3);
    // The first restart is at once.
    world.until("web", "restarted", |pod| pod.status.container_statuses[0].restart_count == 1 && is_ready(pod)).await;
    world.machine.exit("uid-web", "app", 3);
    let waits = world.until("web", "back-off", |pod| waiting(pod) == "CrashLoopBackOff").await;
    let message = waits.status.container_statuses[0].state.waiting.clone().expect("waits").message;
    assert_eq!(message, "back-off 10s restarting failed container=app pod=web_default(uid-web)");
    assert_eq!(waits.status.container_statuses[0].last_state.terminated.clone().expect("ended").exit_code, 3);
    assert_eq!(waits.status.phase, "Running");
    let before = world.machine.now();
    world.until("web", "restarted", |pod| pod.status.container_statuses[0].restart_count == 2 && is_ready(pod)).await;
    let waited = (world.machine.now() - before) / 1_000_000_000;
    assert!((9..=11).contains(&waited), "{waited} s");
    assert!(world.reasons().contains(&"BackOff".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_job_pod_succeeds_or_fails() {
    let world = World::new("jobs");
    for (name, code, phase) in [("good", 0, "Succeeded"), ("bad", 7, "Failed")] {
        let mut pod = pod(name, vec![container("app")]);
        pod.spec.restart_policy = "Never".into();
        world.api.put(&pod);
        world.until(name, "running", is_ready).await;
        world.machine.exit(&format!("uid-{name}"), "app", code);
        let ended = world.until(name, "ended", |pod| pod.status.phase == phase).await;
        let terminated = ended.status.container_statuses[0].state.terminated.clone().expect("ended");
        assert_eq!((terminated.exit_code, &*terminated.reason), (code, if code == 0 { "Completed" } else { "Error" }));
        assert!(!is_ready(&ended));
    }
    world.settle().await;
    assert!(world.machine.log().contains(&"stop sandbox uid-good".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn init_containers_and_sidecars_in_order() {
    let world = World::new("init");
    let mut pod = pod("web", vec![container("app")]);
    let sidecar = Container { restart_policy: Some("Always".into()), ..container("side") };
    pod.spec.init_containers = vec![container("first"), sidecar, container("second")];
    world.api.put(&pod);
    let initializing = world
        .until("web", "first runs", |pod| {
            pod.status.init_container_statuses.first().is_some_and(|s| s.state.running.is_some())
        })
        .await;
    assert_eq!(waiting(&initializing), "PodInitializing");
    assert_eq!(initializing.status.phase, "Pending");
    world.machine.exit("uid-web", "first", 0);
    world
        .until("web", "second runs", |pod| {
            pod.status.init_container_statuses.get(2).is_some_and(|s| s.state.running.is_some())
        })
        .await;
    world.machine.exit("uid-web", "second", 0);
    world.until("web", "ready", is_ready).await;
    let created: Vec<String> = world.machine.log().into_iter().filter(|line| line.starts_with("create")).collect();
    assert_eq!(created, ["create first 0", "create side 0", "create second 0", "create app 0"]);
    world.api.delete_pod("default", "web", 30, EPOCH / 1_000_000_000);
    world.until_gone("web").await;
    let stopped: Vec<String> =
        world.machine.log().into_iter().filter(|line| line.starts_with("stop ") && !line.contains("sandbox")).collect();
    assert_eq!(stopped, ["stop app 30", "stop side 30"]);
}

#[tokio::test(start_paused = true)]
async fn pulls_fail_and_are_tried_again() {
    let world = World::new("pulls");
    lock(&world.machine.state).broken.insert("gone:1".into(), PullError::Failed("no such image".into()));
    world.api.put(&pod("web", vec![Container { image: "gone:1".into(), ..container("app") }]));
    world.until("web", "failed", |pod| waiting(pod) == "ErrImagePull").await;
    let backed_off = world.until("web", "back-off", |pod| waiting(pod) == "ImagePullBackOff").await;
    let message = backed_off.status.container_statuses[0].state.waiting.clone().expect("waits").message;
    assert_eq!(message, "Back-off pulling image \"gone:1\": ErrImagePull: no such image");
    lock(&world.machine.state).broken.clear();
    world.until("web", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn probes_hooks_and_grace() {
    let world = World::new("probes");
    let exec =
        |line: &str| ExecAction { command: line.split(' ').map(str::to_owned).collect(), ..ExecAction::default() };
    let probe = |line: &str| Probe {
        handler: ProbeHandler { exec: Some(exec(line)), ..ProbeHandler::default() },
        period_seconds: 1,
        ..Probe::default()
    };
    let app = Container {
        startup_probe: Some(probe("is started")),
        readiness_probe: Some(probe("is ready")),
        liveness_probe: Some(probe("is alive")),
        lifecycle: Some(Lifecycle {
            post_start: Some(LifecycleHandler { exec: Some(exec("after start")), ..LifecycleHandler::default() }),
            pre_stop: Some(LifecycleHandler { exec: Some(exec("before stop")), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        ..container("app")
    };
    lock(&world.machine.state).commands.extend([("is ready".to_owned(), 1)]);
    world.api.put(&pod("web", vec![app]));
    let started = world
        .until("web", "started", |pod| pod.status.container_statuses.first().is_some_and(|s| s.started == Some(true)))
        .await;
    assert!(!is_ready(&started));
    lock(&world.machine.state).commands.clear();
    world.until("web", "ready", is_ready).await;
    lock(&world.machine.state).commands.insert("is alive".into(), 1);
    world.until("web", "restarted", |pod| pod.status.container_statuses[0].restart_count == 1).await;
    lock(&world.machine.state).commands.clear();
    let log = world.machine.log();
    let at = |line: &str| log.iter().position(|entry| entry == line).unwrap_or_else(|| panic!("{line} in {log:?}"));
    assert!(at("exec app after start") < at("exec app before stop") && at("exec app before stop") < at("stop app 30"));
    world.settle().await;
    assert!(world.reasons().contains(&"Unhealthy".to_owned()) && world.reasons().contains(&"Killing".to_owned()));
}
