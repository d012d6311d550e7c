//! Exporting images as a tar that is an OCI layout and a docker-archive at once, so that every tool takes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::digest::Digest;
use super::error::{Error, Result};
use super::install::Install;
use super::manifest::{Descriptor, OCI_INDEX};
use super::platform::Platform;
use super::records::Record;
use super::reference::Reference;
use super::tar::{self, Entry, Kind};
use super::{Hold, Images, Inner, blocking};

/// Where an export goes.
pub trait ExportWriter: Write + Send + 'static {}
impl<W: Write + Send + 'static> ExportWriter for W {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Images {
    /// Writes images (by name: with that name; by id: with all their names) to `output`. Layers whose compressed form
    /// was discarded are fetched again.
    pub async fn export<W: ExportWriter>(&self, names: &[String], output: W) -> Result<W> {
        let inner = &self.inner;
        let hold = Hold::new(inner);
        let mut images: Vec<(Record, Vec<String>)> = Vec::new();
        for name in names {
            let record = inner.records().find(name)?.cloned().ok_or_else(|| Error::NotPresent(name.clone()))?;
            record.blobs().for_each(|blob| hold.blob(blob));
            let asked = Reference::parse(name).map(|reference| reference.to_string()).ok();
            let tags: Vec<String> = match asked.filter(|asked| record.tags.contains(asked)) {
                Some(tag) => vec![tag],
                None => record.tags.iter().cloned().collect(),
            };
            inner.fetch_blobs(name, &record, &hold).await?;
            match images.iter_mut().find(|(other, _)| other.id == record.id) {
                Some((_, known)) => known.extend(tags),
                None => images.push((record, tags)),
            }
        }
        let inner = inner.clone();
        let output = blocking(move || inner.write_archive(&images, output)).await;
        drop(hold);
        self.after_install().await?;
        output
    }
}

impl Inner {
    /// Brings back the blobs of an image that are not here.
    async fn fetch_blobs(self: &Arc<Self>, name: &str, record: &Record, hold: &Hold) -> Result<()> {
        if record.layers.iter().all(|layer| self.blobs.size(&layer.blob) == Some(layer.size)) {
            return Ok(());
        }
        let reference = record.digests.iter().chain(&record.tags).find_map(|name| Reference::parse(name).ok());
        let sessions = reference.map_or_else(Vec::new, |reference| self.registry.sessions(&reference, &[]));
        let install = Install {
            inner: self,
            image: name.into(),
            layers: record.layers.clone(),
            sessions: sessions.iter().collect(),
            events: Arc::new(|_| {}),
            hold,
        };
        install.fetch_all().await
    }

    fn write_archive<W: Write>(&self, images: &[(Record, Vec<String>)], output: W) -> Result<W> {
        let io = Error::io("write an archive of", &self.root);
        let mut index = OciIndex { schema_version: 2, media_type: OCI_INDEX, manifests: Vec::new() };
        let mut docker = Vec::new();
        let mut blobs: BTreeMap<&Digest, u64> = BTreeMap::new();
        for (record, tags) in images {
            for blob in [&record.id, &record.manifest].into_iter().chain(record.layers.iter().map(|layer| &layer.blob))
            {
                let missing = || Error::BlobMissing { image: record.id.to_string(), digest: blob.clone() };
                blobs.insert(blob, self.blobs.size(blob).ok_or_else(missing)?);
            }
            let mut descriptor =
                Descriptor::new(&record.manifest_type, record.manifest.clone(), blobs[&record.manifest]);
            descriptor.platform = Platform::parse(&record.platform);
            if tags.is_empty() {
                index.manifests.push(descriptor.clone());
            }
            for tag in tags {
                let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
                descriptor.annotations = keys.map(|key| (key.to_owned(), tag.clone())).into();
                index.manifests.push(descriptor.clone());
            }
            docker.push(DockerImage {
                config: blob_path(&record.id),
                repo_tags: tags.clone(),
                layers: record.layers.iter().map(|layer| blob_path(&layer.blob)).collect(),
            });
        }
        let write = || -> std::io::Result<W> {
            let mut archive = tar::Writer::new(output);
            archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            archive.file("index.json", &serde_json::to_vec(&index)?)?;
            archive.file("manifest.json", &serde_json::to_vec(&docker)?)?;
            for (digest, size) in &blobs {
                let entry = Entry {
                    path: blob_path(digest).into_bytes(),
                    link: Vec::new(),
                    kind: Kind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    size: *size,
                    mtime: (0, 0),
                    device: (0, 0),
                    xattrs: Vec::new(),
                };
                archive.append(&entry, File::open(self.blobs.path(digest))?)?;
            }
            archive.finish()
        };
        write().map_err(io)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
