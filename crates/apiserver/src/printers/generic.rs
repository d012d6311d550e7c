//! Column functions that fit any kind.

use schema::Value;

use super::Cell;
use crate::scale::selector_text;

pub fn call(name: &str, cell: &Cell<'_>) -> Value {
    let value = cell.value();
    let default = |text: &str| if text.is_empty() { "" } else { text }.to_owned();
    match name {
        "age" => match value.as_str() {
            Some(since) => cell.age(since).into(),
            None if cell.args.len() > 1 => cell.arg(1).into(),
            None => "<unknown>".into(),
        },
        // How many members or items, of all the paths together.
        "count" => {
            let count = |path: &str| match cell.object.dotted(path) {
                Some(Value::List(l)) => l.len(),
                Some(Value::Object(o)) => o.len(),
                _ => 0,
            };
            Value::Int(cell.args.iter().map(|path| count(path)).sum::<usize>() as i64)
        }
        "or" => match value {
            v if v.is_null() || v.as_str() == Some("") => cell.args.get(1..).unwrap_or(&[]).join(" ").into(),
            Value::String(_) => value.clone(),
            other => other.to_string().into(),
        },
        "raw" if value.is_null() => default(cell.arg(1)).into(),
        "raw" => value.clone(),
        "int" => Value::Int(value.as_i64().unwrap_or(0)),
        "bool" => Value::String(if value.as_bool().unwrap_or(false) { "True" } else { "False" }.into()),
        "is" => Value::Bool(value.as_bool().unwrap_or(cell.arg(1) == "true")),
        "join" => {
            let joined = value.texts().join(",");
            if joined.is_empty() { default(cell.arg(1)).into() } else { joined.into() }
        }
        "names" => containers(value, "name"),
        "images" => containers(value, "image"),
        "labels" => labels(value).into(),
        "selector" => {
            if value.is_null() {
                return "<none>".into();
            }
            let text = selector_text(value);
            if text.is_empty() { "<none>".into() } else { text.into() }
        }
        "ratio" => {
            let number = |at: usize| cell.object.dotted(cell.arg(at)).and_then(Value::as_i64).unwrap_or(0);
            format!("{}/{}", number(0), number(1)).into()
        }
        "kindName" => format!("{}/{}", value.str_at(&["kind"]), value.str_at(&["name"])).into(),
        "subjects" => {
            let kind = cell.arg(0);
            let subjects = cell.object.list_at(&["subjects"]).iter().filter(|s| s.str_at(&["kind"]) == kind);
            let names = subjects.map(|s| match s.str_at(&["namespace"]) {
                _ if kind != "ServiceAccount" => s.str_at(&["name"]).to_owned(),
                namespace => format!("{namespace}/{}", s.str_at(&["name"])),
            });
            names.collect::<Vec<_>>().join(", ").into()
        }
        "accessModes" => access_modes(value).into(),
        _ => "".into(),
    }
}

fn containers(list: &Value, field: &str) -> Value {
    let names = list.as_list().into_iter().flatten().map(|c| c.str_at(&[field]));
    names.collect::<Vec<_>>().join(",").into()
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(value: &Value) -> String {
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| match v.as_str() {
            Some(text) => format!("{k}={text}"),
            None => format!("{k}={v}"),
        })
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

pub fn access_modes(list: &Value) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| list.as_list().into_iter().flatten().any(|m| m.as_str() == Some(mode));
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
