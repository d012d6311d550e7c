//! Importing image tars: OCI layouts and docker-archives, also both in one file, as `docker save`, buildkit, skopeo,
//! podman and Kaniko write them; plain, gzip or zstd; in one pass, since they may come from a pipe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::blobs::{Ingest, check_space, sync_filesystem};
use super::compression::Decoder;
use super::digest::Digest;
use super::error::{Error, Result};
use super::install::Install;
use super::manifest::{
    Config, Descriptor, Document, MAX_DOCUMENT, Manifest, OCI_LAYER, OCI_MANIFEST, choose, null_default,
};
use super::pull::{Resolved, image_record};
use super::reference::{Reference, Version};
use super::tar::{Kind, Reader, TarError};
use super::{Event, EventSink, Hold, Images, Inner, blocking, lock};

const MAX_ENTRIES: usize = 20_000;
const MAX_NAME: usize = 1024;

#[derive(Debug)]
pub struct ImportReport {
    pub images: Vec<Imported>,
    /// Images of the archive that could not be taken, with why; the others were.
    pub failures: Vec<(String, Error)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub id: Digest,
    /// Normalised names it got.
    pub names: Vec<String>,
}

impl Images {
    pub async fn import_file(&self, path: &Path, events: Option<EventSink>) -> Result<ImportReport> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        self.import(file, &path.display().to_string(), events).await
    }

    /// Takes all images of a tar that are for our platform. `what` names the tar in errors.
    pub async fn import(
        &self,
        input: impl Read + Send + 'static,
        what: &str,
        events: Option<EventSink>,
    ) -> Result<ImportReport> {
        let inner = &self.inner;
        let events = events.unwrap_or_else(|| Arc::new(|_| {}));
        let hold = Arc::new(Hold::new(inner));
        let (scan_inner, scan_hold, scan_what) = (inner.clone(), hold.clone(), what.to_owned());
        let found = blocking(move || {
            let scan = Scan::read(&scan_inner, &scan_hold, input, &scan_what)?;
            scan.images(&scan_inner, &scan_hold)
        })
        .await?;
        if found.is_empty() {
            return Err(Error::malformed(what, "it holds no image"));
        }
        let mut report = ImportReport { images: Vec::new(), failures: Vec::new() };
        let mut records = Vec::new();
        for (name, image) in found {
            let installed = async {
                let (resolved, tags, digests) = image?;
                let record = image_record(&resolved, tags, digests);
                let install = Install {
                    inner,
                    image: name.clone(),
                    layers: record.layers.clone(),
                    sessions: Vec::new(),
                    events: events.clone(),
                    hold: &hold,
                };
                install.run().await?;
                Ok(record)
            };
            match installed.await {
                Ok(record) => records.push(record),
                Err(error) => report.failures.push((name, error)),
            }
        }
        for record in &records {
            events(Event::Done {
                image: record.tags.iter().next().cloned().unwrap_or_default(),
                id: record.id.clone(),
            });
            let names = record.tags.iter().cloned().collect();
            report.images.push(Imported { id: record.id.clone(), names });
        }
        // Of a name in several platforms only ours counts.
        report.failures.retain(|(name, error)| {
            !(matches!(error, Error::NoPlatform { .. }) && report.images.iter().any(|image| image.names.contains(name)))
        });
        let commit_inner = inner.clone();
        blocking(move || {
            sync_filesystem(&commit_inner.root)?;
            records.into_iter().try_for_each(|record| {
                lock(&commit_inner.broken).remove(&record.id);
                commit_inner.records().put(record)
            })
        })
        .await?;
        drop(hold);
        self.after_install().await?;
        Ok(report)
    }
}

