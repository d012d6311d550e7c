//! What a pod needs next: a pure function of the pod, its containers and what the worker remembers.
//!
//! The semantics are upstream's `computePodActions` and pod workers. An action stays in the plan for as long as it is
//! needed; the worker starts each once at a time. Nothing here waits: what must wait has a time in `Plan::next`.

use std::time::Duration;

use schema::api::core::v1::PodStatus;

use crate::memory::{End, ImageState, Memory, SECOND};
use crate::pod::{Desired, Kind, Member};
use crate::ports::{Container, ContainerState, Nanos, PodState};
use crate::{resize, status};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Cgroup, sandbox; the network follows as soon as it stands.
    Sandbox { attempt: u32 },
    /// Attaches a sandbox that stands.
    Network,
    /// Makes all volumes as they should be now.
    Volumes,
    /// Finds or pulls a container's image, as its policy says.
    Image { container: String },
    /// Creates and starts; `after` is the end of its last run.
    Start { container: String, attempt: u32, after: Option<Nanos> },
    /// The preStop hook, for at most `grace`.
    PreStop { id: String, container: String, grace: Duration, message: String },
    /// The stop signal, and after `grace` the end.
    Stop { id: String, container: String, grace: Duration, message: String },
    /// Requests or limits of these containers, by id, have changed in place.
    Resize { containers: Vec<(String, String)> },
    /// A dead container that nobody asks about any more.
    Remove { id: String, container: String },
    /// Ends what is left in it.
    StopSandbox,
    /// Unmounts volumes and removes the cgroup of a pod that has ended.
    Release,
    /// Removes everything of the pod from this machine.
    Teardown,
    /// Deletes the pod in the API.
    Finish,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: PodStatus,
    /// When to plan again if nothing happens.
    pub next: Option<Nanos>,
    /// `Some`: the pod begins to end for this reason.
    pub end: Option<End>,
    /// Containers that wait to be restarted: name, message.
    pub backed_off: Vec<(String, String)>,
}

pub struct Input<'a> {
    pub desired: &'a Desired,
    pub observed: &'a PodState,
    pub memory: &'a Memory,
    pub now: Nanos,
    pub host_ips: &'a [String],
    /// What ids of its containers begin with.
    pub runtime: &'a str,
    /// Dead runs of a container that stay, its last one among them.
    pub dead_kept: usize,
}

const MINIMUM_GRACE: Nanos = 2 * SECOND;

impl<'a> Input<'a> {
    /// The last run of a container.
    pub fn latest(&self, name: &str) -> Option<&'a Container> {
        let runs = self.observed.containers.iter().rev().filter(|container| container.name == name);
        runs.max_by_key(|container| container.attempt)
    }

    /// A container's id as the API has it.
    pub fn id_of(&self, container: &Container) -> String {
        format!("{}://{}", self.runtime, container.id)
    }

    /// The run before the last one.
    pub fn previous(&self, name: &str) -> Option<&'a Container> {
        let latest = self.latest(name)?.attempt;
        let older =
            self.observed.containers.iter().filter(|container| container.name == name && container.attempt < latest);
        older.max_by_key(|container| container.attempt)
    }

    /// Made in the sandbox that lives now.
    fn is_current(&self, container: &Container) -> bool {
        self.observed.sandbox.as_ref().is_some_and(|sandbox| container.created_at >= sandbox.created_at)
    }

    fn is_running(&self, name: &str) -> bool {
        self.latest(name).is_some_and(is_running)
    }

    pub fn any_running(&self) -> bool {
        self.observed.containers.iter().any(is_running)
    }

    /// A running container whose startup probe has succeeded (or is not there).
    pub fn is_started(&self, member: &Member, container: &Container) -> bool {
        is_running(container)
            && !self.memory.post_start.contains(&container.name)
            && (member.container.startup_probe.is_none()
                || self.memory.probes.get(&container.id).is_some_and(|probed| probed.started))
    }

    /// The number of the next run.
    fn next_attempt(&self, name: &str) -> u32 {
        let known = self.latest(name).map(|container| container.attempt + 1);
        let status = &self.memory.status;
        let told = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .chain(&status.ephemeral_container_statuses)
            .find(|status| status.name == name)
            .map_or(0, |status| {
                // A status without an id counts the coming run already.
                u32::try_from(status.restart_count).unwrap_or(0) + u32::from(!status.container_id.is_empty())
            });
        known.unwrap_or(told)
    }
}

