//! A pod's status as the API shows it: container states, phase, conditions; a pure function like the plan.

use schema::api::Time;
use schema::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus,
    ResourceRequirements, VolumeMountStatus,
};

use crate::memory::{End, ImageState, SECOND};
use crate::plan::{Input, Progress, is_running, is_terminal};
use crate::pod::{Kind, Member};
use crate::ports::{Container, ContainerState, Nanos};
use crate::{resize, resources};

/// Conditions that are the kubelet's; all others are left as they are.
const OWNED: [&str; 8] = [
    "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "DisruptionTarget",
    PENDING, IN_PROGRESS,
];
/// Of resizes; gone when there is none.
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// The runtime's own id behind `sampan://`.
pub fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

/// What a status says of one run.
pub fn told<'a>(status: &'a PodStatus, id: &str) -> Option<&'a ContainerStatus> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    all.chain(&status.ephemeral_container_statuses).find(|status| bare_id(&status.container_id) == id)
}

/// Containers that have ended between two statuses: their kind as metrics name it, exit code and reason.
pub fn terminations(old: &PodStatus, new: &PodStatus) -> Vec<(&'static str, i32, String)> {
    let lists = [
        ("init_container", &old.init_container_statuses, &new.init_container_statuses),
        ("container", &old.container_statuses, &new.container_statuses),
        ("ephemeral_container", &old.ephemeral_container_statuses, &new.ephemeral_container_statuses),
    ];
    let ended = lists.into_iter().flat_map(|(kind, old, new)| {
        new.iter().filter_map(move |status| {
            let before = old.iter().find(|before| before.name == status.name);
            let terminated = status.state.terminated.as_ref()?;
            let news = before.is_none_or(|before| before.state.terminated.is_none());
            news.then(|| (kind, terminated.exit_code, terminated.reason.clone()))
        })
    });
    ended.collect()
}

fn time(nanos: Nanos) -> Time {
    Time { seconds: nanos.div_euclid(SECOND) }
}

pub fn make(input: &Input<'_>, end: Option<&End>, progress: &Progress) -> PodStatus {
    let (pod, old) = (&input.desired.pod, &input.memory.status);
    let mut status = old.clone();
    status.observed_generation = pod.metadata.generation;
    status.qos_class = resources::qos(pod);
    status.start_time = old.start_time.or(Some(time(input.now)));
    if let Some(first) = input.host_ips.first() {
        status.host_ip = first.clone();
        status.host_ips = input.host_ips.iter().map(|ip| HostIP { ip: ip.clone(), ..HostIP::default() }).collect();
    }
    if let Some(end) = end.filter(|end| end.rejected) {
        status.phase = "Failed".into();
        status.reason = end.reason.clone();
        status.message = end.message.clone();
        return status;
    }
    addresses(input, &mut status);
    let each = |kinds: &'static [Kind], old: &[ContainerStatus]| -> Vec<ContainerStatus> {
        let status = |member: &Member| {
            container_status(input, member, old.iter().find(|old| old.name == member.container.name), progress, end)
        };
        input.desired.of_kind(kinds).map(status).collect()
    };
    status.init_container_statuses = each(&[Kind::Init, Kind::Sidecar], &old.init_container_statuses);
    status.container_statuses = each(&[Kind::App], &old.container_statuses);
    status.ephemeral_container_statuses = each(&[Kind::Ephemeral], &old.ephemeral_container_statuses);
    phase(input, end, &mut status);
    conditions(input, end, old, &mut status);
    status
}

fn addresses(input: &Input<'_>, status: &mut PodStatus) {
    let pod = &input.desired.pod;
    let known: Vec<String> = if pod.spec.host_network {
        if input.observed.sandbox.is_none() {
            return;
        }
        input.host_ips.to_vec()
    } else if let Some(sandbox) = input.observed.sandbox.as_ref().filter(|sandbox| !sandbox.addresses.is_empty()) {
        sandbox.addresses.iter().map(ToString::to_string).collect()
    } else {
        input.memory.addresses.iter().map(ToString::to_string).collect()
    };
    if let Some(first) = known.first() {
        status.pod_ip = first.clone();
        status.pod_ips = known.iter().map(|ip| PodIP { ip: ip.clone(), ..PodIP::default() }).collect();
    }
}

