//! The way of a request: authenticate → impersonate → priority and fairness → authorize → the verb's stage.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, header, request::Parts};
use http_body::Body as _;
use tokio::time::Instant;

use crate::audit::Trail;
use crate::call::{Call, read_body};
use crate::fairness::{Permit, Refused, Schema, width};
use crate::kind::Kind;
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::reply::{self, Reply, Warnings};
use crate::request::{GroupResource, Query};
use crate::seams::{Answer, Decision, Peer, Random};
use crate::sending::{self, Held};
use crate::socket::Socket;
use crate::status::Result;
use crate::write::{self, Part};
use crate::{
    Attributes, Body, Server, Status, User, delete, meta, metrics, negotiate, nonresource, patch, read, subresources,
    watch,
};

/// How long a request waits for the objects of a definition that has just been established.
const LOAD_WAIT: Duration = Duration::from_secs(3);

/// So long a request queues that may take as long as it likes.
const QUEUE_WAIT: Duration = Duration::from_secs(15);

/// What lasts as long as its client wants.
pub fn is_long_running(info: &Attributes) -> bool {
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
        || !info.is_resource && info.path.starts_with("/debug/pprof/")
}

/// What a request has got on its way.
#[derive(Default)]
struct Passage {
    schema: Option<Arc<Schema>>,
    permit: Option<Permit>,
    /// So long it queues before it is told to come again: a part of its time, as upstream has it.
    patience: Duration,
    waited: Duration,
}

/// A request's line in the log, for those who ask for it.
struct Line {
    verb: &'static str,
    uri: String,
    user_agent: String,
    audit_id: String,
    address: String,
}

impl Line {
    fn of(parts: &Parts, verb: &'static str, id: &HeaderValue) -> Option<Line> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        tracing::enabled!(target: "requests", tracing::Level::DEBUG).then(|| Line {
            verb,
            uri: parts.uri.to_string(),
            user_agent: parts.headers.get(header::USER_AGENT).map(text).unwrap_or_default(),
            audit_id: text(id),
            address: parts
                .extensions
                .get::<Peer>()
                .and_then(|peer| peer.address)
                .map_or_else(String::new, |a| a.to_string()),
        })
    }

    fn write(self, resp: u16, latency: Duration, schema: Option<&Schema>) {
        let Line { verb, uri, user_agent, audit_id, address } = self;
        let (apf_pl, apf_fs) = schema.map_or(("", ""), Schema::names);
        tracing::debug!(
            target: "requests", verb, URI = uri, ?latency, userAgent = user_agent, "audit-ID" = audit_id, srcIP = address,
            apf_pl, apf_fs, resp, "HTTP"
        );
    }
}

/// How long a request may take: what the server allows, or less if the client says so.
fn time_limit(query: &Query, most: Option<Duration>) -> Result<Option<Duration>> {
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
    let Some(nanos) = schema::time::parse_duration(text) else {
        let why = if text.parse::<f64>().is_ok() { "missing unit in duration" } else { "invalid duration" };
        return Err(Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: {why} {text:?}"
        )));
    };
    let asked = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    Ok(asked.into_iter().chain(most).min())
}

/// Upstream's answer to a request whose time is over, which it makes by itself.
fn timed_out() -> Reply {
    const BODY: &str = concat!(
        r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","#,
        r#""reason":"Timeout","details":{},"code":504}"#,
        "\n"
    );
    reply::bytes(504, "text/plain; charset=utf-8", BODY)
}

/// Upstream's words for a refusal.
pub fn forbidden(user: &User, info: &Attributes, why: &str) -> Status {
    let gr = if info.is_resource { info.group_resource() } else { GroupResource::default() };
    let mut text = if info.is_resource {
        let resource = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let scope = if info.namespace.is_empty() {
            "at the cluster scope".into()
        } else {
            format!("in the namespace {:?}", info.namespace)
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            user.name, info.verb, info.api_group
        )
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, info.verb, info.path)
    };
    if !why.is_empty() {
        text = format!("{text}: {why}");
    }
    Status::forbidden(&gr, &info.name, &text).for_no_page()
}

fn permitted(user: &User, info: &Attributes, decision: Decision) -> Result<()> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(user, info, &why)),
        Decision::Failed { error, .. } => {
            Err(Status::internal(format_args!("Internal Server Error: {:?}: {error}", info.path)))
        }
    }
}

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// By what a request is found again in logs, here and in servers that it is passed on to: the client's word, or a new one.
fn audit_id(parts: &mut Parts, random: &dyn Random) -> HeaderValue {
    let given = parts.headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&meta::uid(random)).ok());
    let id = id.unwrap_or_else(|| HeaderValue::from_static(""));
    parts.headers.insert(AUDIT_ID, id.clone());
    id
}

