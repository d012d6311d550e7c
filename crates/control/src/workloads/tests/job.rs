use reconcile::Key;
use schema::api::Time;
use schema::api::batch::v1::{Job, JobStatus};
use schema::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use serde_json::{Value as Json, json};

use super::{Cluster, START};
use crate::workloads::indexes::Indexes;
use crate::workloads::job::{reconcile, release};
use crate::workloads::ttl;

fn cluster(spec: Json) -> Cluster {
    let mut job = json!({
        "metadata": {"name": "pi"},
        "spec": {
            "parallelism": 2,
            "completions": 3,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "suspend": false,
            "selector": {"matchLabels": {"job": "pi"}},
            "template": {"metadata": {"labels": {"job": "pi"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    let mut cluster = Cluster::new().with::<Job>(job);
    cluster.settle(reconcile, "pi");
    cluster
}

/// The names of active pods, of an index if one is given.
fn active(cluster: &Cluster, index: Option<i32>) -> Vec<String> {
    let pods = cluster.world.of::<Pod>().values();
    let label = |pod: &Pod| {
        pod.metadata.labels.get("batch.kubernetes.io/job-completion-index").and_then(|index| index.parse().ok())
    };
    pods.filter(|pod| crate::support::is_active(pod) && (index.is_none() || label(pod) == index))
        .map(|pod| pod.metadata.name.clone())
        .collect()
}

/// Ends one active pod now, and settles.
fn end(cluster: &mut Cluster, index: Option<i32>, exit_code: i32) {
    let (name, now) = (active(cluster, index).remove(0), cluster.now);
    cluster.change::<Pod>(&name, |pod| {
        pod.status.phase = if exit_code == 0 { "Succeeded" } else { "Failed" }.into();
        let terminated =
            ContainerStateTerminated { exit_code, finished_at: Time { seconds: now }, ..Default::default() };
        let state = ContainerState { terminated: Some(terminated), ..Default::default() };
        pod.status.container_statuses = vec![ContainerStatus { name: "main".into(), state, ..Default::default() }];
    });
    settle(cluster);
}

/// Until nothing is to be done, deleted pods ending.
fn settle(cluster: &mut Cluster) {
    cluster.settle(reconcile, "pi");
}

fn status(cluster: &Cluster) -> JobStatus {
    cluster.get::<Job>("pi").status
}

/// `active/succeeded/failed`, then the conditions that are true with their reasons.
fn told(cluster: &Cluster) -> String {
    let status = status(cluster);
    let conditions = status.conditions.iter().filter(|condition| condition.status == "True");
    let conditions: Vec<String> =
        conditions.map(|condition| format!("{}={}", condition.r#type, condition.reason)).collect();
    format!("{}/{}/{} {}", status.active, status.succeeded, status.failed, conditions.join(" ")).trim_end().to_owned()
}

/// Ends pods (index and exit code), each after so many seconds; what the status tells after each.
fn check(spec: Json, steps: &[(i64, Option<i32>, i32, &str)]) -> Cluster {
    let mut cluster = cluster(spec);
    for (number, (wait, index, code, expected)) in steps.iter().enumerate() {
        cluster.now += wait;
        settle(&mut cluster);
        end(&mut cluster, *index, *code);
        assert_eq!(told(&cluster), *expected, "step {number}");
    }
    cluster
}

#[test]
fn completions_are_counted_once() {
    let mut cluster = check(
        json!({}),
        &[
            (0, None, 0, "2/1/0"),
            (0, None, 0, "1/2/0"),
            (5, None, 0, "0/3/0 SuccessCriteriaMet=CompletionsReached Complete=CompletionsReached"),
        ],
    );
    let status = status(&cluster);
    assert_eq!(
        (status.start_time, status.completion_time),
        (Some(Time { seconds: START }), Some(Time { seconds: START + 5 }))
    );
    assert!(cluster.world.of::<Pod>().values().all(|pod| pod.metadata.finalizers.is_empty()));
    assert_eq!(cluster.settle(reconcile, "pi"), [""; 0]);
    cluster.change::<Job>("pi", |job| job.spec.ttl_seconds_after_finished = Some(60));
    assert_eq!(cluster.look(ttl::reconcile, "pi"), ["again in 60s"]);
    cluster.now += 60;
    assert_eq!(cluster.look(ttl::reconcile, "pi"), ["delete jobs pi"]);
}

#[test]
fn a_look_remembers_before_it_releases() {
    let mut cluster = cluster(json!({"parallelism": 1}));
    let name = active(&cluster, None).remove(0);
    cluster.phase(&name, "Succeeded");
    let plan = cluster.plan(reconcile, "pi");
    let remembered = plan.actions.iter().position(|action| action.object::<Job>().is_some()).unwrap();
    let uncounted = plan.actions[remembered].object::<Job>().unwrap().status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded, [cluster.get::<Pod>(&name).metadata.uid]);
    assert!(format!("{:?}", plan.actions[remembered + 1]).contains("deleteFromPrimitiveList"));
    settle(&mut cluster);
    assert_eq!(told(&cluster), "1/1/0");
}

#[test]
fn failures_are_replaced_with_growing_delay_up_to_the_limit() {
    let mut cluster = cluster(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1}));
    end(&mut cluster, None, 1);
    assert_eq!(told(&cluster), "0/0/1");
    assert_eq!(cluster.look(reconcile, "pi"), ["again in 10s"]);
    cluster.now += 10;
    settle(&mut cluster);
    assert_eq!(told(&cluster), "1/0/1");
    end(&mut cluster, None, 1);
    assert_eq!(told(&cluster), "0/0/2 FailureTarget=BackoffLimitExceeded Failed=BackoffLimitExceeded");
}

#[test]
fn the_deadline_ends_what_runs() {
    let mut cluster = cluster(json!({"activeDeadlineSeconds": 30}));
    assert_eq!(cluster.look(reconcile, "pi"), ["again in 30s"]);
    cluster.now += 30;
    settle(&mut cluster);
    assert_eq!(told(&cluster), "0/0/2 FailureTarget=DeadlineExceeded Failed=DeadlineExceeded");
    assert_eq!(active(&cluster, None), [""; 0]);
}

#[test]
fn suspension_removes_pods_without_failures() {
    let mut cluster = cluster(json!({}));
    cluster.change::<Job>("pi", |job| job.spec.suspend = Some(true));
    settle(&mut cluster);
    assert_eq!(told(&cluster), "0/0/0 Suspended=JobSuspended");
    assert_eq!(status(&cluster).start_time, None);
    cluster.now += 7;
    cluster.change::<Job>("pi", |job| job.spec.suspend = Some(false));
    settle(&mut cluster);
    assert_eq!(told(&cluster), "2/0/0");
    assert_eq!(status(&cluster).start_time, Some(Time { seconds: START + 7 }));
}

#[test]
fn indexes_have_their_pods() {
    let cluster = check(
        json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4}),
        &[
            (0, Some(2), 0, "3/1/0"),
            (0, Some(0), 0, "2/2/0"),
            (0, Some(1), 1, "1/2/1"),
            (10, Some(3), 0, "1/3/1"),
            (0, Some(1), 0, "0/4/1 SuccessCriteriaMet=CompletionsReached Complete=CompletionsReached"),
        ],
    );
    assert_eq!(status(&cluster).completed_indexes, "0-3");
    let pod = cluster.world.of::<Pod>().values().find(|pod| pod.metadata.name.starts_with("pi-2-")).unwrap().clone();
    assert_eq!(
        (&*pod.spec.hostname, &*pod.metadata.annotations["batch.kubernetes.io/job-completion-index"]),
        ("pi-2", "2")
    );
    let variable = &pod.spec.containers[0].env[0];
    let path = variable.value_from.clone().unwrap().field_ref.unwrap().field_path;
    assert_eq!(
        (&*variable.name, &*path),
        ("JOB_COMPLETION_INDEX", "metadata.labels['batch.kubernetes.io/job-completion-index']")
    );
}

#[test]
fn limits_per_index_fail_indexes_only() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 2147483647, "backoffLimitPerIndex": 1});
    let mut cluster = cluster(spec);
    end(&mut cluster, Some(0), 1);
    assert_eq!(active(&cluster, Some(0)), [""; 0]);
    cluster.now += 10;
    settle(&mut cluster);
    let again = active(&cluster, Some(0)).remove(0);
    assert_eq!(cluster.get::<Pod>(&again).metadata.annotations["batch.kubernetes.io/job-index-failure-count"], "1");
    end(&mut cluster, Some(0), 1);
    assert_eq!(status(&cluster).failed_indexes.as_deref(), Some("0"));
    assert_eq!(told(&cluster), "1/0/2");
    end(&mut cluster, Some(1), 0);
    assert_eq!(told(&cluster), "0/1/2 FailureTarget=FailedIndexes Failed=FailedIndexes");
}

