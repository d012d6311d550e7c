//! Calls of servers outside: webhooks of all kinds, and issuers of tokens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header, response::Parts};
use schema::{Value, json, yaml};
use tokio::time::Instant;

use crate::Server;
use crate::body::full;
use crate::call::read_limited;
use crate::seams::{Shows, Target};

/// How much of what a server says about a failure is told.
pub const ERROR_BYTES_MAX: usize = 2048;
/// Upstream reads on until the time is over.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Failure {
    pub why: String,
    /// Another try may have more luck.
    pub is_passing: bool,
}

impl Failure {
    fn lasting(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), is_passing: false }
    }
}

/// Sends JSON and reads JSON. `url` is the target's, or that with a query; `authorization` is the header, if there is
/// to be one.
pub async fn post(
    server: &Server,
    target: Target<'_>,
    url: &str,
    authorization: &str,
    body: &Value,
    limit: Duration,
) -> Result<Value, Failure> {
    let (parts, bytes) = send(server, target, url, authorization, body, limit).await?;
    if bytes.is_empty() {
        let (code, kind) = (parts.status.as_u16(), content_type(&parts.headers));
        return Err(Failure::lasting(format!(
            "0-length response with status code: {code} and content type: {}",
            if kind.is_empty() { "application/json" } else { kind }
        )));
    }
    parsed(&bytes).map_err(Failure::lasting)
}

/// An object as clients read it: what does not begin as JSON is YAML.
fn parsed(bytes: &[u8]) -> Result<Value, String> {
    let parsed = if bytes.trim_ascii_start().starts_with(b"{") {
        json::parse(bytes).map_err(|e| e.message)
    } else {
        yaml::parse(bytes).map(|parsed| parsed.value).map_err(|e| e.to_string())
    };
    let object = parsed.and_then(|value| is_object(&value).map(|()| value));
    object.map_err(|why| format!("couldn't get version/kind; json parse error: {why}"))
}

