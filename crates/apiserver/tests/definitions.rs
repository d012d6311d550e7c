//! Custom resources under rules that became stricter, their subresources, and the names of their definitions.

use std::time::Duration;

use crate::harness::Fixture;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/ratchet.io/v1/namespaces/default/things";

const LOOSE: &str = "{a: {type: string}, b: {type: string}, n: {type: integer}, replicas: {type: integer}, list: {type: array, items: {type: string}}, m: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, properties: {k: {type: string}, v: {type: string}}}}, o: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}";
const STRICT: &str = "{a: {type: string, maxLength: 2, x-kubernetes-validations: [{rule: \"self.startsWith('q')\", messageExpression: \"'must start with q: ' + self\"}]}, b: {type: string}, n: {type: integer, minimum: 5, x-kubernetes-validations: [{rule: \"self % 2 == 0\"}]}, replicas: {type: integer}, list: {type: array, items: {type: string, enum: [x]}}, m: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, properties: {k: {type: string}, v: {type: string, pattern: ^x}}}}, o: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}";

fn definition(plural: &str, names: &str, spec: &str) -> String {
    format!(
        "{{metadata: {{name: {plural}.ratchet.io}}, spec: {{group: ratchet.io, scope: Namespaced, names: {{plural: {plural}, {names}}}, versions: [{{name: v1, served: true, storage: true, subresources: {{status: {{}}, scale: {{specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}}}}, schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {spec}}}, status: {{type: object, properties: {{replicas: {{type: integer}}, selector: {{x-kubernetes-preserve-unknown-fields: true}}, phase: {{type: string, enum: [A, B]}}}}}}}}}}}}}}]}}}}"
    )
}

/// Waits until what is there has a value.
async fn becomes(f: &Fixture, path: &str, pointer: &str, wanted: &str) {
    for _ in 0..500 {
        let found = f.get(path).await;
        if found.code == 200 && found.at(pointer) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} has no {wanted}: {}", f.get(path).await.text());
}

async fn things(f: &Fixture) {
    f.post(DEFINITIONS, &definition("things", "kind: Thing, shortNames: [th], categories: [all]", LOOSE)).await.is(201);
    becomes(f, "/apis/ratchet.io/v1", "/groupVersion", "ratchet.io/v1").await;
}

fn thing(name: &str, rest: &str) -> String {
    format!("{{apiVersion: ratchet.io/v1, kind: Thing, metadata: {{name: {name}}}{rest}}}")
}

