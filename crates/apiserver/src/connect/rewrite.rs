//! Answers of pods, services and nodes behind `/proxy`: their links and redirections are made to lead through it, as
//! upstream's proxy does; headers that would open the API to pages from elsewhere are dropped.

use std::io::{Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::header::{self, HeaderValue};
use http::uri::Uri;
use http_body_util::BodyExt;

use crate::body::{Body, full};
use crate::reply::Reply;

/// A page is rewritten up to this many bytes; a longer one is passed on as it is.
const PAGE_BYTES_MAX: usize = 4 << 20;

const CORS: [&str; 4] = [
    "access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Attributes that hold URLs, by tag (HTML 4 and 5).
const LINKS: [(&str, &[&str]); 26] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where an answer comes from and where its reader is.
pub struct Place {
    /// `/api/v1/namespaces/x/pods/y/proxy`
    pub prefix: String,
    /// Host and port that were asked inside, and those that the client asked.
    pub inside: String,
    pub outside: String,
}

impl Place {
    /// A URL of this place's own host with an absolute path goes through the proxy; any other is left alone.
    fn link(&self, text: &str) -> Option<String> {
        let uri: Uri = text.split('#').next()?.parse().ok()?;
        let host = uri.authority().map(|host| host.as_str());
        let is_own = host.is_none_or(|host| host == self.inside || host == self.outside);
        // `//host/path` has an authority that `Uri` does not see.
        let path = uri.path();
        if !is_own || !path.starts_with('/') || text.starts_with("//") || host.is_none() && !text.starts_with('/') {
            return None;
        }
        if path.starts_with(&self.prefix) {
            return None;
        }
        let tail = text.find(path).map_or("", |at| &text[at + path.len()..]);
        Some(format!("{}{path}{tail}", self.prefix))
    }

    pub async fn rewrite(&self, mut reply: Reply) -> Reply {
        for name in CORS {
            reply.headers_mut().remove(name);
        }
        if let Some(location) = reply.headers().get(header::LOCATION) {
            let moved = location.to_str().ok().and_then(|location| self.link(location));
            if let Some(moved) = moved.and_then(|moved| HeaderValue::from_str(&moved).ok()) {
                reply.headers_mut().insert(header::LOCATION, moved);
            }
            return reply;
        }
        let Some(gzip) = is_page(&reply) else { return reply };
        let (parts, body) = reply.into_parts();
        match gather(body).await {
            Err(body) => Reply::from_parts(parts, body),
            Ok(raw) => {
                let page = if gzip { unzip(&raw).map(|page| zip(&self.page(&page))) } else { Some(self.page(&raw)) };
                let page = page.unwrap_or(raw);
                let mut reply = Reply::from_parts(parts, full(page));
                reply.headers_mut().remove(header::CONTENT_LENGTH);
                reply
            }
        }
    }

    /// Replaces the URLs in the start tags of a page; everything else stays byte for byte.
    fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + 256);
        let mut rest = page;
        while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let end = if rest.starts_with(b"<!--") { find(rest, b"-->").map(|at| at + 3) } else { tag_end(rest) };
            let Some(end) = end else { break };
            self.tag(&rest[..end], &mut out);
            rest = &rest[end..];
        }
        out.extend_from_slice(rest);
        out
    }

    fn tag(&self, tag: &[u8], out: &mut Vec<u8>) {
        let name_end = tag.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>');
        let name = tag.get(1..name_end.unwrap_or(tag.len())).unwrap_or_default();
        let known = LINKS.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        let Some((_, attributes)) = known else { return out.extend_from_slice(tag) };
        let mut copied = 0;
        for (name, value) in values(tag, name_end.unwrap_or(tag.len())) {
            let name = &tag[name];
            let is_link = attributes.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
            let text = std::str::from_utf8(&tag[value.clone()]).ok().filter(|_| is_link);
            if let Some(link) = text.and_then(|text| self.link(text)) {
                out.extend_from_slice(&tag[copied..value.start]);
                out.extend_from_slice(link.as_bytes());
                copied = value.end;
            }
        }
        out.extend_from_slice(&tag[copied..]);
    }
}

/// Whether an answer is a page that can be read, and is compressed.
fn is_page(reply: &Reply) -> Option<bool> {
    let of = |name| reply.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    let media = of(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let encoding = of(header::CONTENT_ENCODING);
    let is_html = media.eq_ignore_ascii_case("text/html");
    (is_html && matches!(encoding, "" | "gzip")).then_some(encoding == "gzip")
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Behind the `>` that ends a tag; one in quotes does not.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

type Range = std::ops::Range<usize>;

/// Names and values of a tag's attributes, as places in it.
fn values(tag: &[u8], mut at: usize) -> Vec<(Range, Range)> {
    let mut found = Vec::new();
    let until = |at: usize, stop: &dyn Fn(u8) -> bool| (at..tag.len()).find(|at| stop(tag[*at])).unwrap_or(tag.len());
    while at < tag.len() {
        let start = until(at, &|byte| !byte.is_ascii_whitespace());
        let name = start..until(start, &|byte| byte.is_ascii_whitespace() || matches!(byte, b'=' | b'>'));
        let mut next = until(name.end, &|byte| !byte.is_ascii_whitespace());
        if tag.get(next) == Some(&b'=') {
            next = until(next + 1, &|byte| !byte.is_ascii_whitespace());
            let value = match tag.get(next) {
                Some(quote @ (b'"' | b'\'')) => next + 1..until(next + 1, &|byte| byte == *quote),
                _ => next..until(next, &|byte| byte.is_ascii_whitespace() || byte == b'>'),
            };
            next = value.end + 1;
            found.push((name, value));
        }
        at = next.max(start + 1);
    }
    found
}

/// All of a body, or the body itself if it is too long.
async fn gather(mut body: Body) -> Result<Vec<u8>, Body> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => all.extend_from_slice(&data),
            Ok(Err(_)) => {}
            // Half a page, as it came.
            Err(_) => break,
        }
        if all.len() > PAGE_BYTES_MAX {
            let head = futures_util::stream::once(async { Ok(http_body::Frame::data(all.into())) });
            let tail = http_body_util::BodyStream::new(body);
            return Err(http_body_util::StreamBody::new(futures_util::StreamExt::chain(head, tail)).boxed_unsync());
        }
    }
    Ok(all)
}

fn unzip(raw: &[u8]) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    let read = GzDecoder::new(raw).take(PAGE_BYTES_MAX as u64 + 1).read_to_end(&mut page);
    read.ok().filter(|_| page.len() <= PAGE_BYTES_MAX)?;
    Some(page)
}

fn zip(page: &[u8]) -> Vec<u8> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = zipped.write_all(page);
    zipped.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests;
