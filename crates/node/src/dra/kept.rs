//! Claims that are prepared on this node, and the pods that have them, on its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::store;

/// A device that a driver has prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Requests of the claim that it satisfies; none: all.
    pub requests: Vec<String>,
    pub pool: String,
    pub name: String,
    pub cdi: Vec<String>,
}

impl From<rpc::dra::Device> for Device {
    fn from(of: rpc::dra::Device) -> Self {
        Self { requests: of.request_names, pool: of.pool_name, name: of.device_name, cdi: of.cdi_device_ids }
    }
}

/// A driver's part of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub done: bool,
    pub devices: Vec<Device>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    pub uid: String,
    /// By uid.
    pub pods: BTreeSet<String>,
    pub drivers: BTreeMap<String, Share>,
}

fn texts(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn load(path: &Path) -> BTreeMap<(String, String), Prepared> {
    let raw = std::fs::read(path).unwrap_or_default();
    let file: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let device = |of: &Value| Device {
        requests: texts(&of["requests"]).collect(),
        pool: text(&of["pool"]),
        name: text(&of["device"]),
        cdi: texts(&of["cdiDevices"]).collect(),
    };
    let claim = |of: &Value| {
        let drivers = of["drivers"].as_object().into_iter().flatten().map(|(name, share)| {
            let devices = share["devices"].as_array().into_iter().flatten().map(device).collect();
            (name.clone(), Share { done: share["prepared"] == true, devices })
        });
        let prepared =
            Prepared { uid: text(&of["uid"]), pods: texts(&of["pods"]).collect(), drivers: drivers.collect() };
        ((text(&of["namespace"]), text(&of["name"])), prepared)
    };
    file["claims"].as_array().into_iter().flatten().map(claim).collect()
}

pub fn save(path: &Path, claims: &BTreeMap<(String, String), Prepared>) {
    let device =
        |of: &Device| json!({"requests": of.requests, "pool": of.pool, "device": of.name, "cdiDevices": of.cdi});
    let claim = |((namespace, name), of): (&(String, String), &Prepared)| {
        let drivers: serde_json::Map<String, Value> = of
            .drivers
            .iter()
            .map(|(name, share)| {
                let devices: Vec<Value> = share.devices.iter().map(device).collect();
                (name.clone(), json!({"prepared": share.done, "devices": devices}))
            })
            .collect();
        json!({"namespace": namespace, "name": name, "uid": of.uid, "pods": of.pods, "drivers": drivers})
    };
    let file = json!({"claims": claims.iter().map(claim).collect::<Vec<_>>()});
    store::write_private(path, file.to_string().as_bytes());
}
