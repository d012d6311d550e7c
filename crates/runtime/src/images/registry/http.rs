//! A small HTTP/1.1 client: TLS per host, proxies from the environment, redirects, a few idle connections, and a
//! limit on every silence. HTTP/1.1 only: registries serve blobs from object stores, where one connection a blob is
//! faster than h2's windows.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tls::TlsConfigs;
use crate::images::error::Error;
use crate::lock;

const MAX_REDIRECTS: usize = 10;
const MAX_IDLE: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("the URL {0:?} is malformed")]
    Url(String),
    #[error("{host} does not resolve")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {to}")]
    Connect { to: String, source: io::Error },
    #[error("the TLS handshake with {to} failed")]
    Handshake { to: String, source: io::Error },
    #[error("TLS for {to}")]
    Tls { to: String, source: Box<Error> },
    #[error("the proxy {proxy} refuses: {status}")]
    Proxy { proxy: String, status: String },
    #[error("nothing came from {to} for {seconds} s")]
    Stalled { to: String, seconds: u64 },
    #[error("the connection to {to} broke")]
    Broken { to: String, source: hyper::Error },
    #[error("{0} redirects too often")]
    Redirects(String),
    #[error("the answer of {to} is longer than {limit} bytes")]
    TooLong { to: String, limit: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Origin> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Origin { https, host, port })
    }

    /// As `configs` of registries.yaml and certificates name it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.https { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

#[derive(Debug, Clone)]
pub struct Timeouts {
    pub connect: Duration,
    /// The longest silence while an answer, or more of it, is awaited.
    pub stall: Duration,
}

type Sender = SendRequest<Full<Bytes>>;

pub struct Client {
    tls: TlsConfigs,
    proxies: Proxies,
    timeouts: Timeouts,
    idle: Arc<Mutex<HashMap<Origin, Vec<Sender>>>>,
}

pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Option<Incoming>,
    connection: Option<(Origin, Sender)>,
    idle: Arc<Mutex<HashMap<Origin, Vec<Sender>>>>,
    to: String,
    stall: Duration,
}

pub struct Call {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub fn new(tls: TlsConfigs, timeouts: Timeouts) -> Client {
        Client { tls, proxies: Proxies::from_env(), timeouts, idle: Arc::default() }
    }

