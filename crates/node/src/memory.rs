//! What a pod's worker knows besides the pod and its containers: what was tried, how it went, and when to try again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schema::api::core::v1::{PodStatus, ResourceRequirements};

use crate::ports::{Image, Nanos};
use crate::resize::{Deferred, InProgress};

pub const SECOND: Nanos = 1_000_000_000;
const CRASH_BACKOFF: Nanos = 10 * SECOND;
/// Of pulls, which no setting changes.
pub const PULL_BACKOFF_MAX: Nanos = 300 * SECOND;

/// A reason and message as they stand in a container's `waiting` state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub retry_at: Nanos,
}

/// A step that the whole pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// It succeeded once.
    pub done: bool,
    /// It must be done (again).
    pub dirty: bool,
    pub failure: Option<Failure>,
    pub attempts: u32,
    /// When it becomes dirty by itself.
    pub refresh_at: Option<Nanos>,
}

impl Step {
    pub fn todo() -> Self {
        Self { dirty: true, ..Self::default() }
    }

    /// It is being done, with what is known now: what changes meanwhile makes it dirty again.
    pub fn begin(&mut self) {
        self.dirty = false;
    }

    pub fn succeed(&mut self, refresh_at: Option<Nanos>) {
        *self = Self { done: true, dirty: self.dirty, refresh_at, ..Self::default() };
    }

    /// Tries again after 0.5 s, 1 s, … 2 min.
    pub fn fail(&mut self, reason: &str, message: String, now: Nanos) {
        let delay = (SECOND / 2) << self.attempts.min(8);
        self.attempts += 1;
        self.dirty = true;
        self.failure = Some(Failure { reason: reason.into(), message, retry_at: now + delay.min(122 * SECOND) });
    }

    pub fn next(&self) -> Option<Nanos> {
        match &self.failure {
            Some(failure) if self.dirty => Some(failure.retry_at),
            _ => self.refresh_at,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ImageState {
    Ready(Image),
    /// Being pulled, or waiting in the queue.
    Wanted,
    Failed(Failure),
}

/// Restarts of one container: upstream's `flowcontrol.Backoff` from 10 s to 5 min, forgotten after 10 min.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crash {
    pub delay: Nanos,
    pub updated_at: Nanos,
    /// The longest delay when it was last set.
    most: Nanos,
}

impl Crash {
    fn expired(&self, ended: Nanos) -> bool {
        self.delay == 0 || ended - self.updated_at > 2 * self.most
    }

    /// Until when a container that ended at `ended` waits.
    pub fn until(&self, ended: Nanos) -> Option<Nanos> {
        (!self.expired(ended)).then_some(ended + self.delay)
    }

    /// Notes a restart; `most` is the longest that one waits.
    pub fn next(&mut self, ended: Nanos, now: Nanos, most: Nanos) {
        self.delay = if self.expired(ended) { CRASH_BACKOFF } else { self.delay * 2 }.min(most);
        (self.updated_at, self.most) = (now, most);
    }
}

/// What probes found about one run of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    pub started: bool,
    pub ready: bool,
    /// Why it must be killed.
    pub failed: Option<String>,
    /// Of the probe that failed.
    pub grace_seconds: Option<i64>,
}

/// A container that is being stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopping {
    pub since: Nanos,
    pub pre_stopped: bool,
}

/// Why the pod ends though nobody deleted it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub reason: String,
    pub message: String,
    /// Instead of the pod's own.
    pub grace_seconds: Option<i64>,
    /// The message of the condition `DisruptionTarget`, if that is set.
    pub disrupted: Option<String>,
    /// It was never let in: there is nothing to stop.
    pub rejected: bool,
}

impl End {
    pub fn new(reason: &str, message: String) -> Self {
        Self { reason: reason.into(), message, ..Self::default() }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The last status that was made: what must never go back is read from it.
    pub status: PodStatus,
    pub volumes: Step,
    pub sandbox: Step,
    pub network: Step,
    /// The attempt of the next sandbox.
    pub next_sandbox: u32,
    pub images: BTreeMap<String, ImageState>,
    /// Containers whose image was looked for since they last started, as their pull policy says.
    pub checked: BTreeSet<String>,
    /// Containers that could not be created or started, by name.
    pub starts: BTreeMap<String, Failure>,
    pub crashes: BTreeMap<String, Crash>,
    /// By container id.
    pub probes: BTreeMap<String, Probed>,
    /// By container id.
    pub stopping: BTreeMap<String, Stopping>,
    /// Containers that are started or whose postStart hook runs: they are not running yet, and hold back what follows.
    pub post_start: BTreeSet<String>,
    /// Containers that were stopped to run anew at once; until they do, nobody is told that they do not run.
    pub replacing: BTreeSet<String>,
    /// Requests and limits that a container runs with, by its id.
    pub applied: BTreeMap<String, ResourceRequirements>,
    /// A resize that has no room yet, and one that the containers do not have yet.
    pub deferred: Option<Deferred>,
    pub resizing: Option<InProgress>,
    /// Termination messages by container id.
    pub messages: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    pub end: Option<End>,
    /// When the pod began to end.
    pub ending_since: Option<Nanos>,
    /// The API has the pod no more.
    pub orphaned: bool,
    pub sandbox_stopped: bool,
    /// Volumes and cgroup of an ended pod are gone.
    pub released: bool,
    /// Nothing is left on this machine.
    pub torn_down: bool,
}

impl Memory {
    pub fn new(status: PodStatus) -> Self {
        let (volumes, sandbox, network) = (Step::todo(), Step::todo(), Step::todo());
        Self { status, volumes, sandbox, network, ..Self::default() }
    }

    /// Moves every time that was reckoned from the clock as it was before it was set.
    pub fn shift(&mut self, by: Nanos) {
        for step in [&mut self.volumes, &mut self.sandbox, &mut self.network] {
            step.failure.iter_mut().for_each(|failure| failure.retry_at += by);
        }
        // When tokens and certificates end is told by others: they are looked at again.
        self.volumes.dirty |= self.volumes.refresh_at.is_some();
        for image in self.images.values_mut() {
            if let ImageState::Failed(failure) = image {
                failure.retry_at += by;
            }
        }
        self.starts.values_mut().for_each(|failure| failure.retry_at += by);
        self.crashes.values_mut().for_each(|crash| crash.updated_at += by);
        self.stopping.values_mut().for_each(|stopping| stopping.since += by);
        self.ending_since.iter_mut().for_each(|since| *since += by);
    }
}
