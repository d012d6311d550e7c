//! The second half of unpacking, when all lower layers are complete: directories that no entry described take the
//! owner and mode they have below, hard links to lower files become copies, directory times are set. And the survey
//! that later tells whether a layer on disk is still what was put there.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ring::digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::tree::{self, Place, RealPath, Tree};
use super::{Unpacked, times};
use crate::images::blobs::check_space;
use crate::images::digest::Digest;
use crate::images::error::{Error, Result};

/// `lower`: the layers below, topmost first.
pub fn settle(layer: &Digest, dir: &Path, unpacked: Unpacked, lower: &[PathBuf], reserve: u64) -> Result<Survey> {
    let io = |doing: &'static str| move |e: Errno| Error::Io { doing, path: dir.into(), source: e.into() };
    let mut own = Tree::open(dir).map_err(io("open"))?;
    let mut below = Vec::new();
    for path in lower {
        below.push(Tree::open(path).map_err(|e| Error::Io { doing: "open", path: path.clone(), source: e.into() })?);
    }
    let mut copies = Copies { made: HashMap::new(), dir, reserve };
    for (path, target) in &unpacked.links {
        let missing = || Error::Entry {
            layer: layer.to_string(),
            path: String::from_utf8_lossy(path).chars().take(300).collect(),
            why: "it is a hard link to a file that does not exist",
        };
        if !copies.link(&mut own, &mut below, path, target)? {
            return Err(missing());
        }
    }
    let implicit = unpacked.implicit.into_iter().chain(std::mem::take(&mut own.implicit));
    for real in implicit {
        // A later entry may have replaced it.
        let Some((at, name)) = locate(&own, &real) else { continue };
        let mut set = || match dir_below(&mut below, &real) {
            Some(stat) => {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::chownat(&*at.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(&*at.fd, name, Mode::from(stat.st_mode & 0o7777), AtFlags::empty())?;
                rustix::fs::utimensat(&*at.fd, name, &stat_times(&stat), AtFlags::SYMLINK_NOFOLLOW)
            }
            // Nothing says what it is: the same on every node, whatever its clock and umask.
            None => {
                rustix::fs::chmodat(&*at.fd, name, Mode::from(0o755), AtFlags::empty())?;
                rustix::fs::utimensat(&*at.fd, name, &times((0, 0)), AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        set().map_err(io("set the owner, mode and time of directories in"))?;
    }
    for (real, mtime) in &unpacked.dir_times {
        let Some((at, name)) = locate(&own, real) else { continue };
        rustix::fs::utimensat(&*at.fd, name, &times(*mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(io("set times in"))?;
    }
    survey(dir)
}

/// A directory as a name in its parent, if it is one (still).
fn locate<'a>(own: &Tree, real: &'a [Box<[u8]>]) -> Option<(Place, &'a [u8])> {
    let (at, name): (Place, &[u8]) = match real.split_last() {
        Some((name, parent)) => (own.open_real(parent).ok()?, name),
        None => (own.root(), b"."),
    };
    (tree::file_type(&tree::stat(&at.fd, name).ok()?) == FileType::Directory).then_some((at, name))
}

fn stat_times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// The directory of that real path as the stack below shows it.
fn dir_below(below: &mut [Tree], real: &[Box<[u8]>]) -> Option<Stat> {
    for layer in below {
        let mut at = layer.root();
        if real.is_empty() {
            return tree::stat(&at.fd, b".").ok();
        }
        let mut hidden = false;
        for (i, name) in real.iter().enumerate() {
            let Ok(stat) = tree::stat(&at.fd, name) else { break };
            if tree::file_type(&stat) != FileType::Directory {
                return None;
            }
            hidden |= tree::is_opaque(at.fd.as_fd(), name);
            if i + 1 == real.len() {
                return Some(stat);
            }
            at = layer.open_real(&real[..=i]).ok()?;
        }
        if hidden {
            return None;
        }
    }
    None
}

/// A directory and a name in it.
type Copied = (Place, Box<[u8]>);

/// Copies of lower files that hard links of this layer asked for: one each, however many links.
struct Copies<'a> {
    made: HashMap<RealPath, Copied>,
    dir: &'a Path,
    reserve: u64,
}

impl Copies<'_> {
    /// Makes `path` a further name of `target`; false if there is no such file.
    fn link(&mut self, own: &mut Tree, below: &mut [Tree], path: &[u8], target: &[u8]) -> Result<bool> {
        let parts = |path: &[u8]| -> RealPath {
            path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).map(Into::into).collect()
        };
        let io = |e: Errno| Error::Io { doing: "link in", path: self.dir.into(), source: e.into() };
        let (path, target) = (parts(path), parts(target));
        let (Some((name, above)), Some((target_name, target_above))) = (path.split_last(), target.split_last()) else {
            return Ok(false);
        };
        let above: Vec<&[u8]> = above.iter().map(|p| &**p).collect();
        let target_above: Vec<&[u8]> = target_above.iter().map(|p| &**p).collect();
        let at = own.dir(&above, true).map_err(io)?;
        if tree::stat(&at.fd, name).is_ok() {
            // A later entry took the place.
            return Ok(true);
        }
        // The target may have come later in this very archive, or been copied for another link.
        let from = match self.made.get(&target) {
            Some((place, name)) => Some((place.clone(), name.clone())),
            None => own.dir(&target_above, false).ok().map(|place| (place, target_name.clone())),
        };
        if let Some((from, from_name)) = from
            && let Ok(stat) = tree::stat(&from.fd, &from_name)
        {
            if tree::is_whiteout(&stat) || tree::file_type(&stat) == FileType::Directory {
                return Ok(false);
            }
            rustix::fs::linkat(&*from.fd, &*from_name, &*at.fd, &**name, AtFlags::empty()).map_err(io)?;
            return Ok(true);
        }
        for layer in below {
            let Ok(from) = layer.dir(&target_above, false) else { continue };
            let Ok(stat) = tree::stat(&from.fd, target_name) else { continue };
            if tree::file_type(&stat) != FileType::RegularFile {
                return Ok(false);
            }
            check_space(self.dir, stat.st_size as u64, self.reserve)?;
            copy_file(&from, target_name, &stat, &at, name).map_err(io)?;
            self.made.insert(target, (at, name.clone()));
            return Ok(true);
        }
        Ok(false)
    }
}

fn copy_file(from: &Place, from_name: &[u8], stat: &Stat, to: &Place, name: &[u8]) -> rustix::io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(&*from.fd, from_name, read, Mode::empty())?);
    let mut target = File::from(rustix::fs::openat(&*to.fd, name, write, Mode::from(0o600))?);
    std::io::copy(&mut source, &mut target)
        .map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&target, Mode::from(stat.st_mode & 0o7777))?;
    let mut capability = [0; 64];
    if let Ok(n) = rustix::fs::fgetxattr(&source, "security.capability", &mut capability) {
        let value = capability.get(..n).unwrap_or_default();
        rustix::fs::fsetxattr(&target, "security.capability", value, rustix::fs::XattrFlags::empty())?;
    }
    rustix::fs::futimens(&target, &stat_times(stat))
}

