//! Removing images and what nobody needs any more, and counting what is used.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blobs::{Temp, space};
use super::error::{Error, Result};
use super::reference::Reference;
use super::{Images, Inner, blocking, layers, lock};

/// What garbage collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    pub bytes: u64,
    pub layers: u64,
    pub blobs: u64,
}

/// The image file system.
#[derive(Debug, Clone)]
pub struct Usage {
    pub path: PathBuf,
    /// Bytes and inodes of layers and blobs.
    pub bytes: u64,
    pub inodes: u64,
    pub capacity: u64,
    pub available: u64,
    pub inodes_capacity: u64,
    pub inodes_free: u64,
}

impl Images {
    /// Removes an image with all its names, and what only it needed. `in_use`: overlayfs lower directories of existing
    /// containers, whose layers stay.
    pub async fn remove(&self, name: &str, in_use: &[PathBuf]) -> Result<Freed> {
        let name = name.to_owned();
        self.inner
            .change_records(move |records| {
                let id = records.find(&name)?.map(|r| r.id.clone()).ok_or(Error::NotPresent(name))?;
                records.change(|images| images.retain(|r| r.id != id))
            })
            .await?;
        self.gc(in_use).await
    }

    /// Takes one name away; the image goes with its last tag, unless it was pulled by digest too.
    pub async fn untag(&self, name: &str, in_use: &[PathBuf]) -> Result<Freed> {
        let full = Reference::parse(name)?.to_string();
        let name = name.to_owned();
        self.inner
            .change_records(move |records| {
                let id = records.find(&full)?.map(|r| r.id.clone()).ok_or(Error::NotPresent(name))?;
                records.change(|images| {
                    for record in images.iter_mut().filter(|r| r.id == id) {
                        record.tags.remove(&full);
                        record.digests.remove(&full);
                    }
                    images.retain(|r| r.id != id || !r.tags.is_empty());
                })
            })
            .await?;
        self.gc(in_use).await
    }

    /// Removes layers and blobs that no image, pull or [`super::Rootfs`] needs. `in_use` as for [`Images::remove`]:
    /// containers outlive this process, so their layers have to be named.
    pub async fn gc(&self, in_use: &[PathBuf]) -> Result<Freed> {
        let (inner, in_use) = (self.inner.clone(), in_use.to_vec());
        blocking(move || {
            let layers = inner.collect_layers(&in_use)?;
            let blobs = inner.collect_blobs()?;
            Ok(Freed { bytes: layers.bytes + blobs.bytes, layers: layers.layers, blobs: blobs.blobs })
        })
        .await
    }

    pub async fn usage(&self) -> Result<Usage> {
        let inner = self.inner.clone();
        blocking(move || {
            let space = space(&inner.root)?;
            let (mut bytes, mut inodes) = (0u64, 0u64);
            for info in inner.layers.names()?.iter().filter_map(|name| inner.layers.info_of(name)) {
                bytes += info.disk_bytes;
                inodes += info.inodes;
            }
            for (_, size) in inner.blobs.list()?.into_iter().chain(inner.blobs.partials()?) {
                bytes += size;
                inodes += 1;
            }
            Ok(Usage {
                path: inner.root.clone(),
                bytes,
                inodes,
                capacity: space.capacity,
                available: space.available,
                inodes_capacity: space.inodes,
                inodes_free: space.inodes_free,
            })
        })
        .await
    }

    /// Compares every layer with its survey, whatever the epoch; names those that are damaged. They are restored when used.
    pub async fn check(&self) -> Result<Vec<(String, Error)>> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.check())).await
    }
}

impl Inner {
    fn collect_layers(self: &Arc<Self>, in_use: &[PathBuf]) -> Result<Freed> {
        let records = self.records();
        let mut wanted: HashSet<String> = in_use.iter().filter_map(|path| layer_name(path)).collect();
        wanted.insert("empty".into());
        for record in records.all() {
            wanted.extend(record.chains().iter().map(|chain| layers::name(chain).to_owned()));
        }
        let mut freed = Freed::default();
        let mut trash: Vec<Temp> = Vec::new();
        for name in self.layers.names()? {
            let holds = lock(&self.holds);
            if wanted.contains(&name) || holds.contains_key(&name) {
                continue;
            }
            freed.bytes += self.layers.info_of(&name).map_or(0, |info| info.disk_bytes);
            freed.layers += 1;
            trash.push(self.layers.discard_name(&name)?);
        }
        // Gone for everybody; the slow part needs no lock.
        drop(records);
        drop(trash);
        Ok(freed)
    }

    pub(super) fn collect_blobs(self: &Arc<Self>) -> Result<Freed> {
        let records = self.records();
        let mut wanted = HashSet::new();
        for record in records.all() {
            let documents = [Some(&record.id), Some(&record.manifest), record.index.as_ref()];
            wanted.extend(documents.into_iter().flatten().cloned());
            if !self.options.discard_blobs {
                wanted.extend(record.layers.iter().map(|layer| layer.blob.clone()));
            }
        }
        let mut freed = Freed::default();
        let mut count = |size: u64| {
            freed.bytes += size;
            freed.blobs += 1;
        };
        for (digest, size) in self.blobs.list()? {
            let holds = lock(&self.holds);
            if !wanted.contains(&digest) && !holds.contains_key(digest.as_str()) {
                self.blobs.remove(&digest)?;
                count(size);
            }
        }
        for (digest, size) in self.blobs.partials()? {
            let holds = lock(&self.holds);
            if !holds.contains_key(digest.as_str()) {
                self.blobs.remove_partial(&digest);
                count(size);
            }
        }
        Ok(freed)
    }

    fn check(self: &Arc<Self>) -> Vec<(String, Error)> {
        let images = self.records().all().to_vec();
        let mut problems = Vec::new();
        for record in images {
            let name =
                record.tags.iter().chain(&record.digests).next().cloned().unwrap_or_else(|| record.id.to_string());
            for chain in record.chains() {
                let problem = match self.layers.get(&chain) {
                    None => Some(Error::malformed(format!("layer {chain}"), "it is missing")),
                    // An epoch that no start has, should it be wrong: then the next use restores it.
                    Some(info) => self.layers.verify(&info, self.epoch).err().inspect(|_| self.layers.doubt(&info)),
                };
                problems.extend(problem.map(|problem| (name.clone(), problem)));
            }
        }
        problems
    }
}

/// `…/NAME/fs` → `NAME`.
fn layer_name(path: &Path) -> Option<String> {
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}
