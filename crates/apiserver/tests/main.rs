//! Drives [`apiserver::Server::handle`] in-process, as table rows.

mod harness;
mod verbs;
mod watches;
