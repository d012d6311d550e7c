//! Rules as data: upstream's declarative markers (`maxItems=32`, `format=k8s-short-name`, `immutable`), and a few more.
//!
//! A row of a [`RuleBook`] is a message, a dotted path within it (or nothing: the message itself) and a rule.

use std::collections::{HashMap, HashSet};

use super::{ErrorKind, FieldError, meta, names};
use crate::checks;
use crate::{Field, Form, ListKind, MessageId, Object, Table, Type, Value, quantity::Quantity, selector};

/// A demand on one field, or on a whole message.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Not empty. `required`, `required(must specify a name)`
    Required(String),
    /// There, if only as an empty text: `present`, `present(must be given)`.
    Present(String),
    /// Empty. `forbidden(may not be set by users)`
    Forbidden(String),
    /// Never changes; an attempt is not shown, as with upstream's marker. `immutable`
    Immutable,
    /// Never changes, and what was tried is shown. `kept`
    Kept,
    /// As `immutable`, and nothing within is looked at when it was tried. `sealed`
    Sealed,
    /// `update=NoSet`, `NoUnset`, `NoModify`
    Update(UpdateRule),
    /// `format=k8s-short-name`: the place in [`FORMATS`].
    Format(usize),
    /// `format=labels`, `format=label-selector`: a map of labels, a `metav1.LabelSelector`.
    Labels,
    LabelSelector,
    /// `minimum=0`
    Minimum(i64),
    /// `maximum=100`
    Maximum(i64),
    /// `range=1..65535`: "must be between 1 and 65535, inclusive"
    Range(i64, i64),
    /// Characters. `maxLength=63`, `minLength=1`
    MaxLength(usize),
    MinLength(usize),
    /// `maxBytes=256`
    MaxBytes(usize),
    /// `maxItems=32`, `minItems=1`; `maxProperties` is the same of maps.
    MaxItems(usize),
    MinItems(usize),
    /// `enum=A,B`, in the order of the message.
    Enum(Vec<String>),
    /// `unique=set`: no element twice.
    Unique,
    /// `alone(API groups)`: where `*` is, no other element is; the word says what they are.
    Alone(String),
    /// `unique=map(name)`: no two elements with these fields alike; the error names the last one of them.
    UniqueBy(Vec<String>),
    /// `eachVal=…`, `eachKey=…`
    EachValue(Box<Rule>),
    EachKey(Box<Rule>),
    /// `dependentRequired(other)`: if this is set, the other has to be.
    DependentRequired(String),
    /// `check=toleration`: a function of [`crate::checks`], by its place.
    Check(usize),
    /// `when(type=Localhost)=rule`: the rule holds if a sibling has that value.
    When(String, String, Box<Rule>),
    /// `given=format=ip`: the rule holds for an empty text too, if there is one.
    Given(Box<Rule>),
    /// `zero=minimum=1`: what is absent is an empty text or 0, and the rule holds for it.
    Zero(Box<Rule>),
    /// `unlisted`: whether the value is one of those of its field, other rules say.
    Unlisted,
    /// `late=check=podMounts`: the rule sees what is wrong with the fields.
    Late(Box<Rule>),
    /// `created=required`: the rule holds when an object comes, and not when it changes.
    Created(Box<Rule>),
    /// `says(must be positive)=minimum=1`: the rule in other words.
    Says(String, Box<Rule>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateRule {
    NoSet,
    NoUnset,
    NoModify,
}

/// What is wrong with a value, which is mostly a text.
type Format = fn(&Value, &str) -> names::Problems;

/// What a string (or number) must look like, by upstream's names and some of ours.
static FORMATS: &[(&str, Format)] = &[
    ("k8s-short-name", |_, text| names::dns1123_label(text)),
    ("k8s-long-name", |_, text| names::dns1123_subdomain(text)),
    ("k8s-long-name-caseless", |_, text| names::caseless_subdomain(text)),
    ("k8s-resource-pool-name", |_, text| names::dns1123_subdomain(text)),
    ("dns1035", |_, text| names::dns1035_label(text)),
    ("kind", |_, text| names::kind(text)),
    ("domain-path", |_, text| names::domain_path(text)),
    ("fully-qualified", |_, text| names::fully_qualified(text)),
    ("k8s-label-key", |_, text| names::label_key(text)),
    ("k8s-extended-resource-name", |_, text| names::extended_resource(text)),
    ("k8s-resource-fully-qualified-name", |_, text| names::device_attribute(text)),
    ("k8s-prefixed-label-key", |_, text| names::prefixed_label_key(text)),
    ("k8s-label-value", |_, text| names::label_value(text)),
    ("k8s-path-segment-name", |_, text| names::path_segment(text)),
    ("signer-name", |_, text| names::signer_name(text)),
    ("k8s-uuid", |_, text| names::uuid(text)),
    ("port-name", |_, text| names::port_name(text)),
    // An IntOrString: a port's number or name.
    ("port", |value, text| value.as_i64().map_or_else(|| names::port_name(text), names::port_number)),
    ("env-name", |_, text| names::env_name(text)),
    ("config-map-key", |_, text| names::config_map_key(text)),
    ("ip", |_, text| names::ip(text)),
    ("cidr", |_, text| names::cidr(text)),
    ("semver", |_, text| names::semver(text)),
    ("absolute-path", |_, text| match text.starts_with('/') {
        true => Vec::new(),
        false => vec!["must be an absolute path".to_owned()],
    }),
    ("relative-path", |_, text| names::relative_path(text)),
    ("search-domain", |_, text| if text == "." { Vec::new() } else { names::search_domain(text) }),
    // One which is not negative.
    ("quantity", |_, text| match Quantity::parse(text) {
        Ok(quantity) if quantity.nanos < 0 => vec!["must be greater than or equal to 0".to_owned()],
        Ok(_) => Vec::new(),
        Err(error) => vec![error.to_string()],
    }),
];

/// `ValidateLabelSelector`
pub fn label_selector(value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = meta::labels(value.get(&["matchLabels"]), &format!("{path}.matchLabels"));
    for (i, expression) in value.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = |name: &str| format!("{path}.matchExpressions[{i}].{name}");
        let values = expression.list_at(&["values"]);
        match expression.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(at("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(at("operator"), other, "not a valid selector operator")),
        }
        let key = expression.str_at(&["key"]);
        errors.extend(names::label_key(key).into_iter().map(|p| FieldError::invalid(at("key"), key, p)));
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let problems = names::label_value(value);
            errors.extend(problems.into_iter().map(|p| FieldError::invalid(at(&format!("values[{j}]")), value, p)));
        }
    }
    if errors.is_empty()
        && let Err(error) = selector::LabelSelector::from_value(value)
    {
        errors.push(FieldError::invalid(path, value.clone(), error.to_string()));
    }
    errors
}

