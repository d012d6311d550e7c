//! Which images there are: names to digests, in one small file that is replaced as a whole (`images.json`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blobs::write_durably;
use super::digest::Digest;
use super::error::{Error, Result};
use super::reference::Reference;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The config's digest: the image id.
    pub id: Digest,
    pub manifest: Digest,
    pub manifest_type: String,
    /// The index that the name pointed to, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    pub tags: BTreeSet<String>,
    /// `repository@digest`, of the index if there is one, else of the manifest.
    pub digests: BTreeSet<String>,
    /// Bottom first.
    pub layers: Vec<RecordLayer>,
    /// Bytes of config and layers as the registry has them.
    pub size: u64,
    pub user: String,
    pub platform: String,
    pub pinned: bool,
    pub pulled_at_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordLayer {
    pub blob: Digest,
    pub size: u64,
    pub media_type: String,
    pub diff: Digest,
}

impl Record {
    /// Chain ids of the layers, bottom first.
    pub fn chains(&self) -> Vec<Digest> {
        chains(self.layers.iter().map(|layer| &layer.diff))
    }

    /// All blobs that belong to the image.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let documents = [Some(&self.id), Some(&self.manifest), self.index.as_ref()];
        documents.into_iter().flatten().chain(self.layers.iter().map(|layer| &layer.blob))
    }
}

pub fn chains<'a>(diffs: impl Iterator<Item = &'a Digest>) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::new();
    for diff in diffs {
        chains.push(Digest::chain(chains.last(), diff));
    }
    chains
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    images: Vec<Record>,
}

#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    images: Vec<Record>,
}

impl Records {
    /// An unreadable file is set aside, so that the node goes on; its images are pulled or imported again, from blobs
    /// that are still here.
    pub fn load(path: &Path) -> Result<Records> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Records { path: path.into(), images: Vec::new() }),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.version == 1 => Ok(Records { path: path.into(), images: stored.images }),
            // A newer program's file must not be lost by going back to this one.
            Ok(stored) => Err(Error::Records { path: path.into(), why: format!("its version is {}", stored.version) }),
            Err(why) => {
                let aside = path.with_extension("damaged");
                tracing::error!(path = %path.display(), %why, aside = %aside.display(), "image records are unreadable; starting without");
                fs::rename(path, &aside).map_err(Error::io("set aside", path))?;
                Ok(Records { path: path.into(), images: Vec::new() })
            }
        }
    }

    pub fn all(&self) -> &[Record] {
        &self.images
    }

    /// By normalised name, id, or the beginning of an id.
    pub fn find(&self, name: &str) -> Result<Option<&Record>> {
        if let Ok(reference) = Reference::parse(name) {
            let full = reference.to_string();
            let named = |r: &&Record| r.tags.contains(&full) || r.digests.contains(&full);
            if let Some(record) = self.images.iter().find(named) {
                return Ok(Some(record));
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 4 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut matching = self.images.iter().filter(|r| r.id.hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous(name.into())),
            (found, _) => Ok(found),
        }
    }

    /// Applies `change` and writes the result; on failure nothing has changed.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Vec<Record>) -> T) -> Result<T> {
        let mut images = self.images.clone();
        let value = change(&mut images);
        let stored = Stored { version: 1, images };
        let bytes = serde_json::to_vec(&stored).map_err(|e| Error::malformed("image records", e))?;
        write_durably(&self.path, &bytes)?;
        self.images = stored.images;
        Ok(value)
    }

    /// Adds an image, or adds to it: its tags leave whatever image had them.
    pub fn put(&mut self, new: Record) -> Result<()> {
        self.change(|images| {
            for other in images.iter_mut() {
                other.tags.retain(|tag| !new.tags.contains(tag));
            }
            match images.iter_mut().find(|r| r.id == new.id) {
                Some(old) => {
                    let (tags, digests, pinned) = (old.tags.clone(), old.digests.clone(), old.pinned);
                    *old = new;
                    old.tags.extend(tags);
                    old.digests.extend(digests);
                    old.pinned |= pinned;
                }
                None => images.push(new),
            }
        })
    }
}
