//! `create` and `update`: decode → mutate → validate → commit → publish, and the retry around them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schema::validate::{ErrorKind, FieldError, NameRule, metadata, metadata_update};
use schema::{Value, apply, time};
use store::{Guard, Write};
use tokio::time::Instant;

use crate::admission::{AdmissionRequest, Operation, Turns, give_back};
use crate::behaviours::Cx;
use crate::cache::Entry;
use crate::call::{Call, match_name, match_namespace};
use crate::kind::Kind;
use crate::metrics::admission::Times;
use crate::options::WriteOptions;
use crate::read::store_error;
use crate::reply::{self, Reply, Warnings};
use crate::reserved::{Reserved, mark_stored};
use crate::status::{Result, field_error};
use crate::versions::Versions;
use crate::{Attributes, Server, Status, crd_objects, meta, negotiate};

/// Attempts at a free generated name.
const NAME_ATTEMPTS: usize = 8;
/// Attempts at an unconditional update that others keep overtaking.
const UPDATE_ATTEMPTS: usize = 100;

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// A subresource that takes the whole object and means a part of it: ephemeralcontainers, resize, approval, finalize.
    Other,
    /// What the server's own code changed: binding, scale, eviction.
    Given,
}

/// What an update makes of the stored object.
pub struct Produced {
    pub object: Value,
    /// managedFields are done already (apply), or are not to be touched.
    pub managed: bool,
}

impl Produced {
    pub fn new(object: Value) -> Self {
        Produced { object, managed: false }
    }
}

/// Makes the new object from the stored one (`None`: there is none); called again after a conflict.
pub type Produce<'a> = dyn Fn(Option<&Value>) -> Result<Option<Produced>> + Send + Sync + 'a;

/// One update.
pub struct Update<'a> {
    pub kind: Arc<Kind>,
    pub namespace: String,
    pub name: String,
    pub part: Part,
    pub subresource: &'a str,
    /// The object in hand names the one that it wants to replace; a patch only changes what it finds.
    pub replaces: bool,
    pub options: WriteOptions,
    /// Create what is not there, as apply does.
    pub may_create: bool,
    /// Off for the server's own bookkeeping.
    pub admission: bool,
    pub versions: Versions,
}

/// What a write has left.
pub struct Written {
    pub entry: Arc<Entry>,
    pub created: bool,
}

impl Server {
    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        let now = self.inner.config.clock.now();
        now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
    }

    /// What a request may take; a day stands for no limit.
    pub(crate) fn request_time(&self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Some(self.inner.config.request_timeout).filter(|most| !most.is_zero()).unwrap_or(DAY)
    }

    pub fn now_text(&self) -> String {
        time::format(self.now())
    }

    pub(crate) async fn mutate(&self, request: &mut AdmissionRequest) -> Result<()> {
        let mut times = Times::new(&self.inner.config.admission);
        let mut outcome = self.mutate_once(request, &mut times).await;
        if outcome.is_ok() && std::mem::take(&mut request.turns.again) {
            request.turns.is_second = true;
            outcome = self.mutate_once(request, &mut times).await;
        }
        if outcome.is_ok() {
            dedup_owners(&mut request.object, &request.warnings, " after mutating admission happens");
        }
        times.tell(self, request.operation, "admit", outcome.is_err());
        outcome
    }

    async fn mutate_once(&self, request: &mut AdmissionRequest, times: &mut Times) -> Result<()> {
        for plugin in &self.inner.config.admission {
            let outcome = plugin.mutate(self, request).await;
            times.add(plugin.name());
            outcome?;
        }
        Ok(())
    }

    pub(crate) async fn validate(&self, request: &mut AdmissionRequest) -> Result<()> {
        let mut times = Times::new(&self.inner.config.admission);
        let mut outcome = Ok(());
        for plugin in &self.inner.config.admission {
            outcome = plugin.validate(self, request).await;
            times.add(plugin.name());
            if outcome.is_err() {
                break;
            }
        }
        times.tell(self, request.operation, "validate", outcome.is_err());
        outcome
    }
}

