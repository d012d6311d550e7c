//! Removing what a container has left, however deep: neither our stack nor our descriptors end before its directories do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Directories one in another that are walked; what is deeper is moved to the top first.
const DEPTH: usize = 64;
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory and everything in it. One that is not there is no error.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match rustix::fs::openat(CWD, path, OPEN, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0;
    loop {
        let before = moved;
        clear(top.as_fd(), top.as_fd(), 0, &mut moved)?;
        match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if moved > before => {}
            done => return Ok(done?),
        }
    }
}

fn clear(dir: BorrowedFd<'_>, top: BorrowedFd<'_>, depth: usize, moved: &mut u64) -> rustix::io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) if depth < DEPTH => {
                let inner = rustix::fs::openat(dir, name, OPEN, Mode::empty())?;
                clear(inner.as_fd(), top, depth + 1, moved)?;
                rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::ISDIR) => loop {
                *moved += 1;
                match rustix::fs::renameat(dir, name, top, format!("deep-{moved}")) {
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    done => break done?,
                }
            },
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
