//! Connections to a real socket: how they end, and what a client that behaves badly gets.

use hyper::client::conn::{http1, http2};
use pki::{Authority, DAY, KeyPair, Leaf, Names, SystemRandom};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::wiring::remote::{self, Trust};

/// Answers with the path; `/close` ends the connection, `/wait` takes a while, `/large` is more than buffers hold.
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/wait" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let text = if path == "/large" { "x".repeat(64 << 20) } else { path.clone() };
        let mut response = http::Response::new(apiserver::body::full(text));
        if path == "/close" {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
    }
}

struct World {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl World {
    async fn new() -> World {
        let (random, now) = (SystemRandom::new(), 1_800_000_000);
        let ca = Authority::create("ca", now, &random).expect("an authority");
        let key = KeyPair::generate(&random).expect("a key");
        let leaf = Leaf::server("s", Names::of(["localhost"]), now, DAY);
        let certificate = ca.issue(&leaf, key.public(), &random).expect("a certificate").to_pem();
        let (_tls, tls) = watch::channel(tls(&Pair { certificate, key: key.to_pem() }).expect("a configuration"));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, tls, Arc::new(Echo), stopped, STREAMS));
        World { address, stop, serving }
    }

    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let config = remote::tls(&Trust::Anyone, None, &[protocol]).expect("a configuration");
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(config).connect(name, socket).await.expect("a handshake")
    }

    /// An HTTP/2 connection, and its end.
    async fn http2(&self) -> (http2::SendRequest<Body>, JoinHandle<()>) {
        let stream = TokioIo::new(self.connect(b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }
}

fn get(path: &str) -> http::Request<Body> {
    let mut request = http::Request::new(apiserver::body::empty());
    *request.uri_mut() = format!("https://localhost{path}").parse().expect("a path");
    request
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_connection_that_is_to_be_closed_finishes_what_it_has() {
    let world = World::new().await;
    let (mut sender, ended) = world.http2().await;
    let waiting = sender.send_request(get("/wait"));
    let closing = sender.send_request(get("/close"));
    let closed = closing.await.expect("an answer");
    assert!(!closed.headers().contains_key("connection"));
    let waited = waiting.await.expect("an answer").into_body().collect().await.expect("a body");
    assert_eq!(waited.to_bytes(), "/wait");
    drop(closed);
    tokio::time::timeout(SOON, ended).await.expect("an end").expect("no panic");
}

#[tokio::test]
async fn serving_ends_when_the_last_request_is_answered() {
    let world = World::new().await;
    let (mut sender, _ended) = world.http2().await;
    let (mut other, connection) =
        http1::handshake::<_, Body>(TokioIo::new(world.connect(b"http/1.1").await)).await.expect("HTTP/1");
    tokio::spawn(connection);
    other.send_request(get("/idle")).await.expect("an answer");
    let waiting = sender.send_request(get("/wait"));
    let waiting = tokio::spawn(async move { waiting.await.map(|answer| answer.status()) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.stop.send_replace(true);
    tokio::time::timeout(SOON, world.serving).await.expect("an end").expect("no panic");
    assert_eq!(waiting.await.expect("no panic").expect("an answer"), 200);
    assert!(TcpStream::connect(world.address).await.is_err());
}

/// A reader of nothing, one that says half of a header, one that vanishes in the middle: others are served.
#[tokio::test]
async fn bad_clients_harm_themselves() {
    let world = World::new().await;
    let mut reader = world.connect(b"http/1.1").await;
    reader.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("a request");
    let mut half = world.connect(b"http/1.1").await;
    half.write_all(b"GET / HTTP/1.1\r\nhost: loc").await.expect("half a header");
    let mut gone = world.connect(b"http/1.1").await;
    gone.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc").await.expect("a part");
    drop(gone);
    let silent = TcpStream::connect(world.address).await.expect("a connection");
    let mut long = world.connect(b"http/1.1").await;
    let header = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "x".repeat(HTTP1_BUFFER_BYTES));
    let _ = long.write_all(header.as_bytes()).await;
    let mut answer = [0; 12];
    long.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
    let (mut sender, _ended) = world.http2().await;
    for _ in 0..100 {
        let answer = tokio::time::timeout(SOON, sender.send_request(get("/others"))).await.expect("in time");
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    let mut byte = [0];
    reader.read_exact(&mut byte).await.expect("a byte at a time");
    drop((reader, half, silent));
}
