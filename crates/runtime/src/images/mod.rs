//! The image store: pull, import, unpack, name, count, export and collect images. Start at [`Images`].
//!
//! ```text
//! ROOT/images.json       which images there are            ROOT/layers/NAME/fs  unpacked layers, for overlayfs
//! ROOT/blobs/sha256/HEX  what registries and tars gave     ROOT/ingest, tmp     what is not complete
//! ROOT/state             epoch and boot id (see `open`)    ROOT/lock            one process at a time
//! ```
//! One task per call; hashing, unpacking and files are on tokio's blocking threads. Nothing runs between calls.

pub mod blobs;
mod compression;
pub mod credentials;
pub mod digest;
pub mod error;
mod export;
mod garbage;
mod import;
mod install;
mod layers;
pub mod manifest;
pub mod platform;
mod pull;
mod records;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod show;
pub mod signatures;
mod space;
pub mod tar;
pub mod unpack;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use blobs::{Blobs, tempfile, write_durably};
use credentials::{Credentials, Login};
use digest::Digest;
pub use error::{Error, Kind, Result};
pub use export::ExportWriter;
pub use garbage::{Freed, Usage};
pub use import::{ImportReport, Imported};
use layers::Layers;
use manifest::Config;
pub use manifest::ImageConfig;
use platform::Platform;
use records::{Record, Records};
use reference::Reference;
use registries::Registries;
use registry::{Patience, Registry};
pub use space::Need;
use unpack::Limits;

use crate::lock;

#[derive(Debug, Clone)]
pub struct Options {
    /// What images must be for.
    pub platform: Platform,
    /// k3s' `registries.yaml`.
    pub registries: Registries,
    /// k3s' `--disable-default-registry-endpoint`: a registry with mirrors is asked at these only.
    pub disable_default_endpoint: bool,
    /// Drop compressed layers once unpacked: a third less disk, but repair and export need the registry again.
    pub discard_blobs: bool,
    /// Whose signatures pulled images need.
    pub policy: signatures::Policy,
    pub limits: Limits,
    pub patience: Patience,
    /// Blobs fetched at once, in all pulls.
    pub downloads: usize,
    /// Layers unpacked at once, in all pulls.
    pub unpacks: usize,
}

impl Options {
    pub fn new(platform: Platform) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            platform,
            registries: Registries::default(),
            disable_default_endpoint: false,
            discard_blobs: false,
            policy: signatures::Policy::default(),
            limits: Limits::default(),
            patience: Patience::default(),
            downloads: 4,
            unpacks: cores.clamp(1, 4),
        }
    }
}

/// The store. Clones share it.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

pub struct Inner {
    root: PathBuf,
    options: Options,
    blobs: Arc<Blobs>,
    layers: Layers,
    records: Mutex<Records>,
    registry: Arc<Registry>,
    locks: Locks,
    downloads: Semaphore,
    unpacks: Semaphore,
    holds: Mutex<HashMap<String, usize>>,
    /// Images found damaged beyond what is here to repair them: as good as absent, so that they are pulled again.
    broken: Mutex<HashSet<Digest>>,
    /// Grows with each unclean stop of the machine; layers of an older one are looked at before use.
    epoch: u64,
    boot: String,
    _lock: File,
}

/// An image as `crictl images` and the kubelet see it.
#[derive(Debug, Clone)]
pub struct Image {
    /// The config's digest.
    pub id: Digest,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes in the registry (compressed layers and config).
    pub size: u64,
    /// Bytes of its unpacked layers here; layers may be shared with other images.
    pub disk_bytes: u64,
    /// The config's user.
    pub user: String,
    pub platform: String,
    /// Never collected.
    pub pinned: bool,
    pub pulled_at_ms: u64,
}

/// What a container is made from. Its layers stay on the disk at least as long as this value (or a clone) lives.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// overlayfs' lower directories, the topmost first; never empty. All lie in [`Images::layers_dir`] as `NAME/fs`
    /// (give them relative to it: mount options have to fit in a page).
    pub lower: Vec<PathBuf>,
    pub config: ImageConfig,
    pub id: Digest,
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    pub size: u64,
    pub hold: Arc<Hold>,
}

/// What happens in a pull or an import.
#[derive(Debug, Clone)]
pub enum Event {
    /// The registry is asked what the name stands for.
    Resolving { image: String },
    /// It stands for this, so large.
    Resolved { image: String, digest: Digest, platform: Platform, layers: usize, size: u64 },
    /// How far a layer is.
    Layer { image: String, blob: Digest, state: LayerState, done: u64, size: u64 },
    /// A blob of which an earlier pull has left so much.
    Resuming { image: String, blob: Digest, from: u64, size: u64 },
    /// Something failed that may go better.
    Retrying { image: String, what: String, error: String },
    /// The image is here.
    Done { image: String, id: Digest },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// It was here already.
    Present,
    Downloading,
    Unpacking,
    Done,
}

