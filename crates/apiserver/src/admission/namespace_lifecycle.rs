//! NamespaceLifecycle: nothing is created in a namespace that is missing or on its way out, and the system's own stay.

use super::rule::{Cx, NOTHING, Rule};
use super::{AdmissionRequest, Operation};
use crate::{Status, request::GroupResource, view::NAMESPACES};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub const RULE: Rule = Rule { name: "NamespaceLifecycle", of: &[], mutate, ..NOTHING };

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if request.is("", "namespaces") {
        let dies = request.operation == Operation::Delete && IMMORTAL.contains(&request.name.as_str());
        return if dies { request.refuse("this namespace may not be deleted") } else { Ok(()) };
    }
    let concerns = request.operation == Operation::Create
        && !request.namespace.is_empty()
        && !request.is("authorization.k8s.io", "localsubjectaccessreviews");
    if !concerns {
        return Ok(());
    }
    let name = &request.namespace;
    let Some(namespace) = cx.view.get(NAMESPACES, "", name) else {
        return Err(Status::not_found(&GroupResource::new("", "namespaces"), name));
    };
    if namespace.str_at(&["status", "phase"]) == "Terminating" {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let cause = format!("namespace {name} is being terminated");
        return Err(request.forbidden(&why).with_cause("NamespaceTerminating", cause, "metadata.namespace"));
    }
    Ok(())
}
