//! `sampan agent`: a node of another server's cluster. It joins once, keeps what it was given, and starts from that
//! when no server is in reach.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Body, body};
use http::{Request, header};
use pki::{Certificate, CertificateRequest, Credential, DAY, JoinToken, KeyPair, Names, Subject, SystemRandom};

use reconcile::io::{Client, Identity, collect};
use runtime::images::registries::Registries;

use crate::cli::AgentArgs;
use crate::identity::Pair;
use crate::join::{Ask, Given, PATH};
use crate::places::Places;
use crate::wiring::host::now_ns;
use crate::wiring::remote::{self, Remote, Trust};
use crate::{facts, files, machine};

const WINDOW: i64 = 120 * DAY;
const MAX_ANSWER_BYTES: usize = 1 << 20;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error(transparent)]
    Remote(#[from] remote::Error),
    #[error("a token is needed: --token, --token-file or SAMPAN_TOKEN (on the server: `sampan token`)")]
    NoToken,
    #[error("the token: {0}")]
    Token(pki::Error),
    #[error("cannot make keys")]
    Keys(#[source] pki::Error),
    #[error("{} is garbled: {source}", path.display())]
    Garbled { path: PathBuf, source: serde_json::Error },
    #[error("the server at {url} does not let this node join: {why}")]
    Refused { url: String, why: String },
    #[error("the answer of the server at {url} cannot be read: {why}")]
    Answer { url: String, why: String },
}

impl Error {
    /// Trying again would not help: the token or a name is wrong.
    fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::Remote(remote::Error::Connect { .. } | remote::Error::Timeout { .. } | remote::Error::Http { .. })
                | Self::Answer { .. }
        )
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Join(#[from] Error),
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    Remote(#[from] remote::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error("cannot start the runtime: {0}")]
    Tokio(std::io::Error),
}

pub fn run(args: AgentArgs) -> Result<(), RunError> {
    let name = facts::node_name(&args.node)?;
    let addresses = facts::node_addresses(&args.node)?;
    facts::root("")?;
    let registries = machine::registries(&args.node)?;
    let kubelet = machine::kubelet_settings(&args.node)?;
    crate::logging(&args.node.log);
    facts::raise_descriptors();
    let runtime = crate::server::runtime().map_err(RunError::Tokio)?;
    let outcome = runtime.block_on(serve(args, name, addresses, registries, kubelet));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve(
    args: AgentArgs,
    name: String,
    addresses: Vec<IpAddr>,
    registries: Registries,
    kubelet: node::settings::Settings,
) -> Result<(), RunError> {
    let places = Places::new(&args.node.place.data_dir);
    let member = join(&args, &places.agent(), &name, &addresses).await?;
    let remote = |pair: &Pair| -> Result<Client, remote::Error> {
        let tls = remote::tls(&Trust::Bundle(&member.given.server_ca), Some(pair), &[b"h2"])?;
        Ok(Client::new(Arc::new(Remote::new(&args.server, tls)?), Identity(format!("system:node:{name}").into())))
    };
    let node = machine::start(machine::Setup {
        args: &args.node,
        name: &name,
        addresses: &addresses,
        cluster: &member.given.cluster,
        places: &places,
        registries,
        kubelet: &kubelet,
        client: remote(&member.client)?,
        network_client: remote(&member.network)?,
        serving: &member.serving,
        client_ca: &member.given.client_ca,
    })
    .await?;
    tracing::info!(node = name, server = args.server, "the node runs");
    crate::server::stop_signal().await;
    tracing::info!("stopping; pods go on");
    node.close();
    Ok(())
}

/// A node's place in the cluster.
pub struct Membership {
    pub given: Given,
    pub client: Pair,
    pub serving: Pair,
    pub network: Pair,
}

/// Joins, or takes up what an earlier join gave. `dir` is `<data-dir>/agent`.
pub async fn join(args: &AgentArgs, dir: &Path, node: &str, addresses: &[IpAddr]) -> Result<Membership, Error> {
    files::make_dir(dir, 0o700)?;
    let kept = kept(dir)?;
    let client_key = key(&dir.join("client-kubelet.key"))?;
    let serving_key = key(&dir.join("serving-kubelet.key"))?;
    let network_key = key(&dir.join("client-network.key"))?;
    let membership = |given: Given| Membership {
        network: Pair { certificate: given.network_certificate.clone(), key: network_key.to_pem() },
        client: Pair { certificate: given.client_certificate.clone(), key: client_key.to_pem() },
        serving: Pair { certificate: given.serving_certificate.clone(), key: serving_key.to_pem() },
        given,
    };
    if let Some(given) = &kept
        && still_good(given, &client_key, &serving_key, node, addresses)
    {
        return Ok(membership(given.clone()));
    }
    let token = facts::token(&args.node)?.ok_or(Error::NoToken)?;
    let token = JoinToken::parse(&token).map_err(Error::Token)?;
    let mut retry = FIRST_RETRY;
    loop {
        match ask(args, dir, node, addresses, &token, [&client_key, &serving_key, &network_key]).await {
            Ok(given) => {
                let text = serde_json::to_vec(&given).unwrap_or_default();
                files::write(&dir.join("membership.json"), &text, 0o600)?;
                return Ok(membership(given));
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => match kept {
                // Certificates that end soon are still better than a node that does not start.
                Some(given) => {
                    tracing::warn!(%error, "the server is not in reach; starting from what is known");
                    return Ok(membership(given));
                }
                None => {
                    tracing::info!(%error, "waiting for the server");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            },
        }
    }
}

fn kept(dir: &Path) -> Result<Option<Given>, Error> {
    let path = dir.join("membership.json");
    let Some(text) = files::read(&path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|source| Error::Garbled { path, source })
}

fn key(path: &Path) -> Result<KeyPair, Error> {
    if let Some(pem) = files::read(path)?
        && let Ok(key) = KeyPair::from_pem(&pem)
    {
        return Ok(key);
    }
    let key = KeyPair::generate(&SystemRandom::new()).map_err(Error::Keys)?;
    files::write(path, key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn still_good(given: &Given, client_key: &KeyPair, serving_key: &KeyPair, node: &str, addresses: &[IpAddr]) -> bool {
    let now = now_ns() / 1_000_000_000;
    let good = |pem: &str, key: &KeyPair| {
        Certificate::from_pem(pem).ok().filter(|certificate| {
            certificate.public_key().is_ok_and(|public| public == *key.public())
                && certificate.not_before <= now
                && certificate.not_after - now > WINDOW
                && certificate.subject.common_name == format!("system:node:{node}")
        })
    };
    good(&given.client_certificate, client_key).is_some()
        && good(&given.serving_certificate, serving_key)
            .is_some_and(|certificate| addresses.iter().all(|address| certificate.names.ips.contains(address)))
}

async fn ask(
    args: &AgentArgs,
    dir: &Path,
    node: &str,
    addresses: &[IpAddr],
    token: &JoinToken,
    [client_key, serving_key, network_key]: [&KeyPair; 3],
) -> Result<Given, Error> {
    let (address, host) = remote::target(&args.server, 6443)?;
    // Whoever answers is believed only if its CA has the token's hash; the secret goes to nobody else.
    let anyone = remote::tls(&Trust::Anyone, None, &[b"http/1.1"])?;
    let request = Request::new(body::empty());
    let request = with_uri(request, "/cacerts");
    let bundle = text(&args.server, remote::once_tls(&address, &host, anyone, request).await?).await?.1;
    token.pin(&bundle).map_err(Error::Token)?;
    let trusted = remote::tls(&Trust::Bundle(&bundle), None, &[b"http/1.1"])?;

    let random = SystemRandom::new();
    let request_for = |key: &KeyPair| {
        CertificateRequest::create(
            key,
            &Subject { common_name: format!("system:node:{node}"), organizations: vec![] },
            &Names::default(),
            &random,
        )
        .map_err(Error::Keys)
    };
    let ask = Ask {
        node_name: node.to_owned(),
        node_password: password(dir)?,
        addresses: addresses.to_vec(),
        client_request: request_for(client_key)?,
        serving_request: request_for(serving_key)?,
        network_request: request_for(network_key)?,
    };
    let mut request = Request::new(body::full(serde_json::to_vec(&ask).unwrap_or_default()));
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if let Ok(authorization) = header::HeaderValue::from_str(&basic(&token.credential)) {
        request.headers_mut().insert(header::AUTHORIZATION, authorization);
    }
    let request = with_uri(request, PATH);
    let (code, text) = text(&args.server, remote::once_tls(&address, &host, trusted, request).await?).await?;
    if code >= 400 {
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let why = json["message"].as_str().map_or_else(|| format!("HTTP {code}"), str::to_owned);
        return Err(if code >= 500 {
            Error::Answer { url: args.server.clone(), why }
        } else {
            Error::Refused { url: args.server.clone(), why }
        });
    }
    serde_json::from_str(&text).map_err(|error| Error::Answer { url: args.server.clone(), why: error.to_string() })
}

fn with_uri(mut request: Request<Body>, path: &'static str) -> Request<Body> {
    *request.uri_mut() = http::Uri::from_static(path);
    request
}

async fn text(url: &str, response: http::Response<Body>) -> Result<(u16, String), Error> {
    let code = response.status().as_u16();
    let failed = |why: String| Error::Answer { url: url.to_owned(), why };
    let body = collect(response.into_body(), MAX_ANSWER_BYTES).await.map_err(|error| failed(error.to_string()))?;
    Ok((code, String::from_utf8(body.to_vec()).map_err(|error| failed(error.to_string()))?))
}

fn basic(credential: &Credential) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let shown = match credential {
        Credential::Password { user, secret } => format!("{}:{secret}", user.as_deref().unwrap_or("node")),
        Credential::Bootstrap { id, secret } => format!("node:{id}.{secret}"),
    };
    format!("Basic {}", STANDARD.encode(shown))
}

/// This machine's proof that it is the node it says it is.
fn password(dir: &Path) -> Result<String, Error> {
    let path = dir.join("node-password");
    if let Some(password) = files::read(&path)? {
        return Ok(password.trim().to_owned());
    }
    let password = pki::random_hex(16, &SystemRandom::new()).map_err(Error::Keys)?;
    files::write(&path, password.as_bytes(), 0o600)?;
    Ok(password)
}
