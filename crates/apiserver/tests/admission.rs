//! What webhooks and policies see of a request: its objects in the version that they match, again after others have
//! changed them, and what only a subresource knows.

use apiserver::admission::policies::{Mutating, Validating};
use apiserver::webhooks;

use crate::conversion::{V1, V2, definition, point, serve};
use crate::harness::{Fixture, config};
use crate::policies::{GROUP, binding, deployment, mutation, policy};

async fn fixture() -> Fixture {
    Fixture::with(|store| {
        let mut config = config(store);
        config.admission = vec![
            Box::<Mutating>::default(),
            Box::<webhooks::Mutating>::default(),
            Box::<Validating>::default(),
            Box::<webhooks::Validating>::default(),
        ];
        config
    })
    .await
}

/// A configuration of one webhook, with what differs.
async fn hook(f: &Fixture, kind: &str, name: &str, url: &str, rule: &str, rest: &str) {
    let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
    let webhook = format!(
        "{{name: {name}.example.com, clientConfig: {{url: \"{url}\"}}, admissionReviewVersions: [v1], sideEffects: None, rules: [{{{rule}, operations: [\"*\"]}}]{rest}}}"
    );
    let body = format!("{{metadata: {{name: {name}}}, webhooks: [{webhook}]}}");
    f.post(&format!("{GROUP}/{kind}webhookconfigurations"), &body).await.is(201);
}

async fn forget(f: &Fixture, kind: &str, name: &str) {
    f.delete(&format!("{GROUP}/{kind}/{name}")).await.is(200);
}

fn told(name: &str, what: &str) -> String {
    format!("admission webhook \"{name}.example.com\" denied the request: {what}")
}

#[tokio::test]
async fn objects_in_the_version_that_matches() {
    let f = fixture().await;
    serve(&f, &definition("hook", "v1")).await;
    f.post(V1, &point("v1", "a", "hostPort: \"h:1\"")).await.is(201);
    let v2 = "apiGroups: [example.com], apiVersions: [v2], resources: [points, points/status]";
    let conditions = |c: &str| format!("matchConditions: [{{name: c, expression: \"{c}\"}}]");
    let sees = "object.host == 'i' && request.kind.version == 'v2' && request.resource.version == 'v1'";
    hook(&f, "validating", "tell", "https://tell/", v2, &conditions(sees)).await;
    let v1_as_v2 = "example.com/v2/Point example.com/v2/points example.com/v1/Point example.com/v1/points ";
    let created =
        "{\"apiVersion\":\"example.com/v2\",\"host\":\"i\",\"kind\":\"Point\",\"port\":\"2\",\"unknown\":true}";
    let message = told("tell", &format!("{v1_as_v2} {created} null"));
    f.post(V1, &point("v1", "b", "hostPort: \"i:2\"")).await.is(400).has(&[("/message", &message)]);
    let patched = f.patch(&format!("{V1}/a"), "merge-patch", "{hostPort: \"i:2\"}").await.is(400).at("/message");
    assert!(patched.contains("{\"apiVersion\":\"example.com/v2\",\"host\":\"h\""), "the old one too: {patched}");
    f.post(V1, &point("v1", "b", "hostPort: \"h:2\"")).await.is(201);
    forget(&f, "validatingwebhookconfigurations", "tell").await;
    hook(&f, "validating", "exact", "https://tell/", v2, "matchPolicy: Exact").await;
    f.post(V1, &point("v1", "c", "hostPort: \"i:2\"")).await.is(201);
    forget(&f, "validatingwebhookconfigurations", "exact").await;

    // What is changed in one version is kept in the other.
    let patch = "https://patch/host=changed";
    hook(&f, "mutating", "change", patch, v2, "").await;
    f.post(V1, &point("v1", "d", "hostPort: \"i:2\"")).await.is(201).has(&[("/hostPort", "changed:2")]);
    forget(&f, "mutatingwebhookconfigurations", "change").await;

    let rules = |name: &str, rest: &str| {
        policy(name, "points", rest)
            .replace("stable.example.com], apiVersions: [v1]", "example.com], apiVersions: [v2]")
    };
    let mutations = format!(
        "reinvocationPolicy: Never, mutations: [{}]",
        mutation("[JSONPatch{op: 'add', path: '/host', value: object.host + '-policy'}]")
    );
    f.post(&format!("{GROUP}/mutatingadmissionpolicies"), &rules("change", &mutations)).await.is(201);
    f.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding("change", "change", "matchResources: {}"))
        .await
        .is(201);
    f.post(V1, &point("v1", "e", "hostPort: \"i:2\"")).await.is(201).has(&[("/hostPort", "i-policy:2")]);
    // Parameters are converted too.
    let validations = "paramKind: {apiVersion: example.com/v2, kind: Point}, validations: [{expression: \"object.port == params.port && request.resource.version == 'v2' && request.requestResource.version == 'v1'\"}]";
    f.post(&format!("{GROUP}/validatingadmissionpolicies"), &rules("same", validations)).await.is(201);
    let like_a = "validationActions: [Deny], paramRef: {name: a, parameterNotFoundAction: Deny}";
    f.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding("same", "same", like_a)).await.is(201);
    f.post(V1, &point("v1", "f", "hostPort: \"i:2\"")).await.is(422);
    f.post(V1, &point("v1", "f", "hostPort: \"i:1\"")).await.is(201);
    f.post(V2, &point("v2", "g", "host: i, port: \"1\"")).await.is(422);
}

