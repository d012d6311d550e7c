//! What a node does when something is short: thresholds, order, words, and pods that make room.

use std::collections::BTreeMap;

use schema::api::Quantity as Text;
use schema::api::core::v1::{Node, ResourceRequirements};
use schema::quantity::Quantity;

use super::*;
use crate::eviction::{self, Amount, Candidate, Manager, Observation, Observations, Pressure, Signal, Threshold, rank};
use crate::memory::SECOND;
use crate::objects::lock;
use crate::ports::{PodStats, Usage};
use crate::{admission, preemption, shutdown};

fn threshold(signal: Signal, at: &str, grace: i64, reclaim: Option<&str>) -> Threshold {
    let reclaim = reclaim.and_then(Amount::parse);
    Threshold { signal, at: Amount::parse(at).expect("an amount"), grace: grace * SECOND, reclaim }
}

#[test]
fn thresholds_have_grace_and_pressures_stay() {
    let all = [
        threshold(Signal::NodeFs, "10%", 0, Some("5%")),
        threshold(Signal::Memory, "1Gi", 60, None),
        threshold(Signal::Memory, "100Mi", 0, None),
    ];
    let mut manager = Manager::default();
    // At second: disk free of 1000, memory free in MiB; then what must be reclaimed, and what is pressed.
    for (at, disk, memory, crossed, pressures) in [
        (0, 500, 4096, vec![], vec![]),
        (10, 99, 4096, vec![Signal::NodeFs], vec![Pressure::Disk]),
        // Above the threshold, but not by the reclaim.
        (20, 120, 4096, vec![Signal::NodeFs], vec![Pressure::Disk]),
        (30, 151, 900, vec![], vec![Pressure::Disk, Pressure::Memory]),
        (80, 120, 900, vec![], vec![Pressure::Disk, Pressure::Memory]),
        (90, 99, 900, vec![Signal::Memory, Signal::NodeFs], vec![Pressure::Disk, Pressure::Memory]),
        (100, 500, 4096, vec![], vec![Pressure::Disk, Pressure::Memory]),
        (389, 500, 4096, vec![], vec![Pressure::Disk, Pressure::Memory]),
        (390, 500, 50, vec![Signal::Memory], vec![Pressure::Memory]),
    ] {
        let observed: Observations = [
            (Signal::NodeFs, Observation { available: disk, capacity: 1000 }),
            (Signal::Memory, Observation { available: memory << 20, capacity: 8 << 30 }),
        ]
        .into();
        let round = manager.round(&all, &observed, 300 * SECOND, at * SECOND);
        let signals: Vec<Signal> = round.crossed.iter().map(|threshold| threshold.signal).collect();
        assert_eq!((signals, round.pressures), (crossed, pressures), "second {at}");
    }
}

#[test]
fn the_greediest_and_least_important_go_first() {
    let pod = |uid: &str, priority, used, requested| Candidate { uid: uid.into(), priority, used, requested };
    let pods = || {
        vec![
            pod("modest", 0, 50, 100),
            pod("greedy", 10, 300, 100),
            pod("greedier", 10, 400, 100),
            pod("important", 1000, 900, 100),
            pod("none", 0, 20, 0),
        ]
    };
    for (signal, order) in [
        (Signal::Memory, "none greedier greedy important modest"),
        (Signal::NodeFs, "none greedier greedy important modest"),
        (Signal::Pids, "none modest greedier greedy important"),
    ] {
        let uids: Vec<String> = rank(signal, pods()).into_iter().map(|pod| pod.uid).collect();
        assert_eq!(uids.join(" "), order, "{signal:?}");
    }
    let observed = [(Signal::NodeFs, Observation { available: 3 << 30, capacity: 100 << 30 })].into();
    let part =
        eviction::Part { name: "app".into(), used: 3 << 20, requested: Quantity::parse("1Mi").expect("an amount") };
    assert_eq!(
        eviction::message(&threshold(Signal::NodeFs, "10%", 0, None), &observed, &[part]),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 10737418400, available: 3Gi. Container app was using 3Mi, request is 1Mi, has larger consumption of ephemeral-storage. "
    );
}

