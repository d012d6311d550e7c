//! ResourceQuota: what its namespace uses, counted anew. Admission books what is created; this gives back what is gone.

use std::{collections::BTreeMap, time::Duration};

use reconcile::{Action, Ctx, Key, Plan, Row, Trigger, World};
use schema::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use schema::api::batch::v1::{CronJob, Job};
use schema::api::core::v1::{
    ConfigMap, Container, Endpoints, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota,
    ResourceRequirements, Secret, Service, ServiceAccount,
};
use schema::api::discovery::v1::EndpointSlice;
use schema::api::{self, Object};
use schema::quantity::{Format, Quantity};

use super::volumes::class_of;
use crate::support::{is_terminal, living};

/// What was booked for an object that then was not made is given back by then.
const RESYNC: Duration = Duration::from_secs(300);
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

type Usage = BTreeMap<String, Quantity>;

type Counted = (&'static str, fn(&World, &str) -> usize, Option<fn() -> Trigger>);

/// Kinds of which a quota may count the objects: the plain name if there is one, how many there are, and what makes
/// them be counted anew if they only come and go.
const COUNTED: [Counted; 16] = [
    plain::<ConfigMap>("configmaps"),
    plain::<Secret>("secrets"),
    ("resourcequotas", count::<ResourceQuota>, None),
    plain::<ReplicationController>("replicationcontrollers"),
    ("count/pods", count::<Pod>, None),
    ("count/services", count::<Service>, None),
    plain::<ServiceAccount>("count/serviceaccounts"),
    ("count/persistentvolumeclaims", count::<PersistentVolumeClaim>, None),
    plain::<Endpoints>("count/endpoints"),
    plain::<Deployment>("count/deployments.apps"),
    plain::<ReplicaSet>("count/replicasets.apps"),
    plain::<StatefulSet>("count/statefulsets.apps"),
    plain::<DaemonSet>("count/daemonsets.apps"),
    plain::<Job>("count/jobs.batch"),
    plain::<CronJob>("count/cronjobs.batch"),
    plain::<EndpointSlice>("count/endpointslices.discovery.k8s.io"),
];

const fn plain<K: Object>(name: &'static str) -> Counted {
    (name, count::<K>, Some(|| Trigger::on_metadata::<K>(gone)))
}

fn count<K: Object>(world: &World, namespace: &str) -> usize {
    world.of::<K>().in_namespace(namespace).count()
}

/// Quotas of the namespace of an object that went. One that came was booked before it could be seen, and the next one
/// may be by now: to count then would give that one's share back.
fn gone<K: Object>(world: &World, old: Option<&K>, new: Option<&K>) -> Vec<Key> {
    let quotas = |object: &K| {
        world.of::<ResourceQuota>().in_namespace(object.namespace()).map(|quota| Key::of(&**quota)).collect()
    };
    old.filter(|_| new.is_none()).map(quotas).unwrap_or_default()
}

/// The same of one that changed what it uses, too.
fn changed<K: Object>(world: &World, old: Option<&K>, new: Option<&K>, same: impl Fn(&K, &K) -> bool) -> Vec<Key> {
    let is_same = old.zip(new).is_some_and(|(old, new)| same(old, new));
    gone(world, old, new.filter(|_| old.is_none() || is_same))
}

pub fn row() -> Row {
    let triggers = vec![
        // Not when admission books: the object that it booked for may not be seen yet, and would be given back.
        Trigger::on::<ResourceQuota>(|_, old, new| {
            let due = new.filter(|new| old.is_none_or(|old| old.spec != new.spec) || new.status.hard != new.spec.hard);
            due.map(Key::of).into_iter().collect()
        }),
        Trigger::on::<Pod>(|world, old, new| {
            // That it is given a node is no change.
            changed(world, old, new, |old, new| {
                let asks = |pod: &Pod| (pod.spec.containers.clone(), pod.spec.resources.clone());
                is_terminal(old) == is_terminal(new)
                    && asks(old) == asks(new)
                    && old.spec.active_deadline_seconds == new.spec.active_deadline_seconds
            })
        }),
        Trigger::on::<Service>(|world, old, new| changed(world, old, new, |old, new| old.spec == new.spec)),
        Trigger::on::<PersistentVolumeClaim>(|world, old, new| {
            changed(world, old, new, |old, new| {
                old.spec == new.spec && old.status.allocated_resources == new.status.allocated_resources
            })
        }),
    ]
    .into_iter()
    .chain(COUNTED.iter().filter_map(|(_, _, trigger)| trigger.map(|trigger| trigger())))
    .collect();
    Row::new("resourcequota", "resourcequota-controller", 4, triggers, reconcile)
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(quota) = living::<ResourceQuota>(world, key) else { return plan };
    plan.requeue(RESYNC);
    let usage = usage(world, quota, ctx.now_seconds());
    let mut status = quota.status.clone();
    status.hard.clone_from(&quota.spec.hard);
    // What cannot be counted here stays as admission booked it.
    let booked = |name: &str| quota.status.used.get(name).and_then(|amount| Quantity::parse(&amount.0).ok());
    let used = |name: &String| {
        let counted = usage.get(name).copied();
        let amount = counted.or_else(|| if is_foreign(name) { booked(name) } else { None }).unwrap_or(Quantity::ZERO);
        match booked(name) {
            // The same amount in other words is no news.
            Some(booked) if booked.compare(amount).is_eq() => quota.status.used.get(name).cloned().unwrap_or_default(),
            _ => api::Quantity(amount.to_string()),
        }
    };
    status.used = quota.spec.hard.keys().map(|name| (name.clone(), used(name))).collect();
    if status != quota.status {
        plan.push(Action::update_status(ResourceQuota { status, ..(**quota).clone() }));
    }
    plan
}

/// A count of a kind that no row follows: the API server gives back what goes.
fn is_foreign(name: &str) -> bool {
    let is_counted =
        || COUNTED.iter().any(|(counted, ..)| *counted == name || name.strip_prefix("count/") == Some(counted));
    name.ends_with(".deviceclass.resource.k8s.io/devices") || name.starts_with("count/") && !is_counted()
}

fn add(usage: &mut Usage, name: &str, amount: Quantity) {
    let sum = usage.get(name).map_or(amount, |sum| sum.plus(amount));
    usage.insert(name.to_owned(), sum);
}

fn number(count: usize) -> Quantity {
    Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI)
}

