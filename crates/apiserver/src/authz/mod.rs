//! May they: the implementations of [`crate::seams::Authorize`].
//!
//! [`Authorizer`] asks, in this order: is it an administrator of the group `system:masters`, does the node
//! authorizer allow it, does RBAC. All three answer from the cache.

pub mod escalation;
pub mod node;
pub mod rbac;
#[cfg(test)]
mod tests;

use schema::Value;

use crate::seams::{Answer, Authorize, Decision, Rule};
use crate::view::View;
use crate::{Attributes, Server, User};

pub const ADMINISTRATORS: &str = "system:masters";

/// `--authorization-mode=Node,RBAC`, with upstream's privileged group before them.
pub struct Authorizer {
    node: node::NodeAuthorizer,
    pub rbac: rbac::Rbac,
}

impl Default for Authorizer {
    fn default() -> Self {
        Self { node: node::NodeAuthorizer::new(crate::bootstrap::node_rules()), rbac: rbac::Rbac::default() }
    }
}

impl Authorizer {
    pub fn decide(&self, view: &dyn View, user: &User, attributes: &Attributes) -> Decision {
        if user.in_group(ADMINISTRATORS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        let authorizers: [(&str, &dyn Fn() -> Decision); 2] = [
            ("node", &|| self.node.decide(view, user, attributes)),
            ("rbac", &|| self.rbac.decide(view, user, attributes)),
        ];
        for (name, decide) in authorizers {
            match decide() {
                Decision::NoOpinion(why) if why.is_empty() => {}
                Decision::NoOpinion(why) => reasons.push(format!("{name}: {why}")),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

impl Authorize for Authorizer {
    fn authorize<'a>(&'a self, server: &'a Server, user: &'a User, attributes: &'a Attributes) -> Answer<'a> {
        Answer::Now(self.decide(server, user, attributes))
    }

    fn rules(&self, server: &Server, user: &User, namespace: &str) -> (Vec<Rule>, bool) {
        let mut rules = Vec::new();
        if user.in_group(ADMINISTRATORS) {
            let all = || vec!["*".to_owned()];
            rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
            rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
        }
        let (found, complete) = self.rbac.rules_for(server, user, namespace);
        rules.extend(found.iter().cloned());
        (rules, !complete || node::identity(user).is_some())
    }
}

/// Rules of a Role or ClusterRole, or of a review's status.
pub fn rules_of(object: &Value) -> Vec<Rule> {
    let texts = |rule: &Value, field| {
        rule.list_at(&[field]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let read = |rule: &Value| Rule {
        verbs: texts(rule, "verbs"),
        api_groups: texts(rule, "apiGroups"),
        resources: texts(rule, "resources"),
        resource_names: texts(rule, "resourceNames"),
        non_resource_urls: texts(rule, "nonResourceURLs"),
    };
    object.list_at(&["rules"]).iter().map(read).collect()
}

impl Rule {
    pub fn to_value(&self) -> Value {
        let members = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        let list = |list: &Vec<String>| Value::list(list.iter().map(String::as_str));
        Value::object(members.into_iter().filter(|(_, l)| !l.is_empty()).map(|(name, l)| (name, list(l))))
    }

    pub fn allows(&self, wanted: &Attributes) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if wanted.is_resource {
            has(&self.api_groups, &wanted.api_group)
                && self.resources.iter().any(|rule| resource_matches(rule, &wanted.resource, &wanted.subresource))
                && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
        } else {
            self.non_resource_urls.iter().any(|rule| url_matches(rule, &wanted.path))
        }
    }
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, part)) => !subresource.is_empty() && part == subresource && (of == "*" || of == resource),
    }
}

pub(crate) fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// The value that a field selector demands of `field`, if it demands one.
pub(crate) fn selected<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix(field)?.strip_prefix('=')?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })
}
