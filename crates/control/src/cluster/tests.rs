use std::sync::Mutex;

use reconcile::{Ctx, Plan, World};
use serde_json::{Value as Json, json};

use super::*;
use crate::tests::{Fixture, NOW};

const JAN_1: &str = "2026-01-01T00:00:00Z";

fn node(name: &str, ready: &str, taints: Json) -> Json {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": JAN_1, "lastTransitionTime": JAN_1}]}})
}

fn lease(name: &str, renewed: &str) -> Json {
    json!({"kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": renewed}})
}

fn pod(name: &str, node: &str, ready: bool) -> Json {
    json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"nodeName": node, "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.0.{}", name.len())}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": JAN_1}]}})
}

/// `object` with `more` merged into it.
fn with(mut object: Json, more: Json) -> Json {
    fn merge(into: &mut Json, from: Json) {
        match (into, from) {
            (Json::Object(into), Json::Object(from)) => {
                from.into_iter().for_each(|(name, value)| merge(into.entry(name).or_insert(Json::Null), value))
            }
            (into, from) => *into = from,
        }
    }
    merge(&mut object, more);
    object
}

mod nodes {
    use super::*;

    fn taint(key: &str, effect: &str) -> Json {
        json!({"key": format!("node.kubernetes.io/{key}"), "effect": effect, "timeAdded": JAN_1})
    }

    /// A pass at each of these times; what the last one does.
    #[track_caller]
    fn check(objects: &[Json], seconds: &[i64], expected: &[&str]) {
        let memory = Mutex::default();
        let mut fixture = Fixture::new(objects);
        let lifecycle = |world: &World, key: &Key, ctx: &mut Ctx| node_lifecycle::reconcile(world, key, ctx, &memory);
        let (last, before) = seconds.split_last().unwrap();
        for at in before {
            fixture.now = NOW + at;
            fixture.plan(lifecycle, "a");
        }
        fixture.now = NOW + last;
        fixture.check(lifecycle, "a", expected);
    }

