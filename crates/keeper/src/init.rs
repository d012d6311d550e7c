//! `keeper create`: builds one container and becomes it.
//!
//! Two processes. The *creator* clones the container's init as a child of the keeper (`CLONE_PARENT`), accounts it to its
//! cgroup while that already builds the file system (entering a v1 cgroup waits for all processors, ~10 ms), and ends.
//! The *init* ends in the container's program. Errors go to the keeper over a socket that closes by the exec.
//!
//! Descriptors at start: 0-2 the container's own, 3 the spec, 4 the result, 5 the PID namespace if one is shared, 6 the
//! pod's user namespace if it has one. That is entered last of all: until then this is the host's root.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::passwd::{self, Identity};
use crate::spec::{Cgroup, Create, Field, Process};
use crate::{rootfs, sys};

pub const SPEC_FD: RawFd = 3;
pub const RESULT_FD: RawFd = 4;
pub const EXTRA_FD: RawFd = 5;
pub const USER_FD: RawFd = 6;

/// A message for the one who asked: what was tried and why it failed.
pub type Done<T> = Result<T, String>;

pub trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Done<T>;
}
impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Done<T> {
        self.map_err(|e| format!("{}: {}", what(), reason(&e)))
    }
}

/// The system's text without Rust's ` (os error 2)`, in lower case as everybody else prints it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

pub fn create_main() -> i32 {
    report(create())
}

/// Tells the keeper what went wrong; the exit code is only for people.
pub fn report(result: Done<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(e) => {
            let e = e.as_bytes();
            // What was tried may be as long as an image wants; why it failed stands at the end.
            let (head, tail) = if e.len() > 4000 { (&e[..300], &e[e.len() - 3000..]) } else { (e, &b""[..]) };
            let _ = sys::send_packet(RESULT_FD, &[b"E", head, tail].concat(), &[]);
            1
        }
    }
}

/// Reads the spec and makes this process safe to be seen by containers.
pub fn read_spec<T: Field>() -> Done<T> {
    // Nobody inside may look into this process, its program or its descriptors before it is the container's own.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).tried(|| "hide".into())?;
    for fd in [SPEC_FD, RESULT_FD, EXTRA_FD, USER_FD] {
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    unsafe { libc::umask(0) };
    // SAFETY: the keeper has put the spec here.
    let file = unsafe { OwnedFd::from_raw_fd(SPEC_FD) };
    sys::check(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) } as _).tried(|| "rewind the spec".into())?;
    let bytes = sys::read_to_end(file.as_raw_fd(), 64 << 20).tried(|| "read the spec".into())?;
    T::get(&mut &bytes[..]).ok_or_else(|| "the spec is of another version".into())
}

pub fn set_oom_score(score: Option<i32>) -> Done<()> {
    let Some(wanted) = score else { return Ok(()) };
    match sys::write_file("/proc/self/oom_score_adj", wanted.to_string()) {
        // Lowering it takes CAP_SYS_RESOURCE, which a Sampan inside a container may lack: the inherited one stays.
        Err(e) if sys::errno(&e) == libc::EACCES => Ok(()),
        done => done.tried(|| format!("set oom_score_adj {wanted}")),
    }
}

fn create() -> Done<()> {
    let spec: Create = read_spec()?;
    set_oom_score(spec.oom_score_adj)?;
    if spec.shared_pid {
        sys::setns(EXTRA_FD, libc::CLONE_NEWPID).tried(|| "enter the shared PID namespace".into())?;
    }
    let cgroup = OpenCgroup::open(&spec.cgroup)?;
    let flags = libc::CLONE_NEWNS | if spec.new_pid { libc::CLONE_NEWPID } else { 0 };
    spawn(flags, cgroup, |joined| {
        if spec.cgroup.namespace {
            sys::unshare(libc::CLONE_NEWCGROUP).tried(|| "make the cgroup namespace".into())?;
        }
        let root = rootfs::build(&spec)?;
        let process = &spec.process;
        if process.terminal {
            open_terminal(root.as_raw_fd(), true)?;
        }
        pivot(root.as_raw_fd())?;
        let identity = passwd::resolve(root.as_raw_fd(), &process.user)?;
        if !process.cwd.is_empty() {
            rootfs::make_dir(root.as_raw_fd(), &process.cwd, 0)?;
        }
        joined()?;
        become_program(process, identity, USER_FD, true)
    })
}

