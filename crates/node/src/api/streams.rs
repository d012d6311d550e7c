//! exec, attach and port-forward: an upgraded connection joined to a container.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reconcile::io::Body;
use serde_json::json;
use streams::{Protocol, RemoteCommand, Streams, Upgrade, Use};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{Answer, Query, Refusal, full};
use crate::kubelet::Kubelet;
use crate::ports::{Error, Reader, Runtime, Stdio, Writer};

/// The client's connection comes after the answer.
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);
/// How long an unused forwarded port or session is kept: upstream's streaming idle timeout.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

fn wanted(query: &Query) -> Result<Streams, Refusal> {
    let tty = query.is("tty");
    let streams = Streams {
        stdin: query.is("input") || query.is("stdin"),
        stdout: query.is("output") || query.is("stdout"),
        stderr: (query.is("error") || query.is("stderr")) && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(streams)
}

/// With what the request carried, which may want to know how long it lasts.
type Connection = tokio::task::JoinHandle<Option<(hyper::upgrade::Upgraded, http::Extensions)>>;

/// Agrees on a protocol; the connection comes once the answer has gone out.
fn upgrade(mut request: Request<Body>, usage: Use) -> Result<(Response<Body>, Protocol, Connection), Refusal> {
    let agreed = Upgrade::negotiate(request.headers(), usage)
        .map_err(|refused| Refusal(refused.status(), refused.to_string()))?;
    let pending = hyper::upgrade::on(&mut request);
    let carried = std::mem::take(request.extensions_mut());
    let connection = tokio::spawn(async move {
        let connection = tokio::time::timeout(UPGRADE_WITHIN, pending).await.ok()?.ok()?;
        Some((connection, carried))
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = agreed.headers;
    Ok((response, agreed.protocol, connection))
}

impl Kubelet {
    /// exec if there is a command, else attach.
    pub(super) async fn command(
        &self,
        request: Request<Body>,
        [namespace, pod, container]: [&str; 3],
        query: &Query,
        command: Option<Vec<String>>,
    ) -> Answer {
        if command.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refusal::bad("you must specify at least one command"));
        }
        let streams = wanted(query)?;
        let view = self.find(namespace, pod)?;
        let found = self.find_running(&view, container).await?;
        let (response, protocol, connection) = upgrade(request, Use::RemoteCommand)?;
        let runtime = self.shared.ports.runtime.clone();
        let uid = view.desired.uid().to_owned();
        tokio::spawn(async move {
            let Ok(Some((connection, _carried))) = connection.await else { return };
            match streams::remote_command(TokioIo::new(connection), protocol, streams).await {
                Ok(session) => serve(session, streams.tty, &*runtime, &uid, &found.id, command.as_deref()).await,
                Err(error) => tracing::debug!(%error, "a client did not open its streams"),
            }
        });
        Ok(response)
    }

    pub(super) fn port_forward(&self, request: Request<Body>, namespace: &str, pod: &str, query: &Query) -> Answer {
        let view = self.find(namespace, pod)?;
        let ports: Vec<u16> =
            query.all("port").iter().flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
        let (response, protocol, connection) = upgrade(request, Use::PortForward)?;
        let runtime = self.shared.ports.runtime.clone();
        let uid = view.desired.uid().to_owned();
        tokio::spawn(async move {
            let Ok(Some((connection, _carried))) = connection.await else { return };
            let mut forwards = streams::port_forward(TokioIo::new(connection), protocol, &ports).await;
            while let Some(forward) = forwards.recv().await {
                let (runtime, uid) = (runtime.clone(), uid.clone());
                tokio::spawn(async move { join(forward, &*runtime, &uid).await });
            }
        });
        Ok(response)
    }
}

async fn join(forward: streams::Forward, runtime: &dyn Runtime, uid: &str) {
    let streams::Forward { port, data, mut error } = forward;
    let failed = match tokio::time::timeout(CONNECT_WITHIN, runtime.connect(uid, port)).await {
        Ok(Ok((mut from_pod, mut to_pod))) => {
            let (mut from_client, mut to_client) = tokio::io::split(data);
            let up = async {
                let done = tokio::io::copy(&mut from_client, &mut to_pod).await;
                let _ = to_pod.shutdown().await;
                done
            };
            let down = async {
                let done = tokio::io::copy(&mut from_pod, &mut to_client).await;
                let _ = to_client.shutdown().await;
                done
            };
            // The pod's end ends it; a client may stop sending and still read.
            tokio::pin!(up, down);
            tokio::select! {
                _ = &mut down => None,
                sent = &mut up => if sent.is_ok() { down.await.err().map(|error| error.to_string()) } else { None },
            }
        }
        Ok(Err(failed)) => Some(failed.to_string()),
        Err(_) => Some("timed out".to_owned()),
    };
    if let Some(why) = failed {
        let text =
            format!("an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {uid}: {why}");
        let _ = error.write_all(text.as_bytes()).await;
    }
    let _ = error.shutdown().await;
}

async fn serve(
    session: RemoteCommand,
    tty: bool,
    runtime: &dyn Runtime,
    uid: &str,
    id: &str,
    command: Option<&[String]>,
) {
    let RemoteCommand { stdin, stdout, stderr, mut error, mut resize, status, mut gone } = session;
    let (sizes_to, sizes) = mpsc::channel(4);
    let resizing = async {
        while let Some(size) = resize.recv().await {
            if sizes_to.send((size.width, size.height)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let stdio = Stdio {
        stdin: stdin.map(|from| Box::new(from) as Reader),
        stdout: stdout.map(|to| Box::new(to) as Writer),
        stderr: stderr.map(|to| Box::new(to) as Writer),
        tty,
        resize: tty.then_some(sizes),
    };
    let work = async {
        match command {
            Some(command) => runtime.exec(uid, id, command, stdio).await,
            None => runtime.attach(uid, id, stdio).await.map(|()| 0),
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = resizing => return,
        _ = gone.recv() => return,
    };
    let text = last_word(&ended, status);
    if !text.is_empty() {
        let _ = error.write_all(text.as_bytes()).await;
    }
    let _ = error.shutdown().await;
}

/// What the error stream says at the end: a `Status`, or plain text to clients of old protocols.
fn last_word(ended: &Result<i32, Error>, status: bool) -> String {
    match (ended, status) {
        (Ok(0), false) => String::new(),
        (Ok(0), true) => json!({"metadata": {}, "status": "Success"}).to_string(),
        (Ok(code), true) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
        .to_string(),
        (Ok(code), false) => format!("command terminated with non-zero exit code: exit status {code}"),
        (Err(error), true) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error executing command in container: {error}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": error.to_string()}]},
            "code": 500,
        })
        .to_string(),
        (Err(error), false) => format!("error executing command in container: {error}"),
    }
}
