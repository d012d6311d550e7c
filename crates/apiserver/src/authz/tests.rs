//! Rows of users and requests against RBAC and the node authorizer.

use serde_json::json;

use super::*;
use crate::bootstrap;
use crate::handle::forbidden;
use crate::view::fake::{Fake, value};
use crate::view::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, PERSISTENT_VOLUMES, PODS, ROLE_BINDINGS, ROLES};

/// `get pods/log name in namespace`, `list deployments.apps`, `get /healthz`.
fn request(text: &str) -> Attributes {
    let mut words = text.split(' ');
    let verb = words.next().unwrap().to_owned();
    let what = words.next().unwrap();
    if what.starts_with('/') {
        return Attributes { verb, path: what.into(), ..Attributes::default() };
    }
    let (what, group) = what.split_once('.').unwrap_or((what, ""));
    let (what, group, subresource) = match (what.split_once('/'), group.split_once('/')) {
        (Some((resource, sub)), _) => (resource, group, sub),
        (_, Some((group, sub))) => (what, group, sub),
        _ => (what, group, ""),
    };
    let mut attributes = Attributes {
        verb,
        resource: what.into(),
        subresource: subresource.into(),
        api_group: group.into(),
        is_resource: true,
        ..Attributes::default()
    };
    while let Some(word) = words.next() {
        match word {
            "in" => attributes.namespace = words.next().unwrap().into(),
            "where" => attributes.field_selector = words.next().unwrap().into(),
            name => attributes.name = name.into(),
        }
    }
    attributes
}

fn check(authorizer: &Authorizer, view: &Fake, user: &User, rows: &[(&str, bool)]) {
    for (text, allowed) in rows {
        let decision = authorizer.at_once(view, user, &request(text)).unwrap();
        assert_eq!(matches!(decision, Decision::Allow(_)), *allowed, "{} {text}: {decision:?}", user.name);
    }
}

fn role(of: crate::view::Of, namespace: &str, name: &str, rules: serde_json::Value) -> (crate::view::Of, Value) {
    (of, value(json!({"metadata": {"name": name, "namespace": namespace}, "rules": rules})))
}

fn binding(
    namespace: &str,
    name: &str,
    kind: &str,
    role: &str,
    subject: serde_json::Value,
) -> (crate::view::Of, Value) {
    let of = if namespace.is_empty() { CLUSTER_ROLE_BINDINGS } else { ROLE_BINDINGS };
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "roleRef": role, "subjects": [subject]});
    (of, value(object))
}

fn fresh_cluster() -> Fake {
    let view = Fake::default();
    for action in bootstrap::plan(&view, &bootstrap::Facts::default(), "") {
        if let bootstrap::Action::Create(of, object) = action {
            view.put(of, object);
        }
    }
    view
}

#[test]
fn rbac_allows_what_roles_say_and_nothing_else() {
    let view = Fake::default();
    let rules = json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
        {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"]},
        {"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]},
        {"verbs": ["get"], "nonResourceURLs": ["/logs/*", "/version"]},
    ]);
    for (of, object) in [
        role(CLUSTER_ROLES, "", "reader", rules.clone()),
        role(ROLES, "a", "own", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])),
        binding("", "all", "ClusterRole", "reader", json!({"kind": "User", "name": "anna"})),
        binding("a", "in-a", "ClusterRole", "reader", json!({"kind": "Group", "name": "team"})),
        binding("a", "own", "Role", "own", json!({"kind": "ServiceAccount", "name": "bot", "namespace": "b"})),
    ] {
        view.put(of, object);
    }
    let authorizer = Authorizer::default();
    let anna = User::new("anna", &[]);
    check(
        &authorizer,
        &view,
        &anna,
        &[
            ("get pods p in a", true),
            ("list pods", true),
            ("get pods/log p in a", true),
            ("get pods/exec p in a", false),
            ("delete pods p in a", false),
            ("get pods.metrics.k8s.io p in a", false),
            ("delete deployments.apps web in a", true),
            ("delete deployments.apps other in a", false),
            ("list deployments.apps in a", false),
            ("update deployments.apps/scale other in a", true),
            ("update scale.apps x in a", false),
            ("get /version", true),
            ("get /logs/x/y", true),
            ("get /logs", false),
            ("post /version", false),
        ],
    );
    check(
        &authorizer,
        &view,
        &User::new("x", &["team"]),
        &[("get pods p in a", true), ("get pods p in b", false), ("list pods", false), ("get /version", false)],
    );
    check(
        &authorizer,
        &view,
        &User::new("system:serviceaccount:b:bot", &[]),
        &[("deletecollection secrets in a", true), ("get secrets s in b", false), ("get namespaces a", false)],
    );
    check(
        &authorizer,
        &view,
        &User::new("root", &["system:masters"]),
        &[("impersonate users x", true), ("get /x", true)],
    );
    // Changes are seen at the next request.
    let (of, object) = role(CLUSTER_ROLES, "", "reader", json!([]));
    view.put(of, object);
    check(&authorizer, &view, &anna, &[("get pods p in a", false)]);
    let (of, object) = role(CLUSTER_ROLES, "", "reader", rules);
    view.put(of, object);
    check(&authorizer, &view, &anna, &[("get pods p in a", true)]);
    view.delete(CLUSTER_ROLE_BINDINGS, "", "all");
    check(&authorizer, &view, &anna, &[("get pods p in a", false)]);
}

