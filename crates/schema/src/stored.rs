//! Reading and touching up stored bodies (enveloped protobuf, or JSON for custom resources) without decoding them.

use std::borrow::Cow;

use crate::json::Reader;
use crate::proto::wire::{Cursor, LEN, Payload, VARINT, varint_width, write_bytes, write_tag, write_varint};
use crate::proto::{self, MAGIC, WireError};
use crate::{Form, Message, MessageId, Scalar, Table, Type, json};

#[cfg(test)]
mod tests;

/// What the cache and the watch path need of an object's metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta<'a> {
    pub name: Cow<'a, str>,
    pub namespace: Cow<'a, str>,
    pub uid: Cow<'a, str>,
    pub resource_version: Cow<'a, str>,
    /// `deletionTimestamp` is set.
    pub deleting: bool,
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Meta<'_> {
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, v)| &**v)
    }
}

// The numbers of ObjectMeta's fields, and of metadata in every kind.
const METADATA: u32 = 1;
const NAME: u32 = 1;
const NAMESPACE: u32 = 3;
const UID: u32 = 5;
const RESOURCE_VERSION: u32 = 6;
const DELETION_TIMESTAMP: u32 = 9;
const LABELS: u32 = 11;
/// `runtime.Unknown.raw`
const RAW: u32 = 2;

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn is_json(body: &[u8]) -> bool {
    !body.starts_with(MAGIC)
}

fn bad_json(_: json::SyntaxError) -> WireError {
    WireError::Json { message: "the stored body".to_owned() }
}

/// Reads metadata straight from the bytes.
pub fn meta(body: &[u8]) -> Result<Meta<'_>, WireError> {
    if is_json(body) {
        return json_meta(body).map_err(bad_json);
    }
    let raw = proto::open(body)?.raw;
    let mut meta = Meta::default();
    let Some(metadata) = first(raw, METADATA)? else { return Ok(meta) };
    let mut cursor = Cursor::new(metadata.bytes);
    while let Some((tag, wire)) = cursor.tag()? {
        let payload = cursor.payload(wire)?;
        match tag {
            NAME => meta.name = text(payload.bytes),
            NAMESPACE => meta.namespace = text(payload.bytes),
            UID => meta.uid = text(payload.bytes),
            RESOURCE_VERSION => meta.resource_version = text(payload.bytes),
            DELETION_TIMESTAMP => meta.deleting = !payload.bytes.is_empty(),
            LABELS => {
                let key = first(payload.bytes, 1)?.map_or(Cow::default(), |p| text(p.bytes));
                let value = first(payload.bytes, 2)?.map_or(Cow::default(), |p| text(p.bytes));
                meta.labels.push((key, value));
            }
            _ => {}
        }
    }
    Ok(meta)
}

/// The first field of that number: enough for bodies written by a marshaller.
fn first(bytes: &[u8], wanted: u32) -> Result<Option<Payload<'_>>, WireError> {
    let mut cursor = Cursor::new(bytes);
    while let Some((tag, wire)) = cursor.tag()? {
        let payload = cursor.payload(wire)?;
        if tag == wanted {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}

fn json_meta(body: &[u8]) -> Result<Meta<'_>, json::SyntaxError> {
    let mut meta = Meta::default();
    let mut reader = Reader::new(body);
    if !enter_member(&mut reader, "metadata")? {
        return Ok(meta);
    }
    if reader.peek()? != b'{' {
        return Ok(meta);
    }
    reader.enter()?;
    let mut first = true;
    while let Some(key) = reader.key(&mut first)? {
        match (&*key, reader.peek()?) {
            ("name", b'"') => meta.name = reader.string()?,
            ("namespace", b'"') => meta.namespace = reader.string()?,
            ("uid", b'"') => meta.uid = reader.string()?,
            ("resourceVersion", b'"') => meta.resource_version = reader.string()?,
            ("deletionTimestamp", b'"') => {
                meta.deleting = true;
                reader.skip()?;
            }
            ("labels", b'{') => {
                reader.enter()?;
                let mut first = true;
                while let Some(key) = reader.key(&mut first)? {
                    match reader.peek()? {
                        b'"' => meta.labels.push((key, reader.string()?)),
                        _ => drop(reader.skip()?),
                    }
                }
            }
            _ => drop(reader.skip()?),
        }
    }
    Ok(meta)
}

