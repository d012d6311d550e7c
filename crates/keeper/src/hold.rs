//! `keeper hold`: one pod's holder, an event loop of one thread that sleeps unless something happens.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::cri_log::Log;
use crate::housekeeping::{self, Options};
use crate::init::{Done, Tried, reason};
use crate::{sys, wire};

mod ends;
mod output;

const MAX_CONNECTIONS: usize = 32;
const MAX_CHILDREN: usize = 1024;

/// What an epoll token means; the index follows.
mod kind {
    pub const LISTEN: u64 = 0;
    pub const SIGNAL: u64 = 1;
    pub const CONNECTION: u64 = 2;
    pub const RESULT: u64 = 3;
    pub const OUTPUT: u64 = 4;
    pub const DRAINED: u64 = 5;
}

pub fn main(args: &[OsString]) -> i32 {
    let mut options = match Options::parse(args) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("keeper: {e}");
            return 2;
        }
    };
    let made = housekeeping::detach(&options)
        .and_then(|()| housekeeping::make_namespaces(&mut options))
        .and_then(|()| Keeper::new(options));
    match made {
        Ok(mut keeper) => {
            housekeeping::tell(&Ok(()));
            housekeeping::enter_cgroups(&keeper.options);
            keeper.run()
        }
        Err(e) => {
            housekeeping::tell(&Err(e));
            1
        }
    }
}

struct Connection {
    fd: OwnedFd,
    /// Replies go to a connection, never to its successor in the same slot.
    serial: u64,
}

/// Where the answer to a request goes.
#[derive(Clone, Copy)]
struct Asker {
    serial: u64,
    request: u32,
}

struct Attached {
    serial: u64,
    outputs: [Option<OwnedFd>; 2],
    stdin: bool,
}

#[derive(Default)]
struct Output {
    fd: Option<OwnedFd>,
    part: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Starting,
    Running,
    Exited,
}

/// A container, or a process of an exec.
struct Child {
    id: Vec<u8>,
    exec: bool,
    state: State,
    asker: Asker,
    result: Option<OwnedFd>,
    failure: Option<String>,
    pid: libc::pid_t,
    /// Its wait status, once it is reaped.
    status: Option<i32>,
    terminal: bool,
    /// stdout and stderr; a terminal is the first.
    outputs: [Output; 2],
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    log: Option<Log>,
    attached: Vec<Attached>,
    started_ns: u64,
    finished_ns: u64,
    oom: bool,
    exit_path: Vec<u8>,
    oom_path: Vec<u8>,
    /// `cgroup.procs`, to kill what is left when there is no PID namespace to do it.
    sweep_path: Vec<u8>,
}

struct Keeper {
    options: Options,
    epoll: OwnedFd,
    signals: OwnedFd,
    listener: OwnedFd,
    pause: Option<(libc::pid_t, OwnedFd)>,
    connections: Vec<Option<Connection>>,
    serial: u64,
    children: Vec<Option<Child>>,
    /// Reaped before their creator could name them.
    strays: Vec<(libc::pid_t, i32)>,
    quit: Option<Asker>,
}

