//! Empties namespaces that are being deleted, then lets them go (upstream's namespace controller).
//!
//! Pods go first; whatever else is namespaced follows once they are gone. What keeps it from being empty stands in the
//! namespace's conditions. Nothing runs while no namespace is terminating; while one waits, it is the first deletion
//! among what is left that wakes it, or the end of the grace period.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use reconcile::io::reflector::{self, Scope, Sink};
use reconcile::io::{Client, Error, EventKind, Identity};
use reconcile::{DeleteOptions, Key, Propagation};
use schema::api::core::v1::{Namespace, NamespaceCondition, Pod};
use schema::api::{Object, Time};
use tokio::{sync::mpsc, task::JoinSet};

use super::discovery::{Resource, discover};

const USER: &str = "system:serviceaccount:kube-system:namespace-controller";
const FINALIZER: &str = "kubernetes";
const PAGE: usize = 500;
/// How long to wait for somebody else's finalizers before looking again.
const FINALIZER_WAIT: Duration = Duration::from_secs(15);

/// The conditions in their order: type, reason and message when all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// Names of namespaces that are being deleted.
struct Terminating(mpsc::UnboundedSender<String>);

impl Sink<Namespace> for Terminating {
    fn replace(&mut self, items: Vec<Namespace>, _: u64) {
        items.into_iter().for_each(|namespace| self.put(namespace));
    }

    fn put(&mut self, object: Namespace) {
        if object.metadata.deletion_timestamp.is_some() && object.spec.finalizers.iter().any(|name| name == FINALIZER) {
            // The receiver is gone only when the task is.
            let _ = self.0.send(object.metadata.name);
        }
    }

    fn remove(&mut self, _: Namespace) {}
}

/// Runs until dropped.
pub async fn run(client: Client) {
    let client = client.with_identity(Identity(USER.into()));
    let (sender, mut names) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut working: HashMap<String, tokio::task::Id> = HashMap::new();
    let follow = reflector::run::<Namespace>(client.clone(), Scope::default(), Terminating(sender));
    tokio::pin!(follow);
    loop {
        tokio::select! {
            () = &mut follow => return,
            Some(name) = names.recv() => {
                // A namespace of this name that is on its way is looked at again by its own task.
                working.entry(name).or_insert_with_key(|name| tasks.spawn(empty(client.clone(), name.clone())).id());
            }
            Some(ended) = tasks.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                working.retain(|_, task| *task != id);
            }
        }
    }
}

/// Ends when the namespace is finalized or gone.
async fn empty(client: Client, name: String) {
    let mut failures = 0;
    loop {
        match step(&client, &name).await {
            Ok(Step::Done) => return,
            Ok(Step::Wait(remaining, longest)) => {
                failures = 0;
                tokio::select! {
                    () = first_deletion(&client, remaining) => {}
                    () = tokio::time::sleep(longest) => {}
                }
            }
            Err(error) => {
                tracing::debug!(namespace = name, %error, "a namespace cannot be emptied yet");
                tokio::time::sleep(super::backoff(failures).min(Duration::from_secs(60))).await;
                failures += 1;
            }
        }
    }
}

enum Step {
    Done,
    /// Collections that are not empty, each with the revision at which that was seen.
    Wait(Vec<(String, String)>, Duration),
}

async fn step(client: &Client, name: &str) -> Result<Step, Error> {
    let namespace = match client.get::<Namespace>("", name).await {
        Ok(namespace) => namespace,
        Err(error) if error.is_not_found() => return Ok(Step::Done),
        Err(error) => return Err(error),
    };
    let finalized = !namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    let Some(deleted_at) = namespace.metadata.deletion_timestamp.filter(|_| !finalized) else { return Ok(Step::Done) };
    let namespace = if namespace.status.phase == "Terminating" {
        namespace
    } else {
        let mut terminating = namespace;
        terminating.status.phase = "Terminating".to_owned();
        client.update_status(&terminating).await?
    };

    let mut report = Report::default();
    delete_all(client, name, deleted_at, &mut report).await;
    let namespace = tell(client, namespace, &report).await?;
    if !report.remaining.is_empty() {
        let longest = if report.grace.is_zero() { FINALIZER_WAIT } else { report.grace / 2 + Duration::from_secs(1) };
        return Ok(Step::Wait(report.remaining.into_iter().map(|left| (left.path, left.revision)).collect(), longest));
    }
    if let Some(error) = report.failure {
        return Err(error);
    }
    finalize(client, namespace)
        .await
        .map(|()| Step::Done)
        .or_else(|error| if error.is_not_found() { Ok(Step::Done) } else { Err(error) })
}

