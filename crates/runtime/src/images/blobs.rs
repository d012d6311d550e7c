//! Content-addressed files: `blobs/ALGORITHM/HEX` as in an OCI layout (so that a mirror between nodes can serve the
//! folder as it is), and `ingest/` for those that are not complete.
//!
//! Blobs are not fsynced one by one. Whoever writes a record that names blobs syncs the file system first, and after
//! a power cut blobs that no record names go back to `ingest/`, where their bytes are hashed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::manifest::MAX_DOCUMENT;

#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    pub fn open(root: &Path) -> Result<Blobs> {
        for dir in ["blobs/sha256", "blobs/sha512", "ingest", "tmp"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        Ok(Blobs { root: root.into() })
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("ingest").join(format!("{}-{}", digest.algorithm(), digest.hex()))
    }

    /// Bytes of a complete blob.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    /// A manifest, index or config, checked against its digest; `None` if it is not here or damaged.
    pub fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        Ok((hasher.finish() == *digest).then_some(bytes))
    }

    pub fn put_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let mut ingest = Ingest::start(self, digest, bytes.len() as u64)?;
        ingest.write(bytes)?;
        ingest.commit(self, "document")
    }

    /// Stores a stream whose digest is not known beforehand; at most `limit` bytes.
    pub fn add(&self, what: &str, mut input: impl Read, limit: u64, reserve: u64) -> Result<(Digest, u64)> {
        let temp = tempfile(&self.root.join("tmp"))?;
        let mut hasher = Hasher::sha256();
        let mut buffer = vec![0; 128 << 10];
        let mut size = 0u64;
        let mut write = || -> Result<()> {
            let mut file = File::create(&temp.0).map_err(Error::io("create", &temp.0))?;
            loop {
                let n = input.read(&mut buffer).map_err(|e| Error::malformed(what, e))?;
                if n == 0 {
                    return Ok(());
                }
                if (size + n as u64) / SPACE_STEP != size / SPACE_STEP {
                    check_space(&self.root, SPACE_STEP, reserve)?;
                }
                size += n as u64;
                if size > limit {
                    return Err(Error::Limit { what: what.into(), limit, unit: "bytes" });
                }
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n]).map_err(Error::io("write", &temp.0))?;
                write_behind(&file, size - n as u64, size);
            }
        };
        write()?;
        let digest = hasher.finish();
        let path = self.path(&digest);
        fs::rename(&temp.0, &path).map_err(Error::io("rename to", &path))?;
        Ok((digest, size))
    }

    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// After a power cut: what may have been cut short is hashed again before it counts.
    pub fn distrust(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        fs::rename(&path, self.partial(digest)).map_err(Error::io("move away", &path))
    }

    /// All complete blobs with their sizes.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.root.join("blobs").join(algorithm);
            for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
                let entry = entry.map_err(Error::io("list", &dir))?;
                let name = format!("{algorithm}:{}", entry.file_name().to_string_lossy());
                if let (Ok(digest), Ok(meta)) = (Digest::parse(&name), entry.metadata()) {
                    blobs.push((digest, meta.len()));
                }
            }
        }
        Ok(blobs)
    }

    /// Partial blobs with what they hold.
    pub fn partials(&self) -> Result<Vec<(Digest, u64)>> {
        let dir = self.root.join("ingest");
        let mut partials = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let entry = entry.map_err(Error::io("list", &dir))?;
            let name = entry.file_name().to_string_lossy().replacen('-', ":", 1);
            if let (Ok(digest), Ok(meta)) = (Digest::parse(&name), entry.metadata()) {
                partials.push((digest, meta.len()));
            }
        }
        Ok(partials)
    }

    pub fn remove_partial(&self, digest: &Digest) {
        let _ = fs::remove_file(self.partial(digest));
    }
}

/// A blob in the making; what is written stays for the next try, even after a restart.
pub struct Ingest {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    digest: Digest,
    pub size: u64,
    pub written: u64,
}

const SPACE_STEP: u64 = 32 << 20;

impl Ingest {
    /// From the beginning.
    pub fn start(blobs: &Blobs, digest: &Digest, size: u64) -> Result<Ingest> {
        let path = blobs.partial(digest);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        Ok(Ingest { path, file, hasher: digest.hasher(), digest: digest.clone(), size, written: 0 })
    }

