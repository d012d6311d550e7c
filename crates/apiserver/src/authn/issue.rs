//! Makes service account tokens: the implementation of [`IssueToken`].

use pki::SystemRandom;
use pki::jwt::{Claims, Kubernetes, LEGACY_ISSUER, Reference, Signer, Verifier};
use schema::Value;

use crate::seams::IssueToken;
use crate::view::{self, NODES, View};
use crate::{Server, Status};

/// The lifetime that the admission plugin asks for tokens in pods: they live a year, and are told stale after this.
pub const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 86_400;

pub struct TokenIssuer {
    pub signer: Signer,
    pub issuer: String,
    /// The server's own audiences: the default, and those for which pods' tokens are extended.
    pub audiences: Vec<String>,
    /// `--service-account-max-token-expiration`; 0 for none.
    pub max_seconds: i64,
    /// `--service-account-extend-token-expiration`.
    pub extend: bool,
    /// What `/openid/v1/jwks` publishes: the signing key and those whose tokens are still valid.
    pub published: Verifier,
    /// Where others find the keys: `--service-account-jwks-uri`.
    pub jwks_uri: String,
    random: SystemRandom,
}

impl TokenIssuer {
    pub fn new(signer: Signer, issuer: &str, audiences: Vec<String>) -> Self {
        Self {
            published: Verifier::new([signer.public().clone()], vec![issuer.into()]),
            jwks_uri: format!("{issuer}/openid/v1/jwks"),
            signer,
            issuer: issuer.into(),
            audiences,
            max_seconds: 0,
            extend: true,
            random: SystemRandom::new(),
        }
    }

    pub(super) fn claims(
        &self,
        view: &dyn View,
        account: &Value,
        bound: Option<&Value>,
        request: &mut Value,
        now: i64,
    ) -> Claims {
        if request.list_at(&["spec", "audiences"]).is_empty() {
            request.set(&["spec", "audiences"], Value::list(self.audiences.iter().map(String::as_str)));
        }
        let aud: Vec<String> =
            request.list_at(&["spec", "audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let mut seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
        if self.max_seconds > 0 && seconds > self.max_seconds {
            seconds = self.max_seconds;
            request.set(&["spec", "expirationSeconds"], seconds);
        }
        let reference = |object: &Value| Reference { name: view::name(object).into(), uid: view::uid(object).into() };
        let mut kubernetes = Kubernetes {
            namespace: view::namespace(account).into(),
            serviceaccount: reference(account),
            ..Kubernetes::default()
        };
        let mut lifetime = seconds;
        match (request.str_at(&["spec", "boundObjectRef", "kind"]), bound) {
            ("Pod", Some(pod)) => {
                kubernetes.pod = Some(reference(pod));
                let node = pod.str_at(&["spec", "nodeName"]);
                if !node.is_empty() {
                    let known = view.get(NODES, "", node);
                    let unknown = || Reference { name: node.into(), uid: String::new() };
                    kubernetes.node = Some(known.as_deref().map_or_else(unknown, reference));
                }
                if self.extend && seconds == WARN_ONLY_SECONDS && aud.iter().all(|a| self.audiences.contains(a)) {
                    kubernetes.warnafter = Some(now + seconds);
                    lifetime = EXTENDED_SECONDS;
                }
            }
            ("Node", Some(node)) => kubernetes.node = Some(reference(node)),
            ("Secret", Some(secret)) => kubernetes.secret = Some(reference(secret)),
            _ => {}
        }
        let name = &kubernetes.serviceaccount.name;
        Claims {
            sub: format!("system:serviceaccount:{}:{name}", kubernetes.namespace),
            iss: self.issuer.clone(),
            aud,
            exp: Some(now + lifetime),
            iat: Some(now),
            nbf: Some(now),
            kubernetes: Some(kubernetes),
            ..Claims::default()
        }
    }
}

impl IssueToken for TokenIssuer {
    fn issue(
        &self,
        server: &Server,
        service_account: &Value,
        bound: Option<&Value>,
        request: &mut Value,
    ) -> Result<(), Status> {
        let now = server.now();
        let mut claims = self.claims(server, service_account, bound, request, now);
        claims.jti = Some(crate::meta::uid(&*server.config().random));
        let token = self
            .signer
            .sign(&claims, &self.random)
            .map_err(|e| Status::internal(format_args!("failed to generate token: {e}")))?;
        let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
        let expiration = schema::time::format(now + seconds);
        let status = [("expirationTimestamp", expiration.into()), ("token", token.into())];
        request.set(&["status"], Value::object(status));
        Ok(())
    }

    fn legacy(&self, service_account: &Value, namespace: &str, secret: &str) -> Option<String> {
        let name = view::name(service_account);
        let claims = Claims {
            iss: LEGACY_ISSUER.into(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            legacy_namespace: Some(namespace.into()),
            legacy_secret: Some(secret.into()),
            legacy_name: Some(name.into()),
            legacy_uid: Some(view::uid(service_account).into()),
            ..Claims::default()
        };
        self.signer.sign(&claims, &self.random).ok()
    }

    fn configuration(&self) -> Option<String> {
        Some(self.published.discovery(&self.jwks_uri).to_string())
    }

    fn key_set(&self) -> Option<String> {
        Some(self.published.jwks().to_string())
    }
}
