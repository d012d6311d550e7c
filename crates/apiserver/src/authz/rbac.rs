//! Role based access control: rules and bindings compiled once per change, looked up by subject.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use schema::Value;

use super::rules_of;
use crate::seams::{Decision, Rule};
use crate::view::{self, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Cursor, Of, ROLE_BINDINGS, ROLES, View};
use crate::{Attributes, User};

const KINDS: [Of; 4] = [CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS];

/// The authorizer. It reads the four RBAC kinds and nothing else.
#[derive(Default)]
pub struct Rbac {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    cursors: [Cursor; 4],
    roles: Roles,
    /// Bindings of the cluster under the namespace `""`.
    bindings: [HashMap<Box<str>, Bindings>; 2],
}

/// Namespace (`""` for ClusterRoles) → name → rules.
type Roles = [HashMap<Box<str>, HashMap<Box<str>, Arc<[Rule]>>>; 2];

#[derive(Default)]
struct Bindings {
    by_name: HashMap<Arc<str>, Binding>,
    /// Of users, and of groups.
    by_subject: [HashMap<Box<str>, BTreeSet<Arc<str>>>; 2],
}

struct Binding {
    role_is_cluster: bool,
    role: Box<str>,
    /// With the way messages name each.
    subjects: Vec<(Subject, String)>,
}

/// A user or a group, by its place in [`Bindings::by_subject`]. A service account is the user it acts as.
type Subject = (usize, Box<str>);

const USER: usize = 0;
const GROUP: usize = 1;

/// A role that a user has: what bound it, as messages say it, and its rules or why there are none.
struct Grant<'a> {
    reason: &'a dyn Fn() -> String,
    rules: Result<&'a [Rule], String>,
}

