//! HTTP requests of probes and hooks: one connection each, bodies cut.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Get \"{url}\": {why}")]
    Failed { url: String, why: String },
    #[error("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout { url: String },
    #[error("stopped after 10 redirects")]
    Redirects,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
    /// A redirect to another host was not followed.
    pub elsewhere: bool,
}

/// What is kept of a body.
const MAX_BODY_BYTES: usize = 10 << 10;

impl Target {
    fn url(&self) -> String {
        let path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        format!("{}://{}{path}", if self.secure { "https" } else { "http" }, join(&self.host, self.port))
    }
}

/// `host:port`, with brackets around what has colons.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects; a failure in Go's words.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        format!("dial tcp {}: connect: {text}", join(host, port))
    })
}

/// GET, following redirects on the same host.
pub async fn get(target: &Target, tls: &Arc<ClientConfig>, timeout: Duration) -> Result<Answer, Error> {
    let url = target.url();
    match tokio::time::timeout(timeout, follow(target.clone(), tls)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Timeout { url }),
    }
}

async fn follow(mut target: Target, tls: &Arc<ClientConfig>) -> Result<Answer, Error> {
    for _ in 0..10 {
        let url = target.url();
        let failed = |why: String| Error::Failed { url: url.clone(), why };
        let (status, location, body) = once(&target, tls).await.map_err(failed)?;
        let (300..400, Some(location)) = (status, location) else {
            return Ok(Answer { status, body, elsewhere: false });
        };
        let there: http::Uri = location.parse().map_err(|_| failed(format!("a redirect to {location}")))?;
        if there.host().is_some_and(|host| host.trim_matches(['[', ']']) != target.host) {
            return Ok(Answer { status, body, elsewhere: true });
        }
        if let Some(scheme) = there.scheme_str() {
            target.secure = scheme == "https";
            target.port = there.port_u16().unwrap_or(if target.secure { 443 } else { 80 });
        }
        target.path = there.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    }
    Err(Error::Redirects)
}

async fn once(target: &Target, tls: &Arc<ClientConfig>) -> Result<(u16, Option<String>, String), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = dial(&target.host, target.port).await?;
    let url: http::Uri = target.url().parse().map_err(|error: http::uri::InvalidUri| text(&error))?;
    let mut request = Request::new(Empty::<Bytes>::new());
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| text(&error))?;
    let headers = request.headers_mut();
    if let Some(authority) = url.authority() {
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|error| text(&error))?);
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.37"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &target.headers {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
            return Err(format!("the header {name} cannot be sent"));
        };
        if value.is_empty() && (name == header::ACCEPT || name == header::USER_AGENT) {
            headers.remove(name);
        } else {
            headers.insert(name, value);
        }
    }
    if target.secure {
        let name = ServerName::try_from(target.host.clone()).map_err(|error| text(&error))?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|error| text(&error))?;
        send(TokioIo::new(stream), request).await
    } else {
        send(TokioIo::new(stream), request).await
    }
}

async fn send<T>(io: T, request: Request<Empty<Bytes>>) -> Result<(u16, Option<String>, String), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let failed = |error: hyper::Error| match error.is_incomplete_message() {
            true => "EOF".to_owned(),
            false => error.to_string(),
        };
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut kept = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                kept.extend_from_slice(&data[..data.len().min(MAX_BODY_BYTES - kept.len())]);
            }
            if kept.len() == MAX_BODY_BYTES {
                break;
            }
        }
        Ok((status, location, String::from_utf8_lossy(&kept).into_owned()))
    }
    .await;
    driver.abort();
    answer
}
