//! Whether a pull fits on the disk: room is asked for before it begins, and what cannot fit in any case is refused then.
//!
//! Manifests tell how large layers are packed, and nobody how large they get. So room is asked for what they mostly get,
//! and an image is refused beforehand only if it is too large even if they stayed as they are. What turns out to be too
//! large while it is unpacked stops at the reserve, and is tried once more after room was asked for again.

use super::blobs;
use super::error::{Error, Result};
use super::install::Install;
use super::records::chains;
use super::{MakeRoom, blocking};

/// A packed layer mostly becomes as many times larger.
const GROWTH: u64 = 3;

/// Bytes that an image still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Without these it cannot be.
    pub least: u64,
    pub likely: u64,
}

pub async fn install(install: &Install<'_>, make_room: Option<&MakeRoom>) -> Result<()> {
    // Who makes room does not make it of this.
    install.keep();
    ready(install, make_room, 0).await?;
    match (install.run().await, make_room) {
        (Err(Error::NoSpace { needed, .. }), Some(_)) => {
            ready(install, make_room, needed).await?;
            install.run().await
        }
        (done, _) => done,
    }
}

async fn ready(install: &Install<'_>, make_room: Option<&MakeRoom>, more: u64) -> Result<()> {
    let need = need(install).await?;
    if need.least == 0 {
        return Ok(());
    }
    if let Some(make_room) = make_room {
        make_room(Need { least: need.least.max(more), likely: need.likely.max(more) }).await;
    }
    let (path, reserve) = (install.inner.root.clone(), install.inner.options.limits.reserve);
    let free = blobs::space(&path)?.available;
    if free < need.least.saturating_add(reserve) {
        return Err(Error::NoRoom { image: install.image.clone(), path, needed: need.least, free, reserve });
    }
    Ok(())
}

async fn need(install: &Install<'_>) -> Result<Need> {
    let inner = install.inner.clone();
    let layers = install.layers.clone();
    blocking(move || {
        let partials = inner.blobs.partials()?;
        let mut need = Need { least: 0, likely: 0 };
        let chains = chains(layers.iter().map(|layer| &layer.diff));
        for (layer, _) in layers.iter().zip(&chains).filter(|(_, chain)| inner.layers.get(chain).is_none()) {
            let here = match inner.blobs.size(&layer.blob) {
                Some(size) => size,
                None => partials.iter().find(|(digest, _)| *digest == layer.blob).map_or(0, |(_, size)| *size),
            };
            let fetched = layer.size.saturating_sub(here);
            let packed = ["gzip", "zstd"].iter().any(|packing| layer.media_type.ends_with(packing));
            let unpacked = layer.size.saturating_mul(if packed { GROWTH } else { 1 });
            need.least = need.least.saturating_add(fetched).saturating_add(layer.size);
            need.likely = need.likely.saturating_add(fetched).saturating_add(unpacked);
        }
        Ok(need)
    })
    .await
}
