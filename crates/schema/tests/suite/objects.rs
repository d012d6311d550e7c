//! Every kind, filled at random by upstream's types: our protobuf and JSON are theirs, byte for byte.
//!
//! A line: apiVersion, kind, protobuf in base64, JSON. `GOLDEN_OBJECTS` names another file of such lines.

use base64::Engine;
use schema::{Table, Type, json, proto, transcode};

fn each(check: impl Fn(&str, schema::MessageId, &[u8], &str)) {
    let path = std::env::var("GOLDEN_OBJECTS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/objects.txt").to_owned());
    let text = std::fs::read_to_string(&path).expect("golden objects");
    for line in text.lines() {
        let mut columns = line.splitn(4, '\t');
        let mut next = || columns.next().expect("four columns");
        let (api_version, kind, raw, json) = (next(), next(), next(), next());
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        // Upstream's client knows versions that its server no longer has.
        let Some(id) = Table::builtin().kind(group, version, kind) else { continue };
        let raw = base64::engine::general_purpose::STANDARD.decode(raw).expect("base64");
        check(kind, id, &raw, json);
    }
}

fn same(what: &str, kind: &str, ours: &str, theirs: &str) {
    if ours != theirs {
        let at = ours.bytes().zip(theirs.bytes()).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
        let from = at.saturating_sub(80);
        let show = |s: &str| String::from_utf8_lossy(&s.as_bytes()[from..(at + 80).min(s.len())]).into_owned();
        panic!("{what} of {kind} differs at {at}:\n  ours   {}\n  theirs {}", show(ours), show(theirs));
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn protobuf_to_json() {
    let table = Table::builtin();
    each(|kind, id, raw, wanted| {
        let value = proto::decode(table, id, raw).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let mut out = Vec::new();
        json::encode(table, &Type::Message(id), &value, &mut out);
        same("JSON", kind, &text(out), wanted);
        let mut out = Vec::new();
        transcode::proto_to_json(table, id, None, raw, &mut out).expect("transcodes");
        same("transcoded JSON", kind, &text(out), wanted);
    });
}

#[test]
fn json_to_protobuf() {
    let table = Table::builtin();
    each(|kind, id, raw, text| {
        let decoded = json::decode(table, id, text.as_bytes()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(decoded.problems, [], "{kind}");
        assert_eq!(decoded.value, proto::decode(table, id, raw).expect("decodes"), "{kind}");
        let mut out = Vec::new();
        proto::encode(table, id, &decoded.value, &mut out);
        if out != raw {
            let at = out.iter().zip(raw).position(|(a, b)| a != b).unwrap_or(0);
            panic!("protobuf of {kind} differs at {at}: {text}");
        }
    });
}
