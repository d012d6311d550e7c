//! The plugins in the order in which they run.

use std::sync::Arc;

use super::{
    Plugin, certificates, chosen, claim_resize::PersistentVolumeClaimResize, default_class,
    default_toleration_seconds::DefaultTolerationSeconds, escalation::RbacEscalation,
    in_use_protection::StorageObjectInUseProtection, limit_ranger::LimitRanger,
    namespace_lifecycle::NamespaceLifecycle, node_restriction::NodeRestriction, pod_resize::PodResizeValidator,
    pod_security::PodSecurity, pod_topology_labels::PodTopologyLabels, priority::Priority,
    resource_quota::ResourceQuota, runtime_class::RuntimeClass, service_account::ServiceAccount,
    taint_nodes::TaintNodesByCondition, token_secret::TokenSecret,
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
const LATER: [&str; 3] = ["MutatingAdmissionPolicy", "NodeDeclaredFeatureValidator", "ValidatingAdmissionPolicy"];

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
        (On, Box::new(NamespaceLifecycle)),
        (On, Box::new(LimitRanger)),
        (On, Box::new(ServiceAccount)),
        (On, Box::new(NodeRestriction)),
        (On, Box::new(TaintNodesByCondition)),
        (Chosen, Box::new(chosen::AlwaysPullImages)),
        (On, Box::new(PodSecurity)),
        (On, Box::new(Priority)),
        (On, Box::new(DefaultTolerationSeconds::default())),
        (Chosen, Box::new(chosen::ExtendedResourceToleration)),
        (On, Box::new(default_class::DefaultStorageClass)),
        (On, Box::new(StorageObjectInUseProtection)),
        (On, Box::new(PersistentVolumeClaimResize)),
        (On, Box::new(RuntimeClass)),
        (On, Box::new(certificates::CertificateApproval)),
        (On, Box::new(certificates::CertificateSigning)),
        (On, Box::new(certificates::ClusterTrustBundleAttest)),
        (On, Box::new(certificates::CertificateSubjectRestriction)),
        (On, Box::new(default_class::DefaultIngressClass)),
        (Chosen, Box::new(chosen::DenyServiceExternalIps)),
        (On, Box::new(PodTopologyLabels)),
        (On, Box::new(PodResizeValidator)),
        (Always, Box::new(TokenSecret)),
        (On, Box::new(webhooks::Mutating)),
        (On, Box::new(webhooks::Validating)),
        (Always, Box::new(RbacEscalation(authorizer))),
        (On, Box::new(ResourceQuota::default())),
    ]
}
