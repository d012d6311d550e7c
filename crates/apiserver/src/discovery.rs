//! Discovery: which groups, versions and resources are served, in the legacy and in the aggregated form.

use std::cmp::Reverse;
use std::sync::{Mutex, PoisonError};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, header, request::Parts};
use schema::Value;
use sha2::{Digest, Sha256, Sha512};

use crate::encode::{self, message_of};
use crate::kind::{Kind, Registry, builtin, join_group_version, version_priority};
use crate::negotiate::{Encoding, PROTOBUF};
use crate::nonresource::{not_found, plain_encoding, unchanged};
use crate::reply::{self, Reply};
use crate::status::Result;
use crate::{Server, Status, aggregate};

/// Documents made from the registry, kept until it changes.
#[derive(Default)]
pub struct Documents(Mutex<Vec<Document>>);

#[derive(Clone)]
pub struct Document {
    pub name: String,
    pub generation: u64,
    pub body: Bytes,
    /// Quoted.
    pub etag: String,
}

impl Documents {
    pub fn get(&self, name: &str, generation: u64, make: impl FnOnce() -> Bytes) -> Document {
        let mut documents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = documents.iter().find(|d| d.name == name && d.generation == generation) {
            return found.clone();
        }
        documents.retain(|d| d.generation == generation);
        let body = make();
        let etag = format!("\"{}\"", hex_upper(&Sha512::digest(&body)));
        let document = Document { name: name.into(), generation, body, etag };
        documents.push(document.clone());
        document
    }
}

