//! kube, the Rust client, at work: a derived custom resource, the client's verbs, watchers, and a small operator.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event as Notice, EventType, Recorder};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt, Discovery, Resource, ResourceExt, core::GroupVersionKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const NS: &str = "kube-rs";
const FINALIZER: &str = "kube-rs.example/harbour";

#[derive(CustomResource, Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[kube(group = "kube-rs.example", version = "v1", kind = "Boat", namespaced, status = "BoatStatus", shortname = "bt")]
#[kube(printcolumn = r#"{"name":"Length","type":"integer","jsonPath":".spec.length"}"#)]
struct BoatSpec {
    #[schemars(range(min = 1))]
    length: u32,
    #[serde(default)]
    crew: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
struct BoatStatus {
    harbour: Option<String>,
}

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn same<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Result {
    if got == wanted { Ok(()) } else { Err(format!("{got:?} instead of {wanted:?}").into()) }
}

/// The answer is a refusal with this code that says this.
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>, code: u16, text: &str) -> Result {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.message.contains(text) => Ok(()),
        other => Err(format!("{other:?} instead of {code} {text:?}").into()),
    }
}

async fn within<F: Future<Output = bool>>(seconds: u64, what: &str, mut holds: impl FnMut() -> F) -> Result {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds().await {
        if Instant::now() > end {
            return Err(format!("after {seconds} s still not: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[derive(Default)]
struct Suite {
    passed: u32,
    failed: u32,
}

impl Suite {
    async fn check(&mut self, name: &str, run: impl Future<Output = Result>) {
        let started = Instant::now();
        let end = tokio::time::timeout(Duration::from_secs(90), run).await;
        match end.unwrap_or_else(|_| Err("it takes too long".into())) {
            Ok(()) => {
                self.passed += 1;
                println!("ok kube-rs: {name} ({} ms)", started.elapsed().as_millis());
            }
            Err(error) => {
                self.failed += 1;
                println!("not ok kube-rs: {name}: {}", error.to_string().replace('\n', " "));
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result {
    let client = Client::try_default().await?;
    let mut suite = Suite::default();
    suite.check("the definition is applied and discovered", define(client.clone())).await;
    suite.check("objects are made, listed and replaced", objects(client.clone())).await;
    suite.check("patches of each type", patches(client.clone())).await;
    suite.check("deletions have preconditions and propagate", deletions(client.clone())).await;
    suite.check("an operator keeps what it owns", operator(client.clone())).await;
    suite.check("watchers go on after a killed server", watchers(client.clone())).await;
    suite.check("all goes", end(client)).await;
    println!("kube-rs: {} passed, {} failed", suite.passed, suite.failed);
    std::process::exit(i32::from(suite.failed > 0));
}

async fn define(client: Client) -> Result {
    let namespaces = Api::<Namespace>::all(client.clone());
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let apply = PatchParams::apply("kube-rs");
    namespaces
        .patch(NS, &apply, &Patch::Apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})))
        .await?;
    let made = crds.patch(Boat::crd_name(), &apply, &Patch::Apply(Boat::crd())).await?;
    same(made.spec.names.singular.as_deref(), Some("boat"))?;
    await_condition(crds, Boat::crd_name(), conditions::is_crd_established()).await?;
    within(10, "it is served", || async {
        Api::<Boat>::namespaced(client.clone(), NS).list(&ListParams::default()).await.is_ok()
    })
    .await?;
    let kind = GroupVersionKind::gvk("kube-rs.example", "v1", "Boat");
    let (resource, can) = kube::discovery::pinned_kind(&client, &kind).await?;
    same((resource.plural.as_str(), can.subresources.len()), ("boats", 1))?;
    let plain = Discovery::new(client.clone()).run().await?;
    let aggregated = Discovery::new(client.clone()).run_aggregated().await?;
    let names =
        |found: &Discovery| found.groups_alphabetical().iter().map(|group| group.name().to_owned()).collect::<Vec<_>>();
    same(names(&aggregated), names(&plain))?;
    same(aggregated.resolve_gvk(&kind).map(|(resource, _)| resource.plural), Some("boats".into()))?;
    same(client.apiserver_version().await?.minor.as_str(), "37")
}

fn map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let mut object = ConfigMap { data: Some(texts(data)), ..ConfigMap::default() };
    object.metadata.name = Some(name.into());
    object
}

fn texts(data: &[(&str, &str)]) -> BTreeMap<String, String> {
    data.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn objects(client: Client) -> Result {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NS);
    let post = PostParams::default();
    for i in 0..7 {
        maps.create(&post, &map(&format!("page-{i}"), &[])).await?;
    }
    refused(maps.create(&post, &map("page-0", &[])).await, 409, "configmaps \"page-0\" already exists")?;
    refused(maps.create(&post, &map("Page", &[])).await, 422, "ConfigMap \"Page\" is invalid")?;
    let (mut names, mut params) =
        (Vec::new(), ListParams::default().limit(3).fields("metadata.name!=kube-root-ca.crt"));
    loop {
        let page = maps.list(&params).await?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    same(names.len(), 7)?;
    same(maps.list_metadata(&ListParams::default().fields("metadata.name=page-1")).await?.items.len(), 1)?;
    same(maps.get_opt("none").await?.is_none(), true)?;
    let mut old = maps.get("page-0").await?;
    maps.patch("page-0", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "1"}}))).await?;
    old.data = Some(texts(&[("a", "2")]));
    refused(maps.replace("page-0", &post, &old).await, 409, "the object has been modified")?;
    let mut entry = maps.entry("page-0").await?.or_insert(|| map("page-0", &[]));
    entry.get_mut().data = Some(texts(&[("a", "3")]));
    entry.commit(&post).await?;
    same(maps.get("page-0").await?.data, Some(texts(&[("a", "3")])))?;
    let boats = Api::<Boat>::namespaced(client, NS);
    refused(
        boats.create(&post, &Boat::new("small", BoatSpec { length: 0, crew: vec![] })).await,
        422,
        "greater than or equal to 1",
    )
}

async fn patches(client: Client) -> Result {
    let maps = Api::<ConfigMap>::namespaced(client, NS);
    let plain = PatchParams::default();
    let data = |object: ConfigMap| json!(object.data);
    let json_patch = serde_json::from_value(
        json!([{"op": "test", "path": "/data/a", "value": "3"}, {"op": "move", "from": "/data/a", "path": "/data/b"}]),
    )?;
    same(data(maps.patch("page-0", &plain, &Patch::Json::<()>(json_patch)).await?), json!({"b": "3"}))?;
    same(
        data(maps.patch("page-0", &plain, &Patch::Merge(json!({"data": {"b": null, "c": "4"}}))).await?),
        json!({"c": "4"}),
    )?;
    same(
        data(maps.patch("page-0", &plain, &Patch::Strategic(json!({"data": {"d": "5"}}))).await?),
        json!({"c": "4", "d": "5"}),
    )?;
    let apply = |e: &str| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"e": e}}));
    maps.patch("page-0", &PatchParams::apply("one"), &apply("6")).await?;
    let two = PatchParams::apply("two");
    refused(
        maps.patch("page-0", &two, &apply("7")).await,
        409,
        "Apply failed with 1 conflict: conflict with \"one\": .data.e",
    )?;
    same(data(maps.patch("page-0", &two.force(), &apply("7")).await?)["e"].clone(), json!("7"))
}

