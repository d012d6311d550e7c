//! Objects on their way in and out: stored bytes, values, and the forms that clients asked for.
//!
//! A [`View`] is one served kind in one accepted form. Protobuf passes stored bytes on, JSON is transcoded from them;
//! only tables, YAML, another version or a custom resource need a value in between.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use schema::proto;
use schema::proto::wire::{LEN, VARINT, bytes_width, write_bytes, write_tag, write_varint};
use schema::{MessageId, Table, Type, Value, json, transcode, yaml};
use store::Revision;

use crate::cache::Entry;
use crate::kind::{Kind, builtin, split_api_version};
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::status::{Result, Status};
use crate::{convert, printers};

/// What a table's rows carry besides their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// A served kind in the form a client asked for.
#[derive(Clone)]
pub struct View {
    pub kind: Arc<Kind>,
    pub accepted: Accepted,
    pub include: IncludeObject,
    /// For the ages in tables.
    pub now: i64,
}

const META: &str = "meta.k8s.io/v1";
const PARTIAL: &str = "PartialObjectMetadata";

fn broken(kind: &Kind, key: &str, error: impl std::fmt::Display) -> Status {
    Status::internal(format_args!("cannot read {} {key}: {error}", kind.resource.plural))
}

/// A stored body as a value in the kind's version, with its apiVersion and kind.
pub fn decode(kind: &Kind, body: &[u8]) -> Result<Value> {
    if let Some(storage) = &kind.storage {
        storage.decodes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    if let Some(custom) = &kind.custom {
        let mut value = json::parse(body).map_err(|e| broken(kind, "", e))?;
        // With a webhook all this was done around the conversion.
        if custom.converter.is_none() {
            custom.default(&mut value);
            custom.rename(&mut value, &kind.api_version);
        }
        kind.stamp(&mut value);
        return Ok(value);
    }
    let envelope = proto::open(body).map_err(|e| broken(kind, "", e))?;
    let storage = kind.storage()?;
    let mut value = proto::decode(builtin(), storage.message, envelope.raw).map_err(|e| broken(kind, "", e))?;
    value.set(&["apiVersion"], &*storage.api_version);
    value.set(&["kind"], &*storage.kind);
    if storage.api_version != kind.api_version {
        convert::convert(&mut value, &storage.api_version, &kind.api_version);
        value = json::typed(kind.table(), kind.message(), value).map_err(|e| broken(kind, "", e))?.value;
        kind.stamp(&mut value);
    }
    Ok(value)
}

/// What the store keeps of a value: the storage version, without a resourceVersion.
pub fn to_stored(kind: &Kind, value: &Value) -> Result<Bytes> {
    let storage = kind.storage()?;
    let mut value = value.clone();
    value.remove(&["metadata", "resourceVersion"]);
    if let Some(custom) = &kind.custom {
        custom.rename(&mut value, &custom.storage_api_version);
        let mut out = Vec::new();
        json::encode_untyped(&value, &mut out);
        return Ok(out.into());
    }
    if storage.api_version != kind.api_version {
        convert::convert(&mut value, &kind.api_version, &storage.api_version);
        value = json::typed(builtin(), storage.message, value).map_err(|e| broken(kind, "", e))?.value;
    }
    let mut raw = Vec::new();
    proto::encode(builtin(), storage.message, &value, &mut raw);
    Ok(proto::envelope(&storage.api_version, &storage.kind, &raw).into())
}

/// The protobuf message of a stored body in the kind's version.
fn proto_raw<'a>(kind: &Kind, body: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let envelope = proto::open(body).map_err(|e| broken(kind, "", e))?;
    if envelope.api_version == &*kind.api_version {
        return Ok(Cow::Borrowed(envelope.raw));
    }
    let value = decode(kind, body)?;
    let mut raw = Vec::new();
    proto::encode(kind.table(), kind.message(), &value, &mut raw);
    Ok(Cow::Owned(raw))
}

