//! The table: messages, their fields, and the resources that are served from them.

use std::collections::HashMap;

use crate::presets::{Conditional, Preset};
use crate::value::{Key, Object, Value};

/// The place of a message in its [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u32);

/// All types and resources of one origin: the built-in API, or one CRD version.
#[derive(Debug, Default)]
pub struct Table {
    pub messages: Vec<Message>,
    pub resources: Vec<Resource>,
    /// Full OpenAPI name (`io.k8s.api.core.v1.Pod`) → message.
    pub by_name: HashMap<Box<str>, MessageId>,
    /// The version and kind of every registered kind, lists and options included.
    pub kinds: Vec<Kind>,
}

impl Table {
    pub fn new(messages: Vec<Message>, resources: Vec<Resource>) -> Table {
        let by_name = messages.iter().zip(0..).map(|(m, i)| (m.name.clone(), MessageId(i))).collect();
        Table { messages, resources, by_name, kinds: Vec::new() }
    }

    pub fn id(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }

    /// The resource of a plural (`pods`), by its group and version.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| *r.plural == *plural && *r.version == *version && *r.group == *group)
    }

    pub fn resource_of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| *r.kind == *kind && *r.version == *version && *r.group == *group)
    }

    /// Whether this is a message with fields of its own, not a type with a form of its own.
    pub fn is_struct(&self, ty: &Type) -> bool {
        matches!(ty, Type::Message(id) if self.messages[id.0 as usize].form == Form::Struct)
    }

    /// The message of any registered kind (`v1`, `Status`; `apps/v1`, `DeploymentList`).
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<MessageId> {
        let found = self.kinds.iter().find(|k| *k.kind == *kind && *k.version == *version && *k.group == *group);
        found.map(|k| k.message)
    }
}

/// What a `kind` and an `apiVersion` stand for.
#[derive(Debug)]
pub struct Kind {
    pub group: Box<str>,
    pub version: Box<str>,
    pub kind: Box<str>,
    pub message: MessageId,
}

/// A struct of the API, or a type with an encoding of its own.
#[derive(Debug)]
pub struct Message {
    /// OpenAPI definition name: `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// How its JSON looks; fields matter only for [`Form::Struct`].
    pub form: Form,
    /// In the order of the Go struct, which is the order of upstream's JSON. Inlined structs are flattened
    /// here only if protobuf flattens them too; else see [`Field::inline`].
    pub fields: Vec<Field>,
    /// `+structType=atomic` on the type: apply treats it as one value wherever it stands.
    pub atomic: bool,
    /// The overlay's defaults, and the function for those that depend on other fields: see [`Message::preset`].
    pub presets: Vec<Preset>,
    pub conditional: Option<Conditional>,
    /// The fields' places, sorted by JSON name.
    sorted: Box<[u16]>,
    /// What the codecs worked out: see [`Message::plan`].
    pub(crate) plan: std::sync::OnceLock<Box<crate::plan::Plan>>,
}

impl Message {
    pub fn new(name: impl Into<Box<str>>, form: Form, fields: Vec<Field>) -> Message {
        let mut sorted: Box<[u16]> = (0..fields.len() as u16).collect();
        sorted.sort_by(|a, b| fields[usize::from(*a)].name.cmp(&fields[usize::from(*b)].name));
        Message {
            name: name.into(),
            form,
            fields,
            atomic: false,
            presets: Vec::new(),
            conditional: None,
            sorted,
            plan: Default::default(),
        }
    }

    pub fn with_atomic(self, atomic: bool) -> Message {
        Message { atomic, ..self }
    }

    /// Sets this type's own defaults from the overlay, as upstream's `SetDefaults_…` function of it would. `object` holds
    /// the members of inlined structs too, which have presets of their own. What the fields hold comes after it.
    pub fn preset(&self, object: &mut Object) {
        for preset in &self.presets {
            preset.apply(object);
        }
        if let Some(conditional) = self.conditional {
            conditional(object);
        }
    }

    /// The place in `fields` of a JSON name, by binary search; an inlined struct's members are not looked into.
    pub fn position(&self, name: &str) -> Option<usize> {
        let found = self.sorted.binary_search_by(|i| (*self.fields[usize::from(*i)].name).cmp(name));
        found.ok().map(|at| usize::from(self.sorted[at]))
    }
}

