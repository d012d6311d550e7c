//! One resource request on its way through the stages.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt;
use schema::{Value, defaults, json, proto, validate::FieldError, yaml};

use crate::conversion::unregistered;
use crate::encode::{IncludeObject, View, message_of};
use crate::kind::{Kind, builtin};
use crate::negotiate::{self, Accepted, Encoding, Shape};
use crate::options::FieldValidation;
use crate::outside::is_object;
use crate::reply::Warnings;
use crate::request::Query;
use crate::status::Result;
use crate::{Attributes, Body, Server, Status, User};

/// Bodies larger than this are refused.
pub const BODY_BYTES_MAX: usize = 3 << 20;

pub struct Call {
    pub server: Server,
    /// From inside of the process.
    pub is_local: bool,
    pub user: User,
    pub info: Attributes,
    pub query: Query,
    pub headers: HeaderMap,
    pub kind: Arc<Kind>,
    pub accepted: Accepted,
    /// For the client, as `Warning` headers.
    pub warnings: Warnings,
}

/// Upstream's `--request-timeout`. So long a body may take to arrive: it has a place among the requests in progress.
const BODY_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

pub async fn read_body(body: Body) -> Result<Bytes> {
    read_limited(body, BODY_BYTES_MAX).await
}

pub async fn read_limited(body: Body, bytes_max: usize) -> Result<Bytes> {
    let late = || Status::timeout("request did not complete within the allotted timeout", 0);
    tokio::time::timeout(BODY_WAIT, collect(body, bytes_max)).await.unwrap_or_else(|_| Err(late()))
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes> {
    let mut all = bytes::BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if all.is_empty() && body.is_end_stream() && data.len() <= bytes_max => return Ok(data),
            Ok(Ok(data)) => all.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(error) => return Err(Status::bad_request(format!("cannot read the body: {error}"))),
        }
        if all.len() > bytes_max {
            return Err(Status::too_large(&format!("limit is {bytes_max}")));
        }
    }
    Ok(all.freeze())
}

