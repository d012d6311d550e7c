//! Rows of requests against the plugins, over a small cluster.

use std::sync::Arc;

use schema::Value;
use serde_json::{Value as Json, json};

use super::rule::{Cx, Rule};
use super::{AdmissionRequest, Operation};
use crate::seams::Random;
use crate::view::fake::{Fake, value};
use crate::view::{self, Of};
use crate::{Attributes, Status, User};

struct Counting;

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i as u8;
        }
    }
}

/// `group/resource/subresource` (`/pods/status`), user, operation, object and old object.
pub(super) fn request(what: &str, operation: Operation, user: User, object: Json, old: Json) -> AdmissionRequest {
    let mut parts = what.split('/');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let (group, resource, subresource) = (part(), part(), part());
    let object = value(object);
    let old = Some(value(old)).filter(|old| !old.is_null()).map(Arc::new);
    let named = old.as_deref().unwrap_or(&object);
    AdmissionRequest {
        user,
        operation,
        group,
        version: "v1".into(),
        api_version: String::new(),
        kind: String::new(),
        resource,
        subresource,
        namespace: view::namespace(named).into(),
        name: view::name(named).into(),
        object,
        old,
        options: Value::Null,
        dry_run: false,
        warnings: Default::default(),
        deadline: tokio::time::Instant::now(),
        turns: Default::default(),
    }
}

fn create(what: &str, object: Json) -> AdmissionRequest {
    request(what, Operation::Create, User::new("anna", &[]), object, Json::Null)
}

fn update(what: &str, object: Json, old: Json) -> AdmissionRequest {
    request(what, Operation::Update, User::new("anna", &[]), object, old)
}

fn cluster(objects: &[(Of, Json)]) -> Fake {
    let view = Fake::default();
    for (of, object) in objects {
        view.put(*of, value(object.clone()));
    }
    view
}

/// Runs both steps as anna, who may do what `allowed` names as `verb name`.
fn run(rule: &Rule, view: &Fake, allowed: &[&str], request: &mut AdmissionRequest) -> Result<(), Status> {
    let may = |_: &User, wanted: &Attributes| allowed.contains(&format!("{} {}", wanted.verb, wanted.name).as_str());
    let cx = Cx { view, may: &may };
    (rule.mutate)(&cx, request)?;
    (rule.validate)(&cx, request)
}

fn refused(rule: &Rule, view: &Fake, mut request: AdmissionRequest, message: &str) {
    let status = run(rule, view, &[], &mut request).expect_err(message);
    assert!(status.message.ends_with(message), "{} does not end with {message}", status.message);
}

fn becomes(rule: &Rule, view: &Fake, mut request: AdmissionRequest, path: &[&str], expected: Json) {
    if let Err(status) = run(rule, view, &[], &mut request) {
        panic!("{}", status.message);
    }
    assert_eq!(request.object.get(path).cloned().unwrap_or_default(), value(expected));
}

#[test]
fn namespaces() {
    let rule = &super::namespace_lifecycle::RULE;
    let view = cluster(&[
        (view::NAMESPACES, json!({"metadata": {"name": "on"}, "status": {"phase": "Active"}})),
        (view::NAMESPACES, json!({"metadata": {"name": "off"}, "status": {"phase": "Terminating"}})),
    ]);
    let pod = |namespace: &str| create("/pods", json!({"metadata": {"namespace": namespace, "generateName": "p-"}}));
    assert!(run(rule, &view, &[], &mut pod("on")).is_ok());
    refused(rule, &view, pod("none"), "namespaces \"none\" not found");
    refused(
        rule,
        &view,
        pod("off"),
        "pods \"p-\" is forbidden: unable to create new content in namespace off because it is being terminated",
    );
    let delete = |name: &str| {
        request("/namespaces", Operation::Delete, User::default(), Json::Null, json!({"metadata": {"name": name}}))
    };
    refused(
        rule,
        &view,
        delete("kube-system"),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
    );
    assert!(run(rule, &view, &[], &mut delete("on")).is_ok());
}

