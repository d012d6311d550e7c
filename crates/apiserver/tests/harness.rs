//! A server on a store in a directory of its own, a clock that stands still and requests in short.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use apiserver::authn::config::Anonymous;
use apiserver::seams::{
    Answer, Authenticate, Authorize, BoxFuture, Clock, Decision, IssueToken, NodeProxy, Peer, Random, Refused, Rules,
    Target,
};
use apiserver::{Attributes, Body, Config, Server, Status, User, body};
use http::{Method, Request, request::Parts};
use http_body_util::BodyExt;
use schema::{Value, json};

pub struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}

/// Numbers that follow each other through a mixer: the same in every run.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (x ^ x >> 27) as u8;
        }
    }
}

struct Anyone;

impl Authenticate for Anyone {
    fn authenticate<'a>(
        &'a self,
        _: &'a Server,
        parts: &'a Parts,
        _: &'a Peer,
    ) -> BoxFuture<'a, Result<Option<User>, Refused>> {
        let token = parts.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        Box::pin(async move {
            match token.strip_prefix("Bearer ") {
                Some("bad") => Err(Refused("bad token".into())),
                Some(name) => Ok(Some(User::new(name, &[]))),
                None => Ok(None),
            }
        })
    }

    fn review<'a>(
        &'a self,
        _: &'a Server,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<(User, Vec<String>)>, Refused>> {
        Box::pin(async move { Ok((token == "good").then(|| (User::new("jane", &["dev"]), Vec::new()))) })
    }
}

/// Everyone but `nobody` and the anonymous may do everything.
struct Most;

impl Authorize for Most {
    fn authorize<'a>(&'a self, _: &'a Server, user: &'a User, _: &'a Attributes) -> Answer<'a> {
        Answer::Now(match user.name.as_str() {
            "nobody" | "system:anonymous" => Decision::NoOpinion(String::new()),
            _ => Decision::Allow(String::new()),
        })
    }
    fn rules(&self, _: &Server, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

struct Tokens;

impl IssueToken for Tokens {
    fn issue(&self, _: &Server, _: &Value, _: Option<&Value>, request: &mut Value) -> Result<(), Status> {
        request.set(&["status", "token"], "signed");
        Ok(())
    }
}

/// Answers with what it was asked.
struct Echo;

impl NodeProxy for Echo {
    fn to_node<'a>(
        &'a self,
        _: &'a Server,
        node: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<http::Response<Body>, Status>> {
        let waits = request.uri().path().contains("/waits/");
        let text = format!("{node} {} {}", request.method(), request.uri());
        let mut response = http::Response::new(body::full(if waits { "it is waiting".to_owned() } else { text }));
        if waits {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
        }
        Box::pin(async move { Ok(response) })
    }
    fn to_address<'a>(
        &'a self,
        _: &'a Server,
        scheme: &'a str,
        address: std::net::SocketAddr,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<http::Response<Body>, Status>> {
        let text = format!("{scheme} {address} {} {}", request.method(), request.uri());
        Box::pin(async move { Ok(http::Response::new(body::full(text))) })
    }
    fn to_url<'a>(
        &'a self,
        _: &'a Server,
        target: Target<'a>,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<http::Response<Body>, Status>> {
        Box::pin(async move { crate::webhooks::answer(target, request).await })
    }
}

pub struct Fixture {
    pub server: Server,
    pub store: Arc<store::sqlite::Sqlite>,
    directory: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub fn config(store: Arc<store::sqlite::Sqlite>) -> Config {
    Config {
        store,
        clock: Arc::new(Fixed),
        random: Arc::new(Counter::default()),
        authenticate: Arc::new(Anyone),
        authorize: Arc::new(Most),
        issue_token: Arc::new(Tokens),
        node_proxy: Arc::new(Echo),
        admission: Vec::new(),
        service_cidrs: vec!["10.43.0.0/16".into()],
        node_ports: 30000..=32767,
        anonymous: Anonymous::Everywhere,
        audit: None,
        seats: 600,
        // A clock that jumps when nobody is awake would jump over the time that the disk takes.
        request_timeout: Duration::ZERO,
        metrics: Arc::new(|_| {}),
    }
}

impl Fixture {
    pub async fn new() -> Fixture {
        let fixture = Fixture::with(config).await;
        fixture.post("/api/v1/namespaces", "{metadata: {name: default}}").await;
        fixture
    }

    /// A server made as the caller says, without any object.
    pub async fn with(config: impl FnOnce(Arc<store::sqlite::Sqlite>) -> Config) -> Fixture {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sampan-apiserver-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the store");
        let options = store::sqlite::Options { ballast_bytes: 0, ..Default::default() };
        let store = Arc::new(store::sqlite::Sqlite::open(directory.join("state.db"), options).expect("a store"));
        let server = Server::start(config(store.clone())).await.expect("a server");
        Fixture { server, store, directory }
    }

    pub async fn raw(&self, request: Request<Body>) -> Reply {
        let response = self.server.handle(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, bytes: bytes.to_vec() }
    }

    pub fn request(method: Method, path: &str, content_type: &str, body: impl Into<bytes::Bytes>) -> Request<Body> {
        let mut request = Request::new(body::full(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        if !content_type.is_empty() {
            request.headers_mut().insert("content-type", content_type.parse().expect("a type"));
        }
        request.headers_mut().insert("user-agent", "tests/1".parse().expect("an agent"));
        request.extensions_mut().insert(User::new("admin", &["system:masters"]));
        request
    }

    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: &str) -> Reply {
        // Flow YAML in tests, JSON on the wire.
        let body = if content_type.ends_with("json") && !body.is_empty() { relaxed(body) } else { body.to_owned() };
        self.raw(Self::request(method, path, content_type, body)).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "", "").await
    }
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.send(Method::POST, path, "application/json", body).await
    }
    pub async fn put(&self, path: &str, body: &str) -> Reply {
        self.send(Method::PUT, path, "application/json", body).await
    }
    pub async fn patch(&self, path: &str, kind: &str, body: &str) -> Reply {
        self.send(Method::PATCH, path, &format!("application/{kind}+json"), body).await
    }
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, "", "").await
    }
}

/// `{a: b, c: [1, "x y"]}` → JSON: bare words become strings.
pub fn relaxed(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                out.push(c);
                let mut escaped = false;
                for c in rest.by_ref() {
                    out.push(c);
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            '{' | '}' | '[' | ']' | ',' | ':' => out.push(c),
            c if c.is_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(&next) = rest.peek() {
                    if matches!(next, '{' | '}' | '[' | ']' | ',' | ':') || next.is_whitespace() {
                        break;
                    }
                    word.push(next);
                    rest.next();
                }
                let literal = matches!(word.as_str(), "true" | "false" | "null") || word.parse::<f64>().is_ok();
                out.push_str(&if literal { word } else { format!("{word:?}") });
            }
        }
    }
    out
}

pub struct Reply {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        json::parse(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
    pub fn at(&self, path: &str) -> String {
        let value = self.json();
        match value.pointer(path) {
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
            None => "-".into(),
        }
    }
    pub fn revision(&self) -> u64 {
        self.at("/metadata/resourceVersion").parse().unwrap_or_else(|_| panic!("no revision in {}", self.text()))
    }
    /// Asserts a status code, showing the body if it is another.
    #[track_caller]
    pub fn is(self, code: u16) -> Reply {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }
    /// Asserts what stands at JSON pointers.
    #[track_caller]
    pub fn has(self, wanted: &[(&str, &str)]) -> Reply {
        for (path, value) in wanted {
            assert_eq!(self.at(path), *value, "{path} in {}", self.text());
        }
        self
    }
}