/// What a layer's directory amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub inodes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// A sum over all names with their kinds, owners, modes, sizes, times and link targets; contents are not read.
    pub fingerprint: String,
}

pub fn survey(dir: &Path) -> Result<Survey> {
    let mut sum = Sum { inodes: 0, disk_bytes: 0, fingerprint: 0 };
    let mut look = || -> rustix::io::Result<()> {
        let tree = Tree::open(dir)?;
        let root = tree.root();
        sum.add(root.fd.as_fd(), b".", &tree::stat(&root.fd, b".")?, b"")?;
        walk(root.fd.as_fd(), b".", &mut Vec::new(), &mut sum)
    };
    look().map_err(|e| Error::Io { doing: "read", path: dir.into(), source: e.into() })?;
    let fingerprint = format!("{:032x}", sum.fingerprint);
    Ok(Survey { inodes: sum.inodes, disk_bytes: sum.disk_bytes, fingerprint })
}

struct Sum {
    inodes: u64,
    disk_bytes: u64,
    /// Wrapping sum of the entries' hashes: their order does not matter.
    fingerprint: u128,
}

impl Sum {
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn add(&mut self, at: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &[u8]) -> rustix::io::Result<()> {
        self.inodes += 1;
        // A file of several names is counted once in sum.
        let links = if tree::file_type(stat) == FileType::Directory { 1 } else { (stat.st_nlink as u64).max(1) };
        self.disk_bytes += stat.st_blocks as u64 * 512 / links;
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(path);
        context.update(&[0]);
        let size = if tree::file_type(stat) == FileType::RegularFile { stat.st_size as u64 } else { 0 };
        let facts = [
            u64::from(stat.st_mode),
            u64::from(stat.st_uid) << 32 | u64::from(stat.st_gid),
            size,
            stat.st_rdev as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec as u64,
        ];
        for fact in facts {
            context.update(&fact.to_le_bytes());
        }
        if tree::file_type(stat) == FileType::Symlink {
            context.update(rustix::fs::readlinkat(at, name, Vec::new())?.as_bytes());
        }
        let mut half = [0; 16];
        half.copy_from_slice(&context.finish().as_ref()[..16]);
        self.fingerprint = self.fingerprint.wrapping_add(u128::from_le_bytes(half));
        Ok(())
    }
}

fn walk(at: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>, sum: &mut Sum) -> rustix::io::Result<()> {
    let (fd, entries) = tree::read_dir(at, name)?;
    let length = path.len();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        path.push(b'/');
        path.extend_from_slice(name);
        let stat = tree::stat(&fd, name)?;
        sum.add(fd.as_fd(), name, &stat, path)?;
        if tree::file_type(&stat) == FileType::Directory {
            walk(fd.as_fd(), name, path, sum)?;
        }
        path.truncate(length);
    }
    Ok(())
}
