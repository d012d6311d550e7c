//! The handle that everything goes through, and what it is made of.

use std::sync::Arc;

use crate::{
    admission::Plugin,
    seams::{Authenticate, Authorize, Clock, IssueToken, NodeProxy, Random},
};

/// What a server is made of.
pub struct Config {
    pub store: Arc<dyn store::Store>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub authenticate: Arc<dyn Authenticate>,
    pub authorize: Arc<dyn Authorize>,
    pub issue_token: Arc<dyn IssueToken>,
    pub node_proxy: Arc<dyn NodeProxy>,
    /// In the order in which they run.
    pub admission: Vec<Box<dyn Plugin>>,
    pub service_cidrs: Vec<String>,
    pub node_ports: std::ops::RangeInclusive<u16>,
    pub anonymous: bool,
}

/// The API server: a cheap handle.
#[derive(Clone)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
}

impl Server {
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
}
