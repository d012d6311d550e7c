//! From a claim to the directory that its volume is.

use std::path::PathBuf;

use reconcile::io::Client;
use schema::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use super::Error;

pub struct Found {
    pub path: PathBuf,
    /// `DirectoryOrCreate`: made if it is not there.
    pub create: bool,
    pub block: bool,
}

/// The volume's place, and whether it is read-only.
pub async fn resolve(client: &Client, pod: &Pod, volume: &Volume) -> Result<(Found, bool), Error> {
    let source = &volume.volume_source;
    let (name, readonly) = match &source.persistent_volume_claim {
        Some(of) => (of.claim_name.clone(), of.read_only),
        None => (format!("{}-{}", pod.metadata.name, volume.name), false),
    };
    let namespace = &pod.metadata.namespace;
    let failed = |error: reconcile::io::Error| Error::Claim(format!("failed to fetch PVC from API server: {error}"));
    let claim: PersistentVolumeClaim = client.get(namespace, &name).await.map_err(failed)?;
    if source.ephemeral.is_some() && !claim.metadata.owner_references.iter().any(|owner| owner.uid == pod.metadata.uid)
    {
        return Err(Error::Claim(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            pod.metadata.name
        )));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(Error::Claim(format!("can't start pod because PVC {namespace}/{name} is being deleted")));
    }
    if claim.status.phase != "Bound" || claim.spec.volume_name.is_empty() {
        return Err(Error::Claim(format!("PVC {namespace}/{name} is not bound")));
    }
    let bound = client.get::<PersistentVolume>("", &claim.spec.volume_name).await;
    let bound = bound.map_err(|error| Error::Claim(format!("failed to get PV {}: {error}", claim.spec.volume_name)))?;
    if bound.spec.claim_ref.as_ref().is_none_or(|of| of.uid != claim.metadata.uid) {
        return Err(Error::Claim(format!("PV {} is not bound to PVC {namespace}/{name}", bound.metadata.name)));
    }
    let block = claim.spec.volume_mode.as_deref() == Some("Block");
    let place = &bound.spec.persistent_volume_source;
    if let Some(of) = &place.host_path {
        let create = of.r#type.as_deref() == Some("DirectoryOrCreate");
        return Ok((Found { path: of.path.clone().into(), create, block }, readonly));
    }
    if let Some(of) = &place.local {
        return Ok((Found { path: of.path.clone().into(), create: false, block }, readonly));
    }
    let kind = if place.nfs.is_some() {
        "nfs"
    } else if place.csi.is_some() {
        "csi"
    } else {
        "this kind of persistent"
    };
    Err(Error::Unsupported { kind })
}