/// A process' cgroups, opened while the host's file system is in sight.
pub struct OpenCgroup {
    born_in: Option<OwnedFd>,
    procs: Vec<OwnedFd>,
}

impl OpenCgroup {
    pub fn open(cgroup: &Cgroup) -> Done<Self> {
        let open = |path: &Vec<u8>, flags| {
            sys::open(path, flags, 0).tried(|| format!("open {}", String::from_utf8_lossy(path)))
        };
        let born_in = if cgroup.unified.is_empty() {
            None
        } else {
            Some(open(&cgroup.unified, libc::O_PATH | libc::O_DIRECTORY)?)
        };
        let procs = cgroup.procs.iter().map(|path| open(path, libc::O_WRONLY)).collect::<Done<_>>()?;
        Ok(OpenCgroup { born_in, procs })
    }
}

/// Clones the process that is to become the container's, as the keeper's child, and puts it into its cgroup.
/// `run` gets a function that waits for the latter.
pub fn spawn(flags: i32, cgroup: OpenCgroup, run: impl FnOnce(&dyn Fn() -> Done<()>) -> Done<()>) -> Done<()> {
    let (wait, go) = sys::pipe().tried(|| "make a pipe".into())?;
    let flags = flags as u64 | libc::CLONE_PARENT as u64;
    match sys::clone(flags, cgroup.born_in.as_ref().map(|fd| fd.as_raw_fd())).tried(|| "clone".into())? {
        0 => {
            drop((cgroup, go));
            unsafe { libc::setsid() };
            let joined = || match sys::read_to_end(wait.as_raw_fd(), 1) {
                Ok(byte) if byte.len() == 1 => Ok(()),
                _ => Err("not in its cgroup".into()),
            };
            std::process::exit(report(run(&joined)))
        }
        pid => {
            drop(wait);
            let _ = sys::send_packet(RESULT_FD, format!("P{pid}").as_bytes(), &[]);
            let joined =
                cgroup.procs.iter().try_for_each(|fd| sys::write_all(fd.as_raw_fd(), pid.to_string().as_bytes()));
            if joined.is_err() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            joined.tried(|| "enter the cgroup".into())?;
            sys::write_all(go.as_raw_fd(), b"1").tried(|| "let the container go".into())
        }
    }
}

/// Gives this session a terminal of the container's own devpts and hands its other end to the keeper.
pub fn open_terminal(root: RawFd, console: bool) -> Done<()> {
    let master = sys::open_in_root(root, "/dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY)
        .tried(|| "open /dev/pts/ptmx".into())?;
    let mut locked: libc::c_int = 0;
    sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &mut locked) } as _)
        .tried(|| "unlock the terminal".into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let fd = sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } as _)
        .tried(|| "open the terminal".into())?;
    // SAFETY: the ioctl has just given us this descriptor.
    let slave = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    sys::send_packet(RESULT_FD, b"T", &[master.as_raw_fd()]).tried(|| "hand over the terminal".into())?;
    if console {
        let dev = rootfs::make_dir(root, b"/dev", 0)?;
        let _ = sys::mknodat(dev.as_raw_fd(), b"console", libc::S_IFREG | 0o600, 0);
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let target = sys::openat(dev.as_raw_fd(), "console", flags, 0).tried(|| "open /dev/console".into())?;
        if sys::mode(target.as_raw_fd()).is_ok_and(|mode| mode & libc::S_IFMT == libc::S_IFLNK) {
            return Err("mount /dev/console: it is a link".into()); // into /proc, say
        }
        let tree = sys::open_tree(slave.as_raw_fd(), "", false).tried(|| "copy the terminal".into())?;
        sys::move_mount(tree.as_raw_fd(), target.as_raw_fd()).tried(|| "mount /dev/console".into())?;
    }
    (0..3).try_for_each(|n| sys::dup_to(slave.as_raw_fd(), n)).tried(|| "use the terminal".into())?;
    sys::check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } as _).map(drop).tried(|| "control the terminal".into())
}