fn usage(world: &World, quota: &ResourceQuota, now: i64) -> Usage {
    let namespace = quota.namespace();
    let mut usage = Usage::new();
    let has_scopes = !quota.spec.scopes.is_empty() || quota.spec.scope_selector.is_some();
    let pods = world.of::<Pod>().in_namespace(namespace).filter(|pod| is_in_scope(quota, pod));
    for pod in pods {
        if has_scopes {
            add(&mut usage, "count/pods", number(1));
        }
        if !is_over(pod, now) {
            of_pod(pod).into_iter().for_each(|(name, amount)| add(&mut usage, &name, amount));
        }
    }
    let claims = world.of::<PersistentVolumeClaim>().in_namespace(namespace);
    for claim in claims.filter(|claim| is_claim_in_scope(quota, claim)) {
        if has_scopes {
            add(&mut usage, "count/persistentvolumeclaims", number(1));
        }
        let class = class_of(&claim.metadata.annotations, claim.spec.storage_class_name.as_deref().unwrap_or_default());
        let size =
            |list: &BTreeMap<String, api::Quantity>| list.get("storage").and_then(|size| Quantity::parse(&size.0).ok());
        let (asked, given) = (size(&claim.spec.resources.requests), size(&claim.status.allocated_resources));
        let storage = asked.map(|asked| given.filter(|given| given.compare(asked).is_gt()).unwrap_or(asked));
        for (name, amount) in [("persistentvolumeclaims", Some(number(1))), ("requests.storage", storage)] {
            let Some(amount) = amount else { continue };
            add(&mut usage, name, amount);
            if !class.is_empty() {
                add(&mut usage, &format!("{class}{BY_CLASS}{name}"), amount);
            }
        }
    }
    // Scopes are about pods and claims: a quota that has some counts nothing else.
    if has_scopes {
        return usage;
    }
    for (name, count, _) in COUNTED {
        let amount = number(count(world, namespace));
        usage.insert(name.to_owned(), amount);
        if !name.starts_with("count/") {
            usage.insert(format!("count/{name}"), amount);
        }
    }
    for service in world.of::<Service>().in_namespace(namespace) {
        let ports = match &*service.spec.r#type {
            "LoadBalancer" if service.spec.allocate_load_balancer_node_ports == Some(false) => {
                service.spec.ports.iter().filter(|port| port.node_port != 0).count()
            }
            "NodePort" | "LoadBalancer" => service.spec.ports.len(),
            _ => 0,
        };
        add(&mut usage, "services", number(1));
        add(&mut usage, "services.loadbalancers", number(usize::from(service.spec.r#type == "LoadBalancer")));
        add(&mut usage, "services.nodeports", number(ports));
    }
    usage
}

/// It ended, or should be gone.
fn is_over(pod: &Pod, now: i64) -> bool {
    let meta = &pod.metadata;
    is_terminal(pod)
        || matches!((meta.deletion_timestamp, meta.deletion_grace_period_seconds), (Some(at), Some(grace)) if now > at.seconds + grace)
}

fn of_pod(pod: &Pod) -> Usage {
    let mut usage: Usage = [("pods".to_owned(), number(1))].into();
    for (name, amount) in resources(pod, false) {
        let plain = matches!(&*name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        let extended = name
            .split_once('/')
            .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"));
        if plain || extended {
            usage.insert(format!("requests.{name}"), amount);
        }
        if plain {
            usage.insert(name, amount);
        }
    }
    for (name, amount) in resources(pod, true) {
        if matches!(&*name, "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// What a pod takes at most at any time of its life, by upstream's rule for init containers and sidecars.
fn resources(pod: &Pod, limits: bool) -> Usage {
    let which =
        |resources: &ResourceRequirements| if limits { resources.limits.clone() } else { resources.requests.clone() };
    let parse = |list: &BTreeMap<String, api::Quantity>| -> Usage {
        list.iter().filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(&amount.0).ok()?))).collect()
    };
    let of = |container: &Container| parse(&which(&container.resources));
    let plus = |mut sum: Usage, more: &Usage| {
        more.iter().for_each(|(name, amount)| add(&mut sum, name, *amount));
        sum
    };
    let most = |mut one: Usage, other: &Usage| {
        for (name, amount) in other {
            if one.get(name).is_none_or(|held| held.compare(*amount).is_lt()) {
                one.insert(name.clone(), *amount);
            }
        }
        one
    };
    let mut running = pod.spec.containers.iter().map(of).fold(Usage::new(), |sum, more| plus(sum, &more));
    let (mut sidecars, mut starting) = (Usage::new(), Usage::new());
    for container in &pod.spec.init_containers {
        let own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running = plus(running, &own);
            sidecars = plus(sidecars, &own);
            starting = most(starting, &sidecars);
        } else {
            starting = most(starting, &plus(own, &sidecars));
        }
    }
    let mut total = most(running, &starting);
    if let Some(of_pod) = &pod.spec.resources {
        total.extend(parse(&which(of_pod)));
    }
    // Overhead counts on top of what is asked for, and of limits where there are any.
    for (name, amount) in parse(&pod.spec.overhead) {
        if !limits || total.contains_key(&name) {
            add(&mut total, &name, amount);
        }
    }
    total
}

fn is_in_scope(quota: &ResourceQuota, pod: &Pod) -> bool {
    let holds = |scope: &str, operator: &str, values: &[String]| match scope {
        "Terminating" => pod.spec.active_deadline_seconds.is_some(),
        "NotTerminating" => pod.spec.active_deadline_seconds.is_none(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        "PriorityClass" => {
            let class = &pod.spec.priority_class_name;
            match operator {
                "In" => values.contains(class),
                "NotIn" => !values.contains(class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    };
    scopes_hold(quota, holds)
}

fn is_claim_in_scope(quota: &ResourceQuota, claim: &PersistentVolumeClaim) -> bool {
    let status = &claim.status;
    let target = status.modify_volume_status.as_ref().map(|modify| &modify.target_volume_attributes_class_name);
    let classes = claim.spec.volume_attributes_class_name.iter().chain(&status.current_volume_attributes_class_name);
    let classes: Vec<&String> = classes.chain(target).filter(|class| !class.is_empty()).collect();
    scopes_hold(quota, |scope: &str, operator: &str, values: &[String]| {
        let is_listed = || classes.iter().any(|class| values.contains(class));
        scope == "VolumeAttributesClass"
            && match operator {
                "In" => is_listed(),
                "NotIn" => !is_listed(),
                "DoesNotExist" => classes.is_empty(),
                _ => !classes.is_empty(),
            }
    })
}

fn scopes_hold(quota: &ResourceQuota, holds: impl Fn(&str, &str, &[String]) -> bool) -> bool {
    let selected = quota.spec.scope_selector.as_ref().map_or(&[][..], |selector| &selector.match_expressions);
    quota.spec.scopes.iter().all(|scope| holds(scope, "Exists", &[]))
        && selected.iter().all(|of| holds(&of.scope_name, &of.operator, &of.values))
}

fn is_best_effort(pod: &Pod) -> bool {
    let nothing = |resources: &ResourceRequirements| resources.requests.is_empty() && resources.limits.is_empty();
    pod.spec.containers.iter().chain(&pod.spec.init_containers).all(|container| nothing(&container.resources))
        && pod.spec.resources.as_ref().is_none_or(nothing)
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = &pod.spec.affinity else { return false };
    let near = affinity.pod_affinity.iter().flat_map(|of| {
        let preferred =
            of.preferred_during_scheduling_ignored_during_execution.iter().map(|weighted| &weighted.pod_affinity_term);
        of.required_during_scheduling_ignored_during_execution.iter().chain(preferred)
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|of| {
        let preferred =
            of.preferred_during_scheduling_ignored_during_execution.iter().map(|weighted| &weighted.pod_affinity_term);
        of.required_during_scheduling_ignored_during_execution.iter().chain(preferred)
    });
    near.chain(far).any(|term| !term.namespaces.is_empty() || term.namespace_selector.is_some())
}