#[test]
fn limits() {
    let rule = &super::limit_ranger::RULE;
    let range = |limit: Json| {
        cluster(&[(
            view::LIMIT_RANGES,
            json!({"metadata": {"namespace": "ns", "name": "r"}, "spec": {"limits": [limit]}}),
        )])
    };
    let pod = |resources: Json| {
        create(
            "/pods",
            json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
    };
    let view = range(
        json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
    );
    becomes(
        rule,
        &view,
        pod(json!({"limits": {"memory": "2Gi"}})),
        &["spec", "containers"],
        json!([
        {"name": "c", "resources": {"limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"cpu": "100m"}}}]),
    );
    becomes(
        rule,
        &view,
        pod(json!({})),
        &["metadata", "annotations"],
        json!({
        "kubernetes.io/limit-ranger": "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c"}),
    );
    let view = range(json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}}));
    let rows = [
        (
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}),
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "10m"}}),
            "minimum cpu usage per Container is 100m, but request is 10m",
        ),
        (json!({"requests": {"cpu": "1"}}), "maximum cpu usage per Container is 1.  No limit is specified"),
    ];
    for (resources, message) in rows {
        refused(rule, &view, pod(resources), message);
    }
    assert!(run(rule, &view, &[], &mut pod(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}))).is_ok());
    let view = range(json!({"type": "Pod", "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"memory": "2"}}));
    refused(
        rule,
        &view,
        pod(json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "256Mi"}})),
        "memory max limit to request ratio per Pod is 2, but provided ratio is 4.000000",
    );
    let view = range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
    let claim = |size: &str| {
        create(
            "/persistentvolumeclaims",
            json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}}),
        )
    };
    refused(rule, &view, claim("2Gi"), "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi");
    assert!(run(rule, &view, &[], &mut claim("1Gi")).is_ok());
}

#[test]
fn service_accounts() {
    use super::service_account::{check, complete};
    let account = value(json!({"metadata": {"name": "sa", "namespace": "ns"}, "imagePullSecrets": [{"name": "pull"}]}));
    let mut pod = value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
        {"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]}}));
    complete(&account, &Counting, &mut pod);
    let name = pod["spec"]["volumes"][0].str_at(&["name"]).to_owned();
    assert_eq!(name.len(), "kube-api-access-".len() + 5);
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0].str_at(&["name"]), name);
    assert_eq!(pod["spec"]["containers"][1].list_at(&["volumeMounts"]).len(), 1);
    assert_eq!(pod["spec"]["imagePullSecrets"], value(json!([{"name": "pull"}])));
    assert_eq!(
        pod["spec"]["volumes"][0]["projected"],
        value(json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}))
    );
    let before = pod.clone();
    complete(&account, &Counting, &mut pod);
    assert_eq!(pod, before, "a second time changes nothing");
    let mut quiet = value(
        json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}], "imagePullSecrets": [{"name": "x"}]}}),
    );
    let before = quiet.clone();
    complete(&account, &Counting, &mut quiet);
    assert_eq!(quiet, before);

    let strict = json!({"metadata": {"name": "strict", "namespace": "ns", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "ok"}]});
    let view = cluster(&[(view::SERVICE_ACCOUNTS, strict)]);
    let check = |spec: Json, mirror: bool| {
        let annotations = if mirror { json!({"kubernetes.io/config.mirror": "x"}) } else { json!({}) };
        let pod = json!({"metadata": {"namespace": "ns", "name": "p", "annotations": annotations}, "spec": spec});
        check(&view, &create("/pods", pod)).map_err(|s| s.message)
    };
    let volume = |name: &str| json!({"serviceAccountName": "strict", "volumes": [{"secret": {"secretName": name}}]});
    assert_eq!(check(volume("ok"), false), Ok(()));
    let why = check(volume("no"), false).unwrap_err();
    assert!(why.ends_with("volume with secret.secretName=\"no\" is not allowed because service account strict does not reference that secret"), "{why}");
    let why = check(json!({"serviceAccountName": "none"}), false).unwrap_err();
    assert_eq!(
        why,
        "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found"
    );
    assert!(check(volume("ok"), true).unwrap_err().ends_with("a mirror pod may not reference service accounts"));
    assert_eq!(check(json!({}), true), Ok(()));
}

