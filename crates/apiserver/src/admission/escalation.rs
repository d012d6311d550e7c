//! Writes of roles and bindings: nobody grants what they do not have.

use std::sync::Arc;

use super::{
    AdmissionRequest,
    rule::{Cx, Rule},
};
use crate::{
    Status,
    authz::{Authorizer, escalation},
};

pub struct RbacEscalation(pub Arc<Authorizer>);

const GROUP: &str = "rbac.authorization.k8s.io";

impl Rule for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn of(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, "roles"), (GROUP, "clusterroles"), (GROUP, "rolebindings"), (GROUP, "clusterrolebindings")]
    }

    fn validate(&self, cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
        if !request.is_create() && !request.is_update() {
            return Ok(());
        }
        let AdmissionRequest { user, resource, namespace, object, old, .. } = request;
        escalation::check(&self.0, cx.view, user, resource, namespace, object, old.as_deref())
    }
}
