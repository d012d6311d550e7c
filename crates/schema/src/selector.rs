//! Label and field selectors.

use std::borrow::Cow;

use crate::Value;
use crate::validate::names;

/// What is wrong with a selector, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without doubles.
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold. Empty selects everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// A nil `metav1.LabelSelector`.
    pub nothing: bool,
}

type Result<T> = std::result::Result<T, SelectorError>;

fn fail<T>(message: String) -> Result<T> {
    Err(SelectorError(message))
}

impl LabelSelector {
    /// The query string's grammar: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<LabelSelector> {
        let mut parser = Parser { rest: text, ahead: None };
        let mut requirements = parser.selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// A `metav1.LabelSelector` object; null selects nothing, an empty object everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector> {
        if value.is_null() {
            return Ok(LabelSelector { nothing: true, ..Default::default() });
        }
        let mut requirements = Vec::new();
        for (key, value) in value.object_at(&["matchLabels"]).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.to_string(), Operator::Equals, vec![value])?);
        }
        for expression in value.list_at(&["matchExpressions"]) {
            let operator = match expression.str_at(&["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return fail(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.list_at(&["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(expression.str_at(&["key"]).to_owned(), operator, values)?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// `get` looks a label up.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Matches against the labels of an object's metadata, or of any map of strings.
    pub fn matches_value(&self, labels: &Value) -> bool {
        self.matches(|key| labels.member(key).and_then(Value::as_str))
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Requirement {
    /// Checks key and values as upstream does.
    pub fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Requirement> {
        let mut problems: Vec<String> = Vec::new();
        let invalid = |field: String, value: &str, detail: &str| format!("{field}: Invalid value: {value:?}: {detail}");
        let key_problems = names::label_key(&key);
        if !key_problems.is_empty() {
            problems.push(invalid("key".into(), &key, &key_problems.join("; ")));
        }
        let all = if values.is_empty() { Value::Null } else { Value::list(values.iter().map(String::as_str)) };
        let mut about_all = |detail: &str| problems.push(format!("values: Invalid value: {all}: {detail}"));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                about_all("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                about_all("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                about_all("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    about_all("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    problems.push(invalid(format!("values[{i}]"), value, detail));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let value_problems = names::label_value(value);
            if !value_problems.is_empty() {
                problems.push(invalid(format!("values[{i}][{key}]"), value, &value_problems.join("; ")));
            }
        }
        match problems.len() {
            0 => {
                values.sort();
                values.dedup();
                Ok(Requirement { key, operator, values })
            }
            1 => fail(problems.remove(0)),
            _ => fail(format!("[{}]", problems.join(", "))),
        }
    }

    pub fn matches(&self, label: Option<&str>) -> bool {
        let has = |label: &str| self.values.iter().any(|v| v == label);
        match (self.operator, label) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, label) => label.is_some_and(has),
            (Operator::NotIn | Operator::NotEquals, label) => !label.is_some_and(has),
            (Operator::Exists, label) => label.is_some(),
            (Operator::DoesNotExist, label) => label.is_none(),
            (Operator::GreaterThan | Operator::LessThan, label) => {
                let wanted = self.values.first().and_then(|v| v.parse::<i64>().ok());
                let (Some(label), Some(wanted)) = (label.and_then(|l| l.parse::<i64>().ok()), wanted) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { label > wanted } else { label < wanted }
            }
        }
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let values = values.join(",");
            match operator {
                Operator::In => write!(f, "{comma}{key} in ({values})")?,
                Operator::NotIn => write!(f, "{comma}{key} notin ({values})")?,
                Operator::Equals => write!(f, "{comma}{key}={values}")?,
                Operator::DoubleEquals => write!(f, "{comma}{key}=={values}")?,
                Operator::NotEquals => write!(f, "{comma}{key}!={values}")?,
                Operator::Exists => write!(f, "{comma}{key}")?,
                Operator::DoesNotExist => write!(f, "{comma}!{key}")?,
                Operator::GreaterThan => write!(f, "{comma}{key}>{values}")?,
                Operator::LessThan => write!(f, "{comma}{key}<{values}")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Word(&'a str),
    Symbol(&'a str),
}

impl Token<'_> {
    fn text(self) -> String {
        match self {
            Token::End => String::new(),
            Token::Word(text) | Token::Symbol(text) => text.to_owned(),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    ahead: Option<Token<'a>>,
}

const SYMBOLS: [&str; 9] = ["!=", "==", "=", "!", "(", ")", ",", ">", "<"];

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        if let Some(token) = self.ahead.take() {
            return token;
        }
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if self.rest.is_empty() {
            return Token::End;
        }
        let symbol = SYMBOLS.into_iter().find(|s| self.rest.starts_with(s));
        let special = |c: char| "=!(),><".contains(c);
        let len = match symbol {
            Some(symbol) => symbol.len(),
            None => self.rest.find(|c: char| special(c) || " \t\r\n".contains(c)).unwrap_or(self.rest.len()),
        };
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        if symbol.is_some() { Token::Symbol(text) } else { Token::Word(text) }
    }

    fn peek(&mut self) -> Token<'a> {
        let token = self.next();
        self.ahead = Some(token);
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self.requirement();
                    requirements
                        .push(requirement.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => return fail(format!("found '{}', expected: identifier after ','", other.text())),
                        },
                        other => return fail(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                    }
                }
                Token::End => return Ok(requirements),
                other => return fail(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Word(key) = token else { return fail(format!("found '{}', expected: identifier", token.text())) };
        let problems = names::label_key(key);
        if !problems.is_empty() {
            return fail(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; ")));
        }
        let key = key.to_owned();
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => {
                return fail(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => match self.peek() {
                Token::End | Token::Symbol(",") => vec![String::new()],
                Token::Word(word) => {
                    self.next();
                    vec![word.to_owned()]
                }
                other => return fail(format!("found '{}', expected: identifier", other.text())),
            },
        };
        Requirement::new(key, operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>> {
        let open = self.next();
        if open != Token::Symbol("(") {
            return fail(format!("found '{}' expected: '('", open.text()));
        }
        if self.peek() == Token::Symbol(")") {
            self.next();
            return Ok(vec![String::new()]);
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Symbol(",")) {
            return fail(format!("found '{}', expected: ',', ')' or identifier", self.peek().text()));
        }
        let mut values: Vec<String> = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word.to_owned());
                    match self.peek() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => break,
                        other => return fail(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Symbol(",") => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek() {
                        Token::Symbol(")") => {
                            values.push(String::new());
                            break;
                        }
                        Token::Symbol(",") => values.push(String::new()),
                        _ => {}
                    }
                }
                other => return fail(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
        self.next();
        Ok(values)
    }
}

/// A field selector: `status.phase=Running,spec.nodeName!=a`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<FieldSelector> {
        let mut parts: Vec<&str> = Vec::new();
        let (mut start, mut escaped) = (0, false);
        for (i, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                ',' => {
                    parts.push(&text[start..i]);
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[start..]);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let found = part.char_indices().find_map(|(i, _)| {
                ["!=", "==", "="].into_iter().find(|op| part[i..].starts_with(op)).map(|op| (i, op))
            });
            let Some((at, operator)) = found else {
                return fail(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let value = unescape(&part[at + operator.len()..])?;
            terms.push(FieldTerm { path: part[..at].to_owned(), value, negated: operator == "!=" });
        }
        Ok(FieldSelector { terms })
    }

    /// `get` reads a field as a string, `""` if it is not there.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (get(&t.path) == t.value) != t.negated)
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value which a field must have, if one term says so (`metadata.name`).
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return fail(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return fail("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => {
                return fail(format!("invalid field selector: unescaped character in value: {}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}
