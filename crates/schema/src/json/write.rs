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
            _ => match object.get(&*field.name) {
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
            form @ (Form::JsonSchemaPropsOrBool | Form::JsonSchemaPropsOrArray | Form::JsonSchemaPropsOrStringArray) => {
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

/// Bytes which a string may hold unescaped, 32 at a time: everything ASCII but controls, quotes and `<>&`.
fn all_plain(chunk: &[u8; 32]) -> bool {
    let mut special = 0u8;
    for &b in chunk {
        special |= u8::from(b < 0x20)
            | u8::from(b >= 0x80)
            | u8::from(b == b'"')
            | u8::from(b == b'\\')
            | u8::from(b == b'<')
            | u8::from(b == b'>')
            | u8::from(b == b'&');
    }
    special == 0
}

const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut b = 0x20;
    while b < 0x80 {
        plain[b] = !matches!(b as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        b += 1;
    }
    plain
};

/// Writes a JSON string with Go's escapes (HTML's among them). Bad UTF-8 becomes `\ufffd`.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let (mut start, mut at) = (0, 0);
    loop {
        while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<32>)
            && all_plain(chunk)
        {
            at += 32;
        }
        while at < text.len() && PLAIN[usize::from(text[at])] {
            at += 1;
        }
        let Some(&b) = text.get(at) else { break };
        if b >= 0x80 {
            let width = utf8_width(&text[at..]);
            match width {
                3 if text[at..].starts_with(&[0xE2, 0x80]) && matches!(text[at + 2], 0xA8 | 0xA9) => {
                    out.extend_from_slice(&text[start..at]);
                    out.extend_from_slice(if text[at + 2] == 0xA8 { b"\\u2028" } else { b"\\u2029" });
                    start = at + 3;
                }
                0 => {
                    out.extend_from_slice(&text[start..at]);
                    out.extend_from_slice(b"\\ufffd");
                    start = at + 1;
                }
                _ => {}
            }
            at += width.max(1);
            continue;
        }
        out.extend_from_slice(&text[start..at]);
        let short = match b {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            8 => b'b',
            12 => b'f',
            _ => 0,
        };
        if short != 0 {
            out.extend_from_slice(&[b'\\', short]);
        } else {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
        at += 1;
        start = at;
    }
    out.extend_from_slice(&text[start..]);
    out.push(b'"');
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
