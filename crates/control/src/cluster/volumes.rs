//! PersistentVolumes and claims: static binding, the hand-over to provisioners, phases, and the finalizers that keep
//! what is in use (upstream's persistent-volume-binder, pv-protection and pvc-protection).

use std::collections::BTreeMap;

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use schema::api::meta::v1::ObjectMeta;
use schema::api::storage::v1::{StorageClass, VolumeAttributesClass};
use schema::api::{Object, Quantity};
use schema::quantity;

use crate::support::{Matcher, controller_ref, event, is_controlled_by, is_terminal, key, living, time};

const BINDER: &str = "persistent-volume-binder";
const COMPONENT: &str = "persistentvolume-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
/// A class of volumes that only exist by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const STORAGE: &str = "storage";

pub fn class_of<'a>(annotations: &'a BTreeMap<String, String>, spec: &'a str) -> &'a str {
    annotations.get(CLASS).map_or(spec, String::as_str)
}

pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    class_of(&claim.metadata.annotations, claim.spec.storage_class_name.as_deref().unwrap_or_default())
}

/// Bound only once a pod that uses it has a node.
pub fn waits_for_consumer(world: &World, claim: &PersistentVolumeClaim) -> bool {
    let class = world.of::<StorageClass>().named("", claim_class(claim));
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// The claim's side and the volume's side of the bond both stand.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !claim.spec.volume_name.is_empty() && claim.metadata.annotations.contains_key(BIND_COMPLETED)
}

fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|of| {
        of.name == claim.metadata.name
            && of.namespace == claim.metadata.namespace
            && (of.uid.is_empty() || of.uid == claim.metadata.uid)
    })
}

pub fn bytes(list: &BTreeMap<String, Quantity>) -> i64 {
    list.get(STORAGE).and_then(|size| quantity::Quantity::parse(&size.0).ok()).map_or(0, quantity::Quantity::value)
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Why a volume cannot serve a claim.
fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    Some(match () {
        () if volume.metadata.deletion_timestamp.is_some() => "the volume is marked for deletion",
        () if bytes(&volume.spec.capacity) < bytes(&claim.spec.resources.requests) => "requested PV is too small",
        () if class_of(&volume.metadata.annotations, &volume.spec.storage_class_name) != claim_class(claim) => {
            "storageClassName does not match"
        }
        () if attributes(&volume.spec.volume_attributes_class_name)
            != attributes(&claim.spec.volume_attributes_class_name) =>
        {
            "volumeAttributesClassName does not match"
        }
        () if mode(volume.spec.volume_mode.as_ref()) != mode(claim.spec.volume_mode.as_ref()) => {
            "incompatible volumeMode"
        }
        () if !claim.spec.access_modes.iter().all(|wanted| volume.spec.access_modes.contains(wanted)) => {
            "incompatible accessMode"
        }
        () => return None,
    })
}

/// A volume that names the claim, else (`any`) the smallest that serves it; only among those that `free` lets through.
pub fn find<'a>(
    world: &'a World,
    claim: &PersistentVolumeClaim,
    any: bool,
    free: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a PersistentVolume> {
    let matcher = claim.spec.selector.as_ref().map(|selector| Matcher::new(Some(selector)));
    let volumes = world.of::<PersistentVolume>().values().map(|volume| &**volume);
    let fits = volumes.filter(|volume| mismatch(volume, claim).is_none() && free(volume));
    let (named, free): (Vec<_>, Vec<_>) = fits
        .filter(|volume| is_for(volume, claim) || volume.spec.claim_ref.is_none())
        .partition(|volume| volume.spec.claim_ref.is_some());
    let free = free.into_iter().filter(|volume| {
        any && matches!(&*volume.status.phase, "Available" | "")
            && matcher.as_ref().is_none_or(|matcher| matcher.matches(&volume.metadata.labels))
    });
    named
        .into_iter()
        .next()
        .or_else(|| free.min_by_key(|volume| (bytes(&volume.spec.capacity), volume.name().to_owned())))
}