impl Rule {
    /// Reads one rule; `None` if it is none. Upstream's `+k8s:` before it is allowed.
    pub fn parse(text: &str) -> Option<Rule> {
        let text = text.trim();
        let text = text.strip_prefix("+k8s:").unwrap_or(text);
        let argument = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        let list = |text: &str| text.split(',').map(|w| w.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
        match text {
            "required" => return Some(Rule::Required(String::new())),
            "present" => return Some(Rule::Present(String::new())),
            "forbidden" => return Some(Rule::Forbidden(String::new())),
            "immutable" => return Some(Rule::Immutable),
            "unlisted" => return Some(Rule::Unlisted),
            "kept" => return Some(Rule::Kept),
            "sealed" => return Some(Rule::Sealed),
            "unique=set" => return Some(Rule::Unique),
            _ => {}
        }
        let worded: [(&str, fn(String) -> Rule); 4] = [
            ("required", Rule::Required),
            ("present", Rule::Present),
            ("forbidden", Rule::Forbidden),
            ("alone", Rule::Alone),
        ];
        for (name, rule) in worded {
            if let Some(detail) = argument(name) {
                return Some(rule(detail.to_owned()));
            }
        }
        if let Some(fields) = argument("unique=map") {
            return Some(Rule::UniqueBy(list(fields)));
        }
        if let Some(field) = argument("dependentRequired") {
            return Some(Rule::DependentRequired(field.trim_matches('"').to_owned()));
        }
        if let Some(rest) = text.strip_prefix("when(") {
            let (condition, rule) = rest.split_once(")=")?;
            let (field, value) = condition.split_once('=')?;
            return Some(Rule::When(field.to_owned(), value.to_owned(), Box::new(Rule::parse(rule)?)));
        }
        if let Some(rest) = text.strip_prefix("says(") {
            let (detail, rule) = rest.split_once(")=")?;
            return Some(Rule::Says(detail.to_owned(), Box::new(Rule::parse(rule)?)));
        }
        let (name, value) = text.split_once('=')?;
        let value = value.split(" #").next().unwrap_or_default().trim();
        Some(match name {
            "check" => Rule::Check(checks::find(value)?),
            "format" => match value.trim_matches('"') {
                "labels" => Rule::Labels,
                "label-selector" => Rule::LabelSelector,
                name => Rule::Format(FORMATS.iter().position(|(known, _)| *known == name)?),
            },
            "minimum" => Rule::Minimum(value.parse().ok()?),
            "maximum" => Rule::Maximum(value.parse().ok()?),
            "range" => {
                let (min, max) = value.split_once("..")?;
                Rule::Range(min.parse().ok()?, max.parse().ok()?)
            }
            "maxLength" => Rule::MaxLength(value.parse().ok()?),
            "minLength" => Rule::MinLength(value.parse().ok()?),
            "maxBytes" => Rule::MaxBytes(value.parse().ok()?),
            "maxItems" | "maxProperties" => Rule::MaxItems(value.parse().ok()?),
            "minItems" | "minProperties" => Rule::MinItems(value.parse().ok()?),
            "enum" => Rule::Enum(list(value)),
            "eachVal" => Rule::EachValue(Box::new(Rule::parse(value)?.given())),
            "eachKey" => Rule::EachKey(Box::new(Rule::parse(value)?.given())),
            "created" => Rule::Created(Box::new(Rule::parse(value)?)),
            "given" => Rule::Given(Box::new(Rule::parse(value)?)),
            "late" => Rule::Late(Box::new(Rule::parse(value)?)),
            "zero" => Rule::Zero(Box::new(Rule::parse(value)?)),
            "update" => Rule::Update(match value {
                "NoSet" => UpdateRule::NoSet,
                "NoUnset" => UpdateRule::NoUnset,
                "NoModify" => UpdateRule::NoModify,
                _ => return None,
            }),
            _ => return None,
        })
    }

    /// The rule as it holds for what may be an empty text, and is one nevertheless: an element, or what a pointer refers to.
    pub fn given(self) -> Rule {
        match self {
            Rule::Format(_) | Rule::Enum(_) | Rule::MinLength(_) => Rule::Given(Box::new(self)),
            Rule::Says(detail, rule) => Rule::Says(detail, Box::new(rule.given())),
            other => other,
        }
    }

    /// Checks one value: `holder` is the object it is a member of.
    fn check(&self, value: &Value, old: Option<&Value>, holder: &Value, path: &str, errors: &mut Vec<FieldError>) {
        let is_set = |name: &str| {
            holder.dotted(name).is_some_and(|v| !v.is_null() && !matches!(v, Value::String(s) if s.is_empty()))
        };
        match self {
            Rule::Required(detail) => {
                // A boolean that is there is given, false or not; so is an empty struct.
                let given = !matches!(value, Value::Null | Value::Int(0))
                    && !matches!(value, Value::String(s) if s.is_empty())
                    && !matches!(value, Value::List(l) if l.is_empty());
                if !given {
                    errors.push(FieldError::required(path, detail.as_str()));
                }
            }
            Rule::Present(detail) => {
                if value.is_null() {
                    errors.push(FieldError::required(path, detail.as_str()));
                }
            }
            Rule::Forbidden(detail) => {
                if !value.is_empty() {
                    errors.push(FieldError::forbidden(path, detail.as_str()));
                }
            }
            Rule::Immutable | Rule::Kept | Rule::Sealed => {
                if old.is_some_and(|old| !checks::same(old, value)) {
                    let shown = if *self == Rule::Kept { value.clone() } else { Value::Null };
                    errors.push(FieldError::invalid(path, shown, "field is immutable"));
                }
            }
            Rule::Update(rule) => {
                let Some(old) = old else { return };
                let broken = match rule {
                    UpdateRule::NoSet if old.is_empty() && !value.is_empty() => "field cannot be set once created",
                    UpdateRule::NoUnset if !old.is_empty() && value.is_empty() => "field cannot be cleared once set",
                    UpdateRule::NoModify if !old.is_empty() && !value.is_empty() && old != value => {
                        "field cannot be modified once set"
                    }
                    _ => return,
                };
                errors.push(FieldError::invalid(path, Value::Null, broken));
            }
            Rule::When(field, wanted, rule) => {
                let found = holder.dotted(field).unwrap_or(&Value::Null);
                let same = found.as_str().map_or_else(|| found.to_string() == *wanted, |s| s == wanted);
                if same {
                    rule.check(value, old, holder, path, errors);
                }
            }
            Rule::DependentRequired(other) => {
                if !value.is_empty() && !is_set(other) {
                    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
                    let field = if parent.is_empty() { other.clone() } else { format!("{parent}.{other}") };
                    errors.push(FieldError::required(field, format!("must be set when `{name}` is specified")));
                }
            }
            Rule::Check(function) => {
                if let Some((_, check)) = checks::FUNCTIONS.get(*function).filter(|_| !value.is_null()) {
                    check(&mut checks::Check { value, old, path, errors });
                }
            }
            Rule::Late(rule) => rule.check(value, old, holder, path, errors),
            Rule::Says(detail, rule) => {
                let known = errors.len();
                rule.check(value, old, holder, path, errors);
                errors.iter_mut().skip(known).for_each(|error| error.detail.clone_from(detail));
            }
            Rule::Given(rule) if !value.is_null() => match **rule {
                Rule::Required(_) => rule.check(value, old, holder, path, errors),
                _ => rule.shape(value, holder, path, errors),
            },
            Rule::Created(rule) if old.is_none() => rule.check(value, old, holder, path, errors),
            Rule::Created(_) => {}
            Rule::Zero(rule) if value.is_null() => {
                let number = matches!(**rule, Rule::Minimum(_) | Rule::Maximum(_) | Rule::Range(..));
                let zero = if number { Value::Int(0) } else { Value::from("") };
                rule.shape(&zero, holder, path, errors);
            }
            Rule::Zero(rule) => rule.shape(value, holder, path, errors),
            // What is absent has no shape; an empty string is checked only if something requires it.
            _ if value.is_null() || matches!(value, Value::String(s) if s.is_empty()) => {}
            _ => self.shape(value, holder, path, errors),
        }
    }

    /// What a value must look like, wherever it came from.
    fn shape(&self, value: &Value, holder: &Value, path: &str, errors: &mut Vec<FieldError>) {
        let invalid = |detail: String| FieldError::invalid(path, value.clone(), detail);
        let count = || match value {
            Value::List(list) => list.len(),
            Value::Object(object) => object.len(),
            _ => 0,
        };
        let text = || value.as_str().unwrap_or_default();
        match self {
            Rule::Format(at) => {
                let problems = FORMATS.get(*at).map(|(_, format)| format(value, text())).unwrap_or_default();
                errors.extend(problems.into_iter().map(invalid));
            }
            Rule::Labels => errors.extend(meta::labels(Some(value), path)),
            Rule::LabelSelector => errors.extend(label_selector(value, path)),
            Rule::Minimum(min) if value.as_i64().is_some_and(|v| v < *min) => {
                errors.push(invalid(format!("must be greater than or equal to {min}")));
            }
            Rule::Maximum(max) if value.as_i64().is_some_and(|v| v > *max) => {
                errors.push(invalid(format!("must be less than or equal to {max}")));
            }
            Rule::Range(min, max) => {
                let problems = value.as_i64().map(|v| names::in_range(v, *min, *max)).unwrap_or_default();
                errors.extend(problems.into_iter().map(invalid));
            }
            Rule::MaxLength(max) if text().chars().count() > *max => {
                let unit = if *max == 1 { "character" } else { "characters" };
                let detail = format!("may not be more than {max} {unit}");
                errors.push(FieldError::new(ErrorKind::TooLong, path, "<value omitted>", detail));
            }
            Rule::MinLength(min) if text().chars().count() < *min => {
                let unit = if *min == 1 { "character" } else { "characters" };
                let detail = format!("must be at least {min} {unit}");
                errors.push(FieldError::new(ErrorKind::TooShort, path, value.clone(), detail));
            }
            Rule::MaxBytes(max) if text().len() > *max => {
                errors.push(FieldError::too_long(path, *max));
            }
            Rule::MaxItems(max) if count() > *max => {
                errors.push(FieldError::too_many(path, count(), *max));
            }
            Rule::MinItems(min) if count() < *min => {
                errors.push(FieldError::too_few(path, count(), *min));
            }
            Rule::Enum(values) if !values.iter().any(|v| v == text()) => {
                errors.push(FieldError::not_supported(path, value.clone(), values));
            }
            Rule::Alone(others) => {
                let list = value.as_list().unwrap_or_default();
                if list.len() > 1 && list.iter().any(|item| item.as_str() == Some("*")) {
                    errors.push(invalid(format!("if '*' is present, must not specify other {others}")));
                }
            }
            Rule::Unique => {
                let mut seen = HashSet::new();
                for (i, item) in value.as_list().unwrap_or_default().iter().enumerate() {
                    if !seen.insert(item.to_string()) {
                        errors.push(FieldError::duplicate(format!("{path}[{i}]"), item.clone()));
                    }
                }
            }
            Rule::UniqueBy(keys) => {
                let mut seen = HashSet::new();
                for (i, item) in value.as_list().unwrap_or_default().iter().enumerate() {
                    let id: Vec<Value> = keys.iter().map(|k| item.dotted(k).cloned().unwrap_or_default()).collect();
                    if id.iter().all(Value::is_empty) || seen.insert(Value::List(id.clone()).to_string()) {
                        continue;
                    }
                    errors.push(match keys.as_slice() {
                        [key] => FieldError::duplicate(format!("{path}[{i}].{key}"), id[0].clone()),
                        _ => FieldError::duplicate(format!("{path}[{i}]"), item.clone()),
                    });
                }
            }
            Rule::EachValue(rule) => match value {
                Value::List(list) => {
                    for (i, item) in list.iter().enumerate() {
                        rule.check(item, None, holder, &format!("{path}[{i}]"), errors);
                    }
                }
                Value::Object(object) => {
                    for (key, item) in object {
                        rule.check(item, None, holder, &format!("{path}[{key}]"), errors);
                    }
                }
                _ => {}
            },
            Rule::EachKey(rule) => {
                for key in value.as_object().into_iter().flat_map(Object::keys) {
                    rule.check(&Value::from(key.as_str()), None, holder, path, errors);
                }
            }
            // All others are no shapes.
            _ => {}
        }
    }
}

#[derive(Debug)]
struct Row {
    /// Empty: the message itself.
    path: String,
    rule: Rule,
}

/// Rules by message.
#[derive(Debug, Default)]
pub struct RuleBook {
    rows: HashMap<MessageId, Vec<Row>>,
}

impl RuleBook {
    pub fn add(&mut self, message: MessageId, path: &str, rule: Rule) {
        self.rows.entry(message).or_default().push(Row { path: path.to_owned(), rule });
    }

