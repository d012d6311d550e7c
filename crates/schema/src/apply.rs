//! Server-side apply and managed fields, after sigs.k8s.io/structured-merge-diff and apimachinery's managedfields.
//!
//! [`update`] records who set what in a create, update or patch; [`apply`] does server-side apply; [`settle`]
//! undoes a change of nothing but managedFields' times. Values are of the version in hand; what a change did to a
//! manager's fields in another version is asked of the caller ([`Others`]).

mod set;
#[cfg(test)]
mod tests;
mod typed;

pub use set::Set;
pub use typed::Comparison;
use typed::{Typed, equal};

use crate::{Object, Table, Type, Value, json};

/// What a change did, by another version and the objects before and after in the version in hand; `None`: the same as
/// in that.
pub type Others<'a> = dyn Fn(&str, &Value, &Value) -> Option<Comparison> + 'a;

/// Two objects in the version of a table.
pub fn compare(table: &Table, ty: &Type, before: &Value, after: &Value) -> Comparison {
    Typed::new(table, ty).compare(before, after)
}

/// Who writes, as what, and when (RFC 3339 seconds): nothing here reads a clock.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// The version of the object in hand: `apps/v1`.
    pub api_version: &'a str,
    /// Empty for the main resource, else `status`, `scale`, …
    pub subresource: &'a str,
    pub now: &'a str,
    /// The fields (`status`, `metadata.labels`) which the request cannot set, and so cannot own.
    pub resets: &'a [&'a str],
    /// `None`: all versions have the same fields.
    pub others: Option<&'a Others<'a>>,
}

/// What a change did, in the versions of all who own fields.
struct Changes<'a> {
    own: Comparison,
    before: &'a Value,
    after: &'a Value,
    ignored: Set,
    writer: Writer<'a>,
    known: Vec<(String, Comparison)>,
}

impl<'a> Changes<'a> {
    fn new(typed: Typed<'_>, before: &'a Value, after: &'a Value, writer: Writer<'a>) -> Changes<'a> {
        let ignored = Set::of_fields(writer.resets);
        let own = typed.compare(before, after).without(&ignored);
        Changes { own, before, after, ignored, writer, known: Vec::new() }
    }

    /// As a manager sees it; nothing has changed there if nothing has here.
    fn of(&mut self, api_version: &str) -> &Comparison {
        let Some(others) = self.writer.others.filter(|_| api_version != self.writer.api_version) else {
            return &self.own;
        };
        if !self.known.iter().any(|(version, _)| version == api_version) {
            let seen = others(api_version, self.before, self.after).map(|seen| seen.without(&self.ignored));
            self.known.push((api_version.to_owned(), seen.unwrap_or_else(|| self.own.clone())));
        }
        self.known.iter().find(|(version, _)| version == api_version).map_or(&self.own, |(_, seen)| seen)
    }
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// `conflict with "kubectl" using apps/v1`: the cause's message.
    pub message: String,
    /// `.spec.replicas`: the cause's field.
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409, reason Conflict, one cause each; the message is upstream's.
    #[error("{}", conflicts_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: managedFields in the applied object.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsSet,
    /// 500 upstream: the object does not fit its schema, or its keys are duplicate.
    #[error("{0}")]
    Invalid(String),
}

