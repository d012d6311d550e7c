//! PodTopologyLabels: a pod carries the zone and region of the node it is bound to.

use super::rule::{Cx, NOTHING, PODS, Rule};
use super::{AdmissionRequest, Operation};
use crate::Status;
use crate::view::{self, NODES};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub const RULE: Rule = Rule { name: "PodTopologyLabels", of: PODS, mutate, ..NOTHING };

fn mutate(cx: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let node = match request.subresource.as_str() {
        "" => request.object.str_at(&["spec", "nodeName"]),
        "binding" if request.object.str_at(&["target", "kind"]) == "Node" => request.object.str_at(&["target", "name"]),
        _ => "",
    };
    if node.is_empty() {
        return Ok(());
    }
    let Some(node) = cx.view.get(NODES, "", node) else { return Ok(()) };
    for key in LABELS {
        if let Some(value) = view::label(&node, key) {
            request.object.set(&["metadata", "labels", key], value);
        }
    }
    Ok(())
}