impl Keeper {
    fn new(options: Options) -> Done<Keeper> {
        let pause = if options.pid { Some(housekeeping::start_pause(&options)?) } else { None };
        let make = |result: libc::c_long| -> io::Result<OwnedFd> {
            // SAFETY: a descriptor that the kernel has just made.
            sys::check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
        };
        let epoll = make(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as _).tried(|| "epoll".into())?;
        let signals = make(unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as _
        })
        .tried(|| "signalfd".into())?;
        let listener = listen(&options.dir).tried(|| "listen".into())?;
        let keeper = Keeper {
            options,
            epoll,
            signals,
            listener,
            pause,
            connections: Vec::new(),
            serial: 0,
            children: Vec::new(),
            strays: Vec::new(),
            quit: None,
        };
        keeper.watch(keeper.listener.as_raw_fd(), kind::LISTEN, 0, libc::EPOLLIN);
        keeper.watch(keeper.signals.as_raw_fd(), kind::SIGNAL, 0, libc::EPOLLIN);
        Ok(keeper)
    }

    fn run(&mut self) -> i32 {
        loop {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // One at a time: no later event of a batch can name what an earlier one has removed.
            if unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, -1) } < 1 {
                continue;
            }
            let (what, index) = (event.u64 >> 32, (event.u64 & 0xffff_ffff) as usize);
            match what {
                kind::LISTEN => self.accept(),
                kind::SIGNAL => self.reap(),
                kind::CONNECTION => self.receive(index),
                kind::RESULT => self.read_result(index),
                kind::OUTPUT => self.read_output(index / 2, index % 2),
                kind::DRAINED => self.resume(index / 2, index % 2),
                _ => {}
            }
            if let (Some(asker), false) = (self.quit, self.children.iter().flatten().any(|c| c.state != State::Exited))
            {
                housekeeping::release(&self.options);
                if let Ok(path) = sys::c([&self.options.dir[..], b"/", housekeeping::SOCKET.as_bytes()].concat()) {
                    unsafe { libc::unlink(path.as_ptr()) };
                }
                self.reply(asker, &[b"ok"], &[]);
                return 0;
            }
        }
    }

    fn watch(&self, fd: RawFd, what: u64, index: usize, events: i32) {
        let mut event = libc::epoll_event { events: events as u32, u64: what << 32 | index as u64 };
        let added = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        if added < 0 {
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, fd, &mut event) };
        }
    }

    fn unwatch(&self, fd: RawFd) {
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    // Connections

    fn accept(&mut self) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = unsafe { libc::accept4(self.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        if fd < 0 {
            return;
        }
        // SAFETY: just accepted.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let slot = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        if slot >= MAX_CONNECTIONS {
            return;
        }
        if slot == self.connections.len() {
            self.connections.push(None);
        }
        self.serial += 1;
        self.watch(fd.as_raw_fd(), kind::CONNECTION, slot, libc::EPOLLIN);
        self.connections[slot] = Some(Connection { fd, serial: self.serial });
    }

    fn receive(&mut self, slot: usize) {
        let Some(connection) = &self.connections[slot] else { return };
        let serial = connection.serial;
        let mut buffer = [0u8; wire::MAX_MESSAGE / 4];
        let mut fds = Vec::new();
        match sys::receive_packet(connection.fd.as_raw_fd(), &mut buffer, &mut fds) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) | Ok(0) => self.disconnect(slot),
            Ok(n) => {
                let Some((request, fields)) = wire::decode(&buffer[..n]) else { return self.disconnect(slot) };
                let asker = Asker { serial, request };
                match self.handle(asker, &fields, fds) {
                    Ok(Some(fields)) => self.reply(asker, &fields.iter().map(|f| &f[..]).collect::<Vec<_>>(), &[]),
                    Ok(None) => {}
                    Err(e) => self.reply(asker, &[b"err", e.as_bytes()], &[]),
                }
            }
        }
    }

    fn disconnect(&mut self, slot: usize) {
        let Some(gone) = self.connections[slot].take() else { return };
        for child in self.children.iter_mut().flatten() {
            if child.stdin_once && child.attached.iter().any(|a| a.serial == gone.serial && a.stdin) {
                child.stdin = None;
            }
            child.attached.retain(|a| a.serial != gone.serial);
        }
        // Whoever waited for those who are gone waits no longer.
        for index in 0..self.children.len() {
            self.resume(index, 0);
            self.resume(index, 1);
        }
    }

    fn reply(&mut self, asker: Asker, fields: &[&[u8]], fds: &[RawFd]) {
        let message = wire::encode(asker.request, fields);
        if let Some(slot) = self.connections.iter().position(|c| c.as_ref().is_some_and(|c| c.serial == asker.serial)) {
            self.send(slot, &message, fds);
        }
    }

    fn tell_all(&mut self, fields: &[&[u8]]) {
        let message = wire::encode(0, fields);
        for slot in 0..self.connections.len() {
            self.send(slot, &message, &[]);
        }
    }

    /// A receiver that does not read is cut off; it asks for a list when it comes back.
    fn send(&mut self, slot: usize, message: &[u8], fds: &[RawFd]) {
        if let Some(connection) = &self.connections[slot]
            && sys::send_packet(connection.fd.as_raw_fd(), message, fds).is_err()
        {
            self.disconnect(slot);
        }
    }

    // Requests

    fn handle(&mut self, asker: Asker, fields: &[&[u8]], fds: Vec<OwnedFd>) -> Done<Option<Vec<Vec<u8>>>> {
        let ok = |more: Vec<Vec<u8>>| Ok(Some([vec![b"ok".to_vec()], more].concat()));
        let field = |n: usize| fields.get(n).copied().unwrap_or_default();
        match fields[0] {
            b"hello" => ok(vec![wire::VERSION.to_string().into(), std::process::id().to_string().into()]),
            b"start" => self.launch(asker, fields, fds, None).map(|()| None),
            b"exec" => {
                let container = self.find(wire::value(fields, "container").unwrap_or_default())?;
                let pid = self.running(container)?.pid;
                let pidfd = sys::pidfd_open(pid).tried(|| "open the container".into())?;
                self.launch(asker, fields, fds, Some(pidfd)).map(|()| None)
            }
            b"signal" => {
                let signal = wire::number(field(2)).ok_or("no signal")?;
                let index = self.find(field(1))?;
                sys::kill(self.running(index)?.pid, signal).tried(|| "kill".into())?;
                ok(vec![])
            }
            b"resize" => {
                let (Some(rows), Some(columns)) = (wire::number(field(2)), wire::number(field(3))) else {
                    return Err("no size".into());
                };
                let index = self.find(field(1))?;
                let child = self.running(index)?;
                let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let fd = child.outputs[0].fd.as_ref().filter(|_| child.terminal).ok_or("it has no terminal")?;
                sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) } as _)
                    .tried(|| "resize".into())?;
                ok(vec![])
            }
            b"attach" => self.attach(asker, fields, fds).map(|()| None),
            b"close-stdin" => {
                let index = self.find(field(1))?;
                if let Some(child) = &mut self.children[index] {
                    child.stdin = None;
                    child.attached.iter_mut().for_each(|a| a.stdin = false);
                }
                ok(vec![])
            }
            b"reopen-log" => {
                let index = self.find(field(1))?;
                if let Some(log) = self.children[index].as_mut().and_then(|c| c.log.as_mut()) {
                    log.reopen().tried(|| "reopen the log".into())?;
                }
                ok(vec![])
            }
            b"list" => {
                let line = |c: &Child| {
                    let state = match c.state {
                        State::Starting => "starting",
                        State::Running => "running",
                        State::Exited => "exited",
                    };
                    let (code, signal) = c.ending();
                    let id = String::from_utf8_lossy(&c.id);
                    format!("{id} {} {state} {} {} {code} {signal} {}", c.pid, c.started_ns, c.finished_ns, c.oom as u8)
                        .into_bytes()
                };
                ok(self.children.iter().flatten().filter(|c| !c.exec).map(line).collect())
            }
            b"forget" => {
                let index = self.find(field(1))?;
                match &self.children[index] {
                    Some(child) if child.state != State::Exited => return Err("it is running".into()),
                    _ => self.children[index] = None,
                }
                ok(vec![])
            }
            b"socket" => {
                let family = if field(1) == b"6" { libc::AF_INET6 } else { libc::AF_INET };
                let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let fd = sys::check(unsafe { libc::socket(family, flags, 0) } as _).tried(|| "make a socket".into())?;
                // SAFETY: just made.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
                self.reply(asker, &[b"ok"], &[fd.as_raw_fd()]);
                Ok(None)
            }
            b"quit" => {
                self.quit = Some(asker);
                for child in self.children.iter().flatten().filter(|c| c.state == State::Running) {
                    let _ = sys::kill(child.pid, libc::SIGKILL);
                }
                Ok(None)
            }
            other => Err(format!("unknown operation {}", String::from_utf8_lossy(other))),
        }
    }

    fn find(&self, id: &[u8]) -> Done<usize> {
        let is = |c: &Option<Child>| c.as_ref().is_some_and(|c| c.id == id);
        self.children.iter().position(is).ok_or_else(|| format!("no container {}", String::from_utf8_lossy(id)))
    }

    fn running(&self, index: usize) -> Done<&Child> {
        match &self.children[index] {
            Some(child) if child.state == State::Running && child.status.is_none() => Ok(child),
            _ => Err("it is not running".into()),
        }
    }

    /// Starts `keeper create` or, with the pidfd of a container, `keeper exec`.
    fn launch(&mut self, asker: Asker, fields: &[&[u8]], fds: Vec<OwnedFd>, container: Option<OwnedFd>) -> Done<()> {
        let exec = container.is_some();
        let id = fields.get(1).copied().filter(|id| !id.is_empty()).ok_or("no id")?.to_vec();
        let flag = |name: &str| wire::value(fields, name) == Some(b"1");
        let path = |name: &str| wire::value(fields, name).unwrap_or_default().to_vec();
        if self.find(&id).is_ok() {
            return Err("it exists".into());
        }
        if self.quit.is_some() {
            return Err("the pod is ending".into());
        }
        if self.options.pid && self.pause.is_none() {
            return Err("the pod's PID namespace has ended".into()); // never in the host's instead
        }
        let mut fds = fds.into_iter();
        let (Some(program), Some(spec)) = (fds.next(), fds.next()) else {
            return Err("program or spec is missing".into());
        };
        let terminal = flag("tty");
        let mut child = Child {
            id,
            exec,
            asker,
            terminal,
            state: State::Starting,
            result: None,
            failure: None,
            pid: 0,
            status: None,
            outputs: Default::default(),
            stdin: None,
            stdin_once: flag("stdin-once"),
            log: None,
            attached: Vec::new(),
            started_ns: 0,
            finished_ns: 0,
            oom: false,
            exit_path: path("exit"),
            oom_path: path("oom"),
            sweep_path: path("sweep"),
        };
        let mut stdio: [Option<OwnedFd>; 3] = [None, None, None];
        if exec {
            // The caller's own pipes, in order, as many as it has.
            for (n, name) in ["in", "out", "err"].iter().enumerate() {
                stdio[n] = if flag(name) { fds.next() } else { None };
            }
        } else {
            if let Some(log) = wire::value(fields, "log") {
                let max = |name| wire::value(fields, name).and_then(wire::number);
                let log = Log::open(log, max("log-max").unwrap_or(0), max("log-files").unwrap_or(5) as u32);
                child.log = Some(log.tried(|| "open the log".into())?);
            }
            if !terminal {
                for n in 0..2 {
                    let (read, write) = sys::pipe().tried(|| "make a pipe".into())?;
                    sys::set_nonblocking(read.as_raw_fd()).tried(|| "make a pipe".into())?;
                    child.outputs[n].fd = Some(read);
                    stdio[n + 1] = Some(write);
                }
                if flag("stdin") {
                    let (read, write) = sys::pipe().tried(|| "make a pipe".into())?;
                    sys::set_nonblocking(write.as_raw_fd()).tried(|| "make a pipe".into())?;
                    child.stdin = Some(write);
                    stdio[0] = Some(read);
                }
            }
        }
        // The PID namespace of the container that this one looks at.
        let target = if exec { None } else { fds.next() };
        let (result, theirs) = sys::packet_pair().tried(|| "make a socket pair".into())?;
        sys::set_nonblocking(result.as_raw_fd()).tried(|| "make a socket pair".into())?;
        let extra = container.as_ref().or(target.as_ref()).or(self.pause.as_ref().map(|(_, fd)| fd));
        let extra = extra.map(|fd| fd.as_raw_fd());
        let slot = self.children.iter().position(Option::is_none).unwrap_or(self.children.len());
        if slot >= MAX_CHILDREN {
            return Err("too many containers and execs".into());
        }
        let null = 0;
        let list = [0, 1, 2].map(|n| stdio[n].as_ref().map_or(null, |fd| fd.as_raw_fd()));
        let users = self.options.user_namespace.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let inherited = [list[0], list[1], list[2], spec.as_raw_fd(), theirs.as_raw_fd(), extra.unwrap_or(-1), users];
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()).tried(|| "fork".into()),
            0 => unsafe {
                libc::_exit(run_helper(program.as_raw_fd(), inherited, if exec { c"exec" } else { c"create" }))
            },
            _ => {}
        }
        if slot == self.children.len() {
            self.children.push(None);
        }
        self.watch(result.as_raw_fd(), kind::RESULT, slot, libc::EPOLLIN);
        for n in 0..2 {
            if let Some(fd) = &child.outputs[n].fd {
                self.watch(fd.as_raw_fd(), kind::OUTPUT, slot * 2 + n, libc::EPOLLIN);
            }
        }
        child.result = Some(result);
        self.children[slot] = Some(child);
        Ok(())
    }

    /// Reads what the creator and the container's init report until both have let go of the socket.
    fn read_result(&mut self, index: usize) {
        loop {
            let Some(child) = &mut self.children[index] else { return };
            let Some(result) = &child.result else { return };
            let mut buffer = [0u8; 4096];
            let mut fds = Vec::new();
            let n = match sys::receive_packet(result.as_raw_fd(), &mut buffer, &mut fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => 0,
                Ok(n) => n,
            };
            match (n, buffer[0]) {
                (0, _) => {
                    child.result = None;
                    return self.started(index);
                }
                (_, b'P') => {
                    child.pid = wire::number(&buffer[1..n]).unwrap_or(0);
                    if let Some(at) = self.strays.iter().position(|(pid, _)| *pid == child.pid) {
                        child.status = Some(self.strays.swap_remove(at).1);
                    }
                }
                (_, b'T') => {
                    child.outputs[0].fd = fds.pop();
                    if let (Some(fd), false) = (&child.outputs[0].fd, child.exec) {
                        let _ = sys::set_nonblocking(fd.as_raw_fd());
                        let fd = fd.as_raw_fd();
                        self.watch(fd, kind::OUTPUT, index * 2, libc::EPOLLIN);
                    }
                }
                _ => {
                    child.failure.get_or_insert_with(|| String::from_utf8_lossy(&buffer[1..n]).into_owned());
                }
            }
        }
    }

    /// The socket has closed: either the container's program runs (or ran), or it never will.
    fn started(&mut self, index: usize) {
        let Some(child) = &mut self.children[index] else { return };
        let asker = child.asker;
        if child.failure.is_none() && child.pid == 0 {
            child.failure = Some("the creator ended without a word".into());
        }
        // Killed before the exec: the cgroup's memory limit is too small even for that.
        if let (None, Some(status), false) = (&child.failure, child.status, child.exec)
            && libc::WIFSIGNALED(status)
            && libc::WTERMSIG(status) == libc::SIGKILL
            && ends::killed_by_oom(&child.oom_path)
        {
            child.failure = Some("container init was OOM-killed (memory limit too low?)".into());
        }
        if let Some(failure) = child.failure.take() {
            self.children[index] = None;
            return self.reply(asker, &[b"err", failure.as_bytes()], &[]);
        }
        child.state = State::Running;
        if self.quit.is_some() {
            let _ = sys::kill(child.pid, libc::SIGKILL); // the pod has ended meanwhile
        }
        child.started_ns = sys::now_ns();
        let (pid, at, exec) = (child.pid.to_string(), child.started_ns.to_string(), child.exec);
        let master = if exec { child.outputs[0].fd.take() } else { None };
        let fds: Vec<RawFd> = master.iter().map(|fd| fd.as_raw_fd()).collect();
        self.reply(asker, &[b"ok", pid.as_bytes(), at.as_bytes()], &fds);
        if self.children[index].as_ref().is_some_and(|c| c.status.is_some()) {
            self.ended(index);
        }
    }
}

