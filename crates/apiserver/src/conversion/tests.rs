//! What webhooks answer and what of it is taken; definitions that name none, or a wrong one.

use schema::yaml;

use super::*;

fn value(text: &str) -> Value {
    yaml::parse(text.as_bytes()).unwrap().value
}

fn answer(api_version: &str, response: &str) -> Value {
    value(&format!("{{apiVersion: {api_version}, kind: ConversionReview, response: {response}}}"))
}

#[test]
fn answers() {
    const V1: &str = "apiextensions.k8s.io/v1";
    const V1BETA1: &str = "apiextensions.k8s.io/v1beta1";
    let check = |version: &str, mut answer: Value| accepted(&mut answer, version, "u").map(|objects| objects.len());
    let done = "{uid: u, result: {status: Success}, convertedObjects: [{a: 1}, {a: 2}]}";
    assert_eq!(check(V1, answer(V1, done)), Ok(2));
    assert_eq!(check(V1BETA1, answer(V1BETA1, done)), Ok(2));
    for (asked, given, why) in [
        (
            V1,
            answer(V1BETA1, done),
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1beta1, Kind=ConversionReview",
        ),
        (V1, value("[]"), "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /, Kind="),
        (
            V1,
            answer("apiextensions.k8s.io/v9", done),
            "no kind \"ConversionReview\" is registered for version \"apiextensions.k8s.io/v9\" in scheme \"pkg/runtime/scheme.go:111\"",
        ),
        (V1, answer(V1, "null"), "no response provided"),
        (V1, answer(V1, "{uid: other}"), "expected response.uid=\"u\", got \"other\""),
        (V1, answer(V1, "{uid: u}"), "response.result.status was '', not 'Success'"),
        (V1, answer(V1, "{uid: u, result: {status: Failure, message: cannot}}"), "cannot"),
        (
            V1BETA1,
            answer(V1BETA1, "{uid: other, result: {status: Failed}}"),
            "response.result.status was 'Failed', not 'Success'",
        ),
    ] {
        assert_eq!(check(asked, given), Err(why.to_owned()));
    }
}

const ORIGINAL: &str =
    "{apiVersion: g/v1, kind: A, host: a, metadata: {name: p, namespace: s, uid: u, generation: 2, labels: {a: b}}}";

#[test]
fn converted_objects_keep_their_metadata() {
    let original = value(ORIGINAL);
    let one =
        |text: &str| restored(std::slice::from_ref(&original), vec![value(text)], "g/v2").map(|mut all| all.remove(0));
    let taken = one(
        "{apiVersion: g/v2, kind: A, hosts: [a], metadata: {name: p, namespace: s, uid: u, generation: 9, finalizers: [x], labels: {c: d}, annotations: {e: f}}}",
    );
    assert_eq!(
        taken.unwrap(),
        value(
            "{apiVersion: g/v2, kind: A, hosts: [a], metadata: {name: p, namespace: s, uid: u, generation: 2, labels: {c: d}, annotations: {e: f}}}"
        )
    );
    let bare = one("{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: u, labels: null}}").unwrap();
    assert_eq!(bare["metadata"], value("{name: p, namespace: s, uid: u, generation: 2}"));
    for (given, why) in [
        ("{}", "invalid object at index 0: invalid groupVersion (expected g/v2, received )"),
        (
            "{apiVersion: g/v1, kind: A}",
            "invalid object at index 0: invalid groupVersion (expected g/v2, received g/v1)",
        ),
        ("{apiVersion: g/v2, kind: B}", "invalid object at index 0: invalid kind (expected A, received B)"),
        ("{apiVersion: g/v2, kind: A}", "invalid object: must have the same name: p != "),
        ("{apiVersion: g/v2, kind: A, metadata: {name: p}}", "invalid object: must have the same namespace: s != "),
        (
            "{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: v}}",
            "invalid object: must have the same UID: u != v",
        ),
        (
            "{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: u, labels: [a]}}",
            "invalid metadata: invalid metadata.labels of type []interface {} in converted object",
        ),
        (
            "{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: u, annotations: {a: 1}}}",
            "invalid metadata: metadata.annotations[a] must be a string, but is int64 in converted object",
        ),
    ] {
        assert_eq!(one(given).unwrap_err(), why);
    }
    let label =
        one("{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: u, labels: {a: 'b c'}}}").unwrap_err();
    assert!(label.starts_with("invalid metadata: metadata.labels: Invalid value: \"b c\""), "{label}");
    let nothing = restored(&[value("{apiVersion: g/v1, kind: A}")], vec![value("{apiVersion: g/v2, kind: A}")], "g/v2");
    assert_eq!(nothing.unwrap_err(), "invalid metadata: missing metadata in converted object");
}

#[test]
fn converted_lists() {
    let originals = [value(ORIGINAL), value(ORIGINAL)];
    let good = value("{apiVersion: g/v2, kind: A, metadata: {name: p, namespace: s, uid: u}}");
    let check = |converted: Vec<Value>| restored(&originals, converted, "g/v2").map(|all| all.len());
    assert_eq!(check(vec![good.clone(), good.clone()]), Ok(2));
    assert_eq!(check(vec![good.clone()]), Err("1 objects, expected 2".into()));
    let mut other = good.clone();
    other.set(&["metadata", "uid"], "v");
    assert_eq!(
        check(vec![good, other]),
        Err("invalid converted object at index 1: must have the same UID: u != v".into())
    );
}

