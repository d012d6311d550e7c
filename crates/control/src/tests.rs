//! Worlds from JSON, and plans as lines of text: what tests of this crate write and read.

use std::collections::BTreeMap;

use reconcile::{Action, Ctx, Key, Patch, Plan, World};
use schema::api::apps::v1 as apps;
use schema::api::batch::v1 as batch;
use schema::api::certificates::v1 as certificates;
use schema::api::coordination::v1 as coordination;
use schema::api::core::v1 as core;
use schema::api::discovery::v1 as discovery;
use schema::api::policy::v1 as policy;
use schema::api::rbac::v1 as rbac;
use schema::api::storage::v1 as storage;
use schema::api::{Object, Time};
use schema::transcode::proto_to_json;
use schema::{Table, json, proto};
use serde_json::Value as Json;

/// 2026-01-01T00:00:00Z
pub const NOW: i64 = 1_767_225_600;

/// An object from its JSON form, in the namespace `n`, created when the world was.
pub fn object<K: Object>(json: &Json) -> K {
    let table = Table::builtin();
    let id = table.id(K::NAME).unwrap();
    let decoded = json::decode(table, id, json.to_string().as_bytes()).unwrap();
    assert_eq!(decoded.problems, [], "{json}");
    let mut wire = Vec::new();
    proto::encode(table, id, &decoded.value, &mut wire);
    let mut object = K::decode(&wire).unwrap();
    let meta = object.metadata_mut();
    if K::NAMESPACED && meta.namespace.is_empty() {
        meta.namespace = "n".into();
    }
    if meta.uid.is_empty() {
        meta.uid = format!("{}-uid", meta.name);
    }
    if meta.creation_timestamp.is_zero() {
        meta.creation_timestamp = Time { seconds: NOW };
    }
    object
}

fn to_json<K: Object>(object: &K) -> Json {
    text(K::GROUP, K::VERSION, K::KIND, &object.to_vec())
}

