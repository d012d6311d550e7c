use schema::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use super::Cluster;
use crate::workloads::deployment::reconcile;

fn of(cluster: &Cluster, image: &str) -> ReplicaSet {
    let sets = cluster.world.of::<ReplicaSet>();
    let set = sets.values().find(|set| set.spec.template.spec.containers[0].image == image);
    (**set.expect(image)).clone()
}

fn replicas(cluster: &Cluster, image: &str) -> i32 {
    of(cluster, image).spec.replicas.unwrap_or(1)
}

/// So many of the set's pods serve.
fn serve(cluster: &mut Cluster, image: &str, pods: i32) {
    let name = of(cluster, image).metadata.name;
    cluster.change::<ReplicaSet>(&name, |set| {
        set.status.replicas = set.spec.replicas.unwrap_or(1);
        set.status.ready_replicas = pods;
        set.status.available_replicas = pods;
    });
}

fn rolled(surge: i32, unavailable: i32) -> Cluster {
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "one"}]}});
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let spec = json!({"replicas": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template, "strategy": strategy});
    let mut cluster = Cluster::new().with::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec}));
    cluster.settle(reconcile, "web");
    serve(&mut cluster, "one", 10);
    cluster.settle(reconcile, "web");
    cluster.change::<Deployment>("web", |web| {
        web.metadata.generation += 1;
        web.spec.template.spec.containers[0].image = "two".into();
    });
    cluster.settle(reconcile, "web");
    cluster
}

#[test]
fn a_rollout_that_does_not_serve_keeps_what_must_be_available() {
    for (surge, unavailable, old, new) in [(3, 2, 8, 5), (0, 2, 8, 2), (3, 0, 10, 3)] {
        // The old set's status still tells of pods that it was asked to end.
        let mut cluster = rolled(surge, unavailable);
        assert_eq!((replicas(&cluster, "one"), replicas(&cluster, "two")), (old, new));
        serve(&mut cluster, "one", old);
        cluster.settle(reconcile, "web");
        assert_eq!((replicas(&cluster, "one"), replicas(&cluster, "two")), (old, new));
    }
}

#[test]
fn a_rollout_moves_on_as_new_pods_serve() {
    let mut cluster = rolled(3, 2);
    let mut ends = 0;
    while replicas(&cluster, "one") > 0 && ends < 20 {
        let (old, new) = (replicas(&cluster, "one"), replicas(&cluster, "two"));
        assert!(old + new <= 13 && old >= 8 - new, "{old} and {new}");
        serve(&mut cluster, "one", old);
        serve(&mut cluster, "two", new);
        cluster.settle(reconcile, "web");
        ends += 1;
    }
    assert_eq!((replicas(&cluster, "one"), replicas(&cluster, "two")), (0, 10));
}

#[test]
fn pods_that_never_served_give_way_first() {
    let mut cluster = rolled(3, 2);
    cluster.change::<Deployment>("web", |web| {
        web.metadata.generation += 1;
        web.spec.template.spec.containers[0].image = "three".into();
    });
    serve(&mut cluster, "one", 8);
    cluster.settle(reconcile, "web");
    assert_eq!((replicas(&cluster, "one"), replicas(&cluster, "two"), replicas(&cluster, "three")), (8, 0, 5));
}
