//! `meta/v1.Status`: the only place where HTTP status codes of the Kubernetes API are made. Messages are upstream's.

pub use schema::validate::FieldError;
use schema::validate::{ErrorKind, aggregate};
use schema::{Object, Value};

use crate::kind::Kind;
use crate::request::GroupResource;

/// A result that is no object: an error, or a deletion's success.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub code: u16,
    /// Empty for a success.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `metadata.continue` of an expired list's 410.
    pub continue_token: Option<String>,
    /// What goes on the wire, where somebody else made it.
    given: Option<Box<Value>>,
    /// Browsers are told not to guess what it is.
    pub for_no_page: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// A resource's plural or a kind, as upstream mixes them.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, …
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A field error, in short.
pub fn field_error(kind: ErrorKind, field: &str, bad_value: Value, detail: &str) -> FieldError {
    FieldError::new(kind, field, bad_value, detail)
}

pub type Result<T> = std::result::Result<T, Status>;

impl Status {
    fn make(code: u16, reason: &'static str, message: String) -> Self {
        Status { code, reason, message, ..Status::default() }
    }

    pub fn for_no_page(self) -> Self {
        Status { for_no_page: true, ..self }
    }

    fn about(code: u16, reason: &'static str, gr: &GroupResource, name: &str, message: String) -> Self {
        Status {
            details: Some(Box::new(Details {
                name: name.into(),
                group: gr.group.clone(),
                kind: gr.resource.clone(),
                ..Details::default()
            })),
            ..Status::make(code, reason, message)
        }
    }

    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// A finished deletion's answer.
    pub fn success(gr: &GroupResource, name: &str, uid: &str) -> Self {
        let mut status = Status::about(200, "", gr, name, String::new());
        if let Some(details) = &mut status.details {
            details.uid = uid.into();
        }
        status
    }

    /// `{"status":"Success"}` with 201, as binding answers.
    pub fn created() -> Self {
        Status::make(201, "", String::new())
    }