pub fn hex_upper(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// Upstream's order of the built-in groups; custom ones follow by name.
const GROUP_ORDER: [&str; 22] = [
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
    "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
    "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
    "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// The priorities that upstream gives to the groups and versions of definitions.
const CUSTOM_PRIORITY: (i64, i64) = (1000, 100);

/// All groups and their versions, the preferred one first: those served here, and those of remote API servers.
pub fn groups(server: &Server, registry: &Registry) -> Vec<(String, Vec<String>)> {
    let remote = aggregate::versions(server);
    let mut groups = registry.groups().to_vec();
    for version in &remote {
        match groups.iter_mut().find(|(group, _)| *group == version.group) {
            Some((_, versions)) => versions.push(version.version.clone()),
            None => groups.push((version.group.clone(), vec![version.version.clone()])),
        }
    }
    for (group, versions) in &mut groups {
        versions.sort_by_key(|name| {
            let elsewhere = remote.iter().find(|v| v.group == *group && v.version == *name);
            Reverse((elsewhere.map_or(CUSTOM_PRIORITY.1, |v| v.version_priority), version_priority(name)))
        });
    }
    groups.sort_by_key(|(group, _)| {
        let here = registry.groups().iter().any(|(g, _)| g == group).then_some(CUSTOM_PRIORITY.0);
        let elsewhere = remote.iter().filter(|v| v.group == *group).map(|v| v.group_priority);
        let place = GROUP_ORDER.iter().position(|g| g == group).unwrap_or(GROUP_ORDER.len());
        (place, Reverse(elsewhere.chain(here).max()), group.clone())
    });
    groups
}

/// `/api`, `/apis` and what is below them down to a group's version.
pub fn serve(server: &Server, parts: &Parts, segments: &[&str]) -> Result<Reply> {
    let registry = server.registry();
    let encoding = plain_encoding(parts);
    let answer = |value: Value| Ok(reply::value(200, &value, encoding));
    if let ([root @ ("api" | "apis")], Some(encoding)) = (segments, wants_aggregated(parts)) {
        return Ok(aggregated(server, parts, root, encoding));
    }
    match segments {
        ["api"] => {
            let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
            let address = Value::object([("clientCIDR", "0.0.0.0/0".into()), ("serverAddress", host.into())]);
            answer(Value::object([
                ("kind", "APIVersions".into()),
                ("versions", Value::list(["v1"])),
                ("serverAddressByClientCIDRs", Value::List(vec![address])),
            ]))
        }
        ["apis"] => {
            let groups = groups(server, &registry).into_iter().filter(|(g, _)| !g.is_empty());
            let groups: Vec<Value> = groups.map(|(g, v)| group(&g, &v, false)).collect();
            answer(Value::object([
                ("apiVersion", "v1".into()),
                ("kind", "APIGroupList".into()),
                ("groups", Value::List(groups)),
            ]))
        }
        ["apis", name] => match groups(server, &registry).iter().find(|(g, _)| g == name && !g.is_empty()) {
            Some((name, versions)) => answer(group(name, versions, true)),
            None => Ok(not_found()),
        },
        ["api", version] => answer(resources(&registry, "", version).ok_or_else(Status::no_such_resource)?),
        ["apis", name, version] => match resources(&registry, name, version) {
            Some(resources) => answer(resources),
            None if registry.has_builtin(name) => Err(Status::no_such_resource()),
            None => Ok(not_found()),
        },
        _ => Ok(not_found()),
    }
}

fn group(name: &str, versions: &[String], with_type: bool) -> Value {
    let version = |v: &String| {
        Value::object([("groupVersion", join_group_version(name, v).into()), ("version", v.as_str().into())])
    };
    let mut out = Value::object([
        ("name", name.into()),
        ("versions", Value::List(versions.iter().map(version).collect())),
        ("preferredVersion", versions.first().map(version).into()),
    ]);
    if with_type {
        out.set(&["apiVersion"], "v1");
        out.set(&["kind"], "APIGroup");
    }
    out
}

fn storage_version_hash(kind: &Kind) -> Option<String> {
    let storage = kind.storage.as_ref()?;
    let stored = match &kind.custom {
        Some(custom) => &custom.storage_api_version,
        // It names the version in which definitions were stored once, and never changes again.
        None if kind.kind() == "CustomResourceDefinition" => "apiextensions.k8s.io/v1beta1",
        None => &*storage.api_version,
    };
    let (group, version) = crate::kind::split_api_version(stored);
    let digest = Sha256::digest(format!("{group}/{version}/{}", kind.kind()));
    Some(STANDARD.encode(&digest[..8]))
}

fn strings(list: &[Box<str>]) -> Value {
    Value::list(list.iter().map(|s| &**s))
}

/// Verbs in upstream's order: sorted for built-in kinds, as they are for custom ones.
fn verbs(kind: &Kind, list: &[Box<str>]) -> Value {
    if kind.custom.is_some() {
        return strings(list);
    }
    let mut sorted: Vec<&str> = list.iter().map(|s| &**s).collect();
    sorted.sort_unstable();
    Value::list(sorted)
}

/// `APIResourceList` of a group's version.
fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds = registry.of_version(group, version);
    if kinds.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for kind in kinds {
        let r = &kind.resource;
        let mut main = Value::object([
            ("name", (&*r.plural).into()),
            ("singularName", (&*r.singular).into()),
            ("namespaced", r.namespaced.into()),
            ("kind", (&*r.kind).into()),
            ("verbs", verbs(kind, &r.verbs)),
        ]);
        if !r.short_names.is_empty() {
            main.set(&["shortNames"], strings(&r.short_names));
        }
        if !r.categories.is_empty() {
            main.set(&["categories"], strings(&r.categories));
        }
        if let Some(hash) = storage_version_hash(kind) {
            main.set(&["storageVersionHash"], hash);
        }
        list.push(main);
        for sub in &r.subresources {
            let mut value = Value::object([
                ("name", format!("{}/{}", r.plural, sub.name).into()),
                ("singularName", "".into()),
                ("namespaced", r.namespaced.into()),
                ("kind", (&*sub.kind).into()),
                ("verbs", verbs(kind, &sub.verbs)),
            ]);
            if *sub.api_version != *kind.api_version {
                let (group, version) = crate::kind::split_api_version(&sub.api_version);
                if !group.is_empty() {
                    value.set(&["group"], group);
                }
                value.set(&["version"], version);
            }
            list.push(value);
        }
    }
    if registry.of_version(group, version).iter().all(|k| k.custom.is_none()) {
        list.sort_by(|a, b| a.str_at(&["name"]).cmp(b.str_at(&["name"])));
    }
    // The core group's lists have no apiVersion, as they were before there were groups.
    let api_version = if group.is_empty() { Value::Null } else { "v1".into() };
    let mut out = Value::object([
        ("apiVersion", api_version),
        ("kind", "APIResourceList".into()),
        ("groupVersion", join_group_version(group, version).into()),
        ("resources", Value::List(list)),
    ]);
    if group.is_empty() {
        out.remove(&["apiVersion"]);
    }
    Some(out)
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_PROTOBUF: &str =
    "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn wants_aggregated(parts: &Parts) -> Option<Encoding> {
    let accept = crate::negotiate::join_header(&parts.headers, header::ACCEPT);
    // The first clause that can be served decides.
    for clause in accept.split(',') {
        let mut params = clause.split(';').map(str::trim);
        let media = params.next().unwrap_or("");
        let has = |wanted: &str| clause.split(';').any(|p| p.trim() == wanted);
        if has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") {
            match media {
                "application/json" | "*/*" | "application/*" if has("v=v2") => return Some(Encoding::Json),
                PROTOBUF if has("v=v2") => return Some(Encoding::Protobuf),
                _ => continue,
            }
        }
        if matches!(media, "application/json" | "*/*" | "application/*" | "application/yaml" | PROTOBUF) {
            return None;
        }
    }
    None
}

