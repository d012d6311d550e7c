//! The node authorizer: a kubelet reads what the pods on its node need, and writes what is its own.
//!
//! What a pod (and what hangs on it) gives to its node is counted per object, so that a change costs as much as the
//! pod has references. The few things that authorization cannot see (the object's content) are NodeRestriction's.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use schema::Value;

use super::demands;
use crate::pods::{self, Reference};
use crate::seams::{Decision, Rule};
use crate::view::{
    self, Cursor, Of, PERSISTENT_VOLUMES, POD_CERTIFICATE_REQUESTS, PODS, RESOURCE_SLICES, VOLUME_ATTACHMENTS, View,
};
use crate::{Attributes, User};

const KINDS: [Of; 5] = [PODS, PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS, RESOURCE_SLICES, POD_CERTIFICATE_REQUESTS];

/// The node's name, if this is a kubelet's identity.
pub fn identity(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
}

pub struct NodeAuthorizer {
    /// What every node may do with kinds that are not divided.
    rules: Vec<Rule>,
    graph: RwLock<Graph>,
}

/// Resource (with its group, if it has one), namespace, name.
type Object = (&'static str, Box<str>, Box<str>);

/// Namespace and name.
type Named = (Box<str>, Box<str>);

#[derive(Default)]
struct Graph {
    cursors: [Cursor; 5],
    /// Object → nodes that may read it, with how many reasons each has.
    nodes: HashMap<Object, HashMap<Arc<str>, u32>>,
    /// PersistentVolume → the claim (namespace, name) bound to it.
    claim_of: HashMap<Box<str>, Named>,
    /// Secret → PersistentVolumes that name it.
    volumes_of_secret: HashMap<Named, HashSet<Box<str>>>,
}

const NO_RELATION: fn(&str) -> String = |node| format!("no relationship found between node '{node}' and this object");

impl NodeAuthorizer {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, graph: RwLock::default() }
    }

    pub fn decide(&self, view: &dyn View, user: &User, wanted: &Attributes) -> Decision {
        let Some(node) = identity(user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", user.name));
        }
        match self.judge(view, node, wanted) {
            Ok(()) => Decision::Allow(String::new()),
            Err(why) => Decision::NoOpinion(why),
        }
    }

    fn judge(&self, view: &dyn View, node: &str, wanted: &Attributes) -> Result<(), String> {
        let (verb, sub, name) = (wanted.verb.as_str(), wanted.subresource.as_str(), wanted.name.as_str());
        let when = |allowed: bool, why: &str| if allowed { Ok(()) } else { Err(why.to_owned()) };
        let key = match (wanted.is_resource, wanted.api_group.as_str(), wanted.resource.as_str()) {
            (true, "", resource) => resource,
            (true, group, resource) => &format!("{group}/{resource}"),
            _ => "",
        };
        let related = |kind| {
            when(!name.is_empty(), "No Object name found")?;
            when(self.reaches(view, node, kind, &wanted.namespace, name), &NO_RELATION(node))
        };
        let get = |kind| {
            when(verb == "get", "can only get individual resources of this type")?;
            when(sub.is_empty(), "cannot get subresource")?;
            related(kind)
        };
        let read = |kind| {
            when(matches!(verb, "get" | "list" | "watch"), "can only read resources of this type")?;
            when(sub.is_empty(), "cannot read subresource")?;
            when(!wanted.namespace.is_empty(), "can only read namespaced object of this type")?;
            related(kind)
        };
        let own = |verbs: &[&str], verbs_why: &str, why: &str| {
            when(verbs.contains(&verb), verbs_why)?;
            // A creation's name is not known yet: NodeRestriction checks it.
            when(verb == "create" || name == node, why)
        };
        match key {
            "secrets" => read("secrets"),
            "configmaps" => read("configmaps"),
            "persistentvolumeclaims" if sub == "status" => {
                when(matches!(verb, "update" | "patch"), "can only get/update/patch this type")?;
                related("persistentvolumeclaims")
            }
            "persistentvolumeclaims" => get("persistentvolumeclaims"),
            "persistentvolumes" => get("persistentvolumes"),
            "resource.k8s.io/resourceclaims" => get("resourceclaims"),
            "storage.k8s.io/volumeattachments" => get("volumeattachments"),
            "serviceaccounts" if verb == "get" && sub.is_empty() => read("serviceaccounts"),
            "serviceaccounts" => {
                let why = "can only create tokens for individual service accounts";
                when(verb == "create" && !name.is_empty(), why)?;
                when(sub == "token", "can only create token subresource of serviceaccount")?;
                related("serviceaccounts")
            }
            "coordination.k8s.io/leases" => {
                let why = "can only get, create, update, patch, or delete a node lease";
                when(matches!(verb, "get" | "create" | "update" | "patch" | "delete"), why)?;
                let why = "can only access leases in the \"kube-node-lease\" system namespace";
                when(wanted.namespace == "kube-node-lease", why)?;
                let why = "can only access node lease with the same name as the requesting node";
                when(verb == "create" || name == node, why)
            }
            "storage.k8s.io/csinodes" => {
                when(sub.is_empty(), "cannot authorize CSINode subresources")?;
                own(
                    &["get", "create", "update", "patch", "delete"],
                    "can only get, create, update, patch, or delete a CSINode",
                    "can only access CSINode with the same name as the requesting node",
                )
            }
            "resource.k8s.io/resourceslices" => {
                when(sub.is_empty(), "cannot authorize ResourceSlice subresources")?;
                match verb {
                    "create" => Ok(()),
                    "get" | "update" | "patch" | "delete" => related("resourceslices"),
                    "watch" | "list" | "deletecollection" => when(
                        demands(&wanted.field_selector, "spec.nodeName", node),
                        "can only list/watch/deletecollection resourceslices with nodeName field selector",
                    ),
                    _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, \
                              update, patch, delete, deletecollection"
                        .into()),
                }
            }
            "certificates.k8s.io/podcertificaterequests" => {
                when(sub.is_empty(), "nodes may not access the status subresource of PodCertificateRequests")?;
                match verb {
                    "create" => Ok(()),
                    "get" => related("podcertificaterequests"),
                    "list" | "watch" => when(
                        demands(&wanted.field_selector, "spec.nodeName", node),
                        "can only list/watch podcertificaterequests with nodeName field selector",
                    ),
                    _ => Err(format!("nodes may not {verb} podcertificaterequests")),
                }
            }
            "nodes" => match (sub, verb) {
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
                ("", "get" | "list" | "watch") if name == node => Ok(()),
                ("", "get" | "list" | "watch") if name.is_empty() => {
                    Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
                }
                ("", "get" | "list" | "watch") => {
                    Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
                }
                _ => Err(String::new()),
            },
            "pods" => match (sub, verb) {
                ("", "get") => get("pods"),
                ("", "list" | "watch") if demands(&wanted.field_selector, "spec.nodeName", node) => Ok(()),
                ("", "list" | "watch") if !name.is_empty() => related("pods"),
                ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
                // Mirror pods, status and eviction of its own pods: NodeRestriction looks at the object.
                ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
                _ => Err(String::new()),
            },
            _ => when(self.rules.iter().any(|rule| rule.allows(wanted)), ""),
        }
    }

    fn reaches(&self, view: &dyn View, node: &str, kind: &'static str, namespace: &str, name: &str) -> bool {
        let current = |graph: &Graph| graph.cursors.iter().zip(KINDS).all(|(cursor, of)| cursor.is_current(view, of));
        let graph = self.graph.read().unwrap_or_else(PoisonError::into_inner);
        if current(&graph) {
            return graph.reaches(node, kind, namespace, name);
        }
        drop(graph);
        let mut graph = self.graph.write().unwrap_or_else(PoisonError::into_inner);
        graph.catch_up(view);
        graph.reaches(node, kind, namespace, name)
    }
}

