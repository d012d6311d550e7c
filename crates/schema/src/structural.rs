//! Structural schemas of custom resources: OpenAPI v3 to a [`Table`], pruning, defaulting and validation.
//!
//! [`Schema::new`] checks a schema and compiles it once; the methods then serve every object of that version.
//! `x-kubernetes-validations` are kept with their place and given to whoever evaluates CEL ([`Schema::evaluate`]).

mod check;
mod embedded;
mod formats;
mod node;
mod table;
#[cfg(test)]
mod tests;
mod values;

use crate::value::Key;
use crate::{Decoded, FieldProblem, MessageId, Object, Table, Value, json, validate::FieldError};
pub use formats::supported as supported_format;
pub use node::{Additional, CelRule, Kind, ListType, Node};

/// One CRD version's schema, ready for use.
#[derive(Debug)]
pub struct Schema {
    /// The types as apply and the field readers see them.
    pub table: Table,
    pub root: MessageId,
    node: Node,
    has_rules: bool,
}

/// Defaults are values of their schemas, without unknown fields. Those within metadata are not looked at.
fn defaults(node: &Node, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(declared) = &node.default {
        let (at, mut unknown) = (format!("{path}.default"), Vec::new());
        prune(&mut declared.clone(), Some(node), "", &mut unknown);
        if !unknown.is_empty() {
            errors.push(FieldError::invalid(&*at, declared.clone(), "must not have unknown fields"));
        }
        errors.extend(values::below(&at, values::validate(node, declared, None)));
    }
    if let Some(items) = &node.items {
        defaults(items, &format!("{path}.items"), errors);
    }
    let members = node.properties.iter().filter(|(name, _)| !(node.embedded && META_FIELDS.contains(&name.as_str())));
    for (name, inner) in members {
        defaults(inner, &format!("{path}.properties[{name}]"), errors);
    }
}

