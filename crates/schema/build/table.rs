//! Writes the table as tab-separated lines, with types by number, for `src/builtin.rs` to load.

use std::fmt::Write;

use crate::facts::{Facts, Field, Result, Type};
use crate::overlay::Overlay;
use crate::yaml::Node;

pub fn write(facts: &Facts, overlay: &Overlay) -> Result<String> {
    let mut out = String::new();
    let enums: Vec<_> = facts.enums.keys().collect();
    for values in facts.enums.values() {
        let _ = writeln!(out, "e\t{values}");
    }
    for message in &facts.messages {
        let _ = writeln!(out, "m\t{}\t{}\t{}", message.name, message.form, u8::from(message.atomic));
        for field in &message.fields {
            let mut ty = String::new();
            spell(facts, field, &field.ty, &mut ty)?;
            let number = field.flag("enum").and_then(|name| enums.iter().position(|e| *e == name));
            let number = number.map(|n| n.to_string()).unwrap_or_default();
            let bit = |flag: &str, letter: char| field.has(flag).then_some(letter);
            let flags: String = [
                field.pointer.then_some('p'),
                bit("omitempty", 'e'),
                bit("omitzero", 'z'),
                bit("inline", 'i'),
                bit("required", 'r'),
                bit("atomic", 'a'),
                bit("granular", 'g'),
            ]
            .into_iter()
            .flatten()
            .collect();
            let text = |flag| field.flag(flag).unwrap_or_default();
            let (patch, key, default) = (text("patch"), text("key"), text("default"));
            let line = format!("f\t{}\t{}\t{ty}\t{flags}\t{patch}\t{key}\t{number}\t{default}", field.name, field.tag);
            let _ = writeln!(out, "{}", line.trim_end_matches('\t'));
        }
    }
    for kind in &facts.kinds {
        let message = facts.by_name.get(&kind.message).ok_or_else(|| format!("no message {}", kind.message))?;
        let _ = writeln!(out, "k\t{}\t{}\t{message}", kind.api_version, kind.kind);
    }
    for (api_version, node) in &overlay.versions {
        resources(facts, api_version, node, &mut out)?;
    }
    for version in 0..overlay.versions.len() {
        for (name, row) in overlay.types(facts, version)? {
            presets(facts, &name, row, &mut out).map_err(|e| format!("overlay: {name}: {e}"))?;
        }
    }
    Ok(out)
}

/// `s` string, `b` bool, …; a number is a message; `[` list with its kind after a colon, `{` map.
fn spell(facts: &Facts, field: &Field, ty: &Type, out: &mut String) -> Result<()> {
    match ty {
        Type::Scalar(s) => out.push_str(match s.as_str() {
            "string" => "s",
            "bytes" => "y",
            "bool" => "b",
            "int32" => "i",
            "int64" => "l",
            "uint32" => "u",
            "uint64" => "v",
            "float" => "g",
            "double" => "d",
            "any" => "*",
            other => return Err(format!("scalar {other}")),
        }),
        Type::Message(name) => {
            let id = facts.by_name.get(name).ok_or_else(|| format!("no message {name}"))?;
            let _ = write!(out, "{id}");
        }
        Type::List(inner) => {
            out.push_str(match field.flag("list") {
                Some("set") => "S",
                Some(list) if list.starts_with("map:") => "M",
                _ => "L",
            });
            if let Some(keys) = field.flag("list").and_then(|l| l.strip_prefix("map:")) {
                let _ = write!(out, "{keys};");
            }
            spell(facts, field, inner, out)?;
        }
        Type::Map(inner) => {
            out.push(if field.has("atomic") { 'A' } else { 'G' });
            spell(facts, field, inner, out)?;
        }
    }
    Ok(())
}

