//! Docker's token authentication: challenges, token requests, tokens.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::time::Instant;

use super::http::Call;
use crate::images::credentials::Credentials;
use crate::images::digest::Digest;
use crate::images::manifest::null_default;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: Option<String> },
}

impl Challenge {
    /// The best of all `WWW-Authenticate` headers.
    pub fn of(headers: &HeaderMap) -> Option<Challenge> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let mut found: Vec<Challenge> = values.filter_map(parse).collect();
        found.sort_by_key(|challenge| !challenge.is_bearer());
        found.into_iter().next()
    }

    pub fn is_bearer(&self) -> bool {
        matches!(self, Challenge::Bearer { .. })
    }
}

/// `Bearer realm="…",service="…",scope="…"`; values may be bare or quoted, with commas inside of quotes.
pub(super) fn parse(value: &str) -> Option<Challenge> {
    let (scheme, mut rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, String::new(), None);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        match name.trim().trim_start_matches(',').trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = value.to_owned(),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',');
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// Whom a token was given for what; credentials only as their digest.
#[derive(PartialEq, Eq, Hash)]
pub struct TokenKey([String; 3], Option<Digest>);

impl TokenKey {
    pub fn new(realm: &str, service: &str, scope: &str, credentials: Option<&Credentials>) -> TokenKey {
        let who = credentials.map(|credentials| match credentials {
            Credentials::Basic { username, password } => Digest::of(format!("{username}:{password}").as_bytes()),
            Credentials::IdentityToken(token) => Digest::of(format!("identity {token}").as_bytes()),
            Credentials::RegistryToken(token) => Digest::of(format!("registry {token}").as_bytes()),
        });
        TokenKey([realm.into(), service.into(), scope.into()], who)
    }
}

pub struct Token {
    pub text: String,
    pub expires: Instant,
}

impl Token {
    pub fn parse(body: &[u8], now: Instant) -> Option<Token> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default, deserialize_with = "null_default")]
            token: String,
            #[serde(default, deserialize_with = "null_default")]
            access_token: String,
            #[serde(default, deserialize_with = "null_default")]
            expires_in: u64,
        }
        let raw: Raw = serde_json::from_slice(body).ok()?;
        let text = if raw.token.is_empty() { raw.access_token } else { raw.token };
        // A minute is the specification's default; a little less, as the answer took its time.
        let lifetime = raw.expires_in.clamp(60, 24 * 3600) - 10;
        (!text.is_empty()).then(|| Token { text, expires: now + Duration::from_secs(lifetime) })
    }
}

pub fn token_call(realm: &str, service: &str, scope: &str, credentials: Option<&Credentials>) -> Call {
    let mut headers = HeaderMap::new();
    if let Some(Credentials::IdentityToken(token)) = credentials {
        let fields = [
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", "sampan"),
            ("scope", scope),
            ("refresh_token", token),
        ];
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        return Call { method: Method::POST, url: realm.into(), headers, body: Bytes::from(query(&fields)) };
    }
    let mut fields = vec![("service", service), ("scope", scope)];
    fields.retain(|(_, value)| !value.is_empty());
    if let Some(Credentials::Basic { username, password }) = credentials {
        fields.push(("account", username));
        if let Ok(mut value) = HeaderValue::from_str(&Credentials::basic_header(username, password)) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    Call { method: Method::GET, url: format!("{realm}{separator}{}", query(&fields)), headers, body: Bytes::new() }
}

fn query(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut out, b| {
            if b.is_ascii_alphanumeric() || b"-._~:/".contains(&b) {
                out.push(b.into());
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
            out
        })
    };
    fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}
