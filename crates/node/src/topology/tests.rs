//! The policies on machines that were made up: sockets, SMT, NUMA nodes, holes.

use schema::api::Quantity;
use schema::api::core::v1::ResourceRequirements;

use super::cpus::{Options, format, parse};
use super::*;
use crate::tests::{Dir, container, pod};

/// Sockets × nodes a socket × cores a node × threads, as Linux numbers them: the second threads after all first ones.
fn machine(sockets: u32, nodes: u32, cores: u32, threads: u32) -> Topology {
    let all = sockets * nodes * cores;
    let cpu = |id: u32| {
        let core = id % all;
        let numa = core / cores;
        Cpu { id, core, socket: numa / nodes, numa, uncore: core / (cores / 2).max(1) }
    };
    let memory = |node| (node, Amounts::from([("memory".to_owned(), 16 << 30), ("hugepages-2Mi".to_owned(), 2 << 30)]));
    let far = |a: u32, b: u32| match (a == b, a / nodes == b / nodes) {
        (true, _) => 10,
        (_, true) => 12,
        _ => 21,
    };
    let count = sockets * nodes;
    Topology {
        cpus: (0..all * threads).map(cpu).collect(),
        nodes: (0..count).map(memory).collect(),
        distances: (0..count).flat_map(|a| (0..count).map(move |b| ((a, b), far(a, b)))).collect(),
    }
}

fn set(text: &str) -> CpuSet {
    parse(text).expect("a set")
}

#[test]
fn sets_of_cpus() {
    for (text, shown) in [("", ""), ("3", "3"), ("0-3,8, 5", "0-3,5,8"), ("7,6,5", "5-7")] {
        assert_eq!(format(&set(text)), shown, "{text}");
    }
    for text in ["x", "3-1", "1-", "-1", "0-99999999"] {
        assert_eq!(parse(text), None, "{text}");
    }
    let order: Vec<u64> = Numa(0b1011).subsets().into_iter().map(|numa| numa.0).collect();
    assert_eq!(order, [0b1, 0b10, 0b1000, 0b11, 0b1001, 0b1010, 0b1011]);
}

/// What upstream's accumulator takes.
#[test]
fn cpus_are_taken_near_to_each_other() {
    let plain = Options::default();
    let spread = Options { distribute_across_cores: true, ..plain };
    let numa = Options { distribute_across_numa: true, ..plain };
    let uncore = Options { prefer_uncore: true, ..plain };
    let socket = Options { align_by_socket: true, ..numa };
    let dual = || machine(2, 1, 4, 2);
    let quad = || machine(2, 2, 4, 2);
    for (machine, options, free, needed, taken) in [
        // A core, its second thread after it; a whole socket; what is left of a core before a whole one is broken.
        (dual(), plain, "0-15", 1, "0"),
        (dual(), plain, "0-15", 2, "0,8"),
        (dual(), plain, "0-15", 8, "0-3,8-11"),
        (dual(), plain, "1-15", 1, "8"),
        (dual(), plain, "0-7,12-15", 8, "4-7,12-15"),
        (dual(), plain, "1-3,5-15", 9, "1-3,5,8-11,13"),
        (dual(), spread, "0-15", 3, "0-2"),
        (quad(), plain, "0-31", 16, "0-7,16-23"),
        (dual(), uncore, "0-15", 4, "0-1,8-9"),
        (dual(), uncore, "1-15", 4, "2-3,10-11"),
        (dual(), plain, "0-15", 0, ""),
    ] {
        let policy = Static { cpus: machine.cpus, options, reserved: CpuSet::new() };
        let got = policy.take(&set(free), needed).map(|set| format(&set));
        assert_eq!(got.as_deref(), Ok(taken), "{options:?} {free} {needed}");
    }
    // Of a spread over nodes it matters how many each gives.
    for (machine, options, free, needed, shares) in [
        (dual(), numa, "0-15", 4, vec![4]),
        (dual(), numa, "0-15", 12, vec![6, 6]),
        (quad(), numa, "0-31", 9, vec![5, 4]),
        (quad(), numa, "4-15,20-31", 20, vec![7, 7, 6]),
        (quad(), socket, "4-31", 12, vec![6, 6]),
    ] {
        let policy = Static { cpus: machine.cpus, options, reserved: CpuSet::new() };
        let taken = policy.take(&set(free), needed).expect("there are as many");
        let mut counts = BTreeMap::new();
        policy
            .cpus
            .iter()
            .filter(|cpu| taken.contains(&cpu.id))
            .for_each(|cpu| *counts.entry(cpu.numa).or_insert(0) += 1);
        assert_eq!(counts.into_values().collect::<Vec<i32>>(), shares, "{free} {needed}: {}", format(&taken));
    }
    let policy = Static { cpus: dual().cpus, ..Static::default() };
    let error = policy.take(&set("0-3"), 5).expect_err("too few");
    assert_eq!(error, "not enough cpus available to satisfy request: requested=5, available=4");
}

