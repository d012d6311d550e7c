//! The image store from outside: against a registry that lies, stalls and breaks, against Debian's docker-registry,
//! with hostile and honest archives, and across crashes. Needs root (ownership, device nodes, whiteouts).

mod archives;
mod pulling;
mod real_registry;
mod registry;
mod storing;
mod support;
