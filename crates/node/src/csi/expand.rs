//! What is done to a published volume: its growth on the node, and its statistics.

use reconcile::{Key, Patch};
use rpc::csi::node_service_capability::rpc::Type as Can;
use rpc::csi::volume_usage::Unit;
use rpc::csi::{CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest};
use rpc::{Code, Status};
use schema::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use schema::quantity::Quantity;
use serde_json::{Value, json};

use super::publish::{Source, Wanted, secret};
use super::{Csi, TIMEOUT, paths};
use crate::plugins::{call, told};
use crate::ports::FsStats;

const STORAGE: &str = "storage";
const RESIZING: [&str; 2] = ["Resizing", "FileSystemResizePending"];

fn size(list: &std::collections::BTreeMap<String, schema::api::Quantity>) -> i64 {
    list.get(STORAGE).and_then(|size| Quantity::parse(&size.0).ok()).map_or(0, Quantity::value)
}

impl Csi {
    /// Whether the node has a part in a volume's growth, so that the claim must be looked at from time to time.
    pub async fn grows(&self, driver: &str) -> bool {
        match self.driver(driver) {
            Ok(driver) => driver.can(Can::ExpandVolume).await.unwrap_or(false),
            Err(_) => false,
        }
    }

    /// Lets a published volume grow to its PersistentVolume's size, if its claim waits for that.
    pub async fn expand(
        &self,
        pod: &Pod,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), String> {
        let status = claim.status.allocated_resource_statuses.get(STORAGE).map_or("", String::as_str);
        let pending =
            claim.status.conditions.iter().any(|of| of.r#type == "FileSystemResizePending" && of.status == "True");
        let wants = matches!(status, "NodeResizePending" | "NodeResizeInProgress") || (status.is_empty() && pending);
        if size(&claim.status.capacity) >= size(&volume.spec.capacity) || !wants {
            return Ok(());
        }
        let source = Source::Persistent { volume, readonly: false };
        let wanted = Wanted::of(pod, &source)?;
        let driver = self.driver(&wanted.driver)?;
        if !driver.can(Can::ExpandVolume).await? {
            return Err(format!("NodeExpand is not supported by the CSI driver {}", wanted.driver));
        }
        let turn = self.volume(&wanted.driver, &wanted.handle);
        let _turn = turn.lock().await;
        let of = volume.spec.persistent_volume_source.csi.as_ref().and_then(|of| of.node_expand_secret_ref.clone());
        let of = of.map(|of| (of.namespace, of.name));
        let stages = driver.can(Can::StageUnstageVolume).await?;
        let request = NodeExpandVolumeRequest {
            volume_id: wanted.handle.clone(),
            volume_path: wanted.target(&self.root, &pod.metadata.uid).to_string_lossy().into_owned(),
            capacity_range: Some(CapacityRange { required_bytes: size(&volume.spec.capacity), limit_bytes: 0 }),
            staging_target_path: match stages {
                true => wanted.staging(&self.root).to_string_lossy().into_owned(),
                false => String::new(),
            },
            volume_capability: Some(wanted.capability(&driver, None).await?),
            secrets: secret(&self.recall, pod, of.as_ref(), "NodeExpandSecretRef").await?.into_iter().collect(),
        };
        let name = &volume.metadata.name;
        let outcome = call(TIMEOUT, driver.node.clone().node_expand_volume(request)).await;
        let conditions = |failed: Option<&Status>| -> Value {
            let kept = claim.status.conditions.iter().filter(|of| !RESIZING.contains(&&*of.r#type));
            let mut all: Vec<Value> = kept
                .map(|of| json!({"type": of.r#type, "status": of.status, "reason": of.reason, "message": of.message}))
                .collect();
            if let Some(status) = failed {
                let message = format!("failed to expand pvc with {}", told(status));
                all.push(json!({"type": "NodeResizeError", "status": "True", "message": message}));
            }
            json!(all)
        };
        let (status, failed) = match &outcome {
            Ok(_) => {
                let message =
                    format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\" {}", self.node_name);
                self.events.note(pod, "", false, "FileSystemResizeSuccessful", message.clone());
                self.events.note(claim, "", false, "FileSystemResizeSuccessful", message);
                let capacity = volume.spec.capacity.get(STORAGE).map(|size| size.0.clone());
                let told = json!({"capacity": {STORAGE: capacity}, "conditions": conditions(None),
                    "allocatedResourceStatuses": {STORAGE: null}});
                (told, None)
            }
            Err(status) => {
                let infeasible = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::NotFound);
                let state = if infeasible { "NodeResizeInfeasible" } else { "NodeResizeInProgress" };
                let told =
                    json!({"conditions": conditions(Some(status)), "allocatedResourceStatuses": {STORAGE: state}});
                let why = crate::plugins::told(status);
                (told, Some(format!("Expander.NodeExpand failed to expand the volume : {why}")))
            }
        };
        let patch = Patch::Merge(json!({"status": status}));
        let patched = self.recall.client.patch::<PersistentVolumeClaim>(&Key::of(claim), Some("status"), &patch).await;
        patched.map_err(|error| format!("mountVolume.NodeExpandVolume update pvc status failed: {error}"))?;
        failed.map_or(Ok(()), |error| {
            self.events.note(pod, "", true, "VolumeResizeFailed", error.clone());
            Err(error)
        })
    }

    /// How full the volumes of a pod are, by where they are published, as their drivers say.
    pub async fn stats(&self, uid: &str) -> Vec<(std::path::PathBuf, FsStats)> {
        let mut all = Vec::new();
        for kept in paths::published(&self.root, uid) {
            let Ok(driver) = self.driver(&kept.driver) else { continue };
            if !driver.can(Can::GetVolumeStats).await.unwrap_or(false) {
                continue;
            }
            let request = NodeGetVolumeStatsRequest {
                volume_id: kept.handle,
                volume_path: kept.path.to_string_lossy().into_owned(),
                ..NodeGetVolumeStatsRequest::default()
            };
            // Who asks does not wait for a driver that hangs.
            let limit = std::time::Duration::from_secs(10);
            let Ok(answer) = call(limit, driver.node.clone().node_get_volume_stats(request)).await else { continue };
            let mut stats = FsStats::default();
            let number = |number: i64| u64::try_from(number).unwrap_or(0);
            for usage in &answer.usage {
                match usage.unit() {
                    Unit::Bytes => {
                        stats.capacity_bytes = number(usage.total);
                        stats.available_bytes = number(usage.available);
                    }
                    Unit::Inodes => {
                        stats.inodes = number(usage.total);
                        stats.inodes_free = number(usage.available);
                    }
                    Unit::Unknown => {}
                }
            }
            all.push((kept.path, stats));
        }
        all
    }
}
