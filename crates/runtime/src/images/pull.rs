//! A pull: name → manifest for our platform → config → layers → record.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::credentials::{Credentials, fitting};
use super::digest::Digest;
use super::error::{Error, Kind, Result};
use super::install::Install;
use super::manifest::{Config, Descriptor, Document, Manifest, OCI_MANIFEST, choose};
use super::records::{Record, RecordLayer};
use super::reference::{Reference, Version};
use super::registry::{Fetched, Session};
use super::{Event, Failed, Hold, Inner, PullOptions, blobs, blocking, lock, space};

/// Indexes may point to indexes, but not for ever.
const MAX_NESTING: usize = 3;

pub struct Resolved {
    pub manifest: Manifest,
    pub manifest_digest: Digest,
    pub index: Option<Digest>,
    /// What the name stands for: the index or the manifest.
    pub target: Digest,
    pub config: Config,
}

/// The image, and the login that its registry wanted.
pub async fn pull(inner: &Arc<Inner>, name: &str, options: &PullOptions) -> Result<(Digest, Option<Credentials>)> {
    let events = options.events.clone().unwrap_or_else(|| Arc::new(|_| {}));
    let reference = Reference::parse(name)?;
    let sessions = inner.registry.sessions(&reference, &fitting(&options.logins, &reference.repository()));
    if sessions.is_empty() {
        return Err(Error::NoEndpoint { reference: reference.to_string() });
    }
    let hold = Hold::new(inner);
    events(Event::Resolving { image: reference.to_string() });
    let policy = &inner.options.policy;
    if policy.accepts(&reference)
        && let Some(id) = unchanged(inner, &reference, &sessions[0]).await?
    {
        return Ok((id, sessions[0].login()));
    }
    let (resolved, served_by) = resolve(inner, &reference, &sessions, &hold).await?;
    policy.check(&reference, &[&resolved.target, &resolved.manifest_digest], &sessions[served_by]).await?;
    events(Event::Resolved {
        image: reference.to_string(),
        digest: resolved.target.clone(),
        platform: resolved.config.platform.clone(),
        layers: resolved.manifest.layers.len(),
        size: resolved.manifest.layers.iter().map(|layer| layer.size).sum(),
    });
    // Whoever served the manifest has the layers most likely.
    let mut order: Vec<&Session> = sessions.iter().collect();
    order.rotate_left(served_by);
    let record = record(&resolved, &reference);
    let install = Install {
        inner,
        image: reference.to_string(),
        layers: record.layers.clone(),
        sessions: order,
        events: events.clone(),
        hold: &hold,
    };
    space::install(&install, options.make_room.as_ref()).await?;
    let id = record.id.clone();
    commit(inner, record).await?;
    events(Event::Done { image: reference.to_string(), id: id.clone() });
    Ok((id, sessions[served_by].login()))
}

/// Writes the record, after everything it names is on the disk.
pub async fn commit(inner: &Arc<Inner>, record: Record) -> Result<()> {
    let inner = inner.clone();
    blocking(move || {
        blobs::sync_filesystem(&inner.root)?;
        let id = record.id.clone();
        inner.records().put(record)?;
        lock(&inner.broken).remove(&id);
        Ok(())
    })
    .await
}

/// Is what the registry has under that name here already? Asks it with HEAD only, and also for a digest: whoever pulls
/// has to show that he may.
async fn unchanged(inner: &Arc<Inner>, reference: &Reference, session: &Session) -> Result<Option<Digest>> {
    let known = |reference: &Reference| -> Result<Option<Record>> {
        Ok(inner.records().find(&reference.to_string())?.cloned())
    };
    // A node that has never seen the name will need the manifest anyway.
    if known(reference)?.is_none() {
        return Ok(None);
    }
    let Some(digest) = session.head().await else { return Ok(None) };
    let Some(mut record) = known(&reference.with_digest(&digest))? else { return Ok(None) };
    for chain in record.chains() {
        if !inner.trusted_layer(&chain).await {
            return Ok(None);
        }
    }
    let id = record.id.clone();
    if let Version::Tag(_) = reference.version
        && !record.tags.contains(&reference.to_string())
    {
        record.tags = BTreeSet::from([reference.to_string()]);
        inner.change_records(move |records| records.put(record)).await?;
    }
    Ok(Some(id))
}

/// Asks endpoint after endpoint; gives what it found and the number of the session that had it.
async fn resolve(
    inner: &Arc<Inner>,
    reference: &Reference,
    sessions: &[Session],
    hold: &Hold,
) -> Result<(Resolved, usize)> {
    let mut failures = Vec::new();
    for (i, session) in sessions.iter().enumerate() {
        match resolve_at(inner, reference, session, hold).await {
            Ok(resolved) => return Ok((resolved, i)),
            // About the image and this node, not about the endpoint.
            Err(error) if matches!(error.kind(), Kind::NoPlatform | Kind::Local | Kind::Cancelled) => {
                return Err(error);
            }
            Err(error) => failures.push(error),
        }
    }
    Err(Failed(failures).into_error(Some(reference)))
}

