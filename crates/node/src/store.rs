//! This node and its pods as last seen, on its own disk: what it starts when it boots and no server is in reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schema::api::Message;
use schema::api::core::v1::{Node, NodeStatus, Pod};
use schema::api::meta::v1::ObjectMeta;

use crate::objects::lock;

/// How the name of a file ends that is not written to its end.
pub const UNFINISHED: &str = "~";

/// How long changes to files wait for more of them: a pod's first states come within less, and whoever sees it Ready may
/// pull the plug a moment later.
const GATHER: Duration = Duration::from_millis(100);

/// Replaces a file that only root may read, if it says something else. What fails is logged, for nothing depends on it
/// now.
pub fn write_private(path: &Path, bytes: &[u8]) {
    if says(path, bytes) {
        return;
    }
    if let Err(error) = Replacement::begin(path, bytes).and_then(Replacement::finish) {
        not_noted(path, &error);
    }
}

fn says(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).is_ok_and(|known| known == bytes)
}

fn not_noted(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "what is known was not noted on disk");
}

/// Replaces a file that only root may read; the new one is on the disk when this returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Replacement::begin(path, bytes)?.finish()?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A file that only root may read and that is to take another's place: whenever the power is cut, the old or the new one
/// is there.
struct Replacement<'a> {
    path: &'a Path,
    new: PathBuf,
    file: fs::File,
}

impl<'a> Replacement<'a> {
    fn begin(path: &'a Path, bytes: &[u8]) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut new = path.as_os_str().to_owned();
        new.push(UNFINISHED);
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        Ok(Self { path, new: new.into(), file })
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.new, self.path)
    }
}

/// A name as part of a file's: names nothing outside of its directory, whatever it is.
pub fn part(name: &str) -> String {
    name.replace('/', "_")
}

/// Files that are written behind the backs of those who change them: a disk that is slow holds up nobody, and of
/// several changes within [`GATHER`] it gets the last.
#[derive(Clone, Default)]
pub struct Behind(Arc<Files>);

#[derive(Default)]
struct Files {
    todo: Mutex<Todo>,
    /// Held by the one who writes.
    disk: Mutex<()>,
}

#[derive(Default)]
struct Todo {
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    awaited: bool,
}

impl Behind {
    /// `None` removes the file.
    pub fn put(&self, path: PathBuf, bytes: Option<Vec<u8>>) {
        let awaited = {
            let mut todo = lock(&self.0.todo);
            todo.files.insert(path, bytes);
            std::mem::replace(&mut todo.awaited, true)
        };
        if !awaited {
            let behind = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                tokio::task::spawn_blocking(move || behind.flush());
            });
        }
    }

    /// Leaves out what is to be below a directory that goes.
    pub fn forget(&self, dir: &Path) {
        lock(&self.0.todo).files.retain(|path, _| !path.starts_with(dir));
    }

    /// Blocks until what waits is on the disk.
    pub fn flush(&self) {
        let _alone = lock(&self.0.disk);
        let batch = {
            let mut todo = lock(&self.0.todo);
            todo.awaited = false;
            todo.files.clone()
        };
        let mut begun = Vec::new();
        for (path, bytes) in &batch {
            let Some(bytes) = bytes else {
                let _ = fs::remove_file(path);
                continue;
            };
            if says(path, bytes) {
                continue;
            }
            // Who forgets a directory removes it next: none is made again after that.
            let todo = lock(&self.0.todo);
            if todo.files.contains_key(path) {
                begun.push((path, Replacement::begin(path, bytes)));
            }
        }
        // The first that is waited for takes the others to the disk too, mostly.
        for (path, replacement) in begun {
            match replacement.and_then(Replacement::finish) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => not_noted(path, &error),
                _ => {}
            }
        }
        lock(&self.0.todo).files.retain(|path, bytes| batch.get(path) != Some(bytes));
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let todo = lock(&self.0.todo).files.get(path).cloned();
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
