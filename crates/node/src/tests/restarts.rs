//! Kubelets that end and start again, machines that boot, servers that are away, pods that vanish.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use schema::api::Quantity;
use schema::api::certificates::v1::ClusterTrustBundle;
use schema::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, ConfigMapEnvSource, ConfigMapVolumeSource, EnvFromSource,
    HostPathVolumeSource, LocalObjectReference, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, ProjectedVolumeSource, ResourceRequirements, Service,
    ServiceAccountTokenProjection, Sysctl, Volume, VolumeMount, VolumeProjection, VolumeSource,
};
use schema::api::node::v1::RuntimeClass;

use super::*;
use crate::objects::lock;

fn config_map(value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: "settings".into(), namespace: "default".into(), ..ObjectMeta::default() },
        data: [("COLOUR".to_owned(), value.to_owned())].into(),
        ..ConfigMap::default()
    }
}

fn named(name: &str) -> LocalObjectReference {
    LocalObjectReference { name: name.into(), ..LocalObjectReference::default() }
}

/// A pod that takes a ConfigMap as environment and as files, and a token.
fn configured(name: &str) -> Pod {
    let app = Container {
        env_from: vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource {
                local_object_reference: named("settings"),
                ..ConfigMapEnvSource::default()
            }),
            ..EnvFromSource::default()
        }],
        volume_mounts: vec![VolumeMount {
            name: "files".into(),
            mount_path: "/etc/settings".into(),
            ..VolumeMount::default()
        }],
        ..container("app")
    };
    let mut pod = pod(name, vec![app]);
    let token = ServiceAccountTokenProjection { path: "token".into(), ..ServiceAccountTokenProjection::default() };
    pod.spec.volumes = vec![
        Volume {
            name: "files".into(),
            volume_source: VolumeSource {
                config_map: Some(ConfigMapVolumeSource {
                    local_object_reference: named("settings"),
                    ..ConfigMapVolumeSource::default()
                }),
                ..VolumeSource::default()
            },
            ..Volume::default()
        },
        Volume {
            name: "token".into(),
            volume_source: VolumeSource {
                projected: Some(ProjectedVolumeSource {
                    sources: vec![VolumeProjection {
                        service_account_token: Some(token),
                        ..VolumeProjection::default()
                    }],
                    ..ProjectedVolumeSource::default()
                }),
                ..VolumeSource::default()
            },
            ..Volume::default()
        },
    ];
    pod
}

