use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use super::*;

fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in rows {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

mod fuzz;

#[test]
fn negotiation() {
    let ws = |protocols: &'static str| {
        headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    };
    let check = |headers: &HeaderMap, usage, expected: Result<Protocol, u16>| {
        let got = Upgrade::negotiate(headers, usage)
            .map(|upgrade| upgrade.protocol)
            .map_err(|refused| refused.status().as_u16());
        assert_eq!(got, expected, "{headers:?}");
    };
    let channels = |base64, status, close| Ok(Protocol::Channels { base64, status, close });
    check(&ws("v5.channel.k8s.io, v4.channel.k8s.io"), Use::RemoteCommand, channels(false, true, true));
    check(&ws("v4.channel.k8s.io"), Use::RemoteCommand, channels(false, true, false));
    check(&ws("base64.channel.k8s.io"), Use::RemoteCommand, channels(true, false, false));
    check(&ws("chat"), Use::RemoteCommand, Err(403));
    check(&ws("SPDY/3.1+portforward.k8s.io"), Use::PortForward, Ok(Protocol::Tunnel));
    let spdy = headers(&[
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("x-stream-protocol-version", "v3.channel.k8s.io"),
    ]);
    check(&spdy, Use::RemoteCommand, Ok(Protocol::Spdy { status: true }));
    check(&spdy, Use::PortForward, Err(403));
    check(&headers(&[("upgrade", "websocket")]), Use::RemoteCommand, Err(400));
    check(&headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]), Use::RemoteCommand, Err(400));
    // The example of RFC 6455 §1.3.
    let upgrade = Upgrade::negotiate(&ws("v5.channel.k8s.io"), Use::RemoteCommand).expect("agreed");
    assert_eq!(upgrade.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[tokio::test]
async fn exec_over_websocket_channels() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    let mut command = remote_command(server, Protocol::Channels { base64: false, status: true, close: true }, streams)
        .await
        .expect("runs");
    let (mut from, mut to) = websocket::accept(client, Role::Client).await;
    to.binary(vec![0, b'h', b'i'].into()).await.expect("stdin");
    to.binary(b"\x04{\"Width\":120,\"Height\":40}".as_slice().into()).await.expect("resize");
    to.binary(vec![255, 0].into()).await.expect("close of stdin");
    let mut stdin = String::new();
    command.stdin.take().expect("asked for").read_to_string(&mut stdin).await.expect("reads to the end");
    assert_eq!(stdin, "hi");
    assert_eq!(command.resize.recv().await, Some(TerminalSize { width: 120, height: 40 }));
    command.stdout.take().expect("asked for").write_all(b"out").await.expect("writes");
    command.stderr.take().expect("asked for").write_all(b"err").await.expect("writes");
    command.error.write_all(b"{}").await.expect("writes");
    drop(command);
    let mut messages = Vec::new();
    while let Some(message) = from.next().await.expect("reads") {
        messages.push(message.to_vec());
    }
    messages.sort();
    assert_eq!(messages, [b"\x01out".to_vec(), b"\x02err".to_vec(), b"\x03{}".to_vec()]);
}

#[tokio::test]
async fn exec_over_spdy() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let client = spdy::connect(client);
    let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    let server = tokio::spawn(remote_command(server, Protocol::Spdy { status: true }, streams));
    let mut open = Vec::new();
    for kind in ["error", "stdin", "stdout", "resize"] {
        open.push(client.open(&[("streamType", kind)]).await.expect("opens"));
    }
    let mut command = server.await.expect("lives").expect("runs");
    open[1].io.write_all(&vec![7; 100_000]).await.expect("stdin");
    open[1].io.shutdown().await.expect("ends");
    open[3].io.write_all(b"{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}").await.expect("sizes");
    let mut stdin = Vec::new();
    command.stdin.take().expect("asked for").read_to_end(&mut stdin).await.expect("reads");
    assert_eq!(stdin.len(), 100_000);
    assert_eq!(command.resize.recv().await, Some(TerminalSize { width: 80, height: 24 }));
    assert_eq!(command.resize.recv().await, Some(TerminalSize { width: 81, height: 25 }));
    command.stdout.take().expect("asked for").write_all(b"out").await.expect("writes");
    let mut out = Vec::new();
    open[2].io.read_to_end(&mut out).await.expect("reads");
    assert_eq!(out, b"out");
    // The client goes: the server sees it.
    drop((open, client));
    assert_eq!(command.gone.recv().await, None);
}

#[tokio::test]
async fn port_forward_in_a_tunnel() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let mut forwards = port_forward(server, Protocol::Tunnel, &[]).await;
    let client = spdy::connect(tunnel(client, Role::Client).await);
    let mut data = Vec::new();
    for id in ["0", "1"] {
        let rows = [("port", "8080"), ("requestID", id)];
        let _error = client.open(&[&[("streamType", "error")], &rows[..]].concat()).await.expect("opens");
        data.push(client.open(&[&[("streamType", "data")], &rows[..]].concat()).await.expect("opens"));
    }
    for stream in &mut data {
        let mut forward = forwards.recv().await.expect("a connection");
        assert_eq!(forward.port, 8080);
        stream.io.write_all(b"ping").await.expect("writes");
        let mut four = [0; 4];
        forward.data.read_exact(&mut four).await.expect("reads");
        forward.data.write_all(b"pong").await.expect("writes");
        drop(forward);
        let mut all = Vec::new();
        stream.io.read_to_end(&mut all).await.expect("reads");
        assert_eq!((&four, &all[..]), (b"ping", &b"pong"[..]));
    }
}

#[tokio::test]
async fn hostile_frames_end_the_connection() {
    for bytes in [
        &b"\x80\x03\x00\x01\x00\xff\xff\xff"[..],
        b"\x80\x02\x00\x01\x00\x00\x00\x00",
        b"\x80\x03\x00\x01\x00\x00\x00\x02\x00\x00",
        b"\x80\x03\x00\x01\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut connection = spdy::accept(server);
        client.write_all(bytes).await.expect("writes");
        drop(client);
        assert!(connection.next().await.is_none(), "{bytes:?}");
    }
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let protocol = Protocol::Channels { base64: false, status: true, close: true };
    let mut command =
        remote_command(server, protocol, Streams { stdin: true, ..Streams::default() }).await.expect("runs");
    client.write_all(&[0xff; 64]).await.expect("writes");
    assert_eq!(command.gone.recv().await, None);
}

/// What a text message looks like to the base64 channels.
#[tokio::test]
async fn base64_channels() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
    let mut command = remote_command(server, Protocol::Channels { base64: true, status: true, close: false }, streams)
        .await
        .expect("runs");
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    use futures_util::{SinkExt, StreamExt};
    socket.send(Message::Text("0aGk=".into())).await.expect("sends");
    let mut two = [0; 2];
    command.stdin.take().expect("asked for").read_exact(&mut two).await.expect("reads");
    assert_eq!(&two, b"hi");
    command.stdout.take().expect("asked for").write_all(b"ok").await.expect("writes");
    let answer = socket.next().await.expect("a message").expect("reads");
    assert_eq!(answer, Message::Text("1b2s=".into()));
}
