//! `x-kubernetes-validations`: the CEL rules of a custom resource's schema, compiled with the definition and
//! evaluated on its objects.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use schema::Value;
use schema::structural::{Additional, CelRule, Kind, ListType, Node, Schema};
use schema::validate::{ErrorKind, FieldError};

use crate::cel::types::{Field, ObjectType, escape};
use crate::cel::{BUDGET, Cx, Env, Fault, Place, Program, Type, Val};

/// What one rule may cost at most, times how often it may be evaluated.
const RULE_COST_MAX: u64 = 10_000_000;
/// What all rules of a schema may cost at most.
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// The largest request, from which sizes are guessed that are not declared.
const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The rules of one schema, by their numbers.
#[derive(Default)]
pub struct Rules(Vec<Rule>);

struct Rule {
    program: Result<Program, String>,
    message: Option<Program>,
    uses_old: bool,
    /// Below the rule's place.
    field_path: String,
    /// The type at the rule's place, which stands for values that are not shown.
    kind: &'static str,
}

impl Rules {
    /// Compiles the rules; what is wrong with them comes as field errors below `path`. Of a schema that is not sound
    /// no expression is looked at.
    pub fn new(schema: &Schema, path: &str, sound: bool) -> (Rules, Vec<FieldError>) {
        let mut compiler = Compiler { rules: Vec::new(), errors: Vec::new(), total: 0, sound };
        let around = Around { root: true, cardinality: Some(1), uncorrelated: None };
        compiler.walk(schema.node(), path, &around);
        if compiler.total > SCHEMA_COST_MAX {
            let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            compiler.errors.push(FieldError::forbidden(path, too_costly(name, compiler.total, SCHEMA_COST_MAX)));
        }
        compiler.rules.sort_by_key(|(number, _)| *number);
        (Rules(compiler.rules.into_iter().map(|(_, rule)| rule).collect()), compiler.errors)
    }

    /// What the rules say of an object; what was wrong before and is unchanged is only warned of.
    pub fn evaluate(
        &self,
        schema: &Schema,
        new: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        let left = Cell::new(BUDGET);
        let mut exhausted = false;
        schema.evaluate(new, old, &mut |rule, value, old, path| match self.0.get(rule.number) {
            Some(compiled) if !exhausted => {
                let errors = compiled.evaluate(rule, value, old, path, &left, warnings);
                // One that took just the rest has held: the next one says that nothing is left.
                exhausted = left.get() == 0 && !errors.is_empty();
                errors
            }
            _ => Vec::new(),
        })
    }
}

fn told(rule: &CelRule) -> &str {
    match rule.message.trim() {
        "" => rule.rule.trim(),
        message => message,
    }
}

impl Rule {
    fn evaluate(
        &self,
        rule: &CelRule,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        left: &Cell<u64>,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        // A transition is judged only where there was something.
        if self.uses_old && old.is_none() && !rule.optional_old_self {
            return Vec::new();
        }
        let failed = |why: String| vec![FieldError::invalid(path, self.kind, why)];
        let program = match &self.program {
            Ok(program) => program,
            Err(why) => return failed(format!("rule compile error: {why}")),
        };
        let mut cx = Cx::new(left.get());
        cx.set("self", value.into());
        let was = old.map_or(Val::Null, Val::from);
        let was = match (rule.optional_old_self, old) {
            (false, _) => was,
            (true, None) => Val::Optional(None),
            (true, Some(_)) => Val::some(was),
        };
        cx.set("oldSelf", was);
        let result = cx.run(program);
        left.set(cx.budget());
        match result {
            Ok(Val::Bool(true)) => return Vec::new(),
            Ok(_) => {}
            Err(Fault::OutOfBudget) if left.get() == 0 => {
                let why =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                return failed(why.into());
            }
            Err(fault @ Fault::OutOfBudget) => {
                left.set(0);
                return failed(format!(
                    "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    told(rule)
                ));
            }
            Err(fault) if fault == Fault::no_such_overload() => {
                return failed(format!(
                    "'{fault}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    told(rule)
                ));
            }
            Err(fault) => return failed(format!("{fault} evaluating rule: {}", told(rule))),
        }
        let made = self.message.as_ref().map(|program| cx.run(program));
        left.set(cx.budget());
        let detail = match &made {
            Some(Err(Fault::OutOfBudget)) if left.get() == 0 => {
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned()
            }
            Some(Err(Fault::OutOfBudget)) => {
                left.set(0);
                let expression = &rule.message_expression;
                format!("no further validation rules will be run due to call cost exceeds limit for messageExpression: {expression:?}")
            }
            Some(Ok(Val::String(text))) if is_message(text) => text.trim().to_owned(),
            _ if rule.message.is_empty() => format!("failed rule: {}", rule.rule.trim()),
            _ => rule.message.trim().to_owned(),
        };
        let at = match (path, self.field_path.as_str()) {
            (path, "") => path.to_owned(),
            ("", field) => field.to_owned(),
            (path, field) => format!("{path}.{field}"),
        };
        let whole = matches!(self.kind, "object" | "array");
        let shown = || if whole { Value::Null } else { value.clone() };
        let error = match rule.reason.as_deref().unwrap_or_default() {
            "FieldValueForbidden" => FieldError::forbidden(at, detail),
            "FieldValueRequired" => FieldError::required(at, detail),
            "FieldValueDuplicate" => FieldError::duplicate(at, shown()),
            _ if whole => FieldError::new(ErrorKind::InvalidWhole, at, Value::Null, detail),
            _ => FieldError::invalid(at, shown(), detail),
        };
        // What was wrong before and is as it was does not hinder other changes.
        if !self.uses_old && old == Some(value) {
            warnings.push(error.to_string());
            return Vec::new();
        }
        vec![error]
    }
}

