//! The gRPC seams of a node: CRI, CSI, and the sockets of device plugins, DRA drivers and those who ask for a Pod's
//! resources. Messages, clients and servers are generated (`build.rs`); [`connect`] and [`serve`] carry them over Unix
//! sockets. Why tonic, and what of it: docs/decisions/grpc.md.
//!
//! It knows nothing of what is said over them.

mod channel;
mod server;

pub use channel::{Channel, connect};
pub use prost::Message;
pub use server::{Routes, serve};
pub use tonic::{Code, Request, Response, Status, Streaming, async_trait};

macro_rules! generated {
    ($($(#[$about:meta])* $name:ident = $file:literal;)*) => {$(
        $(#[$about])*
        #[allow(clippy::all, rustdoc::all)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file));
        }
    )*};
}

generated! {
    /// Container Runtime Interface v1.
    cri = "cri/runtime.v1.rs";
    /// Container Storage Interface v1: its Identity and Node services.
    csi = "csi/csi.v1.rs";
    /// Device plugins, v1beta1.
    deviceplugin = "deviceplugin/v1beta1.rs";
    /// Drivers of dynamic resource allocation, v1.
    dra = "dra/k8s.io.kubelet.pkg.apis.dra.v1.rs";
    /// How a plugin's socket says what it is.
    pluginregistration = "pluginregistration/pluginregistration.rs";
    /// What the Pods of a node hold, v1.
    podresources = "podresources/v1.rs";
}

#[cfg(test)]
mod tests;
