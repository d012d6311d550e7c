//! Startup, liveness and readiness probes: a task per probe of a running container, results into the pod's memory.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schema::api::core::v1::Probe;
use tokio::{sync::watch, time::Instant};

use crate::env::expand;
use crate::grpc;
use crate::hooks::{host, port, target};
use crate::http_get;
use crate::memory::{Memory, Probed};
use crate::metrics::Count;
use crate::objects::{Wake, lock};
use crate::plan::is_running;
use crate::pod::{Desired, Member};
use crate::ports::{ContainerState, PodState};
use crate::shared::Shared;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Use {
    Startup,
    Liveness,
    Readiness,
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// How a probe went that did not succeed.
enum Bad {
    Failure(String),
    /// It could not be made, which says nothing about the container.
    Error(String),
}

/// So often is a probe tried that cannot be made.
const ATTEMPTS: usize = 3;

type Results = Arc<Mutex<BTreeMap<String, Probed>>>;

/// The probes of one pod. Dropping it ends them.
pub struct Probes {
    wake: Arc<Wake>,
    results: Results,
    running: HashMap<(String, Use), Task>,
    started: HashMap<String, watch::Sender<bool>>,
    addresses: watch::Sender<Vec<IpAddr>>,
}

struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Probes {
    pub fn new(wake: Arc<Wake>) -> Self {
        Self {
            wake,
            results: Arc::default(),
            running: HashMap::new(),
            started: HashMap::new(),
            addresses: watch::channel(Vec::new()).0,
        }
    }

    /// What is known of a run before its first probe.
    pub fn seed(&mut self, id: &str, probed: Probed) {
        lock(&self.results).entry(id.to_owned()).or_insert(probed);
    }

    /// Moves results into memory.
    pub fn take(&mut self, into: &mut BTreeMap<String, Probed>) {
        for (id, probed) in &*lock(&self.results) {
            let entry = into.entry(id.clone()).or_default();
            entry.started = probed.started;
            entry.ready = probed.ready;
            if entry.failed.is_none() && probed.failed.is_some() {
                entry.failed.clone_from(&probed.failed);
                entry.grace_seconds = probed.grace_seconds;
            }
        }
    }

    /// Starts probes of containers that run, ends those of others; what is stopped has only its readiness probed.
    pub fn follow(&mut self, shared: &Arc<Shared>, desired: &Arc<Desired>, observed: &PodState, memory: &Memory) {
        if *self.addresses.borrow() != memory.addresses {
            self.addresses.send_replace(memory.addresses.clone());
        }
        let ending = memory.ending_since.is_some();
        let running = observed.containers.iter().filter(|container| is_running(container));
        let running: Vec<_> = running.filter(|container| !memory.post_start.contains(&container.name)).collect();
        self.running.retain(|(id, of), _| running.iter().any(|c| c.id == *id) && !(ending && *of != Use::Readiness));
        lock(&self.results).retain(|id, _| running.iter().any(|c| c.id == *id));
        self.started.retain(|id, _| running.iter().any(|c| c.id == *id));
        for container in running {
            let Some(member) = desired.member(&container.name) else { continue };
            let ContainerState::Running { started_at } = container.state else { continue };
            let own = &member.container;
            let all = [
                (Use::Startup, &own.startup_probe),
                (Use::Liveness, &own.liveness_probe),
                (Use::Readiness, &own.readiness_probe),
            ];
            for (of, probe) in all {
                let Some(probe) = probe else { continue };
                let key = (container.id.clone(), of);
                if self.running.contains_key(&key) || ending {
                    continue;
                }
                let known = memory.probes.get(&container.id).is_some_and(|probed| probed.started);
                if known && of == Use::Startup {
                    continue;
                }
                let begun = known || own.startup_probe.is_none();
                let started =
                    self.started.entry(container.id.clone()).or_insert_with(|| watch::channel(begun).0).clone();
                let age = (shared.ports.clock.now() - started_at).max(0);
                let runner = Runner {
                    shared: shared.clone(),
                    desired: desired.clone(),
                    member: member.clone(),
                    id: container.id.clone(),
                    of,
                    probe: probe.clone(),
                    wake: self.wake.clone(),
                    results: self.results.clone(),
                    started,
                    addresses: self.addresses.subscribe(),
                    age: Duration::from_nanos(age.unsigned_abs()),
                };
                self.running.insert(key, Task(tokio::spawn(runner.run()).abort_handle()));
            }
        }
    }
}

struct Runner {
    shared: Arc<Shared>,
    desired: Arc<Desired>,
    member: Member,
    id: String,
    of: Use,
    probe: Probe,
    wake: Arc<Wake>,
    results: Results,
    started: watch::Sender<bool>,
    addresses: watch::Receiver<Vec<IpAddr>>,
    age: Duration,
}

fn seconds(value: i32, default: i32) -> u32 {
    u32::try_from(if value <= 0 { default } else { value }).unwrap_or(1)
}

impl Runner {
    async fn run(self) {
        let period = Duration::from_secs(seconds(self.probe.period_seconds, 10).into());
        if self.of != Use::Startup {
            let _ = self.started.subscribe().wait_for(|started| *started).await;
        }
        let delay =
            Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds).unwrap_or(0)).saturating_sub(self.age);
        tokio::time::sleep(delay).await;
        let (mut good, mut bad) = (0, 0);
        let mut next = Instant::now();
        loop {
            let attempt = self.attempt_again().await;
            self.tell(&attempt);
            match attempt {
                Ok(()) => {
                    (good, bad) = (good + 1, 0);
                    if good >= seconds(self.probe.success_threshold, 1) && self.succeeded() {
                        return;
                    }
                }
                Err(Bad::Error(why)) => {
                    let name = self.of.name();
                    self.note("Unhealthy", format!("{name} probe errored and resulted in unknown state: {why}"));
                }
                Err(Bad::Failure(why)) => {
                    self.note("Unhealthy", format!("{} probe failed: {why}", self.of.name()));
                    (good, bad) = (0, bad + 1);
                    if bad >= seconds(self.probe.failure_threshold, 3) && self.failed() {
                        return;
                    }
                }
            }
            next += period;
            tokio::time::sleep_until(next).await;
            next = next.max(Instant::now() - period);
        }
    }

    fn tell(&self, attempt: &Result<(), Bad>) {
        let result = match attempt {
            Ok(()) => "successful",
            Err(Bad::Failure(_)) => "failed",
            Err(Bad::Error(_)) => "unknown",
        };
        let (meta, container) = (&self.desired.pod.metadata, &self.member.container.name);
        let (namespace, pod, uid, of) = (&meta.namespace, &meta.name, &meta.uid, self.of.name());
        self.shared.metrics.count(
            Count::Probes,
            format!(
                "container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{uid}\",probe_type=\"{of}\",result=\"{result}\""
            ),
        );
    }

    fn note(&self, reason: &'static str, message: String) {
        self.shared.events.note(&*self.desired.pod, &self.member.field_path(), true, reason, message);
    }

    fn change(&self, change: impl FnOnce(&mut Probed)) {
        let changed = {
            let mut results = lock(&self.results);
            let entry = results.entry(self.id.clone()).or_default();
            let before = entry.clone();
            change(entry);
            before != *entry
        };
        if changed {
            self.wake.wake();
        }
    }

    /// True if the probe has done its work.
    fn succeeded(&self) -> bool {
        match self.of {
            Use::Startup => {
                self.change(|probed| probed.started = true);
                self.started.send_replace(true);
                true
            }
            Use::Liveness => false,
            Use::Readiness => {
                self.change(|probed| probed.ready = true);
                false
            }
        }
    }

    fn failed(&self) -> bool {
        let name = &self.member.container.name;
        match self.of {
            Use::Readiness => {
                self.change(|probed| probed.ready = false);
                false
            }
            of => {
                let message =
                    format!("Container {name} failed {} probe, will be restarted", of.name().to_ascii_lowercase());
                let grace = self.probe.termination_grace_period_seconds;
                self.change(|probed| {
                    probed.failed = Some(message);
                    probed.grace_seconds = grace;
                });
                true
            }
        }
    }

    async fn attempt_again(&self) -> Result<(), Bad> {
        let mut result = self.attempt().await;
        for _ in 1..ATTEMPTS {
            if matches!(result, Err(Bad::Error(_))) {
                result = self.attempt().await;
            }
        }
        result
    }

    async fn attempt(&self) -> Result<(), Bad> {
        let timeout = Duration::from_secs(seconds(self.probe.timeout_seconds, 1).into());
        let handler = &self.probe.handler;
        let addresses = self.addresses.borrow().clone();
        if let Some(exec) = &handler.exec {
            // Of the environment it knows what is written in the spec.
            let env = &self.member.container.env;
            let lookup = |name: &str| {
                env.iter().rev().find(|of| of.name == name && of.value_from.is_none()).map(|of| of.value.clone())
            };
            let command: Vec<String> = exec.command.iter().map(|text| expand(text, lookup)).collect();
            let ran = self.shared.ports.runtime.exec_sync(self.desired.uid(), &self.id, &command, Some(timeout)).await;
            return match ran {
                Ok(output) if output.code == 0 => Ok(()),
                Ok(output) => {
                    let mut text = output.stdout;
                    text.extend(output.stderr);
                    Err(Bad::Failure(String::from_utf8_lossy(&text[..text.len().min(10 << 10)]).into_owned()))
                }
                Err(crate::ports::Error::Timeout(_)) => {
                    let (line, seconds) = (command.join(" "), timeout.as_secs());
                    Err(Bad::Failure(format!("command timed out: \"{line}\" timed out after {seconds}s")))
                }
                Err(error) => Err(Bad::Error(error.to_string())),
            };
        }
        let container = &self.member.container;
        if let Some(get) = &handler.http_get {
            let target = target(&self.shared, &self.desired, &self.member, get, &addresses)
                .map_err(|error| Bad::Error(error.to_string()))?;
            return match http_get::get(&target, &self.shared.ports.tls, timeout).await {
                Ok(answer) if (200..400).contains(&answer.status) => {
                    if answer.elsewhere {
                        let why = "Probe terminated redirects, Response body:";
                        self.note("ProbeWarning", format!("{} probe warning: {why} {}", self.of.name(), answer.body));
                    }
                    Ok(())
                }
                Ok(answer) => Err(Bad::Failure(format!("HTTP probe failed with statuscode: {}", answer.status))),
                Err(error) => Err(Bad::Failure(error.to_string())),
            };
        }
        if let Some(socket) = &handler.tcp_socket {
            let host = host(&self.shared, &self.desired, &socket.host, &addresses);
            let port = port(container, &socket.port).map_err(|error| Bad::Error(error.to_string()))?;
            return match tokio::time::timeout(timeout, http_get::dial(&host, port)).await {
                Ok(dialled) => dialled.map(drop).map_err(Bad::Failure),
                Err(_) => Err(Bad::Failure(format!("dial tcp {}: i/o timeout", http_get::join(&host, port)))),
            };
        }
        if let Some(of) = &handler.grpc {
            let host = host(&self.shared, &self.desired, "", &addresses);
            let port = u16::try_from(of.port).map_err(|_| Bad::Error(format!("{} is not a port", of.port)))?;
            let service = of.service.as_deref().unwrap_or_default();
            return grpc::check(&host, port, service, timeout).await.map_err(Bad::Failure);
        }
        let name = &container.name;
        Err(Bad::Error(format!("missing probe handler for {}:{name}", self.desired.label())))
    }
}
