//! The objects that configure priority and fairness, as they are and as they change; and what is said of them in turn.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, header};
use schema::Value;

use super::config::{CATCH_ALL, EXEMPT, Level, Schema, dangling};
use crate::bootstrap::flow::{self, LEVELS, SCHEMAS};
use crate::view::{self, View};
use crate::{Server, User, body};

/// Upstream's name in the objects' managedFields.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Who writes the same status otherwise is not fought without a pause.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Takes into use what is stored now; what is mandatory is there even if it is not stored.
pub fn configure(server: &Server) {
    let (mut levels, mut schemas) = (server.list(LEVELS, ""), server.list(SCHEMAS, ""));
    for (of, object) in flow::objects() {
        let all = if of == LEVELS { &mut levels } else { &mut schemas };
        let name = view::name(&object);
        if matches!(name, EXEMPT | CATCH_ALL) && !all.iter().any(|held| view::name(held) == name) {
            all.push(Arc::new(object));
        }
    }
    let levels = levels.iter().filter_map(|level| Level::parse(level)).collect();
    let schemas = schemas.iter().map(|schema| Schema::parse(schema)).collect();
    server.inner.fairness.apply(|_| (levels, schemas));
}

/// Keeps to the objects, and says of each schema whether its level is there.
pub async fn follow(server: Server) {
    let (Some(mut levels), Some(mut schemas)) = (server.news(LEVELS), server.news(SCHEMAS)) else { return };
    loop {
        levels.mark_unchanged();
        schemas.mark_unchanged();
        configure(&server);
        let stored = server.list(SCHEMAS, "");
        let statuses: Vec<_> = stored.iter().filter_map(|schema| status(&server, schema)).collect();
        let is_written = !statuses.is_empty();
        for (name, status) in statuses {
            write(&server, &name, &status).await;
        }
        if is_written {
            tokio::time::sleep(PAUSE).await;
        }
        let woken = tokio::select! {
            woken = levels.changed() => woken,
            woken = schemas.changed() => woken,
        };
        if woken.is_err() {
            return;
        }
    }
}

/// The status that a flow schema should have, if it has another.
fn status(server: &Server, schema: &Value) -> Option<(String, Value)> {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let exists = server.get(LEVELS, "", level).is_some() || matches!(level, EXEMPT | CATCH_ALL);
    let (status, reason, message) = dangling(level, exists);
    let says = |condition: &Value| {
        condition.str_at(&["type"]) == "Dangling"
            && condition.str_at(&["status"]) == status
            && condition.str_at(&["reason"]) == reason
            && condition.str_at(&["message"]) == message
    };
    if schema.list_at(&["status", "conditions"]).iter().any(says) {
        return None;
    }
    let condition = Value::object([
        ("type", "Dangling".into()),
        ("status", status.into()),
        ("reason", reason.into()),
        ("message", message.into()),
        ("lastTransitionTime", server.now_text().into()),
    ]);
    let name = view::name(schema).to_owned();
    let mut applied =
        Value::object([("apiVersion", "flowcontrol.apiserver.k8s.io/v1".into()), ("kind", "FlowSchema".into())]);
    applied.set(&["metadata", "name"], name.as_str());
    applied.set(&["status", "conditions"], Value::list([condition]));
    Some((name, applied))
}

async fn write(server: &Server, name: &str, applied: &Value) {
    let path =
        format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status?fieldManager={MANAGER}&force=true");
    let mut request = Request::new(body::full(applied.to_string()));
    *request.method_mut() = Method::PATCH;
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/apply-patch+yaml"));
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("kube-apiserver"));
    request.extensions_mut().insert(User::new("system:apiserver", &["system:masters"]));
    let reply = server.handle(request).await;
    if !reply.status().is_success() && reply.status() != http::StatusCode::NOT_FOUND {
        tracing::warn!(name, code = reply.status().as_u16(), "cannot write a FlowSchema's status");
    }
}
