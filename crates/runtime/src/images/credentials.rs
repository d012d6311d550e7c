//! Registry credentials, with the kubelet's rules for which of a pod's pull secrets fit which image. Pure.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// For basic authentication, or for a token by it.
    Basic { username: String, password: String },
    /// An OAuth2 refresh token.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl Credentials {
    /// The `auth` field: base64 of `user:password`.
    pub fn from_auth(auth: &str) -> Option<Credentials> {
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0');
        (!username.is_empty()).then(|| Credentials::Basic { username: username.into(), password: password.into() })
    }

    pub(crate) fn basic_header(username: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Credentials::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Credentials::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A registry as a pull secret names it (`https://index.docker.io/v1/`, `*.example.com:5000/team`; empty: any), and the
/// login for it.
pub type Login = (String, Credentials);

/// The logins that fit an image (a normalised `domain/path`), the most specific first; no other registry sees them.
pub fn fitting(logins: &[Login], repository: &str) -> Vec<Credentials> {
    let fits =
        |(registry, credentials): &'_ Login| Some((matches(registry, repository)?.to_owned(), credentials.clone()));
    let mut fitting: Vec<Login> = logins.iter().filter_map(fits).collect();
    // As upstream's keyring: in reverse order of the keys, so that longer paths come before their parents.
    fitting.sort_by(|a, b| b.0.cmp(&a.0));
    fitting.into_iter().map(|(_, credentials)| credentials).collect()
}

/// `*.example.com:5000/team` against `domain/path`: a `*` stands for part of one host label, a path for its prefix.
pub fn matches<'a>(key: &'a str, repository: &str) -> Option<&'a str> {
    if key.is_empty() {
        return Some(key);
    }
    let pattern = key.trim_start_matches("https://").trim_start_matches("http://");
    // Docker's own config files name the old index so.
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (host, path) = match (host, path.trim_end_matches('/')) {
        ("index.docker.io" | "registry-1.docker.io", path) => ("docker.io", path),
        other => other,
    };
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let (domain, image_path) = repository.split_once('/')?;
    let split = |host: &'_ str| -> (Vec<String>, Option<String>) {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port.to_owned())),
            _ => (host, None),
        };
        (name.split('.').map(str::to_owned).collect(), port)
    };
    let ((labels, port), (image_labels, image_port)) = (split(host), split(domain));
    let hosts = labels.len() == image_labels.len()
        && port == image_port
        && labels.iter().zip(&image_labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()));
    let paths = path.is_empty() || image_path.strip_prefix(path).is_some();
    (hosts && paths).then_some(pattern)
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => glob(rest, text) || text.split_first().is_some_and(|(_, t)| glob(pattern, t)),
        (Some((b'?', rest)), Some((_, t))) => glob(rest, t),
        (Some((p, rest)), Some((t, more))) => p == t && glob(rest, more),
        _ => false,
    }
}
