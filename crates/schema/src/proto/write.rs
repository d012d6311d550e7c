//! Values to protobuf, byte for byte as gogo's generated marshallers.

use base64::Engine;

use super::wire::{FIXED32, FIXED64, VARINT, write_bytes, write_nested, write_tag, write_varint};
use crate::{Field, Form, Message, Object, Scalar, Table, Type, Value, json, time};

static EMPTY: Object = Object::new();

pub fn message(table: &Table, message: &Message, value: &Value, out: &mut Vec<u8>) {
    match message.form {
        Form::Struct => structure(table, message, value.as_object().unwrap_or(&EMPTY), out),
        Form::Time | Form::MicroTime => {
            if let Some((seconds, nanos)) = value.as_str().and_then(time::parse) {
                let nanos = if message.form == Form::MicroTime { nanos / 1000 * 1000 } else { 0 };
                varint(1, seconds as u64, out);
                varint(2, nanos.into(), out);
            }
        }
        Form::Duration => varint(1, value.as_str().and_then(time::parse_duration).unwrap_or(0) as u64, out),
        Form::Quantity => match value {
            Value::String(text) => write_bytes(1, text.as_bytes(), out),
            Value::Int(n) => write_bytes(1, n.to_string().as_bytes(), out),
            _ => write_bytes(1, b"0", out),
        },
        Form::IntOrString => {
            let (kind, int, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                _ => (0, value.as_i64().unwrap_or(0), ""),
            };
            varint(1, kind, out);
            varint(2, int as u64, out);
            write_bytes(3, text.as_bytes(), out);
        }
        Form::RawExtension | Form::FieldsV1 | Form::Json => {
            if !value.is_null() {
                write_nested(1, out, |out| json::encode_untyped(value, out));
            }
        }
        Form::JsonSchemaPropsOrBool => {
            let schema = matches!(value, Value::Object(_));
            for f in by_tag(table, message) {
                match &f.ty {
                    Type::Scalar(_) => varint(f.tag, u64::from(schema || *value == Value::Bool(true)), out),
                    ty if schema => element(table, f.tag, ty, value, out),
                    _ => {}
                }
            }
        }
        Form::JsonSchemaPropsOrArray | Form::JsonSchemaPropsOrStringArray => {
            for f in by_tag(table, message) {
                match (&f.ty, value) {
                    (Type::List { .. }, Value::List(_)) => field(table, f, Some(value), out),
                    (Type::Message(_), Value::Object(_)) => element(table, f.tag, &f.ty, value, out),
                    _ => {}
                }
            }
        }
        Form::Items => {
            if let Some(f) = message.fields.first() {
                field(table, f, Some(value), out);
            }
        }
    }
}

fn varint(tag: u32, value: u64, out: &mut Vec<u8>) {
    write_tag(tag, VARINT, out);
    write_varint(value, out);
}

/// The fields that protobuf has, in the order of their numbers.
fn by_tag<'t>(table: &Table, message: &'t Message) -> impl Iterator<Item = &'t Field> {
    message.plan(table).wire_order.iter().map(|at| &message.fields[usize::from(*at)])
}

fn structure(table: &Table, message: &Message, object: &Object, out: &mut Vec<u8>) {
    for f in by_tag(table, message) {
        member(table, f, object, out);
    }
}

fn member(table: &Table, f: &Field, object: &Object, out: &mut Vec<u8>) {
    match &f.ty {
        Type::Message(id) if f.inline => {
            write_nested(f.tag, out, |out| structure(table, table.message(*id), object, out));
        }
        _ => field(table, f, object.get(&f.name).filter(|v| !v.is_null()), out),
    }
}

fn field(table: &Table, f: &Field, value: Option<&Value>, out: &mut Vec<u8>) {
    match (&f.ty, value) {
        (Type::List { element: ty, .. }, Some(Value::List(list))) => {
            for item in list {
                element(table, f.tag, ty, item, out);
            }
        }
        (Type::Map { value: ty, .. }, Some(Value::Object(object))) => {
            for (key, value) in object {
                write_nested(f.tag, out, |out| {
                    write_bytes(1, key.as_bytes(), out);
                    if !(value.is_null() && matches!(**ty, Type::Scalar(Scalar::Bytes))) {
                        element(table, 2, ty, value, out);
                    }
                });
            }
        }
        (Type::List { .. } | Type::Map { .. } | Type::Any, _) | (Type::Scalar(Scalar::Bytes), None) => {}
        (_, None) if f.pointer => {}
        (ty, value) => element(table, f.tag, ty, value.unwrap_or(&Value::Null), out),
    }
}

/// One value with its tag; null is the type's zero.
fn element(table: &Table, tag: u32, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match ty {
        Type::Message(id) => write_nested(tag, out, |out| message(table, table.message(*id), value, out)),
        Type::Scalar(scalar) => match scalar {
            Scalar::String => write_bytes(tag, value.as_str().unwrap_or("").as_bytes(), out),
            Scalar::Bytes => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap_or(""));
                write_bytes(tag, &decoded.unwrap_or_default(), out);
            }
            Scalar::Bool => varint(tag, value.as_bool().unwrap_or(false).into(), out),
            Scalar::Float => {
                write_tag(tag, FIXED32, out);
                out.extend_from_slice(&(value.as_f64().unwrap_or(0.0) as f32).to_le_bytes());
            }
            Scalar::Double => {
                write_tag(tag, FIXED64, out);
                out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            }
            Scalar::Int32 | Scalar::Int64 | Scalar::Uint32 | Scalar::Uint64 => {
                varint(tag, value.as_i64().unwrap_or(0) as u64, out);
            }
        },
        Type::List { .. } | Type::Map { .. } | Type::Any => {}
    }
}
