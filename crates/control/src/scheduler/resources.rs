//! What pods ask for and nodes have: CPU in millicores, everything else in units.

use std::collections::BTreeMap;

use schema::api::Quantity;
use schema::api::core::v1::{Container, Pod};
use schema::quantity;

/// Amounts by resource name. `pods` counts pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    pub fn of_list(list: &BTreeMap<String, Quantity>) -> Self {
        Self(
            list.iter()
                .filter_map(|(name, amount)| {
                    let amount = quantity::Quantity::parse(&amount.0).ok()?;
                    Some((name.clone(), if name == "cpu" { amount.milli_value() } else { amount.value() }))
                })
                .collect(),
        )
    }

    fn of_container(container: &Container, least: &[(&str, i64)]) -> Self {
        let mut own = Self::of_list(&container.resources.requests);
        for (name, amount) in least {
            own.0.entry((*name).to_owned()).or_insert(*amount);
        }
        own
    }

    /// The effective request: containers and sidecars together, or the most that an init container needs beside the
    /// sidecars before it; pod-level requests instead where they are given; the overhead on top.
    pub fn of_pod(pod: &Pod) -> Self {
        Self::of_pod_at_least(pod, &[])
    }

    /// The same with what a container without a request of a resource is counted as.
    pub fn of_pod_at_least(pod: &Pod, least: &[(&str, i64)]) -> Self {
        let of_container = |container| Self::of_container(container, least);
        let mut running = pod.spec.containers.iter().map(of_container).fold(Self::default(), Self::plus);
        let (mut sidecars, mut starting) = (Self::default(), Self::default());
        for container in &pod.spec.init_containers {
            let own = of_container(container);
            if container.restart_policy.as_deref() == Some("Always") {
                running = running.plus(own.clone());
                sidecars = sidecars.plus(own);
                starting = starting.max(&sidecars);
            } else {
                starting = starting.max(&own.plus(sidecars.clone()));
            }
        }
        let mut total = running.max(&starting);
        if let Some(of_pod) = &pod.spec.resources {
            total.0.extend(Self::of_list(&of_pod.requests).0);
        }
        let mut total = total.plus(Self::of_list(&pod.spec.overhead));
        total.0.insert("pods".to_owned(), 1);
        total
    }

    pub fn plus(mut self, other: Self) -> Self {
        for (name, amount) in other.0 {
            let sum = self.0.entry(name).or_insert(0);
            *sum = sum.saturating_add(amount);
        }
        self
    }

    fn max(mut self, other: &Self) -> Self {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_insert(0);
            *most = (*most).max(*amount);
        }
        self
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}
