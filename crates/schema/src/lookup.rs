//! How the readers of a [`Table`] find things in it, and what stands where nothing was given.

use crate::{Field, Form, Message, MessageId, Object, Scalar, Table, Type, Value};

impl Table {
    /// The message of an id of this table.
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    /// A field by its JSON name, seen through inlined structs.
    pub fn field<'t>(&'t self, message: &'t Message, name: &str) -> Option<&'t Field> {
        message.field(name).or_else(|| self.inlined(message).find_map(|(_, inner)| self.field(inner, name)))
    }

    /// The structs which are inlined into this one.
    pub fn inlined<'t>(&'t self, message: &'t Message) -> impl Iterator<Item = (&'t Field, &'t Message)> {
        message.fields.iter().filter(|f| f.inline).filter_map(|f| match &f.ty {
            Type::Message(id) => Some((f, self.message(*id))),
            _ => None,
        })
    }

    /// Calls `visit` for each JSON member a message can have, inlined ones included, in Go's order.
    pub fn each_field<'t>(&'t self, message: &'t Message, visit: &mut dyn FnMut(&'t Field)) {
        for field in &message.fields {
            match &field.ty {
                Type::Message(id) if field.inline => self.each_field(self.message(*id), visit),
                _ => visit(field),
            }
        }
    }

    /// What Go's zero value of a plain (not pointer) field prints as.
    pub fn zero(&self, ty: &Type) -> Value {
        match ty {
            Type::Scalar(Scalar::Bool) => Value::Bool(false),
            Type::Scalar(Scalar::Float | Scalar::Double) => Value::Float(0.0),
            Type::Scalar(Scalar::String) => Value::String(String::new()),
            Type::Scalar(Scalar::Bytes) | Type::List { .. } | Type::Map { .. } | Type::Any => Value::Null,
            Type::Scalar(_) => Value::Int(0),
            Type::Message(id) => {
                let message = self.message(*id);
                match message.form {
                    Form::Struct => {
                        let mut object = Object::new();
                        self.fill(message, &mut object);
                        Value::Object(object)
                    }
                    Form::Duration => Value::String("0s".into()),
                    Form::Quantity => Value::String("0".into()),
                    Form::IntOrString => Value::Int(0),
                    Form::JsonSchemaPropsOrBool => Value::Bool(false),
                    _ => Value::Null,
                }
            }
        }
    }

    /// Adds the zero values which Go would print for absent fields.
    pub(crate) fn fill(&self, message: &Message, object: &mut Object) {
        for (name, zero) in &message.plan(self).zeros {
            if !object.contains_key(name) {
                object.insert(name.clone(), zero.clone());
            }
        }
    }

    /// What an absent field prints as, if it is printed at all.
    pub(crate) fn printed_zero(&self, field: &Field) -> Option<Value> {
        if field.name.is_empty() || field.omitzero {
            return None;
        }
        if field.pointer {
            return (!field.omitempty).then_some(Value::Null);
        }
        match &field.ty {
            Type::Message(id) if self.message(*id).form != Form::Items => Some(self.zero(&field.ty)),
            _ if field.omitempty => None,
            ty => Some(self.zero(ty)),
        }
    }

    /// Whether Go leaves this value of this field out.
    pub(crate) fn omits(&self, field: &Field, value: &Value) -> bool {
        if field.pointer {
            return (field.omitempty || field.omitzero) && value.is_null();
        }
        match &field.ty {
            Type::Message(id) if self.message(*id).form != Form::Items => {
                field.omitzero && (value.is_null() || *value == self.zero(&field.ty))
            }
            _ => (field.omitempty || field.omitzero) && value.is_empty(),
        }
    }

    /// Go's name of a type, as its decoding errors print it.
    pub(crate) fn go_type(&self, ty: &Type) -> String {
        match ty {
            Type::Scalar(scalar) => match scalar {
                Scalar::Bool => "bool",
                Scalar::Int32 => "int32",
                Scalar::Int64 => "int64",
                Scalar::Uint32 => "uint32",
                Scalar::Uint64 => "uint64",
                Scalar::Float => "float32",
                Scalar::Double => "float64",
                Scalar::String => "string",
                Scalar::Bytes => "[]uint8",
            }
            .to_owned(),
            Type::Message(id) => self.message(*id).go_name(),
            Type::List { element, .. } => format!("[]{}", self.go_type(element)),
            Type::Map { value, .. } => format!("map[string]{}", self.go_type(value)),
            Type::Any => "interface {}".to_owned(),
        }
    }
}

impl Message {
    /// A field by its JSON name, inlined structs not searched.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|at| &self.fields[at]).filter(|f| !f.inline)
    }

    /// The field that holds every member without a field of its own: a custom resource's
    /// `x-kubernetes-preserve-unknown-fields` or `additionalProperties` beside `properties`.
    pub fn rest(&self) -> Option<&Field> {
        self.fields.last().filter(|f| f.name.is_empty() && !f.inline)
    }

    /// `PodSpec`
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.PodSpec`
    pub(crate) fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let name = parts.next().unwrap_or_default();
        match parts.next() {
            Some(package) => format!("{package}.{name}"),
            None => name.to_owned(),
        }
    }
}