impl Call {
    #[allow(clippy::too_many_arguments)] // one field of the request each
    pub fn admission(
        &self,
        kind: &Kind,
        operation: Operation,
        name: &str,
        namespace: &str,
        subresource: &str,
        options: Value,
        dry_run: bool,
    ) -> AdmissionRequest {
        let (api_version, object_kind) = kind.object_of(subresource);
        AdmissionRequest {
            user: self.user.clone(),
            operation,
            group: kind.resource.group.to_string(),
            version: kind.resource.version.to_string(),
            api_version: api_version.to_owned(),
            kind: object_kind.to_owned(),
            resource: kind.resource.plural.to_string(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            object: Value::Null,
            old: None,
            options,
            dry_run,
            warnings: self.warnings.clone(),
            deadline: self.deadline(),
            turns: Turns::default(),
        }
    }

    /// When the time that a request has from here on is over: upstream's `--request-timeout`, or what the client asks for.
    fn deadline(&self) -> Instant {
        let asked = self.query.get("timeout").and_then(time::parse_duration).and_then(|n| u64::try_from(n).ok());
        let most = self.server.request_time();
        Instant::now() + asked.filter(|n| *n > 0).map_or(most, |nanos| Duration::from_nanos(nanos).min(most))
    }

    fn cx<'a>(&'a self, kind: &'a Kind, subresource: &'a str, dry_run: bool) -> Cx<'a> {
        Cx { server: &self.server, user: &self.user, kind, subresource, dry_run }
    }

    /// Creates an object that is decoded and defaulted.
    pub async fn create(
        &mut self,
        kind: Arc<Kind>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written> {
        self.create_produced(kind, namespace, Produced::new(object), options).await
    }

    async fn create_produced(
        &mut self,
        kind: Arc<Kind>,
        namespace: &str,
        produced: Produced,
        options: &WriteOptions,
    ) -> Result<Written> {
        let Produced { mut object, managed } = produced;
        if kind.custom.as_ref().is_some_and(|custom| custom.is_terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::forbidden(&kind.group_resource(), object.str_at(&["metadata", "name"]), why));
        }
        if !options.dry_run && !object.str_at(&["metadata", "resourceVersion"]).is_empty() {
            return Err(Status::version_on_create());
        }
        meta::wipe_system_fields(&mut object);
        match_namespace(&mut object, &kind, namespace)?;
        dedup_owners(&mut object, &self.warnings, "");
        (kind.strategy.wipe_for_create)(&self.cx(&kind, "", options.dry_run), &mut object);
        if !managed {
            self.record_managers(&kind, None, &mut object, "", options, &Versions::default());
        }
        let name = object.str_at(&["metadata", "name"]).to_owned();
        let options_value = options.to_value("CreateOptions");
        let ns = if kind.resource.namespaced {
            namespace
        } else if &*kind.resource.plural == "namespaces" && kind.resource.group.is_empty() {
            &name
        } else {
            ""
        };
        let mut request = self.admission(&kind, Operation::Create, &name, ns, "", options_value, options.dry_run);
        request.object = object;
        self.server.mutate(&mut request).await?;
        let generate = request.object.str_at(&["metadata", "name"]).is_empty()
            && !request.object.str_at(&["metadata", "generateName"]).is_empty();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let object = request.object.clone();
            match self.create_once(&kind, namespace, object, &mut request, options).await {
                Err(status) if generate && status.is_already_exists() && attempt < NAME_ATTEMPTS => {}
                result => return result,
            }
        }
    }

    async fn create_once(
        &mut self,
        kind: &Arc<Kind>,
        namespace: &str,
        mut object: Value,
        request: &mut AdmissionRequest,
        options: &WriteOptions,
    ) -> Result<Written> {
        let random = &*self.server.inner.config.random;
        let generate = object.str_at(&["metadata", "generateName"]).to_owned();
        let generated = object.str_at(&["metadata", "name"]).is_empty() && !generate.is_empty();
        if generated {
            // An address cannot be completed.
            let is_fixed = kind.strategy.name_rule == NameRule::Ip;
            let name = if is_fixed { generate.clone() } else { meta::generated_name(&generate, random) };
            object.set(&["metadata", "name"], name);
        }
        object.set(&["metadata", "creationTimestamp"], self.server.now_text());
        object.set(&["metadata", "uid"], meta::uid(random));
        match_namespace(&mut object, kind, namespace)?;
        (kind.strategy.wipe_for_create)(&self.cx(kind, "", options.dry_run), &mut object);
        let prepared = (kind.strategy.prepare_create)(&self.cx(kind, "", options.dry_run), &mut object);
        let name = object.str_at(&["metadata", "name"]).to_owned();
        prepared?;
        let reserved = Reserved::of(self, kind, &object, None, options.dry_run);
        match self.commit_new(kind, &name, object, request, options, reserved).await {
            Err(status) if status.is_already_exists() && generated => {
                Err(Status::generate_name_conflict(&kind.group_resource(), &name))
            }
            result => result,
        }
    }

    /// From validation on.
    async fn commit_new(
        &mut self,
        kind: &Arc<Kind>,
        name: &str,
        object: Value,
        request: &mut AdmissionRequest,
        options: &WriteOptions,
        mut reserved: Option<Reserved>,
    ) -> Result<Written> {
        let object = normalize(kind, object)?;
        let errors = self.problems(kind, &object, None, "");
        if !errors.is_empty() {
            return Err(Status::invalid(told_group(kind), kind.kind(), name, errors));
        }
        self.warnings.extend((kind.strategy.warnings)(&object, None));
        let pending = std::mem::replace(&mut request.object, object);
        request.name = name.to_owned();
        let validated = self.server.validate(request).await;
        let object = std::mem::replace(&mut request.object, pending);
        validated?;
        match self.store_new(kind, name, &object, options.dry_run, &mut reserved).await {
            Ok(entry) => Ok(Written { entry, created: true }),
            Err(status) => {
                mark_stored(&mut reserved, false);
                if !options.dry_run {
                    self.unbook(kind, Arc::new(object));
                }
                Err(status)
            }
        }
    }

    async fn store_new(
        &self,
        kind: &Kind,
        name: &str,
        object: &Value,
        dry_run: bool,
        reserved: &mut Option<Reserved>,
    ) -> Result<Arc<Entry>> {
        let storage = kind.storage()?;
        let namespace = object.str_at(&["metadata", "namespace"]);
        let key: Arc<str> = storage.key(namespace, name).into();
        let exists = |deleting: bool| {
            let mut status = Status::already_exists(&kind.group_resource(), name);
            if deleting {
                status.message = format!("object is being deleted: {}", status.message);
            }
            status
        };
        let stored = self.server.to_stored(kind, object).await?;
        check_size(&stored)?;
        if let Some(entry) = storage.get(&key) {
            return Err(exists(is_deleting(&entry)));
        }
        if dry_run {
            let revision = object.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or_default();
            return Ok(Arc::new(Entry { key, revision, body: stored, labels: Box::default() }));
        }
        let guard = Guard { key: key.clone(), modified: 0 };
        mark_stored(reserved, true);
        match self.server.commit(vec![guard], vec![Write::Put { key: key.clone(), value: stored.clone() }]).await {
            Ok(revisions) => {
                let revision = revisions.first().copied().unwrap_or_default();
                Ok(Arc::new(Entry::new(key, revision, &stored)))
            }
            Err(store::Error::Conflict { found, .. }) => {
                let deleting = found.is_some_and(|kv| schema::stored::meta(&kv.value).is_ok_and(|m| m.deleting));
                Err(exists(deleting))
            }
            Err(error) => Err(store_error(error)),
        }
    }

    /// Records in managedFields who wrote what.
    pub fn record_managers(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        new: &mut Value,
        subresource: &str,
        options: &WriteOptions,
        versions: &Versions,
    ) {
        let now = self.server.now_text();
        let writer = apply::Writer {
            manager: options.manager(),
            api_version: &kind.api_version,
            subresource,
            now: &now,
            resets: kind.resets(subresource),
            others: Some(&|version, before, after| versions.compare(kind, version, before, after)),
        };
        apply::update(kind.table(), &kind.ty, old, new, writer);
    }

    /// Everything wrong with an object.
    fn problems(&self, kind: &Kind, new: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let rule = kind.strategy.name_rule;
        let mut errors = metadata(&new["metadata"], kind.resource.namespaced, rule, "metadata");
        let late = if rule == NameRule::Late { std::mem::take(&mut errors) } else { Vec::new() };
        if let Some(old) = old {
            let known = errors.clone();
            let more = metadata_update(&new["metadata"], &old["metadata"], "metadata");
            errors.extend(more.into_iter().filter(|error| !known.contains(error)).collect::<Vec<_>>());
        }
        // These groups check metadata by themselves, and take any name.
        let own = matches!(&*kind.resource.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
        if kind.custom.is_none() && !own {
            errors.extend(unqualified_finalizers(new));
        }
        errors.extend((kind.strategy.validate)(&self.cx(kind, subresource, false), new, old));
        match &kind.custom {
            // Each rule of a field tells its own.
            Some(custom) => {
                let (more, warnings) = crd_objects::problems(custom, new, old, subresource);
                errors.extend(more);
                self.warnings.extend(warnings);
                return errors;
            }
            None => {
                // A rule and a behaviour may see the same fault; what one of them says twice is two faults.
                let known = errors.clone();
                // That something may not change says nothing of what it is.
                let is_known = |e: &FieldError| {
                    known.iter().any(|k| k.field == e.field && k.kind == e.kind && k.detail != "field is immutable")
                };
                for error in crate::rules::check(kind, new, old).into_iter().filter(|e| !is_known(e)) {
                    // Of a missing value one word is enough.
                    let once = error.kind == ErrorKind::Required;
                    if !errors.iter().any(|e| *e == error || once && e.field == error.field && e.kind == error.kind) {
                        errors.push(error);
                    }
                }
            }
        }
        if errors.is_empty() { late } else { errors }
    }

    /// Updates an object, again and again if others are faster and the change does not name a resourceVersion.
    pub async fn update(&mut self, update: &Update<'_>, produce: &Produce<'_>) -> Result<Written> {
        let kind = update.kind.clone();
        let storage = kind.storage()?.clone();
        let key: Arc<str> = storage.key(&update.namespace, &update.name).into();
        let gr = kind.group_resource();
        for _ in 0..UPDATE_ATTEMPTS {
            let Some(entry) = storage.get(&key) else {
                let allowed = update.may_create || kind.strategy.create_on_update && update.subresource.is_empty();
                if !allowed {
                    return Err(Status::not_found(&gr, &update.name));
                }
                return self.create_by_update(update, produce).await;
            };
            let old = Arc::new(self.server.object_to_update(&kind, &entry).await?);
            let produced = produce(Some(&old));
            if update.versions.fetch(&self.server, &kind).await? {
                continue;
            }
            let produced = match produced? {
                Some(produced) => produced,
                None if self.is_stale(&key).await? => Produced { object: (*old).clone(), managed: true },
                None => return Ok(Written { entry, created: false }),
            };
            match self.update_once(update, &key, &entry, old, produced).await? {
                Some(written) => return Ok(written),
                // Somebody was faster: wait until the cache shows it.
                None => {
                    self.server.consistent().await?;
                }
            }
        }
        Err(Status::modified(&gr, &update.name))
    }

    async fn create_by_update(&mut self, update: &Update<'_>, produce: &Produce<'_>) -> Result<Written> {
        let Some(mut produced) = produce(None)? else {
            return Err(Status::not_found(&update.kind.group_resource(), &update.name));
        };
        let attributes = Attributes { verb: "create".into(), ..self.info.clone() };
        self.server.check(&self.user, &attributes).await?;
        let object = &mut produced.object;
        if !object.str_at(&["metadata", "uid"]).is_empty() {
            let uid = object.str_at(&["metadata", "uid"]);
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            return Err(Status::conflict(&update.kind.group_resource(), &update.name, &why));
        }
        if object.str_at(&["metadata", "resourceVersion"]) == "0" {
            object.remove(&["metadata", "resourceVersion"]);
        }
        if !object.str_at(&["metadata", "resourceVersion"]).is_empty() {
            return Err(Status::not_found(&update.kind.group_resource(), &update.name));
        }
        self.create_produced(update.kind.clone(), &update.namespace, produced, &update.options).await
    }

    async fn update_once(
        &mut self,
        update: &Update<'_>,
        key: &Arc<str>,
        entry: &Arc<Entry>,
        old: Arc<Value>,
        produced: Produced,
    ) -> Result<Option<Written>> {
        let kind = &*update.kind;
        let gr = kind.group_resource();
        let Produced { mut object, managed } = produced;
        match_namespace(&mut object, kind, &update.namespace)?;
        match_name(&object, &update.name)?;
        let old_uid = old.str_at(&["metadata", "uid"]);
        let uid = object.str_at(&["metadata", "uid"]);
        if update.replaces && !uid.is_empty() && uid != old_uid {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"
            );
            return Err(Status::conflict(&gr, &update.name, &why));
        }
        let version = object.str_at(&["metadata", "resourceVersion"]);
        if version.is_empty() || version == "0" {
            if !kind.strategy.unconditional_update {
                let detail = "must be specified for an update";
                let error = field_error(ErrorKind::Invalid, "metadata.resourceVersion", Value::Int(0), detail);
                return Err(Status::invalid(&gr.group, &gr.resource, &update.name, vec![error]));
            }
            object.set(&["metadata", "resourceVersion"], entry.revision.to_string());
        } else if version.parse() != Ok(entry.revision) {
            if version.parse::<u64>().is_err() {
                return Err(Status::plain_internal(format!("strconv.ParseUint: parsing {version:?}: invalid syntax")));
            }
            return Err(Status::modified(&gr, &update.name));
        }
        // A patch's are looked at when it is done.
        if update.replaces {
            dedup_owners(&mut object, &self.warnings, "");
        }
        // Of a part of the object all that was sent is the sender's.
        if !managed && update.part == Part::Other {
            self.record_managers(kind, Some(&old), &mut object, update.subresource, &update.options, &update.versions);
        }
        self.keep(update, &mut object, &old);
        if !managed && update.part != Part::Other {
            self.record_managers(kind, Some(&old), &mut object, update.subresource, &update.options, &update.versions);
        }
        if !managed && update.versions.fetch(&self.server, kind).await? {
            return Ok(None);
        }
        let options = update.options.to_value("UpdateOptions");
        let dry_run = update.options.dry_run;
        let mut request = self.admission(
            kind,
            Operation::Update,
            &update.name,
            &update.namespace,
            update.subresource,
            options,
            dry_run,
        );
        if request.is("", "namespaces") {
            request.namespace.clone_from(&update.name);
        }
        request.old = Some(old.clone());
        request.object = object;
        if update.admission {
            self.server.mutate(&mut request).await?;
        }
        let mut object = std::mem::take(&mut request.object);
        self.keep(update, &mut object, &old);
        let cx = self.cx(kind, update.subresource, dry_run);
        match update.part {
            Part::Main => (kind.strategy.prepare_update)(&cx, &mut object, &old)?,
            Part::Status => (kind.strategy.prepare_status)(&cx, &mut object, &old)?,
            Part::Other => (kind.strategy.prepare_other)(&cx, &mut object, &old)?,
            Part::Given => {
                meta::bump_given(kind.strategy.generation && update.subresource == "scale", &mut object, &old)
            }
        }
        let mut reserved = Reserved::of(self, &update.kind, &object, Some(&old), dry_run);
        let object = normalize(kind, object)?;
        let errors = self.problems(kind, &object, Some(&old), update.subresource);
        if !errors.is_empty() {
            return Err(Status::invalid(told_group(kind), kind.kind(), &update.name, errors));
        }
        if update.subresource.is_empty() {
            self.warnings.extend((kind.strategy.warnings)(&object, Some(&old)));
        }
        request.object = object;
        apply::settle(&old, &mut request.object);
        if update.admission {
            self.server.validate(&mut request).await?;
        }
        let object = request.object;
        if meta::is_deleting(&old)
            && !meta::has_finalizers(&object)
            && old.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
            && (kind.strategy.may_delete_on_update)(&object)
        {
            return self.delete_by_update(kind, key, entry, object, dry_run).await;
        }
        let stored = self.server.to_stored(kind, &object).await?;
        if entry.holds(&stored) && !self.is_stale(key).await? {
            return Ok(Some(Written { entry: entry.clone(), created: false }));
        }
        check_size(&stored)?;
        if dry_run {
            let entry = Entry::new(key.clone(), entry.revision, &stored);
            return Ok(Some(Written { entry: Arc::new(entry), created: false }));
        }
        let guard = Guard { key: key.clone(), modified: entry.revision };
        mark_stored(&mut reserved, true);
        let committed =
            self.server.commit(vec![guard], vec![Write::Put { key: key.clone(), value: stored.clone() }]).await;
        mark_stored(&mut reserved, committed.is_ok());
        match committed {
            Ok(revisions) => {
                let revision = revisions.first().copied().unwrap_or_default();
                (kind.strategy.updated)(&self.cx(kind, update.subresource, false), &object, &old);
                Ok(Some(Written { entry: Arc::new(Entry::new(key.clone(), revision, &stored)), created: false }))
            }
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_error(error)),
        }
    }

    async fn is_stale(&self, key: &str) -> Result<bool> {
        self.server.inner.config.store.is_stale(key).await.map_err(store_error)
    }

    /// What no update changes, and what this part of the object does not cover.
    fn keep(&self, update: &Update<'_>, object: &mut Value, old: &Value) {
        let keep = |object: &mut Value, path: &[&str]| match old.get(path) {
            Some(value) => object.set(path, value.clone()),
            None => {
                object.remove(path);
            }
        };
        keep(object, &["metadata", "generation"]);
        keep(object, &["metadata", "creationTimestamp"]);
        object.remove(&["metadata", "selfLink"]);
        if object.str_at(&["metadata", "uid"]).is_empty() {
            keep(object, &["metadata", "uid"]);
        }
        if meta::is_deleting(old) {
            keep(object, &["metadata", "deletionTimestamp"]);
            if object["metadata"]["deletionGracePeriodSeconds"].is_null() {
                keep(object, &["metadata", "deletionGracePeriodSeconds"]);
            }
        }
        match update.part {
            Part::Main => (update.kind.strategy.keep_for_update)(&update.kind, object, old),
            Part::Status => (update.kind.strategy.keep_for_status)(&update.kind, object, old),
            Part::Other => (update.kind.strategy.keep_for_other)(update.subresource, object, old),
            Part::Given => {}
        }
    }

    /// What follows when an object has left the store.
    pub(crate) fn left(&self, kind: &Kind, object: &Arc<Value>) {
        (kind.strategy.deleted)(&self.cx(kind, "", false), object);
        self.unbook(kind, object.clone());
    }

    /// Gives quotas back what was booked for an object that is not there.
    fn unbook(&self, kind: &Kind, object: Arc<Value>) {
        let meta = |field| object.str_at(&["metadata", field]);
        let (name, namespace) = (meta("name"), meta("namespace"));
        let mut request = self.admission(kind, Operation::Delete, name, namespace, "", Value::Null, false);
        request.old = Some(object);
        give_back(&self.server, request);
    }

    /// The last finalizer is gone from an object that waits for it.
    async fn delete_by_update(
        &mut self,
        kind: &Kind,
        key: &Arc<str>,
        entry: &Arc<Entry>,
        object: Value,
        dry_run: bool,
    ) -> Result<Option<Written>> {
        let stored = self.server.to_stored(kind, &object).await?;
        let last = Arc::new(Entry::new(key.clone(), entry.revision, &stored));
        if dry_run {
            return Ok(Some(Written { entry: last, created: false }));
        }
        let guard = Guard { key: key.clone(), modified: entry.revision };
        match self.server.commit(vec![guard], vec![Write::Delete { key: key.clone() }]).await {
            Ok(_) => {
                self.left(kind, &Arc::new(object));
                Ok(Some(Written { entry: last, created: false }))
            }
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_error(error)),
        }
    }
}

