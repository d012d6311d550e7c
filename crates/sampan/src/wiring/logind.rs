//! The machine's shutdown, as systemd-logind announces it on the system bus: it waits for whom it has given a lock.
//!
//! The bus' plain protocol (D-Bus 1.0) as far as it takes: one call, one signal, one descriptor.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node::ports::Shutdowns;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::sync::watch;

const BUS: [&str; 3] = ["/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"];
const LOGIND: [&str; 3] = ["/org/freedesktop/login1", "org.freedesktop.login1", "org.freedesktop.login1.Manager"];
const STACK_BYTES: usize = 128 << 10;
/// No message of this conversation is longer.
const MAX_BYTES: usize = 1 << 20;
const RETRY: Duration = Duration::from_secs(30);

/// What logind waits for, while it is held.
type Lock = Arc<Mutex<Option<OwnedFd>>>;

/// Where a machine's administrator may say otherwise; upstream's file.
const DROP_IN: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";

/// Follows the bus at this socket for as long as somebody listens, and has logind wait at least as long as `time`.
pub fn follow(socket: &Path, time: Duration) -> io::Result<Shutdowns> {
    let (tell, down) = watch::channel(false);
    let held = Lock::default();
    let (socket, lock) = (socket.to_owned(), held.clone());
    let run = move || {
        while !tell.is_closed() {
            if let Err(error) = talk(&socket, time, &tell, &lock) {
                tracing::debug!(%error, "logind is not followed: pods are not waited for when the machine shuts down");
            }
            std::thread::sleep(RETRY);
        }
    };
    std::thread::Builder::new().name("logind".into()).stack_size(STACK_BYTES).spawn(run)?;
    Ok((down, Box::new(move || set(&held, None))))
}

fn set(lock: &Lock, to: Option<OwnedFd>) {
    *lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = to;
}

fn talk(socket: &Path, time: Duration, tell: &watch::Sender<bool>, lock: &Lock) -> io::Result<()> {
    let mut bus = Bus { stream: UnixStream::connect(socket)?, read: Vec::new(), descriptors: Vec::new(), serial: 0 };
    bus.authenticate()?;
    bus.call(BUS, "Hello", &[])?;
    let rule = format!("type='signal',interface='{}',member='PrepareForShutdown'", LOGIND[2]);
    bus.call(BUS, "AddMatch", &[&rule])?;
    let why = "Kubelet needs time to handle node shutdown";
    let mut asked = bus.call(LOGIND, "Inhibit", &["shutdown", "kubelet", why, "delay"])?;
    // It waits five seconds, unless it is told to.
    let properties = [LOGIND[0], LOGIND[1], "org.freedesktop.DBus.Properties"];
    let delay = bus.call(properties, "Get", &[LOGIND[2], "InhibitDelayMaxUSec"])?;
    let mut process = None;
    loop {
        let message = bus.next()?;
        match (message.kind, &*message.member) {
            (2, _) if message.answers == delay => {
                // A variant: its type, then eight bytes in their place.
                let microseconds = message.body.get(8..16).and_then(|raw| raw.try_into().ok()).map(u64::from_le_bytes);
                if microseconds.is_some_and(|most| Duration::from_micros(most) < time) {
                    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", time.as_secs());
                    let path = Path::new(DROP_IN);
                    crate::files::make_dir(path.parent().unwrap_or(path), 0o755).map_err(io::Error::other)?;
                    crate::files::write(path, text.as_bytes(), 0o644).map_err(io::Error::other)?;
                    process = Some(bus.call(BUS, "GetConnectionUnixProcessID", &[LOGIND[1]])?);
                }
            }
            (2, _) if process == Some(message.answers) => {
                let pid = message.body.get(..4).and_then(|raw| raw.try_into().ok()).map(i32::from_le_bytes);
                if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
                }
            }
            (3, _) if message.answers == asked => return Err(io::Error::other("logind gives no lock")),
            (2, _) if message.answers == asked => set(lock, bus.descriptors.pop()),
            (4, "PrepareForShutdown") => {
                let down = message.body.first() == Some(&1);
                tell.send_replace(down);
                if !down {
                    asked = bus.call(LOGIND, "Inhibit", &["shutdown", "kubelet", why, "delay"])?;
                }
            }
            _ => {}
        }
    }
}

