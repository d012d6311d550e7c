//! Directories whose changes wake: inotify, no polling.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Something was written, made, moved or removed.
const CHANGES: WatchFlags =
    WatchFlags::MODIFY.union(WatchFlags::CREATE).union(WatchFlags::MOVE).union(WatchFlags::DELETE);

/// Tells that something in the directories has changed.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    pub fn new<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for directory in directories {
            inotify::add_watch(&fd, directory, CHANGES)?;
        }
        // An OwnedFd always answers with the same descriptor, which is what the deprecation is about.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    pub async fn changed(&self) {
        let Ok(mut guard) = self.0.readable().await else { return std::future::pending().await };
        let mut events = [0; 4096];
        while matches!(rustix::io::read(&self.0, &mut events), Ok(1..)) {}
        guard.clear_ready();
    }
}