impl Rbac {
    pub fn decide(&self, view: &dyn View, user: &User, attributes: &Attributes) -> Decision {
        let mut decision = None;
        let mut errors = Vec::new();
        self.visit(view, user, &attributes.namespace, &mut |grant| {
            match grant.rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    decision = Some(Decision::Allow(format!("RBAC: allowed by {}", (grant.reason)())));
                }
                Ok(_) => {}
                Err(missing) => errors.push(missing),
            }
            decision.is_none()
        });
        decision.unwrap_or_else(|| {
            errors.dedup();
            Decision::NoOpinion(match errors.as_slice() {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                many => format!("RBAC: [{}]", many.join(", ")),
            })
        })
    }

    /// All rules of a user in a namespace, and which bound roles are missing.
    pub fn rules_for(&self, view: &dyn View, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        self.visit(view, user, namespace, &mut |grant| {
            match grant.rules {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(why) if missing.contains(&why) => {}
                Err(why) => missing.push(why),
            }
            true
        });
        (rules, missing)
    }

    /// The rules of a role that a binding refers to.
    pub fn role(&self, view: &dyn View, namespace: &str, is_cluster: bool, name: &str) -> Option<Arc<[Rule]>> {
        self.refresh(view);
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.rules(namespace, is_cluster, name).cloned()
    }

    fn refresh(&self, view: &dyn View) {
        let current = |state: &State| state.cursors.iter().zip(KINDS).all(|(cursor, of)| cursor.is_current(view, of));
        if current(&self.state.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut cursors = std::mem::take(&mut state.cursors);
        let [cluster_roles, roles, cluster_bindings, bindings] = &mut cursors;
        cluster_roles.catch_up(
            view,
            CLUSTER_ROLES,
            &mut *state,
            |s| s.roles[0].clear(),
            |s, old, new| s.role(0, old, new),
        );
        roles.catch_up(view, ROLES, &mut *state, |s| s.roles[1].clear(), |s, old, new| s.role(1, old, new));
        cluster_bindings.catch_up(
            view,
            CLUSTER_ROLE_BINDINGS,
            &mut *state,
            |s| s.bindings[0].clear(),
            |s, old, new| s.binding(0, old, new),
        );
        bindings.catch_up(
            view,
            ROLE_BINDINGS,
            &mut *state,
            |s| s.bindings[1].clear(),
            |s, old, new| s.binding(1, old, new),
        );
        state.cursors = cursors;
    }

    /// Calls `visit` for each role that is bound to the user, cluster-wide ones first, until it returns false.
    fn visit(&self, view: &dyn View, user: &User, namespace: &str, visit: &mut dyn FnMut(Grant<'_>) -> bool) {
        self.refresh(view);
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let groups = user.groups.iter().map(|group| (GROUP, group.as_str()));
        let subjects = std::iter::once((USER, user.name.as_str())).chain(groups);
        let scopes: &[(usize, &str)] = if namespace.is_empty() { &[(0, "")] } else { &[(0, ""), (1, namespace)] };
        for (scope, namespace) in scopes {
            let Some(bindings) = state.bindings[*scope].get(*namespace) else { continue };
            for subject in subjects.clone() {
                for name in bindings.by_subject[subject.0].get(subject.1).into_iter().flatten() {
                    let Some(binding) = bindings.by_name.get(name) else { continue };
                    let rules = state.rules(namespace, binding.role_is_cluster, &binding.role);
                    let grant = Grant {
                        reason: &|| binding.describe(name, namespace, subject),
                        rules: rules.map(|r| &**r).ok_or_else(|| {
                            let kind = if binding.role_is_cluster { "clusterrole" } else { "role" };
                            format!("{kind}.rbac.authorization.k8s.io {:?} not found", binding.role)
                        }),
                    };
                    if !visit(grant) {
                        return;
                    }
                }
            }
        }
    }
}

impl State {
    fn rules(&self, namespace: &str, is_cluster: bool, name: &str) -> Option<&Arc<[Rule]>> {
        let namespace = if is_cluster { "" } else { namespace };
        self.roles[usize::from(!is_cluster)].get(namespace)?.get(name)
    }

    fn role(&mut self, scope: usize, old: Option<&Value>, new: Option<&Value>) {
        let Some(object) = new.or(old) else { return };
        let roles = self.roles[scope].entry(view::namespace(object).into()).or_default();
        match new {
            Some(role) => roles.insert(view::name(role).into(), rules_of(role).into()),
            None => roles.remove(view::name(object)),
        };
    }

    fn binding(&mut self, scope: usize, old: Option<&Value>, new: Option<&Value>) {
        let Some(object) = new.or(old) else { return };
        let bindings = self.bindings[scope].entry(view::namespace(object).into()).or_default();
        if let Some((name, binding)) = bindings.by_name.remove_entry(view::name(object)) {
            for ((kind, subject), _) in &binding.subjects {
                if let Some(names) = bindings.by_subject[*kind].get_mut(subject) {
                    names.remove(&name);
                    if names.is_empty() {
                        bindings.by_subject[*kind].remove(subject);
                    }
                }
            }
        }
        let Some(object) = new else { return };
        let name: Arc<str> = view::name(object).into();
        let binding = Binding::read(object);
        for ((kind, subject), _) in &binding.subjects {
            bindings.by_subject[*kind].entry(subject.clone()).or_default().insert(name.clone());
        }
        bindings.by_name.insert(name, binding);
    }
}

impl Binding {
    fn read(object: &Value) -> Binding {
        let subject = |s: &Value| {
            let name = s.str_at(&["name"]);
            match s.str_at(&["kind"]) {
                "User" => Some(((USER, name.into()), format!("User {name:?}"))),
                "Group" => Some(((GROUP, name.into()), format!("Group {name:?}"))),
                "ServiceAccount" => {
                    let namespace = s.str_at(&["namespace"]);
                    let namespace = if namespace.is_empty() { view::namespace(object) } else { namespace };
                    let user = format!("system:serviceaccount:{namespace}:{name}");
                    Some(((USER, user.into()), format!("ServiceAccount \"{name}/{namespace}\"")))
                }
                _ => None,
            }
        };
        Binding {
            role_is_cluster: object.str_at(&["roleRef", "kind"]) == "ClusterRole",
            role: object.str_at(&["roleRef", "name"]).into(),
            subjects: object.list_at(&["subjects"]).iter().filter_map(subject).collect(),
        }
    }

    fn describe(&self, name: &str, namespace: &str, subject: (usize, &str)) -> String {
        let to = self.subjects.iter().find(|((kind, s), _)| (*kind, &**s) == subject).map_or("", |(_, text)| text);
        let role = if self.role_is_cluster { "ClusterRole" } else { "Role" };
        if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?} of {role} {:?} to {to}", self.role)
        } else {
            format!("RoleBinding \"{name}/{namespace}\" of {role} {:?} to {to}", self.role)
        }
    }
}
