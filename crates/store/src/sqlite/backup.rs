//! A copy of the database while it is in use, and the way back.
//!
//! A backup is a database file like any other. Going back to one would also take revisions back, and clients that
//! have seen later ones would wait for the past: [`restore`] jumps ahead and forgets history, so that they list anew.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Options;
use super::open::{Database, OpenError, sync_directory};
use super::tables::{self, Meta};
use crate::Revision;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot {action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {path}: {source}")]
    Sql {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
}

pub(super) fn write(database: &Database, to: &Path) -> Result<(), BackupError> {
    let file = |action| move |source| BackupError::File { action, path: to.to_owned(), source };
    let sql = |source| BackupError::Sql { action: "write", path: to.to_owned(), source };
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(file("create"))?;
    let name = to.to_str().ok_or_else(|| file("name")(io::ErrorKind::InvalidFilename.into()))?;
    let written = database
        .reader()
        .and_then(|db| db.execute("VACUUM INTO ?1", [name]))
        .map_err(sql)
        .and_then(|_| copy.sync_all().and_then(|()| sync_directory(to)).map_err(file("sync")));
    if written.is_err() {
        let _ = fs::remove_file(to);
    }
    written
}

/// Makes the backup `from` the database at `to`, where none may be, and moves its revision ahead by `jump`: more than
/// was written since the backup. Returns the new revision, from which watches can start.
pub fn restore(from: &Path, to: &Path, jump: Revision) -> Result<Revision, BackupError> {
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { action, path, source }
    };
    let sql = |source| BackupError::Sql { action: "restore", path: to.to_owned(), source };
    let mut source = File::open(from).map_err(file("open", from))?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(file("create", to))?;
    let restored = io::copy(&mut source, &mut copy).map_err(file("copy to", to)).and_then(|_| {
        copy.sync_all().map_err(file("sync", to))?;
        let (_, _lock, db) = Database::open(to, &Options::default())?;
        let meta = tables::meta(&db).map_err(sql)?;
        let newest = tables::newest(&db).map_err(sql)?.max(meta.ceiling).max(meta.compacted) + jump;
        db.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        tables::compact(&db, meta.compacted, newest, usize::MAX).map_err(sql)?;
        let meta = Meta { compacted: newest, ceiling: newest, clean: true, volatile_since: newest };
        tables::forget_volatile_log(&db).and_then(|()| tables::set_meta(&db, meta)).map_err(sql)?;
        db.execute_batch("COMMIT").map_err(sql)?;
        Ok(newest)
    });
    match restored.and_then(|newest| sync_directory(to).map(|()| newest).map_err(file("sync the directory of", to))) {
        Ok(newest) => Ok(newest),
        Err(error) => {
            for suffix in ["", "-wal", "-shm", "-lock"] {
                let _ = fs::remove_file(super::open::sibling(to, suffix));
            }
            Err(error)
        }
    }
}