fn waiting(reason: &str, message: &str) -> ApiState {
    let (reason, message) = (reason.into(), message.into());
    let waiting = ContainerStateWaiting { reason, message, ..ContainerStateWaiting::default() };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn terminated(terminated: ContainerStateTerminated) -> ApiState {
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

/// Why a container waits of which nothing else is known.
fn default_reason(pod: &Pod) -> &'static str {
    if pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

/// The state of one run.
fn state(input: &Input<'_>, container: &Container) -> ApiState {
    match &container.state {
        ContainerState::Created => waiting(default_reason(&input.desired.pod), ""),
        ContainerState::Running { started_at } => ApiState {
            running: Some(ContainerStateRunning { started_at: time(*started_at), ..ContainerStateRunning::default() }),
            ..ApiState::default()
        },
        ContainerState::Exited(exit) => {
            let reason = match (&exit.error, exit.oom_killed, exit.code) {
                (Some(_), _, _) => "StartError",
                (None, true, _) => "OOMKilled",
                (None, false, 0) => "Completed",
                _ => "Error",
            };
            let told = input.memory.messages.get(&container.id).cloned();
            terminated(ContainerStateTerminated {
                exit_code: exit.code,
                reason: reason.into(),
                message: told.or_else(|| exit.error.clone()).unwrap_or_default(),
                // One that was ended before it ran did so at once; upstream dates one that could not run 1970.
                started_at: time(match (exit.started_at, &exit.error) {
                    (0, None) => exit.finished_at,
                    (at, _) => at,
                }),
                finished_at: time(exit.finished_at),
                container_id: input.id_of(container),
                ..ContainerStateTerminated::default()
            })
        }
        ContainerState::Unknown => lost(
            "ContainerStatusUnknown",
            "The container could not be located when the pod was terminated",
            &input.id_of(container),
        ),
    }
}

fn lost(reason: &str, message: &str, id: &str) -> ApiState {
    terminated(ContainerStateTerminated {
        exit_code: 137,
        reason: reason.into(),
        message: message.into(),
        container_id: id.into(),
        ..ContainerStateTerminated::default()
    })
}

fn container_status(
    input: &Input<'_>,
    member: &Member,
    old: Option<&ContainerStatus>,
    progress: &Progress,
    end: Option<&End>,
) -> ContainerStatus {
    let container = &member.container;
    let pod = &input.desired.pod;
    let mut status =
        ContainerStatus { name: container.name.clone(), image: container.image.clone(), ..ContainerStatus::default() };
    let ending =
        input.desired.is_deleted() || input.memory.orphaned || end.is_some() || is_terminal(&input.memory.status.phase);
    if let (Some(old), Some(run)) = (old, input.latest(&container.name))
        && input.memory.replacing.contains(&container.name)
        && old.state.running.is_some()
        && !is_running(run)
        && !ending
        && !progress.waiting.contains_key(&container.name)
    {
        return old.clone();
    }
    let default_reason = default_reason(pod);
    match input.latest(&container.name) {
        None => {
            status.state = waiting(default_reason, "");
            if let Some(old) = old {
                status.restart_count = old.restart_count;
                status.last_state = old.last_state.clone();
                status.image_id = old.image_id.clone();
                status.container_id = old.container_id.clone();
                if old.state.terminated.is_some() && (ending || !will_run_again(input, member, old)) {
                    status.state = old.state.clone();
                    status.image = old.image.clone();
                } else if old.state.running.is_some() || old.state.terminated.is_some() {
                    let gone = lost(
                        "ContainerStatusUnknown",
                        "The container could not be located when the pod was deleted.  The container used to be Running",
                        &old.container_id,
                    );
                    let gone = if old.state.terminated.is_some() { old.state.clone() } else { gone };
                    if ending {
                        status.state = gone;
                    } else {
                        status.last_state = gone;
                        status.restart_count = old.restart_count + 1;
                        status.container_id.clear();
                    }
                }
            }
        }
        Some(run) => {
            status.state = state(input, run);
            status.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
            status.container_id = input.id_of(run);
            status.image.clone_from(&run.image);
            status.image_id = image_id(input, &container.name, run);
            status.user = run.user.as_ref().map(|user| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: user.uid,
                    gid: user.gid,
                    supplemental_groups: user.supplemental_groups.clone(),
                    ..LinuxContainerUser::default()
                }),
                ..ContainerUser::default()
            });
            // After a restart of the node what it told before is better than the bare id.
            if let Some(old) = old.filter(|old| old.container_id == status.container_id && !old.image_id.is_empty()) {
                status.image_id.clone_from(&old.image_id);
            }
            match input.previous(&container.name) {
                Some(previous) => status.last_state = state(input, previous),
                None => {
                    if let Some(old) = old {
                        let same = old.container_id == status.container_id;
                        status.last_state = if same || old.state.terminated.is_none() {
                            old.last_state.clone()
                        } else {
                            old.state.clone()
                        };
                    }
                }
            }
            // Its last words, should their file be gone by now.
            if let (Some(new), Some(old)) =
                (&mut status.state.terminated, old.and_then(|old| old.state.terminated.as_ref()))
                && new.message.is_empty()
                && new.container_id == old.container_id
            {
                new.message.clone_from(&old.message);
            }
            extras(input, member, run, &mut status);
            if is_running(run) && input.memory.post_start.contains(&container.name) {
                status.state = waiting(default_reason, "");
            }
        }
    }
    // Why it waits stands above how it ended, which moves to lastState.
    if !ending
        && status.state.running.is_none()
        && let Some((reason, message)) = progress.waiting.get(&container.name)
    {
        if status.state.terminated.is_some() {
            status.last_state = std::mem::take(&mut status.state);
        }
        status.state = waiting(reason, message);
    }
    status.started = Some(
        status.state.running.is_some()
            && input.latest(&container.name).is_some_and(|run| input.is_started(member, run)),
    );
    status.ready = match member.kind {
        Kind::Init => status.state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0),
        Kind::Ephemeral => false,
        Kind::App | Kind::Sidecar => {
            status.started == Some(true)
                && (container.readiness_probe.is_none()
                    || input
                        .latest(&container.name)
                        .is_some_and(|run| input.memory.probes.get(&run.id).is_some_and(|p| p.ready)))
        }
    };
    if member.kind == Kind::Ephemeral {
        status.started = None;
    }
    status
}

