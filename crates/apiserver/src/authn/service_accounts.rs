//! Service account tokens: the signature proves who made them, the cache whether what they are bound to still lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pki::jwt::{Claims, LEEWAY_SECONDS, Reference, Rejection, Verifier};

use super::{digest, secret_text};
use crate::User;
use crate::view::{self, NODES, Of, PODS, SECRETS, SERVICE_ACCOUNTS, View};

pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
const PREFIX: &str = "authentication.kubernetes.io/";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Signatures checked and remembered; more push all others out.
const REMEMBERED_MAX: usize = 10_000;

pub struct ServiceAccounts {
    verifier: Verifier,
    audiences: Vec<String>,
    /// Digest of the token → what its signature vouches for.
    signed: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccounts {
    pub fn new(verifier: Verifier, audiences: Vec<String>) -> Self {
        Self { verifier, audiences, signed: Mutex::default() }
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `None` if this is not a token of ours. The audiences are those of the token among the wanted ones.
    pub fn user(
        &self,
        view: &dyn View,
        token: &str,
        wanted: &[String],
        now: i64,
    ) -> Result<Option<(User, Vec<String>)>, String> {
        let claims = match self.claims(token) {
            Ok(claims) => claims,
            Err(Rejection::Foreign) => return Ok(None),
            Err(why) => return Err(why.to_string()),
        };
        claims.check_times(now).map_err(|e| e.to_string())?;
        let audiences = if claims.aud.is_empty() { &self.audiences } else { &claims.aud };
        let good_for: Vec<String> = wanted.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if good_for.is_empty() {
            let [given, wanted] = [audiences, wanted].map(|list| format!("{list:?}").replace(", ", " "));
            return Err(format!("token audiences {given} is invalid for the target audiences {wanted}"));
        }
        let user = match &claims.kubernetes {
            Some(_) => bound(view, &claims, now)?,
            None => legacy(view, &claims, token)?,
        };
        Ok(Some((user, good_for)))
    }

    fn claims(&self, token: &str) -> Result<Arc<Claims>, Rejection> {
        let key = digest(token);
        if let Some(claims) = self.signed.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.verifier.verify_signature(token)?);
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.len() >= REMEMBERED_MAX {
            signed.clear();
        }
        signed.insert(key, claims.clone());
        Ok(claims)
    }
}

/// Whether the object that a claim names is still the same one and not long deleted.
fn check_alive(view: &dyn View, of: Of, namespace: &str, claim: &Reference, now: i64) -> Result<(), String> {
    let name = &claim.name;
    let (what, of_what) = match of {
        SERVICE_ACCOUNTS => ("service account", "claim"),
        SECRETS => ("secret", "service account secret ref claim"),
        PODS => ("pod", "service account pod ref claim"),
        _ => ("node", "service account node ref claim"),
    };
    let gone = |of_account: String| match of {
        SERVICE_ACCOUNTS => of_account,
        _ => "service account token has been invalidated".to_owned(),
    };
    let object = view.get(of, namespace, name).ok_or_else(|| gone(format!("serviceaccounts {name:?} not found")))?;
    if view::uid(&object) != claim.uid {
        return Err(format!("{what} UID ({}) does not match {of_what} ({})", view::uid(&object), claim.uid));
    }
    let deletion = object.str_at(&["metadata", "deletionTimestamp"]);
    if schema::time::parse(deletion).is_some_and(|(at, _)| at < now - LEEWAY_SECONDS) {
        return Err(gone(format!("service account {namespace}/{name} has been deleted")));
    }
    Ok(())
}

/// A token of the TokenRequest API.
fn bound(view: &dyn View, claims: &Claims, now: i64) -> Result<User, String> {
    let Some(bound) = &claims.kubernetes else { return Err("no kubernetes.io claim".into()) };
    let namespace = &bound.namespace;
    check_alive(view, SERVICE_ACCOUNTS, namespace, &bound.serviceaccount, now)?;
    let mut user = account_user(namespace, &bound.serviceaccount);
    let mut tell = |key: &str, value: String| user.extra.insert(format!("{PREFIX}{key}"), vec![value]);
    if let Some(secret) = &bound.secret {
        check_alive(view, SECRETS, namespace, secret, now)?;
    }
    if let Some(pod) = &bound.pod {
        check_alive(view, PODS, namespace, pod, now)?;
        tell("pod-name", pod.name.clone());
        tell("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &bound.node {
        // A pod's token tells its node; only a node's token dies with it.
        if bound.pod.is_none() {
            check_alive(view, NODES, "", node, now)?;
        }
        tell("node-name", node.name.clone());
        if !node.uid.is_empty() {
            tell("node-uid", node.uid.clone());
        }
    }
    if let Some(id) = &claims.jti {
        tell("credential-id", format!("JTI={id}"));
    }
    Ok(user)
}

/// A token kept in a secret of the type `kubernetes.io/service-account-token`.
fn legacy(view: &dyn View, claims: &Claims, token: &str) -> Result<User, String> {
    let text = |claim: &Option<String>| claim.clone().unwrap_or_default();
    let (namespace, name) = (text(&claims.legacy_namespace), text(&claims.legacy_name));
    let account = Reference { name: name.clone(), uid: text(&claims.legacy_uid) };
    if claims.sub != format!("system:serviceaccount:{namespace}:{name}") {
        return Err("sub claim is invalid".into());
    }
    let secret_name = text(&claims.legacy_secret);
    let secret = view
        .get(SECRETS, &namespace, &secret_name)
        .filter(|s| !view::is_deleting(s))
        .ok_or("Token has been invalidated")?;
    if secret_text(&secret, "token").is_none_or(|held| !pki::same_secret(&held, token)) {
        return Err("Token does not match server's copy".into());
    }
    check_alive(view, SERVICE_ACCOUNTS, &namespace, &account, i64::MAX)?;
    if view::label(&secret, INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        return Err(format!(
            "the token in secret {namespace}/{secret_name} for service account {namespace}/{name} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    Ok(account_user(&namespace, &account))
}

fn account_user(namespace: &str, account: &Reference) -> User {
    let mut user =
        User::new(format!("system:serviceaccount:{namespace}:{}", account.name), &["system:serviceaccounts"]);
    user.groups.push(format!("system:serviceaccounts:{namespace}"));
    user.uid.clone_from(&account.uid);
    user
}
