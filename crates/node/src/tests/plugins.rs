//! Plugins that register, and what pods get of them: fakes that speak gRPC over real sockets, and so in real time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rpc::Routes;
use rpc::csi::node_server::NodeServer;
use rpc::deviceplugin::device_plugin_server::DevicePluginServer;
use rpc::dra::dra_plugin_server::DraPluginServer;
use rpc::pluginregistration::PluginInfo;
use rpc::pluginregistration::registration_server::RegistrationServer;
use schema::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, Node, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource, PodResourceClaim, ResourceClaim as Named, Secret, SecretReference, Volume,
    VolumeMount,
};
use schema::api::resource::v1::{
    AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult, ResourceClaim,
    ResourceClaimConsumerReference,
};
use schema::api::storage::v1::{CSIDriver, CSIDriverSpec, CSINode, VolumeAttachment};
use schema::api::{Quantity, core::v1::ObjectReference};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::fakes::{Claims, DevicePlugin_, Driver, List, Log, Registrar};
use super::*;

const NAME: &str = "mock.example.com";

/// A node, and sockets that end with the test.
struct Machine {
    world: World,
    log: Log,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Machine {
    fn new(name: &str) -> Self {
        Self { world: World::new(name), log: Log::default(), tasks: Vec::new() }
    }

    fn root(&self) -> PathBuf {
        self.world.path("kubelet")
    }

    fn serve(&mut self, path: &str, routes: Routes) -> PathBuf {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        let _ = std::fs::remove_file(&path);
        self.tasks.push(tokio::spawn(rpc::serve(UnixListener::bind(&path).expect("a socket"), routes)));
        path
    }

    fn register(&mut self, kind: &str, name: &str, endpoint: &str, version: &str) -> PathBuf {
        let endpoint = self.root().join(endpoint).to_string_lossy().into_owned();
        let info =
            PluginInfo { r#type: kind.into(), name: name.into(), endpoint, supported_versions: vec![version.into()] };
        let registrar = Registrar { info, log: self.log.clone() };
        self.serve(&format!("plugins_registry/{kind}.sock"), Routes::default().with(RegistrationServer::new(registrar)))
    }

    /// A CSI driver that has registered; its faults.
    async fn driver(&mut self) -> Driver {
        let driver = Driver { log: self.log.clone(), data: self.world.path("data"), faults: Default::default() };
        self.serve("plugins/mock/csi.sock", Routes::default().with(NodeServer::new(driver.clone())));
        self.register("CSIPlugin", NAME, "plugins/mock/csi.sock", "1.0.0");
        self.said(&["registered true"]).await;
        driver
    }

    fn object(&self, spec: CSIDriverSpec) {
        self.world.api.put(&CSIDriver { metadata: named(NAME), spec, ..CSIDriver::default() });
    }

    /// Waits until the plugins were asked this, and nothing else.
    async fn said(&self, expected: &[&str]) {
        for _ in 0..1000 {
            if self.log.all() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.log.all(), expected);
    }

    /// A bound claim of a volume.
    fn volume(&self, change: impl FnOnce(&mut PersistentVolume, &mut PersistentVolumeClaim)) {
        let mut volume = PersistentVolume { metadata: named("pv"), ..PersistentVolume::default() };
        volume.spec.access_modes = vec!["ReadWriteOnce".into()];
        volume.spec.persistent_volume_source.csi = Some(CSIPersistentVolumeSource {
            driver: NAME.into(),
            volume_handle: "disk".into(),
            fs_type: "ext4".into(),
            volume_attributes: [("size".into(), "small".into())].into(),
            node_stage_secret_ref: Some(SecretReference {
                name: "key".into(),
                namespace: "default".into(),
                ..SecretReference::default()
            }),
            ..CSIPersistentVolumeSource::default()
        });
        let mut claim = PersistentVolumeClaim { metadata: named("claim"), ..PersistentVolumeClaim::default() };
        claim.metadata.namespace = "default".into();
        claim.spec.volume_name = "pv".into();
        claim.status.phase = "Bound".into();
        volume.spec.claim_ref = Some(ObjectReference { uid: "uid-claim".into(), ..ObjectReference::default() });
        change(&mut volume, &mut claim);
        self.world.api.put(&volume);
        self.world.api.put(&claim);
        let mut key = Secret { metadata: named("key"), ..Secret::default() };
        key.metadata.namespace = "default".into();
        key.data = [("key".to_owned(), b"secret".to_vec())].into();
        self.world.api.put(&key);
    }

    fn run(&self, pod: &Pod) {
        self.world.api.put(pod);
    }

    async fn end(&self, name: &str) {
        self.world.api.delete_pod("default", name, 1, self.world.machine.now() / 1_000_000_000);
        self.world.until_gone(name).await;
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let events = self.world.api.all::<Event>();
        events.into_iter().filter(|event| event.reason == reason).map(|event| event.message).collect()
    }

    async fn told(&self, reason: &str, text: &str) {
        for _ in 0..1000 {
            if self.events(reason).iter().any(|message| message.contains(text)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {reason} says {text:?}: {:?}", self.events(reason));
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: name.into(), uid: format!("uid-{name}"), ..ObjectMeta::default() }
}

/// A pod with a volume, which its container mounts at `/data`.
fn with_volume(name: &str, change: impl FnOnce(&mut Volume)) -> Pod {
    let mut app = container("app");
    app.volume_mounts = vec![VolumeMount { name: "v".into(), mount_path: "/data".into(), ..VolumeMount::default() }];
    let mut pod = pod(name, vec![app]);
    let mut volume = Volume { name: "v".into(), ..Volume::default() };
    change(&mut volume);
    pod.spec.volumes = vec![volume];
    pod
}

fn claimed(name: &str) -> Pod {
    with_volume(name, |volume| {
        volume.volume_source.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
            claim_name: "claim".into(),
            ..PersistentVolumeClaimVolumeSource::default()
        });
    })
}

fn no_attach() -> CSIDriverSpec {
    CSIDriverSpec {
        attach_required: Some(false),
        volume_lifecycle_modes: vec!["Persistent".into(), "Ephemeral".into()],
        fs_group_policy: Some("File".into()),
        ..CSIDriverSpec::default()
    }
}

#[tokio::test]
async fn a_volume_is_staged_once_and_published_to_each_pod() {
    let mut machine = Machine::new("csi");
    machine.driver().await;
    machine.object(no_attach());
    machine.volume(|_, _| {});
    let known = machine.world.api.get::<CSINode>("", "one").expect("a CSINode");
    let own = &known.spec.drivers[0];
    assert_eq!(
        (&*own.name, &*own.node_id, own.allocatable.as_ref().and_then(|of| of.count)),
        (NAME, "mock-node", Some(5))
    );
    assert_eq!(own.topology_keys, ["topology.mock.example.com/zone"]);
    machine.run(&claimed("a"));
    machine.world.until("a", "a runs", is_ready).await;
    let publish = "publish disk SINGLE_NODE_MULTI_WRITER size=small";
    let mut said = vec!["registered true", "stage disk key=secret", publish];
    machine.said(&said).await;
    let target = machine.root().join("pods/uid-a/volumes/kubernetes.io~csi/pv/mount");
    assert!(crate::volumes::is_mounted(&target));
    let config = machine.world.machine.config("app").expect("a container");
    assert!(config.mounts.iter().any(|mount| mount.host_path == target), "{config:?}");
    machine.run(&claimed("b"));
    machine.world.until("b", "b runs", is_ready).await;
    // The stage of a volume that stands for another pod is asked for again, which changes nothing.
    said.extend(["stage disk key=secret", publish]);
    machine.said(&said).await;
    machine.end("a").await;
    said.push("unpublish disk");
    machine.said(&said).await;
    machine.end("b").await;
    said.extend(["unpublish disk", "unstage disk"]);
    machine.said(&said).await;
    let notes = machine.root().join("plugins/kubernetes.io/csi").join(NAME);
    for _ in 0..1000 {
        if notes.read_dir().is_ok_and(|mut of| of.next().is_none()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} is not empty", notes.display());
}

#[tokio::test]
async fn what_a_former_pod_left_goes_once_its_driver_is_back() {
    let mut machine = Machine::new("left");
    machine.driver().await;
    machine.object(no_attach());
    machine.volume(|_, _| {});
    machine.run(&claimed("a"));
    machine.world.until("a", "it runs", is_ready).await;
    // The machine boots, and the pod is deleted meanwhile.
    let (dir, api, fake) = std::mem::replace(&mut machine.world, World::new("left-other")).stop();
    api.remove("/api/v1/namespaces/default/pods/a");
    crate::objects::lock(&fake.state).pods.clear();
    machine.world = World::at(dir, api, fake);
    let publish = "publish disk SINGLE_NODE_MULTI_WRITER size=small";
    let before = ["registered true", "stage disk key=secret", publish, "registered true"];
    for _ in 0..1000 {
        if machine.log.all().len() == before.len() + 2 && !machine.root().join("pods/uid-a").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = machine.log.all();
    for line in ["unpublish disk", "unstage disk"] {
        assert!(said.iter().any(|said| said == line), "no {line} in {said:?}");
    }
    assert!(!machine.root().join("pods/uid-a").exists());
}

#[tokio::test]
async fn inline_volumes_are_told_of_their_pods() {
    let mut machine = Machine::new("inline");
    machine.driver().await;
    machine.object(CSIDriverSpec {
        pod_info_on_mount: Some(true),
        token_requests: vec![schema::api::storage::v1::TokenRequest { audience: "vault".into(), ..Default::default() }],
        ..no_attach()
    });
    machine.run(&with_volume("a", |volume| {
        volume.volume_source.csi = Some(CSIVolumeSource { driver: NAME.into(), ..CSIVolumeSource::default() });
    }));
    machine.world.until("a", "it runs", is_ready).await;
    let said = machine.log.all();
    let publish = said.last().expect("a publish");
    for part in
        ["ephemeral=true", "pod.name=a", "pod.uid=uid-a", "serviceAccount.tokens={\"vault\":{\"expirationTimestamp\""]
    {
        assert!(publish.contains(part), "no {part} in {publish}");
    }
    machine.end("a").await;
    assert!(machine.log.all().last().is_some_and(|last| last.starts_with("unpublish csi-")));
}

#[tokio::test]
async fn what_is_not_attached_waits_and_what_fails_is_said() {
    let mut machine = Machine::new("faults");
    machine.volume(|_, _| {});
    machine.object(no_attach());
    machine.run(&claimed("a"));
    machine.told("FailedMount", "driver name mock.example.com not found in the list of registered CSI drivers").await;
    let driver = machine.driver().await;
    driver.faults.lock().expect("faults").insert("publish", "the disk is on fire".into());
    machine.told("FailedMount", "rpc error: code = Internal desc = the disk is on fire").await;
    driver.faults.lock().expect("faults").insert("publish", "hang".into());
    // A pod that is deleted waits for no driver.
    tokio::time::sleep(Duration::from_secs(3)).await;
    machine.end("a").await;
    let said = machine.log.all();
    assert!(said.contains(&"unpublish disk".to_owned()), "{said:?}");
    // With a driver that attaches, the node says what it uses, and waits until it has it.
    driver.faults.lock().expect("faults").clear();
    machine.object(CSIDriverSpec { attach_required: Some(true), ..no_attach() });
    machine.run(&claimed("b"));
    let unique = format!("kubernetes.io/csi/{NAME}^disk");
    let mut node = loop {
        let node = machine.world.api.get::<Node>("", "one").expect("a node");
        if node.status.volumes_in_use.contains(&unique) {
            break node;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut attachment = VolumeAttachment { metadata: named(&attachment_name()), ..VolumeAttachment::default() };
    attachment.status.attached = true;
    attachment.status.attachment_metadata = [("path".to_owned(), "/dev/sdz".to_owned())].into();
    machine.world.api.put(&attachment);
    node.status.volumes_attached.push(schema::api::core::v1::AttachedVolume { name: unique, ..Default::default() });
    machine.world.api.put(&node);
    machine.world.until("b", "b runs", is_ready).await;
    assert!(machine.log.all().contains(&"stage disk key=secret path=/dev/sdz".to_owned()), "{:?}", machine.log.all());
}

#[tokio::test]
async fn without_a_server_what_was_attached_is_published_again() {
    let mut machine = Machine::new("csi-offline");
    machine.driver().await;
    machine.volume(|_, _| {});
    machine.object(CSIDriverSpec { attach_required: Some(true), ..no_attach() });
    let mut attachment = VolumeAttachment { metadata: named(&attachment_name()), ..VolumeAttachment::default() };
    attachment.status.attached = true;
    machine.world.api.put(&attachment);
    let mut node = machine.world.api.get::<Node>("", "one").expect("a node");
    let name = format!("kubernetes.io/csi/{NAME}^disk");
    node.status.volumes_attached.push(schema::api::core::v1::AttachedVolume { name, ..Default::default() });
    machine.world.api.put(&node);
    machine.run(&claimed("a"));
    machine.world.until("a", "it runs", is_ready).await;
    // What is noted behind our backs is noted by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let said = machine.log.all();
    let (dir, api, fake) = std::mem::replace(&mut machine.world, World::new("csi-offline-other")).stop();
    crate::objects::lock(&fake.state).pods.clear();
    crate::volumes::unmount_below(&dir.0.join("kubelet/pods")).expect("no mounts");
    api.remove("/apis/storage.k8s.io/v1/csinodes/one");
    api.down.store(true, std::sync::atomic::Ordering::Relaxed);
    machine.world = World::at(dir, api, fake);
    let runs = |pod: &crate::ports::PodState| pod.containers.iter().any(crate::plan::is_running);
    for _ in 0..3000 {
        if crate::objects::lock(&machine.world.machine.state).pods.values().any(runs) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(crate::volumes::is_mounted(&machine.root().join("pods/uid-a/volumes/kubernetes.io~csi/pv/mount")));
    machine.world.api.down.store(false, std::sync::atomic::Ordering::Relaxed);
    machine
        .world
        .until("a", "it goes on", |pod| is_ready(pod) && pod.status.container_statuses[0].restart_count == 1)
        .await;
    // The cluster is told of the driver in the end.
    for _ in 0..3000 {
        if machine.world.api.get::<CSINode>("", "one").is_some_and(|of| !of.spec.drivers.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(machine.world.api.get::<CSINode>("", "one").expect("a CSINode").spec.drivers[0].name, NAME);
    let again = ["registered true", "stage disk key=secret", "publish disk SINGLE_NODE_MULTI_WRITER size=small"];
    // Before the server is missed it is asked for.
    let now = machine.log.all().into_iter().filter(|line| !line.starts_with("registered false")).collect::<Vec<_>>();
    assert_eq!(now, [said, again.map(str::to_owned).to_vec()].concat());
}

fn attachment_name() -> String {
    use sha2::Digest;
    format!("csi-{:x}", sha2::Sha256::digest(format!("disk{NAME}one")))
}

#[tokio::test]
async fn a_volume_grows_once_its_claim_waits_for_the_node() {
    let mut machine = Machine::new("growth");
    machine.driver().await;
    machine.object(no_attach());
    let size = |size: &str| -> BTreeMap<String, Quantity> { [("storage".to_owned(), Quantity(size.into()))].into() };
    machine.volume(|volume, claim| {
        volume.spec.capacity = size("2Gi");
        claim.status.capacity = size("1Gi");
        claim.status.allocated_resource_statuses = [("storage".to_owned(), "NodeResizePending".to_owned())].into();
    });
    machine.run(&claimed("a"));
    machine.world.until("a", "it runs", is_ready).await;
    assert!(machine.log.all().contains(&"expand disk 2147483648".to_owned()), "{:?}", machine.log.all());
    machine.told("FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume \"pv\"").await;
}

#[tokio::test]
async fn wrong_plugins_are_told_so() {
    let mut machine = Machine::new("wrong");
    let cases = [
        (
            "NoPlugin",
            NAME,
            "1.0.0",
            "RegisterPlugin error -- no handler registered for plugin type: NoPlugin at socket",
        ),
        ("CSIPlugin", NAME, "2.0.0", "None of the versions specified [\"2.0.0\"] are supported."),
        ("CSIPlugin", NAME, "1.0.0", "plugin registration failed with err: dial unix"),
        ("DevicePlugin", "widget", "v1beta1", "the ResourceName \"widget\" is invalid"),
        ("DevicePlugin", "kubernetes.io/widget", "v1beta1", "the ResourceName \"kubernetes.io/widget\" is invalid"),
        (
            "DevicePlugin",
            "a.example.com/widget",
            "v2",
            "requested API version \"v2\" is not supported by kubelet. Supported version is",
        ),
        ("DRAPlugin", NAME, "v3.DRAPlugin", "are supported by the kubelet ([\"v1.DRAPlugin\", \"v1beta1.DRAPlugin\"])"),
    ];
    // What is no socket is nobody's.
    std::fs::create_dir_all(machine.root().join("plugins_registry/deep/er")).expect("a directory");
    std::fs::write(machine.root().join("plugins_registry/file.sock"), "no socket").expect("a file");
    // Who answers garbage is no plugin either.
    let garbage = UnixListener::bind(machine.root().join("plugins_registry/deep/er/garbage.sock")).expect("a socket");
    machine.tasks.push(tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    }));
    for (kind, name, version, why) in cases {
        let before = machine.log.all().len();
        let socket = machine.register(kind, name, "plugins/nobody.sock", version);
        for _ in 0..1000 {
            if machine.log.all().len() > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let said = machine.log.all().get(before).cloned().unwrap_or_default();
        assert!(said.starts_with("registered false ") && said.contains(why), "{kind} {name} {version}: {said:?}");
        std::fs::remove_file(socket).expect("a socket");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn asking(name: &str, count: i64) -> Pod {
    let mut app = container("app");
    app.resources.limits = [("mock.example.com/widget".to_owned(), Quantity(count.to_string()))].into();
    app.resources.requests = app.resources.limits.clone();
    Pod {
        spec: PodSpec { restart_policy: "Never".into(), ..pod(name, vec![app.clone()]).spec },
        ..pod(name, vec![app])
    }
}

#[tokio::test]
async fn devices_are_counted_given_and_survive_a_restart() {
    let mut machine = Machine::new("devices");
    let list: List = ["one", "two", "three"].map(|id| (id.to_owned(), true, None)).into();
    let plugin = DevicePlugin_ { log: machine.log.clone(), devices: tokio::sync::watch::channel(list.clone()).0 };
    let service = || Routes::default().with(DevicePluginServer::new(plugin.clone()));
    machine.serve("device-plugins/widget.sock", service());
    let door = machine.root().join("device-plugins/kubelet.sock");
    let register = async |resource: &str, endpoint: &str| {
        while !door.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let channel = rpc::connect(&door, Duration::from_secs(5)).await.expect("the kubelet");
        let mut client = rpc::deviceplugin::registration_client::RegistrationClient::new(channel);
        let request = rpc::deviceplugin::RegisterRequest {
            version: "v1beta1".into(),
            endpoint: endpoint.into(),
            resource_name: resource.into(),
            options: Some(rpc::deviceplugin::DevicePluginOptions {
                pre_start_required: true,
                get_preferred_allocation_available: true,
            }),
        };
        client.register(request).await.map(drop).map_err(|status| status.message().to_owned())
    };
    let refused = register("widget", "widget.sock").await;
    assert_eq!(refused, Err("the ResourceName \"widget\" is invalid".into()));
    assert!(register("mock.example.com/widget", "../../etc/widget.sock").await.is_err());
    assert_eq!(register("mock.example.com/widget", "widget.sock").await, Ok(()));
    let counted = async |world: &World, all: &str, healthy: &str| {
        for _ in 0..1000 {
            let node = world.api.get::<Node>("", "one").unwrap_or_default();
            let of = |list: &BTreeMap<String, Quantity>| list.get("mock.example.com/widget").map(|of| of.0.clone());
            if of(&node.status.capacity).as_deref() == Some(all)
                && of(&node.status.allocatable).as_deref() == Some(healthy)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {all} and {healthy}: {:?}", world.api.get::<Node>("", "one").map(|node| node.status.capacity));
    };
    counted(&machine.world, "3", "3").await;
    machine.run(&asking("a", 2));
    machine.world.until("a", "it runs", is_ready).await;
    // The plugin prefers the last ones.
    machine.said(&["allocate three,two", "start three,two"]).await;
    let config = machine.world.machine.config("app").expect("a container");
    assert!(config.env.contains(&("MOCK_DEVICES".to_owned(), "three,two".to_owned())), "{:?}", config.env);
    assert_eq!(config.devices[0].container_path, PathBuf::from("/dev/mock"));
    let lister = rpc::connect(&machine.root().join("pod-resources/kubelet.sock"), Duration::from_secs(5)).await;
    let mut lister = rpc::podresources::pod_resources_lister_client::PodResourcesListerClient::new(lister.expect("it"));
    let listed = lister.list(rpc::podresources::ListPodResourcesRequest {}).await.expect("a list").into_inner();
    let own = &listed.pod_resources[0].containers[0].devices[0];
    assert_eq!((&*own.resource_name, own.device_ids.len()), ("mock.example.com/widget", 2));
    machine.run(&asking("b", 2));
    let refused = machine.world.until("b", "it is refused", |pod| pod.status.phase == "Failed").await;
    let why = "Allocate failed due to requested number of devices unavailable for mock.example.com/widget. Requested: 2, Available: 1, which is unexpected";
    assert_eq!(refused.status.reason, "UnexpectedAdmissionError");
    assert!(refused.status.message.contains(why), "{}", refused.status.message);
    // One falls ill: the node has less, and the pod is told.
    let mut ill = list;
    ill[1].1 = false;
    plugin.devices.send_replace(ill);
    counted(&machine.world, "3", "2").await;
    let health = |pod: &Pod, id: &str| {
        let statuses = pod.status.container_statuses.iter().flat_map(|of| &of.allocated_resources_status);
        statuses.flat_map(|of| &of.resources).find(|of| of.resource_id == id).map(|of| of.health.clone())
    };
    machine.world.until("a", "it is told", |pod| health(pod, "two").as_deref() == Some("Unhealthy")).await;
    let (dir, api, fake) = std::mem::replace(&mut machine.world, World::new("devices-other")).stop();
    let checkpoint = std::fs::read_to_string(dir.0.join("kubelet/device-plugins/kubelet_internal_checkpoint"));
    assert!(checkpoint.expect("a checkpoint").contains(r#""DeviceIDs":{"-1":["three","two"]}"#));
    // Another kubelet knows who has what.
    machine.world = World::at(dir, api, fake);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let given = machine.world.kubelet.shared.devices.given();
    assert_eq!(given.iter().map(|of| (&*of.pod, of.ids().len())).collect::<Vec<_>>(), [("uid-a", 2)]);
    machine.end("a").await;
    assert_eq!(machine.world.kubelet.shared.devices.given().len(), 0);
}

#[tokio::test]
async fn claims_are_prepared_and_unprepared_by_their_drivers() {
    let mut machine = Machine::new("claims");
    let claims = Claims { log: machine.log.clone() };
    machine.serve("plugins/mock/dra.sock", Routes::default().with(DraPluginServer::new(claims)));
    let result = DeviceRequestAllocationResult {
        request: "one".into(),
        driver: NAME.into(),
        pool: "pool".into(),
        device: "a".into(),
        ..DeviceRequestAllocationResult::default()
    };
    let mut claim = ResourceClaim { metadata: named("claim"), ..ResourceClaim::default() };
    claim.metadata.namespace = "default".into();
    machine.world.api.put(&claim);
    let mut app = container("app");
    app.resources.claims = vec![Named { name: "device".into(), ..Named::default() }];
    let mut pod = pod("a", vec![app]);
    pod.spec.resource_claims = vec![PodResourceClaim {
        name: "device".into(),
        resource_claim_name: Some("claim".into()),
        ..PodResourceClaim::default()
    }];
    machine.run(&pod);
    machine
        .told("FailedPrepareDynamicResources", "pod a (uid-a) is not allowed to use ResourceClaim claim (uid-claim)")
        .await;
    claim.status.reserved_for =
        vec![ResourceClaimConsumerReference { uid: "uid-a".into(), ..ResourceClaimConsumerReference::default() }];
    claim.status.allocation = Some(AllocationResult {
        devices: DeviceAllocationResult { results: vec![result], ..DeviceAllocationResult::default() },
        ..AllocationResult::default()
    });
    machine.world.api.put(&claim);
    machine.register("DRAPlugin", NAME, "plugins/mock/dra.sock", "v1.DRAPlugin");
    machine.world.until("a", "it runs", is_ready).await;
    machine.said(&["registered true", "prepare claim"]).await;
    let config = machine.world.machine.config("app").expect("a container");
    assert_eq!(config.cdi_devices, ["mock.example.com/device=claimed"]);
    machine.end("a").await;
    machine.said(&["registered true", "prepare claim", "unprepare claim"]).await;
}