#[tokio::test]
async fn built_in_versions() {
    let f = fixture().await;
    let validations = "validations: [{expression: \"!object.note.startsWith('bad')\"}]";
    let new =
        policy("notes", "events", validations).replace("stable.example.com]", "events.k8s.io]").replace("\"\", ", "");
    f.post(&format!("{GROUP}/validatingadmissionpolicies"), &new).await.is(201);
    f.post(
        &format!("{GROUP}/validatingadmissionpolicybindings"),
        &binding("notes", "notes", "validationActions: [Deny]"),
    )
    .await
    .is(201);
    let event = |name: &str, message: &str| {
        format!(
            "{{metadata: {{name: {name}}}, involvedObject: {{kind: Pod, name: p, namespace: default}}, reason: R, message: \"{message}\", type: Normal}}"
        )
    };
    let events = "/api/v1/namespaces/default/events";
    f.post(events, &event("a", "good")).await.is(201);
    f.post(events, &event("b", "bad thing")).await.is(422);
}

#[tokio::test]
async fn second_turns() {
    let f = fixture().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let rule = "apiGroups: [\"\"], apiVersions: [v1], resources: [configmaps]";
    hook(&f, "mutating", "a", "https://append/a", rule, "reinvocationPolicy: IfNeeded").await;
    f.post(maps, "{metadata: {name: one, annotations: {log: \"-\"}}}")
        .await
        .is(201)
        .has(&[("/metadata/annotations/log", "-a")]);
    hook(&f, "mutating", "b", "https://append/b", rule, "").await;
    // Chosen by what a and b made of it.
    let conditions = "reinvocationPolicy: IfNeeded, matchConditions: [{name: c, expression: \"object.metadata.annotations.log == '-ab'\"}]";
    hook(&f, "mutating", "c", "https://append/c", rule, conditions).await;
    f.post(maps, "{metadata: {name: two, annotations: {log: \"-\"}}}")
        .await
        .is(201)
        .has(&[("/metadata/annotations/log", "-abca")]);
    // Policies come first, and see what webhooks did if they want to.
    let counting =
        "[JSONPatch{op: 'replace', path: '/metadata/annotations/log', value: object.metadata.annotations.log + 'p'}]";
    for (name, again) in [("p-once", "Never"), ("p-again", "IfNeeded")] {
        let rest = format!("reinvocationPolicy: {again}, mutations: [{}]", mutation(counting));
        f.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy(name, "configmaps", &rest)).await.is(201);
        f.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding(name, name, "matchResources: {}"))
            .await
            .is(201);
    }
    f.post(maps, "{metadata: {name: three, annotations: {log: \"-\"}}}")
        .await
        .is(201)
        .has(&[("/metadata/annotations/log", "-ppabpa")]);
}

#[tokio::test]
async fn what_subresources_take() {
    let f = fixture().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    f.post(deployments, &deployment("d", 1)).await.is(201);
    let rule = "apiGroups: [apps], apiVersions: [v1], resources: [deployments/scale]";
    let scale = format!("{deployments}/d/scale");
    let patch = "https://patch/spec/replicas=7";
    hook(&f, "mutating", "seven", patch, rule, "").await;
    f.patch(&scale, "merge-patch", "{spec: {replicas: 3}}").await.is(200).has(&[("/spec/replicas", "7")]);
    forget(&f, "mutatingwebhookconfigurations", "seven").await;
    hook(&f, "validating", "tell", "https://tell/", rule, "").await;
    let wanted = "autoscaling/v1/Scale apps/v1/deployments autoscaling/v1/Scale apps/v1/deployments scale {";
    let message = f.patch(&scale, "merge-patch", "{spec: {replicas: 3}}").await.is(400).at("/message");
    assert!(message.contains(wanted), "{message}");
    forget(&f, "validatingwebhookconfigurations", "tell").await;
    // A policy patches a Scale, but cannot apply to it: its group's document does not know the type.
    let policies = format!("{GROUP}/mutatingadmissionpolicies");
    let bindings = format!("{GROUP}/mutatingadmissionpolicybindings");
    let mutations = |expression: &str| format!("reinvocationPolicy: Never, mutations: [{}]", mutation(expression));
    let patch = mutations("[JSONPatch{op: 'replace', path: '/spec/replicas', value: 8}]");
    f.post(&policies, &policy("eight", "deployments/scale", &patch)).await.is(201);
    f.post(&bindings, &binding("eight", "eight", "matchResources: {}")).await.is(201);
    f.patch(&scale, "merge-patch", "{spec: {replicas: 3}}").await.is(200).has(&[("/spec/replicas", "8")]);
    let apply = mutations("Object{spec: Object.spec{replicas: 8}}");
    f.post(&policies, &policy("apply", "deployments/scale", &apply)).await.is(201);
    f.post(&bindings, &binding("apply", "apply", "matchResources: {}")).await.is(201);
    f.patch(&scale, "merge-patch", "{spec: {replicas: 3}}").await.is(403).has(&[("/message", "policy 'apply' with binding 'apply' denied request: error applying patch: failed to convert patch object to typed object: no corresponding type for autoscaling/v1, Kind=Scale")]);
    // A Binding's labels become the pod's.
    let label = mutations("Object{metadata: Object.metadata{labels: {'bound': 'yes'}}}");
    f.post(&policies, &policy("bind", "pods/binding", &label)).await.is(201);
    f.post(&bindings, &binding("bind", "bind", "matchResources: {}")).await.is(201);
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}").await.is(201);
    f.post(&format!("{pods}/p/binding"), "{metadata: {name: p}, target: {kind: Node, name: n}}").await.is(201);
    f.get(&format!("{pods}/p")).await.has(&[("/metadata/labels/bound", "yes")]);
}

