//! A layer's tar becomes a directory that overlayfs can stack: [`unpack`], then [`settle`] when the layers below are
//! there. What the archive says is not trusted: names stay in the directory (`tree.rs`), sizes and counts have limits,
//! and overlayfs' own marks are made by us only.

mod pipe;
mod settle;
mod tree;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::blobs::write_behind;
use super::digest::Digest;
use super::error::{Error, Result};
use super::tar::{Entry, Kind, Reader, TarError};
pub use settle::{Survey, settle, survey};
use tree::{Place, RealPath, Tree};

/// How much of a disk and of our patience one layer may take. The free space that must remain is what stops a bomb
/// that keeps within all other limits.
#[derive(Debug, Clone)]
pub struct Limits {
    pub entries: u64,
    /// Unpacked bytes of a layer.
    pub bytes: u64,
    /// A layer may unpack to this many times its compressed size, or to `free_ratio_bytes` if that is more.
    pub ratio: u64,
    pub free_ratio_bytes: u64,
    /// Directories above a file: enough for any program, few enough to walk with one descriptor each.
    pub depth: usize,
    /// Bytes of the file system that must stay free.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 4_000_000,
            bytes: 128 << 30,
            ratio: 200,
            free_ratio_bytes: 1 << 30,
            depth: 200,
            reserve: 256 << 20,
        }
    }
}

const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
/// Memory for what has to be remembered until a layer is settled: a hundred times what large images need.
const MAX_REMEMBERED: u64 = 128 << 20;
const CHUNK: usize = 128 << 10;
static ZEROS: [u8; CHUNK] = [0; CHUNK];
/// How often free space is looked at: after so many bytes or entries.
const CHECK_BYTES: u64 = 32 << 20;
const CHECK_ENTRIES: u64 = 4096;

/// A modification time: seconds and nanoseconds.
type Mtime = (i64, u32);

/// What an unpacked layer still needs from the layers below it.
pub struct Unpacked {
    implicit: Vec<RealPath>,
    /// Hard links whose target is not in this layer: (where, target).
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Set last, since everything else changes them.
    dir_times: Vec<(RealPath, Mtime)>,
    pub opaque_root: bool,
}

/// Unpacks the layer in `blob` (gzip, zstd or plain) into the empty directory `into`; its uncompressed digest must be
/// `diff_id`. Blocks; runs the decompression on a second thread.
pub fn unpack(blob: &Path, diff_id: &Digest, into: &Path, limits: &Limits, cancel: &AtomicBool) -> Result<Unpacked> {
    pipe::decompressed(blob, diff_id, limits, |stream| {
        let io = |e: Errno| Error::Io { doing: "open", path: into.into(), source: e.into() };
        let mut unpacker = Unpacker {
            tree: Tree::open(into).map_err(io)?,
            reader: Reader::new(stream),
            layer: diff_id,
            into,
            limits,
            cancel,
            buffer: vec![0; CHUNK],
            entries: 0,
            bytes: 0,
            unchecked: (0, 0),
            links: Vec::new(),
            dir_times: Vec::new(),
            remembered: 0,
            opaque_root: false,
        };
        unpacker.check_space(0)?;
        while let Some(entry) = unpacker.reader.next_entry().map_err(|e| unpacker.tar(e))? {
            unpacker.count(&entry)?;
            unpacker.entry(&entry)?;
        }
        Ok(Unpacked {
            implicit: unpacker.tree.implicit.into_iter().collect(),
            links: unpacker.links,
            dir_times: unpacker.dir_times,
            opaque_root: unpacker.opaque_root,
        })
    })
}

struct Unpacker<'a, R> {
    tree: Tree,
    reader: Reader<R>,
    layer: &'a Digest,
    into: &'a Path,
    limits: &'a Limits,
    cancel: &'a AtomicBool,
    buffer: Vec<u8>,
    entries: u64,
    bytes: u64,
    /// Entries and bytes since free space was last looked at.
    unchecked: (u64, u64),
    links: Vec<(Vec<u8>, Vec<u8>)>,
    dir_times: Vec<(RealPath, Mtime)>,
    remembered: u64,
    opaque_root: bool,
}

