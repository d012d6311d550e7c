use super::*;
use crate::json;

#[test]
fn reads_what_go_yaml_reads() {
    for (text, wanted) in [
        ("", "null"),
        ("a: 1\nb: yes\nc: off\nd: ~\ne:", r#"{"a":1,"b":true,"c":false,"d":null,"e":null}"#),
        ("a: 'yes'\nb: \"1\"\nc: !!str 7", r#"{"a":"yes","b":"1","c":"7"}"#),
        ("a: 0x10\nb: 0b11\nc: 0777\nd: 1_000\ne: 08", r#"{"a":16,"b":3,"c":511,"d":1000,"e":8}"#),
        ("a: 1.5\nb: 1e3\nc: .5\nd: 1.0\ne: -3", r#"{"a":1.5,"b":1000,"c":0.5,"d":1,"e":-3}"#),
        (
            "a: 2001-01-01\nb: 2020-01-01T00:00:00Z\nc: 1.2.3\nd: 10m",
            r#"{"a":"2001-01-01","b":"2020-01-01T00:00:00Z","c":"1.2.3","d":"10m"}"#,
        ),
        ("1: a\ntrue: b\n1.5: c", r#"{"1":"a","1.5":"c","true":"b"}"#),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y", r#"{"a":"x\ny\n","b":"x y"}"#),
        (
            "x: &x {a: 1, b: 2}\nw:\n  <<: *x\n  b: 3\nz: *x",
            r#"{"w":{"a":1,"b":3},"x":{"a":1,"b":2},"z":{"a":1,"b":2}}"#,
        ),
        ("- a\n-\n  - b\n- {c: [d]}", r#"["a",["b"],{"c":["d"]}]"#),
        ("{\"a\": [1, 2.5, \"x\\u00e9\"]}", r#"{"a":[1,2.5,"xé"]}"#),
        ("--- \na: 1\n---\nb: 2", r#"{"a":1}"#),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().value.to_string(), wanted, "{text}");
    }
}

#[test]
fn reports_duplicates_and_splits_documents() {
    let decoded = parse(b"a: 1\nb:\n- x: 1\n  x: 2\na: 3").unwrap();
    let problems: Vec<String> = decoded.problems.iter().map(ToString::to_string).collect();
    let wanted =
        "yaml: unmarshal errors:\n  line 4: key \"x\" already set in map\n  line 5: key \"a\" already set in map";
    assert_eq!(problems, [wanted]);
    assert_eq!(decoded.value.to_string(), r#"{"a":3,"b":[{"x":2}]}"#);
    let all = parse_all(b"# nothing\n---\na: 1\n---\n---\nb: 2\n...\n").unwrap();
    assert_eq!(Value::List(all).to_string(), r#"[{"a":1},{"b":2}]"#);
}

#[test]
fn refuses_bombs_and_nonsense() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    assert_eq!(parse(bomb.as_bytes()).unwrap_err().message, "document contains excessive aliasing");
    let deep = "[".repeat(5000);
    for bad in [deep.as_str(), "a: [", "a: b: c", "a: *nobody", "? [a]\n: b", "a: !!int x", "x: .inf"] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(parse(b"a: 1\nb: \xff").unwrap_err().line, 2);
}

#[test]
fn writes_what_go_yaml_writes() {
    for (value, wanted) in [
        (r#"{}"#, "{}\n"),
        (r#""x""#, "x\n"),
        (r#"{"b":[1,{"x":null,"y":[]}],"a":{"c":{}}}"#, "a:\n  c: {}\nb:\n- 1\n- x: null\n  \"y\": []\n"),
        (
            r##"{"a":"true","b":"1","c":"","d":"x: y","e":"- x","f":"it's","g":"#x","h":"1:20","i":"2001-01-01"}"##,
            "a: \"true\"\nb: \"1\"\nc: \"\"\nd: 'x: y'\ne: '- x'\nf: it's\ng: '#x'\nh: \"1:20\"\ni: \"2001-01-01\"\n",
        ),
        (
            r#"{"a":"x\ny\n","b":"x\ny","c":"x\n\n","d":"\tx"}"#,
            "a: |\n  x\n  y\nb: |-\n  x\n  y\nc: |+\n  x\n\nd: \"\\tx\"\n",
        ),
        (r#"[[1,[2]],[]]"#, "- - 1\n  - - 2\n- []\n"),
        (r#"{"a":[{"b":"x\ny\n"}]}"#, "a:\n- b: |\n    x\n    y\n"),
    ] {
        let mut out = Vec::new();
        write(&json::parse(value.as_bytes()).unwrap(), &mut out);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), wanted);
        assert_eq!(parse(&out).unwrap().value, json::parse(value.as_bytes()).unwrap(), "{wanted}");
    }
}
