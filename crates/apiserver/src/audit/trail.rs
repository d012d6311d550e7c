//! What is known of one request for the audit log, and the stages at which it is told.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{header, request::Parts};
use http_body_util::BodyExt;
use schema::{Object, Value, json, proto, time, yaml};

use super::policy::Decided;
use super::{Audit, Event, Level, Stage};
use crate::body::full;
use crate::encode::{self, message_of};
use crate::kind::{Kind, builtin};
use crate::negotiate::{Encoding, PROTOBUF, YAML};
use crate::reply::Reply;
use crate::seams::{Decision, Peer};
use crate::{Attributes, Server, Status, User};

pub struct Trail {
    server: Server,
    audit: Arc<Audit>,
    decided: Decided,
    received: SystemTime,
    /// It may last: that it is answered is told when the answer begins, too.
    lasts: bool,
    /// Nobody knows who asks: only the answer is told.
    refused: bool,
    /// Its answer may say what a Status says.
    answers_status: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: Object,
    annotations: Object,
    complete: bool,
}

const USER_AGENT_MAX: usize = 1024;
/// Only of slower requests is told how long they took.
const SLOW: Duration = Duration::from_millis(500);

impl std::fmt::Debug for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trail").field("decided", &self.decided).finish_non_exhaustive()
    }
}

/// Where a request came from: what proxies say, then the connection's other end. All but the last is hearsay.
fn source_ips(parts: &Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let canonical = |text: &str| text.trim().parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string());
    let mut ips: Vec<String> = header("x-forwarded-for").split(',').filter_map(canonical).collect();
    if let Some(ip) = canonical(header("x-real-ip")).filter(|ip| !ips.contains(ip)) {
        ips.push(ip);
    }
    let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.address);
    if let Some(ip) = peer.map(|address| address.ip().to_canonical().to_string()).filter(|ip| ips.last() != Some(ip)) {
        ips.push(ip);
    }
    ips
}

fn object_ref(info: &Attributes) -> Value {
    let members = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.api_group),
        ("apiVersion", &info.api_version),
        ("subresource", &info.subresource),
    ];
    Value::object(members.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, t)| (name, t.as_str().into())))
}

fn micro(at: SystemTime) -> Value {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    time::format_micro(since.as_secs() as i64, since.subsec_nanos()).into()
}

/// An object as JSON clients see it.
fn shown(kind: Option<&Kind>, value: &Value) -> Value {
    let (api_version, name) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if kind.is_some_and(|kind| kind.custom.is_some() && kind.kind() == name) {
        return value.clone();
    }
    let (bytes, _) = encode::value(value, builtin(), message_of(api_version, name), Encoding::Json);
    json::parse(&bytes).unwrap_or_default()
}

/// An answer's body as JSON clients would see it; `Null` if it is no object.
fn answered(content_type: &str, body: &[u8]) -> Value {
    match content_type {
        PROTOBUF => {
            let Ok(envelope) = proto::open(body) else { return Value::Null };
            let Some(id) = message_of(envelope.api_version, envelope.kind) else { return Value::Null };
            let mut value = proto::decode(builtin(), id, envelope.raw).unwrap_or_default();
            value.set(&["apiVersion"], envelope.api_version);
            value.set(&["kind"], envelope.kind);
            shown(None, &value)
        }
        YAML => yaml::parse(body).map(|decoded| decoded.value).unwrap_or_default(),
        _ => json::parse(body).unwrap_or_default(),
    }
}

fn drop_managed_fields(value: &mut Value) {
    value.remove(&["metadata", "managedFields"]);
    for (list, place) in [("items", &[][..]), ("rows", &["object"][..])] {
        for item in value.get_mut(&[list]).and_then(Value::as_list_mut).into_iter().flatten() {
            item.get_mut(place).into_iter().for_each(|object| drop(object.remove(&["metadata", "managedFields"])));
        }
    }
}

