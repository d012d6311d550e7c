//! Who is asking: the implementation of [`crate::seams::Authenticate`].
//!
//! A request may carry several credentials; the first that holds wins, in upstream's order: front proxy, client
//! certificate, then bearer tokens (static, service account, bootstrap) and passwords. If there were credentials and
//! none held, the request is refused; without any it is the caller's to make it anonymous.

mod certificates;
pub(crate) mod impersonation;
pub mod issue;
pub mod service_accounts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header, request::Parts};
use schema::Value;

use crate::seams::{Authenticate, BoxFuture, Peer, Refused};
use crate::view::{self, SECRETS, View};
use crate::{Server, User};

use certificates::Trust;
use service_accounts::ServiceAccounts;

/// What the authenticator accepts.
pub struct Setup {
    /// Who signs client certificates, as PEM; empty for none.
    pub client_ca_pem: String,
    /// Who signs front proxies' certificates, and which common names may be one (any, if empty).
    pub request_header_ca_pem: String,
    pub request_header_names: Vec<String>,
    /// Keys and issuers of service account tokens.
    pub verifier: pki::jwt::Verifier,
    /// `--api-audiences`: what a token must be good for; the first issuer by default.
    pub audiences: Vec<String>,
    /// Token → user: `--token-auth-file`.
    pub static_tokens: HashMap<String, User>,
    /// Name → password and user, for HTTP basic authentication: how agents join.
    pub passwords: HashMap<String, (String, User)>,
}

pub struct Authenticator {
    clients: Trust,
    front_proxies: Trust,
    front_proxy_names: Vec<String>,
    accounts: ServiceAccounts,
    static_tokens: HashMap<[u8; 32], User>,
    passwords: HashMap<String, (String, User)>,
}

/// A user and the audiences that its token is good for.
type Known = (User, Vec<String>);

impl Authenticator {
    pub fn new(setup: Setup) -> Result<Self, pki::Error> {
        Ok(Self {
            clients: Trust::from_pem(&setup.client_ca_pem)?,
            front_proxies: Trust::from_pem(&setup.request_header_ca_pem)?,
            front_proxy_names: setup.request_header_names,
            accounts: ServiceAccounts::new(setup.verifier, setup.audiences),
            static_tokens: setup.static_tokens.into_iter().map(|(token, user)| (digest(&token), user)).collect(),
            passwords: setup.passwords,
        })
    }

    /// `now` in seconds since 1970.
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
            attempts
                .push(self.token(view, &token, &[], now).map(|known| known.map(|(user, _)| user)).and_then(unknown));
        }
        if let Some((name, password)) = basic(headers) {
            attempts.push(unknown(self.password(&name, &password)));
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

    /// `None`: nobody knows this token.
    fn token(&self, view: &dyn View, token: &str, audiences: &[String], now: i64) -> Result<Option<Known>, String> {
        let audiences = if audiences.is_empty() { self.accounts.audiences() } else { audiences };
        // Tokens without audiences are good for the server itself only.
        let own =
            || -> Vec<String> { audiences.iter().filter(|a| self.accounts.audiences().contains(a)).cloned().collect() };
        if let Some(user) = self.static_tokens.get(&digest(token)) {
            return Ok(Some((user.clone(), own())).filter(|(_, good_for)| !good_for.is_empty()));
        }
        if let Some(known) = self.accounts.user(view, token, audiences, now)? {
            return Ok(Some(known));
        }
        Ok(bootstrap_user(view, token, now)?.map(|user| (user, own())).filter(|(_, good_for)| !good_for.is_empty()))
    }

    fn password(&self, name: &str, password: &str) -> Option<User> {
        let (expected, user) = self.passwords.get(name)?;
        pki::same_secret(expected, password).then(|| user.clone())
    }

    fn front_proxy(&self, headers: &HeaderMap, peer: &Peer, now: i64) -> Result<Option<User>, String> {
        let Some(name) = headers.get("x-remote-user").and_then(|v| v.to_str().ok()) else { return Ok(None) };
        let Some(proxy) = self.front_proxies.user(&peer.certificates, now)? else { return Ok(None) };
        if !self.front_proxy_names.is_empty() && !self.front_proxy_names.contains(&proxy.name) {
            return Err(format!("{:?} is not an allowed front proxy", proxy.name));
        }
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("x-remote-extra-"), value.to_str()) {
                extra.entry(crate::request::percent_decode(key)).or_default().push(value.into());
            }
        }
        let uid = all("x-remote-uid").into_iter().next().unwrap_or_default();
        Ok(Some(User { name: name.into(), uid, groups: all("x-remote-group"), extra }))
    }
}

/// A credential that nobody knows is a wrong one.
fn unknown(user: Option<User>) -> Result<Option<User>, String> {
    user.map(Some).ok_or_else(|| "unknown token or password".into())
}

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// `Authorization: Bearer`, or the subprotocol in which browsers' WebSockets carry a token.
fn bearer(headers: &HeaderMap) -> Option<String> {
    const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let encoded = protocols.flat_map(|list| list.split(',')).find_map(|p| p.trim().strip_prefix(PROTOCOL))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
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
    fn authenticate<'a>(
        &'a self,
        server: &'a Server,
        parts: &'a Parts,
        peer: &'a Peer,
    ) -> BoxFuture<'a, Result<Option<User>, Refused>> {
        Box::pin(std::future::ready(self.decide(server, &parts.headers, peer, server.now())))
    }

    fn review<'a>(
        &'a self,
        server: &'a Server,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<(User, Vec<String>)>, Refused>> {
        let mut known = self.token(server, token, audiences, server.now()).map_err(Refused);
        if let Ok(Some((user, _))) = &mut known
            && !user.in_group("system:authenticated")
        {
            user.groups.push("system:authenticated".into());
        }
        Box::pin(std::future::ready(known))
    }
}
