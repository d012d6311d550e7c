//! StorageObjectInUseProtection: volumes and claims get the finalizer that keeps them while they are used.

use super::AdmissionRequest;
use super::rule::{Cx, NOTHING, Rule};
use crate::Status;

pub const RULE: Rule = Rule {
    name: "StorageObjectInUseProtection",
    of: &[("", "persistentvolumes"), ("", "persistentvolumeclaims"), ("storage.k8s.io", "volumeattributesclasses")],
    mutate,
    ..NOTHING
};

fn mutate(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let finalizer = match request.resource.as_str() {
        "persistentvolumes" => "kubernetes.io/pv-protection",
        "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
        _ => "kubernetes.io/vac-protection",
    };
    let held = request.object.list_at(&["metadata", "finalizers"]);
    if request.is_create() && !held.iter().any(|f| f.as_str() == Some(finalizer)) {
        request.object.make_list(&["metadata", "finalizers"]).push(finalizer.into());
    }
    Ok(())
}
