//! DefaultStorageClass and DefaultIngressClass: who names no class gets the newest one that is marked as default.

use super::AdmissionRequest;
use super::rule::{Cx, NOTHING, Rule};
use crate::Status;
use crate::view::{self, INGRESS_CLASSES, Of, STORAGE_CLASSES, View};

/// Name of the newest class with one of the annotations; of equally old ones the first by name.
fn newest(view: &dyn View, of: Of, annotations: &[&str]) -> Option<String> {
    let mut classes = view.list(of, "");
    classes.retain(|class| annotations.iter().any(|a| view::annotation(class, a) == Some("true")));
    let created = |class: &schema::Value| class.str_at(&["metadata", "creationTimestamp"]).to_owned();
    classes.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| view::name(a).cmp(view::name(b))));
    classes.first().map(|class| view::name(class).to_owned())
}

pub const DEFAULT_STORAGE_CLASS: Rule =
    Rule { name: "DefaultStorageClass", of: &[("", "persistentvolumeclaims")], mutate: storage_class, ..NOTHING };

fn storage_class(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    const MARKS: [&str; 2] =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let claim = &mut request.object;
    let has_class = claim.get(&["spec", "storageClassName"]).is_some_and(|c| !c.is_null())
        || view::annotation(claim, "volume.beta.kubernetes.io/storage-class").is_some();
    if request.operation == super::Operation::Create
        && request.subresource.is_empty()
        && !has_class
        && let Some(class) = newest(cx.view, STORAGE_CLASSES, &MARKS)
    {
        request.object.set(&["spec", "storageClassName"], class);
    }
    Ok(())
}

pub const DEFAULT_INGRESS_CLASS: Rule =
    Rule { name: "DefaultIngressClass", of: &[("networking.k8s.io", "ingresses")], mutate: ingress_class, ..NOTHING };

fn ingress_class(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let ingress = &request.object;
    let has_class = ingress.get(&["spec", "ingressClassName"]).is_some_and(|c| !c.is_null())
        || view::annotation(ingress, "kubernetes.io/ingress.class").is_some();
    if request.is_create()
        && !has_class
        && let Some(class) = newest(cx.view, INGRESS_CLASSES, &["ingressclass.kubernetes.io/is-default-class"])
    {
        request.object.set(&["spec", "ingressClassName"], class);
    }
    Ok(())
}
