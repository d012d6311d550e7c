//! The kubelet: pods of this node from the API, a worker for each, and the node's own upkeep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use reconcile::io::Client;
use reconcile::io::reflector::{self, Scope};
use schema::api::core::v1::{Node, Pod, Service};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::Instant;

use crate::config::{Config, Ports};
use crate::csi::Csi;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::events::{self, Note, Recorder};
use crate::images::Puller;
use crate::memory::End;
use crate::memory::SECOND;
use crate::metrics::{Count, Metrics};
use crate::news::{News, NodeSink, PodSink, ServiceSink};
use crate::objects::{Cache, lock};
use crate::plan::{is_running, is_terminal};
use crate::pod::{SOURCE, is_critical, is_static};
use crate::ports::Resources;
use crate::recall::Recall;
use crate::register::{self, Health};
use crate::resize::{self, Deferred};
use crate::resources::Sizing;
use crate::shared::Shared;
use crate::static_pods::{self, Name, is_mirror, name_of};
use crate::store::{Behind, Store};
use crate::topology::Managers;
use crate::volumes::Volumes;
use crate::worker::{self, Handle, Orders, View};
use crate::{admission, plugins, podresources, preemption, resources, shutdown, upkeep};

pub struct Kubelet {
    pub(crate) shared: Arc<Shared>,
    notes: Mutex<Option<mpsc::Receiver<Note>>>,
    pub(crate) workers: Mutex<HashMap<String, Handle>>,
    pub(crate) store: Store,
    pub(crate) health: Mutex<Health>,
    pub(crate) node: RwLock<Option<Arc<Node>>>,
    /// Static pods, and what the API shows of them.
    pub(crate) statics: Mutex<BTreeMap<Name, Arc<Pod>>>,
    pub(crate) mirrors: Mutex<BTreeMap<Name, Arc<Pod>>>,
    pub(crate) mirrors_changed: Notify,
    /// The API has told all pods of this node once.
    listed: AtomicBool,
    /// Each of them has its worker: what belongs to none is a former pod's.
    settled: AtomicBool,
    news: mpsc::UnboundedSender<News>,
    /// Until the run begins.
    news_from: Mutex<Option<mpsc::UnboundedReceiver<News>>>,
    /// Pods as the API has them, whose new resources have no room yet.
    deferred: Mutex<HashMap<String, Arc<Pod>>>,
}

