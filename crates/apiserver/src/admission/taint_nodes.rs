//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use schema::Value;

use super::AdmissionRequest;
use super::rule::{Cx, NOTHING, Rule};
use crate::Status;

pub const RULE: Rule = Rule { name: "TaintNodesByCondition", of: &[("", "nodes")], mutate, ..NOTHING };

fn mutate(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    const KEY: &str = "node.kubernetes.io/not-ready";
    const EFFECT: &str = "NoSchedule";
    let is_ours = |t: &Value| t.str_at(&["key"]) == KEY && t.str_at(&["effect"]) == EFFECT;
    if request.is_create() && !request.object.list_at(&["spec", "taints"]).iter().any(is_ours) {
        let taint = Value::object([("key", KEY.into()), ("effect", EFFECT.into())]);
        request.object.make_list(&["spec", "taints"]).push(taint);
    }
    Ok(())
}