#[test]
fn priorities() {
    let rule = &super::priority::RULE;
    let class = |name: &str, value: i64, default: bool| {
        (
            view::PRIORITY_CLASSES,
            json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"}),
        )
    };
    let pod = |spec: Json| create("/pods", json!({"metadata": {"name": "p"}, "spec": spec}));
    let none = cluster(&[class("high", 1000, false)]);
    becomes(rule, &none, pod(json!({})), &["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
    becomes(
        rule,
        &none,
        pod(json!({"priorityClassName": "high"})),
        &["spec"],
        json!({"priority": 1000, "preemptionPolicy": "Never", "priorityClassName": "high"}),
    );
    refused(rule, &none, pod(json!({"priorityClassName": "x"})), "no PriorityClass with name x was found");
    refused(
        rule,
        &none,
        pod(json!({"priority": 5})),
        "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
    );
    let some = cluster(&[class("a", 20, true), class("b", 10, true)]);
    becomes(rule, &some, pod(json!({})), &["spec", "priorityClassName"], json!("b"));
    let new = create("/priorityclasses", json!({"metadata": {"name": "c"}, "globalDefault": true}));
    let new = AdmissionRequest { group: "scheduling.k8s.io".into(), ..new };
    refused(rule, &some, new, "PriorityClass b is already marked as default. Only one default can exist");
    let old = json!({"metadata": {"name": "p"}, "spec": {"priority": 7}});
    becomes(
        rule,
        &none,
        update("/pods", json!({"metadata": {"name": "p"}, "spec": {}}), old),
        &["spec", "priority"],
        json!(7),
    );
}

#[test]
fn defaults_of_pods_nodes_claims_and_ingresses() {
    let empty = cluster(&[]);
    let rule = &super::default_toleration_seconds::RULE;
    let keys = |tolerations: Json| {
        let mut request = create("/pods", json!({"metadata": {}, "spec": {"tolerations": tolerations}}));
        run(rule, &empty, &[], &mut request).unwrap();
        let keys: Vec<String> =
            request.object.list_at(&["spec", "tolerations"]).iter().map(|t| t.str_at(&["key"]).to_owned()).collect();
        keys.join(",")
    };
    assert_eq!(keys(json!([])), "node.kubernetes.io/not-ready,node.kubernetes.io/unreachable");
    assert_eq!(keys(json!([{"operator": "Exists"}])), "");
    assert_eq!(
        keys(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])),
        "node.kubernetes.io/not-ready,node.kubernetes.io/unreachable"
    );
    assert_eq!(
        keys(json!([{"key": "x", "effect": "NoExecute"}])),
        "x,node.kubernetes.io/not-ready,node.kubernetes.io/unreachable"
    );

    let rule = &super::taint_nodes::RULE;
    becomes(
        rule,
        &empty,
        create("/nodes", json!({"metadata": {"name": "n"}})),
        &["spec", "taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]),
    );
    becomes(
        rule,
        &empty,
        update("/nodes", json!({"metadata": {"name": "n"}}), json!({"metadata": {"name": "n"}})),
        &["spec"],
        Json::Null,
    );

    let class = |of, name: &str, created: &str, annotation: &str| {
        (of, json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {annotation: "true"}}}))
    };
    let mark = "storageclass.kubernetes.io/is-default-class";
    let view = cluster(&[
        class(view::STORAGE_CLASSES, "old", "2026-01-01T00:00:00Z", mark),
        class(view::STORAGE_CLASSES, "new", "2026-02-01T00:00:00Z", mark),
        class(view::INGRESS_CLASSES, "web", "2026-02-01T00:00:00Z", "ingressclass.kubernetes.io/is-default-class"),
    ]);
    let rule = &super::default_class::DEFAULT_STORAGE_CLASS;
    let claim = |spec: Json| create("/persistentvolumeclaims", json!({"metadata": {"name": "c"}, "spec": spec}));
    becomes(rule, &view, claim(json!({})), &["spec", "storageClassName"], json!("new"));
    becomes(rule, &view, claim(json!({"storageClassName": ""})), &["spec", "storageClassName"], json!(""));
    becomes(rule, &empty, claim(json!({})), &["spec", "storageClassName"], Json::Null);
    let rule = &super::default_class::DEFAULT_INGRESS_CLASS;
    let ingress = |annotations: Json| {
        create(
            "networking.k8s.io/ingresses",
            json!({"metadata": {"name": "i", "annotations": annotations}, "spec": {}}),
        )
    };
    becomes(rule, &view, ingress(json!({})), &["spec", "ingressClassName"], json!("web"));
    becomes(
        rule,
        &view,
        ingress(json!({"kubernetes.io/ingress.class": "x"})),
        &["spec", "ingressClassName"],
        Json::Null,
    );
    let rule = &super::in_use_protection::RULE;
    becomes(rule, &empty, claim(json!({})), &["metadata", "finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

#[test]
fn claims_grow_only_where_they_may() {
    let rule = &super::claim_resize::RULE;
    let view = cluster(&[
        (view::STORAGE_CLASSES, json!({"metadata": {"name": "grows"}, "allowVolumeExpansion": true})),
        (view::STORAGE_CLASSES, json!({"metadata": {"name": "fixed"}})),
    ]);
    let claim = |class: &str, size: &str, phase: &str| json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
    let grow = |class: &str, from: &str, to: &str, phase: &str| {
        update("/persistentvolumeclaims", claim(class, to, phase), claim(class, from, phase))
    };
    for mut fine in [
        grow("grows", "1Gi", "2Gi", "Bound"),
        grow("fixed", "1Gi", "1Gi", "Bound"),
        grow("fixed", "2Gi", "1Gi", "Pending"),
    ] {
        assert!(run(rule, &view, &[], &mut fine).is_ok());
    }
    refused(rule, &view, grow("grows", "1Gi", "2Gi", "Pending"), "Only bound persistent volume claims can be expanded");
    refused(
        rule,
        &view,
        grow("fixed", "1Gi", "2Gi", "Bound"),
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    );
}

#[test]
fn runtime_classes() {
    let rule = &super::runtime_class::RULE;
    let view = cluster(&[(
        view::RUNTIME_CLASSES,
        json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}}),
    )]);
    let pod = |spec: Json| create("/pods", json!({"metadata": {"name": "p"}, "spec": spec}));
    becomes(
        rule,
        &view,
        pod(json!({"runtimeClassName": "vm", "nodeSelector": {"a": "b"}})),
        &["spec"],
        json!({
        "runtimeClassName": "vm", "overhead": {"cpu": "250m"}, "nodeSelector": {"a": "b", "vm": "yes"}, "tolerations": [{"key": "vm"}]}),
    );
    becomes(
        rule,
        &view,
        pod(json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25"}})),
        &["spec", "overhead"],
        json!({"cpu": "250m"}),
    );
    for (spec, message) in [
        (json!({"runtimeClassName": "x"}), "pod rejected: RuntimeClass \"x\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        refused(rule, &view, pod(spec), message);
    }
}

#[test]
fn certificate_requests() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use pki::{CertificateRequest, KeyPair, Names, Subject, SystemRandom};
    let view = cluster(&[]);
    let request_for = |group: &str, signer: &str| {
        let subject = Subject { common_name: "u".into(), organizations: vec![group.into()] };
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let pem = CertificateRequest::create(&key, &subject, &Names::default(), &SystemRandom::new()).unwrap();
        create(
            "certificates.k8s.io/certificatesigningrequests",
            json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": STANDARD.encode(pem)}}),
        )
    };
    let rule = &super::certificates::CERTIFICATE_SUBJECT_RESTRICTION;
    let signer = "kubernetes.io/kube-apiserver-client";
    assert!(run(rule, &view, &[], &mut request_for("dev", signer)).is_ok());
    assert!(run(rule, &view, &[], &mut request_for("system:masters", "example.com/x")).is_ok());
    refused(
        rule,
        &view,
        request_for("system:masters", signer),
        "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
    );
    let held = json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/x"}});
    let approval = || update("certificates.k8s.io/certificatesigningrequests/approval", held.clone(), held.clone());
    let rule = &super::certificates::CERTIFICATE_APPROVAL;
    refused(rule, &view, approval(), "user not permitted to approve requests with signerName \"example.com/x\"");
    for allowed in ["approve example.com/x", "approve example.com/*"] {
        assert!(run(rule, &view, &[allowed], &mut approval()).is_ok());
    }
    let rule = &super::certificates::CERTIFICATE_SIGNING;
    let mut signed = held.clone();
    signed["status"] = json!({"certificate": "x"});
    let signing = || update("certificates.k8s.io/certificatesigningrequests/status", signed.clone(), held.clone());
    refused(rule, &view, signing(), "user not permitted to sign requests with signerName \"example.com/x\"");
    assert!(run(rule, &view, &["sign example.com/x"], &mut signing()).is_ok());
}

