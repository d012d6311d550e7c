//! Values against a schema, with the errors that upstream's OpenAPI validation gives.

use super::node::{Additional, Kind, ListType, Node};
use super::{formats, join};
use crate::validate::{ErrorKind, FieldError};
use crate::{Object, Value};

/// What is unchanged since `old` may stay wrong.
pub fn validate(node: &Node, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    Check { errors: &mut errors, matches: 0 }.value(node, value, None, "");
    if !errors.is_empty() && old.is_some() {
        errors.clear();
        Check { errors: &mut errors, matches: 0 }.value(node, value, old, "");
    }
    errors
}

/// Errors of a value that stands at a place.
pub fn below(place: &str, mut errors: Vec<FieldError>) -> Vec<FieldError> {
    for error in &mut errors {
        error.field = match error.field.as_str() {
            "" | "<nil>" => place.to_owned(),
            field => format!("{place}.{field}"),
        };
    }
    errors
}

struct Check<'e> {
    errors: &'e mut Vec<FieldError>,
    /// How many checks passed: of several alternatives, the one with the most tells best what is wrong.
    matches: u32,
}

/// The name of a value's type in JSON Schema.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::List(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        // Beyond that a float does not tell one integer from the next.
        (Kind::Integer, Value::Float(f)) => f.fract() == 0.0 && f.abs() < (1u64 << 53) as f64,
        (Kind::Number, Value::Int(_)) => true,
        _ => kind.name() == type_name(value),
    }
}

