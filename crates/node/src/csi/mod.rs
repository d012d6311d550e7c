//! CSI drivers of this node: who has registered, what the cluster is told of them, and their volumes.
//!
//! What is staged and published is read from the disk (`vol_data.json`, where upstream's kubelet writes it), so that
//! nothing is forgotten by a crash.

mod expand;
mod info;
mod paths;
mod publish;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rpc::csi::node_client::NodeClient;
use rpc::csi::node_service_capability::{self, rpc::Type as Can};
use rpc::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse};
use rpc::{Channel, Status};
use tokio::sync::{Notify, OnceCell, watch};

pub use publish::{For, Source};

use crate::config::Config;
use crate::events::Recorder;
use crate::objects::lock;
use crate::plugins::{DIAL, call, told};
use crate::recall::Recall;

/// What a driver is given to answer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A driver that has registered.
pub struct Driver {
    pub name: String,
    node: NodeClient<Channel>,
    can: OnceCell<BTreeSet<i32>>,
    /// What it says of itself and this node, as long as the cluster has not been told.
    untold: Option<NodeGetInfoResponse>,
}

impl Driver {
    /// Whether a plugin that says this about itself is a driver that this node can speak to.
    pub fn check(name: &str, endpoint: &Path, versions: &[String]) -> Result<(), String> {
        let head = format!("validation failed for CSI Driver {name} at endpoint {}", endpoint.display());
        let told =
            |why: String| format!("{head}: kubernetes.io/csi: ValidatePlugin for CSI driver {name:?} failed. {why}");
        if name.is_empty() {
            return Err(format!("{head}: driver name is empty"));
        }
        if versions.is_empty() {
            return Err(told("Plugin returned an empty list for supported versions".into()));
        }
        let is_one = |version: &String| {
            let version = version.strip_prefix('v').unwrap_or(version);
            version.split('.').next() == Some("1") && version.split('.').all(|part| part.parse::<u32>().is_ok())
        };
        match versions.iter().any(is_one) {
            true => Ok(()),
            false => Err(told(format!("None of the versions specified {versions:?} are supported."))),
        }
    }

    async fn can(&self, what: Can) -> Result<bool, String> {
        let known = self.can.get_or_try_init(|| async {
            let mut node = self.node.clone();
            let answer = call(TIMEOUT, node.node_get_capabilities(NodeGetCapabilitiesRequest {})).await;
            let answer = answer.map_err(|status| told(&status))?;
            let kinds = answer.capabilities.into_iter().filter_map(|of| match of.r#type? {
                node_service_capability::Type::Rpc(rpc) => Some(rpc.r#type),
            });
            Ok::<_, String>(kinds.collect())
        });
        Ok(known.await?.contains(&(what as i32)))
    }
}

pub struct Csi {
    root: PathBuf,
    node_name: String,
    recall: Recall,
    events: Recorder,
    drivers: RwLock<BTreeMap<String, Arc<Driver>>>,
    /// One write of the node's objects at a time.
    writing: tokio::sync::Mutex<()>,
    /// One operation at a time on a volume: driver and handle.
    volumes: Mutex<HashMap<(String, String), Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes may be left that no pod uses.
    idle: Notify,
    /// Unique names of volumes that are used here, for `status.volumesInUse`.
    pub in_use: watch::Sender<BTreeSet<String>>,
    /// As the API has them.
    pub reported: watch::Sender<BTreeSet<String>>,
    /// Counts the drivers that came.
    pub joined: watch::Sender<u64>,
    /// What the node's status says is attached.
    pub attached: watch::Sender<BTreeSet<String>>,
}

impl Csi {
    pub fn new(config: &Config, recall: Recall, events: Recorder) -> Self {
        let root = config.root_dir.clone();
        let in_use = paths::staged(&root).iter().map(|kept| unique_name(&kept.driver, &kept.handle)).collect();
        Self {
            in_use: watch::channel(in_use).0,
            root,
            node_name: config.node_name.clone(),
            recall,
            events,
            drivers: RwLock::default(),
            writing: tokio::sync::Mutex::default(),
            volumes: Mutex::default(),
            idle: Notify::new(),
            reported: watch::channel(BTreeSet::new()).0,
            joined: watch::channel(0).0,
            attached: watch::channel(BTreeSet::new()).0,
        }
    }

    /// Introduces this node, and tidies up for as long as it is polled.
    pub async fn run(&self) {
        let mut retry = Duration::from_millis(100);
        while let Err(error) = self.introduce().await {
            tracing::debug!(%error, "this node has no CSINode yet");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(DIAL);
        }
        self.tidy().await;
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, String> {
        let drivers = self.drivers.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = drivers.get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    fn volume(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut volumes = lock(&self.volumes);
        volumes.retain(|_, volume| Arc::strong_count(volume) > 1);
        volumes.entry((driver.to_owned(), handle.to_owned())).or_default().clone()
    }

    /// Takes a driver whose socket is `endpoint`, and tells the cluster of it, if that is in reach.
    pub async fn take(&self, name: &str, endpoint: &Path) -> Result<Arc<Driver>, String> {
        let channel = rpc::connect(endpoint, DIAL).await.map_err(|error| error.to_string())?;
        let mut node = NodeClient::new(channel);
        let info = call(TIMEOUT, node.node_get_info(NodeGetInfoRequest {})).await.map_err(|status| told(&status))?;
        let offline = self.recall.is_offline();
        if !offline {
            self.install(name, &info).await?;
        }
        let (can, untold) = (OnceCell::new(), offline.then_some(info));
        let driver = Arc::new(Driver { name: name.to_owned(), node, can, untold });
        let mut drivers = self.drivers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        drivers.insert(name.to_owned(), driver.clone());
        self.idle.notify_one();
        self.joined.send_modify(|count| *count += 1);
        Ok(driver)
    }

    /// Tells the cluster of a driver that came before its server did; it is polled for as long as the driver is here.
    pub async fn tell(&self, driver: &Driver) {
        let mut retry = Duration::from_secs(1);
        while let Some(info) = &driver.untold {
            let _ = self.recall.offline.clone().wait_for(|offline| !offline).await;
            match self.install(&driver.name, info).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(driver = driver.name, error, "the cluster was not told of a driver"),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(TIMEOUT);
        }
        std::future::pending().await
    }

    /// Forgets a driver, unless another socket stands for it by now.
    pub async fn let_go(&self, driver: &Arc<Driver>) {
        {
            let mut drivers = self.drivers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !drivers.get(&driver.name).is_some_and(|known| Arc::ptr_eq(known, driver)) {
                return;
            }
            drivers.remove(&driver.name);
        }
        if let Err(error) = self.uninstall(&driver.name).await {
            tracing::warn!(driver = driver.name, error, "a driver was not taken off the node");
        }
    }
}

/// As the node's status names a volume.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The error of an operation that the driver has refused, as upstream says it.
fn said(what: &str, status: &Status) -> String {
    format!("kubernetes.io/csi: {what}: {}", told(status))
}
