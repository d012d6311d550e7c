//! Opening a database file: whose it is, which version, who else has it, and the connections' settings.
//!
//! A file that is not ours, or of a newer version, is recognised from its first 100 bytes before SQLite sees it,
//! so that nothing about it changes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Options, Synchronous, ballast::Ballast};

/// The schema this program writes (`PRAGMA user_version`).
pub const SCHEMA_VERSION: u32 = 1;
/// "SMPN" (`PRAGMA application_id`).
const APPLICATION_ID: u32 = 0x534d_504e;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// What a new database and its log take at most while it is made.
const FRESH_BYTES: usize = 128 << 10;
/// The write-ahead log is cut back to this after a burst.
const WAL_KEPT_BYTES: i64 = 16 << 20;

/// Why a database could not be opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} has schema version {found}; this program knows versions up to {supported}: use a newer program")]
    Newer { path: PathBuf, found: u32, supported: u32 },
    #[error("{path} is not a database of this program: {reason}")]
    Foreign { path: PathBuf, reason: &'static str },
    #[error("{path} is in use by another process{}", .holder.map(|pid| format!(" ({pid})")).unwrap_or_default())]
    Locked { path: PathBuf, holder: Option<u32> },
    #[error("cannot {action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} of {path}: {source}")]
    Sql {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// `history` holds every write of the retention window and the newest value of each key; `keys` points at each key's
/// newest write. A value is written once and never moves. `previous` is the key's write before, a deletion included.
/// `meta` is one row: `compacted` the oldest readable revision, `ceiling` a revision that may have been given out,
/// `clean` whether everything volatile was persisted, `volatile_since` from where on `volatile_log` is complete.
const SCHEMA: &str = "
CREATE TABLE history (
  revision INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL, previous INTEGER NOT NULL, value BLOB);
CREATE TABLE keys (key BLOB PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE volatile (
  key BLOB PRIMARY KEY, created INTEGER NOT NULL, modified INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE volatile_log (
  revision INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL, value BLOB,
  previous INTEGER NOT NULL, previous_value BLOB);
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 0), compacted INTEGER NOT NULL, ceiling INTEGER NOT NULL,
  clean INTEGER NOT NULL, volatile_since INTEGER NOT NULL);
INSERT INTO meta VALUES (0, 0, 0, 1, 0);
";

/// Opens connections to one database with the settings each role needs.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub path: PathBuf,
    vfs: Option<String>,
    synchronous: Synchronous,
}

/// Held for as long as the database is open; the kernel lets go of it when the process ends.
pub(super) struct Lock(#[allow(dead_code)] File);

/// `path` with `suffix` appended to its last component.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Database {
    /// Checks, locks and, if the file is new, creates the database. Returns the writer's connection.
    pub fn open(path: &Path, options: &Options) -> Result<(Self, Lock, Connection), OpenError> {
        inspect(path)?;
        let lock = lock(path)?;
        // Again, for another program may have made or upgraded the file before we had the lock.
        let exists = inspect(path)?;
        let database = Self { path: path.to_owned(), vfs: options.vfs.clone(), synchronous: options.synchronous };
        if !exists {
            database.create()?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|source| OpenError::File {
            action: "set the mode of",
            path: path.to_owned(),
            source,
        })?;
        let sql = |action| move |source| OpenError::Sql { action, path: path.to_owned(), source };
        let ballast = Ballast::new(sibling(path, "-ballast"), options.ballast_bytes);
        let connection = loop {
            match database.writer() {
                // SQLite makes the log's index anew: on a full disk the reserve gives it its space.
                Err(error) if is_disk(&error) && ballast.release() => {}
                outcome => break outcome.map_err(sql("open the database"))?,
            }
        };
        // The header said so already, but the log may have something newer.
        let found: u32 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sql("read the version"))?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::Newer { path: path.to_owned(), found, supported: SCHEMA_VERSION });
        }
        Ok((database, lock, connection))
    }

    /// Makes the database under another name first, so that a crash leaves a whole one or none.
    fn create(&self) -> Result<(), OpenError> {
        let fresh = Self { path: sibling(&self.path, "-new"), ..self.clone() };
        let file = |action| {
            let path = fresh.path.clone();
            move |source| OpenError::File { action, path, source }
        };
        let sql = |source| OpenError::Sql { action: "create the tables", path: fresh.path.clone(), source };
        for suffix in ["", "-wal", "-shm", "-journal"] {
            match fs::remove_file(sibling(&fresh.path, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove")(error)),
                _ => {}
            }
        }
        let mut made =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh.path).map_err(file("create"))?;
        // SQLite would call a full disk an I/O error.
        made.write_all(&[0; FRESH_BYTES]).and_then(|()| made.set_len(0)).map_err(file("make"))?;
        let connection = fresh.writer().map_err(sql)?;
        connection
            .execute_batch(&format!(
                "PRAGMA synchronous = OFF; BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = {SCHEMA_VERSION}; {SCHEMA} COMMIT;"
            ))
            .map_err(sql)?;
        connection.close().map_err(|(_, error)| sql(error))?;
        made.sync_all().map_err(file("sync"))?;
        fs::rename(&fresh.path, &self.path).map_err(file("rename"))?;
        sync_directory(&self.path).map_err(file("sync the directory of"))
    }

    fn connect(&self, flags: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match &self.vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str())?,
            None => Connection::open_with_flags(&self.path, flags)?,
        };
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;",
        )?;
        Ok(connection)
    }

    fn writer(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Both take effect in a new file only, and auto_vacuum only ahead of the first table.
        connection.execute_batch("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL;")?;
        self.durable(&connection)?;
        connection.pragma_update(None, "cache_size", -2048)?;
        connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    }

    /// A connection that only moves pages from the log to the database.
    pub fn checkpointer(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        self.durable(&connection)?;
        connection.pragma_update(None, "cache_size", -64)?;
        Ok(connection)
    }

    /// A connection for snapshots.
    pub fn reader(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.pragma_update(None, "cache_size", -512)?;
        Ok(connection)
    }

    fn durable(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some(format!("the file system cannot do write-ahead logging (journal mode {mode})")),
            ));
        }
        let synchronous = match self.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::NormalForTests => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute_batch("PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;")?;
        // Commits never checkpoint; see checkpoint.rs.
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
    }
}

