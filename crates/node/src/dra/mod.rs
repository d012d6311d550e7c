//! Drivers of dynamic resource allocation: the claims of pods are prepared by them before containers start, and
//! unprepared when no pod of this node has them any more.
//!
//! What is prepared is kept in `<root>/dra_manager_state`, so that a restart forgets no claim.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use rpc::Channel;
use rpc::dra::dra_plugin_client::DraPluginClient;
use rpc::dra::{
    Claim, NodePrepareResourcesRequest, NodePrepareResourcesResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
};
use schema::api::core::v1::{Container, Pod};
use schema::api::resource::v1::ResourceClaim;
use tokio::sync::Notify;

use crate::config::Config;
use crate::objects::lock;
use crate::plugins::{DIAL, call, told};
use crate::recall::Recall;
pub use kept::{Device, Prepared};

/// What a driver is given to answer, as upstream gives it.
const TIMEOUT: Duration = Duration::from_secs(45);
/// ResourceSlices of a driver that went away are left alone for so long.
const WIPE_AFTER: Duration = Duration::from_secs(30);
const SERVICES: [&str; 2] = ["v1.DRAPlugin", "v1beta1.DRAPlugin"];
const BETA: &str = "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin";
const PREPARE: &str = "NodePrepareResources";

pub struct Driver {
    pub name: String,
    client: DraPluginClient<Channel>,
}

/// Which of the two services a driver serves is used.
pub fn check(name: &str, endpoint: &Path, services: &[String]) -> Result<&'static str, String> {
    let found = services.iter().find_map(|service| SERVICES.into_iter().find(|known| known == service));
    let why = match services.is_empty() {
        _ if name.is_empty() => "DRA driver name is empty".to_owned(),
        true => "empty list of supported gRPC services (aka supported versions)".to_owned(),
        false => format!(
            "none of services supported by the plugin ({services:?}) are supported by the kubelet ({SERVICES:?})"
        ),
    };
    match found.filter(|_| !name.is_empty()) {
        Some(service) => Ok(service),
        None => {
            let at = endpoint.display();
            Err(format!("invalid supported gRPC versions of DRA driver plugin {name} at endpoint {at}: {why}"))
        }
    }
}

impl Driver {
    async fn prepare(&self, claims: Vec<Claim>) -> Result<NodePrepareResourcesResponse, String> {
        let request = NodePrepareResourcesRequest { claims };
        let answer = call(TIMEOUT, self.client.clone().node_prepare_resources(request)).await;
        answer.map_err(|status| format!("{PREPARE}: {}", told(&status)))
    }

    async fn unprepare(&self, claims: Vec<Claim>) -> Result<NodeUnprepareResourcesResponse, String> {
        let request = NodeUnprepareResourcesRequest { claims };
        let answer = call(TIMEOUT, self.client.clone().node_unprepare_resources(request)).await;
        answer.map_err(|status| format!("NodeUnprepareResources: {}", told(&status)))
    }
}

pub struct Dra {
    path: PathBuf,
    node_name: String,
    recall: Recall,
    drivers: RwLock<BTreeMap<String, Arc<Driver>>>,
    /// By namespace and name.
    claims: Mutex<BTreeMap<(String, String), Prepared>>,
    /// One change of what is prepared at a time.
    turn: tokio::sync::Mutex<()>,
    lost: Notify,
}

/// A claim that a pod has: its name in the pod, the claim's own, and whether it is made for the pod.
fn claims_of(pod: &Pod) -> Result<Vec<(String, String, bool)>, String> {
    let mut all = Vec::new();
    for of in &pod.spec.resource_claims {
        if let Some(name) = &of.resource_claim_name {
            all.push((of.name.clone(), name.clone(), false));
            continue;
        }
        let Some(status) = pod.status.resource_claim_statuses.iter().find(|status| status.name == of.name) else {
            let meta = &pod.metadata;
            return Err(format!("pod \"{}/{}\": ResourceClaim not created yet", meta.namespace, meta.name));
        };
        // Without a name the pod needs no claim after all.
        all.extend(status.resource_claim_name.iter().map(|name| (of.name.clone(), name.clone(), true)));
    }
    let extended = pod.status.extended_resource_claim_status.iter();
    all.extend(extended.map(|of| (String::new(), of.resource_claim_name.clone(), true)));
    Ok(all)
}