    pub fn unauthorized() -> Self {
        Status::make(401, "Unauthorized", "Unauthorized".into())
    }

    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Status::about(404, "NotFound", gr, name, format!("{gr} {name:?} not found"))
    }

    /// For a path under which nothing is served.
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource".into();
        Status { details: Some(Box::default()), ..Status::make(404, "NotFound", message) }
    }

    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Status::about(409, "AlreadyExists", gr, name, format!("{gr} {name:?} already exists"))
    }

    pub fn generate_name_conflict(gr: &GroupResource, name: &str) -> Self {
        let why = "already exists, the server was not able to generate a unique name for the object";
        Status::about(409, "AlreadyExists", gr, name, format!("{gr} {name:?} {why}")).with_retry_after(1)
    }

    pub fn conflict(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {name:?}: {why}");
        Status::about(409, "Conflict", gr, name, message)
    }

    /// Optimistic concurrency lost.
    pub fn modified(gr: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(gr, name, why)
    }

    /// Server-side apply found other owners.
    pub fn apply_conflict(causes: Vec<Cause>, message: String) -> Self {
        let details = Details { causes, ..Details::default() };
        Status { details: Some(Box::new(details)), ..Status::make(409, "Conflict", message) }
    }

    /// Stored objects that cannot be read, by their keys, and why.
    pub fn unreadable(gr: &GroupResource, objects: Vec<(String, String)>) -> Self {
        let more = if objects.len() > 1 { format!(" (and {} more)", objects.len() - 1) } else { String::new() };
        let first = objects.first().map_or("", |(_, why)| why);
        let message = format!("failed to read one or more {gr} from the storage: {first}{more}");
        let mut status = Status::about(500, "StorageReadError", gr, "list", message);
        // Each says much: a long list of them helps nobody.
        for (key, why) in objects.into_iter().take(100) {
            status = status.with_cause("UnexpectedServerResponse", why, &key);
        }
        status
    }

    /// 422; `kind` is the kind (`Deployment`), as upstream's messages have it.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let qualified = GroupResource::new(group, kind);
        let message = if errors.is_empty() {
            format!("{qualified} {name:?} is invalid")
        } else {
            format!("{qualified} {name:?} is invalid: {}", aggregate(&errors))
        };
        let mut status = Status::about(422, "Invalid", &qualified, name, message);
        for error in errors {
            status = status.with_cause(error.kind.reason(), error.body(), &error.field);
        }
        status
    }

    pub fn forbidden(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = if gr.resource.is_empty() && gr.group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{gr} is forbidden: {why}")
        } else {
            format!("{gr} {name:?} is forbidden: {why}")
        };
        Status::about(403, "Forbidden", gr, name, message)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::make(400, "BadRequest", message.into())
    }

    pub fn timeout(message: &str, retry_after: u32) -> Self {
        Status::make(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after)
    }

    pub fn too_large(message: &str) -> Self {
        Status::make(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 410: history that is no longer held.
    pub fn expired(message: impl Into<String>) -> Self {
        Status::make(410, "Expired", message.into())
    }

    /// 504: a resourceVersion that has not happened yet.
    pub fn resource_version_too_large(asked: u64, current: u64) -> Self {
        Status::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1)
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Status::make(429, "TooManyRequests", message.into()).with_retry_after(retry_after)
    }

    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let list = supported.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Status::make(415, "UnsupportedMediaType", message)
    }

    /// A content type that no patch has.
    pub fn no_such_patch() -> Self {
        Status {
            details: Some(Box::default()),
            ..Status::make(415, "UnsupportedMediaType", "415: Unsupported Media Type".into())
        }
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::make(406, "NotAcceptable", message)
    }

    /// What a route says that has none of the media types which are asked for.
    pub fn no_representation(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Status { details: Some(Box::default()), ..Status::make(406, "NotAcceptable", message) }
    }

    /// The metadata of one object was asked for, and it is a list, or the other way around.
    pub fn other_metadata(kind: &Kind, of_list: bool) -> Self {
        let (asked, is, list) = if of_list { ("", "a list", "List") } else { ("List", "not a list", "") };
        let package = match kind.resource.group.split('.').next() {
            _ if kind.custom.is_some() => "unstructured",
            Some("") | None => "core",
            Some(package) => package,
        };
        let name = if kind.custom.is_some() { "Unstructured" } else { kind.kind() };
        let message = format!(
            "you requested PartialObjectMetadata{asked}, but the requested object is {is} (*{package}.{name}{list})"
        );
        Status::make(406, "NotAcceptable", message)
    }

    /// A list's route has streams too.
    pub fn or_as_stream(mut self) -> Self {
        if self.message.starts_with("406") {
            self.message += ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        }
        self
    }

    /// For a path whose resource exists but has no such method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".into();
        Status { details: Some(Box::default()), ..Status::make(405, "MethodNotAllowed", message) }
    }

    /// The same of custom resources.
    pub fn method_not_supported(gr: &GroupResource, action: &str) -> Self {
        let qualified = gr.to_string();
        let message = format!("{action} is not supported on resources of kind {qualified:?}");
        Status::about(405, "MethodNotAllowed", gr, "", message)
    }

    pub fn internal(why: impl std::fmt::Display) -> Self {
        Status::make(500, "InternalError", format!("Internal error occurred: {why}")).with_cause(
            "",
            why.to_string(),
            "",
        )
    }

    /// An answer of somebody else's that is passed on.
    pub fn relayed(code: u16, reason: &'static str, message: String) -> Self {
        Status::make(if (400..600).contains(&code) { code } else { 400 }, reason, message)
    }

    /// A webhook's refusal, as it has it: a `Status` in normal form, or nothing.
    pub fn denied(mut given: Value, message: &str) -> Self {
        const CODE_MAX: i64 = 999;
        let code = given.i64_at(&["code"]).unwrap_or(0).clamp(400, CODE_MAX) as u16;
        if matches!(given.str_at(&["status"]), "" | "Success") {
            given.set(&["status"], "Failure");
        }
        for (field, value) in [("kind", "Status"), ("apiVersion", "v1"), ("message", message)] {
            given.set(&[field], value);
        }
        given.set(&["code"], i64::from(code));
        if given["metadata"].is_null() {
            given.set(&["metadata"], Value::object::<&str>([]));
        }
        let retry_after = given.i64_at(&["details", "retryAfterSeconds"]).and_then(|s| u32::try_from(s).ok());
        let status = Status { given: Some(Box::new(given)), ..Status::make(code, "", message.into()) };
        retry_after.map_or(status.clone(), |seconds| status.with_retry_after(seconds))
    }

    /// An admission policy's refusal, for the policy's reason.
    pub fn by_policy(mut self, reason: &str, message: &str) -> Self {
        (self.code, self.reason) = match reason {
            "Forbidden" => (403, "Forbidden"),
            "Unauthorized" => (401, "Unauthorized"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        self.with_cause("", message, "")
    }

    /// 500 in exactly these words.
    pub fn plain_internal(message: impl Into<String>) -> Self {
        Status::make(500, "", message.into())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Status::make(503, "ServiceUnavailable", message.into())
    }

    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Status::make(502, "", message.into())
    }

    /// A creation that names a resourceVersion.
    pub fn version_on_create() -> Self {
        Status::make(500, "", "resourceVersion should not be set on objects to be created".into())
    }

    /// 422 for a patch that does not fit its object.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request".into();
        Status { details: Some(Box::default()), ..Status::make(422, "Invalid", message) }
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// The object that goes on the wire.
    pub fn to_value(&self) -> Value {
        if let Some(given) = &self.given {
            return (**given).clone();
        }
        let text = |s: &str| Value::String(s.into());
        let mut metadata = Object::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue", text(token));
        }
        let mut out = Object::from([
            ("kind", text("Status")),
            ("apiVersion", text("v1")),
            ("metadata", Value::Object(metadata)),
            ("status", text(if self.code < 400 { "Success" } else { "Failure" })),
        ]);
        if !self.message.is_empty() {
            out.insert("message", text(&self.message));
        }
        if !self.reason.is_empty() {
            out.insert("reason", text(self.reason));
        }
        if let Some(details) = &self.details {
            let mut d = Object::new();
            for (name, value) in
                [("name", &details.name), ("group", &details.group), ("kind", &details.kind), ("uid", &details.uid)]
            {
                if !value.is_empty() {
                    d.insert(name, text(value));
                }
            }
            if !details.causes.is_empty() {
                let causes = details.causes.iter().map(|cause| {
                    let members = [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)];
                    let members = members.into_iter().filter(|(_, v)| !v.is_empty());
                    Value::Object(members.map(|(k, v)| (k, text(v))).collect())
                });
                d.insert("causes", Value::List(causes.collect()));
            }
            if details.retry_after_seconds > 0 {
                d.insert("retryAfterSeconds", Value::Int(details.retry_after_seconds.into()));
            }
            out.insert("details", Value::Object(d));
        }
        if self.code >= 400 || self.code == 201 {
            out.insert("code", Value::Int(self.code.into()));
        }
        Value::Object(out)
    }
}
