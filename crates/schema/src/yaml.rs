//! YAML as sigs.k8s.io/yaml reads and writes it: YAML 1.1's words for booleans, keys made strings, JSON's kinds of values.

#[cfg(test)]
mod tests;
mod write;

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use crate::json::{FieldProblem, MAX_DEPTH};
use crate::{Decoded, Object, Value};

pub use write::write;

/// What aliases may add to a document, in nodes: a "billion laughs" stops here.
const MAX_ALIASED_NODES: u64 = 200_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("yaml: line {line}: {message}")]
pub struct YamlError {
    /// From 1.
    pub line: u64,
    pub message: String,
}

/// The first document, null if there is none. Duplicate keys are reported; the last one wins.
pub fn parse(text: &[u8]) -> Result<Decoded, YamlError> {
    let text = utf8(text)?;
    let mut reader = Reader::new(text);
    let value = reader.document()?.unwrap_or_default();
    let problems = if reader.repeated.is_empty() { Vec::new() } else { vec![FieldProblem::Yaml(reader.repeated)] };
    Ok(Decoded { value, problems })
}

/// All documents of a stream, the empty ones left out.
pub fn parse_all(text: &[u8]) -> Result<Vec<Value>, YamlError> {
    let mut reader = Reader::new(utf8(text)?);
    let mut documents = Vec::new();
    while let Some(document) = reader.document()? {
        if !document.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

fn utf8(text: &[u8]) -> Result<&str, YamlError> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    std::str::from_utf8(text).map_err(|e| {
        let line = text[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() as u64 + 1;
        YamlError { line, message: "invalid UTF-8".to_owned() }
    })
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Values with an anchor, and how many nodes they have.
    anchors: HashMap<usize, (Value, u64)>,
    aliased: u64,
    nodes: u64,
    line: u64,
    /// go-yaml's words for keys that came again, a line each.
    repeated: Vec<String>,
}

type Tagged<'a> = Option<Cow<'a, Tag>>;

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Reader<'a> {
        Reader {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            aliased: 0,
            nodes: 0,
            line: 1,
            repeated: Vec::new(),
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, YamlError> {
        Err(YamlError { line: self.line, message: message.into() })
    }

    fn event(&mut self) -> Result<Event<'a>, YamlError> {
        match self.parser.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line() as u64;
                Ok(event)
            }
            Some(Err(error)) => Err(YamlError { line: error.marker().line() as u64, message: error.info().to_owned() }),
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(&mut self) -> Result<Option<Value>, YamlError> {
        loop {
            match self.event()? {
                Event::StreamEnd => return Ok(None),
                Event::DocumentStart(_) => {
                    self.anchors.clear();
                    let event = self.event()?;
                    if matches!(event, Event::DocumentEnd) {
                        return Ok(Some(Value::Null));
                    }
                    return self.node(event, 0).map(Some);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Value, YamlError> {
        if depth > MAX_DEPTH {
            return self.fail("exceeded max depth");
        }
        let before = self.nodes;
        self.nodes += 1;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, self.scalar(&text, style, &tag)?),
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(id) => {
                let Some((value, size)) = self.anchors.get(&id) else { return self.fail("unknown anchor referenced") };
                self.aliased += size;
                if self.aliased > MAX_ALIASED_NODES {
                    return self.fail("document contains excessive aliasing");
                }
                let (value, size) = (value.clone(), *size);
                self.nodes += size;
                return Ok(value);
            }
            _ => return self.fail("did not find expected node content"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        loop {
            let event = self.event()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(list));
            }
            list.push(self.node(event, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut object = Object::new();
        let mut merged: Vec<Value> = Vec::new();
        loop {
            let event = self.event()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, depth + 1)?;
            // As Go prints it: strings in quotes, the rest plainly.
            let printed = key.to_string();
            let key = match key {
                Value::String(key) => key,
                Value::Bool(_) | Value::Int(_) | Value::Float(_) => printed.clone(),
                key => return self.fail(format!("invalid map key: {key}")),
            };
            let event = self.event()?;
            let line = self.line;
            let value = self.node(event, depth + 1)?;
            if merge {
                match value {
                    Value::List(list) => merged.extend(list),
                    other => merged.push(other),
                }
                continue;
            }
            if object.contains_key(&key) {
                self.repeated.push(format!("line {line}: key {printed} already set in map"));
            }
            object.insert(key, value);
        }
        for value in merged {
            let Value::Object(other) = value else {
                return self.fail("map merge requires map or sequence of maps as the value");
            };
            for (key, value) in other {
                object.entry(key).or_insert(value);
            }
        }
        Ok(Value::Object(object))
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: &Tagged<'a>) -> Result<Value, YamlError> {
        let core = tag.as_ref().filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str());
        let string = || Ok(Value::String(text.to_owned()));
        match core {
            Some("str" | "binary") => return string(),
            Some(kind @ ("int" | "float" | "bool" | "null")) => {
                let value = resolve(text);
                let fits = match kind {
                    "int" => matches!(value, Value::Int(_)),
                    "float" => matches!(value, Value::Int(_) | Value::Float(_)),
                    "bool" => matches!(value, Value::Bool(_)),
                    _ => matches!(value, Value::Null),
                };
                return if fits { Ok(value) } else { self.fail(format!("cannot decode `{text}` as a !!{kind}")) };
            }
            _ => {}
        }
        if style != ScalarStyle::Plain || tag.is_some() {
            return string();
        }
        match resolve(text) {
            // JSON has no such number.
            Value::Float(f) if !f.is_finite() => self.fail(format!("json: unsupported value: {text}")),
            value => Ok(value),
        }
    }
}

/// What a plain scalar is: YAML 1.1 as go-yaml reads it.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let string = || Value::String(text.to_owned());
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) || looks_like_date(text) {
        return string();
    }
    let plain = text.replace('_', "");
    integer(&plain).map(Value::Int).or_else(|| float(&plain)).unwrap_or_else(string)
}

fn looks_like_date(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() >= 8 && b[..4].iter().all(u8::is_ascii_digit) && b[4] == b'-'
}

/// Go's `ParseInt(text, 0, 64)`: `0x`, `0b`, `0o` and a bare leading zero say the base.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// A float, or the integer that its JSON is.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.trim_start_matches(['+', '-']);
    let digits = unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !digits || !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || unsigned == "." {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    let whole = value.fract() == 0.0 && value.abs() < 9.2e18;
    Some(if whole { Value::Int(value as i64) } else { Value::Float(value) })
}
