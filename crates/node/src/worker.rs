//! One pod's worker: plans, starts what the plan says, remembers how it went, and sleeps until something happens.

use std::{collections::HashSet, sync::Arc, time::Duration};

use schema::api::core::v1::{LifecycleHandler, Pod, PodStatus};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::acts::{self, Acts, Outcome};
use crate::memory::{Failure, ImageState, Memory, Probed, SECOND, Stopping};
use crate::metrics::{Count, Time};
use crate::objects::{Named, Wake};
use crate::plan::{self, Action, Input, Plan};
use crate::pod::{Desired, Kind, is_static};
use crate::ports::{ContainerState, Nanos, PodState};
use crate::probes::Probes;
use crate::publish;
use crate::refs::refs;
use crate::resize::{self, Deferred, InProgress};
use crate::shared::Shared;

/// What the kubelet holds of a worker.
pub struct Handle {
    pub wake: Arc<Wake>,
    pub pod: watch::Sender<Arc<Pod>>,
    /// A static pod's mirror, once it is known: what shows the pod's status.
    pub shown: watch::Sender<Arc<Pod>>,
    pub orders: watch::Sender<Orders>,
    /// The last status that was planned, and the containers as they were then.
    pub seen: watch::Receiver<Arc<View>>,
    pub task: tokio::task::AbortHandle,
}

/// What others may tell a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// The API has the pod no more.
    pub orphaned: bool,
    pub end: Option<crate::memory::End>,
    pub deferred: Option<Deferred>,
}

/// A pod as its worker sees it, for the kubelet's API and for admission.
#[derive(Clone, Debug)]
pub struct View {
    pub desired: Arc<Desired>,
    pub status: PodStatus,
    pub observed: PodState,
    /// Nothing is left of it on this machine.
    pub gone: bool,
}

struct Worker {
    shared: Arc<Shared>,
    desired: Arc<Desired>,
    named: Arc<Named>,
    memory: Memory,
    wake: Arc<Wake>,
    acts: Arc<Acts>,
    running: JoinSet<(Key, Outcome)>,
    in_flight: HashSet<Key>,
    probes: Probes,
    statuses: watch::Sender<Option<PodStatus>>,
    seen: watch::Sender<Arc<View>>,
    noted_backoffs: HashSet<(String, u32)>,
    next: Option<Nanos>,
    begun: Instant,
    /// When the clock was looked at last, and what it said.
    clock: (Instant, Nanos),
}

