//! The audit log: what is told of a request, to whom, and when.
//!
//! [`Audit`] is what a server is given: a [`Policy`] and a [`Sink`]. Each request that the policy covers has a [`Trail`],
//! which gathers its event and tells it at each stage; it travels with the request's warnings.

mod backend;
mod event;
mod policy;
mod trail;
mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use backend::{Backend, Backends, Job, Lost, Mode};
pub use event::Event;
pub use policy::{LEVELS, Level, Policy, Stage};
pub use trail::Trail;
pub use webhook::Webhook;

use crate::{Server, seams::BoxFuture};

/// Where events go. How long it may keep a request waiting is its own matter.
pub trait Sink: Send + Sync {
    /// Takes an event. False: it is lost, and the request must not go on without.
    fn process<'a>(&'a self, server: &'a Server, event: Arc<Event>) -> BoxFuture<'a, bool>;

    /// Writes what waits to be written, as far as that can be done in seconds: the server stops.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// How many events were lost, by upstream's name of the part that lost them.
    fn lost(&self) -> Vec<(&'static str, u64)>;
}

pub struct Audit {
    policy: Policy,
    sink: Arc<dyn Sink>,
    /// Requests by level.
    levels: [AtomicU64; LEVELS.len()],
    events: AtomicU64,
    rejected: AtomicU64,
}

impl Audit {
    pub fn new(policy: Policy, sink: Arc<dyn Sink>) -> Self {
        Audit { policy, sink, levels: Default::default(), events: AtomicU64::new(0), rejected: AtomicU64::new(0) }
    }

    pub(crate) async fn flush(&self) {
        self.sink.flush().await;
    }

    /// For `/metrics`, under upstream's names.
    pub(crate) fn metrics(&self) -> String {
        use std::fmt::Write;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut out = format!(
            "# HELP apiserver_audit_event_total Events sent to the audit backends.\n# TYPE apiserver_audit_event_total counter\napiserver_audit_event_total {}\n# HELP apiserver_audit_requests_rejected_total Requests refused because they could not be audited.\n# TYPE apiserver_audit_requests_rejected_total counter\napiserver_audit_requests_rejected_total {}\n# HELP apiserver_audit_level_total Requests by the level of their audit.\n# TYPE apiserver_audit_level_total counter\n",
            count(&self.events),
            count(&self.rejected)
        );
        for ((name, _), counter) in LEVELS.iter().zip(&self.levels) {
            let _ = writeln!(out, "apiserver_audit_level_total{{level=\"{name}\"}} {}", count(counter));
        }
        out.push_str("# HELP apiserver_audit_error_total Events lost, by the part that lost them.\n# TYPE apiserver_audit_error_total counter\n");
        for (plugin, lost) in self.sink.lost() {
            let _ = writeln!(out, "apiserver_audit_error_total{{plugin=\"{plugin}\"}} {lost}");
        }
        out
    }
}
