//! Kernel settings under `/proc/sys/net` of the thread's network namespace.

use std::{fs, path::PathBuf};

use super::{Error, Result};

/// A setting that had another value, and what it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub name: String,
    pub was: String,
    pub now: String,
}

fn path(name: &str) -> PathBuf {
    // A link's name may hold dots, so names are given with slashes.
    PathBuf::from("/proc/sys/net").join(name)
}

pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_owned())
}

/// Sets `name` (like `ipv4/ip_forward`); writes nothing if it has the value already.
pub fn set(name: &str, value: &str) -> Result<Option<Changed>> {
    let path = path(name);
    let read = fs::read_to_string(&path);
    let was = match read {
        Ok(text) => text.trim().to_owned(),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    if was == value {
        return Ok(None);
    }
    fs::write(&path, value).map_err(|source| Error::File { action: "write", path, source })?;
    Ok(Some(Changed { name: name.replace('/', "."), was, now: value.to_owned() }))
}

/// [`set`] for what may be missing on this kernel (IPv6 switched off).
pub fn set_if_there(name: &str, value: &str) -> Result<Option<Changed>> {
    if path(name).exists() { set(name, value) } else { Ok(None) }
}