#[test]
fn policies_decide_what_a_failure_means() {
    let rule = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [42]}}]});
    check(
        json!({"podFailurePolicy": rule("FailJob")}),
        &[(0, None, 42, "0/0/2 FailureTarget=PodFailurePolicy Failed=PodFailurePolicy")],
    );
    check(
        json!({"podFailurePolicy": rule("Ignore"), "backoffLimit": 0}),
        &[(0, None, 42, "1/0/0"), (10, None, 42, "1/0/0")],
    );
    check(
        json!({
            "completionMode": "Indexed", "completions": 3, "parallelism": 3,
            "successPolicy": {"rules": [{"succeededIndexes": "0,2", "succeededCount": 1}]},
        }),
        &[(0, Some(1), 0, "2/1/0"), (0, Some(2), 0, "0/2/0 SuccessCriteriaMet=SuccessPolicy Complete=SuccessPolicy")],
    );
}

#[test]
fn pods_that_end_are_replaced_by_policy() {
    let check = |policy: &str, expected: &str| {
        let mut cluster = cluster(json!({"podReplacementPolicy": policy, "parallelism": 1, "completions": 1}));
        let name = active(&cluster, None).remove(0);
        cluster.change::<Pod>(&name, |pod| pod.metadata.deletion_timestamp = Some(Time { seconds: START }));
        // The pod is still there, since its containers take their time: another finalizer stands for them.
        cluster.change::<Pod>(&name, |pod| pod.metadata.finalizers.push("example.com/kubelet".into()));
        settle(&mut cluster);
        cluster.now += 10;
        settle(&mut cluster);
        assert_eq!(told(&cluster), expected);
    };
    check("TerminatingOrFailed", "1/0/1");
    check("Failed", "0/0/0");
}