fn text(group: &str, version: &str, kind: &str, body: &[u8]) -> Json {
    let table = Table::builtin();
    let mut out = Vec::new();
    proto_to_json(table, table.kind(group, version, kind).unwrap(), None, body, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[derive(Default)]
pub struct Fixture {
    pub world: World,
    pub now: i64,
    revision: u64,
    /// `plural key` → what is there.
    held: BTreeMap<String, Json>,
}

impl Fixture {
    pub fn new(objects: &[Json]) -> Self {
        let mut fixture = Self { now: NOW, ..Self::default() };
        objects.iter().for_each(|json| fixture.put(json));
        fixture
    }

    pub fn put(&mut self, json: &Json) {
        match json["kind"].as_str().unwrap() {
            "Pod" => self.add(object::<core::Pod>(json)),
            "Node" => self.add(object::<core::Node>(json)),
            "Service" => self.add(object::<core::Service>(json)),
            "Endpoints" => self.add(object::<core::Endpoints>(json)),
            "EndpointSlice" => self.add(object::<discovery::EndpointSlice>(json)),
            "PersistentVolume" => self.add(object::<core::PersistentVolume>(json)),
            "PersistentVolumeClaim" => self.add(object::<core::PersistentVolumeClaim>(json)),
            "StorageClass" => self.add(object::<storage::StorageClass>(json)),
            "CSINode" => self.add(object::<storage::CSINode>(json)),
            "CSIDriver" => self.add(object::<storage::CSIDriver>(json)),
            "VolumeAttachment" => self.add(object::<storage::VolumeAttachment>(json)),
            "VolumeAttributesClass" => self.add(object::<storage::VolumeAttributesClass>(json)),
            "CertificateSigningRequest" => self.add(object::<certificates::CertificateSigningRequest>(json)),
            "PodCertificateRequest" => self.add(object::<certificates::PodCertificateRequest>(json)),
            "Lease" => self.add(object::<coordination::Lease>(json)),
            "ReplicaSet" => self.add(object::<apps::ReplicaSet>(json)),
            "Deployment" => self.add(object::<apps::Deployment>(json)),
            "PodDisruptionBudget" => self.add(object::<policy::PodDisruptionBudget>(json)),
            "ClusterRole" => self.add(object::<rbac::ClusterRole>(json)),
            "ResourceQuota" => self.add(object::<core::ResourceQuota>(json)),
            "ConfigMap" => self.add(object::<core::ConfigMap>(json)),
            "Job" => self.add(object::<batch::Job>(json)),
            other => panic!("no {other} in fixtures"),
        }
    }

    pub fn add<K: Object>(&mut self, mut object: K) {
        self.revision += 1;
        object.metadata_mut().resource_version = self.revision.to_string();
        self.held.insert(format!("{} {}", K::PLURAL, Key::of(&object)), to_json(&object));
        self.world.of_mut::<K>().put(object);
    }

    pub fn plan(&self, reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan, key: &str) -> Plan {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let mut ctx = Ctx { now_ns: self.now * 1_000_000_000, seed: 7, failure: None };
        reconcile(&self.world, &Key::new(namespace, name), &mut ctx)
    }

    /// Decides about `key` and compares with a line per action (events by their reason) and `again in 5s`.
    #[track_caller]
    pub fn check(&self, reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan, key: &str, expected: &[&str]) {
        let plan = self.plan(reconcile, key);
        let mut lines: Vec<String> = plan.actions.iter().map(|action| self.line(action)).collect();
        lines.extend(plan.requeue_after.map(|after| format!("again in {}s", after.as_secs())));
        assert_eq!(lines, expected);
    }

    fn line(&self, action: &Action) -> String {
        match action {
            Action::Create(object) if object.kind() == "Event" => {
                let event = action.object::<core::Event>().unwrap();
                format!("{} {} {}", event.r#type, event.involved_object.name, event.reason)
            }
            Action::Create(object) => format!("create {} {}", object.reference().plural, self.changes(&**object)),
            Action::Update(object) => format!("update {} {}", object.reference().plural, self.changes(&**object)),
            Action::UpdateStatus(object) => format!("status {} {}", object.reference().plural, self.changes(&**object)),
            Action::Patch { of, subresource, patch } => {
                let body = match patch {
                    Patch::Json(body)
                    | Patch::Merge(body)
                    | Patch::Strategic(body)
                    | Patch::Apply { object: body, .. } => body,
                };
                format!(
                    "patch {} {}{} {body}",
                    of.plural,
                    of.key,
                    subresource.map_or(String::new(), |name| format!(" {name}"))
                )
            }
            Action::Delete { of, options } => {
                let grace = options.grace_period_seconds.map_or(String::new(), |grace| format!(" grace {grace}"));
                format!("delete {} {}{grace}", of.plural, of.key)
            }
            Action::Post { of, subresource, .. } => format!("post {} {} {subresource}", of.plural, of.key),
        }
    }

    /// What an object changes of the one in the world, as a merge patch.
    fn changes(&self, object: &dyn reconcile::AnyObject) -> String {
        let of = object.reference();
        let new = text(of.group, of.version, object.kind(), &object.body());
        let old = self.held.get(&format!("{} {}", of.plural, of.key)).cloned().unwrap_or_default();
        format!("{} {}", of.key, difference(&old, &new).unwrap_or_default())
    }
}

fn difference(old: &Json, new: &Json) -> Option<Json> {
    if old == new {
        return None;
    }
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return Some(new.clone()) };
    let mut changed = serde_json::Map::new();
    for (name, value) in after {
        if let Some(value) = difference(before.get(name).unwrap_or(&Json::Null), value) {
            changed.insert(name.clone(), value);
        }
    }
    before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .for_each(|name| drop(changed.insert(name.clone(), Json::Null)));
    Some(changed.into())
}
