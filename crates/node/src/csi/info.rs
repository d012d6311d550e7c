//! What the cluster is told of this node's drivers: its CSINode, and on the Node itself topology labels and ids.

use std::collections::BTreeMap;

use reconcile::{Key, Patch};
use rpc::csi::NodeGetInfoResponse;
use schema::api::core::v1::Node;
use schema::api::meta::v1::ObjectMeta;
use schema::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};
use serde_json::json;

use super::Csi;

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
const ATTEMPTS: u32 = 4;

fn ids(node: &Node) -> BTreeMap<String, String> {
    node.metadata.annotations.get(NODE_ID).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

impl Csi {
    /// This node's CSINode, made if it is missing or another node's.
    async fn csi_node(&self, node: &Node) -> Result<CSINode, reconcile::io::Error> {
        match self.recall.client.get::<CSINode>("", &self.node_name).await {
            Ok(found) if found.metadata.owner_references.iter().any(|of| of.uid == node.metadata.uid) => {
                return Ok(found);
            }
            Ok(other) => self.recall.client.delete(&other, &reconcile::DeleteOptions::default()).await?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let owner_references = vec![reconcile::owner(node)];
        let metadata = ObjectMeta { name: self.node_name.clone(), owner_references, ..ObjectMeta::default() };
        self.recall.client.create(&CSINode { metadata, ..CSINode::default() }).await
    }

    /// Makes the CSINode, so that schedulers know that this node has no driver (yet).
    pub(super) async fn introduce(&self) -> Result<(), reconcile::io::Error> {
        let _writing = self.writing.lock().await;
        let node: Node = self.recall.client.get("", &self.node_name).await?;
        self.csi_node(&node).await.map(drop)
    }

    /// Changes the CSINode's drivers, as others may at the same time.
    async fn change(&self, node: &Node, change: impl Fn(&mut Vec<CSINodeDriver>)) -> Result<(), String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome = async {
                let mut known = self.csi_node(node).await?;
                let before = known.spec.drivers.clone();
                change(&mut known.spec.drivers);
                if known.spec.drivers != before {
                    self.recall.client.update(&known).await?;
                }
                Ok::<_, reconcile::io::Error>(())
            };
            match outcome.await {
                Err(error) if error.code() == 409 && attempt < ATTEMPTS => {}
                done => return done.map_err(|error| format!("error updating CSINode: {error}")),
            }
        }
    }

    async fn own_node(&self) -> Result<Node, String> {
        self.recall.client.get("", &self.node_name).await.map_err(|error| format!("error updating node: {error}"))
    }

    async fn annotate(
        &self,
        node: &Node,
        ids: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let ids = if ids.is_empty() { json!(null) } else { json!(json!(ids).to_string()) };
        let patch = Patch::Merge(json!({"metadata": {"annotations": {NODE_ID: ids}, "labels": labels}}));
        let patched = self.recall.client.patch::<Node>(&Key::of(node), None, &patch).await;
        patched.map(drop).map_err(|error| format!("error updating node: {error}"))
    }

    pub(super) async fn install(&self, driver: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
        if info.node_id.is_empty() {
            return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
        }
        let _writing = self.writing.lock().await;
        let topology: BTreeMap<String, String> =
            info.accessible_topology.as_ref().map(|of| of.segments.clone().into_iter().collect()).unwrap_or_default();
        let node = self.own_node().await?;
        for (key, value) in &topology {
            if let Some(known) = node.metadata.labels.get(key).filter(|known| *known != value) {
                return Err(format!(
                    "error updating Node object with CSI driver node info: detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{known:?}"
                ));
            }
        }
        let mut ids = ids(&node);
        let new = ids.insert(driver.to_owned(), info.node_id.clone()).as_ref() != Some(&info.node_id);
        if new || topology.keys().any(|key| !node.metadata.labels.contains_key(key)) {
            self.annotate(&node, &ids, &topology).await?;
        }
        let count = Some(info.max_volumes_per_node).filter(|count| *count > 0);
        let own = CSINodeDriver {
            name: driver.to_owned(),
            node_id: info.node_id.clone(),
            topology_keys: topology.into_keys().collect(),
            allocatable: count.map(|count| VolumeNodeResources {
                count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
                ..VolumeNodeResources::default()
            }),
            ..CSINodeDriver::default()
        };
        let put = |drivers: &mut Vec<CSINodeDriver>| match drivers.iter_mut().find(|of| of.name == own.name) {
            Some(known) => known.clone_from(&own),
            None => drivers.push(own.clone()),
        };
        self.change(&node, put).await
    }

    pub(super) async fn uninstall(&self, driver: &str) -> Result<(), String> {
        let _writing = self.writing.lock().await;
        let node = self.own_node().await?;
        self.change(&node, |drivers| drivers.retain(|of| of.name != driver)).await?;
        let mut ids = ids(&node);
        match ids.remove(driver) {
            Some(_) => self.annotate(&node, &ids, &BTreeMap::new()).await,
            None => Ok(()),
        }
    }
}
