//! Served kinds: what the registry knows of each group, version and resource, and where its objects live.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::HashMap, ops::Deref, sync::Arc};

use schema::{MessageId, Resource, Table, Type, Value, structural::Schema};

use crate::behaviours::{self, Strategy};
use crate::cache::Storage;
use crate::conversion::Converter;
use crate::request::GroupResource;
use crate::status::{Result, Status};

/// A thing of the built-in table, or one made at run time.
pub enum Held<T: 'static> {
    Static(&'static T),
    Shared(Arc<T>),
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Held::Static(t) => t,
            Held::Shared(t) => t,
        }
    }
}

/// What a CRD's version adds to a kind.
pub struct Custom {
    /// Nothing if versions differ in name only.
    pub converter: Option<Arc<Converter>>,
    pub schema: Arc<Schema>,
    /// The schemas of all versions, by apiVersion.
    pub schemas: Arc<HashMap<String, Arc<Schema>>>,
    pub rules: crate::crd_rules::Rules,
    /// Name of the CustomResourceDefinition.
    pub definition: String,
    /// Its uid and generation.
    pub state: (String, i64),
    pub preserve_unknown: bool,
    /// `openAPIV3Schema`, for publication.
    pub open_api: Value,
    pub list_kind: String,
    pub deprecation_warning: Option<String>,
    /// JSON paths of the scale subresource: spec, status, label selector.
    pub scale: Option<ScalePaths>,
    pub has_status: bool,
    /// The definition goes: nothing new comes.
    pub is_terminating: bool,
    pub storage_api_version: String,
}

impl Custom {
    /// Sets the defaults of the version that an object is in.
    pub fn default(&self, object: &mut Value) {
        if let Some(schema) = self.schemas.get(object.str_at(&["apiVersion"])) {
            schema.default(object);
        }
    }

    /// Gives an object the name of another version, and leaves it the fields that this one knows.
    pub fn rename(&self, object: &mut Value, api_version: &str) {
        if object.str_at(&["apiVersion"]) == api_version {
            return;
        }
        object.set(&["apiVersion"], api_version);
        self.prune(object);
    }

    /// Drops the fields that an object's version does not know.
    pub fn prune(&self, object: &mut Value) {
        if let Some(schema) = self.schemas.get(object.str_at(&["apiVersion"])).filter(|_| !self.preserve_unknown) {
            schema.prune(object);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct ScalePaths {
    pub spec: String,
    pub status: String,
    pub selector: String,
}

/// One resource in one served version.
pub struct Kind {
    pub resource: Held<Resource>,
    pub custom: Option<Arc<Custom>>,
    /// `None` for reviews, which are never stored.
    pub storage: Option<Arc<Storage>>,
    pub strategy: &'static Strategy,
    /// `apps/v1`
    pub api_version: Box<str>,
    pub ty: Type,
    /// No other kind has it or ever had it in this process: a definition's kinds are replaced when it changes.
    pub number: u64,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Kind {
    pub fn new(resource: Held<Resource>, custom: Option<Arc<Custom>>, storage: Option<Arc<Storage>>) -> Self {
        let api_version = join_group_version(&resource.group, &resource.version).into();
        let strategy = if custom.is_some() { &behaviours::CUSTOM } else { behaviours::find(&resource) };
        let ty = Type::Message(resource.message);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Kind { resource, custom, storage, strategy, api_version, ty, number }
    }

    pub fn table(&self) -> &Table {
        match &self.custom {
            Some(custom) => &custom.schema.table,
            None => builtin(),
        }
    }

    pub fn message(&self) -> MessageId {
        self.resource.message
    }

    pub fn kind(&self) -> &str {
        &self.resource.kind
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.resource.group, &self.resource.plural)
    }

    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) if !custom.list_kind.is_empty() => custom.list_kind.clone(),
            _ => format!("{}List", self.resource.kind),
        }
    }

    /// Where its objects live; a review has no such place.
    pub fn storage(&self) -> Result<&Arc<Storage>> {
        self.storage.as_ref().ok_or_else(Status::method_not_allowed)
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|v| &**v == verb) || (self.resource.verbs.is_empty() && verb == "create")
    }

    pub fn subresource(&self, name: &str) -> Option<&schema::Subresource> {
        self.resource.subresources.iter().find(|s| &*s.name == name)
    }

    /// The fields that a request to the resource or a subresource cannot set.
    pub fn resets(&self, subresource: &str) -> &'static [&'static str] {
        match (&*self.resource.group, &*self.resource.plural, subresource) {
            ("certificates.k8s.io", "certificatesigningrequests", "") => &["spec", "status"],
            ("certificates.k8s.io", "certificatesigningrequests", "status") => &["spec", "status.conditions"],
            ("certificates.k8s.io", "certificatesigningrequests", "approval") => &["spec", "status.certificate"],
            (.., "") if self.custom.as_ref().is_some_and(|custom| !custom.has_status) => &[],
            (.., "") | ("", "namespaces", "finalize") => &["status"],
            ("apps", "deployments", "status") => &["spec", "metadata.labels"],
            ("", "pods", "status") => &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"],
            ("" | "apps" | "autoscaling" | "batch" | "policy", _, "status")
            | ("networking.k8s.io", "ingresses", "status") => &["spec"],
            (.., "status") => &["metadata", "spec"],
            _ => &[],
        }
    }

    /// apiVersion and kind of what a subresource, or the resource itself, takes.
    pub fn object_of(&self, subresource: &str) -> (&str, &str) {
        match self.subresource(subresource) {
            Some(sub) => (&sub.api_version, &sub.kind),
            None => (&self.api_version, self.kind()),
        }
    }

    /// Sets `apiVersion` and `kind` of a value to this kind's.
    pub fn stamp(&self, value: &mut Value) {
        value.set(&["apiVersion"], &*self.api_version);
        value.set(&["kind"], self.kind());
    }
}

