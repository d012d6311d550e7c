//! Roles and bindings of the first start, read from the tables beside this file.

use schema::Value;

use crate::authz::{escalation, rules_of};
use crate::seams::Rule;
use crate::view::{self, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Of, ROLE_BINDINGS, ROLES};

use super::Action;

const TABLES: [&str; 2] = [include_str!("rbac.txt"), include_str!("sampan-rbac.txt")];
const GROUP: &str = "rbac.authorization.k8s.io";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What every node may do, apart from what the node authorizer divides: the rules of `system:node`.
pub fn node_rules() -> Vec<Rule> {
    let objects = objects();
    objects.iter().find(|(_, o)| view::name(o) == "system:node").map(|(_, o)| rules_of(o)).unwrap_or_default()
}

/// All roles and bindings, roles before the bindings that name them.
pub fn objects() -> Vec<(Of, Value)> {
    let mut objects: Vec<(Of, Value)> = Vec::new();
    for line in TABLES.iter().flat_map(|table| table.lines()).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => objects.extend(head(line)),
            Some(line) => {
                let Some((of, object)) = objects.last_mut() else { continue };
                if matches!(*of, CLUSTER_ROLES | ROLES) {
                    object.make_list(&["rules"]).push(rule(line));
                } else {
                    object.make_list(&["subjects"]).extend(subject(line));
                }
            }
        }
    }
    objects.sort_by_key(|(of, _)| matches!(*of, CLUSTER_ROLE_BINDINGS | ROLE_BINDINGS));
    objects
}

fn head(line: &str) -> Option<(Of, Value)> {
    let mut words = line.split(' ');
    let (of, kind) = match words.next()? {
        "clusterrole" => (CLUSTER_ROLES, "ClusterRole"),
        "role" => (ROLES, "Role"),
        "clusterrolebinding" => (CLUSTER_ROLE_BINDINGS, "ClusterRoleBinding"),
        "rolebinding" => (ROLE_BINDINGS, "RoleBinding"),
        _ => return None,
    };
    let mut object = Value::object([("apiVersion", format!("{GROUP}/v1").into()), ("kind", kind.into())]);
    let name = words.next()?;
    match name.split_once('/').filter(|_| of == ROLES || of == ROLE_BINDINGS) {
        Some((namespace, name)) => {
            object.set(&["metadata", "namespace"], namespace);
            object.set(&["metadata", "name"], name);
        }
        None => object.set(&["metadata", "name"], name),
    }
    object.set(&["metadata", "annotations", AUTOUPDATE], "true");
    object.set(&["metadata", "labels", "kubernetes.io/bootstrapping"], "rbac-defaults");
    for word in words {
        if let Some(into) = word.strip_prefix("into=") {
            object.set(&["metadata", "labels", &format!("{AGGREGATE}{into}")], "true");
        } else if let Some(from) = word.strip_prefix("from=") {
            let labels = Value::object([(format!("{AGGREGATE}{from}"), "true".into())]);
            let selector = Value::object([("matchLabels", labels)]);
            object.make_list(&["aggregationRule", "clusterRoleSelectors"]).push(selector);
        } else if let Some((kind, role)) = word.split_once(':') {
            let members = [("apiGroup", GROUP.into()), ("kind", kind.into()), ("name", role.into())];
            object.set(&["roleRef"], Value::object(members));
        }
    }
    Some((of, object))
}

fn rule(line: &str) -> Value {
    let list = |text: &str| Value::list(text.split(',').map(|word| if word == "core" { "" } else { word }));
    let parts: Vec<&str> = line.split(" | ").collect();
    let names: &[&str] = match parts.len() {
        2 => &["verbs", "nonResourceURLs"],
        _ => &["verbs", "apiGroups", "resources", "resourceNames"],
    };
    Value::object(names.iter().zip(parts).map(|(name, part)| (*name, list(part))))
}

fn subject(line: &str) -> Option<Value> {
    let (kind, name) = line.split_once(' ')?;
    Some(match name.split_once('/').filter(|_| kind == "ServiceAccount") {
        Some((namespace, name)) => {
            Value::object([("kind", kind.into()), ("name", name.into()), ("namespace", namespace.into())])
        }
        None => Value::object([("apiGroup", GROUP.into()), ("kind", kind.into()), ("name", name.into())]),
    })
}

/// What to do so that a stored role or binding grants what it should; more than that stays.
pub fn reconcile(of: Of, expected: &Value, stored: Option<&Value>) -> Vec<Action> {
    let Some(stored) = stored else { return vec![Action::Create(of, expected.clone())] };
    if view::annotation(stored, AUTOUPDATE) == Some("false") {
        return Vec::new();
    }
    if stored["roleRef"] != expected["roleRef"] {
        // A binding's role cannot change.
        let gone = Action::Delete(of, view::namespace(stored).into(), view::name(stored).into());
        return vec![gone, Action::Create(of, expected.clone())];
    }
    let mut wanted = stored.clone();
    for map in ["annotations", "labels"] {
        for (key, value) in expected.object_at(&["metadata", map]).into_iter().flatten() {
            wanted.make_object(&["metadata", map]).entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let missing = escalation::lacking(&rules_of(stored), &rules_of(expected));
    if !missing.is_empty() {
        wanted.make_list(&["rules"]).extend(missing.iter().map(|rule| rule.to_value()));
    }
    for path in [&["aggregationRule", "clusterRoleSelectors"][..], &["subjects"]] {
        let missing: Vec<Value> =
            expected.list_at(path).iter().filter(|item| !stored.list_at(path).contains(item)).cloned().collect();
        if !missing.is_empty() {
            wanted.make_list(path).extend(missing);
        }
    }
    if expected.get(&["aggregationRule"]).is_none() {
        wanted.remove(&["aggregationRule"]);
    }
    if wanted == *stored { Vec::new() } else { vec![Action::Update(of, wanted)] }
}
