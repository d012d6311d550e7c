//! Work inside another network namespace, on a thread of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::{Error, Result};

/// A network namespace that is kept open.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    path: std::path::PathBuf,
}

impl Netns {
    /// Opens the namespace pinned at `path` (or `/proc/PID/ns/net`).
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::File {
            action: "open network namespace",
            path: path.to_owned(),
            source,
        })?;
        Ok(Netns { file: file.into(), path: path.to_owned() })
    }

    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a fresh thread that stands in this namespace and ends with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let fd = self.fd();
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, move || {
                    // SAFETY: the descriptor is open for as long as `self` lives; only this thread changes.
                    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                        let source = io::Error::last_os_error();
                        let action = format!("enter network namespace {}", self.path.display());
                        return Err(Error::Kernel { action, source });
                    }
                    work()
                })
                .map_err(|source| Error::Kernel { action: "start a thread".into(), source })?
                .join()
                .map_err(|_| Error::Thread { path: self.path.clone() })?
        })
    }
}

/// Runs `work` on a thread that stands in a new network namespace, which goes with it.
pub fn in_fresh<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let enter = move || {
            // SAFETY: no memory is involved; only this thread changes.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let source = io::Error::last_os_error();
                return Err(Error::Kernel { action: "make a network namespace".into(), source });
            }
            work()
        };
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter);
        let thread = thread.map_err(|source| Error::Kernel { action: "start a thread".into(), source })?;
        thread.join().map_err(|_| Error::Thread { path: "/proc/thread-self/ns/net".into() })?
    })
}
