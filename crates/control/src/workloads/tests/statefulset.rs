use schema::api::apps::v1::{ControllerRevision, StatefulSet};
use schema::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value as Json, json};

use super::Cluster;
use crate::workloads::statefulset::reconcile;

fn set(spec: Json) -> Json {
    let mut set = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "serviceName": "peers",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "one"}]}},
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    set
}

/// Lets a set become complete.
fn complete(spec: Json) -> Cluster {
    let mut cluster = Cluster::new().with::<StatefulSet>(set(spec));
    for _ in 0..4 {
        cluster.settle(reconcile, "web");
        let names: Vec<String> = cluster.world.of::<Pod>().values().map(|pod| pod.metadata.name.clone()).collect();
        cluster.ready(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(cluster.settle(reconcile, "web"), [""; 0]);
    cluster
}

fn image(cluster: &mut Cluster, image: &str) {
    cluster.change::<StatefulSet>("web", |set| set.spec.template.spec.containers[0].image = image.into());
}

/// A change of the cluster, and what is then done.
type Step<'a> = (fn(&mut Cluster), &'a [&'a str]);

fn check(spec: Json, steps: &[Step<'_>]) {
    let mut cluster = complete(spec);
    for (number, (change, expected)) in steps.iter().enumerate() {
        change(&mut cluster);
        assert_eq!(cluster.settle(reconcile, "web"), *expected, "step {number}");
    }
}

#[test]
fn pods_come_in_order_with_their_identity() {
    let mut cluster = Cluster::new().with::<StatefulSet>(set(json!({"ordinals": {"start": 5}})));
    let first = cluster.look(reconcile, "web");
    let made = cluster.world.of::<ControllerRevision>().values().next().unwrap().metadata.name.clone();
    assert!(made.starts_with("web-"), "{made}");
    assert_eq!(
        first,
        [
            &*format!("create ControllerRevision {made}"),
            "create Pod web-5",
            "Normal SuccessfulCreate: Create Pod web-5 in StatefulSet web successful"
        ]
    );
    assert_eq!(cluster.settle(reconcile, "web"), [""; 0]);
    let pod = cluster.get::<Pod>("web-5");
    let labels: Vec<_> = pod.metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        labels,
        [
            "app=web",
            "apps.kubernetes.io/pod-index=5",
            &*format!("controller-revision-hash={made}"),
            "statefulset.kubernetes.io/pod-name=web-5"
        ]
    );
    assert_eq!((&*pod.spec.hostname, &*pod.spec.subdomain), ("web-5", "peers"));
    cluster.ready(&["web-5"]);
    assert_eq!(cluster.settle(reconcile, "web"), ["create Pod web-6"]);
    let status = cluster.get::<StatefulSet>("web").status;
    assert_eq!(
        (status.replicas, status.ready_replicas, status.current_replicas, status.updated_replicas),
        (2, 1, 2, 2)
    );
    assert_eq!((status.current_revision, status.update_revision), (made.clone(), made));
}

#[test]
fn parallel_sets_do_not_wait() {
    let mut cluster = Cluster::new().with::<StatefulSet>(set(json!({"podManagementPolicy": "Parallel"})));
    assert_eq!(cluster.settle(reconcile, "web")[1..], ["create Pod web-0", "create Pod web-1", "create Pod web-2"]);
}

#[test]
fn scaling_down_takes_the_last_first_and_waits_for_health() {
    check(
        json!({}),
        &[
            (
                |cluster| cluster.change::<StatefulSet>("web", |set| set.spec.replicas = Some(1)),
                &["delete pods web-2", "delete pods web-1"],
            ),
            (|cluster| cluster.phase("web-0", "Failed"), &["delete pods web-0", "create Pod web-0"]),
        ],
    );
    check(
        json!({}),
        &[(
            |cluster| {
                cluster.phase("web-0", "Pending");
                cluster.change::<StatefulSet>("web", |set| set.spec.replicas = Some(1));
            },
            &[],
        )],
    );
}

#[test]
fn a_new_template_rolls_from_the_end() {
    let mut cluster = complete(json!({}));
    let old = cluster.get::<StatefulSet>("web").status.current_revision;
    image(&mut cluster, "two");
    let lines = cluster.settle(reconcile, "web");
    assert_eq!(lines[1..], ["delete pods web-2", "create Pod web-2"]);
    let status = cluster.get::<StatefulSet>("web").status;
    assert_eq!((status.current_replicas, status.updated_replicas), (2, 1));
    assert_eq!(status.current_revision, old);
    assert_ne!(status.update_revision, old);
    for (ready, expected) in
        [("web-2", ["delete pods web-1", "create Pod web-1"]), ("web-1", ["delete pods web-0", "create Pod web-0"])]
    {
        cluster.ready(&[ready]);
        assert_eq!(cluster.settle(reconcile, "web"), expected);
    }
    cluster.ready(&["web-0"]);
    cluster.settle(reconcile, "web");
    let status = cluster.get::<StatefulSet>("web").status;
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(status.current_replicas, 3);
    // Back to the first template: its revision becomes the newest, none is made.
    image(&mut cluster, "one");
    assert_eq!(cluster.settle(reconcile, "web")[0], format!("patch controllerrevisions {old} {{\"revision\":3}}"));
}

#[test]
fn partitions_and_max_unavailable_bound_a_roll() {
    let change: fn(&mut Cluster) = |cluster| {
        image(cluster, "two");
        cluster.settle(reconcile, "web");
    };
    check(
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
        &[
            (change, &[]),
            (|cluster| cluster.ready(&["web-2"]), &[]),
            (|cluster| cluster.remove::<Pod>("web-0"), &["create Pod web-0"]),
        ],
    );
    check(
        json!({"updateStrategy": {"type": "OnDelete"}}),
        &[(change, &[]), (|cluster| cluster.remove::<Pod>("web-1"), &["create Pod web-1"])],
    );
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}});
    let mut cluster = complete(json!({"updateStrategy": rolling, "podManagementPolicy": "Parallel"}));
    cluster.phase("web-0", "Pending");
    image(&mut cluster, "two");
    assert_eq!(cluster.look(reconcile, "web")[1..3], ["delete pods web-0", "delete pods web-2"]);
}

