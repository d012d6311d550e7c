//! What a keeper does once: leave Sampan's process tree, make the pod's namespaces, start the pause child.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use crate::init::{Done, Tried, reset_signals};
use crate::sys;

/// Names inside the pod's run directory; `runtime` knows them too.
pub const SOCKET: &str = "keeper.sock";
pub const NET: &str = "net";
pub const SHM: &str = "shm";
/// nobody's id: the pause child must own nothing.
const PAUSE_ID: u32 = 65535;

/// The words of the command line, `key=value` each.
#[derive(Default)]
pub struct Options {
    /// The pod's run directory.
    pub dir: Vec<u8>,
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    /// A PID namespace for all the pod's containers.
    pub pid: bool,
    hostname: Vec<u8>,
    sysctls: Vec<Vec<u8>>,
    /// A user namespace: on the host the first of its ids, and how many they are.
    users: Option<(u32, u32)>,
    /// It, once it is made.
    pub user_namespace: Option<OwnedFd>,
    /// Bytes of `/dev/shm`; 0 for none of its own.
    shm: u64,
    /// v1: `cgroup.procs` files to enter.
    cgroups: Vec<Vec<u8>>,
    /// v2: the directory to be born in.
    cgroup2: Vec<u8>,
}

impl Options {
    pub fn parse(args: &[OsString]) -> Done<Options> {
        let mut o = Options::default();
        for arg in args {
            let arg = arg.as_bytes();
            let at = arg.iter().position(|b| *b == b'=').ok_or("not key=value")?;
            let (key, value) = (&arg[..at], arg[at + 1..].to_vec());
            match key {
                b"dir" => o.dir = value,
                b"net" => o.net = true,
                b"ipc" => o.ipc = true,
                b"uts" => o.uts = true,
                b"pid" => o.pid = true,
                b"hostname" => o.hostname = value,
                b"sysctl" => o.sysctls.push(value),
                b"users" => {
                    let mut numbers = value.split(|b| *b == b':').map(crate::wire::number);
                    let first = numbers.next().flatten().zip(numbers.next().flatten());
                    o.users = Some(first.ok_or("users is not first:count")?);
                }
                b"shm" => o.shm = crate::wire::number(&value).ok_or("shm is no number")?,
                b"cgroup2" => o.cgroup2 = value,
                b"cgroup" => o.cgroups.push(value),
                _ => return Err(format!("unknown option {}", String::from_utf8_lossy(key))),
            }
        }
        if o.dir.is_empty() { Err("dir is missing".into()) } else { Ok(o) }
    }

    fn path(&self, name: &str) -> Vec<u8> {
        [&self.dir[..], b"/", name.as_bytes()].concat()
    }
}

/// Becomes nobody's child and everybody's reaper. Descriptor 1 stays: the parent waits for [`Status`] there.
pub fn detach(o: &Options) -> Done<()> {
    let cgroup = sys::open(&o.cgroup2, libc::O_PATH | libc::O_DIRECTORY, 0).ok();
    // Being born elsewhere costs nothing; moving there waits for all processors.
    let born = cgroup.as_ref().map(|fd| sys::clone(0, Some(fd.as_raw_fd())));
    unsafe {
        match born.and_then(Result::ok).unwrap_or_else(|| libc::fork()) {
            -1 => return Err(io::Error::last_os_error()).tried(|| "fork".into()),
            0 => {}
            _ => libc::_exit(0),
        }
        libc::setsid();
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
        libc::umask(0o022);
        // Shutdown ends keepers by SIGKILL, after the containers: they log until their end.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let null = sys::open("/dev/null", libc::O_RDWR, 0).tried(|| "open /dev/null".into())?;
    sys::dup_to(null.as_raw_fd(), 0).tried(|| "use /dev/null".into())?;
    sys::dup_to(null.as_raw_fd(), 2).tried(|| "use /dev/null".into())?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).tried(|| "become the reaper".into())?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0).tried(|| "hide".into())?;
    let _ = sys::write_file("/proc/self/oom_score_adj", "-999"); // takes CAP_SYS_RESOURCE
    Ok(())
}

/// Tells the parent that the pod is ready, or why not, and lets go of it.
pub fn tell(result: &Done<()>) {
    let text = match result {
        Ok(()) => "ok".to_string(),
        Err(e) => e.clone(),
    };
    let _ = sys::write_all(1, text.as_bytes());
    let _ = sys::dup_to(0, 1);
}

