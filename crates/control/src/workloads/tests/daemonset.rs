use std::sync::Mutex;

use reconcile::{Ctx, Key, Plan, World};
use schema::api::apps::v1::{ControllerRevision, DaemonSet};
use schema::api::core::v1::{Node, Pod, Taint};
use serde_json::{Value as Json, json};

use super::Cluster;
use crate::workloads::daemonset::{Failures, reconcile};

/// The reconciler with its memory.
fn look() -> impl Fn(&World, &Key, &mut Ctx) -> Plan {
    let failures = Mutex::new(Failures::default());
    move |world, key, ctx| reconcile(world, key, ctx, &mut failures.lock().unwrap())
}

fn cluster(strategy: Json) -> Cluster {
    let mut cluster = Cluster::new().with::<DaemonSet>(json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": "one"}]}},
            "updateStrategy": strategy,
        },
    }));
    for name in ["n1", "n2", "n3"] {
        cluster.put(super::object::<Node>(json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}})));
    }
    cluster
}

fn rolling(unavailable: Json, surge: Json) -> Json {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

/// Binds what waits for its node, lets all run and become ready; pods as `node image`.
fn run(cluster: &mut Cluster) -> Vec<String> {
    let pods: Vec<Pod> = cluster.world.of::<Pod>().values().map(|pod| (**pod).clone()).collect();
    for pod in &pods {
        let name = pod.metadata.name.as_str();
        cluster.change::<Pod>(name, |pod| {
            let affinity = pod
                .spec
                .affinity
                .clone()
                .unwrap()
                .node_affinity
                .unwrap()
                .required_during_scheduling_ignored_during_execution
                .unwrap();
            pod.spec.node_name = affinity.node_selector_terms[0].match_fields[0].values[0].clone();
        });
        if pod.status.phase == "Pending" {
            cluster.ready(&[name]);
        }
    }
    on_nodes(cluster)
}

fn on_nodes(cluster: &Cluster) -> Vec<String> {
    let mut pods: Vec<String> = cluster
        .world
        .of::<Pod>()
        .values()
        .map(|pod| format!("{} {}", pod.spec.node_name, pod.spec.containers[0].image))
        .collect();
    pods.sort();
    pods
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.into(), effect: effect.into(), ..Taint::default() }
}

#[test]
fn every_node_that_may_has_a_pod() {
    let (mut cluster, look) = (cluster(rolling(json!(1), json!(0))), look());
    cluster.change::<Node>("n3", |node| node.spec.taints = vec![taint("dedicated", "NoSchedule")]);
    cluster
        .change::<Node>("n2", |node| node.spec.taints = vec![taint("node.kubernetes.io/unschedulable", "NoSchedule")]);
    cluster.settle(&look, "agent");
    assert_eq!(run(&mut cluster), ["n1 one", "n2 one"]);
    cluster.settle(&look, "agent");
    let status = cluster.get::<DaemonSet>("agent").status;
    let numbers = |status: &schema::api::apps::v1::DaemonSetStatus| {
        (
            status.desired_number_scheduled, status.current_number_scheduled, status.number_available,
            status.number_misscheduled,
        )
    };
    assert_eq!(numbers(&status), (2, 2, 2, 0));
    // NoSchedule lets stay, NoExecute does not.
    cluster.change::<Node>("n1", |node| node.spec.taints = vec![taint("full", "NoSchedule")]);
    cluster.settle(&look, "agent");
    assert_eq!(on_nodes(&cluster), ["n1 one", "n2 one"]);
    assert_eq!(numbers(&cluster.get::<DaemonSet>("agent").status), (1, 1, 1, 1));
    cluster.change::<Node>("n1", |node| node.spec.taints[0].effect = "NoExecute".into());
    cluster.settle(&look, "agent");
    assert_eq!(on_nodes(&cluster), ["n2 one"]);
    cluster.change::<DaemonSet>("agent", |set| {
        set.spec.template.spec.node_selector = [("disk".to_owned(), "hdd".to_owned())].into();
    });
    cluster.settle(&look, "agent");
    assert_eq!(on_nodes(&cluster), [""; 0]);
}

