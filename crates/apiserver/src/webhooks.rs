//! Admission webhooks: Mutating- and ValidatingWebhookConfigurations, called over HTTPS.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::validate::FieldError;
use schema::{Value, apply, json, patch};
use tokio::time::Instant;

use crate::admission::expressions::{Compiled, Inputs, MatchConditions, check_conditions, request_value};
use crate::admission::matching::{Form, Shown, Subject};
use crate::admission::{AdmissionRequest, Plugin};
use crate::connect::webhook_endpoint;
use crate::conversion::{knows_review, printed, unregistered, wrong_client, wrong_reviews};
use crate::kind::{builtin, split_api_version};
use crate::metrics::admission::Asked;
use crate::outside;
use crate::seams::{BoxFuture, Shows, Target};
use crate::status::Result;
use crate::{Server, Status, meta};

const TIMEOUT_SECONDS_DEFAULT: i64 = 10;

pub struct Mutating(Compiled<Vec<Arc<Hook>>>);
pub struct Validating(Compiled<Vec<Arc<Hook>>>);

impl Default for Mutating {
    fn default() -> Self {
        Mutating(Compiled::new("mutatingwebhookconfigurations", hooks))
    }
}

impl Default for Validating {
    fn default() -> Self {
        Validating(Compiled::new("validatingwebhookconfigurations", hooks))
    }
}

impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let hooks = self.0.all(server);
            if hooks.is_empty() {
                return Ok(());
            }
            if request.turns.is_second {
                request.turns.webhooks.resume(&request.object);
            }
            let mut shown = Shown::default();
            for (at, hook) in hooks.iter().flat_map(|hooks| hooks.iter()).enumerate() {
                // Each sees what those before it made of the object, and is chosen by it.
                let Some(form) = wants(server, hook, request, &mut shown).await? else { continue };
                if request.turns.is_second && !request.turns.webhooks.is_due(&hook.id) {
                    continue;
                }
                let changed = call_mutating(server, hook, at, &form, request, &mut shown).await?;
                if changed {
                    request.turns.webhooks.changed();
                    request.turns.again = true;
                }
                if hook.config.str_at(&["reinvocationPolicy"]) == "IfNeeded" {
                    request.turns.webhooks.asked(hook.id.clone());
                }
            }
            request.turns.webhooks.leave(&request.object);
            Ok(())
        })
    }
}

impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn validate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let hooks = self.0.all(server);
            let mut shown = Shown::default();
            let mut wanted = Vec::new();
            for hook in hooks.iter().flat_map(|hooks| hooks.iter()) {
                if let Some(form) = wants(server, hook, request, &mut shown).await? {
                    wanted.push((hook, form));
                }
            }
            // All at once; the first refusal in their order is told.
            let (request, shown) = (&*request, &shown);
            let asked = wanted.iter().enumerate().map(|(at, (hook, form))| async move {
                let started = Instant::now();
                let answer = ask(server, hook, form, request, shown, false).await;
                let outcome = answer.and_then(|response| allowed(hook, &response));
                observe(server, hook, request, "validating", started, &outcome);
                outcome.or_else(|failure| {
                    failure.unless_ignored(hook, request, "validating", &format!("round_0_index_{at}"))
                })
            });
            futures_util::future::join_all(asked).await.into_iter().collect()
        })
    }
}

/// One webhook.
struct Hook {
    /// Of its configuration and its own: two webhooks may have one name.
    id: String,
    name: String,
    config: Value,
    configuration: String,
    conditions: MatchConditions,
}

impl Hook {
    fn may_fail(&self) -> bool {
        self.config.str_at(&["failurePolicy"]) == "Ignore"
    }
}

fn hooks(configuration: &Value) -> Vec<Arc<Hook>> {
    let of = configuration.str_at(&["metadata", "name"]);
    let hook = |(at, config): (usize, &Value)| {
        let name = config.str_at(&["name"]);
        Arc::new(Hook {
            id: format!("{of}/{name}/{at}"),
            name: name.to_owned(),
            config: config.clone(),
            configuration: of.to_owned(),
            conditions: MatchConditions::new(config.list_at(&["matchConditions"]), false),
        })
    };
    configuration.list_at(&["webhooks"]).iter().enumerate().map(hook).collect()
}

