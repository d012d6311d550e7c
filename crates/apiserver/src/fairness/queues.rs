//! One priority level's seats and queues: fair queuing of requests, as KEP-1040 has it.
//!
//! [`Queues::arrive`] and [`Queues::finish`] are told the time; whatever they let go is in `ready`, for the caller to
//! wake when it no longer holds the level. Each queue has a meter of the work it was given (`next_r`), the level has
//! one of what a busy queue may have had by now (`r`), both in seat-seconds: the queue that is furthest behind goes next.

use std::collections::VecDeque;
use std::sync::Arc;

use super::demand::Demand;
use super::stats::Stats;

/// Nanoseconds since the server began.
pub type Nanos = u64;

/// What upstream takes a request to last until it is seen to end.
const GUESS_SECONDS: f64 = 0.003;
/// The largest hand that upstream's validation lets pass.
const HAND_MAX: usize = 15;

/// How many clients that take their time a level has for each of its seats, beside those that have seats.
const SEATLESS_PER_SEAT: u64 = 8;

/// What a level does with requests for which it has no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// There is always one.
    Exempt,
    Reject,
    Queue {
        queues: usize,
        /// How many of the queues a flow may use.
        hand: usize,
        /// Requests that may wait in a queue.
        length: usize,
    },
}

/// A request at the door.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    /// Of its flow schema in [`Queues::stats`].
    pub slot: usize,
    /// Of its flow.
    pub hash: u64,
    pub seats: u64,
    /// It has seats only until its stream is under way.
    pub is_watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has seats until [`Queues::finish`] of this number.
    Execute(usize),
    /// It waits, or is among the ready already.
    Queued(Place),
    /// In upstream's word for the reason.
    Rejected(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    queue: usize,
    ticket: u64,
}

/// A request with seats.
#[derive(Clone, Debug)]
pub struct Running {
    pub slot: usize,
    pub seats: u64,
    is_watch: bool,
    pub queue: Option<usize>,
    pub started: Nanos,
    /// Who it is for those who look, if it had to wait.
    pub about: Option<Arc<About>>,
    /// It waits for its client: one that takes longer than this does so without the seats.
    until: Option<Nanos>,
}

/// What dumps tell of a request.
#[derive(Debug, Default)]
pub struct About {
    pub flow: String,
    pub user: String,
    pub info: crate::Attributes,
}

pub struct Waiting<W> {
    ticket: u64,
    pub request: Arriving,
    pub arrived: Nanos,
    arrived_r: f64,
    pub about: Arc<About>,
    waker: W,
}

pub struct Queue<W> {
    pub waiting: VecDeque<Waiting<W>>,
    pub executing: usize,
    pub seats_in_use: u64,
    pub next_r: f64,
}

impl<W> Queue<W> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.executing == 0
    }

    pub fn seats_waiting(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.request.seats).sum()
    }

    /// Work does not begin before it came.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next_r = self.next_r.max(oldest.arrived_r);
        }
    }
}

/// Seat-seconds that a request is taken to need.
pub fn work(seats: u64) -> f64 {
    seats as f64 * GUESS_SECONDS
}

#[derive(Debug, Default)]
pub struct Totals {
    pub waiting: usize,
    pub executing: usize,
    pub seats_in_use: u64,
    pub seats_waiting: u64,
    pub dispatched: u64,
    pub rejected: u64,
    pub cancelled: u64,
}

pub struct Queues<W> {
    discipline: Discipline,
    /// Seats it may give out now.
    limit: u64,
    /// More than wanted while those that are too many drain.
    pub queues: Vec<Queue<W>>,
    pub running: Vec<Option<Running>>,
    /// Numbers in `running` to use again.
    free: Vec<usize>,
    busy: usize,
    pub r: f64,
    synced: Nanos,
    robin: usize,
    tickets: u64,
    pub totals: Totals,
    pub demand: Demand,
    /// By flow schema.
    pub stats: Vec<(Arc<str>, Stats)>,
}

impl<W> Queues<W> {
    pub fn new(discipline: Discipline, limit: u64, now: Nanos) -> Self {
        let mut queues = Queues {
            discipline,
            limit,
            queues: Vec::new(),
            running: Vec::new(),
            free: Vec::new(),
            busy: 0,
            r: 0.0,
            synced: now,
            robin: 0,
            tickets: 0,
            totals: Totals::default(),
            demand: Demand::new(now),
            stats: Vec::new(),
        };
        queues.resize();
        queues
    }