/// What a tar holds: files went to the blob store, documents that describe it are here.
struct Scan {
    what: String,
    files: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct OciIndex {
    #[serde(default, deserialize_with = "null_default")]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default, deserialize_with = "null_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    layers: Vec<String>,
}

type Found = (String, Result<(Resolved, BTreeSet<String>, BTreeSet<String>)>);

impl Scan {
    fn read(inner: &Arc<Inner>, hold: &Hold, input: impl Read, what: &str) -> Result<Scan> {
        let tar = |source| Error::Tar { layer: what.into(), source };
        let decoder = Decoder::new(input).map_err(|e| Error::malformed(what, e))?;
        let mut reader = Reader::new(decoder);
        let mut scan =
            Scan { what: what.into(), files: HashMap::new(), links: HashMap::new(), index: None, manifest: None };
        let mut entries = 0;
        while let Some(entry) = reader.next_entry().map_err(tar)? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Error::Limit { what: what.into(), limit: MAX_ENTRIES as u64, unit: "entries" });
            }
            if entry.path.len().max(entry.link.len()) > MAX_NAME {
                return Err(Error::Limit { what: format!("{what}: a name"), limit: MAX_NAME as u64, unit: "bytes" });
            }
            let Ok(path) = std::str::from_utf8(&entry.path) else { continue };
            let path = clean(path);
            match entry.kind {
                Kind::Symlink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let base =
                        if entry.kind == Kind::Symlink { path.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
                    scan.links.insert(path.clone(), clean(&format!("{base}/{target}")));
                }
                Kind::File => match path.as_str() {
                    "index.json" => scan.index = Some(reader.read_to_vec(MAX_DOCUMENT).map_err(tar)?),
                    "manifest.json" => scan.manifest = Some(reader.read_to_vec(MAX_DOCUMENT).map_err(tar)?),
                    "oci-layout" | "repositories" => {}
                    _ if path.ends_with("/json") || path.ends_with("/VERSION") => {}
                    _ => {
                        let stored = store(inner, hold, &path, entry.size, &mut reader, what)?;
                        scan.files.insert(path, stored);
                    }
                },
                _ => {}
            }
        }
        Ok(scan)
    }

    fn images(&self, inner: &Arc<Inner>, hold: &Hold) -> Result<Vec<Found>> {
        let bad = |file: &str, e: serde_json::Error| Error::malformed(format!("{}: {file}", self.what), e);
        let mut found: Vec<Found> = Vec::new();
        if let Some(bytes) = &self.index {
            let index: OciIndex = serde_json::from_slice(bytes).map_err(|e| bad("index.json", e))?;
            // One image may stand there once per name.
            let mut names: BTreeMap<&Digest, BTreeSet<String>> = BTreeMap::new();
            for descriptor in &index.manifests {
                names.entry(&descriptor.digest).or_default().extend(name_of(descriptor));
            }
            for (digest, names) in names {
                let name = names.iter().next().cloned().unwrap_or_else(|| digest.to_string());
                let image = self.oci_image(inner, &name, digest).map(|resolved| {
                    let mut digests = BTreeSet::new();
                    for reference in names.iter().filter_map(|name| Reference::parse(name).ok()) {
                        digests.insert(reference.with_digest(digest).to_string());
                    }
                    (resolved, names, digests)
                });
                found.push((name, image));
            }
        }
        if let Some(bytes) = &self.manifest {
            let images: Vec<DockerImage> = serde_json::from_slice(bytes).map_err(|e| bad("manifest.json", e))?;
            for image in images {
                let tags: BTreeSet<String> = image.repo_tags.iter().filter_map(|tag| tagged(tag)).collect();
                let Some((config, _)) = self.file(&image.config) else {
                    let missing = format!("{} is missing", image.config);
                    let error = Error::malformed(format!("{}: manifest.json", self.what), missing);
                    found.push((image.repo_tags.into_iter().next().unwrap_or(image.config), Err(error)));
                    continue;
                };
                let same = found.iter_mut().find_map(|(_, found)| {
                    found.as_mut().ok().filter(|(resolved, ..)| resolved.manifest.config.digest == *config)
                });
                match same {
                    Some((_, names, _)) => names.extend(tags),
                    None => {
                        let name = tags.iter().next().cloned().unwrap_or_else(|| config.to_string());
                        let resolved = self.docker_image(inner, hold, &name, &image);
                        // Several configs per name, one for each platform, have been seen in no tool.
                        found.push((name, resolved.map(|resolved| (resolved, tags, BTreeSet::new()))));
                    }
                }
            }
        }
        Ok(found)
    }

    fn oci_image(&self, inner: &Arc<Inner>, name: &str, target: &Digest) -> Result<Resolved> {
        let document = |digest: &Digest| -> Result<Vec<u8>> {
            inner.blobs.document(digest)?.ok_or_else(|| {
                Error::malformed(format!("{}: {name}", self.what), format!("blob {digest} is missing or too large"))
            })
        };
        let mut digest = target.clone();
        let mut index = None;
        for _ in 0..4 {
            match Document::parse(&format!("{name}: manifest"), "", &document(&digest)?)? {
                Document::Index(entries) => {
                    index.get_or_insert(digest);
                    digest = choose(name, &inner.options.platform, &entries)?.digest.clone();
                }
                Document::Manifest(mut manifest) => {
                    if manifest.media_type.is_empty() {
                        manifest.media_type = OCI_MANIFEST.into();
                    }
                    let config = Config::parse(name, &document(&manifest.config.digest)?)?;
                    config.check(name, &inner.options.platform, &manifest)?;
                    return Ok(Resolved { manifest, manifest_digest: digest, index, target: target.clone(), config });
                }
            }
        }
        Err(Error::malformed(name, "its indexes are nested too deeply"))
    }

    /// A docker-archive has no manifest in the registry's sense: it gets one.
    fn docker_image(&self, inner: &Arc<Inner>, hold: &Hold, name: &str, image: &DockerImage) -> Result<Resolved> {
        let missing = |path: &str| Error::malformed(format!("{}: {name}", self.what), format!("{path} is missing"));
        let (config_digest, config_size) = self.file(&image.config).ok_or_else(|| missing(&image.config))?;
        let bytes = inner.blobs.document(config_digest)?.ok_or_else(|| missing(&image.config))?;
        let config = Config::parse(name, &bytes)?;
        let mut layers = Vec::new();
        for path in &image.layers {
            let (digest, size) = self.file(path).ok_or_else(|| missing(path))?;
            let suffix = compression_suffix(&inner.blobs.path(digest))?;
            layers.push(Descriptor::new(&format!("{OCI_LAYER}{suffix}"), digest.clone(), *size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            config: Descriptor::new(super::manifest::OCI_CONFIG, config_digest.clone(), *config_size),
            layers,
        };
        config.check(name, &inner.options.platform, &manifest)?;
        let bytes = serde_json::to_vec(&manifest).map_err(|e| Error::malformed(name, e))?;
        let digest = Digest::of(&bytes);
        hold.blob(&digest);
        inner.blobs.put_document(&digest, &bytes)?;
        Ok(Resolved { manifest, manifest_digest: digest.clone(), index: None, target: digest, config })
    }

    fn file(&self, path: &str) -> Option<&(Digest, u64)> {
        let mut path = clean(path);
        for _ in 0..8 {
            if let Some(file) = self.files.get(&path) {
                return Some(file);
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }
}

fn store<R: Read>(
    inner: &Arc<Inner>,
    hold: &Hold,
    path: &str,
    size: u64,
    reader: &mut Reader<R>,
    what: &str,
) -> Result<(Digest, u64)> {
    let reserve = inner.options.limits.reserve;
    check_space(&inner.root, size, reserve)?;
    let mut data = EntryData(reader);
    let named = path.strip_prefix("blobs/").and_then(|rest| Digest::parse(&rest.replacen('/', ":", 1)).ok());
    let Some(digest) = named else {
        let (digest, size) = inner.blobs.add(&format!("{what}: {path}"), data, inner.options.limits.bytes, reserve)?;
        hold.blob(&digest);
        return Ok((digest, size));
    };
    hold.blob(&digest);
    let _guard = inner.locks.lock_blocking(format!("blob {digest}"));
    if inner.blobs.size(&digest) != Some(size) {
        let mut ingest = Ingest::start(&inner.blobs, &digest, size)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = data.read(&mut buffer).map_err(|e| Error::malformed(format!("{what}: {path}"), e))?;
            if n == 0 {
                break;
            }
            ingest.write(&buffer[..n])?;
        }
        ingest.commit(&inner.blobs, "blob")?;
    }
    Ok((digest, size))
}

/// The current entry's data as a `Read`.
struct EntryData<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for EntryData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error {
            TarError::Read(error) => error,
            error => std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })
    }
}

/// `./a/../b//c` → `b/c`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// containerd's annotation has the full name; the OCI one may be a name or a mere tag, of which nothing can be made.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let oci = descriptor.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    full.and_then(|name| tagged(name)).or_else(|| tagged(oci?))
}

fn tagged(name: &str) -> Option<String> {
    let reference = Reference::parse(name).ok()?;
    matches!(reference.version, Version::Tag(_)).then(|| reference.to_string())
}

fn compression_suffix(path: &Path) -> Result<&'static str> {
    let mut start = [0; 4];
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let n = file.read(&mut start).map_err(Error::io("read", path))?;
    Ok(match &start[..n] {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    })
}