/// Evaluates a rule on a value (and the old one) at a path.
pub type Evaluate<'e> = dyn FnMut(&CelRule, &Value, Option<&Value>, &str) -> Vec<FieldError> + 'e;

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// `spec.versions[].schema.openAPIV3Schema`; what is wrong with it comes as field errors below `path`.
    pub fn new(open_api_v3: &Value, path: &str) -> Result<Schema, Vec<FieldError>> {
        let schema = Schema::parse(open_api_v3);
        let errors = schema.check(open_api_v3, path);
        if errors.is_empty() { Ok(schema) } else { Err(errors) }
    }

    /// What can be read of a schema that may be wrong.
    pub fn parse(open_api_v3: &Value) -> Schema {
        let mut node = Node::new(open_api_v3);
        node.embedded = true;
        let (table, root) = table::build(&node);
        let has_rules = node.number_rules(0) > 0;
        Schema { table, root, node, has_rules }
    }

    /// What is wrong with the schema that this was read from, and with its defaults, as field errors below `path`.
    pub fn check(&self, open_api_v3: &Value, path: &str) -> Vec<FieldError> {
        let mut errors = check::structural(open_api_v3, path);
        if errors.is_empty() {
            defaults(&self.node, path, &mut errors);
        }
        errors
    }

    pub fn has_defaults(&self) -> bool {
        self.node.has_defaults()
    }

    /// Drops unknown fields and reports them, sorted; `metadata` comes out in its own type's normal form.
    pub fn prune(&self, value: &mut Value) -> Vec<FieldProblem> {
        let mut unknown = Vec::new();
        prune(value, Some(&self.node), "", &mut unknown);
        unknown.sort();
        let mut problems: Vec<_> = unknown.into_iter().map(FieldProblem::Unknown).collect();
        // Metadata which does not fit its type stays for `validate` to name.
        problems.extend(self.coerce_metadata(value).unwrap_or_default());
        problems
    }

    /// Brings `metadata` into its own type's normal form, as upstream does with every custom resource; if it
    /// does not fit that type, it stays as it is.
    pub fn coerce_metadata(&self, value: &mut Value) -> Result<Vec<FieldProblem>, json::DecodeError> {
        let Some(meta) = value.get_mut(&["metadata"]) else { return Ok(Vec::new()) };
        let decoded = decode_metadata(meta)?;
        *meta = decoded.value;
        let place = |path: String| format!("metadata.{path}");
        let placed = decoded.problems.into_iter().map(|problem| match problem {
            FieldProblem::Unknown(path) => FieldProblem::Unknown(place(path)),
            FieldProblem::Duplicate(path) => FieldProblem::Duplicate(place(path)),
            other => other,
        });
        Ok(placed.collect())
    }

    /// Brings the metadata of the objects inside into the normal form of its type; says what it does not know.
    ///
    /// # Errors
    /// Metadata that does not fit its type.
    pub fn coerce_embedded(&self, value: &mut Value) -> Result<Vec<FieldProblem>, FieldError> {
        let mut unknown = Vec::new();
        embedded::coerce(&self.node, value, "", &mut unknown)?;
        Ok(unknown)
    }

    /// Sets declared defaults, after nulls without a default or `nullable` were dropped.
    pub fn default(&self, value: &mut Value) {
        drop_nulls(value, Some(&self.node));
        default(value, Some(&self.node));
    }

    /// Everything wrong with an object by OpenAPI, its embedded objects and the `x-kubernetes-list-type`s. What was wrong
    /// before and is unchanged is let be.
    pub fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = values::validate(&self.node, value, old);
        errors.extend(self.validate_rest(value, old));
        errors
    }

    /// The same for an update of the status alone.
    pub fn validate_status(&self, value: &Value, old: &Value) -> Vec<FieldError> {
        let status = value.member("status").zip(self.node.properties.get("status"));
        let errors = status.map(|(status, node)| values::validate(node, status, old.member("status")));
        let mut errors = values::below("status", errors.unwrap_or_default());
        errors.extend(self.validate_lists(value, Some(old)));
        errors
    }

    fn validate_rest(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(meta) = value.member("metadata")
            && let Err(error) = decode_metadata(meta)
        {
            errors.push(FieldError::invalid("metadata", meta.clone(), error.to_string()));
        }
        embedded::validate(&self.node, value, "", &mut errors);
        errors.extend(self.validate_lists(value, old));
        errors
    }

    fn validate_lists(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let found = |value: &Value| {
            let mut errors = Vec::new();
            values::unique_lists(&self.node, value, "", &mut errors);
            errors
        };
        let errors = found(value);
        if !errors.is_empty() && old.is_some_and(|old| !found(old).is_empty()) { Vec::new() } else { errors }
    }

    pub fn has_rules(&self) -> bool {
        self.has_rules
    }

    /// Every CEL rule on the values it stands at.
    pub fn evaluate(&self, value: &Value, old: Option<&Value>, evaluate: &mut Evaluate<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.node.rules(value, old, "", evaluate, &mut errors);
        errors
    }

    /// The type of the field at a path of names (`.spec.color`); `None` if anything may stand there. Errors are those of
    /// upstream's `ValidFieldPath`, which here allows no brackets.
    pub fn type_at(&self, path: &str) -> Result<Option<&'static str>, String> {
        const NOTHING: &str = "does not refer to a valid field";
        let (mut node, mut rest) = (Some(&self.node), path);
        while !rest.is_empty() {
            let Some(named) = rest.strip_prefix('.') else {
                let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
                return Err(match rest.split_at(end) {
                    ("", after) if after.starts_with('[') => "array notation is not allowed".to_owned(),
                    ("", _) => "expected [ or . but got: ]".to_owned(),
                    (word, _) => format!("expected [ or . but got: {word}"),
                });
            };
            if named.is_empty() {
                return Err("unexpected end of JSON path".into());
            }
            let (name, after) = named.split_at(named.find(['.', '[', ']']).unwrap_or(named.len()).max(1));
            rest = after;
            let outer = node.ok_or(NOTHING)?;
            node = match &outer.additional {
                _ if !outer.properties.is_empty() => Some(outer.properties.get(name).ok_or(NOTHING)?),
                node::Additional::Of(inner) => Some(&**inner),
                node::Additional::Any => None,
                node::Additional::No => return Err(NOTHING.into()),
            };
        }
        Ok(node.and_then(|n| n.kind).map(node::Kind::name))
    }

    /// The schema in the form in which it is walked.
    pub fn node(&self) -> &Node {
        &self.node
    }
}

