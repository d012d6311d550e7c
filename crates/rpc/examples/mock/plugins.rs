//! A CSI driver, a device plugin and a DRA driver that do what such do, by bind mounts, and write down what they were asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use rpc::csi::node_server::Node;
use rpc::csi::volume_capability::AccessType;
use rpc::csi::{self, node_service_capability as capability, volume_usage::Unit};
use rpc::deviceplugin::{self as device, device_plugin_server::DevicePlugin};
use rpc::dra::{self, dra_plugin_server::DraPlugin};
use rpc::pluginregistration::registration_server::Registration;
use rpc::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use rpc::{Request, Response, Status};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use tokio::sync::watch;

/// What was asked, in order; also in a file if there is one.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>, Option<PathBuf>);

impl Log {
    #[allow(dead_code)] // the tests of the node have no file
    pub fn to(path: PathBuf) -> Self {
        Self(Arc::default(), Some(path))
    }

    pub fn say(&self, line: String) {
        if let Some(path) = &self.1 {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| writeln!(file, "{line}"));
        }
        self.0.lock().unwrap().push(line);
    }

    #[allow(dead_code)] // the binary reads its file
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn failed(what: &Path) -> impl FnOnce(rustix::io::Errno) -> Status {
    let what = what.display().to_string();
    move |error| Status::internal(format!("{what}: {error}"))
}

fn io_failed(error: std::io::Error) -> Status {
    Status::internal(error.to_string())
}

pub struct Registrar {
    pub info: PluginInfo,
    pub log: Log,
}

#[rpc::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        self.log.say(format!("registered {} {}", status.plugin_registered, status.error).trim().to_owned());
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Volumes are directories below `data`, and devices what the volume context's `device` says.
#[derive(Clone)]
pub struct Driver {
    pub log: Log,
    pub data: PathBuf,
    /// What goes wrong, by call: `hang`, or a message.
    pub faults: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Driver {
    async fn fault(&self, call: &'static str) -> Result<(), Status> {
        let fault = self.faults.lock().unwrap().get(call).cloned();
        match fault.as_deref() {
            None => Ok(()),
            Some("hang") => std::future::pending().await,
            Some(message) => Err(Status::internal(message)),
        }
    }
}

fn capability(kind: capability::rpc::Type) -> csi::NodeServiceCapability {
    let rpc = capability::Rpc { r#type: kind as i32 };
    csi::NodeServiceCapability { r#type: Some(capability::Type::Rpc(rpc)) }
}

#[rpc::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        self.fault("stage").await?;
        let of = request.into_inner();
        let mut secrets: Vec<_> = of.secrets.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        let mut context: Vec<_> = of.publish_context.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        secrets.sort();
        context.sort();
        self.log.say(format!("stage {}{}{}", of.volume_id, secrets.concat(), context.concat()));
        if let Some(AccessType::Mount(_)) = of.volume_capability.and_then(|of| of.access_type) {
            let (own, staging) = (self.data.join(&of.volume_id), PathBuf::from(&of.staging_target_path));
            fs::create_dir_all(&own).map_err(io_failed)?;
            // It may stand already.
            let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(io_failed)?;
            if !mounts.contains(&format!(" {} ", of.staging_target_path)) {
                mount_bind(&own, &staging).map_err(failed(&staging))?;
            }
        }
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        self.fault("unstage").await?;
        let of = request.into_inner();
        self.log.say(format!("unstage {}", of.volume_id));
        // Who just looks at it (its size, say) makes it busy for a moment.
        let _ = unmount(&*of.staging_target_path, UnmountFlags::DETACH);
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        self.fault("publish").await?;
        let of = request.into_inner();
        let mut context: Vec<_> = of.volume_context.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        context.sort();
        let shown = context.concat();
        let target = PathBuf::from(&of.target_path);
        let capability = of.volume_capability.unwrap_or_default();
        let mode = capability.access_mode.unwrap_or_default().mode().as_str_name();
        self.log.say(format!("publish {} {mode}{}{shown}", of.volume_id, if of.readonly { " ro" } else { "" }));
        match capability.access_type {
            Some(AccessType::Block(_)) => {
                fs::File::create(&target).map_err(io_failed)?;
                let device = of.volume_context.get("device").ok_or_else(|| Status::invalid_argument("no device"))?;
                mount_bind(&**device, &target).map_err(failed(&target))?;
            }
            _ => {
                let own = self.data.join(&of.volume_id);
                fs::create_dir_all(&own).map_err(io_failed)?;
                let from = if of.staging_target_path.is_empty() { own } else { of.staging_target_path.into() };
                fs::create_dir_all(&target).map_err(io_failed)?;
                mount_bind(&from, &target).map_err(failed(&target))?;
            }
        }
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        self.fault("unpublish").await?;
        let of = request.into_inner();
        self.log.say(format!("unpublish {}", of.volume_id));
        let _ = unmount(&*of.target_path, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&of.target_path).or_else(|_| fs::remove_file(&of.target_path));
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let of = |unit: Unit| csi::VolumeUsage { available: 60, total: 100, used: 40, unit: unit as i32 };
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage: vec![of(Unit::Bytes), of(Unit::Inodes)] }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        self.fault("expand").await?;
        let of = request.into_inner();
        let capacity_bytes = of.capacity_range.unwrap_or_default().required_bytes;
        self.log.say(format!("expand {} {capacity_bytes}", of.volume_id));
        Ok(Response::new(csi::NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        use capability::rpc::Type;
        let kinds = [Type::StageUnstageVolume, Type::GetVolumeStats, Type::ExpandVolume, Type::SingleNodeMultiWriter];
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: kinds.map(capability).into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        self.fault("info").await?;
        let segments = [("topology.mock.example.com/zone".to_owned(), "a".to_owned())].into();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: "mock-node".into(),
            max_volumes_per_node: 5,
            accessible_topology: Some(csi::Topology { segments }),
        }))
    }
}