fn is_message(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.trim().contains(['\n', '\r'])
}

/// What the schemas around a node say about it.
struct Around {
    root: bool,
    /// How often it can be in an object; `None`: nothing bounds it.
    cardinality: Option<u64>,
    /// The place above which elements cannot be told from each other.
    uncorrelated: Option<String>,
}

struct Compiler {
    rules: Vec<(usize, Rule)>,
    errors: Vec<FieldError>,
    total: u64,
    sound: bool,
}

/// A rule as upstream prints it.
fn shown(rule: &CelRule) -> Value {
    Value::object([
        ("Rule", rule.rule.as_str().into()),
        ("Message", rule.message.as_str().into()),
        ("MessageExpression", rule.message_expression.as_str().into()),
        ("Reason", rule.reason.as_deref().map_or(Value::Null, Value::from)),
        ("FieldPath", rule.field_path.as_str().into()),
        ("OptionalOldSelf", if rule.optional_old_self { true.into() } else { Value::Null }),
    ])
}

fn too_costly(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

impl Compiler {
    fn walk(&mut self, node: &Node, path: &str, around: &Around) {
        if !node.cel.is_empty() {
            let shape = shape(node, around.root || node.embedded, "selfType");
            for (at, rule) in node.cel.iter().enumerate() {
                let compiled =
                    self.compile(node, rule, shape.as_ref(), &format!("{path}.x-kubernetes-validations[{at}]"), around);
                self.rules.push((rule.number, compiled));
            }
        }
        let below = |count: Option<u64>, forbids: bool| Around {
            root: false,
            cardinality: around.cardinality.zip(count).map(|(a, b)| a.saturating_mul(b)),
            uncorrelated: around.uncorrelated.clone().or_else(|| forbids.then(|| path.to_owned())),
        };
        for (name, inner) in &node.properties {
            self.walk(inner, &format!("{path}.properties[{name}]"), &below(Some(1), node.atomic_map));
        }
        if let Additional::Of(inner) = &node.additional {
            let around = below(node.max_properties, node.atomic_map);
            self.walk(inner, &format!("{path}.additionalProperties"), &around);
        }
        if let Some(items) = &node.items {
            let forbids = !matches!(node.list_type, ListType::Map(_));
            self.walk(items, &format!("{path}.items"), &below(node.max_items, forbids));
        }
    }

    fn compile(&mut self, node: &Node, rule: &CelRule, shape: Option<&Shape>, path: &str, around: &Around) -> Rule {
        let before = self.errors.len();
        self.words(rule, path);
        let field_path = match (rule.field_path.as_str(), normal_path(node, &rule.field_path)) {
            ("", _) => String::new(),
            (_, Some(normal)) => normal,
            (given, None) => {
                self.errors.push(FieldError::invalid(format!("{path}.fieldPath"), given, "must be a valid path"));
                String::new()
            }
        };
        let kind = node.kind.map_or("", Kind::name);
        let mut out = Rule { program: Err(String::new()), message: None, uses_old: false, field_path, kind };
        // Words that are wrong come first; then expressions are not looked at.
        if self.errors.len() > before || !self.sound {
            return out;
        }
        let Some(shape) = shape else {
            out.program = Err("failed to retrieve type information for x-kubernetes-validations".into());
            let why = "internal error: failed to retrieve type information for x-kubernetes-validations";
            self.errors.push(FieldError::new(ErrorKind::Internal, path, Value::Null, why));
            return out;
        };
        let old = if rule.optional_old_self { Type::optional(shape.ty.clone()) } else { shape.ty.clone() };
        let env = Env::new([("self", shape.ty.clone()), ("oldSelf", old)]);
        let program = match Program::compile(&rule.rule, &env) {
            Ok(program) if program.ty == Type::Bool => program,
            wrong => {
                let why = match wrong {
                    Err(error) => format!("compilation failed: {error}"),
                    Ok(_) => "cel expression must evaluate to a bool".into(),
                };
                self.errors.push(FieldError::invalid(format!("{path}.rule"), shown(rule), why.clone()));
                out.program = Err(why);
                return out;
            }
        };
        let times = around.cardinality.unwrap_or(REQUEST_BYTES_MAX / (shape.bytes_min + 1));
        let cost = program.estimate(&shape.place).max.saturating_mul(times);
        self.cost(cost, "estimated rule cost", format!("{path}.rule"));
        out.uses_old = program.uses("oldSelf");
        if !rule.message_expression.is_empty() {
            let place = format!("{path}.messageExpression");
            match Program::compile(&rule.message_expression, &env) {
                Ok(message) if message.ty == Type::String => {
                    self.cost(message.estimate(&shape.place).max, "estimated messageExpression cost", place);
                    out.message = Some(message);
                }
                wrong => {
                    let why = match wrong {
                        Err(error) => format!("messageExpression compilation failed: {error}"),
                        Ok(_) => "messageExpression must evaluate to a string".into(),
                    };
                    self.errors.push(FieldError::invalid(place, shown(rule), why));
                }
            }
        }
        match &around.uncorrelated {
            Some(place) if out.uses_old => {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {place}");
                self.errors.push(FieldError::invalid(format!("{path}.rule"), rule.rule.as_str(), why));
            }
            _ if rule.optional_old_self && !out.uses_old => {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.push(FieldError::invalid(format!("{path}.optionalOldSelf"), true, why));
            }
            _ => {}
        }
        out.program = Ok(program);
        out
    }

    fn cost(&mut self, cost: u64, name: &str, path: String) {
        self.total = self.total.saturating_add(cost);
        if cost > RULE_COST_MAX {
            self.errors.push(FieldError::forbidden(path, too_costly(name, cost, RULE_COST_MAX)));
        }
    }

    fn words(&mut self, rule: &CelRule, path: &str) {
        let broken = |text: &str| text.trim().contains(['\n', '\r']);
        let place = |field: &str| format!("{path}.{field}");
        let (message, errors) = (rule.message.as_str(), &mut self.errors);
        if rule.rule.trim().is_empty() {
            errors.push(FieldError::required(place("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(place("message"), message, "must be non-empty if specified"));
        } else if broken(message) {
            errors.push(FieldError::invalid(place("message"), message, "must not contain line breaks"));
        } else if broken(&rule.rule) && message.is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(place("message"), why));
        }
        if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(place("messageExpression"), why));
        }
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.push(FieldError::not_supported(place("reason"), reason, &REASONS));
        }
    }
}

