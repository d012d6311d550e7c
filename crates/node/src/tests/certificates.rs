//! Certificates of pods: asked for, answered, refreshed, refused, and kept.

use std::{sync::atomic::Ordering, time::Duration};

use schema::api::Time;
use schema::api::certificates::v1::PodCertificateRequest;
use schema::api::core::v1::{
    Event, Node, Pod, PodCertificateProjection, ProjectedVolumeSource, ServiceAccount, Volume, VolumeProjection,
    VolumeSource,
};
use schema::api::meta::v1::{Condition, ObjectMeta};

use super::{EPOCH, World, container, is_ready, pod};

fn projection(path: &str) -> PodCertificateProjection {
    PodCertificateProjection {
        signer_name: "example.com/signer".into(),
        key_type: "ECDSAP256".into(),
        credential_bundle_path: path.into(),
        ..PodCertificateProjection::default()
    }
}

fn with(name: &str, sources: Vec<PodCertificateProjection>) -> Pod {
    let mut pod = pod(name, vec![container("app")]);
    let source = |of| VolumeProjection { pod_certificate: Some(of), ..VolumeProjection::default() };
    let sources = sources.into_iter().map(source).collect();
    let projected = ProjectedVolumeSource { sources, ..ProjectedVolumeSource::default() };
    pod.spec.service_account_name = "robot".into();
    pod.spec.volumes = vec![Volume {
        name: "tls".into(),
        volume_source: VolumeSource { projected: Some(projected), ..VolumeSource::default() },
        ..Volume::default()
    }];
    pod
}

fn world(name: &str) -> World {
    let world = World::new(name);
    let metadata = ObjectMeta { name: "robot".into(), namespace: "default".into(), ..ObjectMeta::default() };
    world.api.put(&ServiceAccount { metadata, ..ServiceAccount::default() });
    world
}

