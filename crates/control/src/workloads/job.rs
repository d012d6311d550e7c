//! The Job controller: pods run until enough of them have succeeded, or too many have failed.
//!
//! A pod is counted once: it ends with the finalizer [`TRACKING`]; its uid (or completed index) is written into the
//! status; the finalizer is removed; the next look turns what has no finalizer any more into numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reconcile::{Action, Ctx, Key, Patch, Plan, Reference, Row, Trigger, World};
use schema::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use schema::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use schema::api::{Kind, Object};
use serde_json::json;

use super::failures::{backoff, backoff_of, counts, finished_at, is_failed, rule};
use super::indexes::Indexes;
use super::{adopters, pods};
use crate::support::{
    Matcher, claim, controller_of, event, is_active, is_controlled_by, is_ready, is_terminal, key, time,
};

const COMPONENT: &str = "job-controller";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const MANAGER: &str = "kubernetes.io/job-controller";
/// Creations or deletions of one look, and pods on their way into the counts.
const BURST: usize = 500;

pub fn row() -> Row {
    let triggers = vec![
        Trigger::itself::<Job>(),
        Trigger::controller::<Job, Pod>(),
        Trigger::on::<Pod>(|world, _, new| {
            adopters::<Job, _>(world, new, |owner| Matcher::new(owner.spec.selector.as_ref()))
        }),
    ];
    Row::new("job", "job-controller", 5, triggers, reconcile)
}

/// Pods whose Job is gone or done let go of the finalizer; by pod.
pub fn orphans_row() -> Row {
    let triggers = vec![
        Trigger::on::<Pod>(|_, _, new| new.filter(|pod| is_tracked(pod)).map(Key::of).into_iter().collect()),
        Trigger::on::<Job>(|world, old, new| {
            let done = old.or(new).filter(|_| new.is_none_or(|job| finished(job).is_some()));
            let pods = done
                .map(|job| pods::owned(world, &job.metadata.uid).filter(|pod| is_tracked(pod)).map(Key::of).collect());
            pods.unwrap_or_default()
        }),
    ];
    Row::new("job-orphan-pods", "job-controller", 5, triggers, release)
}

pub fn release(world: &World, at: &Key, _: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(pod) = world.get::<Pod>(at).filter(|pod| is_tracked(pod)) else { return plan };
    let keeps = controller_of(&pod.metadata).is_some_and(|owner| {
        let ours = owner.kind == Job::KIND && owner.api_version == Job::api_version();
        let job = world.get::<Job>(&key(&at.namespace, &owner.name)).filter(|job| job.metadata.uid == owner.uid);
        !ours || job.is_some_and(|job| is_foreign(job) || finished(job).is_none())
    });
    if !keeps {
        plan.push(untrack(pod));
    }
    plan
}

/// The condition of a Job that came to its end.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.conditions.iter();
    conditions.find(|condition| matches!(&*condition.r#type, "Complete" | "Failed") && condition.status == "True")
}

fn is_foreign(job: &Job) -> bool {
    job.spec.managed_by.as_ref().is_some_and(|manager| manager != MANAGER)
}

/// Not counted yet.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

fn untrack(pod: &Pod) -> Action {
    let patch = Patch::Strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [TRACKING]}}));
    Action::Patch { of: Reference::to(pod), subresource: None, patch }
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    let given = pod.metadata.annotations.get(annotation).and_then(|number| number.parse().ok());
    given.filter(|number| *number >= 0).unwrap_or(0)
}

fn count<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

/// How a Job ends: FailureTarget or SuccessCriteriaMet first, Failed or Complete when all pods are gone.
struct End {
    success: bool,
    reason: String,
    message: String,
    /// An earlier look has written the first condition.
    told: bool,
}

impl End {
    fn failure(reason: &str, message: &str) -> Option<Self> {
        Some(Self { success: false, reason: reason.to_owned(), message: message.to_owned(), told: false })
    }

    fn success(reason: &str, message: &str) -> Option<Self> {
        Some(Self { success: true, reason: reason.to_owned(), message: message.to_owned(), told: false })
    }