/// Moves into the value of a member of the object here; false if there is none (or no object).
fn enter_member(reader: &mut Reader<'_>, name: &str) -> Result<bool, json::SyntaxError> {
    if reader.peek()? != b'{' {
        return Ok(false);
    }
    reader.enter()?;
    let mut first = true;
    while let Some(key) = reader.key(&mut first)? {
        if key == name {
            return Ok(true);
        }
        reader.skip()?;
    }
    Ok(false)
}

/// A scalar at a dotted JSON path, as the string a field selector compares (`""` if absent).
pub fn field<'a>(table: &Table, id: MessageId, body: &'a [u8], path: &str) -> Result<Cow<'a, str>, WireError> {
    if is_json(body) {
        return json_field(body, path).map_err(bad_json);
    }
    raw_field(table, table.message(id), proto::open(body)?.raw, path)
}

fn json_field<'a>(body: &'a [u8], path: &str) -> Result<Cow<'a, str>, json::SyntaxError> {
    let mut reader = Reader::new(body);
    for name in path.trim_start_matches('.').split('.') {
        if !enter_member(&mut reader, name)? {
            return Ok(Cow::default());
        }
    }
    match reader.peek()? {
        b'"' => reader.string(),
        b'n' | b'{' | b'[' => Ok(Cow::default()),
        _ => reader.skip().map(text),
    }
}

fn raw_field<'a>(table: &Table, message: &Message, raw: &'a [u8], path: &str) -> Result<Cow<'a, str>, WireError> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = message.field(name) else {
        for (field, inner) in table.inlined(message) {
            if table.field(inner, name).is_some() {
                let nested = first(raw, field.tag)?.map_or(&[][..], |p| p.bytes);
                return raw_field(table, inner, nested, path);
            }
        }
        return Ok(Cow::default());
    };
    let Some(found) = first(raw, field.tag)? else { return Ok(Cow::default()) };
    Ok(match (&field.ty, found.wire, rest) {
        (Type::Message(id), LEN, Some(rest)) if table.message(*id).form == Form::Struct => {
            return raw_field(table, table.message(*id), found.bytes, rest);
        }
        (Type::Scalar(Scalar::String), LEN, None) => text(found.bytes),
        (Type::Scalar(Scalar::Bool), VARINT, None) => Cow::Borrowed(if found.int != 0 { "true" } else { "false" }),
        (Type::Scalar(Scalar::Int32 | Scalar::Int64), VARINT, None) => (found.int as i64).to_string().into(),
        (Type::Scalar(Scalar::Uint32 | Scalar::Uint64), VARINT, None) => found.int.to_string().into(),
        (Type::Map { .. }, _, Some(key)) => {
            let mut cursor = Cursor::new(raw);
            while let Some((tag, wire)) = cursor.tag()? {
                let payload = cursor.payload(wire)?;
                if tag == field.tag && first(payload.bytes, 1)?.is_some_and(|p| p.bytes == key.as_bytes()) {
                    return Ok(first(payload.bytes, 2)?.map_or(Cow::default(), |p| text(p.bytes)));
                }
            }
            Cow::default()
        }
        _ => Cow::default(),
    })
}

