//! The image store from outside: against a registry that lies, stalls and breaks, against Debian's docker-registry,
//! with hostile and honest archives, and across crashes. Needs root (ownership, device nodes, whiteouts).

// Clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archives;
mod pulling;
mod real_registry;
mod registry;
mod signing;
mod storing;
mod support;
