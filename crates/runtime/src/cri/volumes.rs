//! `Mount.image`: the files of an image in a container (KEP-4639). They stand mounted below the state directory as long
//! as the container is there.

use std::path::PathBuf;

use rpc::{Status, cri};

use super::{Inner, store_refused};
use crate::images::{Rootfs, show};
use crate::lock;

impl Inner {
    fn volumes_of(&self, pod: &str, name: &str, attempt: u32) -> PathBuf {
        self.runtime.options().state_dir.join("volumes").join(format!("{pod}-{attempt}-{name}"))
    }

    /// Lays open the images that mounts name; the mounts are then of directories.
    pub async fn show_images(&self, pod: &str, asked: &mut cri::ContainerConfig) -> Result<(), Status> {
        let metadata = asked.metadata.clone().unwrap_or_default();
        let dir = self.volumes_of(pod, &metadata.name, metadata.attempt);
        for (at, mount) in asked.mounts.iter_mut().enumerate() {
            let Some(image) = mount.image.clone().filter(|image| !image.image.is_empty()) else { continue };
            let path = mount.container_path.clone();
            let invalid = |why: &str| Status::invalid_argument(format!("image volume at {path} {why}"));
            if !mount.readonly || !mount.host_path.is_empty() {
                return Err(invalid("must be read-only and have no host path"));
            }
            let rootfs = self.images.resolve(&image.image).await.map_err(store_refused)?;
            let target = dir.join(at.to_string());
            let failed = |error: std::io::Error| Status::unknown(format!("image volume at {path}: {error}"));
            self.images.show(&rootfs, &target).map_err(failed)?;
            let shown = match mount.image_sub_path.as_str() {
                "" => target,
                sub => show::beneath(&target, sub)
                    .map_err(|error| invalid(&format!("has no sub path {sub:?} in the image: {error}")))?,
            };
            mount.host_path = shown.to_string_lossy().into_owned();
            lock(&self.shown).entry(dir.clone()).or_default().push(rootfs);
        }
        Ok(())
    }

    /// Of a container that is gone or never was.
    pub fn hide_images(&self, pod: &str, name: &str, attempt: u32) {
        let dir = self.volumes_of(pod, name, attempt);
        if let Err(error) = show::hide_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "an image volume was not taken away");
        }
        lock(&self.shown).remove(&dir);
    }

    /// After a restart: the volumes of containers that are there hold their images again, others go.
    pub async fn take_up_images(&self) {
        let mut known = std::collections::HashSet::new();
        for made in self.runtime.containers() {
            let dir = self.volumes_of(&made.sandbox_id, &made.config.name, made.config.attempt);
            let mut held: Vec<Rootfs> = Vec::new();
            for mount in made.config.mounts.iter().filter(|mount| !mount.image.is_empty()) {
                held.extend(self.images.resolve(&mount.image).await.ok());
            }
            lock(&self.shown).insert(dir.clone(), held);
            known.insert(dir);
        }
        let volumes = self.runtime.options().state_dir.join("volumes");
        for entry in std::fs::read_dir(volumes).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) {
                let _ = show::hide_all(&entry.path());
            }
        }
    }
}