#[tokio::test(start_paused = true)]
async fn a_new_kubelet_takes_over_what_runs() {
    let world = World::new("takeover");
    world.api.put(&pod("web", vec![container("app")]));
    let before = world.until("web", "ready", is_ready).await;
    world.settle().await;
    let created = world.machine.log().len();
    let (dir, api, machine) = world.stop();
    let world = World::at(dir, api, machine);
    world.settle().await;
    assert_eq!(world.machine.log().len(), created, "nothing is done to a pod that runs: {:?}", world.machine.log());
    let after = world.until("web", "ready", is_ready).await;
    assert_eq!(before.status, after.status);
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_restarts_are_counted_on() {
    let world = World::new("boot");
    world.api.put(&pod("web", vec![container("app")]));
    world.until("web", "ready", is_ready).await;
    let (dir, api, machine) = world.stop();
    lock(&machine.state).pods.clear();
    let world = World::at(dir, api, machine);
    let pod = world
        .until("web", "restarted", |pod| is_ready(pod) && pod.status.container_statuses[0].restart_count == 1)
        .await;
    let last = pod.status.container_statuses[0].last_state.terminated.clone().expect("it ended");
    assert_eq!((last.exit_code, &*last.reason), (137, "ContainerStatusUnknown"));
}

/// A claim that is bound to a directory of the machine.
fn claim(world: &World) -> Volume {
    let mut volume = PersistentVolume::default();
    volume.metadata.name = "disk".into();
    volume.spec.persistent_volume_source.host_path =
        Some(HostPathVolumeSource { path: world.path("data").to_string_lossy().into(), ..Default::default() });
    volume.spec.claim_ref = Some(ObjectReference { uid: "uid-claim".into(), ..Default::default() });
    let mut claim = PersistentVolumeClaim::default();
    (claim.metadata.name, claim.metadata.namespace) = ("claim".into(), "default".into());
    claim.spec.volume_name = "disk".into();
    claim.status.phase = "Bound".into();
    std::fs::create_dir_all(world.path("data")).expect("a directory");
    world.api.put(&volume);
    world.api.put(&claim);
    let source = PersistentVolumeClaimVolumeSource {
        claim_name: "claim".into(),
        ..PersistentVolumeClaimVolumeSource::default()
    };
    let volume_source = VolumeSource { persistent_volume_claim: Some(source), ..VolumeSource::default() };
    Volume { name: "data".into(), volume_source, ..Volume::default() }
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_last_pods_start() {
    let world = World::new("offline");
    world.api.put(&config_map("red"));
    let mut service = Service::default();
    (service.metadata.name, service.metadata.namespace) = ("shop".into(), "default".into());
    service.spec.cluster_ip = "10.43.0.7".into();
    world.api.put(&service);
    let mut class = RuntimeClass { handler: "runc".into(), ..RuntimeClass::default() };
    class.metadata.name = "usual".into();
    world.api.put(&class);
    let mut bundle = ClusterTrustBundle::default();
    bundle.metadata.name = "anchors".into();
    bundle.spec.trust_bundle = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n".into();
    world.api.put(&bundle);
    let mut pod = configured("web");
    pod.spec.runtime_class_name = Some("usual".into());
    pod.spec.volumes.push(claim(&world));
    let anchors =
        ClusterTrustBundleProjection { name: Some("anchors".into()), path: "ca".into(), ..Default::default() };
    let projected = pod.spec.volumes[1].volume_source.projected.as_mut().expect("the token's");
    projected.sources.push(VolumeProjection { cluster_trust_bundle: Some(anchors), ..VolumeProjection::default() });
    let mount = VolumeMount { name: "data".into(), mount_path: "/data".into(), ..VolumeMount::default() };
    pod.spec.containers[0].volume_mounts.push(mount);
    world.api.put(&pod);
    world.until("web", "ready", is_ready).await;
    let before = world.machine.config("app").expect("made");
    assert!(before.env.contains(&("SHOP_SERVICE_HOST".into(), "10.43.0.7".into())), "{:?}", before.env);
    world.settle().await;
    let (dir, api, machine) = world.stop();
    tokio::time::sleep(Duration::from_millis(1)).await;
    lock(&machine.state).pods.clear();
    lock(&machine.state).configs.clear();
    let files = dir.0.join("kubelet/pods/uid-web/volumes/kubernetes.io~projected/token");
    crate::volumes::unmount_below(&files).expect("no mount");
    let _ = std::fs::remove_dir_all(&files);
    for kept in std::fs::read_dir(dir.0.join("kubelet/pods/uid-web/objects")).expect("a directory") {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&kept.expect("a file").metadata().expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    api.down.store(true, Ordering::Relaxed);
    // Older than any token.
    machine.jump(7200 * 1_000_000_000);
    let world = World::at(dir, api, machine);
    for _ in 0..2000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if lock(&world.machine.state).pods.values().any(|pod| pod.containers.iter().any(crate::plan::is_running)) {
            break;
        }
    }
    assert!(
        lock(&world.machine.state).pods.values().any(|pod| pod.containers.iter().any(crate::plan::is_running)),
        "{:?}",
        world.machine.log()
    );
    let after = world.machine.config("app").expect("made");
    let lasting = |of: &crate::ports::ContainerConfig| {
        let mounts = of.mounts.iter().filter(|mount| !mount.container_path.ends_with("termination-log"));
        mounts.cloned().collect::<Vec<_>>()
    };
    assert_eq!((&after.env, lasting(&after)), (&before.env, lasting(&before)));
    assert!(after.mounts.iter().any(|mount| mount.host_path == world.path("data")), "{:?}", after.mounts);
    let read = |file: &str| std::fs::read_to_string(files.join(file)).expect("a file");
    let token = read("token");
    assert!(token.starts_with("token-") && read("ca").contains("YQ=="));
    let done = world.machine.log().len();
    world.api.down.store(false, Ordering::Relaxed);
    world.until("web", "told", |pod| is_ready(pod) && pod.status.container_statuses[0].restart_count == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.settle().await;
    assert_ne!(read("token"), token, "it is renewed");
    assert_eq!(world.machine.log().len(), done, "nothing is made anew: {:?}", world.machine.log());
    world.api.delete_pod("default", "web", 1, world.machine.now() / 1_000_000_000);
    world.until_gone("web").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.settle().await;
    assert!(!world.path("kubelet/pods/uid-web").exists() && !world.path("kubelet/last-pods/uid-web").exists());
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_waited_for_and_what_changes_is_shown() {
    let world = World::new("configured");
    world.api.put(&configured("web"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.machine.config("app").is_none());
    world.api.put(&config_map("red"));
    world.until("web", "ready", is_ready).await;
    let config = world.machine.config("app").expect("made");
    assert!(config.env.contains(&("COLOUR".into(), "red".into())), "{:?}", config.env);
    let mount = config.mounts.iter().find(|mount| mount.container_path.ends_with("settings")).expect("a mount");
    assert!(mount.readonly);
    let file = mount.host_path.join("COLOUR");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "red");
    let token = world.path("kubelet/pods/uid-web/volumes/kubernetes.io~projected/token/token");
    assert!(std::fs::read_to_string(&token).expect("a token").starts_with("token-"));
    world.api.put(&config_map("blue"));
    world.settle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "blue");
    // The token is renewed before it ends.
    let first = std::fs::read_to_string(&token).expect("a token");
    tokio::time::sleep(Duration::from_secs(2900)).await;
    world.settle().await;
    assert_ne!(first, std::fs::read_to_string(&token).expect("a token"));
    assert_eq!(world.until("web", "ready", is_ready).await.status.container_statuses[0].restart_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_vanishes_is_ended() {
    let world = World::new("vanishes");
    world.api.put(&pod("web", vec![container("app")]));
    world.until("web", "ready", is_ready).await;
    world.api.remove("/api/v1/namespaces/default/pods/web");
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if lock(&world.machine.state).pods.is_empty() {
            break;
        }
    }
    assert!(lock(&world.machine.state).pods.is_empty(), "{:?}", world.machine.log());
    assert!(world.machine.log().contains(&"stop app 30".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused() {
    let world = World::new("refused");
    let resources = |cpu: &str| ResourceRequirements {
        requests: BTreeMap::from([("cpu".to_owned(), Quantity(cpu.into()))]),
        ..ResourceRequirements::default()
    };
    world.api.put(&pod("small", vec![Container { resources: resources("3"), ..container("app") }]));
    world.until("small", "ready", is_ready).await;
    world.api.put(&pod("large", vec![Container { resources: resources("2"), ..container("app") }]));
    let refused = world.until("large", "refused", |pod| pod.status.phase == "Failed").await;
    assert_eq!(refused.status.reason, "OutOfcpu");
    assert_eq!(
        refused.status.message,
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"
    );
    let sysctl = |name: &str| Sysctl { name: name.into(), value: "1".into(), ..Sysctl::default() };
    for (name, host_network, of, message) in [
        ("unsafe", false, "kernel.msgmax", "\"kernel.msgmax\" not allowlisted"),
        ("hosts", true, "net/ipv4/tcp_syncookies", "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
        ("safe", false, "net.ipv4.tcp_syncookies", ""),
    ] {
        let mut pod = pod(name, vec![container("app")]);
        pod.spec.host_network = host_network;
        pod.spec.security_context =
            Some(PodSecurityContext { sysctls: vec![sysctl(of)], ..PodSecurityContext::default() });
        world.api.put(&pod);
        let pod = world.until(name, "decided", |pod| is_ready(pod) || pod.status.phase == "Failed").await;
        let (reason, message) = match message {
            "" => ("", String::new()),
            text => ("SysctlForbidden", format!("Pod was rejected: forbidden sysctl: {text}")),
        };
        assert_eq!((&*pod.status.reason, &pod.status.message), (reason, &message), "{name}");
    }
    assert!(
        refused.status.container_statuses.is_empty() && !world.machine.log().iter().any(|line| line.contains("large"))
    );
    // Whether there is enough of what only the cluster counts the scheduler has seen to.
    let foreign = ResourceRequirements {
        requests: BTreeMap::from([("example.com/licence".to_owned(), Quantity("1".into()))]),
        ..ResourceRequirements::default()
    };
    world.api.put(&pod("licensed", vec![Container { resources: foreign, ..container("app") }]));
    world.until("licensed", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_pod_and_a_stubborn_one_is_killed() {
    let world = World::new("deadline");
    lock(&world.machine.state).stubborn.insert("app".into());
    let mut pod = pod("web", vec![container("app")]);
    pod.spec.active_deadline_seconds = Some(20);
    pod.spec.termination_grace_period_seconds = Some(5);
    world.api.put(&pod);
    world.until("web", "ready", is_ready).await;
    let failed = world.until("web", "failed", |pod| pod.status.phase == "Failed").await;
    assert_eq!(
        (
            &*failed.status.reason,
            failed.status.container_statuses[0].state.terminated.clone().expect("ended").exit_code
        ),
        ("DeadlineExceeded", 137)
    );
    let since = (world.machine.now() - EPOCH) / 1_000_000_000;
    assert!((24..=27).contains(&since), "{since} s");
}