/// Types whose JSON is not an object of their protobuf fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object with one member a field.
    Struct,
    /// `meta/v1.Time`: RFC 3339 in seconds; protobuf `{seconds, nanos}`.
    Time,
    /// `meta/v1.MicroTime`: RFC 3339 with six digits.
    MicroTime,
    /// `meta/v1.Duration`: Go's `1h2m3s`; protobuf `{duration: ns}`.
    Duration,
    /// `resource.Quantity`: canonical string; protobuf `{string}`. Numbers are accepted on input.
    Quantity,
    /// `intstr.IntOrString`: a number or a string; protobuf `{type, intVal, strVal}`.
    IntOrString,
    /// `runtime.RawExtension`: any JSON object; protobuf `{raw}` holding JSON.
    RawExtension,
    /// `meta/v1.FieldsV1`: any JSON object; protobuf `{Raw}` holding JSON.
    FieldsV1,
    /// `apiextensions/v1.JSON`: any JSON value; protobuf `{raw}`.
    Json,
    /// `apiextensions/v1.JSONSchemaPropsOrBool` and its kin: see the field names.
    JsonSchemaPropsOrBool,
    JsonSchemaPropsOrArray,
    JsonSchemaPropsOrStringArray,
    /// A named slice (`ExtraValue`, `Verbs`): a JSON list; protobuf `{items}`.
    Items,
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// JSON name.
    pub name: Key,
    /// Protobuf field number; 0 where there is none (a CRD's field).
    pub tag: u32,
    pub ty: Type,
    /// Go pointer: absent and zero differ. A plain field that is absent reads as its zero value, and protobuf always carries it.
    pub pointer: bool,
    /// JSON `omitempty`: not written if zero (nil for pointers, maps and lists: empty).
    pub omitempty: bool,
    /// JSON `omitzero`: a zero struct is not written.
    pub omitzero: bool,
    /// `json:",inline"`: its members stand in the parent's JSON object, while protobuf nests it under `tag`.
    pub inline: bool,
    /// Required by validation of OpenAPI (no `+optional`).
    pub required: bool,
    /// Declarative default (`+default=`), applied at decoding of the versioned object.
    pub default: Option<Value>,
    /// Closed set of values, if it is an enum.
    pub enumeration: Vec<Box<str>>,
    pub patch: PatchStrategy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Float,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Scalar(Scalar),
    Message(MessageId),
    List {
        element: Box<Type>,
        kind: ListKind,
    },
    Map {
        value: Box<Type>,
        kind: MapKind,
    },
    /// Anything (`x-kubernetes-preserve-unknown-fields`).
    Any,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    /// Keyed by these fields (`x-kubernetes-list-map-keys`); defaults of keys are on the element's fields.
    Map {
        keys: Vec<Box<str>>,
    },
}

/// `x-kubernetes-map-type`, for maps and for structs used as a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Granular,
    Atomic,
}

/// Strategic merge patch: `patchStrategy` and `patchMergeKey`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    pub merge_key: Option<Box<str>>,
    /// Whether apply treats a struct as one value here (`+structType=atomic`), or not (`granular`), whatever its type says.
    pub atomic: Option<bool>,
}

/// A kind as it is served: facts of its group, version and names, and the overlay's rows.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Box<str>,
    pub version: Box<str>,
    pub kind: Box<str>,
    pub plural: Box<str>,
    pub singular: Box<str>,
    pub namespaced: bool,
    pub message: MessageId,
    /// The version in which it is stored (`apps/v1`, `v1`); conversion is needed if it is another message.
    pub storage: Box<str>,
    pub short_names: Vec<Box<str>>,
    pub categories: Vec<Box<str>>,
    /// `create delete deletecollection get list patch update watch`, as discovery lists them. Empty: create only, nothing stored (reviews).
    pub verbs: Vec<Box<str>>,
    pub subresources: Vec<Subresource>,
    pub columns: Vec<Column>,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`: JSON paths (`spec.nodeName`).
    pub selectable: Vec<Box<str>>,
    /// Key prefix in the store without a slash at the end: `/registry/pods`.
    pub prefix: Box<str>,
    /// Named behaviour functions of apiserver, from the overlay: `strategy: pod`.
    pub behaviours: Vec<Box<str>>,
    /// Served unless `--runtime-config` says otherwise; alpha and beta versions are not.
    pub enabled: bool,
}

#[derive(Debug)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: Box<str>,
    /// What it takes and returns: group/version and kind (`autoscaling/v1`, `Scale`).
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub verbs: Vec<Box<str>>,
}

/// A column of `kubectl get` (`meta/v1.TableColumnDefinition`).
#[derive(Debug)]
pub struct Column {
    pub name: Box<str>,
    pub ty: Box<str>,
    pub format: Box<str>,
    pub priority: i32,
    /// A JSON path (`.spec.replicas`; absent prints as the zero of `ty`), or `fn:name` with arguments for a function of
    /// the printer: `fn:pod.status`, `fn:age .metadata.creationTimestamp`. The general ones: `age PATH [TEXT]` since a
    /// time (TEXT if absent), `or PATH TEXT` the value or TEXT, `int PATH` as a string-typed number, `bool PATH` as
    /// `True`/`False`/`<unset>`, `is PATH [true]` a boolean or its default, `count PATH...` members, `join PATH [TEXT]`
    /// by commas, `ratio PATH PATH`, `names PATH` and `images PATH` of containers, `labels PATH` of a map, `selector
    /// PATH` of a LabelSelector, `kindName PATH` as `Kind/name`, `accessModes PATH`, `subjects KIND`.
    pub source: Box<str>,
}
