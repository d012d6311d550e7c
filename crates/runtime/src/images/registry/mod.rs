//! Talking to registries: the OCI distribution API with Docker's token authentication, retries, and one [`Session`]
//! per endpoint and pull.

pub mod auth;
pub mod blob;
pub mod http;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use self::auth::{Challenge, Token, TokenKey};
use self::http::{Call, Client, HttpError, Response, Timeouts};
use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use super::reference::{Reference, Version};
use super::registries::{Endpoint, Registries};
use crate::lock;

pub use self::tls::{NoVerification, system_roots};

/// How patient a pull is.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Tries of one request that fails for a passing reason, and of a blob that makes no headway.
    pub attempts: u32,
    /// The pause before the second try; doubled each time, up to a minute.
    pub backoff: Duration,
    /// A registry that wants us to wait longer than this (`Retry-After`) is unavailable.
    pub max_wait: Duration,
    pub connect_timeout: Duration,
    /// The longest silence of a server that owes us bytes.
    pub stall_timeout: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 5,
            backoff: Duration::from_secs(1),
            max_wait: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

pub struct Registry {
    client: Client,
    registries: Arc<Registries>,
    disable_default_endpoint: bool,
    patience: Patience,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

impl Registry {
    pub fn new(registries: Registries, disable_default_endpoint: bool, patience: Patience) -> Registry {
        let registries = Arc::new(registries);
        let timeouts = Timeouts { connect: patience.connect_timeout, stall: patience.stall_timeout };
        let client = Client::new(tls::TlsConfigs::new(registries.clone()), timeouts);
        Registry { client, registries, disable_default_endpoint, patience, tokens: Mutex::default() }
    }

    /// One session per endpoint, in the order to ask them.
    pub fn sessions(self: &Arc<Self>, reference: &Reference, given: &[Credentials]) -> Vec<Session> {
        let endpoints = self.registries.endpoints(reference, self.disable_default_endpoint);
        let sessions = endpoints.into_iter().map(|endpoint| {
            let mut credentials = if endpoint.trusted { given.to_vec() } else { Vec::new() };
            credentials.extend(self.registries.credentials(&endpoint.authority).or_else(|| {
                endpoint.namespace.is_none().then(|| self.registries.credentials(&reference.domain)).flatten()
            }));
            Session {
                registry: self.clone(),
                reference: reference.clone(),
                endpoint,
                auth: Mutex::new(AuthState { credentials, ..AuthState::default() }),
            }
        });
        sessions.collect()
    }

    pub fn forget_idle(&self) {
        self.client.forget_idle();
    }
}

#[derive(Default)]
struct AuthState {
    /// What to try, the first is current; when they are used up, nobody.
    credentials: Vec<Credentials>,
    challenge: Option<Challenge>,
    /// The header that goes with requests now.
    header: Option<HeaderValue>,
}

/// One endpoint in one pull.
pub struct Session {
    registry: Arc<Registry>,
    pub reference: Reference,
    pub endpoint: Endpoint,
    auth: Mutex<AuthState>,
}

/// A manifest or index as it came.
pub struct Fetched {
    pub digest: Digest,
    pub content_type: String,
    pub bytes: Vec<u8>,
}

impl Session {
    /// The digest that the name stands for, if the registry tells without sending the manifest (which costs no quota).
    pub async fn head(&self) -> Option<Digest> {
        let path = format!("manifests/{}", self.reference.version_text());
        let response = self.request(Method::HEAD, &path, accept_documents()).await.ok()?;
        match &self.reference.version {
            Version::Digest(digest) => Some(digest.clone()),
            Version::Tag(_) => Digest::parse(response.header("docker-content-digest")?).ok(),
        }
    }

    /// The login that the registry has accepted; none if it wanted none.
    pub fn login(&self) -> Option<Credentials> {
        let auth = lock(&self.auth);
        auth.header.as_ref().and(auth.credentials.first().cloned())
    }