fn warned(reply: &crate::harness::Reply) -> Vec<&str> {
    reply.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_unchanged_may_stay_wrong() {
    let f = Fixture::new().await;
    things(&f).await;
    let spec = ", spec: {a: long, list: [y], m: [{k: \"1\", v: y}], n: 3, replicas: 1}";
    f.post(THINGS, &thing("t", spec)).await.is(201);
    let path = format!("{DEFINITIONS}/things.ratchet.io");
    let version = f.get(&path).await.at("/metadata/resourceVersion");
    let strict = definition(
        "things",
        "kind: Thing, singular: thing, listKind: ThingList, shortNames: [th], categories: [all]",
        STRICT,
    );
    let strict = strict
        .replace("{name: things.ratchet.io}", &format!("{{name: things.ratchet.io, resourceVersion: \"{version}\"}}"));
    f.put(&path, &strict).await.is(200);
    let t = format!("{THINGS}/t");
    for _ in 0..500 {
        if f.post(&format!("{THINGS}?dryRun=All"), &thing("u", ", spec: {a: long}")).await.code == 422 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let invalid = |message: &str| format!("Thing.ratchet.io \"t\" is invalid: {message}");
    let unchanged = f.patch(&t, "merge-patch", "{metadata: {labels: {a: b}}}").await.is(200);
    assert_eq!(
        warned(&unchanged),
        [
            "299 - \"spec.a: Invalid value: \\\"long\\\": must start with q: long\"",
            "299 - \"spec.n: Invalid value: 3: failed rule: self % 2 == 0\""
        ]
    );
    f.patch(&t, "merge-patch", "{spec: {b: x}}").await.is(200);
    f.patch(&t, "merge-patch", "{spec: {n: 2}}").await.is(422).has(&[(
        "/message",
        &invalid("spec.n: Invalid value: 2: spec.n in body should be greater than or equal to 5"),
    )]);
    // One that is too long keeps rules from being asked.
    f.patch(&t, "merge-patch", "{spec: {a: longer}}").await.is(422).has(&[("/message", &invalid("[spec.a: Too long: may not be more than 2 bytes, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"))]);
    f.patch(&t, "merge-patch", "{spec: {m: [{k: \"1\", v: y}, {k: \"2\", v: x}]}}").await.is(200);
    f.patch(&t, "merge-patch", "{spec: {m: [{k: \"1\", v: y}, {k: \"2\", v: y}]}}").await.is(422);
    // Items of other lists are not told from each other.
    f.patch(&t, "merge-patch", "{spec: {list: [y, x]}}").await.is(422);
}

#[tokio::test]
async fn parts_of_objects() {
    let f = Fixture::new().await;
    things(&f).await;
    f.post(THINGS, &thing("t", ", spec: {replicas: 1}")).await.is(201);
    let t = format!("{THINGS}/t");
    let check = async |sub: &str, patch: &str, wanted: &str| {
        let wanted = format!("Thing.ratchet.io \"t\" is invalid: {wanted}");
        f.patch(&format!("{t}{sub}"), "merge-patch", patch).await.is(422).has(&[("/message", &wanted)]);
    };
    check("", "{spec: {o: {metadata: {name: A/B}}}}", "[spec.o.apiVersion: Required value, spec.o.kind: Required value, spec.o.metadata.name: Invalid value: \"A/B\": may not contain '/']").await;
    check(
        "",
        "{spec: {o: {apiVersion: a/b/c, kind: Pod}}}",
        "spec.o.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
    )
    .await;
    check(
        "",
        "{spec: {replicas: 8589934592}}",
        ".spec.replicas: Invalid value: 8589934592: should be less than or equal to 2147483647",
    )
    .await;
    check("/scale", "{spec: {replicas: -1}}", ".spec.replicas: Invalid value: -1: should be a non-negative integer")
        .await;
    check("/status", "{status: {replicas: -1, selector: 5, phase: C}}", "[status.phase: Unsupported value: \"C\": supported values: \"A\", \"B\", .status.replicas: Invalid value: -1: should be a non-negative integer, .status.selector: Invalid value: \"\": .status.selector accessor error: 5 is of the type int64, expected string]").await;
    check("/status", "{status: 5}", "[status: Invalid value: \"integer\":  in body must be of type object: \"integer\", .status.replicas: Invalid value: 0: .status.replicas accessor error: 5 is of the type int64, expected map[string]interface{}, .status.selector: Invalid value: \"\": .status.selector accessor error: 5 is of the type int64, expected map[string]interface{}]").await;
    // A status has no labels to give.
    f.patch(&format!("{t}/status"), "merge-patch", "{status: {replicas: 1}, metadata: {labels: {q: r}}}")
        .await
        .is(200)
        .has(&[
            ("/metadata/labels", "-"),
            ("/metadata/managedFields/1/subresource", "status"),
            ("/metadata/managedFields/1/fieldsV1/f:metadata", "-"),
        ]);
    let reply = f.patch(&t, "merge-patch", "{metadata: {finalizers: [foo, foo.bar, a.b/c]}}").await.is(200);
    assert_eq!(
        warned(&reply),
        [
            "299 - \"metadata.finalizers: \\\"foo\\\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers\"",
            "299 - \"metadata.finalizers: \\\"foo.bar\\\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers\""
        ]
    );
    // While the definition waits for it, nothing new comes.
    f.delete(&format!("{DEFINITIONS}/things.ratchet.io")).await.is(200);
    let wanted =
        "things.ratchet.io \"u\" is forbidden: create not allowed while custom resource definition is terminating";
    for _ in 0..500 {
        let reply = f.post(&format!("{THINGS}?dryRun=All"), &thing("u", "")).await;
        if reply.code == 403 {
            reply.has(&[("/message", wanted)]);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    f.patch(&t, "merge-patch", "{metadata: {finalizers: null}}").await.is(200);
    for _ in 0..500 {
        if f.get(&format!("{DEFINITIONS}/things.ratchet.io")).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the definition stays");
}

#[tokio::test]
async fn names_that_others_have() {
    let f = Fixture::new().await;
    things(&f).await;
    let path = format!("{DEFINITIONS}/others.ratchet.io");
    let names = "singular: thing, kind: Thing, listKind: OtherList, shortNames: [th, ot], categories: [x]";
    f.post(DEFINITIONS, &definition("others", names, LOOSE)).await.is(201);
    becomes(&f, &path, "/status/conditions/0/reason", "KindConflict").await;
    f.get(&path).await.has(&[
        ("/status/conditions/0/message", "\"Thing\" is already in use"),
        ("/status/conditions/1/reason", "NotAccepted"),
        ("/status/acceptedNames/plural", "others"),
        ("/status/acceptedNames/singular", "-"),
        ("/status/acceptedNames/kind", ""),
        ("/status/acceptedNames/listKind", "OtherList"),
        ("/status/acceptedNames/shortNames", "-"),
        ("/status/acceptedNames/categories/0", "x"),
    ]);
    f.patch(&path, "merge-patch", "{spec: {names: {kind: Other, singular: other}}}").await.is(200);
    becomes(&f, &path, "/status/conditions/0/reason", "ShortNamesConflict").await;
    f.patch(&path, "merge-patch", "{spec: {names: {shortNames: [ot]}}}").await.is(200);
    becomes(&f, &path, "/status/conditions/0/reason", "NoConflicts").await;
    becomes(&f, "/apis/ratchet.io/v1", "/resources/3/name", "things").await;
}
