use reconcile::World;
use serde_json::{Value as Json, json};

use super::*;
use crate::tests::{Fixture, object};

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

fn look(world: &World) -> Snapshot {
    Snapshot::new(world, &HashMap::new(), &HashMap::new(), Snapshot::default())
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
    match schedule(&world, &object(&pod("new", "", spec)), &look(&world), 0) {
        Decision::Bind { node } => node,
        Decision::Unschedulable { message, .. } | Decision::Preempt { message, .. } => {
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
    let mut leaving = pod("p", "a", json!({}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let labelled = |name: &str, labels: Json| {
        let mut pod = pod(name, "a", json!({}));
        pod["metadata"]["labels"] = labels;
        pod
    };
    let both = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}},
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "b"}}}]}}});
    let daemon = |node: &str| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}}});
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
        // What is on its way out is still there.
        (vec![a()], vec![leaving], anti("zone"), "1 node(s) didn't match pod anti-affinity rules"),
        // One pod must match all terms, not each term another pod.
        (
            vec![a()],
            vec![pod("p", "a", none()), labelled("q", json!({"app": "b"}))],
            both,
            "1 node(s) didn't match pod affinity rules",
        ),
        (vec![a(), z2()], vec![], daemon("b"), "b"),
        (
            vec![a(), node("b", json!({"status": {"allocatable": {"pods": "0"}}}))],
            vec![],
            daemon("b"),
            "1 Too many pods, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]",
        ),
    ];
    for (nodes, there, spec, expected) in rows {
        assert_eq!(decide(&nodes, &there, spec.clone()), expected, "{spec}");
    }
}

