use schema::api::Time;
use schema::api::apps::v1::ReplicaSet;
use schema::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value as Json, json};

use super::Cluster;
use crate::workloads::replicaset::{Replicated, reconcile};

/// (replicas, ready, available, failing)
fn status<K: Replicated>(cluster: &Cluster) -> (i32, i32, i32, bool) {
    let status = cluster.get::<K>("web").status();
    (status.replicas, status.ready_replicas, status.available_replicas, !status.conditions.is_empty())
}

/// The life of a set, whichever kind it is.
fn check<K: Replicated>(selector: Json) {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main"}]}});
    let spec = json!({"replicas": 3, "minReadySeconds": 5, "selector": selector, "template": template});
    let mut cluster = Cluster::new().with::<K>(json!({"metadata": {"name": "web"}, "spec": spec}));
    let lines = cluster.look(reconcile::<K>, "web");
    assert_eq!(lines.iter().filter(|line| line.starts_with("create Pod web-")).count(), 3);
    assert_eq!(lines.iter().filter(|line| line.starts_with("Normal SuccessfulCreate: Created pod: web-")).count(), 3);
    assert_eq!(cluster.settle(reconcile::<K>, "web"), [""; 0]);
    let names: Vec<String> = cluster.world.of::<Pod>().values().map(|pod| pod.metadata.name.clone()).collect();
    cluster.ready(&[&names[0], &names[1]]);
    assert_eq!(cluster.settle(reconcile::<K>, "web"), ["again in 5s"]);
    assert_eq!(status::<K>(&cluster), (3, 2, 0, false));
    cluster.now += 5;
    cluster.settle(reconcile::<K>, "web");
    assert_eq!(status::<K>(&cluster), (3, 2, 2, false));
    // Ended pods are replaced at once, pods on their way out too.
    cluster.phase(&names[0], "Failed");
    cluster.change::<Pod>(&names[1], |pod| pod.metadata.deletion_timestamp = Some(Time { seconds: 0 }));
    assert_eq!(cluster.settle(reconcile::<K>, "web").len(), 2);
    assert_eq!(status::<K>(&cluster), (3, 0, 0, false));
}

#[test]
fn both_kinds_keep_their_number() {
    check::<ReplicaSet>(json!({"matchLabels": {"app": "web"}}));
    check::<ReplicationController>(json!({"app": "web"}));
}

#[test]
fn those_that_serve_least_go_first() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let mut cluster = Cluster::new().with::<ReplicaSet>(json!({"metadata": {"name": "web"}, "spec": spec}));
    cluster.settle(reconcile::<ReplicaSet>, "web");
    let names: Vec<String> = cluster.world.of::<Pod>().values().map(|pod| pod.metadata.name.clone()).collect();
    cluster.ready(&[&names[0], &names[2]]);
    for name in &names {
        cluster.change::<Pod>(name, |pod| pod.spec.node_name = "n1".into());
    }
    cluster.change::<Pod>(&names[0], |pod| {
        pod.metadata.annotations.insert("controller.kubernetes.io/pod-deletion-cost".into(), "-5".into());
    });
    cluster.change::<ReplicaSet>("web", |set| set.spec.replicas = Some(1));
    let lines = cluster.settle(reconcile::<ReplicaSet>, "web");
    assert_eq!(lines, [format!("delete pods {}", names[1]), format!("delete pods {}", names[0])]);
}
