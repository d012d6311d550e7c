//! The cluster's authorities, keys and certificates, as files below `server/tls` and `agent`; made when missing, and
//! renewed when a name is missing, an end is near or the clock was wrong. Nothing of it is lost to an expired certificate:
//! every start, and a daily look, mends them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki::{Algorithm, Authority, Certificate, DAY, JoinToken, KeyPair, Leaf, Names, SystemRandom};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::files;

/// Leaves are valid for a year and replaced when less than 120 days are left (k3s: 120).
pub const VALIDITY: i64 = 365 * DAY;
const WINDOW: i64 = 120 * DAY;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{}: {source}", path.display())]
    Pki { path: PathBuf, source: pki::Error },
    #[error("{}: the token is not the one that this cluster was made with", path.display())]
    OtherToken { path: PathBuf },
}

/// A certificate (chain) and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    /// The chain and the key as TLS wants them.
    pub fn der(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), pem::Error> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}

/// What a server needs to be one.
pub struct Identity {
    pub server_ca: Arc<Authority>,
    pub client_ca: Arc<Authority>,
    pub front_proxy_ca: Authority,
    pub service_account_key: KeyPair,
    /// The API's serving certificate.
    pub serving: Pair,
    pub admin: Pair,
    /// As a client of kubelets.
    pub kubelet_client: Pair,
    /// As a proxy in front of aggregated API servers.
    pub front_proxy: Pair,
    /// Join secrets: of servers, and of agents.
    pub server_secret: String,
    pub agent_secret: String,
}

/// What certificates depend on.
pub struct Wanted<'a> {
    /// Names and addresses of the API server.
    pub names: Names,
    pub token: Option<&'a str>,
    pub agent_token: Option<&'a str>,
    /// Seconds since 1970.
    pub now: i64,
}

impl Identity {
    /// Reads what is there and makes what is not. `dir` is `<data-dir>/server`.
    pub fn load(dir: &Path, wanted: &Wanted<'_>) -> Result<Self, Error> {
        let tls = dir.join("tls");
        files::make_dir(dir, 0o700)?;
        files::make_dir(&tls, 0o700)?;
        let authority = |name: &str| load_authority(&tls.join(name), &format!("sampan-{name}"), wanted.now);
        let (server_ca, client_ca, front_proxy_ca) =
            (authority("server-ca")?, authority("client-ca")?, authority("request-header-ca")?);
        let leaf =
            |name: &str, authority: &Authority, leaf: &Leaf| load_leaf(&tls.join(name), authority, leaf, wanted.now);
        let client = |user: &str, groups: &[&str]| Leaf::client(user, groups, wanted.now, VALIDITY);
        let serving = leaf(
            "serving-kube-apiserver",
            &server_ca,
            &Leaf::server("kube-apiserver", wanted.names.clone(), wanted.now, VALIDITY),
        )?;
        let admin = leaf("client-admin", &client_ca, &client("system:admin", &["system:masters"]))?;
        let kubelet_client =
            leaf("client-kube-apiserver", &client_ca, &client("system:apiserver", &["system:masters"]))?;
        let front_proxy = leaf("client-auth-proxy", &front_proxy_ca, &client("system:auth-proxy", &[]))?;
        let service_account_key = load_key(&tls.join("service.key"))?;
        let server_secret = load_secret(&dir.join("token"), wanted.token, &server_ca, "server")?;
        let agent_secret = match wanted.agent_token {
            None if !dir.join("agent-token").exists() => server_secret.clone(),
            token => load_secret(&dir.join("agent-token"), token, &server_ca, "node")?,
        };
        let node_token = JoinToken::full(&server_ca.bundle_pem(), "server", &server_secret)
            .map_err(|source| Error::Pki { path: dir.join("node-token"), source })?;
        files::write(&dir.join("node-token"), format!("{node_token}\n").as_bytes(), 0o600)?;
        Ok(Self {
            server_ca: server_ca.into(),
            client_ca: client_ca.into(),
            front_proxy_ca,
            service_account_key,
            serving,
            admin,
            kubelet_client,
            front_proxy,
            server_secret,
            agent_secret,
        })
    }
}