pub fn is_running(container: &Container) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

fn exit_code(container: &Container) -> Option<i32> {
    match &container.state {
        ContainerState::Exited(exit) => Some(exit.code),
        ContainerState::Unknown => Some(137),
        _ => None,
    }
}

fn ended_at(container: &Container) -> Nanos {
    match &container.state {
        ContainerState::Exited(exit) => exit.finished_at,
        _ => container.created_at,
    }
}

pub fn plan(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let memory = input.memory;
    let deadline = deadline(input, &mut plan);
    let end = memory.end.clone().or(deadline);
    let terminal = is_terminal(&memory.status.phase);
    let mut progress = Progress::default();
    if input.desired.is_deleted() || memory.orphaned || end.is_some() || terminal {
        wind_down(input, end.as_ref(), &mut plan);
    } else {
        progress = bring_up(input, &mut plan);
        if progress.finished {
            wind_down(input, None, &mut plan);
        } else {
            collect(input, &mut plan);
        }
    }
    if memory.end.is_none() {
        plan.end = end.clone();
    }
    plan.status = status::make(input, end.as_ref(), &progress);
    plan
}

pub fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// `activeDeadlineSeconds`.
fn deadline(input: &Input<'_>, plan: &mut Plan) -> Option<End> {
    let seconds = input.desired.pod.spec.active_deadline_seconds?;
    let started = input.memory.status.start_time?;
    let at = (started.seconds + seconds) * SECOND;
    if at > input.now {
        wake_at(plan, at);
        return None;
    }
    Some(End {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
        ..End::default()
    })
}

fn wake_at(plan: &mut Plan, at: Nanos) {
    plan.next = Some(plan.next.map_or(at, |sooner| sooner.min(at)));
}

/// How far a pod has come; status and planner share it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// All app containers have ended and none runs again.
    pub finished: bool,
    /// An init container failed and is not tried again.
    pub init_failed: bool,
    /// Why a container that is not running waits.
    pub waiting: std::collections::BTreeMap<String, (String, String)>,
}

fn bring_up(input: &Input<'_>, plan: &mut Plan) -> Progress {
    let mut progress = Progress::default();
    let desired = input.desired;
    let mut wanted: Vec<&Member> = Vec::new();
    let initialized = init_stage(input, plan, &mut progress, &mut wanted);
    if initialized {
        apps(input, plan, &mut progress, &mut wanted);
    }
    if progress.init_failed || progress.finished {
        progress.finished = true;
        return progress;
    }
    let sandbox = input.observed.sandbox.as_ref();
    if sandbox.is_some() {
        let ephemeral = desired.of_kind(&[Kind::Ephemeral]);
        wanted.extend(ephemeral.filter(|member| input.latest(&member.container.name).is_none()));
    }
    let memory = input.memory;
    if sandbox.is_none() {
        due(plan, &memory.sandbox, input.now, true, Action::Sandbox { attempt: memory.next_sandbox });
    }
    let host_network = desired.pod.spec.host_network;
    let attached =
        host_network || sandbox.is_some_and(|sandbox| !sandbox.addresses.is_empty()) || !memory.addresses.is_empty();
    if sandbox.is_some() && !attached {
        due(plan, &memory.network, input.now, true, Action::Network);
    }
    let stale = memory.volumes.dirty || memory.volumes.refresh_at.is_some();
    due(plan, &memory.volumes, input.now, stale, Action::Volumes);
    // Containers with a postStart hook let those behind them start when it is done, as upstream, where one starts
    // after the other (a proxy may hold back the app like that).
    let hooked = |member: &Member| member.container.lifecycle.as_ref().is_some_and(|of| of.post_start.is_some());
    let mut held = false;
    for member in desired.members.iter().filter(|member| member.kind != Kind::Ephemeral) {
        let waits = memory.post_start.contains(&member.container.name);
        let starts = wanted.iter().any(|of| of.container.name == member.container.name)
            && start(input, member, sandbox.is_some() && attached && !held, plan, &mut progress);
        held |= waits || (starts && hooked(member));
    }
    for member in wanted.into_iter().filter(|member| member.kind == Kind::Ephemeral) {
        start(input, member, sandbox.is_some() && attached, plan, &mut progress);
    }
    progress
}

