//! Whether a value is what decoding it would give back: most values that a request's stages have changed still are, and
//! need not be written and read again to be sure.

use base64::Engine;

use crate::{Form, Message, Scalar, Table, Type, Value, quantity};

impl Table {
    /// True only if writing the value and reading it by this type yields the same value without a problem; false may also
    /// mean that this cannot be told at a glance.
    pub(super) fn is_normal(&self, ty: &Type, value: &Value) -> bool {
        self.normal(ty, false, value, true)
    }

    fn normal(&self, ty: &Type, pointer: bool, value: &Value, root: bool) -> bool {
        match (ty, value) {
            (_, Value::Null) => pointer || self.zero(ty).is_null(),
            (Type::Any, _) => is_plain(value),
            (Type::Scalar(scalar), _) => scalar_is_normal(*scalar, value),
            (Type::Message(id), _) => self.message_is_normal(self.message(*id), value, root),
            (Type::List { element, .. }, Value::List(list)) => {
                list.iter().all(|v| self.normal(element, false, v, false))
            }
            (Type::Map { value: ty, .. }, Value::Object(map)) => map.values().all(|v| self.normal(ty, false, v, false)),
            _ => false,
        }
    }

    fn message_is_normal(&self, message: &Message, value: &Value, root: bool) -> bool {
        match (message.form, value) {
            (Form::Struct, Value::Object(members)) => {
                let known = |(key, value): (&crate::Key, &Value)| match self.field(message, key) {
                    Some(field) => {
                        *field.name == **key
                            && !self.omits(field, value)
                            && self.normal(&field.ty, field.pointer, value, false)
                    }
                    None => root && matches!(key.as_str(), "kind" | "apiVersion") && matches!(value, Value::String(_)),
                };
                message.rest().is_none()
                    && message.plan(self).zeros.iter().all(|(name, _)| members.contains_key(name))
                    && members.iter().all(known)
            }
            (Form::Time | Form::MicroTime | Form::Duration, Value::String(text)) => {
                super::typed::parse_time(message.form, text).is_ok_and(|parsed| parsed == *value)
            }
            (Form::Quantity, Value::String(text)) => quantity::canonical(text).is_ok_and(|same| same == *text),
            (Form::IntOrString, Value::String(_)) => true,
            (Form::IntOrString, Value::Int(n)) => i32::try_from(*n).is_ok(),
            (Form::RawExtension | Form::FieldsV1 | Form::Json, _) => is_plain(value),
            (Form::Items, Value::List(list)) => match message.fields.first().map(|f| &f.ty) {
                Some(Type::List { element, .. }) => list.iter().all(|v| self.normal(element, false, v, false)),
                _ => false,
            },
            _ => false,
        }
    }
}

fn scalar_is_normal(scalar: Scalar, value: &Value) -> bool {
    match (scalar, value) {
        (Scalar::Bool, Value::Bool(_)) | (Scalar::String, Value::String(_)) | (Scalar::Int64, Value::Int(_)) => true,
        (Scalar::Int32, Value::Int(n)) => i32::try_from(*n).is_ok(),
        (Scalar::Uint32, Value::Int(n)) => u32::try_from(*n).is_ok(),
        (Scalar::Uint64, Value::Int(n)) => *n >= 0,
        (Scalar::Bytes, Value::String(text)) => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        _ => false,
    }
}

/// Whether an untyped value reads as it is written: a float may come back as an integer.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Float(_) => false,
        Value::List(list) => list.iter().all(is_plain),
        Value::Object(members) => members.values().all(is_plain),
        _ => true,
    }
}
