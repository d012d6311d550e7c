//! HTTPS to other processes of the cluster: an agent to its server, the server to kubelets, webhooks and pods.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{Body, body};
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri::Scheme};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pki::ExtendedUsage;
use reconcile::io::{BoxError, BoxFuture, Transport};
use runtime::images::registry::{NoVerification, system_roots};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::identity::Pair;

const CONNECT: Duration = Duration::from_secs(10);

/// Connections fail in Go's words: clients of the API read them where it calls webhooks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", unconnected(address, source))]
    Connect { address: String, source: std::io::Error },
    #[error("dial tcp {address}: i/o timeout")]
    Timeout { address: String },
    #[error("{0:?} is no URL of a server")]
    Url(String),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a certificate or key that is no PEM")]
    Pem,
    #[error("trusted certificates: {0}")]
    Untrusting(#[from] rustls::client::VerifierBuilderError),
    #[error("{}", unanswered(address, source))]
    Http { address: String, source: hyper::Error },
}

fn unconnected(address: &str, source: &std::io::Error) -> String {
    if let Some(error) = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return unsecured(error);
    }
    let why = match source.kind() {
        ErrorKind::UnexpectedEof => return "EOF".to_owned(),
        ErrorKind::ConnectionRefused => "connect: connection refused",
        ErrorKind::HostUnreachable => "connect: no route to host",
        ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        ErrorKind::ConnectionReset => "read: connection reset by peer",
        _ if source.to_string().starts_with("failed to lookup") => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            return format!("dial tcp: lookup {host}: no such host");
        }
        _ => &source.to_string(),
    };
    format!("dial tcp {address}: {why}")
}

fn unanswered(address: &str, source: &hyper::Error) -> String {
    use std::error::Error;
    let cause = source.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match cause {
        _ if source.is_incomplete_message() => "EOF".to_owned(),
        Some(cause) => unconnected(address, cause),
        None => format!("HTTP with {address}: {source}"),
    }
}

fn unsecured(error: &rustls::Error) -> String {
    use CertificateError::{
        BadSignature, ExpiredContext, NotValidForNameContext, NotValidYetContext, Other, UnknownIssuer,
    };
    let why = match error {
        rustls::Error::InvalidMessage(_) => return "http: server gave HTTP response to HTTPS client".into(),
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature | Other(_)) => {
            "certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(ExpiredContext { .. } | NotValidYetContext { .. }) => {
            "certificate has expired or is not yet valid".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidForNameContext { expected, presented }) => {
            let (wanted, is_address) = (expected.to_str(), matches!(expected, ServerName::IpAddress(_)));
            // As `DnsName("a")` and `IpAddress(1.2.3.4)`.
            let of = |kind: &str| -> Vec<&str> {
                let names = presented.iter().filter_map(|name| name.strip_prefix(kind)?.strip_suffix(')'));
                names.map(|name| name.trim_matches('"')).collect()
            };
            match (of(if is_address { "IpAddress(" } else { "DnsName(" }).join(", "), is_address) {
                (none, true) if none.is_empty() => {
                    format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
                }
                (none, false) if none.is_empty() => {
                    format!("certificate is not valid for any names, but wanted to match {wanted}")
                }
                (names, _) => format!("certificate is valid for {names}, not {wanted}"),
            }
        }
        other => return format!("tls: {other}"),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// Whom to trust.
pub enum Trust<'a> {
    /// These authorities (PEM).
    Bundle(&'a str),
    /// The machine's own authorities.
    System,
    /// Whoever answers: only where what is read is checked in another way.
    Anyone,
}

/// A TLS client's configuration.
pub fn tls(trust: &Trust<'_>, identity: Option<&Pair>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Bundle(pem) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Bundle::new(pem, provider)?))
        }
        Trust::System => builder.with_root_certificates(system_roots()),
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider))),
    };
    let mut config = match identity {
        Some(pair) => {
            let (chain, key) = pair.der().map_err(|_| Error::Pem)?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Trusts what the bundle's authorities have signed and, as Go does, a server whose certificate stands in the bundle
/// itself, even if it is an authority's.
#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    fn new(pem: &str, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| Error::Pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { certificates, authorities })
    }
}

