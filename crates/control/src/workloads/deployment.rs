//! Deployment: ReplicaSets of one template after another, rolled without going below or above what is allowed.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use schema::api::core::v1::{Pod, PodTemplateSpec};
use schema::api::meta::v1::ObjectMeta;
use schema::api::{Message, Object, Time};

use super::adopters;
use crate::support::{
    Matcher, claim, controller_of, controller_ref, event, is_terminal, key, safe_encode, scaled, time,
};

const COMPONENT: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// What a ReplicaSet does not take over from its Deployment.
const OWN_ANNOTATIONS: [&str; 5] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX];

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Deployment>(),
        Trigger::controller::<Deployment, ReplicaSet>(),
        Trigger::on::<ReplicaSet>(|world, _, new| {
            adopters::<Deployment, _>(world, new, |owner| Matcher::new(owner.spec.selector.as_ref()))
        }),
        // With Recreate, the end of an old pod is what the next step waits for.
        Trigger::on::<Pod>(recreated),
    ];
    Row::new("deployment", "deployment-controller", 5, triggers, reconcile)
}

fn recreated(world: &World, old: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    let Some(pod) = old.filter(|_| new.is_none_or(is_terminal)) else { return Vec::new() };
    let namespace = &pod.metadata.namespace;
    let set = controller_of(&pod.metadata).and_then(|owner| world.get::<ReplicaSet>(&key(namespace, &owner.name)));
    let owner = set.and_then(|set| controller_of(&set.metadata));
    let owner = owner.and_then(|owner| world.get::<Deployment>(&key(namespace, &owner.name)));
    let recreated = owner.filter(|deployment| deployment.spec.strategy.r#type == "Recreate");
    recreated.map(|deployment| Key::of(&**deployment)).into_iter().collect()
}

/// A Deployment with its ReplicaSets, as one look sees them.
struct View<'a> {
    deployment: &'a Deployment,
    /// The set of the current template.
    new: Option<&'a ReplicaSet>,
    /// All others, by revision of creation.
    old: Vec<&'a ReplicaSet>,
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(replicas).sum()
}

fn revision(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The template without the label that tells sets apart.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut plain = template.clone();
    plain.metadata.labels.remove(HASH);
    plain
}