/// Called from within the work, so it must be quick: send into a channel, or print.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Asked for room before a pull needs it: returns when whatever may go has gone.
pub type MakeRoom = Arc<dyn Fn(Need) -> BoxFuture<'static, ()> + Send + Sync>;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Those that fit the image are tried (imagePullSecrets, the most specific first); `registries.yaml`'s own come after.
    pub logins: Vec<Login>,
    pub events: Option<EventSink>,
    pub make_room: Option<MakeRoom>,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// The boot in which the store was last open; empty after a clean close.
    boot: String,
    epoch: u64,
}

impl Images {
    /// Opens or creates the store. Blocks (it reads small files only). One process at a time.
    ///
    /// A killed process leaves nothing wrong. A machine that went down with the store open may have lost writes that
    /// were not synced: then blobs and layers of unfinished pulls are distrusted, and all layers are compared with
    /// their survey when first used.
    pub fn open(root: impl Into<PathBuf>, options: Options) -> Result<Images> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| "unknown".into());
        Images::open_in_boot(root.into(), options, boot.trim())
    }

    fn open_in_boot(root: PathBuf, options: Options, boot: &str) -> Result<Images> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        // Layers hold setuid programs of other people: not for the users of this machine.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(Error::io("protect", &root))?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        take_lock(&lock).ok_or_else(|| Error::Locked(root.clone()))?;
        let blobs = Blobs::open(&root)?;
        let layers = Layers::open(&root)?;
        let records = Records::load(&root.join("images.json"))?;
        empty_tmp(&root)?;
        let empty = root.join("layers/empty/fs");
        fs::create_dir_all(&empty).map_err(Error::io("create", &empty))?;
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).map_err(Error::io("open up", &empty))?;
        let last = fs::read(root.join("state")).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let clean = last.as_ref().is_some_and(|last| last.boot.is_empty() || last.boot == boot);
        let epoch = last.map_or(0, |last| last.epoch) + u64::from(!clean);
        let registry =
            Registry::new(options.registries.clone(), options.disable_default_endpoint, options.patience.clone());
        let inner = Inner {
            downloads: Semaphore::new(options.downloads.max(1)),
            unpacks: Semaphore::new(options.unpacks.max(1)),
            root,
            options,
            blobs: Arc::new(blobs),
            layers,
            records: Mutex::new(records),
            registry: Arc::new(registry),
            locks: Locks::default(),
            holds: Mutex::default(),
            broken: Mutex::default(),
            epoch,
            boot: boot.into(),
            _lock: lock,
        };
        if !clean {
            inner.distrust()?;
        }
        inner.write_state(&inner.boot)?;
        Ok(Images { inner: Arc::new(inner) })
    }

    /// Says that all is on the disk, so that the next start need not look. Blocks.
    pub fn close(&self) -> Result<()> {
        blobs::sync_filesystem(&self.inner.root)?;
        self.inner.write_state("")
    }

    /// Where the directories of [`Rootfs::lower`] are.
    pub fn layers_dir(&self) -> PathBuf {
        self.inner.root.join("layers")
    }

    /// Brings an image here, or makes sure that the one here is what the registry has under that name.
    /// Dropping the future stops the work; what was downloaded stays for the next try.
    pub async fn pull(&self, name: &str, options: PullOptions) -> Result<Image> {
        Ok(self.pull_by(name, options).await?.0)
    }

    /// The same, and which login the registry wanted to see; none if anybody may have the image.
    pub async fn pull_by(&self, name: &str, options: PullOptions) -> Result<(Image, Option<Credentials>)> {
        let outcome = pull::pull(&self.inner, name, &options).await;
        self.inner.registry.forget_idle();
        let (id, login) = outcome?;
        self.after_install().await?;
        let image = self.get(id.as_str()).await?.ok_or_else(|| Error::NotPresent(name.into()))?;
        Ok((image, login))
    }

    /// The image of that name, id or beginning of an id; `None` if it is not here.
    pub async fn get(&self, name: &str) -> Result<Option<Image>> {
        let Some(record) = self.inner.records().find(name)?.cloned() else { return Ok(None) };
        if lock(&self.inner.broken).contains(&record.id) {
            return Ok(None);
        }
        let inner = self.inner.clone();
        blocking(move || Ok(Some(inner.describe(&record)))).await
    }

    pub async fn list(&self) -> Result<Vec<Image>> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut records = inner.records().all().to_vec();
            records.retain(|record| !lock(&inner.broken).contains(&record.id));
            Ok(records.iter().map(|record| inner.describe(record)).collect())
        })
        .await
    }

    /// What a container of that image is made from. After an unclean stop this looks at the layers first, and restores
    /// damaged ones from their blobs or the registry. If that fails, the image counts as absent until it is pulled.
    pub async fn resolve(&self, name: &str) -> Result<Rootfs> {
        let inner = &self.inner;
        let record = inner.records().find(name)?.cloned().ok_or_else(|| Error::NotPresent(name.into()))?;
        let hold = Hold::new(inner);
        let chains = record.chains();
        chains.iter().for_each(|chain| hold.layer(chain));
        record.blobs().for_each(|blob| hold.blob(blob));
        let mut whole = true;
        for chain in &chains {
            whole &= inner.trusted_layer(chain).await;
        }
        let config = match inner.document(&record.id).await? {
            Some(bytes) if whole => bytes,
            _ => inner.restore(name, &record, &hold).await.inspect_err(|_| {
                lock(&inner.broken).insert(record.id.clone());
            })?,
        };
        lock(&inner.broken).remove(&record.id);
        let config = Config::parse(name, &config)?;
        let mut lower = Vec::new();
        for chain in chains.iter().rev() {
            lower.push(inner.layers.fs(chain));
            if inner.layers.get(chain).is_some_and(|info| info.opaque_root) {
                break;
            }
        }
        if lower.is_empty() {
            lower.push(inner.root.join("layers/empty/fs"));
        }
        Ok(Rootfs {
            lower,
            config: config.run,
            id: record.id,
            repo_digests: record.digests.into_iter().collect(),
            repo_tags: record.tags.into_iter().collect(),
            size: record.size,
            hold: Arc::new(hold),
        })
    }

    /// Gives an image a further name; the image that had it loses it.
    pub async fn tag(&self, name: &str, new: &str) -> Result<()> {
        let reference = Reference::parse(new)?;
        if reference.digest().is_some() {
            return Err(Error::InvalidReference { reference: new.into(), why: "a new name needs a tag, not a digest" });
        }
        let (name, tag) = (name.to_owned(), reference.to_string());
        self.inner
            .change_records(move |records| {
                let mut record = records.find(&name)?.cloned().ok_or(Error::NotPresent(name))?;
                record.tags.insert(tag);
                records.put(record)
            })
            .await
    }

    /// A pinned image is not removed by garbage collection ([`Image::pinned`] tells the kubelet).
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        let name = name.to_owned();
        self.inner
            .change_records(move |records| {
                let id = records.find(&name)?.map(|r| r.id.clone()).ok_or(Error::NotPresent(name))?;
                records.change(|images| images.iter_mut().filter(|r| r.id == id).for_each(|r| r.pinned = pinned))
            })
            .await
    }

    async fn after_install(&self) -> Result<()> {
        if !self.inner.options.discard_blobs {
            return Ok(());
        }
        let inner = self.inner.clone();
        blocking(move || inner.collect_blobs().map(|_| ())).await
    }
}

