//! `keeper hold`: one pod's holder, an event loop of one thread that sleeps unless something happens.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::cri_log::Log;
use crate::housekeeping::{self, Options};
use crate::init::{Done, Tried, reason};
use crate::{sys, wire};

const MAX_CONNECTIONS: usize = 32;
const MAX_CHILDREN: usize = 1024;
/// One read of a container's output.
const CHUNK: usize = 8 * 1024;
/// What a writable pipe takes at once, for those who are attached.
const PIPE_CHUNK: usize = 4096;
const SWEEPS: usize = 16;

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
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("keeper: {e}");
            return 2;
        }
    };
    let made = housekeeping::detach(&options)
        .and_then(|()| housekeeping::make_namespaces(&options))
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
        let (result, theirs) = sys::packet_pair().tried(|| "make a socket pair".into())?;
        sys::set_nonblocking(result.as_raw_fd()).tried(|| "make a socket pair".into())?;
        let extra = container.as_ref().map(|fd| fd.as_raw_fd()).or(self.pause.as_ref().map(|(_, fd)| fd.as_raw_fd()));
        let slot = self.children.iter().position(Option::is_none).unwrap_or(self.children.len());
        if slot >= MAX_CHILDREN {
            return Err("too many containers and execs".into());
        }
        let null = 0;
        let list = [0, 1, 2].map(|n| stdio[n].as_ref().map_or(null, |fd| fd.as_raw_fd()));
        let inherited = [list[0], list[1], list[2], spec.as_raw_fd(), theirs.as_raw_fd(), extra.unwrap_or(-1)];
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
            && killed_by_oom(&child.oom_path)
        {
            child.failure = Some("container init was OOM-killed (memory limit too low?)".into());
        }
        if let Some(failure) = child.failure.take() {
            self.children[index] = None;
            return self.reply(asker, &[b"err", failure.as_bytes()], &[]);
        }
        child.state = State::Running;
        child.started_ns = sys::now_ns();
        let (pid, at, exec) = (child.pid.to_string(), child.started_ns.to_string(), child.exec);
        let master = if exec { child.outputs[0].fd.take() } else { None };
        let fds: Vec<RawFd> = master.iter().map(|fd| fd.as_raw_fd()).collect();
        self.reply(asker, &[b"ok", pid.as_bytes(), at.as_bytes()], &fds);
        if self.children[index].as_ref().is_some_and(|c| c.status.is_some()) {
            self.ended(index);
        }
    }

    // Output

    fn read_output(&mut self, index: usize, n: usize) {
        while self.pump(index, n) {}
    }

    /// Moves one chunk of output; false if there is no more for now.
    fn pump(&mut self, index: usize, n: usize) -> bool {
        let Some(child) = &mut self.children[index] else { return false };
        let Some(fd) = child.outputs[n].fd.as_ref().map(|fd| fd.as_raw_fd()) else { return false };
        let mut limit = CHUNK;
        for attached in &child.attached {
            let Some(out) = &attached.outputs[n] else { continue };
            limit = PIPE_CHUNK;
            if !writable(out.as_raw_fd()) && child.status.is_none() {
                // Its reader is behind: so is the container, until the pipe is drained.
                let out = out.as_raw_fd();
                self.unwatch(fd);
                self.watch(out, kind::DRAINED, index * 2 + n, libc::EPOLLOUT | libc::EPOLLONESHOT);
                return false;
            }
        }
        let mut buffer = [0u8; CHUNK];
        let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), limit) };
        if read <= 0 {
            let again = read < 0
                && matches!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            if !again {
                self.close_output(index, n);
            }
            return false;
        }
        let data = &buffer[..read as usize];
        let now = sys::now_ns();
        if let Some(log) = &mut child.log {
            log.put(STREAMS[n], &mut child.outputs[n].part, data, now);
        }
        for attached in &mut child.attached {
            if let Some(out) = &attached.outputs[n]
                && sys::write_all(out.as_raw_fd(), data).is_err()
            {
                attached.outputs[n] = None;
            }
        }
        true
    }

    fn resume(&mut self, index: usize, n: usize) {
        if let Some(fd) = self.children.get(index).and_then(|c| c.as_ref()).and_then(|c| c.outputs[n].fd.as_ref()) {
            self.watch(fd.as_raw_fd(), kind::OUTPUT, index * 2 + n, libc::EPOLLIN);
        }
    }

    fn close_output(&mut self, index: usize, n: usize) {
        let Some(child) = &mut self.children[index] else { return };
        let output = &mut child.outputs[n];
        if let Some(log) = &mut child.log {
            log.finish(STREAMS[n], &mut output.part, sys::now_ns());
        }
        // A terminal stays open for those who only write or resize until its container has ended.
        let fd = output.fd.take();
        child.attached.iter_mut().for_each(|a| a.outputs[n] = None);
        if let Some(fd) = fd {
            self.unwatch(fd.as_raw_fd());
        }
    }

    fn attach(&mut self, asker: Asker, fields: &[&[u8]], fds: Vec<OwnedFd>) -> Done<()> {
        let index = self.find(fields.get(1).copied().unwrap_or_default())?;
        self.running(index)?;
        let flag = |name: &str| wire::value(fields, name) == Some(b"1");
        let Some(child) = &mut self.children[index] else { return Ok(()) };
        let mut fds = fds.into_iter();
        let mut attached = Attached { serial: asker.serial, outputs: [None, None], stdin: flag("in") };
        for (n, name) in ["out", "err"].iter().enumerate() {
            let fd = if flag(name) { fds.next() } else { None };
            if let (Some(fd), true) = (fd, child.outputs[n].fd.is_some()) {
                sys::set_nonblocking(fd.as_raw_fd()).tried(|| "attach".into())?;
                attached.outputs[n] = Some(fd);
            }
        }
        let stdin = if child.terminal { &child.outputs[0].fd } else { &child.stdin };
        let stdin = stdin.as_ref().filter(|_| flag("in")).map(|fd| fd.as_raw_fd());
        child.attached.push(attached);
        self.reply(asker, &[b"ok"], stdin.as_slice());
        Ok(())
    }

    // Ends

    fn reap(&mut self) {
        let mut info = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
        while unsafe { libc::read(self.signals.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) } > 0 {}
        for index in 0..self.children.len() {
            self.read_result(index);
        }
        loop {
            let mut status = 0;
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if self.pause.as_ref().is_some_and(|(pause, _)| *pause == pid) {
                self.pause = None; // and with it every container of the pod
            }
            match self.children.iter().position(|c| c.as_ref().is_some_and(|c| c.pid == pid)) {
                Some(index) => {
                    if let Some(child) = &mut self.children[index] {
                        child.status = Some(status);
                        if child.state == State::Running {
                            self.ended(index);
                        }
                    }
                }
                None => self.strays.push((pid, status)),
            }
        }
        if !self.children.iter().flatten().any(|c| c.state == State::Starting) {
            self.strays = Vec::new();
        }
    }

    fn ended(&mut self, index: usize) {
        let Some(child) = &mut self.children[index] else { return };
        child.finished_ns = sys::now_ns();
        let own_namespace = child.sweep_path.is_empty();
        if !own_namespace {
            sweep(&child.sweep_path);
        }
        child.oom = killed_by_oom(&child.oom_path);
        for n in 0..2 {
            self.read_output(index, n);
            self.close_output(index, n);
        }
        let Some(child) = &mut self.children[index] else { return };
        child.state = State::Exited;
        child.stdin = None;
        child.attached = Vec::new();
        child.log = None;
        let (code, signal) = child.ending();
        let numbers =
            [code.to_string(), signal.to_string(), (child.oom as u8).to_string(), child.finished_ns.to_string()];
        let (id, exit_path, started) = (child.id.clone(), child.exit_path.clone(), child.started_ns);
        let [code, signal, oom, at] = numbers.each_ref().map(|n| n.as_bytes());
        let record = if exit_path.is_empty() {
            None
        } else {
            record_exit(&exit_path, format!("{} {started}", numbers.join(" ")).as_bytes()).ok()
        };
        if child.exec {
            self.children[index] = None;
        }
        self.tell_all(&[b"exit", &id, code, signal, oom, at]);
        if let Some(file) = record {
            unsafe { libc::fdatasync(file.as_raw_fd()) };
        }
    }
}

