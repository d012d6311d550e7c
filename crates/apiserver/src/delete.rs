//! `delete` and `deletecollection`: grace, finalizers, propagation and preconditions.

use std::sync::Arc;

use schema::{Value, json, time, yaml};
use store::{Guard, Write};

use crate::admission::Operation;
use crate::behaviours::Dependents;
use crate::cache::Entry;
use crate::call::{Call, decode_other};
use crate::kind::{Kind, builtin};
use crate::meta::{self, FOREGROUND, ORPHAN};
use crate::negotiate::{self, Encoding};
use crate::options::{DeleteOptions, ListOptions, Propagation};
use crate::read::{select, store_error};
use crate::reply::{self, Reply};
use crate::request::GroupResource;
use crate::status::Result;
use crate::write::told_group;
use crate::{Status, encode};

/// What became of the object.
pub enum Deleted {
    /// Gone; its last state.
    Gone(Arc<Entry>, Arc<Value>),
    /// It waits for its finalizers or its grace period.
    Pending(Arc<Entry>),
}

/// What a deletion does next, decided from the stored object alone.
#[derive(Debug, PartialEq)]
enum Step {
    Remove,
    /// The grace period is over at once: gone, and shown as it ended.
    RemoveAs(Box<Value>),
    /// Nothing to do: it is being deleted already.
    Wait,
    Mark(Box<Value>),
}

/// `DeleteOptions` from the body if there is one, else from the query.
fn options(call: &Call, body: &[u8]) -> Result<DeleteOptions> {
    let options = read_options(call, body)?;
    if call.kind.kind() == "Job" && options.propagation.is_none() && options.orphan_dependents.is_none() {
        call.warnings.push(JOB_KEEPS_PODS);
    }
    Ok(options)
}

fn read_options(call: &Call, body: &[u8]) -> Result<DeleteOptions> {
    if body.is_empty() {
        return DeleteOptions::from_query(&call.query);
    }
    let encoding = negotiate::content_type(&call.headers, true)?;
    let value = match encoding {
        Encoding::Protobuf => decode_other(body, encoding, "meta.k8s.io/v1", "DeleteOptions")?,
        Encoding::Yaml => yaml::parse(body).map_err(|e| Status::bad_request(e.to_string()))?.value,
        _ => {
            let id = encode::message_of("meta.k8s.io/v1", "DeleteOptions")
                .ok_or_else(|| Status::internal("no type DeleteOptions"))?;
            json::decode(builtin(), id, body).map_err(|e| Status::bad_request(e.to_string()))?.value
        }
    };
    let kind = value.str_at(&["kind"]);
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    let options = DeleteOptions::from_value(&value)?;
    let mut told = options.to_value();
    // As upstream's events have it.
    told.set(&["apiVersion"], "meta.k8s.io/__internal");
    call.requested(&told);
    Ok(options)
}

const JOB_KEEPS_PODS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

pub async fn delete(mut call: Call, body: &[u8]) -> Result<Reply> {
    let kind = call.kind.clone();
    let options = options(&call, body)?;
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    let deleted = call.delete_object(&kind, &namespace, &name, options.clone(), Some(&name)).await?;
    let orphan_false = options.orphan_dependents == Some(false);
    Ok(match deleted {
        Deleted::Gone(entry, _) if kind.strategy.returns_deleted => {
            let body = call.view().object(&entry)?;
            reply::bytes(200, call.accepted.encoding.content_type(), body)
        }
        Deleted::Gone(_, old) => {
            let uid = old.str_at(&["metadata", "uid"]);
            reply::status(&Status::success(&kind.group_resource(), &name, uid), call.accepted.encoding)
        }
        Deleted::Pending(entry) => {
            let entry = call.server.one_in_version(&kind, &entry).await?;
            let body = call.view().object(&entry)?;
            reply::bytes(if orphan_false { 202 } else { 200 }, call.accepted.encoding.content_type(), body)
        }
    })
}