fn is_disk(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// What the first bytes say, without SQLite: whether there is a database.
fn inspect(path: &Path) -> Result<bool, OpenError> {
    let file = |action| move |source| OpenError::File { action, path: path.to_owned(), source };
    let foreign = |reason| Err(OpenError::Foreign { path: path.to_owned(), reason });
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Ok(file_) => file_.take(100).read_to_end(&mut header).map_err(file("read"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(file("open")(error)),
    };
    if header.is_empty() {
        return Ok(false);
    }
    if header.len() < 100 || !header.starts_with(MAGIC) {
        return foreign("it does not start like an SQLite database");
    }
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    match (word(68), word(60)) {
        (APPLICATION_ID, found) if found > SCHEMA_VERSION => {
            Err(OpenError::Newer { path: path.to_owned(), found, supported: SCHEMA_VERSION })
        }
        (APPLICATION_ID, _) => Ok(true),
        _ => foreign("its application_id is another program's"),
    }
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    let lock_path = sibling(path, "-lock");
    let at = |action| {
        let path = lock_path.clone();
        move |source| OpenError::File { action, path, source }
    };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(at("open"))?;
    // A second's patience: a holder that was killed lets go only when the kernel has taken all of it down.
    let mut tries = 0;
    let outcome = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if tries < 50 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(20).read_to_string(&mut holder);
            return Err(OpenError::Locked { path: path.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(at("lock")(error)),
    }
    // Only for the message of whoever finds it locked.
    let pid = std::process::id().to_string();
    let _ = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()));
    Ok(Lock(file))
}

/// Makes a new file's name as durable as its contents.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
