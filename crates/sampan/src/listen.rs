//! Listening sockets: TLS with optional client certificates, HTTP/1.1 and HTTP/2, upgrades.
//!
//! Who a client is, is decided behind this: a certificate's key is proven here, its chain is not judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver::{Body, seams::Peer};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::identity::Pair;

/// A client that connects and says nothing holds a socket for this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// And one that says too little: until its first request is whole, and for the header of every further one.
const HEADERS: Duration = Duration::from_secs(30);

/// Requests of one HTTP/2 connection at a time: upstream's `--http2-max-streams-per-connection`.
pub const STREAMS: u32 = 250;
/// Upstream's limit of what stands before a body.
const HTTP2_HEADER_BYTES: u32 = 1 << 20;
/// The same for HTTP/1, which holds its answers in a buffer of this size too.
const HTTP1_BUFFER_BYTES: usize = 256 << 10;
/// What a client that does not read keeps of each answer.
const HTTP2_SEND_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("cannot serve TLS with this certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a certificate or key that is no PEM")]
    Pem,
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => " (another program listens there; stop it or choose another port)",
        std::io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, request: http::Request<Body>) -> impl Future<Output = http::Response<Body>> + Send;
}

/// Has a moment's patience with a port in use: a predecessor that was killed lets go of it only when the kernel has
/// taken the whole process down.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Err(source) if source.kind() == std::io::ErrorKind::AddrInUse && tries < 40 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            outcome => return outcome.map_err(|source| Error::Bind { address, source }),
        }
    }
}

/// A TLS configuration which can be replaced while connections are accepted (renewed certificates).
pub fn tls(pair: &Pair) -> Result<Arc<rustls::ServerConfig>, Error> {
    let (chain, key) = pair.der().map_err(|_| Error::Pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyClient(provider)))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts until `stop` says so, and returns when the last connection is done with what it was doing. Connections may
/// have so many requests at a time.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    handler: Arc<impl Handler>,
    mut stop: watch::Receiver<bool>,
    streams: u32,
) {
    // Nothing is ever sent: it ends when the last connection does.
    let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stop) => break,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: existing connections go on, and free some.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let (handler, stop, alive) = (handler.clone(), stop.clone(), alive.clone());
        tokio::spawn(async move {
            keep_alive(&socket);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => serve_connection(stream, address, handler, stop, streams).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
            drop(alive);
        });
    }
    drop((listener, alive));
    ended.recv().await;
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // Without anybody to say so, it goes on.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// A client that is gone without a word is noticed, whether there is something to tell it or not.
fn keep_alive(socket: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(socket, 4);
    let _ = sockopt::set_tcp_user_timeout(socket, 120_000);
}

async fn serve_connection(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    address: SocketAddr,
    handler: Arc<impl Handler>,
    mut stop: watch::Receiver<bool>,
    streams: u32,
) {
    let certificates =
        stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
    let peer = Peer { address: Some(address), certificates: Arc::new(certificates) };
    let heard = Arc::new(AtomicBool::new(false));
    let closing = Arc::new(Notify::new());
    let (first, close) = (heard.clone(), closing.clone());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        first.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        let (handler, close) = (handler.clone(), close.clone());
        async move {
            let is_http2 = request.version() == http::Version::HTTP_2;
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let mut response = handler.handle(request).await;
            // What HTTP/1 says with a header, HTTP/2 says with a GOAWAY.
            if is_http2 && response.headers_mut().remove(http::header::CONNECTION).is_some() {
                close.notify_one();
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let silence = async {
        tokio::time::sleep(HEADERS).await;
        if heard.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection, silence);
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%address, %error, "a connection ended");
                }
                return;
            }
            () = &mut silence => return tracing::debug!(%address, "a connection without a request"),
            () = closing.notified(), if !is_closing => {}
            () = told(&mut stop), if !is_closing => {}
        }
        is_closing = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// Asks for a client certificate, takes any (or none), and checks only that the client holds its key.
#[derive(Debug)]
struct AnyClient(Arc<rustls::crypto::CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
