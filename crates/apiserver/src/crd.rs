//! CustomResourceDefinitions: from the stored definition to served kinds, and the definition's own life
//! (names, Established, the end of its objects).

use std::collections::{BTreeSet, HashMap};
use std::{sync::Arc, time::Duration};

use schema::structural::{Schema, supported_format};
use schema::{Column, MessageId, Resource, Subresource, Value};
use tokio::task::JoinHandle;

use crate::cache::Storage;
use crate::call::Call;
use crate::conversion::Converter;
use crate::crd_rules::Rules;
use crate::kind::{Custom, Held, Kind, ScalePaths, join_group_version, version_priority};
use crate::options::{DeleteOptions, WriteOptions};
use crate::publish::read_all;
use crate::read::store_error;
use crate::status::Result;
use crate::write::{Part, Produced, Update};
use crate::{Server, Status, User, meta};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often the end of a definition is looked at again while objects of it still wait for their finalizers.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(1);

/// In upstream's order.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

fn boxes(value: &Value) -> Vec<Box<str>> {
    value.as_list().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

/// What a client is told of a new definition: formats that mean nothing, and did not stand there before.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let formats = |definition: &Value| {
        let mut found = BTreeSet::new();
        unknown_formats(&definition["spec"]["versions"], &mut found);
        found
    };
    let known = old.map(formats).unwrap_or_default();
    formats(new).difference(&known).map(|format| format!("unrecognized format {format:?}")).collect()
}

fn unknown_formats(schema: &Value, out: &mut BTreeSet<String>) {
    let (ty, format) = (schema.str_at(&["type"]), schema.str_at(&["format"]));
    if !format.is_empty() && supported_format(ty, format).is_empty() {
        out.insert(format.to_owned());
    }
    let is_schema = |name: &str| !matches!(name, "default" | "enum" | "example" | "additionalPrinterColumns");
    let members = schema.as_object().into_iter().flatten().filter(|(name, _)| is_schema(name)).map(|(_, inner)| inner);
    members.chain(schema.as_list().into_iter().flatten()).for_each(|inner| unknown_formats(inner, out));
}

fn condition<'a>(definition: &'a Value, ty: &str) -> Option<&'a Value> {
    definition.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == ty)
}

pub fn is_established(definition: &Value) -> bool {
    condition(definition, "Established").is_some_and(|c| c.str_at(&["status"]) == "True")
}

// ---- serving

/// The best version that is served and not deprecated.
fn newest_undeprecated(versions: &[Value]) -> Option<&str> {
    let good = versions.iter().filter(|v| v.bool_at(&["served"]) && !v.bool_at(&["deprecated"]));
    good.map(|v| v.str_at(&["name"])).max_by_key(|name| version_priority(name))
}

/// The schemas of a definition's versions, by apiVersion.
fn schemas_of(definition: &Value) -> HashMap<String, Arc<Schema>> {
    let group = definition.str_at(&["spec", "group"]);
    let schema = |version: &Value| {
        let name = version.str_at(&["name"]);
        let schema = Schema::new(&version["schema"]["openAPIV3Schema"], "spec").inspect_err(|errors| {
            let (definition, problems) =
                (definition.str_at(&["metadata", "name"]), schema::validate::aggregate(errors));
            tracing::warn!(definition, version = name, problems, "not served");
        });
        Some((join_group_version(group, name), Arc::new(schema.ok()?)))
    };
    definition.list_at(&["spec", "versions"]).iter().filter_map(schema).collect()
}

