//! Drives [`apiserver::Server::handle`] in-process, as table rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod admission;
mod audit;
mod cluster;
mod conversion;
mod counts;
mod definitions;
mod documents;
mod encryption;
mod fairness;
mod fuzz;
mod harness;
mod identities;
mod manners;
mod outsiders;
mod pod_certificates;
mod policies;
mod rules;
mod verbs;
mod watches;
mod webhooks;