    fn of(&self, message: MessageId) -> impl Iterator<Item = &Row> {
        self.rows.get(&message).into_iter().flatten()
    }

    fn is_unlisted(&self, message: MessageId, field: &str) -> bool {
        self.of(message).any(|row| row.path == field && row.rule == Rule::Unlisted)
    }
}

/// Everything wrong with an object by the rules of its kind (`old` on update, for immutability),
/// and every value outside of its field's closed set. A kind's metadata is [`super::metadata`]'s affair.
pub fn object(table: &Table, rules: &RuleBook, id: MessageId, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk { table, rules, errors: Vec::new(), sealed: None };
    walk.message(id, new, old, "");
    walk.errors
}

struct Walk<'a> {
    table: &'a Table,
    rules: &'a RuleBook,
    errors: Vec<FieldError>,
    sealed: Option<String>,
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Walk<'_> {
    fn message(&mut self, id: MessageId, new: &Value, old: Option<&Value>, path: &str) {
        let table = self.table;
        let message = table.message(id);
        let Value::Object(object) = new else { return };
        if message.form != Form::Struct {
            return;
        }
        self.rows(id, new, old, path, false);
        // A plain struct is always there in Go.
        let nothing = Value::Object(Object::new());
        table.each_field(message, &mut |field| {
            let plain = !field.pointer && table.is_struct(&field.ty);
            let value = object.get(&field.name).filter(|value| !plain || !value.is_null());
            let Some(value) = value.or(plain.then_some(&nothing)) else { return };
            if path.is_empty() && matches!(&*field.name, "metadata" | "status") {
                return;
            }
            let at = join(path, &field.name);
            if self.sealed.as_ref() == Some(&at) {
                return;
            }
            if !field.enumeration.is_empty() && !self.rules.is_unlisted(id, &field.name) {
                match value {
                    Value::String(text) if field.pointer || !text.is_empty() => self.listed(field, text, &at),
                    Value::List(list) => list.iter().enumerate().for_each(|(i, item)| {
                        self.listed(field, item.as_str().unwrap_or_default(), &format!("{at}[{i}]"));
                    }),
                    _ => {}
                }
            }
            self.value(&field.ty, value, old.and_then(|o| o.member(&field.name)), &at);
        });
        self.rows(id, new, old, path, true);
    }