    pub async fn manifest(&self, version: &Version) -> Result<Fetched> {
        let text = match version {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest.as_str(),
        };
        let what = format!("{}: manifest {text}", self.reference);
        let mut response = self.request(Method::GET, &format!("manifests/{text}"), accept_documents()).await?;
        let bytes = response.bytes(MAX_DOCUMENT).await.map_err(|e| match e {
            HttpError::TooLong { limit, .. } => Error::Limit { what: what.clone(), limit, unit: "bytes" },
            source => self.unreachable(source),
        })?;
        let want = match version {
            Version::Digest(digest) => Some(digest.clone()),
            Version::Tag(_) => response.header("docker-content-digest").and_then(|text| Digest::parse(text).ok()),
        };
        let mut hasher = want.as_ref().map_or_else(super::digest::Hasher::sha256, Digest::hasher);
        hasher.update(&bytes);
        let got = hasher.finish();
        if let Some(want) = want
            && want != got
        {
            return Err(Error::DigestMismatch { what, want, got });
        }
        let content_type = response.header("content-type").unwrap_or("").to_owned();
        Ok(Fetched { digest: got, content_type, bytes })
    }

    /// A small blob (a config), checked.
    pub async fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut response = self.request(Method::GET, &format!("blobs/{digest}"), HeaderMap::new()).await?;
        let bytes = response.bytes(MAX_DOCUMENT).await.map_err(|source| self.unreachable(source))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let got = hasher.finish();
        if got != *digest {
            return Err(Error::DigestMismatch { what: format!("{}: blob", self.reference), want: digest.clone(), got });
        }
        Ok(bytes)
    }

    fn unreachable(&self, source: HttpError) -> Error {
        Error::Unreachable { reference: self.reference.to_string(), endpoint: self.endpoint.url(), source }
    }

    fn url(&self, path: &str) -> String {
        let Endpoint { prefix, repository, namespace, .. } = &self.endpoint;
        let query = namespace.as_ref().map_or(String::new(), |ns| format!("?ns={ns}"));
        format!("{}{prefix}/{repository}/{path}{query}", self.endpoint.url())
    }

