//! What the kubelet knows of its pulls, on disk, in upstream's files: `image_manager/pulling/sha256-…` names images
//! whose pull has begun, `image_manager/pulled/sha256-…` who has shown that he may have an image.
//!
//! An intent is durable before its pull begins, and goes only when the record is durable: an image that was pulled
//! never looks like one that was there before. All of this blocks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::keyring::hex;
use super::verify::{API_VERSION, Access, add, repository};
use crate::objects::lock;
use crate::store;

/// No record is larger.
const MAX_BYTES: u64 = 4 << 20;
/// An intent whose image never came is forgotten after so long.
const STALE: Duration = Duration::from_secs(24 * 3600);

pub struct Records {
    pulling: PathBuf,
    pulled: PathBuf,
    state: Mutex<State>,
    /// One record is changed at a time; nobody who only looks waits for a disk.
    writing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Images whose pulls run; one of each at a time.
    running: BTreeSet<String>,
    /// Pulls that ever began.
    begun: u64,
}

/// A pull of an image that runs. Dropped without a word it leaves its intent: nobody knows whether the image comes.
pub struct Intent {
    records: Arc<Records>,
    image: String,
}

impl Drop for Intent {
    fn drop(&mut self) {
        lock(&self.records.state).running.remove(&self.image);
    }
}

impl Intent {
    pub fn begin(records: &Arc<Records>, image: &str) -> io::Result<Self> {
        let mut state = lock(&records.state);
        state.begun += 1;
        state.running.insert(image.to_owned());
        drop(state);
        let intent = Self { records: records.clone(), image: image.to_owned() };
        let text = json!({"kind": "ImagePullIntent", "apiVersion": API_VERSION, "image": image}).to_string();
        store::write_durably(&file(&records.pulling, image), text.as_bytes())?;
        Ok(intent)
    }

    /// The image is here; what cannot be noted leaves the intent, which makes everybody prove himself.
    pub fn done(self, id: &str, access: &Access, now: &str) {
        if self.records.note(&self.image, id, access, now) {
            self.failed();
        }
    }

    pub fn failed(self) {
        let _ = fs::remove_file(file(&self.records.pulling, &self.image));
    }
}

fn file(dir: &Path, of: &str) -> PathBuf {
    dir.join(format!("sha256-{}", hex(of.as_bytes())))
}

/// A record of that kind, `None` if there is none.
fn read(path: &Path, kind: &str) -> io::Result<Option<Value>> {
    let mut raw = Vec::new();
    match fs::File::open(path) {
        Ok(opened) => opened.take(MAX_BYTES).read_to_end(&mut raw)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: Value = serde_json::from_slice(&raw)?;
    let version = record["apiVersion"].as_str().and_then(|of| of.strip_prefix("kubelet.config.k8s.io/"));
    let mapping = &record["credentialMapping"];
    let whole = record["kind"] == kind
        && matches!(version, Some("v1alpha1" | "v1beta1"))
        && (mapping.is_null() || mapping.is_object());
    whole.then_some(Some(record)).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("it is no {kind}")))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = |name: &str| name.starts_with("sha256-") && !name.ends_with(store::UNFINISHED);
    entries.filter(|entry| named(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}

impl Records {
    /// `root`: kubelet's directory.
    pub fn new(root: &Path) -> Self {
        let dir = root.join("image_manager");
        Self {
            pulling: dir.join("pulling"),
            pulled: dir.join("pulled"),
            state: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Whether the kubelet has pulled an image or begun to, and its record.
    pub fn known(&self, image: &str, id: &str) -> io::Result<(bool, Option<Value>)> {
        // In this order: a pull ends with its record first, and its intent then.
        let begun = lock(&self.state).running.contains(image) || file(&self.pulling, image).exists();
        let record = read(&file(&self.pulled, id), "ImagePulledRecord")?;
        Ok((begun || record.is_some(), record.filter(|record| record["imageRef"] == id)))
    }

    /// Adds to a record who may have the image; whether it is on the disk now.
    pub fn note(&self, image: &str, id: &str, access: &Access, now: &str) -> bool {
        let _writing = lock(&self.writing);
        let path = file(&self.pulled, id);
        let known = read(&path, "ImagePulledRecord").unwrap_or_default().filter(|record| record["imageRef"] == id);
        let Some(record) = add(known, id, repository(image), access, now) else { return true };
        let written = store::write_durably(&path, record.to_string().as_bytes());
        written.inspect_err(|error| tracing::warn!(image, %error, "who may have an image was not noted")).is_ok()
    }

    /// How many intents and records there are.
    pub fn counts(&self) -> (usize, usize) {
        (files(&self.pulling).len(), files(&self.pulled).len())
    }

    /// For [`Records::prune`], before images are listed.
    pub fn begun(&self) -> u64 {
        lock(&self.state).begun
    }

    /// Forgets images that are gone: not among `ids`. While anything is pulled, or was since `begun`, nothing is
    /// forgotten: the list may be too old.
    pub fn prune(&self, ids: &[String], begun: u64) {
        let _writing = lock(&self.writing);
        let state = lock(&self.state);
        if state.begun != begun || !state.running.is_empty() {
            return;
        }
        let kept: Vec<PathBuf> = ids.iter().map(|id| file(&self.pulled, id)).collect();
        for path in files(&self.pulled) {
            if !kept.contains(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Images whose pull was cut off.
    pub fn left(&self) -> Vec<String> {
        let intents = files(&self.pulling).into_iter().filter_map(|path| {
            let intent = read(&path, "ImagePullIntent").ok()??;
            Some(intent["image"].as_str()?.to_owned())
        });
        let state = lock(&self.state);
        intents.filter(|image| !state.running.contains(image)).collect()
    }

    /// What became of an image whose pull was cut off: it is here, and whoever wants it has to prove himself, or not.
    pub fn settle(&self, image: &str, id: Option<&str>, now: &str) {
        let path = file(&self.pulling, image);
        let done = match id {
            Some(id) => self.note(image, id, &Access::Unknown, now),
            None => {
                let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
                age.is_some_and(|age| age > STALE)
            }
        };
        let state = lock(&self.state);
        if done && !state.running.contains(image) {
            let _ = fs::remove_file(path);
        }
    }
}
