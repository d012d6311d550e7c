//! k3s' `registries.yaml`: mirrors, rewrites, credentials and TLS per registry; and from it the endpoints to ask for an
//! image, in order. Pure: the file is read and parsed by whoever owns the configuration.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::Deserialize;

use super::credentials::Credentials;
use super::error::{Error, Result};
use super::manifest::null_default;
use super::reference::Reference;

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Registries {
    #[serde(default, deserialize_with = "null_default")]
    pub mirrors: BTreeMap<String, Option<Mirror>>,
    #[serde(default, deserialize_with = "null_default")]
    pub configs: BTreeMap<String, Option<RegistryConfig>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Mirror {
    #[serde(default, deserialize_with = "null_default")]
    pub endpoint: Vec<String>,
    /// Regular expression → replacement, for the repository's name at these endpoints.
    #[serde(default, deserialize_with = "null_default")]
    pub rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct RegistryConfig {
    pub auth: Option<Auth>,
    pub tls: Option<TlsFiles>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Auth {
    #[serde(deserialize_with = "null_default")]
    pub username: String,
    #[serde(deserialize_with = "null_default")]
    pub password: String,
    #[serde(deserialize_with = "null_default")]
    pub auth: String,
    #[serde(deserialize_with = "null_default")]
    pub identity_token: String,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct TlsFiles {
    #[serde(deserialize_with = "null_default")]
    pub ca_file: String,
    #[serde(deserialize_with = "null_default")]
    pub cert_file: String,
    #[serde(deserialize_with = "null_default")]
    pub key_file: String,
    #[serde(deserialize_with = "null_default")]
    pub insecure_skip_verify: bool,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub https: bool,
    /// `host[:port]`
    pub authority: String,
    /// Ends without a slash; `/v2` unless configured otherwise.
    pub prefix: String,
    /// The repository's name there.
    pub repository: String,
    /// The `ns` query that tells a mirror which registry is meant.
    pub namespace: Option<String>,
    /// May the pull's own credentials go there? (They may where the administrator sent this very registry.)
    pub trusted: bool,
}

impl Endpoint {
    pub fn url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

impl Registries {
    /// From the file's content as JSON (any YAML reader yields that). All mistakes at once.
    pub fn from_value(value: serde_json::Value) -> Result<Registries> {
        if value.is_null() {
            return Ok(Registries::default());
        }
        let registries: Registries =
            serde_json::from_value(value).map_err(|e| Error::Registries(vec![e.to_string()]))?;
        let mut problems = Vec::new();
        for (name, mirror) in registries.mirrors.iter().filter_map(|(name, m)| Some((name, m.as_ref()?))) {
            for endpoint in &mirror.endpoint {
                if let Err(why) = parse_endpoint(endpoint) {
                    problems.push(format!("mirrors.{name}.endpoint: {endpoint:?}: {why}"));
                }
            }
            for pattern in mirror.rewrite.keys() {
                if let Err(why) = Regex::new(pattern) {
                    problems.push(format!("mirrors.{name}.rewrite: {pattern:?}: {why}"));
                }
            }
        }
        for (host, config) in registries.configs.iter().filter_map(|(host, c)| Some((host, c.as_ref()?))) {
            if let Some(auth) = &config.auth
                && let Err(why) = auth.credentials()
            {
                problems.push(format!("configs.{host}.auth: {why}"));
            }
            if let Some(tls) = &config.tls
                && tls.cert_file.is_empty() != tls.key_file.is_empty()
            {
                problems.push(format!("configs.{host}.tls: cert_file and key_file belong together"));
            }
        }
        if problems.is_empty() { Ok(registries) } else { Err(Error::Registries(problems)) }
    }

    /// Where to ask for `reference`, in order. Without the default endpoint if that is disabled and mirrors are set.
    pub fn endpoints(&self, reference: &Reference, disable_default: bool) -> Vec<Endpoint> {
        let own = self.mirrors.get(&reference.domain);
        let mirror = own.or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let default_authority = default_authority(&reference.domain);
        if let Some(Some(mirror)) = mirror {
            let repository = rewrite(&mirror.rewrite, &reference.path);
            for text in &mirror.endpoint {
                let Ok((https, authority, prefix)) = parse_endpoint(text) else { continue };
                let same_host = host_of(&authority) == host_of(default_authority)
                    || host_of(&authority) == host_of(&reference.domain);
                endpoints.push(Endpoint {
                    https,
                    namespace: (authority != default_authority).then(|| reference.domain.clone()),
                    authority,
                    prefix,
                    repository: repository.clone(),
                    trusted: own.is_some() || same_host,
                });
            }
        }
        let mirrored = mirror.is_some_and(|m| m.as_ref().is_some_and(|m| !m.endpoint.is_empty()));
        if !(disable_default && mirrored) {
            let tls = self.own_config(default_authority).is_some_and(|config| config.tls.is_some());
            let default = Endpoint {
                https: tls || !is_local(default_authority),
                authority: default_authority.into(),
                prefix: "/v2".into(),
                repository: reference.path.clone(),
                namespace: None,
                trusted: true,
            };
            let known = |e: &Endpoint| {
                e.authority == default.authority && e.repository == default.repository && e.prefix == default.prefix
            };
            if !endpoints.iter().any(known) {
                endpoints.push(default);
            }
        }
        endpoints
    }

    /// What is said of that registry itself.
    fn own_config(&self, authority: &str) -> Option<&RegistryConfig> {
        let docker_hub = (authority == "registry-1.docker.io").then_some("docker.io");
        let names = [Some(authority), docker_hub, Some(host_of(authority))];
        names.into_iter().flatten().find_map(|name| self.configs.get(name)?.as_ref())
    }

    fn config(&self, authority: &str) -> Option<&RegistryConfig> {
        self.own_config(authority).or_else(|| self.configs.get("*")?.as_ref())
    }

    pub fn tls(&self, authority: &str) -> Option<&TlsFiles> {
        self.config(authority)?.tls.as_ref()
    }

    pub fn credentials(&self, authority: &str) -> Option<Credentials> {
        self.config(authority)?.auth.as_ref()?.credentials().ok()
    }
}

impl Auth {
    fn credentials(&self) -> Result<Credentials, &'static str> {
        if !self.identity_token.is_empty() {
            return Ok(Credentials::IdentityToken(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Basic { username: self.username.clone(), password: self.password.clone() });
        }
        Credentials::from_auth(&self.auth).ok_or("neither username, auth nor identity_token is usable")
    }
}

fn default_authority(domain: &str) -> &str {
    if domain == "docker.io" { "registry-1.docker.io" } else { domain }
}

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Registries on this machine speak plain HTTP, unless TLS is configured or the port says so.
fn is_local(authority: &str) -> bool {
    let host = host_of(authority);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    local && !authority.ends_with(":443")
}

/// `[scheme://]host[:port][/path]` → (https, authority, path).
fn parse_endpoint(text: &str) -> Result<(bool, String, String), &'static str> {
    let (https, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) => return Err("its scheme is neither http nor https"),
        None => (!is_local(text.split('/').next().unwrap_or(text)), text),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.parse::<http::uri::Authority>().is_err() || authority.contains('@') {
        return Err("its host is malformed");
    }
    let path = path.trim_end_matches('/');
    let prefix = if path.is_empty() { "/v2".to_owned() } else { format!("/{path}") };
    if prefix.parse::<http::uri::PathAndQuery>().is_err() || prefix.contains('?') {
        return Err("its path is malformed");
    }
    Ok((https, default_authority(authority).to_owned(), prefix))
}

/// The first pattern that matches decides.
fn rewrite(rules: &BTreeMap<String, String>, repository: &str) -> String {
    for (pattern, replacement) in rules {
        if let Ok(regex) = Regex::new(pattern)
            && regex.is_match(repository)
        {
            return regex.replace_all(repository, replacement.as_str()).into_owned();
        }
    }
    repository.to_owned()
}
