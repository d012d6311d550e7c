//! `<root>/pod-resources/kubelet.sock`: which devices, CPUs and claims the containers of this node have, for monitoring
//! agents (podresources v1).

use std::collections::BTreeMap;
use std::sync::Arc;

use rpc::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use rpc::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, CdiDevice, ClaimResource, ContainerDevices,
    ContainerResources, DynamicResource, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, NumaNode, PodResources, TopologyInfo,
};
use rpc::{Request, Response, Status};
use schema::api::core::v1::{Container, Pod};
use tokio::net::UnixListener;

use crate::kubelet::Kubelet;
use crate::plan::is_terminal;
use crate::ports::Resources;

/// Answers for as long as it is polled.
pub async fn serve(kubelet: Arc<Kubelet>) {
    let directory = kubelet.shared.config.root_dir.join("pod-resources");
    let path = directory.join("kubelet.sock");
    let bound = std::fs::create_dir_all(&directory).and_then(|()| {
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(&path)
    });
    match bound {
        Ok(listener) => {
            let lister = PodResourcesListerServer::new(Lister(kubelet));
            rpc::serve(listener, rpc::Routes::default().with(lister)).await;
        }
        Err(error) => tracing::warn!(socket = %path.display(), %error, "nobody is told who has which devices"),
    }
    std::future::pending().await
}

struct Lister(Arc<Kubelet>);

fn topology(nodes: impl IntoIterator<Item = i64>) -> Option<TopologyInfo> {
    let nodes: Vec<NumaNode> = nodes.into_iter().filter(|id| *id >= 0).map(|id| NumaNode { id }).collect();
    (!nodes.is_empty()).then_some(TopologyInfo { nodes })
}

/// The numbers of `0-2,4`.
fn numbers(set: &str) -> Vec<i64> {
    let ranges = set.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<i64>().ok()?..=last.parse::<i64>().ok()?)
    });
    ranges.flatten().collect()
}

impl Lister {
    fn pod(&self, pod: &Pod) -> PodResources {
        let sidecars = pod.spec.init_containers.iter().filter(|of| of.restart_policy.as_deref() == Some("Always"));
        let containers = sidecars.chain(&pod.spec.containers).map(|container| self.container(pod, container));
        PodResources {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            containers: containers.collect(),
            ..PodResources::default()
        }
    }

    fn container(&self, pod: &Pod, container: &Container) -> ContainerResources {
        let (shared, uid) = (&self.0.shared, &pod.metadata.uid);
        let own = |of: &crate::devices::Given| of.pod == *uid && of.container == container.name;
        let devices = shared.devices.given().into_iter().filter(own).flat_map(|given| {
            let by_node = given.devices.into_iter();
            by_node.map(move |(numa, ids)| ContainerDevices {
                resource_name: given.resource.clone(),
                device_ids: ids.into_iter().collect(),
                topology: topology([numa]),
            })
        });
        let mut cpus = Resources::default();
        if shared.managers.has_own_cpus(uid, &container.name) {
            shared.managers.place(uid, &container.name, &mut cpus);
        }
        let mut claims: BTreeMap<String, Vec<ClaimResource>> = BTreeMap::new();
        for (claim, driver_name, device) in shared.dra.devices(pod, container) {
            claims.entry(claim).or_default().push(ClaimResource {
                cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
                driver_name,
                pool_name: device.pool,
                device_name: device.name,
                share_id: None,
            });
        }
        let dynamic = claims.into_iter().map(|(claim_name, claim_resources)| DynamicResource {
            claim_name,
            claim_namespace: pod.metadata.namespace.clone(),
            claim_resources,
        });
        ContainerResources {
            name: container.name.clone(),
            devices: devices.collect(),
            cpu_ids: numbers(&cpus.cpuset_cpus),
            dynamic_resources: dynamic.collect(),
            ..ContainerResources::default()
        }
    }
}

#[rpc::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let views = self.0.views().into_iter().filter(|view| !is_terminal(&view.status.phase));
        let pod_resources = views.map(|view| self.pod(&view.desired.pod)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let devices = self.0.shared.devices.healthy().into_iter().map(|(resource_name, id, numa)| ContainerDevices {
            resource_name,
            device_ids: vec![id],
            topology: topology(numa),
        });
        Ok(Response::new(AllocatableResourcesResponse { devices: devices.collect(), ..Default::default() }))
    }

    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let Some(view) = self.0.view(&pod_namespace, &pod_name) else {
            return Err(Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found")));
        };
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.pod(&view.desired.pod)) }))
    }
}