/// What one pass found.
#[derive(Default)]
struct Report {
    undiscovered: Option<String>,
    errors: Vec<String>,
    failure: Option<Error>,
    remaining: Vec<Remaining>,
    grace: Duration,
}

struct Remaining {
    what: String,
    count: u64,
    finalizers: BTreeMap<String, u64>,
    path: String,
    revision: String,
}

impl Report {
    fn fail(&mut self, error: Error) {
        self.errors.push(error.to_string());
        self.failure = Some(error);
    }
}

async fn delete_all(client: &Client, namespace: &str, deleted_at: Time, report: &mut Report) {
    let found = match discover(client).await {
        Ok(found) => found,
        Err(error) => {
            report.undiscovered = Some(error.to_string());
            report.failure = Some(error);
            return;
        }
    };
    if !found.failed.is_empty() {
        let failed = found.failed.iter().map(|group| format!("{group}: stale GroupVersion discovery: {group}"));
        let groups = failed.collect::<Vec<_>>().join(", ");
        let message = format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {groups}",
            found.failed.len()
        );
        report.failure = Some(Error::Decode { path: "/apis".to_owned(), expected: "complete list of resources" });
        report.undiscovered = Some(message);
    }
    let deletable = found.resources.iter().filter(|resource| resource.namespaced && resource.can("delete"));
    let (pods, others): (Vec<_>, Vec<_>) =
        deletable.partition(|resource| resource.group.is_empty() && resource.plural == "pods");
    for resource in pods {
        match longest_grace(client, namespace).await {
            // Once this much time has passed since the namespace was deleted, nothing is waited for as a rule.
            Ok(grace) if super::now().seconds - deleted_at.seconds < grace.cast_signed() => {
                report.grace = Duration::from_secs(grace)
            }
            Ok(_) => {}
            Err(error) => report.fail(error),
        }
        delete_one_kind(client, namespace, resource, report).await;
    }
    // Other things may be what pods need to end well.
    if report.remaining.is_empty() {
        for resource in others {
            delete_one_kind(client, namespace, resource, report).await;
        }
    }
}

/// The longest terminationGracePeriodSeconds of pods that still run.
async fn longest_grace(client: &Client, namespace: &str) -> Result<u64, Error> {
    let pods = client.list::<Pod>(namespace, "").await?.items;
    let running = pods.iter().filter(|pod| !crate::support::is_terminal(pod));
    Ok(running.filter_map(|pod| u64::try_from(pod.spec.termination_grace_period_seconds?).ok()).max().unwrap_or(0))
}

async fn delete_one_kind(client: &Client, namespace: &str, resource: &Resource, report: &mut Report) {
    match empty_collection(client, namespace, resource).await {
        Ok(Some(left)) => {
            if left.finalizers.is_empty() && report.grace.is_zero() {
                let group = &resource.group;
                report.errors.push(format!(
                    "unexpected items still remain in namespace: {namespace} for gvr: {group}/{}, Resource={}",
                    resource.version, resource.plural
                ));
            }
            report.remaining.push(left);
        }
        Ok(None) => {}
        // It is no longer served, or was never meant to be.
        Err(error) if matches!(error.code(), 404 | 405) => {}
        Err(error) => report.fail(error),
    }
}

