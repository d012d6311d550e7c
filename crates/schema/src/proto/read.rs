//! Protobuf to values in their normal form.

use base64::Engine;

use super::WireError;
use super::wire::{Cursor, FIXED32, FIXED64, LEN, Payload, VARINT};
use crate::{Field, Form, Message, Object, Scalar, Table, Type, Value, json, quantity, time};

type Result<T> = std::result::Result<T, WireError>;

pub fn message(table: &Table, message: &Message, bytes: &[u8], depth: usize) -> Result<Value> {
    if depth > super::MAX_DEPTH {
        return Err(WireError::TooDeep(super::MAX_DEPTH));
    }
    match message.form {
        Form::Struct => {}
        Form::JsonSchemaPropsOrBool
        | Form::JsonSchemaPropsOrArray
        | Form::JsonSchemaPropsOrStringArray
        | Form::Items => return alternatives(table, message, bytes, depth),
        _ => return formed(message, bytes),
    }
    let mut object = Object::new();
    members(table, message, bytes, depth, &mut object)?;
    table.fill(message, &mut object);
    Ok(Value::Object(object))
}

fn members(table: &Table, owner: &Message, bytes: &[u8], depth: usize, object: &mut Object) -> Result<()> {
    let plan = owner.plan(table);
    let mut cursor = Cursor::new(bytes);
    let mut next = cursor.tag()?;
    while let Some((tag, wire)) = next {
        let payload = cursor.payload(wire)?;
        next = cursor.tag()?;
        let Some(at) = owner.index_of_tag(plan, tag) else { continue };
        let field = &owner.fields[at];
        match &field.ty {
            Type::Message(id) if field.inline => {
                members(table, table.message(*id), payload.bytes, depth + 1, object)?;
            }
            Type::List { element, .. } => {
                let mut list = Vec::new();
                push(table, owner, field, element, payload, depth, &mut list)?;
                // The rest of a repeated field follows at once.
                while let Some((_, wire)) = next.filter(|(t, _)| *t == tag) {
                    push(table, owner, field, element, cursor.payload(wire)?, depth, &mut list)?;
                    next = cursor.tag()?;
                }
                match object.get_mut(&field.name) {
                    Some(Value::List(known)) => known.append(&mut list),
                    _ => drop(object.insert(field.name.clone(), Value::List(list))),
                }
            }
            Type::Map { value, .. } => {
                let (key, value) = entry(table, owner, field, value, payload, depth)?;
                match object.get_mut(&field.name) {
                    Some(Value::Object(map)) => drop(map.insert(key, value)),
                    _ => drop(object.insert(field.name.clone(), Value::object([(key, value)]))),
                }
            }
            ty => {
                let value = single(table, owner, field, ty, payload, depth)?;
                // A named slice that is a field of its own stays nil if nothing is in it.
                let nil = matches!(&value, Value::List(l) if l.is_empty());
                if !nil && !table.omits(field, &value) {
                    object.insert(field.name.clone(), value);
                }
            }
        }
    }
    Ok(())
}

fn push(
    table: &Table,
    owner: &Message,
    field: &Field,
    ty: &Type,
    payload: Payload<'_>,
    depth: usize,
    list: &mut Vec<Value>,
) -> Result<()> {
    if let (LEN, Type::Scalar(scalar)) = (payload.wire, ty)
        && let Some(wire) = packed(*scalar)
    {
        let mut cursor = Cursor::new(payload.bytes);
        while cursor.at < payload.bytes.len() {
            list.push(single(table, owner, field, ty, cursor.payload(wire)?, depth)?);
        }
        return Ok(());
    }
    list.push(single(table, owner, field, ty, payload, depth)?);
    Ok(())
}

/// The wire type of a scalar's elements when they stand packed in one field.
pub fn packed(scalar: Scalar) -> Option<u8> {
    match scalar {
        Scalar::String | Scalar::Bytes => None,
        Scalar::Float => Some(FIXED32),
        Scalar::Double => Some(FIXED64),
        _ => Some(VARINT),
    }
}

/// Bad UTF-8 becomes U+FFFD, as in JSON.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn entry(
    table: &Table,
    owner: &Message,
    field: &Field,
    ty: &Type,
    payload: Payload<'_>,
    depth: usize,
) -> Result<(String, Value)> {
    let mut cursor = Cursor::new(payload.bytes);
    let (mut key, mut value) = (String::new(), None);
    while let Some((tag, wire)) = cursor.tag()? {
        let payload = cursor.payload(wire)?;
        match tag {
            1 => key = text(payload.bytes),
            2 => value = Some(single(table, owner, field, ty, payload, depth)?),
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| table.zero(ty))))
}

