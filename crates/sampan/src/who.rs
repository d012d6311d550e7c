//! Who may use the API: kube-apiserver's flags about authentication and authorization, and the files that they name,
//! made into what the API server takes. Every mistake in them is told before anything starts. Files that upstream
//! follows are followed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::Server;
use apiserver::authn::config::{self as authn, Anonymous};
use apiserver::authn::issue::TokenIssuer;
use apiserver::authn::oidc::{ALGORITHMS, Issuer};
use apiserver::authn::webhook::TokenWebhook;
use apiserver::authn::{Authenticator, RequestHeaders, Setup, token_file};
use apiserver::authz::Authorizer;
use apiserver::authz::config::{self as authz, Link};
use apiserver::outside::Endpoint;
use http::HeaderName;
use pki::jwt::{Signer, Verifier};
use pki::{KeyPair, PublicKey};
use schema::{Value, time, validate};

use crate::identity::Identity;
use crate::inbox::Inbox;

/// The flags that are read here.
#[rustfmt::skip]
pub const FLAGS: [&str; 36] = [
    "anonymous-auth", "api-audiences", "authentication-config", "authentication-token-webhook-cache-ttl",
    "authentication-token-webhook-config-file", "authentication-token-webhook-version", "authorization-config",
    "authorization-mode", "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl", "authorization-webhook-config-file",
    "authorization-webhook-version", "client-ca-file", "enable-bootstrap-token-auth", "oidc-ca-file",
    "oidc-client-id", "oidc-groups-claim", "oidc-groups-prefix", "oidc-issuer-url", "oidc-required-claim",
    "oidc-signing-algs", "oidc-username-claim", "oidc-username-prefix", "requestheader-allowed-names",
    "requestheader-client-ca-file", "requestheader-extra-headers-prefix", "requestheader-group-headers",
    "requestheader-uid-headers", "requestheader-username-headers", "service-account-extend-token-expiration",
    "service-account-issuer", "service-account-jwks-uri", "service-account-key-file",
    "service-account-max-token-expiration", "service-account-signing-key-file", "token-auth-file",
];

/// How long new issuers are waited for before the file is looked at again.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("--kube-apiserver-arg: {}", .0.join("; "))]
pub struct Error(Vec<String>);

/// What the API server is given, and what is published of it.
pub struct Who {
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub tokens: TokenIssuer,
    pub anonymous: Anonymous,
    pub client_ca_pem: String,
    pub request_header_ca_pem: String,
    pub request_header_names: Vec<String>,
    pub followed: Vec<Followed>,
}

/// Reads flags, and remembers what is wrong.
struct Flags<'a> {
    given: &'a [(String, String)],
    problems: Vec<String>,
}

impl<'a> Flags<'a> {
    fn all(&self, name: &str) -> Vec<&'a str> {
        self.given.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The last one given.
    fn one(&self, name: &str) -> Option<&'a str> {
        self.all(name).pop()
    }

    /// Of a flag that takes several, with commas between.
    fn list(&self, name: &str) -> Vec<&'a str> {
        self.all(name).into_iter().flat_map(|value| value.split(',')).filter(|item| !item.is_empty()).collect()
    }

    fn has_any(&self, prefix: &str) -> bool {
        self.given.iter().any(|(name, _)| name.starts_with(prefix))
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        let text = self.one(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problems.push(format!("{name}: expected true or false, not {text:?}"));
        }
        value
    }

    fn duration(&mut self, name: &str, standard: Duration) -> Duration {
        let Some(text) = self.one(name) else { return standard };
        match time::parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok()) {
            Some(nanos) => Duration::from_nanos(nanos),
            None => {
                self.problems.push(format!("{name}: time: invalid duration {text:?}"));
                standard
            }
        }
    }

    fn file(&mut self, name: &str) -> Option<String> {
        let path = self.one(name)?;
        self.take(name, read(Path::new(path)))
    }

    fn take<T>(&mut self, name: &str, result: Result<T, impl std::fmt::Display>) -> Option<T> {
        result.map_err(|why| self.problems.push(format!("{name}: {why}"))).ok()
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("open {}: {error}", path.display()))
}