pub async fn delete_collection(mut call: Call, body: &[u8]) -> Result<Reply> {
    let kind = call.kind.clone();
    let storage = kind.storage()?.clone();
    let options = options(&call, body)?;
    let list = ListOptions::parse(&call.query, &kind, "", false)?;
    let selected = select(&call.server, &kind, &call.info.namespace, &list).await?;
    let mut left = Vec::with_capacity(selected.entries.len());
    for entry in &selected.entries {
        let namespace = storage.namespace_of(entry).to_owned();
        match call.delete_object(&kind, &namespace, entry.name(), options.clone(), Some("")).await {
            Ok(Deleted::Gone(entry, _) | Deleted::Pending(entry)) => left.push(entry),
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    let left = call.server.in_version(&kind, left).await?;
    let chunks = call.view().list(left, selected.meta);
    reply::chunks(call.accepted.encoding.content_type(), 0, false, chunks)
}

impl Call {
    /// Deletes one object, or begins to. Admission sees it by the name in the request; `None`: it was asked about
    /// something else, of which this follows.
    pub async fn delete_object(
        &mut self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        mut options: DeleteOptions,
        requested: Option<&str>,
    ) -> Result<Deleted> {
        let storage = kind.storage()?.clone();
        let key: Arc<str> = storage.key(namespace, name).into();
        let gr = kind.group_resource();
        let mut validated_at = None;
        loop {
            let entry = storage.get(&key).ok_or_else(|| Status::not_found(&gr, name))?;
            let old = Arc::new(self.server.object(kind, &entry).await?);
            check_preconditions(kind, &options, &old)?;
            if let Some(requested) = requested.filter(|_| validated_at != Some(entry.revision)) {
                let ns = if kind.resource.namespaced {
                    namespace
                } else if &*gr.resource == "namespaces" {
                    name
                } else {
                    ""
                };
                let mut request =
                    self.admission(kind, Operation::Delete, requested, ns, "", options.to_value(), options.dry_run);
                request.old = Some(old.clone());
                self.server.mutate(&mut request).await?;
                self.server.validate(&mut request).await?;
                validated_at = Some(entry.revision);
            }
            match decide(kind, &old, &mut options, self.server.now()) {
                Step::Wait => return Ok(Deleted::Pending(entry)),
                Step::Mark(object) => {
                    let stored = self.server.to_stored(kind, &object).await?;
                    if entry.holds(&stored) {
                        return Ok(Deleted::Pending(entry));
                    }
                    if options.dry_run {
                        return Ok(Deleted::Pending(Arc::new(Entry::new(key, entry.revision, &stored))));
                    }
                    let guard = Guard { key: key.clone(), modified: entry.revision };
                    let put = Write::Put { key: key.clone(), value: stored.clone() };
                    match self.server.commit(vec![guard], vec![put]).await {
                        Ok(revisions) => {
                            let revision = revisions.first().copied().unwrap_or_default();
                            return Ok(Deleted::Pending(Arc::new(Entry::new(key, revision, &stored))));
                        }
                        Err(store::Error::Conflict { .. }) => {
                            self.server.consistent().await?;
                        }
                        Err(error) => return Err(store_error(error)),
                    }
                }
                step @ (Step::Remove | Step::RemoveAs(_)) => {
                    // Who watches sees it marked before it is gone.
                    let marked = match step {
                        Step::RemoveAs(last) => Some(self.server.to_stored(kind, &last).await?),
                        _ => None,
                    };
                    if options.dry_run {
                        let last = marked.map(|stored| Arc::new(Entry::new(key, entry.revision, &stored)));
                        return Ok(Deleted::Gone(last.unwrap_or(entry), old));
                    }
                    let guard = Guard { key: key.clone(), modified: entry.revision };
                    let put = marked.clone().map(|value| Write::Put { key: key.clone(), value });
                    let writes = put.into_iter().chain([Write::Delete { key: key.clone() }]).collect();
                    match self.server.commit(vec![guard], writes).await {
                        Ok(revisions) => {
                            self.left(kind, &old);
                            let revision = revisions.last().copied().filter(|&r| r > 0).unwrap_or(entry.revision);
                            let last = match marked {
                                Some(stored) => Entry::new(key, revision, &stored),
                                None => entry.at(revision),
                            };
                            return Ok(Deleted::Gone(Arc::new(last), old));
                        }
                        Err(store::Error::Conflict { .. }) => {
                            self.server.consistent().await?;
                        }
                        Err(error) => return Err(store_error(error)),
                    }
                }
            }
        }
    }
}

/// Namespaces and definitions look by themselves, and say it as the store does.
pub fn check_preconditions(kind: &Kind, options: &DeleteOptions, old: &Value) -> Result<()> {
    let name = old.str_at(&["metadata", "name"]);
    let told = [("uid", "UID", &options.uid), ("resourceVersion", "ResourceVersion", &options.resource_version)];
    for (field, label, wanted) in told {
        let found = old.str_at(&["metadata", field]);
        let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) else { continue };
        let stored = format!("recondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}");
        return Err(match kind.kind() {
            "Namespace" => Status::conflict(&kind.group_resource(), name, &format!("P{stored}")),
            "CustomResourceDefinition" => Status::conflict(&kind.group_resource(), name, &format!("p{stored}")),
            _ => {
                let gr = GroupResource::new(told_group(kind), kind.kind());
                let then = if field == "uid" { "deleted and then recreated" } else { "modified" };
                let why = format!(
                    "the {label} in the precondition ({wanted}) does not match the {label} in record ({found}). The object might have been {then}"
                );
                Status::conflict(&gr, name, &why)
            }
        });
    }
    Ok(())
}

/// The finalizers after this deletion's propagation policy.
fn finalizers(kind: &Kind, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let before: Vec<&str> = old.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect();
    let has = |name: &str| before.contains(&name);
    let (mut orphan, mut foreground) = (false, false);
    if kind.strategy.dependents != Dependents::Unsupported {
        match (options.orphan_dependents, options.propagation) {
            (Some(o), _) => orphan = o,
            (None, Some(policy)) => {
                orphan = policy == Propagation::Orphan;
                foreground = policy == Propagation::Foreground;
            }
            (None, None) => {
                orphan = has(ORPHAN) || !has(FOREGROUND) && kind.strategy.dependents == Dependents::Orphan;
                foreground = !has(ORPHAN) && has(FOREGROUND);
            }
        }
    }
    let mut after: Vec<String> =
        before.iter().filter(|f| **f != ORPHAN && **f != FOREGROUND).map(|f| (*f).to_owned()).collect();
    if orphan {
        after.push(ORPHAN.into());
    }
    if foreground {
        after.push(FOREGROUND.into());
    }
    let same = after.len() == before.len() && after.iter().all(|f| has(f));
    if same { before.into_iter().map(str::to_owned).collect() } else { after }
}

fn decide(kind: &Kind, old: &Value, options: &mut DeleteOptions, now: i64) -> Step {
    let mut object = old.clone();
    let mut graceful = false;
    let old_grace = old.i64_at(&["metadata", "deletionGracePeriodSeconds"]).map(|s| if s < 0 { 1 } else { s });
    if meta::is_deleting(old) && (kind.strategy.grace)(old, options.grace_period_seconds).is_some() {
        if old_grace == Some(0) && meta::has_finalizers(old) {
            return Step::Wait;
        }
        // Being deleted already: the grace period can only become shorter.
        if let Some(before) = old_grace.filter(|&s| s != 0) {
            let Some(wanted) = options.grace_period_seconds.filter(|&w| w < before) else { return Step::Wait };
            let at = meta::seconds_at(old, &["metadata", "deletionTimestamp"]).unwrap_or(now) - before + wanted;
            let (at, wanted) = if at < now { (now, wanted.min(1)) } else { (at, wanted) };
            object.set(&["metadata", "deletionTimestamp"], time::format(at));
            object.set(&["metadata", "deletionGracePeriodSeconds"], wanted);
            options.grace_period_seconds = Some(wanted);
            graceful = true;
        }
    } else if !meta::is_deleting(old)
        && let Some(grace) = (kind.strategy.grace)(old, options.grace_period_seconds)
    {
        options.grace_period_seconds = Some(grace);
        object.set(&["metadata", "deletionTimestamp"], time::format(now + grace));
        object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        if meta::generation(old) > 0 {
            meta::set_generation(&mut object, meta::generation(old) + 1);
        }
        graceful = true;
    }
    let finalizers = finalizers(kind, old, options);
    let pending = !finalizers.is_empty();
    object.set(&["metadata", "finalizers"], finalizers);
    if !pending {
        object.remove(&["metadata", "finalizers"]);
    }
    if graceful {
        let immediate = !pending && options.grace_period_seconds == Some(0);
        return if immediate { Step::RemoveAs(object.into()) } else { Step::Mark(object.into()) };
    }
    if !pending && (kind.strategy.may_remove)(old) {
        return Step::Remove;
    }
    if !meta::is_deleting(old) && meta::generation(old) > 0 {
        meta::set_generation(&mut object, meta::generation(old) + 1);
    }
    let at = meta::seconds_at(old, &["metadata", "deletionTimestamp"]);
    if at.is_none_or(|at| at > now) {
        object.set(&["metadata", "deletionTimestamp"], time::format(now));
    }
    object.set(&["metadata", "deletionGracePeriodSeconds"], 0i64);
    (kind.strategy.marked)(&mut object);
    Step::Mark(object.into())
}