impl<'a> View<'a> {
    fn new(deployment: &'a Deployment, mut sets: Vec<&'a ReplicaSet>) -> Self {
        sets.sort_by(|a, b| (a.metadata.creation_timestamp, a.name()).cmp(&(b.metadata.creation_timestamp, b.name())));
        let wanted = plain(&deployment.spec.template);
        let new = sets.iter().copied().find(|set| plain(&set.spec.template) == wanted);
        let old = sets.into_iter().filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid)).collect();
        Self { deployment, new, old }
    }

    fn wanted(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    fn is_rolling(&self) -> bool {
        self.deployment.spec.strategy.r#type != "Recreate"
    }

    /// (maxSurge, maxUnavailable): not both 0, since nothing would move.
    fn fences(&self) -> (i32, i32) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let Some(rolling) = &self.deployment.spec.strategy.rolling_update else { return (0, 1) };
        let surge = scaled(rolling.max_surge.as_ref(), self.wanted(), true);
        let unavailable = scaled(rolling.max_unavailable.as_ref(), self.wanted(), false);
        (surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(self.wanted()) })
    }

    fn surge(&self) -> i32 {
        if self.is_rolling() { self.fences().0 } else { 0 }
    }

    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.new.into_iter().chain(self.old.iter().copied())
    }

    /// How many replicas the current set may have now.
    fn new_replicas(&self) -> i32 {
        let wanted = self.wanted();
        if !self.is_rolling() {
            return wanted;
        }
        let current = total(self.all());
        let most = wanted + self.surge();
        let own = self.new.map_or(0, replicas);
        if current >= most { own } else { own + (most - current).min(wanted - own) }
    }
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(deployment) = world.get::<Deployment>(key) else { return plan };
    let deployment = &**deployment;
    let matcher = Matcher::new(deployment.spec.selector.as_ref());
    let sets = claim(deployment, &matcher, world.of::<ReplicaSet>(), |_| true, &mut plan.actions);
    if !plan.actions.is_empty() {
        return plan;
    }
    let view = View::new(deployment, sets);
    let failure = ctx.failure.take();
    if deployment.metadata.deletion_timestamp.is_none() {
        let step = if is_scaling(&view) || deployment.spec.paused {
            scale_all(&view, ctx)
        } else {
            advance(world, &view, ctx)
        };
        plan.actions.extend(step);
    }
    let (status, again) = status(&view, failure.as_deref(), ctx);
    let mut changed = Deployment { status, ..deployment.clone() };
    // Written with the status: an update of the Deployment itself would count as another generation of it.
    if let Some(held) =
        view.new.map(|new| revision(&new.metadata.annotations)).filter(|held| *held >= next_revision(&view))
    {
        changed.metadata.annotations.insert(REVISION.to_owned(), held.to_string());
    }
    if changed != *deployment {
        plan.push(Action::update_status(changed));
    }
    if let Some(seconds) = again {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

/// `spec.replicas` changed since the sets were last scaled.
fn is_scaling(view: &View<'_>) -> bool {
    view.all().filter(|set| replicas(set) > 0).any(|set| {
        let desired = set.metadata.annotations.get(DESIRED).and_then(|desired| desired.parse::<i32>().ok());
        desired.is_some_and(|desired| desired != view.wanted())
    })
}

/// One step of a rollout.
fn advance(world: &World, view: &View<'_>, ctx: &mut Ctx) -> Vec<Action> {
    let mut actions = Vec::new();
    if !view.is_rolling() {
        let down: Vec<_> =
            view.old.iter().filter(|set| replicas(set) > 0).flat_map(|set| scale(view, set, 0, ctx)).collect();
        let old_pods =
            view.old.iter().flat_map(|set| super::pods::owned(world, &set.metadata.uid)).any(|pod| !is_terminal(pod));
        if !down.is_empty() || old_pods {
            return down;
        }
    }
    let Some(new) = view.new else {
        actions.extend(create_new(view, world, ctx));
        return actions;
    };
    actions.extend(refresh(view, new));
    if !actions.is_empty() {
        return actions;
    }
    let wanted = view.wanted();
    let next = if replicas(new) > wanted { wanted } else { view.new_replicas() };
    if next != replicas(new) {
        return scale(view, new, next, ctx);
    }
    if view.is_rolling() {
        actions.extend(scale_down_old(view, ctx));
    }
    if actions.is_empty() && is_complete(view.deployment, &view.deployment.status) {
        actions.extend(clean_up(view));
    }
    actions
}

/// Old sets give way as far as availability allows, unhealthy pods first.
fn scale_down_old(view: &View<'_>, ctx: &mut Ctx) -> Vec<Action> {
    let (_, unavailable) = view.fences();
    let old: i32 = total(view.old.iter().copied());
    let Some(new) = view.new.filter(|_| old > 0) else { return Vec::new() };
    let least = view.wanted() - unavailable;
    let new_unavailable = replicas(new) - new.status.available_replicas;
    // Pods of the new set that are not there yet cost nothing more: others make room only for those that are.
    let mut left = total(view.all()) - least - new_unavailable;
    if left <= 0 {
        return Vec::new();
    }
    let mut targets: BTreeMap<&str, i32> = view.old.iter().map(|set| (set.name(), replicas(set))).collect();
    for set in &view.old {
        let unhealthy = (replicas(set) - set.status.available_replicas).clamp(0, left);
        if let Some(target) = targets.get_mut(set.name()) {
            *target -= unhealthy;
            left -= unhealthy;
        }
    }
    let available: i32 = view.all().map(|set| set.status.available_replicas).sum();
    let mut surplus = (available - least).max(0);
    for set in &view.old {
        if let Some(target) = targets.get_mut(set.name()) {
            let down = surplus.min(*target).max(0);
            *target -= down;
            surplus -= down;
        }
    }
    let aimed = view.old.iter().filter_map(|set| targets.get(set.name()).map(|target| (set, *target)));
    let others = aimed.filter(|(set, target)| *target != replicas(set));
    others.flat_map(|(set, target)| scale(view, set, target, ctx)).collect()
}

/// `spec.replicas` changed or the rollout is paused: all sets grow or shrink in proportion.
fn scale_all(view: &View<'_>, ctx: &mut Ctx) -> Vec<Action> {
    let wanted = view.wanted();
    let active: Vec<&ReplicaSet> = view.all().filter(|set| replicas(set) > 0).collect();
    match active[..] {
        [] | [_] => {
            let Some(only) = active.first().copied().or(view.new).or(view.old.last().copied()) else {
                return Vec::new();
            };
            return if replicas(only) == wanted { Vec::new() } else { scale(view, only, wanted, ctx) };
        }
        _ => {}
    }
    let saturated = view.new.is_some_and(|new| {
        let desired = new.metadata.annotations.get(DESIRED).and_then(|desired| desired.parse().ok()).unwrap_or(-1);
        replicas(new) == wanted && desired == wanted && new.status.available_replicas == wanted
    });
    if saturated {
        return view.old.iter().filter(|set| replicas(set) > 0).flat_map(|set| scale(view, set, 0, ctx)).collect();
    }
    if !view.is_rolling() {
        return Vec::new();
    }
    let allowed = if wanted > 0 { wanted + view.surge() } else { 0 };
    let current = total(active.iter().copied());
    let mut left = allowed - current;
    // The newest grows first, the oldest shrinks first, among sets of a size.
    let mut order = active.clone();
    if left > 0 {
        order.sort_by_key(|set| (Reverse(replicas(set)), Reverse(set.metadata.creation_timestamp)));
    } else {
        order.sort_by_key(|set| (Reverse(replicas(set)), set.metadata.creation_timestamp));
    }
    let mut targets: Vec<(&ReplicaSet, i32)> = Vec::new();
    for set in order {
        let size = replicas(set);
        let max = set.metadata.annotations.get(MAX).and_then(|max| max.parse::<i32>().ok()).filter(|max| *max > 0);
        let before = max.unwrap_or(current);
        let share = (f64::from(size) * f64::from(allowed) / f64::from(before)).round() as i32 - size;
        let share = if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        left -= share;
        targets.push((set, (size + share).max(0)));
    }
    if let Some((_, first)) = targets.first_mut() {
        *first = (*first + left).max(0);
    }
    targets.into_iter().flat_map(|(set, target)| scale(view, set, target, ctx)).collect()
}

/// Sets a size, with the annotations by which a later change is recognised.
fn scale(view: &View<'_>, set: &ReplicaSet, size: i32, ctx: &mut Ctx) -> Vec<Action> {
    let (desired, max) = (view.wanted().to_string(), (view.wanted() + view.surge()).to_string());
    let held = |name: &str| set.metadata.annotations.get(name);
    if replicas(set) == size && held(DESIRED) == Some(&desired) && held(MAX) == Some(&max) {
        return Vec::new();
    }
    let mut changed = set.clone();
    changed.spec.replicas = Some(size);
    changed.metadata.annotations.insert(DESIRED.to_owned(), desired);
    changed.metadata.annotations.insert(MAX.to_owned(), max);
    let mut actions = vec![Action::update(changed)];
    if replicas(set) != size {
        let direction = if size > replicas(set) { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {} to {size}", set.name(), replicas(set));
        actions.push(event(ctx, view.deployment, COMPONENT, "Normal", "ScalingReplicaSet", message));
    }
    actions
}

fn next_revision(view: &View<'_>) -> i64 {
    view.old.iter().map(|set| revision(&set.metadata.annotations)).max().unwrap_or(0) + 1
}

/// The set of the current template follows its Deployment's annotations, revision and minReadySeconds.
fn refresh(view: &View<'_>, new: &ReplicaSet) -> Vec<Action> {
    let deployment = view.deployment;
    let mut changed = new.clone();
    for (name, value) in &deployment.metadata.annotations {
        if !OWN_ANNOTATIONS.contains(&&**name) {
            changed.metadata.annotations.insert(name.clone(), value.clone());
        }
    }
    let held = revision(&new.metadata.annotations);
    let wanted = next_revision(view);
    if held < wanted {
        if held > 0 {
            let mut history = new.metadata.annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&held.to_string());
            changed.metadata.annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
        changed.metadata.annotations.insert(REVISION.to_owned(), wanted.to_string());
    }
    changed.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
    if changed == *new { Vec::new() } else { vec![Action::update(changed)] }
}

/// A name suffix for a template: FNV-1a of its encoding, and of how often names collided.
fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = Vec::new();
    template.encode(&mut bytes);
    bytes.extend(collisions.unwrap_or(0).to_le_bytes());
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    safe_encode(hash)
}

fn create_new(view: &View<'_>, world: &World, ctx: &mut Ctx) -> Vec<Action> {
    let deployment = view.deployment;
    let hash = template_hash(&plain(&deployment.spec.template), deployment.status.collision_count);
    let name = format!("{}-{hash}", deployment.name());
    if world.get::<ReplicaSet>(&key(deployment.namespace(), &name)).is_some() {
        // Somebody else's, or ours of another template: the next name will differ.
        let mut changed = deployment.clone();
        changed.status.collision_count = Some(deployment.status.collision_count.unwrap_or(0) + 1);
        return vec![Action::update_status(changed)];
    }
    let mut template = deployment.spec.template.clone();
    template.metadata.labels.insert(HASH.to_owned(), hash.clone());
    let mut selector = deployment.spec.selector.clone().unwrap_or_default();
    selector.match_labels.insert(HASH.to_owned(), hash);
    let kept = deployment.metadata.annotations.iter().filter(|(name, _)| !OWN_ANNOTATIONS.contains(&&***name));
    let mut annotations: BTreeMap<String, String> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let size = view.new_replicas();
    annotations.insert(REVISION.to_owned(), next_revision(view).to_string());
    annotations.insert(DESIRED.to_owned(), view.wanted().to_string());
    annotations.insert(MAX.to_owned(), (view.wanted() + view.surge()).to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: name.clone(),
            namespace: deployment.namespace().to_owned(),
            labels: template.metadata.labels.clone(),
            annotations,
            owner_references: vec![controller_ref(deployment)],
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector: Some(selector),
            template,
            ..ReplicaSetSpec::default()
        },
        ..ReplicaSet::default()
    };
    let mut actions = vec![Action::create(set)];
    if size > 0 {
        let message = format!("Scaled up replica set {name} from 0 to {size}");
        actions.push(event(ctx, deployment, COMPONENT, "Normal", "ScalingReplicaSet", message));
    }
    actions
}