impl Call {
    /// For the server's own work, without a request.
    pub fn internal(server: &Server, user: User, kind: Arc<Kind>, namespace: &str, name: &str) -> Call {
        let info = Attributes {
            api_group: kind.resource.group.to_string(),
            api_version: kind.resource.version.to_string(),
            resource: kind.resource.plural.to_string(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        };
        Call {
            server: server.clone(),
            is_local: true,
            user,
            info,
            query: Query::default(),
            headers: HeaderMap::new(),
            kind,
            accepted: Accepted { encoding: Encoding::Json, shape: Shape::Whole, as_list: false },
            warnings: Warnings::default(),
        }
    }

    pub fn view(&self) -> View {
        self.view_of(self.kind.clone())
    }

    /// Tables show objects whole, by their metadata or not at all.
    pub fn check_include(&self) -> Result<()> {
        match self.query.get("includeObject").filter(|_| self.accepted.shape == Shape::Table) {
            None | Some("" | "None" | "Object" | "Metadata") => Ok(()),
            Some(other) => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }

    pub fn view_of(&self, kind: Arc<Kind>) -> View {
        let include = match self.query.get("includeObject") {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        };
        View { kind, accepted: self.accepted, include, now: self.server.now() }
    }

    pub fn user_agent(&self) -> &str {
        self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// Decodes a body as an object of the call's kind, with its declared defaults.
    pub fn decode_object(&mut self, body: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Value> {
        let kind = self.kind.clone();
        let (mut value, problems) = decode_as(&kind, body, encoding)?;
        self.report(&kind, problems, validation)?;
        check_type(&value, &kind)?;
        default_object(&kind, &mut value);
        self.requested(&value);
        Ok(value)
    }

    /// Decodes the body of a subresource that is a type of its own.
    pub fn decode_other(&self, body: &[u8], api_version: &str, kind: &str) -> Result<Value> {
        let value = decode_other(body, negotiate::content_type(&self.headers, true)?, api_version, kind)?;
        self.requested(&value);
        Ok(value)
    }

    /// Tells the audit log of the object that was sent.
    pub fn requested(&self, object: &Value) {
        if let Some(trail) = &self.warnings.trail {
            trail.requested(&self.kind, object);
        }
    }

    pub fn patched(&self, patch: &[u8]) {
        if let Some(trail) = &self.warnings.trail {
            trail.patched(patch);
        }
    }

    /// Unknown and duplicate fields: refused, warned of or ignored.
    pub fn report(&mut self, kind: &Kind, problems: Vec<String>, validation: FieldValidation) -> Result<()> {
        if problems.is_empty() || validation == FieldValidation::Ignore {
            return Ok(());
        }
        if validation == FieldValidation::Strict {
            let why = format!("strict decoding error: {}", problems.join(", "));
            return Err(cannot_handle(kind, &why));
        }
        self.warnings.extend(problems.iter().flat_map(|problem| warned(problem)));
        Ok(())
    }
}

/// A problem as warnings have it: of YAML, a warning a line.
pub fn warned(problem: &str) -> impl Iterator<Item = String> {
    let lines = problem.split_once("yaml: unmarshal errors:\n").map_or(problem, |(_, lines)| lines);
    lines.split('\n').map(|line| line.trim().to_owned())
}

/// Decodes the body of a subresource that is a type of its own (`Scale`, `Binding`, `Eviction`, …).
pub fn decode_other(body: &[u8], encoding: Encoding, api_version: &str, kind: &str) -> Result<Value> {
    let bad = |e: &dyn std::fmt::Display| unrecognized(kind, e, body);
    let message =
        message_of(api_version, kind).ok_or_else(|| Status::internal(format_args!("no type {api_version} {kind}")))?;
    let mut value = match encoding {
        Encoding::Protobuf => {
            let envelope = proto::open(body).map_err(|e| bad(&e))?;
            proto::decode(builtin(), message, envelope.raw).map_err(|e| bad(&e))?
        }
        Encoding::Yaml => {
            let parsed = yaml::parse(body).map_err(|e| bad(&e))?;
            json::typed(builtin(), message, parsed.value).map_err(|e| bad(&e))?.value
        }
        _ => match json::decode(builtin(), message, body) {
            Ok(decoded) => decoded.value,
            Err(json::DecodeError::Syntax(error)) => return Err(bad(&no_json(&error))),
            Err(error) => return Err(bad(&error)),
        },
    };
    let given = value.str_at(&["kind"]);
    if !given.is_empty() && given != kind {
        let version = value.str_at(&["apiVersion"]).rsplit('/').next().unwrap_or_default();
        let package = api_version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
        return Err(Status::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {kind}: converting ({version}.{given}) to ({package}.{kind}): unknown conversion"
        )));
    }
    defaults::apply(builtin(), message, &mut value);
    if value.str_at(&["kind"]).is_empty() {
        value.set(&["kind"], kind);
    }
    if value.str_at(&["apiVersion"]).is_empty() {
        value.set(&["apiVersion"], api_version);
    }
    Ok(value)
}

/// Declared defaults, then the kind's own.
pub fn default_object(kind: &Kind, value: &mut Value) {
    match &kind.custom {
        Some(custom) => custom.schema.default(value),
        None => {
            defaults::apply(builtin(), kind.message(), value);
            (kind.strategy.default)(value);
            // Behaviours may have made objects that have defaults of their own.
            defaults::apply(builtin(), kind.message(), value);
        }
    }
}

/// An object that admission has changed, again in its kind's normal form; and what a strict reader of a built-in type
/// says of it.
pub fn settled(kind: &Kind, object: Value) -> std::result::Result<(Value, Vec<String>), String> {
    let (mut object, mut problems) = typed(kind, object)?;
    if kind.custom.is_some() {
        problems.clear();
    }
    kind.stamp(&mut object);
    default_object(kind, &mut object);
    Ok((object, problems))
}

fn cannot_handle(kind: &Kind, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind(),
        &*kind.resource.version,
        kind.kind()
    ))
}

