//! Messages of the server alone, over a WebSocket: logs and watches.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::websocket::accept;
use crate::{Error, Io};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Binary(Bytes),
    Text(String),
}

/// Sends what comes, until it ends or the client goes away; what the client says is not listened to.
pub async fn messages(io: impl Io, mut source: impl Stream<Item = Message> + Unpin) -> Result<(), Error> {
    let (mut reader, mut writer) = accept(io, Role::Server).await;
    loop {
        tokio::select! {
            heard = reader.next() => if heard?.is_none() { return Ok(()) },
            message = source.next() => match message {
                Some(Message::Binary(data)) => writer.binary(data).await?,
                Some(Message::Text(text)) => writer.text(text).await?,
                None => {
                    writer.close().await;
                    return Ok(());
                }
            }
        }
    }
}
