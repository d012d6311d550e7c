//! A container's file system, put together in its own mount namespace, so that nothing is left to undo.
//!
//! Targets are resolved beneath the container's root by the kernel (`openat2`), mounts are made detached and then moved
//! onto the place that was resolved: no path is looked up twice, no link of the image leads to the host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::init::{Done, Tried, USER_FD};
use crate::spec::{Create, Device, Mount, PROPAGATION_SHARED, PROPAGATION_SLAVE, Root};
use crate::sys;

const DEV_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// On the host, who is root in the container that is built.
static ROOT: AtomicU32 = AtomicU32::new(0);

/// Builds everything and returns the root. The caller is alone in a new mount namespace.
pub fn build(spec: &Create) -> Done<OwnedFd> {
    let mapped = spec.process.first_id.is_some();
    ROOT.store(spec.process.on_host(0), Ordering::Relaxed);
    // A mount that is to show through to the host must be copied while this namespace is still the host's peer.
    let mut trees: Vec<Option<OwnedFd>> = Vec::with_capacity(spec.mounts.len());
    for m in &spec.mounts {
        let shared = m.fstype.is_empty() && m.propagation == PROPAGATION_SHARED;
        trees.push(if shared {
            Some(sys::open_tree(libc::AT_FDCWD, &m.source, true).tried(|| format!("open {}", show(&m.source)))?)
        } else {
            None
        });
    }
    sys::mount(b"", b"/", b"", libc::MS_REC | libc::MS_SLAVE, b"")
        .tried(|| "leave the host's mount propagation".into())?;
    let root = overlay(&spec.root, mapped)?;
    for path in &spec.root.writable {
        // A mount of its own, which the root's becoming read-only does not concern.
        let dir = make_dir(root.as_raw_fd(), path, 0)?;
        let tree = sys::open_tree(dir.as_raw_fd(), "", false).tried(|| format!("copy {}", show(path)))?;
        sys::move_mount(tree.as_raw_fd(), dir.as_raw_fd()).tried(|| format!("mount {}", show(path)))?;
    }
    for (m, tree) in spec.mounts.iter().zip(trees) {
        place(root.as_raw_fd(), m, tree, mapped).map_err(|e| {
            format!(
                "mount {} on {}: {e}",
                show(if m.fstype.is_empty() { &m.source } else { &m.fstype }),
                show(&m.target)
            )
        })?;
    }
    let root_fd = root.as_raw_fd();
    if spec.mounts.iter().any(|m| m.target == b"/dev" && !m.fstype.is_empty()) {
        for (target, link) in DEV_LINKS {
            let (dir, name) = parent(root_fd, link.as_bytes())?;
            match sys::symlinkat(target.as_bytes(), dir.as_raw_fd(), name) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(format!("link {link}: {e}")),
                _ => give_to_root(dir.as_raw_fd(), name)?,
            }
        }
    }
    for device in &spec.devices {
        make_device(root_fd, device).map_err(|e| format!("device {}: {e}", show(&device.path)))?;
    }
    for path in &spec.readonly_paths {
        over(root_fd, path, |place| {
            let tree = sys::open_tree(place, "", true)?;
            sys::mount_setattr(tree.as_raw_fd(), sys::MOUNT_ATTR_RDONLY, 0, true)?;
            Ok(tree)
        })?;
    }
    for path in &spec.masked_paths {
        over(root_fd, path, |place| match sys::is_dir(place)? {
            true => sys::new_fs(
                b"tmpfs",
                b"tmpfs",
                &[b"nr_blocks=1".to_vec(), b"nr_inodes=2".to_vec()],
                sys::MOUNT_ATTR_RDONLY,
            ),
            false => sys::open_tree(libc::AT_FDCWD, "/dev/null", false),
        })?;
    }
    if spec.root.readonly {
        sys::mount_setattr(root_fd, sys::MOUNT_ATTR_RDONLY, 0, false).tried(|| "make the root read-only".into())?;
    }
    Ok(root)
}

