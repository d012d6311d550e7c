//! System calls with Rust's faces: every one returns `io::Result`, descriptors are owned and close on exec.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub use crate::packets::{receive_packet, send_packet};

pub const MOUNT_ATTR_RDONLY: u64 = 1;
/// `MS_PRIVATE`, which `mount_setattr` takes as 64 bits on every machine.
pub const PRIVATE: u64 = 1 << 18;
pub const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_BENEATH: u64 = 0x08;

/// A C string of bytes; whatever follows a zero byte is an error, never silently cut.
pub fn c(bytes: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(bytes.as_ref()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: a successful call has just given us this descriptor.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

pub fn open(path: impl AsRef<[u8]>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    openat(libc::AT_FDCWD, path, flags, mode)
}

pub fn openat(dir: RawFd, path: impl AsRef<[u8]>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let path = c(path)?;
    owned(unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) } as libc::c_long)
}

/// Opens `path` as if `root` were `/`: neither `..` nor any symbolic link leads out of it.
pub fn open_in_root(root: RawFd, path: impl AsRef<[u8]>, flags: i32) -> io::Result<OwnedFd> {
    openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// Writes a file of `/proc` that a container may have mounted something on or before: it is proc's own, or an error.
pub fn write_own_proc(path: &str, content: &[u8]) -> io::Result<()> {
    let proc = open("/proc", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    if !is_proc(proc.as_raw_fd())? {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    let resolve = RESOLVE_NO_XDEV | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    write_all(openat2(proc.as_raw_fd(), path, libc::O_WRONLY, resolve)?.as_raw_fd(), content)
}

pub fn is_proc(fd: RawFd) -> io::Result<bool> {
    const PROC_SUPER_MAGIC: libc::c_long = 0x9fa0;
    let mut fs: libc::statfs = unsafe { zeroed() };
    check(unsafe { libc::fstatfs(fd, &mut fs) } as _)?;
    Ok(fs.f_type as libc::c_long == PROC_SUPER_MAGIC)
}

fn openat2(root: RawFd, path: impl AsRef<[u8]>, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    /// A rename or a mount anywhere on the machine may make the kernel unsure of a `..`; it then wants to be asked again.
    const TRIES: usize = 1000;
    let path = c(path)?;
    let how = [(flags | libc::O_CLOEXEC) as u64, 0, resolve];
    let size = size_of::<[u64; 3]>();
    let open = || owned(unsafe { libc::syscall(libc::SYS_openat2, root, path.as_ptr(), how.as_ptr(), size) });
    let mut opened = open();
    for _ in 1..TRIES {
        match &opened {
            Err(e) if errno(e) == libc::EAGAIN => opened = open(),
            _ => break,
        }
    }
    opened
}

pub fn mkdirat(dir: RawFd, name: &[u8], mode: u32) -> io::Result<()> {
    let name = c(name)?;
    check(unsafe { libc::mkdirat(dir, name.as_ptr(), mode) } as _).map(drop)
}

pub fn mknodat(dir: RawFd, name: &[u8], mode: u32, dev: u64) -> io::Result<()> {
    let name = c(name)?;
    check(unsafe { libc::mknodat(dir, name.as_ptr(), mode, dev as _) } as _).map(drop)
}

pub fn symlinkat(target: &[u8], dir: RawFd, name: &[u8]) -> io::Result<()> {
    let (target, name) = (c(target)?, c(name)?);
    check(unsafe { libc::symlinkat(target.as_ptr(), dir, name.as_ptr()) } as _).map(drop)
}

/// The file's mode, type bits included.
pub fn mode(fd: RawFd) -> io::Result<u32> {
    let mut stat: libc::stat = unsafe { zeroed() };
    check(unsafe { libc::fstat(fd, &mut stat) } as _)?;
    Ok(stat.st_mode as u32)
}

pub fn is_dir(fd: RawFd) -> io::Result<bool> {
    Ok(mode(fd)? & libc::S_IFMT == libc::S_IFDIR)
}

pub fn read_to_end(fd: RawFd, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match check(unsafe { libc::read(fd, chunk.as_mut_ptr().cast(), chunk.len()) } as _)? as usize {
            0 => return Ok(out),
            n => out.extend_from_slice(&chunk[..n]),
        }
        if out.len() > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
    }
}

pub fn write_file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let fd = open(path, libc::O_WRONLY, 0)?;
    write_all(fd.as_raw_fd(), content.as_ref())
}

pub fn write_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as _) {
            Ok(n) => bytes = &bytes[n as usize..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } as _)?;
    Ok((owned(fds[0] as _)?, owned(fds[1] as _)?))
}

pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } as _)?;
    Ok((owned(fds[0] as _)?, owned(fds[1] as _)?))
}

pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) } as _)?;
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags as i32 | libc::O_NONBLOCK) } as _).map(drop)
}

/// Makes `fd` the descriptor `number`, open across exec.
pub fn dup_to(fd: RawFd, number: RawFd) -> io::Result<()> {
    if fd == number {
        return check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } as _).map(drop);
    }
    check(unsafe { libc::dup2(fd, number) } as _).map(drop)
}

/// Like fork, by clone3: 0 in the child. Only for a process of one thread. With `cgroup`, the child is born in it.
pub fn clone(flags: u64, cgroup: Option<RawFd>) -> io::Result<libc::pid_t> {
    let mut args = [0u64; 11]; // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, …, cgroup
    args[0] = flags | cgroup.map_or(0, |_| 0x2_0000_0000); // CLONE_INTO_CGROUP
    // CLONE_PARENT inherits the exit signal and refuses one of its own.
    args[4] = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    args[10] = cgroup.map_or(0, |fd| fd as u64);
    check(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of::<[u64; 11]>()) }).map(|pid| pid as _)
}

pub fn unshare(flags: i32) -> io::Result<()> {
    check(unsafe { libc::unshare(flags) } as _).map(drop)
}

pub fn setns(fd: RawFd, flags: i32) -> io::Result<()> {
    check(unsafe { libc::setns(fd, flags) } as _).map(drop)
}

pub fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub fn kill(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    check(unsafe { libc::kill(pid, signal) } as _).map(drop)
}

pub fn prctl(option: i32, a: u64) -> io::Result<()> {
    check(
        unsafe { libc::prctl(option, a as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) }
            as _,
    )
    .map(drop)
}

/// `mount(2)`.
pub fn mount(source: &[u8], target: &[u8], fstype: &[u8], flags: libc::c_ulong, data: &[u8]) -> io::Result<()> {
    let (source, target, fstype, data) = (c(source)?, c(target)?, c(fstype)?, c(data)?);
    let data = data.as_ptr().cast();
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data) } as _).map(drop)
}

/// A detached copy of the mount tree at `path`.
pub fn open_tree(dir: RawFd, path: impl AsRef<[u8]>, recursive: bool) -> io::Result<OwnedFd> {
    let path = c(path)?;
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC as u32
        | libc::AT_EMPTY_PATH as u32
        | if recursive { AT_RECURSIVE } else { 0 };
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount on the place that `target` is.
pub fn move_mount(tree: RawFd, target: RawFd) -> io::Result<()> {
    let empty = c"".as_ptr();
    // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, 0x44u32) }).map(drop)
}

/// Sets attributes and, unless 0, the propagation (`MS_PRIVATE`…) of a mount.
pub fn mount_setattr(tree: RawFd, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    set_attributes(tree, [set, 0, propagation, 0], recursive)
}

/// Shows a mount's files as those of the user namespace's owners of the same numbers.
pub fn map_ids(tree: RawFd, user_namespace: RawFd, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    set_attributes(tree, [MOUNT_ATTR_IDMAP, 0, 0, user_namespace as u64], recursive)
}

fn set_attributes(tree: RawFd, attributes: [u64; 4], recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    let (empty, size) = (c"".as_ptr(), size_of::<[u64; 4]>());
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, tree, empty, flags, attributes.as_ptr(), size) }).map(drop)
}

/// A new detached file system.
pub fn new_fs(fstype: &[u8], source: &[u8], options: &[Vec<u8>], attributes: u64) -> io::Result<OwnedFd> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    let fstype = c(fstype)?;
    let fs = owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), 1u32) })?;
    let config = |command: u32, key: Option<&[u8]>, value: Option<&[u8]>| -> io::Result<()> {
        let (key, value) = (key.map(c).transpose()?, value.map(c).transpose()?);
        let pointer = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
        let (key, value) = (pointer(&key), pointer(&value));
        check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) }).map(drop)
    };
    if !source.is_empty() {
        config(SET_STRING, Some(b"source"), Some(source))?;
    }
    for option in options {
        match option.iter().position(|b| *b == b'=') {
            Some(at) => config(SET_STRING, Some(&option[..at]), Some(&option[at + 1..]))?,
            None => config(SET_FLAG, Some(option), None)?,
        }
    }
    config(CREATE, None, None)?;
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1u32, attributes as u32) })
}

/// Wall clock in nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let mut now: libc::timespec = unsafe { zeroed() };
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
