//! A directory that somebody drops files into, and the news that something in it changed (inotify: no polling).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

/// Copies write several files and several times; they are looked at together.
const GATHER: Duration = Duration::from_millis(100);
const STACK_BYTES: usize = 64 << 10;

pub struct Inbox {
    directory: PathBuf,
    news: mpsc::Receiver<()>,
}

impl Inbox {
    /// Makes the directory if there is none.
    pub fn open(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let events = inotify::init(CreateFlags::CLOEXEC)?;
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::CREATE | WatchFlags::DELETE;
        inotify::add_watch(&events, directory, what)?;
        let (sender, news) = mpsc::channel(1);
        // Of its own and not tokio's: it sleeps in the kernel for as long as nothing happens.
        std::thread::Builder::new()
            .name("inbox".into())
            .stack_size(STACK_BYTES)
            .spawn(move || follow(&events, &sender))?;
        Ok(Self { directory: directory.to_owned(), news })
    }

    /// Its files by name, hidden ones left out, links followed.
    pub fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files
    }

    /// Returns some time after the next changes.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.news.recv().await.ok_or_else(|| io::Error::other("inotify ended"))?;
        tokio::time::sleep(GATHER).await;
        // What came meanwhile is seen by the look that follows.
        let _ = self.news.try_recv();
        Ok(())
    }
}

/// Says that there is news until nobody listens.
fn follow(events: &OwnedFd, news: &mpsc::Sender<()>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    while !news.is_closed() {
        match reader.next() {
            // Our own notes are no news.
            Ok(event) if event.file_name().is_some_and(|name| name.to_bytes().starts_with(b".")) => {}
            // A full channel says it already.
            Ok(_) => drop(news.try_send(())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "inotify"),
        }
    }
}
