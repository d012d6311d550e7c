//! Tokens of an issuer outside (OpenID Connect): its keys are found by discovery, kept as long as it says, and read
//! again when a token is signed by another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, header};
use pki::PublicKey;
use pki::jwt::{LEEWAY_SECONDS, Parsed, keys_of};
use schema::{Value, json};
use tokio::time::Instant;

use super::claims::Mapping;
use crate::outside::{self, Failure};
use crate::seams::{Shows, Target};
use crate::{Server, User};

/// Those that `--oidc-signing-algs` may name. ES512 is not among those that can be verified here.
pub const ALGORITHMS: [&str; 8] = ["ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

const ANSWER: Duration = Duration::from_secs(30);
/// An issuer that could not be reached is left alone for so long.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys are read again so long before they are too old.
const EARLY: Duration = Duration::from_secs(30);

/// One `jwt` of an AuthenticationConfiguration.
#[derive(Debug)]
pub struct Issuer {
    pub url: String,
    pub discovery_url: String,
    pub ca_pem: String,
    /// A token must be for one of them.
    pub audiences: Vec<String>,
    pub algorithms: Vec<String>,
    pub mapping: Mapping,
    pub keys: Keys,
}

/// What is known of an issuer's keys.
#[derive(Debug, Default)]
pub struct Keys {
    held: Mutex<Held>,
    /// Whoever reads them; others wait for what it finds.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Held {
    set: Option<Arc<Set>>,
    /// The reading failed: why, and until when it is not tried again.
    failed: Option<(String, Instant)>,
}

#[derive(Debug)]
struct Set {
    url: String,
    keys: Vec<(String, PublicKey)>,
    good_until: Instant,
}

impl Set {
    fn verifies(&self, token: &Parsed<'_>) -> bool {
        let fits = |id: &str| token.key_id.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == id);
        self.keys.iter().any(|(id, key)| fits(id) && token.is_signed_by(key))
    }
}