#[test]
fn reasons_and_messages_are_upstreams() {
    let view = Fake::default();
    for (of, object) in [
        role(CLUSTER_ROLES, "", "r", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])),
        binding("", "b", "ClusterRole", "r", json!({"kind": "User", "name": "anna"})),
        binding("n", "c", "Role", "gone", json!({"kind": "User", "name": "anna"})),
    ] {
        view.put(of, object);
    }
    let authorizer = Authorizer::default();
    let anna = User::new("anna", &[]);
    let decide = |text| authorizer.at_once(&view, &anna, &request(text)).unwrap();
    let reason = "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to User \"anna\"";
    assert_eq!(decide("get pods p in n"), Decision::Allow(reason.into()));
    let reason = "rbac: RBAC: role.rbac.authorization.k8s.io \"gone\" not found";
    assert_eq!(decide("list pods in n"), Decision::NoOpinion(reason.into()));
    let message = |text, reason| forbidden(&anna, &request(text), reason).message;
    assert_eq!(
        message("list pods in y", ""),
        "pods is forbidden: User \"anna\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\""
    );
    assert_eq!(
        message("get deployments.apps/scale web in y", "why"),
        "deployments.apps \"web\" is forbidden: User \"anna\" cannot get resource \"deployments/scale\" in API group \
         \"apps\" in the namespace \"y\": why"
    );
    assert_eq!(
        message("get nodes n", ""),
        "nodes \"n\" is forbidden: User \"anna\" cannot get resource \"nodes\" in API group \"\" at the cluster scope"
    );
    assert_eq!(message("get /metrics", ""), "forbidden: User \"anna\" cannot get path \"/metrics\"");
}

#[test]
fn components_of_a_fresh_cluster_have_their_rights() {
    use crate::bootstrap::identity;
    let view = fresh_cluster();
    let authorizer = Authorizer::default();
    check(
        &authorizer,
        &view,
        &User::anonymous(),
        &[
            ("get /healthz", true),
            ("get /livez", true),
            ("get /readyz", true),
            ("get /version", true),
            ("get /metrics", false),
            ("get /api", false),
            ("list pods in default", false),
        ],
    );
    check(
        &authorizer,
        &view,
        &User::new("x", &["system:authenticated"]),
        &[
            ("get /api", true),
            ("get /openapi/v3", true),
            ("create selfsubjectaccessreviews.authorization.k8s.io", true),
            ("create selfsubjectreviews.authentication.k8s.io", true),
            ("list pods in default", false),
        ],
    );
    check(
        &authorizer,
        &view,
        &identity::scheduler(),
        &[
            ("list pods", true),
            ("create pods/binding p in default", true),
            ("delete pods p in default", true),
            ("list secrets", false),
        ],
    );
    check(
        &authorizer,
        &view,
        &identity::controller("deployment-controller"),
        &[
            ("update deployments.apps/status d in default", true),
            ("create replicasets.apps in default", true),
            ("delete nodes n", false),
        ],
    );
    check(
        &authorizer,
        &view,
        &identity::controller("generic-garbage-collector"),
        &[("delete foos.example.com f in x", true)],
    );
    check(&authorizer, &view, &identity::sampan("dns"), &[("list services", true), ("update services s in x", false)]);
    check(&authorizer, &view, &identity::sampan("helm"), &[("create anything.x.y in z", true)]);
}

