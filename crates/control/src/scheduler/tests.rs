use reconcile::World;
use serde_json::{Value as Json, json};

use super::*;
use crate::tests::object;

fn node(name: &str, more: Json) -> Json {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z1"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    merge(&mut node, more);
    node
}

fn pod(name: &str, on: &str, spec: Json) -> Json {
    let mut pod = json!({"metadata": {"name": name, "uid": name, "labels": {"app": "a"}}, "spec": {"nodeName": on, "containers": [{"name": "c"}]}});
    merge(&mut pod["spec"], spec);
    pod
}

fn merge(into: &mut Json, from: Json) {
    match (into, from) {
        (Json::Object(into), Json::Object(from)) => {
            from.into_iter().for_each(|(name, value)| merge(into.entry(name).or_insert(Json::Null), value))
        }
        (into, from) => *into = from,
    }
}

fn world(nodes: &[Json], pods: &[Json]) -> World {
    let mut world = World::default();
    for (index, json) in nodes.iter().enumerate() {
        let mut node: Node = object(json);
        node.metadata.resource_version = (index + 1).to_string();
        world.of_mut::<Node>().put(node);
    }
    for (index, json) in pods.iter().enumerate() {
        let mut pod: Pod = object(json);
        pod.metadata.resource_version = (index + 1).to_string();
        world.of_mut::<Pod>().put(pod);
    }
    world
}

/// The node's name, or the reasons against each node.
fn decide(nodes: &[Json], there: &[Json], spec: Json) -> String {
    let world = world(nodes, there);
    match schedule(&object(&pod("new", "", spec)), &snapshot(&world, &HashMap::new()), 0) {
        Decision::Bind { node } => node,
        Decision::Unschedulable { message } => {
            let message = message.split(". preemption").next().unwrap_or_default();
            message.split_once(": ").map_or(message, |(_, reasons)| reasons).to_owned()
        }
    }
}

fn cpu(amount: &str) -> Json {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

#[test]
fn filters_in_upstreams_words() {
    let a = || node("a", json!({}));
    let tainted = node("a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}));
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let anti = |key: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}}]}}});
    let near = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}}});
    let on_b = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
    let z2 = || node("b", json!({"metadata": {"labels": {"zone": "z2"}}}));
    let none = || json!({});
    let rows: Vec<(Vec<Json>, Vec<Json>, Json, &str)> = vec![
        (vec![], vec![], none(), "no nodes available to schedule pods"),
        (vec![a()], vec![], none(), "a"),
        (vec![a()], vec![], cpu("3"), "1 Insufficient cpu"),
        (vec![a()], vec![pod("p", "a", cpu("1500m"))], cpu("600m"), "1 Insufficient cpu"),
        (vec![a()], vec![pod("p", "a", cpu("1500m"))], cpu("500m"), "a"),
        (vec![a()], ["p", "q", "r"].map(|name| pod(name, "a", none())).to_vec(), none(), "1 Too many pods"),
        (vec![node("a", json!({"spec": {"unschedulable": true}})), z2()], vec![], none(), "b"),
        (vec![node("a", json!({"spec": {"unschedulable": true}}))], vec![], none(), "1 node(s) were unschedulable"),
        (vec![tainted.clone()], vec![], none(), "1 node(s) had untolerated taint(s)"),
        (vec![tainted.clone()], vec![], json!({"tolerations": [{"key": "k", "operator": "Equal", "value": "v"}]}), "a"),
        (vec![tainted], vec![], json!({"tolerations": [{"operator": "Exists"}]}), "a"),
        (
            vec![a()],
            vec![],
            json!({"nodeSelector": {"disk": "ssd"}}),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (vec![a(), z2()], vec![], on_b, "b"),
        (
            vec![a()],
            vec![pod("p", "a", port.clone())],
            port.clone(),
            "1 node(s) didn't have free ports for the requested pod ports",
        ),
        (vec![a(), z2()], vec![pod("p", "a", port.clone())], port, "b"),
        (
            vec![a()],
            vec![pod("p", "a", none())],
            anti("kubernetes.io/hostname"),
            "1 node(s) didn't match pod anti-affinity rules",
        ),
        (vec![a(), z2()], vec![pod("p", "a", none())], anti("zone"), "b"),
        // The one that is there repels the new one.
        (
            vec![a()],
            vec![pod("p", "a", anti("zone"))],
            none(),
            "1 node(s) didn't satisfy existing pods anti-affinity rules",
        ),
        (vec![a(), z2()], vec![pod("p", "b", none())], near("a"), "b"),
        (vec![a()], vec![], near("other"), "1 node(s) didn't match pod affinity rules"),
        // The first of its group may go anywhere.
        (vec![a()], vec![], near("a"), "a"),
        (vec![a(), z2()], vec![pod("p", "a", none())], spread, "b"),
    ];
    for (nodes, there, spec, expected) in rows {
        assert_eq!(decide(&nodes, &there, spec.clone()), expected, "{spec}");
    }
}

