//! What a kubelet is told, by flags and by KubeletConfiguration: parsed by one table, every mistake named at once.
//!
//! Entry points: [`Settings::read`], then [`Settings::apply`]. A flag stands above the file's fields, and those of
//! `config-dir` above the file's.

mod apply;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use schema::yaml;
use serde_json::{Map, Value, json};

use table::{Kind, Meaning, ROWS, Row};

/// One flag of kubelet, as it was given: name and value.
pub type Flag = (String, String);

/// By field (or flag, where there is no field): what was said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    said: BTreeMap<&'static str, Value>,
}

fn key(row: &Row) -> &'static str {
    if row.field.is_empty() { row.flag } else { row.field }
}

fn default(row: &Row) -> Value {
    serde_json::from_str(row.default).unwrap_or(Value::Null)
}

/// `NAME=VALUE`, with or without dashes; a switch needs no value. What is wrong with one flag is said at once.
pub fn flag(text: &str) -> Result<Flag, String> {
    let text = text.trim_start_matches('-');
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if matches!(name, "config" | "config-dir") {
        return if value.is_empty() { Err("a path is missing".into()) } else { Ok((name.into(), value.into())) };
    }
    let Some(row) = ROWS.iter().find(|row| row.flag == name && !name.is_empty()) else {
        let known = ROWS.iter().filter(|row| row.meaning == Meaning::Set && !row.flag.is_empty());
        let known: Vec<&str> = known.map(|row| row.flag).collect();
        return Err(format!("known are config, config-dir, {}", known.join(", ")));
    };
    let switch = row.kind == Kind::Bool && !text.contains('=');
    let value = if switch { "true" } else { value };
    let parsed = from_text(row.kind, value)?;
    check(row, &parsed)?;
    Ok((name.to_owned(), value.to_owned()))
}

fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(match kind {
        Kind::Int => json!(text.parse::<i64>().map_err(|_| "expected a number")?),
        Kind::Bool => match text {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => json!(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => json!(false),
            _ => return Err("expected true or false".into()),
        },
        Kind::Text | Kind::Duration | Kind::Any => json!(text),
        Kind::List => parts().collect(),
        Kind::Map(sign) => {
            let mut map = Map::new();
            for part in parts() {
                let (name, value) =
                    part.split_once(sign).ok_or_else(|| format!("expected NAME{sign}VALUE, not {part}"))?;
                map.insert(name.trim().into(), json!(value.trim()));
            }
            Value::Object(map)
        }
        Kind::Taints => {
            let taint = |part: &str| {
                let (pair, effect) =
                    part.rsplit_once(':').ok_or_else(|| format!("expected KEY=VALUE:EFFECT, not {part}"))?;
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok::<_, String>(json!({"key": key, "value": value, "effect": effect}))
            };
            parts().map(taint).collect::<Result<_, _>>()?
        }
        Kind::ReservedMemory => {
            let mut nodes: Vec<Value> = Vec::new();
            for part in parts() {
                let wrong = || format!("expected NODE:memory=AMOUNT,…, not {part}");
                let (node, pair) = match part.split_once(':') {
                    Some((node, pair)) => (Some(node.parse::<u32>().map_err(|_| wrong())?), pair),
                    None => (None, part),
                };
                let (name, amount) = pair.split_once('=').ok_or_else(wrong)?;
                if let Some(node) = node {
                    nodes.push(json!({"numaNode": node, "limits": {}}));
                }
                nodes.last_mut().ok_or_else(wrong)?["limits"][name] = json!(amount);
            }
            Value::Array(nodes)
        }
    })
}

/// Whether a file or a flag may say this.
fn check(row: &Row, value: &Value) -> Result<(), String> {
    let strings =
        |value: &Value| value.as_object().is_some_and(|map| map.values().all(|of| of.is_string() || of.is_boolean()));
    let (fits, expected) = match row.kind {
        Kind::Int => (value.is_i64() || value.is_u64(), "a number"),
        Kind::Bool => (value.is_boolean(), "true or false"),
        Kind::Text => (value.is_string(), "a string"),
        Kind::Duration => (value.as_str().and_then(schema::time::parse_duration).is_some(), "a duration such as 1m30s"),
        Kind::List => (value.as_array().is_some_and(|list| list.iter().all(Value::is_string)), "a list of strings"),
        Kind::Map(_) => (strings(value), "a map of strings"),
        Kind::Taints | Kind::ReservedMemory => {
            (value.as_array().is_some_and(|list| list.iter().all(Value::is_object)), "a list of objects")
        }
        Kind::Any => (true, ""),
    };
    if !fits {
        return Err(format!("expected {expected}"));
    }
    let unset = matches!(value, Value::String(text) if text.is_empty());
    if row.meaning == Meaning::Fixed && *value != default(row) && !unset {
        return Err("cannot be set on this node".into());
    }
    Ok(())
}

