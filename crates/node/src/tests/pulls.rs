//! Who may use an image that is here, and what the kubelet remembers of it.

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use schema::api::core::v1::{LocalObjectReference, Secret, ServiceAccount};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::images::keyring::{Login, SecretLogin};
use crate::images::verify::{self, Access, Policy, Verdict};
use crate::objects::lock;

const IMAGE: &str = "reg.test/team/app:1";

fn secret(name: &str, uid: &str, password: &str) -> Secret {
    let auths = json!({"auths": {"https://reg.test/team": {"auth": STANDARD.encode(format!("ada:{password}"))}, "other.test": {"username": "x", "password": "y"}}});
    Secret {
        metadata: ObjectMeta {
            name: name.into(),
            namespace: "default".into(),
            uid: uid.into(),
            ..ObjectMeta::default()
        },
        data: [(".dockerconfigjson".to_owned(), auths.to_string().into_bytes())].into(),
        ..Secret::default()
    }
}

/// A pod of one container.
fn with(name: &str, image: &str, policy: &str, secrets: &[&str]) -> Pod {
    let mut pod = pod(name, vec![container("app")]);
    pod.spec.containers[0].image = image.into();
    pod.spec.containers[0].image_pull_policy = policy.into();
    pod.spec.image_pull_secrets =
        secrets.iter().map(|name| LocalObjectReference { name: (*name).into(), ..Default::default() }).collect();
    pod
}

fn waiting(pod: &Pod) -> Option<(String, String)> {
    let state = &pod.status.container_statuses.first()?.state;
    state.waiting.as_ref().map(|waiting| (waiting.reason.clone(), waiting.message.clone()))
}

fn pulls(world: &World) -> usize {
    world.machine.log().iter().filter(|line| line.starts_with("pull ")).count()
}

fn file(world: &World, kind: &str, of: &str) -> PathBuf {
    let hex: String = Sha256::digest(of).iter().map(|byte| format!("{byte:02x}")).collect();
    world.path(&format!("kubelet/image_manager/{kind}/sha256-{hex}"))
}

fn record(world: &World, id: &str) -> Value {
    serde_json::from_slice(&std::fs::read(file(world, "pulled", id)).expect("a record")).expect("JSON")
}

/// What comes of a pod, and how many pulls it took.
async fn comes(world: &World, pod: &Pod) -> (String, usize) {
    let before = pulls(world);
    world.api.put(pod);
    let seen = world.until(&pod.metadata.name, "an end", |pod| {
        is_ready(pod) || waiting(pod).is_some_and(|(reason, _)| reason.starts_with("ErrImage"))
    });
    let seen = seen.await;
    let reason = waiting(&seen).map_or_else(|| "runs".to_owned(), |(reason, _)| reason);
    world.api.delete_pod("default", &pod.metadata.name, 0, EPOCH / 1_000_000_000);
    world.until_gone(&pod.metadata.name).await;
    (reason, pulls(world) - before)
}

