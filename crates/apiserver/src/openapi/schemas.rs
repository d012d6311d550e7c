//! Schemas of messages and of custom resources.

use std::collections::BTreeSet;

use schema::{Field, Form, ListKind, MapKind, MessageId, Object, Scalar, Type, Value};

use super::Dialect;
use crate::encode::message_of;
use crate::kind::{Kind, builtin};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// What is said of the fields that every object has; clients look for the beginnings.
const COMMON: [(&str, &str); 3] = [
    ("apiVersion", "APIVersion defines in which group and version of the API the object is written."),
    ("kind", "Kind is a string value that names the type of the object, in CamelCase; it never changes."),
    ("metadata", "Standard object's metadata."),
];
const OBJECT_META: [(&str, &str); 15] = [
    ("annotations", "Annotations is a map for tools and libraries to keep any data in; nothing selects by it."),
    (
        "creationTimestamp",
        "CreationTimestamp is a timestamp of the server, in UTC: when the object was created. Read-only.",
    ),
    (
        "deletionGracePeriodSeconds",
        "Number of seconds that the object may still take to end once it is being deleted. Read-only.",
    ),
    (
        "deletionTimestamp",
        "DeletionTimestamp is RFC 3339 date and time by which the object will be gone; set while it is being deleted. Read-only.",
    ),
    (
        "finalizers",
        "Must be empty before the object is removed from the registry; each entry is somebody's who still has to clean up.",
    ),
    ("generateName", "GenerateName is a prefix that the server completes to a unique name if no name is given."),
    ("generation", "A sequence number of the desired state; it grows with every change of it. Read-only."),
    ("labels", "Map of string keys and values by which objects are organized and selected."),
    (
        "managedFields",
        "ManagedFields says which client set which fields; the server keeps it, for conflicts between appliers.",
    ),
    ("name", "Name must be unique within a namespace, and never changes."),
    ("namespace", "Namespace defines the space within which the name must be unique. Not all objects have one."),
    ("ownerReferences", "List of objects on which this one depends; when all of them are gone, it is collected."),
    (
        "resourceVersion",
        "An opaque value for this state of the object: for watches and for updates that must not overwrite others'. Read-only.",
    ),
    ("selfLink", "Deprecated: selfLink is a legacy field which the server no longer sets."),
    (
        "uid",
        "UID is the unique in time and space value for this object, which tells it from others of its name. Read-only.",
    ),
];

