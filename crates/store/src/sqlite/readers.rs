//! A few read-only connections for snapshots, opened when needed and used on blocking threads.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::backup::{self, BackupError};
use super::io_error;
use super::open::Database;
use crate::Result;

pub(super) struct Readers {
    database: Database,
    /// `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
    slots: Arc<Semaphore>,
}

impl Readers {
    pub fn new(database: Database, limit: usize) -> Self {
        Self { database, idle: Mutex::new(Some(Vec::new())), slots: Arc::new(Semaphore::new(limit.max(1))) }
    }

    /// Runs `read` in one snapshot of the file.
    pub async fn snapshot<T: Send + 'static>(
        self: &Arc<Self>,
        action: &'static str,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed = move |error| io_error(action, error);
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| crate::Error::Closed)?;
        let readers = self.clone();
        let work = move || {
            let _slot = slot;
            let connection = readers.take().map_err(failed)?;
            connection.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([])).map_err(failed)?;
            let result = read(&connection);
            // A connection that cannot end its snapshot is dropped.
            if connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).is_ok() {
                readers.put(connection);
            }
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(crate::Error::Closed),
            Err(error) => Err(crate::Error::Io { action: action.into(), source: error.into() }),
        }
    }

    /// Copies the database on a blocking thread, with a connection for that alone.
    pub async fn backup(self: &Arc<Self>, to: std::path::PathBuf) -> Result<(), BackupError> {
        let readers = self.clone();
        let path = to.clone();
        match tokio::task::spawn_blocking(move || backup::write(&readers.database, &path)).await {
            Ok(result) => result,
            Err(error) => Err(BackupError::File { action: "write", path: to, source: error.into() }),
        }
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Vec::pop);
        idle.map_or_else(|| self.database.reader(), Ok)
    }

    fn put(&self, connection: Connection) {
        if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            idle.push(connection);
        }
    }

    pub fn close(&self) {
        self.slots.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
