//! A directory tree that names from outside cannot leave: every step goes from one directory's descriptor to the next,
//! symlinks are read and resolved here, with the tree's root as `/`. (openat2's RESOLVE_IN_ROOT would do the lookups,
//! but not create what is missing on the way, nor exist on the old kernels of old boards.)
//!
//! Nobody else may change the tree meanwhile: it lies in a directory of ours alone.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::{Errno, Result};

const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const MAX_LINKS: usize = 40;

/// Names from the root; none is a symlink.
pub type RealPath = Vec<Box<[u8]>>;

/// An open directory and where it really is.
#[derive(Clone)]
pub struct Place {
    pub fd: Rc<OwnedFd>,
    pub real: RealPath,
}

pub struct Tree {
    root: Rc<OwnedFd>,
    /// The directories of the path last asked for: archives go depth first, so most of it is the next one's path too.
    stack: Vec<(Box<[u8]>, Place)>,
    /// Directories (real paths) made because something in them was wanted, that no entry has described.
    pub implicit: BTreeSet<RealPath>,
    /// About how much memory `implicit` takes.
    pub implicit_bytes: u64,
}

impl Tree {
    pub fn open(path: &Path) -> Result<Tree> {
        let root = Rc::new(rustix::fs::openat(CWD, path, OPEN_DIR, Mode::empty())?);
        Ok(Tree { root, stack: Vec::new(), implicit: BTreeSet::from([Vec::new()]), implicit_bytes: 0 })
    }

    pub fn root(&self) -> Place {
        Place { fd: self.root.clone(), real: Vec::new() }
    }

    /// The directory of that path; missing parts are created if `create`.
    pub fn dir(&mut self, path: &[&[u8]], create: bool) -> Result<Place> {
        let known = self.stack.iter().zip(path).take_while(|((name, _), part)| **name == ***part).count();
        self.stack.truncate(known);
        for part in &path[known..] {
            let at = self.stack.last().map_or_else(|| self.root(), |(_, place)| place.clone());
            let mut links = MAX_LINKS;
            let place = self.step(at, part, create, &mut links)?;
            self.stack.push(((*part).into(), place));
        }
        Ok(self.stack.last().map_or_else(|| self.root(), |(_, place)| place.clone()))
    }

    fn step(&mut self, at: Place, name: &[u8], create: bool, links: &mut usize) -> Result<Place> {
        let mut real = at.real.clone();
        real.push(name.into());
        match rustix::fs::openat(&*at.fd, name, OPEN_DIR, Mode::empty()) {
            Ok(fd) => return Ok(Place { fd: Rc::new(fd), real }),
            Err(Errno::NOENT) if create => rustix::fs::mkdirat(&*at.fd, name, Mode::from(0o755))?,
            Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::readlinkat(&*at.fd, name, Vec::new()) {
                Ok(target) => return self.follow(at, target.as_bytes(), create, links),
                Err(Errno::INVAL) if create && is_whiteout(&stat(&at.fd, name)?) => {
                    // Removed below, and made anew here: nothing of the lower directory may shine through.
                    rustix::fs::unlinkat(&*at.fd, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&*at.fd, name, Mode::from(0o755))?;
                    set_opaque(at.fd.as_fd(), name)?;
                }
                Err(Errno::INVAL) => return Err(Errno::NOTDIR),
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        }
        self.implicit_bytes += path_bytes(&real);
        self.implicit.insert(real.clone());
        let fd = rustix::fs::openat(&*at.fd, name, OPEN_DIR, Mode::empty())?;
        Ok(Place { fd: Rc::new(fd), real })
    }

    fn follow(&mut self, from: Place, target: &[u8], create: bool, links: &mut usize) -> Result<Place> {
        *links = links.checked_sub(1).ok_or(Errno::LOOP)?;
        let mut at = if target.starts_with(b"/") { self.root() } else { from };
        let mut parts: VecDeque<&[u8]> = target.split(|b| *b == b'/').collect();
        while let Some(part) = parts.pop_front() {
            match part {
                b"" | b"." => {}
                b".." => {
                    at.real.pop();
                    at = self.open_real(&at.real)?;
                }
                name => at = self.step(at, name, create, links)?,
            }
        }
        Ok(at)
    }

    /// The directory of a real path; fails if a symlink stands anywhere in it.
    pub fn open_real(&self, real: &[Box<[u8]>]) -> Result<Place> {
        let mut fd = self.root.clone();
        for name in real {
            fd = Rc::new(rustix::fs::openat(&*fd, &**name, OPEN_DIR, Mode::empty())?);
        }
        Ok(Place { fd, real: real.to_vec() })
    }

    /// Removes whatever has that name, so that something else may.
    pub fn remove(&mut self, at: &Place, name: &[u8]) -> Result<()> {
        self.stack.clear();
        remove_tree(at.fd.as_fd(), name)
    }
}

fn remove_tree(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let dir = rustix::fs::openat(at, name, READ_DIR, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            remove_tree(dir.as_fd(), entry.file_name().to_bytes())?;
        }
    }
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
}

/// About how much memory a path takes.
pub fn path_bytes(real: &RealPath) -> u64 {
    real.iter().map(|name| name.len() as u64 + 32).sum::<u64>() + 64
}

pub fn stat(at: &OwnedFd, name: &[u8]) -> Result<Stat> {
    rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// overlayfs' sign for "removed": a character device 0/0.
pub fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// overlayfs' sign for "nothing of the layers below".
pub fn set_opaque(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let dir = rustix::fs::openat(at, name, READ_DIR, Mode::empty())?;
    rustix::fs::fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

pub fn is_opaque(at: BorrowedFd<'_>, name: &[u8]) -> bool {
    let mut value = [0; 8];
    rustix::fs::openat(at, name, READ_DIR, Mode::empty())
        .and_then(|dir| rustix::fs::fgetxattr(&dir, "trusted.overlay.opaque", &mut value))
        .is_ok_and(|n| value.get(..n) == Some(b"y"))
}

pub fn read_dir(at: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Dir)> {
    let fd = rustix::fs::openat(at, name, READ_DIR, Mode::empty())?;
    let dir = Dir::read_from(&fd)?;
    Ok((fd, dir))
}
