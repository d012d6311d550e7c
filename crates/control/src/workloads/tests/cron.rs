use schema::api::Time;
use schema::api::batch::v1::{CronJob, Job};
use schema::time;
use serde_json::{Value as Json, json};

use super::{Cluster, START};
use crate::workloads::cron::{Schedule, Zone};
use crate::workloads::cronjob::reconcile;

#[test]
fn schedules_have_upstreams_times() {
    // From upstream's own corner cases: open fields, steps, days or weekdays, clocks that change.
    let check = |schedule: &str, zone: &str, after: &str, expected: &[&str]| {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), Zone::named(Some(zone)).unwrap());
        let mut at = time::parse(after).unwrap().0;
        for expected in expected {
            at = schedule.next(at, &zone).unwrap();
            assert_eq!(zone.format(at), *expected, "{schedule:?}");
        }
    };
    check("*/15 * * * *", "", "2026-01-01T00:00:00Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
    check(
        "5/20 1-3 * * *",
        "",
        "2026-01-01T03:20:00Z",
        &["2026-01-01T03:25:00Z", "2026-01-01T03:45:00Z", "2026-01-02T01:05:00Z"],
    );
    check("0 0 29 FEB ?", "", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
    check(
        "0 0 1,15 * mon",
        "",
        "2026-01-01T00:00:00Z",
        &["2026-01-05T00:00:00Z", "2026-01-12T00:00:00Z", "2026-01-15T00:00:00Z"],
    );
    check(
        "0 0 */2 * mon",
        "",
        "2026-01-01T00:00:00Z",
        &["2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z", "2026-01-07T00:00:00Z"],
    );
    check("@weekly", "", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z"]);
    check("@every 90m", "", "2026-01-01T00:00:10Z", &["2026-01-01T01:30:10Z"]);
    check("30 4 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", &["2026-01-02T04:30:00+05:30"]);
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T00:00:00Z",
        &["2026-03-28T02:30:00+01:00", "2026-03-30T02:30:00+02:00"],
    );
    check(
        "30 1 * * *",
        "America/New_York",
        "2026-11-01T00:00:00Z",
        &["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"],
    );
    check("0 0 * * *", "America/Havana", "2026-03-07T12:00:00Z", &["2026-03-09T00:00:00-04:00"]);
}

#[test]
fn bad_schedules_are_told_apart() {
    for schedule in [
        "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7",
        "*/0 * * * *", "5-3 * * * *", "a * * * *", "1-2-3 * * * *", "@reboot", "@every x", "TZ=UTC * * * * *",
        "CRON_TZ=UTC 0 0 * * *",
    ] {
        assert!(Schedule::parse(schedule).is_err(), "{schedule}");
    }
    assert_eq!(Schedule::parse("59 23 31 2 *").unwrap().next(START, &Zone::named(None).unwrap()), None);
    assert!(Zone::named(Some("Mars/Olympus")).is_none());
}

fn cluster(spec: Json) -> Cluster {
    let mut cron = json!({
        "metadata": {"name": "tick"},
        "spec": {
            "schedule": "*/10 * * * *",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"template": {"spec": {"containers": [{"name": "main"}]}}}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        cron["spec"][key] = value.clone();
    }
    Cluster::new().with::<CronJob>(cron)
}

/// Minutes since 1970 at the start, as in the names of jobs.
const MINUTE: i64 = START / 60;

fn finish(cluster: &mut Cluster, name: &str, kind: &str) {
    let now = Time { seconds: cluster.now };
    cluster.change::<Job>(name, |job| {
        let condition = schema::api::batch::v1::JobCondition {
            r#type: kind.into(),
            status: "True".into(),
            last_transition_time: now,
            ..Default::default()
        };
        job.status.conditions.push(condition);
        job.status.start_time = Some(job.metadata.creation_timestamp);
        job.status.completion_time = (kind == "Complete").then_some(now);
    });
}

fn active(cluster: &Cluster) -> Vec<String> {
    cluster.get::<CronJob>("tick").status.active.iter().map(|job| job.name.clone()).collect()
}

#[test]
fn a_job_starts_at_its_time() {
    let mut cluster = cluster(json!({"timeZone": "Europe/Berlin"}));
    assert_eq!(cluster.look(reconcile, "tick"), ["again in 600.1s"]);
    cluster.now += 601;
    let name = format!("tick-{}", MINUTE + 10);
    assert_eq!(
        cluster.look(reconcile, "tick"),
        [
            format!("create Job {name}"),
            format!("Normal SuccessfulCreate: Created job {name}"),
            "again in 599.1s".into()
        ]
    );
    assert_eq!(cluster.look(reconcile, "tick"), ["again in 599.1s"]);
    assert_eq!(cluster.look(reconcile, "tick"), ["again in 599.1s"]);
    assert_eq!(active(&cluster).join(" "), name);
    assert_eq!(cluster.get::<CronJob>("tick").status.last_schedule_time, Some(Time { seconds: START + 600 }));
    let job = cluster.get::<Job>(&name);
    assert_eq!(
        job.metadata.annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-01T01:10:00+01:00"
    );
    assert_eq!((&*job.metadata.labels["app"], &*job.metadata.owner_references[0].name), ("tick", "tick"));
    cluster.now += 30;
    finish(&mut cluster, &name, "Complete");
    assert_eq!(
        cluster.look(reconcile, "tick")[0],
        format!("Normal SawCompletedJob: Saw completed job: {name}, condition: Complete")
    );
    let status = cluster.get::<CronJob>("tick").status;
    assert_eq!((status.active.len(), status.last_successful_time), (0, Some(Time { seconds: START + 631 })));
}

#[test]
fn policies_say_what_happens_to_a_job_that_still_runs() {
    let check = |policy: &str, expected: &[&str]| {
        let mut cluster = cluster(json!({"concurrencyPolicy": policy}));
        for _ in 0..2 {
            cluster.now += 600;
            cluster.settle(reconcile, "tick");
        }
        let names: Vec<String> =
            expected.iter().map(|minutes| format!("tick-{}", MINUTE + minutes.parse::<i64>().unwrap())).collect();
        assert_eq!(active(&cluster), names, "{policy}");
    };
    check("Allow", &["10", "20"]);
    check("Forbid", &["10"]);
    check("Replace", &["20"]);
}

#[test]
fn missed_starts_are_made_up_for_once() {
    let starts = |spec: Json, seconds: i64| {
        let mut cluster = cluster(spec);
        cluster.now += seconds;
        cluster
            .look(reconcile, "tick")
            .into_iter()
            .map(|line| line.split(':').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let created = |minutes: i64| format!("create Job tick-{}", MINUTE + minutes);
    assert_eq!(starts(json!({}), 3660)[0], created(60));
    assert_eq!(starts(json!({}), 70_000)[..2], ["Warning TooManyMissedTimes".to_owned(), created(1160)]);
    assert_eq!(starts(json!({"startingDeadlineSeconds": 30}), 3660), ["again in 540.1s"]);
    assert_eq!(starts(json!({"startingDeadlineSeconds": 120}), 3660)[0], created(60));
    assert_eq!(starts(json!({"suspend": true}), 3660), [""; 0]);
    assert_eq!(starts(json!({"timeZone": "Mars/Olympus"}), 3660), ["Warning UnknownTimeZone"]);
    assert_eq!(starts(json!({"schedule": "x"}), 3660), ["Warning UnparseableSchedule"]);
    assert_eq!(starts(json!({"schedule": "0 0 31 2 *"}), 3660), ["Warning InvalidSchedule"]);
}

#[test]
fn finished_jobs_are_kept_up_to_the_limits() {
    let mut cluster = cluster(json!({}));
    for kind in ["Complete", "Failed", "Complete", "Failed", "Complete"] {
        cluster.now += 600;
        cluster.settle(reconcile, "tick");
        let name = active(&cluster).remove(0);
        finish(&mut cluster, &name, kind);
        cluster.settle(reconcile, "tick");
    }
    cluster.settle(reconcile, "tick");
    let names: Vec<String> = cluster.world.of::<Job>().values().map(|job| job.metadata.name.clone()).collect();
    assert_eq!(names, [format!("tick-{}", MINUTE + 40), format!("tick-{}", MINUTE + 50)]);
}