impl Check<'_> {
    fn invalid(&mut self, path: &str, value: Value, detail: &str) {
        self.errors.push(FieldError::invalid(path, value, format!("{path} in body {detail}")));
    }

    fn passes(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) -> (Vec<FieldError>, u32) {
        let mut errors = Vec::new();
        let mut check = Check { errors: &mut errors, matches: 0 };
        check.whole(node, value, old, path);
        let matches = check.matches;
        (errors, matches)
    }

    fn value(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) {
        let (before, matches) = (self.errors.len(), self.matches);
        self.whole(node, value, old, path);
        if self.errors.len() > before && old == Some(value) {
            self.errors.truncate(before);
            self.matches = matches + 1;
        }
    }

    fn whole(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) {
        let before = self.errors.len();
        self.kind(node, value, path);
        self.combinations(node, value, old, path);
        match value {
            Value::String(text) => self.string(node, text, path),
            Value::Int(_) | Value::Float(_) => self.number(node, value, path),
            Value::List(list) => self.list(node, list, old, path),
            Value::Object(object) => self.object(node, object, old, path),
            Value::Null | Value::Bool(_) => {}
        }
        let allowed = node.enumeration.is_empty() || value.is_null() && node.nullable;
        if !allowed && !node.enumeration.contains(value) {
            let shown: Vec<String> =
                node.enumeration.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            self.errors.push(FieldError::not_supported(path, value.clone(), &shown));
        }
        if self.errors.len() == before {
            self.matches += 1;
        }
    }

    fn kind(&mut self, node: &Node, value: &Value, path: &str) {
        let fits = |value: &Value| match node.kind {
            _ if node.int_or_string => matches!(value, Value::Int(_) | Value::String(_)),
            None => true,
            Some(kind) => is_of(kind, value),
        };
        let typed = node.int_or_string || node.kind.is_some();
        let wanted = || match node.kind {
            _ if node.int_or_string => "integer,string".to_owned(),
            Some(kind) => kind.name().to_owned(),
            None => String::new(),
        };
        let wrong = match value {
            Value::Null if typed && !node.nullable => (wanted(), "null"),
            Value::Null => return,
            // A string with a format is checked by that.
            Value::String(_) | Value::List(_)
                if !node.format.is_empty() && !matches!(node.kind, Some(Kind::Integer | Kind::Number)) =>
            {
                return;
            }
            value if fits(value) => return,
            Value::Int(_) if !node.format.is_empty() => (node.format.clone(), "int64"),
            Value::Float(_) if !node.format.is_empty() => (node.format.clone(), "float64"),
            value => (wanted(), type_name(value)),
        };
        let detail = format!("{path} in body must be of type {}: {:?}", wrong.0, wrong.1);
        self.errors.push(FieldError::new(ErrorKind::TypeInvalid, path, wrong.1, detail));
    }

    /// `anyOf`, `oneOf`, `allOf` and `not`; their own errors carry no field.
    fn combinations(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &str) {
        let about = |check: &mut Self, detail: String| {
            check.errors.push(FieldError::invalid("<nil>", "", format!("{path:?} {detail}")));
        };
        if !node.any_of.is_empty() {
            let results: Vec<_> = node.any_of.iter().map(|n| self.passes(n, value, old, path)).collect();
            if results.iter().all(|(errors, _)| !errors.is_empty()) {
                about(self, "must validate at least one schema (anyOf)".to_owned());
                self.errors.extend(best(results));
            }
        }
        if !node.one_of.is_empty() {
            let results: Vec<_> = node.one_of.iter().map(|n| self.passes(n, value, old, path)).collect();
            match results.iter().filter(|(errors, _)| errors.is_empty()).count() {
                1 => {}
                0 => {
                    about(self, "must validate one and only one schema (oneOf). Found none valid".to_owned());
                    self.errors.extend(best(results));
                }
                n => {
                    about(self, format!("must validate one and only one schema (oneOf). Found {n} valid alternatives"))
                }
            }
        }
        if !node.all_of.is_empty() {
            let mut valid = 0;
            for inner in &node.all_of {
                let (errors, _) = self.passes(inner, value, old, path);
                valid += usize::from(errors.is_empty());
                self.errors.extend(errors);
            }
            if valid < node.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                about(self, format!("must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &node.not
            && self.passes(not, value, old, path).0.is_empty()
        {
            about(self, "must not validate the schema (not)".to_owned());
        }
    }

    fn string(&mut self, node: &Node, text: &str, path: &str) {
        if node.kind.is_some_and(|k| k != Kind::String) && !node.int_or_string {
            return;
        }
        let length = text.chars().count() as u64;
        // The first of these is all that upstream says.
        if let Some(max) = node.max_length.filter(|max| length > *max) {
            self.errors.push(FieldError::too_long(path, max as usize));
        } else if let Some(min) = node.min_length.filter(|min| length < *min) {
            self.invalid(path, text.into(), &format!("should be at least {min} chars long"));
        } else if let Some((pattern, _)) = node.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            self.invalid(path, text.into(), &format!("should match '{pattern}'"));
        }
        if !node.format.is_empty()
            && !matches!(node.kind, Some(Kind::Integer | Kind::Number))
            && !formats::has(&node.format, text)
        {
            let detail = format!("{path} in body must be of type {}: {text:?}", node.format);
            self.errors.push(FieldError::new(ErrorKind::TypeInvalid, path, text, detail));
        }
    }

    fn number(&mut self, node: &Node, value: &Value, path: &str) {
        let n = value.as_f64().unwrap_or(0.0);
        let shown = |limit: f64| Value::Float(limit).to_string();
        let most = if node.format == "int32" { f64::from(i32::MAX) } else { i64::MAX as f64 };
        let is_whole = matches!(value, Value::Int(_)) || n.fract() == 0.0 && n < most;
        if node.kind == Some(Kind::Integer) && (!is_whole || n > most || n < -most - 1.0) {
            let format = match node.format.as_str() {
                "" => "(default format)".to_owned(),
                format => format!("with format {format}"),
            };
            let detail = format!("Checked value must be of type integer {format} in {path}");
            self.errors.push(FieldError::invalid("<nil>", "", detail));
        }
        if let Some(of) = node.multiple_of.filter(|of| *of > 0.0 && (n / of).fract() != 0.0) {
            self.invalid(path, value.clone(), &format!("should be a multiple of {}", shown(of)));
        }
        if let Some(max) = node.maximum.filter(|max| if node.exclusive_maximum { n >= *max } else { n > *max }) {
            let word = if node.exclusive_maximum { "less than" } else { "less than or equal to" };
            self.invalid(path, value.clone(), &format!("should be {word} {}", shown(max)));
        }
        if let Some(min) = node.minimum.filter(|min| if node.exclusive_minimum { n <= *min } else { n < *min }) {
            let word = if node.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            self.invalid(path, value.clone(), &format!("should be {word} {}", shown(min)));
        }
    }

    fn list(&mut self, node: &Node, list: &[Value], old: Option<&Value>, path: &str) {
        if let Some(items) = &node.items {
            let known = node.list_type.correlated(old);
            for (i, item) in list.iter().enumerate() {
                self.value(items, item, node.list_type.was(&known, item), &format!("{path}[{i}]"));
            }
        }
        let length = list.len() as u64;
        if let Some(min) = node.min_items.filter(|min| length < *min) {
            self.invalid(path, Value::Int(length as i64), &format!("should have at least {min} items"));
        }
        if let Some(max) = node.max_items.filter(|max| length > *max) {
            self.errors.push(FieldError::too_many(path, list.len(), max as usize));
        }
        if node.unique_items && !second_ones(list.iter()).is_empty() {
            self.invalid(path, "".into(), "shouldn't contain duplicates");
        }
    }

    fn object(&mut self, node: &Node, object: &Object, old: Option<&Value>, path: &str) {
        let length = object.len() as u64;
        if let Some(min) = node.min_properties.filter(|min| length < *min) {
            self.invalid(path, Value::Int(length as i64), &format!("should have at least {min} properties"));
        }
        if let Some(max) = node.max_properties.filter(|max| length > *max) {
            self.errors.push(FieldError::too_many(path, object.len(), max as usize));
        }
        for (key, member) in object {
            let inner: &Node = match (node.properties.get(key), &node.additional) {
                (Some(inner), _) => inner,
                (None, Additional::Of(inner)) => inner,
                _ => continue,
            };
            // That these changed cannot be seen: both objects are in one version.
            let is_type = path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind");
            let was = old.filter(|_| !is_type).and_then(|old| old.member(key));
            self.value(inner, member, was, &join(path, key));
        }
        for key in node.required.iter().filter(|key| !object.contains_key(key)) {
            self.errors.push(FieldError::required(join(path, key), ""));
        }
    }
}

fn best(results: Vec<(Vec<FieldError>, u32)>) -> Vec<FieldError> {
    let mut best: Option<(Vec<FieldError>, u32)> = None;
    for result in results {
        if best.as_ref().is_none_or(|b| result.1 > b.1) {
            best = Some(result);
        }
    }
    best.map(|b| b.0).unwrap_or_default()
}

/// `x-kubernetes-list-type`: sets and maps hold nothing twice.
pub fn unique_lists(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(object) => {
            for (key, member) in object {
                if let Some(Some(inner)) = node.member(key) {
                    let declared = node.properties.contains_key(key);
                    let at = if declared { join(path, key) } else { format!("{path}[{key}]") };
                    unique_lists(inner, member, &at, errors);
                }
            }
        }
        Value::List(list) => {
            match &node.list_type {
                ListType::Atomic => {}
                ListType::Set => {
                    for i in second_ones(list.iter()) {
                        errors.push(FieldError::duplicate(format!("{path}[{i}]"), list[i].clone()));
                    }
                }
                ListType::Map(keys) => {
                    if let Some((i, item)) =
                        list.iter().enumerate().find(|(_, v)| !matches!(v, Value::Object(_) | Value::Null))
                    {
                        let detail = "must be an object for an array of list-type map";
                        errors.push(FieldError::invalid(format!("{path}[{i}]"), item.clone(), detail));
                        return;
                    }
                    let id = |item: &Value| -> Object {
                        keys.iter().filter_map(|k| Some((k.clone(), item.member(k)?.clone()))).collect()
                    };
                    let ids: Vec<Value> = list.iter().map(|item| Value::Object(id(item))).collect();
                    for i in second_ones(ids.iter()) {
                        errors.push(FieldError::duplicate(format!("{path}[{i}]"), ids[i].clone()));
                    }
                }
            }
            if let Some(items) = &node.items {
                for (i, item) in list.iter().enumerate() {
                    unique_lists(items, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// The places at which a value stands for the second time.
fn second_ones<'v>(values: impl Iterator<Item = &'v Value>) -> Vec<usize> {
    let mut seen: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
    let mut seconds = Vec::new();
    for (i, value) in values.enumerate() {
        let count = seen.entry(value.to_string()).or_default();
        *count += 1;
        if *count == 2 {
            seconds.push(i);
        }
    }
    seconds
}