/// Reads `given` (`--kube-apiserver-arg`). `issuer` and `audiences` are those of tokens if no flag says others.
///
/// # Errors
/// Everything that is wrong with the flags and their files.
pub fn resolve(
    given: &[(String, String)],
    identity: &Identity,
    issuer: &str,
    audiences: &[String],
) -> Result<Who, Error> {
    let flags = &mut Flags { given, problems: Vec::new() };
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let (issuers, audiences) = match owned(flags.all("service-account-issuer")) {
        none if none.is_empty() => (vec![issuer.to_owned()], audiences.to_owned()),
        issuers => (issuers.clone(), issuers),
    };
    let audiences = Some(owned(flags.list("api-audiences"))).filter(|list| !list.is_empty()).unwrap_or(audiences);
    let keys = service_account_keys(flags, identity);
    let own_anonymous = flags.switch("anonymous-auth");
    let authentication = authentication(flags, &issuers);
    let chain = authorization(flags);
    let webhook = token_webhook(flags);
    let bootstrap_tokens = flags.switch("enable-bootstrap-token-auth").unwrap_or(true);
    let static_tokens = match flags.one("token-auth-file") {
        None => HashMap::new(),
        Some(path) => {
            let users = read(Path::new(path)).and_then(|text| token_file::parse(path, &text));
            flags.take("token-auth-file", users).unwrap_or_default()
        }
    };
    let max = flags.duration("service-account-max-token-expiration", Duration::ZERO);
    if !max.is_zero() && !(3600..=1 << 32).contains(&max.as_secs()) {
        let why = "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds";
        flags.problems.push(why.to_owned());
    }
    let extend = flags.switch("service-account-extend-token-expiration").unwrap_or(true);
    let jwks_uri = flags.one("service-account-jwks-uri");
    if let Some(uri) = jwks_uri.filter(|uri| !uri.starts_with("https://")) {
        flags.problems.push(format!("service-account-jwks-uri requires https scheme, parsed as: {uri}"));
    }
    // Our own are always among them: this server's parts prove themselves by theirs.
    let client_ca_pem = identity.client_ca.bundle_pem() + &flags.file("client-ca-file").unwrap_or_default();
    let request_header_ca_pem =
        identity.front_proxy_ca.bundle_pem() + &flags.file("requestheader-client-ca-file").unwrap_or_default();
    let mut request_header_names = vec!["system:auth-proxy".to_owned()];
    let more = owned(flags.list("requestheader-allowed-names"));
    if flags.has_any("requestheader-client-ca-file") && more.is_empty() {
        request_header_names.clear();
    }
    request_header_names.extend(more);
    let request_headers = request_headers(flags);
    let anonymous = match (&authentication.anonymous, own_anonymous) {
        (Some(_), Some(_)) => {
            let why = "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file";
            flags.problems.push(format!("anonymous: Forbidden: {why}"));
            Anonymous::Nobody
        }
        (Some(configured), None) => configured.clone(),
        (None, Some(false)) => Anonymous::Nobody,
        // With everything allowed to everybody, somebody is asked who they are.
        (None, _) if flags.list("authorization-mode").contains(&"AlwaysAllow") => Anonymous::Nobody,
        (None, _) => Anonymous::Everywhere,
    };
    let mut followed = Vec::new();
    let parts = keys.and_then(|(signer, keys)| {
        let verifier = Verifier::new(keys, issuers.clone());
        let authenticator = Authenticator::new(Setup {
            client_ca_pem: client_ca_pem.clone(),
            request_header_ca_pem: request_header_ca_pem.clone(),
            request_header_names: request_header_names.clone(),
            request_headers,
            verifier: verifier.clone(),
            audiences: audiences.clone(),
            static_tokens,
            bootstrap_tokens,
            issuers: authentication.issuers,
            webhook,
        });
        let mut tokens = TokenIssuer::new(signer, &issuers[0], audiences);
        tokens.published = verifier;
        tokens.max_seconds = i64::try_from(max.as_secs()).unwrap_or(0);
        tokens.extend = extend;
        if let Some(uri) = jwks_uri {
            tokens.jwks_uri = uri.to_owned();
        }
        Some((Arc::new(flags.take("client-ca-file", authenticator)?), tokens))
    });
    let Some((authenticator, tokens)) = parts.filter(|_| flags.problems.is_empty()) else {
        return Err(Error(std::mem::take(&mut flags.problems)));
    };
    let authorizer = Arc::new(Authorizer::new(chain));
    if let Some(path) = flags.one("authentication-config") {
        let (authenticator, anonymous) = (authenticator.clone(), authentication.anonymous);
        followed.push(Followed { path: path.into(), what: What::Authentication { authenticator, anonymous, issuers } });
    }
    if let Some(path) = flags.one("authorization-config") {
        followed.push(Followed { path: path.into(), what: What::Authorization(authorizer.clone()) });
    }
    Ok(Who {
        authenticator,
        authorizer,
        tokens,
        anonymous,
        client_ca_pem,
        request_header_ca_pem,
        request_header_names,
        followed,
    })
}

