//! Where the rooms meet: what one owns as a trait is implemented here by what another offers.

pub mod cdi;
pub mod cni;
pub mod cri;
pub mod external;
pub mod health;
pub mod host;
pub mod kubelet;
pub mod local;
mod logind;
pub mod network;
pub mod node_proxy;
pub mod process;
pub mod remote;
pub mod runtime;
pub mod servicelb;
pub mod topology;
mod watched;
