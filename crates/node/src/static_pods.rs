//! Pods that lie as files on the node and run without anybody's asking, and their mirrors in the API, which show them.
//!
//! [`read`] makes pods of files; [`mirrors`] decides what must happen in the API; [`keep`] does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use reconcile::DeleteOptions;
use schema::api::Message;
use schema::api::core::v1::{Pod, Toleration};
use schema::api::meta::v1::OwnerReference;
use schema::{Table, Value, defaults, json, proto, yaml};

use crate::kubelet::Kubelet;
use crate::objects::lock;
use crate::pod::{Desired, MIRROR, SOURCE};
use crate::refs::refs;
use crate::watch::Watch;

const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";
/// A file is not larger.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// What was not written to the API is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Copies write several files and several times; they are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// Namespace and name.
pub type Name = (String, String);

pub fn name_of(pod: &Pod) -> Name {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

/// FNV-1a of 128 bits, as hexadecimal digits.
fn fnv128(parts: &[&[u8]]) -> String {
    let bytes = parts.iter().flat_map(|part| part.iter());
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}

/// A file's pod, as this node runs it; why not.
pub fn parse(text: &[u8], path: &Path, node: &str, now_seconds: i64) -> Result<Pod, String> {
    let table = Table::builtin();
    let id = table.id(Pod::NAME).ok_or("no Pod")?;
    let parsed = yaml::parse(text).map_err(|error| error.to_string())?.value;
    let said = |name: &str| match &parsed {
        Value::Object(object) => object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    if (&*said("apiVersion"), &*said("kind")) != ("v1", "Pod") {
        return Err(format!("invalid pod: it is \"{}\" of \"{}\"", said("kind"), said("apiVersion")));
    }
    let decoded = json::typed(table, id, parsed).map_err(|error| error.to_string())?;
    let mut value = decoded.value;
    defaults::apply(table, id, &mut value);
    let mut raw = Vec::new();
    proto::encode(table, id, &value, &mut raw);
    let mut pod = Pod::decode(&raw).map_err(|error| error.to_string())?;
    if pod.metadata.name.is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    if pod.spec.containers.is_empty() {
        return Err("invalid pod: spec.containers: Required value".into());
    }
    if pod.spec.containers.iter().any(|container| container.name.is_empty() || container.image.is_empty()) {
        return Err("invalid pod: every container needs a name and an image".into());
    }
    if pod.metadata.uid.is_empty() {
        let place = format!("host:{node}file:{}", path.display());
        pod.metadata.uid = fnv128(&[&raw, place.as_bytes()]);
    }
    pod.metadata.name = format!("{}-{}", pod.metadata.name, node.to_lowercase());
    if pod.metadata.namespace.is_empty() {
        pod.metadata.namespace = "default".into();
    }
    pod.spec.node_name = node.to_owned();
    pod.spec.tolerations.push(Toleration {
        operator: "Exists".into(),
        effect: "NoExecute".into(),
        ..Toleration::default()
    });
    let seen = schema::time::format(now_seconds);
    let hash = pod.metadata.uid.clone();
    for (name, text) in [(HASH, hash), (SOURCE, "file".into()), (SEEN, seen)] {
        pod.metadata.annotations.insert(name.into(), text);
    }
    pod.status.phase = "Pending".into();
    match reference(&pod) {
        Some(what) => Err(format!("static pods may not reference {what}")),
        None => Ok(pod),
    }
}

/// What of the API a pod needs.
fn reference(pod: &Pod) -> Option<&'static str> {
    let named = refs(&Desired::new(Arc::new(pod.clone())));
    let sources = || pod.spec.volumes.iter().map(|volume| &volume.volume_source);
    let projected = || sources().filter_map(|source| source.projected.as_ref()).flat_map(|of| &of.sources);
    let rows = [
        (!pod.spec.service_account_name.is_empty(), "serviceaccounts"),
        (projected().any(|source| source.service_account_token.is_some()), "serviceaccounts"),
        (projected().any(|source| source.cluster_trust_bundle.is_some()), "clustertrustbundles"),
        (!named.secrets.is_empty(), "secrets"),
        (!named.config_maps.is_empty(), "configmaps"),
        (sources().any(|of| of.persistent_volume_claim.is_some() || of.ephemeral.is_some()), "persistentvolumeclaims"),
        (!pod.spec.resource_claims.is_empty(), "resourceclaims"),
    ];
    rows.into_iter().find(|(needs, _)| *needs).map(|(_, what)| what)
}

/// The pods of a directory, or of one file; what cannot be read does not keep the others from running.
pub fn read(path: &Path, node: &str, now_seconds: i64) -> (Vec<Pod>, Vec<String>) {
    let mut files: Vec<PathBuf> = match fs::metadata(path) {
        Ok(meta) if meta.is_file() => vec![path.to_owned()],
        _ => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
    };
    let hidden = |path: &PathBuf| path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    files.retain(|path| !hidden(path) && path.is_file());
    files.sort();
    let (mut pods, mut problems): (Vec<Pod>, Vec<String>) = (Vec::new(), Vec::new());
    for file in files {
        let pod = read_file(&file).map_err(|error| error.to_string());
        match pod.and_then(|text| parse(&text, &file, node, now_seconds)) {
            Ok(pod) if pods.iter().any(|other| name_of(other) == name_of(&pod)) => {
                problems.push(format!("{}: another file has a pod of this name", file.display()));
            }
            Ok(pod) => pods.push(pod),
            Err(why) => problems.push(format!("{}: {why}", file.display())),
        }
    }
    (pods, problems)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// What must happen to a mirror.
#[derive(Clone, Debug, PartialEq)]
pub enum Mirror {
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

/// A mirror that is missing is created; one that is deleted, of another pod or of none goes.
pub fn mirrors(pods: &BTreeMap<Name, Arc<Pod>>, known: &BTreeMap<Name, Arc<Pod>>) -> Vec<Mirror> {
    let hash = |pod: &Pod, name: &str| pod.metadata.annotations.get(name).cloned();
    let stale = |name: &Name, mirror: &Pod| {
        let of = pods.get(name);
        mirror.metadata.deletion_timestamp.is_some() || of.is_none_or(|pod| hash(pod, HASH) != hash(mirror, MIRROR))
    };
    let gone =
        known.iter().filter(|(name, mirror)| stale(name, mirror)).map(|(_, mirror)| Mirror::Delete(mirror.clone()));
    let new = pods.iter().filter(|(name, _)| !known.contains_key(*name)).map(|(_, pod)| Mirror::Create(pod.clone()));
    gone.chain(new).collect()
}

async fn carry_out(kubelet: &Kubelet, mirror: Mirror) -> Result<(), String> {
    let client = &kubelet.shared.client;
    match mirror {
        Mirror::Delete(mirror) => {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            match client.delete(&*mirror, &options).await {
                Err(error) if !error.is_stale() && !error.is_not_found() => Err(error.to_string()),
                _ => Ok(()),
            }
        }
        Mirror::Create(pod) => {
            let node = kubelet.node().ok_or("the node is not registered yet")?;
            let mut mirror = (*pod).clone();
            mirror.metadata.uid.clear();
            let hash = pod.metadata.annotations.get(HASH).cloned().unwrap_or_default();
            mirror.metadata.annotations.insert(MIRROR.into(), hash);
            mirror.metadata.owner_references =
                vec![OwnerReference { controller: Some(true), ..reconcile::owner(&*node) }];
            match client.create(&mirror).await {
                Err(error) if error.code() != 409 => Err(error.to_string()),
                _ => Ok(()),
            }
        }
    }
}

/// Follows the files, and keeps the mirrors in the API; never ends.
pub async fn keep(kubelet: &Kubelet) {
    let config = &kubelet.shared.config;
    let path = &config.static_pods;
    let watch = if path.as_os_str().is_empty() {
        None
    } else {
        let dir = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        fs::create_dir_all(dir)
            .and_then(|()| Watch::new([dir]))
            .inspect_err(|error| tracing::error!(path = %path.display(), %error, "static pods are not followed"))
            .ok()
    };
    let changed = async || match &watch {
        Some(watch) => watch.changed().await,
        // Nobody has any.
        None => std::future::pending().await,
    };
    let mut failed = false;
    loop {
        tokio::select! {
            () = changed() => {
                tokio::time::sleep(GATHER).await;
                kubelet.static_files_changed();
            }
            () = kubelet.mirrors_changed.notified() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
        let todo = match kubelet.mirrors_known() {
            true => mirrors(&lock(&kubelet.statics), &lock(&kubelet.mirrors)),
            false => Vec::new(),
        };
        failed = false;
        for mirror in todo {
            if let Err(error) = carry_out(kubelet, mirror).await {
                tracing::debug!(%error, "the mirror of a static pod was not written");
                failed = true;
            }
        }
    }
}

/// Whether the API's pod shows a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.contains_key(MIRROR)
}
