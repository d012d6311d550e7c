//! The formats of OpenAPI that schemas of custom resources may name.

use crate::time;
use crate::validate::names;

/// The format, if it means something for the type.
pub fn supported<'f>(ty: &str, format: &'f str) -> &'f str {
    let is_supported = match ty {
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        "" | "string" => STRINGS.contains(&format),
        _ => false,
    };
    if is_supported { format } else { "" }
}

const STRINGS: [&str; 27] = [
    "bsonobjectid", "byte", "cidr", "creditcard", "date", "date-time", "datetime", "duration", "email", "hexcolor",
    "hostname", "ipv4", "ipv6", "isbn", "isbn10", "isbn13", "k8s-long-name", "k8s-short-name", "mac", "password",
    "rgbcolor", "ssn", "uri", "uuid", "uuid3", "uuid4", "uuid5",
];

pub fn has(format: &str, text: &str) -> bool {
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    match format {
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => names::cidr(text).is_empty(),
        "mac" => {
            let parts: Vec<&str> =
                if text.contains('-') { text.split('-').collect() } else { text.split(':').collect() };
            matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| p.len() == 2 && hex(p))
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let plain: String = text.chars().filter(|c| *c != '-').collect();
            let version = format.strip_prefix("uuid").unwrap_or_default();
            let fits = version.is_empty() || plain.get(12..13) == Some(version);
            plain.len() == 32
                && hex(&plain)
                && fits
                && (text.len() == 32 || names::uuid(&text.to_lowercase()).is_empty())
        }
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "date" => text.len() == 10 && time::parse(&format!("{text}T00:00:00Z")).is_some(),
        "datetime" | "date-time" => time::parse(&text.to_uppercase()).is_some(),
        "duration" => time::parse_duration(text).is_some() || is_worded_duration(text),
        "hostname" => {
            !text.is_empty()
                && text.len() <= 255
                && text.split('.').all(|l| names::dns1123_label(&l.to_lowercase()).is_empty())
        }
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains(['@', ' '])),
        "uri" => {
            text.starts_with('/')
                || text.split_once(':').is_some_and(|(scheme, rest)| {
                    !rest.is_empty()
                        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                })
        }
        "k8s-short-name" => names::dns1123_label(text).is_empty(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_empty(),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "ssn" => {
            let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
            digits.len() == 9 && digits.bytes().all(|b| b.is_ascii_digit())
        }
        "rgbcolor" => {
            let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
            let parts = inner.map(|inner| inner.split(',').map(|part| part.trim().parse::<u8>()).collect::<Vec<_>>());
            parts.is_some_and(|parts| parts.len() == 3 && parts.iter().all(Result::is_ok))
        }
        "creditcard" => {
            let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
            let doubled = |(at, digit): (usize, &u32)| match (at % 2, digit * 2) {
                (0, _) => *digit,
                (_, twice) => twice / 10 + twice % 10,
            };
            (13..=16).contains(&digits.len()) && digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
        }
        "isbn" => has("isbn10", text) || has("isbn13", text),
        "isbn10" | "isbn13" => {
            let plain: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
            let is_short = format == "isbn10";
            let digit = |(at, c): (usize, &char)| match c {
                'X' if is_short && at == 9 => Some(10),
                c => c.to_digit(10),
            };
            let digits: Option<Vec<u32>> = plain.iter().enumerate().map(digit).collect();
            let Some(digits) = digits.filter(|d| d.len() == if is_short { 10 } else { 13 }) else { return false };
            let weight = |at: usize| if is_short { at as u32 + 1 } else { 1 + 2 * (at as u32 % 2) };
            digits.iter().enumerate().map(|(at, d)| d * weight(at)).sum::<u32>() % if is_short { 11 } else { 10 } == 0
        }
        "bsonobjectid" => text.len() == 24 && hex(text),
        _ => true,
    }
}

/// `1 day`, `2 hours 5 min`: numbers, each with a unit after it.
fn is_worded_duration(text: &str) -> bool {
    const EXACT: [&str; 12] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk", "min"];
    const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    let is_unit = |unit: &str| EXACT.contains(&unit) || BEGINNINGS.iter().any(|start| unit.starts_with(start));
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let unit = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let end = unit.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(unit.len());
        if is_unit(&unit[..end].to_lowercase()) {
            return true;
        }
        rest = unit;
    }
    false
}
