//! Between a request and what writes its events: upstream's modes, truncation and counts of what is lost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::{Event, Sink, Webhook};
use crate::{Server, seams::BoxFuture};

/// Whether requests wait for their events to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They do not; what finds no room is lost.
    Batch,
    Blocking,
    /// They do, and go on only if their first event was written.
    BlockingStrict,
}

/// One event to be written.
pub struct Job {
    pub event: Arc<Event>,
    /// Is told whether it was.
    done: Option<oneshot::Sender<bool>>,
    _place: Place,
}

/// Events on their way out.
#[derive(Default)]
pub struct Waiting {
    events: AtomicUsize,
    /// The server stops: nothing waits for more to come.
    pub hurry: watch::Sender<bool>,
}

/// Of one event among them.
struct Place(Arc<Waiting>);

impl Place {
    fn take(waiting: &Arc<Waiting>) -> Place {
        waiting.events.fetch_add(1, Ordering::Relaxed);
        Place(waiting.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.events.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Job {
    pub fn done(self, written: bool) {
        if let Some(done) = self.done {
            let _ = done.send(written);
        }
    }
}

/// Events that were lost by one of upstream's plugins.
pub struct Lost {
    plugin: &'static str,
    events: AtomicU64,
}

impl Lost {
    fn new(plugin: &'static str) -> Arc<Lost> {
        Arc::new(Lost { plugin, events: AtomicU64::new(0) })
    }

    /// Says so once until something is written again.
    pub fn add(&self, events: u64, why: &dyn std::fmt::Display, is_first: bool) {
        self.events.fetch_add(events, Ordering::Relaxed);
        if is_first {
            tracing::error!(plugin = self.plugin, %why, "audit events are lost");
        }
    }
}

/// One way out of the server.
pub struct Backend {
    mode: Mode,
    event_bytes_max: Option<u64>,
    queue: mpsc::Sender<Job>,
    waiting: Arc<Waiting>,
    /// For the worker; the others are this one's own.
    written: Arc<Lost>,
    buffered: Arc<Lost>,
    truncated: Arc<Lost>,
    /// Until its worker runs, for which it needs the server.
    webhook: Mutex<Option<(Webhook, mpsc::Receiver<Job>)>>,
}

impl Backend {
    /// With the events that somebody must write, and the count of those that could not be.
    pub fn new(
        plugin: &'static str,
        mode: Mode,
        event_bytes_max: Option<u64>,
        buffer: usize,
    ) -> (Backend, mpsc::Receiver<Job>, Arc<Lost>) {
        let (queue, jobs) = mpsc::channel(buffer);
        let written = Lost::new(plugin);
        let backend = Backend {
            mode,
            event_bytes_max,
            queue,
            waiting: Arc::default(),
            written: written.clone(),
            buffered: Lost::new("buffered"),
            truncated: Lost::new("truncate"),
            webhook: Mutex::new(None),
        };
        (backend, jobs, written)
    }

    pub fn webhook(mode: Mode, event_bytes_max: Option<u64>, buffer: usize, mut webhook: Webhook) -> Backend {
        let (backend, jobs, _) = Backend::new("webhook", mode, event_bytes_max, buffer);
        if mode != Mode::Batch {
            // Requests wait for their own events alone.
            (webhook.batch_size_max, webhook.throttle) = (1, None);
        }
        Backend { webhook: Mutex::new(Some((webhook, jobs))), ..backend }
    }

    /// The event itself, or what is left of it in the room there is.
    fn fitting(&self, event: Arc<Event>) -> Option<Arc<Event>> {
        let Some(most) = self.event_bytes_max else { return Some(event) };
        let fits = |event: &Event| event.json().len() as u64 <= most;
        if fits(&event) {
            return Some(event);
        }
        let cut = event.truncated();
        if fits(&cut) {
            return Some(Arc::new(cut));
        }
        self.truncated.add(1, &"event is too large even after truncating", true);
        None
    }

    async fn process(&self, server: &Server, event: Arc<Event>) -> bool {
        let waiting = self.webhook.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((webhook, jobs)) = waiting {
            let (waiting, written) = (self.waiting.clone(), self.written.clone());
            tokio::spawn(webhook.run(server.clone(), jobs, waiting, written));
        }
        let Some(event) = self.fitting(event) else { return true };
        let _place = Place::take(&self.waiting);
        if self.mode == Mode::Batch {
            if self.queue.try_send(Job { event, done: None, _place }).is_err() {
                let is_first = self.buffered.events.load(Ordering::Relaxed) == 0;
                self.buffered.add(1, &"audit buffer queue blocked", is_first);
            }
            return true;
        }
        let (done, told) = oneshot::channel();
        let sent = self.queue.send(Job { event, done: Some(done), _place }).await;
        let written = sent.is_ok() && told.await.unwrap_or(false);
        written || self.mode == Mode::Blocking
    }
}

/// All ways out.
pub struct Backends(pub Vec<Backend>);

impl Sink for Backends {
    fn process<'a>(&'a self, server: &'a Server, event: Arc<Event>) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let mut written = true;
            for backend in &self.0 {
                written &= backend.process(server, event.clone()).await;
            }
            written
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        const AT_MOST: Duration = Duration::from_secs(10);
        const LOOK: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + AT_MOST;
        Box::pin(async move {
            for backend in &self.0 {
                backend.waiting.hurry.send_replace(true);
                while backend.waiting.events.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
                    sleep(LOOK).await;
                }
            }
        })
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        let mut out = std::collections::BTreeMap::new();
        let counts = self.0.iter().flat_map(|backend| [&backend.written, &backend.buffered, &backend.truncated]);
        for lost in counts {
            *out.entry(lost.plugin).or_default() += lost.events.load(Ordering::Relaxed);
        }
        out.into_iter().collect()
    }
}
