//! Image documents: OCI and Docker manifests, indexes and configs, read leniently (nulls, missing lists) and checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::digest::Digest;
use super::error::{Error, Result};
use super::platform::Platform;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Manifests, indexes and configs are read into memory: larger ones are refused.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// overlayfs takes no more lower directories (500), and no tool makes more than 127.
const MAX_LAYERS: usize = 256;
const MAX_INDEX_ENTRIES: usize = 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
    }
}

/// A manifest of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
}

/// Either kind of document behind a name.
#[derive(Debug)]
pub enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    #[serde(default, deserialize_with = "null_default")]
    media_type: String,
    #[serde(default, deserialize_with = "null_default")]
    manifests: Option<Vec<Descriptor>>,
    config: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index; what it is follows from its own fields, as a `Content-Type` may lie.
    pub fn parse(what: &str, content_type: &str, bytes: &[u8]) -> Result<Document> {
        let probe: Probe = serde_json::from_slice(bytes).map_err(|e| Error::malformed(what, e))?;
        let content_type = content_type.split(';').next().unwrap_or("").trim();
        if probe.schema_version == 1
            || probe.fs_layers.is_some()
            || content_type.starts_with("application/vnd.docker.distribution.manifest.v1")
        {
            return Err(Error::Schema1(what.into()));
        }
        if !probe.media_type.is_empty()
            && !matches!(probe.media_type.as_str(), OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST)
        {
            return Err(Error::UnsupportedMediaType { what: what.into(), media_type: probe.media_type });
        }
        match (probe.manifests, probe.config) {
            // A document that could be read as both means one thing to one reader and another to the next.
            (Some(_), Some(_)) => Err(Error::malformed(what, "it is an index and a manifest at once")),
            (Some(manifests), None) if manifests.len() <= MAX_INDEX_ENTRIES => Ok(Document::Index(manifests)),
            (Some(_), None) => {
                Err(Error::Limit { what: what.into(), limit: MAX_INDEX_ENTRIES as u64, unit: "manifests" })
            }
            (None, Some(_)) => {
                let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| Error::malformed(what, e))?;
                check_manifest(what, &manifest)?;
                Ok(Document::Manifest(manifest))
            }
            (None, None) if content_type.contains("html") => Err(Error::malformed(what, "the registry sent HTML")),
            (None, None) => Err(Error::malformed(what, "it is neither an index nor a manifest")),
        }
    }
}

fn check_manifest(what: &str, manifest: &Manifest) -> Result<()> {
    let unsupported =
        |media_type: &str| Err(Error::UnsupportedMediaType { what: what.into(), media_type: media_type.into() });
    if !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "") {
        return unsupported(&manifest.config.media_type);
    }
    if manifest.config.size > MAX_DOCUMENT {
        return Err(Error::Limit { what: format!("{what}: config"), limit: MAX_DOCUMENT, unit: "bytes" });
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::Limit { what: what.into(), limit: MAX_LAYERS as u64, unit: "layers" });
    }
    let sizes = manifest.layers.iter().try_fold(manifest.config.size, |sum, layer| sum.checked_add(layer.size));
    if sizes.is_none_or(|sum| sum > 1 << 50) {
        return Err(Error::malformed(what, "the sizes it declares are absurd"));
    }
    for layer in &manifest.layers {
        let kind = &layer.media_type;
        // Compression is found by looking at the bytes; here only foreign, encrypted and unknown things are refused.
        let known = kind.is_empty()
            || matches!(
                kind.as_str(),
                "application/vnd.docker.image.rootfs.diff.tar"
                    | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                    | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            )
            || kind.strip_prefix(OCI_LAYER).is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd"));
        if !known {
            return unsupported(kind);
        }
    }
    Ok(())
}

/// The entry of an index that runs best on `ours`; its order decides between equals.
pub fn choose<'a>(reference: &str, ours: &Platform, entries: &'a [Descriptor]) -> Result<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    let mut offered = Vec::new();
    for entry in entries {
        if !matches!(entry.media_type.as_str(), OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST | "") {
            continue;
        }
        let rank = match &entry.platform {
            // Not said here, so its config will say; it is worth a try if nothing better is offered.
            None => Some(u32::MAX),
            Some(platform) => {
                let platform = platform.normalised();
                let rank = ours.rank(&platform);
                if !platform.is_unknown() && !offered.contains(&platform) {
                    offered.push(platform);
                }
                rank
            }
        };
        if let Some(rank) = rank
            && best.is_none_or(|(other, _)| rank < other)
        {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| entry).ok_or_else(|| Error::NoPlatform {
        reference: reference.into(),
        wanted: ours.clone(),
        offered,
    })
}

/// What an image says about running it. Empty where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid` or empty.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
}

/// An image's config document.
#[derive(Debug)]
pub struct Config {
    pub platform: Platform,
    pub diff_ids: Vec<Digest>,
    pub run: ImageConfig,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default, deserialize_with = "null_default")]
    os: String,
    #[serde(default, deserialize_with = "null_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_default")]
    variant: String,
    #[serde(default, deserialize_with = "null_default")]
    rootfs: RawRootfs,
    #[serde(default, deserialize_with = "null_default")]
    config: ImageConfig,
}

#[derive(Deserialize, Default)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_default")]
    diff_ids: Vec<Digest>,
}

impl Config {
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Config> {
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|e| Error::malformed(format!("{what}: config"), e))?;
        let platform = Platform::new(&raw.os, &raw.architecture, &raw.variant);
        Ok(Config { platform, diff_ids: raw.rootfs.diff_ids, run: raw.config })
    }

    /// Does this config belong to `manifest`, and can `ours` run it?
    pub fn check(&self, reference: &str, ours: &Platform, manifest: &Manifest) -> Result<()> {
        let said = !self.platform.os.is_empty() && !self.platform.architecture.is_empty();
        if said && ours.rank(&self.platform).is_none() {
            let offered = vec![self.platform.clone()];
            return Err(Error::NoPlatform { reference: reference.into(), wanted: ours.clone(), offered });
        }
        if self.diff_ids.len() != manifest.layers.len() {
            let why = format!("config names {} layers, manifest {}", self.diff_ids.len(), manifest.layers.len());
            return Err(Error::malformed(reference, why));
        }
        Ok(())
    }
}

/// Go writes `null` for empty lists and maps.
pub(crate) fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Go's sets: maps to nothing.
fn keys<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(null_default::<D, BTreeMap<String, serde::de::IgnoredAny>>(d)?.into_keys().collect())
}
