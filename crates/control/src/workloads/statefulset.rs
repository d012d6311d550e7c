//! The StatefulSet controller: pods with stable names, identities and volumes, made and replaced in order.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::Object;
use schema::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use schema::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume, VolumeSource,
};
use schema::api::meta::v1::OwnerReference;

use super::history::{self, History, POD_HASH};
use super::{adopters, pods};
use crate::support::{Matcher, availability, claim, controller_ref, event, is_ready, is_terminal, key, scaled};

const COMPONENT: &str = "statefulset-controller";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<StatefulSet>(),
        Trigger::controller::<StatefulSet, Pod>(),
        Trigger::on::<Pod>(|world, _, new| {
            adopters::<StatefulSet, _>(world, new, |owner| Matcher::new(owner.spec.selector.as_ref()))
        }),
        Trigger::controller::<StatefulSet, ControllerRevision>(),
        // A claim on its way out blocks its pod until it is gone.
        Trigger::on::<PersistentVolumeClaim>(|world, old, new| match (old, new) {
            (Some(claim), None) => {
                let sets = world.of::<StatefulSet>().in_namespace(&claim.metadata.namespace);
                sets.filter(|set| !set.spec.volume_claim_templates.is_empty()).map(|set| Key::of(&**set)).collect()
            }
            _ => Vec::new(),
        }),
    ];
    Row::new("statefulset", "statefulset-controller", 5, triggers, reconcile)
}

/// A place of the set: the pod that holds it, or the one that shall.
enum Replica<'a> {
    Here(&'a Pod),
    Missing(Box<Pod>),
}

impl Replica<'_> {
    fn pod(&self) -> &Pod {
        match self {
            Self::Here(pod) => pod,
            Self::Missing(pod) => pod,
        }
    }

    fn here(&self) -> Option<&Pod> {
        match self {
            Self::Here(pod) => Some(pod),
            Self::Missing(_) => None,
        }
    }
}

/// One look at a set: what it sees and what it decides.
struct Look<'a> {
    world: &'a World,
    set: &'a StatefulSet,
    /// Template and name of the revision that pods are rolled to.
    update: (&'a PodTemplateSpec, String),
    /// The same of the revision that they come from.
    current: (PodTemplateSpec, String),
    now_seconds: i64,
    actions: Vec<Action>,
    /// Reasons and messages, told last.
    told: Vec<(&'static str, String)>,
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(set) = world.get::<StatefulSet>(key) else { return plan };
    let set = &**set;
    let matcher = Matcher::new(set.spec.selector.as_ref());
    let is_member = |pod: &Pod| place(&pod.metadata.name).is_some_and(|(parent, _)| parent == set.name());
    let pods = claim(set, &matcher, world.of::<Pod>(), is_member, &mut plan.actions);
    let template = &set.spec.template;
    let history =
        History::of(world, set, &matcher, template, set.status.collision_count, history::HASH, &mut plan.actions);
    let update = history.update.name().to_owned();
    let remembered = history.revisions.iter().find(|revision| revision.name() == set.status.current_revision);
    let current = remembered.map_or_else(|| update.clone(), |revision| revision.name().to_owned());
    let current_template = remembered.filter(|_| current != update).and_then(|revision| history::template_of(revision));
    let mut look = Look {
        world,
        set,
        update: (template, update),
        current: (current_template.unwrap_or_else(|| template.clone()), current),
        now_seconds: ctx.now_seconds(),
        actions: Vec::new(),
        told: Vec::new(),
    };

    if let Some(failure) = ctx.failure.take() {
        let message = format!("Pods of StatefulSet {} failed error: {failure}", set.name());
        plan.push(event(ctx, set, COMPONENT, "Warning", "FailedCreate", message));
    }
    let mut status = look.status(&pods, history.collisions);
    if set.metadata.deletion_timestamp.is_none() {
        status.current_replicas -= look.advance(&pods);
    }
    if [status.updated_replicas, status.ready_replicas, status.replicas].iter().all(|count| *count == replicas(set)) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }

    let left = |pod: &&Pod| availability(pod, set.spec.min_ready_seconds, look.now_seconds).err().flatten();
    let next = pods.iter().filter_map(left).min();
    let Look { current, actions, told, .. } = look;
    let live: BTreeSet<&str> = pods.iter().map(|pod| revision_of(pod)).chain([current.1.as_str()]).collect();
    let unused = history.unused(|revision| live.contains(revision.name()));
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let surplus = unused.len().saturating_sub(limit);
    if status != set.status {
        plan.push(Action::update_status(StatefulSet { status, ..set.clone() }));
    }
    plan.actions.extend(actions);
    for (reason, message) in told {
        let kind = if reason.starts_with("Failed") || reason == "ConflictingController" { "Warning" } else { "Normal" };
        plan.push(event(ctx, set, COMPONENT, kind, reason, message));
    }
    plan.actions.extend(unused.into_iter().take(surplus).map(Action::delete));
    if let Some(seconds) = next {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.get(POD_HASH).map_or("", String::as_str)
}

fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn runs_ready(pod: &Pod) -> bool {
    pod.status.phase == "Running" && is_ready(pod)
}

/// `web-2`: the set's name and the ordinal.
fn place(name: &str) -> Option<(&str, i32)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    Some((parent, ordinal.bytes().all(|byte| byte.is_ascii_digit()).then(|| ordinal.parse().ok())??))
}

