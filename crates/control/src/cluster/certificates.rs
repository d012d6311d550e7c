//! Certificates that were asked for: the cluster's own signers answer what was approved, and what was answered or
//! forgotten goes after a while. Nobody approves here but `kubectl certificate approve`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reconcile::{Action, Ctx, DeleteOptions, Key, Plan, Reference, Row, Trigger, World};
use schema::api::Object;
use schema::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, PodCertificateRequest,
};

use crate::support::{living, time};

const HOUR: i64 = 60 * 60;
/// Whoever asked for a pod has its answer by then, or none.
const POD_REQUEST_SECONDS: i64 = 15 * 60;

/// What a signer says of a request at a time (seconds since the epoch): a certificate as PEM, or why there is none.
/// `None`: the request is not for a signer of this cluster.
#[derive(Clone)]
pub struct Signer(pub Arc<Sign>);

type Sign = dyn Fn(&CertificateSigningRequest, i64) -> Option<Result<String, String>> + Send + Sync;

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Default for Signer {
    fn default() -> Self {
        Self(Arc::new(|_, _| None))
    }
}

pub fn signer_row(signer: Signer) -> Row {
    let triggers = vec![Trigger::itself::<CertificateSigningRequest>()];
    Row::new("csrsigning", "certificate-controller", 1, triggers, move |world, key, ctx| sign(world, key, ctx, &signer))
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    request.status.conditions.iter().any(|condition| condition.r#type == kind && condition.status == "True")
}

pub fn sign(world: &World, key: &Key, ctx: &mut Ctx, signer: &Signer) -> Plan {
    let mut plan = Plan::nothing();
    let Some(request) = living::<CertificateSigningRequest>(world, key) else { return plan };
    let is_due = has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed");
    if !is_due || !request.status.certificate.is_empty() {
        return plan;
    }
    let Some(answer) = (signer.0)(request, ctx.now_seconds()) else { return plan };
    let mut request = (**request).clone();
    match answer {
        Ok(certificate) => request.status.certificate = certificate.into_bytes(),
        Err(message) => request.status.conditions.push(CertificateSigningRequestCondition {
            r#type: "Failed".into(),
            status: "True".into(),
            reason: "SignerValidationFailure".into(),
            message,
            last_update_time: time(ctx),
            ..Default::default()
        }),
    }
    plan.push(Action::update_status(request));
    plan
}

pub fn cleaner_row() -> Row {
    let triggers = vec![Trigger::itself::<CertificateSigningRequest>()];
    Row::new("csrcleaner", "certificate-controller", 1, triggers, clean)
}

/// An answered request goes an hour after its answer, any other a day after its last news.
pub fn clean(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let Some(request) = living::<CertificateSigningRequest>(world, key) else { return Plan::nothing() };
    let status = &request.status;
    let is_answered = !status.certificate.is_empty() || has(request, "Denied") || has(request, "Failed");
    let news = status.conditions.iter().map(|condition| condition.last_update_time.seconds).max();
    let since = news.unwrap_or(0).max(request.metadata.creation_timestamp.seconds);
    gone_at(&**request, since + if is_answered { HOUR } else { 24 * HOUR }, ctx)
}

pub fn pod_cleaner_row() -> Row {
    let triggers = vec![Trigger::itself::<PodCertificateRequest>()];
    Row::new("podcertificaterequest-cleaner", "podcertificaterequestcleaner", 1, triggers, clean_of_pod)
}

pub fn clean_of_pod(world: &World, key: &Key, ctx: &mut Ctx) -> Plan {
    let Some(request) = living::<PodCertificateRequest>(world, key) else { return Plan::nothing() };
    gone_at(&**request, request.metadata.creation_timestamp.seconds + POD_REQUEST_SECONDS, ctx)
}

fn gone_at<K: Object>(object: &K, at: i64, ctx: &Ctx) -> Plan {
    let mut plan = Plan::nothing();
    match at - ctx.now_seconds() {
        left @ 1.. => plan.requeue(Duration::from_secs(left.unsigned_abs())),
        _ => plan.push(Action::Delete { of: Reference::to(object), options: DeleteOptions::default() }),
    }
    plan
}
