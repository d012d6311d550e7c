//! Which devices a container gets: those of its pod's ended init containers first, then those near to its other
//! resources, and of these the ones that the plugin prefers.

use std::collections::{BTreeMap, BTreeSet};

use rpc::deviceplugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, PreferredAllocationRequest,
};
use schema::api::core::v1::{Container, Pod};
use schema::quantity::Quantity;

use super::{Devices, Given, Plugin, Resource, State, TIMEOUT, kept};
use crate::objects::lock;
use crate::plugins::{call, told};
use crate::topology::{Allocated, Hint, HintProvider, Hints, Numa, Refusal};

type Ids = BTreeSet<String>;

/// Devices that a container asks for, by resource.
fn asked(container: &Container) -> impl Iterator<Item = (&String, usize)> {
    container.resources.limits.iter().filter(|(name, _)| name.contains('/')).filter_map(|(name, amount)| {
        let count = Quantity::parse(&amount.0).ok()?.value();
        Some((name, usize::try_from(count).ok().filter(|count| *count > 0)?))
    })
}

impl State {
    fn knows(&self, resource: &str) -> bool {
        self.resources.contains_key(resource) || self.given.iter().any(|given| given.resource == resource)
    }

    fn of(&self, pod: &str, container: &str, resource: &str) -> Option<Ids> {
        let mut own = self.given.iter().filter(|of| of.pod == pod && of.container == container);
        own.find(|of| of.resource == resource).map(Given::ids)
    }

    fn in_use(&self, resource: &str) -> Ids {
        self.given.iter().filter(|given| given.resource == resource).flat_map(Given::ids).collect()
    }

    /// Devices of init containers that do not run beside this one.
    fn reusable(&self, pod: &Pod, container: &str, resource: &str) -> Ids {
        let ends = |of: &&Container| of.restart_policy.as_deref() != Some("Always");
        let before = pod.spec.init_containers.iter().take_while(|of| of.name != container).filter(ends);
        let mut free: Ids = before.filter_map(|of| self.of(&pod.metadata.uid, &of.name, resource)).flatten().collect();
        // What a sidecar or another app has by now is its own.
        let stays = pod.spec.init_containers.iter().filter(|of| !ends(of)).chain(&pod.spec.containers);
        for id in stays.filter_map(|of| self.of(&pod.metadata.uid, &of.name, resource)).flatten() {
            free.remove(&id);
        }
        free
    }
}

impl Resource {
    fn healthy(&self) -> Ids {
        self.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect()
    }

    fn lies_in(&self, id: &str, numa: Numa) -> bool {
        let on = |node: &i64| u32::try_from(*node).is_ok_and(|node| numa.has(node));
        self.devices.get(id).is_some_and(|device| device.numa.iter().any(on))
    }

    /// Upstream's `generateDeviceTopologyHints`.
    fn hints(&self, nodes: Numa, available: &Ids, reusable: &Ids, count: usize) -> Vec<Hint> {
        let inside = |ids: &Ids, numa: Numa| ids.iter().filter(|id| self.lies_in(id, numa)).count();
        let all: Ids = self.devices.keys().cloned().collect();
        let (mut narrowest, mut hints) = (nodes.count(), Vec::new());
        for numa in nodes.subsets() {
            if inside(&all, numa) >= count {
                narrowest = narrowest.min(numa.count());
            }
            let reused = inside(reusable, numa);
            let fresh: Ids = available.difference(reusable).cloned().collect();
            if reused == reusable.len() && reused + inside(&fresh, numa) >= count {
                hints.push(numa);
            }
        }
        let hint = |numa: Numa| Hint { numa: Some(numa), preferred: numa.count() == narrowest };
        hints.into_iter().map(hint).collect()
    }
}

/// What is known of a choice before the plugin is asked.
struct Choice {
    plugin: Plugin,
    taken: Ids,
    available: Ids,
    near: Ids,
    /// Of no particular place.
    anywhere: Ids,
}

