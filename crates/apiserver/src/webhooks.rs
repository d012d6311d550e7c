//! Admission webhooks: Mutating- and ValidatingWebhookConfigurations, called over HTTPS.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, header};
use schema::validate::FieldError;
use schema::{Value, json, patch};

use crate::admission::expressions::{Compiled, Inputs, MatchConditions, check_conditions, request_value};
use crate::admission::matching::Subject;
use crate::admission::{AdmissionRequest, Operation, Plugin};
use crate::body::full;
use crate::call::{read_body, settled};
use crate::connect::endpoint;
use crate::seams::{BoxFuture, Target};
use crate::status::Result;
use crate::{Server, Status, meta};

const TIMEOUT_SECONDS_DEFAULT: i64 = 10;
/// How much of what a webhook says about a failure is told.
pub(crate) const ERROR_BYTES_MAX: usize = 2048;

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
            let hooks = matching(server, &self.0, request)?;
            let mut touched_by: Vec<usize> = Vec::new();
            for (at, hook) in hooks.iter().enumerate() {
                if call_mutating(server, hook, request).await? {
                    touched_by.push(at);
                }
            }
            // Those who asked for it see what others changed after them, once.
            if let Some(&last) = touched_by.last() {
                for (at, hook) in hooks.iter().enumerate() {
                    let later = touched_by.iter().any(|&t| t > at) || at < last;
                    if later && hook.config.str_at(&["reinvocationPolicy"]) == "IfNeeded" {
                        call_mutating(server, hook, request).await?;
                    }
                }
            }
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
            for hook in matching(server, &self.0, request)? {
                if let Some(response) = ask(server, &hook, request).await? {
                    collect_warnings(&response, request);
                    allowed(&hook, &response)?;
                }
            }
            Ok(())
        })
    }
}

/// One webhook.
struct Hook {
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
    let hook = |config: &Value| {
        Arc::new(Hook {
            name: config.str_at(&["name"]).to_owned(),
            config: config.clone(),
            configuration: configuration.str_at(&["metadata", "name"]).to_owned(),
            conditions: MatchConditions::new(config.list_at(&["matchConditions"]), false),
        })
    };
    configuration.list_at(&["webhooks"]).iter().map(hook).collect()
}

/// What is wrong with a configuration's expressions.
pub fn check(configuration: &Value) -> Vec<FieldError> {
    let hooks = configuration.list_at(&["webhooks"]).iter().enumerate();
    let conditions = |(at, hook): (usize, &Value)| {
        check_conditions(hook.list_at(&["matchConditions"]), false, &format!("webhooks[{at}].matchConditions"))
    };
    hooks.flat_map(conditions).collect()
}

/// The webhooks to be asked, in upstream's order: configurations by name, webhooks as they are listed.
fn matching(server: &Server, all: &Compiled<Vec<Arc<Hook>>>, request: &AdmissionRequest) -> Result<Vec<Arc<Hook>>> {
    let all = all.all(server);
    let Some(subject) = (if all.is_empty() { None } else { Subject::new(server, request) }) else {
        return Ok(Vec::new());
    };
    let inputs = OnceCell::new();
    let mut out = Vec::new();
    for hook in all.iter().flat_map(|hooks| hooks.iter()) {
        if !subject.is_matched(&hook.config, "rules") {
            continue;
        }
        if hook.conditions.is_empty() {
            out.push(hook.clone());
            continue;
        }
        let inputs = inputs.get_or_init(|| Inputs::new(server, request, &request.user));
        let old = request.old.as_deref();
        match hook.conditions.hold(inputs, &request.object, old, &Value::Null, hook.may_fail()) {
            Ok(true) => out.push(hook.clone()),
            Ok(false) => {}
            Err(why) => return Err(Status::forbidden(&request.group_resource(), &request.name, &why)),
        }
    }
    Ok(out)
}

fn review(server: &Server, request: &AdmissionRequest) -> (String, Value) {
    let uid = meta::uid(&*server.config().random);
    let mut body = request_value(request);
    body.set(&["uid"], uid.as_str());
    body.set(&["object"], request.object.clone());
    body.set(&["oldObject"], request.old.as_deref().cloned().unwrap_or_default());
    let review = Value::object([
        ("kind", "AdmissionReview".into()),
        ("apiVersion", "admission.k8s.io/v1".into()),
        ("request", body),
    ]);
    (uid, review)
}

