//! The garbage collector: follows the metadata of everything and deletes what nobody owns any more.
//!
//! One watch per resource feeds [`Graph`]; a worker asks the API about each object that the graph wants looked at and
//! carries out the verdict. Resources come and go as CustomResourceDefinitions and APIServices do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reconcile::io::reflector::metadata_of;
use reconcile::io::{Client, Error, EventKind, Identity};
use reconcile::{DeleteOptions, Propagation};
use schema::api::Message;
use schema::api::meta::v1::{ObjectMeta, OwnerReference, Status};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::discovery::{Resource, discover};
use crate::garbage::{FOREGROUND, Graph, Node, ORPHAN, ResourceId, Standing, Uid, Verdict, decide};
use crate::support::owner_json;

const USER: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
const PAGE: usize = 500;
const WORKERS: usize = 20;
/// How long the first lists may take before work begins without the missing ones.
const PATIENCE: Duration = Duration::from_secs(30);
/// Changes of definitions come in bursts, and are served a moment later.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_AGAIN: Duration = Duration::from_secs(3);

struct Shared {
    client: Client,
    graph: Mutex<Graph>,
    table: Mutex<Table>,
    /// There is something to look at.
    work: Notify,
    /// The resources that are served may have changed.
    changed: Notify,
    unlisted: AtomicUsize,
}

#[derive(Default)]
struct Table {
    resources: HashMap<ResourceId, Arc<Resource>>,
    watches: HashMap<ResourceId, AbortHandle>,
    /// (group, kind) → resource.
    kinds: HashMap<(String, String), Arc<Resource>>,
    next: ResourceId,
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Runs until dropped.
pub async fn run(client: Client) {
    let client = client.with_identity(Identity(USER.into()));
    let shared = Arc::new(Shared {
        client,
        graph: Mutex::default(),
        table: Mutex::default(),
        work: Notify::new(),
        changed: Notify::new(),
        unlisted: AtomicUsize::new(0),
    });
    let mut watches = JoinSet::new();
    let mut failures = 0;
    while let Err(error) = refresh(&shared, &mut watches).await {
        tracing::debug!(%error, "resources cannot be discovered");
        tokio::time::sleep(super::backoff(failures).min(PATIENCE)).await;
        failures += 1;
    }
    let work = work(shared.clone());
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return,
            () = shared.changed.notified() => {
                for wait in [SETTLE, SETTLE_AGAIN] {
                    tokio::select! {
                        () = &mut work => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    if let Err(error) = refresh(&shared, &mut watches).await {
                        tracing::debug!(%error, "resources cannot be discovered");
                        shared.changed.notify_one();
                    }
                }
            }
            // A watch ends only when its resource is gone.
            Some(_) = watches.join_next() => {}
        }
    }
}

/// Starts a watch per new resource, ends those of resources that are gone.
async fn refresh(shared: &Arc<Shared>, watches: &mut JoinSet<()>) -> Result<(), Error> {
    let found = discover(&shared.client).await?;
    let ignored = |resource: &Resource| resource.plural == "events" && matches!(&*resource.group, "" | "events.k8s.io");
    let wanted: Vec<Resource> = found
        .resources
        .into_iter()
        .filter(|resource| {
            ["list", "watch", "get", "delete"].iter().all(|verb| resource.can(verb)) && !ignored(resource)
        })
        .collect();
    let mut table = shared.table();
    let is_failing =
        |resource: &Resource| found.failed.iter().any(|failed| failed.split('/').next() == Some(&resource.group));
    let gone = table.resources.iter().filter(|(_, resource)| !wanted.contains(resource) && !is_failing(resource));
    let ended: Vec<ResourceId> = gone.map(|(id, _)| *id).collect();
    for id in ended {
        table.resources.remove(&id);
        if let Some(watch) = table.watches.remove(&id) {
            watch.abort();
        }
        shared.graph().drop_resource(id);
        shared.work.notify_one();
    }
    for resource in wanted {
        if table.resources.values().any(|known| **known == resource) {
            continue;
        }
        let (id, resource) = (table.next, Arc::new(resource));
        table.next += 1;
        table.resources.insert(id, resource.clone());
        shared.unlisted.fetch_add(1, Ordering::Relaxed);
        table.watches.insert(id, watches.spawn(follow(shared.clone(), id, resource)));
    }
    table.kinds = table
        .resources
        .values()
        .map(|resource| ((resource.group.clone(), resource.kind.clone()), resource.clone()))
        .collect();
    Ok(())
}