/// Adds the action if the step may be tried now, else notes when.
fn due(plan: &mut Plan, step: &crate::memory::Step, now: Nanos, wanted: bool, action: Action) {
    if !wanted {
        return;
    }
    let waits = step.failure.as_ref().is_some_and(|failure| failure.retry_at > now);
    let later = step.refresh_at.filter(|at| *at > now && !step.dirty);
    match (waits, later) {
        (false, None) => plan.actions.push(action),
        _ => {
            if let Some(at) = step.next() {
                wake_at(plan, at);
            }
        }
    }
}

/// Walks the init containers in order; true when all that block are done.
fn init_stage<'a>(input: &Input<'a>, plan: &mut Plan, progress: &mut Progress, wanted: &mut Vec<&'a Member>) -> bool {
    let desired = input.desired;
    // Once an app container was made in this sandbox, init containers are history (their runs may be collected).
    let over = desired
        .of_kind(&[Kind::App])
        .any(|member| input.latest(&member.container.name).is_some_and(|c| input.is_current(c)));
    for member in desired.of_kind(&[Kind::Init, Kind::Sidecar]) {
        let name = &member.container.name;
        let latest = input.latest(name).filter(|container| input.is_current(container) || is_running(container));
        match (member.kind, latest) {
            (Kind::Sidecar, Some(container)) if is_running(container) => {
                check_running(input, member, container, plan);
                if !input.is_started(member, container) && !over {
                    return false;
                }
            }
            (Kind::Sidecar, latest) => {
                restart(input, member, latest, plan, progress, wanted);
                if !over {
                    return false;
                }
            }
            _ if over => {}
            (_, Some(container)) if is_running(container) => return false,
            (_, Some(container)) => match exit_code(container) {
                Some(0) => {}
                Some(code) if !member.restarts_after(&desired.pod, code) => {
                    progress.init_failed = true;
                    return false;
                }
                _ => {
                    restart(input, member, Some(container), plan, progress, wanted);
                    return false;
                }
            },
            (_, None) => {
                restart(input, member, None, plan, progress, wanted);
                return false;
            }
        }
    }
    true
}

fn apps<'a>(input: &Input<'a>, plan: &mut Plan, progress: &mut Progress, wanted: &mut Vec<&'a Member>) {
    let pod = &input.desired.pod;
    let mut finished = true;
    for member in input.desired.of_kind(&[Kind::App]) {
        let latest = input.latest(&member.container.name);
        match latest {
            Some(container) if is_running(container) => {
                check_running(input, member, container, plan);
                finished = false;
            }
            Some(container) if exit_code(container).is_some_and(|code| !member.restarts_after(pod, code)) => {}
            latest => {
                finished = false;
                restart(input, member, latest, plan, progress, wanted);
            }
        }
    }
    progress.finished = finished;
}