/// `.spec.a` and `.m['key']` as a field path, if they lead anywhere.
fn normal_path(node: &Node, path: &str) -> Option<String> {
    let (mut node, mut rest, mut out) = (node, path, String::new());
    while !rest.is_empty() {
        let (name, quoted) = match rest.strip_prefix("['") {
            Some(quoted) => {
                let (name, after) = quoted.split_once("']")?;
                rest = after;
                (name, true)
            }
            None => {
                let plain = rest.strip_prefix('.')?;
                let end = plain.find(['.', '[']).unwrap_or(plain.len());
                rest = &plain[end..];
                (&plain[..end], false)
            }
        };
        let declared = node.properties.get(name);
        let separator = if out.is_empty() { "" } else { "." };
        match (&node.additional, declared) {
            (_, Some(inner)) => {
                out.push_str(&format!("{separator}{name}"));
                node = inner;
            }
            (Additional::Of(inner), None) if quoted => {
                out.push_str(&format!("[{name}]"));
                node = inner;
            }
            _ => return None,
        }
    }
    Some(out)
}

/// A node as CEL sees it: its type, how much can be there, and how little it takes to write it.
struct Shape {
    ty: Type,
    place: Place,
    bytes_min: u64,
}

/// `None`: expressions do not see such values.
fn shape(node: &Node, root: bool, name: &str) -> Option<Shape> {
    let simple =
        |ty: Type, max: u64, bytes_min: u64| Some(Shape { ty, place: Place { max, ..Place::default() }, bytes_min });
    // A character may take four bytes.
    let text_max = node.max_length.map(|n| n.saturating_mul(4));
    if node.int_or_string {
        return simple(Type::Dyn, text_max.unwrap_or(REQUEST_BYTES_MAX - 2), 1);
    }
    match node.kind? {
        Kind::Array => {
            let items = node.items.as_deref()?;
            let inner = shape(items, items.embedded, &format!("{name}.@idx"))?;
            let max = node.max_items.unwrap_or((REQUEST_BYTES_MAX - 2) / (inner.bytes_min + 1));
            let place = Place { max, items: Some(Box::new(inner.place)), ..Place::default() };
            Some(Shape { ty: Type::list(inner.ty), place, bytes_min: 2 })
        }
        Kind::Object => match &node.additional {
            Additional::Of(values) => {
                let inner = shape(values, values.embedded, &format!("{name}.@elem"))?;
                let max = node.max_properties.unwrap_or((REQUEST_BYTES_MAX - 2) / (inner.bytes_min + 6));
                let place = Place { max, items: Some(Box::new(inner.place)), ..Place::default() };
                Some(Shape { ty: Type::map(Type::String, inner.ty), place, bytes_min: 2 })
            }
            _ => Some(object(node, root, name)),
        },
        Kind::String => match node.format.as_str() {
            "byte" => simple(Type::Bytes, node.max_length.unwrap_or(REQUEST_BYTES_MAX - 2), 2),
            "duration" => simple(Type::Duration, 32, 3),
            "date" => simple(Type::Timestamp, 12, 12),
            "date-time" => simple(Type::Timestamp, 32, 21),
            _ => {
                let longest = node.enumeration.iter().filter_map(Value::as_str).map(|s| s.len() as u64).max();
                simple(Type::String, text_max.or(longest).unwrap_or(REQUEST_BYTES_MAX - 2), 2)
            }
        },
        Kind::Boolean => simple(Type::Bool, 0, 4),
        Kind::Number => simple(Type::Double, 0, 1),
        Kind::Integer => simple(Type::Int, 0, 1),
    }
}

