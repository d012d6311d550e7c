//! How containers end: reaped, swept, recorded, told.

use super::*;

const SWEEPS: usize = 16;

impl Keeper {
    pub(super) fn reap(&mut self) {
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

    pub(super) fn ended(&mut self, index: usize) {
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

/// Whether the kernel has killed for memory in this cgroup: `memory.oom_control` of v1 and `memory.events` of v2 agree.
pub(super) fn killed_by_oom(path: &[u8]) -> bool {
    let Ok(file) = sys::open(path, libc::O_RDONLY, 0) else { return false };
    let content = sys::read_to_end(file.as_raw_fd(), 4096).unwrap_or_default();
    let count = content.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    count.and_then(wire::number::<u64>).unwrap_or(0) > 0
}

/// Kills what a container without a PID namespace of its own has left behind.
fn sweep(procs: &[u8]) {
    // v2 kills a whole tree in one step.
    let kill_file = [procs.strip_suffix(b"procs").unwrap_or(procs), b"kill"].concat();
    if sys::write_file(kill_file, "1").is_ok() {
        return;
    }
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