impl Settings {
    /// What these flags say, and the files that they name; `read` reads a file or lists a directory's.
    pub fn read(flags: &[Flag], files: &dyn Files) -> Result<Self, Vec<String>> {
        let mut settings = Self::default();
        let mut problems = Vec::new();
        let last =
            |name: &str| flags.iter().rev().find(|(known, _)| known == name).map(|(_, path)| PathBuf::from(path));
        let mut paths: Vec<PathBuf> = last("config").into_iter().collect();
        if let Some(dir) = last("config-dir") {
            match files.list(&dir) {
                Ok(mut more) => {
                    more.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
                    more.sort();
                    paths.extend(more);
                }
                Err(error) => problems.push(format!("cannot read {}: {error}", dir.display())),
            }
        }
        for path in paths {
            match files.read(&path) {
                Ok(text) => settings.take_file(&path, &text, &mut problems),
                Err(error) => problems.push(format!("cannot read {}: {error}", path.display())),
            }
        }
        let mut by_flags: BTreeMap<&'static str, Value> = BTreeMap::new();
        for (name, text) in flags.iter().filter(|(name, _)| !matches!(&**name, "config" | "config-dir")) {
            let row = ROWS.iter().find(|row| row.flag == name);
            match row.map(|row| (row, from_text(row.kind, text).and_then(|value| check(row, &value).map(|()| value)))) {
                None => problems.push(format!("--{name}: unknown flag")),
                Some((_, Err(why))) => problems.push(format!("--{name}: {why}")),
                // Lists and maps of repeated flags add up, as upstream's.
                Some((row, Ok(value))) => match (by_flags.get_mut(key(row)), value) {
                    (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
                    (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
                    (_, value) => drop(by_flags.insert(key(row), value)),
                },
            }
        }
        settings.said.extend(by_flags);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn take_file(&mut self, path: &Path, text: &str, problems: &mut Vec<String>) {
        let before = problems.len();
        match parse_file(text) {
            Err(why) => problems.push(why),
            Ok(fields) => {
                for (name, value) in fields {
                    self.take_field("", &name, value, problems);
                }
            }
        }
        for problem in &mut problems[before..] {
            *problem = format!("{}: {problem}", path.display());
        }
    }

    fn take_field(&mut self, above: &str, name: &str, value: Value, problems: &mut Vec<String>) {
        let field = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
        if field == "apiVersion" || field == "kind" || value.is_null() {
            return;
        }
        if let Some(row) = ROWS.iter().find(|row| row.field == field) {
            match check(row, &value) {
                Ok(()) => drop(self.said.insert(row.field, value)),
                Err(why) => problems.push(format!("{field}: {why}")),
            }
            return;
        }
        let inner = format!("{field}.");
        match value {
            Value::Object(members) if ROWS.iter().any(|row| row.field.starts_with(&inner)) => {
                members.into_iter().for_each(|(name, value)| self.take_field(&field, &name, value, problems));
            }
            _ => problems.push(format!("unknown field \"{field}\"")),
        }
    }

    /// What is in force: what was said, or the default; null if neither is.
    fn get(&self, name: &str) -> Value {
        let row = ROWS.iter().find(|row| key(row) == name);
        row.map_or(Value::Null, |row| self.said.get(name).cloned().unwrap_or_else(|| default(row)))
    }

    /// As `/configz` shows it.
    pub fn configz(&self) -> Value {
        let mut out = json!({});
        for row in ROWS.iter().filter(|row| !row.field.is_empty()) {
            let value = self.get(row.field);
            if value.is_null() {
                continue;
            }
            match row.field.split_once('.') {
                Some((outer, inner)) => out[outer][inner] = value,
                None => out[row.field] = value,
            }
        }
        out
    }
}

/// A file's fields.
fn parse_file(text: &str) -> Result<Map<String, Value>, String> {
    let parsed = yaml::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut json = Vec::new();
    schema::json::encode_untyped(&parsed.value, &mut json);
    let Ok(Value::Object(fields)) = serde_json::from_slice(&json) else { return Err("expected an object".into()) };
    let said = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    match (said("apiVersion"), said("kind")) {
        ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration") => Ok(fields),
        (version, kind) => Err(format!(
            "expected kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1, not \"{kind}\" of \"{version}\""
        )),
    }
}

/// Where settings are read from.
pub trait Files {
    fn read(&self, path: &Path) -> io::Result<String>;
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The machine's own.
pub struct Disk;

/// A configuration is not larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        use io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }
}