    pub fn is_idle(&self) -> bool {
        self.totals.waiting == 0 && self.totals.executing == 0
    }

    /// The place of a flow schema's figures.
    pub fn slot(&mut self, schema: &Arc<str>) -> usize {
        if let Some(slot) = self.stats.iter().position(|(name, _)| name == schema) {
            return slot;
        }
        self.stats.push((schema.clone(), Stats::default()));
        self.stats.len() - 1
    }

    pub fn configure(&mut self, discipline: Discipline, now: Nanos, ready: &mut Vec<(W, usize)>) {
        self.sync(now);
        self.discipline = discipline;
        self.resize();
        self.dispatch(now, ready);
    }

    pub fn set_limit(&mut self, limit: u64, now: Nanos, ready: &mut Vec<(W, usize)>) {
        self.sync(now);
        self.limit = limit;
        self.dispatch(now, ready);
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Queues come at once and go when they are empty; those of a level that no longer queues drain.
    fn resize(&mut self) {
        let wanted = match self.discipline {
            Discipline::Queue { queues, .. } => queues,
            _ => 0,
        };
        let new = || Queue { waiting: VecDeque::new(), executing: 0, seats_in_use: 0, next_r: 0.0 };
        while self.queues.len() < wanted {
            self.queues.push(new());
        }
        while self.queues.len() > wanted && self.queues.last().is_some_and(Queue::is_idle) {
            self.queues.pop();
        }
    }

    /// Moves the meter: busy queues share the seats that are wanted, as far as there are so many.
    fn sync(&mut self, now: Nanos) {
        let seconds = now.saturating_sub(self.synced) as f64 / 1e9;
        self.synced = self.synced.max(now);
        if self.busy > 0 {
            let wanted = (self.totals.seats_in_use + self.totals.seats_waiting).min(self.limit);
            self.r += wanted as f64 / self.busy as f64 * seconds;
        }
    }

    /// A request wants in. `wait` makes what wakes it, if it must wait.
    pub fn arrive(
        &mut self,
        request: Arriving,
        now: Nanos,
        wait: impl FnOnce() -> (W, Arc<About>),
        ready: &mut Vec<(W, usize)>,
    ) -> Arrival {
        self.sync(now);
        self.stats[request.slot].1.seats.observe(request.seats as f64);
        let Discipline::Queue { queues, hand, length } = self.discipline else {
            if !self.fits(request.seats) {
                self.release_slow(now);
            }
            return if self.fits(request.seats) {
                Arrival::Execute(self.begin(request, None, None, now))
            } else {
                self.reject(request.slot, "concurrency-limit")
            };
        };
        let at = self.pick(request.hash, queues, hand);
        if self.totals.waiting == 0 && !self.fits(request.seats) {
            self.release_slow(now);
        }
        if self.queues[at].is_idle() {
            self.queues[at].next_r = self.r;
        }
        if self.totals.waiting == 0 && self.totals.seats_in_use < self.limit && self.fits(request.seats) {
            return Arrival::Execute(self.begin(request, Some(at), None, now));
        }
        if self.totals.seats_in_use >= self.limit && self.queues[at].waiting.len() >= length {
            return self.reject(request.slot, "queue-full");
        }
        let ticket = self.tickets;
        let (waker, about) = wait();
        let Arriving { slot, seats, .. } = request;
        let queue = &mut self.queues[at];
        self.busy += usize::from(queue.is_idle());
        queue.waiting.push_back(Waiting { ticket, request, arrived: now, arrived_r: self.r, about, waker });
        queue.bound();
        let length = queue.waiting.len();
        self.totals.waiting += 1;
        self.totals.seats_waiting += seats;
        let stats = &mut self.stats[slot].1;
        stats.waiting += 1;
        stats.seats_waiting += seats;
        stats.length.observe(length as f64);
        self.note_demand(now);
        self.dispatch(now, ready);
        Arrival::Queued(Place { queue: at, ticket })
    }

    fn reject(&mut self, slot: usize, reason: &'static str) -> Arrival {
        self.totals.rejected += 1;
        *self.stats[slot].1.rejected.entry(reason).or_default() += 1;
        Arrival::Rejected(reason)
    }

    /// Gives up waiting; says whether it still waited.
    pub fn cancel(&mut self, place: Place, now: Nanos) -> bool {
        self.sync(now);
        let Some(queue) = self.queues.get_mut(place.queue) else { return false };
        let Some(at) = queue.waiting.iter().position(|request| request.ticket == place.ticket) else { return false };
        let Some(gone) = queue.waiting.remove(at) else { return false };
        queue.bound();
        self.busy -= usize::from(queue.is_idle());
        self.leave(gone.request);
        self.totals.cancelled += 1;
        self.stats[gone.request.slot].1.waits[0].observe(now.saturating_sub(gone.arrived) as f64 / 1e9);
        self.reject(gone.request.slot, "time-out");
        self.note_demand(now);
        self.resize();
        true
    }

    fn leave(&mut self, Arriving { slot, seats, .. }: Arriving) {
        self.totals.waiting -= 1;
        self.totals.seats_waiting -= seats;
        let stats = &mut self.stats[slot].1;
        stats.waiting -= 1;
        stats.seats_waiting -= seats;
    }

    /// A request has ended: with the handler's work (`None`), or with the sending of its answer.
    pub fn finish(&mut self, id: usize, now: Nanos, ready: &mut Vec<(W, usize)>) {
        self.sync(now);
        self.release(id, now);
        self.resize();
        self.dispatch(now, ready);
    }

    /// From now on it is the client's turn, for a limited time.
    pub fn begin_turn(&mut self, id: usize, until: Nanos) {
        if let Some(running) = self.running.get_mut(id).and_then(Option::as_mut) {
            running.until = Some(until);
        }
    }

    /// The client has done what it had that time for.
    pub fn end_turn(&mut self, id: usize, until: Nanos) {
        if let Some(running) = self.running.get_mut(id).and_then(Option::as_mut) {
            running.until = running.until.filter(|other| *other != until);
        }
    }

    /// When a slow client next loses its seats.
    pub fn next_release(&self) -> Option<Nanos> {
        self.running.iter().flatten().filter(|running| running.seats > 0).filter_map(|running| running.until).min()
    }

    /// Takes the seats of clients that take their time; if others wait for them.
    pub fn release_overdue(&mut self, now: Nanos, ready: &mut Vec<(W, usize)>) {
        self.sync(now);
        self.release_slow(now);
        self.dispatch(now, ready);
    }

    fn release_slow(&mut self, now: Nanos) {
        // All that are running hold memory, with seats or without.
        let most = self.limit.saturating_mul(1 + SEATLESS_PER_SEAT);
        for id in 0..self.running.len() {
            if (self.running.len() - self.free.len()) as u64 >= most {
                return;
            }
            let overdue = |running: &Running| running.seats > 0 && running.until.is_some_and(|until| until <= now);
            if self.running[id].as_ref().is_some_and(overdue) {
                self.free_seats(id, now);
            }
        }
    }

    /// A request without seats still has its number.
    fn free_seats(&mut self, id: usize, now: Nanos) {
        let Some(running) = self.running[id].as_mut() else { return };
        let seats = std::mem::take(&mut running.seats);
        let Running { slot, started, is_watch, .. } = *running;
        let at = running.queue.take();
        self.totals.executing -= 1;
        self.totals.seats_in_use -= seats;
        let seconds = now.saturating_sub(started) as f64 / 1e9;
        let stats = &mut self.stats[slot].1;
        stats.executing -= 1;
        stats.seats_in_use -= seats;
        stats.execution[usize::from(is_watch)].observe(seconds);
        if let Some(queue) = at.and_then(|at| self.queues.get_mut(at)) {
            queue.executing -= 1;
            queue.seats_in_use -= seats;
            // What it took, in place of what it was guessed to take.
            queue.next_r -= seats as f64 * (GUESS_SECONDS - seconds);
            queue.bound();
            self.busy -= usize::from(queue.is_idle());
        }
        self.note_demand(now);
    }

    fn release(&mut self, id: usize, now: Nanos) {
        if self.running.get(id).is_some_and(|running| running.as_ref().is_some_and(|running| running.seats > 0)) {
            self.free_seats(id, now);
        }
        if let Some(running) = self.running.get_mut(id)
            && running.take().is_some()
        {
            self.free.push(id);
        }
    }

    fn fits(&self, seats: u64) -> bool {
        match self.discipline {
            Discipline::Exempt => true,
            // What is too wide for the level has it alone.
            _ if seats > self.limit => self.totals.executing == 0,
            _ => self.totals.seats_in_use + seats <= self.limit,
        }
    }

    /// The least burdened queue of the flow's hand.
    fn pick(&mut self, hash: u64, queues: usize, hand: usize) -> usize {
        let mut dealt = [0; HAND_MAX];
        let hand = deal(hash, queues, hand, &mut dealt);
        // Another one of equals each time: overlapping hands are not biased.
        let offset = (self.tickets % hand.len() as u64) as usize;
        self.tickets += 1;
        let (late, early) = hand.split_at(offset);
        let least = early.iter().chain(late).min_by_key(|&&at| match self.queues[at].waiting.is_empty() {
            true => 0,
            false => self.queues[at].seats_waiting(),
        });
        least.copied().unwrap_or(0)
    }

    fn begin(&mut self, request: Arriving, at: Option<usize>, about: Option<Arc<About>>, now: Nanos) -> usize {
        let Arriving { slot, seats, is_watch, .. } = request;
        self.totals.executing += 1;
        self.totals.dispatched += 1;
        self.totals.seats_in_use += seats;
        let stats = &mut self.stats[slot].1;
        stats.executing += 1;
        stats.seats_in_use += seats;
        stats.dispatched += 1;
        if let Some(queue) = at.and_then(|at| self.queues.get_mut(at)) {
            self.busy += usize::from(queue.is_idle());
            queue.executing += 1;
            queue.seats_in_use += seats;
            queue.next_r += work(seats);
            queue.bound();
        }
        self.note_demand(now);
        let running = Some(Running { slot, seats, is_watch, queue: at, started: now, about, until: None });
        match self.free.pop() {
            Some(id) => {
                self.running[id] = running;
                id
            }
            None => {
                self.running.push(running);
                self.running.len() - 1
            }
        }
    }

    fn dispatch(&mut self, now: Nanos, ready: &mut Vec<(W, usize)>) {
        while self.totals.waiting > 0
            && (self.totals.seats_in_use < self.limit || self.discipline == Discipline::Exempt)
        {
            let Some(at) = self.next_queue() else { return };
            if !self.queues[at].waiting.front().is_some_and(|oldest| self.fits(oldest.request.seats)) {
                return;
            }
            let Some(Waiting { request, arrived, about, waker, .. }) = self.queues[at].waiting.pop_front() else {
                return;
            };
            self.robin = at;
            self.leave(request);
            let waited = now.saturating_sub(arrived) as f64 / 1e9;
            self.stats[request.slot].1.waits[1].observe(waited);
            // Between the two it is neither waiting nor executing.
            self.busy -= usize::from(self.queues[at].is_idle());
            let id = self.begin(request, Some(at), Some(about), now);
            ready.push((waker, id));
        }
    }

    /// The queue whose oldest request would be done first; after the last one served among equals.
    fn next_queue(&self) -> Option<usize> {
        let count = self.queues.len();
        let mut best: Option<(usize, f64)> = None;
        for at in (1..=count).map(|step| (self.robin + step) % count) {
            let Some(oldest) = self.queues[at].waiting.front() else { continue };
            let end = self.queues[at].next_r + work(oldest.request.seats);
            if best.is_none_or(|(_, least)| end < least) {
                best = Some((at, end));
            }
        }
        best.map(|(at, _)| at)
    }

    fn note_demand(&mut self, now: Nanos) {
        self.demand.set((self.totals.seats_in_use + self.totals.seats_waiting) as f64, now);
    }
}

/// Deals a hand of different cards from a deck, with the hash as the shuffler.
pub fn deal(mut hash: u64, deck: usize, hand: usize, dealt: &mut [usize; HAND_MAX]) -> &[usize] {
    let deck = deck.max(1);
    let hand = hand.clamp(1, deck.min(HAND_MAX));
    for (at, card) in dealt.iter_mut().take(hand).enumerate() {
        let left = (deck - at) as u64;
        *card = (hash % left) as usize;
        hash /= left;
    }
    // Each card is counted among those that are left: from the last dealt before it to the first, it moves up.
    for at in (0..hand).rev() {
        let mut card = dealt[at];
        for before in (0..at).rev() {
            card += usize::from(card >= dealt[before]);
        }
        dealt[at] = card;
    }
    &dealt[..hand]
}
