//! Writes the typed structs: plain data, and for each the list of its fields that the shared codec walks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::facts::{Facts, Field, Kind, Message, Result, Type};
use crate::overlay::Overlay;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

pub fn generate(facts: &Facts, overlay: &Overlay, roots: &str) -> Result<String> {
    let mut kinds = Vec::new();
    for line in roots.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let api_version = words.next().unwrap_or_default();
        for kind in words {
            let found =
                facts.kind(api_version, kind).ok_or_else(|| format!("typed.txt: no kind {api_version} {kind}"))?;
            kinds.push(found);
            kinds.extend(facts.kind(api_version, &format!("{kind}List")));
        }
    }
    let mut typed = Typed { facts, wanted: BTreeSet::new(), roots: BTreeMap::new() };
    for kind in &kinds {
        typed.want(&kind.message)?;
        typed.roots.insert(kind.message.clone(), typed.plain(&Type::Message(kind.message.clone())));
    }
    let mut modules: BTreeMap<(String, String), String> = BTreeMap::new();
    for name in typed.wanted.clone() {
        let message = facts.message(&name)?;
        if foreign(message).is_none() {
            let (group, version, _) = place(&name);
            let out = modules.entry((group.to_owned(), version.to_owned())).or_default();
            typed.message(message, out).map_err(|_| "formatting failed")?;
        }
    }
    for kind in kinds {
        let (group, version, _) = place(&kind.message);
        let out = modules.entry((group.to_owned(), version.to_owned())).or_default();
        typed.kind(kind, overlay, out).map_err(|_| "formatting failed")?;
    }
    let mut recode = String::from(
        "/// Decodes and encodes a message by its name.\n#[cfg(test)]\n\
         pub fn recode(name: &str, bytes: &[u8]) -> Option<Result<Vec<u8>, super::DecodeError>> {\n\
         use super::Message;\nSome(match name {\n",
    );
    for (name, path) in &typed.roots {
        let _ = writeln!(recode, "{name:?} => {path}::decode(bytes).map(|m| m.to_vec()),");
    }
    recode.push_str("_ => return None,\n})\n}\n");
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    for ((group, version), body) in &modules {
        let out = groups.entry(group).or_default();
        let _ = write!(out, "pub mod {version} {{\nuse crate::api::codec::*;\n{body}}}\n");
    }
    let mut out = String::from("// Written by build.rs from schema-data/.\n");
    for (group, body) in groups {
        let _ = write!(out, "pub mod {group} {{\n{body}}}\n");
    }
    out.push_str(&recode);
    Ok(out)
}

struct Typed<'a> {
    facts: &'a Facts,
    wanted: BTreeSet<String>,
    /// Message name → Rust path.
    roots: BTreeMap<String, String>,
}

