//! ClusterRoles with an aggregationRule have the rules of all roles that it selects.

use reconcile::{Action, Ctx, Key, Patch, Plan, Reference, Row, Trigger, World};
use schema::api::Object;
use schema::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value as Json, json};

use crate::support::{Matcher, living};

pub fn row() -> Row {
    let triggers = vec![Trigger::on::<ClusterRole>(|world, _, _| {
        let roles = world.of::<ClusterRole>().iter().filter(|(_, role)| role.aggregation_rule.is_some());
        roles.map(|(key, _)| key.clone()).collect()
    })];
    Row::new("clusterrole-aggregation", "clusterrole-aggregation-controller", 2, triggers, reconcile)
}

pub fn reconcile(world: &World, key: &Key, _: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(role) = living::<ClusterRole>(world, key) else { return plan };
    let Some(aggregation) = &role.aggregation_rule else { return plan };
    let mut rules: Vec<&PolicyRule> = Vec::new();
    for selector in &aggregation.cluster_role_selectors {
        let matcher = Matcher::new(Some(selector));
        // By name, so that the result is the same whatever came first.
        let others = world.of::<ClusterRole>().values().filter(|other| other.name() != role.name());
        for other in others.filter(|other| matcher.matches(&other.metadata.labels)) {
            for rule in &other.rules {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    if rules.iter().copied().ne(&role.rules) {
        let rules: Vec<Json> = rules.into_iter().map(rule_json).collect();
        plan.push(Action::Patch {
            of: Reference::named::<ClusterRole>(key.clone(), ""),
            subresource: None,
            patch: Patch::Apply {
                manager: "clusterrole-aggregation-controller",
                object: json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role.name()}, "rules": rules}),
            },
        });
    }
    plan
}

fn rule_json(rule: &PolicyRule) -> Json {
    let mut json = json!({"verbs": rule.verbs});
    for (name, list) in [
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ] {
        if !list.is_empty() {
            json[name] = json!(list);
        }
    }
    json
}
