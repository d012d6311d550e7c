//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest: each signer name is a permission of its own;
//! CertificateSubjectRestriction: nobody becomes an administrator by a certificate of the API server's signer.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::rule::{Cx, NOTHING, Rule};
use super::{AdmissionRequest, Operation};
use crate::{Attributes, Status, User};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &[(&str, &str)] = &[(GROUP, "certificatesigningrequests")];

/// Whether the user may do this with the signer, or with all signers of its domain (`example.com/*`).
pub fn may_use_signer(user: &User, verb: &str, signer: &str, may: impl Fn(&User, &Attributes) -> bool) -> bool {
    let wanted = |name: &str| Attributes {
        verb: verb.into(),
        api_group: GROUP.into(),
        api_version: "*".into(),
        resource: "signers".into(),
        name: name.into(),
        is_resource: true,
        ..Attributes::default()
    };
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    may(user, &wanted(signer)) || may(user, &wanted(&format!("{domain}/*")))
}

fn may(cx: &Cx<'_>, request: &AdmissionRequest, verb: &str, signer: &str) -> bool {
    may_use_signer(&request.user, verb, signer, cx.may)
}

fn signer(request: &AdmissionRequest) -> &str {
    request.old.as_deref().map_or("", |old| old.str_at(&["spec", "signerName"]))
}

pub const CERTIFICATE_APPROVAL: Rule = Rule { name: "CertificateApproval", of: REQUESTS, validate: approve, ..NOTHING };

fn approve(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let concerns = request.operation == Operation::Update && request.subresource == "approval";
    let signer = signer(request);
    if !concerns || may(cx, request, "approve", signer) {
        return Ok(());
    }
    request.refuse(format!("user not permitted to approve requests with signerName {signer:?}"))
}

pub const CERTIFICATE_SIGNING: Rule = Rule { name: "CertificateSigning", of: REQUESTS, validate: sign, ..NOTHING };

fn sign(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let changes = |field: &str| {
        let held = request.old.as_deref().and_then(|old| old.get(&["status", field]));
        let wanted = request.object.get(&["status", field]);
        held.filter(|v| !v.is_empty()) != wanted.filter(|v| !v.is_empty())
    };
    let concerns = request.operation == Operation::Update && request.subresource == "status";
    if !concerns || !(changes("certificate") || changes("conditions")) {
        return Ok(());
    }
    let signer = signer(request);
    if may(cx, request, "sign", signer) {
        return Ok(());
    }
    request.refuse(format!("user not permitted to sign requests with signerName {signer:?}"))
}

pub const CERTIFICATE_SUBJECT_RESTRICTION: Rule =
    Rule { name: "CertificateSubjectRestriction", of: REQUESTS, validate: restrict_subject, ..NOTHING };

fn restrict_subject(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
    if !request.is_create() || request.object.str_at(&["spec", "signerName"]) != SIGNER {
        return Ok(());
    }
    let text = STANDARD.decode(request.object.str_at(&["spec", "request"])).unwrap_or_default();
    match pki::CertificateRequest::from_pem(&String::from_utf8_lossy(&text)) {
        Err(error) => request.refuse(format!("failed to parse CSR: {error}")),
        Ok(parsed) if parsed.subject.organizations.iter().any(|o| o == crate::authz::ADMINISTRATORS) => {
            request.refuse(format!("use of {SIGNER} signer with system:masters group is not allowed"))
        }
        Ok(_) => Ok(()),
    }
}

pub const CLUSTER_TRUST_BUNDLE_ATTEST: Rule =
    Rule { name: "ClusterTrustBundleAttest", of: &[(GROUP, "clustertrustbundles")], validate: attest, ..NOTHING };

fn attest(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    let signer = request.object.str_at(&["spec", "signerName"]);
    let is_write = request.is_create() || request.is_update();
    if !is_write || signer.is_empty() || may(cx, request, "attest", signer) {
        return Ok(());
    }
    request.refuse(format!("user not permitted to attest for signerName {signer:?}"))
}