fn decode_metadata(meta: &Value) -> Result<Decoded, json::DecodeError> {
    let builtin = Table::builtin();
    match builtin.id("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        Some(id) => json::typed(builtin, id, meta.clone()),
        None => Ok(Decoded { value: meta.clone(), problems: Vec::new() }),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn prune(value: &mut Value, node: Option<&Node>, path: &str, unknown: &mut Vec<String>) {
    match (value, node) {
        (value, Some(node)) if node.preserve => prune_known(value, node, path, unknown),
        (Value::Object(object), None) => {
            unknown.extend(object.keys().map(|key| join(path, key)));
            *object = Object::new();
        }
        (Value::Object(object), Some(node)) => object.retain(|key, member| {
            let is_meta = META_FIELDS.contains(&key.as_str());
            if node.embedded && is_meta {
                return true;
            }
            match node.member(key) {
                Some(inner) => prune(member, inner, &join(path, key), unknown),
                None => {
                    if !is_meta || !path.is_empty() {
                        unknown.push(join(path, key));
                    }
                    return false;
                }
            }
            true
        }),
        (Value::List(list), node) => {
            let items = node.and_then(|n| n.items.as_deref());
            for (i, item) in list.iter_mut().enumerate() {
                prune(item, items, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Where unknown fields are preserved, those that are specified are still pruned inside.
fn prune_known(value: &mut Value, node: &Node, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, member) in object {
                if node.embedded && META_FIELDS.contains(&key.as_str()) {
                    continue;
                }
                if let Some(inner) = node.member(key) {
                    prune(member, inner, &join(path, key), unknown);
                }
            }
        }
        Value::List(list) => {
            if let Some(items) = &node.items {
                for (i, item) in list.iter_mut().enumerate() {
                    prune_known(item, items, &format!("{path}[{i}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(object) => object.retain(|key, member| {
            let inner = node.and_then(|n| n.member(key)).flatten();
            if member.is_null() && inner.is_some_and(|n| !n.nullable && n.default.is_none()) {
                return false;
            }
            drop_nulls(member, inner);
            true
        }),
        Value::List(list) => {
            let items = node.and_then(|n| n.items.as_deref());
            list.iter_mut().for_each(|item| drop_nulls(item, items));
        }
        _ => {}
    }
}

fn default(value: &mut Value, node: Option<&Node>) {
    let Some(node) = node else { return };
    let unwanted_null = |value: &Value, node: Option<&Node>| value.is_null() && node.is_some_and(|n| !n.nullable);
    match value {
        Value::Object(object) => {
            for (key, inner) in &node.properties {
                if let Some(declared) = &inner.default
                    && object.get(key).is_none_or(|v| unwanted_null(v, Some(inner)))
                {
                    object.insert(key.clone(), declared.clone());
                }
            }
            for (key, member) in object {
                let inner = node.member(key).flatten();
                if !node.properties.contains_key(key) && unwanted_null(member, inner) {
                    *member = inner.and_then(|n| n.default.clone()).unwrap_or_default();
                }
                default(member, inner);
            }
        }
        Value::List(list) => {
            let items = node.items.as_deref();
            for item in list {
                if unwanted_null(item, items) {
                    *item = items.and_then(|n| n.default.clone()).unwrap_or_default();
                }
                default(item, items);
            }
        }
        _ => {}
    }
}

/// Members of an object value, for readers of schemas.
fn members<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v Key, &'v Value)> {
    value.member(key).and_then(Value::as_object).into_iter().flat_map(Object::iter)
}
