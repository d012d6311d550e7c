//! What packets do on a node.
//!
//! [`ruleset`] computes one nftables table from services, endpoints, policies and pods, as a value; [`dns`]
//! answers questions from a snapshot; [`lb`] says which node addresses a Service of type LoadBalancer gets.
//! [`cluster`] joins the API's objects into what these want to know. [`io`] is the door to the kernel: links and routes of pods and peers, the table, tracked connections, DNS sockets.

pub mod cluster;
pub mod dns;
pub mod io;
pub mod lb;
pub mod ruleset;
