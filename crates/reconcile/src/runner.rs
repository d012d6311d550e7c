//! Feeds reconcilers: one world, a queue per row, plans carried out side by side.
//!
//! [`Runner::new`] takes the table of rows; [`Runner::run`] starts a reflector per kind that any row names, and a loop
//! per row. Nothing runs when nothing happens.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use schema::api::{Message, Object, meta::v1::ObjectMeta};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use crate::backoff::Backoff;
use crate::io::reflector::{self, Scope, Sink};
use crate::io::{BoxFuture, Client, Effect, Error, Identity};
use crate::world::Transition;
use crate::{Action, Ctx, Key, Plan, World};

/// The wall clock and a seed, injected: `(nanoseconds since the epoch, 64 random bits)`.
pub type WallClock = fn() -> (i64, u64);

/// The deciding part; a closure where it depends on the cluster's configuration.
pub type Reconcile = Box<dyn Fn(&World, &Key, &mut Ctx) -> Plan + Send + Sync>;

/// A reconciler: a row of a registry.
pub struct Row {
    pub name: &'static str,
    /// Who it is to the API: `system:serviceaccount:kube-system:deployment-controller`.
    pub user: String,
    pub triggers: Vec<Trigger>,
    pub reconcile: Reconcile,
    /// How many keys are carried out at once.
    pub parallel: usize,
}

impl Row {
    /// `user` is a service account of kube-system, or with colons a user's whole name.
    pub fn new(
        name: &'static str,
        user: &str,
        parallel: usize,
        triggers: Vec<Trigger>,
        reconcile: impl Fn(&World, &Key, &mut Ctx) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let prefix = if user.contains(':') { "" } else { "system:serviceaccount:kube-system:" };
        Self { name, user: format!("{prefix}{user}"), triggers, reconcile: Box::new(reconcile), parallel }
    }
}

/// A kind that a row reads, and which keys a change of it concerns.
pub struct Trigger {
    kind: TypeId,
    map: Box<dyn Fn(&World, &dyn std::any::Any) -> Vec<Key> + Send + Sync>,
    add: fn(&mut World),
    contents: Contents,
    follow: fn(Arc<Shared>, Client, Kept) -> BoxFuture<'static, ()>,
}

/// Of which objects a row reads more than metadata.
#[derive(Clone, Copy)]
enum Contents {
    All,
    Named(&'static str),
    None,
}

/// Of which objects the world keeps more than metadata.
#[derive(Clone, Default)]
struct Kept {
    all: bool,
    named: Vec<&'static str>,
}

impl Trigger {
    /// `map` sees the old and the new state (one of them is there at least).
    pub fn on<K: Object>(map: fn(&World, Option<&K>, Option<&K>) -> Vec<Key>) -> Self {
        Self {
            kind: TypeId::of::<K>(),
            map: Box::new(move |world, change| {
                change
                    .downcast_ref::<Transition<K>>()
                    .map_or_else(Vec::new, |change| map(world, change.old.as_deref(), change.new.as_deref()))
            }),
            add: World::add::<K>,
            contents: Contents::All,
            follow: |shared, client, kept| Box::pin(follow::<K>(shared, client, kept)),
        }
    }

    /// As [`Trigger::on`] for who needs no more than metadata: the world keeps no more, unless another row reads it all.
    pub fn on_metadata<K: Object>(map: fn(&World, Option<&K>, Option<&K>) -> Vec<Key>) -> Self {
        Self { contents: Contents::None, ..Self::on(map) }
    }

    /// As [`Trigger::on_metadata`] for who needs all of the objects with this name.
    pub fn on_named<K: Object>(name: &'static str, map: fn(&World, Option<&K>, Option<&K>) -> Vec<Key>) -> Self {
        Self { contents: Contents::Named(name), ..Self::on(map) }
    }

    /// The object's own key.
    pub fn itself<K: Object>() -> Self {
        Self::on::<K>(|_, old, new| old.or(new).map(Key::of).into_iter().collect())
    }

