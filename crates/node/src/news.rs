//! What the API tells a node, as it comes: its pods, its own Node, and the Services that variables name.

use std::collections::HashMap;
use std::sync::Arc;

use reconcile::io::reflector::Sink;
use schema::api::Object;
use schema::api::core::v1::{Node, Pod, Service};
use tokio::sync::mpsc;

use crate::kubelet::Kubelet;
use crate::shared::Shared;

/// News of the pods of this node.
pub enum News {
    /// The files of static pods may say something else.
    Static,
    All(Vec<Pod>),
    One(Box<Pod>),
    Gone(Box<Pod>),
}

pub struct PodSink(pub mpsc::UnboundedSender<News>);

impl Sink<Pod> for PodSink {
    fn replace(&mut self, items: Vec<Pod>, _: u64) {
        let _ = self.0.send(News::All(items));
    }

    fn put(&mut self, object: Pod) {
        let _ = self.0.send(News::One(Box::new(object)));
    }

    fn remove(&mut self, object: Pod) {
        let _ = self.0.send(News::Gone(Box::new(object)));
    }
}

pub struct ServiceSink(Arc<Shared>, HashMap<String, Arc<Service>>);

impl ServiceSink {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared, HashMap::new())
    }

    fn publish(&self) {
        *self.0.services.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.1.values().cloned().collect();
        self.0.services_known.send_replace(true);
    }
}

impl Sink<Service> for ServiceSink {
    fn replace(&mut self, items: Vec<Service>, _: u64) {
        self.1 = items.into_iter().map(|service| (service.key(), Arc::new(service))).collect();
        self.publish();
    }

    fn put(&mut self, object: Service) {
        self.1.insert(object.key(), Arc::new(object));
        self.publish();
    }

    fn remove(&mut self, object: Service) {
        self.1.remove(&object.key());
        self.publish();
    }
}

pub struct NodeSink(pub Arc<Kubelet>);

impl Sink<Node> for NodeSink {
    fn replace(&mut self, items: Vec<Node>, _: u64) {
        if let Some(node) = items.into_iter().next() {
            self.put(node);
        }
    }

    fn put(&mut self, object: Node) {
        self.0.store.put_node(&object);
        self.0.take_node(object);
    }

    fn remove(&mut self, _: Node) {}
}
