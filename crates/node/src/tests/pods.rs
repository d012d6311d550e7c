use schema::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use schema::api::core::v1::{
    ClusterTrustBundleProjection, ExecAction, ImageVolumeSource, Lifecycle, LifecycleHandler, Probe, ProbeHandler,
    ProjectedVolumeSource, Volume, VolumeProjection, VolumeSource,
};
use schema::api::meta::v1::LabelSelector;
use schema::api::node::v1::RuntimeClass;

use super::*;
use crate::objects::lock;
use crate::ports::{ImageMount, PullError};

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
    let text = world.kubelet.own_metrics();
    for (code, reason) in [(0, "Completed"), (7, "Error")] {
        let labels = format!("container_type=\"container\",exit_code=\"{code}\",reason=\"{reason}\"");
        let line = format!("kubelet_terminated_containers_total{{{labels}}} 1");
        assert!(text.lines().any(|of| of == line), "{line}: {text}");
    }
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
    world.api.put(&pod("web", vec![Container { image: "gone:1".into(), ..container("app") }, container("other")]));
    world.until("web", "failed", |pod| waiting(pod) == "ErrImagePull").await;
    let half = |pod: &Pod| pod.status.container_statuses[1].state.running.is_some();
    let pending = world.until("web", "half", half).await;
    assert_eq!(pending.status.phase, "Pending", "a container that never ran keeps the pod from running");
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

