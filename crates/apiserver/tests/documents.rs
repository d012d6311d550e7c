//! Discovery, OpenAPI, health, tables, subresources and custom resources.

use http::Method;

use crate::harness::{Fixture, Reply};

async fn accept(f: &Fixture, path: &str, accept: &str) -> Reply {
    let mut request = Fixture::request(Method::GET, path, "", "");
    request.headers_mut().insert("accept", accept.parse().expect("a header"));
    f.raw(request).await
}

#[tokio::test]
async fn discovery() {
    let f = Fixture::new().await;
    f.get("/api").await.is(200).has(&[("/kind", "APIVersions"), ("/versions/0", "v1")]);
    f.get("/apis").await.is(200).has(&[
        ("/kind", "APIGroupList"),
        ("/groups/0/name", "apiregistration.k8s.io"),
        ("/groups/1/name", "apps"),
    ]);
    f.get("/apis/autoscaling").await.is(200).has(&[("/kind", "APIGroup"), ("/preferredVersion/version", "v2")]);
    f.get("/apis/apps/v1").await.is(200).has(&[
        ("/kind", "APIResourceList"),
        ("/groupVersion", "apps/v1"),
        ("/resources/0/name", "controllerrevisions"),
    ]);
    f.get("/apis/none").await.is(404);
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let list = accept(&f, "/apis", v2)
        .await
        .is(200)
        .has(&[("/kind", "APIGroupDiscoveryList"), ("/items/1/versions/0/resources/0/scope", "Namespaced")]);
    let etag = list.headers["etag"].clone();
    let mut again = Fixture::request(Method::GET, "/apis", "", "");
    again.headers_mut().insert("accept", v2.parse().expect("a header"));
    again.headers_mut().insert("if-none-match", etag);
    f.raw(again).await.is(304);
    for (path, code) in [
        ("/healthz", 200),
        ("/livez?verbose", 200),
        ("/readyz/ping", 200),
        ("/readyz/none", 404),
        ("/version", 200),
        ("/metrics", 200),
        ("/", 200),
        ("/nothing", 404),
    ] {
        f.get(path).await.is(code);
    }
}

#[tokio::test]
async fn open_api() {
    let f = Fixture::new().await;
    let index = f.get("/openapi/v3").await.is(200);
    let url = index.at("/paths/apis~1apps~1v1/serverRelativeURL");
    let apps = f.get(&url).await.is(200).has(&[
        ("/openapi", "3.0.0"),
        ("/components/schemas/io.k8s.api.apps.v1.Deployment/x-kubernetes-group-version-kind/0/kind", "Deployment"),
        ("/components/schemas/io.k8s.api.core.v1.PodSpec/properties/containers/x-kubernetes-patch-merge-key", "name"),
        ("/components/schemas/io.k8s.api.core.v1.PodSpec/properties/containers/x-kubernetes-list-map-keys/0", "name"),
        ("/paths/~1apis~1apps~1v1~1namespaces~1{namespace}~1deployments~1{name}/patch/x-kubernetes-group-version-kind/kind", "Deployment"),
        ("/components/schemas/io.k8s.api.apps.v1.Deployment/properties/metadata/description", "Standard object's metadata."),
        ("/components/schemas/io.k8s.api.apps.v1.Deployment/properties/metadata/allOf/0/$ref", "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"),
    ]);
    // Every reference leads somewhere.
    let text = apps.text();
    let schemas = apps.json()["components"]["schemas"].clone();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap_or("");
        assert!(schemas.member(name).is_some(), "{name}");
    }
    f.get("/openapi/v3/apis/apps/v1?hash=OLD").await.is(301);
    f.get("/openapi/v2").await.is(200).has(&[
        ("/swagger", "2.0"),
        ("/definitions/io.k8s.api.core.v1.Pod/x-kubernetes-group-version-kind/0/kind", "Pod"),
    ]);
    let packed = accept(&f, "/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await.is(200);
    assert_eq!(packed.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    // The definition of a name: field 9 holds them, each in field 1 with its name in 1 and its schema in 2.
    let definition = field(field_with(field(&packed.bytes, 9), 1, "io.k8s.api.core.v1.Container"), 2);
    let ports = field(field_with(field(definition, 25), 1, "ports"), 2);
    assert_eq!(field(field(ports, 22), 1), b"array");
    let keys = field(field_with(ports, 31, "x-kubernetes-list-map-keys"), 2);
    assert_eq!(field(keys, 2), b"[\"containerPort\",\"protocol\"]\n");
    accept(&f, "/openapi/v2", "text/html").await.is(406);
}

/// The fields of a protobuf message that are bytes.
fn fields(message: &[u8]) -> Vec<(u32, &[u8])> {
    let mut cursor = schema::proto::wire::Cursor::new(message);
    let mut out = Vec::new();
    while let Some((tag, wire)) = cursor.tag().expect("a tag") {
        match wire {
            2 => out.push((tag, cursor.bytes().expect("bytes"))),
            _ => cursor.skip(wire).expect("a value"),
        }
    }
    out
}

fn field(message: &[u8], tag: u32) -> &[u8] {
    fields(message).into_iter().find(|(t, _)| *t == tag).expect("the field").1
}

/// The one of a repeated field whose own first field is this name.
fn field_with<'a>(message: &'a [u8], tag: u32, name: &str) -> &'a [u8] {
    let of_tag = fields(message).into_iter().filter(|(t, _)| *t == tag);
    of_tag.map(|(_, inner)| inner).find(|inner| field(inner, 1) == name.as_bytes()).expect("the name")
}

