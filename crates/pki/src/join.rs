//! The join token, as k3s has it: `K10<hash of the CA>::<user>:<secret>`, a bare secret, or a bootstrap token.

use ring::{digest, rand::SecureRandom};

use crate::{Certificate, Error, Result};

const PREFIX: &str = "K10";

/// What the holder shows to the server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// `server:secret` or `node:secret`; a bare secret has no user.
    Password { user: Option<String>, secret: String },
    /// A kubeadm bootstrap token, `abcdef.0123456789abcdef`.
    Bootstrap { id: String, secret: String },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?})"),
            Self::Bootstrap { id, .. } => write!(f, "Bootstrap({id})"),
        }
    }
}

/// A parsed join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Lower-case hex; absent in a short token, which trusts whatever CA answers.
    pub ca_hash: Option<String>,
    pub credential: Credential,
}

impl JoinToken {
    /// The full token for `user` (`server` or `node`) with the cluster's CA bundle pinned.
    pub fn full(bundle_pem: &str, user: &str, secret: &str) -> Result<String> {
        Ok(format!("{PREFIX}{}::{user}:{secret}", ca_hash(bundle_pem)?))
    }

    pub fn parse(token: &str) -> Result<Self> {
        let token = token.trim();
        if token.is_empty() {
            return Err(Error::JoinToken("it is empty"));
        }
        let Some(rest) = token.strip_prefix(PREFIX) else {
            let credential =
                bootstrap(token).unwrap_or_else(|| Credential::Password { user: None, secret: token.to_owned() });
            return Ok(Self { ca_hash: None, credential });
        };
        let (hash, rest) = rest.split_once("::").ok_or(Error::JoinToken("no `::` follows the CA's hash"))?;
        if !hash.is_empty() && (hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(Error::JoinToken("the CA's hash is not 64 hexadecimal digits"));
        }
        let credential = match bootstrap(rest) {
            Some(credential) => credential,
            None => match rest.split_once(':') {
                Some((user, secret)) if !secret.is_empty() => Credential::Password {
                    user: Some(user.to_owned()).filter(|u| !u.is_empty()),
                    secret: secret.to_owned(),
                },
                _ => return Err(Error::JoinToken("neither `user:secret` nor a bootstrap token follows `::`")),
            },
        };
        Ok(Self { ca_hash: Some(hash.to_ascii_lowercase()).filter(|h| !h.is_empty()), credential })
    }

    /// Checks the bundle that a server handed out. A token without a hash accepts any.
    pub fn pin(&self, bundle_pem: &str) -> Result<()> {
        let Some(expected) = &self.ca_hash else { return Ok(()) };
        let found = ca_hash(bundle_pem)?;
        if found == *expected { Ok(()) } else { Err(Error::CaHash { expected: expected.clone(), found }) }
    }
}

fn bootstrap(text: &str) -> Option<Credential> {
    let (id, secret) = text.split_once('.')?;
    let fits =
        |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (fits(id, 6) && fits(secret, 16)).then(|| Credential::Bootstrap { id: id.to_owned(), secret: secret.to_owned() })
}

/// k3s' hash: of the PEM text for a single certificate; of the root's DER when the bundle is a chain.
pub fn ca_hash(bundle_pem: &str) -> Result<String> {
    let all = Certificate::all_from_pem(bundle_pem)?;
    let root = (all.len() > 1)
        .then(|| {
            let mut at = &all[0];
            for _ in 0..all.len() {
                if at.is_signed_by(at) {
                    return Some(at);
                }
                at = all.iter().find(|above| at.is_signed_by(above))?;
            }
            None
        })
        .flatten();
    Ok(hex(digest::digest(&digest::SHA256, root.map_or(bundle_pem.as_bytes(), |c| &c.der)).as_ref()))
}

/// `bytes` random bytes as hex: secrets of tokens and passwords of nodes.
pub fn random_hex(bytes: usize, random: &dyn SecureRandom) -> Result<String> {
    let mut buffer = vec![0; bytes];
    random.fill(&mut buffer).map_err(|_| Error::Randomness)?;
    Ok(hex(&buffer))
}

/// Compares secrets in a time that tells nothing of where they differ.
pub fn same_secret(a: &str, b: &str) -> bool {
    // Hashed first: what a comparison's time could tell is of the hash, from which nothing can be built.
    let hashed = |s: &str| digest::digest(&digest::SHA256, s.as_bytes());
    hashed(a).as_ref() == hashed(b).as_ref()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
