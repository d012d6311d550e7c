//! A fresh cluster, a second start, and what operators changed in between.

use serde_json::json;

use super::*;
use crate::view::fake::{Fake, value};
use crate::view::{self, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};

fn facts() -> Facts {
    Facts {
        addresses: vec!["192.168.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        port: 6443,
        service_cidrs: vec!["10.43.0.0/16".into()],
        client_ca_pem: "CA".into(),
        request_header_ca_pem: "RCA".into(),
        request_header_names: vec!["system:auth-proxy".into()],
    }
}

fn apply(view: &Fake, actions: &[Action]) {
    for action in actions {
        match action {
            Action::Create(of, object) | Action::Update(of, object) | Action::UpdateStatus(of, object) => {
                view.put(*of, object.clone());
            }
            Action::Delete(of, namespace, name) => view.delete(*of, namespace, name),
        }
    }
}

fn started() -> Fake {
    let view = Fake::default();
    apply(&view, &plan(&view, &facts(), "t"));
    let second = plan(&view, &facts(), "t");
    // What has a status gets it once it is there.
    assert!(second.iter().all(|a| matches!(a, Action::UpdateStatus(..))) && second.len() == 1, "{second:?}");
    apply(&view, &second);
    view
}

#[test]
fn a_second_start_changes_nothing() {
    let view = started();
    assert_eq!(plan(&view, &facts(), "later"), []);
    for (of, count) in [(CLUSTER_ROLES, 73 + 6), (CLUSTER_ROLE_BINDINGS, 54 + 8), (ROLES, 7), (ROLE_BINDINGS, 7)] {
        assert_eq!(view.list(of, "").len(), count, "{of:?}");
    }
    assert_eq!(view.list(NAMESPACES, "").len(), 4);
    let endpoints = view.get(ENDPOINTS, "default", "kubernetes").unwrap();
    assert_eq!(endpoints["subsets"][0]["addresses"], value(json!([{"ip": "192.168.1.5"}])));
    let service = view.get(SERVICES, "default", "kubernetes").unwrap();
    assert_eq!(service.str_at(&["spec", "clusterIP"]), "10.43.0.1");
    let names = view.get(CONFIG_MAPS, "kube-system", "extension-apiserver-authentication").unwrap();
    assert_eq!(names.str_at(&["data", "requestheader-allowed-names"]), r#"["system:auth-proxy"]"#);
}

/// A change by hand, and what the next start does about it.
fn check(of: Of, namespace: &str, name: &str, change: impl FnOnce(&mut Value), expected: &[&str]) {
    let view = started();
    let mut object = (*view.get(of, namespace, name).unwrap()).clone();
    change(&mut object);
    view.put(of, object);
    let did: Vec<String> = plan(&view, &facts(), "t")
        .iter()
        .map(|action| match action {
            Action::Create(_, o) => format!("create {}", view::name(o)),
            Action::Update(_, o) => format!("update {}", view::name(o)),
            Action::UpdateStatus(_, o) => format!("status {}", view::name(o)),
            Action::Delete(_, _, name) => format!("delete {name}"),
        })
        .collect();
    assert_eq!(did, expected);
}

#[test]
fn what_was_changed_by_hand() {
    let scheduler = ("", "system:kube-scheduler");
    let no_rules = |o: &mut Value| o.set(&["rules"], Value::List(vec![]));
    check(CLUSTER_ROLES, scheduler.0, scheduler.1, no_rules, &["update system:kube-scheduler"]);
    check(CLUSTER_ROLES, "", "view", |o| drop(o.remove(&["metadata", "labels"])), &["update view"]);
    let protected = |o: &mut Value| {
        o.set(&["metadata", "annotations", "rbac.authorization.kubernetes.io/autoupdate"], "false");
        o.set(&["rules"], Value::List(vec![]));
    };
    check(CLUSTER_ROLES, scheduler.0, scheduler.1, protected, &[]);
    let more = |o: &mut Value| o.make_list(&["subjects"]).push(value(json!({"kind": "User", "name": "x"})));
    check(CLUSTER_ROLE_BINDINGS, "", "cluster-admin", more, &[]);
    check(CLUSTER_ROLE_BINDINGS, "", "cluster-admin", |o| drop(o.remove(&["subjects"])), &["update cluster-admin"]);
    let other = |o: &mut Value| o.set(&["roleRef", "name"], "view");
    check(CLUSTER_ROLE_BINDINGS, "", "cluster-admin", other, &["delete cluster-admin", "create cluster-admin"]);
    let flow = Of("flowcontrol.apiserver.k8s.io", "flowschemas");
    let moved = |o: &mut Value| o.set(&["spec", "matchingPrecedence"], 7);
    check(flow, "", "probes", moved, &["update probes"]);
    let taken = |o: &mut Value| {
        o.set(&["metadata", "annotations", "apf.kubernetes.io/autoupdate-spec"], "false");
        o.set(&["spec", "matchingPrecedence"], 7);
    };
    check(flow, "", "probes", taken, &[]);
    check(flow, "", "catch-all", taken, &["update catch-all"]);
    check(ENDPOINTS, "default", "kubernetes", |o| drop(o.remove(&["subsets"])), &["update kubernetes"]);
    check(SERVICES, "default", "kubernetes", |o| o.set(&["spec", "clusterIPs"], value(json!(["10.43.0.1"]))), &[]);
    check(PRIORITY_CLASSES, "", "system-node-critical", |o| o.set(&["description"], "mine"), &[]);
}

#[test]
fn first_addresses() {
    for (cidr, first) in [("10.43.0.0/16", "10.43.0.1"), ("10.96.0.7/24", "10.96.0.1"), ("fd00:43::/112", "fd00:43::1")]
    {
        assert_eq!(first_address(cidr).unwrap().to_string(), first);
    }
    assert_eq!(first_address("10.43.0.0"), None);
    assert_eq!(first_address("10.43.0.0/33"), None);
}
