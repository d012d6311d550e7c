//! The kubelet's HTTP API: logs, exec, attach, port-forward, pods, stats. Who may ask is its caller's affair.

mod streams;
mod summary;
mod volumes;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use reconcile::io::Body;
use schema::Table;
use schema::api::Message;
use schema::api::core::v1::{ContainerState, Pod, PodList, PodStatus};
use tokio::sync::mpsc;

use crate::kubelet::Kubelet;
use crate::logs::{self, Options};
use crate::memory::SECOND;
use crate::plan::is_running;
use crate::ports::Container;
use crate::status::bare_id;
use crate::worker::View;

/// An answer that is no success: its code and text.
#[derive(Debug)]
pub(crate) struct Refusal(StatusCode, String);

impl Refusal {
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }
}

pub(crate) type Answer = Result<Response<Body>, Refusal>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn typed(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// Parameters of a query, decoded.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Body>) -> Self {
        let raw = request.uri().query().unwrap_or_default();
        Self(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(own, _)| own == name).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "True" | "TRUE" | "t"))
    }
}

fn decode(text: &str) -> String {
    let raw = text.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let code = if raw[at] == b'%' {
            text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok())
        } else {
            None
        };
        match (raw[at], code) {
            (_, Some(code)) => {
                out.push(code);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Kubelet {
    /// Answers a request of the kubelet's API. Upgrades (exec, attach, portForward) run on the request's connection.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err(Refusal(code, text)) => {
                let mut response = typed("text/plain; charset=utf-8", text);
                *response.status_mut() = code;
                response
            }
        }
    }

    async fn route(&self, request: Request<Body>) -> Answer {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let query = Query::of(&request);
        let parts: Vec<String> = path.split('/').skip(1).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match &parts[..] {
            ["healthz" | "readyz" | "livez", ..] => Ok(typed("text/plain; charset=utf-8", "ok")),
            ["pods" | "runningpods"] => self.list_pods(parts[0] == "runningpods"),
            ["configz"] => Ok(typed("application/json", self.configz())),
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &query).await,
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.command(request, [namespace, pod, container], &query, Some(query.all("command"))).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.command(request, [namespace, pod, container], &query, None).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, namespace, pod, &query)
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
                if request.method() == Method::POST =>
            {
                self.run_command(namespace, pod, container, &query).await
            }
            ["stats", "summary"] => Ok(typed("application/json", self.summary(query.is("only_cpu_and_memory")).await)),
            ["metrics"] => {
                Ok(typed("text/plain; version=0.0.4; charset=utf-8", self.own_metrics() + &self.volume_metrics().await))
            }
            ["metrics", "resource"] => {
                Ok(typed("text/plain; version=0.0.4; charset=utf-8", self.resource_metrics().await))
            }
            ["metrics", "cadvisor"] => {
                Ok(typed("text/plain; version=0.0.4; charset=utf-8", self.cadvisor_metrics().await))
            }
            ["metrics", "probes"] => {
                let mut text = String::new();
                self.shared.metrics.text(&mut text, true);
                Ok(typed("text/plain; version=0.0.4; charset=utf-8", text))
            }
            _ => Err(Refusal::not_found("404 page not found\n")),
        }
    }

    fn list_pods(&self, running: bool) -> Answer {
        let views = self.views();
        let wanted = views.iter().filter(|view| !running || view.observed.containers.iter().any(is_running));
        let items = wanted.map(|view| Pod { status: view.status.clone(), ..(*view.desired.pod).clone() }).collect();
        let list = PodList { items, ..PodList::default() };
        let table = Table::builtin();
        let id = table.id(PodList::NAME).ok_or_else(|| Refusal::internal("no PodList"))?;
        let mut json = Vec::new();
        schema::transcode::proto_to_json(table, id, Some(("v1", "PodList")), &list.to_vec(), &mut json)
            .map_err(|error| Refusal::internal(error.to_string()))?;
        Ok(typed("application/json", json))
    }

    fn configz(&self) -> String {
        serde_json::json!({"kubeletconfig": self.shared.config.configz}).to_string()
    }

    pub(crate) fn find(&self, namespace: &str, pod: &str) -> Result<std::sync::Arc<View>, Refusal> {
        self.view(namespace, pod)
            .ok_or_else(|| Refusal::not_found(format!("pod \"{pod}\" not found in namespace \"{namespace}\"\n")))
    }

    /// A container that runs.
    pub(crate) async fn find_running(&self, view: &View, name: &str) -> Result<Container, Refusal> {
        let state = self.shared.ports.runtime.pod(view.desired.uid()).await;
        let state = state.map_err(|error| Refusal::internal(error.to_string()))?;
        let found =
            state.containers.into_iter().rev().find(|container| container.name == name && is_running(container));
        found.ok_or_else(|| Refusal::not_found(format!("container not found (\"{name}\")")))
    }

    async fn logs(&self, namespace: &str, pod: &str, name: &str, query: &Query) -> Answer {
        let view = self.find(namespace, pod)?;
        if view.desired.member(name).is_none() {
            return Err(Refusal::not_found(format!("container \"{name}\" not found in pod \"{pod}\"\n")));
        }
        let number = |name: &str| -> Result<Option<u64>, Refusal> {
            query
                .get(name)
                .map(|text| {
                    text.parse().map_err(|_| Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("{name}: not a number")))
                })
                .transpose()
        };
        let now = self.shared.ports.clock.now();
        let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
            (Some(text), _) => Some(
                schema::time::parse(text)
                    .map(|(seconds, nanos)| seconds * SECOND + i64::from(nanos))
                    .ok_or_else(|| Refusal::bad("unable to decode sinceTime"))?,
            ),
            (None, Some(seconds)) => {
                Some(now - i64::try_from(seconds).unwrap_or(i64::MAX / SECOND).saturating_mul(SECOND))
            }
            (None, None) => None,
        };
        let options = Options {
            follow: query.is("follow"),
            timestamps: query.is("timestamps"),
            since,
            tail_lines: number("tailLines")?,
            limit_bytes: number("limitBytes")?,
            stream: query.get("stream").filter(|stream| *stream != "All").map(str::to_ascii_lowercase),
        };
        let previous = query.is("previous");
        let uid = view.desired.uid().to_owned();
        let state = self.shared.ports.runtime.pod(&uid).await.map_err(|error| Refusal::internal(error.to_string()))?;
        let chosen = run_of(&view.status, pod, name, previous).map_err(Refusal::bad)?;
        let found = state.containers.into_iter().find(|container| container.id == chosen);
        let runtime = &self.shared.runtime;
        let container =
            found.ok_or_else(|| Refusal::bad(format!("unable to retrieve container logs for {runtime}://{chosen}")))?;
        let meta = &view.desired.pod.metadata;
        let log = if container.log_path.is_absolute() {
            container.log_path.clone()
        } else {
            self.shared.config.log_dir(&meta.namespace, &meta.name, &meta.uid).join(&container.log_path)
        };
        let (to, from) = mpsc::channel::<Bytes>(16);
        let runtime = self.shared.ports.runtime.clone();
        tokio::spawn(async move {
            let id = container.id.clone();
            let (alive_to, alive) = tokio::sync::watch::channel(is_running(&container));
            let watcher = async {
                let mut changes = runtime.changes();
                while *alive_to.borrow() {
                    let state = runtime.pod(&uid).await.unwrap_or_default();
                    alive_to.send_replace(
                        state.containers.iter().any(|container| container.id == id && is_running(container)),
                    );
                    if *alive_to.borrow() && changes.recv().await.is_err() {
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                }
                std::future::pending::<()>().await;
            };
            let sending = logs::send(log, options, alive, to);
            tokio::select! {
                () = watcher => {}
                sent = sending => if let Err(error) = sent { tracing::debug!(%error, "a log was not read to its end") },
            }
        });
        let stream =
            futures_util::stream::unfold(
                from,
                |mut from| async move { Some((Ok(Frame::data(from.recv().await?)), from)) },
            );
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
        Ok(response)
    }

    async fn run_command(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
        let view = self.find(namespace, pod)?;
        let found = self.find_running(&view, container).await?;
        let command: Vec<String> = query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let ran = self.shared.ports.runtime.exec_sync(view.desired.uid(), &found.id, &command, None).await;
        let output = ran.map_err(|error| Refusal::internal(error.to_string()))?;
        let mut text = output.stdout;
        text.extend(output.stderr);
        Ok(typed("text/plain; charset=utf-8", text))
    }
}

