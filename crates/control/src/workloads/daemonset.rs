//! The DaemonSet controller: one pod on every node that may run it, replaced as its template changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::Object;
use schema::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use schema::api::core::v1::{Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};
use schema::api::meta::v1::LabelSelector;

use super::history::{History, POD_HASH};
use super::{adopters, pods};
use crate::scheduler::filters::{matches_node_affinity, tolerated};
use crate::support::{Matcher, availability, claim, event, is_ready, is_terminal, scaled};

const COMPONENT: &str = "daemonset-controller";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const POD_GENERATION: &str = "pod-template-generation";
/// Creations or deletions of one look.
const BURST: usize = 250;
/// First and longest wait before a failed pod is replaced.
const RETRY_SECONDS: (i64, i64) = (1, 15 * 60);
/// What every daemon pod tolerates; the last one with the host's network only.
const TOLERATIONS: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

pub fn row() -> Row {
    let failures = Mutex::new(Failures::default());
    let triggers = vec![
        Trigger::itself::<DaemonSet>(),
        Trigger::controller::<DaemonSet, Pod>(),
        Trigger::on::<Pod>(|world, _, new| {
            adopters::<DaemonSet, _>(world, new, |owner| Matcher::new(owner.spec.selector.as_ref()))
        }),
        Trigger::controller::<DaemonSet, ControllerRevision>(),
        Trigger::on::<Node>(|world, old, new| {
            let same = old.zip(new).is_some_and(|(old, new)| {
                old.metadata.labels == new.metadata.labels && old.spec.taints == new.spec.taints
            });
            if same { Vec::new() } else { world.of::<DaemonSet>().values().map(|set| Key::of(&**set)).collect() }
        }),
    ];
    Row::new("daemonset", "daemon-set-controller", 2, triggers, move |world, key, ctx| {
        reconcile(world, key, ctx, &mut failures.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// How often pods failed in a row on a node, and since when: upstream's memory, which no object keeps.
#[derive(Default)]
pub struct Failures(HashMap<(String, i64, String), (u32, i64)>);

impl Failures {
    /// Counts a failure, or says how many seconds the last one still has to be waited out.
    fn count(&mut self, set: &DaemonSet, node: &str, now_seconds: i64) -> Result<(), i64> {
        let wait = |times: u32| (RETRY_SECONDS.0 << times.saturating_sub(1).min(20)).min(RETRY_SECONDS.1);
        self.0.retain(|_, (_, since)| now_seconds - *since <= 2 * RETRY_SECONDS.1);
        let entry = self
            .0
            .entry((set.metadata.uid.clone(), set.status.observed_generation, node.to_owned()))
            .or_insert((0, now_seconds));
        let left = if entry.0 == 0 { 0 } else { entry.1 + wait(entry.0) - now_seconds };
        if left > 0 {
            return Err(left);
        }
        *entry = (entry.0.saturating_add(1), now_seconds);
        Ok(())
    }
}

/// What one look sees of a set.
struct View<'a> {
    set: &'a DaemonSet,
    /// Of pods of the current template.
    hash: String,
    generation: Option<&'a String>,
    nodes: Vec<&'a Node>,
    /// A pod as it would be, for the nodes' predicates.
    model: Pod,
    by_node: BTreeMap<&'a str, Vec<&'a Pod>>,
    now_seconds: i64,
}

/// What to do: nodes that need a pod, pods to delete, and what to say about it.
#[derive(Default)]
struct Changes<'a> {
    needing: Vec<&'a str>,
    surplus: Vec<&'a Pod>,
    told: Vec<(&'static str, &'static str, String)>,
    again_seconds: Option<i64>,
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx, failures: &mut Failures) -> Plan {
    let mut plan = Plan::nothing();
    let Some(set) = world.get::<DaemonSet>(key) else { return plan };
    let set = &**set;
    if set.spec.selector == Some(LabelSelector::default()) {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.push(event(ctx, set, COMPONENT, "Warning", "SelectingAll", message));
        return plan;
    }
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let matcher = Matcher::new(set.spec.selector.as_ref());
    let history =
        History::of(world, set, &matcher, &set.spec.template, set.status.collision_count, POD_HASH, &mut plan.actions);
    let claimed = claim(set, &matcher, world.of::<Pod>(), |_| true, &mut plan.actions);
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in claimed.iter().copied().filter(|pod| !(is_terminal(pod) && pod.metadata.deletion_timestamp.is_some())) {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    // The one that is bound, and older, first.
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.spec.node_name.is_empty(), pod.metadata.creation_timestamp, pod.name()));
    }
    let mut model = Pod { spec: set.spec.template.spec.clone(), ..Pod::default() };
    tolerate(&mut model);
    let view = View {
        set,
        hash: history.update.metadata.labels.get(POD_HASH).cloned().unwrap_or_default(),
        generation: set.metadata.annotations.get(GENERATION),
        nodes: world.of::<Node>().values().map(|node| &**node).collect(),
        model,
        by_node,
        now_seconds: ctx.now_seconds(),
    };

    let mut changes = view.manage(failures);
    if changes.needing.is_empty() && changes.surplus.is_empty() && set.spec.update_strategy.r#type == "RollingUpdate" {
        let rolled = view.roll();
        changes.needing = rolled.needing;
        changes.surplus = rolled.surplus;
    }
    let mut status = view.status();
    status.collision_count = (history.collisions > 0).then_some(history.collisions);
    if let Some(failure) = ctx.failure.take() {
        plan.push(event(ctx, set, COMPONENT, "Warning", "FailedCreate", format!("Error creating: {failure}")));
    }
    if status != set.status {
        plan.push(Action::update_status(DaemonSet { status, ..set.clone() }));
    }
    for (kind, reason, message) in changes.told {
        plan.push(event(ctx, set, COMPONENT, kind, reason, message));
    }
    let made = changes.needing.iter().take(BURST).map(|node| view.new_pod(node, ctx)).collect();
    plan.actions.extend(pods::create(set, COMPONENT, made, ctx));
    changes.surplus.truncate(BURST);
    plan.actions.extend(pods::delete(set, COMPONENT, &changes.surplus, ctx));

    let live: BTreeSet<&String> = claimed.iter().filter_map(|pod| pod.metadata.labels.get(POD_HASH)).collect();
    let old = history.unused(|_| false);
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let unused =
        old.iter().filter(|revision| revision.metadata.labels.get(POD_HASH).is_none_or(|hash| !live.contains(hash)));
    plan.actions.extend(unused.take(old.len().saturating_sub(limit)).map(|revision| Action::delete(*revision)));

    let soon = claimed.iter().filter_map(|pod| view.available(pod).err().flatten());
    if let Some(seconds) = soon.chain(changes.again_seconds).min() {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

/// The node that a pod is on, or is meant for.
fn target(pod: &Pod) -> Option<&str> {
    if !pod.spec.node_name.is_empty() {
        return Some(&pod.spec.node_name);
    }
    let required = pod
        .spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let by_name = |field: &&NodeSelectorRequirement| field.key == "metadata.name" && field.operator == "In";
    match &required.node_selector_terms.iter().flat_map(|term| &term.match_fields).find(by_name)?.values[..] {
        [node] => Some(node),
        _ => None,
    }
}

fn tolerate(pod: &mut Pod) {
    let count = if pod.spec.host_network { 7 } else { 6 };
    for (key, effect) in &TOLERATIONS[..count] {
        let toleration = Toleration {
            key: (*key).to_owned(),
            operator: "Exists".to_owned(),
            effect: (*effect).to_owned(),
            ..Toleration::default()
        };
        // One that the template has already gives way to ours, which holds for ever.
        let alike = |held: &&mut Toleration| {
            held.key == toleration.key && held.effect == toleration.effect && held.operator == "Exists"
        };
        match pod.spec.tolerations.iter_mut().find(alike) {
            Some(held) => *held = toleration,
            None => pod.spec.tolerations.push(toleration),
        }
    }
}

impl<'a> View<'a> {
    /// Whether a pod shall be on a node, and whether one that is there may stay.
    fn should_run(&self, node: &Node) -> (bool, bool) {
        let spec = &self.model.spec;
        if !(spec.node_name.is_empty() || spec.node_name == node.metadata.name)
            || !matches_node_affinity(&self.model, node)
        {
            return (false, false);
        }
        let repels = |effects: &[&str]| {
            node.spec
                .taints
                .iter()
                .any(|taint| effects.contains(&&*taint.effect) && !tolerated(&spec.tolerations, taint))
        };
        (!repels(&["NoSchedule", "NoExecute"]), !repels(&["NoExecute"]))
    }

    fn on(&self, node: &str) -> &[&'a Pod] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn available(&self, pod: &Pod) -> Result<(), Option<i64>> {
        availability(pod, self.set.spec.min_ready_seconds, self.now_seconds)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.available(pod).is_ok()
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        let label = |name: &str| pod.metadata.labels.get(name);
        !self.hash.is_empty() && label(POD_HASH) == Some(&self.hash)
            || self.generation.is_some() && label(POD_GENERATION) == self.generation
    }

    /// (maxSurge, maxUnavailable) of so many nodes.
    fn fences(&self, nodes: i32) -> (i32, i32) {
        let strategy = &self.set.spec.update_strategy;
        let rolling = strategy.rolling_update.as_ref().filter(|_| strategy.r#type == "RollingUpdate");
        let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), nodes, true);
        let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), nodes, true);
        (surge, if nodes > 0 && surge == 0 && unavailable == 0 { 1 } else { unavailable })
    }

    /// One pod where there shall be one, none elsewhere, no failed ones.
    fn manage(&self, failures: &mut Failures) -> Changes<'a> {
        let mut changes = Changes::default();
        for node in &self.nodes {
            let name = node.metadata.name.as_str();
            let (should_run, may_stay) = self.should_run(node);
            let pods = self.on(name);
            if should_run && pods.is_empty() {
                changes.needing.push(name);
            } else if may_stay {
                self.prune(name, should_run, pods, failures, &mut changes);
            } else {
                changes.surplus.extend(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()));
            }
        }
        // Nobody else deletes what waits for a node that is gone.
        let known: BTreeSet<&str> = self.nodes.iter().map(|node| node.metadata.name.as_str()).collect();
        let lost = self.by_node.iter().filter(|(node, _)| !known.contains(*node)).flat_map(|(_, pods)| pods);
        changes
            .surplus
            .extend(lost.filter(|pod| pod.spec.node_name.is_empty() && pod.metadata.deletion_timestamp.is_none()));
        changes
    }

    /// Deletes pods of a node that ended or are too many.
    fn prune(
        &self,
        node: &'a str,
        should_run: bool,
        pods: &[&'a Pod],
        failures: &mut Failures,
        changes: &mut Changes<'a>,
    ) {
        let mut running = Vec::new();
        for pod in pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let what =
                format!("daemon pod {}/{} on node {node}, will try to", pod.metadata.namespace, pod.metadata.name);
            match &*pod.status.phase {
                "Failed" => match failures.count(self.set, node, self.now_seconds) {
                    Ok(()) => {
                        changes.told.push(("Warning", "FailedDaemonPod", format!("Found failed {what} kill it")));
                        changes.surplus.push(pod);
                    }
                    Err(left) => {
                        changes.again_seconds = Some(changes.again_seconds.map_or(left, |sooner| sooner.min(left)))
                    }
                },
                "Succeeded" => {
                    changes.told.push(("Normal", "SucceededDaemonPod", format!("Found succeeded {what} delete it")));
                    changes.surplus.push(pod);
                }
                _ => running.push(pod),
            }
        }
        if self.fences(1).0 == 0 {
            changes.surplus.extend(running.into_iter().skip(1));
            return;
        }
        if running.is_empty() && should_run {
            changes.needing.push(node);
        }
        if running.len() < 2 {
            return;
        }
        // The oldest of each template may be side by side until the new one is available.
        let (new, old): (Vec<&Pod>, Vec<&Pod>) =
            running.into_iter().partition(|pod| pod.metadata.labels.get(POD_HASH) == Some(&self.hash));
        changes.surplus.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!is_ready(old) || self.is_available(new))
        {
            changes.surplus.push(old);
        }
    }

    /// (new, old) pod of a node; `None` if there are more.
    fn pair(&self, node: &str) -> Option<(Option<&'a Pod>, Option<&'a Pod>)> {
        let live = self.on(node).iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = live.partition(|pod| self.is_updated(pod));
        (new.len() < 2 && old.len() < 2).then(|| (new.first().copied(), old.first().copied()))
    }

    /// One step towards the current template.
    fn roll(&self) -> Changes<'a> {
        let wanted: BTreeSet<&str> =
            self.nodes.iter().filter(|node| self.should_run(node).0).map(|node| node.metadata.name.as_str()).collect();
        let (surge, unavailable) = self.fences(i32::try_from(wanted.len()).unwrap_or(i32::MAX));
        let nodes: BTreeSet<&str> = wanted.iter().copied().chain(self.by_node.keys().copied()).collect();
        let limit = |most: i32, used: usize| usize::try_from(most).unwrap_or(0).saturating_sub(used);
        let mut changes = Changes::default();
        if surge == 0 {
            let (mut away, mut candidates) = (0, Vec::new());
            for node in nodes {
                match self.pair(node) {
                    Some((Some(new), None)) => away += usize::from(!self.is_available(new)),
                    Some((None, Some(old))) if !self.is_available(old) => {
                        changes.surplus.push(old);
                        away += 1;
                    }
                    Some((None, Some(old))) => candidates.push(old),
                    _ => away += 1,
                }
            }
            changes.surplus.extend(candidates.into_iter().take(limit(unavailable, away)));
            return changes;
        }
        let (mut surging, mut available, mut candidates, mut leaving) = (0, 0, Vec::new(), Vec::new());
        for node in nodes {
            let Some((new, old)) = self.pair(node) else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|pod| self.is_available(pod)));
            match (new, old) {
                (_, None) => {}
                (None, Some(old)) => match (self.is_available(old), wanted.contains(node)) {
                    (false, false) => changes.surplus.push(old),
                    (false, true) => changes.needing.push(node),
                    (true, false) => leaving.push(old),
                    (true, true) => candidates.push(node),
                },
                (Some(new), Some(old)) if self.is_available(new) => changes.surplus.push(old),
                _ => surging += 1,
            }
        }
        // A node is left only when another one serves in its place.
        changes.surplus.extend(leaving.into_iter().take(available.saturating_sub(wanted.len())));
        changes.needing.extend(candidates.into_iter().take(limit(surge, surging)));
        changes
    }

    fn status(&self) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            conditions: self.set.status.conditions.clone(),
            unknown: self.set.status.unknown.clone(),
            ..DaemonSetStatus::default()
        };
        for node in &self.nodes {
            let first = self.on(&node.metadata.name).first();
            if !self.should_run(node).0 {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            if let Some(pod) = first {
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(is_ready(pod));
                status.number_available += i32::from(self.is_available(pod));
                status.updated_number_scheduled += i32::from(self.is_updated(pod));
            }
        }
        status.number_unavailable = status.desired_number_scheduled - status.number_available;
        status
    }

    /// A pod that the scheduler can put on this node only.
    fn new_pod(&self, node: &str, ctx: &mut Ctx) -> Pod {
        let mut pod = pods::from_template(self.set, &self.set.spec.template, ctx);
        tolerate(&mut pod);
        if let Some(generation) = self.generation {
            pod.metadata.labels.insert(POD_GENERATION.to_owned(), generation.clone());
        }
        pod.metadata.labels.insert(POD_HASH.to_owned(), self.hash.clone());
        let affinity = pod.spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default().node_selector_terms =
            vec![NodeSelectorTerm {
                match_fields: vec![NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: vec![node.to_owned()],
                    ..NodeSelectorRequirement::default()
                }],
                ..NodeSelectorTerm::default()
            }];
        pod
    }
}