/// In the words in which clients say that a value is no object; nothing counts as an empty one.
pub fn is_object(value: &Value) -> Result<(), String> {
    let given = match value {
        Value::Object(_) | Value::Null => return Ok(()),
        Value::List(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
    };
    Err(format!(
        r#"json: cannot unmarshal {given} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#
    ))
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn send(
    server: &Server,
    target: Target<'_>,
    url: &str,
    authorization: &str,
    body: &Value,
    limit: Duration,
) -> Result<(Parts, Bytes), Failure> {
    let mut request = Request::new(full(body.to_string()));
    *request.method_mut() = Method::POST;
    for (name, value) in [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/json, */*")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Some(value) = Some(authorization).filter(|a| !a.is_empty()).and_then(|a| a.parse().ok()) {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    exchange(server, target, url, request, limit).await
}

/// Reads what is there; with the answer's headers.
pub async fn get(server: &Server, target: Target<'_>, limit: Duration) -> Result<(HeaderMap, Bytes), Failure> {
    let (parts, bytes) = exchange(server, target, target.url, Request::new(full("")), limit).await?;
    Ok((parts.headers, bytes))
}

async fn exchange(
    server: &Server,
    target: Target<'_>,
    url: &str,
    mut request: Request<crate::Body>,
    limit: Duration,
) -> Result<(Parts, Bytes), Failure> {
    let verb = if request.method() == Method::POST { "Post" } else { "Get" };
    let uri: http::Uri = url.parse().map_err(|e| Failure::lasting(format!("{url}: {e}")))?;
    let unreached = |why: &str| format!("{verb} {url:?}: {why}");
    if let Some(authority) = uri.authority().and_then(|a| a.as_str().parse().ok()) {
        request.headers_mut().insert(header::HOST, authority);
    }
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = path.parse().map_err(|e| Failure::lasting(format!("{path}: {e}")))?;
    let answer = async {
        let sent = server.config().node_proxy.to_url(server, target, request).await;
        let response = sent.map_err(|status| Failure {
            why: unreached(&status.message),
            is_passing: status.message.contains("reset by peer"),
        })?;
        let (parts, body) = response.into_parts();
        let bytes = read_limited(body, ANSWER_BYTES_MAX).await.map_err(|status| Failure::lasting(status.message))?;
        Ok((parts, bytes))
    };
    let late = |_| Failure::lasting(unreached("context deadline exceeded"));
    let (parts, bytes) = tokio::time::timeout(limit, answer).await.map_err(late)??;
    if parts.status.is_success() {
        return Ok((parts, bytes));
    }
    let is_passing =
        matches!(parts.status.as_u16(), 429 | 500 | 504) || parts.headers.contains_key(header::RETRY_AFTER);
    Err(Failure { why: refusal(&parts, &bytes), is_passing })
}

/// What clients say of an answer that is an error.
fn refusal(parts: &Parts, body: &[u8]) -> String {
    if let Ok(said) = parsed(body)
        && said.str_at(&["kind"]) == "Status"
        && said.str_at(&["status"]) != "Success"
    {
        return said.str_at(&["message"]).to_owned();
    }
    let kind = content_type(&parts.headers);
    let text = String::from_utf8_lossy(body.get(..ERROR_BYTES_MAX).unwrap_or(body));
    let said = if kind.is_empty() || kind.starts_with("text/") { text.trim() } else { "unknown" };
    let why = match parts.status.as_u16() {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 | 415 => said,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        406 if said != "unknown" && !said.is_empty() => said,
        406 => "the server was unable to respond with a content type that the client supports",
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => return format!("an error on the server ({said:?}) has prevented the request from succeeding"),
        code => {
            return format!("the server responded with the status code {code} but did not return more information");
        }
    };
    why.to_owned()
}

/// Reads a file that a configuration names.
pub type Read<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// A server outside with our credentials for it, as a kubeconfig says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    pub server_name: String,
    pub ca_bundle: Vec<u8>,
    pub insecure: bool,
    /// Chain and key, as PEM.
    pub certificate: Option<(String, String)>,
    /// The header.
    pub authorization: String,
}

impl Endpoint {
    /// # Errors
    /// What in the file is not as it should be.
    pub fn from_kubeconfig(path: &Path, read: Read<'_>) -> Result<Endpoint, String> {
        let wrong = |why: &str| format!("invalid configuration: {why}");
        let file = yaml::parse(read(path)?.as_bytes()).map_err(|e| format!("{}: {e}", path.display()))?.value;
        let named = |list: &str, name: &str, part: &str| {
            let found = file.list_at(&[list]).iter().find(|entry| entry.str_at(&["name"]) == name);
            found.map(|entry| entry[part].clone())
        };
        let current = file.str_at(&["current-context"]);
        let missing = || wrong(&format!("context was not found for specified context: {current}"));
        let context = match current {
            "" => return Err(wrong("no configuration has been provided")),
            _ => named("contexts", current, "context").ok_or_else(missing)?,
        };
        let cluster_name = context.str_at(&["cluster"]);
        let cluster = named("clusters", cluster_name, "cluster")
            .ok_or_else(|| wrong(&format!("cluster {cluster_name:?} does not exist")))?;
        let user = named("users", context.str_at(&["user"]), "user").unwrap_or_default();
        // Files are named from where the kubeconfig lies.
        let beside = |name: &str| read(&path.parent().unwrap_or(Path::new("")).join(name));
        let text = |of: &Value, key: &str| -> Result<String, String> {
            let data = of.str_at(&[&format!("{key}-data")]);
            match (data, of.str_at(&[key])) {
                ("", "") => Ok(String::new()),
                ("", file) => beside(file),
                (data, _) => STANDARD
                    .decode(data)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(|| wrong(&format!("{key}-data is not base64 of text"))),
            }
        };
        let (chain, key) = (text(&user, "client-certificate")?, text(&user, "client-key")?);
        let token = match (user.str_at(&["token"]), user.str_at(&["tokenFile"])) {
            (token, "") => token.to_owned(),
            (_, file) => beside(file)?.trim().to_owned(),
        };
        let (name, password) = (user.str_at(&["username"]), user.str_at(&["password"]));
        let endpoint = Endpoint {
            url: cluster.str_at(&["server"]).to_owned(),
            server_name: cluster.str_at(&["tls-server-name"]).to_owned(),
            ca_bundle: text(&cluster, "certificate-authority")?.into_bytes(),
            insecure: cluster.bool_at(&["insecure-skip-tls-verify"]),
            certificate: (!chain.is_empty() && !key.is_empty()).then_some((chain, key)),
            authorization: match (token.as_str(), name) {
                ("", "") => String::new(),
                ("", _) => format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))),
                _ => format!("Bearer {token}"),
            },
        };
        if !endpoint.url.starts_with("https://") && !endpoint.url.starts_with("http://") {
            return Err(wrong(&format!("no server found for cluster {cluster_name:?}")));
        }
        Ok(endpoint)
    }

    fn target(&self) -> Target<'_> {
        Target {
            url: &self.url,
            address: None,
            server_name: &self.server_name,
            ca_bundle: &self.ca_bundle,
            insecure: self.insecure,
            shows: match &self.certificate {
                Some((chain, key)) => Shows::Certificate(chain, key),
                None => Shows::Nothing,
            },
        }
    }

    /// Sends what needs no answer.
    pub async fn tell(&self, server: &Server, body: &Value, limit: Duration) -> Result<(), Failure> {
        send(server, self.target(), &self.url, &self.authorization, body, limit).await.map(drop)
    }

    /// Asks as patiently as upstream does: five times, if what went wrong may pass.
    pub async fn ask(&self, server: &Server, body: &Value, limit: Duration) -> Result<Value, Failure> {
        let mut pause = Duration::from_millis(500);
        for _ in 1..5 {
            match post(server, self.target(), &self.url, &self.authorization, body, limit).await {
                Err(failure) if failure.is_passing => tokio::time::sleep(pause).await,
                settled => return settled,
            }
            pause = pause * 3 / 2;
        }
        post(server, self.target(), &self.url, &self.authorization, body, limit).await
    }
}

/// Answers that are good for a while.
pub struct Remembered<T> {
    held: Mutex<HashMap<[u8; 32], (Instant, T)>>,
    max: usize,
}

impl<T: Clone> Remembered<T> {
    pub fn new(max: usize) -> Self {
        Remembered { held: Mutex::default(), max }
    }

    /// The key of several texts.
    pub fn key<'a>(texts: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        for text in texts {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }

    pub fn get(&self, key: &[u8; 32]) -> Option<T> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    pub fn put(&self, key: [u8; 32], value: T, lifetime: Duration) {
        if lifetime.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= self.max {
            held.retain(|_, (until, _)| *until > now);
        }
        if held.len() >= self.max {
            held.clear();
        }
        held.insert(key, (now + lifetime, value));
    }
}
