use serde_json::json;

use super::*;

#[test]
fn the_first_version_counts_and_stale_ones_are_named() {
    let resource = |plural: &str, kind: &str, scope: &str| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": scope, "verbs": ["list"]});
    let document = json!({"items": [
        {"metadata": {"name": "a.io"}, "versions": [
            {"version": "v1", "resources": [resource("as", "A", "Namespaced")], "freshness": "Current"},
            {"version": "v1beta1", "resources": [resource("as", "A", "Namespaced"), resource("bs", "B", "Cluster")]}]},
        {"metadata": {"name": "gone.io"}, "versions": [{"version": "v1", "freshness": "Stale"}]},
        {"metadata": {}, "versions": [{"version": "v1", "freshness": "Stale"}]},
    ]});
    let mut all = Discovered::default();
    parse(&document, &mut all);
    let found: Vec<_> = all
        .resources
        .iter()
        .map(|r| (&*r.version, &*r.plural, r.namespaced, r.can("list"), r.path("n", None)))
        .collect();
    assert_eq!(
        found,
        [
            ("v1", "as", true, true, "/apis/a.io/v1/namespaces/n/as".to_owned()),
            ("v1beta1", "bs", false, true, "/apis/a.io/v1beta1/bs".to_owned()),
        ]
    );
    assert_eq!(all.failed, ["gone.io/v1", "v1"]);
}