impl Dra {
    pub fn new(config: &Config, recall: Recall) -> Self {
        let path = config.root_dir.join("dra_manager_state");
        Self {
            node_name: config.node_name.clone(),
            recall,
            drivers: RwLock::default(),
            claims: Mutex::new(kept::load(&path)),
            path,
            turn: tokio::sync::Mutex::default(),
            lost: Notify::new(),
        }
    }

    pub async fn take(&self, name: &str, endpoint: &Path, service: &str) -> Result<Arc<Driver>, String> {
        let channel = rpc::connect(endpoint, DIAL).await.map_err(|error| {
            format!("create gRPC connection to DRA driver {name} plugin at endpoint {}: {error}", endpoint.display())
        })?;
        // The older one has the same messages.
        let channel = if service == SERVICES[0] { channel } else { channel.to(BETA) };
        let driver = Arc::new(Driver { name: name.to_owned(), client: DraPluginClient::new(channel) });
        let mut drivers = self.drivers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        drivers.insert(name.to_owned(), driver.clone());
        Ok(driver)
    }

    pub fn let_go(&self, driver: &Arc<Driver>) {
        let mut drivers = self.drivers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if drivers.get(&driver.name).is_some_and(|known| Arc::ptr_eq(known, driver)) {
            drivers.remove(&driver.name);
            self.lost.notify_one();
        }
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, String> {
        let drivers = self.drivers.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        drivers.get(name).cloned().ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// Takes back what drivers that are not here have said that this node has, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(WIPE_AFTER).await;
            let mut query = format!("spec.nodeName%3D{}", self.node_name);
            for driver in self.drivers.read().unwrap_or_else(|poisoned| poisoned.into_inner()).keys() {
                query.push_str(&format!(",spec.driver!%3D{driver}"));
            }
            let mut request = Request::new(Bytes::new());
            *request.method_mut() = Method::DELETE;
            let path = format!("/apis/resource.k8s.io/v1/resourceslices?fieldSelector={query}");
            *request.uri_mut() = path.parse().unwrap_or_default();
            match self.recall.client.request_raw(request).await {
                Ok(_) => self.lost.notified().await,
                Err(error) => tracing::debug!(%error, "ResourceSlices were not taken back"),
            }
        }
    }

