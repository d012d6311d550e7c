use super::*;
use crate::{Table, json};

fn texts(errors: Vec<FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn value(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

#[test]
fn metadata_is_checked_whole() {
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    for (meta, namespaced, rule, wanted) in [
        (r#"{"name":"a","namespace":"n"}"#, true, NameRule::Subdomain, vec![]),
        (r#"{"namespace":"n"}"#, false, NameRule::Subdomain, vec![
            "metadata.name: Required value: name or generateName is required".to_owned(),
            "metadata.namespace: Forbidden: not allowed on this type".to_owned(),
        ]),
        (r#"{"name":"A","generateName":"a-"}"#, true, NameRule::Label, vec![
            format!("metadata.name: Invalid value: \"A\": {label}"),
            "metadata.namespace: Required value".to_owned(),
        ]),
        (r#"{"name":"a:b"}"#, false, NameRule::PathSegment, vec![]),
        (r#"{"name":"fd00::1"}"#, false, NameRule::Ip, vec![]),
        (r#"{"name":"fd00:0::1"}"#, false, NameRule::Ip, vec![
            r#"metadata.name: Invalid value: "fd00:0::1": must be in canonical form ("fd00::1")"#.to_owned(),
        ]),
        (r#"{"name":"a"}"#, false, NameRule::Ip, vec![
            r#"metadata.name: Invalid value: "a": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#.to_owned(),
        ]),
        (r#"{"name":"a/b","finalizers":["orphan","foregroundDeletion"],"generation":-1}"#, false, NameRule::PathSegment, vec![
            "metadata.name: Invalid value: \"a/b\": may not contain '/'".to_owned(),
            "metadata.generation: Invalid value: -1: must be greater than or equal to 0".to_owned(),
            r#"metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set"#.to_owned(),
        ]),
        (r#"{"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u","controller":true},
            {"apiVersion":"a/b/c","kind":"","name":"q","uid":"v","controller":true}]}"#, false, NameRule::Subdomain, vec![
            r#"metadata.ownerReferences[1].apiVersion: Invalid value: "a/b/c": must be <group>/<version> or <version>"#.to_owned(),
            "metadata.ownerReferences[1].kind: Required value: must not be empty".to_owned(),
            r#"metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"Pod","name":"p","uid":"u"},{"apiVersion":"a/b/c","controller":true,"kind":"","name":"q","uid":"v"}]: Only one reference can have Controller set to true. Found "true" in references for Pod/p and /q"#.to_owned(),
        ]),
    ] {
        assert_eq!(texts(metadata(&value(meta), namespaced, rule, "metadata")), wanted, "{meta}");
    }
    let mut big = value(r#"{"name":"a","annotations":{}}"#);
    big.set(&["annotations", "x"], "y".repeat(256 * 1024));
    assert_eq!(
        texts(metadata(&big, false, NameRule::Subdomain, "metadata")),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

#[test]
fn metadata_stays_itself_on_update() {
    let old = r#"{"name":"a","uid":"1","resourceVersion":"5","generation":3,"deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x/y"]}"#;
    let new = r#"{"name":"b","uid":"2","generation":2,"deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x/y","x/z"]}"#;
    assert_eq!(
        texts(metadata_update(&value(new), &value(old), "metadata")),
        [
            r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x/z"}"#,
            r#"metadata.resourceVersion: Invalid value: "": must be specified for an update"#,
            "metadata.generation: Invalid value: 2: must not be decremented",
            r#"metadata.name: Invalid value: "b": field is immutable"#,
            r#"metadata.uid: Invalid value: "2": field is immutable"#,
        ]
    );
}

#[test]
fn rules_are_read_and_applied() {
    let table = Table::builtin();
    let id = table.id("io.k8s.api.core.v1.PodSpec").unwrap();
    let mut book = RuleBook::default();
    for (message, path, rules) in [
        ("PodSpec", "containers", "required; maxItems=2; unique=map(name)"),
        ("PodSpec", "nodeName", "format=k8s-long-name; kept"),
        ("Container", "name", "required; format=k8s-short-name"),
        ("ContainerPort", "containerPort", "required; range=1..65535"),
        ("ContainerPort", "protocol", "when(name=x)=enum=TCP,UDP"),
    ] {
        let message = table.id(&format!("io.k8s.api.core.v1.{message}")).unwrap();
        for rule in rules.split(';') {
            book.add(message, path, Rule::parse(rule).unwrap());
        }
    }
    let check = |new: &str, old: Option<&str>| texts(object(table, &book, id, &value(new), old.map(value).as_ref()));
    assert_eq!(check("{}", None), ["containers: Required value"]);
    assert_eq!(
        check(
            r#"{"restartPolicy":"Sometimes","containers":[{"name":"a"},{"name":"a"},
                {"name":"B_","ports":[{"containerPort":0,"protocol":"SCTP","name":"x"}]}]}"#,
            None
        ),
        [
            "containers: Too many: 3: must have at most 2 items",
            r#"containers[1].name: Duplicate value: "a""#,
            r#"containers[2].name: Invalid value: "B_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
            "containers[2].ports[0].containerPort: Required value",
            r#"containers[2].ports[0].protocol: Unsupported value: "SCTP": supported values: "TCP", "UDP""#,
            r#"restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure""#,
        ]
    );
    let (new, old) =
        (r#"{"containers":[{"name":"a"}],"nodeName":"y"}"#, r#"{"containers":[{"name":"a"}],"nodeName":"x"}"#);
    assert_eq!(check(new, Some(old)), [r#"nodeName: Invalid value: "y": field is immutable"#]);
    for bad in ["what=1", "format=what", "check=what", "range=1", "maxItems=x", "required("] {
        assert!(Rule::parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn aggregates_as_upstream() {
    let one = FieldError::required("a", "");
    let two = FieldError::not_supported("b", "x", &["p", "q"]);
    assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
    assert_eq!(
        aggregate(&[one.clone(), two, one]),
        r#"[a: Required value, b: Unsupported value: "x": supported values: "p", "q"]"#
    );
}
