//! Admission webhooks and aggregated API servers, whose other end is this file.

use apiserver::seams::{Shows, Target};
use apiserver::{Body, Status, body};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Response};
use http_body_util::BodyExt;
use schema::{Value, json};

use crate::harness::{Fixture, config, relaxed};

/// The world outside: by the host of the URL.
pub async fn answer(target: Target<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    if target.url.starts_with("https://hangs") {
        std::future::pending::<()>().await;
    }
    let user = request.headers().get("x-remote-user").map(|u| u.to_str().unwrap().to_owned());
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    if let Some(user) = user {
        assert!(target.shows == Shows::FrontProxy && target.address.is_some());
        let told = match (user.as_str(), path.as_str()) {
            ("system:kube-aggregator", "/apis/wardle.example.com/v1") => FLUNDERS,
            ("system:kube-aggregator", "/openapi/v2") => DOCUMENT,
            ("system:kube-aggregator", "/openapi/v3") => INDEX,
            _ => &format!("{{kind: Answer, path: \"{path}\", user: \"{user}\"}}"),
        };
        return Ok(Response::new(body::full(relaxed(told))));
    }
    let review = json::parse(&bytes).unwrap();
    if review.str_at(&["kind"]) == "ConversionReview" {
        return Ok(Response::new(body::full(crate::conversion::answer(target.url, &review).to_string())));
    }
    let mut response = Value::object([("uid", review["request"]["uid"].clone()), ("allowed", true.into())]);
    if target.url.starts_with("https://label") {
        let patch = br#"[{"op":"add","path":"/data/touched","value":"yes"}]"#;
        response.set(&["patch"], STANDARD.encode(patch));
        response.set(&["patchType"], "JSONPatch");
        response.set(&["warnings"], Value::list(["touched"]));
    } else if let Some(letter) = target.url.strip_prefix("https://append/") {
        let log = review["request"]["object"]["metadata"]["annotations"]["log"].as_str().unwrap_or("").to_owned();
        let patch = format!(r#"[{{"op":"add","path":"/metadata/annotations/log","value":"{log}{letter}"}}]"#);
        response.set(&["patch"], STANDARD.encode(patch));
        response.set(&["patchType"], "JSONPatch");
        response.set(&["auditAnnotations", "log"], log);
    } else if let Some((path, value)) = target.url.strip_prefix("https://patch").and_then(|p| p.split_once('=')) {
        let patch = relaxed(&format!("[{{op: add, path: \"{path}\", value: {value}}}]"));
        response.set(&["patch"], STANDARD.encode(patch));
        response.set(&["patchType"], "JSONPatch");
    } else if target.url.starts_with("https://spoil") {
        let patch = match target.url {
            "https://spoil/owners" => relaxed(
                "[{op: add, path: /metadata/ownerReferences, value: [{apiVersion: v1, kind: ConfigMap, name: o, uid: u}, {apiVersion: v1, kind: ConfigMap, name: o, uid: u}]}]",
            ),
            _ => relaxed("[{op: add, path: /metadata/managedFields, value: [{operation: Nope}]}]"),
        };
        response.set(&["patch"], STANDARD.encode(patch));
        response.set(&["patchType"], "JSONPatch");
    } else if target.url.starts_with("https://tell") {
        response.set(&["allowed"], false);
        response.set(&["status", "message"], told(&review["request"]));
    } else if target.url.starts_with("https://deny") {
        let bad = review["request"]["object"]["data"]["bad"].as_str().is_some();
        response.set(&["allowed"], !bad);
        response.set(&["status", "message"], "it is bad");
        response.set(&["status", "code"], 403i64);
    } else {
        return Err(Status::unavailable("nobody there"));
    }
    let answer = Value::object([
        ("apiVersion", review["apiVersion"].clone()),
        ("kind", review["kind"].clone()),
        ("response", response),
    ]);
    Ok(Response::new(body::full(answer.to_string())))
}

/// What a webhook sees of a request, in short.
fn told(request: &Value) -> String {
    let of = |field: &str, last: &str| {
        let (group, version) = (request.str_at(&[field, "group"]), request.str_at(&[field, "version"]));
        format!("{group}/{version}/{}", request.str_at(&[field, last]))
    };
    let (mut object, mut old) = (request["object"].clone(), request["oldObject"].clone());
    object.remove(&["metadata"]);
    old.remove(&["metadata"]);
    format!(
        "{} {} {} {} {} {object} {old}",
        of("kind", "kind"),
        of("resource", "resource"),
        of("requestKind", "kind"),
        of("requestResource", "resource"),
        request.str_at(&["subResource"]),
    )
}

pub fn hook(kind: &str, url: &str, policy: &str) -> String {
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
    let text = f.get("/metrics").await.text();
    let create = "operation=\"CREATE\"";
    for wanted in [
        format!(
            "request_total{{code=\"200\",name=\"label.example.com\",{create},rejected=\"false\",type=\"admit\"}} 2"
        ),
        format!(
            "request_total{{code=\"403\",name=\"deny.example.com\",{create},rejected=\"true\",type=\"validating\"}} 1"
        ),
        format!(
            "request_total{{code=\"0\",name=\"gone.example.com\",{create},rejected=\"false\",type=\"validating\"}} 2"
        ),
        format!(
            "rejection_count{{error_type=\"no_error\",name=\"deny.example.com\",{create},rejection_code=\"403\",type=\"validating\"}} 1"
        ),
        "fail_open_count{name=\"gone.example.com\",type=\"validating\"} 2".to_owned(),
        format!(
            "admission_duration_seconds_count{{name=\"label.example.com\",{create},rejected=\"false\",type=\"admit\"}} 2"
        ),
    ] {
        let wanted = format!("apiserver_admission_webhook_{wanted}");
        assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
    }
    let wanted = format!(
        "apiserver_admission_controller_admission_duration_seconds_count{{name=\"ValidatingAdmissionWebhook\",{create},rejected=\"true\",type=\"validate\"}} 1"
    );
    assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
}

const FLUNDERS: &str = "{kind: APIResourceList, resources: [{name: flunders, singularName: flunder, namespaced: true, kind: Flunder, verbs: [get, list]}, {name: flunders/status, namespaced: true, kind: Flunder, verbs: [update]}]}";
const INDEX: &str = "{paths: {apis/wardle.example.com/v1: {serverRelativeURL: \"/openapi/v3/apis/wardle.example.com/v1?hash=A\"}, apis/apps/v1: {serverRelativeURL: \"/openapi/v3/apis/apps/v1?hash=B\"}}}";
const DOCUMENT: &str = "{paths: {/apis/wardle.example.com/v1/flunders: {get: {x: {$ref: \"#/definitions/Flunder\"}}}, /api/v1/pods: {}}, definitions: {Flunder: {type: object, properties: {metadata: {$ref: \"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\"}}}, Other: {}, io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta: {type: object}}}";
pub const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

async fn becomes(f: &Fixture, reason: &str, message: &str) {
    let service = format!("{SERVICES}/v1.wardle.example.com");
    for _ in 0..1000 {
        let found = f.get(&service).await.is(200);
        if found.at("/status/conditions/0/reason") == reason {
            found.has(&[("/status/conditions/0/message", message), ("/status/conditions/0/type", "Available")]);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not {reason}: {}", f.get(&service).await.text());
}

async fn aggregated(f: &Fixture) -> Value {
    let mut request = Fixture::request(http::Method::GET, "/apis", "", "");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    request.headers_mut().insert("accept", accept.parse().unwrap());
    let list = f.raw(request).await.is(200).json();
    let mut groups = list.list_at(&["items"]).iter();
    groups.find(|g| g.str_at(&["metadata", "name"]) == "wardle.example.com").cloned().unwrap_or_default()
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
async fn remote_groups() {
    let f = Fixture::new().await;
    f.post(SERVICES, "{metadata: {name: v1.wardle.example.com}, spec: {group: wardle.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 200, insecureSkipTLSVerify: true, service: {name: sample, namespace: default}}}").await.is(201);
    becomes(&f, "ServiceNotFound", "service/sample in \"default\" is not present").await;
    f.get("/apis/wardle.example.com/v1").await.is(503);
    assert_eq!(aggregated(&f).await["versions"][0].str_at(&["freshness"]), "Stale");
    let services = "/api/v1/namespaces/default/services";
    f.post(services, "{metadata: {name: sample}, spec: {ports: [{port: 444, name: other}]}}").await.is(201);
    becomes(&f, "ServicePortError", "service/sample in \"default\" is not listening on port 443").await;
    f.patch(&format!("{services}/sample"), "merge-patch", "{spec: {ports: [{port: 443, name: https}]}}").await.is(200);
    becomes(&f, "EndpointsNotFound", "cannot find endpointslices for service/sample in \"default\"").await;
    f.post(SLICES, "{metadata: {name: sample, labels: {kubernetes.io/service-name: sample}}, addressType: IPv4, endpoints: [{addresses: [\"10.42.0.9\"], conditions: {ready: false}}], ports: [{port: 8443, name: https}]}").await.is(201);
    let none = "endpointslices for service/sample in \"default\" have no addresses with port name \"https\"";
    becomes(&f, "MissingEndpoints", none).await;
    let ready = "{endpoints: [{addresses: [\"10.42.0.9\"]}]}";
    f.patch(&format!("{SLICES}/sample"), "merge-patch", ready).await.is(200);
    becomes(&f, "Passed", "all checks passed").await;

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
    assert!(f.get("/").await.text().contains("/apis/wardle.example.com/v1"));
    let resource = |group: &Value| {
        let resource = &group["versions"][0]["resources"][0];
        let kind = resource.str_at(&["responseKind", "kind"]);
        let subresource = resource["subresources"][0].str_at(&["subresource"]);
        format!(
            "{} {kind} {subresource} {}",
            resource.str_at(&["resource"]),
            group["versions"][0].str_at(&["freshness"])
        )
    };
    assert_eq!(resource(&aggregated(&f).await), "flunders Flunder status Current");

    f.get("/openapi/v3").await.is(200).has(&[(
        "/paths/apis~1wardle.example.com~1v1/serverRelativeURL",
        "/openapi/v3/apis/wardle.example.com/v1?hash=A",
    )]);
    assert!(!f.get("/openapi/v3").await.text().contains("apps/v1?hash=B"));
    f.get("/openapi/v3/apis/wardle.example.com/v1?hash=A")
        .await
        .is(200)
        .has(&[("/path", "/openapi/v3/apis/wardle.example.com/v1")]);
    f.get("/openapi/v3/apis/other.example.com/v1").await.is(404);
    f.get("/openapi/v2").await.is(200).has(&[
        ("/paths/~1apis~1wardle.example.com~1v1~1flunders/get/x/$ref", "#/definitions/Flunder"),
        (
            "/definitions/Flunder/properties/metadata/$ref",
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2",
        ),
        ("/definitions/Other", "-"),
        ("/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2/type", "object"),
    ]);

    f.delete(&format!("{SLICES}/sample")).await.is(200);
    becomes(&f, "EndpointsNotFound", "cannot find endpointslices for service/sample in \"default\"").await;
    f.get("/apis/wardle.example.com/v1/namespaces/default/flunders").await.is(503);
    assert_eq!(resource(&aggregated(&f).await), "flunders Flunder status Stale");
    f.delete(&format!("{SERVICES}/v1.wardle.example.com")).await.is(200);
    assert!(aggregated(&f).await.is_null());
}
