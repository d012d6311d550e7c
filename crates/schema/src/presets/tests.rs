use super::*;
use crate::{MessageId, Table, json};

/// The presets of one type, on an object of JSON.
fn preset(message: &str, given: &str) -> String {
    let table = Table::builtin();
    let MessageId(id) = table.id(message).expect(message);
    let Value::Object(mut object) = json::parse(given.as_bytes()).unwrap() else { panic!("an object: {given}") };
    table.messages[id as usize].preset(&mut object);
    Value::Object(object).to_string()
}

#[test]
fn types_get_upstreams_defaults() {
    let check = |message: &str, given: &str, want: &str| {
        assert_eq!(preset(&format!("io.k8s.api.{message}"), given), want, "{message} {given}");
    };
    check(
        "core.v1.Probe",
        r#"{"periodSeconds":0}"#,
        r#"{"failureThreshold":3,"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1}"#,
    );
    check("apps.v1.ReplicaSetSpec", r#"{"replicas":0}"#, r#"{"replicas":0}"#);
    check("core.v1.Volume", r#"{"name":"a"}"#, r#"{"emptyDir":{},"name":"a"}"#);
    check("core.v1.Volume", r#"{"hostPath":{"path":"/"},"name":"a"}"#, r#"{"hostPath":{"path":"/"},"name":"a"}"#);
    check("core.v1.ServicePort", r#"{"port":80}"#, r#"{"port":80,"targetPort":80}"#);
    check("rbac.v1.Subject", r#"{"kind":"User"}"#, r#"{"apiGroup":"rbac.authorization.k8s.io","kind":"User"}"#);
    check("rbac.v1.Subject", r#"{"kind":"ServiceAccount"}"#, r#"{"kind":"ServiceAccount"}"#);
    check(
        "core.v1.PodStatus",
        r#"{"podIPs":[{"ip":"10.0.0.1"}]}"#,
        r#"{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}]}"#,
    );
    check(
        "networking.v1.NetworkPolicySpec",
        r#"{"egress":[{}]}"#,
        r#"{"egress":[{}],"policyTypes":["Ingress","Egress"]}"#,
    );
    check(
        "apps.v1.StatefulSetUpdateStrategy",
        "{}",
        r#"{"rollingUpdate":{"maxUnavailable":1,"partition":0},"type":"RollingUpdate"}"#,
    );
    check("apps.v1.DeploymentStrategy", r#"{"type":"Recreate"}"#, r#"{"type":"Recreate"}"#);
    check(
        "core.v1.Service",
        r#"{"spec":{"type":"LoadBalancer","sessionAffinity":"ClientIP"}}"#,
        r#"{"spec":{"allocateLoadBalancerNodePorts":true,"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":10800}},"type":"LoadBalancer"}}"#,
    );
    check(
        "core.v1.Pod",
        r#"{"spec":{"containers":[{"ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1"}}}],"hostNetwork":true}}"#,
        r#"{"spec":{"containers":[{"ports":[{"containerPort":80,"hostPort":80}],"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}}}],"enableServiceLinks":true,"hostNetwork":true}}"#,
    );
    check(
        "batch.v1.Job",
        r#"{"spec":{"completions":3,"template":{"metadata":{"labels":{"a":"b"}}}}}"#,
        r#"{"metadata":{"labels":{"a":"b"}},"spec":{"backoffLimit":6,"completionMode":"NonIndexed","completions":3,"manualSelector":false,"parallelism":1,"podReplacementPolicy":"TerminatingOrFailed","suspend":false,"template":{"metadata":{"labels":{"a":"b"}}}}}"#,
    );
}

#[test]
fn images_are_pulled_by_tag() {
    let policies = [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("registry:5000/busybox", "Always"),
        ("registry:5000/a/busybox:2", "IfNotPresent"),
        ("busybox@sha256:0123", "IfNotPresent"),
        ("busybox:latest@sha256:0123", "Always"),
        ("", "IfNotPresent"),
    ];
    for (image, policy) in policies {
        assert_eq!(pull_policy(image), policy, "{image}");
    }
}

#[test]
fn every_function_has_a_type() {
    let named: Vec<_> = Table::builtin().messages.iter().filter_map(|m| m.conditional).collect();
    for (name, function) in CONDITIONALS {
        assert!(named.iter().any(|f| std::ptr::fn_addr_eq(*f, *function)), "no type of the overlay names {name}");
    }
}
