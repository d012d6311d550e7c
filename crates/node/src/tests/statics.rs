//! Pods from files: what they become, who shows them, and how they end.

use schema::api::core::v1::Node;

use super::*;
use crate::pod::MIRROR;
use crate::static_pods;

const PLAIN: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {a: b}}\nspec: {containers: [{name: app, image: 'app:1'}]}\n";

#[test]
fn files_become_pods() {
    let dir = Dir::new("static-files");
    let write = |name: &str, text: &str| std::fs::write(dir.0.join(name), text).expect("written");
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j","namespace":"kube-system","uid":"own"},"spec":{"containers":[{"name":"a","image":"b"}]}}"#;
    let with = |what: &str| PLAIN.replace("spec: {", &format!("spec: {{{what}, "));
    for (name, text) in [
        ("10-web.yaml", PLAIN),
        ("20-json", json),
        (".hidden.yaml", PLAIN),
        ("30-twice.yaml", PLAIN),
        ("40-list.yaml", "apiVersion: v1\nkind: List\nitems: []\n"),
        ("50-broken.yaml", "{"),
        ("60-sa.yaml", &with("serviceAccountName: x")),
        ("70-secret.yaml", &with("volumes: [{name: v, secret: {secretName: s}}]")),
        ("80-none.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: none}\nspec: {}\n"),
        ("90-nameless.yaml", &PLAIN.replace("name: web, ", "")),
    ] {
        write(name, text);
    }
    std::fs::create_dir(dir.0.join("sub")).expect("a directory");
    let (pods, problems) = static_pods::read(&dir.0, "One", 0);
    let names: Vec<(&str, &str)> = pods.iter().map(|pod| (&*pod.metadata.namespace, &*pod.metadata.name)).collect();
    assert_eq!(names, [("default", "web-one"), ("kube-system", "j-one")]);
    let web = &pods[0];
    assert_eq!((web.metadata.uid.len(), &*pods[1].metadata.uid, &*web.spec.restart_policy), (32, "own", "Always"));
    let note = |name: &str| web.metadata.annotations[&format!("kubernetes.io/config.{name}")].clone();
    assert_eq!([note("hash"), note("source"), note("seen")], [&web.metadata.uid, "file", "1970-01-01T00:00:00Z"]);
    assert_eq!(web.spec.tolerations.last().map(|of| (&*of.operator, &*of.effect)), Some(("Exists", "NoExecute")));
    let ends = [
        "another file has a pod of this name",
        "invalid pod: it is \"List\" of \"v1\"",
        "",
        "static pods may not reference serviceaccounts",
        "static pods may not reference secrets",
        "invalid pod: spec.containers: Required value",
        "invalid pod: name is needed for the pod",
    ];
    assert_eq!(problems.len(), ends.len(), "{problems:?}");
    for (problem, end) in problems.iter().zip(ends) {
        assert!(problem.ends_with(end), "{problem}");
    }
    let again = static_pods::read(&dir.0, "One", 9).0;
    assert_eq!(again[0].metadata.uid, web.metadata.uid, "its hash is the file's");
    assert_ne!(static_pods::read(&dir.0, "two", 0).0[0].metadata.uid, web.metadata.uid);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_is_shown_and_ends_with_its_file() {
    let dir = Dir::new("static-runs");
    let files = dir.0.join("manifests");
    std::fs::create_dir(&files).expect("a directory");
    std::fs::write(files.join("web.yaml"), PLAIN).expect("written");
    let (api, machine) = (Api::new(), Machine_::new().with_image("app:1"));
    // Without a server it runs all the same.
    api.down.store(true, std::sync::atomic::Ordering::Relaxed);
    let world = World::set(dir, api, machine, |config| config.static_pods = files.clone());
    for _ in 0..20_000 {
        if world.machine.config("app").is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.machine.config("app").is_some(), "{:?}", world.machine.log());
    world.api.down.store(false, std::sync::atomic::Ordering::Relaxed);
    let shown = world.until("web-one", "ready", is_ready).await;
    let uid = shown.metadata.annotations[MIRROR].clone();
    assert_eq!(shown.metadata.annotations["kubernetes.io/config.hash"], uid);
    assert_ne!(shown.metadata.uid, uid, "the mirror is another object");
    assert_eq!(shown.metadata.owner_references[0].uid, world.api.get::<Node>("", "one").expect("a node").metadata.uid);
    // Deleting the mirror ends nothing.
    world.api.remove("/api/v1/namespaces/default/pods/web-one");
    world.until("web-one", "shown again", is_ready).await;
    assert!(!world.machine.log().iter().any(|line| line.starts_with("stop")), "{:?}", world.machine.log());
    // Another pod under the name takes its place when the first one has ended.
    std::fs::write(files.join("web.yaml"), PLAIN.replace("a: b", "a: c")).expect("written");
    let other = |pod: &Pod| pod.metadata.annotations[MIRROR] != uid && is_ready(pod);
    let log = |world: &World| world.machine.log().join(", ");
    real(|| world.api.get::<Pod>("default", "web-one").is_some_and(|pod| other(&pod)), || log(&world)).await;
    assert!(world.machine.log().contains(&format!("remove {uid}")), "{}", log(&world));
    std::fs::remove_file(files.join("web.yaml")).expect("removed");
    real(|| world.api.get::<Pod>("default", "web-one").is_none() && world.kubelet.pods() == 0, || log(&world)).await;
}

/// Waits for what the kernel must tell first: time of the test and of the machine go on together.
async fn real(done: impl Fn() -> bool, what: impl Fn() -> String) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {}", what());
}