#[test]
fn reasons_are_counted() {
    assert_eq!(decide(&[node("a", json!({})), node("b", json!({}))], &[], cpu("3")), "2 Insufficient cpu");
}

/// Pods of all sorts onto nodes of all sorts, one after another; what no order may ever break.
#[test]
fn no_seed_breaks_what_is_promised() {
    for seed in 0..40 {
        let mut ctx = Ctx { now_ns: 0, seed, failure: None };
        let mut any = |below: u64| ctx.random() % below;
        let nodes: Vec<Json> = (0..2 + any(5))
            .map(|index| {
                let taints = if any(3) == 0 { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
                node(
                    &format!("n{index}"),
                    json!({"metadata": {"labels": {"zone": format!("z{}", any(3))}}, "spec": {"taints": taints},
                    "status": {"allocatable": {"cpu": (1 + any(4)).to_string(), "pods": (2 + any(6)).to_string()}}}),
                )
            })
            .collect();
        let mut world = world(&nodes, &[]);
        for index in 0..30 {
            let mut spec = cpu(&format!("{}m", 100 + any(900)));
            match any(5) {
                0 => merge(&mut spec, json!({"tolerations": [{"operator": "Exists"}]})),
                1 => spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80 + any(2)}]),
                2 => merge(
                    &mut spec,
                    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}]}}}),
                ),
                3 => merge(&mut spec, json!({"nodeSelector": {"zone": format!("z{}", any(3))}})),
                _ => {}
            }
            let mut pod: Pod = object(&pod(&format!("p{index}"), "", spec));
            if let Decision::Bind { node } = schedule(&pod, &snapshot(&world, &HashMap::new()), any(u64::MAX)) {
                pod.spec.node_name = node;
                pod.metadata.resource_version = "1".into();
                world.of_mut::<Pod>().put(pod);
            }
        }
        for info in snapshot(&world, &HashMap::new()) {
            let name = &info.node.metadata.name;
            for resource in ["cpu", "pods"] {
                assert!(
                    info.requested.get(resource) <= info.allocatable.get(resource),
                    "seed {seed}: {name} has too much {resource}"
                );
            }
            let mut ports = Vec::new();
            for pod in &info.pods {
                let tolerates =
                    info.node.spec.taints.iter().all(|taint| filters::tolerated(&pod.spec.tolerations, taint));
                assert!(tolerates, "seed {seed}: {} does not tolerate {name}", pod.name());
                assert!(
                    filters::matches_node_affinity(pod, &info.node),
                    "seed {seed}: {} is on the wrong node",
                    pod.name()
                );
                let repels = pod.spec.affinity.is_some();
                assert!(!repels || info.pods.len() == 1, "seed {seed}: {} is not alone on {name}", pod.name());
                ports.extend(
                    pod.spec.containers.iter().flat_map(|container| &container.ports).map(|port| port.host_port),
                );
            }
            let count = ports.len();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), count, "seed {seed}: a port of {name} is taken twice");
        }
    }
}