/// The API server's names: what clients in and out of the cluster call it.
pub fn serving_names(domain: &str, node: &str, addresses: &[IpAddr], more: &[String]) -> Names {
    let mut names = Names::of(more);
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", node] {
        names.dns.insert(name.to_owned());
    }
    names.dns.insert(format!("kubernetes.default.svc.{domain}"));
    names.ips.extend(addresses);
    names.ips.extend(BTreeSet::from([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]));
    names
}

fn with_extension(stem: &Path, extension: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn load_authority(stem: &Path, name: &str, now: i64) -> Result<Authority, Error> {
    let (certificate, key) = (with_extension(stem, "crt"), with_extension(stem, "key"));
    let bad = |source| Error::Pki { path: certificate.clone(), source };
    if let (Some(certificate), Some(key)) = (files::read(&certificate)?, files::read(&key)?) {
        return Authority::from_pem(&certificate, &key).map_err(bad);
    }
    let made = Authority::create(name, now, &SystemRandom::new()).map_err(bad)?;
    // The key first: a certificate is there only with its key.
    files::write(&key, made.key_pem().as_bytes(), 0o600)?;
    files::write(&certificate, made.bundle_pem().as_bytes(), 0o644)?;
    Ok(made)
}

/// Reads a leaf, or issues it anew if it does not serve any more.
pub fn load_leaf(stem: &Path, authority: &Authority, wanted: &Leaf, now: i64) -> Result<Pair, Error> {
    let (certificate, key) = (with_extension(stem, "crt"), with_extension(stem, "key"));
    if let (Some(held), Some(held_key)) = (files::read(&certificate)?, files::read(&key)?)
        && let (Ok(parsed), Ok(parsed_key)) = (Certificate::from_pem(&held), KeyPair::from_pem(&held_key))
        && parsed.public_key().is_ok_and(|public| public == *parsed_key.public())
    {
        match pki::renewal(&parsed, wanted, authority.certificate(), now, WINDOW) {
            None => return Ok(Pair { certificate: held, key: held_key }),
            Some(why) => tracing::info!(path = %certificate.display(), ?why, "a certificate is issued anew"),
        }
    }
    let (new, new_key) = authority
        .issue_pair(wanted, &SystemRandom::new())
        .map_err(|source| Error::Pki { path: certificate.clone(), source })?;
    files::write(&key, new_key.as_bytes(), 0o600)?;
    files::write(&certificate, new.as_bytes(), 0o644)?;
    Ok(Pair { certificate: new, key: new_key })
}

fn load_key(path: &Path) -> Result<KeyPair, Error> {
    let bad = |source| Error::Pki { path: path.to_owned(), source };
    if let Some(pem) = files::read(path)? {
        let key = KeyPair::from_pem(&pem).map_err(bad)?;
        return match key.public().algorithm {
            Algorithm::Ed25519 => Err(bad(pki::Error::Key("Ed25519 signs no tokens"))),
            _ => Ok(key),
        };
    }
    let key = KeyPair::generate(&SystemRandom::new()).map_err(bad)?;
    files::write(path, key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// A join secret: the stored one, which a given token must agree with, or a new one.
fn load_secret(path: &Path, given: Option<&str>, ca: &Authority, user: &str) -> Result<String, Error> {
    let bad = |source| Error::Pki { path: path.to_owned(), source };
    let secret_of = |token: &str| -> Result<String, Error> {
        Ok(match JoinToken::parse(token).map_err(bad)?.credential {
            pki::Credential::Password { secret, .. } => secret,
            pki::Credential::Bootstrap { id, secret } => format!("{id}.{secret}"),
        })
    };
    let given = given.map(secret_of).transpose()?;
    if let Some(stored) = files::read(path)? {
        let stored = secret_of(stored.trim())?;
        return match given {
            Some(given) if given != stored => Err(Error::OtherToken { path: path.to_owned() }),
            _ => Ok(stored),
        };
    }
    let secret = match given {
        Some(secret) => secret,
        None => pki::random_hex(16, &SystemRandom::new()).map_err(bad)?,
    };
    let full = JoinToken::full(&ca.bundle_pem(), user, &secret).map_err(bad)?;
    files::write(path, format!("{full}\n").as_bytes(), 0o600)?;
    Ok(secret)
}
