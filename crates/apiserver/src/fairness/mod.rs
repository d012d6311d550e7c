//! API Priority and Fairness: whose request is served now, whose waits, and whose is refused.
//!
//! What is decided is decided by values: [`config`] finds the flow schema of a request, [`queues`] gives out a level's
//! seats, [`demand`] divides the server's seats among levels, [`width`] says how many a request needs, [`retry`] when
//! to come again. [`Fairness`] runs them: it knows the time, and wakes those who wait. Levels are looked at anew by the
//! requests themselves, so that nothing happens where there are none.

pub mod config;
mod demand;
mod dump;
mod follow;
mod metrics;
mod queues;
mod retry;
mod stats;
#[cfg(test)]
mod tests;
pub mod width;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::BodyError;
use crate::{Attributes, Body, User};
use demand::{Bounds, Claim, PERIOD};
pub use follow::{configure, follow};
use queues::{About, Arrival, Arriving, Nanos, Place, Queues};
use retry::Retry;

/// No request waits longer, whatever its own time is.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// So long a client may take to send its request or to take an answer that does not fit one piece; then its seats are
/// for those who wait.
const CLIENTS_TURN: Nanos = 1_000_000_000;

/// Those who wait look around at most so often.
const LOOK_MIN: Nanos = 20_000_000;

/// Wakes a request that waits.
type Waker = oneshot::Sender<Permit>;

/// Priority levels, and the requests in them.
pub struct Fairness {
    started: Instant,
    /// Of all levels together: `--max-requests-inflight` and `--max-mutating-requests-inflight`.
    seats: u64,
    /// So that nobody outside can aim at the queue of another.
    seed: u64,
    config: RwLock<Arc<Config>>,
    adjust_at: AtomicU64,
    /// What part of its target each level gets, as the bits of an `f64`.
    fair_fraction: AtomicU64,
}

#[derive(Default)]
struct Config {
    /// In the order in which they are tried.
    schemas: Vec<Arc<Schema>>,
    levels: Vec<Arc<Level>>,
}

/// A flow schema in use.
pub struct Schema {
    spec: config::Schema,
    uid: HeaderValue,
    level: Arc<Level>,
    /// Its place in the figures of its level.
    slot: usize,
}

struct Level {
    spec: config::Level,
    uid: HeaderValue,
    bounds: Bounds,
    seats_max: u64,
    /// No longer wanted, and not idle yet.
    is_quiescing: bool,
    state: Arc<State>,
}

/// What of a level outlasts its configuration.
struct State {
    queues: Mutex<Queues<Waker>>,
    retry: Mutex<Retry>,
}

impl State {
    fn queues(&self) -> MutexGuard<'_, Queues<Waker>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what was let go; the level must not be held.
    fn wake(self: &Arc<Self>, started: Instant, ready: Vec<(Waker, usize)>) {
        for (waker, id) in ready {
            // One that has gone gives its seats back by dropping the permit.
            drop(waker.send(Permit { state: self.clone(), started, id }));
        }
    }
}

/// A request's seats, until it is dropped.
pub struct Permit {
    state: Arc<State>,
    started: Instant,
    id: usize,
}

impl Permit {
    /// Passes a request's body on, and does not keep the seats for what does not come.
    pub fn with_body(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let until = self.clients_turn();
        Coming { body, turn: Some((self.state.clone(), self.id, until)) }.boxed_unsync()
    }

    /// What is waited for now is not this server's work.
    pub fn clients_turn(&self) -> Nanos {
        let until = nanos(self.started) + CLIENTS_TURN;
        self.state.queues().begin_turn(self.id, until);
        until
    }
}

/// A body that is on its way to us.
struct Coming {
    body: Body,
    turn: Option<(Arc<State>, usize, Nanos)>,
}

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready()
            && (self.body.is_end_stream() || !matches!(polled, Poll::Ready(Some(Ok(_)))))
            && let Some((state, id, until)) = self.turn.take()
        {
            state.queues().end_turn(id, until);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut ready = Vec::new();
        self.state.queues().finish(self.id, nanos(self.started), &mut ready);
        self.state.wake(self.started, ready);
    }
}

