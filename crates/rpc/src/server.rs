//! Generated services on a listening Unix socket.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::NamedService;

type Answer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// Services by their full names.
#[derive(Clone, Default)]
pub struct Routes(Vec<(&'static str, Arc<dyn Fn(http::Request<Incoming>) -> Answer + Send + Sync>)>);

impl Routes {
    /// `service` is a generated one: `RuntimeServiceServer::new(ours)`.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: tower_service::Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let answer = move |request| -> Answer {
            let mut service = service.clone();
            Box::pin(async move {
                match service.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            })
        };
        self.0.push((S::NAME, Arc::new(answer)));
        self
    }

    fn answer(&self, request: http::Request<Incoming>) -> Answer {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, answer)) => answer(request),
            None => {
                let status = tonic::Status::unimplemented(format!("unknown service {name}"));
                Box::pin(std::future::ready(status.into_http()))
            }
        }
    }
}

/// Answers whoever connects, for as long as this future lives; a call whose caller hangs up is dropped.
pub async fn serve(listener: UnixListener, routes: Routes) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Too many open files, most likely: others will close some.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let routes = routes.clone();
        let service = service_fn(move |request| {
            let answer = routes.answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        connections.spawn(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}