#[test]
fn definitions() {
    let definition = |conversion: &str| value(&format!("{{spec: {{conversion: {conversion}}}}}"));
    let problems = |conversion: &str, old: Option<&Value>| -> Vec<String> {
        validate(&definition(conversion), old).iter().map(ToString::to_string).collect()
    };
    let webhook = |client: &str, versions: &str| {
        format!("{{strategy: Webhook, webhook: {{clientConfig: {client}, conversionReviewVersions: {versions}}}}}")
    };
    const URL: &str = "{url: 'https://hook.example.com/convert'}";
    const AT: &str = "spec.conversion.webhookClientConfig";
    const VERSIONS: &str = "spec.conversion.conversionReviewVersions";
    for good in ["null", "{strategy: None}", &webhook(URL, "[v1]"), &webhook(URL, "[v9, v1beta1]")] {
        assert_eq!(problems(good, None), [""; 0], "{good}");
    }
    assert_eq!(
        problems(&webhook("{service: {name: a, namespace: b, port: 443, path: /crd/convert/}}", "[v1]"), None),
        [""; 0]
    );
    for (bad, why) in [
        ("{strategy: Other}".to_owned(), "spec.conversion.strategy: Unsupported value: \"Other\"".to_owned()),
        ("{}".to_owned(), "spec.conversion.strategy: Required value".to_owned()),
        (
            "{strategy: Webhook, webhook: {conversionReviewVersions: [v1]}}".to_owned(),
            format!("{AT}: Required value: required when strategy is set to Webhook"),
        ),
        (webhook("{}", "[v1]"), format!("{AT}: Required value: exactly one of url or service is required")),
        (webhook("{url: 'https://a', service: {name: a}}", "[v1]"), format!("{AT}: Required value: exactly one of")),
        (
            webhook("{url: 'http://a'}", "[v1]"),
            format!("{AT}.url: Invalid value: \"http\": 'https' is the only allowed"),
        ),
        (webhook("{url: 'https:///a'}", "[v1]"), format!("{AT}.url: Invalid value: \"\": host must be specified")),
        (webhook("{url: 'https://u:p@a'}", "[v1]"), format!("{AT}.url: Invalid value: \"u:p\": user information")),
        (webhook("{url: 'https://a#b'}", "[v1]"), format!("{AT}.url: Invalid value: \"b\": fragments are")),
        (webhook("{url: 'https://a?b=c'}", "[v1]"), format!("{AT}.url: Invalid value: \"b=c\": query parameters")),
        (webhook("{service: {namespace: b}}", "[v1]"), format!("{AT}.service.namespace: Required value")),
        (
            webhook("{service: {name: a, namespace: b, port: 0}}", "[v1]"),
            format!("{AT}.service.port: Invalid value: 0: port is not valid: must be between"),
        ),
        (
            webhook("{service: {name: a, namespace: b, path: cd}}", "[v1]"),
            format!("{AT}.service.path: Invalid value: \"cd\": must start with a '/'"),
        ),
        (
            webhook("{service: {name: a, namespace: b, path: //}}", "[v1]"),
            format!("{AT}.service.path: Invalid value: \"//\": segment[0] may not be empty"),
        ),
        (
            webhook("{service: {name: a, namespace: b, path: /a/B}}", "[v1]"),
            format!("{AT}.service.path: Invalid value: \"/a/B\": segment[1]: a lowercase"),
        ),
        (webhook(URL, "[]"), format!("{VERSIONS}: Required value")),
        (
            webhook(URL, "[v9]"),
            format!("{VERSIONS}: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1"),
        ),
        (webhook(URL, "[v1, v1]"), format!("{VERSIONS}[1]: Invalid value: \"v1\": duplicate version")),
        (webhook(URL, "[v1, V_]"), format!("{VERSIONS}[1]: Invalid value: \"V_\"")),
        (
            "{strategy: None, webhook: {clientConfig: {url: 'https://a'}}}".to_owned(),
            format!("{AT}: Forbidden: should not be set when"),
        ),
        (
            "{strategy: None, webhook: {conversionReviewVersions: [v1]}}".to_owned(),
            format!("{VERSIONS}: Forbidden: should not be set"),
        ),
    ] {
        let found = problems(&bad, None);
        assert!(matches!(&*found, [one] if one.starts_with(&why)), "{bad}: {found:?}, not {why}");
    }
    // What was wrong before may stay so.
    let unknown = definition(&webhook(URL, "[v9]"));
    assert_eq!(problems(&webhook(URL, "[v8]"), Some(&unknown)), [""; 0]);
    let bundle = webhook("{url: 'https://a', caBundle: bm9uZQ==}", "[v1]");
    let mut established = definition(&webhook(URL, "[v1]"));
    assert_eq!(problems(&bundle, Some(&established)), [""; 0]);
    established.set(&["status", "conditions"], Value::List(vec![value("{type: Established, status: 'True'}")]));
    let found = problems(&bundle, Some(&established));
    assert!(
        matches!(&*found, [one] if one.contains("caBundle") && one.contains("unable to load root certificates")),
        "{found:?}"
    );
}
