//! CRI v1 in front of the runtime and the image store: what a kubelet, `crictl` or `critest` says to [`routes`] is
//! turned into calls of [`containers`] and [`images`] (`asked`), what they answer into CRI's messages (`shown`).
//!
//! Errors have containerd's codes. Calls that change something run to their end even if the caller hangs up.

mod asked;
mod image_service;
mod runtime_service;
mod shown;
mod stats;
mod streaming;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rpc::cri::image_service_server::ImageServiceServer;
use rpc::cri::runtime_service_server::RuntimeServiceServer;
use rpc::{Response, Routes, Status};

use crate::containers::{self, ContainerConfig, ContainerStatus, Runtime, SandboxStatus};
use crate::images::{self, Images, Kind, Rootfs};
use crate::lock;

pub use asked::signal;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the service needs of the network. Errors are words for the caller.
pub trait Network: Send + Sync {
    /// Why sandboxes cannot be attached, if they cannot (`NetworkReady`).
    fn ready(&self) -> Result<(), String>;

    /// Gives a sandbox with a network namespace its addresses, and leads its hostPorts there.
    fn attach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>>;

    /// Takes them back; again for the same sandbox is fine.
    fn detach<'a>(&'a self, sandbox: &'a SandboxStatus) -> BoxFuture<'a, Result<(), String>>;

    /// What it was given; none on the host's network.
    fn addresses(&self, sandbox: &SandboxStatus) -> Vec<IpAddr>;
}

/// The version that `Version` tells, where cgroups of sandboxes without a parent go, and how CDI's devices by their
/// names become a container's.
#[derive(Clone, Debug)]
pub struct Settings {
    pub version: String,
    /// `/k8s.io`.
    pub cgroup_parent: String,
    pub cdi: fn(&[String], &mut ContainerConfig) -> Result<(), String>,
}

/// Both services on this runtime. Must be called in a tokio runtime: the streaming server listens from now on.
pub async fn routes(
    runtime: Runtime,
    images: Images,
    network: Arc<dyn Network>,
    settings: Settings,
) -> io::Result<Routes> {
    let streaming = streaming::Streaming::start(runtime.clone()).await?;
    let service = Service(Arc::new(Inner {
        runtime,
        images,
        network,
        settings,
        streaming,
        reserved: Mutex::default(),
        cpu: Mutex::default(),
        shown: Mutex::default(),
    }));
    service.0.take_up_images().await;
    Ok(Routes::default().with(RuntimeServiceServer::new(service.clone())).with(ImageServiceServer::new(service)))
}

#[derive(Clone)]
struct Service(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    images: Images,
    network: Arc<dyn Network>,
    settings: Settings,
    streaming: streaming::Streaming,
    /// Names of sandboxes and containers that are being made.
    reserved: Mutex<HashSet<String>>,
    /// The last look at each cgroup: when, and the processor time by then.
    cpu: Mutex<HashMap<String, (i64, u64)>>,
    /// Images of volumes, by the directory of a container's.
    shown: Mutex<HashMap<PathBuf, Vec<Rootfs>>>,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// How many things a message of a list stream has, so that none is near gRPC's 4 MiB.
const IN_A_MESSAGE: usize = 100;

fn pieces<T: Send + 'static, R: Send + 'static>(mut items: Vec<T>, message: fn(Vec<T>) -> R) -> Answer<Stream<R>> {
    let mut messages = Vec::new();
    while !items.is_empty() {
        let rest = items.split_off(items.len().min(IN_A_MESSAGE));
        messages.push(Ok(message(std::mem::replace(&mut items, rest))));
    }
    Ok(Response::new(stream::iter(messages).boxed()))
}

/// A name that nobody else can take meanwhile.
struct Reserved<'a>(&'a Inner, String);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        lock(&self.0.reserved).remove(&self.1);
    }
}

impl Inner {
    fn reserve(&self, name: String) -> Result<Reserved<'_>, Status> {
        match lock(&self.reserved).insert(name.clone()) {
            true => Ok(Reserved(self, name)),
            false => Err(Status::already_exists(format!("name {name:?} is reserved: it is being made"))),
        }
    }

    /// By id, or by a beginning of one that is no other's.
    fn sandbox(&self, id: &str) -> Result<SandboxStatus, Status> {
        let found = self.runtime.sandbox(id).ok().or_else(|| only(self.runtime.sandboxes(), id, |pod| &pod.id));
        found.ok_or_else(|| Status::not_found(format!("an error occurred when try to find sandbox {id:?}: not found")))
    }

    fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let found = self.runtime.container(id).ok().or_else(|| only(self.runtime.containers(), id, |made| &made.id));
        found
            .ok_or_else(|| Status::not_found(format!("an error occurred when try to find container {id:?}: not found")))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let mut all = self.runtime.containers();
        all.retain(|made| made.sandbox_id == sandbox);
        all.sort_by_key(|made| made.created_at);
        all
    }
}

fn only<T>(all: Vec<T>, prefix: &str, id: fn(&T) -> &String) -> Option<T> {
    let mut fitting = all.into_iter().filter(|one| !prefix.is_empty() && id(one).starts_with(prefix));
    fitting.next().filter(|_| fitting.next().is_none())
}

/// Runs `work` to its end, whether or not the caller waits for it.
async fn whole<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    tokio::spawn(work).await.map_err(|error| Status::internal(error.to_string()))?
}

fn refused(error: containers::Error) -> Status {
    use containers::Error as E;
    let text = error.to_string();
    match error {
        E::NoSandbox(_) | E::NoContainer(_) => Status::not_found(text),
        E::Config { .. } | E::Seccomp { .. } => Status::invalid_argument(text),
        E::SandboxNotReady(_) | E::WrongState { .. } => Status::failed_precondition(text),
        E::Timeout { .. } => Status::deadline_exceeded(format!("{text}: context deadline exceeded")),
        _ => Status::unknown(text),
    }
}

fn store_refused(error: images::Error) -> Status {
    let text = error.chain();
    match error.kind() {
        Kind::InvalidName => Status::invalid_argument(text),
        Kind::NotPresent | Kind::NotFound => Status::not_found(text),
        Kind::Unauthorized => Status::permission_denied(text),
        Kind::Unavailable => Status::unavailable(text),
        Kind::Cancelled => Status::cancelled(text),
        // The word by which kubelets know it.
        Kind::Signature => Status::unknown(format!("SignatureValidationFailed: {text}")),
        Kind::NoPlatform | Kind::BadImage | Kind::Local => Status::unknown(text),
    }
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |at| at.as_nanos() as i64)
}
