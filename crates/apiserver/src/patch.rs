//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply.

use schema::patch::{self, PatchError};
use schema::validate::ErrorKind;
use schema::{Value, apply, json, yaml};

use crate::call::{Call, default_object, match_name, match_namespace, misnamed, same_custom_kind, typed, warned};
use crate::kind::Kind;
use crate::options::{FieldValidation, WriteOptions};
use crate::outside::is_object;
use crate::reply::Reply;
use crate::status::{Cause, Result, field_error};
use crate::versions::Versions;
use crate::write::{Part, Produced, Update};
use crate::{Status, meta, negotiate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Merge,
    Strategic,
    Apply,
}

const ALL: [&str; 4] = [
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

pub fn format_of(call: &Call) -> Result<Format> {
    let header = negotiate::join_header(&call.headers, http::header::CONTENT_TYPE);
    let media = header.split(';').next().unwrap_or("").trim();
    let custom = call.kind.custom.is_some();
    match media {
        "application/json-patch+json" => Ok(Format::Json),
        "application/merge-patch+json" => Ok(Format::Merge),
        "application/strategic-merge-patch+json" if !custom => Ok(Format::Strategic),
        "application/apply-patch+yaml" => Ok(Format::Apply),
        _ if custom => Err(Status::unsupported_media_type(&[ALL[0], ALL[1], ALL[3]])),
        _ => Err(Status::no_such_patch()),
    }
}

pub fn patch_error(error: PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::Unprocessable(_) => Status::unprocessable(),
        PatchError::Failed(why) => Status::plain_internal(why),
        PatchError::TooManyOperations { .. } => Status::too_large(&error.to_string()),
    }
}

pub async fn patch(mut call: Call, body: &[u8], part: Part) -> Result<Reply> {
    let format = format_of(&call)?;
    let user_agent = if format == Format::Apply { "" } else { call.user_agent() };
    let options = WriteOptions::parse(&call.query, "PatchOptions", user_agent)?;
    check_options(format, &call, &options)?;
    call.patched(body);
    let kind = call.kind.clone();
    let subresource = call.info.subresource.clone();
    let update = Update {
        kind: kind.clone(),
        namespace: call.info.namespace.clone(),
        name: call.info.name.clone(),
        part,
        subresource: &subresource,
        replaces: false,
        options: options.clone(),
        may_create: format == Format::Apply && subresource.is_empty(),
        admission: true,
        versions: Versions::default(),
    };
    let (namespace, name) = (update.namespace.clone(), update.name.clone());
    let strict = options.field_validation == FieldValidation::Strict;
    let mut warnings = Vec::new();
    let patched = if format == Format::Apply {
        let (config, repeated) = parse_apply(body, &kind.api_version, kind.kind())?;
        let now = call.server.now_text();
        let produce = |old: Option<&Value>| {
            let given = config.str_at(&["metadata", "uid"]);
            if old.is_none() && !given.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {given}, and no existing object was found"
                );
                return Err(Status::conflict(&kind.group_resource(), &name, &why));
            }
            let writer = apply::Writer {
                manager: &options.field_manager,
                api_version: &kind.api_version,
                subresource: &subresource,
                now: &now,
                resets: kind.resets(&subresource),
                others: Some(&|version, before, after| update.versions.compare(&kind, version, before, after)),
            };
            let applied = apply::apply(kind.table(), &kind.ty, old, &config, writer, options.force);
            let applied = applied.map_err(apply_error)?;
            if let Some(repeated) = repeated.as_ref().filter(|_| strict) {
                return Err(Status::bad_request(format!("error strict decoding patch: {repeated}")));
            }
            let Some(mut object) = applied else { return Ok(None) };
            kind.stamp(&mut object);
            let mut object = typed(&kind, object).map_err(Status::bad_request)?.0;
            kind.stamp(&mut object);
            default_object(&kind, &mut object);
            match_namespace(&mut object, &kind, &namespace)?;
            match_name(&object, &name)?;
            Ok(Some(Produced { object, managed: true }))
        };
        let written = call.update(&update, &produce).await?;
        warnings.extend(repeated);
        written
    } else {
        let parsed = json::parse_strict(body).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        let patch = parsed.value;
        let (shape, wanted) = match format {
            Format::Json => (matches!(patch, Value::List(_)), "[]handlers.jsonPatchOp"),
            _ => (matches!(patch, Value::Object(_) | Value::Null), "map[string]interface {}"),
        };
        if !shape {
            let found = if patch.as_list().is_some() { "array" } else { "object" };
            let prefix = if format == Format::Strategic { "" } else { "error decoding patch: " };
            return Err(Status::bad_request(format!(
                "{prefix}json: cannot unmarshal {found} into Go value of type {wanted}"
            )));
        }
        let repeated = parsed.problems.iter().map(ToString::to_string);
        if format == Format::Json {
            warnings.extend(repeated.chain(unknown_members(&patch)).map(|problem| format!("json patch {problem}")));
        } else {
            warnings.extend(repeated);
        }
        let found = std::sync::Mutex::new(Vec::new());
        let produce = |old: Option<&Value>| {
            let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &name))?;
            let object = match format {
                Format::Json => patch::json_patch(old.clone(), &patch),
                Format::Merge => patch::merge_patch(old.clone(), &patch),
                _ => patch::strategic(kind.table(), &kind.ty, old.clone(), patch.clone()),
            };
            let object = object.map_err(patch_error)?;
            let shown = if format == Format::Strategic { patch::go_print(&patch) } else { object.to_string() };
            let refuse = |why: &str| {
                Status::invalid("", "", "", vec![field_error(ErrorKind::Invalid, "patch", shown.as_str().into(), why)])
            };
            if kind.custom.is_some() {
                is_object(&object)
                    .map_err(|why| refuse(&format!("couldn't get version/kind; json parse error: {why}")))?;
            }
            let (mut object, unknown) = typed(&kind, object).map_err(|why| refuse(&why))?;
            let problems = [warnings.clone(), unknown].concat();
            if strict && !problems.is_empty() {
                return Err(refuse(&format!("strict decoding error: {}", problems.join(", "))));
            }
            if let Ok(mut found) = found.lock() {
                *found = problems;
            }
            if let Some(why) = misnamed(&kind, &object) {
                return Err(refuse(&why));
            }
            check_identity(&kind, &object)?;
            kind.stamp(&mut object);
            default_object(&kind, &mut object);
            match_namespace(&mut object, &kind, &namespace)?;
            match_name(&object, &name)?;
            Ok(Some(Produced::new(object)))
        };
        let written = call.update(&update, &produce).await?;
        warnings = found.into_inner().unwrap_or_default();
        written
    };
    if options.field_validation == FieldValidation::Warn {
        call.warnings.extend(warnings.iter().flat_map(|problem| warned(problem)));
    }
    call.written(&patched).await
}