/// Old sets beyond the history limit go, the oldest revisions first.
fn clean_up(view: &View<'_>) -> Vec<Action> {
    let Some(limit) = view.deployment.spec.revision_history_limit else { return Vec::new() };
    let mut idle: Vec<&ReplicaSet> =
        view.old.iter().copied().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    idle.sort_by_key(|set| revision(&set.metadata.annotations));
    idle.into_iter()
        .take(surplus)
        .filter(|set| {
            set.status.replicas == 0 && replicas(set) == 0 && set.metadata.generation <= set.status.observed_generation
        })
        .map(Action::delete)
        .collect()
}

fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn status(view: &View<'_>, failure: Option<&str>, ctx: &Ctx) -> (DeploymentStatus, Option<i64>) {
    let deployment = view.deployment;
    let old = &deployment.status;
    let sum = |of: fn(&ReplicaSet) -> i32| -> i32 { view.all().map(of).sum() };
    let available = sum(|set| set.status.available_replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: view.new.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (total(view.all()) - available).max(0),
        terminating_replicas: Some(sum(|set| set.status.terminating_replicas.unwrap_or(0))),
        conditions: old.conditions.clone(),
        collision_count: old.collision_count,
        unknown: old.unknown.clone(),
    };
    let (value, reason, verb) = if available >= view.wanted() - view.fences().1 {
        ("True", "MinimumReplicasAvailable", "has")
    } else {
        ("False", "MinimumReplicasUnavailable", "does not have")
    };
    set_condition(&mut status, ctx, "Available", value, reason, &format!("Deployment {verb} minimum availability."));
    let again = progress(view, &mut status, ctx);
    let of_set =
        view.new.and_then(|set| set.status.conditions.iter().find(|condition| condition.r#type == "ReplicaFailure"));
    match (failure, of_set) {
        (Some(message), _) => set_condition(&mut status, ctx, "ReplicaFailure", "True", "FailedCreate", message),
        (None, Some(condition)) => {
            set_condition(&mut status, ctx, "ReplicaFailure", &condition.status, &condition.reason, &condition.message)
        }
        (None, None) => status.conditions.retain(|condition| condition.r#type != "ReplicaFailure"),
    }
    (status, again)
}

/// The Progressing condition; how long until its deadline must be looked at.
fn progress(view: &View<'_>, status: &mut DeploymentStatus, ctx: &Ctx) -> Option<i64> {
    let deployment = view.deployment;
    let deadline = deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    let held = status.conditions.iter().find(|condition| condition.r#type == "Progressing").cloned();
    let held_reason = held.as_ref().map_or("", |condition| &condition.reason).to_owned();
    let what = view.new.map_or_else(
        || format!("Deployment \"{}\"", deployment.name()),
        |set| format!("ReplicaSet \"{}\"", set.name()),
    );
    if deployment.spec.paused {
        if held_reason != "DeploymentPaused" {
            set_condition(status, ctx, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
        }
        return None;
    }
    if held_reason == "DeploymentPaused" {
        set_condition(status, ctx, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
        return Some(i64::from(deadline));
    }
    // A rollout that ended stays ended until its template changes.
    let ended = status.replicas == status.updated_replicas && held_reason == "NewReplicaSetAvailable";
    if ended {
        return None;
    }
    let old = &deployment.status;
    if is_complete(deployment, status) {
        let message = format!("{what} has successfully progressed.");
        set_condition(status, ctx, "Progressing", "True", "NewReplicaSetAvailable", &message);
        return None;
    }
    let moved = status.updated_replicas > old.updated_replicas
        || status.replicas - status.updated_replicas < old.replicas - old.updated_replicas
        || status.ready_replicas > old.ready_replicas
        || status.available_replicas > old.available_replicas;
    if moved || held.is_none() {
        let (reason, message) = if view.new.is_none() {
            ("NewReplicaSetCreated", format!("Created new replica set for {what}"))
        } else if held.is_none() && status.updated_replicas == 0 {
            ("NewReplicaSetCreated", format!("Created new replica set \"{}\"", view.new.map_or("", |set| set.name())))
        } else {
            ("ReplicaSetUpdated", format!("{what} is progressing."))
        };
        // The clock of the deadline starts again with every step.
        status.conditions.retain(|condition| condition.r#type != "Progressing");
        let since = held.filter(|condition| condition.status == "True").map(|condition| condition.last_transition_time);
        push_condition(status, ctx, "Progressing", "True", reason, &message, since);
        return Some(i64::from(deadline));
    }
    let started = held.as_ref().map_or(0, |condition| condition.last_update_time.seconds);
    if held_reason == "ProgressDeadlineExceeded" {
        return None;
    }
    let left = started + i64::from(deadline) - ctx.now_seconds();
    if left > 0 {
        return Some(left + 1);
    }
    let message = format!("{what} has timed out progressing.");
    set_condition(status, ctx, "Progressing", "False", "ProgressDeadlineExceeded", &message);
    None
}

fn set_condition(status: &mut DeploymentStatus, ctx: &Ctx, kind: &str, value: &str, reason: &str, message: &str) {
    let held = status.conditions.iter().find(|condition| condition.r#type == kind);
    if held.is_some_and(|held| held.status == value && held.reason == reason) {
        return;
    }
    let since = held.filter(|held| held.status == value).map(|held| held.last_transition_time);
    status.conditions.retain(|condition| condition.r#type != kind);
    push_condition(status, ctx, kind, value, reason, message, since);
}

fn push_condition(
    status: &mut DeploymentStatus,
    ctx: &Ctx,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    since: Option<Time>,
) {
    status.conditions.push(DeploymentCondition {
        r#type: kind.to_owned(),
        status: value.to_owned(),
        last_update_time: time(ctx),
        last_transition_time: since.unwrap_or_else(|| time(ctx)),
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..DeploymentCondition::default()
    });
}
