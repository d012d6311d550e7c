//! Who the components inside the process are: upstream's users, each with its own rights.

use crate::User;

/// The scheduler.
pub fn scheduler() -> User {
    component("system:kube-scheduler")
}

/// A controller, by the name of its service account in kube-system (`deployment-controller`).
pub fn controller(name: &str) -> User {
    User::new(
        format!("system:serviceaccount:kube-system:{name}"),
        &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
    )
}

pub fn kubelet(node: &str) -> User {
    User::new(format!("system:node:{node}"), &["system:nodes", "system:authenticated"])
}

/// A part of Sampan that has a row in `sampan-rbac.txt`: `network`, `dns`, `servicelb`, `ingress`, `storage`,
/// `metrics`, `deployer`, `helm`.
pub fn sampan(part: &str) -> User {
    component(&format!("system:sampan:{part}"))
}

fn component(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}