/// Whatever is free: as many as asked, none that is not free, whole cores before parts of them.
#[test]
fn taking_keeps_its_promises() {
    let mut seed: u64 = 7;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..400 {
        let machine = machine(1 + random(2) as u32, 1 + random(2) as u32, 1 + random(5) as u32, 1 + random(2) as u32);
        let flag = |bit: u64| bit == 1;
        let options = Options {
            full_pcpus_only: flag(random(2)),
            distribute_across_numa: flag(random(2)),
            align_by_socket: flag(random(2)),
            prefer_uncore: flag(random(2)),
            ..Options::default()
        };
        let holes = random(4);
        let free: CpuSet = machine.cpus.iter().map(|cpu| cpu.id).filter(|_| random(4) >= holes).collect();
        let needed = random(free.len() as u64 + 1) as usize;
        let policy = Static { cpus: machine.cpus, options, reserved: CpuSet::new() };
        let taken = policy.take(&free, needed).expect("there are as many");
        assert_eq!(taken.len(), needed, "round {round}: {options:?} {}", format(&free));
        assert!(taken.is_subset(&free), "round {round}");
        for hint in policy.hints(&free, &CpuSet::new(), needed) {
            let numa = hint.numa.expect("a hint has nodes");
            let inside = policy.cpus.iter().filter(|cpu| numa.has(cpu.numa) && free.contains(&cpu.id)).count();
            assert!(inside >= needed, "round {round}: a hint at too little");
        }
    }
}

fn hint(bits: u64, preferred: bool) -> Hint {
    Hint { numa: Some(Numa(bits)), preferred }
}

#[test]
fn hints_are_merged_by_policy() {
    use Policy::{BestEffort, Restricted, SingleNumaNode};
    let cpu = || vec![hint(0b01, true), hint(0b10, true), hint(0b11, false)];
    let device = |bits| vec![hint(bits, true), hint(0b11, false)];
    let wide = || vec![hint(0b11, true)];
    let nothing = Vec::new;
    type Row = (Policy, Vec<Vec<Hint>>, (Option<u64>, bool), bool);
    let rows: Vec<Row> = vec![
        (BestEffort, vec![], (Some(0b11), true), true),
        (BestEffort, vec![cpu()], (Some(0b01), true), true),
        (BestEffort, vec![cpu(), device(0b10)], (Some(0b10), true), true),
        (BestEffort, vec![device(0b01), device(0b10)], (Some(0b01), false), true),
        (BestEffort, vec![cpu(), nothing()], (Some(0b01), false), true),
        (Restricted, vec![cpu(), device(0b10)], (Some(0b10), true), true),
        (Restricted, vec![wide()], (Some(0b11), true), true),
        (Restricted, vec![wide(), device(0b10)], (Some(0b11), false), false),
        (Restricted, vec![device(0b01), device(0b10)], (Some(0b01), false), false),
        (SingleNumaNode, vec![cpu(), device(0b10)], (Some(0b10), true), true),
        (SingleNumaNode, vec![wide()], (None, false), false),
        (SingleNumaNode, vec![], (None, true), true),
    ];
    for (policy, lists, (numa, preferred), admits) in rows {
        let rules = Rules { policy, nodes: Numa(0b11), ..Rules::default() };
        let hints: Hints = lists.iter().cloned().enumerate().map(|(at, list)| (at.to_string(), list)).collect();
        let expected = (Hint { numa: numa.map(Numa), preferred }, admits);
        assert_eq!(rules.merge(&[hints]), expected, "{policy:?} {lists:?}");
    }
    let machine = machine(2, 2, 2, 1);
    for (closest, expected) in [(false, 0b0101), (true, 0b1100)] {
        let distances = machine.distances.clone();
        let rules = Rules { policy: BestEffort, closest, nodes: Numa(0b1111), distances, ..Rules::default() };
        let hints: Hints = [("x".to_owned(), vec![hint(0b0101, true), hint(0b1100, true)])].into();
        assert_eq!(rules.merge(&[hints]).0, hint(expected, true));
    }
}