fn will_run_again(input: &Input<'_>, member: &Member, old: &ContainerStatus) -> bool {
    old.state
        .terminated
        .as_ref()
        .is_none_or(|terminated| member.restarts_after(&input.desired.pod, terminated.exit_code))
}

/// `registry/name@sha256:…` if the image came with a digest, else its id.
fn image_id(input: &Input<'_>, name: &str, run: &Container) -> String {
    match input.memory.images.get(name) {
        Some(ImageState::Ready(image)) if image.id == run.image_id => {
            image.digests.first().unwrap_or(&image.id).clone()
        }
        _ => run.image_id.clone(),
    }
}

fn extras(input: &Input<'_>, member: &Member, run: &Container, status: &mut ContainerStatus) {
    let container = &member.container;
    let given =
        input.memory.applied.get(&run.id).filter(|given| is_running(run) && !resize::same(given, &container.resources));
    let given = given.unwrap_or(&container.resources);
    status.allocated_resources.clone_from(&container.resources.requests);
    status.resources = Some(ResourceRequirements {
        limits: given.limits.clone(),
        requests: given.requests.clone(),
        ..ResourceRequirements::default()
    });
    status.volume_mounts = container
        .volume_mounts
        .iter()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount.read_only.then(|| match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                _ => "Disabled".to_owned(),
            }),
            ..VolumeMountStatus::default()
        })
        .collect();
}

