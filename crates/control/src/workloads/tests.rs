//! A small cluster: reconcilers look at a world by hand, and their plans are carried out in it.

mod cron;
mod daemonset;
mod deployment;
mod job;
mod replicaset;
mod statefulset;

use std::fmt::Debug;

use reconcile::{Action, Ctx, Key, Patch, Plan, World};
use schema::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use schema::api::batch::v1::{CronJob, Job};
use schema::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod, PodCondition, ReplicationController};
use schema::api::{Object, Time};
use schema::{Table, json, proto};
use serde_json::Value as Json;

/// 2026-01-01T00:00:00Z
pub const START: i64 = 1_767_225_600;

pub struct Cluster {
    pub world: World,
    pub now: i64,
    revision: u64,
}

/// An object from its JSON form.
pub fn object<K: Object>(json: Json) -> K {
    let table = Table::builtin();
    let id = table.id(K::NAME).unwrap();
    let decoded = json::decode(table, id, json.to_string().as_bytes()).unwrap();
    assert_eq!(decoded.problems, []);
    let mut wire = Vec::new();
    proto::encode(table, id, &decoded.value, &mut wire);
    let mut object = K::decode(&wire).unwrap();
    let meta = object.metadata_mut();
    if K::NAMESPACED {
        meta.namespace = "default".into();
    }
    if meta.generation == 0 {
        meta.generation = 1;
    }
    object
}

impl Cluster {
    pub fn new() -> Self {
        Self { world: World::default(), now: START, revision: 0 }
    }

    pub fn with<K: Object>(mut self, json: Json) -> Self {
        self.put(object::<K>(json));
        self
    }

    /// Stores a state as the API would.
    pub fn put<K: Object>(&mut self, mut object: K) {
        self.revision += 1;
        let (revision, now) = (self.revision, self.now);
        let meta = object.metadata_mut();
        meta.resource_version = revision.to_string();
        if meta.uid.is_empty() {
            meta.uid = format!("{}-{revision}", meta.name);
        }
        if meta.creation_timestamp.is_zero() {
            meta.creation_timestamp = Time { seconds: now };
        }
        self.world.of_mut::<K>().put(object);
    }

    pub fn change<K: Object>(&mut self, name: &str, change: impl FnOnce(&mut K)) {
        let namespace = if K::NAMESPACED { "default" } else { "" };
        let mut object = (**self.world.of::<K>().named(namespace, name).unwrap()).clone();
        change(&mut object);
        self.put(object);
    }

    pub fn get<K: Object>(&self, name: &str) -> K {
        (**self.world.of::<K>().named(if K::NAMESPACED { "default" } else { "" }, name).unwrap()).clone()
    }

    pub fn remove<K: Object>(&mut self, name: &str) {
        let key = Key::new(if K::NAMESPACED { "default" } else { "" }, name);
        let uid = self.world.of::<K>().get(&key).unwrap().metadata().uid.clone();
        self.world.of_mut::<K>().bury(&key, &uid);
        self.revision += 1;
    }

    /// Pods run, and are ready since now.
    pub fn ready(&mut self, names: &[&str]) {
        let now = self.now;
        for name in names {
            self.change::<Pod>(name, |pod| {
                pod.status.phase = "Running".into();
                pod.status.conditions = vec![PodCondition {
                    r#type: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Time { seconds: now },
                    ..PodCondition::default()
                }];
            });
        }
    }

    pub fn phase(&mut self, name: &str, phase: &str) {
        self.change::<Pod>(name, |pod| {
            pod.status.phase = phase.into();
            pod.status.conditions.clear();
        });
    }

    /// What is decided now, without doing it.
    pub fn plan(&self, reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan, name: &str) -> Plan {
        let mut ctx = Ctx { now_ns: self.now * 1_000_000_000, seed: self.revision, failure: None };
        reconcile(&self.world, &Key::new("default", name), &mut ctx)
    }

    /// One look, carried out: its actions but for writes of status, a line each, and when to look again.
    pub fn look(&mut self, reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan, name: &str) -> Vec<String> {
        let plan = self.plan(reconcile, name);
        let mut lines: Vec<String> = plan.actions.iter().filter_map(|action| self.carry_out(action)).collect();
        lines.extend(plan.requeue_after.map(|after| format!("again in {after:?}")));
        lines
    }

