//! The CronJob controller: a Job at each time of a schedule.

use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Propagation, Reference, Row, Trigger, World};
use schema::api::batch::v1::{CronJob, CronJobStatus, Job};
use schema::api::core::v1::ObjectReference;
use schema::api::meta::v1::ObjectMeta;
use schema::api::{Object, Time};

use super::cron::{Schedule, Zone, rfc1123};
use super::job::finished;
use crate::support::{controller_ref, event, is_controlled_by};

const COMPONENT: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So that a clock which is a little behind does not look too early.
const SLACK_NS: i64 = 100_000_000;
/// More missed starts than this are worth a warning.
const MANY: i64 = 100;

pub fn row() -> Row {
    let triggers = vec![Trigger::itself::<CronJob>(), Trigger::controller::<CronJob, Job>()];
    Row::new("cronjob", "cronjob-controller", 5, triggers, reconcile)
}

/// One look at a CronJob.
struct Look<'a> {
    cron: &'a CronJob,
    status: CronJobStatus,
    actions: Vec<Action>,
}

impl Look<'_> {
    fn tell(&mut self, ctx: &mut Ctx, kind: &str, reason: &str, message: String) {
        self.actions.push(event(ctx, self.cron, COMPONENT, kind, reason, message));
    }

    fn forget(&mut self, uid: &str) {
        self.status.active.retain(|active| active.uid != uid);
    }

    fn delete(&mut self, job: &Job, ctx: &mut Ctx) {
        let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        self.actions.push(Action::Delete { of: Reference::to(job), options });
        self.forget(&job.metadata.uid);
        self.tell(ctx, "Normal", "SuccessfulDelete", format!("Deleted job {}", job.name()));
    }
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let Some(cron) = world.get::<CronJob>(key) else { return Plan::nothing() };
    let cron = &**cron;
    let all = world.of::<Job>();
    let owned = all.owned_by(&cron.metadata.uid).map(|job| &**job);
    let jobs: Vec<&Job> = owned.filter(|job| is_controlled_by(&job.metadata, &cron.metadata.uid)).collect();
    let mut look = Look { cron, status: cron.status.clone(), actions: Vec::new() };
    if let Some(failure) = ctx.failure.take() {
        look.tell(ctx, "Warning", "FailedCreate", format!("Error creating job: {failure}"));
    }
    clean_up(&mut look, &jobs, ctx);
    observe(&mut look, &jobs, ctx);
    let again = if cron.metadata.deletion_timestamp.is_none() { start(world, &mut look, ctx) } else { None };
    let mut plan = Plan::from(look.actions);
    if look.status != cron.status {
        plan.push(Action::update_status(CronJob { status: look.status, ..cron.clone() }));
    }
    if let Some(ns) = again {
        plan.requeue(Duration::from_nanos(ns.unsigned_abs()));
    }
    plan
}

/// Deletes finished jobs beyond the limits, the oldest first.
fn clean_up(look: &mut Look<'_>, jobs: &[&Job], ctx: &mut Ctx) {
    let spec = &look.cron.spec;
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit else { continue };
        let ended = |job: &&&Job| {
            job.metadata.deletion_timestamp.is_none() && finished(job).is_some_and(|condition| condition.r#type == kind)
        };
        let mut ended: Vec<&Job> = jobs.iter().filter(ended).copied().collect();
        ended.sort_by_key(|job| (job.status.start_time.is_none(), job.status.start_time, job.name()));
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus) {
            look.delete(job, ctx);
        }
    }
}