pub fn claims_row() -> Row {
    let triggers = vec![
        Trigger::itself::<PersistentVolumeClaim>(),
        Trigger::on::<PersistentVolume>(|world, old, new| {
            let both = old.into_iter().chain(new).filter_map(|volume| volume.spec.claim_ref.as_ref());
            let named = both.map(|of| key(&of.namespace, &of.name));
            let free = new.is_some_and(|volume| volume.spec.claim_ref.is_none());
            let waiting = world.of::<PersistentVolumeClaim>().iter().filter(|(_, claim)| {
                (free && claim.spec.volume_name.is_empty())
                    || new.or(old).is_some_and(|volume| claim.spec.volume_name == volume.name())
            });
            let mut keys: Vec<Key> = named.chain(waiting.map(|(key, _)| key.clone())).collect();
            keys.sort();
            keys.dedup();
            keys
        }),
        Trigger::on::<StorageClass>(|world, _, _| {
            let claims = world.of::<PersistentVolumeClaim>().iter();
            claims.filter(|(_, claim)| claim.spec.volume_name.is_empty()).map(|(key, _)| key.clone()).collect()
        }),
    ];
    // One at a time: no two claims get the same volume.
    Row::new("persistent-volume-claims", BINDER, 1, triggers, sync_claim)
}

pub fn sync_claim(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(claim) = living::<PersistentVolumeClaim>(world, key) else { return plan };
    match next_step(world, claim) {
        Step::Bind(volume) => bind(volume, claim, &mut plan),
        Step::HandOver(class) => hand_over(claim, class, ctx, &mut plan),
        Step::Pending(reason, message) => pending(claim, ctx, reason, message, &mut plan),
        Step::Lose(reason, message) => lose(claim, ctx, reason, message, &mut plan),
    }
    plan
}

/// What a claim is in for; reasons and messages are those of its event, if the reason is not empty.
enum Step<'a> {
    Bind(&'a PersistentVolume),
    HandOver(&'a StorageClass),
    Pending(&'static str, String),
    Lose(&'static str, &'static str),
}

const NO_CLASS: &str = "no persistent volumes available for this claim and no storage class is set";

fn next_step<'a>(world: &'a World, claim: &PersistentVolumeClaim) -> Step<'a> {
    let wanted = world.of::<PersistentVolume>().named("", &claim.spec.volume_name).map(|volume| &**volume);
    let waits = Step::Pending("", String::new());
    if claim.metadata.annotations.contains_key(BIND_COMPLETED) {
        return match wanted {
            Some(volume) if volume.spec.claim_ref.is_none() || is_for(volume, claim) => Step::Bind(volume),
            Some(_) => {
                let why = "Two claims are bound to the same volume, this one is bound incorrectly";
                Step::Lose("ClaimMisbound", why)
            }
            None => {
                let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                Step::Lose("ClaimLost", why)
            }
        };
    }
    if !claim.spec.volume_name.is_empty() {
        let Some(volume) = wanted else { return waits };
        let name = volume.name();
        return match (is_for(volume, claim), &volume.spec.claim_ref, mismatch(volume, claim)) {
            (true, ..) | (false, None, None) => Step::Bind(volume),
            (false, None, Some(why)) => {
                Step::Pending("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}"))
            }
            (false, Some(_), _) => {
                Step::Pending("FailedBinding", format!("volume {name:?} already bound to a different claim."))
            }
        };
    }
    let class = claim_class(claim);
    let delayed = waits_for_consumer(world, claim);
    if let Some(volume) = find(world, claim, !delayed, |_| true) {
        return Step::Bind(volume);
    }
    if delayed && !claim.metadata.annotations.contains_key(SELECTED_NODE) {
        let why = "waiting for first consumer to be created before binding";
        return Step::Pending("WaitForFirstConsumer", why.to_owned());
    }
    match world.of::<StorageClass>().named("", class) {
        _ if class.is_empty() => Step::Pending("FailedBinding", NO_CLASS.to_owned()),
        None => Step::Pending("ProvisioningFailed", format!("storageclass.storage.k8s.io {class:?} not found")),
        Some(of) if of.provisioner == NO_PROVISIONER => Step::Pending("FailedBinding", NO_CLASS.to_owned()),
        Some(of) if PROVISIONERS.iter().all(|name| claim.metadata.annotations.get(*name) == Some(&of.provisioner)) => {
            waits
        }
        Some(of) => Step::HandOver(of),
    }
}