    #[test]
    fn silence_makes_a_node_unknown_after_the_grace_period() {
        let objects = [node("a", "True", json!([])), lease("a", "2026-01-01T00:00:00.000000Z")];
        check(&objects, &[0], &["again in 50s"]);
        check(&objects, &[0, 49], &["again in 1s"]);
        let fixture = Fixture::new(&objects);
        let memory = Mutex::default();
        fixture.plan(|world, key, ctx| node_lifecycle::reconcile(world, key, ctx, &memory), "a");
        let plan = fixture.plan(
            |world, key, ctx| {
                ctx.now_ns += 50_000_000_000;
                node_lifecycle::reconcile(world, key, ctx, &memory)
            },
            "a",
        );
        let silent = plan.actions[0].object::<schema::api::core::v1::Node>().unwrap();
        let told: Vec<_> =
            silent.status.conditions.iter().map(|c| (&*c.r#type, &*c.status, &*c.reason, &*c.message)).collect();
        let never = |kind| (kind, "Unknown", "NodeStatusNeverUpdated", "Kubelet never posted node status.");
        assert_eq!(
            told,
            [
                ("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."),
                never("MemoryPressure"),
                never("DiskPressure"),
                never("PIDPressure"),
            ]
        );
    }

    #[test]
    fn a_clock_that_is_wrong_is_not_silence() {
        check(&[node("a", "True", json!([])), lease("a", "1970-01-01T00:00:07.000000Z")], &[0, 20], &["again in 30s"]);
    }

    #[test]
    fn conditions_are_taints() {
        let ready = node("b", "True", json!([]));
        let again = "again in 50s";
        check(
            &[node(
                "a",
                "True",
                json!([taint("not-ready", "NoSchedule"), taint("not-ready", "NoExecute"), taint("x", "NoSchedule")]),
            )],
            &[0],
            &[
                r#"patch nodes a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/x","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
                again,
            ],
        );
        check(
            &[with(node("a", "True", json!([])), json!({"spec": {"unschedulable": true}}))],
            &[0],
            &[
                r#"patch nodes a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unschedulable","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
                again,
            ],
        );
        let tainted = json!([taint("not-ready", "NoSchedule"), taint("not-ready", "NoExecute")]);
        check(&[node("a", "False", tainted.clone()), ready.clone()], &[0], &[again]);
        check(
            &[node("a", "False", json!([])), ready.clone()],
            &[0],
            &[
                r#"patch nodes a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-01T00:00:00Z"},{"effect":"NoExecute","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
                again,
            ],
        );
        // Nobody is ready: it is us who are cut off, and nothing is evicted.
        check(
            &[node("a", "Unknown", json!([taint("unreachable", "NoSchedule"), taint("unreachable", "NoExecute")]))],
            &[0],
            &[
                r#"patch nodes a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
                again,
            ],
        );
    }

    #[test]
    fn pods_of_a_lost_node_are_not_ready() {
        let fixture = Fixture::new(&[
            node("a", "Unknown", json!([])),
            pod("p", "a", true),
            pod("q", "a", false),
            pod("r", "b", true),
        ]);
        fixture.check(node_lifecycle::mark_pods, "a", &[
            r#"patch pods n/p status {"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","status":"False","type":"Ready"}]}}"#,
            "Warning p NodeNotReady",
        ]);
        Fixture::new(&[node("a", "True", json!([])), pod("p", "a", true)]).check(node_lifecycle::mark_pods, "a", &[]);
    }

    #[test]
    fn eviction_waits_as_long_as_is_tolerated() {
        #[track_caller]
        fn check(tolerations: Json, at: i64, expected: &[&str]) {
            let mut fixture = Fixture::new(&[
                node("a", "Unknown", json!([taint("unreachable", "NoExecute")])),
                with(pod("p", "a", true), json!({"spec": {"tolerations": tolerations}})),
            ]);
            fixture.now = NOW + at;
            let memory = Mutex::default();
            fixture.check(|world, key, ctx| pod_gc::evict(world, key, ctx, &memory), "n/p", expected);
        }
        let evicted = |at: &str| {
            [
                "Normal p TaintManagerEviction".to_owned(),
                format!(
                    r#"patch pods n/p status {{"status":{{"conditions":[{{"lastTransitionTime":"{at}","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}}]}}}}"#
                ),
                "delete pods n/p".to_owned(),
            ]
        };
        let expect = |at| evicted(at).map(|line| &*line.leak());
        let tolerate = |seconds: Json| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        check(json!([]), 0, &expect(JAN_1));
        check(tolerate(json!(300)), 0, &["again in 300s"]);
        check(tolerate(json!(300)), 299, &["again in 1s"]);
        check(tolerate(json!(300)), 300, &expect("2026-01-01T00:05:00Z"));
        check(tolerate(Json::Null), 300, &[]);
    }

    #[test]
    fn pods_that_nobody_ends() {
        #[track_caller]
        fn check(objects: &[Json], at: &[i64], expected: &[&str]) {
            let memory = Mutex::default();
            let mut fixture = Fixture::new(objects);
            let (last, before) = at.split_last().unwrap();
            let collect = |world: &World, key: &Key, ctx: &mut Ctx| pod_gc::collect(world, key, ctx, &memory);
            for seconds in before {
                fixture.now = NOW + seconds;
                fixture.plan(collect, "n/p");
            }
            fixture.now = NOW + last;
            fixture.check(collect, "n/p", expected);
        }
        let deleting = json!({"metadata": {"deletionTimestamp": JAN_1}});
        check(&[pod("p", "a", true), node("a", "True", json!([]))], &[0], &[]);
        check(&[with(pod("p", "", true), deleting.clone())], &[0], &["delete pods n/p grace 0"]);
        check(&[pod("p", "a", true)], &[0], &["again in 40s"]);
        check(
            &[pod("p", "a", true)],
            &[0, 40],
            &[
                r#"patch pods n/p status {"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:40Z","message":"PodGC: node no longer exists","reason":"DeletionByPodGC","status":"True","type":"DisruptionTarget"}],"phase":"Failed"}}"#,
                "delete pods n/p grace 0",
            ],
        );
        let out = node("a", "False", json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]));
        check(&[pod("p", "a", true), out.clone()], &[0], &[]);
        check(
            &[with(pod("p", "a", true), with(deleting, json!({"status": {"phase": "Failed"}}))), out],
            &[0],
            &["delete pods n/p grace 0"],
        );
    }
}