async fn empty_collection(client: &Client, namespace: &str, resource: &Resource) -> Result<Option<Remaining>, Error> {
    let path = resource.path(namespace, None);
    let listable = resource.can("list");
    if listable && client.metadata_page(&path, 1, "").await?.items.is_empty() {
        return Ok(None);
    }
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    if resource.can("deletecollection") {
        client.delete_at(path.clone(), "", &options).await?;
    } else if listable {
        let mut from = String::new();
        loop {
            let page = client.metadata_page(&path, PAGE, &from).await?;
            for object in &page.items {
                match client.delete_at(resource.path(namespace, Some(&object.name)), &object.uid, &options).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            if page.next.is_empty() {
                break;
            }
            from = page.next;
        }
    }
    if !listable {
        return Ok(None);
    }
    let mut left = Remaining {
        what: format!("{}.{}", resource.plural, resource.group),
        count: 0,
        finalizers: BTreeMap::new(),
        path,
        revision: String::new(),
    };
    let mut from = String::new();
    loop {
        let page = client.metadata_page(&left.path, PAGE, &from).await?;
        left.count += page.items.len() as u64;
        for finalizer in page.items.iter().flat_map(|object| &object.finalizers) {
            *left.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        left.revision = page.resource_version;
        if page.next.is_empty() {
            return Ok((left.count > 0).then_some(left));
        }
        from = page.next;
    }
}

/// Writes the conditions if they changed.
async fn tell(client: &Client, namespace: Namespace, report: &Report) -> Result<Namespace, Error> {
    let mut told = namespace.clone();
    update_conditions(&mut told.status.conditions, &bad_conditions(report), super::now());
    if told.status.conditions == namespace.status.conditions {
        return Ok(namespace);
    }
    client.update_status(&told).await
}

/// (type, reason, message) of what is not well.
fn bad_conditions(report: &Report) -> Vec<(&'static str, &'static str, String)> {
    let [discovery, _, failure, content, finalizers] = CONDITIONS.map(|(name, _, _)| name);
    let mut bad = Vec::new();
    if let Some(message) = &report.undiscovered {
        bad.push((discovery, "DiscoveryFailed", message.clone()));
    }
    if !report.errors.is_empty() {
        let mut errors = report.errors.clone();
        errors.sort();
        let (count, errors) = (errors.len(), errors.join(", "));
        let message = format!("Failed to delete all resource types, {count} remaining: {errors}");
        bad.push((failure, "ContentDeletionFailed", message));
    }
    if !report.remaining.is_empty() {
        let told = |left: &Remaining| format!("{} has {} resource instances", left.what, left.count);
        let mut left: Vec<_> = report.remaining.iter().map(told).collect();
        left.sort();
        bad.push((content, "SomeResourcesRemain", format!("Some resources are remaining: {}", left.join(", "))));
        let mut by_finalizer: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, count) in report.remaining.iter().flat_map(|left| &left.finalizers) {
            *by_finalizer.entry(name).or_default() += count;
        }
        if !by_finalizer.is_empty() {
            let left: Vec<_> =
                by_finalizer.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
            let message = format!("Some content in the namespace has finalizers remaining: {}", left.join(", "));
            bad.push((finalizers, "SomeFinalizersRemain", message));
        }
    }
    bad
}

fn update_conditions(conditions: &mut Vec<NamespaceCondition>, bad: &[(&str, &str, String)], now: Time) {
    for (name, well, good) in CONDITIONS {
        let (status, reason, message) = match bad.iter().find(|(other, _, _)| *other == name) {
            Some((_, reason, message)) => ("True", *reason, message.as_str()),
            None => ("False", well, good),
        };
        let since = match conditions.iter().find(|known| known.r#type == name) {
            Some(known) if known.status == status => known.last_transition_time,
            _ => now,
        };
        let condition = NamespaceCondition {
            r#type: name.to_owned(),
            status: status.to_owned(),
            last_transition_time: since,
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..NamespaceCondition::default()
        };
        match conditions.iter_mut().find(|known| known.r#type == name) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
}

async fn finalize(client: &Client, mut namespace: Namespace) -> Result<(), Error> {
    namespace.spec.finalizers.retain(|finalizer| finalizer != FINALIZER);
    client.put::<Namespace>(&Key::new("", namespace.name()), "finalize", &namespace).await.map(drop)
}

/// Returns at the first deletion in any of the collections.
async fn first_deletion(client: &Client, remaining: Vec<(String, String)>) {
    let mut watches: FuturesUnordered<_> =
        remaining.iter().map(|(path, revision)| deletion(client, path, revision).boxed()).collect();
    // A watch that cannot be had is none: the longest wait remains.
    while let Some(outcome) = watches.next().await {
        if outcome.is_some() {
            return;
        }
    }
    std::future::pending().await
}

async fn deletion(client: &Client, path: &str, revision: &str) -> Option<()> {
    let mut events = client.watch_metadata(path, revision).await.ok()?;
    while let Some(event) = events.next().await.ok()? {
        match event.kind {
            EventKind::Deleted => return Some(()),
            EventKind::Error => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
