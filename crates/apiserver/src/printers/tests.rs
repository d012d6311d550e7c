use super::*;

#[test]
fn durations() {
    for (seconds, want) in [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (125, "2m5s"),
        (180, "3m"),
        (3600, "60m"),
        (4 * 3600 + 120, "4h2m"),
        (30 * 3600, "30h"),
        (3 * 86_400 + 7200, "3d2h"),
        (30 * 86_400, "30d"),
        (800 * 86_400, "2y70d"),
    ] {
        assert_eq!(duration(seconds), want);
    }
}

#[test]
fn paths_of_custom_columns() {
    let text = br#"{"spec":{"a.b":1,"list":[{"n":"x"},{"n":"y"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    let object = schema::json::parse(text).expect("an object");
    for (path, want) in [
        (".spec.list[1].n", "\"y\""),
        (".spec.list[-1].n", "\"y\""),
        (".spec.list[*].n", "\"x\""),
        (".spec['a.b']", "1"),
        (".spec.a\\.b", "1"),
        (".status.conditions[?(@.type==\"Ready\")].status", "\"True\""),
        (".status.conditions[?(@.type==\"Gone\")].status", "-"),
    ] {
        assert_eq!(lookup(&object, path).map_or("-".into(), |v| v.to_string()), want, "{path}");
    }
}