impl Issuer {
    /// `None`: it is not a token of this issuer.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub async fn user(&self, server: &Server, token: &str, now: i64) -> Result<Option<User>, String> {
        let Some(parsed) = Parsed::read(token) else { return Ok(None) };
        let Ok(claims) = json::parse(&parsed.payload) else { return Ok(None) };
        let issuer = match claims.str_at(&["iss"]) {
            "accounts.google.com" => "https://accounts.google.com",
            issuer => issuer,
        };
        if issuer != self.url {
            return Ok(None);
        }
        let refused = |why: String| format!("oidc: verify token: {why}");
        self.verify(server, &parsed).await.map_err(refused)?;
        self.check(&claims, now).map_err(refused)?;
        self.mapping.user(&claims).map(Some)
    }

    async fn verify(&self, server: &Server, token: &Parsed<'_>) -> Result<(), String> {
        if !self.algorithms.contains(&token.algorithm) {
            let (wanted, found) = (go_list(&self.algorithms), &token.algorithm);
            return Err(format!("oidc: id token signed with unsupported algorithm, expected {wanted} got {found:?}"));
        }
        let wrong = || Err("failed to verify signature: failed to verify id token signature".to_owned());
        let set = self.ready(server).await.map_err(|_| "oidc: authenticator not initialized")?;
        if set.verifies(token) {
            return Ok(());
        }
        if Instant::now() + EARLY <= set.good_until {
            return wrong();
        }
        let newer = self.read_anew(server, Some(&set)).await;
        let newer = newer.map_err(|why| format!("failed to verify signature: fetching keys {why}"))?;
        if newer.verifies(token) { Ok(()) } else { wrong() }
    }

    fn check(&self, claims: &Value, now: i64) -> Result<(), String> {
        let audiences: Vec<String> = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            many => many.texts(),
        };
        if !self.audiences.iter().any(|wanted| audiences.contains(wanted)) {
            let found = go_list(&audiences);
            return Err(match self.audiences.as_slice() {
                [one] => format!("oidc: expected audience {one:?} got {found}"),
                many => format!("oidc: expected audience in {} got {found}", go_list(many)),
            });
        }
        let seconds = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
        let expiry = seconds("exp").unwrap_or(0);
        if expiry < now {
            return Err(format!("oidc: token is expired (Token Expiry: {})", schema::time::format(expiry)));
        }
        match seconds("nbf").filter(|start| now + LEEWAY_SECONDS < *start) {
            Some(start) => Err(format!(
                "oidc: current time {} before the nbf (not before) time: {}",
                schema::time::format(now),
                schema::time::format(start)
            )),
            None => Ok(()),
        }
    }

    /// The issuer's keys, read if they never were.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn prepare(&self, server: &Server) -> Result<(), String> {
        self.ready(server).await.map(drop)
    }

    async fn ready(&self, server: &Server) -> Result<Arc<Set>, String> {
        match self.held() {
            Held { set: Some(set), .. } => Ok(set),
            Held { failed: Some((why, until)), .. } if Instant::now() < until => Err(why),
            _ => self.read_anew(server, None).await,
        }
    }

    fn held(&self) -> Held {
        self.keys.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the keys, unless another has read newer ones than `known` meanwhile.
    async fn read_anew(&self, server: &Server, known: Option<&Arc<Set>>) -> Result<Arc<Set>, String> {
        let _reading = self.keys.reading.lock().await;
        let held = self.held();
        match (&held.set, known) {
            (Some(set), None) => return Ok(set.clone()),
            (Some(set), Some(known)) if !Arc::ptr_eq(set, known) => return Ok(set.clone()),
            (None, _) if held.failed.as_ref().is_some_and(|(_, until)| Instant::now() < *until) => {
                return Err(held.failed.map(|(why, _)| why).unwrap_or_default());
            }
            _ => {}
        }
        let url = match &held.set {
            Some(set) => Ok(set.url.clone()),
            None => self.discover(server).await,
        };
        let read = match url {
            Ok(url) => self.read(server, url).await,
            Err(why) => Err(why),
        };
        let mut held = self.keys.held.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(set) => {
                let set = Arc::new(set);
                *held = Held { set: Some(set.clone()), failed: None };
                Ok(set)
            }
            Err(why) => {
                tracing::warn!(issuer = self.url, why, "the issuer's keys cannot be read");
                held.failed = Some((why.clone(), Instant::now() + PAUSE));
                Err(why)
            }
        }
    }

    async fn discover(&self, server: &Server) -> Result<String, String> {
        let well_known = format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'));
        let url = if self.discovery_url.is_empty() { &well_known } else { &self.discovery_url };
        let (_, bytes) = self.get(server, url).await.map_err(|failure| failure.why)?;
        let document = json::parse(&bytes).map_err(|e| format!("oidc: failed to decode provider: {}", e.message))?;
        let found = document.str_at(&["issuer"]);
        if found != self.url {
            let wanted = &self.url;
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {wanted:?} got {found:?}"
            ));
        }
        match document.str_at(&["jwks_uri"]) {
            "" => Err("provider did not return JWKS URL".into()),
            url => Ok(url.to_owned()),
        }
    }

    async fn read(&self, server: &Server, url: String) -> Result<Set, String> {
        let (headers, bytes) =
            self.get(server, &url).await.map_err(|failure| format!("oidc: get keys failed: {failure}"))?;
        let keys = keys_of(&bytes).map_err(|e| format!("oidc: failed to decode keys: {e}"))?;
        Ok(Set { url, keys, good_until: Instant::now() + lifetime(&headers) })
    }

    async fn get(&self, server: &Server, url: &str) -> Result<(HeaderMap, bytes::Bytes), Failure> {
        let (ca_bundle, shows) = (self.ca_pem.as_bytes(), Shows::Nothing);
        let target = Target { url, address: None, server_name: "", ca_bundle, insecure: false, shows };
        outside::get(server, target, ANSWER).await
    }
}

/// For how long an answer says that it is good.
fn lifetime(headers: &HeaderMap) -> Duration {
    let said = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let said: Vec<&str> = said.flat_map(|value| value.split(',')).map(str::trim).collect();
    if said.iter().any(|word| matches!(*word, "no-cache" | "no-store")) {
        return Duration::ZERO;
    }
    let seconds = said.iter().find_map(|word| word.strip_prefix("max-age=")?.parse::<u32>().ok());
    Duration::from_secs(seconds.unwrap_or(0).into())
}

/// `["a" "b"]`
fn go_list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "))
}