#[test]
fn pods_are_made_for_their_node_and_tolerate_its_troubles() {
    let (mut cluster, look) = (cluster(rolling(json!(1), json!(0))), look());
    let lines = cluster.look(&look, "agent");
    assert_eq!(lines.iter().filter(|line| line.starts_with("create Pod agent-")).count(), 3);
    assert_eq!(lines.iter().filter(|line| line.starts_with("Normal SuccessfulCreate: Created pod: agent-")).count(), 3);
    let pod = cluster.world.of::<Pod>().values().next().unwrap().clone();
    let tolerated: Vec<_> = pod
        .spec
        .tolerations
        .iter()
        .map(|toleration| format!("{}:{}", &toleration.key[19..], toleration.effect))
        .collect();
    assert_eq!(
        tolerated,
        [
            "not-ready:NoExecute", "unreachable:NoExecute", "disk-pressure:NoSchedule", "memory-pressure:NoSchedule",
            "pid-pressure:NoSchedule", "unschedulable:NoSchedule"
        ]
    );
    let revision = cluster.world.of::<ControllerRevision>().values().next().unwrap().clone();
    let hash = &pod.metadata.labels["controller-revision-hash"];
    assert_eq!(
        (&revision.metadata.labels["controller-revision-hash"], &revision.metadata.name),
        (hash, &format!("agent-{hash}"))
    );
}

#[test]
fn a_new_template_replaces_or_surges() {
    let image = |cluster: &mut Cluster| {
        cluster.change::<DaemonSet>("agent", |set| set.spec.template.spec.containers[0].image = "two".into())
    };
    let check = |strategy: Json, expected: &[&[&str]]| {
        let (mut cluster, look) = (cluster(strategy), look());
        cluster.settle(&look, "agent");
        run(&mut cluster);
        cluster.settle(&look, "agent");
        image(&mut cluster);
        for step in expected {
            cluster.settle(&look, "agent");
            assert_eq!(run(&mut cluster), *step);
        }
    };
    check(
        rolling(json!(1), json!(0)),
        &[&["n1 two", "n2 one", "n3 one"], &["n1 two", "n2 two", "n3 one"], &["n1 two", "n2 two", "n3 two"]],
    );
    check(rolling(json!("50%"), json!(0)), &[&["n1 two", "n2 two", "n3 one"], &["n1 two", "n2 two", "n3 two"]]);
    check(
        rolling(json!(0), json!(1)),
        &[
            &["n1 one", "n1 two", "n2 one", "n3 one"],
            &["n1 two", "n2 one", "n2 two", "n3 one"],
            &["n1 two", "n2 two", "n3 one", "n3 two"],
            &["n1 two", "n2 two", "n3 two"],
        ],
    );
    check(json!({"type": "OnDelete"}), &[&["n1 one", "n2 one", "n3 one"]]);
}

#[test]
fn failed_pods_are_replaced_ever_more_slowly() {
    let (mut cluster, look) = (cluster(rolling(json!(1), json!(0))), look());
    cluster.settle(&look, "agent");
    run(&mut cluster);
    cluster.settle(&look, "agent");
    let fail = |cluster: &mut Cluster| {
        let pods = cluster.world.of::<Pod>();
        let name = pods.values().find(|pod| pod.spec.node_name == "n1").unwrap().metadata.name.clone();
        cluster.phase(&name, "Failed");
        name
    };
    let first = fail(&mut cluster);
    let lines = cluster.look(&look, "agent");
    assert!(
        lines.contains(&format!(
            "Warning FailedDaemonPod: Found failed daemon pod default/{first} on node n1, will try to kill it"
        )),
        "{lines:?}"
    );
    cluster.settle(&look, "agent");
    run(&mut cluster);
    fail(&mut cluster);
    assert_eq!(cluster.look(&look, "agent"), ["again in 1s"]);
    cluster.now += 1;
    assert_eq!(cluster.settle(&look, "agent").len(), 2);
}

#[test]
fn pods_for_lost_nodes_go() {
    let (mut cluster, look) = (cluster(rolling(json!(1), json!(0))), look());
    cluster.settle(&look, "agent");
    let uid = cluster.get::<Node>("n2").metadata.uid;
    cluster.world.of_mut::<Node>().bury(&Key::new("", "n2"), &uid);
    assert_eq!(cluster.settle(&look, "agent").len(), 1);
    assert_eq!(run(&mut cluster), ["n1 one", "n3 one"]);
}