/// Upstream's `getPhase`, held back while anything runs, and never leaving an end.
fn phase(input: &Input<'_>, end: Option<&End>, status: &mut PodStatus) {
    let old = &input.memory.status;
    if is_terminal(&old.phase) {
        status.phase.clone_from(&old.phase);
        return;
    }
    let pod = &input.desired.pod;
    let ending = input.desired.is_deleted() || input.memory.orphaned;
    let over = (ending || end.is_some()) && !input.any_running();
    if let Some(end) = end
        && over
    {
        status.phase = "Failed".into();
        status.reason = end.reason.clone();
        status.message = end.message.clone();
        return;
    }
    let (mut init_pending, mut init_failed) = (false, false);
    for (member, of) in input.desired.of_kind(&[Kind::Init, Kind::Sidecar]).zip(&status.init_container_statuses) {
        let sidecar = member.kind == Kind::Sidecar;
        match (&of.state.terminated, &of.state.running) {
            (Some(terminated), _) if !sidecar => {
                init_failed |= terminated.exit_code != 0 && !member.restarts_after(pod, terminated.exit_code);
                init_pending |= terminated.exit_code != 0;
            }
            (_, Some(_)) if sidecar => init_pending |= of.started != Some(true),
            // A restartable container that has run once does not make the pod pending again.
            _ if sidecar => init_pending |= of.last_state.terminated.is_none() && of.state.terminated.is_none(),
            _ => {
                let failed_before = of.last_state.terminated.as_ref();
                init_pending |= failed_before.is_none_or(|terminated| terminated.exit_code != 0);
            }
        }
    }
    let (mut pending, mut running, mut failed, mut again) = (0, 0, 0, false);
    for (member, of) in input.desired.of_kind(&[Kind::App]).zip(&status.container_statuses) {
        if of.state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = &of.state.terminated {
            again |= member.restarts_after(pod, terminated.exit_code);
            failed += i32::from(terminated.exit_code != 0);
        } else if let Some(terminated) = &of.last_state.terminated {
            again |= member.restarts_after(pod, terminated.exit_code);
            failed += i32::from(terminated.exit_code != 0);
        } else {
            pending += 1;
        }
    }
    let app_ran =
        status.container_statuses.iter().any(|of| of.state.running.is_some() || of.state.terminated.is_some());
    if over {
        // Whatever would have been restarted is not.
        let clean = failed == 0 && pending == 0 && !init_failed && (!init_pending || app_ran);
        status.phase = if clean { "Succeeded" } else { "Failed" }.into();
        return;
    }
    let reached = if init_failed {
        "Failed"
    } else if (init_pending && !app_ran) || (pending > 0 && old.phase != "Running") {
        "Pending"
    } else if running > 0 || again || pending > 0 {
        "Running"
    } else if failed > 0 {
        "Failed"
    } else {
        "Succeeded"
    };
    // Sidecars may still run: the pod has not ended before they have.
    status.phase = if is_terminal(reached) && input.any_running() { "Running" } else { reached }.into();
}

