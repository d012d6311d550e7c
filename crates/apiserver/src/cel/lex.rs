//! Characters to tokens, as the CEL specification's grammar has them.

use super::CompileError;
use super::ast::Const;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(String),
    Const(Const),
    /// Operators, brackets, keywords.
    Sign(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub struct Lexeme {
    pub token: Token,
    pub at: usize,
    pub end: usize,
}

/// Longer signs first.
const SIGNS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", ".?", "[?", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(",
    ")", "[", "]", "{", "}",
];

pub fn lex(source: &str) -> Result<Vec<Lexeme>, CompileError> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = source.get(at..) {
        let Some(first) = rest.chars().next() else { break };
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (token, length) = if let Some(found) = string(rest, at, source)? {
            found
        } else if first.is_ascii_digit() || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            number(rest, at, source)?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            (word(&rest[..length]), length)
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err(unrecognized(source, at, 1));
        };
        out.push(Lexeme { token, at, end: at + length });
        at += length;
    }
    out.push(Lexeme { token: Token::End, at: source.len(), end: source.len() });
    Ok(out)
}

fn word(text: &str) -> Token {
    match text {
        "true" => Token::Const(Const::Bool(true)),
        "false" => Token::Const(Const::Bool(false)),
        "null" => Token::Const(Const::Null),
        "in" => Token::Sign("in"),
        _ => Token::Ident(text.to_owned()),
    }
}

/// As the grammar's tool words it: what was read, up to the character that did not fit.
fn unrecognized(source: &str, at: usize, length: usize) -> CompileError {
    let rest = source.get(at..).unwrap_or_default();
    let begins_sign = usize::from(rest.starts_with(['=', '&', '|']));
    let shown: String = rest.chars().take(length.max(1) + begins_sign).collect();
    CompileError::new(source, at, format!("Syntax error: token recognition error at: '{shown}'"))
}

fn number(rest: &str, at: usize, source: &str) -> Result<(Token, usize), CompileError> {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let bad = |kind: &str| CompileError::new(source, at, format!("invalid {kind} literal"));
    if let Some(hex) = rest.strip_prefix("0x") {
        let count = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        let text = &hex[..count];
        if hex[count..].starts_with(['u', 'U']) {
            let n = u64::from_str_radix(text, 16).map_err(|_| bad("uint"))?;
            return Ok((Token::Const(Const::Uint(n)), 3 + count));
        }
        let n = i64::from_str_radix(text, 16).map_err(|_| bad("int"))?;
        return Ok((Token::Const(Const::Int(n)), 2 + count));
    }
    let mut length = digits(rest);
    let mut is_double = false;
    if rest[length..].starts_with('.') && digits(&rest[length + 1..]) > 0 {
        is_double = true;
        length += 1 + digits(&rest[length + 1..]);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let exponent = digits(&rest[length + 1 + sign..]);
        if exponent > 0 {
            is_double = true;
            length += 1 + sign + exponent;
        }
    }
    let text = &rest[..length];
    if is_double {
        let n = text.parse().map_err(|_| bad("double"))?;
        return Ok((Token::Const(Const::Double(n)), length));
    }
    if rest[length..].starts_with(['u', 'U']) {
        let n = text.parse().map_err(|_| bad("uint"))?;
        return Ok((Token::Const(Const::Uint(n)), length + 1));
    }
    match text.parse() {
        Ok(n) => Ok((Token::Const(Const::Int(n)), length)),
        // Its negative is an integer: the parser's minus makes it one.
        Err(_) if text == "9223372036854775808" => Ok((Token::Const(Const::Uint(1 << 63)), length)),
        Err(_) => Err(bad("int")),
    }
}

/// A string or bytes literal, if one starts here.
fn string(rest: &str, at: usize, source: &str) -> Result<Option<(Token, usize)>, CompileError> {
    let (mut raw, mut bytes) = (false, false);
    let mut start = 0;
    for c in rest.bytes().take(2) {
        match c {
            b'r' | b'R' if !raw => raw = true,
            b'b' | b'B' if !bytes && !raw => bytes = true,
            _ => break,
        }
        start += 1;
    }
    let body = &rest[start..];
    let quote = match body.as_bytes() {
        [b'"', b'"', b'"', ..] => "\"\"\"",
        [b'\'', b'\'', b'\'', ..] => "'''",
        [b'"', ..] => "\"",
        [b'\'', ..] => "'",
        _ => return Ok(None),
    };
    let unended = || unrecognized(source, at, rest.chars().count());
    let text = &body[quote.len()..];
    let mut out: Vec<u8> = Vec::new();
    let mut i = 0;
    loop {
        let here = text.get(i..).filter(|h| !h.is_empty()).ok_or_else(unended)?;
        if here.starts_with(quote) {
            break;
        }
        let Some(c) = here.chars().next() else { return Err(unended()) };
        if quote.len() == 1 && (c == '\n' || c == '\r') {
            return Err(unended());
        }
        if c == '\\' && !raw {
            i += escape(&here[1..], bytes, &mut out).ok_or_else(unended)? + 1;
            continue;
        }
        if c == '\\' {
            // A raw string keeps the backslash and what it stands before.
            let kept: String = here.chars().take(2).collect();
            if kept.len() < 2 {
                return Err(unended());
            }
            out.extend(kept.bytes());
            i += kept.len();
            continue;
        }
        out.extend(here[..c.len_utf8()].bytes());
        i += c.len_utf8();
    }
    let length = start + quote.len() + i + quote.len();
    let value = if bytes { Const::Bytes(out) } else { Const::String(String::from_utf8(out).map_err(|_| unended())?) };
    Ok(Some((Token::Const(value), length)))
}

/// What follows a backslash; the length of it.
fn escape(rest: &str, bytes: bool, out: &mut Vec<u8>) -> Option<usize> {
    let c = rest.chars().next()?;
    let mut code = |digits: usize, skip: usize, radix: u32| -> Option<usize> {
        let n = u32::from_str_radix(rest.get(skip..skip + digits)?, radix).ok()?;
        if bytes {
            out.push(u8::try_from(n).ok()?);
        } else {
            out.extend(char::from_u32(n)?.to_string().bytes());
        }
        Some(skip + digits)
    };
    let plain = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u8,
        'x' | 'X' => return code(2, 1, 16),
        'u' if !bytes => return code(4, 1, 16),
        'U' if !bytes => return code(8, 1, 16),
        '0'..='3' => return code(3, 0, 8),
        _ => return None,
    };
    out.push(plain);
    Some(1)
}
