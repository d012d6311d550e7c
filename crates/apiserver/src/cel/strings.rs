//! Strings: the standard functions, cel-go's extension and Kubernetes' regular expressions.

use super::eval::Cx;
use super::ops::double_text;
use super::time;
use super::value::{Evaluated, Fault, Val};

type Args<'c, 'v> = &'c [Val<'v>];

/// No text that an expression makes is longer.
const BYTES_MAX: usize = 4 << 20;

fn bounded<'v>(cx: &mut Cx<'v>, bytes: usize) -> Evaluated<()> {
    if bytes > BYTES_MAX {
        cx.charge(u64::MAX)?;
    }
    cx.charge_text(bytes as u64)
}

fn text<'c>(args: Args<'c, '_>, at: usize) -> Evaluated<&'c str> {
    args.get(at).ok_or_else(Fault::no_such_overload)?.as_str()
}

fn int(args: Args<'_, '_>, at: usize) -> Evaluated<Option<i64>> {
    args.get(at).map(Val::as_int).transpose()
}

/// Pays for a walk over the first argument's characters, and gives it.
fn walked<'c, 'v>(cx: &mut Cx<'v>, args: Args<'c, 'v>, times: u64) -> Evaluated<&'c str> {
    let text = text(args, 0)?;
    cx.charge_text(text.len() as u64 * times)?;
    Ok(text)
}

pub fn starts_with<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge_text(text(args, 1)?.len() as u64)?;
    Ok(Val::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
}

pub fn ends_with<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    cx.charge_text(text(args, 1)?.len() as u64)?;
    Ok(Val::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
}

pub fn contains<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    cx.charge((text.len() as u64).div_ceil(10).saturating_mul((part.len() as u64).div_ceil(10)))?;
    Ok(Val::Bool(text.contains(part)))
}

fn regex_on<'c, 'v>(cx: &mut Cx<'v>, args: Args<'c, 'v>) -> Evaluated<(regex::Regex, &'c str)> {
    let (text, pattern) = (text(args, 0)?, text(args, 1)?);
    cx.charge((text.len() as u64 + 1).div_ceil(10).saturating_mul((pattern.len() as u64).div_ceil(4)))?;
    Ok((cx.regex(pattern)?, text))
}

pub fn matches<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let (regex, text) = regex_on(cx, args)?;
    Ok(Val::Bool(regex.is_match(text)))
}

pub fn find<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let (regex, text) = regex_on(cx, args)?;
    Ok(Val::text(regex.find(text).map_or("", |m| m.as_str())))
}

pub fn find_all<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let (regex, text) = regex_on(cx, args)?;
    let limit = int(args, 2)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    cx.charge_text(text.len() as u64)?;
    Ok(Val::list(regex.find_iter(text).take(limit).map(|m| Val::text(m.as_str())).collect()))
}

// ---- the extension: positions are in characters

fn out_of_range<T>(at: i64) -> Evaluated<T> {
    Err(Fault::Failed(format!("index out of range: {at}")))
}

/// Where the `at`th character starts; the end counts as one.
fn offset(text: &str, at: i64) -> Evaluated<usize> {
    let Ok(wanted) = usize::try_from(at) else { return out_of_range(at) };
    let mut starts = text.char_indices().map(|(i, _)| i).chain(std::iter::once(text.len()));
    starts.nth(wanted).map_or_else(|| out_of_range(at), Ok)
}

fn characters(text: &str) -> i64 {
    text.chars().count() as i64
}

pub fn char_at<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let text = walked(cx, args, 1)?;
    let start = offset(text, int(args, 1)?.unwrap_or(0))?;
    Ok(Val::text(text[start..].chars().next().map(String::from).unwrap_or_default()))
}

pub fn index_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let whole = walked(cx, args, 1)?;
    let part = text(args, 1)?;
    let start = offset(whole, int(args, 2)?.unwrap_or(0))?;
    Ok(Val::Int(whole[start..].find(part).map_or(-1, |at| characters(&whole[..start + at]))))
}