fn guaranteed(name: &str, containers: &[(&str, &str, &str)]) -> Pod {
    let make = |(name, cpu, memory): &(&str, &str, &str)| {
        let list: BTreeMap<String, Quantity> = [("cpu", cpu), ("memory", memory)]
            .map(|(name, text)| (name.to_owned(), Quantity((*text).to_owned())))
            .into();
        let resources =
            ResourceRequirements { requests: list.clone(), limits: list, ..ResourceRequirements::default() };
        Container { resources, ..container(name) }
    };
    pod(name, containers.iter().map(make).collect())
}

fn settings(options: Options, policy: Policy) -> Settings {
    let reserved_memory = [(0, [("memory".to_owned(), 1 << 30)].into())].into();
    Settings { cpus: Some(options), memory: true, reserved_memory, policy, ..Settings::default() }
}

fn placed(managers: &Managers, pod: &Pod, container: &str) -> (String, String) {
    let mut to = Resources::default();
    managers.place(&pod.metadata.uid, container, &mut to);
    (to.cpuset_cpus, to.cpuset_mems)
}

#[tokio::test]
async fn pods_are_given_cpus_and_memory_and_a_restart_knows() {
    let dir = Dir::new("managers");
    let of = settings(Options { full_pcpus_only: true, ..Options::default() }, Policy::SingleNumaNode);
    let machine = machine(2, 1, 4, 2);
    let managers = Managers::new(&of, &machine, 1500, &dir.0).expect("managers");
    let one = guaranteed("one", &[("app", "4", "4Gi"), ("side", "500m", "1Gi")]);
    managers.admit(&one).await.expect("admitted");
    assert_eq!(placed(&managers, &one, "app"), ("1-2,9-10".into(), "0".into()));
    assert_eq!(placed(&managers, &one, "side"), ("0,3-8,11-15".into(), "0".into()), "the shared pool");
    assert!(managers.pool_changed() && !managers.pool_changed());
    for (pod, reason, message) in [
        (
            guaranteed("odd", &[("app", "3", "1Gi")]),
            "SMTAlignmentError",
            "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
        ),
        (
            guaranteed("large", &[("app", "12", "1Gi")]),
            "TopologyAffinityError",
            "Resources cannot be allocated with Topology locality",
        ),
        (
            guaranteed("fat", &[("app", "2", "15Gi")]),
            "TopologyAffinityError",
            "Resources cannot be allocated with Topology locality",
        ),
    ] {
        let refusal = managers.admit(&pod).await.expect_err("too much");
        assert_eq!((&*refusal.reason, &*refusal.message), (reason, message), "{}", pod.metadata.name);
    }
    // A new kubelet goes on with it; other settings need a drained node.
    let again = Managers::new(&of, &machine, 1500, &dir.0).expect("managers");
    assert_eq!(placed(&again, &one, "app"), ("1-2,9-10".into(), "0".into()));
    let other = Topology { cpus: machine.cpus[1..].to_vec(), ..machine.clone() };
    let error = Managers::new(&of, &other, 1500, &dir.0).err().expect("another machine");
    assert!(error.contains("doesn't match with CPUs in state"), "{error}");
    again.keep_only(|_| false);
    assert!(again.pool_changed());
    assert_eq!(placed(&again, &one, "app"), ("0-15".into(), "".into()));
    let two = guaranteed("two", &[("app", "8", "12Gi")]);
    again.admit(&two).await.expect("there is room again");
    assert_eq!(placed(&again, &two, "app"), ("4-7,12-15".into(), "1".into()));
    let error = Managers::new(&of, &machine, 0, &Dir::new("managers-none").0).err().expect("no reservation");
    assert!(error.contains("requires systemreserved.cpu + kubereserved.cpu to be greater than zero"), "{error}");
}

#[tokio::test]
async fn what_init_containers_have_is_used_again() {
    let dir = Dir::new("managers-init");
    let of = settings(Options::default(), Policy::Restricted);
    let managers = Managers::new(&of, &machine(1, 2, 4, 1), 1000, &dir.0).expect("managers");
    let mut pod = guaranteed("pod", &[("app", "2", "12Gi")]);
    pod.spec.init_containers = guaranteed("x", &[("init", "3", "14Gi")]).spec.containers;
    managers.admit(&pod).await.expect("admitted");
    let (init, app) = (placed(&managers, &pod, "init"), placed(&managers, &pod, "app"));
    assert!(set(&app.0).is_subset(&set(&init.0)), "{init:?} {app:?}");
    let pool = placed(&managers, &pod, "nobody").0;
    assert_eq!(set(&pool).len(), 5, "what only the init container had is not shared before the pod ends");
    managers.release("uid-pod");
    assert_eq!(placed(&managers, &pod, "nobody").0, "0-7");
}
