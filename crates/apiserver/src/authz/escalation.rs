//! Nobody grants what they do not have: the checks on writes of roles and bindings.

use std::collections::{BTreeMap, BTreeSet};

use schema::Value;

use super::{ADMINISTRATORS, rbac::Rbac, rules_of};
use crate::request::GroupResource;
use crate::seams::Rule;
use crate::view::{self, View};
use crate::{Attributes, Status, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who grants, and how what they may is found out.
pub struct Granter<'a> {
    pub user: &'a User,
    pub view: &'a dyn View,
    pub rbac: &'a Rbac,
    pub may: &'a dyn Fn(&Attributes) -> bool,
}

/// Checks a role or binding that is about to be written; `resource` is one of the four RBAC kinds.
pub fn check(
    by: &Granter<'_>,
    resource: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let Granter { user, view, rbac, may } = *by;
    if user.in_group(ADMINISTRATORS) || old.is_some_and(|old| is_same_for_garbage_collection(old, object)) {
        return Ok(());
    }
    let allowed = |verb: &str, resource: &str, name: &str| {
        let attributes = Attributes {
            verb: verb.into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        };
        may(&attributes)
    };
    let forbidden = |why: &str| Status::forbidden(&GroupResource::new(GROUP, resource), view::name(object), why);
    let confirm =
        |rules: &[Rule]| missing(rbac, view, user, namespace, rules).map_or(Ok(()), |why| Err(forbidden(&why)));
    if matches!(resource, "roles" | "clusterroles") {
        // The name of an update's object is the name of the request; a creation's request has none.
        let name = if old.is_some() { view::name(object) } else { "" };
        if allowed("escalate", resource, name) {
            return Ok(());
        }
        confirm(&rules_of(object))?;
        let aggregates = |role: &Value| !role.list_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty();
        if aggregates(object) || old.is_some_and(aggregates) {
            confirm(&everything())
                .map_err(|_| forbidden("must have cluster-admin privileges to use the aggregationRule"))?;
        }
        return Ok(());
    }
    let kind = object.str_at(&["roleRef", "kind"]);
    let name = object.str_at(&["roleRef", "name"]);
    let roles = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return Ok(()), // validation refuses it
    };
    if allowed("bind", roles, name) {
        return Ok(());
    }
    let rules = rbac
        .role(view, namespace, kind == "ClusterRole", name)
        // Upstream names the resource of the request, and the role.
        .ok_or_else(|| Status::not_found(&GroupResource::new(GROUP, resource), name))?;
    confirm(&rules)
}

pub(super) fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

/// The garbage collector may take owners and finalizers off an object whatever its rules are.
fn is_same_for_garbage_collection(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            value.remove(&["metadata", field]);
        }
        value
    };
    strip(old) == strip(new)
}

/// Upstream's message about what of `wanted` the user lacks.
fn missing(rbac: &Rbac, view: &dyn View, user: &User, namespace: &str, wanted: &[Rule]) -> Option<String> {
    let (held, _) = rbac.rules_for(view, user, namespace);
    let lacking = lacking(&held, wanted);
    if lacking.is_empty() {
        return None;
    }
    let lines: BTreeSet<String> = compact(lacking).iter().map(describe).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    Some(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        lines.join("\n")
    ))
}

/// What `wanted` allows and `held` does not, in rules of one verb each.
pub fn lacking(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(break_down).filter(|one| !held.iter().any(|owner| covers(owner, one))).collect()
}

/// Rules of one verb, one group, one resource and at most one name each.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut out = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let simple =
                    Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.resource_names.is_empty() {
                    out.push(simple);
                } else {
                    out.extend(rule.resource_names.iter().map(|n| Rule { resource_names: one(n), ..simple.clone() }));
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        out.extend(rule.verbs.iter().map(|v| Rule { verbs: one(v), non_resource_urls: one(url), ..Rule::default() }));
    }
    out
}

fn covers(owner: &Rule, one: &Rule) -> bool {
    let all = |set: &[String], of: &[String]| set.iter().any(|s| s == "*") || of.iter().all(|item| set.contains(item));
    let resource = |path: &String| {
        owner.resources.contains(path)
            || path.split_once('/').is_some_and(|(_, sub)| owner.resources.contains(&format!("*/{sub}")))
    };
    all(&owner.verbs, &one.verbs)
        && all(&owner.api_groups, &one.api_groups)
        && (owner.resources.iter().any(|r| r == "*") || one.resources.iter().all(resource))
        && one.non_resource_urls.iter().all(|url| owner.non_resource_urls.iter().any(|o| super::url_matches(o, url)))
        && (owner.resource_names.is_empty()
            || !one.resource_names.is_empty() && all(&owner.resource_names, &one.resource_names))
}

/// Joins the verbs of rules that are alike otherwise.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: BTreeMap<[Vec<String>; 4], Vec<String>> = BTreeMap::new();
    for rule in rules {
        let key = [rule.api_groups, rule.resources, rule.resource_names, rule.non_resource_urls];
        let verbs = out.entry(key).or_default();
        verbs.extend(rule.verbs.into_iter().filter(|v| !verbs.contains(v)).collect::<Vec<_>>());
    }
    out.into_iter()
        .map(|([api_groups, resources, resource_names, non_resource_urls], verbs)| Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            non_resource_urls,
        })
        .collect()
}

fn describe(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let quoted = |list: &[String]| list.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:[{}]", quoted(list)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}