    /// Looks until nothing is to be done; all lines but events.
    pub fn settle(&mut self, reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..20 {
            let before = self.revision;
            let mut look = self.look(&reconcile, name);
            look.retain(|line| !line.starts_with("Normal") && !line.starts_with("Warning"));
            if before == self.revision {
                return lines;
            }
            lines.extend(look);
        }
        panic!("no end: {lines:#?}");
    }

    fn carry_out(&mut self, action: &Action) -> Option<String> {
        match action {
            Action::Create(object) => {
                if let Some(event) = action.object::<Event>() {
                    return Some(format!("{} {}: {}", event.r#type, event.reason, event.message));
                }
                if let Some(pod) = action.object::<Pod>() {
                    let mut pod = pod.clone();
                    pod.status.phase = "Pending".into();
                    self.put(pod);
                } else {
                    self.store(action);
                }
                Some(format!("create {} {}", object.kind(), object.reference().key.name))
            }
            Action::Update(object) => {
                self.store(action);
                Some(format!("update {} {}", object.kind(), object.reference().key.name))
            }
            Action::UpdateStatus(_) => {
                self.store(action);
                None
            }
            Action::Delete { of, .. } => {
                match of.plural {
                    "pods" => self.delete_pod(&of.key.name),
                    "jobs" => self.remove::<Job>(&of.key.name),
                    "controllerrevisions" => self.remove::<ControllerRevision>(&of.key.name),
                    other => panic!("delete {other}"),
                }
                Some(format!("delete {} {}", of.plural, of.key.name))
            }
            Action::Patch { of, patch: Patch::Merge(patch) | Patch::Strategic(patch), .. } => {
                match of.plural {
                    "pods" => self.patch_pod(&of.key.name, patch),
                    "controllerrevisions" => {
                        self.change::<ControllerRevision>(&of.key.name, |held| {
                            held.revision = patch["revision"].as_i64().unwrap()
                        });
                    }
                    other => panic!("patch {other} {patch}"),
                }
                Some(format!("patch {} {} {patch}", of.plural, of.key.name))
            }
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, action: &Action) {
        fn copy<K: Object>(cluster: &mut Cluster, action: &Action) -> bool {
            action.object::<K>().is_some_and(|object| {
                cluster.put(object.clone());
                true
            })
        }
        let stored = copy::<StatefulSet>(self, action)
            || copy::<DaemonSet>(self, action)
            || copy::<Deployment>(self, action)
            || copy::<ReplicaSet>(self, action)
            || copy::<ReplicationController>(self, action)
            || copy::<Job>(self, action)
            || copy::<CronJob>(self, action)
            || copy::<Pod>(self, action)
            || copy::<Node>(self, action)
            || copy::<PersistentVolumeClaim>(self, action)
            || copy::<ControllerRevision>(self, action);
        assert!(stored, "{action:?}");
    }

    fn delete_pod(&mut self, name: &str) {
        if self.get::<Pod>(name).metadata.finalizers.is_empty() {
            self.remove::<Pod>(name);
        } else {
            let now = self.now;
            self.change::<Pod>(name, |pod| pod.metadata.deletion_timestamp = Some(Time { seconds: now }));
        }
    }

    fn patch_pod(&mut self, name: &str, patch: &Json) {
        let removed = &patch["metadata"]["$deleteFromPrimitiveList/finalizers"];
        self.change::<Pod>(name, |pod| {
            pod.metadata
                .finalizers
                .retain(|finalizer| !removed.as_array().unwrap().contains(&Json::from(finalizer.as_str())));
        });
        let pod = self.get::<Pod>(name);
        if pod.metadata.deletion_timestamp.is_some() && pod.metadata.finalizers.is_empty() {
            self.remove::<Pod>(name);
        }
    }

    /// `name: what` of all objects of a kind.
    pub fn all<K: Object, D: Debug>(&self, what: impl Fn(&K) -> D) -> Vec<String> {
        self.world.of::<K>().values().map(|object| format!("{}: {:?}", object.name(), what(object))).collect()
    }
}
