//! One pull while it runs: how far it is, and room for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reconcile::io::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::ports::Pulling;

/// As long does a pull wait for room.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody wants so many bytes of the images' disk.
pub struct Room {
    pub least: u64,
    pub likely: u64,
    pub made: oneshot::Sender<()>,
}

pub struct Watched {
    done: AtomicU64,
    total: AtomicU64,
    resumed: AtomicU64,
    rooms: mpsc::Sender<Room>,
}

impl Watched {
    pub fn new(rooms: mpsc::Sender<Room>) -> Self {
        Self { done: AtomicU64::new(0), total: AtomicU64::new(0), resumed: AtomicU64::new(0), rooms }
    }

    /// `120.0 MiB of 480.0 MiB`; nothing where the runtime does not tell.
    pub fn words(&self) -> Option<String> {
        let (done, total, resumed) = (self.done.load(Relaxed), self.total.load(Relaxed), self.resumed.load(Relaxed));
        if total == 0 {
            return None;
        }
        let mut words = format!("{} of {}", amount(done.min(total)), amount(total));
        if resumed > 0 {
            words += &format!(", resumed at {}", amount(resumed));
        }
        if done >= total {
            words += ", unpacking";
        }
        Some(words)
    }
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

impl Pulling for Watched {
    fn progress(&self, done: u64, total: u64, resumed: u64) {
        for (to, value) in [(&self.done, done), (&self.total, total), (&self.resumed, resumed)] {
            to.store(value, Relaxed);
        }
    }

    fn make_room(&self, least: u64, likely: u64) -> BoxFuture<'static, ()> {
        let rooms = self.rooms.clone();
        Box::pin(async move {
            let (made, done) = oneshot::channel();
            let asked = async {
                if rooms.send(Room { least, likely, made }).await.is_ok() {
                    let _ = done.await;
                }
            };
            let _ = tokio::time::timeout(PATIENCE, asked).await;
        })
    }
}