mod budgets {
    use super::*;

    /// (allowed, healthy, desired, expected, reason)
    #[track_caller]
    fn check(spec: Json, pods: &[bool], expected: (i32, i32, i32, i32, &str)) {
        let spec = with(json!({"selector": {"matchLabels": {"app": "a"}}}), spec);
        let mut objects = vec![
            json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b", "generation": 2}, "spec": spec}),
            json!({"kind": "ReplicaSet", "metadata": {"name": "rs"}, "spec": {"replicas": 4}}),
        ];
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": true}]);
        objects.extend(pods.iter().enumerate().map(|(index, ready)| {
            with(pod(&format!("p{index}"), "a", *ready), json!({"metadata": {"ownerReferences": owner}}))
        }));
        let plan = Fixture::new(&objects).plan(disruption::reconcile, "n/b");
        let status = &plan.actions[0].object::<schema::api::policy::v1::PodDisruptionBudget>().unwrap().status;
        let told = (
            status.disruptions_allowed, status.current_healthy, status.desired_healthy, status.expected_pods,
            &*status.conditions[0].reason,
        );
        assert_eq!((told, status.observed_generation), (expected, 2));
    }

    #[test]
    fn what_may_be_evicted() {
        check(json!({"minAvailable": 2}), &[true, true, true, false], (1, 3, 2, 4, "SufficientPods"));
        check(json!({"minAvailable": "50%"}), &[true, true, true], (1, 3, 2, 4, "SufficientPods"));
        check(json!({"maxUnavailable": 1}), &[true, true, true, true], (1, 4, 3, 4, "SufficientPods"));
        check(json!({"maxUnavailable": 1}), &[true, true, true, false], (0, 3, 3, 4, "InsufficientPods"));
        check(json!({"maxUnavailable": "30%"}), &[true; 4], (2, 4, 2, 4, "SufficientPods"));
        check(json!({"minAvailable": 1}), &[], (0, 0, 1, 0, "InsufficientPods"));
    }

    #[test]
    fn pods_that_cannot_be_counted_are_not_evicted() {
        let owner = json!([{"apiVersion": "x.io/v1", "kind": "X", "name": "x", "uid": "x", "controller": true}]);
        let objects = [
            json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"maxUnavailable": 1, "selector": {}}}),
            with(pod("p", "a", true), json!({"metadata": {"ownerReferences": owner}})),
        ];
        let plan = Fixture::new(&objects).plan(disruption::reconcile, "n/b");
        let status = &plan.actions[0].object::<schema::api::policy::v1::PodDisruptionBudget>().unwrap().status;
        assert_eq!((status.disruptions_allowed, &*status.conditions[0].reason), (0, "SyncFailed"));
    }
}

#[test]
fn endpoints_follow_the_pods_of_a_service() {
    let service = json!({"kind": "Service", "metadata": {"name": "s", "labels": {"l": "1"}}, "spec": {
        "clusterIP": "10.43.0.7", "selector": {"app": "a"}, "ports": [{"name": "w", "port": 80, "protocol": "TCP", "targetPort": "web"}]}});
    let fixture = Fixture::new(&[
        service.clone(),
        pod("p", "a", true),
        pod("qq", "a", false),
        with(pod("rrr", "a", true), json!({"metadata": {"labels": {"app": "b"}}})),
    ]);
    let plan = fixture.plan(endpoints::reconcile, "n/s");
    let made = plan.actions[0].object::<schema::api::core::v1::Endpoints>().unwrap();
    let [subset] = &made.subsets[..] else { panic!("{:?}", made.subsets) };
    let ips = |addresses: &[schema::api::core::v1::EndpointAddress]| {
        addresses.iter().map(|address| address.ip.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ips(&subset.addresses), ips(&subset.not_ready_addresses)),
        (vec!["10.42.0.1".to_owned()], vec!["10.42.0.2".to_owned()])
    );
    assert_eq!((&*subset.ports[0].name, subset.ports[0].port), ("w", 8080));
    let labels: Vec<_> = made.metadata.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["endpoints.kubernetes.io/managed-by=endpoint-controller", "l=1"]);
    let made = made.clone();
    let mut fixture = Fixture::new(&[service, pod("p", "a", true), pod("qq", "a", false)]);
    fixture.add(made.clone());
    fixture.check(endpoints::reconcile, "n/s", &[]);
    let mut alone = Fixture::new(&[]);
    alone.add(made);
    alone.check(endpoints::reconcile, "n/s", &["delete endpoints n/s"]);
}

