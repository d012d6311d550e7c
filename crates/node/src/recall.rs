//! What the API has told of a pod's volumes, class and services, on the node's disk beside the pod: a node that boots
//! without its server goes by that. It goes with the pod's directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use reconcile::io::{Client, Error};
use schema::api::Object;
use schema::api::core::v1::Pod;
use tokio::sync::watch;

use crate::store::{self, Behind};

#[derive(Clone)]
pub struct Recall {
    pub client: Client,
    root: PathBuf,
    /// True from a start without a server until one answers.
    pub offline: watch::Receiver<bool>,
    pub behind: Behind,
}

impl Recall {
    pub fn new(client: Client, root: PathBuf, offline: watch::Receiver<bool>, behind: Behind) -> Self {
        Self { client, root, offline, behind }
    }

    pub fn is_offline(&self) -> bool {
        *self.offline.borrow()
    }

    fn dir(&self, pod: &Pod) -> PathBuf {
        self.root.join("pods").join(&pod.metadata.uid).join("objects")
    }

    /// An object that a pod needs: as the API has it, or, if nobody answers, as it had it last.
    pub async fn get<K: Object>(&self, pod: &Pod, namespace: &str, name: &str) -> Result<K, Error> {
        let path = self.dir(pod).join(format!("{}-{namespace}-{}", K::PLURAL, store::part(name)));
        let kept = || K::decode(&fs::read(&path).ok()?).ok();
        if self.is_offline()
            && let Some(kept) = kept()
        {
            return Ok(kept);
        }
        let found = self.client.get::<K>(namespace, name).await;
        match &found {
            Ok(object) => self.behind.put(path.clone(), Some(object.to_vec())),
            Err(Error::Transport { .. }) => return kept().map_or(found, Ok),
            Err(error) if error.is_not_found() => self.behind.put(path.clone(), None),
            Err(_) => {}
        }
        found
    }

    /// Those objects of a kind that a pod needs, in the same way.
    pub async fn select<K: Object>(&self, pod: &Pod, needs: impl Fn(&K) -> bool) -> Result<Vec<K>, Error> {
        let (dir, start) = (self.dir(pod), format!("{}--", K::PLURAL));
        let mut kept: Vec<PathBuf> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|of| of.path()).collect();
        let is_one = |name: &str| name.starts_with(&start) && !name.ends_with(store::UNFINISHED);
        kept.retain(|path| path.file_name().is_some_and(|name| is_one(&name.to_string_lossy())));
        let mut all = match self.client.list::<K>("", "").await {
            Ok(list) => list.items,
            Err(Error::Transport { .. }) if !kept.is_empty() => {
                return Ok(kept.iter().filter_map(|path| K::decode(&fs::read(path).ok()?).ok()).collect());
            }
            Err(error) => return Err(error),
        };
        all.retain(needs);
        for object in &all {
            let path = dir.join(format!("{start}{}", store::part(&object.metadata().name)));
            kept.retain(|kept| *kept != path);
            self.behind.put(path, Some(object.to_vec()));
        }
        kept.into_iter().for_each(|path| self.behind.put(path, None));
        Ok(all)
    }

    /// Variables of services for a pod's containers: `known`, or those of its last start.
    pub fn links(&self, pod: &Pod, known: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let path = self.dir(pod).join("links");
        if self.is_offline() {
            return fs::read(path).ok().and_then(|raw| serde_json::from_slice(&raw).ok()).unwrap_or(known);
        }
        self.behind.put(path, serde_json::to_vec(&known).ok());
        known
    }
}
