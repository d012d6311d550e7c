//! Tables for `kubectl get`: columns from the descriptor, cells from JSON paths or named functions.

use schema::{Value, time};

use crate::kind::Kind;

/// `columnDefinitions` of a kind.
pub fn definitions(kind: &Kind) -> Value {
    let column = |name: &str, ty: &str, format: &str, priority: i32| {
        Value::object([
            ("name", name.into()),
            ("type", ty.into()),
            ("format", format.into()),
            ("description", "".into()),
            ("priority", priority.into()),
        ])
    };
    if kind.resource.columns.is_empty() {
        return Value::List(vec![column("Name", "string", "name", 0), column("Created At", "date", "", 0)]);
    }
    kind.resource.columns.iter().map(|c| column(&c.name, &c.ty, &c.format, c.priority)).collect::<Vec<_>>().into()
}

/// The cells of one row.
pub fn cells(kind: &Kind, object: &Value, now: i64) -> Vec<Value> {
    let _ = now;
    if kind.resource.columns.is_empty() {
        return vec![object.str_at(&["metadata", "name"]).into(), object.str_at(&["metadata", "creationTimestamp"]).into()];
    }
    kind.resource.columns.iter().map(|c| object.dotted(&c.source).cloned().unwrap_or_default()).collect()
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
        if rest == 0 { format!("{}{big_unit}", value / big) } else { format!("{}{big_unit}{rest}{small_unit}", value / big) }
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