/// Who must go for whom, and what is said about it.
#[test]
fn pods_make_room_for_more_important_ones() {
    let one = |name: &str, more: Json| {
        let mut one = node(name, json!({"status": {"allocatable": {"cpu": "1"}}}));
        merge(&mut one, more);
        one
    };
    let at = |name: &str, on: &str, priority: i32, amount: &str, start: &str| {
        let mut pod = pod(name, on, cpu(amount));
        pod["spec"]["priority"] = json!(priority);
        pod["status"] = json!({"startTime": format!("2026-01-01T00:00:{start}Z"), "phase": "Running"});
        pod
    };
    let mine = |amount: &str| {
        let mut spec = cpu(amount);
        spec["priority"] = json!(100);
        spec
    };
    let never = with(mine("1"), json!({"preemptionPolicy": "Never"}));
    let guarded = |mut pod: Json| {
        pod["metadata"]["labels"]["guarded"] = json!("yes");
        pod
    };
    let far = || one("b", json!({"spec": {"unschedulable": true}}));
    let promised = |amount: &str, priority: i32| {
        let mut pod = at("promised", "", priority, amount, "00");
        pod["status"] = json!({"nominatedNodeName": "a"});
        pod
    };
    let ab = || vec![one("a", json!({})), one("b", json!({}))];
    let a = || vec![one("a", json!({}))];
    let none = "1 Preemption is not helpful for scheduling.";
    #[rustfmt::skip]
    let rows: Vec<(Vec<Json>, Vec<Json>, Json, String)> = vec![
        (a(), vec![at("p", "a", 0, "1", "00")], mine("1"), "a: p".into()),
        (a(), vec![at("p", "a", 100, "1", "00")], mine("1"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.".into()),
        (a(), vec![at("p", "a", 0, "1", "00")], mine("2"),
            format!("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: {none}")),
        (a(), vec![at("p", "a", 0, "1", "00")], never,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.".into()),
        (vec![one("a", json!({})), far()], vec![at("p", "a", 100, "1", "00")], mine("1"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.".into()),
        // No more than needed, the least important, of equals the youngest.
        (a(), vec![at("p", "a", 1, "500m", "00"), at("q", "a", 2, "500m", "00")], mine("500m"), "a: p".into()),
        (a(), vec![at("p", "a", 1, "500m", "00"), at("q", "a", 1, "500m", "05")], mine("500m"), "a: q".into()),
        // The node whose most important victim is the least, then the fewest, then the youngest.
        (ab(), vec![at("p", "a", 5, "1", "00"), at("q", "b", 4, "1", "00")], mine("1"), "b: q".into()),
        (ab(), vec![at("p", "a", 5, "500m", "00"), at("r", "a", 5, "500m", "00"), at("q", "b", 5, "1", "00")], mine("1"), "b: q".into()),
        (ab(), vec![at("p", "a", 5, "1", "07"), at("q", "b", 5, "1", "03")], mine("1"), "a: p".into()),
        // A budget costs more than importance.
        (ab(), vec![guarded(at("p", "a", 1, "1", "00")), at("q", "b", 50, "1", "00")], mine("1"), "b: q".into()),
        (a(), vec![guarded(at("p", "a", 1, "500m", "00")), at("q", "a", 2, "500m", "00")], mine("500m"), "a: q".into()),
        // Room that was promised to a more important pod is not free; that of a less important one is.
        (a(), vec![promised("1", 200)], mine("500m"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.".into()),
        (a(), vec![promised("1", 1)], mine("500m"), "a".into()),
    ];
    for (nodes, there, spec, expected) in rows {
        let mut world = world(&nodes, &there);
        let mut budget: PodDisruptionBudget =
            object(&json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"guarded": "yes"}}}}));
        budget.metadata.resource_version = "1".into();
        world.of_mut::<PodDisruptionBudget>().put(budget);
        let told = match schedule(&world, &object(&pod("new", "", spec.clone())), &look(&world), 0) {
            Decision::Bind { node } => node,
            Decision::Unschedulable { message, .. } => message,
            Decision::Preempt { node, victims, message } => {
                let said =
                    format!("found a potential placement for pod on node {node}, preempting {} victims", victims.len());
                assert!(message.ends_with(&said), "{message}");
                format!("{node}: {}", victims.iter().map(|pod| pod.name()).collect::<Vec<_>>().join(" "))
            }
        };
        assert_eq!(told, expected, "{spec} among {there:?}");
    }
}

fn with(mut object: Json, more: Json) -> Json {
    merge(&mut object, more);
    object
}

fn kind(kind: &str, object: Json) -> Json {
    with(object, json!({"kind": kind}))
}

/// What is written for a pod, look after look.
#[test]
fn preemption_is_carried_out_once() {
    let victim = with(pod("p", "a", cpu("2")), json!({"status": {"phase": "Running"}}));
    let mut fixture = Fixture::new(&[kind("Node", node("a", json!({}))), kind("Pod", victim.clone())]);
    let waiting = with(pod("new", "", cpu("1")), json!({"spec": {"priority": 9}}));
    fixture.put(&kind("Pod", waiting.clone()));
    let memory = Memory::default();
    let step = |world: &World, key: &Key, ctx: &mut Ctx| reconcile(world, key, ctx, &memory);
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node a, preempting 1 victims";
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"conditions": [condition], "nominatedNodeName": "a"});
    let cause = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    fixture.check(
        step,
        "n/new",
        &[
            &format!("status pods n/new {}", json!({"status": status})),
            "Warning new FailedScheduling",
            &format!("patch pods n/p status {cause}"),
            "delete pods n/p",
            "Normal p Preempted",
        ],
    );
    // Room is kept for it, also before its status is seen.
    fixture.put(&kind("Pod", with(pod("late", "", cpu("1500m")), json!({"spec": {"priority": 9}}))));
    let plan = fixture.plan(step, "n/late");
    assert!(
        plan.actions.iter().all(|action| !matches!(action, Action::Post { .. } | Action::Delete { .. })),
        "{plan:?}"
    );
    // It waits for who leaves, and takes its place then.
    fixture.put(&kind("Pod", with(waiting, json!({"status": status}))));
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": cause["status"]});
    fixture.put(&kind("Pod", with(victim.clone(), leaving)));
    let told = fixture.plan(step, "n/new").actions;
    let Some(Action::UpdateStatus(told)) = told.first() else { panic!("{told:?}") };
    let told = told.reference();
    assert_eq!(told.key, Key::new("n", "new"));
    fixture.put(&kind("Pod", with(victim, json!({"status": {"phase": "Succeeded"}}))));
    fixture.check(step, "n/new", &["post pods n/new binding", "Normal new Scheduled"]);
}

