//! Plugins that answer at once from the caches, and what they may ask.

use crate::seams::Decision;
use crate::view::View;
use crate::{Attributes, Server, Status, User};

use super::{AdmissionRequest, Judged, Operation, Plugin};

/// What a rule may ask of the server.
pub struct Cx<'a> {
    pub view: &'a dyn View,
    pub may: &'a dyn Fn(&User, &Attributes) -> bool,
}

/// A plugin without waiting, as a row. Errors are made by [`AdmissionRequest::forbidden`].
pub struct Rule {
    pub name: &'static str,
    /// Resources of which it wants to see requests, as `group` and plural; empty for all.
    pub of: &'static [(&'static str, &'static str)],
    pub mutate: Step,
    pub validate: Step,
}

pub type Step = fn(&Cx<'_>, &mut AdmissionRequest) -> Result<(), Status>;

/// What a rule does where it does nothing: `..NOTHING`.
pub const NOTHING: Rule = Rule { name: "", of: &[], mutate: |_, _| Ok(()), validate: |_, _| Ok(()) };

pub const PODS: &[(&str, &str)] = &[("", "pods")];

impl Rule {
    /// Runs one step if the rule concerns the request's resource.
    fn apply(&self, server: &Server, request: &mut AdmissionRequest, step: Step) -> Result<(), Status> {
        if !self.of.is_empty() && !self.of.iter().any(|(group, resource)| request.is(group, resource)) {
            return Ok(());
        }
        let authorize = &server.config().authorize;
        let may = |user: &User, wanted: &Attributes| {
            matches!(authorize.authorize(server, user, wanted).now(), Decision::Allow(_))
        };
        step(&Cx { view: server, may: &may }, request)
    }
}

impl Plugin for Rule {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(std::future::ready(self.apply(server, request, self.mutate)))
    }

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        Box::pin(std::future::ready(self.apply(server, request, self.validate)))
    }
}

impl AdmissionRequest {
    /// A creation of the object itself, not of a part of it.
    pub(super) fn is_create(&self) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty()
    }

    pub(super) fn is_update(&self) -> bool {
        self.operation == Operation::Update && self.subresource.is_empty()
    }

    pub(super) fn refuse(&self, why: impl AsRef<str>) -> Result<(), Status> {
        Err(self.forbidden(why.as_ref()))
    }
}
