//! The handle that everything goes through: what it is made of, how it starts, and reads for those inside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use schema::Value;
use store::{Revision, retention::Retention};
use tokio::{sync::watch, time::Instant};

use crate::admission::Plugin;
use crate::cache::{Entry, Storage};
use crate::fairness::Fairness;
use crate::kind::{Held, Kind, Registry, builtin, join_group_version};
use crate::metrics::Metrics;
use crate::publish::{Publisher, read_all};
use crate::seams::{Authenticate, Authorize, Clock, IssueToken, NodeProxy, Random};
use crate::{Status, encode};

/// What a server is made of.
pub struct Config {
    pub store: Arc<dyn store::Store>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub authenticate: Arc<dyn Authenticate>,
    pub authorize: Arc<dyn Authorize>,
    pub issue_token: Arc<dyn IssueToken>,
    pub node_proxy: Arc<dyn NodeProxy>,
    /// In the order in which they run.
    pub admission: Vec<Box<dyn Plugin>>,
    /// First family first: `10.43.0.0/16`, `fd00:43::/112`.
    pub service_cidrs: Vec<String>,
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// Which requests without credentials are `system:anonymous`.
    pub anonymous: crate::authn::config::Anonymous,
    pub audit: Option<Arc<crate::audit::Audit>>,
    /// Requests that may be worked on at a time: `--max-requests-inflight` and `--max-mutating-requests-inflight`.
    pub seats: u64,
    /// `--request-timeout`: what is neither a watch nor a stream is done by then; zero is no limit.
    pub request_timeout: Duration,
    /// What the process has to add to `/metrics`.
    pub metrics: Arc<dyn Fn(&mut crate::Page) + Send + Sync>,
}

/// The API server: a cheap handle.
#[derive(Clone)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) publisher: Publisher,
    registry: RwLock<Arc<Registry>>,
    /// The newest revision worth a bookmark; moves at most once a minute.
    pub(crate) bookmark: watch::Sender<Revision>,
    /// Pages of a list at an earlier revision are no longer given out, whatever the store still has.
    pub(crate) pages_since: AtomicU64,
    pub(crate) fairness: Fairness,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: crate::stop::Stop,
    pub(crate) allocators: crate::behaviours::Allocators,
    pub(crate) documents: crate::discovery::Documents,
    pub(crate) remotes: crate::aggregate::Remotes,
    pub(crate) impersonation: crate::authn::impersonation::Modes,
}

const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Upstream's compaction interval: clients know continue tokens to expire after this and at most twice this.
const PAGES_WINDOW: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read {prefix} from the datastore")]
    Load {
        prefix: String,
        #[source]
        source: store::Error,
    },
    #[error("service CIDR {cidr}: {why}")]
    ServiceCidr { cidr: String, why: &'static str },
}