/// What signs tokens, and all keys whose tokens are believed.
fn service_account_keys(flags: &mut Flags<'_>, identity: &Identity) -> Option<(Signer, Vec<PublicKey>)> {
    let own = identity.service_account_key.to_pem();
    let text = match flags.one("service-account-signing-key-file") {
        Some(_) => flags.file("service-account-signing-key-file")?,
        None => own,
    };
    let key = flags.take("service-account-signing-key-file", KeyPair::from_pem(&text))?;
    let mut keys = vec![key.public().clone()];
    for path in flags.all("service-account-key-file") {
        let text = read(Path::new(path));
        let more = text.and_then(|text| PublicKey::all_from_pem(&text).map_err(|why| format!("{path}: {why}")));
        keys.extend(flags.take("service-account-key-file", more).into_iter().flatten());
    }
    Some((Signer::new(key), keys))
}

fn algorithms() -> Vec<String> {
    ALGORITHMS.map(str::to_owned).to_vec()
}

/// Of a file, or of the flags that it replaces.
fn authentication(flags: &mut Flags<'_>, own: &[String]) -> authn::Configuration {
    let mut configuration = authn::Configuration { issuers: Vec::new(), anonymous: None };
    if let Some(text) = flags.file("authentication-config") {
        match authn::parse(&text, own, &algorithms()) {
            Ok(read) => configuration = read,
            Err(problems) => {
                flags
                    .problems
                    .extend(problems.into_iter().map(|why| format!("invalid authentication configuration: {why}")));
            }
        }
    }
    if flags.one("authentication-config").is_some() && flags.has_any("oidc-") {
        flags.problems.push("authentication-config file and oidc-* flags are mutually exclusive".into());
    } else if flags.has_any("oidc-") {
        configuration.issuers = classic_issuer(flags, own);
    }
    configuration
}

/// `--oidc-*`, as the file would say it.
fn classic_issuer(flags: &mut Flags<'_>, own: &[String]) -> Vec<Issuer> {
    let (Some(url), Some(client)) = (flags.one("oidc-issuer-url"), flags.one("oidc-client-id")) else {
        let why = "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set";
        flags.problems.push(why.into());
        return Vec::new();
    };
    let claim = flags.one("oidc-username-claim").unwrap_or("sub");
    let prefix = match flags.one("oidc-username-prefix") {
        Some("-") => String::new(),
        None | Some("") if claim != "email" => format!("{url}#"),
        prefix => prefix.unwrap_or_default().to_owned(),
    };
    let mapping = |claim: &str, prefix: &str| Value::object([("claim", claim.into()), ("prefix", prefix.into())]);
    let mut jwt =
        Value::object([("issuer", Value::object([("url", url.into()), ("audiences", Value::list([client]))]))]);
    jwt.set(&["claimMappings", "username"], mapping(claim, &prefix));
    if let Some(groups) = flags.one("oidc-groups-claim") {
        jwt.set(&["claimMappings", "groups"], mapping(groups, flags.one("oidc-groups-prefix").unwrap_or_default()));
    }
    if let Some(ca) = flags.file("oidc-ca-file") {
        jwt.set(&["issuer", "certificateAuthority"], ca);
    }
    let mut rules = Vec::new();
    for pair in flags.all("oidc-required-claim") {
        match pair.split_once('=') {
            Some((claim, value)) => {
                rules.push(Value::object([("claim", claim.into()), ("requiredValue", value.into())]));
            }
            None => flags.problems.push(format!("oidc-required-claim: malformed pair, expect key=value: {pair}")),
        }
    }
    jwt.set(&["claimValidationRules"], Value::List(rules));
    let mut algorithms: Vec<String> = flags.list("oidc-signing-algs").into_iter().map(str::to_owned).collect();
    if algorithms.is_empty() {
        algorithms.push("RS256".into());
    }
    for unknown in algorithms.iter().filter(|name| !ALGORITHMS.contains(&name.as_str())) {
        flags.problems.push(format!("oidc: unsupported signing alg: {unknown:?}; known are {}", ALGORITHMS.join(", ")));
    }
    let (issuers, errors) = authn::issuers(&[jwt], own, &algorithms);
    if !errors.is_empty() {
        flags.problems.push(format!("invalid authentication configuration: {}", validate::aggregate(&errors)));
    }
    issuers
}

fn token_webhook(flags: &mut Flags<'_>) -> Option<TokenWebhook> {
    const VERSION: &str = "authentication-token-webhook-version";
    let path = flags.one("authentication-token-webhook-config-file")?;
    let version = flags.one(VERSION).unwrap_or("v1beta1");
    if !matches!(version, "v1" | "v1beta1") {
        let why = format!(
            "unsupported authentication webhook version {version:?}, supported versions are \"v1\", \"v1beta1\""
        );
        flags.problems.push(why);
    }
    let lifetime = flags.duration("authentication-token-webhook-cache-ttl", Duration::from_secs(120));
    let endpoint = Endpoint::from_kubeconfig(Path::new(path), &read);
    let endpoint = flags.take("authentication-token-webhook-config-file", endpoint)?;
    Some(TokenWebhook::new(endpoint, version, lifetime))
}

