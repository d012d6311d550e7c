//! The part of NodeRestriction about certificates: a kubelet asks for its own, and for those its pods mount.

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::Value;

use super::{AdmissionRequest, Operation, rule::Cx};
use crate::view::{self, NODES, PODS, SERVICE_ACCOUNTS};
use crate::{Attributes, Status, pods};

/// A CertificateSigningRequest for one of the kubelet's signers.
pub fn signing(request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    let signer = request.object.str_at(&["spec", "signerName"]);
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let text = STANDARD.decode(request.object.str_at(&["spec", "request"])).unwrap_or_default();
    match pki::CertificateRequest::from_pem(&String::from_utf8_lossy(&text)) {
        Err(error) => request.refuse(format!("unable to parse csr: {error}")),
        Ok(parsed) if parsed.subject.common_name != format!("system:node:{node}") => {
            request.refuse(format!("can only create a node CSR with CN=system:node:{node}"))
        }
        Ok(_) => Ok(()),
    }
}

/// A PodCertificateRequest: everything in it is as the cluster knows it, and the pod asks for it.
pub fn of_pod(cx: &Cx<'_>, request: &AdmissionRequest, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return request.refuse(format!("unexpected operation {}", request.operation.as_str()));
    }
    if !request.subresource.is_empty() {
        return request.refuse(format!("unexpected subresource {}", request.subresource));
    }
    let spec = |field: &str| request.object.str_at(&["spec", field]);
    let named = spec("nodeName");
    if named != node {
        let why = "which is not the requesting node";
        return request.refuse(format!("PodCertificateRequest.Spec.NodeName={named:?}, {why} {node:?}"));
    }
    let namespace = &request.namespace;
    let pod_name = format!("{namespace}/{}", spec("podName"));
    let account_name = format!("{namespace}/{}", spec("serviceAccountName"));
    let gone = |kind: &str, name: &str, plural: &str, bare: &str| {
        let why =
            format!("while retrieving {kind} {name:?} named in the PodCertificateRequest: {plural} {bare:?} not found");
        Status::internal(why)
    };
    let differs = |why: String| Err(Status::internal(format!("PodCertificateRequest for pod {pod_name:?} {why}")));

    let held = cx.view.get(NODES, "", node).ok_or_else(|| gone("node", node, "node", node))?;
    if view::uid(&held) != spec("nodeUID") {
        let (given, held) = (spec("nodeUID"), view::uid(&held));
        return differs(format!("names node UID {given:?}, inconsistent with the running node ({held:?})"));
    }
    let pod = cx.view.get(PODS, namespace, spec("podName"));
    let pod = pod.ok_or_else(|| gone("pod", &pod_name, "pod", spec("podName")))?;
    if view::uid(&pod) != spec("podUID") {
        let (given, held) = (spec("podUID"), view::uid(&pod));
        return differs(format!("contains pod UID ({given:?}) which differs from running pod {held:?}"));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        let why = format!("pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest");
        return request.refuse(why);
    }
    if pods::is_mirror(&pod) {
        return request.refuse(format!("pod {pod_name:?} is a mirror pod"));
    }
    let (given, held) = (spec("serviceAccountName"), pod.str_at(&["spec", "serviceAccountName"]));
    if given != held {
        return request.refuse(format!(
            "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({given:?}) that differs from running \
             pod ({held:?})"
        ));
    }
    let account = cx.view.get(SERVICE_ACCOUNTS, namespace, given);
    let account = account.ok_or_else(|| gone("service account", &account_name, "serviceaccount", given))?;
    if view::uid(&account) != spec("serviceAccountUID") {
        let (given, held) = (spec("serviceAccountUID"), view::uid(&account));
        return differs(format!(
            "names service account UID {given:?}, which differs from the running service account ({held:?})"
        ));
    }
    let signer = spec("signerName");
    let wanted = Attributes {
        verb: "request-serviceaccounts-podcertificate-signer".into(),
        api_group: request.group.clone(),
        api_version: request.version.clone(),
        resource: signer.replace('/', ":"),
        namespace: namespace.clone(),
        name: spec("serviceAccountName").into(),
        is_resource: true,
        ..Attributes::default()
    };
    if mounts(&pod, signer) || (cx.may)(&request.user, &wanted) {
        return Ok(());
    }
    request.refuse(format!("pod {pod_name:?} does not mount a podCertificate projected volume for signer {signer:?}"))
}

fn mounts(pod: &Value, signer: &str) -> bool {
    let volumes = pod.list_at(&["spec", "volumes"]).iter();
    let mut sources = volumes.flat_map(|volume| volume.list_at(&["projected", "sources"]));
    sources.any(|source| !signer.is_empty() && source.str_at(&["podCertificate", "signerName"]) == signer)
}
