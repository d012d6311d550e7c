//! Which of a service port's endpoints get traffic on this node (what upstream calls categorizing).

use super::{Endpoint, Family};

/// The endpoints for each traffic policy.
pub struct Chosen<'a> {
    pub cluster: Vec<&'a Endpoint>,
    pub local: Vec<&'a Endpoint>,
}

impl Chosen<'_> {
    /// Someone in the cluster could serve.
    pub fn any(&self) -> bool {
        !self.cluster.is_empty()
    }
}

/// Ready endpoints; if there are none, those that still serve while terminating (apart for each policy).
/// Topology hints narrow the cluster policy's list if every ready endpoint has one and one is for us (KEP-2433, KEP-3015).
pub fn choose<'a>(endpoints: &'a [Endpoint], family: Family, node: &str, zone: &str) -> Chosen<'a> {
    let ours: Vec<&Endpoint> = endpoints.iter().filter(|e| Family::of(&e.address) == family).collect();
    let ready = |e: &&&Endpoint| e.ready;
    let fallback = |e: &&&Endpoint| e.serving && e.terminating;

    let has = |hints: &[String], name: &str| hints.iter().any(|hint| hint == name);
    let all_ready: Vec<&Endpoint> = ours.iter().filter(ready).copied().collect();
    let by_node =
        all_ready.iter().all(|e| !e.for_nodes.is_empty()) && all_ready.iter().any(|e| has(&e.for_nodes, node));
    let by_zone =
        all_ready.iter().all(|e| !e.for_zones.is_empty()) && all_ready.iter().any(|e| has(&e.for_zones, zone));
    let is_near = |e: &&&Endpoint| if by_node { has(&e.for_nodes, node) } else { !by_zone || has(&e.for_zones, zone) };
    let mut cluster: Vec<&Endpoint> = all_ready.iter().filter(is_near).copied().collect();
    if cluster.is_empty() {
        cluster = ours.iter().filter(fallback).copied().collect();
    }
    let mut local: Vec<&Endpoint> = all_ready.iter().filter(|e| e.local).copied().collect();
    if local.is_empty() {
        local = ours.iter().filter(fallback).filter(|e| e.local).copied().collect();
    }
    for list in [&mut cluster, &mut local] {
        list.sort_by_key(|e| (e.address, e.port));
        list.dedup_by_key(|e| (e.address, e.port));
    }
    Chosen { cluster, local }
}