/// The versions of a definition that are so marked (`served`, `storage`), as kinds.
fn kinds_of(definition: &Value, mark: &str, storage: &Arc<Storage>) -> Vec<Kind> {
    let converter = Converter::new(definition).map(Arc::new);
    let spec = &definition["spec"];
    let group = spec.str_at(&["group"]);
    let names = &definition["status"]["acceptedNames"];
    let versions = spec.list_at(&["versions"]);
    let stored = versions.iter().find(|v| v.bool_at(&["storage"])).map_or("", |v| v.str_at(&["name"]));
    let schemas = Arc::new(schemas_of(definition));
    let mut out = Vec::new();
    for version in versions.iter().filter(|v| v.bool_at(&[mark])) {
        let name = version.str_at(&["name"]);
        let Some(schema) = schemas.get(&join_group_version(group, name)).cloned() else { continue };
        let root: MessageId = schema.root;
        let api_version = join_group_version(group, name);
        let kind = names.str_at(&["kind"]);
        let mut subresources = Vec::new();
        let sub = |name: &str, api_version: &str, kind: &str| Subresource {
            name: name.into(),
            api_version: api_version.into(),
            kind: kind.into(),
            verbs: ["get", "patch", "update"].map(Into::into).into(),
        };
        let has_status = !version["subresources"]["status"].is_null();
        if has_status {
            subresources.push(sub("status", &api_version, kind));
        }
        let scale = &version["subresources"]["scale"];
        if !scale.is_null() {
            subresources.push(sub("scale", "autoscaling/v1", "Scale"));
        }
        let column = |name: &str, ty: &str, format: &str, priority: i64, source: &str| Column {
            name: name.into(),
            ty: ty.into(),
            format: format.into(),
            priority: priority as i32,
            source: source.into(),
        };
        let mut columns = vec![column("Name", "string", "name", 0, ".metadata.name")];
        for c in version.list_at(&["additionalPrinterColumns"]) {
            let text = |field: &str| c.str_at(&[field]);
            columns.push(column(
                text("name"),
                text("type"),
                text("format"),
                c.i64_at(&["priority"]).unwrap_or(0),
                text("jsonPath"),
            ));
        }
        if columns.len() == 1 {
            columns.push(column("Age", "date", "", 0, ".metadata.creationTimestamp"));
        }
        let deprecated = version.bool_at(&["deprecated"]).then(|| match version.str_at(&["deprecationWarning"]) {
            "" => match newest_undeprecated(versions) {
                Some(newer) => {
                    format!("{api_version} {kind} is deprecated; use {} {kind}", join_group_version(group, newer))
                }
                None => format!("{api_version} {kind} is deprecated"),
            },
            warning => warning.to_owned(),
        });
        let resource = Resource {
            group: group.into(),
            version: name.into(),
            kind: kind.into(),
            plural: names.str_at(&["plural"]).into(),
            singular: names.str_at(&["singular"]).into(),
            namespaced: spec.str_at(&["scope"]) == "Namespaced",
            message: root,
            storage: join_group_version(group, stored).into(),
            short_names: boxes(&names["shortNames"]),
            categories: boxes(&names["categories"]),
            verbs: VERBS.map(Into::into).into(),
            subresources,
            columns,
            selectable: version
                .list_at(&["selectableFields"])
                .iter()
                .map(|f| f.str_at(&["jsonPath"]).trim_start_matches('.').into())
                .collect(),
            prefix: storage.prefix.clone(),
            behaviours: Vec::new(),
            enabled: true,
        };
        let custom = Custom {
            converter: converter.clone(),
            preserve_unknown: version["schema"]["openAPIV3Schema"].is_null(),
            rules: Rules::new(&schema, "", true).0,
            schema,
            schemas: schemas.clone(),
            definition: definition.str_at(&["metadata", "name"]).into(),
            state: (definition.str_at(&["metadata", "uid"]).to_owned(), meta::generation(definition)),
            open_api: version["schema"]["openAPIV3Schema"].clone(),
            list_kind: names.str_at(&["listKind"]).into(),
            deprecation_warning: deprecated,
            scale: (!scale.is_null()).then(|| ScalePaths {
                spec: scale.str_at(&["specReplicasPath"]).into(),
                status: scale.str_at(&["statusReplicasPath"]).into(),
                selector: scale.str_at(&["labelSelectorPath"]).into(),
            }),
            has_status,
            is_terminating: meta::is_deleting(definition),
            storage_api_version: join_group_version(group, stored),
        };
        out.push(Kind::new(Held::Shared(Arc::new(resource)), Some(Arc::new(custom)), Some(storage.clone())));
    }
    out
}