fn resources(facts: &Facts, api_version: &str, node: &Node, out: &mut String) -> Result<()> {
    for (plural, row) in node.map("resources") {
        let kind = row.str("kind");
        let fact = facts.kind(api_version, kind).ok_or_else(|| format!("no kind {api_version} {kind}"))?;
        let message = facts.by_name.get(&fact.message).ok_or_else(|| format!("no message {}", fact.message))?;
        let words = |key| row.list(key).iter().map(Node::text).collect::<Vec<_>>().join(",");
        let _ = writeln!(
            out,
            "r\t{api_version}\t{kind}\t{plural}\t{}\t{}\t{message}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            kind.to_lowercase(),
            u8::from(row.str("namespaced") == "true"),
            row.str("storage"),
            row.str("prefix"),
            words("shortNames"),
            words("categories"),
            words("verbs"),
            words("selectable"),
            words("behaviours"),
            u8::from(node.str("enabled") != "false"),
        );
        for (name, sub) in row.map("subresources") {
            // Most are a part of their object.
            let or = |key, own| if sub.get(key).is_some() { sub.str(key) } else { own };
            let (api_version, kind) = (or("apiVersion", api_version), or("kind", kind));
            let verbs: Vec<_> = sub.list("verbs").iter().map(Node::text).collect();
            let verbs = if verbs.is_empty() { "get,patch,update".to_owned() } else { verbs.join(",") };
            let _ = writeln!(out, "s\t{name}\t{api_version}\t{kind}\t{verbs}");
        }
        for c in row.list("columns") {
            let priority = if c.str("priority").is_empty() { "0" } else { c.str("priority") };
            let _ = writeln!(
                out,
                "c\t{}\t{}\t{}\t{priority}\t{}",
                c.str("name"),
                c.str("type"),
                c.str("format"),
                c.str("source")
            );
        }
    }
    Ok(())
}

fn presets(facts: &Facts, name: &str, row: &Node, out: &mut String) -> Result<()> {
    let id = facts.by_name.get(name).ok_or("facts have no such message")?;
    for (path, value) in row.map("defaults") {
        let (mut owner, mut pointer) = (name, false);
        let mut steps = path.split('.').peekable();
        while let Some(step) = steps.next() {
            let field = facts.field(owner, step)?;
            pointer = field.pointer;
            if steps.peek().is_some() {
                owner =
                    field.ty.message().filter(|_| !pointer).ok_or_else(|| format!("{path}: {step} may be absent"))?;
            }
        }
        let _ = writeln!(out, "d\t{id}\t{path}\t{}\t{}", if pointer { "p" } else { "" }, value.json());
    }
    if !row.str("conditional").is_empty() {
        let _ = writeln!(out, "x\t{id}\t{}", row.str("conditional"));
    }
    let Node::Map(members) = row else { return Err("a mapping expected".into()) };
    let known = |key: &str| matches!(key, "defaults" | "conditional") || key.starts_with('.');
    match members.iter().find(|(key, _)| !known(key)) {
        Some((key, _)) => Err(format!("unknown key {key}")),
        None => Ok(()),
    }
}

/// The overlay's rules, whose words go before others, then the declarative markers that read as rules: `w` and `v` lines
/// of message, path and rule.
pub fn rules(facts: &Facts, overlay: &Overlay) -> Result<String> {
    let mut out = String::new();
    for version in 0..overlay.versions.len() {
        for (name, row) in overlay.types(facts, version)? {
            let id = facts.by_name.get(&name).ok_or_else(|| format!("overlay: facts have no message {name}"))?;
            let Node::Map(members) = row else { continue };
            for (path, rules) in members.iter().filter(|(key, _)| key.starts_with('.')) {
                let mut owner = name.as_str();
                for step in path.split('.').filter(|s| !s.is_empty()) {
                    owner = facts.field(owner, step)?.ty.message().unwrap_or_default();
                }
                for rule in rules.text().split("; ") {
                    let _ = writeln!(out, "w\t{id}\t{}\t{rule}", path.trim_matches('.'));
                }
            }
        }
    }
    for (id, message) in facts.messages.iter().enumerate() {
        for field in &message.fields {
            for marker in field.markers.iter().filter(|m| *m != "optional") {
                let _ = writeln!(out, "v\t{id}\t{}\t{marker}", field.name);
            }
        }
    }
    Ok(out)
}
