//! The door: everything of this crate that touches the kernel, a file or a socket.
#![allow(unsafe_code)] // netlink sockets and setns have no safe form in std

use std::{io, path::PathBuf};

mod agent;
pub mod conntrack;
pub mod dns;
pub mod foreign;
pub mod ipam;
pub mod link;
mod netlink;
pub mod netns;
pub mod nft;
mod node;
mod overlay;
pub mod pod;
pub mod sysctl;

pub use agent::{Agent, Step};
pub use node::{Applied, Net, Options, PodAddress};
pub use overlay::{Backend, Peer};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action}")]
    Kernel { action: String, source: io::Error },
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged at line {line}")]
    Damaged { path: PathBuf, line: usize },
    #[error("no free address left in {cidr}")]
    Exhausted { cidr: String },
    #[error("thread in network namespace {path} died")]
    Thread { path: PathBuf },
}

pub type Result<T> = std::result::Result<T, Error>;
