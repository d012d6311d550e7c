//! A registry in this process that does what its rules say: answers with errors, stalls, cuts off, lies, redirects,
//! wants tokens. It counts what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::support::TestImage;

#[derive(Clone)]
pub enum Act {
    /// Status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Sends so many bytes, then nothing more.
    Stall(usize),
    /// Sends so many bytes, hangs up.
    Cut(usize),
    /// Ends properly (chunked) after so many bytes.
    Short(usize),
    /// Other bytes, of the same length.
    Lie,
    /// More bytes than there are, chunked.
    Excess,
    /// Whatever was asked, the whole blob with 200.
    IgnoreRange,
    Redirect(String),
}

struct Rule {
    part: String,
    left: u32,
    act: Act,
}

#[derive(Default)]
struct State {
    content: HashMap<String, (String, Bytes)>,
    rules: Vec<Rule>,
    log: Vec<String>,
    /// Requests need `Authorization: Bearer TOKEN` or the Basic header, respectively; tokens are at `/token`.
    bearer: Option<String>,
    basic: Option<String>,
    /// What `/token` wants as its Authorization; empty for anybody.
    token_auth: String,
    authorizations: Vec<String>,
}

#[derive(Clone)]
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

type Body = StreamBody<FrameStream>;

impl Registry {
    pub async fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry { address: listener.local_addr().unwrap(), state: Arc::default() };
        let serving = registry.clone();
        // Ends with the test's tokio runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let registry = registry.clone();
                        async move { Ok::<_, Infallible>(registry.answer(request)) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        registry
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn put(&self, path: &str, kind: &str, bytes: impl Into<Bytes>) {
        self.state.lock().unwrap().content.insert(path.into(), (kind.into(), bytes.into()));
    }

    pub fn put_image(&self, repository: &str, tag: &str, image: &TestImage) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        for version in [tag.to_owned(), image.digest().to_string()] {
            self.put(&format!("/v2/{repository}/manifests/{version}"), kind, image.manifest.clone());
        }
        let octets = "application/octet-stream";
        self.put(&format!("/v2/{repository}/blobs/{}", image.id()), octets, image.config.clone());
        for (i, (bytes, _)) in image.layers.iter().enumerate() {
            self.put(&format!("/v2/{repository}/blobs/{}", image.blob(i)), octets, bytes.clone());
        }
    }

    /// The next `times` requests whose path contains `part` are answered so.
    pub fn rule(&self, part: &str, times: u32, act: Act) {
        self.state.lock().unwrap().rules.push(Rule { part: part.into(), left: times, act });
    }

    pub fn want_bearer(&self, token: &str, token_auth: &str) {
        let mut state = self.state.lock().unwrap();
        state.bearer = Some(token.into());
        state.token_auth = token_auth.into();
    }

    pub fn want_basic(&self, header: &str) {
        self.state.lock().unwrap().basic = Some(header.into());
    }

    /// `METHOD path [range]`, in order.
    pub fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }

    pub fn asked(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// All Authorization headers that came.
    pub fn authorizations(&self) -> Vec<String> {
        self.state.lock().unwrap().authorizations.clone()
    }

    fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let path = request.uri().path().to_owned();
        let header = |name: &str| request.headers().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        let (range, authorization) = (header("range"), header("authorization"));
        let line = format!("{} {} {range}", request.method(), request.uri().path_and_query().unwrap());
        state.log.push(line.trim_end().to_owned());
        if !authorization.is_empty() {
            state.authorizations.push(authorization.clone());
        }
        if path == "/token" {
            if !state.token_auth.is_empty() && state.token_auth != authorization {
                return plain(401, &[], r#"{"details": "incorrect username or password"}"#);
            }
            let body = format!(r#"{{"token": "{}", "expires_in": 300}}"#, state.bearer.clone().unwrap_or_default());
            return plain(200, &[], &body);
        }
        let denied = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        if let Some(token) = &state.bearer
            && authorization != format!("Bearer {token}")
        {
            let challenge =
                format!(r#"Bearer realm="http://{}/token",service="test",scope="repository:x:pull""#, self.address);
            return plain(401, &[("www-authenticate", challenge)], denied);
        }
        if let Some(basic) = &state.basic
            && authorization != *basic
        {
            return plain(401, &[("www-authenticate", "Basic realm=\"test\"".into())], denied);
        }
        let rule = state.rules.iter_mut().find(|rule| rule.left > 0 && path.contains(&rule.part)).map(|rule| {
            rule.left -= 1;
            rule.act.clone()
        });
        let content = state.content.get(&path).cloned();
        if let Some(Act::Answer(status, headers, body)) = rule {
            return plain(status, &headers, &body);
        }
        if let Some(Act::Redirect(to)) = rule {
            return plain(307, &[("location", to)], "");
        }
        let Some((kind, bytes)) = content else {
            return plain(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        if path.contains("/manifests/") {
            let digest = runtime::images::digest::Digest::of(&bytes).to_string();
            headers.insert("docker-content-digest", digest.parse().unwrap());
        }
        let from: Option<usize> = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok());
        let (status, bytes) = match (from, &rule) {
            (None, _) | (_, Some(Act::IgnoreRange)) => (200, bytes),
            (Some(from), _) if from >= bytes.len() => return plain(416, &[], ""),
            (Some(from), _) => {
                headers.insert(
                    "content-range",
                    format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()).parse().unwrap(),
                );
                (206, bytes.slice(from..))
            }
        };
        let whole = bytes.len();
        let body = match rule {
            _ if request.method() == Method::HEAD => frames(vec![]).boxed(),
            Some(Act::Stall(n)) => frames(vec![bytes.slice(..n.min(whole))]).chain(stream::pending()).boxed(),
            Some(Act::Cut(n)) => frames(vec![bytes.slice(..n.min(whole))]).chain(breaking()).boxed(),
            Some(Act::Short(n)) => frames(vec![bytes.slice(..n.min(whole))]).boxed(),
            Some(Act::Lie) => frames(vec![bytes.iter().map(|b| b ^ 1).collect::<Vec<u8>>().into()]).boxed(),
            Some(Act::Excess) => frames(vec![bytes.clone(), Bytes::from(vec![0; 4096]), bytes]).boxed(),
            _ => frames(vec![bytes]).boxed(),
        };
        let mut response = Response::new(StreamBody::new(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers;
        response
    }
}

type FrameStream = stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;

fn frames(chunks: Vec<Bytes>) -> FrameStream {
    stream::iter(chunks.into_iter().filter(|c| !c.is_empty()).map(|chunk| Ok(Frame::data(chunk)))).boxed()
}

/// What was sent arrives before the connection breaks.
fn breaking() -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static {
    stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::other("cut"))
    })
}

fn plain(status: u16, headers: &[(&'static str, String)], body: &str) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames(vec![Bytes::from(body.to_owned())])));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}
