//! A protobuf watch stream, cut into events.
//!
//! `application/vnd.kubernetes.protobuf;stream=watch`: four bytes of big-endian length, then a `meta/v1.WatchEvent`
//! whose object is a `k8s\0` envelope.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

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

/// The object in a `k8s\0` envelope (`runtime.Unknown { typeMeta = 1, raw = 2 }`).
pub(super) fn open(envelope: &Bytes) -> Option<Bytes> {
    if !envelope.starts_with(b"k8s\0") {
        return None;
    }
    Some(fields(&envelope.slice(4..)).find(|(tag, _)| *tag == 2).map(|(_, raw)| raw).unwrap_or_default())
}

/// Puts an object into a `k8s\0` envelope.
pub(super) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put(&mut type_meta, 1, api_version.as_bytes());
    put(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + type_meta.len() + 20);
    out.extend_from_slice(b"k8s\0");
    put(&mut out, 1, &type_meta);
    put(&mut out, 2, raw);
    put(&mut out, 3, b"");
    put(&mut out, 4, b"");
    out
}

fn put(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// Length-delimited fields of a message in order, others skipped; ends at the first malformed byte.
pub(super) fn fields(message: &Bytes) -> impl Iterator<Item = (u64, Bytes)> + use<> {
    let message = message.clone();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let key = varint(&message, &mut at)?;
            match key & 7 {
                0 => {
                    varint(&message, &mut at)?;
                }
                1 => at += 8,
                2 => {
                    let length = usize::try_from(varint(&message, &mut at)?).ok()?;
                    let end = at.checked_add(length).filter(|end| *end <= message.len())?;
                    let value = message.slice(at..end);
                    at = end;
                    return Some((key >> 3, value));
                }
                5 => at += 4,
                _ => return None,
            }
        }
    })
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
