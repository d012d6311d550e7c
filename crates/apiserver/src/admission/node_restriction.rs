//! NodeRestriction: of what the node authorizer lets a kubelet write, only what is about itself and its pods.

use std::collections::BTreeSet;

use schema::Value;

use super::rule::{Cx, NOTHING, Rule};
use super::{AdmissionRequest, Operation, node_certificates};
use crate::authz::node;
use crate::request::GroupResource;
use crate::view::{self, NODES, Of, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use crate::{Attributes, Status, pods};

const CSI_DRIVERS: Of = Of("storage.k8s.io", "csidrivers");

pub const RULE: Rule = Rule {
    name: "NodeRestriction",
    of: &[
        ("", "pods"),
        ("", "nodes"),
        ("", "persistentvolumeclaims"),
        ("", "serviceaccounts"),
        ("coordination.k8s.io", "leases"),
        ("storage.k8s.io", "csinodes"),
        ("resource.k8s.io", "resourceslices"),
        ("certificates.k8s.io", "certificatesigningrequests"),
        ("certificates.k8s.io", "podcertificaterequests"),
    ],
    mutate,
    ..NOTHING
};

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if request.operation == Operation::Connect {
        return Ok(());
    }
    let Some(node) = node::identity(&request.user).map(str::to_owned) else { return Ok(()) };
    if node.is_empty() {
        return request.refuse(format!("could not determine node from user {:?}", request.user.name));
    }
    match (request.resource.as_str(), request.subresource.as_str()) {
        ("pods", "") => pod(cx, request, &node),
        ("pods", "status") => pod_status(request, &node),
        ("pods", "eviction") => {
            let name = Some(request.name.as_str()).filter(|n| !n.is_empty());
            let name = name.unwrap_or(view::name(&request.object)).to_owned();
            let held = held_pod(cx, request, &name)?;
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            if held.str_at(&["spec", "nodeName"]) == node { Ok(()) } else { request.refuse(why) }
        }
        ("pods", other) => {
            request.refuse(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("nodes", _) => own_node(request, &node),
        ("persistentvolumeclaims", "status") => claim_status(request, &node),
        ("persistentvolumeclaims", _) => request.refuse("may only update PVC status"),
        ("serviceaccounts", "token") if request.operation == Operation::Create => token(cx, request, &node),
        ("leases", _) => lease(request, &node),
        ("csinodes", _) => {
            let name = if request.is_create() { view::name(&request.object) } else { &request.name };
            if name == node {
                return Ok(());
            }
            request.refuse("can only access CSINode with the same name as the requesting node")
        }
        ("resourceslices", "") => slice(request, &node),
        ("certificatesigningrequests", "") if request.operation == Operation::Create => {
            node_certificates::signing(request, &node)
        }
        ("podcertificaterequests", _) => node_certificates::of_pod(cx, request, &node),
        _ => Ok(()),
    }
}

fn held_pod(cx: &Cx<'_>, request: &AdmissionRequest, name: &str) -> Result<std::sync::Arc<Value>, Status> {
    let found = cx.view.get(PODS, &request.namespace, name);
    found.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
}

fn pod(cx: &Cx<'_>, request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    match request.operation {
        Operation::Create => mirror_pod(cx, request, node),
        Operation::Delete => {
            let held = held_pod(cx, request, &request.name)?;
            if held.str_at(&["spec", "nodeName"]) == node {
                return Ok(());
            }
            request.refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        other => request.refuse(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            other.as_str()
        )),
    }
}

fn mirror_pod(cx: &Cx<'_>, request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let pod = &request.object;
    let refuse = |why: &str| request.refuse(format!("node {node:?} {why}"));
    if !pods::is_mirror(pod) {
        let mark = pods::MIRROR;
        return request
            .refuse(format!("pod does not have {mark:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refuse("can only create pods with spec.nodeName set to itself");
    }
    let owner = match pod.list_at(&["metadata", "ownerReferences"]) {
        [owner] => owner,
        [] => return refuse("can only create pods with an owner reference set to itself"),
        _ => return refuse("can only create pods with a single owner reference set to itself"),
    };
    let is = |field: &str, text: &str| owner.str_at(&[field]) == text;
    if !is("apiVersion", "v1") || !is("kind", "Node") || !is("name", node) {
        return refuse("can only create pods with an owner reference set to itself");
    }
    if !owner.bool_at(&["controller"]) {
        return refuse("can only create pods with a controller owner reference set to itself");
    }
    if owner.bool_at(&["blockOwnerDeletion"]) {
        return refuse("must not set blockOwnerDeletion on an owner reference");
    }
    let held = cx.view.get(NODES, "", node).ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
    if !is("uid", view::uid(&held)) {
        let (given, held) = (owner.str_at(&["uid"]), view::uid(&held));
        return request.refuse(format!("node {node} UID mismatch: expected {given} got {held}"));
    }
    let mut named = None;
    pods::references(pod, &mut |kind, _| {
        named.get_or_insert(match kind {
            pods::Reference::Secret => "secrets",
            pods::Reference::ConfigMap => "configmaps",
            pods::Reference::Claim => "persistentvolumeclaims",
            pods::Reference::ResourceClaim => "resourceclaims",
        });
    });
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        named = Some("serviceaccounts");
    }
    match named {
        Some(kind) => refuse(&format!("can not create pods that reference {kind}")),
        None => Ok(()),
    }
}

fn pod_status(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let Some(old) = request.old.as_deref().filter(|_| request.operation == Operation::Update) else {
        return request.refuse(format!("unexpected operation {:?}", request.operation.as_str()));
    };
    let refuse = |why: &str| request.refuse(format!("node {node:?} {why}"));
    let same =
        |path: &[&str]| old.get(path).filter(|v| !v.is_empty()) == request.object.get(path).filter(|v| !v.is_empty());
    if old.str_at(&["spec", "nodeName"]) != node {
        return refuse("can only update pod status for pods with spec.nodeName set to itself");
    }
    if !same(&["metadata", "labels"]) {
        return refuse("cannot update labels through pod status");
    }
    if !same(&["status", "resourceClaimStatuses"]) {
        return refuse("cannot update resource claim statues");
    }
    if !same(&["status", "extendedResourceClaimStatus"]) {
        return refuse("cannot update extended resource claim status");
    }
    if !same(&["status", "nodeAllocatableResourceClaimStatuses"]) {
        return refuse("cannot update node allocatable resource claim statuses");
    }
    Ok(())
}

/// Labels of Kubernetes' own that a kubelet may set on its node.
fn is_kubelet_label(key: &str) -> bool {
    const LABELS: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    LABELS.contains(&key) || below("kubelet.kubernetes.io") || below("node.kubernetes.io")
}

fn own_node(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let name = if request.name.is_empty() { view::name(&request.object) } else { &request.name };
    if name != node {
        return request.refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if request.operation == Operation::Delete {
        return Ok(());
    }
    let nothing = Value::Null;
    let old = request.old.as_deref().unwrap_or(&nothing);
    let labels = |object: &Value| object.object_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let (held, wanted) = (labels(old), labels(&request.object));
    let forbidden: BTreeSet<&str> = held
        .keys()
        .chain(wanted.keys())
        .filter(|key| held.get(key) != wanted.get(key))
        .map(|key| key.as_str())
        .filter(|key| {
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            let below = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
            below("node-restriction.kubernetes.io")
                || (below("kubernetes.io") || below("k8s.io")) && !is_kubelet_label(key)
        })
        .collect();
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    if request.operation == Operation::Create {
        if list.is_empty() {
            return Ok(());
        }
        return request.refuse(format!("node {node:?} is not allowed to set the following labels: {list}"));
    }
    let same =
        |path: &[&str]| old.get(path).filter(|v| !v.is_empty()) == request.object.get(path).filter(|v| !v.is_empty());
    if !same(&["spec", "taints"]) {
        return request.refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    if !same(&["metadata", "ownerReferences"]) {
        return request.refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    if list.is_empty() { Ok(()) } else { request.refuse(format!("is not allowed to modify labels: {list}")) }
}

fn claim_status(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        for path in [
            &["metadata", "resourceVersion"][..],
            &["metadata", "managedFields"],
            &["status", "capacity"],
            &["status", "conditions"],
            &["status", "allocatedResources"],
            &["status", "allocatedResourceStatuses"],
        ] {
            claim.remove(path);
        }
        claim
    };
    if request.operation == Operation::Update && request.old.as_deref().map(strip) == Some(strip(&request.object)) {
        return Ok(());
    }
    request.refuse(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn token(cx: &Cx<'_>, request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let reference = &request.object["spec"]["boundObjectRef"];
    let text = |field: &str| reference.str_at(&[field]);
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return request.refuse("node requested token not bound to a pod");
    }
    if text("uid").is_empty() {
        return request.refuse("node requested token with a pod binding without a uid");
    }
    let pod = held_pod(cx, request, text("name"))?;
    if view::uid(&pod) != text("uid") {
        return request.refuse(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            text("uid")
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return request.refuse("node requested token bound to a pod scheduled on a different node");
    }
    let audience = match request.object.list_at(&["spec", "audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return request.refuse("node may only request 0 or 1 audiences"),
    };
    let wanted = Attributes {
        verb: "request-serviceaccounts-token-audience".into(),
        api_version: "v1".into(),
        resource: audience.into(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        is_resource: true,
        ..Attributes::default()
    };
    if pod_names_audience(cx, &pod, audience) || (cx.may)(&request.user, &wanted) {
        return Ok(());
    }
    let user = &request.user.name;
    request.refuse(format!("{user} is not authorized to request tokens for audience {audience:?}"))
}

/// Whether a volume of the pod, or the CSI driver behind one, asks for tokens of this audience.
fn pod_names_audience(cx: &Cx<'_>, pod: &Value, audience: &str) -> bool {
    let driver_of_claim = |claim: &str| {
        let claim = cx.view.get(PERSISTENT_VOLUME_CLAIMS, view::namespace(pod), claim)?;
        let volume = cx.view.get(PERSISTENT_VOLUMES, "", claim.str_at(&["spec", "volumeName"]))?;
        Some(volume.str_at(&["spec", "csi", "driver"]).to_owned())
    };
    let driver_asks = |driver: &str| {
        let driver = cx.view.get(CSI_DRIVERS, "", driver);
        driver
            .is_some_and(|d| d.list_at(&["spec", "tokenRequests"]).iter().any(|r| r.str_at(&["audience"]) == audience))
    };
    pod.list_at(&["spec", "volumes"]).iter().any(|volume| {
        let token = |source: &Value| {
            source.get(&["serviceAccountToken"]).is_some_and(|t| !t.is_null() && t.str_at(&["audience"]) == audience)
        };
        if volume.list_at(&["projected", "sources"]).iter().any(token) {
            return true;
        }
        let claim = volume.str_at(&["persistentVolumeClaim", "claimName"]);
        let driver = if volume.get(&["ephemeral"]).is_some_and(|e| !e.is_null()) {
            driver_of_claim(&format!("{}-{}", view::name(pod), volume.str_at(&["name"])))
        } else if !claim.is_empty() {
            driver_of_claim(claim)
        } else {
            Some(volume.str_at(&["csi", "driver"]).to_owned())
        };
        driver.is_some_and(|driver| !driver.is_empty() && driver_asks(&driver))
    })
}

fn lease(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return request.refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // A creation is not authorized by name.
    let name = if request.operation == Operation::Create { view::name(&request.object) } else { &request.name };
    if name == node {
        return Ok(());
    }
    request.refuse("can only access node lease with the same name as the requesting node")
}

fn slice(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let nothing = Value::Null;
    let object = match request.operation {
        Operation::Delete => request.old.as_deref().unwrap_or(&nothing),
        _ => &request.object,
    };
    let own = object.str_at(&["spec", "nodeName"]);
    if own == node || request.operation == Operation::Delete && request.old.is_none() {
        return Ok(());
    }
    let verb = match request.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        _ => "delete",
    };
    request.refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}
