//! Writes of roles and bindings: nobody grants what they do not have.

use std::sync::Arc;

use super::{AdmissionRequest, Judged, Plugin};
use crate::authz::{Authorizer, escalation};
use crate::seams::Decision;
use crate::{Attributes, Server};

pub struct RbacEscalation(pub Arc<Authorizer>);

impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        let concerns = request.group == "rbac.authorization.k8s.io" && (request.is_create() || request.is_update());
        let AdmissionRequest { user, resource, namespace, object, old, .. } = request;
        let may = |wanted: &Attributes| {
            matches!(server.config().authorize.authorize(server, user, wanted).now(), Decision::Allow(_))
        };
        let by = escalation::Granter { user, view: server, rbac: &self.0.rbac, may: &may };
        let check = || escalation::check(&by, resource, namespace, object, old.as_deref());
        Box::pin(std::future::ready(if concerns { check() } else { Ok(()) }))
    }
}
