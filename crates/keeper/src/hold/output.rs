//! A container's output: to its log, and to whoever is attached. Nothing is lost, so a slow reader slows the container.

use super::*;

const STREAMS: [&str; 2] = ["stdout", "stderr"];
/// One read of a container's output.
const CHUNK: usize = 8 * 1024;
/// What a writable pipe takes at once, for those who are attached.
const PIPE_CHUNK: usize = 4096;

impl Keeper {
    pub(super) fn read_output(&mut self, index: usize, n: usize) {
        while self.pump(index, n) {}
    }

    /// Moves one chunk of output; false if there is no more for now.
    pub(super) fn pump(&mut self, index: usize, n: usize) -> bool {
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

    pub(super) fn resume(&mut self, index: usize, n: usize) {
        if let Some(fd) = self.children.get(index).and_then(|c| c.as_ref()).and_then(|c| c.outputs[n].fd.as_ref()) {
            self.watch(fd.as_raw_fd(), kind::OUTPUT, index * 2 + n, libc::EPOLLIN);
        }
    }

    pub(super) fn close_output(&mut self, index: usize, n: usize) {
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

    pub(super) fn attach(&mut self, asker: Asker, fields: &[&[u8]], fds: Vec<OwnedFd>) -> Done<()> {
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
}

fn writable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}
