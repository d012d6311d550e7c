//! A structural schema as a [`Table`], so that apply and the rest serve custom resources like any kind.

use super::node::{Additional, Kind, ListType, Node};
use super::{META_FIELDS, join};
use crate::{Field, Form, ListKind, MapKind, Message, MessageId, PatchStrategy, Scalar, Table, Type, Value};

pub fn build(node: &Node) -> (Table, MessageId) {
    let mut builder = Builder { messages: Vec::new() };
    let metadata = builder.metadata();
    let root = builder.object(node, "", metadata);
    (Table::new(builder.messages, Vec::new()), root)
}

struct Builder {
    messages: Vec<Message>,
}

/// A custom resource's field: absent is absent, so it is a pointer to the table's readers.
fn field(name: &str, ty: Type, default: Option<Value>) -> Field {
    Field {
        name: name.into(),
        tag: 0,
        ty,
        pointer: true,
        omitempty: true,
        omitzero: false,
        inline: false,
        required: false,
        default,
        enumeration: Vec::new(),
        patch: PatchStrategy::default(),
    }
}

impl Builder {
    fn add(&mut self, message: Message) -> MessageId {
        self.messages.push(message);
        MessageId(self.messages.len() as u32 - 1)
    }

    /// ObjectMeta and what it is made of, as they are built in, without protobuf.
    fn metadata(&mut self) -> Option<Type> {
        let id = Table::builtin().id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")?;
        Some(self.copy(&Type::Message(id)))
    }

    fn copy(&mut self, ty: &Type) -> Type {
        match ty {
            Type::Message(id) => {
                let message = Table::builtin().message(*id);
                if let Some(known) = self.messages.iter().position(|m| m.name == message.name) {
                    return Type::Message(MessageId(known as u32));
                }
                let fields = message.fields.iter().map(|f| field(&f.name, self.copy(&f.ty), None)).collect();
                let copy = Message::new(message.name.clone(), message.form, fields).with_atomic(message.atomic);
                Type::Message(self.add(copy))
            }
            Type::List { element, kind } => Type::List { element: Box::new(self.copy(element)), kind: kind.clone() },
            Type::Map { value, kind } => Type::Map { value: Box::new(self.copy(value)), kind: *kind },
            other => other.clone(),
        }
    }

    fn object(&mut self, node: &Node, path: &str, metadata: Option<Type>) -> MessageId {
        let mut fields = Vec::new();
        if node.embedded {
            fields.push(field("apiVersion", Type::Scalar(Scalar::String), None));
            fields.push(field("kind", Type::Scalar(Scalar::String), None));
            let metadata = metadata.unwrap_or(Type::Any);
            fields.push(field("metadata", metadata, None));
        }
        for (name, inner) in &node.properties {
            if !(node.embedded && META_FIELDS.contains(&name.as_str())) {
                let ty = self.ty(inner, &join(path, name));
                fields.push(field(name, ty, inner.default.clone()));
            }
        }
        let rest = match &node.additional {
            Additional::Of(inner) => Some(self.ty(inner, &format!("{path}[*]"))),
            Additional::Any => Some(Type::Any),
            Additional::No => node.preserve.then_some(Type::Any),
        };
        if let Some(ty) = rest {
            // The last field, without a name, is for all others.
            fields.push(field("", ty, None));
        }
        self.add(Message::new(format!("custom.{path}"), Form::Struct, fields).with_atomic(node.atomic_map))
    }

    fn ty(&mut self, node: &Node, path: &str) -> Type {
        if node.int_or_string {
            return Type::Any;
        }
        match node.kind {
            None => Type::Any,
            Some(Kind::String) => Type::Scalar(Scalar::String),
            Some(Kind::Boolean) => Type::Scalar(Scalar::Bool),
            Some(Kind::Integer) => Type::Scalar(Scalar::Int64),
            Some(Kind::Number) => Type::Scalar(Scalar::Double),
            Some(Kind::Array) => {
                let element = node.items.as_ref().map_or(Type::Any, |items| self.ty(items, &format!("{path}[*]")));
                let kind = match &node.list_type {
                    ListType::Atomic => ListKind::Atomic,
                    ListType::Set => ListKind::Set,
                    ListType::Map(keys) => ListKind::Map { keys: keys.iter().map(|k| k.as_str().into()).collect() },
                };
                Type::List { element: Box::new(element), kind }
            }
            Some(Kind::Object) => {
                let kind = if node.atomic_map { MapKind::Atomic } else { MapKind::Granular };
                let alone = node.properties.is_empty() && !node.embedded;
                match &node.additional {
                    Additional::Of(inner) if alone => {
                        Type::Map { value: Box::new(self.ty(inner, &format!("{path}[*]"))), kind }
                    }
                    Additional::Any if alone => Type::Map { value: Box::new(Type::Any), kind },
                    Additional::No if alone && node.preserve && !node.atomic_map => Type::Any,
                    _ => {
                        let metadata = if node.embedded { self.metadata() } else { None };
                        Type::Message(self.object(node, path, metadata))
                    }
                }
            }
        }
    }
}
