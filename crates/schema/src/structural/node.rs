//! A schema in the form in which it is walked.

use std::collections::{BTreeMap, HashMap};

use super::{Evaluate, formats, join, members};
use crate::Value;
use crate::validate::FieldError;
use crate::value::Key;

/// What OpenAPI calls `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    pub fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

#[derive(Debug)]
pub enum Additional {
    No,
    /// `true`: whatever it is, it is kept.
    Any,
    Of(Box<Node>),
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CelRule {
    /// Its place among all rules of the schema.
    pub number: usize,
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    /// `.foo.bar`, relative to the rule's place.
    pub field_path: String,
    pub optional_old_self: bool,
}

/// A schema, structural or (below `anyOf` and its kin) of values only.
#[derive(Debug)]
pub struct Node {
    pub kind: Option<Kind>,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve: bool,
    pub embedded: bool,
    pub properties: BTreeMap<Key, Node>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub default: Option<Value>,
    pub list_type: ListType,
    pub atomic_map: bool,
    pub cel: Vec<CelRule>,
    /// Whether there are rules here or below, once they have numbers.
    pub has_rules: bool,

    /// One that is known for the type; others mean nothing.
    pub format: String,
    pub enumeration: Vec<Value>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub pattern: Option<(String, regex::Regex)>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub unique_items: bool,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub required: Vec<String>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

impl Node {
    /// Reads a schema that was checked before.
    pub fn new(schema: &Value) -> Node {
        let flag = |name: &str| schema.bool_at(&[name]);
        let count = |name: &str| schema.i64_at(&[name]).and_then(|n| u64::try_from(n).ok());
        let number = |name: &str| schema.member(name).and_then(Value::as_f64);
        let list = |name: &str| schema.list_at(&[name]).iter().map(Node::new).collect::<Vec<_>>();
        let strings = |name: &str| {
            let list = schema.list_at(&[name]).iter();
            list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let text = |value: &Value, name: &str| value.str_at(&[name]).to_owned();
        Node {
            kind: Kind::parse(schema.str_at(&["type"])),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties: members(schema, "properties").map(|(k, v)| (k.clone(), Node::new(v))).collect(),
            additional: match schema.member("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Any,
                Some(inner @ Value::Object(_)) => Additional::Of(Box::new(Node::new(inner))),
                _ => Additional::No,
            },
            items: schema.member("items").filter(|i| matches!(i, Value::Object(_))).map(|i| Box::new(Node::new(i))),
            default: schema.member("default").filter(|d| !d.is_null()).cloned(),
            list_type: match schema.str_at(&["x-kubernetes-list-type"]) {
                "set" => ListType::Set,
                "map" => ListType::Map(strings("x-kubernetes-list-map-keys")),
                _ => ListType::Atomic,
            },
            atomic_map: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
            cel: schema
                .list_at(&["x-kubernetes-validations"])
                .iter()
                .map(|rule| CelRule {
                    number: 0,
                    rule: text(rule, "rule"),
                    message: text(rule, "message"),
                    message_expression: text(rule, "messageExpression"),
                    reason: rule.member("reason").and_then(Value::as_str).map(str::to_owned),
                    field_path: text(rule, "fieldPath"),
                    optional_old_self: rule.bool_at(&["optionalOldSelf"]),
                })
                .collect(),
            has_rules: false,
            format: formats::supported(schema.str_at(&["type"]), schema.str_at(&["format"])).to_owned(),
            enumeration: schema.list_at(&["enum"]).to_vec(),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: match schema.str_at(&["pattern"]) {
                "" => None,
                pattern => regex::Regex::new(pattern).ok().map(|compiled| (pattern.to_owned(), compiled)),
            },
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: strings("required"),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: schema.member("not").filter(|n| matches!(n, Value::Object(_))).map(|n| Box::new(Node::new(n))),
        }
    }

    /// The schema of a member: nothing if there is no such member, `Some(None)` if it may be anything.
    pub fn member(&self, key: &str) -> Option<Option<&Node>> {
        match (self.properties.get(key), &self.additional) {
            (Some(node), _) => Some(Some(node)),
            (None, Additional::Of(node)) => Some(Some(node)),
            (None, Additional::Any) => Some(None),
            (None, Additional::No) => None,
        }
    }

    pub fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.items.iter().any(|items| items.has_defaults())
            || self.properties.values().any(Node::has_defaults)
    }

    /// Numbers the rules here and below, and says which number is next.
    pub fn number_rules(&mut self, first: usize) -> usize {
        let mut next = first;
        for rule in &mut self.cel {
            rule.number = next;
            next += 1;
        }
        for node in self.properties.values_mut() {
            next = node.number_rules(next);
        }
        if let Additional::Of(node) = &mut self.additional {
            next = node.number_rules(next);
        }
        if let Some(items) = &mut self.items {
            next = items.number_rules(next);
        }
        self.has_rules = next > first;
        next
    }

    /// Evaluates the rules here and below. Old values are correlated by field, map key and list-map key; the elements
    /// of other lists only if the list is the same.
    pub fn rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        evaluate: &mut Evaluate<'_>,
        errors: &mut Vec<FieldError>,
    ) {
        if value.is_null() || !self.has_rules {
            return;
        }
        for rule in &self.cel {
            errors.extend(evaluate(rule, value, old, path));
        }
        match value {
            Value::Object(object) => {
                for (key, member) in object {
                    if let Some(Some(node)) = self.member(key)
                        && node.has_rules
                    {
                        let declared = self.properties.contains_key(key);
                        let at = if declared { join(path, key) } else { format!("{path}[{key}]") };
                        node.rules(member, old.and_then(|o| o.member(key)), &at, evaluate, errors);
                    }
                }
            }
            Value::List(list) => {
                let Some(items) = self.items.as_deref().filter(|items| items.has_rules) else { return };
                let at = |i: usize| format!("{path}[{i}]");
                let known = self.list_type.correlated(old);
                let ListType::Map(_) = &self.list_type else {
                    let is_same = old == Some(value);
                    for (i, item) in list.iter().enumerate() {
                        items.rules(item, is_same.then_some(item), &at(i), evaluate, errors);
                    }
                    return;
                };
                for (i, item) in list.iter().enumerate() {
                    items.rules(item, self.list_type.was(&known, item), &at(i), evaluate, errors);
                }
            }
            _ => {}
        }
    }
}

/// The items of a list by what tells them from each other.
type Known<'v> = HashMap<Vec<Option<String>>, &'v Value>;

impl ListType {
    /// The old items that new ones can be compared with: those of maps only.
    pub fn correlated<'v>(&self, old: Option<&'v Value>) -> Known<'v> {
        let mut known = HashMap::new();
        if let ListType::Map(keys) = self {
            for item in old.and_then(Value::as_list).into_iter().flatten() {
                known.entry(keys_of(item, keys)).or_insert(item);
            }
        }
        known
    }

    pub fn was<'v>(&self, known: &Known<'v>, item: &Value) -> Option<&'v Value> {
        match self {
            ListType::Map(keys) if !known.is_empty() => known.get(&keys_of(item, keys)).copied(),
            _ => None,
        }
    }
}

/// What tells an item of a list from the others: its keys' values, of which some may be missing.
fn keys_of(item: &Value, keys: &[String]) -> Vec<Option<String>> {
    keys.iter().map(|key| item.member(key).map(Value::to_string)).collect()
}
