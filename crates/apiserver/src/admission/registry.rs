//! The plugins in the order in which they run.

use std::sync::Arc;

use super::{
    Plugin, certificates, chosen, claim_resize, default_class, default_toleration_seconds, escalation::RbacEscalation,
    in_use_protection, limit_ranger, namespace_lifecycle, node_restriction, pod_resize, pod_security,
    pod_topology_labels, policies, priority, resource_quota::ResourceQuota, runtime_class,
    service_account::ServiceAccount, taint_nodes, token_secret::TokenSecret,
};
use crate::{authz::Authorizer, webhooks};

/// Upstream's default plugins and NodeRestriction, without those that are disabled.
pub fn plugins(authorizer: Arc<Authorizer>, disabled: &[String]) -> Vec<Box<dyn Plugin>> {
    select(authorizer, &[], disabled)
}

/// Names that mean nothing here: for `--enable-admission-plugins` and `--disable-admission-plugins`.
pub fn unknown(authorizer: Arc<Authorizer>, names: &[String]) -> Vec<&str> {
    let known = all(authorizer);
    let is_known = |name: &&str| known.iter().any(|(_, plugin)| plugin.name() == *name) || LATER.contains(name);
    names.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
}

/// Plugins of upstream's whose place is elsewhere in this server.
const LATER: [&str; 1] = ["NodeDeclaredFeatureValidator"];

/// The default plugins and those that `enabled` names, without those that `disabled` names, in upstream's order.
pub fn select(authorizer: Arc<Authorizer>, enabled: &[String], disabled: &[String]) -> Vec<Box<dyn Plugin>> {
    let is_in = |names: &[String], plugin: &dyn Plugin| names.iter().any(|name| name == plugin.name());
    let is_wanted = |use_: Use, plugin: &dyn Plugin| match use_ {
        Use::Always => true,
        Use::Default => !is_in(disabled, plugin),
        Use::Chosen => is_in(enabled, plugin) && !is_in(disabled, plugin),
    };
    let all = all(authorizer).into_iter();
    all.filter(|(use_, plugin)| is_wanted(*use_, &**plugin)).map(|(_, plugin)| plugin).collect()
}

#[derive(Clone, Copy)]
enum Use {
    /// Not a plugin upstream, but what its storage does.
    Always,
    Default,
    Chosen,
}

fn all(authorizer: Arc<Authorizer>) -> Vec<(Use, Box<dyn Plugin>)> {
    use Use::{Always, Chosen, Default as On};
    vec![
        (On, Box::new(namespace_lifecycle::RULE)),
        (On, Box::new(limit_ranger::RULE)),
        (On, Box::new(ServiceAccount)),
        (On, Box::new(node_restriction::RULE)),
        (On, Box::new(taint_nodes::RULE)),
        (Chosen, Box::new(chosen::ALWAYS_PULL_IMAGES)),
        (On, Box::new(pod_security::RULE)),
        (On, Box::new(priority::RULE)),
        (On, Box::new(default_toleration_seconds::RULE)),
        (Chosen, Box::new(chosen::EXTENDED_RESOURCE_TOLERATION)),
        (On, Box::new(default_class::DEFAULT_STORAGE_CLASS)),
        (On, Box::new(in_use_protection::RULE)),
        (On, Box::new(claim_resize::RULE)),
        (On, Box::new(runtime_class::RULE)),
        (On, Box::new(certificates::CERTIFICATE_APPROVAL)),
        (On, Box::new(certificates::CERTIFICATE_SIGNING)),
        (On, Box::new(certificates::CLUSTER_TRUST_BUNDLE_ATTEST)),
        (On, Box::new(certificates::CERTIFICATE_SUBJECT_RESTRICTION)),
        (On, Box::new(default_class::DEFAULT_INGRESS_CLASS)),
        (Chosen, Box::new(chosen::DENY_SERVICE_EXTERNAL_IPS)),
        (On, Box::new(pod_topology_labels::RULE)),
        (On, Box::new(pod_resize::RULE)),
        (Always, Box::new(TokenSecret)),
        (On, Box::new(policies::Mutating::default())),
        (On, Box::new(webhooks::Mutating::default())),
        (On, Box::new(policies::Validating::default())),
        (On, Box::new(webhooks::Validating::default())),
        (Always, Box::new(RbacEscalation(authorizer))),
        (On, Box::new(ResourceQuota::default())),
    ]
}