/// Devices by id, each with its health and NUMA node.
pub type List = Vec<(String, bool, Option<i64>)>;

#[derive(Clone)]
pub struct DevicePlugin_ {
    pub log: Log,
    pub devices: watch::Sender<List>,
}

type Lists = Pin<Box<dyn futures_util::Stream<Item = Result<device::ListAndWatchResponse, Status>> + Send>>;

#[rpc::async_trait]
impl DevicePlugin for DevicePlugin_ {
    type ListAndWatchStream = Lists;

    async fn get_device_plugin_options(
        &self,
        _: Request<device::Empty>,
    ) -> Result<Response<device::DevicePluginOptions>, Status> {
        let options =
            device::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
        Ok(Response::new(options))
    }

    async fn list_and_watch(&self, _: Request<device::Empty>) -> Result<Response<Lists>, Status> {
        let mut known = self.devices.subscribe();
        known.mark_changed();
        let next = move |mut known: watch::Receiver<List>| async move {
            known.changed().await.ok()?;
            let device = |(id, healthy, numa): (String, bool, Option<i64>)| device::Device {
                id,
                health: if healthy { "Healthy" } else { "Unhealthy" }.into(),
                topology: numa.map(|id| device::TopologyInfo { nodes: vec![device::NumaNode { id }] }),
            };
            let devices = known.borrow_and_update().clone().into_iter().map(device).collect();
            Some((Ok(device::ListAndWatchResponse { devices }), known))
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(known, next))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<device::PreferredAllocationRequest>,
    ) -> Result<Response<device::PreferredAllocationResponse>, Status> {
        // The last ones.
        let of = |of: device::ContainerPreferredAllocationRequest| {
            let mut ids = of.available_device_i_ds;
            ids.sort();
            let from = ids.len().saturating_sub(usize::try_from(of.allocation_size).unwrap_or(0));
            device::ContainerPreferredAllocationResponse { device_i_ds: ids.split_off(from) }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(of).collect();
        Ok(Response::new(device::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<device::AllocateRequest>,
    ) -> Result<Response<device::AllocateResponse>, Status> {
        let of = |of: device::ContainerAllocateRequest| {
            self.log.say(format!("allocate {}", of.devices_ids.join(",")));
            device::ContainerAllocateResponse {
                envs: [("MOCK_DEVICES".to_owned(), of.devices_ids.join(","))].into(),
                devices: vec![device::DeviceSpec {
                    container_path: "/dev/mock".into(),
                    host_path: "/dev/null".into(),
                    permissions: "rw".into(),
                }],
                ..device::ContainerAllocateResponse::default()
            }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(of).collect();
        Ok(Response::new(device::AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<device::PreStartContainerRequest>,
    ) -> Result<Response<device::PreStartContainerResponse>, Status> {
        self.log.say(format!("start {}", request.into_inner().devices_ids.join(",")));
        Ok(Response::new(device::PreStartContainerResponse {}))
    }
}

/// Gives every claim the CDI device `mock.example.com/device=claimed`.
#[derive(Clone)]
pub struct Claims {
    pub log: Log,
}

#[rpc::async_trait]
impl DraPlugin for Claims {
    async fn node_prepare_resources(
        &self,
        request: Request<dra::NodePrepareResourcesRequest>,
    ) -> Result<Response<dra::NodePrepareResourcesResponse>, Status> {
        let of = |claim: dra::Claim| {
            self.log.say(format!("prepare {}", claim.name));
            let device = dra::Device {
                request_names: vec!["one".into()],
                pool_name: "pool".into(),
                device_name: "a".into(),
                cdi_device_ids: vec!["mock.example.com/device=claimed".into()],
                share_id: None,
            };
            let error = if claim.name.starts_with("bad") { "no such device".to_owned() } else { String::new() };
            (claim.uid, dra::NodePrepareResourceResponse { devices: vec![device], error })
        };
        let claims = request.into_inner().claims.into_iter().map(of).collect();
        Ok(Response::new(dra::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<dra::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<dra::NodeUnprepareResourcesResponse>, Status> {
        let of = |claim: dra::Claim| {
            self.log.say(format!("unprepare {}", claim.name));
            (claim.uid, dra::NodeUnprepareResourceResponse::default())
        };
        let claims = request.into_inner().claims.into_iter().map(of).collect();
        Ok(Response::new(dra::NodeUnprepareResourcesResponse { claims }))
    }
}