#[test]
fn endpoints_by_hand_are_mirrored() {
    let service = |spec: Json| json!({"kind": "Service", "metadata": {"name": "s"}, "spec": spec});
    let by_hand = |meta: Json| {
        let endpoints = json!({"kind": "Endpoints", "metadata": {"name": "s", "uid": "e", "labels": {"l": "1"}},
            "subsets": [{"addresses": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.1.0.2", "hostname": "h"}], "ports": [{"port": 80}]}]});
        with(endpoints, json!({ "metadata": meta }))
    };
    let slice = |family: &str, endpoints: Json| {
        let owner = json!({"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true, "kind": "Endpoints", "name": "s", "uid": "e"});
        json!({"addressType": family, "endpoints": endpoints,
            "metadata": {"generateName": "s-", "namespace": "n", "ownerReferences": [owner], "labels": {"l": "1",
                "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io", "kubernetes.io/service-name": "s"}},
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}]})
    };
    let four = slice(
        "IPv4",
        json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.1.0.2"], "conditions": {"ready": false}, "hostname": "h"}]),
    );
    let six = slice("IPv6", json!([{"addresses": ["fd00::1"], "conditions": {"ready": true}}]));
    let made = [format!("create endpointslices n/ {four}"), format!("create endpointslices n/ {six}")];
    let made: Vec<&str> = made.iter().map(String::as_str).collect();
    let there = with(four, json!({"kind": "EndpointSlice", "metadata": {"name": "s-1"}}));
    let no_selector = || service(json!({}));
    let rows = [
        (vec![no_selector(), by_hand(json!({}))], &made[..]),
        (vec![no_selector(), by_hand(json!({})), there.clone()], &made[1..]),
        (vec![by_hand(json!({}))], &[]),
        (
            vec![service(json!({"selector": {"a": "b"}})), by_hand(json!({})), there.clone()],
            &["delete endpointslices n/s-1"],
        ),
        (vec![no_selector(), by_hand(json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}))], &[]),
        (vec![no_selector(), there], &["delete endpointslices n/s-1"]),
    ];
    for (objects, expected) in rows {
        Fixture::new(&objects).check(mirror::reconcile, "n/s", expected);
    }
}

/// `trafficDistribution` and what an endpoint's hints are then.
#[test]
fn hints_follow_the_traffic_distribution() {
    let zoned = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}});
    let zones = json!([{"name": "z"}]);
    for (wanted, ready, hints) in [
        ("PreferClose", true, json!({ "forZones": zones })),
        ("PreferSameZone", true, json!({ "forZones": zones })),
        ("PreferSameNode", true, json!({"forNodes": [{"name": "a"}], "forZones": zones})),
        ("PreferSameNode", false, Json::Null),
        ("other", true, Json::Null),
    ] {
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "10.43.0.7", "selector": {"app": "a"},
            "trafficDistribution": wanted, "ports": [{"port": 80}]}});
        let fixture = Fixture::new(&[service, pod("p", "a", ready), with(node("a", "True", json!([])), zoned.clone())]);
        let plan = fixture.plan(endpoint_slices::reconcile, "n/s");
        let made = plan.actions[0].object::<schema::api::discovery::v1::EndpointSlice>().unwrap();
        let told = made.endpoints[0].hints.as_ref().map(|hints| {
            let zones: Vec<_> = hints.for_zones.iter().map(|zone| &zone.name).collect();
            let nodes: Vec<_> = hints.for_nodes.iter().map(|node| &node.name).collect();
            format!("{zones:?} {nodes:?}")
        });
        let names = |field: &str| {
            hints[field].as_array().into_iter().flatten().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>()
        };
        let expected = hints.is_object().then(|| format!("{:?} {:?}", names("forZones"), names("forNodes")));
        assert_eq!(told, expected, "{wanted}");
    }
}

