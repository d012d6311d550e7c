//! Admission policies.

use apiserver::admission::policies::{Mutating, Validating};

use crate::harness::{Fixture, config};

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

pub async fn fixture() -> Fixture {
    Fixture::with(|store| {
        let mut config = config(store);
        config.admission = vec![Box::<Mutating>::default(), Box::<Validating>::default()];
        config
    })
    .await
}

pub fn policy(name: &str, resources: &str, rest: &str) -> String {
    format!(
        "{{metadata: {{name: {name}}}, spec: {{matchConstraints: {{resourceRules: [{{apiGroups: [\"\", apps, stable.example.com], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [{resources}]}}]}}, {rest}}}}}"
    )
}

pub fn binding(name: &str, policy: &str, rest: &str) -> String {
    format!("{{metadata: {{name: {name}}}, spec: {{policyName: {policy}, {rest}}}}}")
}

pub fn deployment(name: &str, replicas: i64) -> String {
    format!(
        "{{metadata: {{name: {name}}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
    )
}

#[tokio::test]
async fn policies_refuse_and_warn() {
    let f = fixture().await;
    f.post("/api/v1/namespaces", "{metadata: {name: default}}").await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let (policies, bindings) =
        (format!("{GROUP}/validatingadmissionpolicies"), format!("{GROUP}/validatingadmissionpolicybindings"));
    let rules = "variables: [{name: replicas, expression: object.spec.replicas}, {name: odd, expression: \"variables.replicas % 2 == 1\"}], validations: [{expression: \"variables.replicas > 1\", messageExpression: \"'wants replicas > 1, got ' + string(variables.replicas)\"}, {expression: variables.odd, reason: Forbidden}, {expression: \"namespaceObject.metadata.name == 'default'\"}]";
    f.post(&policies, &policy("many", "deployments", rules)).await.is(201);
    f.post(deployments, &deployment("free", 1)).await.is(201);
    f.post(&bindings, &binding("many", "many", "validationActions: [Deny]")).await.is(201);
    let by = "ValidatingAdmissionPolicy 'many' with binding 'many' denied request:";
    f.post(deployments, &deployment("one", 1)).await.is(422).has(&[
        ("/reason", "Invalid"),
        ("/message", &format!("deployments.apps \"one\" is forbidden: {by} wants replicas > 1, got 1")),
        ("/details/causes/0/message", &format!("{by} wants replicas > 1, got 1")),
    ]);
    f.post(deployments, &deployment("two", 2)).await.is(403).has(&[
        ("/reason", "Forbidden"),
        ("/message", &format!("deployments.apps \"two\" is forbidden: {by} failed expression: variables.odd")),
    ]);
    f.post(deployments, &deployment("three", 3)).await.is(201);
    f.put(&format!("{bindings}/many"), &{
        let version = f.get(&format!("{bindings}/many")).await.at("/metadata/resourceVersion");
        binding("many", "many", "validationActions: [Warn, Audit]")
            .replace("name: many}", &format!("name: many, resourceVersion: \"{version}\"}}"))
    })
    .await
    .is(200);
    let warned = f.post(deployments, &deployment("one", 1)).await.is(201);
    let warning = warned.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("Validation failed for ValidatingAdmissionPolicy 'many' with binding 'many': wants replicas")
    );
}

#[tokio::test]
async fn params_and_failures() {
    let f = fixture().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (policies, bindings) =
        (format!("{GROUP}/validatingadmissionpolicies"), format!("{GROUP}/validatingadmissionpolicybindings"));
    let rules = "paramKind: {apiVersion: v1, kind: ConfigMap}, matchConditions: [{name: only, expression: \"!object.metadata.name.startsWith('limits')\"}], validations: [{expression: \"size(object.data) <= int(params.data.most)\"}]";
    f.post(&policies, &policy("limited", "configmaps", rules)).await.is(201);
    let by_name = "validationActions: [Deny], paramRef: {name: limits, parameterNotFoundAction: Deny}";
    f.post(&bindings, &binding("by-name", "limited", by_name)).await.is(201);
    let message = f.post(maps, "{metadata: {name: a}, data: {a: b}}").await.is(422).at("/message");
    assert!(message.ends_with(
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    ));
    f.delete(&format!("{bindings}/by-name")).await;
    f.post(maps, "{metadata: {name: limits, labels: {use: them}}, data: {most: \"1\"}}").await.is(201);
    f.post(maps, "{metadata: {name: limits-too, labels: {use: them}}, data: {most: \"x\"}}").await.is(201);
    f.post(&bindings, &binding("by-name", "limited", by_name)).await.is(201);
    f.post(maps, "{metadata: {name: a}, data: {a: b}}").await.is(201);
    f.post(maps, "{metadata: {name: b}, data: {a: b, c: d}}").await.is(422);
    let by_selector =
        "validationActions: [Deny], paramRef: {selector: {matchLabels: {use: them}}, parameterNotFoundAction: Allow}";
    f.post(&bindings, &binding("by-selector", "limited", by_selector)).await.is(201);
    let message = f.post(maps, "{metadata: {name: c}, data: {a: b}}").await.is(422).at("/message");
    assert!(message.contains("resulted in error: type conversion error from 'string' to 'int'"), "{message}");
    f.post(maps, "{metadata: {name: limits-three}, data: {a: b, c: d}}").await.is(201);
    // Errors of a policy that ignores them are no errors.
    f.delete(&format!("{bindings}/by-selector")).await;
    let ignoring = format!("failurePolicy: Ignore, {}", rules.replace("params.data.most", "params.data.nope"));
    f.post(&policies, &policy("ignoring", "configmaps", &ignoring)).await.is(201);
    f.post(&bindings, &binding("ignoring", "ignoring", by_name)).await.is(201);
    f.post(maps, "{metadata: {name: d}, data: {a: b}}").await.is(201);
    // Whom the authorizer does not let.
    let rules = "validations: [{expression: \"authorizer.group('').resource('pods').namespace('x').check('create').allowed()\"}, {expression: \"authorizer.serviceAccount('default', 'nobody').requestResource.check('create').allowed()\"}]";
    let message = f.post(&policies, &policy("asking", "secrets", rules)).await.is(422).at("/message");
    assert!(message.contains("spec.validations[1].expression"), "{message}");
    let rules = "validations: [{expression: \"authorizer.group('').resource('pods').namespace('x').check('create').allowed() && authorizer.requestResource.check('create').allowed()\"}]";
    f.post(&policies, &policy("asking", "secrets", rules)).await.is(201);
    f.post(&bindings, &binding("asking", "asking", "validationActions: [Deny]")).await.is(201);
    f.post("/api/v1/namespaces/default/secrets", "{metadata: {name: s}}").await.is(201);
}

