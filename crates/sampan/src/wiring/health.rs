//! `healthCheckNodePort`: tells load balancers whether a Service has endpoints on this node, as kube-proxy does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A Service (`namespace/name`) and how many of its ready endpoints are here.
type Check = (String, usize);

/// A client has so long to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// A port that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// One listener a port, for as long as a Service wants it.
#[derive(Default)]
pub struct Health {
    ports: BTreeMap<u16, (watch::Sender<Check>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Health {
    /// Answers these from now on, and no others.
    pub fn set(&mut self, checks: Vec<(u16, String, usize)>) {
        let wanted: BTreeMap<u16, Check> = checks.into_iter().map(|(port, name, here)| (port, (name, here))).collect();
        self.ports.retain(|port, (_, task)| {
            let stays = wanted.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        for (port, check) in wanted {
            if let Some((known, _)) = self.ports.get(&port) {
                known.send_replace(check);
            } else {
                let (sender, receiver) = watch::channel(check);
                let task = self.tasks.spawn(serve(port, receiver));
                self.ports.insert(port, (sender, task));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn serve(port: u16, check: watch::Receiver<Check>) {
    let listener = loop {
        // A machine without IPv6 has only the other one.
        let both = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await;
        match both {
            Ok(listener) => break listener,
            Err(_) => match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await {
                Ok(listener) => break listener,
                Err(error) => tracing::warn!(port, %error, "a Service's health check cannot be answered"),
            },
        }
        tokio::time::sleep(RETRY).await;
    };
    let mut clients = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        let check = check.clone();
        clients.spawn(async move {
            let service = service_fn(move |_| {
                let check = check.borrow().clone();
                async move { Ok::<_, Infallible>(answer(&check)) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

fn answer((name, here): &Check) -> Response<Full<Bytes>> {
    let (namespace, name) = name.split_once('/').unwrap_or_default();
    let text = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {here},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = if *here > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", (*here as u64).into());
    response
}

#[cfg(test)]
mod tests;
