//! `sampan server`: from flags to a control plane that answers, and a node on this machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::seams::Random;
use apiserver::{Body, Server, User, bootstrap};
use http::{Request, Response};
use pki::Leaf;
use reconcile::Runner;
use reconcile::io::{Client, Identity as Component};
use runtime::images::registries::Registries;
use schema::api::IntOrString;
use schema::api::core::v1::{Node, Service, ServicePort, ServiceSpec};
use schema::api::meta::v1::ObjectMeta;
use store::sqlite::{Options, Sqlite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::ServerArgs;
use crate::identity::{self, Identity, Wanted};
use crate::join::{self, Cluster, Desk};
use crate::listen::{self, Handler};
use crate::manners::Manners;
use crate::places::Places;
use crate::who::{self, Who};
use crate::wiring::host::{SystemClock, now_ns};
use crate::wiring::local::Local;
use crate::wiring::node_proxy::Proxy;
use crate::wiring::process;
use crate::wiring::servicelb;
use crate::{facts, files, machine, signing};

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
    pub manners: Manners,
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
    #[error(transparent)]
    Audit(#[from] crate::audit::Error),
    #[error(transparent)]
    Encryption(#[from] crate::encryption::Error),
    #[error("cannot open the datastore")]
    Store(#[from] store::sqlite::OpenError),
    #[error("cannot start the API server")]
    Start(#[from] apiserver::StartError),
    #[error("cannot prepare the cluster")]
    Bootstrap(#[from] bootstrap::Error),
    #[error("cannot use the cluster's certificates")]
    Pki(#[from] pki::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error("--kube-apiserver-arg: {0}")]
    ApiServerArg(String),
    #[error(transparent)]
    Who(#[from] who::Error),
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
            node_ports: args.service_node_port_range.clone(),
            cluster_dns: args.cluster_dns.or_else(|| facts::nth_address(&primary, 10)),
            kubeconfig_mode: args.write_kubeconfig_mode,
            token: facts::token(&args.node)?,
            manners: Manners::parse(|name| args.api_server_arg(name)).map_err(Error::ApiServerArg)?,
            addresses,
            advertise,
        })
    }
}

pub fn run(args: ServerArgs) -> Result<(), Error> {
    let settings = Settings::resolve(&args)?;
    if !args.disable_agent {
        facts::root(" (without --disable-agent a server is one)")?;
    }
    let registries = machine::registries(&args.node)?;
    let kubelet = machine::kubelet_settings(&args.node)?;
    crate::logging(&args.node.log);
    facts::raise_descriptors();
    let runtime = runtime().map_err(Error::Tokio)?;
    let outcome = runtime.block_on(serve(args, settings, registries, kubelet));
    // A step that hangs in the kernel does not keep a stopped server.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// A thread's stack holds the deepest objects that are taken, and costs nothing where nothing has touched it. Frames of
/// an unoptimised build are several times as large.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 8 << 20 } else { 2 << 20 };

/// Few threads: a board's memory is its users'.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(1, 4)))
        .thread_stack_size(STACK_BYTES)
        .build()
}

async fn serve(
    args: ServerArgs,
    settings: Settings,
    registries: Registries,
    kubelet: node::settings::Settings,
) -> Result<(), Error> {
    let started = Instant::now();
    // What is most likely to fail comes first, before anything is written.
    let listener = listen::bind(settings.listen).await?;
    let places = Places::new(&settings.data_dir);
    let server_dir = places.server();
    files::make_dir(&settings.data_dir, 0o755)?;
    files::make_dir(&server_dir, 0o700)?;
    files::make_dir(&server_dir.join("db"), 0o700)?;

    // Its lock is taken before anything of a server that has it is touched.
    let store = Arc::new(Sqlite::open(server_dir.join("db/state.db"), Options::default())?);
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

    tokio::spawn(forget_history(store.clone()));
    let proxy =
        Arc::new(Proxy::new(&identity.server_ca.bundle_pem(), &identity.kubelet_client, &identity.front_proxy)?);
    let issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
    let audiences = [issuer.clone(), "sampan".to_owned()];
    let mut who = who::resolve(&args.kube_apiserver_arg, &identity, &issuer, &audiences)?;
    let followed = std::mem::take(&mut who.followed);
    let random = Arc::new(SystemRandom);
    let stored = crate::encryption::before(&args, &places, random, store.clone())?;
    let facts = bootstrap::Facts {
        addresses: vec![settings.advertise],
        port: settings.listen.port(),
        service_cidrs: settings.service_cidrs.clone(),
        client_ca_pem: who.client_ca_pem.clone(),
        request_header_ca_pem: who.request_header_ca_pem.clone(),
        request_header_names: who.request_header_names.clone(),
    };
    let server = Server::start(api_config(&args, &settings, who, stored, proxy.clone())?).await?;
    followed.into_iter().for_each(|file| drop(tokio::spawn(file.follow(server.clone()))));
    bootstrap::run(&server, &facts).await?;
    let (_facts, facts) = watch::channel(facts);
    tokio::spawn(bootstrap::keep(server.clone(), facts));

    write_kubeconfig(&args, &settings, &identity)?;
    let (_tls, tls) = watch::channel(listen::tls(&identity.serving)?);
    let cluster = Cluster {
        cluster_cidrs: settings.cluster_cidrs.clone(),
        service_cidrs: settings.service_cidrs.clone(),
        node_ports: settings.node_ports.clone().into_inner(),
        cluster_dns: settings.cluster_dns,
        cluster_domain: args.cluster_domain.clone(),
        disable: args.disable.clone(),
    };
    let ca_pem = identity.server_ca.bundle_pem();
    let desk = Desk {
        server_ca: identity.server_ca.clone(),
        client_ca: identity.client_ca.clone(),
        server_secret: identity.server_secret.clone(),
        agent_secret: identity.agent_secret.clone(),
        own: (!args.disable_agent).then(|| settings.node_name.clone()),
        cluster: cluster.clone(),
    };
    let handler = Arc::new(Api { server: server.clone(), ca_pem, desk, goaway_chance: settings.manners.goaway_chance });
    let (stop, stopped) = watch::channel(false);
    let accepting = tokio::spawn(listen::serve(listener, tls, handler, stopped, settings.manners.streams));
    let client = Client::new(Arc::new(Local(server.clone())), Component("system:kube-controller-manager".into()));
    let control = control::cluster::Config {
        server_ca: identity.server_ca.bundle_pem(),
        cluster_cidrs: settings.cluster_cidrs.clone(),
        signer: signing::signer(&identity),
    };
    let clock = || (now_ns(), random_bits());
    let mut rows = Vec::new();
    if !args.disable_controller_manager {
        rows.extend(control::controllers(&control));
        tokio::spawn(control::io::namespaces::run(client.clone()));
        tokio::spawn(control::io::garbage::run(client.clone()));
    }
    if !args.disable_scheduler {
        rows.push(control::scheduler::row());
    }
    tokio::spawn(Runner::new(client.clone(), rows, clock).run());
    tracing::info!(
        address = %settings.listen,
        kubeconfig = %args.write_kubeconfig.display(),
        milliseconds = started.elapsed().as_millis(),
        "the API answers"
    );

    let local = |identity: &str| Client::new(Arc::new(Local(server.clone())), Component(identity.into()));
    if !args.disable.iter().any(|part| part == "servicelb") {
        let reserved = BTreeSet::from([settings.listen.port(), machine::KUBELET_PORT]);
        tokio::spawn(servicelb::run(local("system:sampan:servicelb"), reserved));
    }
    if let Some(address) = settings.cluster_dns.filter(|_| !args.disable.iter().any(|part| part == "dns")) {
        reserve_dns(&local("system:apiserver"), address).await;
    }
    tokio::spawn(crate::deploy::run(local("system:sampan:deployer"), places.manifests()));
    let mut machine = None;
    if !args.disable_agent {
        let now = now_ns() / 1_000_000_000;
        let names = identity::serving_names(&args.cluster_domain, &settings.node_name, &settings.addresses, &[]);
        let leaf = Leaf::kubelet_serving(&settings.node_name, names, now, identity::VALIDITY);
        files::make_dir(&places.agent(), 0o700)?;
        let serving = identity::load_leaf(&places.agent().join("serving-kubelet"), &identity.server_ca, &leaf, now)?;
        let node = machine::start(machine::Setup {
            args: &args.node,
            name: &settings.node_name,
            addresses: &settings.addresses,
            cluster: &cluster,
            places: &places,
            registries,
            kubelet: &kubelet,
            client: local(&format!("system:node:{}", settings.node_name)),
            network_client: local(join::NETWORK_USER),
            serving: &serving,
            client_ca: &identity.client_ca.bundle_pem(),
        })
        .await?;
        proxy.set_local(&settings.node_name, Arc::new(crate::wiring::kubelet::Local(node.kubelet.clone())));
        machine = Some(node);
        tokio::spawn(progress(local("system:apiserver"), settings.node_name.clone(), started));
    }

    stop_signal().await;
    tracing::info!("stopping; pods go on");
    tokio::select! {
        () = take_leave(&server, &settings.manners, stop, accepting) => {}
        // Who says it twice means now.
        () = stop_signal() => {}
    }
    if let Some(machine) = machine {
        machine.close();
    }
    if let Err(error) = store.close().await {
        tracing::warn!(%error, "the datastore did not close cleanly; nothing that was acknowledged is lost");
    }
    Ok(())
}

/// Not ready first, then no new requests; what is under way is finished, and connections are closed.
async fn take_leave(server: &Server, manners: &Manners, stop: watch::Sender<bool>, accepting: JoinHandle<()>) {
    /// What is left then is streams that know no end.
    const CLOSE: Duration = Duration::from_secs(1);
    server.begin_stop();
    tokio::time::sleep(manners.shutdown_delay).await;
    if !manners.send_retry_after {
        stop.send_replace(true);
    }
    server.drain(manners.send_retry_after, manners.request_timeout).await;
    stop.send_replace(true);
    let _ = tokio::time::timeout(CLOSE, accepting).await;
}

/// Changes stay readable for an hour, or the last hundred thousand of them: so long a client may be away and resume.
/// Looks only when something was written.
async fn forget_history(store: Arc<Sqlite>) {
    use store::{Store, retention::Retention};
    const WINDOW: Duration = Duration::from_secs(3600);
    const AT_MOST: u64 = 100_000;
    const PAUSE: Duration = Duration::from_secs(60);
    let started = Instant::now();
    let mut retention = Retention::new(WINDOW, AT_MOST);
    let mut newest = store.watermark();
    while newest.changed().await.is_ok() {
        let revision = *newest.borrow_and_update();
        if let Some(before) = retention.observe(started.elapsed(), revision)
            && let Err(error) = store.compact(before).await
        {
            tracing::warn!(%error, "old history was not forgotten");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says when the node is Ready.
async fn progress(client: Client, name: String, started: Instant) {
    let mut pause = Duration::from_millis(20);
    loop {
        let node = client.get::<Node>("", &name).await;
        let is_ready = |node: &Node| {
            node.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
        };
        if node.as_ref().is_ok_and(is_ready) {
            tracing::info!(node = name, milliseconds = started.elapsed().as_millis(), "the node is Ready");
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The Service by which people look for the cluster's DNS; every node answers at its address by itself.
async fn reserve_dns(client: &Client, address: IpAddr) {
    if client.get::<Service>("kube-system", "kube-dns").await.is_ok() {
        return;
    }
    let port = |name: &str, protocol: &str| ServicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port: 53,
        target_port: IntOrString::Int(53),
        ..ServicePort::default()
    };
    let labels =
        [("k8s-app", "kube-dns"), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "CoreDNS")];
    let service = Service {
        metadata: ObjectMeta {
            name: "kube-dns".to_owned(),
            namespace: "kube-system".to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..ObjectMeta::default()
        },
        spec: ServiceSpec {
            cluster_ip: address.to_string(),
            cluster_ips: vec![address.to_string()],
            r#type: "ClusterIP".to_owned(),
            session_affinity: "None".to_owned(),
            ports: vec![port("dns", "UDP"), port("dns-tcp", "TCP")],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    match client.create(&service).await {
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the Service kube-system/kube-dns could not be made"),
    }
}

fn api_config(
    args: &ServerArgs,
    settings: &Settings,
    who: Who,
    store: Arc<dyn store::Store>,
    proxy: Arc<Proxy>,
) -> Result<apiserver::Config, Error> {
    Ok(apiserver::Config {
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        authenticate: who.authenticator,
        authorize: who.authorizer.clone(),
        issue_token: Arc::new(who.tokens),
        node_proxy: proxy,
        admission: apiserver::admission::registry::plugins(who.authorizer, &[]),
        service_cidrs: settings.service_cidrs.clone(),
        node_ports: settings.node_ports.clone(),
        anonymous: who.anonymous,
        audit: crate::audit::audit(args)?,
        seats: settings.manners.seats,
        request_timeout: settings.manners.request_timeout,
        metrics: Arc::new(process::metrics(Places::new(&settings.data_dir).server().join("db/state.db"))),
    })
}

fn write_kubeconfig(args: &ServerArgs, settings: &Settings, identity: &Identity) -> Result<(), Error> {
    let host = if settings.listen.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { settings.listen.ip() };
    let url = format!("https://{}:{}", facts::url_host(host), settings.listen.port());
    let user = pki::kubeconfig::User::Certificate {
        certificate_pem: &identity.admin.certificate,
        key_pem: &identity.admin.key,
    };
    let text = pki::kubeconfig::render("default", &url, &identity.server_ca.bundle_pem(), &user);
    if let Some(parent) = args.write_kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::make_dir(parent, 0o755)?;
    }
    Ok(files::write(&args.write_kubeconfig, text.as_bytes(), settings.kubeconfig_mode)?)
}

/// What answers on the API's port: the API, and what a node needs before it has credentials.
struct Api {
    server: Server,
    ca_pem: String,
    desk: Desk,
    goaway_chance: f64,
}

impl Handler for Api {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        if request.uri().path() == "/cacerts" {
            return Response::new(apiserver::body::full(self.ca_pem.clone()));
        }
        if request.uri().path() == join::PATH {
            return self.desk.handle(&self.server, request).await;
        }
        // Nobody outside says who they are but by their credentials.
        debug_assert!(request.extensions().get::<User>().is_none());
        let is_http2 = request.version() == http::Version::HTTP_2;
        let mut response = self.server.handle(request).await;
        if is_http2 && self.goaway_chance > 0.0 && (random_bits() as f64) < self.goaway_chance * u64::MAX as f64 {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
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

pub async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
