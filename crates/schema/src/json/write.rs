//! JSON as Go's encoder writes it.

use crate::{Field, Form, Message, Object, Scalar, Table, Type, Value};

/// Writes a value as upstream's Go struct prints. `kind` and `apiVersion` of the root come first.
pub fn encode(table: &Table, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    if let (Type::Message(id), Value::Object(object)) = (ty, value)
        && table.message(*id).form == Form::Struct
    {
        let message = table.message(*id);
        let mut members = Members::open(out);
        for key in ["kind", "apiVersion"] {
            if let Some(value) = object.get(key)
                && message.field(key).is_none()
            {
                members.key(key);
                encode_untyped(value, members.out);
            }
        }
        structure(table, message, object, &mut members);
        members.close();
    } else {
        typed(table, ty, value, out);
    }
}

/// The comma-separated members of one object.
struct Members<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Members<'o> {
    fn open(out: &'o mut Vec<u8>) -> Members<'o> {
        out.push(b'{');
        Members { out, first: true }
    }

    fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        write_string(key.as_bytes(), self.out);
        self.out.push(b':');
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

fn structure(table: &Table, message: &Message, object: &Object, members: &mut Members<'_>) {
    for field in &message.fields {
        match &field.ty {
            Type::Message(id) if field.inline => structure(table, table.message(*id), object, members),
            _ if field.name.is_empty() => rest(table, message, field, object, members),
            _ => match object.get(&field.name) {
                Some(value) if table.omits(field, value) => {}
                Some(Value::Null) if !field.pointer => {
                    members.key(&field.name);
                    typed(table, &field.ty, &table.zero(&field.ty), members.out);
                }
                Some(value) => {
                    members.key(&field.name);
                    typed(table, &field.ty, value, members.out);
                }
                None => {
                    if let Some(zero) = table.printed_zero(field) {
                        members.key(&field.name);
                        typed(table, &field.ty, &zero, members.out);
                    }
                }
            },
        }
    }
}

fn rest(table: &Table, message: &Message, field: &Field, object: &Object, members: &mut Members<'_>) {
    for (key, value) in object {
        if table.field(message, key).is_none() {
            members.key(key);
            typed(table, &field.ty, value, members.out);
        }
    }
}

fn typed(table: &Table, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match (ty, value) {
        (Type::Message(id), Value::Object(object)) if table.message(*id).form == Form::Struct => {
            let mut members = Members::open(out);
            structure(table, table.message(*id), object, &mut members);
            members.close();
        }
        (Type::Message(id), _) => match table.message(*id).form {
            form
            @ (Form::JsonSchemaPropsOrBool | Form::JsonSchemaPropsOrArray | Form::JsonSchemaPropsOrStringArray) => {
                let wanted = if matches!(value, Value::List(_)) && form != Form::JsonSchemaPropsOrBool { 1 } else { 0 };
                let message = table.message(*id);
                let field = message.fields.iter().filter(|f| !matches!(f.ty, Type::Scalar(_))).nth(wanted);
                match (value, field) {
                    (Value::Object(_) | Value::List(_), Some(field)) => typed(table, &field.ty, value, out),
                    _ => encode_untyped(value, out),
                }
            }
            _ => encode_untyped(value, out),
        },
        (Type::List { element, .. }, Value::List(list)) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                typed(table, element, item, out);
            }
            out.push(b']');
        }
        (Type::Map { value: ty, .. }, Value::Object(object)) => {
            let mut members = Members::open(out);
            for (key, value) in object {
                members.key(key);
                typed(table, ty, value, members.out);
            }
            members.close();
        }
        (Type::Scalar(Scalar::Float), Value::Float(f)) => write_f32(*f as f32, out),
        _ => encode_untyped(value, out),
    }
}

/// Writes a value as Go prints a `map[string]any`: keys sorted.
pub fn encode_untyped(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(i) => write_i64(*i, out),
        Value::Float(f) => write_f64(*f, out),
        Value::String(s) => write_string(s.as_bytes(), out),
        Value::List(list) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                encode_untyped(item, out);
            }
            out.push(b']');
        }
        Value::Object(object) => {
            let mut members = Members::open(out);
            for (key, value) in object {
                members.key(key);
                encode_untyped(value, members.out);
            }
            members.close();
        }
    }
}