/// The message of a type by apiVersion and kind, for objects that are no resource of their own.
pub fn message_of(api_version: &str, kind: &str) -> Option<MessageId> {
    let (group, version) = split_api_version(api_version);
    let table = builtin();
    // Meta types answer to any group: `v1`, `meta.k8s.io/v1` or the group of the request.
    table
        .kind(group, version, kind)
        .or_else(|| table.kind("", "v1", kind))
        .or_else(|| table.id(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")))
}

/// Encodes a value that has apiVersion and kind. Protobuf needs a message; without one JSON is the answer.
pub fn value(value: &Value, table: &Table, message: Option<MessageId>, encoding: Encoding) -> (Bytes, &'static str) {
    let mut out = Vec::new();
    match (encoding, message) {
        (Encoding::Protobuf, Some(id)) => {
            let mut raw = Vec::new();
            proto::encode(table, id, value, &mut raw);
            let bytes = proto::envelope(value.str_at(&["apiVersion"]), value.str_at(&["kind"]), &raw);
            return (bytes.into(), encoding.content_type());
        }
        (Encoding::Yaml, _) => {
            yaml::write(value, &mut out);
            return (out.into(), encoding.content_type());
        }
        (_, Some(id)) => json::encode(table, &Type::Message(id), value, &mut out),
        (_, None) => json::encode_untyped(value, &mut out),
    }
    if encoding == Encoding::PrettyJson {
        out = indent(&out);
    }
    out.push(b'\n');
    (out.into(), crate::negotiate::JSON)
}

impl View {
    fn encoding(&self) -> Encoding {
        self.accepted.encoding
    }

    /// An object as the whole body of an answer.
    pub fn object(&self, entry: &Entry) -> Result<Bytes> {
        let mut out = Vec::new();
        match (self.encoding(), self.accepted.shape) {
            (Encoding::Protobuf, Shape::Whole) => {
                let envelope = proto::open(&entry.body).map_err(|e| broken(&self.kind, &entry.key, e))?;
                if envelope.api_version == &*self.kind.api_version {
                    return Ok(entry.body.clone());
                }
                let raw = proto_raw(&self.kind, &entry.body)?;
                return Ok(proto::envelope(&self.kind.api_version, self.kind.kind(), &raw).into());
            }
            (Encoding::Protobuf, _) => {
                return Ok(proto::envelope(META, PARTIAL, &self.partial_raw(entry)?).into());
            }
            (Encoding::Yaml, _) => {
                yaml::write(&self.to_value(entry)?, &mut out);
                return Ok(out.into());
            }
            (_, Shape::Table) => {
                let mut table = self.table_head(entry.revision, true);
                table.set(&["rows"], Value::List(vec![self.row(entry)?]));
                json::encode_untyped(&table, &mut out);
            }
            _ => self.json(entry, true, &mut out)?,
        }
        Ok(self.finish_json(out))
    }

    fn finish_json(&self, mut out: Vec<u8>) -> Bytes {
        if self.encoding() == Encoding::PrettyJson {
            out = indent(&out);
        }
        out.push(b'\n');
        out.into()
    }

    /// Appends an object's JSON, whole or partial; items of a built-in list have no apiVersion and kind.
    fn json(&self, entry: &Entry, type_meta: bool, out: &mut Vec<u8>) -> Result<()> {
        let kind = &*self.kind;
        if self.accepted.shape == Shape::Partial {
            if kind.custom.is_none()
                && let Some(id) = message_of(META, PARTIAL)
            {
                let raw = self.partial_raw(entry)?;
                // Items of a metadata list carry their kind too.
                return transcode::proto_to_json(builtin(), id, Some((META, PARTIAL)), &raw, out)
                    .map_err(|e| broken(kind, &entry.key, e));
            }
            let value = partial(decode(kind, &entry.body)?);
            json::encode_untyped(&value, out);
            return Ok(());
        }
        if kind.custom.is_some() {
            json::encode_untyped(&decode(kind, &entry.body)?, out);
            return Ok(());
        }
        let envelope = proto::open(&entry.body).map_err(|e| broken(kind, &entry.key, e))?;
        if envelope.api_version == &*kind.api_version {
            let meta = type_meta.then_some((envelope.api_version, envelope.kind));
            return transcode::proto_to_json(builtin(), kind.message(), meta, envelope.raw, out)
                .map_err(|e| broken(kind, &entry.key, e));
        }
        let mut value = decode(kind, &entry.body)?;
        if !type_meta {
            value.remove(&["apiVersion"]);
            value.remove(&["kind"]);
        }
        json::encode(kind.table(), &kind.ty, &value, out);
        Ok(())
    }

    /// `PartialObjectMetadata` of a built-in object: the metadata's bytes, copied.
    fn partial_raw(&self, entry: &Entry) -> Result<Vec<u8>> {
        let kind = &*self.kind;
        if kind.custom.is_some() {
            let id = message_of(META, PARTIAL).ok_or_else(|| broken(kind, &entry.key, "no such type"))?;
            let mut raw = Vec::new();
            proto::encode(builtin(), id, &partial(decode(kind, &entry.body)?), &mut raw);
            return Ok(raw);
        }
        let envelope = proto::open(&entry.body).map_err(|e| broken(kind, &entry.key, e))?;
        let mut out = Vec::new();
        if let Ok(Some(metadata)) = proto::find(envelope.raw, 1) {
            write_bytes(1, metadata.bytes, &mut out);
        }
        Ok(out)
    }

    /// The object in the asked shape as a value.
    pub fn to_value(&self, entry: &Entry) -> Result<Value> {
        Ok(match self.accepted.shape {
            Shape::Whole => decode(&self.kind, &entry.body)?,
            Shape::Partial => partial(decode(&self.kind, &entry.body)?),
            Shape::Table => {
                let mut table = self.table_head(entry.revision, true);
                table.set(&["rows"], Value::List(vec![self.row(entry)?]));
                table
            }
        })
    }

    fn table_head(&self, revision: Revision, columns: bool) -> Value {
        let mut table = Value::object([("kind", "Table".into()), ("apiVersion", META.into())]);
        table.set(&["metadata", "resourceVersion"], revision.to_string());
        let definitions = if columns { printers::definitions(&self.kind) } else { Value::Null };
        table.set(&["columnDefinitions"], definitions);
        table
    }

    fn row(&self, entry: &Entry) -> Result<Value> {
        let value = decode(&self.kind, &entry.body)?;
        let cells = printers::cells(&self.kind, &value, self.now);
        Ok(self.row_of(cells, value))
    }

    fn row_of(&self, cells: Vec<Value>, value: Value) -> Value {
        let object = match self.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => partial(value),
            IncludeObject::Object => value,
        };
        Value::object([("cells", Value::List(cells)), ("object", object)])
    }

    /// A Scale in the shape that is asked for.
    pub fn scale(&self, scale: Value) -> Value {
        match self.accepted.shape {
            Shape::Whole => scale,
            Shape::Partial => partial(scale),
            Shape::Table => {
                let columns = printers::scale_columns();
                let cells = printers::cells_of(&columns, true, &scale, self.now);
                Value::object([
                    ("kind", "Table".into()),
                    ("apiVersion", META.into()),
                    ("metadata", Value::object([("resourceVersion", scale["metadata"]["resourceVersion"].clone())])),
                    ("columnDefinitions", printers::definitions_of(&columns)),
                    ("rows", Value::List(vec![self.row_of(cells, scale)])),
                ])
            }
        }
    }

    /// A list as chunks of its body.
    pub fn list(self, entries: Vec<Arc<Entry>>, meta: ListMeta) -> ListChunks {
        ListChunks { view: self, meta, entries: entries.into_iter(), stage: Stage::Head, written: 0 }
    }

    /// A watch frame. `bookmark` is an object of the kind that has a resourceVersion only.
    pub fn frame(&self, event_type: &str, entry: &Entry, first: bool) -> Result<Bytes> {
        let mut out = Vec::new();
        if self.encoding() == Encoding::Protobuf {
            let object = self.object(entry)?;
            return Ok(watch_event(event_type, &object));
        }
        out.extend_from_slice(format!("{{\"type\":\"{event_type}\",\"object\":").as_bytes());
        if self.accepted.shape == Shape::Table {
            let mut table = self.table_head(entry.revision, first);
            table.set(&["rows"], Value::List(vec![self.row(entry)?]));
            json::encode_untyped(&table, &mut out);
        } else {
            self.json(entry, true, &mut out)?;
        }
        out.extend_from_slice(b"}\n");
        Ok(out.into())
    }

    /// BOOKMARK: an object of the kind with nothing but a resourceVersion (and the initial list's end).
    pub fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Bytes {
        let mut object = Value::default();
        let partial = self.accepted.shape != Shape::Whole;
        if partial {
            object.set(&["apiVersion"], META);
            object.set(&["kind"], PARTIAL);
        } else {
            self.kind.stamp(&mut object);
        }
        object.set(&["metadata", "resourceVersion"], revision.to_string());
        if initial_events_end {
            object.set(&["metadata", "annotations", "k8s.io/initial-events-end"], "true");
        }
        if self.accepted.shape == Shape::Table {
            let row = Value::object([("cells", Value::List(Vec::new())), ("object", object)]);
            object = self.table_head(revision, false);
            object.set(&["rows"], Value::List(vec![row]));
            return self.event_of_value("BOOKMARK", &object, builtin(), None);
        }
        let message = if partial { message_of(META, PARTIAL) } else { Some(self.kind.message()) };
        let table = if partial { builtin() } else { self.kind.table() };
        let message = if self.kind.custom.is_some() && !partial { None } else { message };
        if let Some(id) = message
            && let Ok(decoded) = json::typed(table, id, object.clone())
        {
            object = decoded.value;
        }
        self.event_of_value("BOOKMARK", &object, table, message)
    }

    /// ERROR inside of a stream.
    pub fn error(&self, status: &Status) -> Bytes {
        self.event_of_value("ERROR", &status.to_value(), builtin(), message_of("v1", "Status"))
    }

    fn event_of_value(&self, event_type: &str, object: &Value, table: &Table, message: Option<MessageId>) -> Bytes {
        if self.encoding() == Encoding::Protobuf {
            let (object, _) = value(object, table, message, Encoding::Protobuf);
            return watch_event(event_type, &object);
        }
        let mut out = format!("{{\"type\":\"{event_type}\",\"object\":").into_bytes();
        match message {
            Some(id) => json::encode(table, &Type::Message(id), object, &mut out),
            None => json::encode_untyped(object, &mut out),
        }
        out.extend_from_slice(b"}\n");
        out.into()
    }
}

/// Only an object's metadata.
pub fn partial(mut value: Value) -> Value {
    let mut out = Value::object([("apiVersion", META.into()), ("kind", PARTIAL.into())]);
    if let Some(metadata) = value.remove(&["metadata"]) {
        out.set(&["metadata"], metadata);
    }
    out
}

/// `meta/v1.ListMeta`.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

impl ListMeta {
    /// Lists of custom resources always name the token, even an empty one.
    fn to_value(&self, custom: bool) -> Value {
        let mut out = Value::object([("resourceVersion", self.revision.to_string().into())]);
        if custom || !self.continue_token.is_empty() {
            out.set(&["continue"], self.continue_token.as_str());
        }
        if let Some(remaining) = self.remaining {
            out.set(&["remainingItemCount"], remaining as i64);
        }
        out
    }

    fn proto(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_bytes(1, b"", &mut out);
        write_bytes(2, self.revision.to_string().as_bytes(), &mut out);
        write_bytes(3, self.continue_token.as_bytes(), &mut out);
        if let Some(remaining) = self.remaining {
            write_tag(4, VARINT, &mut out);
            write_varint(remaining, &mut out);
        }
        out
    }
}

#[derive(PartialEq)]
enum Stage {
    Head,
    Items,
    Done,
}

/// Chunk size aimed at.
const CHUNK_BYTES: usize = 64 << 10;

/// A list's body, encoded while it is sent.
pub struct ListChunks {
    view: View,
    meta: ListMeta,
    entries: std::vec::IntoIter<Arc<Entry>>,
    stage: Stage,
    written: u64,
}

impl ListChunks {
    fn is_custom(&self) -> bool {
        self.view.kind.custom.is_some() && self.view.accepted.shape == Shape::Whole
    }

    fn kind_names(&self) -> (String, String) {
        match self.view.accepted.shape {
            Shape::Partial => (META.into(), format!("{PARTIAL}List")),
            _ => (self.view.kind.api_version.to_string(), self.view.kind.list_kind()),
        }
    }

    /// Approximate size of the whole body.
    pub fn bytes_hint(&self) -> u64 {
        self.entries.as_slice().iter().map(|e| e.body.len() as u64).sum()
    }

    fn whole_value(&mut self) -> Result<Bytes> {
        let (api_version, kind) = self.kind_names();
        let mut items = Vec::new();
        let table = self.view.accepted.shape == Shape::Table;
        for entry in self.entries.by_ref() {
            items.push(if table { self.view.row(&entry)? } else { self.view.to_value(&entry)? });
        }
        let mut out = Vec::new();
        if table {
            let mut value = self.view.table_head(self.meta.revision, true);
            value.set(&["metadata"], self.meta.to_value(self.is_custom()));
            value.set(&["rows"], Value::List(items));
            if self.view.encoding() == Encoding::Yaml {
                yaml::write(&value, &mut out);
                return Ok(out.into());
            }
            json::encode_untyped(&value, &mut out);
            return Ok(self.view.finish_json(out));
        }
        let no_items = self.view.accepted.shape == Shape::Partial && items.is_empty();
        let value = Value::object([
            ("apiVersion", api_version.into()),
            ("kind", kind.into()),
            ("metadata", self.meta.to_value(self.is_custom())),
            ("items", if no_items { Value::Null } else { Value::List(items) }),
        ]);
        yaml::write(&value, &mut out);
        Ok(out.into())
    }

    fn head(&mut self) -> Result<Vec<u8>> {
        let (api_version, kind) = self.kind_names();
        let mut out = Vec::with_capacity(CHUNK_BYTES + 4096);
        if self.view.encoding() == Encoding::Protobuf {
            // The envelope names its length, so the items are measured first.
            let meta = self.meta.proto();
            let mut length = bytes_width(meta.len());
            for entry in self.entries.as_slice() {
                length += bytes_width(self.item_raw(entry)?.len());
            }
            proto::envelope_head(&api_version, &kind, length, &mut out);
            write_bytes(1, &meta, &mut out);
            return Ok(out);
        }
        out.extend_from_slice(b"{\"kind\":");
        json::encode_untyped(&kind.into(), &mut out);
        out.extend_from_slice(b",\"apiVersion\":");
        json::encode_untyped(&api_version.into(), &mut out);
        out.extend_from_slice(b",\"metadata\":");
        json::encode_untyped(&self.meta.to_value(self.is_custom()), &mut out);
        // Upstream makes no list of parts of nothing.
        if self.view.accepted.shape == Shape::Partial && self.entries.as_slice().is_empty() {
            out.extend_from_slice(b",\"items\":null}\n");
            self.stage = Stage::Done;
            return Ok(out);
        }
        out.extend_from_slice(b",\"items\":[");
        Ok(out)
    }

    fn item_raw<'a>(&self, entry: &'a Entry) -> Result<Cow<'a, [u8]>> {
        match self.view.accepted.shape {
            Shape::Partial => Ok(Cow::Owned(self.view.partial_raw(entry)?)),
            _ => proto_raw(&self.view.kind, &entry.body),
        }
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let protobuf = self.view.encoding() == Encoding::Protobuf;
        let mut out = match self.stage {
            Stage::Done => return Ok(None),
            Stage::Items => Vec::with_capacity(CHUNK_BYTES + 4096),
            Stage::Head => {
                let indented = self.view.encoding() == Encoding::PrettyJson;
                if self.view.accepted.shape == Shape::Table || self.view.encoding() == Encoding::Yaml {
                    self.stage = Stage::Done;
                    return self.whole_value().map(Some);
                }
                if indented {
                    self.view.accepted.encoding = Encoding::Json;
                    let mut whole = Vec::new();
                    while let Some(chunk) = self.next_chunk()? {
                        whole.extend_from_slice(&chunk);
                    }
                    return Ok(Some(indent(&whole).into()));
                }
                self.stage = Stage::Items;
                self.head()?
            }
        };
        while self.stage == Stage::Items && out.len() < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(if protobuf { proto::ENVELOPE_TAIL } else { b"]}\n" });
                self.stage = Stage::Done;
                break;
            };
            if protobuf {
                let raw = self.item_raw(&entry)?;
                write_bytes(2, &raw, &mut out);
            } else {
                if self.written > 0 {
                    out.push(b',');
                }
                let partial_or_custom = self.view.accepted.shape == Shape::Partial || self.view.kind.custom.is_some();
                let before = out.len();
                if let Err(error) = self.view.json(&entry, partial_or_custom, &mut out) {
                    // One broken object never spoils a list.
                    tracing::error!(key = %entry.key, message = %error.message, "left out of a list");
                    out.truncate(before - usize::from(self.written > 0));
                    continue;
                }
            }
            self.written += 1;
        }
        Ok(Some(out.into()))
    }
}

impl Iterator for ListChunks {
    type Item = Result<Bytes>;
    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.next_chunk().transpose();
        if matches!(chunk, Some(Err(_))) {
            self.stage = Stage::Done;
        }
        chunk
    }
}

/// Go's two-space indentation of compact JSON.
pub fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    let mut bytes = compact.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if quoted {
            out.push(byte);
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                quoted = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if bytes.peek().is_some_and(|&next| next == b'}' || next == b']') {
                    out.extend(bytes.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            _ => out.push(byte),
        }
    }
    out
}

/// A length-framed `meta/v1.WatchEvent` around an enveloped object.
fn watch_event(event_type: &str, object: &[u8]) -> Bytes {
    let extension = bytes_width(object.len());
    let length = bytes_width(event_type.len()) + bytes_width(extension);
    let mut out = Vec::with_capacity(4 + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    write_bytes(1, event_type.as_bytes(), &mut out);
    write_tag(2, LEN, &mut out);
    write_varint(extension as u64, &mut out);
    write_bytes(1, object, &mut out);
    out.into()
}