fn unrecognized(kind: &str, why: &dyn std::fmt::Display, body: &[u8]) -> Status {
    let begins = summary(body);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({begins})"))
}

fn no_json(error: &dyn std::fmt::Display) -> String {
    format!("couldn't get version/kind; json parse error: {error}")
}

/// A body as a typed value of the kind, and what strict decoding would say.
pub fn decode_as(kind: &Kind, body: &[u8], encoding: Encoding) -> Result<(Value, Vec<String>)> {
    if encoding == Encoding::Protobuf {
        let envelope = proto::open(body).map_err(|e| unrecognized(kind.kind(), &e, body))?;
        if !envelope.kind.is_empty() && (envelope.kind != kind.kind() || envelope.api_version != &*kind.api_version) {
            return Err(mismatch(kind, envelope.api_version, envelope.kind));
        }
        let mut value = proto::decode(kind.table(), kind.message(), envelope.raw)
            .map_err(|e| cannot_handle(kind, &e.to_string()))?;
        // What JSON could not say is not taken either: it could not be read again.
        if value.is_deeper_than(json::MAX_DEPTH) {
            return Err(cannot_handle(kind, "exceeded max depth"));
        }
        kind.stamp(&mut value);
        return Ok((value, Vec::new()));
    }
    if encoding != Encoding::Yaml && kind.custom.is_none() {
        // Straight from the bytes: faster, and problems come in the order of the document.
        return match json::decode(kind.table(), kind.message(), body) {
            Ok(decoded) => {
                let mut value = decoded.value;
                named(kind, &value)?;
                kind.stamp(&mut value);
                Ok((value, decoded.problems.iter().map(ToString::to_string).collect()))
            }
            Err(json::DecodeError::Syntax(error)) => Err(unrecognized(kind.kind(), &no_json(&error), body)),
            Err(error) => {
                if let Ok(value) = json::parse(body) {
                    named(kind, &value)?;
                }
                Err(cannot_handle(kind, &error.to_string()))
            }
        };
    }
    let mut parsed = match encoding {
        Encoding::Yaml => yaml::parse(body).map_err(|e| unrecognized(kind.kind(), &e, body))?,
        _ => json::parse_strict(body).map_err(|e| unrecognized(kind.kind(), &no_json(&e), body))?,
    };
    let mut problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    if parsed.value.is_null() {
        parsed.value = Value::object::<&str>([]);
    }
    if let Err(why) = is_object(&parsed.value) {
        return Err(unrecognized(kind.kind(), &no_json(&why), body));
    }
    if kind.custom.is_some() {
        named_custom(kind, &parsed.value, body)?;
    } else {
        named(kind, &parsed.value)?;
    }
    let (mut value, more) = typed(kind, parsed.value).map_err(|e| cannot_handle(kind, &e))?;
    problems.extend(more);
    kind.stamp(&mut value);
    Ok((value, problems))
}

/// What a body says it is must be the kind; saying nothing is right too.
fn named(kind: &Kind, value: &Value) -> Result<()> {
    let (api_version, name) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if !name.is_empty() && name != kind.kind() || !api_version.is_empty() && api_version != &*kind.api_version {
        let api_version = if api_version.is_empty() { &*kind.api_version } else { api_version };
        return Err(mismatch(kind, api_version, if name.is_empty() { kind.kind() } else { name }));
    }
    Ok(())
}

/// A custom resource always says what it is.
fn named_custom(kind: &Kind, value: &Value, body: &[u8]) -> Result<()> {
    let (api_version, name) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if name.is_empty() {
        let text = String::from_utf8_lossy(body);
        return Err(unrecognized(kind.kind(), &format!("Object 'Kind' is missing in '{text}'"), body));
    }
    if api_version != &*kind.api_version {
        return Err(mismatch(kind, api_version, name));
    }
    same_custom_kind(kind, value)
}