#[test]
fn orphans_are_released() {
    let mut cluster = cluster(json!({"parallelism": 1}));
    let name = active(&cluster, None).remove(0);
    assert!(cluster.plan(release, &name).actions.is_empty());
    let uid = cluster.get::<Job>("pi").metadata.uid;
    cluster.world.of_mut::<Job>().bury(&Key::new("default", "pi"), &uid);
    assert_eq!(cluster.plan(release, &name).actions.len(), 1);
}

#[test]
fn others_manage_their_jobs() {
    let mut cluster = Cluster::new()
        .with::<Job>(json!({"metadata": {"name": "pi"}, "spec": {"managedBy": "example.com/queue", "template": {}}}));
    assert_eq!(cluster.look(reconcile, "pi"), [""; 0]);
}

#[test]
fn indexes_are_written_as_intervals() {
    let some = Indexes::parse("1,3-5,x,9-20", 12);
    assert_eq!((some.to_string(), some.total()), ("1,3-5,9-11".to_owned(), 7));
    assert_eq!(some.with([2, 7, 0]).to_string(), "0-5,7,9-11");
    assert_eq!(some.missing(4, 12), [0, 2, 6, 7]);
    assert_eq!((0..6).map(|index| some.has(index)).collect::<Vec<_>>(), [false, true, false, true, true, true]);
    assert_eq!(Indexes::default().with([4, 5]).to_string(), "4,5");
    assert_eq!(some.common(&Indexes::parse("4-9", 12)), 3);
}