/// Mounts the layers; the work directory is scratch, lost with the machine, so nobody waits for it to reach a disk.
fn overlay(root: &Root, mapped: bool) -> Done<OwnedFd> {
    let open =
        |path: &Vec<u8>| sys::open(path, libc::O_PATH | libc::O_DIRECTORY, 0).tried(|| format!("open {}", show(path)));
    // Short names: the option string of a deep image must fit into one page.
    let mut lower = root.lower.iter().map(open).collect::<Done<Vec<_>>>()?;
    if mapped {
        lower = map_layers(&lower, root)?;
    }
    let (upper, work) = (open(&root.upper)?, open(&root.work)?);
    let fd_path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let names: Vec<String> = lower.iter().map(fd_path).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", names.join(":"), fd_path(&upper), fd_path(&work));
    let mount = |options: &str| sys::mount(b"overlay", &root.target, b"overlay", 0, options.as_bytes());
    mount(&format!("{options},volatile"))
        .or_else(|e| if sys::errno(&e) == libc::EINVAL { mount(&options) } else { Err(e) })
        .tried(|| format!("mount the overlay of {} layers", lower.len()))?;
    open(&root.target)
}

/// The layers with their owners those of the user namespace. overlayfs takes such mounts where they are attached only:
/// beneath the root to be.
fn map_layers(lower: &[OwnedFd], root: &Root) -> Done<Vec<OwnedFd>> {
    let below = sys::new_fs(b"tmpfs", b"tmpfs", &[], 0).tried(|| "make a place for the layers".into())?;
    let place = sys::open(&root.target, libc::O_PATH | libc::O_DIRECTORY, 0).tried(|| "open the root".into())?;
    sys::move_mount(below.as_raw_fd(), place.as_raw_fd()).tried(|| "make a place for the layers".into())?;
    let map = |(n, layer): (usize, &OwnedFd)| -> io::Result<OwnedFd> {
        let tree = sys::open_tree(layer.as_raw_fd(), "", false)?;
        sys::map_ids(tree.as_raw_fd(), USER_FD, false)?;
        let name = n.to_string();
        sys::mkdirat(below.as_raw_fd(), name.as_bytes(), 0o755)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        sys::move_mount(tree.as_raw_fd(), sys::openat(below.as_raw_fd(), &name, flags, 0)?.as_raw_fd())?;
        sys::openat(below.as_raw_fd(), &name, flags, 0)
    };
    lower.iter().enumerate().map(map).collect::<io::Result<_>>().tried(|| "map the owners of the layers".into())
}

fn place(root: RawFd, m: &Mount, ready: Option<OwnedFd>, mapped: bool) -> Done<()> {
    let bind = m.fstype.is_empty();
    let made = match ready {
        Some(tree) => Ok(tree),
        None if bind => sys::open_tree(libc::AT_FDCWD, &m.source, true),
        None => sys::new_fs(&m.fstype, &m.source, &m.options, m.attributes),
    };
    let tree = match made {
        Err(e) if m.optional && matches!(sys::errno(&e), libc::ENOENT | libc::ENODEV) => return Ok(()),
        made => made.tried(|| "prepare".into())?,
    };
    if bind && mapped && m.mapped {
        sys::map_ids(tree.as_raw_fd(), USER_FD, true).tried(|| "map its owners to the user namespace".into())?;
    }
    if bind {
        let propagation = match m.propagation {
            PROPAGATION_SHARED | PROPAGATION_SLAVE => 0,
            _ => sys::PRIVATE,
        };
        sys::mount_setattr(tree.as_raw_fd(), 0, propagation, true).tried(|| "set its propagation".into())?;
        if m.attributes != 0 {
            sys::mount_setattr(tree.as_raw_fd(), m.attributes, 0, m.recursive).tried(|| "set its attributes".into())?;
        }
    }
    let is_dir = sys::is_dir(tree.as_raw_fd()).tried(|| "stat".into())?;
    let target = if matches!(&m.fstype[..], b"proc" | b"sysfs") {
        // An image must not choose another place for these.
        make_dir(root, &m.target, 0)?;
        sys::open_in_root(root, &m.target, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .tried(|| "open the target".into())?
    } else {
        let target = make_target(root, &m.target, is_dir)?;
        if sys::is_proc(target.as_raw_fd()).tried(|| "statfs".into())? {
            return Err("refused: it is inside /proc".into());
        }
        target
    };
    sys::move_mount(tree.as_raw_fd(), target.as_raw_fd()).tried(|| "attach".into())
}

/// Covers `path`, if it exists, by the mount that `make` gives.
fn over(root: RawFd, path: &[u8], make: impl Fn(RawFd) -> io::Result<OwnedFd>) -> Done<()> {
    let cover = || -> io::Result<()> {
        let place = sys::open_in_root(root, path, libc::O_PATH)?;
        sys::move_mount(make(place.as_raw_fd())?.as_raw_fd(), place.as_raw_fd())
    };
    match cover() {
        Err(e) if !matches!(sys::errno(&e), libc::ENOENT | libc::ENOTDIR) => Err(format!("cover {}: {e}", show(path))),
        _ => Ok(()),
    }
}

fn make_device(root: RawFd, device: &Device) -> Done<()> {
    let (dir, name) = parent(root, &device.path)?;
    let number = libc::makedev(device.major, device.minor);
    match sys::mknodat(dir.as_raw_fd(), name, device.mode, number) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.tried(|| "make".into())?,
    }
    let name = sys::c(name).tried(|| "name".into())?;
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    sys::check(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), device.uid, device.gid, flags) } as _)
        .map(drop)
        .tried(|| "chown".into())
}

