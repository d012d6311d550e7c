//! Every kind, empty and full, by upstream's types: our protobuf and JSON are theirs, byte for byte.
//!
//! A line: apiVersion, kind, message, variant, protobuf in base64, JSON (see `xtask/schema-gen/golden.go`).

use std::io::Read;

use base64::Engine;
use schema::{MessageId, Table, Type, Value, json, proto, transcode};

struct Golden {
    what: String,
    id: MessageId,
    type_meta: Option<(String, String)>,
    raw: Vec<u8>,
    json: String,
}

/// `GOLDEN_OBJECTS` names a file of more such lines.
fn golden() -> Vec<Golden> {
    let zip = include_bytes!("../golden/objects.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zip[..]).read_to_string(&mut text).expect("a zipped text");
    if let Ok(path) = std::env::var("GOLDEN_OBJECTS") {
        text.push_str(&std::fs::read_to_string(path).expect("golden objects"));
    }
    let mut rows = Vec::new();
    for line in text.lines() {
        let mut columns = line.splitn(6, '\t');
        let mut next = || columns.next().expect("six columns");
        let (api_version, kind, message, variant, raw, json) = (next(), next(), next(), next(), next(), next());
        let id = match message {
            "" => Table::builtin().kind(
                api_version.split_once('/').map_or("", |v| v.0),
                api_version.rsplit('/').next().unwrap_or(""),
                kind,
            ),
            name => Table::builtin().id(name),
        };
        // Upstream's client knows versions that its server no longer has.
        let Some(id) = id else { continue };
        rows.push(Golden {
            what: format!("{api_version} {kind}, {variant}"),
            id,
            type_meta: json.starts_with("{\"kind\":").then(|| (api_version.to_owned(), kind.to_owned())),
            raw: base64::engine::general_purpose::STANDARD.decode(raw).expect("base64"),
            // Upstream's protobuf reads an empty slice in a map back as one that is not nil.
            json: json.replace(".io/Extra\":null", ".io/Extra\":[]"),
        });
    }
    assert!(rows.len() > 300, "only {} golden objects", rows.len());
    rows
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
    for Golden { what, id, type_meta, raw, json: wanted } in golden() {
        let mut value = proto::decode(table, id, &raw).unwrap_or_else(|e| panic!("{what}: {e}"));
        if let Some((api_version, kind)) = &type_meta {
            value.set(&["apiVersion"], api_version.as_str());
            value.set(&["kind"], kind.as_str());
        }
        let mut out = Vec::new();
        json::encode(table, &Type::Message(id), &value, &mut out);
        same("JSON", &what, &text(out), &wanted);
        let mut out = Vec::new();
        let type_meta = type_meta.as_ref().map(|(version, kind)| (version.as_str(), kind.as_str()));
        transcode::proto_to_json(table, id, type_meta, &raw, &mut out).expect("transcodes");
        same("transcoded JSON", &what, &text(out), &wanted);
    }
}

#[test]
fn json_to_protobuf() {
    let table = Table::builtin();
    for Golden { what, id, raw, json: text, .. } in golden() {
        let decoded = json::decode(table, id, text.as_bytes()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(decoded.problems, [], "{what}");
        let mut out = Vec::new();
        proto::encode(table, id, &decoded.value, &mut out);
        if out != raw {
            let at = out.iter().zip(&raw).position(|(a, b)| a != b).unwrap_or(0);
            panic!("protobuf of {what} differs at {at}: {text}");
        }
    }
}

#[test]
fn cut_and_broken_bytes_are_errors_and_never_panic() {
    let table = Table::builtin();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for Golden { id, raw, json: text, .. } in golden() {
        for _ in 0..20 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            if raw.is_empty() {
                continue;
            }
            let mut broken = raw.clone();
            let at = seed as usize % broken.len();
            broken[at] = (seed >> 32) as u8;
            let mut out = Vec::new();
            let transcoded = transcode::proto_to_json(table, id, None, &broken, &mut out);
            if let Ok(value) = proto::decode(table, id, &broken) {
                if transcoded.is_ok() {
                    json::parse(&out).expect("JSON");
                }
                proto::encode(table, id, &value, &mut out);
            }
            let mut broken = text.clone().into_bytes();
            let at = seed as usize % broken.len();
            broken[at] = (seed >> 32) as u8;
            let _ = json::decode(table, id, &broken);
            let _ = json::decode(table, id, &text.as_bytes()[..at]);
        }
    }
}

#[test]
fn deep_values_fit_a_small_stack() {
    let deepest = |open: &str, middle: &str, close: &str, depth: usize| {
        format!("{}{middle}{}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let run = move || {
        let table = Table::builtin();
        let crd = table.kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").expect("a kind");
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let value = json::parse(&deepest(open, "1", close, json::MAX_DEPTH)).expect("just fits");
            let mut out = Vec::new();
            json::encode_untyped(&value.clone(), &mut out);
            assert_eq!(json::parse(&out).expect("parses"), value);
            assert!(json::parse(&deepest(open, "1", close, json::MAX_DEPTH + 1)).is_err());
            assert!(schema::yaml::parse(&deepest(open, "1", close, 100_000)).is_err());
        }
        let (open, close) = (r#"{"items":"#, "}");
        let schema = String::from_utf8(deepest(open, "{}", close, 120)).expect("text");
        let text = format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#);
        let decoded = json::decode(table, crd, text.as_bytes()).expect("decodes");
        let mut raw = Vec::new();
        proto::encode(table, crd, &decoded.value, &mut raw);
        assert_eq!(proto::decode(table, crd, &raw).expect("decodes"), decoded.value);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        json::encode(table, &Type::Message(crd), &decoded.value, &mut ours);
        transcode::proto_to_json(table, crd, None, &raw, &mut theirs).expect("transcodes");
        assert_eq!(ours, theirs);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread").join().expect("no overflow");
}

/// Every place of a value, as pointers; those of the first members of each object and list.
fn places(value: &Value, at: String, into: &mut Vec<String>) {
    into.push(at.clone());
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                places(member, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::List(list) => {
            for (index, member) in list.iter().enumerate().take(2) {
                places(member, format!("{at}/{index}"), into);
            }
        }
        _ => {}
    }
}

fn at<'v>(value: &'v mut Value, pointer: &str) -> &'v mut Value {
    let tokens = pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"));
    tokens.fold(value, |value, token| match value {
        Value::List(list) => &mut list[token.parse::<usize>().expect("an index")],
        Value::Object(members) => members.get_mut(&token).expect("a member"),
        _ => panic!("no way to {pointer}"),
    })
}

/// A value that is taken as normal at a glance is what writing and reading it makes of it, however it was changed.
#[test]
fn what_is_normal_stays() {
    let table = Table::builtin();
    let changes = [Value::Null, Value::Int(0), Value::Int(1 << 40), Value::Float(1.0), "".into(), "1000m".into()]
        .into_iter()
        .chain([Value::object([("unknown", 1i64.into())]), Value::List(Vec::new()), Value::Bool(false)]);
    let changes: Vec<Value> = changes.collect();
    let (mut kept, mut tried) = (0, 0);
    for Golden { what, id, json, .. } in golden() {
        let Ok(decoded) = json::decode(table, id, json.as_bytes()) else { continue };
        let mut paths = Vec::new();
        places(&decoded.value, String::new(), &mut paths);
        // All places of small objects, some of large ones: each is tried in some kind.
        let step = (paths.len() / 15).max(1);
        for (n, path) in paths.iter().enumerate().filter(|(n, _)| n % step == 0) {
            let mut value = decoded.value.clone();
            *at(&mut value, path) = changes[n % changes.len()].clone();
            let mut bytes = Vec::new();
            json::encode_untyped(&value, &mut bytes);
            let slow = json::decode(table, id, &bytes);
            let fast = json::typed(table, id, value.clone());
            match (slow, fast) {
                (Ok(slow), Ok(fast)) => {
                    assert_eq!(slow.value, fast.value, "{what}: {path} made {}", changes[n % changes.len()]);
                    assert_eq!(slow.problems.len(), fast.problems.len(), "{what}: {path}");
                    kept += usize::from(slow.value == value && slow.problems.is_empty());
                }
                (Err(slow), Err(fast)) => assert_eq!(slow.to_string(), fast.to_string(), "{what}: {path}"),
                (slow, fast) => panic!("{what}: {path}: {slow:?} or {fast:?}"),
            }
            tried += 1;
        }
    }
    assert!(tried > 3_000 && kept > tried / 20, "{kept} of {tried} were normal");
}
