//! Directories, mounts and owners: the part that touches the disk. Blocking.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{MountFlags, UnmountFlags},
};

use super::{Error, Mounted, io_error, payload::Payload, write};

pub enum Job {
    HostPath { path: PathBuf, kind: String },
    Local { path: PathBuf, create: bool, readonly: bool, block: bool, group: Option<u32>, on_root_mismatch: bool },
    EmptyDir { dir: PathBuf, memory: bool, limit_bytes: Option<u64>, mode: u32, group: Option<u32> },
    Files { dir: PathBuf, payload: Payload, memory: bool, group: Option<u32>, stamp: String },
}

impl Job {
    pub fn run(self) -> Result<Mounted, Error> {
        let plain = |host_path| Mounted { host_path, readonly: false, block: false };
        match self {
            Self::HostPath { path, kind } => {
                host_path(&path, &kind)?;
                Ok(plain(path))
            }
            Self::Local { path, create, readonly, block, group, on_root_mismatch } => {
                if create {
                    fs::create_dir_all(&path).map_err(io_error("create", &path))?;
                }
                fs::metadata(&path).map_err(io_error("find the volume's path", &path))?;
                if let Some(group) = group.filter(|_| !readonly && !block) {
                    own(&path, group, on_root_mismatch).map_err(io_error("set the group of", &path))?;
                }
                Ok(Mounted { host_path: path, readonly, block })
            }
            Self::EmptyDir { dir, memory, limit_bytes, mode, group } => {
                let fresh = !dir.exists();
                fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
                if memory {
                    tmpfs(&dir, limit_bytes)?;
                }
                if fresh || memory {
                    let mode = if group.is_some() { mode | 0o2000 } else { mode };
                    chown(&dir, None, group).map_err(io_error("set the group of", &dir))?;
                    fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                        .map_err(io_error("set the mode of", &dir))?;
                }
                Ok(plain(dir))
            }
            Self::Files { dir, payload, memory, group, stamp } => {
                fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
                if memory {
                    tmpfs(&dir, None)?;
                }
                let mode = if group.is_some() { 0o2777 } else { 0o777 };
                chown(&dir, None, group).map_err(io_error("set the group of", &dir))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                    .map_err(io_error("set the mode of", &dir))?;
                write::write(&dir, &payload, group, &stamp).map_err(io_error("write the files of", &dir))?;
                Ok(Mounted { host_path: dir, readonly: true, block: false })
            }
        }
    }
}

/// Mounts a tmpfs there, unless one is mounted.
fn tmpfs(dir: &Path, limit_bytes: Option<u64>) -> Result<(), Error> {
    if is_mount_point(dir) {
        return Ok(());
    }
    let options = match limit_bytes {
        Some(limit) => format!("mode=0777,size={limit}"),
        None => "mode=0777".to_owned(),
    };
    let options = CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", dir, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(|error| io_error("mount a tmpfs on", dir)(error.into()))
}

pub fn is_mount_point(dir: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (fs::metadata(dir), dir.parent().map(fs::metadata)) else { return false };
    own.dev() != parent.dev() || mounts_below(dir).iter().any(|at| at == dir)
}

/// Mount points at or below a directory, the deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|at| PathBuf::from(unescape(at)))
        .filter(|at| at.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// `\040` and the like, as mountinfo writes spaces.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

pub fn unmount_below(dir: &Path) -> Result<(), Error> {
    for at in mounts_below(dir) {
        match rustix::mount::unmount(&at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(io_error("unmount", &at)(error.into())),
        }
    }
    Ok(())
}

fn host_path(path: &Path, kind: &str) -> Result<(), Error> {
    let found = fs::metadata(path).map(|meta| meta.file_type());
    let expect = |is: bool, expected: &'static str| {
        if is { Ok(()) } else { Err(Error::HostPathType { path: path.display().to_string(), expected }) }
    };
    match kind {
        "DirectoryOrCreate" if found.is_err() => {
            fs::create_dir_all(path).map_err(io_error("create", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error("set the mode of", path))
        }
        "FileOrCreate" if found.is_err() => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(io_error("create", path)),
        "" => {
            // Without a type a missing path becomes a directory, as container runtimes do for a bind's source.
            if found.is_err() { fs::create_dir_all(path).map_err(io_error("create", path)) } else { Ok(()) }
        }
        "Directory" | "DirectoryOrCreate" => expect(found.is_ok_and(|kind| kind.is_dir()), "directory"),
        "File" | "FileOrCreate" => expect(found.is_ok_and(|kind| kind.is_file()), "file"),
        "Socket" => expect(found.is_ok_and(|kind| kind.is_socket()), "socket"),
        "CharDevice" => expect(found.is_ok_and(|kind| kind.is_char_device()), "character device"),
        "BlockDevice" => expect(found.is_ok_and(|kind| kind.is_block_device()), "block device"),
        _ => expect(false, "known hostPath type"),
    }
}

/// Gives a tree to a group, as upstream's `SetVolumeOwnership`: rw for files, setgid for directories.
fn own(path: &Path, group: u32, on_root_mismatch: bool) -> io::Result<()> {
    let root = fs::symlink_metadata(path)?;
    if on_root_mismatch && root.gid() == group && root.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    fn walk(path: &Path, group: u32) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        if meta.file_type().is_symlink() {
            return std::os::unix::fs::lchown(path, None, Some(group));
        }
        if meta.is_dir() {
            for entry in fs::read_dir(path)?.flatten() {
                walk(&entry.path(), group)?;
            }
        }
        chown(path, None, Some(group))?;
        let more = if meta.is_dir() { 0o2770 } else { 0o660 };
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777 | more))
    }
    walk(path, group)
}

/// A place inside of a volume, bound to `target`: opened without following a link out of the volume, made if it is
/// missing, and bound by its descriptor so that nobody can put another thing there in between.
pub fn bind_subpath(volume: &Path, sub_path: &str, target: &Path) -> Result<(), Error> {
    let whole = volume.join(sub_path);
    let failed = |error: rustix::io::Errno| io_error("open the subPath", &whole)(error.into());
    let root =
        rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let open = || {
        rustix::fs::openat2(
            &root,
            sub_path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let found = match open() {
        Err(rustix::io::Errno::NOENT) => {
            make_below(&root, sub_path).map_err(failed)?;
            open().map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    if is_mount_point(target) {
        unmount_below(target)?;
    }
    let is_dir = rustix::fs::fstat(&found)
        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        .unwrap_or(false);
    if is_dir {
        fs::create_dir_all(target).map_err(io_error("create", target))?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        OpenOptions::new().create(true).append(true).open(target).map_err(io_error("create", target))?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(&*source, target).map_err(|error| io_error("bind the subPath to", target)(error.into()))
}

/// `mkdir -p` that never leaves `root`.
fn make_below(root: &std::os::fd::OwnedFd, sub_path: &str) -> Result<(), rustix::io::Errno> {
    let mut made = String::new();
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let parent = if made.is_empty() { ".".to_owned() } else { made.clone() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat2(
            root,
            &parent,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )?;
        match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        if !made.is_empty() {
            made.push('/');
        }
        made.push_str(part);
    }
    Ok(())
}
