//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable.

use schema::Value;

use super::{
    AdmissionRequest, Operation,
    rule::{Cx, PODS, Rule},
};
use crate::Status;

pub struct DefaultTolerationSeconds {
    pub not_ready: i64,
    pub unreachable: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

impl Rule for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn of(&self) -> &'static [(&'static str, &'static str)] {
        PODS
    }

    fn mutate(&self, _: &Cx<'_>, request: &mut AdmissionRequest) -> Result<(), Status> {
        if !request.subresource.is_empty() || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let taints =
            [("node.kubernetes.io/not-ready", self.not_ready), ("node.kubernetes.io/unreachable", self.unreachable)];
        let held = request.object.list_at(&["spec", "tolerations"]).to_vec();
        for (key, seconds) in taints {
            let tolerates = |t: &Value| {
                ["", key].contains(&t.str_at(&["key"])) && ["", "NoExecute"].contains(&t.str_at(&["effect"]))
            };
            if !held.iter().any(tolerates) {
                request.object.make_list(&["spec", "tolerations"]).push(Value::object([
                    ("key", key.into()),
                    ("operator", "Exists".into()),
                    ("effect", "NoExecute".into()),
                    ("tolerationSeconds", seconds.into()),
                ]));
            }
        }
        Ok(())
    }
}