/// What is wrong with a configuration's expressions, and with whom it asks.
pub fn check(configuration: &Value, old: Option<&Value>) -> Vec<FieldError> {
    fn reviews(hook: &Value) -> Vec<&str> {
        hook.list_at(&["admissionReviewVersions"]).iter().filter_map(Value::as_str).collect()
    }
    let known = old.is_none_or(|old| old.list_at(&["webhooks"]).iter().all(|hook| knows_review(&reviews(hook))));
    let mut errors = Vec::new();
    for (at, hook) in configuration.list_at(&["webhooks"]).iter().enumerate() {
        let place = |field: &str| format!("webhooks[{at}].{field}");
        errors.extend(wrong_client(&hook["clientConfig"], &place("clientConfig")));
        let missing = "must specify one of v1, v1beta1";
        errors.extend(wrong_reviews(&reviews(hook), &place("admissionReviewVersions"), missing, known));
        errors.extend(check_conditions(hook.list_at(&["matchConditions"]), false, &place("matchConditions")));
    }
    errors
}

/// The form in which a webhook wants to see a request, if it does.
async fn wants(server: &Server, hook: &Hook, request: &AdmissionRequest, shown: &mut Shown) -> Result<Option<Form>> {
    let matched = Subject::new(server, request).and_then(|subject| subject.matched(&hook.config, "rules"));
    let Some(form) = matched else { return Ok(None) };
    shown.make(server, request, &form).await?;
    if hook.conditions.is_empty() {
        return Ok(Some(form));
    }
    let inputs = Inputs::new(server, request, &form);
    let (object, old) = shown.get(request, &form);
    match hook.conditions.hold(&inputs, object, old, &Value::Null, hook.may_fail()) {
        Ok(true) => Ok(Some(form)),
        Ok(false) => Ok(None),
        Err(why) => Err(Status::forbidden(&request.group_resource(), &request.name, &why)),
    }
}

/// The review's apiVersion, its uid, and itself.
fn review(
    server: &Server,
    hook: &Hook,
    form: &Form,
    request: &AdmissionRequest,
    shown: &Shown,
) -> Option<(String, String, Value)> {
    let mut accepted = hook.config.list_at(&["admissionReviewVersions"]).iter().filter_map(Value::as_str);
    let version = accepted.find(|version| ["v1", "v1beta1"].contains(version))?;
    let uid = meta::uid(&*server.config().random);
    let mut body = request_value(request, form, form);
    let (object, old) = shown.get(request, form);
    body.set(&["uid"], uid.as_str());
    body.set(&["object"], object.clone());
    body.set(&["oldObject"], old.cloned().unwrap_or_default());
    let api_version = format!("admission.k8s.io/{version}");
    let review = Value::object([
        ("kind", "AdmissionReview".into()),
        ("apiVersion", api_version.as_str().into()),
        ("request", body),
    ]);
    Some((api_version, uid, review))
}

/// Sends JSON to what a `clientConfig` names, and reads JSON.
pub async fn post(
    server: &Server,
    client: &Value,
    limit: Duration,
    body: &Value,
) -> std::result::Result<Value, String> {
    let bundle = STANDARD.decode(client.str_at(&["caBundle"])).unwrap_or_default();
    let service = &client["service"];
    let (url, address) = if service.is_null() {
        (client.str_at(&["url"]).to_owned(), None)
    } else {
        let (name, namespace) = (service.str_at(&["name"]), service.str_at(&["namespace"]));
        let port = service.i64_at(&["port"]).unwrap_or(443);
        let path = service.str_at(&["path"]);
        let slash = if path.starts_with('/') { "" } else { "/" };
        let address = webhook_endpoint(server, namespace, name, port);
        (format!("https://{name}.{namespace}.svc:{port}{slash}{path}"), Some(address))
    };
    let separator = if url.contains('?') { '&' } else { '?' };
    let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    let asked = format!("{url}{separator}timeout={seconds}s");
    let address = address.transpose().map_err(|why| format!("Post {asked:?}: {why}"))?;
    let (shows, server_name) = (Shows::Nothing, "");
    let target = Target { url: &url, address, server_name, ca_bundle: &bundle, insecure: false, shows };
    outside::post(server, target, &asked, "", body, limit).await.map_err(|failure| failure.why)
}

/// Why a webhook has no say.
enum Failure {
    /// It could not be asked, or gave no sensible answer: `failurePolicy` decides.
    Call(String),
    /// It refuses.
    Denied(Status),
    Other(Status),
}

impl Failure {
    /// `place` names the annotation that tells of it.
    fn unless_ignored(self, hook: &Hook, request: &AdmissionRequest, by: &str, place: &str) -> Result<()> {
        match self {
            Failure::Denied(status) | Failure::Other(status) => Err(status),
            Failure::Call(why) if hook.may_fail() => {
                tracing::warn!(webhook = hook.name, configuration = hook.configuration, why, "failed open");
                let key = format!("failed-open.{by}.webhook.admission.k8s.io/{place}");
                request.warnings.annotate(key, &*hook.name);
                if Instant::now() >= request.deadline {
                    return Err(Status::timeout("request did not complete within requested timeout", 0));
                }
                Ok(())
            }
            Failure::Call(why) => Err(Status::internal(format_args!("failed calling webhook {:?}: {why}", hook.name))),
        }
    }
}

