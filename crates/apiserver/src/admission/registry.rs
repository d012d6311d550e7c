//! The plugins in the order in which they run.

use std::sync::Arc;

use super::{
    Plugin, certificates, claim_resize::PersistentVolumeClaimResize, default_class,
    default_toleration_seconds::DefaultTolerationSeconds, escalation::RbacEscalation,
    in_use_protection::StorageObjectInUseProtection, limit_ranger::LimitRanger,
    namespace_lifecycle::NamespaceLifecycle, node_restriction::NodeRestriction, pod_security::PodSecurity,
    pod_topology_labels::PodTopologyLabels, priority::Priority, resource_quota::ResourceQuota,
    runtime_class::RuntimeClass, service_account::ServiceAccount, taint_nodes::TaintNodesByCondition,
};
use crate::authz::Authorizer;

/// Upstream's default plugins and NodeRestriction, in upstream's order, without those that `disabled` names
/// (`--disable-admission-plugins`). Guards of RBAC, which upstream has in its storage, stand at the end.
pub fn plugins(authorizer: Arc<Authorizer>, disabled: &[String]) -> Vec<Box<dyn Plugin>> {
    let mut plugins: Vec<Box<dyn Plugin>> = vec![
        Box::new(NamespaceLifecycle),
        Box::new(LimitRanger),
        Box::new(ServiceAccount),
        Box::new(NodeRestriction),
        Box::new(TaintNodesByCondition),
        Box::new(PodSecurity),
        Box::new(Priority),
        Box::new(DefaultTolerationSeconds::default()),
        Box::new(default_class::DefaultStorageClass),
        Box::new(StorageObjectInUseProtection),
        Box::new(PersistentVolumeClaimResize),
        Box::new(RuntimeClass),
        Box::new(certificates::CertificateApproval),
        Box::new(certificates::CertificateSigning),
        Box::new(certificates::ClusterTrustBundleAttest),
        Box::new(certificates::CertificateSubjectRestriction),
        Box::new(default_class::DefaultIngressClass),
        Box::new(PodTopologyLabels),
        Box::new(ResourceQuota::default()),
    ];
    plugins.retain(|plugin| !disabled.iter().any(|name| name == plugin.name()));
    plugins.push(Box::new(RbacEscalation(authorizer)));
    plugins
}