async fn deletions(client: Client) -> Result {
    let maps = Api::<ConfigMap>::namespaced(client, NS);
    let owner = maps.create(&PostParams::default(), &map("owner", &[])).await?;
    let mut child = map("child", &[]);
    child.owner_references_mut().extend(owner.controller_owner_ref(&()));
    maps.create(&PostParams::default(), &child).await?;
    let only = |uid: &str| DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    refused(maps.delete("owner", &only("other")).await, 409, "the UID in the precondition (other) does not match")?;
    let uid = owner.uid().unwrap_or_default();
    same(
        maps.delete("owner", &only(&uid))
            .await?
            .left()
            .is_some_and(|object| object.metadata.deletion_timestamp.is_some()),
        true,
    )?;
    await_condition(maps.clone(), "owner", conditions::is_deleted(&uid)).await?;
    same(maps.get_opt("child").await?.is_none(), true)?;
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().fields("metadata.name=page-6")).await?;
    same(maps.get_opt("page-6").await?.is_none(), true)
}

/// Keeps a ConfigMap per boat, and writes where the boat lies.
async fn reconcile(
    boat: Arc<Boat>,
    client: Arc<Client>,
) -> std::result::Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    let client = (*client).clone();
    let boats = Api::<Boat>::namespaced(client.clone(), NS);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NS);
    finalizer(&boats, FINALIZER, boat, |event| async {
        match event {
            Event::Apply(boat) => {
                let name = boat.name_any();
                let apply = PatchParams::apply("operator").force();
                let mut manifest = map(&name, &[("crew", &boat.spec.crew.join(","))]);
                manifest.owner_references_mut().extend(boat.controller_owner_ref(&()));
                maps.patch(&name, &apply, &Patch::Apply(&manifest)).await?;
                let status = json!({"apiVersion": "kube-rs.example/v1", "kind": "Boat", "status": BoatStatus { harbour: Some(format!("berth of {} m", boat.spec.length)) }});
                boats.patch_status(&name, &apply, &Patch::Apply(status)).await?;
                let recorder = Recorder::new(client, "operator".into());
                let notice = Notice { type_: EventType::Normal, reason: "Moored".into(), note: None, action: "Moor".into(), secondary: None };
                recorder.publish(&notice, &boat.object_ref(&())).await?;
            }
            Event::Cleanup(boat) => {
                maps.create(&PostParams::default(), &map(&format!("left-{}", boat.name_any()), &[])).await?;
            }
        }
        Ok(Action::await_change())
    })
    .await
}