/// Says which provisioner makes a volume for the claim.
fn hand_over(claim: &PersistentVolumeClaim, class: &StorageClass, ctx: &mut Ctx, plan: &mut Plan) {
    let mut named = claim.clone();
    for name in PROVISIONERS {
        named.metadata.annotations.insert(name.to_owned(), class.provisioner.clone());
    }
    plan.push(Action::update(named));
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
        class.provisioner
    );
    plan.push(event(ctx, claim, COMPONENT, "Normal", "ExternalProvisioning", message));
}

fn pending(claim: &PersistentVolumeClaim, ctx: &mut Ctx, reason: &str, message: String, plan: &mut Plan) {
    if claim.status.phase != "Pending" {
        let mut told = claim.clone();
        told.status.phase = "Pending".to_owned();
        plan.push(Action::update_status(told));
        // Said once per change, and not each time it is looked at.
        if !reason.is_empty() {
            let kind = if matches!(reason, "VolumeMismatch" | "ProvisioningFailed") { "Warning" } else { "Normal" };
            plan.push(event(ctx, claim, COMPONENT, kind, reason, message));
        }
    }
}

fn lose(claim: &PersistentVolumeClaim, ctx: &mut Ctx, reason: &str, message: &str, plan: &mut Plan) {
    if claim.status.phase != "Lost" {
        let mut lost = claim.clone();
        lost.status.phase = "Lost".to_owned();
        lost.status.access_modes.clear();
        lost.status.capacity.clear();
        plan.push(Action::update_status(lost));
        plan.push(event(ctx, claim, COMPONENT, "Warning", reason, message));
    }
}

/// Lets the volume name the claim, if it does not.
pub fn bind_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Action> {
    if volume.spec.claim_ref.as_ref().is_some_and(|of| of.uid == claim.metadata.uid) {
        return None;
    }
    let mut bound = volume.clone();
    if bound.spec.claim_ref.is_none() {
        bound.metadata.annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    bound.spec.claim_ref = Some(reconcile::reference(claim));
    Some(Action::update(bound))
}

/// The next missing one of: the volume names the claim, the claim names the volume, the claim is Bound.
/// The volume's own row says when it is.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let meta = &claim.metadata;
    if let Some(named) = bind_to(volume, claim) {
        return plan.push(named);
    }
    if claim.spec.volume_name.is_empty() || !meta.annotations.contains_key(BIND_COMPLETED) {
        let mut bound = claim.clone();
        if bound.spec.volume_name.is_empty() {
            bound.spec.volume_name = volume.metadata.name.clone();
            bound.metadata.annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        bound.metadata.annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
        return plan.push(Action::update(bound));
    }
    let mut told = claim.clone();
    if told.status.phase != "Bound" || told.status.capacity.is_empty() {
        told.status.capacity = volume.spec.capacity.clone();
    }
    told.status.phase = "Bound".to_owned();
    told.status.access_modes = volume.spec.access_modes.clone();
    told.status.current_volume_attributes_class_name =
        volume.spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty());
    if told.status != claim.status {
        plan.push(Action::update_status(told));
    }
}

pub fn volumes_row() -> Row {
    let triggers = vec![
        Trigger::itself::<PersistentVolume>(),
        Trigger::on::<PersistentVolumeClaim>(|world, old, new| {
            let Some(claim) = new.or(old) else { return Vec::new() };
            let meta = &claim.metadata;
            let of = |volume: &PersistentVolume| {
                volume.spec.claim_ref.as_ref().is_some_and(|of| of.name == meta.name && of.namespace == meta.namespace)
            };
            let volumes = world.of::<PersistentVolume>().iter();
            let named = volumes.filter(|(key, volume)| *key.name == *claim.spec.volume_name || of(volume));
            named.map(|(key, _)| key.clone()).collect()
        }),
    ];
    Row::new("persistent-volumes", BINDER, 1, triggers, sync_volume)
}

