//! `runtime.v1.ImageService`.

use rpc::cri::{self, image_service_server::ImageService};
use rpc::{Request, Response, Status, async_trait};

use super::{Answer, Inner, Service, Stream, now, pieces, shown, store_refused};
use crate::images::credentials::{Credentials, Login};
use crate::images::reference::Reference;
use crate::images::{Kind, PullOptions};

impl Inner {
    async fn images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let name = filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let found = if name.is_empty() {
            self.images.list().await
        } else {
            self.images.get(&name).await.map(|image| image.into_iter().collect())
        };
        Ok(found.map_err(store_refused)?.into_iter().map(shown::image).collect())
    }
}

fn name(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::invalid_argument("image is not specified"))
}

/// A login for the image's own registry, unless it names another.
fn login(asked: cri::AuthConfig, image: &str) -> Option<Login> {
    let server = asked.server_address.trim_start_matches("https://").trim_start_matches("http://");
    let registry = match server.trim_end_matches('/') {
        "" => Reference::parse(image).ok()?.repository(),
        // Docker's own name for its registry in configurations.
        server => server.trim_end_matches("/v1").trim_end_matches("/v2").to_owned(),
    };
    let credentials = if !asked.identity_token.is_empty() {
        Credentials::IdentityToken(asked.identity_token)
    } else if !asked.registry_token.is_empty() {
        Credentials::RegistryToken(asked.registry_token)
    } else if !asked.username.is_empty() {
        Credentials::Basic { username: asked.username, password: asked.password }
    } else {
        Credentials::from_auth(&asked.auth)?
    };
    Some((registry, credentials))
}

#[async_trait]
impl ImageService for Service {
    type StreamImagesStream = Stream<cri::StreamImagesResponse>;

    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let images = self.0.images(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn stream_images(&self, request: Request<cri::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        let images = self.0.images(request.into_inner().filter).await?;
        pieces(images, |images| cri::StreamImagesResponse { images })
    }

    async fn image_status(&self, request: Request<cri::ImageStatusRequest>) -> Answer<cri::ImageStatusResponse> {
        let name = name(request.into_inner().image)?;
        let image = self.0.images.get(&name).await.map_err(store_refused)?.map(shown::image);
        Ok(Response::new(cri::ImageStatusResponse { image, info: Default::default() }))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let logins = request.auth.and_then(|auth| login(auth, &name)).into_iter().collect();
        // Not to its end if the caller goes: what was fetched stays for the next try.
        let image =
            self.0.images.pull(&name, PullOptions { logins, ..PullOptions::default() }).await.map_err(store_refused)?;
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(&self, request: Request<cri::RemoveImageRequest>) -> Answer<cri::RemoveImageResponse> {
        let name = name(request.into_inner().image)?;
        if self.0.images.get(&name).await.map_err(store_refused)?.is_some() {
            match self.0.images.remove(&name, &self.0.runtime.layers_in_use()).await {
                // Somebody else was faster.
                Err(error) if error.kind() == Kind::NotPresent => {}
                done => drop(done.map_err(store_refused)?),
            }
        }
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        let usage = self.0.images.usage().await.map_err(store_refused)?;
        let filesystem = |directory: &std::path::Path, bytes, inodes| cri::FilesystemUsage {
            timestamp: now(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: directory.to_string_lossy().into_owned() }),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        let mut layers = (0, 0);
        for made in self.0.runtime.containers() {
            let (bytes, inodes) = self.0.runtime.container_disk_usage(&made.id).await.unwrap_or_default();
            layers = (layers.0 + bytes, layers.1 + inodes);
        }
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(&usage.path, usage.bytes, usage.inodes)],
            container_filesystems: vec![filesystem(&self.0.runtime.options().state_dir, layers.0, layers.1)],
        }))
    }
}
