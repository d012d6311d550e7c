//! A volume's way to a pod and back: attached, staged, published; unpublished, and unstaged once no pod has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rpc::csi::node_service_capability::rpc::Type as Can;
use rpc::csi::volume_capability::access_mode::Mode;
use rpc::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use rpc::csi::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    VolumeCapability,
};
use schema::api::core::v1::{CSIVolumeSource, PersistentVolume, Pod, Secret};
use schema::api::storage::v1::{CSIDriver, VolumeAttachment};

use super::paths::{self, Kept};
use super::{Csi, Driver, TIMEOUT, said, unique_name};
use crate::plugins::call;
use crate::recall::Recall;
use crate::volumes::{Mounted, Owner, is_device, is_mounted, own};

/// So long does a pod wait in one go for a volume to be attached.
const ATTACHED: Duration = Duration::from_secs(30);
const REPORTED: Duration = Duration::from_secs(10);
const IDLE_RETRY: Duration = Duration::from_secs(1);
const IDLE_RETRY_MAX: Duration = Duration::from_secs(122);

/// What a pod asks for.
pub enum Source<'a> {
    Inline { name: &'a str, of: &'a CSIVolumeSource },
    Persistent { volume: &'a PersistentVolume, readonly: bool },
}

/// Its parts, wherever they come from.
pub(super) struct Wanted {
    pub(super) driver: String,
    pub(super) handle: String,
    spec: String,
    fs_type: String,
    attributes: BTreeMap<String, String>,
    readonly: bool,
    access_modes: Vec<String>,
    mount_options: Vec<String>,
    stage_secret: Option<(String, String)>,
    publish_secret: Option<(String, String)>,
    pub(super) block: bool,
    ephemeral: bool,
}

impl Wanted {
    pub(super) fn of(pod: &Pod, source: &Source<'_>) -> Result<Self, String> {
        let wanted = match source {
            Source::Inline { name, of } => Self {
                driver: of.driver.clone(),
                handle: format!("csi-{}", paths::hash(&[&pod.metadata.uid, name])),
                spec: (*name).to_owned(),
                fs_type: of.fs_type.clone().unwrap_or_default(),
                attributes: of.volume_attributes.clone(),
                readonly: of.read_only == Some(true),
                access_modes: vec!["ReadWriteOnce".into()],
                mount_options: Vec::new(),
                stage_secret: None,
                publish_secret: of
                    .node_publish_secret_ref
                    .as_ref()
                    .map(|of| (pod.metadata.namespace.clone(), of.name.clone())),
                block: false,
                ephemeral: true,
            },
            Source::Persistent { volume, readonly } => {
                let of = volume.spec.persistent_volume_source.csi.clone().unwrap_or_default();
                let secret = |of: Option<schema::api::core::v1::SecretReference>| of.map(|of| (of.namespace, of.name));
                Self {
                    driver: of.driver,
                    handle: of.volume_handle,
                    spec: volume.metadata.name.clone(),
                    fs_type: of.fs_type,
                    attributes: of.volume_attributes,
                    readonly: of.read_only || *readonly,
                    access_modes: volume.spec.access_modes.clone(),
                    mount_options: volume.spec.mount_options.clone(),
                    stage_secret: secret(of.node_stage_secret_ref),
                    publish_secret: secret(of.node_publish_secret_ref),
                    block: volume.spec.volume_mode.as_deref() == Some("Block"),
                    ephemeral: false,
                }
            }
        };
        paths::checked(&wanted.driver)?;
        paths::checked(&wanted.spec)?;
        Ok(wanted)
    }

    fn lifecycle(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    /// How the volume is to be used, as the first of its access modes says.
    pub(super) async fn capability(&self, driver: &Driver, group: Option<u32>) -> Result<VolumeCapability, String> {
        let single = driver.can(Can::SingleNodeMultiWriter).await?;
        let mode = match (self.access_modes.first().map_or("ReadWriteOnce", String::as_str), single) {
            ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            _ => Mode::Unknown,
        };
        let access_type = match self.block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
            }),
        };
        let access_mode = Some(AccessMode { mode: mode as i32 });
        Ok(VolumeCapability { access_mode, access_type: Some(access_type) })
    }

    pub(super) fn target(&self, root: &Path, uid: &str) -> PathBuf {
        match self.block {
            true => paths::block_publish(root, &self.spec, uid),
            false => paths::pod_volumes(root, uid).join(&self.spec).join("mount"),
        }
    }

    pub(super) fn staging(&self, root: &Path) -> PathBuf {
        match self.block {
            true => paths::block_staging(root, &self.spec),
            false => paths::global(root, &self.driver, &self.handle),
        }
    }
}

