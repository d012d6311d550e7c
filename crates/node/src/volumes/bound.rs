//! Volumes that are made elsewhere and brought here: PersistentVolumes, those of CSI drivers, network file systems.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use schema::api::core::v1::{NFSVolumeSource, Volume};
use schema::api::storage::v1::CSIDriver;
use serde_json::{Map, Value, json};

use super::disk::{Job, Owner};
use super::{Error, Round, TOKEN_SECONDS, Volumes, claim};
use crate::csi::{For, Source};
use crate::memory::SECOND;
use crate::ports::Nanos;

/// A volume whose driver wants to be asked again is, and one that may grow is looked at, about this often.
const AGAIN: Nanos = 75 * SECOND;

impl Volumes {
    /// What makes a volume; one that stands stays when nobody can be asked about it.
    pub(super) async fn bound(
        &self,
        round: &Round<'_>,
        volume: &Volume,
        owner: Option<Owner>,
        refresh_at: &mut Option<Nanos>,
    ) -> Result<Job, Error> {
        let made = self.bring(round, volume, owner, refresh_at).await;
        match (made, round.known.get(&volume.name)) {
            (Err(error), Some(known)) => {
                let pod = round.sources.desired.label();
                tracing::warn!(pod, volume = volume.name, %error, "a volume stays as it was");
                sooner(refresh_at, round.now + AGAIN);
                Ok(Job::Stands(known.clone()))
            }
            (made, _) => made,
        }
    }

    async fn bring(
        &self,
        round: &Round<'_>,
        volume: &Volume,
        owner: Option<Owner>,
        refresh_at: &mut Option<Nanos>,
    ) -> Result<Job, Error> {
        let pod = &round.sources.desired.pod;
        if let Some(of) = &volume.volume_source.csi {
            let source = Source::Inline { name: &volume.name, of };
            return self.of_driver(round, &source, owner, refresh_at).await;
        }
        if let Some(of) = &volume.volume_source.nfs {
            return Ok(self.nfs(&pod.metadata.uid, &volume.name, of, &[], of.read_only, owner));
        }
        let found = claim::resolve(&self.recall, pod, volume).await?;
        let (spec, name, readonly) = (&found.volume.spec, &found.volume.metadata.name, found.readonly);
        let block = found.claim.spec.volume_mode.as_deref() == Some("Block");
        let source = &spec.persistent_volume_source;
        if let Some(of) = &source.host_path {
            let create = of.r#type.as_deref() == Some("DirectoryOrCreate");
            return Ok(Job::Local { path: of.path.clone().into(), create, readonly, block, owner });
        }
        if let Some(of) = &source.local {
            if block || !is_device(of.path.as_ref()) {
                return Ok(Job::Local { path: of.path.clone().into(), create: false, readonly, block, owner });
            }
            let mut options = spec.mount_options.clone();
            options.extend(readonly.then(|| "ro".to_owned()));
            return Ok(Job::Mount {
                dir: self.dir(&pod.metadata.uid, "local-volume", name),
                kind: of.fs_type.clone().filter(|kind| !kind.is_empty()).unwrap_or_else(|| "ext4".into()),
                source: of.path.clone(),
                options,
                device: true,
                readonly,
                owner,
            });
        }
        if let Some(of) = &source.nfs {
            let readonly = readonly || of.read_only;
            return Ok(self.nfs(&pod.metadata.uid, name, of, &spec.mount_options, readonly, owner));
        }
        let Some(of) = &source.csi else {
            let kind = if source.iscsi.is_some() { "iscsi" } else { "this kind of persistent" };
            return Err(Error::Unsupported { kind });
        };
        let source = Source::Persistent { volume: &found.volume, readonly };
        let job = self.of_driver(round, &source, owner, refresh_at).await?;
        if self.csi.grows(&of.driver).await {
            sooner(refresh_at, round.now + AGAIN);
            if let Err(error) = self.csi.expand(pod, &found.volume, &found.claim).await {
                tracing::warn!(volume = name, error, "a volume did not grow");
            }
        }
        Ok(job)
    }

    fn nfs(
        &self,
        uid: &str,
        name: &str,
        of: &NFSVolumeSource,
        options: &[String],
        readonly: bool,
        owner: Option<Owner>,
    ) -> Job {
        let server = if of.server.contains(':') && !of.server.starts_with('[') {
            format!("[{}]", of.server)
        } else {
            of.server.clone()
        };
        let mut options = options.to_vec();
        options.extend(readonly.then(|| "ro".to_owned()));
        let (dir, kind) = (self.dir(uid, "nfs", name), "nfs".to_owned());
        Job::Mount { dir, kind, source: format!("{server}:{}", of.path), options, device: false, readonly, owner }
    }

    async fn of_driver(
        &self,
        round: &Round<'_>,
        source: &Source<'_>,
        owner: Option<Owner>,
        refresh_at: &mut Option<Nanos>,
    ) -> Result<Job, Error> {
        let pod = &round.sources.desired.pod;
        let object = self.csi.object(pod, source).await.map_err(Error::Refused)?;
        if object.as_ref().is_some_and(|object| object.spec.requires_republish == Some(true)) {
            sooner(refresh_at, round.now + AGAIN);
        }
        let of = For { pod, owner, tokens: self.tokens_for(round, object.as_ref()).await? };
        let mut gone = round.gone.clone();
        let mounted = tokio::select! {
            made = self.csi.publish(&of, source, object.as_ref()) => made.map_err(Error::Refused)?,
            // What was begun is undone with the pod.
            Ok(_) = gone.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()) => {
                return Err(Error::Refused("the pod is being deleted".into()));
            }
        };
        Ok(Job::Stands(mounted))
    }

    /// Tokens that a driver wants of the pods whose volumes it mounts.
    async fn tokens_for(&self, round: &Round<'_>, object: Option<&CSIDriver>) -> Result<String, Error> {
        let mut tokens = Map::new();
        for of in object.iter().flat_map(|object| &object.spec.token_requests) {
            let seconds = of.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let token = self.token(round.sources.desired, &of.audience, seconds, round.now).await?;
            let expires = schema::time::format(token.expires_seconds);
            let entry: Value = json!({"token": token.token, "expirationTimestamp": expires});
            tokens.insert(of.audience.clone(), entry);
        }
        Ok(if tokens.is_empty() { String::new() } else { Value::Object(tokens).to_string() })
    }
}

fn sooner(at: &mut Option<Nanos>, other: Nanos) {
    *at = Some(at.map_or(other, |at| at.min(other)));
}

pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}
