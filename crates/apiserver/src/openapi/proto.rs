//! OpenAPI in protobuf, as clients that do not want to parse JSON ask for it: gnostic's `openapi.v2.Document` and
//! `openapi.v3.Document`.

use schema::proto::wire::{write_bytes, write_nested, write_tag, write_varint};
use schema::{Object, Value};

use super::Dialect;

/// A message: its fields, and where what begins with `x-` goes.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

enum Form {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// JSON text, which is YAML: one, or a list of them.
    Any,
    Anys,
    Of(&'static Message),
    /// A list of messages, each within others.
    All(&'static [u32], &'static Message),
    /// Messages in a message around them, at these numbers from the outside in.
    Within(&'static [u32], &'static Message),
    /// An object's members as a list of names and values, in a message around it; the value within yet others.
    Named(u32, &'static [u32], &'static Message),
    /// One text or several.
    Types,
    SchemaOrFlag,
    Parameters,
    /// Of v3, where a schema is one or a reference to one: below these numbers, a list of them, by name, or a flag.
    Either(&'static [u32]),
    Eithers,
    NamedEither,
    EitherOrFlag,
    Scalar,
}

use Form::{
    All, Any, Anys, Either, EitherOrFlag, Eithers, Flag, Integer, Named, NamedEither, Number, Of, Parameters, Scalar,
    SchemaOrFlag, Text, Texts, Types, Within,
};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Of(&INFO)),
        ("paths", 8, Named(2, &[], &PATH)),
        ("definitions", 9, Named(1, &[], &SCHEMA)),
    ],
    extensions: 16,
};
static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7 };
static PATH: Message = Message {
    fields: &[
        ("get", 2, Of(&OPERATION)),
        ("put", 3, Of(&OPERATION)),
        ("post", 4, Of(&OPERATION)),
        ("delete", 5, Of(&OPERATION)),
        ("patch", 8, Of(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(1, &[1], &RESPONSE)),
    ],
    extensions: 13,
};
static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Within(&[1], &SCHEMA))], extensions: 5 };
static BODY: Message = Message {
    fields: &[("name", 2, Text), ("in", 3, Text), ("required", 4, Flag), ("schema", 5, Of(&SCHEMA))],
    extensions: 6,
};
static QUERY: Message = Message {
    fields: &[("required", 1, Flag), ("in", 2, Text), ("name", 4, Text), ("type", 6, Text), ("uniqueItems", 20, Flag)],
    extensions: 23,
};
static IN_PATH: Message = Message {
    fields: &[("required", 1, Flag), ("in", 2, Text), ("name", 4, Text), ("type", 5, Text), ("uniqueItems", 19, Flag)],
    extensions: 22,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrFlag),
        ("type", 22, Types),
        ("items", 23, Within(&[1], &SCHEMA)),
        ("allOf", 24, All(&[], &SCHEMA)),
        ("properties", 25, Named(1, &[], &SCHEMA)),
        ("externalDocs", 29, Of(&DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
};
static DOCS: Message = Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };

static DOCUMENT_3: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, Of(&INFO_3)),
        ("paths", 4, Named(1, &[], &PATH_3)),
        ("components", 5, Of(&COMPONENTS)),
    ],
    extensions: 9,
};
static INFO_3: Message = Message { fields: &[("title", 1, Text), ("version", 6, Text)], extensions: 7 };
static COMPONENTS: Message = Message { fields: &[("schemas", 1, NamedEither)], extensions: 10 };
static PATH_3: Message = Message {
    fields: &[
        ("get", 4, Of(&OPERATION_3)),
        ("put", 5, Of(&OPERATION_3)),
        ("post", 6, Of(&OPERATION_3)),
        ("delete", 7, Of(&OPERATION_3)),
        ("patch", 10, Of(&OPERATION_3)),
        ("parameters", 13, All(&[1], &PARAMETER)),
    ],
    extensions: 14,
};
static OPERATION_3: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("operationId", 5, Text),
        ("parameters", 6, All(&[1], &PARAMETER)),
        ("requestBody", 7, Within(&[1], &BODY_3)),
        ("responses", 8, Named(2, &[1], &RESPONSE_3)),
    ],
    extensions: 13,
};
static PARAMETER: Message = Message {
    fields: &[("name", 1, Text), ("in", 2, Text), ("required", 4, Flag), ("schema", 10, Either(&[]))],
    extensions: 14,
};
static BODY_3: Message = Message { fields: &[("content", 2, Named(1, &[], &MEDIA))], extensions: 4 };
static RESPONSE_3: Message =
    Message { fields: &[("description", 1, Text), ("content", 3, Named(1, &[], &MEDIA))], extensions: 5 };
