//! The rooms of fairness by themselves: matching, seats, queues and what they come to over time.

use std::sync::Arc;

use schema::yaml;

use super::config::{self, Level, Schema};
use super::demand::{Bounds, Claim, Demand, Figures, share};
use super::queues::{About, Arrival, Arriving, Discipline, Queues, deal};
use super::retry::Retry;
use super::width::of_list;
use crate::bootstrap::flow;
use crate::{Attributes, User};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

fn info(method: &str, path: &str) -> Attributes {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Attributes::parse(&method.parse().unwrap(), path, query)
}

/// The bootstrap configuration, in the order in which it is tried.
fn schemas() -> Vec<Schema> {
    let objects = flow::objects();
    let mut all: Vec<_> =
        objects.iter().filter(|(of, _)| *of == flow::SCHEMAS).map(|(_, object)| Schema::parse(object)).collect();
    all.sort_by(|a, b| a.order().cmp(&b.order()));
    all
}

fn levels() -> Vec<Level> {
    let objects = flow::objects();
    objects.iter().filter(|(of, _)| *of == flow::LEVELS).filter_map(|(_, object)| Level::parse(object)).collect()
}

#[test]
fn upstreams_configuration_matches_as_upstreams() {
    let check = |user: &str, groups: &[&str], method: &str, path: &str, wanted: &str, flow: &str| {
        let (user, info) = (User::new(user, groups), info(method, path));
        let all = schemas();
        let found = all.iter().find(|schema| schema.matches(&user, &info)).expect("a schema");
        assert_eq!((found.name.as_str(), found.flow(&user, &info)), (wanted, flow), "{} {method} {path}", user.name);
    };
    let (all, nodes) = ("system:authenticated", "system:nodes");
    let account = "system:serviceaccounts";
    check("admin", &["system:masters"], "GET", "/api/v1/pods", "exempt", "");
    check("jane", &[all], "GET", "/readyz", "probes", "");
    check("jane", &[all], "GET", "/readyz/etcd", "probes", "");
    check("jane", &[all], "GET", "/readyzy", "global-default", "jane");
    check("jane", &[all], "GET", "/apis", "global-default", "jane");
    check("system:node:a", &[nodes, all], "PATCH", "/api/v1/nodes/a/status", "system-node-high", "system:node:a");
    check("system:node:a", &[nodes, all], "GET", "/api/v1/nodes/a/proxy", "system-nodes", "system:node:a");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    check("system:node:a", &[nodes, all], "PUT", lease, "system-node-high", "system:node:a");
    check("system:kube-scheduler", &[all], "PUT", lease, "system-leader-election", "system:kube-scheduler");
    check("system:kube-scheduler", &[all], "DELETE", lease, "kube-scheduler", "kube-system");
    let own = "system:serviceaccount:kube-system:dns";
    check(own, &[account, all], "GET", "/api/v1/namespaces/default/pods", "kube-system-service-accounts", "default");
    let other = "system:serviceaccount:kube-systems:dns";
    check(other, &[account, all], "GET", "/api/v1/pods", "service-accounts", other);
}

#[test]
fn words_and_scopes_are_upstreams() {
    let check = |rule: &str, method: &str, path: &str, wanted: bool| {
        let text = format!(
            "{{metadata: {{name: s}}, spec: {{rules: [{{subjects: [{{kind: User, user: {{name: '*'}}}}], {rule}}}]}}}}"
        );
        let schema = Schema::parse(&yaml::parse(text.as_bytes()).expect("yaml").value);
        assert_eq!(schema.matches(&User::new("jane", &[]), &info(method, path)), wanted, "{rule} {method} {path}");
    };
    let pods = "resourceRules: [{verbs: [list], apiGroups: [''], resources: [pods, pods/status], namespaces: [a]}]";
    check(pods, "GET", "/api/v1/namespaces/a/pods", true);
    check(pods, "GET", "/api/v1/namespaces/b/pods", false);
    check(pods, "GET", "/api/v1/pods", false);
    check(pods, "GET", "/api/v1/namespaces/a/pods?watch=1", false);
    let all = "resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*']}]";
    check(all, "DELETE", "/apis/apps/v1/namespaces/b/deployments/d", true);
    check(all, "GET", "/api/v1/nodes", false);
    check(all, "GET", "/version", false);
    let paths = "nonResourceRules: [{verbs: [get], nonResourceURLs: [/apis/*, /debug]}]";
    for (path, wanted) in [("/apis/apps", true), ("/debug", true), ("/debug/pprof", true), ("/debugger", false)] {
        check(paths, "GET", path, wanted);
        check(paths, "POST", path, false);
    }
}

