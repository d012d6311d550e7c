//! Who is asking: the implementation of [`crate::seams::Authenticate`].
//!
//! A request may carry several credentials; the first that holds wins, in upstream's order: front proxy, client
//! certificate, then bearer tokens: those that can be judged here (static, service account, bootstrap) before those that
//! others must be asked for (OpenID Connect, webhook). If there were credentials and none held, the request is refused;
//! without any it is the caller's to make it anonymous.

mod certificates;
mod claims;
pub mod config;
pub(crate) mod impersonation;
pub mod issue;
pub mod oidc;
pub mod service_accounts;
#[cfg(test)]
mod tests;
pub mod token_file;
pub mod webhook;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, header, request::Parts};
use schema::Value;

use crate::outside::Remembered;
use crate::seams::{Authenticate, Found, Peer, Refused, Reviewed};
use crate::view::{self, SECRETS, View};
use crate::{Server, User};

use certificates::Trust;
use oidc::Issuer;
use service_accounts::ServiceAccounts;
use webhook::TokenWebhook;

/// What another has found out is believed again for so long: upstream's cache of successful tokens.
const BELIEVED: Duration = Duration::from_secs(10);
const BELIEVED_MAX: usize = 10_000;

/// What the authenticator accepts.
pub struct Setup {
    /// Who signs client certificates, as PEM; empty for none.
    pub client_ca_pem: String,
    /// Who signs front proxies' certificates, and which common names may be one (any, if empty).
    pub request_header_ca_pem: String,
    pub request_header_names: Vec<String>,
    pub request_headers: RequestHeaders,
    /// Keys and issuers of service account tokens.
    pub verifier: pki::jwt::Verifier,
    /// `--api-audiences`: what a token must be good for; the first issuer by default.
    pub audiences: Vec<String>,
    /// Token → user: `--token-auth-file`.
    pub static_tokens: HashMap<String, User>,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_tokens: bool,
    pub issuers: Vec<Issuer>,
    pub webhook: Option<TokenWebhook>,
}

/// In which headers a front proxy says who asks.
#[derive(Clone, Debug)]
pub struct RequestHeaders {
    pub user: Vec<HeaderName>,
    pub uid: Vec<HeaderName>,
    pub group: Vec<HeaderName>,
    /// In lower case.
    pub extra_prefix: Vec<String>,
}

impl Default for RequestHeaders {
    fn default() -> Self {
        Self {
            user: vec![HeaderName::from_static("x-remote-user")],
            uid: vec![HeaderName::from_static("x-remote-uid")],
            group: vec![HeaderName::from_static("x-remote-group")],
            extra_prefix: vec!["x-remote-extra-".into()],
        }
    }
}

pub struct Authenticator {
    clients: Trust,
    front_proxies: Trust,
    front_proxy_names: Vec<String>,
    headers: RequestHeaders,
    accounts: ServiceAccounts,
    static_tokens: HashMap<[u8; 32], User>,
    bootstrap_tokens: bool,
    outside: Outside,
}

/// A user and the audiences that its token is good for.
type Known = Reviewed;

impl Authenticator {
    pub fn new(setup: Setup) -> Result<Self, pki::Error> {
        Ok(Self {
            clients: Trust::from_pem(&setup.client_ca_pem)?,
            front_proxies: Trust::from_pem(&setup.request_header_ca_pem)?,
            front_proxy_names: setup.request_header_names,
            headers: setup.request_headers,
            accounts: ServiceAccounts::new(setup.verifier, setup.audiences),
            static_tokens: setup.static_tokens.into_iter().map(|(token, user)| (digest(&token), user)).collect(),
            bootstrap_tokens: setup.bootstrap_tokens,
            outside: Outside {
                issuers: RwLock::new(setup.issuers.into()),
                webhook: setup.webhook,
                believed: Remembered::new(BELIEVED_MAX),
            },
        })
    }

    /// Puts other issuers in the place of those it has, once all of them have been reached.
    ///
    /// # Errors
    /// Why one cannot be; then everything stays as it was.
    pub async fn replace_issuers(&self, server: &Server, issuers: Vec<Issuer>) -> Result<(), String> {
        for issuer in &issuers {
            let url = &issuer.url;
            let unhealthy = |why| format!("oidc: authenticator for issuer {url:?} is not healthy: {why}");
            issuer.prepare(server).await.map_err(unhealthy)?;
        }
        *self.outside.issuers.write().unwrap_or_else(PoisonError::into_inner) = issuers.into();
        Ok(())
    }

