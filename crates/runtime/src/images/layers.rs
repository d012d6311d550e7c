//! Unpacked layers: `layers/NAME/fs`, one per chain id, with `layer.json` beside it.
//!
//! A layer appears by one rename when it is complete. `layer.json` carries the epoch in which its content was last
//! known to be right; an unclean stop of the machine begins a new one, and then the first use looks again.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blobs::{Temp, tempfile};
use super::digest::Digest;
use super::error::{Error, Result};
use super::unpack::{Survey, survey};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInfo {
    pub chain: Digest,
    pub diff: Digest,
    pub inodes: u64,
    pub disk_bytes: u64,
    pub fingerprint: String,
    /// Nothing of the layers below is visible (overlayfs ignores that mark on a root, so they are left out).
    #[serde(default)]
    pub opaque_root: bool,
    pub epoch: u64,
}

#[derive(Debug)]
pub struct Layers {
    root: PathBuf,
}

/// The directory's name: short, since mount(2) takes one page of options, and 127 of these fit in it if they are
/// given relative to `layers/`. 96 bits of SHA-256 cannot be met on purpose; `layer.json` has all of them.
pub fn name(chain: &Digest) -> &str {
    &chain.hex()[..24]
}

impl Layers {
    pub fn open(root: &Path) -> Result<Layers> {
        let dir = root.join("layers");
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(Layers { root: root.into() })
    }

    pub fn dir(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(name(chain))
    }

    pub fn fs(&self, chain: &Digest) -> PathBuf {
        self.dir(chain).join("fs")
    }

    /// What `layer.json` says, if the layer is there.
    pub fn get(&self, chain: &Digest) -> Option<LayerInfo> {
        let bytes = fs::read(self.dir(chain).join("layer.json")).ok()?;
        let info: LayerInfo = serde_json::from_slice(&bytes).ok()?;
        (info.chain == *chain && self.fs(chain).is_dir()).then_some(info)
    }

    /// An empty directory to unpack into: its `fs`.
    pub fn stage(&self) -> Result<Temp> {
        let stage = tempfile(&self.root.join("tmp"))?;
        let fs = stage.0.join("fs");
        fs::create_dir_all(&fs).map_err(Error::io("create", &fs))?;
        Ok(stage)
    }

    pub fn commit(&self, stage: &Temp, info: &LayerInfo) -> Result<()> {
        write_info(&stage.0, info)?;
        let dir = self.dir(&info.chain);
        // What is there is damaged, or it would not be unpacked again.
        if dir.exists() {
            self.discard(&info.chain)?;
        }
        fs::rename(&stage.0, &dir).map_err(Error::io("rename to", &dir))
    }

    /// Is the layer what was unpacked? Reads all directories, no contents: blocks.
    pub fn verify(&self, info: &LayerInfo, epoch: u64) -> Result<()> {
        let now: Survey = survey(&self.fs(&info.chain))?;
        if now.fingerprint != info.fingerprint {
            return Err(Error::malformed(format!("layer {}", info.chain), "its files are not what was unpacked"));
        }
        let dir = self.dir(&info.chain);
        write_info(&dir, &LayerInfo { epoch, ..info.clone() })
    }

    /// Makes the next use look at a layer again.
    pub fn doubt(&self, info: &LayerInfo) {
        let doubted = LayerInfo { epoch: u64::MAX, ..info.clone() };
        if let Err(error) = write_info(&self.dir(&info.chain), &doubted) {
            tracing::warn!(layer = %info.chain, error = error.chain(), "cannot mark a layer as damaged");
        }
    }

    /// Takes a layer out of sight at once; the caller removes it for good by dropping what it gets.
    pub fn discard(&self, chain: &Digest) -> Result<Option<Temp>> {
        let dir = self.dir(chain);
        if !dir.exists() {
            return Ok(None);
        }
        let trash = tempfile(&self.root.join("tmp"))?;
        fs::rename(&dir, &trash.0).map_err(Error::io("move away", &dir))?;
        Ok(Some(trash))
    }

    /// Names of all layers' directories.
    pub fn names(&self) -> Result<Vec<String>> {
        let dir = self.root.join("layers");
        let entries = fs::read_dir(&dir).map_err(Error::io("list", &dir))?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    pub fn info_of(&self, name: &str) -> Option<LayerInfo> {
        serde_json::from_slice(&fs::read(self.root.join("layers").join(name).join("layer.json")).ok()?).ok()
    }

    pub fn discard_name(&self, name: &str) -> Result<Temp> {
        let dir = self.root.join("layers").join(name);
        let trash = tempfile(&self.root.join("tmp"))?;
        fs::rename(&dir, &trash.0).map_err(Error::io("move away", &dir))?;
        Ok(trash)
    }
}

/// By rename, without fsync: a lost write costs one more look, and a torn file reads as no layer.
fn write_info(dir: &Path, info: &LayerInfo) -> Result<()> {
    let path = dir.join("layer.json");
    let temp = dir.join("layer.json.new");
    let bytes = serde_json::to_vec(info).map_err(|e| Error::malformed("layer.json", e))?;
    fs::write(&temp, bytes).map_err(Error::io("write", &temp))?;
    fs::rename(&temp, &path).map_err(Error::io("rename to", &path))
}