/// Makes `root` this process' `/` and lets go of the host's.
fn pivot(root: RawFd) -> Done<()> {
    let dot = c".".as_ptr();
    let steps = || -> io::Result<()> {
        sys::check(unsafe { libc::fchdir(root) } as _)?;
        sys::check(unsafe { libc::syscall(libc::SYS_pivot_root, dot, dot) })?;
        sys::check(unsafe { libc::umount2(dot, libc::MNT_DETACH) } as _)?;
        sys::check(unsafe { libc::chdir(c"/".as_ptr()) } as _).map(drop)
    };
    steps().tried(|| "change the root".into())
}

/// The last steps, from root of the host to the container's user, and exec.
/// Those of a user namespace enter it on the way, by the descriptor `user`, `fresh` ones with mounts of its own.
pub fn become_program(process: &Process, identity: Identity, user: RawFd, fresh: bool) -> Done<()> {
    let Identity { uid, gid, groups, home } = identity;
    let (host_uid, host_gid) = (process.on_host(uid), process.on_host(gid));
    for fd in 0..3 {
        // So that `/dev/stdout` can be opened again by whoever the user is.
        if sys::mode(fd).is_ok_and(|m| m & libc::S_IFMT != libc::S_IFCHR || process.terminal) {
            unsafe { libc::fchown(fd, host_uid, if process.terminal { u32::MAX } else { host_gid }) };
        }
    }
    for limit in &process.rlimits {
        let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
        sys::check(unsafe { libc::prlimit64(0, limit.resource as _, &value, std::ptr::null_mut()) } as _)
            .tried(|| format!("set resource limit {}", limit.resource))?;
    }
    let cwd = if process.cwd.is_empty() { b"/" } else { &process.cwd[..] };
    let chdir = || sys::c(cwd).and_then(|path| sys::check(unsafe { libc::chdir(path.as_ptr()) } as _));
    let changed = chdir().is_ok();
    if !process.apparmor.is_empty() {
        let word = [b"exec ", &process.apparmor[..]].concat();
        sys::write_own_proc("self/attr/apparmor/exec", &word)
            .or_else(|_| sys::write_own_proc("self/attr/exec", &word))
            .tried(|| format!("apply the AppArmor profile {}", String::from_utf8_lossy(&process.apparmor)))?;
    }
    if process.first_id.is_some() {
        sys::setns(user, libc::CLONE_NEWUSER).tried(|| "enter the user namespace".into())?;
        if fresh {
            // The namespace's own, so that a capability in it means something; what is mounted stays where it is.
            sys::unshare(libc::CLONE_NEWNS).tried(|| "make the user namespace's mounts".into())?;
        }
    }
    unsafe { libc::syscall(libc::SYS_keyctl, 1, 0, 0, 0, 0) }; // KEYCTL_JOIN_SESSION_KEYRING: not the host's keys; a kernel without keys has none
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).tried(|| "set no_new_privs".into())?;
    } else {
        // Without no_new_privs a filter takes CAP_SYS_ADMIN, so it must come before the capabilities go.
        seccomp(process)?;
    }
    let mut known = 0u64;
    for capability in 0..64 {
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong) } {
            -1 => break, // past the kernel's last
            held if process.capabilities >> capability & 1 == 1 => known |= (held as u64) << capability,
            _ => sys::prctl(libc::PR_CAPBSET_DROP, capability).tried(|| format!("drop capability {capability}"))?,
        }
    }
    sys::check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) } as _)
        .tried(|| "set the groups".into())?;
    sys::check(unsafe { libc::setresgid(gid, gid, gid) } as _).tried(|| format!("become group {gid}"))?;
    sys::check(unsafe { libc::setresuid(uid, uid, uid) } as _).tried(|| format!("become user {uid}"))?;
    if uid == 0 {
        set_capabilities(known)?;
    }
    if !changed {
        chdir().tried(|| format!("change directory to {}", String::from_utf8_lossy(cwd)))?;
    }
    unsafe { libc::umask(0o022) };
    let mut env = process.env.clone();
    let lacks = |env: &[Vec<u8>], name: &[u8]| !env.iter().any(|e| e.starts_with(name));
    if lacks(&env, b"HOME=") {
        env.push([b"HOME=", &home[..]].concat());
    }
    reset_signals();
    let commands = Commands::new(process, &env)?;
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 4u32) }; // CLOSE_RANGE_CLOEXEC
    if process.no_new_privileges {
        seccomp(process)?;
    }
    Err(commands.exec())
}

