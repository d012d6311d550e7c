//! `x-kubernetes-validations`.

use crate::harness::Fixture;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/stable.example.com/v1/namespaces/default/things";

fn definition(spec: &str) -> String {
    format!(
        "{{metadata: {{name: things.stable.example.com}}, spec: {{group: stable.example.com, scope: Namespaced, names: {{plural: things, singular: thing, kind: Thing, listKind: ThingList}}, versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {spec}}}}}}}}}]}}}}"
    )
}

async fn served(spec: &str) -> Fixture {
    let f = Fixture::new().await;
    f.post(DEFINITIONS, &definition(spec)).await.is(201);
    for _ in 0..500 {
        if f.get(THINGS).await.code == 200 {
            return f;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never served")
}

fn thing(name: &str, spec: &str) -> String {
    format!("{{apiVersion: stable.example.com/v1, kind: Thing, metadata: {{name: {name}}}, spec: {spec}}}")
}

/// As upstream's conformance test has it.
const SORTED: &str = "{type: object, x-kubernetes-validations: [{rule: \"self.x + self.y > 0\"}, {rule: \"self.firstArray.isSorted() && ((self.firstArray.sum() + self.firstArray.sum()) % 2 == 0)\"}, {rule: \"self.largeArray.all(x, self.largeArray.all(y, y == x))\"}], properties: {x: {type: integer}, y: {type: integer}, firstArray: {type: array, maxItems: 1000, items: {type: integer}}, largeArray: {type: array, maxItems: 725, items: {type: integer}}}}";

#[tokio::test]
async fn objects_obey_rules() {
    let f = served(SORTED).await;
    f.post(THINGS, &thing("a", "{x: 1, y: 0, firstArray: [3, 4], largeArray: [2, 2]}")).await.is(201);
    let reply = f.post(THINGS, &thing("b", "{x: 0, y: 0}")).await.is(422);
    assert_eq!(
        reply.at("/message"),
        "Thing.stable.example.com \"b\" is invalid: [spec: Invalid value: failed rule: self.x + self.y > 0, spec: Invalid value: \"object\": no such key: firstArray evaluating rule: self.firstArray.isSorted() && ((self.firstArray.sum() + self.firstArray.sum()) % 2 == 0), spec: Invalid value: \"object\": no such key: largeArray evaluating rule: self.largeArray.all(x, self.largeArray.all(y, y == x))]"
    );
    let large = vec!["20"; 725].join(",");
    let spec = format!("{{x: 1, y: 1, firstArray: [], largeArray: [{large}]}}");
    let message = f.post(THINGS, &thing("c", &spec)).await.is(422).at("/message");
    assert!(message.contains("no further validation rules will be run due to call cost exceeds limit"), "{message}");
}

#[tokio::test]
async fn transitions_and_messages() {
    let f = served("{type: object, properties: {num: {type: integer, x-kubernetes-validations: [{rule: \"self >= oldSelf\", messageExpression: \"'not below %d'.format([oldSelf])\", reason: FieldValueForbidden}]}, name: {type: string, x-kubernetes-validations: [{rule: \"self.startsWith('a')\", message: \"must begin with a\"}]}, list: {type: array, maxItems: 9, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, required: [k], properties: {k: {type: string}, v: {type: string, maxLength: 9}}, x-kubernetes-validations: [{rule: \"!has(oldSelf.v) || self.v == oldSelf.v\", fieldPath: .v}]}}, once: {type: string, x-kubernetes-validations: [{rule: \"oldSelf.hasValue() || self == 'first'\", optionalOldSelf: true}]}, when: {type: string, format: date-time, x-kubernetes-validations: [{rule: \"self.getFullYear() > 2000\"}]}, ratio: {type: number, x-kubernetes-validations: [{rule: \"self / 2.0 < 1.0\"}]}}}").await;
    f.post(
        THINGS,
        &thing("a", "{num: 10, list: [{k: x, v: \"1\"}], once: first, when: \"2020-01-01T00:00:00Z\", ratio: 1}"),
    )
    .await
    .is(201);
    let change =
        async |spec: &str| f.patch(&format!("{THINGS}/a"), "merge-patch", &format!("{{\"spec\": {spec}}}")).await;
    change(r#"{"num": 9}"#)
        .await
        .is(422)
        .has(&[("/message", "Thing.stable.example.com \"a\" is invalid: spec.num: Forbidden: not below 10")]);
    change(r#"{"num": 11, "once": "second"}"#).await.is(200);
    change(r#"{"list": [{"k": "y", "v": "2"}, {"k": "x", "v": "3"}]}"#).await.is(422).has(&[(
        "/message",
        "Thing.stable.example.com \"a\" is invalid: spec.list[1].v: Invalid value: failed rule: !has(oldSelf.v) || self.v == oldSelf.v",
    )]);
    change(r#"{"list": [{"k": "y", "v": "2"}, {"k": "x", "v": "1"}]}"#).await.is(200);
    change(r#"{"name": "b"}"#).await.is(422).has(&[(
        "/message",
        "Thing.stable.example.com \"a\" is invalid: spec.name: Invalid value: \"b\": must begin with a",
    )]);
    change(r#"{"when": "1999-01-01T00:00:00Z"}"#).await.is(422);
    change(r#"{"ratio": 2}"#).await.is(422);
    f.post(THINGS, &thing("b", "{once: second}")).await.is(422);
}

#[tokio::test]
async fn what_was_wrong_may_stay() {
    let loose =
        "{type: object, properties: {a: {type: string}, l: {type: array, items: {type: string}}, b: {type: string}}}";
    let f = served(loose).await;
    f.post(THINGS, &thing("a", "{a: x, l: [x], b: \"1\"}")).await.is(201);
    let version = f.get(&format!("{DEFINITIONS}/things.stable.example.com")).await.at("/metadata/resourceVersion");
    let strict = "{type: object, properties: {a: {type: string, x-kubernetes-validations: [{rule: \"self != 'x'\"}]}, l: {type: array, maxItems: 9, items: {type: string, maxLength: 9, x-kubernetes-validations: [{rule: \"self != 'x'\"}]}}, b: {type: string}}}";
    let strict = definition(strict).replace("name: things.", &format!("resourceVersion: \"{version}\", name: things."));
    f.put(&format!("{DEFINITIONS}/things.stable.example.com"), &strict).await.is(200);
    for _ in 0..500 {
        if f.post(THINGS, &thing("new", "{a: x}")).await.code == 422 {
            break;
        }
        f.delete(&format!("{THINGS}/new")).await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let change =
        async |spec: &str| f.patch(&format!("{THINGS}/a"), "merge-patch", &format!("{{\"spec\": {spec}}}")).await;
    change(r#"{"b": "2"}"#).await.is(200);
    change(r#"{"l": ["x", "y"]}"#).await.is(422);
    change(r#"{"a": "y"}"#).await.is(200);
    change(r#"{"a": "x"}"#).await.is(422);
}

#[tokio::test]
async fn bad_rules_are_refused() {
    let f = Fixture::new().await;
    let place = "spec.validation.openAPIV3Schema.properties[spec]";
    for (spec, wanted) in [
        (
            "{type: object, x-kubernetes-validations: [{rule: \"self.z == 100\"}], properties: {x: {type: integer}}}",
            ".x-kubernetes-validations[0].rule: Invalid value: {~\"Rule\":\"self.z == 100\"}: compilation failed: ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^",
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: \"self = 42\"}]}",
            ".x-kubernetes-validations[0].rule: Invalid value: {~\"Rule\":\"self = 42\"}: compilation failed: ERROR: <input>:1:6: Syntax error: token recognition error at: '= '",
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: \"self.x\"}], properties: {x: {type: integer}}}",
            ".x-kubernetes-validations[0].rule: Invalid value: {~\"Rule\":\"self.x\"}: cel expression must evaluate to a bool",
        ),
        (
            "{type: object, properties: {x: {type: array, items: {type: array, items: {type: string}, x-kubernetes-validations: [{rule: \"self.all(s, s == 'string constant')\"}]}}}}",
            ".properties[x].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
        ),
        (
            "{type: object, properties: {x: {type: array, items: {type: integer, x-kubernetes-validations: [{rule: \"self > oldSelf\"}]}}}}",
            ".properties[x].items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[x]",
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: \"true\", message: \" \", reason: Teapot, fieldPath: .nope, optionalOldSelf: true}]}",
            ".x-kubernetes-validations[0].fieldPath: Invalid value: \".nope\": must be a valid path",
        ),
        (
            "{type: object, x-kubernetes-validations: [{rule: \"true\", messageExpression: \"1\"}]}",
            ".x-kubernetes-validations[0].messageExpression: Invalid value: {~}: messageExpression must evaluate to a string",
        ),
    ] {
        let message = f.post(DEFINITIONS, &definition(spec)).await.is(422).at("/message");
        let wanted = format!("{place}{wanted}");
        assert!(wanted.split('~').all(|part| message.contains(part)), "{wanted}\nin {message}");
    }
}
