//! A pull parser over bytes, with Go's words for what is wrong.

use std::borrow::Cow;

use super::{FieldProblem, MAX_DEPTH, SyntaxError};
use crate::{Message, Object, Value};

/// Strict decoding stops counting problems here, as upstream does.
const MAX_PROBLEMS: usize = 100;

/// Where the reader stands; nodes live on the call stack and cost nothing until they are printed.
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

pub(crate) enum Step<'p> {
    Root,
    /// A member of a struct.
    Field(&'p Message, &'p str),
    /// A member of a map or of an untyped object.
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub fn then(&'p self, step: Step<'p>) -> Path<'p> {
        Path { parent: Some(self), step }
    }

    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// `spec.containers[0].name`
    pub fn print(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.print(out);
        }
        match &self.step {
            Step::Root => {}
            Step::Index(at) => out.push_str(&format!("[{at}]")),
            Step::Field(_, name) | Step::Key(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
        }
    }

    pub fn member(&self, key: &str) -> String {
        let mut out = String::new();
        self.then(Step::Key(key)).print(&mut out);
        out
    }

    /// The struct fields passed on the way here, outermost first.
    pub fn fields(&self) -> Vec<(&'p Message, &'p str)> {
        let mut fields = self.parent.map(Path::fields).unwrap_or_default();
        if let Step::Field(message, name) = self.step {
            fields.push((message, name));
        }
        fields
    }
}