pub fn builtin() -> &'static Table {
    Table::builtin()
}

pub fn join_group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All served kinds at one moment. Replaced as a whole when a CRD changes.
#[derive(Default, Clone)]
pub struct Registry {
    kinds: HashMap<String, Arc<Kind>>,
    storages: HashMap<Box<str>, Arc<Storage>>,
    /// Group → versions in order of preference.
    groups: Vec<(String, Vec<String>)>,
    /// Changes with every replacement: the validity of what is derived from it.
    pub generation: u64,
}

fn lookup_key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

impl Registry {
    /// Keeps a storage of which no version may be served.
    pub fn add_storage(&mut self, storage: &Arc<Storage>) {
        self.storages.entry(storage.prefix.clone()).or_insert_with(|| storage.clone());
    }

    pub fn add(&mut self, kind: Kind) {
        let r = &kind.resource;
        let (group, version) = (r.group.to_string(), r.version.to_string());
        if let Some(storage) = &kind.storage {
            self.add_storage(storage);
        }
        let at = match self.groups.iter().position(|(g, _)| *g == group) {
            Some(at) => at,
            None => {
                self.groups.push((group.clone(), Vec::new()));
                self.groups.len() - 1
            }
        };
        let versions = &mut self.groups[at].1;
        if !versions.contains(&version) {
            versions.push(version.clone());
            versions.sort_by_key(|v| std::cmp::Reverse(version_priority(v)));
        }
        self.kinds.insert(lookup_key(&group, &version, &r.plural), Arc::new(kind));
    }

    /// A copy without the custom kinds, to which the current ones are added.
    pub fn builtin_only(&self) -> Registry {
        let mut out = Registry { generation: self.generation + 1, ..Registry::default() };
        out.storages = self.storages.iter().filter(|(_, s)| !s.custom).map(|(k, v)| (k.clone(), v.clone())).collect();
        for (group, versions) in &self.groups {
            let kept: Vec<String> = versions
                .iter()
                .filter(|v| self.of_version(group, v).iter().any(|k| k.custom.is_none()))
                .cloned()
                .collect();
            if !kept.is_empty() {
                out.groups.push((group.clone(), kept));
            }
        }
        out.kinds =
            self.kinds.iter().filter(|(_, k)| k.custom.is_none()).map(|(n, k)| (n.clone(), k.clone())).collect();
        out
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.get(&lookup_key(group, version, plural))
    }

    /// The preferred version that serves a resource.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        let (_, versions) = self.groups.iter().find(|(g, _)| g == group)?;
        versions.iter().find_map(|v| self.get(group, v, plural))
    }

    pub fn groups(&self) -> &[(String, Vec<String>)] {
        &self.groups
    }

    /// Whether a group has kinds that are not custom.
    pub fn has_builtin(&self, group: &str) -> bool {
        self.kinds.values().any(|kind| kind.custom.is_none() && &*kind.resource.group == group)
    }

    /// All kinds of a group and version, by plural.
    pub fn of_version(&self, group: &str, version: &str) -> Vec<&Arc<Kind>> {
        let mut kinds: Vec<_> =
            self.kinds.values().filter(|k| &*k.resource.group == group && &*k.resource.version == version).collect();
        kinds.sort_by(|a, b| a.resource.plural.cmp(&b.resource.plural));
        kinds
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    pub fn storage(&self, prefix: &str) -> Option<&Arc<Storage>> {
        self.storages.get(prefix)
    }

    pub fn storages(&self) -> impl Iterator<Item = &Arc<Storage>> {
        self.storages.values()
    }

    /// The storage to which a store key belongs.
    pub fn storage_of_key(&self, key: &str) -> Option<&Arc<Storage>> {
        let mut prefix = key;
        while let Some((head, _)) = prefix.rsplit_once('/') {
            if let Some(storage) = self.storages.get(head) {
                return Some(storage);
            }
            prefix = head;
        }
        None
    }
}

/// Kubernetes' order of versions: GA above beta above alpha, then by number.
pub fn version_priority(version: &str) -> (u8, u64, u64) {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        let (rank, minor) = match tail.strip_prefix("beta") {
            Some(minor) => (2, minor),
            None => (1, tail.strip_prefix("alpha")?),
        };
        Some((rank, major, minor.parse().ok()?))
    };
    parse().unwrap_or_default()
}