fn command(line: &str) -> ExecAction {
    ExecAction { command: line.split(' ').map(str::to_owned).collect(), ..ExecAction::default() }
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_holds_back_what_follows() {
    let world = World::new("hook");
    let hook = LifecycleHandler { exec: Some(command("wait for it")), ..LifecycleHandler::default() };
    let lifecycle = Lifecycle { post_start: Some(hook), ..Lifecycle::default() };
    let proxy = Container { lifecycle: Some(lifecycle), ..container("proxy") };
    lock(&world.machine.state).endless.insert("wait for it".into());
    world.api.put(&pod("web", vec![container("first"), proxy, container("app")]));
    let told = |pod: &Pod, of: usize| pod.status.container_statuses.get(of).cloned().unwrap_or_default();
    world.until("web", "first runs", |pod| told(pod, 0).state.running.is_some()).await;
    world.settle().await;
    let waits = world.api.get::<Pod>("default", "web").expect("a pod");
    for of in [1, 2] {
        let state = told(&waits, of).state.waiting.expect("waits");
        assert_eq!((&*state.reason, told(&waits, of).started), ("ContainerCreating", Some(false)), "{of}");
    }
    assert!(world.machine.config("proxy").is_some() && world.machine.config("app").is_none());
    assert_eq!(waits.status.phase, "Pending");
    lock(&world.machine.state).endless.clear();
    world.until("web", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_image_takes_a_new_container_and_nobody_is_told_of_the_gap() {
    let world = World::new("image");
    let mut pod = pod("web", vec![container("app")]);
    world.api.put(&pod);
    world.until("web", "ready", is_ready).await;
    pod = world.api.get("default", "web").expect("a pod");
    pod.spec.containers[0].image = "app:2".into();
    world.api.put(&pod);
    let seen = std::cell::RefCell::new(Vec::new());
    let restarted = |pod: &Pod| {
        seen.borrow_mut().push(is_ready(pod));
        pod.status.container_statuses[0].restart_count == 1
    };
    let pod = world.until("web", "restarted", restarted).await;
    assert!(is_ready(&pod) && seen.borrow().iter().all(|ready| *ready), "{seen:?}");
    let status = &pod.status.container_statuses[0];
    assert_eq!(status.last_state.terminated.clone().expect("ended").exit_code, 143);
    assert_eq!((&*status.image, &*status.image_id), ("app:2", "app:2@sha256:d1"));
    assert_eq!(world.machine.config("app").expect("made").image_id, "sha256:app:2");
}

#[tokio::test(start_paused = true)]
async fn each_run_looks_for_its_image_as_the_policy_says() {
    let world = World::new("policy");
    world.api.put(&pod("web", vec![Container { image_pull_policy: "Always".into(), ..container("app") }]));
    world.until("web", "ready", is_ready).await;
    world.machine.exit("uid-web", "app", 1);
    world.until("web", "restarted", |pod| pod.status.container_statuses[0].restart_count == 1 && is_ready(pod)).await;
    assert_eq!(world.machine.log().iter().filter(|line| *line == "pull app:1").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_made_says_nothing() {
    let world = World::new("errored");
    let probe = Probe {
        handler: ProbeHandler { exec: Some(command("is alive")), ..ProbeHandler::default() },
        period_seconds: 1,
        failure_threshold: 1,
        ..Probe::default()
    };
    lock(&world.machine.state).no_commands.insert("is alive".into());
    world.api.put(&pod("web", vec![Container { liveness_probe: Some(probe), ..container("app") }]));
    world.until("web", "ready", is_ready).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pod = world.api.get::<Pod>("default", "web").expect("a pod");
    assert_eq!(pod.status.container_statuses[0].restart_count, 0);
    let wanted =
        "Liveness probe errored and resulted in unknown state: exec: \"is alive\": executable file not found in $PATH";
    let messages: Vec<String> = world.api.all::<Event>().into_iter().map(|event| event.message).collect();
    assert!(messages.iter().any(|message| message == wanted), "{messages:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_words_are_the_end_of_what_was_said() {
    let world = World::new("words");
    let mut pod = pod("job", vec![container("app"), container("b"), container("c"), container("d")]);
    pod.spec.restart_policy = "Never".into();
    world.api.put(&pod);
    world.until("job", "running", is_ready).await;
    let log = world.path("kubelet/pods/uid-job/containers/app/00000000");
    std::fs::write(&log, format!("{}{}", "a".repeat(4000), "z".repeat(3000))).expect("a file");
    world.machine.exit("uid-job", "app", 1);
    let ended = |pod: &Pod| pod.status.container_statuses[0].state.terminated.clone();
    let pod = world.until("job", "ended", |pod| ended(pod).is_some()).await;
    // 4096 bytes of the end, of which the share of one container of four is shown.
    let message = ended(&pod).expect("ended").message;
    assert_eq!((message.len(), message.matches('a').count()), (3072, 1096));
}

#[tokio::test(start_paused = true)]
async fn sandboxes_that_cannot_be() {
    let world = World::new("sandboxes");
    let class = |name: &str, handler: &str| RuntimeClass {
        metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
        handler: handler.into(),
        ..RuntimeClass::default()
    };
    world.api.put(&class("plain", "runc"));
    world.api.put(&class("vm", "kata"));
    let long = "a".repeat(40);
    type Change<'a> = &'a dyn Fn(&mut Pod);
    let rows: [(&str, Change<'_>, Option<&str>); 5] = [
        ("plain", &|pod| pod.spec.runtime_class_name = Some("plain".into()), None),
        ("vm", &|pod| pod.spec.runtime_class_name = Some("vm".into()), Some("no runtime for \"kata\" is configured")),
        ("gone", &|pod| pod.spec.runtime_class_name = Some("gone".into()), Some("failed to look up RuntimeClass gone")),
        (
            "mapped",
            &|pod| pod.spec.host_users = Some(false),
            Some("can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
        ),
        (
            "long",
            &|pod| {
                pod.spec.hostname = long.clone();
                pod.spec.subdomain = "sub".into();
                pod.spec.set_hostname_as_fqdn = Some(true);
            },
            Some("sub.default.svc.cluster.local is too long (64 characters is the max, 70 characters requested)"),
        ),
    ];
    for (name, change, why) in rows {
        let mut pod = pod(name, vec![container("app")]);
        change(&mut pod);
        world.api.put(&pod);
        let Some(why) = why else {
            world.until(name, "ready", is_ready).await;
            continue;
        };
        world.settle().await;
        let said = |event: &Event| {
            event.involved_object.name == name
                && event.reason == "FailedCreatePodSandBox"
                && event.message.contains(why)
        };
        assert!(world.api.all::<Event>().iter().any(said), "{name}: {:?}", world.api.all::<Event>());
        assert_eq!(world.api.get::<Pod>("default", name).expect("a pod").status.phase, "Pending", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_a_volume() {
    let world = World::new("image-volume");
    let mut pod = pod("web", vec![container("app")]);
    for (name, reference, sub_path) in [("data", "data:1", ""), ("theirs", "theirs:1", "some/where")] {
        let image = ImageVolumeSource { reference: reference.into(), ..ImageVolumeSource::default() };
        pod.spec.volumes.push(Volume {
            name: name.into(),
            volume_source: VolumeSource { image: Some(image), ..VolumeSource::default() },
            ..Volume::default()
        });
        pod.spec.containers[0].volume_mounts.push(schema::api::core::v1::VolumeMount {
            name: name.into(),
            mount_path: format!("/{name}"),
            sub_path: sub_path.into(),
            ..Default::default()
        });
    }
    lock(&world.machine.state).broken.insert("data:1".into(), PullError::Failed("no such image".into()));
    world.api.put(&pod);
    world.until("web", "failed", |pod| waiting(pod) == "ErrImagePull").await;
    world.until("web", "back-off", |pod| waiting(pod) == "ImagePullBackOff").await;
    lock(&world.machine.state).broken.clear();
    world.until("web", "ready", is_ready).await;
    assert!(world.machine.log().contains(&"mount sha256:data:1 for uid-web at true".to_owned()));
    let mounts = world.machine.config("app").expect("made").mounts;
    assert!(mounts.iter().any(|mount| mount.container_path.ends_with("data") && mount.readonly), "{mounts:?}");
    // One that its runtime mounts.
    let theirs = mounts.iter().find(|mount| mount.container_path.ends_with("theirs") && mount.readonly);
    let (id, reference, sub_path) = ("sha256:theirs:1".into(), "theirs:1".into(), "some/where".into());
    assert_eq!(theirs.and_then(|of| of.image.clone()), Some(ImageMount { id, reference, sub_path }), "{mounts:?}");
    assert_eq!(theirs.map(|of| of.host_path.as_os_str().len()), Some(0));
}

#[tokio::test(start_paused = true)]
async fn trust_bundles_are_files() {
    let world = World::new("anchors");
    let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let bundle = |name: &str, signer: &str, colour: &str, text: String| ClusterTrustBundle {
        metadata: ObjectMeta {
            name: name.into(),
            labels: [("colour".to_owned(), colour.to_owned())].into(),
            ..ObjectMeta::default()
        },
        spec: ClusterTrustBundleSpec { signer_name: signer.into(), trust_bundle: text, ..Default::default() },
        ..ClusterTrustBundle::default()
    };
    world.api.put(&bundle("plain", "", "red", pem("AAAA")));
    world.api.put(&bundle("s:one", "s", "red", format!("text\n{}{}", pem("BBBB"), pem("AAAA"))));
    world.api.put(&bundle("s:two", "s", "blue", pem("BBBB")));
    let by = |signer: &str, labels: Option<&[(&str, &str)]>, path: &str, optional: bool| ClusterTrustBundleProjection {
        signer_name: Some(signer.into()),
        label_selector: labels.map(|labels| LabelSelector {
            match_labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..LabelSelector::default()
        }),
        path: path.into(),
        optional: Some(optional),
        ..ClusterTrustBundleProjection::default()
    };
    let named = |name: &str, path: &str, optional| ClusterTrustBundleProjection {
        name: Some(name.into()),
        ..by("", None, path, optional)
    };
    let with = |name: &str, sources: Vec<ClusterTrustBundleProjection>| {
        let mut pod = pod(name, vec![container("app")]);
        let sources = sources
            .into_iter()
            .map(|of| VolumeProjection { cluster_trust_bundle: Some(of), ..VolumeProjection::default() })
            .collect();
        let projected = ProjectedVolumeSource { sources, ..ProjectedVolumeSource::default() };
        pod.spec.volumes = vec![Volume {
            name: "trust".into(),
            volume_source: VolumeSource { projected: Some(projected), ..VolumeSource::default() },
            ..Volume::default()
        }];
        pod
    };
    let sources = vec![
        named("plain", "name", false),
        named("none", "missing", true),
        by("s", Some(&[]), "all", false),
        by("s", Some(&[("colour", "blue")]), "blue", false),
        by("s", None, "nothing", true),
    ];
    world.api.put(&with("web", sources));
    world.until("web", "ready", is_ready).await;
    let dir = world.path("kubelet/pods/uid-web/volumes/kubernetes.io~projected/trust");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a file");
    for (name, expected) in [
        ("name", pem("AAAA")),
        ("missing", String::new()),
        ("all", pem("AAAA") + &pem("BBBB")),
        ("blue", pem("BBBB")),
        ("nothing", String::new()),
    ] {
        assert_eq!(read(name), expected, "{name}");
    }
    world.api.put(&bundle("plain", "", "red", pem("CCCC")));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(read("name"), pem("CCCC"));
    world.api.put(&with("late", vec![by("s", Some(&[("colour", "green")]), "none", false)]));
    world.settle().await;
    assert!(world.reasons().contains(&"FailedMount".to_owned()));
    assert_eq!(waiting(&world.api.get::<Pod>("default", "late").expect("a pod")), "ContainerCreating");
}