#[test]
fn ephemeral_volumes_get_claims_of_their_pods() {
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"l": "1"}}, "spec": {"storageClassName": "x"}}}});
    let user = with(pod("p", "a", true), json!({"spec": {"volumes": [volume]}}));
    let claim = json!({"metadata": {"labels": {"l": "1"}, "name": "p-v", "namespace": "n", "ownerReferences": [
        {"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true, "kind": "Pod", "name": "p", "uid": "p-uid"}]}, "spec": {"resources": {}, "storageClassName": "x"}, "status": {}});
    let make = volumes::make_ephemeral;
    Fixture::new(std::slice::from_ref(&user)).check(
        make,
        "n/p",
        &[&format!("create persistentvolumeclaims n/p-v {claim}")],
    );
    let claim = with(claim, json!({"kind": "PersistentVolumeClaim"}));
    Fixture::new(&[user.clone(), claim.clone()]).check(make, "n/p", &[]);
    let foreign = with(claim, json!({"metadata": {"ownerReferences": []}}));
    Fixture::new(&[user, foreign]).check(make, "n/p", &["Warning p EphemeralBinding"]);
}

#[test]
fn roles_gather_the_rules_of_those_selected() {
    let role = |name: &str, verbs: Json| json!({"kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": "all"}}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
    let all = json!({"kind": "ClusterRole", "metadata": {"name": "all", "labels": {"to": "all"}}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}});
    let fixture =
        Fixture::new(&[role("b", json!(["get"])), role("a", json!(["list"])), role("c", json!(["get"])), all]);
    fixture.check(roles::reconcile, "all", &[
        r#"patch clusterroles all {"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"all"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["list"]},{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}"#,
    ]);
    fixture.check(roles::reconcile, "a", &[]);
}

#[test]
fn certificate_requests_live_a_quarter_of_an_hour() {
    let request = |made: &str| {
        let meta = json!({"name": "r", "creationTimestamp": made});
        json!({"kind": "PodCertificateRequest", "metadata": meta})
    };
    for (made, expected) in [
        (JAN_1, "again in 900s"),
        ("2025-12-31T23:45:01Z", "again in 1s"),
        ("2025-12-31T23:45:00Z", "delete podcertificaterequests n/r"),
    ] {
        Fixture::new(&[request(made)]).check(certificates::clean_of_pod, "n/r", &[expected]);
    }
}

#[test]
fn signing_requests_are_answered_and_then_go() {
    const AN_HOUR_AGO: &str = "2025-12-31T23:00:00Z";
    const A_DAY_AGO: &str = "2025-12-31T00:00:00Z";
    let signer = |answer: Option<Result<&'static str, &'static str>>| {
        let answer = answer.map(|answer| answer.map(str::to_owned).map_err(str::to_owned));
        Signer(std::sync::Arc::new(move |_, _| answer.clone()))
    };
    let request = |made: &str, conditions: Json, certificate: &str| {
        let status = json!({"conditions": conditions, "certificate": certificate});
        json!({"kind": "CertificateSigningRequest", "metadata": {"name": "r", "creationTimestamp": made}, "status": status})
    };
    let condition = |kind: &str, at: &str| json!({"type": kind, "status": "True", "lastUpdateTime": at});
    let approved = |at: &str| json!([condition("Approved", at)]);
    let pem = Some(Ok("PEM"));
    for (conditions, certificate, answer, expected) in [
        (json!([]), "", pem, &[][..]),
        (approved(JAN_1), "UEVN", pem, &[]),
        (approved(JAN_1), "", None, &[]),
        (json!([condition("Approved", JAN_1), condition("Failed", JAN_1)]), "", pem, &[]),
        (approved(JAN_1), "", pem, &[r#"status certificatesigningrequests r {"status":{"certificate":"UEVN"}}"#]),
        (
            approved(JAN_1),
            "",
            Some(Err("no")),
            &[
                r#"status certificatesigningrequests r {"status":{"conditions":[{"lastTransitionTime":null,"lastUpdateTime":"2026-01-01T00:00:00Z","status":"True","type":"Approved"},{"lastTransitionTime":null,"lastUpdateTime":"2026-01-01T00:00:00Z","message":"no","reason":"SignerValidationFailure","status":"True","type":"Failed"}]}}"#,
            ],
        ),
    ] {
        let signer = signer(answer);
        let sign = |world: &World, key: &Key, ctx: &mut Ctx| certificates::sign(world, key, ctx, &signer);
        Fixture::new(&[request(JAN_1, conditions, certificate)]).check(sign, "r", expected);
    }
    for (made, conditions, certificate, expected) in [
        (JAN_1, json!([]), "", "again in 86400s"),
        (A_DAY_AGO, json!([]), "", "delete certificatesigningrequests r"),
        (A_DAY_AGO, approved(JAN_1), "", "again in 86400s"),
        (A_DAY_AGO, approved(JAN_1), "UEVN", "again in 3600s"),
        (A_DAY_AGO, approved(AN_HOUR_AGO), "UEVN", "delete certificatesigningrequests r"),
        (A_DAY_AGO, json!([condition("Denied", AN_HOUR_AGO)]), "", "delete certificatesigningrequests r"),
    ] {
        Fixture::new(&[request(made, conditions, certificate)]).check(certificates::clean, "r", &[expected]);
    }
}

#[test]
fn quotas_are_counted_anew() {
    #[track_caller]
    fn check(spec: Json, expected: &[(&str, &str)]) {
        let hungry = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"cpu": "1"}}}]}});
        let fixture = Fixture::new(&[
            json!({"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": spec}),
            with(pod("p", "a", true), hungry.clone()),
            with(pod("pp", "a", true), hungry.clone()),
            with(pod("ended", "a", true), with(hungry, json!({"status": {"phase": "Succeeded"}}))),
            pod("idle", "a", true),
            json!({"kind": "ConfigMap", "metadata": {"name": "m"}}),
            json!({"kind": "ConfigMap", "metadata": {"name": "m", "namespace": "other"}}),
            json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}}),
        ]);
        let plan = fixture.plan(quotas::reconcile, "n/q");
        let status = &plan.actions[0].object::<schema::api::core::v1::ResourceQuota>().unwrap().status;
        let used: Vec<_> = status.used.iter().map(|(name, amount)| (&**name, &*amount.0)).collect();
        assert_eq!((used, status.hard.len()), (expected.to_vec(), expected.len()));
    }
    let hard = |names: &[&str]| -> Json {
        json!({"hard": names.iter().map(|name| ((*name).to_owned(), json!("9"))).collect::<serde_json::Map<_, _>>()})
    };
    check(
        hard(&["pods", "cpu", "requests.memory", "limits.cpu"]),
        &[("cpu", "600m"), ("limits.cpu", "2"), ("pods", "3"), ("requests.memory", "2Gi")],
    );
    check(
        hard(&["count/pods", "configmaps", "count/configmaps", "secrets"]),
        &[("configmaps", "1"), ("count/configmaps", "1"), ("count/pods", "4"), ("secrets", "0")],
    );
    check(
        hard(&["services", "services.nodeports", "services.loadbalancers"]),
        &[("services", "1"), ("services.loadbalancers", "0"), ("services.nodeports", "2")],
    );
    check(with(hard(&["pods"]), json!({"scopes": ["BestEffort"]})), &[("pods", "1")]);
    check(with(hard(&["pods"]), json!({"scopes": ["NotBestEffort", "NotTerminating"]})), &[("pods", "2")]);
}