const STREAMS: [&str; 2] = ["stdout", "stderr"];

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
fn run_helper(program: RawFd, inherited: [RawFd; 6], operation: &std::ffi::CStr) -> i32 {
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

fn writable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// Whether the kernel has killed for memory in this cgroup: `memory.oom_control` of v1 and `memory.events` of v2 agree.
fn killed_by_oom(path: &[u8]) -> bool {
    let Ok(file) = sys::open(path, libc::O_RDONLY, 0) else { return false };
    let content = sys::read_to_end(file.as_raw_fd(), 4096).unwrap_or_default();
    let count = content.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    count.and_then(wire::number::<u64>).unwrap_or(0) > 0
}

/// Kills what a container without a PID namespace of its own has left behind.
fn sweep(procs: &[u8]) {
    for _ in 0..SWEEPS {
        let Ok(file) = sys::open(procs, libc::O_RDONLY, 0) else { return };
        let list = sys::read_to_end(file.as_raw_fd(), 1 << 20).unwrap_or_default();
        let pids: Vec<libc::pid_t> =
            list.split(|b| *b == b'\n').filter_map(wire::number).filter(|pid| *pid > 0).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
}

/// Writes `code signal oom finished started` where a later Sampan finds it; whole or not at all.
fn record_exit(path: &[u8], record: &[u8]) -> io::Result<OwnedFd> {
    let part = [path, b".part"].concat();
    let file = sys::open(&part, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o600)?;
    sys::write_all(file.as_raw_fd(), &[record, b"\n"].concat())?;
    let (from, to) = (sys::c(&part)?, sys::c(path)?);
    sys::check(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) } as _)?;
    Ok(file)
}