#[test]
fn nodes_write_only_what_is_theirs() {
    let rule = &super::node_restriction::RULE;
    let node = || crate::bootstrap::identity::kubelet("n1");
    let view = cluster(&[
        (view::NODES, json!({"metadata": {"name": "n1", "uid": "u1"}})),
        (
            view::PODS,
            json!({"metadata": {"namespace": "ns", "name": "mine", "uid": "p1"}, "spec": {"nodeName": "n1", "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}}),
        ),
        (
            view::PODS,
            json!({"metadata": {"namespace": "ns", "name": "theirs", "uid": "p2"}, "spec": {"nodeName": "n2"}}),
        ),
    ]);
    let mirror = |change: fn(&mut Json)| {
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": "m", "annotations": {"kubernetes.io/config.mirror": "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
            "spec": {"nodeName": "n1"}});
        change(&mut pod);
        pod
    };
    let own_node =
        |labels: Json, taints: Json| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
    let named = |name: &str| json!({"metadata": {"namespace": "ns", "name": name}});
    let token = |pod: &str, uid: &str, audience: &str| {
        json!({"metadata": {"namespace": "ns", "name": "sa"},
        "spec": {"audiences": [audience], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}})
    };
    let status = |node: &str, labels: Json| json!({"metadata": {"namespace": "ns", "name": "p", "labels": labels}, "spec": {"nodeName": node}});
    use Operation::*;
    let none = Json::Null;
    let rows: Vec<(&str, Operation, Json, Json, &str)> = vec![
        ("/pods", Create, mirror(|_| ()), none.clone(), ""),
        (
            "/pods",
            Create,
            mirror(|p| p["metadata"]["annotations"] = json!({})),
            none.clone(),
            "can only create mirror pods",
        ),
        ("/pods", Create, mirror(|p| p["spec"]["nodeName"] = "n2".into()), none.clone(), "spec.nodeName set to itself"),
        (
            "/pods",
            Create,
            mirror(|p| p["metadata"]["ownerReferences"] = json!([])),
            none.clone(),
            "can only create pods with an owner reference set to itself",
        ),
        (
            "/pods",
            Create,
            mirror(|p| p["metadata"]["ownerReferences"][0]["uid"] = "x".into()),
            none.clone(),
            "node n1 UID mismatch: expected x got u1",
        ),
        (
            "/pods",
            Create,
            mirror(|p| p["spec"]["volumes"] = json!([{"secret": {"secretName": "s"}}])),
            none.clone(),
            "can not create pods that reference secrets",
        ),
        ("/pods", Delete, none.clone(), named("mine"), ""),
        (
            "/pods",
            Delete,
            none.clone(),
            named("theirs"),
            "node \"n1\" can only delete pods with spec.nodeName set to itself",
        ),
        ("/pods", Update, named("mine"), named("mine"), "node \"n1\" can only create and delete mirror pods"),
        ("/pods/status", Update, status("n1", json!({})), status("n1", json!({})), ""),
        (
            "/pods/status",
            Update,
            status("n2", json!({})),
            status("n2", json!({})),
            "can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            "/pods/status",
            Update,
            status("n1", json!({"a": "b"})),
            status("n1", json!({})),
            "cannot update labels through pod status",
        ),
        ("/pods/eviction", Create, named("mine"), none.clone(), ""),
        (
            "/pods/eviction",
            Create,
            named("theirs"),
            none.clone(),
            "node n1 can only evict pods with spec.nodeName set to itself",
        ),
        ("/pods/ephemeralcontainers", Update, named("mine"), named("mine"), "only 'status' and 'eviction' are allowed"),
        (
            "/nodes",
            Create,
            own_node(json!({"kubernetes.io/hostname": "n1", "own/x": "y", "node.kubernetes.io/z": ""}), none.clone()),
            none.clone(),
            "",
        ),
        (
            "/nodes",
            Create,
            own_node(json!({"node-restriction.kubernetes.io/x": "y"}), none.clone()),
            none.clone(),
            "is not allowed to set the following labels: node-restriction.kubernetes.io/x",
        ),
        (
            "/nodes",
            Update,
            own_node(json!({"node-role.kubernetes.io/master": ""}), none.clone()),
            own_node(json!({}), none.clone()),
            "is not allowed to modify labels: node-role.kubernetes.io/master",
        ),
        (
            "/nodes",
            Update,
            own_node(json!({}), json!([{"key": "k"}])),
            own_node(json!({}), none.clone()),
            "node \"n1\" is not allowed to modify taints",
        ),
        ("/nodes/status", Update, own_node(json!({}), none.clone()), own_node(json!({}), none.clone()), ""),
        (
            "/nodes/status",
            Update,
            json!({"metadata": {"name": "n2"}}),
            json!({"metadata": {"name": "n2"}}),
            "node \"n1\" is not allowed to modify node \"n2\"",
        ),
        ("/serviceaccounts/token", Create, token("mine", "p1", "vault"), none.clone(), ""),
        (
            "/serviceaccounts/token",
            Create,
            token("mine", "p1", "other"),
            none.clone(),
            "system:node:n1 is not authorized to request tokens for audience \"other\"",
        ),
        (
            "/serviceaccounts/token",
            Create,
            token("theirs", "p2", "vault"),
            none.clone(),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            "/serviceaccounts/token",
            Create,
            token("mine", "", "vault"),
            none.clone(),
            "node requested token with a pod binding without a uid",
        ),
        ("/serviceaccounts/token", Create, named("sa"), none.clone(), "node requested token not bound to a pod"),
        (
            "coordination.k8s.io/leases",
            Create,
            json!({"metadata": {"namespace": "kube-node-lease", "name": "n1"}}),
            none.clone(),
            "",
        ),
        (
            "coordination.k8s.io/leases",
            Create,
            json!({"metadata": {"namespace": "kube-node-lease", "name": "n2"}}),
            none.clone(),
            "same name as the requesting node",
        ),
        (
            "coordination.k8s.io/leases",
            Create,
            json!({"metadata": {"namespace": "kube-system", "name": "n1"}}),
            none,
            "\"kube-node-lease\" system namespace",
        ),
    ];
    for (what, operation, object, old, message) in rows {
        let mut request = request(what, operation, node(), object.clone(), old);
        let result = run(rule, &view, &[], &mut request).map_err(|s| s.message);
        match result {
            Ok(()) => assert_eq!(message, "", "{what} {object}"),
            Err(found) => assert!(!message.is_empty() && found.ends_with(message), "{what} {object}: {found}"),
        }
    }
    let mut other = request("/pods", Create, User::new("anna", &[]), named("x"), Json::Null);
    assert!(run(rule, &view, &[], &mut other).is_ok());
}

#[test]
fn pods_carry_their_nodes_topology() {
    let rule = &super::pod_topology_labels::RULE;
    let view = cluster(&[(
        view::NODES,
        json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}}),
    )]);
    let labels = json!({"topology.kubernetes.io/zone": "z"});
    becomes(
        rule,
        &view,
        create("/pods", json!({"metadata": {}, "spec": {"nodeName": "n"}})),
        &["metadata", "labels"],
        labels.clone(),
    );
    becomes(
        rule,
        &view,
        create("/pods/binding", json!({"metadata": {}, "target": {"kind": "Node", "name": "n"}})),
        &["metadata", "labels"],
        labels,
    );
    becomes(rule, &view, create("/pods", json!({"metadata": {}, "spec": {}})), &["metadata", "labels"], Json::Null);
}