/// Events are told of as the kind that they are within upstream, whatever their group.
pub fn told_group(kind: &Kind) -> &str {
    if &*kind.resource.group == "events.k8s.io" { "" } else { &kind.resource.group }
}

/// Finalizers of built-in kinds are Kubernetes' own or name their owner's domain.
fn unqualified_finalizers(object: &Value) -> Vec<FieldError> {
    const STANDARD: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];
    let finalizers = object.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).enumerate();
    let wrong = finalizers.filter(|(_, name)| !name.contains('/') && !STANDARD.contains(name));
    let detail = "name is neither a standard finalizer name nor is it fully qualified";
    wrong.map(|(at, name)| FieldError::invalid(format!("metadata.finalizers[{at}]"), name, detail)).collect()
}

fn dedup_owners(object: &mut Value, warnings: &Warnings, when: &str) {
    let repeated = meta::dedup_owners(object);
    if !repeated.is_empty() {
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        ));
    }
}

/// What etcd takes at most, and so what clients expect to be refused.
const OBJECT_BYTES_MAX: usize = 1536 << 10;

fn check_size(stored: &Bytes) -> Result<()> {
    if stored.len() > OBJECT_BYTES_MAX {
        return Err(Status::too_large("limit is 1572864 bytes for a stored object"));
    }
    Ok(())
}

