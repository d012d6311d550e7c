//! Defaults of built-in kinds: those that the API's markers declare, and the overlay's presets.

use crate::quantity::Quantity;
use crate::{Form, Message, MessageId, Object, Table, Type, Value};

/// Sets every declared default which is absent (or zero, where Go cannot tell), in everything that is present.
pub fn apply(table: &Table, id: MessageId, value: &mut Value) {
    walk(table, &Type::Message(id), value);
}

fn walk(table: &Table, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Message(id), Value::Object(object)) if table.message(*id).form == Form::Struct => {
            structure(table, table.message(*id), object);
        }
        (Type::List { element, .. }, Value::List(list)) => {
            for item in list {
                walk(table, element, item);
            }
        }
        (Type::Map { value: ty, .. }, Value::Object(object)) => {
            let amounts = matches!(&**ty, Type::Message(id) if table.message(*id).form == Form::Quantity);
            for item in object.values_mut() {
                if amounts {
                    round_up(item);
                }
                walk(table, ty, item);
            }
        }
        _ => {}
    }
}

/// A ResourceList has nothing finer than a thousandth.
fn round_up(amount: &mut Value) {
    let Some(Ok(quantity)) = amount.as_str().map(Quantity::parse) else { return };
    if quantity.nanos % 1_000_000 != 0 {
        *amount = Value::String(Quantity::from_milli(quantity.milli_value(), quantity.format).to_string());
    }
}

fn structure(table: &Table, message: &Message, object: &mut Object) {
    message.preset(object);
    for field in &message.fields {
        if let Type::Message(id) = &field.ty
            && field.inline
        {
            structure(table, table.message(*id), object);
            continue;
        }
        let known = object.get_mut(&field.name);
        let unset = known.as_ref().is_none_or(|v| v.is_null() || !field.pointer && v.is_empty());
        match (&field.default, known) {
            // Go cannot tell a zero default from nothing, nor does it print it.
            (Some(default), _) if unset && !table.omits(field, default) => {
                let mut value = default.clone();
                walk(table, &field.ty, &mut value);
                object.insert(field.name.clone(), value);
            }
            (_, Some(value)) if !value.is_null() => walk(table, &field.ty, value),
            // A plain struct is always there in Go, and so are its defaults.
            _ if !field.pointer && table.is_struct(&field.ty) => {
                let mut value = Value::Object(Object::new());
                walk(table, &field.ty, &mut value);
                if !value.is_empty() {
                    object.insert(field.name.clone(), value);
                }
            }
            _ => {}
        }
    }
}
