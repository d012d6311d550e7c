//! The node's network: pods are attached as soon as the node has its podCIDR; rules, routes and DNS follow the API.
//!
//! One task looks at everything again shortly after anything changed, and gives the kernel the difference.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use net::cluster;
use net::dns::Zone;
use net::io::{Agent, Backend, Net, Options, PodAddress, dns};
use net::ruleset::{self, Cidr};
use node::ports::{self, Attached, Error, PortMapping, Result, Sandbox};
use reconcile::World;
use reconcile::io::reflector::{self, Scope};
use reconcile::io::{BoxFuture, Client};
use schema::api::Object;
use schema::api::core::v1::{Namespace, Node, Pod, Service};
use schema::api::discovery::v1::EndpointSlice;
use schema::api::networking::v1::NetworkPolicy;
use tokio::sync::watch;

use super::health::Health;
use super::watched::{Feed, Watched};

/// What comes within this time is applied together.
const GATHER: Duration = Duration::from_millis(5);
/// A failed application is tried again.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    pub node_ips: Vec<IpAddr>,
    pub cluster_cidrs: Vec<String>,
    pub service_cidrs: Vec<String>,
    pub cluster_dns: Option<IpAddr>,
    pub domain: String,
    pub backend: Backend,
    pub resolv_conf: PathBuf,
    /// Where addresses of pods are noted: `<data-dir>/agent/network`.
    pub directory: PathBuf,
    pub policies: bool,
}

pub struct Network {
    settings: Settings,
    net: OnceLock<Arc<Net>>,
    opened: watch::Sender<bool>,
    watched: Arc<Watched>,
    /// Counts applications of everything.
    stepped: watch::Sender<u64>,
    all_pods: OnceLock<()>,
}

fn cidrs(texts: &[String]) -> Vec<Cidr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn failed(error: net::io::Error) -> Error {
    let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
    Error::Failed(format!("{error}{source}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> net::io::Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(error) => Err(Error::Failed(error.to_string())),
    }
}

impl Network {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            net: OnceLock::new(),
            opened: watch::channel(false).0,
            watched: Arc::default(),
            stepped: watch::channel(0).0,
            all_pods: OnceLock::new(),
        })
    }

    /// Follows the API until dropped.
    pub async fn run(self: Arc<Self>, client: Client) {
        let mut tasks = tokio::task::JoinSet::new();
        let own = Scope { query: format!("fieldSelector=spec.nodeName%3D{}", self.settings.node), ..Scope::default() };
        tasks.spawn(reflector::run::<Node>(client.clone(), Scope::default(), Feed(self.watched.clone())));
        tasks.spawn(reflector::run::<Service>(client.clone(), Scope::default(), Feed(self.watched.clone())));
        tasks.spawn(reflector::run::<EndpointSlice>(client.clone(), Scope::default(), Feed(self.watched.clone())));
        tasks.spawn(reflector::run::<Namespace>(client.clone(), Scope::default(), Feed(self.watched.clone())));
        let own_pods = tasks.spawn(reflector::run::<Pod>(client.clone(), own, Feed(self.watched.clone())));
        if self.settings.policies {
            tasks.spawn(reflector::run::<NetworkPolicy>(client.clone(), Scope::default(), Feed(self.watched.clone())));
        }
        let mut agent: Option<Arc<Mutex<Agent>>> = None;
        let mut health = Health::default();
        loop {
            self.watched.changed.notified().await;
            tokio::time::sleep(GATHER).await;
            let Some(objects) = self.objects() else { continue };
            if !objects.policies.is_empty() && self.all_pods.set(()).is_ok() {
                // Policies select pods anywhere; the list of all replaces that of our own.
                own_pods.abort();
                tasks.spawn(reflector::run::<Pod>(client.clone(), Scope::default(), Feed(self.watched.clone())));
            }
            let Some(net) = self.open(&objects).await else { continue };
            let agent = agent.get_or_insert_with(|| {
                let (agent, zone) = Agent::new(net, self.rules_node(), &self.settings.domain);
                if let Some(address) = self.settings.cluster_dns {
                    tasks.spawn(answer(address, zone, self.settings.resolv_conf.clone()));
                }
                Arc::new(Mutex::new(agent))
            });
            let agent = agent.clone();
            let step = blocking(move || agent.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).step(&objects));
            match step.await {
                Ok(step) => {
                    step.conflicts.iter().for_each(|conflict| tracing::warn!(%conflict, "two objects claim the same"));
                    health.set(step.health_checks);
                }
                Err(error) => {
                    tracing::warn!(%error, "the network's rules could not be applied");
                    let again = self.clone();
                    tasks.spawn(async move {
                        tokio::time::sleep(RETRY).await;
                        again.watched.changed.notify_one();
                    });
                }
            }
            self.stepped.send_modify(|steps| *steps += 1);
        }
    }

    fn rules_node(&self) -> ruleset::Node {
        ruleset::Node {
            name: self.settings.node.clone(),
            cluster_cidrs: cidrs(&self.settings.cluster_cidrs),
            service_cidrs: cidrs(&self.settings.service_cidrs),
            own_service_ips: self.settings.cluster_dns.into_iter().collect(),
            ..ruleset::Node::default()
        }
    }

    /// `None` until everything has been listed once.
    fn objects(&self) -> Option<cluster::Objects> {
        let world = self.watched.world();
        fn all<K: Object>(world: &World) -> Vec<Arc<K>> {
            world.of::<K>().values().cloned().collect()
        }
        let complete = world.of::<Node>().synced()
            && world.of::<Service>().synced()
            && world.of::<EndpointSlice>().synced()
            && world.of::<Namespace>().synced()
            && world.of::<Pod>().synced()
            && (!self.settings.policies || world.of::<NetworkPolicy>().synced());
        complete.then(|| cluster::Objects {
            services: all(&world),
            slices: all(&world),
            pods: all(&world),
            namespaces: all(&world),
            policies: all(&world),
            nodes: all(&world),
            attached: self.net.get().map(|net| net.attached()).unwrap_or_default(),
        })
    }

    /// Opens the network once the node has its podCIDRs.
    async fn open(&self, objects: &cluster::Objects) -> Option<Arc<Net>> {
        if let Some(net) = self.net.get() {
            return Some(net.clone());
        }
        let node = objects.nodes.iter().find(|node| node.metadata.name == self.settings.node)?;
        let texts =
            if node.spec.pod_cidrs.is_empty() { vec![node.spec.pod_cidr.clone()] } else { node.spec.pod_cidrs.clone() };
        let pod_cidrs = cidrs(&texts);
        if pod_cidrs.is_empty() {
            return None;
        }
        let options = Options {
            address_directory: self.settings.directory.clone(),
            pod_cidrs,
            service_cidrs: cidrs(&self.settings.service_cidrs),
            node_ips: self.settings.node_ips.clone(),
            backend: self.settings.backend,
            mtu: None,
            own_service_ips: self.settings.cluster_dns.into_iter().collect(),
        };
        match blocking(move || Net::open(options)).await {
            Ok(net) => {
                for changed in net.changed_settings() {
                    tracing::info!(?changed, "a kernel setting was changed");
                }
                let net = self.net.get_or_init(|| Arc::new(net)).clone();
                self.opened.send_replace(true);
                Some(net)
            }
            Err(error) => {
                tracing::error!(%error, "the network cannot be set up; trying again");
                tokio::time::sleep(RETRY).await;
                self.watched.changed.notify_one();
                None
            }
        }
    }

    async fn when_open(&self) -> Result<Arc<Net>> {
        let mut opened = self.opened.subscribe();
        let _ = opened.wait_for(|opened| *opened).await;
        self.net.get().cloned().ok_or_else(|| Error::Failed("the network is not set up".into()))
    }
}