/// The seats of all levels as upstream's metrics show them shortly after its start.
#[test]
fn seats_are_divided_as_upstream_divides_them() {
    let levels = levels();
    let bounds = config::bounds(&levels.iter().collect::<Vec<_>>(), 600);
    let mut claims: Vec<Claim> = levels
        .iter()
        .zip(bounds)
        .map(|(level, bounds)| Claim {
            exempt: level.discipline == Discipline::Exempt,
            bounds,
            figures: Figures::default(),
            current: 0,
        })
        .collect();
    let check = |claims: &[Claim], wanted: [(&str, u64); 8], fraction: f64| {
        let (seats, fair) = share(claims);
        for (name, seats_wanted) in wanted {
            let at = levels.iter().position(|level| level.name == name).expect(name);
            assert_eq!(seats[at], seats_wanted, "{name}");
        }
        assert!((fair - fraction).abs() < 0.001, "{fair}");
    };
    claims[0].figures.high = 2.0;
    let idle = [
        ("catch-all", 30),
        ("exempt", 2),
        ("global-default", 56),
        ("leader-election", 58),
        ("node-high", 170),
        ("system", 117),
        ("workload-high", 114),
        ("workload-low", 56),
    ];
    check(&claims, idle, 2.3333);
    // A level that wants more than its part gets what the others lend, but not what they use or keep.
    let low = levels.iter().position(|level| level.name == "workload-low").expect("a level");
    claims[low].figures = Figures { high: 900.0, smoothed: 900.0, ..Figures::default() };
    let (seats, _) = share(&claims);
    assert!(seats[low] > 350, "{}", seats[low]);
    for (claim, seats) in claims.iter().zip(&seats).filter(|(claim, _)| !claim.exempt) {
        assert!((claim.bounds.lower..=claim.bounds.upper).contains(seats), "{claim:?} {seats}");
    }
    let wanted = Bounds { nominal: 245, lower: 24, upper: 845 };
    assert_eq!(claims[low].bounds, wanted);
}

#[test]
fn demand_is_smoothed_over_periods() {
    let mut demand = Demand::new(0);
    demand.set(100.0, 0);
    demand.set(0.0, 5 * SECOND);
    demand.end_period(10 * SECOND);
    let Figures { average, deviation, high, smoothed } = demand.figures;
    assert_eq!((average, deviation, high, smoothed), (50.0, 50.0, 100.0, 100.0));
    // Half an hour of silence leaves almost nothing of it, as if each period had been looked at.
    demand.end_period(1810 * SECOND);
    assert!((1.0..2.0).contains(&demand.figures.smoothed), "{:?}", demand.figures);
}

#[test]
fn hands_are_of_different_cards() {
    let mut used = [0; 128];
    for hash in 0..20_000u64 {
        let mut dealt = [0; 15];
        let hand = deal(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), 128, 6, &mut dealt).to_vec();
        let unique: std::collections::BTreeSet<_> = hand.iter().collect();
        assert_eq!(unique.len(), 6);
        hand.iter().for_each(|card| used[*card] += 1);
    }
    assert!(used.iter().all(|count| (700..1200).contains(count)), "{used:?}");
    assert_eq!(deal(0, 1, 1, &mut [0; 15]), [0]);
}

/// A level whose requests are names.
struct World {
    queues: Queues<String>,
    now: u64,
}

