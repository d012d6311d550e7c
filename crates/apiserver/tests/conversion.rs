//! Custom resources in several versions: converted by a webhook that is this file, and selected by their fields.

use std::time::Duration;

use schema::Value;

use crate::harness::Fixture;
use crate::watches::Watch;

/// Between `hostPort: a:1` of v1 and `host: a`, `port: "1"` of v2; says in an annotation how many came at once.
pub fn answer(url: &str, review: &Value) -> Value {
    let request = &review["request"];
    let objects = request.list_at(&["objects"]);
    let version = request.str_at(&["desiredAPIVersion"]);
    let converted = objects.iter().map(|object| {
        let mut object = object.clone();
        match object.str_at(&["hostPort"]).split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())) {
            Some((host, port)) => {
                object.remove(&["hostPort"]);
                object.set(&["host"], host);
                object.set(&["port"], port);
            }
            None => {
                let joined = format!("{}:{}", object.str_at(&["host"]), object.str_at(&["port"]));
                object.remove(&["host"]);
                object.remove(&["port"]);
                object.set(&["hostPort"], joined);
            }
        }
        object.set(&["unknown"], true);
        object.set(&["apiVersion"], version);
        object.set(&["metadata", "generation"], 99i64);
        object.set(&["metadata", "annotations", "batch"], objects.len().to_string());
        object
    });
    let mut response = Value::object([("uid", request["uid"].clone())]);
    if url.starts_with("https://refuse") {
        response.set(&["result"], Value::object([("status", "Failure".into()), ("message", "not today".into())]));
    } else {
        response.set(&["convertedObjects"], Value::List(converted.collect()));
        response.set(&["result", "status"], "Success");
    }
    Value::object([
        ("apiVersion", review["apiVersion"].clone()),
        ("kind", review["kind"].clone()),
        ("response", response),
    ])
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const V1: &str = "/apis/example.com/v1/namespaces/default/points";
pub const V2: &str = "/apis/example.com/v2/namespaces/default/points";