#[tokio::test]
async fn tables() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, "{metadata: {name: p}, spec: {containers: [{name: c, image: nginx}, {name: d, image: redis}]}}")
        .await
        .is(201);
    f.patch(&format!("{pods}/p/status"), "strategic-merge-patch", "{status: {phase: Running, podIP: \"10.42.0.2\", containerStatuses: [{name: c, ready: true, restartCount: 2, image: nginx, imageID: x, state: {running: {}}}, {name: d, ready: false, restartCount: 0, image: redis, imageID: y, state: {waiting: {reason: CrashLoopBackOff}}}]}}").await.is(200);
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let rows = accept(&f, pods, table).await.is(200);
    let cells: Vec<String> = (0..6).map(|i| rows.at(&format!("/rows/0/cells/{i}"))).collect();
    assert_eq!(cells, ["p", "1/2", "CrashLoopBackOff", "2", "0s", "10.42.0.2"]);
    f.post("/apis/apps/v1/namespaces/default/deployments", "{metadata: {name: web}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: nginx}]}}}}").await.is(201).has(&[
        ("/spec/replicas", "1"),
        ("/spec/strategy/rollingUpdate/maxSurge", "25%"),
        ("/metadata/generation", "1"),
    ]);
    let rows = accept(&f, "/apis/apps/v1/namespaces/default/deployments", table).await;
    let cells: Vec<String> = (0..7).map(|i| rows.at(&format!("/rows/0/cells/{i}"))).collect();
    assert_eq!(cells, ["web", "0/1", "0", "0", "0s", "c", "nginx"]);
    f.post("/apis/apps/v1/namespaces/default/replicasets", "{metadata: {name: r}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: nginx}]}}}}").await.is(201);
    let rows = accept(&f, "/apis/apps/v1/namespaces/default/replicasets", table).await;
    let cells: Vec<String> = (0..4).map(|i| rows.at(&format!("/rows/0/cells/{i}"))).collect();
    assert_eq!(cells, ["r", "1", "0", "0"], "zero is a number too");
    f.post("/api/v1/namespaces/default/limitranges", "{metadata: {name: l}, spec: {limits: []}}").await.is(201);
    let rows = accept(&f, "/api/v1/namespaces/default/limitranges", table).await;
    assert_eq!(rows.at("/rows/0/cells/1"), "2027-01-15T08:00:00Z");
    accept(&f, "/api/v1/namespaces/default/limitranges?includeObject=Odd", table).await.is(400);
}

#[tokio::test]
async fn scale_and_status() {
    let f = Fixture::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    f.post(path, "{metadata: {name: web}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: nginx}]}}}}").await.is(201);
    f.get(&format!("{path}/web/scale")).await.is(200).has(&[
        ("/kind", "Scale"),
        ("/spec/replicas", "1"),
        ("/status/selector", "a=b"),
    ]);
    f.patch(&format!("{path}/web/scale"), "merge-patch", "{spec: {replicas: 3}}")
        .await
        .is(200)
        .has(&[("/spec/replicas", "3")]);
    f.put(&format!("{path}/web/scale"), "{metadata: {name: web}, spec: {replicas: 4}}")
        .await
        .is(200)
        .has(&[("/spec/replicas", "4")]);
    f.get(&format!("{path}/web")).await.has(&[("/spec/replicas", "4"), ("/metadata/generation", "3")]);
    f.patch(&format!("{path}/web/status"), "merge-patch", "{spec: {replicas: 9}, status: {replicas: 2}}")
        .await
        .is(200)
        .has(&[("/spec/replicas", "4"), ("/status/replicas", "2")]);
    f.patch(&format!("{path}/web"), "merge-patch", "{status: {replicas: 7}}")
        .await
        .is(200)
        .has(&[("/status/replicas", "2")]);
    f.patch(&format!("{path}/web"), "merge-patch", "{spec: {selector: {matchLabels: {x: y}}}}").await.is(422);
}

