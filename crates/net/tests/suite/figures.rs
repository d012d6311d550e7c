//! Figures for docs/decisions/net.md; run by hand: `cargo test --release -p net --test suite -- --ignored --nocapture figures`.

use std::time::{Duration, Instant};

use net::dns::{Transport, Zone, ZoneService, answer};
use net::ruleset::{Inputs, Protocol, Service, ruleset};

use crate::kernel::{Lab, endpoint, inputs, ip, service};
use crate::lab::{Directory, Space, root};

fn services(count: usize) -> Vec<std::sync::Arc<Service>> {
    let one = |n: usize| {
        let both = (0..2).map(|e| endpoint(ip(&format!("10.42.{}.{}", n / 120 % 250, (n % 120) * 2 + e + 1)), 8080));
        let name = format!("d/s{n:05}");
        service(&name, &[&format!("10.43.{}.{}", n / 250, n % 250 + 1)], Protocol::Tcp, both.collect()).into()
    };
    (0..count).map(one).collect()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    if !root() {
        return;
    }
    for count in [1000, 5000] {
        let lab = Lab::new(0);
        let mut inputs: Inputs = inputs();
        inputs.services = services(count);
        let (compute, built) = timed(|| ruleset(&inputs));
        let (load, _) = timed(|| lab.net.apply(&built.ruleset).unwrap());
        let (mut decide, mut applied) = (vec![], vec![]);
        for n in 0..21 {
            let mut changed = Service::clone(&inputs.services[n * 7]);
            changed.ports[0].endpoints[0].port += 1;
            inputs.services[n * 7] = changed.into();
            let (d, built) = timed(|| ruleset(&inputs));
            let (a, done) = timed(|| lab.net.apply(&built.ruleset).unwrap());
            assert_eq!(done.changes, 2);
            decide.push(d);
            applied.push(a);
        }
        let (again, _) = timed(|| lab.net.apply(&ruleset(&inputs).ruleset).unwrap());
        lab.net.distrust();
        let (restart, done) = timed(|| lab.net.apply(&ruleset(&inputs).ruleset).unwrap());
        assert_eq!(done.changes, 0);
        println!(
            "{count} services x 2: compute {compute:?}, first load {load:?}; one change: compute {:?} + apply {:?}; \
             no change {again:?}; restart (read, compute, compare) {restart:?}",
            median(decide),
            median(applied),
        );
    }
    let lab = Lab::new(0);
    let directory = Directory::new();
    let pods: Vec<Space> = (0..100).map(|n| Space::new(&directory, &format!("pod{n}"))).collect();
    let (mut attach, mut detach) = (vec![], vec![]);
    for (n, pod) in pods.iter().enumerate() {
        attach.push(lab.node.run(|| timed(|| lab.net.attach_pod(&pod.path, &format!("figure-{n}")).unwrap()).0));
    }
    for n in 0..pods.len() {
        detach.push(lab.node.run(|| timed(|| lab.net.detach_pod(&format!("figure-{n}")).unwrap()).0));
    }
    println!(
        "pod: attach {:?} (p50), {:?} (max), detach {:?}",
        median(attach.clone()),
        attach.iter().max(),
        median(detach)
    );

    let mut zone = Zone::new("cluster.local", 1);
    for n in 0..5000 {
        let one = ZoneService { cluster_ips: vec![ip("10.43.0.1")], ..ZoneService::default() };
        zone.services.insert(("d".into(), format!("s{n}")), one.into());
    }
    let zone = zone.index();
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["s77", "d", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let (all, _) = timed(|| (0..100_000).for_each(|n| drop(answer(&zone, &query, Transport::Udp, n))));
    println!("dns: {:?} an answer", all / 100_000);
}
