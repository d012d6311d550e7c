//! From a claim to the volume that it is bound to.

use schema::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use super::Error;
use crate::recall::Recall;

/// A claim and what it is bound to.
pub struct Found {
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
    pub readonly: bool,
}

/// What a pod's claim is bound to.
pub async fn resolve(recall: &Recall, pod: &Pod, volume: &Volume) -> Result<Found, Error> {
    let source = &volume.volume_source;
    let (name, readonly) = match &source.persistent_volume_claim {
        Some(of) => (of.claim_name.clone(), of.read_only),
        None => (format!("{}-{}", pod.metadata.name, volume.name), false),
    };
    let namespace = &pod.metadata.namespace;
    let failed = |error: reconcile::io::Error| Error::Claim(format!("failed to fetch PVC from API server: {error}"));
    let claim: PersistentVolumeClaim = recall.get(pod, namespace, &name).await.map_err(failed)?;
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
    let bound = recall.get::<PersistentVolume>(pod, "", &claim.spec.volume_name).await;
    let bound = bound.map_err(|error| Error::Claim(format!("failed to get PV {}: {error}", claim.spec.volume_name)))?;
    if bound.spec.claim_ref.as_ref().is_none_or(|of| of.uid != claim.metadata.uid) {
        return Err(Error::Claim(format!("PV {} is not bound to PVC {namespace}/{name}", bound.metadata.name)));
    }
    Ok(Found { claim, volume: bound, readonly })
}