#[tokio::test]
async fn connects_and_reviews() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post("/api/v1/nodes", "{metadata: {name: n1}}").await.is(201);
    f.post(pods, "{metadata: {name: p}, spec: {nodeName: n1, containers: [{name: c, image: nginx}]}}").await.is(201);
    for (path, want) in [
        ("p/log?tailLines=5", "n1 GET /containerLogs/default/p/c?tailLines=5"),
        (
            "p/exec?command=ls&command=-l&stdin=true&stdout=1&container=c",
            "n1 GET /exec/default/p/c?command=ls&command=-l&input=1&output=1",
        ),
        ("p/portforward", "n1 GET /portForward/default/p"),
    ] {
        assert_eq!(f.get(&format!("{pods}/{path}")).await.is(200).text(), want);
    }
    f.get(&format!("{pods}/p/log?container=none")).await.is(400);
    f.post(pods, "{metadata: {name: waits}, spec: {nodeName: n1, containers: [{name: c, image: nginx}]}}")
        .await
        .is(201);
    f.get(&format!("{pods}/waits/log")).await.is(400).has(&[
        ("/kind", "Status"),
        ("/reason", "BadRequest"),
        ("/message", "it is waiting"),
    ]);
    f.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "{spec: {resourceAttributes: {verb: get, resource: pods}}}",
    )
    .await
    .is(201)
    .has(&[("/status/allowed", "true")]);
    f.post("/apis/authentication.k8s.io/v1/tokenreviews", "{spec: {token: good}}")
        .await
        .is(201)
        .has(&[("/status/user/username", "jane")]);
    f.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}")
        .await
        .is(201)
        .has(&[("/status/userInfo/username", "admin")]);
    f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: sa}}").await.is(201);
    f.post("/api/v1/namespaces/default/serviceaccounts/sa/token", "{spec: {audiences: []}}")
        .await
        .is(201)
        .has(&[("/status/token", "signed"), ("/spec/expirationSeconds", "3600")]);
}

#[tokio::test]
async fn evictions_spend_a_budget() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    f.post(pods, "{metadata: {name: p, labels: {a: b}}, spec: {nodeName: n, containers: [{name: c, image: nginx}]}}")
        .await
        .is(201);
    f.patch(
        &format!("{pods}/p/status"),
        "merge-patch",
        "{status: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}}",
    )
    .await
    .is(200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    f.post(budgets, "{metadata: {name: b}, spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}}").await.is(201);
    let evict = "{apiVersion: policy/v1, kind: Eviction, metadata: {name: p}}";
    f.post(&format!("{pods}/p/eviction"), evict).await.is(429);
    f.patch(&format!("{budgets}/b/status"), "merge-patch", "{status: {observedGeneration: 1, disruptionsAllowed: 1, currentHealthy: 2, desiredHealthy: 1, expectedPods: 2}}").await.is(200);
    f.post(&format!("{pods}/p/eviction"), evict).await.is(201);
    f.get(&format!("{pods}/p"))
        .await
        .is(200)
        .has(&[("/metadata/deletionGracePeriodSeconds", "30"), ("/status/conditions/1/type", "DisruptionTarget")]);
    f.get(&format!("{budgets}/b")).await.has(&[("/status/disruptionsAllowed", "0")]);
}

const DEFINITION: &str = r#"{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: foos.example.com},
  spec: {group: example.com, scope: Namespaced, names: {plural: foos, kind: Foo, shortNames: [fo]},
    versions: [{name: v1, served: true, storage: true, subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}},
      additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}],
      schema: {openAPIV3Schema: {type: object, properties: {
        spec: {type: object, required: [size], properties: {size: {type: integer, minimum: 1}, replicas: {type: integer}, color: {type: string, default: red}}},
        status: {type: object, properties: {replicas: {type: integer}}}}}}}]}}"#;

