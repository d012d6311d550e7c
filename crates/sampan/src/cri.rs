//! `sampan cri`: the runtime alone behind a CRI v1 socket; and the same socket of a running node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::containers::Runtime;
use runtime::cri::{Network, Settings, routes};
use runtime::images::Images;

use crate::cli::CriArgs;
use crate::places::Places;
use crate::wiring::cni::Cni;
use crate::wiring::cri::Alone;
use crate::wiring::runtime::{image_store, registries};
use crate::{facts, files};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{0}")]
    Registries(String),
    #[error("cannot open the image store: {0}")]
    Images(String),
    #[error("cannot start the container runtime")]
    Runtime(#[from] runtime::containers::Error),
    #[error("cannot set up the network: {0}")]
    Network(String),
    #[error("cannot listen on {}: {source}", path.display())]
    Listen { path: std::path::PathBuf, source: std::io::Error },
    #[error("cannot start tokio: {0}")]
    Tokio(std::io::Error),
}

pub fn run(args: CriArgs) -> Result<(), Error> {
    facts::root("")?;
    crate::logging(&args.log);
    facts::raise_descriptors();
    let runtime = crate::server::runtime().map_err(Error::Tokio)?;
    let outcome = runtime.block_on(serve_alone(args));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve_alone(args: CriArgs) -> Result<(), Error> {
    let places = Places::new(&args.place.data_dir);
    let socket = args.address.clone().unwrap_or_else(|| places.cri_socket());
    for dir in [&places.agent(), &places.run_dir] {
        files::make_dir(dir, 0o755)?;
    }
    let registries = registries(&args.private_registry).map_err(Error::Registries)?;
    let images = image_store(&places.images(), registries).map_err(Error::Images)?;
    let mut options = places.runtime();
    // Its caller rotates logs, and says so by ReopenContainerLog.
    options.log_max_bytes = 0;
    let runtime = Runtime::open(options).await?;
    let network: Arc<dyn Network> = match &args.cni_conf_dir {
        Some(conf_dir) => Arc::new(Cni::new(conf_dir, &args.cni_bin_dir, &places.agent().join("cni"))?),
        None => Arc::new(Alone::open(&places.network(), &args.cluster_cidr, runtime.clone()).map_err(Error::Network)?),
    };
    let (served, commands) = (images.clone(), places.images_socket());
    tokio::spawn(async move { crate::images::serve(served, &commands).await });
    serve(&places, &socket, runtime, images.clone(), network)
        .await
        .map_err(|source| Error::Listen { path: socket.clone(), source })?;
    tracing::info!(socket = %socket.display(), "the runtime is ready");
    crate::server::stop_signal().await;
    tracing::info!("stopping; pods go on");
    let _ = std::fs::remove_file(&socket);
    if let Err(error) = images.close() {
        tracing::warn!(error = %error.chain(), "the image store did not close cleanly; it will be looked at");
    }
    Ok(())
}

/// Listens for CRI from now on.
pub async fn serve(
    places: &Places,
    socket: &Path,
    runtime: Runtime,
    images: Images,
    network: Arc<dyn Network>,
) -> std::io::Result<()> {
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").into(),
        cgroup_parent: format!("{}/k8s.io", places.cgroup_root()),
        cdi: crate::wiring::cdi::inject,
    };
    let routes = routes(runtime, images, network, settings).await?;
    let listener = files::listen(socket, 0o660)?;
    tokio::spawn(rpc::serve(listener, routes));
    Ok(())
}
