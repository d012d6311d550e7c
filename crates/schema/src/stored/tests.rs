use super::*;
use crate::{MessageId, Value, json};

fn seal(kind: &str, text: &str) -> Vec<u8> {
    let table = Table::builtin();
    let id = table.kind("", "v1", kind).expect("a kind");
    let value = json::decode(table, id, text.as_bytes()).expect("decodes").value;
    sealed(table, id, kind, &value)
}

fn sealed(table: &Table, id: MessageId, kind: &str, value: &Value) -> Vec<u8> {
    let mut raw = Vec::new();
    proto::encode(table, id, value, &mut raw);
    proto::envelope("v1", kind, &raw)
}

const POD: &str = r#"{"metadata":{"name":"a","namespace":"n","uid":"u","labels":{"app":"x","b":""}},
    "spec":{"nodeName":"node-1","containers":[{"name":"c"}],"hostNetwork":true},"status":{"phase":"Running"}}"#;

#[test]
fn reads_metadata_of_both_encodings() {
    for body in [seal("Pod", POD), POD.as_bytes().to_vec()] {
        let meta = meta(&body).expect("reads");
        assert_eq!((&*meta.name, &*meta.namespace, &*meta.uid, &*meta.resource_version), ("a", "n", "u", ""));
        assert_eq!((meta.label("app"), meta.label("b"), meta.label("c")), (Some("x"), Some(""), None));
        assert!(!meta.deleting);
    }
}

#[test]
fn reads_fields_of_both_encodings() {
    let table = Table::builtin();
    let id = table.kind("", "v1", "Pod").expect("a kind");
    for body in [seal("Pod", POD), POD.as_bytes().to_vec()] {
        for (path, wanted) in [
            ("metadata.name", "a"),
            ("spec.nodeName", "node-1"),
            ("status.phase", "Running"),
            ("spec.hostNetwork", "true"),
            ("spec.nowhere", ""),
            ("spec", ""),
            ("metadata.labels.app", "x"),
        ] {
            assert_eq!(field(table, id, &body, path).expect("reads"), wanted, "{path}");
        }
    }
}

#[test]
fn splices_the_resource_version() {
    let table = Table::builtin();
    let id = table.kind("", "v1", "Pod").expect("a kind");
    let long =
        format!(r#"{{"metadata":{{"name":"{}","annotations":{{"a":"{}"}}}}}}"#, "n".repeat(60), "x".repeat(16_350));
    for text in [POD, "{}", &long] {
        let mut body = seal("Pod", text);
        for version in ["7", "123456789012345678", ""] {
            body = set_resource_version(&body, version).expect("splices");
            let mut wanted = json::decode(table, id, text.as_bytes()).expect("decodes").value;
            if !version.is_empty() {
                wanted.set(&["metadata", "resourceVersion"], version);
            }
            assert_eq!(body, sealed(table, id, "Pod", &wanted), "{version}");
        }
    }
}

#[test]
fn splices_json() {
    for (before, after) in [
        (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
        (r#"{"metadata":{"name":"a"},"z":1}"#, r#"{"metadata":{"name":"a","resourceVersion":"7"},"z":1}"#),
        (r#"{"metadata":{"name":"a","uid":"u"}}"#, r#"{"metadata":{"name":"a","resourceVersion":"7","uid":"u"}}"#),
        (r#"{"metadata":{"uid":"u"}}"#, r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#),
        (r#"{"metadata":{"resourceVersion":"123"}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
    ] {
        let spliced = set_resource_version(before.as_bytes(), "7").expect("splices");
        assert_eq!(String::from_utf8_lossy(&spliced), after);
        assert_eq!(json::parse(&spliced).expect("parses").str_at(&["metadata", "resourceVersion"]), "7");
    }
    assert_eq!(Value::Null, json::parse(b"null").expect("parses"));
}