    /// The value is one of those of its field, unless a rule found something wrong with it.
    fn listed(&mut self, field: &Field, text: &str, at: &str) {
        let is_wrong = |e: &FieldError| e.field == at && e.detail != "field is immutable";
        if !field.enumeration.iter().any(|e| **e == *text) && !self.errors.iter().any(is_wrong) {
            self.errors.push(FieldError::not_supported(at, text, &field.enumeration));
        }
    }

    /// The rows of a message, and of those that stand in it inline.
    fn rows(&mut self, id: MessageId, new: &Value, old: Option<&Value>, path: &str, late: bool) {
        for inner in self.table.message(id).fields.iter().filter(|field| field.inline) {
            if let Type::Message(id) = inner.ty {
                self.rows(id, new, old, path, late);
            }
        }
        let rules = self.rules;
        for row in rules.of(id).filter(|row| matches!(row.rule, Rule::Late(_)) == late) {
            let (value, was, at) = if row.path.is_empty() {
                (Some(new), old, path.to_owned())
            } else {
                // A row of a field within a struct that is absent does not apply.
                if let Some((parent, _)) = row.path.rsplit_once('.')
                    && new.dotted(parent).is_none_or(Value::is_null)
                {
                    continue;
                }
                (new.dotted(&row.path), old.and_then(|o| o.dotted(&row.path)), join(path, &row.path))
            };
            // A number that is missing is not too small as well.
            if matches!(row.rule, Rule::Minimum(_) | Rule::Range(..))
                && self.errors.iter().any(|error| error.kind == ErrorKind::Required && error.field == at)
            {
                continue;
            }
            let was = was.or(old.map(|_| &Value::Null));
            let known = self.errors.len();
            row.rule.check(value.unwrap_or(&Value::Null), was, new, &at, &mut self.errors);
            if row.rule == Rule::Sealed && self.errors.len() > known {
                self.sealed = Some(at);
            }
        }
    }

    fn value(&mut self, ty: &Type, new: &Value, old: Option<&Value>, path: &str) {
        match (ty, new) {
            (Type::Message(id), _) => self.message(*id, new, old, path),
            (Type::List { element, kind }, Value::List(list)) if matches!(**element, Type::Message(_)) => {
                for (i, item) in list.iter().enumerate() {
                    let was = match kind {
                        ListKind::Map { keys } => old
                            .and_then(Value::as_list)
                            .and_then(|old| old.iter().find(|o| keys.iter().all(|k| o.member(k) == item.member(k)))),
                        _ => old.and_then(Value::as_list).and_then(|old| old.get(i)),
                    };
                    self.value(element, item, was, &format!("{path}[{i}]"));
                }
            }
            (Type::Map { value: ty, .. }, Value::Object(object)) if matches!(**ty, Type::Message(_)) => {
                for (key, item) in object {
                    self.value(ty, item, old.and_then(|o| o.member(key)), &format!("{path}[{key}]"));
                }
            }
            _ => {}
        }
    }
}
