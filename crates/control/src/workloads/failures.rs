//! What the failure of a Job's pod means: since when, how often, and by which rule of the podFailurePolicy.

use schema::api::Object;
use schema::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement};
use schema::api::core::v1::{ContainerStatus, Pod};

use super::job::is_tracked;

/// First and longest wait before a failed pod is replaced.
const BACKOFF_SECONDS: (i64, i64) = (10, 10 * 60);

/// Whether a pod counts as failed: with `podReplacementPolicy: Failed` only when it has ended.
pub fn is_failed(job: &Job, pod: &Pod) -> bool {
    let ended_only = job.spec.pod_replacement_policy.as_deref() == Some("Failed");
    pod.status.phase == "Failed"
        || !ended_only && pod.metadata.deletion_timestamp.is_some() && pod.status.phase != "Succeeded"
}

/// The action of the first rule that a failed pod meets, and with FailJob the message.
pub fn rule<'a>(job: &'a Job, pod: &Pod) -> Option<(&'a str, String)> {
    let rules = &job.spec.pod_failure_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(index, rule)| {
        let what = match &rule.on_exit_codes {
            Some(wanted) => {
                let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
                let (name, code) = statuses.filter_map(|status| exit_code(status, wanted)).next()?;
                format!("Container {name} for pod {} failed with exit code {code}", pod.key())
            }
            None => {
                let matching = |kind: &str, status: &str| {
                    rule.on_pod_conditions.iter().any(|wanted| wanted.r#type == kind && wanted.status == status)
                };
                let condition =
                    pod.status.conditions.iter().find(|condition| matching(&condition.r#type, &condition.status))?;
                format!("Pod {} has condition {}", pod.key(), condition.r#type)
            }
        };
        Some((&*rule.action, format!("{what} matching {} rule at index {index}", rule.action)))
    })
}

fn exit_code<'a>(
    status: &'a ContainerStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let code = status.state.terminated.as_ref()?.exit_code;
    let named = wanted.container_name.as_ref().is_none_or(|name| *name == status.name);
    let listed = wanted.values.contains(&code);
    let matches = match &*wanted.operator {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && matches).then_some((&status.name, code))
}

/// Whether the failure counts towards the back-off limits.
pub fn counts(job: &Job, pod: &Pod) -> bool {
    rule(job, pod).is_none_or(|(action, _)| action != "Ignore")
}

/// When a pod ended, as well as that is known.
pub fn finished_at(pod: &Pod) -> i64 {
    let restartable = |name: &str| {
        let mut init = pod.spec.init_containers.iter();
        init.any(|container| container.name == name && container.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = pod.status.init_container_statuses.iter().filter(|status| restartable(&status.name));
    let ends: Option<Vec<i64>> = pod
        .status
        .container_statuses
        .iter()
        .chain(sidecars)
        .map(|status| {
            status.state.terminated.as_ref().filter(|end| !end.finished_at.is_zero()).map(|end| end.finished_at.seconds)
        })
        .collect();
    let not_ready = || {
        let mut conditions = pod.status.conditions.iter();
        let condition = conditions.find(|condition| condition.r#type == "Ready" && condition.status == "False")?;
        Some(condition.last_transition_time).filter(|at| !at.is_zero()).map(|at| at.seconds)
    };
    let deleted = || {
        pod.metadata.deletion_timestamp.map(|at| at.seconds - pod.metadata.deletion_grace_period_seconds.unwrap_or(0))
    };
    let ended = ends.and_then(|ends| ends.into_iter().max());
    ended.or_else(not_ready).or_else(deleted).unwrap_or(pod.metadata.creation_timestamp.seconds)
}

/// How many seconds to wait after so many failures, the last of them at `last`.
pub fn backoff(failures: i32, last: i64, now_seconds: i64) -> i64 {
    if failures <= 0 {
        return 0;
    }
    let delay = (BACKOFF_SECONDS.0 << (failures - 1).min(20)).min(BACKOFF_SECONDS.1);
    (last + delay - now_seconds).max(0)
}

/// The same over pods: failures since the last success.
pub fn backoff_of(job: &Job, pods: &[&Pod], now_seconds: i64) -> i64 {
    let success = pods.iter().filter(|pod| pod.status.phase == "Succeeded").map(|pod| finished_at(pod)).max();
    // One that goes because it is not wanted any more has not failed.
    let failed = pods.iter().filter(|pod| pod.status.phase == "Failed" || is_tracked(pod) && is_failed(job, pod));
    let failures: Vec<i64> =
        failed.map(|pod| finished_at(pod)).filter(|at| success.is_none_or(|success| *at >= success)).collect();
    backoff(i32::try_from(failures.len()).unwrap_or(i32::MAX), failures.into_iter().max().unwrap_or(0), now_seconds)
}