fn ordinal(pod: &Pod) -> Option<i32> {
    place(&pod.metadata.name).map(|(_, ordinal)| ordinal)
}

impl<'a> Look<'a> {
    fn start(&self) -> i32 {
        self.set.spec.ordinals.as_ref().map_or(0, |ordinals| ordinals.start)
    }

    fn in_range(&self, pod: &Pod) -> bool {
        ordinal(pod)
            .is_some_and(|ordinal| ordinal >= self.start() && ordinal < self.start().saturating_add(replicas(self.set)))
    }

    fn is_parallel(&self) -> bool {
        self.set.spec.pod_management_policy == "Parallel"
    }

    fn is_available(&self, pod: &Pod) -> bool {
        availability(pod, self.set.spec.min_ready_seconds, self.now_seconds).is_ok()
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || is_deleting(pod)
    }

    fn status(&self, pods: &[&Pod], collisions: i32) -> StatefulSetStatus {
        let count = |of: &dyn Fn(&Pod) -> bool| {
            i32::try_from(pods.iter().filter(|pod| !pod.status.phase.is_empty() && of(pod)).count()).unwrap_or(i32::MAX)
        };
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: count(&runs_ready),
            available_replicas: count(&|pod| runs_ready(pod) && self.is_available(pod)),
            current_replicas: count(&|pod| !is_deleting(pod) && revision_of(pod) == self.current.1),
            updated_replicas: count(&|pod| !is_deleting(pod) && revision_of(pod) == self.update.1),
            current_revision: self.current.1.clone(),
            update_revision: self.update.1.clone(),
            collision_count: Some(collisions),
            conditions: self.set.status.conditions.clone(),
            unknown: self.set.status.unknown.clone(),
        }
    }

    /// As far as the pods' states allow; returns how many were deleted for the update.
    fn advance(&mut self, pods: &[&'a Pod]) -> i32 {
        let end = self.start().saturating_add(replicas(self.set));
        let here = |wanted: i32| pods.iter().copied().find(|pod| ordinal(pod) == Some(wanted));
        let places: Vec<Replica<'a>> = (self.start()..end)
            .map(|ordinal| {
                here(ordinal).map_or_else(|| Replica::Missing(Box::new(self.new_pod(ordinal))), Replica::Here)
            })
            .collect();
        let mut condemned: Vec<&'a Pod> =
            pods.iter().copied().filter(|pod| ordinal(pod).is_some() && !self.in_range(pod)).collect();
        condemned.sort_by_key(|pod| Reverse(ordinal(pod)));
        let ordered = !self.is_parallel();
        let mut pods = places.iter().map(Replica::pod).chain(condemned.iter().rev().copied());
        let first_unavailable = pods.find(|pod| self.is_unavailable(pod)).map(|pod| pod.metadata.name.clone());

        for replica in &places {
            if self.tend(replica) && ordered {
                return 0;
            }
        }
        for pod in &condemned {
            self.tend_claims(pod);
        }
        for pod in &condemned {
            let waits = is_deleting(pod)
                || (!runs_ready(pod) || !self.is_available(pod))
                    && first_unavailable.as_ref() != Some(&pod.metadata.name);
            if ordered && waits {
                return 0;
            }
            if !is_deleting(pod) {
                self.delete(pod);
                if ordered {
                    return 0;
                }
            }
        }
        if self.set.spec.update_strategy.r#type == "RollingUpdate" { self.roll(&places) } else { 0 }
    }

    /// Brings one place forward; true if the next places of an ordered set must wait.
    fn tend(&mut self, replica: &Replica<'a>) -> bool {
        let pod = match replica {
            Replica::Missing(pod) => {
                if self.has_stale_claim(pod) || !self.make_claims(pod) {
                    return true;
                }
                self.actions.push(Action::create((**pod).clone()));
                self.tend_claims(pod);
                self.tell("SuccessfulCreate", "Create", pod);
                return true;
            }
            Replica::Here(pod) => *pod,
        };
        // Whatever the exit code: a place is never done.
        if is_terminal(pod) {
            if !is_deleting(pod) {
                self.delete(pod);
            }
            return true;
        }
        if pod.status.phase == "Pending" && self.make_claims(pod) {
            self.tend_claims(pod);
        }
        let waits = is_deleting(pod) || !runs_ready(pod) || !self.is_available(pod);
        if waits && !self.is_parallel() {
            return true;
        }
        let mut right = pod.clone();
        self.identify(&mut right);
        if right.metadata.labels.get(POD_NAME) != pod.metadata.labels.get(POD_NAME) {
            self.actions.push(Action::update(right));
            self.tell("SuccessfulUpdate", "Update", pod);
        }
        self.tend_claims(pod);
        waits
    }

    /// Replaces pods of other revisions, never more than `maxUnavailable` of them away.
    fn roll(&mut self, places: &[Replica<'a>]) -> i32 {
        let rolling = self.set.spec.update_strategy.rolling_update.as_ref();
        let partition = usize::try_from(rolling.and_then(|rolling| rolling.partition).unwrap_or(0)).unwrap_or(0);
        let most = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .map_or(1, |most| scaled(Some(most), replicas(self.set), false).max(1));
        let away = places.iter().filter(|replica| self.is_unavailable(replica.pod())).count();
        let mut budget = i64::from(most) - i64::try_from(away).unwrap_or(i64::MAX);
        let here = places.iter().skip(partition).rev().filter_map(|replica| replica.here());
        let outdated: Vec<&Pod> = here.filter(|pod| revision_of(pod) != self.update.1 && !is_deleting(pod)).collect();
        let (there, broken): (Vec<&Pod>, Vec<&Pod>) = if self.is_parallel() {
            outdated.into_iter().partition(|pod| self.is_available(pod))
        } else {
            (outdated, Vec::new())
        };
        // Those that serve nobody anyway go first, and cost nothing.
        let mut deleted = 0;
        for pod in broken {
            self.delete(pod);
            deleted += 1;
        }
        for pod in there {
            if budget <= 0 {
                break;
            }
            self.delete(pod);
            budget -= 1;
            deleted += 1;
        }
        deleted
    }

    fn delete(&mut self, pod: &Pod) {
        self.actions.push(Action::delete(pod));
        self.tell("SuccessfulDelete", "Delete", pod);
    }

    fn tell(&mut self, reason: &'static str, verb: &str, pod: &Pod) {
        self.told
            .push((reason, format!("{verb} Pod {} in StatefulSet {} successful", pod.metadata.name, self.set.name())));
    }

    fn new_pod(&self, ordinal: i32) -> Pod {
        let strategy = &self.set.spec.update_strategy;
        let stays = match &strategy.rolling_update {
            None => strategy.r#type == "RollingUpdate" && ordinal < self.start() + self.set.status.current_replicas,
            Some(rolling) => ordinal < self.start() + rolling.partition.unwrap_or(0),
        };
        let (template, revision) =
            if stays { (&self.current.0, &self.current.1) } else { (self.update.0, &self.update.1) };
        let mut pod = pods::named(self.set, template, &format!("{}-{ordinal}", self.set.name()));
        self.identify(&mut pod);
        pod.metadata.labels.insert(POD_HASH.to_owned(), revision.clone());
        pod.spec.hostname.clone_from(&pod.metadata.name);
        pod.spec.subdomain.clone_from(&self.set.spec.service_name);
        let own = |volume: &Volume| {
            self.set.spec.volume_claim_templates.iter().any(|template| template.metadata.name == volume.name)
        };
        let rest: Vec<Volume> = pod.spec.volumes.drain(..).filter(|volume| !own(volume)).collect();
        let claims = self.set.spec.volume_claim_templates.iter().map(|template| Volume {
            name: template.metadata.name.clone(),
            volume_source: VolumeSource {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: self.claim_name(template, ordinal),
                    ..PersistentVolumeClaimVolumeSource::default()
                }),
                ..VolumeSource::default()
            },
            ..Volume::default()
        });
        pod.spec.volumes = claims.chain(rest).collect();
        pod
    }

    fn identify(&self, pod: &mut Pod) {
        let Some((_, ordinal)) = place(&pod.metadata.name) else { return };
        let (name, index) = (pod.metadata.name.clone(), ordinal.to_string());
        pod.metadata.labels.extend([(POD_NAME.to_owned(), name), (POD_INDEX.to_owned(), index)]);
    }

    fn claim_name(&self, template: &PersistentVolumeClaim, ordinal: i32) -> String {
        format!("{}-{}-{ordinal}", template.metadata.name, self.set.name())
    }

    /// The claims of a pod's place, each with what there is of it.
    fn claims(&self, pod: &Pod) -> Vec<(PersistentVolumeClaim, Option<&'a PersistentVolumeClaim>)> {
        let Some(ordinal) = ordinal(pod) else { return Vec::new() };
        let namespace = self.set.namespace();
        let labels = self.set.spec.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default();
        let templates = self.set.spec.volume_claim_templates.iter();
        templates
            .map(|template| {
                let mut claim = template.clone();
                claim.metadata.name = self.claim_name(template, ordinal);
                claim.metadata.namespace = namespace.to_owned();
                claim.metadata.labels.extend(labels.clone());
                let held = self.world.get::<PersistentVolumeClaim>(&key(namespace, &claim.metadata.name));
                (claim, held.map(|held| &**held))
            })
            .collect()
    }

    /// Makes what is missing of a pod's claims; false if one is being deleted.
    fn make_claims(&mut self, pod: &Pod) -> bool {
        let mut usable = true;
        for (claim, held) in self.claims(pod) {
            let (name, of) =
                (&claim.metadata.name, format!("Pod {} in StatefulSet {}", pod.metadata.name, self.set.name()));
            match held {
                Some(held) if held.metadata.deletion_timestamp.is_some() => {
                    self.told.push(("FailedCreate", format!("Create {of} failed error: pvc {name} is being deleted")));
                    usable = false;
                }
                Some(_) => {}
                None => {
                    self.told.push(("SuccessfulCreate", format!("Create Claim {name} {of} success")));
                    self.actions.push(Action::create(claim));
                }
            }
        }
        usable
    }

    /// (whenDeleted, whenScaled) is Delete.
    fn retention(&self) -> (bool, bool) {
        let policy = self.set.spec.persistent_volume_claim_retention_policy.as_ref();
        policy.map_or((false, false), |policy| (policy.when_deleted == "Delete", policy.when_scaled == "Delete"))
    }

    /// A claim that goes away with a former pod of this name.
    fn has_stale_claim(&self, pod: &Pod) -> bool {
        self.retention().1
            && self.claims(pod).iter().filter_map(|(_, held)| *held).any(|claim| {
                claim.metadata.owner_references.iter().any(|owner| refers(owner, pod) && owner.uid != pod.metadata.uid)
            })
    }

    /// Gives the claims of a pod the owners with which they shall go.
    fn tend_claims(&mut self, pod: &Pod) {
        for (_, held) in self.claims(pod) {
            let Some(claim) = held else { continue };
            let owners = &claim.metadata.owner_references;
            let stale = |owner: &&OwnerReference| {
                refers(owner, self.set) && owner.uid != self.set.metadata.uid
                    || refers(owner, pod) && owner.uid != pod.metadata.uid
            };
            if owners.iter().any(|owner| stale(&owner)) {
                continue;
            }
            let (when_deleted, when_scaled) = self.retention();
            let mut wanted: Vec<OwnerReference> =
                owners.iter().filter(|owner| !refers(owner, self.set) && !refers(owner, pod)).cloned().collect();
            if (when_deleted || when_scaled) && wanted.iter().any(|owner| owner.controller == Some(true)) {
                self.told.push(("ConflictingController", format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                    claim.metadata.name
                )));
            } else {
                let surplus = !self.in_range(pod);
                if when_scaled && surplus {
                    wanted.push(controller_ref(pod));
                } else if when_deleted {
                    wanted.push(controller_ref(self.set));
                }
            }
            if wanted != *owners {
                let mut changed = claim.clone();
                changed.metadata.owner_references = wanted;
                self.actions.push(Action::update(changed));
            }
        }
    }
}

/// By kind and name, whichever object of that name it was.
fn refers<K: Object>(owner: &OwnerReference, object: &K) -> bool {
    owner.kind == K::KIND && owner.api_version == K::api_version() && owner.name == object.name()
}