impl World {
    fn new(discipline: Discipline, limit: u64) -> World {
        let mut queues = Queues::new(discipline, limit, 0);
        assert_eq!(queues.slot(&"schema".into()), 0);
        World { queues, now: 0 }
    }

    fn arrive(&mut self, name: &str, hash: u64, seats: u64) -> (Arrival, Vec<(String, usize)>) {
        let mut ready = Vec::new();
        let wait = || (name.to_owned(), Arc::new(About::default()));
        let request = Arriving { slot: 0, hash, seats, is_watch: false };
        (self.queues.arrive(request, self.now, wait, &mut ready), ready)
    }

    fn finish(&mut self, id: usize) -> Vec<(String, usize)> {
        let mut ready = Vec::new();
        self.queues.finish(id, self.now, &mut ready);
        ready
    }
}

const QUEUE: Discipline = Discipline::Queue { queues: 64, hand: 6, length: 50 };

#[test]
fn a_level_without_queues_refuses_what_has_no_seat() {
    let mut world = World::new(Discipline::Reject, 2);
    assert_eq!(world.arrive("a", 0, 1).0, Arrival::Execute(0));
    assert_eq!(world.arrive("b", 0, 2).0, Arrival::Rejected("concurrency-limit"));
    assert_eq!(world.arrive("c", 0, 1).0, Arrival::Execute(1));
    world.finish(0);
    assert_eq!(world.arrive("d", 0, 1).0, Arrival::Execute(0));
    let mut exempt = World::new(Discipline::Exempt, 0);
    for id in 0..100 {
        assert_eq!(exempt.arrive("e", 0, 10).0, Arrival::Execute(id));
    }
}

#[test]
fn queues_are_served_in_order_and_are_not_endless() {
    let mut world = World::new(Discipline::Queue { queues: 1, hand: 1, length: 2 }, 1);
    assert_eq!(world.arrive("a", 0, 1).0, Arrival::Execute(0));
    let (Arrival::Queued(_), _) = world.arrive("b", 0, 1) else { panic!("it must wait") };
    let (Arrival::Queued(place), _) = world.arrive("c", 0, 1) else { panic!("it must wait") };
    assert_eq!(world.arrive("d", 0, 1).0, Arrival::Rejected("queue-full"));
    assert_eq!(world.finish(0), [("b".to_owned(), 0)]);
    assert!(world.queues.cancel(place, world.now) && !world.queues.cancel(place, world.now));
    assert_eq!(world.finish(0), []);
    assert!(world.queues.is_idle());
    assert_eq!(world.queues.stats[0].1.rejected, [("queue-full", 1), ("time-out", 1)].into());
}

/// What is wider than its level has it alone; what waits behind it is not starved.
#[test]
fn wide_requests_wait_for_all_their_seats() {
    let mut world = World::new(QUEUE, 4);
    for id in 0..4 {
        assert_eq!(world.arrive("narrow", 1, 1).0, Arrival::Execute(id));
    }
    world.arrive("wide", 2, 9);
    for id in 0..3 {
        assert_eq!(world.finish(id), []);
    }
    assert_eq!(world.finish(3), [("wide".to_owned(), 3)]);
    world.arrive("next", 3, 1);
    assert_eq!(world.finish(3), [("next".to_owned(), 3)]);
}

#[test]
fn a_slow_reader_loses_its_seat_to_those_who_wait() {
    let mut world = World::new(QUEUE, 1);
    assert_eq!(world.arrive("slow", 1, 1).0, Arrival::Execute(0));
    world.queues.begin_turn(0, 5 * SECOND);
    world.arrive("other", 2, 1);
    assert_eq!(world.queues.next_release(), Some(5 * SECOND));
    let mut ready = Vec::new();
    world.queues.release_overdue(5 * SECOND, &mut ready);
    assert_eq!(ready, [("other".to_owned(), 1)]);
    // It ends much later, and gives nothing back twice.
    world.now = 60 * SECOND;
    world.finish(0);
    world.finish(1);
    assert!(world.queues.is_idle() && world.queues.totals.seats_in_use == 0);
}

