//! Exec, attach and port-forward: an HTTP server on loopback whose URLs are good for one use within a minute.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rpc::Status;
use streams::{Protocol, Streams, Upgrade, Use};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::containers::{ExecRequest, Runtime};
use crate::lock;

/// As containerd's.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
const MAX_TOKENS: usize = 1000;
/// The client's connection comes after the answer.
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// What a URL stands for.
pub enum Ask {
    Exec { id: String, command: Vec<String>, streams: Streams },
    Attach { id: String, streams: Streams },
    PortForward { id: String, ports: Vec<u16> },
}

type Tokens = Arc<Mutex<HashMap<String, (Instant, Ask)>>>;

/// The server; it ends with this value.
pub struct Streaming {
    address: SocketAddr,
    tokens: Tokens,
    listening: AbortHandle,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Streaming {
    pub async fn start(runtime: Runtime) -> io::Result<Streaming> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, tokens) = (listener.local_addr()?, Tokens::default());
        let known = tokens.clone();
        let listening = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (runtime, known) = (runtime.clone(), known.clone());
                let service = service_fn(move |request| {
                    let response = answer(request, &runtime, &known);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(UPGRADE_WITHIN)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        Ok(Streaming { address, tokens, listening: listening.abort_handle() })
    }

    /// Where a client finds `ask`, once.
    pub fn url(&self, ask: Ask) -> Result<String, Status> {
        let word = match ask {
            Ask::Exec { .. } => "exec",
            Ask::Attach { .. } => "attach",
            Ask::PortForward { .. } => "portforward",
        };
        let token = crate::containers::new_id();
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, (made, _)| made.elapsed() < TOKEN_LIFE);
        if tokens.len() >= MAX_TOKENS {
            return Err(Status::resource_exhausted("maximum number of in-flight requests exceeded"));
        }
        tokens.insert(token.clone(), (Instant::now(), ask));
        Ok(format!("http://{}/{word}/{token}", self.address))
    }
}

fn say(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

fn answer(mut request: Request<Incoming>, runtime: &Runtime, tokens: &Tokens) -> Response<Full<Bytes>> {
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let known = lock(tokens).remove(token).filter(|(made, _)| made.elapsed() < TOKEN_LIFE);
    let Some((_, ask)) = known else { return say(StatusCode::NOT_FOUND, "unknown or used token\n".into()) };
    let usage = if matches!(ask, Ask::PortForward { .. }) { Use::PortForward } else { Use::RemoteCommand };
    let agreed = match Upgrade::negotiate(request.headers(), usage) {
        Ok(agreed) => agreed,
        Err(refused) => return say(refused.status(), refused.to_string()),
    };
    let (pending, runtime) = (hyper::upgrade::on(&mut request), runtime.clone());
    tokio::spawn(async move {
        if let Ok(Ok(connection)) = tokio::time::timeout(UPGRADE_WITHIN, pending).await {
            serve(TokioIo::new(connection), agreed.protocol, ask, runtime).await;
        }
    });
    let mut response = say(StatusCode::SWITCHING_PROTOCOLS, String::new());
    *response.headers_mut() = agreed.headers;
    response
}

async fn serve(connection: impl streams::Io, protocol: Protocol, ask: Ask, runtime: Runtime) {
    let words = |error: crate::containers::Error| error.to_string();
    match ask {
        Ask::Exec { id, command, streams } => {
            let Ok(session) = streams::remote_command(connection, protocol, streams).await else { return };
            let work = |stdio| async {
                let Streams { stdin, stdout, stderr, tty } = streams;
                let request = ExecRequest { command, tty, stdin, stdout, stderr };
                runtime.exec(&id, request).await.map_err(words)?.join(stdio, true).await.map_err(words)
            };
            session.serve(streams.tty, work).await;
        }
        Ask::Attach { id, streams } => {
            let Ok(session) = streams::remote_command(connection, protocol, streams).await else { return };
            let work = |stdio| async {
                let joined = runtime.attach(&id, streams.stdin, streams.stdout, streams.stderr).await;
                joined.map_err(words)?.join(stdio, false).await.map_err(words)
            };
            session.serve(streams.tty, work).await;
        }
        Ask::PortForward { id, ports } => {
            let mut forwards = streams::port_forward(connection, protocol, &ports).await;
            while let Some(forward) = forwards.recv().await {
                let (runtime, id) = (runtime.clone(), id.clone());
                tokio::spawn(async move {
                    let connecting = runtime.port_forward(&id, forward.port);
                    let connect = async {
                        let connected = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
                        let stream = connected.map_err(|_| "timed out".to_owned())?.map_err(words)?;
                        let (reader, writer) = stream.into_split();
                        Ok((Box::new(reader) as streams::Reader, Box::new(writer) as streams::Writer))
                    };
                    forward.serve(&id, connect).await;
                });
            }
        }
    }
}