    /// What can be decided here. `now` in seconds since 1970.
    fn decide(&self, view: &dyn View, headers: &HeaderMap, peer: &Peer, now: i64) -> Result<Option<User>, Refused> {
        let mut refused = Vec::new();
        let mut attempts: Vec<Result<Option<User>, String>> = Vec::new();
        if !peer.certificates.is_empty() {
            let proxied = self.front_proxy(headers, peer, now);
            if let Ok(Some(user)) = proxied {
                return Ok(Some(user));
            }
            attempts.push(self.clients.user(&peer.certificates, now));
        }
        if let Some(token) = bearer(headers) {
            let known = self.token(view, &token, self.accounts.audiences(), now);
            let user = known.map(|known| known.map(|(user, _)| user));
            attempts.push(user.and_then(|user| user.map(Some).ok_or_else(|| "invalid bearer token".into())));
        }
        for attempt in attempts {
            match attempt {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(why) => refused.push(why),
            }
        }
        if refused.is_empty() { Ok(None) } else { Err(Refused(refused.join("; "))) }
    }

    /// `None`: nobody here knows this token.
    fn token(&self, view: &dyn View, token: &str, audiences: &[String], now: i64) -> Result<Option<Known>, String> {
        let own = || own_of(audiences, self.accounts.audiences());
        if let Some(user) = self.static_tokens.get(&digest(token)) {
            return Ok(Some((user.clone(), own())).filter(|(_, good_for)| !good_for.is_empty()));
        }
        if let Some(known) = self.accounts.user(view, token, audiences, now)? {
            return Ok(Some(known));
        }
        if !self.bootstrap_tokens {
            return Ok(None);
        }
        Ok(bootstrap_user(view, token, now)?.map(|user| (user, own())).filter(|(_, good_for)| !good_for.is_empty()))
    }

    fn front_proxy(&self, headers: &HeaderMap, peer: &Peer, now: i64) -> Result<Option<User>, String> {
        let all = |names: &[HeaderName]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name)).map(text);
            values.filter(|value| !value.is_empty()).collect()
        };
        let Some(name) = all(&self.headers.user).into_iter().next() else { return Ok(None) };
        let Some(proxy) = self.front_proxies.user(&peer.certificates, now)? else { return Ok(None) };
        if !self.front_proxy_names.is_empty() && !self.front_proxy_names.contains(&proxy.name) {
            return Err(format!("{:?} is not an allowed front proxy", proxy.name));
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.headers.extra_prefix {
            for (header, value) in headers {
                if let Some(key) = header.as_str().strip_prefix(prefix) {
                    extra.entry(crate::request::percent_decode(key)).or_default().push(text(value));
                }
            }
        }
        let uid = all(&self.headers.uid).into_iter().next().unwrap_or_default();
        Ok(Some(User { name, uid, groups: all(&self.headers.group), extra }))
    }
}

/// Those who must be asked whether they know a token.
struct Outside {
    issuers: RwLock<Arc<[Issuer]>>,
    webhook: Option<TokenWebhook>,
    believed: Remembered<Known>,
}

impl Outside {
    async fn token(
        &self,
        server: &Server,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<Known>, String> {
        let issuers = self.issuers.read().unwrap_or_else(PoisonError::into_inner).clone();
        if issuers.is_empty() && self.webhook.is_none() {
            return Ok(None);
        }
        let key = Remembered::<()>::key(std::iter::once(token).chain(wanted.iter().map(String::as_str)));
        if let Some(known) = self.believed.get(&key) {
            return Ok(Some(known));
        }
        let mut refused = Vec::new();
        let mut known = None;
        for issuer in issuers.iter() {
            match issuer.user(server, token, server.now()).await {
                Ok(None) => continue,
                Ok(Some(user)) => {
                    known = Some((user, own_of(wanted, own))).filter(|(_, good_for)| !good_for.is_empty())
                }
                Err(why) => refused.push(why),
            }
            break;
        }
        if let (None, Some(webhook)) = (&known, &self.webhook) {
            match webhook.user(server, token, wanted, own).await {
                Ok(answer) => known = answer,
                Err(why) => refused.push(why),
            }
        }
        match known {
            Some(known) => {
                self.believed.put(key, known.clone(), BELIEVED);
                Ok(Some(known))
            }
            None if refused.is_empty() => Ok(None),
            None => Err(refused.join("; ")),
        }
    }
}

/// What a token without audiences is good for: the server itself only.
fn own_of(wanted: &[String], own: &[String]) -> Vec<String> {
    wanted.iter().filter(|audience| own.contains(audience)).cloned().collect()
}

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// A header's value, which need not be ASCII.
pub(super) fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The subprotocol in which browsers' WebSockets carry a token.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// Takes credentials out of a request that may go on to others, once it is known whose they are.
pub fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    if protocols(headers).any(|protocol| protocol.starts_with(PROTOCOL)) {
        let others: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(PROTOCOL)).collect();
        match http::HeaderValue::from_str(&others.join(", ")) {
            Ok(value) if !others.is_empty() => drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value)),
            _ => drop(headers.remove(header::SEC_WEBSOCKET_PROTOCOL)),
        }
    }
}