    /// The key of the object's controller, if that is an `O`.
    pub fn controller<O: Object, K: Object>() -> Self {
        Self::on::<K>(|_, old, new| {
            let mut keys: Vec<Key> = old.into_iter().chain(new).filter_map(controller_key::<O, K>).collect();
            keys.dedup();
            keys
        })
    }

    /// Read, but no reason to look again.
    pub fn reads<K: Object>() -> Self {
        Self::on::<K>(|_, _, _| Vec::new())
    }
}

fn controller_key<O: Object, K: Object>(object: &K) -> Option<Key> {
    let meta = object.metadata();
    let owner = meta.owner_references.iter().find(|owner| owner.controller == Some(true) && owner.kind == O::KIND)?;
    Some(Key::new(if O::NAMESPACED { &meta.namespace } else { "" }, &owner.name))
}

/// What reflectors and rows share.
pub struct Shared {
    world: RwLock<World>,
    rows: Vec<RowState>,
    clock: WallClock,
}

struct RowState {
    row: Row,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Key>,
    waiting: BTreeSet<Key>,
    running: BTreeSet<Key>,
    later: BTreeMap<(Instant, u64), Key>,
    /// Where each key stands in `later`.
    times: HashMap<Key, (Instant, u64)>,
    ticket: u64,
}

impl Queue {
    fn push(&mut self, key: Key) {
        if self.waiting.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// The last word counts: who asked for the key earlier knew less, and would go on asking for ever beside it.
    fn push_at(&mut self, at: Instant, key: Key) {
        self.ticket += 1;
        let time = (at, self.ticket);
        if let Some(before) = self.times.insert(key.clone(), time) {
            self.later.remove(&before);
        }
        self.later.insert(time, key);
    }

    /// Moves what is due; says when the next one is.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let key = entry.remove();
            self.times.remove(&key);
            self.push(key);
        }
        None
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &Key) {
        self.running.remove(key);
        if self.waiting.contains(key) {
            self.ready.push_back(key.clone());
        }
    }
}

impl Shared {
    /// A look at the world; short, and never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change<K: Object>(&self, change: impl FnOnce(&mut World) -> Vec<Transition<K>>) {
        let mut world = self.write();
        let transitions = change(&mut world);
        self.publish(&world, &transitions);
    }

    /// Takes the answer to a write: the object's new state, or its last one if the write finished its deletion.
    pub(crate) fn absorb<K: Object>(&self, raw: &[u8]) {
        if self.read().try_of::<K>().is_none() {
            return;
        }
        let Ok(mut object) = K::decode(raw) else { return };
        object.metadata_mut().managed_fields = Vec::new();
        let meta = object.metadata();
        let finished = meta.deletion_timestamp.is_some()
            && meta.finalizers.is_empty()
            && meta.deletion_grace_period_seconds.is_none_or(|seconds| seconds == 0);
        if finished {
            let (key, uid) = (Key::of(&object), meta.uid.clone());
            self.bury::<K>(&key, &uid);
        } else {
            self.change::<K>(|world| world.of_mut::<K>().put(object).into_iter().collect());
        }
    }

    pub(crate) fn bury<K: Object>(&self, key: &Key, uid: &str) {
        if self.read().try_of::<K>().is_some() {
            self.change::<K>(|world| world.of_mut::<K>().bury(key, uid).into_iter().collect());
        }
    }

    fn publish<K: Object>(&self, world: &World, transitions: &[Transition<K>]) {
        for state in &self.rows {
            let mut keys = Vec::new();
            for trigger in state.row.triggers.iter().filter(|trigger| trigger.kind == TypeId::of::<K>()) {
                for transition in transitions {
                    keys.extend((trigger.map)(world, transition));
                }
            }
            if !keys.is_empty() {
                let mut queue = state.lock();
                keys.into_iter().for_each(|key| queue.push(key));
                state.wake.notify_one();
            }
        }
    }
}