/// A container that runs, but should not run so.
fn check_running(input: &Input<'_>, member: &Member, container: &Container, plan: &mut Plan) {
    let name = &member.container.name;
    let probed = input.memory.probes.get(&container.id);
    let (message, grace) = if container.spec_hash != member.hash && member.kind != Kind::Ephemeral {
        (format!("Container {name} definition changed, will be restarted"), None)
    } else if let Some(failed) = probed.and_then(|probed| probed.failed.clone()) {
        (failed, probed.and_then(|probed| probed.grace_seconds))
    } else {
        let applied = input.memory.applied.get(&container.id);
        match applied.filter(|applied| !resize::same(applied, &member.container.resources)) {
            None => return,
            Some(applied) if resize::restarts(member, applied) => {
                (format!("Container {name} resize requires restart"), None)
            }
            Some(_) => {
                let one = (container.id.clone(), name.clone());
                let known = plan.actions.iter_mut().find_map(|action| match action {
                    Action::Resize { containers } => Some(containers),
                    _ => None,
                });
                match known {
                    Some(containers) => containers.push(one),
                    None => plan.actions.push(Action::Resize { containers: vec![one] }),
                }
                return;
            }
        }
    };
    let grace = grace.unwrap_or_else(|| input.desired.grace_seconds()).max(0) * SECOND;
    let stop = Stop { member: Some(member), container, grace, since: input.now, message };
    stop.plan(input, true, plan);
}

/// A container that is to run (again): now, or after its back-off.
fn restart<'a>(
    input: &Input<'a>,
    member: &'a Member,
    latest: Option<&Container>,
    plan: &mut Plan,
    progress: &mut Progress,
    wanted: &mut Vec<&'a Member>,
) {
    let name = &member.container.name;
    // One that ended later than now ended before the clock was set.
    let ended = latest.filter(|container| exit_code(container).is_some()).map(ended_at);
    let ended = ended.filter(|ended| *ended <= input.now + SECOND);
    let until = ended.and_then(|ended| input.memory.crashes.get(name).and_then(|crash| crash.until(ended)));
    match (until, input.memory.crashes.get(name)) {
        (Some(until), Some(crash)) if until > input.now => {
            let (delay, pod) = (go_duration(crash.delay), input.desired.label());
            let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
            let told = format!("Back-off restarting failed container {name} in pod {pod}");
            plan.backed_off.push((name.clone(), told));
            progress.waiting.insert(name.clone(), ("CrashLoopBackOff".into(), message));
            wake_at(plan, until);
        }
        _ => wanted.push(member),
    }
}

/// True if it starts now.
fn start(input: &Input<'_>, member: &Member, may: bool, plan: &mut Plan, progress: &mut Progress) -> bool {
    let name = &member.container.name;
    let memory = input.memory;
    match memory.images.get(name) {
        Some(ImageState::Ready(_)) if memory.checked.contains(name) => {}
        Some(ImageState::Failed(failure)) => {
            progress.waiting.insert(name.clone(), (failure.reason.clone(), failure.message.clone()));
            if failure.retry_at > input.now {
                wake_at(plan, failure.retry_at);
            } else {
                plan.actions.push(Action::Image { container: name.clone() });
            }
            return false;
        }
        _ => {
            plan.actions.push(Action::Image { container: name.clone() });
            return false;
        }
    }
    if let Some(failure) = memory.starts.get(name) {
        progress.waiting.insert(name.clone(), (failure.reason.clone(), failure.message.clone()));
        if failure.retry_at > input.now {
            wake_at(plan, failure.retry_at);
            return false;
        }
    }
    if !memory.volumes.done
        && let Some(failure) = memory.volumes.failure.as_ref().filter(|failure| !failure.reason.starts_with("Failed"))
    {
        progress.waiting.insert(name.clone(), (failure.reason.clone(), failure.message.clone()));
    }
    if !may || !memory.volumes.done {
        return false;
    }
    let latest = input.latest(name);
    let after = latest.filter(|container| exit_code(container).is_some()).map(ended_at);
    plan.actions.push(Action::Start { container: name.clone(), attempt: input.next_attempt(name), after });
    true
}

/// The end of one container: first its hook, then the signal with what is left of its grace.
struct Stop<'a> {
    member: Option<&'a Member>,
    container: &'a Container,
    grace: Nanos,
    since: Nanos,
    message: String,
}