/// `Authorization: Bearer`, or what a WebSocket offers beside its own subprotocols.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let is_websocket = headers.get(header::UPGRADE).is_some_and(|to| text(to).eq_ignore_ascii_case("websocket"));
    if !is_websocket || protocols(headers).all(|protocol| protocol.starts_with(PROTOCOL)) {
        return None;
    }
    let encoded = protocols(headers).find_map(|protocol| protocol.strip_prefix(PROTOCOL))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
}

/// A field of a Secret's data, decoded.
pub(crate) fn secret_text(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(secret.get(&["data", key])?.as_str()?).ok()?).ok()
}

/// kubeadm's bootstrap tokens: secrets `kube-system/bootstrap-token-ID`.
fn bootstrap_user(view: &dyn View, token: &str, now: i64) -> Result<Option<User>, String> {
    const GROUP: &str = "system:bootstrappers";
    let Ok(pki::JoinToken { ca_hash: None, credential: pki::Credential::Bootstrap { id, secret } }) =
        pki::JoinToken::parse(token)
    else {
        return Ok(None);
    };
    let held = view
        .get(SECRETS, "kube-system", &format!("bootstrap-token-{id}"))
        .filter(|s| s.str_at(&["type"]) == "bootstrap.kubernetes.io/token" && !view::is_deleting(s));
    let refuse = |why: &str| Err(format!("bootstrap token {id}: {why}"));
    let Some(held) = held else { return refuse("there is no such secret") };
    let field = |key: &str| secret_text(&held, key).unwrap_or_default();
    if !pki::same_secret(&field("token-secret"), &secret) || field("token-id") != id {
        return refuse("it does not match its secret");
    }
    let expiration = field("expiration");
    // What cannot be read has expired, as upstream has it.
    if !expiration.is_empty() && schema::time::parse(&expiration).is_none_or(|(end, _)| end <= now) {
        return refuse("it has expired");
    }
    if field("usage-bootstrap-authentication") != "true" {
        return refuse("it is not for authentication");
    }
    let mut user = User::new(format!("system:bootstrap:{id}"), &[GROUP]);
    let mut extra: Vec<String> =
        field("auth-extra-groups").split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect();
    if extra.iter().any(|group| !is_bootstrap_group(group)) {
        return refuse("one of its groups is not below system:bootstrappers:");
    }
    extra.sort();
    user.groups.extend(extra);
    Ok(Some(user))
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(is_word)
        && rest.bytes().all(|b| is_word(b) || b == b':' || b == b'-')
}

impl Authenticate for Authenticator {
    fn authenticate<'a>(&'a self, server: &'a Server, parts: &'a Parts, peer: &'a Peer) -> Found<'a, User> {
        let refused = match self.decide(server, &parts.headers, peer, server.now()) {
            Err(refused) => refused,
            decided => return Box::pin(std::future::ready(decided)),
        };
        Box::pin(async move {
            let Some(token) = bearer(&parts.headers) else { return Err(refused) };
            let own = self.accounts.audiences();
            match self.outside.token(server, &token, own, own).await {
                Ok(Some((user, _))) => Ok(Some(user)),
                Ok(None) => Err(refused),
                Err(why) => Err(Refused(format!("{refused}; {why}"))),
            }
        })
    }

    fn review<'a>(&'a self, server: &'a Server, token: &'a str, audiences: &'a [String]) -> Found<'a, Reviewed> {
        Box::pin(async move {
            let own = self.accounts.audiences();
            let audiences = if audiences.is_empty() { own } else { audiences };
            let mut known = self.token(server, token, audiences, server.now());
            if !matches!(known, Ok(Some(_))) {
                known = match (known, self.outside.token(server, token, audiences, own).await) {
                    (Err(here), Err(there)) => Err(format!("{here}, {there}")),
                    (here @ Err(_), Ok(None)) => here,
                    (_, there) => there,
                };
            }
            if let Ok(Some((user, _))) = &mut known
                && !user.in_group("system:authenticated")
            {
                user.groups.push("system:authenticated".into());
            }
            known.map_err(Refused)
        })
    }
}