mod storage {
    use super::*;
    use schema::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

    fn volume(name: &str, size: &str, class: &str) -> Json {
        json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": class, "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Available"}})
    }

    fn claim(class: &str) -> Json {
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "2Gi"}}}, "status": {}})
    }

    /// Carries out the plans of both rows until nothing changes; then `claim phase→volume, volume phase…`.
    #[track_caller]
    fn check(objects: &[Json], expected: &str) {
        let mut fixture = Fixture::new(objects);
        for _ in 0..10 {
            let mut keys: Vec<(fn(&World, &Key, &mut Ctx) -> Plan, String)> =
                vec![(volumes::sync_claim, "n/c".to_owned())];
            keys.extend(
                fixture
                    .world
                    .of::<PersistentVolume>()
                    .iter()
                    .map(|(key, _)| (volumes::sync_volume as _, key.to_string())),
            );
            for (reconcile, key) in keys {
                for action in fixture.plan(reconcile, &key).actions {
                    if let Some(volume) = action.object::<PersistentVolume>() {
                        fixture.add(volume.clone());
                    } else if let Some(claim) = action.object::<PersistentVolumeClaim>() {
                        fixture.add(claim.clone());
                    }
                }
            }
        }
        let claim = fixture.world.of::<PersistentVolumeClaim>().named("n", "c").unwrap();
        let mut told = format!("{} {}", claim.status.phase, claim.spec.volume_name);
        for volume in fixture.world.of::<PersistentVolume>().values() {
            told.push_str(&format!(", {} {}", volume.metadata.name, volume.status.phase));
        }
        assert_eq!(told, expected);
        fixture.check(volumes::sync_claim, "n/c", &[]);
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_serves_it() {
        check(
            &[
                claim("x"),
                volume("big", "10Gi", "x"),
                volume("fit", "3Gi", "x"),
                volume("small", "1Gi", "x"),
                volume("other", "2Gi", "y"),
            ],
            "Bound fit, big Available, fit Bound, other Available, small Available",
        );
        check(&[claim("x")], "Pending ");
        check(&[claim(""), volume("v", "2Gi", "")], "Bound v, v Bound");
        // Made for this claim by a provisioner.
        let made = with(volume("made", "2Gi", "x"), json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}}));
        check(&[claim("x"), made, volume("a", "2Gi", "x")], "Bound made, a Available, made Bound");
        let taken = with(
            volume("v", "2Gi", "x"),
            json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "d-uid"}}}),
        );
        check(&[with(claim("x"), json!({"spec": {"volumeName": "v"}})), taken], "Pending v, v Released");
    }

    #[test]
    fn a_claim_whose_volume_is_gone_is_lost() {
        let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "gone"}, "status": {"phase": "Bound"}});
        check(&[with(claim("x"), bound)], "Lost gone");
    }

    #[test]
    fn a_class_may_wait_for_the_first_consumer() {
        let class = json!({"kind": "StorageClass", "metadata": {"name": "x"}, "provisioner": "p.io/p", "volumeBindingMode": "WaitForFirstConsumer"});
        check(&[claim("x"), volume("v", "2Gi", "x"), class.clone()], "Pending , v Available");
        let chosen =
            with(claim("x"), json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "a"}}}));
        let fixture = Fixture::new(&[chosen, class]);
        fixture.check(volumes::sync_claim, "n/c", &[
            r#"update persistentvolumeclaims n/c {"metadata":{"annotations":{"volume.beta.kubernetes.io/storage-provisioner":"p.io/p","volume.kubernetes.io/storage-provisioner":"p.io/p"}}}"#,
            "Normal c ExternalProvisioning",
        ]);
    }

    #[test]
    fn attributes_stay_while_a_claim_or_a_volume_has_them() {
        let class = json!({"kind": "VolumeAttributesClass", "metadata": {"name": "gold",
            "deletionTimestamp": JAN_1, "finalizers": ["kubernetes.io/vac-protection"]}, "driverName": "d"});
        let claim = |spec: Json, status: Json| json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "n"}, "spec": spec, "status": status});
        let named = json!({"volumeAttributesClassName": "gold"});
        for (user, held) in [
            (claim(named.clone(), json!({})), true),
            (claim(json!({}), json!({"currentVolumeAttributesClassName": "gold"})), true),
            (
                claim(
                    json!({}),
                    json!({"modifyVolumeStatus": {"targetVolumeAttributesClassName": "gold", "status": "Pending"}}),
                ),
                true,
            ),
            (json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": named}), true),
            (claim(json!({"volumeAttributesClassName": "silver"}), json!({})), false),
        ] {
            let plan = Fixture::new(&[class.clone(), user.clone()]).plan(volumes::protect_attributes, "gold");
            assert_eq!(plan.actions.is_empty(), held, "{user}");
        }
    }
}
