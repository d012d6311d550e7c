//! RFC 3339 to and from seconds; nothing here knows what time it is.

/// Seconds since 1970 and nanoseconds of an RFC 3339 time (any offset).
pub fn parse(text: &str) -> Option<(i64, u32)> {
    let _ = text;
    todo!()
}

/// `2026-11-22T17:46:12Z`
pub fn format(seconds: i64) -> String {
    let _ = seconds;
    todo!()
}

/// `2026-11-22T17:46:12.000000Z`
pub fn format_micro(seconds: i64, nanos: u32) -> String {
    let _ = (seconds, nanos);
    todo!()
}
