//! The pods of this node as last seen, on its own disk: what it starts when it boots and no server is in reach.

use std::{collections::BTreeSet, fs, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use schema::api::{Message, core::v1::Pod};

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
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            let new = self.path(&format!("{}~", pod.metadata.uid));
            let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&pod.to_vec())?;
            fs::rename(&new, self.path(&pod.metadata.uid))
        };
        if let Err(error) = write() {
            tracing::warn!(pod = %pod.metadata.name, %error, "a pod was not noted on disk");
        }
    }

    pub fn remove(&self, uid: &str) {
        let _ = fs::remove_file(self.path(uid));
    }

    pub fn load(&self) -> Vec<Pod> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter(|entry| !entry.file_name().to_string_lossy().ends_with('~'))
            .filter_map(|entry| Pod::decode(&fs::read(entry.path()).ok()?).ok())
            .collect()
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
