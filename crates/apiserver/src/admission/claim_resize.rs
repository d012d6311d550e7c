//! PersistentVolumeClaimResize: only a bound claim of a class that allows it may grow.

use schema::{Value, quantity::Quantity};

use super::AdmissionRequest;
use super::rule::{Cx, NOTHING, Rule};
use crate::Status;
use crate::view::{self, STORAGE_CLASSES};

pub const RULE: Rule =
    Rule { name: "PersistentVolumeClaimResize", of: &[("", "persistentvolumeclaims")], validate, ..NOTHING };

fn validate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let Some(old) = request.old.as_deref().filter(|_| request.is_update()) else { return Ok(()) };
    let size = |claim: &Value| {
        Quantity::parse(claim.str_at(&["spec", "resources", "requests", "storage"])).unwrap_or_default()
    };
    if !size(&request.object).compare(size(old)).is_gt() {
        return Ok(());
    }
    if old.str_at(&["status", "phase"]) != "Bound" {
        return request.refuse("Only bound persistent volume claims can be expanded");
    }
    let class = |claim: &Value| {
        let beta = view::annotation(claim, "volume.beta.kubernetes.io/storage-class");
        beta.unwrap_or(claim.str_at(&["spec", "storageClassName"])).to_owned()
    };
    let name = class(old);
    let allowed = !name.is_empty()
        && class(&request.object) == name
        && cx.view.get(STORAGE_CLASSES, "", &name).is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]));
    if allowed {
        return Ok(());
    }
    request.refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
         resize",
    )
}