#[test]
fn pods_of_the_partition_keep_the_old_template() {
    let mut cluster = complete(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    image(&mut cluster, "two");
    cluster.settle(reconcile, "web");
    cluster.ready(&["web-2"]);
    cluster.remove::<Pod>("web-0");
    cluster.settle(reconcile, "web");
    let images = cluster.all::<Pod, _>(|pod| pod.spec.containers[0].image.clone());
    assert_eq!(images, ["web-0: \"one\"", "web-1: \"one\"", "web-2: \"two\""]);
}

#[test]
fn claims_are_made_and_go_by_policy() {
    let templates = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let mut cluster = complete(
        json!({"replicas": 2, "volumeClaimTemplates": templates, "persistentVolumeClaimRetentionPolicy": policy}),
    );
    let owners = |cluster: &Cluster| {
        cluster.all::<PersistentVolumeClaim, _>(|claim| {
            claim.metadata.owner_references.iter().map(|owner| owner.name.clone()).collect::<Vec<_>>()
        })
    };
    assert_eq!(owners(&cluster), ["data-web-0: [\"web\"]", "data-web-1: [\"web\"]"]);
    let volume = &cluster.get::<Pod>("web-1").spec.volumes[0].volume_source.persistent_volume_claim.clone().unwrap();
    assert_eq!(volume.claim_name, "data-web-1");
    cluster.change::<StatefulSet>("web", |set| set.spec.replicas = Some(1));
    assert_eq!(cluster.settle(reconcile, "web"), ["update PersistentVolumeClaim data-web-1", "delete pods web-1"]);
    assert_eq!(owners(&cluster), ["data-web-0: [\"web\"]", "data-web-1: [\"web-1\"]"]);
    // Until the collector has taken the old claim, its place stays empty.
    cluster.change::<StatefulSet>("web", |set| set.spec.replicas = Some(2));
    assert_eq!(cluster.settle(reconcile, "web"), [""; 0]);
    cluster.remove::<PersistentVolumeClaim>("data-web-1");
    assert_eq!(
        cluster.settle(reconcile, "web"),
        ["create PersistentVolumeClaim data-web-1", "create Pod web-1", "update PersistentVolumeClaim data-web-1"]
    );
}

#[test]
fn old_revisions_are_dropped_and_min_ready_is_waited_for() {
    let mut cluster = complete(json!({"replicas": 1, "revisionHistoryLimit": 1, "minReadySeconds": 0}));
    for number in 0..4 {
        image(&mut cluster, &format!("new-{number}"));
        cluster.settle(reconcile, "web");
        cluster.ready(&["web-0"]);
        cluster.settle(reconcile, "web");
    }
    assert_eq!(cluster.world.of::<ControllerRevision>().len(), 2);
    cluster.change::<StatefulSet>("web", |set| {
        set.spec.min_ready_seconds = 30;
        set.spec.replicas = Some(2);
    });
    cluster.now += 10;
    assert_eq!(cluster.look(reconcile, "web"), ["again in 20s"]);
    cluster.now += 20;
    assert_eq!(cluster.settle(reconcile, "web"), ["create Pod web-1"]);
}