pub(crate) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    depth: usize,
    pub problems: Vec<FieldProblem>,
    /// Above zero, problems are not recorded (what a custom unmarshaller reads).
    pub quiet: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0, depth: 0, problems: Vec::new(), quiet: 0 }
    }

    pub fn report(&mut self, problem: impl FnOnce() -> FieldProblem) {
        if self.quiet == 0 && self.problems.len() < MAX_PROBLEMS {
            let problem = problem();
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    fn fail<T>(&self, message: String) -> Result<T, SyntaxError> {
        Err(SyntaxError { offset: self.at as u64, message })
    }

    /// What Go says about the byte here: `invalid character 'x' looking for …`, or the end of input.
    fn unexpected<T>(&self, context: &str) -> Result<T, SyntaxError> {
        match self.bytes.get(self.at) {
            // Go ends the input with a space, which says more within a word or a number.
            None if ["in literal", "in numeric", "after decimal", "in exponent"]
                .iter()
                .any(|c| context.starts_with(c)) =>
            {
                self.fail(format!("invalid character ' ' {context}"))
            }
            None => self.fail("unexpected end of JSON input".to_owned()),
            Some(&b) => {
                let shown = match b {
                    b'\'' => r"'\''".to_owned(),
                    b'"' => "'\"'".to_owned(),
                    b'\\' => r"'\\'".to_owned(),
                    b'\n' => r"'\n'".to_owned(),
                    b'\r' => r"'\r'".to_owned(),
                    b'\t' => r"'\t'".to_owned(),
                    0..0x20 | 0x7f => format!("'\\x{b:02x}'"),
                    _ => format!("'{}'", char::from(b)),
                };
                self.fail(format!("invalid character {shown} {context}"))
            }
        }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The first byte of the value that follows.
    pub fn peek(&mut self) -> Result<u8, SyntaxError> {
        self.space();
        match self.bytes.get(self.at) {
            Some(&b @ (b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')) => Ok(b),
            _ => self.unexpected("looking for beginning of value"),
        }
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.unexpected("after top-level value") }
    }

    /// Enters `{` or `[`.
    pub fn enter(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.fail("exceeded max depth".to_owned()) } else { Ok(()) }
    }

    /// The next member's key, its colon eaten; `None` at the closing brace.
    pub fn key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>, SyntaxError> {
        self.space();
        let found = self.bytes.get(self.at);
        match found {
            Some(b'}') if *first => return self.leave(),
            Some(b'}') => return self.leave(),
            Some(b',') if !*first => {
                self.at += 1;
                self.space();
            }
            _ if *first => {}
            _ => return self.unexpected("after object key:value pair"),
        }
        *first = false;
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.unexpected("looking for beginning of object key string");
        }
        let key = self.string()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether another element follows in an array; eats the comma or the bracket.
    pub fn element(&mut self, first: &mut bool) -> Result<bool, SyntaxError> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b']') => return self.leave::<()>().map(|_| false),
            Some(b',') if !*first => {
                self.at += 1;
                self.space();
                if self.bytes.get(self.at) == Some(&b']') {
                    return self.unexpected("looking for beginning of value");
                }
            }
            _ if *first => {}
            _ => return self.unexpected("after array element"),
        }
        *first = false;
        Ok(true)
    }

    fn leave<T>(&mut self) -> Result<Option<T>, SyntaxError> {
        self.at += 1;
        self.depth -= 1;
        Ok(None)
    }

    pub fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        for (i, expected) in word.bytes().enumerate() {
            if self.bytes.get(self.at) != Some(&expected) {
                return self.unexpected(&format!("in literal {word} (expecting {:?})", char::from(word.as_bytes()[i])));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// The text of a number.
    pub fn number(&mut self) -> Result<&'a str, SyntaxError> {
        let start = self.at;
        let here = |r: &Self| r.bytes.get(r.at).copied();
        if here(self) == Some(b'-') {
            self.at += 1;
        }
        match here(self) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.unexpected("in numeric literal"),
        }
        if here(self) == Some(b'.') {
            self.at += 1;
            if !here(self).is_some_and(|b| b.is_ascii_digit()) {
                return self.unexpected("after decimal point in numeric literal");
            }
            self.digits();
        }
        if let Some(b'e' | b'E') = here(self) {
            self.at += 1;
            if let Some(b'+' | b'-') = here(self) {
                self.at += 1;
            }
            if !here(self).is_some_and(|b| b.is_ascii_digit()) {
                return self.unexpected("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or("0"))
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    /// A string, borrowed if it has no escapes. Bad UTF-8 and lone surrogates become U+FFFD, as in Go.
    pub fn string(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        self.at += 1;
        let start = self.at;
        let mut buffer: Vec<u8> = Vec::new();
        let mut copied = start;
        loop {
            while let Some(word) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
                let plain = super::write::quoted_bytes(*word);
                self.at += plain;
                if plain < 8 {
                    break;
                }
            }
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let tail = &self.bytes[copied..self.at];
                    self.at += 1;
                    if copied == start {
                        return Ok(
                            std::str::from_utf8(tail).map_or_else(|_| String::from_utf8_lossy(tail), Cow::Borrowed)
                        );
                    }
                    buffer.extend_from_slice(tail);
                    let text = String::from_utf8(buffer)
                        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => {
                    buffer.extend_from_slice(&self.bytes[copied..self.at]);
                    self.at += 1;
                    self.escape(&mut buffer)?;
                    copied = self.at;
                }
                Some(0x20..) => self.at += 1,
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let plain = match self.bytes.get(self.at) {
            Some(&b @ (b'"' | b'\\' | b'/')) => b,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let mut code = self.hex4()?;
                // A surrogate pair; a lone half is replaced, and what follows it read on its own.
                if (0xD800..0xDC00).contains(&code) && self.bytes[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.hex4()?;
                    if (0xDC00..0xE000).contains(&low) {
                        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    } else {
                        self.at = back;
                    }
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.unexpected("in string escape code"),
        };
        self.at += 1;
        out.push(plain);
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            match self.bytes.get(self.at).and_then(|b| char::from(*b).to_digit(16)) {
                Some(d) => code = code * 16 + d,
                None => return self.unexpected("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(code)
    }

    /// Any value, untyped: integers which fit are integers.
    pub fn value(&mut self, path: &Path<'_>) -> Result<Value, SyntaxError> {
        Ok(match self.peek()? {
            b'{' => {
                self.enter()?;
                let mut object = Object::new();
                let mut first = true;
                while let Some(key) = self.key(&mut first)? {
                    let value = self.value(&path.then(Step::Key(&key)))?;
                    if object.insert(&*key, value).is_some() {
                        self.report(|| FieldProblem::Duplicate(path.member(&key)));
                    }
                }
                Value::Object(object)
            }
            b'[' => {
                self.enter()?;
                let mut list = Vec::new();
                let mut first = true;
                while self.element(&mut first)? {
                    let value = self.value(&path.then(Step::Index(list.len())))?;
                    list.push(value);
                }
                Value::List(list)
            }
            b'"' => Value::String(self.string()?.into_owned()),
            b't' => self.literal("true").map(|()| Value::Bool(true))?,
            b'f' => self.literal("false").map(|()| Value::Bool(false))?,
            b'n' => self.literal("null").map(|()| Value::Null)?,
            _ => {
                let text = self.number()?;
                match untyped_number(text) {
                    Some(value) => value,
                    None => {
                        return self
                            .fail(format!("json: cannot unmarshal number {text} into Go value of type float64"));
                    }
                }
            }
        })
    }

    /// Passes over a value, checking its syntax; its bytes.
    pub fn skip(&mut self) -> Result<&'a [u8], SyntaxError> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'{' => {
                self.enter()?;
                let mut first = true;
                while self.key(&mut first)?.is_some() {
                    self.skip()?;
                }
            }
            b'[' => {
                self.enter()?;
                let mut first = true;
                while self.element(&mut first)? {
                    self.skip()?;
                }
            }
            b'"' => drop(self.string()?),
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => drop(self.number()?),
        }
        Ok(&self.bytes[start..self.at])
    }
}

/// Go's rule for untyped numbers: an integer if it parses as `int64` (so not `1e3`), else a finite float.
fn untyped_number(text: &str) -> Option<Value> {
    if let Ok(i) = text.parse::<i64>() {
        return Some(Value::Int(i));
    }
    text.parse::<f64>().ok().filter(|f| f.is_finite()).map(Value::Float)
}