impl Devices {
    /// `None`: nothing is to be done.
    fn begin(
        &self,
        pod: &Pod,
        container: &str,
        resource: &str,
        count: usize,
        hint: Hint,
    ) -> Result<Option<Choice>, String> {
        let state = lock(&self.state);
        if !state.knows(resource) {
            return Ok(None);
        }
        let uid = &pod.metadata.uid;
        if let Some(own) = state.of(uid, container, resource) {
            return match own.len() == count {
                true => Ok(None),
                false => Err(format!(
                    "pod {uid:?} container {container:?} changed request for resource {resource:?} from {} to {count}",
                    own.len()
                )),
            };
        }
        let known = state.resources.get(resource).and_then(|of| Some((of, of.plugin.clone()?)));
        let Some((of, plugin)) = known else { return Err(format!("cannot allocate unregistered device {resource}")) };
        let healthy = of.healthy();
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        let reusable = state.reusable(pod, container, resource);
        let taken: Ids = reusable.intersection(&healthy).take(count).cloned().collect();
        let available: Ids = healthy.difference(&state.in_use(resource)).cloned().collect();
        let needed = count - taken.len();
        if available.len() < needed {
            let have = available.len();
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {have}"
            ));
        }
        let (near, anywhere) = match hint.numa {
            Some(numa) => (
                available.iter().filter(|id| of.lies_in(id, numa)).cloned().collect(),
                available
                    .iter()
                    .filter(|id| of.devices.get(*id).is_some_and(|of| of.numa.is_empty()))
                    .cloned()
                    .collect(),
            ),
            None => (Ids::new(), available.clone()),
        };
        Ok(Some(Choice { plugin, taken, available, near, anywhere }))
    }

    async fn give(&self, pod: &Pod, container: &str, resource: &str, count: usize, hint: Hint) -> Result<(), String> {
        let Some(choice) = self.begin(pod, container, resource, count, hint)? else { return Ok(()) };
        let Choice { mut plugin, mut taken, available, near, anywhere } = choice;
        let take = |taken: &mut Ids, from: &Ids| {
            let free: Vec<String> = from.difference(taken).cloned().collect();
            taken.extend(free.into_iter().take(count - taken.len()));
        };
        let enough_near = near.len() > count - taken.len();
        if !enough_near {
            take(&mut taken, &near);
        }
        if taken.len() < count {
            let among = if enough_near { &near } else { &available };
            if plugin.options.get_preferred_allocation_available {
                let request = ContainerPreferredAllocationRequest {
                    available_device_i_ds: among.union(&taken).cloned().collect(),
                    must_include_device_i_ds: taken.iter().cloned().collect(),
                    allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
                };
                let request = PreferredAllocationRequest { container_requests: vec![request] };
                let answer = call(TIMEOUT, plugin.client.get_preferred_allocation(request)).await;
                let answer = answer.map_err(|status| {
                    format!("device plugin GetPreferredAllocation rpc failed with err: {}", told(&status))
                })?;
                let preferred: Ids = answer.container_responses.into_iter().flat_map(|of| of.device_i_ds).collect();
                take(&mut taken, &preferred.intersection(among).cloned().collect());
            }
            for from in [&near, &available.difference(&anywhere).cloned().collect(), &anywhere] {
                take(&mut taken, from);
            }
        }
        let place = |of: Option<&Resource>, id: &String| {
            let device = of.and_then(|of| of.devices.get(id));
            device.map(|device| device.numa.clone()).filter(|numa| !numa.is_empty()).unwrap_or(vec![-1])
        };
        let uid = pod.metadata.uid.clone();
        {
            let mut state = lock(&self.state);
            let (container, resource) = (container.to_owned(), resource.to_owned());
            let mut given = Given { pod: uid.clone(), container, resource: resource.clone(), ..Given::default() };
            for id in &taken {
                for numa in place(state.resources.get(&resource), id) {
                    given.devices.entry(numa).or_default().insert(id.clone());
                }
            }
            // Taken at once: nobody else gets them while the plugin thinks.
            state.given.push(given);
        }
        let request = ContainerAllocateRequest { devices_ids: taken.into_iter().collect() };
        let answer = call(TIMEOUT, plugin.client.allocate(AllocateRequest { container_requests: vec![request] })).await;
        let mut state = lock(&self.state);
        let own = |of: &Given| of.pod == uid && of.container == container && of.resource == resource;
        let outcome = match answer.map(|answer| answer.container_responses.into_iter().next()) {
            Ok(Some(response)) => {
                state.given.iter_mut().filter(|of| own(of)).for_each(|of| of.response = response.clone());
                Ok(())
            }
            Ok(None) => Err("no containers return in allocation response".to_owned()),
            Err(status) => Err(told(&status)),
        };
        if outcome.is_err() {
            state.given.retain(|of| !own(of));
        }
        kept::save(&self.dir, &state);
        outcome
    }

    fn total(pod: &Pod, container: Option<&Container>) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        match container {
            Some(container) => all.extend(asked(container).map(|(name, count)| (name.clone(), count))),
            None => {
                for (name, count) in pod.spec.containers.iter().flat_map(asked) {
                    *all.entry(name.clone()).or_default() += count;
                }
                for (name, count) in pod.spec.init_containers.iter().flat_map(asked) {
                    let entry = all.entry(name.clone()).or_default();
                    *entry = (*entry).max(count);
                }
            }
        }
        all
    }
}

impl HintProvider for Devices {
    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let state = lock(&self.state);
        let nodes = Numa::of(self.numa.iter().copied());
        let mut hints = Hints::new();
        for (resource, count) in Self::total(pod, container) {
            let Some(of) = state.resources.get(&resource) else { continue };
            if of.devices.values().all(|device| device.numa.is_empty()) {
                continue;
            }
            let name = container.map_or("", |container| &container.name);
            let own = state.of(&pod.metadata.uid, name, &resource).unwrap_or_default();
            let reusable = state.reusable(pod, name, &resource);
            let list = if !own.is_empty() {
                if own.len() == count { of.hints(nodes, &own, &Ids::new(), count) } else { Vec::new() }
            } else {
                let available: Ids = of.healthy().difference(&state.in_use(&resource)).cloned().collect();
                match available.union(&reusable).count() < count {
                    true => Vec::new(),
                    false => of.hints(nodes, &available, &reusable, count),
                }
            };
            hints.insert(resource, list);
        }
        hints
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, hint: Hint) -> Allocated<'a> {
        Box::pin(async move {
            for (resource, count) in asked(container) {
                self.give(pod, &container.name, resource, count, hint).await.map_err(Refusal::unexpected)?;
            }
            Ok(())
        })
    }

    fn release(&self, uid: &str) {
        let mut state = lock(&self.state);
        let before = state.given.len();
        state.given.retain(|given| given.pod != uid);
        if state.given.len() != before {
            kept::save(&self.dir, &state);
        }
    }
}
