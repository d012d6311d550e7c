//! Admission webhooks and aggregated API servers, whose other end is this file.

use apiserver::{Body, Status, body, seams::Target};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Response};
use http_body_util::BodyExt;
use schema::{Value, json};

use crate::harness::{Fixture, config};

/// The world outside: by the host of the URL.
pub async fn answer(target: Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let user = request.headers().get("x-remote-user").map(|u| u.to_str().unwrap().to_owned());
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    if let Some(user) = user {
        assert!(target.front_proxy && target.address.is_some());
        return Ok(Response::new(body::full(format!(
            "{{\"kind\":\"Answer\",\"path\":\"{path}\",\"user\":\"{user}\"}}"
        ))));
    }
    let review = json::parse(&bytes).unwrap();
    let mut response = Value::object([("uid", review["request"]["uid"].clone()), ("allowed", true.into())]);
    if target.url.starts_with("https://label") {
        let patch = br#"[{"op":"add","path":"/data/touched","value":"yes"}]"#;
        response.set(&["patch"], STANDARD.encode(patch));
        response.set(&["patchType"], "JSONPatch");
        response.set(&["warnings"], Value::list(["touched"]));
    } else if target.url.starts_with("https://deny") {
        let bad = review["request"]["object"]["data"]["bad"].as_str().is_some();
        response.set(&["allowed"], !bad);
        response.set(&["status", "message"], "it is bad");
        response.set(&["status", "code"], 403i64);
    } else {
        return Err(Status::unavailable("nobody there"));
    }
    let answer = Value::object([("response", response)]);
    Ok(Response::new(body::full(answer.to_string())))
}

fn hook(kind: &str, url: &str, policy: &str) -> String {
    format!(
        "{{metadata: {{name: {kind}}}, webhooks: [{{name: {kind}.example.com, clientConfig: {{url: \"{url}\"}}, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: {policy}, rules: [{{apiGroups: [\"\"], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}}]}}]}}"
    )
}

#[tokio::test]
async fn webhooks_change_and_refuse() {
    let f = Fixture::with(|store| {
        let mut config = config(store);
        config.admission =
            vec![Box::<apiserver::webhooks::Mutating>::default(), Box::<apiserver::webhooks::Validating>::default()];
        config
    })
    .await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let registration = "/apis/admissionregistration.k8s.io/v1";
    f.post(&format!("{registration}/mutatingwebhookconfigurations"), &hook("label", "https://label/", "Fail"))
        .await
        .is(201);
    f.post(&format!("{registration}/validatingwebhookconfigurations"), &hook("deny", "https://deny/", "Fail"))
        .await
        .is(201);
    f.post(&format!("{registration}/validatingwebhookconfigurations"), &hook("gone", "https://gone/", "Ignore"))
        .await
        .is(201);
    let made = f.post(maps, "{metadata: {name: m}, data: {a: b}}").await.is(201).has(&[("/data/touched", "yes")]);
    assert_eq!(made.headers["warning"], "299 - \"touched\"");
    f.post(maps, "{metadata: {name: n}, data: {bad: x}}")
        .await
        .is(403)
        .has(&[("/message", "admission webhook \"deny.example.com\" denied the request: it is bad")]);
    f.delete(&format!("{registration}/validatingwebhookconfigurations/gone")).await;
}

#[tokio::test]
async fn match_conditions() {
    let f = Fixture::with(|store| {
        let mut config = config(store);
        config.admission = vec![Box::<apiserver::webhooks::Validating>::default()];
        config
    })
    .await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let with = |name: &str, policy: &str, conditions: &str| {
        let conditions = format!("failurePolicy: {policy}, matchConditions: [{conditions}]");
        hook(name, "https://deny/", policy).replace(&format!("failurePolicy: {policy}"), &conditions)
    };
    let guarded = "{name: bad, expression: \"object.data.?ask.orValue('') == 'yes'\"}, {name: who, expression: \"request.userInfo.username == 'admin' && !has(request.subResource)\"}";
    f.post(hooks, &with("deny", "Fail", guarded)).await.is(201);
    f.post(maps, "{metadata: {name: a}, data: {bad: x}}").await.is(201);
    f.post(maps, "{metadata: {name: b}, data: {bad: x, ask: \"yes\"}}").await.is(403);
    // What cannot be evaluated fails the request, or is as if it did not match.
    let wrong = "{name: wrong, expression: \"object.data.nope == 'x'\"}";
    f.post(hooks, &with("ignored", "Ignore", wrong)).await.is(201);
    f.post(maps, "{metadata: {name: c}, data: {bad: x}}").await.is(201);
    f.post(hooks, &with("failing", "Fail", wrong)).await.is(201);
    f.post(maps, "{metadata: {name: d}, data: {bad: x}}").await.is(403).has(&[(
        "/message",
        "configmaps \"d\" is forbidden: expression 'object.data.nope == 'x'' resulted in error: no such key: nope",
    )]);
    // One that does not hold outweighs the error.
    f.post(maps, "{metadata: {name: e}, data: {nope: y, bad: x}}").await.is(201);
    let conditions = "{name: \"\", expression: \"1 + 1\"}, {name: \"x y\", expression: \"oldObject.\"}";
    let message = f.post(hooks, &with("bad", "Fail", conditions)).await.is(422).at("/message");
    for wanted in [
        "webhooks[0].matchConditions[0].expression: Invalid value: \"1 + 1\": must evaluate to bool but got int",
        "webhooks[0].matchConditions[0].name: Required value",
        "webhooks[0].matchConditions[1].expression: Invalid value: \"oldObject.\": compilation failed: ERROR: <input>:1:11: Syntax error",
        "webhooks[0].matchConditions[1].name: Invalid value: \"x y\"",
    ] {
        assert!(message.contains(wanted), "{message}");
    }
}

#[tokio::test]
async fn remote_groups_are_proxied() {
    let f = Fixture::new().await;
    f.post("/api/v1/namespaces/default/services", "{metadata: {name: sample}, spec: {ports: [{port: 443}]}}")
        .await
        .is(201);
    f.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", "{metadata: {name: sample, labels: {kubernetes.io/service-name: sample}}, addressType: IPv4, endpoints: [{addresses: [\"10.42.0.9\"]}], ports: [{port: 8443, name: \"\"}]}").await.is(201);
    f.post("/apis/apiregistration.k8s.io/v1/apiservices", "{metadata: {name: v1.wardle.example.com}, spec: {group: wardle.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 200, insecureSkipTLSVerify: true, service: {name: sample, namespace: default}}}").await.is(201);
    f.get("/apis/wardle.example.com/v1")
        .await
        .is(200)
        .has(&[("/path", "/apis/wardle.example.com/v1"), ("/user", "admin")]);
    f.get("/apis/wardle.example.com/v1/namespaces/default/flunders")
        .await
        .is(200)
        .has(&[("/path", "/apis/wardle.example.com/v1/namespaces/default/flunders")]);
    f.get("/apis/wardle.example.com").await.is(200).has(&[("/preferredVersion/version", "v1")]);
    f.get("/apis/other.example.com/v1").await.is(404);
}
