//! A WebSocket's two halves: binary and text messages in, binary or text out, pings answered, a clean close.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{Error, Io};

/// A message of a client is at most this long; kubectl sends 32 KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

pub(crate) struct Reader<T>(SplitStream<WebSocketStream<T>>);
pub(crate) struct Writer<T>(SplitSink<WebSocketStream<T>, Message>);

/// Takes over a connection after its 101.
pub(crate) async fn accept<T: Io>(io: T, role: Role) -> (Reader<T>, Writer<T>) {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    let (sink, stream) = WebSocketStream::from_raw_socket(io, role, Some(config)).await.split();
    (Reader(stream), Writer(sink))
}

impl<T: Io> Reader<T> {
    /// The next message; `None` at the close. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        use tokio_tungstenite::tungstenite::Error as Ws;
        while let Some(message) = self.0.next().await {
            match message {
                Ok(Message::Binary(data)) => return Ok(Some(data)),
                Ok(Message::Text(text)) => return Ok(Some(text.into())),
                Ok(Message::Close(_)) | Err(Ws::ConnectionClosed | Ws::AlreadyClosed) => return Ok(None),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(error) => return Err(Box::new(error).into()),
            }
        }
        Ok(None)
    }
}

impl<T: Io> Writer<T> {
    pub async fn binary(&mut self, data: Bytes) -> Result<(), Error> {
        self.0.send(Message::Binary(data)).await.map_err(|error| Box::new(error).into())
    }

    pub async fn text(&mut self, data: String) -> Result<(), Error> {
        self.0.send(Message::Text(data.into())).await.map_err(|error| Box::new(error).into())
    }

    pub async fn close(&mut self) {
        // Clients take a close without a code for a failure.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = self.0.send(Message::Close(Some(normal))).await;
        let _ = self.0.close().await;
    }
}
