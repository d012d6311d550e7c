//! VolumeBinding and VolumeRestrictions: the claims of a pod, the nodes on which they can be served, and what binds
//! them once a node is chosen.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::{Action, World};
use schema::api::Object;
use schema::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, TopologySelectorTerm};
use schema::api::storage::v1::{CSINode, StorageClass};

use super::filters::{Check, Refusal, matches_term};
use super::snapshot::NodeInfo;
use crate::cluster::volumes::{
    NO_PROVISIONER, SELECTED_NODE, bind_to, bytes, claim_class, claims_of, find, is_bound, waits_for_consumer,
};

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";

/// A pod's claims by what is to be done about them.
#[derive(Default)]
pub struct Claims<'a> {
    bound: Vec<&'a PersistentVolumeClaim>,
    /// Unbound ones that wait for the pod's node, smallest first.
    delayed: Vec<&'a PersistentVolumeClaim>,
    /// Names of those that only one pod may have.
    exclusive: Vec<String>,
}

/// What has to be written before a pod can be bound to a node.
#[derive(Default)]
struct Choice<'a> {
    volumes: Vec<(&'a PersistentVolume, &'a PersistentVolumeClaim)>,
    provisioned: Vec<&'a PersistentVolumeClaim>,
}

impl<'a> Claims<'a> {
    /// Upstream's words where no node can do.
    pub fn of(world: &'a World, pod: &Pod) -> Result<Self, String> {
        let mut claims = Self::default();
        let mut immediate = false;
        for (name, ephemeral) in claims_of(pod) {
            let Some(claim) = world.of::<PersistentVolumeClaim>().named(pod.namespace(), &name) else {
                return Err(if ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let ours = |owner: &schema::api::meta::v1::OwnerReference| owner.uid == pod.metadata.uid;
            if ephemeral && !claim.metadata.owner_references.iter().any(ours) {
                let (namespace, pod) = (pod.namespace(), pod.name());
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            if is_bound(claim) {
                claims.bound.push(claim);
            } else if claim.spec.volume_name.is_empty() && waits_for_consumer(world, claim) {
                claims.delayed.push(claim);
            } else {
                immediate = true;
            }
            if claim.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                claims.exclusive.push(name);
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        claims.delayed.sort_by_key(|claim| bytes(&claim.spec.resources.requests));
        Ok(claims)
    }

    pub fn are_taken_by(&self, pod: &Pod, other: &Pod) -> bool {
        !self.exclusive.is_empty()
            && other.namespace() == pod.namespace()
            && other.metadata.uid != pod.metadata.uid
            && claims_of(other).any(|(name, _)| self.exclusive.contains(&name))
    }

    pub fn check(&self, world: &'a World, node: &Node) -> Check {
        let mut reasons = Vec::new();
        let volumes =
            || self.bound.iter().map(move |claim| world.of::<PersistentVolume>().named("", &claim.spec.volume_name));
        if volumes().flatten().any(|volume| !is_reachable(volume, node)) {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
        }
        if self.choose(world, node).is_none() {
            reasons.push(NO_VOLUME.to_owned());
        }
        if volumes().any(|volume| volume.is_none()) {
            reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, by_pods: false }) }
    }

    /// Upstream's NodeVolumeLimits: how many volumes of a driver a node can have is in its CSINode.
    pub fn limits(&self, world: &World, info: &NodeInfo) -> Check {
        let handle = |claim: &PersistentVolumeClaim| {
            let volume = world.of::<PersistentVolume>().named("", &claim.spec.volume_name)?;
            let csi = volume.spec.persistent_volume_source.csi.as_ref()?;
            Some((csi.driver.clone(), csi.volume_handle.clone()))
        };
        let node = world.of::<CSINode>().named("", &info.node.metadata.name);
        let Some(node) = node.filter(|_| !self.bound.is_empty()) else { return Ok(()) };
        let mine: BTreeSet<_> = self.bound.iter().filter_map(|claim| handle(claim)).collect();
        let claims = info.pods.iter().flat_map(|pod| {
            let named = claims_of(pod).map(|(name, _)| name);
            named.filter_map(|name| world.of::<PersistentVolumeClaim>().named(pod.namespace(), &name))
        });
        let used: BTreeSet<_> = claims.filter_map(|claim| handle(claim)).collect();
        for driver in &node.spec.drivers {
            let limit = driver.allocatable.as_ref().and_then(|of| usize::try_from(of.count?).ok());
            let own = |set: &BTreeSet<(String, String)>| set.iter().filter(|(name, _)| *name == driver.name).count();
            let new: BTreeSet<_> = mine.difference(&used).cloned().collect();
            if own(&new) > 0 && limit.is_some_and(|limit| own(&used) + own(&new) > limit) {
                return Err(Refusal { reasons: vec!["node(s) exceed max volume count".to_owned()], by_pods: true });
            }
        }
        Ok(())
    }

    /// `None`: a claim can have no volume on this node.
    fn choose(&self, world: &'a World, node: &Node) -> Option<Choice<'a>> {
        let mut choice = Choice::default();
        for claim in &self.delayed {
            let selected = claim.metadata.annotations.get(SELECTED_NODE);
            if selected.is_some_and(|selected| *selected != node.metadata.name) {
                return None;
            }
            let free = |volume: &PersistentVolume| {
                is_reachable(volume, node)
                    && !choice.volumes.iter().any(|(other, _)| other.metadata.name == volume.metadata.name)
            };
            match find(world, claim, true, free).filter(|_| selected.is_none()) {
                Some(volume) => choice.volumes.push((volume, claim)),
                None => {
                    let class = world.of::<StorageClass>().named("", claim_class(claim))?;
                    let provides = !matches!(&*class.provisioner, "" | NO_PROVISIONER)
                        && allows(&class.allowed_topologies, &node.metadata.labels);
                    if !provides {
                        return None;
                    }
                    choice.provisioned.push(claim);
                }
            }
        }
        Some(choice)
    }

    /// Writes that give the claims volumes which `node` can reach; none if they are all bound.
    pub fn bind(&self, world: &'a World, node: &Node) -> Vec<Action> {
        let choice = self.choose(world, node).unwrap_or_default();
        let volumes = choice.volumes.into_iter().filter_map(|(volume, claim)| bind_to(volume, claim));
        let named = choice.provisioned.into_iter().filter_map(|claim| {
            let mut named = claim.clone();
            let held = named.metadata.annotations.insert(SELECTED_NODE.to_owned(), node.metadata.name.clone());
            (held.as_ref() != Some(&node.metadata.name)).then(|| Action::update(named))
        });
        volumes.chain(named).collect()
    }

    pub fn all_bound(&self) -> bool {
        self.delayed.is_empty()
    }
}

fn is_reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

fn allows(terms: &[TopologySelectorTerm], labels: &BTreeMap<String, String>) -> bool {
    let holds = |term: &TopologySelectorTerm| {
        term.match_label_expressions
            .iter()
            .all(|expression| labels.get(&expression.key).is_some_and(|value| expression.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(holds)
}

/// Whether a change of claims, volumes or classes can matter to a pod.
pub fn has_claims(pod: &Pod) -> bool {
    claims_of(pod).next().is_some()
}