/// Makes the pod's namespaces; the keeper is in them, so what it starts is too.
pub fn make_namespaces(o: &mut Options) -> Done<()> {
    let flag = |on: bool, flag| if on { flag } else { 0 };
    let all = flag(o.net, libc::CLONE_NEWNET) | flag(o.ipc, libc::CLONE_NEWIPC) | flag(o.uts, libc::CLONE_NEWUTS);
    match o.users {
        None => sys::unshare(all).tried(|| "make the pod's namespaces".into())?,
        Some(users) => o.user_namespace = Some(enter_those_of_users(users, all)?),
    }
    if o.uts && !o.hostname.is_empty() {
        sys::check(unsafe { libc::sethostname(o.hostname.as_ptr().cast(), o.hostname.len()) } as _)
            .tried(|| "set the hostname".into())?;
    }
    if o.net {
        loopback_up().tried(|| "bring up the loopback device".into())?;
        let pin = o.path(NET);
        sys::open(&pin, libc::O_CREAT | libc::O_RDONLY, 0o444).tried(|| "make the namespace's file".into())?;
        sys::mount(b"/proc/self/ns/net", &pin, b"", libc::MS_BIND, b"").tried(|| "pin the network namespace".into())?;
    }
    if o.shm > 0 {
        let shm = o.path(SHM);
        let made = sys::mkdirat(libc::AT_FDCWD, &shm, 0o1777);
        made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
            .tried(|| "make shm".into())?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let root = o.users.map_or(0, |(first, _)| first);
        let options = format!("mode=1777,size={},uid={root},gid={root}", o.shm);
        sys::mount(b"shm", &shm, b"tmpfs", flags, options.as_bytes()).tried(|| "mount shm".into())?;
    }
    match &o.user_namespace {
        None => set_sysctls(&o.sysctls),
        Some(users) => set_sysctls_inside(&o.sysctls, users),
    }
}

/// As the namespace's own root, to whom alone some of them are writable.
fn set_sysctls_inside(sysctls: &[Vec<u8>], users: &OwnedFd) -> Done<()> {
    let (read, write) = sys::pipe().tried(|| "make a pipe".into())?;
    let child = sys::clone(0, None).tried(|| "fork".into())?;
    if child == 0 {
        let set = || -> Done<()> {
            sys::setns(users.as_raw_fd(), libc::CLONE_NEWUSER).tried(|| "enter the user namespace".into())?;
            sys::check(unsafe { libc::setresgid(0, 0, 0) } as _).tried(|| "become its root".into())?;
            sys::check(unsafe { libc::setresuid(0, 0, 0) } as _).tried(|| "become its root".into())?;
            set_sysctls(sysctls)
        };
        if let Err(e) = set() {
            let _ = sys::write_all(write.as_raw_fd(), e.as_bytes());
        }
        unsafe { libc::_exit(0) }
    }
    drop(write);
    let said = sys::read_to_end(read.as_raw_fd(), 4096);
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let said = said.tried(|| "set sysctls".into())?;
    if said.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

fn set_sysctls(sysctls: &[Vec<u8>]) -> Done<()> {
    for sysctl in sysctls {
        let at = sysctl.iter().position(|b| *b == b'=').ok_or("sysctl is not name=value")?;
        let (name, value) = (&sysctl[..at], &sysctl[at + 1..]);
        // `net.ipv4.x`, or `net/ipv4/x` where a name has dots of its own.
        let slashes = name
            .iter()
            .position(|b| *b == b'/')
            .is_some_and(|s| name.iter().position(|b| *b == b'.').is_none_or(|d| s < d));
        let path: Vec<u8> = name.iter().map(|b| if *b == b'.' && !slashes { b'/' } else { *b }).collect();
        if path.split(|b| *b == b'/').any(|part| part == b".." || part.is_empty()) {
            return Err(format!("bad sysctl {}", String::from_utf8_lossy(name)));
        }
        sys::write_file([b"/proc/sys/", &path[..]].concat(), value)
            .tried(|| format!("set sysctl {}", String::from_utf8_lossy(sysctl)))?;
    }
    Ok(())
}

/// Makes a user namespace and others that are its own, and enters the others: the keeper stays the host's root.
fn enter_those_of_users((first, count): (u32, u32), others: i32) -> Done<OwnedFd> {
    let (wait, go) = sys::pipe().tried(|| "make a pipe".into())?;
    let child = sys::clone(others as u64 | libc::CLONE_NEWUSER as u64, None)
        .tried(|| "make the pod's user namespace".into())?;
    if child == 0 {
        drop(go);
        let _ = sys::read_to_end(wait.as_raw_fd(), 0);
        unsafe { libc::_exit(0) }
    }
    let enter = || -> Done<OwnedFd> {
        for map in ["uid_map", "gid_map"] {
            sys::write_file(format!("/proc/{child}/{map}"), format!("0 {first} {count}"))
                .tried(|| format!("write the user namespace's {map}"))?;
        }
        let open = |name: &str| {
            sys::open(format!("/proc/{child}/ns/{name}"), libc::O_RDONLY, 0).tried(|| format!("open namespace {name}"))
        };
        let kinds = [(libc::CLONE_NEWNET, "net"), (libc::CLONE_NEWIPC, "ipc"), (libc::CLONE_NEWUTS, "uts")];
        for (flag, name) in kinds.into_iter().filter(|(flag, _)| others & flag != 0) {
            sys::setns(open(name)?.as_raw_fd(), flag).tried(|| format!("enter namespace {name}"))?;
        }
        open("user")
    };
    let entered = enter();
    drop(go);
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    entered
}

/// `keeper probe DIRECTORY`: whether this kernel and the directory's file system take pods with user namespaces
/// and their volumes.
pub fn probe(dir: &OsString) -> i32 {
    let try_it = || -> Done<()> {
        let users = enter_those_of_users((65536, 65536), 0)?;
        let tree = sys::open_tree(libc::AT_FDCWD, dir.as_bytes(), false).tried(|| "copy the mount".into())?;
        sys::map_ids(tree.as_raw_fd(), users.as_raw_fd(), false).tried(|| "map its owners".into())?;
        // Kernels before 6.3 do that, but not for volumes in memory.
        let memory = sys::new_fs(b"tmpfs", b"tmpfs", &[], 0).tried(|| "make a tmpfs".into())?;
        sys::map_ids(memory.as_raw_fd(), users.as_raw_fd(), false).tried(|| "map a tmpfs' owners".into())
    };
    match try_it() {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            1
        }
    }
}