#[tokio::test]
async fn scales_own_their_replicas() {
    let f = Fixture::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let scale = format!("{deployments}/d/scale");
    let owners = async || {
        let object = f.get(&format!("{deployments}/d")).await.json();
        let rows = object.list_at(&["metadata", "managedFields"]).iter();
        let owning = rows.filter(|row| !row["fieldsV1"]["f:spec"]["f:replicas"].is_null());
        let named = owning.map(|row| {
            let text = |field| row.str_at(&[field]);
            format!("{} {} {} {}", text("manager"), text("operation"), text("apiVersion"), text("subresource"))
        });
        named.collect::<Vec<_>>().join(", ")
    };
    let apply = async |manager: &str, rest: &str, replicas: i64| {
        let body = format!(
            "{{apiVersion: autoscaling/v1, kind: Scale, metadata: {{name: d}}, spec: {{replicas: {replicas}}}}}"
        );
        let path = format!("{scale}?fieldManager={manager}{rest}");
        f.raw(Fixture::request(http::Method::PATCH, &path, "application/apply-patch+yaml", body)).await
    };
    f.post(&format!("{deployments}?fieldManager=one"), &deployment("d", 1)).await.is(201);
    assert_eq!(owners().await, "one Update apps/v1 ");
    f.patch(&format!("{scale}?fieldManager=two"), "merge-patch", "{spec: {replicas: 2}}").await.is(200);
    assert_eq!(owners().await, "two Update apps/v1 scale");
    let conflict = "Apply failed with 1 conflict: conflict with \"two\" with subresource \"scale\" using autoscaling/v1: .spec.replicas";
    apply("three", "", 5).await.is(409).has(&[("/message", conflict)]);
    apply("three", "", 2).await.is(200).has(&[("/metadata/managedFields", "-")]);
    assert_eq!(owners().await, "three Apply apps/v1 scale, two Update apps/v1 scale");
    apply("three", "&force=true", 5).await.is(200).has(&[("/spec/replicas", "5")]);
    assert_eq!(owners().await, "three Apply apps/v1 scale");
    f.put(&format!("{scale}?fieldManager=four"), "{metadata: {name: d}, spec: {replicas: 6}}").await.is(200);
    assert_eq!(owners().await, "four Update apps/v1 scale");
    f.put(&scale, "{metadata: {name: d}, spec: {replicas: -1}}").await.is(422);
    f.put(&scale, "{metadata: {name: d, resourceVersion: \"1\"}, spec: {replicas: 1}}").await.is(409);
    f.put(&scale, "{metadata: {name: d, uid: x}, spec: {replicas: 1}}").await.is(409);
}

#[tokio::test]
async fn what_webhooks_may_not_leave() {
    let f = fixture().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let rule = "apiGroups: [\"\"], apiVersions: [v1], resources: [configmaps]";
    let owner = "{apiVersion: v1, kind: ConfigMap, name: o, uid: u}";
    let warning = |when: &str| {
        format!(
            "299 - \".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u\""
        )
    };
    let twice = format!("{{metadata: {{name: a, ownerReferences: [{owner}, {owner}]}}}}");
    let made = f.post(maps, &twice).await.is(201).has(&[("/metadata/ownerReferences/1", "-")]);
    assert_eq!(made.headers["warning"], warning(""));
    hook(&f, "mutating", "owners", "https://spoil/owners", rule, "").await;
    let made = f.post(maps, "{metadata: {name: b}}").await.is(201).has(&[("/metadata/ownerReferences/1", "-")]);
    assert_eq!(made.headers["warning"], warning(" after mutating admission happens"));
    forget(&f, "mutatingwebhookconfigurations", "owners").await;
    hook(&f, "mutating", "managed", "https://spoil/managed", rule, "").await;
    let made = f
        .post(maps, "{metadata: {name: c}, data: {a: b}}")
        .await
        .is(201)
        .has(&[("/metadata/managedFields/0/operation", "Update")]);
    assert_eq!(
        made.headers["warning"],
        "299 - \".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: operation must be `Apply` or `Update`\""
    );
}
