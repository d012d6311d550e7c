//! Files that outlive a crash: written beside, synced, renamed; with their mode from the first byte.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct Error {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Makes a directory and its parents; the last one gets `mode`. One that is there keeps the mode that its owner gave it
/// (it may be /tmp), except that a private one is made private.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let failed = |source| Error { action: "make directory", path: path.to_owned(), source };
    if path.is_dir() && mode & 0o077 != 0 {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Replaces a file's contents as a whole; a reader or a crash sees the old or the new ones. What is there already is not
/// written: a full disk does not mind it.
pub fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let has_mode = |held: fs::Metadata| held.permissions().mode() & 0o7777 == mode;
    if fs::metadata(path).is_ok_and(has_mode) && fs::read(path).is_ok_and(|held| held == contents) {
        return Ok(());
    }
    let failed = |source| Error { action: "write", path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
    // The mode of creation is cut by the umask.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

/// Listens on a Unix socket in place of one that nobody holds any more.
pub fn listen(path: &Path, mode: u32) -> io::Result<tokio::net::UnixListener> {
    // Bound beside and renamed, so that nobody connects before its mode is set.
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let listener = tokio::net::UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// The file's text; `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error { action: "read", path: path.to_owned(), source }),
    }
}
