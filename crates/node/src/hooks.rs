//! postStart and preStop: a command, an HTTP request or a pause.

use std::{net::IpAddr, time::Duration};

use schema::api::IntOrString;
use schema::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};

use crate::http_get::{self, Target};
use crate::pod::{Desired, Member};
use crate::shared::Shared;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Runtime(#[from] crate::ports::Error),
    #[error("the command ended with code {0}")]
    Code(i32),
    #[error("{0}")]
    Http(#[from] http_get::Error),
    #[error("the container has no port {0}")]
    Port(String),
    #[error("no handler is given")]
    Nothing,
}

pub async fn run(
    shared: &Shared,
    desired: &Desired,
    member: &Member,
    id: &str,
    hook: &LifecycleHandler,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    if let Some(exec) = &hook.exec {
        let output = shared.ports.runtime.exec_sync(desired.uid(), id, &exec.command, None).await?;
        return if output.code == 0 { Ok(()) } else { Err(Error::Code(output.code)) };
    }
    if let Some(get) = &hook.http_get {
        let target = target(shared, desired, member, get, addresses)?;
        // Any answer will do, as upstream.
        let answer = http_get::get(&target, &shared.ports.tls, Duration::from_secs(30)).await;
        return answer.map(drop).map_err(Error::Http);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(Error::Nothing)
}

/// What a probe or hook of a pod asks for, and of whom.
pub fn target(
    shared: &Shared,
    desired: &Desired,
    member: &Member,
    get: &HTTPGetAction,
    addresses: &[IpAddr],
) -> Result<Target, Error> {
    Ok(Target {
        secure: get.scheme.eq_ignore_ascii_case("https"),
        host: host(shared, desired, &get.host, addresses),
        port: port(&member.container, &get.port)?,
        path: get.path.clone(),
        headers: get.http_headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

/// Whom a probe or hook of a pod speaks to.
pub fn host(shared: &Shared, desired: &Desired, asked: &str, addresses: &[IpAddr]) -> String {
    if !asked.is_empty() {
        return asked.to_owned();
    }
    if desired.pod.spec.host_network {
        return shared.host_ips.first().cloned().unwrap_or_default();
    }
    addresses.first().map(ToString::to_string).unwrap_or_default()
}

/// A number, or the name of a port of the container.
pub fn port(container: &Container, asked: &IntOrString) -> Result<u16, Error> {
    let number = match asked {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().find(|port| port.name == *name).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0).ok_or_else(|| {
        Error::Port(match asked {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        })
    })
}