#[tokio::test]
async fn bad_policies_are_refused() {
    let f = fixture().await;
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let rules = "variables: [{name: \"1a\", expression: \"1 +\"}], validations: [{expression: \"object.a + 1\"}, {expression: \"true\", message: \"\\n\", messageExpression: \"1\", reason: Teapot}], auditAnnotations: [{key: k, valueExpression: \"1\"}, {key: k, valueExpression: \"'x'\"}]";
    let message = f.post(&policies, &policy("bad", "secrets", rules)).await.is(422).at("/message");
    for wanted in [
        "spec.variables[0].name: Invalid value: \"1a\": must be a valid CEL identifier",
        "spec.variables[0].expression: Invalid value: \"1 +\": compilation failed: ERROR: <input>:1:4: Syntax error",
        "spec.validations[0].expression: Invalid value: \"object.a + 1\": must evaluate to bool but got int",
        "spec.validations[1].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
        "spec.validations[1].message: Invalid value: \"\\n\": must be non-empty if specified",
        "spec.validations[1].reason: Unsupported value: \"Teapot\"",
        "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int",
        "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
    ] {
        assert!(message.contains(wanted), "{wanted} in {message}");
    }
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    let message = f.post(&bindings, &binding("b", "p", "validationActions: [Deny, Warn]")).await.is(422).at("/message");
    assert!(message.contains("must not contain both Deny and Warn"), "{message}");
}

