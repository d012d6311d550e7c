//! A whole node on a machine and an API in memory, with a clock that the tests hold.

mod api;
mod certificates;
mod clocks;
mod evictions;
#[path = "../../../rpc/examples/mock/plugins.rs"]
mod fakes;
mod machine;
mod plugins;
mod pods;
mod pulls;
mod pure;
mod resizes;
mod restarts;
mod serving;
mod statics;

use std::{sync::Arc, time::Duration};

use reconcile::io::{Client, Identity};
use schema::api::core::v1::{Container, Event, Pod, PodSpec};
use schema::api::meta::v1::ObjectMeta;

use crate::{Config, Kubelet};
use api::Api;
pub use machine::Dir;
use machine::{Fake, Machine_};

/// 2026-01-01T00:00:00Z.
pub const EPOCH: i64 = 1_767_225_600_000_000_000;

pub struct World {
    pub api: Arc<Api>,
    pub machine: Fake,
    pub kubelet: Arc<Kubelet>,
    pub dir: Option<Dir>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
        // What it would note at its end has no place any more.
        if let Some(dir) = &self.dir {
            self.kubelet.shared.recall.behind.forget(&dir.0);
        }
    }
}

impl World {
    pub fn new(name: &str) -> Self {
        Self::on(name, Api::new(), Machine_::new().with_image("app:1"))
    }

    pub fn on(name: &str, api: Arc<Api>, machine: Fake) -> Self {
        Self::at(Dir::new(name), api, machine)
    }

    /// A node that starts where another one was.
    pub fn at(dir: Dir, api: Arc<Api>, machine: Fake) -> Self {
        Self::set(dir, api, machine, |_| {})
    }

    /// A node that is told something else.
    pub fn set(dir: Dir, api: Arc<Api>, machine: Fake, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            node_name: "one".into(),
            addresses: vec!["192.0.2.1".parse().expect("an address")],
            cluster_dns: vec!["10.43.0.10".parse().expect("an address")],
            root_dir: dir.0.join("kubelet"),
            log_root: dir.0.join("logs"),
            log_links: dir.0.join("links"),
            ..Config::default()
        };
        set(&mut config);
        let client = Client::new(api.clone(), Identity("system:node:one".into()));
        let kubelet = Kubelet::new(config, machine.ports(), client).expect("a kubelet");
        let task = tokio::spawn(kubelet.clone().run());
        Self { api, machine, kubelet, dir: Some(dir), task }
    }

    /// Waits until the API shows what is wanted of a pod; time flies meanwhile.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..200_000 {
            if let Some(pod) = self.api.get::<Pod>("default", name).filter(|pod| wanted(pod)) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pod = self.api.get::<Pod>("default", name);
        panic!("{what}: never; {:#?}; log {:?}", pod.map(|pod| pod.status), self.machine.log());
    }

    pub async fn until_gone(&self, name: &str) {
        for _ in 0..200_000 {
            if self.api.get::<Pod>("default", name).is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{name} is still there: {:?} {:?}",
            self.machine.log(),
            self.api.get::<Pod>("default", name).map(|pod| pod.status)
        );
    }

    pub fn path(&self, of: &str) -> std::path::PathBuf {
        self.dir.as_ref().expect("a directory").0.join(of)
    }

    /// Ends the kubelet; containers and files stay.
    pub fn stop(mut self) -> (Dir, Arc<Api>, Fake) {
        (self.dir.take().expect("a directory"), self.api.clone(), self.machine.clone())
    }

    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    pub fn reasons(&self) -> Vec<String> {
        let mut events = self.api.all::<Event>();
        events.retain(|event| event.involved_object.kind == "Pod");
        events.sort_by_key(|event| event.metadata.resource_version.parse::<u64>().expect("a number"));
        events.into_iter().map(|event| event.reason).collect()
    }
}

pub fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: "app:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        ..Container::default()
    }
}

pub fn pod(name: &str, containers: Vec<Container>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            ..ObjectMeta::default()
        },
        spec: PodSpec { containers, node_name: "one".into(), restart_policy: "Always".into(), ..PodSpec::default() },
        ..Pod::default()
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    pod.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}