/// Where the objects of a definition are stored.
fn prefix_of(definition: &Value) -> String {
    let spec = &definition["spec"];
    format!("/registry/{}/{}", spec.str_at(&["group"]), spec.str_at(&["names", "plural"]))
}

impl Server {
    /// Makes the registry of all established definitions, and loads the caches that are new.
    async fn serve_definitions(&self) -> Result<()> {
        let current = self.registry();
        let definitions = self.read_all(GROUP, PLURAL, "");
        let mut registry = current.builtin_only();
        let mut fresh = Vec::new();
        for definition in definitions.iter().filter(|d| is_established(d)) {
            let spec = &definition["spec"];
            let prefix = prefix_of(definition);
            let namespaced = spec.str_at(&["scope"]) == "Namespaced";
            let storage = match current.storage(&prefix) {
                Some(storage) if storage.namespaced == namespaced => storage.clone(),
                _ => Arc::new(Storage::new(&prefix, namespaced, None, "", spec.str_at(&["names", "kind"]))),
            };
            if !storage.is_loaded() {
                fresh.push(storage.clone());
            }
            registry.add_storage(&storage);
            for kind in kinds_of(definition, "served", &storage) {
                registry.add(kind);
            }
        }
        // Changes reach a cache only when it is in the registry: first there, then filled.
        self.replace_registry(registry);
        // Who watches a definition's objects looks whether it is still the same.
        current.storages().filter(|storage| storage.custom).for_each(|storage| storage.wake());
        for storage in fresh {
            let (entries, revision) =
                read_all(&*self.inner.config.store, &storage.prefix, None).await.map_err(store_error)?;
            self.inner.publisher.reach(revision).await;
            storage.load(entries, revision);
        }
        Ok(())
    }
}

/// Whether all of them are served.
pub async fn load(server: &Server) -> bool {
    let served = server.serve_definitions().await;
    if let Err(status) = &served {
        tracing::error!(message = %status.message, "cannot serve custom resources");
    }
    served.is_ok()
}

// ---- the life of a definition

/// Follows the definitions: settles their names, serves them, and ends them.
pub async fn follow(server: Server) {
    let Some(storage) = server.storage(GROUP, PLURAL) else { return };
    let mut changed = storage.subscribe();
    let mut served: HashMap<String, (i64, bool, Value)> = HashMap::new();
    let mut ends: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        changed.mark_unchanged();
        // Whether to look again soon.
        let mut ending = false;
        let definitions = server.read_all(GROUP, PLURAL, "");
        for definition in &definitions {
            let name = definition.str_at(&["metadata", "name"]).to_owned();
            if let Err(status) = settle(&server, definition, &definitions).await {
                tracing::warn!(name, message = %status.message, "definition");
            }
            if meta::is_deleting(definition) && has_cleanup(definition) {
                ending = true;
                // Objects may have to be converted first, by somebody who takes time: others do not wait for that.
                ends.retain(|_, end| !end.is_finished());
                ends.entry(name).or_insert_with(|| {
                    let (server, definition) = (server.clone(), definition.clone());
                    tokio::spawn(async move {
                        if let Err(status) = end(&server, &definition).await {
                            let name = definition.str_at(&["metadata", "name"]);
                            tracing::warn!(name, message = %status.message, "end of a definition");
                        }
                    })
                });
            }
        }
        let now: HashMap<String, (i64, bool, Value)> = server
            .read_all(GROUP, PLURAL, "")
            .iter()
            .map(|d| {
                let names = if is_established(d) { d["status"]["acceptedNames"].clone() } else { Value::Null };
                (d.str_at(&["metadata", "uid"]).to_owned(), (meta::generation(d), meta::is_deleting(d), names))
            })
            .collect();
        if now != served {
            match load(&server).await {
                true => served = now,
                false => ending = true,
            }
        }
        let wait = changed.changed();
        let done =
            if ending { tokio::time::timeout(CLEANUP_INTERVAL, wait).await.unwrap_or(Ok(())) } else { wait.await };
        if done.is_err() {
            return;
        }
    }
}