/// What remains to be checked of a certificate that needs no signature to be trusted: its name, time and purpose.
fn verify_trusted(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let read = pki::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let wanted = [ExtendedUsage::Any, ExtendedUsage::ServerAuth];
    if now > read.not_after {
        return Err(CertificateError::Expired.into());
    }
    if now < read.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if read.restricts_usage && !read.extended_usages.iter().any(|usage| wanted.contains(usage)) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(())
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.contains(end_entity) {
            verify_trusted(end_entity, name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

async fn connect(address: &str) -> Result<TcpStream, Error> {
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => {
            let socket = connected.map_err(failed)?;
            let _ = socket.set_nodelay(true);
            Ok(socket)
        }
        Err(_) => Err(Error::Timeout { address: address.to_owned() }),
    }
}

async fn connect_tls(address: &str, name: &str, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, Error> {
    let socket = connect(address).await?;
    let server =
        ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|_| Error::Url(name.to_owned()))?;
    match tokio::time::timeout(CONNECT, TlsConnector::from(config).connect(server, socket)).await {
        Ok(stream) => stream.map_err(|source| Error::Connect { address: address.to_owned(), source }),
        Err(_) => Err(Error::Timeout { address: address.to_owned() }),
    }
}

type Answered = Result<Response<Body>, Error>;

/// One request on a connection of its own; the answer may be an upgrade.
pub async fn once(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: &str,
    mut request: Request<Body>,
) -> Answered {
    let failed = |source| Error::Http { address: address.to_owned(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    let host = request.uri().authority().map_or(address.to_owned(), ToString::to_string);
    if let Ok(host) = host.parse() {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse();
    *request.uri_mut() = path.unwrap_or_default();
    let response = sender.send_request(request).await.map_err(failed)?;
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

/// One HTTPS request to `address`, whose certificate is for `name`.
pub async fn once_tls(address: &str, name: &str, config: Arc<ClientConfig>, request: Request<Body>) -> Answered {
    once(connect_tls(address, name, config).await?, address, request).await
}

/// One HTTPS request to an address whose certificate is for that address.
pub async fn once_tls_to(address: SocketAddr, config: Arc<ClientConfig>, request: Request<Body>) -> Answered {
    once_tls(&address.to_string(), &address.ip().to_string(), config, request).await
}

/// One HTTP request to `address`.
pub async fn once_plain(address: &str, request: Request<Body>) -> Answered {
    once(connect(address).await?, address, request).await
}

/// `https://HOST:PORT` as address to dial and name to verify; the port is 6443 if none is given.
pub fn target(url: &str, default_port: u16) -> Result<(String, String), Error> {
    let bad = || Error::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(bad());
    }
    let host = uri.host().ok_or_else(bad)?;
    Ok((format!("{host}:{}", uri.port_u16().unwrap_or(default_port)), host.to_owned()))
}

/// A server of the cluster over one HTTP/2 connection, which is made again when it is lost.
pub struct Remote {
    address: String,
    name: String,
    config: Mutex<Arc<ClientConfig>>,
    connection: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

impl Remote {
    pub fn new(url: &str, config: Arc<ClientConfig>) -> Result<Self, Error> {
        let (address, name) = target(url, 6443)?;
        Ok(Self { address, name, config: Mutex::new(config), connection: tokio::sync::Mutex::new(None) })
    }

    async fn sender(&self) -> Result<http2::SendRequest<Body>, Error> {
        let mut held = self.connection.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let config = self.config.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let stream = connect_tls(&self.address, &self.name, config).await?;
        // A dead peer is noticed within the lease's duration, as client-go does.
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(15))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::Http { address: self.address.clone(), source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the server ended");
            }
        });
        Ok(held.insert(sender).clone())
    }
}

impl Transport for Remote {
    fn call(&self, mut request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, BoxError>> {
        Box::pin(async move {
            let mut sender = self.sender().await?;
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = format!("https://{}{path}", self.address).parse::<Uri>()?;
            let response = sender.send_request(request.map(body::full)).await?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }
}

#[cfg(test)]
mod tests;
