//! Nodes with what runs on them, and who was promised room there.

use std::{collections::HashMap, sync::Arc};

use reconcile::World;
use schema::api::Object;
use schema::api::core::v1::{Node, Pod};

use super::Resources;
use crate::support::is_terminal;

/// What a container without requests is counted as, so that idle nodes still differ.
pub const LEAST: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

/// A node with what runs on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub pods: Vec<Arc<Pod>>,
    pub allocatable: Resources,
    pub requested: Resources,
    /// The same with [`LEAST`] for each container that does not say what it wants.
    pub filled: Resources,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>, pods: Vec<Arc<Pod>>) -> Self {
        let allocatable = Resources::of_list(&node.status.allocatable);
        let sum = |least| {
            let each = pods.iter().map(|pod| Resources::of_pod_at_least(pod, least));
            each.fold(Resources::default(), Resources::plus)
        };
        let (requested, filled) = (sum(&[][..]), sum(&LEAST[..]));
        Self { node, pods, allocatable, requested, filled }
    }

    /// The same node with other pods.
    pub fn with(&self, pods: impl IntoIterator<Item = Arc<Pod>>) -> Self {
        Self::new(self.node.clone(), pods.into_iter().collect())
    }
}

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub nodes: Vec<NodeInfo>,
    /// Pods without a node for which others were told to go: pod and node name.
    pub nominated: Vec<(Arc<Pod>, String)>,
}

impl Snapshot {
    /// `assumed`: pods by uid as if they were bound already; `promised`: nodes by uid of their pods; `last`: an earlier
    /// snapshot, of which nodes that are as they were are taken over.
    pub fn new(
        world: &World,
        assumed: &HashMap<String, Arc<Pod>>,
        promised: &HashMap<String, String>,
        last: Self,
    ) -> Self {
        let nodes = world.of::<Node>();
        let mut by_node: HashMap<&str, Vec<Arc<Pod>>> = nodes.values().map(|node| (node.name(), Vec::new())).collect();
        let mut nominated = Vec::new();
        for known in world.of::<Pod>().values().filter(|pod| !is_terminal(pod)) {
            let pod = assumed.get(&known.metadata.uid).unwrap_or(known);
            if let Some(there) = by_node.get_mut(pod.spec.node_name.as_str()) {
                there.push(pod.clone());
            } else if pod.spec.node_name.is_empty() {
                let node = promised.get(&pod.metadata.uid).unwrap_or(&pod.status.nominated_node_name);
                if !node.is_empty() {
                    nominated.push((pod.clone(), node.clone()));
                }
            }
        }
        let mut before: HashMap<String, NodeInfo> =
            last.nodes.into_iter().map(|info| (info.node.metadata.name.clone(), info)).collect();
        let info = |node: &Arc<Node>| {
            let pods = by_node.remove(node.name()).unwrap_or_default();
            let same = |held: &NodeInfo| {
                let alike =
                    held.pods.len() == pods.len() && held.pods.iter().zip(&pods).all(|(a, b)| Arc::ptr_eq(a, b));
                alike && Arc::ptr_eq(&held.node, node)
            };
            before.remove(node.name()).filter(same).unwrap_or_else(|| NodeInfo::new(node.clone(), pods))
        };
        Self { nodes: nodes.values().map(info).collect(), nominated }
    }

    /// The nodes as if those had arrived that were promised room and are not less important than `pod`.
    pub fn with_nominated(&self, pod: &Pod) -> Option<Vec<NodeInfo>> {
        let counts = |other: &Pod| other.metadata.uid != pod.metadata.uid && priority(other) >= priority(pod);
        let here = |info: &NodeInfo| {
            let name = info.node.metadata.name.clone();
            let ours = self.nominated.iter().filter(move |(other, node)| *node == name && counts(other));
            ours.map(|(other, _)| other.clone()).collect::<Vec<_>>()
        };
        if !self.nominated.iter().any(|(other, _)| counts(other)) {
            return None;
        }
        let nodes = self.nodes.iter();
        Some(nodes.map(|info| info.with(info.pods.iter().cloned().chain(here(info)))).collect())
    }
}

pub fn priority(pod: &Pod) -> i32 {
    pod.spec.priority.unwrap_or(0)
}
