//! From a manifest to unpacked layers: fetches what is missing, unpacks several layers at once, and puts each in place
//! when the one below it is. Used by pulls, imports and repairs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::digest::Digest;
use super::error::{Error, Result};
use super::layers::LayerInfo;
use super::records::{RecordLayer, chains};
use super::registry::Session;
use super::registry::blob::Download;
use super::unpack::{settle, unpack};
use super::{Event, EventSink, Hold, Inner, LayerState, blocking};

pub struct Install<'a> {
    pub inner: &'a Arc<Inner>,
    pub image: String,
    /// Bottom first.
    pub layers: Vec<RecordLayer>,
    /// Where missing blobs come from; none for an import.
    pub sessions: Vec<&'a Session>,
    pub events: EventSink,
    /// Keeps collected garbage from being what we are about to use.
    pub hold: &'a Hold,
}

impl Install<'_> {
    pub async fn run(&self) -> Result<()> {
        let chains = chains(self.layers.iter().map(|layer| &layer.diff));
        let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let placed: Vec<watch::Sender<bool>> = chains.iter().map(|_| watch::Sender::new(false)).collect();
        self.keep();
        let tasks = (0..chains.len()).map(|i| self.layer(i, &chains, &placed, &cancel.0));
        try_join_all(tasks).await?;
        Ok(())
    }

    /// What is here of it stays.
    pub fn keep(&self) {
        let chains = chains(self.layers.iter().map(|layer| &layer.diff));
        for (layer, chain) in self.layers.iter().zip(&chains) {
            self.hold.blob(&layer.blob);
            self.hold.layer(chain);
        }
    }

    /// Blobs only, for an export.
    pub async fn fetch_all(&self) -> Result<()> {
        for layer in &self.layers {
            self.hold.blob(&layer.blob);
            self.fetch(layer, false).await?;
        }
        Ok(())
    }

    async fn layer(
        &self,
        i: usize,
        chains: &[Digest],
        placed: &[watch::Sender<bool>],
        cancel: &Arc<AtomicBool>,
    ) -> Result<()> {
        let (layer, chain) = (&self.layers[i], &chains[i]);
        let guard = Arc::new(self.inner.locks.lock(format!("layer {chain}")).await);
        if self.inner.trusted_layer(chain).await {
            placed[i].send_replace(true);
            self.say(layer, LayerState::Present, layer.size);
            return Ok(());
        }
        let stored = self.fetch(layer, false).await?;
        let (stage, unpacked) = match self.unpack(layer, &guard, cancel).await {
            // A blob that was here before and has gone bad; the registry may have it whole.
            Err(error) if stored && !self.sessions.is_empty() && damaged(&error) => {
                tracing::warn!(image = self.image, blob = %layer.blob, error = error.chain(), "a stored blob is damaged; fetching it again");
                self.fetch(layer, true).await?;
                self.unpack(layer, &guard, cancel).await?
            }
            other => other?,
        };
        if let Some(below) = i.checked_sub(1) {
            // The sender lives as long as this very future.
            let _ = placed[below].subscribe().wait_for(|placed| *placed).await;
        }
        let inner = self.inner.clone();
        let lower: Vec<PathBuf> = chains[..i].iter().rev().map(|chain| inner.layers.fs(chain)).collect();
        let (chain, diff) = (chain.clone(), layer.diff.clone());
        blocking(move || {
            let _guard = guard;
            let opaque_root = unpacked.opaque_root;
            let survey = settle(&diff, &stage.0.join("fs"), unpacked, &lower, inner.options.limits.reserve)?;
            let info = LayerInfo {
                chain,
                diff,
                inodes: survey.inodes,
                disk_bytes: survey.disk_bytes,
                fingerprint: survey.fingerprint,
                opaque_root,
                epoch: inner.epoch,
            };
            inner.layers.commit(&stage, &info)
        })
        .await?;
        placed[i].send_replace(true);
        self.say(layer, LayerState::Done, layer.size);
        Ok(())
    }

    async fn unpack(
        &self,
        layer: &RecordLayer,
        guard: &Arc<super::Guard>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<(super::blobs::Temp, super::unpack::Unpacked)> {
        let _slot = self.inner.unpacks.acquire().await.map_err(|_| Error::Cancelled)?;
        self.say(layer, LayerState::Unpacking, layer.size);
        let (inner, guard, cancel) = (self.inner.clone(), guard.clone(), cancel.clone());
        let (blob, diff) = (inner.blobs.path(&layer.blob), layer.diff.clone());
        blocking(move || {
            // The lock outlives a caller that goes away: nobody else may work on this layer until we have noticed.
            let _guard = guard;
            let stage = inner.layers.stage()?;
            let unpacked = unpack(&blob, &diff, &stage.0.join("fs"), &inner.options.limits, &cancel)?;
            Ok((stage, unpacked))
        })
        .await
    }

    /// Makes the layer's blob be here; true if it was.
    async fn fetch(&self, layer: &RecordLayer, again: bool) -> Result<bool> {
        let guard = Arc::new(self.inner.locks.lock(format!("blob {}", layer.blob)).await);
        if again {
            self.inner.blobs.remove(&layer.blob)?;
        } else if self.inner.blobs.size(&layer.blob) == Some(layer.size) {
            return Ok(true);
        }
        if self.sessions.is_empty() {
            return Err(Error::BlobMissing { image: self.image.clone(), digest: layer.blob.clone() });
        }
        let _slot = self.inner.downloads.acquire().await.map_err(|_| Error::Cancelled)?;
        self.say(layer, LayerState::Downloading, 0);
        let download = Download {
            blobs: self.inner.blobs.clone(),
            digest: &layer.blob,
            size: layer.size,
            reserve: self.inner.options.limits.reserve,
            on_resume: &|from| {
                let (image, blob) = (self.image.clone(), layer.blob.clone());
                (self.events)(Event::Resuming { image, blob, from, size: layer.size });
                self.say(layer, LayerState::Downloading, from);
            },
            on_bytes: &|done| self.say(layer, LayerState::Downloading, done),
            on_retry: &|error| {
                (self.events)(Event::Retrying {
                    image: self.image.clone(),
                    what: layer.blob.to_string(),
                    error: error.chain(),
                })
            },
            guard,
        };
        download.run(&self.sessions).await?;
        Ok(false)
    }

    fn say(&self, layer: &RecordLayer, state: LayerState, done: u64) {
        (self.events)(Event::Layer {
            image: self.image.clone(),
            blob: layer.blob.clone(),
            state,
            done,
            size: layer.size,
        });
    }
}

fn damaged(error: &Error) -> bool {
    matches!(error, Error::DigestMismatch { .. } | Error::Tar { .. } | Error::Malformed { .. } | Error::Entry { .. })
}

/// Tells blocking work that nobody waits for it any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