/// Behaviours and admission change values freely: back to the schema's normal form.
fn normalize(kind: &Kind, object: Value) -> Result<Value> {
    if kind.custom.is_some() {
        return Ok(object);
    }
    let (mut value, _) = crate::call::typed(kind, object).map_err(Status::internal)?;
    kind.stamp(&mut value);
    Ok(value)
}

fn is_deleting(entry: &Entry) -> bool {
    schema::stored::meta(&entry.body).is_ok_and(|m| m.deleting)
}

pub async fn create(mut call: Call, body: &[u8]) -> Result<Reply> {
    let kind = call.kind.clone();
    let options = WriteOptions::parse(&call.query, "CreateOptions", call.user_agent())?;
    let encoding = negotiate::content_type(&call.headers, kind.custom.is_none())?;
    let object = call.decode_object(body, encoding, options.field_validation)?;
    let namespace = call.info.namespace.clone();
    let written = call.create(kind, &namespace, object, &options).await?;
    call.written(&written).await
}

pub async fn update(mut call: Call, body: &[u8], part: Part) -> Result<Reply> {
    let kind = call.kind.clone();
    let options = WriteOptions::parse(&call.query, "UpdateOptions", call.user_agent())?;
    let encoding = negotiate::content_type(&call.headers, kind.custom.is_none())?;
    let mut object = call.decode_object(body, encoding, options.field_validation)?;
    match_namespace(&mut object, &kind, &call.info.namespace)?;
    match_name(&object, &call.info.name)?;
    let subresource = call.info.subresource.clone();
    let update = Update {
        kind,
        namespace: call.info.namespace.clone(),
        name: call.info.name.clone(),
        part,
        subresource: &subresource,
        replaces: true,
        options,
        may_create: false,
        admission: true,
        versions: Versions::default(),
    };
    let written = call.update(&update, &|_| Ok(Some(Produced::new(object.clone())))).await?;
    call.written(&written).await
}

impl Call {
    /// Answers with the object as it was written.
    pub async fn written(&mut self, written: &Written) -> Result<Reply> {
        let entry = self.server.one_in_version(&self.kind, &written.entry).await?;
        let body = self.view().object(&entry)?;
        let code = if written.created { 201 } else { 200 };
        Ok(reply::bytes(code, self.accepted.encoding.content_type(), body))
    }
}
