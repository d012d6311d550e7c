//! Port-forward: for each connection of the client a data stream and an error stream.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{BUFFER, Io, Protocol, pipe, spdy, websocket};

/// One forwarded connection: copy `data` to and from the pod's port; a failure is text on `error`.
pub struct Forward {
    pub port: u16,
    pub data: DuplexStream,
    pub error: DuplexStream,
}

/// Halves of pairs that wait for each other, at most.
const MAX_PENDING: usize = 256;

/// Runs the agreed protocol; yields connections until the client goes. `ports` are the query's, which only the
/// channel protocols need.
pub async fn port_forward(io: impl Io, protocol: Protocol, ports: &[u16]) -> mpsc::Receiver<Forward> {
    let (to, forwards) = mpsc::channel(16);
    match protocol {
        Protocol::Tunnel => {
            let io = crate::tunnel(io, Role::Server).await;
            tokio::spawn(pair(spdy::accept(io), to));
        }
        Protocol::Spdy { .. } => {
            tokio::spawn(pair(spdy::accept(io), to));
        }
        Protocol::Channels { .. } | Protocol::Messages { .. } => {
            tokio::spawn(channels(io, ports.to_vec(), to));
        }
    }
    forwards
}

async fn pair(mut connection: spdy::Connection, to: mpsc::Sender<Forward>) {
    let mut pending: HashMap<(String, u16), (bool, DuplexStream)> = HashMap::new();
    while let Some(stream) = connection.next().await {
        let kind = stream.header("streamtype").map(|kind| kind == "data");
        let port = stream.header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let (Some(is_data), Some(port)) = (kind, port) else { continue };
        // Old clients send no id: error and data streams come as neighbours.
        let id = stream.header("requestid").map_or_else(|| (stream.id / 4).to_string(), str::to_owned);
        match pending.remove(&(id.clone(), port)) {
            Some((was_data, other)) if was_data != is_data => {
                let (data, error) = if is_data { (stream.io, other) } else { (other, stream.io) };
                if to.send(Forward { port, data, error }).await.is_err() {
                    return;
                }
            }
            _ if pending.len() >= MAX_PENDING => return,
            _ => {
                pending.insert((id, port), (is_data, stream.io));
            }
        }
    }
}

/// `v4.channel.k8s.io`: for the port at index i, channel 2i is data and 2i+1 errors; each begins with the port,
/// little-endian.
async fn channels(io: impl Io, ports: Vec<u16>, to: mpsc::Sender<Forward>) {
    let (mut from, mut writer) = websocket::accept(io, Role::Server).await;
    let (messages_to, mut messages) = mpsc::channel::<(u8, Bytes)>(4);
    let mut incoming = Vec::new();
    for (index, port) in ports.into_iter().take(120).enumerate() {
        let channel = (index * 2) as u8;
        for number in [channel, channel + 1] {
            let _ = messages_to.send((number, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
        }
        let (data, data_end) = pipe();
        let (error, error_end) = pipe();
        let (data_from, data_to) = tokio::io::split(data_end);
        incoming.push(data_to);
        tokio::spawn(pump(data_from, channel, messages_to.clone()));
        tokio::spawn(pump(error_end, channel + 1, messages_to.clone()));
        if to.send(Forward { port, data, error }).await.is_err() {
            return;
        }
    }
    drop(messages_to);
    tokio::spawn(async move {
        while let Some((channel, data)) = messages.recv().await {
            let mut message = BytesMut::with_capacity(data.len() + 1);
            message.put_u8(channel);
            message.put_slice(&data);
            if writer.binary(message.freeze()).await.is_err() {
                return;
            }
        }
        writer.close().await;
    });
    while let Ok(Some(message)) = from.next().await {
        let Some((channel, data)) = message.split_first() else { continue };
        if let Some(end) = incoming.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
            let _ = end.write_all(data).await;
        }
    }
}

async fn pump(mut from: impl tokio::io::AsyncRead + Unpin, channel: u8, to: mpsc::Sender<(u8, Bytes)>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send((channel, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
            return;
        }
    }
}