/// The id of the run whose log is meant, or why there is none.
fn run_of(status: &PodStatus, pod: &str, name: &str, previous: bool) -> Result<String, String> {
    let whose = format!("container \"{name}\" in pod \"{pod}\"");
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let status = all
        .chain(&status.ephemeral_container_statuses)
        .find(|status| status.name == name)
        .ok_or_else(|| format!("{whose} is not available"))?;
    let of = |state: &ContainerState| state.terminated.as_ref().map(|ended| bare_id(&ended.container_id).to_owned());
    let known = |id: Option<String>| id.filter(|id| !id.is_empty());
    let (now, last) = (of(&status.state), of(&status.last_state));
    if previous {
        return known(last).ok_or_else(|| format!("previous terminated {whose} not found"));
    }
    if status.state.running.is_some() {
        return Ok(bare_id(&status.container_id).to_owned());
    }
    if now.is_some() || last.is_some() {
        return known(now).or(known(last)).ok_or_else(|| format!("{whose} is terminated"));
    }
    Err(match status.state.waiting.as_ref().map(|waiting| &*waiting.reason) {
        Some("ErrImagePull") => format!("{whose} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{whose} is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("{whose} is waiting to start: {reason}"),
        None => format!("{whose} is waiting to start - no logs yet"),
    })
}