    /// Takes up what an earlier try left. Reads it all: blocks.
    pub fn resume(blobs: &Blobs, digest: &Digest, size: u64) -> Result<Ingest> {
        let path = blobs.partial(digest);
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&path) else {
            return Ingest::start(blobs, digest, size);
        };
        let mut hasher = digest.hasher();
        let mut buffer = vec![0; 128 << 10];
        let mut written = 0u64;
        loop {
            let n = file.read(&mut buffer).map_err(Error::io("read", &path))?;
            if n == 0 {
                break;
            }
            written += n as u64;
            hasher.update(&buffer[..n]);
        }
        if written > size {
            return Ingest::start(blobs, digest, size);
        }
        Ok(Ingest { path, file, hasher, digest: digest.clone(), size, written })
    }

    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io("rewind", &self.path))?;
        self.hasher = self.digest.hasher();
        self.written = 0;
        Ok(())
    }

    /// More than the expected size is refused before it is written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.written + bytes.len() as u64;
        if written > self.size {
            return Err(Error::SizeMismatch { what: format!("blob {}", self.digest), want: self.size, got: written });
        }
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        write_behind(&self.file, self.written, written);
        self.written = written;
        Ok(())
    }

    /// Checks size and digest; a wrong blob is thrown away.
    pub fn commit(self, blobs: &Blobs, what: &str) -> Result<()> {
        let what = || format!("{what} {}", self.digest);
        if self.written != self.size {
            return Err(Error::SizeMismatch { what: what(), want: self.size, got: self.written });
        }
        let got = self.hasher.finish();
        if got != self.digest {
            let _ = fs::remove_file(&self.path);
            return Err(Error::DigestMismatch { what: what(), want: self.digest.clone(), got });
        }
        let path = blobs.path(&self.digest);
        fs::rename(&self.path, &path).map_err(Error::io("rename to", &path))
    }
}

/// A file has grown from `before` to `now`: every [`BEHIND`] bytes the kernel is asked to start writing what is not on
/// its way yet, so that the disk works while we do, and the sync at the end has little left. Waits for nothing and
/// promises nothing.
#[allow(unsafe_code)] // neither std nor rustix has this call
pub fn write_behind(file: &impl AsFd, before: u64, now: u64) {
    let (from, to) = (before / BEHIND * BEHIND, now / BEHIND * BEHIND);
    if to > from {
        // SAFETY: the call takes no memory, and the descriptor is open as long as `file` is borrowed.
        unsafe {
            let fd = file.as_fd().as_raw_fd();
            libc::sync_file_range(fd, from as i64, (to - from) as i64, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}

const BEHIND: u64 = 4 << 20;

/// Would `needed` more bytes leave the reserve free?
pub fn check_space(path: &Path, needed: u64, reserve: u64) -> Result<()> {
    let space = space(path)?;
    if space.available < needed.saturating_add(reserve) {
        return Err(Error::NoSpace { path: path.into(), needed, free: space.available, reserve });
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
pub struct Space {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

pub fn space(path: &Path) -> Result<Space> {
    let vfs = rustix::fs::statvfs(path).map_err(|e| Error::Io {
        doing: "look at the space of",
        path: path.into(),
        source: e.into(),
    })?;
    Ok(Space {
        capacity: vfs.f_blocks.saturating_mul(vfs.f_frsize),
        available: vfs.f_bavail.saturating_mul(vfs.f_frsize),
        inodes: vfs.f_files,
        inodes_free: vfs.f_ffree,
    })
}

/// Replaces a file so that after a crash either the old or the new content is there.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    write().map_err(Error::io("write", path))
}

/// One sync for everything that was written to the store's file system.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(path)?)?) };
    sync().map_err(Error::io("sync", path))
}

/// A new name below `dir` that goes away, with what is there, when dropped (unless it was renamed).
pub struct Temp(pub PathBuf);

pub fn tempfile(dir: &Path) -> Result<Temp> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    // The directory is this process' own (see `Images::open`), and emptied at start.
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(Temp(dir.join(format!("{}-{n}", std::process::id()))))
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = match fs::symlink_metadata(&self.0) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&self.0),
            Ok(_) => fs::remove_file(&self.0),
            Err(_) => Ok(()),
        };
    }
}