impl Stop<'_> {
    fn plan(self, input: &Input<'_>, turn: bool, plan: &mut Plan) {
        let Self { member, container, grace, since, message } = self;
        let stopping = input.memory.stopping.get(&container.id);
        let since = stopping.map_or(since, |stopping| stopping.since.min(since));
        let left = (grace - (input.now - since)).max(0);
        let (id, container) = (container.id.clone(), container.name.clone());
        let lifecycle = member.and_then(|member| member.container.lifecycle.as_ref());
        let pre_stop = lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
        if pre_stop && grace > 0 && left > 0 && !stopping.is_some_and(|stopping| stopping.pre_stopped) {
            let grace = Duration::from_nanos(left.unsigned_abs());
            plan.actions.push(Action::PreStop { id, container, grace, message });
        } else if turn {
            let left = if grace == 0 { 0 } else { left.max(MINIMUM_GRACE.min(grace)) };
            let grace = Duration::from_nanos(left.unsigned_abs());
            plan.actions.push(Action::Stop { id, container, grace, message });
        }
    }
}

/// Ends a pod: its containers in order, its sandbox, its volumes, and if it was deleted the pod itself.
fn wind_down(input: &Input<'_>, end: Option<&End>, plan: &mut Plan) {
    let (desired, memory) = (input.desired, input.memory);
    let gone = desired.is_deleted() || memory.orphaned;
    let rejected = end.is_some_and(|end| end.rejected);
    let since = memory.ending_since.unwrap_or(input.now);
    let mut grace = end.and_then(|end| end.grace_seconds).unwrap_or_else(|| desired.grace_seconds());
    if desired.is_deleted() {
        grace = grace.min(desired.grace_seconds());
    }
    if memory.orphaned {
        grace = grace.min(desired.pod.metadata.deletion_grace_period_seconds.unwrap_or(grace)).max(1);
    }
    let mut running = false;
    for container in input.observed.containers.iter().filter(|container| is_running(container)) {
        running = true;
        let member = desired.member(&container.name);
        let message = format!("Stopping container {}", container.name);
        let stop = Stop { member, container, grace: grace * SECOND, since, message };
        stop.plan(input, is_turn(input, member), plan);
    }
    if running {
        return;
    }
    if input.observed.sandbox.is_some() || (!memory.sandbox_stopped && !input.observed.containers.is_empty()) {
        plan.actions.push(Action::StopSandbox);
    } else if gone && !memory.torn_down {
        plan.actions.push(Action::Teardown);
    } else if gone && !memory.orphaned {
        plan.actions.push(Action::Finish);
    } else if !gone && !memory.released && !rejected {
        plan.actions.push(Action::Release);
    }
}

/// Sidecars end after all others, the last one first.
fn is_turn(input: &Input<'_>, member: Option<&Member>) -> bool {
    let Some(member) = member.filter(|member| member.kind == Kind::Sidecar) else { return true };
    let after = |other: &&Member| match other.kind {
        Kind::Sidecar => {
            let place = |name: &str| input.desired.members.iter().position(|member| member.container.name == name);
            place(&other.container.name) > place(&member.container.name)
        }
        Kind::App | Kind::Init => true,
        Kind::Ephemeral => false,
    };
    !input.desired.members.iter().filter(after).any(|other| input.is_running(&other.container.name))
}

/// Dead runs beyond the newest ones of each container.
fn collect(input: &Input<'_>, plan: &mut Plan) {
    for member in &input.desired.members {
        let name = &member.container.name;
        let mut dead: Vec<&Container> =
            input.observed.containers.iter().filter(|c| c.name == *name && exit_code(c).is_some()).collect();
        dead.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        let doomed = dead.into_iter().skip(input.dead_kept);
        plan.actions.extend(doomed.map(|c| Action::Remove { id: c.id.clone(), container: c.name.clone() }));
    }
}

/// As Go prints a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(nanos: Nanos) -> String {
    let seconds = nanos / SECOND;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