impl Trail {
    /// Begins the trail of a request if there is an audit log that is to be told of it. `user`: who asks, before any
    /// impersonation; `None` if that is not known.
    pub(crate) fn begin(server: &Server, parts: &Parts, info: &Attributes, user: Option<&User>) -> Option<Arc<Trail>> {
        let config = server.config();
        let audit = config.audit.as_ref()?;
        let decided = audit.policy.decide(user, info);
        audit.levels[decided.level as usize].fetch_add(1, Ordering::Relaxed);
        if decided.level == Level::None {
            return None;
        }
        let header = |name: &str| parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let received = config.clock.now();
        let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut members = Object::from([
            ("auditID", header("audit-id").unwrap_or_default().as_ref().into()),
            ("requestURI", uri.into()),
            ("verb", info.verb.as_str().into()),
            ("user", user.map_or_else(|| Value::Object(Object::new()), User::to_value)),
            ("requestReceivedTimestamp", micro(received)),
        ]);
        let ips = source_ips(parts);
        if !ips.is_empty() {
            members.insert("sourceIPs", Value::list(ips));
        }
        if let Some(agent) = header(header::USER_AGENT.as_str()).filter(|agent| !agent.is_empty()) {
            let cut: String = agent.chars().take(USER_AGENT_MAX).collect();
            let more = if cut.len() < agent.len() { "...TRUNCATED" } else { "" };
            members.insert("userAgent", format!("{cut}{more}").into());
        }
        if info.is_resource {
            members.insert("objectRef", object_ref(info));
        }
        let lasts = matches!(info.verb.as_str(), "watch" | "proxy")
            || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        Some(Arc::new(Trail {
            server: server.clone(),
            audit: audit.clone(),
            lasts,
            refused: user.is_none(),
            answers_status: info.is_resource
                && !lasts
                && (decided.level == Level::RequestResponse || !matches!(info.verb.as_str(), "get" | "list")),
            decided,
            received,
            state: Mutex::new(State { members, ..State::default() }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether answers are told whole.
    pub fn tells_answers(&self) -> bool {
        self.decided.level == Level::RequestResponse
    }

    /// What was said first stays.
    pub fn annotate(&self, key: String, value: String) {
        // A webhook's patch is told where objects are.
        if key.starts_with("patch.webhook.admission.k8s.io/") && self.decided.level < Level::Request {
            return;
        }
        self.state().annotations.entry(key).or_insert(value.into());
    }

    /// `mode`: that of constrained impersonation which allowed it, or none.
    pub fn impersonated(&self, user: &User, mode: &str) {
        let mut state = self.state();
        state.members.insert("impersonatedUser", user.to_value());
        if !mode.is_empty() {
            let constraint = format!("impersonate:{mode}");
            let metadata = Value::object([("impersonationConstraint", constraint.into())]);
            state.members.insert("authenticationMetadata", metadata);
        }
    }

    pub fn decided(&self, decision: &Decision) {
        let (word, reason) = match decision {
            Decision::Allow(reason) => ("allow", reason.as_str()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason.as_str()),
            Decision::Failed { .. } => ("", "internal error"),
        };
        if !word.is_empty() {
            self.annotate("authorization.k8s.io/decision".into(), word.into());
        }
        self.annotate("authorization.k8s.io/reason".into(), reason.into());
    }

    /// The object that was sent, with its defaults.
    pub fn requested(&self, kind: &Kind, object: &Value) {
        let mut state = self.state();
        if let Some(reference) = state.members.get_mut("objectRef") {
            for field in ["namespace", "name", "uid", "resourceVersion"] {
                let text = object.str_at(&["metadata", field]);
                if !text.is_empty() && reference.str_at(&[field]).is_empty() {
                    reference.set(&[field], text);
                }
            }
        }
        if self.decided.level >= Level::Request {
            let mut object = shown(Some(kind), object);
            if self.decided.omit_managed_fields {
                drop_managed_fields(&mut object);
            }
            state.members.insert("requestObject", object);
        }
    }

    /// A patch as it was sent, in YAML or JSON.
    pub fn patched(&self, patch: &[u8]) {
        if self.decided.level >= Level::Request
            && let Ok(patch) = json::parse(patch).or_else(|_| yaml::parse(patch).map(|decoded| decoded.value))
        {
            self.state().members.insert("requestObject", patch);
        }
    }

    /// The event of a stage; `None` if it is not told.
    fn event(&self, stage: Stage) -> Option<Arc<Event>> {
        let mut state = self.state();
        let now = self.server.config().clock.now();
        if stage == Stage::ResponseComplete {
            if std::mem::replace(&mut state.complete, true) || self.refused {
                return None;
            }
            if !state.members.contains_key("responseStatus") {
                self.conclude(&mut state, 200, Some(&early()));
            }
            let took = now.duration_since(self.received).unwrap_or_default();
            if took > SLOW {
                let took = time::format_duration(took.as_nanos() as i64);
                state.annotations.insert("apiserver.latency.k8s.io/total", took.into());
            }
        } else if self.refused && stage != Stage::ResponseStarted {
            return None;
        }
        if self.decided.omit_stages.contains(&stage) {
            return None;
        }
        let mut members = state.members.clone();
        members.insert("stage", stage.name().into());
        members.insert("stageTimestamp", micro(if stage == Stage::RequestReceived { self.received } else { now }));
        if !state.annotations.is_empty() {
            members.insert("annotations", Value::Object(state.annotations.clone()));
        }
        self.audit.events.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Event::new(self.decided.level, members)))
    }

    async fn tell(&self, stage: Stage) -> bool {
        match self.event(stage) {
            Some(event) => self.audit.sink.process(&self.server, event).await,
            None => true,
        }
    }

    /// Tells that there is a request.
    ///
    /// # Errors
    /// It must not go on.
    pub async fn received(self: &Arc<Self>, parts: &mut Parts) -> Result<(), Status> {
        // An upgraded connection holds it to its end.
        parts.extensions.insert(self.clone());
        if self.decided.level == Level::RequestResponse {
            // The answer is read here before it is sent.
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        if self.tell(Stage::RequestReceived).await {
            return Ok(());
        }
        self.state().complete = true;
        self.audit.rejected.fetch_add(1, Ordering::Relaxed);
        Err(Status::internal("failed to store audit event"))
    }

    fn conclude(&self, state: &mut State, code: u16, status: Option<&Value>) {
        let mut told = Value::object([("metadata", Value::Object(Object::new()))]);
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = status.and_then(|status| status.get(&[field])) {
                told.set(&[field], value.clone());
            }
        }
        told.set(&["code"], i64::from(code));
        state.members.insert("responseStatus", told);
    }

    /// Tells of the answer; `failed`: the Status that it is. What comes back ends the trail when its body ends.
    pub async fn answer(self: &Arc<Self>, reply: Reply, failed: Option<Value>) -> Reply {
        let (parts, mut body) = reply.into_parts();
        let mut object = failed;
        if object.is_none() && self.answers_status {
            body = match body.collect().await {
                Ok(whole) => {
                    let whole = whole.to_bytes();
                    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                    object = Some(answered(content_type.unwrap_or(""), &whole));
                    full(whole)
                }
                Err(error) => {
                    let broken = futures_util::stream::iter([Err(error)]);
                    http_body_util::StreamBody::new(broken).boxed_unsync()
                }
            };
        }
        let is_status =
            |object: &&Value| object.str_at(&["kind"]) == "Status" && object.str_at(&["apiVersion"]) == "v1";
        {
            let mut state = self.state();
            self.conclude(&mut state, parts.status.as_u16(), object.as_ref().filter(is_status));
            if let Some(mut object) = object.filter(|object| self.tells_answers() && !object.is_null()) {
                if self.decided.omit_managed_fields {
                    drop_managed_fields(&mut object);
                }
                state.members.insert("responseObject", object);
            }
        }
        if self.lasts || self.refused {
            self.tell(Stage::ResponseStarted).await;
            let trail = self.clone();
            body = body
                .map_frame(move |frame| {
                    let _ends_with_it = &trail;
                    frame
                })
                .boxed_unsync();
        } else {
            self.tell(Stage::ResponseComplete).await;
        }
        Reply::from_parts(parts, body)
    }
}

/// The client left before there was an answer.
fn early() -> Value {
    Value::object([("status", "Success".into()), ("message", "Connection closed early".into())])
}

impl Drop for Trail {
    /// Whatever ended the request, its end is told.
    fn drop(&mut self) {
        if let Some(event) = self.event(Stage::ResponseComplete)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (server, audit) = (self.server.clone(), self.audit.clone());
            runtime.spawn(async move { audit.sink.process(&server, event).await });
        }
    }
}
