//! What the server needs from outside, in its own words.

use std::{future::Future, pin::Pin, sync::Arc, time::SystemTime};

use http::request::Parts;
use schema::Value;

use crate::{Attributes, Body, Server, Status, User};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The time that objects carry.
pub trait Clock: Send + Sync {
    fn now(&self) -> SystemTime;
}

/// Where uids, generated names and tokens come from; cryptographically strong outside of tests.
pub trait Random: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

/// What is known of the connection's other end. In the extensions of requests that come from a socket.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    pub address: Option<std::net::SocketAddr>,
    /// DER certificates the client presented, leaf first; the handshake proved the key, not the chain.
    pub certificates: Arc<Vec<Vec<u8>>>,
}

/// Why credentials were refused; the client sees only `Unauthorized`, the log sees this.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Who a token belongs to, and the audiences it is good for.
pub type Reviewed = (User, Vec<String>);

/// What is found out about somebody; `None`: nothing.
pub type Found<'a, T> = BoxFuture<'a, Result<Option<T>, Refused>>;

/// Who is asking.
pub trait Authenticate: Send + Sync {
    /// `None`: no credentials of a kind this authenticator reads (the caller becomes anonymous if that is allowed).
    fn authenticate<'a>(&'a self, server: &'a Server, parts: &'a Parts, peer: &'a Peer) -> Found<'a, User>;

    /// A bearer token by itself, as TokenReview asks; with the audiences it is good for among those asked
    /// (all of the server's own if `audiences` is empty).
    fn review<'a>(&'a self, server: &'a Server, token: &'a str, audiences: &'a [String]) -> Found<'a, Reviewed>;
}

/// What was decided, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be.
    Allow(String),
    /// It must not be, whoever is asked further.
    Deny(String),
    /// Somebody else may allow it.
    NoOpinion(String),
    /// Not allowed, and somebody who should have been asked could not be.
    Failed { denied: bool, reason: String, error: String },
}

/// A decision, at once from the caches or when somebody outside has answered.
pub enum Answer<'a> {
    Now(Decision),
    Later(BoxFuture<'a, Decision>),
}

impl Answer<'_> {
    /// For those who cannot wait (expressions): blocks, while other threads take over this one's tasks.
    pub fn now(self) -> Decision {
        use tokio::runtime::{Handle, RuntimeFlavor};
        match (self, Handle::try_current()) {
            (Answer::Now(decision), _) => decision,
            (Answer::Later(answer), Ok(runtime)) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(answer))
            }
            (Answer::Later(_), _) => {
                let error = "an authorization webhook cannot be waited for here".to_owned();
                Decision::Failed { denied: false, reason: String::new(), error }
            }
        }
    }
}

/// One rule of what a user may do, as SelfSubjectRulesReview lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

/// What a user may do, as far as it can be listed.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    pub incomplete: bool,
    pub errors: Vec<String>,
}

/// May they.
pub trait Authorize: Send + Sync {
    fn authorize<'a>(&'a self, server: &'a Server, user: &'a User, attributes: &'a Attributes) -> Answer<'a>;

    /// The rules that apply to a user in a namespace.
    fn rules(&self, server: &Server, user: &User, namespace: &str) -> Rules;
}

/// Signs service account tokens for `serviceaccounts/NAME/token`.
pub trait IssueToken: Send + Sync {
    /// Completes the TokenRequest's status from its spec (audiences, expirationSeconds, boundObjectRef already checked
    /// and defaulted). `bound` is the bound Pod, Secret or Node.
    fn issue(
        &self,
        server: &Server,
        service_account: &Value,
        bound: Option<&Value>,
        request: &mut Value,
    ) -> Result<(), Status>;

    /// A token without an end, for a Secret that holds it; `None` if such tokens are not made.
    fn legacy(&self, service_account: &Value, namespace: &str, secret: &str) -> Option<String> {
        let _ = (service_account, namespace, secret);
        None
    }

    /// The issuer's OpenID configuration, as JSON.
    fn configuration(&self) -> Option<String> {
        None
    }

    /// The issuer's public keys, as a JSON Web Key Set.
    fn key_set(&self) -> Option<String> {
        None
    }
}

/// A server outside: a webhook, an aggregated API server, an issuer of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `https://HOST[:PORT]/…`: the certificate must be HOST's, or that of `server_name` if there is one.
    pub url: &'a str,
    /// Where to connect instead of what HOST resolves to: an endpoint of a service.
    pub address: Option<std::net::SocketAddr>,
    pub server_name: &'a str,
    /// PEM; empty: the system's roots.
    pub ca_bundle: &'a [u8],
    /// Any certificate will do.
    pub insecure: bool,
    pub shows: Shows<'a>,
}

/// The client certificate that a server outside is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows<'a> {
    Nothing,
    /// The front proxy's, which makes the headers credible that say who asks.
    FrontProxy,
    /// This chain and its key, as PEM.
    Certificate(&'a str, &'a str),
}

/// The other side's answer.
pub type Reached<'a> = BoxFuture<'a, Result<http::Response<Body>, Status>>;

/// Reaches a node's kubelet, whether in this process, over a tunnel or over the network.
pub trait NodeProxy: Send + Sync {
    /// Sends a request whose URI is a kubelet path (`/containerLogs/…`, `/exec/…?…`); the response may be an upgrade.
    fn to_node<'a>(&'a self, server: &'a Server, node: &'a str, request: http::Request<Body>) -> Reached<'a>;

    /// Sends a request to a pod's or service endpoint's address (`proxy` subresources): `scheme` is `http` or `https`.
    fn to_address<'a>(
        &'a self,
        server: &'a Server,
        scheme: &'a str,
        address: std::net::SocketAddr,
        request: http::Request<Body>,
    ) -> Reached<'a>;

    /// Sends a request to a server outside; its URI is the path.
    fn to_url<'a>(&'a self, server: &'a Server, target: Target<'a>, request: http::Request<Body>) -> Reached<'a>;
}
