//! A plain byte stream in binary WebSocket messages (`SPDY/3.1+portforward.k8s.io`).

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{BUFFER, Io, pipe, websocket};

/// The stream inside of a WebSocket connection that was just upgraded.
pub async fn tunnel(io: impl Io, role: Role) -> DuplexStream {
    let (mut from, mut to) = websocket::accept(io, role).await;
    let (inner, outer) = pipe();
    let (mut outgoing, mut incoming) = tokio::io::split(outer);
    tokio::spawn(async move {
        while let Ok(Some(data)) = from.next().await {
            if incoming.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = incoming.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = outgoing.read(&mut buffer).await {
            if to.binary(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
                return;
            }
        }
        to.close().await;
    });
    inner
}