async fn follow(shared: Arc<Shared>, id: ResourceId, resource: Arc<Resource>) {
    let path = resource.path("", None);
    let defines = matches!(&*resource.plural, "customresourcedefinitions" | "apiservices");
    let mut revision: Option<String> = None;
    let mut listed = false;
    let mut failures = 0;
    loop {
        let outcome = async {
            if revision.is_none() {
                revision = Some(list(&shared, id, &path).await?);
                if listed {
                    shared.graph().doubt_owners();
                } else {
                    listed = true;
                    shared.unlisted.fetch_sub(1, Ordering::Relaxed);
                }
                shared.work.notify_one();
            }
            watch(&shared, id, &path, &mut revision, defines).await
        };
        match outcome.await {
            Ok(()) => failures = 0,
            Err(error) if error.code() == 410 => revision = None,
            Err(error) => {
                tracing::debug!(%error, "a watch ended");
                tokio::time::sleep(super::backoff(failures).min(PATIENCE)).await;
                failures += 1;
            }
        }
    }
}

async fn list(shared: &Shared, id: ResourceId, path: &str) -> Result<String, Error> {
    let (mut nodes, mut from) = (Vec::new(), String::new());
    loop {
        let page = shared.client.metadata_page(path, PAGE, &from).await?;
        nodes.extend(
            page.items
                .iter()
                .map(|meta| (Uid::from(meta.uid.as_str()), Node::new(id, meta)))
                .filter(|(_, node)| node.matters()),
        );
        if page.next.is_empty() {
            shared.graph().replace(id, nodes);
            return Ok(page.resource_version);
        }
        from = page.next;
    }
}

async fn watch(
    shared: &Shared,
    id: ResourceId,
    path: &str,
    revision: &mut Option<String>,
    defines: bool,
) -> Result<(), Error> {
    let at = revision.clone().unwrap_or_default();
    let mut events = shared.client.watch_metadata(path, &at).await?;
    let ended = |source| Error::Transport { method: "GET", path: path.to_owned(), source };
    while let Some(event) = events.next().await.map_err(ended)? {
        if event.kind == EventKind::Error {
            let status = Status::decode(&event.raw).unwrap_or_default();
            let code = u16::try_from(status.code).unwrap_or(500);
            return Err(Error::Api {
                method: "GET",
                path: path.to_owned(),
                code,
                reason: status.reason,
                message: status.message,
                retry_after_seconds: None,
            });
        }
        let unreadable = || Error::Decode { path: path.to_owned(), expected: "PartialObjectMetadata" };
        let meta = metadata_of(&event.raw).and_then(|raw| ObjectMeta::decode(&raw).ok()).ok_or_else(unreadable)?;
        *revision = Some(meta.resource_version.clone());
        match event.kind {
            EventKind::Deleted => shared.graph().remove(&meta.uid),
            EventKind::Added | EventKind::Modified => shared.graph().observe(&meta.uid, Node::new(id, &meta)),
            EventKind::Bookmark | EventKind::Error => continue,
        }
        shared.work.notify_one();
        if defines {
            shared.changed.notify_one();
        }
    }
    Ok(())
}

