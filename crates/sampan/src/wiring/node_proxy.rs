//! How the API server reaches kubelets, pods and webhooks.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use apiserver::seams::{BoxFuture, NodeProxy, Target};
use apiserver::{Body, Server, Status};
use http::{Request, Response, StatusCode};
use reconcile::io::{Client, Identity};
use rustls::ClientConfig;
use schema::api::core::v1::Node;

use super::local::Local;
use super::remote::{self, Trust};
use crate::identity::Pair;

/// The kubelet of this process.
pub trait LocalKubelet: Send + Sync {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>>;
}

pub struct Proxy {
    /// This node's name and kubelet, once it runs.
    local: OnceLock<(String, Arc<dyn LocalKubelet>)>,
    /// Trusts the cluster's kubelets, shows the API server's client certificate.
    kubelets: Arc<ClientConfig>,
    /// Trusts anyone: pods and services behind `https:` in a proxy path have no names to check.
    anyone: Arc<ClientConfig>,
    /// Shown to aggregated API servers.
    front_proxy: Pair,
}

impl Proxy {
    pub fn new(server_ca: &str, client: &Pair, front_proxy: &Pair) -> Result<Self, remote::Error> {
        Ok(Self {
            local: OnceLock::new(),
            kubelets: remote::tls(&Trust::Bundle(server_ca), Some(client), &[b"http/1.1"])?,
            anyone: remote::tls(&Trust::Anyone, None, &[b"http/1.1"])?,
            front_proxy: front_proxy.clone(),
        })
    }

    pub fn set_local(&self, name: &str, kubelet: Arc<dyn LocalKubelet>) {
        let _ = self.local.set((name.to_owned(), kubelet));
    }
}

impl NodeProxy for Proxy {
    fn to_node<'a>(
        &'a self,
        server: &'a Server,
        node: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        Box::pin(async move {
            if let Some((name, kubelet)) = self.local.get()
                && name == node
            {
                return Ok(kubelet.handle(request).await);
            }
            let client = Client::new(Arc::new(Local(server.clone())), Identity("system:apiserver".into()));
            let found: Node = client
                .get("", node)
                .await
                .map_err(|error| Status::unavailable(format!("cannot find the kubelet of node {node}: {error}")))?;
            let (address, port) = kubelet_address(&found)
                .ok_or_else(|| Status::unavailable(format!("node {node} has no InternalIP in its status")))?;
            let target = SocketAddr::new(address, port);
            splice(request, |request| remote::once_tls_to(target, self.kubelets.clone(), request))
                .await
                .map_err(|error| Status::unavailable(format!("error dialing backend: {error}")))
        })
    }

    fn to_address<'a>(
        &'a self,
        _: &'a Server,
        scheme: &'a str,
        address: SocketAddr,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        Box::pin(async move {
            let sent = if scheme == "https" {
                splice(request, |request| remote::once_tls_to(address, self.anyone.clone(), request)).await
            } else {
                splice(request, |request| remote::once_plain(address, request)).await
            };
            sent.map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))
        })
    }

    fn to_url<'a>(
        &'a self,
        _: &'a Server,
        target: Target<'a>,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        Box::pin(async move {
            let failed = |error: remote::Error| Status::internal(format!("failed calling {}: {error}", target.url));
            let bundle = String::from_utf8_lossy(target.ca_bundle);
            let trust = match target.insecure {
                true => Trust::Anyone,
                false if bundle.is_empty() => Trust::System,
                false => Trust::Bundle(&bundle),
            };
            let client = target.front_proxy.then_some(&self.front_proxy);
            let config = remote::tls(&trust, client, &[b"http/1.1"]).map_err(failed)?;
            let (named, name) = remote::target(target.url, 443).map_err(failed)?;
            let address = target.address.map_or(named, |address| address.to_string());
            splice(request, |request| async move { remote::once_tls(&address, &name, config, request).await })
                .await
                .map_err(failed)
        })
    }
}

fn kubelet_address(node: &Node) -> Option<(IpAddr, u16)> {
    let address = node.status.addresses.iter().find(|address| address.r#type == "InternalIP")?.address.parse().ok()?;
    let port = u16::try_from(node.status.daemon_endpoints.kubelet_endpoint.port)
        .ok()
        .filter(|port| *port > 0)
        .unwrap_or(10250);
    Some((address, port))
}

/// Sends a request on; if the answer is an upgrade, joins the two connections.
async fn splice<F>(
    mut request: Request<Body>,
    send: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, remote::Error>
where
    F: Future<Output = Result<Response<Body>, remote::Error>>,
{
    let ours = hyper::upgrade::on(&mut request);
    // Whoever waits for the request's end finds it there.
    let carried = std::mem::take(request.extensions_mut());
    let mut response = send(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _carried = carried;
            if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
                let (mut ours, mut theirs) = (hyper_util::rt::TokioIo::new(ours), hyper_util::rt::TokioIo::new(theirs));
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            }
        });
    }
    Ok(response)
}