pub fn sync_volume(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(volume) = world.get::<PersistentVolume>(key) else { return plan };
    let of = volume.spec.claim_ref.as_ref().filter(|of| !of.uid.is_empty());
    let claim = of.map(|of| {
        world.of::<PersistentVolumeClaim>().named(&of.namespace, &of.name).filter(|claim| claim.metadata.uid == of.uid)
    });
    let phase = match claim {
        None => "Available",
        Some(None) if volume.status.phase == "Failed" => "Failed",
        Some(None) => "Released",
        Some(Some(claim)) if claim.spec.volume_name == volume.metadata.name => "Bound",
        // The claim is about to name it, or has taken another one.
        Some(Some(claim)) if claim.spec.volume_name.is_empty() => return plan,
        Some(Some(_)) => {
            if volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
                let mut free = (**volume).clone();
                free.spec.claim_ref = None;
                free.metadata.annotations.remove(BOUND_BY_CONTROLLER);
                plan.push(Action::update(free));
            }
            return plan;
        }
    };
    if volume.status.phase != phase {
        let mut told = (**volume).clone();
        told.status.phase = phase.to_owned();
        told.status.message.clear();
        told.status.last_phase_transition_time = Some(time(ctx));
        plan.push(Action::update_status(told));
    }
    plan
}

/// The claims of pods' ephemeral volumes, which go with their pods.
pub fn ephemeral_row() -> Row {
    let triggers = vec![
        Trigger::on::<Pod>(|_, _, new| {
            let has = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && claims_of(pod).any(|(_, own)| own);
            new.filter(has).map(Key::of).into_iter().collect()
        }),
        Trigger::on::<PersistentVolumeClaim>(|_, old, new| {
            // One that is missing again, or that was in the way.
            let gone = old.filter(|_| new.is_none());
            let owners = gone.into_iter().flat_map(|claim| &claim.metadata.owner_references);
            let pods = owners.filter(|owner| owner.kind == "Pod");
            pods.map(|owner| key(gone.map_or("", |claim| claim.namespace()), &owner.name)).collect()
        }),
    ];
    Row::new("ephemeral-volume", "ephemeral-volume-controller", 2, triggers, make_ephemeral)
}

pub fn make_ephemeral(world: &World, at: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(pod) = living::<Pod>(world, at) else { return plan };
    for volume in &pod.spec.volumes {
        let source = volume.volume_source.ephemeral.as_ref();
        let Some(template) = source.and_then(|source| source.volume_claim_template.as_ref()) else { continue };
        let name = format!("{}-{}", pod.name(), volume.name);
        match world.of::<PersistentVolumeClaim>().named(&at.namespace, &name) {
            None => plan.push(Action::create(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name,
                    namespace: at.namespace.to_string(),
                    labels: template.metadata.labels.clone(),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: vec![controller_ref(&**pod)],
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                ..PersistentVolumeClaim::default()
            })),
            Some(claim) if !is_controlled_by(&claim.metadata, &pod.metadata.uid) => {
                let (namespace, volume, pod_name) = (&at.namespace, &volume.name, pod.name());
                let claim = format!("ephemeral volume {volume}: PVC {namespace}/{name}");
                let message = format!("{claim} was not created for pod {namespace}/{pod_name} (pod is not owner)");
                plan.push(event(ctx, &**pod, "ephemeral_volume", "Warning", "EphemeralBinding", message));
            }
            Some(_) => {}
        }
    }
    plan
}