fn chain(text: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

impl World {
    fn requests(&self) -> Vec<PodCertificateRequest> {
        self.api.all()
    }

    /// The requests, once there are so many.
    async fn until_requests(&self, count: usize) -> Vec<PodCertificateRequest> {
        for _ in 0..200_000 {
            let requests = self.requests();
            if requests.len() == count {
                return requests;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{count} requests: never; {:?}", self.requests());
    }

    fn answer(&self, request: &PodCertificateRequest, kind: &str, text: &str) {
        let mut request = request.clone();
        let now = self.machine.now() / 1_000_000_000;
        let condition = Condition { r#type: kind.into(), status: "True".into(), ..Condition::default() };
        request.status.conditions = vec![Condition { reason: "Because".into(), message: "why".into(), ..condition }];
        if kind == "Issued" {
            request.status.certificate_chain = format!("leaf first\n{}", chain(text));
            request.status.not_before = Some(Time { seconds: now });
            request.status.begin_refresh_at = Some(Time { seconds: now + 1800 });
            request.status.not_after = Some(Time { seconds: now + 3600 });
        }
        self.api.put(&request);
    }

    fn shown(&self, file: &str) -> String {
        let dir = "kubelet/pods/uid-web/volumes/kubernetes.io~projected/tls";
        std::fs::read_to_string(self.path(dir).join(file)).unwrap_or_default()
    }

    /// Until a file begins as wanted.
    async fn until_shown(&self, file: &str, wanted: &str) {
        for _ in 0..200_000 {
            if self.shown(file) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{file} is never {wanted:?} but {:?}", self.shown(file));
    }

    fn messages(&self, reason: &str) -> Vec<String> {
        self.api.all::<Event>().into_iter().filter(|event| event.reason == reason).map(|event| event.message).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn asked_for_shown_and_refreshed() {
    let world = world("certificates");
    let apart = PodCertificateProjection {
        key_path: "key".into(),
        certificate_chain_path: "chain".into(),
        max_expiration_seconds: Some(3600),
        user_annotations: [("a.b/c".to_owned(), "d".to_owned())].into(),
        ..projection("")
    };
    world.api.put(&with("web", vec![projection("bundle"), apart]));
    // Both are asked for before the first is answered.
    let requests = world.until_requests(2).await;
    let node: Node = world.api.get("", "one").expect("a node");
    for request in &requests {
        let spec = &request.spec;
        assert_eq!((&*spec.pod_name, &*spec.pod_uid, &*spec.signer_name), ("web", "uid-web", "example.com/signer"));
        assert_eq!((&*spec.service_account_name, &*spec.service_account_uid), ("robot", "uid-robot"));
        assert_eq!((&spec.node_name, &spec.node_uid), (&node.metadata.name, &node.metadata.uid));
        assert_eq!(spec.stub_pkcs10_request, b"ECDSAP256");
        assert_eq!(request.metadata.owner_references[0].uid, "uid-web");
    }
    let (first, second): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|request| request.spec.max_expiration_seconds.is_none());
    assert_eq!(second[0].spec.unverified_user_annotations["a.b/c"], "d");
    world.answer(&first[0], "Issued", "AAAA");
    world.answer(&second[0], "Issued", "BBBB");
    world.until("web", "ready", is_ready).await;
    assert_eq!(world.messages("FailedMount"), [""; 0]);
    assert_eq!((world.shown("key"), world.shown("chain")), ("key 2\n".to_owned(), chain("BBBB")));
    let before = format!("key 1\n{}", chain("AAAA"));
    assert_eq!(world.shown("bundle"), before);
    // What was answered and cleaned away is not asked for again before its time.
    for request in world.requests() {
        world.api.remove(&format!(
            "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests/{}",
            request.metadata.name
        ));
    }
    tokio::time::sleep(Duration::from_secs(1795)).await;
    assert_eq!(world.requests(), []);
    let requests = world.until_requests(2).await;
    assert_eq!(world.shown("bundle"), before);
    // A late one is told of, once.
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(world.messages("CertificateOverdueForRefresh").len(), 1);
    for request in requests.iter().filter(|request| request.spec.max_expiration_seconds.is_none()) {
        world.answer(request, "Issued", "CCCC");
        world.until_shown("bundle", &format!("key 4\n{}", chain("CCCC"))).await;
    }
    assert_eq!(world.shown("chain"), chain("BBBB"));
    // And one that nobody refreshes ends.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.messages("CertificateExpired"), ["PodCertificate expired"]);
    assert_eq!(world.shown("chain"), chain("BBBB"));
}

#[tokio::test(start_paused = true)]
async fn refused_or_impossible() {
    let world = world("refused");
    for (name, kind, said) in [("no", "Denied", "was denied"), ("broken", "Failed", "failed")] {
        world.api.put(&with(name, vec![projection("bundle")]));
        let requests = world.until_requests(if name == "no" { 1 } else { 2 }).await;
        let request = requests.iter().find(|request| request.spec.pod_name == name).expect("a request");
        world.answer(request, kind, "");
        world.settle().await;
        let why = format!(
            "PodCertificateRequest default/{} {said}, reason=\"Because\", message=\"why\"",
            request.metadata.name
        );
        assert_eq!(world.messages(kind), std::slice::from_ref(&why));
        assert!(world.messages("FailedMount").contains(&why), "{:?}", world.messages("FailedMount"));
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.requests().len(), 2, "a refusal is for good");
    let big = PodCertificateProjection { key_type: "RSA4096".into(), ..projection("bundle") };
    world.api.put(&with("big", vec![big]));
    world.settle().await;
    assert!(world.messages("FailedMount").contains(&"while generating keypair: no RSA4096".to_owned()));
    // A request that somebody deletes is made again; nobody's answer is waited for with patience.
    world.api.put(&with("web", vec![projection("bundle")]));
    let requests = world.until_requests(3).await;
    let request = requests.iter().find(|request| request.spec.pod_name == "web").expect("a request");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.messages("FailedMount").contains(&"credential bundle is not issued yet".to_owned()));
    let path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    world.api.remove(&format!("{path}/{}", request.metadata.name));
    let requests = world.until_requests(3).await;
    let request = requests.iter().find(|request| request.spec.pod_name == "web").expect("a request");
    world.answer(request, "Issued", "AAAA");
    world.until("web", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn kept_over_restarts() {
    let world = world("kept");
    world.api.put(&with("web", vec![projection("bundle")]));
    let requests = world.until_requests(1).await;
    world.answer(&requests[0], "Issued", "AAAA");
    world.until("web", "ready", is_ready).await;
    let before = world.shown("bundle");
    let (dir, api, machine) = world.stop();
    let file = dir.0.join("kubelet/pods/uid-web/certificates/tls-0");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    // A node that starts without a server has it, too.
    crate::objects::lock(&machine.state).pods.clear();
    api.down.store(true, Ordering::Relaxed);
    let world = World::at(dir, api, machine);
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.api.down.store(false, Ordering::Relaxed);
    world.until("web", "ready again", |pod| is_ready(pod) && pod.status.container_statuses[0].restart_count == 1).await;
    assert_eq!((world.requests().len(), world.shown("bundle")), (1, before));
    // One that ended while nobody ran is replaced before the pod starts.
    let (dir, api, machine) = world.stop();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(machine.now() > EPOCH + 3_600_000_000_000);
    let world = World::at(dir, api, machine);
    let requests = world.until_requests(2).await;
    let new = requests.iter().find(|request| request.status.conditions.is_empty()).expect("a new request");
    world.answer(new, "Issued", "BBBB");
    world.until_shown("bundle", &format!("key 2\n{}", chain("BBBB"))).await;
}