/// Serves DNS on the cluster's address, which every node has.
async fn answer(address: IpAddr, zone: watch::Receiver<Option<Arc<Zone>>>, resolv_conf: PathBuf) {
    let at = SocketAddr::new(address, 53);
    loop {
        let sockets = async {
            Ok::<_, std::io::Error>(dns::Sockets {
                udp: vec![tokio::net::UdpSocket::bind(at).await?],
                tcp: vec![tokio::net::TcpListener::bind(at).await?],
            })
        };
        match sockets.await {
            Ok(sockets) => {
                let upstream = dns::Upstream::File(resolv_conf.clone());
                if let Err(error) = dns::serve(sockets, zone.clone(), upstream, Arc::default()).await {
                    tracing::warn!(%error, "the DNS server ended; starting it again");
                }
            }
            Err(error) => tracing::error!(%at, %error, "cannot serve DNS; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl ports::Network for Network {
    fn ready(&self) -> std::result::Result<(), String> {
        if self.net.get().is_some() { Ok(()) } else { Err("the node has no podCIDR yet".into()) }
    }

    fn attach<'a>(&'a self, sandbox: &'a Sandbox, pod_uid: &'a str, ports: &'a [PortMapping]) -> Attached<'a> {
        Box::pin(async move {
            let Some(netns) = sandbox.netns.clone() else { return Ok(self.settings.node_ips.clone()) };
            let net = self.when_open().await?;
            let uid = pod_uid.to_owned();
            let address: PodAddress = blocking(move || net.attach_pod(&netns, &uid)).await?;
            // Policies and hostPorts hold before the first container runs.
            if !ports.is_empty() || self.all_pods.get().is_some() {
                let mut stepped = self.stepped.subscribe();
                let before = *stepped.borrow_and_update();
                self.watched.changed.notify_one();
                let _ = tokio::time::timeout(RETRY, stepped.wait_for(|steps| *steps > before)).await;
            }
            Ok(address.ips().collect())
        })
    }

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(net) = self.net.get().cloned() else { return Ok(()) };
            let uid = pod_uid.to_owned();
            blocking(move || net.detach_pod(&uid)).await?;
            Ok(())
        })
    }

    fn keep_only<'a>(&'a self, living: &'a [(String, Sandbox)]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let net = self.when_open().await?;
            let uids: Vec<String> =
                living.iter().filter(|(_, sandbox)| sandbox.netns.is_some()).map(|(uid, _)| uid.clone()).collect();
            blocking(move || net.reconcile(&uids)).await.map(drop)
        })
    }
}
