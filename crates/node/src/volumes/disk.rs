//! Directories, mounts and owners: the part that touches the disk. Blocking.

use std::ffi::{CStr, CString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Error, Mounted, commands, io_error, payload::Payload, write};

pub enum Job {
    /// There is nothing to do any more.
    Stands(Mounted),
    /// `kind` is the hostPath's type: `DirectoryOrCreate`.
    HostPath { path: PathBuf, kind: String },
    /// A PersistentVolume that is a directory or a device of this machine.
    Local { path: PathBuf, create: bool, readonly: bool, block: bool, owner: Option<Owner> },
    /// A file system that `mount` mounts; a device is given one first if it has none.
    Mount {
        dir: PathBuf,
        kind: String,
        source: String,
        options: Vec<String>,
        device: bool,
        readonly: bool,
        owner: Option<Owner>,
    },
    /// On the disk, or in memory.
    EmptyDir { dir: PathBuf, memory: Option<Memory>, mode: u32, group: Option<u32> },
    /// Files that change as one; `stamp` names their version.
    Files { dir: PathBuf, payload: Payload, memory: bool, group: Option<u32>, stamp: String },
}

/// What is read of a file at most.
const MAX_READ_BYTES: u64 = 1 << 20;

/// A file system that is no disk's.
pub enum Memory {
    /// 0: no limit.
    Tmpfs { limit_bytes: u64 },
    /// `2Mi`.
    HugePages { size: String },
}

impl Job {
    pub fn run(self) -> Result<Mounted, Error> {
        let plain = |host_path| Mounted { host_path, ..Mounted::default() };
        match self {
            Self::Stands(mounted) => Ok(mounted),
            Self::HostPath { path, kind } => {
                host_path(&path, &kind)?;
                Ok(plain(path))
            }
            Self::Local { path, create, readonly, block, owner } => {
                if create {
                    fs::create_dir_all(&path).map_err(io_error("create", &path))?;
                }
                fs::metadata(&path).map_err(io_error("find the volume's path", &path))?;
                if let Some(owner) = owner.filter(|_| !readonly && !block) {
                    own(&path, &owner).map_err(io_error("set the group of", &path))?;
                }
                Ok(Mounted { readonly, block, ..plain(path) })
            }
            Self::Mount { dir, kind, source, options, device, readonly, owner } => {
                fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
                if !is_mounted(&dir) {
                    commands::mount(&dir, &kind, &source, &options, device)?;
                    if let Some(owner) = owner.filter(|_| !readonly) {
                        own(&dir, &owner).map_err(io_error("set the group of", &dir))?;
                    }
                }
                Ok(Mounted { readonly, ..plain(dir) })
            }
            Self::EmptyDir { dir, memory, mode, group } => {
                let fresh = !dir.exists();
                fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
                match &memory {
                    Some(Memory::Tmpfs { limit_bytes }) => {
                        mount(&dir, c"tmpfs", &format!("mode=0777,size={limit_bytes}"))?
                    }
                    Some(Memory::HugePages { size }) => mount(&dir, c"hugetlbfs", &format!("pagesize={size}"))?,
                    None => {}
                }
                if fresh || memory.is_some() {
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
                    mount(&dir, c"tmpfs", "mode=0777")?;
                }
                let mode = if group.is_some() { 0o2777 } else { 0o777 };
                chown(&dir, None, group).map_err(io_error("set the group of", &dir))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                    .map_err(io_error("set the mode of", &dir))?;
                write::write(&dir, &payload, group, &stamp).map_err(io_error("write the files of", &dir))?;
                Ok(Mounted { readonly: true, ..plain(dir) })
            }
        }
    }
}

/// Mounts a file system without a source there, unless one is mounted.
fn mount(dir: &Path, kind: &CStr, options: &str) -> Result<(), Error> {
    if is_mount_point(dir) {
        return Ok(());
    }
    let options = CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(kind, dir, kind, flags, Some(options.as_c_str()))
        .map_err(|error| io_error("mount a file system on", dir)(error.into()))
}

pub fn is_mount_point(dir: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (fs::metadata(dir), dir.parent().map(fs::metadata)) else { return false };
    own.dev() != parent.dev() || is_mounted(dir)
}