    /// Prepares all claims of a pod.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let claims = claims_of(pod)?;
        if claims.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let uid = &pod.metadata.uid;
        let mut todo: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for (_, name, own) in claims {
            let key = (pod.metadata.namespace.clone(), name.clone());
            let claim = self.recall.get::<ResourceClaim>(pod, &key.0, &name).await;
            let claim = claim.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
            allowed(pod, &claim, own)?;
            let Some(allocation) = &claim.status.allocation else {
                return Err(format!("ResourceClaim {name}: not allocated"));
            };
            let skips = |of: &&schema::api::resource::v1::DeviceRequestAllocationResult| {
                of.skip_node_operations.iter().any(|operation| operation == PREPARE)
            };
            let results = allocation.devices.results.iter().filter(|of| !skips(of));
            let drivers: BTreeSet<String> = results.map(|of| of.driver.clone()).collect();
            let mut known = lock(&self.claims);
            let prepared = known.entry(key).or_default();
            if !prepared.uid.is_empty() && prepared.uid != claim.metadata.uid {
                let old = &prepared.uid;
                return Err(format!(
                    "old ResourceClaim with same name {name} and different UID {old} still exists (previous pod force-deleted?!)"
                ));
            }
            prepared.uid.clone_from(&claim.metadata.uid);
            prepared.pods.insert(uid.clone());
            for driver in drivers {
                if !prepared.drivers.get(&driver).is_some_and(|of| of.done) {
                    prepared.drivers.entry(driver.clone()).or_default();
                    let claim = Claim {
                        namespace: claim.metadata.namespace.clone(),
                        uid: claim.metadata.uid.clone(),
                        name: name.clone(),
                    };
                    todo.entry(driver).or_default().push(claim);
                }
            }
        }
        // Noted before it is done: what may be prepared is unprepared, whatever happens.
        self.save();
        for (name, claims) in todo {
            let mut answer = self.driver(&name)?.prepare(claims.clone()).await?;
            for claim in claims {
                let Some(result) = answer.claims.remove(&claim.uid) else {
                    return Err(format!("{PREPARE} skipped 1 ResourceClaims"));
                };
                if !result.error.is_empty() {
                    return Err(format!("{PREPARE} failed for ResourceClaim {}: {}", claim.name, result.error));
                }
                let devices = result.devices.into_iter().map(Device::from).collect();
                let mut known = lock(&self.claims);
                if let Some(prepared) = known.get_mut(&(claim.namespace, claim.name)) {
                    prepared.drivers.insert(name.clone(), kept::Share { done: true, devices });
                }
            }
            if let Some(unknown) = answer.claims.keys().next() {
                return Err(format!("{PREPARE} returned result for unknown claim UID {unknown}"));
            }
            self.save();
        }
        Ok(())
    }

    fn save(&self) {
        kept::save(&self.path, &lock(&self.claims));
    }

    /// Lets go of all claims of a pod; what no other pod has is unprepared.
    pub async fn release(&self, uid: &str) -> Result<(), String> {
        if !lock(&self.claims).values().any(|prepared| prepared.pods.contains(uid)) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let mine: Vec<((String, String), Prepared)> = {
            let known = lock(&self.claims);
            known.iter().filter(|(_, of)| of.pods.contains(uid)).map(|(key, of)| (key.clone(), of.clone())).collect()
        };
        for (key, prepared) in mine {
            if prepared.pods.len() == 1 {
                let claim = Claim { namespace: key.0.clone(), uid: prepared.uid.clone(), name: key.1.clone() };
                for name in prepared.drivers.keys() {
                    let mut answer = self.driver(name)?.unprepare(vec![claim.clone()]).await?;
                    match answer.claims.remove(&claim.uid) {
                        None => return Err("NodeUnprepareResources skipped 1 ResourceClaims".into()),
                        Some(result) if !result.error.is_empty() => {
                            let why = result.error;
                            return Err(format!("NodeUnprepareResources failed for ResourceClaim {}: {why}", key.1));
                        }
                        Some(_) => {}
                    }
                }
                lock(&self.claims).remove(&key);
            } else if let Some(prepared) = lock(&self.claims).get_mut(&key) {
                prepared.pods.remove(uid);
            }
            self.save();
        }
        Ok(())
    }

    /// Devices of the claims that a container names: claim, driver, device.
    pub fn devices(&self, pod: &Pod, container: &Container) -> Vec<(String, String, Device)> {
        let known = lock(&self.claims);
        let mut all = Vec::new();
        let mut add = |name: &str, wants: &dyn Fn(&str) -> bool| {
            let Some(prepared) = known.get(&(pod.metadata.namespace.clone(), name.to_owned())) else { return };
            for (driver, share) in &prepared.drivers {
                let of = |device: &&Device| device.requests.is_empty() || device.requests.iter().any(|of| wants(of));
                let devices = share.devices.iter().filter(of);
                all.extend(devices.map(|device| (name.to_owned(), driver.clone(), device.clone())));
            }
        };
        for (alias, name, _) in claims_of(pod).unwrap_or_default() {
            for of in container.resources.claims.iter().filter(|of| of.name == alias) {
                // A subrequest, `request/sub`, is its request's.
                let wants = |request: &str| {
                    of.request.is_empty() || request == of.request || request.split('/').next() == Some(&*of.request)
                };
                add(&name, &wants);
            }
        }
        if let Some(extended) = &pod.status.extended_resource_claim_status {
            for of in extended.request_mappings.iter().filter(|of| of.container_name == container.name) {
                add(&extended.resource_claim_name, &|request| request == of.request_name);
            }
        }
        all
    }
}

/// Whether the claim is the pod's to use.
fn allowed(pod: &Pod, claim: &ResourceClaim, own: bool) -> Result<(), String> {
    let (meta, of) = (&pod.metadata, &claim.metadata);
    if own && !of.owner_references.iter().any(|owner| owner.uid == meta.uid) {
        return Err(format!(
            "ResourceClaim {}/{} was not created for Pod {}/{} (Pod is not owner)",
            of.namespace, of.name, meta.namespace, meta.name
        ));
    }
    if !claim.status.reserved_for.iter().any(|consumer| consumer.uid == meta.uid) {
        return Err(format!(
            "pod {} ({}) is not allowed to use ResourceClaim {} ({})",
            meta.name, meta.uid, of.name, of.uid
        ));
    }
    Ok(())
}
