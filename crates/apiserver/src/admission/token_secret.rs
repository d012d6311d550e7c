//! Secrets of the type `kubernetes.io/service-account-token`: they are filled when they are written, so that no
//! controller needs the signing key. What an account that does not exist yet should have is filled by a later write.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{AdmissionRequest, Judged, Plugin};
use crate::Server;
use crate::view::{self, Of, SERVICE_ACCOUNTS, View};

pub struct TokenSecret;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const CONFIG_MAPS: Of = Of("", "configmaps");

impl Plugin for TokenSecret {
    fn name(&self) -> &'static str {
        "ServiceAccountTokenSecret"
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> Judged<'a> {
        if request.is("", "secrets") && (request.is_create() || request.is_update()) {
            fill(server, request);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn fill(server: &Server, request: &mut AdmissionRequest) {
    let secret = &mut request.object;
    let name = view::name(secret).to_owned();
    if secret.str_at(&["type"]) != TYPE || name.is_empty() || view::is_deleting(secret) {
        return;
    }
    let wanted = view::annotation(secret, NAME).unwrap_or_default();
    let Some(account) = server.get(SERVICE_ACCOUNTS, &request.namespace, wanted) else { return };
    let uid = view::uid(&account);
    // An account of before, which had the same name.
    if view::annotation(secret, UID).is_some_and(|held| held != uid) {
        return;
    }
    let has = |field: &str| secret.get(&["data", field]).is_some_and(|data| !data.is_empty());
    let mut data = Vec::new();
    if !has("token") {
        let token = server.config().issue_token.legacy(&account, &request.namespace, &name);
        data.extend(token.map(|token| ("token", token)));
    }
    if !has("namespace") {
        data.push(("namespace", request.namespace.clone()));
    }
    if !has("ca.crt") {
        let root = server.get(CONFIG_MAPS, &request.namespace, "kube-root-ca.crt");
        data.extend(root.map(|root| ("ca.crt", root.str_at(&["data", "ca.crt"]).to_owned())));
    }
    secret.set(&["metadata", "annotations", UID], uid);
    for (field, text) in data {
        secret.set(&["data", field], STANDARD.encode(text));
    }
}
