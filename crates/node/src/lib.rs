//! What a machine does next: the kubelet.
//!
//! It decides from pods as the API has them and containers as the runtime has them, and does so through [`ports`]:
//! small traits in its own words, which the program implements with its runtime, images and network.
//!
//! Entry point: [`Kubelet`]. A pod of this node has a [`worker`], which calls the pure [`plan`] whenever something has
//! happened, and starts what it says; [`status`] is as pure, [`publish`] writes it to the API.

mod acts;
mod admission;
mod api;
mod config;
mod container;
mod csi;
mod devices;
mod dra;
mod env;
mod etc;
mod events;
mod eviction;
mod grpc;
mod hooks;
mod http_get;
mod images;
mod kubelet;
mod logs;
mod memory;
mod metrics;
mod news;
mod objects;
mod plan;
mod plugins;
mod pod;
mod podresources;
pub mod ports;
mod preemption;
mod probes;
mod publish;
mod recall;
mod refs;
mod register;
mod resize;
mod resources;
pub mod settings;
mod shared;
mod shutdown;
mod static_pods;
mod status;
mod store;
pub mod topology;
mod upkeep;
mod users;
mod volumes;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{Config, Ports};
pub use kubelet::Kubelet;
pub use metrics::process as process_metrics;
