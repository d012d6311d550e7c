//! An image's files on a directory: image volumes.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Images, Rootfs};

impl Images {
    /// Mounts an image's layers read-only on a directory that is made, unless they stand there.
    pub fn show(&self, rootfs: &Rootfs, target: &Path) -> io::Result<()> {
        fs::create_dir_all(target)?;
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        if target.parent().map(device).transpose()? != Some(device(target)?) {
            return Ok(());
        }
        // By descriptors: names would not fit into one page. Without an upper directory the kernel wants two at least.
        let empty = self.layers_dir().join("empty/fs");
        let open = |path: &PathBuf| open_path(path);
        let open = rootfs.lower.iter().chain([&empty]).map(open).collect::<io::Result<Vec<_>>>()?;
        let names: Vec<String> = open.iter().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd())).collect();
        let options = CString::new(format!("lowerdir={}", names.join(":")))?;
        // Programs in it may be run, as with other runtimes.
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        Ok(mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?)
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

/// Where a path lies in what is shown at `root`, its links resolved as if that were `/`.
pub fn beneath(root: &Path, path: &str) -> io::Result<PathBuf> {
    let at = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(open_path(root)?, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), at)?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Takes away what is shown at the directories in `dir`, and `dir`.
pub fn hide_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = unmount(entry.path(), UnmountFlags::DETACH);
        fs::remove_dir(entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