/// The same body with `metadata.resourceVersion` set: the rest is copied, not decoded.
pub fn set_resource_version(body: &[u8], resource_version: &str) -> Result<Vec<u8>, WireError> {
    if is_json(body) {
        return json_set_resource_version(body, resource_version).map_err(bad_json);
    }
    let unknown = Span::find(body, MAGIC.len(), body.len(), RAW)?;
    let raw = unknown.content;
    let metadata = Span::find(body, raw.0, raw.1, METADATA)?;
    let version = Span::find(body, metadata.content.0, metadata.content.1, RESOURCE_VERSION)?;

    let mut field = Vec::with_capacity(resource_version.len() + 2);
    write_bytes(RESOURCE_VERSION, resource_version.as_bytes(), &mut field);
    let metadata_len = metadata.len() - version.whole() + field.len();
    let metadata_whole = 1 + varint_width(metadata_len as u64) + metadata_len;
    let raw_len = unknown.len() - metadata.whole() + metadata_whole;

    let mut out = Vec::with_capacity(body.len() + field.len() + 4);
    out.extend_from_slice(&body[..unknown.start]);
    write_tag(RAW, LEN, &mut out);
    write_varint(raw_len as u64, &mut out);
    out.extend_from_slice(&body[raw.0..metadata.start]);
    write_tag(METADATA, LEN, &mut out);
    write_varint(metadata_len as u64, &mut out);
    out.extend_from_slice(&body[metadata.content.0..version.start]);
    out.extend_from_slice(&field);
    out.extend_from_slice(&body[version.content.1..metadata.content.1]);
    out.extend_from_slice(&body[metadata.content.1..raw.1]);
    out.extend_from_slice(&body[raw.1..]);
    Ok(out)
}

/// Where a field stands: its tag's first byte, and its content; all at the place it belongs if it is not there.
struct Span {
    start: usize,
    content: (usize, usize),
}

impl Span {
    fn find(body: &[u8], from: usize, to: usize, wanted: u32) -> Result<Span, WireError> {
        let mut cursor = Cursor { bytes: &body[..to], at: from };
        loop {
            let start = cursor.at;
            match cursor.tag()? {
                Some((tag, wire)) if tag < wanted => cursor.skip(wire)?,
                Some((tag, LEN)) if tag == wanted => {
                    let content = cursor.bytes()?.len();
                    return Ok(Span { start, content: (cursor.at - content, cursor.at) });
                }
                _ => return Ok(Span { start, content: (start, start) }),
            }
        }
    }

    fn len(&self) -> usize {
        self.content.1 - self.content.0
    }

    /// With tag and length.
    fn whole(&self) -> usize {
        self.content.1 - self.start
    }
}

fn json_set_resource_version(body: &[u8], resource_version: &str) -> Result<Vec<u8>, json::SyntaxError> {
    let mut member = Vec::with_capacity(resource_version.len() + 24);
    json::write_string(resource_version.as_bytes(), &mut member);
    let mut reader = Reader::new(body);
    let (from, to) = if enter_member(&mut reader, "metadata")? && reader.peek()? == b'{' {
        reader.enter()?;
        let mut first = true;
        let mut place = None;
        loop {
            let before = reader.at;
            match reader.key(&mut first)? {
                Some(key) if key == "resourceVersion" => {
                    let len = reader.skip()?.len();
                    break (reader.at - len, reader.at);
                }
                // Members stand in the order of their names.
                Some(key) if *key > *"resourceVersion" && place.is_none() => {
                    place = Some(before);
                    reader.skip()?;
                }
                Some(_) => drop(reader.skip()?),
                None => {
                    let at = place.unwrap_or(reader.at - 1);
                    let comma_before = body[..at].trim_ascii_end().last() != Some(&b'{');
                    let comma_after = body[at..].trim_ascii_start().first().is_some_and(|b| !matches!(b, b',' | b'}'));
                    let mut whole = Vec::with_capacity(member.len() + 20);
                    if comma_before {
                        whole.push(b',');
                    }
                    whole.extend_from_slice(b"\"resourceVersion\":");
                    whole.append(&mut member);
                    if comma_after {
                        whole.push(b',');
                    }
                    member = whole;
                    break (at, at);
                }
            }
        }
    } else {
        return Ok(body.to_vec());
    };
    let mut out = Vec::with_capacity(body.len() + member.len());
    out.extend_from_slice(&body[..from]);
    out.extend_from_slice(&member);
    out.extend_from_slice(&body[to..]);
    Ok(out)
}