fn internal(server: &Server, kind: &Arc<Kind>, namespace: &str, name: &str) -> Call {
    Call::internal(server, User::new("system:apiserver", &["system:masters"]), kind.clone(), namespace, name)
}

async fn update_definition(
    server: &Server,
    name: &str,
    part: Part,
    change: impl Fn(&mut Value) + Send + Sync,
) -> Result<()> {
    let registry = server.registry();
    let kind = registry.preferred(GROUP, PLURAL).cloned().ok_or_else(Status::no_such_resource)?;
    let mut call = internal(server, &kind, "", name);
    let update = Update {
        kind,
        namespace: String::new(),
        name: name.into(),
        part,
        subresource: if part == Part::Status { "status" } else { "" },
        replaces: false,
        options: WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() },
        may_create: false,
        admission: false,
        versions: crate::versions::Versions::default(),
    };
    let produce = |old: Option<&Value>| {
        let mut object = old.cloned().ok_or_else(Status::no_such_resource)?;
        change(&mut object);
        Ok(Some(Produced { object, managed: part != Part::Status }))
    };
    match call.update(&update, &produce).await {
        Err(status) if status.is_not_found() => Ok(()),
        result => result.map(|_| ()),
    }
}

/// The names that a definition may have, and what others of its group keep it from having: reason and message, of which
/// the last one counts.
fn accepted(definition: &Value, all: &[Value]) -> (Value, Option<(&'static str, String)>) {
    let (wanted, held) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let own = definition.str_at(&["metadata", "name"]);
    let is_other =
        |d: &&Value| d["spec"]["group"] == definition["spec"]["group"] && d.str_at(&["metadata", "name"]) != own;
    let others: Vec<&Value> = all.iter().filter(is_other).map(|d| &d["status"]["acceptedNames"]).collect();
    let shorts = |names: &Value| boxes(&names["shortNames"]);
    let is_taken = |name: &str, fields: [&str; 2]| {
        let has = |names: &&Value| {
            let short = fields[0] == "plural" && shorts(names).iter().any(|s| **s == *name);
            short || fields.iter().any(|field| names.str_at(&[field]) == name)
        };
        others.iter().any(has)
    };
    const RESOURCES: [&str; 2] = ["plural", "singular"];
    const KINDS: [&str; 2] = ["kind", "listKind"];
    let mut names = held.clone();
    let mut conflict = None;
    let mut settle = |field: &'static str, reason, taken: Vec<String>| match taken.is_empty() {
        true if wanted[field].is_null() => drop(names.remove(&[field])),
        true => names.set(&[field], wanted[field].clone()),
        false => conflict = Some((reason, taken.join(", "))),
    };
    let in_use = |name: &str| format!("{name:?} is already in use");
    let single = |field: &str, among| {
        let name = wanted.str_at(&[field]);
        let taken = name != held.str_at(&[field]) && is_taken(name, among);
        taken.then(|| in_use(name)).into_iter().collect::<Vec<_>>()
    };
    settle("plural", "PluralConflict", single("plural", RESOURCES));
    settle("singular", "SingularConflict", single("singular", RESOURCES));
    let fresh = shorts(wanted).into_iter().filter(|name| !shorts(held).contains(name) && is_taken(name, RESOURCES));
    let mut taken: Vec<String> = fresh.map(|name| in_use(&name)).collect();
    if taken.len() > 1 {
        taken = vec![format!("[{}]", taken.join(", "))];
    }
    settle("shortNames", "ShortNamesConflict", taken);
    settle("kind", "KindConflict", single("kind", KINDS));
    settle("listKind", "ListKindConflict", single("listKind", KINDS));
    settle("categories", "", Vec::new());
    (names, conflict)
}