/// What a custom resource says it is; other than with built-in kinds, that is looked at with its fields.
pub fn same_custom_kind(kind: &Kind, value: &Value) -> Result<()> {
    let name = value.str_at(&["metadata", "name"]);
    for (field, wanted) in [("kind", kind.kind()), ("apiVersion", &*kind.api_version)] {
        let given = value.str_at(&[field]);
        if given != wanted {
            let error = FieldError::invalid(field, given, format!("must be {wanted}"));
            return Err(Status::invalid(&kind.resource.group, value.str_at(&["kind"]), name, vec![error]));
        }
    }
    Ok(())
}

/// The beginning of a body, for an error message.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let cut = &body[..body.len().min(MAX)];
    let more = if body.len() > MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => format!("{}{more}", cut.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// A parsed value in the normal form of the kind's schema.
pub fn typed(kind: &Kind, value: Value) -> std::result::Result<(Value, Vec<String>), String> {
    let Some(custom) = &kind.custom else {
        let decoded = json::typed(kind.table(), kind.message(), value).map_err(|e| e.to_string())?;
        return Ok((decoded.value, decoded.problems.iter().map(ToString::to_string).collect()));
    };
    let mut value = value;
    let mut problems = Vec::new();
    if let (Some(metadata), Some(id)) = (value.remove(&["metadata"]), message_of("meta.k8s.io/v1", "ObjectMeta")) {
        let decoded = json::typed(builtin(), id, metadata).map_err(|e| e.to_string())?;
        problems.extend(decoded.problems.iter().map(|p| p.to_string().replacen('"', "\"metadata.", 1)));
        value.set(&["metadata"], decoded.value);
    }
    if !custom.preserve_unknown {
        problems.extend(custom.schema.prune(&mut value).iter().map(ToString::to_string));
        let embedded = custom.schema.coerce_embedded(&mut value).map_err(|e| e.to_string())?;
        problems.extend(embedded.iter().map(ToString::to_string));
    }
    Ok((value, problems))
}

/// What is wrong with what a patched object says that it is.
pub fn misnamed(kind: &Kind, object: &Value) -> Option<String> {
    let (api_version, name) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let same = api_version == &*kind.api_version && name == kind.kind();
    (!same && !api_version.is_empty() && !name.is_empty()).then(|| unconvertible(kind, api_version, name)).flatten()
}

fn mismatch(kind: &Kind, api_version: &str, name: &str) -> Status {
    let Some(why) = unconvertible(kind, api_version, name) else {
        return Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version
        ));
    };
    let version = crate::kind::split_api_version(api_version).1;
    Status::bad_request(format!("{name} in version {version:?} cannot be handled as a {}: {why}", kind.kind()))
}

/// Why an object of some type is none of this kind, in whichever version.
pub fn unconvertible(kind: &Kind, api_version: &str, name: &str) -> Option<String> {
    let (group, version) = crate::kind::split_api_version(api_version);
    // What says nothing is of the kind that is wanted.
    let known = name.is_empty() || builtin().kind(group, version, name).is_some();
    let group = &*kind.resource.group;
    let own = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or("") };
    if known && !name.is_empty() && name != kind.kind() {
        Some(format!("converting ({version}.{name}) to ({own}.{}): unknown conversion", kind.kind()))
    } else if known || kind.custom.is_some() {
        None
    } else {
        Some(unregistered(api_version, name))
    }
}

fn check_type(value: &Value, kind: &Kind) -> Result<()> {
    let (api_version, name) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if api_version != &*kind.api_version || name != kind.kind() {
        Err(mismatch(kind, api_version, name))
    } else {
        Ok(())
    }
}

/// The object's namespace must be the request's; a missing one is filled in.
pub fn match_namespace(value: &mut Value, kind: &Kind, namespace: &str) -> Result<()> {
    let given = value.str_at(&["metadata", "namespace"]);
    if !kind.resource.namespaced {
        if !given.is_empty() {
            // Upstream drops it where the kind has none.
            value.remove(&["metadata", "namespace"]);
        }
        return Ok(());
    }
    if given.is_empty() {
        value.set(&["metadata", "namespace"], namespace);
    } else if given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The object's name must be the URL's.
pub fn match_name(value: &Value, name: &str) -> Result<()> {
    let given = value.str_at(&["metadata", "name"]);
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}
