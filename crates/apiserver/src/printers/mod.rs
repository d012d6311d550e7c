//! Tables for `kubectl get`: columns from the descriptor, cells from JSON paths or the functions they name.

mod cluster;
mod generic;
mod network;
mod pods;

use schema::{Column, Value, time};

use crate::kind::Kind;

/// What a function of a column gets: the object, its arguments and the time.
pub struct Cell<'a> {
    pub object: &'a Value,
    pub args: &'a [&'a str],
    pub now: i64,
}

impl<'a> Cell<'a> {
    fn arg(&self, at: usize) -> &'a str {
        match self.args.get(at) {
            Some(&"\"\"") | None => "",
            Some(arg) => arg,
        }
    }

    /// The value at the path that the first argument names.
    fn value(&self) -> &'a Value {
        static NULL: Value = Value::Null;
        self.object.dotted(self.arg(0)).unwrap_or(&NULL)
    }

    fn age(&self, since: &str) -> String {
        age(since, self.now)
    }
}

fn column(name: &str, ty: &str, format: &str, source: &str) -> Column {
    Column { name: name.into(), ty: ty.into(), format: format.into(), priority: 0, source: source.into() }
}

/// The built-in columns of a kind that has none of its own.
fn plain_columns() -> [Column; 2] {
    [
        column("Name", "string", "name", ".metadata.name"),
        column("Created At", "date", "", ".metadata.creationTimestamp"),
    ]
}

/// A Scale is no kind with a path of its own.
pub fn scale_columns() -> [Column; 4] {
    [
        column("Name", "string", "", ".metadata.name"),
        column("Desired", "integer", "", ".spec.replicas"),
        column("Available", "integer", "", ".status.replicas"),
        column("Age", "string", "", "fn:age .metadata.creationTimestamp"),
    ]
}

/// `columnDefinitions` of a kind.
pub fn definitions(kind: &Kind) -> Value {
    if kind.resource.columns.is_empty() {
        return definitions_of(&plain_columns());
    }
    definitions_of(&kind.resource.columns)
}

pub fn definitions_of(columns: &[Column]) -> Value {
    let column = |c: &Column| {
        Value::object([
            ("name", (&*c.name).into()),
            ("type", (&*c.ty).into()),
            ("format", (&*c.format).into()),
            ("description", "".into()),
            ("priority", c.priority.into()),
        ])
    };
    Value::List(columns.iter().map(column).collect())
}

/// The cells of one row.
pub fn cells(kind: &Kind, object: &Value, now: i64) -> Vec<Value> {
    if kind.resource.columns.is_empty() {
        let text = |path: &[&str]| object.str_at(path).into();
        return vec![text(&["metadata", "name"]), text(&["metadata", "creationTimestamp"])];
    }
    cells_of(&kind.resource.columns, kind.custom.is_none(), object, now)
}

pub fn cells_of(columns: &[Column], builtin: bool, object: &Value, now: i64) -> Vec<Value> {
    let cells = columns.iter().map(|column| match cell(column, object, now) {
        // A number that is zero is not printed in the object.
        Value::Null if column.ty.as_ref() == "integer" && builtin => 0i64.into(),
        cell => cell,
    });
    cells.collect()
}

fn cell(column: &Column, object: &Value, now: i64) -> Value {
    let Some(call) = column.source.strip_prefix("fn:") else {
        return path(object, &column.source, &column.ty, now);
    };
    let words: Vec<&str> = call.split(' ').collect();
    let (name, args) = words.split_first().map_or(("", &[][..]), |(n, a)| (*n, a));
    let cell = Cell { object, args, now };
    match name.split_once('.') {
        None => generic::call(name, &cell),
        Some(("pod", _)) => pods::pod(name, &cell),
        Some(("job" | "hpa" | "controllerRevision" | "event", _)) => pods::other(name, &cell),
        Some(("service" | "ingress" | "ingressClass" | "endpoints" | "endpointSlice" | "ipAddress", _)) => {
            network::call(name, &cell)
        }
        Some(_) => cluster::call(name, &cell),
    }
}

/// A JSON path; custom resources use arrays and filters too, of which the first hit is shown.
fn path(object: &Value, source: &str, ty: &str, now: i64) -> Value {
    let found = if source.contains(['[', '*']) { lookup(object, source) } else { object.dotted(source).cloned() };
    let Some(found) = found.filter(|v| !v.is_null()) else {
        return if ty == "string" && !source.contains('[') { "".into() } else { Value::Null };
    };
    match ty {
        "date" => match found.as_str() {
            Some(text) => age(text, now).into(),
            None => "<unknown>".into(),
        },
        "integer" => found.as_i64().map_or(found.clone(), Value::Int),
        "string" => match found {
            Value::String(_) => found,
            other => other.to_string().into(),
        },
        _ => found,
    }
}

/// `.a.b[0].c`, `.a['b.c']`, `.conditions[?(@.type=="Ready")].status`, `.list[*].name`.
pub fn lookup(object: &Value, source: &str) -> Option<Value> {
    let mut here: Vec<&Value> = vec![object];
    let mut rest = source.trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let end = tail.find(']')?;
            let inner = &tail[..end];
            rest = &tail[end + 1..];
            if inner == "*" {
                here = here.iter().flat_map(|v| v.as_list().unwrap_or(&[])).collect();
            } else if let Some(filter) = inner.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')')) {
                let (name, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                here = here
                    .iter()
                    .flat_map(|v| v.as_list().unwrap_or(&[]))
                    .filter(|v| match v.dotted(name.trim()) {
                        Some(Value::String(s)) => s == wanted,
                        Some(other) => other.to_string() == wanted,
                        None => false,
                    })
                    .collect();
            } else if let Ok(at) = inner.parse::<i64>() {
                here = here
                    .iter()
                    .filter_map(|v| {
                        let list = v.as_list()?;
                        let at = if at < 0 { list.len() as i64 + at } else { at };
                        list.get(usize::try_from(at).ok()?)
                    })
                    .collect();
            } else {
                let name = inner.trim_matches(['"', '\'']);
                here = here.iter().filter_map(|v| v.member(name)).collect();
            }
            continue;
        }
        rest = rest.trim_start_matches('.');
        let mut name = String::new();
        let mut chars = rest.char_indices().peekable();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        rest = &rest[end..];
        if name.is_empty() {
            continue;
        }
        here = here.iter().filter_map(|v| v.member(&name)).collect();
    }
    here.first().map(|v| (*v).clone())
}

/// Upstream's short form of an age: `5s`, `3m20s`, `2d4h`, `3y12d`.
pub fn age(since: &str, now: i64) -> String {
    match time::parse(since) {
        Some((then, _)) => duration(now - then),
        None => "<unknown>".into(),
    }
}

/// `duration.HumanDuration`.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |value: i64, big: i64, big_unit: &str, small: i64, small_unit: &str| {
        let rest = value % big / small;
        if rest == 0 {
            format!("{}{big_unit}", value / big)
        } else {
            format!("{}{big_unit}{rest}{small_unit}", value / big)
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s, MINUTE, "m", 1, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s, HOUR, "h", MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s, DAY, "d", HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s, YEAR, "y", DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// At most `max` of a list, and how many more there are.
fn some_of(list: &[String], max: usize, separator: &str) -> String {
    if list.len() > max {
        return format!("{} + {} more...", list[..max].join(separator), list.len() - max);
    }
    list.join(separator)
}

#[cfg(test)]
mod tests;