pub(super) async fn secret(
    recall: &Recall,
    pod: &Pod,
    of: Option<&(String, String)>,
    what: &str,
) -> Result<BTreeMap<String, String>, String> {
    let Some((namespace, name)) = of else { return Ok(BTreeMap::new()) };
    let found = recall.get::<Secret>(pod, namespace, name).await;
    let found = found.map_err(|error| format!("fetching {what} {namespace}/{name} failed: {error}"))?;
    let text = |(key, value): (String, Vec<u8>)| (key, String::from_utf8_lossy(&value).into_owned());
    Ok(found.data.into_iter().map(text).collect())
}

/// A pod's own about a volume.
pub struct For<'a> {
    pub pod: &'a Pod,
    pub owner: Option<Owner>,
    /// Tokens of the pod's service account, by audience, as JSON.
    pub tokens: String,
}

impl Csi {
    /// The driver's own object, if there is one.
    pub async fn object(&self, pod: &Pod, source: &Source<'_>) -> Result<Option<CSIDriver>, String> {
        let name = match source {
            Source::Inline { of, .. } => of.driver.clone(),
            Source::Persistent { volume, .. } => {
                volume.spec.persistent_volume_source.csi.as_ref().map(|of| of.driver.clone()).unwrap_or_default()
            }
        };
        match self.recall.get::<CSIDriver>(pod, "", &name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(format!("kubernetes.io/csi: failed to get CSIDriver {name}: {error}")),
        }
    }

    /// Brings a volume to its pod. What stands stays as it is, unless its driver wants to be asked again.
    pub async fn publish(
        &self,
        of: &For<'_>,
        source: &Source<'_>,
        object: Option<&CSIDriver>,
    ) -> Result<Mounted, String> {
        let wanted = Wanted::of(of.pod, source)?;
        let uid = &of.pod.metadata.uid;
        let spec = object.map(|object| &object.spec);
        let modes = spec.map_or(&[][..], |spec| &spec.volume_lifecycle_modes);
        let mode = wanted.lifecycle();
        match object {
            None if wanted.ephemeral => {
                let driver = &wanted.driver;
                return Err(format!(
                    "kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode {mode:?} not supported by driver {driver} (no CSIDriver object)"
                ));
            }
            Some(_) if (!modes.is_empty() || wanted.ephemeral) && modes.iter().all(|of| of != mode) => {
                let driver = &wanted.driver;
                return Err(format!(
                    "kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode {mode:?} not supported by driver {driver} (only supports {modes:?})"
                ));
            }
            _ => {}
        }
        let target = wanted.target(&self.root, uid);
        let (readonly, block) = (wanted.readonly, wanted.block);
        let mounted = Mounted { host_path: target.clone(), readonly, block, ..Mounted::default() };
        let stands = if wanted.block { is_device(&target) } else { is_mounted(&target) };
        if stands && spec.and_then(|spec| spec.requires_republish) != Some(true) {
            return Ok(mounted);
        }
        let driver = self.driver(&wanted.driver);
        let driver =
            driver.map_err(|why| format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {why}"))?;
        let volume = self.volume(&wanted.driver, &wanted.handle);
        let turn = volume.lock().await;
        self.note(&wanted, uid)
            .map_err(|error| format!("kubernetes.io/csi: failed to save volume info data: {error}"))?;
        // Others of its pods do not wait with this one.
        drop(turn);
        let context = match spec.and_then(|spec| spec.attach_required) {
            _ if wanted.ephemeral => BTreeMap::new(),
            Some(false) => BTreeMap::new(),
            _ => self.attached(of.pod, &wanted).await?,
        };
        let _turn = volume.lock().await;
        let grouped = driver.can(Can::VolumeMountGroup).await?;
        let group = of.owner.as_ref().map(|owner| owner.group);
        let capability = wanted.capability(&driver, group.filter(|_| grouped)).await?;
        let stages = !wanted.ephemeral && driver.can(Can::StageUnstageVolume).await?;
        if stages && !stands {
            self.stage(&driver, of.pod, &wanted, &capability, &context).await?;
        }
        let mut secrets = secret(&self.recall, of.pod, wanted.publish_secret.as_ref(), "NodePublishSecretRef").await?;
        let mut attributes = wanted.attributes.clone();
        if spec.and_then(|spec| spec.pod_info_on_mount) == Some(true) {
            attributes.extend(pod_info(of.pod, wanted.ephemeral));
        }
        if !of.tokens.is_empty() {
            let in_secrets = spec.and_then(|spec| spec.service_account_token_in_secrets) == Some(true);
            let into = if in_secrets { &mut secrets } else { &mut attributes };
            into.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), of.tokens.clone());
        }
        let request = NodePublishVolumeRequest {
            volume_id: wanted.handle.clone(),
            publish_context: context.into_iter().collect(),
            staging_target_path: if stages { text(&wanted.staging(&self.root)) } else { String::new() },
            target_path: text(&target),
            volume_capability: Some(capability),
            readonly: wanted.readonly,
            secrets: secrets.into_iter().collect(),
            volume_context: attributes.into_iter().collect(),
        };
        let answer = call(TIMEOUT, driver.node.clone().node_publish_volume(request)).await;
        answer.map_err(|status| crate::plugins::told(&status))?;
        let policy = spec.and_then(|spec| spec.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
        if let Some(owner) = of.owner.filter(|_| !grouped && wanted.takes_group(policy)) {
            let at = target.clone();
            let done = tokio::task::spawn_blocking(move || own(&at, &owner)).await;
            let failed = |error| format!("applyFSGroup failed for vol {}: {error}", wanted.handle);
            done.unwrap_or(Ok(())).map_err(failed)?;
        }
        if wanted.block && !is_device(&target) {
            return Err(format!("kubernetes.io/csi: the driver has published no device at {}", target.display()));
        }
        Ok(mounted)
    }

