//! `sampan server`: from flags to a control plane that answers, and a node on this machine.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use apiserver::{
    Body, Server, User,
    authn::{Authenticator, Setup, issue::TokenIssuer},
    bootstrap,
    seams::Random,
};
use http::{Request, Response};
use pki::jwt::{Signer, Verifier};
use reconcile::{
    Runner,
    io::{Client, Identity as Component},
};
use store::sqlite::{Options, Sqlite};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::ServerArgs,
    facts, files,
    identity::{self, Identity, Wanted},
    listen::{self, Handler},
    wiring::{
        host::{SystemClock, now_ns},
        local::Local,
        node_proxy::Proxy,
    },
};

/// The API that this release serves.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// Everything that flags say, resolved.
pub struct Settings {
    pub node_name: String,
    pub addresses: Vec<IpAddr>,
    pub advertise: IpAddr,
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub cluster_cidrs: Vec<String>,
    pub service_cidrs: Vec<String>,
    pub node_ports: std::ops::RangeInclusive<u16>,
    pub cluster_dns: Option<IpAddr>,
    pub kubeconfig_mode: u32,
    pub token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Listen(#[from] listen::Error),
    #[error(transparent)]
    Remote(#[from] crate::wiring::remote::Error),
    #[error("cannot open the datastore")]
    Store(#[from] store::sqlite::OpenError),
    #[error("cannot start the API server")]
    Start(#[from] apiserver::StartError),
    #[error("cannot prepare the cluster")]
    Bootstrap(#[from] bootstrap::Error),
    #[error("cannot use the cluster's certificates")]
    Pki(#[from] pki::Error),
    #[error("cannot start the runtime: {0}")]
    Tokio(std::io::Error),
}

impl Settings {
    pub fn resolve(args: &ServerArgs) -> Result<Self, Error> {
        let addresses = facts::node_addresses(&args.node)?;
        let advertise = args.advertise_address.or(addresses.first().copied()).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let primary = args.service_cidr.first().cloned().unwrap_or_default();
        Ok(Self {
            node_name: facts::node_name(&args.node)?,
            listen: SocketAddr::new(args.bind_address, args.https_listen_port),
            data_dir: args.node.place.data_dir.clone(),
            cluster_cidrs: args.cluster_cidr.clone(),
            service_cidrs: args.service_cidr.clone(),
            node_ports: facts::port_range(&args.service_node_port_range)?,
            cluster_dns: args.cluster_dns.or_else(|| facts::nth_address(&primary, 10)),
            kubeconfig_mode: facts::mode(&args.write_kubeconfig_mode)?,
            token: facts::token(&args.node)?,
            addresses,
            advertise,
        })
    }
}

pub fn run(args: ServerArgs) -> Result<(), Error> {
    let settings = Settings::resolve(&args)?;
    crate::logging(&args.node);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(1, 4)))
        .thread_stack_size(1 << 20)
        .build()
        .map_err(Error::Tokio)?;
    let outcome = runtime.block_on(serve(args, settings));
    // A step that hangs in the kernel does not keep a stopped server.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

async fn serve(args: ServerArgs, settings: Settings) -> Result<(), Error> {
    let started = Instant::now();
    // What is most likely to fail comes first, before anything is written.
    let listener = listen::bind(settings.listen).await?;
    let server_dir = settings.data_dir.join("server");
    files::make_dir(&settings.data_dir, 0o755)?;
    files::make_dir(&server_dir, 0o700)?;
    files::make_dir(&server_dir.join("db"), 0o700)?;

    let mut names: Vec<IpAddr> = settings.addresses.clone();
    names.push(settings.advertise);
    names.extend(settings.service_cidrs.iter().filter_map(|cidr| facts::nth_address(cidr, 1)));
    let identity = Identity::load(
        &server_dir,
        &Wanted {
            names: identity::serving_names(&args.cluster_domain, &settings.node_name, &names, &args.tls_san),
            token: settings.token.as_deref(),
            agent_token: args.agent_token.as_deref(),
            now: now_ns() / 1_000_000_000,
        },
    )?;

    let store = Arc::new(Sqlite::open(server_dir.join("db/state.db"), Options::default())?);
    let proxy = Arc::new(Proxy::new(&identity.server_ca.bundle_pem(), &identity.kubelet_client)?);
    let server = Server::start(api_config(&args, &settings, &identity, store.clone(), proxy.clone())?).await?;
    let facts = bootstrap::Facts {
        addresses: vec![settings.advertise],
        port: settings.listen.port(),
        service_cidrs: settings.service_cidrs.clone(),
        client_ca_pem: identity.client_ca.bundle_pem(),
        request_header_ca_pem: identity.front_proxy_ca.bundle_pem(),
        request_header_names: vec!["system:auth-proxy".into()],
    };
    bootstrap::run(&server, &facts).await?;
    let (_facts, facts) = tokio::sync::watch::channel(facts);
    tokio::spawn(bootstrap::keep(server.clone(), facts));

    write_kubeconfig(&args, &settings, &identity)?;
    let (_tls, tls) = tokio::sync::watch::channel(listen::tls(&identity.serving)?);
    let handler = Arc::new(Api { server: server.clone(), ca_pem: identity.server_ca.bundle_pem() });
    let accepting = tokio::spawn(listen::serve(listener, tls, handler));
    let client = Client::new(Arc::new(Local(server.clone())), Component("system:kube-controller-manager".into()));
    let control = control::cluster::Config {
        server_ca: identity.server_ca.bundle_pem(),
        cluster_cidrs: settings.cluster_cidrs.clone(),
    };
    let clock = || (now_ns(), random_bits());
    tokio::spawn(Runner::new(client.clone(), control::rows(&control), clock).run());
    tracing::info!(
        address = %settings.listen,
        kubeconfig = %args.write_kubeconfig.display(),
        milliseconds = started.elapsed().as_millis(),
        "the API answers"
    );

    stop_signal().await;
    tracing::info!("stopping; pods go on");
    accepting.abort();
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the datastore did not close cleanly; nothing that was acknowledged is lost");
    }
    Ok(())
}

fn api_config(args: &ServerArgs, settings: &Settings, identity: &Identity, store: Arc<Sqlite>, proxy: Arc<Proxy>) -> Result<apiserver::Config, Error> {
    let issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
    let audiences = vec![issuer.clone(), "sampan".to_owned()];
    let key = &identity.service_account_key;
    let verifier = Verifier::new([key.public().clone()], vec![issuer.clone()]);
    let signer = Signer::new(pki::KeyPair::from_pem(&key.to_pem())?);
    let authenticator = Authenticator::new(Setup {
        client_ca_pem: identity.client_ca.bundle_pem(),
        request_header_ca_pem: identity.front_proxy_ca.bundle_pem(),
        request_header_names: vec!["system:auth-proxy".into()],
        verifier,
        audiences: audiences.clone(),
        static_tokens: HashMap::new(),
        passwords: HashMap::new(),
    })?;
    let authorizer = Arc::new(apiserver::authz::Authorizer::default());
    Ok(apiserver::Config {
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        authenticate: Arc::new(authenticator),
        authorize: authorizer.clone(),
        issue_token: Arc::new(TokenIssuer::new(signer, &issuer, audiences)),
        node_proxy: proxy,
        admission: apiserver::admission::registry::plugins(authorizer, &[]),
        service_cidrs: settings.service_cidrs.clone(),
        node_ports: settings.node_ports.clone(),
        anonymous: true,
    })
}

fn write_kubeconfig(args: &ServerArgs, settings: &Settings, identity: &Identity) -> Result<(), Error> {
    let host = if settings.listen.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { settings.listen.ip() };
    let url = format!("https://{}:{}", facts::url_host(host), settings.listen.port());
    let user = pki::kubeconfig::User::Certificate { certificate_pem: &identity.admin.certificate, key_pem: &identity.admin.key };
    let text = pki::kubeconfig::render("default", &url, &identity.server_ca.bundle_pem(), &user);
    if let Some(parent) = args.write_kubeconfig.parent() {
        files::make_dir(parent, 0o755)?;
    }
    Ok(files::write(&args.write_kubeconfig, text.as_bytes(), settings.kubeconfig_mode)?)
}

/// What answers on the API's port: the API, and what a node needs before it has credentials.
struct Api {
    server: Server,
    ca_pem: String,
}

impl Handler for Api {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        if request.uri().path() == "/cacerts" {
            return Response::new(apiserver::body::full(self.ca_pem.clone()));
        }
        // Nobody outside says who they are but by their credentials.
        debug_assert!(request.extensions().get::<User>().is_none());
        self.server.handle(request).await
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        use ring::rand::SecureRandom;
        // The kernel's generator fails only where there is none.
        if ring::rand::SystemRandom::new().fill(bytes).is_err() {
            tracing::error!("the kernel gives no random bytes");
            std::process::abort();
        }
    }
}

fn random_bits() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
