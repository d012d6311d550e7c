//! What upstream's server makes of objects as users write them: their defaults, and its problems with them.
//!
//! `golden/want.txt.gz` was written by `xtask/server-gen` from `golden/given.txt`. `UPSTREAM_WANT` names another file of
//! that form to compare instead; `SHOW_MISSED` lists the problems that only upstream finds.

use std::io::Read;

use schema::validate::{self, RuleBook};
use schema::{MessageId, Table, Type, Value, defaults, json};

struct Row {
    given: String,
    defaulted: String,
    problems: Vec<String>,
}

fn rows() -> Vec<Row> {
    let zip = match std::env::var_os("UPSTREAM_WANT") {
        Some(path) => std::fs::read(path).expect("UPSTREAM_WANT"),
        None => include_bytes!("../golden/want.txt.gz").to_vec(),
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zip[..]).read_to_string(&mut text).expect("a zipped text");
    let row = |line: &str| {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut next = || columns.next().expect("four columns");
        let (given, defaulted, problems) = (next(), next(), json::parse(next().as_bytes()).expect("a list"));
        let problems = problems.as_list().unwrap().iter().filter_map(Value::as_str).map(sorted).collect();
        Row { given, defaulted, problems }
    };
    text.lines().map(row).collect()
}

/// Upstream lists supported values in an order of its own; ours are sorted.
fn sorted(problem: &str) -> String {
    let Some((before, values)) = problem.split_once("supported values: ") else { return problem.to_owned() };
    let mut values: Vec<_> = values.split(", ").collect();
    values.sort_unstable();
    format!("{before}supported values: {}", values.join(", "))
}

/// The object with our defaults.
fn defaulted(given: &str) -> (MessageId, Value) {
    let table = Table::builtin();
    let parsed = json::parse(given.as_bytes()).expect(given);
    let api_version = parsed.str_at(&["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let id = table.kind(group, version, parsed.str_at(&["kind"])).expect(given);
    let mut value = json::decode(table, id, given.as_bytes()).expect(given).value;
    defaults::apply(table, id, &mut value);
    (id, value)
}

#[test]
fn objects_get_upstreams_defaults() {
    let mut wrong = Vec::new();
    for row in rows() {
        let (id, value) = defaulted(&row.given);
        let mut out = Vec::new();
        json::encode(Table::builtin(), &Type::Message(id), &value, &mut out);
        let ours = String::from_utf8(out).unwrap();
        if ours != row.defaulted {
            wrong.push(format!("given {}\nours  {ours}\nwant  {}", row.given, row.defaulted));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The rules are a part of validation; what they say, upstream says too.
#[test]
fn rules_find_only_what_upstream_finds() {
    let (mut wrong, mut missed, mut found) = (Vec::new(), Vec::new(), 0);
    for row in rows() {
        let (id, value) = defaulted(&row.given);
        let ours: Vec<String> = validate::object(Table::builtin(), RuleBook::builtin(), id, &value, None)
            .iter()
            .map(|e| sorted(&e.to_string()))
            .collect();
        // Upstream may say it of the struct around the field, or in other words; it may not be silent.
        let near = |ours: &str, theirs: &str| {
            // Upstream reports a node's taints below `metadata`.
            let theirs = theirs.replace("metadata.taints", "spec.taints");
            let (a, b) = (ours.split(": ").next().unwrap_or(""), theirs.split(": ").next().unwrap_or(""));
            a.starts_with(b) || b.starts_with(a)
        };
        let again: Vec<String> = validate::object(Table::builtin(), RuleBook::builtin(), id, &value, Some(&value))
            .iter()
            .map(|e| sorted(&e.to_string()))
            .collect();
        // An update that changes nothing finds no more than a creation.
        assert!(again.iter().all(|a| ours.iter().any(|o| near(a, o))), "{again:#?}\n{ours:#?}\n{}", row.given);
        let twice = |i: usize, o: &String| ours[..i].contains(o) && row.problems.iter().filter(|p| *p == o).count() < 2;
        for (_, again) in ours.iter().enumerate().filter(|(i, o)| twice(*i, o)) {
            wrong.push(format!("given {}\ntwice {again}", row.given));
        }
        let extra: Vec<_> = ours.iter().filter(|o| !row.problems.iter().any(|p| near(o, p))).collect();
        if !extra.is_empty() {
            wrong.push(format!("given {}\nours  {extra:#?}\nwant  {:#?}", row.given, row.problems));
        }
        found += row.problems.iter().filter(|p| ours.contains(p)).count();
        missed.extend(row.problems.into_iter().filter(|p| !ours.contains(p) && !p.starts_with("metadata.")));
    }
    if std::env::var_os("SHOW_MISSED").is_some() {
        println!("{}\n{found} found, {} missed", missed.join("\n"), missed.len());
    }
    // Those are the API server's own: selectors that must match templates, allocated addresses, time zones.
    assert!(missed.len() <= 21 || std::env::var_os("UPSTREAM_WANT").is_some(), "{}", missed.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
