//! What a request does: authenticate → authorize → decode → mutate → validate → commit → publish → reply.
//!
//! [`Server`] is the entry point: a cheap handle whose [`Server::handle`] answers one HTTP request, from a socket
//! (through authentication) or from inside the process (a [`User`] in the request's extensions). What the pipeline
//! needs from outside (time, randomness, credentials, permission, nodes) are the traits of [`seams`].

pub mod admission;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod request;
pub mod seams;
mod server;
pub mod status;

pub use body::Body;
pub use request::{Attributes, User};
pub use server::{Config, Server};
pub use status::Status;