struct Bus {
    stream: UnixStream,
    read: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    serial: u32,
}

/// 1 a call, 2 an answer, 3 an error, 4 a signal.
struct Message {
    kind: u8,
    member: String,
    answers: u32,
    body: Vec<u8>,
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bus sends what is no message")
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn string(out: &mut Vec<u8>, text: &str) {
    align(out, 4);
    out.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

impl Bus {
    fn authenticate(&mut self) -> io::Result<()> {
        let uid: String = rustix::process::geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        self.line("OK ")?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        self.line("AGREE_UNIX_FD")?;
        self.stream.write_all(b"BEGIN\r\n")
    }

    fn line(&mut self, start: &str) -> io::Result<()> {
        let end = loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            self.more()?;
        };
        let line: Vec<u8> = self.read.drain(..end + 2).collect();
        if line.starts_with(start.as_bytes()) { Ok(()) } else { Err(garbled()) }
    }

    /// Reads some bytes, and the descriptors that come with them.
    fn more(&mut self) -> io::Result<()> {
        if self.read.len() > MAX_BYTES {
            return Err(garbled());
        }
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.descriptors.extend(fds);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read.extend_from_slice(&bytes[..got.bytes]);
        Ok(())
    }

    /// A call with strings; its serial number.
    fn call(&mut self, [path, to, interface]: [&str; 3], member: &str, strings: &[&str]) -> io::Result<u32> {
        self.serial += 1;
        let mut body = Vec::new();
        strings.iter().for_each(|text| string(&mut body, text));
        let mut fields = Vec::new();
        for (code, kind, text) in [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", to)] {
            align(&mut fields, 8);
            fields.extend([code, 1, kind.as_bytes()[0], 0]);
            string(&mut fields, text);
        }
        if !strings.is_empty() {
            align(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, u8::try_from(strings.len()).unwrap_or(0)]);
            fields.extend(std::iter::repeat_n(b's', strings.len()));
            fields.push(0);
        }
        let mut out = vec![b'l', 1, 0, 1];
        for number in [body.len(), self.serial as usize, fields.len()] {
            out.extend(u32::try_from(number).unwrap_or(0).to_le_bytes());
        }
        out.extend(fields);
        align(&mut out, 8);
        out.extend(body);
        self.stream.write_all(&out)?;
        Ok(self.serial)
    }

    fn next(&mut self) -> io::Result<Message> {
        while self.read.len() < 16 {
            self.more()?;
        }
        let number = |at: usize, from: &[u8]| -> Option<usize> {
            let raw = from.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(raw)).ok()
        };
        let (Some(body), Some(fields)) = (number(4, &self.read), number(12, &self.read)) else { return Err(garbled()) };
        let start = (16 + fields.min(MAX_BYTES)).next_multiple_of(8);
        if self.read[0] != b'l' || body > MAX_BYTES || fields > MAX_BYTES {
            return Err(garbled());
        }
        while self.read.len() < start + body {
            self.more()?;
        }
        let raw: Vec<u8> = self.read.drain(..start + body).collect();
        let mut message = Message { kind: raw[1], member: String::new(), answers: 0, body: raw[start..].to_vec() };
        let mut at = 16;
        while at < 16 + fields {
            at = at.next_multiple_of(8);
            let (Some(code), Some(kind)) = (raw.get(at), raw.get(at + 2)) else { return Err(garbled()) };
            let value = at + 4;
            at = match kind {
                b'g' => value + 2 + usize::from(*raw.get(value).ok_or_else(garbled)?),
                b'u' => {
                    if *code == 5 {
                        message.answers = u32::try_from(number(value, &raw).ok_or_else(garbled)?).unwrap_or(0);
                    }
                    value + 4
                }
                b's' | b'o' => {
                    let length = number(value, &raw).ok_or_else(garbled)?;
                    let text = raw.get(value + 4..value + 4 + length).ok_or_else(garbled)?;
                    if *code == 3 {
                        message.member = String::from_utf8_lossy(text).into_owned();
                    }
                    value + 5 + length
                }
                _ => return Err(garbled()),
            };
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
