use super::*;

fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = match parse(Path::new("a.yaml"), text.as_bytes()) {
        Ok(objects) => objects
            .iter()
            .map(|(target, _)| format!("{} {} {}/{}", target.api_version, target.kind, target.namespace, target.name))
            .collect(),
        Err(error) => vec![error.to_string()],
    };
    assert_eq!(found, expected, "{text}");
}

#[test]
fn files_are_read_as_users_write_them() {
    check("", &[]);
    check("---\n---\n# nothing\n", &[]);
    check("apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\n", &["v1 Secret b/a"]);
    check(r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}"#, &["apps/v1 Deployment /a"]);
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
    check(list, &["v1 Namespace /b", "v1 Pod /a"]);
    check("apiVersion: v1\nkind: Pod\n", &["a.yaml: document 1 has no metadata.name"]);
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: 'a?b'}\n", &["a.yaml: document 1 has no metadata.name"]);
    check("a: [\n", &["a.yaml: yaml: line 2: while parsing a node, did not find expected node content"]);
}

#[test]
fn paths_are_those_of_the_api() {
    let target = |api_version: &str, namespace: &str| Target {
        api_version: api_version.into(),
        kind: String::new(),
        namespace: namespace.into(),
        name: "a".into(),
    };
    assert_eq!(path(&target("v1", "n"), "pods"), "/api/v1/namespaces/n/pods/a");
    assert_eq!(
        path(&target("rbac.authorization.k8s.io/v1", ""), "clusterroles"),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/a"
    );
}