#[tokio::test(start_paused = true)]
async fn an_image_is_for_those_who_may_pull_it() {
    let mut world = World::new("verify");
    lock(&world.machine.state).private.insert(IMAGE.into(), vec!["p1".into()]);
    for secret in [secret("s1", "u1", "p1"), secret("s2", "u2", "p1"), secret("bad", "u3", "p9")] {
        world.api.put(&secret);
    }
    let cases: &[(&str, &str, &str, &[&str], &str, usize)] = &[
        ("first", IMAGE, "IfNotPresent", &["bad", "s1"], "runs", 1),
        ("again", IMAGE, "IfNotPresent", &["s1"], "runs", 0),
        ("never", IMAGE, "Never", &["s1"], "runs", 0),
        ("same-login", IMAGE, "IfNotPresent", &["s2"], "runs", 0),
        ("nobody", IMAGE, "IfNotPresent", &[], "ErrImagePull", 1),
        ("lost", IMAGE, "IfNotPresent", &["none"], "ErrImagePull", 1),
        ("stranger", IMAGE, "IfNotPresent", &["bad"], "ErrImagePull", 1),
        ("stranger-never", IMAGE, "Never", &["bad"], "ErrImageNeverPull", 0),
        ("always", IMAGE, "Always", &["s1"], "runs", 1),
        ("preloaded", "app:1", "IfNotPresent", &[], "runs", 0),
        ("public", "reg.test/open:1", "IfNotPresent", &["s1"], "runs", 1),
        ("public-again", "reg.test/open:1", "Never", &[], "runs", 0),
    ];
    for (name, image, policy, secrets, reason, pulls) in cases {
        let done = comes(&world, &with(name, image, policy, secrets)).await;
        assert_eq!(done, ((*reason).to_owned(), *pulls), "{name}");
    }
    world.settle().await;
    let lost = world.api.all::<Event>().into_iter().find(|of| of.reason == "FailedToRetrieveImagePullSecret");
    assert_eq!(
        lost.expect("an event").message,
        "Unable to retrieve some image pull secrets (none); attempting to pull the image may not succeed."
    );
    let known = record(&world, &format!("sha256:{IMAGE}"));
    let of = &known["credentialMapping"]["reg.test/team/app"];
    assert_eq!((&known["kind"], &known["imageRef"]), (&json!("ImagePulledRecord"), &json!(format!("sha256:{IMAGE}"))));
    let names: Vec<&str> = of["kubernetesSecrets"]
        .as_array()
        .expect("secrets")
        .iter()
        .map(|secret| secret["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["s1", "s2"]);
    let open = record(&world, "sha256:reg.test/open:1");
    assert_eq!(open["credentialMapping"]["reg.test/open"], json!({"nodePodsAccessible": true}));
    assert!(!file(&world, "pulling", IMAGE).exists(), "no pull is left");
    let text = world.kubelet.own_metrics();
    for line in [
        "kubelet_imagemanager_ondisk_pulledrecords 2",
        "kubelet_imagemanager_ondisk_pullintents 0",
        "kubelet_imagemanager_image_mustpull_checks_total{result=\"mustAuthenticate\"} 4",
        "kubelet_imagemanager_image_mustpull_checks_total{result=\"credentialPolicyAllowed\"} 1",
        "kubelet_image_manager_ensure_image_requests_total{present_locally=\"unknown\",pull_policy=\"always\",pull_required=\"true\"} 1",
    ] {
        assert!(text.lines().any(|of| of == line), "{line}: {text}");
    }
    // A kubelet that starts again knows it.
    let (dir, api, machine) = world.stop();
    world = World::at(dir, api, machine);
    assert_eq!(comes(&world, &with("later", IMAGE, "IfNotPresent", &["s1"])).await, ("runs".into(), 0));
    assert_eq!(comes(&world, &with("other", IMAGE, "IfNotPresent", &[])).await, ("ErrImagePull".into(), 1));
    // With the image goes what is known of it.
    lock(&world.machine.state).images.remove(IMAGE);
    let path = file(&world, "pulled", &format!("sha256:{IMAGE}"));
    for _ in 0..100_000 {
        if !path.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!path.exists() && file(&world, "pulled", "sha256:reg.test/open:1").exists());
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_was_cut_off_makes_everybody_prove_himself() {
    let world = World::new("cut-off");
    // A power cut has left this.
    let (intent, gone) = (file(&world, "pulling", "app:1"), file(&world, "pulling", "gone:1"));
    std::fs::create_dir_all(intent.parent().expect("a directory")).expect("made");
    for (path, image) in [(&intent, "app:1"), (&gone, "gone:1")] {
        let text = json!({"kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1alpha1", "image": image});
        std::fs::write(path, text.to_string()).expect("written");
    }
    assert_eq!(comes(&world, &with("never", "app:1", "Never", &[])).await, ("ErrImageNeverPull".into(), 0));
    world.kubelet.shared.puller.tidy().await;
    assert!(!intent.exists() && gone.exists(), "what is not here may still come");
    let known = record(&world, "sha256:app:1");
    assert!(known["credentialMapping"]["app"].is_null());
    assert_eq!(comes(&world, &with("again", "app:1", "IfNotPresent", &[])).await, ("runs".into(), 1));
    assert_eq!(record(&world, "sha256:app:1")["credentialMapping"]["app"], json!({"nodePodsAccessible": true}));
    // A record that cannot be read proves nothing.
    std::fs::write(file(&world, "pulled", "sha256:app:1"), "{").expect("written");
    assert_eq!(comes(&world, &with("broken", "app:1", "Never", &[])).await, ("ErrImageNeverPull".into(), 0));
    assert_eq!(comes(&world, &with("mended", "app:1", "IfNotPresent", &[])).await, ("runs".into(), 1));
    assert_eq!(comes(&world, &with("whole", "app:1", "Never", &[])).await, ("runs".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_long_pull_says_how_far_it_is() {
    let world = World::new("slow");
    lock(&world.machine.state).slow_pulls = 100;
    assert_eq!(comes(&world, &with("slow", "big:1", "IfNotPresent", &[])).await, ("runs".into(), 1));
    world.settle().await;
    let mut said: Vec<(String, i32)> = world
        .api
        .all::<Event>()
        .into_iter()
        .filter(|of| of.reason == "Pulling")
        .map(|of| (of.message, of.count))
        .collect();
    said.sort();
    let words = "Pulling image \"big:1\": 89.0 MiB of 100.0 MiB, resumed at 1.0 MiB";
    assert_eq!(said, [("Pulling image \"big:1\"".to_owned(), 1), (words.to_owned(), 2)]);
    let text = world.kubelet.own_metrics();
    let line = "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"0-10MB\",le=\"120\"} 1";
    assert!(text.lines().any(|of| of == line), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_would_not_fit_has_unused_images_removed_first() {
    let machine = ["app:1", "old:1", "old:2", "old:3", "pinned:1", "next:1"]
        .into_iter()
        .fold(machine::Machine_::new(), |machine, name| machine.with_image(name));
    lock(&machine.state).images.get_mut("pinned:1").expect("an image").pinned = true;
    let world = World::on("room", Api::new(), machine);
    // One container runs, and its neighbour's image is here for when it is to start.
    let mut web = pod("web", vec![container("app")]);
    web.spec.init_containers = vec![container("first")];
    web.spec.containers[0].image = "next:1".into();
    lock(&world.machine.state).slow_pulls = 0;
    world.api.put(&web);
    world.until("web", "init", |pod| !pod.status.init_container_statuses.is_empty()).await;
    let removed = || {
        let log = world.machine.log();
        log.into_iter()
            .filter_map(|line| line.strip_prefix("remove image sha256:").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    // A GiB each; evictions begin below 5 of 100.
    let pull = async |name: &str, free: u64, least: u64, likely: u64| {
        {
            let mut state = lock(&world.machine.state);
            (state.disk_available, state.pull_needs) = (Some(free << 30), (least << 30, likely << 30));
        }
        comes(&world, &with(name, &format!("{name}:1"), "IfNotPresent", &[])).await
    };
    assert_eq!(pull("fits", 9, 3, 3).await, ("runs".into(), 1));
    assert_eq!(removed(), [""; 0]);
    assert_eq!(pull("more", 6, 2, 2).await, ("runs".into(), 1));
    assert_eq!(removed().len(), 2, "not more than is needed: {:?}", removed());
    assert_eq!(pull("absurd", 6, 50, 150).await, ("runs".into(), 1));
    assert_eq!(removed().len(), 2, "nothing goes for what cannot be: {:?}", removed());
    assert_eq!(pull("all", 6, 1, 50).await, ("runs".into(), 1));
    let kept: Vec<String> = lock(&world.machine.state).images.keys().cloned().collect();
    assert_eq!(kept, ["all:1", "app:1", "next:1", "pinned:1"]);
}

#[test]
fn policies_say_whose_images_need_a_proof() {
    for (image, repository) in [
        ("app", "app"),
        ("app:1", "app"),
        ("reg.test:5000/app", "reg.test:5000/app"),
        ("reg.test:5000/app:1@sha256:00", "reg.test:5000/app"),
    ] {
        assert_eq!(verify::repository(image), repository);
    }
    let list = |text: &str| Policy::NeverVerifyAllowlistedImages(vec![text.into()]);
    for (policy, image, pulled, demands) in [
        (Policy::NeverVerify, "a/b", true, false),
        (Policy::NeverVerifyPreloadedImages, "a/b", false, false),
        (Policy::NeverVerifyPreloadedImages, "a/b", true, true),
        (Policy::AlwaysVerify, "a/b", false, true),
        (list("a.test/b"), "a.test/b", true, false),
        (list("a.test/b"), "a.test/bc", false, true),
        (list("a.test/*"), "a.test/b/c", true, false),
        (list("a.test/*"), "a.testing/b", true, true),
    ] {
        assert_eq!(policy.demands(image, pulled), demands, "{policy:?} {image}");
    }
    for (pattern, wrong) in [
        ("a.test/b", ""),
        ("a.test:5000/*", ""),
        (" a", "leading/trailing spaces"),
        ("", "too short"),
        ("/*", "registry hostname"),
        ("*/b", "only patterns ending with"),
        ("a/*/*", "only patterns ending with"),
        ("a/b:1", "neither tag nor digest"),
        ("a/b@sha256:1", "neither tag nor digest"),
        ("a//b", "failed to parse"),
        ("a b", "failed to parse"),
    ] {
        let checked = verify::check_pattern(pattern);
        assert_eq!(checked.is_ok(), wrong.is_empty(), "{pattern}: {checked:?}");
        assert!(checked.is_ok() || checked.is_err_and(|why| why.contains(wrong)), "{pattern}");
    }
}

#[tokio::test(start_paused = true)]
async fn plugins_know_service_accounts() {
    let world = World::new("accounts");
    let image = "plug.test/app:1";
    lock(&world.machine.state).private.insert(image.into(), vec!["of team".into()]);
    for (name, role) in [("good", "team"), ("bad", "others")] {
        let (uid, namespace) = (format!("uid-{name}"), "default".into());
        let annotations = [("role".to_owned(), role.to_owned())].into();
        let metadata = ObjectMeta { name: name.into(), namespace, uid, annotations, ..ObjectMeta::default() };
        world.api.put(&ServiceAccount { metadata, ..ServiceAccount::default() });
    }
    for (name, account, policy, reason, pulls) in [
        ("first", "good", "IfNotPresent", "runs", 1),
        ("again", "good", "Never", "runs", 0),
        ("stranger", "bad", "IfNotPresent", "ErrImagePull", 1),
        ("lost", "none", "IfNotPresent", "ErrImagePull", 1),
        ("nobody", "", "IfNotPresent", "ErrImagePull", 1),
        ("always", "good", "Always", "runs", 1),
    ] {
        let mut pod = with(name, image, policy, &[]);
        pod.spec.service_account_name = account.into();
        assert_eq!(comes(&world, &pod).await, (reason.to_owned(), pulls), "{name}");
    }
    let known = record(&world, &format!("sha256:{image}"));
    assert_eq!(
        known["credentialMapping"]["plug.test/app"],
        json!({"kubernetesServiceAccounts": [{"uid": "uid-good", "namespace": "default", "name": "good"}]})
    );
}

#[test]
fn records_are_upstreams() {
    let secret = |uid: &str, name: &str, hash: &str| {
        let [uid, name, hash] = [uid, name, hash].map(str::to_owned);
        SecretLogin { uid, name, hash, namespace: "default".into() }
    };
    let by = |source: Access| Login { credentials: Default::default(), source };
    let login = |uid: &str, name: &str, hash: &str| by(Access::Secret(secret(uid, name, hash)));
    // As upstream's kubelet has written it.
    let known: Value = serde_json::from_str(r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"r","credentialMapping":{"docker.io/testing/test":{"kubernetesSecrets":[{"uid":"u","namespace":"default","name":"pull-secret","credentialHash":"h"}],"kubernetesServiceAccounts":[{"uid":"a","namespace":"default","name":"sa"}]}}}"#).expect("JSON");
    let test = "docker.io/testing/test";
    let check = |uid: &str, hash: &str| verify::check(&known, test, &[login(uid, "pull-secret", hash)]);
    assert_eq!(check("u", "h"), Verdict::Found(None));
    assert_eq!(check("u2", "h"), Verdict::Found(Some(secret("u2", "pull-secret", "h"))));
    assert_eq!(check("u", "h2"), Verdict::Found(Some(secret("u", "pull-secret", "h2"))));
    assert_eq!(check("u2", "h2"), Verdict::MustAuthenticate);
    assert_eq!(
        verify::check(&known, "docker.io/testing/other", &[login("u", "pull-secret", "h")]),
        Verdict::MustAuthenticate
    );
    let add = |access: &Access| verify::add(Some(known.clone()), "r", test, access, "now");
    assert_eq!(add(&Access::Secret(secret("u", "pull-secret", "h"))), None);
    assert_eq!(add(&Access::Unknown), None);
    let changed = add(&Access::Secret(secret("u", "pull-secret", "h2"))).expect("a change");
    let of = &changed["credentialMapping"][test];
    assert_eq!(
        (&of["kubernetesSecrets"][0]["credentialHash"], of["kubernetesSecrets"].as_array().map(Vec::len)),
        (&json!("h2"), Some(1))
    );
    assert_eq!(of["kubernetesServiceAccounts"][0]["uid"], "a", "what others know stays");
    assert_eq!(
        (&changed["apiVersion"], &changed["lastUpdatedTime"]),
        (&json!("kubelet.config.k8s.io/v1beta1"), &json!("now"))
    );
    let account = |uid: &str| Access::Account(json!({"name": "sa", "namespace": "default", "uid": uid}));
    assert_eq!(verify::check(&known, test, &[by(Access::NodePods), by(account("a"))]), Verdict::Found(None));
    assert_eq!(verify::check(&known, test, &[by(account("b"))]), Verdict::MustAuthenticate);
    assert_eq!(add(&account("a")), None);
    let changed = add(&account("b")).expect("a change");
    assert_eq!(changed["credentialMapping"][test]["kubernetesServiceAccounts"][1]["uid"], "b");
    let open = add(&Access::NodePods).expect("a change");
    assert_eq!(open["credentialMapping"][test], json!({"nodePodsAccessible": true}));
    assert_eq!(verify::check(&open, test, &[]), Verdict::Found(None));
    // Of very many secrets some have to prove themselves again, and a proof is written only by a pull.
    let mut full = known.clone();
    for at in 0..1200 {
        let access = Access::Secret(secret(&format!("{at}"), "s", &format!("h{at}")));
        full = verify::add(Some(full), "r", test, &access, "now").expect("a change");
    }
    assert_eq!(full["credentialMapping"][test]["kubernetesSecrets"].as_array().map(Vec::len), Some(1000));
    assert_eq!(verify::check(&full, test, &[login("1199", "s", "h1199")]), Verdict::Found(None));
    assert_eq!(verify::check(&full, test, &[login("1199", "s", "new")]), Verdict::MustAuthenticate);
}
