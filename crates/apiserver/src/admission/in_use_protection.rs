//! StorageObjectInUseProtection: volumes and claims get the finalizer that keeps them while they are used.

use super::{
    AdmissionRequest,
    rule::{Cx, Rule},
};
use crate::Status;

pub struct StorageObjectInUseProtection;

impl Rule for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn of(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "persistentvolumes"), ("", "persistentvolumeclaims"), ("storage.k8s.io", "volumeattributesclasses")]
    }

    fn mutate(&self, _: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
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
}
