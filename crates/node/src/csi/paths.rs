//! Where volumes of CSI drivers stand, and what is noted beside them: upstream's layout, which drivers rely upon.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::store;

const DATA: &str = "vol_data.json";

/// What `vol_data.json` says of a volume, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub driver: String,
    pub handle: String,
    /// The PersistentVolume's name, or that of the pod's inline volume.
    pub spec: String,
    pub ephemeral: bool,
    pub block: bool,
    /// Of a pod's volume: where it is published; of a node's: where it is staged.
    pub path: PathBuf,
    /// The directory of the note.
    pub dir: PathBuf,
}

pub fn hash(parts: &[&str]) -> String {
    format!("{:x}", Sha256::digest(parts.concat()))
}

fn plugin(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi")
}

/// Where a file system is staged for all pods.
pub fn global(root: &Path, driver: &str, handle: &str) -> PathBuf {
    plugin(root).join(driver).join(hash(&[handle])).join("globalmount")
}

/// Of block volumes: `kind` is `staging` or `publish`, or the volume's own directory.
fn devices(root: &Path) -> PathBuf {
    plugin(root).join("volumeDevices")
}

pub fn block_staging(root: &Path, spec: &str) -> PathBuf {
    devices(root).join("staging").join(spec)
}

pub fn block_publish(root: &Path, spec: &str, uid: &str) -> PathBuf {
    devices(root).join("publish").join(spec).join(uid)
}

pub fn block_data(root: &Path, spec: &str) -> PathBuf {
    devices(root).join(spec).join("data")
}

pub fn pod_volumes(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid).join("volumes/kubernetes.io~csi")
}

/// Links to the devices of a pod.
pub fn pod_devices(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid).join("volumeDevices/kubernetes.io~csi")
}

/// A name that may stand in a path: no volume reaches out of its directory.
pub fn checked(name: &str) -> Result<(), String> {
    match name.is_empty() || name == "." || name == ".." || name.contains('/') {
        true => Err(format!("kubernetes.io/csi: {name:?} is no name of a volume or driver")),
        false => Ok(()),
    }
}

pub fn save(dir: &Path, fields: &[(&str, &str)]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let fields: serde_json::Map<String, Value> =
        fields.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    let path = dir.join(DATA);
    store::write_private(&path, Value::Object(fields).to_string().as_bytes());
    fs::metadata(path).map(drop)
}

fn read(dir: &Path, path: PathBuf, block: bool) -> Option<Kept> {
    let raw = fs::read(dir.join(DATA)).ok()?;
    let data: Value = serde_json::from_slice(&raw).ok()?;
    let field = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let kept = Kept {
        driver: field("driverName"),
        handle: field("volumeHandle"),
        spec: field("specVolID"),
        ephemeral: field("volumeLifecycleMode") == "Ephemeral",
        block,
        path,
        dir: dir.to_owned(),
    };
    (!kept.driver.is_empty() && !kept.handle.is_empty()).then_some(kept)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Volumes that are, or may be, published for a pod.
pub fn published(root: &Path, uid: &str) -> Vec<Kept> {
    let files = entries(&pod_volumes(root, uid)).filter_map(|dir| read(&dir, dir.join("mount"), false));
    let blocks = entries(&pod_devices(root, uid)).filter_map(|link| {
        let spec = name(&link);
        let kept = read(&block_data(root, &spec), block_publish(root, &spec, uid), true)?;
        Some(Kept { spec, dir: link, ..kept })
    });
    files.chain(blocks).collect()
}

/// Volumes that are, or may be, staged on this node.
pub fn staged(root: &Path) -> Vec<Kept> {
    let own = |dir: &PathBuf| !["volumeDevices", "pv"].contains(&&*name(dir));
    let drivers = entries(&plugin(root)).filter(own);
    let files = drivers.flat_map(|driver| entries(&driver));
    let files = files.filter_map(|dir| read(&dir, dir.join("globalmount"), false));
    let specs = entries(&devices(root)).map(|dir| name(&dir)).filter(|spec| spec != "staging" && spec != "publish");
    let blocks = specs.filter_map(|spec| read(&block_data(root, &spec), block_staging(root, &spec), true));
    files.chain(blocks).collect()
}

/// Whether a pod of this node has a volume.
pub fn is_used(root: &Path, staged: &Kept) -> bool {
    entries(&root.join("pods")).any(|pod| {
        let all = published(root, &name(&pod));
        all.iter().any(|of| !of.ephemeral && of.driver == staged.driver && of.handle == staged.handle)
    })
}
