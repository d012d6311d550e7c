//! Jobs with `ttlSecondsAfterFinished` are deleted that long after their end.

use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Propagation, Reference, Row, Trigger, World};
use schema::api::batch::v1::Job;

pub fn row() -> Row {
    Row {
        name: "ttl-after-finished",
        user: "system:serviceaccount:kube-system:ttl-after-finished-controller",
        triggers: vec![Trigger::on::<Job>(|_, _, new| new.filter(|job| expiry(job).is_some()).map(Key::of).into_iter().collect())],
        reconcile: Box::new(reconcile),
        parallel: 4,
    }
}

/// Seconds since 1970 at which a finished job is to go.
fn expiry(job: &Job) -> Option<i64> {
    let ended = job.status.conditions.iter().find(|condition| condition.status == "True" && matches!(&*condition.r#type, "Complete" | "Failed"))?;
    Some(ended.last_transition_time.seconds + i64::from(job.spec.ttl_seconds_after_finished?))
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let job = world.get::<Job>(key).filter(|job| job.metadata.deletion_timestamp.is_none());
    let Some((job, expiry)) = job.and_then(|job| Some((job, expiry(job)?))) else { return plan };
    let left = expiry - ctx.now_seconds();
    if left > 0 {
        plan.requeue(Duration::from_secs(left.unsigned_abs()));
    } else {
        // Whoever changes the TTL at this very moment is heard.
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), resource_version: Some(job.metadata.resource_version.clone()), ..DeleteOptions::default() };
        plan.push(Action::Delete { of: Reference::to(&**job), options });
    }
    plan
}
