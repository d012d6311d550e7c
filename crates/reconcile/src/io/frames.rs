//! A protobuf watch stream, cut into events.
//!
//! `application/vnd.kubernetes.protobuf;stream=watch`: four bytes of big-endian length, then a `meta/v1.WatchEvent`
//! whose object is a `k8s\0` envelope.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use schema::proto;
use schema::proto::wire::{Cursor, LEN};

use super::{Body, BoxError};

/// No object is larger than what the API accepts, with room for its envelope.
const MAX_FRAME_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// One event; `raw` is the object's protobuf without its envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    pub raw: Bytes,
}

/// Events of a response's body.
pub struct Frames {
    body: Body,
    buffer: BytesMut,
}

impl Frames {
    pub fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event; `None` when the server ended the stream. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Event>, BoxError> {
        loop {
            if let Some(event) = self.cut()? {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Event>, BoxError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(format!("a watch frame of {length} bytes").into());
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let frame = self.buffer.split_to(4 + length).freeze().slice(4..);
        parse(&frame).map(Some).ok_or_else(|| "a watch frame that is no WatchEvent".into())
    }
}

fn parse(frame: &Bytes) -> Option<Event> {
    let (mut kind, mut raw) = (None, Bytes::new());
    for (tag, value) in fields(frame) {
        match tag {
            1 => {
                kind = Some(match &value[..] {
                    b"ADDED" => EventKind::Added,
                    b"MODIFIED" => EventKind::Modified,
                    b"DELETED" => EventKind::Deleted,
                    b"BOOKMARK" => EventKind::Bookmark,
                    b"ERROR" => EventKind::Error,
                    _ => return None,
                });
            }
            // RawExtension { raw = 1 }, holding an envelope.
            2 => raw = open(&fields(&value).find(|(tag, _)| *tag == 1)?.1)?,
            _ => {}
        }
    }
    Some(Event { kind: kind?, raw })
}

/// The object in a `k8s\0` envelope.
pub(super) fn open(envelope: &Bytes) -> Option<Bytes> {
    Some(envelope.slice_ref(proto::open(envelope).ok()?.raw))
}

/// Length-delimited fields of a message in order, others skipped; ends at the first malformed byte.
pub(super) fn fields(message: &Bytes) -> impl Iterator<Item = (u32, Bytes)> + use<> {
    let message = message.clone();
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut cursor = Cursor { bytes: &message, at };
        loop {
            let (tag, wire) = cursor.tag().ok()??;
            let payload = cursor.payload(wire).ok()?;
            if wire == LEN {
                at = cursor.at;
                return Some((tag, message.slice_ref(payload.bytes)));
            }
        }
    })
}

#[cfg(test)]
mod tests;