fn object(node: &Node, root: bool, name: &str) -> Shape {
    let mut fields: BTreeMap<String, Field> = BTreeMap::new();
    let mut place = Place::default();
    let mut bytes_min = 2;
    for (property, inner) in &node.properties {
        // The root's own are always there, as they always are.
        if root && matches!(property.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let Some(shape) = shape(inner, inner.embedded, &format!("{name}.{property}")) else { continue };
        if node.required.iter().any(|name| name == property) && inner.default.is_none() {
            bytes_min += property.len() as u64 + shape.bytes_min + 4;
        }
        if let Some(escaped) = escape(property) {
            fields.insert(escaped.clone(), Field { name: property.to_string(), ty: shape.ty });
            // By the true name: that is what a checked expression has.
            place.fields.insert(property.to_string(), shape.place);
        }
    }
    if root {
        let metadata =
            Type::object(&format!("{name}.metadata"), [("name", Type::String), ("generateName", Type::String)]);
        let text = || Place { max: REQUEST_BYTES_MAX - 2, ..Place::default() };
        let meta_fields = ["name", "generateName"].map(|n| (n.to_owned(), text()));
        for (field, ty) in [("apiVersion", Type::String), ("kind", Type::String), ("metadata", metadata)] {
            fields.insert(field.into(), Field { name: field.into(), ty });
            place.fields.insert(field.into(), text());
        }
        place.fields.insert("metadata".into(), Place { fields: meta_fields.into_iter().collect(), ..Place::default() });
    }
    Shape { ty: Type::Object(Arc::new(ObjectType { name: name.into(), fields })), place, bytes_min }
}