/// As the kernel's table says it: the file system itself, which may hang, is not asked.
pub fn is_mounted(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|at| at == dir)
}

/// Mount points at or below a directory, the deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(|at| PathBuf::from(unescape(at)));
    let mut found: Vec<PathBuf> = points.filter(|at| at.starts_with(dir)).collect();
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

pub fn host_path(path: &Path, kind: &str) -> Result<(), Error> {
    let found = fs::metadata(path).map(|meta| meta.file_type());
    type Is = fn(&fs::FileType) -> bool;
    let expect = |is: Is, expected: &'static str| {
        let shown = path.display().to_string();
        match fs::metadata(path).map(|meta| meta.file_type()) {
            Ok(kind) if is(&kind) => Ok(()),
            Ok(kind) => Err(Error::HostPathType { path: shown, expected, is: name(&kind) }),
            Err(source) => Err(Error::NoHostPath { path: shown, expected, source }),
        }
    };
    match kind {
        "DirectoryOrCreate" if found.is_err() => {
            fs::create_dir_all(path).map_err(io_error("create", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error("set the mode of", path))
        }
        "FileOrCreate" if found.is_err() => {
            let made = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
            made.map(drop).map_err(io_error("create", path))
        }
        "" => {
            // Without a type a missing path becomes a directory, as container runtimes do for a bind's source.
            if found.is_err() { fs::create_dir_all(path).map_err(io_error("create", path)) } else { Ok(()) }
        }
        "Directory" | "DirectoryOrCreate" => expect(fs::FileType::is_dir, "directory"),
        "File" | "FileOrCreate" => expect(fs::FileType::is_file, "file"),
        "Socket" => expect(FileTypeExt::is_socket, "socket file"),
        "CharDevice" => expect(FileTypeExt::is_char_device, "character device"),
        "BlockDevice" => expect(FileTypeExt::is_block_device, "block device"),
        _ => expect(|_| false, "known hostPath type"),
    }
}

/// As `hostPath.type` calls it.
fn name(kind: &fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "Directory",
        kind if kind.is_socket() => "Socket",
        kind if kind.is_char_device() => "CharDevice",
        kind if kind.is_block_device() => "BlockDevice",
        _ => "File",
    }
}

/// A pod's fsGroup, and whether only a volume whose root is another group's is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub group: u32,
    pub on_root_mismatch: bool,
}

/// Gives a tree to a group, as upstream's `SetVolumeOwnership`: rw for files, setgid for directories.
pub fn own(path: &Path, &Owner { group, on_root_mismatch }: &Owner) -> io::Result<()> {
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
    let open = || open_beneath(&root, sub_path, OFlags::PATH);
    let found = match open() {
        Err(rustix::io::Errno::NOENT) => {
            // As open to the pod's user and group as the volume itself.
            let mode = rustix::fs::fstat(&root).map_err(failed)?.st_mode;
            make_below(&root, sub_path, Mode::from_raw_mode(mode & 0o7777)).map_err(failed)?;
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

/// Opens a path whose links do not leave the directory.
fn open_beneath(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A file inside of a volume.
pub fn read_beneath(volume: &Path, path: &str) -> io::Result<String> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let file = open_beneath(&root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(fs::File::from(file), MAX_READ_BYTES), &mut text)?;
    Ok(text)
}

/// `mkdir -p` that never leaves `root`.
fn make_below(root: &OwnedFd, sub_path: &str, mode: Mode) -> Result<(), rustix::io::Errno> {
    let mut made = String::new();
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let parent = if made.is_empty() { ".".to_owned() } else { made.clone() };
        let dir = open_beneath(root, &parent, OFlags::PATH | OFlags::DIRECTORY)?;
        match rustix::fs::mkdirat(&dir, part, mode) {
            // The umask is not the pod's. By descriptor: a container may have put a link there meanwhile.
            Ok(()) => rustix::fs::fchmod(open_beneath(&dir, part, OFlags::RDONLY | OFlags::NOFOLLOW)?, mode)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        if !made.is_empty() {
            made.push('/');
        }
        made.push_str(part);
    }
    Ok(())
}