fn said_of(list: &[(&str, &'static str)], field: &str) -> Option<&'static str> {
    list.iter().find(|(name, _)| *name == field).map(|(_, text)| *text)
}

/// Schemas by name, with all that they refer to.
pub struct Schemas {
    dialect: Dialect,
    /// Of the last kind: all that every group has is of each.
    group_version: (String, String),
    done: BTreeSet<u32>,
    waiting: Vec<MessageId>,
    out: Object,
}

/// The name of a custom resource's schema: `com.example.v1.Foo`.
pub fn custom_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// The name of a kind's schema.
pub fn name_of(kind: &Kind) -> String {
    let r = &kind.resource;
    match &kind.custom {
        Some(_) => custom_name(&r.group, &r.version, &r.kind),
        None => builtin().messages.get(r.message.0 as usize).map_or(String::new(), |m| m.name.to_string()),
    }
}

/// The name of the schema of any other type.
pub fn name_of_type(api_version: &str, kind: &str) -> Option<String> {
    let id = message_of(api_version, kind)?;
    builtin().messages.get(id.0 as usize).map(|m| m.name.to_string())
}

/// What a client is connected by, whose paths are not told.
pub fn is_streaming(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward" | "proxy" | "log")
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    Value::object([("group", group.into()), ("kind", kind.into()), ("version", version.into())])
}

impl Schemas {
    pub fn new(dialect: Dialect) -> Self {
        Schemas {
            dialect,
            group_version: Default::default(),
            done: BTreeSet::new(),
            waiting: Vec::new(),
            out: Object::new(),
        }
    }

    pub fn finish(mut self) -> Object {
        self.wait_for(message_of("v1", "APIResourceList"));
        if self.dialect == Dialect::V2 {
            ["APIGroup", "APIGroupList", "APIVersions"].iter().for_each(|name| self.wait_for(message_of("v1", name)));
        }
        while let Some(id) = self.waiting.pop() {
            if self.done.insert(id.0) {
                self.add_message(id);
            }
        }
        self.out
    }

    fn wait_for(&mut self, id: Option<MessageId>) {
        self.waiting.extend(id);
    }

    pub fn add_kind(&mut self, kind: &Kind) {
        for (verb, name) in [("delete", "DeleteOptions"), ("delete", "Status"), ("watch", "WatchEvent")] {
            if kind.allows(verb) {
                self.wait_for(message_of("v1", name));
            }
        }
        if kind.allows("patch") {
            // What a patch is depends on its media type.
            let patch = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
            self.out.insert(patch, Value::object([("type", "object".into())]));
        }
        self.group_version = (kind.resource.group.to_string(), kind.resource.version.to_string());
        for sub in kind.resource.subresources.iter().filter(|sub| !is_streaming(&sub.name)) {
            if kind.custom.is_none() || *sub.api_version != *kind.api_version {
                self.wait_for(message_of(&sub.api_version, &sub.kind));
            }
        }
        if let Some(custom) = &kind.custom {
            self.add_custom(kind, &custom.open_api);
            return;
        }
        self.wait_for(Some(kind.message()));
        self.wait_for(message_of(&kind.api_version, &kind.list_kind()));
    }

    fn add_custom(&mut self, kind: &Kind, open_api: &Value) {
        let r = &kind.resource;
        let text = Value::object([("type", "string".into())]);
        // Where anything goes, not one property is told of: kubectl would refuse all others.
        let anything = self.dialect == Dialect::V2 && open_api.bool_at(&["x-kubernetes-preserve-unknown-fields"]);
        let mut schema = Value::object([("type", "object".into())]);
        if !anything && !open_api.is_null() {
            schema = open_api.clone();
            self.complete(&mut schema);
            if self.dialect == Dialect::V2 {
                to_v2(&mut schema);
            }
            self.add_common(&mut schema);
        }
        schema.set(&["x-kubernetes-group-version-kind"], Value::List(vec![gvk(&r.group, &r.version, &r.kind)]));
        let name = name_of(kind);
        self.wait_for(builtin().id(META));
        self.wait_for(builtin().id(LIST_META));
        let mut list = Value::object([
            ("type", "object".into()),
            ("required", Value::list(["items"])),
            (
                "properties",
                Value::object([
                    ("apiVersion", text.clone()),
                    ("kind", text),
                    ("items", Value::object([("type", "array".into()), ("items", self.reference_to(&name))])),
                    ("metadata", self.extended(self.reference_to(LIST_META))),
                ]),
            ),
            ("x-kubernetes-group-version-kind", Value::List(vec![gvk(&r.group, &r.version, &kind.list_kind())])),
        ]);
        if !r.selectable.is_empty() {
            let paths = r.selectable.iter().map(|path| Value::object([("fieldPath", (&**path).into())]));
            let paths = Value::List(paths.collect());
            list.set(&["x-kubernetes-selectable-fields"], paths.clone());
            schema.set(&["x-kubernetes-selectable-fields"], paths);
        }
        self.out.insert(custom_name(&r.group, &r.version, &kind.list_kind()), list);
        self.out.insert(name, schema);
    }

    /// What every object has.
    fn add_common(&self, schema: &mut Value) {
        for (name, said) in COMMON {
            let member = match name {
                "metadata" => self.extended(self.reference_to(META)),
                _ => Value::object([("type", "string".into())]),
            };
            schema.set(&["properties", name], member);
            schema.set(&["properties", name, "description"], said);
        }
    }

    /// Says in OpenAPI's words what Kubernetes' extensions mean.
    fn complete(&self, schema: &mut Value) {
        if schema.bool_at(&["x-kubernetes-embedded-resource"]) {
            self.add_common(schema);
            schema.set(&["required"], Value::list(["kind", "apiVersion"]));
        }
        if schema.bool_at(&["x-kubernetes-int-or-string"]) && schema["anyOf"].is_null() {
            let either = ["integer", "string"].map(|ty| Value::object([("type", ty.into())]));
            schema.set(&["anyOf"], Value::List(either.into()));
        }
        let Some(members) = schema.as_object_mut() else { return };
        if let Some(properties) = members.get_mut("properties").and_then(Value::as_object_mut) {
            properties.values_mut().for_each(|inner| self.complete(inner));
        }
        for name in ["items", "additionalProperties"] {
            members.get_mut(name).into_iter().for_each(|inner| self.complete(inner));
        }
    }

    fn reference_to(&self, name: &str) -> Value {
        Value::object([("$ref", self.dialect.reference(name).into())])
    }

    fn add_message(&mut self, id: MessageId) {
        let table = builtin();
        let Some(message) = table.messages.get(id.0 as usize) else { return };
        let object = || Value::object([("type", "object".into())]);
        let v3 = self.dialect == Dialect::V3;
        let one_of =
            |types: [&str; 2]| Value::List(types.iter().map(|t| Value::object([("type", (*t).into())])).collect());
        let string = |format: &str| {
            let mut s = Value::object([("type", "string".into())]);
            if !format.is_empty() {
                s.set(&["format"], format);
            }
            s
        };
        let schema = match message.form {
            Form::Time | Form::MicroTime => string("date-time"),
            Form::Duration => string(""),
            Form::Quantity if v3 => Value::object([("oneOf", one_of(["string", "number"]))]),
            Form::Quantity => string(""),
            Form::IntOrString if v3 => {
                Value::object([("format", "int-or-string".into()), ("oneOf", one_of(["integer", "string"]))])
            }
            Form::IntOrString => string("int-or-string"),
            Form::RawExtension | Form::FieldsV1 => object(),
            Form::Json
            | Form::JsonSchemaPropsOrBool
            | Form::JsonSchemaPropsOrArray
            | Form::JsonSchemaPropsOrStringArray => Value::object::<&str>([]),
            // Said where it is used.
            Form::Items => return,
            Form::Struct => {
                let mut schema = object();
                let mut properties = Object::new();
                let mut required = Vec::new();
                let kinds: Vec<&schema::Kind> = table.kinds.iter().filter(|k| k.message == id).collect();
                let is_event = message.name.ends_with(".WatchEvent");
                if !kinds.is_empty() && !is_event {
                    properties.insert("apiVersion", string(""));
                    properties.insert("kind", string(""));
                }
                self.fields(&message.fields, &mut properties, &mut required);
                if !kinds.is_empty() && message.name.ends_with("List") {
                    // Of objects; nothing is said of what becomes of it.
                    properties.get_mut("items").map(|items| items.remove(&["x-kubernetes-list-type"]));
                }
                let said = if &*message.name == META { &OBJECT_META[..] } else { &COMMON[..] };
                let is_said_of = &*message.name == META || !kinds.is_empty();
                for (name, member) in properties.iter_mut().filter(|_| is_said_of) {
                    if let Some(said) = said_of(said, name) {
                        *member = self.extended(std::mem::take(member));
                        member.set(&["description"], said);
                    }
                }
                if !properties.is_empty() {
                    schema.set(&["properties"], properties);
                }
                if !required.is_empty() {
                    schema.set(&["required"], required);
                }
                if message.atomic {
                    schema.set(&["x-kubernetes-map-type"], "atomic");
                }
                if !kinds.is_empty() {
                    let mut list: Vec<Value> = kinds.iter().map(|k| gvk(&k.group, &k.version, &k.kind)).collect();
                    let (group, version) = &self.group_version;
                    if v3 && !group.is_empty() && (is_event || message.name.ends_with(".DeleteOptions")) {
                        list.push(gvk(group, version, message.name.rsplit('.').next().unwrap_or_default()));
                    }
                    schema.set(&["x-kubernetes-group-version-kind"], Value::List(list));
                }
                schema
            }
        };
        self.out.insert(message.name.to_string(), schema);
    }

    fn fields(&mut self, fields: &[Field], properties: &mut Object, required: &mut Vec<String>) {
        for field in fields {
            if let (true, Type::Message(id)) = (field.inline, &field.ty) {
                if let Some(inner) = builtin().messages.get(id.0 as usize) {
                    self.fields(&inner.fields, properties, required);
                }
                continue;
            }
            let ty = self.ty(&field.ty);
            let mut schema = self.extended(ty);
            if let Some(default) = self.default(field) {
                schema.set(&["default"], default);
            }
            if !field.enumeration.is_empty() && schema["$ref"].is_null() {
                let values = Value::list(field.enumeration.iter().map(|s| &**s));
                let inner = ["items", "additionalProperties"].into_iter().find(|name| !schema[*name].is_null());
                let path: Vec<&str> = inner.into_iter().chain(["enum"]).collect();
                schema.set(&path, values);
            }
            let patch = &field.patch;
            let mut strategy = Vec::new();
            for (on, name) in [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")] {
                if on {
                    strategy.push(name);
                }
            }
            if !strategy.is_empty() {
                strategy.sort_unstable();
                schema.set(&["x-kubernetes-patch-strategy"], strategy.join(","));
            }
            if let Some(key) = &patch.merge_key {
                schema.set(&["x-kubernetes-patch-merge-key"], &**key);
            }
            if let Some(atomic) = patch.atomic {
                schema.set(&["x-kubernetes-map-type"], if atomic { "atomic" } else { "granular" });
            }
            properties.insert(field.name.to_string(), schema);
            if field.required {
                required.push(field.name.to_string());
            }
        }
    }

    /// What a field that is left out is read as, where upstream's generator says it; Swagger 2 does not.
    fn default(&self, field: &Field) -> Option<Value> {
        if self.dialect == Dialect::V2 || field.default.is_some() {
            return field.default.clone().filter(|_| self.dialect == Dialect::V3);
        }
        match &field.ty {
            _ if field.pointer => None,
            Type::Message(id) => {
                let message = builtin().messages.get(id.0 as usize)?;
                (message.form == Form::Struct).then(|| Value::object::<&str>([]))
            }
            Type::Scalar(_) if field.omitempty => None,
            Type::Scalar(Scalar::Bytes) => None,
            Type::Scalar(Scalar::String) => Some("".into()),
            Type::Scalar(Scalar::Bool) => Some(false.into()),
            Type::Scalar(_) => Some(0i64.into()),
            _ => None,
        }
    }

    /// A reference has no other members: in v3 it moves into `allOf`.
    fn extended(&self, schema: Value) -> Value {
        if self.dialect == Dialect::V3 && !schema["$ref"].is_null() {
            return Value::object([("allOf", Value::List(vec![schema]))]);
        }
        schema
    }

    fn ty(&mut self, ty: &Type) -> Value {
        let plain = |name: &str, format: &str| {
            let mut out = Value::object([("type", name.into())]);
            if !format.is_empty() {
                out.set(&["format"], format);
            }
            out
        };
        match ty {
            Type::Scalar(scalar) => match scalar {
                Scalar::Bool => plain("boolean", ""),
                Scalar::Int32 => plain("integer", "int32"),
                Scalar::Int64 | Scalar::Uint32 | Scalar::Uint64 => plain("integer", "int64"),
                Scalar::Float => plain("number", "float"),
                Scalar::Double => plain("number", "double"),
                Scalar::String => plain("string", ""),
                Scalar::Bytes => plain("string", "byte"),
            },
            Type::Message(id) => {
                let Some(message) = builtin().messages.get(id.0 as usize) else { return Value::Null };
                if message.form == Form::Items {
                    return Value::object([("type", "array".into()), ("items", plain("string", ""))]);
                }
                self.waiting.push(*id);
                self.reference_to(&message.name)
            }
            Type::List { element, kind } => {
                let mut out = Value::object([("type", "array".into()), ("items", self.ty(element))]);
                match kind {
                    ListKind::Atomic => out.set(&["x-kubernetes-list-type"], "atomic"),
                    ListKind::Set => out.set(&["x-kubernetes-list-type"], "set"),
                    ListKind::Map { keys } => {
                        out.set(&["x-kubernetes-list-type"], "map");
                        out.set(&["x-kubernetes-list-map-keys"], Value::list(keys.iter().map(|k| &**k)));
                    }
                }
                out
            }
            Type::Map { value, kind } => {
                let mut out = Value::object([("type", "object".into()), ("additionalProperties", self.ty(value))]);
                if *kind == MapKind::Atomic {
                    out.set(&["x-kubernetes-map-type"], "atomic");
                }
                out
            }
            Type::Any => Value::object::<&str>([]),
        }
    }
}

/// What Swagger 2 cannot say is left out.
fn to_v2(schema: &mut Value) {
    let preserve = schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]);
    let int_or_string = schema.bool_at(&["x-kubernetes-int-or-string"]);
    let Some(members) = schema.as_object_mut() else { return };
    for name in ["oneOf", "anyOf", "allOf", "not", "default"] {
        members.remove(name);
    }
    if members.remove("nullable").is_some_and(|n| n.as_bool() == Some(true)) || int_or_string {
        // A type would refuse the null, or the other type.
        for name in ["type", "items", "properties"] {
            members.remove(name);
        }
    }
    if preserve {
        for name in ["type", "items", "properties", "required"] {
            members.remove(name);
        }
    }
    if let Some(properties) = members.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(to_v2);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = members.get_mut(name) {
            to_v2(inner);
        }
    }
}
