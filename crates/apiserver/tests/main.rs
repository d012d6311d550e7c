//! Drives [`apiserver::Server::handle`] in-process, as table rows.

mod cluster;
mod harness;
mod verbs;
mod watches;
