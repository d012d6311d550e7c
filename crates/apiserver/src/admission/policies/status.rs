//! A ValidatingAdmissionPolicy's status: whether its expressions fit the types that it is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use schema::{Form, MapKind, MessageId, Scalar, Table, Value};

use super::{Expressions, kind_of};
use crate::admission::matching::GROUP;
use crate::call::Call;
use crate::cel::{Program, Type, types};
use crate::kind::{Kind, Registry};
use crate::options::WriteOptions;
use crate::status::Result;
use crate::write::{Part, Produced, Update};
use crate::{Server, User, meta};

const PLURAL: &str = "validatingadmissionpolicies";
/// The most types that a policy is checked against.
const TYPES_MAX: usize = 10;
/// What is told of one expression with one type.
const WARNING_CHARS_MAX: usize = 4096;
/// Messages in each other are known to this depth; deeper they may be anything.
const DEPTH_MAX: usize = 16;

/// Follows the policies and tells in their status what their expressions get wrong. That never changes what a policy
/// does.
pub async fn follow(server: Server) {
    let Some(storage) = server.storage(GROUP, PLURAL) else { return };
    let mut changed = storage.subscribe();
    loop {
        changed.mark_unchanged();
        for policy in server.read_all(GROUP, PLURAL, "") {
            if policy.i64_at(&["status", "observedGeneration"]) == Some(meta::generation(&policy)) {
                continue;
            }
            if let Err(status) = tell(&server, &policy).await {
                let name = policy.str_at(&["metadata", "name"]);
                tracing::warn!(name, message = %status.message, "policy's status");
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn tell(server: &Server, policy: &Value) -> Result<()> {
    let registry = server.registry();
    let Some(kind) = registry.preferred(GROUP, PLURAL).cloned() else { return Ok(()) };
    let name = policy.str_at(&["metadata", "name"]);
    let generation = meta::generation(policy);
    let warnings = warnings(policy, &registry);
    let user =
        User::new("system:serviceaccount:kube-system:validatingadmissionpolicy-status-controller", &["system:masters"]);
    let mut call = Call::internal(server, user, kind.clone(), "", name);
    let update = Update {
        kind,
        namespace: String::new(),
        name: name.into(),
        part: Part::Status,
        subresource: "status",
        replaces: false,
        options: WriteOptions { field_manager: "validatingadmissionpolicy-status".into(), ..WriteOptions::default() },
        may_create: false,
        admission: false,
        versions: crate::versions::Versions::default(),
    };
    let produce = |old: Option<&Value>| {
        let mut object = old.cloned().unwrap_or_default();
        // Who has changed it since makes us look again.
        if meta::generation(&object) != generation {
            return Ok(None);
        }
        object.set(&["status", "observedGeneration"], generation);
        object.set(&["status", "typeChecking"], Value::object::<&str>([]));
        if !warnings.is_empty() {
            object.set(&["status", "typeChecking", "expressionWarnings"], Value::List(warnings.clone()));
        }
        Ok(Some(Produced::new(object)))
    };
    match call.update(&update, &produce).await {
        Err(status) if status.is_not_found() => Ok(()),
        result => result.map(|_| ()),
    }
}

/// `status.typeChecking.expressionWarnings`.
fn warnings(policy: &Value, registry: &Registry) -> Vec<Value> {
    let spec = &policy["spec"];
    let params = kind_of(registry, &spec["paramKind"]).map_or(Type::Dyn, |kind| declared(kind));
    let checked: Vec<(String, Expressions)> = kinds(&spec["matchConstraints"], registry)
        .into_iter()
        .map(|kind| {
            let resource = &kind.resource;
            let name = format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind);
            (name, Expressions::new(spec, declared(kind), params.clone()))
        })
        .collect();
    let mut out = Vec::new();
    for (at, validation) in spec.list_at(&["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = validation.str_at(&[field]);
            if text.is_empty() {
                continue;
            }
            let wrong: Vec<String> = checked
                .iter()
                .filter_map(|(name, expressions)| {
                    let why = Program::compile_to(text, &expressions.env, &[]).err()?;
                    Some(format!("{name}: {}\n", why.chars().take(WARNING_CHARS_MAX).collect::<String>()))
                })
                .collect();
            if !wrong.is_empty() {
                out.push(Value::object([
                    ("fieldRef", format!("spec.validations[{at}].{field}").into()),
                    ("warning", wrong.join("\n").into()),
                ]));
            }
        }
    }
    out
}

/// The kinds that rules name; a wildcard names none.
fn kinds<'r>(constraints: &Value, registry: &'r Registry) -> Vec<&'r Arc<Kind>> {
    let strings = |value: &Value, field: &str| -> Vec<String> {
        let list = value[field].texts();
        if list.iter().any(|text| text.contains('*')) { Vec::new() } else { list }
    };
    let mut out: BTreeMap<(String, String, String), &Arc<Kind>> = BTreeMap::new();
    for rule in constraints.list_at(&["resourceRules"]) {
        let (versions, resources) = (strings(rule, "apiVersions"), strings(rule, "resources"));
        for group in strings(rule, "apiGroups") {
            for version in &versions {
                for resource in resources.iter().filter(|r| !r.contains('/')) {
                    if let Some(kind) = registry.get(&group, version, resource) {
                        out.insert((group.clone(), version.clone(), kind.kind().to_owned()), kind);
                    }
                }
            }
        }
    }
    out.into_values().take(TYPES_MAX).collect()
}

/// A kind as CEL sees it: what is in no schema is an undefined field.
fn declared(kind: &Kind) -> Type {
    Types { table: kind.table(), name: kind.kind(), open: Vec::new() }.message(kind.message())
}

struct Types<'t> {
    table: &'t Table,
    name: &'t str,
    /// The messages around the current one.
    open: Vec<MessageId>,
}

