//! Service account tokens: JSON web tokens (RFC 7519) with Kubernetes' claims, and what publishes their keys.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{digest, rand::SecureRandom};
use serde::{Deserialize, Serialize};

use crate::{Algorithm, KeyPair, PublicKey, Result, key::rsa_components};

/// Longer tokens are refused unread.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// How far the clocks of two servers may be apart, as upstream has it.
pub const LEEWAY_SECONDS: i64 = 60;

/// Claims of a service account token, in upstream's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Seconds since 1970, as `iat` and `nbf`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub iat: Option<i64>,
    #[serde(default)]
    pub iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub nbf: Option<i64>,
    #[serde(default)]
    pub sub: String,
    /// Of the never expiring tokens in secrets; new ones do not have them.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default, skip_serializing_if = "Option::is_none")]
    pub legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default, skip_serializing_if = "Option::is_none")]
    pub legacy_secret: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub legacy_name: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub legacy_uid: Option<String>,
}

impl Claims {
    pub fn check_times(&self, now: i64) -> std::result::Result<(), Rejection> {
        if self.nbf.or(self.iat).is_some_and(|t| t > now + LEEWAY_SECONDS) {
            return Err(Rejection::NotYetValid);
        }
        if self.exp.is_some_and(|t| t < now - LEEWAY_SECONDS) {
            return Err(Rejection::Expired);
        }
        Ok(())
    }
}

/// The `kubernetes.io` claim: what the token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    #[serde(default)]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default)]
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Rejection {
    /// Not one of ours: another authenticator may know it.
    #[error("not a token of this issuer")]
    Foreign,
    #[error("the token is malformed")]
    Malformed,
    #[error("no key matches the token's signature")]
    Signature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYetValid,
}

/// Signs with one key.
#[derive(Debug)]
pub struct Signer {
    key: KeyPair,
    kid: String,
}

impl Signer {
    pub fn new(key: KeyPair) -> Self {
        let kid = key_id(key.public());
        Self { key, kid }
    }

    pub fn public(&self) -> &PublicKey {
        self.key.public()
    }

    pub fn sign(&self, claims: &Claims, random: &dyn SecureRandom) -> Result<String> {
        let header = Header { alg: algorithm(self.key.public()).to_owned(), kid: Some(self.kid.clone()) };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|j| URL_SAFE_NO_PAD.encode(j)).map_err(|_| crate::Error::Signing)
        };
        let signed = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
        let signature = self.key.sign_jws(signed.as_bytes(), random)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Checks signatures against several keys: the current one and those of before.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<(String, PublicKey)>,
    issuers: Vec<String>,
}

impl Verifier {
    /// `issuers`: the first is the one that signs; others are still accepted.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>, issuers: Vec<String>) -> Self {
        let mut named: Vec<(String, PublicKey)> = Vec::new();
        for key in keys {
            let id = key_id(&key);
            if named.iter().all(|(known, _)| *known != id) {
                named.push((id, key));
            }
        }
        Self { keys: named, issuers }
    }

    /// Signature, issuer and times. Audience and bound objects are the caller's to check.
    pub fn verify(&self, token: &str, now: i64) -> std::result::Result<Claims, Rejection> {
        let claims = self.verify_signature(token)?;
        claims.check_times(now)?;
        Ok(claims)
    }

    /// Signature and issuer alone: what stays true of a token, and may be remembered.
    pub fn verify_signature(&self, token: &str) -> std::result::Result<Claims, Rejection> {
        let parsed = Parsed::read(token).ok_or(Rejection::Foreign)?;
        let issuer: Issuer = serde_json::from_slice(&parsed.payload).map_err(|_| Rejection::Foreign)?;
        if !self.issuers.contains(&issuer.iss) && issuer.iss != LEGACY_ISSUER {
            return Err(Rejection::Foreign);
        }
        let fits = |id: &String| parsed.key_id.as_ref().is_none_or(|wanted| wanted == id);
        if !self.keys.iter().any(|(id, key)| fits(id) && parsed.is_signed_by(key)) {
            return Err(Rejection::Signature);
        }
        serde_json::from_slice(&parsed.payload).map_err(|_| Rejection::Malformed)
    }

    /// The JSON web key set of `/openid/v1/jwks`.
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": self.keys.iter().filter_map(|(kid, key)| jwk(kid, key)).collect::<Vec<_>>() })
    }

    /// The document of `/.well-known/openid-configuration`.
    pub fn discovery(&self, jwks_uri: &str) -> serde_json::Value {
        let mut algorithms: Vec<&str> = self.keys.iter().map(|(_, key)| algorithm(key)).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        serde_json::json!({
            "issuer": self.issuers.first(),
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

/// A token taken apart. Nothing in it is proven before its signature is.
pub struct Parsed<'a> {
    pub algorithm: String,
    pub key_id: Option<String>,
    /// The claims, as JSON.
    pub payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parsed<'a> {
    /// `None` if this is no JSON web token, or far too long for one.
    pub fn read(token: &'a str) -> Option<Self> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        Some(Self { algorithm: header.alg, key_id: header.kid, payload, signed, signature })
    }

    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify_jws(&self.algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// The keys of a JSON web key set (RFC 7517) with their ids, without those that no signature here could be made by.
pub fn keys_of(set: &[u8]) -> std::result::Result<Vec<(String, PublicKey)>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Set {
        #[serde(default)]
        keys: Vec<Jwk>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Jwk {
        kty: String,
        kid: String,
        crv: String,
        n: String,
        e: String,
        x: String,
        y: String,
    }
    let key = |jwk: Jwk| {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let key = match jwk.kty.as_str() {
            "RSA" => PublicKey::from_rsa(&bytes(&jwk.n)?, &bytes(&jwk.e)?),
            "EC" => PublicKey::from_point(&jwk.crv, &bytes(&jwk.x)?, &bytes(&jwk.y)?)?,
            _ => return None,
        };
        Some((jwk.kid, key))
    };
    Ok(serde_json::from_slice::<Set>(set)?.keys.into_iter().filter_map(key).collect())
}

/// Issuer of tokens in secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

#[derive(Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: String,
}

/// Upstream's key id: the SHA-256 of the SubjectPublicKeyInfo.
fn key_id(key: &PublicKey) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &key.spki))
}

fn algorithm(key: &PublicKey) -> &'static str {
    match key.algorithm {
        Algorithm::P256 => "ES256",
        Algorithm::P384 => "ES384",
        Algorithm::Rsa => "RS256",
        Algorithm::Ed25519 => "EdDSA",
    }
}

fn jwk(kid: &str, key: &PublicKey) -> Option<serde_json::Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let alg = algorithm(key);
    match key.algorithm {
        Algorithm::P256 | Algorithm::P384 => {
            let (x, y) = key.key.get(1..)?.split_at(key.key.len() / 2);
            let crv = if key.algorithm == Algorithm::P256 { "P-256" } else { "P-384" };
            Some(serde_json::json!({
                "use": "sig", "kty": "EC", "kid": kid, "crv": crv, "alg": alg, "x": encode(x), "y": encode(y),
            }))
        }
        Algorithm::Rsa => {
            let parts = rsa_components(&key.key)?;
            Some(serde_json::json!({
                "use": "sig", "kty": "RSA", "kid": kid, "alg": alg, "n": encode(parts.n), "e": encode(parts.e),
            }))
        }
        Algorithm::Ed25519 => None,
    }
}

/// `aud` may be one string.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(d)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

/// NumericDate may have a fraction.
fn seconds<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<i64>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(d)?;
    Ok(number.and_then(|n| n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))))
}
