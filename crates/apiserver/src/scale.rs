//! `scale`: the replicas of a kind as a Scale of autoscaling/v1, with the managedFields that belong to them.

use std::sync::Arc;

use http::Method;
use schema::{Type, Value, apply, json, patch, validate::ErrorKind};

use crate::Status;
use crate::admission::Operation;
use crate::call::{Call, match_name};
use crate::encode::message_of;
use crate::kind::{Kind, builtin};
use crate::options::WriteOptions;
use crate::patch::{Format, apply_error, check_options, format_of, parse_apply, patch_error};
use crate::reply::{self, Reply};
use crate::request::GroupResource;
use crate::status::{Result, field_error};
use crate::write::Produced;

/// Attempts of a change that others keep overtaking.
const ATTEMPTS: usize = 5;

/// Where a kind keeps what `Scale` shows.
fn scale_paths(kind: &Kind) -> (Vec<String>, Vec<String>, Vec<String>) {
    let split =
        |path: &str| path.trim_start_matches('.').split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    match kind.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(paths) => (split(&paths.spec), split(&paths.status), split(&paths.selector)),
        None => (split("spec.replicas"), split("status.replicas"), split("spec.selector")),
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.member(key))
}

/// A selector in its string form.
pub fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.into();
    }
    let plain =
        selector.as_object().is_some_and(|o| !o.contains_key("matchLabels") && !o.contains_key("matchExpressions"));
    let (labels, expressions) =
        if plain { (selector, &Value::Null) } else { (&selector["matchLabels"], &selector["matchExpressions"]) };
    let mut terms: Vec<(String, String)> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.to_string(), format!("{k}={}", v.as_str().unwrap_or(""))))
        .collect();
    for expression in expressions.as_list().into_iter().flatten() {
        let key = expression.str_at(&["key"]);
        let mut values: Vec<&str> = expression.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression.str_at(&["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort_by(|(a, _), (b, _)| a.cmp(b));
    terms.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(",")
}

fn to_scale(kind: &Kind, object: &Value) -> Value {
    let (spec, status, selector) = scale_paths(kind);
    let mut scale = Value::object([("apiVersion", "autoscaling/v1".into()), ("kind", "Scale".into())]);
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get(&["metadata", field]) {
            scale.set(&["metadata", field], value.clone());
        }
    }
    let replicas = at(object, &spec).and_then(Value::as_i64).unwrap_or(0);
    scale.set(&["spec"], Value::object::<&str>([]));
    if replicas != 0 {
        scale.set(&["spec", "replicas"], replicas);
    }
    scale.set(&["status", "replicas"], at(object, &status).and_then(Value::as_i64).unwrap_or(0));
    if let Some(selector) = at(object, &selector).filter(|s| !s.is_empty()) {
        scale.set(&["status", "selector"], selector_text(selector));
    }
    scale
}

pub async fn serve(mut call: Call, method: Method, body: &[u8]) -> Result<Reply> {
    let kind = call.kind.clone();
    let encoding = call.accepted.encoding;
    let path = scale_paths(&kind).0;
    if matches!(method, Method::GET | Method::HEAD) {
        let object = call.current().await?;
        if kind.custom.is_some() && at(&object, &path).is_none() {
            let path = path.join(".");
            return Err(Status::internal(format_args!("the spec replicas field \".{path}\" does not exist")));
        }
        return Ok(reply::value(200, &call.view().scale(to_scale(&kind, &object)), encoding));
    }
    let change = Change::read(&call, &method, body)?;
    for _ in 0..ATTEMPTS {
        if let Some(object) = change.carry_out(&mut call, &path).await? {
            return Ok(reply::value(200, &call.view().scale(to_scale(&kind, &object)), encoding));
        }
    }
    Err(Status::modified(&kind.group_resource(), &call.info.name))
}

/// One PUT or PATCH of a Scale.
struct Change {
    options: WriteOptions,
    what: What,
    ty: Type,
}

enum What {
    Put(Value),
    Patch(Format, Value),
    Apply(Value),
}

impl Change {
    fn read(call: &Call, method: &Method, body: &[u8]) -> Result<Change> {
        let id = message_of("autoscaling/v1", "Scale").ok_or_else(|| Status::internal("no type Scale"))?;
        let ty = Type::Message(id);
        if method != Method::PATCH {
            let options = WriteOptions::parse(&call.query, "UpdateOptions", call.user_agent())?;
            let given = call.decode_other(body, "autoscaling/v1", "Scale");
            let is_scale = |scale: &Value| scale.str_at(&["apiVersion"]) == "autoscaling/v1";
            let given = match given {
                Ok(scale) if call.kind.custom.is_none() || is_scale(&scale) => scale,
                Err(status) if call.kind.custom.is_none() || !status.message.ends_with("unknown conversion") => {
                    return Err(status);
                }
                _ => {
                    let why = "no kind is registered for the type v1.Scale in scheme \"pkg/runtime/scheme.go:111\"";
                    return Err(Status::bad_request(why));
                }
            };
            let what = What::Put(given);
            return Ok(Change { options, what, ty });
        }
        let format = format_of(call)?;
        let user_agent = if format == Format::Apply { "" } else { call.user_agent() };
        let options = WriteOptions::parse(&call.query, "PatchOptions", user_agent)?;
        check_options(format, call, &options)?;
        call.patched(body);
        let what = match format {
            Format::Apply => What::Apply(parse_apply(body, "autoscaling/v1", "Scale")?.0),
            format => What::Patch(format, json::parse(body).map_err(|e| Status::bad_request(e.message))?),
        };
        Ok(Change { options, what, ty })
    }

    /// The Scale that is wanted, with its managedFields; `None`: nothing changes.
    fn wanted(&self, before: &Value, now: &str) -> Result<Option<Value>> {
        let manager = self.options.manager();
        let writer = apply::Writer {
            manager,
            api_version: "autoscaling/v1",
            subresource: "scale",
            now,
            resets: &[],
            others: None,
        };
        let mut after = match &self.what {
            What::Apply(config) => {
                let applied = apply::apply(builtin(), &self.ty, Some(before), config, writer, self.options.force);
                return applied.map_err(apply_error);
            }
            What::Put(given) => given.clone(),
            What::Patch(format, patch) => {
                let patched = match format {
                    Format::Json => patch::json_patch(before.clone(), patch),
                    Format::Merge => patch::merge_patch(before.clone(), patch),
                    _ => patch::strategic(builtin(), &self.ty, before.clone(), patch.clone()),
                };
                let Type::Message(id) = self.ty else { return Ok(None) };
                let patched = patched.map_err(patch_error)?;
                let shown = patched.to_string();
                let refuse = |why: json::DecodeError| {
                    let error = field_error(ErrorKind::Invalid, "patch", shown.as_str().into(), &why.to_string());
                    Status::invalid("", "", "", vec![error])
                };
                json::typed(builtin(), id, patched).map_err(refuse)?.value
            }
        };
        apply::update(builtin(), &self.ty, Some(before), &mut after, writer);
        Ok(Some(after))
    }

    /// The changed object; `None`: somebody was faster.
    async fn carry_out(&self, call: &mut Call, path: &[String]) -> Result<Option<Value>> {
        let kind = call.kind.clone();
        let (name, namespace) = (call.info.name.clone(), call.info.namespace.clone());
        let old = call.current().await?;
        let dotted = path.join(".");
        let mut before = to_scale(&kind, &old);
        before.set(&["metadata", "managedFields"], Value::List(apply::to_scale(&old, &dotted)));
        let is_custom = kind.custom.is_some();
        let was_set = at(&old, path).is_some();
        let Some(mut after) = self.wanted(&before, &call.server.now_text())? else { return Ok(Some(old)) };
        if is_custom && !was_set && after["spec"]["replicas"].is_null() {
            return Err(Status::bad_request(format!("the spec replicas field \".{dotted}\" cannot be empty")));
        }
        match_name(&after, &name)?;
        // Admission sees the Scale, and may change it.
        let options = self.options.to_value("UpdateOptions");
        let dry_run = self.options.dry_run;
        let mut request = call.admission(&kind, Operation::Update, &name, &namespace, "scale", options, dry_run);
        request.object = after;
        before.remove(&["metadata", "managedFields"]);
        request.old = Some(Arc::new(before));
        call.server.mutate(&mut request).await?;
        after = std::mem::take(&mut request.object);
        let replicas = after.i64_at(&["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 && !is_custom {
            let detail = "must be greater than or equal to 0";
            let error = field_error(ErrorKind::Invalid, "spec.replicas", replicas.into(), detail);
            return Err(Status::invalid("autoscaling", "Scale", &name, vec![error]));
        }
        let (uid, found) = (after.str_at(&["metadata", "uid"]), old.str_at(&["metadata", "uid"]));
        if !uid.is_empty() && uid != found && !is_custom {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
            let of = GroupResource::new(&kind.resource.group, &format!("{}/scale", kind.resource.plural));
            return Err(Status::conflict(&of, &name, &why));
        }
        let version = after.str_at(&["metadata", "resourceVersion"]);
        let stands = old.str_at(&["metadata", "resourceVersion"]).to_owned();
        if !version.is_empty() && version != stands {
            return Err(Status::modified(&kind.group_resource(), &name));
        }
        let mut new = old;
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        new.set(&steps, replicas);
        apply::from_scale(&mut new, &after, &kind.api_version, &dotted);
        request.object = to_scale(&kind, &new);
        call.server.validate(&mut request).await?;
        let update = call.update_of("scale", self.options.clone());
        let produce = |old: Option<&Value>| {
            let old = old.ok_or_else(|| Status::not_found(&kind.group_resource(), &name))?;
            if old.str_at(&["metadata", "resourceVersion"]) != stands {
                return Err(Status::modified(&kind.group_resource(), &name));
            }
            Ok(Some(Produced { object: new.clone(), managed: true }))
        };
        match call.update(&update, &produce).await {
            Err(status) if status.is_conflict() => Ok(None),
            Err(status) => Err(status),
            Ok(written) => Ok(Some(call.server.object(&kind, &written.entry).await?)),
        }
    }
}
