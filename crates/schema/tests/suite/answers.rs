//! What upstream's own code answered to small questions: quantities, decoding errors, patches, selectors, names.
//!
//! A line: the question's kind, its arguments, then the answer and the error as JSON strings.

use schema::patch::{self, PatchError};
use schema::selector::{FieldSelector, LabelSelector, Operator};
use schema::validate::names;
use schema::{FieldProblem, MessageId, Table, Type, Value, json, quantity::Quantity};

fn message(kind: &str) -> MessageId {
    let (version, kind) = kind.split_once(' ').expect("apiVersion and kind");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Table::builtin().kind(group, version, kind).expect("a kind")
}

fn problems(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn text(value: &Value) -> String {
    value.to_string()
}

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).expect("JSON")
}

fn patched(result: Result<Value, PatchError>) -> (String, String) {
    match result {
        Ok(value) => (text(&value), String::new()),
        Err(error) => (String::new(), error.to_string()),
    }
}

fn answer(kind: &str, arguments: &[&str]) -> (String, String) {
    let table = Table::builtin();
    match (kind, arguments) {
        // As the Go field decodes it: through a container's limits.
        ("quantity", [question]) => {
            let id = message("v1 Pod");
            let pod = format!(r#"{{"spec":{{"overhead":{{"x":{question}}}}}}}"#);
            match json::decode(table, id, pod.as_bytes()) {
                Err(error) => (String::new(), error.to_string()),
                Ok(decoded) => {
                    let shown = &decoded.value["spec"]["overhead"]["x"];
                    let quantity = Quantity::parse(shown.as_str().unwrap_or("0")).expect("canonical");
                    // Upstream's numbers overflow where they are large.
                    let small = quantity.nanos.abs() < 9_000_000_000_000_000 * 1_000_000_000;
                    let numbers = format!(" {} {}", quantity.value(), quantity.milli_value());
                    (format!("{shown}{}", if small { numbers } else { String::new() }), String::new())
                }
            }
        }
        ("decode", [kind, question]) => {
            let id = message(kind);
            match json::decode(table, id, question.as_bytes()) {
                Err(error) => (String::new(), error.to_string()),
                Ok(decoded) => {
                    let mut out = Vec::new();
                    json::encode(table, &Type::Message(id), &decoded.value, &mut out);
                    (String::from_utf8(out).expect("UTF-8"), problems(&decoded.problems))
                }
            }
        }
        ("untyped", [question]) => match json::parse_strict(question.as_bytes()) {
            Err(error) => (String::new(), error.to_string()),
            Ok(decoded) => (text(&decoded.value), problems(&decoded.problems)),
        },
        ("strategic", [kind, original, change]) => {
            patched(patch::strategic(table, &Type::Message(message(kind)), parse(original), parse(change)))
        }
        ("jsonpatch", [original, change]) => patched(patch::json_patch(parse(original), &parse(change))),
        ("merge", [original, change]) => patched(patch::merge_patch(parse(original), &parse(change))),
        ("labels", [question]) => match LabelSelector::parse(question) {
            Ok(selector) => (selector.to_string(), String::new()),
            Err(error) => (String::new(), error.to_string()),
        },
        ("labelselector", [question]) => match LabelSelector::from_value(&parse(question)) {
            Ok(selector) => (selector.to_string(), String::new()),
            Err(error) => (String::new(), error.to_string()),
        },
        ("fields", [question]) => match FieldSelector::parse(question) {
            Ok(selector) => {
                let escape = |v: &str| v.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
                let term = |t: &schema::selector::FieldTerm| {
                    format!("{}{}{}", t.path, if t.negated { "!=" } else { "=" }, escape(&t.value))
                };
                (selector.terms.iter().map(term).collect::<Vec<_>>().join(","), String::new())
            }
            Err(error) => (String::new(), error.to_string()),
        },
        ("name", [rule, name]) => {
            let check = match *rule {
                "label" => names::dns1123_label,
                "subdomain" => names::dns1123_subdomain,
                "1035" => names::dns1035_label,
                "key" => names::label_key,
                "value" => names::label_value,
                "port" => names::port_name,
                "config" => names::config_map_key,
                "wildcard" => names::wildcard_dns1123_subdomain,
                "percent" => names::percent,
                _ => names::env_name,
            };
            (check(name).join(" | "), String::new())
        }
        _ => panic!("no question is called {kind}"),
    }
}

#[test]
fn are_upstreams() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("../golden/answers.txt").lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (question, theirs) = columns.split_at(columns.len() - 2);
        let theirs = (parse(theirs[0]), parse(theirs[1]));
        let theirs =
            (theirs.0.as_str().unwrap_or_default().to_owned(), theirs.1.as_str().unwrap_or_default().to_owned());
        let ours = answer(question[0], &question[1..]);
        count += 1;
        if ours != theirs {
            wrong.push(format!(
                "{}\n    ours   {}  !{}\n    theirs {}  !{}",
                question.join("  "),
                ours.0,
                ours.1,
                theirs.0,
                theirs.1
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn selectors_select() {
    let labels = parse(r#"{"a":"1","b":"x","n":"7"}"#);
    for (selector, wanted) in [
        ("", true),
        ("a=1", true),
        ("a!=1", false),
        ("z!=1", true),
        ("a in (1,2),b", true),
        ("a notin (1,2)", false),
        ("z notin (1)", true),
        ("!a", false),
        ("!z", true),
        ("n>6,n<8", true),
        ("n>7", false),
        ("b>1", false),
    ] {
        assert_eq!(LabelSelector::parse(selector).expect(selector).matches_value(&labels), wanted, "{selector}");
    }
    assert!(!LabelSelector::from_value(&Value::Null).expect("nil").matches_value(&labels));
    let exists = LabelSelector::parse("a").expect("parses");
    assert_eq!(exists.requirements[0].operator, Operator::Exists);
    let fields = FieldSelector::parse("status.phase!=Running,metadata.name=x").expect("parses");
    let read = |phase: &'static str| move |path: &str| if path == "metadata.name" { "x".into() } else { phase.into() };
    assert!(fields.matches(read("Failed")) && !fields.matches(read("Running")));
    assert_eq!(fields.exact("metadata.name"), Some("x"));
}

#[test]
fn patches_have_a_limit() {
    let patch = Value::list((0..10_001).map(|_| parse(r#"{"op":"add","path":"/a","value":1}"#)));
    let error = patch::json_patch(parse("{}"), &patch).expect_err("too many");
    assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
}

#[test]
fn patches_build_nothing_deep_or_large() {
    let copies = |from: &str, to: &str, times: usize| {
        let copy = format!(r#"{{"op":"copy","from":"{from}","path":"{to}"}}"#);
        parse(&format!("[{}]", vec![copy; times].join(",")))
    };
    let deep = patch::json_patch(parse(r#"{"a":{}}"#), &copies("/a", "/a/b", 200)).expect_err("too deep");
    assert_eq!(deep.to_string(), "error while adding value during copy: exceeded max depth");
    let original = format!(r#"{{"a":{{"x":"{}"}}}}"#, "x".repeat(1024 * 1024));
    let large = patch::json_patch(parse(&original), &copies("/a", "/c", 40)).expect_err("too large");
    assert!(large.to_string().starts_with("Unable to complete the copy, the accumulated size increase"), "{large}");
}
