//! The cluster's own signers of CertificateSigningRequests: which authority each signs with, and what it demands.

use std::sync::Arc;

use control::cluster::Signer;
use pki::{Authority, CertificateRequest, ExtendedUsage, Leaf, SystemRandom};
use schema::api::certificates::v1::CertificateSigningRequest;

use crate::identity::Identity;

const YEAR: i64 = 365 * pki::DAY;
const TEN_MINUTES: i64 = 10 * 60;
/// The certificate's beginning lies so far back, for clocks that differ.
const BACKDATE: i64 = 5 * 60;
/// Certificates that last less keep what was taken off at the beginning.
const SHORT: i64 = 8 * 60 * 60;

pub fn signer(identity: &Identity) -> Signer {
    let (client, server) = (identity.client_ca.clone(), identity.server_ca.clone());
    Signer(Arc::new(move |request, now| {
        let (authority, demand): (&Authority, Demand) = match &*request.spec.signer_name {
            "kubernetes.io/kube-apiserver-client" => (&client, client_usages),
            "kubernetes.io/kube-apiserver-client-kubelet" => (&client, kubelet_client),
            "kubernetes.io/kubelet-serving" => (&server, kubelet_serving),
            _ => return None,
        };
        Some(sign(authority, demand, request, now))
    }))
}

type Demand = fn(&CertificateRequest, &[&str]) -> Result<(), String>;

fn sign(authority: &Authority, demand: Demand, asked: &CertificateSigningRequest, now: i64) -> Result<String, String> {
    let spec = &asked.spec;
    let request = CertificateRequest::from_pem(&String::from_utf8_lossy(&spec.request))
        .map_err(|error| format!("unable to parse csr {:?}: {error}", asked.metadata.name))?;
    let mut usages: Vec<&str> = spec.usages.iter().map(String::as_str).collect();
    usages.sort_unstable();
    usages.dedup();
    demand(&request, &usages)?;
    let seconds = spec.expiration_seconds.map_or(YEAR, |asked| i64::from(asked).clamp(TEN_MINUTES, YEAR));
    let leaf = Leaf {
        subject: request.subject.clone(),
        names: request.names.clone(),
        key_usages: spec.usages.clone(),
        extended_usages: usages.iter().filter_map(|usage| ExtendedUsage::named(usage)).collect(),
        not_before: now - BACKDATE,
        not_after: now + if seconds < SHORT { seconds } else { seconds - BACKDATE },
    };
    let issued = authority.issue(&leaf, &request.public_key, &SystemRandom::new());
    issued.map(|certificate| certificate.to_pem()).map_err(|error| error.to_string())
}

fn client_usages(_: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    let known = ["client auth", "digital signature", "key encipherment"];
    if let Some(wrong) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    let has = usages.contains(&"client auth");
    has.then_some(()).ok_or_else(|| "missing required usage for client certificate: client auth".into())
}

fn kubelet_client(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    let names = &request.names;
    of_node(
        request,
        usages,
        "client auth",
        &[
            (names.dns.is_empty(), "DNS subjectAltNames are not allowed"),
            (names.emails.is_empty(), "Email subjectAltNames are not allowed"),
            (names.ips.is_empty(), "IP subjectAltNames are not allowed"),
            (names.uris.is_empty(), "URI subjectAltNames are not allowed"),
        ],
    )
}

fn kubelet_serving(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    let names = &request.names;
    of_node(
        request,
        usages,
        "server auth",
        &[
            (!names.dns.is_empty() || !names.ips.is_empty(), "DNS or IP subjectAltName is required"),
            (names.emails.is_empty(), "Email subjectAltNames are not allowed"),
            (names.uris.is_empty(), "URI subjectAltNames are not allowed"),
        ],
    )
}

fn of_node(request: &CertificateRequest, usages: &[&str], purpose: &str, names: &[(bool, &str)]) -> Result<(), String> {
    if request.subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if let Some((_, why)) = names.iter().find(|(is_met, _)| !is_met) {
        return Err((*why).into());
    }
    let mut wanted = vec![purpose, "digital signature", "key encipherment"];
    wanted.sort_unstable();
    let fewer: Vec<&str> = wanted.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    if usages != wanted && usages != fewer {
        return Err(format!("usages did not match [{}]", wanted.join(" ")));
    }
    let is_node = request.subject.common_name.starts_with("system:node:");
    is_node.then_some(()).ok_or_else(|| "subject common name does not begin with system:node:".into())
}

#[cfg(test)]
mod tests;
