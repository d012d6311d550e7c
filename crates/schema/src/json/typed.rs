//! Typed decoding: what Go's strict JSON decoder does with a struct, driven by the table.

use base64::Engine;

use super::reader::{Path, Reader, Step};
use super::{DecodeError, Decoded, FieldProblem};
use crate::{Form, Message, MessageId, Object, Scalar, Table, Type, Value, quantity, time};

/// Go reads a second object into the first one.
fn over(before: Value, value: Value) -> Value {
    let (Value::Object(mut object), Value::Object(more)) = (before, value.clone()) else { return value };
    for (key, value) in more {
        let before = object.remove(&key).unwrap_or_default();
        object.insert(key, over(before, value));
    }
    Value::Object(object)
}

pub fn decode(table: &Table, ty: &Type, bytes: &[u8]) -> Result<Decoded> {
    let mut decoder = Decoder { table, reader: Reader::new(bytes) };
    let value = decoder.value(ty, false, &Path::ROOT).and_then(|value| Ok(decoder.reader.end().map(|()| value)?));
    match value {
        Ok(value) => Ok(Decoded { value, problems: decoder.reader.problems }),
        // Go checks the whole syntax first.
        Err(DecodeError::Mistyped(message)) => {
            let mut reader = Reader::new(bytes);
            reader.skip().and_then(|_| reader.end())?;
            Err(DecodeError::Mistyped(message))
        }
        Err(syntax) => Err(syntax),
    }
}