fn conflicts_message(conflicts: &[Conflict]) -> String {
    if let [Conflict { message, field }] = conflicts {
        return format!("Apply failed with 1 conflict: {message}: {field}");
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.message.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts{}:", manager.strip_prefix("conflict").unwrap_or(manager)));
        lines.extend(conflicts.iter().filter(|c| c.message == manager).map(|c| format!("- {}", c.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

const MAX_UPDATE_MANAGERS: usize = 10;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Metadata that nobody owns.
const STRIPPED: [&str; 12] = [
    "apiVersion", "kind", "metadata", "metadata.name", "metadata.namespace", "metadata.creationTimestamp",
    "metadata.selfLink", "metadata.uid", "metadata.clusterName", "metadata.generation", "metadata.managedFields",
    "metadata.resourceVersion",
];

/// What a manager owns, as `FieldsV1` in its one spelling: most changes touch few managers, the others' stay unread.
#[derive(Clone, Debug, PartialEq)]
struct Fields(Value);

impl Fields {
    fn read(fields: &Value) -> Fields {
        fn spaced(fields: &Value) -> bool {
            fields.as_object().is_some_and(|o| o.iter().any(|(k, v)| k.contains([' ', '\n', '\t']) || spaced(v)))
        }
        if spaced(fields) { Fields::of(&Set::from_fields_v1(fields)) } else { Fields(fields.clone()) }
    }

    fn of(set: &Set) -> Fields {
        Fields(set.to_fields_v1())
    }

    fn set(&self) -> Set {
        Set::from_fields_v1(&self.0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_touched_by(&self, changes: &Set) -> bool {
        changes.touches(&self.0)
    }
}

/// One row of managedFields.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Fields,
}

impl Entry {
    fn new(writer: Writer<'_>, manager: &str, applied: bool, set: &Set) -> Entry {
        Entry {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            applied,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            fields: Fields::of(set),
        }
    }

    /// Whether two rows are of the same manager; an applier is one in whatever version it applies.
    fn same(&self, other: &Entry) -> bool {
        (&self.manager, self.applied, &self.subresource) == (&other.manager, other.applied, &other.subresource)
            && (self.applied || self.api_version == other.api_version)
    }

    fn conflict(&self) -> String {
        let mut text = format!("conflict with {:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Whether managedFields can be read.
///
/// # Errors
/// What is wrong with the first row that cannot.
pub fn check_rows(object: &Value) -> Result<(), String> {
    let mut rows = object.list_at(&["metadata", "managedFields"]).iter().enumerate();
    rows.try_for_each(|(at, row)| check_row(at, row))
}

fn check_row(at: usize, row: &Value) -> Result<(), String> {
    let text = |field: &str| row.str_at(&[field]);
    if !matches!(text("operation"), "Apply" | "Update") {
        return Err("operation must be `Apply` or `Update`".to_owned());
    }
    if text("apiVersion").is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType") {
        "FieldsV1" => Ok(()),
        "" => Err(format!("missing fieldsType in managed fields entry {at}")),
        other => Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
    }
}

/// Reads managedFields; `None` if a row is malformed. Of two rows of one manager the last one counts.
fn entries(object: Option<&Value>) -> Option<Vec<Entry>> {
    let rows = object.map_or(&[][..], |o| o.list_at(&["metadata", "managedFields"]));
    let mut out: Vec<Entry> = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        check_row(at, row).ok()?;
        let entry = Entry {
            manager: row.str_at(&["manager"]).to_owned(),
            applied: row.str_at(&["operation"]) == "Apply",
            api_version: row.str_at(&["apiVersion"]).to_owned(),
            subresource: row.str_at(&["subresource"]).to_owned(),
            time: row.get(&["time"]).and_then(Value::as_str).map(str::to_owned),
            fields: row.member("fieldsV1").map_or_else(|| Fields::of(&Set::default()), Fields::read),
        };
        match out.iter_mut().find(|e| e.same(&entry)) {
            Some(known) => *known = entry,
            None => out.push(entry),
        }
    }
    Some(out)
}

fn rows(mut entries: Vec<Entry>) -> Vec<Value> {
    // RFC 3339 in UTC sorts as text.
    entries.sort_by(|a, b| {
        let key = |e: &Entry| (!e.applied, e.time.clone().unwrap_or_default());
        let rest = |e: &Entry| (e.manager.clone(), e.api_version.clone(), e.subresource.clone());
        key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
    });
    entries.into_iter().map(row).collect()
}

fn row(entry: Entry) -> Value {
    let mut row = Object::new();
    let mut put = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    put("manager", entry.manager.into());
    put("operation", if entry.applied { "Apply" } else { "Update" }.into());
    put("apiVersion", entry.api_version.into());
    if let Some(time) = entry.time {
        put("time", time.into());
    }
    put("fieldsType", "FieldsV1".into());
    put("fieldsV1", entry.fields.0);
    if !entry.subresource.is_empty() {
        put("subresource", entry.subresource.into());
    }
    Value::Object(row)
}

fn set_entries(object: &mut Value, entries: Vec<Entry>) {
    if entries.is_empty() {
        object.remove(&["metadata", "managedFields"]);
    } else {
        object.set(&["metadata", "managedFields"], Value::List(rows(entries)));
    }
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    object.remove(&["metadata", "managedFields"]);
    object
}

/// `[]` and `[{}]`: forget all that is known.
fn is_reset(object: &Value) -> bool {
    match object.get(&["metadata", "managedFields"]) {
        Some(Value::List(list)) => match list.as_slice() {
            [] => true,
            [Value::Object(only)] => only.values().all(Value::is_empty),
            _ => false,
        },
        _ => false,
    }
}

/// Records the ownership of a create (`old`: none), update or patch in `new.metadata.managedFields`.
pub fn update(table: &Table, ty: &Type, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let live = || entries(old).unwrap_or_default();
    let known = if !writer.subresource.is_empty() {
        live()
    } else if is_reset(new) {
        Vec::new()
    } else {
        entries(Some(new)).filter(|e| !e.is_empty()).unwrap_or_else(live)
    };
    new.remove(&["metadata", "managedFields"]);
    // An object that nobody tracked is not tracked until its first apply.
    if known.is_empty() && old.is_some_and(|o| !o.str_at(&["metadata", "uid"]).is_empty()) {
        return;
    }
    let typed = Typed::new(table, ty);
    // The old managedFields count as removed, from whoever owned them: nobody.
    let empty;
    let before = match old {
        Some(old) => old,
        None => {
            empty = typed.empty();
            &empty
        }
    };
    let mut entries = record(typed, before, new, known, writer, writer.manager);
    cap(&mut entries);
    set_entries(new, entries);
}

/// The rows after somebody else's or our own `manager` changed `before` into `after` by an update.
fn record(
    typed: Typed<'_>,
    before: &Value,
    after: &Value,
    mut entries: Vec<Entry>,
    writer: Writer<'_>,
    manager: &str,
) -> Vec<Entry> {
    let mut changes = Changes::new(typed, before, after, writer);
    if changes.own.nameless {
        return entries;
    }
    for entry in &mut entries {
        let seen = changes.of(&entry.api_version);
        let taken = seen.modified.union(&seen.added);
        if entry.fields.is_touched_by(&taken) || entry.fields.is_touched_by(&seen.removed) {
            let set = entry.fields.set();
            entry.fields = Fields::of(&set.difference(&set.intersection(&taken)).difference(&seen.removed));
        }
    }
    entries.retain(|e| !e.fields.is_empty());
    let own = changes.own.modified.union(&changes.own.added).difference(&Set::of_fields(&STRIPPED));
    if !own.is_empty() {
        let mut mine = Entry::new(writer, manager, false, &own);
        match entries.iter_mut().find(|e| e.same(&mine)) {
            Some(known) => {
                mine.fields = Fields::of(&own.union(&known.fields.set()));
                *known = mine;
            }
            None => entries.push(mine),
        }
    }
    entries
}

/// At most ten updaters: the oldest of a version are counted as one, `ancient-changes`.
fn cap(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<Entry> = entries.iter().filter(|e| !e.applied).cloned().collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut firsts: Vec<Entry> = Vec::new();
    for entry in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            break;
        }
        let Some(first) = firsts.iter().find(|f| f.api_version == entry.api_version) else {
            firsts.push(entry);
            continue;
        };
        let bucket = Entry {
            manager: "ancient-changes".to_owned(),
            subresource: String::new(),
            time: entry.time.clone(),
            ..first.clone()
        };
        if !entries.iter().any(|e| e.same(&bucket)) {
            entries.retain(|e| !e.same(first));
            entries.push(bucket.clone());
        }
        entries.retain(|e| !e.same(&entry));
        if let Some(known) = entries.iter_mut().find(|e| e.same(&bucket)) {
            known.fields = Fields::of(&known.fields.set().union(&entry.fields.set()));
            known.time = entry.time;
        }
        count -= 1;
    }
}

/// Server-side apply of `config` onto `live` (`None`: create). The result carries its managedFields and is in
/// normal form, not yet defaulted; `Ok(None)`: nothing changed, keep the live object.
pub fn apply(
    table: &Table,
    ty: &Type,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Option<Value>, ApplyError> {
    let typed = Typed::new(table, ty);
    if config.get(&["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::ManagedFieldsSet);
    }
    check(typed, config)?;
    let base = live.map_or_else(|| typed.empty(), without_managed_fields);
    let mut known = entries(live).unwrap_or_default();
    if known.is_empty() && live.is_some() {
        let empty = typed.empty();
        let first = Writer { manager: "before-first-apply", ..writer };
        known = record(typed, &empty, &base, known, first, first.manager);
    }
    let (merged, mut entries) = match merge(typed, &base, config, known.clone(), writer, force) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == "kubectl" => {
            // Fields as they were last applied client-side may be taken over.
            let allowed = last_applied_fields(typed, &base, writer);
            let left: Vec<Conflict> = conflicts.into_iter().filter(|c| !allowed.contains(&c.field)).collect();
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            merge(typed, &base, config, known.clone(), writer, true)?
        }
        result => result?,
    };
    let unchanged = equal(&merged, &base);
    if unchanged {
        // The time is the one of the last change.
        for entry in &mut entries {
            entry.time = known.iter().find(|k| k.same(entry)).and_then(|k| k.time.clone());
        }
        let mut before = known;
        let order = |a: &Entry, b: &Entry| {
            (&a.manager, a.applied, &a.api_version, &a.subresource)
                .cmp(&(&b.manager, b.applied, &b.api_version, &b.subresource))
        };
        before.sort_by(order);
        entries.sort_by(order);
        if before == entries && live.is_some() {
            return Ok(None);
        }
    }
    let mut result = if unchanged { base } else { normal(table, ty, merged)? };
    if writer.manager == "kubectl" && !result.str_at(&["metadata", "annotations", LAST_APPLIED]).is_empty() {
        let mut applied = config.clone();
        applied.remove(&["metadata", "annotations", LAST_APPLIED]);
        result.set(&["metadata", "annotations", LAST_APPLIED], format!("{applied}\n"));
    }
    set_entries(&mut result, entries);
    Ok(Some(result))
}

/// `config` laid over `live`, without anybody owning anything: what an admission policy's ApplyConfiguration does.
/// What would replace a list, a map or a struct as a whole is refused. The result is in normal form, not yet defaulted.
pub fn overlay(table: &Table, ty: &Type, live: &Value, config: &Value) -> Result<Value, ApplyError> {
    let typed = Typed::new(table, ty);
    misfits(typed, config)
        .map_err(|why| ApplyError::Invalid(format!("failed to convert patch object to typed object: {why}")))?;
    let mut atomics = Vec::new();
    typed.atomics(config, "", &mut atomics);
    if !atomics.is_empty() {
        let paths = atomics.join(", ");
        let why = format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}");
        return Err(ApplyError::Invalid(why));
    }
    normal(table, ty, typed.merge(Some(live), Some(config)).unwrap_or_default())
}

/// What of a configuration does not fit its type.
fn misfits(typed: Typed<'_>, config: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    typed.validate(config, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(std::iter::once("errors:".to_owned())
            .chain(many.iter().map(|e| format!("  {e}")))
            .collect::<Vec<_>>()
            .join("\n")),
    }
}

fn check(typed: Typed<'_>, config: &Value) -> Result<(), ApplyError> {
    let Err(text) = misfits(typed, config) else { return Ok(()) };
    let (group_version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
    let group_version =
        if group_version.contains('/') { group_version.to_owned() } else { format!("/{group_version}") };
    Err(ApplyError::Invalid(format!(
        "failed to create typed patch object ({}/{}; {group_version}, Kind={kind}): {text}",
        config.str_at(&["metadata", "namespace"]),
        config.str_at(&["metadata", "name"]),
    )))
}

/// Built-in types have a normal form; a custom resource is what was sent.
fn normal(table: &Table, ty: &Type, value: Value) -> Result<Value, ApplyError> {
    match ty {
        Type::Message(id) if Typed::new(table, ty).is_built_in() => json::typed(table, *id, value)
            .map(|d| d.value)
            .map_err(|e| ApplyError::Invalid(format!("failed to convert new typed object to object: {e}"))),
        _ => Ok(value),
    }
}

/// Merges, prunes what this manager no longer applies, and settles who owns what.
fn merge(
    typed: Typed<'_>,
    live: &Value,
    config: &Value,
    mut entries: Vec<Entry>,
    writer: Writer<'_>,
    force: bool,
) -> Result<(Value, Vec<Entry>), ApplyError> {
    let ignored = Set::of_fields(writer.resets);
    let merged = typed.merge(Some(live), Some(config)).unwrap_or_default();
    let own = typed.field_set(config).without(&ignored);
    let mine = Entry::new(writer, writer.manager, true, &own);
    let last = match entries.iter().position(|e| e.same(&mine)) {
        Some(at) => entries.remove(at).fields.set(),
        None => Set::default(),
    };
    let result = prune(typed, merged, &entries, &own, &last);

    let mut changes = Changes::new(typed, live, &result, writer);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let seen = changes.of(&entry.api_version);
        let taken = seen.modified.union(&seen.added);
        if !entry.fields.is_touched_by(&taken) && !entry.fields.is_touched_by(&seen.removed) {
            continue;
        }
        let set = entry.fields.set();
        let lost = set.intersection(&taken);
        if !force {
            let message = entry.conflict();
            conflicts.extend(lost.paths().into_iter().map(|field| Conflict { message: message.clone(), field }));
        }
        entry.fields = Fields::of(&set.difference(&lost).difference(&seen.removed));
    }
    if !conflicts.is_empty() {
        // One manager's in the order of its set.
        conflicts.sort_by(|a, b| a.message.cmp(&b.message));
        return Err(ApplyError::Conflicts(conflicts));
    }
    entries.retain(|e| !e.fields.is_empty());
    let own = own.difference(&Set::of_fields(&STRIPPED));
    if !own.is_empty() {
        entries.push(Entry { fields: Fields::of(&own), ..mine });
    }
    Ok((result, entries))
}

/// Removes what was applied last time and is not owned by anybody any more.
fn prune(typed: Typed<'_>, merged: Value, others: &[Entry], own: &Set, last: &Set) -> Value {
    // What was applied last time and is again cannot be in the way.
    if last.difference(own).is_empty() {
        return merged;
    }
    let managed = others.iter().fold(own.clone(), |all, e| all.union(&e.fields.set()));
    let last = typed.with_named_fields(last);
    let named = |value: &Value| typed.with_named_fields(&typed.field_set(value));
    let everything = named(&merged);
    // First without all that was applied, then with back what any manager owns…
    let pruned = typed.remove(&merged, &last);
    let keep = named(&pruned).union(&typed.with_named_fields(&managed));
    let pruned = typed.remove(&merged, &everything.difference(&keep));
    // …and what went with it without having been applied.
    let gone = everything.difference(&named(&pruned)).intersection(&last);
    typed.remove(&merged, &gone)
}

/// The fields which still are as kubectl's annotation says they were applied.
fn last_applied_fields(typed: Typed<'_>, live: &Value, writer: Writer<'_>) -> Vec<String> {
    let text = live.str_at(&["metadata", "annotations", LAST_APPLIED]);
    let Ok(applied) = json::parse(text.as_bytes()) else { return Vec::new() };
    if applied.str_at(&["apiVersion"]) != writer.api_version {
        return Vec::new();
    }
    let changes = typed.compare(&applied, live);
    let set = typed.field_set(&applied);
    set.difference(&changes.modified).difference(&changes.added).difference(&changes.removed).paths()
}

const SCALE_VERSION: &str = "autoscaling/v1";
const SCALE_REPLICAS: &str = "spec.replicas";

/// What a Scale's managedFields say of the replicas that `object` has at a dotted path.
pub fn to_scale(object: &Value, replicas: &str) -> Vec<Value> {
    let path = Set::of_fields(&[replicas]);
    let mut entries = entries(Some(object)).unwrap_or_default();
    entries.retain(|entry| !entry.fields.set().intersection(&path).is_empty());
    for entry in &mut entries {
        entry.api_version = SCALE_VERSION.to_owned();
        entry.fields = Fields::of(&Set::of_fields(&[SCALE_REPLICAS]));
    }
    rows(entries)
}

/// Gives an object the managedFields that its Scale has after an update. As upstream has it, what an updater owned is
/// its own no longer and what is new has no time.
pub fn from_scale(object: &mut Value, scale: &Value, api_version: &str, replicas: &str) {
    let path = Set::of_fields(&[replicas]);
    let mut of_scale = entries(Some(scale)).unwrap_or_default();
    let of_object = entries(Some(object)).unwrap_or_default();
    let mut out = Vec::new();
    for mut entry in of_object.iter().cloned() {
        let set = entry.fields.set();
        if !set.intersection(&path).is_empty() {
            match of_scale.iter().position(|e| e.same(&entry)) {
                Some(at) => drop(of_scale.remove(at)),
                None => entry.fields = Fields::of(&set.difference(&path)),
            }
        }
        if !entry.fields.is_empty() {
            out.push(entry);
        }
    }
    let scale_path = Set::of_fields(&[SCALE_REPLICAS]);
    for mut entry in of_scale.into_iter().filter(|e| !e.fields.set().intersection(&scale_path).is_empty()) {
        entry.time = of_object.iter().find(|e| e.same(&entry)).and_then(|e| e.time.clone());
        entry.api_version = api_version.to_owned();
        entry.fields = Fields::of(&path);
        out.push(entry);
    }
    set_entries(object, out);
}

/// If `new` is `live` but for the times in managedFields (and what every write sets), gives it live's times;
/// true: there is nothing to write.
pub fn settle(live: &Value, new: &mut Value) -> bool {
    let (Some(before), Some(after)) = (entries(Some(live)), entries(Some(new))) else { return live == new };
    let timeless = |entries: &[Entry]| {
        let mut rows: Vec<_> = entries.iter().cloned().map(|e| row(Entry { time: None, ..e }).to_string()).collect();
        rows.sort();
        rows
    };
    if timeless(&before) == timeless(&after) && without_managed_fields(live) == without_managed_fields(new) {
        *new = live.clone();
        return true;
    }
    false
}