pub fn definition(host: &str, review: &str) -> String {
    format!(
        r#"{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: points.example.com}},
        spec: {{group: example.com, scope: Namespaced, names: {{plural: points, kind: Point}},
          conversion: {{strategy: Webhook, webhook: {{clientConfig: {{url: "https://{host}/convert"}}, conversionReviewVersions: [{review}]}}}},
          versions: [
            {{name: v1, served: true, storage: true, selectableFields: [{{jsonPath: .hostPort}}],
              schema: {{openAPIV3Schema: {{type: object, properties: {{hostPort: {{type: string}}}}}}}}}},
            {{name: v2, served: true, storage: false, selectableFields: [{{jsonPath: .host}}, {{jsonPath: .port}}], subresources: {{status: {{}}}},
              schema: {{openAPIV3Schema: {{type: object, properties: {{host: {{type: string}}, port: {{type: string}}, color: {{type: string, default: red}}, status: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}}}}}]}}}}"#
    )
}

pub async fn serve(f: &Fixture, definition: &str) {
    f.post(DEFINITIONS, definition).await.is(201);
    for _ in 0..500 {
        if f.get("/apis/example.com/v1").await.code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the definition is not served");
}

/// Waits until the definition has the change.
async fn change(f: &Fixture, patch: &str, path: &str, code: u16) {
    f.patch(&format!("{DEFINITIONS}/points.example.com"), "merge-patch", patch).await.is(200);
    for _ in 0..500 {
        if f.get(path).await.code == code {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} does not become {code}: {}", f.get(path).await.text());
}

pub fn point(version: &str, name: &str, fields: &str) -> String {
    format!("{{apiVersion: example.com/{version}, kind: Point, metadata: {{name: {name}}}, {fields}}}")
}

#[tokio::test]
async fn every_version_of_an_object() {
    let f = Fixture::new().await;
    serve(&f, &definition("hook", "v1beta1")).await;
    // Written in one version, stored in the other.
    f.post(V2, &point("v2", "a", "host: h, port: \"1\"")).await.is(201).has(&[
        ("/apiVersion", "example.com/v2"),
        ("/host", "h"),
        ("/hostPort", "-"),
        ("/unknown", "-"),
        ("/color", "-"),
        ("/metadata/generation", "1"),
    ]);
    f.get(&format!("{V1}/a")).await.is(200).has(&[("/hostPort", "h:1"), ("/host", "-"), ("/metadata/generation", "1")]);
    f.post(V1, &point("v1", "b", "hostPort: \"i:2\"")).await.is(201).has(&[("/metadata/annotations", "-")]);
    f.get(&format!("{V2}/b")).await.is(200).has(&[("/host", "i"), ("/metadata/annotations/batch", "1")]);
    f.post(&format!("{V2}?dryRun=All"), &point("v2", "z", "host: h, port: \"1\""))
        .await
        .is(201)
        .has(&[("/host", "h"), ("/metadata/resourceVersion", "-")]);
    // A list asks once for all.
    f.get(V2).await.is(200).has(&[
        ("/items/0/host", "h"),
        ("/items/1/port", "2"),
        ("/items/0/metadata/annotations/batch", "2"),
    ]);
    f.get(&format!("{V2}?limit=1&fieldSelector=metadata.name!=b")).await.is(200).has(&[
        ("/items/0/host", "h"),
        ("/items/0/color", "-"),
        ("/items/0/metadata/annotations/batch", "2"),
    ]);
    f.get(&format!("{V2}?limit=1"))
        .await
        .is(200)
        .has(&[("/items/0/metadata/annotations/batch", "1"), ("/items/1", "-")]);
    // Changes in the version that is not stored.
    let revision =
        f.patch(&format!("{V2}/b"), "merge-patch", "{port: \"3\"}").await.is(200).has(&[("/port", "3")]).revision();
    f.get(&format!("{V1}/b")).await.has(&[("/hostPort", "i:3")]);
    let same = f.get(&format!("{V1}/b")).await.text();
    let again = f.put(&format!("{V1}/b"), &same).await.is(200).revision();
    assert_eq!(again, revision, "nothing has changed");
    f.patch(&format!("{V2}/b/status"), "merge-patch", "{status: {x: y}}").await.is(200).has(&[("/host", "i")]);
    let apply = Fixture::request(
        http::Method::PATCH,
        &format!("{V2}/c?fieldManager=m"),
        "application/apply-patch+yaml",
        "{apiVersion: example.com/v2, kind: Point, metadata: {name: c}, host: j, port: '4'}",
    );
    f.raw(apply).await.is(201).has(&[("/host", "j"), ("/metadata/managedFields/0/apiVersion", "example.com/v2")]);
    f.get(&format!("{V1}/c")).await.is(200).has(&[("/hostPort", "j:4")]);
    // The other one becomes the storage version: what is stored already is converted in turn.
    let flip = f.get(&format!("{DEFINITIONS}/points.example.com")).await.text();
    let flip =
        flip.replacen("\"storage\":true", "\"storage\":0", 1).replacen("\"storage\":false", "\"storage\":true", 1);
    f.put(&format!("{DEFINITIONS}/points.example.com"), &flip.replacen("\"storage\":0", "\"storage\":false", 1))
        .await
        .is(200)
        .has(&[("/status/storedVersions/1", "v2")]);
    f.post(V2, &point("v2", "d", "host: k, port: \"5\"")).await.is(201);
    for (list, field, wanted) in [(V1, "hostPort", ["h:1", "i:3", "j:4", "k:5"]), (V2, "host", ["h", "i", "j", "k"])] {
        let list = f.get(list).await.is(200).json();
        let found: Vec<&str> = list.list_at(&["items"]).iter().map(|i| i.str_at(&[field])).collect();
        assert_eq!(found, wanted);
    }
    f.delete(&format!("{V2}/a")).await.is(200).has(&[("/status", "Success")]);
    // The definition takes its objects along, and who watches sees both go.
    let mut watch = Watch::open(&f, &format!("{V1}?watch=1&fieldSelector=hostPort=k:5")).await;
    assert_eq!(watch.event().await, "ADDED d");
    f.delete(&format!("{DEFINITIONS}/points.example.com")).await.is(200);
    assert_eq!(watch.event().await, "DELETED d");
    assert!(watch.next().await.is_none());
    for _ in 0..500 {
        if f.get(V1).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("its objects keep the definition");
}

#[tokio::test]
async fn without_a_webhook_versions_share_fields() {
    let f = Fixture::new().await;
    let schema = |fields: &str| {
        format!("schema: {{openAPIV3Schema: {{type: object, properties: {{{fields}, both: {{type: string}}}}}}}}")
    };
    let (v1, v2) = ("a: {type: string, default: one}, own: {type: string}", "b: {type: string, default: two}");
    let definition = format!(
        "{{metadata: {{name: points.example.com}}, spec: {{group: example.com, scope: Namespaced, names: {{plural: points, kind: Point}}, versions: [{{name: v1, served: true, storage: true, {}}}, {{name: v2, served: true, storage: false, {}}}]}}}}",
        schema(v1),
        schema(v2)
    );
    serve(&f, &definition).await;
    f.post(V1, &point("v1", "x", "both: y, own: z")).await.is(201).has(&[("/a", "one"), ("/own", "z")]);
    // Read with the defaults of the stored version and the fields of the served one.
    let read = [("/both", "y"), ("/a", "-"), ("/own", "-"), ("/b", "-"), ("/apiVersion", "example.com/v2")];
    f.get(&format!("{V2}/x")).await.is(200).has(&read);
    f.post(V2, &point("v2", "w", "both: q, b: kept")).await.is(201).has(&[("/both", "q"), ("/b", "-")]);
    f.get(&format!("{V1}/w")).await.is(200).has(&[("/both", "q"), ("/a", "one"), ("/b", "-")]);
    f.patch(&format!("{V2}/x"), "merge-patch", "{both: p}").await.is(200).has(&[("/both", "p"), ("/b", "-")]);
    f.get(&format!("{V1}/x")).await.is(200).has(&[("/both", "p"), ("/own", "-")]);
}

#[tokio::test]
async fn webhooks_that_fail() {
    let f = Fixture::new().await;
    serve(&f, &definition("refuse", "v1")).await;
    let revision = f.post(V1, &point("v1", "a", "hostPort: \"h:1\"")).await.is(201).revision();
    let why = format!(
        "object not decodable revision={revision}: conversion webhook for example.com/v1, Kind=Point failed: not today"
    );
    let corrupt = |prefix: &str| {
        format!(
            "StorageError: corrupt object, Code: 7, Key: {prefix}/example.com/points/default/a, ResourceVersion: 0, AdditionalErrorMsg: {why}"
        )
    };
    let one = format!("Internal error occurred: {}", corrupt(""));
    f.get(&format!("{V2}/a")).await.is(500).has(&[("/message", &one), ("/reason", "InternalError")]);
    f.delete(&format!("{V2}/a")).await.is(500).has(&[("/message", &one)]);
    f.patch(&format!("{V2}/a"), "merge-patch", "{port: x}").await.is(500).has(&[("/message", &why), ("/reason", "-")]);
    let many = format!("failed to read one or more points.example.com from the storage: {}", corrupt("/registry"));
    f.get(V2).await.is(500).has(&[
        ("/message", &many),
        ("/reason", "StorageReadError"),
        ("/details/causes/0/field", "/registry/example.com/points/default/a"),
    ]);
    f.post(V2, &point("v2", "b", "host: h, port: \"1\""))
        .await
        .is(500)
        .has(&[("/message", "conversion webhook for example.com/v2, Kind=Point failed: not today")]);
    let mut watch = Watch::open(&f, &format!("{V2}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((event.str_at(&["type"]), event.str_at(&["object", "message"])), ("ERROR", &*many));
    assert!(watch.next().await.is_none());
    f.get(&format!("{V1}/a")).await.is(200);
    f.delete(&format!("{V1}/a")).await.is(200);
    f.get(V2).await.is(200);
    // A definition that is repaired is asked by its new name; watches that were there before end.
    f.post(V1, &point("v1", "a", "hostPort: \"h:1\"")).await.is(201);
    let revision = f.get(V1).await.revision();
    let mut watch = Watch::open(&f, &format!("{V2}?watch=1&resourceVersion={revision}")).await;
    let repaired = "{spec: {conversion: {webhook: {clientConfig: {url: \"https://hook/convert\"}}}}}";
    change(&f, repaired, &format!("{V2}/a"), 200).await;
    assert!(watch.next().await.is_none());
    let mut watch = Watch::open(&f, &format!("{V2}?watch=1&resourceVersion={revision}")).await;
    f.patch(&format!("{V1}/a"), "merge-patch", "{hostPort: \"i:1\"}").await.is(200);
    let event = watch.next().await.expect("an event");
    assert_eq!((event.str_at(&["type"]), event.str_at(&["object", "host"])), ("MODIFIED", "i"));
    f.patch(
        &format!("{DEFINITIONS}/points.example.com"),
        "merge-patch",
        "{spec: {conversion: {webhook: {clientConfig: {url: \"http://hook\"}}}}}",
    )
    .await
    .is(422)
    .has(&[("/details/causes/0/field", "spec.conversion.webhookClientConfig.url")]);
}

#[tokio::test]
async fn fields_select() {
    let f = Fixture::new().await;
    serve(&f, &definition("hook", "v1")).await;
    let select = |list: &'static str, selector: &str| format!("{list}?fieldSelector={}", selector.replace(',', "%2C"));
    let mut host = Watch::open(&f, &format!("{}&watch=1", select(V2, "host=h"))).await;
    let mut both = Watch::open(&f, &format!("{}&watch=1", select(V2, "host=h,port=1"))).await;
    let mut joined = Watch::open(&f, &format!("{}&watch=1", select(V1, "hostPort=h:1"))).await;
    for (name, host, port) in [("a", "h", "1"), ("b", "h", "2"), ("c", "i", "1")] {
        f.post(V2, &point("v2", name, &format!("host: {host}, port: \"{port}\""))).await.is(201);
    }
    for (list, selector, wanted) in [
        (V2, "host=h", &["a", "b"][..]),
        (V2, "host=h,port=1", &["a"]),
        (V2, "host!=h", &["c"]),
        (V2, "host=h,metadata.name=b", &["b"]),
        (V1, "hostPort=h:2", &["b"]),
        (V1, "hostPort=none", &[]),
    ] {
        let list = f.get(&select(list, selector)).await.is(200).json();
        let names: Vec<&str> = list.list_at(&["items"]).iter().map(|i| i.str_at(&["metadata", "name"])).collect();
        assert_eq!(names, wanted, "{selector}");
    }
    for (list, selector, label) in
        [(V1, "host=h", "host"), (V2, "hostPort=h:1", "hostPort"), (V2, "spec.x=1", "spec.x")]
    {
        let why = format!("field label not supported: {label}");
        f.get(&select(list, selector)).await.is(400).has(&[("/message", &why)]);
    }
    f.delete(&select(V2, "host=h,port=1")).await.is(200).has(&[("/items/0/metadata/name", "a"), ("/items/1", "-")]);
    f.patch(&format!("{V2}/b"), "merge-patch", "{host: i}").await.is(200);
    for wanted in ["ADDED a", "ADDED b", "DELETED a", "DELETED b"] {
        assert_eq!(host.event().await, wanted);
    }
    for watch in [&mut both, &mut joined] {
        assert_eq!(watch.event().await, "ADDED a");
        assert_eq!(watch.event().await, "DELETED a");
    }
    let schema = "/components/schemas/com.example.v2.Point/x-kubernetes-selectable-fields/1/fieldPath";
    f.get("/openapi/v3/apis/example.com/v2").await.is(200).has(&[(schema, "port")]);
    f.get("/openapi/v2")
        .await
        .has(&[("/definitions/com.example.v1.Point/x-kubernetes-selectable-fields/0/fieldPath", "hostPort")]);
    let bad = "{spec: {versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {metadata: {type: object, properties: {name: {type: string}}}, list: {type: array, items: {type: string}}, a: {type: string}}}}, selectableFields: [{}, {jsonPath: .metadata.name}, {jsonPath: .list}, {jsonPath: .a}, {jsonPath: .a}, {jsonPath: .none}]}, {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}]}}";
    let refused = f.patch(&format!("{DEFINITIONS}/points.example.com"), "merge-patch", bad).await.is(422).json();
    let causes: Vec<String> = refused
        .list_at(&["details", "causes"])
        .iter()
        .map(|c| format!("{} {}", c.str_at(&["field"]), c.str_at(&["message"])))
        .collect();
    let at = |i: usize| format!("spec.versions[0].selectableFields[{i}].jsonPath ");
    let wanted = [
        (0, "Required value"),
        (1, "Invalid value: \".metadata.name\": must not point to fields in metadata"),
        (2, "Invalid value: \".list\": must point to a field of type string, boolean or integer"),
        (4, "Duplicate value: \".a\""),
        (5, "Invalid value: \".none\": is an invalid path: does not refer to a valid field"),
    ];
    assert_eq!(causes.len(), wanted.len(), "{causes:?}");
    for (cause, (i, why)) in causes.iter().zip(wanted) {
        assert!(cause.starts_with(&format!("{}{why}", at(i))), "{cause}");
    }
}