async fn operator(client: Client) -> Result {
    let boats = Api::<Boat>::namespaced(client.clone(), NS);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NS);
    let controller = Controller::new(boats.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client.clone()))
        .for_each(|_| std::future::ready(()));
    let running = tokio::spawn(controller);
    let crew = vec!["Ann".to_owned(), "Bob".to_owned()];
    boats.create(&PostParams::default(), &Boat::new("argo", BoatSpec { length: 9, crew })).await?;
    within(20, "the boat is moored", || async {
        boats
            .get("argo")
            .await
            .is_ok_and(|boat| boat.status == Some(BoatStatus { harbour: Some("berth of 9 m".into()) }))
    })
    .await?;
    let boat = boats.get("argo").await?;
    same((boat.finalizers(), boat.metadata.generation), (&[FINALIZER.to_owned()][..], Some(1)))?;
    let has = async |crew: &str| maps.get("argo").await.is_ok_and(|map| map.data == Some(texts(&[("crew", crew)])));
    same(has("Ann,Bob").await, true)?;
    // What it owns is put right, and follows.
    maps.patch("argo", &PatchParams::default(), &Patch::Merge(json!({"data": {"crew": "pirates"}}))).await?;
    within(20, "the map is put right", || has("Ann,Bob")).await?;
    maps.delete("argo", &DeleteParams::default()).await?;
    within(20, "the map is there again", || has("Ann,Bob")).await?;
    boats.patch("argo", &PatchParams::default(), &Patch::Merge(json!({"spec": {"length": 10, "crew": []}}))).await?;
    within(20, "the boat lies elsewhere", || async {
        boats
            .get("argo")
            .await
            .is_ok_and(|boat| boat.status.is_some_and(|status| status.harbour.as_deref() == Some("berth of 10 m")))
    })
    .await?;
    let events = Api::<k8s_openapi::api::events::v1::Event>::namespaced(client, NS);
    same(events.list(&ListParams::default().fields("reason=Moored")).await?.items.is_empty(), false)?;
    let uid = boat.uid().unwrap_or_default();
    boats.delete("argo", &DeleteParams::default()).await?;
    await_condition(boats, "argo", conditions::is_deleted(&uid)).await?;
    same(maps.get_opt("left-argo").await?.is_some(), true)?;
    within(20, "the map went with the boat", || async { maps.get_opt("argo").await.is_ok_and(|map| map.is_none()) })
        .await?;
    running.abort();
    Ok(())
}

async fn watchers(client: Client) -> Result {
    let maps = Api::<ConfigMap>::namespaced(client, NS);
    maps.create(&PostParams::default(), &map("seen", &[("n", "0")])).await?;
    let seen = |config: watcher::Config| {
        let stream = watcher(maps.clone(), config.fields("metadata.name=seen")).default_backoff().applied_objects();
        stream.filter_map(async |event| event.ok().and_then(|object| object.data?.remove("n"))).boxed()
    };
    let mut streams = [seen(watcher::Config::default()), seen(watcher::Config::default().streaming_lists())];
    for n in 0..6 {
        if n > 0 {
            within(5, "the patch is taken", || async {
                maps.patch("seen", &PatchParams::default(), &Patch::Merge(json!({"data": {"n": n.to_string()}})))
                    .await
                    .is_ok()
            })
            .await?;
        }
        for stream in &mut streams {
            // A watcher that begins anew may say the same once more.
            while stream.next().await.ok_or("the stream ended")? != n.to_string() {}
        }
        if n == 3 {
            let kill = std::env::var("CLIENTS_KILL")?;
            same(tokio::process::Command::new(kill).status().await?.success(), true)?;
            within(30, "the server is ready again", || async { maps.get("seen").await.is_ok() }).await?;
        }
    }
    // The plain watch, which ends in time.
    let version = maps.get("seen").await?.resource_version().unwrap_or_default();
    maps.delete("seen", &DeleteParams::default()).await?;
    let params = kube::api::WatchParams::default().timeout(2).fields("metadata.name=seen").disable_bookmarks();
    let events: Vec<_> = maps.watch(&params, &version).await?.try_collect().await?;
    same(matches!(events.as_slice(), [kube::api::WatchEvent::Deleted(object)] if object.name_any() == "seen"), true)
}

async fn end(client: Client) -> Result {
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let uid = crds.get(Boat::crd_name()).await?.uid().unwrap_or_default();
    crds.delete(Boat::crd_name(), &DeleteParams::default()).await?;
    await_condition(crds, Boat::crd_name(), conditions::is_deleted(&uid)).await?;
    let namespaces = Api::<Namespace>::all(client);
    let namespace: Value = json!(namespaces.delete(NS, &DeleteParams::default()).await?.left());
    same(namespace["metadata"]["deletionTimestamp"].is_string(), true)?;
    within(30, "the namespace is gone", || async { namespaces.get_opt(NS).await.is_ok_and(|found| found.is_none()) })
        .await
}
