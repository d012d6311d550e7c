//! This node and its pods as last seen, on its own disk: what it starts when it boots and no server is in reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use schema::api::Message;
use schema::api::core::v1::{Node, NodeStatus, Pod};
use schema::api::meta::v1::ObjectMeta;

use crate::objects::lock;

/// How the name of a file ends that is not written to its end.
pub const UNFINISHED: &str = "~";

/// Replaces a file that only root may read, if it says something else: whenever the power is cut, the old or the new
/// one is there. What fails is logged, for nothing depends on it now.
pub fn write_private(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return;
    }
    if let Err(error) = replace(path, bytes) {
        tracing::warn!(path = %path.display(), %error, "what is known was not noted on disk");
    }
}

/// Replaces a file that only root may read; the new one is on the disk when this returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes)?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(UNFINISHED);
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

/// A name as part of a file's: names nothing outside of its directory, whatever it is.
pub fn part(name: &str) -> String {
    name.replace('/', "_")
}

/// Files that are written behind the backs of those who change them: a disk that is slow holds up nobody, and of
/// several changes meanwhile it gets the last.
#[derive(Clone, Default)]
pub struct Behind(Arc<Mutex<Todo>>);

#[derive(Default)]
struct Todo {
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    writing: bool,
}

impl Behind {
    /// `None` removes the file.
    pub fn put(&self, path: PathBuf, bytes: Option<Vec<u8>>) {
        let mut todo = lock(&self.0);
        todo.files.insert(path, bytes);
        if !std::mem::replace(&mut todo.writing, true) {
            let behind = self.clone();
            tokio::task::spawn_blocking(move || behind.write());
        }
    }

    /// Leaves out what is to be below a directory that goes.
    pub fn forget(&self, dir: &Path) {
        lock(&self.0).files.retain(|path, _| !path.starts_with(dir));
    }

    fn write(&self) {
        let mut done = None;
        loop {
            let (path, bytes) = {
                let mut todo = lock(&self.0);
                if let Some((path, bytes)) = done.take()
                    && todo.files.get(&path) == Some(&bytes)
                {
                    todo.files.remove(&path);
                }
                let Some((path, bytes)) = todo.files.first_key_value() else {
                    todo.writing = false;
                    return;
                };
                (path.clone(), bytes.clone())
            };
            match &bytes {
                Some(bytes) => write_private(&path, bytes),
                None => drop(fs::remove_file(&path)),
            }
            done = Some((path, bytes));
        }
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let todo = lock(&self.0).files.get(path).cloned();
        todo.unwrap_or_else(|| fs::read(path).ok())
    }
}

pub struct Store {
    dir: PathBuf,
    node: PathBuf,
    behind: Behind,
}

impl Store {
    pub fn new(root: &Path, behind: Behind) -> Self {
        Self { dir: root.join("last-pods"), node: root.join("last-node"), behind }
    }

    /// All but what changes with every report.
    pub fn put_node(&self, node: &Node) {
        let (meta, status) = (&node.metadata, &node.status);
        let kept = Node {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                labels: meta.labels.clone(),
                annotations: meta.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: node.spec.clone(),
            status: NodeStatus {
                volumes_attached: status.volumes_attached.clone(),
                volumes_in_use: status.volumes_in_use.clone(),
                ..NodeStatus::default()
            },
            ..Node::default()
        };
        self.behind.put(self.node.clone(), Some(kept.to_vec()));
    }

    pub fn node(&self) -> Option<Node> {
        Node::decode(&fs::read(&self.node).ok()?).ok()
    }

    fn path(&self, uid: &str) -> PathBuf {
        // A uid is a UUID; anything else names no file outside of this directory either.
        self.dir.join(uid.replace(['/', '.'], "_"))
    }

    pub fn put(&self, pod: &Pod) {
        self.behind.put(self.path(&pod.metadata.uid), Some(pod.to_vec()));
    }

    pub fn remove(&self, uid: &str) {
        self.behind.put(self.path(uid), None);
    }

    pub fn get(&self, uid: &str) -> Option<Pod> {
        Pod::decode(&self.behind.read(&self.path(uid))?).ok()
    }

    pub fn load(&self) -> Vec<Pod> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = entries.filter(|entry| !entry.file_name().to_string_lossy().ends_with(UNFINISHED));
        files.filter_map(|entry| Pod::decode(&fs::read(entry.path()).ok()?).ok()).collect()
    }

    pub fn keep_only(&self, uids: &BTreeSet<String>) {
        let kept: BTreeSet<PathBuf> = uids.iter().map(|uid| self.path(uid)).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                self.behind.put(entry.path(), None);
            }
        }
    }
}