async fn resolve_at(inner: &Arc<Inner>, reference: &Reference, session: &Session, hold: &Hold) -> Result<Resolved> {
    let name = reference.to_string();
    let mut version = reference.version.clone();
    let mut declared: Option<u64> = None;
    let (mut target, mut index) = (None, None);
    for depth in 0..=MAX_NESTING {
        let here = match &version {
            Version::Digest(digest) if depth > 0 => stored(inner, digest, hold).await?,
            // The registry says who may have it.
            _ => None,
        };
        let fetched = match here {
            Some(fetched) => fetched,
            None => session.manifest(&version).await?,
        };
        if let Some(want) = declared
            && want != fetched.bytes.len() as u64
        {
            let what = format!("{name}: manifest {}", fetched.digest);
            return Err(Error::SizeMismatch { what, want, got: fetched.bytes.len() as u64 });
        }
        let document = Document::parse(&format!("{name}: manifest"), &fetched.content_type, &fetched.bytes)?;
        let digest = fetched.digest.clone();
        store(inner, fetched.digest, fetched.bytes, hold).await?;
        let target_digest = target.get_or_insert_with(|| digest.clone()).clone();
        match document {
            Document::Index(entries) => {
                let entry = choose(&name, &inner.options.platform, &entries)?;
                index.get_or_insert(digest);
                declared = Some(entry.size);
                version = Version::Digest(entry.digest.clone());
            }
            Document::Manifest(mut manifest) => {
                if manifest.media_type.is_empty() {
                    manifest.media_type =
                        if fetched.content_type.is_empty() { OCI_MANIFEST.into() } else { fetched.content_type };
                }
                let bytes = match stored(inner, &manifest.config.digest, hold).await? {
                    Some(fetched) => fetched.bytes,
                    None => session.document(&manifest.config.digest).await?,
                };
                check_size(&format!("{name}: config"), &manifest.config, &bytes)?;
                let config = Config::parse(&name, &bytes)?;
                config.check(&name, &inner.options.platform, &manifest)?;
                store(inner, manifest.config.digest.clone(), bytes, hold).await?;
                return Ok(Resolved { manifest, manifest_digest: digest, index, target: target_digest, config });
            }
        }
    }
    Err(Error::malformed(name, "its indexes are nested too deeply"))
}

fn check_size(what: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    if descriptor.size != bytes.len() as u64 {
        return Err(Error::SizeMismatch { what: what.into(), want: descriptor.size, got: bytes.len() as u64 });
    }
    Ok(())
}

async fn stored(inner: &Arc<Inner>, digest: &Digest, hold: &Hold) -> Result<Option<Fetched>> {
    hold.blob(digest);
    let (inner, digest) = (inner.clone(), digest.clone());
    blocking(move || {
        let bytes = inner.blobs.document(&digest)?;
        Ok(bytes.map(|bytes| Fetched { digest, content_type: String::new(), bytes }))
    })
    .await
}

async fn store(inner: &Arc<Inner>, digest: Digest, bytes: Vec<u8>, hold: &Hold) -> Result<()> {
    hold.blob(&digest);
    let guard = inner.locks.lock(format!("blob {digest}")).await;
    let inner = inner.clone();
    blocking(move || {
        let _guard = guard;
        inner.blobs.put_document(&digest, &bytes)
    })
    .await
}

fn record(resolved: &Resolved, reference: &Reference) -> Record {
    let tags = match &reference.version {
        Version::Tag(_) => BTreeSet::from([reference.to_string()]),
        Version::Digest(_) => BTreeSet::new(),
    };
    let digests = BTreeSet::from([reference.with_digest(&resolved.target).to_string()]);
    image_record(resolved, tags, digests)
}

pub fn image_record(resolved: &Resolved, tags: BTreeSet<String>, digests: BTreeSet<String>) -> Record {
    let manifest = &resolved.manifest;
    let layers = manifest.layers.iter().zip(&resolved.config.diff_ids).map(|(layer, diff)| RecordLayer {
        blob: layer.digest.clone(),
        size: layer.size,
        media_type: layer.media_type.clone(),
        diff: diff.clone(),
    });
    Record {
        id: manifest.config.digest.clone(),
        manifest: resolved.manifest_digest.clone(),
        manifest_type: manifest.media_type.clone(),
        index: resolved.index.clone(),
        tags,
        digests,
        layers: layers.collect(),
        size: manifest.layers.iter().map(|layer| layer.size).sum::<u64>().saturating_add(manifest.config.size),
        user: resolved.config.run.user.clone(),
        platform: resolved.config.platform.to_string(),
        pinned: false,
        pulled_at_ms: super::now_ms(),
    }
}