impl Types<'_> {
    fn message(&mut self, id: MessageId) -> Type {
        let message = self.table.message(id);
        match message.form {
            Form::Struct => {}
            Form::Time | Form::MicroTime => return Type::Timestamp,
            Form::Duration => return Type::Duration,
            Form::Quantity | Form::IntOrString => return Type::Dyn,
            Form::Items => return Type::list(Type::String),
            _ => return Type::Dyn,
        }
        // The last field, without a name, is for all that are not declared: then it is a map or anything.
        if message.fields.iter().any(|f| f.name.is_empty()) || self.open.contains(&id) || self.open.len() > DEPTH_MAX {
            return Type::Dyn;
        }
        self.open.push(id);
        let mut fields = BTreeMap::new();
        for field in &message.fields {
            let ty = self.ty(&field.ty);
            if let Some(name) = types::escape(&field.name) {
                fields.insert(name, types::Field { name: field.name.to_string(), ty });
            }
        }
        self.open.pop();
        Type::Object(Arc::new(types::ObjectType { name: format!("{}.{}", self.name, message.name), fields }))
    }

    fn ty(&mut self, ty: &schema::Type) -> Type {
        match ty {
            schema::Type::Scalar(Scalar::Bool) => Type::Bool,
            schema::Type::Scalar(Scalar::Float | Scalar::Double) => Type::Double,
            schema::Type::Scalar(Scalar::String) => Type::String,
            schema::Type::Scalar(Scalar::Bytes) => Type::Bytes,
            schema::Type::Scalar(_) => Type::Int,
            schema::Type::Message(id) => self.message(*id),
            schema::Type::List { element, .. } => Type::list(self.ty(element)),
            schema::Type::Map { value, kind: MapKind::Granular | MapKind::Atomic } => {
                Type::map(Type::String, self.ty(value))
            }
            schema::Type::Any => Type::Dyn,
        }
    }
}