fn authorization(flags: &mut Flags<'_>) -> Vec<Link> {
    let authorized = flags.duration("authorization-webhook-cache-authorized-ttl", Duration::from_secs(300));
    let unauthorized = flags.duration("authorization-webhook-cache-unauthorized-ttl", Duration::from_secs(30));
    let made = match flags.one("authorization-config") {
        Some(_) if flags.has_any("authorization-mode") || flags.has_any("authorization-webhook-") => Err(vec![
            "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags \
             are defined"
                .to_owned(),
        ]),
        Some(_) => match flags.file("authorization-config") {
            Some(text) => authz::parse(&text, &[], &read),
            None => Ok(Vec::new()),
        },
        None => {
            let modes = Some(flags.list("authorization-mode")).filter(|modes| !modes.is_empty());
            let given = authz::Flags {
                modes: modes.unwrap_or_else(|| vec!["Node", "RBAC"]),
                webhook_file: flags.one("authorization-webhook-config-file"),
                version: flags.one("authorization-webhook-version").unwrap_or("v1beta1"),
                authorized,
                unauthorized,
            };
            authz::from_flags(&given, &read)
        }
    };
    made.unwrap_or_else(|problems| {
        flags.problems.extend(problems);
        Vec::new()
    })
}

fn request_headers(flags: &mut Flags<'_>) -> RequestHeaders {
    let mut headers = RequestHeaders::default();
    for (flag, held) in [
        ("requestheader-username-headers", &mut headers.user),
        ("requestheader-uid-headers", &mut headers.uid),
        ("requestheader-group-headers", &mut headers.group),
    ] {
        for name in flags.list(flag) {
            let name = name.trim().parse::<HeaderName>().map_err(|why| format!("{name:?}: {why}"));
            let name = flags.take(flag, name);
            held.extend(name.filter(|name| !held.contains(name)));
        }
    }
    for prefix in flags.list("requestheader-extra-headers-prefix") {
        let prefix = prefix.trim().to_lowercase();
        if !headers.extra_prefix.contains(&prefix) {
            headers.extra_prefix.push(prefix);
        }
    }
    headers
}

// ---- files that change

/// A file whose changes count while the server runs.
pub struct Followed {
    path: PathBuf,
    what: What,
}

enum What {
    Authentication {
        authenticator: Arc<Authenticator>,
        /// It stays as it was at first.
        anonymous: Option<Anonymous>,
        /// Those of service accounts.
        issuers: Vec<String>,
    },
    Authorization(Arc<Authorizer>),
}

/// Why a file's new contents do not count, and whether another try may have more luck.
type Refused = (String, bool);

impl Followed {
    /// Until the program ends.
    pub async fn follow(self, server: Server) {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = self.path.display().to_string();
        let mut inbox = match Inbox::open(directory) {
            Ok(inbox) => inbox,
            Err(error) => return tracing::error!(file, %error, "the configuration cannot be followed"),
        };
        let mut counts = read(&self.path).unwrap_or_default();
        let mut pending = false;
        loop {
            tokio::select! {
                changed = inbox.changed() => if let Err(error) = changed {
                    return tracing::error!(file, %error, "the configuration is followed no longer");
                },
                () = tokio::time::sleep(RETRY), if pending => {}
            }
            pending = false;
            let text = match read(&self.path) {
                Ok(text) if text == counts => continue,
                Ok(text) => text,
                Err(why) => {
                    tracing::warn!(file, why, "the configuration stays as it was");
                    continue;
                }
            };
            match self.apply(&server, &text).await {
                Ok(()) => tracing::info!(file, "the new configuration counts"),
                Err((why, may_pass)) => {
                    tracing::warn!(file, why, "the configuration stays as it was");
                    pending = may_pass;
                    if may_pass {
                        continue;
                    }
                }
            }
            counts = text;
        }
    }

    async fn apply(&self, server: &Server, text: &str) -> Result<(), Refused> {
        let lasting = |problems: Vec<String>| (problems.join("; "), false);
        match &self.what {
            What::Authentication { authenticator, anonymous, issuers } => {
                let read = authn::parse(text, issuers, &algorithms()).map_err(lasting)?;
                if read.anonymous != *anonymous {
                    return Err(("anonymous: Forbidden: changed from initial configuration file".into(), false));
                }
                authenticator.replace_issuers(server, read.issuers).await.map_err(|why| (why, true))
            }
            What::Authorization(authorizer) => {
                let chain = authz::parse(text, &authorizer.chain(), &read).map_err(lasting)?;
                authorizer.replace(chain);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