fn nanos(started: Instant) -> Nanos {
    started.elapsed().as_nanos() as Nanos
}

/// A request that was refused may come again after these seconds.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u32);

impl Schema {
    /// Tells a client under what it falls, without the names that an operator chose.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.insert("x-kubernetes-pf-flowschema-uid", self.uid.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", self.level.uid.clone());
    }

    /// Of its level and of itself.
    pub fn names(&self) -> (&str, &str) {
        (&self.level.spec.name, &self.spec.name)
    }

    /// The most that [`width::seats`] may ask for.
    pub fn seats_max(&self) -> u64 {
        self.level.seats_max
    }
}

impl Fairness {
    pub fn new(seats: u64, seed: u64) -> Fairness {
        Fairness {
            started: Instant::now(),
            seats,
            seed,
            config: RwLock::default(),
            adjust_at: AtomicU64::new(PERIOD),
            fair_fraction: AtomicU64::new(0),
        }
    }

    fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The flow schema of a request; the last one, which is the catch-all's, takes what none wants.
    pub fn classify(&self, user: &User, info: &Attributes) -> Option<Arc<Schema>> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let found = config.schemas.iter().find(|schema| schema.spec.matches(user, info));
        found.or(config.schemas.last()).cloned()
    }

    /// Seats for a request, at once or after it has waited its turn.
    pub async fn enter(
        &self,
        schema: &Arc<Schema>,
        user: &User,
        info: &Attributes,
        seats: u64,
        patience: Duration,
    ) -> Result<Permit, Refused> {
        let now = nanos(self.started);
        self.adjust(now);
        let state = &schema.level.state;
        let flow = schema.spec.flow(user, info);
        let request =
            Arriving { slot: schema.slot, hash: self.hash(schema, flow), seats, is_watch: info.verb == "watch" };
        let mut waits = None;
        let wait = || {
            let (waker, permit) = oneshot::channel();
            waits = Some(permit);
            (waker, Arc::new(About { flow: flow.to_owned(), user: user.name.clone(), info: info.clone() }))
        };
        let mut ready = Vec::new();
        let arrival = state.queues().arrive(request, now, wait, &mut ready);
        state.wake(self.started, ready);
        match (arrival, waits) {
            (Arrival::Execute(id), _) => Ok(Permit { state: state.clone(), started: self.started, id }),
            (Arrival::Queued(place), Some(permit)) => self.wait(state, place, permit, patience).await,
            _ => Err(self.refuse(state)),
        }
    }

    fn hash(&self, schema: &Schema, flow: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, &schema.spec.name, flow).hash(&mut hasher);
        hasher.finish()
    }

    async fn wait(
        &self,
        state: &Arc<State>,
        place: Place,
        mut permit: oneshot::Receiver<Permit>,
        patience: Duration,
    ) -> Result<Permit, Refused> {
        let mut leave = Leave { state, started: self.started, place: Some(place) };
        let deadline = Instant::now() + patience.min(WAIT_MAX);
        loop {
            // Whoever waits sees to what nobody else may: seats that come free by time alone.
            let now = nanos(self.started);
            let next = state.queues().next_release().unwrap_or(Nanos::MAX).min(self.adjust_at.load(Ordering::Relaxed));
            let next = self.started + Duration::from_nanos(next.clamp(now + LOOK_MIN, now + PERIOD));
            tokio::select! {
                biased;
                permit = &mut permit => {
                    leave.place = None;
                    return permit.map_err(|_| Refused(1));
                }
                () = tokio::time::sleep_until(next.min(deadline)) => {}
            }
            let now = nanos(self.started);
            if Instant::now() >= deadline && leave.cancel() {
                return Err(self.refuse(state));
            }
            self.adjust(now);
            let mut ready = Vec::new();
            state.queues().release_overdue(now, &mut ready);
            state.wake(self.started, ready);
        }
    }

    fn refuse(&self, state: &State) -> Refused {
        let mut retry = state.retry.lock().unwrap_or_else(PoisonError::into_inner);
        Refused(retry.refused(self.started.elapsed().as_secs()))
    }

    /// Divides the seats anew, if it is time to.
    fn adjust(&self, now: Nanos) {
        let due = self.adjust_at.load(Ordering::Relaxed);
        let next = now + PERIOD;
        if now < due || self.adjust_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let config = self.config();
        for level in &config.levels {
            let mut queues = level.state.queues();
            queues.demand.end_period(now);
            if now - due >= PERIOD {
                // Nobody came for long: what was at the beginning of that time is past.
                queues.demand.end_period(now);
            }
        }
        self.share(&config.levels, now);
        let is_over = |level: &Arc<Level>| level.is_quiescing && level.state.queues().is_idle();
        if config.levels.iter().any(is_over) {
            self.apply(|config| {
                let levels = config.levels.iter().filter(|level| !level.is_quiescing).map(|level| level.spec.clone());
                (levels.collect(), config.schemas.iter().map(|schema| schema.spec.clone()).collect())
            });
        }
    }

    fn share(&self, levels: &[Arc<Level>], now: Nanos) {
        let claim = |level: &Arc<Level>| {
            let queues = level.state.queues();
            let exempt = level.spec.discipline == queues::Discipline::Exempt;
            Claim { exempt, bounds: level.bounds, figures: queues.demand.figures, current: queues.limit() }
        };
        let (limits, fraction) = demand::share(&levels.iter().map(claim).collect::<Vec<_>>());
        self.fair_fraction.store(fraction.to_bits(), Ordering::Relaxed);
        for (level, limit) in levels.iter().zip(limits) {
            let mut ready = Vec::new();
            level.state.queues().set_limit(limit, now, &mut ready);
            level.state.wake(self.started, ready);
        }
    }

    /// Takes what `change` makes of the configuration into use. Levels that are still busy are kept until they are not.
    fn apply(&self, change: impl FnOnce(&Config) -> (Vec<config::Level>, Vec<config::Schema>)) {
        let now = nanos(self.started);
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let (mut levels, mut schemas) = change(&current);
        let wanted = levels.len();
        let leaving = current.levels.iter().filter(|old| !levels.iter().any(|level| level.name == old.spec.name));
        let leaving: Vec<_> = leaving.filter(|old| !old.state.queues().is_idle()).map(|old| old.spec.clone()).collect();
        levels.extend(leaving);
        let bounds = config::bounds(&levels.iter().collect::<Vec<_>>(), self.seats);
        let with_state = |(at, (spec, bounds)): (usize, (config::Level, Bounds))| {
            let known = current.levels.iter().find(|old| old.spec.name == spec.name);
            let state = known.map(|old| old.state.clone()).unwrap_or_else(|| {
                let limit = bounds.nominal - (bounds.nominal - bounds.lower) / 2;
                let queues = Mutex::new(Queues::new(spec.discipline, limit, now));
                Arc::new(State { queues, retry: Mutex::default() })
            });
            let mut ready = Vec::new();
            state.queues().configure(spec.discipline, now, &mut ready);
            state.wake(self.started, ready);
            let seats_max = config::seats_max(&spec, bounds.nominal);
            Arc::new(Level { uid: header(&spec.uid), bounds, seats_max, is_quiescing: at >= wanted, state, spec })
        };
        let levels: Vec<_> = levels.into_iter().zip(bounds).enumerate().map(with_state).collect();
        schemas.sort_by(|a, b| a.order().cmp(&b.order()));
        let in_use = |spec: config::Schema| {
            let level = levels.iter().find(|level| level.spec.name == spec.level && !level.is_quiescing)?.clone();
            let slot = level.state.queues().slot(&spec.name.as_str().into());
            Some(Arc::new(Schema { uid: header(&spec.uid), level, slot, spec }))
        };
        let schemas = schemas.into_iter().filter_map(in_use).collect();
        *current = Arc::new(Config { schemas, levels });
        self.share(&current.levels, now);
    }
}

fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Takes a request out of its queue when its client has gone.
struct Leave<'a> {
    state: &'a Arc<State>,
    started: Instant,
    place: Option<Place>,
}

impl Leave<'_> {
    /// Says whether it still waited.
    fn cancel(&mut self) -> bool {
        let mut queues = self.state.queues();
        self.place.take().is_some_and(|place| queues.cancel(place, nanos(self.started)))
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}