pub(crate) fn write_i64(value: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

/// Go's float format: plain, or with an exponent below 1e-6 and from 1e21.
pub(crate) fn write_f64(value: f64, out: &mut Vec<u8>) {
    let size = value.abs();
    let exponent = size != 0.0 && !(1e-6..1e21).contains(&size);
    write_float(if exponent { format!("{value:e}") } else { format!("{value}") }, out);
}

pub(crate) fn write_f32(value: f32, out: &mut Vec<u8>) {
    let size = value.abs();
    let exponent = size != 0.0 && !(1e-6..1e21).contains(&size);
    write_float(if exponent { format!("{value:e}") } else { format!("{value}") }, out);
}

fn write_float(text: String, out: &mut Vec<u8>) {
    match text.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => {
            out.extend_from_slice(mantissa.as_bytes());
            out.extend_from_slice(b"e+");
            out.extend_from_slice(exponent.as_bytes());
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
}

/// Whether 32 bytes may all stand in a string as they are: ASCII but no controls, quotes, backslashes and `<>&`.
fn all_plain(chunk: &[u8; 32]) -> bool {
    let mut special = 0u8;
    for &b in chunk {
        special |= u8::from(b < 0x20)
            | u8::from(b >= 0x80)
            | u8::from(b & 0xFB == b'"')
            | u8::from(b == b'\\')
            | u8::from(b & 0xFD == b'<');
    }
    special == 0
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES * 0x80;

/// Marks the bytes of a word which are this one. The lowest mark is exact; borrows blur only what is above it.
#[inline]
fn is(word: u64, byte: u8) -> u64 {
    let difference = word ^ (ONES * u64::from(byte));
    difference.wrapping_sub(ONES) & !difference
}

/// How many of eight bytes of a string being read stand before its end, an escape or a control character.
#[inline]
pub(super) fn quoted_bytes(word: [u8; 8]) -> usize {
    let word = u64::from_le_bytes(word);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (((control | is(word, b'"') | is(word, b'\\')) & HIGH).trailing_zeros() / 8) as usize
}

/// How many of eight bytes may stand as they are, before the first that may not.
#[inline]
fn plain_bytes(word: [u8; 8]) -> usize {
    let word = u64::from_le_bytes(word);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = is(word & (ONES * 0xFB), b'"');
    let angles = is(word & (ONES * 0xFD), b'<');
    let special = (word | control | quotes | angles | is(word, b'\\')) & HIGH;
    (special.trailing_zeros() / 8) as usize
}

/// Writes a JSON string with Go's escapes (HTML's among them). Bad UTF-8 becomes `\ufffd`.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut at = 0;
    while at < text.len() {
        while let Some(chunk) = text[at..].first_chunk::<32>()
            && all_plain(chunk)
        {
            out.extend_from_slice(chunk);
            at += 32;
        }
        // Eight at a time, copied first and cut back where something is special: no calls, no second look.
        while let Some(word) = text[at..].first_chunk::<8>() {
            out.extend_from_slice(word);
            let plain = plain_bytes(*word);
            if plain == 8 {
                at += 8;
                continue;
            }
            out.truncate(out.len() - 8 + plain);
            at += plain;
            at += escaped(&text[at..], out);
        }
        let tail = &text[at..];
        let mut word = [b' '; 8];
        if let Some(front) = word.get_mut(..tail.len()) {
            front.copy_from_slice(tail);
            let plain = plain_bytes(word).min(tail.len());
            out.extend_from_slice(&tail[..plain]);
            at += plain;
        }
        if at < text.len() {
            at += escaped(&text[at..], out);
        }
    }
    out.push(b'"');
}

/// Writes the character at the front, escaped if need be; its width.
#[inline]
fn escaped(text: &[u8], out: &mut Vec<u8>) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let b = text[0];
    match b {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        8 => out.extend_from_slice(b"\\b"),
        12 => out.extend_from_slice(b"\\f"),
        0..0x20 | b'<' | b'>' | b'&' => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
        0x20..0x80 => out.push(b),
        _ => {
            let width = utf8_width(text);
            match (width, text) {
                (0, _) => out.extend_from_slice(b"\\ufffd"),
                (3, [0xE2, 0x80, 0xA8, ..]) => out.extend_from_slice(b"\\u2028"),
                (3, [0xE2, 0x80, 0xA9, ..]) => out.extend_from_slice(b"\\u2029"),
                _ => out.extend_from_slice(&text[..width]),
            }
            return width.max(1);
        }
    }
    1
}

/// The length of the character at the front, 0 if it is not UTF-8.
fn utf8_width(text: &[u8]) -> usize {
    let width = match text[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return 0,
    };
    match text.get(..width) {
        Some(c) if std::str::from_utf8(c).is_ok() => width,
        _ => 0,
    }
}
