//! What a request does: authenticate → authorize → decode → mutate → validate → commit → publish → reply.
//!
//! [`Server`] is the entry point: a cheap handle whose [`Server::handle`] answers one HTTP request, from a socket
//! (through authentication) or from inside the process (a [`User`] in the request's extensions). What the pipeline
//! needs from outside (time, randomness, credentials, permission, nodes) are the traits of [`seams`].

pub mod admission;
mod aggregate;
pub mod audit;
pub mod authn;
pub mod authz;
mod behaviours;
pub mod body;
pub mod bootstrap;
pub mod cache;
mod call;
mod cel;
mod cluster;
mod configuration;
mod connect;
mod conversion;
mod convert;
mod crd;
mod crd_checks;
mod crd_objects;
mod crd_rules;
mod delete;
mod discovery;
mod encode;
pub mod encryption;
mod expire;
mod fairness;
mod frames;
mod handle;
mod health;
pub mod kind;
mod meta;
mod metrics;
mod negotiate;
mod nonresource;
mod openapi;
mod options;
pub mod outside;
mod patch;
mod pods;
mod printers;
mod publish;
mod read;
mod reply;
pub mod request;
mod reserved;
mod reviews;
mod rules;
mod scale;
pub mod seams;
mod sending;
mod server;
mod socket;
pub mod status;
mod stop;
mod subresources;
mod versions;
pub mod view;
mod watch;
pub mod webhooks;
mod write;

pub use body::Body;
pub use metrics::Page;
pub use request::{Attributes, User};
pub use server::{Config, Server, StartError};
pub use status::Status;
