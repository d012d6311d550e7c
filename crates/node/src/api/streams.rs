//! exec, attach and port-forward: an upgraded connection joined to a container.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reconcile::io::Body;
use streams::{Protocol, Streams, Upgrade, Use};

use super::{Answer, Query, Refusal, full};
use crate::kubelet::Kubelet;

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
                Ok(session) => {
                    let work = |stdio| async {
                        match &command {
                            Some(command) => runtime.exec(&uid, &found.id, command, stdio).await,
                            None => runtime.attach(&uid, &found.id, stdio).await.map(|()| 0),
                        }
                        .map_err(|error| error.to_string())
                    };
                    session.serve(streams.tty, work).await;
                }
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
                tokio::spawn(async move {
                    let port = forward.port;
                    let connect = async {
                        match tokio::time::timeout(CONNECT_WITHIN, runtime.connect(&uid, port)).await {
                            Ok(connected) => connected.map_err(|error| error.to_string()),
                            Err(_) => Err("timed out".to_owned()),
                        }
                    };
                    forward.serve(&uid, connect).await;
                });
            }
        });
        Ok(response)
    }
}