pub fn last_index_of<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let whole = walked(cx, args, 1)?;
    let part = text(args, 1)?;
    let last = match int(args, 2)? {
        Some(at) => offset(whole, at)?,
        None => whole.len(),
    };
    let end = whole.len().min(last + part.len());
    // The end may fall into a character: then nothing that ends there is the part.
    let end = (end..=whole.len()).find(|end| whole.is_char_boundary(*end)).unwrap_or(whole.len());
    let found = whole[..end].rmatch_indices(part).map(|(at, _)| at).find(|at| *at <= last);
    Ok(Val::Int(found.map_or(-1, |at| characters(&whole[..at]))))
}

pub fn lower_ascii<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::text(walked(cx, args, 1)?.to_ascii_lowercase()))
}

pub fn upper_ascii<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::text(walked(cx, args, 1)?.to_ascii_uppercase()))
}

pub fn trim<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::text(walked(cx, args, 1)?.trim()))
}

pub fn substring<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let text = walked(cx, args, 1)?;
    let start = int(args, 1)?.unwrap_or(0);
    let end = int(args, 2)?.unwrap_or_else(|| characters(text));
    if start > end {
        return Err(Fault::Failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Val::text(&text[offset(text, start)?..offset(text, end)?]))
}

pub fn replace<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let whole = walked(cx, args, 2)?;
    let (from, to) = (text(args, 1)?, text(args, 2)?);
    let limit = int(args, 3)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let count = whole.matches(from).take(limit).count();
    // What is made may be far longer than what it is made of.
    bounded(cx, count.saturating_mul(to.len()))?;
    Ok(Val::text(whole.replacen(from, to, limit)))
}

pub fn split<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let whole = walked(cx, args, 2)?;
    let separator = text(args, 1)?;
    let limit = match int(args, 2)? {
        Some(0) => return Ok(Val::list(Vec::new())),
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let parts: Vec<Val<'v>> = if separator.is_empty() {
        let mut starts: Vec<usize> = whole.char_indices().map(|(i, _)| i).take(limit).collect();
        starts.push(whole.len());
        starts.windows(2).map(|w| Val::text(&whole[w[0]..w[1]])).collect()
    } else {
        whole.splitn(limit, separator).map(Val::text).collect()
    };
    cx.charge(parts.len() as u64 / 8)?;
    Ok(Val::list(parts))
}

pub fn join<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let items = args.first().ok_or_else(Fault::no_such_overload)?.items()?;
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        let (part, separator) = (item.as_str()?, if at > 0 { separator } else { "" });
        bounded(cx, (separator.len() + part.len()) * 2)?;
        out.push_str(separator);
        out.push_str(part);
    }
    Ok(Val::text(out))
}

pub fn quote<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    Ok(Val::text(quoted(walked(cx, args, 1)?)))
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

// ---- format

pub fn format<'v>(cx: &mut Cx<'v>, args: Args<'_, 'v>) -> Evaluated<Val<'v>> {
    let template = walked(cx, args, 1)?;
    let values = args.get(1).ok_or_else(Fault::no_such_overload)?.items()?;
    let mut out = String::new();
    let mut rest = template;
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            precision =
                Some(
                    after[..digits].parse::<usize>().ok().filter(|p| *p <= 100).ok_or_else(|| {
                        Fault::new("could not parse formatting clause: error while parsing precision")
                    })?,
                );
            rest = &after[digits..];
        }
        let Some(verb) = rest.chars().next() else {
            return Err(Fault::new("unexpected end of string"));
        };
        rest = &rest[verb.len_utf8()..];
        let value = values.get(next).ok_or_else(|| Fault::Failed(format!("index {next} out of range")))?;
        next += 1;
        let made = formatted(cx, verb, precision, &value)?;
        bounded(cx, made.len())?;
        out.push_str(&made);
    }
    out.push_str(rest);
    Ok(Val::text(out))
}