#[tokio::test]
async fn expressions_are_checked_against_types() {
    let f = fixture().await;
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let status = async |name: &str| {
        for _ in 0..500 {
            let policy = f.get(&format!("{policies}/{name}")).await;
            if policy.at("/status/observedGeneration") != "-" {
                return policy;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{name} was never looked at");
    };
    let right = "validations: [{expression: \"object.spec.replicas > 1 && object.metadata.labels['a'] == 'b' && object.spec.template.spec.containers.all(c, c.image != '')\"}]";
    f.post(&policies, &policy("right", "deployments", right)).await.is(201);
    status("right").await.has(&[("/status/observedGeneration", "1"), ("/status/typeChecking", "{}")]);
    let wrong = "validations: [{expression: \"object.spec.replicas > '1'\", messageExpression: \"'wants replicas > 1, got ' + object.spec.replicas\"}, {expression: \"object.spec.maxRetries < 10\"}]";
    f.post(&policies, &policy("wrong", "deployments", wrong)).await.is(201);
    let policy = status("wrong").await;
    let at = |at: usize| {
        let place = format!("/status/typeChecking/expressionWarnings/{at}");
        (policy.at(&format!("{place}/fieldRef")), policy.at(&format!("{place}/warning")))
    };
    assert_eq!(at(0).0, "spec.validations[0].expression");
    assert!(at(0).1.starts_with("apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"));
    assert_eq!(at(1).0, "spec.validations[0].messageExpression");
    assert!(at(1).1.contains("found no matching overload for '_+_' applied to '(string, int)'"));
    assert_eq!(at(2).0, "spec.validations[1].expression");
    assert!(at(2).1.contains("undefined field 'maxRetries'"));
}

pub fn mutation(expression: &str) -> String {
    if expression.starts_with("Object") {
        format!("{{patchType: ApplyConfiguration, applyConfiguration: {{expression: \"{expression}\"}}}}")
    } else {
        format!("{{patchType: JSONPatch, jsonPatch: {{expression: \"{expression}\"}}}}")
    }
}

#[tokio::test]
async fn policies_change_objects() {
    let f = fixture().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let (policies, bindings) =
        (format!("{GROUP}/mutatingadmissionpolicies"), format!("{GROUP}/mutatingadmissionpolicybindings"));
    let make = async |name: &str, resources: &str, rest: &str, expressions: &[&str]| {
        let list: Vec<String> = expressions.iter().map(|e| mutation(e)).collect();
        let rest = format!("{rest}, mutations: [{}]", list.join(", "));
        f.post(&policies, &policy(name, resources, &rest)).await.is(201);
        f.post(&bindings, &binding(name, name, "matchResources: {}")).await.is(201);
    };
    let annotated = "Object{metadata: Object.metadata{annotations: {'mutated-by': 'policy'}}, spec: Object.spec{replicas: 1337, template: Object.spec.template{spec: Object.spec.template.spec{containers: object.spec.template.spec.containers.map(c, Object.spec.template.spec.containers{name: c.name, image: 'mirror/' + c.image})}}}}";
    make("apply", "deployments", "reinvocationPolicy: Never", &[annotated]).await;
    f.post(deployments, &deployment("a", 1)).await.is(201).has(&[
        ("/spec/replicas", "1337"),
        ("/metadata/annotations/mutated-by", "policy"),
        ("/spec/template/spec/containers/0/image", "mirror/i"),
        ("/spec/template/spec/containers/0/imagePullPolicy", "Always"),
        ("/spec/template/spec/containers/0/name", "c"),
    ]);
    // Patches see what those before them did; one that wants to is asked again.
    let maps = "/api/v1/namespaces/default/configmaps";
    let counting = "[JSONPatch{op: 'add', path: '/data/count', value: string(int(object.data.count) + 1)}]";
    make("b-count", "configmaps", "reinvocationPolicy: IfNeeded", &[counting, counting]).await;
    let escaped = "[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a.b/c'), value: 'x'}, JSONPatch{op: 'test', path: '/data/count', value: variables.seen}]";
    make(
        "c-test",
        "configmaps",
        "reinvocationPolicy: Never, variables: [{name: seen, expression: object.data.count}]",
        &[escaped],
    )
    .await;
    f.post(maps, "{metadata: {name: a, annotations: {x: y}}, data: {count: \"1\"}}")
        .await
        .is(201)
        .has(&[("/data/count", "5"), ("/metadata/annotations/a.b~1c", "x")]);
    let untrue = "[JSONPatch{op: 'test', path: '/data/count', value: 'x'}, JSONPatch{op: 'remove', path: '/data'}]";
    make("d-untrue", "configmaps", "reinvocationPolicy: Never", &[untrue]).await;
    f.post(maps, "{metadata: {name: b, annotations: {x: y}}, data: {count: \"1\"}}")
        .await
        .is(201)
        .has(&[("/data/count", "5")]);
    let message = f.post(maps, "{metadata: {name: c}}").await.is(403).at("/message");
    assert!(
        message.starts_with("policy 'b-count' with binding 'b-count' denied request: expression '")
            && message.ends_with("no such key: data"),
        "{message}"
    );
    for (name, expression, wanted) in [
        (
            "atomic",
            "Object{imagePullSecrets: [Object.imagePullSecrets{name: 'x'}], secrets: [Object.secrets{name: 'x'}]}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .imagePullSecrets, .secrets[0]",
        ),
        (
            "misplaced",
            "Object{metadata: Object.spec{}}",
            "type mismatch: unexpected type name \"Object.spec\", expected \"Object.metadata\", which matches field name path from root Object type",
        ),
        (
            "unknown",
            "Object{nope: 1}",
            "error applying patch: failed to convert patch object to typed object: .nope: field not declared in schema",
        ),
    ] {
        make(name, "serviceaccounts", "reinvocationPolicy: Never", &[expression]).await;
        let reply = f.post("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: s}}").await;
        let wanted = format!("policy '{name}' with binding '{name}' denied request: {wanted}");
        reply.is(403).has(&[("/message", &wanted)]);
        f.delete(&format!("{bindings}/{name}")).await;
    }
    let bad = format!(
        "reinvocationPolicy: Often, mutations: [{}, {{patchType: Nope}}, {{patchType: JSONPatch}}]",
        mutation("Object{a: 1 + 'x'}")
    );
    let message =
        f.post(&policies, &policy("bad", "secrets", &bad).replace("UPDATE]", "DELETE]")).await.is(422).at("/message");
    for wanted in [
        "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\"",
        "spec.mutations[0].applyConfiguration.expression: Invalid value: \"Object{a: 1 + 'x'}\": compilation failed: ERROR: <input>:1:13: found no matching overload for '_+_' applied to '(int, string)'",
        "spec.mutations[1].patchType: Unsupported value: \"Nope\"",
        "spec.mutations[2].jsonPatch: Required value: must be specified when patchType is JSONPatch",
        "spec.reinvocationPolicy: Unsupported value: \"Often\"",
    ] {
        assert!(message.contains(wanted), "{wanted}\nin {message}");
    }
}