    /// Notes what is about to be, so that it is undone whatever happens.
    fn note(&self, wanted: &Wanted, uid: &str) -> std::io::Result<()> {
        let attachment = attachment_name(wanted, &self.node_name);
        let fields = [
            ("specVolID", &*wanted.spec),
            ("volumeHandle", &*wanted.handle),
            ("driverName", &*wanted.driver),
            ("nodeName", &*self.node_name),
            ("volumeLifecycleMode", wanted.lifecycle()),
            ("attachmentID", &*attachment),
        ];
        if wanted.block {
            let (target, devices) = (wanted.target(&self.root, uid), paths::pod_devices(&self.root, uid));
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::create_dir_all(&devices)?;
            let link = devices.join(&wanted.spec);
            if fs::symlink_metadata(&link).is_err() {
                std::os::unix::fs::symlink(&target, &link)?;
            }
            return paths::save(&paths::block_data(&self.root, &wanted.spec), &fields);
        }
        if !wanted.ephemeral {
            let global = wanted.staging(&self.root);
            fs::create_dir_all(&global)?;
            if let Some(parent) = global.parent() {
                paths::save(parent, &fields[1..3])?;
            }
        }
        paths::save(&paths::pod_volumes(&self.root, uid).join(&wanted.spec), &fields)
    }

    async fn stage(
        &self,
        driver: &Driver,
        pod: &Pod,
        wanted: &Wanted,
        capability: &VolumeCapability,
        context: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let secrets = secret(&self.recall, pod, wanted.stage_secret.as_ref(), "NodeStageSecretRef").await?;
        let staging = wanted.staging(&self.root);
        fs::create_dir_all(&staging)
            .map_err(|error| format!("kubernetes.io/csi: failed to create {}: {error}", staging.display()))?;
        let request = NodeStageVolumeRequest {
            volume_id: wanted.handle.clone(),
            publish_context: context.clone().into_iter().collect(),
            staging_target_path: text(&staging),
            volume_capability: Some(capability.clone()),
            secrets: secrets.into_iter().collect(),
            volume_context: wanted.attributes.clone().into_iter().collect(),
        };
        let answer = call(TIMEOUT, driver.node.clone().node_stage_volume(request)).await;
        answer.map(drop).map_err(|status| crate::plugins::told(&status))
    }

    /// Waits until the volume is attached; what the attacher says of it.
    async fn attached(&self, pod: &Pod, wanted: &Wanted) -> Result<BTreeMap<String, String>, String> {
        let unique = unique_name(&wanted.driver, &wanted.handle);
        self.in_use.send_if_modified(|all| all.insert(unique.clone()));
        // Who detaches must know of the use before it begins.
        let known = tokio::time::timeout(REPORTED, async {
            let _ = self.reported.subscribe().wait_for(|all| all.contains(&unique)).await;
        });
        known.await.map_err(|_| {
            "volume has not been added to the list of VolumesInUse in the node's volume status".to_owned()
        })?;
        let attached = tokio::time::timeout(ATTACHED, async {
            let _ = self.attached.subscribe().wait_for(|all| all.contains(&unique)).await;
        });
        if attached.await.is_err() {
            let (spec, node) = (&wanted.spec, &self.node_name);
            return Err(format!("volume not attached according to node status for volume {spec:?} on node {node}"));
        }
        let name = attachment_name(wanted, &self.node_name);
        let found = self.recall.get::<VolumeAttachment>(pod, "", &name).await;
        let found =
            found.map_err(|error| format!("kubernetes.io/csi: failed to get VolumeAttachment {name}: {error}"))?;
        match found.status.attached && found.metadata.deletion_timestamp.is_none() {
            true => Ok(found.status.attachment_metadata),
            false => Err(format!("kubernetes.io/csi: volume attachment {name} is not attached")),
        }
    }