/// The directory that `path` is to stand in, made if missing, and its last name.
fn parent(root: RawFd, path: &[u8]) -> Done<(OwnedFd, &[u8])> {
    let path = trim(path);
    let at = path.iter().rposition(|b| *b == b'/').ok_or("not an absolute path")?;
    Ok((make_dir(root, &path[..at], 0)?, &path[at + 1..]))
}

/// Opens a mount's target; what is missing becomes a directory or an empty file.
fn make_target(root: RawFd, path: &[u8], is_dir: bool) -> Done<OwnedFd> {
    if is_dir {
        return make_dir(root, path, 0);
    }
    match sys::open_in_root(root, path, libc::O_PATH) {
        Err(e) if sys::errno(&e) == libc::ENOENT => {}
        found => return found.tried(|| "open the target".into()),
    }
    let (dir, name) = parent(root, path)?;
    sys::mknodat(dir.as_raw_fd(), name, libc::S_IFREG | 0o644, 0).tried(|| "make the target".into())?;
    give_to_root(dir.as_raw_fd(), name)?;
    sys::open_in_root(root, path, libc::O_PATH).tried(|| "open the target".into())
}

/// Opens a directory beneath `root`, making what is missing, also where a dangling link points to (`/var/run -> /run`).
pub fn make_dir(root: RawFd, path: &[u8], links: u32) -> Done<OwnedFd> {
    let path = trim(path);
    let open = || sys::open_in_root(root, if path.is_empty() { b"/" } else { path }, libc::O_PATH | libc::O_DIRECTORY);
    match open() {
        Err(e) if sys::errno(&e) == libc::ENOENT && links < 16 => {}
        found => return found.tried(|| format!("open the directory {}", show(path))),
    }
    let at = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    let dir = make_dir(root, &path[..at], links)?;
    let name = path[at..].strip_prefix(b"/").unwrap_or(path);
    match sys::mkdirat(dir.as_raw_fd(), name, 0o755) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mut link = [0u8; 4096];
            let cname = sys::c(name).tried(|| "name".into())?;
            let n = sys::check(unsafe {
                libc::readlinkat(dir.as_raw_fd(), cname.as_ptr(), link.as_mut_ptr().cast(), link.len())
            } as _)
            .tried(|| format!("follow {}", show(path)))? as usize;
            let target = if link[0] == b'/' { link[..n].to_vec() } else { [&path[..at], b"/", &link[..n]].concat() };
            make_dir(root, &target, links + 1)
        }
        made => {
            made.tried(|| format!("make the directory {}", show(path)))?;
            give_to_root(dir.as_raw_fd(), name)?;
            open().tried(|| format!("open the directory {}", show(path)))
        }
    }
}

/// What is made for a container is its root's.
fn give_to_root(dir: RawFd, name: &[u8]) -> Done<()> {
    let owner = ROOT.load(Ordering::Relaxed);
    let give = || {
        let name = sys::c(name)?;
        sys::check(unsafe { libc::fchownat(dir, name.as_ptr(), owner, owner, libc::AT_SYMLINK_NOFOLLOW) } as _)
    };
    if owner == 0 { Ok(()) } else { give().map(drop).tried(|| format!("give {} to root", show(name))) }
}

fn trim(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1)]
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
