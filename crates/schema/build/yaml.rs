//! The overlay's YAML as scalars, lists and mappings.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::facts::Result;

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// The text and whether it was quoted (`"true"` is a string).
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(m) => m.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn str(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Node::Scalar(s, _)) => s,
            _ => "",
        }
    }

    pub fn map(&self, key: &str) -> &[(String, Node)] {
        match self.get(key) {
            Some(Node::Map(m)) => m,
            _ => &[],
        }
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match self {
            Node::Map(m) => m.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn map_mut(&mut self, key: &str) -> &mut [(String, Node)] {
        match self.get_mut(key) {
            Some(Node::Map(m)) => m,
            _ => &mut [],
        }
    }

    /// Gives a mapping this member if it has none of the name.
    pub fn or(&mut self, key: &str, value: Node) {
        if let Node::Map(m) = self
            && !m.iter().any(|(k, _)| k == key)
        {
            m.push((key.to_owned(), value));
        }
    }

    pub fn list(&self, key: &str) -> &[Node] {
        match self.get(key) {
            Some(Node::List(l)) => l,
            _ => &[],
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Node::Scalar(s, _) => s,
            _ => "",
        }
    }

    /// Compact JSON of this value, as YAML's core schema reads its scalars.
    pub fn json(&self) -> String {
        match self {
            Node::Scalar(s, false) if is_literal(s) => s.clone(),
            Node::Scalar(s, _) => quote(s),
            Node::List(l) => format!("[{}]", l.iter().map(Node::json).collect::<Vec<_>>().join(",")),
            Node::Map(m) => {
                let members: Vec<_> = m.iter().map(|(k, v)| format!("{}:{}", quote(k), v.json())).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
}

fn is_literal(s: &str) -> bool {
    matches!(s, "true" | "false" | "null") || s.parse::<i64>().is_ok() || s.contains('.') && s.parse::<f64>().is_ok()
}

fn quote(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
}

pub fn parse(text: &str) -> Result<Node> {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events)? {
            Event::StreamStart | Event::DocumentStart(_) => {}
            event => return node(event, &mut events),
        }
    }
}

fn next<'a>(events: &mut Parser<'a, StrInput<'a>>) -> Result<Event<'a>> {
    match events.next() {
        Some(event) => event.map(|(event, _)| event).map_err(|e| e.to_string()),
        None => Err("it ends early".into()),
    }
}

fn node<'a>(event: Event<'a>, events: &mut Parser<'a, StrInput<'a>>) -> Result<Node> {
    match event {
        // What is left empty is null.
        Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~") => {
            Ok(Node::Scalar("null".into(), false))
        }
        Event::Scalar(text, style, ..) => Ok(Node::Scalar(text.into_owned(), style != ScalarStyle::Plain)),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events)? {
                    Event::SequenceEnd => return Ok(Node::List(items)),
                    event => items.push(node(event, events)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut members: Vec<(String, Node)> = Vec::new();
            loop {
                let key = match next(events)? {
                    Event::MappingEnd => return Ok(Node::Map(members)),
                    Event::Scalar(key, ..) => key.into_owned(),
                    other => return Err(format!("no key: {other:?}")),
                };
                if members.iter().any(|(known, _)| *known == key) {
                    return Err(format!("{key} twice"));
                }
                let event = next(events)?;
                members.push((key, node(event, events)?));
            }
        }
        other => Err(format!("unexpected: {other:?}")),
    }
}