/// Undoes the mounts; whoever still uses them keeps them.
pub fn release(o: &Options) {
    for name in [NET, SHM] {
        if let Ok(path) = sys::c(o.path(name)) {
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
        }
    }
}

fn loopback_up() -> io::Result<()> {
    let socket = sys::check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } as _)?;
    // SAFETY: just opened.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as RawFd) };
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as _;
    request.ifr_name[1] = b'o' as _;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
    sys::check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } as _).map(drop)
}

/// Enters the v1 cgroups of keepers. Entering waits for all processors, so it comes after the parent has its answer.
pub fn enter_cgroups(o: &Options) {
    for procs in &o.cgroups {
        let _ = sys::write_file(procs, "0");
    }
}

/// Starts the first process of a shared PID namespace: without rights, deaf to signals, it only reaps.
pub fn start_pause(o: &Options) -> Done<(libc::pid_t, OwnedFd)> {
    let empty = o.path("empty");
    let _ = sys::mkdirat(libc::AT_FDCWD, &empty, 0o555);
    let pid = sys::clone(libc::CLONE_NEWPID as u64, None).tried(|| "make the pod's PID namespace".into())?;
    if pid == 0 {
        let _ = pause(&empty, o.user_namespace.as_ref());
        unsafe { libc::_exit(1) };
    }
    let namespace =
        sys::open(format!("/proc/{pid}/ns/pid"), libc::O_RDONLY, 0).tried(|| "open the PID namespace".into())?;
    Ok((pid, namespace))
}

fn pause(empty: &[u8], users: Option<&OwnedFd>) -> io::Result<()> {
    let empty = sys::c(empty)?;
    sys::check(unsafe { libc::chroot(empty.as_ptr()) } as _)?;
    sys::check(unsafe { libc::chdir(c"/".as_ptr()) } as _)?;
    users.map_or(Ok(()), |users| sys::setns(users.as_raw_fd(), libc::CLONE_NEWUSER))?;
    unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
    sys::check(unsafe { libc::setgroups(0, std::ptr::null()) } as _)?;
    sys::check(unsafe { libc::setresgid(PAUSE_ID, PAUSE_ID, PAUSE_ID) } as _)?;
    sys::check(unsafe { libc::setresuid(PAUSE_ID, PAUSE_ID, PAUSE_ID) } as _)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    sys::prctl(libc::PR_SET_NAME, c"pause".as_ptr() as u64)?;
    reset_signals();
    unsafe {
        // Ignored SIGCHLD: the kernel reaps for us.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            libc::pause();
        }
    }
}
