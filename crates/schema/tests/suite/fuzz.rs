//! Broken bytes for every decoder: an error or a value, never a panic, and what is read can be written and read again.

use schema::{MessageId, Table, Type, json, patch, proto, quantity, selector, structural, yaml};

#[path = "../../../../tests/fuzz/mutate.rs"]
mod mutate;

use mutate::rounds;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"creationTimestamp":"2020-01-01T00:00:00Z",
 "managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"k:{\"name\":\"c\"}":{".":{}}}}}]},
 "spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1500m","memory":"1Gi"}},"ports":[{"containerPort":80}]}],
 "terminationGracePeriodSeconds":30,"nodeSelector":{"k":"v"}}}"#;
const SCHEMA: &str = r#"{"type":"object","properties":{"spec":{"type":"object","required":["a"],"properties":{"a":{"type":"integer","minimum":1,"default":3},
 "b":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","properties":{"k":{"type":"string","pattern":"^a+$"}}}},
 "c":{"x-kubernetes-int-or-string":true},"d":{"x-kubernetes-preserve-unknown-fields":true,"type":"object"}}}}}"#;

fn pod() -> (&'static Table, MessageId) {
    let table = Table::builtin();
    (table, table.kind("", "v1", "Pod").expect("pods"))
}

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn json_and_protobuf() {
    let (table, id) = pod();
    let mut raw = Vec::new();
    proto::encode(table, id, &json::decode(table, id, POD.as_bytes()).expect("a pod").value, &mut raw);
    rounds("JSON", 3_000, &seeds(&[POD]), |_, bytes| {
        if let Ok(decoded) = json::decode(table, id, &bytes) {
            let (mut text, mut raw) = (Vec::new(), Vec::new());
            json::encode(table, &Type::Message(id), &decoded.value, &mut text);
            let again = json::decode(table, id, &text).expect("what was written");
            assert_eq!(again.value, decoded.value);
            proto::encode(table, id, &decoded.value, &mut raw);
            proto::decode(table, id, &raw).expect("what was written");
        }
        let _ = json::parse_strict(&bytes);
    });
    rounds("protobuf", 6_000, &[raw.clone(), proto::envelope("v1", "Pod", &raw)], |_, bytes| {
        let _ = proto::open(&bytes);
        if let Ok(value) = proto::decode(table, id, &bytes) {
            let mut text = Vec::new();
            json::encode(table, &Type::Message(id), &value, &mut text);
        }
    });
}

#[test]
fn yaml_documents() {
    let text = "a: &x {b: [1, 2.5, 0x1f, yes]}\nc: *x\nd: |\n  text\ne: !!binary aGk=\n? f\n: >-\n  g\n---\n- ~\n- 'q''q'\n- \"\\u00e9\"\n";
    rounds("YAML", 3_000, &seeds(&[text, POD]), |_, bytes| {
        let _ = yaml::parse(&bytes);
        let _ = yaml::parse_all(&bytes);
    });
}

#[test]
fn patches() {
    let (table, id) = pod();
    let original = json::decode(table, id, POD.as_bytes()).expect("a pod").value;
    let texts = [
        r#"[{"op":"test","path":"/spec/containers/0/name","value":"c"},{"op":"move","from":"/metadata/labels","path":"/metadata/annotations"},{"op":"add","path":"/spec/containers/-","value":{}}]"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"$patch":"delete","name":"c"},{"name":"d","$retainKeys":["name"]}],"nodeSelector":{"$patch":"replace","x":null}}}"#,
    ];
    rounds("patches", 3_000, &seeds(&texts), |_, bytes| {
        let Ok(value) = json::parse(&bytes) else { return };
        let _ = patch::merge_patch(original.clone(), &value);
        let _ = patch::json_patch(original.clone(), &value);
        let _ = patch::strategic(table, &Type::Message(id), original.clone(), value);
    });
}

#[test]
fn selectors_and_quantities() {
    let texts = [
        "a in (b, c),!d,e notin (f),g=h,i!=j,k>1",
        "metadata.name=a,spec.nodeName!=b\\,c",
        "1.5e3",
        "100Gi",
        "-0.000000001n",
    ];
    rounds("selectors", 20_000, &seeds(&texts), |_, bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let _ = selector::LabelSelector::parse(&text);
        let _ = selector::FieldSelector::parse(&text);
        if let Ok(canonical) = quantity::canonical(&text) {
            // More digits than any machine has bytes are cut, and may be cut again.
            if canonical.len() < 30 {
                assert_eq!(quantity::canonical(&canonical).as_deref(), Ok(&*canonical), "of {text:?}");
            }
        }
    });
}

#[test]
fn structural_schemas() {
    let object = r#"{"spec":{"a":0,"b":[{"k":"aa"},{"k":"aa"}],"c":"x","d":{"e":1},"z":1}}"#;
    rounds("schemas", 2_000, &seeds(&[SCHEMA]), |dice, bytes| {
        let Ok(value) = json::parse(&bytes) else { return };
        let Ok(schema) = structural::Schema::new(&value, "spec") else { return };
        let Ok(mut object) = json::parse(&mutate::mutate(dice, &seeds(&[object]))) else { return };
        schema.prune(&mut object);
        schema.default(&mut object);
        schema.validate(&object, None);
    });
}
