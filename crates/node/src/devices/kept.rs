//! `kubelet_internal_checkpoint`: what containers were given, so that a restart takes nothing from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rpc::Message;
use rpc::deviceplugin::ContainerAllocateResponse;
use serde_json::{Value, json};

use super::State;
use crate::store;

const FILE: &str = "kubelet_internal_checkpoint";

/// Devices of one resource that a container has.
#[derive(Clone, Default)]
pub struct Given {
    pub pod: String,
    pub container: String,
    pub resource: String,
    /// By NUMA node; -1: anywhere.
    pub devices: BTreeMap<i64, BTreeSet<String>>,
    pub response: ContainerAllocateResponse,
}

impl Given {
    pub fn ids(&self) -> BTreeSet<String> {
        self.devices.values().flatten().cloned().collect()
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        let devices = entry["DeviceIDs"].as_object()?.iter().filter_map(|(numa, ids)| {
            let ids = ids.as_array()?.iter().filter_map(|id| id.as_str().map(str::to_owned));
            Some((numa.parse().ok()?, ids.collect()))
        });
        let raw = STANDARD.decode(entry["AllocResp"].as_str().unwrap_or_default()).ok()?;
        Some(Self {
            pod: text("PodUID")?,
            container: text("ContainerName")?,
            resource: text("ResourceName")?,
            devices: devices.collect(),
            response: ContainerAllocateResponse::decode(&*raw).ok()?,
        })
    }

    fn write(&self) -> Value {
        let devices: serde_json::Map<String, Value> =
            self.devices.iter().map(|(numa, ids)| (numa.to_string(), json!(ids))).collect();
        json!({"PodUID": self.pod, "ContainerName": self.container, "ResourceName": self.resource,
            "DeviceIDs": devices, "AllocResp": STANDARD.encode(self.response.encode_to_vec())})
    }
}

/// Allocations, and the names of resources that had plugins.
pub fn load(dir: &Path) -> (Vec<Given>, Vec<String>) {
    let raw = fs::read(dir.join(FILE)).unwrap_or_default();
    let Ok(file) = serde_json::from_slice::<Value>(&raw) else { return Default::default() };
    let data = &file["Data"];
    let given = data["PodDeviceEntries"].as_array().into_iter().flatten().filter_map(Given::read).collect();
    let names = data["RegisteredDevices"].as_object().map(|all| all.keys().cloned().collect());
    (given, names.unwrap_or_default())
}

pub fn save(dir: &Path, state: &State) {
    let entries: Vec<Value> = state.given.iter().map(Given::write).collect();
    let healthy = state.resources.iter().filter(|(_, of)| of.plugin.is_some() || !of.devices.is_empty());
    let registered: serde_json::Map<String, Value> = healthy
        .map(|(name, of)| {
            let ids = of.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id);
            (name.clone(), json!(ids.collect::<Vec<_>>()))
        })
        .collect();
    let file = json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": registered}, "Checksum": 0});
    store::write_private(&dir.join(FILE), file.to_string().as_bytes());
}