/// A claim that pods use, and a volume that a claim uses, stay until they do no longer.
pub fn claim_protection_row() -> Row {
    let triggers = vec![
        Trigger::itself::<PersistentVolumeClaim>(),
        Trigger::on::<Pod>(|world, old, new| {
            let Some(pod) = old.filter(|_| new.is_none_or(is_terminal)) else { return Vec::new() };
            let claims = claims_of(pod).map(|(name, _)| key(&pod.metadata.namespace, &name));
            claims
                .filter(|key| {
                    world
                        .get::<PersistentVolumeClaim>(key)
                        .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
                })
                .collect()
        }),
    ];
    Row::new("pvc-protection", "pvc-protection-controller", 2, triggers, |world, key, _| {
        let Some(claim) = world.get::<PersistentVolumeClaim>(key) else { return Plan::nothing() };
        let used = || {
            let mut pods = world.of::<Pod>().in_namespace(&key.namespace);
            pods.any(|pod| !is_terminal(pod) && claims_of(pod).any(|(name, _)| *name == *key.name))
        };
        protect(&**claim, "kubernetes.io/pvc-protection", used)
    })
}

pub fn volume_protection_row() -> Row {
    let triggers = vec![Trigger::itself::<PersistentVolume>()];
    Row::new("pv-protection", "pv-protection-controller", 2, triggers, |world, key, _| {
        let Some(volume) = world.get::<PersistentVolume>(key) else { return Plan::nothing() };
        protect(&**volume, "kubernetes.io/pv-protection", || volume.status.phase == "Bound")
    })
}

/// Attributes that a claim or a volume has, had or is to have stay, too.
pub fn attributes_protection_row() -> Row {
    let triggers = vec![
        Trigger::itself::<VolumeAttributesClass>(),
        Trigger::on::<PersistentVolumeClaim>(|world, _, _| deleted_attributes(world)),
        Trigger::on::<PersistentVolume>(|world, _, _| deleted_attributes(world)),
    ];
    Row::new(
        "volumeattributesclass-protection",
        "volumeattributesclass-protection-controller",
        1,
        triggers,
        protect_attributes,
    )
}

fn deleted_attributes(world: &World) -> Vec<Key> {
    let classes = world.of::<VolumeAttributesClass>();
    let deleted = classes.iter().filter(|(_, class)| class.metadata.deletion_timestamp.is_some());
    deleted.map(|(key, _)| key.clone()).collect()
}

pub fn protect_attributes(world: &World, key: &Key, _: &mut Ctx) -> Plan {
    let Some(class) = world.get::<VolumeAttributesClass>(key) else { return Plan::nothing() };
    let is = |name: Option<&String>| name.is_some_and(|name| *name == *key.name);
    let used = || {
        let has = |claim: &PersistentVolumeClaim| {
            let target = claim.status.modify_volume_status.as_ref();
            is(claim.spec.volume_attributes_class_name.as_ref())
                || is(claim.status.current_volume_attributes_class_name.as_ref())
                || is(target.map(|status| &status.target_volume_attributes_class_name))
        };
        world.of::<PersistentVolumeClaim>().values().any(|claim| has(claim))
            || world
                .of::<PersistentVolume>()
                .values()
                .any(|volume| is(volume.spec.volume_attributes_class_name.as_ref()))
    };
    protect(&**class, "kubernetes.io/vac-protection", used)
}

fn protect<K: Object + Clone>(object: &K, finalizer: &str, used: impl Fn() -> bool) -> Plan {
    let meta = object.metadata();
    let held = meta.finalizers.iter().any(|name| name == finalizer);
    let mut changed = object.clone();
    match meta.deletion_timestamp {
        None if !held => changed.metadata_mut().finalizers.push(finalizer.to_owned()),
        Some(_) if held && !used() => changed.metadata_mut().finalizers.retain(|name| name != finalizer),
        _ => return Plan::nothing(),
    }
    vec![Action::update(changed)].into()
}

/// Names of the claims that a pod mounts, and whether they are its own: those of its ephemeral volumes.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = (String, bool)> {
    pod.spec.volumes.iter().filter_map(|volume| {
        let source = &volume.volume_source;
        let named = source.persistent_volume_claim.as_ref().map(|claim| (claim.claim_name.clone(), false));
        named.or_else(|| source.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.metadata.name, volume.name), true)))
    })
}
