//! DNS answers from a snapshot of the cluster, per the Kubernetes DNS specification 1.1.0.
//!
//! [`answer`] is a pure function from a [`Zone`] and a query's bytes; `io::dns` carries bytes and asks other resolvers.

mod answer;
#[cfg(test)]
mod tests;
pub mod wire;
mod zone;

pub use answer::{Answer, Transport, answer, failure, finish_chase};
pub use zone::{Host, Zone, ZoneEndpoint, ZonePort, ZoneService};

/// Seconds that records of the cluster may be kept; CoreDNS' default.
pub const TTL: u32 = 5;
/// The same for nodes' names, as k3s' NodeHosts have it.
pub const HOST_TTL: u32 = 60;