    /// Takes all volumes of drivers away from a pod.
    pub async fn unpublish(&self, uid: &str) -> Result<(), String> {
        let all = paths::published(&self.root, uid);
        for kept in &all {
            let volume = self.volume(&kept.driver, &kept.handle);
            let _turn = volume.lock().await;
            let driver = self.driver(&kept.driver);
            let driver = driver
                .map_err(|why| format!("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: {why}"))?;
            let request = NodeUnpublishVolumeRequest { volume_id: kept.handle.clone(), target_path: text(&kept.path) };
            let answer = call(TIMEOUT, driver.node.clone().node_unpublish_volume(request)).await;
            answer.map_err(|status| said("Unmounter.TearDownAt failed", &status))?;
            forget(kept);
        }
        if !all.is_empty() {
            self.idle.notify_one();
        }
        Ok(())
    }

    /// Unstages what no pod has any more, for as long as it is polled.
    pub(super) async fn tidy(&self) {
        let mut retry = IDLE_RETRY;
        loop {
            let mut failed = false;
            for kept in paths::staged(&self.root) {
                if let Err(error) = self.unstage(&kept).await {
                    tracing::warn!(volume = kept.handle, driver = kept.driver, error, "a volume was not unstaged");
                    failed = true;
                }
            }
            let again = async {
                match failed {
                    true => tokio::time::sleep(retry).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.idle.notified() => retry = IDLE_RETRY,
                () = again => retry = (retry * 2).min(IDLE_RETRY_MAX),
            }
        }
    }

    async fn unstage(&self, kept: &Kept) -> Result<(), String> {
        let volume = self.volume(&kept.driver, &kept.handle);
        let _turn = volume.lock().await;
        if paths::is_used(&self.root, kept) {
            return Ok(());
        }
        let driver = self.driver(&kept.driver)?;
        if driver.can(Can::StageUnstageVolume).await? {
            let request =
                NodeUnstageVolumeRequest { volume_id: kept.handle.clone(), staging_target_path: text(&kept.path) };
            let answer = call(TIMEOUT, driver.node.clone().node_unstage_volume(request)).await;
            answer.map_err(|status| said("attacher.UnmountDevice failed", &status))?;
        }
        if is_mounted(&kept.path) {
            return Err(format!("{} is still mounted", kept.path.display()));
        }
        let _ = fs::remove_dir(&kept.path);
        if kept.block {
            let _ = fs::remove_dir_all(&kept.dir);
            // Its publishing directory is empty by now.
            let own = kept.dir.parent();
            let _ = own.and_then(|own| Some(fs::remove_dir(own.parent()?.join("publish").join(own.file_name()?))));
            let _ = own.map(fs::remove_dir);
        } else {
            let _ = fs::remove_file(kept.dir.join("vol_data.json"));
            let _ = fs::remove_dir(&kept.dir);
        }
        let unique = unique_name(&kept.driver, &kept.handle);
        self.in_use.send_if_modified(|all| all.remove(&unique));
        Ok(())
    }
}

impl Wanted {
    /// Whether the kubelet gives the volume to the pod's group.
    fn takes_group(&self, policy: &str) -> bool {
        if self.readonly || self.block {
            return false;
        }
        match policy {
            "None" => false,
            "File" => true,
            _ => {
                !self.fs_type.is_empty()
                    && self.access_modes.iter().any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod")
            }
        }
    }
}

/// A pod's volume is unpublished: what was noted goes.
fn forget(kept: &Kept) {
    if kept.block {
        let _ = fs::remove_file(&kept.dir);
        return;
    }
    // A driver removes what it made; an empty directory that it left is not in its way.
    let _ = fs::remove_dir(&kept.path);
    if !is_mounted(&kept.path) {
        let _ = fs::remove_file(kept.dir.join("vol_data.json"));
        let _ = fs::remove_dir(&kept.dir);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn attachment_name(wanted: &Wanted, node: &str) -> String {
    format!("csi-{}", paths::hash(&[&wanted.handle, &wanted.driver, node]))
}

fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let meta = &pod.metadata;
    [
        ("pod.name", meta.name.clone()),
        ("pod.namespace", meta.namespace.clone()),
        ("pod.uid", meta.uid.clone()),
        ("serviceAccount.name", pod.spec.service_account_name.clone()),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}