/// A webhook's answer, of which warnings and annotations are passed on. It mutates if `mutating` says so.
async fn ask(
    server: &Server,
    hook: &Hook,
    form: &Form,
    request: &AdmissionRequest,
    shown: &Shown,
    mutating: bool,
) -> std::result::Result<Value, Failure> {
    let effects = hook.config.str_at(&["sideEffects"]);
    if request.dry_run && !matches!(effects, "None" | "NoneOnDryRun") {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Other(Status::bad_request(why)));
    }
    let Some((api_version, uid, review)) = review(server, hook, form, request, shown) else {
        let why =
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Failure::Call(why.into()));
    };
    let seconds = hook.config.i64_at(&["timeoutSeconds"]).unwrap_or(TIMEOUT_SECONDS_DEFAULT).clamp(1, 30);
    let limit = Duration::from_secs(seconds as u64).min(request.deadline.saturating_duration_since(Instant::now()));
    let answer = post(server, &hook.config["clientConfig"], limit, &review).await;
    let answer = answer.and_then(|answer| typed(answer, &api_version));
    let answer = answer.map_err(|why| Failure::Call(format!("failed to call webhook: {why}")))?;
    let response = verified(answer, &api_version, &uid, mutating)
        .map_err(|why| Failure::Call(format!("received invalid webhook response: {why}")))?;
    for (key, value) in response.object_at(&["auditAnnotations"]).into_iter().flatten() {
        request.warnings.annotate(format!("{}/{key}", hook.name), value.as_str().unwrap_or(""));
    }
    let texts = response.list_at(&["warnings"]).iter().filter_map(Value::as_str);
    request.warnings.extend(texts.map(str::to_owned));
    Ok(response)
}

