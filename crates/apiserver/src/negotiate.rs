//! Media types: what a client sends and what it accepts, as upstream negotiates them.

use http::HeaderMap;

use crate::status::{Result, Status};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    /// `application/json;pretty=1`, or `?pretty=true`, or a browser or curl.
    PrettyJson,
    Yaml,
    Protobuf,
}

/// What becomes of an object on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    Whole,
    /// `as=Table`
    Table,
    /// `as=PartialObjectMetadata`, or its list.
    Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
    /// Of a partial shape: `as=PartialObjectMetadataList`.
    pub as_list: bool,
}

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const SUPPORTED: [&str; 3] = [JSON, YAML, PROTOBUF];
const WITHOUT_PROTOBUF: [&str; 2] = [JSON, YAML];

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json | Encoding::PrettyJson => JSON,
            Encoding::Yaml => YAML,
            Encoding::Protobuf => PROTOBUF,
        }
    }

    /// Content type of a watch in this encoding.
    pub fn stream_type(self) -> &'static str {
        match self {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => JSON,
        }
    }
}

/// One clause of an Accept header.
pub struct Clause<'a> {
    pub media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .filter(|c| !c.trim().is_empty())
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Clause { media, params, quality }
        })
        .collect();
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    out
}

fn param<'a>(clause: &Clause<'a>, name: &str) -> Option<&'a str> {
    clause.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
}

fn encoding_of(media: &str, protobuf: bool) -> Option<Encoding> {
    match media {
        "*/*" | JSON => Some(Encoding::Json),
        YAML => Some(Encoding::Yaml),
        PROTOBUF if protobuf => Some(Encoding::Protobuf),
        _ => None,
    }
}

/// What to answer in. `shapes`: the kind may be asked for as a table or by its metadata. `protobuf`: it has that encoding.
pub fn accept(headers: &HeaderMap, query: &crate::request::Query, shapes: bool, protobuf: bool) -> Result<Accepted> {
    let accept = join_header(headers, http::header::ACCEPT);
    let mut pretty = query.get("pretty").map(|v| v == "true" || v == "1");
    if pretty.is_none() {
        let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        pretty = Some(["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p)));
    }
    let finish = |encoding, shape, asked_pretty: bool| {
        let pretty = asked_pretty || pretty == Some(true);
        let encoding = if encoding == Encoding::Json && pretty { Encoding::PrettyJson } else { encoding };
        Ok(Accepted { encoding, shape, as_list: false })
    };
    if accept.trim().is_empty() {
        return finish(Encoding::Json, Shape::Whole, false);
    }
    for clause in clauses(&accept) {
        let Some(encoding) = encoding_of(clause.media, protobuf || param(&clause, "as").is_some()) else { continue };
        let asked_pretty = param(&clause, "pretty") == Some("1");
        let Some(kind) = param(&clause, "as") else {
            return finish(encoding, Shape::Whole, asked_pretty);
        };
        if !shapes || param(&clause, "g") != Some("meta.k8s.io") || !matches!(param(&clause, "v"), Some("v1")) {
            continue;
        }
        match kind {
            "Table" if encoding != Encoding::Protobuf => return finish(encoding, Shape::Table, asked_pretty),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => {
                let accepted = finish(encoding, Shape::Partial, asked_pretty)?;
                return Ok(Accepted { as_list: kind.ends_with("List"), ..accepted });
            }
            _ => {}
        }
    }
    let is_known = clauses(&accept).iter().any(|clause| encoding_of(clause.media, true).is_some());
    Err(if protobuf && !is_known { Status::no_representation(&SUPPORTED) } else { Status::not_acceptable(&SUPPORTED) })
}

/// In what encoding a body comes.
pub fn content_type(headers: &HeaderMap, protobuf: bool) -> Result<Encoding> {
    let value = join_header(headers, http::header::CONTENT_TYPE);
    let media = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match media.as_str() {
        "" | JSON | "application/apply-patch+json" => Ok(Encoding::Json),
        YAML => Ok(Encoding::Yaml),
        PROTOBUF if protobuf => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(if protobuf { &SUPPORTED } else { &WITHOUT_PROTOBUF })),
    }
}

/// All values of a header as one list.
pub fn join_header(headers: &HeaderMap, name: http::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(",")
}

pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    join_header(headers, http::header::ACCEPT_ENCODING).split(',').any(|e| e.trim().split(';').next() == Some("gzip"))
}
