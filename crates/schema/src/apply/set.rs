//! Sets of field paths, and their `FieldsV1` form.
//!
//! A path element is kept as it is written in `FieldsV1`: `f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`.

use std::collections::BTreeMap;

use crate::{Object, Value, json};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The path that ends here is in the set.
    pub member: bool,
    pub children: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// `f:name`
pub fn field(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(k, v)| (&**k, v))
    }

    /// Whether the path of this one element is in the set.
    pub fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|n| n.member)
    }

    pub fn insert(&mut self, path: &[Box<str>]) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut here = self;
        for element in parents {
            here = &mut here.0.entry(element.clone()).or_default().children;
        }
        here.0.entry(last.clone()).or_default().member = true;
    }

    /// A set of dotted field paths (`status`, `metadata.labels`).
    pub fn of_fields(paths: &[&str]) -> Set {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.split('.').map(field).collect::<Vec<_>>());
        }
        set
    }

    fn combine(&self, other: &Set, both: fn(&Node, &Node) -> Node, left: bool, right: bool) -> Set {
        let mut out = BTreeMap::new();
        for (element, node) in &self.0 {
            let combined = match other.0.get(element) {
                Some(theirs) => both(node, theirs),
                None if left => node.clone(),
                None => continue,
            };
            if !combined.is_empty() {
                out.insert(element.clone(), combined);
            }
        }
        if right {
            for (element, node) in other.0.iter().filter(|(e, _)| !self.0.contains_key(*e)) {
                out.insert(element.clone(), node.clone());
            }
        }
        Set(out)
    }

    pub fn union(&self, other: &Set) -> Set {
        let both = |a: &Node, b: &Node| Node { member: a.member || b.member, children: a.children.union(&b.children) };
        self.combine(other, both, true, true)
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let both =
            |a: &Node, b: &Node| Node { member: a.member && b.member, children: a.children.intersection(&b.children) };
        self.combine(other, both, false, false)
    }

    /// Without the other's paths; what is below them stays.
    pub fn difference(&self, other: &Set) -> Set {
        let both =
            |a: &Node, b: &Node| Node { member: a.member && !b.member, children: a.children.difference(&b.children) };
        self.combine(other, both, true, false)
    }

    /// Without the other's paths and all that is below them.
    pub fn without(&self, other: &Set) -> Set {
        let both = |a: &Node, b: &Node| {
            if b.member {
                Node::default()
            } else {
                Node { member: a.member, children: a.children.without(&b.children) }
            }
        };
        self.combine(other, both, true, false)
    }

    pub fn insert_node(&mut self, element: &str, node: Node) {
        if !node.is_empty() {
            self.0.insert(element.into(), node);
        }
    }

    /// Reads `FieldsV1`; anything that is none is an empty set.
    pub fn from_fields_v1(fields: &Value) -> Set {
        let mut set = BTreeMap::new();
        for (element, below) in fields.as_object().into_iter().flatten().filter(|(e, _)| *e != ".") {
            let has_members = below.as_object().is_some_and(|b| b.keys().any(|k| k != "."));
            let member = !has_members || below.member(".").is_some();
            set.insert(canonical(element), Node { member, children: Set::from_fields_v1(below) });
        }
        Set(set)
    }

    /// Whether any path of this set stands in the `FieldsV1`.
    pub fn touches(&self, fields: &Value) -> bool {
        self.0.iter().any(|(element, node)| {
            fields.member(element).is_some_and(|below| {
                let nothing_below = below.as_object().is_none_or(|b| b.keys().all(|k| k == "."));
                node.member && (nothing_below || below.member(".").is_some()) || node.children.touches(below)
            })
        })
    }

    pub fn to_fields_v1(&self) -> Value {
        Value::Object(self.members(false))
    }

    fn members(&self, itself: bool) -> Object {
        let mut object: Object = self
            .0
            .iter()
            .map(|(element, node)| {
                let dot = node.member && !node.children.is_empty();
                (element.to_string(), Value::Object(node.children.members(dot)))
            })
            .collect();
        if itself {
            object.insert(".".to_owned(), Value::Object(Object::new()));
        }
        object
    }

    /// Every path, as upstream prints it: `.spec.ports[port=80].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.print(String::new(), &mut out);
        out
    }

    fn print(&self, prefix: String, out: &mut Vec<String>) {
        for (element, node) in self.0.iter().filter(|(_, n)| n.member) {
            let _ = node;
            out.push(format!("{prefix}{}", display(element)));
        }
        for (element, node) in &self.0 {
            node.children.print(format!("{prefix}{}", display(element)), out);
        }
    }
}

/// The one spelling of a key or value element.
fn canonical(element: &str) -> Box<str> {
    match element.get(..2) {
        Some(kind @ ("k:" | "v:")) if element.contains([' ', '\n', '\t']) => {
            match json::parse(&element.as_bytes()[2..]) {
                Ok(value) => format!("{kind}{value}").into(),
                Err(_) => element.into(),
            }
        }
        _ => element.into(),
    }
}

/// `.name`, `[name="x"]`, `[="x"]`, `[0]`
pub fn display(element: &str) -> String {
    let Some((kind, rest)) = element.split_at_checked(2) else { return element.to_owned() };
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let key = json::parse(rest.as_bytes()).unwrap_or_default();
            let members = key.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", quote(value)));
            format!("[{}]", members.collect::<Vec<_>>().join(","))
        }
        "v:" => format!("[={}]", quote(&json::parse(rest.as_bytes()).unwrap_or_default())),
        _ => format!("[{rest}]"),
    }
}

fn quote(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}
