//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable.

use schema::Value;

use super::rule::{Cx, NOTHING, PODS, Rule};
use super::{AdmissionRequest, Operation};
use crate::Status;

const SECONDS: i64 = 300;

pub const RULE: Rule = Rule { name: "DefaultTolerationSeconds", of: PODS, mutate, ..NOTHING };

fn mutate(_: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
    if !request.subresource.is_empty() || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let held = request.object.list_at(&["spec", "tolerations"]).to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerates =
            |t: &Value| ["", key].contains(&t.str_at(&["key"])) && ["", "NoExecute"].contains(&t.str_at(&["effect"]));
        if !held.iter().any(tolerates) {
            request.object.make_list(&["spec", "tolerations"]).push(Value::object([
                ("key", key.into()),
                ("operator", "Exists".into()),
                ("effect", "NoExecute".into()),
                ("tolerationSeconds", SECONDS.into()),
            ]));
        }
    }
    Ok(())
}
