//! How the API server reaches kubelets, pods and webhooks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use apiserver::seams::{BoxFuture, NodeProxy, Reached, Shows, Target};
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
    outside: Outside,
}

impl Proxy {
    pub fn new(server_ca: &str, client: &Pair, front_proxy: &Pair) -> Result<Self, remote::Error> {
        Ok(Self {
            local: OnceLock::new(),
            kubelets: remote::tls(&Trust::Bundle(server_ca), Some(client), &[b"http/1.1"])?,
            anyone: remote::tls(&Trust::Anyone, None, &[b"http/1.1"])?,
            front_proxy: front_proxy.clone(),
            outside: Outside::default(),
        })
    }

    pub fn set_local(&self, name: &str, kubelet: Arc<dyn LocalKubelet>) {
        let _ = self.local.set((name.to_owned(), kubelet));
    }
}

impl NodeProxy for Proxy {
    fn to_node<'a>(&'a self, server: &'a Server, node: &'a str, request: Request<Body>) -> Reached<'a> {
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

    fn to_address<'a>(&'a self, _: &'a Server, scheme: &'a str, to: SocketAddr, request: Request<Body>) -> Reached<'a> {
        Box::pin(async move {
            let sent = if scheme == "https" {
                splice(request, |request| remote::once_tls_to(to, self.anyone.clone(), request)).await
            } else {
                let address = to.to_string();
                splice(request, |request| remote::once_plain(&address, request)).await
            };
            sent.map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))
        })
    }

    fn to_url<'a>(&'a self, _: &'a Server, target: Target<'a>, request: Request<Body>) -> Reached<'a> {
        Box::pin(async move {
            let failed = |error: remote::Error| Status::plain_internal(error.to_string());
            if let Some(rest) = target.url.strip_prefix("http://") {
                let authority = rest.split('/').next().unwrap_or(rest);
                let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
                let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
                return splice(request, |request| async move { remote::once_plain(&address, request).await })
                    .await
                    .map_err(failed);
            }
            let config = self.outside.of(&target, &self.front_proxy).map_err(failed)?;
            let (named, host) = remote::target(target.url, 443).map_err(failed)?;
            let name = if target.server_name.is_empty() { host } else { target.server_name.to_owned() };
            let address = target.address.map_or(named, |address| address.to_string());
            splice(request, |request| async move { remote::once_tls(&address, &name, config, request).await })
                .await
                .map_err(failed)
        })
    }
}

/// Configurations for servers outside, each made once: the system's roots alone are half a megabyte to read.
#[derive(Default)]
struct Outside(Mutex<HashMap<[u8; 32], Arc<ClientConfig>>>);

/// More different bundles and certificates than this are made anew.
const OUTSIDE_MAX: usize = 64;

impl Outside {
    fn of(&self, target: &Target<'_>, front_proxy: &Pair) -> Result<Arc<ClientConfig>, remote::Error> {
        let bundle = String::from_utf8_lossy(target.ca_bundle);
        let trust = match target.insecure {
            true => Trust::Anyone,
            false if bundle.is_empty() => Trust::System,
            false => Trust::Bundle(&bundle),
        };
        let client = match target.shows {
            Shows::Nothing => None,
            Shows::FrontProxy => Some(front_proxy.clone()),
            Shows::Certificate(chain, key) => Some(Pair { certificate: chain.to_owned(), key: key.to_owned() }),
        };
        let (certificate, key) = client.as_ref().map_or(("", ""), |pair| (&pair.certificate, &pair.key));
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [&[u8::from(target.insecure)], target.ca_bundle, certificate.as_bytes(), key.as_bytes()] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(digest.finish().as_ref());
        let held = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = held().get(&id) {
            return Ok(config.clone());
        }
        let config = remote::tls(&trust, client.as_ref(), &[b"http/1.1"])?;
        let mut held = held();
        if held.len() >= OUTSIDE_MAX {
            held.clear();
        }
        held.insert(id, config.clone());
        Ok(config)
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