impl Server {
    /// Reads the store into the caches and begins to follow it. Needs a tokio runtime.
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let mut registry = Registry::default();
        for resource in builtin().resources.iter().filter(|r| r.enabled) {
            let stored = !resource.prefix.is_empty();
            let storage = stored.then(|| match registry.storage(&resource.prefix) {
                Some(storage) => storage.clone(),
                None => Arc::new(storage_of(resource)),
            });
            registry.add(Kind::new(Held::Static(resource), None, storage));
        }
        let allocators = crate::behaviours::Allocators::new(&config.service_cidrs, config.node_ports.clone())
            .map_err(|(cidr, why)| StartError::ServiceCidr { cidr, why })?;
        let mut at = None;
        for storage in registry.storages() {
            let (entries, revision) = read_all(&*config.store, &storage.prefix, at)
                .await
                .map_err(|source| StartError::Load { prefix: storage.prefix.to_string(), source })?;
            at.get_or_insert(revision);
            storage.load(entries, at.unwrap_or(revision));
        }
        let mut seed = [0; 8];
        config.random.fill(&mut seed);
        let server = Server {
            inner: Arc::new(Inner {
                publisher: Publisher::new(at.unwrap_or(0)),
                registry: RwLock::new(Arc::new(registry)),
                bookmark: watch::channel(0).0,
                pages_since: AtomicU64::new(0),
                fairness: Fairness::new(config.seats, u64::from_le_bytes(seed)),
                metrics: Arc::default(),
                stop: crate::stop::Stop::default(),
                allocators,
                documents: crate::discovery::Documents::default(),
                remotes: crate::aggregate::Remotes::default(),
                impersonation: crate::authn::impersonation::Modes::default(),
                config,
            }),
        };
        crate::behaviours::repair(&server);
        crate::fairness::configure(&server);
        crate::crd::load(&server).await;
        tokio::spawn(server.clone().follow());
        tokio::spawn(server.clone().send_bookmarks());
        tokio::spawn(crate::fairness::follow(server.clone()));
        tokio::spawn(crate::crd::follow(server.clone()));
        tokio::spawn(crate::aggregate::follow(server.clone()));
        tokio::spawn(crate::admission::policies::follow(server.clone()));
        tokio::spawn(crate::expire::expire_events(server.clone()));
        Ok(server)
    }

    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The kinds served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.inner.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_registry(&self, registry: Registry) {
        *self.inner.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    /// The revision up to which all caches are complete.
    pub fn revision(&self) -> Revision {
        self.inner.publisher.applied()
    }

    /// The cache of a resource, for those who follow it: `storage("", "pods")`.
    pub fn storage(&self, group: &str, resource: &str) -> Option<Arc<Storage>> {
        self.registry().preferred(group, resource)?.storage.clone()
    }

    /// A stored object, without the disk; namespace `""` for cluster-scoped kinds.
    pub fn entry(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let storage = self.storage(group, resource)?;
        storage.get(&storage.key(namespace, name))
    }

    /// A stored object as a value in the preferred version.
    pub fn read(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let registry = self.registry();
        let kind = registry.preferred(group, resource)?;
        let storage = kind.storage.as_ref()?;
        let entry = storage.get(&storage.key(namespace, name))?;
        encode::decode(kind, &entry.body).ok()
    }

    /// All stored objects of a namespace (`""`: of all) as values in the preferred version.
    pub fn read_all(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let registry = self.registry();
        let Some(kind) = registry.preferred(group, resource) else { return Vec::new() };
        let Some(storage) = &kind.storage else { return Vec::new() };
        let (entries, _) = storage.newest(&storage.span(namespace));
        entries.iter().filter_map(|e| encode::decode(kind, &e.body).ok()).collect()
    }

    /// A value in the preferred version of its resource.
    pub fn decode(&self, group: &str, resource: &str, entry: &Entry) -> Result<Value, Status> {
        let registry = self.registry();
        let kind = registry.preferred(group, resource).ok_or_else(Status::no_such_resource)?;
        encode::decode(kind, &entry.body)
    }

    /// Once a minute at most, and only if something was written: the idle server has no timer.
    async fn send_bookmarks(self) {
        let mut applied = self.inner.publisher.subscribe();
        let started = Instant::now();
        let mut pages = Retention::new(PAGES_WINDOW, Revision::MAX);
        while applied.changed().await.is_ok() {
            tokio::time::sleep(BOOKMARK_INTERVAL).await;
            let revision = *applied.borrow_and_update();
            self.inner.bookmark.send_replace(revision);
            if let Some(since) = pages.observe(started.elapsed(), revision) {
                self.inner.pages_since.store(since, Ordering::Relaxed);
            }
        }
    }
}

fn storage_of(resource: &schema::Resource) -> Storage {
    let table = builtin();
    let stored = table
        .resources
        .iter()
        .find(|r| r.kind == resource.kind && join_group_version(&r.group, &r.version) == *resource.storage)
        .unwrap_or(resource);
    let api_version = join_group_version(&stored.group, &stored.version);
    Storage::new(&resource.prefix, resource.namespaced, Some((table, stored.message)), &api_version, &stored.kind)
}
