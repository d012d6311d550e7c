//! The part of YAML that the overlay is written in: block mappings and lists by indentation, flow lists and mappings
//! on one line, plain and quoted scalars, comments on lines of their own or after two spaces and a `#`.

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
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let body = line.trim_start();
        if !body.is_empty() && !body.starts_with('#') {
            lines.push((line.len() - body.len(), body, i + 1));
        }
    }
    let mut at = 0;
    let node = block(&lines, &mut at, 0)?;
    match lines.get(at) {
        None => Ok(node),
        Some((_, text, n)) => Err(format!("line {n}: wrong indentation: {text}")),
    }
}

type Line<'a> = (usize, &'a str, usize);

fn block(lines: &[Line], at: &mut usize, indent: usize) -> Result<Node> {
    let Some((_, first, _)) = lines.get(*at) else { return Ok(Node::Map(Vec::new())) };
    if *first == "-" || first.starts_with("- ") {
        let mut items = Vec::new();
        while let Some((here, text, n)) = lines.get(*at).copied() {
            if here != indent || !text.starts_with('-') {
                break;
            }
            *at += 1;
            items.push(flow_line(text[1..].trim()).map_err(|e| format!("line {n}: {e}"))?);
        }
        return Ok(Node::List(items));
    }
    let mut members: Vec<(String, Node)> = Vec::new();
    while let Some((here, text, n)) = lines.get(*at).copied() {
        if here != indent {
            break;
        }
        *at += 1;
        let fail = |e: String| format!("line {n}: {e}");
        let mut cursor = Cursor { text, at: 0 };
        let key = cursor.key().map_err(fail)?;
        let rest = text[cursor.at..].trim();
        let rest = rest.split_once("  #").map_or(rest, |(r, _)| r.trim_end());
        if members.iter().any(|(k, _)| *k == key) {
            return Err(fail(format!("{key} twice")));
        }
        let value = match lines.get(*at) {
            Some((deeper, ..)) if rest.is_empty() && *deeper > indent => block(lines, at, *deeper)?,
            _ if rest.is_empty() => Node::Scalar("null".into(), false),
            _ => flow_line(rest).map_err(fail)?,
        };
        members.push((key, value));
    }
    Ok(Node::Map(members))
}

fn flow_line(text: &str) -> Result<Node> {
    if !text.starts_with(['[', '{', '"', '\'']) {
        return Ok(Node::Scalar(text.to_owned(), false));
    }
    let mut cursor = Cursor { text, at: 0 };
    let node = cursor.flow()?;
    match text[cursor.at..].trim() {
        "" => Ok(node),
        rest => Err(format!("unexpected {rest}")),
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.as_bytes().get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    /// A mapping's key and its colon.
    fn key(&mut self) -> Result<String> {
        let key = match self.peek() {
            Some(b'"' | b'\'') => self.quoted()?,
            _ => {
                let rest = &self.text[self.at..];
                let end = rest
                    .match_indices(':')
                    .map(|(i, _)| i)
                    .find(|i| matches!(rest.as_bytes().get(i + 1), None | Some(b' ')));
                let end = end.ok_or_else(|| format!("a key and a colon expected: {rest}"))?;
                self.at += end;
                rest[..end].to_owned()
            }
        };
        if self.eat(b':') { Ok(key) } else { Err(format!("a colon expected after {key}")) }
    }

    fn quoted(&mut self) -> Result<String> {
        let quote = self.text.as_bytes()[self.at];
        let mut out = Vec::new();
        let mut i = self.at + 1;
        while let Some(&c) = self.text.as_bytes().get(i) {
            let next = self.text.as_bytes().get(i + 1).copied();
            match (c, next) {
                (b'\\', Some(n)) if quote == b'"' => {
                    out.push(if n == b'n' { b'\n' } else { n });
                    i += 1;
                }
                (b'\'', Some(b'\'')) if quote == b'\'' => {
                    out.push(c);
                    i += 1;
                }
                _ if c == quote => {
                    self.at = i + 1;
                    return String::from_utf8(out).map_err(|e| e.to_string());
                }
                _ => out.push(c),
            }
            i += 1;
        }
        Err("a quote is not closed".into())
    }

    fn flow(&mut self) -> Result<Node> {
        match self.peek() {
            Some(b'[') => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.eat(b']') {
                    items.push(self.flow()?);
                    if !self.eat(b',') && self.peek() != Some(b']') {
                        return Err("`,` or `]` expected".into());
                    }
                }
                Ok(Node::List(items))
            }
            Some(b'{') => {
                self.at += 1;
                let mut members = Vec::new();
                while !self.eat(b'}') {
                    let key = self.key()?;
                    members.push((key, self.flow()?));
                    if !self.eat(b',') && self.peek() != Some(b'}') {
                        return Err("`,` or `}` expected".into());
                    }
                }
                Ok(Node::Map(members))
            }
            Some(b'"' | b'\'') => Ok(Node::Scalar(self.quoted()?, true)),
            Some(_) => {
                let rest = &self.text[self.at..];
                let end = rest.find([',', ']', '}']).unwrap_or(rest.len());
                self.at += end;
                Ok(Node::Scalar(rest[..end].trim().to_owned(), false))
            }
            None => Err("a value expected".into()),
        }
    }
}