#[test]
fn pod_security() {
    use super::pod_security::RULE;
    let labelled = |labels: Json| cluster(&[(view::NAMESPACES, json!({"metadata": {"name": "ns", "labels": labels}}))]);
    let pod = |spec: Json| create("/pods", json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec}));
    let baseline = labelled(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let restricted = labelled(
        json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.25"}),
    );
    let plain = json!({"containers": [{"name": "c"}]});
    let good = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        "volumes": [{"name": "t", "projected": {}}],
    });
    assert!(run(&RULE, &baseline, &[], &mut pod(plain.clone())).is_ok());
    assert!(run(&RULE, &restricted, &[], &mut pod(good)).is_ok());
    refused(
        &RULE,
        &restricted,
        pod(plain.clone()),
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:v1.25\": allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    for (spec, message) in [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]}),
            "hostPath volumes (volumes \"a\", \"b\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
        ),
        (
            json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
            "privileged (container \"i\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_ADMIN", "SYS_TIME"]}}}]}),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\", \"SYS_TIME\" in securityContext.capabilities.add)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
    ] {
        refused(&RULE, &baseline, pod(spec), message);
    }
    let mut with_namespace =
        pod(json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}));
    assert!(run(&RULE, &baseline, &[], &mut with_namespace).is_ok());
    // Only warnings: for pods, and for what makes pods.
    let warns = labelled(json!({"pod-security.kubernetes.io/warn": "baseline"}));
    let host = json!({"hostPID": true});
    let deployment = json!({"metadata": {"namespace": "ns", "name": "d"}, "spec": {"template": {"spec": host}}});
    for mut request in [pod(host), create("apps/deployments", deployment)] {
        run(&RULE, &warns, &[], &mut request).unwrap();
        assert_eq!(
            request.warnings.list(),
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
        );
    }
    // A pod that is there stays, whatever the labels say; a new image is looked at.
    let pod_with = |image: &str| json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": image}]}});
    assert!(run(&RULE, &baseline, &[], &mut update("/pods", pod_with("a"), pod_with("a"))).is_ok());
    assert!(run(&RULE, &baseline, &[], &mut update("/pods", pod_with("b"), pod_with("a"))).is_err());
    // Namespaces: bad labels, and pods that a stricter level would not let in.
    let namespace = |labels: Json| json!({"metadata": {"name": "ns", "labels": labels}});
    refused(
        &RULE,
        &baseline,
        create(
            "/namespaces",
            namespace(
                json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/warn-version": "1.25"}),
            ),
        ),
        "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.25\": must be \"latest\" or \"v1.x\"]",
    );
    baseline.put(view::PODS, value(pod_with("a")));
    let mut stricter = update(
        "/namespaces",
        namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})),
        namespace(json!({})),
    );
    run(&RULE, &baseline, &[], &mut stricter).unwrap();
    assert_eq!(
        stricter.warnings.list(),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "p: host namespaces",
        ]
    );
}

