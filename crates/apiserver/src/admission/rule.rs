//! Plugins that answer at once from the caches, and what they may ask.

use crate::{
    Attributes, Server, Status, User,
    seams::{BoxFuture, Decision, Random},
    view::View,
};

use super::{AdmissionRequest, Operation, Plugin};

/// What a rule may ask of the server.
pub struct Cx<'a> {
    pub view: &'a dyn View,
    pub may: &'a dyn Fn(&User, &Attributes) -> bool,
    pub random: &'a dyn Random,
}

/// A plugin without waiting. Errors are made by [`AdmissionRequest::forbidden`].
pub trait Rule: Send + Sync {
    fn name(&self) -> &'static str;

    /// Resources of which it wants to see requests, as `group` and plural; empty for all.
    fn of(&self) -> &'static [(&'static str, &'static str)];

    fn mutate(&self, _cx: &Cx<'_>, _request: &mut AdmissionRequest) -> Result<(), Status> {
        Ok(())
    }

    fn validate(&self, _cx: &Cx<'_>, _request: &mut AdmissionRequest) -> Result<(), Status> {
        Ok(())
    }
}

pub const PODS: &[(&str, &str)] = &[("", "pods")];

type Step<T> = fn(&T, &Cx<'_>, &mut AdmissionRequest) -> Result<(), Status>;

/// Runs one step of a rule if it concerns the request's resource.
pub fn apply<T: Rule>(rule: &T, server: &Server, request: &mut AdmissionRequest, step: Step<T>) -> Result<(), Status> {
    let of = rule.of();
    if !of.is_empty() && !of.iter().any(|(group, resource)| request.is(group, resource)) {
        return Ok(());
    }
    let authorize = &server.config().authorize;
    let may =
        |user: &User, wanted: &Attributes| matches!(authorize.authorize(server, user, wanted), Decision::Allow(_));
    step(rule, &Cx { view: server, may: &may, random: &*server.config().random }, request)
}

impl<T: Rule> Plugin for T {
    fn name(&self) -> &'static str {
        Rule::name(self)
    }

    fn mutate<'a>(
        &'a self,
        server: &'a Server,
        request: &'a mut AdmissionRequest,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(apply(self, server, request, T::mutate)))
    }

    fn validate<'a>(
        &'a self,
        server: &'a Server,
        request: &'a mut AdmissionRequest,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(apply(self, server, request, T::validate)))
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