fn succeed(status: &mut CronJobStatus, job: &Job) {
    if finished(job).is_some_and(|condition| condition.r#type == "Complete")
        && let Some(at) = job.status.completion_time
    {
        status.last_successful_time = Some(status.last_successful_time.map_or(at, |known| known.max(at)));
    }
}

/// Brings the list of active jobs up to date.
fn observe(look: &mut Look<'_>, jobs: &[&Job], ctx: &mut Ctx) {
    for job in jobs {
        succeed(&mut look.status, job);
        let known = look.status.active.iter().any(|active| active.uid == job.metadata.uid);
        match finished(job) {
            Some(condition) if known => {
                look.forget(&job.metadata.uid);
                let message = format!("Saw completed job: {}, condition: {}", job.name(), condition.r#type);
                look.tell(ctx, "Normal", "SawCompletedJob", message);
            }
            None if !known && job.metadata.deletion_timestamp.is_none() => match scheduled_at(look.cron, job) {
                // We made it a moment ago: only now is its uid known.
                Some(at) => {
                    look.status.active.push(reconcile::reference(*job));
                    look.status.last_schedule_time =
                        Some(look.status.last_schedule_time.map_or(at, |known| known.max(at)));
                }
                None => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    look.tell(ctx, "Warning", "UnexpectedJob", message);
                }
            },
            _ => {}
        }
    }
    let active = look.status.active.iter().filter(|active| !jobs.iter().any(|job| job.metadata.uid == active.uid));
    let lost: Vec<ObjectReference> = active.cloned().collect();
    for active in lost {
        look.forget(&active.uid);
        look.tell(ctx, "Normal", "MissingJob", format!("Active job went missing: {}", active.name));
    }
}

/// When a job of ours was due: its name and its annotation agree.
fn scheduled_at(cron: &CronJob, job: &Job) -> Option<Time> {
    let (seconds, _) = schema::time::parse(job.metadata.annotations.get(SCHEDULED)?)?;
    (job.name() == job_name(cron, seconds)).then_some(Time { seconds })
}

fn job_name(cron: &CronJob, seconds: i64) -> String {
    format!("{}-{}", cron.name(), seconds.div_euclid(60))
}

/// Starts the job that is due, if any; how many nanoseconds until the next one is.
fn start(world: &World, look: &mut Look<'_>, ctx: &mut Ctx) -> Option<i64> {
    let cron = look.cron;
    let spec = &cron.spec;
    let Some(zone) = Zone::named(spec.time_zone.as_deref()) else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        look.tell(ctx, "Warning", "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
        return None;
    };
    if spec.suspend == Some(true) {
        return None;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            look.tell(ctx, "Warning", "UnparseableSchedule", message);
            return None;
        }
    };
    let now = ctx.now_seconds();
    let begin = look.status.last_schedule_time.unwrap_or(cron.metadata.creation_timestamp).seconds;
    let from = spec.starting_deadline_seconds.map_or(begin, |deadline| begin.max(now - deadline));
    let Ok(due) = recent(&schedule, &zone, from, now) else {
        let why = "time difference between two schedules is less than 1 second";
        let message = format!("invalid schedule: {} : {why}", spec.schedule);
        look.tell(ctx, "Warning", "InvalidSchedule", message);
        return None;
    };
    let next = recent(&schedule, &zone, begin, now).ok().and_then(|all| {
        let after = all.at.unwrap_or(if all.missed == 0 { begin } else { now });
        schedule.next(after, &zone).map(|at| at * 1_000_000_000 + SLACK_NS - ctx.now_ns)
    });
    let Some(at) = due.at else { return next };
    if due.missed > MANY {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        look.tell(ctx, "Warning", "TooManyMissedTimes", message.to_owned());
    }
    if spec.starting_deadline_seconds.is_some_and(|deadline| (at + deadline) * 1_000_000_000 < ctx.now_ns) {
        look.tell(ctx, "Warning", "MissSchedule", format!("Missed scheduled time to start a job: {}", rfc1123(at)));
        return next;
    }
    let name = job_name(cron, at);
    let done = look.status.last_schedule_time == Some(Time { seconds: at })
        || look.status.active.iter().any(|active| active.name == name);
    if done || world.of::<Job>().named(cron.namespace(), &name).is_some() {
        return next;
    }
    match &*spec.concurrency_policy {
        "Forbid" if !look.status.active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            look.tell(ctx, "Normal", "JobAlreadyActive", message.to_owned());
            return next;
        }
        "Replace" => {
            for active in look.status.active.clone() {
                if let Some(job) = world.of::<Job>().named(cron.namespace(), &active.name) {
                    look.delete(job, ctx);
                }
            }
        }
        _ => {}
    }
    let template = &spec.job_template;
    let mut annotations = template.metadata.annotations.clone();
    annotations.insert(SCHEDULED.to_owned(), zone.format(at));
    look.actions.push(Action::create(Job {
        metadata: ObjectMeta {
            name: name.clone(),
            namespace: cron.namespace().to_owned(),
            labels: template.metadata.labels.clone(),
            annotations,
            owner_references: vec![controller_ref(cron)],
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Job::default()
    }));
    look.tell(ctx, "Normal", "SuccessfulCreate", format!("Created job {name}"));
    next
}

/// The latest time of a schedule since `from`, and about how many there were.
struct Recent {
    at: Option<i64>,
    missed: i64,
}

/// No two different times: the schedule never comes true.
struct Never;

fn recent(schedule: &Schedule, zone: &Zone, from: i64, now: i64) -> Result<Recent, Never> {
    let first = schedule.next(from, zone).ok_or(Never)?;
    if now < first {
        return Ok(Recent { at: None, missed: 0 });
    }
    let Some(second) = schedule.next(first, zone) else { return Ok(Recent { at: Some(first), missed: 0 }) };
    if now < second {
        return Ok(Recent { at: Some(first), missed: 0 });
    }
    let missed = (now - first) / (second - first) + 1;
    let mut at = None;
    let mut next = schedule.next(first + (missed - 2) * (second - first), zone);
    while let Some(time) = next.filter(|time| *time <= now) {
        at = Some(time);
        next = schedule.next(time, zone);
    }
    Ok(Recent { at, missed })
}