/// Signals as a fresh program expects them: the keeper blocks SIGCHLD and ignores others, Rust ignores SIGPIPE.
pub fn reset_signals() {
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// `set` must be within what the bounding set has: more is refused.
fn set_capabilities(set: u64) -> Done<()> {
    let header = [0x2008_0522u32, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
    let (low, high) = (set as u32, (set >> 32) as u32);
    let data = [low, low, 0, high, high, 0]; // effective, permitted, inheritable: low words, then high words
    sys::check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })
        .map(drop)
        .tried(|| "set the capabilities".into())
}

fn seccomp(process: &Process) -> Done<()> {
    if process.seccomp.is_empty() {
        return Ok(());
    }
    let program: Vec<u64> =
        process.seccomp.chunks_exact(8).filter_map(|c| c.try_into().ok()).map(u64::from_ne_bytes).collect();
    let filter = libc::sock_fprog { len: program.len() as _, filter: program.as_ptr() as *mut _ };
    // SECCOMP_SET_MODE_FILTER
    sys::check(unsafe { libc::syscall(libc::SYS_seccomp, 1u32, 0u32, &filter) })
        .map(drop)
        .tried(|| "install the seccomp filter".into())
}

/// The program with its arguments and environment, ready before the filter, which might refuse to allocate.
struct Commands {
    candidates: Vec<CString>,
    searched: bool,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    _owned: Vec<CString>,
}

impl Commands {
    fn new(process: &Process, env: &[Vec<u8>]) -> Done<Self> {
        let strings = |list: &[Vec<u8>]| {
            list.iter().map(sys::c).collect::<io::Result<Vec<_>>>().tried(|| "zero byte in an argument".into())
        };
        let (args, env) = (strings(&process.args)?, strings(env)?);
        let name = args.first().filter(|a| !a.is_empty()).ok_or("no command specified")?.clone();
        let searched = !name.as_bytes().contains(&b'/');
        let path = env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH=")).unwrap_or(b"");
        let candidates = match searched {
            false => vec![name],
            true => path
                .split(|b| *b == b':')
                .filter_map(|dir| {
                    sys::c([if dir.is_empty() { b"." } else { dir }, b"/", name.as_bytes()].concat()).ok()
                })
                .collect(),
        };
        let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        let (argv, envp) = (pointers(&args), pointers(&env));
        Ok(Commands { candidates, searched, argv, envp, _owned: args.into_iter().chain(env).collect() })
    }

    /// Returns only if it failed, with upstream's words.
    fn exec(&self) -> String {
        let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
        for path in &self.candidates {
            unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            let error = io::Error::last_os_error();
            if !matches!(sys::errno(&error), libc::ENOENT | libc::ENOTDIR) {
                worst = error;
                if sys::errno(&worst) != libc::EACCES {
                    break;
                }
            }
        }
        let name = unsafe { std::ffi::CStr::from_ptr(self.argv[0]) }.to_string_lossy();
        match (sys::errno(&worst), self.searched) {
            (libc::ENOENT, true) => format!("exec: {name:?}: executable file not found in $PATH"),
            _ => format!("exec: {name:?}: {}", reason(&worst)),
        }
    }
}