#[tokio::test]
async fn custom_resources() {
    let f = Fixture::new().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    f.post(definitions, DEFINITION).await.is(201);
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    for _ in 0..200 {
        if f.get(foos).await.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    f.get(&format!("{definitions}/foos.example.com"))
        .await
        .has(&[("/status/acceptedNames/kind", "Foo"), ("/status/storedVersions/0", "v1")]);
    let made = f.post(foos, "{apiVersion: example.com/v1, kind: Foo, metadata: {name: f}, spec: {size: 2, odd: 1}, status: {replicas: 9}}").await.is(201).has(&[
        ("/spec/color", "red"),
        ("/spec/odd", "-"),
        ("/status", "-"),
        ("/metadata/generation", "1"),
        ("/metadata/managedFields/0/manager", "tests"),
    ]);
    assert_eq!(made.headers["warning"], "299 - \"unknown field \\\"spec.odd\\\"\"");
    f.post(foos, "{apiVersion: example.com/v1, kind: Foo, metadata: {name: bad}, spec: {size: 0}}").await.is(422);
    f.patch(&format!("{foos}/f"), "merge-patch", "{spec: {size: 3}}")
        .await
        .is(200)
        .has(&[("/metadata/generation", "2")]);
    f.patch(&format!("{foos}/f/status"), "merge-patch", "{status: {replicas: 1}}")
        .await
        .is(200)
        .has(&[("/status/replicas", "1"), ("/metadata/generation", "2")]);
    f.patch(&format!("{foos}/f/scale"), "merge-patch", "{spec: {replicas: 5}}")
        .await
        .is(200)
        .has(&[("/spec/replicas", "5"), ("/status/replicas", "1")]);
    f.get(foos).await.is(200).has(&[("/kind", "FooList"), ("/items/0/kind", "Foo"), ("/items/0/spec/replicas", "5")]);
    accept(&f, foos, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await
        .is(200)
        .has(&[("/columnDefinitions/1/name", "Size"), ("/rows/0/cells/1", "3")]);
    f.get("/apis/example.com/v1").await.is(200).has(&[("/resources/0/shortNames/0", "fo")]);
    f.get("/openapi/v3/apis/example.com/v1")
        .await
        .is(200)
        .has(&[("/components/schemas/com.example.v1.Foo/properties/spec/properties/size/type", "integer")]);
    // Where anything goes, kubectl would refuse all but the properties that are told of.
    let anything = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: bars.example.com},
      spec: {group: example.com, scope: Namespaced, names: {plural: bars, kind: Bar}, versions: [{name: v1, served: true, storage: true,
        schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}";
    f.post(definitions, anything).await.is(201);
    while f.get("/apis/example.com/v1/namespaces/default/bars").await.code != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    f.get("/openapi/v2").await.is(200).has(&[
        ("/definitions/com.example.v1.Bar/type", "object"),
        ("/definitions/com.example.v1.Bar/properties", "-"),
        ("/definitions/com.example.v1.Bar/x-kubernetes-preserve-unknown-fields", "-"),
        ("/definitions/com.example.v1.Foo/properties/metadata/description", "Standard object's metadata."),
    ]);
    let apply = Fixture::request(
        Method::PATCH,
        &format!("{foos}/g?fieldManager=m"),
        "application/apply-patch+yaml",
        "apiVersion: example.com/v1\nkind: Foo\nmetadata:\n  name: g\nspec:\n  size: 4\n",
    );
    f.raw(apply).await.is(201).has(&[("/spec/size", "4"), ("/metadata/managedFields/0/operation", "Apply")]);
    f.delete(&format!("{foos}/f")).await.is(200).has(&[("/status", "Success")]);
    f.post(foos, "{metadata: {name: h}, spec: {size: 1}}").await.is(400);
    f.get(&format!("{foos}/g/scale")).await.is(500);
    f.delete(&format!("{definitions}/foos.example.com"))
        .await
        .is(200)
        .has(&[("/metadata/finalizers/0", "customresourcecleanup.apiextensions.k8s.io")]);
    for _ in 0..200 {
        if f.get(&format!("{definitions}/foos.example.com")).await.code == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    f.get(&format!("{definitions}/foos.example.com")).await.is(404);
    f.post(definitions, DEFINITION.replace("name: foos.example.com", "name: other.example.com").as_str()).await.is(422);
}
