//! Plugins that register by a socket below `<root>/plugins_registry`: each says what it is, is taken or told why not,
//! and is let go when its socket vanishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rpc::pluginregistration::registration_client::RegistrationClient;
use rpc::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus};
use rpc::{Code, Response, Status};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::shared::Shared;
use crate::watch::Watch;
use crate::{devices, dra};

pub const DIAL: Duration = Duration::from_secs(10);
const INFO: Duration = Duration::from_secs(1);
const NOTIFY: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);
/// A socket that is being replaced is looked at when it is done.
const GATHER: Duration = Duration::from_millis(50);

/// As Go prints an error of gRPC.
pub fn told(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// A call's answer, or the error as Go prints it; a peer that does not answer in time is given up.
pub async fn call<T>(limit: Duration, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

/// Which file stands at a path: one that was made anew is another one.
type Identity = (u64, u64, i64, i64);

/// Follows the directory for as long as it is polled.
pub async fn run(shared: &Arc<Shared>) {
    let root = shared.config.root_dir.join("plugins_registry");
    let mut known: BTreeMap<PathBuf, (Identity, oneshot::Sender<()>)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        // Made before the look, so that nothing is missed between the two.
        let directories = directories(&root);
        let watch = match Watch::new(directories.iter().map(PathBuf::as_path)) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(directory = %root.display(), %error, "plugins cannot register");
                tokio::time::sleep(DIAL).await;
                continue;
            }
        };
        let found = sockets(&directories);
        known.retain(|path, (identity, _)| found.get(path) == Some(identity));
        for (path, identity) in found {
            if let std::collections::btree_map::Entry::Vacant(entry) = known.entry(path.clone()) {
                let (held, gone) = oneshot::channel();
                entry.insert((identity, held));
                tasks.spawn(serve(shared.clone(), path, gone));
            }
        }
        watch.changed().await;
        tokio::time::sleep(GATHER).await;
        while tasks.try_join_next().is_some() {}
    }
}

/// The root, made if it is missing, and what is below it; hidden ones are left out.
fn directories(root: &Path) -> BTreeSet<PathBuf> {
    let _ = fs::create_dir_all(root);
    let mut all = BTreeSet::from([root.to_owned()]);
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let shown = !entry.file_name().as_encoded_bytes().starts_with(b".");
            if shown && entry.file_type().is_ok_and(|kind| kind.is_dir()) && all.insert(entry.path()) {
                todo.push(entry.path());
            }
        }
    }
    all
}

fn sockets(directories: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Identity> {
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let shown = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let all = shown.filter_map(|entry| {
        let meta = fs::symlink_metadata(entry.path()).ok().filter(|meta| meta.file_type().is_socket())?;
        Some((entry.path(), (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())))
    });
    all.collect()
}

/// Registers the plugin of a socket, again and again until it succeeds, and lets it go when the socket is `gone`.
async fn serve(shared: Arc<Shared>, path: PathBuf, mut gone: oneshot::Receiver<()>) {
    let mut retry = RETRY;
    let taken = loop {
        let failed = tokio::select! {
            _ = &mut gone => return,
            outcome = register(&shared, &path) => match outcome {
                Ok(taken) => break taken,
                Err(error) => error,
            },
        };
        tracing::warn!(socket = %path.display(), error = failed, "a plugin was not registered");
        tokio::select! {
            _ = &mut gone => return,
            () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
        }
    };
    tracing::info!(socket = %path.display(), "a plugin is registered");
    match taken {
        Taken::Csi(driver) => {
            tokio::select! {
                _ = gone => {}
                () = shared.csi.tell(&driver) => {}
            }
            shared.csi.let_go(&driver).await;
        }
        // Its stream of devices ends with it.
        Taken::Devices => drop(gone.await),
        Taken::Dra(driver) => {
            let _ = gone.await;
            shared.dra.let_go(&driver);
        }
    }
    tracing::info!(socket = %path.display(), "a plugin is gone");
}

/// Who has registered.
enum Taken {
    Csi(Arc<crate::csi::Driver>),
    Devices,
    Dra(Arc<dra::Driver>),
}

async fn register(shared: &Arc<Shared>, path: &Path) -> Result<Taken, String> {
    let at = path.display();
    let failed = |what: String| format!("RegisterPlugin error -- {what}");
    let channel = rpc::connect(path, DIAL).await;
    let channel = channel.map_err(|error| failed(format!("dial failed at socket {at}, err: {error}")))?;
    let mut client = RegistrationClient::new(channel);
    let info = call(INFO, client.get_info(InfoRequest {})).await.map_err(|status| {
        failed(format!("failed to get plugin info using RPC GetInfo at socket {at}, err: {}", told(&status)))
    })?;
    let outcome = take(shared, path, &info).await.map_err(failed);
    let error = outcome.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: error.is_empty(), error };
    match (outcome, call(NOTIFY, client.notify_registration_status(status)).await) {
        (Ok(taken), Ok(_)) => Ok(taken),
        (Ok(taken), Err(status)) => {
            match taken {
                Taken::Csi(driver) => shared.csi.let_go(&driver).await,
                Taken::Dra(driver) => shared.dra.let_go(&driver),
                Taken::Devices => {}
            }
            Err(failed(format!("failed to send registration status at socket {at}, err: {}", told(&status))))
        }
        (Err(error), _) => Err(error),
    }
}

async fn take(shared: &Arc<Shared>, path: &Path, info: &PluginInfo) -> Result<Taken, String> {
    let endpoint = if info.endpoint.is_empty() { path } else { Path::new(&info.endpoint) };
    let invalid = |why| format!("plugin validation failed with err: {why}");
    let refused = |why| format!("plugin registration failed with err: {why}");
    match &*info.r#type {
        "CSIPlugin" => {
            crate::csi::Driver::check(&info.name, endpoint, &info.supported_versions).map_err(invalid)?;
            let driver = shared.csi.take(&info.name, endpoint).await.map_err(refused)?;
            Ok(Taken::Csi(driver))
        }
        "DevicePlugin" => {
            devices::check(&info.name, &info.supported_versions).map_err(invalid)?;
            shared.devices.take(&info.name, endpoint, None).await.map_err(refused)?;
            Ok(Taken::Devices)
        }
        "DRAPlugin" => {
            let service = dra::check(&info.name, endpoint, &info.supported_versions).map_err(invalid)?;
            Ok(Taken::Dra(shared.dra.take(&info.name, endpoint, service).await.map_err(refused)?))
        }
        other => Err(format!("no handler registered for plugin type: {other} at socket {}", path.display())),
    }
}