impl Kubelet {
    /// Fails only for settings that do not fit this machine, or what it has kept of them.
    pub fn new(config: Config, ports: Ports, client: Client) -> Result<Arc<Self>, String> {
        let machine = ports.host.machine();
        let fs = ports.host.fs(&config.root_dir).or_else(|_| ports.host.fs("/".as_ref())).unwrap_or_default();
        if config.fail_on_swap && machine.swap_bytes > 0 {
            return Err(
                "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false".into(),
            );
        }
        let sizing = Sizing {
            memory_bytes: machine.memory_bytes,
            swap_bytes: if config.limited_swap && machine.unified_cgroups { machine.swap_bytes } else { 0 },
            cpu_period_us: if config.cpu_quota { config.cpu_period_us } else { 0 },
            pod_pids: config.pod_pids_limit,
            hugepages: machine.hugepages.keys().map(|size| format!("hugepages-{size}")).collect(),
            oom_group: machine.unified_cgroups && !config.single_process_oom_kill,
        };
        let (_, allocatable) = register::capacity(&config, &machine, &fs);
        let (events, notes) = Recorder::new();
        let reserved = config.reserved.cpu_milli;
        let managers = Managers::new(&config.managers, &ports.host.topology(), reserved, &config.root_dir)?;
        let offline = watch::channel(false).0;
        let (kept, behind) = (config.root_dir.join("last-objects"), Behind::default());
        let recall = Recall::new(client.clone(), config.root_dir.clone(), offline.subscribe(), behind.clone());
        let csi = Arc::new(Csi::new(&config, recall.clone(), events.clone()));
        let volumes = Volumes::new(&config, recall.clone(), ports.clone(), events.clone(), csi.clone());
        let volumes = Arc::new(volumes);
        let numa = ports.host.topology().nodes.keys().copied().collect();
        let devices = Arc::new(Devices::new(config.root_dir.join("device-plugins"), numa));
        managers.add(devices.clone());
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared {
            host_ips: config.addresses.iter().map(ToString::to_string).collect(),
            runtime: ports.runtime.version().0,
            managers,
            metrics: metrics.clone(),
            health_changed: Notify::new(),
            sizing,
            volumes: volumes.clone(),
            csi,
            devices,
            dra: Dra::new(&config, recall.clone()),
            puller: Puller::new(&config, &ports, volumes, events.clone(), metrics),
            config_maps: Cache::new(client.clone(), kept.clone(), offline.subscribe(), behind.clone()),
            secrets: Cache::new(client.clone(), kept, offline.subscribe(), behind.clone()),
            recall,
            offline,
            services: RwLock::default(),
            services_known: watch::channel(false).0,
            burstable_shares: Mutex::default(),
            mounted: Mutex::default(),
            machine,
            allocatable,
            events,
            ports,
            client,
            config,
        });
        let (news, news_from) = mpsc::unbounded_channel();
        Ok(Arc::new(Self {
            statics: Mutex::default(),
            mirrors: Mutex::default(),
            mirrors_changed: Notify::new(),
            listed: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            news,
            news_from: Mutex::new(Some(news_from)),
            store: Store::new(&shared.config.root_dir, behind),
            shared,
            notes: Mutex::new(Some(notes)),
            workers: Mutex::default(),
            health: Mutex::default(),
            node: RwLock::default(),
            deferred: Mutex::default(),
        }))
    }

    /// Runs the node until the future is dropped. Containers go on without it.
    pub async fn run(self: Arc<Self>) {
        let shared = self.shared.clone();
        let (client, config) = (shared.client.clone(), &shared.config);
        let _ = std::fs::create_dir_all(config.root_dir.join("pods"));
        let (Some(notes), Some(news)) = (lock(&self.notes).take(), lock(&self.news_from).take()) else {
            tracing::error!("the kubelet runs already");
            return;
        };
        let _guard = Guard(self.clone());
        self.make_class_cgroups();
        let to = self.news.clone();
        let mine =
            Scope { namespace: String::new(), query: format!("fieldSelector=spec.nodeName%3D{}", config.node_name) };
        let this_node =
            Scope { namespace: String::new(), query: format!("fieldSelector=metadata.name%3D{}", config.node_name) };
        let everything = Scope::default();
        self.note_readiness();
        let health = {
            let kubelet = self.clone();
            move || {
                kubelet.note_readiness();
                lock(&kubelet.health).clone()
            }
        };
        shared.events.node(&config.node_name, false, "Starting", "Starting kubelet.");
        // A worker is a task of its own; these end with this future.
        tokio::select! {
            () = reflector::run::<Pod>(client.clone(), mine, PodSink(to)) => {}
            () = reflector::run::<Service>(client.clone(), everything, ServiceSink::new(shared.clone())) => {}
            () = reflector::run::<Node>(client.clone(), this_node, NodeSink(self.clone())) => {}
            () = events::write(client.clone(), shared.ports.clock.clone(), config.node_name.clone(), notes) => {}
            () = register::keep_status(shared.clone(), health) => {}
            () = register::keep_lease(client.clone(), config.node_name.clone(), shared.ports.clock.clone()) => {}
            () = self.follow_runtime() => {}
            () = upkeep::run(&self) => {}
            () = static_pods::keep(&self) => {}
            () = self.run_plugins() => {}
            () = podresources::serve(self.clone()) => {}
            () = shutdown::follow(&self) => {}
            () = self.follow_pods(news) => {}
        }
    }

    /// Drivers and plugins of others, and what they bring.
    async fn run_plugins(&self) {
        let shared = &self.shared;
        let left_behind = async {
            let mut joined = shared.csi.joined.subscribe();
            while joined.changed().await.is_ok() {
                // What pods left that ended while this node was down goes with the help of its driver.
                if self.settled.load(Ordering::Acquire) {
                    self.clean_directories(&BTreeSet::new()).await;
                }
            }
        };
        tokio::join!(
            plugins::run(shared),
            shared.csi.run(),
            shared.devices.run(),
            shared.dra.run(),
            left_behind,
            async {
                let mut changes = shared.devices.changes();
                while changes.changed().await.is_ok() {
                    let users = shared.devices.users();
                    let workers = lock(&self.workers);
                    users.iter().filter_map(|uid| workers.get(uid)).for_each(|handle| handle.wake.wake());
                }
            }
        );
    }

    fn make_class_cgroups(&self) {
        let shares = |cpu_shares| Resources { cpu_shares, ..Resources::default() };
        let (machine, reserved) = (&self.shared.machine, &self.shared.config.reserved);
        let milli = (machine.cpus * 1000).saturating_sub(reserved.cpu_milli);
        // What is reserved is not the pods' to take, whatever they ask for.
        let enforced = self.shared.config.enforce_allocatable;
        let of = |all: u64, kept: u64| if enforced { all.saturating_sub(kept) } else { 0 };
        let memory_limit_bytes = of(machine.memory_bytes, reserved.memory_bytes);
        let pids_limit = if reserved.pids > 0 { of(machine.pids_limit, reserved.pids) } else { 0 };
        let all = [
            ("kubepods", Resources { memory_limit_bytes, pids_limit, ..shares(resources::shares(milli)) }),
            ("kubepods/burstable", shares(2)),
            ("kubepods/besteffort", shares(2)),
        ];
        for (cgroup, resources) in all {
            if let Err(error) = self.shared.ports.cgroups.set(cgroup, &resources) {
                tracing::warn!(cgroup, %error, "a cgroup was not made");
            }
        }
    }

    fn note_readiness(&self) {
        let not_ready = self.shared.ports.network.ready().err();
        lock(&self.health).not_ready = not_ready.map(|why| {
            format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}"
            )
        });
    }

    /// Wakes workers whose containers changed.
    async fn follow_runtime(&self) {
        let mut changes = self.shared.ports.runtime.changes();
        loop {
            match changes.recv().await {
                Ok(change) => {
                    if let Some(handle) = lock(&self.workers).get(&change.uid) {
                        handle.wake.wake();
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    lock(&self.workers).values().for_each(|handle| handle.wake.wake())
                }
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn follow_pods(&self, mut news: mpsc::UnboundedReceiver<News>) {
        // These ask for nobody's leave.
        self.take(News::Static).await;
        let offline = tokio::time::sleep(self.shared.config.offline_after);
        tokio::pin!(offline);
        while !self.listed.load(Ordering::Acquire) {
            tokio::select! {
                more = news.recv() => match more {
                    Some(more) => self.take(more).await,
                    None => return,
                },
                () = &mut offline => {
                    self.start_offline().await;
                    break;
                }
            }
        }
        while let Some(more) = news.recv().await {
            self.take(more).await;
        }
    }

    /// No server answers: the pods that were here last run again.
    async fn start_offline(&self) {
        let pods = self.store.load();
        tracing::warn!(pods = pods.len(), "the API does not answer: the last known pods start");
        if let Some(node) = self.store.node() {
            // What was attached here is taken to be so still.
            self.shared.csi.reported.send_replace(node.status.volumes_in_use.iter().cloned().collect());
            self.take_node(node);
        }
        self.shared.services_known.send_replace(true);
        self.shared.offline.send_replace(true);
        for pod in pods {
            self.put(Arc::new(pod), true).await;
        }
    }

    async fn take(&self, news: News) {
        match news {
            News::Static => self.take_static().await,
            News::All(pods) => self.take_all(pods).await,
            News::One(pod) if is_mirror(&pod) => self.take_mirror(Arc::from(pod)),
            News::One(pod) => self.put(Arc::new(of_api(*pod)), false).await,
            News::Gone(pod) if is_mirror(&pod) => {
                let mut mirrors = lock(&self.mirrors);
                let name = name_of(&pod);
                if mirrors.get(&name).is_some_and(|known| known.metadata.uid == pod.metadata.uid) {
                    mirrors.remove(&name);
                }
                self.mirrors_changed.notify_one();
            }
            News::Gone(pod) => self.gone(*pod),
        }
        self.retry_deferred().await;
        self.set_burstable_shares();
        self.share_cpus().await;
    }

    /// Containers without CPUs of their own have those that are nobody's.
    async fn share_cpus(&self) {
        let shared = &self.shared;
        if !shared.managers.pool_changed() {
            return;
        }
        for view in self.views() {
            let uid = view.desired.uid();
            for container in view.observed.containers.iter().filter(|container| is_running(container)) {
                let Some(member) = view.desired.member(&container.name) else { continue };
                if shared.managers.has_own_cpus(uid, &container.name) {
                    continue;
                }
                let mut size = resources::of_container(&view.desired, member, &shared.sizing);
                shared.managers.place(uid, &container.name, &mut size);
                if let Err(error) = shared.ports.runtime.update_resources(uid, &container.id, &size).await {
                    tracing::warn!(pod = %view.desired.label(), %error, "a container was not moved to the shared CPUs");
                }
            }
        }
    }

    pub(crate) fn static_files_changed(&self) {
        let _ = self.news.send(News::Static);
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Whether it is known which mirrors the API has.
    pub(crate) fn mirrors_known(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Starts static pods whose files are new, and ends those whose files are gone.
    async fn take_static(&self) {
        let config = &self.shared.config;
        if config.static_pods.as_os_str().is_empty() {
            return;
        }
        let now = self.shared.ports.clock.now().div_euclid(SECOND);
        let (pods, problems) = static_pods::read(&config.static_pods, &config.node_name, now);
        for problem in problems {
            tracing::error!("a static pod cannot run: {problem}");
            self.shared.events.node(&config.node_name, true, "InvalidStaticPod", problem);
        }
        let uids: BTreeSet<String> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        for (uid, handle) in &*lock(&self.workers) {
            if is_static(&handle.pod.borrow()) && !uids.contains(uid) {
                handle.orders.send_modify(|orders| orders.orphaned = true);
            }
        }
        let mut statics = BTreeMap::new();
        for pod in pods {
            let (name, uid) = (name_of(&pod), pod.metadata.uid.clone());
            let known = lock(&self.workers).get(&uid).map(|handle| handle.pod.borrow().clone());
            if let Some(known) = known {
                statics.insert(name, known);
                continue;
            }
            // What ran under this name ends first.
            let before = lock(&self.workers)
                .values()
                .find(|handle| !handle.task.is_finished() && name_of(&handle.pod.borrow()) == name)
                .map(|handle| handle.task.clone());
            if let Some(before) = before {
                let news = self.news.clone();
                tokio::spawn(async move {
                    while !before.is_finished() && !news.is_closed() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    let _ = news.send(News::Static);
                });
                continue;
            }
            let pod = Arc::new(pod);
            statics.insert(name, pod.clone());
            self.put(pod, false).await;
        }
        *lock(&self.statics) = statics;
        for mirror in lock(&self.mirrors).values() {
            self.show_mirror(mirror);
        }
        self.mirrors_changed.notify_one();
    }

    fn take_mirror(&self, mirror: Arc<Pod>) {
        self.show_mirror(&mirror);
        lock(&self.mirrors).insert(name_of(&mirror), mirror);
        self.mirrors_changed.notify_one();
    }

    /// Lets the worker of a static pod write its status to the mirror.
    fn show_mirror(&self, mirror: &Arc<Pod>) {
        let Some(uid) = lock(&self.statics).get(&name_of(mirror)).map(|pod| pod.metadata.uid.clone()) else { return };
        if let Some(handle) = lock(&self.workers).get(&uid) {
            handle.shown.send_replace(mirror.clone());
        }
    }

    /// This node as the API has it.
    pub(crate) fn take_node(&self, node: Node) {
        let attached = node.status.volumes_attached.iter().map(|of| of.name.clone()).collect();
        self.shared.csi.attached.send_replace(attached);
        *self.node.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Arc::new(node));
        self.mirrors_changed.notify_one();
    }

    async fn take_all(&self, pods: Vec<Pod>) {
        self.shared.offline.send_replace(false);
        let (mirrors, pods): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(is_mirror);
        let pods: Vec<Pod> = pods.into_iter().map(of_api).collect();
        *lock(&self.mirrors) = BTreeMap::new();
        mirrors.into_iter().for_each(|mirror| self.take_mirror(Arc::new(mirror)));
        let mut uids: BTreeSet<String> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        uids.extend(lock(&self.statics).values().map(|pod| pod.metadata.uid.clone()));
        let here = self.shared.ports.runtime.pods().await.unwrap_or_default();
        let ours = here.iter().filter(|state| uids.contains(&state.uid));
        let living: Vec<_> = ours.filter_map(|state| Some((state.uid.clone(), state.sandbox.clone()?))).collect();
        let first = !self.listed.swap(true, Ordering::AcqRel);
        self.mirrors_changed.notify_one();
        if first && let Err(error) = self.shared.ports.network.keep_only(&living).await {
            tracing::warn!(%error, "the network of former pods was not cleaned up");
        }
        let ran: BTreeSet<String> = here.iter().map(|state| state.uid.clone()).collect();
        for pod in pods {
            // What has run here before was let in then.
            let admitted = ran.contains(&pod.metadata.uid) || !pod.status.container_statuses.is_empty();
            self.put(Arc::new(pod), admitted).await;
        }
        self.shared.managers.keep_only(|uid| uids.contains(uid));
        for (uid, handle) in &*lock(&self.workers) {
            // Static pods are their files' affair.
            if !uids.contains(uid) && !is_static(&handle.pod.borrow()) {
                handle.orders.send_modify(|orders| orders.orphaned = true);
            }
        }
        self.store.keep_only(&uids);
        self.forget_objects();
        for state in here.into_iter().filter(|state| !uids.contains(&state.uid)) {
            let known = lock(&self.workers).contains_key(&state.uid);
            if !known {
                self.orphan(&state.uid, &state.namespace, &state.name);
            }
        }
        self.clean_directories(&uids).await;
        self.settled.store(true, Ordering::Release);
    }

    /// Something of a pod that the API does not have: it is ended.
    fn orphan(&self, uid: &str, namespace: &str, name: &str) {
        let mut pod = Pod::default();
        pod.metadata.uid = uid.to_owned();
        pod.metadata.namespace = namespace.to_owned();
        pod.metadata.name = name.to_owned();
        let orders = Orders { orphaned: true, ..Orders::default() };
        let handle = worker::spawn(&self.shared, Arc::new(pod), orders);
        lock(&self.workers).insert(uid.to_owned(), handle);
    }

    /// Objects kept for an offline start that no pod of this node names.
    fn forget_objects(&self) {
        let mut named = BTreeSet::new();
        for view in self.views() {
            let refs = crate::refs::refs(&view.desired);
            let namespace = &view.desired.pod.metadata.namespace;
            named.extend(refs.config_maps.iter().map(|name| format!("configmaps-{namespace}-{name}")));
            named.extend(refs.secrets.iter().map(|name| format!("secrets-{namespace}-{name}")));
        }
        for entry in std::fs::read_dir(self.shared.config.root_dir.join("last-objects")).into_iter().flatten().flatten()
        {
            if !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Volumes and cgroups of pods that are no more.
    async fn clean_directories(&self, uids: &BTreeSet<String>) {
        // Looked at before it is asked who lives: what comes meanwhile is somebody's.
        let (pods, cgroups) = (self.shared.volumes.pods(), self.shared.ports.cgroups.of_pods());
        let known: BTreeSet<String> = lock(&self.workers).keys().cloned().chain(uids.iter().cloned()).collect();
        for uid in pods.into_iter().filter(|uid| !known.contains(uid)) {
            if let Err(error) = self.shared.volumes.unmount(&uid).await {
                tracing::warn!(uid, %error, "the directory of a former pod was not removed");
            }
        }
        for cgroup in cgroups {
            let uid = cgroup.rsplit('/').next().and_then(|name| name.strip_prefix("pod")).unwrap_or_default();
            if !known.contains(uid)
                && let Err(error) = self.shared.ports.cgroups.remove(&cgroup)
            {
                tracing::warn!(cgroup, %error, "the cgroup of a former pod was not removed");
            }
        }
    }

    async fn put(&self, pod: Arc<Pod>, admitted: bool) {
        let uid = pod.metadata.uid.clone();
        let Some(pod) = self.update(pod) else { return };
        let mut orders = Orders::default();
        let mut pod = pod;
        let fresh = !admitted && !is_terminal(&pod.status.phase) && pod.metadata.deletion_timestamp.is_none();
        let verdict = if fresh { self.admit(&pod).await } else { Ok(()) };
        if let Err(end) = verdict {
            self.shared.events.note(&*pod, "", true, reason_of(&end), end.message.clone());
            orders.end = Some(end);
        } else {
            if let Some(given) = self.store.get(&uid).filter(|given| resize::differs(&pod, given)) {
                // What it was given stands until it is known who else is here.
                lock(&self.deferred).insert(uid.clone(), pod.clone());
                pod = resize::with_given(&pod, &given);
            }
            if !is_static(&pod) {
                self.store.put(&pod);
            }
        }
        lock(&self.workers).insert(uid, worker::spawn(&self.shared, pod, orders));
    }

    /// Tells the pod's worker, if it has one; else gives the pod back.
    fn update(&self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let uid = pod.metadata.uid.clone();
        let mut workers = lock(&self.workers);
        workers.retain(|_, handle| !handle.task.is_finished());
        if let Some(handle) = workers.get(&uid) {
            let before = handle.orders.borrow().deferred.clone();
            let (pod, deferred) = self.allocate(pod, &handle.pod.borrow(), &workers, before.as_ref());
            self.store.put(&pod);
            handle.orders.send_if_modified(|orders| {
                let changed = orders.deferred != deferred;
                orders.deferred = deferred;
                changed
            });
            if !Arc::ptr_eq(&handle.pod.borrow(), &pod) {
                handle.pod.send_replace(pod);
            }
            return None;
        }
        Some(pod)
    }

    /// What a pod is given of what it asks for: all, or, as long as there is no room for its new resources, what it
    /// had, and why.
    fn allocate(
        &self,
        asked: Arc<Pod>,
        given: &Pod,
        workers: &HashMap<String, Handle>,
        before: Option<&Deferred>,
    ) -> (Arc<Pod>, Option<Deferred>) {
        let uid = &asked.metadata.uid;
        lock(&self.deferred).remove(uid);
        if is_terminal(&asked.status.phase) || !resize::differs(&asked, given) {
            return (asked, None);
        }
        let others = living(workers, uid);
        let others: Vec<&Pod> = others.iter().map(|pod| &**pod).collect();
        let generation = asked.metadata.generation;
        let events = &self.shared.events;
        let Err((_, message)) = admission::fits(&asked, &others, &self.shared.allocatable) else {
            events.note(&*asked, "", false, "ResizeStarted", resize::message("started", &asked, generation, ""));
            return (asked, None);
        };
        if before.is_none_or(|before| before.generation != generation) {
            let text = resize::message("Deferred", &asked, generation, &message);
            events.note(&*asked, "", true, "ResizeDeferred", text);
        }
        lock(&self.deferred).insert(uid.clone(), asked.clone());
        (resize::with_given(&asked, given), Some(Deferred { message, generation }))
    }

    /// Something has changed: what waits for room may have it now, the most important first.
    async fn retry_deferred(&self) {
        let mut waiting: Vec<Arc<Pod>> = lock(&self.deferred).values().cloned().collect();
        waiting.sort_by_key(|pod| std::cmp::Reverse(pod.spec.priority));
        for pod in waiting {
            let lives = lock(&self.workers).get(&pod.metadata.uid).is_some_and(|handle| !handle.task.is_finished());
            if lives {
                self.put(pod, false).await;
            } else {
                lock(&self.deferred).remove(&pod.metadata.uid);
            }
        }
    }

    async fn admit(&self, pod: &Pod) -> Result<(), End> {
        let uid = &pod.metadata.uid;
        let node = self.node();
        if lock(&self.health).shutting_down {
            return Err(admission::rejected("NodeShutdown", "Pod was rejected as the node is shutting down."));
        }
        let pressures: Vec<&str> = {
            let health = lock(&self.health);
            let pressed = [
                (health.disk_pressure, "DiskPressure"),
                (health.memory_pressure, "MemoryPressure"),
                (health.pid_pressure, "PIDPressure"),
            ];
            pressed.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
        };
        if !admission::bears(pod, &pressures) {
            let message = format!("The node had condition: [{}]. ", pressures.join(" "));
            return Err(admission::rejected("Evicted", &message));
        }
        if !self.shared.machine.apparmor && admission::wants_apparmor(pod) {
            let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
            return Err(admission::rejected("AppArmor", message));
        }
        let given = self.shared.managers.admit(pod).await;
        given.map_err(|refusal| admission::rejected(&refusal.reason, &refusal.message))?;
        let others = living(&lock(&self.workers), uid);
        let others: Vec<&Pod> = others.iter().map(|pod| &**pod).collect();
        let (config, allocatable) = (&self.shared.config, &self.shared.allocatable);
        let mut verdict = admission::admit(pod, &others, node.as_deref(), allocatable, &config.allowed_sysctls);
        if verdict.as_ref().is_err_and(|end| end.reason.starts_with("OutOf")) && is_critical(pod) {
            verdict = self.preempt(pod, &others).await;
        }
        if verdict.is_err() {
            self.shared.managers.release(uid);
        }
        verdict
    }

    /// Ends as few and as unimportant pods as make room for a critical one, and waits until they have.
    async fn preempt(&self, pod: &Pod, others: &[&Pod]) -> Result<(), End> {
        let lacking = admission::lacking(pod, others, &self.shared.allocatable);
        let victims = preemption::victims(pod, others, &lacking).map_err(|why| {
            let message = format!("Unexpected error while attempting to recover from admission failure: {why}");
            admission::rejected("UnexpectedAdmissionError", &message)
        })?;
        let resource = lacking.first().map(|of| of.name.clone()).unwrap_or_default();
        for victim in &victims {
            self.shared.metrics.count(Count::Preemptions, format!("preemption_signal=\"{resource}\""));
            let disrupted = Some("Pod was preempted by Kubelet to accommodate a critical pod.".into());
            let end = End { disrupted, ..End::new("Preempting", "Preempted in order to admit critical pod".into()) };
            self.end(&victim.metadata.uid, "Preempting", end);
        }
        let runs = |victim: &&Pod| {
            let workers = lock(&self.workers);
            let seen = workers.get(&victim.metadata.uid).map(|handle| handle.seen.borrow().clone());
            seen.is_some_and(|view| view.observed.sandbox.is_some() || view.observed.containers.iter().any(is_running))
        };
        let until = Instant::now() + PREEMPTED_WITHIN;
        while victims.iter().any(&runs) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn gone(&self, pod: Pod) {
        self.store.remove(&pod.metadata.uid);
        lock(&self.deferred).remove(&pod.metadata.uid);
        let workers = lock(&self.workers);
        let Some(handle) = workers.get(&pod.metadata.uid) else { return };
        handle.pod.send_replace(Arc::new(pod));
        handle.orders.send_modify(|orders| orders.orphaned = true);
    }

    /// `kubepods/burstable` weighs as much as its pods ask for.
    fn set_burstable_shares(&self) {
        let views: Vec<Arc<View>> = lock(&self.workers).values().map(|handle| handle.seen.borrow().clone()).collect();
        let living = views.iter().filter(|view| !view.gone && !is_terminal(&view.status.phase));
        let pods: Vec<&Pod> = living.map(|view| &*view.desired.pod).collect();
        let wanted = resources::class_cgroup(&pods, "Burstable");
        let last = lock(&self.shared.burstable_shares).replace(wanted.cpu_shares);
        if last != Some(wanted.cpu_shares)
            && let Err(error) = self.shared.ports.cgroups.set("kubepods/burstable", &wanted)
        {
            tracing::debug!(%error, "the burstable cgroup was not set");
        }
    }

    /// All pods as their workers see them.
    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        let workers = lock(&self.workers);
        let mut views: Vec<_> =
            workers.values().map(|handle| handle.seen.borrow().clone()).filter(|view| !view.gone).collect();
        drop(workers);
        views.sort_by(|a, b| {
            (&a.desired.pod.metadata.namespace, &a.desired.pod.metadata.name)
                .cmp(&(&b.desired.pod.metadata.namespace, &b.desired.pod.metadata.name))
        });
        views
    }

    /// The pod of a name; a living one before one that has ended.
    pub(crate) fn view(&self, namespace: &str, name: &str) -> Option<Arc<View>> {
        let mine = |view: &Arc<View>| {
            let meta = &view.desired.pod.metadata;
            meta.namespace == namespace && meta.name == name
        };
        self.views().into_iter().filter(mine).max_by_key(|view| !is_terminal(&view.status.phase))
    }

    /// Ends a pod for the node's sake; `disrupted` sets the condition `DisruptionTarget`. False: it ends already.
    pub(crate) fn evict(&self, view: &View, message: String, grace_seconds: i64, disrupted: bool) -> bool {
        let disrupted = disrupted.then(|| message.clone());
        let end = End { grace_seconds: Some(grace_seconds), disrupted, ..End::new("Evicted", message) };
        self.end(view.desired.uid(), "Evicted", end)
    }

    /// Tells a pod to end, and everybody why.
    pub(crate) fn end(&self, uid: &str, event: &'static str, end: End) -> bool {
        let workers = lock(&self.workers);
        let Some(handle) = workers.get(uid).filter(|handle| handle.orders.borrow().end.is_none()) else { return false };
        self.shared.events.note(&**handle.pod.borrow(), "", true, event, end.message.clone());
        handle.orders.send_modify(|orders| orders.end = Some(end));
        true
    }

    /// Waits, for tests and for shutting down, until no worker has anything left to do.
    pub fn pods(&self) -> usize {
        let mut workers = lock(&self.workers);
        workers.retain(|_, handle| !handle.task.is_finished());
        workers.len()
    }
}

/// Nobody may say of a pod of the API that it is a static one.
fn of_api(mut pod: Pod) -> Pod {
    if let Some(source) = pod.metadata.annotations.get_mut(SOURCE) {
        *source = "api".into();
    }
    pod
}

/// Pods that take room, but for one.
fn living(workers: &HashMap<String, Handle>, but: &str) -> Vec<Arc<Pod>> {
    let views = workers.iter().filter(|(uid, _)| *uid != but).map(|(_, handle)| (handle, handle.seen.borrow().clone()));
    let living = views.filter(|(_, view)| !view.gone && !is_terminal(&view.status.phase));
    living.map(|(handle, _)| handle.pod.borrow().clone()).collect()
}

/// Workers end with the run, and what is known is noted.
struct Guard(Arc<Kubelet>);

impl Drop for Guard {
    fn drop(&mut self) {
        for (_, handle) in lock(&self.0.workers).drain() {
            handle.task.abort();
        }
        self.0.shared.recall.behind.flush();
    }
}

fn reason_of(end: &End) -> &'static str {
    const REASONS: [&str; 12] = [
        "OutOfcpu", "OutOfmemory", "OutOfpods", "NodeAffinity", "NodePorts", "Evicted", "TaintToleration",
        "SysctlForbidden", "TopologyAffinityError", "SMTAlignmentError", "UnexpectedAdmissionError", "NodeShutdown",
    ];
    REASONS.into_iter().find(|reason| *reason == end.reason).unwrap_or("FailedAdmission")
}

/// A critical pod does not wait longer for those that make room for it.
const PREEMPTED_WITHIN: Duration = Duration::from_secs(60);

/// How often the node looks at its disks and memory.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