fn conditions(input: &Input<'_>, end: Option<&End>, old: &PodStatus, status: &mut PodStatus) {
    let pod = &input.desired.pod;
    let condition = |kind: &str, met: bool, reason: &str, message: String| PodCondition {
        r#type: kind.into(),
        status: if met { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        ..PodCondition::default()
    };
    let attached = pod.spec.host_network
        || !input.memory.addresses.is_empty()
        || input.observed.sandbox.as_ref().is_some_and(|sandbox| !sandbox.addresses.is_empty());
    let mut made =
        vec![condition("PodReadyToStartContainers", input.observed.sandbox.is_some() && attached, "", String::new())];
    let names = |list: Vec<&str>| format!("[{}]", list.join(" "));
    let over = is_terminal(&status.phase);
    let inits = input.desired.of_kind(&[Kind::Init, Kind::Sidecar]).zip(&status.init_container_statuses);
    let waits = |member: &Member, of: &ContainerStatus| match member.kind {
        Kind::Sidecar => of.started != Some(true),
        _ => !of.ready,
    };
    let incomplete: Vec<&str> =
        inits.filter(|(member, of)| waits(member, of)).map(|(_, of)| of.name.as_str()).collect();
    let app_ran =
        status.container_statuses.iter().any(|of| of.state.running.is_some() || of.state.terminated.is_some());
    made.push(if status.phase == "Succeeded" {
        condition("Initialized", true, "PodCompleted", String::new())
    } else if incomplete.is_empty() || app_ran {
        condition("Initialized", true, "", String::new())
    } else {
        let message = format!("containers with incomplete status: {}", names(incomplete));
        condition("Initialized", false, "ContainersNotInitialized", message)
    });
    let of_init = |member: &Member| status.init_container_statuses.iter().find(|of| of.name == member.container.name);
    let sidecars = input.desired.of_kind(&[Kind::Sidecar]).filter_map(of_init);
    let long_running = sidecars.chain(&status.container_statuses);
    let unready: Vec<&str> = long_running.filter(|of| !of.ready).map(|of| of.name.as_str()).collect();
    let containers_ready = if over {
        let reason = if status.phase == "Failed" { "PodFailed" } else { "PodCompleted" };
        condition("ContainersReady", false, reason, String::new())
    } else if unready.is_empty() {
        condition("ContainersReady", true, "", String::new())
    } else {
        let message = format!("containers with unready status: {}", names(unready));
        condition("ContainersReady", false, "ContainersNotReady", message)
    };
    let gates: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .filter_map(|gate| {
            let found = old.conditions.iter().find(|condition| condition.r#type == gate.condition_type);
            let kind = &gate.condition_type;
            match found {
                Some(condition) if condition.status == "True" => None,
                Some(_) => Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but False")),
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            }
        })
        .collect();
    made.push(if containers_ready.status != "True" {
        PodCondition { r#type: "Ready".into(), ..containers_ready.clone() }
    } else if gates.is_empty() {
        condition("Ready", true, "", String::new())
    } else {
        condition("Ready", false, "ReadinessGatesNotReady", gates.join(", "))
    });
    made.push(containers_ready);
    made.push(condition("PodScheduled", true, "", String::new()));
    if let Some(message) = end.and_then(|end| end.disrupted.clone()) {
        made.push(condition("DisruptionTarget", true, "TerminationByKubelet", message));
    }
    for new in &mut made {
        new.observed_generation = pod.metadata.generation;
    }
    if let Some(deferred) = input.memory.deferred.as_ref().filter(|_| !over) {
        let pending = condition(PENDING, true, "Deferred", deferred.message.clone());
        made.push(PodCondition { observed_generation: deferred.generation, ..pending });
    }
    if let Some(resizing) = input.memory.resizing.as_ref().filter(|_| !over) {
        let (reason, message) = resizing.error.clone().map_or(("", String::new()), |error| ("Error", error));
        let ours = condition(IN_PROGRESS, true, reason, message);
        made.push(PodCondition { observed_generation: resizing.generation, ..ours });
    }
    for new in &mut made {
        let before = old.conditions.iter().find(|old| old.r#type == new.r#type);
        new.last_transition_time = match before {
            Some(before) if before.status == new.status && !before.last_transition_time.is_zero() => {
                before.last_transition_time
            }
            _ => time(input.now),
        };
    }
    let kept = old.conditions.iter().filter(|condition| {
        !made.iter().any(|new| new.r#type == condition.r#type) && ![PENDING, IN_PROGRESS].contains(&&*condition.r#type)
    });
    status.conditions = kept.cloned().collect();
    made.append(&mut status.conditions);
    status.conditions = made;
}

/// Our status over what the API has: conditions of others stay theirs.
pub fn merged(pod: &Pod, ours: &PodStatus) -> PodStatus {
    let mut status = ours.clone();
    let theirs = &pod.status;
    status.conditions.retain(|condition| OWNED.contains(&condition.r#type.as_str()));
    let missing: Vec<_> = theirs
        .conditions
        .iter()
        .filter(|theirs| !status.conditions.iter().any(|ours| ours.r#type == theirs.r#type))
        .filter(|theirs| ![PENDING, IN_PROGRESS].contains(&&*theirs.r#type))
        .cloned()
        .collect();
    status.conditions.extend(missing);
    status.nominated_node_name.clone_from(&theirs.nominated_node_name);
    status.resource_claim_statuses.clone_from(&theirs.resource_claim_statuses);
    status.extended_resource_claim_status.clone_from(&theirs.extended_resource_claim_status);
    status
}
