//! Protobuf to JSON without a value in between: the hot path of LIST and WATCH.
//!
//! Entry point: [`proto_to_json`]. One pass over a message notes where its fields stand; they are then written
//! in the order of the Go struct. gogo writes fields by number, which is nearly always that order already.

use crate::json::{encode_untyped, write_f32, write_f64, write_i64, write_string};
use crate::plan::Plan;
use crate::proto::read::{find, packed};
use crate::proto::wire::{Cursor, FIXED32, FIXED64, LEN, Payload, VARINT};
use crate::proto::{self, MAX_DEPTH, WireError};
use crate::{Field, Form, Message, MessageId, Scalar, Table, Type, json, quantity, time};

/// Appends the JSON of a message (no envelope): the same bytes as decoding and encoding it.
/// `type_meta` (apiVersion, kind) is written first if given; the items of a list have none.
pub fn proto_to_json(
    table: &Table,
    id: MessageId,
    type_meta: Option<(&str, &str)>,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut coder = Transcoder { table, seen: Vec::with_capacity(64), out };
    coder.out.push(b'{');
    if let Some((api_version, kind)) = type_meta {
        coder.key(b"\"kind\":");
        write_string(kind.as_bytes(), coder.out);
        coder.key(b"\"apiVersion\":");
        write_string(api_version.as_bytes(), coder.out);
    }
    coder.members(table.message(id), raw, 0)?;
    coder.out.push(b'}');
    Ok(())
}

type Result<T> = std::result::Result<T, WireError>;

/// A field of the message in hand: its place among the message's fields, and what stands there.
#[derive(Clone, Copy)]
struct Seen<'a> {
    field: u32,
    payload: Payload<'a>,
}

struct Transcoder<'t, 'a, 'o> {
    table: &'t Table,
    /// A stack: each message on the way down has its part at the end.
    seen: Vec<Seen<'a>>,
    out: &'o mut Vec<u8>,
}