impl Inner {
    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }

    async fn change_records<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Records) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.clone();
        blocking(move || change(&mut inner.records())).await
    }

    fn write_state(&self, boot: &str) -> Result<()> {
        let state = State { boot: boot.into(), epoch: self.epoch };
        let bytes = serde_json::to_vec(&state).map_err(|e| Error::malformed("state", e))?;
        write_durably(&self.root.join("state"), &bytes)
    }

    /// After an unclean stop: only what a record names was synced.
    fn distrust(&self) -> Result<()> {
        let records = self.records();
        let named: Vec<Digest> = records.all().iter().flat_map(Record::blobs).cloned().collect();
        for (digest, _) in self.blobs.list()? {
            if !named.contains(&digest) {
                self.blobs.distrust(&digest)?;
            }
        }
        let chains: Vec<Digest> = records.all().iter().flat_map(Record::chains).collect();
        for name in self.layers.names()? {
            if name != "empty" && !chains.iter().any(|chain| layers::name(chain) == name) {
                drop(self.layers.discard_name(&name)?);
            }
        }
        Ok(())
    }

    /// Is that layer here, and what it should be?
    async fn trusted_layer(self: &Arc<Self>, chain: &Digest) -> bool {
        let Some(info) = self.layers.get(chain) else { return false };
        if info.epoch == self.epoch {
            return true;
        }
        let inner = self.clone();
        match blocking(move || inner.layers.verify(&info, inner.epoch)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(layer = %chain, error = error.chain(), "an unpacked layer is damaged");
                false
            }
        }
    }

    async fn document(self: &Arc<Self>, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let (inner, digest) = (self.clone(), digest.clone());
        blocking(move || inner.blobs.document(&digest)).await
    }

    /// Brings damaged or missing parts of an image back, and returns its config.
    async fn restore(self: &Arc<Self>, name: &str, record: &Record, hold: &Hold) -> Result<Vec<u8>> {
        let reference = record.digests.iter().chain(&record.tags).find_map(|name| Reference::parse(name).ok());
        let sessions = reference.map_or_else(Vec::new, |reference| self.registry.sessions(&reference, &[]));
        let install = install::Install {
            inner: self,
            image: name.into(),
            layers: record.layers.clone(),
            sessions: sessions.iter().collect(),
            events: Arc::new(|_| {}),
            hold,
        };
        let damaged =
            |source: Error| Error::Damaged { image: name.into(), layer: record.id.clone(), source: Box::new(source) };
        install.run().await.map_err(damaged)?;
        if let Some(bytes) = self.document(&record.id).await? {
            return Ok(bytes);
        }
        let mut failures = Vec::new();
        for session in &sessions {
            match session.document(&record.id).await {
                Ok(bytes) => {
                    let (inner, id, guard) =
                        (self.clone(), record.id.clone(), self.locks.lock(format!("blob {}", record.id)).await);
                    let put = move || {
                        let _guard = guard;
                        inner.blobs.put_document(&id, &bytes).map(|()| bytes)
                    };
                    return blocking(put).await;
                }
                Err(error) => failures.push(error),
            }
        }
        let missing = Error::BlobMissing { image: name.into(), digest: record.id.clone() };
        Err(damaged(failures.pop().unwrap_or(missing)))
    }

    fn describe(&self, record: &Record) -> Image {
        let disk_bytes =
            record.chains().iter().filter_map(|chain| self.layers.get(chain)).map(|info| info.disk_bytes).sum();
        Image {
            id: record.id.clone(),
            repo_tags: record.tags.iter().cloned().collect(),
            repo_digests: record.digests.iter().cloned().collect(),
            size: record.size,
            disk_bytes,
            user: record.user.clone(),
            platform: record.platform.clone(),
            pinned: record.pinned,
            pulled_at_ms: record.pulled_at_ms,
        }
    }
}

