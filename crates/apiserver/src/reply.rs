//! Answers: bodies, headers and compression.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use schema::Value;

use crate::audit::Trail;
use crate::body::{BodyError, full};
use crate::encode::{self, message_of};
use crate::kind::builtin;
use crate::negotiate::Encoding;
use crate::{Body, Status};

pub type Reply = Response<Body>;

/// Bodies above this are compressed for those who accept it.
const GZIP_BYTES_MIN: u64 = 128 << 10;

pub fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn text(code: u16, body: impl Into<Bytes>) -> Reply {
    let mut response = bytes(code, "text/plain; charset=utf-8", body);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// A value which carries its apiVersion and kind.
pub fn value(code: u16, value: &Value, encoding: Encoding) -> Reply {
    let message = message_of(value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let (body, content_type) = encode::value(value, builtin(), message, encoding);
    bytes(code, content_type, body)
}

pub fn status(status: &Status, encoding: Encoding) -> Reply {
    let mut response = value(status.code, &status.to_value(), encoding);
    if status.for_no_page {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    }
    if let Some(details) = status.details.as_ref().filter(|d| d.retry_after_seconds > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(details.retry_after_seconds));
    }
    response
}

/// A body from chunks; what fits one chunk is sent whole, with its length.
pub fn chunks(
    content_type: &'static str,
    hint: u64,
    gzip: bool,
    mut chunks: impl Iterator<Item = crate::status::Result<Bytes>> + Send + 'static,
) -> crate::status::Result<Reply> {
    if gzip && hint > GZIP_BYTES_MIN {
        // The first chunk shows whether the list can be encoded at all.
        let first = chunks.next().transpose()?;
        let compressed = Gzip {
            encoder: Some(GzEncoder::new(Vec::new(), Compression::new(1))),
            chunks: first.into_iter().map(Ok).chain(chunks),
        };
        let mut response = streamed(content_type, compressed);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        return Ok(response);
    }
    let Some(first) = chunks.next().transpose()? else { return Ok(bytes(200, content_type, Bytes::new())) };
    match chunks.next().transpose()? {
        None => Ok(bytes(200, content_type, first)),
        Some(second) => Ok(streamed(content_type, [first, second].into_iter().map(Ok).chain(chunks))),
    }
}

fn streamed(
    content_type: &'static str,
    chunks: impl Iterator<Item = crate::status::Result<Bytes>> + Send + 'static,
) -> Reply {
    let frames = chunks.map(|chunk| match chunk {
        Ok(bytes) => Ok(Frame::data(bytes)),
        Err(status) => Err(BodyError::from(status.message)),
    });
    let mut response = bytes(200, content_type, Bytes::new());
    *response.body_mut() = StreamBody::new(stream::iter(frames)).boxed_unsync();
    response
}

struct Gzip<I> {
    encoder: Option<GzEncoder<Vec<u8>>>,
    chunks: I,
}

impl<I: Iterator<Item = crate::status::Result<Bytes>>> Iterator for Gzip<I> {
    type Item = crate::status::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.chunks.next() {
                Some(Ok(chunk)) => {
                    if let Err(error) = encoder.write_all(&chunk) {
                        return Some(Err(Status::internal(error)));
                    }
                    let ready = std::mem::take(encoder.get_mut());
                    if !ready.is_empty() {
                        return Some(Ok(ready.into()));
                    }
                }
                Some(Err(status)) => return Some(Err(status)),
                None => {
                    let rest = self.encoder.take()?.finish();
                    return Some(rest.map(Bytes::from).map_err(Status::internal));
                }
            }
        }
    }
}

/// What a client is told besides the answer, whatever the answer is, and what the audit log is told of the request.
/// Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    list: Arc<Mutex<Vec<String>>>,
    /// Nothing if the audit log is not to be told.
    pub trail: Option<Arc<Trail>>,
}

impl Warnings {
    pub fn push(&self, warning: impl Into<String>) {
        self.extend([warning.into()]);
    }

    pub fn extend(&self, warnings: impl IntoIterator<Item = String>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            // A control character would end the header: upstream sends no such warning.
            if !warning.is_empty() && !warning.contains(char::is_control) && !list.contains(&warning) {
                list.push(warning);
            }
        }
    }

    /// An annotation of the request's audit event; what was said first stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(trail) = &self.trail {
            trail.annotate(key.into(), value.into());
        }
    }

    pub fn list(&self) -> Vec<String> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `Warning: 299` headers: all of them whole, or the beginnings of as many as upstream sends.
    pub fn send(&self, response: &mut Reply) {
        const TOTAL_CHARS_MAX: usize = 4096;
        const CHARS_MAX: usize = 256;
        let list = self.list();
        let cut = list.iter().map(|w| w.chars().count()).sum::<usize>() > TOTAL_CHARS_MAX;
        let mut total = 0;
        for warning in &list {
            if cut && total >= TOTAL_CHARS_MAX {
                return;
            }
            let text: String = warning.chars().take(if cut { CHARS_MAX } else { usize::MAX }).collect();
            total += text.chars().count();
            let quoted = format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
    }
}
