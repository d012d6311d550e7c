//! Jobs that are finished go after `ttlSecondsAfterFinished`.

use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Propagation, Reference, Row, Trigger, World};
use schema::api::batch::v1::Job;

use super::job::finished;
use crate::support::living;

pub fn row() -> Row {
    let triggers = vec![Trigger::itself::<Job>()];
    Row::new("ttl-after-finished", "ttl-after-finished-controller", 5, triggers, reconcile)
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(job) = living::<Job>(world, key) else { return plan };
    let (Some(ttl), Some(condition)) = (job.spec.ttl_seconds_after_finished, finished(job)) else { return plan };
    if condition.last_transition_time.is_zero() {
        return plan;
    }
    let left = condition.last_transition_time.seconds + i64::from(ttl) - ctx.now_seconds();
    if left > 0 {
        plan.requeue(Duration::from_secs(left.unsigned_abs()));
    } else {
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        plan.push(Action::Delete { of: Reference::to(&**job), options });
    }
    plan
}