/// The answer in the normal form of what was asked for, if that is what it is; it need not say so.
fn typed(answer: Value, wanted: &str) -> std::result::Result<Value, String> {
    const KIND: &str = "AdmissionReview";
    let (api_version, kind) = (answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
    let (api_version, kind) = (Some(api_version).filter(|v| !v.is_empty()), Some(kind).filter(|k| !k.is_empty()));
    let (api_version, kind) = (api_version.unwrap_or(wanted), kind.unwrap_or(KIND));
    let is_review = kind == KIND && ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"].contains(&api_version);
    let version = |api_version: &str| split_api_version(api_version).1.to_owned();
    if !is_review && (api_version, kind) != ("v1", "Status") {
        return Err(unregistered(api_version, kind));
    }
    if !is_review || api_version != wanted {
        let (given, wanted) = (version(api_version), version(wanted));
        return Err(format!("converting ({given}.{kind}) to ({wanted}.{KIND}): unknown conversion"));
    }
    let Some(id) = builtin().kind("admission.k8s.io", "v1", KIND) else { return Ok(answer) };
    json::typed(builtin(), id, answer).map(|decoded| decoded.value).map_err(|e| e.to_string())
}

/// The response of a review that belongs to what was asked. Of v1beta1 upstream never looked at what came back.
fn verified(mut answer: Value, api_version: &str, uid: &str, mutating: bool) -> std::result::Result<Value, String> {
    let Some(mut response) = answer.remove(&["response"]).filter(|r| !r.is_null()) else {
        return Err("webhook response was absent".to_owned());
    };
    if api_version != "admission.k8s.io/v1" {
        if !mutating {
            response.remove(&["patch"]);
        } else if !response.str_at(&["patch"]).is_empty() {
            response.set(&["patchType"], "JSONPatch");
        }
        return Ok(response);
    }
    if response.str_at(&["uid"]) != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.str_at(&["uid"])));
    }
    let given = printed(answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
    let wanted = printed(api_version, "AdmissionReview");
    if given != wanted {
        return Err(format!("expected webhook response of {wanted}, got {given}"));
    }
    let (has_patch, patch_type) = (!response.str_at(&["patch"]).is_empty(), &response["patchType"]);
    match (mutating, has_patch, patch_type.as_str()) {
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, true, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (false, true, _) => Err("validating webhook may not return response.patch".into()),
        (false, _, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        _ => Ok(response),
    }
}

/// Counts what came of a webhook.
fn observe<T>(
    server: &Server,
    hook: &Hook,
    request: &AdmissionRequest,
    step: &'static str,
    started: Instant,
    outcome: &std::result::Result<T, Failure>,
) {
    let asked = match outcome {
        Ok(_) => Asked::Allowed,
        Err(Failure::Denied(status)) => Asked::Denied(status.code),
        Err(Failure::Call(_)) => Asked::Failed { is_ignored: hook.may_fail() },
        Err(Failure::Other(_)) => Asked::Broken,
    };
    server.inner.metrics.admission.webhook(&hook.name, request.operation, step, started.elapsed(), asked);
}

fn allowed(hook: &Hook, response: &Value) -> std::result::Result<(), Failure> {
    if response.bool_at(&["allowed"]) {
        return Ok(());
    }
    let status = &response["status"];
    let by = format!("admission webhook {:?} denied the request", hook.name);
    let message = match (status.str_at(&["message"]), status.str_at(&["reason"])) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    Err(Failure::Denied(Status::denied(status.clone(), &message)))
}

/// Asks a webhook and applies its patch; true: the object is another.
async fn call_mutating(
    server: &Server,
    hook: &Hook,
    at: usize,
    form: &Form,
    request: &mut AdmissionRequest,
    shown: &mut Shown,
) -> Result<bool> {
    let place = format!("round_{}_index_{at}", u8::from(request.turns.is_second));
    let started = Instant::now();
    let patched = match ask(server, hook, form, request, shown, true).await {
        Ok(response) => patched(server, hook, form, request, shown, &response, &place),
        Err(failure) => Err(failure),
    };
    observe(server, hook, request, "admit", started, &patched);
    let made = match patched {
        Ok(made) => made,
        Err(failure) => {
            failure.unless_ignored(hook, request, "mutation", &place)?;
            None
        }
    };
    let changed = made.as_ref().is_some_and(|made| made != shown.get(request, form).0);
    let told = Value::object([
        ("configuration", hook.configuration.as_str().into()),
        ("webhook", hook.name.as_str().into()),
        ("mutated", changed.into()),
    ]);
    request.warnings.annotate(format!("mutation.webhook.admission.k8s.io/{place}"), told.to_string());
    if let Some(mut made) = made.filter(|_| changed) {
        if let Err(why) = apply::check_rows(&made) {
            request.warnings.push(format!(
                ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {why}"
            ));
            match shown.get(request, form).0.get(&["metadata", "managedFields"]) {
                Some(managed) => made.set(&["metadata", "managedFields"], managed.clone()),
                None => drop(made.remove(&["metadata", "managedFields"])),
            }
        }
        request.object = form.back(server, request, made).await?;
        shown.clear();
    }
    Ok(changed)
}

/// The object with a response's patch, in normal form; `None`: there is no patch.
fn patched(
    server: &Server,
    hook: &Hook,
    form: &Form,
    request: &AdmissionRequest,
    shown: &Shown,
    response: &Value,
    place: &str,
) -> std::result::Result<Option<Value>, Failure> {
    allowed(hook, response)?;
    let undecodable =
        |why: &dyn std::fmt::Display| Failure::Call(format!("received undecodable patch in webhook response: {why}"));
    let bytes = STANDARD.decode(response.str_at(&["patch"])).map_err(|e| undecodable(&e))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let operations = json::parse(&bytes).map_err(|e| undecodable(&e))?;
    match operations.as_list() {
        Some([]) => return Ok(None),
        None if operations.is_null() => return Ok(None),
        None => {
            let kind = operations.kind_name();
            return Err(undecodable(&format_args!(
                "json: cannot unmarshal {kind} into Go value of type jsonpatch.Patch"
            )));
        }
        Some(_) => {}
    }
    let (object, _) = shown.get(request, form);
    if object.is_null() {
        return Err(Failure::Other(Status::internal(format_args!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        ))));
    }
    let patch_type = response.str_at(&["patchType"]);
    if patch_type != "JSONPatch" {
        return Err(Failure::Call(format!("unsupported patch type {patch_type:?}")));
    }
    let failed = |why: &dyn std::fmt::Display| Failure::Other(Status::internal(why));
    let made = patch::json_patch(object.clone(), &operations).map_err(|e| failed(&e))?;
    let (made, _) = form.settled(server, request, made).map_err(Failure::Other)?;
    let told = Value::object([
        ("configuration", hook.configuration.as_str().into()),
        ("webhook", hook.name.as_str().into()),
        ("patch", operations),
        ("patchType", patch_type.into()),
    ]);
    request.warnings.annotate(format!("patch.webhook.admission.k8s.io/{place}"), told.to_string());
    Ok(Some(made))
}
