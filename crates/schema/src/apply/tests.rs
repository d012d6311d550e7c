use super::*;
use crate::{Field, Message, MessageId, PatchStrategy};

/// The built-in types without protobuf tags, so that nothing is filled in: what upstream's own tests apply to.
fn untagged() -> Table {
    let field = |f: &Field| Field {
        name: f.name.clone(),
        tag: 0,
        ty: f.ty.clone(),
        pointer: f.pointer,
        omitempty: f.omitempty,
        omitzero: f.omitzero,
        inline: f.inline,
        required: f.required,
        default: f.default.clone(),
        enumeration: Vec::new(),
        patch: PatchStrategy { ..f.patch.clone() },
    };
    let message =
        |m: &Message| Message::new(m.name.clone(), m.form, m.fields.iter().map(field).collect()).with_atomic(m.atomic);
    Table::new(Table::builtin().messages.iter().map(message).collect(), Vec::new())
}

fn timeless(mut object: Value) -> Value {
    if let Some(rows) = object.get_mut(&["metadata", "managedFields"]).and_then(Value::as_list_mut) {
        for row in rows {
            row.remove(&["time"]);
        }
    }
    object
}

fn message(kind: &Value) -> MessageId {
    let version = kind.str_at(&["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Table::builtin().kind(group, version, kind.str_at(&["kind"])).unwrap()
}

/// Each line is a scenario that upstream's field manager went through: its steps, and what was live after each.
fn follow(text: &str, table: &Table, read: impl Fn(&Value) -> Value) {
    let mut failures = Vec::new();
    for line in text.lines() {
        let scenario = json::parse(line.as_bytes()).unwrap();
        let mut live: Option<Value> = None;
        for (i, step) in scenario.list_at(&["steps"]).iter().enumerate() {
            let object = &step["object"];
            let ty = Type::Message(message(object));
            let writer = Writer {
                manager: step.str_at(&["manager"]),
                api_version: object.str_at(&["apiVersion"]),
                subresource: "",
                now: "2026-01-01T00:00:00Z",
                resets: if std::ptr::eq(table, Table::builtin()) { &["status"] } else { &[] },
                others: None,
            };
            let mut error = String::new();
            if step.str_at(&["op"]) == "apply" {
                match apply(table, &ty, live.as_ref(), object, writer, step.bool_at(&["force"])) {
                    Ok(None) => {}
                    Ok(Some(new)) => live = Some(new),
                    Err(problem) => error = problem.to_string(),
                }
            } else {
                let mut new = read(object);
                update(table, &ty, live.as_ref(), &mut new, writer);
                live = Some(new);
            }
            let empty = || Value::object::<&str>([]);
            let found = live.clone().map_or_else(empty, timeless);
            let wanted = if live.is_none() { empty() } else { timeless(read(&step["live"])) };
            if error != step.str_at(&["error"]) || found != wanted {
                failures.push(format!(
                    "{}, step {i}:\n  error  {error}\n  wanted {}\n  live   {found}\n  wanted {wanted}",
                    scenario.str_at(&["name"]),
                    step.str_at(&["error"]),
                ));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} scenarios differ\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn untyped_objects_go_the_way_of_upstream() {
    follow(include_str!("../../tests/golden/apply.txt"), &untagged(), Value::clone);
}

#[test]
fn built_in_objects_go_the_way_of_upstream() {
    let read = |object: &Value| json::typed(Table::builtin(), message(object), object.clone()).unwrap().value;
    follow(include_str!("../../tests/golden/apply_typed.txt"), Table::builtin(), read);
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now, resets: &["status"], others: None }
}

fn config_map(data: &[(&str, &str)]) -> (Type, Value) {
    let data = Value::object(data.iter().map(|(k, v)| (*k, Value::from(*v))));
    let object = Value::object([
        ("apiVersion", "v1".into()),
        ("kind", "ConfigMap".into()),
        ("metadata", Value::object([("name", "c".into())])),
        ("data", data),
    ]);
    (Type::Message(message(&object)), object)
}

fn managers(object: &Value) -> Vec<String> {
    let rows = object.list_at(&["metadata", "managedFields"]).iter();
    rows.map(|r| format!("{} {} {}", r.str_at(&["manager"]), r.str_at(&["time"]), r["fieldsV1"])).collect()
}

#[test]
fn the_oldest_of_many_updaters_become_one() {
    let table = Table::builtin();
    let mut live: Option<Value> = None;
    for i in 0..12 {
        let keys: Vec<String> = (0..=i).map(|k| format!("k{k:02}")).collect();
        let data: Vec<(&str, &str)> = keys.iter().map(|k| (k.as_str(), "x")).collect();
        let (ty, mut new) = config_map(&data);
        let (manager, now) = (format!("m{i:02}"), format!("2026-01-01T00:00:{i:02}Z"));
        update(table, &ty, live.as_ref(), &mut new, writer(&manager, &now));
        live = Some(new);
    }
    let rows = managers(&live.unwrap());
    assert_eq!(rows.len(), 10);
    assert_eq!(rows[0], r#"ancient-changes 2026-01-01T00:00:02Z {"f:data":{".":{},"f:k00":{},"f:k01":{},"f:k02":{}}}"#);
    assert_eq!(rows[1], r#"m03 2026-01-01T00:00:03Z {"f:data":{"f:k03":{}}}"#);
}

#[test]
fn managed_fields_can_be_reset_and_stay_untracked_until_applied() {
    let table = Table::builtin();
    let (ty, mut first) = config_map(&[("a", "1")]);
    update(table, &ty, None, &mut first, writer("u", "2026-01-01T00:00:00Z"));
    first.set(&["metadata", "uid"], "1");
    assert_eq!(managers(&first), [r#"u 2026-01-01T00:00:00Z {"f:data":{".":{},"f:a":{}}}"#]);
    for reset in ["[]", "[{}]"] {
        let mut second = first.clone();
        second.set(&["metadata", "managedFields"], json::parse(reset.as_bytes()).unwrap());
        update(table, &ty, Some(&first), &mut second, writer("u", "2026-01-01T00:00:01Z"));
        assert_eq!(managers(&second), [""; 0]);
        let (_, mut config) = config_map(&[("b", "2")]);
        config.remove(&["metadata", "uid"]);
        let applied = apply(table, &ty, Some(&second), &config, writer("a", "2026-01-01T00:00:02Z"), false);
        assert_eq!(
            managers(&applied.unwrap().unwrap()),
            [
                r#"a 2026-01-01T00:00:02Z {"f:data":{"f:b":{}}}"#,
                r#"before-first-apply 2026-01-01T00:00:02Z {"f:data":{".":{},"f:a":{}}}"#
            ]
        );
    }
}

#[test]
fn nothing_changes_twice() {
    let table = Table::builtin();
    let (ty, config) = config_map(&[("a", "1")]);
    let live = apply(table, &ty, None, &config, writer("a", "2026-01-01T00:00:00Z"), false).unwrap().unwrap();
    let again = apply(table, &ty, Some(&live), &config, writer("a", "2026-01-01T00:00:09Z"), false);
    assert_eq!(again, Ok(None));
    let mut same = live.clone();
    update(table, &ty, Some(&live), &mut same, writer("u", "2026-01-01T00:00:09Z"));
    assert!(settle(&live, &mut same));
    assert_eq!(same, live);
}

#[test]
fn the_status_is_not_owned_by_the_main_resource() {
    let table = Table::builtin();
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},
        "spec":{"containers":[{"name":"c","resources":{}}]},"status":{"phase":"Running","podIP":"1.2.3.4"}}"#;
    let object = json::parse(text.as_bytes()).unwrap();
    let ty = Type::Message(message(&object));
    let Type::Message(id) = ty else { unreachable!() };
    let object = json::typed(table, id, object).unwrap().value;
    let mut new = object.clone();
    update(table, &ty, None, &mut new, writer("u", "2026-01-01T00:00:00Z"));
    let container = r#"{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:resources":{}}}}"#;
    assert_eq!(
        managers(&new),
        [format!(
            r#"u 2026-01-01T00:00:00Z {{"f:metadata":{{"f:labels":{{".":{{}},"f:a":{{}}}}}},"f:spec":{container}}}"#
        )]
    );
    let mut later = object;
    later.set(&["status", "phase"], "Failed");
    let status = Writer {
        subresource: "status",
        resets: &["spec", "metadata.labels"],
        ..writer("kubelet", "2026-01-01T00:00:00Z")
    };
    update(table, &ty, Some(&new), &mut later, status);
    assert_eq!(managers(&later)[0], r#"kubelet 2026-01-01T00:00:00Z {"f:status":{"f:phase":{}}}"#);
}

#[test]
fn long_lists_merge_and_prune() {
    let schema = crate::structural::Schema::new(
        &json::parse(br#"{"type":"object","properties":{"l":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"integer"}}}}"#)
            .unwrap(),
        "",
    )
    .unwrap();
    let ty = Type::Message(schema.root);
    let object = |from: i64| {
        Value::object([
            ("apiVersion", "x/v1".into()),
            ("kind", "K".into()),
            ("metadata", Value::object([("name", "n".into())])),
            ("l", Value::list(from..from + 4_000)),
        ])
    };
    let writer = |manager| Writer { api_version: "x/v1", resets: &[], ..writer(manager, "2026-01-01T00:00:00Z") };
    let live = apply(&schema.table, &ty, None, &object(0), writer("a"), false).unwrap().unwrap();
    let live = apply(&schema.table, &ty, Some(&live), &object(2_000), writer("b"), false).unwrap().unwrap();
    assert_eq!(live.list_at(&["l"]).len(), 6_000);
    let live = apply(&schema.table, &ty, Some(&live), &object(5_999), writer("a"), false).unwrap().unwrap();
    assert_eq!(live.list_at(&["l"]).len(), 7_999);
    assert_eq!(schema.validate(&live, None), []);
}
