//! The pods of this node as last seen, on its own disk: what it starts when it boots and no server is in reach.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use schema::api::{Message, core::v1::Pod};

/// Replaces a file that only root may read, if it says something else; what fails is logged, for nothing depends on it now.
pub fn write_private(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return;
    }
    let write = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut new = path.as_os_str().to_owned();
        new.push("~");
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "what is known was not noted on disk");
    }
}

pub struct Store {
    dir: PathBuf,
}

impl Store {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, uid: &str) -> PathBuf {
        // A uid is a UUID; anything else names no file outside of this directory either.
        self.dir.join(uid.replace(['/', '.'], "_"))
    }

    pub fn put(&self, pod: &Pod) {
        write_private(&self.path(&pod.metadata.uid), &pod.to_vec());
    }

    pub fn remove(&self, uid: &str) {
        let _ = fs::remove_file(self.path(uid));
    }

    pub fn get(&self, uid: &str) -> Option<Pod> {
        Pod::decode(&fs::read(self.path(uid)).ok()?).ok()
    }

    pub fn load(&self) -> Vec<Pod> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = entries.filter(|entry| !entry.file_name().to_string_lossy().ends_with('~'));
        files.filter_map(|entry| Pod::decode(&fs::read(entry.path()).ok()?).ok()).collect()
    }

    pub fn keep_only(&self, uids: &BTreeSet<String>) {
        let kept: BTreeSet<PathBuf> = uids.iter().map(|uid| self.path(uid)).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
