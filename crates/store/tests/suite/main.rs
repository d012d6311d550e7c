//! The store's tests: the contract that every implementation keeps, what is special to the embedded one, and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod contract;
mod full_disk;
mod kill;
mod model;
mod power_cut;
mod sqlite;
mod vfs;
mod workload;
