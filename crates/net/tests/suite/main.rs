//! Tests of this crate on the real kernel, each in network namespaces of its own.
#![allow(unsafe_code)] // making a network namespace

mod dns;
mod kernel;
mod lab;
