//! The kubelet's API on its port: who asks is found out by certificate or by the API server, and what they may is
//! the API server's to say (`nodes/log`, `nodes/metrics`, `nodes/stats`, `nodes/proxy`), as with `--authorization-mode=Webhook`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apiserver::seams::{BoxFuture, Peer};
use apiserver::{Body, body};
use http::{Request, Response, StatusCode, header};
use pki::Certificate;
use reconcile::io::Client;
use schema::api::authentication::v1::{TokenReview, TokenReviewSpec};
use schema::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};

use super::{host::now_ns, node_proxy::LocalKubelet};
use crate::listen::Handler;

/// How long an answer of the API server is believed, as upstream's webhook caches: authorized 5 min, others 30 s.
const BELIEVE_YES: Duration = Duration::from_secs(300);
const BELIEVE_NO: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: usize = 4096;

/// What answers requests that may be asked.
pub struct Door {
    pub node: String,
    pub kubelet: Arc<dyn LocalKubelet>,
    pub client: Client,
    pub client_ca: Vec<Certificate>,
    users: Memory<Option<Who>>,
    decisions: Memory<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Who {
    name: String,
    groups: Vec<String>,
}

struct Memory<T>(Mutex<HashMap<String, (Instant, T)>>);

impl<T: Clone> Memory<T> {
    fn get(&self, key: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: String, value: T, lasts: Duration) {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(key, (Instant::now() + lasts, value));
    }
}

impl Door {
    pub fn new(node: &str, kubelet: Arc<dyn LocalKubelet>, client: Client, client_ca: &str) -> pki::Result<Self> {
        Ok(Self {
            node: node.to_owned(),
            kubelet,
            client,
            client_ca: Certificate::all_from_pem(client_ca)?,
            users: Memory(Mutex::default()),
            decisions: Memory(Mutex::default()),
        })
    }

    async fn who(&self, peer: Option<Peer>, token: Option<String>) -> Option<Who> {
        if let Some(who) = peer.and_then(|peer| self.by_certificate(&peer)) {
            return Some(who);
        }
        let token = token?;
        if let Some(known) = self.users.get(&token) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.clone(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let answer: TokenReview = self.client.create(&review).await.ok()?;
        let user = answer.status.user;
        let who = answer.status.authenticated.then_some(Who { name: user.username, groups: user.groups });
        self.users.put(token, who.clone(), BELIEVE_NO);
        who
    }

    fn by_certificate(&self, peer: &Peer) -> Option<Who> {
        let leaf = Certificate::from_der(peer.certificates.first()?).ok()?;
        let now = now_ns() / 1_000_000_000;
        let good = leaf.not_before <= now
            && now <= leaf.not_after
            && self.client_ca.iter().any(|authority| leaf.is_signed_by(authority));
        good.then_some(Who { name: leaf.subject.common_name, groups: leaf.subject.organizations })
    }

    async fn may(&self, who: &Who, verb: &str, subresource: &str) -> bool {
        if who.groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        let key = format!("{who:?} {verb} {subresource}");
        if let Some(known) = self.decisions.get(&key) {
            return known;
        }
        let mut groups = who.groups.clone();
        groups.push("system:authenticated".into());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: who.name.clone(),
                groups,
                extra: BTreeMap::new(),
                resource_attributes: Some(ResourceAttributes {
                    verb: verb.to_owned(),
                    version: "v1".to_owned(),
                    resource: "nodes".to_owned(),
                    subresource: subresource.to_owned(),
                    name: self.node.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let allowed = match self.client.create(&review).await {
            Ok(answer) => answer.status.allowed,
            Err(error) => {
                tracing::warn!(%error, "cannot ask who may use the kubelet");
                return false;
            }
        };
        self.decisions.put(key, allowed, if allowed { BELIEVE_YES } else { BELIEVE_NO });
        allowed
    }
}

/// What a path asks permission for, as upstream's NodeAuthorizerAttributesGetter.
fn subresource(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "checkpoint" => "checkpoint",
        "healthz" => "healthz",
        "configz" => "configz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    }
}

fn verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

fn refuse(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    response
}

impl Handler for Door {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let peer = request.extensions().get::<Peer>().cloned();
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).map(|token| token.trim().to_owned());
        let Some(who) = self.who(peer, token).await else {
            return refuse(StatusCode::UNAUTHORIZED, "Unauthorized".into());
        };
        let (verb, subresource) = (verb(request.method()), subresource(request.uri().path()));
        if !self.may(&who, verb, subresource).await {
            // `nodes/proxy` is the older, wider permission for what has a subresource of its own by now.
            let finer = matches!(subresource, "healthz" | "configz" | "pods");
            if !finer || !self.may(&who, verb, "proxy").await {
                let text = format!(
                    "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])",
                    who.name
                );
                return refuse(StatusCode::FORBIDDEN, text);
            }
        }
        self.kubelet.handle(request).await
    }
}

/// A kubelet as the API server of this process calls it.
pub struct Local(pub Arc<node::Kubelet>);

impl LocalKubelet for Local {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move { self.0.handle(request).await })
    }
}