struct Decoder<'a> {
    table: &'a Table,
    reader: Reader<'a>,
}

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a> Decoder<'a> {
    /// A value of this type; `null` is the type's zero, or null where the field is a pointer.
    fn value(&mut self, ty: &Type, pointer: bool, path: &Path<'_>) -> Result<Value> {
        let first = self.reader.peek()?;
        if first == b'n' {
            self.reader.literal("null")?;
            return Ok(if pointer { Value::Null } else { self.table.zero(ty) });
        }
        match ty {
            Type::Any => Ok(self.reader.value(path)?),
            Type::Scalar(scalar) => self.scalar(*scalar, first, path),
            Type::Message(id) => self.message(self.table.message(*id), first, ty, path),
            Type::List { element, .. } => match first {
                b'[' => self.list(element, path),
                _ => self.mistyped(first, ty, path),
            },
            Type::Map { value, .. } => match first {
                b'{' => self.map(value, path),
                _ => self.mistyped(first, ty, path),
            },
        }
    }

    fn list(&mut self, element: &Type, path: &Path<'_>) -> Result<Value> {
        self.reader.enter()?;
        let mut list = Vec::new();
        let mut first = true;
        while self.reader.element(&mut first)? {
            let item = self.value(element, false, &path.then(Step::Index(list.len())))?;
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, ty: &Type, path: &Path<'_>) -> Result<Value> {
        self.reader.enter()?;
        let mut object = Object::new();
        let mut first = true;
        while let Some(key) = self.reader.key(&mut first)? {
            let value = self.value(ty, false, &path.then(Step::Key(&key)))?;
            if object.contains_key(&key) {
                self.reader.report(|| FieldProblem::Duplicate(path.member(&key)));
            }
            object.insert(&*key, value);
        }
        Ok(Value::Object(object))
    }

    fn message(&mut self, message: &Message, first: u8, ty: &Type, path: &Path<'_>) -> Result<Value> {
        match message.form {
            Form::Struct if first == b'{' => self.object(message, path),
            Form::Struct => self.mistyped(first, ty, path),
            Form::Time | Form::MicroTime | Form::Duration => {
                let text = match first {
                    b'"' => self.reader.string()?,
                    _ => return self.mistyped(first, &Type::Scalar(Scalar::String), path),
                };
                parse_time(message.form, &text).map_err(DecodeError::Mistyped)
            }
            Form::Quantity => {
                let raw = self.reader.skip()?;
                let text = std::str::from_utf8(raw).unwrap_or("");
                let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
                match quantity::canonical(text.trim()) {
                    Ok(text) => Ok(Value::String(text.into_owned())),
                    Err(e) => Err(DecodeError::Mistyped(e.to_string())),
                }
            }
            Form::IntOrString if first == b'"' => Ok(Value::String(self.reader.string()?.into_owned())),
            Form::IntOrString => self.scalar(Scalar::Int32, first, path),
            Form::RawExtension | Form::FieldsV1 | Form::Json => self.quietly(|d| Ok(d.reader.value(path)?)),
            Form::JsonSchemaPropsOrBool | Form::JsonSchemaPropsOrArray | Form::JsonSchemaPropsOrStringArray => {
                self.quietly(|d| d.schema_or(message, first, path))
            }
            Form::Items => match message.fields.first().map(|f| &f.ty) {
                Some(Type::List { element, .. }) if first == b'[' => self.list(element, path),
                _ => self.mistyped(first, ty, path),
            },
        }
    }

    fn quietly<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.reader.quiet += 1;
        let result = read(self);
        self.reader.quiet -= 1;
        result
    }

    /// A schema, or the other thing its place allows.
    fn schema_or(&mut self, message: &Message, first: u8, path: &Path<'_>) -> Result<Value> {
        let of = |name: &str| message.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| &f.ty);
        let list = of("jsonSchemas").or_else(|| of("property"));
        match (message.form, first, of("schema"), list) {
            (_, b'{', Some(schema), _) => self.value(schema, false, path),
            (Form::JsonSchemaPropsOrBool, b't' | b'f', ..) => self.scalar(Scalar::Bool, first, path),
            (Form::JsonSchemaPropsOrBool, ..) => {
                Err(DecodeError::Mistyped("boolean or JSON schema expected".to_owned()))
            }
            (_, b'[', _, Some(list)) => self.value(list, false, path),
            _ => self.reader.skip().map(|_| Value::Null).map_err(Into::into),
        }
    }

    fn object(&mut self, message: &Message, path: &Path<'_>) -> Result<Value> {
        self.reader.enter()?;
        let table = self.table;
        let mut object = Object::new();
        // Left out because zero, but seen: a second one is still a duplicate.
        let mut omitted: Vec<&str> = Vec::new();
        let mut first = true;
        // Members mostly come in Go's order: the next one is likely to be close.
        let mut next = 0;
        while let Some(key) = self.reader.key(&mut first)? {
            let near = message.fields[next..].iter().take(4).position(|f| *f.name == *key && !f.inline);
            let found = match near {
                Some(at) => {
                    next += at + 1;
                    Some(&message.fields[next - 1])
                }
                None => table.field(message, &key),
            };
            let Some(field) = found.filter(|f| !f.name.is_empty()) else {
                if path.is_root() && matches!(&*key, "kind" | "apiVersion") {
                    let value = self.scalar_member(message, &key, path)?;
                    object.insert(&*key, value);
                } else if let Some(rest) = message.rest() {
                    let value = self.value(&rest.ty, true, &path.then(Step::Key(&key)))?;
                    object.insert(&*key, value);
                } else {
                    self.reader.report(|| FieldProblem::Unknown(path.member(&key)));
                    self.reader.skip()?;
                }
                continue;
            };
            let mut value = self.value(&field.ty, field.pointer, &path.then(Step::Field(message, &key)))?;
            if object.contains_key(&key) || omitted.contains(&&*field.name) {
                self.reader.report(|| FieldProblem::Duplicate(path.member(&key)));
                let is_struct = |id: &MessageId| table.message(*id).form == Form::Struct;
                if let Some(before) = object.remove(&key)
                    && (matches!(field.ty, Type::Map { .. }) || matches!(&field.ty, Type::Message(id) if is_struct(id)))
                {
                    value = over(before, value);
                }
            }
            // An empty managedFields is an order to forget them: see `apply::update`. No policies are not the default ones.
            let reset = matches!(&*field.name, "managedFields" | "policies") && matches!(value, Value::List(_));
            if table.omits(field, &value) && !reset {
                omitted.push(&field.name);
            } else if *field.name == *key {
                object.insert(field.name.clone(), value);
            } else {
                object.insert(&*key, value);
            }
        }
        table.fill(message, &mut object);
        Ok(Value::Object(object))
    }

    /// `kind` and `apiVersion` of a root whose message does not list them.
    fn scalar_member(&mut self, message: &Message, key: &str, path: &Path<'_>) -> Result<Value> {
        self.value(&Type::Scalar(Scalar::String), false, &path.then(Step::Field(message, key)))
    }

    fn scalar(&mut self, scalar: Scalar, first: u8, path: &Path<'_>) -> Result<Value> {
        let ty = Type::Scalar(scalar);
        match (first, scalar) {
            (b'"', Scalar::String) => Ok(Value::String(self.reader.string()?.into_owned())),
            (b'"', Scalar::Bytes) => {
                let text = self.reader.string()?;
                base64_value(&text).map(Value::String).map_err(DecodeError::Mistyped)
            }
            (b't', Scalar::Bool) => Ok(self.reader.literal("true").map(|()| Value::Bool(true))?),
            (b'f', Scalar::Bool) => Ok(self.reader.literal("false").map(|()| Value::Bool(false))?),
            (b'-' | b'0'..=b'9', Scalar::Bool | Scalar::String | Scalar::Bytes) => self.mistyped(first, &ty, path),
            (b'-' | b'0'..=b'9', _) => {
                let text = self.reader.number()?;
                number(scalar, text).map_or_else(|| self.wrong(&format!("number {text}"), &ty, path), Ok)
            }
            _ => self.mistyped(first, &ty, path),
        }
    }

    fn mistyped<T>(&mut self, first: u8, ty: &Type, path: &Path<'_>) -> Result<T> {
        let found = match first {
            b'{' => "object",
            b'[' => "array",
            b'"' => "string",
            b't' | b'f' => "bool",
            _ => "number",
        };
        self.wrong(found, ty, path)
    }

    fn wrong<T>(&self, found: &str, ty: &Type, path: &Path<'_>) -> Result<T> {
        let wanted = self.table.go_type(ty);
        let fields = path.fields();
        let Some((innermost, _)) = fields.last() else {
            return Err(DecodeError::Mistyped(format!(
                "json: cannot unmarshal {found} into Go value of type {wanted}"
            )));
        };
        let mut stack: Vec<String> = Vec::new();
        for (message, name) in &fields {
            let mut owner = *message;
            while owner.field(name).is_none() {
                match self.table.inlined(owner).find(|(_, inner)| self.table.field(inner, name).is_some()) {
                    Some((_, inner)) => {
                        stack.push(inner.short_name().to_owned());
                        owner = inner;
                    }
                    None => break,
                }
            }
            stack.push((*name).to_owned());
        }
        Err(DecodeError::Mistyped(format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            innermost.short_name(),
            stack.join("."),
        )))
    }
}