/// Accepts the names, or says why not; then the definition is established.
async fn settle(server: &Server, definition: &Value, all: &[Value]) -> Result<()> {
    let name = definition.str_at(&["metadata", "name"]);
    let now = server.now_text();
    let (names, conflict) = accepted(definition, all);
    let change = |object: &mut Value| {
        object.set(&["status", "acceptedNames"], names.clone());
        match &conflict {
            None => {
                meta::set_condition(object, "NamesAccepted", "True", "NoConflicts", "no conflicts found", &now);
                meta::set_condition(
                    object, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", &now,
                );
            }
            Some((reason, message)) => {
                meta::set_condition(object, "NamesAccepted", "False", reason, message, &now);
                if !is_established(object) {
                    let message = "not all names are accepted";
                    meta::set_condition(object, "Established", "False", "NotAccepted", message, &now);
                }
            }
        }
    };
    let mut preview = definition.clone();
    change(&mut preview);
    if preview["status"] != definition["status"] {
        update_definition(server, name, Part::Status, change).await?;
    }
    Ok(())
}

/// A deletion first marks the definition: its objects go before it.
pub fn mark(definition: &mut Value) {
    if condition(definition, "Terminating").is_some() {
        return;
    }
    definition.remove(&["metadata", "deletionGracePeriodSeconds"]);
    // A mark is no change of the definition.
    let generation = meta::generation(definition) - 1;
    meta::set_generation(definition, generation);
    let at = definition.str_at(&["metadata", "deletionTimestamp"]).to_owned();
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    meta::set_condition(definition, "Terminating", "True", "InstanceDeletionPending", message, &at);
    let list = definition.make_list(&["metadata", "finalizers"]);
    if !list.iter().any(|f| f.as_str() == Some(CLEANUP)) {
        list.push(CLEANUP.into());
    }
}

fn has_cleanup(definition: &Value) -> bool {
    definition.list_at(&["metadata", "finalizers"]).iter().any(|f| f.as_str() == Some(CLEANUP))
}

/// Deletes a definition's objects, and lets it go if none are left.
async fn end(server: &Server, definition: &Value) -> Result<()> {
    let name = definition.str_at(&["metadata", "name"]);
    let now = server.now_text();
    // Objects that are in the storage version go without the webhook's help.
    let stored = server.registry().storage(&prefix_of(definition)).filter(|_| is_established(definition)).cloned();
    let stored = stored.and_then(|storage| Some((kinds_of(definition, "storage", &storage).pop()?, storage)));
    if let Some((kind, storage)) = stored {
        if !storage.is_loaded() {
            return Ok(());
        }
        let kind = &Arc::new(kind);
        let (entries, _) = storage.newest(&storage.span(""));
        if !entries.is_empty() {
            update_definition(server, name, Part::Status, |object| {
                let message = "CustomResource deletion is in progress";
                meta::set_condition(object, "Terminating", "True", "InstanceDeletionInProgress", message, &now);
            })
            .await?;
        }
        for entry in entries {
            let namespace = storage.namespace_of(&entry).to_owned();
            let mut call = internal(server, kind, &namespace, entry.name());
            if schema::stored::meta(&entry.body).is_ok_and(|meta| meta.deleting) {
                continue;
            }
            match call.delete_object(kind, &namespace, entry.name(), DeleteOptions::default(), None).await {
                Ok(_) => {}
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        if !storage.is_empty() {
            return Ok(());
        }
    }
    update_definition(server, name, Part::Given, |object| {
        let list = object.make_list(&["metadata", "finalizers"]);
        list.retain(|f| f.as_str() != Some(CLEANUP));
        meta::set_condition(object, "Terminating", "False", "InstanceDeletionCompleted", "removed all instances", &now);
    })
    .await
}
