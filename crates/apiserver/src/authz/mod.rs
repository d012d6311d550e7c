//! May they: the implementations of [`crate::seams::Authorize`].
//!
//! [`Authorizer`] asks, one after another until one decides: is it an administrator of the group `system:masters`, and
//! then those of its configuration; node authorizer and RBAC, which answer from the cache, if it has none.

pub mod config;
pub mod escalation;
pub mod node;
pub mod rbac;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::sync::{Arc, PoisonError, RwLock};

use schema::Value;
use schema::selector::FieldSelector;

use crate::seams::{Answer, Authorize, Decision, Rule, Rules};
use crate::view::View;
use crate::{Attributes, Server, User};

use config::{Kind, Link};

pub const ADMINISTRATORS: &str = "system:masters";

pub struct Authorizer {
    node: node::NodeAuthorizer,
    pub rbac: rbac::Rbac,
    chain: RwLock<Arc<[Link]>>,
}

impl Default for Authorizer {
    fn default() -> Self {
        Self::new(config::default())
    }
}

/// What those said who did not decide.
#[derive(Default)]
struct Undecided {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Undecided {
    fn add(&mut self, name: &str, decision: Decision) -> Option<Decision> {
        let reason = match decision {
            Decision::NoOpinion(reason) => reason,
            Decision::Failed { denied: false, reason, error } => {
                self.errors.push(error);
                reason
            }
            decided => return Some(decided),
        };
        if !reason.is_empty() {
            self.reasons.push(format!("{name}: {reason}"));
        }
        None
    }

    fn decision(mut self) -> Decision {
        let reason = self.reasons.join("\n");
        self.errors.dedup();
        match self.errors.as_slice() {
            [] => Decision::NoOpinion(reason),
            [one] => Decision::Failed { denied: false, reason, error: one.clone() },
            many => Decision::Failed { denied: false, reason, error: format!("[{}]", many.join(", ")) },
        }
    }
}

impl Authorizer {
    pub fn new(chain: Vec<Link>) -> Self {
        Self {
            node: node::NodeAuthorizer::new(crate::bootstrap::node_rules()),
            rbac: rbac::Rbac::default(),
            chain: RwLock::new(chain.into()),
        }
    }

    /// Asks others from now on.
    pub fn replace(&self, chain: Vec<Link>) {
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = chain.into();
    }

    pub fn chain(&self) -> Arc<[Link]> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The decision, unless a webhook must be asked for it.
    pub fn at_once(&self, view: &dyn View, user: &User, attributes: &Attributes) -> Option<Decision> {
        if user.in_group(ADMINISTRATORS) {
            return Some(Decision::Allow(String::new()));
        }
        let mut undecided = Undecided::default();
        for link in self.chain().iter() {
            if matches!(link.kind, Kind::Webhook(_)) {
                return None;
            }
            if let Some(decision) = self.ask(link, view, user, attributes, &mut undecided) {
                return Some(decision);
            }
        }
        Some(undecided.decision())
    }

    /// Asks one who answers at once.
    fn ask(
        &self,
        link: &Link,
        view: &dyn View,
        user: &User,
        attributes: &Attributes,
        undecided: &mut Undecided,
    ) -> Option<Decision> {
        let decision = match &link.kind {
            Kind::Node => self.node.decide(view, user, attributes),
            Kind::Rbac => self.rbac.decide(view, user, attributes),
            Kind::AlwaysAllow => Decision::Allow(String::new()),
            Kind::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".into()),
            Kind::Webhook(_) => return None,
        };
        undecided.add(&link.name, decision)
    }

    async fn ask_all(&self, server: &Server, user: &User, attributes: &Attributes) -> Decision {
        let mut undecided = Undecided::default();
        for link in self.chain().iter() {
            let decided = match &link.kind {
                Kind::Webhook(webhook) => undecided.add(&link.name, webhook.decide(server, user, attributes).await),
                _ => self.ask(link, server, user, attributes, &mut undecided),
            };
            if let Some(decision) = decided {
                return decision;
            }
        }
        undecided.decision()
    }
}

impl Authorize for Authorizer {
    fn authorize<'a>(&'a self, server: &'a Server, user: &'a User, attributes: &'a Attributes) -> Answer<'a> {
        match self.at_once(server, user, attributes) {
            Some(decision) => Answer::Now(decision),
            // Those before the webhook are asked again: it costs nothing beside it.
            None => Answer::Later(Box::pin(self.ask_all(server, user, attributes))),
        }
    }

    fn rules(&self, server: &Server, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for link in self.chain().iter() {
            let who = match &link.kind {
                Kind::Rbac => {
                    let (rules, missing) = self.rbac.rules_for(server, user, namespace);
                    all.rules.extend(rules);
                    all.errors.extend(missing);
                    continue;
                }
                Kind::AlwaysAllow => {
                    all.rules.extend(escalation::everything());
                    continue;
                }
                Kind::Node if node::identity(user).is_some() => "node",
                Kind::Webhook(_) => "webhook",
                Kind::Node | Kind::AlwaysDeny => continue,
            };
            all.incomplete = true;
            all.errors.push(format!("{who} authorizer does not support user rule resolution"));
        }
        all
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

/// Whether a field selector demands that value of that field.
pub(crate) fn demands(selector: &str, field: &str, value: &str) -> bool {
    FieldSelector::parse(selector).is_ok_and(|selector| selector.exact(field) == Some(value))
}
