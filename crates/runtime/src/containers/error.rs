//! What can go wrong, with what was tried on what.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no sandbox {0}")]
    NoSandbox(String),
    #[error("no container {0}")]
    NoContainer(String),
    #[error("sandbox {0} is not ready")]
    SandboxNotReady(String),
    #[error("container {id} is {state}, not {wanted}")]
    WrongState { id: String, state: &'static str, wanted: &'static str },
    /// The file system, the kernel.
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("no cgroup file system that holds the memory controller is mounted")]
    NoCgroups,
    #[error("container {container}: {what}")]
    Config { container: String, what: String },
    #[error("container {container}: {source}")]
    Seccomp { container: String, source: super::seccomp::Error },
    #[error("container {container}: failed to generate apparmor spec opts: {why}")]
    AppArmor { container: String, why: String },
    /// The keeper could not be started.
    #[error("keeper of sandbox {sandbox}: {message}")]
    Keeper { sandbox: String, message: String },
    /// The keeper has refused; its own words, which name the cause as upstream's runtime does.
    #[error("{operation} {id}: {message}")]
    Refused { operation: &'static str, id: String, message: String },
    /// The container's program could not be started.
    #[error("failed to start container: {0}")]
    Start(String),
    #[error("keeper connection is gone during {0}")]
    Gone(&'static str),
    #[error("command {command:?} timed out after {seconds} s")]
    Timeout { command: String, seconds: u64 },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { what, path: path.into(), source })
    }
}