fn check_identity(kind: &Kind, object: &Value) -> Result<()> {
    let (api_version, name) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    if kind.custom.is_some() {
        return same_custom_kind(kind, object);
    }
    if (!api_version.is_empty() && api_version != &*kind.api_version) || (!name.is_empty() && name != kind.kind()) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}, Kind={name}) does not match the expected API version ({}, Kind={})",
            kind.api_version,
            kind.kind()
        )));
    }
    Ok(())
}

pub fn check_options(format: Format, call: &Call, options: &WriteOptions) -> Result<()> {
    let mut errors = Vec::new();
    if format == Format::Apply {
        if options.field_manager.is_empty() {
            let detail = "is required for apply patch";
            errors.push(field_error(ErrorKind::Required, "fieldManager", Value::Null, detail));
        }
    } else if call.query.get("force").is_some_and(|f| !f.is_empty()) {
        errors.push(field_error(
            ErrorKind::Forbidden,
            "force",
            Value::Null,
            "may not be specified for non-apply patch",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "PatchOptions", "", errors)) }
}

/// What strict decoding says of a JSON patch's operations.
fn unknown_members(patch: &Value) -> impl Iterator<Item = String> {
    let operations = patch.as_list().into_iter().flatten().enumerate();
    operations.flat_map(|(at, operation)| {
        let members = operation.as_object().into_iter().flat_map(|o| o.keys());
        let unknown = members.filter(|name| !matches!(name.as_str(), "op" | "path" | "from" | "value"));
        unknown.map(move |name| format!("unknown field \"[{at}].{name}\""))
    })
}

/// The applied configuration as it was written, as only what it says is owned; and its repeated keys.
pub fn parse_apply(body: &[u8], wanted_version: &str, wanted_kind: &str) -> Result<(Value, Option<String>)> {
    let parsed = yaml::parse(body).map_err(|e| Status::bad_request(format!("error encoding patch: {e}")))?;
    let mut config = parsed.value;
    if config.as_object().is_none() {
        return Err(Status::bad_request("error decoding patch: the patch is no object"));
    }
    let (api_version, name) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
    if api_version != wanted_version || name != wanted_kind {
        let group_version = if api_version.contains('/') { api_version.into() } else { format!("/{api_version}") };
        return Err(Status::bad_request(format!("invalid object type: {group_version}, Kind={name}")));
    }
    meta::dedup_owners(&mut config);
    Ok((config, parsed.problems.first().map(|repeated| format!("error converting YAML to JSON: {repeated}"))))
}

pub fn apply_error(error: apply::ApplyError) -> Status {
    match error {
        apply::ApplyError::Conflicts(ref conflicts) => {
            let causes = conflicts.iter().map(|c| Cause {
                reason: "FieldManagerConflict".into(),
                message: c.message.clone(),
                field: c.field.clone(),
            });
            Status::apply_conflict(causes.collect(), error.to_string())
        }
        apply::ApplyError::ManagedFieldsSet => Status::bad_request(error.to_string()),
        apply::ApplyError::Invalid(why) => Status::plain_internal(why),
    }
}