/// Sends JSON to what a `clientConfig` names, and reads JSON.
pub async fn post(server: &Server, client: &Value, seconds: i64, body: &Value) -> std::result::Result<Value, String> {
    let bundle = STANDARD.decode(client.str_at(&["caBundle"])).unwrap_or_default();
    let service = &client["service"];
    let (url, address) = if service.is_null() {
        (client.str_at(&["url"]).to_owned(), None)
    } else {
        let (name, namespace) = (service.str_at(&["name"]), service.str_at(&["namespace"]));
        let port = service.i64_at(&["port"]).unwrap_or(443).to_string();
        let address = endpoint(server, namespace, name, &port).map_err(|s| s.message)?;
        let path = service.str_at(&["path"]);
        let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
        (format!("https://{name}.{namespace}.svc:{port}{slash}{path}"), Some(address))
    };
    let separator = if url.contains('?') { '&' } else { '?' };
    let asked = format!("{url}{separator}timeout={seconds}s");
    let uri: http::Uri = asked.parse().map_err(|e| format!("{url}: {e}"))?;
    let unreached = |why: &str| format!("Post {asked:?}: {why}");
    let mut request = Request::new(full(body.to_string()));
    *request.method_mut() = Method::POST;
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    if let Some(authority) = uri.authority().and_then(|a| a.as_str().parse().ok()) {
        request.headers_mut().insert(header::HOST, authority);
    }
    *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
    for (name, value) in [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/json, */*")] {
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    let target = Target { url: &url, address, ca_bundle: &bundle, insecure: false, front_proxy: false };
    let sent = server.config().node_proxy.to_url(server, target, request);
    let limit = Duration::from_secs(seconds.clamp(1, 30) as u64);
    let answer = tokio::time::timeout(limit, async {
        let response = sent.await.map_err(|s| unreached(&s.message))?;
        let code = response.status();
        let bytes = read_body(response.into_body()).await.map_err(|s| s.message)?;
        if code == http::StatusCode::NOT_FOUND {
            return Err("the server could not find the requested resource".into());
        }
        if !code.is_success() {
            return Err(format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                String::from_utf8_lossy(bytes.get(..ERROR_BYTES_MAX).unwrap_or(&bytes))
            ));
        }
        json::parse(&bytes).map_err(|e| e.message)
    });
    answer.await.map_err(|_| unreached("context deadline exceeded"))?
}

/// A webhook's answer; `None` if it could not be had and that is to be ignored.
async fn ask(server: &Server, hook: &Hook, request: &AdmissionRequest) -> Result<Option<Value>> {
    let effects = hook.config.str_at(&["sideEffects"]);
    if request.dry_run && !matches!(effects, "None" | "NoneOnDryRun") {
        return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
    }
    let seconds = hook.config.i64_at(&["timeoutSeconds"]).unwrap_or(TIMEOUT_SECONDS_DEFAULT);
    let (uid, review) = review(server, request);
    let answer = post(server, &hook.config["clientConfig"], seconds, &review).await.and_then(|answer| {
        let response = answer["response"].clone();
        if response.is_null() {
            Err("webhook response was absent".to_owned())
        } else if response.str_at(&["uid"]) != uid {
            Err(format!("expected response.uid={uid:?}, got {:?}", response.str_at(&["uid"])))
        } else {
            Ok(response)
        }
    });
    match answer {
        Ok(response) => Ok(Some(response)),
        Err(why) if hook.may_fail() => {
            tracing::warn!(webhook = hook.name, configuration = hook.configuration, why, "failed open");
            Ok(None)
        }
        Err(why) => {
            Err(Status::internal(format_args!("failed calling webhook {:?}: failed to call webhook: {why}", hook.name)))
        }
    }
}

fn collect_warnings(response: &Value, request: &mut AdmissionRequest) {
    let texts = response.list_at(&["warnings"]).iter().filter_map(Value::as_str);
    request.warnings.extend(texts.map(str::to_owned));
}

fn allowed(hook: &Hook, response: &Value) -> Result<()> {
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
    Err(Status::denied(status.i64_at(&["code"]).unwrap_or(0), status.str_at(&["reason"]), message))
}

/// Asks a webhook and applies its patch; true: the object is another.
async fn call_mutating(server: &Server, hook: &Hook, request: &mut AdmissionRequest) -> Result<bool> {
    let Some(response) = ask(server, hook, request).await? else { return Ok(false) };
    collect_warnings(&response, request);
    allowed(hook, &response)?;
    let encoded = response.str_at(&["patch"]);
    if encoded.is_empty() || request.operation == Operation::Delete {
        return Ok(false);
    }
    let failed =
        |why: &dyn std::fmt::Display| Status::internal(format_args!("failed calling webhook {:?}: {why}", hook.name));
    if response.str_at(&["patchType"]) != "JSONPatch" {
        return Err(failed(&"webhook returned response.patch but not response.patchType"));
    }
    let bytes = STANDARD.decode(encoded).map_err(|e| failed(&e))?;
    let operations = json::parse(&bytes).map_err(|e| failed(&e))?;
    let before = request.object.clone();
    let patched = patch::json_patch(request.object.clone(), &operations).map_err(|e| failed(&e))?;
    request.object = match request.served(server) {
        Some(kind) => settled(&kind, patched).map_err(|e| failed(&e))?,
        None => patched,
    };
    Ok(request.object != before)
}
