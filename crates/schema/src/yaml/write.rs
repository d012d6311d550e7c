//! Block YAML in go-yaml's style: sorted keys, lists at their key's indentation, quotes only where needed.

use super::resolve;
use crate::{Value, json};

/// Appends a document, a line break at its end.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(object) if !object.is_empty() => block(value, 0, out),
        Value::List(list) if !list.is_empty() => block(value, 0, out),
        _ => {
            scalar(value, 0, false, out);
            out.push(b'\n');
        }
    }
}

fn indent(width: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + width, b' ');
}

/// A collection that is not empty, its first line not indented (the caller stands there already).
fn block(value: &Value, width: usize, out: &mut Vec<u8>) {
    match value {
        Value::Object(object) => {
            for (i, (key, value)) in object.iter().enumerate() {
                if i > 0 {
                    indent(width, out);
                }
                scalar(&Value::from(key.as_str()), width, true, out);
                out.push(b':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push(b'\n');
                        indent(width + 2, out);
                        block(value, width + 2, out);
                    }
                    Value::List(inner) if !inner.is_empty() => {
                        out.push(b'\n');
                        indent(width, out);
                        block(value, width, out);
                    }
                    _ => {
                        out.push(b' ');
                        scalar(value, width + 2, false, out);
                        out.push(b'\n');
                    }
                }
            }
        }
        Value::List(list) => {
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    indent(width, out);
                }
                out.extend_from_slice(b"- ");
                match item {
                    Value::Object(inner) if !inner.is_empty() => block(item, width + 2, out),
                    Value::List(inner) if !inner.is_empty() => block(item, width + 2, out),
                    _ => {
                        scalar(item, width + 2, false, out);
                        out.push(b'\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn scalar(value: &Value, width: usize, key: bool, out: &mut Vec<u8>) {
    let text = match value {
        Value::String(text) => text,
        Value::List(_) => return out.extend_from_slice(b"[]"),
        Value::Object(_) => return out.extend_from_slice(b"{}"),
        other => return json::encode_untyped(other, out),
    };
    let printable = text
        .chars()
        .all(|c| matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{10000}'..));
    if !printable {
        return double_quoted(text, out);
    }
    if text.contains('\n') {
        // A literal block cannot start with a space nor have lines which end in one.
        let literal = !key && !text.starts_with([' ', '\n']) && !text.contains(" \n") && !text.ends_with(' ');
        return if literal { literal_block(text, width, out) } else { double_quoted(text, out) };
    }
    if !matches!(resolve(text), Value::String(_)) || base_60(text) {
        return double_quoted(text, out);
    }
    let line = out.iter().rev().take_while(|byte| **byte != b'\n').count();
    if plain(text) {
        folded(text, line, if key { None } else { Some(width) }, out);
    } else {
        out.push(b'\'');
        folded(&text.replace('\'', "''"), line + 1, if key { None } else { Some(width) }, out);
        out.push(b'\'');
    }
}

/// Lines end at the first single space after this.
const COLUMNS: usize = 80;

/// A text on several lines if it is long; keys are not.
fn folded(text: &str, mut column: usize, width: Option<usize>, out: &mut Vec<u8>) {
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match width.filter(|_| c == ' ' && before != ' ' && column > COLUMNS && rest.peek().is_some_and(|c| *c != ' '))
        {
            Some(width) => {
                out.push(b'\n');
                indent(width.max(2), out);
                column = width.max(2);
            }
            None => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                column += 1;
            }
        }
        before = c;
    }
}

/// YAML 1.1 reads `1:20` as eighty.
fn base_60(text: &str) -> bool {
    text.contains(':')
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.' | b'_' | b'+' | b'-'))
        && text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'))
        || text.len() >= 8 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) && text.as_bytes()[4] == b'-'
}

fn plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    if " #,[]{}&*!|>'\"%@`".contains(first) || text.ends_with([' ', ':']) {
        return false;
    }
    let starts_alone = text.len() == 1 || text[first.len_utf8()..].starts_with(' ');
    if matches!(first, '-' | '?' | ':') && starts_alone || text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    !(text.contains(": ") || text.contains(" #"))
}

fn literal_block(text: &str, width: usize, out: &mut Vec<u8>) {
    out.push(b'|');
    match text.strip_suffix('\n') {
        None => out.push(b'-'),
        Some(rest) if rest.ends_with('\n') || rest.is_empty() => out.push(b'+'),
        Some(_) => {}
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push(b'\n');
        if !line.is_empty() {
            indent(width.max(2), out);
            out.extend_from_slice(line.as_bytes());
        }
    }
}

fn double_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\0' => out.extend_from_slice(b"\\0"),
            '\u{1b}' => out.extend_from_slice(b"\\e"),
            '\u{feff}' | '\u{85}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04X}", c as u32).as_bytes())
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.extend_from_slice(format!("\\x{:02X}", c as u32).as_bytes())
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