static MEDIA: Message = Message { fields: &[("schema", 1, Either(&[]))], extensions: 5 };
static REFERENCE: Message = Message { fields: &[("$ref", 1, Text)], extensions: 4 };
static SCHEMA_3: Message = Message {
    fields: &[
        ("nullable", 1, Flag),
        ("externalDocs", 6, Of(&DOCS)),
        ("example", 7, Any),
        ("title", 9, Text),
        ("multipleOf", 10, Number),
        ("maximum", 11, Number),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Integer),
        ("minLength", 16, Integer),
        ("pattern", 17, Text),
        ("maxItems", 18, Integer),
        ("minItems", 19, Integer),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Integer),
        ("minProperties", 22, Integer),
        ("required", 23, Texts),
        ("enum", 24, Anys),
        ("type", 25, Text),
        ("allOf", 26, Eithers),
        ("oneOf", 27, Eithers),
        ("anyOf", 28, Eithers),
        ("not", 29, Of(&SCHEMA_3)),
        ("items", 30, Either(&[1])),
        ("properties", 31, NamedEither),
        ("additionalProperties", 32, EitherOrFlag),
        ("default", 33, Scalar),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

/// The document of a dialect, encoded.
pub fn encode(dialect: Dialect, document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(if dialect == Dialect::V2 { &DOCUMENT } else { &DOCUMENT_3 }, document, &mut out);
    out
}

/// A schema within others, or a reference to one.
fn either(tags: &[u32], value: &Value, out: &mut Vec<u8>) {
    let (last, of) = if value.get(&["$ref"]).is_some() { (2, &REFERENCE) } else { (1, &SCHEMA_3) };
    within(&[tags, &[last]].concat(), of, value, out);
}

fn items(value: &Value) -> &[Value] {
    value.as_list().unwrap_or_default()
}

fn message(of: &Message, value: &Value, out: &mut Vec<u8>) {
    static NOTHING: Object = Object::new();
    let members = value.as_object().unwrap_or(&NOTHING);
    for (name, tag, form) in of.fields {
        if let Some(member) = members.get(name) {
            field(*tag, form, member, out);
        }
    }
    for (name, extension) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        write_nested(of.extensions, out, |out| {
            write_bytes(1, name.as_bytes(), out);
            any(2, extension, out);
        });
    }
}

fn any(tag: u32, value: &Value, out: &mut Vec<u8>) {
    write_nested(tag, out, |out| write_bytes(2, format!("{value}\n").as_bytes(), out));
}

fn flag(tag: u32, value: bool, out: &mut Vec<u8>) {
    write_tag(tag, 0, out);
    write_varint(value.into(), out);
}

/// A message within others.
fn within(tags: &[u32], of: &Message, value: &Value, out: &mut Vec<u8>) {
    match tags {
        [] => message(of, value, out),
        [tag, rest @ ..] => write_nested(*tag, out, |out| within(rest, of, value, out)),
    }
}

fn field(tag: u32, form: &Form, value: &Value, out: &mut Vec<u8>) {
    let mut text = |value: &Value| write_bytes(tag, value.as_str().unwrap_or_default().as_bytes(), out);
    match form {
        Text => text(value),
        Texts => items(value).iter().for_each(text),
        Flag => flag(tag, value.as_bool().unwrap_or_default(), out),
        Integer => {
            write_tag(tag, 0, out);
            write_varint(value.as_f64().unwrap_or_default() as i64 as u64, out);
        }
        Number => {
            write_tag(tag, 1, out);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Any => any(tag, value, out),
        Anys => items(value).iter().for_each(|item| any(tag, item, out)),
        Of(of) => within(&[tag], of, value, out),
        All(tags, of) => items(value).iter().for_each(|item| within(&[&[tag], *tags].concat(), of, item, out)),
        Within(tags, of) => within(&[&[tag], *tags].concat(), of, value, out),
        Named(inner, tags, of) => write_nested(tag, out, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                write_nested(*inner, out, |out| {
                    write_bytes(1, name.as_bytes(), out);
                    within(&[&[2], *tags].concat(), of, value, out);
                });
            }
        }),
        Types => write_nested(tag, out, |out| {
            for name in value.as_str().into_iter().chain(items(value).iter().filter_map(Value::as_str)) {
                write_bytes(1, name.as_bytes(), out);
            }
        }),
        SchemaOrFlag | EitherOrFlag => match (value.as_bool(), form) {
            (Some(value), _) => write_nested(tag, out, |out| flag(2, value, out)),
            (None, SchemaOrFlag) => within(&[tag, 1], &SCHEMA, value, out),
            (None, _) => either(&[tag, 1], value, out),
        },
        Either(tags) => either(&[&[tag], *tags].concat(), value, out),
        Eithers => items(value).iter().for_each(|item| either(&[tag], item, out)),
        NamedEither => write_nested(tag, out, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                write_nested(1, out, |out| {
                    write_bytes(1, name.as_bytes(), out);
                    either(&[2], value, out);
                });
            }
        }),
        Scalar => write_nested(tag, out, |out| match value {
            Value::String(_) => field(3, &Text, value, out),
            Value::Bool(value) => flag(2, *value, out),
            value if value.as_f64().is_some() => field(1, &Number, value, out),
            _ => {}
        }),
        Parameters => {
            for parameter in items(value) {
                // A parameter is of the body, or of no body and of the path or the query.
                match parameter.str_at(&["in"]) {
                    "body" => within(&[tag, 1, 1], &BODY, parameter, out),
                    "path" => within(&[tag, 1, 2, 4], &IN_PATH, parameter, out),
                    _ => within(&[tag, 1, 2, 3], &QUERY, parameter, out),
                }
            }
        }
    }
}
