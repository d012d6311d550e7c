//! Stopping with manners: not ready first, then no new requests, watches end, and what is under way is finished.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, header};
use tokio::time::Instant;

use crate::negotiate::Encoding;
use crate::reply::{self, Reply};
use crate::{Body, Server, Status};

const SERVING: u8 = 0;
const STOPPING: u8 = 1;
const REFUSING: u8 = 2;
const RETRYING: u8 = 3;

#[derive(Default)]
pub struct Stop {
    phase: AtomicU8,
    /// From sockets, with an end of their own.
    in_flight: AtomicU64,
}

/// Counts a request until its handler has answered.
pub struct InFlight<'a>(&'a Stop);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stop {
    pub fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }
}

impl Server {
    /// `/readyz` says so from now on; everything is still served.
    pub fn begin_stop(&self) {
        self.inner.stop.phase.store(STOPPING, Ordering::Relaxed);
    }

    /// Takes no new request from outside, ends the watches, and waits for what is under way. With `retry`, clients are
    /// sent away with upstream's 429 instead of its 503.
    pub async fn drain(&self, retry: bool, most: Duration) {
        const LOOK: Duration = Duration::from_millis(5);
        self.inner.stop.phase.store(if retry { RETRYING } else { REFUSING }, Ordering::Relaxed);
        self.registry().storages().for_each(|storage| storage.wake());
        let deadline = Instant::now() + most;
        while self.inner.stop.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        if let Some(audit) = &self.config().audit {
            audit.flush().await;
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.inner.stop.phase.load(Ordering::Relaxed) != SERVING
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.stop.phase.load(Ordering::Relaxed) >= REFUSING
    }

    /// What a new request from outside is told, if it is too late for it. Probes and scrapes are answered to the end.
    pub(crate) fn too_late(&self, request: &Request<Body>) -> Option<Reply> {
        let is_exempt = |path: &str| ["/readyz", "/livez", "/healthz", "/metrics"].iter().any(|p| path.starts_with(p));
        if !self.is_draining() || is_exempt(request.uri().path()) {
            return None;
        }
        let (mut refusal, after) = match self.inner.stop.phase.load(Ordering::Relaxed) {
            RETRYING => (reply::text(429, "The apiserver is shutting down, please try again later.\n"), 5),
            _ => (reply::status(&Status::unavailable("apiserver is shutting down"), Encoding::Json), 1),
        };
        refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after));
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Some(refusal)
    }
}