impl<'t, 'a> Transcoder<'t, 'a, '_> {
    /// `"name":`, and the comma before it.
    #[inline]
    fn key(&mut self, key: &[u8]) {
        self.comma();
        self.out.extend_from_slice(key);
    }

    /// No JSON value ends in an opening bracket, so one there means that nothing was written yet.
    #[inline]
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    /// The members of a struct, without its braces.
    fn members(&mut self, message: &'t Message, bytes: &'a [u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(WireError::TooDeep(MAX_DEPTH));
        }
        let plan = message.plan(self.table);
        let base = self.seen.len();
        let mut cursor = Cursor::new(bytes);
        let (mut highest, mut sorted) = (0, true);
        while let Some((tag, wire)) = cursor.tag()? {
            let payload = cursor.payload(wire)?;
            if let Some(at) = message.index_of_tag(plan, tag) {
                sorted &= at >= highest;
                highest = at;
                self.seen.push(Seen { field: at as u32, payload });
            }
        }
        if !sorted {
            self.seen[base..].sort_by_key(|s| s.field);
        }
        let end = self.seen.len();
        let mut at = base;
        let mut always = plan.always.iter().map(|i| usize::from(*i)).peekable();
        loop {
            let index = if at < end { self.seen[at].field as usize } else { usize::MAX };
            // Fields that are absent, but not silent.
            while let Some(absent) = always.next_if(|i| *i < index) {
                self.absent(message, absent, depth)?;
            }
            if at == end {
                break;
            }
            always.next_if_eq(&index);
            let from = at;
            while at < end && self.seen[at].field as usize == index {
                at += 1;
            }
            self.field(message, plan, index, from..at, depth)?;
        }
        self.seen.truncate(base);
        Ok(())
    }

    /// Prints the zero value of a field that is not there.
    fn absent(&mut self, message: &'t Message, index: usize, depth: usize) -> Result<()> {
        let field = &message.fields[index];
        if let Type::Message(id) = &field.ty
            && field.inline
        {
            self.members(self.table.message(*id), &[], depth + 1)?;
        } else if let Some(zero) = self.table.printed_zero(field) {
            self.key(message.plan(self.table).key(index));
            json::encode(self.table, &field.ty, &zero, self.out);
        }
        Ok(())
    }

    fn field(
        &mut self,
        owner: &'t Message,
        plan: &'t Plan,
        index: usize,
        at: std::ops::Range<usize>,
        depth: usize,
    ) -> Result<()> {
        let field = &owner.fields[index];
        let last = self.seen[at.end - 1].payload;
        match &field.ty {
            Type::Message(id) if field.inline => {
                let inner = self.table.message(*id);
                for i in at {
                    self.members(inner, self.seen[i].payload.bytes, depth + 1)?;
                }
                Ok(())
            }
            Type::List { element, .. } => {
                self.key(plan.key(index));
                self.out.push(b'[');
                for i in at {
                    self.element(owner, field, element, self.seen[i].payload, depth)?;
                }
                self.out.push(b']');
                Ok(())
            }
            Type::Map { value, .. } => {
                self.key(plan.key(index));
                self.map(owner, field, value, at, depth)
            }
            ty => {
                if self.left_out(field, ty, last)? {
                    return Ok(());
                }
                self.key(plan.key(index));
                if let Type::Message(id) = ty
                    && last.bytes.is_empty()
                    && self.table.message(*id).form == Form::Items
                {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
                self.value(owner, field, ty, last, depth)
            }
        }
    }

    /// Whether `omitempty` or `omitzero` hides this value.
    fn left_out(&self, field: &Field, ty: &Type, payload: Payload<'_>) -> Result<bool> {
        if field.pointer || !(field.omitempty || field.omitzero) {
            // A pointer to what prints as null counts as null.
            return Ok(field.pointer && field.omitempty && self.is_null(ty, payload)?);
        }
        Ok(match ty {
            Type::Scalar(_) => payload.int == 0 && payload.bytes.is_empty(),
            Type::Message(id) => {
                let message = self.table.message(*id);
                match message.form {
                    Form::Items => find(payload.bytes, 1)?.is_none(),
                    _ if !field.omitzero => false,
                    Form::Time | Form::MicroTime if payload.bytes.is_empty() => true,
                    _ => {
                        let value = proto::decode(self.table, *id, payload.bytes)?;
                        self.table.omits(field, &value)
                    }
                }
            }
            _ => false,
        })
    }

    fn is_null(&self, ty: &Type, payload: Payload<'_>) -> Result<bool> {
        let Type::Message(id) = ty else { return Ok(false) };
        Ok(match self.table.message(*id).form {
            Form::Time | Form::MicroTime => {
                payload.bytes.is_empty() || find(payload.bytes, 1)?.is_some_and(|p| p.int as i64 == time::ZERO)
            }
            Form::RawExtension | Form::FieldsV1 | Form::Json => {
                find(payload.bytes, 1)?.is_none_or(|p| p.bytes.is_empty() || p.bytes == b"null")
            }
            Form::JsonSchemaPropsOrArray | Form::JsonSchemaPropsOrStringArray => payload.bytes.is_empty(),
            _ => false,
        })
    }

    fn map(
        &mut self,
        owner: &'t Message,
        field: &'t Field,
        ty: &'t Type,
        at: std::ops::Range<usize>,
        depth: usize,
    ) -> Result<()> {
        // The keys take the place of the fields on the stack's end, to be sorted if they are not.
        let mut entries: Vec<(&'a [u8], Option<Payload<'a>>)> = Vec::with_capacity(at.len());
        for i in at {
            let mut cursor = Cursor::new(self.seen[i].payload.bytes);
            let (mut key, mut value): (&[u8], _) = (&[], None);
            while let Some((tag, wire)) = cursor.tag()? {
                let payload = cursor.payload(wire)?;
                match tag {
                    1 => key = payload.bytes,
                    2 => value = Some(payload),
                    _ => {}
                }
            }
            entries.push((key, value));
        }
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            // Of equal keys the last one counts.
            entries.reverse();
            entries.sort_by_key(|e| e.0);
            entries.dedup_by_key(|e| e.0);
        }
        self.out.push(b'{');
        for (key, value) in entries {
            self.comma();
            write_string(key, self.out);
            self.out.push(b':');
            match value {
                Some(payload) => self.value(owner, field, ty, payload, depth)?,
                None => json::encode(self.table, ty, &self.table.zero(ty), self.out),
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn element(
        &mut self,
        owner: &'t Message,
        field: &'t Field,
        ty: &'t Type,
        payload: Payload<'a>,
        depth: usize,
    ) -> Result<()> {
        if let (LEN, Type::Scalar(scalar)) = (payload.wire, ty)
            && let Some(wire) = packed(*scalar)
        {
            let mut cursor = Cursor::new(payload.bytes);
            while cursor.at < payload.bytes.len() {
                self.comma();
                let payload = cursor.payload(wire)?;
                self.value(owner, field, ty, payload, depth)?;
            }
            return Ok(());
        }
        self.comma();
        self.value(owner, field, ty, payload, depth)
    }

    #[inline]
    fn value(
        &mut self,
        owner: &'t Message,
        field: &'t Field,
        ty: &'t Type,
        payload: Payload<'a>,
        depth: usize,
    ) -> Result<()> {
        let Payload { wire, int, bytes } = payload;
        match (ty, wire) {
            (Type::Scalar(Scalar::String), LEN) => write_string(bytes, self.out),
            (Type::Message(id), LEN) => {
                let message = self.table.message(*id);
                if message.form != Form::Struct {
                    return self.formed(message, bytes, depth);
                }
                self.out.push(b'{');
                self.members(message, bytes, depth + 1)?;
                self.out.push(b'}');
            }
            (Type::Scalar(Scalar::Bytes), LEN) => self.base64(bytes),
            (Type::Scalar(Scalar::Bool), VARINT) => {
                self.out.extend_from_slice(if int != 0 { b"true" } else { b"false" });
            }
            (Type::Scalar(Scalar::Int32), VARINT) => write_i64((int as i32).into(), self.out),
            (Type::Scalar(Scalar::Uint32), VARINT) => write_i64((int as u32).into(), self.out),
            (Type::Scalar(Scalar::Int64 | Scalar::Uint64), VARINT) => write_i64(int as i64, self.out),
            (Type::Scalar(Scalar::Float), FIXED32) => write_f32(f32::from_bits(int as u32), self.out),
            (Type::Scalar(Scalar::Double), FIXED64) => write_f64(f64::from_bits(int), self.out),
            _ => return Err(WireError::WireType { message: owner.name.to_string(), field: field.tag, wire }),
        }
        Ok(())
    }

    fn base64(&mut self, bytes: &[u8]) {
        use base64::Engine;
        let engine = &base64::engine::general_purpose::STANDARD;
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
        if engine.encode_slice(bytes, &mut self.out[start..]).is_err() {
            self.out.truncate(start);
        }
        self.out.push(b'"');
    }

    fn formed(&mut self, message: &'t Message, bytes: &'a [u8], depth: usize) -> Result<()> {
        match message.form {
            Form::Time if !bytes.is_empty() => {
                let mut cursor = Cursor::new(bytes);
                let seconds = match cursor.tag()? {
                    Some((1, VARINT)) => cursor.varint()? as i64,
                    _ => find(bytes, 1)?.map_or(0, |p| p.int as i64),
                };
                if seconds == time::ZERO {
                    self.out.extend_from_slice(b"null");
                } else {
                    self.out.push(b'"');
                    time::push(seconds, None, self.out);
                    self.out.push(b'"');
                }
            }
            Form::Quantity => {
                let text = find(bytes, 1)?.map_or(&b"0"[..], |p| p.bytes);
                match std::str::from_utf8(text).ok().and_then(|t| quantity::canonical(t).ok()) {
                    Some(text) => write_string(text.as_bytes(), self.out),
                    None => {
                        return Err(WireError::Text {
                            message: message.name.to_string(),
                            text: String::from_utf8_lossy(text).into_owned(),
                        });
                    }
                }
            }
            Form::RawExtension | Form::FieldsV1 | Form::Json => match find(bytes, 1)? {
                Some(raw) if !raw.bytes.is_empty() => self.raw_json(message, raw.bytes)?,
                _ => self.out.extend_from_slice(b"null"),
            },
            _ => {
                let value = proto::read::message(self.table, message, bytes, depth)?;
                let id = self.table.by_name.get(&message.name);
                match id {
                    Some(id) => json::encode(self.table, &Type::Message(*id), &value, self.out),
                    None => encode_untyped(&value, self.out),
                }
            }
        }
        Ok(())
    }

    /// JSON within protobuf. What is stored was parsed when it was written, so it is copied; unless another
    /// writer left spaces in it or characters which Go's encoder escapes: then it is read and written again.
    fn raw_json(&mut self, message: &Message, raw: &[u8]) -> Result<()> {
        if is_compact(raw) {
            self.out.extend_from_slice(raw);
            return Ok(());
        }
        let value = json::parse(raw).map_err(|_| WireError::Json { message: message.name.to_string() })?;
        encode_untyped(&value, self.out);
        Ok(())
    }
}

fn is_compact(raw: &[u8]) -> bool {
    let mut special = 0u8;
    for &b in raw {
        special |=
            u8::from(b <= b' ') | u8::from(b >= 0x80) | u8::from(b == b'<') | u8::from(b == b'>') | u8::from(b == b'&');
    }
    special == 0
}