fn asking(name: &str, priority: i32, cpu: &str, memory: &str) -> Pod {
    let requests: BTreeMap<String, Text> = [("cpu", cpu), ("memory", memory)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name.to_owned(), Text(text.to_owned())))
        .collect();
    let resources = ResourceRequirements { requests, ..ResourceRequirements::default() };
    let mut pod = pod(name, vec![Container { resources, ..container("app") }]);
    pod.spec.priority = Some(priority);
    pod
}

#[test]
fn a_critical_pod_takes_the_smallest_room() {
    let others = [
        asking("small", 0, "500m", "64Mi"),
        asking("large", 0, "2", "64Mi"),
        asking("middle", 0, "1", "64Mi"),
        asking("free", 0, "", ""),
        asking("critical", 2_000_000_000, "1", "64Mi"),
    ];
    let others: Vec<&Pod> = others.iter().collect();
    let allocatable: BTreeMap<String, Quantity> = [("cpu", "5"), ("memory", "8Gi"), ("pods", "10")]
        .map(|(name, text)| (name.to_owned(), Quantity::parse(text).expect("an amount")))
        .into();
    for (cpu, victims) in [("1", "small"), ("1400m", "middle"), ("3", "large small"), ("5", "")] {
        let new = asking("new", 2_000_000_000, cpu, "64Mi");
        let lacking = admission::lacking(&new, &others, &allocatable);
        let chosen = preemption::victims(&new, &others, &lacking);
        let mut names: Vec<&str> = chosen.iter().flatten().map(|pod| &*pod.metadata.name).collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), victims, "{cpu}");
        assert_eq!(chosen.is_err(), victims.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_short_of_memory_evicts_and_refuses() {
    let world = World::new("evicts");
    world.api.put(&pod("fat", vec![container("app")]));
    world.api.put(&asking("asks", 5, "1", "1Gi"));
    for name in ["fat", "asks"] {
        world.until(name, "ready", is_ready).await;
    }
    {
        let mut state = lock(&world.machine.state);
        let usage = Usage { memory_working_set_bytes: 512 << 20, ..Usage::default() };
        let id = state.pods["uid-fat"].containers[0].id.clone();
        let stats = PodStats { pod: usage.clone(), containers: [(id, usage)].into(), ..PodStats::default() };
        state.stats.insert("uid-fat".into(), stats);
        state.memory_available = Some(50 << 20);
    }
    let before = world.machine.now();
    world.machine.pressure.notify_waiters();
    let evicted = world.until("fat", "evicted", |pod| pod.status.phase == "Failed").await;
    assert!(world.machine.now() - before < SECOND, "the kernel's word is enough");
    assert_eq!(
        (&*evicted.status.reason, &*evicted.status.message),
        (
            "Evicted",
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 512Mi, request is 0, has larger consumption of memory. "
        )
    );
    let disrupted = evicted.status.conditions.iter().find(|of| of.r#type == "DisruptionTarget").expect("a condition");
    assert_eq!((&*disrupted.reason, &disrupted.message), ("TerminationByKubelet", &evicted.status.message));
    lock(&world.machine.state).memory_available = None;
    world.api.put(&pod("late", vec![container("app")]));
    let refused = world.until("late", "refused", |pod| pod.status.phase == "Failed").await;
    assert_eq!(
        (&*refused.status.reason, &*refused.status.message),
        ("Evicted", "Pod was rejected: The node had condition: [MemoryPressure]. ")
    );
    world.api.put(&asking("burstable", 0, "100m", "64Mi"));
    world.until("burstable", "ready", is_ready).await;
    let pressed =
        |node: &Node| node.status.conditions.iter().any(|of| of.r#type == "MemoryPressure" && of.status == "True");
    world.settle().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.api.all::<Node>().iter().any(pressed));
    tokio::time::sleep(Duration::from_secs(320)).await;
    assert!(!world.api.all::<Node>().iter().any(pressed), "five minutes later it is over");
    let asks: Pod = world.api.get("default", "asks").expect("a pod");
    assert_eq!(asks.status.phase, "Running");
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_preempts() {
    let world = World::new("preempts");
    world.api.put(&asking("large", 0, "3", "1Gi"));
    world.until("large", "ready", is_ready).await;
    world.api.put(&asking("critical", 2_000_000_000, "2", "1Gi"));
    world.until("critical", "ready", is_ready).await;
    let large: Pod = world.api.get("default", "large").expect("a pod");
    assert_eq!(
        (&*large.status.phase, &*large.status.reason, &*large.status.message),
        ("Failed", "Preempting", "Preempted in order to admit critical pod")
    );
    world.api.put(&asking("huge", 2_000_000_001, "9", "1Gi"));
    let huge = world.until("huge", "refused", |pod| pod.status.phase == "Failed").await;
    assert_eq!(huge.status.reason, "UnexpectedAdmissionError");
    assert!(
        huge.status.message.contains("no set of running pods found to reclaim resources: [(res: cpu, q: "),
        "{}",
        huge.status.message
    );
}

#[test]
fn pods_end_in_phases() {
    let seconds = Duration::from_secs;
    let phases = [(0, seconds(10)), (1000, seconds(20)), (2_000_000_000, seconds(5))];
    let pods = [("low", -5), ("plain", 0), ("more", 999), ("high", 1000), ("critical", 2_000_001_000)];
    let pods = pods.map(|(name, priority)| (name.to_owned(), priority));
    let groups = shutdown::groups(&phases, &pods).into_iter().map(|(time, uids)| (time.as_secs(), uids.join(" ")));
    let expected = [(10, "low plain more"), (20, "high"), (5, "critical")];
    assert_eq!(groups.collect::<Vec<_>>(), expected.map(|(time, uids)| (time, uids.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_goes_down_waits_for_its_pods() {
    let (api, machine) = (Api::new(), Machine_::new().with_image("app:1"));
    lock(&machine.state).stubborn.insert("app".into());
    let phases = vec![(0, Duration::from_secs(20)), (2_000_000_000, Duration::from_secs(10))];
    let world = World::set(Dir::new("shuts-down"), api, machine, |config| config.shutdown = phases);
    world.api.put(&asking("web", 0, "1", "1Gi"));
    world.api.put(&asking("critical", 2_000_000_000, "1", "1Gi"));
    for name in ["web", "critical"] {
        world.until(name, "ready", is_ready).await;
    }
    world.machine.down.send_replace(true);
    let ended = world.until("critical", "ended", |pod| pod.status.phase == "Failed").await;
    assert_eq!(
        (&*ended.status.reason, &*ended.status.message),
        ("Terminated", "Pod was terminated in response to imminent node shutdown.")
    );
    let log = world.machine.log();
    let stops: Vec<&String> = log.iter().filter(|line| line.starts_with("stop app")).collect();
    assert_eq!(stops, ["stop app 20", "stop app 10"], "one phase after the other");
    world.api.put(&pod("late", vec![container("app")]));
    let late = world.until("late", "refused", |pod| pod.status.phase == "Failed").await;
    assert_eq!(
        (&*late.status.reason, &*late.status.message),
        ("NodeShutdown", "Pod was rejected: Pod was rejected as the node is shutting down.")
    );
    let node = world.api.all::<Node>().remove(0);
    let ready = node.status.conditions.iter().find(|of| of.r#type == "Ready").expect("a condition").clone();
    assert_eq!(
        (&*ready.status, &*ready.reason, &*ready.message),
        ("False", "KubeletNotReady", "node is shutting down")
    );
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(world.machine.released.load(std::sync::atomic::Ordering::Relaxed));
}