/// What garbage collection must leave alone while this lives.
pub struct Hold {
    inner: Arc<Inner>,
    keys: Mutex<Vec<String>>,
}

impl Hold {
    fn new(inner: &Arc<Inner>) -> Hold {
        Hold { inner: inner.clone(), keys: Mutex::default() }
    }

    fn layer(&self, chain: &Digest) {
        self.add(layers::name(chain).to_owned());
    }

    fn blob(&self, digest: &Digest) {
        self.add(digest.to_string());
    }

    fn add(&self, key: String) {
        *lock(&self.inner.holds).entry(key.clone()).or_default() += 1;
        lock(&self.keys).push(key);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = lock(&self.inner.holds);
        for key in lock(&self.keys).drain(..) {
            if let Some(count) = holds.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    holds.remove(&key);
                }
            }
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hold")
    }
}

/// One lock per key, so that the same work is done once.
#[derive(Default)]
struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

type Guard = OwnedMutexGuard<()>;

impl Locks {
    fn of(&self, key: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.0);
        if locks.len() > 256 {
            locks.retain(|_, weak| weak.strong_count() > 0);
        }
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    async fn lock(&self, key: String) -> Guard {
        self.of(key).lock_owned().await
    }

    fn lock_blocking(&self, key: String) -> Guard {
        self.of(key).blocking_lock_owned()
    }
}

/// What several endpoints answered: one answer is the error itself.
struct Failed(Vec<Error>);

impl Failed {
    fn into_error(mut self, reference: Option<&Reference>) -> Error {
        let reference = reference.map(Reference::to_string).unwrap_or_default();
        match (self.0.pop(), self.0.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => {
                self.0.push(last);
                Error::AllEndpoints { reference, failures: self.0 }
            }
            (None, _) => Error::NoEndpoint { reference },
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Cancelled))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A second's patience: a child that was just forked has the lock's descriptor until it calls exec.
fn take_lock(lock: &File) -> Option<()> {
    for _ in 0..50 {
        if rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Some(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// What an earlier run left half done goes, without anybody waiting for it.
fn empty_tmp(root: &Path) -> Result<()> {
    let tmp = root.join("tmp");
    let entries = match fs::read_dir(&tmp) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", &tmp)(e)),
    };
    let mut old = Vec::new();
    for entry in entries.flatten() {
        // A new name first: this process will use the old ones.
        let aside = tempfile(&root.join("tmp"))?;
        let aside = blobs::Temp(aside.0.with_extension("old"));
        fs::rename(entry.path(), &aside.0).map_err(Error::io("move away", entry.path()))?;
        old.push(aside);
    }
    if !old.is_empty() {
        std::thread::spawn(move || drop(old));
    }
    Ok(())
}