fn formatted<'v>(cx: &mut Cx<'v>, verb: char, precision: Option<usize>, value: &Val<'v>) -> Evaluated<String> {
    let unfit = |clause: &str, kinds: &str| {
        Err(Fault::Failed(format!(
            "error during formatting: {clause} clause can only be used on {kinds}, was given {}",
            value.type_name()
        )))
    };
    match (verb, value) {
        ('s', value) => written(cx, value, false),
        ('d', Val::Int(_) | Val::Uint(_) | Val::Double(_)) => written(cx, value, false),
        ('d', _) => unfit("decimal", "integers"),
        ('f', _) => match as_double(value) {
            Some(d) => Ok(format!("{d:.*}", precision.unwrap_or(6))),
            None => unfit("fixed-point", "doubles"),
        },
        ('e', _) => match as_double(value) {
            Some(d) => {
                let text = format!("{d:.*e}", precision.unwrap_or(6));
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                let sign = if exponent < 0 { "⁻" } else { "" };
                let digits = format!("{:02}", exponent.abs());
                let raised = digits.chars().filter_map(|c| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c.to_digit(10)? as usize));
                Ok(format!("{mantissa}×10{sign}{}", raised.collect::<String>()))
            }
            None => unfit("scientific", "doubles"),
        },
        ('b', Val::Int(i)) => Ok(signed(*i, format!("{:b}", i.unsigned_abs()))),
        ('b', Val::Uint(u)) => Ok(format!("{u:b}")),
        ('b', Val::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('b', _) => unfit("binary", "integers and bools"),
        ('o', Val::Int(i)) => Ok(signed(*i, format!("{:o}", i.unsigned_abs()))),
        ('o', Val::Uint(u)) => Ok(format!("{u:o}")),
        ('o', _) => unfit("octal", "integers"),
        ('x' | 'X', _) => {
            let hex = match value {
                Val::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
                Val::Uint(u) => format!("{u:x}"),
                Val::String(text) => text.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return unfit("hexadecimal", "integers, byte buffers, and strings"),
            };
            Ok(if verb == 'X' { hex.to_uppercase() } else { hex })
        }
        (other, _) => {
            Err(Fault::Failed(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\"")))
        }
    }
}

fn signed(number: i64, digits: String) -> String {
    if number < 0 { format!("-{digits}") } else { digits }
}

fn as_double(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Double(d) => Some(*d),
        Val::Int(i) => Some(*i as f64),
        Val::Uint(u) => Some(*u as f64),
        _ => None,
    }
}

fn written<'v>(cx: &mut Cx<'v>, value: &Val<'v>, nested: bool) -> Evaluated<String> {
    cx.charge_text(value.size())?;
    Ok(match value {
        Val::Null => "null".into(),
        Val::String(text) if nested => quoted(text),
        Val::String(text) => text.to_string(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) if nested => format!("{d:.6}"),
        Val::Double(d) => double_text(*d),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Duration(nanos) => time::format_duration(*nanos),
        Val::Timestamp(nanos) => time::format_timestamp(*nanos),
        Val::Type(name) => name.to_string(),
        Val::List(_) | Val::JsonList(_) => {
            let mut parts = Vec::new();
            for item in value.items()?.iter() {
                parts.push(written(cx, &item, true)?);
            }
            format!("[{}]", parts.join(", "))
        }
        Val::Map(_) | Val::Json(_) => {
            let entries: Vec<(Val<'v>, Val<'v>)> = match value {
                Val::Map(map) => map.iter().map(|(k, v)| (k.value(), v.clone())).collect(),
                Val::Json(object) => object.iter().map(|(k, v)| (Val::borrowed(k), v.into())).collect(),
                _ => Vec::new(),
            };
            let mut parts = Vec::new();
            for (key, value) in entries {
                parts.push(format!("{}:{}", written(cx, &key, true)?, written(cx, &value, true)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        other => {
            return Err(Fault::Failed(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            )));
        }
    })
}
