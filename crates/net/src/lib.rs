//! What packets do on a node.
//!
//! [`ruleset`] computes one nftables table from services, endpoints, policies and pods, as a value; [`dns`]
//! answers questions from a snapshot; [`lb`] says which node addresses a Service of type LoadBalancer gets.
//! [`io`] is the door to the kernel: links and routes of pods and peers, the table, tracked connections, DNS sockets.

pub mod dns;
pub mod io;
pub mod ruleset;
