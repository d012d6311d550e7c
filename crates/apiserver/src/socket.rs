//! Logs and watches over a WebSocket: what would have been the body comes as messages.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{Method, header, request::Parts};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use streams::{Message, Protocol, Upgrade, Use};

use crate::body::{Body, empty};
use crate::reply::Reply;
use crate::status::Result;
use crate::{Attributes, Status};

/// A client that wants its answer so.
pub struct Socket {
    pending: OnUpgrade,
    agreed: Upgrade,
    is_log: bool,
}

impl Socket {
    /// Takes the upgrade out of a request, so that it is answered as any other.
    pub fn take(parts: &mut Parts, info: &Attributes) -> Result<Option<Self>> {
        let is_log = info.subresource == "log";
        let wanted =
            parts.headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if !wanted || parts.method != Method::GET || !(is_log || info.verb == "watch") {
            return Ok(None);
        }
        let Some(pending) = parts.extensions.remove::<OnUpgrade>() else { return Ok(None) };
        let agreed = Upgrade::negotiate(&parts.headers, if is_log { Use::Log } else { Use::Watch });
        let agreed = agreed.map_err(|refused| Status::relayed(refused.status().as_u16(), "", refused.to_string()))?;
        for name in [header::UPGRADE, header::CONNECTION, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_PROTOCOL] {
            parts.headers.remove(name);
        }
        Ok(Some(Self { pending, agreed, is_log }))
    }

    /// Answers 101; a refusal stays what it is.
    pub fn carry(self, mut reply: Reply) -> Reply {
        if !reply.status().is_success() {
            return reply;
        }
        let body = std::mem::replace(reply.body_mut(), empty());
        let content_type = reply.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (is_log, is_protobuf) = (self.is_log, content_type.contains("protobuf"));
        let base64 = matches!(self.agreed.protocol, Protocol::Messages { base64: true });
        *reply.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        *reply.headers_mut() = self.agreed.headers;
        tokio::spawn(async move {
            let Ok(connection) = self.pending.await else { return };
            let io = hyper_util::rt::TokioIo::new(connection);
            let ended = match is_log {
                true => streams::messages(io, Box::pin(pieces(body, base64))).await,
                false => streams::messages(io, Box::pin(events(body, is_protobuf))).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client's WebSocket failed");
            }
        });
        reply
    }
}

async fn next(body: &mut Body) -> Option<Bytes> {
    loop {
        if let Ok(data) = body.frame().await?.ok()?.into_data() {
            return Some(data);
        }
    }
}

/// A log as it comes, after an empty message that says that it is there.
fn pieces(body: Body, base64: bool) -> impl Stream<Item = Message> {
    let data = stream::unfold(body, |mut body| async move { Some((next(&mut body).await?, body)) });
    stream::once(async { Bytes::new() }).chain(data).map(move |data| match base64 {
        true => Message::Text(STANDARD.encode(&data)),
        false => Message::Binary(data),
    })
}

/// A message for each event: JSON without its end of line, protobuf without its length.
fn events(body: Body, is_protobuf: bool) -> impl Stream<Item = Message> {
    stream::unfold((body, BytesMut::new()), move |(mut body, mut held)| async move {
        loop {
            if let Some(message) = split(&mut held, is_protobuf) {
                return Some((message, (body, held)));
            }
            held.extend_from_slice(&next(&mut body).await?);
        }
    })
}

fn split(held: &mut BytesMut, is_protobuf: bool) -> Option<Message> {
    if is_protobuf {
        let length = u32::from_be_bytes(*held.first_chunk()?) as usize;
        if held.len() - 4 < length {
            return None;
        }
        held.advance(4);
        return Some(Message::Binary(held.split_to(length).freeze()));
    }
    let end = held.iter().position(|byte| *byte == b'\n')?;
    let line = held.split_to(end + 1);
    Some(Message::Text(String::from_utf8_lossy(&line[..end]).into_owned()))
}

#[cfg(test)]
mod tests;
