//! ServiceLB: node addresses as the addresses of Services of type LoadBalancer. `net::lb` decides; this feeds it and
//! writes the statuses.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use net::lb;
use reconcile::Key;
use reconcile::io::reflector::{self, Scope};
use reconcile::io::{Client, Identity};
use schema::api::Time;
use schema::api::core::v1::{Node, Pod, Service};
use schema::api::discovery::v1::EndpointSlice;

use super::host::now_ns;
use super::watched::{Feed, Watched};

const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(2);

/// Runs until dropped. `reserved`: ports on which nodes serve themselves.
pub async fn run(client: Client, reserved: BTreeSet<u16>) {
    let client = client.with_identity(Identity("system:sampan:servicelb".into()));
    let state = Arc::new(Watched::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(reflector::run::<Service>(client.clone(), Scope::default(), Feed(state.clone())));
    tasks.spawn(reflector::run::<Node>(client.clone(), Scope::default(), Feed(state.clone())));
    tasks.spawn(reflector::run::<EndpointSlice>(client.clone(), Scope::default(), Feed(state.clone())));
    tasks.spawn(reflector::run::<Pod>(client.clone(), Scope::default(), Feed(state.clone())));
    let options = lb::Options { class: Some("sampan.io/servicelb".into()), reserved };
    loop {
        state.changed.notified().await;
        tokio::time::sleep(GATHER).await;
        let plans = plan(&state, &options);
        for plan in plans {
            if let Err(error) = write(&client, &state, plan).await {
                tracing::debug!(%error, "a load balancer's status was not written");
                let state = state.clone();
                tasks.spawn(async move {
                    tokio::time::sleep(RETRY).await;
                    state.changed.notify_one();
                });
            }
        }
    }
}

fn plan(state: &Watched, options: &lb::Options) -> Vec<lb::StatusPlan> {
    let world = state.world();
    let complete = world.of::<Service>().synced()
        && world.of::<Node>().synced()
        && world.of::<EndpointSlice>().synced()
        && world.of::<Pod>().synced();
    if !complete {
        return Vec::new();
    }
    let (services, nodes): (Vec<_>, Vec<_>) =
        (world.of::<Service>().values().cloned().collect(), world.of::<Node>().values().cloned().collect());
    let slices: Vec<_> = world.of::<EndpointSlice>().values().cloned().collect();
    let pods: Vec<_> = world.of::<Pod>().values().filter(|pod| has_host_ports(pod)).cloned().collect();
    lb::plan(lb::Objects { services: &services, nodes: &nodes, slices: &slices, pods: &pods }, options)
}

fn has_host_ports(pod: &Pod) -> bool {
    pod.spec.containers.iter().flat_map(|container| &container.ports).any(|port| port.host_port > 0)
}

async fn write(client: &Client, state: &Watched, plan: lb::StatusPlan) -> Result<(), reconcile::io::Error> {
    let found = state.world().get::<Service>(&Key::new(&plan.namespace, &plan.name)).cloned();
    let Some(found) = found.filter(|service| service.metadata.uid == plan.uid) else { return Ok(()) };
    let mut changed = (*found).clone();
    changed.metadata.resource_version = plan.resource_version;
    changed.status.load_balancer.ingress = plan.ingress;
    changed.status.conditions = plan.conditions;
    let now = Time { seconds: now_ns() / 1_000_000_000 };
    for condition in changed.status.conditions.iter_mut().filter(|condition| condition.last_transition_time.is_zero()) {
        condition.last_transition_time = now;
    }
    let written = client.update_status(&changed).await?;
    state.world().of_mut::<Service>().put(written);
    Ok(())
}
