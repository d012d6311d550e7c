//! From the cluster's objects to the kernel and to DNS, step by step.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Applied, Net, Peer, Result};
use crate::cluster::{Cluster, Objects};
use crate::dns::Zone;
use crate::ruleset::{Inputs, Node, ruleset};

/// Keeps one node's rules, routes and zone in step with the objects that it is shown.
pub struct Agent {
    net: Arc<Net>,
    cluster: Cluster,
    domain: String,
    zone: watch::Sender<Option<Arc<Zone>>>,
    /// What the kernel and DNS stand at; `None`: unknown, or the last try failed.
    inputs: Option<Inputs>,
    peers: Option<Vec<Peer>>,
    zone_from: Option<Objects>,
    conflicts: Vec<String>,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub applied: Applied,
    /// Addresses and ports that two objects claim, in words.
    pub conflicts: Vec<String>,
    /// Services that want a health check answered on a port: port, `namespace/name`, endpoints here.
    pub health_checks: Vec<(u16, String, usize)>,
}

impl Agent {
    /// The receiver is for [`super::dns::serve`].
    pub fn new(net: Arc<Net>, node: Node, domain: &str) -> (Self, watch::Receiver<Option<Arc<Zone>>>) {
        let (zone, receiver) = watch::channel(None);
        let agent = Agent {
            net,
            cluster: Cluster::new(node),
            domain: domain.to_owned(),
            zone,
            inputs: None,
            peers: None,
            zone_from: None,
            conflicts: Vec::new(),
        };
        (agent, receiver)
    }

    /// Brings everything to `objects`; parts that they leave as they are cost nothing. DNS goes first, for it cannot
    /// fail; if another part does, the rest is still done and the next step tries again. Blocks.
    pub fn step(&mut self, objects: &Objects) -> Result<Step> {
        let services = self.cluster.update(objects);
        let is_same = |from: &Objects| same(&from.nodes, &objects.nodes) && same(&from.namespaces, &objects.namespaces);
        let known = self.zone_from.as_ref().is_some_and(is_same);
        if services || !known {
            self.zone.send_replace(Some(Arc::new(self.cluster.zone(&self.domain, objects))));
            let (nodes, namespaces) = (objects.nodes.clone(), objects.namespaces.clone());
            self.zone_from = Some(Objects { nodes, namespaces, ..Objects::default() });
        }
        let peers = self.cluster.peers(objects);
        let routed = if self.peers.as_ref() == Some(&peers) { Ok(()) } else { self.net.set_peers(&peers) };
        self.peers = routed.is_ok().then_some(peers);

        let inputs = self.cluster.inputs(objects);
        let mut applied = Applied::default();
        if self.inputs.as_ref() != Some(&inputs) {
            self.inputs = None;
            let built = ruleset(&inputs);
            applied = self.net.apply(&built.ruleset)?;
            self.conflicts = built.conflicts;
            self.inputs = Some(inputs);
        }
        routed?;
        let health_checks = self.cluster.health_checks();
        Ok(Step { applied, conflicts: self.conflicts.clone(), health_checks })
    }

    /// Forgets what the kernel should have: the next step compares everything with it.
    pub fn distrust(&mut self) {
        self.net.distrust();
        (self.inputs, self.peers) = (None, None);
    }
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}
