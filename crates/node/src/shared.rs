//! What all pods of a node share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use reconcile::io::Client;
use schema::api::core::v1::{ConfigMap, Secret, Service};
use schema::quantity::Quantity;
use tokio::sync::{Notify, watch};

use crate::config::{Config, Ports};
use crate::csi::Csi;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::events::Recorder;
use crate::images::Puller;
use crate::metrics::Metrics;
use crate::objects::Cache;
use crate::ports::Machine;
use crate::recall::Recall;
use crate::resources::Sizing;
use crate::topology::Managers;
use crate::volumes::Volumes;

pub struct Shared {
    pub config: Config,
    pub ports: Ports,
    pub client: Client,
    pub recall: Recall,
    pub machine: Machine,
    pub allocatable: BTreeMap<String, Quantity>,
    pub host_ips: Vec<String>,
    /// The container runtime's name.
    pub runtime: String,
    pub metrics: Arc<Metrics>,
    pub volumes: Arc<Volumes>,
    pub csi: Arc<Csi>,
    pub devices: Arc<Devices>,
    pub dra: Dra,
    pub managers: Managers,
    pub sizing: Sizing,
    pub puller: Puller,
    pub events: Recorder,
    pub config_maps: Cache<ConfigMap>,
    pub secrets: Cache<Secret>,
    pub services: RwLock<Vec<Arc<Service>>>,
    /// The node's conditions are others now.
    pub health_changed: Notify,
    /// No server has answered since the start: what is known from before must do.
    pub offline: watch::Sender<bool>,
    /// The services were listed once (or the node is offline).
    pub services_known: watch::Sender<bool>,
    /// `cpu.shares` of `kubepods/burstable`, as last set.
    pub burstable_shares: Mutex<Option<u64>>,
    /// Mounted volumes by pod uid.
    pub mounted: Mutex<BTreeMap<String, crate::volumes::Set>>,
}

impl Shared {
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}