#[test]
fn quotas() {
    use super::resource_quota::book;
    let quota = |hard: Json, used: Json, spec: Json| {
        vec![Arc::new(value(
            json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec, "status": {"hard": hard, "used": used}}),
        ))]
    };
    let check = |quotas: &[Arc<Value>], request: &AdmissionRequest, expected: Result<Json, &str>| match (
        book(quotas.to_vec(), request, 0),
        expected,
    ) {
        (Ok(changed), Ok(used)) => {
            let found = changed.first().map(|q| q["status"]["used"].clone()).unwrap_or_default();
            assert_eq!(found, value(used));
        }
        (Err(status), Err(message)) => assert!(status.message.ends_with(message), "{}", status.message),
        (Ok(_), Err(message)) => panic!("allowed, not: {message}"),
        (Err(status), Ok(_)) => panic!("{}", status.message),
    };
    let pod = |spec: Json| create("/pods", json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec}));
    let sized = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "2", "memory": "1Gi"}}}]});
    let compute = quota(
        json!({"requests.cpu": "1", "pods": "10", "secrets": "1"}),
        json!({"requests.cpu": "500m", "pods": "3", "secrets": "0"}),
        json!({}),
    );
    check(&compute, &pod(sized("500m")), Ok(json!({"requests.cpu": "1", "pods": "4", "secrets": "0"})));
    check(
        &compute,
        &pod(sized("600m")),
        Err(
            "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1",
        ),
    );
    check(
        &compute,
        &pod(json!({"containers": [{"name": "b"}, {"name": "a"}]})),
        Err("failed quota: q: must specify requests.cpu for: a,b"),
    );
    check(&compute, &create("/configmaps", json!({"metadata": {"namespace": "ns", "name": "c"}})), Ok(Json::Null));
    check(
        &compute,
        &create("/secrets", json!({"metadata": {"namespace": "ns", "name": "s"}})),
        Ok(json!({"requests.cpu": "500m", "pods": "3", "secrets": "1"})),
    );
    let unknown = quota(json!({"pods": "1"}), json!({}), json!({}));
    check(&unknown, &pod(json!({})), Err("status unknown for quota: q, resources: pods"));
    let counted = quota(json!({"count/deployments.apps": "1"}), json!({"count/deployments.apps": "1"}), json!({}));
    let deployment = create("apps/deployments", json!({"metadata": {"namespace": "ns", "name": "d"}}));
    check(
        &counted,
        &deployment,
        Err(
            "exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1",
        ),
    );
    // Devices of a class: the most of what is an alternative, and as many as there can be where all are asked for.
    let devices = |used: &str| json!({"gpu.deviceclass.resource.k8s.io/devices": used, "count/resourceclaims.resource.k8s.io": used});
    let claim = create(
        "resource.k8s.io/resourceclaims",
        json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "firstAvailable": [{"deviceClassName": "gpu", "allocationMode": "All"}, {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}]},
        ]}}}),
    );
    let used = json!({"gpu.deviceclass.resource.k8s.io/devices": "35", "count/resourceclaims.resource.k8s.io": "2"});
    check(&quota(devices("40"), devices("1"), json!({})), &claim, Ok(used.clone()));
    let gone = AdmissionRequest { old: Some(Arc::new(claim.object.clone())), ..claim };
    let left = super::resource_quota::less(quota(devices("40"), used, json!({})), &gone, 0);
    assert_eq!(
        left[0]["status"]["used"],
        value(json!({"gpu.deviceclass.resource.k8s.io/devices": "1", "count/resourceclaims.resource.k8s.io": "1"}))
    );
    // Scopes.
    let best_effort = quota(json!({"pods": "1"}), json!({"pods": "1"}), json!({"scopes": ["BestEffort"]}));
    check(&best_effort, &pod(sized("1")), Ok(Json::Null));
    check(
        &best_effort,
        &pod(json!({"containers": [{"name": "c"}]})),
        Err("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
    );
    let classes = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    let high = quota(json!({"pods": "1"}), json!({"pods": "1"}), classes);
    check(&high, &pod(json!({"priorityClassName": "low"})), Ok(Json::Null));
    check(
        &high,
        &pod(json!({"priorityClassName": "high"})),
        Err("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
    );
    // Claims and services grow by the difference.
    let claim = |size: &str| json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": size}}}});
    let storage = quota(
        json!({"requests.storage": "10Gi", "fast.storageclass.storage.k8s.io/requests.storage": "5Gi"}),
        json!({"requests.storage": "4Gi", "fast.storageclass.storage.k8s.io/requests.storage": "4Gi"}),
        json!({}),
    );
    check(
        &storage,
        &update("/persistentvolumeclaims", claim("2Gi"), claim("1Gi")),
        Ok(json!({"requests.storage": "5Gi", "fast.storageclass.storage.k8s.io/requests.storage": "5Gi"})),
    );
    check(&storage, &update("/persistentvolumeclaims", claim("1Gi"), claim("2Gi")), Ok(Json::Null));
    check(
        &storage,
        &create("/persistentvolumeclaims", claim("2Gi")),
        Err(
            "exceeded quota: q, requested: fast.storageclass.storage.k8s.io/requests.storage=2Gi, used: fast.storageclass.storage.k8s.io/requests.storage=4Gi, limited: fast.storageclass.storage.k8s.io/requests.storage=5Gi",
        ),
    );
    let service =
        |kind: &str| json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": {"type": kind, "ports": [{}, {}]}});
    let ports = quota(
        json!({"services.nodeports": "2", "services.loadbalancers": "0"}),
        json!({"services.nodeports": "0", "services.loadbalancers": "0"}),
        json!({}),
    );
    check(
        &ports,
        &update("/services", service("NodePort"), service("ClusterIP")),
        Ok(json!({"services.nodeports": "2", "services.loadbalancers": "0"})),
    );
    check(
        &ports,
        &create("/services", service("LoadBalancer")),
        Err("requested: services.loadbalancers=1, used: services.loadbalancers=0, limited: services.loadbalancers=0"),
    );
}

#[test]
fn plugins_by_choice() {
    use super::{chosen::*, pod_resize::RULE, registry};
    let view = cluster(&[(
        view::NODES,
        json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}),
    )]);
    let pod = |spec: Json| create("/pods", json!({"metadata": {"name": "p"}, "spec": spec}));
    let spec = json!({"containers": [{"name": "c", "imagePullPolicy": "Never", "resources": {"requests": {"x.com/gpu": "1", "cpu": "1"}}}]});
    let mut request = pod(spec.clone());
    run(&ALWAYS_PULL_IMAGES, &view, &[], &mut request).unwrap();
    assert_eq!(request.object["spec"]["containers"][0].str_at(&["imagePullPolicy"]), "Always");
    becomes(
        &EXTENDED_RESOURCE_TOLERATION,
        &view,
        pod(spec),
        &["spec", "tolerations"],
        json!([{"key": "x.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]),
    );
    let service = |ips: Json| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
    refused(
        &DENY_SERVICE_EXTERNAL_IPS,
        &view,
        update("/services", service(json!(["1.1.1.1", "2.2.2.2"])), service(json!(["1.1.1.1"]))),
        "Use of external IPs is denied by admission control",
    );
    assert!(
        run(
            &DENY_SERVICE_EXTERNAL_IPS,
            &view,
            &[],
            &mut update("/services", service(json!(["1.1.1.1"])), service(json!(["1.1.1.1"])))
        )
        .is_ok()
    );
    let sized = |cpu: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    let resize = |cpu: &str| update("/pods/resize", sized(cpu), sized("1"));
    assert!(run(&RULE, &view, &[], &mut resize("2")).is_ok());
    refused(
        &RULE,
        &view,
        resize("3"),
        "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000",
    );

    let authorizer = || Arc::new(crate::authz::Authorizer::default());
    let names = |enabled: &[&str], disabled: &[&str]| -> Vec<&'static str> {
        let own = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        registry::select(authorizer(), &own(enabled), &own(disabled)).iter().map(|p| p.name()).collect()
    };
    assert!(!names(&[], &[]).contains(&"AlwaysPullImages"));
    assert!(names(&["AlwaysPullImages"], &[]).contains(&"AlwaysPullImages"));
    assert!(!names(&[], &["PodSecurity", "RBACEscalation"]).contains(&"PodSecurity"));
    assert!(names(&[], &["RBACEscalation"]).contains(&"RBACEscalation"));
    assert_eq!(registry::unknown(authorizer(), &["PodSecurity".into(), "Nonsense".into()]), ["Nonsense"]);
}

#[test]
fn nodes_ask_for_certificates_that_their_pods_mount() {
    let rule = &super::node_restriction::RULE;
    let view = cluster(&[
        (view::NODES, json!({"metadata": {"name": "n1", "uid": "nu"}})),
        (view::SERVICE_ACCOUNTS, json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "su"}})),
        (
            view::PODS,
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "pu"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "volumes": [{"projected": {"sources": [{"podCertificate": {"signerName": "x.com/s"}}]}}]}}),
        ),
    ]);
    let check = |field: &str, text: &str, message: &str| {
        let mut object = json!({"metadata": {"namespace": "ns", "name": "r"}, "spec": {"nodeName": "n1", "nodeUID": "nu", "podName": "p",
            "podUID": "pu", "serviceAccountName": "sa", "serviceAccountUID": "su", "signerName": "x.com/s"}});
        object["spec"][field] = text.into();
        let user = crate::bootstrap::identity::kubelet("n1");
        let mut request =
            request("certificates.k8s.io/podcertificaterequests", Operation::Create, user, object, Json::Null);
        match run(rule, &view, &[], &mut request) {
            Ok(()) => assert_eq!(message, ""),
            Err(status) => assert!(!message.is_empty() && status.message.ends_with(message), "{}", status.message),
        }
    };
    check("podName", "p", "");
    check("nodeName", "n2", "PodCertificateRequest.Spec.NodeName=\"n2\", which is not the requesting node \"n1\"");
    check("nodeUID", "x", "names node UID \"x\", inconsistent with the running node (\"nu\")");
    check("podName", "q", "while retrieving pod \"ns/q\" named in the PodCertificateRequest: pod \"q\" not found");
    check("podUID", "x", "contains pod UID (\"x\") which differs from running pod \"pu\"");
    check("serviceAccountName", "b", "contains serviceAccountName (\"b\") that differs from running pod (\"sa\")");
    check(
        "serviceAccountUID",
        "x",
        "names service account UID \"x\", which differs from the running service account (\"su\")",
    );
    check(
        "signerName",
        "y.com/s",
        "pod \"ns/p\" does not mount a podCertificate projected volume for signer \"y.com/s\"",
    );
}