/// Actions with one key never run side by side.
type Key = (&'static str, String);

fn key(action: &Action) -> Key {
    match action {
        Action::Sandbox { .. } => ("sandbox", String::new()),
        Action::Network => ("network", String::new()),
        Action::Volumes => ("volumes", String::new()),
        Action::Image { container } => ("image", container.clone()),
        Action::Start { container, .. } => ("start", container.clone()),
        Action::PreStop { id, .. } => ("preStop", id.clone()),
        // A shorter grace is another stop.
        Action::Stop { id, grace, .. } => ("stop", format!("{id} {}", if grace.as_secs() <= 2 { "now" } else { "" })),
        Action::Resize { .. } => ("resize", String::new()),
        Action::Remove { id, .. } => ("remove", id.clone()),
        Action::StopSandbox | Action::Release | Action::Teardown | Action::Finish => ("end", String::new()),
    }
}

/// Starts a worker.
pub fn spawn(shared: &Arc<Shared>, pod: Arc<Pod>, orders: Orders) -> Handle {
    let wake = Arc::new(Wake::default());
    let desired = Arc::new(Desired::new(pod.clone()));
    let (pods_to, pods) = watch::channel(pod.clone());
    let (shown, mirrors) = watch::channel(pod.clone());
    let (orders_to, orders) = watch::channel(orders);
    let view =
        View { desired: desired.clone(), status: pod.status.clone(), observed: PodState::default(), gone: false };
    let (seen_to, seen) = watch::channel(Arc::new(view));
    let (statuses, to_write) = watch::channel(None);
    let (written_to, written) = watch::channel(None);
    let acts = Arc::new(Acts::new(shared.clone(), written, wake.clone(), pods.clone()));
    let mut memory = Memory::new(pod.status.clone());
    if memory.status.phase.is_empty() {
        memory.status.phase = "Pending".into();
    }
    let worker = Worker {
        shared: shared.clone(),
        desired,
        named: Arc::default(),
        memory,
        wake: wake.clone(),
        acts,
        running: JoinSet::new(),
        in_flight: HashSet::new(),
        probes: Probes::new(wake.clone()),
        statuses,
        seen: seen_to,
        noted_backoffs: HashSet::new(),
        next: None,
        begun: Instant::now(),
        clock: (Instant::now(), shared.ports.clock.now()),
    };
    let client = shared.client.clone();
    let task = tokio::spawn({
        let (wake, pods) = (wake.clone(), pods.clone());
        let shown = if is_static(&pod) { mirrors } else { pods.clone() };
        async move {
            tokio::select! {
                () = worker.run(pods.clone(), orders) => {}
                () = async {
                    publish::publish(client, shown, to_write, written_to, wake).await;
                    // The pod is gone from the API; what is left of it here is still the worker's.
                    std::future::pending::<()>().await;
                } => {}
            }
        }
    })
    .abort_handle();
    Handle { wake, pod: pods_to, shown, orders: orders_to, seen, task }
}

impl Worker {
    async fn run(mut self, mut pods: watch::Receiver<Arc<Pod>>, mut orders: watch::Receiver<Orders>) {
        self.follow();
        loop {
            self.take_news(&mut pods, &mut orders);
            let uid = self.desired.uid().to_owned();
            let asked = Instant::now();
            let observed = self.shared.ports.runtime.pod(&uid).await;
            self.shared.metrics.took(Time::Relist, String::new(), asked.elapsed());
            let observed = match observed {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = %self.desired.label(), %error, "the runtime does not say how a pod is");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let now = self.shared.ports.clock.now();
            self.follow_clock(now);
            self.learn(&observed, now);
            let plan = plan::plan(&Input {
                desired: &self.desired,
                observed: &observed,
                memory: &self.memory,
                now,
                host_ips: &self.shared.host_ips,
                runtime: &self.shared.runtime,
                dead_kept: usize::try_from(self.shared.config.dead_per_container).unwrap_or(usize::MAX).max(1),
            });
            if self.carry_out(plan, &observed, now).await {
                // The end may have added a reason to act: plan at once.
                continue;
            }
            let next = self.next;
            if self.memory.torn_down && self.memory.orphaned {
                self.show(&observed, true);
                return;
            }
            let sleep = async {
                match next {
                    Some(at) => {
                        let wait = (at - self.shared.ports.clock.now()).max(SECOND / 1000);
                        tokio::time::sleep(Duration::from_nanos(wait.unsigned_abs())).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = self.running.join_next(), if !self.running.is_empty() => {
                    if let Some(Ok((key, outcome))) = done {
                        self.finish(&key, outcome);
                    }
                    while let Some(done) = self.running.try_join_next() {
                        if let Ok((key, outcome)) = done {
                            self.finish(&key, outcome);
                        }
                    }
                }
                () = self.wake.woken() => {}
                changed = pods.changed() => if changed.is_err() { return },
                changed = orders.changed() => if changed.is_err() { return },
                () = sleep => {}
            }
        }
    }

    /// Somebody has set the machine's clock: what is to happen later happens as much later as before.
    fn follow_clock(&mut self, now: Nanos) {
        let passed = i64::try_from(self.clock.0.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let jumped = now - self.clock.1 - passed;
        if jumped.abs() > SECOND {
            self.memory.shift(jumped);
        }
        self.clock = (Instant::now(), now);
    }

    fn take_news(&mut self, pods: &mut watch::Receiver<Arc<Pod>>, orders: &mut watch::Receiver<Orders>) {
        let pod = pods.borrow_and_update().clone();
        if !Arc::ptr_eq(&pod, &self.desired.pod) {
            let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
            if shown(&pod) != shown(&self.desired.pod) && self.memory.volumes.done {
                self.memory.volumes.dirty = true;
            }
            // Conditions of others (readiness gates) are theirs.
            let ours = std::mem::take(&mut self.memory.status);
            self.memory.status = crate::status::merged(&pod, &ours);
            let before = std::mem::replace(&mut self.desired, Arc::new(Desired::new(pod)));
            for member in &self.desired.members {
                let name = &member.container.name;
                if before.member(name).is_some_and(|before| before.container.image != member.container.image) {
                    self.memory.checked.remove(name);
                }
            }
            self.follow();
        }
        let orders = orders.borrow_and_update().clone();
        self.memory.orphaned |= orders.orphaned;
        self.memory.deferred = orders.deferred;
        if self.memory.end.is_none() {
            self.memory.end = orders.end;
        }
        if self.wake.take_objects_changed() {
            self.memory.volumes.dirty = true;
            if let Some(failure) = &mut self.memory.volumes.failure {
                failure.retry_at = 0;
            }
            self.memory.starts.clear();
        }
        self.probes.take(&mut self.memory.probes);
    }

    /// Follows the objects that the pod names.
    fn follow(&mut self) {
        let refs = refs(&self.desired);
        let namespace = &self.desired.pod.metadata.namespace;
        let mut named = Named::default();
        for name in refs.config_maps {
            let entry = self.shared.config_maps.follow(namespace, &name, &self.wake);
            named.config_maps.insert(name, entry);
        }
        for name in refs.secrets {
            let entry = self.shared.secrets.follow(namespace, &name, &self.wake);
            named.secrets.insert(name, entry);
        }
        self.named = Arc::new(named);
    }

    /// Takes what the runtime shows into memory.
    fn learn(&mut self, observed: &PodState, now: Nanos) {
        if let Some(sandbox) = &observed.sandbox {
            self.memory.next_sandbox = sandbox.attempt + 1;
            if !sandbox.addresses.is_empty() {
                self.memory.addresses.clone_from(&sandbox.addresses);
            }
        } else if !self.in_flight.contains(&("sandbox", String::new())) {
            self.memory.addresses.clear();
            if !observed.containers.is_empty() && self.memory.next_sandbox == 0 {
                self.memory.next_sandbox = 1;
            }
        }
        for container in &observed.containers {
            if let ContainerState::Exited(_) = &container.state
                && !self.memory.messages.contains_key(&container.id)
            {
                let message = acts::termination_message(&self.shared.config, &self.desired, container);
                self.memory.messages.insert(container.id.clone(), message);
                self.memory.stopping.remove(&container.id);
            }
        }
        let lives = |id: &String| observed.containers.iter().any(|container| container.id == *id);
        self.memory.messages.retain(|id, _| lives(id));
        self.memory.probes.retain(|id, _| lives(id));
        self.remember_probes(observed);
        self.memory.applied.retain(|id, _| lives(id));
        self.learn_sizes(observed);
        self.probes.follow(&self.shared, &self.desired, observed, &self.memory);
        let ending = self.desired.is_deleted()
            || self.memory.orphaned
            || self.memory.end.is_some()
            || plan::is_terminal(&self.memory.status.phase);
        if ending && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(now);
        }
    }

    /// What running containers were given, and whether that is what they are to have.
    fn learn_sizes(&mut self, observed: &PodState) {
        let memory = &mut self.memory;
        let mut behind = false;
        for container in observed.containers.iter().filter(|container| plan::is_running(container)) {
            let Some(member) = self.desired.member(&container.name) else { continue };
            let applied = memory.applied.entry(container.id.clone()).or_insert_with(|| {
                // What runs when it is first seen runs with what the status says, else with what the pod says.
                let told = crate::status::told(&memory.status, &container.id).and_then(|told| told.resources.clone());
                told.unwrap_or_else(|| member.container.resources.clone())
            });
            behind |= member.kind != Kind::Ephemeral && !resize::same(applied, &member.container.resources);
        }
        if behind {
            let generation = self.desired.pod.metadata.generation;
            memory.resizing.get_or_insert(InProgress { generation, error: None });
        } else if let Some(done) = memory.resizing.take() {
            let pod = &*self.desired.pod;
            let message = resize::message("completed", pod, done.generation, "");
            self.shared.events.note(pod, "", false, "ResizeCompleted", message);
        }
    }

    /// Containers that were ready before this process began are so until a probe says otherwise.
    fn remember_probes(&mut self, observed: &PodState) {
        for container in observed.containers.iter().filter(|container| plan::is_running(container)) {
            if self.memory.probes.contains_key(&container.id) {
                continue;
            }
            let told = crate::status::told(&self.memory.status, &container.id);
            let probed = told.map_or_else(Probed::default, |told| Probed {
                started: told.started == Some(true),
                ready: told.ready,
                ..Probed::default()
            });
            self.probes.seed(&container.id, probed.clone());
            self.memory.probes.insert(container.id.clone(), probed);
        }
    }

    fn show(&self, observed: &PodState, gone: bool) {
        let view = View {
            desired: self.desired.clone(),
            status: self.memory.status.clone(),
            observed: observed.clone(),
            gone,
        };
        self.seen.send_replace(Arc::new(view));
    }

    /// Publishes the plan's status and starts its actions; true if it must be planned again at once.
    async fn carry_out(&mut self, plan: Plan, observed: &PodState, now: Nanos) -> bool {
        self.next = plan.next;
        if let Some(end) = plan.end {
            if end.reason == "DeadlineExceeded" {
                self.shared.events.note(&*self.desired.pod, "", false, "DeadlineExceeded", end.message.clone());
            }
            self.memory.end = Some(end);
            return true;
        }
        let was_terminal = plan::is_terminal(&self.memory.status.phase);
        if self.memory.status.phase == "Pending" && plan.status.phase == "Running" {
            self.shared.metrics.took(Time::PodStart, String::new(), self.begun.elapsed());
        }
        for (kind, exit, reason) in crate::status::terminations(&self.memory.status, &plan.status) {
            let labels = format!("container_type=\"{kind}\",exit_code=\"{exit}\",reason=\"{reason}\"");
            self.shared.metrics.count(Count::TerminatedContainers, labels);
        }
        self.memory.status = plan.status;
        let uid = self.desired.uid();
        let statuses = &mut self.memory.status;
        self.shared.devices.tell_health(uid, &mut statuses.container_statuses);
        self.shared.devices.tell_health(uid, &mut statuses.init_container_statuses);
        let told = self.statuses.borrow().as_ref() == Some(&self.memory.status);
        if !told {
            self.statuses.send_replace(Some(self.memory.status.clone()));
        }
        self.show(observed, self.memory.torn_down);
        for (name, message) in plan.backed_off {
            let attempt = observed.containers.iter().filter(|c| c.name == name).map(|c| c.attempt).max().unwrap_or(0);
            if self.noted_backoffs.insert((name.clone(), attempt)) {
                let path = self.desired.member(&name).map(crate::pod::Member::field_path).unwrap_or_default();
                self.shared.events.note(&*self.desired.pod, &path, true, "BackOff", message);
            }
        }
        if !was_terminal && plan::is_terminal(&self.memory.status.phase) {
            return true;
        }
        for action in plan.actions {
            self.start(action, now);
        }
        false
    }

    fn start(&mut self, action: Action, now: Nanos) {
        let key = key(&action);
        if self.in_flight.contains(&key) {
            return;
        }
        let begins = |key: &Key| matches!(key.0, "sandbox" | "network" | "volumes" | "start");
        if key.0 == "end" && self.in_flight.iter().any(begins) {
            // What is being made is ended when it stands.
            return;
        }
        if key.0 == "network" && self.in_flight.iter().any(|other| other.0 == "sandbox") {
            // The sandbox brings its network.
            return;
        }
        match &action {
            Action::Sandbox { attempt } => {
                self.memory.sandbox.begin();
                if *attempt > 0 {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.shared.events.note(&*self.desired.pod, "", false, "SandboxChanged", message);
                }
            }
            Action::PreStop { id, container, message, .. } | Action::Stop { id, container, message, .. }
                if !self.memory.stopping.contains_key(id) =>
            {
                self.memory.stopping.insert(id.clone(), Stopping { since: now, pre_stopped: false });
                if self.memory.ending_since.is_none() {
                    self.memory.replacing.insert(container.clone());
                }
                let path = self.desired.member(container).map(crate::pod::Member::field_path).unwrap_or_default();
                self.shared.events.note(&*self.desired.pod, &path, false, "Killing", message.clone());
            }
            Action::Network => self.memory.network.begin(),
            Action::Volumes => self.memory.volumes.begin(),
            Action::Image { container } => {
                self.memory.images.entry(container.clone()).or_insert(ImageState::Wanted);
            }
            Action::Start { container, .. } if self.post_start(container).is_some() => {
                self.memory.post_start.insert(container.clone());
            }
            _ => {}
        }
        self.in_flight.insert(key.clone());
        let (acts, desired, named) = (self.acts.clone(), self.desired.clone(), self.named.clone());
        let image = match &action {
            Action::Start { container, .. } => match self.memory.images.get(container) {
                Some(ImageState::Ready(image)) => Some(image.clone()),
                _ => None,
            },
            _ => None,
        };
        let known = acts::Known {
            image,
            addresses: self.memory.addresses.iter().map(ToString::to_string).collect(),
            status: self.memory.status.clone(),
        };
        self.running.spawn(async move {
            let outcome = acts.run(action, &desired, &named, known).await;
            (key, outcome)
        });
    }

    fn post_start(&self, container: &str) -> Option<LifecycleHandler> {
        self.desired.member(container)?.container.lifecycle.as_ref()?.post_start.clone()
    }

    fn finish(&mut self, key: &Key, outcome: Outcome) {
        self.in_flight.remove(key);
        let now = self.shared.ports.clock.now();
        let hook = if let Outcome::Started { container, .. } = &outcome { self.post_start(container) } else { None };
        let memory = &mut self.memory;
        let pod = &*self.desired.pod;
        let warn = |reason, message: &str| self.shared.events.note(pod, "", true, reason, message);
        match outcome {
            Outcome::Sandbox(Ok(network)) => {
                memory.sandbox.succeed(None);
                memory.sandbox_stopped = false;
                match network {
                    Ok(addresses) => {
                        memory.network.succeed(None);
                        memory.addresses = addresses;
                    }
                    Err(error) => {
                        warn("FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                        memory.network.fail("FailedCreatePodSandBox", error, now);
                    }
                }
            }
            Outcome::Sandbox(Err(error)) => {
                warn("FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                memory.sandbox.fail("FailedCreatePodSandBox", error, now);
            }
            Outcome::Network(Ok(addresses)) => {
                memory.network.succeed(None);
                memory.addresses = addresses;
            }
            Outcome::Network(Err(error)) => {
                warn("FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                memory.network.fail("FailedCreatePodSandBox", error, now);
            }
            Outcome::Volumes(Ok(refresh_at)) => {
                memory.volumes.succeed(refresh_at);
            }
            Outcome::Volumes(Err(failure)) => {
                // About an image the puller has said what there is to say.
                for reason in ["FailedMount", "FailedPrepareDynamicResources"] {
                    if failure.reason == reason {
                        warn(reason, &failure.message);
                    }
                }
                let done = memory.volumes.done;
                memory.volumes.fail(&failure.reason, failure.message, now);
                memory.volumes.done = done;
            }
            Outcome::Image { container, name, result } => {
                // Else the pod asks for another one by now.
                if self.desired.member(&container).is_some_and(|member| member.container.image == name) {
                    memory.checked.insert(container.clone());
                    memory.images.insert(container, result.map_or_else(ImageState::Failed, ImageState::Ready));
                }
            }
            Outcome::Started { container, after, result } => {
                if let Some(after) = after {
                    memory
                        .crashes
                        .entry(container.clone())
                        .or_default()
                        .next(after, now, self.shared.config.crash_backoff_max);
                }
                memory.replacing.remove(&container);
                memory.checked.remove(&container);
                match result {
                    Ok(started) => {
                        memory.starts.remove(&container);
                        if let Some(hook) = hook {
                            let (acts, desired) = (self.acts.clone(), self.desired.clone());
                            let addresses = memory.addresses.clone();
                            self.in_flight.insert(("postStart", started.clone()));
                            self.running.spawn(async move {
                                let failed = acts.post_start(&desired, &container, &started, &hook, &addresses).await;
                                (
                                    ("postStart", started.clone()),
                                    Outcome::PostStarted { container, id: started, failed },
                                )
                            });
                        }
                    }
                    Err((reason, message)) => {
                        memory.post_start.remove(&container);
                        // What only another image pull mends is pulled again.
                        if reason == "ImageGone" {
                            memory.images.remove(&container);
                        } else {
                            memory.starts.insert(container, Failure { reason, message, retry_at: now + 10 * SECOND });
                        }
                    }
                }
            }
            Outcome::PostStarted { container, id, failed } => {
                memory.post_start.remove(&container);
                if let Some(message) = failed {
                    let probed = memory.probes.entry(id).or_default();
                    probed.failed = Some(message);
                }
            }
            Outcome::Resized(done, result) => {
                memory.applied.extend(done);
                if let Err(error) = result {
                    if let Some(resizing) = memory.resizing.as_mut().filter(|of| of.error.as_ref() != Some(&error)) {
                        let message = resize::message("error", pod, resizing.generation, &error);
                        self.shared.events.note(pod, "", true, "ResizeError", message);
                        resizing.error = Some(error);
                    }
                    self.hold(key.clone(), Duration::from_secs(5));
                }
            }
            Outcome::PreStopped(id) => {
                memory.stopping.entry(id).or_insert(Stopping { since: now, pre_stopped: true }).pre_stopped = true;
            }
            Outcome::SandboxStopped(Ok(())) => {
                memory.sandbox_stopped = true;
                memory.addresses.clear();
            }
            Outcome::Released(Ok(())) => memory.released = true,
            Outcome::TornDown(Ok(())) => memory.torn_down = true,
            Outcome::Finished(true) => memory.orphaned = true,
            Outcome::SandboxStopped(Err(error))
            | Outcome::Released(Err(error))
            | Outcome::TornDown(Err(error))
            | Outcome::Done(Err(error)) => {
                tracing::warn!(pod = %self.desired.label(), %error, "a step of a pod failed");
                self.wake_in(Duration::from_secs(1));
            }
            Outcome::Finished(false) => self.wake_in(Duration::from_secs(1)),
            Outcome::Done(Ok(())) => {}
        }
    }

    fn wake_in(&mut self, after: Duration) {
        self.hold(("end", String::new()), after);
    }

    /// Holds a key, so that its step is not tried before.
    fn hold(&mut self, key: Key, after: Duration) {
        let wake = self.wake.clone();
        self.in_flight.insert(key.clone());
        self.running.spawn(async move {
            tokio::time::sleep(after).await;
            wake.wake();
            (key, Outcome::Done(Ok(())))
        });
    }
}
