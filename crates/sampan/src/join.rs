//! How a node joins: it shows the cluster's token once, proves that it is the node of this name, and is given
//! certificates for the keys that it keeps to itself.
//!
//! `POST /v1-sampan/join` with basic authentication `node:<secret>`. The first node of a name leaves the hash of its
//! password in `kube-system/<name>.node-password.sampan`; another machine cannot take its name. The node checks the
//! server by the CA's hash in the token.

use std::net::IpAddr;
use std::sync::Arc;

use apiserver::{Body, Server, User, body};
use http::{Method, Request, Response, StatusCode, header};
use pki::{Authority, CertificateRequest, DAY, Leaf, Names, SystemRandom};
use reconcile::io::collect;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::wiring::host::now_ns;

pub const PATH: &str = "/v1-sampan/join";
/// Who follows services, endpoints and policies on every node.
pub const NETWORK_USER: &str = "system:sampan:network";
const MAX_BYTES: usize = 64 << 10;
const VALIDITY: i64 = 365 * DAY;

/// What a node asks for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ask {
    pub node_name: String,
    /// Made by the node at its first start.
    pub node_password: String,
    pub addresses: Vec<IpAddr>,
    /// PKCS#10, in PEM; only their keys count.
    pub client_request: String,
    pub serving_request: String,
    pub network_request: String,
}

/// What it is given, and keeps.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    pub client_certificate: String,
    pub serving_certificate: String,
    /// For the part that follows services, endpoints and policies.
    pub network_certificate: String,
    pub server_ca: String,
    pub client_ca: String,
    pub cluster: Cluster,
}

/// What nodes must agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub cluster_cidrs: Vec<String>,
    pub service_cidrs: Vec<String>,
    pub node_ports: (u16, u16),
    pub cluster_dns: Option<IpAddr>,
    pub cluster_domain: String,
    pub disable: Vec<String>,
}

/// The server's side.
pub struct Desk {
    pub server_ca: Arc<Authority>,
    pub client_ca: Arc<Authority>,
    pub server_secret: String,
    pub agent_secret: String,
    /// The node that runs in the server itself.
    pub own: Option<String>,
    pub cluster: Cluster,
}

impl Desk {
    pub async fn handle(&self, server: &Server, request: Request<Body>) -> Response<Body> {
        match self.join(server, request).await {
            Ok(given) => answer(StatusCode::OK, serde_json::to_vec(&given).unwrap_or_default()),
            Err((code, why)) => {
                tracing::info!(%why, "a node was refused");
                answer(code, json!({"message": why}).to_string().into_bytes())
            }
        }
    }

    async fn join(&self, server: &Server, request: Request<Body>) -> Result<Given, (StatusCode, String)> {
        let refuse = |code: StatusCode, why: &str| (code, why.to_owned());
        if request.method() != Method::POST {
            return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "POST joins"));
        }
        if !self.knows(request.headers().get(header::AUTHORIZATION)) {
            return Err(refuse(StatusCode::UNAUTHORIZED, "the token is not one of this cluster"));
        }
        let body = collect(request.into_body(), MAX_BYTES)
            .await
            .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let ask: Ask = serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        if !is_name(&ask.node_name) {
            return Err(refuse(StatusCode::BAD_REQUEST, "the node's name is no DNS name"));
        }
        if self.own.as_ref() == Some(&ask.node_name) {
            let why = "the server's own node has this name; choose another --node-name";
            return Err(refuse(StatusCode::FORBIDDEN, why));
        }
        check_password(server, &ask.node_name, &ask.node_password).await?;
        self.issue(&ask).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
    }

    fn issue(&self, ask: &Ask) -> pki::Result<Given> {
        let now = now_ns() / 1_000_000_000;
        let random = SystemRandom::new();
        let client = CertificateRequest::from_pem(&ask.client_request)?;
        let serving = CertificateRequest::from_pem(&ask.serving_request)?;
        let network = CertificateRequest::from_pem(&ask.network_request)?;
        let mut names = Names::of([ask.node_name.as_str(), "localhost", "127.0.0.1"]);
        names.ips.extend(&ask.addresses);
        let client_leaf = Leaf::kubelet_client(&ask.node_name, now, VALIDITY);
        let network_leaf = Leaf::client(NETWORK_USER, &[], now, VALIDITY);
        let serving_leaf = Leaf::kubelet_serving(&ask.node_name, names, now, VALIDITY);
        let issue = |authority: &Authority, leaf: &Leaf, key: &pki::PublicKey| -> pki::Result<String> {
            Ok(authority.with_chain(&authority.issue(leaf, key, &random)?))
        };
        Ok(Given {
            client_certificate: issue(&self.client_ca, &client_leaf, &client.public_key)?,
            network_certificate: issue(&self.client_ca, &network_leaf, &network.public_key)?,
            serving_certificate: issue(&self.server_ca, &serving_leaf, &serving.public_key)?,
            server_ca: self.server_ca.bundle_pem(),
            client_ca: self.client_ca.bundle_pem(),
            cluster: self.cluster.clone(),
        })
    }

    fn knows(&self, authorization: Option<&header::HeaderValue>) -> bool {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let shown = authorization
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .and_then(|decoded| String::from_utf8(decoded).ok());
        let Some((_, secret)) = shown.as_deref().and_then(|shown| shown.split_once(':')) else { return false };
        pki::same_secret(secret, &self.agent_secret) || pki::same_secret(secret, &self.server_secret)
    }
}

fn answer(code: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(body::full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// The node of this name is the machine that first had it.
async fn check_password(server: &Server, node: &str, password: &str) -> Result<(), (StatusCode, String)> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let name = format!("{node}.node-password.sampan");
    let digest = ring::digest::digest(&ring::digest::SHA256, password.as_bytes());
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let stored = server.read("", "secrets", "kube-system", &name);
    if let Some(stored) = stored.as_ref().map(|secret| secret.str_at(&["data", "hash"])) {
        let stored = STANDARD.decode(stored).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        if pki::same_secret(&stored, &hash) {
            return Ok(());
        }
        return Err((
            StatusCode::FORBIDDEN,
            format!(
                "there is a node {node:?} on another machine; choose another --node-name, or if that machine is gone, delete the node and the secret kube-system/{name}"
            ),
        ));
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "sampan.io/node-password", "immutable": true,
        "metadata": {"name": name, "namespace": "kube-system"}, "stringData": {"hash": hash},
    });
    let mut request = Request::new(body::full(secret.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/api/v1/namespaces/kube-system/secrets");
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    request.extensions_mut().insert(User::new("system:sampan:join", &["system:masters", "system:authenticated"]));
    let status = server.handle(request).await.status();
    if status.is_success() { Ok(()) } else { Err((status, format!("cannot keep the node's password: {status}"))) }
}