    /// Sends a request and follows redirects; credentials do not follow to another host.
    pub async fn send(&self, call: Call) -> Result<Response, HttpError> {
        let mut uri: Uri = call.url.parse().map_err(|_| HttpError::Url(call.url.clone()))?;
        let mut headers = call.headers;
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&uri).ok_or_else(|| HttpError::Url(uri.to_string()))?;
            let response = self.once(&origin, &uri, &call.method, &headers, &call.body).await?;
            let redirect = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers.get(header::LOCATION).filter(|_| redirect) else {
                return Ok(response);
            };
            let location = location.to_str().map_err(|_| HttpError::Url(format!("{location:?}")))?;
            uri = join(&uri, location).ok_or_else(|| HttpError::Url(location.into()))?;
            if Origin::of(&uri).as_ref() != Some(&origin) {
                headers.remove(header::AUTHORIZATION);
            }
        }
        Err(HttpError::Redirects(call.url))
    }

    async fn once(
        &self,
        origin: &Origin,
        uri: &Uri,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, HttpError> {
        let proxied = !origin.https && self.proxies.of(origin).is_some();
        let mut fresh = false;
        loop {
            let reused = if fresh { None } else { self.take_idle(origin) };
            let was_reused = reused.is_some();
            let mut sender = match reused {
                Some(sender) => sender,
                None => self.connect(origin).await?,
            };
            let target =
                if proxied { uri.to_string() } else { uri.path_and_query().map_or("/", |p| p.as_str()).to_owned() };
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = target.parse().map_err(|_| HttpError::Url(uri.to_string()))?;
            *request.headers_mut() = headers.clone();
            let host = HeaderValue::from_str(&origin.authority()).map_err(|_| HttpError::Url(uri.to_string()))?;
            request.headers_mut().insert(header::HOST, host);
            request
                .headers_mut()
                .insert(header::USER_AGENT, HeaderValue::from_static(concat!("sampan/", env!("CARGO_PKG_VERSION"))));
            let to = origin.authority();
            match timeout(self.timeouts.stall, sender.send_request(request)).await {
                Err(_) => return Err(HttpError::Stalled { to, seconds: self.timeouts.stall.as_secs() }),
                // The server may have closed an idle connection just now: that is no failure of the request.
                Ok(Err(_)) if was_reused => fresh = true,
                Ok(Err(source)) => return Err(HttpError::Broken { to, source }),
                Ok(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    return Ok(Response {
                        status: parts.status,
                        headers: parts.headers,
                        body: Some(body),
                        connection: Some((origin.clone(), sender)),
                        idle: self.idle.clone(),
                        to,
                        stall: self.timeouts.stall,
                    });
                }
            }
        }
    }

    fn take_idle(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = lock(&self.idle);
        let senders = idle.get_mut(origin)?;
        while let Some(sender) = senders.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Closes idle connections and drops root certificates: a node that pulls nothing holds nothing.
    pub fn forget_idle(&self) {
        self.tls.forget();
        lock(&self.idle).clear();
    }

    async fn connect(&self, origin: &Origin) -> Result<Sender, HttpError> {
        let to = origin.authority();
        let late = |_| HttpError::Stalled { to: to.clone(), seconds: self.timeouts.connect.as_secs() };
        let proxy = self.proxies.of(origin);
        let first_hop = proxy.map_or(origin, |proxy| &proxy.origin);
        let tcp = timeout(self.timeouts.connect, dial(first_hop)).await.map_err(late)??;
        let mut stream: Box<dyn Stream> = Box::new(tcp);
        if let Some(proxy) = proxy {
            if proxy.origin.https {
                stream = self.handshake(stream, &proxy.origin).await?;
            }
            if origin.https {
                timeout(self.timeouts.connect, tunnel(&mut stream, origin, proxy)).await.map_err(late)??;
            }
        }
        if origin.https {
            stream = self.handshake(stream, origin).await?;
        }
        let broken = |source| HttpError::Broken { to: to.clone(), source };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when the sender and the answer's body are dropped, or the server hangs up.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn handshake(&self, stream: Box<dyn Stream>, origin: &Origin) -> Result<Box<dyn Stream>, HttpError> {
        let to = origin.authority();
        let config =
            self.tls.of(&to).await.map_err(|source| HttpError::Tls { to: to.clone(), source: Box::new(source) })?;
        let name =
            rustls_pki_types::ServerName::try_from(origin.host.clone()).map_err(|_| HttpError::Url(to.clone()))?;
        let connecting = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        match timeout(self.timeouts.connect, connecting).await {
            Err(_) => Err(HttpError::Stalled { to, seconds: self.timeouts.connect.as_secs() }),
            Ok(Err(source)) => Err(HttpError::Handshake { to, source }),
            Ok(Ok(stream)) => Ok(Box::new(stream)),
        }
    }
}

impl Response {
    /// More of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            match timeout(self.stall, body.frame()).await {
                Err(_) => {
                    (self.body, self.connection) = (None, None);
                    return Err(HttpError::Stalled { to: self.to.clone(), seconds: self.stall.as_secs() });
                }
                Ok(Some(Err(source))) => {
                    (self.body, self.connection) = (None, None);
                    return Err(HttpError::Broken { to: self.to.clone(), source });
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(None) => {
                    self.body = None;
                    if let Some((origin, mut sender)) = self.connection.take()
                        && matches!(timeout(Duration::from_millis(50), sender.ready()).await, Ok(Ok(())))
                    {
                        let mut idle = lock(&self.idle);
                        let senders = idle.entry(origin).or_default();
                        if senders.len() < MAX_IDLE {
                            senders.push(sender);
                        }
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body, if it is at most `limit` bytes.
    pub async fn bytes(&mut self, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(HttpError::TooLong { to: self.to.clone(), limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Tries a name's addresses in turn.
async fn dial(origin: &Origin) -> Result<TcpStream, HttpError> {
    let resolve = |source| HttpError::Resolve { host: origin.host.clone(), source };
    let addresses = tokio::net::lookup_host((origin.host.as_str(), origin.port)).await.map_err(resolve)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        match timeout(Duration::from_secs(5), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => last = e,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(HttpError::Connect { to: origin.authority(), source: last })
}

async fn tunnel(stream: &mut Box<dyn Stream>, origin: &Origin, proxy: &Proxy) -> Result<(), HttpError> {
    let refused = |status: String| HttpError::Proxy { proxy: proxy.origin.authority(), status };
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let mut request = format!("CONNECT {host}:{0} HTTP/1.1\r\nHost: {host}:{0}\r\n", origin.port);
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    let io = |e: io::Error| HttpError::Connect { to: proxy.origin.authority(), source: e };
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > 8192 {
            return Err(refused("its answer is too long".into()));
        }
        answer.push(stream.read_u8().await.map_err(io)?);
    }
    let status = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) { Ok(()) } else { Err(refused(status)) }
}

/// A `Location` relative to the URL that gave it.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.split(['/', '?', '#']).next().is_some_and(|first| first.ends_with(':')) {
        return location.parse().ok();
    }
    let scheme = base.scheme_str()?;
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let authority = base.authority()?;
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{location}").parse().ok()
}

#[derive(Debug)]
struct Proxy {
    origin: Origin,
    authorization: Option<String>,
}

/// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in either case.
#[derive(Debug)]
struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    none: Vec<String>,
}

impl Proxies {
    fn from_env() -> Proxies {
        let variable = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.ok().filter(|v| !v.is_empty())
        };
        let none = variable("NO_PROXY").unwrap_or_default();
        Proxies {
            http: variable("HTTP_PROXY").as_deref().and_then(Proxy::parse),
            https: variable("HTTPS_PROXY").as_deref().and_then(Proxy::parse),
            none: none.split(',').map(|part| part.trim().to_ascii_lowercase()).filter(|p| !p.is_empty()).collect(),
        }
    }

    fn of(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = if origin.https { &self.https } else { &self.http }.as_ref()?;
        (!bypassed(&self.none, origin)).then_some(proxy)
    }
}

/// Loopback never goes through a proxy; `NO_PROXY` has hosts, domains, addresses and networks, with or without a port.
fn bypassed(none: &[String], origin: &Origin) -> bool {
    let address: Option<std::net::IpAddr> = origin.host.parse().ok();
    if origin.host == "localhost" || address.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    none.iter().any(|rule| {
        if rule == "*" {
            return true;
        }
        if let (Some((network, bits)), Some(address)) = (rule.split_once('/'), address) {
            return in_network(address, network, bits).unwrap_or(false);
        }
        let rule = match rule.rsplit_once(':') {
            Some((host, port)) if port.parse() == Ok(origin.port) => host,
            Some((_, port))
                if port.parse::<u16>().is_ok() && !rule.starts_with('[') && rule.matches(':').count() == 1 =>
            {
                return false;
            }
            _ => rule,
        };
        let domain = rule.trim_start_matches('*').trim_start_matches('.');
        origin.host == domain || origin.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

fn in_network(address: std::net::IpAddr, network: &str, bits: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    match (address, network.parse().ok()?) {
        (std::net::IpAddr::V4(a), std::net::IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Some(a.to_bits() & mask == n.to_bits() & mask)
        }
        (std::net::IpAddr::V6(a), std::net::IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Some(a.to_bits() & mask == n.to_bits() & mask)
        }
        _ => Some(false),
    }
}

impl Proxy {
    fn parse(text: &str) -> Option<Proxy> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = text.split_once("://")?;
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let origin = Origin::of(&format!("{scheme}://{host}").parse().ok()?)?;
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            crate::images::credentials::Credentials::basic_header(&unescape(name), &unescape(password))
        });
        Some(Proxy { origin, authorization })
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