/// One flow has thousands of requests waiting or on their way, another one now and then: it hardly waits.
#[test]
fn a_noisy_flow_does_not_starve_a_quiet_one() {
    const WORK: u64 = 10 * MILLISECOND;
    let mut world = World::new(QUEUE, 4);
    let (mut running, mut refused, mut slowest, mut served) = (Vec::<(u64, usize)>::new(), 0, 0, [0; 2]);
    let mut sent = std::collections::BTreeMap::new();
    for tick in 0..10_000u64 {
        world.now = tick * MILLISECOND;
        let mut begun = Vec::new();
        for at in (0..running.len()).rev() {
            if running[at].0 <= world.now {
                let (_, id) = running.swap_remove(at);
                begun.extend(world.finish(id));
            }
        }
        let quiet = (tick % 50 == 0).then(|| (format!("quiet {tick}"), 77));
        let noisy = (0..3).map(|n| (format!("noisy {tick} {n}"), 42));
        for (name, hash) in noisy.chain(quiet) {
            sent.insert(name.clone(), world.now);
            match world.arrive(&name, hash, 1) {
                (Arrival::Execute(id), _) => begun.push((name, id)),
                (Arrival::Queued(_), ready) => begun.extend(ready),
                (Arrival::Rejected(_), _) if name.starts_with("quiet") => panic!("{name} was refused"),
                _ => refused += 1,
            }
        }
        for (name, id) in begun {
            running.push((world.now + WORK, id));
            let is_quiet = name.starts_with("quiet");
            served[usize::from(is_quiet)] += 1;
            if is_quiet {
                slowest = slowest.max(world.now - sent[&name]);
            }
        }
    }
    // 4 seats of 10 ms are 400 a second: all of them are used.
    assert!(refused > 20_000 && served[0] > 3700 && served[1] == 200, "{refused} {served:?}");
    assert!(slowest <= 2 * WORK, "the quiet one waited {} ms", slowest / MILLISECOND);
}

#[test]
fn a_level_that_stops_queueing_drains() {
    let mut world = World::new(QUEUE, 1);
    world.arrive("a", 1, 1);
    world.arrive("b", 1, 1);
    let mut ready = Vec::new();
    world.queues.configure(Discipline::Reject, 0, &mut ready);
    assert_eq!(world.arrive("c", 1, 1).0, Arrival::Rejected("concurrency-limit"));
    let woken = world.finish(0);
    assert_eq!(woken, [("b".to_owned(), 0)]);
    world.finish(0);
    assert!(world.queues.is_idle() && world.queues.queues.is_empty());
}

#[test]
fn the_refused_come_again_the_later_the_more_they_are() {
    let mut retry = Retry::default();
    let mut after = |second: u64, count: u64| (0..count).map(|_| retry.refused(second)).last().unwrap_or(0);
    assert_eq!(after(100, 2), 1);
    assert_eq!(after(101, 50), 1);
    assert_eq!(after(102, 50), 2);
    assert_eq!(after(103, 50), 2);
    assert_eq!(after(104, 50), 4);
    for second in 105..300 {
        assert!(after(second, 200) <= 32);
    }
    assert_eq!(after(300, 200), 32);
    // Few refusals: one second less at each that has one.
    assert_eq!(after(400, 1), 31);
}

#[test]
fn lists_are_as_wide_as_they_are_heavy() {
    for (objects, bytes, limit, wanted) in [
        (0, 0, None, 0),
        (10, 5_000, None, 1),
        (1000, 450_000, None, 5),
        (1000, 450_000, Some(100), 1),
        (1000, 450_000, Some(5000), 5),
        (100_000, 500_000_000, None, 10),
        (100_000, 500_000_000, Some(500), 10),
    ] {
        assert_eq!(of_list(objects, bytes, limit), wanted, "{objects} {bytes} {limit:?}");
    }
}