/// What clients of an old API are told with every answer.
fn deprecation(kind: &Kind) -> Option<String> {
    if let Some(custom) = &kind.custom {
        return custom.deprecation_warning.clone();
    }
    match (&*kind.api_version, kind.kind()) {
        ("v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        ("v1", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into())
        }
        _ => None,
    }
}

/// A request of somebody who is known.
struct Asked<'a> {
    parts: Parts,
    query: Query,
    user: User,
    info: &'a Attributes,
    body: Body,
    warnings: &'a Warnings,
}

impl Server {
    /// Answers a request. In-process callers put their [`User`] into its extensions; for all others the
    /// connection's [`Peer`] stands there, and they are authenticated.
    pub async fn handle(&self, request: Request<Body>) -> Reply {
        let is_local = request.extensions().get::<Peer>().is_none();
        // Counted before it is looked at: nothing slips through between the last look and the end.
        let in_flight = (!is_local).then(|| self.inner.stop.enter());
        if !is_local && let Some(refusal) = self.too_late(&request) {
            return refusal;
        }
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let fallback =
            negotiate::accept(&parts.headers, &query, false, true).map_or(Encoding::Json, |accepted| accepted.encoding);
        let started = Instant::now();
        let mut info = Attributes::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or(""));
        let id = audit_id(&mut parts, &*self.inner.config.random);
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let verb = metrics::verb(&parts.method, &info, content_type.unwrap_or(""));
        let is_dry_run = query.get("dryRun") == Some("All");
        let line = Line::of(&parts, verb, &id);
        let mut warnings = Warnings::default();
        let mut passage = Passage::default();
        let most = Some(self.inner.config.request_timeout).filter(|most| !most.is_zero());
        let limit = if is_long_running(&info) { Ok(None) } else { time_limit(&query, most) };
        let in_flight = in_flight.filter(|_| !is_long_running(&info));
        let response = match limit {
            Ok(limit) => {
                passage.patience = limit.or(most).map_or(QUEUE_WAIT, |limit| limit / 4);
                let work = async {
                    let user = self.identify(&mut parts, &mut info, &mut warnings).await?;
                    let asked = Asked { parts, query, user, info: &info, body, warnings: &warnings };
                    self.admit(asked, &mut passage).await
                };
                match limit {
                    None => work.await,
                    Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Ok(timed_out())),
                }
            }
            Err(status) => Err(status),
        };
        drop(in_flight);
        let (mut response, failed) = match response {
            Ok(response) => (response, None),
            Err(status) => (reply::status(&status, fallback), Some(status)),
        };
        if let Some(schema) = &passage.schema {
            schema.tell(response.headers_mut());
        }
        warnings.send(&mut response);
        let key = metrics::Key::of(self, &info, verb, is_dry_run);
        let code = response.status().as_u16();
        let size = response.body().size_hint().exact();
        self.inner.metrics.finish(&key, code, size, started.elapsed(), passage.waited);
        if let Some(line) = line {
            line.write(code, started.elapsed(), passage.schema.as_deref());
        }
        response.headers_mut().entry(AUDIT_ID).or_insert(id);
        let is_lasting = is_long_running(&info) && code < 300;
        let deadline = most.filter(|_| !is_long_running(&info)).map(|most| started + most);
        let long_running = is_lasting.then(|| self.inner.metrics.long_running(&key)).flatten();
        let response = sending::hold(response, Held { permit: passage.permit, _long_running: long_running, deadline });
        match &warnings.trail {
            Some(trail) => trail.answer(response, failed.map(|status| status.to_value())).await,
            None => response,
        }
    }

    /// Who asks?
    async fn identify(&self, parts: &mut Parts, info: &mut Attributes, warnings: &mut Warnings) -> Result<User> {
        let user = match parts.extensions.remove::<User>() {
            Some(user) => Ok(user),
            None => self.authenticate(parts).await,
        };
        warnings.trail = Trail::begin(self, parts, info, user.as_ref().ok());
        let user = user?;
        if let Some(trail) = &warnings.trail {
            trail.received(parts).await?;
        }
        crate::authn::impersonation::apply(self, user, &mut parts.headers, info, warnings).await
    }

    /// Is it their turn, and may they?
    async fn admit(&self, mut asked: Asked<'_>, passage: &mut Passage) -> Result<Reply> {
        let info = asked.info;
        if is_long_running(info) && info.verb != "watch" {
            self.allow(&asked.user, info, asked.warnings).await?;
            return self.dispatch(asked).await;
        }
        let fairness = &self.inner.fairness;
        let Some(schema) = fairness.classify(&asked.user, info) else { return Err(Status::internal("no flow schema")) };
        let schema = passage.schema.insert(schema);
        let seats = width::seats(self, info, &asked.query, schema.seats_max());
        let arrived = Instant::now();
        let permit = match fairness.enter(schema, &asked.user, info, seats, passage.patience).await {
            Ok(permit) => passage.permit.insert(permit),
            Err(Refused(after)) => {
                let mut refusal = reply::text(429, "Too many requests, please try again later.\n");
                refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after));
                return Ok(refusal);
            }
        };
        passage.waited = arrived.elapsed();
        let _counted = self.inner.metrics.enter(info);
        self.allow(&asked.user, info, asked.warnings).await?;
        asked.body = permit.with_body(asked.body);
        if info.is_resource && self.registry().get(&info.api_group, &info.api_version, &info.resource).is_none() {
            // Another server's work: its slowness is not this one's.
            permit.clients_turn();
        }
        self.dispatch(asked).await
    }

    async fn allow(&self, user: &User, info: &Attributes, warnings: &Warnings) -> Result<()> {
        let decision = self.decide(user, info).await;
        if let Some(trail) = &warnings.trail {
            trail.decided(&decision);
        }
        permitted(user, info, decision)
    }

    /// May this user do that?
    pub(crate) async fn decide(&self, user: &User, info: &Attributes) -> Decision {
        match self.inner.config.authorize.authorize(self, user, info) {
            Answer::Now(decision) => decision,
            Answer::Later(answer) => answer.await,
        }
    }

    /// # Errors
    /// 403 unless this user may do that, 500 if nobody can say.
    pub(crate) async fn check(&self, user: &User, info: &Attributes) -> Result<()> {
        permitted(user, info, self.decide(user, info).await)
    }

    async fn authenticate(&self, parts: &mut Parts) -> Result<User> {
        let config = &self.inner.config;
        let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
        let found = config.authenticate.authenticate(self, parts, &peer).await;
        crate::authn::remove_credentials(&mut parts.headers);
        match found {
            Ok(Some(mut user)) => {
                if user.name != "system:anonymous" && !user.in_group("system:authenticated") {
                    user.groups.push("system:authenticated".into());
                }
                Ok(user)
            }
            Ok(None) if config.anonymous.is_allowed_at(parts.uri.path()) => Ok(User::anonymous()),
            Ok(None) => Err(Status::unauthorized()),
            Err(refused) => {
                tracing::info!(%refused, "credentials refused");
                Err(Status::unauthorized())
            }
        }
    }

    async fn dispatch(&self, asked: Asked<'_>) -> Result<Reply> {
        let Asked { parts, query, user, info, body, warnings } = asked;
        if !info.is_resource {
            return nonresource::serve(self, parts, &query, &user, body).await;
        }
        let registry = self.registry();
        let Some(kind) = registry.get(&info.api_group, &info.api_version, &info.resource).cloned() else {
            if let Some(reply) =
                crate::aggregate::proxy(self, &user, (info.api_group.as_str(), info.api_version.as_str()), parts, body)
                    .await
            {
                return reply;
            }
            let known = registry.has_builtin(&info.api_group);
            return if known { Err(Status::no_such_resource()) } else { Ok(nonresource::not_found()) };
        };
        if let Some(storage) = kind.storage.as_ref().filter(|storage| storage.custom)
            && tokio::time::timeout(LOAD_WAIT, storage.loaded()).await.is_err()
        {
            return Err(Status::too_many_requests("storage is (re)initializing", 1));
        }
        let scoped = kind.resource.namespaced;
        let single = !info.name.is_empty();
        let fits = if scoped {
            !info.namespace.is_empty()
                || (!single || matches!(info.verb.as_str(), "list" | "watch" | "deletecollection"))
        } else {
            info.namespace.is_empty() || &*kind.resource.plural == "namespaces"
        };
        let is_custom = kind.custom.is_some();
        if !fits {
            return if is_custom { Ok(nonresource::not_found()) } else { Err(Status::no_such_resource()) };
        }
        if scoped && info.namespace.is_empty() && matches!(info.verb.as_str(), "create" | "deletecollection") {
            return Err(Status::method_not_allowed());
        }
        let mut info = info.clone();
        if !scoped {
            // The namespace of a namespace's own requests is an authorization matter only.
            info.namespace.clear();
        }
        let subresource = info.subresource.clone();
        if !subresource.is_empty() && kind.subresource(&subresource).is_none() {
            let of_custom = || Status::not_found(&kind.group_resource(), &info.name);
            return Err(if is_custom { of_custom() } else { Status::no_such_resource() });
        }
        let stored = kind.storage.is_some();
        let streaming = matches!(subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        let accepted = if streaming {
            Accepted { encoding: Encoding::Json, shape: Shape::Whole, as_list: false }
        } else {
            let other_type = !matches!(subresource.as_str(), "" | "status" | "scale");
            let accepted = negotiate::accept(&parts.headers, &query, stored && !other_type, kind.custom.is_none());
            let (of_list, watches) = (info.verb == "list", info.verb == "watch");
            accepted.map_err(|no| if of_list || watches { no.or_as_stream() } else { no })?
        };
        let fits = if info.verb == "get" { !accepted.as_list } else { info.verb != "list" || accepted.as_list };
        let is_misfit = accepted.shape == Shape::Partial && !fits;
        let other_metadata = is_misfit.then(|| Status::other_metadata(&kind, !accepted.as_list));
        let is_misplaced = info.verb == "create" && single && subresource.is_empty();
        if let Some(warning) = deprecation(&kind).filter(|_| !is_misplaced) {
            warnings.push(warning);
            warnings.annotate("k8s.io/deprecated", "true");
            self.inner.metrics.deprecated(&kind, &subresource);
        }
        let headers = parts.headers.clone();
        let warnings = warnings.clone();
        let is_local = parts.extensions.get::<Peer>().is_none();
        let call = Call { server: self.clone(), is_local, user, info, query, headers, kind, accepted, warnings };
        let reply = self.verb(call, parts, body, &subresource, streaming).await?;
        other_metadata.map_or(Ok(reply), Err)
    }

    async fn verb(
        &self,
        call: Call,
        mut parts: Parts,
        body: Body,
        subresource: &str,
        streaming: bool,
    ) -> Result<Reply> {
        if let Some(socket) = Socket::take(&mut parts, &call.info)? {
            let reply = Box::pin(self.verb(call, parts, body, subresource, streaming)).await?;
            return Ok(socket.carry(reply));
        }
        if streaming {
            return crate::connect::serve(call, parts, body).await;
        }
        if parts.method == Method::HEAD && call.kind.custom.is_none() {
            return Err(Status::method_not_allowed());
        }
        let part = match subresource {
            "" => Part::Main,
            "status" => Part::Status,
            _ => return subresources::serve(call, parts.method, &read_body(body).await?).await,
        };
        let single = !call.info.name.is_empty();
        let allowed = |verb: &str| {
            let verbs = if subresource.is_empty() {
                &call.kind.resource.verbs
            } else {
                match call.kind.subresource(subresource) {
                    Some(s) => &s.verbs,
                    None => return false,
                }
            };
            verbs.iter().any(|v| &**v == verb)
        };
        let verb = call.info.verb.clone();
        let is_custom = call.kind.custom.is_some();
        if !allowed(&verb) {
            let of_custom = || Status::method_not_supported(&call.kind.group_resource(), &verb);
            // There once were paths for `proxy`.
            let other = || if verb == "proxy" { Status::no_such_resource() } else { Status::method_not_allowed() };
            return Err(if is_custom { of_custom() } else { other() });
        }
        if call.kind.storage.is_none() && matches!(verb.as_str(), "get" | "list") {
            return crate::reviews::component_statuses(&call);
        }
        call.check_include()?;
        match verb.as_str() {
            "get" => read::get(&call).await,
            "list" => read::list(&call).await,
            "watch" => watch::watch(&call).await,
            "create" if call.kind.storage.is_none() => crate::reviews::create(call, &read_body(body).await?).await,
            "create" if single && !is_custom => Err(Status::method_not_allowed()),
            "create" => write::create(call, &read_body(body).await?).await,
            "update" if single => write::update(call, &read_body(body).await?, part).await,
            "patch" if single => patch::patch(call, &read_body(body).await?, part).await,
            "delete" if single && part == Part::Main => delete::delete(call, &read_body(body).await?).await,
            "deletecollection" if part == Part::Main => delete::delete_collection(call, &read_body(body).await?).await,
            "update" | "patch" | "delete" if is_custom => Err(Status::bad_request("name must be provided")),
            _ => Err(Status::method_not_allowed()),
        }
    }
}