/// A number of that type, or nothing if it does not fit.
fn number(scalar: Scalar, text: &str) -> Option<Value> {
    match scalar {
        Scalar::Int32 => text.parse::<i32>().ok().map(|n| Value::Int(n.into())),
        Scalar::Int64 => text.parse::<i64>().ok().map(Value::Int),
        Scalar::Uint32 => text.parse::<u32>().ok().map(|n| Value::Int(n.into())),
        Scalar::Uint64 => text.parse::<u64>().ok().and_then(|n| i64::try_from(n).ok()).map(Value::Int),
        Scalar::Float => text.parse::<f32>().ok().filter(|f| f.is_finite()).map(|f| Value::Float(f.into())),
        Scalar::Double => text.parse::<f64>().ok().filter(|f| f.is_finite()).map(Value::Float),
        Scalar::Bool | Scalar::String | Scalar::Bytes => None,
    }
}

/// Checks base64 as Go does (line breaks are passed over) and gives it back in its one normal spelling.
fn base64_value(text: &str) -> std::result::Result<String, String> {
    let engine = &base64::engine::general_purpose::STANDARD;
    let clean: std::borrow::Cow<'_, str> =
        if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() };
    match engine.decode(&*clean) {
        Ok(bytes) => Ok(engine.encode(bytes)),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(len) => len - len % 4,
                base64::DecodeError::InvalidPadding => clean.len() - clean.len() % 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// The normal form of a time or duration; Go's zero time is null.
pub(super) fn parse_time(form: Form, text: &str) -> std::result::Result<Value, String> {
    if form == Form::Duration {
        return match time::parse_duration(text) {
            Some(nanos) => Ok(Value::String(time::format_duration(nanos))),
            None => Err(format!("time: invalid duration {text:?}")),
        };
    }
    let micro = form == Form::MicroTime;
    // Go's layout of six digits wants just those.
    let fraction = text.get(19..).and_then(|rest| rest.strip_prefix('.'));
    let digits = fraction.map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let parsed = time::parse(text).filter(|_| !micro || digits == 6);
    match parsed {
        Some((time::ZERO, 0)) => Ok(Value::Null),
        Some((seconds, _)) if !micro && seconds == time::ZERO => Ok(Value::Null),
        Some((seconds, nanos)) if micro => Ok(Value::String(time::format_micro(seconds, nanos))),
        Some((seconds, _)) => Ok(Value::String(time::format(seconds))),
        None => {
            let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
            Err(time_error(text, layout))
        }
    }
}

/// Go's words for a time that does not parse: the first element of the layout that fails.
fn time_error(text: &str, layout: &str) -> String {
    let elements: &[(&str, usize)] = &[
        ("2006", 4),
        ("-", 1),
        ("01", 2),
        ("-", 1),
        ("02", 2),
        ("T", 1),
        ("15", 2),
        (":", 1),
        ("04", 2),
        (":", 1),
        ("05", 2),
    ];
    let mut rest = text;
    for (element, len) in elements {
        let part = rest.get(..*len).unwrap_or("");
        let fits = if element.len() == 1 {
            part == *element
        } else {
            part.len() == *len && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !fits {
            return format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}");
        }
        rest = &rest[*len..];
    }
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    if layout.contains(".000000") && digits > 6 {
        return format!("parsing time {text:?} as {layout:?}: cannot parse {:?} as \"Z07:00\"", &rest[7..]);
    }
    if layout.contains(".000000") && digits < 6 {
        return format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \".000000\"");
    }
    let rest = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if rest.starts_with('Z') && rest.len() > 1 {
        return format!("parsing time {text:?}: extra text: {:?}", &rest[1..]);
    }
    if rest.starts_with('Z') {
        return format!("parsing time {text:?}: day out of range");
    }
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"Z07:00\"")
}