/// Claims first, then the pod.
#[test]
fn volumes_are_bound_before_their_pod() {
    let class = |name: &str, provisioner: &str| json!({"kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = |name: &str, class: &str| {
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}})
    };
    let volume = |name: &str, on: &str| {
        json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "2Gi"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [on]}]}]}}}, "status": {"phase": "Available"}})
    };
    let user = |claim: &str| {
        kind("Pod", pod("new", "", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})))
    };
    let bound = |name: &str, class: &str, volume: &str| {
        with(
            claim(name, class),
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}),
        )
    };
    let unfit = |why: &str| {
        format!(
            "0/2 nodes are available: {why}. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
    };
    let base = [
        kind("Node", node("a", json!({}))),
        kind("Node", node("b", json!({}))),
        class("local", "kubernetes.io/no-provisioner"),
        class("made", "x/y"),
    ];
    let refused = [
        (vec![], user("c"), "persistentvolumeclaim \"c\" not found"),
        (vec![claim("c", "now")], user("c"), "pod has unbound immediate PersistentVolumeClaims"),
        (vec![claim("c", "local")], user("c"), "2 node(s) didn't find available persistent volumes to bind"),
        (
            vec![volume("v", "elsewhere"), bound("c", "local", "v")],
            user("c"),
            "2 node(s) didn't match PersistentVolume's node affinity",
        ),
        (
            vec![bound("c", "local", "v")],
            user("c"),
            "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        ),
    ];
    for (objects, pod, why) in refused {
        let fixture = Fixture::new(&[&base[..], &objects, &[pod]].concat());
        let plan = fixture.plan(|world, key, ctx| reconcile(world, key, ctx, &Memory::default()), "n/new");
        let told = plan.actions[0].object::<Pod>().unwrap();
        assert_eq!(told.status.conditions[0].message, unfit(why));
    }
    // A node takes as many volumes of a driver as its CSINode says.
    let csi = |name: &str| json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"storageClassName": "made", "csi": {"driver": "x/y", "volumeHandle": name}}});
    let own = |pod: Json, node: &str| with(pod, json!({"metadata": {"name": node}, "spec": {"nodeName": node}}));
    let limit = |name: &str, count: i32| json!({"kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": [{"name": "x/y", "nodeID": name, "allocatable": {"count": count}}]}});
    let (first, second) = ([csi("v"), bound("c", "made", "v")], [csi("w"), bound("d", "made", "w")]);
    let full = [own(user("d"), "a"), limit("a", 1), limit("b", 0), user("c")];
    let fixture = Fixture::new(&[&base[..], &first, &second, &full].concat());
    let plan = fixture.plan(|world, key, ctx| reconcile(world, key, ctx, &Memory::default()), "n/new");
    let told = plan.actions[0].object::<Pod>().unwrap();
    assert!(
        told.status.conditions[0].message.starts_with("0/2 nodes are available: 2 node(s) exceed max volume count.")
    );
    // A volume of one node decides where the pod goes.
    let memory = Memory::default();
    let step = |world: &World, key: &Key, ctx: &mut Ctx| reconcile(world, key, ctx, &memory);
    let mut fixture = Fixture::new(&[&base[..], &[volume("v", "b"), claim("c", "local"), user("c")]].concat());
    let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": "n", "name": "c", "uid": "c-uid", "resourceVersion": "6"});
    let named = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, "spec": {"claimRef": reference}});
    fixture.check(step, "n/new", &[&format!("update persistentvolumes v {named}"), "again in 600s"]);
    fixture.put(&with(volume("v", "b"), named));
    fixture.check(step, "n/new", &["again in 600s"]);
    fixture.put(&bound("c", "local", "v"));
    fixture.check(step, "n/new", &["post pods n/new binding", "Normal new Scheduled"]);
    assert_eq!(memory.lock().assumed["new"].spec.node_name, "b");
    // A provisioner is told the node; one that cannot takes it back.
    let memory = Memory::default();
    let step = |world: &World, key: &Key, ctx: &mut Ctx| reconcile(world, key, ctx, &memory);
    let mut fixture = Fixture::new(&[&base[..], &[claim("c", "made"), user("c")]].concat());
    let plan = fixture.plan(step, "n/new");
    let asked = plan.actions[0].object::<PersistentVolumeClaim>().unwrap();
    let node = &asked.metadata.annotations["volume.kubernetes.io/selected-node"];
    assert_eq!(*node, memory.lock().assumed["new"].spec.node_name);
    fixture.put(&with(
        claim("c", "made"),
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}}),
    ));
    fixture.check(step, "n/new", &["again in 600s"]);
    fixture.put(&claim("c", "made"));
    fixture.check(step, "n/new", &["again in 1s"]);
    assert!(memory.lock().assumed.is_empty());
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
            if let Decision::Bind { node } = schedule(&world, &pod, &look(&world), any(u64::MAX)) {
                pod.spec.node_name = node;
                pod.metadata.resource_version = "1".into();
                world.of_mut::<Pod>().put(pod);
            }
        }
        for info in look(&world).nodes {
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
