//! How long the codecs take: `cargo run --release -p schema --example bench`. Figures only, no test.

use schema::{Table, Type, Value, apply, defaults, json, patch, proto, transcode, validate};

/// An argument names the measurements to make, by a part of their names.
fn measure(what: &str, bytes: usize, count: usize, mut run: impl FnMut()) {
    if std::env::args().nth(1).is_some_and(|wanted| !what.contains(&wanted)) {
        return;
    }
    let mut best = f64::MAX;
    for _ in 0..9 {
        let start = cpu_seconds();
        run();
        best = best.min(cpu_seconds() - start);
    }
    let megabytes = (bytes * count) as f64 / 1e6;
    println!("{what:<36} {:8.2} ms for {count} × {bytes} B   {:7.0} MB/s", best * 1e3, megabytes / best);
}

/// Time on a processor, so that other work on the machine counts less.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn main() {
    let table = Table::builtin();
    let text = "listen: 0.0.0.0:8080\nname: \"some value\"\npath: /var/lib/thing\n".repeat(66);
    let config = format!(
        r#"{{"metadata":{{"name":"cm-000001","namespace":"load","uid":"0d3f1f6e-0e7e-4f5c-8a55-5d2f3f1f6e0e","resourceVersion":"12345",
        "creationTimestamp":"2026-11-22T17:46:12Z","labels":{{"app":"kload"}},"managedFields":[{{"manager":"kload","operation":"Update",
        "apiVersion":"v1","time":"2026-11-22T17:46:12Z","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{".":{{}},"f:config.yaml":{{}}}},
        "f:metadata":{{"f:labels":{{".":{{}},"f:app":{{}}}}}}}}}}]}},"data":{{"config.yaml":{}}}}}"#,
        Value::from(text.as_str())
    );
    let pod = include_str!("pod.json");
    for (kind, text) in [("ConfigMap", config.as_str()), ("Pod", pod)] {
        let Some(id) = table.kind("", "v1", kind) else { return };
        let Ok(decoded) = json::decode(table, id, text.as_bytes()) else { return };
        let mut raw = Vec::new();
        proto::encode(table, id, &decoded.value, &mut raw);
        let mut text = Vec::new();
        json::encode(table, &Type::Message(id), &decoded.value, &mut text);
        println!("{kind}: {} B of protobuf, {} B of JSON", raw.len(), text.len());
        let mut out = Vec::with_capacity(5000 * (text.len() + 1));
        measure("protobuf to JSON", raw.len(), 5000, || {
            out.clear();
            for _ in 0..5000 {
                let _ = transcode::proto_to_json(table, id, None, &raw, &mut out);
            }
        });
        measure("JSON decode", text.len(), 5000, || {
            for _ in 0..5000 {
                let _ = json::decode(table, id, &text);
            }
        });
        measure("JSON encode", text.len(), 5000, || {
            out.clear();
            for _ in 0..5000 {
                json::encode(table, &Type::Message(id), &decoded.value, &mut out);
            }
        });
        measure("protobuf decode", raw.len(), 5000, || {
            for _ in 0..5000 {
                let _ = proto::decode(table, id, &raw);
            }
        });
        let ty = Type::Message(id);
        let writer = apply::Writer {
            manager: "bench",
            api_version: "v1",
            subresource: "",
            now: "2026-11-22T17:46:12Z",
            resets: &["status"],
            others: None,
        };
        let mut changed = decoded.value.clone();
        changed.set(&["metadata", "labels", "new"], "label");
        measure("managedFields of an update", text.len(), 500, || {
            for _ in 0..500 {
                let mut new = changed.clone();
                apply::update(table, &ty, Some(&decoded.value), &mut new, writer);
            }
        });
        let mut config = decoded.value.clone();
        config.remove(&["metadata", "managedFields"]);
        measure("apply", text.len(), 500, || {
            for _ in 0..500 {
                let _ = apply::apply(table, &ty, Some(&decoded.value), &config, writer, true);
            }
        });
        let change = Value::object([("metadata", Value::object([("labels", Value::object([("a", "b".into())]))]))]);
        measure("strategic merge", text.len(), 500, || {
            for _ in 0..500 {
                let _ = patch::strategic(table, &ty, decoded.value.clone(), change.clone());
            }
        });
        measure("defaults and validation", text.len(), 500, || {
            for _ in 0..500 {
                let mut new = decoded.value.clone();
                defaults::apply(table, id, &mut new);
                let _ = validate::object(table, validate::RuleBook::builtin(), id, &new, None);
            }
        });
        measure("protobuf encode", raw.len(), 5000, || {
            out.clear();
            for _ in 0..5000 {
                proto::encode(table, id, &decoded.value, &mut out);
            }
        });
    }
}