impl Typed<'_> {
    fn want(&mut self, name: &str) -> Result<()> {
        if self.wanted.insert(name.to_owned()) {
            let message = self.facts.message(name)?;
            if foreign(message).is_none() {
                for inner in message.fields.iter().filter_map(|f| f.ty.message()) {
                    self.want(inner)?;
                }
            }
        }
        Ok(())
    }

    fn message(&self, message: &Message, out: &mut String) -> std::fmt::Result {
        let (_, _, name) = place(&message.name);
        writeln!(out, "/// `{}`\n#[derive(Clone, Debug, Default, PartialEq)]\npub struct {name} {{", message.name)?;
        let fields: Vec<_> = message.fields.iter().filter(|f| f.tag > 0).collect();
        for field in &fields {
            writeln!(out, "pub {}: {},", ident(&field.name), self.rust_type(&message.name, field))?;
        }
        writeln!(out, "pub unknown: Unknown,\n}}")?;
        let mut by_tag = fields;
        by_tag.sort_by_key(|f| f.tag);
        write!(out, "message!({name}, {:?}", message.name)?;
        for field in by_tag {
            write!(out, ", {} {}", field.tag, ident(&field.name))?;
        }
        writeln!(out, ");")
    }

    fn kind(&self, kind: &Kind, overlay: &Overlay, out: &mut String) -> std::fmt::Result {
        let (_, _, name) = place(&kind.message);
        let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
        let meta = |list: &str| {
            let Ok(message) = self.facts.message(&kind.message) else { return false };
            message.fields.iter().any(|f| f.name == "metadata" && f.ty.message() == Some(&format!("{META}{list}")))
        };
        writeln!(out, "kind!({name}, {group:?}, {version:?}, {:?});", kind.kind)?;
        if let Some((plural, namespaced)) = overlay.names(&kind.api_version, &kind.kind)
            && meta("ObjectMeta")
        {
            writeln!(out, "object!({name}, {plural:?}, {namespaced});")?;
        }
        if meta("ListMeta")
            && let Some(item) = kind.kind.strip_suffix("List")
            && overlay.names(&kind.api_version, item).is_some()
        {
            writeln!(out, "list!({name}, {item});")?;
        }
        Ok(())
    }

    fn rust_type(&self, owner: &str, field: &Field) -> String {
        let plain = self.plain(&field.ty);
        if !field.pointer {
            return plain;
        }
        match &field.ty {
            Type::Message(name) if self.reaches(name, owner, &mut BTreeSet::new()) => format!("Option<Box<{plain}>>"),
            _ => format!("Option<{plain}>"),
        }
    }

    fn plain(&self, ty: &Type) -> String {
        match ty {
            Type::Scalar(s) => match s.as_str() {
                "string" => "String",
                "bytes" => "Vec<u8>",
                "bool" => "bool",
                "int32" => "i32",
                "int64" => "i64",
                "uint32" => "u32",
                "uint64" => "u64",
                "float" => "f32",
                _ => "f64",
            }
            .to_owned(),
            Type::Message(name) => {
                if let Some(own) = self.facts.message(name).ok().and_then(foreign) {
                    return format!("crate::api::{own}");
                }
                let (group, version, short) = place(name);
                format!("crate::api::{group}::{version}::{short}")
            }
            Type::List(inner) => format!("Vec<{}>", self.plain(inner)),
            Type::Map(inner) => format!("BTreeMap<String, {}>", self.plain(inner)),
        }
    }

    /// Whether a value of `from` holds, without a list or map between, one of `to`.
    fn reaches(&self, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
        from == to
            || seen.insert(from.to_owned())
                && self.facts.message(from).is_ok_and(|m| {
                    m.fields.iter().any(|f| matches!(&f.ty, Type::Message(next) if self.reaches(next, to, seen)))
                })
    }
}

/// The types that `api.rs` writes by hand.
fn foreign(message: &Message) -> Option<&'static str> {
    Some(match message.form.as_str() {
        "time" => "Time",
        "microtime" => "MicroTime",
        "duration" => "Duration",
        "quantity" => "Quantity",
        "intorstring" => "IntOrString",
        "rawextension" => "RawExtension",
        "fieldsv1" => "FieldsV1",
        "json" => "Json",
        _ => return None,
    })
}

/// `io.k8s.api.core.v1.Pod` → `core`, `v1`, `Pod`.
fn place(name: &str) -> (&str, &str, &str) {
    let mut parts = name.rsplitn(4, '.');
    let (short, version, group) = (parts.next(), parts.next(), parts.next());
    (group.unwrap_or_default(), version.unwrap_or_default(), short.unwrap_or_default())
}

/// `podCIDRs` → `pod_cidrs`, `type` → `r#type`.
fn ident(json: &str) -> String {
    let chars: Vec<char> = json.chars().filter(|c| *c != '$').collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        if c == '-' {
            out.push('_');
            continue;
        }
        let before = i.checked_sub(1).map(|p| chars[p]);
        let plural = chars.get(i + 1) == Some(&'s') && chars.get(i + 2).is_none_or(|n| n.is_uppercase());
        let starts_word = chars.get(i + 1).is_some_and(|n| n.is_lowercase()) && !plural;
        if c.is_uppercase()
            && before.is_some_and(|b| b.is_lowercase() || b.is_ascii_digit() || b.is_uppercase() && starts_word)
        {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    match out.as_str() {
        "type" | "continue" | "enum" | "match" | "ref" | "default" | "static" | "use" | "for" | "if" | "in" | "not"
        | "where" | "virtual" | "final" | "priv" | "override" => format!("r#{out}"),
        _ => out,
    }
}
