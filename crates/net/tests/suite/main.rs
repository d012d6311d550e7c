//! Tests of this crate on the real kernel, each in network namespaces of its own.
#![allow(unsafe_code)] // making a network namespace
#![allow(clippy::unwrap_used)] // helpers of tests

mod dns;
mod figures;
mod ipam;
mod kernel;
mod lab;
