//! Admission webhooks: Mutating- and ValidatingWebhookConfigurations, called over HTTPS.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, header};
use schema::{Value, json, patch, selector::LabelSelector};

use crate::admission::{AdmissionRequest, Operation, Plugin};
use crate::body::full;
use crate::call::{default_object, read_body, typed};
use crate::connect::endpoint;
use crate::kind::Kind;
use crate::seams::{BoxFuture, Target};
use crate::status::Result;
use crate::{Server, Status, meta};

const GROUP: &str = "admissionregistration.k8s.io";
const TIMEOUT_SECONDS_DEFAULT: i64 = 10;

pub struct Mutating;
pub struct Validating;

impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn mutate<'a>(&'a self, server: &'a Server, request: &'a mut AdmissionRequest) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let hooks = matching(server, "mutatingwebhookconfigurations", request);
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
            for hook in matching(server, "validatingwebhookconfigurations", request) {
                if let Some(response) = ask(server, &hook, request).await? {
                    collect_warnings(&response, request);
                    allowed(&hook, &response)?;
                }
            }
            Ok(())
        })
    }
}

/// One webhook whose rules cover the request.
struct Hook {
    name: String,
    config: Value,
    configuration: String,
}

fn covers(rule: &Value, request: &AdmissionRequest, server: &Server, equivalent: bool) -> bool {
    let has = |field: &str, wanted: &str| {
        rule.list_at(&[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
    };
    let resource = rule.list_at(&["resources"]).iter().filter_map(Value::as_str).any(|pattern| {
        let (main, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
        (main == "*" || main == request.resource) && (sub == "*" || sub == request.subresource)
    });
    let version = has("apiVersions", &request.version)
        || equivalent
            && server
                .registry()
                .groups()
                .iter()
                .any(|(group, versions)| *group == request.group && versions.iter().any(|v| has("apiVersions", v)));
    let scope = match rule.str_at(&["scope"]) {
        "Cluster" => request.namespace.is_empty() || request.is("", "namespaces"),
        "Namespaced" => !request.namespace.is_empty() && !request.is("", "namespaces"),
        _ => true,
    };
    resource && version && scope && has("apiGroups", &request.group) && has("operations", request.operation.as_str())
}

fn selects(selector: &Value, labels: &Value) -> bool {
    selector.is_null()
        || LabelSelector::from_value(selector)
            .is_ok_and(|s| s.matches(|name| labels.get(&[name]).and_then(Value::as_str)))
}

/// The webhooks to be asked, in upstream's order: configurations by name, webhooks as they are listed.
fn matching(server: &Server, plural: &str, request: &AdmissionRequest) -> Vec<Hook> {
    // What guards the guards is not asked about them.
    if request.group == GROUP || server.storage(GROUP, plural).is_none_or(|s| s.is_empty()) {
        return Vec::new();
    }
    let namespace_labels = if request.is("", "namespaces") {
        let object = if request.object.is_null() { request.old.as_deref() } else { Some(&request.object) };
        object.map(|o| o["metadata"]["labels"].clone())
    } else if request.namespace.is_empty() {
        None
    } else {
        server.read("", "namespaces", "", &request.namespace).map(|n| n["metadata"]["labels"].clone())
    };
    let mut out = Vec::new();
    for configuration in server.read_all(GROUP, plural, "") {
        for config in configuration.list_at(&["webhooks"]) {
            let equivalent = config.str_at(&["matchPolicy"]) != "Exact";
            if !config.list_at(&["rules"]).iter().any(|r| covers(r, request, server, equivalent)) {
                continue;
            }
            if namespace_labels.as_ref().is_some_and(|l| !selects(&config["namespaceSelector"], l)) {
                continue;
            }
            let labels = |object: Option<&Value>| object.map(|o| o["metadata"]["labels"].clone()).unwrap_or_default();
            let new = (!request.object.is_null()).then_some(&request.object);
            let selector = &config["objectSelector"];
            if !selects(selector, &labels(new)) && !selects(selector, &labels(request.old.as_deref())) {
                continue;
            }
            out.push(Hook {
                name: config.str_at(&["name"]).to_owned(),
                config: config.clone(),
                configuration: configuration.str_at(&["metadata", "name"]).to_owned(),
            });
        }
    }
    out
}

fn review(server: &Server, request: &AdmissionRequest) -> (String, Value) {
    let uid = meta::uid(&*server.config().random);
    let kind = Value::object([
        ("group", request.group.as_str().into()),
        ("version", request.version.as_str().into()),
        ("kind", request.kind.as_str().into()),
    ]);
    let resource = Value::object([
        ("group", request.group.as_str().into()),
        ("version", request.version.as_str().into()),
        ("resource", request.resource.as_str().into()),
    ]);
    let list = |v: &[String]| Value::list(v.iter().map(String::as_str));
    let mut user =
        Value::object([("username", request.user.name.as_str().into()), ("groups", list(&request.user.groups))]);
    if !request.user.uid.is_empty() {
        user.set(&["uid"], request.user.uid.as_str());
    }
    if !request.user.extra.is_empty() {
        let extra = request.user.extra.iter().map(|(k, v)| (k.clone(), list(v)));
        user.set(&["extra"], Value::Object(extra.collect()));
    }
    let mut body = Value::object([
        ("uid", uid.as_str().into()),
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("operation", request.operation.as_str().into()),
        ("userInfo", user),
        ("object", request.object.clone()),
        ("oldObject", request.old.as_deref().cloned().unwrap_or_default()),
        ("dryRun", request.dry_run.into()),
        ("options", request.options.clone()),
    ]);
    for (name, text) in [
        ("name", &request.name),
        ("namespace", &request.namespace),
        ("subResource", &request.subresource),
        ("requestSubResource", &request.subresource),
    ] {
        if !text.is_empty() {
            body.set(&[name], text.as_str());
        }
    }
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
                String::from_utf8_lossy(&bytes)
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
        Err(why) if hook.config.str_at(&["failurePolicy"]) == "Ignore" => {
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
    let registry = server.registry();
    let kind: Option<Arc<Kind>> =
        registry.get(&request.group, &request.version, &request.resource).filter(|k| k.kind() == request.kind).cloned();
    request.object = match kind {
        Some(kind) => {
            let (mut object, _) = typed(&kind, patched).map_err(|e| failed(&e))?;
            kind.stamp(&mut object);
            default_object(&kind, &mut object);
            object
        }
        None => patched,
    };
    Ok(request.object != before)
}
