//! Pods that change their size while they run.

use std::collections::BTreeMap;

use schema::api::Quantity;
use schema::api::core::v1::{ContainerResizePolicy, ResourceRequirements};

use super::*;
use crate::{memory::SECOND, objects::lock};

fn cpu(amount: &str) -> ResourceRequirements {
    let list = BTreeMap::from([("cpu".to_owned(), Quantity(amount.into()))]);
    ResourceRequirements { requests: list.clone(), limits: list, ..ResourceRequirements::default() }
}

fn sized(name: &str, amount: &str) -> Pod {
    let mut pod = pod(name, vec![Container { resources: cpu(amount), ..container(name) }]);
    pod.metadata.generation = 1;
    pod
}

impl World {
    fn resize(&self, name: &str, amount: &str) {
        let mut pod: Pod = self.api.get("default", name).expect("a pod");
        pod.spec.containers[0].resources = cpu(amount);
        pod.metadata.generation += 1;
        self.api.put(&pod);
    }

    async fn until_sized(&self, name: &str, amount: &str) -> Pod {
        self.until(name, amount, |pod| {
            let Some(status) = pod.status.container_statuses.first() else { return false };
            let told = status.resources.as_ref().and_then(|of| of.limits.get("cpu")).map(|amount| amount.0.clone());
            told.as_deref() == Some(amount) && condition(pod, "PodResizeInProgress").is_none() && is_ready(pod)
        })
        .await
    }
}

fn condition(pod: &Pod, kind: &str) -> Option<(String, String)> {
    let found = pod.status.conditions.iter().find(|condition| condition.r#type == kind)?;
    Some((found.reason.clone(), found.message.clone()))
}

#[tokio::test(start_paused = true)]
async fn in_place_as_soon_as_there_is_room() {
    let world = World::new("resizes");
    world.api.put(&sized("a", "1"));
    world.api.put(&sized("b", "2"));
    world.until_sized("a", "1").await;
    world.until_sized("b", "2").await;
    world.resize("a", "2");
    let pod = world.until_sized("a", "2").await;
    assert_eq!((pod.status.container_statuses[0].restart_count, pod.status.observed_generation), (0, 2));
    let quota = |name: &str| lock(&world.machine.state).sizes.get(name).map(|size| size.cpu_quota_us);
    assert_eq!((quota("a"), quota("kubepods/burstable/poduid-a")), (Some(200_000), Some(200_000)));
    // The machine has four.
    world.resize("a", "3");
    let waits = world.until("a", "deferred", |pod| condition(pod, "PodResizePending").is_some()).await;
    let why = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000";
    assert_eq!(condition(&waits, "PodResizePending"), Some(("Deferred".into(), why.into())));
    assert_eq!(waits.status.container_statuses[0].resources, Some(cpu("2")));
    // A node that starts again has not forgotten what it gave.
    let (dir, api, machine) = world.stop();
    let world = World::at(dir, api, machine);
    world.settle().await;
    assert_eq!(lock(&world.machine.state).sizes.get("a").map(|size| size.cpu_quota_us), Some(200_000));
    world.resize("b", "1");
    world.until_sized("b", "1").await;
    let pod = world.until_sized("a", "3").await;
    assert_eq!((condition(&pod, "PodResizePending"), pod.status.container_statuses[0].restart_count), (None, 0));
    world.settle().await;
    let mut reasons = world.reasons();
    reasons.retain(|reason| reason.starts_with("Resize"));
    reasons.sort();
    reasons.dedup();
    assert_eq!(reasons, ["ResizeCompleted", "ResizeDeferred", "ResizeStarted"]);
}

#[tokio::test(start_paused = true)]
async fn by_a_restart_if_the_policy_says_so() {
    let world = World::new("resize-restart");
    let mut pod = sized("a", "1");
    pod.spec.containers[0].resize_policy = vec![ContainerResizePolicy {
        resource_name: "cpu".into(),
        restart_policy: "RestartContainer".into(),
        ..ContainerResizePolicy::default()
    }];
    world.api.put(&pod);
    world.until_sized("a", "1").await;
    world.resize("a", "2");
    let pod = world.until_sized("a", "2").await;
    assert_eq!(pod.status.container_statuses[0].restart_count, 1);
    assert_eq!(world.machine.config("a").expect("made").resources.cpu_quota_us, 200_000);
    // Equal amounts in other words are no resize.
    let before = world.machine.now();
    world.resize("a", "2000m");
    world.until_sized("a", "2000m").await;
    assert!(world.machine.now() - before < SECOND);
    assert_eq!(world.until_sized("a", "2000m").await.status.container_statuses[0].restart_count, 1);
}
