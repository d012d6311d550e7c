//! Which images may be pulled: containers-policy.json(5), of it `insecureAcceptAnything`, `reject` and `sigstoreSigned` with
//! public keys, as cosign signs: a simple-signing payload behind the tag `sha256-<digest>.sig` beside the image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

use super::digest::Digest;
use super::error::{Error, Kind, Result};
use super::manifest::{Manifest, null_default};
use super::reference::{Reference, Version};
use super::registry::Session;

const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// More signatures than anybody makes.
const MAX_SIGNATURES: usize = 64;

/// What must be true of images; of all of them nothing, unless a policy is read.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Policy {
    #[serde(default)]
    default: Vec<Requirement>,
    /// Transport → scope → requirements; registries are `docker`.
    #[serde(default, deserialize_with = "null_default")]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    InsecureAcceptAnything,
    Reject,
    #[serde(rename_all = "camelCase")]
    SigstoreSigned {
        #[serde(default)]
        key_path: PathBuf,
        #[serde(default)]
        key_paths: Vec<PathBuf>,
        #[serde(default)]
        key_data: String,
        /// Both that are taken mean the same where tags are not signed.
        #[serde(default, rename = "signedIdentity")]
        _identity: Option<Identity>,
        #[serde(skip)]
        keys: Vec<Key>,
    },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Identity {
    MatchRepoDigestOrExact,
    MatchRepository,
}

#[derive(Clone)]
struct Key(&'static dyn VerificationAlgorithm, Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Policy {
    /// From the file's content; reads the keys that it names.
    pub fn parse(json: &[u8]) -> Result<Policy, String> {
        let mut policy: Policy = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if policy.default.is_empty() {
            return Err("it has no default".into());
        }
        let scopes = policy.transports.values_mut().flat_map(BTreeMap::values_mut).flatten();
        for requirement in policy.default.iter_mut().chain(scopes) {
            let Requirement::SigstoreSigned { key_path, key_paths, key_data, keys, .. } = requirement else { continue };
            let paths = key_paths.iter().chain(Some(&*key_path).filter(|path| !path.as_os_str().is_empty()));
            for path in paths {
                let pem = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let none = || format!("{}: no ECDSA P-256, Ed25519 or RSA public key", path.display());
                keys.push(key(&pem).ok_or_else(none)?);
            }
            if !key_data.is_empty() {
                let pem = STANDARD.decode(&*key_data).ok().and_then(|pem| String::from_utf8(pem).ok());
                keys.push(pem.and_then(|pem| key(&pem)).ok_or("keyData: no ECDSA P-256, Ed25519 or RSA public key")?);
            }
            if keys.is_empty() {
                return Err("sigstoreSigned needs keyPath, keyPaths or keyData".into());
            }
        }
        Ok(policy)
    }

    /// The requirements of the narrowest scope that the image is in.
    fn of(&self, reference: &Reference) -> &[Requirement] {
        let Some(docker) = self.transports.get("docker") else { return &self.default };
        let (full, repository) = (reference.to_string(), reference.repository());
        let ways = std::iter::successors(Some(&*repository), |way| way.rsplit_once('/').map(|(above, _)| above));
        let domain = reference.domain.as_str();
        let wild = domain.match_indices('.').map(|(at, _)| format!("*{}", &domain[at..]));
        let scopes = [full.clone()].into_iter().chain(ways.map(str::to_owned)).chain(wild).chain([String::new()]);
        scopes.filter_map(|scope| docker.get(&scope)).next().unwrap_or(&self.default)
    }

    /// Whether nothing is wanted of the image.
    pub fn accepts(&self, reference: &Reference) -> bool {
        self.of(reference).iter().all(|requirement| matches!(requirement, Requirement::InsecureAcceptAnything))
    }

    /// Whether the image may be used of which these are the digests: its index's and its manifest's.
    pub async fn check(&self, reference: &Reference, digests: &[&Digest], session: &Session) -> Result<()> {
        let refuse = |why: String| Error::Signature { reference: reference.to_string(), why };
        for requirement in self.of(reference) {
            match requirement {
                Requirement::InsecureAcceptAnything => {}
                Requirement::Reject => {
                    return Err(refuse(format!("Running image docker://{reference} is rejected by policy.")));
                }
                Requirement::SigstoreSigned { keys, .. } => {
                    let mut why = Vec::new();
                    let mut signed = false;
                    for digest in digests {
                        match signature(reference, digest, session, keys).await {
                            Ok(()) => signed = true,
                            Err(error) if error.kind() == Kind::Signature => why.push(error),
                            Err(error) => return Err(error),
                        }
                        if signed {
                            break;
                        }
                    }
                    if let (false, Some(first)) = (signed, why.into_iter().next()) {
                        return Err(first);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks for one signature of that digest by one of the keys.
async fn signature(reference: &Reference, digest: &Digest, session: &Session, keys: &[Key]) -> Result<()> {
    let refuse = |why: &str| Error::Signature { reference: reference.to_string(), why: why.to_owned() };
    let tag = format!("{}-{}.sig", digest.algorithm(), digest.hex());
    let fetched = match session.manifest(&Version::Tag(tag)).await {
        Err(Error::NotFound { .. }) => return Err(refuse("A signature was required, but no signature exists")),
        fetched => fetched?,
    };
    let what = format!("{reference}: signatures");
    let manifest: Manifest = serde_json::from_slice(&fetched.bytes).map_err(|e| Error::malformed(what, e))?;
    let mut why = "A signature was required, but no signature exists";
    for layer in manifest.layers.iter().take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.get(ANNOTATION).and_then(|text| STANDARD.decode(text).ok()) else {
            continue;
        };
        let payload = session.document(&layer.digest).await?;
        why = "cryptographic signature verification failed: invalid signature when validating ASN.1 encoded signature";
        if keys.iter().any(|Key(kind, key)| UnparsedPublicKey::new(*kind, key).verify(&payload, &signature).is_ok()) {
            match said(&payload, reference, digest) {
                Ok(()) => return Ok(()),
                Err(of_another) => why = of_another,
            }
        }
    }
    Err(refuse(why))
}

/// Whether a payload, which somebody who may has signed, speaks of this image.
fn said(payload: &[u8], reference: &Reference, digest: &Digest) -> Result<(), &'static str> {
    let value: serde_json::Value = serde_json::from_slice(payload).map_err(|_| "the signed payload is no JSON")?;
    let critical = &value["critical"];
    if critical["image"]["docker-manifest-digest"].as_str() != Some(digest.as_str()) {
        return Err("the signature is of another digest");
    }
    let named = critical["identity"]["docker-reference"].as_str().and_then(|name| Reference::parse(name).ok());
    match named.is_some_and(|named| named.repository() == reference.repository()) {
        true => Ok(()),
        false => Err("the signature is for another identity"),
    }
}

/// A public key in PEM, by the first bytes of its SubjectPublicKeyInfo.
fn key(pem: &str) -> Option<Key> {
    const P256: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    const EDWARDS: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82";
    let body = pem.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
    if let Some(point) = der.strip_prefix(P256) {
        return Some(Key(&ECDSA_P256_SHA256_ASN1, point.to_vec()));
    }
    if let Some(key) = der.strip_prefix(EDWARDS) {
        return Some(Key(&ED25519, key.to_vec()));
    }
    // 30 82 LENGTH, the algorithm, 03 82 LENGTH 00, the key.
    let key = der.get(4..)?.strip_prefix(RSA)?.get(3..)?;
    Some(Key(&RSA_PKCS1_2048_8192_SHA256, key.to_vec()))
}

#[cfg(test)]
mod tests;