/// One value. What nests and what does not are kept apart, so that the stack of a deep message stays small.
fn single(
    table: &Table,
    owner: &Message,
    field: &Field,
    ty: &Type,
    payload: Payload<'_>,
    depth: usize,
) -> Result<Value> {
    match (ty, payload.wire) {
        (Type::Message(id), LEN) => message(table, table.message(*id), payload.bytes, depth + 1),
        _ => scalar(owner, field, ty, payload),
    }
}

fn scalar(owner: &Message, field: &Field, ty: &Type, payload: Payload<'_>) -> Result<Value> {
    let Payload { wire, int, bytes } = payload;
    Ok(match (ty, wire) {
        (Type::Scalar(Scalar::String), LEN) => Value::String(text(bytes)),
        (Type::Scalar(Scalar::Bytes), LEN) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        (Type::Scalar(Scalar::Bool), VARINT) => Value::Bool(int != 0),
        (Type::Scalar(Scalar::Int32), VARINT) => Value::Int((int as i32).into()),
        (Type::Scalar(Scalar::Uint32), VARINT) => Value::Int((int as u32).into()),
        (Type::Scalar(Scalar::Int64 | Scalar::Uint64), VARINT) => Value::Int(int as i64),
        (Type::Scalar(Scalar::Float), FIXED32) => Value::Float(f32::from_bits(int as u32).into()),
        (Type::Scalar(Scalar::Double), FIXED64) => Value::Float(f64::from_bits(int)),
        _ => return Err(WireError::WireType { message: owner.name.to_string(), field: field.tag, wire }),
    })
}

/// The first payload of a field number, for the small messages with a form of their own.
pub fn find<'a>(bytes: &'a [u8], wanted: u32) -> Result<Option<Payload<'a>>> {
    let mut cursor = Cursor::new(bytes);
    let mut found = None;
    while let Some((tag, wire)) = cursor.tag()? {
        let payload = cursor.payload(wire)?;
        if tag == wanted {
            found = Some(payload);
        }
    }
    Ok(found)
}

/// A type whose JSON is whichever of its fields is there.
fn alternatives(table: &Table, message: &Message, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut object = Object::new();
    members(table, message, bytes, depth, &mut object)?;
    let mut take = |wanted: fn(&Type) -> bool| {
        let field = message.fields.iter().find(|f| wanted(&f.ty));
        field.and_then(|f| object.remove(&f.name))
    };
    let list = take(|ty| matches!(ty, Type::List { .. }));
    let found =
        list.or_else(|| take(|ty| matches!(ty, Type::Message(_)))).or_else(|| take(|ty| matches!(ty, Type::Scalar(_))));
    Ok(match (found, message.form) {
        (Some(value), _) => value,
        (None, Form::Items) => Value::List(Vec::new()),
        (None, Form::JsonSchemaPropsOrBool) => Value::Bool(false),
        _ => Value::Null,
    })
}

/// The types with an encoding of their own in which nothing nests.
fn formed(message: &Message, bytes: &[u8]) -> Result<Value> {
    let int = |tag| Ok::<_, WireError>(find(bytes, tag)?.map_or(0, |p| p.int));
    Ok(match message.form {
        Form::Struct => Value::Null,
        Form::Time | Form::MicroTime => {
            let seconds = int(1)? as i64;
            match message.form {
                _ if bytes.is_empty() || seconds == time::ZERO => Value::Null,
                Form::Time => Value::String(time::format(seconds)),
                _ => Value::String(time::format_micro(seconds, int(2)? as u32 % 1_000_000_000)),
            }
        }
        Form::Duration => Value::String(time::format_duration(int(1)? as i64)),
        Form::Quantity => {
            let text = String::from_utf8_lossy(find(bytes, 1)?.map_or(b"0", |p| p.bytes));
            match quantity::canonical(&text) {
                Ok(canonical) => Value::String(canonical.into_owned()),
                Err(_) => {
                    return Err(WireError::Text { message: message.name.to_string(), text: text.into_owned() });
                }
            }
        }
        Form::IntOrString => match int(1)? {
            1 => Value::String(String::from_utf8_lossy(find(bytes, 3)?.map_or(b"", |p| p.bytes)).into_owned()),
            _ => Value::Int((int(2)? as i32).into()),
        },
        Form::RawExtension | Form::FieldsV1 | Form::Json => match find(bytes, 1)? {
            Some(raw) if !raw.bytes.is_empty() => {
                json::parse(raw.bytes).map_err(|_| WireError::Json { message: message.name.to_string() })?
            }
            _ => Value::Null,
        },
        Form::JsonSchemaPropsOrBool
        | Form::JsonSchemaPropsOrArray
        | Form::JsonSchemaPropsOrStringArray
        | Form::Items => Value::Null,
    })
}
