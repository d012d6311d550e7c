//! RFC 3339 to and from seconds, and Go's durations; nothing here knows what time it is.

#[cfg(test)]
mod tests;

/// Seconds from year 1 (Go's zero time) to 1970.
pub const ZERO: i64 = -62_135_596_800;

/// Seconds since 1970 and nanoseconds of an RFC 3339 time (any offset).
pub fn parse(text: &str) -> Option<(i64, u32)> {
    let b = text.as_bytes();
    let digits = |from: usize, len: usize| -> Option<i64> {
        let part = b.get(from..from + len)?;
        part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, c: u8| b.get(at) == Some(&c);
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0u32;
    if is(at, b'.') || is(at, b',') {
        at += 1;
        let start = at;
        let mut unit = 100_000_000;
        while let Some(d) = b.get(at).filter(|d| d.is_ascii_digit()) {
            nanos += u32::from(d - b'0') * unit;
            unit /= 10;
            at += 1;
        }
        if at == start {
            return None;
        }
    }
    let offset = match b.get(at)? {
        b'Z' => {
            at += 1;
            0
        }
        sign @ (b'+' | b'-') => {
            let (h, m) = (digits(at + 1, 2)?, digits(at + 4, 2)?);
            if !is(at + 3, b':') || h > 24 || m > 60 {
                return None;
            }
            at += 6;
            (h * 3600 + m * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    (at == b.len()).then(|| (days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// `2026-11-22T17:46:12Z`
pub fn format(seconds: i64) -> String {
    let mut out = Vec::with_capacity(20);
    push(seconds, None, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// `2026-11-22T17:46:12.000000Z`
pub fn format_micro(seconds: i64, nanos: u32) -> String {
    let mut out = Vec::with_capacity(27);
    push(seconds, Some(nanos / 1000), &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Appends the time, with six digits of `micros` if there are any to print.
pub(crate) fn push(seconds: i64, micros: Option<u32>, out: &mut Vec<u8>) {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, dom) = civil(day);
    let year = year.clamp(0, 9999);
    pad(year, 4, out);
    for (sep, n) in [(b'-', month), (b'-', dom), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
        out.push(sep);
        pad(n, 2, out);
    }
    if let Some(micros) = micros {
        out.push(b'.');
        pad(micros.into(), 6, out);
    }
    out.push(b'Z');
}

fn pad(n: i64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (n / 10i64.pow(place) % 10) as u8);
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (years counted from March).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Nanoseconds of Go's duration syntax (`1h2m3.5s`).
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if !whole.is_empty() {
            total += whole.parse::<i64>().ok()? as i128 * unit;
        }
        let mut scale = unit;
        for d in fraction.bytes().take(18) {
            scale /= 10;
            total += i128::from(d - b'0') * scale;
        }
        if total > i64::MAX as i128 + i128::from(negative) {
            return None;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Go's `Duration.String()`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |whole: u64, fraction: u64, digits: usize| {
        if fraction == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{}", format!("{fraction:0digits$}").trim_end_matches('0'))
        }
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n / 1_000, n % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n / 1_000_000, n % 1_000_000, 6)),
        _ => {
            let (total, fraction) = (n / 1_000_000_000, n % 1_000_000_000);
            let seconds = decimal(total % 60, fraction, 9);
            match (total / 3600, total / 60 % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}