impl Child {
    /// Exit code as a shell gives it, and the signal or 0.
    fn ending(&self) -> (i32, i32) {
        match self.status {
            None => (0, 0),
            Some(status) if libc::WIFSIGNALED(status) => (128 + libc::WTERMSIG(status), libc::WTERMSIG(status)),
            Some(status) => (libc::WEXITSTATUS(status), 0),
        }
    }
}

/// In the forked child: puts the descriptors where `create` and `exec` expect them and runs the program.
fn run_helper(program: RawFd, inherited: [RawFd; 7], operation: &std::ffi::CStr) -> i32 {
    unsafe {
        let lift = |fd: RawFd| if fd < 0 { fd } else { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 16) };
        let program = lift(program);
        let lifted = inherited.map(lift);
        for (n, fd) in lifted.into_iter().enumerate() {
            let n = n as RawFd;
            if fd < 0 {
                libc::close(n);
            } else if libc::dup2(fd, n) < 0 {
                return 1;
            }
        }
        let argv = [c"keeper".as_ptr(), operation.as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<libc::c_char>()];
        libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH);
        let error = format!("Erun the creator: {}", reason(&io::Error::last_os_error()));
        let _ = sys::send_packet(crate::init::RESULT_FD, error.as_bytes(), &[]);
    }
    1
}

fn listen(dir: &[u8]) -> io::Result<OwnedFd> {
    let make =
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    // SAFETY: just made.
    let socket = sys::check(make as _).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })?;
    let dir = sys::c(dir)?;
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    // By a relative name: an address has only 108 bytes.
    for (to, from) in address.sun_path.iter_mut().zip(housekeeping::SOCKET.bytes()) {
        *to = from as _;
    }
    unsafe {
        sys::check(libc::chdir(dir.as_ptr()) as _)?;
        libc::umask(0o177);
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), std::mem::size_of_val(&address) as _);
        libc::umask(0o022);
        sys::check(bound as _)?;
        sys::check(libc::listen(socket.as_raw_fd(), 16) as _)?;
        sys::check(libc::chdir(c"/".as_ptr()) as _)?;
    }
    Ok(socket)
}
