//! A client's connection to a Unix socket: dialled at the first call, and again when it was lost.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::body::Body;

/// Clones share one connection; what a generated client is made of: `RuntimeServiceClient::new(channel)`.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
    service: Option<&'static str>,
}

struct Inner {
    path: PathBuf,
    dial_timeout: Duration,
    sender: Mutex<Option<SendRequest<Body>>>,
}

/// Dials `path`. Errors: nobody listens there, or nobody answered within `dial_timeout`; calls on a channel whose peer
/// went away dial again.
pub async fn connect(path: &Path, dial_timeout: Duration) -> io::Result<Channel> {
    let inner = Arc::new(Inner { path: path.into(), dial_timeout, sender: Mutex::new(None) });
    inner.sender().await?;
    Ok(Channel { inner, service: None })
}

impl Channel {
    /// Calls go to a service of another name, whose messages are the same.
    pub fn to(self, service: &'static str) -> Self {
        Self { service: Some(service), ..self }
    }
}

impl Inner {
    async fn sender(&self) -> io::Result<SendRequest<Body>> {
        let mut known = self.sender.lock().await;
        if let Some(sender) = known.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let dial = async {
            let stream = TokioIo::new(UnixStream::connect(&self.path).await?);
            http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)
        };
        let (sender, connection) = tokio::time::timeout(self.dial_timeout, dial)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
            .flatten()
            .map_err(|error| io::Error::new(error.kind(), format!("dial unix {}: {error}", self.path.display())))?;
        // It ends when the last sender is dropped, or the peer goes.
        tokio::spawn(connection);
        *known = Some(sender.clone());
        Ok(sender)
    }

    async fn send(
        &self,
        mut request: http::Request<Body>,
        service: Option<&str>,
    ) -> Result<http::Response<Incoming>, tonic::Status> {
        let unavailable = |error: &dyn std::fmt::Display| tonic::Status::unavailable(error.to_string());
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::from_static("localhost"));
        if let (Some(service), Some(path)) = (service, &uri.path_and_query) {
            let method = path.path().rsplit('/').next().unwrap_or_default();
            uri.path_and_query = Some(format!("/{service}/{method}").parse().map_err(|error| unavailable(&error))?);
        }
        *request.uri_mut() = http::Uri::from_parts(uri).map_err(|error| unavailable(&error))?;
        let mut sender = self.sender().await.map_err(|error| unavailable(&error))?;
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            // The connection was gone before anything of this was sent.
            Err(mut error) => match error.take_message() {
                Some(request) => {
                    self.sender.lock().await.take();
                    let mut sender = self.sender().await.map_err(|error| unavailable(&error))?;
                    sender.send_request(request).await.map_err(|error| unavailable(&error))
                }
                None => Err(unavailable(error.error())),
            },
        }
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { channel.inner.send(request, channel.service).await })
    }
}