#[test]
fn a_node_reads_what_its_pods_need() {
    let view = fresh_cluster();
    let pod = |name: &str, node: &str, spec: serde_json::Value| {
        let mut pod = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        pod["spec"]["nodeName"] = node.into();
        value(pod)
    };
    let spec = json!({
        "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "from"}}]}],
        "volumes": [
            {"name": "v", "secret": {"secretName": "vol"}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "ca"}}, {"secret": {"name": "proj"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "e", "ephemeral": {}},
        ],
    });
    view.put(PODS, pod("one", "n1", spec.clone()));
    view.put(PODS, pod("other", "n2", json!({"volumes": [{"secret": {"secretName": "theirs"}}]})));
    view.put(PERSISTENT_VOLUMES, value(json!({"metadata": {"name": "pv"}, "spec": {
        "claimRef": {"namespace": "ns", "name": "claim"}, "csi": {"nodePublishSecretRef": {"name": "csi", "namespace": "sys"}}}})));
    view.put(
        crate::view::POD_CERTIFICATE_REQUESTS,
        value(json!({"metadata": {"namespace": "ns", "name": "mine"}, "spec": {"nodeName": "n1"}})),
    );
    let authorizer = Authorizer::default();
    let node = bootstrap::identity::kubelet("n1");
    let mine = [
        "get secrets pull in ns", "list secrets env in ns", "watch secrets vol in ns", "get secrets proj in ns",
        "get secrets csi in sys", "get configmaps from in ns", "get configmaps ca in ns",
        "get persistentvolumeclaims claim in ns", "get persistentvolumeclaims one-e in ns", "get persistentvolumes pv",
        "get pods one in ns", "create serviceaccounts/token sa in ns",
    ];
    let mut rows: Vec<(&str, bool)> = mine.iter().map(|row| (*row, true)).collect();
    rows.extend([
        ("get secrets theirs in ns", false),
        ("get secrets pull in other", false),
        ("list secrets in ns", false),
        ("list secrets", false),
        ("create secrets in ns", false),
        ("get pods other in ns", false),
        ("create serviceaccounts/token other in ns", false),
        ("list pods where spec.nodeName=n1", true),
        ("watch pods where spec.nodeName=n2", false),
        ("list pods", false),
        ("update pods/status one in ns", true),
        ("create pods in ns", true),
        ("update pods one in ns", false),
        ("get nodes n1", true),
        ("get nodes n2", false),
        ("watch nodes n1", true),
        ("list nodes", false),
        ("patch nodes/status n1", true),
        ("delete nodes n1", false),
        ("update leases.coordination.k8s.io n1 in kube-node-lease", true),
        ("update leases.coordination.k8s.io n2 in kube-node-lease", false),
        ("create leases.coordination.k8s.io in kube-node-lease", true),
        ("get leases.coordination.k8s.io n1 in kube-system", false),
        ("get csinodes.storage.k8s.io n1", true),
        ("get csinodes.storage.k8s.io n2", false),
        ("list services", true),
        ("create events in ns", true),
        ("create certificatesigningrequests.certificates.k8s.io", true),
        ("list resourceslices.resource.k8s.io where spec.nodeName=n1", true),
        ("list resourceslices.resource.k8s.io", false),
        ("list deployments.apps in ns", false),
        ("create podcertificaterequests.certificates.k8s.io in ns", true),
        ("get podcertificaterequests.certificates.k8s.io mine in ns", true),
        ("get podcertificaterequests.certificates.k8s.io mine in other", false),
        ("watch podcertificaterequests.certificates.k8s.io where spec.nodeName=n1", true),
        ("delete podcertificaterequests.certificates.k8s.io mine in ns", false),
    ]);
    check(&authorizer, &view, &node, &rows);
    // The same name in no node group is nobody.
    check(&authorizer, &view, &User::new("system:node:n1", &[]), &[("get pods one in ns", false)]);
    // What a pod gave goes with it; two pods that gave the same do not take it from one another.
    view.put(PODS, pod("two", "n1", json!({"imagePullSecrets": [{"name": "pull"}]})));
    view.delete(PODS, "ns", "one");
    check(
        &authorizer,
        &view,
        &node,
        &[("get secrets pull in ns", true), ("get secrets env in ns", false), ("get persistentvolumes pv", false)],
    );
    view.delete(PODS, "ns", "two");
    check(&authorizer, &view, &node, &[("get secrets pull in ns", false)]);
    // A mirror pod gives nothing.
    let mut mirror = pod("mirror", "n1", spec);
    mirror.set(&["metadata", "annotations", crate::pods::MIRROR], "x");
    view.put(PODS, mirror);
    check(&authorizer, &view, &node, &[("get pods mirror in ns", true), ("get secrets vol in ns", false)]);
}

#[test]
fn nobody_grants_what_they_lack() {
    let view = fresh_cluster();
    for (of, object) in [
        role(
            ROLES,
            "ns",
            "writer",
            json!([
                {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]},
            ]),
        ),
        role(
            ROLES,
            "ns",
            "binder",
            json!([
                {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"]},
            ]),
        ),
        binding("ns", "w", "Role", "writer", json!({"kind": "User", "name": "anna"})),
        binding("ns", "b", "Role", "binder", json!({"kind": "User", "name": "bert"})),
    ] {
        view.put(of, object);
    }
    let authorizer = Authorizer::default();
    let check = |user: &User, resource: &str, object: serde_json::Value| {
        let may = |wanted: &Attributes| matches!(authorizer.at_once(&view, user, wanted), Some(Decision::Allow(_)));
        let by = escalation::Granter { user, view: &view, rbac: &authorizer.rbac, may: &may };
        escalation::check(&by, resource, "ns", &value(object), None)
    };
    let pods = |verbs: &[&str]| json!({"metadata": {"name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
    let bind = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"}});
    let (anna, bert, root) = (User::new("anna", &["g"]), User::new("bert", &[]), User::new("r", &["system:masters"]));
    // `*` on roles includes the verb escalate, and bind.
    assert!(check(&anna, "roles", pods(&["get", "delete"])).is_ok());
    assert!(check(&root, "roles", pods(&["*"])).is_ok());
    assert!(check(&bert, "rolebindings", bind("view")).is_ok());
    let refused = check(&bert, "roles", pods(&["get", "delete"])).unwrap_err();
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"bert\" (groups=[]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"delete\"]}"
    );
    assert_eq!(check(&bert, "rolebindings", bind("cluster-admin")).unwrap_err().code, 403);
    assert_eq!(check(&bert, "rolebindings", bind("nothing")).unwrap_err().code, 404);
}