/// Looks at what the graph wants looked at, several objects at once, never one twice at once.
async fn work(shared: Arc<Shared>) {
    let patience = Instant::now() + PATIENCE;
    while shared.unlisted.load(Ordering::Relaxed) > 0 && Instant::now() < patience {
        tokio::select! {
            () = shared.work.notified() => {}
            () = tokio::time::sleep_until(patience) => {}
        }
    }
    let mut running: JoinSet<(Uid, Result<(), Error>)> = JoinSet::new();
    let mut busy: HashMap<Uid, bool> = HashMap::new();
    let mut failures: HashMap<Uid, u32> = HashMap::new();
    let mut later: std::collections::BTreeMap<(Instant, u64), Uid> = std::collections::BTreeMap::new();
    let mut ticket = 0;
    loop {
        while let Some(entry) = later.first_entry()
            && entry.key().0 <= Instant::now()
        {
            let uid = entry.remove();
            shared.graph().enqueue(&uid);
        }
        while running.len() < WORKERS {
            let Some(uid) = shared.graph().take() else { break };
            if let Some(again) = busy.get_mut(&uid) {
                *again = true;
                continue;
            }
            busy.insert(uid.clone(), false);
            let shared = shared.clone();
            running.spawn(async move {
                let outcome = look(&shared, &uid).await;
                (uid, outcome)
            });
        }
        let next = later.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            () = shared.work.notified() => {}
            () = async { match next { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            Some(Ok((uid, outcome))) = running.join_next() => {
                let again = busy.remove(&uid).unwrap_or(false);
                match outcome {
                    Ok(()) => { failures.remove(&uid); }
                    Err(error) => {
                        tracing::debug!(%uid, %error, "an object cannot be collected yet");
                        let count = failures.entry(uid.clone()).or_default();
                        ticket += 1;
                        later.insert((Instant::now() + super::backoff(*count), ticket), uid.clone());
                        *count += 1;
                    }
                }
                if again {
                    shared.graph().enqueue(&uid);
                }
                if shared.graph().get(&uid).is_none() {
                    failures.remove(&uid);
                }
            }
        }
    }
}

async fn look(shared: &Shared, uid: &Uid) -> Result<(), Error> {
    let Some(node) = shared.graph().get(uid).cloned() else { return Ok(()) };
    let Some(resource) = shared.table().resources.get(&node.resource).cloned() else { return Ok(()) };
    let path = resource.path(&node.namespace, Some(&node.name));
    if node.orphans() {
        return release_dependents(shared, uid, &path).await;
    }
    if node.deleting && !node.foreground {
        return Ok(());
    }
    let Some(live) = get(shared, path.clone(), uid).await? else {
        shared.graph().remove(uid);
        return Ok(());
    };
    if node.waits() {
        return finish_foreground(shared, uid, &path, &live).await;
    }
    let mut standings = Vec::new();
    for reference in &live.owner_references {
        let Some(standing) = standing(shared, reference, &live).await? else { return Ok(()) };
        standings.push((reference.uid.clone(), standing));
    }
    let dependents: Vec<bool> = shared.graph().dependents(uid).map(|(_, node)| node.waits()).collect();
    let delete = |propagation| DeleteOptions {
        propagation: Some(propagation),
        resource_version: Some(live.resource_version.clone()),
        ..DeleteOptions::default()
    };
    let outcome = match decide(&live, &standings, &dependents) {
        Verdict::Keep => Ok(()),
        Verdict::Release(owners) => release(shared, &path, &live, |owner| owners.contains(&owner.uid)).await,
        Verdict::DeleteForeground { unblock } => {
            let mut options = delete(Propagation::Foreground);
            if unblock {
                let unblocked = |owner: &OwnerReference| {
                    owner_json(&OwnerReference { block_owner_deletion: Some(false), ..owner.clone() })
                };
                let owners: Vec<Json> = live.owner_references.iter().map(unblocked).collect();
                let changes = patch(&live, json!({"ownerReferences": owners}));
                let patched = shared.client.merge_metadata(path.clone(), &changes).await?;
                options.resource_version = Some(patched.resource_version);
            }
            shared.client.delete_at(path, uid, &options).await
        }
        Verdict::DeleteOrphaning => shared.client.delete_at(path, uid, &delete(Propagation::Orphan)).await,
        Verdict::DeleteBackground => shared.client.delete_at(path, uid, &delete(Propagation::Background)).await,
    };
    match outcome {
        Err(error) if error.is_not_found() => {
            shared.graph().remove(uid);
            Ok(())
        }
        other => other,
    }
}

/// The object of this uid, if it is there.
async fn get(shared: &Shared, path: String, uid: &str) -> Result<Option<ObjectMeta>, Error> {
    match shared.client.metadata(path).await {
        Ok(meta) => Ok(Some(meta).filter(|meta| meta.uid == uid)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How an owner stands; `None` if the reference can never mean anything (a namespaced owner of a cluster's object).
async fn standing(shared: &Shared, reference: &OwnerReference, of: &ObjectMeta) -> Result<Option<Standing>, Error> {
    let (group, _) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
    let kind = (group.to_owned(), reference.kind.clone());
    let Some(resource) = shared.table().kinds.get(&kind).cloned() else {
        // It may be served soon; until then nothing is deleted for it.
        return Err(Error::Decode {
            path: format!("{} {}", reference.api_version, reference.kind),
            expected: "kind that is served",
        });
    };
    if resource.namespaced && of.namespace.is_empty() {
        tracing::debug!(name = of.name, owner = reference.name, "an object of the cluster names a namespaced owner");
        return Ok(None);
    }
    let live = get(shared, resource.path(&of.namespace, Some(&reference.name)), &reference.uid).await?;
    if live.is_some() {
        shared.graph().found(&reference.uid);
    }
    Ok(Some(Standing::of(reference, live.as_ref())))
}

/// An object that waits for its dependents goes when none of them blocks it; until then they are looked at.
async fn finish_foreground(shared: &Shared, uid: &Uid, path: &str, live: &ObjectMeta) -> Result<(), Error> {
    let blocking: Vec<(Uid, bool)> =
        shared.graph().blocking(uid).map(|(uid, node)| (uid.clone(), node.waits())).collect();
    if blocking.is_empty() {
        return remove_finalizer(shared, path, live, FOREGROUND).await;
    }
    let mut graph = shared.graph();
    blocking.iter().filter(|(_, waits)| !waits).for_each(|(uid, _)| graph.enqueue(uid));
    drop(graph);
    shared.work.notify_one();
    Ok(())
}

async fn release_dependents(shared: &Shared, uid: &Uid, path: &str) -> Result<(), Error> {
    let Some(live) = get(shared, path.to_owned(), uid).await? else {
        shared.graph().remove(uid);
        return Ok(());
    };
    let dependents: Vec<(Uid, Node)> =
        shared.graph().dependents(uid).map(|(uid, node)| (uid.clone(), node.clone())).collect();
    for (dependent, node) in dependents {
        let Some(resource) = shared.table().resources.get(&node.resource).cloned() else { continue };
        let path = resource.path(&node.namespace, Some(&node.name));
        if let Some(live) = get(shared, path.clone(), &dependent).await? {
            match release(shared, &path, &live, |owner| *owner.uid == **uid).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    remove_finalizer(shared, path, &live, ORPHAN).await
}

/// Takes some owners off an object.
async fn release(
    shared: &Shared,
    path: &str,
    live: &ObjectMeta,
    who: impl Fn(&OwnerReference) -> bool,
) -> Result<(), Error> {
    let kept: Vec<Json> = live.owner_references.iter().filter(|owner| !who(owner)).map(owner_json).collect();
    if kept.len() == live.owner_references.len() {
        return Ok(());
    }
    shared.client.merge_metadata(path.to_owned(), &patch(live, json!({"ownerReferences": kept}))).await.map(drop)
}

async fn remove_finalizer(shared: &Shared, path: &str, live: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
    let kept: Vec<&String> = live.finalizers.iter().filter(|name| *name != finalizer).collect();
    if kept.len() == live.finalizers.len() {
        return Ok(());
    }
    match shared.client.merge_metadata(path.to_owned(), &patch(live, json!({"finalizers": kept}))).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// A patch of this very state of an object.
fn patch(live: &ObjectMeta, mut metadata: Json) -> Json {
    metadata["uid"] = json!(live.uid);
    metadata["resourceVersion"] = json!(live.resource_version);
    json!({"metadata": metadata})
}