impl<R: std::io::Read> Unpacker<'_, R> {
    fn tar(&self, source: TarError) -> Error {
        if self.cancel.load(Ordering::Relaxed) {
            return Error::Cancelled;
        }
        Error::Tar { layer: self.layer.to_string(), source }
    }

    fn bad(&self, path: &[u8], why: &'static str) -> Error {
        let path: String = String::from_utf8_lossy(path).chars().take(300).collect();
        Error::Entry { layer: self.layer.to_string(), path, why }
    }

    /// What the kernel refused: the archive's fault if it is about names, ours otherwise.
    fn os<'p>(&'p self, doing: &'static str, path: &'p [u8]) -> impl FnOnce(Errno) -> Error + 'p {
        move |errno| match errno {
            Errno::NOTDIR => self.bad(path, "a part of its path is not a directory"),
            Errno::LOOP => self.bad(path, "its path has too many symbolic links"),
            Errno::NAMETOOLONG => self.bad(path, "its path is too long"),
            _ => {
                let path = self.into.join(String::from_utf8_lossy(path).trim_start_matches('/'));
                Error::Io { doing, path, source: errno.into() }
            }
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        let limit = |limit, unit| Error::Limit { what: format!("layer {}", self.layer), limit, unit };
        if self.entries > self.limits.entries {
            return Err(limit(self.limits.entries, "entries"));
        }
        if self.bytes > self.limits.bytes {
            return Err(limit(self.limits.bytes, "bytes"));
        }
        if self.remembered + self.tree.implicit_bytes > MAX_REMEMBERED {
            return Err(limit(MAX_REMEMBERED, "bytes of directory and link names"));
        }
        self.unchecked.0 += 1;
        if self.unchecked.0 >= CHECK_ENTRIES || entry.size >= CHECK_BYTES {
            self.check_space(entry.size)?;
        }
        Ok(())
    }

    fn check_space(&mut self, needed: u64) -> Result<()> {
        self.unchecked = (0, 0);
        super::blobs::check_space(self.into, needed, self.limits.reserve)
    }

    /// The parts of a name; `..` has no business in an archive, a leading `/` is the layer's root.
    fn parts<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>> {
        if path.len() > MAX_PATH {
            return Err(self.bad(path, "its path is too long"));
        }
        if path.contains(&0) {
            return Err(self.bad(path, "its path has a zero byte"));
        }
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            return Err(self.bad(path, "its path climbs out with `..`"));
        }
        if parts.iter().any(|part| part.len() > MAX_NAME) {
            return Err(self.bad(path, "a name in its path is too long"));
        }
        if parts.len() > self.limits.depth {
            return Err(self.bad(path, "its path is too deep"));
        }
        Ok(parts)
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let parts = self.parts(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            if entry.kind != Kind::Dir {
                return Err(self.bad(&entry.path, "it replaces the layer's root"));
            }
            let root = self.tree.root();
            return self.finish_dir(&root, b".", entry);
        };
        // What aufs leaves behind (`.wh..wh.plnk` and such) is no content.
        if parts.iter().any(|part| part.starts_with(b".wh..wh.")) && *name != b".wh..wh..opq" {
            return Ok(());
        }
        let at = self.tree.dir(above, true).map_err(self.os("create the directory of", &entry.path))?;
        if *name == b".wh..wh..opq" {
            self.opaque_root |= at.real.is_empty();
            return tree::set_opaque(at.fd.as_fd(), b".").map_err(self.os("mark as opaque", &entry.path));
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(self.bad(&entry.path, "it removes no name"));
            }
            return self.whiteout(&at, hidden).map_err(self.os("white out", &entry.path));
        }
        match entry.kind {
            Kind::Dir => self.dir(&at, name, entry),
            Kind::File => self.file(&at, name, entry),
            Kind::HardLink => self.hard_link(&at, name, entry),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= MAX_PATH || entry.link.contains(&0) {
                    return Err(self.bad(&entry.path, "its link target is empty or too long"));
                }
                self.make(&at, name, |at| rustix::fs::symlinkat(&*entry.link, at, *name))
                    .map_err(self.os("create", &entry.path))?;
                self.finish_node(&at, name, entry)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                if kind == FileType::CharacterDevice && entry.device == (0, 0) {
                    // To overlayfs that is a whiteout, so it becomes one in full.
                    return self.whiteout(&at, name).map_err(self.os("white out", &entry.path));
                }
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                self.make(&at, name, |at| rustix::fs::mknodat(at, *name, kind, Mode::from(0o600), device))
                    .map_err(self.os("create", &entry.path))?;
                self.finish_node(&at, name, entry)
            }
        }
    }

    /// Makes something new under that name; what an earlier entry put there goes.
    fn make<T>(
        &mut self,
        at: &Place,
        name: &[u8],
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make(&at.fd) {
            Err(Errno::EXIST) => {
                self.tree.remove(at, name)?;
                make(&at.fd)
            }
            other => other,
        }
    }

    fn whiteout(&mut self, at: &Place, name: &[u8]) -> rustix::io::Result<()> {
        match tree::stat(&at.fd, name) {
            // This layer's own content stays; of a directory, only what is below it is hidden.
            Ok(stat) if tree::file_type(&stat) == FileType::Directory => tree::set_opaque(at.fd.as_fd(), name),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => rustix::fs::mknodat(&*at.fd, name, FileType::CharacterDevice, Mode::empty(), 0),
            Err(e) => Err(e),
        }
    }

    fn dir(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let make = |at: &Place| rustix::fs::mkdirat(&*at.fd, name, Mode::from(0o700));
        match make(at) {
            Err(Errno::EXIST) => {
                let stat = tree::stat(&at.fd, name).map_err(self.os("look at", &entry.path))?;
                if tree::file_type(&stat) != FileType::Directory {
                    self.tree.remove(at, name).map_err(self.os("replace", &entry.path))?;
                    make(at).map_err(self.os("create", &entry.path))?;
                    if tree::is_whiteout(&stat) {
                        tree::set_opaque(at.fd.as_fd(), name).map_err(self.os("mark as opaque", &entry.path))?;
                    }
                }
            }
            other => other.map_err(self.os("create", &entry.path))?,
        }
        self.finish_dir(at, name, entry)
    }

    fn finish_dir(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let mut real = at.real.clone();
        if name != b"." {
            real.push(name.into());
        }
        self.tree.implicit.remove(&real);
        self.remembered += tree::path_bytes(&real);
        self.dir_times.push((real, entry.mtime));
        let set = || {
            own(at, name, entry)?;
            rustix::fs::chmodat(&*at.fd, name, Mode::from(entry.mode), AtFlags::empty())
        };
        set().map_err(self.os("set the owner and mode of", &entry.path))?;
        self.set_xattrs(at, name, entry)
    }

    fn finish_node(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let set = || {
            own(at, name, entry)?;
            if entry.kind != Kind::Symlink {
                rustix::fs::chmodat(&*at.fd, name, Mode::from(entry.mode), AtFlags::empty())?;
            }
            rustix::fs::utimensat(&*at.fd, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        };
        set().map_err(self.os("set the owner and mode of", &entry.path))?;
        self.set_xattrs(at, name, entry)
    }

    fn file(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self
            .make(at, name, |at| rustix::fs::openat(at, name, flags, Mode::from(0o600)))
            .map_err(self.os("create", &entry.path))?;
        let (mut left, mut hole) = (entry.size, false);
        while left > 0 {
            let n = self.reader.read(&mut self.buffer).map_err(|e| self.tar(e))?;
            if n == 0 {
                return Err(self.tar(TarError::Truncated));
            }
            let mut rest = &self.buffer[..n];
            if rest == &ZEROS[..] {
                // A hole stays one, however large it says it is.
                hole = true;
                rustix::fs::seek(&file, SeekFrom::Current(n as i64)).map_err(self.os("write", &entry.path))?;
                rest = &[];
            }
            while !rest.is_empty() {
                let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))
                    .map_err(self.os("write", &entry.path))?;
                rest = &rest[written..];
            }
            let done = entry.size - left;
            left = left.saturating_sub(n as u64);
            write_behind(&file, done, done + n as u64);
            self.unchecked.1 += n as u64;
            if self.unchecked.1 >= CHECK_BYTES {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                self.check_space(left)?;
            }
        }
        let set = || {
            if hole {
                rustix::fs::ftruncate(&file, entry.size)?;
            }
            rustix::fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
            // After chown, which drops setuid and capabilities.
            rustix::fs::fchmod(&file, Mode::from(entry.mode))?;
            for (key, value) in entry.xattrs.iter().filter(|(key, _)| wanted_xattr(key)) {
                tolerate(rustix::fs::fsetxattr(&file, key.as_slice(), value, XattrFlags::empty()))?;
            }
            rustix::fs::futimens(&file, &times(entry.mtime))
        };
        set().map_err(self.os("set the owner and mode of", &entry.path))
    }

    fn hard_link(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let target = self.parts(&entry.link)?;
        let Some((target_name, above)) = target.split_last() else {
            return Err(self.bad(&entry.path, "it is a hard link to the layer's root"));
        };
        let from = match self.tree.dir(above, false) {
            Ok(place) => Some(place),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(e) => return Err(self.os("find the target of", &entry.path)(e)),
        };
        let found = from.as_ref().map(|from| tree::stat(&from.fd, target_name));
        match (from, found) {
            (Some(from), Some(Ok(stat))) if !tree::is_whiteout(&stat) => {
                if tree::file_type(&stat) == FileType::Directory {
                    return Err(self.bad(&entry.path, "it is a hard link to a directory"));
                }
                // A link to itself, which replacing would lose.
                if tree::stat(&at.fd, name).is_ok_and(|own| (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)) {
                    return Ok(());
                }
                self.make(at, name, |at| rustix::fs::linkat(&*from.fd, *target_name, at, name, AtFlags::empty()))
                    .map_err(self.os("link", &entry.path))
            }
            (_, Some(Err(e))) if e != Errno::NOENT => Err(self.os("find the target of", &entry.path)(e)),
            _ => {
                self.remembered += (entry.path.len() + entry.link.len()) as u64 + 64;
                self.links.push((entry.path.clone(), entry.link.clone()));
                Ok(())
            }
        }
    }

    fn set_xattrs(&self, at: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| wanted_xattr(key)) {
            let path = [format!("/proc/self/fd/{}/", at.fd.as_raw_fd()).as_bytes(), name].concat();
            tolerate(rustix::fs::lsetxattr(path, key.as_slice(), value, XattrFlags::empty()))
                .map_err(self.os("set an extended attribute of", &entry.path))?;
        }
        Ok(())
    }
}

/// `trusted.overlay.*` of a layer could redirect overlayfs to other directories; labels are the host's business.
fn wanted_xattr(key: &[u8]) -> bool {
    let user =
        key.starts_with(b"user.") && !key.starts_with(b"user.overlay.") && key.len() <= MAX_NAME && !key.contains(&0);
    user || matches!(key, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// A file system without extended attributes, or none of that kind on a symlink: the content is still right.
fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

fn times((seconds, nanos): Mtime) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn own(at: &Place, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(&*at.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