impl Graph {
    fn catch_up(&mut self, view: &dyn View) {
        let mut cursors = std::mem::take(&mut self.cursors);
        let [pods, volumes, attachments, slices, requests] = &mut cursors;
        let forget =
            |kinds: &'static [&'static str]| move |g: &mut Graph| g.nodes.retain(|(kind, ..), _| !kinds.contains(kind));
        let of_pods: &[&str] =
            &["pods", "secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts", "resourceclaims"];
        pods.catch_up(view, PODS, self, forget(of_pods), |g, old, new| g.both(old, new, Graph::pod));
        let forget_volumes = |g: &mut Graph| {
            g.claim_of.clear();
            g.volumes_of_secret.clear();
        };
        volumes.catch_up(view, PERSISTENT_VOLUMES, self, forget_volumes, Graph::volume);
        attachments.catch_up(view, VOLUME_ATTACHMENTS, self, forget(&["volumeattachments"]), |g, old, new| {
            g.both(old, new, |g, v, add| g.named("volumeattachments", v, add))
        });
        slices.catch_up(view, RESOURCE_SLICES, self, forget(&["resourceslices"]), |g, old, new| {
            g.both(old, new, |g, v, add| g.named("resourceslices", v, add))
        });
        requests.catch_up(view, POD_CERTIFICATE_REQUESTS, self, forget(&["podcertificaterequests"]), |g, old, new| {
            g.both(old, new, |g, v, add| g.named("podcertificaterequests", v, add))
        });
        self.cursors = cursors;
    }

    fn both(&mut self, old: Option<&Value>, new: Option<&Value>, change: fn(&mut Graph, &Value, bool)) {
        if let Some(old) = old {
            change(self, old, false);
        }
        if let Some(new) = new {
            change(self, new, true);
        }
    }

    fn count(&mut self, kind: &'static str, namespace: &str, name: &str, node: &str, add: bool) {
        let key = (kind, namespace.into(), name.into());
        if add {
            let nodes = self.nodes.entry(key).or_default();
            match nodes.get_mut(node) {
                Some(count) => *count += 1,
                None => drop(nodes.insert(node.into(), 1)),
            }
        } else if let Some(nodes) = self.nodes.get_mut(&key) {
            match nodes.get_mut(node) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(nodes.remove(node)),
            }
            if nodes.is_empty() {
                self.nodes.remove(&key);
            }
        }
    }

    fn pod(&mut self, pod: &Value, add: bool) {
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            return;
        }
        let namespace = view::namespace(pod);
        self.count("pods", namespace, view::name(pod), node, add);
        // A node must not gain anything by a pod that it wrote itself.
        if pods::is_mirror(pod) {
            return;
        }
        let account = pod.str_at(&["spec", "serviceAccountName"]);
        if !account.is_empty() {
            self.count("serviceaccounts", namespace, account, node, add);
        }
        // Each object counts once a pod, however often the pod names it.
        let mut seen = HashSet::new();
        pods::references(pod, &mut |reference, name| {
            let kind = match reference {
                Reference::Secret => "secrets",
                Reference::ConfigMap => "configmaps",
                Reference::Claim => "persistentvolumeclaims",
                Reference::ResourceClaim => "resourceclaims",
            };
            if seen.insert((kind, name.to_owned())) {
                self.count(kind, namespace, name, node, add);
            }
        });
    }

    fn named(&mut self, kind: &'static str, object: &Value, add: bool) {
        let node = object.str_at(&["spec", "nodeName"]);
        if !node.is_empty() {
            self.count(kind, view::namespace(object), view::name(object), node, add);
        }
    }

    fn volume(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let secrets = |volume: &Value| {
            let claim = volume.str_at(&["spec", "claimRef", "namespace"]).to_owned();
            pods::volume_secrets(volume)
                .into_iter()
                .map(move |(namespace, name)| (namespace.unwrap_or_else(|| claim.clone()), name))
        };
        if let Some(old) = old {
            self.claim_of.remove(view::name(old));
            for (namespace, name) in secrets(old) {
                let key = (namespace.into(), name.into());
                if let Some(volumes) = self.volumes_of_secret.get_mut(&key) {
                    volumes.remove(view::name(old));
                    if volumes.is_empty() {
                        self.volumes_of_secret.remove(&key);
                    }
                }
            }
        }
        let Some(new) = new else { return };
        let claim = |field| new.str_at(&["spec", "claimRef", field]);
        if claim("name").is_empty() {
            return;
        }
        self.claim_of.insert(view::name(new).into(), (claim("namespace").into(), claim("name").into()));
        for (namespace, name) in secrets(new) {
            self.volumes_of_secret.entry((namespace.into(), name.into())).or_default().insert(view::name(new).into());
        }
    }

    fn reaches(&self, node: &str, kind: &'static str, namespace: &str, name: &str) -> bool {
        let direct = |kind, namespace: &str, name: &str| {
            self.nodes.get(&(kind, namespace.into(), name.into())).is_some_and(|nodes| nodes.contains_key(node))
        };
        let by_claim = |volume: &str| {
            self.claim_of.get(volume).is_some_and(|(ns, claim)| direct("persistentvolumeclaims", ns, claim))
        };
        match kind {
            "persistentvolumes" => by_claim(name),
            "secrets" => {
                let volumes = self.volumes_of_secret.get(&(namespace.into(), name.into()));
                direct(kind, namespace, name) || volumes.into_iter().flatten().any(|volume| by_claim(volume))
            }
            _ => direct(kind, namespace, name),
        }
    }
}