fn aggregated(server: &Server, parts: &Parts, root: &str, encoding: Encoding) -> Reply {
    let registry = server.registry();
    let generation = registry.generation + aggregate::generation(server);
    let media = if encoding == Encoding::Protobuf { AGGREGATED_PROTOBUF } else { AGGREGATED };
    let document = server.inner.documents.get(&format!("{root} {media}"), generation, || {
        let value = aggregated_value(server, &registry, root == "api");
        let message = message_of("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList");
        encode::value(&value, builtin(), message.filter(|_| encoding == Encoding::Protobuf), encoding).0
    });
    let mut response = if unchanged(parts, &document.etag) {
        reply::bytes(304, media, Bytes::new())
    } else {
        reply::bytes(200, media, document.body)
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A version as its own server has told of it.
fn told_version(elsewhere: &aggregate::Version) -> Value {
    let told = elsewhere.told.as_deref();
    let mut out = Value::object([("version", elsewhere.version.as_str().into())]);
    if let Some(told) = told.filter(|told| !told.resources.is_empty()) {
        out.set(&["resources"], Value::List(told.resources.clone()));
    }
    let is_current = told.is_some_and(|told| told.is_current);
    out.set(&["freshness"], if is_current { "Current" } else { "Stale" });
    out
}

fn aggregated_value(server: &Server, registry: &Registry, core: bool) -> Value {
    let kind_of = |api_version: &str, kind: &str| {
        let (group, version) = crate::kind::split_api_version(api_version);
        Value::object([("group", group.into()), ("version", version.into()), ("kind", kind.into())])
    };
    // A built-in kind of the group and version that it is listed in needs neither.
    let own_kind = |holder: &Kind, api_version: &str, kind: &str| match &holder.custom {
        None if *holder.api_version == *api_version => {
            Value::object([("group", "".into()), ("version", "".into()), ("kind", kind.into())])
        }
        _ => kind_of(api_version, kind),
    };
    let remote = aggregate::versions(server);
    let mut items = Vec::new();
    for (group, versions) in groups(server, registry) {
        if group.is_empty() != core {
            continue;
        }
        let mut out = Vec::new();
        for version in &versions {
            if let Some(elsewhere) = remote.iter().find(|v| v.group == group && v.version == *version) {
                out.push(told_version(elsewhere));
                continue;
            }
            let resources = registry.of_version(&group, version).into_iter().map(|kind| {
                let r = &kind.resource;
                let mut value = Value::object([
                    ("resource", (&*r.plural).into()),
                    ("responseKind", own_kind(kind, &kind.api_version, &r.kind)),
                    ("scope", if r.namespaced { "Namespaced" } else { "Cluster" }.into()),
                    ("singularResource", (&*r.singular).into()),
                    ("verbs", verbs(kind, &r.verbs)),
                ]);
                if !r.short_names.is_empty() {
                    value.set(&["shortNames"], strings(&r.short_names));
                }
                if !r.categories.is_empty() {
                    value.set(&["categories"], strings(&r.categories));
                }
                if !r.subresources.is_empty() {
                    let mut subs: Vec<&schema::Subresource> = r.subresources.iter().collect();
                    if kind.custom.is_none() {
                        subs.sort_by(|a, b| a.name.cmp(&b.name));
                    }
                    let subs = subs.into_iter().map(|s| {
                        Value::object([
                            ("subresource", (&*s.name).into()),
                            ("responseKind", own_kind(kind, &s.api_version, &s.kind)),
                            ("verbs", verbs(kind, &s.verbs)),
                        ])
                    });
                    value.set(&["subresources"], Value::List(subs.collect()));
                }
                value
            });
            out.push(Value::object([
                ("version", version.as_str().into()),
                ("resources", Value::List(resources.collect())),
                ("freshness", "Current".into()),
            ]));
        }
        items.push(Value::object([
            ("metadata", Value::object([("name", group.as_str().into())])),
            ("versions", Value::List(out)),
        ]));
    }
    // The empty group's metadata is empty.
    for item in &mut items {
        if item.str_at(&["metadata", "name"]).is_empty() {
            item.set(&["metadata"], Value::object::<&str>([]));
        }
    }
    Value::object([
        ("kind", "APIGroupDiscoveryList".into()),
        ("apiVersion", "apidiscovery.k8s.io/v2".into()),
        ("metadata", Value::object::<&str>([])),
        ("items", Value::List(items)),
    ])
}
