//! PodCertificateRequests go a quarter of an hour after they were made: whoever asked has its answer by then, or none.

use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Reference, Row, Trigger, World};
use schema::api::certificates::v1::PodCertificateRequest;

use crate::support::living;

const LIFE_SECONDS: i64 = 15 * 60;

pub fn row() -> Row {
    Row {
        name: "podcertificaterequest-cleaner",
        user: "system:serviceaccount:kube-system:podcertificaterequestcleaner",
        triggers: vec![Trigger::itself::<PodCertificateRequest>()],
        reconcile: Box::new(reconcile),
        parallel: 1,
    }
}

pub fn reconcile(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let mut plan = Plan::nothing();
    let Some(request) = living::<PodCertificateRequest>(world, key) else { return plan };
    let made = request.metadata.creation_timestamp.seconds;
    match made + LIFE_SECONDS - ctx.now_seconds() {
        left @ 1.. => plan.requeue(Duration::from_secs(left.unsigned_abs())),
        _ => plan.push(Action::Delete { of: Reference::to(&**request), options: DeleteOptions::default() }),
    }
    plan
}