    /// What an earlier look decided stays.
    fn told(status: &JobStatus) -> Option<Self> {
        let condition = |kind: &str| {
            status.conditions.iter().find(|condition| condition.r#type == kind && condition.status == "True")
        };
        let found = condition("SuccessCriteriaMet").or_else(|| condition("FailureTarget"))?;
        let (reason, message) = (found.reason.clone(), found.message.clone());
        Some(Self { success: found.r#type == "SuccessCriteriaMet", reason, message, told: true })
    }
}

/// One look at a Job.
struct Look<'a> {
    job: &'a Job,
    pods: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    uncounted: UncountedTerminatedPods,
    succeeded: i32,
    failed: i32,
    ready: i32,
    terminating: i32,
    /// Indexes that the status has, those with this look's, those that failed for good.
    known: Indexes,
    completed: Indexes,
    failed_indexes: Option<Indexes>,
    /// With a limit per index: failed pods that stay until their replacement has taken over their counts.
    awaiting: BTreeMap<i32, &'a Pod>,
    now_seconds: i64,
    again_seconds: Option<i64>,
    actions: Vec<Action>,
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(job) = world.get::<Job>(key) else { return plan };
    let job = &**job;
    if is_foreign(job) || finished(job).is_some() {
        return plan;
    }
    let matcher = Matcher::new(job.spec.selector.as_ref());
    let claimed = claim(job, &matcher, world.of::<Pod>(), |_| true, &mut plan.actions);
    for pod in claimed.iter().filter(|pod| !is_controlled_by(&pod.metadata, &job.metadata.uid) && !is_tracked(pod)) {
        let patch = Patch::Strategic(json!({"metadata": {"finalizers": [TRACKING]}}));
        plan.push(Action::Patch { of: Reference::to(*pod), subresource: None, patch });
    }
    if !plan.actions.is_empty() {
        return plan;
    }
    let mut look = Look::new(job, claimed, ctx.now_seconds());
    let mut status = job.status.clone();
    if let Some(failure) = ctx.failure.take() {
        plan.push(event(ctx, job, COMPONENT, "Warning", "FailedCreate", format!("Error creating: {failure}")));
    }
    if status.start_time.is_none() && !look.is_suspended() {
        status.start_time = Some(time(ctx));
    }
    let mut end = look.verdict(&status);
    let mut told = Vec::new();
    let active = if end.is_some() {
        look.terminating += count(&look.active);
        look.ready = 0;
        look.actions.extend(pods::delete(job, COMPONENT, &look.active, ctx));
        0
    } else {
        let active = if job.metadata.deletion_timestamp.is_none() { look.manage(ctx) } else { count(&look.active) };
        let complete =
            job.spec.completions.map_or(look.succeeded > 0, |completions| look.succeeded >= completions) && active == 0;
        if complete {
            end = End::success("CompletionsReached", "Reached expected number of succeeded pods");
        } else if job.metadata.deletion_timestamp.is_none() {
            told.extend(suspend(job, &mut status, ctx));
        }
        active
    };
    (status.active, status.ready, status.terminating) = (active, Some(look.ready), Some(look.terminating));
    let untracked = look.track(&mut status, end.as_ref());
    if let Some(end) = &end {
        told.extend(conclude(job, &mut status, end, &look, untracked.is_empty(), ctx));
    }
    plan.actions.extend(look.actions);
    if status != job.status {
        plan.push(Action::update_status(Job { status, ..job.clone() }));
    }
    // Only what the status remembers may go.
    plan.actions.extend(untracked.into_iter().map(untrack));
    for (kind, reason, message) in told {
        plan.push(event(ctx, job, COMPONENT, kind, &reason, message));
    }
    if let Some(seconds) = look.again_seconds {
        plan.requeue(Duration::from_secs(seconds.unsigned_abs()));
    }
    plan
}

type Told = (&'static str, String, String);

fn set_condition(status: &mut JobStatus, ctx: &Ctx, kind: &str, value: &str, reason: &str, message: &str) -> bool {
    let held = status.conditions.iter_mut().find(|condition| condition.r#type == kind);
    if held
        .as_ref()
        .map_or(value == "False", |held| held.status == value && held.reason == reason && held.message == message)
    {
        return false;
    }
    let condition = JobCondition {
        r#type: kind.to_owned(),
        status: value.to_owned(),
        last_probe_time: time(ctx),
        last_transition_time: time(ctx),
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..JobCondition::default()
    };
    match held {
        Some(held) => *held = condition,
        None => status.conditions.push(condition),
    }
    true
}

/// The Suspended condition and the start time that goes with it.
fn suspend(job: &Job, status: &mut JobStatus, ctx: &Ctx) -> Option<Told> {
    let suspended = job.spec.suspend == Some(true);
    let (value, reason, message) =
        if suspended { ("True", "Suspended", "Job suspended") } else { ("False", "Resumed", "Job resumed") };
    if !set_condition(status, ctx, "Suspended", value, &format!("Job{reason}"), message) {
        return None;
    }
    // The deadline counts the time since the Job was last resumed.
    status.start_time = (!suspended).then(|| time(ctx));
    Some(("Normal", reason.to_owned(), message.to_owned()))
}

/// Writes the conditions of the end: the second when the first is known and nothing is left to count or to wait for.
fn conclude(
    job: &Job,
    status: &mut JobStatus,
    end: &End,
    look: &Look<'_>,
    all_untracked: bool,
    ctx: &Ctx,
) -> Option<Told> {
    let (first, last) = if end.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    set_condition(status, ctx, first, "True", &end.reason, &end.message);
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let counted = uncounted.is_none_or(|uncounted| uncounted.succeeded.is_empty() && uncounted.failed.is_empty());
    if !end.told || !counted || !all_untracked || look.terminating > 0 {
        return None;
    }
    set_condition(status, ctx, last, "True", &end.reason, &end.message);
    if !end.success {
        return Some(("Warning", end.reason.clone(), end.message.clone()));
    }
    status.completion_time = Some(time(ctx));
    let (kind, reason, message) = match job.spec.completions {
        Some(completions) if status.succeeded > completions => {
            let message = "Too many succeeded pods running after completion count reached";
            ("Warning", "TooManySucceededPods", message)
        }
        _ => ("Normal", "Completed", "Job completed"),
    };
    Some((kind, reason.to_owned(), message.to_owned()))
}

impl<'a> Look<'a> {
    fn new(job: &'a Job, mut pods: Vec<&'a Pod>, now_seconds: i64) -> Self {
        pods.sort_by_key(|pod| (index_of(pod), pod.metadata.creation_timestamp, pod.name()));
        let active: Vec<&Pod> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
        let going: Vec<_> =
            pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !is_terminal(pod)).collect();
        let mut look = Self {
            job,
            ready: count(&active.iter().filter(|pod| is_ready(pod)).collect::<Vec<_>>()),
            terminating: count(&going),
            active,
            pods,
            uncounted: job.status.uncounted_terminated_pods.clone().unwrap_or_default(),
            succeeded: 0,
            failed: 0,
            known: Indexes::default(),
            completed: Indexes::default(),
            failed_indexes: None,
            awaiting: BTreeMap::new(),
            now_seconds,
            again_seconds: None,
            actions: Vec::new(),
        };
        let fresh = |uncounted: &[String], of: &dyn Fn(&Pod) -> bool| {
            count(&look.countable().filter(|pod| !uncounted.contains(&pod.metadata.uid) && of(pod)).collect::<Vec<_>>())
        };
        let succeeded = fresh(&look.uncounted.succeeded, &|pod| pod.status.phase == "Succeeded");
        let failed = fresh(&look.uncounted.failed, &|pod| is_failed(job, pod) && counts(job, pod));
        look.succeeded = job.status.succeeded + succeeded + count(&look.uncounted.succeeded);
        look.failed = job.status.failed + failed + count(&look.uncounted.failed);
        if look.is_indexed() {
            look.known = Indexes::parse(&job.status.completed_indexes, look.completions());
            let done = look.countable().filter(|pod| pod.status.phase == "Succeeded").filter_map(index_of);
            look.completed = look.known.with(done);
            look.succeeded = look.completed.total();
        }
        if let Some(limit) = job.spec.backoff_limit_per_index {
            let known = Indexes::parse(job.status.failed_indexes.as_deref().unwrap_or(""), look.completions());
            let failed = look.countable().filter(|pod| look.fails_index(pod, limit)).filter_map(index_of);
            look.failed_indexes = Some(known.with(failed));
            look.awaiting = look.find_awaiting();
        }
        look
    }

    fn is_indexed(&self) -> bool {
        self.job.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.job.spec.suspend == Some(true)
    }

    fn completions(&self) -> i32 {
        self.job.spec.completions.unwrap_or(1)
    }

    /// Pods that have not been counted; of an Indexed Job only those with an index of it.
    fn countable(&self) -> impl Iterator<Item = &'a Pod> {
        let bound = self.is_indexed().then(|| self.completions());
        self.pods.iter().copied().filter(move |pod| {
            is_tracked(pod) && bound.is_none_or(|bound| index_of(pod).is_some_and(|index| index < bound))
        })
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        is_failed(self.job, pod)
            && match rule(self.job, pod) {
                Some(("FailIndex", _)) => true,
                Some(("Ignore", _)) => false,
                _ => number(pod, INDEX_FAILURES) >= limit,
            }
    }

    /// The last failed pod of each index that is neither done nor active again.
    fn find_awaiting(&self) -> BTreeMap<i32, &'a Pod> {
        let active: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let failures = |pod: &Pod| number(pod, INDEX_FAILURES) + number(pod, INDEX_IGNORED);
        let mut awaiting: BTreeMap<i32, &Pod> = BTreeMap::new();
        for pod in self.countable().filter(|pod| is_failed(self.job, pod)) {
            let Some(index) = index_of(pod) else { continue };
            if self.completed.has(index)
                || self.failed_indexes.as_ref().is_some_and(|failed| failed.has(index))
                || active.contains(&index)
            {
                continue;
            }
            let held = awaiting.entry(index).or_insert(pod);
            if failures(held) <= failures(pod) && finished_at(pod) >= finished_at(held) {
                *held = pod;
            }
        }
        awaiting
    }

    fn again(&mut self, seconds: i64) {
        self.again_seconds = Some(self.again_seconds.map_or(seconds, |sooner| sooner.min(seconds)));
    }

    /// Whether the Job is at its end, other than by completions.
    fn verdict(&mut self, status: &JobStatus) -> Option<End> {
        let spec = &self.job.spec;
        if let Some(told) = End::told(status) {
            return Some(told);
        }
        let mut failed = self.pods.iter().filter(|pod| is_failed(self.job, pod)).filter_map(|pod| rule(self.job, pod));
        let fatal = failed.find(|(action, _)| *action == "FailJob");
        if let Some((_, message)) = fatal {
            return End::failure("PodFailurePolicy", &message);
        }
        let limit = spec.backoff_limit.unwrap_or(6);
        let alive = self.pods.iter().filter(|pod| matches!(&*pod.status.phase, "Running" | "Pending"));
        let statuses =
            alive.flat_map(|pod| pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses));
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        if self.failed > limit || spec.template.spec.restart_policy == "OnFailure" && restarts > 0 && restarts >= limit
        {
            return End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(deadline), Some(start), false) =
            (spec.active_deadline_seconds, status.start_time, self.is_suspended())
        {
            let left = start.seconds + deadline - self.now_seconds;
            if left <= 0 {
                return End::failure("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            self.again(left);
        }
        if let Some(failed) = &self.failed_indexes {
            if spec.max_failed_indexes.is_some_and(|most| failed.total() > most) {
                let why = "Job has exceeded the specified maximal number of failed indexes";
                return End::failure("MaxFailedIndexesExceeded", why);
            }
            if !failed.is_empty() && failed.total() + self.completed.total() >= self.completions() {
                return End::failure("FailedIndexes", "Job has failed indexes");
            }
        }
        let rules = &spec.success_policy.as_ref().filter(|_| self.is_indexed() && !self.completed.is_empty())?.rules;
        let met = rules.iter().position(|rule| match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, self.completions());
                let common = wanted.common(&self.completed);
                !wanted.is_empty()
                    && (common == wanted.total() || rule.succeeded_count.is_some_and(|count| common >= count))
            }
            None => rule.succeeded_count.is_some_and(|count| self.completed.total() >= count),
        })?;
        End::success("SuccessPolicy", &format!("Matched rules at index {met}"))
    }

    /// As many pods as shall be active now; returns how many will be.
    fn manage(&mut self, ctx: &mut Ctx) -> i32 {
        let spec = &self.job.spec;
        let active = count(&self.active);
        let parallelism = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            _ if self.is_suspended() => 0,
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        };
        let mut surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !self.is_suspended() {
            surplus.truncate(BURST);
        }
        if !surplus.is_empty() {
            // Not failures: they go uncounted.
            self.actions.extend(surplus.iter().filter(|pod| is_tracked(pod)).map(|pod| untrack(pod)));
            self.actions.extend(pods::delete(self.job, COMPONENT, &surplus, ctx));
            self.terminating += count(&surplus);
            self.ready -= count(&surplus.iter().filter(|pod| is_ready(pod)).collect::<Vec<_>>());
            return active - count(&surplus);
        }
        let ended_only = spec.pod_replacement_policy.as_deref() == Some("Failed");
        let lacking =
            usize::try_from(wanted - active - if ended_only { self.terminating } else { 0 }).unwrap_or(0).min(BURST);
        if lacking == 0 {
            return active;
        }
        let per_index = self.failed_indexes.is_some();
        let wait = if per_index { 0 } else { backoff_of(self.job, &self.pods, self.now_seconds) };
        if wait > 0 {
            self.again(wait);
            return active;
        }
        let indexes: Vec<Option<i32>> = if self.is_indexed() {
            let (ready, waiting): (Vec<i32>, Vec<i32>) =
                self.pending(lacking, ended_only).into_iter().partition(|index| self.wait_of(*index) == 0);
            match waiting.into_iter().map(|index| self.wait_of(index)).min() {
                Some(wait) if ready.is_empty() => self.again(wait),
                _ => {}
            }
            ready.into_iter().map(Some).collect()
        } else {
            vec![None; lacking]
        };
        let made: Vec<Pod> = indexes.into_iter().map(|index| self.new_pod(index, ctx)).collect();
        let active = active + count(&made);
        self.actions.extend(pods::create(self.job, COMPONENT, made, ctx));
        active
    }

    /// The first indexes that are neither done, nor failed, nor held by a pod.
    fn pending(&self, most: usize, ended_only: bool) -> Vec<i32> {
        let held = self.pods.iter().filter(|pod| {
            is_active(pod) || ended_only && pod.metadata.deletion_timestamp.is_some() && !is_terminal(pod)
        });
        let taken = self.completed.with(held.filter_map(|pod| index_of(pod)));
        let taken = self.failed_indexes.as_ref().map_or_else(|| taken.clone(), |failed| taken.and(failed));
        taken.missing(most, self.completions())
    }

    fn wait_of(&self, index: i32) -> i64 {
        self.awaiting.get(&index).map_or(0, |pod| {
            backoff(number(pod, INDEX_FAILURES) + number(pod, INDEX_IGNORED) + 1, finished_at(pod), self.now_seconds)
        })
    }

    /// Active pods to delete: of an Indexed Job those without an index of their own, then as many as are asked for.
    fn surplus(&self, least: usize) -> Vec<&'a Pod> {
        let order = |pods: Vec<&'a Pod>| pods::deletion_order(pods, &[], self.now_seconds);
        let (mut gone, mut left) = (Vec::new(), self.active.clone());
        if self.is_indexed() {
            left.clear();
            let mut by_index: BTreeMap<Option<i32>, Vec<&Pod>> = BTreeMap::new();
            for pod in &self.active {
                by_index.entry(index_of(pod).filter(|index| *index < self.completions())).or_default().push(pod);
            }
            for (index, pods) in by_index {
                let mut pods = order(pods);
                left.extend(index.and_then(|_| pods.pop()));
                gone.extend(pods);
            }
        }
        let more = least.saturating_sub(gone.len());
        gone.extend(order(left).into_iter().take(more));
        gone
    }

    fn new_pod(&self, index: Option<i32>, ctx: &mut Ctx) -> Pod {
        let template = &self.job.spec.template;
        let name = self.job.name();
        let mut pod = match index {
            None => pods::from_template(self.job, template, ctx),
            Some(index) => {
                let suffix = format!("-{index}-");
                let base = name.get(..58 - suffix.len()).unwrap_or(name);
                pods::generated(self.job, template, format!("{base}{suffix}"), ctx)
            }
        };
        if !is_tracked(&pod) {
            pod.metadata.finalizers.push(TRACKING.to_owned());
        }
        let Some(index) = index else { return pod };
        pod.metadata.annotations.insert(INDEX.to_owned(), index.to_string());
        pod.metadata.labels.insert(INDEX.to_owned(), index.to_string());
        pod.spec.hostname = format!("{name}-{index}");
        pod.spec.init_containers.iter_mut().chain(&mut pod.spec.containers).for_each(tell_index);
        if self.failed_indexes.is_some() {
            let former = self.awaiting.get(&index);
            let counted = former.is_some_and(|former| counts(self.job, former));
            let failures = former.map_or(0, |former| number(former, INDEX_FAILURES)) + i32::from(counted);
            let ignored =
                former.map_or(0, |former| number(former, INDEX_IGNORED)) + i32::from(former.is_some() && !counted);
            pod.metadata.annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
            if ignored > 0 {
                pod.metadata.annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
            }
        }
        pod
    }

    /// Takes ended pods into the status and uncounted ones that are released into its numbers; returns those to release.
    fn track(&self, status: &mut JobStatus, end: Option<&End>) -> Vec<&'a Pod> {
        let job = self.job;
        let tracked: BTreeSet<&String> =
            self.pods.iter().filter(|pod| is_tracked(pod)).map(|pod| &pod.metadata.uid).collect();
        let mut uncounted = self.uncounted.clone();
        for (uids, number) in
            [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
        {
            let before = count(uids);
            uids.retain(|uid| tracked.contains(uid));
            *number += before - count(uids);
        }
        let (mut released, mut completed) = (Vec::new(), Vec::new());
        for pod in self.pods.iter().copied().filter(|pod| is_tracked(pod)) {
            let (uid, failed, index) = (&pod.metadata.uid, is_failed(job, pod), index_of(pod));
            let succeeded = pod.status.phase == "Succeeded";
            let held_back = index
                .is_some_and(|index| self.awaiting.get(&index).is_some_and(|awaiting| awaiting.metadata.uid == *uid));
            if !(job.metadata.deletion_timestamp.is_some() || end.is_some() || succeeded || failed && !held_back) {
                continue;
            }
            released.push(pod);
            let valid = !self.is_indexed() || index.is_some_and(|index| index < self.completions());
            if succeeded && !self.uncounted.failed.contains(uid) {
                if self.is_indexed() {
                    completed.extend(index.filter(|index| valid && !self.known.has(*index)));
                } else if !uncounted.succeeded.contains(uid) {
                    uncounted.succeeded.push(uid.clone());
                }
            } else if (failed || end.is_some_and(|end| !end.success))
                && valid
                && !uncounted.failed.contains(uid)
                && counts(job, pod)
            {
                uncounted.failed.push(uid.clone());
            }
            if completed.len() + uncounted.succeeded.len() + uncounted.failed.len() >= BURST {
                break;
            }
        }
        if self.is_indexed() {
            let completed = self.known.with(completed);
            status.succeeded = completed.total();
            status.completed_indexes = completed.to_string();
            status.failed_indexes = self.failed_indexes.as_ref().map(Indexes::to_string);
        }
        status.uncounted_terminated_pods = Some(uncounted);
        released
    }
}

/// The container's environment has its index.
fn tell_index(container: &mut Container) {
    if container.env.iter().any(|variable| variable.name == INDEX_ENV) {
        return;
    }
    let field =
        ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..ObjectFieldSelector::default() };
    container.env.push(EnvVar {
        name: INDEX_ENV.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}