    /// A request that got a 2xx answer: authenticates and retries what may pass.
    async fn request(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response> {
        let patience = &self.registry.patience;
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let mut headers = headers.clone();
            let sent_with = lock(&self.auth).header.clone();
            if let Some(authorization) = sent_with.clone() {
                headers.insert(header::AUTHORIZATION, authorization);
            }
            let call = Call { method: method.clone(), url: self.url(path), headers, body: Bytes::new() };
            let mut response = match self.registry.client.send(call).await {
                Ok(response) => response,
                // Another endpoint may be up while this one is not: no long wait here.
                Err(source @ (HttpError::Broken { .. } | HttpError::Stalled { .. }))
                    if attempt < patience.attempts.min(2) =>
                {
                    tracing::debug!(endpoint = self.endpoint.url(), error = %source, "retrying");
                    sleep(backoff(patience, attempt)).await;
                    attempt += 1;
                    continue;
                }
                Err(source) => return Err(self.unreachable(source)),
            };
            let status = response.status;
            if status.is_success() {
                return Ok(response);
            }
            let wait = response.header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
            let challenge = Challenge::of(&response.headers);
            let body = response.bytes(64 << 10).await.unwrap_or_default();
            let detail = detail(&body);
            let (reference, endpoint) = (self.reference.to_string(), self.endpoint.url());
            match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let denied = Error::Unauthorized { reference, endpoint, status: status.as_u16(), detail };
                    self.authenticate(challenge, sent_with, status, &mut renewed).await?.ok_or(denied)?;
                }
                StatusCode::NOT_FOUND => return Err(Error::NotFound { reference, endpoint }),
                _ if passing(status)
                    && attempt < patience.attempts
                    && wait.is_none_or(|wait| wait <= patience.max_wait) =>
                {
                    sleep(wait.unwrap_or_else(|| backoff(patience, attempt))).await;
                    attempt += 1;
                }
                _ => {
                    let wait = wait
                        .map_or(String::new(), |wait| format!("it wants to be asked again in {} s", wait.as_secs()));
                    let said: Vec<String> = [detail, wait].into_iter().filter(|text| !text.is_empty()).collect();
                    return Err(Error::Answer {
                        reference,
                        endpoint,
                        status: status.as_u16(),
                        detail: said.join("; "),
                    });
                }
            }
        }
    }

    /// After a 401 or 403: finds something better to send. `None` if there is nothing left.
    async fn authenticate(
        &self,
        challenge: Option<Challenge>,
        sent_with: Option<HeaderValue>,
        status: StatusCode,
        renewed: &mut bool,
    ) -> Result<Option<()>> {
        let (credentials, challenge) = {
            let mut auth = lock(&self.auth);
            if auth.header != sent_with {
                // Another request of this pull has just found it.
                return Ok(Some(()));
            }
            let known = challenge.or_else(|| auth.challenge.clone());
            let Some(challenge) = known else { return Ok(None) };
            auth.challenge = Some(challenge.clone());
            if sent_with.is_some() {
                // A token may have run out; credentials do not.
                let expired = status == StatusCode::UNAUTHORIZED && challenge.is_bearer() && !*renewed;
                *renewed = true;
                if !expired {
                    if auth.credentials.is_empty() {
                        return Ok(None);
                    }
                    auth.credentials.remove(0);
                    *renewed = false;
                    if auth.credentials.is_empty() {
                        return Ok(None);
                    }
                }
            }
            (auth.credentials.first().cloned(), challenge)
        };
        let header = match (&challenge, &credentials) {
            (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                Credentials::basic_header(username, password)
            }
            (_, Some(Credentials::RegistryToken(token))) => format!("Bearer {token}"),
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { .. }, _) => {
                match self.token(&challenge, credentials.as_ref(), sent_with.is_some()).await {
                    Ok(token) => format!("Bearer {token}"),
                    Err(error) => {
                        // Wrong credentials for the token server: the next ones, if any.
                        let mut auth = lock(&self.auth);
                        if matches!(error, Error::Unauthorized { .. }) && auth.credentials.len() > 1 {
                            auth.credentials.remove(0);
                            return Ok(Some(()));
                        }
                        return Err(error);
                    }
                }
            }
        };
        let Ok(mut header) = HeaderValue::from_str(&header) else { return Ok(None) };
        header.set_sensitive(true);
        lock(&self.auth).header = Some(header);
        Ok(Some(()))
    }

    async fn token(&self, challenge: &Challenge, credentials: Option<&Credentials>, fresh: bool) -> Result<String> {
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(String::new()) };
        let scope = scope.clone().unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let key = TokenKey::new(realm, service, &scope, credentials);
        let tokens = || lock(&self.registry.tokens);
        let now = Instant::now();
        if !fresh && let Some(token) = tokens().get(&key).filter(|token| token.expires > now) {
            return Ok(token.text.clone());
        }
        if self.endpoint.https && credentials.is_some() && !realm.starts_with("https://") {
            let why = format!("it wants credentials sent to {realm} in the clear");
            return Err(Error::malformed(self.endpoint.url(), why));
        }
        let patience = &self.registry.patience;
        let mut attempt = 1;
        loop {
            let call = auth::token_call(realm, service, &scope, credentials);
            let mut response = self.registry.client.send(call).await.map_err(|source| self.unreachable(source))?;
            let status = response.status;
            let wait = response.header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
            let body = response.bytes(1 << 20).await.map_err(|source| self.unreachable(source))?;
            if status.is_success() {
                let token =
                    Token::parse(&body, now).ok_or_else(|| Error::malformed(realm, "its answer holds no token"))?;
                let text = token.text.clone();
                let mut tokens = tokens();
                tokens.retain(|_, token| token.expires > now);
                tokens.insert(key, token);
                return Ok(text);
            }
            let (reference, endpoint) = (self.reference.to_string(), realm.clone());
            if passing(status) && attempt < patience.attempts && wait.is_none_or(|wait| wait <= patience.max_wait) {
                sleep(wait.unwrap_or_else(|| backoff(patience, attempt))).await;
                attempt += 1;
                continue;
            }
            let (status, detail) = (status.as_u16(), detail(&body));
            return Err(match status {
                // Docker's token server answers 400 to accounts it does not know.
                400 | 401 | 403 => Error::Unauthorized { reference, endpoint, status, detail },
                _ => Error::Answer { reference, endpoint, status, detail },
            });
        }
    }
}

fn accept_documents() -> HeaderMap {
    let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&accept) {
        headers.insert(header::ACCEPT, value);
    }
    headers
}

fn passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) && status != StatusCode::NOT_IMPLEMENTED
}

/// 1, 2, 4, … times the first pause.
fn backoff(patience: &Patience, attempt: u32) -> Duration {
    (patience.backoff * 2u32.saturating_pow(attempt.saturating_sub(1).min(6))).min(Duration::from_secs(60))
}

/// The registry's own words, kept short and printable.
fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problems {
        #[serde(default)]
        errors: Vec<Problem>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(problems) = serde_json::from_slice::<Problems>(body) else { return String::new() };
    let mut texts: Vec<String> = problems.errors.into_iter().map(|p| format!("{} {}", p.code, p.message)).collect();
    texts.push(problems.details);
    texts.retain(|text| !text.trim().is_empty());
    texts.join(", ").chars().filter(|c| !c.is_control()).take(300).collect()
}
