//! A pod's volumes on this machine, under `<root>/pods/<uid>/volumes/<plugin>/<name>` as the kubelet lays them out.
//!
//! [`Volumes::mount`] makes all of a pod's volumes as they should be now, and may be called again whenever something
//! that they show has changed; [`Volumes::unmount`] takes all of them away, also after a crash.

mod anchors;
mod bound;
mod certificates;
mod claim;
mod commands;
mod disk;
pub mod payload;
pub mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fs, io};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use schema::api::Message;
use schema::api::authentication::v1::TokenRequest;
use schema::api::core::v1::{EmptyDirVolumeSource, Pod, ServiceAccount, Volume};
use schema::quantity::Quantity;

pub use bound::is_device;
use certificates::Certificates;
#[cfg(test)]
pub(crate) use disk::host_path;
pub use disk::{Owner, bind_subpath, is_mounted, own, read_beneath, unmount_below};
use payload::{TOKEN_SECONDS, Tokens};
use serde_json::json;
use tokio::sync::watch;

use crate::config::{Config, Ports};
use crate::csi::Csi;
use crate::env::Sources;
use crate::events::Recorder;
use crate::memory::SECOND;
use crate::objects::{Wake, lock};
use crate::pod::Desired;
use crate::ports::{self, Account, ImageMount, Images, Nanos};
use crate::recall::Recall;
use crate::resources;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("hostPath type check failed: {path} is not a {expected}, it's a {is}")]
    HostPathType { path: String, expected: &'static str, is: &'static str },
    #[error("hostPath type check failed, {path} is not a {expected}, unable to determine its type: {source}")]
    NoHostPath { path: String, expected: &'static str, source: io::Error },
    #[error("failed to fetch token: {0}")]
    Token(#[source] reconcile::io::Error),
    #[error("while {what}: {source}")]
    Certificate { what: &'static str, source: Box<reconcile::io::Error> },
    #[error("while generating keypair: {0}")]
    Key(#[source] ports::Error),
    #[error("credential bundle is not issued yet")]
    NotIssued,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Claim(String),
    #[error("no volume plugin matched: {kind} volumes are not supported by this node")]
    Unsupported { kind: &'static str },
    #[error("failed to mount the image: {0}")]
    Image(#[from] ports::Error),
    #[error("MountVolume.SetUp failed for volume \"{name}\" : {source}")]
    Volume { name: String, source: Box<Error> },
}

/// A volume that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    pub host_path: PathBuf,
    /// Whatever the containers ask for.
    pub readonly: bool,
    /// Of block volumes: a device.
    pub block: bool,
    /// Of an image volume that the runtime mounts itself, in place of a path.
    pub image: Option<ImageMount>,
}

pub type Set = BTreeMap<String, Mounted>;

/// What stands, and when it must be looked at again (a token's rotation).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub set: Set,
    pub refresh_at: Option<Nanos>,
}

/// How soon a pod shows changed ClusterTrustBundles.
const ANCHORS_EVERY: Nanos = 60 * SECOND;

#[derive(Clone)]
struct Token {
    token: String,
    /// At 80 % of its life.
    renew_at: Nanos,
    expires_seconds: i64,
}

/// What volumes are made with at one time.
pub struct Round<'a> {
    pub sources: &'a Sources<'a>,
    pub images: &'a dyn Images,
    /// The images of volumes, by volume.
    pub ids: &'a BTreeMap<String, String>,
    pub now: Nanos,
    /// Learns of answers that are not waited for.
    pub wake: &'a Arc<Wake>,
    /// What stands already.
    pub known: Set,
    /// The pod as it is by now: one that is deleted waits for nobody.
    pub gone: watch::Receiver<Arc<Pod>>,
}

pub struct Volumes {
    root: PathBuf,
    recall: Recall,
    tokens: Mutex<BTreeMap<(String, String, i64), Token>>,
    certificates: Certificates,
    csi: Arc<Csi>,
}

pub(crate) fn plugin(volume: &Volume) -> Result<&'static str, Error> {
    let source = &volume.volume_source;
    let all = [
        (source.empty_dir.is_some(), "empty-dir"),
        (source.config_map.is_some(), "configmap"),
        (source.secret.is_some(), "secret"),
        (source.projected.is_some(), "projected"),
        (source.downward_api.is_some(), "downward-api"),
        (source.host_path.is_some(), "host-path"),
        (source.persistent_volume_claim.is_some() || source.ephemeral.is_some(), "claim"),
        (source.csi.is_some(), "csi"),
        (source.nfs.is_some(), "nfs"),
        (source.image.is_some(), "image"),
    ];
    if let Some((_, name)) = all.iter().find(|(is, _)| *is) {
        return Ok(name);
    }
    let unsupported = [
        (source.iscsi.is_some(), "iscsi"),
        (source.fc.is_some(), "fc"),
        (source.rbd.is_some(), "rbd"),
        (source.cephfs.is_some(), "cephfs"),
        (source.git_repo.is_some(), "gitRepo"),
        (source.flex_volume.is_some(), "flexVolume"),
    ];
    if let Some((_, kind)) = unsupported.iter().find(|(is, _)| *is) {
        return Err(Error::Unsupported { kind });
    }
    // A source that says nothing is an emptyDir.
    Ok("empty-dir")
}

impl Volumes {
    pub fn new(config: &Config, recall: Recall, ports: Ports, events: Recorder, csi: Arc<Csi>) -> Self {
        let (root, name) = (config.root_dir.clone(), config.node_name.clone());
        let certificates = Certificates::new(recall.client.clone(), name, ports, events, root.clone());
        Self { root, recall, tokens: Mutex::default(), certificates, csi }
    }

    pub fn dir(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.root.join("pods").join(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    pub async fn mount(&self, round: &Round<'_>) -> Result<Done, Error> {
        let &Round { sources, images, ids, now, wake, .. } = round;
        let desired = sources.desired;
        let uid = desired.uid().to_owned();
        let security = desired.pod.spec.security_context.as_ref();
        let group = security.and_then(|security| security.fs_group).and_then(|group| u32::try_from(group).ok());
        let on_root_mismatch =
            security.and_then(|security| security.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let owner = group.map(|group| Owner { group, on_root_mismatch });
        let mut done = Done::default();
        let tokens = self.tokens(desired, now, &mut done.refresh_at).await?;
        let (certificates, look) = self.certificates.bundles(&desired.pod, wake).await?;
        let bundles = anchors::bundles(&self.recall, &desired.pod).await?;
        let anchors_at = bundles.is_some().then_some(now + ANCHORS_EVERY);
        done.refresh_at = [done.refresh_at, look, anchors_at].into_iter().flatten().min();
        let fetched = payload::Fetched { tokens, certificates, bundles: bundles.unwrap_or_default() };
        let mut jobs: Vec<(String, disk::Job)> = Vec::new();
        for volume in &desired.pod.spec.volumes {
            let named = |source: Error| Error::Volume { name: volume.name.clone(), source: Box::new(source) };
            let plugin = plugin(volume).map_err(named)?;
            let source = &volume.volume_source;
            let dir = self.dir(&uid, plugin, &volume.name);
            let job = match plugin {
                "host-path" => {
                    let of = source.host_path.clone().unwrap_or_default();
                    disk::Job::HostPath { path: of.path.into(), kind: of.r#type.unwrap_or_default() }
                }
                "claim" | "csi" | "nfs" => {
                    self.bound(round, volume, owner, &mut done.refresh_at).await.map_err(named)?
                }
                "image" => {
                    let id = ids.get(&volume.name).cloned().unwrap_or_default();
                    let here = images.mount(&id, &uid, &dir).await.map_err(|error| named(error.into()))?;
                    let reference = source.image.as_ref().map(|of| of.reference.clone()).unwrap_or_default();
                    let image = (!here).then_some(ImageMount { id, reference, sub_path: String::new() });
                    let host_path = if here { dir } else { PathBuf::new() };
                    disk::Job::Stands(Mounted { host_path, readonly: true, image, ..Mounted::default() })
                }
                "empty-dir" => {
                    let of = source.empty_dir.clone().unwrap_or_default();
                    let memory = memory(sources, &of);
                    // As the kernel makes a tmpfs: who may write in it may not remove what is another's.
                    let usual = if matches!(memory, Some(disk::Memory::Tmpfs { .. })) { 0o1777 } else { 0o777 };
                    disk::Job::EmptyDir {
                        dir,
                        memory,
                        mode: of.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(usual),
                        group,
                    }
                }
                _ => {
                    let payload = payload::payload(sources, &fetched, volume)
                        .map_err(|error| named(error.into()))?
                        .unwrap_or_default();
                    let memory = plugin != "configmap";
                    disk::Job::Files { dir, payload, memory, group, stamp: stamp(now) }
                }
            };
            jobs.push((volume.name.clone(), job));
        }
        let made = tokio::task::spawn_blocking(move || -> Result<Set, Error> {
            let mut set = Set::new();
            for (name, job) in jobs {
                let mounted =
                    job.run().map_err(|source| Error::Volume { name: name.clone(), source: Box::new(source) })?;
                set.insert(name, mounted);
            }
            Ok(set)
        });
        done.set = made.await.unwrap_or_else(|_| Ok(Set::new()))?;
        Ok(done)
    }

    /// Tokens for the projected volumes of a pod; those that are old enough are asked for again.
    async fn tokens(&self, desired: &Desired, now: Nanos, refresh_at: &mut Option<Nanos>) -> Result<Tokens, Error> {
        let pod = &desired.pod;
        let mut tokens = Tokens::new();
        let projected = pod.spec.volumes.iter().filter_map(|volume| volume.volume_source.projected.as_ref());
        let sources = projected.flat_map(|of| &of.sources);
        for of in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let seconds = of.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let Token { token, renew_at, .. } = self.token(desired, &of.audience, seconds, now).await?;
            *refresh_at = Some(refresh_at.map_or(renew_at, |sooner| sooner.min(renew_at)));
            tokens.insert((of.audience.clone(), seconds), token);
        }
        Ok(tokens)
    }

    /// A token of the pod's service account: the known one, if it is young enough.
    async fn token(&self, desired: &Desired, audience: &str, seconds: i64, now: Nanos) -> Result<Token, Error> {
        let key = (desired.uid().to_owned(), audience.to_owned(), seconds);
        let known = lock(&self.tokens).get(&key).cloned();
        if let Some(fresh) = known.as_ref().filter(|known| known.renew_at > now) {
            return Ok(fresh.clone());
        }
        // After a boot without a server the last one is better than none, whatever its age: it is renewed soon.
        if known.is_none()
            && self.recall.is_offline()
            && let Ok(token) = fs::read_to_string(self.token_file(&key))
        {
            return Ok(Token { token, renew_at: now + 10 * SECOND, expires_seconds: now.div_euclid(SECOND) });
        }
        match (self.request_token(desired, audience, seconds, now).await, known) {
            (Ok(token), _) => Ok(token),
            // An old token serves for its last fifth.
            (Err(error), Some(known)) => {
                tracing::warn!(pod = %desired.label(), %error, "a service account token was not renewed");
                Ok(Token { renew_at: now + 60 * SECOND, ..known })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// A pod's service account, with tokens for these audiences as far as they can be had.
    pub async fn account(&self, desired: &Desired, audiences: Vec<String>, now: Nanos) -> Account {
        let (namespace, name) = (&desired.pod.metadata.namespace, &desired.pod.spec.service_account_name);
        let meta = match self.recall.client.get::<ServiceAccount>(namespace, name).await {
            Ok(account) => account.metadata,
            Err(error) => {
                tracing::warn!(pod = %desired.label(), %error, "failed to get service account");
                return Account::default();
            }
        };
        let mut tokens = BTreeMap::new();
        for audience in audiences {
            match self.token(desired, &audience, TOKEN_SECONDS, now).await {
                Ok(token) => drop(tokens.insert(audience, token.token)),
                Err(error) => tracing::warn!(pod = %desired.label(), %error, "failed to get service account token"),
            }
        }
        let annotations = meta.annotations.into_iter().collect();
        Account { uid: meta.uid, namespace: meta.namespace, name: meta.name, annotations, tokens }
    }

    /// Goes with the pod's directory.
    fn token_file(&self, (uid, audience, seconds): &(String, String, i64)) -> PathBuf {
        let audience: String = audience.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.root.join("pods").join(uid).join("tokens").join(format!("{audience}-{seconds}"))
    }

    async fn request_token(&self, desired: &Desired, audience: &str, seconds: i64, now: Nanos) -> Result<Token, Error> {
        let pod = &desired.pod;
        let meta = &pod.metadata;
        let mut spec = json!({
            "expirationSeconds": seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta.name, "uid": meta.uid},
        });
        spec["audiences"] = if audience.is_empty() { json!([]) } else { json!([audience]) };
        let body =
            json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec});
        let account = if pod.spec.service_account_name.is_empty() { "default" } else { &pod.spec.service_account_name };
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", meta.namespace);
        let mut request = Request::new(Bytes::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| Error::Claim(format!("no such service account: {account}")))?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let raw = self.recall.client.request_raw(request).await.map_err(Error::Token)?;
        let unknown = reconcile::io::Error::Decode { path: path.clone(), expected: "TokenRequest" };
        let answer = TokenRequest::decode(&raw).map_err(|_| Error::Token(unknown))?;
        let expires = answer.status.expiration_timestamp.seconds * SECOND;
        // Upstream renews at 80 % of a token's life, and after a day at the latest.
        let renew_at = (now + (expires - now) / 5 * 4).min(now + 24 * 3600 * SECOND).max(now + SECOND);
        let token = answer.status.token;
        let key = (meta.uid.clone(), audience.to_owned(), seconds);
        self.recall.behind.put(self.token_file(&key), Some(token.clone().into_bytes()));
        let token = Token { token, renew_at, expires_seconds: answer.status.expiration_timestamp.seconds };
        lock(&self.tokens).insert(key, token.clone());
        Ok(token)
    }

    /// Undoes every mount below the pod's directory, and removes the directory.
    pub async fn unmount(&self, uid: &str) -> Result<(), Error> {
        lock(&self.tokens).retain(|(of, _, _), _| of != uid);
        self.certificates.forget(uid);
        // Drivers take away what they brought.
        self.csi.unpublish(uid).await.map_err(Error::Refused)?;
        let dir = self.root.join("pods").join(uid);
        self.recall.behind.forget(&dir);
        let made = tokio::task::spawn_blocking(move || {
            unmount_below(&dir)?;
            match fs::remove_dir_all(&dir) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(Error::Io { what: "remove", path: dir, source }),
            }
        });
        made.await.unwrap_or(Ok(()))
    }

    /// Pods that have a directory here.
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("pods"));
        entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// What an emptyDir stands on if not on the disk. In memory it takes no more than its own limit, the pod's and the node's.
fn memory(sources: &Sources<'_>, of: &EmptyDirVolumeSource) -> Option<disk::Memory> {
    let pod = &sources.desired.pod;
    if let Some(size) = of.medium.strip_prefix("HugePages") {
        let asked =
            || resources::limits(pod).into_keys().find_map(|name| Some(name.strip_prefix("hugepages-")?.to_owned()));
        let size = size.strip_prefix('-').map(str::to_owned).or_else(asked).unwrap_or_else(|| "2Mi".into());
        return Some(disk::Memory::HugePages { size });
    }
    let bytes = |quantity: &Quantity| u64::try_from(quantity.value()).unwrap_or(0);
    let limits = [
        of.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()).as_ref().map_or(0, bytes),
        resources::pod_cgroup(pod, &Default::default()).memory_limit_bytes,
        sources.allocatable.get("memory").map_or(0, bytes),
    ];
    let limit_bytes = limits.into_iter().filter(|limit| *limit > 0).min().unwrap_or(0);
    (of.medium == "Memory").then_some(disk::Memory::Tmpfs { limit_bytes })
}

/// `2026_11_22_19_00_00.123456789`, as upstream names versions.
fn stamp(now: Nanos) -> String {
    let text = schema::time::format(now.div_euclid(SECOND));
    let text = text.trim_end_matches('Z').replace(['-', ':', 'T'], "_");
    format!("{text}.{:09}", now.rem_euclid(SECOND))
}

pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}
