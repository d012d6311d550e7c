//! Small images made of lines, and places to keep them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime::images::digest::Digest;
use runtime::images::platform::Platform;
use runtime::images::registry::Patience;
use runtime::images::tar::{Entry, Kind, Writer};
use runtime::images::{Images, Options, Rootfs};
use serde_json::{Value, json};

pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sampan-images-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options() -> Options {
    let mut options = Options::new(Platform::parse("linux/amd64").unwrap());
    options.limits.reserve = 1 << 20;
    options.patience = Patience {
        attempts: 4,
        backoff: Duration::from_millis(1),
        max_wait: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(300),
    };
    options
}

pub fn open(dir: &Dir) -> Images {
    open_with(dir, options())
}

pub fn open_with(dir: &Dir, options: Options) -> Images {
    Images::open(dir.0.join("store"), options).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// An image of plain files: each layer is a list of (path, content).
#[derive(Clone)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// (compressed, diff id)
    pub layers: Vec<(Vec<u8>, Digest)>,
}

impl TestImage {
    pub fn new(platform: &str, pack: Pack, layers: &[&[(&str, &[u8])]]) -> TestImage {
        let tars = layers.iter().map(|files| layer_tar(files)).collect();
        TestImage::of_tars(platform, pack, tars)
    }

    pub fn of_tars(platform: &str, pack: Pack, tars: Vec<Vec<u8>>) -> TestImage {
        let layers: Vec<(Vec<u8>, Digest)> = tars.iter().map(|tar| (compress(tar, pack), Digest::of(tar))).collect();
        let mut parts = platform.split('/');
        let config = json!({
            "os": parts.next(), "architecture": parts.next(), "variant": parts.next(),
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "User": "65535"},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, diff)| diff.to_string()).collect::<Vec<_>>()},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let suffix = match pack {
            Pack::Plain => "",
            Pack::Gzip => "+gzip",
            Pack::Zstd => "+zstd",
        };
        let kind = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|(bytes, _)| descriptor(&kind, bytes)).collect::<Vec<_>>(),
        });
        TestImage { config, manifest: serde_json::to_vec(&manifest).unwrap(), layers }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub fn blob(&self, i: usize) -> Digest {
        Digest::of(&self.layers[i].0)
    }
}

pub fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

pub fn index(images: &[(&str, &TestImage)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(platform, image)| {
            let mut parts = platform.split('/');
            let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
            entry["platform"] = json!({"os": parts.next(), "architecture": parts.next(), "variant": parts.next()});
            entry
        })
        .collect();
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    serde_json::to_vec(&index).unwrap()
}

pub fn file(path: &str, size: u64) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: (1_000_000, 0),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

pub fn layer_tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, content) in files {
        writer.append(&file(path, content.len() as u64), *content).unwrap();
    }
    writer.finish().unwrap()
}

pub fn compress(bytes: &[u8], pack: Pack) -> Vec<u8> {
    use std::io::Write;
    match pack {
        Pack::Plain => bytes.to_vec(),
        Pack::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
        Pack::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// Bytes that do not compress, the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A file as a container would see it: of the topmost layer that has it.
pub fn read(rootfs: &Rootfs, path: &str) -> Option<Vec<u8>> {
    rootfs.lower.iter().find_map(|layer| std::fs::read(layer.join(path)).ok())
}

/// Collects garbage when blocking work of a failed call has noticed that nobody waits for it.
pub async fn settle(images: &Images, dir: &Dir) {
    while count(&dir.0.join("store/tmp")) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    images.gc(&[]).await.unwrap();
}

pub fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