impl RowState {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct Feed {
    shared: Arc<Shared>,
    kept: Kept,
}

impl<K: Object> Sink<K> for Feed {
    fn decode(&self, raw: &Bytes) -> Option<K> {
        if self.kept.all {
            return reflector::without_managed_fields(raw);
        }
        let mut metadata = ObjectMeta::decode(&reflector::metadata_of(raw)?).ok()?;
        if self.kept.named.contains(&metadata.name.as_str()) {
            return reflector::without_managed_fields(raw);
        }
        metadata.managed_fields = Vec::new();
        metadata.annotations.clear();
        let mut slim = K::default();
        *slim.metadata_mut() = metadata;
        Some(slim)
    }

    fn replace(&mut self, items: Vec<K>, revision: u64) {
        self.shared.change::<K>(|world| world.of_mut::<K>().replace(items, revision));
        // Rows wait for their first complete view.
        self.shared.rows.iter().for_each(|state| state.wake.notify_one());
    }

    fn put(&mut self, object: K) {
        self.shared.change::<K>(|world| world.of_mut::<K>().put(object).into_iter().collect());
    }

    fn remove(&mut self, object: K) {
        let meta = object.metadata();
        let revision = meta.resource_version.parse().unwrap_or(u64::MAX);
        let (key, uid) = (Key::of(&object), meta.uid.clone());
        self.shared.change::<K>(|world| world.of_mut::<K>().remove(&key, &uid, revision).into_iter().collect());
    }
}

async fn follow<K: Object>(shared: Arc<Shared>, client: Client, kept: Kept) {
    reflector::run::<K>(client, Scope::default(), Feed { shared, kept }).await;
}

/// Runs a table of rows.
pub struct Runner {
    shared: Arc<Shared>,
    client: Client,
}

impl Runner {
    pub fn new(client: Client, rows: Vec<Row>, clock: WallClock) -> Self {
        let mut world = World::default();
        rows.iter().flat_map(|row| &row.triggers).for_each(|trigger| (trigger.add)(&mut world));
        let rows = rows.into_iter().map(|row| RowState { row, queue: Mutex::default(), wake: Notify::new() }).collect();
        Self { shared: Arc::new(Shared { world: RwLock::new(world), rows, clock }), client }
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs until dropped.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let mut followed = HashMap::new();
        for trigger in self.shared.rows.iter().flat_map(|state| &state.row.triggers) {
            let (_, kept) = followed.entry(trigger.kind).or_insert((trigger.follow, Kept::default()));
            match trigger.contents {
                Contents::All => kept.all = true,
                Contents::Named(name) => kept.named.push(name),
                Contents::None => {}
            }
        }
        for (follow, kept) in followed.into_values() {
            tasks.spawn(follow(self.shared.clone(), self.client.clone(), kept));
        }
        for index in 0..self.shared.rows.len() {
            tasks.spawn(drive(self.shared.clone(), index, self.client.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// First wait after a failed plan, and the longest, as client-go's controllers.
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);
/// A stale view mends itself as soon as the next event arrives; this is in case there is none.
const STALE_RETRY: Duration = Duration::from_millis(50);
/// Creations or deletions of one plan at once.
const SIDE_BY_SIDE: usize = 16;

async fn drive(shared: Arc<Shared>, index: usize, client: Client) {
    let Some(state) = shared.rows.get(index) else { return };
    let client = client.with_identity(Identity(state.row.user.as_str().into()));
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut failures: HashMap<Key, String> = HashMap::new();
    let mut running: JoinSet<(Key, Result<Option<Duration>, Error>)> = JoinSet::new();
    loop {
        // When to wake is asked last: keys that are looked at here may ask for a time, too.
        let next = loop {
            let next = state.lock().due(Instant::now());
            let free = running.len() < state.row.parallel && complete_view(&shared, &state.row);
            let Some(key) = free.then(|| state.lock().take()).flatten() else { break next };
            let (now_ns, seed) = (shared.clock)();
            let plan =
                (state.row.reconcile)(&shared.read(), &key, &mut Ctx { now_ns, seed, failure: failures.remove(&key) });
            if plan.actions.is_empty() {
                finish(state, &mut backoff, &key, Ok(plan.requeue_after));
            } else {
                let (shared, client) = (shared.clone(), client.clone());
                running.spawn(async move {
                    let outcome = carry_out(&shared, &client, &plan).await;
                    (key, outcome.map(|()| plan.requeue_after))
                });
            }
        };
        tokio::select! {
            () = state.wake.notified() => {}
            () = sleep_until(next) => {}
            Some(Ok((key, outcome))) = running.join_next() => {
                if let Err(error @ Error::Api { message, .. }) = &outcome
                    && !error.is_stale()
                {
                    failures.insert(key.clone(), message.clone());
                }
                finish(state, &mut backoff, &key, outcome);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn complete_view(shared: &Shared, row: &Row) -> bool {
    let world = shared.read();
    row.triggers.iter().all(|trigger| world.synced(trigger.kind))
}

fn finish(state: &RowState, backoff: &mut Backoff<Key>, key: &Key, outcome: Result<Option<Duration>, Error>) {
    let again = match outcome {
        Ok(requeue_after) => {
            backoff.forget(key);
            requeue_after
        }
        Err(error) if error.is_stale() => {
            tracing::debug!(reconciler = state.row.name, %key, %error, "decided from an old state");
            Some(STALE_RETRY.max(backoff.next(key.clone())))
        }
        Err(error) => {
            tracing::warn!(reconciler = state.row.name, %key, %error, "a plan failed");
            Some(backoff.next(key.clone()))
        }
    };
    let mut queue = state.lock();
    queue.done(key);
    if let Some(after) = again {
        queue.push_at(Instant::now() + after, key.clone());
    }
}

async fn carry_out(shared: &Arc<Shared>, client: &Client, plan: &Plan) -> Result<(), Error> {
    let mut rest = &plan.actions[..];
    while let Some(first) = rest.first() {
        let alike = rest.iter().take_while(|action| side_by_side(first, action)).count().max(1);
        let (stage, after) = rest.split_at(alike);
        carry_out_stage(shared, client, stage).await?;
        rest = after;
    }
    Ok(())
}

fn side_by_side(first: &Action, other: &Action) -> bool {
    matches!((first, other), (Action::Create(_), Action::Create(_)) | (Action::Delete { .. }, Action::Delete { .. }))
}

async fn carry_out_stage(shared: &Arc<Shared>, client: &Client, stage: &[Action]) -> Result<(), Error> {
    // Upstream's slow start: a failing create (quota, admission) is tried once, not five hundred times.
    let mut at = 0;
    let mut width = 1;
    while at < stage.len() {
        let batch = &stage[at..stage.len().min(at + width)];
        at += batch.len();
        width = (width * 2).min(SIDE_BY_SIDE);
        let mut running: FuturesUnordered<BoxFuture<'_, Result<(), Error>>> =
            batch.iter().map(|action| Box::pin(carry_out_one(shared, client, action)) as BoxFuture<'_, _>).collect();
        let mut outcome = Ok(());
        while let Some(one) = running.next().await {
            outcome = outcome.and(one);
        }
        outcome?;
    }
    Ok(())
}

async fn carry_out_one(shared: &Shared, client: &Client, action: &Action) -> Result<(), Error> {
    match client.execute(action).await {
        Ok(effect) => absorb(shared, effect),
        // An event is told for people; that it could not be is no reason to do the rest again.
        Err(error) if matches!(action, Action::Create(object) if object.kind() == "Event") => {
            tracing::debug!(%error, "an event is not recorded")
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn absorb(shared: &Shared, effect: Effect) {
    match effect {
        Effect::Now(of, raw) | Effect::Deleting(of, raw) => (of.absorb)(shared, &raw),
        Effect::Gone(of) => (of.bury)(shared, &of.key, &of.uid),
        Effect::Elsewhere => {}
    }
}

#[cfg(test)]
mod tests;
